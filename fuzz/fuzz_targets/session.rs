//! Fragments in any order against a session: it takes exactly the bytes that it wants next.
#![no_main]

use std::time::Duration;

use bits_core::{
    After, ContentRange, Directory, FragmentDecision, NewSession, Principal, Quota, Session, SessionId, StorageKey,
    Timestamp, Transition, VirtualPath,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|fragments: Vec<(u8, u8, u8, u8)>| {
    let directory = Directory::new("/upload", "files", StorageKey::ROOT);
    let mut session = session();
    for (start, length, total, came) in fragments {
        let (start, end) = (u64::from(start), u64::from(start) + u64::from(length));
        let Ok(range) = ContentRange::new(start, end, u64::from(total)) else { continue };
        let before = session.received;
        match session.on_fragment(range, &directory) {
            FragmentDecision::Write { skip, length } => {
                assert_eq!((start + skip, skip + length), (before, range.length()));
                assert!(session.total.is_none_or(|known| known == range.total()));
                session = write(&session, range.total(), before + length.min(u64::from(came)));
            }
            FragmentDecision::Held { next } => assert!(next == before && end <= before),
            FragmentDecision::Publish => {
                assert_eq!(Some(before), session.total);
                return;
            }
            FragmentDecision::Published { .. } => panic!("nothing was published"),
            FragmentDecision::Refuse(_) => {
                assert!(start > before || session.total.is_some_and(|known| known != range.total()));
            }
        }
        assert!(session.received >= before);
    }
});

fn session() -> Session {
    let new = NewSession {
        id: SessionId::new(uuid::Uuid::from_u128(1)),
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

fn write(session: &Session, total: u64, to: u64) -> Session {
    let begun = apply(session, &Transition::Begin { total, quota: Quota::NONE });
    if to == begun.received {
        return begun;
    }
    let (pieces, incarnation) = (Vec::new(), String::new());
    apply(&begun, &Transition::Advance { to, synced: to, incarnation, pieces, handle: None, durable: true })
}

fn apply(session: &Session, transition: &Transition) -> Session {
    match session.apply(transition, Timestamp::from_millis(0)).expect("the session allowed it") {
        After::Live(session) => session,
        After::Ended(_) => panic!("nothing ended it"),
    }
}
