//! Sessions in a SQLite file: write-ahead log, one writer, several readers.
//!
//! | part | does |
//! |---|---|
//! | `open` | finds, creates, checks and migrates the file |
//! | `writer` | one task, one connection; commits what is queued in one transaction |
//! | `alike` | changes of many sessions in one statement |
//! | `reader` | a pool of connections for everything else |
//! | `checkpoint` | moves the log into the file, beside the commits |
//! | `columns` | what changes and reads see of a connection |
//! | `statements` | SQL of its own |

mod alike;
mod checkpoint;
mod columns;
mod error;
mod open;
mod reader;
mod statements;
mod writer;

use std::{num::NonZeroU32, path::Path, time::Duration};

use async_trait::async_trait;
use bits_core::{
    Census, Commit, Delivery, Filter, Found, Keep, NewSession, Outbox, OutboxEvent, Piece, Session, SessionId,
    SessionStore, SessionStoreError, Subscriber, Tally, Timestamp, Tombstone, Transition,
};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

pub use self::open::OpenError;
use self::{open::File, reader::Reader, writer::Writer};
use crate::{
    changes::{Change, Cleaned, Create, ForgetPieces, Purge, RaiseExpiry},
    migrations::NEWEST,
    outbox::{Claim, Delivered, Forget, Postpone, Subscribers, Trim},
    reads::{
        Count, CountByState, Expired, Identity, List, Load, NextDue, Now, Pending, Pieces, Recent, ReplacedPieces,
        Unclean, Unpublished, WithPending,
    },
};

/// Sessions whose `expires_at` is raised in one statement.
const RAISED_AT_ONCE: u32 = 500;
/// A checkpoint that waits for others holds the writer up; it gives up after this.
const CHECKPOINT_BUSY_TIMEOUT: Duration = Duration::from_millis(100);

/// How a database is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Creates a missing database, and brings an old one up to date.
    pub migrate: bool,
    /// Connections for reading, at most.
    pub readers: NonZeroU32,
    /// Who is told of changes through the [`Outbox`](bits_core::Outbox).
    pub subscribers: Vec<Subscriber>,
}

impl Default for Options {
    fn default() -> Self {
        Self { migrate: true, readers: NonZeroU32::MIN.saturating_add(3), subscribers: Vec::new() }
    }
}

