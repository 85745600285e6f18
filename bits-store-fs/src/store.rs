//! The store itself: which call blocks where, and what it tells its caller.

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use bits_core::{
    BodyError, BodyStream, Destination, Opened, Precondition, PublishIntent, SessionId, SharedFiles, Source, Stopped,
    StorageKey, StoreError, StoreErrorKind, Upload, UploadStore, Written,
};
use futures_util::StreamExt;
use rustix::fs::{Access, AtFlags, StatVfsMountFlags, accessat, fstatvfs};
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::{OwnedMutexGuard, Semaphore},
    task::{JoinError, block_in_place, spawn_blocking},
};

use crate::{
    batch::Batch,
    brief::Brief,
    error::failed,
    progress::Checkpoint,
    publish,
    reading::Reading,
    reply::{self, Writer},
    room::Room,
    root::{Root, is_removed},
    staging::{self, Disk, Place, Staged},
    sys,
    table::Table,
};

/// Checkpoints that are made at once before they are due.
const WELCOME_AT_ONCE: usize = 1;

/// When written bytes are put on stable storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncAt {
    /// After 64 MiB or 3 to 5 seconds of an upload's progress, and before it is published. A machine
    /// that dies can take what came after the last checkpoint.
    #[default]
    Checkpoint,
    /// Before each write returns.
    Fragment,
}

/// How a [`LocalStore`] works.
#[derive(Clone, Debug)]
pub struct Options {
    /// When written bytes are put on stable storage.
    pub sync: SyncAt,
    /// Bytes of free space that no upload is promised. Default: 1 GiB.
    pub reserve_free: u64,
    /// Permissions of folders that are made before anything is published: the root (without
    /// set-id bits) and what lies above `BITS-Sessions`. Default: `0o2750`.
    pub folder_mode: u32,
    /// Other permissions for folders above the `BITS-Sessions` of these folders. Default: none.
    pub folder_modes: Vec<(StorageKey, u32)>,
    /// How many files of uploads under way stay open between their fragments. Closing one early
    /// costs a sync. Default: a quarter of what the process may open, from 64 to 16,384.
    pub open_files: usize,
    /// What [`UploadStore::incarnation`] says; by default the machine's boot.
    pub incarnation: Option<String>,
    /// Told how long it took to make bytes of an upload durable, at a checkpoint or at its end, and
    /// whether that went well. It must not block.
    pub on_sync: fn(Duration, bool),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sync: SyncAt::default(),
            reserve_free: 1 << 30,
            folder_mode: 0o2750,
            folder_modes: Vec::new(),
            open_files: (sys::open_file_limit() / 4).clamp(64, 16_384),
            incarnation: None,
            on_sync: |_, _| {},
        }
    }
}

/// Uploads on a local disk, below one folder.
///
/// Calls for one session take turns; a write holds its turn until its body ends. System calls run
/// on the runtime's blocking threads, but on a multi-threaded runtime the writes of a body run in
/// place, so such a write must not be polled inside a `LocalSet`, and so do looks at a name. One of the
/// runtime's threads at least is never held up by them. A future that is dropped
/// leaves the system call under way to end by itself; the next call for the session waits for it.
///
/// Errors: [`StoreErrorKind::Full`] for no space or quota, [`StoreErrorKind::Denied`] for missing
/// rights, a read-only file system, or a symbolic link where none may be,
/// [`StoreErrorKind::NoParent`] for a file where a folder should be, [`StoreErrorKind::Doubtful`]
/// for missing bytes and failed syncs, [`StoreErrorKind::Unavailable`] for what may pass.
#[derive(Clone, Debug)]
pub struct LocalStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    disk: Disk,
    table: Table,
    sync: SyncAt,
    incarnation: String,
    /// Who may make a checkpoint before it is due.
    welcome: Semaphore,
}

