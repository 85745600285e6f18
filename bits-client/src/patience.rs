//! How long to wait before the next try, and when to give up.

use std::time::Duration;

use crate::RetryPolicy;

/// How often a server may take bytes back, or lose the session, without getting further than before.
const SETBACKS: u32 = 50;

/// Counts failures since the last progress. Time comes in as the time since the run began.
#[derive(Debug)]
pub(crate) struct Patience {
    policy: RetryPolicy,
    failures: u32,
    setbacks: u32,
    furthest: u64,
    progressed: Duration,
}

impl Patience {
    pub(crate) fn new(policy: RetryPolicy) -> Self {
        Self { policy, failures: 0, setbacks: 0, furthest: 0, progressed: Duration::ZERO }
    }

    /// The server wants a later byte than before. Only going further than ever makes up for setbacks.
    pub(crate) fn progress(&mut self, offset: u64, now: Duration) {
        self.failures = 0;
        self.progressed = now;
        if offset > self.furthest {
            self.furthest = offset;
            self.setbacks = 0;
        }
    }

    /// Something failed that may pass: the pause before the next try, none to give up. At least
    /// `asked`, what the server asked for, but never past the time to give up.
    pub(crate) fn failure(&mut self, asked: Option<Duration>, now: Duration) -> Option<Duration> {
        let left = self.policy.give_up.saturating_sub(self.without_progress(now));
        if left.is_zero() {
            return None;
        }
        let pause = self.pause().max(asked.unwrap_or_default().min(RetryPolicy::LONGEST_ASKED));
        self.failures = self.failures.saturating_add(1);
        Some(pause.min(left))
    }

    /// The server went back, or lost the session: no pause the first time, else as for a failure.
    pub(crate) fn setback(&mut self, now: Duration) -> Option<Duration> {
        self.setbacks += 1;
        match self.setbacks {
            1 => Some(Duration::ZERO),
            2..=SETBACKS => self.failure(None, now),
            _ => None,
        }
    }

    /// The time since the last progress.
    pub(crate) fn without_progress(&self, now: Duration) -> Duration {
        now.saturating_sub(self.progressed)
    }

    /// Doubles with every failure; half of it is chance, so that many clients do not come at once.
    fn pause(&self) -> Duration {
        let doublings = self.failures.max(self.setbacks.saturating_sub(2)).min(31);
        let full = self.policy.first_pause.saturating_mul(1 << doublings).min(self.policy.longest_pause);
        full.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn patience(give_up: Duration) -> Patience {
        Patience::new(RetryPolicy { first_pause: secs(1), longest_pause: secs(60), give_up })
    }

    #[test]
    fn pauses_double_up_to_the_longest_with_at_most_half_taken_off() {
        let mut patience = patience(secs(100_000));
        for full in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            let pause = patience.failure(None, secs(0)).unwrap();
            assert!(pause <= secs(full) && pause >= secs(full) / 2, "{pause:?} for {full} s");
        }
    }

    #[test]
    fn progress_starts_anew() {
        let mut patience = patience(secs(100));
        for _ in 0..5 {
            patience.failure(None, secs(50)).unwrap();
        }
        patience.progress(1, secs(90));
        assert!(patience.failure(None, secs(91)).unwrap() <= secs(1));
        assert!(patience.failure(None, secs(189)).unwrap() <= secs(1), "the pause ends in time for a last try");
        assert_eq!(patience.failure(None, secs(190)), None);
    }

    #[test]
    fn what_the_server_asks_for_is_honoured_within_bounds() {
        assert_eq!(patience(secs(100_000)).failure(Some(secs(300)), secs(0)), Some(secs(300)));
        assert_eq!(patience(secs(100_000)).failure(Some(secs(90_000)), secs(0)), Some(RetryPolicy::LONGEST_ASKED));
        assert_eq!(patience(secs(10)).failure(Some(secs(300)), secs(0)), Some(secs(10)));
    }

    #[test]
    fn no_time_to_give_means_one_try() {
        assert_eq!(patience(secs(0)).failure(None, secs(0)), None);
    }

    #[test]
    fn setbacks_are_counted_until_the_upload_gets_further_than_ever() {
        let mut patience = patience(secs(1_000_000));
        assert_eq!(patience.setback(secs(0)), Some(secs(0)));
        patience.progress(10, secs(0));
        for _ in 0..SETBACKS {
            assert!(patience.setback(secs(0)).is_some());
            patience.progress(10, secs(0));
        }
        assert_eq!(patience.setback(secs(0)), None, "to and fro for ever is no progress");
        patience.progress(11, secs(0));
        assert_eq!(patience.setback(secs(0)), Some(secs(0)));
    }
}
