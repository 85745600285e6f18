//! What nobody asks for: finishing interrupted jobs, deleting what is left over, expiring.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bits_core::{Ending, Filter, Found, Session, SessionId, SessionStoreError, Timestamp};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::{
    engine::{Engine, Inner, chain},
    fragment::ATTEMPTS,
    spans,
};

/// Sessions that are looked at in one go.
const BATCH: u32 = 256;
/// Between two looks for interrupted jobs and left-over bytes.
const TICK: Duration = Duration::from_secs(5);
/// How long a sweep waits for the job of a session; it looks again the next time.
const JOB_WAIT: Duration = Duration::from_secs(1);
/// Before what could not be deleted is tried again.
const REST: Duration = Duration::from_secs(60);
/// Wall clock and monotonic clock may differ by as much between two sweeps.
const TOLERATED_DRIFT: Duration = Duration::from_secs(60 * 60);
/// Up to as many sessions, any share of them may expire at once.
const SMALL: u64 = 100;
/// Of more, one in so many.
const SHARE: u32 = 5;

/// What came of a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// As many sessions were removed.
    Removed(u64),
    /// Nothing was removed: the clock cannot be trusted since the last sweep.
    ClockJumped,
    /// Nothing was removed: too large a share of all sessions would have gone at once.
    TooMany {
        /// Sessions that have expired.
        expired: u64,
        /// All live sessions.
        live: u64,
    },
}

/// A piece of maintenance that is done, for whoever counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Chore {
    /// A sweep of [`Engine::maintain`].
    Swept {
        /// What came of it; none where a store failed.
        outcome: Option<Sweep>,
        /// How long it took.
        took: Duration,
    },
    /// What one ended session had left was deleted, later than with its end.
    Cleaned,
    /// As many staged objects were deleted that no session needs.
    Orphans(u64),
    /// As many tombstones were forgotten.
    Forgotten(u64),
}

/// A moment by both clocks.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    wall: Timestamp,
    monotonic: Instant,
}

/// What maintenance knows from one look to the next. Held by whoever maintains, one at a time.
#[derive(Debug, Default)]
pub(crate) struct Watch(tokio::sync::Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    trust: Trust,
    /// When the last sweep began.
    swept: Option<Instant>,
    /// The last session with a job that is due that was looked at: those that wait long for their
    /// turn do not stand in the way of others.
    due: Option<(Timestamp, SessionId)>,
    cleaning: Cleaning,
}

/// How far deleting what ended sessions left has come. It goes round all of them, so that what
/// cannot be deleted does not stand in the way of what can.
#[derive(Debug, Default)]
struct Cleaning {
    /// The last tombstone that this round looked at.
    after: Option<(Timestamp, SessionId)>,
    /// Those of this round that are still unclean.
    failed: u64,
    /// No round begins before.
    rests_until: Option<Instant>,
}

/// Whether the clock may decide what is old.
#[derive(Debug, Default)]
struct Trust {
    /// When the last sweep that trusted it looked.
    last: Option<Clocks>,
    /// Too large a share of the sessions would have expired.
    doubted: bool,
}

/// Says when to stop: asked between two sessions, never within one.
struct Until(CancellationToken, CancellationToken);

impl Engine {
    /// Finishes interrupted jobs at once, then does so and sweeps from time to time, until
    /// `shutdown` or [`Self::stop`], which waits for the session that it is at. `interval` lies
    /// between two sweeps. Waits for an earlier call of the same engine's to end, and goes on from
    /// where that was.
    pub async fn maintain(&self, interval: Duration, shutdown: CancellationToken) {
        let inner = &self.inner;
        let _awaited = inner.tasks.token();
        let until = Until(shutdown, inner.stop.clone());
        let mut seen = tokio::select! {
            seen = inner.watch.0.lock() => seen,
            () = until.over() => return,
        };
        let Seen { trust, swept, due, cleaning } = &mut *seen;
        log(inner.cancel_disabled(&until).await.map(|_| ()));
        while !until.is_over() {
            log(inner.finish_some(due, &until).await);
            log(inner.clean_some(cleaning, &until).await.map(|_| ()));
            if swept.is_none_or(|swept| swept.elapsed() >= interval) {
                *swept = Some(Instant::now());
                let began = Instant::now();
                let done = inner.sweep_checked(trust, &until).await;
                (inner.chores)(Chore::Swept { outcome: done.as_ref().ok().copied(), took: began.elapsed() });
                log(done.map(report));
                log(inner.delete_orphans(|| until.is_over()).await.map(report_orphans));
            }
            log(inner.purge_checked(trust, &until).await);
            let _ = tokio::time::timeout(TICK, until.over()).await;
        }
    }

