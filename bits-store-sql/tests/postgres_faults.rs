//! PostgreSQL behind a network that loses answers, beside other servers, and under a schema that
//! is newer than the program.
#![cfg(feature = "postgres")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use bits_core::{
    Commit, Content, Ending, Found, NewSession, Outbox, Piece, Principal, PublishIntent, Quota, Session, SessionId,
    SessionStore, SessionStoreError, State, StorageKey, Subscriber, Transition, VirtualPath,
};
use bits_store_sql::{PostgresError, PostgresOptions, PostgresSessions};
use tests::{PgBouncer, Postgres, psql};
use uuid::Uuid;

const ALL: &str = "all";

async fn open(url: &str) -> PostgresSessions {
    let all = Subscriber { name: ALL.to_owned(), ..Subscriber::default() };
    let options = PostgresOptions { migrate: true, subscribers: vec![all], ..PostgresOptions::default() };
    PostgresSessions::open(url, options).await.unwrap()
}

fn new_session() -> NewSession {
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
        timeout: Duration::from_secs(3600),
        url: None,
        limit: None,
    }
}

fn begin(total: u64) -> Transition {
    Transition::Begin { total, quota: Quota::NONE }
}

fn advance(to: u64, incarnation: &str, pieces: &[Piece]) -> Transition {
    let (incarnation, pieces) = (incarnation.to_owned(), pieces.to_vec());
    Transition::Advance { to, synced: 0, incarnation, pieces, handle: None, durable: true }
}

fn live(commit: Result<Commit, SessionStoreError>) -> Session {
    match commit.unwrap() {
        Commit::Live(session) => session,
        other => panic!("not live: {other:?}"),
    }
}

/// What was told and not taken yet, in order.
async fn events(store: &PostgresSessions) -> Vec<&'static str> {
    let mut kinds = Vec::new();
    loop {
        let claimed = store.claim(ALL, 100, Duration::from_secs(9)).await.unwrap();
        if claimed.is_empty() {
            return kinds;
        }
        for delivery in claimed {
            kinds.push(match &delivery.content {
                Content::Event(event) => event.kind.as_str(),
                Content::Gap(_) => "gap",
            });
            store.delivered(&delivery).await.unwrap();
        }
    }
}

/// What a proxy does to the connection on which a text goes to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// The server never hears it.
    Request,
    /// The server does it, and nobody hears.
    Answer,
}

/// A proxy before PostgreSQL that cuts one connection when it is told to.
struct Proxy {
    address: SocketAddr,
    order: Arc<Mutex<Option<(Cut, String)>>>,
}

impl Proxy {
    fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let order = Arc::new(Mutex::new(None));
        let orders = Arc::clone(&order);
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, upstream) = (client.unwrap(), TcpStream::connect(server).unwrap());
                carry(client, upstream, &orders);
            }
        });
        Self { address, order }
    }

    fn url(&self, direct: &str) -> String {
        let (before, after) = direct.split_once('@').unwrap();
        format!("{before}@{}/{}", self.address, after.split_once('/').unwrap().1)
    }

    fn cut(&self, cut: Cut, text: &str) {
        *self.order.lock().unwrap() = Some((cut, text.to_owned()));
    }

    #[track_caller]
    fn assert_cut(&self) {
        assert_eq!(*self.order.lock().unwrap(), None, "nothing was cut");
    }
}

fn carry(client: TcpStream, upstream: TcpStream, orders: &Arc<Mutex<Option<(Cut, String)>>>) {
    let swallow = Arc::new(AtomicBool::new(false));
    let ends = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
    let (orders, swallowing) = (Arc::clone(orders), Arc::clone(&swallow));
    thread::spawn(move || {
        let (mut client, mut upstream) = (client, upstream);
        copy(&mut client, |bytes| {
            let cut = take_order(&orders, bytes);
            if cut == Some(Cut::Request) {
                let _ = client_end(&upstream);
                return false;
            }
            swallowing.fetch_or(cut == Some(Cut::Answer), Ordering::SeqCst);
            upstream.write_all(bytes).is_ok()
        });
    });
    thread::spawn(move || {
        let (mut client, mut upstream) = ends;
        copy(&mut upstream, |bytes| !swallow.load(Ordering::SeqCst) && client.write_all(bytes).is_ok());
        let _ = client.shutdown(Shutdown::Both);
    });
}

fn client_end(upstream: &TcpStream) -> std::io::Result<()> {
    upstream.shutdown(Shutdown::Both)
}

