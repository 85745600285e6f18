//! The engine over the in-memory stores: order of the stores, turns, publishing, sweeping.

#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod dying;
mod hooked;
mod notifying;

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bits_core::{
    Ack, BodyError, Commit, Directory, Ending, Filter, Found, Hresult, Principal, PublishAt, Quota, Reply, Session,
    SessionEvent, SessionEventKind, SessionId, SessionStore, State, StorageKey, StoreErrorKind, Transition,
    conformance::{ManualClock, MemorySessions, MemoryUploads, PublishFault},
};
use bits_engine::{Body, Caller, CancelError, Chore, Directories, Engine, Limits};
use bits_store_fs::LocalStore;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use hooked::Hooked;
use http::{Request, request::Parts};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const PART: u64 = 16;

struct Rig {
    engine: Engine,
    sessions: Arc<MemorySessions>,
    uploads: Arc<MemoryUploads>,
    hooks: Arc<Hooked>,
    clock: ManualClock,
}

impl Rig {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl Fn(&mut Directory)) -> Self {
        Self::over(MemoryUploads::new(PART), change)
    }

    fn over(uploads: MemoryUploads, change: impl Fn(&mut Directory)) -> Self {
        let clock = ManualClock::default();
        let sessions = Arc::new(MemorySessions::new(clock.clone()));
        let uploads = Arc::new(uploads);
        let hooks = Arc::new(Hooked::new(uploads.clone(), sessions.clone()));
        let mut directory = Directory::new("/upload", "memory", StorageKey::parse("store").unwrap());
        change(&mut directory);
        let directories = Directories::new(vec![directory]).unwrap();
        let engine = Engine::builder(sessions.clone(), directories).storage("memory", hooks.clone()).build().unwrap();
        Self { engine, sessions, uploads, hooks, clock }
    }

    /// Bytes on a disk, where an upload has no parts, and what happened.
    fn on_disk(root: &Path, change: impl Fn(&mut Directory)) -> (Arc<Self>, Arc<Mutex<Vec<SessionEventKind>>>) {
        let (rig, events) = (Self::new(), Arc::<Mutex<Vec<_>>>::default());
        let mut directory = Directory::new("/upload", "disk", StorageKey::ROOT);
        change(&mut directory);
        let builder = Engine::builder(rig.sessions.clone(), Directories::new(vec![directory]).unwrap());
        let options = bits_store_fs::Options { reserve_free: 0, ..Default::default() };
        let disk = Arc::new(LocalStore::open(root, options).unwrap());
        let hooks = Arc::new(Hooked::new(disk, rig.sessions.clone()));
        let told = events.clone();
        let builder =
            builder.storage("disk", hooks.clone()).on_event(move |event| told.lock().unwrap().push(event.kind.clone()));
        (Arc::new(Self { engine: builder.build().unwrap(), hooks, ..rig }), events)
    }

    /// The engine of the next process, over the same stores.
    fn again(
        &self,
        change: impl Fn(&mut Directory),
        observer: impl Fn(&SessionEvent) + Send + Sync + 'static,
    ) -> Engine {
        let mut directory = Directory::new("/upload", "memory", StorageKey::parse("store").unwrap());
        change(&mut directory);
        let directories = Directories::new(vec![directory]).unwrap();
        let builder = Engine::builder(self.sessions.clone(), directories).storage("memory", self.hooks.clone());
        builder.on_event(observer).build().unwrap()
    }

    /// Maintenance in a task of its own, and what ends it.
    fn maintain(&self, interval: Duration) -> (tokio::task::JoinHandle<()>, CancellationToken) {
        let (engine, stop) = (self.engine.clone(), CancellationToken::new());
        let shutdown = stop.clone();
        (tokio::spawn(async move { engine.maintain(interval, shutdown).await }), stop)
    }

    async fn send(&self, packet: Packet<'_>, body: Body) -> Option<Ack> {
        self.send_as(Principal::ANONYMOUS, packet, body).await
    }

    async fn send_as(&self, principal: Principal, packet: Packet<'_>, body: Body) -> Option<Ack> {
        self.engine.handle(&packet.head(), Caller { principal, address: None, secure: false }, body).await
    }

    async fn row(&self, id: SessionId) -> Session {
        match self.sessions.load(id).await.unwrap() {
            Some(Found::Live(session)) => session,
            other => panic!("not live: {other:?}"),
        }
    }

    /// What another process does to a session.
    async fn meddle(&self, id: SessionId, transition: Transition) {
        let commit = self.sessions.commit(&self.row(id).await, &transition).await.unwrap();
        assert!(matches!(commit, Commit::Live(_) | Commit::Ended(_)), "{commit:?}");
    }

    async fn create(&self, path: &str) -> SessionId {
        let ack = self.send(Packet::new(path, "Create-Session"), nothing()).await.unwrap();
        assert_eq!(ack.status(), 200, "{ack:?}");
        ack.session.unwrap()
    }

    async fn fragment(&self, path: &str, id: SessionId, start: usize, whole: &[u8], end: usize) -> Ack {
        let packet = Packet::new(path, "Fragment").session(id).range(start, end, whole.len());
        self.send(packet, bytes(&whole[start..end])).await.unwrap()
    }

    async fn end(&self, path: &str, kind: &'static str, id: SessionId) -> Ack {
        self.send(Packet::new(path, kind).session(id), nothing()).await.unwrap()
    }

    fn stored(&self, name: &str) -> Option<Bytes> {
        self.uploads.read(&StorageKey::parse(&format!("store/{name}")).unwrap())
    }
}

#[derive(Clone, Copy)]
struct Packet<'a> {
    path: &'a str,
    kind: &'static str,
    session: Option<SessionId>,
    range: Option<(usize, usize, usize)>,
    form: bits_core::Form,
}

impl<'a> Packet<'a> {
    fn new(path: &'a str, kind: &'static str) -> Self {
        Self { path, kind, session: None, range: None, form: bits_core::Form::Native }
    }

    fn session(self, id: SessionId) -> Self {
        Self { session: Some(id), ..self }
    }

    fn range(self, start: usize, end: usize, total: usize) -> Self {
        Self { range: Some((start, end, total)), ..self }
    }

    fn overridden(self) -> Self {
        Self { form: bits_core::Form::Override, ..self }
    }

    fn head(self) -> Parts {
        let length = self.range.map_or(0, |(start, end, _)| end - start);
        let mut request = Request::builder()
            .uri(self.path)
            .header("BITS-Packet-Type", self.kind)
            .header("BITS-Supported-Protocols", bits_core::PROTOCOL)
            .header("Content-Length", length);
        request = match self.form {
            bits_core::Form::Native => request.method("BITS_POST"),
            bits_core::Form::Override => request.method("POST").header("X-HTTP-Method-Override", "BITS_POST"),
        };
        if let Some(id) = self.session {
            request = request.header("BITS-Session-Id", id.to_string());
        }
        if let Some((start, end, total)) = self.range {
            let range = match total {
                0 => "bytes */0".to_owned(),
                _ => format!("bytes {start}-{}/{total}", end - 1),
            };
            request = request.header("Content-Range", range);
        }
        request.body(()).unwrap().into_parts().0
    }
}

fn nothing() -> Body {
    Body::new(stream::empty())
}

fn bytes(bytes: &[u8]) -> Body {
    let chunks: Vec<_> = bytes.chunks(7).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    Body::new(stream::iter(chunks))
}

/// A body that the test feeds.
fn fed() -> (mpsc::UnboundedSender<Result<Bytes, BodyError>>, Body) {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    (sender, Body::new(stream::poll_fn(move |context| receiver.poll_recv(context))))
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 % 251) as u8).collect()
}

fn code(ack: &Ack) -> Option<Hresult> {
    ack.refusal.as_ref().and_then(bits_core::Refusal::hresult)
}

#[tokio::test]
async fn an_upload_in_fragments_is_published_with_its_last() {
    let rig = Rig::new();
    let whole = content(100);
    let id = rig.create("/upload/a/b.bin").await;
    for (start, end) in [(0, 30), (30, 31), (31, 99)] {
        assert_eq!(rig.fragment("/upload/a/b.bin", id, start, &whole, end).await.next_offset(), Some(end as u64));
        assert_eq!(rig.stored("a/b.bin"), None);
    }
    assert_eq!(rig.fragment("/UPLOAD/a/b.bin", id, 99, &whole, 100).await.next_offset(), Some(100));
    assert_eq!(rig.stored("a/b.bin").unwrap(), whole);
    assert_eq!(rig.end("/upload/a/b.bin", "Close-Session", id).await.status(), 200);
    assert_eq!(rig.uploads.staged(), Vec::<String>::new());
}