    /// Starts interrupted publishing again, deletes what ended sessions left, and forgets old
    /// tombstones. The clock is trusted.
    pub async fn tidy(&self) -> Result<(), SessionStoreError> {
        let until = Until::never();
        let mut due = None;
        self.inner.finish_some(&mut due, &until).await?;
        while due.is_some() {
            self.inner.finish_some(&mut due, &until).await?;
        }
        let mut cleaning = Cleaning::default();
        while !self.inner.clean_some(&mut cleaning, &until).await? {}
        self.inner.purge(&until).await
    }

    /// Removes all sessions that have expired, however many they are. The clock is trusted.
    pub async fn sweep(&self) -> Result<u64, SessionStoreError> {
        self.inner.expire(&Until::never()).await
    }

    /// Deletes staged bytes that can never count any more, such as those of a write that was never
    /// committed; returns how many objects. Only stores where such can be are listed.
    pub async fn delete_orphans(&self) -> Result<u64, SessionStoreError> {
        self.inner.delete_orphans(|| false).await
    }

    /// Ends the sessions of directories that take no uploads any more or were removed by
    /// [`Self::with_settings`], with their data (section 3.2.4.2); returns how many.
    pub async fn cancel_disabled(&self) -> Result<u64, SessionStoreError> {
        self.inner.cancel_disabled(&Until::never()).await
    }
}

impl Inner {
    /// Starts the next jobs that are due and not under way; `after` is none at the end.
    async fn finish_some(
        self: &Arc<Self>,
        after: &mut Option<(Timestamp, SessionId)>,
        until: &Until,
    ) -> Result<(), SessionStoreError> {
        let due = self.sessions.unpublished(*after, BATCH).await?;
        *after = None;
        for session in &due {
            if until.is_over() {
                return Ok(());
            }
            self.start_job(session.id, false, None);
        }
        if let Some(last) = due.get(BATCH as usize - 1) {
            *after = Some((last.retry_at.unwrap_or(Timestamp::from_millis(0)), last.id));
        }
        Ok(())
    }

    /// Deletes what the next ended sessions left; whether that was the end of a round.
    async fn clean_some(&self, cleaning: &mut Cleaning, until: &Until) -> Result<bool, SessionStoreError> {
        if cleaning.rests_until.is_some_and(|moment| Instant::now() < moment) {
            return Ok(true);
        }
        let unclean = self.sessions.unclean(cleaning.after, BATCH).await?;
        for tombstone in &unclean {
            if until.is_over() {
                return Ok(true);
            }
            match self.clean_in_turn(tombstone).await {
                true => (self.chores)(Chore::Cleaned),
                false => cleaning.failed += 1,
            }
            cleaning.after = Some((tombstone.ended_at, tombstone.id));
        }
        let over = unclean.len() < BATCH as usize;
        if over {
            *cleaning = cleaning.rest();
        }
        Ok(over)
    }

    async fn cancel_disabled(&self, until: &Until) -> Result<u64, SessionStoreError> {
        let disabled = self.directories.iter().filter(|directory| !directory.upload_enabled);
        let disabled = disabled.map(|directory| &directory.url_path).chain(&self.removed);
        let mut ended = 0;
        for directory in disabled {
            let some = self.cancel_all(directory, until).await?;
            if some > 0 {
                tracing::info!(?directory, sessions = some, "ended the sessions of a directory that takes no uploads");
            }
            ended += some;
        }
        Ok(ended)
    }

    async fn sweep_checked(self: &Arc<Self>, trust: &mut Trust, until: &Until) -> Result<Sweep, SessionStoreError> {
        let now = self.clocks().await?;
        if trust.has_drifted(now) {
            return Ok(Sweep::ClockJumped);
        }
        trust.last = Some(now);
        let census = self.sessions.census(SMALL + 1, SHARE).await?;
        trust.doubted = census.live > SMALL && census.expired > census.live / u64::from(SHARE);
        if trust.doubted {
            return Ok(Sweep::TooMany { expired: census.expired, live: census.live });
        }
        self.expire(until).await.map(Sweep::Removed)
    }

    /// Forgets old tombstones where a sweep would trust the clock too.
    async fn purge_checked(&self, trust: &Trust, until: &Until) -> Result<(), SessionStoreError> {
        if trust.last.is_none() || trust.doubted || trust.has_drifted(self.clocks().await?) {
            return Ok(());
        }
        self.purge(until).await
    }

    async fn purge(&self, until: &Until) -> Result<(), SessionStoreError> {
        loop {
            let forgotten = self.sessions.purge(BATCH).await?;
            (self.chores)(Chore::Forgotten(forgotten));
            if forgotten < u64::from(BATCH) || until.is_over() {
                return Ok(());
            }
        }
    }

