//! The outbox: what changes tell, and how it is claimed, given back, delivered and dropped.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bits_core::{Delivery, Gap, Keep, Outbox, OutboxEvent, SessionId, SessionStoreError, Subscriber};
use sqlx::{SqliteConnection, sqlite::SqliteRow};

use super::{
    SqliteSessions,
    columns::blob,
    error::to_store_error,
    operations::{Statement, execute},
    statements,
    writer::Operation,
};
use crate::rows::{self, to_integer, to_millis};

/// Whom changes tell.
pub(super) type Subscribers = Arc<[Subscriber]>;

/// Stores an event for everyone who wants it, in the transaction of its change.
pub(super) async fn tell(
    subscribers: &[Subscriber],
    event: &OutboxEvent,
    connection: &mut SqliteConnection,
) -> Result<(), SessionStoreError> {
    for subscriber in subscribers.iter().filter(|subscriber| subscriber.wants(event)) {
        execute(insert(&subscriber.name, event)?, connection).await?;
    }
    Ok(())
}

fn insert(subscriber: &str, event: &OutboxEvent) -> Result<Statement, SessionStoreError> {
    Ok(sqlx::query(statements::TELL)
        .bind(subscriber.to_owned())
        .bind(event.at.as_millis())
        .bind(event.kind.as_str())
        .bind(blob(event.session))
        .bind(event.principal.as_str().to_owned())
        .bind(event.address.clone())
        .bind(event.directory.clone())
        .bind(event.destination.as_str().to_owned())
        .bind(event.storage.clone())
        .bind(event.key.as_str().to_owned())
        .bind(event.size.map(to_integer).transpose()?)
        .bind(to_integer(event.received)?)
        .bind(event.complete)
        .bind(event.reason.clone()))
}

#[async_trait]
impl Outbox for SqliteSessions {
    async fn claim(&self, subscriber: &str, limit: u32, lease: Duration) -> Result<Vec<Delivery>, SessionStoreError> {
        self.writer.commit(Claim { subscriber: subscriber.to_owned(), limit, lease }).await
    }

    async fn delivered(&self, delivery: &Delivery) -> Result<(), SessionStoreError> {
        self.writer.commit(Delivered(delivery.number)).await
    }

    async fn postpone(&self, delivery: &Delivery, pause: Duration) -> Result<(), SessionStoreError> {
        self.writer.commit(Postpone { number: delivery.number, attempt: delivery.attempt, pause }).await
    }

    async fn next_due(&self, subscriber: &str) -> Result<Option<Duration>, SessionStoreError> {
        self.reader.next_due(subscriber).await
    }

    async fn pending(&self, subscriber: &str, session: Option<SessionId>) -> Result<u64, SessionStoreError> {
        self.reader.pending(subscriber, session).await
    }

    async fn recent(
        &self,
        subscriber: &str,
        session: Option<SessionId>,
        limit: u32,
    ) -> Result<Vec<OutboxEvent>, SessionStoreError> {
        self.reader.recent(subscriber, session, limit).await
    }

    async fn trim(&self, subscriber: &str, keep: Keep, at_once: u32) -> Result<u64, SessionStoreError> {
        self.writer.commit(Trim { subscriber: subscriber.to_owned(), keep, at_once }).await
    }

    async fn forget_others(&self, subscribers: &[String]) -> Result<u64, SessionStoreError> {
        let mut forgotten = 0;
        for other in self.reader.subscribers().await?.into_iter().filter(|other| !subscribers.contains(other)) {
            forgotten += self.writer.commit(Forget(other)).await?;
        }
        Ok(forgotten)
    }
}

struct Claim {
    subscriber: String,
    limit: u32,
    lease: Duration,
}

#[async_trait]
impl Operation for Claim {
    type Output = Vec<Delivery>;

