//! The outbox of the in-memory session store.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;

use crate::{
    Content, Delivery, Gap, Keep, Outbox, OutboxEvent, SessionId, SessionStoreError, Subscriber, Timestamp,
    conformance::MemorySessions,
};

/// What is pending, in the order in which it was stored.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    stored: u64,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    subscriber: String,
    /// When it is due, or its claim lapses.
    due_at: Timestamp,
    claimed: bool,
    delivery: Delivery,
}

impl Queue {
    pub(super) fn tell(&mut self, subscribers: &[Subscriber], event: &OutboxEvent) {
        for subscriber in subscribers.iter().filter(|subscriber| subscriber.wants(event)) {
            self.push(&subscriber.name, event.at, Content::Event(event.clone()));
        }
    }

    fn push(&mut self, subscriber: &str, due_at: Timestamp, content: Content) {
        self.stored += 1;
        let delivery = Delivery { number: self.stored, attempt: 0, content };
        self.entries.push(Entry { subscriber: subscriber.to_owned(), due_at, claimed: false, delivery });
    }

    fn of<'a>(&'a self, subscriber: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |entry| entry.subscriber == subscriber)
    }

    /// The numbers of a subscriber's deliveries that no earlier one of their session holds up.
    fn heads(&self, subscriber: &str) -> BTreeSet<u64> {
        let mut sessions = BTreeSet::new();
        let first = |entry: &&Entry| entry.session().is_none_or(|session| sessions.insert(session));
        self.of(subscriber).filter(first).map(|entry| entry.delivery.number).collect()
    }

    fn claim(&mut self, subscriber: &str, limit: u32, now: Timestamp, lease: Duration) -> Vec<Delivery> {
        let heads = self.heads(subscriber);
        let due = |entry: &&mut Entry| heads.contains(&entry.delivery.number) && entry.due_at <= now;
        let claim = |entry: &mut Entry| {
            entry.claimed = true;
            entry.due_at = now + lease;
            entry.delivery.attempt += 1;
            entry.delivery.clone()
        };
        self.entries.iter_mut().filter(due).take(limit as usize).map(claim).collect()
    }

    fn postpone(&mut self, delivery: &Delivery, until: Timestamp) {
        let (number, attempt) = (delivery.number, delivery.attempt);
        let mine =
            |entry: &&mut Entry| entry.claimed && (entry.delivery.number, entry.delivery.attempt) == (number, attempt);
        if let Some(entry) = self.entries.iter_mut().find(mine) {
            entry.claimed = false;
            entry.due_at = until;
        }
    }

    fn next_due(&self, subscriber: &str) -> Option<Timestamp> {
        let heads = self.heads(subscriber);
        self.of(subscriber).filter(|entry| heads.contains(&entry.delivery.number)).map(|entry| entry.due_at).min()
    }

    fn trim(&mut self, subscriber: &str, keep: Keep, at_once: u32, now: Timestamp) -> u64 {
        let events = || self.of(subscriber).filter_map(|entry| Some((entry, entry.event()?)));
        let surplus = (events().count() as u64).saturating_sub(keep.count);
        let free = events().filter(|(entry, _)| !entry.is_held(now));
        let gone: Vec<_> = (0..)
            .zip(free)
            .filter(|(place, (_, event))| *place < surplus || event.at + keep.age < now)
            .map(|(_, (entry, event))| (entry.delivery.number, event.at))
            .take(at_once as usize)
            .collect();
        let dropped = gone.len() as u64;
        let gaps = gone.iter().map(|(_, at)| Gap::of(*at, now));
        if let Some(gap) = gaps.reduce(Gap::join) {
            self.entries.retain(|entry| gone.iter().all(|(number, _)| *number != entry.delivery.number));
            self.report(subscriber, gap, now);
        }
        dropped
    }

    /// Stores a gap together with those that were not delivered yet.
    fn report(&mut self, subscriber: &str, gap: Gap, now: Timestamp) {
        let known = self
            .entries
            .extract_if(.., |entry| entry.subscriber == subscriber && !entry.is_held(now) && entry.gap().is_some());
        let gap = known.filter_map(|entry| entry.gap()).fold(gap, Gap::join);
        self.push(subscriber, now, Content::Gap(gap));
    }
}

impl Entry {
    fn event(&self) -> Option<&OutboxEvent> {
        match &self.delivery.content {
            Content::Event(event) => Some(event),
            Content::Gap(_) => None,
        }
    }

    fn gap(&self) -> Option<Gap> {
        match &self.delivery.content {
            Content::Event(_) => None,
            Content::Gap(gap) => Some(*gap),
        }
    }

    fn session(&self) -> Option<SessionId> {
        self.event().map(|event| event.session)
    }

    /// Whether somebody has claimed it and may still come back.
    fn is_held(&self, now: Timestamp) -> bool {
        self.claimed && self.due_at > now
    }
}

#[async_trait]
impl Outbox for MemorySessions {
    async fn claim(&self, subscriber: &str, limit: u32, lease: Duration) -> Result<Vec<Delivery>, SessionStoreError> {
        Ok(self.outbox().claim(subscriber, limit, self.clock().now(), lease))
    }

    async fn delivered(&self, delivery: &Delivery) -> Result<(), SessionStoreError> {
        self.outbox().entries.retain(|entry| entry.delivery.number != delivery.number);
        Ok(())
    }

    async fn postpone(&self, delivery: &Delivery, pause: Duration) -> Result<(), SessionStoreError> {
        self.outbox().postpone(delivery, self.clock().now() + pause);
        Ok(())
    }

    async fn next_due(&self, subscriber: &str) -> Result<Option<Duration>, SessionStoreError> {
        Ok(self.outbox().next_due(subscriber).map(|at| at.since(self.clock().now())))
    }

    async fn pending(&self, subscriber: &str, session: Option<SessionId>) -> Result<u64, SessionStoreError> {
        let of = |entry: &&Entry| session.is_none() || entry.session() == session;
        Ok(self.outbox().of(subscriber).filter(of).count() as u64)
    }

    async fn recent(
        &self,
        subscriber: &str,
        session: Option<SessionId>,
        limit: u32,
    ) -> Result<Vec<OutboxEvent>, SessionStoreError> {
        let outbox = self.outbox();
        let events = outbox.of(subscriber).filter_map(Entry::event);
        let mut found: Vec<_> = events.filter(|it| session.is_none_or(|id| id == it.session)).cloned().collect();
        found.reverse();
        found.truncate(limit as usize);
        Ok(found)
    }

    async fn trim(&self, subscriber: &str, keep: Keep, at_once: u32) -> Result<u64, SessionStoreError> {
        Ok(self.outbox().trim(subscriber, keep, at_once, self.clock().now()))
    }

    async fn forget_others(&self, subscribers: &[String]) -> Result<u64, SessionStoreError> {
        let mut outbox = self.outbox();
        let others = outbox.entries.extract_if(.., |entry| !subscribers.contains(&entry.subscriber));
        Ok(others.count() as u64)
    }
}
