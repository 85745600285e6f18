//! Publishing: what was noted, then one step after the other, each of which may be found done.
//! Everything here blocks.

use std::time::{SystemTime, UNIX_EPOCH};

use bits_core::{Destination, Precondition, PublishIntent, StorageKey, StoreError, StoreErrorKind, Upload};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{AtFlags, Dev, FileType, Stat, fstat, renameat, unlinkat},
    io::Errno,
};

use crate::{
    error::{doubtful, failed},
    root::{FolderMode, Root, file_type, look, split},
    staging::{self, Disk, Place, Staged, size},
    sys::{rename_noreplace, sync_all},
};

/// A file from a later future than this is not followed there.
const FEW_SECONDS: i64 = 60;

/// What the row keeps between intent and done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Intent {
    /// For people: device numbers may change with a boot.
    device: Dev,
    inode: u64,
    size: u64,
}

impl Intent {
    fn of(stat: &Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino, size: size(stat) }
    }

    fn to_text(self) -> PublishIntent {
        PublishIntent(format!("device={} inode={} size={}", self.device, self.inode, self.size))
    }

    fn parse(intent: &PublishIntent) -> Option<Self> {
        let mut parts = intent.0.split(' ');
        let mut value = |name: &str| parts.next()?.strip_prefix(name);
        let read = Self {
            device: value("device=")?.parse().ok()?,
            inode: value("inode=")?.parse().ok()?,
            size: value("size=")?.parse().ok()?,
        };
        parts.next().is_none().then_some(read)
    }
}

/// What stands at `key`.
pub(crate) fn inspect(root: &Root, key: &StorageKey) -> Result<Destination, StoreError> {
    let wrong = |errno| failed(format!("cannot look at {}", root.show(key.as_str())), errno);
    if *key == StorageKey::ROOT {
        return Ok(Destination::Folder);
    }
    let (above, name) = split(key.as_str());
    let folder = match root.folder(above) {
        Ok(folder) => folder,
        Err(Errno::NOENT) => {
            // Finds links and files that are in the way of making the folder.
            root.nearest_folder(above).map_err(wrong)?;
            return Ok(Destination::NoParent);
        }
        Err(errno) => return Err(wrong(errno)),
    };
    Ok(match look(&folder, name).map_err(wrong)? {
        None => Destination::Absent,
        Some(stat) if file_type(&stat) == FileType::Directory => Destination::Folder,
        Some(_) => Destination::File,
    })
}

/// Refuses a destination that no rename reaches from where the upload is staged. Whatever else is
/// wrong with it shows when it is inspected.
pub(crate) fn check_device(root: &Root, place: &Place, key: &StorageKey) -> Result<(), StoreError> {
    let device = |folder| fstat(root.nearest_folder(folder)?).map(|stat| stat.st_dev);
    match (device(&place.folder), device(split(key.as_str()).0)) {
        (Ok(staging), Ok(destination)) if staging != destination => {}
        _ => return Ok(()),
    }
    let context = format!(
        "{} lies on another device than {}; unmount it, or give it a directory of its own",
        root.show(key.as_str()),
        root.show(&place.folder)
    );
    Err(StoreError::new(StoreErrorKind::Denied, context))
}

/// Makes the upload durable, checks the destination, and notes which file will be moved there.
pub(crate) fn prepare(
    disk: &Disk,
    staged: &mut Staged,
    upload: &Upload,
    precondition: Precondition,
) -> Result<PublishIntent, StoreError> {
    let place = Place::of(upload);
    if upload.received > 0 {
        staged.sync(disk, &place, upload, Some(precondition.file_mode))?;
    }
    let stat = staged.open_whole(disk, &place, upload)?;
    check_destination(&disk.root, &upload.key, precondition)?;
    check_device(&disk.root, &place, &upload.key)?;
    Ok(Intent::of(&stat).to_text())
}

