//! What a store of bytes must do: local disks and object stores alike.

use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;

use crate::{Opened, PublishIntent, Session, SessionId, Source, StorageKey, Timestamp};

/// Keeps the bytes of uploads under way, and puts them at their destination.
///
/// The session row says which bytes count. A store may hold more than the row knows; it must
/// never need less. Nothing is deleted before the row names its replacement.
#[async_trait]
pub trait UploadStore: Send + Sync + 'static {
    /// Names the span of time over which written but unsynced bytes survive: the machine's boot.
    /// Stores whose writes are durable at once give one constant.
    fn incarnation(&self) -> &str;

    /// From which offset on the other methods must be told the pieces of an upload; none where
    /// pieces are not used.
    fn pieces_from(&self, session: &Session) -> Option<u64> {
        let _ = session;
        None
    }

    /// Whether two writes for one session at the same time lose nothing that its row names, so that
    /// nobody has to wait for one that does not end: the row decides which of them counts.
    fn takes_writes_at_once(&self) -> bool {
        false
    }

    /// What stands at `key` now.
    async fn inspect(&self, key: &StorageKey) -> Result<Destination, StoreError>;

    /// Makes room for an upload whose size has just become known. [`StoreErrorKind::Full`] when
    /// it cannot fit.
    async fn reserve(&self, upload: &Upload) -> Result<(), StoreError>;

    /// Begins what the bytes that are about to be written will belong to, where the upload's handle
    /// names nothing that fits: a new [handle](Upload::handle). Whoever gets one commits it before
    /// anything is written, or [gives it up](Self::give_up), so that a crash leaves no bytes that
    /// no row names.
    async fn begin(&self, upload: &Upload) -> Result<Option<String>, StoreError> {
        let _ = upload;
        Ok(None)
    }

    /// How many bytes of the upload, counted from its start, are there. At least `received`
    /// unless something was lost.
    async fn available(&self, upload: &Upload) -> Result<u64, StoreError>;

    /// Writes `body` at the session's `received`, until it ends. What was written is kept
    /// whatever ends it: the caller commits [`Written::reached`].
    ///
    /// Must be driven to its end: a dropped future leaves it open how much was written. A small upload's
    /// [size](Upload::total) may be in no row yet, and be another one the next time.
    ///
    /// A [handle](Written::handle) that its caller does not commit is to be [given up](Self::give_up).
    async fn write(&self, upload: &Upload, body: &mut BodyStream<'_>) -> Written;

    /// Makes all bytes up to `received` durable, with every folder entry on the way to them.
    /// [`StoreErrorKind::Doubtful`] says from where on they must be sent again.
    async fn sync(&self, upload: &Upload) -> Result<(), StoreError>;

    /// Checks the destination as far as publishing does not, and notes what
    /// [`publish`](Self::publish) will do. The bytes are [synced](Self::sync), unless publishing
    /// them makes them durable: then it answers [`StoreErrorKind::Doubtful`] if they are lost
    /// before. What was just [written](Self::write) may be in no row yet where writes are not
    /// [taken at once](Self::takes_writes_at_once), and the future may be dropped.
    async fn prepare(&self, upload: &Upload, precondition: Precondition) -> Result<PublishIntent, StoreError>;

    /// Puts the upload at its destination, durably; on success nothing of it is staged any more
    /// but its reply.
    /// May be called again after a crash at any point, and then finds out from `intent` how far
    /// the first call came.
    /// [`StoreErrorKind::Exists`], [`StoreErrorKind::IsFolder`] and [`StoreErrorKind::NoParent`]
    /// mean that nothing was published and nothing will be; [`StoreErrorKind::Changed`] that it must be
    /// [prepared](Self::prepare) anew.
    async fn publish(
        &self,
        upload: &Upload,
        precondition: Precondition,
        intent: &PublishIntent,
    ) -> Result<(), StoreError>;

    /// The names by which a server application gets at a whole upload and leaves its reply; none
    /// where the store has no files. What was left at the second one before is deleted.
    ///
    /// The first one names the bytes themselves: an application that changes them changes the
    /// upload.
    async fn share(&self, upload: &Upload) -> Result<Option<SharedFiles>, StoreError> {
        let _ = upload;
        Ok(None)
    }

    /// Keeps `body` as the session's reply, durably and in the place of an older one; gives its
    /// size. An empty reply is none. After a failure, and where the future was dropped, there is
    /// either the older reply or none.
    async fn write_reply(&self, upload: &Upload, body: &mut BodyStream<'_>) -> Result<u64, Stopped>;

    /// The same with what was left at [`SharedFiles::response`].
    async fn take_reply(&self, upload: &Upload) -> Result<u64, StoreError> {
        let _ = upload;
        Ok(0)
    }

    /// Deletes everything that is staged for the session, its reply too. Done already is done well.
    async fn discard(&self, upload: &Upload) -> Result<(), StoreError>;

    /// What is staged below `folder`, whoever it belongs to, in stores where a writer can leave
    /// something that no row ever names.
    fn staged(&self, folder: &StorageKey) -> StagedStream {
        let _ = folder;
        Box::pin(Nothing)
    }

    /// Deletes what [`staged`](Self::staged) found. Done already is done well.
    async fn discard_staged(&self, objects: &[StagedObject]) -> Result<(), StoreError> {
        let _ = objects;
        Ok(())
    }

    /// Gives up the [handle](Upload::handle) of `upload`, which no row names or will: what it stands
    /// for is deleted, and can never be published any more. Done already is done well.
    async fn give_up(&self, upload: &Upload) -> Result<(), StoreError> {
        let _ = upload;
        Ok(())
    }

    /// Deletes the bytes of pieces that the session names no more.
    async fn discard_pieces(&self, upload: &Upload, pieces: &[Piece]) -> Result<(), StoreError> {
        let _ = (upload, pieces);
        Ok(())
    }

    /// Opens what is there for reading; none where there is no file, or a folder.
    /// [`StoreErrorKind::Denied`] for anything else that is no file, or a link on the way to it.
    async fn open(&self, source: Source<'_>) -> Result<Option<Box<dyn Opened>>, StoreError>;

    /// Whether the store answers and takes writes.
    async fn check(&self) -> Result<(), StoreError>;
}

/// The body of a fragment as the store sees it: only the bytes to write.
pub type BodyStream<'a> = dyn Stream<Item = Result<Bytes, BodyError>> + Send + Unpin + 'a;

/// What a store is told of an upload.
#[derive(Clone, Debug)]
pub struct Upload {
    /// Identifies it.
    pub session: SessionId,
    /// Staged objects carry it in their names.
    pub epoch: u64,
    /// The folder below whose `BITS-Sessions` it is staged.
    pub folder: StorageKey,
    /// Where it is to be published.
    pub key: StorageKey,
    /// Its size; zero until known.
    pub total: u64,
    /// Bytes held.
    pub received: u64,
    /// Bytes that a power loss cannot take.
    pub synced: u64,
    /// What the store gave in [`UploadStore::begin`] or [`Written::handle`].
    pub handle: Option<String>,
    /// The pieces that end after [`UploadStore::pieces_from`], in order.
    pub pieces: Vec<Piece>,
    /// Once it is whole it is published before anything is acknowledged: no server application
    /// gets it first, no Close-Session is waited for.
    pub direct: bool,
}

impl Upload {
    /// What a store is told of a live session.
    pub fn of(session: &Session, pieces: Vec<Piece>) -> Self {
        Self {
            session: session.id,
            epoch: session.epoch,
            folder: session.folder.clone(),
            key: session.key.clone(),
            total: session.total.unwrap_or(0),
            received: session.received,
            synced: session.synced,
            handle: session.handle.clone(),
            pieces,
            direct: false,
        }
    }

    /// What a store is told of an ended session, to delete it.
    pub fn of_ended(tombstone: &crate::Tombstone, pieces: Vec<Piece>) -> Self {
        Self {
            session: tombstone.id,
            epoch: 0,
            folder: tombstone.folder.clone(),
            key: tombstone.key.clone(),
            total: 0,
            received: 0,
            synced: 0,
            handle: tombstone.handle.clone(),
            pieces,
            direct: false,
        }
    }
}

/// Two files by the names that a server application uses: absolute ones of the local system, or
/// URLs, the first to GET, the second to PUT.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedFiles {
    /// The whole upload.
    pub request: String,
    /// Where a reply may be left: nothing is there, and the folder is.
    pub response: String,
}

impl std::fmt::Debug for SharedFiles {
    /// Without a URL's query, which gives access to whoever reads it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plain = |name: &str| name.split('?').next().unwrap_or_default().to_owned();
        let (request, response) = (plain(&self.request), plain(&self.response));
        f.debug_struct("SharedFiles").field("request", &request).field("response", &response).finish()
    }
}

