//! The in-memory session store passes the suite.

use std::time::Duration;

use bits_core::conformance::{MemorySessions, SessionProbe};

struct Probe(MemorySessions);

impl SessionProbe for Probe {
    type Store = MemorySessions;

    fn store(&self) -> &MemorySessions {
        &self.0
    }

    async fn pass(&self, time: Duration) {
        self.0.clock().advance(time);
    }
}

bits_core::session_store_conformance!(async { Probe(MemorySessions::default()) });
