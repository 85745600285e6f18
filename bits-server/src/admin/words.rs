//! Sizes, times and names as people read them.

use std::time::Duration;

use bits_core::Timestamp;

/// A text that somebody sent, with what cannot be seen or turns the text around made visible.
pub(super) fn visible(text: &str) -> String {
    let one = |letter: char| match letter {
        '"' | '\'' | '\\' => letter.to_string(),
        _ => letter.escape_debug().to_string(),
    };
    text.chars().map(one).collect()
}

/// The last name of a path, and what stands before it.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rfind('/').map_or(("", path), |at| path.split_at(at + 1))
}

/// Bytes with at most three digits that count.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return if count == 1 { "1 byte".to_owned() } else { format!("{count} bytes") };
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(value < 9.95);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A span of time in its largest unit, or its two largest ones.
pub(super) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 if seconds % 3600 < 60 => format!("{} h", seconds / 3600),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ if seconds % 86400 < 3600 => format!("{} d", seconds / 86400),
        _ => format!("{} d {} h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// How long ago something was.
pub(super) fn ago(at: Timestamp, now: Timestamp) -> String {
    match now.since(at) {
        time if time < Duration::from_secs(5) => "just now".to_owned(),
        time => format!("{} ago", span(time)),
    }
}

/// A whole share in percent: 100 only where nothing is missing.
pub(super) fn percent(part: u64, whole: u64) -> u64 {
    if whole == 0 { 100 } else { (u128::from(part) * 100 / u128::from(whole)) as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (count, text) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            (10_188, "9.9 KiB"),
            (10_189, "10 KiB"),
            (1_023_000, "999 KiB"),
            (1_023_999, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn spans_have_two_units_at_most() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3599, "59 min"),
            (3600, "1 h"),
            (3660, "1 h 1 min"),
            (86_400, "1 d"),
            (90_000, "1 d 1 h"),
            (90_000_000, "1041 d 16 h"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn names_hide_nothing() {
        assert_eq!(visible("it's \"a\\b\" größe.txt"), "it's \"a\\b\" größe.txt");
        assert_eq!(visible("a\u{202e}txt.exe\n\u{0}\u{200b}"), "a\\u{202e}txt.exe\\n\\0\\u{200b}");
        assert_eq!((split("/upload/a/b"), split("b")), (("/upload/a/", "b"), ("", "b")));
    }

    #[test]
    fn a_share_is_whole_only_where_nothing_is_missing() {
        assert_eq!([percent(0, 10), percent(999, 1000), percent(10, 10), percent(0, 0)], [0, 99, 100, 100]);
        assert_eq!(percent(u64::MAX - 1, u64::MAX), 99);
    }
}
