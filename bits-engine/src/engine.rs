//! The engine: a packet's way from its head to its ack.

use std::{collections::HashMap, fmt, net::IpAddr, sync::Arc, time::Duration};

use bits_core::{
    Ack, Directory, Form, NewSession, Packet, Principal, PublishAt, Quota, Refusal, Session, SessionEvent,
    SessionEventKind, SessionId, SessionStore, SessionStoreError, StoreErrorKind, Timestamp, Upload, UploadStore,
    VirtualPath,
};
use http::{request::Parts, uri::Authority};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;
use uuid::Uuid;

use crate::{
    body::{Body, LEAST_DRAIN, Waiting},
    cache::Cache,
    directories::{Directories, Route},
    faults::fault,
    maintain::{Chore, Watch},
    notify::Notifier,
    publish::Jobs,
    queue::Queues,
    rate::Bandwidth,
    rescue::{Panicked, Rescued},
    spans,
    turns::Turns,
};

/// Who sends a packet.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Proved by whoever calls the engine.
    pub principal: Principal,
    /// For logs; never for decisions.
    pub address: Option<IpAddr>,
    /// Whether the request came by HTTPS: what server applications are told of its URL.
    pub secure: bool,
}

/// Bounds in time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a body may be silent before its request is ended; what came is kept.
    pub idle_timeout: Duration,
    /// Bytes per second below which a body is ended once it was waited for 30 s; what came is kept.
    pub minimum_rate: Option<u64>,
    /// Bytes per second of all bodies together.
    pub bandwidth: Option<u64>,
    /// How long a request waits for publishing that is under way; Windows waits 5 minutes.
    pub publish_wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(120),
            minimum_rate: None,
            bandwidth: None,
            publish_wait: Duration::from_secs(240),
        }
    }
}

/// Takes packets. Cheap to clone; all clones are one engine.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) sessions: Arc<dyn SessionStore>,
    pub(crate) storages: HashMap<String, Arc<dyn UploadStore>>,
    pub(crate) directories: Directories,
    /// The `url_path`s of directories that there were before, and whose sessions are to end.
    pub(crate) removed: Vec<String>,
    pub(crate) notifier: Option<Arc<dyn Notifier>>,
    pub(crate) limits: Limits,
    bandwidth: Option<Arc<Bandwidth>>,
    pub(crate) turns: Turns,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) queues: Arc<Queues>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) watch: Arc<Watch>,
    pub(crate) tasks: TaskTracker,
    /// Cuts off every body.
    pub(crate) stop: CancellationToken,
    events: Arc<dyn Fn(&SessionEvent) + Send + Sync>,
    /// Told of maintenance.
    pub(crate) chores: Arc<dyn Fn(Chore) + Send + Sync>,
}

/// Puts an engine together.
pub struct EngineBuilder {
    sessions: Arc<dyn SessionStore>,
    storages: HashMap<String, Arc<dyn UploadStore>>,
    directories: Directories,
    notifier: Option<Arc<dyn Notifier>>,
    limits: Limits,
    events: Arc<dyn Fn(&SessionEvent) + Send + Sync>,
    chores: Arc<dyn Fn(Chore) + Send + Sync>,
}

impl EngineBuilder {
    /// Adds the storage that directories name `name`.
    #[must_use]
    pub fn storage(mut self, name: &str, store: Arc<dyn UploadStore>) -> Self {
        self.storages.insert(name.to_owned(), store);
        self
    }

    /// Sets who tells server applications of uploads.
    #[must_use]
    pub fn notifier(mut self, notifier: Arc<dyn Notifier>) -> Self {
        self.notifier = Some(notifier);
        self
    }

    /// Sets the bounds in time.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Calls `observer` with every event, after its commit. It must not block.
    #[must_use]
    pub fn on_event(mut self, observer: impl Fn(&SessionEvent) + Send + Sync + 'static) -> Self {
        self.events = Arc::new(observer);
        self
    }