fn take_order(orders: &Mutex<Option<(Cut, String)>>, bytes: &[u8]) -> Option<Cut> {
    let mut order = orders.lock().unwrap();
    let (_, text) = order.as_ref()?;
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
        .then(|| order.take())
        .flatten()
        .map(|(cut, _)| cut)
}

fn copy(from: &mut TcpStream, mut each: impl FnMut(&[u8]) -> bool) {
    let mut buffer = vec![0; 65536];
    while let Ok(count) = from.read(&mut buffer)
        && count > 0
        && each(&buffer[..count])
    {}
    let _ = from.shutdown(Shutdown::Both);
}

/// Whatever is lost on the way, each change is made once, told once, and its caller hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_found_in_the_row() {
    let direct = Postgres::shared().database();
    let proxy = Proxy::start(Postgres::shared().address());
    let store = open(&proxy.url(&direct)).await;
    for cut in [Cut::Request, Cut::Answer] {
        let new = new_session();
        proxy.cut(cut, "COMMIT");
        let session = store.create(&new).await.unwrap();
        proxy.assert_cut();
        assert_eq!((session.id, session.epoch), (new.id, 0));
        let session = live(store.commit(&session, &begin(10)).await);

        // One statement, and several.
        proxy.cut(cut, "boot that is lost");
        let session = live(store.commit(&session, &advance(4, "boot that is lost", &[])).await);
        proxy.assert_cut();
        assert_eq!(session.received, 4, "{cut:?}");
        let piece = Piece { start: 4, len: 6, id: "piece that is lost".to_owned() };
        proxy.cut(cut, "COMMIT");
        let session = live(store.commit(&session, &advance(10, "boot", std::slice::from_ref(&piece))).await);
        proxy.assert_cut();
        assert_eq!((session.received, store.pieces(session.id, 0).await.unwrap()), (10, vec![piece]));

        proxy.cut(cut, "intent that is lost");
        let intent = PublishIntent("intent that is lost".to_owned());
        let publishing = live(store.commit(&session, &Transition::Intend { intent, total: 10 }).await);
        proxy.assert_cut();
        assert_eq!((publishing.state, publishing.epoch), (State::Publish, session.epoch + 1));
        proxy.cut(cut, "COMMIT");
        let published = live(store.commit(&publishing, &Transition::Published).await);
        proxy.assert_cut();
        assert_eq!(store.load(session.id).await.unwrap(), Some(Found::Live(published.clone())));
        proxy.cut(cut, "COMMIT");
        let ended = store.commit(&published, &Transition::End(Ending::Closed)).await.unwrap();
        proxy.assert_cut();
        assert!(matches!(&ended, Commit::Ended(tombstone) if tombstone.published == Some(10)), "{ended:?}");
        assert_eq!(events(&store).await, ["session.created", "upload.completed"], "{cut:?}");
    }
    assert_eq!(psql(&direct, "SELECT count(*) FROM unfinished_of_user"), "0");
    store.close().await;
}

/// One that somebody else moved meanwhile is told so, also where its answer was lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_lost_is_told_so() {
    let direct = Postgres::shared().database();
    let proxy = Proxy::start(Postgres::shared().address());
    let (store, other) = (open(&proxy.url(&direct)).await, open(&direct).await);
    let session = live(store.commit(&store.create(&new_session()).await.unwrap(), &begin(10)).await);
    live(other.commit(&session, &advance(3, "other", &[])).await);
    proxy.cut(Cut::Answer, "boot that is lost");
    let commit = store.commit(&session, &advance(4, "boot that is lost", &[])).await.unwrap();
    proxy.assert_cut();
    assert_eq!(commit, Commit::Moved);
}

/// Connections end under 20 writers, who all go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_end_are_made_again() {
    let postgres = Postgres::start("fsync = off");
    let store = Arc::new(open(&postgres.database()).await);
    let writers: Vec<_> = (0..20)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut session = live(store.commit(&store.create(&new_session()).await.unwrap(), &begin(1000)).await);
                for to in 1..=40 {
                    let piece = Piece { start: to - 1, len: 1, id: to.to_string() };
                    session = live(store.commit(&session, &advance(to, "boot", &[piece])).await);
                }
                assert_eq!(store.pieces(session.id, 0).await.unwrap().len(), 40);
            })
        })
        .collect();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        tokio::task::block_in_place(|| postgres.terminate_connections());
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

