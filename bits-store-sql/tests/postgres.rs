//! The PostgreSQL store passes the suite of all session stores.
#![cfg(feature = "postgres")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use bits_core::conformance::{OutboxProbe, SessionProbe, outbox_subscribers};
use bits_store_sql::{PostgresOptions, PostgresSessions};
use tests::Postgres;

struct Probe(PostgresSessions);

impl Probe {
    async fn open() -> Self {
        let url = Postgres::shared().database();
        let options =
            PostgresOptions { migrate: true, subscribers: outbox_subscribers(), ..PostgresOptions::default() };
        Self(PostgresSessions::open(&url, options).await.unwrap())
    }
}

impl SessionProbe for Probe {
    type Store = PostgresSessions;

    fn store(&self) -> &PostgresSessions {
        &self.0
    }
}

impl OutboxProbe for Probe {
    type Store = PostgresSessions;

    fn store(&self) -> &PostgresSessions {
        &self.0
    }
}

bits_core::session_store_conformance!(Probe::open());
bits_core::outbox_conformance!(Probe::open());
