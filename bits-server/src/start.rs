//! From a configuration to a running server: addresses, the data folder's lock, stores, signals.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bits_core::Directory;
use bits_engine::{Directories, Engine, Limits, Notifier};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

#[cfg(feature = "otlp")]
use crate::otlp;
use crate::{
    admin::{AdminListener, Console, History, Watch},
    audit,
    auth::Authentication,
    check,
    cli::Failure,
    config::{ClientCertificate, Config, ListenerConfig, Source, WebhookConfig},
    connection::ConnectionLimits,
    listener::UploadListener,
    measured::Measured,
    metrics,
    notifier::HttpNotifier,
    reload::{Beginning, Reloader},
    serve::{self, Listeners, ServeOptions, Settings},
    stores, sys, systemd,
    tls::{ClientFiles, Tls, TlsFiles},
    webhooks::{Wake, Webhooks},
};

/// The longest that load balancers get to notice a stopping server.
const DRAIN_DELAY: Duration = Duration::from_secs(3);
/// Between two sweeps where no directory says otherwise.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(12 * 60 * 60);

/// Serves until a signal says to stop.
pub(crate) async fn serve(config: Config, beginning: Beginning) -> Result<(), Failure> {
    sys::raise_file_limit();
    let authentication = Authentication::open(&config).map_err(Failure::Usage)?;
    stores::check(&config).map_err(Failure::Usage)?;
    metrics::install();
    #[cfg(feature = "otlp")]
    otlp::start().map_err(Failure::Usage)?;
    let mut signals = Signals::new()?;
    // Taken from now on: unheard, it would end the process.
    let hangups = listen(SignalKind::hangup())?;
    let mut listeners = bind(&config).await?;
    let addresses = addresses(&listeners.uploads);
    let stores = tokio::select! {
        opened = stores::open(&config) => opened.map_err(Failure::Failed)?,
        name = signals.next() => {
            tracing::info!(signal = name, "asked to stop before it began to serve");
            return Ok(());
        }
    };
    let wake = Wake::default();
    let watch = Watch::default();
    let notifier = notifier(&config, None).map_err(Failure::Failed)?;
    let engine = engine(&config, &stores, notifier.clone(), wake.clone(), watch.clone())?;
    let history = stores.history(&config);
    let webhooks = config.webhooks.iter().filter_map(WebhookConfig::webhook).collect();
    let webhooks = Webhooks::new(webhooks, stores.outbox(), &wake).map_err(Failure::Failed)?;
    let webhooks = webhooks.sparing(history.iter().map(|_| History::subscriber().name));
    if let Some(admin) = &mut listeners.admin {
        admin.console = Some(Console::new(engine.clone(), stores.sessions(), history, watch));
    }
    check::plain_listeners(&config).for_each(|warning| tracing::warn!("{warning}"));
    greet(&config, &addresses, listeners.admin.as_ref().map(|admin| &admin.socket));
    #[cfg(feature = "faults")]
    crate::probe::probe().await;

    let manager = systemd::Manager::of_this_process();
    let _alive = AbortOnDropHandle::new(tokio::spawn(manager.clone().serving()));
    let (shutdown, stop_telling) = (CancellationToken::new(), CancellationToken::new());
    let telling = tokio::spawn(webhooks.run(stop_telling.clone()));
    let trusted_proxies = config.trusted_proxies.clone();
    let settings = Settings { engine, authentication, trusted_proxies, options: ServeOptions::from(&config) };
    let (changes, changed) = mpsc::channel(1);
    let configured = config.listeners.iter().zip(listeners.uploads.iter().skip(config.listen.len()));
    let tls = configured.filter_map(|(one, listener)| Some((one.address, listener.tls.clone()?))).collect();
    let reloader = Reloader { beginning, running: config, settings: settings.clone(), notifier, tls, changes };
    let reloading = tokio::spawn(reloader.run(hangups, shutdown.clone()));
    let mut server = std::pin::pin!(serve::run_changing(listeners, settings, changed, shutdown.clone()));
    let served = tokio::select! {
        served = &mut server => served,
        name = signals.next() => {
            tracing::info!(signal = name, "asked to stop; once more ends the process at once");
            manager.stopping();
            shutdown.cancel();
            tokio::select! {
                served = server => served,
                _ = signals.next() => return Err(Failure::Failed("ended by a second signal".to_owned())),
            }
        }
    };
    shutdown.cancel();
    let _ = reloading.await;
    // What the last requests did is told too.
    stop_telling.cancel();
    if let Err(failure) = telling.await {
        tracing::error!(%failure, "the webhooks' task failed");
    }
    stores.close().await;
    #[cfg(feature = "otlp")]
    let _ = tokio::task::spawn_blocking(otlp::stop).await;
    served.map_err(|error| Failure::Failed(error.to_string()))?;
    tracing::info!("stopped");
    Ok(())
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::Failed(format!("signals cannot be caught: {error}")))
}

