//! Uploads whose server dies or freezes, or whose store fails, at any call of the store, or whose machine
//! loses what was not synced between two packets: nothing but whole files is ever published, what was acked
//! as complete stands, only what was lost is asked for again, and a client that goes on comes to an end.

mod application;
mod disk;
mod fuse;
mod objects;
mod place;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use application::{Application, Teller};
use bits_core::{
    Ack, Directory, Form, Found, Notification, NotificationMode, PublishAt, Quota, Session, SessionId, SessionStore,
    State, StorageKey, StoreErrorKind, conformance::MemorySessions,
};
use bits_engine::{Body, Caller, Directories, Engine};
use bytes::Bytes;
use fuse::{Fate, Fuse, Point};
use futures_util::stream;
use place::{Kind, Loss, Place};
use proptest::{prelude::*, sample::Index};

use crate::{BodyError, Packet, Principal, nothing};

/// Points of the longest packet: two for each call.
const POINTS: usize = 48;

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
    /// What happens amid the next packet, if it comes next.
    Fate(usize, Fate),
    Restart(Loss),
    /// Whether the server application takes anything from now on.
    ApplicationFails(bool),
    /// What dead processes sent last arrives.
    Late,
    /// Processes were not dead, only frozen. Of those on one disk only one is ever alive.
    Thaw,
}

#[derive(Clone, Debug)]
struct Case {
    kind: Kind,
    size: usize,
    /// Published by Close-Session.
    close: bool,
    /// Something stands there.
    older: bool,
    quota: bool,
    /// A server application hears of it, and has it published or not.
    told: Option<bool>,
}

struct World {
    case: Case,
    place: Place,
    sessions: Arc<MemorySessions>,
    engine: Engine,
    process: Arc<Fuse>,
    application: Arc<Application>,
    /// Those before it, which may not be dead.
    frozen: Vec<(Engine, Arc<Fuse>)>,
    id: SessionId,
    number: u8,
    content: Vec<u8>,
    /// What may be uploaded, of all uploads.
    all: Vec<Vec<u8>>,
    /// What the client was told.
    acked: u64,
    /// What stood there before this upload.
    before: Option<Vec<u8>>,
    /// What was given up: its last request to an object store may arrive nevertheless.
    abandoned: Vec<Vec<u8>>,
    complete: bool,
    /// A Fragment was sent.
    named: bool,
    /// A packet that ends the session was sent.
    ends: bool,
}

impl World {
    async fn new(case: Case) -> Self {
        let place = Place::new(case.kind);
        if case.older {
            place.write("f", b"older").await;
        }
        let sessions = Arc::<MemorySessions>::default();
        let application = Arc::new(Application { copies: case.told == Some(true), ..Application::default() });
        let (engine, process) = start(&case, &place, &sessions, &application).await;
        let mut world = Self {
            case,
            place,
            sessions,
            engine,
            process,
            application,
            frozen: Vec::new(),
            id: SessionId::new(uuid::Uuid::nil()),
            number: 0,
            content: Vec::new(),
            all: vec![Vec::new()],
            acked: 0,
            before: None,
            abandoned: Vec::new(),
            complete: false,
            named: false,
            ends: false,
        };
        world.create().await;
        world
    }

