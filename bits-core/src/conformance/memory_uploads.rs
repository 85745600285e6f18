//! An object store in memory: whole parts in multipart uploads, tails as small objects.
//!
//! It keeps to what real object stores offer: objects are written whole and never changed, parts
//! are numbered by position and name nobody their content, a multipart upload is completed in one
//! step that replaces whatever stands at its key. It shows that [`UploadStore`] can be met so.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use crate::{
    BodyStream, ByteStream, Destination, ObjectInfo, Opened, Piece, Precondition, PublishIntent, Session, SessionId,
    Source, State, Stopped, StorageKey, StoreError, StoreErrorKind, Timestamp, Upload, UploadStore, Written,
};

/// Bytes of an object that are read at once.
const READ: u64 = 4096;
/// So many tails of one part are merged into one.
const MAXIMUM_TAILS: usize = 4;

/// An [`UploadStore`] that forgets everything with the process, and loses things when told to.
///
/// [`restart`](Self::restart) gives the store as the next process finds it.
#[derive(Debug)]
pub struct MemoryUploads {
    part_size: u64,
    incarnation: String,
    /// Whether tails become durable by [`UploadStore::sync`] only.
    volatile: bool,
    alive: AtomicBool,
    bucket: Arc<Mutex<Bucket>>,
}

/// When and how the next publishing fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishFault {
    /// Before anything was done.
    Before(StoreErrorKind),
    /// The upload stands at its destination, but the answer is an error.
    After(StoreErrorKind),
}

/// What outlives a process.
#[derive(Debug, Default)]
struct Bucket {
    objects: BTreeMap<String, Object>,
    multiparts: BTreeMap<String, Multipart>,
    /// Makes names and ETags unique.
    counter: u64,
    restarts: u64,
    write_fault: Option<(u64, StoreErrorKind)>,
    publish_fault: Option<PublishFault>,
}

#[derive(Debug)]
struct Object {
    data: Bytes,
    /// Metadata: whose upload it is.
    session: SessionId,
    durable: bool,
    /// Another one for every object.
    etag: u64,
}

#[derive(Debug)]
struct Multipart {
    session: SessionId,
    parts: BTreeMap<u64, Part>,
}

#[derive(Debug)]
struct Part {
    data: Bytes,
    etag: u64,
}

/// What [`Piece::id`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Home {
    Tail(String),
    Part { number: u64, etag: u64 },
}

impl MemoryUploads {
    /// An empty store whose writes are durable at once.
    pub fn new(part_size: u64) -> Self {
        Self {
            part_size,
            incarnation: "durable".to_owned(),
            volatile: false,
            alive: AtomicBool::new(true),
            bucket: Arc::default(),
        }
    }

    /// An empty store that loses with a restart what fills no part and was not synced: as on a
    /// disk without power, some of it is gone, some has become zeros.
    pub fn volatile(part_size: u64) -> Self {
        Self { volatile: true, incarnation: "boot 0".to_owned(), ..Self::new(part_size) }
    }

    /// The store as it is found after its process or machine died. This one answers no more.
    pub fn restart(&self) -> Self {
        self.alive.store(false, Ordering::SeqCst);
        let mut bucket = self.bucket();
        bucket.restarts += 1;
        bucket.lose_power();
        let incarnation = if self.volatile { format!("boot {}", bucket.restarts) } else { self.incarnation.clone() };
        Self {
            part_size: self.part_size,
            incarnation,
            volatile: self.volatile,
            alive: AtomicBool::new(true),
            bucket: Arc::clone(&self.bucket),
        }
    }

    /// The published object at `key`.
    pub fn read(&self, key: &StorageKey) -> Option<Bytes> {
        self.bucket().objects.get(key.as_str()).map(|object| object.data.clone())
    }

    /// Names of everything staged: small objects, and multipart uploads under way.
    pub fn staged(&self) -> Vec<String> {
        let bucket = self.bucket();
        let tails = bucket.objects.keys().filter(|name| is_staging(name));
        tails.chain(bucket.multiparts.keys()).cloned().collect()
    }

