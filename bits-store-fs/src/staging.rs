//! One upload under way: its file below `BITS-Sessions`. Everything here blocks.

use std::{
    collections::HashMap,
    ops::Range,
    time::{Duration, Instant},
};

use bits_core::{SessionId, StorageKey, StoreError, StoreErrorKind, Upload};
use rustix::{
    fd::OwnedFd,
    fs::{AtFlags, FileType, Mode, OFlags, Stat, fchmod, fstat, openat, unlinkat},
    io::{Errno, Result as SysResult},
};

use crate::{
    batch::Batch,
    error::{doubtful, failed},
    progress::{Checkpoint, Progress, Share},
    room::Room,
    root::{FolderMode, Root, file_type, look},
    sys::{mode_of, set_modified, start_writeback, sync_all, sync_data},
};

/// How often opening is tried while others remove the empty folder.
const ATTEMPTS: u32 = 1000;

/// What all uploads share.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) root: Root,
    pub(crate) room: Room,
    /// Permissions of folders that are made on the way to `BITS-Sessions`.
    pub(crate) folder_mode: u32,
    /// Other ones for those on the way to these folders.
    pub(crate) folder_modes: HashMap<String, u32>,
    /// Told of each sync of an upload's bytes.
    pub(crate) on_sync: fn(Duration, bool),
}

/// Where an upload under way is kept.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) session: SessionId,
    /// The folder `BITS-Sessions`.
    pub(crate) folder: String,
    /// The file's name in it.
    pub(crate) name: String,
}

impl Place {
    /// The place of an upload.
    pub(crate) fn of(upload: &Upload) -> Self {
        Self { session: upload.session, folder: folder(&upload.folder), name: upload.session.uuid().to_string() }
    }

    /// What the reply of a server application is called, besides the upload's name.
    pub(crate) const REPLY: &str = "reply";

    /// A name beside the upload.
    pub(crate) fn beside(&self, what: &str) -> String {
        format!("{}.{what}", self.name)
    }

    /// Its full path, for messages.
    pub(crate) fn show_beside(&self, root: &Root, what: &str) -> String {
        root.show(&format!("{}/{}", self.folder, self.beside(what)))
    }

    /// The file's full path, for messages.
    pub(crate) fn show(&self, root: &Root) -> String {
        root.show(&format!("{}/{}", self.folder, self.name))
    }
}

/// What this process knows of an upload under way.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    file: Option<OwnedFd>,
    /// Where the file is, once it was opened.
    place: Option<Place>,
    progress: Progress,
    /// The entry in `BITS-Sessions`, and all entries on the way to it, are durable.
    entry_synced: bool,
    /// The permissions that the open file has durably, for its destination.
    dressed: Option<u32>,
}

impl Staged {
    /// Whether nothing is known of the upload, so that it need not be remembered.
    pub(crate) fn is_blank(&self) -> bool {
        !self.is_open() && !self.entry_synced && self.progress == Progress::default()
    }

    /// Whether the file is open.
    pub(crate) fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// The first doubtful byte.
    pub(crate) fn doubt(&self) -> Option<u64> {
        self.progress.doubt()
    }

    /// Everything before it survives a power loss.
    pub(crate) fn synced(&self) -> u64 {
        self.progress.synced()
    }

    /// The permissions for its destination that were made durable with its bytes, with the time of
    /// then as that of its last change.
    pub(crate) fn dressed(&self) -> Option<u32> {
        self.dressed
    }

    /// Everything before it is written.
    pub(crate) fn written(&self) -> u64 {
        self.progress.written()
    }

    /// Whether bytes wait for long, or many.
    pub(crate) fn checkpoint(&self, place: &Place) -> Checkpoint {
        self.progress.checkpoint(Instant::now(), Share::of_session(place.session))
    }

    /// Makes room for the whole upload.
    pub(crate) fn reserve(&mut self, disk: &Disk, place: &Place, total: u64) -> Result<(), StoreError> {
        self.open(disk, place, true)?;
        let reserved = disk.room.reserve(place.session, self.file()?, total, &place.show(&disk.root));
        if reserved.is_err() {
            self.give_up_empty(disk, place);
        }
        reserved
    }

    /// Gets ready to write where the upload stands.
    pub(crate) fn start(&mut self, disk: &Disk, place: &Place, upload: &Upload) -> Result<(), StoreError> {
        self.check_doubt(disk, place, upload.received)?;
        if self.renew_doubtful(disk, place, upload)? && upload.total > 0 {
            self.reserve(disk, place, upload.total)?;
        }
        let stat = self.open_held(disk, place, upload, upload.received == 0)?;
        self.progress.start(upload.received, upload.synced).map_err(|good| self.doubted(disk, place, good))?;
        disk.room.resume(place.session, &stat, upload.total, upload.received);
        Ok(())
    }