    /// Calls `observer` with every [`Chore`] of maintenance, when it is done. It must not block.
    #[must_use]
    pub fn on_chore(mut self, observer: impl Fn(Chore) + Send + Sync + 'static) -> Self {
        self.chores = Arc::new(observer);
        self
    }

    /// The engine; an error where a directory needs what was not added.
    pub fn build(self) -> Result<Engine, Incomplete> {
        let inner = Inner {
            sessions: self.sessions,
            storages: self.storages,
            directories: self.directories,
            removed: Vec::new(),
            notifier: self.notifier,
            limits: self.limits,
            bandwidth: self.limits.bandwidth.map(|rate| Arc::new(Bandwidth::new(rate))),
            turns: Turns::default(),
            jobs: Arc::default(),
            queues: Arc::default(),
            cache: Arc::default(),
            watch: Arc::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            events: self.events,
            chores: self.chores,
        };
        inner.complete()
    }
}

/// A directory needs what was not added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incomplete {
    /// The storage of this name.
    UnknownStorage(String),
    /// A notifier.
    NoNotifier,
}

impl fmt::Display for Incomplete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownStorage(name) => write!(f, "a directory names the storage {name:?}, which was not added"),
            Self::NoNotifier => f.write_str("a directory notifies a server application, and no notifier was added"),
        }
    }
}

impl std::error::Error for Incomplete {}

impl Engine {
    /// The same engine with other directories, bounds and notifier: stores, sessions, and whatever
    /// is under way are shared, and end with the settings that they began with.
    ///
    /// Whoever takes packets turns to the new one. [`Self::maintain`] is to be called anew too, once
    /// the old one's has ended: it ends the sessions of directories that are gone or take no uploads
    /// any more. An error, where a directory needs what there is not, changes nothing.
    pub fn with_settings(
        &self,
        directories: Directories,
        limits: Limits,
        notifier: Option<Arc<dyn Notifier>>,
    ) -> Result<Engine, Incomplete> {
        let old = &self.inner;
        let bandwidth = match limits.bandwidth {
            rate if rate == old.limits.bandwidth => old.bandwidth.clone(),
            rate => rate.map(|rate| Arc::new(Bandwidth::new(rate))),
        };
        let before = old.directories.iter().map(|directory| directory.url_path.clone());
        let gone = |path: &String| directories.named(path).is_none();
        let inner = Inner {
            removed: before.chain(old.removed.iter().cloned()).filter(gone).collect(),
            directories,
            limits,
            bandwidth,
            notifier,
            sessions: old.sessions.clone(),
            storages: old.storages.clone(),
            turns: old.turns.clone(),
            jobs: old.jobs.clone(),
            queues: old.queues.clone(),
            cache: old.cache.clone(),
            watch: old.watch.clone(),
            tasks: old.tasks.clone(),
            stop: old.stop.clone(),
            events: old.events.clone(),
            chores: old.chores.clone(),
        };
        inner.complete()
    }

    /// Starts putting an engine together.
    pub fn builder(sessions: Arc<dyn SessionStore>, directories: Directories) -> EngineBuilder {
        EngineBuilder {
            sessions,
            storages: HashMap::new(),
            directories,
            notifier: None,
            limits: Limits::default(),
            events: Arc::new(|_| {}),
            chores: Arc::new(|_| {}),
        }
    }

