//! The store of uploads passes its suite on real object stores: Ceph's gateway, Azurite, and the small
//! S3 server of other tests.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use bits_core::{StorageKey, conformance::UploadProbe};
use bits_store_object::{Backend, ObjectUploads, Options, backend};
use futures_util::TryStreamExt;
use object_store::{ObjectStore as _, ObjectStoreExt, path::Path};
use tests::ObjectStore;

struct Probe {
    store: ObjectUploads,
    _files: ObjectStore,
    backend: Backend,
    part_size: u64,
}

impl Probe {
    async fn new(store: ObjectStore, part_size: u64) -> Self {
        let options: Vec<_> = store.options.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let mut backend = backend(&store.url, &options).unwrap();
        if let Some(bytes) = store.longest_key {
            backend.traits.longest_key = bytes;
        }
        let options = Options { smallest_part: part_size, ..Options::default() };
        let opened = ObjectUploads::open(backend.clone(), options).await.unwrap();
        Self { store: opened, _files: store, backend, part_size }
    }
}

impl UploadProbe for Probe {
    type Store = ObjectUploads;

    fn store(&self) -> &ObjectUploads {
        &self.store
    }

    async fn read(&self, key: &StorageKey) -> Option<Vec<u8>> {
        let path = Path::parse(format!("{}/{key}", self.backend.prefix)).unwrap();
        match self.backend.objects.get(&path).await {
            Ok(result) => Some(result.bytes().await.unwrap().to_vec()),
            Err(object_store::Error::NotFound { .. }) => None,
            Err(error) => panic!("{path} cannot be read: {error}"),
        }
    }

    async fn staged_is_empty(&self) -> bool {
        let listed: Vec<_> = self.backend.objects.list(Some(&self.backend.prefix)).try_collect().await.unwrap();
        !listed.iter().any(|meta| meta.location.parts().any(|part| part.as_ref() == StorageKey::STAGING))
    }

    fn part_size(&self) -> u64 {
        self.part_size
    }

    fn longest_key(&self) -> usize {
        self.backend.traits.longest_key - self.backend.prefix.as_ref().len() - 1
    }
}

/// S3 takes no smaller parts.
const REAL_PART: u64 = 5 << 20;
const SMALL_PART: u64 = 64 << 10;

mod ceph {
    use super::*;

    bits_core::upload_store_conformance!(Probe::new(ObjectStore::ceph(), REAL_PART));
}

mod azurite {
    use super::*;

    bits_core::upload_store_conformance!(Probe::new(ObjectStore::azurite(), SMALL_PART));
}

mod small {
    use super::*;

    bits_core::upload_store_conformance!(Probe::new(ObjectStore::small(), REAL_PART));
}
