//! The server's face: listeners in, connections served until it is told to stop.

use std::{io, sync::Arc, time::Duration};

use bits_engine::Engine;
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin::{self, AdminListener, Console},
    auth::Authentication,
    connection::ConnectionLimits,
    forwarded::TrustedProxies,
    listener::{self, Rooms, Shared, UploadListener},
    service::Service,
};

/// What the server listens on.
#[derive(Debug)]
pub struct Listeners {
    /// Listeners that take uploads.
    pub uploads: Vec<UploadListener>,
    /// Whose PROXY headers and `X-Forwarded-*` headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The listener for health and operators, if there is one.
    pub admin: Option<AdminListener>,
}

/// How the server runs.
#[derive(Clone, Copy, Debug)]
pub struct ServeOptions {
    /// Bounds on connections.
    pub connections: ConnectionLimits,
    /// How long requests under way may go on after the server was told to stop.
    pub shutdown_grace: Duration,
    /// Between two sweeps of expired sessions.
    pub cleanup_interval: Duration,
    /// Between failing `/readyz` and no longer listening, so that load balancers notice.
    pub drain_delay: Duration,
}

/// What may change while the server runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The engine; one made by [`Engine::with_settings`] from the one before.
    pub engine: Engine,
    /// How callers prove who they are.
    pub authentication: Authentication,
    /// Whose PROXY headers and `X-Forwarded-*` headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// How the server runs.
    pub options: ServeOptions,
}

/// Settings that are to hold from now on.
#[derive(Debug)]
pub struct Change {
    /// The settings.
    pub settings: Settings,
    /// Told when they hold.
    pub done: oneshot::Sender<()>,
}

/// The settings as they are now. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Live(watch::Receiver<Arc<Settings>>);

impl Live {
    pub(crate) fn now(&self) -> Arc<Settings> {
        self.0.borrow().clone()
    }
}

/// Where the server stands on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Not stopping.
    Serving,
    /// `/readyz` fails, answers say `Connection: close`, connections are still taken.
    Draining,
    /// Nothing new is taken; what is under way goes on.
    Closing,
}

/// Tells how far the server is on its way out.
#[derive(Clone, Debug)]
pub(crate) struct Stopping(watch::Receiver<Phase>);

impl Stopping {
    pub(crate) fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Returns when the server is in `phase` or past it.
    pub(crate) async fn reached(&mut self, phase: Phase) {
        // The sender lives as long as the server; without it there is nothing to go on for.
        let _ = self.0.wait_for(|now| *now >= phase).await;
    }
}

/// Serves until `shutdown` is cancelled and everything under way has ended.
///
/// Then `/readyz` fails; after `drain_delay` listening stops; requests already read are answered;
/// after `shutdown_grace` bodies are cut off, and what came of them is kept. Dropping the future
/// instead is a crash: it loses nothing acknowledged.
pub async fn run(
    listeners: Listeners,
    engine: Engine,
    authentication: Authentication,
    options: ServeOptions,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let trusted_proxies = listeners.trusted_proxies.clone();
    let settings = Settings { engine, authentication, trusted_proxies, options };
    run_changing(listeners, settings, mpsc::channel(1).1, shutdown).await
}

/// The same, with settings that change: whatever comes from `changes` holds for each request that
/// begins afterwards, also on connections that are open. Nothing is cut off.
pub async fn run_changing(
    listeners: Listeners,
    settings: Settings,
    mut changes: mpsc::Receiver<Change>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let (phase, stopping) = watch::channel(Phase::Serving);
    let stopping = Stopping(stopping);
    let connections = TaskTracker::new();
    let background = TaskTracker::new();
    let maintenance = CancellationToken::new();

    let proxies = TrustedProxies::new(&settings.trusted_proxies);
    let engine = settings.engine.clone();
    let (live, now) = watch::channel(Arc::new(settings));
    let now = Live(now);
    let mut maintained = maintain(&now.now(), &background, &maintenance);
    let console = listeners.admin.as_ref().and_then(|admin| admin.console.as_ref());
    let seen = console.map(Console::watch).cloned().unwrap_or_default();
    if let Some(listener) = listeners.admin {
        if let Some(tls) = listener.tls.clone() {
            background.spawn(tls.keep_fresh(maintenance.clone()));
        }
        let (live, end) = (now.clone(), maintenance.clone());
        background.spawn(admin::serve(listener, live, proxies.clone(), stopping.clone(), end));
    }
    let shared = Shared {
        service: Service::new(now.clone(), proxies.clone(), seen),
        proxies: proxies.clone(),
        rooms: Rooms::default(),
        stopping,
        connections: connections.clone(),
    };
    for listener in listeners.uploads {
        if let Some(tls) = listener.tls.clone() {
            background.spawn(tls.keep_fresh(maintenance.clone()));
        }
        background.spawn(listener::accept(listener, shared.clone()));
    }

    while let Some(Change { settings, done }) = next(&mut changes, &shutdown).await {
        proxies.replace(&settings.trusted_proxies);
        live.send_replace(Arc::new(settings));
        maintained.cancel();
        maintained = maintain(&now.now(), &background, &maintenance);
        let _ = done.send(());
    }
    let options = now.now().options;
    tracing::info!("stopping: requests under way are finished");
    phase.send_replace(Phase::Draining);
    tokio::time::sleep(options.drain_delay).await;
    phase.send_replace(Phase::Closing);
    connections.close();
    if tokio::time::timeout(options.shutdown_grace, connections.wait()).await.is_err() {
        tracing::info!(connections = connections.len(), "the grace is over: bodies are cut off, what came is kept");
    }
    engine.stop().await;
    let _ = tokio::time::timeout(Duration::from_secs(1), connections.wait()).await;
    maintenance.cancel();
    background.close();
    background.wait().await;
    Ok(())
}

/// The next change; none when the server is to stop.
async fn next(changes: &mut mpsc::Receiver<Change>, shutdown: &CancellationToken) -> Option<Change> {
    let change = async {
        match changes.recv().await {
            Some(change) => change,
            None => std::future::pending().await,
        }
    };
    shutdown.run_until_cancelled(change).await
}

/// Starts what goes on in the background by these settings, until what is returned is cancelled.
fn maintain(settings: &Settings, background: &TaskTracker, end: &CancellationToken) -> CancellationToken {
    let end = end.child_token();
    let (engine, interval, stop) = (settings.engine.clone(), settings.options.cleanup_interval, end.clone());
    background.spawn(async move { engine.maintain(interval, stop).await });
    background.spawn(settings.authentication.clone().keep_fresh(end.clone()));
    end
}