    /// Answers one request; none when its body broke off, went silent or was cut off, so that
    /// there is nobody to answer and the connection is to be closed. What came of it is kept.
    ///
    /// Dropping the future loses nothing: what it started goes on.
    ///
    /// Whatever part of the body is not wanted is read and dropped first, so that the client sees
    /// the ack; up to the directory's fragment size, but at least 64 MiB, and 10 s.
    pub async fn handle(&self, head: &Parts, caller: Caller, body: Body) -> Option<Ack> {
        let route = self.inner.directories.route(head.uri.path());
        let drain_limit =
            route.as_ref().map_or(LEAST_DRAIN, |route| route.directory.maximum_fragment_size.max(LEAST_DRAIN));
        let call = match route.and_then(|route| Call::new(route, head, &caller)) {
            Ok(call) => call,
            Err(refusal) => {
                self.note_malformed(head, caller).await;
                return Some(self.inner.refuse(refusal, body, drain_limit).await);
            }
        };
        let inner = self.inner.clone();
        let answering = async move {
            let mut body = body.paced(inner.bandwidth.clone());
            let ack = inner.answer(&call, &mut body).await;
            body.drain(drain_limit, &inner.stop).await;
            (!body.is_broken()).then_some(ack)
        };
        let answered = Rescued::new(&self.inner.tasks, answering.in_current_span()).await;
        answered.unwrap_or_else(|Panicked| {
            tracing::error!("a request failed: this is a bug");
            Some(Ack::refused(Refusal::Internal, None))
        })
    }

    /// A malformed Fragment names its session too: closing it in the override form must not
    /// publish an empty file.
    async fn note_malformed(&self, head: &Parts, caller: Caller) {
        let Some(id) = Packet::fragment_of(head) else { return };
        let Ok(route) = self.inner.directories.route(head.uri.path()) else { return };
        let (inner, destination) = (self.inner.clone(), route.destination);
        let noting = async move { inner.name_by(id, &caller.principal, &destination).await };
        if let Err(Panicked) = Rescued::new(&self.inner.tasks, noting.in_current_span()).await {
            tracing::error!("a request failed: this is a bug");
        }
    }

    /// The directory that answers for the path of a request, as it stood on the wire; whoever
    /// calls the engine learns from it how callers prove who they are.
    ///
    /// Where there is none, there is nothing to protect: [`Engine::handle`] refuses the request.
    pub fn directory(&self, raw_path: &str) -> Option<&Directory> {
        self.inner.directories.find(raw_path).map(Arc::as_ref)
    }

    /// Refuses a request that is no business of the engine's, such as one of a caller who is not
    /// logged in. The body is read and dropped first, within the bounds of [`Engine::handle`].
    pub async fn refuse(&self, head: &Parts, refusal: Refusal, body: Body) -> Ack {
        self.inner.refuse(refusal, body, self.drain_limit(head)).await
    }

    /// The same, where the next request must come by the same connection: the body is asked for if
    /// the client waits for that, and read for as long as it comes, as one that is kept would be.
    pub async fn refuse_and_go_on(&self, head: &Parts, refusal: Refusal, body: Body) -> Ack {
        let mut body = body.awaiting_continue(false).paced(self.inner.bandwidth.clone());
        let limits = self.inner.limits;
        let waiting = Waiting { idle: limits.idle_timeout, least_rate: limits.minimum_rate };
        body.read_out(self.drain_limit(head), waiting, &self.inner.stop).await;
        Ack::refused(refusal, None)
    }

    fn drain_limit(&self, head: &Parts) -> u64 {
        let directory = self.directory(head.uri.path());
        directory.map_or(LEAST_DRAIN, |directory| directory.maximum_fragment_size.max(LEAST_DRAIN))
    }

    /// Cuts off every body; what came is committed and acknowledged no more. Waits for the
    /// requests and jobs under way.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// The stores that do not answer within `patience` or take no writes, with the reason; empty when
    /// all is well. All are asked at once.
    pub async fn check(&self, patience: Duration) -> Vec<(String, String)> {
        use futures_util::future::{join, join_all};

        let late = || Err(format!("it did not answer within {patience:?}"));
        let sessions = async {
            let check = timeout(patience, self.inner.sessions.check()).await;
            ("sessions".to_owned(), check.map_or_else(|_| late(), |check| check.map_err(|error| chain(&error))))
        };
        let storages = self.inner.storages.iter().map(async |(name, store)| {
            let check = match timeout(patience, store.check()).await {
                // A full store still resumes, completes and cancels; it refuses new bytes itself.
                Ok(Err(error)) if error.kind == StoreErrorKind::Full => Ok(()),
                Ok(check) => check.map_err(|error| chain(&error)),
                Err(_) => late(),
            };
            (name.clone(), check)
        });
        let (sessions, storages) = join(sessions, join_all(storages)).await;
        let all = std::iter::once(sessions).chain(storages);
        all.filter_map(|(name, check)| check.err().map(|reason| (name, reason))).collect()
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("directories", &self.inner.directories).finish_non_exhaustive()
    }
}

