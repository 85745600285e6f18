//! Turns: one request at a time works on a session, and a newer one cuts the older one off.
//!
//! A client waits for each ack before it sends the next packet, so a second request for the same
//! session means that the first one's connection is dead. Its body is cut, what it had stored is
//! committed, then the newer request has its turn.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bits_core::SessionId;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

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
    /// Waits for a turn at `id` and cuts off who has it. `stop` cuts off all.
    pub(crate) async fn take(&self, id: SessionId, stop: &CancellationToken) -> Turn {
        let cut = stop.child_token();
        let (lock, user) = self.enter(id, &cut);
        let guard = lock.lock_owned().await;
        Turn { cut, guard: Some(guard), _user: user }
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
