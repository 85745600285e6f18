//! Progress of many sessions in one statement. A statement goes to SQLite's thread and back, which
//! costs more than what it does there.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write,
};

use bits_core::{Commit, Session, SessionId, Transition};
use sqlx::{SqliteConnection, sqlite::SqliteRow};

use super::{
    statements,
    writer::{Job, Pending, Queued},
};
use crate::{changes::Change, rows};

/// Whether a change is progress, and nothing besides the session's own row tells of it.
pub(super) fn is_one(change: &Change) -> bool {
    matches!(&change.transition, Transition::Advance { pieces, handle: None, .. } if pieces.is_empty())
}

/// What goes into one statement, and what is done one by one: that holds whatever is not of the
/// same incarnation of its store, and what comes second for a session.
pub(super) fn split(batch: &mut [Queued]) -> (Vec<&mut Pending<Change>>, Vec<&mut dyn Job>) {
    let mut advances: Vec<&mut Pending<Change>> = Vec::new();
    let mut others: Vec<&mut dyn Job> = Vec::new();
    let mut seen = HashSet::new();
    for queued in batch {
        match queued {
            Queued::Alone(job) => others.push(&mut **job),
            Queued::Advance(job) => {
                let alike = advances.first().is_none_or(|first| incarnation(first) == incarnation(job));
                if alike && seen.insert(job.operation.from.id) { advances.push(job) } else { others.push(&mut **job) }
            }
        }
    }
    (advances, others)
}

/// Runs the statement, to its end: by itself it is committed then.
pub(super) async fn run(
    advances: &mut [&mut Pending<Change>],
    connection: &mut SqliteConnection,
) -> Result<(), sqlx::Error> {
    let Some(first) = advances.first() else { return Ok(()) };
    let statement = sqlx::query(statements::ADVANCE_ALL).bind(json(advances)).bind(incarnation(first).to_owned());
    let rows = statement.fetch_all(connection).await?;
    // A row without an id is nobody's.
    let mut rows: HashMap<SessionId, &SqliteRow> =
        rows.iter().filter_map(|row| Some((rows::id(row, "id").ok()?, row))).collect();
    for job in advances {
        let from = &job.operation.from;
        job.output = Some(match rows.remove(&from.id) {
            Some(row) => rows::changed(from.clone(), row).map(Commit::Live),
            None => Ok(Commit::Moved),
        });
    }
    Ok(())
}

/// Where each session stands, and where it gets to: `[["id", epoch, received, to, synced], …]`.
fn json(advances: &[&mut Pending<Change>]) -> String {
    let mut json = String::with_capacity(96 * advances.len());
    for job in advances {
        let Change { from: Session { id, epoch, received, .. }, transition, .. } = &job.operation;
        let Transition::Advance { to, synced, .. } = transition else { continue };
        let comma = if json.is_empty() { '[' } else { ',' };
        // Writing to a string cannot fail.
        let _ = write!(json, "{comma}[\"{}\",{epoch},{received},{to},{synced}]", id.uuid().simple());
    }
    json + "]"
}

