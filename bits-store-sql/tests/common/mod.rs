//! What the tests of the SQLite store share.
#![allow(dead_code, reason = "not every test needs all of it")]

use std::{path::Path, time::Duration};

use bits_core::{
    Commit, Found, NewSession, Piece, Principal, PublishIntent, Quota, Session, SessionId, SessionStore,
    SessionStoreError, StorageKey, Subscriber, Transition, VirtualPath,
};
use bits_store_sql::{Options, SqliteSessions};
use uuid::Uuid;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) async fn open(path: &Path) -> SqliteSessions {
    SqliteSessions::open(path, Options::default()).await.unwrap()
}

/// The same with one subscriber, `all`.
pub(crate) async fn open_telling(path: &Path) -> SqliteSessions {
    let all = Subscriber { name: "all".to_owned(), ..Subscriber::default() };
    SqliteSessions::open(path, Options { subscribers: vec![all], ..Options::default() }).await.unwrap()
}

pub(crate) fn new_session() -> NewSession {
    let id = Uuid::new_v4();
    NewSession {
        id: SessionId::new(id),
        principal: Principal::ANONYMOUS,
        address: "192.0.2.7:50000".to_owned(),
        directory: "/upload".to_owned(),
        destination: VirtualPath::from_decoded(&format!("/upload/{id}.bin")).unwrap(),
        storage: "default".to_owned(),
        folder: StorageKey::parse("upload").unwrap(),
        key: StorageKey::parse(&format!("upload/{id}.bin")).unwrap(),
        timeout: HOUR,
        url: None,
        limit: None,
    }
}

/// A new session whose size is known.
pub(crate) async fn begun(store: &SqliteSessions, new: &NewSession) -> Session {
    let session = store.create(new).await.unwrap();
    live(store.commit(&session, &Transition::Begin { total: 1 << 40, quota: Quota::NONE }).await)
}

pub(crate) fn advance(to: u64, pieces: &[Piece], durable: bool) -> Transition {
    let incarnation = "boot".to_owned();
    Transition::Advance { to, synced: 0, incarnation, pieces: pieces.to_vec(), handle: None, durable }
}

pub(crate) fn intend(total: u64) -> Transition {
    Transition::Intend { intent: PublishIntent("plan".to_owned()), total }
}

pub(crate) fn live(commit: Result<Commit, SessionStoreError>) -> Session {
    match commit.unwrap() {
        Commit::Live(session) => session,
        other => panic!("not live: {other:?}"),
    }
}

pub(crate) async fn load_live(store: &SqliteSessions, id: SessionId) -> Session {
    match store.load(id).await.unwrap() {
        Some(Found::Live(session)) => session,
        other => panic!("not live: {other:?}"),
    }
}
