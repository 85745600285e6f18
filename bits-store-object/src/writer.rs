//! One write: gathers a part, then sends it; what is left over becomes a tail.

use std::time::Duration;

use bits_core::{BodyStream, Piece, Stopped, StoreError, StoreErrorKind, Upload, Written};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use object_store::{PutMode, PutPayload, PutPayloadMut};

use crate::{
    error::doubtful,
    layout::Layout,
    memory::Lease,
    names::{self, Handle, Home, Place},
    store::Shared,
};

/// More tails of one part are merged.
const MOST_TAILS: usize = 64;
/// Bytes of a body are gathered in blocks of this size.
const BLOCK: usize = 64 << 10;
/// Tails that are read back at once.
const READS: usize = 8;
/// Between two looks for memory that nobody needs any more.
const MEMORY_TICK: Duration = Duration::from_secs(5);

pub(crate) struct Writer<'a> {
    shared: &'a Shared,
    layout: Layout,
    /// With the handle and the pieces as they are by now.
    upload: Upload,
    new_handle: Option<String>,
    written: Vec<Piece>,
    reached: u64,
    /// Bytes in the store, not only in memory.
    synced: u64,
    gathered: PutPayloadMut,
    lease: Lease,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(shared: &'a Shared, upload: &Upload) -> Self {
        Self {
            shared,
            layout: shared.layout(upload),
            upload: upload.clone(),
            new_handle: None,
            written: Vec::new(),
            reached: upload.received,
            synced: upload.synced.max(upload.received.min(upload.synced)),
            gathered: gathering(),
            lease: Lease::default(),
        }
    }

    /// Takes the body to its end. What came is kept whatever ends it.
    pub(crate) async fn run(mut self, body: &mut BodyStream<'_>) -> Written {
        let stopped = match self.take(body).await {
            Ok(()) => self.finish(true).await.err().map(Stopped::Store),
            Err(Stopped::Body(error)) => {
                Some(self.finish(false).await.map_or_else(Stopped::Store, |()| Stopped::Body(error)))
            }
            Err(Stopped::Store(error)) => Some(Stopped::Store(error)),
        };
        Written { reached: self.reached, synced: self.synced, pieces: self.written, handle: self.new_handle, stopped }
    }

    async fn take(&mut self, body: &mut BodyStream<'_>) -> Result<(), Stopped> {
        while let Some(chunk) = body.next().await {
            self.gather(chunk?).await?;
        }
        Ok(())
    }

    async fn gather(&mut self, mut bytes: Bytes) -> Result<(), StoreError> {
        while !bytes.is_empty() {
            let room = self.layout.end(self.reached) - self.end();
            if room == 0 {
                let context = "more bytes came than the upload has";
                return Err(StoreError::new(StoreErrorKind::Other, context));
            }
            let now = bytes.split_to(bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX)).min(BLOCK));
            self.make_room(now.len() as u64).await?;
            self.gathered.extend_from_slice(&now);
            if self.end() == self.layout.end(self.reached) && self.layout.has_parts() {
                self.put_part().await?;
            }
        }
        Ok(())
    }

    /// Where memory is short, what is held goes to the store before more is waited for.
    async fn make_room(&mut self, bytes: u64) -> Result<(), StoreError> {
        let more = match self.shared.memory.try_take(bytes) {
            Some(more) => more,
            None => {
                self.put_tail().await?;
                self.wait_for_memory(bytes).await
            }
        };
        self.lease.add(more);
        Ok(())
    }

    async fn wait_for_memory(&self, bytes: u64) -> Lease {
        wait_for_memory(self.shared, bytes).await
    }

    /// Stores what was gathered. The end of a whole upload that is published at once may stay in
    /// memory until then.
    async fn finish(&mut self, well: bool) -> Result<(), StoreError> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let is_last = self.end() == self.upload.total && !self.layout.has_parts();
        if well && is_last && self.upload.direct {
            self.keep_pending()
        } else {
            self.put_tail().await?
        }
        Ok(())
    }

    fn keep_pending(&mut self) {
        let (payload, lease) = self.take_gathered();
        let name = names::fresh(self.upload.epoch, self.reached);
        let len = payload.content_length() as u64;
        self.synced = self.synced.max(self.reached);
        self.shared.pending.put(name.clone(), payload, lease);
        self.wrote(Piece { start: self.reached, len, id: Home::Tail(name).to_string() });
    }

    /// Stores what was gathered as an object of its own, with older ones where they are many.
    async fn put_tail(&mut self) -> Result<(), StoreError> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let start = self.tail_start();
        if start < self.reached && !self.has_memory_for(start) {
            // Merging can wait, what was gathered cannot.
            return self.put_tail_from(self.reached).await;
        }
        self.put_tail_from(start).await
    }

    /// Where the next tail starts: further back when tails are many, over those that are together
    /// not much larger than what is added, so that no byte is copied often.
    fn tail_start(&self) -> u64 {
        let part = self.layout.start(self.reached);
        let tails: Vec<&Piece> = self.tails(part).collect();
        let (mut start, mut size) = (self.reached, self.end() - self.reached);
        if tails.len() < MOST_TAILS {
            return start;
        }
        for tail in tails.into_iter().rev() {
            if tail.len > 2 * size {
                break;
            }
            (start, size) = (tail.start, size + tail.len);
        }
        start
    }

    fn has_memory_for(&mut self, start: u64) -> bool {
        let more = self.shared.memory.try_take(self.reached - start);
        let is_there = more.is_some();
        self.lease.add(more.unwrap_or_default());
        is_there
    }

    async fn put_tail_from(&mut self, start: u64) -> Result<(), StoreError> {
        let payload = self.with_tails(start).await?;
        let (len, name) = (payload.content_length() as u64, names::fresh(self.upload.epoch, start));
        let object = format!("{}/{name}", names::session_folder(&self.upload));
        self.shared.requests.put(&object, payload, PutMode::Overwrite, Some(self.upload.session)).await?;
        self.lease = Lease::default();
        self.wrote(Piece { start, len, id: Home::Tail(name).to_string() });
        self.synced = self.reached;
        Ok(())
    }

    /// Stores a part that is full, or the last one.
    async fn put_part(&mut self) -> Result<(), StoreError> {
        let start = self.layout.start(self.reached);
        if start < self.reached && !self.has_memory_for(start) {
            // With everything in the store nothing is held while memory is waited for.
            self.put_tail_from(self.reached).await?;
            self.lease = self.wait_for_memory(self.layout.part_size()).await;
        }
        let payload = self.with_tails(start).await?;
        let len = payload.content_length() as u64;
        let content = self.send_part(start, payload).await?;
        self.lease = Lease::default();
        self.wrote(Piece { start, len, id: Home::Part(content).to_string() });
        self.synced = self.reached;
        Ok(())
    }

    async fn send_part(&mut self, start: u64, payload: PutPayload) -> Result<String, StoreError> {
        let number = self.layout.number(start);
        let handle = match Handle::of(&self.upload).filter(|handle| self.may_go_on(handle, start)) {
            Some(handle) => handle,
            None => self.begin_multipart().await?,
        };
        let place = self.shared.place(&self.upload, &handle);
        match self.shared.requests.put_part(&place, &handle.id, number, payload.clone()).await {
            Err(failed) if failed.is_part_gone() && start == 0 => {
                let handle = self.begin_multipart().await?;
                let place = self.shared.place(&self.upload, &handle);
                Ok(self.shared.requests.put_part(&place, &handle.id, number, payload).await?)
            }
            Err(failed) if failed.is_part_gone() => Err(failed.meaning(StoreErrorKind::Doubtful { good: 0 })),
            other => Ok(other?),
        }
    }

    /// From the first part on a multipart upload is begun anew where the session was sent back, or
    /// where it would end up at the wrong place.
    fn may_go_on(&self, handle: &Handle, start: u64) -> bool {
        start > 0
            || (handle.epoch == self.upload.epoch
                && handle.part_size == self.layout.part_size()
                && self.shared.is_direct(&self.upload) == is_at_destination(handle))
    }

    async fn begin_multipart(&mut self) -> Result<Handle, StoreError> {
        if self.layout.start(self.reached) > 0 {
            return Err(doubtful(0, "the session names no multipart upload that its parts could belong to"));
        }
        let Upload { session, epoch, .. } = self.upload;
        let place = if self.shared.is_direct(&self.upload) {
            Place::Destination
        } else {
            Place::Staged(names::fresh_whole(epoch))
        };
        let mut handle = Handle { epoch, part_size: self.layout.part_size(), place, id: String::new() };
        let name = self.shared.place(&self.upload, &handle);
        handle.id = self.shared.requests.create_multipart(&name, session).await?;
        self.upload.handle = Some(handle.to_string());
        self.new_handle = self.upload.handle.clone();
        Ok(handle)
    }

    /// The bytes from `start` on: tails that are read back, then what was gathered.
    async fn with_tails(&mut self, start: u64) -> Result<PutPayload, StoreError> {
        let tails: Vec<Piece> = self.tails(start).cloned().collect();
        let end = tails.iter().try_fold(start, |end, tail| (tail.start == end).then(|| tail.end()));
        if end != Some(self.reached) {
            // They are newer than the row that they were read for: its commit will fail.
            return Err(doubtful(start, format!("the staged objects from {start} do not end at {}", self.reached)));
        }
        let older = read_pieces(self.shared, &self.upload, &tails).await?;
        let mut payload = gathering();
        older.into_iter().for_each(|bytes| payload.push(bytes));
        // What was gathered stays until it is stored: a failure must not lose it.
        let gathered = std::mem::replace(&mut self.gathered, gathering()).freeze();
        gathered.iter().for_each(|bytes| payload.push(bytes.clone()));
        gathered.iter().for_each(|bytes| self.gathered.push(bytes.clone()));
        Ok(payload.freeze())
    }

    fn tails(&self, from: u64) -> impl Iterator<Item = &Piece> {
        self.upload.pieces.iter().filter(move |piece| piece.start >= from && piece.start < self.reached)
    }

    fn take_gathered(&mut self) -> (PutPayload, Lease) {
        let payload = std::mem::replace(&mut self.gathered, gathering()).freeze();
        (payload, std::mem::take(&mut self.lease))
    }

    /// Offset after the last byte that was gathered.
    fn end(&self) -> u64 {
        self.reached + self.gathered.content_length() as u64
    }

    fn wrote(&mut self, piece: Piece) {
        self.reached = piece.end();
        self.gathered = gathering();
        self.upload.pieces.retain(|old| old.start < piece.start);
        self.written.retain(|old| old.start < piece.start);
        self.upload.pieces.push(piece.clone());
        self.written.push(piece);
    }
}

