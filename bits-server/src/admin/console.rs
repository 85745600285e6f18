//! What the page and the API show and do, whatever it then looks like.

use std::{fmt, sync::Arc, time::Duration};

use bits_core::{
    Filter, Found, Keep, Outbox, OutboxEvent, Session, SessionId, SessionStore, SessionStoreError, Subscriber, Tally,
    Timestamp, Tombstone,
};
use bits_engine::{CancelError, Engine};
use bytes::Bytes;
use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, broadcast},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    tally::{Minute, Refused},
    watch::{FailedPublishing, Watch},
};
use crate::metrics;

/// Under what the history is kept in the outbox: no name that a webhook can have.
const HISTORY: &str = "(history)";
/// How long an event is remembered.
const HISTORY_AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Between two looks for events to forget.
const TRIM_PERIOD: Duration = Duration::from_secs(60);
/// Events forgotten in one go.
const TRIMMED_AT_ONCE: u32 = 500;
/// Health is asked for no more often, however many look.
const HEALTH_PERIOD: Duration = Duration::from_secs(5);
/// Sessions are counted no more often, however many scrape and however few sessions there are.
const MEASURE_PERIOD: Duration = Duration::from_secs(10);
/// Counting many sessions takes long: no more than this share of the time goes into it.
const MEASURE_SHARE: u32 = 100;
/// How long a store may take to answer.
const HEALTH_TIME: Duration = Duration::from_secs(3);
/// Streams of events at once.
const STREAMS: usize = 32;

/// What the admin listener shows beyond health and metrics. Cheap to clone.
#[derive(Clone)]
pub struct Console {
    engine: Engine,
    inner: Arc<Inner>,
}

struct Inner {
    sessions: Arc<dyn SessionStore>,
    history: Option<History>,
    watch: Watch,
    streams: Arc<Semaphore>,
    /// The stores that do not answer, and when they were asked.
    health: Mutex<Option<(Instant, Failures)>>,
    /// When sessions were counted for `/metrics`.
    measured: Mutex<Option<Instant>>,
}

/// Stores that do not answer, each with the reason.
pub(super) type Failures = Arc<[(String, String)]>;

/// Where what happened to sessions is remembered.
#[derive(Clone)]
pub struct History {
    /// Of a store that was opened for [`History::subscriber`].
    pub outbox: Arc<dyn Outbox>,
    /// How many events are kept.
    pub events: u32,
}

impl History {
    /// Whom the store has to tell.
    pub fn subscriber() -> Subscriber {
        Subscriber { name: HISTORY.to_owned(), ..Subscriber::default() }
    }
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History").field("events", &self.events).finish_non_exhaustive()
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").finish_non_exhaustive()
    }
}

/// One session with what is remembered of it, oldest first.
pub(super) struct Detail {
    pub(super) found: Found,
    pub(super) history: Vec<OutboxEvent>,
}

impl Console {
    /// Shows what is in `sessions` and cancels through `engine`, whose events `watch` sees.
    pub fn new(engine: Engine, sessions: Arc<dyn SessionStore>, history: Option<History>, watch: Watch) -> Self {
        Self {
            engine,
            inner: Arc::new(Inner {
                sessions,
                history,
                watch,
                streams: Arc::new(Semaphore::new(STREAMS)),
                health: Mutex::default(),
                measured: Mutex::default(),
            }),
        }
    }

    /// The same with the engine as it is now.
    pub(super) fn at(&self, engine: &Engine) -> Self {
        Self { engine: engine.clone(), inner: self.inner.clone() }
    }

    /// What sees the events.
    pub(crate) fn watch(&self) -> &Watch {
        &self.inner.watch
    }

    /// Forgets old events until `stop`.
    pub(super) async fn keep_short(self, stop: CancellationToken) {
        let Some(history) = &self.inner.history else { return };
        let keep = Keep { age: HISTORY_AGE, count: u64::from(history.events) };
        loop {
            match history.outbox.trim(HISTORY, keep, TRIMMED_AT_ONCE).await {
                Ok(dropped) if dropped >= u64::from(TRIMMED_AT_ONCE) && !stop.is_cancelled() => continue,
                Ok(_) => {}
                Err(error) => tracing::error!(%error, "old events could not be forgotten; it is tried again"),
            }
            if stop.run_until_cancelled(tokio::time::sleep(TRIM_PERIOD)).await.is_none() {
                return;
            }
        }
    }

