//! The in-memory object store passes the suite, whether its writes are durable at once or not.

use bits_core::{
    StorageKey,
    conformance::{MemoryUploads, UploadProbe},
};

const PART: u64 = 1000;

struct Probe(MemoryUploads);

impl UploadProbe for Probe {
    type Store = MemoryUploads;

    fn store(&self) -> &MemoryUploads {
        &self.0
    }

    async fn read(&self, key: &StorageKey) -> Option<Vec<u8>> {
        self.0.read(key).map(Into::into)
    }

    async fn staged_is_empty(&self) -> bool {
        self.0.staged().is_empty()
    }

    fn part_size(&self) -> u64 {
        PART
    }
}

mod durable {
    use super::*;

    bits_core::upload_store_conformance!(async { Probe(MemoryUploads::new(PART)) });
}

mod volatile {
    use super::*;

    bits_core::upload_store_conformance!(async { Probe(MemoryUploads::volatile(PART)) });
}

mod tiny_parts {
    use super::*;

    bits_core::upload_store_conformance!(async { Probe(MemoryUploads::new(7)) });
}
