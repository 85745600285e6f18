//! The smallest server that keeps the order of the stores: it does what the decisions say, over
//! the in-memory stores, one packet at a time.

use std::{cell::Cell, time::Duration};

use bits_core::{
    After, BodyError, CloseDecision, Commit, ContentRange, Directory, Ending, Form, Found, FragmentDecision,
    FragmentHead, Hresult, NewSession, Packet, Precondition, Principal, PublishIntent, Quota, Refusal, Reply, Session,
    SessionId, SessionStore, State, StorageKey, StoreError, StoreErrorKind, Transition, Upload, UploadStore,
    VirtualPath, Written,
    conformance::{MemorySessions, MemoryUploads},
};
use futures_util::{FutureExt, stream};
use proptest::sample::Index;

/// Time without progress after which sessions expire.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(3600);

const CAREFUL: Precondition =
    Precondition { overwrite: false, create_folders: true, file_mode: 0o640, folder_mode: 0o2750 };

/// What a client hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Success, for a Fragment with the next wanted offset.
    Ack(Option<u64>),
    Refused(Refusal),
    /// The connection broke before an answer.
    Silence,
}

/// What the server application does with the next upload that it is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Application {
    Takes {
        copy: bool,
        replies: bool,
    },
    /// For good.
    Refuses,
    Fails,
    /// The server dies before it has noted what came of it.
    Interrupted,
}

impl Application {
    /// What a client hears, where the upload is not taken.
    pub(crate) fn refusal(self) -> Option<Refusal> {
        match self {
            Self::Takes { .. } => None,
            Self::Refuses => {
                Some(Refusal::Application { status: http::StatusCode::FORBIDDEN, code: Hresult::E_ACCESSDENIED })
            }
            Self::Fails => Some(Refusal::ApplicationUnreachable),
            Self::Interrupted => Some(Refusal::Unavailable),
        }
    }
}

pub(crate) struct Server {
    pub(crate) application: Cell<Application>,
    /// How often it was told of anything.
    pub(crate) told: Cell<u32>,
    /// Which piece vanishes when the next publishing has committed its intent.
    pub(crate) losing: Cell<Option<Index>>,
    /// From which byte on an upload was gone by that.
    pub(crate) lost_from: Cell<Option<u64>>,
    pub(crate) sessions: MemorySessions,
    pub(crate) uploads: MemoryUploads,
    pub(crate) directory: Directory,
}

/// The memory stores never wait.
pub(crate) fn ready<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the memory stores never wait")
}

impl Server {
    pub(crate) fn create(&self, id: SessionId) -> Session {
        let key = StorageKey::parse("in/file").unwrap();
        let new = NewSession {
            id,
            principal: Principal::ANONYMOUS,
            address: String::new(),
            directory: self.directory.url_path.clone(),
            destination: VirtualPath::from_decoded("/upload/file").unwrap(),
            storage: "default".to_owned(),
            folder: StorageKey::parse("in").unwrap(),
            key,
            timeout: TIMEOUT,
            url: None,
            limit: None,
        };
        ready(self.sessions.create(&new)).unwrap()
    }

    pub(crate) fn found(&self, id: SessionId) -> Option<Found> {
        ready(self.sessions.load(id)).unwrap()
    }

    pub(crate) fn live(&self, id: SessionId) -> Option<Session> {
        match self.found(id) {
            Some(Found::Live(session)) => Some(session),
            _ => None,
        }
    }

    pub(crate) fn upload(&self, session: &Session) -> Upload {
        let pieces =
            self.uploads.pieces_from(session).map(|from| ready(self.sessions.pieces(session.id, from)).unwrap());
        Upload::of(session, pieces.unwrap_or_default())
    }

    /// Sends the session back where bytes are missing or of a time before a power loss.
    pub(crate) fn trust(&self, session: Session) -> Session {
        let available = ready(self.uploads.available(&self.upload(&session))).unwrap();
        match session.doubt(self.uploads.incarnation(), available) {
            Some(to) => self.trust(self.regress(&session, to)),
            None => session,
        }
    }

