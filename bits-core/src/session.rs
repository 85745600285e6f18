//! The session and its state machine (sections 3.2.1.4 and 3.2.5.1).
//!
//! Decisions are pure: a [`Session`] and a packet give what to do. Changes are [`Transition`]s
//! that a [`SessionStore`](crate::SessionStore) commits by compare-and-swap; [`Session::apply`]
//! says what each of them makes of a session, for stores and for tests.

use std::time::Duration;

use crate::{
    ContentRange, Directory, Ending, Form, Packet, Piece, Principal, PublishAt, Refusal, SessionId, StorageKey,
    Timestamp, VirtualPath,
};

/// Where a live session stands. COMPLETE and CANCEL, the terminal states, are [`Tombstone`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// STATE_RECEIVE_FRAGMENTS: bytes are missing, or publishing was refused.
    ReceiveFragments,
    /// Between the intent to publish and its commit; whoever finds it so finishes it.
    Publish,
    /// STATE_WAIT_FOR_CLOSE: the upload stands at its destination.
    WaitForClose,
}

impl State {
    /// The name that databases and listings keep.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReceiveFragments => "receiving",
            Self::Publish => "publishing",
            Self::WaitForClose => "complete",
        }
    }
}

/// What Create-Session stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSession {
    /// A fresh id.
    pub id: SessionId,
    /// Who may use the session.
    pub principal: Principal,
    /// Where the request came from; for people, never for decisions.
    pub address: String,
    /// `url_path` of the directory.
    pub directory: String,
    /// The destination's decoded path.
    pub destination: VirtualPath,
    /// Which storage holds the bytes.
    pub storage: String,
    /// The folder in that storage below which bytes under way are kept.
    pub folder: StorageKey,
    /// Where in that storage the upload is published.
    pub key: StorageKey,
    /// Time without progress after which the session expires.
    pub timeout: Duration,
    /// How many unfinished sessions this principal may have, this one included.
    pub limit: Option<u32>,
}

/// A live session: the row that alone says how far an upload has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Identifies it.
    pub id: SessionId,
    /// Who may use it.
    pub principal: Principal,
    /// Where its Create-Session came from.
    pub address: String,
    /// `url_path` of its directory.
    pub directory: String,
    /// The destination's decoded path.
    pub destination: VirtualPath,
    /// Which storage holds its bytes.
    pub storage: String,
    /// The folder in that storage below which its bytes are kept while under way.
    pub folder: StorageKey,
    /// Where in that storage it is published.
    pub key: StorageKey,
    /// Where it stands.
    pub state: State,
    /// Raised whenever something under way must not commit any more.
    pub epoch: u64,
    /// Size of the upload, once a fragment has said it.
    pub total: Option<u64>,
    /// Whether any Fragment request ever named the session.
    pub fragment_seen: bool,
    /// Bytes held: the next wanted offset.
    pub received: u64,
    /// Bytes that a power loss cannot take.
    pub synced: u64,
    /// The [`UploadStore::incarnation`](crate::UploadStore::incarnation) under which bytes beyond `synced` are held.
    pub incarnation: String,
    /// What the upload store wants to be told again.
    pub handle: Option<String>,
    /// What is being published, in state [`State::Publish`].
    pub intent: Option<PublishIntent>,
    /// When a failed publishing is tried again, in state [`State::Publish`].
    pub retry_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last made progress.
    pub progressed_at: Timestamp,
    /// Time without progress after which it expires.
    pub timeout: Duration,
}

/// The upload store's own note of what it is about to publish: text that only it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishIntent(pub String);

/// A change of a session, to be committed by compare-and-swap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transition {
    /// A Fragment named the session; nothing of it was taken.
    Name,
    /// The first fragment was accepted: the size is fixed.
    Begin {
        /// Size of the upload in bytes.
        total: u64,
    },
    /// Bytes were stored.
    Advance {
        /// The next wanted offset from now on.
        to: u64,
        /// Bytes that a power loss cannot take.
        synced: u64,
        /// The upload store's incarnation.
        incarnation: String,
        /// Where the new bytes lie. A piece replaces every older piece that lies within it.
        pieces: Vec<Piece>,
        /// A new handle, if the upload store gave one.
        handle: Option<String>,
        /// Whether the commit itself must survive a power loss.
        durable: bool,
    },
    /// Bytes from `to` on are missing or doubtful.
    Regress {
        /// The next wanted offset from now on.
        to: u64,
    },
    /// Everything is received and durable; the destination is claimed.
    Intend(PublishIntent),
    /// The destination refused the upload; the claim is released.
    Withdraw,
    /// Publishing failed; it is tried again later.
    Postpone {
        /// Not before this time.
        until: Timestamp,
    },
    /// The upload stands at its destination; the claim is released.
    Published,
    /// The session is over.
    End(Ending),
}

