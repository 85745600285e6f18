//! Opening a session, and ending it: Close-Session and Cancel-Session (sections 3.2.5.2.7 and
//! 3.2.5.2.8).

use std::{sync::Arc, time::Duration};

use bits_core::{
    Ack, CloseDecision, Commit, Ending, Found, Refusal, Session, SessionEventKind, SessionId, State, Tombstone,
    Transition, Upload,
};

use tracing::Instrument;

use crate::{
    engine::{Call, Engine, Inner, chain, row_refusal},
    faults::fault,
    fragment::ATTEMPTS,
    publish::Outcome,
    rescue::{Panicked, Rescued},
    spans,
    turns::{LONGEST_WRITE, Turn},
};

/// How long an operator who cancels waits for a job that is under way.
const OPERATOR_WAIT: Duration = Duration::from_secs(30);

/// Why a session was not cancelled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CancelError {
    /// There is no such session.
    #[error("there is no such session")]
    NotFound,
    /// It was over before.
    #[error("the session is over already: {}", .0.as_str())]
    Over(Ending),
    /// A store failed, or a job is under way that does not end.
    #[error("{0}")]
    Refused(Refusal),
}

impl Engine {
    /// Ends a session at an operator's word, whoever it belongs to, and deletes what is staged for
    /// it. A request that writes to it is cut off; one on another server commits nothing any more.
    /// An upload that is complete stays: [`Tombstone::published`] tells. A job under way is waited
    /// for, 30 s at most.
    ///
    /// Dropping the future loses nothing: what it started goes on.
    pub async fn cancel(&self, id: SessionId) -> Result<Tombstone, CancelError> {
        let inner = self.inner.clone();
        let cancelling = async move { inner.cancel_by_operator(id).await };
        let cancelled = Rescued::new(&self.inner.tasks, cancelling).await;
        cancelled.unwrap_or_else(|Panicked| {
            tracing::error!("a cancellation failed: this is a bug");
            Err(CancelError::Refused(Refusal::Internal))
        })
    }
}

/// What a packet finds under its session id.
pub(crate) enum Opened {
    /// A live session of this caller and path, its bytes checked.
    Live(Box<Session>),
    /// The session is over, and this is the answer.
    Answer(Ack),
}

impl Inner {
    /// Reads a session's row, and trusts no more of its bytes than is there.
    pub(crate) async fn open(&self, call: &Call, id: SessionId) -> Result<Opened, Refusal> {
        for _ in 0..ATTEMPTS {
            let Some(session) = self.find(call, id).await? else {
                return self.ended(call, id).await.map(Opened::Answer);
            };
            match self.doubted(&session).await? {
                Some(to) if call.packet.kind() == bits_core::PacketType::Fragment => {
                    self.regress(&session, to).await?;
                }
                // The next Fragment would believe what it finds in the cache.
                Some(_) => {
                    self.cache.remove(session.id);
                    return Ok(Opened::Live(Box::new(session)));
                }
                None => {
                    self.cache.put(&session);
                    return Ok(Opened::Live(Box::new(session)));
                }
            }
        }
        Err(Refusal::Unavailable)
    }

    /// The packet's turn at its session. A packet that must not know of the session cuts nobody off.
    pub(crate) async fn turn(&self, call: &Call, id: SessionId) -> Result<Turn, Refusal> {
        let cached = self.cache.storage_of(id, &call.caller.principal, &call.destination);
        let storage = match cached {
            Some(storage) => storage,
            // One that is over is written to by nobody who matters.
            None => {
                self.find(call, id).await?.map_or_else(|| call.directory.storage.clone(), |session| session.storage)
            }
        };
        Ok(self.take_turn(id, &storage).await)
    }

    /// A turn at a session whose bytes are in this storage. A write that hangs in a store that takes
    /// others beside it is not waited for to its end.
    pub(crate) async fn take_turn(&self, id: SessionId, storage: &str) -> Turn {
        let at_once = self.storages.get(storage).is_some_and(|store| store.takes_writes_at_once());
        self.turns.take(id, at_once.then_some(LONGEST_WRITE), &self.stop).await
    }

