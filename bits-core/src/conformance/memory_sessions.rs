//! Sessions in memory: [`Session::apply`] behind a lock, and nothing more clever.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;

use super::memory_outbox::Queue;
use crate::{
    After, Census, Commit, Excess, Filter, Found, NewSession, OutboxEvent, Piece, Principal, Session, SessionId,
    SessionStore, SessionStoreError, State, Subscriber, Tally, Timestamp, Tombstone, Transition,
    conformance::ManualClock,
};

/// A [`SessionStore`] that forgets everything with the process.
#[derive(Debug, Default)]
pub struct MemorySessions {
    clock: ManualClock,
    subscribers: Vec<Subscriber>,
    rows: Mutex<Rows>,
    /// Locked after the rows, where both are.
    outbox: Mutex<Queue>,
    /// So many commits will fail.
    failing: AtomicU32,
}

/// All rows at one moment: a backup, or what a power loss left.
#[derive(Clone, Debug)]
pub struct Snapshot(Rows, Queue);

type Rows = BTreeMap<SessionId, Row>;

#[derive(Clone, Debug)]
struct Row {
    found: Found,
    pieces: Vec<Piece>,
    replaced: Vec<Piece>,
}

impl MemorySessions {
    /// An empty store that goes by `clock`.
    pub fn new(clock: ManualClock) -> Self {
        Self { clock, ..Self::default() }
    }

    /// The same with an outbox for these subscribers.
    #[must_use]
    pub fn telling(self, subscribers: Vec<Subscriber>) -> Self {
        Self { subscribers, ..self }
    }

    /// The clock that it goes by.
    pub fn clock(&self) -> &ManualClock {
        &self.clock
    }

    /// So many of the next commits fail as [`SessionStoreError::Unavailable`], and change nothing.
    pub fn fail_next_commits(&self, count: u32) {
        self.failing.store(count, Ordering::SeqCst);
    }

    /// All rows as they stand.
    pub fn snapshot(&self) -> Snapshot {
        let rows = self.rows();
        Snapshot(rows.clone(), self.outbox().clone())
    }

    /// Goes back to an earlier state, as a restored backup does.
    pub fn restore(&self, snapshot: Snapshot) {
        let mut rows = self.rows();
        *rows = snapshot.0;
        *self.outbox() = snapshot.1;
    }

    /// A panic elsewhere leaves no row half changed: every change is one assignment at its end.
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn outbox(&self) -> MutexGuard<'_, Queue> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn select<T>(&self, limit: u32, choose: impl FnMut(&Row) -> Option<T>) -> Vec<T> {
        self.rows().values().filter_map(choose).take(limit as usize).collect()
    }
}

#[async_trait]
impl SessionStore for MemorySessions {
    async fn create(&self, new: &NewSession) -> Result<Session, SessionStoreError> {
        let mut rows = self.rows();
        if rows.contains_key(&new.id) {
            return Err(SessionStoreError::Other(format!("session {} is there already", new.id).into()));
        }
        let unfinished = rows.values().filter_map(Row::live).filter(|session| is_unfinished(session, new)).count();
        if new.limit.is_some_and(|limit| unfinished >= limit as usize) {
            return Err(SessionStoreError::Limit);
        }
        let session = Session::create(new, self.clock.now());
        rows.insert(new.id, Row::new(session.clone()));
        self.outbox().tell(&self.subscribers, &OutboxEvent::created(&session));
        Ok(session)
    }

    async fn load(&self, id: SessionId) -> Result<Option<Found>, SessionStoreError> {
        Ok(self.rows().get(&id).map(|row| row.found.clone()))
    }

    async fn commit(&self, from: &Session, transition: &Transition) -> Result<Commit, SessionStoreError> {
        let now = self.clock.now();
        // What does not fit the caller's own row is its bug; what does not fit ours is a race.
        from.apply(transition, now)?;
        let mut rows = self.rows();
        let left = self.failing.load(Ordering::SeqCst);
        if left > 0 {
            self.failing.store(left - 1, Ordering::SeqCst);
            return Err(SessionStoreError::Unavailable("the commit was told to fail".into()));
        }
        let stands = |session: &&Session| {
            session.is_unmoved(from)
                && (session.handle == from.handle || !matches!(transition, Transition::Adopt { .. }))
        };
        let Some(session) = rows.get(&from.id).and_then(Row::live).filter(stands) else {
            return Ok(Commit::Moved);
        };
        let Ok(after) = session.apply(transition, now) else { return Ok(Commit::Moved) };
        if let Some(holder) = claimed(&rows, session, transition) {
            return Ok(Commit::Claimed(holder));
        }
        if let Some(excess) = exceeded(&rows, session, transition) {
            return Ok(Commit::Exceeds(excess));
        }
        let event = OutboxEvent::of(session, transition, &after);
        let Some(row) = rows.get_mut(&from.id) else { return Ok(Commit::Moved) };
        row.change(transition, after.clone());
        if let Some(event) = event {
            self.outbox().tell(&self.subscribers, &event);
        }
        Ok(match after {
            After::Live(session) => Commit::Live(session),
            After::Ended(tombstone) => Commit::Ended(tombstone),
        })
    }

