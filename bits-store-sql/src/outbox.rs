//! The outbox: what changes tell, and how it is claimed, given back, delivered and dropped.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bits_core::{Delivery, Gap, Keep, OutboxEvent, SessionStoreError, Subscriber};

use crate::{
    connection::{Connection, Operation, Statement},
    reads::all,
    rows::{self, to_integer, to_millis},
};

/// Whom changes tell.
pub(crate) type Subscribers = Arc<[Subscriber]>;

/// What stores an event for everyone who wants it, in the transaction of its change.
pub(crate) fn tell<C: Connection>(
    subscribers: &[Subscriber],
    event: &OutboxEvent,
) -> Result<Vec<Statement>, SessionStoreError> {
    let wanting = subscribers.iter().filter(|subscriber| subscriber.wants(event));
    wanting.map(|subscriber| insert::<C>(&subscriber.name, event)).collect()
}

fn insert<C: Connection>(subscriber: &str, event: &OutboxEvent) -> Result<Statement, SessionStoreError> {
    Ok(Statement::new(C::SQL.tell)
        .bind(subscriber)
        .bind(event.at.as_millis())
        .bind(event.kind.as_str())
        .bind(event.session)
        .bind(event.principal.as_str())
        .bind(&event.address)
        .bind(&event.directory)
        .bind(event.destination.as_str())
        .bind(&event.storage)
        .bind(event.key.as_str())
        .bind(event.size.map(to_integer).transpose()?)
        .bind(to_integer(event.received)?)
        .bind(event.complete)
        .bind(event.reason.as_deref()))
}

pub(crate) struct Claim {
    pub(crate) subscriber: String,
    pub(crate) limit: u32,
    pub(crate) lease: Duration,
}

#[async_trait]
impl Operation for Claim {
    type Output = Vec<Delivery>;

    async fn run<C: Connection>(&self, connection: &mut C) -> Result<Vec<Delivery>, SessionStoreError> {
        let statement =
            Statement::new(C::SQL.claim_deliveries).bind(&self.subscriber).bind(self.limit).bind(to_millis(self.lease));
        let mut claimed = all(statement, connection, rows::delivery).await?;
        claimed.sort_by_key(|delivery| delivery.number);
        Ok(claimed)
    }
}

pub(crate) struct Delivered(pub(crate) u64);

#[async_trait]
impl Operation for Delivered {
    type Output = ();

    async fn run<C: Connection>(&self, connection: &mut C) -> Result<(), SessionStoreError> {
        let statement = Statement::new(C::SQL.delivered).bind(to_integer(self.0)?);
        connection.execute(statement).await.map(drop)
    }
}

pub(crate) struct Postpone {
    pub(crate) number: u64,
    pub(crate) attempt: u32,
    pub(crate) pause: Duration,
}

#[async_trait]
impl Operation for Postpone {
    type Output = ();

    async fn run<C: Connection>(&self, connection: &mut C) -> Result<(), SessionStoreError> {
        let statement = Statement::new(C::SQL.postpone_delivery)
            .bind(to_integer(self.number)?)
            .bind(self.attempt)
            .bind(to_millis(self.pause));
        connection.execute(statement).await.map(drop)
    }
}

pub(crate) struct Trim {
    pub(crate) subscriber: String,
    pub(crate) keep: Keep,
    pub(crate) at_once: u32,
}

#[async_trait]
impl Operation for Trim {
    type Output = u64;

    async fn run<C: Connection>(&self, connection: &mut C) -> Result<u64, SessionStoreError> {
        let mut dropped = self.drop(C::SQL.drop_old, to_millis(self.keep.age), self.at_once, connection).await?;
        let room = self.at_once.saturating_sub(u32::try_from(dropped.len()).unwrap_or(u32::MAX));
        let count = i64::try_from(self.keep.count).unwrap_or(i64::MAX);
        dropped.extend(self.drop(C::SQL.drop_surplus, count, room, connection).await?);
        if let Some(gap) = dropped.iter().copied().reduce(Gap::join) {
            self.report(gap, connection).await?;
        }
        Ok(dropped.len() as u64)
    }
}

impl Trim {
    /// Drops events by their age or number, each of which leaves a gap.
    async fn drop<C: Connection>(
        &self,
        statement: &'static str,
        keep: i64,
        at_once: u32,
        connection: &mut C,
    ) -> Result<Vec<Gap>, SessionStoreError> {
        let statement = Statement::new(statement).bind(&self.subscriber).bind(keep).bind(at_once);
        let gap = |row: &C::Row| rows::event_time(row).map(|at| Gap::of(at, at));
        all(statement, connection, gap).await
    }

    /// Stores a gap together with those that were not delivered yet.
    async fn report<C: Connection>(&self, gap: Gap, connection: &mut C) -> Result<(), SessionStoreError> {
        let known = Statement::new(C::SQL.take_gaps).bind(&self.subscriber);
        let gap = all(known, connection, |row| rows::dropped(row, gap.at)).await?.into_iter().fold(gap, Gap::join);
        let statement = Statement::new(C::SQL.add_gap)
            .bind(&self.subscriber)
            .bind(to_integer(gap.dropped)?)
            .bind(gap.from.as_millis())
            .bind(gap.until.as_millis());
        connection.execute(statement).await.map(drop)
    }
}

pub(crate) struct Forget(pub(crate) String);

#[async_trait]
impl Operation for Forget {
    type Output = u64;

    async fn run<C: Connection>(&self, connection: &mut C) -> Result<u64, SessionStoreError> {
        connection.execute(Statement::new(C::SQL.forget_subscriber).bind(&self.0)).await
    }
}
