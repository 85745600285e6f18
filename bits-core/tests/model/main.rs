//! The state machine and the in-memory stores against an ideal server: any order of create,
//! fragments with any ranges, close, cancel, expiry, regress, lost acks, bytes lost before or amid publishing,
//! power losses, writers with stale rows, and server applications that take, refuse, fail or are told again.
#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod ideal;
mod server;

use std::time::Duration;

use bits_core::{
    Commit, ContentRange, Directory, Ending, Form, Found, Notification, NotificationMode, PublishAt, Quota, Refusal,
    Session, SessionId, SessionStore, Source, State, StorageKey, StoreErrorKind, Timestamp, Transition, Upload,
    UploadStore,
    conformance::{ManualClock, MemorySessions, MemoryUploads, PublishFault, Snapshot},
};
use ideal::{Fault, Ideal};
use proptest::{prelude::*, sample::Index};
use server::{Answer, Application, Server, TIMEOUT, ready};

/// So small that a few fragments fill several parts.
const PART: u64 = 8;
const SIZES: [u64; 2] = [29, 8];

#[derive(Clone, Debug)]
enum Op {
    Create,
    Fragment(Fragment),
    Close(Form),
    Cancel,
    /// The ack of the last packet was lost: it comes again.
    Repeat,
    Regress(Index),
    /// Somebody loads the row, to act on it later.
    Remember,
    /// They write and commit.
    StaleWrite(usize),
    /// They change it.
    StaleChange(Change),
    /// A power loss of the machine that holds the bytes.
    Restart,
    /// Bytes that were durable are gone.
    Lose(Index),
    FailWrite(usize, StoreErrorKind),
    FailPublish(Fault),
    /// A piece vanishes while its upload is being published.
    LoseAmid(Index),
    /// What the application does from now on.
    Application(Application),
    Sweep(u64),
}

#[derive(Clone, Debug)]
struct Fragment {
    start: Start,
    len: u64,
    /// Says another size than the file has.
    lies: bool,
    /// So many bytes come before the connection breaks.
    came: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
enum Start {
    Next,
    Back(u64),
    Ahead(u64),
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Name,
    Begin,
    Regress,
    End,
}

#[derive(Clone, Debug)]
enum Sent {
    Fragment(ContentRange, Option<usize>),
    Close(Form),
    Cancel,
}

struct World {
    server: Server,
    ideal: Ideal,
    last: [Option<Sent>; 2],
    remembered: [Option<(Session, Upload)>; 2],
    /// Bytes may be missing, and nobody has looked yet.
    shaky: [bool; 2],
    /// A writer without a row may have left something.
    littered: bool,
    epochs: [u64; 2],
    /// The epoch and offset of the last ack.
    acked: [Option<(u64, u64)>; 2],
    published: [bool; 2],
    /// The id by which the application was told.
    notifications: [Option<uuid::Uuid>; 2],
    /// When all began.
    epoch: Timestamp,
}

impl World {
    fn new(publish: PublishAt, notifies: bool, volatile: bool) -> Self {
        let application = Application::Takes { copy: true, replies: false };
        let notification = notifies.then(|| Notification {
            mode: NotificationMode::ByValue,
            url: "http://app/".to_owned(),
            timeout: Duration::from_secs(1),
            limit: None,
        });
        let directory = Directory::new("/upload", "default", StorageKey::ROOT);
        let uploads = if volatile { MemoryUploads::volatile(PART) } else { MemoryUploads::new(PART) };
        Self {
            server: Server {
                sessions: MemorySessions::default(),
                uploads,
                directory: Directory { publish, notification, ..directory },
                application: application.into(),
                told: 0.into(),
                losing: None.into(),
                lost_from: None.into(),
            },
            ideal: Ideal::new(publish == PublishAt::CloseSession, notifies, application),
            last: [None, None],
            remembered: [None, None],
            shaky: [false; 2],
            littered: false,
            epochs: [0; 2],
            acked: [None; 2],
            published: [false; 2],
            notifications: [None; 2],
            epoch: ManualClock::default().now(),
        }
    }

