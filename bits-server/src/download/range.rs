//! The header `Range` (RFC 9110, section 14.2): which bytes of a file are asked for, in which order.

use std::ops::Range;

/// Most ranges in one request: as many as Windows allows a job by default for one file.
const MAXIMUM_RANGES: usize = 500;
/// Ranges that overlap may make an answer longer than the file, but not by more than this factor.
const MAXIMUM_FACTOR: u64 = 2;

/// What of a file is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Selection {
    /// All of it: no ranges were asked for, or such that the header is ignored.
    Whole,
    /// These bytes, none of them empty, in this order; at least one.
    Ranges(Vec<Range<u64>>),
    /// Ranges of which none has a byte in the file.
    Unsatisfiable,
}

impl Selection {
    /// What the value of a header asks for of a file of `size` bytes.
    ///
    /// Ignored are: other units, broken syntax, more than 500 ranges, and ranges that together
    /// are more than twice the file. So no request makes an answer much larger than the file.
    pub(super) fn parse(header: &str, size: u64) -> Self {
        let Some(specs) = specs(header) else { return Self::Whole };
        let ranges: Vec<_> = specs.iter().filter_map(|spec| spec.within(size)).collect();
        let total = ranges.iter().fold(0_u64, |sum, range| sum.saturating_add(range.end - range.start));
        if ranges.is_empty() {
            Self::Unsatisfiable
        } else if total > size.saturating_mul(MAXIMUM_FACTOR) {
            Self::Whole
        } else {
            Self::Ranges(ranges)
        }
    }
}

/// One range as it was asked for.
#[derive(Clone, Copy, Debug)]
enum Spec {
    /// `first-last`, or `first-`.
    From { first: u64, last: u64 },
    /// `-length`: the last bytes.
    Last { length: u64 },
}

impl Spec {
    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-')?;
        match (first.is_empty(), last.is_empty()) {
            (true, true) => None,
            (true, false) => Some(Self::Last { length: number(last)? }),
            (false, true) => Some(Self::From { first: number(first)?, last: u64::MAX }),
            (false, false) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From { first, last })
            }
        }
    }

    /// The bytes of it that a file of `size` bytes has.
    fn within(self, size: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::From { first, last } => first..last.saturating_add(1).min(size),
            Self::Last { length } => size.saturating_sub(length)..size,
        };
        (range.start < range.end).then_some(range)
    }
}

fn specs(header: &str) -> Option<Vec<Spec>> {
    let (unit, set) = header.split_once('=')?;
    if !unit.trim_ascii().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut specs = Vec::new();
    // Empty elements of a list are allowed, and mean nothing.
    for text in set.split(',').map(|text| text.trim_matches([' ', '\t'])).filter(|text| !text.is_empty()) {
        if specs.len() == MAXIMUM_RANGES {
            return None;
        }
        specs.push(Spec::parse(text)?);
    }
    (!specs.is_empty()).then_some(specs)
}

/// Digits; a number too large for any file is the largest.
fn number(digits: &str) -> Option<u64> {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(header: &str, size: u64, expected: Selection) {
        assert_eq!(Selection::parse(header, size), expected, "{header:?} of {size}");
    }

    #[test]
    fn ranges_that_are_served_in_the_order_asked_for() {
        for (header, ranges) in [
            ("bytes=0-0", &[(0, 1)][..]),
            ("bytes=0-99", &[(0, 100)]),
            ("bytes=0-", &[(0, 100)]),
            ("bytes=99-", &[(99, 100)]),
            ("bytes=10-19", &[(10, 20)]),
            ("bytes=10-1000", &[(10, 100)]),
            ("bytes=10-99999999999999999999999999", &[(10, 100)]),
            ("bytes=10-18446744073709551615", &[(10, 100)]),
            ("bytes=-1", &[(99, 100)]),
            ("bytes=-100", &[(0, 100)]),
            ("bytes=-101", &[(0, 100)]),
            ("bytes=-99999999999999999999999999", &[(0, 100)]),
            ("Bytes=00-007", &[(0, 8)]),
            ("bytes= 0-1", &[(0, 2)]),
            ("bytes =0-1", &[(0, 2)]),
            ("bytes=0-1,5-6", &[(0, 2), (5, 7)]),
            ("bytes=5-6,0-1", &[(5, 7), (0, 2)]),
            ("bytes=0-1, 2-3 ,\t4-5", &[(0, 2), (2, 4), (4, 6)]),
            ("bytes=,0-1,,5-6,", &[(0, 2), (5, 7)]),
            ("bytes=0-49,25-74", &[(0, 50), (25, 75)]),
            ("bytes=0-,-100", &[(0, 100), (0, 100)]),
            ("bytes=100-200,5-6", &[(5, 7)]),
            ("bytes=5-6,-0", &[(5, 7)]),
        ] {
            check(header, 100, Selection::Ranges(ranges.iter().map(|(start, end)| *start..*end).collect()));
        }
    }

    #[test]
    fn ranges_that_the_file_does_not_have() {
        for header in ["bytes=100-", "bytes=100-100", "bytes=100-200,300-", "bytes=-0", "bytes=99999999999999999999-"] {
            check(header, 100, Selection::Unsatisfiable);
        }
        for header in ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=-0"] {
            check(header, 0, Selection::Unsatisfiable);
        }
    }

    #[test]
    fn headers_that_are_ignored() {
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=--1",
            "bytes=1",
            "bytes=a-b",
            "bytes=0-x",
            "bytes=2-1",
            "bytes=0-1,2-1",
            "bytes=0-1;2-3",
            "bytes=+0-1",
            "bytes=0 -1",
            "bytes=0- 1",
            "bytes=0-1 2-3",
            "bytes=0x0-0x1",
            "bytes:0-1",
            "items=0-1",
            "bytes bytes=0-1",
        ] {
            check(header, 100, Selection::Whole);
        }
    }

    #[test]
    fn no_request_multiplies_the_answer() {
        check("bytes=0-,0-,0-0", 100, Selection::Whole);
        let many = |count: usize| format!("bytes={}", vec!["0-0"; count].join(","));
        check(&many(MAXIMUM_RANGES), 1000, Selection::Ranges(vec![0..1; MAXIMUM_RANGES]));
        check(&many(MAXIMUM_RANGES + 1), 1000, Selection::Whole);
        check(&many(21), 10, Selection::Whole);
        check("bytes=0-,0-", u64::MAX, Selection::Ranges(vec![0..u64::MAX, 0..u64::MAX]));
    }
}
