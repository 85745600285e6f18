//! The session and its state machine (sections 3.2.1.4 and 3.2.5.1).
//!
//! Decisions are pure: a [`Session`] and a packet give what to do. Changes are [`Transition`]s
//! that a [`SessionStore`](crate::SessionStore) commits by compare-and-swap; [`Session::apply`]
//! says what each of them makes of a session, for stores and for tests.

use std::time::Duration;

use http::StatusCode;
use uuid::Uuid;

use crate::{
    ContentRange, Directory, Ending, Form, Hresult, Packet, Piece, Principal, PublishAt, Quota, Refusal, Reply,
    SessionId, StorageKey, Timestamp, VirtualPath,
};

/// Where a live session stands. COMPLETE and CANCEL, the terminal states, are [`Tombstone`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// STATE_RECEIVE_FRAGMENTS: bytes are missing, or publishing was refused.
    ReceiveFragments,
    /// STATE_NOTIFY: the server application is being told, or has asked for the upload to be
    /// published; whoever finds it so tells it again, or goes on to publish.
    Notify,
    /// Between the intent to publish and its commit; whoever finds it so finishes it.
    Publish,
    /// STATE_WAIT_FOR_CLOSE: the upload stands at its destination, or the server application took
    /// it and did not want it published.
    WaitForClose,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::ReceiveFragments, Self::Notify, Self::Publish, Self::WaitForClose];

    /// Whether a job of the session's own is under way, which whoever finds it so finishes.
    pub const fn is_job(self) -> bool {
        matches!(self, Self::Notify | Self::Publish)
    }

    /// The name that databases and listings keep.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReceiveFragments => "receiving",
            Self::Notify => "notifying",
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
    /// The URL of Create-Session with its query, where a server application will be told of it.
    pub url: Option<String>,
    /// How many unfinished sessions this principal may have in this directory, this one included.
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
    /// When a failed job is tried again, in states [`State::Publish`] and [`State::Notify`].
    pub retry_at: Option<Timestamp>,
    /// The URL of Create-Session with its query, where a server application is told of it.
    pub url: Option<String>,
    /// Identifies the notification, once one was about to be sent: the same on every try.
    pub notification: Option<Uuid>,
    /// The server application took the upload and asked for it to be published.
    pub copy: bool,
    /// What the server application gave for the upload.
    pub reply: Option<Reply>,
    /// The code of the 403 by which the server application refused the upload for good.
    pub refused: Option<Hresult>,
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
    /// The first fragment was accepted: the size is fixed. Refused by a store that has no room for
    /// it within the quota.
    Begin {
        /// Size of the upload in bytes.
        total: u64,
        /// What the unfinished uploads beside it leave room for.
        quota: Quota,
    },
    /// The upload store began something that the upload's bytes are to belong to. Refused where the
    /// session has got another handle meanwhile.
    Adopt {
        /// The store's handle for it.
        handle: String,
    },
    /// Bytes were stored, or those that are held made durable.
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
    /// Bytes from `to` on are missing or doubtful. While publishing, the intent is withdrawn with
    /// them and the claim released.
    Regress {
        /// The next wanted offset from now on.
        to: u64,
    },
    /// Everything is received and durable; the server application will be told.
    Notify {
        /// Identifies the notification, unless one was about to be sent before.
        id: Uuid,
    },
    /// The server application took the upload, and its reply, if any, is durable. Where it asked for
    /// the upload to be published, the job goes on.
    Delivered {
        /// What it gave.
        reply: Option<Reply>,
        /// Whether it asked for the upload to be published.
        copy: bool,
    },
    /// The server application did not take the upload.
    Undelivered {
        /// The code of its 403, which it will not be asked for again.
        refused: Option<Hresult>,
        /// What went wrong, for people; none where nobody is to be told any more.
        reason: Option<String>,
        /// When.
        at: Timestamp,
    },
    /// Everything is received and durable; the destination is claimed. With it the last bytes may be
    /// committed, and the size too where all of them came in one fragment.
    Intend {
        /// What the upload store will do.
        intent: PublishIntent,
        /// Size of the upload in bytes.
        total: u64,
    },
    /// The destination refused the upload, or it is not to be published yet; the claim is released.
    Withdraw,
    /// Publishing failed, or the server application could not be told for a fault of ours; it is
    /// tried again later.
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
            // An upload of no bytes is whole with it: no later commit carries it along.
            Self::Begin { total, .. } => *total == 0,
            // Nothing else names what the store holds for it.
            Self::Adopt { .. } => true,
            Self::Name | Self::Postpone { .. } | Self::Undelivered { refused: None, .. } => false,
            Self::Advance { durable, .. } => *durable,
            Self::Regress { .. } | Self::Intend { .. } | Self::Withdraw | Self::Published | Self::End(_) => true,
            Self::Notify { .. } | Self::Delivered { .. } | Self::Undelivered { .. } => true,
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
    /// Size of the upload, if it stands at its destination or the server application took it.
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
    /// All bytes are held: publish or notify, then ack with the total.
    Publish,
    /// The upload is complete: ack with the total.
    Published {
        /// Size of the upload.
        total: u64,
    },
}