/// Of two servers, one gets a session to sweep or to finish; the other once the first is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_share_what_is_to_do() {
    let url = Postgres::shared().database();
    let (one, other) = (open(&url).await, open(&url).await);
    let short = NewSession { timeout: Duration::from_millis(1), ..new_session() };
    for _ in 0..40 {
        one.create(&NewSession { id: SessionId::new(Uuid::new_v4()), ..short.clone() }).await.unwrap();
    }
    let session = live(one.commit(&one.create(&new_session()).await.unwrap(), &begin(0)).await);
    let intend = Transition::Intend { intent: PublishIntent("plan".to_owned()), total: 0 };
    let publishing = live(one.commit(&session, &intend).await);
    tokio::time::sleep(Duration::from_millis(20)).await;

    let (mine, theirs) = tokio::join!(one.expired(25), other.expired(25));
    let (mine, theirs) = (mine.unwrap(), theirs.unwrap());
    assert_eq!(mine.len() + theirs.len(), 40);
    assert!(mine.iter().all(|session| theirs.iter().all(|other| other.id != session.id)));
    assert_eq!(one.expired(100).await.unwrap().len(), mine.len(), "what one has claimed it finds again");
    assert_eq!(other.unpublished(None, 10).await.unwrap(), [], "the other is at it");
    assert_eq!(one.unpublished(None, 10).await.unwrap(), std::slice::from_ref(&publishing));
    assert!(one.claim_job(publishing.id).await.unwrap());
    assert!(!other.claim_job(publishing.id).await.unwrap());
    psql(&url, "UPDATE session SET claimed_until = 0");
    assert_eq!(
        other.unpublished(None, 10).await.unwrap(),
        std::slice::from_ref(&publishing),
        "nobody is at it any more"
    );
    assert!(!one.claim_job(publishing.id).await.unwrap());

    for session in &mine {
        assert!(matches!(one.commit(session, &Transition::End(Ending::Expired)).await, Ok(Commit::Ended(_))));
    }
    // Events of sessions that were created are claimed by one of both.
    let (by_one, by_other) =
        tokio::join!(one.claim(ALL, 20, Duration::from_secs(9)), other.claim(ALL, 20, Duration::from_secs(9)));
    let (by_one, by_other) = (by_one.unwrap(), by_other.unwrap());
    assert_eq!((by_one.len(), by_other.len()), (20, 20));
    assert!(by_one.iter().all(|delivery| by_other.iter().all(|other| other.number != delivery.number)));
}

/// Behind a pooler that gives each transaction another connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_mixes_up_nothing() {
    let direct = Postgres::shared().database();
    let pooler = PgBouncer::start(Postgres::shared(), 3);
    let stores = [Arc::new(open(&pooler.url(&direct)).await), Arc::new(open(&pooler.url(&direct)).await)];
    let lives: Vec<_> = (0..24)
        .map(|at| {
            let (store, other) = (Arc::clone(&stores[at % 2]), Arc::clone(&stores[(at + 1) % 2]));
            tokio::spawn(async move {
                let limited = NewSession { principal: Principal::named("a@x"), limit: Some(30), ..new_session() };
                let session = store.create(&limited).await.unwrap();
                let quota = Quota { per_user: Some(1000), directory: Some(1000) };
                let session = live(other.commit(&session, &Transition::Begin { total: 10, quota }).await);
                let piece = Piece { start: 0, len: 10, id: at.to_string() };
                let session = live(store.commit(&session, &advance(10, "boot", &[piece])).await);
                let intend = Transition::Intend { intent: PublishIntent(at.to_string()), total: 10 };
                let session = live(other.commit(&session, &intend).await);
                let session = live(store.commit(&session, &Transition::Published).await);
                assert_eq!(other.load(session.id).await.unwrap(), Some(Found::Live(session.clone())));
                let ended = other.commit(&session, &Transition::End(Ending::Closed)).await.unwrap();
                assert!(matches!(ended, Commit::Ended(_)), "{ended:?}");
            })
        })
        .collect();
    for life in lives {
        life.await.unwrap();
    }
    assert_eq!(psql(&direct, "SELECT count(*) FROM session"), "0");
    assert_eq!(psql(&direct, "SELECT count(*) FROM tombstone"), "24");
}