/// Begins a multipart upload before the first part, where there are to be parts and the upload has
/// none that they could belong to.
pub(crate) async fn begin(shared: &Shared, upload: &Upload) -> Result<Option<String>, StoreError> {
    let mut writer = Writer::new(shared, upload);
    let start = writer.layout.start(upload.received);
    let goes_on = Handle::of(upload).is_some_and(|handle| writer.may_go_on(&handle, start));
    if writer.layout.has_parts() && start == 0 && !goes_on {
        writer.begin_multipart().await?;
    }
    Ok(writer.new_handle)
}

/// The bytes of pieces in order, those in memory too.
pub(crate) async fn read_pieces(shared: &Shared, upload: &Upload, pieces: &[Piece]) -> Result<Vec<Bytes>, StoreError> {
    let reads: Vec<BoxFuture<'_, _>> = pieces.iter().map(|piece| read_piece(shared, upload, piece).boxed()).collect();
    let read: Vec<Vec<Bytes>> = stream::iter(reads).buffered(READS).try_collect().await?;
    Ok(read.into_iter().flatten().collect())
}

async fn read_piece(shared: &Shared, upload: &Upload, piece: &Piece) -> Result<Vec<Bytes>, StoreError> {
    let Home::Tail(name) = Home::of(piece) else {
        return Err(doubtful(piece.start, "a part stands where a staged object is wanted"));
    };
    if let Some(payload) = shared.pending.get(&name) {
        return Ok(payload.iter().cloned().collect());
    }
    let object = format!("{}/{name}", names::session_folder(upload));
    match shared.requests.get(&object, piece.len).await {
        Ok(bytes) if bytes.len() as u64 == piece.len => Ok(vec![bytes]),
        Ok(bytes) => {
            Err(doubtful(piece.start, format!("{object} has {} bytes and should have {}", bytes.len(), piece.len)))
        }
        Err(failed) if failed.is_missing() => Err(failed.meaning(StoreErrorKind::Doubtful { good: piece.start })),
        Err(failed) => Err(failed.into()),
    }
}

/// Memory in turn, for whoever holds none. What nobody needs any more is given back meanwhile.
pub(crate) async fn wait_for_memory(shared: &Shared, bytes: u64) -> Lease {
    let mut taking = std::pin::pin!(shared.memory.take(bytes));
    loop {
        shared.pending.drop_old();
        if let Ok(lease) = tokio::time::timeout(MEMORY_TICK, &mut taking).await {
            return lease;
        }
    }
}

fn is_at_destination(handle: &Handle) -> bool {
    handle.place == Place::Destination
}

fn gathering() -> PutPayloadMut {
    PutPayloadMut::new().with_block_size(BLOCK)
}
