//! The uploads that this process knows something of, and which of their files are open.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bits_core::SessionId;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::staging::Staged;

/// How many busy files are passed over when one is to be closed.
const TRIES: usize = 8;

/// All uploads by session. Files stay open between fragments, up to a limit.
#[derive(Debug)]
pub(crate) struct Table {
    open_files: usize,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    uploads: HashMap<SessionId, Arc<AsyncMutex<Staged>>>,
    /// Sessions with an open file, the least recently used first.
    order: BTreeMap<u64, SessionId>,
    used: HashMap<SessionId, u64>,
    clock: u64,
}

impl Table {
    /// A table that keeps `open_files` files open beyond those that are just in use.
    pub(crate) fn new(open_files: usize) -> Self {
        Self { open_files, entries: Mutex::default() }
    }

    /// The upload of a session, a fresh one where nothing is known.
    pub(crate) fn get(&self, session: SessionId) -> Arc<AsyncMutex<Staged>> {
        self.entries().uploads.entry(session).or_default().clone()
    }

    /// The first doubtful byte of an upload that is known and not in use.
    pub(crate) fn doubt(&self, session: SessionId) -> Option<u64> {
        let upload = self.entries().uploads.get(&session).cloned()?;
        upload.try_lock().ok()?.doubt()
    }

    /// Notes whether a session's file is open after it was used, and takes the uploads whose
    /// files should be closed for it.
    #[must_use]
    pub(crate) fn used(&self, session: SessionId, is_open: bool) -> Vec<OwnedMutexGuard<Staged>> {
        let mut entries = self.entries();
        entries.close(session);
        if is_open && entries.uploads.contains_key(&session) {
            entries.note(session);
        }
        let mut victims = Vec::new();
        for _ in 0..TRIES {
            if entries.order.len() <= self.open_files {
                break;
            }
            victims.extend(entries.take_oldest());
        }
        victims
    }

    /// Forgets an upload of which nothing is known, as one that is published or discarded. Its one
    /// user calls this; where another waits for its turn, that one will.
    pub(crate) fn forget(&self, session: SessionId) {
        let mut entries = self.entries();
        let users = entries.uploads.get(&session).map_or(0, |upload| Arc::strong_count(upload) - 1);
        if users <= 1 {
            entries.close(session);
            entries.uploads.remove(&session);
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn note(&mut self, session: SessionId) {
        self.clock += 1;
        self.order.insert(self.clock, session);
        self.used.insert(session, self.clock);
    }

    fn close(&mut self, session: SessionId) {
        if let Some(clock) = self.used.remove(&session) {
            self.order.remove(&clock);
        }
    }

    /// The least recently used upload, off the list; one in use goes to the list's end instead.
    fn take_oldest(&mut self) -> Option<OwnedMutexGuard<Staged>> {
        let (_, session) = self.order.pop_first()?;
        self.used.remove(&session);
        let upload = self.uploads.get(&session)?.clone();
        let taken = upload.try_lock_owned().ok();
        if taken.is_none() {
            self.note(session);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> SessionId {
        SessionId::new(uuid::Uuid::from_u64_pair(0, number))
    }

    fn open(table: &Table) -> Vec<SessionId> {
        table.entries().order.values().copied().collect()
    }

    #[test]
    fn the_least_recently_used_file_is_closed() {
        let table = Table::new(2);
        for number in 1..=3 {
            table.get(id(number));
        }
        assert!(table.used(id(1), true).is_empty());
        assert!(table.used(id(2), true).is_empty());
        assert!(table.used(id(1), true).is_empty());
        assert_eq!(table.used(id(3), true).len(), 1);
        assert_eq!(open(&table), [id(1), id(3)]);
        assert!(table.used(id(1), false).is_empty());
        table.forget(id(3));
        assert_eq!(open(&table), []);
        assert!(table.entries().used.is_empty());
    }

    #[test]
    fn a_file_in_use_is_passed_over() {
        let table = Table::new(1);
        let busy = table.get(id(1)).try_lock_owned().unwrap();
        table.get(id(2));
        table.get(id(3));
        assert!(table.used(id(1), true).is_empty());
        assert_eq!(table.used(id(2), true).len(), 1, "the second, which nobody uses");
        assert_eq!(open(&table), [id(1)]);
        drop(busy);
        assert_eq!(table.used(id(3), true).len(), 1);
        assert_eq!(open(&table), [id(3)]);
    }

    #[test]
    fn an_upload_that_others_wait_for_is_not_forgotten() {
        let table = Table::new(1);
        let (user, waiting) = (table.get(id(1)), table.get(id(1)));
        table.forget(id(1));
        assert!(Arc::ptr_eq(&table.get(id(1)), &user), "two would have their turn at once");
        drop(user);
        table.forget(id(1));
        assert!(!Arc::ptr_eq(&table.get(id(1)), &waiting));
    }

    #[test]
    fn a_forgotten_upload_does_not_come_back() {
        let table = Table::new(1);
        table.get(id(1));
        table.forget(id(1));
        assert!(table.used(id(1), true).is_empty());
        assert_eq!(open(&table), []);
    }
}