    pub(crate) async fn close(self: &Arc<Self>, call: &Call, id: SessionId) -> Ack {
        let mut turn = match self.turn(call, id).await {
            Ok(turn) => turn,
            Err(refusal) => return refused(refusal, id),
        };
        for attempt in 0..ATTEMPTS {
            let complete = (attempt == 0).then(|| self.cache.get(id)).flatten().filter(|session| {
                session.belongs_to(&call.caller.principal, &call.destination)
                    && session.on_close(call.form) == CloseDecision::End
            });
            let session = match complete {
                Some(session) => {
                    spans::found(id);
                    Box::new(session)
                }
                None => match self.open(call, id).await {
                    Ok(Opened::Live(session)) => session,
                    Ok(Opened::Answer(ack)) => return ack,
                    Err(refusal) => return refused(refusal, id),
                },
            };
            let step = match session.on_close(call.form) {
                CloseDecision::End | CloseDecision::Discard => self.end(&session, Ending::Closed).await,
                CloseDecision::Refuse(refusal) => Err(refusal),
                CloseDecision::PublishEmpty => self.close_unnamed(call, &session).await,
                CloseDecision::Publish => {
                    turn.end();
                    self.publish_to_close(call, id).await
                }
            };
            match step {
                Ok(true) => return Ack::ended(id),
                Ok(false) => {}
                Err(refusal) => return refused(refusal, id),
            }
        }
        refused(Refusal::Unavailable, id)
    }

    /// Makes an upload that no Fragment named an empty one; whether the session is over. A small one whose
    /// bytes came before a crash is not named either, and is not to be published empty.
    async fn close_unnamed(&self, call: &Call, session: &Session) -> Result<bool, Refusal> {
        let upload = self.upload(session).await?;
        let available = self.storage(&session.storage)?.available(&upload).await;
        match available.map_err(|error| call.store_refusal(&error))? {
            0 => self.begin(call, session, 0).await.map(|_| false),
            _ => self.end(session, Ending::Closed).await,
        }
    }

    pub(crate) async fn cancel(self: &Arc<Self>, call: &Call, id: SessionId) -> Ack {
        let mut turn = match self.turn(call, id).await {
            Ok(turn) => turn,
            Err(refusal) => return refused(refusal, id),
        };
        for _ in 0..ATTEMPTS {
            let session = match self.find(call, id).await {
                Ok(Some(session)) => session,
                Ok(None) => return self.ended(call, id).await.unwrap_or_else(|refusal| refused(refusal, id)),
                Err(refusal) => return refused(refusal, id),
            };
            match self.cancel_step(&session, &mut turn, self.patience(&call.directory)).await {
                Ok(true) => return Ack::ended(id),
                Ok(false) => {}
                Err(refusal) => return refused(refusal, id),
            }
        }
        refused(Refusal::Unavailable, id)
    }

    /// Cancels a session at an operator's word.
    async fn cancel_by_operator(self: &Arc<Self>, id: SessionId) -> Result<Tombstone, CancelError> {
        let mut turn = None;
        for _ in 0..ATTEMPTS {
            let found = self.sessions.load(id).await.map_err(|error| CancelError::Refused(row_refusal(&error)))?;
            let session = match (found, turn.is_some()) {
                (None, _) => return Err(CancelError::NotFound),
                (Some(Found::Ended(tombstone)), true) => return Ok(tombstone),
                (Some(Found::Ended(tombstone)), false) => return Err(CancelError::Over(tombstone.ending)),
                (Some(Found::Live(session)), _) => session,
            };
            let Some(turn) = &mut turn else {
                turn = Some(self.take_turn(id, &session.storage).await);
                continue;
            };
            let step = self.cancel_step(&session, turn, OPERATOR_WAIT).instrument(spans::end(id));
            step.await.map_err(CancelError::Refused)?;
        }
        Err(CancelError::Refused(Refusal::Unavailable))
    }

    /// One step to the end of a session; whether it is over. A job under way is waited for, but
    /// not one that has yet to begin to tell a server application.
    async fn cancel_step(
        self: &Arc<Self>,
        session: &Session,
        turn: &mut Turn,
        patience: Duration,
    ) -> Result<bool, Refusal> {
        // Whom nobody is telling need not be told of what is given up.
        let is_untold = session.state == State::Notify && !session.copy && !self.jobs.is_telling(session.id);
        if session.state.is_job() && !is_untold {
            turn.end();
            match self.publish(session.id, false, patience).await {
                Outcome::Complete { .. } | Outcome::Regressed { .. } => return Ok(false),
                Outcome::Refused(refusal) if refusal.is_ours() => return Err(refusal),
                // Denied for good: ends it as it stands, if it was not set back to receiving.
                Outcome::Refused(_) => {}
            }
        }
        self.end(session, Ending::Cancelled).await
    }

