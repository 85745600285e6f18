//! Reading back: a file is opened once, and everything is read through that handle.

use std::{
    collections::VecDeque,
    fs::File,
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bits_core::{ByteStream, ObjectInfo, Opened, Source, StoreError, StoreErrorKind, Timestamp};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use rustix::{
    fd::OwnedFd,
    fs::{FileType, Mode, OFlags, Stat, fstat, openat},
    io::{Errno, pread, retry_on_intr},
};
use tokio::task::spawn_blocking;

use crate::{
    error::{doubtful, failed},
    root::{Root, file_type, split},
    staging::{Place, size},
    sys::{is_cached, read_cached},
};

/// Most bytes that are read at once.
const CHUNK: usize = 128 * 1024;
/// A stream uses so many buffers in turn, if they are given back by then.
const BUFFERS: usize = 3;
/// Two changes of a file within so short a time may leave one timestamp: the tick of the clock
/// that file systems use, at its slowest.
const TICK: Duration = Duration::from_millis(20);

/// What is to be opened.
#[derive(Debug)]
pub(crate) struct Reading {
    folder: String,
    name: String,
    /// Of an upload under way, which then must be there.
    total: Option<u64>,
}

impl Reading {
    /// Where a source lies.
    pub(crate) fn of(source: Source<'_>) -> Self {
        match source {
            Source::Published(key) => {
                let (folder, name) = split(key.as_str());
                Self { folder: folder.to_owned(), name: name.to_owned(), total: None }
            }
            Source::Staged(upload) => {
                let Place { folder, name, .. } = Place::of(upload);
                Self { folder, name, total: Some(upload.total) }
            }
            Source::Reply(upload) => {
                let place = Place::of(upload);
                Self { name: place.beside(Place::REPLY), folder: place.folder, total: None }
            }
        }
    }

    /// Opens it, if there is a regular file. Blocks.
    pub(crate) fn open(self, root: &Root) -> Result<Option<Box<dyn Opened>>, StoreError> {
        let shown = root.show(&self.folder) + "/" + &self.name;
        let wrong = |errno| failed(format!("cannot open {shown} for reading"), errno);
        let file = match self.try_open(root) {
            Err(Errno::NOENT | Errno::NOTDIR) => return self.absent(&shown),
            other => other.map_err(wrong)?,
        };
        let stat = fstat(&file).map_err(wrong)?;
        match file_type(&stat) {
            FileType::RegularFile => {}
            FileType::Directory => return Ok(None),
            _ => return Err(StoreError::new(StoreErrorKind::Denied, format!("{shown} is not a regular file"))),
        }
        if let Some(total) = self.total.filter(|total| *total != size(&stat)) {
            let context = format!("{shown} has {} bytes and should have {total}", size(&stat));
            return Err(doubtful(total.min(size(&stat)), context));
        }
        let stat = if self.total.is_none() { settled(&file, stat).map_err(wrong)? } else { stat };
        let (info, file) = (info(&stat), Arc::new(File::from(file)));
        Ok(Some(Box::new(OpenFile { file: Arc::new(Readable { file, stat, shown }), info })))
    }

    fn try_open(&self, root: &Root) -> Result<OwnedFd, Errno> {
        if self.name.is_empty() {
            return Err(Errno::NOENT);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        openat(root.folder(&self.folder)?, &self.name, flags, Mode::empty())
    }

    /// An empty upload has no file until it is published.
    fn absent(&self, shown: &str) -> Result<Option<Box<dyn Opened>>, StoreError> {
        match self.total {
            None => Ok(None),
            Some(0) => Ok(Some(Box::new(Empty(ObjectInfo {
                size: 0,
                modified: Timestamp::from_millis(0),
                strong_date: true,
                tag: "empty".to_owned(),
            })))),
            Some(_) => Err(doubtful(0, format!("{shown} is gone"))),
        }
    }
}

/// Waits until no change can come that leaves the timestamps as they are.
fn settled(file: &OwnedFd, stat: Stat) -> Result<Stat, Errno> {
    let (seconds, nanos) = (u64::try_from(stat.st_ctime).unwrap_or(0), stat.st_ctime_nsec as u32);
    let changed = UNIX_EPOCH.checked_add(Duration::new(seconds, nanos % 1_000_000_000)).unwrap_or(UNIX_EPOCH);
    // A time in the future says that a clock was set back: then no waiting helps.
    let is_fresh = SystemTime::now().duration_since(changed).is_ok_and(|age| age < TICK);
    if !is_fresh {
        return Ok(stat);
    }
    std::thread::sleep(TICK);
    fstat(file)
}

fn info(stat: &Stat) -> ObjectInfo {
    let millis = stat.st_mtime.saturating_mul(1000).saturating_add(stat.st_mtime_nsec as i64 / 1_000_000);
    let tag = format!(
        "{:x}-{:x}-{:x}.{:x}-{:x}.{:x}",
        stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec
    );
    ObjectInfo { size: size(stat), modified: Timestamp::from_millis(millis), strong_date: true, tag }
}

struct OpenFile {
    file: Arc<Readable>,
    info: ObjectInfo,
}

impl Opened for OpenFile {
    fn info(&self) -> &ObjectInfo {
        &self.info
    }

    fn read(&self, range: Range<u64>) -> ByteStream {
        let range = range.start..range.end.min(self.info.size);
        let chunk = usize::try_from(range.end.saturating_sub(range.start)).map_or(CHUNK, |len| len.min(CHUNK));
        let cursor = Cursor { file: self.file.clone(), range, chunk, buffers: VecDeque::new() };
        Box::pin(stream::try_unfold(cursor, Cursor::next))
    }

    fn file(&self, range: Range<u64>) -> Option<Arc<File>> {
        let is_held = range.end <= self.info.size && is_cached(&self.file.file, range);
        is_held.then(|| self.file.file.clone())
    }
}

/// An upload of no bytes.
struct Empty(ObjectInfo);

impl Opened for Empty {
    fn info(&self) -> &ObjectInfo {
        &self.0
    }

    fn read(&self, _range: Range<u64>) -> ByteStream {
        Box::pin(stream::empty())
    }
}

struct Readable {
    file: Arc<File>,
    stat: Stat,
    shown: String,
}

impl Readable {
    /// Reads at `offset`, as much as is there. Blocks.
    fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize, StoreError> {
        retry_on_intr(|| pread(&self.file, &mut *buffer, offset))
            .map_err(|errno| failed(format!("cannot read {}", self.shown), errno))
    }

    /// The file is as it was opened. Its other times may change: with a rename, with permissions.
    fn check_unchanged(&self) -> Result<(), StoreError> {
        let now = fstat(&self.file).map_err(|errno| failed(format!("cannot look at {}", self.shown), errno))?;
        let content = |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
        if content(&now) == content(&self.stat) { Ok(()) } else { Err(self.changed()) }
    }

    fn changed(&self) -> StoreError {
        StoreError::new(StoreErrorKind::Other, format!("{} was changed while it was read", self.shown))
    }
}

/// One read of a range, as far as it has come.
struct Cursor {
    file: Arc<Readable>,
    range: Range<u64>,
    /// The length of each buffer.
    chunk: usize,
    /// The oldest first; each is of full length and used again once nobody else holds it.
    buffers: VecDeque<Bytes>,
}

impl Cursor {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, StoreError> {
        if self.range.is_empty() {
            return Ok(None);
        }
        let wanted = usize::try_from(self.range.end - self.range.start).map_or(self.chunk, |left| left.min(self.chunk));
        let offset = self.range.start;
        let mut buffer = self.buffer();
        let (count, buffer) = match read_cached(&self.file.file, &mut buffer[..wanted], offset) {
            Some(count) => (count, buffer),
            None => {
                let file = self.file.clone();
                let read = move || file.read(&mut buffer[..wanted], offset).map(|count| (count, buffer));
                spawn_blocking(read).await.unwrap_or_else(|error| Err(crate::store::stopping(error)))?
            }
        };
        if count == 0 {
            return Err(self.file.changed());
        }
        self.range.start += count as u64;
        if self.range.is_empty() {
            self.file.check_unchanged()?;
        }
        let buffer = buffer.freeze();
        let bytes = buffer.slice(..count);
        self.buffers.push_back(buffer);
        Ok(Some((bytes, self)))
    }

    /// An old buffer if it was given back, else a new one.
    fn buffer(&mut self) -> BytesMut {
        let old = if self.buffers.len() >= BUFFERS { self.buffers.pop_front() } else { None };
        old.and_then(|old| old.try_into_mut().ok()).unwrap_or_else(|| BytesMut::zeroed(self.chunk))
    }
}
