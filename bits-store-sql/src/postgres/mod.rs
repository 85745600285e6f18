//! Sessions in a PostgreSQL database that any number of servers share.
//!
//! | part | does |
//! |---|---|
//! | `open` | connects, checks and migrates |
//! | `database` | runs operations on pooled connections, again where that is safe |
//! | `columns` | what changes and reads see of a connection |
//! | `error` | what error codes mean |
//! | `statements` | SQL of its own |

mod columns;
mod database;
mod error;
mod open;
mod statements;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use async_trait::async_trait;
use bits_core::{
    Census, Commit, Delivery, Filter, Found, Keep, NewSession, Outbox, OutboxEvent, Piece, Session, SessionId,
    SessionStore, SessionStoreError, Subscriber, Tally, Timestamp, Tombstone, Transition,
};
use uuid::Uuid;

pub use self::open::PostgresError;
use self::{database::Database, open::Server};
use crate::{
    changes::{Change, Cleaned, Create, ForgetPieces, Purge, RaiseExpiry},
    connection::{Connection, Operation, Statement},
    outbox::{Claim, Delivered, Forget, Postpone, Subscribers, Trim},
    reads::{
        Count, CountByState, Expired, Identity, List, Load, NextDue, Now, Pending, Pieces, Recent, ReplacedPieces,
        Unclean, Unpublished, WithPending,
    },
};

/// Sessions whose `expires_at` is raised in one statement.
const RAISED_AT_ONCE: u32 = 500;

/// How a database is opened.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// Brings an old or empty database up to date.
    pub migrate: bool,
    /// Connections, at most.
    pub connections: NonZeroU32,
    /// Who is told of changes through the [`Outbox`].
    pub subscribers: Vec<Subscriber>,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self { migrate: false, connections: NonZeroU32::MIN.saturating_add(15), subscribers: Vec::new() }
    }
}

/// Sessions in a PostgreSQL database. Other processes use it at the same time.
///
/// What fails for a lost connection, a failover, a deadlock or the like is tried again for 15 s; a
/// change of which no answer came is looked for in its row first. Rows that a sweep or an outbox
/// looks for are claimed: for half a minute no other server finds them.
#[derive(Debug)]
pub struct PostgresSessions {
    database: Arc<Database>,
    subscribers: Subscribers,
}

impl PostgresSessions {
    /// Opens the database that a URL such as `postgres://user:password@host/database` names. Must be
    /// called within a tokio runtime, which it needs until it is [closed](Self::close).
    pub async fn open(url: &str, options: PostgresOptions) -> Result<Self, PostgresError> {
        let server = Server::of(url)?;
        let database = server.open(options.migrate, options.connections).await?;
        Ok(Self { database: Arc::new(database), subscribers: options.subscribers.into() })
    }

    /// Brings the database up to date; gives the version of its schema.
    pub async fn migrate(url: &str) -> Result<i64, PostgresError> {
        Server::of(url)?.migrate().await
    }

    /// Which database this is: the same for all that use it, in all its copies and backups.
    pub async fn identity(&self) -> Result<Uuid, SessionStoreError> {
        self.database.run(Identity).await
    }

    /// Finishes what is under way and closes the connections. Later calls of other methods fail as
    /// unavailable.
    pub async fn close(&self) {
        self.database.close().await;
    }
}

#[async_trait]
impl SessionStore for PostgresSessions {
    async fn create(&self, new: &NewSession) -> Result<Session, SessionStoreError> {
        self.database.run(Create { new: new.clone(), subscribers: self.subscribers.clone() }).await
    }

    async fn load(&self, id: SessionId) -> Result<Option<Found>, SessionStoreError> {
        self.database.run(Load(id)).await
    }

    async fn commit(&self, from: &Session, transition: &Transition) -> Result<Commit, SessionStoreError> {
        // The time is of no matter to whether it fits.
        from.apply(transition, from.progressed_at)?;
        let (from, transition) = (from.clone(), transition.clone());
        self.database.run(Change { from, transition, subscribers: self.subscribers.clone() }).await
    }

    async fn pieces(&self, id: SessionId, from: u64) -> Result<Vec<Piece>, SessionStoreError> {
        self.database.run(Pieces { session: id, from }).await
    }

    async fn replaced_pieces(&self, id: SessionId) -> Result<Vec<Piece>, SessionStoreError> {
        self.database.run(ReplacedPieces(id)).await
    }

