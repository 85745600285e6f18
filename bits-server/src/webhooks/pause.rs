//! Pauses between tries: they grow, and no two are the same.

use std::time::Duration;

/// After the first failure.
const SHORTEST: Duration = Duration::from_secs(1);
/// Between two tries of one event.
const LONGEST: Duration = Duration::from_secs(60 * 60);
/// Between two tries of a webhook that takes nothing at all.
const LONGEST_HOLD: Duration = Duration::from_secs(5 * 60);

/// Before an event is tried again that has failed so many times: 1 s, 2 s, 4 s and so on to an
/// hour, less up to half of it.
pub(super) fn before_retry(failures: u32) -> Duration {
    jittered(doubled(failures.saturating_sub(1), LONGEST))
}

/// Before anything is sent to a webhook at which so many tries in a row failed. One failure may be
/// the event's, and holds nothing up.
pub(super) fn before_any(failures: u32) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        _ => jittered(doubled(failures - 2, LONGEST_HOLD)),
    }
}

/// What a receiver asks for, within reason.
pub(super) fn asked_for(retry_after: Duration) -> Duration {
    retry_after.min(LONGEST)
}

fn doubled(times: u32, longest: Duration) -> Duration {
    SHORTEST.saturating_mul(2_u32.saturating_pow(times)).min(longest)
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(1.0 - fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_between(pause: Duration, longest_seconds: u64) {
        let longest = Duration::from_secs(longest_seconds);
        assert!(pause <= longest && pause >= longest / 2, "{pause:?} of {longest:?}");
    }

    #[test]
    fn pauses_grow_to_an_hour() {
        for (failures, seconds) in [(1, 1), (2, 2), (3, 4), (12, 2048), (13, 3600), (40, 3600), (u32::MAX, 3600)] {
            for _ in 0..100 {
                assert_between(before_retry(failures), seconds);
            }
        }
    }

    #[test]
    fn a_webhook_is_held_after_the_second_failure() {
        assert_eq!((before_any(0), before_any(1)), (Duration::ZERO, Duration::ZERO));
        for (failures, seconds) in [(2, 1), (3, 2), (10, 256), (11, 300), (u32::MAX, 300)] {
            for _ in 0..100 {
                assert_between(before_any(failures), seconds);
            }
        }
    }

    #[test]
    fn pauses_differ() {
        let pauses: std::collections::BTreeSet<_> = (0..100).map(|_| before_retry(12)).collect();
        assert!(pauses.len() > 50, "{pauses:?}");
    }
}