    async fn pieces(&self, id: SessionId, from: u64) -> Result<Vec<Piece>, SessionStoreError> {
        let rows = self.rows();
        let Some(row) = rows.get(&id) else { return Ok(Vec::new()) };
        Ok(row.pieces.iter().filter(|piece| piece.end() > from).cloned().collect())
    }

    async fn replaced_pieces(&self, id: SessionId) -> Result<Vec<Piece>, SessionStoreError> {
        Ok(self.rows().get(&id).map(|row| row.replaced.clone()).unwrap_or_default())
    }

    async fn forget_pieces(&self, id: SessionId, pieces: &[Piece]) -> Result<(), SessionStoreError> {
        if let Some(row) = self.rows().get_mut(&id) {
            row.replaced.retain(|piece| !pieces.contains(piece));
        }
        Ok(())
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Session>, SessionStoreError> {
        let now = self.clock.now();
        let mut sessions = self.select(u32::MAX, |row| row.live().filter(|it| matches(filter, it, now)).cloned());
        sessions.sort_by_key(|session| (session.created_at, session.id));
        if filter.newest_first {
            sessions.reverse();
        }
        sessions.truncate(filter.limit as usize);
        Ok(sessions)
    }

    async fn census(&self, least: u64, per_expired: u32) -> Result<Census, SessionStoreError> {
        let now = self.clock.now();
        let rows = self.rows();
        let live = || rows.values().filter_map(Row::live);
        let expired = live().filter(|session| session.expires_at() <= now).count() as u64;
        let counted = least.max(expired * u64::from(per_expired));
        Ok(Census { live: counted.min(live().count() as u64), expired })
    }

    async fn tally(&self, idle: [Duration; 3]) -> Result<Vec<Tally>, SessionStoreError> {
        let now = self.clock.now();
        let rows = self.rows();
        let tally = |state| {
            let sessions: Vec<_> = rows.values().filter_map(Row::live).filter(|it| it.state == state).collect();
            let idle = idle.map(|idle| sessions.iter().filter(|it| it.progressed_at + idle <= now).count() as u64);
            Tally { state, sessions: sessions.len() as u64, idle }
        };
        Ok(State::ALL.map(tally).to_vec())
    }

    async fn expired(&self, limit: u32) -> Result<Vec<Session>, SessionStoreError> {
        let now = self.clock.now();
        Ok(self.select(limit, |row| row.live().filter(|session| session.expires_at() <= now).cloned()))
    }

    async fn unpublished(
        &self,
        after: Option<(Timestamp, SessionId)>,
        limit: u32,
    ) -> Result<Vec<Session>, SessionStoreError> {
        let now = self.clock.now();
        let place = |session: &Session| (session.retry_at.unwrap_or(Timestamp::from_millis(0)), session.id);
        let due = |session: &&Session| {
            session.state.is_job() && place(session).0 <= now && after.is_none_or(|after| place(session) > after)
        };
        let mut unpublished = self.select(u32::MAX, |row| row.live().filter(due).cloned());
        unpublished.sort_by_key(place);
        unpublished.truncate(limit as usize);
        Ok(unpublished)
    }

    async fn claim_job(&self, _: SessionId) -> Result<bool, SessionStoreError> {
        Ok(true)
    }

    async fn unclean(
        &self,
        after: Option<(Timestamp, SessionId)>,
        limit: u32,
    ) -> Result<Vec<Tombstone>, SessionStoreError> {
        let place = |tombstone: &Tombstone| (tombstone.ended_at, tombstone.id);
        let listed = |one: &&Tombstone| one.unclean && after.is_none_or(|after| place(one) > after);
        let mut unclean = self.select(u32::MAX, |row| row.ended().filter(listed).cloned());
        unclean.sort_by_key(place);
        unclean.truncate(limit as usize);
        Ok(unclean)
    }

    async fn cleaned(&self, id: SessionId) -> Result<(), SessionStoreError> {
        if let Some(row) = self.rows().get_mut(&id)
            && let Found::Ended(tombstone) = &mut row.found
        {
            tombstone.unclean = false;
            row.forget();
        }
        Ok(())
    }

    async fn purge(&self, limit: u32) -> Result<u64, SessionStoreError> {
        let now = self.clock.now();
        let over = |tombstone: &&Tombstone| !tombstone.unclean && tombstone.keep_until <= now;
        let ids = self.select(limit, |row| row.ended().filter(over).map(|tombstone| tombstone.id));
        let mut rows = self.rows();
        Ok(ids.iter().filter(|id| rows.remove(id).is_some()).count() as u64)
    }

    async fn now(&self) -> Result<Timestamp, SessionStoreError> {
        Ok(self.clock.now())
    }

    async fn check(&self) -> Result<(), SessionStoreError> {
        Ok(())
    }
}

impl Row {
    fn new(session: Session) -> Self {
        Self { found: Found::Live(session), pieces: Vec::new(), replaced: Vec::new() }
    }

