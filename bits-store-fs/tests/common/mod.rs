//! What the tests of the store share: a store in a folder of its own, and uploads for it.
#![allow(dead_code, reason = "each test program uses its part of it")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use bits_core::{
    BodyError, Precondition, SessionId, StorageKey, StoreError, StoreErrorKind, Upload, UploadStore, Written,
};
use bits_store_fs::{LocalStore, Options};
use bytes::Bytes;
use futures_util::stream;

/// Replace nothing, make folders.
pub(crate) const CAREFUL: Precondition =
    Precondition { overwrite: false, create_folders: true, file_mode: 0o640, folder_mode: 0o2750 };
pub(crate) const REPLACE: Precondition = Precondition { overwrite: true, ..CAREFUL };

/// Bytes that differ from place to place.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| (at ^ (at >> 8) ^ (at >> 16)).wrapping_add(seed) as u8).collect()
}

pub(crate) fn options() -> Options {
    Options { reserve_free: 0, ..Options::default() }
}

pub(crate) fn key(name: &str) -> StorageKey {
    StorageKey::parse(name).unwrap()
}

/// An upload to `name`, staged below the folder `in`.
pub(crate) fn upload(name: &str, total: u64) -> Upload {
    static COUNTER: AtomicU64 = AtomicU64::new(1);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    Upload {
        session: SessionId::new(uuid::Uuid::from_u64_pair(0xB175, number)),
        epoch: 0,
        folder: key("in"),
        key: key(name),
        total,
        received: 0,
        synced: 0,
        handle: None,
        pieces: Vec::new(),
        direct: true,
    }
}

/// A store in a temporary folder.
pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) store: LocalStore,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::with(options())
    }

    pub(crate) fn with(options: Options) -> Self {
        Self::below(tempfile::tempdir().unwrap(), options)
    }

    pub(crate) fn below(folder: tempfile::TempDir, options: Options) -> Self {
        let store = LocalStore::open(&folder.path().join("files"), options).unwrap();
        Self { folder, store }
    }

    /// The store as the next process opens it.
    pub(crate) fn reopened(self) -> Self {
        let Self { folder, store } = self;
        drop(store);
        let store = LocalStore::open(&folder.path().join("files"), options()).unwrap();
        Self { folder, store }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("files").join(name)
    }

    pub(crate) fn staged(&self, upload: &Upload) -> PathBuf {
        self.path("in/BITS-Sessions").join(upload.session.uuid().to_string())
    }

    pub(crate) fn is_nothing_staged(&self) -> bool {
        is_empty_or_gone(&self.path("in/BITS-Sessions"))
    }
}

pub(crate) fn is_empty_or_gone(folder: &Path) -> bool {
    fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
}

/// Writes `data` where the upload stands, and moves it on as its row would be.
pub(crate) async fn write(store: &LocalStore, upload: &mut Upload, data: &[u8]) -> Written {
    write_frames(store, upload, vec![Ok(Bytes::copy_from_slice(data))]).await
}

pub(crate) async fn write_frames(
    store: &LocalStore,
    upload: &mut Upload,
    frames: Vec<Result<Bytes, BodyError>>,
) -> Written {
    let written = store.write(upload, &mut stream::iter(frames)).await;
    assert!(written.reached >= upload.received && written.synced <= written.reached, "{written:?}");
    (upload.received, upload.synced) = (written.reached, upload.synced.max(written.synced));
    written
}

/// Makes room, writes all, and leaves the rest to the caller.
pub(crate) async fn put_all(store: &LocalStore, upload: &mut Upload, data: &[u8]) {
    store.reserve(upload).await.unwrap();
    let written = write(store, upload, data).await;
    assert!(written.stopped.is_none(), "{written:?}");
}

pub(crate) async fn publish(store: &LocalStore, upload: &Upload, precondition: Precondition) -> Result<(), StoreError> {
    store.sync(upload).await?;
    let intent = store.prepare(upload, precondition).await?;
    store.publish(upload, precondition, &intent).await
}

/// A whole upload.
pub(crate) async fn publish_new(store: &LocalStore, name: &str, data: &[u8]) -> Result<(), StoreError> {
    let mut upload = upload(name, data.len() as u64);
    put_all(store, &mut upload, data).await;
    publish(store, &upload, CAREFUL).await
}

pub(crate) fn stopped_kind(written: &Written) -> Option<StoreErrorKind> {
    match &written.stopped {
        Some(bits_core::Stopped::Store(error)) => Some(error.kind),
        Some(other) => panic!("{other:?}"),
        None => None,
    }
}