    fn step(&mut self, who: usize, op: &Op) {
        self.server.sessions.clock().advance(Duration::from_secs(1));
        self.ideal.now += 1;
        match op {
            Op::Create if !self.ideal.uploads[who].created => {
                self.server.create(id(who));
                self.ideal.create(who);
            }
            Op::Create => {}
            Op::Fragment(fragment) => self.send(who, Sent::Fragment(self.range(who, fragment), fragment.came)),
            Op::Close(form) => self.send(who, Sent::Close(*form)),
            Op::Cancel => self.send(who, Sent::Cancel),
            Op::Repeat => {
                if let Some(sent) = self.last[who].clone() {
                    self.send(who, sent);
                }
            }
            Op::Regress(to) => self.regress(who, to),
            Op::Remember => {
                self.remembered[who] =
                    self.server.live(id(who)).map(|session| (session.clone(), self.server.upload(&session)));
            }
            Op::StaleWrite(len) => self.stale_write(who, *len),
            Op::StaleChange(change) => self.stale_change(who, *change),
            Op::Restart => self.restart(),
            Op::Lose(which) => self.lose(who, which),
            Op::FailWrite(after, kind) => {
                self.server.uploads.fail_next_write(*after as u64, *kind);
                self.ideal.write_fault = Some((*after, Refusal::from_store(*kind, http::StatusCode::FORBIDDEN)));
            }
            // One after the other.
            Op::FailPublish(_) | Op::LoseAmid(_) if self.ideal.publish_fault.is_some() => {}
            Op::FailPublish(fault) => self.fail_publish(*fault),
            Op::LoseAmid(which) => {
                self.server.losing.set(Some(*which));
                self.ideal.publish_fault = Some(Fault::Loses);
            }
            Op::Application(application) => self.set_application(*application),
            Op::Sweep(seconds) => self.sweep(*seconds),
        }
        self.check_both();
    }

    /// A packet to both servers; their answers are the same unless bytes were lost.
    fn send(&mut self, who: usize, sent: Sent) {
        self.last[who] = Some(sent.clone());
        let before = self.server.live(id(who));
        let (answer, expected) = match &sent {
            Sent::Fragment(range, came) => {
                let body = file(who, range.start(), range.end());
                let answer = self.server.fragment(id(who), *range, &body, *came);
                (answer, self.judge().fragment(who, *range, &body, *came))
            }
            Sent::Close(form) => (self.server.close(id(who), *form), self.judge().close(who, *form)),
            Sent::Cancel => (self.server.cancel(id(who)), self.judge().cancel(who)),
        };
        if self.shaky.contains(&true) {
            return self.adopt();
        }
        assert_eq!(answer, expected, "{sent:?} to session {who}, {before:?}");
        if let (Sent::Fragment(..), Answer::Ack(Some(next))) = (&sent, &answer) {
            self.check_ack(who, *next);
        }
    }

    /// The ideal server, which hears what was lost just now.
    fn judge(&mut self) -> &mut Ideal {
        self.ideal.lost_from = self.server.lost_from.take();
        &mut self.ideal
    }

    /// What was acked is asked for again only after a regress, which raises the epoch.
    fn check_ack(&mut self, who: usize, next: u64) {
        let Some(session) = self.server.live(id(who)) else { return };
        assert_eq!(session.received, next, "an ack that the row does not know");
        if let Some((epoch, acked)) = self.acked[who]
            && epoch == session.epoch
        {
            assert!(next >= acked, "byte {next} is asked for again after {acked} was acked");
        }
        self.acked[who] = Some((session.epoch, next));
    }

    fn regress(&mut self, who: usize, to: &Index) {
        let Some(session) = self.server.live(id(who)) else { return };
        if session.state != State::ReceiveFragments {
            return;
        }
        let to = to.index(session.received as usize + 1) as u64;
        // A piece that straddles the offset is dropped with what lies behind it.
        let session = self.server.trust(self.server.regress(&session, to));
        assert!(session.received <= to);
        self.ideal.regress(who, session.received);
        self.ideal.uploads[who].sent_back = true;
    }