#[tokio::test]
async fn overlaps_are_taken_and_gaps_are_not() {
    let rig = Rig::new();
    let whole = content(50);
    let id = rig.create("/upload/f").await;
    let _ = rig.fragment("/upload/f", id, 0, &whole, 20).await;
    assert_eq!(rig.fragment("/upload/f", id, 5, &whole, 15).await.next_offset(), Some(20));
    assert_eq!(rig.fragment("/upload/f", id, 10, &whole, 30).await.next_offset(), Some(30));
    let gap = rig.fragment("/upload/f", id, 40, &whole, 50).await;
    assert_eq!((gap.status().as_u16(), gap.next_offset(), code(&gap)), (416, Some(30), None));
    let _ = rig.fragment("/upload/f", id, 0, &whole, 50).await;
    assert_eq!(rig.stored("f").unwrap(), whole);
}

#[tokio::test]
async fn a_broken_body_keeps_what_came() {
    let rig = Rig::new();
    let id = rig.create("/upload/f").await;
    let (feed, body) = fed();
    feed.send(Ok(Bytes::from_static(b"hello"))).unwrap();
    feed.send(Err(BodyError::Disconnected)).unwrap();
    let packet = Packet::new("/upload/f", "Fragment").session(id).range(0, 11, 11);
    assert_eq!(rig.send(packet, body).await, None);
    let ack = rig.fragment("/upload/f", id, 0, b"hello world", 11).await;
    assert_eq!(ack.next_offset(), Some(11));
    assert_eq!(rig.stored("f").unwrap(), "hello world");
}

#[tokio::test]
async fn a_dropped_request_keeps_what_came() {
    let rig = Rig::new();
    let id = rig.create("/upload/f").await;
    let (feed, body) = fed();
    feed.send(Ok(Bytes::from_static(b"hello"))).unwrap();
    let packet = Packet::new("/upload/f", "Fragment").session(id).range(0, 11, 11);
    assert!(tokio::time::timeout(Duration::from_millis(50), rig.send(packet, body)).await.is_err());
    feed.send(Err(BodyError::Disconnected)).unwrap();
    let ack = rig.fragment("/upload/f", id, 5, b"hello world", 11).await;
    assert_eq!(ack.next_offset(), Some(11), "{ack:?}");
}

