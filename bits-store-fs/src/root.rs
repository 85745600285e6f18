//! The root folder, and the folders beneath it: found, made, and kept durable.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bits_core::{StoreError, StoreErrorKind};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{AtFlags, FileType, Mode, OFlags, Stat, fchmod, fstat, mkdirat, open, statat},
    io::{Errno, Result},
};

use crate::{
    sys::{Resolver, mode_of, open_child, sync_all},
    together::Together,
};

/// How often a folder is made again that somebody removes at the same time.
const ATTEMPTS: u32 = 1000;

/// The folder that no operation leaves.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
    path: PathBuf,
    resolver: Resolver,
    durable: Mutex<Durable>,
    together: Together,
}

/// Which folders' entries are known to be on stable storage.
#[derive(Debug, Default)]
struct Durable {
    folders: HashSet<String>,
    /// Raised whenever a folder is made, so that a sync that began before does not count for it.
    made: u64,
}

impl Durable {
    /// Forgetting costs a sync, remembering costs memory.
    const LIMIT: usize = 10_000;
}

impl Root {
    /// Opens the folder at `path`, following links up to it; makes it if it is missing.
    pub(crate) fn open(path: &Path, mode: u32) -> std::result::Result<Self, StoreError> {
        Self::make(path, mode)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = open(path, flags, Mode::empty()).map_err(|errno| unusable(path, errno.into()))?;
        let resolver = Resolver::probe(fd.as_fd());
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        Ok(Self { fd, path, resolver, durable: Mutex::default(), together: Together::default() })
    }

    /// Makes the folder at `path` if it is missing.
    pub(crate) fn make(path: &Path, mode: u32) -> std::result::Result<(), StoreError> {
        make_durably(path, mode).map_err(|error| unusable(path, error))
    }

    /// The root itself.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Its full path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The full path of `key`, for messages.
    pub(crate) fn show(&self, key: &str) -> String {
        self.path.join(key).display().to_string()
    }

    /// Opens the folder `key`.
    pub(crate) fn folder(&self, key: &str) -> Result<OwnedFd> {
        self.resolver.open_folder(self.fd.as_fd(), key)
    }

