//! Where uploads are kept, whoever serves them.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use bits_core::{Session, UploadStore};
use bits_store_fs::{LocalStore, SyncAt};
use bits_store_object::{Backend, ObjectUploads, Traits};
use futures_util::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};

use super::{
    disk,
    fuse::Fuse,
    objects::{self, Late},
};

const PART: u64 = 1000;

/// What becomes of bytes that are not durable.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Loss {
    /// The process died, not the machine.
    Nothing,
    Kept,
    Zeros,
    Cut,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Disk,
    /// Whether parts are put together at their destination, or staged and copied.
    Objects {
        at_destination: bool,
    },
}

impl Kind {
    /// On both sides of each size from which on it is done in another way.
    pub(crate) fn sizes(self) -> &'static [usize] {
        match self {
            Self::Disk => &[0, 1, 100, 64 << 10, (64 << 10) + 1],
            Self::Objects { .. } => &[0, 1, 999, 1000, 1001, 3500],
        }
    }
}

pub(crate) struct Place {
    kind: Kind,
    folder: tempfile::TempDir,
    bucket: Arc<InMemory>,
    pub(crate) late: Late,
    /// How often the machine was started, and processes on it.
    boots: u32,
    starts: AtomicU32,
}

impl Place {
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            folder: tempfile::tempdir().unwrap(),
            bucket: Arc::default(),
            late: Late::default(),
            boots: 0,
            starts: AtomicU32::new(0),
        }
    }

    /// The store of a new process.
    pub(crate) async fn store(&self, fuse: Arc<Fuse>) -> Arc<dyn UploadStore> {
        match self.kind {
            Kind::Disk => {
                // So that the synced bytes of one process come before unsynced ones of the next.
                let is_even = self.starts.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
                let sync = if is_even { SyncAt::Fragment } else { SyncAt::Checkpoint };
                let incarnation = Some(format!("boot {}", self.boots));
                let options =
                    bits_store_fs::Options { reserve_free: 0, sync, incarnation, ..bits_store_fs::Options::default() };
                Arc::new(disk::Mortal::new(LocalStore::open(self.folder.path(), options).unwrap(), fuse))
            }
            Kind::Objects { at_destination: multipart_at_destination } => {
                let objects = Arc::new(objects::Mortal::new(self.bucket.clone(), fuse, self.late.clone()));
                let (longest_key, largest_copy) = (4096, u64::MAX);
                let session_metadata = "bits-session";
                let traits = Traits { multipart_at_destination, session_metadata, longest_key, largest_copy };
                let (multiparts, prefix) = (objects.clone(), Path::default());
                let backend = Backend { objects, multiparts, signer: None, prefix, traits };
                let options =
                    bits_store_object::Options { smallest_part: PART, ..bits_store_object::Options::default() };
                Arc::new(ObjectUploads::open(backend, options).await.unwrap())
            }
        }
    }

    /// What stands at `name`.
    pub(crate) async fn read(&self, name: &str) -> Option<Vec<u8>> {
        match self.kind {
            Kind::Disk => fs::read(self.folder.path().join(name)).ok(),
            Kind::Objects { .. } => Some(self.bucket.get(&Path::from(name)).await.ok()?.bytes().await.unwrap().into()),
        }
    }

    pub(crate) async fn write(&self, name: &str, content: &[u8]) {
        match self.kind {
            Kind::Disk => fs::write(self.folder.path().join(name), content).unwrap(),
            Kind::Objects { .. } => {
                self.bucket.put(&Path::from(name), content.to_vec().into()).await.unwrap();
            }
        }
    }

    /// What is staged.
    pub(crate) async fn staged(&self) -> Vec<String> {
        match self.kind {
            Kind::Disk => {
                let entries = fs::read_dir(self.folder.path().join("BITS-Sessions"));
                let names = entries.into_iter().flatten().map(|entry| entry.unwrap().file_name());
                names.map(|name| name.into_string().unwrap()).collect()
            }
            Kind::Objects { .. } => {
                let all: Vec<_> = self.bucket.list(None).try_collect().await.unwrap();
                let names = all.into_iter().map(|object| object.location.to_string());
                names.filter(|name| name.contains("BITS-Sessions")).collect()
            }
        }
    }

    /// The process is gone, and perhaps the machine; from which byte on an upload may be lost with it.
    pub(crate) fn lose(&mut self, session: &Session, loss: Loss) -> u64 {
        match (self.kind, loss) {
            // What is not synced is in the memory of the process.
            (Kind::Objects { .. }, _) => return session.synced,
            (Kind::Disk, Loss::Nothing) => return session.received,
            (Kind::Disk, Loss::Kept | Loss::Zeros | Loss::Cut) => self.boots += 1,
        }
        let path = self.folder.path().join("BITS-Sessions").join(session.id.uuid().to_string());
        let synced = usize::try_from(session.synced).unwrap();
        if let Ok(mut staged) = fs::read(&path)
            && staged.len() > synced
        {
            match loss {
                Loss::Nothing | Loss::Kept => {}
                Loss::Zeros => staged[synced..].fill(0),
                Loss::Cut => staged.truncate(synced),
            }
            fs::write(path, staged).unwrap();
        }
        session.synced
    }
}