/// Carries out the intent. May be called again after a crash at any point.
pub(crate) fn publish(
    disk: &Disk,
    staged: &mut Staged,
    upload: &Upload,
    precondition: Precondition,
    intent: &PublishIntent,
) -> Result<(), StoreError> {
    let Some(intent) = Intent::parse(intent) else {
        return Err(StoreError::new(StoreErrorKind::Other, format!("not an intent of this store: {:?}", intent.0)));
    };
    let place = Place::of(upload);
    let job = Job { root: &disk.root, place: &place, key: &upload.key, precondition };
    // The intent without the staged file: a former call has moved it, whatever stands there now.
    if let Some(stat) = staged.open_if_there(disk, &place)? {
        job.check_staged(&stat, intent)?;
        let folder = job.make_parents()?;
        let there = job.look_there(&folder)?;
        if !job.is_dressed(staged, &stat, there.as_ref()) {
            job.dress(staged, there.as_ref())?;
        }
        job.put(&folder, &stat, there.as_ref())?;
    }
    job.settle()
}

fn check_destination(root: &Root, key: &StorageKey, precondition: Precondition) -> Result<(), StoreError> {
    let refused = |kind, what| Err(StoreError::new(kind, format!("{} {what}", root.show(key.as_str()))));
    match inspect(root, key)? {
        Destination::Folder => refused(StoreErrorKind::IsFolder, "is a folder"),
        Destination::File if !precondition.overwrite => refused(StoreErrorKind::Exists, "exists"),
        Destination::NoParent if !precondition.create_folders => {
            refused(StoreErrorKind::NoParent, "has no folder to be in")
        }
        _ => Ok(()),
    }
}

/// The steps of one publishing.
struct Job<'a> {
    root: &'a Root,
    place: &'a Place,
    key: &'a StorageKey,
    precondition: Precondition,
}

