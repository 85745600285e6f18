//! What every [`Outbox`] must do: tell what [`OutboxEvent`] says of each change, in order, to
//! whoever wants it, until it has arrived.
#![allow(clippy::unwrap_used, reason = "these are tests, though not compiled as such")]

use std::{collections::BTreeSet, future::Future, time::Duration};

use super::session_cases::{
    Stage, advance, at_once, begin, drive, ended, intend, live, load, piece, plain, poll_once, reach, transitions,
};
use crate::{
    After, Commit, Content, Delivery, Ending, EventKind, Found, Gap, Keep, NewSession, Outbox, OutboxEvent, Principal,
    Quota, Session, SessionId, SessionStore, SessionStoreError, StorageKey, Subscriber, Transition, VirtualPath,
};

/// A store under test, opened for [`outbox_subscribers`].
pub trait OutboxProbe: Send + Sync + 'static {
    /// The store's type.
    type Store: SessionStore + Outbox;

    /// The store.
    fn store(&self) -> &Self::Store;

    /// Lets the store's clock go on by at least `time`, some ten milliseconds.
    fn pass(&self, time: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(time)
    }
}

/// Whom the stores under test tell.
pub fn outbox_subscribers() -> Vec<Subscriber> {
    let named = |name: &str| Subscriber { name: name.to_owned(), ..Subscriber::default() };
    vec![
        named(ALL),
        Subscriber { kinds: vec![EventKind::UploadCompleted, EventKind::SessionExpired], ..named(SOME) },
        Subscriber { directories: vec!["/elseWHERE".to_owned(), "/else/where".to_owned()], ..named(ELSEWHERE) },
    ]
}

const ALL: &str = "all";
const SOME: &str = "some kinds";
const ELSEWHERE: &str = "élse'where\"%";

const SHORT: Duration = Duration::from_millis(20);
const MOMENT: Duration = Duration::from_millis(60);
const HOUR: Duration = Duration::from_secs(3600);
const EVERYTHING: Keep = Keep { age: HOUR, count: 1_000_000 };

/// Each change of each state is told as [`OutboxEvent::of`] says, and so is a new session.
pub(super) async fn changes_tell_what_they_are(probe: impl OutboxProbe) {
    let store = probe.store();
    for stage in Stage::ALL {
        for transition in transitions(&reach(store, stage).await) {
            let session = reach(store, stage).await;
            take_all(store, ALL).await;
            let expected = match store.commit(&session, &transition).await {
                Ok(Commit::Live(after)) => OutboxEvent::of(&session, &transition, &After::Live(after)),
                Ok(Commit::Ended(after)) => OutboxEvent::of(&session, &transition, &After::Ended(after)),
                Ok(Commit::Moved | Commit::Claimed(_) | Commit::Exceeds(_)) | Err(SessionStoreError::Illegal(_)) => {
                    None
                }
                Err(error) => panic!("{error}"),
            };
            let told = take_all(store, ALL).await;
            assert_eq!(told, Vec::from_iter(expected), "{transition:?} from {session:?}");
        }
    }
    let session = reach(store, Stage::Fresh).await;
    assert_eq!(take_all(store, ALL).await, [OutboxEvent::created(&session)]);
}

/// What is refused, or comes too late, is not told.
pub(super) async fn a_change_that_is_not_made_tells_nothing(probe: impl OutboxProbe) {
    let store = probe.store();
    let of = |limit| NewSession { principal: Principal::named("a@x"), limit: Some(limit), ..plain() };
    let session = store.create(&of(1)).await.unwrap();
    let session = drive(store, session, Stage::Publish).await;
    take_all(store, ALL).await;
    assert!(matches!(store.create(&of(1)).await, Err(SessionStoreError::Limit)));
    assert!(store.create(&NewSession { id: session.id, ..plain() }).await.is_err());
    let stale = Session { epoch: session.epoch + 1, ..session.clone() };
    for transition in [Transition::Published, Transition::End(Ending::Cancelled)] {
        assert_eq!(store.commit(&stale, &transition).await.unwrap(), Commit::Moved);
    }
    assert_eq!(take_all(store, ALL).await, []);
    ended(store.commit(&session, &Transition::End(Ending::Cancelled)).await);
    assert_eq!(store.commit(&session, &Transition::End(Ending::Expired)).await.unwrap(), Commit::Moved);
    assert_eq!(kinds(take_all(store, ALL).await), [EventKind::SessionCancelled]);
}

