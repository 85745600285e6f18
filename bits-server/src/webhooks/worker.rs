//! The task of one webhook: claims, sends, gives back, drops what is too much.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bits_core::{Delivery, Outbox, SessionStoreError};
use tokio::{sync::watch, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Webhook, pause,
    send::{Outcome, Sender},
};

/// Deliveries to one webhook that are on their way at once.
const AT_ONCE: u32 = 8;
/// Between two looks at the outbox where nobody says that there is something in it, such as
/// another process.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The least between two looks, where claims and due times keep changing.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// A claim outlasts the try by this.
const LEASE_MARGIN: Duration = Duration::from_secs(5);
/// Between two looks for what is too old or too much.
const TRIM_EVERY: Duration = Duration::from_secs(10);
/// Events that are dropped in one transaction.
const DROPPED_AT_ONCE: u32 = 1000;
/// How long what is on its way may take when the server stops.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Serves one webhook.
pub(super) struct Worker {
    webhook: Webhook,
    sender: Sender,
    outbox: Arc<dyn Outbox>,
    wake: watch::Receiver<()>,
    health: Health,
    /// What is on its way, by its number.
    claimed: BTreeMap<u64, Delivery>,
    next_trim: Instant,
}

/// A try that has ended.
struct Tried {
    delivery: Delivery,
    outcome: Outcome,
    /// The health's `spell` when it was begun.
    spell: u64,
}