async fn bind(config: &Config) -> Result<Listeners, Failure> {
    let mut sockets = systemd::Sockets::inherited()?;
    let mut uploads = Vec::new();
    for address in &config.listen {
        uploads.push(bind_one(*address, "listen", &mut sockets).await?.into());
    }
    for listener in &config.listeners {
        uploads.push(upload_listener(listener, &mut sockets).await?);
    }
    let admin = match config.admin.listener() {
        Some(listener) => {
            let socket = bind_one(listener.address, "admin.listen", &mut sockets).await?;
            Some(AdminListener { tls: tls(&listener, "admin")?, ..socket.into() })
        }
        None => None,
    };
    sockets.warn_of_rest();
    Ok(Listeners { uploads, trusted_proxies: config.trusted_proxies.clone(), admin })
}

async fn upload_listener(config: &ListenerConfig, sockets: &mut systemd::Sockets) -> Result<UploadListener, Failure> {
    Ok(UploadListener {
        tls: tls(config, "listeners")?,
        proxy_protocol: config.proxy_protocol,
        plain_passwords: config.allow_plain_basic,
        socket: bind_one(config.address, "listeners.address", sockets).await?,
    })
}

fn tls(config: &ListenerConfig, table: &str) -> Result<Option<Arc<Tls>>, Failure> {
    Ok(open_tls(config, table)?.map(|(tls, warnings)| {
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        Arc::new(tls)
    }))
}

/// The listener's TLS with what is odd about its files; none where it is plain.
pub(crate) fn open_tls(config: &ListenerConfig, table: &str) -> Result<Option<(Tls, Vec<String>)>, Failure> {
    let Some(files) = tls_files(config) else { return Ok(None) };
    let opened = Tls::open(files);
    opened.map(Some).map_err(|error| Failure::Usage(format!("{table}: {}: {error}", config.address)))
}

/// What the listener's TLS is made from; none where it is plain.
pub(crate) fn tls_files(config: &ListenerConfig) -> Option<TlsFiles> {
    let (certificate, key) = (config.certificate.clone()?, config.key.clone()?);
    let clients = config.client_ca.as_ref().map(|ca| ClientFiles {
        ca: ca.clone(),
        crl: config.client_crl.clone(),
        required: config.client_certificate == ClientCertificate::Required,
    });
    Some(TlsFiles { certificate, key, clients })
}

/// The socket that was handed over for the address, or one of our own.
async fn bind_one(address: SocketAddr, key: &str, sockets: &mut systemd::Sockets) -> Result<TcpListener, Failure> {
    let bound = match sockets.take(address) {
        Some(inherited) => inherited,
        None => TcpListener::bind(address).await,
    };
    bound.map_err(|error| {
        let advice = match error.kind() {
            std::io::ErrorKind::AddrInUse => "; another program listens there: stop it, or choose another address",
            std::io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege",
            _ => "",
        };
        Failure::Failed(format!("{key}: cannot listen on {address}: {error}{advice}"))
    })
}

fn addresses(listeners: &[UploadListener]) -> Vec<(&'static str, SocketAddr)> {
    let scheme = |listener: &UploadListener| if listener.tls.is_some() { "https" } else { "http" };
    listeners.iter().filter_map(|one| Some((scheme(one), one.socket.local_addr().ok()?))).collect()
}

