//! The store itself: what it is asked for, and who does it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bits_core::{
    BodyStream, Destination, Opened, Piece, Precondition, PublishIntent, Session, SharedFiles, Source, StagedObject,
    StagedStream, State, Stopped, StorageKey, StoreError, StoreErrorKind, Upload, UploadStore, Written,
};
use uuid::Uuid;

use crate::{
    layout::{LARGEST_PART, Layout, SMALLEST_PART},
    memory::Memory,
    names::{self, Handle, Home, Place},
    owner,
    pending::Pending,
    probe::{self, Conditions, OpenError},
    publish, reading, reply,
    requests::{Backend, Observer, Request, Requests},
    staged, writer,
    writer::Writer,
};

/// How an [`ObjectUploads`] works.
#[derive(Clone)]
pub struct Options {
    /// Bytes that all uploads together may hold in memory; at least two of the largest parts.
    /// Default: 256 MiB.
    pub memory: u64,
    /// Bytes of a part, where an upload is not so large that there would be too many. Default:
    /// [`SMALLEST_PART`]; real stores take no less than 5 MiB.
    pub smallest_part: u64,
    /// Bytes of the largest part, which bounds the size of uploads to 9,000 times as much.
    /// Default: [`LARGEST_PART`].
    pub largest_part: u64,
    /// How long the URLs that server applications get may be used. Default: an hour.
    pub share_lifetime: Duration,
    /// Called with every request to the store, before it is sent.
    pub on_request: Arc<dyn Fn(Request) + Send + Sync>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            memory: 256 << 20,
            smallest_part: SMALLEST_PART,
            largest_part: LARGEST_PART,
            share_lifetime: Duration::from_secs(3600),
            on_request: Arc::new(|_| {}),
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { memory, smallest_part, largest_part, share_lifetime, .. } = self;
        write!(f, "Options {{ {memory}, {smallest_part}..{largest_part}, {share_lifetime:?} }}")
    }
}

/// Uploads in an object store.
///
/// Any number of processes may use one store, for the same database of sessions. A write must be
/// driven to its end; other futures may be dropped, and what they asked the store for may happen
/// all the same.
///
/// Errors: [`StoreErrorKind::Unavailable`] for what may pass, a store that is out of reach among
/// it; [`StoreErrorKind::Denied`] where the store refuses access; [`StoreErrorKind::TooLarge`] and
/// [`StoreErrorKind::InvalidName`] for what it cannot hold; [`StoreErrorKind::Doubtful`] for bytes
/// that it lost.
#[derive(Clone, Debug)]
pub struct ObjectUploads {
    shared: Arc<Shared>,
}

/// What all uploads have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) requests: Requests,
    pub(crate) memory: Memory,
    pub(crate) pending: Pending,
    pub(crate) conditions: Conditions,
    pub(crate) options: Options,
    incarnation: String,
}

