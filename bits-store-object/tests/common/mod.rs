//! A store under test with a look behind it.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::sync::Arc;

use bits_core::{StorageKey, conformance::UploadProbe};
use bits_store_object::{Backend, ObjectUploads, Options, Traits};
use futures_util::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};

pub(crate) const AT_DESTINATION: Traits = Traits {
    multipart_at_destination: true,
    session_metadata: "bits-session",
    longest_key: 4096,
    largest_copy: u64::MAX,
};
pub(crate) const STAGED: Traits = Traits { multipart_at_destination: false, ..AT_DESTINATION };

pub(crate) fn memory_backend(objects: Arc<InMemory>, traits: Traits) -> Backend {
    Backend { objects: objects.clone(), multiparts: objects, signer: None, prefix: Path::from("some/prefix"), traits }
}

pub(crate) struct Probe {
    store: ObjectUploads,
    backend: Backend,
    part_size: u64,
}

impl Probe {
    pub(crate) async fn new(backend: Backend, options: Options, part_size: u64) -> Self {
        Self { store: ObjectUploads::open(backend.clone(), options).await.unwrap(), backend, part_size }
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