fn incarnation(job: &Pending<Change>) -> &str {
    match &job.operation.transition {
        Transition::Advance { incarnation, .. } => incarnation,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bits_core::{Found, NewSession, Principal, Quota, SessionStore, SessionStoreError, StorageKey, VirtualPath};
    use futures_util::future::join_all;
    use sqlx::{ConnectOptions, sqlite::SqliteConnectOptions};
    use uuid::Uuid;

    use super::*;
    use crate::{Options, SqliteSessions};

    async fn begin(store: &SqliteSessions, total: u64) -> Session {
        let new = NewSession {
            id: SessionId::new(Uuid::new_v4()),
            principal: Principal::named(""),
            address: String::new(),
            directory: "/upload".to_owned(),
            destination: VirtualPath::from_decoded("/upload/file").unwrap(),
            storage: "default".to_owned(),
            folder: StorageKey::ROOT,
            key: StorageKey::parse("upload/file").unwrap(),
            timeout: Duration::from_secs(60),
            url: None,
            limit: None,
        };
        let session = store.create(&new).await.unwrap();
        let begin = Transition::Begin { total, quota: Quota::default() };
        live(store.commit(&session, &begin).await.unwrap()).unwrap()
    }

    fn advance(to: u64, synced: u64, incarnation: &str) -> Transition {
        let incarnation = incarnation.to_owned();
        Transition::Advance { to, synced, incarnation, pieces: Vec::new(), handle: None, durable: false }
    }

    fn live(commit: Commit) -> Option<Session> {
        if let Commit::Live(session) = commit { Some(session) } else { None }
    }

    /// Everything is queued before the writer has its turn: one transaction.
    async fn together(store: &SqliteSessions, changes: &[(&Session, Transition)]) -> Vec<Option<Session>> {
        let commits = changes.iter().map(|(from, transition)| store.commit(from, transition));
        join_all(commits).await.into_iter().map(|commit| live(commit.unwrap())).collect()
    }

    #[tokio::test]
    async fn each_session_advances_from_where_it_stands() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteSessions::open(folder.path().join("state.db"), Options::default()).await.unwrap();
        let mut sessions = Vec::new();
        for number in 0..100 {
            sessions.push(begin(&store, 1000 + number).await);
        }
        let stale = Session { received: 7, ..sessions[3].clone() };
        let mut changes: Vec<_> =
            sessions.iter().zip(1..).map(|(session, to)| (session, advance(to, to / 2, "boot"))).collect();
        changes[3] = (&stale, advance(9, 0, "boot"));
        let after = together(&store, &changes).await;
        for (number, session) in after.iter().enumerate().filter(|(number, _)| *number != 3) {
            let session = session.as_ref().unwrap();
            let to = number as u64 + 1;
            assert_eq!((session.id, session.received, session.synced), (sessions[number].id, to, to / 2));
            assert_eq!((session.total, session.incarnation.as_str()), (sessions[number].total, "boot"));
            assert_eq!(store.load(session.id).await.unwrap(), Some(Found::Live(session.clone())));
        }
        assert_eq!(after[3], None, "it stands elsewhere");
        store.close().await;
    }

    #[tokio::test]
    async fn of_two_that_go_on_from_one_place_one_does() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteSessions::open(folder.path().join("state.db"), Options::default()).await.unwrap();
        let (one, other) = (begin(&store, 10).await, begin(&store, 10).await);
        let changes = [
            (&one, advance(4, 0, "boot")),
            (&one, advance(5, 0, "boot")),
            (&other, advance(6, 6, "other boot")),
            (&other, Transition::Regress { to: 0 }),
        ];
        let after = together(&store, &changes).await;
        let received: Vec<_> = after.iter().flatten().map(|session| (session.id, session.received)).collect();
        assert_eq!(received, [(one.id, 4), (other.id, 6)]);
        store.close().await;
    }

    #[tokio::test]
    async fn one_that_its_row_does_not_take_fails_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let store = SqliteSessions::open(&path, Options::default()).await.unwrap();
        let (one, other) = (begin(&store, 10).await, begin(&store, 10).await);
        let mut meddling = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
        let shorter = sqlx::query("UPDATE session SET total = 3 WHERE id = ?1").bind(one.id.uuid().as_bytes().to_vec());
        assert_eq!(shorter.execute(&mut meddling).await.unwrap().rows_affected(), 1);
        let (refused, taken, advance) = (&advance(4, 0, "boot"), &advance(6, 6, "boot"), &advance(3, 0, "boot"));
        let (failed, done) = tokio::join!(store.commit(&one, refused), store.commit(&other, taken));
        assert!(matches!(failed, Err(SessionStoreError::Other(_))), "{failed:?}");
        assert_eq!(live(done.unwrap()).unwrap().received, 6);
        let before = store.load(one.id).await.unwrap();
        assert!(matches!(before, Some(Found::Live(session)) if session.received == 0));
        assert_eq!(live(store.commit(&one, advance).await.unwrap()).unwrap().received, 3, "the writer goes on");
        store.close().await;
    }
}
