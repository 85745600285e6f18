//! Everything that depends on the platform: what Linux offers, and what other Unixes do instead.

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{
        AtFlags, FileType, Mode, OFlags, RawMode, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, futimens, linkat,
        openat, statat, unlinkat,
    },
    io::{Errno, Result},
};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

/// Permissions as the system wants them.
pub(crate) fn mode_of(bits: u32) -> Mode {
    // Their type is narrower than 32 bits on some systems; permissions have 12.
    Mode::from_raw_mode((bits & 0o7777) as RawMode)
}

/// How a folder is found beneath a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resolver {
    /// The kernel keeps the whole path beneath the root.
    #[cfg(target_os = "linux")]
    Kernel,
    /// Name by name, following no link. Needs nothing but that names hold no `..`.
    Walk,
}

impl Resolver {
    /// The best one that works here.
    pub(crate) fn probe(root: BorrowedFd<'_>) -> Self {
        #[cfg(target_os = "linux")]
        if Self::Kernel.open_folder(root, "").is_ok() {
            return Self::Kernel;
        }
        // Kernels before 5.6, and containers whose filters do not know the call.
        let _ = root;
        Self::Walk
    }

    /// Opens the folder `path`, names joined by slashes, none for the root itself.
    pub(crate) fn open_folder(self, root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Kernel => open_beneath(root, path),
            Self::Walk => walk(root, path),
        }
    }
}

/// Opens the folder `name` in `parent`, following no link.
pub(crate) fn open_child(parent: impl AsFd, name: &str) -> Result<OwnedFd> {
    openat(&parent, name, FOLDER | OFlags::NOFOLLOW, Mode::empty()).map_err(|errno| match errno {
        // With O_DIRECTORY a link reads as "not a directory", and some systems say MLINK.
        Errno::NOTDIR if is_link(&parent, name) => Errno::LOOP,
        Errno::MLINK => Errno::LOOP,
        errno => errno,
    })
}

