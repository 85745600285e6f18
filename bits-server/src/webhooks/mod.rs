//! Webhooks: what the outbox holds, sent to whoever subscribed.
//!
//! Each webhook has a task of its own that claims deliveries, sends them and gives back those that
//! failed; nothing that one webhook does holds up another, or an upload. All that must survive the
//! process stands in the outbox.

mod cloud_event;
mod pause;
mod send;
mod sign;
mod worker;

use std::{fmt, sync::Arc, time::Duration};

use bits_core::{Keep, Outbox, SessionEvent, SessionEventKind};
use reqwest::Url;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub use self::sign::Signer;
use self::{send::Sender, worker::Worker};

/// Where events go, and how.
#[derive(Clone)]
pub struct Webhook {
    /// What its deliveries are kept under, and what logs call it.
    pub name: String,
    /// Where they are sent; may hold a secret.
    pub url: Url,
    /// Signs them, where there is a secret.
    pub signer: Option<Signer>,
    /// How long one try may take.
    pub timeout: Duration,
    /// How much is kept while it does not take them.
    pub keep: Keep,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Wakes the webhooks when something may have been put into the outbox.
#[derive(Clone, Debug)]
pub struct Wake(watch::Sender<()>);

impl Default for Wake {
    fn default() -> Self {
        Self(watch::Sender::new(()))
    }
}

impl Wake {
    /// Looks at an event of the engine, which is sent after its commit.
    pub fn on_event(&self, event: &SessionEvent) {
        if !matches!(event.kind, SessionEventKind::Advanced { .. } | SessionEventKind::Regressed { .. }) {
            self.0.send_replace(());
        }
    }
}

/// All webhooks, ready to be served.
pub struct Webhooks {
    outbox: Arc<dyn Outbox>,
    workers: Vec<Worker>,
    names: Vec<String>,
}

impl Webhooks {
    /// The error says which webhook cannot work, and why.
    pub fn new(webhooks: Vec<Webhook>, outbox: Arc<dyn Outbox>, wake: &Wake) -> Result<Self, String> {
        let names = webhooks.iter().map(|webhook| webhook.name.clone()).collect();
        let worker = |webhook: Webhook| {
            let sender = Sender::new(&webhook)?;
            Ok(Worker::new(webhook, sender, outbox.clone(), wake.0.subscribe()))
        };
        let workers = webhooks.into_iter().map(worker).collect::<Result<_, String>>()?;
        Ok(Self { outbox, workers, names })
    }

    /// Keeps what the outbox holds for these others too.
    #[must_use]
    pub fn sparing(mut self, others: impl IntoIterator<Item = String>) -> Self {
        self.names.extend(others);
        self
    }

    /// Sends what the outbox holds until `stop` is cancelled, and what is on its way has arrived or
    /// had some seconds to. What the outbox holds for others is forgotten.
    pub async fn run(self, stop: CancellationToken) {
        forget_others(&*self.outbox, &self.names).await;
        let mut tasks = JoinSet::new();
        for worker in self.workers {
            tasks.spawn(worker.run(stop.clone()));
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(failure) = ended {
                tracing::error!(%failure, "a webhook's task failed; its events wait for the next start");
            }
        }
    }
}

async fn forget_others(outbox: &dyn Outbox, names: &[String]) {
    match outbox.forget_others(names).await {
        Ok(0) => {}
        Ok(events) => tracing::warn!(events, "events of webhooks that are not configured any more were dropped"),
        Err(error) => tracing::error!(%error, "events of former webhooks could not be dropped"),
    }
}
