//! The SQLite store passes the suite of all session stores.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use bits_core::conformance::{OutboxProbe, SessionProbe, outbox_subscribers};
use bits_store_sql::{Options, SqliteSessions};
use tempfile::TempDir;

struct Probe {
    store: SqliteSessions,
    _folder: TempDir,
}

impl Probe {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { subscribers: outbox_subscribers(), ..Options::default() };
        let store = SqliteSessions::open(folder.path().join("state.db"), options).await.unwrap();
        Self { store, _folder: folder }
    }
}

impl SessionProbe for Probe {
    type Store = SqliteSessions;

    fn store(&self) -> &SqliteSessions {
        &self.store
    }
}

impl OutboxProbe for Probe {
    type Store = SqliteSessions;

    fn store(&self) -> &SqliteSessions {
        &self.store
    }
}

bits_core::session_store_conformance!(Probe::open());
bits_core::outbox_conformance!(Probe::open());
