//! The lock that keeps a second process off a data folder or a database file.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    fd::OwnedFd,
    fs::{FlockOperation, OFlags, flock, ftruncate, open},
    io::{Errno, pwrite},
};

use crate::sys::mode_of;

/// How often a held lock is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// Exclusive use of a data folder or of a file, for as long as it lives: `flock` on the file `lock`
/// in the folder, or on one beside the file. The system releases it when the process ends, however
/// it ends.
#[derive(Debug)]
pub struct DataLock {
    path: PathBuf,
    _file: OwnedFd,
}

/// A data folder or file could not be locked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process uses it.
    #[error(
        "{} is in use by {}; stop that server, or give this one a path of its own",
        used.display(),
        pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Held {
        /// The data folder or file.
        used: PathBuf,
        /// Who holds it, if it said so.
        pid: Option<u32>,
    },
    /// The lock file cannot be made or locked.
    #[error("cannot lock {}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl DataLock {
    /// Locks `data_dir`, and makes it if it is missing. Another process that holds it, such as
    /// one that is still draining, is waited for as long as `wait`. Dropping the future gives up.
    pub async fn acquire(data_dir: &Path, wait: Duration) -> Result<Self, LockError> {
        let path = data_dir.join("lock");
        fs::create_dir_all(data_dir).map_err(|source| LockError::Io { path: path.clone(), source })?;
        Self::lock(path, data_dir, wait).await
    }

    /// Locks `file`, by a file with `.lock` at the end of its name, and waits likewise. `file` need
    /// not be there, but its folder must.
    pub async fn acquire_file(file: &Path, wait: Duration) -> Result<Self, LockError> {
        let mut name = file.as_os_str().to_owned();
        name.push(".lock");
        Self::lock(name.into(), file, wait).await
    }

    async fn lock(path: PathBuf, used: &Path, wait: Duration) -> Result<Self, LockError> {
        let wrong = |source| LockError::Io { path: path.clone(), source };
        // Not truncated: it holds the name of whoever has the lock.
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = open(&path, flags, mode_of(0o600)).map_err(|errno| wrong(errno.into()))?;
        let until = Instant::now() + wait;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if Instant::now() >= until => {
                    return Err(LockError::Held { used: used.to_owned(), pid: holder(&path) });
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => tokio::time::sleep(PAUSE).await,
                Err(errno) => return Err(wrong(errno.into())),
            }
        }
        sign(&file).map_err(|errno| wrong(errno.into()))?;
        Ok(Self { path, _file: file })
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn sign(file: &OwnedFd) -> rustix::io::Result<()> {
    ftruncate(file, 0)?;
    match pwrite(file, format!("{}\n", std::process::id()).as_bytes(), 0) {
        // The lock holds without a name in it; a full disk must not keep the server down.
        Ok(_) | Err(Errno::NOSPC | Errno::DQUOT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn holder(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