/// A change whose future is dropped is told if it was made, and not if it was not.
pub(super) async fn a_dropped_change_tells_as_much_as_it_does(probe: impl OutboxProbe) {
    let store = probe.store();
    for polls in 0..8 {
        let session = completed(store).await;
        take_all(store, ALL).await;
        let end = Transition::End(Ending::Cancelled);
        let mut commit = store.commit(&session, &end);
        for _ in 0..polls {
            if poll_once(&mut commit).await {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(commit);
        // It may still be under way: whoever commits next knows.
        let _ = store.commit(&session, &end).await;
        assert!(matches!(load(store, session.id).await, Some(Found::Ended(_))));
        assert_eq!(kinds(take_all(store, ALL).await), [EventKind::SessionCancelled], "after {polls} polls");
    }
}

/// Kinds and directories say who is told; an event has one id for all.
pub(super) async fn subscribers_are_told_what_they_want(probe: impl OutboxProbe) {
    let store = probe.store();
    let mut expected: [Vec<String>; 3] = Default::default();
    for (directory, elsewhere) in [("/upload", false), ("/Elsewhere", true), ("/Else/Where", true), ("/else", false)] {
        let new = NewSession { directory: directory.to_owned(), ..plain() };
        let session = store.create(&new).await.unwrap();
        let session = complete(store, session).await;
        ended(store.commit(&session, &Transition::End(Ending::Cancelled)).await);
        let told = take_ids(store, ALL).await;
        assert_eq!(told.len(), 3);
        expected[1].push(told[1].clone());
        if elsewhere {
            expected[2].extend(told.iter().cloned());
        }
        expected[0].extend(told);
    }
    assert_eq!(expected[0].iter().collect::<BTreeSet<_>>().len(), 12, "ids are unique: {expected:?}");
    assert_eq!(sorted(take_ids(store, SOME).await), sorted(expected[1].clone()));
    assert_eq!(sorted(take_ids(store, ELSEWHERE).await), sorted(expected[2].clone()));
    assert_eq!(take_ids(store, "nobody").await, [""; 0]);
}

/// What happened to a session is claimed in its order, one after the other has arrived.
pub(super) async fn a_session_is_told_in_order(probe: impl OutboxProbe) {
    let store = probe.store();
    let session = completed(store).await;
    ended(store.commit(&session, &Transition::End(Ending::Expired)).await);
    for (kind, left) in
        [(EventKind::SessionCreated, 3), (EventKind::UploadCompleted, 2), (EventKind::SessionExpired, 1)]
    {
        assert_eq!(store.pending(ALL, None).await.unwrap(), left);
        let claimed = store.claim(ALL, 10, HOUR).await.unwrap();
        assert_eq!((claimed.len(), claimed[0].attempt), (1, 1), "{claimed:?}");
        assert_eq!(kinds(events(&claimed)), [kind]);
        assert_eq!(store.claim(ALL, 10, HOUR).await.unwrap(), []);
        for _ in 0..2 {
            store.delivered(&claimed[0]).await.unwrap();
        }
    }
    assert_eq!(store.pending(ALL, None).await.unwrap(), 0);
}

/// A session that waits holds nobody else up.
pub(super) async fn sessions_do_not_wait_for_each_other(probe: impl OutboxProbe) {
    let store = probe.store();
    let mut sessions = BTreeSet::new();
    for _ in 0..5 {
        sessions.insert(completed(store).await.id);
    }
    let stuck = claim_one(store, ALL, HOUR).await;
    store.postpone(&stuck, HOUR).await.unwrap();
    let told = take_all(store, ALL).await;
    sessions.remove(&session_of(&stuck));
    assert_eq!(told.iter().map(|event| event.session).collect::<BTreeSet<_>>(), sessions);
    assert_eq!(told.len(), 8);
    assert_eq!(store.pending(ALL, None).await.unwrap(), 2);
    assert_eq!(store.pending(ALL, Some(session_of(&stuck))).await.unwrap(), 2);
    assert_eq!(store.pending(ALL, sessions.first().copied()).await.unwrap(), 0);
}

/// Who claims has the delivery alone; who does not come back loses it.
pub(super) async fn a_claim_keeps_others_out_until_it_lapses(probe: impl OutboxProbe) {
    let store = probe.store();
    let (kept, lapsed) = (reach(store, Stage::Fresh).await, completed(store).await);
    let first = store.claim(ALL, 10, SHORT).await.unwrap();
    assert_eq!(first.len(), 2);
    let mine = |claims: &[Delivery], session: &Session| {
        claims.iter().find(|delivery| session_of(delivery) == session.id).cloned().unwrap()
    };
    store.delivered(&mine(&first, &kept)).await.unwrap();
    probe.pass(MOMENT).await;
    let again = store.claim(ALL, 10, HOUR).await.unwrap();
    let before = mine(&first, &lapsed);
    assert_eq!(again, [Delivery { attempt: 2, ..before.clone() }], "the same once more, and nothing after it");
    assert_eq!(again[0].event_id(), before.event_id());
}

/// However many claim at once, each delivery is claimed by one.
pub(super) async fn one_of_many_claims_each_delivery(probe: impl OutboxProbe) {
    let probe = std::sync::Arc::new(probe);
    for _ in 0..20 {
        reach(probe.store(), Stage::Fresh).await;
    }
    let claims = at_once(8, |_| {
        let probe = std::sync::Arc::clone(&probe);
        async move { probe.store().claim(ALL, 4, HOUR).await.unwrap() }
    })
    .await;
    assert!(claims.iter().all(|claim| claim.len() <= 4), "{claims:?}");
    let numbers: Vec<u64> = claims.iter().flatten().map(|delivery| delivery.number).collect();
    assert_eq!(numbers.len(), 20);
    assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), 20, "{numbers:?}");
}

