//! The database as a file: how it is made, checked, shared and damaged.
#![cfg(all(feature = "sqlite", unix))]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bits_core::{Commit, Ending, Filter, NewSession, Principal, Quota, SessionStore, SessionStoreError, Transition};
use bits_store_sql::{OpenError, Options, SqliteSessions};
use sqlx::{ConnectOptions, Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use common::{advance, begun, live, load_live, new_session, open};

const CLOSED: Options = Options { migrate: false, readers: std::num::NonZeroU32::MIN, subscribers: Vec::new() };

async fn refused(path: &Path, options: Options) -> OpenError {
    SqliteSessions::open(path, options).await.expect_err("it opened")
}

/// A connection beside the store's own, as another program has it.
async fn beside(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).connect().await.unwrap()
}

async fn execute(path: &Path, statement: &'static str) {
    let mut connection = beside(path).await;
    sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

fn in_folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    (folder, path)
}

#[tokio::test]
async fn a_new_file_is_for_its_owner_alone() {
    let (folder, path) = in_folder();
    let store = open(&path).await;
    begun(&store, &new_session()).await;
    let mut names = Vec::new();
    for entry in fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.path());
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["state.db", "state.db-shm", "state.db-wal"]);
    store.close().await;
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "closing leaves the database alone");
}

#[tokio::test]
async fn what_was_closed_is_there_when_opened() {
    let (_folder, path) = in_folder();
    let store = open(&path).await;
    let session = begun(&store, &new_session()).await;
    store.close().await;
    assert!(matches!(store.load(session.id).await, Err(SessionStoreError::Unavailable(_))));
    assert!(matches!(store.check().await, Err(SessionStoreError::Unavailable(_))));
    store.close().await;
    let store = SqliteSessions::open(&path, CLOSED).await.unwrap();
    assert_eq!(load_live(&store, session.id).await, session);
    store.close().await;
}

#[tokio::test]
async fn closing_commits_what_is_queued() {
    let (_folder, path) = in_folder();
    let store = std::sync::Arc::new(open(&path).await);
    let new: Vec<_> = (0..200).map(|_| new_session()).collect();
    let tasks: Vec<_> = new
        .iter()
        .map(|new| {
            tokio::spawn({
                let (store, new) = (store.clone(), new.clone());
                async move { store.create(&new).await }
            })
        })
        .collect();
    tokio::task::yield_now().await;
    store.close().await;
    let mut created = 0;
    for task in tasks {
        created += usize::from(task.await.unwrap().is_ok());
    }
    assert_eq!(open(&path).await.census(1_000_000, 1).await.unwrap().live, created as u64);
}

#[tokio::test]
async fn a_missing_file_is_created_only_when_migrating() {
    let (_folder, path) = in_folder();
    let error = refused(&path, CLOSED).await;
    assert!(matches!(error, OpenError::Missing { .. }), "{error}");
    assert!(!path.exists());
    fs::write(&path, "").unwrap();
    let error = refused(&path, CLOSED).await;
    let newest = SqliteSessions::migrate(&path).await.unwrap();
    assert!(matches!(error, OpenError::TooOld { found: 0, needed, .. } if needed == newest), "{error}");
    assert_eq!(SqliteSessions::migrate(&path).await.unwrap(), newest);
    SqliteSessions::open(&path, CLOSED).await.unwrap().close().await;
}

#[tokio::test]
async fn a_newer_schema_is_refused_by_both_versions() {
    let (_folder, path) = in_folder();
    let newest = SqliteSessions::migrate(&path).await.unwrap();
    execute(&path, "UPDATE _sqlx_migrations SET version = 77 WHERE version = 1; PRAGMA user_version = 77").await;
    for options in [CLOSED, Options::default()] {
        let error = refused(&path, options).await;
        assert!(matches!(error, OpenError::TooNew { found: 77, supported, .. } if supported == newest), "{error}");
        let text = error.to_string();
        assert!(text.contains(path.to_str().unwrap()) && text.contains("77"), "{text}");
        assert!(text.contains(&format!("above {newest}")), "{text}");
    }
}

