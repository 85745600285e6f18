//! What is seen of sessions as it happens: for the page, its plots and whoever listens to events.
//!
//! Only what happens in this process is seen here; everything else is asked of the session store.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bits_core::{Refusal, Session, SessionEvent, SessionEventKind, SessionId, Timestamp};
use bytes::Bytes;
use tokio::sync::broadcast;

use super::{
    describe,
    tally::{LastHour, Minute, Refused},
};
use crate::metrics;

/// Events that a listener may be behind before it is dropped.
const BEHIND: usize = 256;
/// Progress of one session is told no more often.
const PROGRESS_APART: Duration = Duration::from_millis(500);
/// Progress that makes a session's rate.
const WINDOW: Duration = Duration::from_secs(30);
/// Sessions whose rate is kept.
const MOST_PACES: usize = 4096;
/// Uploads that could not be published and are told of.
const MOST_FAILED: usize = 10;

/// Sees every event of an engine, after its commit. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Watch {
    inner: Arc<Inner>,
}

struct Inner {
    listeners: broadcast::Sender<Bytes>,
    paces: Mutex<HashMap<SessionId, Pace>>,
    hour: Mutex<LastHour>,
    failed: Mutex<VecDeque<FailedPublishing>>,
}

/// An upload that could not be put at its destination.
#[derive(Clone, Debug)]
pub(super) struct FailedPublishing {
    pub(super) session: SessionId,
    pub(super) destination: String,
    pub(super) reason: String,
    pub(super) at: Timestamp,
}

/// How fast a session comes.
#[derive(Debug, Default)]
struct Pace {
    /// When how many bytes were there, oldest first.
    seen: VecDeque<(Instant, u64)>,
    told: Option<Instant>,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            inner: Arc::new(Inner {
                listeners: broadcast::Sender::new(BEHIND),
                paces: Mutex::default(),
                hour: Mutex::new(LastHour::new(Instant::now())),
                failed: Mutex::default(),
            }),
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Watch {
    /// Looks at an event of the engine.
    pub fn on_event(&self, event: &SessionEvent) {
        let now = Instant::now();
        lock(&self.inner.hour).saw(event, now);
        if let SessionEventKind::PublishFailed { reason } = &event.kind {
            self.note_failed(event, reason);
        }
        let worth_telling = match event.kind {
            SessionEventKind::Ended(_) => {
                self.paces().remove(&event.id());
                true
            }
            SessionEventKind::Advanced { from } => {
                self.see(&event.session, now);
                self.paces().get_mut(&event.id()).is_none_or(|pace| from == 0 || pace.is_due(now))
            }
            SessionEventKind::Regressed { .. } => {
                self.paces().remove(&event.id());
                true
            }
            _ => true,
        };
        if worth_telling && self.inner.listeners.receiver_count() > 0 {
            // It fails only where nobody listens any more.
            let _ = self.inner.listeners.send(message(event));
        }
    }

    /// Looks at a packet that was refused.
    pub(crate) fn refused(&self, refusal: &Refusal, path: &str, address: IpAddr) {
        let (label, reason) = (metrics::refusal_label(refusal), refusal.to_string());
        lock(&self.inner.hour).refused(label, reason, path, address.to_string(), Instant::now());
    }

    /// What this process did in the last hour, by minutes, and how long the last one has gone on.
    pub(super) fn last_hour(&self) -> (Vec<Minute>, Duration) {
        let (now, mut hour) = (Instant::now(), lock(&self.inner.hour));
        (hour.minutes(now), hour.under_way(now))
    }

    /// What this process refused, the latest first.
    pub(super) fn refusals(&self) -> Vec<Refused> {
        lock(&self.inner.hour).refusals()
    }

    /// Uploads that could not be put at their destination, the latest first.
    pub(super) fn failed_publishing(&self) -> Vec<FailedPublishing> {
        lock(&self.inner.failed).iter().rev().cloned().collect()
    }

    /// Looks at a session that may have come further, be it on another server.
    pub(super) fn look(&self, session: &Session) {
        self.see(session, Instant::now());
    }

    /// Bytes per second of the last half minute; none where that cannot be said.
    pub(super) fn rate(&self, id: SessionId) -> Option<u64> {
        self.paces().get(&id)?.rate(Instant::now())
    }

    /// Everything that happens from now on, as server-sent events.
    pub(super) fn listen(&self) -> broadcast::Receiver<Bytes> {
        self.inner.listeners.subscribe()
    }

    /// One for each session: a job is tried again and again.
    fn note_failed(&self, event: &SessionEvent, reason: &str) {
        let mut failed = lock(&self.inner.failed);
        failed.retain(|known| known.session != event.id());
        if failed.len() >= MOST_FAILED {
            failed.pop_front();
        }
        failed.push_back(FailedPublishing {
            session: event.id(),
            destination: event.session.destination.as_str().to_owned(),
            reason: reason.to_owned(),
            at: event.at,
        });
    }

    fn see(&self, session: &Session, now: Instant) {
        let mut paces = self.paces();
        if paces.len() >= MOST_PACES && !paces.contains_key(&session.id) {
            paces.retain(|_, pace| pace.is_fresh(now));
            if paces.len() >= MOST_PACES {
                return;
            }
        }
        paces.entry(session.id).or_default().see(now, session.received);
    }

    fn paces(&self) -> MutexGuard<'_, HashMap<SessionId, Pace>> {
        lock(&self.inner.paces)
    }
}