impl Job<'_> {
    /// The staged file is the one that was noted. Another one, as from a backup, is not trusted.
    fn check_staged(&self, stat: &Stat, intent: Intent) -> Result<(), StoreError> {
        if (stat.st_ino, size(stat)) == (intent.inode, intent.size) {
            return Ok(());
        }
        let good = if stat.st_ino == intent.inode { size(stat).min(intent.size) } else { 0 };
        let found = Intent::of(stat);
        Err(doubtful(good, format!("{} is {found:?}, not {intent:?} as noted", self.place.show(self.root))))
    }

    fn make_parents(&self) -> Result<OwnedFd, StoreError> {
        let (above, _) = split(self.key.as_str());
        let folder = if self.precondition.create_folders {
            self.root.make_folder(above, FolderMode::Published(self.precondition.folder_mode))
        } else {
            self.root.folder(above)
        };
        folder.map_err(|errno| match errno {
            Errno::NOENT => StoreError::new(
                StoreErrorKind::NoParent,
                format!("the folder {} is missing and may not be made", self.root.show(above)),
            ),
            errno => failed(format!("cannot make or open the folder {}", self.root.show(above)), errno),
        })
    }

    fn look_there(&self, folder: &OwnedFd) -> Result<Option<Stat>, StoreError> {
        let (_, name) = split(self.key.as_str());
        look(folder, name).map_err(|errno| self.wrong("cannot look at the destination of", errno))
    }

    /// Whether the file has its permissions, and a time that is as good as that of now, from when it
    /// was made durable just before.
    fn is_dressed(&self, staged: &Staged, stat: &Stat, there: Option<&Stat>) -> bool {
        staged.dressed() == Some(self.precondition.file_mode)
            && now().is_some_and(|now| (now - 1..=now).contains(&stat.st_mtime))
            && there.is_none_or(|there| there.st_mtime < stat.st_mtime)
    }

    /// Gives the file its permissions, and the time of now. Durable before the move, so that no
    /// crash leaves a published file without them.
    fn dress(&self, staged: &Staged, there: Option<&Stat>) -> Result<(), StoreError> {
        let file = staged.file()?;
        staging::set_mode_and_time(file, self.precondition.file_mode, there.and_then(later_second))
            .and_then(|()| sync_all(file))
            .map_err(|errno| self.wrong("cannot set permissions and time of", errno))
    }

    fn put(&self, folder: &OwnedFd, staged: &Stat, there: Option<&Stat>) -> Result<(), StoreError> {
        let (_, name) = split(self.key.as_str());
        let from = self.root.folder(&self.place.folder).map_err(|errno| self.wrong("cannot find", errno))?;
        if there.is_some_and(|there| (there.st_dev, there.st_ino) == (staged.st_dev, staged.st_ino)) {
            // A crash between link and unlink. Renaming would leave both names, and call it success.
            return unlinkat(&from, &self.place.name, AtFlags::empty())
                .map_err(|errno| self.wrong("cannot unlink", errno));
        }
        let moved = if self.precondition.overwrite {
            renameat(&from, &self.place.name, folder, name)
        } else {
            rename_noreplace(from.as_fd(), &self.place.name, folder.as_fd(), name)
        };
        moved.map_err(|errno| self.not_moved(folder, name, errno))
    }

    fn not_moved(&self, folder: &OwnedFd, name: &str, errno: Errno) -> StoreError {
        let shown = self.root.show(self.key.as_str());
        let is_folder =
            || look(folder, name).is_ok_and(|stat| stat.is_some_and(|stat| file_type(&stat) == FileType::Directory));
        match errno {
            Errno::ISDIR => StoreError::new(StoreErrorKind::IsFolder, format!("{shown} is a folder")),
            Errno::EXIST | Errno::NOTEMPTY if is_folder() => {
                StoreError::new(StoreErrorKind::IsFolder, format!("{shown} is a folder"))
            }
            Errno::EXIST | Errno::NOTEMPTY => StoreError::new(StoreErrorKind::Exists, format!("{shown} exists")),
            // Somebody removed the folder in this moment; the next try makes it again.
            Errno::NOENT => StoreError::new(StoreErrorKind::Unavailable, format!("the folder of {shown} went away")),
            errno => failed(format!("cannot move {} to {shown}", self.place.show(self.root)), errno),
        }
    }

    /// Makes the move durable at both ends, with every folder on the way to the destination.
    fn settle(&self) -> Result<(), StoreError> {
        let (above, _) = split(self.key.as_str());
        for folder in [above, &self.place.folder] {
            match self.root.sync_folder(folder) {
                // Removed since: empty `BITS-Sessions`, or the destination by its owner.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(self.wrong("cannot sync the folders of", errno)),
            }
        }
        match self.root.sync_way_to(above) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.wrong("cannot sync the folders above", errno)),
        }
    }

    fn wrong(&self, what: &str, errno: Errno) -> StoreError {
        let context =
            format!("{what} {} on its way to {}", self.place.show(self.root), self.root.show(self.key.as_str()));
        failed(context, errno)
    }
}

/// The second for what replaces a file of this same second, or of the next few: dates of HTTP tell
/// whole seconds, and must tell the two apart.
fn later_second(there: &Stat) -> Option<i64> {
    let now = now()?;
    (now..=now + FEW_SECONDS).contains(&there.st_mtime).then(|| there.st_mtime + 1)
}

fn now() -> Option<i64> {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|now| i64::try_from(now.as_secs()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intents_read_back_and_nothing_else_does() {
        let intent = Intent { device: 1, inode: u64::MAX, size: 0 };
        assert_eq!(Intent::parse(&intent.to_text()), Some(intent));
        for text in ["", "device=1 inode=2", "device=1 inode=2 size=3 x", "inode=1 device=2 size=3", "put"] {
            assert_eq!(Intent::parse(&PublishIntent(text.to_owned())), None, "{text}");
        }
    }
}
