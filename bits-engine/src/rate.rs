//! Rates of bodies: how fast all may come together, and how slow one may be.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

/// A body is judged each time that it was waited for as long.
pub(crate) const JUDGED_AFTER: Duration = Duration::from_secs(30);
/// What was not used of the bandwidth is kept for as long, since timers are coarse.
const SLACK: Duration = Duration::from_millis(50);

/// Bytes per second that all bodies share. Each books what it has read, and reads on when its
/// booking has passed: who waits is served in the order of booking, so that none starves.
#[derive(Debug)]
pub(crate) struct Bandwidth {
    rate: u64,
    booked_to: Mutex<Instant>,
}

impl Bandwidth {
    /// At least one byte per second.
    pub(crate) fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), booked_to: Mutex::new(Instant::now()) }
    }

    /// When the bytes will have passed.
    fn book(&self, bytes: usize) -> Instant {
        let now = Instant::now();
        let mut booked_to = self.booked_to.lock().unwrap_or_else(PoisonError::into_inner);
        let from = (*booked_to).max(now.checked_sub(SLACK).unwrap_or(now));
        *booked_to = from + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        *booked_to
    }
}

/// One body's share of the bandwidth.
#[derive(Debug)]
pub(crate) struct Pace {
    shared: Arc<Bandwidth>,
    rest: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    pub(crate) fn new(shared: Arc<Bandwidth>) -> Self {
        Self { shared, rest: None }
    }

    /// Notes that as many bytes were read.
    pub(crate) fn read(&mut self, bytes: usize) {
        let until = self.shared.book(bytes);
        self.rest = (until > Instant::now()).then(|| Box::pin(tokio::time::sleep_until(until)));
    }

    /// Ready when more may be read.
    pub(crate) fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(rest) = &mut self.rest {
            std::task::ready!(rest.as_mut().poll(context));
            self.rest = None;
        }
        Poll::Ready(())
    }

    /// Whether it is we who read nothing, and not the client who sends nothing.
    pub(crate) fn is_resting(&self) -> bool {
        self.rest.is_some()
    }
}

/// How long a client was waited for, and what it sent meanwhile.
#[derive(Debug)]
pub(crate) struct Slowness {
    /// Bytes per second below which a body is too slow; none: never.
    least: Option<u64>,
    bytes: u64,
    waited: Duration,
    waiting_since: Option<Instant>,
}

impl Slowness {
    pub(crate) fn new(least: Option<u64>) -> Self {
        Self { least, bytes: 0, waited: Duration::ZERO, waiting_since: None }
    }

    /// The client is waited for from now on. Returns after how much more waiting it is judged.
    pub(crate) fn wait(&mut self, now: Instant) -> Option<Duration> {
        self.least?;
        self.waiting_since = Some(now);
        Some(JUDGED_AFTER.saturating_sub(self.waited))
    }

    /// Bytes came that had not to be waited for.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Bytes came, or none did for a while. Returns whether the client is too slow.
    pub(crate) fn came(&mut self, bytes: usize, now: Instant) -> bool {
        let Some(least) = self.least else { return false };
        self.bytes += bytes as u64;
        self.waited += self.waiting_since.take().map_or(Duration::ZERO, |since| now - since);
        if self.waited < JUDGED_AFTER {
            return false;
        }
        let slow = (self.bytes as f64) < least as f64 * self.waited.as_secs_f64();
        (self.bytes, self.waited) = (0, Duration::ZERO);
        slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    async fn read(pace: &mut Pace, bytes: usize) {
        std::future::poll_fn(|context| pace.poll_rest(context)).await;
        pace.read(bytes);
    }

    #[tokio::test(start_paused = true)]
    async fn all_bodies_share_one_rate_fairly() {
        let shared = Arc::new(Bandwidth::new(64 * KIB as u64));
        let start = Instant::now();
        let bodies = (0..4).map(|_| {
            let mut pace = Pace::new(shared.clone());
            tokio::spawn(async move {
                let mut taken = 0;
                while start.elapsed() < Duration::from_secs(60) {
                    read(&mut pace, 16 * KIB).await;
                    taken += 16 * KIB;
                }
                taken
            })
        });
        let mut all = Vec::new();
        for body in bodies.collect::<Vec<_>>() {
            all.push(body.await.unwrap());
        }
        let (least, most) = (all.iter().min().unwrap(), all.iter().max().unwrap());
        assert!(most - least <= 32 * KIB, "{all:?}");
        let total: usize = all.iter().sum();
        assert!((60..=62).contains(&(total / (64 * KIB))), "{total}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_used_is_not_saved_up() {
        let mut pace = Pace::new(Arc::new(Bandwidth::new(KIB as u64)));
        tokio::time::advance(Duration::from_secs(3600)).await;
        let start = Instant::now();
        for _ in 0..11 {
            read(&mut pace, KIB).await;
        }
        assert!(start.elapsed() > Duration::from_secs(9), "{:?}", start.elapsed());
    }

    #[test]
    fn only_waiting_for_the_client_counts_against_it() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut slowness = Slowness::new(Some(1000));
        // An hour of our own work.
        assert_eq!(slowness.wait(at(3600)), Some(JUDGED_AFTER));
        assert!(!slowness.came(1, at(3629)));
        assert_eq!(slowness.wait(at(9000)), Some(Duration::from_secs(1)));
        assert!(slowness.came(10, at(9001)), "11 bytes in 30 s of waiting");

        assert_eq!(slowness.wait(at(9001)), Some(JUDGED_AFTER), "judged anew");
        assert!(!slowness.came(30_000, at(9031)));
        slowness.wait(at(9031));
        assert!(slowness.came(29_999, at(9061)), "the time before does not make up for it");
    }

    #[test]
    fn without_a_least_rate_nobody_is_slow() {
        let start = Instant::now();
        let mut slowness = Slowness::new(None);
        assert_eq!(slowness.wait(start), None);
        assert!(!slowness.came(0, start + Duration::from_secs(1 << 30)));
    }
}
