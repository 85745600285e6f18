//! The store passes the suite on an object store in memory: parts at the destination, parts at a
//! staged object that is copied, with and without conditions, short of memory.
#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod common;

use std::sync::Arc;

use bits_store_object::{ObjectUploads, Options, Traits};
use common::{Probe, memory_backend};
use object_store::memory::InMemory;

const PART: u64 = 1000;

async fn probe(traits: Traits, options: Options) -> Probe {
    Probe::new(memory_backend(Arc::new(InMemory::new()), traits), options, PART).await
}

fn options() -> Options {
    Options { smallest_part: PART, ..Options::default() }
}

mod at_the_destination {
    use super::*;

    bits_core::upload_store_conformance!(probe(common::AT_DESTINATION, options()));
}

mod staged_and_copied {
    use super::*;

    bits_core::upload_store_conformance!(probe(common::STAGED, options()));
}

mod tiny_parts {
    use super::*;

    async fn tiny() -> Probe {
        let options = Options { smallest_part: 7, ..Options::default() };
        Probe::new(memory_backend(Arc::new(InMemory::new()), common::AT_DESTINATION), options, 7).await
    }

    bits_core::upload_store_conformance!(tiny());
}

mod short_of_memory {
    use super::*;

    /// Memory for two parts, and never less than a unit of it.
    fn short() -> Options {
        Options { memory: 2 * PART, largest_part: 10 * PART, ..options() }
    }

    bits_core::upload_store_conformance!(probe(common::AT_DESTINATION, short()));
}

#[tokio::test]
async fn conditions_are_tried_out() {
    let backend = memory_backend(Arc::new(InMemory::new()), common::STAGED);
    let store = ObjectUploads::open(backend, options()).await.unwrap();
    assert!(store.keeps_conditions());
}
