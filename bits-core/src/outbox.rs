//! What others are told of sessions, and the outbox that keeps it until they have heard.
//!
//! A session store that is also an [`Outbox`] stores the events of a change in the transaction of
//! the change: nothing committed goes untold, whatever happens to the process. Who is told of what
//! is a list of [`Subscriber`]s that the store is opened with.

use std::time::Duration;

use async_trait::async_trait;

use crate::{
    After, Ending, Principal, Session, SessionId, SessionStoreError, State, StorageKey, Timestamp, Transition,
    VirtualPath,
};

/// Deliveries of events, written by the changes of a [`SessionStore`](crate::SessionStore).
///
/// Each delivery is of one event to one subscriber. Those of one session and subscriber come one
/// after the other, in the order of their commits. An event is delivered at least once: who claims
/// a delivery and does not come back has its claim lapse.
///
/// Every method may be cancelled by dropping its future; a change then either is committed whole
/// or is not there at all.
#[async_trait]
pub trait Outbox: Send + Sync + 'static {
    /// Claims at most `limit` deliveries to a subscriber that are due, for as long as `lease`:
    /// nobody else gets them meanwhile, nor what follows them in their sessions.
    async fn claim(&self, subscriber: &str, limit: u32, lease: Duration) -> Result<Vec<Delivery>, SessionStoreError>;

    /// Forgets a delivery: it has arrived.
    async fn delivered(&self, delivery: &Delivery) -> Result<(), SessionStoreError>;

    /// Gives a claim back: the delivery is due again after `pause`. Changes nothing where the
    /// claim has lapsed and somebody else holds one.
    async fn postpone(&self, delivery: &Delivery, pause: Duration) -> Result<(), SessionStoreError>;

    /// How long it is until something can be claimed for a subscriber, by a delivery that falls
    /// due or a claim that lapses; none when nothing is pending.
    async fn next_due(&self, subscriber: &str) -> Result<Option<Duration>, SessionStoreError>;

    /// How many deliveries to a subscriber are pending, of one session or of all.
    async fn pending(&self, subscriber: &str, session: Option<SessionId>) -> Result<u64, SessionStoreError>;

    /// At most `limit` events that are pending for a subscriber, of one session or of all, the
    /// newest first: for one who keeps them to look at, and claims none.
    async fn recent(
        &self,
        subscriber: &str,
        session: Option<SessionId>,
        limit: u32,
    ) -> Result<Vec<OutboxEvent>, SessionStoreError>;

    /// Drops at most `at_once` of a subscriber's events that are older or more than `keep` allows,
    /// oldest first; claimed ones stay. What is dropped is told as one [`Gap`], which takes in
    /// those that were not delivered yet. Returns how many events were dropped.
    async fn trim(&self, subscriber: &str, keep: Keep, at_once: u32) -> Result<u64, SessionStoreError>;

    /// Forgets the deliveries to all but these subscribers; returns how many.
    async fn forget_others(&self, subscribers: &[String]) -> Result<u64, SessionStoreError>;
}

/// Somebody who is told of events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscriber {
    /// What its deliveries are kept under.
    pub name: String,
    /// What it is told of; empty: everything.
    pub kinds: Vec<EventKind>,
    /// The `url_path`s of the directories that it is told of, in any ASCII case; empty: all.
    pub directories: Vec<String>,
}

/// What others can be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// A session was created.
    SessionCreated,
    /// An upload is complete: it stands at its destination, or the server application has it.
    UploadCompleted,
    /// A session was cancelled, or closed before its upload was complete.
    SessionCancelled,
    /// A session had no progress for its timeout.
    SessionExpired,
    /// The server application could not be told of an upload, or refused it.
    NotificationFailed,
}

/// What others are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxEvent {
    /// What happened.
    pub kind: EventKind,
    /// When, by the session store's clock.
    pub at: Timestamp,
    /// The session.
    pub session: SessionId,
    /// Who created it.
    pub principal: Principal,
    /// Where its Create-Session came from.
    pub address: String,
    /// `url_path` of its directory.
    pub directory: String,
    /// The destination's decoded path.
    pub destination: VirtualPath,
    /// Which storage the upload is for.
    pub storage: String,
    /// Where in that storage the upload is published.
    pub key: StorageKey,
    /// Size of the upload, once a fragment has said it.
    pub size: Option<u64>,
    /// Bytes held when it happened.
    pub received: u64,
    /// Whether the upload was complete when it happened.
    pub complete: bool,
    /// What went wrong, for people.
    pub reason: Option<String>,
}

/// Events that were dropped before they could be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// How many.
    pub dropped: u64,
    /// When the oldest of them happened.
    pub from: Timestamp,
    /// When the newest of them happened.
    pub until: Timestamp,
    /// When the last of them was dropped.
    pub at: Timestamp,
}

/// One event on its way to one subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its place in the outbox; never given twice.
    pub number: u64,
    /// How often it was claimed, this time included.
    pub attempt: u32,
    /// What is told.
    pub content: Content,
}

