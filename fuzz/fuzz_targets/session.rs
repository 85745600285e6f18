//! Packets and changes in any order against a session: it takes exactly the bytes that it wants
//! next, is complete once and for good, and no change leaves it in a state that cannot be.
#![no_main]

use std::time::Duration;

use bits_core::{
    After, CloseDecision, ContentRange, Directory, Ending, Form, FragmentDecision, FragmentHead, Hresult, NewSession,
    Notification, NotificationMode, Packet, Principal, PublishAt, PublishIntent, Quota, Refusal, Reply, Session,
    SessionId, State, StorageKey, Timestamp, Tombstone, Transition, VirtualPath,
};
use libfuzzer_sys::fuzz_target;
use uuid::Uuid;

/// What happens: its kind, and three numbers for it.
type Event = (u8, u8, u8, u8);

fuzz_target!(|input: (u8, Vec<Event>)| {
    let directory = directory(input.0);
    let mut session = session();
    for (at, event) in input.1.into_iter().enumerate() {
        let now = Timestamp::from_millis(1 + at as i64);
        match step(&session, event, &directory, now) {
            Some(After::Live(next)) => session = next,
            Some(After::Ended(tombstone)) => return check_end(&session, &tombstone, now),
            None => {}
        }
    }
});

/// A packet as the server acts on it, or a change as a job or a mistaken caller would ask for it.
fn step(session: &Session, event: Event, directory: &Directory, now: Timestamp) -> Option<After> {
    let (kind, a, b, c) = event;
    match kind % 16 {
        0..4 => {
            let (start, end) = (u64::from(a), u64::from(a) + u64::from(b));
            on_fragment(session, ContentRange::new(start, end, u64::from(c)).ok()?, directory, now)
        }
        // The next bytes, so that uploads come to an end.
        4..6 => {
            let total = session.total.unwrap_or(u64::from(c));
            let end = total.min(session.received + u64::from(a));
            on_fragment(session, ContentRange::new(session.received, end, total).ok()?, directory, now)
        }
        6 => on_close(session, if a & 1 == 0 { Form::Native } else { Form::Override }, directory, now),
        7 => on_doubt(session, a, u64::from(b), now),
        _ => change(session, &transition(event, now), now),
    }
}

fn on_fragment(session: &Session, range: ContentRange, directory: &Directory, now: Timestamp) -> Option<After> {
    let before = session.received;
    let same_total = session.total.is_none_or(|known| known == range.total());
    match session.on_fragment(range, directory) {
        FragmentDecision::Write { skip, length } => {
            assert_eq!(session.state, State::ReceiveFragments);
            assert_eq!((range.start() + skip, skip + length), (before, range.length()));
            assert!(same_total && length > 0 && session.refused.is_none());
            assert!(range.total() <= directory.maximum_upload_size);
            assert!(range.length() <= directory.maximum_fragment_size);
            let begun = must(session, &Transition::Begin { total: range.total(), quota: Quota::NONE }, now);
            let advanced = change(&begun, &advance(before + length, 0, true), now)?;
            if range.end() == range.total() && !session.awaits_application(directory) {
                check_joined(session, &advanced, range.total(), now);
            }
            Some(advanced)
        }
        FragmentDecision::Held { next } => {
            assert!(next == before && range.end() <= before && same_total);
            assert_eq!(session.state, State::ReceiveFragments);
            None
        }
        FragmentDecision::Publish => {
            assert!(same_total && (session.state.is_job() || before == range.total()));
            let whole = Transition::Begin { total: range.total(), quota: Quota::NONE };
            let session = if session.state.is_job() { session.clone() } else { must(session, &whole, now) };
            publish(&session, directory, now)
        }
        FragmentDecision::Published { total } => {
            assert_eq!((session.state, session.total), (State::WaitForClose, Some(total)));
            None
        }
        FragmentDecision::Refuse(refusal) => {
            let deserved = match refusal {
                Refusal::Gap { next } => next == before && range.start() > before && same_total,
                Refusal::TooLarge => range.total() > directory.maximum_upload_size,
                Refusal::FragmentTooLarge => range.length() > directory.maximum_fragment_size,
                Refusal::Application { .. } => session.refused.is_some(),
                _ => !same_total,
            };
            assert!(deserved, "{refusal:?} to {range} in {session:?}");
            None
        }
    }
}