    async fn forget_pieces(&self, id: SessionId, pieces: &[Piece]) -> Result<(), SessionStoreError> {
        self.database.run(ForgetPieces { session: id, pieces: pieces.to_vec() }).await
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Session>, SessionStoreError> {
        self.database.run(List(filter.clone())).await
    }

    async fn census(&self, least: u64, per_expired: u32) -> Result<Census, SessionStoreError> {
        self.database.run(Count { least, per_expired }).await
    }

    async fn tally(&self, idle: [Duration; 3]) -> Result<Vec<Tally>, SessionStoreError> {
        self.database.run(CountByState(idle)).await
    }

    async fn expired(&self, limit: u32) -> Result<Vec<Session>, SessionStoreError> {
        // Until the first of them are all past their time: what comes after is no matter yet.
        while self.database.run(RaiseExpiry(limit.max(RAISED_AT_ONCE))).await? > 0 {}
        self.database.run(Expired(limit)).await
    }

    async fn unpublished(
        &self,
        after: Option<(Timestamp, SessionId)>,
        limit: u32,
    ) -> Result<Vec<Session>, SessionStoreError> {
        self.database.run(Unpublished { after, limit }).await
    }

    async fn claim_job(&self, id: SessionId) -> Result<bool, SessionStoreError> {
        self.database.run(ClaimJob(id)).await
    }

    async fn unclean(
        &self,
        after: Option<(Timestamp, SessionId)>,
        limit: u32,
    ) -> Result<Vec<Tombstone>, SessionStoreError> {
        self.database.run(Unclean { after, limit }).await
    }

    async fn cleaned(&self, id: SessionId) -> Result<(), SessionStoreError> {
        self.database.run(Cleaned(id)).await
    }

    async fn purge(&self, limit: u32) -> Result<u64, SessionStoreError> {
        self.database.run(Purge(limit)).await
    }

    async fn now(&self) -> Result<Timestamp, SessionStoreError> {
        self.database.run(Now).await
    }

    async fn check(&self) -> Result<(), SessionStoreError> {
        self.database.try_once(&Now).await.map(drop)
    }
}

#[async_trait]
impl Outbox for PostgresSessions {
    async fn claim(&self, subscriber: &str, limit: u32, lease: Duration) -> Result<Vec<Delivery>, SessionStoreError> {
        self.database.run(Claim { subscriber: subscriber.to_owned(), limit, lease }).await
    }

    async fn delivered(&self, delivery: &Delivery) -> Result<(), SessionStoreError> {
        self.database.run(Delivered(delivery.number)).await
    }

    async fn postpone(&self, delivery: &Delivery, pause: Duration) -> Result<(), SessionStoreError> {
        self.database.run(Postpone { number: delivery.number, attempt: delivery.attempt, pause }).await
    }

    async fn next_due(&self, subscriber: &str) -> Result<Option<Duration>, SessionStoreError> {
        self.database.run(NextDue(subscriber.to_owned())).await
    }

    async fn pending(&self, subscriber: &str, session: Option<SessionId>) -> Result<u64, SessionStoreError> {
        self.database.run(Pending { subscriber: subscriber.to_owned(), session }).await
    }

    async fn recent(
        &self,
        subscriber: &str,
        session: Option<SessionId>,
        limit: u32,
    ) -> Result<Vec<OutboxEvent>, SessionStoreError> {
        self.database.run(Recent { subscriber: subscriber.to_owned(), session, limit }).await
    }

    async fn trim(&self, subscriber: &str, keep: Keep, at_once: u32) -> Result<u64, SessionStoreError> {
        self.database.run(Trim { subscriber: subscriber.to_owned(), keep, at_once }).await
    }

    async fn forget_others(&self, subscribers: &[String]) -> Result<u64, SessionStoreError> {
        let mut forgotten = 0;
        for other in self.database.run(WithPending).await?.into_iter().filter(|other| !subscribers.contains(other)) {
            forgotten += self.database.run(Forget(other)).await?;
        }
        Ok(forgotten)
    }
}

/// Makes a job this server's for half a minute, if no other one has it.
struct ClaimJob(SessionId);

#[async_trait]
impl Operation for ClaimJob {
    type Output = bool;

    fn is_single(&self) -> bool {
        true
    }

    async fn run<C: Connection>(&self, connection: &mut C) -> Result<bool, SessionStoreError> {
        let claimed = connection.execute(Statement::new(statements::CLAIM_JOB).bind(self.0)).await?;
        Ok(claimed > 0)
    }
}