    pub(crate) fn regress(&self, session: &Session, to: u64) -> Session {
        self.change(session, &Transition::Regress { to })
    }

    /// Answers a Fragment whose body is `body`, of which only `came` bytes beyond the held ones
    /// come before the connection breaks.
    pub(crate) fn fragment(&self, id: SessionId, range: ContentRange, body: &[u8], came: Option<usize>) -> Answer {
        let packet = Packet::Fragment(FragmentHead { session: id, range });
        let session = match self.found(id) {
            Some(Found::Live(session)) => self.trust(session),
            Some(Found::Ended(tombstone)) => return answer_of(tombstone.answer(&packet)),
            None => return Answer::Refused(Refusal::SessionNotFound),
        };
        match session.on_fragment(range, &self.directory) {
            FragmentDecision::Refuse(refusal) => {
                self.name(&session);
                Answer::Refused(refusal)
            }
            FragmentDecision::Held { next } => {
                self.begin(session, range.total());
                Answer::Ack(Some(next))
            }
            FragmentDecision::Publish => self.publish_for(self.begin(session, range.total()), false),
            FragmentDecision::Published { total } => Answer::Ack(Some(total)),
            FragmentDecision::Write { skip, length } => {
                assert_eq!(skip + length, range.length(), "a fragment is skipped, then written to its end");
                self.take(self.begin(session, range.total()), &body[skip as usize..], came)
            }
        }
    }

    pub(crate) fn close(&self, id: SessionId, form: Form) -> Answer {
        let session = match self.found(id) {
            Some(Found::Live(session)) => session,
            Some(Found::Ended(tombstone)) => return answer_of(tombstone.answer(&Packet::CloseSession(id))),
            None => return Answer::Refused(Refusal::SessionNotFound),
        };
        let session = self.trust(session);
        let published = match session.on_close(form) {
            CloseDecision::Discard | CloseDecision::End => Ok(session),
            CloseDecision::Publish => self.publish(session, true),
            CloseDecision::Refuse(refusal) => Err(refusal),
            CloseDecision::PublishEmpty => self.publish(self.begin(session, 0), true),
        };
        match published {
            Ok(session) => self.end(&session, Ending::Closed),
            Err(refusal) => Answer::Refused(refusal),
        }
    }

    pub(crate) fn cancel(&self, id: SessionId) -> Answer {
        match self.found(id) {
            // Nobody need be told of what is given up.
            Some(Found::Live(session)) if session.state == State::Notify && !session.copy => {
                self.end(&session, Ending::Cancelled)
            }
            Some(Found::Live(session)) => self.end(&self.settle(session), Ending::Cancelled),
            Some(Found::Ended(tombstone)) => answer_of(tombstone.answer(&Packet::CancelSession(id))),
            None => Answer::Refused(Refusal::SessionNotFound),
        }
    }

    /// Finishes what is being published, ends what has expired, forgets what is long over.
    pub(crate) fn sweep(&self) {
        for session in ready(self.sessions.unpublished(None, 100)).unwrap() {
            self.settle(session);
        }
        for session in ready(self.sessions.expired(100)).unwrap() {
            self.end(&session, Ending::Expired);
        }
        ready(self.sessions.purge(100)).unwrap();
    }

    /// Writes what comes of `body`, commits it, and publishes if it was the last.
    fn take(&self, session: Session, body: &[u8], came: Option<usize>) -> Answer {
        let came = came.filter(|came| *came < body.len());
        let chunks = body[..came.unwrap_or(body.len())].chunks(3).map(|chunk| Ok(chunk.to_vec().into()));
        let broken = came.map(|_| Err(BodyError::Disconnected));
        let written = self.write(&self.upload(&session), chunks.chain(broken));
        let session =
            if written.reached > session.received { self.change(&session, &self.advance(&written)) } else { session };
        match written.stopped {
            Some(bits_core::Stopped::Body(_)) => Answer::Silence,
            Some(bits_core::Stopped::Store(error)) => Answer::Refused(self.failed(&session, error.kind)),
            None if session.is_received() && self.publishes_at_once(&session) => self.publish_for(session, false),
            None => Answer::Ack(Some(session.received)),
        }
    }