    /// Ends a session and deletes what is staged for it; false when somebody else moved it.
    pub(crate) async fn end(&self, session: &Session, ending: Ending) -> Result<bool, Refusal> {
        fault("end-before-commit");
        self.cache.remove(session.id);
        let commit = self.sessions.commit(session, &Transition::End(ending)).await;
        let Commit::Ended(tombstone) = commit.map_err(|error| row_refusal(&error))? else { return Ok(false) };
        fault("end-after-commit");
        self.emit(tombstone.ended_at, session, SessionEventKind::Ended(ending));
        if tombstone.unclean {
            self.clean(&tombstone).await;
        }
        Ok(true)
    }

    /// Cleans up after a session that ended outside of its turn, as at an operator's word; whether
    /// it is clean. Who still writes to it is cut off, and nobody starts to.
    pub(crate) async fn clean_in_turn(&self, tombstone: &Tombstone) -> bool {
        let cleaning = async {
            let _turn = self.take_turn(tombstone.id, &tombstone.storage).await;
            self.cache.remove(tombstone.id);
            self.clean(tombstone).await
        };
        cleaning.instrument(spans::clean(tombstone.id)).await
    }

    /// Deletes what is staged for an ended session; whether it is clean. A failure is logged; the
    /// sweeper tries again.
    pub(crate) async fn clean(&self, tombstone: &Tombstone) -> bool {
        let Ok(store) = self.storage(&tombstone.storage) else { return false };
        let discarded = match self.sessions.pieces(tombstone.id, 0).await {
            Ok(pieces) => store.discard(&Upload::of_ended(tombstone, pieces)).await,
            Err(error) => {
                tracing::error!(error = %chain(&error), "the session store failed");
                return false;
            }
        };
        if let Err(error) = discarded {
            tracing::error!(session = %tombstone.id, error = %chain(&error), "staged bytes could not be deleted; they are tried again");
            return false;
        }
        fault("end-after-discard");
        let cleaned = self.sessions.cleaned(tombstone.id).await;
        if let Err(error) = &cleaned {
            tracing::error!(error = %chain(error), "the session store failed");
        }
        cleaned.is_ok()
    }

    /// The live session of this id, path and caller.
    async fn find(&self, call: &Call, id: SessionId) -> Result<Option<Session>, Refusal> {
        match self.sessions.load(id).await.map_err(|error| row_refusal(&error))? {
            Some(Found::Live(session)) if session.belongs_to(&call.caller.principal, &call.destination) => {
                spans::found(id);
                Ok(Some(session))
            }
            Some(Found::Live(_)) | None => Err(Refusal::SessionNotFound),
            Some(Found::Ended(_)) => Ok(None),
        }
    }

    /// The answer to a packet for a session that is over.
    async fn ended(&self, call: &Call, id: SessionId) -> Result<Ack, Refusal> {
        let found = self.sessions.load(id).await.map_err(|error| row_refusal(&error))?;
        let Some(Found::Ended(tombstone)) = found else { return Err(Refusal::SessionNotFound) };
        if !tombstone.belongs_to(&call.caller.principal, &call.destination) {
            return Err(Refusal::SessionNotFound);
        }
        spans::found(id);
        match tombstone.answer(&call.packet) {
            Some(Some(total)) => Ok(Ack::fragment(id, total)),
            Some(None) => Ok(Ack::ended(id)),
            None => Err(Refusal::SessionNotFound),
        }
    }

    /// From where on the session's bytes must come again, if any.
    async fn doubted(&self, session: &Session) -> Result<Option<u64>, Refusal> {
        if session.state != State::ReceiveFragments || session.received == 0 {
            return Ok(None);
        }
        let store = self.storage(&session.storage)?;
        let upload = self.upload(session).await?;
        let available = store.available(&upload).await.map_err(|error| {
            tracing::error!(session = %session.id, error = %chain(&error), "the upload store failed");
            Refusal::from_store(error.kind, http::StatusCode::FORBIDDEN)
        })?;
        Ok(session.doubt(store.incarnation(), available))
    }

    /// Publishes before a Close-Session. Bytes that were acknowledged and are gone cannot be
    /// asked for any more: the client learns it, and the session stays.
    async fn publish_to_close(self: &Arc<Self>, call: &Call, id: SessionId) -> Result<bool, Refusal> {
        match self.publish(id, true, self.patience(&call.directory)).await {
            Outcome::Complete { .. } => Ok(false),
            Outcome::Regressed { .. } => Err(Refusal::StagedDataVanished),
            Outcome::Refused(refusal) => Err(refusal),
        }
    }
}

/// The ack of a refusal; it names the session unless that is not found.
pub(crate) fn refused(refusal: Refusal, id: SessionId) -> Ack {
    let known = refusal != Refusal::SessionNotFound;
    Ack::refused(refusal, known.then_some(id))
}