/// No change is left half made by a panic.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pace {
    fn see(&mut self, now: Instant, received: u64) {
        if self.seen.back().is_some_and(|(_, before)| *before > received) {
            self.seen.clear();
        }
        // The last two within a second are one, so that many small fragments take no room.
        let close = |at: &(Instant, u64)| now.saturating_duration_since(at.0) < Duration::from_secs(1);
        if self.seen.len() > 1 && self.seen.iter().rev().nth(1).is_some_and(close) {
            self.seen.pop_back();
        }
        self.seen.push_back((now, received));
        while self.seen.len() > 2 && self.seen.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) > WINDOW)
        {
            self.seen.pop_front();
        }
    }

    /// Progress counts up to now, so that what stands still becomes slow.
    fn rate(&self, now: Instant) -> Option<u64> {
        let (first, last) = (self.seen.front()?, self.seen.back()?);
        let time = now.saturating_duration_since(first.0);
        let bytes = last.1.checked_sub(first.1)?;
        (self.seen.len() > 1 && time >= Duration::from_secs(1)).then(|| (bytes as f64 / time.as_secs_f64()) as u64)
    }

    fn is_fresh(&self, now: Instant) -> bool {
        self.seen.back().is_some_and(|(at, _)| now.saturating_duration_since(*at) < WINDOW)
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let due = self.told.is_none_or(|told| now.saturating_duration_since(told) >= PROGRESS_APART);
        if due {
            self.told = Some(now);
        }
        due
    }
}

/// JSON holds no line break, so that one line is one event.
fn message(event: &SessionEvent) -> Bytes {
    format!("event: {}\ndata: {}\n\n", describe::name(&event.kind), describe::happened(event)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(seen: &[(u64, u64)], start: Instant) -> Pace {
        let mut pace = Pace::default();
        seen.iter().for_each(|(seconds, bytes)| pace.see(start + Duration::from_secs(*seconds), *bytes));
        pace
    }

    #[test]
    fn a_rate_is_that_of_the_last_half_minute() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(pace(&[(0, 100)], start).rate(at(10)), None);
        assert_eq!(pace(&[(0, 100), (10, 1100)], start).rate(at(10)), Some(100));
        assert_eq!(pace(&[(0, 100), (10, 1100)], start).rate(at(20)), Some(50), "it stands still");
        let seen: Vec<(u64, u64)> =
            (0..100).map(|second| (second, second * if second < 50 { 10 } else { 20 })).collect();
        let rate = pace(&seen, start).rate(at(99)).unwrap();
        assert!((19..=21).contains(&rate), "{rate}");
        assert_eq!(pace(&[(0, 100), (10, 1100), (11, 50), (21, 1050)], start).rate(at(21)), Some(100), "sent back");
    }

    #[test]
    fn many_small_fragments_take_no_room() {
        let start = Instant::now();
        let mut pace = Pace::default();
        (0..100_000).for_each(|millis| pace.see(start + Duration::from_millis(millis), millis));
        assert!(pace.seen.len() < 70, "{}", pace.seen.len());
        let rate = pace.rate(start + Duration::from_millis(99_999)).unwrap();
        assert!((990..=1010).contains(&rate), "{rate}");
    }
}
