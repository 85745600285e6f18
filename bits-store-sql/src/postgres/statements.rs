//! The statements as PostgreSQL has them, and those that it alone has.

use crate::statements::ListBy;

/// The database's clock, which does not go on within a statement: indexes can be used with it.
macro_rules! now {
    () => {
        "CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT)"
    };
}

macro_rules! greatest {
    ($one:expr, $other:expr) => {
        concat!("greatest(", $one, ", ", $other, ")")
    };
}

macro_rules! least {
    ($one:expr, $other:expr) => {
        concat!("least(", $one, ", ", $other, ")")
    };
}

/// A directory's path as it is compared.
macro_rules! folded {
    ($path:literal) => {
        concat!("lower(", $path, " COLLATE \"C\")")
    };
}

macro_rules! row {
    () => {
        "id"
    };
}

macro_rules! same_key {
    ($table:literal) => {
        concat!("bits_digest(other.key) = bits_digest(", $table, ".key)")
    };
}

/// Which server this is, however its connection comes about.
macro_rules! myself {
    () => {
        "current_setting('application_name')"
    };
}

/// Others leave the row to this server for half a minute, in which it looks again several times.
macro_rules! claims {
    () => {
        concat!(", claimed_by = ", myself!(), ", claimed_until = ", now!(), " + 30000")
    };
}

macro_rules! skipping_locked {
    () => {
        " FOR UPDATE SKIP LOCKED"
    };
}

macro_rules! take {
    ($table:literal, $columns:expr, $condition:expr, $order:literal) => {
        concat!(
            "UPDATE ",
            $table,
            " SET claimed_by = ",
            myself!(),
            ", claimed_until = ",
            now!(),
            " + 30000 \
             WHERE id IN (SELECT id FROM ",
            $table,
            " WHERE ",
            $condition,
            " \
               AND (claimed_until IS NULL OR claimed_until <= ",
            now!(),
            " OR claimed_by = ",
            myself!(),
            ") \
               ORDER BY ",
            $order,
            " LIMIT $1",
            skipping_locked!(),
            ") \
             RETURNING ",
            $columns
        )
    };
}

with_statements!(fill_statements);

/// Whatever the database's default is: what is counted under a lock must be seen.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";
pub(super) const LOCK_SESSIONS: &str =
    "SELECT CAST(pg_advisory_xact_lock(hashtextextended('sessions of ' || $1, 0)) AS TEXT)";
pub(super) const LOCK_BYTES: &str =
    "SELECT CAST(pg_advisory_xact_lock(hashtextextended('bytes of ' || lower($1 COLLATE \"C\"), 0)) AS TEXT)";
pub(super) const CLAIM_JOB: &str = concat!(
    "UPDATE session SET claimed_by = ",
    myself!(),
    ", claimed_until = ",
    now!(),
    " + 30000 WHERE id = $1 AND (claimed_until IS NULL OR claimed_until <= ",
    now!(),
    " OR claimed_by = ",
    myself!(),
    ")"
);
/// One migration at a time.
pub(super) const LOCK_SCHEMA: &str = "SELECT CAST(pg_advisory_xact_lock(4777777777777) AS TEXT)";

pub(super) const HAS_SCHEMA: &str = "SELECT to_regclass('bits_schema') IS NOT NULL";
pub(super) const CREATE_SCHEMA: &str = "CREATE TABLE IF NOT EXISTS bits_schema (\
    version BIGINT PRIMARY KEY, name TEXT NOT NULL, oldest BIGINT NOT NULL, \
    applied_at TIMESTAMPTZ NOT NULL DEFAULT statement_timestamp())";
pub(super) const VERSION: &str = "SELECT coalesce(max(version), 0), coalesce(max(oldest), 0) FROM bits_schema";
pub(super) const APPLIED: &str = "INSERT INTO bits_schema (version, name, oldest) VALUES ($1, $2, $3)";
pub(super) const DIRECT: &str = "SELECT current_setting('bits.direct', TRUE)";
pub(super) const SETTINGS: &str = "SELECT current_setting('server_version_num')::BIGINT, \
    current_setting('server_encoding'), current_setting('synchronous_commit'), current_setting('fsync'), \
    pg_is_in_recovery() OR current_setting('transaction_read_only')::BOOLEAN";
/// What this user may not do with the tables.
pub(super) const MISSING_RIGHTS: &str = "SELECT string_agg(privilege || ' on ' || name, ', ') \
    FROM (SELECT name, privilege FROM unnest(ARRAY['session', 'tombstone', 'piece', 'replaced_piece', 'outbox', \
        'unfinished_of_directory', 'unfinished_of_user']) AS name, \
        unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege \
      UNION ALL SELECT 'identity', 'SELECT') AS needed \
    WHERE NOT has_table_privilege(name, privilege)";

pub(super) fn list(by: ListBy) -> String {
    let mut sql = concat!("SELECT ", session_columns!(), " FROM session WHERE (created_at, id) ").to_owned();
    sql += if by.newest_first { "< ($1, $2)" } else { "> ($1, $2)" };
    let conditions = [
        (by.principal, " AND principal = $3"),
        (by.directory, " AND lower(directory) = lower($4 COLLATE \"C\")"),
        // The index knows the first characters.
        (by.first_path, " AND left(destination, 200) >= left($5, 200) AND destination >= $5"),
        (by.end_of_paths, " AND left(destination, 200) < $6 AND destination < $6"),
        (by.idle, concat!(" AND progressed_at <= ", now!(), " - $7")),
        (by.state, " AND state = $8"),
    ];
    sql.extend(conditions.into_iter().filter_map(|(set, condition)| set.then_some(condition)));
    sql + if by.newest_first {
        " ORDER BY created_at DESC, id DESC LIMIT $9"
    } else {
        " ORDER BY created_at, id LIMIT $9"
    }
}

