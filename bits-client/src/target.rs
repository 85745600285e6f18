//! Where the bytes of a download go.

use std::{
    fs::{File, Metadata, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    Fingerprint, platform,
    source::{blocking, nanoseconds},
};

/// Takes bytes at any offset, again and again, until it is told that it has them all; afterwards
/// perhaps those of another content, which replaces the first.
#[async_trait]
pub trait Target: Send + Sync + 'static {
    /// How many bytes, counted from the start, an earlier run may have left.
    async fn held(&self) -> io::Result<u64>;

    /// Puts `bytes` at `offset`.
    async fn write(&self, offset: u64, bytes: Bytes) -> io::Result<()>;

    /// All `size` bytes are written: makes them last. What tells them from anything else that may
    /// stand in their place; none where nothing does.
    async fn seal(&self, size: u64) -> io::Result<Option<Fingerprint>>;

    /// Whether what was sealed so, by whatever run, stands in its place.
    async fn is_placed(&self, _sealed: &Fingerprint) -> io::Result<bool> {
        Ok(false)
    }

    /// Puts what was sealed in its place, where nothing else may stand but contents that this target
    /// was given `earlier`, as they were sealed. May be called again after it succeeded; where its
    /// future is dropped, it may have succeeded.
    async fn finish(&self, earlier: &[Fingerprint]) -> io::Result<()>;
}

/// A file that appears when it is whole; until then its bytes stand in another file beside it.
#[derive(Clone, Debug)]
pub struct FileTarget {
    path: PathBuf,
    part: PathBuf,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
enum State {
    Open(Arc<File>),
    Placed,
    /// Nobody knows what the disk holds of what was written, and no later sync tells.
    Broken(String),
}

impl FileTarget {
    /// For the file at `path`, which must not exist. `name` makes the name of the other file its
    /// own: an unfinished download goes on with the same name only.
    pub async fn open(path: impl AsRef<Path>, name: &str) -> io::Result<Self> {
        let (path, part) = (path.as_ref().to_owned(), Self::part(path.as_ref(), name)?);
        blocking(move || {
            let state = Arc::new(Mutex::new(State::Open(open(&part)?)));
            Ok(Self { path, part, state })
        })
        .await
    }

    /// Makes last what was written. Once this has failed, nothing more can be done with this target.
    /// Blocks.
    pub fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        match &*state {
            State::Open(file) => file.sync_data().map_err(|error| state.broken(&error)),
            State::Placed => Ok(()),
            State::Broken(cause) => Err(io::Error::other(cause.clone())),
        }
    }

    /// Removes what an unfinished download has left.
    pub async fn discard(path: impl AsRef<Path>, name: &str) -> io::Result<()> {
        let part = Self::part(path.as_ref(), name)?;
        blocking(move || remove(&part)).await
    }