/// A postponed delivery waits, and what follows it in its session does too.
pub(super) async fn a_postponed_delivery_waits(probe: impl OutboxProbe) {
    let store = probe.store();
    completed(store).await;
    let first = claim_one(store, ALL, HOUR).await;
    store.postpone(&first, SHORT + MOMENT).await.unwrap();
    assert_eq!(store.claim(ALL, 10, HOUR).await.unwrap(), []);
    probe.pass(SHORT + MOMENT).await;
    let again = claim_one(store, ALL, HOUR).await;
    assert_eq!(again, Delivery { attempt: 2, ..first });
    store.postpone(&again, Duration::ZERO).await.unwrap();
    assert_eq!(claim_one(store, ALL, HOUR).await, Delivery { attempt: 3, ..again });
}

/// Who lost a claim does not move what somebody else holds.
pub(super) async fn a_lapsed_claim_postpones_nothing(probe: impl OutboxProbe) {
    let store = probe.store();
    reach(store, Stage::Fresh).await;
    let lapsed = claim_one(store, ALL, SHORT).await;
    probe.pass(MOMENT).await;
    let held = claim_one(store, ALL, HOUR).await;
    store.postpone(&lapsed, Duration::ZERO).await.unwrap();
    assert_eq!(store.claim(ALL, 10, HOUR).await.unwrap(), []);
    store.postpone(&held, Duration::ZERO).await.unwrap();
    // Given back already.
    store.postpone(&held, HOUR).await.unwrap();
    assert_eq!(claim_one(store, ALL, HOUR).await.attempt, 3);
}

/// What has arrived has arrived, also where the claim had lapsed; and nothing else is taken for it.
pub(super) async fn a_lapsed_claim_delivers(probe: impl OutboxProbe) {
    let store = probe.store();
    reach(store, Stage::Fresh).await;
    let lapsed = claim_one(store, ALL, SHORT).await;
    probe.pass(MOMENT).await;
    claim_one(store, ALL, HOUR).await;
    store.delivered(&lapsed).await.unwrap();
    assert_eq!(store.pending(ALL, None).await.unwrap(), 0);
    let next = reach(store, Stage::Fresh).await;
    store.delivered(&lapsed).await.unwrap();
    assert_eq!(take_all(store, ALL).await, [OutboxEvent::created(&next)]);
}

/// It is said how long to wait.
pub(super) async fn the_next_due_time_is_told(probe: impl OutboxProbe) {
    let store = probe.store();
    assert_eq!(store.next_due(ALL).await.unwrap(), None);
    let next = async || store.next_due(ALL).await.unwrap().unwrap();
    completed(store).await;
    assert_eq!(next().await, Duration::ZERO);
    let about_an_hour = HOUR - Duration::from_secs(60)..=HOUR;
    let first = claim_one(store, ALL, HOUR).await;
    let wait = next().await;
    assert!(about_an_hour.contains(&wait), "until the claim lapses: {wait:?}");
    store.postpone(&first, HOUR * 2).await.unwrap();
    let wait = next().await;
    assert!(wait > HOUR && wait <= HOUR * 2, "until it is due: {wait:?}");
    reach(store, Stage::Fresh).await;
    assert_eq!(next().await, Duration::ZERO, "another session");
    store.delivered(&first).await.unwrap();
    take_all(store, ALL).await;
    assert_eq!(store.next_due(ALL).await.unwrap(), None);
}