impl LocalStore {
    /// Opens the store in the folder `root`, and makes it if it is missing. A symbolic link at or
    /// above `root` is followed, now and only now. Blocks.
    pub fn open(root: &Path, options: Options) -> Result<Self, StoreError> {
        let disk = Disk {
            root: Root::open(root, options.folder_mode)?,
            room: Room::new(options.reserve_free),
            folder_mode: options.folder_mode,
            folder_modes: options.folder_modes.iter().map(|(folder, mode)| (staging::folder(folder), *mode)).collect(),
            on_sync: options.on_sync,
        };
        let shared = Shared {
            disk,
            table: Table::new(options.open_files),
            sync: options.sync,
            incarnation: options.incarnation.unwrap_or_else(sys::incarnation),
            welcome: Semaphore::new(WELCOME_AT_ONCE),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Makes the folder at `root` if it is missing, as [`Self::open`] does: for a process that
    /// may no longer do so when it opens the store.
    pub fn make_root(root: &Path, options: &Options) -> Result<(), StoreError> {
        Root::make(root, options.folder_mode)
    }

    /// The session's turn.
    async fn turn(&self, session: SessionId) -> Turn {
        let staged = self.shared.table.get(session).lock_owned().await;
        Turn { shared: self.shared.clone(), session, staged: Some(staged) }
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Disk) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = self.shared.clone();
        spawn_blocking(move || work(&shared.disk)).await.unwrap_or_else(|error| Err(stopping(error)))
    }
}

#[async_trait]
impl UploadStore for LocalStore {
    fn incarnation(&self) -> &str {
        &self.shared.incarnation
    }

    async fn inspect(&self, key: &StorageKey) -> Result<Destination, StoreError> {
        match Brief::begin() {
            Some(_brief) => publish::inspect(&self.shared.disk.root, key),
            None => {
                let key = key.clone();
                self.on_disk(move |disk| publish::inspect(&disk.root, &key)).await
            }
        }
    }

    async fn reserve(&self, upload: &Upload) -> Result<(), StoreError> {
        let (place, key, total) = (Place::of(upload), upload.key.clone(), upload.total);
        let work = move |disk: &Disk, staged: &mut Staged| {
            publish::check_device(&disk.root, &place, &key)?;
            // An empty upload gets its file when it is published.
            if total == 0 { Ok(()) } else { staged.reserve(disk, &place, total) }
        };
        self.turn(upload.session).await.on_thread(work).await
    }

    async fn available(&self, upload: &Upload) -> Result<u64, StoreError> {
        let place = Place::of(upload);
        let available = match Brief::begin() {
            Some(_brief) => staging::available(&self.shared.disk, &place)?,
            None => self.on_disk(move |disk| staging::available(disk, &place)).await?,
        };
        Ok(self.shared.table.doubt(upload.session).map_or(available, |good| good.min(available)))
    }

    async fn write(&self, upload: &Upload, body: &mut BodyStream<'_>) -> Written {
        let mut writing = Writing {
            turn: self.turn(upload.session).await,
            place: Arc::new(Place::of(upload)),
            // Nothing is ever cut off, so no byte may be written that is not the upload's.
            total: if upload.total == 0 { u64::MAX } else { upload.total.max(upload.received) },
            reached: upload.received,
            synced: upload.synced,
        };
        let stopped = match writing.start(upload).await {
            Ok(()) => writing.take(body).await,
            Err(error) => Some(Stopped::Store(error)),
        };
        writing.into_written(upload, stopped)
    }

    async fn sync(&self, upload: &Upload) -> Result<(), StoreError> {
        if upload.received == 0 {
            return Ok(());
        }
        let (place, upload) = (Place::of(upload), upload.clone());
        self.turn(upload.session).await.on_thread(move |disk, staged| staged.sync(disk, &place, &upload, None)).await
    }

    async fn prepare(&self, upload: &Upload, precondition: Precondition) -> Result<PublishIntent, StoreError> {
        let (session, upload) = (upload.session, upload.clone());
        let work = move |disk: &Disk, staged: &mut Staged| publish::prepare(disk, staged, &upload, precondition);
        self.turn(session).await.on_thread(work).await
    }

    async fn publish(
        &self,
        upload: &Upload,
        precondition: Precondition,
        intent: &PublishIntent,
    ) -> Result<(), StoreError> {
        let (session, upload, intent) = (upload.session, upload.clone(), intent.clone());
        let work = move |disk: &Disk, staged: &mut Staged| {
            publish::publish(disk, staged, &upload, precondition, &intent)?;
            disk.room.forget(upload.session);
            Ok(())
        };
        self.turn(session).await.last(work).await
    }

    async fn share(&self, upload: &Upload) -> Result<Option<SharedFiles>, StoreError> {
        let (session, upload) = (upload.session, upload.clone());
        let work = move |disk: &Disk, staged: &mut Staged| {
            let place = Place::of(&upload);
            staged.open_whole(disk, &place, &upload)?;
            reply::share(disk, &place).map(Some)
        };
        self.turn(session).await.on_thread(work).await
    }