#[cfg(test)]
mod tests {
    use ::tests::Postgres;
    use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};

    use super::*;
    use crate::PostgresSessions;

    /// What may be walked from end to end: the count of everything; tables of a few rows.
    const WALKS: &[(&str, &str)] = &[("census", "session"), ("tally", "session"), ("subscribers", "outbox")];

    /// The types of values where a statement alone does not tell them.
    const TYPES: &[(&str, &str)] = &[
        ("create", "(UUID, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, BIGINT, BIGINT, TEXT)"),
        ("notified", "(UUID, BIGINT, BIGINT, BIGINT, TEXT, BIGINT)"),
    ];

    async fn connect() -> PgConnection {
        let url = Postgres::shared().database();
        PostgresSessions::migrate(&url).await.unwrap();
        let mut connection = url.parse::<PgConnectOptions>().unwrap().connect().await.unwrap();
        let settings = "SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan";
        sqlx::raw_sql(settings).execute(&mut connection).await.unwrap();
        connection
    }

    /// The plan for any values.
    async fn plan(connection: &mut PgConnection, name: &str, sql: &str) -> String {
        let count = (1..20).take_while(|number| sql.contains(&format!("${number}"))).count();
        let values = if count == 0 { String::new() } else { format!("({})", vec!["NULL"; count].join(", ")) };
        let types = TYPES.iter().find(|(typed, _)| *typed == name).map_or("", |(_, types)| types);
        let prepare = format!("PREPARE planned {types} AS {sql}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(prepare)).execute(&mut *connection).await.unwrap();
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN EXECUTE planned {values}"));
        let lines: Vec<String> =
            sqlx::query_scalar(explain).persistent(false).fetch_all(&mut *connection).await.unwrap();
        sqlx::raw_sql("DEALLOCATE planned").execute(connection).await.unwrap();
        lines.join("\n")
    }

    #[tokio::test]
    async fn every_statement_uses_an_index() {
        let mut connection = connect().await;
        for (name, sql) in SQL.all() {
            let plan = plan(&mut connection, name, sql).await;
            for table in ["session", "tombstone", "piece", "replaced_piece", "outbox", "unfinished_of_user"] {
                let walked = plan.contains(&format!("Seq Scan on {table} "));
                assert!(!walked || WALKS.contains(&(name, table)), "{name} walks {table}:\n{plan}");
            }
        }
        connection.close().await.unwrap();
    }

    /// However many have expired, those that only seem to have are looked for among the first alone.
    #[tokio::test]
    async fn a_look_for_expired_sessions_is_bounded() {
        let mut connection = connect().await;
        for (number, progressed_at) in [(1, 0), (2, 0), (3, i64::from(u32::MAX) << 10)] {
            let session = format!(
                "INSERT INTO session (id, principal, address, directory, destination, storage, folder, key, state, epoch, \
                   fragment_seen, received, synced, incarnation, created_at, progressed_at, timeout, expires_at) \
                 VALUES (gen_random_uuid(), '', '', '/', '/' || {number}, '', '', '', 'receiving', 0, 0, 0, 0, '', \
                   0, {progressed_at}, 1, {number})"
            );
            sqlx::raw_sql(sqlx::AssertSqlSafe(session)).execute(&mut connection).await.unwrap();
        }
        for (limit, raised) in [(2_i64, 0), (3, 1), (3, 0)] {
            let result = sqlx::query(SQL.raise_expiry).bind(limit).execute(&mut connection).await.unwrap();
            assert_eq!(result.rows_affected(), raised, "among {limit}");
        }
        connection.close().await.unwrap();
    }

    #[tokio::test]
    async fn older_versions_statements_still_run() {
        let mut connection = connect().await;
        for (name, sql) in crate::frozen::versions("postgres").flatten() {
            assert!(!plan(&mut connection, &name, &sql).await.is_empty(), "{name}");
        }
        connection.close().await.unwrap();
    }

    #[test]
    #[ignore = "writes the file of this version's statements"]
    fn freeze() {
        crate::frozen::freeze("postgres", &SQL);
    }

    #[tokio::test]
    async fn listings_use_the_index_of_their_filter() {
        let mut connection = connect().await;
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
            (none, "session_created"),
            (ListBy { idle: true, ..none }, "session_created"),
            (ListBy { newest_first: true, state: true, ..none }, "session_created"),
            (ListBy { principal: true, ..none }, "session_principal"),
            (ListBy { directory: true, ..none }, "session_directory"),
            (ListBy { first_path: true, end_of_paths: true, ..none }, "session_"),
        ] {
            let sql = list(by).replace("$9", "10");
            let typed = sql.replace("$1", "CAST($1 AS BIGINT)").replace("$2", "CAST($2 AS UUID)");
            let typed = typed.replace("$7", "CAST($7 AS BIGINT)");
            let plan = plan_of_listing(&mut connection, &typed).await;
            assert!(plan.contains(index) && !plan.contains("Seq Scan"), "{by:?}:\n{plan}");
        }
        connection.close().await.unwrap();
    }

    async fn plan_of_listing(connection: &mut PgConnection, sql: &str) -> String {
        let values = ["0", "'00000000-0000-0000-0000-000000000000'", "'a'", "'/a'", "'/b'", "'/c'", "0", "'receiving'"];
        let with =
            (0..values.len()).rev().fold(sql.to_owned(), |sql, at| sql.replace(&format!("${}", at + 1), values[at]));
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN {with}"));
        let lines: Vec<String> = sqlx::query_scalar(explain).persistent(false).fetch_all(connection).await.unwrap();
        lines.join("\n")
    }
}
