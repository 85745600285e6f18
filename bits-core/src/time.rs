//! A point in time as sessions keep it. Nothing here reads a clock.

use std::time::Duration;

/// Milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The time `millis` milliseconds after the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// The time between `earlier` and this one; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_add_and_differ_without_overflow() {
        let at = Timestamp::from_millis;
        assert_eq!(at(5) + Duration::from_millis(7), at(12));
        assert_eq!(at(12).since(at(5)), Duration::from_millis(7));
        assert_eq!(at(5).since(at(12)), Duration::ZERO);
        assert_eq!(at(5) + Duration::MAX, at(i64::MAX));
        assert_eq!(at(i64::MAX).since(at(i64::MIN)), Duration::from_millis(i64::MAX as u64));
        assert_eq!(at(-3).as_millis(), -3);
    }
}