    async fn write_reply(&self, upload: &Upload, body: &mut BodyStream<'_>) -> Result<u64, Stopped> {
        reply::write(Writer::new(self.shared.clone(), Place::of(upload)), body).await
    }

    async fn take_reply(&self, upload: &Upload) -> Result<u64, StoreError> {
        let place = Place::of(upload);
        self.on_disk(move |disk| reply::take(disk, &place)).await
    }

    async fn discard(&self, upload: &Upload) -> Result<(), StoreError> {
        let place = Place::of(upload);
        let work = move |disk: &Disk, staged: &mut Staged| {
            reply::discard(disk, &place)?;
            staged.discard(disk, &place)
        };
        self.turn(upload.session).await.last(work).await
    }

    async fn open(&self, source: Source<'_>) -> Result<Option<Box<dyn Opened>>, StoreError> {
        let reading = Reading::of(source);
        self.on_disk(move |disk| reading.open(&disk.root)).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.on_disk(check).await
    }
}

/// One body on its way to its file.
struct Writing {
    turn: Turn,
    place: Arc<Place>,
    total: u64,
    reached: u64,
    synced: u64,
}

impl Writing {
    async fn start(&mut self, upload: &Upload) -> Result<(), StoreError> {
        // A look at an open file: to be ready for a disk that stalls would cost as much as a write.
        if upload.received > 0
            && let Some(staged) = self.turn.staged.as_deref_mut().filter(|staged| staged.is_open())
        {
            return staged.start(&self.turn.shared.disk, &self.place, upload);
        }
        let (place, upload) = (self.place.clone(), upload.clone());
        self.turn.in_place(move |disk, staged| staged.start(disk, &place, &upload)).await
    }

    async fn take(&mut self, body: &mut BodyStream<'_>) -> Option<Stopped> {
        let mut batch = Batch::default();
        let broken = loop {
            match body.next().await {
                Some(Ok(frame)) if frame.len() as u64 > self.total - self.reached - batch.held() => {
                    break Some(BodyError::Length);
                }
                Some(Ok(frame)) => batch.push(frame),
                Some(Err(error)) => break Some(error),
                None => break None,
            }
            if batch.is_full() {
                batch = match self.flush(batch).await {
                    Ok(empty) => empty,
                    Err(error) => return Some(error.into()),
                };
            }
        };
        match self.end(batch).await {
            Ok(()) => broken.map(Stopped::Body),
            Err(error) => Some(error.into()),
        }
    }

    async fn end(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.flush(batch).await?;
        if self.turn.shared.sync == SyncAt::Fragment && self.synced < self.reached {
            self.sync().await?;
        }
        Ok(())
    }

    /// Writes a batch, and everything through to the disk if that is due.
    async fn flush(&mut self, mut batch: Batch) -> Result<Batch, StoreError> {
        if batch.held() == 0 {
            return Ok(batch);
        }
        let place = self.place.clone();
        let work = move |disk: &Disk, staged: &mut Staged| {
            let (window, outcome) = staged.write(disk, &place, &mut batch);
            Ok((batch, window, outcome, staged.written(), staged.synced(), staged.checkpoint(&place)))
        };
        let (batch, window, outcome, reached, synced, checkpoint) = self.turn.briefly(work).await?;
        (self.reached, self.synced) = (reached, synced);
        outcome?;
        if let Some(window) = window {
            let start = move |_: &Disk, staged: &mut Staged| {
                staged.start_writeback(&window);
                Ok(())
            };
            self.turn.in_place(start).await?;
        }
        let shared = self.turn.shared.clone();
        let _permit = match checkpoint {
            Checkpoint::Early => return Ok(batch),
            Checkpoint::Welcome => match shared.welcome.try_acquire() {
                Ok(permit) => Some(permit),
                Err(_) => return Ok(batch),
            },
            Checkpoint::Due => None,
        };
        self.sync().await?;
        Ok(batch)
    }

    async fn sync(&mut self) -> Result<(), StoreError> {
        let place = self.place.clone();
        self.synced = self
            .turn
            .on_thread(move |disk, staged| staged.sync_written(disk, &place, None).map(|()| staged.synced()))
            .await?;
        Ok(())
    }