/// What a delivery tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Something that happened to a session.
    Event(OutboxEvent),
    /// Something that is not told any more.
    Gap(Gap),
}

/// How much of what a subscriber does not take is kept for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// For how long.
    pub age: Duration,
    /// How many events.
    pub count: u64,
}

impl Subscriber {
    /// Whether it is told of this event.
    pub fn wants(&self, event: &OutboxEvent) -> bool {
        let here = |directory: &String| directory.eq_ignore_ascii_case(&event.directory);
        (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && (self.directories.is_empty() || self.directories.iter().any(here))
    }
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::SessionCreated,
        Self::UploadCompleted,
        Self::SessionCancelled,
        Self::SessionExpired,
        Self::NotificationFailed,
    ];

    /// The name that configurations, databases and receivers know.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SessionCreated => "session.created",
            Self::UploadCompleted => "upload.completed",
            Self::SessionCancelled => "session.cancelled",
            Self::SessionExpired => "session.expired",
            Self::NotificationFailed => "notification.failed",
        }
    }
}

impl OutboxEvent {
    /// What is told of a new session.
    pub fn created(session: &Session) -> Self {
        Self::about(session, EventKind::SessionCreated, session.created_at)
    }

    /// What is told of a change that was made of `before`, if anything.
    pub fn of(before: &Session, transition: &Transition, after: &After) -> Option<Self> {
        let completed = |session: &Session| session.state == State::WaitForClose;
        match (transition, after) {
            (Transition::End(ending), After::Ended(tombstone)) => {
                let kind = match ending {
                    // That the upload was completed was told.
                    Ending::Closed if completed(before) => return None,
                    Ending::Closed | Ending::Cancelled => EventKind::SessionCancelled,
                    Ending::Expired => EventKind::SessionExpired,
                };
                Some(Self::about(before, kind, tombstone.ended_at))
            }
            (Transition::Undelivered { reason: Some(reason), at, .. }, After::Live(session)) => {
                let reason = Some(reason.clone());
                Some(Self { reason, ..Self::about(session, EventKind::NotificationFailed, *at) })
            }
            (_, After::Live(session)) if completed(session) && !completed(before) => {
                Some(Self::about(session, EventKind::UploadCompleted, session.progressed_at))
            }
            _ => None,
        }
    }

    fn about(session: &Session, kind: EventKind, at: Timestamp) -> Self {
        Self {
            kind,
            at,
            session: session.id,
            principal: session.principal.clone(),
            address: session.address.clone(),
            directory: session.directory.clone(),
            destination: session.destination.clone(),
            storage: session.storage.clone(),
            key: session.key.clone(),
            size: session.total,
            received: session.received,
            complete: session.state == State::WaitForClose,
            reason: None,
        }
    }
}

impl Gap {
    /// The gap that one event leaves.
    pub fn of(event_at: Timestamp, now: Timestamp) -> Self {
        Self { dropped: 1, from: event_at, until: event_at, at: now }
    }

    /// Both gaps as one.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self {
            dropped: self.dropped.saturating_add(other.dropped),
            from: self.from.min(other.from),
            until: self.until.max(other.until),
            at: self.at.max(other.at),
        }
    }
}