    fn stale_write(&mut self, who: usize, len: usize) {
        let Some((row, upload)) = self.remembered[who].clone() else { return };
        let Some(total) = row.total.filter(|total| *total > row.received) else { return };
        if row.state != State::ReceiveFragments || self.ideal.write_fault.is_some() {
            return;
        }
        let body = file(who, row.received, total.min(row.received + len as u64));
        let written = self.server.write(&upload, std::iter::once(Ok(body.clone().into())));
        if written.reached == row.received {
            return;
        }
        let moved = self.server.live(id(who)).is_none_or(|now| place(&now) != place(&row));
        let commit = ready(self.server.sessions.commit(&row, &self.server.advance(&written))).unwrap();
        assert_eq!(commit == Commit::Moved, moved, "{row:?}");
        if moved {
            // What it wrote may have taken the place of a part that counts.
            self.shaky[who] = true;
            self.littered = true;
        } else {
            self.ideal.uploads[who].held.extend(&body[..(written.reached - row.received) as usize]);
            self.adopt();
        }
    }

    fn stale_change(&mut self, who: usize, change: Change) {
        let Some((row, _)) = &self.remembered[who] else { return };
        let before = self.server.found(id(who));
        if matches!(&before, Some(Found::Live(now)) if place(now) == place(row)) {
            return;
        }
        let transition = match change {
            Change::Name => Transition::Name,
            Change::Begin => Transition::Begin { total: 999, quota: Quota::NONE },
            Change::Regress => Transition::Regress { to: 0 },
            Change::End => Transition::End(Ending::Cancelled),
        };
        let result = ready(self.server.sessions.commit(row, &transition));
        assert!(matches!(result, Ok(Commit::Moved) | Err(_)), "{transition:?} from {row:?}: {result:?}");
        assert_eq!(self.server.found(id(who)), before);
    }

    /// Nothing below what the row says is synced may be lost.
    fn restart(&mut self) {
        self.server.uploads = self.server.uploads.restart();
        for who in 0..2 {
            let Some(session) = self.server.live(id(who)) else { continue };
            let back = self.server.trust(session.clone());
            assert!(back.received >= session.synced || self.shaky[who], "synced bytes were lost: {session:?}");
            assert!(back.received <= session.received);
            self.ideal.regress(who, back.received);
            self.ideal.uploads[who].sent_back |= back.epoch > session.epoch;
        }
    }

    fn lose(&mut self, who: usize, which: &Index) {
        let Some(session) = self.server.live(id(who)).filter(|session| session.state != State::WaitForClose) else {
            return;
        };
        let pieces = ready(self.server.sessions.pieces(session.id, 0)).unwrap();
        if !pieces.is_empty() {
            self.server.uploads.lose(&Upload::of(&session, Vec::new()), which.get(&pieces));
            self.shaky[who] = true;
        }
    }

    fn fail_publish(&mut self, fault: Fault) {
        let kind = StoreErrorKind::Unavailable;
        self.server.uploads.fail_next_publish(match fault {
            Fault::After => PublishFault::After(kind),
            _ => PublishFault::Before(kind),
        });
        self.ideal.publish_fault = Some(fault);
    }

    fn set_application(&mut self, application: Application) {
        self.server.application.set(application);
        self.ideal.application = application;
    }

    fn sweep(&mut self, seconds: u64) {
        self.server.sessions.clock().advance(Duration::from_secs(seconds));
        self.server.sweep();
        self.judge().sweep_after(seconds);
        if self.shaky.contains(&true) {
            self.adopt();
        }
    }

    /// The rows go back to what they were; the bytes do not.
    fn restore(&mut self, backup: Snapshot) {
        self.server.sessions.restore(backup);
        (self.epochs, self.acked, self.published) = ([0; 2], [None; 2], [false; 2]);
        (self.shaky, self.littered) = ([true; 2], true);
        for who in 0..2 {
            let session = self.server.live(id(who));
            let upload = &mut self.ideal.uploads[who];
            upload.created = session.is_some();
            upload.held = session.map(|session| file(who, 0, session.received)).unwrap_or_default();
        }
        self.adopt();
    }