/// A newer program has added to the schema, and this one goes on with what was under way: until the
/// file says that it may not.
#[tokio::test]
async fn a_newer_schema_that_only_adds_is_worked_with() {
    let (_folder, path) = in_folder();
    let newest = SqliteSessions::migrate(&path).await.unwrap();
    let store = open(&path).await;
    let session = begun(&store, &new_session()).await;
    execute(
        &path,
        "ALTER TABLE session ADD COLUMN next TEXT; CREATE INDEX session_next ON session (next); \
         UPDATE _sqlx_migrations SET version = 77 WHERE version = 1",
    )
    .await;
    let session = live(store.commit(&session, &advance(5, &[], true)).await);
    store.close().await;
    for options in [CLOSED, Options::default()] {
        let again = SqliteSessions::open(&path, options).await.unwrap();
        assert_eq!(load_live(&again, session.id).await, session);
        again.close().await;
    }
    let again = open(&path).await;
    let session = live(again.commit(&session, &advance(6, &[], true)).await);
    assert!(matches!(again.commit(&session, &Transition::End(Ending::Closed)).await, Ok(Commit::Ended(_))));
    again.close().await;
    execute(&path, "PRAGMA user_version = 77").await;
    let error = refused(&path, CLOSED).await;
    assert!(matches!(error, OpenError::TooNew { found: 77, supported, .. } if supported == newest), "{error}");
}

/// A file of the version before is migrated beside a program that has uploads under way in it.
#[tokio::test]
async fn the_version_before_is_migrated_under_its_sessions() {
    let (_folder, path) = in_folder();
    let newest = SqliteSessions::migrate(&path).await.unwrap();
    let store = open(&path).await;
    let session = begun(&store, &new_session()).await;
    execute(&path, "DROP TABLE identity; DELETE FROM _sqlx_migrations WHERE version = 6").await;
    let session = live(store.commit(&session, &advance(4, &[], true)).await);
    let error = refused(&path, CLOSED).await;
    assert!(matches!(error, OpenError::TooOld { found: 5, .. }), "{error}");
    assert_eq!(SqliteSessions::migrate(&path).await.unwrap(), newest);
    let session = live(store.commit(&session, &advance(5, &[], true)).await);
    let again = SqliteSessions::open(&path, CLOSED).await.unwrap();
    let session = live(again.commit(&session, &advance(6, &[], true)).await);
    assert_eq!(load_live(&store, session.id).await, session);
    assert!(matches!(store.commit(&session, &Transition::End(Ending::Closed)).await, Ok(Commit::Ended(_))));
}

/// The counts that quotas go by are made from what an older version left.
#[tokio::test]
async fn unfinished_bytes_are_counted_by_the_migration() {
    let (_folder, path) = in_folder();
    let store = open(&path).await;
    for (directory, principal, total) in
        [("/upload", "a@x", 5), ("/Upload", "a@x", 6), ("/upload", "b@x", 7), ("/other", "a@x", 100)]
    {
        let principal = Principal::named(principal);
        let new = NewSession { principal, directory: directory.to_owned(), ..new_session() };
        let session = store.create(&new).await.unwrap();
        live(store.commit(&session, &Transition::Begin { total, quota: Quota::NONE }).await);
    }
    store.close().await;
    for undone in [
        "DROP TRIGGER unfinished_begins",
        "DROP TRIGGER unfinished_is_published",
        "DROP TRIGGER unfinished_ends",
        "DROP TABLE unfinished_of_directory",
        "DROP TABLE unfinished_of_user",
    ] {
        execute(&path, undone).await;
    }
    execute(&path, include_str!("../migrations/sqlite/0004_unfinished_bytes.sql")).await;
    let store = open(&path).await;
    let new = NewSession { principal: Principal::named("a@x"), ..new_session() };
    let session = store.create(&new).await.unwrap();
    for (per_user, directory, limit, used) in [(Some(11), None, 11, 11), (None, Some(18), 18, 18)] {
        let begin = Transition::Begin { total: 1, quota: Quota { per_user, directory } };
        match store.commit(&session, &begin).await.unwrap() {
            Commit::Exceeds(excess) => assert_eq!((excess.limit, excess.used), (limit, used)),
            other => panic!("it began: {other:?}"),
        }
    }
}