impl Transition {
    /// Whether its commit must survive a power loss before anyone hears of it.
    pub fn is_durable(&self) -> bool {
        match self {
            Self::Name | Self::Begin { .. } | Self::Postpone { .. } => false,
            Self::Advance { durable, .. } => *durable,
            Self::Regress { .. } | Self::Intend(_) | Self::Withdraw | Self::Published | Self::End(_) => true,
        }
    }
}

/// An ended session: enough to answer a packet that comes again, and to clean up after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// Identifies the session.
    pub id: SessionId,
    /// Who may hear of it.
    pub principal: Principal,
    /// Its destination's decoded path.
    pub destination: VirtualPath,
    /// How it ended.
    pub ending: Ending,
    /// Size of the upload, if it stands at its destination.
    pub published: Option<u64>,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Until when it is remembered.
    pub keep_until: Timestamp,
    /// Which storage held its bytes.
    pub storage: String,
    /// The folder in that storage below which its bytes were kept.
    pub folder: StorageKey,
    /// Where in that storage it was to be published.
    pub key: StorageKey,
    /// What the upload store wants to be told to clean up.
    pub handle: Option<String>,
    /// Whether staged bytes may still have to be deleted.
    pub unclean: bool,
}

/// What to do with a Fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FragmentDecision {
    /// Refuse it.
    Refuse(Refusal),
    /// All of it is held: ack with the offset, write nothing.
    Held {
        /// The next wanted offset.
        next: u64,
    },
    /// Drop the first `skip` bytes, write the `length` that follow at the next wanted offset.
    Write {
        /// Bytes that are held already.
        skip: u64,
        /// Bytes to write.
        length: u64,
    },
    /// All bytes are held: publish, then ack with the total.
    Publish,
    /// The upload is published: ack with the total.
    Published {
        /// Size of the upload.
        total: u64,
    },
}

/// What to do with a Close-Session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseDecision {
    /// The upload is not complete: end the session and delete what came.
    Discard,
    /// Publish what came, then end the session.
    Publish,
    /// Fix the size at zero, publish an empty file, then end the session.
    PublishEmpty,
    /// The upload is published: end the session.
    End,
}

/// The transition does not fit the session's state: a bug of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this change does not fit the session's state")]
pub struct Illegal;

impl Session {
    /// The session that Create-Session makes.
    pub fn create(new: &NewSession, now: Timestamp) -> Self {
        Self {
            id: new.id,
            principal: new.principal.clone(),
            address: new.address.clone(),
            directory: new.directory.clone(),
            destination: new.destination.clone(),
            storage: new.storage.clone(),
            folder: new.folder.clone(),
            key: new.key.clone(),
            state: State::ReceiveFragments,
            epoch: 0,
            total: None,
            fragment_seen: false,
            received: 0,
            synced: 0,
            incarnation: String::new(),
            handle: None,
            intent: None,
            retry_at: None,
            created_at: now,
            progressed_at: now,
            timeout: new.timeout,
        }
    }

    /// Whether a caller on this path may know of the session.
    pub fn belongs_to(&self, principal: &Principal, destination: &VirtualPath) -> bool {
        self.principal == *principal && self.destination == *destination
    }

    /// Whether all bytes are held.
    pub fn is_received(&self) -> bool {
        self.total == Some(self.received)
    }

    /// When the session expires if it makes no more progress.
    pub fn expires_at(&self) -> Timestamp {
        self.progressed_at + self.timeout
    }

    /// What to do with a Fragment (section 3.2.5.2.6; overlaps are taken, gaps are not).
    pub fn on_fragment(&self, range: ContentRange, directory: &Directory) -> FragmentDecision {
        if let Some(refusal) = self.check_fragment(range, directory) {
            return FragmentDecision::Refuse(refusal);
        }
        let next = self.received;
        match self.state {
            State::WaitForClose => FragmentDecision::Published { total: range.total() },
            State::Publish => FragmentDecision::Publish,
            State::ReceiveFragments if range.start() > next => FragmentDecision::Refuse(Refusal::Gap { next }),
            State::ReceiveFragments if range.end() > next => {
                FragmentDecision::Write { skip: next - range.start(), length: range.end() - next }
            }
            // Only the size of an empty upload is news; any other held fragment changes nothing.
            State::ReceiveFragments if next == range.total() && directory.publish == PublishAt::LastFragment => {
                FragmentDecision::Publish
            }
            State::ReceiveFragments => FragmentDecision::Held { next },
        }
    }

    /// What to do with a Close-Session (section 3.2.5.2.7).
    pub fn on_close(&self, form: Form) -> CloseDecision {
        match self.state {
            State::WaitForClose => CloseDecision::End,
            State::Publish => CloseDecision::Publish,
            State::ReceiveFragments if self.is_received() => CloseDecision::Publish,
            State::ReceiveFragments if form == Form::Override && !self.fragment_seen => CloseDecision::PublishEmpty,
            State::ReceiveFragments => CloseDecision::Discard,
        }
    }