    /// Loses the bytes of a piece; returns whether they were there.
    pub fn lose(&self, upload: &Upload, piece: &Piece) -> bool {
        let mut bucket = self.bucket();
        match Home::parse(&piece.id) {
            Some(Home::Tail(name)) => bucket.objects.remove(&name).is_some(),
            Some(Home::Part { number, .. }) => {
                bucket.multipart(upload).is_some_and(|multipart| multipart.parts.remove(&number).is_some())
            }
            None => false,
        }
    }

    /// Forgets every unfinished multipart upload of sessions that are not `kept`, as a bucket's
    /// lifecycle rule does.
    pub fn forget_multiparts(&self, mut kept: impl FnMut(SessionId) -> bool) {
        self.bucket().multiparts.retain(|_, multipart| kept(multipart.session));
    }

    /// The next write fails when it has taken `after` bytes, and keeps them.
    pub fn fail_next_write(&self, after: u64, kind: StoreErrorKind) {
        self.bucket().write_fault = Some((after, kind));
    }

    /// The next publishing fails.
    pub fn fail_next_publish(&self, fault: PublishFault) {
        self.bucket().publish_fault = Some(fault);
    }

    /// Nothing fails any more that was to fail.
    pub fn forget_faults(&self) {
        let mut bucket = self.bucket();
        (bucket.write_fault, bucket.publish_fault) = (None, None);
    }

    /// Every change below is made in one go, so a panic elsewhere leaves nothing half done.
    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bucket, for as long as this process lives.
    fn reach(&self) -> Result<MutexGuard<'_, Bucket>, StoreError> {
        let bucket = self.bucket();
        if self.alive.load(Ordering::SeqCst) {
            return Ok(bucket);
        }
        Err(StoreError::new(StoreErrorKind::Unavailable, "the store was restarted; use the new one"))
    }

    /// Where the part that `offset` lies in starts.
    fn part_start(&self, offset: u64) -> u64 {
        offset - offset % self.part_size
    }

    fn told_from(&self, total: Option<u64>, received: u64) -> u64 {
        if total == Some(received) { 0 } else { self.part_start(received) }
    }

    /// Whether the upload is put together from parts, rather than written in one go.
    fn has_parts(&self, upload: &Upload) -> bool {
        upload.total > self.part_size
    }

    /// How far the told pieces reach without a gap, as far as their bytes are there.
    fn reached(&self, bucket: &mut Bucket, upload: &Upload) -> u64 {
        let from = self.told_from(Some(upload.total), upload.received);
        if from > 0 && bucket.multipart(upload).is_none() {
            return 0;
        }
        let mut reached = from;
        for piece in upload.pieces.iter().filter(|piece| piece.end() > from) {
            if piece.start != reached || bucket.data(upload, piece).is_none() {
                break;
            }
            reached = piece.end();
        }
        reached
    }

    fn cleanup(&self, bucket: &mut Bucket, upload: &Upload) {
        let prefix = staging(upload);
        let reply = reply(upload);
        bucket.objects.retain(|name, _| !name.starts_with(&prefix) || *name == reply);
        if let Some(handle) = &upload.handle {
            bucket.multiparts.remove(handle);
        }
    }
}

#[async_trait]
impl UploadStore for MemoryUploads {
    fn incarnation(&self) -> &str {
        &self.incarnation
    }

    fn pieces_from(&self, session: &Session) -> Option<u64> {
        (session.state != State::WaitForClose).then(|| self.told_from(session.total, session.received))
    }

    async fn inspect(&self, key: &StorageKey) -> Result<Destination, StoreError> {
        let stands = self.reach()?.objects.contains_key(key.as_str());
        Ok(if stands { Destination::File } else { Destination::Absent })
    }

    async fn reserve(&self, _upload: &Upload) -> Result<(), StoreError> {
        self.reach().map(drop)
    }

    async fn begin(&self, upload: &Upload) -> Result<Option<String>, StoreError> {
        let mut bucket = self.reach()?;
        let needs_none = !self.has_parts(upload) || upload.received >= self.part_size;
        Ok((!needs_none && bucket.multipart(upload).is_none()).then(|| bucket.begin(upload)))
    }

    async fn available(&self, upload: &Upload) -> Result<u64, StoreError> {
        let mut bucket = self.reach()?;
        Ok(self.reached(&mut bucket, upload))
    }

