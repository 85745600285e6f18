//! What every [`SessionStore`] must do: what [`Session::apply`] says, one change at a time.
#![allow(clippy::unwrap_used, reason = "these are tests, though not compiled as such")]

use std::{future::Future, pin::Pin, sync::Arc, task::Poll, time::Duration};

use futures_util::future::join_all;

use super::rig::{fresh_id, new_session};
use crate::{
    After, Census, Commit, ContentRange, Ending, Excess, Filter, Found, Hresult, NewSession, Piece, Principal,
    PublishIntent, Quota, QuotaOf, Reply, Session, SessionId, SessionStore, SessionStoreError, State, StorageKey,
    Tally, Timestamp, Tombstone, Transition, VirtualPath,
};

/// A store under test.
pub trait SessionProbe: Send + Sync + 'static {
    /// The store's type.
    type Store: SessionStore;

    /// The store.
    fn store(&self) -> &Self::Store;

    /// Lets the store's clock go on by at least `time`, some ten milliseconds.
    fn pass(&self, time: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(time)
    }
}

/// So short that a session expires while a case waits [`MOMENT`].
const SHORT: Duration = Duration::from_millis(20);
const MOMENT: Duration = Duration::from_millis(60);
const HOUR: Duration = Duration::from_secs(3600);

/// The store says that it works, and its clock goes on.
pub(super) async fn answers(probe: impl SessionProbe) {
    let store = probe.store();
    store.check().await.unwrap();
    let before = store.now().await.unwrap();
    probe.pass(MOMENT).await;
    let passed = store.now().await.unwrap().since(before);
    assert!(passed >= Duration::from_millis(50), "{passed:?} of {MOMENT:?} passed");
}

/// What was created is loaded, and nothing else is.
pub(super) async fn create_then_load(probe: impl SessionProbe) {
    let store = probe.store();
    let new = plain();
    let before = store.now().await.unwrap();
    let session = store.create(&new).await.unwrap();
    let after = store.now().await.unwrap();
    assert!(before <= session.created_at && session.created_at <= after);
    assert_eq!(session, Session::create(&new, session.created_at));
    assert_eq!(load(store, new.id).await, Some(Found::Live(session)));
    assert_eq!(load(store, fresh_id()).await, None);
}

/// An id is given once.
pub(super) async fn an_id_is_taken_once(probe: impl SessionProbe) {
    let store = probe.store();
    let session = reach(store, Stage::Partly).await;
    let again = NewSession { id: session.id, principal: Principal::named("other@b"), ..plain() };
    assert!(store.create(&again).await.is_err());
    assert_eq!(load(store, session.id).await, Some(Found::Live(session)));
}

/// The limit counts unfinished sessions of one principal in one directory.
pub(super) async fn the_limit_counts_unfinished_sessions(probe: impl SessionProbe) {
    let store = probe.store();
    let of = |name: &str, limit| NewSession { principal: Principal::named(name), limit, ..plain() };
    let receiving = store.create(&of("a@x", Some(2))).await.unwrap();
    let publishing = store.create(&of("a@x", Some(2))).await.unwrap();
    let publishing = drive(store, publishing, Stage::Publish).await;
    assert_limit(store.create(&of("a@x", Some(2))).await);
    assert_limit(store.create(&of("a@x", Some(1))).await);
    assert_limit(store.create(&of("b@x", Some(0))).await);
    store.create(&of("b@x", Some(1))).await.unwrap();
    store.create(&of("a@x", None)).await.unwrap();
    assert_limit(store.create(&of("a@x", Some(3))).await);
    live(store.commit(&publishing, &Transition::Published).await);
    let third = store.create(&of("a@x", Some(3))).await.unwrap();
    assert_limit(store.create(&of("a@x", Some(3))).await);
    for session in [receiving, third] {
        ended(store.commit(&session, &Transition::End(Ending::Cancelled)).await);
    }
    store.create(&of("a@x", Some(2))).await.unwrap();
    assert_limit(store.create(&of("a@x", Some(2))).await);
    let within = |directory: &str, limit| NewSession { directory: directory.to_owned(), ..of("a@x", Some(limit)) };
    store.create(&within("/Größe", 1)).await.unwrap();
    assert_limit(store.create(&within("/gRößE", 1)).await);
    store.create(&within("/GRÖßE", 1)).await.unwrap();
    assert_limit(store.create(&of("a@x", Some(2))).await);
}

