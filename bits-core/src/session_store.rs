//! What a database of sessions must do: small rows, changed by compare-and-swap.

use std::time::Duration;

use async_trait::async_trait;

use crate::{Excess, NewSession, Piece, Principal, Session, SessionId, State, Timestamp, Tombstone, Transition};

/// Keeps sessions. The row alone says how far an upload has come; clocks are the store's own.
///
/// Every method may be cancelled by dropping its future; a change then either is committed whole
/// or is not there at all.
#[async_trait]
pub trait SessionStore: Send + Sync + 'static {
    /// Stores a new session, durably. [`SessionStoreError::Limit`] when the principal has
    /// `new.limit` unfinished sessions (any state but WaitForClose) in `new.directory`, whatever its
    /// ASCII case, already; anonymous callers pass no limit.
    async fn create(&self, new: &NewSession) -> Result<Session, SessionStoreError>;

    /// The session, live or ended.
    async fn load(&self, id: SessionId) -> Result<Option<Found>, SessionStoreError>;

    /// Commits `transition` if the session still has the epoch, offset and state of `from`, in
    /// one transaction. Survives a power loss where [`Transition::is_durable`]. A
    /// [`Transition::Begin`] that fixes the size is measured by its quota in the same transaction,
    /// beside the sessions of the same directory (whatever its ASCII case) in the states
    /// before WaitForClose; one that finds the size fixed is not.
    async fn commit(&self, from: &Session, transition: &Transition) -> Result<Commit, SessionStoreError>;

    /// The pieces of a live or unclean session that end after `from`, in order of their start. A
    /// regress drops the pieces that end after its offset, so stores with pieces only ever doubt
    /// from a piece's start on.
    async fn pieces(&self, id: SessionId, from: u64) -> Result<Vec<Piece>, SessionStoreError>;

    /// Pieces that another piece replaced or a regress dropped, and whose bytes were not yet
    /// [forgotten](Self::forget_pieces), of sessions live or unclean.
    async fn replaced_pieces(&self, id: SessionId) -> Result<Vec<Piece>, SessionStoreError>;

    /// Forgets replaced pieces: their bytes are deleted.
    async fn forget_pieces(&self, id: SessionId, pieces: &[Piece]) -> Result<(), SessionStoreError>;

    /// Live sessions, oldest first unless the filter says otherwise.
    async fn list(&self, filter: &Filter) -> Result<Vec<Session>, SessionStoreError>;

    /// How many live sessions have expired, and how many there are: of these no more are counted
    /// than `per_expired` for each expired one, or `least` where that is more.
    async fn census(&self, least: u64, per_expired: u32) -> Result<Census, SessionStoreError>;

    /// Counts of live sessions by state, and of those that made no progress for at least as long
    /// as each of `idle`. States without sessions may be left out.
    async fn tally(&self, idle: [Duration; 3]) -> Result<Vec<Tally>, SessionStoreError>;

    /// At most `limit` live sessions that have expired by the store's clock.
    async fn expired(&self, limit: u32) -> Result<Vec<Session>, SessionStoreError>;

    /// At most `limit` sessions in states Publish and Notify whose `retry_at` is unset or past, in
    /// order of that, unset first, and of their ids, from the one after `after`.
    async fn unpublished(
        &self,
        after: Option<(Timestamp, SessionId)>,
        limit: u32,
    ) -> Result<Vec<Session>, SessionStoreError>;

    /// Whether the job of this session is this process's affair from now on, for half a minute:
    /// false where another one that shares the rows has [claimed](Self::unpublished) it, which
    /// listing it does too.
    async fn claim_job(&self, id: SessionId) -> Result<bool, SessionStoreError>;

    /// At most `limit` tombstones that may have staged bytes to delete, in order of their end and
    /// id, from the one after `after`.
    async fn unclean(
        &self,
        after: Option<(Timestamp, SessionId)>,
        limit: u32,
    ) -> Result<Vec<Tombstone>, SessionStoreError>;

    /// Notes that the staged bytes of an ended session are deleted.
    async fn cleaned(&self, id: SessionId) -> Result<(), SessionStoreError>;

    /// Forgets at most `limit` clean tombstones past their time; returns how many.
    async fn purge(&self, limit: u32) -> Result<u64, SessionStoreError>;

    /// The store's clock.
    async fn now(&self) -> Result<Timestamp, SessionStoreError>;

    /// Whether the store answers.
    async fn check(&self) -> Result<(), SessionStoreError>;
}

/// What [`SessionStore::load`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "live sessions are by far the most")]
pub enum Found {
    /// A live session.
    Live(Session),
    /// An ended one.
    Ended(Tombstone),
}

/// What came of [`SessionStore::commit`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
#[allow(clippy::large_enum_variant, reason = "live sessions are by far the most")]
pub enum Commit {
    /// Committed; the session as it stands now.
    Live(Session),
    /// Committed; the session is over.
    Ended(Tombstone),
    /// Nothing was committed: somebody else moved the session. Load it and decide again.
    Moved,
    /// Nothing was committed: this session is publishing to the same storage and key.
    Claimed(SessionId),
    /// Nothing was committed: the upload is too large for what its quota leaves.
    Exceeds(Excess),
}

/// Which sessions to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Without progress for at least this long.
    pub idle: Option<Duration>,
    /// Of this principal.
    pub principal: Option<Principal>,
    /// Whose destination's decoded path starts with this text.
    pub path_prefix: Option<String>,
    /// Of the directory with this `url_path`, whatever its ASCII case.
    pub directory: Option<String>,
    /// In this state.
    pub state: Option<State>,
    /// Newest first instead of oldest first.
    pub newest_first: bool,
    /// After this session in the order of the listing, for the next page.
    pub after: Option<(Timestamp, SessionId)>,
    /// At most as many.
    pub limit: u32,
}

/// Counts of live sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Live sessions, as far as they were counted.
    pub live: u64,
    /// Those that have expired and were not swept yet.
    pub expired: u64,
}

/// Counts of live sessions in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// The state.
    pub state: State,
    /// How many sessions are in it.
    pub sessions: u64,
    /// How many of them made no progress for as long as was asked for, in that order.
    pub idle: [u64; 3],
}

/// Why a session store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionStoreError {
    /// The principal has as many unfinished sessions as allowed.
    #[error("the limit of unfinished sessions is reached")]
    Limit,
    /// The database's disk is full.
    #[error("the session database has no space left")]
    Full(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database does not answer now; trying again may help.
    #[error("the session database does not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The transition does not fit the state: a bug of the caller.
    #[error(transparent)]
    Illegal(#[from] crate::Illegal),
    /// A row makes no sense: it was written by something else.
    #[error("the session database holds a row that makes no sense: {0}")]
    Corrupt(String),
    /// Anything else.
    #[error("the session database failed")]
    Other(#[source] Box<dyn std::error::Error + Send + Sync>),
}