/// A packet with all that it takes to answer it.
pub(crate) struct Call {
    pub(crate) packet: Packet,
    pub(crate) form: Form,
    pub(crate) caller: Caller,
    pub(crate) directory: Arc<Directory>,
    pub(crate) below: bits_core::StorageKey,
    pub(crate) destination: VirtualPath,
    /// The URL as the client sees it, with its query.
    pub(crate) url: String,
}

impl Call {
    fn new(route: Route<'_>, head: &Parts, caller: &Caller) -> Result<Self, Refusal> {
        if !route.directory.access.admits(&caller.principal) {
            return Err(Refusal::AccessDenied);
        }
        if !route.directory.upload_enabled {
            return Err(Refusal::UploadsDisabled);
        }
        let form = Form::of(head).ok_or(Refusal::Malformed("the method is not BITS_POST"))?;
        let packet = Packet::parse(head, form)?;
        let Route { directory, below, destination } = route;
        let url = seen_url(head, caller.secure, directory);
        Ok(Self { url, packet, form, caller: caller.clone(), directory: directory.clone(), below, destination })
    }

    /// What bounds an upload of this caller: all anonymous ones together are no user.
    pub(crate) fn quota(&self) -> Quota {
        let Quota { per_user, directory } = self.directory.quota;
        Quota { per_user: per_user.filter(|_| !self.caller.principal.is_anonymous()), directory }
    }

    /// The refusal for a failure of an upload store, which is logged if it is ours.
    pub(crate) fn store_refusal(&self, error: &bits_core::StoreError) -> Refusal {
        let refusal = Refusal::from_store(error.kind, self.directory.conflict_status);
        if refusal.is_ours() {
            tracing::error!(destination = %self.destination.as_str().escape_default(), error = %chain(error), "the upload store failed");
        }
        refusal
    }
}

impl Inner {
    fn complete(self) -> Result<Engine, Incomplete> {
        if let Some(missing) = self.directories.iter().find(|one| !self.storages.contains_key(&one.storage)) {
            return Err(Incomplete::UnknownStorage(missing.storage.clone()));
        }
        if self.notifier.is_none() && self.directories.iter().any(|one| one.notification.is_some()) {
            return Err(Incomplete::NoNotifier);
        }
        Ok(Engine { inner: Arc::new(self) })
    }

    async fn answer(self: &Arc<Self>, call: &Call, body: &mut Body) -> Ack {
        match call.packet {
            Packet::Ping => Ack::ping(),
            Packet::CreateSession => match self.create(call).await {
                Ok(session) => Ack::created(session, call.form, call.directory.host_id.clone()),
                Err(refusal) => Ack::refused(refusal, None),
            },
            Packet::Fragment(fragment) => self.fragment(call, fragment, body).await,
            Packet::CloseSession(id) => self.close(call, id).await,
            Packet::CancelSession(id) => self.cancel(call, id).await,
        }
    }

    async fn refuse(&self, refusal: Refusal, body: Body, drain_limit: u64) -> Ack {
        let mut body = body.paced(self.bandwidth.clone());
        body.drain(drain_limit, &self.stop).await;
        Ack::refused(refusal, None)
    }