#[tokio::test]
async fn counts_of_nothing_are_not_kept() {
    let (_folder, path) = in_folder();
    let store = open(&path).await;
    let session = begun(&store, &new_session()).await;
    live(store.commit(&session, &Transition::Regress { to: 0 }).await);
    let session = load_live(&store, session.id).await;
    assert!(matches!(store.commit(&session, &Transition::End(Ending::Expired)).await, Ok(Commit::Ended(_))));
    let left = "SELECT (SELECT count(*) FROM unfinished_of_user) + (SELECT count(*) FROM unfinished_of_directory)";
    let left: i64 = sqlx::query_scalar(left).fetch_one(&mut beside(&path).await).await.unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn other_files_are_refused_by_name() {
    let (folder, path) = in_folder();
    fs::write(&path, "This is no database, but long enough to look at. ".repeat(100)).unwrap();
    let other = folder.path().join("other.db");
    fs::write(&other, "").unwrap();
    execute(&other, "CREATE TABLE customer (name TEXT)").await;
    let before = fs::read(&other).unwrap();
    for path in [&path, &other] {
        let error = refused(path, Options::default()).await;
        assert!(matches!(error, OpenError::NotADatabase { .. }), "{error:?}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
    let error = refused(folder.path(), Options::default()).await;
    assert!(matches!(error, OpenError::File { .. }), "{error:?}");
    let error = refused(&folder.path().join("none/state.db"), Options::default()).await;
    assert!(matches!(error, OpenError::File { .. }), "{error:?}");
    execute(&other, "SELECT 1").await;
    assert_eq!(fs::read(&other).unwrap()[100..], before[100..], "another program's database was changed");
}

#[tokio::test]
async fn a_damaged_file_is_refused_by_name() {
    let (_folder, path) = in_folder();
    SqliteSessions::migrate(&path).await.unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[100..].fill(0xA5);
    fs::write(&path, bytes).unwrap();
    let error = refused(&path, Options::default()).await;
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

#[tokio::test]
async fn rows_that_make_no_sense_are_named() {
    let (_folder, path) = in_folder();
    let store = open(&path).await;
    let session = begun(&store, &new_session()).await;
    let healthy = begun(&store, &new_session()).await;
    for (damage, column) in [
        ("UPDATE session SET destination = '/upload/../etc/passwd' WHERE number = 1", "destination"),
        ("UPDATE session SET destination = '/upload/a', state = 'confused' WHERE number = 1", "state"),
        ("UPDATE session SET state = 'receiving', key = 'a//b' WHERE number = 1", "key"),
        (
            "PRAGMA ignore_check_constraints = 1; UPDATE session SET key = 'b', received = -1 WHERE number = 1",
            "received",
        ),
    ] {
        execute(&path, damage).await;
        let error = store.load(session.id).await.expect_err(column);
        let SessionStoreError::Corrupt(text) = &error else { panic!("{error:?}") };
        assert!(text.contains(&session.id.to_string()) && text.contains(column), "{text}");
    }
    assert_eq!(load_live(&store, healthy.id).await, healthy);
}

/// One operation that fails takes nothing of the others with it, and leaves nothing of itself.
#[tokio::test]
async fn one_bad_row_fails_alone() {
    let (_folder, path) = in_folder();
    let store = open(&path).await;
    let mut sessions = Vec::new();
    for _ in 0..20 {
        sessions.push(begun(&store, &new_session()).await);
    }
    execute(&path, "UPDATE session SET key = 'a//b' WHERE number = 10").await;
    let ends = sessions.iter().map(|session| store.commit(session, &Transition::End(Ending::Cancelled)));
    let ends = futures_util::future::join_all(ends).await;
    for (number, end) in (1..).zip(&ends) {
        assert_eq!(end.is_err(), number == 10, "{number}: {end:?}");
    }
    assert!(matches!(&ends[9], Err(SessionStoreError::Corrupt(text)) if text.contains("a//b")));
    assert_eq!(store.unclean(None, 100).await.unwrap().len(), 19);
    assert_eq!(store.census(1_000_000, 1).await.unwrap().live, 1);
}

#[tokio::test]
async fn two_stores_share_a_file() {
    let (_folder, path) = in_folder();
    let (one, other) = tokio::join!(open(&path), open(&path));
    let session = begun(&one, &new_session()).await;
    assert_eq!(load_live(&other, session.id).await, session);
    let (by_one, by_other) = (advance(1, &[], false), advance(2, &[], false));
    let (by_one, by_other) = tokio::join!(one.commit(&session, &by_one), other.commit(&session, &by_other));
    let winners = [by_one, by_other].into_iter().filter(|it| matches!(it, Ok(Commit::Live(_)))).count();
    assert_eq!(winners, 1);
    other.close().await;
    let session = load_live(&one, session.id).await;
    live(one.commit(&session, &advance(3, &[], false)).await);
    one.close().await;
}

#[tokio::test]
async fn a_lock_that_lasts_is_unavailable() {
    let (_folder, path) = in_folder();
    let store = open(&path).await;
    let session = begun(&store, &new_session()).await;
    let mut other = beside(&path).await;
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let error = store.commit(&session, &advance(1, &[], false)).await.expect_err("it is locked");
    assert!(matches!(error, SessionStoreError::Unavailable(_)), "{error:?}");
    assert_eq!(load_live(&store, session.id).await, session);
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    live(store.commit(&session, &advance(1, &[], false)).await);
}

/// The way to copy a database that is in use.
#[tokio::test]
async fn a_copy_holds_all_that_is_committed() {
    let (folder, path) = in_folder();
    let store = open(&path).await;
    let session = begun(&store, &new_session()).await;
    let copy = folder.path().join("copy.db");
    let statement = format!("VACUUM INTO '{}'", copy.display());
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut beside(&path).await).await.unwrap();
    let restored = SqliteSessions::open(&copy, CLOSED).await.unwrap();
    assert_eq!(load_live(&restored, session.id).await, session);
    live(restored.commit(&session, &advance(1, &[], true)).await);
}

#[tokio::test]
async fn a_large_database_opens_at_once() {
    let (_folder, path) = in_folder();
    SqliteSessions::migrate(&path).await.unwrap();
    execute(
        &path,
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) \
         INSERT INTO session (id, principal, address, directory, destination, storage, folder, key, state, epoch, \
           total, fragment_seen, received, synced, incarnation, created_at, progressed_at, timeout, expires_at) \
         SELECT randomblob(16), 'user' || i % 1000, '192.0.2.7:50000', '/upload', '/upload/file' || i, 'default', \
           'upload', 'upload/file' || i, 'receiving', 0, 1000000, 1, 65536, 0, 'boot', i, 9000000000000, 1000, i FROM n",
    )
    .await;
    let start = Instant::now();
    let store = SqliteSessions::open(&path, CLOSED).await.unwrap();
    store.check().await.unwrap();
    // It takes a few milliseconds; the rest is for a busy machine.
    assert!(start.elapsed() < Duration::from_millis(500), "ready after {:?}", start.elapsed());
    let start = Instant::now();
    assert_eq!(store.census(1_000_000, 1).await.unwrap().live, 100_000);
    assert!(start.elapsed() < Duration::from_secs(1), "counted after {:?}", start.elapsed());
    // Every `expires_at` has passed, and every session has made progress since.
    assert_eq!(store.expired(10).await.unwrap(), []);
    let path_prefix = Some("/upload/file9999".to_owned());
    let found = store.list(&Filter { path_prefix, limit: 100, ..Filter::default() }).await.unwrap();
    assert_eq!(found.len(), 11);
    store.close().await;
}
