//! Runs operations on pooled connections, again where that is safe, until one of them has an
//! answer.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bits_core::SessionStoreError;
use sqlx::{Connection as _, PgConnection, PgPool, pool::PoolConnection};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::TaskTracker;

use super::{
    columns::Link,
    error::{Kind, kind, to_store_error},
    statements,
};
use crate::connection::{Connection, Operation};

/// For how long an operation is tried, the last try included: a failover takes some seconds, and a
/// client that hears of it stays away for minutes.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long one try may take, with the wait for a connection, before that is taken for dead.
const ATTEMPT: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The pool, and what is under way on it.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) pool: PgPool,
    /// Whether each connection is one to the server itself, as it showed. Behind a pooler two
    /// transactions may come to different server processes: statements then are not prepared, and
    /// each operation is a transaction.
    pub(super) direct: bool,
    tasks: TaskTracker,
}

/// Why a try failed.
struct Failure {
    error: SessionStoreError,
    kind: Kind,
}

impl Failure {
    fn new(error: sqlx::Error) -> Self {
        Self { kind: kind(&error), error: to_store_error(error) }
    }

    /// Whether another try may go better.
    fn passes(&self) -> bool {
        matches!(self.kind, Kind::Lost | Kind::Passing)
    }

    fn silent() -> Self {
        let error = SessionStoreError::Unavailable("PostgreSQL gave no answer in time".into());
        Self { error, kind: Kind::Lost }
    }
}

impl Database {
    pub(super) fn new(pool: PgPool, direct: bool) -> Self {
        Self { pool, direct, tasks: TaskTracker::new() }
    }

    /// Runs the operation until it is done or refused, also when this future is dropped.
    pub(super) async fn run<O: Operation + 'static>(
        self: &Arc<Self>,
        operation: O,
    ) -> Result<O::Output, SessionStoreError> {
        let this = Arc::clone(self);
        let task = self.tasks.spawn(async move { this.insist(&operation).await });
        task.await.map_err(|error| SessionStoreError::Other(error.into()))?
    }

    /// Runs the operation once.
    pub(super) async fn try_once<O: Operation>(&self, operation: &O) -> Result<O::Output, SessionStoreError> {
        self.attempt(operation, Instant::now() + ATTEMPT).await.map_err(|failure| failure.error)
    }

    /// Waits for what is under way, and closes all connections.
    pub(super) async fn close(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.pool.close().await;
    }

    async fn insist<O: Operation>(&self, operation: &O) -> Result<O::Output, SessionStoreError> {
        let (until, mut pause, mut lost) = (Instant::now() + PATIENCE, FIRST_PAUSE, false);
        loop {
            let mut end = self.attempt(operation, until).await;
            if lost && !end.as_ref().map_or_else(Failure::passes, |output| operation.is_done(output)) {
                end = self.done_before(operation, until).await.unwrap_or(end);
            }
            let failure = match end {
                Ok(output) => return Ok(output),
                Err(failure) => failure,
            };
            lost |= failure.kind == Kind::Lost;
            if !failure.passes() || Instant::now() + pause >= until {
                return Err(failure.error);
            }
            tracing::debug!(error = %failure.error, "the session database did not answer; trying again");
            sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// What an earlier try gave, of which no answer came; none if none of them did it.
    async fn done_before<O: Operation>(&self, operation: &O, until: Instant) -> Option<Result<O::Output, Failure>> {
        match self.attempt(&Before(operation), until).await {
            Ok(done) => done.map(Ok),
            Err(failure) => Some(Err(failure)),
        }
    }

    async fn attempt<O: Operation>(&self, operation: &O, until: Instant) -> Result<O::Output, Failure> {
        let until = until.min(Instant::now() + ATTEMPT);
        let acquired = timeout_at(until, self.pool.acquire()).await;
        let mut connection = acquired.map_err(|_| Failure::silent())?.map_err(Failure::new)?;
        let end = timeout_at(until, self.run_on(&mut connection, operation)).await;
        let end = end.unwrap_or_else(|_| Err(Failure::silent()));
        if end.as_ref().is_err_and(|failure| failure.kind == Kind::Lost) {
            connection.close_on_drop();
        }
        end
    }

    async fn run_on<O: Operation>(
        &self,
        connection: &mut PoolConnection<sqlx::Postgres>,
        operation: &O,
    ) -> Result<O::Output, Failure> {
        if self.direct && operation.is_single() {
            return run(connection, self.direct, operation).await;
        }
        let mut transaction = connection.begin_with(statements::BEGIN).await.map_err(Failure::new)?;
        let output = run(&mut transaction, self.direct, operation).await;
        match &output {
            Ok(_) => transaction.commit().await.map_err(Failure::new)?,
            // The end of the connection is the end of the transaction.
            Err(failure) if failure.kind == Kind::Lost => {}
            Err(_) => transaction.rollback().await.map_err(Failure::new)?,
        }
        output
    }
}

/// An operation as the question whether an earlier run did it.
struct Before<'a, O>(&'a O);

#[async_trait]
impl<O: Operation> Operation for Before<'_, O> {
    type Output = Option<O::Output>;

    async fn run<C: Connection>(&self, connection: &mut C) -> Result<Option<O::Output>, SessionStoreError> {
        self.0.done_before(connection).await
    }
}

async fn run<O: Operation>(connection: &mut PgConnection, prepares: bool, operation: &O) -> Result<O::Output, Failure> {
    let mut link = Link::new(connection, prepares);
    let output = operation.run(&mut link).await;
    output.map_err(|error| Failure { error, kind: link.failure.unwrap_or(Kind::Final) })
}