/// Subscribers have nothing to do with each other.
pub(super) async fn subscribers_do_not_wait_for_each_other(probe: impl OutboxProbe) {
    let store = probe.store();
    let session = completed(store).await;
    let stuck = claim_one(store, ALL, HOUR).await;
    store.postpone(&stuck, HOUR).await.unwrap();
    assert_eq!(kinds(take_all(store, SOME).await), [EventKind::UploadCompleted]);
    assert_eq!(store.next_due(SOME).await.unwrap(), None);
    assert_eq!(store.trim(SOME, Keep { age: HOUR, count: 0 }, 10).await.unwrap(), 0);
    assert_eq!(store.pending(ALL, Some(session.id)).await.unwrap(), 2);
    assert_eq!(store.pending(SOME, Some(session.id)).await.unwrap(), 0);
}

/// What nobody takes for too long is dropped, and that is told.
pub(super) async fn what_is_too_old_is_dropped(probe: impl OutboxProbe) {
    let store = probe.store();
    let keep = Keep { age: MOMENT, ..EVERYTHING };
    let old = [reach(store, Stage::Fresh).await, reach(store, Stage::Fresh).await, reach(store, Stage::Fresh).await];
    let postponed = claim_one(store, ALL, HOUR).await;
    store.postpone(&postponed, HOUR).await.unwrap();
    assert_eq!(store.trim(ALL, EVERYTHING, 10).await.unwrap(), 0);
    probe.pass(MOMENT * 2).await;
    let young = reach(store, Stage::Fresh).await;
    assert_eq!(store.trim(ALL, keep, 2).await.unwrap(), 2);
    assert_eq!(store.trim(ALL, keep, 2).await.unwrap(), 1);
    let at = store.now().await.unwrap();
    let (events, gap) = take_with_gap(store).await;
    assert_eq!(events, [OutboxEvent::created(&young)]);
    let times = old.each_ref().map(|session| session.created_at);
    assert_eq!(gap, Gap { dropped: 3, from: times[0], until: times[2], at: gap.at });
    assert!(gap.at <= at && at.since(gap.at) < HOUR, "{gap:?} at {at:?}");
}

/// Of what is more than is kept, the oldest is dropped, and that is told.
pub(super) async fn what_is_too_much_is_dropped(probe: impl OutboxProbe) {
    let store = probe.store();
    let mut sessions = Vec::new();
    for _ in 0..7 {
        sessions.push(reach(store, Stage::Fresh).await);
        probe.pass(SHORT).await;
    }
    let keep = Keep { count: 3, ..EVERYTHING };
    assert_eq!(store.trim(ALL, Keep { count: 7, ..EVERYTHING }, 10).await.unwrap(), 0);
    assert_eq!(store.trim(ALL, keep, 3).await.unwrap(), 3);
    assert_eq!(store.trim(ALL, keep, 3).await.unwrap(), 1);
    assert_eq!(store.trim(ALL, keep, 3).await.unwrap(), 0, "a gap is no event");
    let (events, gap) = take_with_gap(store).await;
    assert_eq!(events, sessions[4..].iter().map(OutboxEvent::created).collect::<Vec<_>>());
    assert_eq!((gap.dropped, gap.from, gap.until), (4, sessions[0].created_at, sessions[3].created_at));
}

/// What is on its way is not dropped, until the claim lapses.
pub(super) async fn claimed_events_are_not_dropped(probe: impl OutboxProbe) {
    let store = probe.store();
    for _ in 0..3 {
        reach(store, Stage::Fresh).await;
    }
    let none = Keep { age: Duration::ZERO, count: 0 };
    let claimed = claim_one(store, ALL, HOUR).await;
    let lapsing = claim_one(store, ALL, SHORT).await;
    probe.pass(MOMENT).await;
    assert_eq!(store.trim(ALL, none, 10).await.unwrap(), 2);
    store.postpone(&lapsing, Duration::ZERO).await.unwrap();
    assert_eq!(store.pending(ALL, Some(session_of(&claimed))).await.unwrap(), 1);
    assert_eq!(store.pending(ALL, None).await.unwrap(), 2, "and the gap");
}