    /// Live sessions, with the store's time.
    pub(super) async fn list(&self, filter: &Filter) -> Result<(Vec<Session>, Timestamp), SessionStoreError> {
        let sessions = self.inner.sessions.list(filter).await?;
        sessions.iter().for_each(|session| self.inner.watch.look(session));
        Ok((sessions, self.inner.sessions.now().await?))
    }

    /// One session; none where there is none.
    pub(super) async fn find(&self, id: SessionId) -> Result<Option<(Detail, Timestamp)>, SessionStoreError> {
        let Some(found) = self.inner.sessions.load(id).await? else { return Ok(None) };
        if let Found::Live(session) = &found {
            self.inner.watch.look(session);
        }
        let mut history = self.recent(Some(id), 100).await?;
        history.reverse();
        Ok(Some((Detail { found, history }, self.inner.sessions.now().await?)))
    }

    /// What is remembered, newest first.
    pub(super) async fn recent(
        &self,
        session: Option<SessionId>,
        limit: u32,
    ) -> Result<Vec<OutboxEvent>, SessionStoreError> {
        match &self.inner.history {
            Some(history) => history.outbox.recent(HISTORY, session, limit).await,
            None => Ok(Vec::new()),
        }
    }

    /// How many live sessions there are.
    pub(super) async fn tally(&self, idle: [Duration; 3]) -> Result<Vec<Tally>, SessionStoreError> {
        self.inner.sessions.tally(idle).await
    }

    /// Counts sessions for `/metrics`, unless that was done just now.
    pub(super) async fn measure(&self) {
        let mut measured = self.inner.measured.lock().await;
        let now = Instant::now();
        if measured.is_some_and(|next| now < next) {
            return;
        }
        let tally = self.tally(metrics::IDLE.map(|(idle, _)| idle));
        match tokio::time::timeout(HEALTH_TIME, tally).await {
            Ok(Ok(tallies)) => metrics::sessions(&tallies),
            Ok(Err(error)) => tracing::warn!(%error, "sessions could not be counted"),
            Err(_) => tracing::warn!("sessions could not be counted within 3 s"),
        }
        *measured = Some(Instant::now() + MEASURE_PERIOD.max(now.elapsed() * MEASURE_SHARE));
    }

    /// The stores that do not answer, as of some seconds ago.
    pub(super) async fn health(&self) -> Failures {
        let mut health = self.inner.health.lock().await;
        if let Some((asked, failures)) = &*health
            && asked.elapsed() < HEALTH_PERIOD
        {
            return failures.clone();
        }
        let failures: Failures = self.engine.check(HEALTH_TIME).await.into();
        *health = Some((Instant::now(), failures.clone()));
        failures
    }

    /// What this process did in the last hour, by minutes, and how long the last one has gone on.
    pub(super) fn last_hour(&self) -> (Vec<Minute>, Duration) {
        self.inner.watch.last_hour()
    }

    /// What this process refused, the latest first.
    pub(super) fn refusals(&self) -> Vec<Refused> {
        self.inner.watch.refusals()
    }

    /// Uploads that could not be put at their destination, the latest first.
    pub(super) fn failed_publishing(&self) -> Vec<FailedPublishing> {
        self.inner.watch.failed_publishing()
    }

    /// Cancels a session in the name of `who`.
    pub(super) async fn cancel(&self, id: SessionId, who: &str) -> Result<Tombstone, CancelError> {
        let cancelled = self.engine.cancel(id).await;
        if cancelled.is_ok() {
            tracing::info!(session = %id, user = ?who, "a session was cancelled on the admin listener");
        }
        cancelled
    }

    /// Bytes per second of a session, where it can be said.
    pub(super) fn rate(&self, id: SessionId) -> Option<u64> {
        self.inner.watch.rate(id)
    }

    /// What is seen as it happens, and room to tell it; none where too many are told.
    pub(super) fn listen(&self) -> Option<(broadcast::Receiver<Bytes>, OwnedSemaphorePermit)> {
        let room = self.inner.streams.clone().try_acquire_owned().ok()?;
        Some((self.inner.watch.listen(), room))
    }
}
