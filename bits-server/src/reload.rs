//! Another configuration for a server that runs, at SIGHUP: all of it or nothing, and nothing is cut off.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use bits_engine::Notifier;
use tokio::{
    signal::unix::Signal,
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

use crate::{
    check,
    config::{Config, ConfigError, Overrides, process_environment},
    confine::Allowed,
    log::LogControl,
    serve::{Change, ServeOptions, Settings},
    start,
    tls::{PreparedTls, Tls},
};

/// Where the configuration comes from.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) file: Option<PathBuf>,
    pub(crate) overrides: Overrides,
}

impl Origin {
    /// Reads the configuration as it is now.
    pub(crate) fn load(&self) -> Result<Config, ConfigError> {
        Config::load(self.file.as_deref(), process_environment(), self.overrides.clone())
    }
}

/// What was settled before there was a server.
#[derive(Debug)]
pub(crate) struct Beginning {
    pub(crate) origin: Origin,
    /// What the process may touch; none is anything.
    pub(crate) allowed: Option<Allowed>,
    pub(crate) log: LogControl,
}

/// Reloads the configuration of a server that runs.
pub(crate) struct Reloader {
    pub(crate) beginning: Beginning,
    /// What holds now.
    pub(crate) running: Config,
    pub(crate) settings: Settings,
    pub(crate) notifier: Option<Arc<dyn Notifier>>,
    /// Of each listener that has it.
    pub(crate) tls: Vec<(SocketAddr, Arc<Tls>)>,
    pub(crate) changes: mpsc::Sender<Change>,
}

/// A configuration that can take the place of the one that holds.
struct Next {
    config: Config,
    settings: Settings,
    notifier: Option<Arc<dyn Notifier>>,
    tls: Vec<(Arc<Tls>, PreparedTls)>,
    /// Keys that cannot change, and do not.
    kept: Vec<String>,
}

impl Reloader {
    /// Reloads at each signal until `end`; one that is under way is finished.
    pub(crate) async fn run(mut self, mut hangups: Signal, end: CancellationToken) {
        while end.run_until_cancelled(hangups.recv()).await.is_some() {
            self.reload().await;
        }
    }

    /// Reads the configuration and everything that it names, and lets it hold. Where anything is
    /// wrong with it, that is logged and nothing changes.
    async fn reload(&mut self) {
        tracing::info!("SIGHUP: the configuration is read again");
        match tokio::task::block_in_place(|| self.prepare()) {
            Ok(change) => self.commit(change).await,
            Err(wrong) => {
                for reason in wrong.lines() {
                    tracing::error!("the configuration was not reloaded, the one before holds: {reason}");
                }
            }
        }
    }

    fn prepare(&self) -> Result<Next, String> {
        let mut config = self.beginning.origin.load().map_err(|error| error.to_string())?;
        self.check_paths(&config)?;
        let kept = config.keep_fixed(&self.running);
        let authentication = self.settings.authentication.reopen(&config)?;
        let notifier = start::notifier(&config, self.notifier.as_ref())?;
        let tls = self.prepare_tls(&config)?;
        let directories = start::directories(&config)?;
        let engine = self.settings.engine.with_settings(directories, start::limits(&config), notifier.clone());
        let settings = Settings {
            engine: engine
                .map_err(|error| format!("{error}: a storage_url that was not there at the start needs a restart"))?,
            authentication,
            trusted_proxies: config.trusted_proxies.clone(),
            options: ServeOptions::from(&config),
        };
        Ok(Next { config, settings, notifier, tls, kept })
    }

    /// The kernel would refuse what lies outside, and not let it in any more.
    fn check_paths(&self, config: &Config) -> Result<(), String> {
        let Some(allowed) = &self.beginning.allowed else { return Ok(()) };
        match allowed.first_outside(&Allowed::by(config)) {
            None => Ok(()),
            Some(path) => Err(format!(
                "{} lies outside the paths that the process was confined to when it started; restart the server to use it",
                path.display()
            )),
        }
    }

    fn prepare_tls(&self, config: &Config) -> Result<Vec<(Arc<Tls>, PreparedTls)>, String> {
        let mut prepared = Vec::new();
        for listener in &config.listeners {
            let found = self.tls.iter().find(|(address, _)| *address == listener.address);
            let (Some((_, tls)), Some(files)) = (found, start::tls_files(listener)) else { continue };
            let read = PreparedTls::read(files).map_err(|error| format!("listeners: {}: {error}", listener.address))?;
            prepared.push((tls.clone(), read));
        }
        Ok(prepared)
    }

    async fn commit(&mut self, change: Next) {
        let Next { mut config, settings, notifier, tls, kept } = change;
        if config.log != self.running.log && self.beginning.log.is_fixed() {
            tracing::warn!("log: RUST_LOG stands above it");
            config.log.clone_from(&self.running.log);
        }
        for (tls, prepared) in tls {
            prepared.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
            tls.install(prepared);
        }
        settings.authentication.take_over(&config);
        self.settings = settings.clone();
        let (done, holds) = oneshot::channel();
        if self.changes.send(Change { settings, done }).await.is_err() || holds.await.is_err() {
            // The server stops.
            return;
        }
        self.running = config;
        self.notifier = notifier;
        check::plain_listeners(&self.running).for_each(|warning| tracing::warn!("{warning}"));
        for key in kept {
            tracing::warn!("{key}: cannot change while the server runs; restart it");
        }
        tracing::info!(directories = self.running.directories.len(), "the configuration was reloaded");
        // Last, since it may leave out all this.
        self.beginning.log.set(&self.running.log);
    }
}