    pub(crate) fn write(
        &self,
        upload: &Upload,
        body: impl Iterator<Item = Result<bytes::Bytes, BodyError>> + Send,
    ) -> Written {
        let body: Vec<_> = body.collect();
        ready(self.uploads.write(upload, &mut stream::iter(body)))
    }

    pub(crate) fn advance(&self, written: &Written) -> Transition {
        Transition::Advance {
            to: written.reached,
            synced: written.synced,
            incarnation: self.uploads.incarnation().to_owned(),
            pieces: written.pieces.clone(),
            handle: written.handle.clone(),
            durable: false,
        }
    }

    fn publishes_at_once(&self, session: &Session) -> bool {
        self.directory.publish == bits_core::PublishAt::LastFragment || session.awaits_application(&self.directory)
    }

    fn publish_for(&self, session: Session, closing: bool) -> Answer {
        match self.publish(session, closing) {
            Ok(session) => Answer::Ack(session.total),
            Err(refusal) => Answer::Refused(refusal),
        }
    }

    /// Tells the application of it, makes durable, claims, and puts at its destination.
    fn publish(&self, session: Session, closing: bool) -> Result<Session, Refusal> {
        if let Some(intent) = &session.intent {
            return self.carry_out(&session, intent);
        }
        let session = if session.awaits_application(&self.directory) { self.notify(session)? } else { session };
        if session.state == State::WaitForClose {
            return Ok(session);
        }
        if self.directory.publish == bits_core::PublishAt::CloseSession && !closing {
            let waits = session.state == State::Notify;
            return Ok(if waits { self.change(&session, &Transition::Withdraw) } else { session });
        }
        let upload = self.upload(&session);
        let prepared = ready(self.uploads.sync(&upload)).and_then(|()| ready(self.uploads.prepare(&upload, CAREFUL)));
        let intent = prepared.map_err(|error| {
            let refused = matches!(error.kind, StoreErrorKind::Exists) && session.state == State::Notify;
            let session = if refused { self.change(&session, &Transition::Withdraw) } else { session.clone() };
            self.failed(&session, error.kind)
        })?;
        let intend = Transition::Intend { intent: intent.clone(), total: session.received };
        match ready(self.sessions.commit(&session, &intend)).unwrap() {
            Commit::Live(session) => self.carry_out(&session, &intent),
            Commit::Claimed(holder) => {
                let holder = self.live(holder).expect("a claim has a live holder");
                self.publish(holder, closing).map_err(|_| Refusal::Unavailable)?;
                self.publish(session, closing)
            }
            other => panic!("nobody else is here: {other:?}"),
        }
    }

    /// One exchange with the application, between two commits.
    fn notify(&self, session: Session) -> Result<Session, Refusal> {
        if let Some(refusal) = session.final_refusal() {
            return Err(refusal);
        }
        let upload = self.upload(&session);
        ready(self.uploads.sync(&upload)).map_err(|error| self.failed(&session, error.kind))?;
        let session = match session.state {
            State::Notify => session,
            _ => {
                let id = uuid::Uuid::from_u128(u128::from(self.told.get()) + 1);
                self.change(&session, &Transition::Notify { id })
            }
        };
        self.told.set(self.told.get() + 1);
        let application = self.application.get();
        let refused = match application {
            Application::Takes { copy, replies } => {
                let body = replies.then(|| Ok(bytes::Bytes::from_static(b"a reply")));
                let length = ready(self.uploads.write_reply(&self.upload(&session), &mut stream::iter(body))).unwrap();
                let reply = (length > 0).then_some(Reply::Kept { length });
                return Ok(self.change(&session, &Transition::Delivered { reply, copy }));
            }
            Application::Interrupted => return Err(Refusal::Unavailable),
            Application::Refuses => Some(Hresult::E_ACCESSDENIED),
            Application::Fails => None,
        };
        let at = self.sessions.clock().now();
        self.change(&session, &Transition::Undelivered { refused, reason: None, at });
        Err(application.refusal().expect("it did not take the upload"))
    }