fn on_close(session: &Session, form: Form, directory: &Directory, now: Timestamp) -> Option<After> {
    let receiving = session.state == State::ReceiveFragments;
    match session.on_close(form) {
        CloseDecision::End => {
            assert_eq!(session.state, State::WaitForClose);
            change(session, &Transition::End(Ending::Closed), now)
        }
        CloseDecision::Discard => {
            assert!(receiving && !session.is_received(), "a whole upload is thrown away: {session:?}");
            change(session, &Transition::End(Ending::Closed), now)
        }
        CloseDecision::Publish => {
            assert!(session.is_received() && (!receiving || session.refused.is_none()));
            publish(session, directory, now)
        }
        CloseDecision::PublishEmpty => {
            assert!(receiving && form == Form::Override && !session.fragment_seen && session.received == 0);
            let begun = must(session, &Transition::Begin { total: 0, quota: Quota::NONE }, now);
            publish(&begun, directory, now)
        }
        CloseDecision::Refuse(Refusal::StagedDataVanished) => {
            assert!(receiving && !session.is_received() && session.epoch > 0);
            None
        }
        CloseDecision::Refuse(refusal) => {
            assert!(refusal.is_application() && session.refused.is_some());
            None
        }
    }
}

/// The next stage of a whole upload, which always can be begun or finished.
fn publish(session: &Session, directory: &Directory, now: Timestamp) -> Option<After> {
    let next = match session.state {
        State::ReceiveFragments if session.awaits_application(directory) => Transition::Notify { id: id(1) },
        State::ReceiveFragments => intend("intent", session.received),
        State::Notify if session.copy => intend("intent", session.received),
        State::Notify => Transition::Delivered { reply: None, copy: true },
        State::Publish => Transition::Published,
        State::WaitForClose => panic!("it is complete: {session:?}"),
    };
    Some(After::Live(must(session, &next, now)))
}

/// After a restart with so many bytes there.
fn on_doubt(session: &Session, incarnation: u8, available: u64, now: Timestamp) -> Option<After> {
    let incarnation = if incarnation & 1 == 0 { session.incarnation.as_str() } else { "another" };
    let to = session.doubt(incarnation, available)?;
    assert!(to < session.received && to <= available.max(session.synced));
    let back = must(session, &Transition::Regress { to }, now);
    assert_eq!(back.doubt(incarnation, available.max(to)), None, "what is left is in doubt again");
    Some(After::Live(back))
}

fn transition((kind, a, b, c): Event, now: Timestamp) -> Transition {
    let number = u64::from(a);
    match kind % 16 {
        8 => match a % 3 {
            0 => Transition::Name,
            1 => Transition::Withdraw,
            _ => Transition::Published,
        },
        9 => Transition::Begin { total: number, quota: Quota::NONE },
        10 => advance(number, u64::from(b), c & 1 == 0),
        11 => Transition::Regress { to: number },
        12 => Transition::Notify { id: id(a) },
        13 if a & 1 == 0 => Transition::Delivered { reply: reply(b), copy: c & 1 == 0 },
        13 => Transition::Undelivered { refused: (b & 1 == 0).then_some(Hresult(c.into())), reason: None, at: now },
        14 if a & 1 == 0 => intend(&b.to_string(), c.into()),
        14 => Transition::Postpone { until: Timestamp::from_millis(c.into()) },
        // Seldom, so that most sessions live long.
        _ if a < 16 => Transition::End([Ending::Closed, Ending::Cancelled, Ending::Expired][usize::from(b % 3)]),
        _ => Transition::Name,
    }
}

fn advance(to: u64, synced: u64, durable: bool) -> Transition {
    let synced = if durable { to } else { synced };
    let (incarnation, pieces) = ("boot".to_owned(), Vec::new());
    Transition::Advance { to, synced, incarnation, pieces, handle: None, durable }
}

fn intend(intent: &str, total: u64) -> Transition {
    Transition::Intend { intent: PublishIntent(intent.to_owned()), total }
}

/// The last bytes committed with the intent come to what they come to when they are committed before it.
fn check_joined(before: &Session, advanced: &After, total: u64, now: Timestamp) {
    let After::Live(advanced) = advanced else { panic!("bytes ended {before:?}") };
    let joined = must(before, &intend("intent", total), now);
    let apart = must(advanced, &intend("intent", total), now);
    // Bytes that are published are in no doubt, whichever start of the store wrote them.
    assert_eq!(Session { incarnation: apart.incarnation.clone(), ..joined }, apart);
}

/// A change that the session may refuse; what it makes of one is checked.
fn change(session: &Session, transition: &Transition, now: Timestamp) -> Option<After> {
    let after = session.apply(transition, now).ok()?;
    if let After::Live(next) = &after {
        check_identity(session, next);
        check_change(session, transition, next);
        check_state(next);
    }
    Some(after)
}

/// A change that the session has allowed by its decision.
fn must(session: &Session, transition: &Transition, now: Timestamp) -> Session {
    match change(session, transition, now) {
        Some(After::Live(next)) => next,
        after => panic!("{transition:?} of {session:?} became {after:?}"),
    }
}

