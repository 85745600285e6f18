//! How much of an upload is written and durable, and what is in doubt. Pure: no I/O, no clock.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use bits_core::SessionId;

/// Progress after which a checkpoint is due.
const CHECKPOINT_BYTES: u64 = 64 << 20;
/// Age of the oldest unsynced byte at which a checkpoint is due.
const CHECKPOINT_AGE: Duration = Duration::from_secs(5);
/// The least age at which a checkpoint is welcome; each upload has its own, up to the other.
const WELCOME_AGE: Duration = Duration::from_secs(3);
/// Bytes after which the disk is asked to start writing.
const WINDOW: u64 = 8 << 20;
/// The least age of the oldest of them at which it is asked for fewer; at the most twice as much.
const WINDOW_AGE: Duration = Duration::from_millis(500);
/// So many are worth it.
const LEAST_WINDOW: u64 = 256 << 10;

/// Whether to make a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checkpoint {
    /// Not yet.
    Early,
    /// If no other upload makes one, so that those that began together are not all due together.
    Welcome,
    /// Before anything else.
    Due,
}

/// Where in a span of time an upload has its turn, so that those that began together do not all have
/// it together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share(u8);

impl Share {
    /// The session's, always the same.
    pub(crate) fn of_session(id: SessionId) -> Self {
        // Random, as ids are.
        Self(id.uuid().as_bytes()[0])
    }

    fn of(self, span: Duration) -> Duration {
        span * u32::from(self.0) / 256
    }
}

/// What this process knows of an upload's bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Everything before it survives a power loss.
    synced: u64,
    /// Everything before it is written.
    written: u64,
    /// When the oldest unsynced byte was written.
    unsynced_since: Option<Instant>,
    /// From here on the disk has not been asked to start writing.
    window: Option<u64>,
    /// When the first byte from there on was written.
    window_since: Option<Instant>,
    /// Set by a failed sync: bytes from here on may be lost, though the system says no more so.
    doubt: Option<u64>,
}

impl Progress {
    /// Goes on at `received` of which `synced` bytes are durable. Writing from a doubtful byte or
    /// before it lifts the doubt, since all that follow come again; the answer is whether it did.
    /// `Err` is where the caller must go back to.
    pub(crate) fn start(&mut self, received: u64, synced: u64) -> Result<bool, u64> {
        self.check(received)?;
        let lifted = self.doubt.take().is_some();
        self.resume(received, synced);
        Ok(lifted)
    }

    /// Takes over what the session's row knows.
    pub(crate) fn resume(&mut self, received: u64, synced: u64) {
        self.synced = self.synced.max(synced).min(received);
        self.written = received;
        self.window = Some(self.window.map_or(received, |from| from.min(received)));
    }

    /// `Err` is the first doubtful byte, if `received` goes beyond it.
    pub(crate) fn check(&self, received: u64) -> Result<(), u64> {
        match self.doubt {
            Some(good) if received > good => Err(good),
            _ => Ok(()),
        }
    }

    /// Everything before `to` is written. The answer is what the disk should start writing.
    pub(crate) fn wrote(&mut self, to: u64, now: Instant, share: Share) -> Option<Range<u64>> {
        if to == self.written {
            return None;
        }
        let from = self.window.unwrap_or(self.written);
        self.written = to;
        self.unsynced_since.get_or_insert(now);
        let since = *self.window_since.get_or_insert(now);
        let is_old = now.saturating_duration_since(since) >= WINDOW_AGE + share.of(WINDOW_AGE);
        (to - from >= if is_old { LEAST_WINDOW } else { WINDOW }).then(|| {
            self.window = Some(to);
            self.window_since = None;
            from..to
        })
    }

    /// Whether a checkpoint is to be made.
    pub(crate) fn checkpoint(&self, now: Instant, share: Share) -> Checkpoint {
        let age = self.unsynced_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if self.written - self.synced >= CHECKPOINT_BYTES || age >= CHECKPOINT_AGE {
            Checkpoint::Due
        } else if age >= WELCOME_AGE + share.of(CHECKPOINT_AGE - WELCOME_AGE) {
            Checkpoint::Welcome
        } else {
            Checkpoint::Early
        }
    }

    /// Whether this process has written bytes that are not durable yet.
    pub(crate) fn is_unsynced(&self) -> bool {
        self.unsynced_since.is_some()
    }

    /// Everything that was written is durable.
    pub(crate) fn sync_succeeded(&mut self) {
        self.synced = self.written;
        self.window = Some(self.written);
        self.window_since = None;
        self.unsynced_since = None;
    }

    /// A sync failed: only what was durable before is certain. Says how much that is.
    pub(crate) fn sync_failed(&mut self) -> u64 {
        let good = self.doubt.unwrap_or(u64::MAX).min(self.synced);
        self.doubt = Some(good);
        self.unsynced_since = None;
        good
    }

    /// Everything before it survives a power loss.
    pub(crate) fn synced(&self) -> u64 {
        self.synced
    }