impl Worker {
    pub(super) fn new(webhook: Webhook, sender: Sender, outbox: Arc<dyn Outbox>, wake: watch::Receiver<()>) -> Self {
        let (health, claimed) = (Health::default(), BTreeMap::new());
        Self { webhook, sender, outbox, wake, health, claimed, next_trim: Instant::now() }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut under_way = JoinSet::new();
        while !stop.is_cancelled() {
            let wait = match self.step(&mut under_way).await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::error!(webhook = self.webhook.name, %error, "the outbox failed; it is tried again");
                    LOOK_EVERY
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                Some(tried) = under_way.join_next() => self.settle(tried).await,
                // The sender lives as long as the server.
                Ok(()) = self.wake.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.stop(under_way).await;
    }

    /// Begins what can be begun; gives how long to wait where nothing happens.
    async fn step(&mut self, under_way: &mut JoinSet<Tried>) -> Result<Duration, SessionStoreError> {
        self.trim().await?;
        let room = self.health.room(under_way.len());
        if room == 0 {
            let hold = self.health.hold();
            return Ok(if hold.is_zero() { LOOK_EVERY } else { hold.clamp(LOOK_PAUSE, LOOK_EVERY) });
        }
        match self.outbox.next_due(&self.webhook.name).await? {
            None => Ok(LOOK_EVERY),
            Some(wait) if !wait.is_zero() => Ok(wait.clamp(LOOK_PAUSE, LOOK_EVERY)),
            Some(_) => {
                let lease = self.webhook.timeout + LEASE_MARGIN;
                for delivery in self.outbox.claim(&self.webhook.name, room, lease).await? {
                    self.begin(delivery, under_way);
                }
                Ok(LOOK_PAUSE)
            }
        }
    }

    fn begin(&mut self, delivery: Delivery, under_way: &mut JoinSet<Tried>) {
        let (sender, spell) = (self.sender.clone(), self.health.spell);
        self.claimed.insert(delivery.number, delivery.clone());
        under_way.spawn(async move {
            let outcome = sender.send(&delivery).await;
            Tried { delivery, outcome, spell }
        });
    }

    /// Notes what came of a try. Where the outbox fails the claim lapses, and it is sent again.
    async fn settle(&mut self, tried: Result<Tried, tokio::task::JoinError>) {
        let Tried { delivery, outcome, spell } = match tried {
            Ok(tried) => tried,
            Err(failure) => return tracing::error!(webhook = self.webhook.name, %failure, "a delivery's task failed"),
        };
        self.claimed.remove(&delivery.number);
        let event = delivery.event_id();
        let noted = match outcome {
            Outcome::Arrived => {
                tracing::debug!(webhook = self.webhook.name, event, attempt = delivery.attempt, "event delivered");
                if self.health.succeed() {
                    tracing::info!(webhook = self.webhook.name, "the webhook takes events again");
                }
                self.outbox.delivered(&delivery).await
            }
            Outcome::Failed { reason, retry_after } => {
                let pause =
                    pause::before_retry(delivery.attempt).max(retry_after.map_or(Duration::ZERO, pause::asked_for));
                self.report(&event, delivery.attempt, pause, &reason);
                self.health.fail(spell, retry_after);
                self.outbox.postpone(&delivery, pause).await
            }
            Outcome::Gone => {
                self.health.gone = true;
                tracing::error!(
                    webhook = self.webhook.name,
                    "the webhook answered 410 Gone: nothing is sent to it until the server is started again; \
                     remove it from the configuration, or correct its URL"
                );
                self.outbox.postpone(&delivery, Duration::ZERO).await
            }
        };
        if let Err(error) = noted {
            tracing::error!(webhook = self.webhook.name, event, %error, "what came of a delivery could not be stored; it may come twice");
        }
    }

    /// The first failure of a row is news, those that follow are not.
    fn report(&self, event: &str, attempt: u32, pause: Duration, reason: &str) {
        let (webhook, seconds) = (&self.webhook.name, pause.as_secs_f32());
        if self.health.failures == 0 {
            tracing::warn!(
                webhook,
                event,
                attempt,
                again_in = seconds,
                reason,
                "an event could not be delivered; it is tried again"
            );
        } else {
            tracing::debug!(
                webhook,
                event,
                attempt,
                again_in = seconds,
                reason,
                "an event could not be delivered; it is tried again"
            );
        }
    }

    async fn trim(&mut self) -> Result<(), SessionStoreError> {
        if Instant::now() < self.next_trim {
            return Ok(());
        }
        self.next_trim = Instant::now() + TRIM_EVERY;
        let mut dropped = 0;
        loop {
            let some = self.outbox.trim(&self.webhook.name, self.webhook.keep, DROPPED_AT_ONCE).await?;
            dropped += some;
            if some < u64::from(DROPPED_AT_ONCE) {
                break;
            }
        }
        if dropped > 0 {
            tracing::warn!(
                webhook = self.webhook.name,
                dropped,
                "events were dropped that the webhook did not take in time; it will be told how many"
            );
        }
        Ok(())
    }

    /// Gives what is on its way some time, and back to the outbox what does not arrive.
    async fn stop(mut self, mut under_way: JoinSet<Tried>) {
        let end = Instant::now() + STOP_GRACE;
        while let Ok(Some(tried)) = tokio::time::timeout_at(end, under_way.join_next()).await {
            self.settle(tried).await;
        }
        under_way.shutdown().await;
        for delivery in self.claimed.values() {
            // A claim that is not given back lapses.
            let _ = self.outbox.postpone(delivery, Duration::ZERO).await;
        }
    }
}

/// How a webhook has fared.
#[derive(Debug, Default)]
struct Health {
    /// Tries in a row that failed.
    failures: u32,
    /// Raised with each failure that counts: those begun before it do not count once more.
    spell: u64,
    /// Until when nothing is sent.
    held: Option<Instant>,
    /// It wants nothing any more.
    gone: bool,
}

impl Health {
    /// How many deliveries may be begun; one at a time while the last ones failed.
    fn room(&self, under_way: usize) -> u32 {
        let at_once = if self.failures == 0 { AT_ONCE } else { 1 };
        if self.gone || !self.hold().is_zero() {
            return 0;
        }
        at_once.saturating_sub(u32::try_from(under_way).unwrap_or(u32::MAX))
    }

    /// For how long nothing is sent.
    fn hold(&self) -> Duration {
        self.held.map_or(Duration::ZERO, |held| held.saturating_duration_since(Instant::now()))
    }

    /// Whether that is news.
    fn succeed(&mut self) -> bool {
        self.held = None;
        std::mem::take(&mut self.failures) > 1
    }

    fn fail(&mut self, spell: u64, retry_after: Option<Duration>) {
        if spell != self.spell {
            return;
        }
        self.spell += 1;
        self.failures = self.failures.saturating_add(1);
        let hold = pause::before_any(self.failures).max(retry_after.map_or(Duration::ZERO, pause::asked_for));
        self.held = Some(Instant::now() + hold);
    }
}
