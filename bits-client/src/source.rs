//! Where the bytes of an upload come from.

use std::{
    fs::File,
    io,
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::platform;

/// Bytes of a known size that can be read at any offset, again and again.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// What the source holds at this moment; a change between two calls means other bytes.
    async fn fingerprint(&self) -> io::Result<Fingerprint>;

    /// The bytes at `offset`: `length` of them, fewer only where the source ends.
    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes>;
}

/// Tells whether a source still holds what it held when its upload began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Bytes.
    pub size: u64,
    /// The last modification, in nanoseconds since the Unix epoch, where it is known.
    pub modified: Option<i64>,
    /// Whatever else tells this source from another at the same place.
    pub identity: Option<String>,
}

impl Fingerprint {
    /// How `now` differs from this one, in words; none when it does not.
    pub fn difference(&self, now: &Self) -> Option<String> {
        if self.size != now.size {
            return Some(format!("it had {} bytes and has {} now", self.size, now.size));
        }
        if self.modified != now.modified {
            return Some("it was modified".to_owned());
        }
        (self.identity != now.identity).then(|| "another file stands in its place".to_owned())
    }
}

/// A file, held open.
#[derive(Clone, Debug)]
pub struct FileSource {
    file: Arc<File>,
}

impl FileSource {
    /// Opens a regular file.
    pub async fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        blocking(move || {
            // Checked before opening too: opening a pipe would wait for its writer.
            check_regular(&std::fs::metadata(&path)?)?;
            let file = File::open(path)?;
            check_regular(&file.metadata()?)?;
            Ok(Self { file: Arc::new(file) })
        })
        .await
    }
}

#[async_trait]
impl Source for FileSource {
    async fn fingerprint(&self) -> io::Result<Fingerprint> {
        let file = self.file.clone();
        blocking(move || {
            let metadata = file.metadata()?;
            let modified = metadata.modified().ok().and_then(nanoseconds);
            Ok(Fingerprint { size: metadata.len(), modified, identity: platform::identity(&metadata) })
        })
        .await
    }

    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let file = self.file.clone();
        blocking(move || read_fully(&file, offset, length)).await
    }
}

/// Bytes in memory.
#[derive(Clone, Debug)]
pub struct BytesSource {
    bytes: Bytes,
    identity: String,
}

impl BytesSource {
    /// A source of these bytes.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let identity = format!("fnv {:016x}", fnv1a(&bytes));
        Self { bytes, identity }
    }
}

#[async_trait]
impl Source for BytesSource {
    async fn fingerprint(&self) -> io::Result<Fingerprint> {
        let size = self.bytes.len() as u64;
        Ok(Fingerprint { size, modified: None, identity: Some(self.identity.clone()) })
    }

    async fn read_at(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.bytes.len());
        let end = start.saturating_add(length).min(self.bytes.len());
        Ok(self.bytes.slice(start..end))
    }
}

fn check_regular(metadata: &std::fs::Metadata) -> io::Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file: only files with a size can be uploaded"))
}

fn read_fully(file: &File, offset: u64, length: usize) -> io::Result<Bytes> {
    let mut buffer = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match platform::read_at(file, &mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer.into())
}

pub(crate) fn nanoseconds(time: SystemTime) -> Option<i64> {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).ok(),
        Err(before) => i64::try_from(before.duration().as_nanos()).ok().map(|nanos| -nanos),
    }
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3))
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::{io::Write, time::Duration};

    use super::*;

    #[tokio::test]
    async fn a_file_reads_anywhere_and_short_at_its_end() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"0123456789").unwrap();
        let source = FileSource::open(file.path()).await.unwrap();
        assert_eq!(source.fingerprint().await.unwrap().size, 10);
        assert_eq!(&source.read_at(3, 4).await.unwrap()[..], b"3456");
        assert_eq!(&source.read_at(8, 4).await.unwrap()[..], b"89");
        assert!(source.read_at(11, 4).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn every_change_of_a_file_shows_in_its_fingerprint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "one").unwrap();
        let held = FileSource::open(&path).await.unwrap();
        let before = held.fingerprint().await.unwrap();
        assert_eq!(before.difference(&FileSource::open(&path).await.unwrap().fingerprint().await.unwrap()), None);

        let other = folder.path().join("other");
        std::fs::write(&other, "one").unwrap();
        File::open(&other).unwrap().set_modified(std::fs::metadata(&path).unwrap().modified().unwrap()).unwrap();
        std::fs::rename(&other, &path).unwrap();
        let replaced = FileSource::open(&path).await.unwrap().fingerprint().await.unwrap();
        assert!(before.difference(&replaced).unwrap().contains("another file"));

        std::fs::write(&path, "longer").unwrap();
        let longer = FileSource::open(&path).await.unwrap().fingerprint().await.unwrap();
        assert_eq!(before.difference(&longer).unwrap(), "it had 3 bytes and has 6 now");

        let touched = Fingerprint { modified: before.modified.map(|nanos| nanos + 1), ..before.clone() };
        assert_eq!(before.difference(&touched).unwrap(), "it was modified");
        assert!(nanoseconds(UNIX_EPOCH - Duration::from_nanos(5)) == Some(-5));
    }

    #[tokio::test]
    async fn a_folder_is_no_source() {
        let error = FileSource::open(std::env::temp_dir()).await.unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
    }

    #[tokio::test]
    async fn bytes_read_anywhere_and_differ_by_content() {
        let source = BytesSource::new("0123456789");
        assert_eq!(&source.read_at(8, 4).await.unwrap()[..], b"89");
        assert!(source.read_at(u64::MAX, 4).await.unwrap().is_empty());
        let other = BytesSource::new("0123456780").fingerprint().await.unwrap();
        assert!(source.fingerprint().await.unwrap().difference(&other).is_some());
    }
}