#[tokio::test]
async fn a_newer_request_cuts_the_older_off_and_finds_its_bytes() {
    for newer in ["Fragment", "Close-Session", "Cancel-Session"] {
        let rig = Arc::new(Rig::new());
        let id = rig.create("/upload/f").await;
        let (feed, body) = fed();
        feed.send(Ok(Bytes::from_static(b"hello"))).unwrap();
        let older = {
            let rig = rig.clone();
            let packet = Packet::new("/upload/f", "Fragment").session(id).range(0, 11, 11);
            tokio::spawn(async move { rig.send(packet, body).await })
        };
        tokio::time::sleep(Duration::from_millis(50)).await;
        let ack = match newer {
            "Fragment" => rig.fragment("/upload/f", id, 5, b"hello world", 11).await,
            _ => rig.end("/upload/f", newer, id).await,
        };
        assert_eq!(ack.status(), 200, "{newer}: {ack:?}");
        assert_eq!(older.await.unwrap(), None, "{newer}");
        assert_eq!(rig.uploads.staged(), Vec::<String>::new(), "{newer}");
        drop(feed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_body_is_given_up_and_its_bytes_kept() {
    let rig = Rig::new();
    let id = rig.create("/upload/f").await;
    let (feed, body) = fed();
    feed.send(Ok(Bytes::from_static(b"hello"))).unwrap();
    let packet = Packet::new("/upload/f", "Fragment").session(id).range(0, 11, 11);
    assert_eq!(rig.send(packet, body).await, None);
    drop(feed);
    assert_eq!(rig.fragment("/upload/f", id, 5, b"hello world", 11).await.next_offset(), Some(11));
}

#[tokio::test]
async fn a_body_of_another_length_is_malformed_and_stores_nothing() {
    let rig = Rig::new();
    for sent in [&b"hell"[..], b"hello wor"] {
        let id = rig.create("/upload/f").await;
        let packet = Packet::new("/upload/f", "Fragment").session(id).range(0, 5, 11);
        let ack = rig.send(packet, bytes(sent)).await.unwrap();
        assert_eq!((ack.status().as_u16(), code(&ack)), (400, Some(Hresult::E_INVALIDARG)), "{sent:?}");
        let gap = rig.fragment("/upload/f", id, 5, b"hello world", 11).await;
        assert_eq!(gap.next_offset(), Some(0), "{sent:?}");
    }
}

#[tokio::test]
async fn a_store_that_fails_keeps_what_it_took() {
    let rig = Rig::new();
    let whole = content(100);
    for (kind, status) in
        [(StoreErrorKind::Full, 500), (StoreErrorKind::Denied, 403), (StoreErrorKind::Unavailable, 503)]
    {
        let id = rig.create("/upload/f").await;
        rig.uploads.fail_next_write(40, kind);
        assert_eq!(rig.fragment("/upload/f", id, 0, &whole, 100).await.status().as_u16(), status);
        let gap = rig.fragment("/upload/f", id, 99, &whole, 100).await;
        let held = gap.next_offset().unwrap();
        assert!((1..=40).contains(&held), "{kind:?} kept {held}");
        let _ = rig.end("/upload/f", "Cancel-Session", id).await;
    }
}

#[tokio::test]
async fn doubtful_bytes_send_the_client_back() {
    let rig = Rig::new();
    let whole = content(100);
    let id = rig.create("/upload/f").await;
    let _ = rig.fragment("/upload/f", id, 0, &whole, 64).await;
    rig.uploads.fail_next_write(0, StoreErrorKind::Doubtful { good: 16 });
    let ack = rig.fragment("/upload/f", id, 64, &whole, 80).await;
    assert_eq!((ack.status().as_u16(), ack.next_offset()), (200, Some(16)));
    let _ = rig.fragment("/upload/f", id, 16, &whole, 100).await;
    assert_eq!(rig.stored("f").unwrap(), whole);
}

#[tokio::test]
async fn publishing_that_failed_is_tried_again() {
    for fault in [PublishFault::Before(StoreErrorKind::Unavailable), PublishFault::After(StoreErrorKind::Unavailable)] {
        let rig = Rig::new();
        let id = rig.create("/upload/f").await;
        rig.uploads.fail_next_publish(fault);
        let failed = rig.fragment("/upload/f", id, 0, b"hello", 5).await;
        assert_eq!(failed.status(), 503, "{failed:?}");
        assert_eq!(rig.fragment("/upload/f", id, 0, b"hello", 5).await.next_offset(), Some(5));
        assert_eq!(rig.stored("f").unwrap(), "hello");
    }
}

/// What the destination was when the upload was prepared says how it is published.
#[tokio::test]
async fn what_changed_before_it_was_published_is_prepared_anew() {
    let rig = Rig::new();
    let id = rig.create("/upload/f").await;
    rig.uploads.fail_next_publish(PublishFault::Before(StoreErrorKind::Changed));
    assert_eq!(rig.fragment("/upload/f", id, 0, b"hello", 5).await.next_offset(), Some(5));
    assert_eq!((rig.stored("f").unwrap(), rig.row(id).await.epoch), (Bytes::from("hello"), 2), "intended twice");
}

#[tokio::test]
async fn the_first_to_finish_wins() {
    let rig = Rig::new();
    let (one, other) = (rig.create("/upload/f").await, rig.create("/upload/f").await);
    assert_eq!(rig.fragment("/upload/f", other, 0, b"other", 5).await.status(), 200);
    let late = rig.fragment("/upload/f", one, 0, b"first", 5).await;
    assert_eq!((late.status().as_u16(), code(&late)), (403, Some(Hresult::E_ACCESSDENIED)));
    assert_eq!(rig.stored("f").unwrap(), "other");
    assert_eq!(rig.end("/upload/f", "Cancel-Session", one).await.status(), 200);
    assert_eq!(rig.uploads.staged(), Vec::<String>::new());
}

#[tokio::test]
async fn racing_sessions_publish_exactly_one_or_the_last_of_all() {
    for overwrite in [false, true] {
        let rig = Arc::new(Rig::with(|directory| directory.allow_overwrites = overwrite));
        let mut racers = Vec::new();
        for number in 0..8_u8 {
            let rig = rig.clone();
            racers.push(tokio::spawn(async move {
                let id = rig.create("/upload/f").await;
                rig.fragment("/upload/f", id, 0, &[number; 40], 40).await.status().as_u16()
            }));
        }
        let mut won = 0;
        for racer in racers {
            won += usize::from(racer.await.unwrap() == 200);
        }
        assert_eq!(won, if overwrite { 8 } else { 1 });
        let stored = rig.stored("f").unwrap();
        assert!(stored.len() == 40 && stored.iter().all(|byte| *byte == stored[0]), "{stored:?}");
    }
}

#[tokio::test]
async fn close_session_publishes_where_it_is_told_to() {
    let rig = Rig::with(|directory| directory.publish = PublishAt::CloseSession);
    let id = rig.create("/upload/f").await;
    assert_eq!(rig.fragment("/upload/f", id, 0, b"hello", 5).await.next_offset(), Some(5));
    assert_eq!(rig.stored("f"), None);
    assert_eq!(rig.end("/upload/f", "Close-Session", id).await.status(), 200);
    assert_eq!(rig.stored("f").unwrap(), "hello");
}

#[tokio::test]
async fn empty_uploads() {
    let rig = Rig::new();
    let id = rig.create("/upload/native").await;
    let packet = Packet::new("/upload/native", "Fragment").session(id).range(0, 0, 0);
    assert_eq!(rig.send(packet, nothing()).await.unwrap().next_offset(), Some(0));
    assert_eq!(rig.stored("native").unwrap(), "");

    let id = rig.create("/upload/closed").await;
    assert_eq!(rig.end("/upload/closed", "Close-Session", id).await.status(), 200);
    assert_eq!(rig.stored("closed"), None);

    let id = rig.create("/upload/over").await;
    let close = Packet::new("/upload/over", "Close-Session").session(id).overridden();
    assert_eq!(rig.send(close, nothing()).await.unwrap().status(), 200);
    assert_eq!(rig.stored("over").unwrap(), "");

    let id = rig.create("/upload/named").await;
    let refused = Packet::new("/upload/named", "Fragment").session(id).range(5, 6, 10).overridden();
    assert_eq!(rig.send(refused, bytes(b"x")).await.unwrap().status(), 416);
    let close = Packet::new("/upload/named", "Close-Session").session(id).overridden();
    assert_eq!(rig.send(close, nothing()).await.unwrap().status(), 200);
    assert_eq!(rig.stored("named"), None);
}

/// Closing an upload that no Fragment named does not name it: closed again, it is still an empty one.
#[tokio::test]
async fn an_empty_upload_that_could_not_be_made_is_made_the_next_time() {
    let rig = Rig::new();
    let id = rig.create("/upload/f").await;
    let close = Packet::new("/upload/f", "Close-Session").session(id).overridden();
    rig.hooks.fail_reserve.store(true, Ordering::SeqCst);
    let ack = rig.send(close, nothing()).await.unwrap();
    assert_eq!(code(&ack), Some(Hresult::ERROR_DISK_FULL), "{ack:?}");
    rig.hooks.fail_reserve.store(false, Ordering::SeqCst);
    assert_eq!(rig.send(close, nothing()).await.unwrap().status(), 200);
    assert_eq!(rig.stored("f").unwrap(), "");
}

#[tokio::test]
async fn a_malformed_fragment_names_its_session_too() {
    let rig = Rig::new();
    let id = rig.create("/upload/f").await;
    let mut head = Packet::new("/upload/f", "Fragment").session(id).range(0, 5, 10).overridden().head();
    head.headers.insert("Content-Range", "bytes 5-0/10".parse().unwrap());
    let caller = Caller { principal: Principal::ANONYMOUS, address: None, secure: false };
    let ack = rig.engine.handle(&head, caller, bytes(b"hello")).await.unwrap();
    assert_eq!((ack.status().as_u16(), code(&ack)), (400, Some(Hresult::E_INVALIDARG)));
    let close = Packet::new("/upload/f", "Close-Session").session(id).overridden();
    assert_eq!(rig.send(close, nothing()).await.unwrap().status(), 200);
    assert_eq!(rig.stored("f"), None);
}

#[tokio::test]
async fn packets_that_come_again_after_the_end() {
    let rig = Rig::new();
    let id = rig.create("/upload/f").await;
    let _ = rig.fragment("/upload/f", id, 0, b"hello", 5).await;
    for _ in 0..2 {
        assert_eq!(rig.end("/upload/f", "Close-Session", id).await.status(), 200);
    }
    assert_eq!(rig.fragment("/upload/f", id, 3, b"hello", 5).await.next_offset(), Some(5));
    let cancel = rig.end("/upload/f", "Cancel-Session", id).await;
    assert_eq!(code(&cancel), Some(Hresult::BG_E_SESSION_NOT_FOUND));
    assert_eq!(cancel.session, None);
}

#[tokio::test]
async fn what_expired_is_swept_and_what_the_clock_took_is_not() {
    let rig = Rig::with(|directory| directory.session_timeout = Duration::from_secs(60));
    let id = rig.create("/upload/f").await;
    let _ = rig.fragment("/upload/f", id, 0, &content(100), 50).await;
    assert_eq!(rig.engine.sweep().await.unwrap(), 0);
    rig.clock.advance(Duration::from_secs(61));
    assert_eq!(rig.engine.sweep().await.unwrap(), 1);
    assert_eq!(rig.uploads.staged(), Vec::<String>::new());
    let ack = rig.fragment("/upload/f", id, 50, &content(100), 60).await;
    assert_eq!(code(&ack), Some(Hresult::BG_E_SESSION_NOT_FOUND));
}

/// Jobs that do not end are left to end, however many they are; what expired besides is swept.
#[tokio::test(start_paused = true)]
async fn expired_sessions_that_cannot_be_ended_do_not_keep_the_rest() {
    let application = notifying::Application::new(0);
    let rig = Rig::with(|directory| directory.session_timeout = Duration::from_secs(60));
    let engine = rig.notified(&application, "/upload", notifying::notifying(None));
    for number in 0..300 {
        let id = rig.create(&format!("/upload/{number}")).await;
        rig.meddle(id, Transition::Begin { total: 0, quota: Quota::NONE }).await;
        rig.meddle(id, Transition::Notify { id: uuid::Uuid::new_v4() }).await;
    }
    let job = rig.sessions.list(&Filter { limit: 1, ..Filter::default() }).await.unwrap()[0].id;
    // Stores may list in any order: some of these come after all jobs.
    for _ in 0..100 {
        rig.create("/upload/idle").await;
    }
    rig.clock.advance(Duration::from_secs(61));
    assert_eq!(engine.sweep().await.unwrap(), 100);
    assert_eq!(rig.row(job).await.state, bits_core::State::Notify);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumped_expires_nothing() {
    let rig = Rig::with(|directory| directory.session_timeout = Duration::from_secs(24 * 60 * 60));
    let (maintenance, stop) = rig.maintain(Duration::from_secs(10));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let id = rig.create("/upload/f").await;
    rig.clock.advance(Duration::from_secs(48 * 60 * 60));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(matches!(rig.sessions.load(id).await.unwrap(), Some(bits_core::Found::Live(_))));
    rig.clock.advance(Duration::from_secs(1));
    stop.cancel();
    maintenance.await.unwrap();
}

/// Tombstones answer packets that come again: they go by the same clock as sessions.
#[tokio::test(start_paused = true)]
async fn a_clock_that_jumped_forgets_no_ended_session() {
    for (passed, jumped, remembered) in [(61, 0, false), (61, 2 * 60 * 60, true)] {
        let rig = Rig::with(|directory| directory.session_timeout = Duration::from_secs(60));
        let (maintenance, stop) = rig.maintain(Duration::from_secs(60 * 60));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let id = rig.create("/upload/f").await;
        let _ = rig.end("/upload/f", "Close-Session", id).await;
        rig.clock.advance(Duration::from_secs(passed + jumped));
        tokio::time::sleep(Duration::from_secs(passed)).await;
        assert_eq!(rig.sessions.load(id).await.unwrap().is_some(), remembered, "a jump by {jumped} s");
        stop.cancel();
        maintenance.await.unwrap();
    }
}

#[tokio::test]
async fn whoever_counts_is_told_of_what_was_deleted() {
    let rig = Rig::with(|directory| directory.session_timeout = Duration::from_secs(60));
    let (told, chores) = std::sync::mpsc::channel();
    let directories = Directories::new(vec![Directory::new("/upload", "memory", StorageKey::parse("store").unwrap())]);
    let builder = Engine::builder(rig.sessions.clone(), directories.unwrap()).storage("memory", rig.hooks.clone());
    let engine = builder.on_chore(move |chore| told.send(chore).unwrap()).build().unwrap();
    let id = rig.create("/upload/f").await;
    let _ = rig.fragment("/upload/f", id, 0, &content(100), 50).await;
    rig.meddle(id, Transition::End(Ending::Cancelled)).await;
    engine.tidy().await.unwrap();
    rig.clock.advance(Duration::from_secs(61));
    engine.tidy().await.unwrap();
    drop(engine);
    let told: Vec<_> = chores.try_iter().collect();
    assert_eq!(told, [Chore::Cleaned, Chore::Forgotten(0), Chore::Forgotten(1)]);
}

#[tokio::test]
async fn maintenance_ends_in_the_middle_of_a_sweep() {
    let rig = Rig::with(|directory| directory.session_timeout = Duration::from_secs(60));
    for _ in 0..50 {
        rig.create("/upload/f").await;
    }
    rig.clock.advance(Duration::from_secs(120));
    let stop = CancellationToken::new();
    let stopper = stop.clone();
    let engine = rig.again(
        |_| {},
        move |event| {
            if matches!(event.kind, SessionEventKind::Ended(Ending::Expired)) {
                stopper.cancel();
            }
        },
    );
    engine.maintain(Duration::from_secs(10), stop).await;
    assert_eq!(rig.sessions.census(1_000_000, 1).await.unwrap().live, 49);
}

#[tokio::test(start_paused = true)]
async fn maintenance_starts_nothing_once_the_engine_has_stopped() {
    let rig = Rig::new();
    let id = rig.create("/upload/f").await;
    let (maintenance, _stop) = rig.maintain(Duration::from_secs(10));
    tokio::time::sleep(Duration::from_secs(1)).await;
    rig.engine.stop().await;
    for transition in [
        Transition::Begin { total: 0, quota: Quota::NONE },
        Transition::Intend { intent: bits_core::PublishIntent("put".to_owned()), total: 0 },
    ] {
        rig.meddle(id, transition).await;
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(rig.row(id).await.state, bits_core::State::Publish);
    tokio::time::timeout(Duration::from_secs(1), maintenance).await.expect("maintenance has ended").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_large_share_is_not_expired_at_once() {
    let rig = Rig::with(|directory| directory.session_timeout = Duration::from_secs(60));
    for _ in 0..150 {
        rig.create("/upload/f").await;
    }
    rig.clock.advance(Duration::from_secs(120));
    let (maintenance, stop) = rig.maintain(Duration::from_secs(10));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(rig.sessions.census(1_000_000, 1).await.unwrap().live, 150);
    stop.cancel();
    maintenance.await.unwrap();
    assert_eq!(rig.engine.sweep().await.unwrap(), 150);
}

#[tokio::test]
async fn disabled_directories_lose_their_sessions() {
    let rig = Rig::new();
    let id = rig.create("/upload/f").await;
    let _ = rig.fragment("/upload/f", id, 0, &content(100), 50).await;
    // Its operator has spelt it otherwise since.
    let engine = rig.again(
        |directory| {
            directory.url_path = "/Upload".to_owned();
            directory.upload_enabled = false;
        },
        |_| {},
    );
    assert_eq!(engine.cancel_disabled().await.unwrap(), 1);
    assert_eq!(rig.uploads.staged(), Vec::<String>::new());
    let caller = Caller { principal: Principal::ANONYMOUS, address: None, secure: false };
    let ack = engine.handle(&Packet::new("/upload/f", "Ping").head(), caller, nothing()).await.unwrap();
    assert_eq!((ack.status().as_u16(), code(&ack)), (501, Some(Hresult::E_ACCESSDENIED)));
}

/// A fragment whose body the test feeds, under way in a task; its first bytes have come.
async fn under_way(
    rig: &Arc<Rig>,
    id: SessionId,
    came: &[u8],
    range: (usize, usize, usize),
) -> (mpsc::UnboundedSender<Result<Bytes, BodyError>>, tokio::task::JoinHandle<Option<Ack>>) {
    let (feed, body) = fed();
    feed.send(Ok(Bytes::copy_from_slice(came))).unwrap();
    let packet = Packet::new("/upload/f", "Fragment").session(id).range(range.0, range.1, range.2);
    let request = {
        let rig = rig.clone();
        tokio::spawn(async move { rig.send(packet, body).await })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    (feed, request)
}

/// A fragment under way ends by the settings that it began with, and the session goes on by the new ones.
#[tokio::test]
async fn other_settings_cut_nothing_off() {
    let rig = Arc::new(Rig::new());
    let id = rig.create("/upload/f").await;
    let (feed, request) = under_way(&rig, id, b"hello", (0, 11, 11)).await;
    let small = Directory {
        maximum_upload_size: 5,
        ..Directory::new("/upload", "memory", StorageKey::parse("store").unwrap())
    };
    let other = Directory::new("/other", "memory", StorageKey::parse("other").unwrap());
    let directories = Directories::new(vec![small, other]).unwrap();
    let engine = rig.engine.with_settings(directories, Limits::default(), None).unwrap();
    assert_eq!(engine.cancel_disabled().await.unwrap(), 0);
    feed.send(Ok(Bytes::from_static(b" world"))).unwrap();
    drop(feed);
    assert_eq!(request.await.unwrap().unwrap().next_offset(), Some(11));

    let caller = Caller { principal: Principal::ANONYMOUS, address: None, secure: false };
    let ask = async |packet: Packet<'_>, body| engine.handle(&packet.head(), caller.clone(), body).await.unwrap();
    let created = ask(Packet::new("/other/f", "Create-Session"), nothing()).await;
    assert_eq!(created.status(), 200, "{created:?}");
    let large = ask(Packet::new("/upload/g", "Create-Session"), nothing()).await.session.unwrap();
    let refused = ask(Packet::new("/upload/g", "Fragment").session(large).range(0, 6, 6), bytes(b"too mu")).await;
    assert_eq!(code(&refused), Some(Hresult::BG_E_TOO_LARGE), "{refused:?}");
    let closed = ask(Packet::new("/upload/f", "Close-Session").session(id), nothing()).await;
    assert_eq!(closed.status(), 200, "{closed:?}");
}

/// As those of a directory that takes no uploads any more (section 3.2.4.2), in time with what is
/// under way there, and no other directory's.
#[tokio::test]
async fn a_removed_directory_loses_its_sessions() {
    let rig = Arc::new(Rig::new());
    let id = rig.create("/upload/f").await;
    let (_feed, request) = under_way(&rig, id, b"hello", (0, 11, 11)).await;
    let other = || Directory::new("/other", "memory", StorageKey::parse("other").unwrap());
    let set = |all: Vec<Directory>, engine: &Engine| {
        engine.with_settings(Directories::new(all).unwrap(), Limits::default(), None).unwrap()
    };
    let engine = set(vec![other()], &rig.engine);
    assert_eq!(engine.cancel_disabled().await.unwrap(), 1);
    assert!(request.await.unwrap().is_none(), "the body was cut off");
    assert!(matches!(rig.sessions.load(id).await.unwrap(), Some(Found::Ended(_))));
    // Its name was only spelt otherwise.
    let upper = Directory { url_path: "/OTHER".to_owned(), ..other() };
    let again = set(vec![upper], &engine);
    let head = Packet::new("/other/f", "Create-Session").head();
    let caller = Caller { principal: Principal::ANONYMOUS, address: None, secure: false };
    assert_eq!(engine.handle(&head, caller, nothing()).await.unwrap().status(), 200);
    assert_eq!(again.cancel_disabled().await.unwrap(), 0);
    // It is back, and its new sessions are its own.
    let upload = Directory::new("/upload", "memory", StorageKey::parse("store").unwrap());
    let back = set(vec![upload, other()], &set(vec![other()], &rig.engine));
    rig.create("/upload/g").await;
    assert_eq!(back.cancel_disabled().await.unwrap(), 0);
}

/// One call maintains; the next one goes on from where it was, so that nothing is swept anew.
#[tokio::test(start_paused = true)]
async fn maintenance_is_handed_over() {
    let rig = Rig::with(|directory| directory.session_timeout = Duration::from_secs(60));
    let (first, stop) = rig.maintain(Duration::from_secs(600));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (second, stop_second) = rig.maintain(Duration::from_secs(600));
    rig.create("/upload/f").await;
    rig.clock.advance(Duration::from_secs(120));
    tokio::time::advance(Duration::from_secs(120)).await;
    stop.cancel();
    first.await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(rig.sessions.census(1_000_000, 1).await.unwrap().live, 1, "it is not time yet");
    rig.clock.advance(Duration::from_secs(600));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(rig.sessions.census(1_000_000, 1).await.unwrap().live, 0);
    stop_second.cancel();
    second.await.unwrap();
}

/// Its body is spent, so that the rest cannot be decided anew; a refusal would end the job.
#[tokio::test]
async fn a_session_moved_under_a_fragment_is_acknowledged_where_it_stands() {
    let rig = Arc::new(Rig::new());
    let id = rig.create("/upload/f").await;
    assert_eq!(rig.fragment("/upload/f", id, 0, b"hello world", 5).await.next_offset(), Some(5));
    let (feed, request) = under_way(&rig, id, b"hello wo", (0, 11, 11)).await;
    rig.meddle(id, Transition::Regress { to: 0 }).await;
    feed.send(Ok(Bytes::from_static(b"rld"))).unwrap();
    drop(feed);
    let ack = request.await.unwrap().unwrap();
    assert_eq!((ack.status().as_u16(), ack.next_offset()), (200, Some(0)), "{ack:?}");
    assert_eq!(rig.fragment("/upload/f", id, 0, b"hello world", 11).await.next_offset(), Some(11));
    assert_eq!(rig.stored("f").unwrap(), "hello world");
}

/// Laptops roam: no address identifies anybody.
#[tokio::test]
async fn a_session_goes_on_from_any_address() {
    let rig = Rig::new();
    let from = async |address: &str, packet: Packet<'_>, body: &[u8]| {
        let address = Some(address.parse().unwrap());
        let caller = Caller { principal: Principal::named("jo@x"), address, secure: false };
        rig.engine.handle(&packet.head(), caller, bytes(body)).await.unwrap()
    };
    let id = from("192.0.2.1", Packet::new("/upload/f", "Create-Session"), b"").await.session.unwrap();
    let packet = Packet::new("/upload/f", "Fragment").session(id);
    assert_eq!(from("192.0.2.2", packet.range(0, 3, 5), b"hel").await.next_offset(), Some(3));
    assert_eq!(from("2001:db8::1", packet.range(3, 5, 5), b"lo").await.next_offset(), Some(5));
    let close = Packet::new("/upload/f", "Close-Session").session(id);
    assert_eq!(from("203.0.113.9", close, b"").await.status(), 200);
    assert_eq!(rig.stored("f").unwrap(), "hello");
}

#[tokio::test]
async fn strangers_cut_nobody_off() {
    for kind in ["Fragment", "Close-Session", "Cancel-Session"] {
        for (principal, path) in [("mallory@x", "/upload/f"), ("", "/upload/other")] {
            let rig = Arc::new(Rig::new());
            let id = rig.create("/upload/f").await;
            let (feed, request) = under_way(&rig, id, b"hello", (0, 11, 11)).await;
            let mut packet = Packet::new(path, kind).session(id);
            if kind == "Fragment" {
                packet = packet.range(0, 1, 11);
            }
            let stranger = rig.send_as(Principal::named(principal), packet, bytes(b"x")).await.unwrap();
            assert_eq!(code(&stranger), Some(Hresult::BG_E_SESSION_NOT_FOUND), "{kind} {principal} {path}");
            assert_eq!(stranger.session, None);
            feed.send(Ok(Bytes::from_static(b" world"))).unwrap();
            drop(feed);
            let ack = request.await.unwrap().expect("the upload goes on");
            assert_eq!(ack.next_offset(), Some(11), "{kind} {principal} {path}");
        }
    }
}

/// As `bits-server sessions cancel` ends one beside a running server.
#[tokio::test]
async fn cleaning_up_after_a_session_cuts_its_request_off() {
    let rig = Arc::new(Rig::new());
    let id = rig.create("/upload/f").await;
    let (feed, request) = under_way(&rig, id, b"hello", (0, 11, 11)).await;
    rig.meddle(id, Transition::End(Ending::Cancelled)).await;
    rig.engine.tidy().await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), request).await.expect("it is cut off");
    assert_eq!(ended.unwrap(), None);
    assert_eq!(rig.uploads.staged(), Vec::<String>::new());
    let ack = rig.fragment("/upload/f", id, 0, b"hello world", 11).await;
    assert_eq!(code(&ack), Some(Hresult::BG_E_SESSION_NOT_FOUND));
    assert_eq!(rig.uploads.staged(), Vec::<String>::new());
    drop(feed);
}

#[tokio::test]
async fn an_operator_cancels_an_upload_under_way() {
    let rig = Arc::new(Rig::new());
    let id = rig.create("/upload/f").await;
    let (feed, request) = under_way(&rig, id, b"hello", (0, 11, 11)).await;
    let tombstone = rig.engine.cancel(id).await.unwrap();
    assert_eq!((tombstone.id, tombstone.ending, tombstone.published), (id, Ending::Cancelled, None));
    assert_eq!(request.await.unwrap(), None, "its request was cut off");
    assert_eq!(rig.uploads.staged(), Vec::<String>::new());
    let ack = rig.fragment("/upload/f", id, 0, b"hello world", 11).await;
    assert_eq!(code(&ack), Some(Hresult::BG_E_SESSION_NOT_FOUND));
    assert_eq!(rig.engine.cancel(id).await, Err(CancelError::Over(Ending::Cancelled)));
    let unknown = SessionId::new(uuid::Uuid::nil());
    assert_eq!(rig.engine.cancel(unknown).await, Err(CancelError::NotFound));
    drop(feed);
}

#[tokio::test]
async fn an_operator_who_cancels_takes_no_complete_upload_away() {
    let rig = Rig::new();
    let id = rig.create("/upload/f").await;
    assert_eq!(rig.fragment("/upload/f", id, 0, b"hello", 5).await.next_offset(), Some(5));
    assert_eq!(rig.engine.cancel(id).await.unwrap().published, Some(5));
    assert_eq!(rig.stored("f").unwrap(), "hello");
}

#[tokio::test]
async fn an_operator_cancels_what_cannot_be_published() {
    let rig = Rig::new();
    let id = rig.create("/upload/f").await;
    rig.hooks.deny_publish.store(true, Ordering::SeqCst);
    assert_eq!(rig.fragment("/upload/f", id, 0, b"hello", 5).await.status(), 403);
    assert_eq!(rig.engine.cancel(id).await.unwrap().published, None);
    assert_eq!(rig.uploads.staged(), Vec::<String>::new());
}

#[tokio::test]
async fn a_session_that_is_being_written_is_not_expired() {
    let rig = Arc::new(Rig::with(|directory| directory.session_timeout = Duration::from_secs(60)));
    let id = rig.create("/upload/f").await;
    let (feed, request) = under_way(&rig, id, b"hello", (0, 11, 11)).await;
    rig.clock.advance(Duration::from_secs(61));
    assert_eq!(rig.engine.sweep().await.unwrap(), 0);
    assert_eq!(rig.row(id).await.received, 5, "what came is progress");
    assert_eq!(request.await.unwrap(), None);
    drop(feed);
}

#[tokio::test]
async fn room_made_for_a_session_that_is_over_is_given_back() {
    let rig = Rig::new();
    let id = rig.create("/upload/f").await;
    rig.hooks.end_at_reserve.store(true, Ordering::SeqCst);
    let ack = rig.fragment("/upload/f", id, 0, b"hello", 5).await;
    assert_eq!(code(&ack), Some(Hresult::BG_E_SESSION_NOT_FOUND));
    assert_eq!(rig.hooks.discards.load(Ordering::SeqCst), 1);
}

/// Some stores take larger uploads where nothing is copied.
#[tokio::test]
async fn room_is_made_for_an_upload_as_it_will_be_published() {
    for publish in [PublishAt::LastFragment, PublishAt::CloseSession] {
        let rig = Rig::with(|directory| directory.publish = publish);
        let id = rig.create("/upload/f").await;
        let _ = rig.fragment("/upload/f", id, 0, b"hello", 3).await;
        assert_eq!(rig.hooks.reserved_direct.load(Ordering::SeqCst), publish == PublishAt::LastFragment);
    }
}

/// What a server that dies leaves is named by the row, so that whoever ends the session deletes it.
#[tokio::test]
async fn what_parts_belong_to_is_in_the_row_before_them() {
    let rig = Arc::new(Rig::new());
    let id = rig.create("/upload/f").await;
    let whole = content(5 * PART as usize);
    let (feed, request) = under_way(&rig, id, &whole[..3 * PART as usize], (0, whole.len(), whole.len())).await;
    let row = rig.row(id).await;
    assert_eq!((row.received, row.handle.is_some()), (0, true));
    let staged = rig.uploads.staged();
    assert!(row.handle.is_some_and(|handle| staged.contains(&handle)), "{staged:?}");
    drop(feed);
    request.await.unwrap();
}

#[tokio::test]
async fn what_was_begun_for_a_session_that_is_over_is_given_up() {
    let rig = Rig::new();
    let id = rig.create("/upload/f").await;
    rig.hooks.end_at_begin.store(true, Ordering::SeqCst);
    let ack = rig.fragment("/upload/f", id, 0, &content(3 * PART as usize), 5).await;
    assert_eq!(code(&ack), Some(Hresult::BG_E_SESSION_NOT_FOUND));
    assert_eq!(rig.uploads.staged(), Vec::<String>::new());
}

/// Decision 8: in the override form a Close-Session publishes an empty file only where no
/// Fragment request ever named the session.
#[tokio::test]
async fn any_fragment_that_named_a_session_keeps_it_from_being_published_empty() {
    let rig = Rig::new();
    let malformed = Packet::new("/upload/f", "Fragment");
    let gap = malformed.range(5, 6, 10);
    for (packet, status) in [(malformed, 400), (malformed.overridden(), 400), (gap, 416), (gap.overridden(), 416)] {
        let id = rig.create("/upload/f").await;
        let ack = rig.send(packet.session(id), bytes(b"x")).await.unwrap();
        assert_eq!(ack.status().as_u16(), status);
        let close = Packet::new("/upload/f", "Close-Session").session(id).overridden();
        assert_eq!(rig.send(close, nothing()).await.unwrap().status(), 200);
        assert_eq!(rig.stored("f"), None, "{status}");
    }
}

/// What a user has under way counts in full; the room made for what is refused is given back.
#[tokio::test]
async fn quotas_of_unfinished_bytes() {
    let quota = Quota { per_user: Some(100), directory: Some(250) };
    let rig = Rig::with(|directory| directory.quota = quota);
    let whole = content(100);
    let begin = async |name: &str, path: &'static str, total: usize| {
        let user = || Principal::named(name);
        let created = rig.send_as(user(), Packet::new(path, "Create-Session"), nothing()).await.unwrap();
        let id = created.session.unwrap();
        let packet = Packet::new(path, "Fragment").session(id).range(0, 1, total);
        (rig.send_as(user(), packet, bytes(&whole[..1])).await.unwrap(), id)
    };
    let assert_refused = |ack: &Ack| {
        assert_eq!((ack.status().as_u16(), code(ack)), (500, Some(Hresult::ERROR_DISK_FULL)), "{ack:?}");
    };
    let (ack, first) = begin("jo@x", "/upload/a", 100).await;
    assert_eq!(ack.next_offset(), Some(1));
    let (ack, refused) = begin("jo@x", "/upload/b", 1).await;
    assert_refused(&ack);
    assert_eq!(rig.hooks.discards.load(Ordering::SeqCst), 1, "its room is not given back");
    let row = rig.row(refused).await;
    assert_eq!((row.total, row.fragment_seen), (None, true));
    assert_eq!(begin("jim@x", "/upload/c", 50).await.0.next_offset(), Some(1));
    // No user's quota binds anonymous callers, the directory's does.
    assert_refused(&begin("", "/upload/d", 101).await.0);
    assert_eq!(begin("", "/upload/d", 100).await.0.next_offset(), Some(1));
    assert_refused(&begin("jim@x", "/upload/e", 1).await.0);

    // The rest of the first: published, it counts no more.
    let rest = Packet::new("/upload/a", "Fragment").session(first).range(1, 100, 100);
    let ack = rig.send_as(Principal::named("jo@x"), rest, bytes(&whole[1..])).await.unwrap();
    assert_eq!(ack.next_offset(), Some(100));
    let again = Packet::new("/upload/b", "Fragment").session(refused).range(0, 1, 1);
    let ack = rig.send_as(Principal::named("jo@x"), again, bytes(b"b")).await.unwrap();
    assert_eq!((ack.next_offset(), rig.stored("b")), (Some(1), Some(Bytes::from_static(b"b"))));
}

#[tokio::test]
async fn what_the_storage_denies_to_publish_can_be_cancelled() {
    let rig = Rig::new();
    let id = rig.create("/upload/f").await;
    rig.hooks.deny_publish.store(true, Ordering::SeqCst);
    assert_eq!(rig.fragment("/upload/f", id, 0, b"hello", 5).await.status(), 403);
    assert_eq!(rig.end("/upload/f", "Cancel-Session", id).await.status(), 200);
    assert_eq!(rig.uploads.staged(), Vec::<String>::new());
    assert_eq!(rig.stored("f"), None);
}

#[tokio::test]
async fn old_tombstones_are_all_forgotten() {
    let rig = Rig::with(|directory| directory.session_timeout = Duration::from_secs(60));
    let mut ids = Vec::new();
    for _ in 0..600 {
        let id = rig.create("/upload/f").await;
        let _ = rig.end("/upload/f", "Close-Session", id).await;
        ids.push(id);
    }
    rig.clock.advance(Duration::from_secs(61));
    rig.engine.tidy().await.unwrap();
    for id in ids {
        assert_eq!(rig.sessions.load(id).await.unwrap(), None);
    }
}

/// With the last ack, data and row are on stable storage.
#[tokio::test]
async fn the_last_byte_is_durable_also_when_it_came_with_a_broken_body() {
    let rig = Rig::over(MemoryUploads::volatile(PART), |directory| directory.publish = PublishAt::CloseSession);
    let id = rig.create("/upload/f").await;
    let (feed, body) = fed();
    feed.send(Ok(Bytes::from_static(b"hello"))).unwrap();
    feed.send(Err(BodyError::Disconnected)).unwrap();
    let packet = Packet::new("/upload/f", "Fragment").session(id).range(0, 5, 5);
    assert_eq!(rig.send(packet, body).await, None);
    assert_eq!(rig.fragment("/upload/f", id, 0, b"hello", 5).await.next_offset(), Some(5));
    assert_eq!(rig.row(id).await.synced, 5);
}

/// Also where the rules have changed since all of it came, and publishing it was refused.
#[tokio::test]
async fn the_last_ack_comes_again_after_a_change_of_rules_only_once_all_is_durable() {
    let rig = Rig::over(MemoryUploads::volatile(PART), |_| {});
    let id = rig.create("/upload/f").await;
    let first = rig.create("/upload/f").await;
    let _ = rig.fragment("/upload/f", first, 0, b"first", 5).await;
    assert_eq!(rig.fragment("/upload/f", id, 0, b"hello", 5).await.status(), 403);
    assert_eq!(rig.row(id).await.synced, 0);
    let engine = rig.again(|directory| directory.publish = PublishAt::CloseSession, |_| {});
    let caller = Caller { principal: Principal::ANONYMOUS, address: None, secure: false };
    let again = Packet::new("/upload/f", "Fragment").session(id).range(0, 5, 5);
    for _ in 0..2 {
        let ack = engine.handle(&again.head(), caller.clone(), bytes(b"hello")).await.unwrap();
        assert_eq!((ack.status().as_u16(), ack.next_offset()), (200, Some(5)));
        assert_eq!(rig.row(id).await.synced, 5);
    }
}

/// Also where another directory answers for its path by now; how it is published stays the old
/// one's affair.
#[tokio::test]
async fn the_last_ack_is_durable_whichever_directory_answers() {
    let rig = Rig::over(MemoryUploads::volatile(PART), |directory| directory.publish = PublishAt::CloseSession);
    let id = rig.create("/upload/new/f").await;
    let mut old = Directory::new("/upload", "memory", StorageKey::parse("store").unwrap());
    old.publish = PublishAt::CloseSession;
    let new = Directory::new("/upload/new", "memory", StorageKey::parse("new").unwrap());
    let builder = Engine::builder(rig.sessions.clone(), Directories::new(vec![old, new]).unwrap());
    let engine = builder.storage("memory", rig.hooks.clone()).build().unwrap();
    let caller = Caller { principal: Principal::ANONYMOUS, address: None, secure: false };
    let last = Packet::new("/upload/new/f", "Fragment").session(id).range(0, 5, 5);
    let ack = engine.handle(&last.head(), caller.clone(), bytes(b"hello")).await.unwrap();
    assert_eq!((ack.next_offset(), rig.row(id).await.synced), (Some(5), 5));
    let close = Packet::new("/upload/new/f", "Close-Session").session(id);
    assert_eq!(engine.handle(&close.head(), caller, nothing()).await.unwrap().status(), 200);
    assert_eq!(rig.stored("new/f").unwrap(), "hello");
}

/// Looking at bytes to close their session makes none of them trustworthy.
#[tokio::test]
async fn bytes_that_a_power_loss_left_in_doubt_are_in_doubt_after_a_close_too() {
    let rig = Rig::over(MemoryUploads::volatile(PART), |_| {});
    let id = rig.create("/upload/f").await;
    assert_eq!(rig.fragment("/upload/f", id, 0, b"hello", 3).await.next_offset(), Some(3));
    rig.meddle(id, Transition::Regress { to: 3 }).await;
    let directory = Directory::new("/upload", "memory", StorageKey::parse("store").unwrap());
    let builder = Engine::builder(rig.sessions.clone(), Directories::new(vec![directory]).unwrap());
    let engine = builder.storage("memory", Arc::new(rig.uploads.restart())).build().unwrap();
    let caller = Caller { principal: Principal::ANONYMOUS, address: None, secure: false };
    let close = Packet::new("/upload/f", "Close-Session").session(id);
    let ack = engine.handle(&close.head(), caller.clone(), nothing()).await.unwrap();
    assert!(matches!(ack.refusal, Some(bits_core::Refusal::StagedDataVanished)), "{ack:?}");
    let last = Packet::new("/upload/f", "Fragment").session(id).range(3, 5, 5);
    let ack = engine.handle(&last.head(), caller, bytes(b"lo")).await.unwrap();
    assert_eq!((ack.status().as_u16(), ack.next_offset()), (416, Some(0)), "{ack:?}");
}

/// Jobs that cannot be done as things are must not be in the way of others.
#[tokio::test(start_paused = true)]
async fn a_job_whose_storage_is_not_configured_any_more_waits() {
    let rig = Rig::new();
    let id = rig.create("/upload/f").await;
    for transition in [
        Transition::Begin { total: 0, quota: Quota::NONE },
        Transition::Intend { intent: bits_core::PublishIntent("put".to_owned()), total: 0 },
    ] {
        rig.meddle(id, transition).await;
    }
    let elsewhere = Directory::new("/upload", "elsewhere", StorageKey::ROOT);
    let builder = Engine::builder(rig.sessions.clone(), Directories::new(vec![elsewhere]).unwrap());
    let engine = builder.storage("elsewhere", rig.hooks.clone()).build().unwrap();
    engine.tidy().await.unwrap();
    engine.stop().await;
    assert!(rig.row(id).await.retry_at.is_some());
    assert_eq!(rig.sessions.unpublished(None, 9).await.unwrap(), []);
}

#[tokio::test]
async fn all_interrupted_jobs_are_finished_however_many_they_are() {
    let rig = Rig::new();
    for number in 0..600 {
        let id = rig.create(&format!("/upload/{number}")).await;
        rig.meddle(id, Transition::Begin { total: 0, quota: Quota::NONE }).await;
        rig.meddle(id, Transition::Intend { intent: bits_core::PublishIntent("put".to_owned()), total: 0 }).await;
    }
    rig.engine.tidy().await.unwrap();
    rig.engine.stop().await;
    assert_eq!(rig.sessions.unpublished(None, 9).await.unwrap(), []);
    assert!(rig.stored("0").is_some() && rig.stored("599").is_some());
}

/// A directory that came between a session's own and its path has no reply of it.
#[tokio::test]
async fn a_reply_is_named_where_it_is() {
    let rig = Rig::new();
    let id = rig.create("/upload/new/f").await;
    rig.meddle(id, Transition::Begin { total: 0, quota: Quota::NONE }).await;
    rig.meddle(id, Transition::Notify { id: uuid::Uuid::new_v4() }).await;
    rig.meddle(id, Transition::Delivered { reply: Some(Reply::Kept { length: 3 }), copy: false }).await;
    let old = Directory::new("/upload", "memory", StorageKey::parse("store").unwrap());
    let new = Directory::new("/upload/new", "memory", StorageKey::parse("new").unwrap());
    let builder = Engine::builder(rig.sessions.clone(), Directories::new(vec![old, new]).unwrap());
    let engine = builder.storage("memory", rig.hooks.clone()).build().unwrap();
    let caller = Caller { principal: Principal::ANONYMOUS, address: None, secure: false };
    let packet = Packet::new("/upload/new/f", "Fragment").session(id).range(0, 0, 0);
    let ack = engine.handle(&packet.head(), caller, nothing()).await.unwrap();
    let response = ack.into_response();
    let url = response.headers()["BITS-Reply-URL"].to_str().unwrap();
    assert!(url.starts_with("../BITS-Sessions/Replies/"), "{url}");
}

#[tokio::test]
async fn what_cannot_be_deleted_does_not_keep_the_rest() {
    let rig = Rig::new();
    let end = Transition::End(Ending::Cancelled);
    for _ in 0..300 {
        let id = rig.create("/upload/f").await;
        let _ = rig.fragment("/upload/f", id, 0, b"hello world", 5).await;
        rig.meddle(id, end.clone()).await;
    }
    rig.clock.advance(Duration::from_secs(1));
    let elsewhere = Directory::new("/upload", "elsewhere", StorageKey::ROOT);
    let builder = Engine::builder(rig.sessions.clone(), Directories::new(vec![elsewhere]).unwrap());
    let uploads = Arc::new(MemoryUploads::new(PART));
    let engine = builder.storage("elsewhere", uploads.clone()).build().unwrap();
    let caller = Caller { principal: Principal::ANONYMOUS, address: None, secure: false };
    let create = engine.handle(&Packet::new("/upload/f", "Create-Session").head(), caller.clone(), nothing()).await;
    let id = create.unwrap().session.unwrap();
    let first = Packet::new("/upload/f", "Fragment").session(id).range(0, 5, 11);
    assert_eq!(engine.handle(&first.head(), caller, bytes(b"hello")).await.unwrap().status(), 200);
    rig.meddle(id, end).await;
    engine.tidy().await.unwrap();
    assert_eq!(uploads.staged(), Vec::<String>::new());
    assert_eq!(rig.sessions.unclean(None, 999).await.unwrap().len(), 300);
}

/// Windows would wait ten minutes after a 503.
#[tokio::test]
async fn a_server_that_has_stopped_cuts_fragments_off_without_an_answer() {
    let rig = Rig::new();
    let id = rig.create("/upload/f").await;
    rig.engine.stop().await;
    let packet = Packet::new("/upload/f", "Fragment").session(id).range(0, 5, 5);
    assert_eq!(rig.send(packet, bytes(b"hello")).await, None);
}

#[tokio::test(start_paused = true)]
async fn stopping_waits_for_no_body_that_is_dropped() {
    let rig = Arc::new(Rig::new());
    let id = rig.create("/upload/f").await;
    let (feed, request) = under_way(&rig, id, b"x", (5, 11, 11)).await;
    let start = tokio::time::Instant::now();
    rig.engine.stop().await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(request.await.unwrap().unwrap().status(), 416);
    drop(feed);
}

#[tokio::test]
async fn a_fragment_over_a_small_limit_is_read_to_its_end() {
    let rig = Rig::with(|directory| directory.maximum_fragment_size = 10);
    let id = rig.create("/upload/f").await;
    let read = Arc::new(AtomicUsize::new(0));
    let counter = read.clone();
    let chunks = stream::iter(0..10).map(move |_| {
        counter.fetch_add(10, Ordering::SeqCst);
        Ok(Bytes::from_static(b"0123456789"))
    });
    let packet = Packet::new("/upload/f", "Fragment").session(id).range(0, 100, 100);
    assert_eq!(rig.send(packet, Body::new(chunks)).await.unwrap().status(), 413);
    assert_eq!(read.load(Ordering::SeqCst), 100);
}

#[tokio::test]
async fn what_is_certain_of_a_doubtful_write_is_kept() {
    let rig = Rig::new();
    let whole = content(100);
    let id = rig.create("/upload/f").await;
    let _ = rig.fragment("/upload/f", id, 0, &whole, 16).await;
    rig.uploads.fail_next_write(40, StoreErrorKind::Doubtful { good: 32 });
    let ack = rig.fragment("/upload/f", id, 16, &whole, 80).await;
    assert_eq!((ack.status().as_u16(), ack.next_offset()), (200, Some(32)), "{ack:?}");
    let _ = rig.fragment("/upload/f", id, 32, &whole, 100).await;
    assert_eq!(rig.stored("f").unwrap(), whole);
}

/// The row of what comes in one small fragment is written with its bytes, and tells how far they came
/// whatever becomes of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_upload_is_committed_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (rig, events) = Rig::on_disk(folder.path(), |_| {});
    let id = rig.create("/upload/f").await;
    let (feed, request) = under_way(&rig, id, b"hel", (0, 5, 5)).await;
    let row = rig.row(id).await;
    assert_eq!((row.total, row.fragment_seen), (None, false), "nothing is committed before the last byte");
    feed.send(Ok(Bytes::from_static(b"lo"))).unwrap();
    drop(feed);
    assert_eq!(request.await.unwrap().unwrap().next_offset(), Some(5));
    let row = rig.row(id).await;
    assert_eq!((row.state, row.total, row.received, row.synced), (State::WaitForClose, Some(5), 5, 5));
    assert_eq!((row.incarnation.as_str(), row.fragment_seen), ("", true), "it went through no other state");
    let expected = [SessionEventKind::Created, SessionEventKind::Advanced { from: 0 }, SessionEventKind::Published];
    assert_eq!(*events.lock().unwrap(), expected);
    assert_eq!(std::fs::read(folder.path().join("f")).unwrap(), b"hello");
    assert_eq!(rig.fragment("/upload/f", id, 0, b"hello", 5).await.next_offset(), Some(5), "the ack comes again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_upload_that_breaks_off_keeps_what_came() {
    let folder = tempfile::tempdir().unwrap();
    let (rig, _) = Rig::on_disk(folder.path(), |_| {});
    for came in [&b""[..], b"hel"] {
        let id = rig.create("/upload/f").await;
        let (feed, request) = under_way(&rig, id, came, (0, 5, 5)).await;
        feed.send(Err(BodyError::Disconnected)).unwrap();
        assert_eq!(request.await.unwrap(), None);
        let row = rig.row(id).await;
        assert_eq!((row.total, row.received, row.fragment_seen), (Some(5), came.len() as u64, true));
        assert_eq!(rig.fragment("/upload/f", id, came.len(), b"hello", 5).await.next_offset(), Some(5));
        let row = rig.row(id).await;
        assert_eq!((row.epoch, row.state), (1, State::WaitForClose));
        std::fs::remove_file(folder.path().join("f")).unwrap();
    }
    let id = rig.create("/upload/f").await;
    let short = Packet::new("/upload/f", "Fragment").session(id).range(0, 5, 5);
    assert_eq!(rig.send(short, bytes(b"hell")).await.unwrap().status(), 400);
    let row = rig.row(id).await;
    assert_eq!((row.total, row.received, row.fragment_seen), (Some(5), 0, true), "what is malformed is not kept");
}

/// What is in the way is found out step by step, and the bytes need not come again.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_upload_that_cannot_be_published_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (rig, _) = Rig::on_disk(folder.path(), |directory| directory.allow_overwrites = false);
    let destination = folder.path().join("f");
    let id = rig.create("/upload/f").await;
    std::fs::write(&destination, "theirs").unwrap();
    let ack = rig.fragment("/upload/f", id, 0, b"hello", 5).await;
    assert!(matches!(ack.refusal, Some(bits_core::Refusal::DestinationExists { .. })), "{ack:?}");
    let row = rig.row(id).await;
    assert_eq!((row.state, row.total, row.received), (State::ReceiveFragments, Some(5), 5));
    assert_eq!(std::fs::read(&destination).unwrap(), b"theirs");
    std::fs::remove_file(&destination).unwrap();
    let last = Packet::new("/upload/f", "Fragment").session(id).range(4, 5, 5);
    assert_eq!(rig.send(last, bytes(b"o")).await.unwrap().next_offset(), Some(5));
    assert_eq!(std::fs::read(&destination).unwrap(), b"hello");
}

/// One that was cancelled while its bytes came leaves nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_upload_whose_session_is_over_is_not_published() {
    let folder = tempfile::tempdir().unwrap();
    let (rig, _) = Rig::on_disk(folder.path(), |_| {});
    let id = rig.create("/upload/f").await;
    let (feed, request) = under_way(&rig, id, b"hel", (0, 5, 5)).await;
    rig.meddle(id, Transition::End(Ending::Cancelled)).await;
    feed.send(Ok(Bytes::from_static(b"lo"))).unwrap();
    drop(feed);
    let ack = request.await.unwrap().unwrap();
    assert_eq!(code(&ack), Some(Hresult::BG_E_SESSION_NOT_FOUND), "{ack:?}");
    let staged = folder.path().join("BITS-Sessions").read_dir().map(Iterator::count).unwrap_or(0);
    assert_eq!((folder.path().join("f").exists(), staged), (false, 0));
}

/// Room within a quota is taken before any byte, and what is large tells its size at once.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_large_or_counted_begins_with_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let large = content((64 << 10) + 1);
    for (quota, whole) in [(None, &large[..]), (Some(10), b"hello")] {
        let (rig, _) = Rig::on_disk(folder.path(), |directory| directory.quota.directory = quota);
        let id = rig.create("/upload/f").await;
        let (feed, request) = under_way(&rig, id, &whole[..3], (0, whole.len(), whole.len())).await;
        assert_eq!(rig.row(id).await.total, Some(whole.len() as u64));
        feed.send(Ok(Bytes::copy_from_slice(&whole[3..]))).unwrap();
        drop(feed);
        assert_eq!(request.await.unwrap().unwrap().next_offset(), Some(whole.len() as u64));
        std::fs::remove_file(folder.path().join("f")).unwrap();
    }
}