/// What a session is never changes.
fn check_identity(before: &Session, after: &Session) {
    let kept = |session: &Session| Session {
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
        notification: None,
        copy: false,
        reply: None,
        refused: None,
        progressed_at: Timestamp::from_millis(0),
        ..session.clone()
    };
    assert_eq!(kept(before), kept(after));
}

fn check_change(before: &Session, transition: &Transition, after: &Session) {
    assert_ne!(before.state, State::WaitForClose, "a complete session was changed by {transition:?}");
    assert!(after.epoch >= before.epoch && after.progressed_at >= before.progressed_at);
    assert!(before.total.is_none() || after.total == before.total, "the size changed by {transition:?}");
    assert!(before.notification.is_none() || after.notification == before.notification);
    assert!(!before.fragment_seen || after.fragment_seen);
    if after.received < before.received || after.synced < before.synced {
        assert!(matches!(transition, Transition::Regress { .. }), "bytes were lost by {transition:?}");
    }
    // Whoever works on what was taken back must notice.
    let withdrawn = matches!(transition, Transition::Regress { .. });
    let begun = after.state.is_job() && after.state != before.state;
    assert!(after.epoch > before.epoch || !(withdrawn || begun), "{transition:?}");
    if after.state == State::WaitForClose {
        assert!(before.state.is_job(), "{transition:?} of {before:?} completed it");
    }
}

fn check_state(session: &Session) {
    assert!(session.synced <= session.received, "{session:?}");
    assert!(session.received <= session.total.unwrap_or(0), "{session:?}");
    assert_eq!(session.intent.is_some(), session.state == State::Publish, "{session:?}");
    assert!(session.retry_at.is_none() || session.state.is_job(), "{session:?}");
    if session.state != State::ReceiveFragments {
        assert!(session.is_received() && session.synced == session.received, "{session:?}");
    }
    if session.state == State::Notify {
        assert!(session.notification.is_some() && session.refused.is_none(), "{session:?}");
    }
    if session.copy {
        assert!(session.notification.is_some() && session.is_received(), "{session:?}");
    }
}

/// What is left of it answers the packets that come again, and says what stands published.
fn check_end(session: &Session, tombstone: &Tombstone, now: Timestamp) {
    let complete = session.state == State::WaitForClose;
    assert_eq!((tombstone.id, &tombstone.principal, &tombstone.key), (session.id, &session.principal, &session.key));
    assert_eq!(tombstone.published, session.total.filter(|_| complete));
    assert!(tombstone.unclean || complete);
    assert!(tombstone.ended_at == now && tombstone.keep_until >= now);
    let closed = tombstone.answer(&Packet::CloseSession(session.id));
    assert_eq!(closed, (tombstone.ending == Ending::Closed).then_some(None));
    let cancelled = tombstone.answer(&Packet::CancelSession(session.id));
    assert_eq!(cancelled, (tombstone.ending == Ending::Cancelled).then_some(None));
    let range = ContentRange::EMPTY;
    let fragment = tombstone.answer(&Packet::Fragment(FragmentHead { session: session.id, range }));
    assert!(fragment.is_none_or(|total| complete && total == session.total), "{fragment:?}");
}

fn directory(which: u8) -> Directory {
    let notification = || Notification {
        mode: NotificationMode::ByValue,
        url: "http://app/".to_owned(),
        timeout: Duration::from_secs(1),
        limit: None,
    };
    let limit = |bit: u8, least| if which & bit == 0 { u64::MAX } else { least };
    Directory {
        publish: if which & 1 == 0 { PublishAt::LastFragment } else { PublishAt::CloseSession },
        notification: (which & 2 != 0).then(notification),
        maximum_upload_size: limit(4, 200),
        maximum_fragment_size: limit(8, 100),
        ..Directory::new("/upload", "files", StorageKey::ROOT)
    }
}

fn session() -> Session {
    let new = NewSession {
        id: SessionId::new(id(1)),
        principal: Principal::ANONYMOUS,
        address: "fuzz".to_owned(),
        directory: "/upload".to_owned(),
        destination: VirtualPath::decode("/upload/a").expect("it is a path"),
        storage: "files".to_owned(),
        folder: StorageKey::ROOT,
        key: StorageKey::parse("a").expect("it is a key"),
        timeout: Duration::from_secs(3600),
        url: None,
        limit: None,
    };
    Session::create(&new, Timestamp::from_millis(0))
}

fn reply(which: u8) -> Option<Reply> {
    match which % 3 {
        0 => None,
        1 => Some(Reply::Static("http://app/reply".to_owned())),
        _ => Some(Reply::Kept { length: which.into() }),
    }
}

fn id(number: u8) -> Uuid {
    Uuid::from_u128(number.into())
}
