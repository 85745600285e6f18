//! Fragments: bytes first, then the row, then the ack (section 3.2.5.2.6).

use std::sync::Arc;

use bits_core::{
    Ack, BodyError, Commit, ContentRange, Excess, Found, FragmentDecision, FragmentHead, PacketType, Principal, Quota,
    QuotaOf, Refusal, Session, SessionEventKind, SessionId, Stopped, StoreError, StoreErrorKind, Transition, Upload,
    VirtualPath, Written,
};
use tracing::Instrument;

use crate::{
    body::{Body, Waiting},
    end::{Opened, refused},
    engine::{Call, Inner, chain, row_refusal},
    faults::fault,
    publish::Outcome,
    spans,
    turns::Turn,
};

/// Most bytes of an upload whose size is committed only with its bytes: until then no row tells that
/// a Fragment came.
const SMALL: u64 = 64 << 10;

/// How often a request decides anew when somebody else keeps moving its session.
pub(crate) const ATTEMPTS: usize = 8;

/// What comes of a fragment before anything is published.
enum Step {
    /// This is the answer.
    Answer(Ack),
    /// All bytes are held: publish, or make them durable, then answer.
    Publish,
    /// The same from this row, which was just committed.
    PublishFrom(Box<Session>),
    /// Somebody else moved the session: decide again.
    Again,
}

impl Inner {
    pub(crate) async fn fragment(self: &Arc<Self>, call: &Call, fragment: FragmentHead, body: &mut Body) -> Ack {
        let id = fragment.session;
        let mut turn = match self.turn(call, id).await {
            Ok(turn) => turn,
            Err(refusal) => return refused(refusal, id),
        };
        let step = self.store_fragment(call, fragment, body, &turn).await;
        turn.end();
        let patience = self.patience(&call.directory);
        let outcome = match step {
            Ok(Step::Answer(ack)) => return ack,
            Ok(Step::Publish) => self.publish(id, false, patience).await,
            Ok(Step::PublishFrom(session)) => self.publish_received(*session, patience).await,
            Ok(Step::Again) => return refused(Refusal::Unavailable, id),
            Err(refusal) => return refused(refusal, id),
        };
        match outcome {
            Outcome::Complete { total, reply } => complete(id, total, reply),
            Outcome::Regressed { to } => Ack::fragment(id, to),
            Outcome::Refused(refusal) => refused(refusal, id),
        }
    }

    async fn store_fragment(
        self: &Arc<Self>,
        call: &Call,
        fragment: FragmentHead,
        body: &mut Body,
        turn: &Turn,
    ) -> Result<Step, Refusal> {
        for attempt in 0..ATTEMPTS {
            let cached = (attempt == 0).then(|| self.cache.get(fragment.session)).flatten();
            let accepting = cached.filter(|session| {
                session.belongs_to(&call.caller.principal, &call.destination)
                    && matches!(session.on_fragment(fragment.range, &call.directory), FragmentDecision::Write { .. })
            });
            let session = match accepting {
                Some(session) => session,
                None => match self.open(call, fragment.session).await? {
                    Opened::Live(session) => *session,
                    Opened::Answer(ack) => return Ok(Step::Answer(ack)),
                },
            };
            spans::found(session.id);
            match self.take(call, &session, fragment, body, turn).await? {
                Step::Again => {}
                step => return Ok(step),
            }
        }
        Ok(Step::Again)
    }

    async fn take(
        self: &Arc<Self>,
        call: &Call,
        session: &Session,
        fragment: FragmentHead,
        body: &mut Body,
        turn: &Turn,
    ) -> Result<Step, Refusal> {
        let decision = session.on_fragment(fragment.range, &call.directory);
        if matches!(decision, FragmentDecision::Refuse(_)) {
            self.name(call, session).await;
        } else if session.total.is_none() && self.is_small(call, session, fragment.range) {
            self.reserve(call, session, fragment.range.total()).await?;
        } else if session.total.is_none() {
            return match self.begin(call, session, fragment.range.total()).await? {
                Some(session) => Box::pin(self.take(call, &session, fragment, body, turn)).await,
                None => Ok(Step::Again),
            };
        }
        match decision {
            // Somebody moved the session while the body was read: the client goes on from there.
            FragmentDecision::Write { .. } if body.is_begun() => {
                self.name(call, session).await;
                Ok(Step::Answer(Ack::fragment(session.id, session.received)))
            }
            FragmentDecision::Write { skip, length } => {
                self.write(call, session, fragment.range.total(), (skip, length), body, turn).await
            }
            // The last ack again, which promises that all of it stays.
            FragmentDecision::Held { next } if session.is_received() && session.synced < next => Ok(Step::Publish),
            FragmentDecision::Held { next: total } | FragmentDecision::Published { total } => {
                Ok(Step::Answer(complete(session.id, total, self.reply_of(session))))
            }
            FragmentDecision::Publish => Ok(Step::Publish),
            FragmentDecision::Refuse(refusal) => Err(refusal),
        }
    }