    /// Writes a batch after what is written; gives what the disk should start writing. What fits is kept.
    pub(crate) fn write(
        &mut self,
        disk: &Disk,
        place: &Place,
        batch: &mut Batch,
    ) -> (Option<Range<u64>>, Result<(), StoreError>) {
        let from = self.progress.written();
        self.dressed = None;
        let file = match self.file() {
            Ok(file) => file,
            Err(error) => return (None, Err(error)),
        };
        let (count, outcome) = batch.write_to(file, from);
        let window = self.progress.wrote(from + count, Instant::now(), Share::of_session(place.session));
        disk.room.wrote(place.session, self.progress.written());
        (window, outcome.map_err(|errno| failed(format!("cannot write to {}", place.show(&disk.root)), errno)))
    }

    /// Has the disk start writing, which can wait for a place in its queue.
    pub(crate) fn start_writeback(&self, window: &Range<u64>) {
        if let Some(file) = &self.file {
            start_writeback(file, window.start, window.end - window.start);
        }
    }

    /// Makes durable what this process has written, and the entries on the way to it; with these
    /// permissions, if it is to be published now.
    ///
    /// After a failure the system may have dropped bytes and forgotten it, so that trying again
    /// would succeed: the upload stays in doubt until they are written again.
    pub(crate) fn sync_written(&mut self, disk: &Disk, place: &Place, mode: Option<u32>) -> Result<(), StoreError> {
        if let Some(mode) = mode {
            // A file system that refuses this has lost no bytes.
            let wrong = |errno| failed(format!("cannot set permissions and time of {}", place.show(&disk.root)), errno);
            set_mode_and_time(self.file()?, mode, None).map_err(wrong)?;
        }
        match self.try_sync(disk, place, mode.is_some()) {
            Ok(()) => {
                self.dressed = mode;
                self.entry_synced = true;
                self.progress.sync_succeeded();
                Ok(())
            }
            Err(errno) => {
                self.file = None;
                let good = self.progress.sync_failed();
                let context = format!("cannot sync {}; bytes from {good} on are doubtful", place.show(&disk.root));
                Err(StoreError::with_source(StoreErrorKind::Doubtful { good }, context, std::io::Error::from(errno)))
            }
        }
    }

    /// Makes the upload durable up to where its row says it stands; with these permissions, if it is
    /// to be published now and there is anything to do.
    pub(crate) fn sync(
        &mut self,
        disk: &Disk,
        place: &Place,
        upload: &Upload,
        mode: Option<u32>,
    ) -> Result<(), StoreError> {
        self.check_doubt(disk, place, upload.received)?;
        if upload.synced >= upload.received {
            return Ok(());
        }
        self.open_held(disk, place, upload, false)?;
        self.progress.resume(upload.received, upload.synced);
        if self.entry_synced && self.synced() >= upload.received {
            return Ok(());
        }
        self.sync_written(disk, place, mode)
    }

    /// The staged file of an upload that is whole; an empty upload's is made here.
    pub(crate) fn open_whole(&mut self, disk: &Disk, place: &Place, upload: &Upload) -> Result<Stat, StoreError> {
        self.check_doubt(disk, place, upload.received)?;
        self.renew_doubtful(disk, place, upload)?;
        let stat = self.open_held(disk, place, upload, upload.total == 0)?;
        if upload.total == 0 && !self.entry_synced {
            self.sync_written(disk, place, None)?;
        }
        if upload.received != upload.total || size(&stat) != upload.total {
            let context = format!(
                "{} has {} bytes, of which {} are acknowledged, and should have {}",
                place.show(&disk.root),
                size(&stat),
                upload.received,
                upload.total
            );
            // Somebody else has written to it.
            let kind = match size(&stat) > upload.total {
                true => StoreErrorKind::Doubtful { good: 0 },
                false => StoreErrorKind::Other,
            };
            return Err(StoreError::new(kind, context));
        }
        Ok(stat)
    }

    /// The open file, which [`open_whole`](Self::open_whole) or a write has opened.
    pub(crate) fn file(&self) -> Result<&OwnedFd, StoreError> {
        self.file.as_ref().ok_or_else(|| StoreError::new(StoreErrorKind::Other, "the staged file is not open"))
    }

