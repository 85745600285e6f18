//! The connections that only read.

use std::{num::NonZeroU32, time::Duration};

use bits_core::SessionStoreError;
use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};

use super::error::to_store_error;
use crate::connection::Operation;

/// How long a caller waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Reader {
    pool: SqlitePool,
}

impl Reader {
    /// At most so many connections, each made when it is first needed.
    pub(super) fn new(options: SqliteConnectOptions, connections: NonZeroU32) -> Self {
        let pool = SqlitePoolOptions::new()
            .max_connections(connections.get())
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_lazy_with(options.pragma("query_only", "ON"));
        Self { pool }
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }

    pub(super) async fn read<O: Operation>(&self, question: O) -> Result<O::Output, SessionStoreError> {
        let mut connection = self.pool.acquire().await.map_err(to_store_error)?;
        question.run(&mut *connection).await
    }
}
