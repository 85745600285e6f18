//! Every statement of the SQLite store, in one place where a test can look at their plans.

/// The database's clock.
macro_rules! now {
    () => {
        "CAST(round(unixepoch('subsec') * 1000) AS INTEGER)"
    };
}

macro_rules! session_columns {
    () => {
        "id, principal, address, directory, destination, storage, folder, key, state, epoch, total, fragment_seen, \
         received, synced, incarnation, handle, intent, retry_at, created_at, progressed_at, timeout, \
         url, notification, copy, reply_url, reply_length, refused"
    };
}

/// The columns of a session that its changes touch. Reading the others back costs as much as the
/// change itself.
macro_rules! changing_columns {
    () => {
        "id, state, epoch, total, fragment_seen, received, synced, incarnation, handle, intent, retry_at, progressed_at, \
         notification, copy, reply_url, reply_length, refused"
    };
}

macro_rules! tombstone_columns {
    () => {
        "id, principal, destination, ending, published, ended_at, keep_until, storage, folder, key, handle, unclean"
    };
}

macro_rules! outbox_columns {
    () => {
        "number, attempt, kind, at, session, principal, address, directory, destination, storage, key, size, \
         received, complete, reason, dropped, oldest_at, newest_at"
    };
}

/// The session stands where the caller saw it, in this state.
macro_rules! unmoved {
    ($state:literal) => {
        concat!("id = ?1 AND epoch = ?2 AND received = ?3 AND state = ", $state)
    };
}

/// `UPDATE session` by compare-and-swap.
macro_rules! update {
    ($state:literal, $set:expr $(, $and:expr)?) => {
        concat!("UPDATE session SET ", $set, " WHERE ", unmoved!($state), $(" AND ", $and,)? " RETURNING ", changing_columns!())
    };
}

/// Bytes of unfinished uploads of a session's principal in its directory.
macro_rules! unfinished_of_user {
    () => {
        "coalesce((SELECT bytes FROM unfinished_of_user AS counted \
           WHERE counted.directory = session.directory AND counted.principal = session.principal), 0)"
    };
}

/// Bytes of unfinished uploads in a session's directory.
macro_rules! unfinished_of_directory {
    () => {
        "coalesce((SELECT bytes FROM unfinished_of_directory AS counted \
           WHERE counted.directory = session.directory), 0)"
    };
}

/// Pieces that lie between two offsets, but not this very one.
macro_rules! pieces_within {
    () => {
        "session = ?1 AND stop BETWEEN ?2 AND ?3 AND start >= ?2 AND (stop, start, id) <> (?3, ?2, ?4)"
    };
}

/// A delivery that somebody has claimed and may still come back for.
macro_rules! held {
    () => {
        concat!("(claimed = 1 AND due_at > ", now!(), ")")
    };
}

/// Nothing earlier of the same session waits for the same subscriber. A gap has no session.
macro_rules! is_head {
    () => {
        "NOT EXISTS (SELECT 1 FROM outbox AS earlier WHERE earlier.subscriber = head.subscriber \
           AND earlier.session = head.session AND earlier.number < head.number)"
    };
}

macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident = $sql:expr;)*) => {
        $($(#[$doc])* pub(super) const $name: &str = $sql;)*
        #[cfg(test)]
        pub(super) const ALL: &[(&str, &str)] = &[$((stringify!($name), $name)),*];
    };
}

statements! {
    BEGIN = "BEGIN IMMEDIATE";
    COMMIT = "COMMIT";
    ROLLBACK = "ROLLBACK";

    TABLES = "SELECT count(*) FROM sqlite_schema";
    APPLICATION_ID = "PRAGMA application_id";
    VERSION = "SELECT coalesce(max(version), 0) FROM _sqlx_migrations WHERE success";

    NOW = concat!("SELECT ", now!());

    /// No row where the principal has as many unfinished sessions as allowed.
    CREATE = concat!(
        "INSERT INTO session (id, principal, address, directory, destination, storage, folder, key, timeout, url, \
           state, epoch, fragment_seen, received, synced, incarnation, copy, created_at, progressed_at, expires_at) \
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?11, \
           'receiving', 0, 0, 0, 0, '', 0, clock.now, clock.now, clock.now + ?9 \
         FROM (SELECT ", now!(), " AS now) AS clock \
         WHERE CASE WHEN ?10 IS NULL THEN TRUE \
           ELSE (SELECT count(*) FROM session WHERE principal = ?2 AND state <> 'complete') < ?10 END \
         RETURNING ", session_columns!()
    );

    NAME = update!("'receiving'", "fragment_seen = 1");
    BEGIN_UPLOAD = update!(
        "'receiving'",
        concat!("total = ?4, fragment_seen = 1, progressed_at = ", now!()),
        concat!(
            "(total = ?4 OR (total IS NULL AND ", unfinished_of_user!(), " <= ?5 - ?4 AND ",
            unfinished_of_directory!(), " <= ?6 - ?4))"
        )
    );
    /// What is in the way of [`BEGIN_UPLOAD`].
    UNFINISHED = concat!(
        "SELECT id, ", unfinished_of_user!(), " AS of_user, ", unfinished_of_directory!(), " AS of_directory \
         FROM session WHERE ", unmoved!("'receiving'"), " AND total IS NULL"
    );
    /// The only write of a fragment: one row of one table, no index.
    ADVANCE = update!(
        "'receiving'",
        concat!(
            "received = ?4, synced = max(synced, ?5), incarnation = ?6, handle = coalesce(?7, handle), \
             progressed_at = ", now!()
        )
    );
    /// While receiving, notifying or publishing, which the caller names.
    REGRESS = update!(
        "?5",
        "received = ?4, synced = min(synced, ?4), epoch = epoch + 1, state = 'receiving', intent = NULL, retry_at = NULL, \
         copy = iif(?4 < received, 0, copy), reply_url = iif(?4 < received, NULL, reply_url), \
         reply_length = iif(?4 < received, NULL, reply_length)"
    );
    NOTIFY = update!(
        "'receiving'",
        "state = 'notifying', epoch = epoch + 1, synced = received, notification = coalesce(notification, ?4), \
         refused = NULL",
        "received = total AND copy = 0"
    );
    NOTIFIED = update!(
        "'notifying'",
        concat!(
            "state = iif(?4, 'notifying', 'complete'), epoch = epoch + ?4, copy = ?4, reply_url = ?5, reply_length = ?6, \
             retry_at = NULL, progressed_at = ", now!()
        ),
        "copy = 0"
    );
    NOT_NOTIFIED = update!("'notifying'", "state = 'receiving', refused = ?4, retry_at = NULL", "copy = 0");
    POSTPONE_NOTIFYING = update!("'notifying'", "retry_at = ?4");
    /// While receiving, or notifying where the application has taken it.
    INTEND = update!(
        "?5",
        "state = 'publishing', epoch = epoch + 1, synced = received, intent = ?4, retry_at = NULL",
        "received = total AND (?5 = 'receiving' OR copy = 1) AND NOT EXISTS (SELECT 1 FROM session AS other \
           WHERE other.storage = session.storage AND other.key = session.key AND other.state = 'publishing')"
    );
    /// Whose claim is in the way of [`INTEND`].
    CLAIMANT =
        "SELECT other.id FROM session AS mine JOIN session AS other \
           ON other.storage = mine.storage AND other.key = mine.key AND other.state = 'publishing' \
         WHERE mine.id = ?1 AND mine.epoch = ?2 AND mine.received = ?3 AND mine.state = ?4";
    /// While publishing, or notifying where the application has taken it.
    WITHDRAW = update!(
        "?4",
        "state = 'receiving', intent = NULL, retry_at = NULL",
        "(?4 = 'publishing' OR copy = 1)"
    );
    POSTPONE = update!("'publishing'", "retry_at = ?4");
    PUBLISHED = update!(
        "'publishing'",
        concat!("state = 'complete', intent = NULL, retry_at = NULL, progressed_at = ", now!())
    );
    /// Takes the session out, and tells the time for its tombstone.
    END = concat!("DELETE FROM session WHERE ", unmoved!("?4"), " RETURNING ", session_columns!(), ", ", now!(), " AS now");
    BURY = concat!(
        "INSERT INTO tombstone (", tombstone_columns!(), ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)"
    );

    KEEP_REPLACED_PIECES = concat!(
        "INSERT OR IGNORE INTO replaced_piece (session, stop, start, id) \
         SELECT session, stop, start, id FROM piece WHERE ", pieces_within!()
    );
    DELETE_REPLACED_PIECES = concat!("DELETE FROM piece WHERE ", pieces_within!());
    ADD_PIECE = "INSERT OR IGNORE INTO piece (session, stop, start, id) VALUES (?1, ?2, ?3, ?4)";
    KEEP_PIECES_AFTER =
        "INSERT OR IGNORE INTO replaced_piece (session, stop, start, id) \
         SELECT session, stop, start, id FROM piece WHERE session = ?1 AND stop > ?2";
    DELETE_PIECES_AFTER = "DELETE FROM piece WHERE session = ?1 AND stop > ?2";
    FORGET_PIECE = "DELETE FROM replaced_piece WHERE session = ?1 AND stop = ?2 AND start = ?3 AND id = ?4";
    DELETE_PIECES = "DELETE FROM piece WHERE session = ?1";
    FORGET_PIECES = "DELETE FROM replaced_piece WHERE session = ?1";

    PIECES = "SELECT session, stop, start, id FROM piece WHERE session = ?1 AND stop > ?2 ORDER BY start, stop";
    REPLACED_PIECES = "SELECT session, stop, start, id FROM replaced_piece WHERE session = ?1 ORDER BY start, stop";

    /// Raises `expires_at` of sessions that made progress since it was set.
    RAISE_EXPIRY = concat!(
        "UPDATE session SET expires_at = progressed_at + timeout WHERE number IN \
           (SELECT number FROM session WHERE expires_at <= ", now!(), " AND progressed_at + timeout > ", now!(), " LIMIT ?1)"
    );
    CLEANED = "UPDATE tombstone SET unclean = 0 WHERE id = ?1 AND unclean = 1";
    PURGE = concat!(
        "DELETE FROM tombstone WHERE number IN \
           (SELECT number FROM tombstone WHERE unclean = 0 AND keep_until <= ", now!(), " ORDER BY keep_until LIMIT ?1)"
    );

    /// A session has an empty `ending`; an id is never in both tables.
    LOAD = concat!(
        "SELECT ", session_columns!(), ", NULL AS ending, NULL AS published, NULL AS ended_at, NULL AS keep_until, \
           NULL AS unclean \
         FROM session WHERE id = ?1 \
         UNION ALL \
         SELECT id, principal, NULL, NULL, destination, storage, folder, key, NULL, NULL, NULL, NULL, \
           NULL, NULL, NULL, handle, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, ending, published, ended_at, keep_until, unclean \
         FROM tombstone WHERE id = ?1"
    );
    CENSUS = concat!(
        "SELECT (SELECT count(*) FROM session) AS live, \
           (SELECT count(*) FROM session WHERE expires_at <= ", now!(), " AND progressed_at + timeout <= ", now!(), ") \
           AS expired"
    );
    TALLY = concat!(
        "SELECT state, count(*) AS sessions, sum(progressed_at <= clock.now - ?1) AS idle_1, \
           sum(progressed_at <= clock.now - ?2) AS idle_2, sum(progressed_at <= clock.now - ?3) AS idle_3 \
         FROM (SELECT ", now!(), " AS now) AS clock, session GROUP BY state"
    );
    EXPIRED = concat!(
        "SELECT ", session_columns!(), " FROM session \
         WHERE expires_at <= ", now!(), " AND progressed_at + timeout <= ", now!(), " ORDER BY expires_at LIMIT ?1"
    );
    /// The sum keeps the cast from giving the comparison another type than the index has.
    UNPUBLISHED = concat!(
        "SELECT ", session_columns!(), " FROM session \
         WHERE state IN ('publishing', 'notifying') AND coalesce(retry_at, 0) <= 0 + ", now!(), " ORDER BY coalesce(retry_at, 0) LIMIT ?1"
    );
    UNCLEAN = concat!(
        "SELECT ", tombstone_columns!(), " FROM tombstone WHERE unclean = 1 ORDER BY ended_at LIMIT ?1"
    );

    TELL =
        "INSERT INTO outbox (subscriber, due_at, claimed, attempt, kind, at, session, principal, address, directory, \
           destination, storage, key, size, received, complete, reason) \
         VALUES (?1, ?2, 0, 0, ?3, ?2, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";
    CLAIM_DELIVERIES = concat!(
        "UPDATE outbox SET claimed = 1, attempt = attempt + 1, due_at = ", now!(), " + ?3 WHERE number IN \
           (SELECT number FROM outbox AS head WHERE subscriber = ?1 AND due_at <= ", now!(), " AND ", is_head!(), " \
            ORDER BY due_at LIMIT ?2) \
         RETURNING ", outbox_columns!()
    );
    DELIVERED = "DELETE FROM outbox WHERE number = ?1";
    POSTPONE_DELIVERY = concat!(
        "UPDATE outbox SET claimed = 0, due_at = ", now!(), " + ?3 WHERE number = ?1 AND attempt = ?2 AND claimed = 1"
    );
    DROP_OLD = concat!(
        "DELETE FROM outbox WHERE number IN \
           (SELECT number FROM outbox WHERE subscriber = ?1 AND kind <> 'gap' AND at < ", now!(), " - ?2 \
            AND NOT ", held!(), " ORDER BY at, number LIMIT ?3) \
         RETURNING at"
    );
    DROP_SURPLUS = concat!(
        "DELETE FROM outbox WHERE number IN \
           (SELECT number FROM outbox WHERE subscriber = ?1 AND kind <> 'gap' AND NOT ", held!(), " ORDER BY at, number \
            LIMIT max(0, min(?3, (SELECT count(*) FROM outbox WHERE subscriber = ?1 AND kind <> 'gap') - ?2))) \
         RETURNING at"
    );
    TAKE_GAPS = concat!(
        "DELETE FROM outbox WHERE subscriber = ?1 AND kind = 'gap' AND NOT ", held!(), " \
         RETURNING dropped, oldest_at, newest_at"
    );
    ADD_GAP = concat!(
        "INSERT INTO outbox (subscriber, due_at, claimed, attempt, kind, at, dropped, oldest_at, newest_at) \
         SELECT ?1, clock.now, 0, 0, 'gap', clock.now, ?2, ?3, ?4 FROM (SELECT ", now!(), " AS now) AS clock"
    );
    FORGET_SUBSCRIBER = "DELETE FROM outbox WHERE subscriber = ?1";
    NEXT_DUE = concat!(
        "SELECT due_at - ", now!(), " FROM outbox AS head WHERE subscriber = ?1 AND ", is_head!(), " \
         ORDER BY due_at LIMIT 1"
    );
    RECENT = concat!(
        "SELECT ", outbox_columns!(), " FROM outbox WHERE subscriber = ?1 AND kind <> 'gap' ORDER BY at DESC, number DESC LIMIT ?2"
    );
    RECENT_OF = concat!(
        "SELECT ", outbox_columns!(), " FROM outbox WHERE subscriber = ?1 AND session = ?2 ORDER BY number DESC LIMIT ?3"
    );
    PENDING = "SELECT count(*) FROM outbox WHERE subscriber = ?1";
    PENDING_OF = "SELECT count(*) FROM outbox WHERE subscriber = ?1 AND session = ?2";
    SUBSCRIBERS = "SELECT DISTINCT subscriber FROM outbox";
}