    fn into_written(self, upload: &Upload, stopped: Option<Stopped>) -> Written {
        let (mut reached, mut synced) = (self.reached, self.synced);
        if let Some(Stopped::Store(StoreError { kind: StoreErrorKind::Doubtful { good }, .. })) = &stopped {
            reached = upload.received.max(*good);
            synced = synced.min(*good);
        }
        Written { reached, synced, pieces: Vec::new(), handle: None, stopped }
    }
}

/// A session's turn: nothing else is done for it meanwhile.
struct Turn {
    shared: Arc<Shared>,
    session: SessionId,
    /// Away while a thread works with it, so that the turn lasts until that thread is done even
    /// when nobody waits for it any more.
    staged: Option<OwnedMutexGuard<Staged>>,
}

impl Turn {
    /// Works right here, as [`in_place`](Self::in_place), and tells nobody where that is well.
    async fn briefly<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Disk, &mut Staged) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let mut staged = self.take().await;
        let Some(brief) = Brief::begin() else {
            self.staged = Some(staged);
            return self.in_place(work).await;
        };
        let result = work(&self.shared.disk, &mut staged);
        drop(brief);
        let old = self.shared.used(self.session, &staged);
        if !old.is_empty() {
            block_in_place(|| self.shared.close(old));
        }
        self.staged = Some(staged);
        result
    }

    /// Works right here where the runtime allows it: what was just received is in this core's cache.
    async fn in_place<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Disk, &mut Staged) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        if Handle::current().runtime_flavor() != RuntimeFlavor::MultiThread {
            return self.on_thread(work).await;
        }
        let mut staged = self.take().await;
        let result = block_in_place(|| self.shared.work(self.session, &mut staged, work));
        self.staged = Some(staged);
        result
    }

    /// Works on a blocking thread.
    async fn on_thread<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Disk, &mut Staged) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (shared, session, mut staged) = (self.shared.clone(), self.session, self.take().await);
        let job = spawn_blocking(move || {
            let result = shared.work(session, &mut staged, work);
            (staged, result)
        });
        let (staged, result) = job.await.map_err(stopping)?;
        self.staged = Some(staged);
        result
    }

    /// Does the last thing for a session, which is forgotten if it succeeds.
    async fn last(
        mut self,
        work: impl FnOnce(&Disk, &mut Staged) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        let work = |disk: &Disk, staged: &mut Staged| work(disk, staged).map(|()| *staged = Staged::default());
        self.on_thread(work).await
    }

    async fn take(&mut self) -> OwnedMutexGuard<Staged> {
        match self.staged.take() {
            Some(staged) => staged,
            None => self.shared.table.get(self.session).lock_owned().await,
        }
    }
}

impl Shared {
    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Does the work, and closes files that have been left open for long. Blocks.
    fn work<T>(
        &self,
        session: SessionId,
        staged: &mut Staged,
        work: impl FnOnce(&Disk, &mut Staged) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let result = work(&self.disk, staged);
        self.close(self.used(session, staged));
        result
    }

    /// Notes that work was done for a session; gives the files that have been left open for long.
    #[must_use]
    fn used(&self, session: SessionId, staged: &Staged) -> Vec<OwnedMutexGuard<Staged>> {
        let old = self.table.used(session, staged.is_open());
        if staged.is_blank() {
            self.table.forget(session);
        }
        old
    }

    /// Closes files. Blocks, for a sync where that is due.
    fn close(&self, files: Vec<OwnedMutexGuard<Staged>>) {
        for mut file in files {
            file.close(&self.disk);
        }
    }
}

fn check(disk: &Disk) -> Result<(), StoreError> {
    let shown = disk.root.show("");
    let wrong = |errno| failed(format!("the storage folder {shown} cannot be used"), errno);
    if is_removed(disk.root.fd()).map_err(wrong)? {
        let context = format!("the storage folder {shown} was removed while it was in use");
        return Err(StoreError::new(StoreErrorKind::Unavailable, context));
    }
    if fstatvfs(disk.root.fd()).map_err(wrong)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(StoreError::new(StoreErrorKind::Denied, format!("the storage folder {shown} is read-only")));
    }
    let access = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    accessat(disk.root.fd(), ".", access, AtFlags::EACCESS).map_err(wrong)?;
    if !disk.room.is_left(disk.root.fd()).map_err(wrong)? {
        let context = format!("the storage folder {shown} has no more free space than is kept in reserve");
        return Err(StoreError::new(StoreErrorKind::Full, context));
    }
    Ok(())
}

/// A blocking thread did not return.
pub(crate) fn stopping(error: JoinError) -> StoreError {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => StoreError::with_source(StoreErrorKind::Unavailable, "the runtime is stopping", error),
    }
}