#[cfg(target_os = "linux")]
fn open_beneath(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd> {
    use rustix::fs::{ResolveFlags, openat2};

    let path = if path.is_empty() { "." } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        // AGAIN: something was renamed while the kernel looked.
        match openat2(root, path, FOLDER, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

fn walk(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd> {
    let mut folder = open_child(root, ".")?;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        if name == ".." {
            return Err(Errno::XDEV);
        }
        folder = open_child(&folder, name)?;
    }
    Ok(folder)
}

fn is_link(folder: impl AsFd, name: &str) -> bool {
    statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

/// Allocates `[0, size)` without changing the file's length; `false` where that is not possible.
pub(crate) fn preallocate(file: impl AsFd, size: u64) -> Result<bool> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{FallocateFlags, fallocate};

        match rustix::io::retry_on_intr(|| fallocate(&file, FallocateFlags::KEEP_SIZE, 0, size)) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (file, size);
        Ok(false)
    }
}

/// Puts a file's bytes, and its length, on stable storage.
pub(crate) fn sync_data(file: impl AsFd) -> Result<()> {
    #[cfg(target_vendor = "apple")]
    return rustix::fs::fcntl_fullfsync(file);
    #[cfg(not(target_vendor = "apple"))]
    rustix::fs::fdatasync(file)
}

/// Puts a file or folder, with all that is known of it, on stable storage.
pub(crate) fn sync_all(file: impl AsFd) -> Result<()> {
    // There, fsync leaves the bytes in the cache of the disk.
    #[cfg(target_vendor = "apple")]
    return rustix::fs::fcntl_fullfsync(file);
    #[cfg(not(target_vendor = "apple"))]
    rustix::fs::fsync(file)
}

/// Makes a file one that was changed at this second, or right now.
pub(crate) fn set_modified(file: impl AsFd, second: Option<i64>) -> Result<()> {
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let modified = second.map_or(now, |tv_sec| Timespec { tv_sec, tv_nsec: 0 });
    futimens(file, &Timestamps { last_access: omit, last_modification: modified })
}

/// Lets the disk start writing `len` bytes from `start` on, without waiting for it.
///
/// POSIX_FADV_DONTNEED does this on Linux before it drops what is clean; the written pages are
/// under way then, and stay. `sync_file_range` would do it more plainly, but no safe binding has
/// it. A failure shows in the next sync.
pub(crate) fn start_writeback(file: impl AsFd, start: u64, len: u64) {
    #[cfg(target_os = "linux")]
    if let Some(len) = std::num::NonZeroU64::new(len) {
        let _ = rustix::fs::fadvise(file, start, Some(len), rustix::fs::Advice::DontNeed);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, start, len);
}

/// Reads what the system has in memory, without waiting for the disk; none where that is nothing,
/// or cannot be found out.
pub(crate) fn read_cached(file: impl AsFd, buffer: &mut [u8], offset: u64) -> Option<usize> {
    #[cfg(target_os = "linux")]
    {
        use rustix::io::{ReadWriteFlags, preadv2};

        // Whatever the error is, reading as usual shows it.
        preadv2(file, &mut [std::io::IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT).ok()
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (file, buffer, offset);
        None
    }
}

/// Whether the system has these bytes in memory, as far as one of each 64 KiB tells.
pub(crate) fn is_cached(file: impl AsFd, range: std::ops::Range<u64>) -> bool {
    const STEP: usize = 64 * 1024;

    let Some(last) = range.end.checked_sub(1).filter(|last| range.contains(last)) else { return false };
    range.step_by(STEP).chain([last]).all(|offset| read_cached(&file, &mut [0], offset) == Some(1))
}

/// Moves a file to a name that must be free.
pub(crate) fn rename_noreplace(from: BorrowedFd<'_>, old: &str, to: BorrowedFd<'_>, new: &str) -> Result<()> {
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    {
        use rustix::fs::{RenameFlags, renameat_with};

        match renameat_with(from, old, to, new, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            other => return other,
        }
    }
    link_and_unlink(from, old, to, new)
}

/// [`rename_noreplace`] where the system lacks it. A crash in between leaves both names.
pub(crate) fn link_and_unlink(from: BorrowedFd<'_>, old: &str, to: BorrowedFd<'_>, new: &str) -> Result<()> {
    linkat(from, old, to, new, AtFlags::empty())?;
    unlinkat(from, old, AtFlags::empty())
}

/// How many files this process may have open.
pub(crate) fn open_file_limit() -> usize {
    use rustix::process::{Resource, getrlimit};

    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Names the machine's boot. Where that cannot be found out, names this process, so that every
/// restart counts as a loss of power.
pub(crate) fn incarnation() -> String {
    #[cfg(target_os = "linux")]
    if let Ok(boot) = std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        // The boot id alone is unique; the machine id tells apart copies of a running machine.
        // The host name is left out: a container gets a new one while the page cache stays.
        let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
        return format!("{}@{}", boot.trim(), machine.trim());
    }
    process_incarnation()
}

fn process_incarnation() -> String {
    use std::hash::BuildHasher;

    let random = || std::hash::RandomState::new().hash_one(std::time::SystemTime::now());
    format!("process-{}-{:016x}{:016x}", std::process::id(), random(), random())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use rustix::fs::open;

    use super::*;

    fn folder(path: &std::path::Path) -> OwnedFd {
        open(path, FOLDER, Mode::empty()).unwrap()
    }

    fn resolvers() -> Vec<Resolver> {
        vec![
            #[cfg(target_os = "linux")]
            Resolver::Kernel,
            Resolver::Walk,
        ]
    }

    #[test]
    fn each_resolver_opens_folders_and_stays_beneath_the_root() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("root");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir_all(outer.path().join("outside/b")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        symlink(outer.path().join("outside"), root.join("absolute")).unwrap();
        symlink("../outside", root.join("relative")).unwrap();
        symlink("a", root.join("inside")).unwrap();
        symlink("/proc/self/root", root.join("magic")).unwrap();
        let fd = folder(&root);
        for resolver in resolvers() {
            for path in ["", "a", "a/b"] {
                resolver.open_folder(fd.as_fd(), path).unwrap_or_else(|errno| panic!("{resolver:?} {path}: {errno}"));
            }
            for (path, expected) in [
                ("absolute", Errno::LOOP),
                ("absolute/b", Errno::LOOP),
                ("relative/b", Errno::LOOP),
                ("inside/b", Errno::LOOP),
                ("magic/etc", Errno::LOOP),
                ("../outside", Errno::XDEV),
                ("a/../../outside", Errno::XDEV),
                ("file", Errno::NOTDIR),
                ("file/x", Errno::NOTDIR),
                ("none", Errno::NOENT),
            ] {
                let found = resolver.open_folder(fd.as_fd(), path).unwrap_err();
                assert_eq!(found, expected, "{resolver:?} {path}");
            }
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_resolves_where_it_can() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Resolver::probe(folder(root.path()).as_fd()), Resolver::Kernel);
    }

    #[test]
    fn both_ways_of_moving_leave_an_existing_file_alone() {
        let root = tempfile::tempdir().unwrap();
        let fd = folder(root.path());
        for rename in [rename_noreplace, link_and_unlink] {
            fs::write(root.path().join("from"), "new").unwrap();
            fs::write(root.path().join("to"), "old").unwrap();
            assert_eq!(rename(fd.as_fd(), "from", fd.as_fd(), "to"), Err(Errno::EXIST));
            assert_eq!(fs::read_to_string(root.path().join("to")).unwrap(), "old");
            fs::remove_file(root.path().join("to")).unwrap();
            rename(fd.as_fd(), "from", fd.as_fd(), "to").unwrap();
            assert_eq!(fs::read_to_string(root.path().join("to")).unwrap(), "new");
            assert!(!root.path().join("from").exists());
        }
    }

    #[test]
    fn incarnations_name_the_boot_or_else_the_process() {
        assert_eq!(incarnation(), incarnation());
        assert_ne!(process_incarnation(), process_incarnation());
    }
}