/// What to do with a Close-Session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseDecision {
    /// The upload is not complete: end the session and delete what came.
    Discard,
    /// Notify or publish, then end the session.
    Publish,
    /// Fix the size at zero, notify or publish, then end the session.
    PublishEmpty,
    /// The upload is complete: end the session.
    End,
    /// Refuse it.
    Refuse(Refusal),
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
            url: new.url.clone(),
            notification: None,
            copy: false,
            reply: None,
            refused: None,
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

    /// Whether a server application must take the upload before it is complete.
    pub fn awaits_application(&self, directory: &Directory) -> bool {
        directory.notification.is_some() && !self.copy && self.state != State::WaitForClose
    }

    /// Whether it was created for a server application, which has not asked for it to be published.
    /// Where nobody knows any more which one, nobody may publish it either.
    pub fn is_for_application(&self) -> bool {
        self.url.is_some() && !self.copy
    }

    /// The server application's 403, which is final.
    pub fn final_refusal(&self) -> Option<Refusal> {
        self.refused.map(|code| Refusal::Application { status: StatusCode::FORBIDDEN, code })
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
            State::Notify | State::Publish => FragmentDecision::Publish,
            State::ReceiveFragments if range.start() > next => FragmentDecision::Refuse(Refusal::Gap { next }),
            State::ReceiveFragments if range.end() > next => {
                FragmentDecision::Write { skip: next - range.start(), length: range.end() - next }
            }
            // Only the size of an empty upload is news; any other held fragment changes nothing.
            State::ReceiveFragments
                if next == range.total()
                    && (directory.publish == PublishAt::LastFragment || self.awaits_application(directory)) =>
            {
                FragmentDecision::Publish
            }
            State::ReceiveFragments => FragmentDecision::Held { next },
        }
    }

    /// Whether a transition that was decided from the row `before` still fits.
    pub fn is_unmoved(&self, before: &Self) -> bool {
        (self.epoch, self.received, self.state) == (before.epoch, before.received, before.state)
    }

    /// What to do with a Close-Session (section 3.2.5.2.7).
    pub fn on_close(&self, form: Form) -> CloseDecision {
        match self.state {
            State::WaitForClose => CloseDecision::End,
            State::Notify | State::Publish => CloseDecision::Publish,
            State::ReceiveFragments if self.is_received() => {
                self.final_refusal().map_or(CloseDecision::Publish, CloseDecision::Refuse)
            }
            State::ReceiveFragments if form == Form::Override && !self.fragment_seen => CloseDecision::PublishEmpty,
            // Its client may believe that all is here: it was told so before it was sent back. Who
            // gives up sends Cancel-Session.
            State::ReceiveFragments if self.epoch > 0 => CloseDecision::Refuse(Refusal::StagedDataVanished),
            State::ReceiveFragments => CloseDecision::Discard,
        }
    }

    /// Where to go back to when the bytes beyond `synced` are of another incarnation, or when
    /// only `available` bytes are there.
    pub fn doubt(&self, incarnation: &str, available: u64) -> Option<u64> {
        if !matches!(self.state, State::ReceiveFragments | State::Notify) {
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
            (State::ReceiveFragments, Transition::Begin { total, .. })
                if self.total.is_none_or(|fixed| fixed == *total) =>
            {
                next.begin(*total, now);
            }
            (State::ReceiveFragments, Transition::Adopt { handle }) => next.handle = Some(handle.clone()),
            (State::ReceiveFragments, Transition::Advance { to, synced, incarnation, handle, .. })
                if self.is_progress(*to, *synced) && self.total.is_some_and(|total| *to <= total) && synced <= to =>
            {
                next.advance(*to, *synced, incarnation, handle.as_ref(), now);
            }
            (State::ReceiveFragments | State::Notify | State::Publish, Transition::Regress { to })
                if *to <= self.received =>
            {
                next.regress(*to);
            }
            (State::ReceiveFragments, Transition::Notify { id }) if self.is_received() && !self.copy => {
                next.notify(*id)
            }
            (State::Notify, Transition::Delivered { reply, copy }) if !self.copy => {
                next.delivered(reply.as_ref(), *copy, now);
            }
            (State::Notify, Transition::Undelivered { refused, .. }) if !self.copy => {
                next.settle(State::ReceiveFragments);
                next.refused = *refused;
            }
            (State::Notify, Transition::Postpone { until }) => next.retry_at = Some(*until),
            (State::ReceiveFragments, Transition::Intend { intent, total })
                if self.received <= *total && self.total.is_none_or(|fixed| fixed == *total) =>
            {
                next.intend(intent, *total, now);
            }
            (State::Notify, Transition::Intend { intent, total }) if self.copy && self.received == *total => {
                next.intend(intent, *total, now);
            }
            (State::Notify, Transition::Withdraw) if self.copy => next.settle(State::ReceiveFragments),
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
        } else if self.state != State::ReceiveFragments {
            None
        } else if let Some(refusal) = self.final_refusal() {
            Some(refusal)
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

    /// More bytes, or those that are held on stable storage.
    fn is_progress(&self, to: u64, synced: u64) -> bool {
        to > self.received || (to == self.received && synced > self.synced)
    }

    fn regress(&mut self, to: u64) {
        self.settle(State::ReceiveFragments);
        if to < self.received {
            // What comes instead may be something else, which nobody has asked to publish.
            self.copy = false;
            self.reply = None;
        }
        self.received = to;
        self.synced = self.synced.min(to);
        self.epoch += 1;
    }

    fn notify(&mut self, id: Uuid) {
        self.state = State::Notify;
        self.epoch += 1;
        self.synced = self.received;
        self.notification.get_or_insert(id);
        self.refused = None;
    }

    fn delivered(&mut self, reply: Option<&Reply>, copy: bool, now: Timestamp) {
        self.settle(if copy { State::Notify } else { State::WaitForClose });
        self.epoch += u64::from(copy);
        self.copy = copy;
        self.reply = reply.cloned();
        self.progressed_at = now;
    }

    fn intend(&mut self, intent: &PublishIntent, total: u64, now: Timestamp) {
        if self.received < total {
            self.progressed_at = now;
        }
        self.total = Some(total);
        self.fragment_seen = true;
        self.received = total;
        self.synced = total;
        self.state = State::Publish;
        self.epoch += 1;
        self.intent = Some(intent.clone());
        self.retry_at = None;
    }

    fn settle(&mut self, state: State) {
        self.state = state;
        self.intent = None;
        self.retry_at = None;
    }

    fn end(&self, ending: Ending, now: Timestamp) -> Tombstone {
        let complete = self.state == State::WaitForClose;
        Tombstone {
            id: self.id,
            principal: self.principal.clone(),
            destination: self.destination.clone(),
            ending,
            published: self.total.filter(|_| complete),
            ended_at: now,
            keep_until: now + self.timeout,
            storage: self.storage.clone(),
            folder: self.folder.clone(),
            key: self.key.clone(),
            handle: self.handle.clone(),
            // Room may have been made for a size that was never committed, and a reply been stored
            // that no row names.
            unclean: !complete || self.notification.is_some(),
        }
    }
}

/// What a transition leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "live sessions are by far the most")]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FragmentHead;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);
    const LATER: Timestamp = Timestamp::from_millis(1_060_000);
    const TIMEOUT: Duration = Duration::from_secs(3600);

    fn new() -> NewSession {
        NewSession {
            id: "{7DF0354D-249B-430F-820D-3D2A9BEF4931}".parse().unwrap(),
            principal: Principal::named("jo@x"),
            address: "192.0.2.7".to_owned(),
            directory: "/upload".to_owned(),
            destination: VirtualPath::from_decoded("/upload/file").unwrap(),
            storage: "default".to_owned(),
            folder: StorageKey::parse("in").unwrap(),
            key: StorageKey::parse("in/file").unwrap(),
            timeout: TIMEOUT,
            url: None,
            limit: None,
        }
    }

    fn fresh() -> Session {
        Session::create(&new(), NOW)
    }

    /// A session that holds `received` of `total` bytes, `synced` of them durably.
    fn holding(received: u64, synced: u64, total: u64) -> Session {
        let incarnation = "boot".to_owned();
        Session { total: Some(total), fragment_seen: true, received, synced, incarnation, ..fresh() }
    }

    fn in_state(state: State) -> Session {
        let intent = (state == State::Publish).then(|| PublishIntent("intent".to_owned()));
        Session { state, intent, epoch: 1, ..holding(10, 10, 10) }
    }

    fn directory(publish: PublishAt) -> Directory {
        let directory = Directory::new("/upload", "default", StorageKey::ROOT);
        Directory { publish, maximum_upload_size: 1000, maximum_fragment_size: 100, ..directory }
    }

    fn range(text: &str) -> ContentRange {
        format!("bytes {text}").parse().unwrap()
    }

    #[test]
    fn what_create_session_makes() {
        let (new, session) = (new(), fresh());
        assert_eq!((session.id, &session.principal, &session.key), (new.id, &new.principal, &new.key));
        assert_eq!((session.state, session.epoch, session.total), (State::ReceiveFragments, 0, None));
        assert_eq!((session.received, session.synced, session.fragment_seen), (0, 0, false));
        assert_eq!((session.created_at, session.progressed_at, session.expires_at()), (NOW, NOW, NOW + TIMEOUT));
        assert!(!session.is_received() && holding(0, 0, 0).is_received());
    }

    /// A session is of no use to another principal, or on another path.
    #[test]
    fn whose_a_session_is() {
        let ended = match fresh().apply(&Transition::End(Ending::Closed), NOW) {
            Ok(After::Ended(tombstone)) => tombstone,
            other => panic!("{other:?}"),
        };
        for (name, path, belongs) in [
            ("jo@x", "/upload/file", true),
            ("JO@X", "/upload/file", true),
            ("jo@y", "/upload/file", false),
            ("", "/upload/file", false),
            ("jo@x", "/upload/File", false),
            ("jo@x", "/upload/file2", false),
        ] {
            let (principal, path) = (Principal::named(name), VirtualPath::from_decoded(path).unwrap());
            assert_eq!(fresh().belongs_to(&principal, &path), belongs, "{name} {path}");
            assert_eq!(ended.belongs_to(&principal, &path), belongs, "{name} {path}");
        }
    }

    #[track_caller]
    fn check_fragment(session: &Session, text: &str, publish: PublishAt, expected: FragmentDecision) {
        assert_eq!(session.on_fragment(range(text), &directory(publish)), expected, "{text} on {session:?}");
    }

    /// Section 3.2.5.2.6 and decision 1: overlaps are taken, gaps are not.
    #[test]
    fn fragments_while_receiving() {
        use FragmentDecision::{Held, Publish, Refuse, Write};
        let changed = Refuse(Refusal::Malformed("the total of Content-Range changed"));
        let gap = |next| Refuse(Refusal::Gap { next });
        for (session, text, expected) in [
            (fresh(), "0-9/20", Write { skip: 0, length: 10 }),
            (fresh(), "0-9/10", Write { skip: 0, length: 10 }),
            (fresh(), "1-9/20", gap(0)),
            (fresh(), "19-19/20", gap(0)),
            (fresh(), "*/0", Publish),
            (fresh(), "0-99/1000", Write { skip: 0, length: 100 }),
            (fresh(), "0-99/1001", Refuse(Refusal::TooLarge)),
            (fresh(), "0-100/1000", Refuse(Refusal::FragmentTooLarge)),
            (fresh(), "0-100/1001", Refuse(Refusal::TooLarge)),
            (holding(0, 0, 20), "0-9/20", Write { skip: 0, length: 10 }),
            (holding(5, 0, 20), "5-9/20", Write { skip: 0, length: 5 }),
            (holding(5, 0, 20), "0-9/20", Write { skip: 5, length: 5 }),
            (holding(5, 0, 20), "4-5/20", Write { skip: 1, length: 1 }),
            (holding(5, 0, 20), "5-19/20", Write { skip: 0, length: 15 }),
            (holding(5, 0, 20), "0-4/20", Held { next: 5 }),
            (holding(5, 0, 20), "2-3/20", Held { next: 5 }),
            (holding(5, 0, 20), "6-9/20", gap(5)),
            (holding(5, 0, 20), "5-9/21", changed.clone()),
            (holding(5, 0, 20), "9-9/10", changed.clone()),
            (holding(5, 0, 20), "*/0", changed.clone()),
            (holding(0, 0, 0), "0-0/1", changed.clone()),
            (holding(20, 0, 20), "0-19/20", Publish),
            (holding(20, 0, 20), "19-19/20", Publish),
            (holding(20, 0, 20), "0-0/20", Publish),
            (holding(20, 0, 20), "0-0/21", changed),
            (holding(0, 0, 0), "*/0", Publish),
        ] {
            check_fragment(&session, text, PublishAt::LastFragment, expected);
        }
    }

    /// Decision 2: with `close-session` the last fragment publishes nothing.
    #[test]
    fn fragments_where_close_session_publishes() {
        use FragmentDecision::{Held, Write};
        for (session, text, expected) in [
            (fresh(), "*/0", Held { next: 0 }),
            (fresh(), "0-9/10", Write { skip: 0, length: 10 }),
            (holding(0, 0, 0), "*/0", Held { next: 0 }),
            (holding(20, 0, 20), "0-19/20", Held { next: 20 }),
        ] {
            check_fragment(&session, text, PublishAt::CloseSession, expected);
        }
    }

    /// A fragment after completion: the total, whatever it carries.
    #[test]
    fn fragments_after_completion() {
        use FragmentDecision::{Publish, Published, Refuse};
        for publish in [PublishAt::LastFragment, PublishAt::CloseSession] {
            for text in ["0-9/10", "9-9/10", "0-0/10"] {
                check_fragment(&in_state(State::Publish), text, publish, Publish);
                check_fragment(&in_state(State::WaitForClose), text, publish, Published { total: 10 });
            }
            for state in [State::Publish, State::WaitForClose] {
                let changed = Refuse(Refusal::Malformed("the total of Content-Range changed"));
                check_fragment(&in_state(state), "0-9/11", publish, changed);
            }
        }
    }

    /// Limits that were lowered since refuse no bytes that are held already.
    #[test]
    fn fragments_after_completion_are_not_measured() {
        let small =
            Directory { maximum_upload_size: 5, maximum_fragment_size: 5, ..directory(PublishAt::LastFragment) };
        let all = range("0-9/10");
        assert_eq!(in_state(State::WaitForClose).on_fragment(all, &small), FragmentDecision::Published { total: 10 });
        assert_eq!(in_state(State::Publish).on_fragment(all, &small), FragmentDecision::Publish);
    }

    /// Section 3.2.5.2.7 and decision 8.
    #[test]
    fn close_sessions() {
        use CloseDecision::{Discard, End, Publish, PublishEmpty, Refuse};
        let named = Session { fragment_seen: true, ..fresh() };
        let sent_back = Session { epoch: 1, ..holding(9, 9, 10) };
        for (session, native, overriding) in [
            (fresh(), Discard, PublishEmpty),
            (named, Discard, Discard),
            (holding(0, 0, 10), Discard, Discard),
            (holding(9, 9, 10), Discard, Discard),
            (sent_back, Refuse(Refusal::StagedDataVanished), Refuse(Refusal::StagedDataVanished)),
            (holding(10, 0, 10), Publish, Publish),
            (holding(0, 0, 0), Publish, Publish),
            (in_state(State::Publish), Publish, Publish),
            (in_state(State::WaitForClose), End, End),
        ] {
            assert_eq!(session.on_close(Form::Native), native, "{session:?}");
            assert_eq!(session.on_close(Form::Override), overriding, "{session:?}");
        }
    }

    #[test]
    fn doubts() {
        for (received, synced, incarnation, available, expected) in [
            (10, 10, "boot", 10, None),
            (10, 4, "boot", 10, None),
            (10, 4, "boot", 99, None),
            (10, 4, "boot", 9, Some(4)),
            (10, 4, "boot", 3, Some(3)),
            (10, 4, "boot", 0, Some(0)),
            (10, 4, "other", 10, Some(4)),
            (10, 4, "other", 7, Some(4)),
            (10, 4, "other", 2, Some(2)),
            (10, 10, "other", 10, None),
            (10, 10, "other", 9, Some(9)),
            (0, 0, "other", 0, None),
        ] {
            let session = holding(received, synced, 20);
            let doubt = session.doubt(incarnation, available);
            assert_eq!(doubt, expected, "{received} {synced} {incarnation} {available}");
        }
        for state in [State::Publish, State::WaitForClose] {
            assert_eq!(in_state(state).doubt("other", 0), None, "{state:?}");
        }
    }

    fn begin(total: u64) -> Transition {
        Transition::Begin { total, quota: Quota::NONE }
    }

    fn advance(to: u64, synced: u64) -> Transition {
        let (incarnation, handle) = ("boot 2".to_owned(), Some("handle".to_owned()));
        Transition::Advance { to, synced, incarnation, pieces: Vec::new(), handle, durable: false }
    }

    fn intend(total: u64) -> Transition {
        Transition::Intend { intent: PublishIntent("intent".to_owned()), total }
    }

    /// The session after a change that keeps it alive; none where the change does not fit.
    fn after(session: &Session, transition: &Transition) -> Option<Session> {
        match session.apply(transition, LATER) {
            Ok(After::Live(session)) => Some(session),
            Ok(After::Ended(tombstone)) => panic!("ended: {tombstone:?}"),
            Err(Illegal) => None,
        }
    }

    #[test]
    fn which_change_fits_which_state() {
        let postpone = Transition::Postpone { until: LATER };
        let (receiving, publishing, waiting) =
            (holding(5, 2, 10), in_state(State::Publish), in_state(State::WaitForClose));
        for (transition, while_receiving, while_publishing) in [
            (Transition::Name, true, false),
            (begin(10), true, false),
            (begin(11), false, false),
            (advance(6, 0), true, false),
            (advance(10, 10), true, false),
            (advance(5, 5), true, false),
            (advance(5, 2), false, false),
            (advance(4, 4), false, false),
            (advance(11, 0), false, false),
            (advance(6, 7), false, false),
            (Transition::Regress { to: 0 }, true, true),
            (Transition::Regress { to: 5 }, true, true),
            (Transition::Regress { to: 6 }, false, true),
            (Transition::Regress { to: 11 }, false, false),
            (intend(10), true, false),
            (intend(5), false, false),
            (intend(11), false, false),
            (Transition::Withdraw, false, true),
            (postpone, false, true),
            (Transition::Published, false, true),
        ] {
            assert_eq!(after(&receiving, &transition).is_some(), while_receiving, "{transition:?}");
            assert_eq!(after(&publishing, &transition).is_some(), while_publishing, "{transition:?}");
            assert_eq!(after(&waiting, &transition), None, "{transition:?}");
        }
        assert_eq!(after(&fresh(), &advance(1, 0)), None, "no size is fixed");
        assert!(after(&fresh(), &intend(10)).is_some() && after(&holding(10, 2, 10), &intend(10)).is_some());
        let wanted = Session { state: State::Notify, copy: true, ..holding(10, 10, 10) };
        assert!(after(&wanted, &intend(10)).is_some());
        for unfit in [
            Session { copy: false, ..wanted.clone() },
            Session { received: 9, synced: 9, ..wanted },
            holding(10, 2, 11),
            holding(10, 2, 9),
        ] {
            assert_eq!(after(&unfit, &intend(10)), None, "{unfit:?}");
        }
    }

    #[test]
    fn what_each_change_makes() {
        let receiving = holding(5, 2, 10);
        let named = Session { fragment_seen: true, ..fresh() };
        let begun = Session { total: Some(10), progressed_at: LATER, ..named.clone() };
        let advanced = Session {
            received: 8,
            synced: 6,
            incarnation: "boot 2".to_owned(),
            handle: Some("handle".to_owned()),
            progressed_at: LATER,
            ..receiving.clone()
        };
        let whole = holding(10, 2, 10);
        let intent = Some(PublishIntent("intent".to_owned()));
        let intended = Session { state: State::Publish, epoch: 1, synced: 10, intent, ..whole.clone() };
        let at_once = Session { progressed_at: LATER, incarnation: String::new(), ..intended.clone() };
        let postponed = Session { retry_at: Some(LATER), ..intended.clone() };
        let withdrawn = Session { epoch: 1, synced: 10, ..whole.clone() };
        let published = Session { state: State::WaitForClose, progressed_at: LATER, ..withdrawn.clone() };
        let reply = Some(Reply::Kept { length: 7 });
        let wanted = Session { copy: true, reply, notification: Some(Uuid::from_u128(1)), ..holding(10, 10, 10) };
        for (from, transition, to) in [
            (
                wanted.clone(),
                Transition::Regress { to: 3 },
                Session { received: 3, synced: 3, epoch: 1, copy: false, reply: None, ..wanted.clone() },
            ),
            (wanted.clone(), Transition::Regress { to: 10 }, Session { epoch: 1, ..wanted }),
            (fresh(), Transition::Name, named),
            (fresh(), begin(10), begun),
            (receiving.clone(), advance(8, 6), advanced),
            (
                receiving.clone(),
                advance(5, 4),
                Session { received: 5, synced: 4, ..after(&receiving, &advance(8, 6)).unwrap() },
            ),
            (receiving.clone(), advance(8, 1), Session { synced: 2, ..after(&receiving, &advance(8, 2)).unwrap() }),
            (receiving.clone(), Transition::Regress { to: 3 }, Session { received: 3, epoch: 1, ..receiving.clone() }),
            (
                receiving.clone(),
                Transition::Regress { to: 1 },
                Session { received: 1, synced: 1, epoch: 1, ..receiving },
            ),
            (whole, intend(10), intended.clone()),
            (fresh(), intend(10), at_once),
            (holding(5, 2, 10), intend(10), Session { progressed_at: LATER, ..intended.clone() }),
            (
                intended.clone(),
                Transition::Regress { to: 3 },
                Session { received: 3, synced: 3, epoch: 2, ..withdrawn.clone() },
            ),
            (postponed.clone(), Transition::Regress { to: 10 }, Session { epoch: 2, ..withdrawn.clone() }),
            (intended.clone(), Transition::Postpone { until: LATER }, postponed.clone()),
            (intended, Transition::Withdraw, withdrawn.clone()),
            (postponed.clone(), Transition::Withdraw, withdrawn),
            (postponed, Transition::Published, published),
        ] {
            assert_eq!(after(&from, &transition), Some(to), "{transition:?}");
        }
    }

    /// A commit without a new handle keeps the old one.
    #[test]
    fn a_handle_is_kept() {
        let session = Session { handle: Some("old".to_owned()), ..holding(5, 2, 10) };
        let step = Transition::Advance {
            to: 6,
            synced: 0,
            incarnation: String::new(),
            pieces: Vec::new(),
            handle: None,
            durable: true,
        };
        assert_eq!(after(&session, &step).unwrap().handle.as_deref(), Some("old"));
    }

    #[test]
    fn the_end_comes_from_anywhere() {
        for (session, published, unclean) in [
            (fresh(), None, true),
            (holding(5, 2, 10), None, true),
            (in_state(State::Publish), None, true),
            (in_state(State::WaitForClose), Some(10), false),
        ] {
            for ending in [Ending::Closed, Ending::Cancelled, Ending::Expired] {
                let Ok(After::Ended(tombstone)) = session.apply(&Transition::End(ending), LATER) else {
                    panic!("{session:?} did not end");
                };
                assert_eq!((tombstone.id, tombstone.ending), (session.id, ending));
                assert_eq!((tombstone.published, tombstone.unclean), (published, unclean), "{session:?}");
                assert_eq!((tombstone.ended_at, tombstone.keep_until), (LATER, LATER + TIMEOUT));
            }
        }
    }

    /// What nobody may hear of before it is safe.
    #[test]
    fn which_commits_survive_a_power_loss() {
        let durable_advance = Transition::Advance {
            to: 1,
            synced: 1,
            incarnation: String::new(),
            pieces: Vec::new(),
            handle: None,
            durable: true,
        };
        for (transition, durable) in [
            (Transition::Name, false),
            (begin(1), false),
            (begin(0), true),
            (Transition::Adopt { handle: String::new() }, true),
            (advance(1, 0), false),
            (durable_advance, true),
            (Transition::Regress { to: 0 }, true),
            (intend(1), true),
            (Transition::Withdraw, true),
            (Transition::Postpone { until: NOW }, false),
            (Transition::Published, true),
            (Transition::End(Ending::Closed), true),
        ] {
            assert_eq!(transition.is_durable(), durable, "{transition:?}");
        }
    }

    /// Decision 12: packets that come again after the end.
    #[test]
    fn answers_after_the_end() {
        let id = fresh().id;
        let fragment = Packet::Fragment(FragmentHead { session: id, range: range("0-9/10") });
        let (close, cancel) = (Packet::CloseSession(id), Packet::CancelSession(id));
        let (done, nothing) = (Some(None), None);
        for (state, ending, on_close, on_cancel, on_fragment) in [
            (State::WaitForClose, Ending::Closed, done, nothing, Some(Some(10))),
            (State::WaitForClose, Ending::Cancelled, nothing, done, nothing),
            (State::WaitForClose, Ending::Expired, nothing, nothing, nothing),
            (State::ReceiveFragments, Ending::Closed, done, nothing, nothing),
            (State::ReceiveFragments, Ending::Cancelled, nothing, done, nothing),
            (State::ReceiveFragments, Ending::Expired, nothing, nothing, nothing),
        ] {
            let Ok(After::Ended(tombstone)) = in_state(state).apply(&Transition::End(ending), NOW) else {
                panic!("the session did not end");
            };
            assert_eq!(tombstone.answer(&close), on_close, "{state:?} {ending:?}");
            assert_eq!(tombstone.answer(&cancel), on_cancel, "{state:?} {ending:?}");
            assert_eq!(tombstone.answer(&fragment), on_fragment, "{state:?} {ending:?}");
            assert_eq!(tombstone.answer(&Packet::Ping), nothing);
            assert_eq!(tombstone.answer(&Packet::CreateSession), nothing);
        }
    }

    /// Databases and listings keep these names.
    #[test]
    fn names_of_states() {
        let names = ["receiving", "notifying", "publishing", "complete"];
        assert_eq!(State::ALL.map(State::as_str), names);
    }
}
