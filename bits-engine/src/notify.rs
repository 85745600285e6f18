//! Telling server applications of uploads (section 3.2.5.1.3): a job like publishing.
//!
//! Intent to the row, the request, its outcome to the row. Whoever finds a session between the
//! two sends the request again, with the same notification id.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bits_core::{
    Accepted, BodyError, ByteStream, Directory, Found, Hresult, MAXIMUM_URL, Notification, NotificationMode, Refusal,
    Reply, Session, SessionEventKind, SessionId, Source, Stopped, StoreError, StoreErrorKind, Transition, Upload,
    UploadStore, header,
};
use bytes::Bytes;
use futures_core::Stream;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use uuid::Uuid;

use crate::{
    engine::{Call, Inner, chain, row_refusal},
    faults::fault,
    publish::{Outcome, note_unconfigured},
};

/// Between two tries to commit what came of telling: the first pause, doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often a server says that it still tells an application: a claim lasts for half a minute.
const CLAIM_PAUSE: Duration = Duration::from_secs(10);
/// How often another one looks whether that has come to an end.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Sends requests to server applications.
#[async_trait]
pub trait Notifier: Send + Sync + 'static {
    /// Where to notify of an upload to the URL `upload`, whose query is appended. The error is
    /// for people.
    fn target(&self, notification: &Notification, upload: &str) -> Result<String, String>;

    /// Sends a POST and returns the answer's head, whatever its status; follows no redirect.
    /// Dropping the future, or the answer's body, ends the exchange.
    async fn send(&self, notice: Notice) -> Result<Answer, NotifyError>;
}

/// A request to a server application.
pub struct Notice {
    /// What [`Notifier::target`] gave.
    pub url: String,
    /// What the protocol says; the notifier adds what HTTP wants.
    pub headers: HeaderMap,
    /// The upload with its size in bytes, where it is sent. After an error of it the request is broken off.
    pub body: Option<(u64, ByteStream)>,
    /// Bounds the sending, the answer's head and its body, each by itself.
    pub timeout: Duration,
}

/// The answer of a server application.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its header.
    pub headers: HeaderMap,
    /// Its body: [`BodyError::Idle`] where it takes too long, another error where it breaks off.
    pub body: Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotifyError {
    /// It cannot be reached or resolved, or what it answered is no HTTP.
    #[error("{0}")]
    Unreachable(String),
    /// It took too long; the text says for what.
    #[error("{0}")]
    Timeout(String),
}

/// What an application gave, and whether the upload is to be published.
type Told = Result<(Option<Reply>, bool), Failure>;

/// Why a server application did not take an upload.
enum Failure {
    /// The client hears this.
    Refused(Refusal, String),
    /// Bytes from `good` on are missing or were changed; they must come again.
    Doubtful { good: u64 },
}

impl Inner {
    /// The URL of a Create-Session, where a server application will be told of the upload.
    pub(crate) fn upload_url(&self, call: &Call) -> Result<Option<String>, Refusal> {
        let Some(notification) = &call.directory.notification else { return Ok(None) };
        let target = self.notifier()?.target(notification, &call.url).map_err(|reason| {
            tracing::warn!(reason, "nobody can be notified of this upload");
            Refusal::Malformed("the URL cannot be notified of")
        })?;
        if target.len() > MAXIMUM_URL {
            return Err(Refusal::Malformed("the URL with which the server application is notified is too long"));
        }
        Ok(Some(call.url.clone()))
    }

    /// Makes the bytes durable and commits that the application will be told.
    pub(crate) async fn intend_to_notify(self: &Arc<Self>, session: &Session) -> Result<Option<Outcome>, Refusal> {
        if let Some(refusal) = session.final_refusal() {
            return Err(refusal);
        }
        let store = self.storage(&session.storage)?;
        let upload = self.upload(session).await?;
        match self.check_whole(store, session, &upload).await {
            Ok(()) => {}
            Err(StoreError { kind: StoreErrorKind::Doubtful { good }, .. }) if good < session.received => {
                return self.regress(session, good).await.map(|to| to.map(|to| Outcome::Regressed { to }));
            }
            Err(error) => return Err(store_refusal(session, &error)),
        }
        fault("notify-before-commit");
        self.commit(session, &Transition::Notify { id: Uuid::new_v4() }).await?;
        fault("notify-after-commit");
        Ok(None)
    }

