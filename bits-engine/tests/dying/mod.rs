//! Uploads to a disk whose process dies, or whose store fails, at any call of the store, or which loses
//! power: no byte that was acked for good is lost, nothing but whole files is ever published, and a client
//! that goes on comes to an end.

mod mortal;

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use bits_core::{
    Ack, Directory, Form, Found, PublishAt, Quota, Session, SessionId, SessionStore, State, StorageKey, StoreErrorKind,
    conformance::{ManualClock, MemorySessions},
};
use bits_engine::{Body, Caller, Directories, Engine};
use bits_store_fs::{LocalStore, Options, SyncAt};
use bytes::Bytes;
use futures_util::stream;
use mortal::{Fate, Mortal, Point};
use proptest::{prelude::*, sample::Index};

use crate::{BodyError, Packet, Principal, nothing};

/// Both sides of what is committed with its bytes.
const SIZES: [usize; 5] = [0, 1, 100, 64 << 10, (64 << 10) + 1];
/// More calls than one packet makes, before and after each of them.
const POINTS: usize = 24;

#[derive(Clone, Debug)]
enum Op {
    /// The next bytes, from a little before them, of which so many come before the connection breaks.
    Fragment {
        back: usize,
        length: Index,
        came: Option<Index>,
    },
    Rest,
    Close,
    Cancel,
    /// What happens amid the next packet.
    Fate(usize, Fate),
    Restart(Loss),
}

/// What becomes of bytes that are not durable.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// The process died, not the machine.
    Nothing,
    Kept,
    Zeros,
    Cut,
}

#[derive(Clone, Debug)]
struct Case {
    close: bool,
    older: bool,
    quota: bool,
    sync_each: bool,
    size: usize,
}

struct World {
    case: Case,
    folder: tempfile::TempDir,
    clock: ManualClock,
    sessions: Arc<MemorySessions>,
    engine: Engine,
    store: Arc<Mortal>,
    starts: u32,
    id: SessionId,
    number: u8,
    content: Vec<u8>,
    /// What the client was told.
    acked: u64,
    /// What stood there before this upload.
    before: Option<Vec<u8>>,
    complete: bool,
    /// A Fragment was sent.
    named: bool,
}

