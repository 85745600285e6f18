//! Sizes, times and permissions as people write them.

use std::fmt::Write;
use std::time::Duration;

/// Number and name, largest first.
const SIZES: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
const TIMES: [(&str, u64); 4] = [("d", 24 * 60 * 60), ("h", 60 * 60), ("m", 60), ("s", 1)];
/// The largest size: what TOML, SQLite and file systems count to.
const LARGEST_SIZE: u64 = i64::MAX as u64;
/// The longest time, a hundred years, so that adding one to a date cannot overflow.
const LONGEST_TIME: u64 = 100 * 365 * 24 * 60 * 60;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(
    /// The bytes.
    pub u64,
);

/// Permissions of a file or folder, as `chmod` takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(
    /// The permission bits.
    pub u32,
);

/// Reads a size: bytes, or a number with a unit.
pub(super) fn parse_size(text: &str) -> Result<Size, String> {
    let (number, unit) = split_number(text);
    let scale = match unit {
        "" => Some(1),
        _ => SIZES.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale),
    };
    let bad = || format!("{text:?} is no size; write bytes, or a number with KiB, MiB, GiB or TiB, such as \"64MiB\"");
    let scale = scale.filter(|_| !number.is_empty()).ok_or_else(bad)?;
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
    check_size(bytes, text)
}

/// Checks that a number of bytes is positive and can be counted everywhere.
pub(super) fn check_size(bytes: Option<u64>, text: &str) -> Result<Size, String> {
    match bytes {
        Some(0) => Err("must be more than 0 bytes".to_owned()),
        Some(bytes) if bytes <= LARGEST_SIZE => Ok(Size(bytes)),
        _ => Err(format!("{text} is too large; write at most {LARGEST_SIZE} bytes")),
    }
}

/// Writes a size with the largest unit that needs no fraction.
pub(super) fn show_size(size: Size) -> String {
    match SIZES.iter().find(|(_, scale)| size.0.is_multiple_of(*scale)) {
        Some((unit, scale)) => format!("{}{unit}", size.0 / scale),
        None => size.0.to_string(),
    }
}

/// Reads a time: numbers with units, the larger unit first.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    match seconds(text)? {
        0 => Err("must be longer than 0s".to_owned()),
        seconds if seconds <= LONGEST_TIME => Ok(Duration::from_secs(seconds)),
        _ => Err(too_long(text)),
    }
}

/// Writes a time with as few units as it needs. Fractions of a second cannot be configured.
pub(super) fn show_time(time: Duration) -> String {
    let mut rest = time.as_secs();
    let mut text = String::new();
    for (unit, scale) in TIMES {
        // Days only where they come out even: "36h" and "1d12h" are the same, the first reads better.
        if rest >= scale && (unit != "d" || rest.is_multiple_of(scale)) {
            let _ = write!(text, "{}{unit}", rest / scale);
            rest %= scale;
        }
    }
    text
}

/// Reads permissions: octal digits.
pub(super) fn parse_mode(text: &str) -> Result<Mode, String> {
    let digits = !text.is_empty() && text.len() <= 5 && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o7777);
    mode.map(Mode).ok_or_else(|| format!("{text:?} is no mode; write octal digits, such as \"0640\""))
}

/// Writes permissions with four octal digits.
pub(super) fn show_mode(mode: Mode) -> String {
    format!("{:04o}", mode.0)
}

fn seconds(text: &str) -> Result<u64, String> {
    let bad =
        || format!("{text:?} is no time; write numbers with d, h, m or s, the larger unit first, such as \"4m30s\"");
    let mut units = TIMES.iter();
    let mut rest = text;
    let mut total = 0_u64;
    while !rest.is_empty() {
        let (number, tail) = split_number(rest);
        let (unit, scale) = units.find(|(unit, _)| tail.starts_with(unit)).ok_or_else(bad)?;
        if number.is_empty() {
            return Err(bad());
        }
        let part = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*scale));
        total = part.and_then(|part| total.checked_add(part)).ok_or_else(|| too_long(text))?;
        rest = &tail[unit.len()..];
    }
    if text.is_empty() { Err(bad()) } else { Ok(total) }
}

fn too_long(text: &str) -> String {
    format!("{text:?} is too long; write at most \"{}\"", show_time(Duration::from_secs(LONGEST_TIME)))
}

fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}
