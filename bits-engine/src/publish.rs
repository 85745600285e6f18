//! Publishing and notifying: one job per session, which is the session's and not a request's.
//!
//! Intent to the row, the bytes to their destination, done to the row. Whoever finds a session
//! between the two runs the job again; requests that come meanwhile join it and wait.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bits_core::{
    Commit, Directory, Found, Precondition, PublishAt, PublishIntent, Refusal, Reply, Session, SessionEventKind,
    SessionId, State, Stopped, StorageKey, StoreError, StoreErrorKind, Transition, Upload, UploadStore, Written,
};
use tokio::sync::watch;

use crate::{
    engine::{Inner, chain, row_refusal},
    faults::fault,
    fragment::ATTEMPTS,
    spans,
};

/// How long a failed publishing waits before it is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(60);

/// How long a request that holds its session's turn waits for a store to prepare the publishing.
const PREPARE_WAIT: Duration = Duration::from_secs(10);

/// What notifying takes besides the application's own time.
const NOTIFY_MARGIN: Duration = Duration::from_secs(15);
/// Clients listen for 5 minutes.
const LONGEST_WAIT: Duration = Duration::from_secs(285);

/// What came of publishing or notifying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The upload is complete as far as was asked: it stands at its destination, or the server
    /// application took it.
    Complete {
        /// Its size.
        total: u64,
        /// Where the reply of the server application is.
        reply: Option<String>,
    },
    /// Bytes were missing; the client is sent back.
    Regressed {
        /// The next wanted offset.
        to: u64,
    },
    /// It does not stand there: the destination refused it, or a store failed.
    Refused(Refusal),
}

/// What a step of a job leads to.
#[derive(Debug)]
pub(crate) enum Next {
    /// The job is over.
    Over(Outcome),
    /// Another step, from what was just committed.
    From(Box<Session>),
    /// Another step, from what the row says then.
    Look,
}

/// None where there is another step.
impl From<Option<Outcome>> for Next {
    fn from(outcome: Option<Outcome>) -> Self {
        outcome.map_or(Self::Look, Self::Over)
    }
}

/// The jobs under way.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    running: Mutex<HashMap<SessionId, Job>>,
}

#[derive(Debug)]
struct Job {
    result: watch::Receiver<Option<Outcome>>,
    /// Whether a server application was about to be told, or has been.
    is_telling: bool,
}

impl Inner {
    /// Notifies of or publishes a session that is received whole: starts the job or joins it, and
    /// waits. `closing` also publishes what waits for Close-Session.
    pub(crate) async fn publish(self: &Arc<Self>, id: SessionId, closing: bool, patience: Duration) -> Outcome {
        Self::outcome(self.start_job(id, closing, None), patience).await
    }

    /// The same for a session whose row was just committed.
    pub(crate) async fn publish_received(self: &Arc<Self>, session: Session, patience: Duration) -> Outcome {
        Self::outcome(self.start_job(session.id, false, Some(session)), patience).await
    }

    async fn outcome(mut result: watch::Receiver<Option<Outcome>>, patience: Duration) -> Outcome {
        let outcome = tokio::time::timeout(patience, result.wait_for(Option::is_some)).await;
        match outcome {
            Ok(Ok(outcome)) => outcome.clone().unwrap_or(Outcome::Refused(Refusal::Internal)),
            Ok(Err(_)) => Outcome::Refused(Refusal::Internal),
            Err(_) => Outcome::Refused(Refusal::Unavailable),
        }
    }

    /// How long a request waits for a job: an application that answers in its own time is heard
    /// as long as the client listens.
    pub(crate) fn patience(&self, directory: &Directory) -> Duration {
        let own = directory.notification.as_ref().map_or(Duration::ZERO, |it| it.timeout + NOTIFY_MARGIN);
        own.min(LONGEST_WAIT).max(self.limits.publish_wait)
    }

    /// The result of the job, started if it is not under way: from `known`, a row that was just
    /// committed, or from what the row says then.
    pub(crate) fn start_job(
        self: &Arc<Self>,
        id: SessionId,
        closing: bool,
        known: Option<Session>,
    ) -> watch::Receiver<Option<Outcome>> {
        let mut running = self.jobs.lock();
        if let Some(job) = running.get(&id) {
            return job.result.clone();
        }
        let (sender, result) = watch::channel(None);
        running.insert(id, Job { result: result.clone(), is_telling: false });
        let inner = self.clone();
        self.tasks.spawn(async move {
            let entry = Entry { inner: &inner, id };
            let outcome = inner.run_job(id, closing, known).await;
            drop(entry);
            sender.send_replace(Some(outcome));
        });
        result
    }