/// However many ask at once, the limit holds exactly.
pub(super) async fn the_limit_holds_in_a_race(probe: impl SessionProbe) {
    let probe = Arc::new(probe);
    let results = at_once(12, |_| {
        let probe = Arc::clone(&probe);
        async move {
            let new = NewSession { principal: Principal::named("a@x"), limit: Some(4), ..plain() };
            probe.store().create(&new).await
        }
    })
    .await;
    let (created, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!(created.len(), 4);
    refused.into_iter().for_each(assert_limit);
    assert_eq!(probe.store().census(100, 1).await.unwrap().live, 4);
}

/// Every change of every state is what [`Session::apply`] says, or is not made.
pub(super) async fn every_transition_is_what_apply_says(probe: impl SessionProbe) {
    let store = probe.store();
    for stage in Stage::ALL {
        for transition in transitions(&reach(store, stage).await) {
            let session = reach(store, stage).await;
            assert_applies(store, &session, &transition).await;
        }
    }
}

/// Nothing changes an ended session, whatever row one comes from.
pub(super) async fn nothing_follows_the_end(probe: impl SessionProbe) {
    let store = probe.store();
    for ending in [Ending::Closed, Ending::Cancelled, Ending::Expired] {
        for stage in Stage::ALL {
            let session = reach(store, stage).await;
            let tombstone = ended(store.commit(&session, &Transition::End(ending)).await);
            for transition in transitions(&session) {
                assert_unchanged(store.commit(&session, &transition).await);
            }
            assert_eq!(load(store, session.id).await, Some(Found::Ended(tombstone)));
        }
    }
}

/// A row that is behind, ahead or unknown commits nothing.
pub(super) async fn a_stale_row_commits_nothing(probe: impl SessionProbe) {
    let store = probe.store();
    let session = reach(store, Stage::Partly).await;
    let stale = [
        Session { epoch: session.epoch + 1, ..session.clone() },
        Session { received: session.received - 1, synced: 0, ..session.clone() },
        Session { received: session.received + 1, ..session.clone() },
        Session { state: State::WaitForClose, ..session.clone() },
        Session { state: State::Publish, ..session.clone() },
        Session { id: fresh_id(), ..session.clone() },
    ];
    let pieces = store.pieces(session.id, 0).await.unwrap();
    for from in stale {
        for transition in transitions(&session) {
            assert_unchanged(store.commit(&from, &transition).await);
        }
    }
    assert_eq!(load(store, session.id).await, Some(Found::Live(session.clone())));
    assert_eq!(store.pieces(session.id, 0).await.unwrap(), pieces);
    assert_eq!(store.replaced_pieces(session.id).await.unwrap(), []);
    assert_eq!(store.list(&all()).await.unwrap().len(), 1);
}

/// An epoch that moved on stops whoever still writes.
pub(super) async fn a_regress_stops_the_older_writer(probe: impl SessionProbe) {
    let store = probe.store();
    let session = reach(store, Stage::Partly).await;
    let again = live(store.commit(&session, &Transition::Regress { to: session.received }).await);
    assert_eq!((again.received, again.epoch), (session.received, session.epoch + 1));
    assert_eq!(store.commit(&session, &advance(9, &[])).await.unwrap(), Commit::Moved);
    assert_eq!(live(store.commit(&again, &advance(9, &[])).await).received, 9);
}

/// The size is fixed once, also where two say it at the same time.
pub(super) async fn the_size_is_fixed_once(probe: impl SessionProbe) {
    let store = probe.store();
    let fresh = store.create(&plain()).await.unwrap();
    let fixed = live(store.commit(&fresh, &begin(10)).await);
    // The row that `fresh` shows agrees in epoch, offset and state.
    assert_unchanged(store.commit(&fresh, &begin(11)).await);
    assert_unchanged(store.commit(&fixed, &begin(11)).await);
    assert_eq!(live(store.commit(&fresh, &begin(10)).await).total, Some(10));
}

/// Of two that began something for one session, the first is named.
pub(super) async fn a_handle_is_adopted_once(probe: impl SessionProbe) {
    let store = probe.store();
    let begun = reach(store, Stage::Begun).await;
    let first = live(store.commit(&begun, &adopt("first")).await);
    assert_eq!(store.commit(&begun, &adopt("second")).await.unwrap(), Commit::Moved);
    assert_eq!(load(store, begun.id).await, Some(Found::Live(first.clone())));
    let third = live(store.commit(&first, &adopt("third")).await);
    assert_eq!(store.commit(&first, &adopt("fourth")).await.unwrap(), Commit::Moved);
    assert_eq!(third.handle.as_deref(), Some("third"));
}

/// A quota counts the full sizes of what is unfinished in its directory, of one principal or of
/// all, whatever the directory's case.
pub(super) async fn a_quota_counts_unfinished_sizes(probe: impl SessionProbe) {
    let store = probe.store();
    let fresh = async |name: &str, directory: &str| {
        let new = NewSession { principal: Principal::named(name), directory: directory.to_owned(), ..plain() };
        store.create(&new).await.unwrap()
    };
    let within = |total, per_user, directory| Transition::Begin { total, quota: Quota { per_user, directory } };
    let excess = |of, limit, used| Commit::Exceeds(Excess { of, limit, used });
    let (user, all) =
        (|limit, used| excess(QuotaOf::User, limit, used), |limit, used| excess(QuotaOf::Directory, limit, used));

    let first = fresh("a@x", "/upload").await;
    assert_eq!(store.commit(&first, &within(11, Some(10), Some(10))).await.unwrap(), user(10, 0));
    assert_eq!(load(store, first.id).await, Some(Found::Live(first.clone())), "what is refused changes nothing");
    let first = live(store.commit(&first, &within(10, Some(10), Some(10))).await);
    // Said again it is not counted twice, and asks for nothing.
    let first = live(store.commit(&first, &within(10, Some(1), Some(1))).await);

    let second = fresh("a@x", "/Upload").await;
    assert_eq!(store.commit(&second, &within(1, Some(10), None)).await.unwrap(), user(10, 10));
    assert_eq!(store.commit(&second, &within(1, None, Some(10))).await.unwrap(), all(10, 10));
    live(store.commit(&second, &within(1, Some(11), Some(11))).await);
    for (name, directory, total, refused) in [
        ("b@x", "/upload", 5, Some(all(15, 11))),
        ("b@x", "/upload", 4, None),
        ("a@x", "/other", 15, None),
        ("a@x", "/upload/other", 15, None),
        ("", "/upload", 1, Some(all(15, 15))),
        ("", "/upload", 0, None),
    ] {
        let result = store.commit(&fresh(name, directory).await, &within(total, Some(15), Some(15))).await;
        match refused {
            Some(refused) => assert_eq!(result.unwrap(), refused, "{total} of {name} in {directory}"),
            None => drop(live(result)),
        }
    }

    // Regress and publishing under way change nothing; what is published or over counts no more.
    let first = drive(store, first, Stage::Publish).await;
    let first = live(store.commit(&first, &Transition::Regress { to: 0 }).await);
    let last = fresh("a@x", "/upload").await;
    assert_eq!(store.commit(&last, &within(1, None, Some(15))).await.unwrap(), all(15, 15));
    let whole = live(store.commit(&first, &advance(10, &[])).await);
    let publishing = live(store.commit(&whole, &intend()).await);
    assert_eq!(store.commit(&last, &within(1, Some(11), None)).await.unwrap(), user(11, 11));
    let published = live(store.commit(&publishing, &Transition::Published).await);
    assert_eq!(store.commit(&last, &within(11, None, Some(15))).await.unwrap(), all(15, 5));
    ended(store.commit(&published, &Transition::End(Ending::Closed)).await);
    let last = live(store.commit(&last, &within(10, Some(11), Some(15))).await);
    ended(store.commit(&last, &Transition::End(Ending::Cancelled)).await);
    ended(store.commit(&fresh("a@x", "/upload").await, &Transition::End(Ending::Expired)).await);
    let again = fresh("a@x", "/upload").await;
    assert_eq!(store.commit(&again, &within(11, Some(11), None)).await.unwrap(), user(11, 1));
    live(store.commit(&again, &within(10, Some(11), Some(15))).await);

    // A size that comes with the intent counts as one that was fixed before it.
    let small = live(store.commit(&fresh("c@x", "/small").await, &intend()).await);
    let next = fresh("c@x", "/small").await;
    assert_eq!(store.commit(&next, &within(1, Some(10), None)).await.unwrap(), user(10, 10));
    assert_eq!(store.commit(&next, &within(1, None, Some(10))).await.unwrap(), all(10, 10));
    live(store.commit(&small, &Transition::Published).await);
    live(store.commit(&next, &within(10, Some(10), Some(10))).await);
}

/// However many begin at once, a quota holds exactly.
pub(super) async fn a_quota_holds_in_a_race(probe: impl SessionProbe) {
    let probe = Arc::new(probe);
    for (per_user, directory) in [(Some(45), None), (None, Some(45))] {
        let results = at_once(12, |_| {
            let probe = Arc::clone(&probe);
            async move {
                let directory_path = format!("/{per_user:?}{directory:?}");
                let session = probe.store().create(&NewSession { directory: directory_path, ..plain() }).await.unwrap();
                let quota = Quota { per_user, directory };
                probe.store().commit(&session, &Transition::Begin { total: 10, quota }).await.unwrap()
            }
        })
        .await;
        let begun = results.iter().filter(|result| matches!(result, Commit::Live(_))).count();
        assert_eq!(begun, 4, "{results:?}");
        let refused = |result: &&Commit| matches!(result, Commit::Exceeds(Excess { limit: 45, used: 40, .. }));
        assert_eq!(results.iter().filter(refused).count(), 8, "{results:?}");
    }
}

/// Of many who commit from one row, one does.
pub(super) async fn one_of_many_writers_commits(probe: impl SessionProbe) {
    let probe = Arc::new(probe);
    let session = reach(probe.store(), Stage::Begun).await;
    for _ in 0..5 {
        let from = match load(probe.store(), session.id).await {
            Some(Found::Live(session)) => session,
            other => panic!("{other:?}"),
        };
        let to = from.received + 1;
        let results = at_once(8, |at| {
            let (probe, from) = (Arc::clone(&probe), from.clone());
            let one = piece(from.received, 1, &format!("by {at}"));
            async move { probe.store().commit(&from, &advance(to, &[one])).await.unwrap() }
        })
        .await;
        let winners: Vec<usize> = (0..8).filter(|at| results[*at] != Commit::Moved).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        let pieces = probe.store().pieces(session.id, from.received).await.unwrap();
        assert_eq!(pieces, [piece(from.received, 1, &format!("by {}", winners[0]))]);
    }
}

/// A change whose future is dropped is there whole, or not at all, and hinders nobody.
pub(super) async fn a_dropped_change_is_whole_or_nothing(probe: impl SessionProbe) {
    let store = probe.store();
    let session = reach(store, Stage::Begun).await;
    for polls in 0..8 {
        let from = settled(store, session.id).await;
        let step = advance(from.received + 1, &[piece(from.received, 1, &format!("{polls}"))]);
        let mut commit = store.commit(&from, &step);
        for _ in 0..polls {
            if poll_once(&mut commit).await {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    // A dropped change may still be under way on a slow machine; each can come in between once.
    for _ in 0..8 {
        let last = settled(store, session.id).await;
        match store.commit(&last, &Transition::End(Ending::Cancelled)).await.unwrap() {
            Commit::Moved => {}
            other => return assert!(matches!(other, Commit::Ended(_)), "not ended: {other:?}"),
        }
    }
    panic!("the session never came to rest");
}

/// One session at a time publishes to a place.
pub(super) async fn a_claim_keeps_others_out(probe: impl SessionProbe) {
    let store = probe.store();
    let [first, second] = [received_at(store, "default", "k").await, received_at(store, "default", "k").await];
    let first = live(store.commit(&first, &intend()).await);
    assert_eq!(store.commit(&second, &intend()).await.unwrap(), Commit::Claimed(first.id));
    assert_eq!(load(store, second.id).await, Some(Found::Live(second.clone())));
    for (storage, key) in [("default", "K"), ("default", "k/k"), ("other", "k")] {
        let elsewhere = received_at(store, storage, key).await;
        live(store.commit(&elsewhere, &intend()).await);
    }
    let first = live(store.commit(&first, &Transition::Postpone { until: Timestamp::from_millis(1) }).await);
    assert_eq!(store.commit(&second, &intend()).await.unwrap(), Commit::Claimed(first.id));
    // Neither the size nor the last bytes of one that is kept out are committed.
    for stage in [Stage::Fresh, Stage::Named, Stage::Begun, Stage::Partly] {
        let created = store.create(&NewSession { key: first.key.clone(), ..plain() }).await.unwrap();
        let third = drive(store, created, stage).await;
        assert_eq!(store.commit(&third, &intend()).await.unwrap(), Commit::Claimed(first.id), "{stage:?}");
        assert_eq!(load(store, third.id).await, Some(Found::Live(third)));
    }
}

/// A claim ends with the publishing, however that ends.
pub(super) async fn a_claim_is_released(probe: impl SessionProbe) {
    let store = probe.store();
    for release in
        [Transition::Withdraw, Transition::Regress { to: 4 }, Transition::Published, Transition::End(Ending::Cancelled)]
    {
        let [first, second] = [received_at(store, "default", "k").await, received_at(store, "default", "k").await];
        let first = live(store.commit(&first, &intend()).await);
        assert_eq!(store.commit(&second, &intend()).await.unwrap(), Commit::Claimed(first.id));
        assert!(!matches!(store.commit(&first, &release).await.unwrap(), Commit::Moved | Commit::Claimed(_)));
        let second = live(store.commit(&second, &intend()).await);
        live(store.commit(&second, &Transition::Withdraw).await);
    }
}

/// A claim can be taken again by the session that gave it back.
pub(super) async fn a_claim_is_taken_again(probe: impl SessionProbe) {
    let store = probe.store();
    let mut session = received_at(store, "default", "k").await;
    for _ in 0..3 {
        let intended = live(store.commit(&session, &intend()).await);
        assert!(intended.epoch > session.epoch);
        session = live(store.commit(&intended, &Transition::Withdraw).await);
    }
}

/// Of many that want one place at once, one gets it, and the others hear who.
pub(super) async fn one_of_many_claims(probe: impl SessionProbe) {
    let probe = Arc::new(probe);
    let sessions = join_all((0..8).map(|_| received_at(probe.store(), "default", "k"))).await;
    let results = at_once(8, |at| {
        let (probe, session) = (Arc::clone(&probe), sessions[at].clone());
        async move { probe.store().commit(&session, &intend()).await.unwrap() }
    })
    .await;
    let winners: Vec<SessionId> =
        results.iter().filter_map(|it| if let Commit::Live(it) = it { Some(it.id) } else { None }).collect();
    assert_eq!(winners.len(), 1, "{results:?}");
    let claimed = results.iter().filter(|result| **result == Commit::Claimed(winners[0])).count();
    assert_eq!(claimed, 7, "{results:?}");
}

/// Pieces come in the order of their start, from an offset on.
pub(super) async fn pieces_come_in_order(probe: impl SessionProbe) {
    let store = probe.store();
    let session = reach(store, Stage::Begun).await;
    let (a, b, c) = (piece(0, 2, "a"), piece(2, 3, "b"), piece(5, 1, "c"));
    let session = live(store.commit(&session, &advance(5, &[b.clone(), a.clone()])).await);
    live(store.commit(&session, &advance(6, std::slice::from_ref(&c))).await);
    for (from, expected) in [
        (0, vec![&a, &b, &c]),
        (1, vec![&a, &b, &c]),
        (2, vec![&b, &c]),
        (4, vec![&b, &c]),
        (5, vec![&c]),
        (6, vec![]),
        (u64::MAX >> 1, vec![]),
    ] {
        assert_eq!(store.pieces(session.id, from).await.unwrap().iter().collect::<Vec<_>>(), expected, "from {from}");
    }
    assert_eq!(store.pieces(fresh_id(), 0).await.unwrap(), []);
    assert_eq!(store.replaced_pieces(fresh_id()).await.unwrap(), []);
}

/// A piece replaces those that lie within it, and they are kept until their bytes are deleted.
pub(super) async fn pieces_are_replaced_by_covering(probe: impl SessionProbe) {
    let store = probe.store();
    let session = reach(store, Stage::Begun).await;
    let (a, b, c) = (piece(0, 2, "a"), piece(2, 2, "b"), piece(4, 1, "c"));
    let session = live(store.commit(&session, &advance(5, &[a.clone(), b.clone(), c.clone()])).await);
    // Covers a and b, overlaps no more than the edge of c; then a new piece after it.
    let (whole, d) = (piece(0, 4, "whole"), piece(5, 1, "d"));
    let session = live(store.commit(&session, &advance(6, &[whole.clone(), d.clone()])).await);
    assert_eq!(store.pieces(session.id, 0).await.unwrap(), [whole.clone(), c.clone(), d.clone()]);
    assert_eq!(sorted(store.replaced_pieces(session.id).await.unwrap()), [a.clone(), b.clone()]);
    store.forget_pieces(session.id, &[a, piece(0, 2, "unknown")]).await.unwrap();
    assert_eq!(store.replaced_pieces(session.id).await.unwrap(), std::slice::from_ref(&b));
    // The same bounds are within; a piece that is only overlapped stays.
    let (same, across) = (piece(4, 1, "same"), piece(5, 2, "across"));
    let session = live(store.commit(&session, &advance(7, &[same.clone(), across.clone()])).await);
    assert_eq!(store.pieces(session.id, 0).await.unwrap(), [whole, same, across]);
    assert_eq!(sorted(store.replaced_pieces(session.id).await.unwrap()), [b.clone(), c.clone(), d.clone()]);
    store.forget_pieces(session.id, &[c, b, d]).await.unwrap();
    assert_eq!(store.replaced_pieces(session.id).await.unwrap(), []);
}

/// A piece that is named no more is forgotten, one that is named stays whatever one forgets.
pub(super) async fn only_replaced_pieces_are_forgotten(probe: impl SessionProbe) {
    let store = probe.store();
    let session = reach(store, Stage::Begun).await;
    let a = piece(0, 5, "a");
    let session = live(store.commit(&session, &advance(5, std::slice::from_ref(&a))).await);
    store.forget_pieces(session.id, std::slice::from_ref(&a)).await.unwrap();
    store.forget_pieces(fresh_id(), std::slice::from_ref(&a)).await.unwrap();
    assert_eq!(store.pieces(session.id, 0).await.unwrap(), [a]);
}

/// A regress drops the pieces that end after its offset.
pub(super) async fn a_regress_drops_later_pieces(probe: impl SessionProbe) {
    let store = probe.store();
    let session = reach(store, Stage::Begun).await;
    let (a, b, c) = (piece(0, 2, "a"), piece(2, 3, "b"), piece(5, 1, "c"));
    let session = live(store.commit(&session, &advance(6, &[a.clone(), b.clone(), c.clone()])).await);
    let session = live(store.commit(&session, &Transition::Regress { to: 4 }).await);
    assert_eq!(store.pieces(session.id, 0).await.unwrap(), std::slice::from_ref(&a));
    assert_eq!(sorted(store.replaced_pieces(session.id).await.unwrap()), [b.clone(), c.clone()]);
    let new = piece(2, 4, "new");
    let session = live(store.commit(&session, &Transition::Regress { to: 2 }).await);
    let session = live(store.commit(&session, &advance(6, std::slice::from_ref(&new))).await);
    assert_eq!(store.pieces(session.id, 0).await.unwrap(), [a.clone(), new.clone()]);
    live(store.commit(&session, &Transition::Regress { to: 0 }).await);
    assert_eq!(store.pieces(session.id, 0).await.unwrap(), []);
    assert_eq!(sorted(store.replaced_pieces(session.id).await.unwrap()), [a, b, new, c]);
}

/// A regress while publishing is one change: intent, claim and bytes go together, and whoever
/// still publishes commits nothing.
pub(super) async fn a_regress_ends_publishing(probe: impl SessionProbe) {
    let store = probe.store();
    for stage in [Stage::Publish, Stage::Postponed] {
        let publishing = reach(store, stage).await;
        let back = live(store.commit(&publishing, &Transition::Regress { to: 4 }).await);
        assert_eq!((back.state, back.received, back.synced), (State::ReceiveFragments, 4, 4));
        assert_eq!((&back.intent, back.retry_at, back.epoch), (&None, None, publishing.epoch + 1));
        assert_eq!(store.pieces(back.id, 0).await.unwrap(), [piece(0, 4, "first")]);
        assert_eq!(store.commit(&publishing, &Transition::Published).await.unwrap(), Commit::Moved);
        assert_eq!(store.unpublished(None, 100).await.unwrap(), []);
        let whole = live(store.commit(&back, &advance(10, &[piece(4, 6, "again")])).await);
        let publishing = live(store.commit(&whole, &intend()).await);
        live(store.commit(&publishing, &Transition::Published).await);
    }
}

/// Pieces stay while the session lives or is unclean, and go with what they name.
pub(super) async fn pieces_end_with_their_session(probe: impl SessionProbe) {
    let store = probe.store();
    let pieces = [piece(0, 2, "a"), piece(2, 8, "b")];
    for published in [true, false] {
        let session = reach(store, Stage::Begun).await;
        let session = live(store.commit(&session, &advance(2, &[piece(0, 2, "old")])).await);
        let session = live(store.commit(&session, &advance(10, &pieces)).await);
        let mut session = live(store.commit(&session, &intend()).await);
        assert_eq!(store.pieces(session.id, 0).await.unwrap(), pieces);
        if published {
            session = live(store.commit(&session, &Transition::Published).await);
        }
        let tombstone = ended(store.commit(&session, &Transition::End(Ending::Closed)).await);
        assert_eq!(tombstone.unclean, !published);
        if !published {
            assert_eq!(store.pieces(session.id, 0).await.unwrap(), pieces);
            assert_eq!(store.replaced_pieces(session.id).await.unwrap(), [piece(0, 2, "old")]);
            store.cleaned(session.id).await.unwrap();
        }
        assert_eq!(store.pieces(session.id, 0).await.unwrap(), []);
        assert_eq!(store.replaced_pieces(session.id).await.unwrap(), []);
    }
}

/// Tombstones with bytes to delete are listed until these are deleted.
pub(super) async fn unclean_tombstones_are_listed(probe: impl SessionProbe) {
    let store = probe.store();
    let mut unclean = Vec::new();
    for stage in Stage::ALL {
        let session = reach(store, stage).await;
        let tombstone = ended(store.commit(&session, &Transition::End(Ending::Cancelled)).await);
        if tombstone.unclean {
            unclean.push(tombstone);
        }
    }
    let place = |tombstone: &Tombstone| (tombstone.ended_at, tombstone.id);
    unclean.sort_by_key(place);
    assert!(unclean.len() >= 3, "{unclean:?}");
    assert_eq!(store.unclean(None, 2).await.unwrap(), unclean[..2]);
    assert_eq!(store.unclean(None, 100).await.unwrap(), unclean);
    for (index, tombstone) in unclean.iter().enumerate() {
        assert_eq!(store.unclean(Some(place(tombstone)), 100).await.unwrap(), unclean[index + 1..]);
    }
    for tombstone in unclean {
        for _ in 0..2 {
            store.cleaned(tombstone.id).await.unwrap();
        }
        let clean = Tombstone { unclean: false, ..tombstone };
        assert_eq!(load(store, clean.id).await, Some(Found::Ended(clean)));
    }
    assert_eq!(store.unclean(None, 100).await.unwrap(), []);
    store.cleaned(fresh_id()).await.unwrap();
}

/// Clean tombstones past their time are forgotten, others never.
pub(super) async fn old_tombstones_are_purged(probe: impl SessionProbe) {
    let store = probe.store();
    let end = async |timeout: Duration, stage: Stage| {
        let session = store.create(&NewSession { timeout, ..plain() }).await.unwrap();
        let session = drive(store, session, stage).await;
        ended(store.commit(&session, &Transition::End(Ending::Cancelled)).await).id
    };
    let mut short = [SessionId::new(uuid::Uuid::nil()); 3];
    for id in &mut short {
        *id = end(SHORT, Stage::Fresh).await;
        store.cleaned(*id).await.unwrap();
    }
    let (unclean, long) = (end(SHORT, Stage::Partly).await, end(HOUR, Stage::Fresh).await);
    store.cleaned(long).await.unwrap();
    let alive = store.create(&NewSession { timeout: SHORT, ..plain() }).await.unwrap().id;
    probe.pass(MOMENT).await;
    assert_eq!(store.purge(2).await.unwrap(), 2);
    assert_eq!(store.purge(2).await.unwrap(), 1);
    assert_eq!(store.purge(2).await.unwrap(), 0);
    for id in short {
        assert_eq!(load(store, id).await, None);
    }
    for id in [unclean, long, alive] {
        assert!(load(store, id).await.is_some());
    }
    store.cleaned(unclean).await.unwrap();
    assert_eq!(store.purge(2).await.unwrap(), 1);
    assert_eq!(load(store, unclean).await, None);
}

/// Live sessions past their time are counted and listed, in every state.
pub(super) async fn expired_sessions_are_found(probe: impl SessionProbe) {
    let store = probe.store();
    assert_eq!(store.census(100, 1).await.unwrap(), Census::default());
    let mut expected = Vec::new();
    for stage in Stage::ALL {
        for timeout in [SHORT, HOUR] {
            let session = store.create(&NewSession { timeout, ..plain() }).await.unwrap();
            let session = drive(store, session, stage).await;
            if timeout == SHORT {
                expected.push(session);
            }
        }
    }
    let over = ended(store.commit(&expected[0], &Transition::End(Ending::Expired)).await);
    expected.remove(0);
    probe.pass(MOMENT).await;
    let mut expired = store.expired(100).await.unwrap();
    expired.sort_by_key(|session| session.id);
    expected.sort_by_key(|session| session.id);
    assert_eq!(expired, expected);
    assert_eq!(store.expired(2).await.unwrap().len(), 2);
    let (stages, expired) = (Stage::ALL.len() as u64, expected.len() as u64);
    for (least, per_expired, live) in
        [(100, 1, stages * 2 - 1), (0, 100, stages * 2 - 1), (0, 1, expired), (expired + 1, 1, expired + 1), (0, 0, 0)]
    {
        assert_eq!(store.census(least, per_expired).await.unwrap(), Census { live, expired });
    }
    assert!(matches!(load(store, over.id).await, Some(Found::Ended(_))));
}

/// A notification has one id, whatever comes of its tries, and a regress ends a try.
pub(super) async fn a_notification_keeps_its_id(probe: impl SessionProbe) {
    let store = probe.store();
    for failure in [undelivered(None), undelivered(Some(Hresult(0x8019_0193))), Transition::Regress { to: 10 }] {
        let first = reach(store, Stage::Notify).await;
        let failed = live(store.commit(&first, &failure).await);
        assert_eq!((failed.state, failed.retry_at), (State::ReceiveFragments, None));
        assert_eq!(
            store.commit(&first, &Transition::Delivered { reply: None, copy: true }).await.unwrap(),
            Commit::Moved
        );
        let again = live(store.commit(&failed, &notify(9)).await);
        assert_eq!((again.notification, again.refused), (first.notification, None));
        assert!(again.epoch > first.epoch);
        let reply = Some(Reply::Static("https://a.example/{r}".to_owned()));
        let done = live(store.commit(&again, &Transition::Delivered { reply: reply.clone(), copy: false }).await);
        assert_eq!((done.state, &done.reply), (State::WaitForClose, &reply));
        assert_eq!(load(store, done.id).await, Some(Found::Live(done)));
    }
}

/// What the application wants published is a job until it is published or the destination refuses
/// it, and nothing of the notification's can reach it any more.
pub(super) async fn a_delivered_upload_goes_on(probe: impl SessionProbe) {
    let store = probe.store();
    let until = Timestamp::from_millis(5);
    for postpones in [false, true] {
        let told = reach(store, Stage::NotifyAgain).await;
        let delivered = live(store.commit(&told, &Transition::Delivered { reply: None, copy: true }).await);
        assert_eq!((delivered.state, delivered.copy, delivered.retry_at), (State::Notify, true, None));
        for late in [Transition::Delivered { reply: None, copy: false }, undelivered(None), Transition::Withdraw] {
            match store.commit(&told, &late).await {
                Ok(Commit::Moved) | Err(_) => {}
                other => panic!("{late:?} was {other:?}"),
            }
        }
        let withdrawn = live(store.commit(&delivered, &Transition::Withdraw).await);
        assert_eq!((withdrawn.state, withdrawn.copy), (State::ReceiveFragments, true));
        let told = reach(store, Stage::NotifyAgain).await;
        let mut session = live(store.commit(&told, &Transition::Delivered { reply: None, copy: true }).await);
        if postpones {
            session = live(store.commit(&session, &Transition::Postpone { until }).await);
            assert_eq!(session.retry_at, Some(until));
        }
        let intended = live(store.commit(&session, &intend()).await);
        assert_eq!((intended.state, intended.retry_at), (State::Publish, None));
        assert_eq!(load(store, intended.id).await, Some(Found::Live(intended)));
    }
}

/// What is to be published, and when.
pub(super) async fn unpublished_sessions_are_found(probe: impl SessionProbe) {
    let store = probe.store();
    let now = store.now().await.unwrap();
    let mut due = Vec::new();
    let times = [None, Some(Timestamp::from_millis(1)), Some(now), Some(now + HOUR)];
    for (until, stage) in times.into_iter().flat_map(|until| [(until, Stage::Publish), (until, Stage::Notify)]) {
        let mut session = reach(store, stage).await;
        if let Some(until) = until {
            session = live(store.commit(&session, &Transition::Postpone { until }).await);
        }
        if until.is_none_or(|until| until <= now) {
            due.push(session);
        }
    }
    due.push(reach(store, Stage::Delivered).await);
    for stage in [Stage::Received, Stage::Refused, Stage::WaitForClose] {
        reach(store, stage).await;
    }
    let withdrawn = reach(store, Stage::Delivered).await;
    live(store.commit(&withdrawn, &Transition::Withdraw).await);
    let cancelled = reach(store, Stage::Publish).await;
    ended(store.commit(&cancelled, &Transition::End(Ending::Cancelled)).await);
    let place = |session: &Session| (session.retry_at.unwrap_or(Timestamp::from_millis(0)), session.id);
    due.sort_by_key(place);
    assert_eq!(store.unpublished(None, 100).await.unwrap(), due);
    assert_eq!(store.unpublished(None, 2).await.unwrap(), due[..2]);
    for (index, session) in due.iter().enumerate() {
        assert_eq!(store.unpublished(Some(place(session)), 100).await.unwrap(), due[index + 1..]);
        assert!(store.claim_job(session.id).await.unwrap(), "nobody else has it");
    }
    let until = store.now().await.unwrap() + SHORT;
    let session = live(store.commit(&due[0], &Transition::Postpone { until }).await);
    probe.pass(MOMENT).await;
    assert!(store.unpublished(None, 100).await.unwrap().contains(&session));
}

/// Lists are filtered by each criterion, and by all together.
pub(super) async fn lists_are_filtered(probe: impl SessionProbe) {
    let store = probe.store();
    let mut sessions = Vec::new();
    for (principal, directory, path) in [
        ("a@x", "/upload", "/upload/a_b/50%/file"),
        ("a@x", "/upload", "/upload/aXb/50%/file"),
        ("b@x", "/upload", "/upload/A_b/50%/file"),
        ("", "/other", "/other/it's/größe"),
        ("o'neil\"%@x", "/other", "/other/it's/50x"),
    ] {
        let new = NewSession {
            principal: Principal::named(principal),
            directory: directory.to_owned(),
            destination: VirtualPath::from_decoded(path).unwrap(),
            ..plain()
        };
        sessions.push(store.create(&new).await.unwrap());
    }
    let ended_one = reach(store, Stage::Partly).await;
    ended(store.commit(&ended_one, &Transition::End(Ending::Closed)).await);
    let by_principal = |name: &str| Filter { principal: Some(Principal::named(name)), ..all() };
    let by_path = |prefix: &str| Filter { path_prefix: Some(prefix.to_owned()), ..all() };
    let by_directory = |path: &str| Filter { directory: Some(path.to_owned()), ..all() };
    for (filter, expected) in [
        (all(), vec![0, 1, 2, 3, 4]),
        (Filter { limit: 0, ..all() }, vec![]),
        (by_principal("a@x"), vec![0, 1]),
        (by_principal(""), vec![3]),
        (by_principal("o'neil\"%@x"), vec![4]),
        (by_principal("a@"), vec![]),
        (by_path("/upload/a_b"), vec![0]),
        (by_path("/upload/a"), vec![0, 1]),
        (by_path("/upload/%"), vec![]),
        (by_path("/other/it's/50%"), vec![]),
        (by_path("/other/it's/gr\u{f6}"), vec![3]),
        (by_path("file"), vec![]),
        (by_path(""), vec![0, 1, 2, 3, 4]),
        (by_directory("/other"), vec![3, 4]),
        (by_directory("/OTHer"), vec![3, 4]),
        (by_directory("/oth"), vec![]),
        (Filter { state: Some(State::ReceiveFragments), ..all() }, vec![0, 1, 2, 3, 4]),
        (Filter { state: Some(State::WaitForClose), ..all() }, vec![]),
        (Filter { state: Some(State::Publish), ..by_path("/upload") }, vec![]),
        (Filter { path_prefix: Some("/upload".to_owned()), ..by_principal("b@x") }, vec![2]),
        (Filter { directory: Some("/other".to_owned()), ..by_principal("b@x") }, vec![]),
    ] {
        let listed = sorted_ids(store.list(&filter).await.unwrap());
        let expected: Vec<SessionId> = expected.into_iter().map(|at: usize| sessions[at].id).collect();
        assert_eq!(listed, expected, "{filter:?}");
    }
}

/// The time without progress filters lists too.
pub(super) async fn lists_are_filtered_by_idle_time(probe: impl SessionProbe) {
    let store = probe.store();
    let idle = |idle| Filter { idle: Some(idle), ..all() };
    let (old, moved) = (reach(store, Stage::Partly).await, reach(store, Stage::Partly).await);
    probe.pass(MOMENT).await;
    let moved = live(store.commit(&moved, &advance(moved.received + 1, &[])).await);
    let listed = sorted_ids(store.list(&idle(Duration::from_millis(50))).await.unwrap());
    let since = store.now().await.unwrap().since(moved.progressed_at);
    assert!(listed.contains(&old.id));
    assert!(!listed.contains(&moved.id) || since >= Duration::from_millis(50), "listed after {since:?}");
    assert_eq!(store.list(&idle(Duration::ZERO)).await.unwrap().len(), 2);
    assert_eq!(store.list(&idle(HOUR)).await.unwrap(), []);
}

/// Live sessions are counted by state and by the time without progress, and found by state.
pub(super) async fn sessions_are_tallied(probe: impl SessionProbe) {
    let store = probe.store();
    let none = |tally: &Tally| tally.sessions == 0 && tally.idle == [0; 3];
    assert!(store.tally([HOUR; 3]).await.unwrap().iter().all(none));
    let mut sessions = Vec::new();
    for stage in Stage::ALL {
        sessions.push(reach(store, stage).await);
    }
    let over = reach(store, Stage::Partly).await;
    ended(store.commit(&over, &Transition::End(Ending::Closed)).await);
    probe.pass(MOMENT).await;
    let tallies = store.tally([Duration::ZERO, Duration::from_millis(50), HOUR]).await.unwrap();
    for state in State::ALL {
        let expected = sessions.iter().filter(|session| session.state == state).count() as u64;
        let found: Vec<_> = tallies.iter().filter(|tally| tally.state == state).collect();
        let counted = found.iter().map(|tally| tally.sessions).sum::<u64>();
        assert_eq!((found.len() < 2, counted), (true, expected), "{state:?}");
        assert!(found.iter().all(|tally| tally.idle == [expected, expected, 0]), "{found:?}");
        let listed = store.list(&Filter { state: Some(state), ..all() }).await.unwrap();
        assert_eq!(listed.len() as u64, expected, "{state:?}");
        assert!(listed.iter().all(|session| session.state == state));
    }
}

/// Pages follow each other without gap or repetition, also among sessions of one moment.
pub(super) async fn lists_come_in_pages(probe: impl SessionProbe) {
    let store = probe.store();
    for at in 0..7 {
        store.create(&plain()).await.unwrap();
        if at == 3 {
            probe.pass(MOMENT).await;
        }
    }
    let whole = store.list(&all()).await.unwrap();
    let keys: Vec<_> = whole.iter().map(|session| (session.created_at, session.id)).collect();
    assert!(keys.is_sorted(), "not oldest first: {keys:?}");
    let backwards: Vec<Session> = whole.iter().rev().cloned().collect();
    for (limit, newest_first) in [(1, false), (2, false), (3, true), (7, true), (7, false), (8, true)] {
        let mut paged: Vec<Session> = Vec::new();
        loop {
            let after = paged.last().map(|session| (session.created_at, session.id));
            let page = store.list(&Filter { after, limit, newest_first, ..Filter::default() }).await.unwrap();
            if page.is_empty() {
                break;
            }
            assert!(page.len() <= limit as usize);
            paged.extend(page);
        }
        assert_eq!(&paged, if newest_first { &backwards } else { &whole }, "in pages of {limit}");
    }
}

/// The largest, longest and strangest values come back as they were.
pub(super) async fn values_at_the_limits(probe: impl SessionProbe) {
    let store = probe.store();
    let path = format!("/upload/{}", vec!["ü".repeat(100); 15].join("/"));
    let new = NewSession {
        principal: Principal::named("o'neil; drop table sessions;--\"\\%_@größe.example🦀"),
        address: "[2001:db8::1%eth0]:65535".to_owned(),
        directory: "/upload/it's".to_owned(),
        destination: VirtualPath::from_decoded(&path).unwrap(),
        storage: "näme 'with' \"quotes\"".to_owned(),
        folder: StorageKey::ROOT,
        key: StorageKey::parse(&path[1..]).unwrap(),
        timeout: Duration::from_millis(365 * 24 * 3600 * 1000 * 200 + 1),
        url: Some(format!("http://[2001:db8::1]:8080{}?'\"=%00&{}", "/%C3%BC".repeat(1000), "q".repeat(2200))),
        limit: Some(u32::MAX),
        ..plain()
    };
    let session = store.create(&new).await.unwrap();
    assert_eq!(session, Session::create(&new, session.created_at));
    let total = ContentRange::MAXIMUM_TOTAL;
    let session = live(store.commit(&session, &begin(total)).await);
    let text = "'\"\\%_;\u{1f980}\n\t".repeat(500);
    let pieces = [piece(0, total - 1, &text), piece(total - 1, 1, "")];
    let step = Transition::Advance {
        to: total,
        synced: total,
        incarnation: text.clone(),
        pieces: pieces.to_vec(),
        handle: Some(text.clone()),
        durable: true,
    };
    let session = live(store.commit(&session, &step).await);
    assert_eq!(session.handle.as_ref(), Some(&text));
    let session = live(store.commit(&session, &Transition::Intend { intent: PublishIntent(text), total }).await);
    assert_eq!(load(store, session.id).await, Some(Found::Live(session.clone())));
    assert_eq!(store.list(&all()).await.unwrap(), std::slice::from_ref(&session));
    assert_eq!(store.pieces(session.id, total - 1).await.unwrap(), &pieces[1..]);
    let session = live(store.commit(&session, &Transition::Published).await);
    let tombstone = ended(store.commit(&session, &Transition::End(Ending::Closed)).await);
    assert_eq!(tombstone.published, Some(total));
    assert_eq!(load(store, session.id).await, Some(Found::Ended(tombstone)));
}

/// A session that stands at one point of its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Fresh,
    Named,
    Begun,
    Partly,
    Received,
    Notify,
    NotifyPostponed,
    Refused,
    NotifyAgain,
    Delivered,
    Publish,
    Postponed,
    WaitForClose,
}

impl Stage {
    pub(super) const ALL: [Self; 13] = [
        Self::Fresh,
        Self::Named,
        Self::Begun,
        Self::Partly,
        Self::Received,
        Self::Notify,
        Self::NotifyPostponed,
        Self::Refused,
        Self::NotifyAgain,
        Self::Delivered,
        Self::Publish,
        Self::Postponed,
        Self::WaitForClose,
    ];

    /// What leads here from the stage before.
    fn step(self) -> Transition {
        match self {
            Self::Fresh => unreachable!("create leads here"),
            Self::Named => Transition::Name,
            Self::Begun => begin(10),
            Self::Partly => advance(6, &[piece(0, 4, "first"), piece(4, 2, "second")]),
            Self::Received => advance(10, &[piece(6, 4, "third")]),
            Self::Notify => notify(1),
            Self::NotifyAgain => notify(2),
            Self::Refused => undelivered(Some(Hresult(0x8007_0005))),
            Self::Delivered => Transition::Delivered { reply: Some(Reply::Kept { length: 7 }), copy: true },
            Self::Publish => intend(),
            Self::NotifyPostponed | Self::Postponed => Transition::Postpone { until: Timestamp::from_millis(123_456) },
            Self::WaitForClose => Transition::Published,
        }
    }
}

/// A new session, brought to `stage`; each has a destination of its own.
pub(super) async fn reach(store: &impl SessionStore, stage: Stage) -> Session {
    drive(store, store.create(&plain()).await.unwrap(), stage).await
}

pub(super) async fn drive(store: &impl SessionStore, fresh: Session, stage: Stage) -> Session {
    let mut session = fresh;
    for step in Stage::ALL.into_iter().skip(1).take_while(|step| *step <= stage) {
        session = live(store.commit(&session, &step.step()).await);
    }
    session
}

async fn received_at(store: &impl SessionStore, storage: &str, key: &str) -> Session {
    let key = StorageKey::parse(key).unwrap();
    let session = store.create(&NewSession { storage: storage.to_owned(), key, ..plain() }).await.unwrap();
    drive(store, session, Stage::Received).await
}

pub(super) fn plain() -> NewSession {
    let new = new_session("in", "in/file");
    NewSession { key: StorageKey::parse(&format!("in/{}", new.id.uuid())).unwrap(), ..new }
}

/// Every kind of change, with values that fit `session` and values that do not.
pub(super) fn transitions(session: &Session) -> Vec<Transition> {
    let at = session.received;
    vec![
        Transition::Name,
        begin(10),
        begin(11),
        adopt("begun"),
        advance(at + 1, &[piece(at, 1, "next")]),
        advance(10, &[piece(0, 10, "whole")]),
        advance(at, &[]),
        Transition::Advance {
            to: at,
            synced: at,
            incarnation: "boot".to_owned(),
            pieces: Vec::new(),
            handle: None,
            durable: true,
        },
        advance(11, &[]),
        Transition::Advance {
            to: at + 1,
            synced: at + 2,
            incarnation: "boot".to_owned(),
            pieces: Vec::new(),
            handle: None,
            durable: false,
        },
        Transition::Advance {
            to: at + 2,
            synced: at,
            incarnation: "other boot".to_owned(),
            pieces: Vec::new(),
            handle: None,
            durable: false,
        },
        notify(3),
        Transition::Delivered { reply: None, copy: false },
        Transition::Delivered { reply: Some(Reply::Kept { length: 1 << 62 }), copy: true },
        Transition::Delivered { reply: Some(Reply::Static("http://a.example/r".to_owned())), copy: false },
        undelivered(None),
        undelivered(Some(Hresult(u32::MAX))),
        Transition::Regress { to: 0 },
        Transition::Regress { to: at },
        Transition::Regress { to: at + 1 },
        intend(),
        Transition::Intend { intent: PublishIntent(String::new()), total: 11 },
        Transition::Intend { intent: PublishIntent(String::new()), total: at },
        Transition::Withdraw,
        Transition::Postpone { until: Timestamp::from_millis(1_900_000_000_000) },
        Transition::Published,
        Transition::End(Ending::Closed),
        Transition::End(Ending::Cancelled),
        Transition::End(Ending::Expired),
    ]
}

pub(super) fn begin(total: u64) -> Transition {
    Transition::Begin { total, quota: Quota::NONE }
}

fn adopt(handle: &str) -> Transition {
    Transition::Adopt { handle: handle.to_owned() }
}

pub(super) fn advance(to: u64, pieces: &[Piece]) -> Transition {
    Transition::Advance {
        to,
        synced: to / 2,
        incarnation: "boot".to_owned(),
        pieces: pieces.to_vec(),
        handle: Some(format!("handle {to}")),
        durable: true,
    }
}

fn undelivered(refused: Option<Hresult>) -> Transition {
    Transition::Undelivered { refused, reason: Some("down".to_owned()), at: Timestamp::from_millis(5) }
}

fn notify(number: u128) -> Transition {
    Transition::Notify { id: uuid::Uuid::from_u128(number) }
}

pub(super) fn intend() -> Transition {
    Transition::Intend { intent: PublishIntent("to publish".to_owned()), total: 10 }
}

pub(super) fn piece(start: u64, len: u64, id: &str) -> Piece {
    Piece { start, len, id: id.to_owned() }
}

fn sorted(mut pieces: Vec<Piece>) -> Vec<Piece> {
    pieces.sort_by(|one, other| (one.start, &one.id).cmp(&(other.start, &other.id)));
    pieces
}

fn all() -> Filter {
    Filter { limit: 1000, ..Filter::default() }
}

fn sorted_ids(sessions: Vec<Session>) -> Vec<SessionId> {
    let mut ids: Vec<SessionId> = sessions.into_iter().map(|session| session.id).collect();
    ids.sort();
    ids
}

pub(super) async fn load(store: &impl SessionStore, id: SessionId) -> Option<Found> {
    store.load(id).await.unwrap()
}

pub(super) fn live(commit: Result<Commit, SessionStoreError>) -> Session {
    match commit.unwrap() {
        Commit::Live(session) => session,
        other => panic!("not committed: {other:?}"),
    }
}

pub(super) fn ended(commit: Result<Commit, SessionStoreError>) -> Tombstone {
    match commit.unwrap() {
        Commit::Ended(tombstone) => tombstone,
        other => panic!("not ended: {other:?}"),
    }
}

fn assert_limit(result: Result<Session, SessionStoreError>) {
    assert!(matches!(result, Err(SessionStoreError::Limit)), "{result:?}");
}

/// What does not fit is an error of the caller, or a race that it lost.
fn assert_unchanged(result: Result<Commit, SessionStoreError>) {
    assert!(matches!(result, Ok(Commit::Moved) | Err(SessionStoreError::Illegal(_))), "{result:?}");
}

async fn assert_applies(store: &impl SessionStore, session: &Session, transition: &Transition) {
    let pieces = store.pieces(session.id, 0).await.unwrap();
    let before = store.now().await.unwrap();
    let result = store.commit(session, transition).await;
    let after = store.now().await.unwrap();
    let context = format!("{transition:?} from {session:?}");
    let expected = session.apply(transition, moment(&result).unwrap_or(before));
    let Ok(expected) = expected else {
        assert_unchanged(result);
        assert_eq!(load(store, session.id).await, Some(Found::Live(session.clone())), "{context}");
        return assert_eq!(store.pieces(session.id, 0).await.unwrap(), pieces, "{context}");
    };
    let at = moment(&result).unwrap_or_else(|| panic!("{context} gave {result:?}"));
    assert!(at == session.progressed_at || (before <= at && at <= after), "{context}: done at {at:?}");
    let (result, found) = match expected {
        After::Live(expected) => (live(result) == expected, Found::Live(expected)),
        After::Ended(expected) => (ended(result) == expected, Found::Ended(expected)),
    };
    assert!(result, "{context} did not return {found:?}");
    assert_eq!(load(store, session.id).await, Some(found), "{context}");
}

/// When a change was made, by its own account.
fn moment(result: &Result<Commit, SessionStoreError>) -> Option<Timestamp> {
    match result {
        Ok(Commit::Live(session)) => Some(session.progressed_at),
        Ok(Commit::Ended(tombstone)) => Some(tombstone.ended_at),
        _ => None,
    }
}

/// The session once nothing changes it any more; its pieces then reach as far as it does.
async fn settled(store: &impl SessionStore, id: SessionId) -> Session {
    for _ in 0..100 {
        let first = load(store, id).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        let pieces = store.pieces(id, 0).await.unwrap();
        let Some(Found::Live(session)) = load(store, id).await else { panic!("the session is gone") };
        if first == Some(Found::Live(session.clone())) {
            assert_eq!(pieces.last().map_or(0, Piece::end), session.received, "the pieces end elsewhere");
            return session;
        }
    }
    panic!("the session never came to rest");
}

/// Whether the future was ready when it was polled once.
pub(super) async fn poll_once<F: Future + Unpin>(future: &mut F) -> bool {
    std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut *future).poll(context).is_ready())).await
}

/// `count` tasks that run in parallel.
pub(super) async fn at_once<T, F>(count: usize, task: impl Fn(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let tasks: Vec<_> = (0..count).map(|at| tokio::spawn(task(at))).collect();
    join_all(tasks).await.into_iter().map(|end| end.expect("no task panics")).collect()
}
