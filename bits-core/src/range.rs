//! `Content-Range` of a Fragment (sections 2.2.6.1 and 3.2.5.2.6).

use std::{fmt, str::FromStr};

/// Which bytes of the upload a Fragment carries, and how many the upload has.
///
/// Either `bytes first-last/total`, or `bytes */0` for an upload without a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRange {
    start: u64,
    end: u64,
    total: u64,
}

impl ContentRange {
    /// The most bytes an upload can have: what a signed 64-bit column holds.
    pub const MAXIMUM_TOTAL: u64 = i64::MAX as u64;

    /// The range of an empty upload, `bytes */0`.
    pub const EMPTY: Self = Self { start: 0, end: 0, total: 0 };

    /// Bytes `start..end` of an upload of `total` bytes; at least one byte.
    pub fn new(start: u64, end: u64, total: u64) -> Result<Self, InvalidContentRange> {
        if start < end && end <= total && total <= Self::MAXIMUM_TOTAL {
            Ok(Self { start, end, total })
        } else {
            Err(InvalidContentRange)
        }
    }

    /// Offset of the first byte.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// Offset after the last byte.
    pub const fn end(self) -> u64 {
        self.end
    }

    /// Size of the whole upload in bytes.
    pub const fn total(self) -> u64 {
        self.total
    }

    /// Bytes in this range.
    pub const fn length(self) -> u64 {
        self.end - self.start
    }
}

impl fmt::Display for ContentRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.total == 0 {
            return f.write_str("bytes */0");
        }
        write!(f, "bytes {}-{}/{}", self.start, self.end - 1, self.total)
    }
}

impl FromStr for ContentRange {
    type Err = InvalidContentRange;

    fn from_str(text: &str) -> Result<Self, InvalidContentRange> {
        let (unit, rest) = text.trim().split_once(' ').ok_or(InvalidContentRange)?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return Err(InvalidContentRange);
        }
        let (range, total) = rest.trim_start_matches(' ').split_once('/').ok_or(InvalidContentRange)?;
        let total = number(total)?;
        if range == "*" {
            return if total == 0 { Ok(Self::EMPTY) } else { Err(InvalidContentRange) };
        }
        let (first, last) = range.split_once('-').ok_or(InvalidContentRange)?;
        let end = number(last)?.checked_add(1).ok_or(InvalidContentRange)?;
        Self::new(number(first)?, end, total)
    }
}

/// The text is neither `bytes first-last/total` nor `bytes */0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Content-Range must be `bytes first-last/total` with first <= last < total, or `bytes */0`")]
pub struct InvalidContentRange;

/// Digits only: `parse` alone would take a sign.
fn number(text: &str) -> Result<u64, InvalidContentRange> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(InvalidContentRange);
    }
    text.parse().map_err(|_| InvalidContentRange)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(u64, u64, u64)>) {
        let range: Option<ContentRange> = text.parse().ok();
        let found = range.map(|range| (range.start(), range.end(), range.total()));
        assert_eq!(found, expected, "{text:?}");
        if let Some(range) = range {
            assert_eq!(range.length(), range.end() - range.start());
        }
    }

    #[test]
    fn ranges() {
        const MAX: u64 = i64::MAX as u64;
        for (text, expected) in [
            ("bytes 0-0/1", Some((0, 1, 1))),
            ("bytes 128-212/300", Some((128, 213, 300))),
            ("Bytes 0-4/10", Some((0, 5, 10))),
            ("BYTES 5-9/10", Some((5, 10, 10))),
            ("  bytes   0-4/10 ", Some((0, 5, 10))),
            ("bytes 007-0009/010", Some((7, 10, 10))),
            ("bytes */0", Some((0, 0, 0))),
            ("bytes 0-9223372036854775806/9223372036854775807", Some((0, MAX, MAX))),
            ("bytes 0-9223372036854775807/9223372036854775808", None),
            ("bytes 0-18446744073709551615/18446744073709551615", None),
            ("bytes 0-99999999999999999999/5", None),
            ("bytes 5-4/10", None),
            ("bytes 0-10/10", None),
            ("bytes 10-10/10", None),
            ("bytes 0-0/0", None),
            ("bytes */10", None),
            ("bytes 0-4/*", None),
            ("bytes */*", None),
            ("bytes -5/10", None),
            ("bytes 5-/10", None),
            ("bytes +0-4/10", None),
            ("bytes 0-+4/10", None),
            ("bytes 0--4/10", None),
            ("bytes 0-4/-10", None),
            ("bytes 0 - 4/10", None),
            ("bytes 0-4 /10", None),
            ("bytes 0-4/ 10", None),
            ("bytes 0-4/10 x", None),
            ("bytes 0-4,6-8/10", None),
            ("bytes 0-4", None),
            ("bytes 0x0-0x4/0x10", None),
            ("bytes=0-4/10", None),
            ("bytes0-4/10", None),
            ("bytes", None),
            ("bits 0-4/10", None),
            ("0-4/10", None),
            ("bytes ٣-٤/٩", None),
            ("", None),
        ] {
            check(text, expected);
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read(start in 0..u64::MAX, len in 0..u64::MAX, more in 0..u64::MAX) {
            let end = start.saturating_add(len);
            match ContentRange::new(start, end, end.saturating_add(more)) {
                Ok(range) => prop_assert_eq!(range.to_string().parse(), Ok(range)),
                Err(_) => prop_assert!(len == 0 || end.saturating_add(more) > ContentRange::MAXIMUM_TOTAL),
            }
        }

        #[test]
        fn what_is_read_makes_sense(text in "bytes [0-9]{1,3}-[0-9]{1,3}/[0-9]{1,3}") {
            if let Ok(range) = text.parse::<ContentRange>() {
                prop_assert!(range.start() < range.end() && range.end() <= range.total());
                prop_assert_eq!(range.to_string().parse(), Ok(range));
            }
        }

        #[test]
        fn nothing_panics(text in ".*") {
            let _ = text.parse::<ContentRange>();
        }
    }
}