    async fn run_job(self: &Arc<Self>, id: SessionId, closing: bool, known: Option<Session>) -> Outcome {
        let mut known = known.map(Box::new);
        for _ in 0..ATTEMPTS {
            match self.job_step(id, closing, known.take()).await {
                Ok(Next::Over(outcome)) => return outcome,
                Ok(Next::From(session)) => known = Some(session),
                Ok(Next::Look) => {}
                Err(refusal) => return Outcome::Refused(refusal),
            }
        }
        Outcome::Refused(Refusal::Unavailable)
    }

    /// One step from a row that was just committed, or from what the row says.
    async fn job_step(
        self: &Arc<Self>,
        id: SessionId,
        closing: bool,
        known: Option<Box<Session>>,
    ) -> Result<Next, Refusal> {
        self.cache.remove(id);
        let session = match known {
            Some(session) => *session,
            None => match self.sessions.load(id).await.map_err(|error| row_refusal(&error))? {
                Some(Found::Live(session)) => session,
                Some(Found::Ended(_)) | None => return Err(Refusal::SessionNotFound),
            },
        };
        if session.state.is_job()
            && let Err(refusal) = self.storage(&session.storage)
        {
            self.postpone(&session).await?;
            return Err(refusal);
        }
        match session.state {
            State::WaitForClose => Ok(Next::Over(self.completed(&session))),
            State::Notify if !session.copy => spans::step(spans::notify(&session), self.notify(&session)).await,
            State::Publish => spans::step(spans::publish(&session), self.put(&session)).await,
            State::ReceiveFragments if !session.is_received() => {
                Ok(Next::Over(Outcome::Regressed { to: session.received }))
            }
            State::Notify | State::ReceiveFragments => {
                spans::step(spans::prepare(&session), self.next_job(&session, closing)).await
            }
        }
    }

    /// What is next for a session that is received whole.
    async fn next_job(self: &Arc<Self>, session: &Session, closing: bool) -> Result<Next, Refusal> {
        let directory = self.directories.named(&session.directory);
        if directory.is_some_and(|directory| session.awaits_application(directory)) {
            return self.intend_to_notify(session).await.map(Next::from);
        }
        if directory.is_none() && session.is_for_application() {
            note_unconfigured(session);
            return Err(Refusal::Unavailable);
        }
        if !closing && directory.is_some_and(|directory| directory.publish == PublishAt::CloseSession) {
            return self.await_close(session).await.map(Next::from);
        }
        self.intend(session).await
    }

    /// Makes the bytes durable, as the last ack promises; Close-Session is to publish them.
    async fn await_close(&self, session: &Session) -> Result<Option<Outcome>, Refusal> {
        if session.state == State::Notify {
            if self.commit(session, &Transition::Withdraw).await?.is_none() {
                return Ok(None);
            }
        } else if session.synced < session.received {
            let store = self.storage(&session.storage)?;
            let upload = self.upload(session).await?;
            match self.check_whole(store, session, &upload).await {
                Ok(()) => {}
                Err(StoreError { kind: StoreErrorKind::Doubtful { good }, .. }) if good < session.received => {
                    return self.regress(session, good).await.map(|to| to.map(|to| Outcome::Regressed { to }));
                }
                Err(error) => return Err(self.job_refusal(session, &error, self.precondition(session).1)),
            }
            let durable = Transition::Advance {
                to: session.received,
                synced: session.received,
                incarnation: store.incarnation().to_owned(),
                pieces: Vec::new(),
                handle: None,
                durable: true,
            };
            if self.commit(session, &durable).await?.is_none() {
                return Ok(None);
            }
            fault("last-fragment-after-commit");
        }
        Ok(Some(self.completed(session)))
    }

    /// Whether the last bytes of this session can be committed together with the intent to publish
    /// them. Where the store takes writes at once, one that was overtaken could still write to them.
    pub(crate) fn is_joined(&self, session: &Session) -> bool {
        self.is_direct(session)
            && self.storages.get(&session.storage).is_some_and(|store| !store.takes_writes_at_once())
    }