    /// Tells the application, and commits what came of it.
    pub(crate) async fn notify(&self, session: &Session) -> Result<Option<Outcome>, Refusal> {
        let Some(directory) = self.directories.named(&session.directory) else {
            note_unconfigured(session);
            self.postpone(session).await?;
            return Err(Refusal::Unavailable);
        };
        let Some(notification) = &directory.notification else {
            let at = self.sessions.now().await.map_err(|error| row_refusal(&error))?;
            self.commit(session, &Transition::Undelivered { refused: None, reason: None, at }).await?;
            return Ok(None);
        };
        let told = tokio::select! {
            told = self.tell_in_turn(session, directory, notification) => told?,
            // The next start sends it again.
            () = self.stop.cancelled() => return Err(Refusal::Unavailable),
        };
        let Some(told) = told else { return Ok(None) };
        fault("notify-before-outcome");
        let outcome = self.keep(session, &told).await;
        fault("notify-after-outcome");
        outcome
    }

    /// Tells the application once there is a place at it, and no other server tells it; none where
    /// somebody moved the session by then.
    async fn tell_in_turn(
        &self,
        session: &Session,
        directory: &Directory,
        notification: &Notification,
    ) -> Result<Option<Told>, Refusal> {
        let place = self.queues.take(directory).await;
        self.jobs.tells(session.id);
        if place.waited && !self.stands(session).await? {
            return Ok(None);
        }
        while !self.sessions.claim_job(session.id).await.map_err(|error| row_refusal(&error))? {
            tokio::time::sleep(LOOK_PAUSE).await;
            if !self.stands(session).await? {
                return Ok(None);
            }
        }
        tokio::select! {
            told = self.tell(session, directory, notification) => Ok(Some(told)),
            () = self.keep_claim(session.id) => Ok(None),
        }
    }

    /// Whether nobody has moved the session since its row was read.
    async fn stands(&self, session: &Session) -> Result<bool, Refusal> {
        let found = self.sessions.load(session.id).await.map_err(|error| row_refusal(&error))?;
        Ok(matches!(found, Some(Found::Live(now)) if now.is_unmoved(session)))
    }

    /// Never ends: a claim that cannot be kept does not take back what the application was told.
    async fn keep_claim(&self, id: SessionId) {
        loop {
            tokio::time::sleep(CLAIM_PAUSE).await;
            if let Err(error) = self.sessions.claim_job(id).await {
                tracing::warn!(session = %id, error = %chain(&error), "the claim of a notification cannot be kept");
            }
        }
    }