/// A fragment changes its row in place, and no index.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fragment_touches_no_index() {
    let url = Postgres::shared().database();
    let store = open(&url).await;
    let mut session = live(store.commit(&store.create(&new_session()).await.unwrap(), &begin(1000)).await);
    for to in 1..=200 {
        session = live(store.commit(&session, &advance(to, "boot", &[])).await);
    }
    // Connections tell their counts when they end.
    store.close().await;
    let counts = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'session'";
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let counts = psql(&url, counts);
    let (all, in_place) = counts.split_once('|').unwrap();
    assert_eq!(all, "201");
    // Old versions of the row that somebody may still see take the room of the page now and then.
    assert!(in_place.parse::<u32>().unwrap() >= 195, "{in_place} of {all}");
}

/// The next version's servers expand the schema under those of this version, who go on with what is
/// under way and may be started anew, until the schema says that they may not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_schema_that_only_adds_is_worked_with() {
    let url = Postgres::shared().database();
    let store = open(&url).await;
    let version: i64 = psql(&url, "SELECT max(version) FROM bits_schema").parse().unwrap();
    let session = live(store.commit(&store.create(&new_session()).await.unwrap(), &begin(10)).await);
    // Often enough that its statements are planned for good.
    let mut session = session;
    for to in 1..=8 {
        session = live(store.commit(&session, &advance(to, "boot", &[])).await);
    }
    psql(
        &url,
        &format!(
            "BEGIN; ALTER TABLE session ADD COLUMN next TEXT, ALTER COLUMN incarnation TYPE VARCHAR COLLATE \"C\"; \
             CREATE INDEX session_next ON session (next); ALTER TABLE tombstone ADD COLUMN next BIGINT DEFAULT 7; \
             INSERT INTO bits_schema (version, name, oldest) VALUES ({}, 'next', {version}); COMMIT",
            version + 1
        ),
    );
    let session = live(store.commit(&session, &advance(10, "boot", &[])).await);
    let again = PostgresSessions::open(&url, PostgresOptions::default()).await.unwrap();
    assert_eq!(again.load(session.id).await.unwrap(), Some(Found::Live(session.clone())));
    let intend = Transition::Intend { intent: PublishIntent("plan".to_owned()), total: 10 };
    let publishing = live(again.commit(&session, &intend).await);
    let published = live(store.commit(&publishing, &Transition::Published).await);
    assert!(matches!(again.commit(&published, &Transition::End(Ending::Closed)).await, Ok(Commit::Ended(_))));
    assert_eq!(PostgresSessions::migrate(&url).await.unwrap(), version + 1, "nothing to do");

    psql(&url, &format!("INSERT INTO bits_schema (version, name, oldest) VALUES ({0}, 'after', {0})", version + 2));
    let refused = PostgresSessions::open(&url, PostgresOptions::default()).await.err();
    assert!(matches!(refused, Some(PostgresError::TooNew { found, .. }) if found == version + 2), "{refused:?}");
}

/// A database of the version before is migrated under a server that has uploads under way in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_version_before_is_migrated_under_its_sessions() {
    let url = Postgres::shared().database();
    let store = open(&url).await;
    let version: i64 = psql(&url, "SELECT max(version) FROM bits_schema").parse().unwrap();
    let mut session = live(store.commit(&store.create(&new_session()).await.unwrap(), &begin(10)).await);
    psql(&url, "BEGIN; DROP TABLE identity; DELETE FROM bits_schema WHERE version = 6; COMMIT");
    for to in 1..=8 {
        session = live(store.commit(&session, &advance(to, "boot", &[])).await);
    }
    let refused = PostgresSessions::open(&url, PostgresOptions::default()).await.err();
    assert!(matches!(refused, Some(PostgresError::TooOld { found: 5, .. })), "{refused:?}");
    assert_eq!(PostgresSessions::migrate(&url).await.unwrap(), version);
    let session = live(store.commit(&session, &advance(9, "boot", &[])).await);
    let again = PostgresSessions::open(&url, PostgresOptions::default()).await.unwrap();
    let session = live(again.commit(&session, &advance(10, "boot", &[])).await);
    assert_eq!(store.load(session.id).await.unwrap(), Some(Found::Live(session)));
}

/// Many servers that migrate at once make one schema.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_migrate_at_once() {
    let url = Postgres::shared().database();
    let opened = futures_util::future::join_all((0..6).map(|_| PostgresSessions::migrate(&url))).await;
    assert!(opened.iter().all(Result::is_ok), "{opened:?}");
    assert_eq!(psql(&url, "SELECT count(*) - count(DISTINCT version) FROM bits_schema"), "0");
}