fn engine(
    config: &Config,
    stores: &stores::Stores,
    notifier: Option<Arc<dyn Notifier>>,
    wake: Wake,
    watch: Watch,
) -> Result<Engine, Failure> {
    let directories = directories(config).map_err(Failure::Usage)?;
    let mut builder = Engine::builder(Arc::new(Measured(stores.sessions())), directories);
    for (name, store) in stores.uploads() {
        builder = builder.storage(name, Arc::new(Measured(store)));
    }
    if let Some(notifier) = notifier {
        builder = builder.notifier(notifier);
    }
    builder
        .limits(limits(config))
        .on_chore(metrics::chore)
        .on_event(move |event| {
            audit::log(event);
            metrics::event(event);
            #[cfg(feature = "otlp")]
            otlp::event(event);
            wake.on_event(event);
            watch.on_event(event);
        })
        .build()
        .map_err(|error| Failure::Usage(error.to_string()))
}

/// The virtual directories as the engine knows them.
pub(crate) fn directories(config: &Config) -> Result<Directories, String> {
    let public_url = config.public_url.as_ref().map(|url| url.as_str().to_owned());
    let directories = config.directories.iter().map(|directory| Directory {
        public_url: public_url.clone(),
        ..directory.directory(&stores::storage_of(directory))
    });
    Directories::new(directories.collect()).map_err(|error| error.to_string())
}

/// What tells server applications, if any is to be told: `before` where there is one. It wants
/// certificate authorities, which not every machine has.
pub(crate) fn notifier(
    config: &Config,
    before: Option<&Arc<dyn Notifier>>,
) -> Result<Option<Arc<dyn Notifier>>, String> {
    let wanted = config.directories.iter().any(|directory| directory.notification_type.0.is_some());
    match before {
        None if wanted => Ok(Some(Arc::new(Measured::<dyn Notifier>(Arc::new(HttpNotifier::new()?))))),
        before => Ok(before.cloned()),
    }
}

/// The engine's bounds.
pub(crate) fn limits(config: &Config) -> Limits {
    Limits {
        idle_timeout: config.limits.idle_timeout,
        minimum_rate: config.limits.minimum_rate.map(|rate| rate.0),
        bandwidth: config.limits.bandwidth.map(|rate| rate.0),
        ..Limits::default()
    }
}

impl From<&Config> for ServeOptions {
    fn from(config: &Config) -> Self {
        let intervals = config.directories.iter().map(|directory| directory.cleanup_interval);
        Self {
            connections: ConnectionLimits {
                connections: config.limits.connections,
                connections_per_address: config.limits.connections_per_address,
                header_timeout: config.limits.header_timeout,
                idle_timeout: config.limits.idle_timeout,
                large_reads: config.limits.bandwidth.is_none(),
            },
            shutdown_grace: config.shutdown_grace,
            cleanup_interval: intervals.min().unwrap_or(CLEANUP_INTERVAL),
            drain_delay: DRAIN_DELAY.min(config.shutdown_grace / 10),
        }
    }
}

/// Says where the server listens; a newcomer without a configuration also learns what to type.
fn greet(config: &Config, addresses: &[(&str, SocketAddr)], admin: Option<&TcpListener>) {
    for (scheme, address) in addresses {
        tracing::info!(%address, scheme, "listening for uploads");
    }
    if let Some(address) = admin.and_then(|admin| admin.local_addr().ok()) {
        tracing::info!(%address, "listening for operators: the page, the API, health and metrics");
    }
    if config.source == Source::Defaults
        && let Some((_, address)) = addresses.first()
    {
        println!(
            "Uploads to http://{address}/upload/ are kept in {data}/files/upload. Try, from another terminal:\n\
             \n    bits upload FILE http://{address}/upload/FILE\n\
             \nor from PowerShell on this machine:\n\
             \n    Start-BitsTransfer -TransferType Upload -Source FILE -Destination http://{address}/upload/FILE\n",
            data = config.data_dir.display(),
        );
    }
}
