//! Where the bytes of a download go.

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{platform, source::blocking};

/// Takes bytes at any offset, again and again, until it is told that it has them all.
#[async_trait]
pub trait Target: Send + Sync + 'static {
    /// How many bytes, counted from the start, an earlier run may have left.
    async fn held(&self) -> io::Result<u64>;

    /// Puts `bytes` at `offset`.
    async fn write(&self, offset: u64, bytes: Bytes) -> io::Result<()>;

    /// All `size` bytes are written: makes them last, and puts them in their place. May be called
    /// again after it succeeded.
    async fn finish(&self, size: u64) -> io::Result<()>;
}

/// A file that appears when it is whole; until then its bytes stand in another file beside it.
#[derive(Clone, Debug)]
pub struct FileTarget {
    path: PathBuf,
    part: PathBuf,
    file: Arc<File>,
}

impl FileTarget {
    /// For the file at `path`, which must not exist. `name` makes the name of the other file its
    /// own: an unfinished download goes on with the same name only.
    pub async fn open(path: impl AsRef<Path>, name: &str) -> io::Result<Self> {
        let (path, part) = (path.as_ref().to_owned(), Self::part(path.as_ref(), name)?);
        blocking(move || {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(&part)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    return Err(io::Error::new(io::ErrorKind::ResourceBusy, "another process writes it"));
                }
                // Where there are no locks, nobody holds one.
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            Ok(Self { path, part, file: Arc::new(file) })
        })
        .await
    }

    /// Makes last what was written. Blocks.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Removes what an unfinished download has left.
    pub async fn discard(path: impl AsRef<Path>, name: &str) -> io::Result<()> {
        let part = Self::part(path.as_ref(), name)?;
        blocking(move || match std::fs::remove_file(part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
        .await
    }

    fn part(path: &Path, name: &str) -> io::Result<PathBuf> {
        let file_name =
            path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it has no name"))?;
        let mut part = std::ffi::OsString::from(".");
        part.push(file_name);
        part.push(format!(".{name}.part"));
        Ok(path.with_file_name(part))
    }

    fn put(&self, size: u64) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        if length < size {
            return Err(io::Error::other(format!("it has {length} bytes and should have {size}")));
        }
        if length > size {
            // What an earlier run left was of something longer.
            self.file.set_len(size)?;
        }
        self.file.sync_all()?;
        if is_same(&self.file, &self.path) {
            // An earlier call came as far as this.
            let _ = std::fs::remove_file(&self.part);
            return Ok(());
        }
        match std::fs::hard_link(&self.part, &self.path) {
            Ok(()) => std::fs::remove_file(&self.part)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
            // A file system without links.
            Err(_) if !self.path.try_exists()? => std::fs::rename(&self.part, &self.path)?,
            Err(error) => return Err(error),
        }
        platform::sync_folder(self.path.parent().filter(|folder| !folder.as_os_str().is_empty()))
    }
}

#[async_trait]
impl Target for FileTarget {
    async fn held(&self) -> io::Result<u64> {
        let file = self.file.clone();
        blocking(move || Ok(file.metadata()?.len())).await
    }

    async fn write(&self, offset: u64, bytes: Bytes) -> io::Result<()> {
        let file = self.file.clone();
        blocking(move || platform::write_at(&file, &bytes, offset)).await
    }

    async fn finish(&self, size: u64) -> io::Result<()> {
        let target = self.clone();
        blocking(move || target.put(size)).await
    }
}

fn is_same(file: &File, path: &Path) -> bool {
    let identity = |metadata: io::Result<std::fs::Metadata>| metadata.ok().and_then(|it| platform::identity(&it));
    let there = identity(std::fs::symlink_metadata(path));
    there.is_some() && there == identity(file.metadata())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn open(folder: &tempfile::TempDir) -> FileTarget {
        FileTarget::open(folder.path().join("file"), "job").await.unwrap()
    }

    #[tokio::test]
    async fn a_file_appears_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let target = open(&folder).await;
        target.write(3, Bytes::from_static(b"def")).await.unwrap();
        target.write(0, Bytes::from_static(b"abc")).await.unwrap();
        assert!(!folder.path().join("file").exists());
        assert!(target.finish(7).await.is_err(), "a byte is missing");
        for _ in 0..2 {
            target.finish(6).await.unwrap();
            assert_eq!(std::fs::read(folder.path().join("file")).unwrap(), b"abcdef");
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        }
    }

    #[tokio::test]
    async fn nothing_is_left_of_something_longer() {
        let folder = tempfile::tempdir().unwrap();
        let target = open(&folder).await;
        target.write(0, Bytes::from_static(b"abcdef")).await.unwrap();
        target.write(0, Bytes::from_static(b"uvw")).await.unwrap();
        target.finish(3).await.unwrap();
        assert_eq!(std::fs::read(folder.path().join("file")).unwrap(), b"uvw");
        // The session was lost after its reply had come, and the next one has a shorter reply.
        target.write(0, Bytes::from_static(b"xy")).await.unwrap();
        target.finish(2).await.unwrap();
        assert_eq!(std::fs::read(folder.path().join("file")).unwrap(), b"xy");
    }

    #[tokio::test]
    async fn what_was_written_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        open(&folder).await.write(0, Bytes::from_static(b"abc")).await.unwrap();
        assert_eq!(open(&folder).await.held().await.unwrap(), 3);
        FileTarget::discard(folder.path().join("file"), "job").await.unwrap();
        FileTarget::discard(folder.path().join("file"), "job").await.unwrap();
        assert_eq!(open(&folder).await.held().await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_file_that_exists_is_kept_and_one_writer_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let target = open(&folder).await;
        assert!(FileTarget::open(folder.path().join("file"), "job").await.is_err());
        std::fs::write(folder.path().join("file"), "old").unwrap();
        assert!(target.finish(0).await.is_err());
        assert_eq!(std::fs::read(folder.path().join("file")).unwrap(), b"old");
    }
}