    /// Remembers that the packet, where it is a Fragment, named the session: closing it in the override
    /// form does not publish an empty file then.
    async fn name(&self, call: &Call, session: &Session) {
        if session.fragment_seen || call.packet.kind() != PacketType::Fragment {
            return;
        }
        match self.sessions.commit(session, &Transition::Name).await {
            Ok(Commit::Live(session)) => self.cache.put(&session),
            Ok(_) => self.cache.remove(session.id),
            Err(error) => tracing::error!(error = %chain(&error), "the session store failed"),
        }
    }

    /// The same for a Fragment that was too malformed to be one.
    pub(crate) async fn name_by(&self, id: SessionId, principal: &Principal, destination: &VirtualPath) {
        for _ in 0..ATTEMPTS {
            let Ok(Some(Found::Live(session))) = self.sessions.load(id).await else { return };
            if session.fragment_seen || !session.belongs_to(principal, destination) {
                return;
            }
            if matches!(self.commit(&session, &Transition::Name).await, Ok(Some(_)) | Err(_)) {
                return;
            }
        }
    }

    /// Whether this is all of an upload that may be committed at once, size, bytes and intent.
    fn is_small(&self, call: &Call, session: &Session, range: ContentRange) -> bool {
        let is_whole = range.start() == 0 && range.end() == range.total();
        is_whole && (1..=SMALL).contains(&range.total()) && call.quota() == Quota::NONE && self.is_joined(session)
    }

    /// Makes room for the upload and fixes its size; none when somebody else moved the session.
    pub(crate) async fn begin(&self, call: &Call, session: &Session, total: u64) -> Result<Option<Session>, Refusal> {
        // What can never fit takes no room from others, not even for a moment.
        if let Some(excess) = call.quota().excess(total, 0, 0) {
            return Err(self.over_quota(call, session, &self.upload_of(session, total), excess).await);
        }
        self.reserve(call, session, total).await?;
        self.fix(call, session, total).await
    }

    fn upload_of(&self, session: &Session, total: u64) -> Upload {
        Upload { total, direct: self.is_direct(session), ..Upload::of(session, Vec::new()) }
    }

    /// Makes room for the upload.
    async fn reserve(&self, call: &Call, session: &Session, total: u64) -> Result<(), Refusal> {
        match self.storage(&session.storage)?.reserve(&self.upload_of(session, total)).await {
            Ok(()) => Ok(()),
            Err(error) => {
                self.name(call, session).await;
                Err(call.store_refusal(&error))
            }
        }
    }

    /// Fixes the size of an upload that there is room for; none when somebody else moved the session.
    async fn fix(&self, call: &Call, session: &Session, total: u64) -> Result<Option<Session>, Refusal> {
        fault("begin-before-commit");
        let begin = Transition::Begin { total, quota: call.quota() };
        let commit = self.sessions.commit(session, &begin).await;
        match commit.map_err(|error| row_refusal(&error))? {
            Commit::Live(session) => {
                self.cache.put(&session);
                Ok(Some(session))
            }
            Commit::Exceeds(excess) => {
                Err(self.over_quota(call, session, &self.upload_of(session, total), excess).await)
            }
            _ => {
                self.cache.remove(session.id);
                self.discard_if_over(session).await?;
                Ok(None)
            }
        }
    }

    /// Gives back the room that was made for an upload before its quota was asked.
    async fn over_quota(&self, call: &Call, session: &Session, upload: &Upload, excess: Excess) -> Refusal {
        let quota = match excess.of {
            QuotaOf::User => "unfinished_bytes_per_user",
            QuotaOf::Directory => "unfinished_bytes",
        };
        tracing::info!(
            session = %session.id,
            user = ?session.principal.to_string(),
            directory = ?session.directory,
            quota,
            limit = excess.limit,
            used = excess.used,
            upload = upload.total,
            "an upload was refused: it is larger than its quota leaves room for"
        );
        self.name(call, session).await;
        match self.storage(&session.storage) {
            Ok(store) => {
                let discarded = store.discard(upload).await;
                discarded.unwrap_or_else(|error| tracing::error!(error = %chain(&error), "the upload store failed"));
                Refusal::OverQuota
            }
            Err(refusal) => refusal,
        }
    }