    /// After a loss that shows itself late, the ideal server takes over what is; that may be less
    /// than it has, never more and never something else.
    fn adopt(&mut self) {
        for who in 0..2 {
            let upload = &mut self.ideal.uploads[who];
            match self.server.found(id(who)) {
                Some(Found::Live(session)) => {
                    assert!(session.received <= upload.held.len() as u64, "{session:?} has more than was sent");
                    upload.held.truncate(session.received as usize);
                    (upload.total, upload.named) = (session.total, session.fragment_seen);
                    upload.sent_back = session.epoch > 0;
                    upload.published = session.state == State::WaitForClose;
                    upload.stuck = session.state == State::Publish;
                    upload.notifying = session.state == State::Notify;
                    (upload.wanted, upload.replied) = (session.copy, session.reply.is_some());
                    upload.refused = session.refused.is_some();
                    upload.progressed_at = session.progressed_at.since(self.epoch).as_secs();
                    upload.ended = None;
                }
                Some(Found::Ended(tombstone)) => {
                    if upload.ended.is_none() {
                        (upload.ended, upload.ended_at) = (Some(tombstone.ending), self.ideal.now);
                    }
                    (upload.stuck, upload.notifying) = (false, false);
                    upload.published = tombstone.published.is_some();
                }
                None => assert!(!upload.created || upload.forgotten),
            }
        }
        self.ideal.publish_fault = None;
        self.ideal.write_fault = None;
        self.ideal.told = self.server.told.get();
        self.server.uploads.forget_faults();
        self.server.losing.set(None);
        let standing = self.server.uploads.read(&destination());
        if self.ideal.standing.as_ref().map(|(_, data)| data.as_slice()) != standing.as_deref() {
            self.ideal.standing = standing.map(|data| {
                let whose = |who: &usize| data == file(*who, 0, data.len() as u64);
                let who = (0..2).find(whose).expect("what stands there was sent by one of them");
                assert_eq!(Some(data.len() as u64), self.ideal.uploads[who].total);
                (who, data.to_vec())
            });
        }
    }

    fn check_both(&mut self) {
        for who in 0..2 {
            self.check(who);
        }
        let standing = self.server.uploads.read(&destination());
        if !self.shaky.contains(&true) {
            let expected = self.ideal.standing.as_ref().map(|(_, data)| data.as_slice());
            assert_eq!(standing.as_deref(), expected, "the destination");
            assert_eq!(self.server.told.get(), self.ideal.told, "the application was told");
        }
    }

    /// The row says what the ideal server holds.
    fn check(&mut self, who: usize) {
        let upload = &self.ideal.uploads[who];
        let session = match self.server.found(id(who)) {
            None => return assert!(!upload.created || upload.forgotten),
            Some(Found::Ended(tombstone)) => {
                assert_eq!(Some(tombstone.ending), upload.ended);
                return assert_eq!(tombstone.published, upload.total.filter(|_| upload.published));
            }
            Some(Found::Live(session)) => session,
        };
        assert!(upload.is_live(), "an ended session came back: {session:?}");
        assert_eq!((session.received, session.total), (upload.held.len() as u64, upload.total));
        assert_eq!((session.fragment_seen, session.state), (upload.named, state_of(upload)));
        assert!(session.synced <= session.received && session.total.is_none_or(|total| session.received <= total));
        assert_eq!(upload.held, file(who, 0, session.received));
        assert!(session.epoch >= self.epochs[who], "the epoch fell from {}", self.epochs[who]);
        assert!(session.state == State::WaitForClose || !self.published[who], "a published session went back");
        self.published[who] = session.state == State::WaitForClose;
        assert_eq!((session.copy, session.reply.is_some()), (upload.wanted, upload.replied));
        assert_eq!(session.refused.is_some(), upload.refused);
        let reply = ready(self.server.uploads.open(Source::Reply(&self.server.upload(&session)))).unwrap();
        assert!(reply.is_some() || !upload.replied, "the row names a reply that is not there");
        if let Some(id) = self.notifications[who] {
            assert_eq!(session.notification, Some(id), "the application hears of it by another id");
        }
        self.notifications[who] = session.notification;
        self.epochs[who] = session.epoch;
    }

