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