    /// Opens the file if it is there, which one that is open need not be any more.
    pub(crate) fn open_if_there(&mut self, disk: &Disk, place: &Place) -> Result<Option<Stat>, StoreError> {
        if self.is_moved(disk, place)? {
            self.file = None;
            self.entry_synced = false;
        }
        match self.try_open(disk, place, false) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(cannot_open(disk, place, errno)),
        }
    }

    /// Deletes the file, durably, and the folder if it is empty then.
    pub(crate) fn discard(&mut self, disk: &Disk, place: &Place) -> Result<(), StoreError> {
        self.remove(disk, place)?;
        disk.room.forget(place.session);
        let (above, name) = crate::root::split(&place.folder);
        // It is not empty, or somebody else removed it: both are well.
        let _ = disk.root.folder(above).and_then(|above| unlinkat(above, name, AtFlags::REMOVEDIR));
        Ok(())
    }

    /// Closes the file. What is unsynced is synced before: an error of the disk that comes after
    /// the last handle is closed can get lost.
    pub(crate) fn close(&mut self, disk: &Disk) {
        if let Some(place) = self.place.take()
            && self.is_open()
            && self.progress.is_unsynced()
            // A failure leaves its mark, which the next call for the session reports.
            && let Err(error) = self.sync_written(disk, &place, None)
        {
            tracing::error!(session = %place.session, error = &error as &dyn std::error::Error, "a sync failed");
        }
        self.file = None;
    }

    fn try_sync(&self, disk: &Disk, place: &Place, is_dressed: bool) -> SysResult<()> {
        let start = Instant::now();
        let synced = self.sync_all(disk, place, is_dressed);
        (disk.on_sync)(start.elapsed(), synced.is_ok());
        synced
    }

    fn sync_all(&self, disk: &Disk, place: &Place, is_dressed: bool) -> SysResult<()> {
        let file = self.file.as_ref().ok_or(Errno::BADF)?;
        if is_dressed {
            sync_all(file)?
        } else {
            sync_data(file)?
        }
        if !self.entry_synced {
            disk.root.sync_folder(&place.folder)?;
            disk.root.sync_way_to(&place.folder)?;
        }
        Ok(())
    }

    fn check_doubt(&self, disk: &Disk, place: &Place, received: u64) -> Result<(), StoreError> {
        self.progress.check(received).map_err(|good| self.doubted(disk, place, good))
    }

    fn doubted(&self, disk: &Disk, place: &Place, good: u64) -> StoreError {
        doubtful(
            good,
            format!("an earlier sync of {} failed; bytes from {good} on must come again", place.show(&disk.root)),
        )
    }

    /// Starts over with a new file where all of it is in doubt: neither its bytes nor its entry
    /// have ever failed to be synced. One that was moved away is somebody else's by now, and one
    /// that is longer than the upload somebody else has written to.
    fn renew_doubtful(&mut self, disk: &Disk, place: &Place, upload: &Upload) -> Result<bool, StoreError> {
        let renew = upload.received == 0
            && (self.doubt().is_some() || self.is_moved(disk, place)? || available(disk, place)? > upload.total);
        if renew {
            self.remove(disk, place)?;
            self.progress = Progress::default();
        }
        Ok(renew)
    }

    /// Whether the open file is not the one that the upload's name leads to.
    fn is_moved(&self, disk: &Disk, place: &Place) -> Result<bool, StoreError> {
        let Some(file) = &self.file else { return Ok(false) };
        let wrong = |errno| failed(format!("cannot look at {}", place.show(&disk.root)), errno);
        let there = match disk.root.folder(&place.folder) {
            Ok(folder) => look(folder, &place.name).map_err(wrong)?,
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(wrong(errno)),
        };
        let own = fstat(file).map_err(wrong)?;
        Ok(there.is_none_or(|there| (there.st_dev, there.st_ino) != (own.st_dev, own.st_ino)))
    }

    /// Opens the file, which must hold all that the row says.
    fn open_held(&mut self, disk: &Disk, place: &Place, upload: &Upload, make: bool) -> Result<Stat, StoreError> {
        let gone = |size: u64| {
            let good = upload.synced.min(size);
            let shown = place.show(&disk.root);
            doubtful(good, format!("{shown} holds {size} bytes of the {} that were stored", upload.received))
        };
        let stat = match self.try_open(disk, place, make) {
            Err(Errno::NOENT) => return Err(gone(0)),
            other => other.map_err(|errno| cannot_open(disk, place, errno))?,
        };
        if stat.st_nlink > 1 {
            let context = format!("{} has another name too, which would see what is written", place.show(&disk.root));
            return Err(StoreError::new(StoreErrorKind::Denied, context));
        }
        if size(&stat) < upload.received { Err(gone(size(&stat))) } else { Ok(stat) }
    }

    fn open(&mut self, disk: &Disk, place: &Place, make: bool) -> Result<Stat, StoreError> {
        self.try_open(disk, place, make).map_err(|errno| cannot_open(disk, place, errno))
    }

    fn try_open(&mut self, disk: &Disk, place: &Place, make: bool) -> SysResult<Stat> {
        if let Some(file) = &self.file {
            let stat = fstat(file)?;
            if stat.st_nlink > 0 {
                return Ok(stat);
            }
            self.file = None;
            self.entry_synced = false;
        }
        let file = match open_file(disk, place) {
            Err(Errno::NOENT) if make => {
                self.entry_synced = false;
                make_file(disk, place)?
            }
            other => other?,
        };
        let stat = fstat(&file)?;
        if file_type(&stat) != FileType::RegularFile {
            return Err(Errno::PERM);
        }
        self.file = Some(file);
        self.dressed = None;
        self.place = Some(place.clone());
        Ok(stat)
    }

    fn remove(&mut self, disk: &Disk, place: &Place) -> Result<(), StoreError> {
        self.file = None;
        self.entry_synced = false;
        let removed = match disk.root.folder(&place.folder) {
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
            Ok(folder) => match unlinkat(&folder, &place.name, AtFlags::empty()) {
                // Also when it is gone already: perhaps not durably.
                Ok(()) | Err(Errno::NOENT) => sync_all(folder),
                Err(errno) => Err(errno),
            },
        };
        removed.map_err(|errno| failed(format!("cannot delete {}", place.show(&disk.root)), errno))
    }

    /// Gives back the space of a failed reservation, as long as no byte was stored.
    fn give_up_empty(&mut self, disk: &Disk, place: &Place) {
        let is_empty = self.file.as_ref().and_then(|file| fstat(file).ok()).is_some_and(|stat| stat.st_size == 0);
        if is_empty && let Err(error) = self.discard(disk, place) {
            tracing::warn!(session = %place.session, error = &error as &dyn std::error::Error, "an empty file stays");
        }
    }
}