    /// The same as [`Self::intend`] for what was just written to its end and no row tells yet, while
    /// nobody else may write. None where anything is in the way of it: then what was written is
    /// committed first, and the job finds out what it is. Of bytes that turn out to be doubtful
    /// `written` is told: no row may name them.
    pub(crate) async fn intend_written(
        &self,
        session: &Session,
        written: &mut Written,
    ) -> Result<Option<Session>, Refusal> {
        if !written.pieces.is_empty() || written.handle.is_some() {
            return Ok(None);
        }
        let store = self.storage(&session.storage)?;
        let (total, incarnation) = (written.reached, store.incarnation().to_owned());
        let whole =
            Session { total: Some(total), received: total, synced: written.synced, incarnation, ..session.clone() };
        let upload = self.upload(&whole).await?;
        let preparing = tokio::time::timeout(PREPARE_WAIT, self.prepare(store, &whole, &upload));
        let intent = match preparing.await {
            Ok(Ok(intent)) => intent,
            Ok(Err(error)) if matches!(error.kind, StoreErrorKind::Doubtful { .. }) => {
                written.stopped = Some(Stopped::Store(error));
                return Ok(None);
            }
            Ok(Err(_)) | Err(_) => return Ok(None),
        };
        fault("intent-before-commit");
        self.cache.remove(session.id);
        let commit = self.sessions.commit(session, &Transition::Intend { intent, total }).await;
        let Commit::Live(publishing) = commit.map_err(|error| row_refusal(&error))? else { return Ok(None) };
        fault("intent-after-commit");
        Ok(Some(publishing))
    }

    /// Has the bytes made durable and the destination looked at.
    async fn prepare(
        &self,
        store: &Arc<dyn UploadStore>,
        session: &Session,
        upload: &Upload,
    ) -> Result<PublishIntent, StoreError> {
        self.check_available(store, session, upload).await?;
        store.prepare(upload, self.precondition(session).0).await
    }

    /// Prepares, and commits the intent and the claim.
    async fn intend(self: &Arc<Self>, session: &Session) -> Result<Next, Refusal> {
        let store = self.storage(&session.storage)?;
        let upload = self.upload(session).await?;
        let (_, conflict) = self.precondition(session);
        let intent = match self.prepare(store, session, &upload).await {
            Ok(intent) => intent,
            Err(StoreError { kind: StoreErrorKind::Doubtful { good }, .. }) if good < session.received => {
                let to = self.regress(session, good).await?;
                return Ok(to.map(|to| Outcome::Regressed { to }).into());
            }
            // Nobody but the sweeper may come for it.
            Err(error) if session.state == State::Notify => {
                return self.put_failed(session, &error, conflict).await.map(Next::from);
            }
            Err(error) => return Err(self.job_refusal(session, &error, conflict)),
        };
        fault("intent-before-commit");
        let intend = Transition::Intend { intent, total: session.received };
        let commit = self.sessions.commit(session, &intend).await;
        match commit.map_err(|error| row_refusal(&error))? {
            Commit::Claimed(other) => {
                tracing::debug!(session = %session.id, %other, "another session is publishing to this destination");
                Box::pin(self.publish(other, false, self.limits.publish_wait)).await;
            }
            Commit::Live(session) => {
                fault("intent-after-commit");
                return Ok(Next::From(Box::new(session)));
            }
            Commit::Ended(_) | Commit::Moved | Commit::Exceeds(_) => {}
        }
        Ok(Next::Look)
    }

    /// Puts the bytes at their destination and commits that they are there.
    async fn put(self: &Arc<Self>, session: &Session) -> Result<Option<Outcome>, Refusal> {
        let store = self.storage(&session.storage)?;
        let upload = self.upload(session).await?;
        let (precondition, conflict) = self.precondition(session);
        let Some(intent) = &session.intent else { return Err(Refusal::Internal) };
        if let Err(error) = store.publish(&upload, precondition, intent).await {
            return self.put_failed(session, &error, conflict).await;
        }
        fault("publish-before-commit");
        let Some(published) = self.commit(session, &Transition::Published).await? else { return Ok(None) };
        fault("publish-after-commit");
        self.forget_published(session).await;
        self.emit(published.progressed_at, &published, SessionEventKind::Published);
        Ok(Some(self.completed(&published)))
    }