    /// Commits what came of telling. While the database takes nothing, that is kept here and tried
    /// again: the application would be told once more instead, and as often as somebody asks.
    async fn keep(&self, session: &Session, told: &Told) -> Result<Option<Outcome>, Refusal> {
        let mut pause = FIRST_PAUSE;
        loop {
            let kept = match told {
                Ok((reply, copy)) => self.delivered(session, reply.clone(), *copy).await,
                Err(Failure::Refused(refusal, reason)) => self.undelivered(session, refusal, reason).await,
                Err(Failure::Doubtful { good }) => {
                    let to = self.regress(session, (*good).min(session.received)).await;
                    to.map(|to| to.map(|to| Outcome::Regressed { to }))
                }
            };
            if kept.is_ok() {
                return kept;
            }
            tracing::error!(session = %session.id, ?pause, "what came of a notification cannot be kept; it is tried again");
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                () = self.stop.cancelled() => return Err(Refusal::Unavailable),
            }
        }
    }

    async fn delivered(&self, session: &Session, reply: Option<Reply>, copy: bool) -> Result<Option<Outcome>, Refusal> {
        match self.commit(session, &Transition::Delivered { reply, copy }).await? {
            Some(delivered) => {
                tracing::info!(session = %session.id, copy, reply = delivered.reply.is_some(), "the server application took an upload");
                self.emit(delivered.progressed_at, &delivered, SessionEventKind::Delivered);
            }
            None => self.discard_if_over(session).await?,
        }
        Ok(None)
    }

    async fn undelivered(
        &self,
        session: &Session,
        refusal: &Refusal,
        reason: &str,
    ) -> Result<Option<Outcome>, Refusal> {
        let at = self.sessions.now().await.map_err(|error| row_refusal(&error))?;
        let failed = Transition::Undelivered { refused: final_code(refusal), reason: Some(reason.to_owned()), at };
        match self.commit(session, &failed).await? {
            Some(after) => {
                tracing::warn!(session = %session.id, %refusal, reason, "the server application did not take an upload");
                self.emit(at, &after, SessionEventKind::NotificationFailed { reason: reason.to_owned() });
            }
            None => self.discard_if_over(session).await?,
        }
        Ok(Some(Outcome::Refused(refusal.clone())))
    }

    fn notifier(&self) -> Result<&Arc<dyn Notifier>, Refusal> {
        self.notifier.as_ref().ok_or(Refusal::Internal)
    }

    /// One exchange with the application: its reply, and whether the upload is to be published.
    async fn tell(&self, session: &Session, directory: &Directory, notification: &Notification) -> Told {
        let store = self.storage(&session.storage)?;
        let upload = self.upload(session).await?;
        let by_value = notification.mode == NotificationMode::ByValue;
        let mut headers = self.headers(session, directory)?;
        if !by_value {
            share(store, session, &upload, &mut headers).await?;
        }
        let staged = open(store, session, &upload).await?;
        let tag = staged.info().tag.clone();
        let failed = Arc::new(Mutex::new(None));
        let body = by_value.then(|| (upload.total, watched(staged.read(0..upload.total), failed.clone())));
        let url = session.url.clone().unwrap_or_else(|| directory.url_of(&session.destination));
        let notifier = self.notifier()?;
        let url = notifier.target(notification, &url).map_err(|reason| Failure::Refused(Refusal::Internal, reason))?;
        let told = notifier.send(Notice { url, headers, body, timeout: notification.timeout }).await;
        let fault_of_ours = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let outcome = match (told, fault_of_ours) {
            (Err(_), Some(error)) => return Err(Failure::of_store(session, &error)),
            (Err(error), None) => Err(error.into()),
            (Ok(answer), _) => understand(store, session, &upload, by_value, answer).await,
        };
        // An application gets the upload's own file, and may have spoilt it. What it took for
        // itself or refused for good is its own affair; what is still wanted must be as it was sent.
        let is_settled = match &outcome {
            Ok((_, copy)) => !copy,
            Err(Failure::Refused(refusal, _)) => final_code(refusal).is_some(),
            Err(Failure::Doubtful { .. }) => false,
        };
        if !by_value && !is_settled && open(store, session, &upload).await?.info().tag != tag {
            tracing::warn!(session = %session.id, "a server application changed an upload that is still needed");
            return Err(Failure::Doubtful { good: 0 });
        }
        outcome
    }

    fn headers(&self, session: &Session, directory: &Directory) -> Result<HeaderMap, Failure> {
        let url = session.url.clone().unwrap_or_else(|| directory.url_of(&session.destination));
        let original = url.split('?').next().unwrap_or_default();
        let id = session.notification.unwrap_or_default();
        let mut headers = HeaderMap::new();
        insert(&mut headers, header::ORIGINAL_REQUEST_URL, original)?;
        insert(&mut headers, header::NOTIFICATION_ID, &format!("{{{:X}}}", id.hyphenated()))?;
        for (name, value) in
            [(header::REMOTE_USER, session.principal.as_str()), (header::REMOTE_ADDRESS, &session.address)]
        {
            if !value.is_empty() {
                insert(&mut headers, name, value)?;
            }
        }
        Ok(headers)
    }
}