/// Sessions in a SQLite file. Another process may use it at the same time.
#[derive(Debug)]
pub struct SqliteSessions {
    writer: Writer,
    reader: Reader,
    subscribers: Subscribers,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl SqliteSessions {
    /// Opens the database at `path`. Must be called within a tokio runtime, which it needs until
    /// it is [closed](Self::close).
    pub async fn open(path: impl AsRef<Path>, options: Options) -> Result<Self, OpenError> {
        let file = File::at(path.as_ref())?;
        let connection = file.open(options.migrate).await?;
        let checkpoints = file.options().busy_timeout(CHECKPOINT_BUSY_TIMEOUT);
        let checkpoints = checkpoints.connect().await.map_err(|error| file.error(error))?;

        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (written, seen) = watch::channel(());
        let (writer, task) = Writer::new(connection, file.options(), written, stop.clone());
        tasks.spawn(task);
        tasks.spawn(checkpoint::keep_up(checkpoints, seen, stop.clone()));
        let reader = Reader::new(file.options(), options.readers);
        Ok(Self { writer, reader, subscribers: options.subscribers.into(), tasks, stop })
    }

    /// Creates the database at `path` if it is missing, and brings it up to date; gives the
    /// version of its schema.
    pub async fn migrate(path: impl AsRef<Path>) -> Result<i64, OpenError> {
        let file = File::at(path.as_ref())?;
        let connection = file.open(true).await?;
        connection.close().await.map_err(|error| file.error(error))?;
        Ok(NEWEST)
    }

    /// Which database this is: the same for all that use it, in all its copies and backups.
    pub async fn identity(&self) -> Result<Uuid, SessionStoreError> {
        self.reader.read(Identity).await
    }

    /// Commits what is under way, empties the log and closes the file. Later calls of other
    /// methods fail as unavailable.
    ///
    /// Without it nothing committed is lost: the next to open the database reads the log.
    pub async fn close(&self) {
        self.stop.cancel();
        self.reader.close().await;
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[async_trait]
impl SessionStore for SqliteSessions {
    async fn create(&self, new: &NewSession) -> Result<Session, SessionStoreError> {
        self.writer.commit(Create { new: new.clone(), subscribers: self.subscribers.clone() }).await
    }

    async fn load(&self, id: SessionId) -> Result<Option<Found>, SessionStoreError> {
        self.reader.read(Load(id)).await
    }

    async fn commit(&self, from: &Session, transition: &Transition) -> Result<Commit, SessionStoreError> {
        // The time is of no matter to whether it fits.
        from.apply(transition, from.progressed_at)?;
        let (from, transition) = (from.clone(), transition.clone());
        self.writer.commit(Change { from, transition, subscribers: self.subscribers.clone() }).await
    }

    async fn pieces(&self, id: SessionId, from: u64) -> Result<Vec<Piece>, SessionStoreError> {
        self.reader.read(Pieces { session: id, from }).await
    }

    async fn replaced_pieces(&self, id: SessionId) -> Result<Vec<Piece>, SessionStoreError> {
        self.reader.read(ReplacedPieces(id)).await
    }

    async fn forget_pieces(&self, id: SessionId, pieces: &[Piece]) -> Result<(), SessionStoreError> {
        self.writer.commit(ForgetPieces { session: id, pieces: pieces.to_vec() }).await
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Session>, SessionStoreError> {
        self.reader.read(List(filter.clone())).await
    }

    async fn census(&self, least: u64, per_expired: u32) -> Result<Census, SessionStoreError> {
        self.reader.read(Count { least, per_expired }).await
    }

    async fn tally(&self, idle: [Duration; 3]) -> Result<Vec<Tally>, SessionStoreError> {
        self.reader.read(CountByState(idle)).await
    }

    async fn expired(&self, limit: u32) -> Result<Vec<Session>, SessionStoreError> {
        // Until the first of them are all past their time: what comes after is no matter yet.
        while self.writer.commit(RaiseExpiry(limit.max(RAISED_AT_ONCE))).await? > 0 {}
        self.reader.read(Expired(limit)).await
    }

    async fn unpublished(
        &self,
        after: Option<(Timestamp, SessionId)>,
        limit: u32,
    ) -> Result<Vec<Session>, SessionStoreError> {
        self.reader.read(Unpublished { after, limit }).await
    }

    /// The file is this process's alone.
    async fn claim_job(&self, _: SessionId) -> Result<bool, SessionStoreError> {
        Ok(true)
    }

    async fn unclean(
        &self,
        after: Option<(Timestamp, SessionId)>,
        limit: u32,
    ) -> Result<Vec<Tombstone>, SessionStoreError> {
        self.reader.read(Unclean { after, limit }).await
    }

    async fn cleaned(&self, id: SessionId) -> Result<(), SessionStoreError> {
        self.writer.commit(Cleaned(id)).await
    }

    async fn purge(&self, limit: u32) -> Result<u64, SessionStoreError> {
        self.writer.commit(Purge(limit)).await
    }

    async fn now(&self) -> Result<Timestamp, SessionStoreError> {
        self.reader.read(Now).await
    }

    async fn check(&self) -> Result<(), SessionStoreError> {
        self.writer.commit(Now).await?;
        self.reader.read(Now).await.map(drop)
    }
}

#[async_trait]
impl Outbox for SqliteSessions {
    async fn claim(&self, subscriber: &str, limit: u32, lease: Duration) -> Result<Vec<Delivery>, SessionStoreError> {
        self.writer.commit(Claim { subscriber: subscriber.to_owned(), limit, lease }).await
    }

    async fn delivered(&self, delivery: &Delivery) -> Result<(), SessionStoreError> {
        self.writer.commit(Delivered(delivery.number)).await
    }

    async fn postpone(&self, delivery: &Delivery, pause: Duration) -> Result<(), SessionStoreError> {
        self.writer.commit(Postpone { number: delivery.number, attempt: delivery.attempt, pause }).await
    }

    async fn next_due(&self, subscriber: &str) -> Result<Option<Duration>, SessionStoreError> {
        self.reader.read(NextDue(subscriber.to_owned())).await
    }

    async fn pending(&self, subscriber: &str, session: Option<SessionId>) -> Result<u64, SessionStoreError> {
        self.reader.read(Pending { subscriber: subscriber.to_owned(), session }).await
    }

    async fn recent(
        &self,
        subscriber: &str,
        session: Option<SessionId>,
        limit: u32,
    ) -> Result<Vec<OutboxEvent>, SessionStoreError> {
        self.reader.read(Recent { subscriber: subscriber.to_owned(), session, limit }).await
    }

    async fn trim(&self, subscriber: &str, keep: Keep, at_once: u32) -> Result<u64, SessionStoreError> {
        self.writer.commit(Trim { subscriber: subscriber.to_owned(), keep, at_once }).await
    }

    async fn forget_others(&self, subscribers: &[String]) -> Result<u64, SessionStoreError> {
        let mut forgotten = 0;
        for other in self.reader.read(WithPending).await?.into_iter().filter(|other| !subscribers.contains(other)) {
            forgotten += self.writer.commit(Forget(other)).await?;
        }
        Ok(forgotten)
    }
}
