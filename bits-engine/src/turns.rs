//! Turns: one request at a time works on a session, and a newer one cuts the older one off.
//!
//! A client waits for each ack before it sends the next packet, so a second request for the same
//! session means that the first one's connection is dead. Its body is cut, what it had stored is
//! committed, then the newer request has its turn. Where the store takes writes at once, a newer
//! request does not wait longer than [`LONGEST_WRITE`] for an older one's write.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bits_core::SessionId;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

/// How long a request waits for an older one's write, if it need not wait for its end.
pub(crate) const LONGEST_WRITE: Duration = Duration::from_secs(5);

/// The turns of all sessions that are worked on. All clones are one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turns {
    slots: Arc<Mutex<HashMap<SessionId, Slot>>>,
}

#[derive(Debug, Default)]
struct Slot {
    lock: Arc<AsyncMutex<()>>,
    /// Cuts off the newest request so far.
    newest: CancellationToken,
    /// Requests that have or await their turn.
    users: usize,
}

/// A request's turn; dropping it lets the next one in.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Cancelled when a newer request arrives, or when the server stops.
    pub(crate) cut: CancellationToken,
    guard: Option<OwnedMutexGuard<()>>,
    // Dropped after the guard.
    _user: User,
}

#[derive(Debug)]
struct User {
    slots: Arc<Mutex<HashMap<SessionId, Slot>>>,
    id: SessionId,
}

impl Turns {
    /// Waits for a turn at `id` and cuts off who has it. `stop` cuts off all. Who holds it for longer
    /// than `patience` is overtaken.
    pub(crate) async fn take(&self, id: SessionId, patience: Option<Duration>, stop: &CancellationToken) -> Turn {
        let cut = stop.child_token();
        let (mut lock, user) = self.enter(id, &cut);
        let guard = loop {
            let waiting = lock.clone().lock_owned();
            let Some(patience) = patience else { break waiting.await };
            match tokio::time::timeout(patience, waiting).await {
                Ok(guard) => break guard,
                Err(_) => lock = self.overtake(id, &lock),
            }
        };
        Turn { cut, guard: Some(guard), _user: user }
    }

    /// Another lock in the place of one that is not let go of; the one that somebody else has put
    /// there, if that came first.
    fn overtake(&self, id: SessionId, stuck: &Arc<AsyncMutex<()>>) -> Arc<AsyncMutex<()>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.entry(id).or_default();
        if Arc::ptr_eq(&slot.lock, stuck) {
            slot.lock = Arc::default();
        }
        slot.lock.clone()
    }

    fn enter(&self, id: SessionId, cut: &CancellationToken) -> (Arc<AsyncMutex<()>>, User) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.entry(id).or_default();
        std::mem::replace(&mut slot.newest, cut.clone()).cancel();
        slot.users += 1;
        (slot.lock.clone(), User { slots: self.slots.clone(), id })
    }
}

impl Turn {
    /// Lets the next request in while this one goes on with something that needs no turn.
    pub(crate) fn end(&mut self) {
        self.guard = None;
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slot) = slots.get_mut(&self.id) else { return };
        slot.users -= 1;
        if slot.users == 0 {
            slots.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};
    use uuid::Uuid;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn who_does_not_let_go_is_overtaken_where_that_is_allowed() {
        let (turns, stop, id) = (Turns::default(), CancellationToken::new(), SessionId::new(Uuid::nil()));
        let stuck = turns.take(id, Some(LONGEST_WRITE), &stop).await;
        let start = Instant::now();
        let second = turns.take(id, Some(LONGEST_WRITE), &stop).await;
        assert_eq!(start.elapsed(), LONGEST_WRITE);
        assert!(stuck.cut.is_cancelled() && !second.cut.is_cancelled());
        assert!(timeout(LONG, turns.take(id, None, &stop)).await.is_err(), "the second has its turn to its end");
        assert!(second.cut.is_cancelled());
        drop(second);
        let third = timeout(Duration::ZERO, turns.take(id, None, &stop)).await.expect("nobody waits for the first");
        drop((stuck, third));
        assert!(turns.slots.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_overtake_follow_each_other() {
        let (turns, stop, id) = (Turns::default(), CancellationToken::new(), SessionId::new(Uuid::nil()));
        let _stuck = turns.take(id, None, &stop).await;
        let work = async |begin: Duration| {
            tokio::time::sleep(begin).await;
            let turn = turns.take(id, Some(LONGEST_WRITE), &stop).await;
            let at = Instant::now();
            tokio::time::sleep(Duration::from_secs(2)).await;
            drop(turn);
            at
        };
        let (one, other) = tokio::join!(work(Duration::ZERO), work(Duration::from_secs(1)));
        let between = one.max(other) - one.min(other);
        assert!(between >= Duration::from_secs(2), "both had their turn at once");
    }
}