    fn live(&self) -> Option<&Session> {
        match &self.found {
            Found::Live(session) => Some(session),
            Found::Ended(_) => None,
        }
    }

    fn ended(&self) -> Option<&Tombstone> {
        match &self.found {
            Found::Live(_) => None,
            Found::Ended(tombstone) => Some(tombstone),
        }
    }

    fn change(&mut self, transition: &Transition, after: After) {
        match transition {
            Transition::Advance { pieces, .. } => pieces.iter().for_each(|piece| self.add(piece)),
            Transition::Regress { to } => self.replace(|piece| piece.end() > *to),
            _ => {}
        }
        self.found = match after {
            After::Live(session) => Found::Live(session),
            After::Ended(tombstone) => Found::Ended(tombstone),
        };
        if self.ended().is_some_and(|tombstone| !tombstone.unclean) {
            self.forget();
        }
    }

    fn add(&mut self, new: &Piece) {
        self.replace(|old| new.start <= old.start && old.end() <= new.end());
        self.pieces.push(new.clone());
        self.pieces.sort_by_key(|piece| piece.start);
    }

    fn replace(&mut self, mut gone: impl FnMut(&Piece) -> bool) {
        self.replaced.extend(self.pieces.extract_if(.., |piece| gone(piece)));
    }

    fn forget(&mut self) {
        self.pieces.clear();
        self.replaced.clear();
    }
}

fn is_unfinished(session: &Session, new: &NewSession) -> bool {
    session.principal == new.principal
        && session.state != State::WaitForClose
        && session.directory.eq_ignore_ascii_case(&new.directory)
}

/// Who publishes to the place that `transition` wants for `session`.
fn claimed(rows: &Rows, session: &Session, transition: &Transition) -> Option<SessionId> {
    let Transition::Intend { .. } = transition else { return None };
    let holds = |other: &&Session| {
        other.state == State::Publish && other.storage == session.storage && other.key == session.key
    };
    rows.values().filter_map(Row::live).find(holds).map(|other| other.id)
}

/// The quota that `transition` would exceed.
fn exceeded(rows: &Rows, session: &Session, transition: &Transition) -> Option<Excess> {
    let Transition::Begin { total, quota } = transition else { return None };
    if session.total.is_some() {
        return None;
    }
    let unfinished = |user: Option<&Principal>| {
        let counts = |other: &&Session| {
            other.state != State::WaitForClose
                && other.directory.eq_ignore_ascii_case(&session.directory)
                && user.is_none_or(|user| *user == other.principal)
        };
        let sizes = rows.values().filter_map(Row::live).filter(counts).filter_map(|other| other.total);
        sizes.fold(0, u64::saturating_add)
    };
    quota.excess(*total, unfinished(Some(&session.principal)), unfinished(None))
}

fn matches(filter: &Filter, session: &Session, now: Timestamp) -> bool {
    filter.idle.is_none_or(|idle| session.progressed_at + idle <= now)
        && filter.principal.as_ref().is_none_or(|principal| *principal == session.principal)
        && filter.path_prefix.as_ref().is_none_or(|prefix| session.destination.as_str().starts_with(prefix.as_str()))
        && filter.directory.as_ref().is_none_or(|directory| directory.eq_ignore_ascii_case(&session.directory))
        && filter.state.is_none_or(|state| state == session.state)
        && filter.after.is_none_or(|after| match filter.newest_first {
            true => (session.created_at, session.id) < after,
            false => (session.created_at, session.id) > after,
        })
}