    async fn put_failed(
        &self,
        session: &Session,
        error: &StoreError,
        conflict: http::StatusCode,
    ) -> Result<Option<Outcome>, Refusal> {
        if error.kind == StoreErrorKind::Changed {
            tracing::debug!(session = %session.id, %error, "the destination changed; its publishing is prepared anew");
            self.commit(session, &Transition::Withdraw).await?;
            return Ok(None);
        }
        let refusal = self.job_refusal(session, error, conflict);
        match error.kind {
            StoreErrorKind::Exists | StoreErrorKind::IsFolder | StoreErrorKind::NoParent => {
                self.commit(session, &Transition::Withdraw).await?;
            }
            StoreErrorKind::Doubtful { good } => {
                let to = self.regress(session, good.min(session.received)).await?;
                return Ok(to.map(|to| Outcome::Regressed { to }));
            }
            _ => self.postpone(session).await?,
        }
        Ok(Some(Outcome::Refused(refusal)))
    }

    fn completed(&self, session: &Session) -> Outcome {
        Outcome::Complete { total: session.received, reply: self.reply_of(session) }
    }

    /// The URL of the reply, if there is one: that of the directory which the session is in, also
    /// where another one answers for its path by now.
    pub(crate) fn reply_of(&self, session: &Session) -> Option<String> {
        match session.reply.as_ref()? {
            Reply::Static(url) => Some(url.clone()),
            Reply::Kept { .. } => {
                let directory = self.directories.named(&session.directory)?;
                Some(directory.reply_url(&session.destination, session.id))
            }
        }
    }

    /// A job that failed is tried again by the sweeper, or at the next packet.
    pub(crate) async fn postpone(&self, session: &Session) -> Result<(), Refusal> {
        let now = self.sessions.now().await.map_err(|error| row_refusal(&error))?;
        self.commit(session, &Transition::Postpone { until: now + RETRY_PAUSE }).await.map(drop)
    }

    /// All bytes are there and durable.
    pub(crate) async fn check_whole(
        &self,
        store: &Arc<dyn UploadStore>,
        session: &Session,
        upload: &Upload,
    ) -> Result<(), StoreError> {
        self.check_available(store, session, upload).await?;
        store.sync(upload).await
    }

    /// All bytes are there, as far as can be told without looking at each of them.
    async fn check_available(
        &self,
        store: &Arc<dyn UploadStore>,
        session: &Session,
        upload: &Upload,
    ) -> Result<(), StoreError> {
        let available = store.available(upload).await?;
        match session.doubt(store.incarnation(), available) {
            Some(good) => Err(StoreError::new(StoreErrorKind::Doubtful { good }, "staged bytes are missing")),
            None => Ok(()),
        }
    }

    /// The rules of the session's directory; those of a plain one where it is not configured any
    /// more, so that nothing is overwritten.
    fn precondition(&self, session: &Session) -> (Precondition, http::StatusCode) {
        let plain = Directory::new(&session.directory, &session.storage, StorageKey::ROOT);
        let directory = self.directories.named(&session.directory).unwrap_or(&plain);
        let precondition = Precondition {
            overwrite: directory.allow_overwrites,
            create_folders: directory.create_directories,
            file_mode: directory.file_mode,
            folder_mode: directory.folder_mode,
        };
        (precondition, directory.conflict_status)
    }

    fn job_refusal(&self, session: &Session, error: &StoreError, conflict: http::StatusCode) -> Refusal {
        let refusal = Refusal::from_store(error.kind, conflict);
        let reason = chain(error);
        tracing::warn!(session = %session.id, %refusal, reason, "publishing failed");
        self.emit(session.progressed_at, session, SessionEventKind::PublishFailed { reason });
        refusal
    }
}

/// Its server application was to have it first, and is not known any more.
pub(crate) fn note_unconfigured(session: &Session) {
    tracing::error!(
        session = %session.id,
        directory = session.directory,
        "an upload waits for the server application of a directory that is not configured any more; configure it, or cancel the session"
    );
}

impl Jobs {
    /// From here on the session's application may hear of it.
    pub(crate) fn tells(&self, id: SessionId) {
        if let Some(job) = self.lock().get_mut(&id) {
            job.is_telling = true;
        }
    }

    /// Whether a job of the session is under way in this process.
    pub(crate) fn is_running(&self, id: SessionId) -> bool {
        self.lock().contains_key(&id)
    }

    /// Whether a server application hears of the session now, as far as this process knows.
    pub(crate) fn is_telling(&self, id: SessionId) -> bool {
        self.lock().get(&id).is_some_and(|job| job.is_telling)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Job>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a job off the list when it ends, however it ends.
struct Entry<'a> {
    inner: &'a Inner,
    id: SessionId,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.inner.jobs.lock().remove(&self.id);
    }
}
