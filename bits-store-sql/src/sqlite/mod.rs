//! Sessions in a SQLite file: write-ahead log, one writer, several readers.
//!
//! | part | does |
//! |---|---|
//! | `open` | finds, creates, checks and migrates the file |
//! | `writer` | one task, one connection; commits what is queued in one transaction |
//! | `operations` | the changes that it makes |
//! | `outbox` | what changes tell others, and what becomes of it |
//! | `reader` | a pool of connections for everything else |
//! | `checkpoint` | moves the log into the file, beside the commits |
//! | `statements` | all SQL |

mod checkpoint;
mod columns;
mod error;
mod open;
mod operations;
mod outbox;
mod reader;
mod statements;
mod writer;

use std::{num::NonZeroU32, path::Path, time::Duration};

use async_trait::async_trait;
use bits_core::{
    Census, Commit, Filter, Found, NewSession, Piece, Session, SessionId, SessionStore, SessionStoreError, Subscriber,
    Tally, Timestamp, Tombstone, Transition,
};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::open::OpenError;
use self::{
    open::File,
    operations::{Change, Cleaned, Create, ForgetPieces, Ping, Purge, RaiseExpiry},
    outbox::Subscribers,
    reader::Reader,
    writer::Writer,
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
        tasks.spawn(checkpoint::keep_up(checkpoints, seen));
        let reader = Reader::new(file.options(), options.readers);
        Ok(Self { writer, reader, subscribers: options.subscribers.into(), tasks, stop })
    }

    /// Creates the database at `path` if it is missing, and brings it up to date; gives the
    /// version of its schema.
    pub async fn migrate(path: impl AsRef<Path>) -> Result<i64, OpenError> {
        let file = File::at(path.as_ref())?;
        let connection = file.open(true).await?;
        connection.close().await.map_err(|error| file.error(error))?;
        Ok(open::newest_version())
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
        self.reader.load(id).await
    }

    async fn commit(&self, from: &Session, transition: &Transition) -> Result<Commit, SessionStoreError> {
        // The time is of no matter to whether it fits.
        from.apply(transition, from.progressed_at)?;
        let (from, transition) = (from.clone(), transition.clone());
        self.writer.commit(Change { from, transition, subscribers: self.subscribers.clone() }).await
    }

    async fn pieces(&self, id: SessionId, from: u64) -> Result<Vec<Piece>, SessionStoreError> {
        self.reader.pieces(id, from).await
    }

    async fn replaced_pieces(&self, id: SessionId) -> Result<Vec<Piece>, SessionStoreError> {
        self.reader.replaced_pieces(id).await
    }

    async fn forget_pieces(&self, id: SessionId, pieces: &[Piece]) -> Result<(), SessionStoreError> {
        self.writer.commit(ForgetPieces { session: id, pieces: pieces.to_vec() }).await
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Session>, SessionStoreError> {
        self.reader.list(filter).await
    }

    async fn census(&self) -> Result<Census, SessionStoreError> {
        self.reader.census().await
    }

    async fn tally(&self, idle: [Duration; 3]) -> Result<Vec<Tally>, SessionStoreError> {
        self.reader.tally(idle).await
    }

    async fn expired(&self, limit: u32) -> Result<Vec<Session>, SessionStoreError> {
        while self.writer.commit(RaiseExpiry(RAISED_AT_ONCE)).await? >= u64::from(RAISED_AT_ONCE) {}
        self.reader.expired(limit).await
    }

    async fn unpublished(&self, limit: u32) -> Result<Vec<Session>, SessionStoreError> {
        self.reader.unpublished(limit).await
    }

    async fn unclean(&self, limit: u32) -> Result<Vec<Tombstone>, SessionStoreError> {
        self.reader.unclean(limit).await
    }

    async fn cleaned(&self, id: SessionId) -> Result<(), SessionStoreError> {
        self.writer.commit(Cleaned(id)).await
    }

    async fn purge(&self, limit: u32) -> Result<u64, SessionStoreError> {
        self.writer.commit(Purge(limit)).await
    }

    async fn now(&self) -> Result<Timestamp, SessionStoreError> {
        self.reader.now().await
    }

    async fn check(&self) -> Result<(), SessionStoreError> {
        self.writer.commit(Ping).await?;
        self.reader.now().await.map(drop)
    }
}
