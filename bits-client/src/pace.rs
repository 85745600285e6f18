//! How many bytes the next fragment carries.

use std::time::Duration;

use crate::FragmentSize;

/// The least that the client falls back to when the server finds fragments too large.
pub(crate) const LEAST: u64 = 5 * 1024;
/// The most that the client sends when it picks the size itself.
const MOST: u64 = 13 * 1024 * 1024;
const FIRST: u64 = 256 * 1024;
/// How long a fragment should take.
const AIM: Duration = Duration::from_secs(4);

/// Picks fragment sizes by the rate that it sees, within what the server takes.
#[derive(Debug)]
pub(crate) struct Pace {
    /// The size asked for; none to follow the line.
    fixed: Option<u64>,
    size: u64,
    limit: Option<u64>,
    /// Fragments without an answer since the last one that went through.
    failures: u32,
}

impl Pace {
    /// Starts under the limit that is known from earlier.
    pub(crate) fn new(wanted: FragmentSize, limit: Option<u64>) -> Self {
        let fixed = match wanted {
            FragmentSize::Adaptive => None,
            FragmentSize::Fixed(size) => Some(size.max(1)),
        };
        Self { fixed, size: fixed.unwrap_or(FIRST), limit, failures: 0 }
    }

    /// How many of the `remaining` bytes to send.
    pub(crate) fn next(&self, remaining: u64) -> u64 {
        self.size.min(self.limit.unwrap_or(u64::MAX)).min(remaining)
    }

    /// The largest fragment that the server is believed to take.
    pub(crate) fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// A fragment went through.
    pub(crate) fn sent(&mut self, length: u64, took: Duration) {
        self.failures = 0;
        if let Some(fixed) = self.fixed {
            self.size = self.size.saturating_mul(2).min(fixed);
            return;
        }
        if length < self.next(u64::MAX) {
            return;
        }
        let millis = took.as_millis().max(1);
        let aimed = u128::from(length) * AIM.as_millis() / millis;
        let aimed = u64::try_from(aimed).unwrap_or(u64::MAX);
        self.size = aimed.clamp(self.size / 2, self.size * 2).clamp(LEAST, MOST);
    }

    /// A fragment got no answer: on a bad line shorter ones have better chances, and a server that
    /// closes the connection on a long one may never be heard saying why. A fixed size is left
    /// only when the second one fails in a row, and taken up again after.
    pub(crate) fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
        if self.fixed.is_none() || self.failures > 1 {
            self.size = (self.size / 2).max(LEAST.min(self.size));
        }
    }

    /// The server refused a fragment as too large; false when it was as small as can be.
    pub(crate) fn refused(&mut self, length: u64) -> bool {
        if length <= LEAST {
            return false;
        }
        self.limit = Some((length / 2).max(LEAST));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_most_on_a_fast_line_and_shrinks_on_a_slow_one() {
        let mut pace = Pace::new(FragmentSize::Adaptive, None);
        for _ in 0..10 {
            pace.sent(pace.next(u64::MAX), Duration::from_millis(1));
        }
        assert_eq!(pace.next(u64::MAX), MOST);
        for _ in 0..20 {
            let length = pace.next(u64::MAX);
            pace.sent(length, Duration::from_secs(length / 1000));
        }
        assert_eq!(pace.next(u64::MAX), LEAST);
        assert_eq!(pace.next(7), 7);
    }

    #[test]
    fn settles_where_a_fragment_takes_the_aimed_time() {
        let mut pace = Pace::new(FragmentSize::Adaptive, None);
        for _ in 0..20 {
            let length = pace.next(u64::MAX);
            pace.sent(length, Duration::from_millis(length * 1000 / 500_000));
        }
        assert!(pace.next(u64::MAX).abs_diff(2_000_000) < 20_000, "{}", pace.next(u64::MAX));
    }

    #[test]
    fn a_short_last_fragment_says_nothing_about_the_line() {
        let mut pace = Pace::new(FragmentSize::Adaptive, None);
        pace.sent(10, Duration::from_secs(60));
        assert_eq!(pace.next(u64::MAX), FIRST);
    }

    #[test]
    fn halves_down_to_the_least_and_no_further_when_refused() {
        for wanted in [FragmentSize::Adaptive, FragmentSize::Fixed(1 << 20)] {
            let mut pace = Pace::new(wanted, None);
            let mut lengths = Vec::new();
            loop {
                let length = pace.next(u64::MAX);
                lengths.push(length);
                if !pace.refused(length) {
                    break;
                }
            }
            assert_eq!(*lengths.last().unwrap(), LEAST);
            assert!(lengths.windows(2).all(|pair| pair[1] == (pair[0] / 2).max(LEAST)), "{lengths:?}");
        }
    }

    #[test]
    fn the_limit_holds_while_the_line_is_fast() {
        let mut pace = Pace::new(FragmentSize::Adaptive, Some(10_000));
        for _ in 0..10 {
            pace.sent(pace.next(u64::MAX), Duration::from_millis(1));
        }
        assert_eq!(pace.next(u64::MAX), 10_000);
    }

    #[test]
    fn a_fixed_size_stays_unless_nothing_of_it_goes_through() {
        let mut pace = Pace::new(FragmentSize::Fixed(40_000), None);
        pace.sent(40_000, Duration::from_millis(1));
        pace.failed();
        assert_eq!(pace.next(u64::MAX), 40_000);
        pace.failed();
        assert_eq!(pace.next(u64::MAX), 20_000);
        for _ in 0..9 {
            pace.failed();
        }
        assert_eq!(pace.next(u64::MAX), LEAST);
        for size in [10_240, 20_480, 40_000, 40_000] {
            pace.sent(1, Duration::from_secs(100));
            assert_eq!(pace.next(u64::MAX), size);
        }
        let mut tiny = Pace::new(FragmentSize::Fixed(10), None);
        for _ in 0..3 {
            tiny.failed();
        }
        assert_eq!(tiny.next(u64::MAX), 10);
    }
}
