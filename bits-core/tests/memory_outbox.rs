//! The outbox of the in-memory session store passes the suite.

use std::time::Duration;

use bits_core::conformance::{MemorySessions, OutboxProbe, outbox_subscribers};

struct Probe(MemorySessions);

impl OutboxProbe for Probe {
    type Store = MemorySessions;

    fn store(&self) -> &MemorySessions {
        &self.0
    }

    async fn pass(&self, time: Duration) {
        self.0.clock().advance(time);
    }
}

bits_core::outbox_conformance!(async { Probe(MemorySessions::default().telling(outbox_subscribers())) });
