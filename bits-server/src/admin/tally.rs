//! What this process did in the last hour, minute by minute, and what it refused.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use bits_core::{SessionEvent, SessionEventKind, Timestamp};

/// Minutes that are kept.
pub(super) const MINUTES: usize = 60;
/// The longest path of a refused packet that is kept, in bytes.
const LONGEST_PATH: usize = 300;

/// What happened in one minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Minute {
    /// Bytes that were stored.
    pub(super) bytes: u64,
    /// Uploads that were completed.
    pub(super) completed: u64,
    /// Packets that were refused.
    pub(super) refused: u64,
}

/// One kind of refusal.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    /// What it is, for people.
    pub(super) reason: String,
    /// How often it happened since the process began.
    pub(super) count: u64,
    /// The last time.
    pub(super) at: Timestamp,
    /// The path of the last one.
    pub(super) path: String,
    /// Where the last one came from.
    pub(super) address: String,
}

/// Counts of the last hour. There are as many kinds of refusals as the program has words for them.
#[derive(Debug)]
pub(super) struct LastHour {
    start: Instant,
    newest: u64,
    ring: [Minute; MINUTES],
    refused: BTreeMap<&'static str, Refused>,
}

impl LastHour {
    pub(super) fn new(start: Instant) -> Self {
        Self { start, newest: 0, ring: [Minute::default(); MINUTES], refused: BTreeMap::new() }
    }

    pub(super) fn saw(&mut self, event: &SessionEvent, now: Instant) {
        let minute = self.minute(now);
        match &event.kind {
            SessionEventKind::Advanced { from } => minute.bytes += event.session.received.saturating_sub(*from),
            SessionEventKind::Published => minute.completed += 1,
            SessionEventKind::Delivered if !event.session.copy => minute.completed += 1,
            _ => {}
        }
    }

    pub(super) fn refused(&mut self, label: &'static str, reason: String, path: &str, address: String, now: Instant) {
        self.minute(now).refused += 1;
        let count = self.refused.get(label).map_or(0, |known| known.count) + 1;
        let path = path.get(..path.floor_char_boundary(LONGEST_PATH)).unwrap_or_default().to_owned();
        self.refused.insert(label, Refused { reason, count, at: clock(), path, address });
    }

    /// Minute by minute, oldest first; the last one is under way.
    pub(super) fn minutes(&mut self, now: Instant) -> Vec<Minute> {
        self.minute(now);
        let oldest = self.newest as usize + 1;
        (0..MINUTES).map(|at| self.ring[(oldest + at) % MINUTES]).collect()
    }

    /// How long the minute under way has gone on.
    pub(super) fn under_way(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.start + Duration::from_secs(60 * self.newest))
    }

    /// Refusals, the latest first.
    pub(super) fn refusals(&self) -> Vec<Refused> {
        let mut refusals: Vec<_> = self.refused.values().cloned().collect();
        refusals.sort_by_key(|refused| std::cmp::Reverse(refused.at));
        refusals
    }

    fn minute(&mut self, now: Instant) -> &mut Minute {
        let minute = now.saturating_duration_since(self.start).as_secs() / 60;
        if minute >= self.newest + MINUTES as u64 {
            self.ring = [Minute::default(); MINUTES];
            self.newest = minute;
        }
        while self.newest < minute {
            self.newest += 1;
            self.ring[self.newest as usize % MINUTES] = Minute::default();
        }
        &mut self.ring[self.newest as usize % MINUTES]
    }
}

/// This machine's clock: refusals are in no database.
fn clock() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_kept_minute_by_minute() {
        let start = Instant::now();
        let at = |minutes: u64| start + Duration::from_secs(60 * minutes);
        let mut hour = LastHour::new(start);
        for minute in [0, 1, 1, 59, 61, 61, 61] {
            hour.refused("gap", "a gap".to_owned(), "/x", String::new(), at(minute));
        }
        let counts =
            |hour: &mut LastHour, now| hour.minutes(now).iter().map(|minute| minute.refused).collect::<Vec<_>>();
        let seen = counts(&mut hour, at(61));
        assert_eq!((seen.len(), seen[57], seen[59], seen.iter().sum::<u64>()), (60, 1, 3, 4));
        assert_eq!(counts(&mut hour, at(62))[58], 3);
        assert_eq!(counts(&mut hour, at(1000)), [0; 60]);
        assert_eq!(hour.under_way(at(1000) + Duration::from_secs(7)), Duration::from_secs(7));
        assert_eq!(hour.refusals()[0].count, 7);
    }

    #[test]
    fn long_paths_are_cut() {
        let mut hour = LastHour::new(Instant::now());
        hour.refused("gap", String::new(), &"ü".repeat(1000), String::new(), Instant::now());
        assert_eq!(hour.refusals()[0].path, "ü".repeat(150));
    }
}
