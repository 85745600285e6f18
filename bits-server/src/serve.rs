//! The server's face: listeners in, connections served until it is told to stop.

use std::{io, time::Duration};

use bits_engine::Engine;
use ipnet::IpNet;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin,
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
    /// The listener for health, if there is one.
    pub admin: Option<TcpListener>,
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
    let (phase, stopping) = watch::channel(Phase::Serving);
    let stopping = Stopping(stopping);
    let connections = TaskTracker::new();
    let background = TaskTracker::new();
    let maintenance = CancellationToken::new();

    let maintained = engine.clone();
    let stop_maintenance = maintenance.clone();
    background.spawn(async move { maintained.maintain(options.cleanup_interval, stop_maintenance).await });
    if let Some(listener) = listeners.admin {
        background.spawn(admin::serve(listener, engine.clone(), stopping.clone(), maintenance.clone()));
    }
    background.spawn(authentication.clone().keep_fresh(maintenance.clone()));
    let proxies = TrustedProxies::new(&listeners.trusted_proxies);
    let shared = Shared {
        service: Service::new(engine.clone(), authentication, proxies.clone()),
        limits: options.connections,
        proxies,
        rooms: Rooms::new(options.connections),
        stopping,
        connections: connections.clone(),
    };
    for listener in listeners.uploads {
        if let Some(tls) = listener.tls.clone() {
            background.spawn(tls.keep_fresh(maintenance.clone()));
        }
        background.spawn(listener::accept(listener, shared.clone()));
    }

    shutdown.cancelled().await;
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