/// The listing for the filters that are set. Their values are bound in this order: created_at and
/// id to start after, principal, directory, first path, end of paths, idle milliseconds, state, limit.
pub(super) fn list(by: ListBy) -> String {
    let mut sql = concat!("SELECT ", session_columns!(), " FROM session WHERE ").to_owned();
    // By path alone the index of paths is the better one, though its rows must be sorted.
    let by_path = by.first_path && !by.principal && !by.directory;
    sql += match (by_path, by.newest_first) {
        (true, false) => "(+created_at, +id) > (?1, ?2)",
        (true, true) => "(+created_at, +id) < (?1, ?2)",
        (false, false) => "(created_at, id) > (?1, ?2)",
        (false, true) => "(created_at, id) < (?1, ?2)",
    };
    let conditions = [
        (by.principal, " AND principal = ?3"),
        (by.directory, " AND directory = ?4 COLLATE NOCASE"),
        (by.first_path, " AND destination >= ?5"),
        (by.end_of_paths, " AND destination < ?6"),
        (by.idle, concat!(" AND progressed_at <= ", now!(), " - ?7")),
        (by.state, " AND state = ?8"),
    ];
    sql.extend(conditions.into_iter().filter_map(|(set, condition)| set.then_some(condition)));
    sql + match (by_path, by.newest_first) {
        (true, false) => " ORDER BY +created_at, +id LIMIT ?9",
        (true, true) => " ORDER BY +created_at DESC, +id DESC LIMIT ?9",
        (false, false) => " ORDER BY created_at, id LIMIT ?9",
        (false, true) => " ORDER BY created_at DESC, id DESC LIMIT ?9",
    }
}

