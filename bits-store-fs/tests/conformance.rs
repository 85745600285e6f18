//! The suite that every upload store passes.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::fs;

use bits_core::{StorageKey, conformance::UploadProbe};
use bits_store_fs::LocalStore;
use common::{Place, is_empty_or_gone};

struct Probe(Place);

impl UploadProbe for Probe {
    type Store = LocalStore;

    fn store(&self) -> &LocalStore {
        &self.0.store
    }

    async fn read(&self, key: &StorageKey) -> Option<Vec<u8>> {
        fs::read(self.0.path(key.as_str())).ok()
    }

    async fn staged_is_empty(&self) -> bool {
        ["", "in/", "in/0/"].iter().all(|folder| is_empty_or_gone(&self.0.path(&format!("{folder}BITS-Sessions"))))
    }

    /// What is gathered before it is written.
    fn part_size(&self) -> u64 {
        256 * 1024
    }

    fn has_folders(&self) -> bool {
        true
    }
}

bits_core::upload_store_conformance!(async { Probe(Place::new()) });