/// Something staged, as a listing finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedObject {
    /// Whose it is, by its name.
    pub session: SessionId,
    /// The session's epoch when it was written; [`u64::MAX`] for what lasts through all of them, as
    /// replies do.
    pub epoch: u64,
    /// The row names it while this is the [`Piece::id`] of one of its pieces, or a word of its
    /// [`Upload::handle`].
    pub id: String,
    /// The store's own name for it.
    pub name: String,
    /// When it was written, by the store's clock.
    pub written_at: Timestamp,
}

/// What is staged, as it is found.
pub type StagedStream = Pin<Box<dyn Stream<Item = Result<StagedObject, StoreError>> + Send>>;

/// A listing of a store that leaves nothing behind.
struct Nothing;

impl Stream for Nothing {
    type Item = Result<StagedObject, StoreError>;

    fn poll_next(self: Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(None)
    }
}

/// Where some bytes of an upload lie. Only the store that gave it reads the id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Offset of its first byte.
    pub start: u64,
    /// Bytes in it.
    pub len: u64,
    /// The store's name for it.
    pub id: String,
}

impl Piece {
    /// Offset after its last byte.
    pub const fn end(&self) -> u64 {
        self.start + self.len
    }
}

/// What [`UploadStore::write`] did.
#[derive(Debug)]
#[must_use]
pub struct Written {
    /// Offset after the last byte that was stored.
    pub reached: u64,
    /// Bytes that a power loss cannot take.
    pub synced: u64,
    /// Where the new bytes lie, for stores that use pieces. A piece may replace older ones by
    /// covering them.
    pub pieces: Vec<Piece>,
    /// A handle to be kept with the session.
    pub handle: Option<String>,
    /// Why it stopped before the body's end.
    pub stopped: Option<Stopped>,
}