    fn carry_out(&self, session: &Session, intent: &PublishIntent) -> Result<Session, Refusal> {
        let upload = self.upload(session);
        let lost = self.losing.take().filter(|_| !upload.pieces.is_empty()).map(|which| {
            let piece = which.get(&upload.pieces);
            self.uploads.lose(&upload, piece);
            piece.start
        });
        match ready(self.uploads.publish(&upload, CAREFUL, intent)) {
            Ok(()) => Ok(self.change(session, &Transition::Published)),
            Err(error) if error.kind == StoreErrorKind::Unavailable => {
                let until = self.sessions.clock().now() + Duration::from_secs(30);
                self.change(session, &Transition::Postpone { until });
                Err(Refusal::Unavailable)
            }
            Err(StoreError { kind: kind @ StoreErrorKind::Doubtful { good }, .. }) => {
                if let Some(lost) = lost {
                    assert!(good <= lost, "bytes from {lost} on are gone, and {good} are believed");
                    self.lost_from.set(Some(good));
                }
                Err(self.failed(session, kind))
            }
            Err(error) => {
                let session = self.change(session, &Transition::Withdraw);
                Err(self.failed(&session, error.kind))
            }
        }
    }

    /// The refusal; doubtful bytes send the session back as well.
    fn failed(&self, session: &Session, kind: StoreErrorKind) -> Refusal {
        if let StoreErrorKind::Doubtful { good } = kind {
            self.regress(session, good);
        }
        Refusal::from_store(kind, self.directory.conflict_status)
    }

    /// The session once its publishing, if it is under way, is over.
    fn settle(&self, session: Session) -> Session {
        if !session.state.is_job() {
            return session;
        }
        let id = session.id;
        let _ = self.publish(session, false);
        self.live(id).expect("publishing ends no session")
    }

    fn end(&self, session: &Session, ending: Ending) -> Answer {
        let end = Transition::End(ending);
        let Commit::Ended(tombstone) = ready(self.sessions.commit(session, &end)).unwrap() else {
            panic!("nobody else is here");
        };
        if tombstone.unclean {
            let pieces = ready(self.sessions.pieces(session.id, 0)).unwrap();
            ready(self.uploads.discard(&Upload::of_ended(&tombstone, pieces))).unwrap();
            ready(self.sessions.cleaned(session.id)).unwrap();
        }
        Answer::Ack(None)
    }

    fn name(&self, session: &Session) {
        if session.state == State::ReceiveFragments && !session.fragment_seen {
            self.change(session, &Transition::Name);
        }
    }

    fn begin(&self, session: Session, total: u64) -> Session {
        if session.total.is_some() {
            session
        } else {
            self.change(&session, &Transition::Begin { total, quota: Quota::NONE })
        }
    }

    /// Commits, holds the store to `apply`, and deletes what the change left over.
    fn change(&self, from: &Session, transition: &Transition) -> Session {
        let expected = from.apply(transition, self.sessions.clock().now());
        let Commit::Live(session) = ready(self.sessions.commit(from, transition)).unwrap() else {
            panic!("{transition:?} from {from:?} was not committed");
        };
        assert_eq!(expected, Ok(After::Live(session.clone())));
        let replaced = ready(self.sessions.replaced_pieces(session.id)).unwrap();
        ready(self.uploads.discard_pieces(&self.upload(&session), &replaced)).unwrap();
        ready(self.sessions.forget_pieces(session.id, &replaced)).unwrap();
        session
    }
}

fn answer_of(remembered: Option<Option<u64>>) -> Answer {
    remembered.map_or(Answer::Refused(Refusal::SessionNotFound), Answer::Ack)
}