    async fn write(&self, upload: &Upload, body: &mut BodyStream<'_>) -> Written {
        let mut writer = Writer::new(self, upload);
        let mut stopped = writer.open().err().map(Stopped::Store);
        while stopped.is_none() {
            stopped = match body.next().await {
                Some(Ok(bytes)) => writer.take(&bytes).err().map(Stopped::Store),
                Some(Err(error)) => Some(Stopped::Body(error)),
                None => break,
            };
        }
        if let Err(error) = writer.finish() {
            stopped.get_or_insert(Stopped::Store(error));
        }
        writer.into_written(stopped)
    }

    async fn sync(&self, upload: &Upload) -> Result<(), StoreError> {
        let mut bucket = self.reach()?;
        bucket.make_durable(upload);
        let good = self.reached(&mut bucket, upload);
        if good < upload.received {
            return Err(doubtful(good, "bytes that were stored are gone"));
        }
        Ok(())
    }

    async fn prepare(&self, upload: &Upload, precondition: Precondition) -> Result<PublishIntent, StoreError> {
        self.sync(upload).await?;
        let bucket = self.reach()?;
        bucket.check_destination(upload, precondition)?;
        Ok(PublishIntent(if self.has_parts(upload) { "complete" } else { "put" }.to_owned()))
    }

    async fn publish(
        &self,
        upload: &Upload,
        precondition: Precondition,
        intent: &PublishIntent,
    ) -> Result<(), StoreError> {
        let mut bucket = self.reach()?;
        let fault = bucket.publish_fault.take();
        if let Some(PublishFault::Before(kind)) = fault {
            return Err(StoreError::new(kind, "publishing was told to fail"));
        }
        // An error proves nothing, so the destination's metadata is asked before anything is done.
        if !bucket.stands(upload) {
            bucket.check_destination(upload, precondition)?;
            let data = bucket.assemble(upload, intent)?;
            bucket.put(upload.key.to_string(), data, upload.session, true);
        }
        if let Some(PublishFault::After(kind)) = fault {
            return Err(StoreError::new(kind, "publishing was told to fail after it was done"));
        }
        self.cleanup(&mut bucket, upload);
        Ok(())
    }

    async fn write_reply(&self, upload: &Upload, body: &mut BodyStream<'_>) -> Result<u64, Stopped> {
        let mut data = Vec::new();
        while let Some(bytes) = body.next().await {
            data.extend_from_slice(&bytes?);
        }
        let mut bucket = self.reach()?;
        let length = data.len() as u64;
        bucket.objects.remove(&reply(upload));
        if length > 0 {
            bucket.put(reply(upload), data.into(), upload.session, true);
        }
        Ok(length)
    }

    async fn discard(&self, upload: &Upload) -> Result<(), StoreError> {
        let mut bucket = self.reach()?;
        self.cleanup(&mut bucket, upload);
        bucket.objects.remove(&reply(upload));
        Ok(())
    }

    async fn give_up(&self, upload: &Upload) -> Result<(), StoreError> {
        let mut bucket = self.reach()?;
        if let Some(handle) = &upload.handle {
            bucket.multiparts.remove(handle);
        }
        Ok(())
    }

    async fn discard_pieces(&self, upload: &Upload, pieces: &[Piece]) -> Result<(), StoreError> {
        let mut bucket = self.reach()?;
        // What the old tails were merged into must be as safe as they were.
        if !pieces.is_empty() {
            bucket.make_durable(upload);
        }
        for piece in pieces {
            // A part goes with its multipart upload, or when its number is written again.
            if let Some(Home::Tail(name)) = Home::parse(&piece.id) {
                bucket.objects.remove(&name);
            }
        }
        Ok(())
    }

