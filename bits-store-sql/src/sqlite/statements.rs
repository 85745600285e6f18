//! The statements as SQLite has them, their plans, and those that it alone has.

use crate::statements::ListBy;

/// The database's clock.
macro_rules! now {
    () => {
        "CAST(round(unixepoch('subsec') * 1000) AS INTEGER)"
    };
}

macro_rules! greatest {
    ($one:expr, $other:expr) => {
        concat!("max(", $one, ", ", $other, ")")
    };
}

macro_rules! least {
    ($one:expr, $other:expr) => {
        concat!("min(", $one, ", ", $other, ")")
    };
}

/// A directory's path as it is compared.
macro_rules! folded {
    ($path:literal) => {
        concat!("lower(", $path, ")")
    };
}

/// What names a row most cheaply.
macro_rules! row {
    () => {
        "number"
    };
}

macro_rules! same_key {
    ($table:literal) => {
        concat!("other.key = ", $table, ".key")
    };
}

/// One process has the database: nothing is claimed.
macro_rules! claims {
    () => {
        ""
    };
}

macro_rules! skipping_locked {
    () => {
        ""
    };
}

macro_rules! take {
    ($table:literal, $columns:expr, $condition:expr, $order:literal) => {
        concat!("SELECT ", $columns, " FROM ", $table, " WHERE ", $condition, " ORDER BY ", $order, " LIMIT $1")
    };
}

with_statements!(fill_statements);

pub(super) const BEGIN: &str = "BEGIN IMMEDIATE";
pub(super) const COMMIT: &str = "COMMIT";
pub(super) const ROLLBACK: &str = "ROLLBACK";

pub(super) const TABLES: &str = "SELECT count(*) FROM sqlite_schema";
pub(super) const APPLICATION_ID: &str = "PRAGMA application_id";
pub(super) const VERSION: &str = "SELECT coalesce(max(version), 0) FROM _sqlx_migrations WHERE success";
/// The oldest version whose programs can use the file; 0 in files that only their own version can.
pub(super) const OLDEST: &str = "PRAGMA user_version";

pub(super) fn list(by: ListBy) -> String {
    let mut sql = concat!("SELECT ", session_columns!(), " FROM session WHERE ").to_owned();
    // By path alone the index of paths is the better one, though its rows must be sorted.
    let by_path = by.first_path && !by.principal && !by.directory;
    sql += match (by_path, by.newest_first) {
        (true, false) => "(+created_at, +id) > ($1, $2)",
        (true, true) => "(+created_at, +id) < ($1, $2)",
        (false, false) => "(created_at, id) > ($1, $2)",
        (false, true) => "(created_at, id) < ($1, $2)",
    };
    let conditions = [
        (by.principal, " AND principal = $3"),
        (by.directory, " AND directory = $4 COLLATE NOCASE"),
        (by.first_path, " AND destination >= $5"),
        (by.end_of_paths, " AND destination < $6"),
        (by.idle, concat!(" AND progressed_at <= ", now!(), " - $7")),
        (by.state, " AND state = $8"),
    ];
    sql.extend(conditions.into_iter().filter_map(|(set, condition)| set.then_some(condition)));
    sql + match (by_path, by.newest_first) {
        (true, false) => " ORDER BY +created_at, +id LIMIT $9",
        (true, true) => " ORDER BY +created_at DESC, +id DESC LIMIT $9",
        (false, false) => " ORDER BY created_at, id LIMIT $9",
        (false, true) => " ORDER BY created_at DESC, id DESC LIMIT $9",
    }
}

#[cfg(test)]
mod tests {
    use sqlx::{ConnectOptions, Row, SqliteConnection, sqlite::SqliteRow};

    use super::*;
    use crate::{
        SqliteSessions,
        sqlite::{alike::FOR_MANY, open::File},
    };

    /// What may be walked from end to end: the count of everything, in the narrowest index; an
    /// index that holds only what is asked for; tables of a few rows.
    const WALKS: &[(&str, &str)] = &[
        ("census", "SCAN session USING COVERING INDEX"),
        ("census", "SCAN past"),
        ("census", "SCAN counted"),
        ("tally", "SCAN clock"),
        ("tally", "SCAN session"),
        ("create", "SCAN clock"),
        ("add_gap", "SCAN clock"),
        ("identity", "SCAN identity"),
        ("subscribers", "SCAN outbox USING COVERING INDEX"),
        ("for many", "SCAN json_each VIRTUAL TABLE"),
        ("for many", "SCAN clock"),
    ];