/// The folder `BITS-Sessions` below `above`.
pub(crate) fn folder(above: &StorageKey) -> String {
    let slash = if *above == StorageKey::ROOT { "" } else { "/" };
    format!("{above}{slash}{}", StorageKey::STAGING)
}

/// Gives a file these permissions, and the time of now or of this second.
pub(crate) fn set_mode_and_time(file: &OwnedFd, mode: u32, second: Option<i64>) -> SysResult<()> {
    fchmod(file, mode_of(mode))?;
    set_modified(file, second)
}

/// How many bytes of an upload are there; none if the file is not.
pub(crate) fn available(disk: &Disk, place: &Place) -> Result<u64, StoreError> {
    let found = match disk.root.folder(&place.folder) {
        Ok(folder) => look(folder, &place.name),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    };
    let stat = found.map_err(|errno| failed(format!("cannot look at {}", place.show(&disk.root)), errno))?;
    Ok(stat.filter(|stat| file_type(stat) == FileType::RegularFile).as_ref().map_or(0, size))
}

/// The length of a file.
pub(crate) fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

const FLAGS: OFlags = OFlags::WRONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

fn open_file(disk: &Disk, place: &Place) -> SysResult<OwnedFd> {
    openat(disk.root.folder(&place.folder)?, &place.name, FLAGS, Mode::empty())
}

fn make_file(disk: &Disk, place: &Place) -> SysResult<OwnedFd> {
    make_staging_file(disk, &place.folder, &place.name)
}

/// Makes a file in a folder `BITS-Sessions`, and the folder.
pub(crate) fn make_staging_file(disk: &Disk, folder: &str, name: &str) -> SysResult<OwnedFd> {
    let mode = *disk.folder_modes.get(folder).unwrap_or(&disk.folder_mode);
    for _ in 0..ATTEMPTS {
        let folder = disk.root.make_folder(folder, FolderMode::Staging(mode))?;
        match openat(folder, name, FLAGS | OFlags::CREATE | OFlags::EXCL, mode_of(0o600)) {
            // The folder was removed because it was empty.
            Err(Errno::NOENT) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

fn cannot_open(disk: &Disk, place: &Place, errno: Errno) -> StoreError {
    failed(format!("cannot open {}", place.show(&disk.root)), errno)
}