    async fn write(
        self: &Arc<Self>,
        call: &Call,
        session: &Session,
        total: u64,
        (skip, length): (u64, u64),
        body: &mut Body,
        turn: &Turn,
    ) -> Result<Step, Refusal> {
        let store = self.storage(&session.storage)?;
        let mut upload = Upload { total, ..self.upload(session).await? };
        let adopted;
        let session = match store.begin(&upload).await.map_err(|error| call.store_refusal(&error))? {
            None => session,
            Some(handle) => match self.adopt(session, &handle).await? {
                None => return Ok(Step::Again),
                Some(session) => {
                    upload.handle = Some(handle);
                    adopted = session;
                    &adopted
                }
            },
        };
        let waiting = Waiting { idle: self.limits.idle_timeout, least_rate: self.limits.minimum_rate };
        let mut part = body.part(skip, length, waiting, turn.cut.clone());
        let mut written = store.write(&upload, &mut part).await;
        fault("fragment-before-commit");
        if written.stopped.is_none()
            && written.reached == total
            && self.is_joined(session)
            && let Some(publishing) =
                self.intend_written(session, &mut written).instrument(spans::prepare(session)).await?
        {
            self.emit(publishing.progressed_at, &publishing, SessionEventKind::Advanced { from: session.received });
            return Ok(Step::PublishFrom(Box::new(publishing)));
        }
        let fixed;
        let session = match session.total {
            Some(_) => session,
            None => match self.fix(call, session, total).await {
                Ok(Some(session)) => {
                    fixed = session;
                    &fixed
                }
                other => {
                    self.give_up(session, written.handle.take()).await;
                    return other.map(|_| Step::Again);
                }
            },
        };
        match written.stopped.take() {
            None => {}
            Some(Stopped::Body(BodyError::Length)) => {
                return Err(Refusal::Malformed("the body is shorter or longer than its Content-Range"));
            }
            Some(Stopped::Body(error)) => {
                tracing::debug!(session = %session.id, %error, "a body ended early; what came is kept");
                self.advance(session, written).await?;
                return Err(Refusal::Unavailable);
            }
            Some(Stopped::Store(error)) => return self.write_failed(call, session, written, &error).await,
        }
        let Some(session) = self.advance(session, written).await? else { return Ok(Step::Again) };
        fault("fragment-after-commit");
        if session.is_received() {
            Ok(Step::PublishFrom(Box::new(session)))
        } else {
            Ok(Step::Answer(Ack::fragment(session.id, session.received)))
        }
    }

    /// Commits a new handle and gives up the older one; none when somebody else moved the session.
    async fn adopt(&self, session: &Session, handle: &str) -> Result<Option<Session>, Refusal> {
        fault("handle-before-commit");
        let Some(adopted) = self.commit(session, &Transition::Adopt { handle: handle.to_owned() }).await? else {
            self.discard_unnamed(session, Some(handle.to_owned())).await?;
            return Ok(None);
        };
        fault("handle-after-commit");
        self.give_up(session, session.handle.clone()).await;
        Ok(Some(adopted))
    }

    /// Keeps what is certain of a write that failed.
    async fn write_failed(
        self: &Arc<Self>,
        call: &Call,
        session: &Session,
        written: Written,
        error: &StoreError,
    ) -> Result<Step, Refusal> {
        let refusal = call.store_refusal(error);
        let session = match error.kind {
            StoreErrorKind::Missing => {
                self.give_up(session, written.handle).await;
                return self.send_back(session, 0).await;
            }
            StoreErrorKind::Doubtful { good } if good <= session.received => {
                self.give_up(session, written.handle).await;
                return self.send_back(session, good).await;
            }
            StoreErrorKind::Doubtful { good } => self.advance(session, before(written, good)).await?,
            _ => self.advance(session, written).await?,
        };
        match (error.kind, session) {
            (_, None) => Ok(Step::Again),
            (StoreErrorKind::Doubtful { .. }, Some(session)) => {
                Ok(Step::Answer(Ack::fragment(session.id, session.received)))
            }
            (_, Some(_)) => Err(refusal),
        }
    }

    async fn send_back(&self, session: &Session, to: u64) -> Result<Step, Refusal> {
        let to = self.regress(session, to).await?;
        Ok(to.map_or(Step::Again, |to| Step::Answer(Ack::fragment(session.id, to))))
    }