/// The code of the application's 403, which is final.
fn final_code(refusal: &Refusal) -> Option<Hresult> {
    match refusal {
        Refusal::Application { status: StatusCode::FORBIDDEN, code } => Some(*code),
        _ => None,
    }
}

/// Gives the application the names of its two files.
async fn share(
    store: &Arc<dyn UploadStore>,
    session: &Session,
    upload: &Upload,
    headers: &mut HeaderMap,
) -> Result<(), Failure> {
    let files = store.share(upload).await.map_err(|error| Failure::of_store(session, &error))?;
    let files = files.ok_or_else(|| {
        Failure::Refused(Refusal::Internal, "the storage has no files to notify by reference with".to_owned())
    })?;
    insert(headers, header::REQUEST_DATAFILE_NAME, &files.request)?;
    insert(headers, header::RESPONSE_DATAFILE_NAME, &files.response)
}

async fn open(
    store: &Arc<dyn UploadStore>,
    session: &Session,
    upload: &Upload,
) -> Result<Box<dyn bits_core::Opened>, Failure> {
    match store.open(Source::Staged(upload)).await {
        Ok(Some(opened)) => Ok(opened),
        Ok(None) => Err(Failure::Doubtful { good: 0 }),
        Err(error) => Err(Failure::of_store(session, &error)),
    }
}

/// What the answer means; its reply is kept before anyone hears of it.
async fn understand(
    store: &Arc<dyn UploadStore>,
    session: &Session,
    upload: &Upload,
    by_value: bool,
    mut answer: Answer,
) -> Told {
    let Accepted { static_url, copy } = Accepted::read(answer.status, &answer.headers)?;
    if let Some(url) = static_url {
        return Ok((Some(Reply::Static(url)), copy));
    }
    let length = if by_value {
        store.write_reply(upload, &mut answer.body).await.map_err(|stopped| match stopped {
            Stopped::Body(BodyError::Idle) => Failure::from(NotifyError::Timeout("its body took too long".to_owned())),
            Stopped::Body(error) => NotifyError::Unreachable(error.to_string()).into(),
            Stopped::Store(error) => Failure::of_store(session, &error),
        })?
    } else {
        store.take_reply(upload).await.map_err(|error| Failure::of_store(session, &error))?
    };
    Ok(((length > 0).then_some(Reply::Kept { length }), copy))
}

/// Notes the error by which a body ends, since the notifier sees only that it broke off.
fn watched(body: ByteStream, failed: Arc<Mutex<Option<StoreError>>>) -> ByteStream {
    let watched = body.map(move |item| {
        item.map_err(|error| {
            let told = StoreError::new(error.kind, error.context.clone());
            *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            told
        })
    });
    Box::pin(watched)
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) -> Result<(), Failure> {
    let value = HeaderValue::from_bytes(value.as_bytes())
        .map_err(|_| Failure::Refused(Refusal::Internal, format!("{name} cannot hold {value:?}")))?;
    headers.insert(name, value);
    Ok(())
}

fn store_refusal(session: &Session, error: &StoreError) -> Refusal {
    tracing::error!(session = %session.id, error = %chain(error), "the upload store failed");
    Refusal::from_store(error.kind, StatusCode::FORBIDDEN)
}

impl Failure {
    fn of_store(session: &Session, error: &StoreError) -> Self {
        match error.kind {
            StoreErrorKind::Doubtful { good } => Self::Doubtful { good },
            StoreErrorKind::Missing => Self::Doubtful { good: 0 },
            _ => Self::Refused(store_refusal(session, error), chain(error)),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let reason = refusal.to_string();
        Self::Refused(refusal, reason)
    }
}

impl From<NotifyError> for Failure {
    fn from(error: NotifyError) -> Self {
        match error {
            NotifyError::Unreachable(reason) => Self::Refused(Refusal::ApplicationUnreachable, reason),
            NotifyError::Timeout(reason) => Self::Refused(Refusal::ApplicationTimeout, reason),
        }
    }
}