    /// Section 3.2.5.2.4. Nothing is reserved: the destination is only looked at.
    async fn create(&self, call: &Call) -> Result<SessionId, Refusal> {
        use bits_core::Destination;

        let directory = &call.directory;
        let id = SessionId::new(Uuid::new_v4());
        let key = directory.key(&call.below, &call.caller.principal, &today(), id)?.ok_or(Refusal::AccessDenied)?;
        let found = self.storage(&directory.storage)?.inspect(&key).await;
        match found.map_err(|error| call.store_refusal(&error))? {
            Destination::Folder => return Err(Refusal::DestinationIsFolder),
            Destination::File if !directory.allow_overwrites => {
                return Err(Refusal::DestinationExists { status: directory.conflict_status });
            }
            Destination::NoParent if !directory.create_directories => return Err(Refusal::ParentMissing),
            Destination::Absent | Destination::NoParent | Destination::File => {}
        }
        let anonymous = call.caller.principal.is_anonymous();
        let new = NewSession {
            id,
            principal: call.caller.principal.clone(),
            address: call.caller.address.map(|address| address.to_string()).unwrap_or_default(),
            directory: directory.url_path.clone(),
            destination: call.destination.clone(),
            storage: directory.storage.clone(),
            folder: directory.storage_path.clone(),
            key,
            timeout: directory.session_timeout,
            url: self.upload_url(call)?,
            limit: directory.session_limit_per_user.filter(|_| !anonymous),
        };
        fault("create-before-commit");
        let session = self.sessions.create(&new).await.map_err(|error| row_refusal(&error))?;
        fault("create-after-commit");
        self.cache.put(&session);
        self.emit(session.created_at, &session, SessionEventKind::Created);
        spans::found(id);
        Ok(id)
    }

    pub(crate) fn storage(&self, name: &str) -> Result<&Arc<dyn UploadStore>, Refusal> {
        self.storages.get(name).ok_or_else(|| {
            tracing::error!(storage = name, "a session's storage is not configured any more");
            Refusal::Unavailable
        })
    }

    /// What the upload store is told of a session, with the pieces it asks for.
    pub(crate) async fn upload(&self, session: &Session) -> Result<Upload, Refusal> {
        let pieces = match self.storage(&session.storage)?.pieces_from(session) {
            Some(from) => self.sessions.pieces(session.id, from).await.map_err(|error| row_refusal(&error))?,
            None => Vec::new(),
        };
        Ok(Upload { direct: self.is_direct(session), ..Upload::of(session, pieces) })
    }

    /// Whether nothing comes between an upload's last byte and its publishing.
    pub(crate) fn is_direct(&self, session: &Session) -> bool {
        let plain = |directory: &Directory| {
            directory.publish == PublishAt::LastFragment && !session.awaits_application(directory)
        };
        session.notification.is_none() && self.directories.named(&session.directory).is_some_and(plain)
    }

    pub(crate) fn emit(&self, at: Timestamp, session: &Session, kind: SessionEventKind) {
        (self.events)(&SessionEvent { at, session: session.clone(), kind });
    }
}

/// The refusal for a failure of the session store, which is logged if it is ours.
pub(crate) fn row_refusal(error: &SessionStoreError) -> Refusal {
    let refusal = match error {
        SessionStoreError::Limit => return Refusal::SessionLimit,
        SessionStoreError::Full(_) => Refusal::DiskFull,
        SessionStoreError::Unavailable(_) => Refusal::Unavailable,
        _ => Refusal::Internal,
    };
    tracing::error!(error = %chain(error), "the session store failed");
    refusal
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.escape_default().to_string()
}

/// The URL of a request: what stands in it is what the client sees, unless the directory knows
/// better.
fn seen_url(head: &Parts, secure: bool, directory: &Directory) -> String {
    let uri = &head.uri;
    let path = uri.path_and_query().map_or(uri.path(), |path| path.as_str());
    if let Some(public) = &directory.public_url {
        return format!("{public}{path}");
    }
    let sent = head.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
    let host = uri.authority().cloned().or_else(|| sent?.parse::<Authority>().ok());
    let host = host.as_ref().map_or("localhost", Authority::as_str);
    let scheme = if secure { "https" } else { uri.scheme_str().unwrap_or("http") };
    format!("{scheme}://{host}{path}")
}

fn today() -> String {
    jiff::Timestamp::now().strftime("%F").to_string()
}