    /// Begins another upload to the same name.
    async fn create(&mut self) {
        self.process.disarm();
        let ack = self.send(Packet::new("/upload/f", "Create-Session"), nothing()).await.expect("it does not die");
        assert_eq!(ack.status(), 200, "{ack:?}");
        self.id = ack.session.unwrap();
        if self.number > 0 && !self.complete && matches!(self.case.kind, Kind::Objects { .. }) {
            self.abandoned.push(self.content.clone());
        }
        self.number += 1;
        self.content = (0..self.case.size).map(|at| (at * 7 + usize::from(self.number)) as u8 | 1).collect();
        self.all.push(self.content.clone());
        (self.acked, self.complete, self.named, self.ends) = (0, false, false, false);
        self.before = self.place.read("f").await;
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
            Op::Fate(point, fate) => self.process.arm(Point(*point), *fate),
            Op::Restart(loss) => self.restart(*loss).await,
            Op::ApplicationFails(fails) => self.application.fails.store(*fails, Ordering::SeqCst),
            Op::Thaw if matches!(self.case.kind, Kind::Disk) => {}
            Op::Thaw => self.thaw().await,
            Op::Late => self.place.late.arrive().await,
        }
        if !matches!(op, Op::Fate(..)) {
            self.process.disarm();
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
        // A packet that was not answered may have ended it, late.
        if self.ends && self.row().await.is_none() {
            return self.create().await;
        }
        self.named = true;
        let whole = self.content.len();
        let packet = Packet::new("/upload/f", "Fragment").session(self.id).range(start, start + length, whole);
        let sent = &self.content[start..start + came.unwrap_or(length)];
        let mut chunks: Vec<_> = sent.chunks(700).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        chunks.extend(came.map(|_| Err(BodyError::Disconnected)));
        let is_calm = came.is_none() && !self.process.is_armed() && !self.application.fails.load(Ordering::SeqCst);
        let ack = self.send(packet, Body::new(stream::iter(chunks))).await;
        let Some(next) = ack.as_ref().and_then(Ack::next_offset) else {
            return assert!(!is_calm, "it is not told where to go on: {ack:?}, {:?}", self.row().await);
        };
        assert!(next >= self.acked, "byte {next} is asked for again after {} was acked", self.acked);
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
        self.ends = true;
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
        // It may have died after its last answer.
        if self.process.is_dead() {
            self.restart(Loss::Nothing).await;
        }
        let caller = Caller { principal: Principal::ANONYMOUS, address: None, secure: false };
        let head = packet.head();
        let answer = tokio::select! {
            answer = self.engine.handle(&head, caller, body) => Some(answer),
            () = self.process.died() => None,
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
        self.process.die();
        if let Some(row) = self.row().await.filter(|row| row.state == State::ReceiveFragments) {
            self.acked = self.acked.min(self.place.lose(&row, loss));
        }
        let (engine, process) = start(&self.case, &self.place, &self.sessions, &self.application).await;
        let old = (std::mem::replace(&mut self.engine, engine), std::mem::replace(&mut self.process, process));
        self.frozen.push(old);
    }

    /// Those that were taken for dead go on, and learn that they were.
    async fn thaw(&mut self) {
        for (engine, process) in self.frozen.drain(..) {
            process.disarm();
            process.thaw();
            engine.stop().await;
        }
    }

    async fn check(&mut self) {
        let standing = self.place.read("f").await;
        self.check_application();
        if self.complete {
            assert_eq!(standing, self.expected(), "what was acked does not stand there");
            return;
        }
        let is_new = self.case.told != Some(false) && standing.as_deref() == Some(&self.content[..]);
        let is_late = standing.as_ref().is_some_and(|standing| self.abandoned.contains(standing));
        assert!(
            is_new || is_late || standing == self.before,
            "something else stands there: {:?}",
            standing.map(|all| all.len())
        );
        let Some(row) = self.row().await else { return };
        assert!(row.received >= self.acked, "{} were acked: {row:?}", self.acked);
    }

    /// It gets whole uploads, and all that are complete.
    fn check_application(&self) {
        let took = self.application.took.lock().unwrap();
        for content in took.iter() {
            assert!(self.all.contains(content), "the application was told of something else: {}", content.len());
        }
        assert!(!self.complete || self.case.told.is_none() || took.contains(&self.content), "it was not told");
    }

    /// What is to stand there once the upload is complete.
    fn expected(&self) -> Option<Vec<u8>> {
        if self.case.told == Some(false) { self.before.clone() } else { Some(self.content.clone()) }
    }

    /// A client that goes on, and a server that lives.
    async fn finish(&mut self) {
        self.process.disarm();
        self.application.fails.store(false, Ordering::SeqCst);
        // What comes late of the first must not take the place of the second.
        self.upload().await;
        self.upload().await;
        self.place.late.arrive().await;
        self.step(&Op::Thaw).await;
        // What is left is for the next process to find.
        self.engine.stop().await;
        self.restart(Loss::Nothing).await;
        self.engine.tidy().await.unwrap();
        self.engine.delete_orphans().await.unwrap();
        assert_eq!(self.place.staged().await, Vec::<String>::new());
    }

    /// The rest of an upload, and the beginning of the next.
    async fn upload(&mut self) {
        for _ in 0..20 {
            self.rest().await;
            self.check().await;
            let whole = self.row().await.is_some_and(|row| row.total.is_some() && row.is_received());
            if whole && (self.complete || self.case.close) {
                break;
            }
        }
        let (number, expected) = (self.number, self.expected());
        self.close().await;
        assert!(self.number > number, "it does not end: {:?}", self.row().await);
        assert_eq!(self.place.read("f").await, expected);
    }

    async fn row(&self) -> Option<Session> {
        match self.sessions.load(self.id).await.unwrap() {
            Some(Found::Live(session)) => Some(session),
            _ => None,
        }
    }
}

/// A process, and what ends it.
async fn start(
    case: &Case,
    place: &Place,
    sessions: &Arc<MemorySessions>,
    application: &Arc<Application>,
) -> (Engine, Arc<Fuse>) {
    let fuse = Arc::<Fuse>::default();
    let (mode, timeout) = (NotificationMode::ByValue, Duration::from_secs(60));
    let notification = Notification { mode, url: "http://app/".to_owned(), timeout, limit: None };
    let directory = Directory {
        publish: if case.close { PublishAt::CloseSession } else { PublishAt::LastFragment },
        allow_overwrites: true,
        notification: case.told.map(|_| notification),
        quota: Quota { directory: case.quota.then_some(u64::MAX), per_user: None },
        ..Directory::new("/upload", "store", StorageKey::ROOT)
    };
    let builder = Engine::builder(sessions.clone(), Directories::new(vec![directory]).unwrap());
    let teller = Teller { application: application.clone(), process: fuse.clone() };
    let builder = builder.storage("store", place.store(fuse.clone()).await).notifier(Arc::new(teller));
    (builder.build().unwrap(), fuse)
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
    let fate = prop_oneof![2 => Just(Fate::Dies), 2 => Just(Fate::DiesLate), 1 => kind.prop_map(Fate::Fails)];
    let loss = prop_oneof![Just(Loss::Nothing), Just(Loss::Kept), Just(Loss::Zeros), Just(Loss::Cut)];
    prop_oneof![
        8 => fragment,
        4 => Just(Op::Rest),
        2 => Just(Op::Close),
        1 => Just(Op::Cancel),
        8 => (prop_oneof![2 => 0..POINTS / 6, 1 => 0..POINTS], fate).prop_map(|(point, fate)| Op::Fate(point, fate)),
        4 => loss.prop_map(Op::Restart),
        1 => any::<bool>().prop_map(Op::ApplicationFails),
        1 => Just(Op::Late),
        2 => Just(Op::Thaw),
    ]
}

fn any_case(kinds: &'static [Kind]) -> impl Strategy<Value = Case> {
    let of = |kind: Kind| (Just(kind), prop::sample::select(kind.sizes()));
    let told = prop_oneof![2 => Just(None), 1 => any::<bool>().prop_map(Some)];
    (prop::sample::select(kinds).prop_flat_map(of), any::<bool>(), any::<bool>(), any::<bool>(), told)
        .prop_map(|((kind, size), close, older, quota, told)| Case { kind, size, close, older, quota, told })
}

fn live(case: Case, ops: &[Op]) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let lives = async {
        let mut world = World::new(case).await;
        for op in ops {
            world.step(op).await;
        }
        world.finish().await;
    };
    let ended = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), lives).await });
    runtime.shutdown_background();
    assert!(ended.is_ok(), "it hangs");
}

proptest! {
    // What it looks for is rare, and a case that hangs takes a minute.
    #![proptest_config(ProptestConfig { cases: 768, max_shrink_time: 120_000, ..ProptestConfig::default() })]

    #[test]
    fn a_client_that_goes_on_loses_nothing_on_a_disk(
        case in any_case(&[Kind::Disk]),
        ops in prop::collection::vec(any_op(), 1..12),
    ) {
        live(case, &ops);
    }

    #[test]
    fn a_client_that_goes_on_loses_nothing_in_an_object_store(
        case in any_case(&[Kind::Objects { at_destination: true }, Kind::Objects { at_destination: false }]),
        ops in prop::collection::vec(any_op(), 1..12),
    ) {
        live(case, &ops);
    }
}