    fn range(&self, who: usize, fragment: &Fragment) -> ContentRange {
        let total = self.ideal.uploads[who].total.unwrap_or(SIZES[who]) + u64::from(fragment.lies);
        let held = self.ideal.uploads[who].held.len() as u64;
        let start = match fragment.start {
            Start::Next => held,
            Start::Back(by) => held.saturating_sub(by),
            Start::Ahead(by) => held + by,
        };
        let start = start.min(total.saturating_sub(1));
        let end = total.min(start + fragment.len);
        if fragment.len == 0 {
            ContentRange::EMPTY
        } else {
            ContentRange::new(start, end, total).unwrap_or(ContentRange::EMPTY)
        }
    }

    /// A patient client finishes what can be finished; then nothing is left but the file.
    fn finish(&mut self) {
        self.server.uploads.forget_faults();
        self.server.losing.set(None);
        (self.ideal.publish_fault, self.ideal.write_fault) = (None, None);
        self.set_application(Application::Takes { copy: true, replies: true });
        let unfinished = (0..2).any(|who| self.server.live(id(who)).is_some());
        for who in 0..2 {
            self.finish_one(who);
            self.check_both();
        }
        // The application may have taken or refused what there was.
        let published = self.server.uploads.read(&destination()).is_some();
        assert!(!unfinished || published || self.ideal.notifies, "nothing was published");
        self.shaky = [false; 2];
        self.sweep(2 * TIMEOUT.as_secs());
        self.sweep(2 * TIMEOUT.as_secs());
        assert_eq!(ready(self.server.sessions.census(1, 1)).unwrap().live, 0);
        assert_eq!(ready(self.server.sessions.unclean(None, 9)).unwrap(), []);
        self.server.uploads.forget_multiparts(|_| false);
        if !self.littered {
            assert_eq!(self.server.uploads.staged(), Vec::<String>::new());
        }
    }