    async fn expire(self: &Arc<Self>, until: &Until) -> Result<u64, SessionStoreError> {
        let mut removed = 0;
        // Those that cannot be ended now are found again each time, before all others.
        let mut left = BTreeSet::new();
        loop {
            let limit = BATCH.saturating_add(u32::try_from(left.len()).unwrap_or(u32::MAX));
            let mut expired = self.sessions.expired(limit).await?;
            expired.retain(|session| !left.contains(&session.id));
            if expired.is_empty() {
                return Ok(removed);
            }
            for session in &expired {
                if until.is_over() {
                    return Ok(removed);
                }
                if !self.is_at_work(session).await && self.end_in_turn(session, Ending::Expired).await {
                    removed += 1;
                } else {
                    left.insert(session.id);
                }
            }
        }
    }

    /// Whether the session has a job under way, which is finished, not swept. One that nobody has
    /// tried is begun.
    async fn is_at_work(self: &Arc<Self>, session: &Session) -> bool {
        if session.state.is_job() && session.retry_at.is_none() && !self.jobs.is_running(session.id) {
            self.publish(session.id, false, JOB_WAIT).await;
        }
        self.jobs.is_running(session.id)
    }

    async fn cancel_all(&self, directory: &str, until: &Until) -> Result<u64, SessionStoreError> {
        let mut filter = Filter { directory: Some(directory.to_owned()), limit: BATCH, ..Filter::default() };
        let mut ended = 0;
        loop {
            let sessions = self.sessions.list(&filter).await?;
            let Some(last) = sessions.last() else { return Ok(ended) };
            filter.after = Some((last.created_at, last.id));
            for session in &sessions {
                if until.is_over() {
                    return Ok(ended);
                }
                ended += u64::from(self.cancel_in_turn(session).await);
            }
        }
    }

    /// Ends a session that is as it was seen. A request that writes to it is cut off before, and
    /// what came of it is progress.
    async fn end_in_turn(&self, session: &Session, ending: Ending) -> bool {
        let ending = async {
            let _turn = self.take_turn(session.id, &session.storage).await;
            matches!(self.end(session, ending).await, Ok(true))
        };
        ending.instrument(spans::end(session.id)).await
    }

    /// Ends a session as it stands, whatever came of a request that wrote to it.
    async fn cancel_in_turn(&self, session: &Session) -> bool {
        let id = session.id;
        let ending = async {
            let _turn = self.take_turn(id, &session.storage).await;
            for _ in 0..ATTEMPTS {
                let Ok(Some(Found::Live(session))) = self.sessions.load(id).await else { return false };
                match self.end(&session, Ending::Cancelled).await {
                    Ok(false) => {}
                    ended => return ended.is_ok(),
                }
            }
            false
        };
        ending.instrument(spans::end(id)).await
    }

    async fn clocks(&self) -> Result<Clocks, SessionStoreError> {
        Ok(Clocks { wall: self.sessions.now().await?, monotonic: Instant::now() })
    }
}

impl Cleaning {
    /// After a round.
    fn rest(&self) -> Self {
        if self.failed == 0 {
            return Self::default();
        }
        tracing::warn!(
            sessions = self.failed,
            "ended sessions have staged bytes that could not be deleted; they are tried again in a minute"
        );
        Self { rests_until: Some(Instant::now() + REST), ..Self::default() }
    }
}

impl Trust {
    fn has_drifted(&self, now: Clocks) -> bool {
        self.last.is_some_and(|last| last.drift(now) > TOLERATED_DRIFT)
    }
}

impl Until {
    fn never() -> Self {
        Self(CancellationToken::new(), CancellationToken::new())
    }

    fn is_over(&self) -> bool {
        self.0.is_cancelled() || self.1.is_cancelled()
    }

    async fn over(&self) {
        tokio::select! {
            () = self.0.cancelled() => {}
            () = self.1.cancelled() => {}
        }
    }
}

impl Clocks {
    fn drift(self, now: Self) -> Duration {
        let wall = Duration::from_millis(now.wall.as_millis().abs_diff(self.wall.as_millis()));
        wall.abs_diff(now.monotonic.duration_since(self.monotonic))
    }
}

fn report(sweep: Sweep) {
    match sweep {
        Sweep::Removed(0) => {}
        Sweep::Removed(sessions) => tracing::info!(sessions, "removed expired sessions"),
        Sweep::ClockJumped => tracing::error!(
            "no session was expired: the clock moved by over an hour against the time that passed; \
             set the clock right, or restart the server if it is right now"
        ),
        Sweep::TooMany { expired, live } => tracing::error!(
            expired,
            live,
            "no session was expired: over a fifth of all would go at once; if they may, run `bits-server sessions sweep`"
        ),
    }
}

fn report_orphans(objects: u64) {
    if objects > 0 {
        tracing::info!(objects, "deleted staged objects that no session needs");
    }
}

fn log(result: Result<(), SessionStoreError>) {
    if let Err(error) = result {
        tracing::error!(error = %chain(&error), "maintenance failed; it is tried again");
    }
}