    async fn run(&self, connection: &mut SqliteConnection) -> Result<Vec<Delivery>, SessionStoreError> {
        let statement = sqlx::query(statements::CLAIM_DELIVERIES)
            .bind(self.subscriber.clone())
            .bind(i64::from(self.limit))
            .bind(to_millis(self.lease));
        let mut claimed = all(statement, connection, rows::delivery).await?;
        claimed.sort_by_key(|delivery| delivery.number);
        Ok(claimed)
    }
}

struct Delivered(u64);

#[async_trait]
impl Operation for Delivered {
    type Output = ();

    async fn run(&self, connection: &mut SqliteConnection) -> Result<(), SessionStoreError> {
        let statement = sqlx::query(statements::DELIVERED).bind(to_integer(self.0)?);
        execute(statement, connection).await.map(drop)
    }
}

struct Postpone {
    number: u64,
    attempt: u32,
    pause: Duration,
}

#[async_trait]
impl Operation for Postpone {
    type Output = ();

    async fn run(&self, connection: &mut SqliteConnection) -> Result<(), SessionStoreError> {
        let statement = sqlx::query(statements::POSTPONE_DELIVERY)
            .bind(to_integer(self.number)?)
            .bind(i64::from(self.attempt))
            .bind(to_millis(self.pause));
        execute(statement, connection).await.map(drop)
    }
}

struct Trim {
    subscriber: String,
    keep: Keep,
    at_once: u32,
}

#[async_trait]
impl Operation for Trim {
    type Output = u64;

    async fn run(&self, connection: &mut SqliteConnection) -> Result<u64, SessionStoreError> {
        let mut dropped = self.drop(statements::DROP_OLD, to_millis(self.keep.age), self.at_once, connection).await?;
        let room = self.at_once.saturating_sub(u32::try_from(dropped.len()).unwrap_or(u32::MAX));
        let count = i64::try_from(self.keep.count).unwrap_or(i64::MAX);
        dropped.extend(self.drop(statements::DROP_SURPLUS, count, room, connection).await?);
        if let Some(gap) = dropped.iter().copied().reduce(Gap::join) {
            self.report(gap, connection).await?;
        }
        Ok(dropped.len() as u64)
    }
}

impl Trim {
    /// Drops events by their age or number, each of which leaves a gap.
    async fn drop(
        &self,
        statement: &'static str,
        keep: i64,
        at_once: u32,
        connection: &mut SqliteConnection,
    ) -> Result<Vec<Gap>, SessionStoreError> {
        let statement = sqlx::query(statement).bind(self.subscriber.clone()).bind(keep).bind(i64::from(at_once));
        let gap = |row: &SqliteRow| rows::event_time(row).map(|at| Gap::of(at, at));
        all(statement, connection, gap).await
    }

    /// Stores a gap together with those that were not delivered yet.
    async fn report(&self, gap: Gap, connection: &mut SqliteConnection) -> Result<(), SessionStoreError> {
        let known = sqlx::query(statements::TAKE_GAPS).bind(self.subscriber.clone());
        let gap = all(known, connection, |row| rows::dropped(row, gap.at)).await?.into_iter().fold(gap, Gap::join);
        let statement = sqlx::query(statements::ADD_GAP)
            .bind(self.subscriber.clone())
            .bind(to_integer(gap.dropped)?)
            .bind(gap.from.as_millis())
            .bind(gap.until.as_millis());
        execute(statement, connection).await.map(drop)
    }
}

struct Forget(String);

#[async_trait]
impl Operation for Forget {
    type Output = u64;

    async fn run(&self, connection: &mut SqliteConnection) -> Result<u64, SessionStoreError> {
        execute(sqlx::query(statements::FORGET_SUBSCRIBER).bind(self.0.clone()), connection).await
    }
}

async fn all<T>(
    statement: Statement,
    connection: &mut SqliteConnection,
    read: impl Fn(&SqliteRow) -> Result<T, SessionStoreError>,
) -> Result<Vec<T>, SessionStoreError> {
    let rows = statement.fetch_all(connection).await.map_err(to_store_error)?;
    rows.iter().map(read).collect()
}