    fn finish_one(&mut self, who: usize) {
        for _ in 0..40 {
            let Some(session) = self.server.live(id(who)) else { return };
            let total = session.total.unwrap_or(SIZES[who]);
            let start = session.received.min(total.saturating_sub(1));
            let range = ContentRange::new(start, total.min(start + 5), total).unwrap_or(ContentRange::EMPTY);
            self.send(who, Sent::Fragment(range, None));
            if self.ideal.uploads[who].refused {
                self.send(who, Sent::Close(Form::Native));
                self.send(who, Sent::Cancel);
                continue;
            }
            let session = self.server.live(id(who)).expect("a fragment ends no session");
            let taken = self.ideal.standing.as_ref().is_some_and(|(owner, _)| *owner != who);
            if session.is_received() && (taken || session.state == State::WaitForClose || self.ideal.at_close) {
                self.send(who, Sent::Close(Form::Native));
                if taken {
                    self.send(who, Sent::Cancel);
                }
            }
        }
        panic!("no end after 40 fragments: {:?}", self.server.live(id(who)));
    }
}

fn id(who: usize) -> SessionId {
    ["{00000000-0000-0000-0000-000000000001}", "{00000000-0000-0000-0000-000000000002}"][who].parse().unwrap()
}

fn destination() -> StorageKey {
    StorageKey::parse("in/file").unwrap()
}

/// The bytes of a client's file, however long it says that it is.
fn file(who: usize, start: u64, end: u64) -> Vec<u8> {
    (start..end).map(|at| (at * 7 + who as u64 * 101 + 3) as u8).collect()
}

/// What a commit compares.
fn place(session: &Session) -> (u64, u64, State) {
    (session.epoch, session.received, session.state)
}

fn state_of(upload: &ideal::Upload) -> State {
    match (upload.published, upload.stuck, upload.notifying) {
        (true, ..) => State::WaitForClose,
        (false, true, _) => State::Publish,
        (false, false, true) => State::Notify,
        (false, false, false) => State::ReceiveFragments,
    }
}

fn any_fragment() -> impl Strategy<Value = Op> {
    let start = prop_oneof![
        6 => Just(Start::Next),
        2 => (1..12_u64).prop_map(Start::Back),
        1 => (1..4_u64).prop_map(Start::Ahead),
    ];
    let came = prop_oneof![4 => Just(None), 1 => (0..10_usize).prop_map(Some)];
    (start, prop_oneof![1 => Just(0), 30 => 1..20_u64], prop::bool::weighted(0.05), came)
        .prop_map(|(start, len, lies, came)| Op::Fragment(Fragment { start, len, lies, came }))
}

/// What leads to one file, whenever it is interrupted.
fn honest_op() -> impl Strategy<Value = Op> {
    let fragment = |start, len| Op::Fragment(Fragment { start, len, lies: false, came: None });
    prop_oneof![
        2 => Just(Op::Create),
        12 => (1..12_u64).prop_map(move |len| fragment(Start::Next, len)),
        1 => (1..12_u64).prop_map(move |len| fragment(Start::Back(5), len)),
        1 => Just(Op::Repeat),
        1 => Just(Op::Restart),
        1 => any::<Index>().prop_map(Op::Regress),
        1 => prop_oneof![Just(Fault::Before), Just(Fault::After)].prop_map(Op::FailPublish),
        1 => any::<Index>().prop_map(Op::LoseAmid),
        1 => Just(Op::Sweep(60)),
    ]
}

fn any_application() -> impl Strategy<Value = Op> {
    let takes = (any::<bool>(), any::<bool>()).prop_map(|(copy, replies)| Application::Takes { copy, replies });
    let fails = prop_oneof![Just(Application::Fails), Just(Application::Interrupted)];
    prop_oneof![4 => takes, 1 => Just(Application::Refuses), 3 => fails].prop_map(Op::Application)
}

fn any_op() -> impl Strategy<Value = Op> {
    let form = prop_oneof![Just(Form::Native), Just(Form::Override)];
    let kind = prop_oneof![Just(StoreErrorKind::Full), Just(StoreErrorKind::Unavailable), Just(StoreErrorKind::Other)];
    prop_oneof![
        4 => Just(Op::Create),
        24 => any_fragment(),
        2 => form.prop_map(Op::Close),
        1 => Just(Op::Cancel),
        4 => Just(Op::Repeat),
        2 => any::<Index>().prop_map(Op::Regress),
        2 => Just(Op::Remember),
        1 => (1..20_usize).prop_map(Op::StaleWrite),
        2 => prop_oneof![Just(Change::Name), Just(Change::Begin), Just(Change::Regress), Just(Change::End)]
            .prop_map(Op::StaleChange),
        2 => Just(Op::Restart),
        1 => any::<Index>().prop_map(Op::Lose),
        2 => (0..12_usize, kind).prop_map(|(after, kind)| Op::FailWrite(after, kind)),
        2 => prop_oneof![Just(Fault::Before), Just(Fault::After)].prop_map(Op::FailPublish),
        2 => any::<Index>().prop_map(Op::LoseAmid),
        3 => any_application(),
        1 => prop_oneof![Just(1), Just(60), Just(TIMEOUT.as_secs() + 1)].prop_map(Op::Sweep),
    ]
}

proptest! {
    #[test]
    fn any_order_of_events_is_as_ideal(
        close in any::<bool>(),
        notifies in any::<bool>(),
        volatile in any::<bool>(),
        ops in prop::collection::vec((0..2_usize, any_op()), 1..60),
    ) {
        let publish = if close { PublishAt::CloseSession } else { PublishAt::LastFragment };
        let mut world = World::new(publish, notifies, volatile);
        for (who, op) in &ops {
            world.step(*who, op);
        }
        world.finish();
    }

    /// A restored backup only ever sends clients back.
    #[test]
    fn a_restored_backup_sends_clients_back(
        volatile in any::<bool>(),
        before in prop::collection::vec((0..2_usize, honest_op()), 1..20),
        lost in prop::collection::vec((0..2_usize, honest_op()), 1..20),
    ) {
        let mut world = World::new(PublishAt::LastFragment, false, volatile);
        for (who, op) in &before {
            world.step(*who, op);
        }
        let backup = world.server.sessions.snapshot();
        for (who, op) in &lost {
            world.step(*who, op);
        }
        world.restore(backup);
        world.finish();
    }
}