/// Why a write stopped before the body's end.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// The body failed.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a body ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The connection broke.
    #[error("the connection broke in the middle of the body")]
    Disconnected,
    /// Nothing came for `idle_timeout`.
    #[error("no byte of the body came for too long")]
    Idle,
    /// It came slower than `minimum_rate`.
    #[error("the body came too slowly")]
    Slow,
    /// A newer request for the same session took over, or the server is stopping.
    #[error("the body was cut off")]
    Cut,
    /// The body has another length than its head said.
    #[error("the body is shorter or longer than its Content-Range")]
    Length,
}

/// What stands at a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Nothing, and its folder exists or needs none.
    Absent,
    /// Nothing, and its folder is missing too.
    NoParent,
    /// A file, or anything else that is no folder.
    File,
    /// A folder.
    Folder,
}

/// Under which conditions, and how, an upload is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Precondition {
    /// Whether an existing file may be replaced.
    pub overwrite: bool,
    /// Whether missing folders are made.
    pub create_folders: bool,
    /// Permissions of the file, where the store has such.
    pub file_mode: u32,
    /// Permissions of folders that are made.
    pub folder_mode: u32,
}

/// A failure of an upload store.
#[derive(Debug, thiserror::Error)]
#[error("{context}")]
pub struct StoreError {
    /// What it means.
    pub kind: StoreErrorKind,
    /// What was being done to what; for people.
    pub context: String,
    /// What the system said.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl StoreError {
    /// A failure without a deeper cause.
    pub fn new(kind: StoreErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    /// A failure with what the system said.
    pub fn with_source(
        kind: StoreErrorKind,
        context: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, context: context.into(), source: Some(source.into()) }
    }
}

/// What a failure means for the upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// No space is left.
    Full,
    /// The upload is larger than the store can hold as one object.
    TooLarge,
    /// The store cannot hold an object of this name.
    InvalidName,
    /// Permission is denied, or the storage is read-only.
    Denied,
    /// The destination's folder is missing and may not be made.
    NoParent,
    /// The destination exists and may not be replaced.
    Exists,
    /// The destination is a folder.
    IsFolder,
    /// The destination is not any more what it was when the publishing was prepared.
    Changed,
    /// The staged bytes are gone.
    Missing,
    /// Bytes from `good` on may be lost; they must be sent again.
    Doubtful {
        /// Bytes that are certain.
        good: u64,
    },
    /// The store does not answer; trying again may help.
    Unavailable,
    /// Anything else.
    Other,
}