impl World {
    async fn new(case: Case) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let before = case.older.then(|| b"older".to_vec());
        if let Some(before) = &before {
            fs::write(folder.path().join("f"), before).unwrap();
        }
        let clock = ManualClock::default();
        let sessions = Arc::new(MemorySessions::new(clock.clone()));
        let (engine, store) = start(&case, folder.path().into(), &sessions, "boot 0");
        let mut world = Self {
            case,
            folder,
            clock,
            sessions,
            engine,
            store,
            starts: 0,
            id: SessionId::new(uuid::Uuid::nil()),
            number: 0,
            content: Vec::new(),
            acked: 0,
            before,
            complete: false,
            named: false,
        };
        world.create().await;
        world
    }

    /// Begins another upload to the same name.
    async fn create(&mut self) {
        self.store.disarm();
        let ack = self.send(Packet::new("/upload/f", "Create-Session"), nothing()).await.expect("it does not die");
        assert_eq!(ack.status(), 200, "{ack:?}");
        self.id = ack.session.unwrap();
        self.number += 1;
        self.content = (0..self.case.size).map(|at| (at * 7 + usize::from(self.number)) as u8 | 1).collect();
        (self.acked, self.complete, self.named) = (0, false, false);
        self.before = self.standing();
    }

    async fn step(&mut self, op: &Op) {
        match op {
            Op::Fragment { back, length, came } => {
                let start = usize::try_from(self.acked).unwrap().saturating_sub(*back);
                let left = self.content.len() - start;
                let length = if left == 0 { 0 } else { 1 + length.index(left) };
                self.fragment(start, length, came.map(|came| came.index(length.max(1)))).await;
            }
            Op::Rest => self.rest().await,
            Op::Close => self.close().await,
            Op::Cancel => self.end("Cancel-Session", Form::Native).await,
            Op::Fate(point, fate) => self.store.arm(Point(*point), *fate),
            Op::Restart(loss) => self.restart(*loss).await,
        }
        if !matches!(op, Op::Fate(..)) {
            self.store.disarm();
            self.check().await;
        }
    }

    async fn rest(&mut self) {
        let start = usize::try_from(self.acked).unwrap();
        self.fragment(start, self.content.len() - start, None).await;
    }

    async fn fragment(&mut self, start: usize, length: usize, came: Option<usize>) {
        // There is no such range.
        if length == 0 && !self.content.is_empty() {
            return;
        }
        self.named = true;
        let whole = self.content.len();
        let packet = Packet::new("/upload/f", "Fragment").session(self.id).range(start, start + length, whole);
        let sent = &self.content[start..start + came.unwrap_or(length)];
        let mut chunks: Vec<_> = sent.chunks(30_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        chunks.extend(came.map(|_| Err(BodyError::Disconnected)));
        let is_calm = came.is_none() && !self.store.is_armed();
        let ack = self.send(packet, Body::new(stream::iter(chunks))).await;
        let Some(next) = ack.as_ref().and_then(Ack::next_offset) else {
            return assert!(!is_calm, "it is not told where to go on: {ack:?}, {:?}", self.row().await);
        };
        self.acked = next;
        // Where Close-Session publishes, only that completes it.
        self.complete |= ack.is_some_and(|ack| ack.refusal.is_none()) && next == whole as u64 && !self.case.close;
    }

    async fn close(&mut self) {
        let form = if self.named { Form::Native } else { Form::Override };
        self.end("Close-Session", form).await;
    }

    async fn end(&mut self, kind: &'static str, form: Form) {
        let whole = self.row().await.is_some_and(|row| row.total.is_some() && row.is_received());
        let mut packet = Packet::new("/upload/f", kind).session(self.id);
        if form == Form::Override {
            packet = packet.overridden();
            // It publishes what no Fragment named as an empty file.
            self.content.clear();
        }
        let answer = self.send(packet, nothing()).await;
        let is_over = answer.is_some_and(|ack| ack.refusal.is_none()) || self.row().await.is_none();
        if is_over {
            self.complete |= kind == "Close-Session" && (whole || form == Form::Override);
            self.check().await;
            self.create().await;
        }
    }

    /// Sends a packet; none where no answer came, from a process that lives or from one that died.
    async fn send(&mut self, packet: Packet<'_>, body: Body) -> Option<Ack> {
        let caller = Caller { principal: Principal::ANONYMOUS, address: None, secure: false };
        let (engine, store, head) = (self.engine.clone(), self.store.clone(), packet.head());
        let answer = tokio::select! {
            answer = engine.handle(&head, caller, body) => Some(answer),
            () = store.died() => None,
        };
        match answer {
            Some(answer) => answer,
            None => {
                self.restart(Loss::Nothing).await;
                None
            }
        }
    }

    /// The next process over what the last one left.
    async fn restart(&mut self, loss: Loss) {
        self.store.die();
        if !matches!(loss, Loss::Nothing) {
            self.starts += 1;
            self.lose_power(loss).await;
        }
        let incarnation = format!("boot {}", self.starts);
        (self.engine, self.store) = start(&self.case, self.folder.path().into(), &self.sessions, &incarnation);
    }

    async fn lose_power(&mut self, loss: Loss) {
        let Some(row) = self.row().await else { return };
        let Ok(mut staged) = fs::read(self.staged()) else { return };
        let synced = usize::try_from(row.synced).unwrap();
        if row.state == State::ReceiveFragments && staged.len() > synced {
            match loss {
                Loss::Nothing | Loss::Kept => {}
                Loss::Zeros => staged[synced..].fill(0),
                Loss::Cut => staged.truncate(synced),
            }
            fs::write(self.staged(), staged).unwrap();
            self.acked = self.acked.min(row.synced);
        }
    }

    async fn check(&mut self) {
        let standing = self.standing();
        if self.complete {
            assert_eq!(standing.as_deref(), Some(&self.content[..]), "what was acked does not stand there");
            return;
        }
        let is_new = standing.as_deref() == Some(&self.content[..]);
        assert!(is_new || standing == self.before, "something else stands there: {:?}", standing.map(|all| all.len()));
        let Some(row) = self.row().await else { return };
        if row.state == State::ReceiveFragments && row.synced > 0 {
            let staged = fs::read(self.staged()).unwrap();
            let synced = usize::try_from(row.synced).unwrap();
            assert_eq!(staged[..synced], self.content[..synced], "{row:?}");
        }
        assert!(row.received >= self.acked, "{} were acked: {row:?}", self.acked);
    }

    /// A client that goes on, and a server that lives.
    async fn finish(&mut self) {
        self.store.disarm();
        for _ in 0..20 {
            self.rest().await;
            self.check().await;
            let whole = self.row().await.is_some_and(|row| row.total.is_some() && row.is_received());
            if whole && (self.complete || self.case.close) {
                break;
            }
        }
        let (number, content) = (self.number, self.content.clone());
        self.close().await;
        assert!(self.number > number, "it does not end: {:?}", self.row().await);
        assert_eq!(self.standing(), Some(content));
        self.clock.advance(Duration::from_secs(365 * 24 * 3600));
        self.engine.tidy().await.unwrap();
        let staged = fs::read_dir(self.folder.path().join("BITS-Sessions")).map_or(0, Iterator::count);
        assert_eq!(staged, 0, "something is left");
    }

    fn staged(&self) -> PathBuf {
        self.folder.path().join("BITS-Sessions").join(self.id.uuid().to_string())
    }

    fn standing(&self) -> Option<Vec<u8>> {
        fs::read(self.folder.path().join("f")).ok()
    }

    async fn row(&self) -> Option<Session> {
        match self.sessions.load(self.id).await.unwrap() {
            Some(Found::Live(session)) => Some(session),
            _ => None,
        }
    }
}