    /// Opens the folder `key`, and makes it and what is missing above it.
    pub(crate) fn make_folder(&self, key: &str, mode: FolderMode) -> Result<OwnedFd> {
        for _ in 0..ATTEMPTS {
            match self.folder(key) {
                Err(Errno::NOENT) if !key.is_empty() => {}
                other => return other,
            }
            let (above, name) = split(key);
            let parent = self.make_folder(above, mode.above())?;
            match self.make_child(&parent, key, name, mode) {
                // Removed again in the meantime: empty folders of uploads under way are.
                Err(Errno::NOENT) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// The deepest folder on the way to `key` that exists.
    pub(crate) fn nearest_folder(&self, mut key: &str) -> Result<OwnedFd> {
        loop {
            match self.folder(key) {
                Err(Errno::NOENT) if !key.is_empty() => key = split(key).0,
                other => return other,
            }
        }
    }

    /// Puts what the folder `key` lists on stable storage, perhaps by a sync that others wait for too.
    pub(crate) fn sync_folder(&self, key: &str) -> Result<()> {
        self.together.sync(key, || sync_all(self.folder(key)?))
    }

    /// Puts the entries of `key` and of every folder above it on stable storage, each in its
    /// parent, unless they are there already. Contents of `key` itself are the caller's.
    pub(crate) fn sync_way_to(&self, key: &str) -> Result<()> {
        let ends = key.match_indices('/').map(|(at, _)| at).chain((!key.is_empty()).then_some(key.len()));
        for end in ends {
            let folder = &key[..end];
            let made = {
                let durable = self.durable();
                if durable.folders.contains(folder) {
                    continue;
                }
                durable.made
            };
            self.sync_folder(split(folder).0)?;
            self.note_durable(folder, made);
        }
        Ok(())
    }

    fn make_child(&self, parent: &OwnedFd, key: &str, name: &str, mode: FolderMode) -> Result<OwnedFd> {
        let made = match mkdirat(parent, name, mode_of(mode.bits() & 0o777)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(errno),
        };
        if made {
            self.note_made(key);
        }
        let folder = open_child(parent, name)?;
        // The mode given to mkdir is cut by the umask and has no set-group-id. The folder of
        // uploads under way keeps what it inherits, so that published files have the right group.
        if made && let FolderMode::Published(bits) = mode {
            fchmod(&folder, mode_of(bits))?;
        }
        Ok(folder)
    }

    fn note_made(&self, key: &str) {
        let mut durable = self.durable();
        durable.made += 1;
        durable.folders.remove(key);
    }

    fn note_durable(&self, key: &str, made: u64) {
        let mut durable = self.durable();
        if durable.made == made {
            if durable.folders.len() >= Durable::LIMIT {
                durable.folders.clear();
            }
            durable.folders.insert(key.to_owned());
        }
    }

    fn durable(&self) -> MutexGuard<'_, Durable> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What kind of folder is made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FolderMode {
    /// One that people see, with exactly these permissions.
    Published(u32),
    /// `BITS-Sessions`, for the server alone, in a folder with these permissions.
    Staging(u32),
}

impl FolderMode {
    fn bits(self) -> u32 {
        match self {
            Self::Published(bits) => bits,
            Self::Staging(_) => 0o700,
        }
    }

    fn above(self) -> Self {
        let (Self::Published(bits) | Self::Staging(bits)) = self;
        Self::Published(bits)
    }
}

/// What stands at `name` in `folder`, not following a link; none if nothing does.
pub(crate) fn look(folder: impl AsFd, name: &str) -> Result<Option<Stat>> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn unusable(path: &Path, error: io::Error) -> StoreError {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => StoreErrorKind::Denied,
        io::ErrorKind::StorageFull => StoreErrorKind::Full,
        _ => StoreErrorKind::Other,
    };
    StoreError::with_source(kind, format!("cannot open the storage folder {}", path.display()), error)
}

/// What kind of file it is.
pub(crate) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Whether the open folder or file has been removed from the file system.
pub(crate) fn is_removed(file: impl AsFd) -> Result<bool> {
    fstat(file).map(|stat| stat.st_nlink == 0)
}

/// The folder that holds `key`, and its last name.
pub(crate) fn split(key: &str) -> (&str, &str) {
    key.rsplit_once('/').unwrap_or(("", key))
}

/// Makes `path` and what is missing above it; each new entry is on stable storage afterwards.
fn make_durably(path: &Path, mode: u32) -> io::Result<()> {
    let missing: Vec<&Path> =
        path.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    for folder in missing.into_iter().rev() {
        match fs::create_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            other => other?,
        }
        let made = fs::File::open(folder)?;
        fchmod(&made, mode_of(mode & 0o777))?;
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(folder.path(), 0o750).unwrap();
        (folder, root)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn folders_are_made_with_their_modes() {
        let (outer, root) = root();
        root.make_folder("a/b/BITS-Sessions", FolderMode::Staging(0o2775)).unwrap();
        assert_eq!(mode(&outer.path().join("a")), 0o2775);
        assert_eq!(mode(&outer.path().join("a/b")), 0o2775);
        assert_eq!(mode(&outer.path().join("a/b/BITS-Sessions")), 0o2700, "the group is inherited");
        root.make_folder("a/b", FolderMode::Published(0o700)).unwrap();
        assert_eq!(mode(&outer.path().join("a/b")), 0o2775, "what exists is left alone");
    }

    #[test]
    fn the_root_is_made_with_all_that_is_missing_above_it() {
        let outer = tempfile::tempdir().unwrap();
        Root::open(&outer.path().join("x/y/z"), 0o2750).unwrap();
        assert_eq!(mode(&outer.path().join("x/y/z")), 0o750);
    }

    #[test]
    fn a_folder_made_while_another_sync_ran_is_not_taken_for_durable() {
        let (_outer, root) = root();
        root.make_folder("a", FolderMode::Published(0o700)).unwrap();
        let before = root.durable().made;
        root.make_folder("b", FolderMode::Published(0o700)).unwrap();
        root.note_durable("a", before);
        assert!(root.durable().folders.is_empty());
        root.sync_way_to("a").unwrap();
        assert!(root.durable().folders.contains("a"));
        root.note_made("a");
        assert!(!root.durable().folders.contains("a"));
    }

    #[test]
    fn makers_and_removers_of_one_folder_do_not_fail_each_other() {
        let (outer, root) = root();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = fs::remove_dir(outer.path().join("s"));
                }
            });
            for _ in 0..2000 {
                root.make_folder("s", FolderMode::Staging(0o700)).unwrap();
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn the_nearest_folder_is_the_deepest_that_exists() {
        let (outer, root) = root();
        fs::create_dir_all(outer.path().join("a/b")).unwrap();
        for (key, found) in [("a/b/c/d", "a/b"), ("x/y", ""), ("a", "a"), ("", "")] {
            let expected = fstat(root.folder(found).unwrap()).unwrap().st_ino;
            assert_eq!(fstat(root.nearest_folder(key).unwrap()).unwrap().st_ino, expected, "{key}");
        }
    }
}