/// However often something is dropped, it is told at once; what is on its way is not changed.
pub(super) async fn gaps_are_joined(probe: impl OutboxProbe) {
    let store = probe.store();
    let none = Keep { age: HOUR, count: 0 };
    let mut from = None;
    for _ in 0..3 {
        from.get_or_insert(reach(store, Stage::Fresh).await.created_at);
        assert_eq!(store.trim(ALL, none, 10).await.unwrap(), 1);
    }
    assert_eq!(store.pending(ALL, None).await.unwrap(), 1);
    let on_its_way = claim_one(store, ALL, HOUR).await;
    let Content::Gap(gap) = &on_its_way.content else { panic!("{on_its_way:?}") };
    assert_eq!((gap.dropped, Some(gap.from)), (3, from));
    reach(store, Stage::Fresh).await;
    assert_eq!(store.trim(ALL, none, 10).await.unwrap(), 1);
    let second = claim_one(store, ALL, HOUR).await;
    assert!(matches!(&second.content, Content::Gap(gap) if gap.dropped == 1), "{second:?}");
    assert_ne!(second.event_id(), on_its_way.event_id());
    // Tried in vain, they are told as one the next time.
    for delivery in [&on_its_way, &second] {
        store.postpone(delivery, HOUR).await.unwrap();
    }
    assert_eq!(store.trim(ALL, none, 10).await.unwrap(), 0);
    reach(store, Stage::Fresh).await;
    assert_eq!(store.trim(ALL, none, 10).await.unwrap(), 1);
    let (events, gap) = take_with_gap(store).await;
    assert_eq!((events, gap.dropped, Some(gap.from)), (vec![], 5, from));
}

/// Who is no subscriber any more has nothing pending.
pub(super) async fn others_are_forgotten(probe: impl OutboxProbe) {
    let store = probe.store();
    let new = NewSession { directory: "/elsewhere".to_owned(), ..plain() };
    let session = store.create(&new).await.unwrap();
    complete(store, session).await;
    let others = [SOME.to_owned(), ALL.to_owned(), "new".to_owned()];
    assert_eq!(store.forget_others(&others).await.unwrap(), 2);
    assert_eq!(store.forget_others(&others).await.unwrap(), 0);
    assert_eq!(store.pending(ELSEWHERE, None).await.unwrap(), 0);
    assert_eq!(store.pending(ALL, None).await.unwrap(), 2);
    assert_eq!(store.forget_others(&[]).await.unwrap(), 3);
    assert_eq!(store.pending(ALL, None).await.unwrap(), 0);
}

/// What is pending can be looked at, newest first, and stays.
pub(super) async fn recent_events_are_read(probe: impl OutboxProbe) {
    let store = probe.store();
    assert_eq!(store.recent(ALL, None, 10).await.unwrap(), []);
    let first = completed(store).await;
    probe.pass(MOMENT).await;
    let second = reach(store, Stage::Fresh).await;
    let recent = store.recent(ALL, None, 10).await.unwrap();
    let told: Vec<_> = recent.iter().map(|event| (event.session, event.kind)).collect();
    let (created, done) = (EventKind::SessionCreated, EventKind::UploadCompleted);
    assert_eq!(told, [(second.id, created), (first.id, done), (first.id, created)]);
    assert_eq!(store.recent(ALL, None, 2).await.unwrap(), recent[..2]);
    assert_eq!(store.recent(ALL, Some(first.id), 10).await.unwrap(), recent[1..]);
    assert_eq!(store.recent(SOME, None, 10).await.unwrap(), recent[1..2]);
    assert_eq!(store.recent("nobody", None, 10).await.unwrap(), []);
    assert_eq!(take(store, ALL).await.len(), 3);
    completed(store).await;
    store.trim(ALL, Keep { count: 1, ..EVERYTHING }, 10).await.unwrap();
    assert_eq!(kinds(store.recent(ALL, None, 10).await.unwrap()), [done], "gaps are no events");
}

