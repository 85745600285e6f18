//! The last bytes of small uploads, kept in memory from their write until they are published.
//!
//! Nothing was acknowledged of them yet, so they may be dropped at any time: the session then is
//! sent back to what the store holds.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use object_store::PutPayload;
use tokio::time::Instant;

use crate::memory::Lease;

/// Whoever wrote them publishes them at once, or never.
const LIFETIME: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub(crate) struct Pending {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    by_name: HashMap<String, (PutPayload, Lease)>,
    oldest_first: VecDeque<(Instant, String)>,
}

impl Pending {
    /// Keeps the bytes under the name that they will have in the store if they must.
    pub(crate) fn put(&self, name: String, payload: PutPayload, lease: Lease) {
        let mut kept = self.lock();
        kept.drop_old();
        kept.oldest_first.push_back((Instant::now() + LIFETIME, name.clone()));
        kept.by_name.insert(name, (payload, lease));
    }

    pub(crate) fn get(&self, name: &str) -> Option<PutPayload> {
        self.lock().by_name.get(name).map(|(payload, _)| payload.clone())
    }

    pub(crate) fn holds(&self, name: &str) -> bool {
        self.lock().by_name.contains_key(name)
    }

    pub(crate) fn remove(&self, name: &str) {
        let mut kept = self.lock();
        if kept.by_name.remove(name).is_some() {
            kept.oldest_first.retain(|(_, other)| other != name);
        }
    }

    /// Gives the memory back of what nobody came for.
    pub(crate) fn drop_old(&self) {
        self.lock().drop_old();
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn drop_old(&mut self) {
        let now = Instant::now();
        while self.oldest_first.front().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, name)) = self.oldest_first.pop_front() {
                self.by_name.remove(&name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_nobody_comes_for_is_dropped() {
        let pending = Pending::default();
        pending.put("a".to_owned(), "1".into(), Lease::default());
        tokio::time::advance(LIFETIME / 2).await;
        pending.put("b".to_owned(), "2".into(), Lease::default());
        tokio::time::advance(LIFETIME / 2).await;
        pending.drop_old();
        assert!(!pending.holds("a") && pending.holds("b"));
        pending.remove("b");
        assert!(pending.get("b").is_none() && pending.lock().oldest_first.is_empty());
    }
}
