//! Hot sessions, so that a fragment need not read its row.
//!
//! A cached row may only accept: whatever would be answered with a refusal, an older offset or
//! an error reads the row first. A row is cached only after its bytes were checked.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use bits_core::{Principal, Session, SessionId, VirtualPath};

/// Most sessions to keep; all are dropped when there are more.
const CAPACITY: usize = 16 * 1024;

#[derive(Debug, Default)]
pub(crate) struct Cache {
    sessions: Mutex<HashMap<SessionId, Session>>,
}

impl Cache {
    pub(crate) fn get(&self, id: SessionId) -> Option<Session> {
        self.lock().get(&id).cloned()
    }

    /// The storage of a session that is here, and may be known of by who asks.
    pub(crate) fn storage_of(&self, id: SessionId, principal: &Principal, destination: &VirtualPath) -> Option<String> {
        let sessions = self.lock();
        let session = sessions.get(&id).filter(|session| session.belongs_to(principal, destination))?;
        Some(session.storage.clone())
    }

    pub(crate) fn put(&self, session: &Session) {
        let mut sessions = self.lock();
        if sessions.len() >= CAPACITY && !sessions.contains_key(&session.id) {
            sessions.clear();
        }
        sessions.insert(session.id, session.clone());
    }

    pub(crate) fn remove(&self, id: SessionId) {
        self.lock().remove(&id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