    fn part(path: &Path, name: &str) -> io::Result<PathBuf> {
        let file_name =
            path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it has no name"))?;
        let mut part = std::ffi::OsString::from(".");
        part.push(file_name);
        part.push(format!(".{name}.part"));
        Ok(path.with_file_name(part))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What it holds is whole at any time.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file for the bytes: a new one where the last is in its place.
    fn file(&self) -> io::Result<Arc<File>> {
        let mut state = self.state();
        let file = match &*state {
            State::Open(file) => return Ok(file.clone()),
            State::Placed => open(&self.part)?,
            State::Broken(cause) => return Err(io::Error::other(cause.clone())),
        };
        *state = State::Open(file.clone());
        Ok(file)
    }

    fn make_last(&self, size: u64) -> io::Result<Option<Fingerprint>> {
        let file = self.file()?;
        let length = file.metadata()?.len();
        if length < size {
            return Err(io::Error::other(format!("it has {length} bytes and should have {size}")));
        }
        if length > size {
            // What an earlier run left was of something longer.
            file.set_len(size)?;
        }
        file.sync_all().map_err(|error| self.state().broken(&error))?;
        Ok(mark(&file.metadata()?))
    }

    fn put(&self, earlier: &[Fingerprint]) -> io::Result<()> {
        let file = match &*self.state() {
            State::Open(file) => file.clone(),
            State::Placed => return Ok(()),
            State::Broken(cause) => return Err(io::Error::other(cause.clone())),
        };
        let there = self.there()?;
        let is_ours = there.as_ref().and_then(mark).is_some_and(|mark| earlier.contains(&mark));
        if there.is_some_and(|there| is_same(&file, &there)) {
            // An earlier run came as far as this.
            remove(&self.part)?;
        } else if is_ours {
            std::fs::rename(&self.part, &self.path)?;
        } else {
            self.place()?;
        }
        self.sync_folder()?;
        *self.state() = State::Placed;
        Ok(())
    }

    /// Gives the file its name, which must be free.
    fn place(&self) -> io::Result<()> {
        match std::fs::hard_link(&self.part, &self.path) {
            Ok(()) => remove(&self.part),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
            // A file system without links.
            Err(_) => platform::rename_new(&self.part, &self.path),
        }
    }

    /// What stands in the file's place.
    fn there(&self) -> io::Result<Option<Metadata>> {
        match std::fs::symlink_metadata(&self.path) {
            Ok(there) => Ok(Some(there)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn sync_folder(&self) -> io::Result<()> {
        platform::sync_folder(self.path.parent().filter(|folder| !folder.as_os_str().is_empty()))
    }
}

#[async_trait]
impl Target for FileTarget {
    async fn held(&self) -> io::Result<u64> {
        let target = self.clone();
        blocking(move || Ok(target.file()?.metadata()?.len())).await
    }

    async fn write(&self, offset: u64, bytes: Bytes) -> io::Result<()> {
        let target = self.clone();
        blocking(move || platform::write_at(&*target.file()?, &bytes, offset)).await
    }

    async fn seal(&self, size: u64) -> io::Result<Option<Fingerprint>> {
        let target = self.clone();
        blocking(move || target.make_last(size)).await
    }

    async fn is_placed(&self, sealed: &Fingerprint) -> io::Result<bool> {
        let (target, sealed) = (self.clone(), sealed.clone());
        blocking(move || {
            let is_placed = target.there()?.as_ref().and_then(mark) == Some(sealed);
            if is_placed {
                // Whoever put it there may have come no further.
                target.sync_folder()?;
            }
            Ok(is_placed)
        })
        .await
    }

    async fn finish(&self, earlier: &[Fingerprint]) -> io::Result<()> {
        let (target, earlier) = (self.clone(), earlier.to_owned());
        blocking(move || target.put(&earlier)).await
    }
}

impl State {
    fn broken(&mut self, error: &io::Error) -> io::Error {
        let cause = format!("what was written may not have reached the disk: {error}");
        *self = Self::Broken(cause.clone());
        io::Error::other(cause)
    }
}

/// Opens the file for the bytes, for one writer.
fn open(part: &Path) -> io::Result<Arc<File>> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(part)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(io::Error::new(io::ErrorKind::ResourceBusy, "another process writes it")),
        // Where there are no locks, nobody holds one.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(Arc::new(file)),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn is_same(file: &File, there: &Metadata) -> bool {
    let ours = file.metadata().ok().and_then(|ours| platform::identity(&ours));
    ours.is_some() && ours == platform::identity(there)
}

/// Size and time. Not the inode: file systems without links may give a file another at any time.
fn mark(metadata: &Metadata) -> Option<Fingerprint> {
    let modified = metadata.modified().ok().and_then(nanoseconds)?;
    let mark = Fingerprint { size: metadata.len(), modified: Some(modified), identity: None };
    metadata.is_file().then_some(mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn open(folder: &tempfile::TempDir) -> FileTarget {
        FileTarget::open(folder.path().join("file"), "job").await.unwrap()
    }

    /// Writes all of a content, and seals it.
    async fn seal(target: &FileTarget, content: &'static str) -> Fingerprint {
        target.write(0, Bytes::from_static(content.as_bytes())).await.unwrap();
        target.seal(content.len() as u64).await.unwrap().unwrap()
    }

    fn read(folder: &tempfile::TempDir) -> String {
        std::fs::read_to_string(folder.path().join("file")).unwrap()
    }

    fn names(folder: &tempfile::TempDir) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_file_appears_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let target = open(&folder).await;
        target.write(3, Bytes::from_static(b"def")).await.unwrap();
        target.write(0, Bytes::from_static(b"abc")).await.unwrap();
        assert!(target.seal(7).await.is_err(), "a byte is missing");
        let sealed = target.seal(6).await.unwrap().unwrap();
        assert!(!folder.path().join("file").exists());
        assert!(!target.is_placed(&sealed).await.unwrap());
        for _ in 0..2 {
            target.finish(&[]).await.unwrap();
            assert!(target.is_placed(&sealed).await.unwrap());
            assert_eq!((read(&folder).as_str(), names(&folder)), ("abcdef", vec!["file".to_owned()]));
        }
    }

    #[tokio::test]
    async fn nothing_is_left_of_something_longer() {
        let folder = tempfile::tempdir().unwrap();
        let target = open(&folder).await;
        target.write(0, Bytes::from_static(b"abcdef")).await.unwrap();
        seal(&target, "uvw").await;
        target.finish(&[]).await.unwrap();
        assert_eq!(read(&folder), "uvw");
    }

    #[tokio::test]
    async fn another_content_replaces_the_target_s_own_at_once_and_nothing_else() {
        for is_later in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let mut target = open(&folder).await;
            let first = seal(&target, "first").await;
            target.finish(&[]).await.unwrap();
            if is_later {
                target = open(&folder).await;
            }
            assert_eq!(target.held().await.unwrap(), 0);
            seal(&target, "2nd").await;
            let other = Fingerprint { size: 6, ..first.clone() };
            assert!(target.finish(&[other]).await.is_err(), "something else stands there");
            assert_eq!(read(&folder), "first");
            target.finish(&[first]).await.unwrap();
            assert_eq!((read(&folder).as_str(), names(&folder)), ("2nd", vec!["file".to_owned()]));
        }
    }

    /// Wherever a run ended while it put the file in its place, the next one sees what it did.
    #[tokio::test]
    async fn an_end_at_any_step_of_finishing_is_seen() {
        for steps in 0..3 {
            let folder = tempfile::tempdir().unwrap();
            let (file, part) = (folder.path().join("file"), folder.path().join(".file.job.part"));
            let sealed = seal(&open(&folder).await, "whole").await;
            if steps > 0 {
                std::fs::hard_link(&part, &file).unwrap();
            }
            if steps > 1 {
                std::fs::remove_file(&part).unwrap();
            }
            let target = open(&folder).await;
            assert_eq!(target.is_placed(&sealed).await.unwrap(), steps > 0);
            if steps < 2 {
                target.finish(&[]).await.unwrap();
            }
            FileTarget::discard(&file, "job").await.unwrap();
            assert_eq!((read(&folder).as_str(), names(&folder)), ("whole", vec!["file".to_owned()]));
        }
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
        target.seal(0).await.unwrap();
        assert!(target.finish(&[]).await.is_err());
        assert_eq!(read(&folder), "old");
    }

    /// After one that failed, the next sync of a file can succeed without the bytes.
    #[cfg(unix)]
    #[tokio::test]
    async fn a_sync_that_failed_is_not_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let target = open(&folder).await;
        target.write(0, Bytes::from_static(b"abc")).await.unwrap();
        let (_reader, pipe) = io::pipe().unwrap();
        // A pipe cannot be synced.
        let pipe = Arc::new(File::from(std::os::fd::OwnedFd::from(pipe)));
        let State::Open(file) = std::mem::replace(&mut *target.state(), State::Open(pipe)) else { panic!() };
        assert!(target.sync().is_err());
        file.sync_data().unwrap();
        for _ in 0..2 {
            assert!(target.sync().is_err());
            assert!(target.write(3, Bytes::from_static(b"def")).await.is_err());
            assert!(target.seal(3).await.is_err());
            assert!(target.finish(&[]).await.is_err());
        }
        assert!(!folder.path().join("file").exists());
    }
}