impl ObjectUploads {
    /// Opens the store: tries out whether it takes writes and keeps to conditions, and leaves
    /// nothing behind.
    pub async fn open(backend: Backend, options: Options) -> Result<Self, OpenError> {
        let observer: Observer = options.on_request.clone();
        let requests = Requests::new(backend, observer);
        let conditions = probe::probe(&requests).await?;
        let shared = Shared {
            memory: Memory::new(options.memory.max(2 * options.largest_part)),
            pending: Pending::default(),
            incarnation: format!("process {}", Uuid::new_v4()),
            requests,
            conditions,
            options,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Makes the store that of one database of sessions, which `database` identifies, by an object of
    /// its own; [`OpenError::Taken`] where it is another's. A second database would not know whose the
    /// staged objects are that it finds.
    pub async fn belong_to(&self, database: Uuid) -> Result<(), OpenError> {
        owner::claim(&self.shared, database).await
    }

    /// Whether the store refuses to write an object where one stands, when asked to. Where it does
    /// not, each publishing looks before it writes.
    pub fn keeps_conditions(&self) -> bool {
        self.shared.conditions.put
    }
}

impl Shared {
    /// The parts of an upload.
    pub(crate) fn layout(&self, upload: &Upload) -> Layout {
        self.layout_of(upload.total, upload.received, upload.handle.as_deref())
    }

    /// A multipart upload goes on as it was begun.
    fn layout_of(&self, total: u64, received: u64, handle: Option<&str>) -> Layout {
        match handle.and_then(Handle::parse).filter(|_| received > 0) {
            Some(handle) => Layout::with_part_size(total, handle.part_size),
            None => Layout::new(total, self.options.smallest_part),
        }
    }

    /// Whether a multipart upload is completed at the upload's destination.
    pub(crate) fn is_direct(&self, upload: &Upload) -> bool {
        upload.direct && self.requests.traits().multipart_at_destination
    }

    /// The name of the object that a multipart upload becomes.
    pub(crate) fn place(&self, upload: &Upload, handle: &Handle) -> String {
        match &handle.place {
            Place::Destination => upload.key.to_string(),
            Place::Staged(name) => format!("{}/{name}", names::session_folder(upload)),
        }
    }
}

#[async_trait]
impl UploadStore for ObjectUploads {
    fn incarnation(&self) -> &str {
        &self.shared.incarnation
    }

    fn pieces_from(&self, session: &Session) -> Option<u64> {
        let layout = self.shared.layout_of(session.total.unwrap_or(0), session.received, session.handle.as_deref());
        (session.state != State::WaitForClose || session.notification.is_some())
            .then(|| layout.told_from(session.received))
    }

    /// Tails are objects of their own. Parts have the same bytes, whoever sends them; where they have
    /// not, completing them fails, and the client begins anew.
    fn takes_writes_at_once(&self) -> bool {
        true
    }

    async fn inspect(&self, key: &StorageKey) -> Result<Destination, StoreError> {
        if !self.shared.requests.takes_name(key.as_str()) {
            let longest = self.shared.requests.traits().longest_key;
            let context = format!("{key} is no name for this object store, which takes {longest} bytes");
            return Err(StoreError::new(StoreErrorKind::InvalidName, context));
        }
        let found = self.shared.requests.head(key.as_str()).await?;
        Ok(if found.is_some() { Destination::File } else { Destination::Absent })
    }

    async fn reserve(&self, upload: &Upload) -> Result<(), StoreError> {
        let (shared, layout) = (&self.shared, self.shared.layout(upload));
        let copied = layout.has_parts() && !shared.is_direct(upload);
        let too_large = layout.part_size() > shared.options.largest_part
            || !shared.memory.can_hold(layout.part_size())
            || (copied && upload.total > shared.requests.traits().largest_copy);
        if too_large {
            let context = format!("{} bytes are more than this object store is set up to take", upload.total);
            return Err(StoreError::new(StoreErrorKind::TooLarge, context));
        }
        Ok(())
    }

    async fn begin(&self, upload: &Upload) -> Result<Option<String>, StoreError> {
        writer::begin(&self.shared, upload).await
    }

    /// Asks the store nothing: what it lost is found when the bytes are used.
    async fn available(&self, upload: &Upload) -> Result<u64, StoreError> {
        let mut reached = self.shared.layout(upload).told_from(upload.received);
        for piece in &upload.pieces {
            if piece.start > reached || !self.has(upload, piece) {
                break;
            }
            reached = reached.max(piece.end());
        }
        Ok(reached)
    }

    async fn write(&self, upload: &Upload, body: &mut BodyStream<'_>) -> Written {
        Writer::new(&self.shared, upload).run(body).await
    }

    async fn sync(&self, upload: &Upload) -> Result<(), StoreError> {
        publish::sync(&self.shared, upload).await
    }

    async fn prepare(&self, upload: &Upload, precondition: Precondition) -> Result<PublishIntent, StoreError> {
        publish::prepare(&self.shared, upload, precondition).await
    }

    async fn publish(
        &self,
        upload: &Upload,
        precondition: Precondition,
        intent: &PublishIntent,
    ) -> Result<(), StoreError> {
        publish::publish(&self.shared, upload, precondition, intent).await
    }

    async fn share(&self, upload: &Upload) -> Result<Option<SharedFiles>, StoreError> {
        reply::share(&self.shared, upload).await
    }

    async fn write_reply(&self, upload: &Upload, body: &mut BodyStream<'_>) -> Result<u64, Stopped> {
        reply::write(&self.shared, upload, body).await
    }

    async fn take_reply(&self, upload: &Upload) -> Result<u64, StoreError> {
        reply::take(&self.shared, upload).await
    }

    async fn discard(&self, upload: &Upload) -> Result<(), StoreError> {
        staged::discard(&self.shared, upload).await
    }

    fn staged(&self, folder: &StorageKey) -> StagedStream {
        staged::list(&self.shared.requests, folder)
    }

    async fn discard_staged(&self, objects: &[StagedObject]) -> Result<(), StoreError> {
        let names: Vec<String> = objects.iter().map(|object| object.name.clone()).collect();
        Ok(self.shared.requests.delete(&names).await?)
    }

    async fn give_up(&self, upload: &Upload) -> Result<(), StoreError> {
        staged::give_up(&self.shared, upload).await
    }

    async fn discard_pieces(&self, upload: &Upload, pieces: &[Piece]) -> Result<(), StoreError> {
        staged::discard_pieces(&self.shared, upload, pieces).await
    }

    async fn open(&self, source: Source<'_>) -> Result<Option<Box<dyn Opened>>, StoreError> {
        reading::open(&self.shared, source).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        let name = format!("{}/check", StorageKey::STAGING);
        self.shared.requests.head(&name).await?;
        Ok(())
    }
}

impl ObjectUploads {
    /// Whether a piece is there, as far as memory tells: what the row has not as synced is nowhere
    /// else.
    fn has(&self, upload: &Upload, piece: &Piece) -> bool {
        match Home::of(piece) {
            Home::Tail(name) if piece.end() > upload.synced => self.shared.pending.holds(&name),
            Home::Tail(_) | Home::Part(_) => true,
        }
    }
}

/// Memory for a whole upload of at most one part; what waits in memory goes to the store first
/// where there is not enough.
pub(crate) async fn memory_for(shared: &Shared, upload: &Upload) -> Result<crate::memory::Lease, StoreError> {
    if let Some(lease) = shared.memory.try_take(upload.total) {
        return Ok(lease);
    }
    publish::put_pending(shared, upload).await?;
    Ok(writer::wait_for_memory(shared, upload.total).await)
}
