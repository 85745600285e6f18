//! The connections that only read, and what they read.

use std::{num::NonZeroU32, time::Duration};

use bits_core::{
    Census, Content, Delivery, Filter, Found, OutboxEvent, Piece, Session, SessionId, SessionStoreError, State, Tally,
    Timestamp, Tombstone,
};
use sqlx::{
    AssertSqlSafe, Sqlite, SqlitePool,
    query::Query,
    sqlite::{SqliteArguments, SqliteConnectOptions, SqlitePoolOptions, SqliteRow},
};

use super::{
    columns::blob,
    error::to_store_error,
    statements::{self, ListBy},
};
use crate::rows::{self, Columns, to_integer, to_millis};

type Statement = Query<'static, Sqlite, SqliteArguments>;

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

    pub(super) async fn load(&self, id: SessionId) -> Result<Option<Found>, SessionStoreError> {
        let statement = sqlx::query(statements::LOAD).bind(blob(id));
        let row = statement.fetch_optional(&self.pool).await.map_err(to_store_error)?;
        row.as_ref().map(rows::found).transpose()
    }

    pub(super) async fn pieces(&self, id: SessionId, from: u64) -> Result<Vec<Piece>, SessionStoreError> {
        // No piece ends after the largest offset that a row holds.
        let from = to_integer(from).unwrap_or(i64::MAX);
        self.all(sqlx::query(statements::PIECES).bind(blob(id)).bind(from), rows::piece).await
    }

    pub(super) async fn replaced_pieces(&self, id: SessionId) -> Result<Vec<Piece>, SessionStoreError> {
        self.all(sqlx::query(statements::REPLACED_PIECES).bind(blob(id)), rows::piece).await
    }

    pub(super) async fn list(&self, filter: &Filter) -> Result<Vec<Session>, SessionStoreError> {
        self.all(list(filter), rows::session).await
    }

    pub(super) async fn census(&self) -> Result<Census, SessionStoreError> {
        let row = sqlx::query(statements::CENSUS).fetch_one(&self.pool).await.map_err(to_store_error)?;
        let count = |column| {
            let count = row.integer(column).ok().flatten().and_then(|count| u64::try_from(count).ok());
            count.ok_or_else(|| SessionStoreError::Corrupt(format!("the count of {column} sessions is no number")))
        };
        Ok(Census { live: count("live")?, expired: count("expired")? })
    }

    pub(super) async fn tally(&self, idle: [Duration; 3]) -> Result<Vec<Tally>, SessionStoreError> {
        let [first, second, third] = idle.map(to_millis);
        self.all(sqlx::query(statements::TALLY).bind(first).bind(second).bind(third), rows::tally).await
    }

    pub(super) async fn expired(&self, limit: u32) -> Result<Vec<Session>, SessionStoreError> {
        self.all(limited(statements::EXPIRED, limit), rows::session).await
    }

    pub(super) async fn unpublished(&self, limit: u32) -> Result<Vec<Session>, SessionStoreError> {
        self.all(limited(statements::UNPUBLISHED, limit), rows::session).await
    }

    pub(super) async fn unclean(&self, limit: u32) -> Result<Vec<Tombstone>, SessionStoreError> {
        self.all(limited(statements::UNCLEAN, limit), rows::tombstone).await
    }

    pub(super) async fn next_due(&self, subscriber: &str) -> Result<Option<Duration>, SessionStoreError> {
        let statement = sqlx::query_scalar::<_, i64>(statements::NEXT_DUE).bind(subscriber);
        let wait = statement.fetch_optional(&self.pool).await.map_err(to_store_error)?;
        Ok(wait.map(|millis| Duration::from_millis(u64::try_from(millis).unwrap_or(0))))
    }

    pub(super) async fn pending(&self, subscriber: &str, session: Option<SessionId>) -> Result<u64, SessionStoreError> {
        let statement = match session {
            Some(id) => sqlx::query_scalar::<_, i64>(statements::PENDING_OF).bind(subscriber).bind(blob(id)),
            None => sqlx::query_scalar::<_, i64>(statements::PENDING).bind(subscriber),
        };
        let count = statement.fetch_one(&self.pool).await.map_err(to_store_error)?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    pub(super) async fn recent(
        &self,
        subscriber: &str,
        session: Option<SessionId>,
        limit: u32,
    ) -> Result<Vec<OutboxEvent>, SessionStoreError> {
        let subscriber = subscriber.to_owned();
        let statement = match session {
            Some(id) => sqlx::query(statements::RECENT_OF).bind(subscriber).bind(blob(id)),
            None => sqlx::query(statements::RECENT).bind(subscriber),
        };
        let deliveries = self.all(statement.bind(i64::from(limit)), rows::delivery).await?;
        let event = |delivery: Delivery| match delivery.content {
            Content::Event(event) => Some(event),
            Content::Gap(_) => None,
        };
        Ok(deliveries.into_iter().filter_map(event).collect())
    }

    /// Who has something pending.
    pub(super) async fn subscribers(&self) -> Result<Vec<String>, SessionStoreError> {
        sqlx::query_scalar(statements::SUBSCRIBERS).fetch_all(&self.pool).await.map_err(to_store_error)
    }

    pub(super) async fn now(&self) -> Result<Timestamp, SessionStoreError> {
        let now = sqlx::query_scalar(statements::NOW).fetch_one(&self.pool).await.map_err(to_store_error)?;
        Ok(Timestamp::from_millis(now))
    }

    async fn all<T>(
        &self,
        statement: Statement,
        read: impl Fn(&SqliteRow) -> Result<T, SessionStoreError>,
    ) -> Result<Vec<T>, SessionStoreError> {
        let rows = statement.fetch_all(&self.pool).await.map_err(to_store_error)?;
        rows.iter().map(read).collect()
    }
}