    /// Everything before it is written.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// The first doubtful byte.
    pub(crate) fn doubt(&self) -> Option<u64> {
        self.doubt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn started(received: u64, synced: u64) -> Progress {
        let mut progress = Progress::default();
        progress.start(received, synced).unwrap();
        progress
    }

    const FIRST: Share = Share(0);
    const LAST: Share = Share(u8::MAX);

    #[test]
    fn a_checkpoint_is_due_after_64_mib_or_5_seconds() {
        let now = Instant::now();
        let mut progress = started(10, 10);
        let is_due = |progress: &Progress, after: Duration| progress.checkpoint(now + after, LAST) == Checkpoint::Due;
        assert!(!is_due(&progress, CHECKPOINT_AGE), "nothing was written");
        progress.wrote(11, now, LAST);
        assert!(!is_due(&progress, CHECKPOINT_AGE - Duration::from_millis(1)));
        assert!(is_due(&progress, CHECKPOINT_AGE));
        progress.sync_succeeded();
        assert_eq!(progress.synced(), 11);
        assert!(!is_due(&progress, CHECKPOINT_AGE));
        progress.wrote(10 + CHECKPOINT_BYTES, now, LAST);
        assert!(!is_due(&progress, Duration::ZERO));
        progress.wrote(11 + CHECKPOINT_BYTES, now, LAST);
        assert!(is_due(&progress, Duration::ZERO));
    }

    #[test]
    fn uploads_that_begin_together_welcome_checkpoints_one_after_the_other() {
        let now = Instant::now();
        let mut progress = started(0, 0);
        progress.wrote(1, now, FIRST);
        assert_eq!(progress.checkpoint(now + WELCOME_AGE - Duration::from_millis(1), FIRST), Checkpoint::Early);
        assert_eq!(progress.checkpoint(now + WELCOME_AGE, FIRST), Checkpoint::Welcome);
        assert_eq!(progress.checkpoint(now + WELCOME_AGE, LAST), Checkpoint::Early);
        let almost_due = now + CHECKPOINT_AGE - Duration::from_millis(1);
        assert_eq!(progress.checkpoint(almost_due, LAST), Checkpoint::Welcome);
    }

    #[test]
    fn the_age_counts_from_the_oldest_unsynced_byte_across_fragments() {
        let now = Instant::now();
        let mut progress = started(0, 0);
        progress.wrote(1, now, LAST);
        progress.start(1, 0).unwrap();
        progress.wrote(2, now + CHECKPOINT_AGE / 2, LAST);
        assert_eq!(progress.checkpoint(now + CHECKPOINT_AGE, LAST), Checkpoint::Due);
    }

    #[test]
    fn writeback_starts_once_for_each_finished_window_across_fragments() {
        let now = Instant::now();
        let mut progress = started(MIB, 0);
        assert_eq!(progress.wrote(8 * MIB, now, LAST), None);
        progress.start(8 * MIB, 0).unwrap();
        assert_eq!(progress.wrote(9 * MIB, now, LAST), Some(MIB..9 * MIB));
        assert_eq!(progress.wrote(9 * MIB, now, LAST), None);
        assert_eq!(progress.wrote(17 * MIB, now, LAST), Some(9 * MIB..17 * MIB));
        progress.wrote(18 * MIB, now, LAST);
        progress.sync_succeeded();
        assert_eq!(progress.wrote(26 * MIB - 1, now, LAST), None, "synced bytes need no writeback");
    }

    #[test]
    fn writeback_of_less_than_a_window_starts_when_it_is_old() {
        let now = Instant::now();
        let mut progress = started(0, 0);
        assert_eq!(progress.wrote(LEAST_WINDOW, now, FIRST), None);
        assert_eq!(progress.wrote(MIB, now + WINDOW_AGE, LAST), None, "each upload has its own age");
        assert_eq!(progress.wrote(2 * MIB, now + WINDOW_AGE, FIRST), Some(0..2 * MIB));
        assert_eq!(progress.wrote(3 * MIB, now + WINDOW_AGE, FIRST), None, "these bytes are new");
        let later = now + WINDOW_AGE * 3;
        assert_eq!(progress.wrote(4 * MIB, later, LAST), Some(2 * MIB..4 * MIB));
        assert_eq!(progress.wrote(4 * MIB + 1, later, LAST), None);
        assert_eq!(progress.wrote(4 * MIB + 2, later + WINDOW_AGE * 2, LAST), None, "so few are not worth it");
    }

    #[test]
    fn after_a_failed_sync_nothing_beyond_the_last_good_one_is_believed() {
        let now = Instant::now();
        let mut progress = started(100, 100);
        progress.wrote(200, now, LAST);
        assert_eq!(progress.sync_failed(), 100);
        assert_eq!(progress.check(200), Err(100));
        assert_eq!(progress.start(200, 100), Err(100));
        assert_eq!(progress.start(101, 100), Err(100));
        assert_eq!(progress.doubt(), Some(100), "asking does not lift the doubt");
        assert_eq!(progress.start(100, 100), Ok(true));
        assert_eq!(progress.check(200), Ok(()));
        assert_eq!(progress.start(100, 100), Ok(false));
    }

    #[test]
    fn a_second_failure_does_not_move_the_doubt_forward() {
        let mut progress = started(100, 50);
        progress.wrote(200, Instant::now(), LAST);
        assert_eq!(progress.sync_failed(), 50);
        progress.resume(150, 150);
        assert_eq!(progress.sync_failed(), 50);
    }

    #[test]
    fn going_back_takes_the_synced_offset_along() {
        let mut progress = started(100, 0);
        progress.sync_succeeded();
        progress.start(40, 40).unwrap();
        assert_eq!((progress.synced(), progress.written()), (40, 40));
        progress.wrote(60, Instant::now(), LAST);
        assert_eq!(progress.synced(), 40);
    }
}