/// A server that dies when the bytes of a small upload are there leaves a row that no Fragment named.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_upload_of_which_only_bytes_are_left_is_not_published_empty() {
    let folder = tempfile::tempdir().unwrap();
    let (rig, _) = Rig::on_disk(folder.path(), |directory| directory.allow_overwrites = true);
    std::fs::write(folder.path().join("f"), "older").unwrap();
    let id = rig.create("/upload/f").await;
    let staged = folder.path().join("BITS-Sessions");
    std::fs::create_dir_all(&staged).unwrap();
    std::fs::write(staged.join(id.uuid().to_string()), "hello").unwrap();
    let close = Packet::new("/upload/f", "Close-Session").session(id).overridden();
    assert_eq!(rig.send(close, nothing()).await.unwrap().status(), 200);
    assert_eq!(std::fs::read(folder.path().join("f")).unwrap(), b"older");
    assert_eq!(staged.read_dir().map(Iterator::count).unwrap_or(0), 0);
}

/// No row ever names them: a process that died then would believe its row.
#[tokio::test(flavor = "multi_thread")]
async fn last_bytes_that_are_lost_before_they_are_durable_are_never_committed() {
    let folder = tempfile::tempdir().unwrap();
    let (rig, events) = Rig::on_disk(folder.path(), |_| {});
    for (first, held) in [(0, 0), (3, 0)] {
        let path = format!("/upload/{first}");
        let id = rig.create(&path).await;
        if first > 0 {
            assert_eq!(rig.fragment(&path, id, 0, b"hello", first).await.next_offset(), Some(3));
        }
        rig.hooks.doubt_prepare.store(true, Ordering::SeqCst);
        events.lock().unwrap().clear();
        assert_eq!(rig.fragment(&path, id, first, b"hello", 5).await.next_offset(), Some(held));
        assert!(!events.lock().unwrap().iter().any(|event| matches!(event, SessionEventKind::Advanced { .. })));
        let row = rig.row(id).await;
        assert_eq!((row.total, row.received, row.fragment_seen), (Some(5), held, true));
        rig.hooks.doubt_prepare.store(false, Ordering::SeqCst);
        assert_eq!(rig.fragment(&path, id, 0, b"hello", 5).await.next_offset(), Some(5));
        assert_eq!(std::fs::read(folder.path().join(first.to_string())).unwrap(), b"hello");
    }
}