impl Delivery {
    /// The id of what is told: the same on every try and for every subscriber, of nothing else.
    pub fn event_id(&self) -> String {
        match &self.content {
            Content::Event(event) => {
                let session = event.session.uuid().hyphenated();
                match event.kind {
                    // All others happen to a session once.
                    EventKind::NotificationFailed => {
                        format!("{session}/{}/{}", event.kind.as_str(), event.at.as_millis())
                    }
                    kind => format!("{session}/{}", kind.as_str()),
                }
            }
            Content::Gap(gap) => format!("gap/{}/{}", self.number, gap.at.as_millis()),
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{NewSession, PublishIntent, Quota};

    const BEFORE: Timestamp = Timestamp::from_millis(1_000);
    const NOW: Timestamp = Timestamp::from_millis(2_000);

    fn fresh() -> Session {
        let new = NewSession {
            id: SessionId::new(Uuid::from_u128(1)),
            principal: Principal::named("jo@x"),
            address: "192.0.2.1".to_owned(),
            directory: "/Upload".to_owned(),
            destination: VirtualPath::from_decoded("/Upload/a/b").unwrap(),
            storage: "default".to_owned(),
            folder: StorageKey::parse("upload").unwrap(),
            key: StorageKey::parse("upload/a/b").unwrap(),
            timeout: Duration::from_secs(60),
            url: None,
            limit: None,
        };
        Session::create(&new, BEFORE)
    }

    fn in_state(state: State) -> Session {
        Session { state, total: Some(10), received: 10, synced: 10, ..fresh() }
    }

    fn told(before: &Session, transition: &Transition) -> Option<OutboxEvent> {
        OutboxEvent::of(before, transition, &before.apply(transition, NOW).unwrap())
    }

    #[test]
    fn a_new_session_is_told() {
        let event = OutboxEvent::created(&fresh());
        assert_eq!((event.kind, event.at, event.complete), (EventKind::SessionCreated, BEFORE, false));
        assert_eq!((event.size, event.received, event.reason), (None, 0, None));
        assert_eq!((event.key.as_str(), event.destination.as_str()), ("upload/a/b", "/Upload/a/b"));
        assert_eq!((event.principal.as_str(), event.address.as_str()), ("jo@x", "192.0.2.1"));
    }

    #[test]
    fn the_end_is_told_but_for_the_close_of_a_complete_upload() {
        use EventKind::{SessionCancelled, SessionExpired};
        for (state, ending, kind) in [
            (State::ReceiveFragments, Ending::Closed, Some(SessionCancelled)),
            (State::ReceiveFragments, Ending::Cancelled, Some(SessionCancelled)),
            (State::ReceiveFragments, Ending::Expired, Some(SessionExpired)),
            (State::Publish, Ending::Closed, Some(SessionCancelled)),
            (State::Publish, Ending::Cancelled, Some(SessionCancelled)),
            (State::WaitForClose, Ending::Closed, None),
            (State::WaitForClose, Ending::Cancelled, Some(SessionCancelled)),
            (State::WaitForClose, Ending::Expired, Some(SessionExpired)),
        ] {
            let event = told(&in_state(state), &Transition::End(ending));
            assert_eq!(event.as_ref().map(|event| event.kind), kind, "{state:?} {ending:?}");
            if let Some(event) = event {
                assert_eq!((event.at, event.complete), (NOW, state == State::WaitForClose), "{state:?} {ending:?}");
                assert_eq!((event.size, event.received), (Some(10), 10));
            }
        }
    }

    #[test]
    fn completion_is_told_once_and_steps_on_the_way_are_not() {
        let event = told(&in_state(State::Publish), &Transition::Published).unwrap();
        assert_eq!((event.kind, event.at, event.complete), (EventKind::UploadCompleted, NOW, true));
        assert_eq!((event.size, event.received), (Some(10), 10));
        let begun = Session { total: Some(10), ..fresh() };
        let advance = Transition::Advance {
            to: 10,
            synced: 0,
            incarnation: String::new(),
            pieces: Vec::new(),
            handle: None,
            durable: true,
        };
        for (before, transition) in [
            (fresh(), Transition::Name),
            (fresh(), Transition::Begin { total: 0, quota: Quota::NONE }),
            (begun, advance),
            (in_state(State::ReceiveFragments), Transition::Regress { to: 0 }),
            (in_state(State::ReceiveFragments), Transition::Intend { intent: PublishIntent(String::new()), total: 10 }),
            (in_state(State::Publish), Transition::Withdraw),
            (in_state(State::Publish), Transition::Postpone { until: NOW }),
        ] {
            assert_eq!(told(&before, &transition), None, "{transition:?}");
        }
    }

    #[test]
    fn subscribers_choose() {
        let event = OutboxEvent::created(&fresh());
        let subscriber = |kinds: &[EventKind], directories: &[&str]| Subscriber {
            name: "one".to_owned(),
            kinds: kinds.to_vec(),
            directories: directories.iter().map(|&path| path.to_owned()).collect(),
        };
        use EventKind::{SessionCreated, UploadCompleted};
        for (subscriber, wants) in [
            (subscriber(&[], &[]), true),
            (subscriber(&[UploadCompleted, SessionCreated], &[]), true),
            (subscriber(&[UploadCompleted], &[]), false),
            (subscriber(&[], &["/other", "/uPLOAD"]), true),
            (subscriber(&[], &["/other", "/Upload/a"]), false),
            (subscriber(&[SessionCreated], &["/upload"]), true),
            (subscriber(&[UploadCompleted], &["/upload"]), false),
            (subscriber(&[SessionCreated], &["/other"]), false),
        ] {
            assert_eq!(subscriber.wants(&event), wants, "{subscriber:?}");
        }
    }

    #[test]
    fn ids_are_one_for_each_event() {
        let event = |kind, at| {
            let event = OutboxEvent { kind, at, ..OutboxEvent::created(&fresh()) };
            Delivery { number: 7, attempt: 1, content: Content::Event(event) }
        };
        let mut ids: Vec<String> = EventKind::ALL.iter().map(|kind| event(*kind, NOW).event_id()).collect();
        ids.push(event(EventKind::NotificationFailed, BEFORE).event_id());
        let gap = Gap { dropped: 2, from: BEFORE, until: NOW, at: NOW };
        let gap = |number| Delivery { number, attempt: 1, content: Content::Gap(gap) };
        ids.extend([gap(1).event_id(), gap(2).event_id()]);
        let mut unique = ids.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), 8, "{ids:?}");
        let later = Delivery { number: 9, attempt: 5, ..event(EventKind::SessionCreated, NOW) };
        assert_eq!(ids[0], later.event_id(), "another subscriber, another try");
    }

    /// Configurations and receivers know these names.
    #[test]
    fn names_of_events() {
        let names = EventKind::ALL.map(EventKind::as_str);
        assert_eq!(
            names,
            ["session.created", "upload.completed", "session.cancelled", "session.expired", "notification.failed"]
        );
    }
}