    async fn connect() -> (tempfile::TempDir, SqliteConnection) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        SqliteSessions::migrate(&path).await.unwrap();
        let connection = File::at(&path).unwrap().options().connect().await.unwrap();
        (folder, connection)
    }

    async fn plan(connection: &mut SqliteConnection, sql: &str) -> Vec<String> {
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
        let rows = sqlx::query(explain).fetch_all(connection).await.unwrap();
        rows.iter().map(|row| row.get("detail")).collect()
    }

    async fn assert_indexed(connection: &mut SqliteConnection, name: &str, sql: &str) {
        for step in plan(connection, sql).await {
            let walk = WALKS.iter().any(|(statement, walk)| *statement == name && step.starts_with(walk));
            assert!(walk || !step.contains("SCAN") || step == "SCAN CONSTANT ROW", "{name} walks everything: {step}");
        }
    }

    fn listings() -> impl Iterator<Item = ListBy> {
        (0..128_u8).map(|bits| ListBy {
            principal: bits & 1 != 0,
            directory: bits & 2 != 0,
            first_path: bits & 4 != 0,
            end_of_paths: bits & 12 == 12,
            idle: bits & 16 != 0,
            state: bits & 32 != 0,
            newest_first: bits & 64 != 0,
        })
    }

    #[tokio::test]
    async fn every_statement_uses_an_index() {
        let (_folder, mut connection) = connect().await;
        for (name, sql) in SQL.all() {
            assert_indexed(&mut connection, name, sql).await;
        }
        for sql in FOR_MANY.values() {
            assert_indexed(&mut connection, "for many", sql).await;
        }
    }

    /// However many have expired, those that only seem to have are looked for among the first alone.
    #[tokio::test]
    async fn a_look_for_expired_sessions_is_bounded() {
        let (_folder, mut connection) = connect().await;
        for (number, progressed_at) in [(1, 0), (2, 0), (3, i64::from(u32::MAX) << 10)] {
            let session = format!(
                "INSERT INTO session (id, principal, address, directory, destination, storage, folder, key, state, epoch, \
                   fragment_seen, received, synced, incarnation, created_at, progressed_at, timeout, expires_at) \
                 VALUES (randomblob(16), '', '', '/', '/' || {number}, '', '', '', 'receiving', 0, 0, 0, 0, '', \
                   0, {progressed_at}, 1, {number})"
            );
            sqlx::raw_sql(sqlx::AssertSqlSafe(session)).execute(&mut connection).await.unwrap();
        }
        for (limit, raised) in [(2_i64, 0), (3, 1), (3, 0)] {
            let result = sqlx::query(SQL.raise_expiry).bind(limit).execute(&mut connection).await.unwrap();
            assert_eq!(result.rows_affected(), raised, "among {limit}");
        }
    }

    #[tokio::test]
    async fn older_versions_statements_still_run() {
        let (_folder, mut connection) = connect().await;
        for (name, sql) in crate::frozen::versions("sqlite").flatten() {
            let explain = sqlx::AssertSqlSafe(format!("EXPLAIN {sql}"));
            let result = sqlx::query(explain).fetch_all(&mut connection).await;
            assert!(result.is_ok(), "{name}: {result:?}");
        }
    }

    #[test]
    #[ignore = "writes the file of this version's statements"]
    fn freeze() {
        crate::frozen::freeze("sqlite", &SQL);
    }

    #[tokio::test]
    async fn every_listing_uses_an_index() {
        let (_folder, mut connection) = connect().await;
        for by in listings() {
            assert_indexed(&mut connection, &format!("{by:?}"), &list(by)).await;
        }
    }

    #[tokio::test]
    async fn listings_use_the_index_of_their_filter() {
        let (_folder, mut connection) = connect().await;
        let none = ListBy {
            principal: false,
            directory: false,
            first_path: false,
            end_of_paths: false,
            idle: false,
            state: false,
            newest_first: false,
        };
        for (by, index) in [
            (none, "session_created ((created_at,id)>(?,?))"),
            (ListBy { idle: true, ..none }, "session_created ((created_at,id)>(?,?))"),
            (ListBy { newest_first: true, ..none }, "session_created ((created_at,id)<(?,?))"),
            (ListBy { principal: true, ..none }, "session_principal (principal=? AND (created_at,id)>(?,?))"),
            (ListBy { directory: true, ..none }, "session_directory (directory=? AND (created_at,id)>(?,?))"),
            (ListBy { first_path: true, ..none }, "session_destination (destination>?)"),
            (
                ListBy { first_path: true, end_of_paths: true, ..none },
                "session_destination (destination>? AND destination<?)",
            ),
        ] {
            let plan = plan(&mut connection, &list(by)).await;
            assert!(plan[0].ends_with(index), "{by:?}: {plan:?}");
        }
    }

    #[tokio::test]
    async fn a_fragment_writes_one_row_and_no_index() {
        let (_folder, mut connection) = connect().await;
        for (sql, rows, indexed) in [(SQL.advance, 1, false), (SQL.published, 1, true)] {
            let steps =
                sqlx::query(sqlx::AssertSqlSafe(format!("EXPLAIN {sql}"))).fetch_all(&mut connection).await.unwrap();
            let count = |opcode: &str, table: &str| {
                let is = |row: &&SqliteRow| {
                    let on: Option<String> = row.get("p4");
                    row.get::<String, _>("opcode") == opcode && on.unwrap_or_default().starts_with(table)
                };
                steps.iter().filter(is).count()
            };
            assert_eq!(count("Insert", "session") - count("Delete", "session"), rows, "{sql}");
            assert_eq!(count("IdxInsert", "") + count("IdxDelete", "") > 0, indexed, "{sql}");
        }
    }
}