    async fn open(&self, source: Source<'_>) -> Result<Option<Box<dyn Opened>>, StoreError> {
        let mut bucket = self.reach()?;
        let name = match source {
            Source::Published(key) => key.to_string(),
            Source::Staged(upload) => bucket.complete_staged(upload)?,
            Source::Reply(upload) => reply(upload),
        };
        let object = bucket.objects.get(&name).map(|object| OpenedObject {
            info: ObjectInfo {
                size: object.data.len() as u64,
                modified: Timestamp::from_millis(object.etag as i64 * 1000),
                strong_date: true,
                tag: object.etag.to_string(),
            },
            etag: object.etag,
            bucket: Arc::clone(&self.bucket),
            name,
        });
        Ok(object.map(|object| Box::new(object) as Box<dyn Opened>))
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.reach().map(drop)
    }
}

/// Each read is a request of its own that names the content it expects.
struct OpenedObject {
    info: ObjectInfo,
    etag: u64,
    bucket: Arc<Mutex<Bucket>>,
    name: String,
}

impl Opened for OpenedObject {
    fn info(&self) -> &ObjectInfo {
        &self.info
    }

    fn read(&self, range: Range<u64>) -> ByteStream {
        let (bucket, name, etag) = (Arc::clone(&self.bucket), self.name.clone(), self.etag);
        let range = range.start..range.end.min(self.info.size);
        Box::pin(stream::try_unfold(range, move |range| {
            let read = || {
                if range.is_empty() {
                    return Ok(None);
                }
                let now = range.start..range.end.min(range.start + READ);
                let bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
                let object = bucket.objects.get(&name).filter(|object| object.etag == etag);
                let object = object.ok_or_else(|| {
                    StoreError::new(StoreErrorKind::Missing, format!("{name} was replaced or deleted"))
                })?;
                Ok(Some((object.data.slice(now.start as usize..now.end as usize), now.end..range.end)))
            };
            std::future::ready(read())
        }))
    }
}

impl Bucket {
    /// Of what was not synced every second object is gone, the others have their size only.
    fn lose_power(&mut self) {
        let mut gone = !self.restarts.is_multiple_of(2);
        self.objects.retain(|_, object| {
            if !object.durable {
                gone = !gone;
                object.data = vec![0; object.data.len()].into();
            }
            object.durable || !gone
        });
    }

    fn unique(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// A new multipart upload; its handle.
    fn begin(&mut self, upload: &Upload) -> String {
        let handle = format!("{} upload {}", upload.key, self.unique());
        let multipart = Multipart { session: upload.session, parts: BTreeMap::new() };
        self.multiparts.insert(handle.clone(), multipart);
        handle
    }

    fn multipart(&mut self, upload: &Upload) -> Option<&mut Multipart> {
        self.multiparts.get_mut(upload.handle.as_ref()?)
    }

    /// The bytes of a piece, if they are there and are still the ones that it names.
    fn data(&mut self, upload: &Upload, piece: &Piece) -> Option<Bytes> {
        match Home::parse(&piece.id)? {
            Home::Tail(name) => self.objects.get(&name).map(|object| object.data.clone()),
            Home::Part { number, etag } => {
                if let Some(Object { data, .. }) = self.objects.get(&completed(upload)?) {
                    return data.get(piece.start as usize..piece.end() as usize).map(|part| data.slice_ref(part));
                }
                let part = self.multipart(upload)?.parts.get(&number)?;
                (part.etag == etag).then(|| part.data.clone())
            }
        }
    }

    fn put(&mut self, name: String, data: Bytes, session: SessionId, durable: bool) {
        let etag = self.unique();
        self.objects.insert(name, Object { data, session, durable, etag });
    }

    /// Makes one object of a whole upload, still staged: neither parts nor many tails can be read
    /// as one.
    fn complete_staged(&mut self, upload: &Upload) -> Result<String, StoreError> {
        let name = completed(upload).unwrap_or_else(|| format!("{}{}-whole", staging(upload), upload.epoch));
        if !self.objects.contains_key(&name) {
            let data = self.assemble(upload, &PublishIntent("complete".to_owned()))?;
            self.put(name.clone(), data, upload.session, true);
        }
        Ok(name)
    }

    fn make_durable(&mut self, upload: &Upload) {
        let prefix = staging(upload);
        for (_, object) in self.objects.range_mut(prefix.clone()..).take_while(|(name, _)| name.starts_with(&prefix)) {
            object.durable = true;
        }
    }

    fn stands(&self, upload: &Upload) -> bool {
        self.objects.get(upload.key.as_str()).is_some_and(|object| object.session == upload.session)
    }

    fn check_destination(&self, upload: &Upload, precondition: Precondition) -> Result<(), StoreError> {
        let taken = self.objects.contains_key(upload.key.as_str()) && !self.stands(upload);
        if taken && !precondition.overwrite {
            return Err(StoreError::new(StoreErrorKind::Exists, format!("{} exists", upload.key)));
        }
        Ok(())
    }

    /// Completes the multipart upload, or reads back what one object will hold.
    fn assemble(&mut self, upload: &Upload, intent: &PublishIntent) -> Result<Bytes, StoreError> {
        let mut whole = Vec::new();
        for piece in &upload.pieces {
            let data = self.data(upload, piece).filter(|_| piece.start == whole.len() as u64);
            whole.extend(data.ok_or_else(|| doubtful(piece.start.min(whole.len() as u64), "a piece is gone"))?);
        }
        if (whole.len() as u64) < upload.total {
            return Err(doubtful(whole.len() as u64, "the pieces are shorter than the upload"));
        }
        if intent.0 == "complete"
            && let Some(handle) = &upload.handle
        {
            self.multiparts.remove(handle);
        }
        Ok(whole.into())
    }
}

/// One [`UploadStore::write`]: gathers a part, then sends it; what is left over becomes a tail.
struct Writer<'a> {
    store: &'a MemoryUploads,
    /// With the handle and the pieces as they are by now.
    upload: Upload,
    new_handle: Option<String>,
    written: Vec<Piece>,
    reached: u64,
    /// Bytes in whole parts, or synced before.
    synced: u64,
    buffer: Vec<u8>,
    fault: Option<(u64, StoreErrorKind)>,
}