    /// Where to go back to when the bytes beyond `synced` are of another incarnation, or when
    /// only `available` bytes are there.
    pub fn doubt(&self, incarnation: &str, available: u64) -> Option<u64> {
        if self.state != State::ReceiveFragments {
            return None;
        }
        let trusted = if self.incarnation == incarnation { self.received } else { self.synced };
        let good = if available < self.received { self.synced.min(available) } else { trusted };
        (good < self.received).then_some(good)
    }

    /// The session, or its tombstone, after `transition`.
    pub fn apply(&self, transition: &Transition, now: Timestamp) -> Result<After, Illegal> {
        if let Transition::End(ending) = transition {
            return Ok(After::Ended(self.end(*ending, now)));
        }
        let mut next = self.clone();
        match (self.state, transition) {
            (State::ReceiveFragments, Transition::Name) => next.fragment_seen = true,
            (State::ReceiveFragments, Transition::Begin { total })
                if self.total.is_none_or(|fixed| fixed == *total) =>
            {
                next.begin(*total, now);
            }
            (State::ReceiveFragments, Transition::Advance { to, synced, incarnation, handle, .. })
                if *to > self.received && self.total.is_some_and(|total| *to <= total) && synced <= to =>
            {
                next.advance(*to, *synced, incarnation, handle.as_ref(), now);
            }
            (State::ReceiveFragments, Transition::Regress { to }) if *to <= self.received => next.regress(*to),
            (State::ReceiveFragments, Transition::Intend(intent)) if self.is_received() => next.intend(intent),
            (State::Publish, Transition::Withdraw) => next.settle(State::ReceiveFragments),
            (State::Publish, Transition::Postpone { until }) => next.retry_at = Some(*until),
            (State::Publish, Transition::Published) => {
                next.settle(State::WaitForClose);
                next.progressed_at = now;
            }
            _ => return Err(Illegal),
        }
        Ok(After::Live(next))
    }

    fn check_fragment(&self, range: ContentRange, directory: &Directory) -> Option<Refusal> {
        if self.total.is_some_and(|total| total != range.total()) {
            Some(Refusal::Malformed("the total of Content-Range changed"))
        } else if range.total() > directory.maximum_upload_size {
            Some(Refusal::TooLarge)
        } else if range.length() > directory.maximum_fragment_size {
            Some(Refusal::FragmentTooLarge)
        } else {
            None
        }
    }

    fn begin(&mut self, total: u64, now: Timestamp) {
        self.total = Some(total);
        self.fragment_seen = true;
        self.progressed_at = now;
    }

    fn advance(&mut self, to: u64, synced: u64, incarnation: &str, handle: Option<&String>, now: Timestamp) {
        self.received = to;
        self.synced = self.synced.max(synced);
        incarnation.clone_into(&mut self.incarnation);
        if handle.is_some() {
            self.handle = handle.cloned();
        }
        self.progressed_at = now;
    }

    fn regress(&mut self, to: u64) {
        self.received = to;
        self.synced = self.synced.min(to);
        self.epoch += 1;
    }

    fn intend(&mut self, intent: &PublishIntent) {
        self.state = State::Publish;
        self.epoch += 1;
        self.synced = self.received;
        self.intent = Some(intent.clone());
    }

    fn settle(&mut self, state: State) {
        self.state = state;
        self.intent = None;
        self.retry_at = None;
    }

    fn end(&self, ending: Ending, now: Timestamp) -> Tombstone {
        let published = self.state == State::WaitForClose;
        Tombstone {
            id: self.id,
            principal: self.principal.clone(),
            destination: self.destination.clone(),
            ending,
            published: self.total.filter(|_| published),
            ended_at: now,
            keep_until: now + self.timeout,
            storage: self.storage.clone(),
            folder: self.folder.clone(),
            key: self.key.clone(),
            handle: self.handle.clone(),
            // Room may have been made for a size that was never committed.
            unclean: !published,
        }
    }
}

/// What a transition leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum After {
    /// A live session.
    Live(Session),
    /// An ended one.
    Ended(Tombstone),
}

impl Tombstone {
    /// Whether a caller on this path may know of the session.
    pub fn belongs_to(&self, principal: &Principal, destination: &VirtualPath) -> bool {
        self.principal == *principal && self.destination == *destination
    }

    /// The answer to a packet that comes after the end: success with the offset for a Fragment of
    /// a published upload, success for the packet that ended the session, else none.
    pub fn answer(&self, packet: &Packet) -> Option<Option<u64>> {
        match (packet, self.ending) {
            (Packet::CloseSession(_), Ending::Closed) | (Packet::CancelSession(_), Ending::Cancelled) => Some(None),
            (Packet::Fragment(_), Ending::Closed) => self.published.map(Some),
            _ => None,
        }
    }
}