    /// Commits what was written; none when somebody else moved the session.
    async fn advance(self: &Arc<Self>, session: &Session, written: Written) -> Result<Option<Session>, Refusal> {
        let (reached, synced) = (written.reached, written.synced);
        if reached < session.received || (reached == session.received && synced <= session.synced) {
            self.give_up(session, written.handle).await;
            return Ok(Some(session.clone()));
        }
        let store = self.storage(&session.storage)?;
        let new_handle = written.handle.clone();
        let replaces = written.pieces.iter().any(|piece| piece.start < session.received);
        let transition = Transition::Advance {
            to: written.reached,
            synced: written.synced,
            incarnation: store.incarnation().to_owned(),
            pieces: written.pieces,
            handle: written.handle,
            // A checkpoint of the bytes is worth as much as the row that tells of it.
            durable: written.synced > session.synced,
        };
        let Some(advanced) = self.commit(session, &transition).await? else {
            self.discard_unnamed(session, new_handle).await?;
            return Ok(None);
        };
        if new_handle.is_some() && new_handle != session.handle {
            self.give_up(session, session.handle.clone()).await;
        }
        if replaces {
            self.forget_later(&advanced);
        }
        if reached > session.received {
            self.emit(advanced.progressed_at, &advanced, SessionEventKind::Advanced { from: session.received });
        }
        Ok(Some(advanced))
    }

    /// A session may have ended while a fragment was written, and its bytes been deleted before.
    pub(crate) async fn discard_if_over(&self, session: &Session) -> Result<(), Refusal> {
        self.discard_unnamed(session, None).await
    }

    /// The same, and a handle that was not committed is given up.
    async fn discard_unnamed(&self, session: &Session, handle: Option<String>) -> Result<(), Refusal> {
        let found = self.sessions.load(session.id).await.map_err(|error| row_refusal(&error))?;
        let named = match &found {
            Some(Found::Live(session)) => session.handle.as_ref(),
            Some(Found::Ended(_)) | None => None,
        };
        if handle.as_ref() != named {
            self.give_up(session, handle).await;
        }
        if !matches!(found, Some(Found::Live(_))) {
            let discarded = self.storage(&session.storage)?.discard(&Upload::of(session, Vec::new())).await;
            discarded.unwrap_or_else(|error| tracing::error!(error = %chain(&error), "the upload store failed"));
        }
        Ok(())
    }

    /// Gives up a handle that no row names. What fails is left to the store's own rules.
    async fn give_up(&self, session: &Session, handle: Option<String>) {
        let (Some(_), Ok(store)) = (&handle, self.storage(&session.storage)) else { return };
        if let Err(error) = store.give_up(&Upload { handle, ..Upload::of(session, Vec::new()) }).await {
            tracing::warn!(session = %session.id, error = %chain(&error), "what an upload left in its store could not be given up");
        }
    }

    /// Sends the client back to `to`; none when somebody else moved the session.
    pub(crate) async fn regress(&self, session: &Session, to: u64) -> Result<Option<u64>, Refusal> {
        tracing::warn!(session = %session.id, from = session.received, to, "bytes are missing or doubtful; the client is sent back");
        fault("regress-before-commit");
        let Some(after) = self.commit(session, &Transition::Regress { to }).await? else { return Ok(None) };
        fault("regress-after-commit");
        self.emit(after.progressed_at, &after, SessionEventKind::Regressed { from: session.received });
        Ok(Some(after.received))
    }

    /// Commits a transition that leaves the session alive, and caches what it is now.
    pub(crate) async fn commit(&self, session: &Session, transition: &Transition) -> Result<Option<Session>, Refusal> {
        let commit = self.sessions.commit(session, transition).await;
        if !matches!(commit, Ok(Commit::Live(_))) {
            self.cache.remove(session.id);
        }
        match commit.map_err(|error| row_refusal(&error))? {
            Commit::Live(session) => {
                self.cache.put(&session);
                Ok(Some(session))
            }
            Commit::Ended(_) | Commit::Moved | Commit::Claimed(_) | Commit::Exceeds(_) => Ok(None),
        }
    }
}

/// The ack of an upload that may have a reply.
fn complete(id: SessionId, next: u64, reply: Option<String>) -> Ack {
    let ack = Ack::fragment(id, next);
    match reply {
        None => ack,
        Some(url) => ack.with_reply(url),
    }
}

/// What was written before `good`.
fn before(mut written: Written, good: u64) -> Written {
    written.pieces.retain(|piece| piece.end() <= good);
    Written { reached: good, synced: written.synced.min(good), ..written }
}