/// Which filters a listing has.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListBy {
    pub(super) principal: bool,
    pub(super) directory: bool,
    pub(super) first_path: bool,
    pub(super) end_of_paths: bool,
    pub(super) idle: bool,
    pub(super) state: bool,
    pub(super) newest_first: bool,
}

#[cfg(test)]
mod tests {
    use sqlx::{ConnectOptions, Row, SqliteConnection, sqlite::SqliteRow};

    use super::*;
    use crate::{SqliteSessions, sqlite::open::File};

    /// What may be walked from end to end: the count of everything, in the narrowest index; an
    /// index that holds only what is asked for; tables of a few rows.
    const WALKS: &[(&str, &str)] = &[
        ("CENSUS", "SCAN session USING COVERING INDEX"),
        ("TALLY", "SCAN clock"),
        ("TALLY", "SCAN session"),
        ("UNCLEAN", "SCAN tombstone USING INDEX tombstone_unclean"),
        ("TABLES", "SCAN sqlite_master"),
        ("VERSION", "SCAN _sqlx_migrations"),
        ("CREATE", "SCAN clock"),
        ("ADD_GAP", "SCAN clock"),
        ("SUBSCRIBERS", "SCAN outbox USING COVERING INDEX"),
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
        for (name, sql) in ALL.iter().filter(|(_, sql)| !sql.starts_with("PRAGMA")) {
            assert_indexed(&mut connection, name, sql).await;
        }
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
        for (sql, rows, indexed) in [(ADVANCE, 1, false), (PUBLISHED, 1, true)] {
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