fn start(case: &Case, root: PathBuf, sessions: &Arc<MemorySessions>, incarnation: &str) -> (Engine, Arc<Mortal>) {
    let sync = if case.sync_each { SyncAt::Fragment } else { SyncAt::Checkpoint };
    let options = Options { reserve_free: 0, sync, incarnation: Some(incarnation.to_owned()), ..Options::default() };
    let store = Arc::new(Mortal::new(LocalStore::open(&root, options).unwrap()));
    let directory = Directory {
        publish: if case.close { PublishAt::CloseSession } else { PublishAt::LastFragment },
        allow_overwrites: true,
        quota: Quota { directory: case.quota.then_some(u64::MAX), per_user: None },
        ..Directory::new("/upload", "disk", StorageKey::ROOT)
    };
    let directories = Directories::new(vec![directory]).unwrap();
    let engine = Engine::builder(sessions.clone(), directories).storage("disk", store.clone()).build().unwrap();
    (engine, store)
}

fn any_op() -> impl Strategy<Value = Op> {
    let fragment =
        (prop_oneof![4 => Just(0), 1 => 0..50_usize], any::<Index>(), prop::option::weighted(0.2, any::<Index>()))
            .prop_map(|(back, length, came)| Op::Fragment { back, length, came });
    let kind = prop_oneof![
        3 => Just(StoreErrorKind::Unavailable),
        1 => Just(StoreErrorKind::Full),
        1 => Just(StoreErrorKind::Other),
    ];
    let fate = prop_oneof![2 => Just(Fate::Dies), 1 => kind.prop_map(Fate::Fails)];
    let loss = prop_oneof![Just(Loss::Nothing), Just(Loss::Kept), Just(Loss::Zeros), Just(Loss::Cut)];
    prop_oneof![
        8 => fragment,
        4 => Just(Op::Rest),
        2 => Just(Op::Close),
        1 => Just(Op::Cancel),
        8 => (0..POINTS, fate).prop_map(|(point, fate)| Op::Fate(point, fate)),
        4 => loss.prop_map(Op::Restart),
    ]
}

fn any_case() -> impl Strategy<Value = Case> {
    (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), prop::sample::select(&SIZES[..]))
        .prop_map(|(close, older, quota, sync_each, size)| Case { close, older, quota, sync_each, size })
}

proptest! {
    #[test]
    fn a_client_that_goes_on_loses_nothing(case in any_case(), ops in prop::collection::vec(any_op(), 1..12)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let lives = async {
            let mut world = World::new(case).await;
            for op in &ops {
                world.step(op).await;
            }
            world.finish().await;
        };
        let ended = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), lives).await });
        runtime.shutdown_background();
        prop_assert!(ended.is_ok(), "it hangs");
    }
}