fn limited(statement: &'static str, limit: u32) -> Statement {
    sqlx::query(statement).bind(i64::from(limit))
}

fn list(filter: &Filter) -> Statement {
    let first_path = filter.path_prefix.clone().filter(|prefix| !prefix.is_empty());
    let end_of_paths = first_path.as_deref().and_then(successor);
    let by = ListBy {
        principal: filter.principal.is_some(),
        directory: filter.directory.is_some(),
        first_path: first_path.is_some(),
        end_of_paths: end_of_paths.is_some(),
        idle: filter.idle.is_some(),
        state: filter.state.is_some(),
        newest_first: filter.newest_first,
    };
    let start = if filter.newest_first { i64::MAX } else { i64::MIN };
    let (created_at, id) = filter.after.map_or((start, Vec::new()), |(at, id)| (at.as_millis(), blob(id)));
    // Made of the constants of `statements::list` alone.
    sqlx::query(AssertSqlSafe(statements::list(by)))
        .bind(created_at)
        .bind(id)
        .bind(filter.principal.as_ref().map(|principal| principal.as_str().to_owned()))
        .bind(filter.directory.clone())
        .bind(first_path)
        .bind(end_of_paths)
        .bind(filter.idle.map(to_millis))
        .bind(filter.state.map(State::as_str))
        .bind(i64::from(filter.limit))
}

/// The first text, in the order of code points and so of UTF-8, after all that start with
/// `prefix`; none where there is no such text.
fn successor(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        // The step from U+D7FF skips the surrogates.
        if let Some(next) = (last..=char::MAX).nth(1) {
            text.push(next);
            return Some(text);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successors_bound_prefixes() {
        for (prefix, expected) in [
            ("/a", Some("/b")),
            ("/a/", Some("/a0")),
            ("/\u{D7FF}", Some("/\u{E000}")),
            ("/\u{10FFFF}", Some("0")),
            ("\u{10FFFF}\u{10FFFF}", None),
        ] {
            assert_eq!(successor(prefix).as_deref(), expected, "{prefix:?}");
        }
    }
}