impl<'a> Writer<'a> {
    fn new(store: &'a MemoryUploads, upload: &Upload) -> Self {
        Self {
            store,
            upload: upload.clone(),
            new_handle: None,
            written: Vec::new(),
            reached: upload.received,
            synced: upload.synced,
            buffer: Vec::new(),
            fault: None,
        }
    }

    fn open(&mut self) -> Result<(), StoreError> {
        let mut bucket = self.store.reach()?;
        self.fault = bucket.write_fault.take();
        let good = self.store.reached(&mut bucket, &self.upload);
        if good < self.upload.received {
            return Err(doubtful(good, "bytes before the fragment are gone"));
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let (mut bytes, failure) = match &mut self.fault {
            Some((after, kind)) if bytes.len() as u64 >= *after => (&bytes[..*after as usize], Some(*kind)),
            Some((after, _)) => {
                *after -= bytes.len() as u64;
                (bytes, None)
            }
            None => (bytes, None),
        };
        while !bytes.is_empty() {
            let room = self.part_end() - self.end();
            let (now, later) = bytes.split_at(bytes.len().min(room as usize));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.end() == self.part_end() {
                self.flush()?;
            }
        }
        failure.map_or(Ok(()), |kind| Err(StoreError::new(kind, "writing was told to fail")))
    }

    fn finish(&mut self) -> Result<(), StoreError> {
        if self.buffer.is_empty() { Ok(()) } else { self.flush() }
    }

    fn into_written(self, stopped: Option<Stopped>) -> Written {
        let synced = if self.store.volatile { self.synced } else { self.reached };
        Written { reached: self.reached, synced, pieces: self.written, handle: self.new_handle, stopped }
    }

    /// Offset after the last byte that was taken.
    fn end(&self) -> u64 {
        self.reached + self.buffer.len() as u64
    }

    fn part_end(&self) -> u64 {
        self.store.part_start(self.reached) + self.store.part_size
    }

    /// Makes the buffer a part if it fills one or ends the upload, a tail else.
    fn flush(&mut self) -> Result<(), StoreError> {
        let whole = self.end() == self.part_end() || self.end() == self.upload.total;
        if whole && self.store.has_parts(&self.upload) { self.put_part() } else { self.put_tail() }
    }

    fn put_part(&mut self) -> Result<(), StoreError> {
        let mut bucket = self.store.reach()?;
        let start = self.store.part_start(self.reached);
        let data = self.with_tails(&mut bucket, start)?;
        let handle = self.multipart(&mut bucket)?;
        let (number, etag) = (start / self.store.part_size, bucket.unique());
        let part = Part { data: data.into(), etag };
        if let Some(multipart) = bucket.multiparts.get_mut(&handle) {
            multipart.parts.insert(number, part);
        }
        drop(bucket);
        self.wrote(start, &Home::Part { number, etag });
        self.synced = self.reached;
        Ok(())
    }

    fn put_tail(&mut self) -> Result<(), StoreError> {
        let mut bucket = self.store.reach()?;
        let part_start = self.store.part_start(self.reached);
        let merge = self.tails(part_start).count() >= MAXIMUM_TAILS;
        let start = if merge { part_start } else { self.reached };
        let data = self.with_tails(&mut bucket, start)?;
        let name = format!("{}{}-{start}-{}", staging(&self.upload), self.upload.epoch, bucket.unique());
        bucket.put(name.clone(), data.into(), self.upload.session, !self.store.volatile);
        drop(bucket);
        self.wrote(start, &Home::Tail(name));
        Ok(())
    }

    /// The bytes from `start` on: tails that are read back, then the buffer.
    fn with_tails(&self, bucket: &mut Bucket, start: u64) -> Result<Vec<u8>, StoreError> {
        let mut data = Vec::new();
        for piece in self.tails(start) {
            let tail = bucket.data(&self.upload, piece);
            data.extend(tail.ok_or_else(|| doubtful(piece.start, "a tail is gone"))?);
        }
        data.extend(&self.buffer);
        Ok(data)
    }

    fn tails(&self, from: u64) -> impl Iterator<Item = &Piece> {
        self.upload.pieces.iter().filter(move |piece| piece.start >= from && piece.start < self.reached)
    }

    /// The upload's multipart, a new one where it has none.
    fn multipart(&mut self, bucket: &mut Bucket) -> Result<String, StoreError> {
        if let Some(handle) = &self.upload.handle
            && bucket.multiparts.contains_key(handle)
        {
            return Ok(handle.clone());
        }
        if self.reached >= self.store.part_size {
            return Err(doubtful(0, "the multipart upload is gone"));
        }
        let handle = bucket.begin(&self.upload);
        self.upload.handle = Some(handle.clone());
        self.new_handle = Some(handle.clone());
        Ok(handle)
    }

    fn wrote(&mut self, start: u64, home: &Home) {
        let end = self.end();
        let piece = Piece { start, len: end - start, id: home.to_string() };
        self.reached = end;
        self.buffer.clear();
        self.upload.pieces.retain(|old| old.start < start);
        self.upload.pieces.push(piece.clone());
        self.written.push(piece);
    }
}

impl Home {
    fn parse(id: &str) -> Option<Self> {
        if let Some(name) = id.strip_prefix("tail ") {
            return Some(Self::Tail(name.to_owned()));
        }
        let (number, etag) = id.strip_prefix("part ")?.split_once(' ')?;
        Some(Self::Part { number: number.parse().ok()?, etag: etag.parse().ok()? })
    }
}

impl std::fmt::Display for Home {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tail(name) => write!(f, "tail {name}"),
            Self::Part { number, etag } => write!(f, "part {number} {etag}"),
        }
    }
}

/// The prefix of everything that is staged as objects for a session.
fn staging(upload: &Upload) -> String {
    let slash = if upload.folder == StorageKey::ROOT { "" } else { "/" };
    format!("{}{slash}{}/{}/", upload.folder, StorageKey::STAGING, upload.session.uuid())
}

/// What a multipart upload becomes where it is completed before it is published.
fn completed(upload: &Upload) -> Option<String> {
    let (_, number) = upload.handle.as_ref()?.rsplit_once(' ')?;
    Some(format!("{}whole-{number}", staging(upload)))
}

/// Where the reply of a server application is kept.
fn reply(upload: &Upload) -> String {
    format!("{}reply", staging(upload))
}

fn is_staging(name: &str) -> bool {
    name.split('/').any(|segment| segment == StorageKey::STAGING)
}

fn doubtful(good: u64, context: &str) -> StoreError {
    StoreError::new(StoreErrorKind::Doubtful { good }, context)
}