/// The largest and strangest values come back as they were.
pub(super) async fn told_values_at_the_limits(probe: impl OutboxProbe) {
    let store = probe.store();
    let path = format!("/upload/{}", vec!["ü'\";--%_🦀".repeat(9); 15].join("/"));
    let new = NewSession {
        principal: Principal::named("o'neil; drop table outbox;--\"\\%_@größe.example🦀"),
        address: "[2001:db8::1%eth0]:65535".to_owned(),
        directory: "/upload/it's".to_owned(),
        destination: VirtualPath::from_decoded(&path).unwrap(),
        storage: "näme 'with' \"quotes\"".to_owned(),
        folder: StorageKey::ROOT,
        key: StorageKey::parse(&path[1..]).unwrap(),
        ..plain()
    };
    let session = store.create(&new).await.unwrap();
    assert_eq!(take_all(store, ALL).await, [OutboxEvent::created(&session)]);
    let total = crate::ContentRange::MAXIMUM_TOTAL;
    let session = live(store.commit(&session, &Transition::Begin { total, quota: Quota::NONE }).await);
    let session = live(store.commit(&session, &advance(total, &[piece(0, total, "all")])).await);
    let end = Transition::End(Ending::Cancelled);
    let tombstone = ended(store.commit(&session, &end).await);
    let expected = OutboxEvent::of(&session, &end, &After::Ended(tombstone)).unwrap();
    assert_eq!((expected.size, expected.received), (Some(total), total));
    assert_eq!(take_all(store, ALL).await, [expected]);
    // The longest times and counts are as good as none.
    reach(store, Stage::Fresh).await;
    assert_eq!(store.trim(ALL, Keep { age: Duration::MAX, count: u64::MAX }, u32::MAX).await.unwrap(), 0);
    let delivery = claim_one(store, ALL, Duration::from_secs(100 * 365 * 86400)).await;
    store.postpone(&delivery, Duration::MAX).await.unwrap();
    assert_eq!(store.claim(ALL, u32::MAX, HOUR).await.unwrap(), []);
    assert!(store.next_due(ALL).await.unwrap().unwrap() > HOUR);
}

/// A session whose upload was published without further ado.
async fn completed(store: &impl SessionStore) -> Session {
    complete(store, reach(store, Stage::Fresh).await).await
}

async fn complete(store: &impl SessionStore, fresh: Session) -> Session {
    let mut session = fresh;
    for step in [begin(10), advance(10, &[]), intend(), Transition::Published] {
        session = live(store.commit(&session, &step).await);
    }
    session
}

/// Claims everything that can be had, until nothing is left; each arrives at once.
async fn take(store: &impl Outbox, subscriber: &str) -> Vec<Delivery> {
    let mut taken = Vec::new();
    loop {
        let claimed = store.claim(subscriber, 100, HOUR).await.unwrap();
        if claimed.is_empty() {
            return taken;
        }
        for delivery in &claimed {
            store.delivered(delivery).await.unwrap();
        }
        taken.extend(claimed);
    }
}

async fn take_all(store: &impl Outbox, subscriber: &str) -> Vec<OutboxEvent> {
    events(&take(store, subscriber).await)
}

async fn take_ids(store: &impl Outbox, subscriber: &str) -> Vec<String> {
    take(store, subscriber).await.iter().map(Delivery::event_id).collect()
}

/// Everything that is pending, of which one thing is a gap.
async fn take_with_gap(store: &impl Outbox) -> (Vec<OutboxEvent>, Gap) {
    let (gaps, mut rest): (Vec<_>, Vec<_>) =
        take(store, ALL).await.into_iter().partition(|delivery| matches!(delivery.content, Content::Gap(_)));
    rest.sort_by_key(|delivery| delivery.number);
    match &gaps[..] {
        [Delivery { content: Content::Gap(gap), .. }] => (events(&rest), *gap),
        _ => panic!("not one gap: {gaps:?}"),
    }
}

async fn claim_one(store: &impl Outbox, subscriber: &str, lease: Duration) -> Delivery {
    let mut claimed = store.claim(subscriber, 1, lease).await.unwrap();
    assert_eq!(claimed.len(), 1);
    claimed.remove(0)
}

fn events(deliveries: &[Delivery]) -> Vec<OutboxEvent> {
    let event = |delivery: &Delivery| match &delivery.content {
        Content::Event(event) => event.clone(),
        Content::Gap(gap) => panic!("nothing was dropped: {gap:?}"),
    };
    deliveries.iter().map(event).collect()
}

fn session_of(delivery: &Delivery) -> SessionId {
    events(std::slice::from_ref(delivery))[0].session
}

fn kinds(events: Vec<OutboxEvent>) -> Vec<EventKind> {
    events.into_iter().map(|event| event.kind).collect()
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}
