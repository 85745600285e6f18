//! File systems of a test's own, and what a power loss leaves of one.
//!
//! An [`ImageDisk`] is an ext4 file system in an image file, mounted through a loop device. What
//! the kernel has not been made to write out is in its page cache and not in the image, so a copy
//! of the image file is what a machine finds after losing power: [`ImageDisk::lose_power`] takes
//! it and mounts it elsewhere, which replays the journal. The file system commits its journal
//! every ten minutes only, so that nothing reaches the image by the mere passing of time in a
//! test that lasts seconds; the kernel leaves dirty data alone for 30 s.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// An ext4 file system in a file.
#[derive(Debug)]
pub struct ImageDisk {
    // Unmounted before the folder goes.
    mount: Mount,
    image: PathBuf,
    folder: TempDir,
}

impl ImageDisk {
    /// A new file system of so many MiB.
    pub fn new(mib: u64) -> Self {
        Self::made("ext4", mib)
    }

    /// A new file system of so many MiB that cannot allocate space ahead.
    pub fn without_extents(mib: u64) -> Self {
        Self::made("ext3", mib)
    }

    fn made(kind: &str, mib: u64) -> Self {
        require_root();
        let folder = TempDir::new().unwrap();
        let image = folder.path().join("disk.img");
        fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        // Everything is initialised now, so that no kernel thread writes to it later.
        let options = "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0";
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-t", kind, "-E", options]).arg(&image));
        Self::mounted(folder, image)
    }

    /// The root folder of the file system.
    pub fn path(&self) -> &Path {
        &self.mount.0
    }

    /// A folder beside it, on another file system.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What a machine finds when power is lost now. The file system stays mounted.
    pub fn lose_power(&self) -> Self {
        let folder = TempDir::new_in(self.folder.path().parent().unwrap()).unwrap();
        let image = folder.path().join("disk.img");
        run(Command::new("cp").args(["--sparse=always", "--reflink=never"]).arg(&self.image).arg(&image));
        Self::mounted(folder, image)
    }

    fn mounted(folder: TempDir, image: PathBuf) -> Self {
        let at = folder.path().join("mnt");
        fs::create_dir(&at).unwrap();
        let mount = Mount::new(Command::new("mount").args(["-o", "loop,commit=600"]).arg(&image), at);
        Self { mount, image, folder }
    }
}

/// A file system in memory, of a bounded size.
#[derive(Debug)]
pub struct SmallDisk {
    mount: Mount,
    _folder: TempDir,
}

impl SmallDisk {
    /// A new file system of so many MiB.
    pub fn new(mib: u64) -> Self {
        require_root();
        let folder = TempDir::new().unwrap();
        let at = folder.path().join("mnt");
        fs::create_dir(&at).unwrap();
        let mount = Mount::new(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]), at);
        Self { mount, _folder: folder }
    }

    /// Its root folder.
    pub fn path(&self) -> &Path {
        &self.mount.0
    }

    /// Takes no writes from now on, or takes them again. Nobody may have a file open for writing.
    pub fn set_read_only(&self, read_only: bool) {
        let mode = if read_only { "remount,ro" } else { "remount,rw" };
        run(Command::new("mount").args(["-o", mode]).arg(self.path()));
    }
}

/// A folder that shows another one and takes no writes.
#[derive(Debug)]
pub struct ReadOnlyView {
    mount: Mount,
    _folder: TempDir,
}

impl ReadOnlyView {
    /// A view of `folder`.
    pub fn of(folder: &Path) -> Self {
        require_root();
        let outer = TempDir::new().unwrap();
        let at = outer.path().join("mnt");
        fs::create_dir(&at).unwrap();
        let mount = Mount::new(Command::new("mount").args(["-o", "bind,ro"]).arg(folder), at);
        Self { mount, _folder: outer }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.mount.0
    }
}

/// A mounted file system; unmounted when dropped.
#[derive(Debug)]
struct Mount(PathBuf);

impl Mount {
    fn new(command: &mut Command, at: PathBuf) -> Self {
        run(command.arg(&at));
        Self(at)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).status().is_ok_and(|status| status.success());
        if !unmounted {
            // A process that is being killed still holds it: let go as soon as it is gone.
            let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
        }
    }
}

/// Mounting takes a privilege; a test that needs it fails without, and says so.
pub fn require_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test mounts file systems: run the tests as root, such as in a container or virtual machine"
    );
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
