//! The only connection that writes: one task that commits what is queued in one transaction.
//!
//! Synchronous is FULL for a transaction with a durable operation in it, and NORMAL otherwise.
//! Nobody hears of an operation before its transaction is committed.

use std::{future::poll_fn, io, task::Poll};

use async_trait::async_trait;
use bits_core::SessionStoreError;
use sqlx::{
    ConnectOptions, Connection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteRow},
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{
    alike::{self, Group},
    checkpoint,
    error::{Kind, Shared, is_of_a_row, kind, to_store_error},
    statements,
};
use crate::connection::{Operation, Statement};

/// Operations in one transaction, at most.
const BATCH: usize = 512;
/// Operations that wait for the transaction under way, at most; more wait outside.
const QUEUE: usize = 1024;

/// Hands operations to the writer's task; the task ends with the last of them.
#[derive(Debug)]
pub(super) struct Writer {
    queue: mpsc::Sender<Box<dyn Job>>,
}

impl Writer {
    /// The handle, and the task to spawn. `connection` was opened with `options`; `written` hears
    /// of every commit; what is queued when `stop` is cancelled is still done.
    pub(super) fn new(
        connection: SqliteConnection,
        options: SqliteConnectOptions,
        written: watch::Sender<()>,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()>) {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let task = Task { connection: Some(connection), options, durable: None, distrusted: false };
        (Self { queue }, task.run(jobs, written, stop))
    }

    /// Commits `operation`. It is done whole, or not at all, also when this future is dropped.
    pub(super) async fn commit<O: Operation + 'static>(&self, operation: O) -> Result<O::Output, SessionStoreError> {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Pending { operation, output: None, reply });
        self.queue.send(job).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }
}

/// An operation with whoever waits for it, whatever its output.
#[async_trait]
pub(super) trait Job: Send {
    fn is_durable(&self) -> bool;

    /// Whether it needs no transaction around it.
    fn is_single(&self) -> bool;

    /// Whether nobody waits for it any more.
    fn is_abandoned(&self) -> bool;

    /// The statement that may be one with those of others.
    fn statement(&self) -> Option<Statement>;

    /// Keeps what the statement's row says until the commit; gives what is to be executed besides.
    /// What is wrong with a row that is committed already is what this job alone is told.
    fn take(&mut self, row: &SqliteRow, committed: bool) -> Result<Vec<Statement>, SessionStoreError>;

    /// Keeps that it failed, alone.
    fn fail(&mut self, error: SessionStoreError);

    /// Runs the operation, and keeps what it gives until the commit.
    async fn run(&mut self, connection: &mut SqliteConnection) -> Result<(), SessionStoreError>;

    fn answer(self: Box<Self>, committed: Result<(), SessionStoreError>);
}

struct Pending<O: Operation> {
    operation: O,
    output: Option<Result<O::Output, SessionStoreError>>,
    reply: oneshot::Sender<Result<O::Output, SessionStoreError>>,
}

#[async_trait]
impl<O: Operation + 'static> Job for Pending<O> {
    fn is_durable(&self) -> bool {
        self.operation.is_durable()
    }

    fn is_single(&self) -> bool {
        self.operation.is_single()
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn statement(&self) -> Option<Statement> {
        self.operation.statement::<SqliteConnection>()
    }

    fn take(&mut self, row: &SqliteRow, committed: bool) -> Result<Vec<Statement>, SessionStoreError> {
        match self.operation.take::<SqliteConnection>(row) {
            Ok((output, rest)) => {
                self.output = Some(Ok(output));
                Ok(rest)
            }
            Err(error) if committed => {
                self.output = Some(Err(error));
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    fn fail(&mut self, error: SessionStoreError) {
        self.output = Some(Err(error));
    }

    async fn run(&mut self, connection: &mut SqliteConnection) -> Result<(), SessionStoreError> {
        self.output = Some(Ok(self.operation.run(connection).await?));
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), SessionStoreError>) {
        let Self { output, reply, .. } = *self;
        // Whoever asked may have gone.
        let _ = reply.send(committed.and_then(|()| output.unwrap_or_else(|| Err(closed()))));
    }
}

struct Task {
    /// None after a failure that leaves its state open, until it is opened again.
    connection: Option<SqliteConnection>,
    options: SqliteConnectOptions,
    /// Whether the connection syncs its commits, once it was told.
    durable: Option<bool>,
    /// A commit failed for another reason than want of space. What the disk holds of the log is
    /// unknown then, and no later sync of it can tell.
    distrusted: bool,
}

/// Why a transaction was not committed.
pub(super) enum Failure {
    /// All of it failed.
    Transaction(Shared),
    /// One operation failed, and took the others with it.
    Operation(SessionStoreError),
}

impl Failure {
    /// The same within a transaction, which one statement of it took with it.
    pub(super) fn of_operation(self) -> Self {
        match self {
            Self::Transaction(error) => Self::Operation(error.to_store_error()),
            Self::Operation(_) => self,
        }
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Transaction(Shared::new(error))
    }
}

impl Task {
    async fn run(
        mut self,
        mut jobs: mpsc::Receiver<Box<dyn Job>>,
        written: watch::Sender<()>,
        stop: CancellationToken,
    ) {
        loop {
            let mut batch: Vec<Box<dyn Job>> = Vec::new();
            tokio::select! {
                biased;
                () = stop.cancelled(), if !jobs.is_closed() => jobs.close(),
                count = jobs.recv_many(&mut batch, BATCH) => if count == 0 { break },
            }
            // Whoever is ready to run may have more: one transaction for all of them.
            let_others_run().await;
            while batch.len() < BATCH
                && let Ok(queued) = jobs.try_recv()
            {
                batch.push(queued);
            }
            batch.retain(|job| !job.is_abandoned());
            if !batch.is_empty() {
                self.commit(batch).await;
                written.send_replace(());
            }
        }
        if let Some(connection) = self.connection {
            // Everything is committed; a failure here loses nothing.
            let _ = connection.close().await;
        }
    }

    /// Commits all jobs at once; where one of them fails by itself, each by itself.
    async fn commit(&mut self, mut batch: Vec<Box<dyn Job>>) {
        let mut result = self.transact(&mut batch).await;
        if let Err(Failure::Transaction(error)) = &result
            && error.is_full()
            && self.make_room().await
        {
            result = self.transact(&mut batch).await;
        }
        match result {
            Ok(()) => batch.into_iter().for_each(|job| job.answer(Ok(()))),
            Err(Failure::Transaction(error)) => {
                tracing::warn!(%error, operations = batch.len(), "a transaction of the session database failed");
                batch.into_iter().for_each(|job| job.answer(Err(error.to_store_error())));
            }
            Err(Failure::Operation(_)) if batch.len() > 1 => {
                for job in batch {
                    Box::pin(self.commit(vec![job])).await;
                }
            }
            Err(Failure::Operation(error)) => {
                if let Some(job) = batch.pop() {
                    job.answer(Err(error));
                }
            }
        }
    }

    async fn transact(&mut self, batch: &mut [Box<dyn Job>]) -> Result<(), Failure> {
        let durable = batch.iter().any(|job| job.is_durable());
        let (mut groups, others) = alike::split(batch);
        if let ([group], []) = (groups.as_slice(), others.as_slice())
            && group.is_single()
            && let Some(group) = groups.pop()
        {
            return self.run_alone(group, durable).await;
        }
        let result = self.try_transact(groups, others, durable).await;
        if result.is_err() {
            self.roll_back().await;
        }
        result
    }

    /// One statement is a transaction of its own: begun and committed on its way, and taken back
    /// where it fails.
    async fn run_alone(&mut self, group: Group<'_>, durable: bool) -> Result<(), Failure> {
        let connection = self.prepare(durable).await?;
        match group.run_alone(connection).await {
            Ok(rest) => {
                for job in rest.jobs {
                    self.run_other(job, durable).await;
                }
                Ok(())
            }
            Err(Failure::Transaction(error)) if is_of_a_row(error.get()) => {
                Err(Failure::Operation(error.to_store_error()))
            }
            Err(Failure::Transaction(error)) => {
                if !matches!(kind(error.get()), Kind::Full | Kind::Busy) {
                    // It may have been the commit; and the connection may be what is broken.
                    self.distrusted = true;
                    self.disconnect().await;
                }
                Err(Failure::Transaction(error))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Runs a job by itself. Others are committed: it fails alone.
    async fn run_other(&mut self, job: &mut dyn Job, durable: bool) {
        let done = match self.prepare(durable).await {
            Ok(connection) => job.run(connection).await,
            Err(error) => Err(to_store_error(error)),
        };
        if let Err(error) = done {
            if !matches!(error, SessionStoreError::Full(_)) {
                self.distrusted = true;
                self.disconnect().await;
            }
            job.fail(error);
        }
    }

    async fn try_transact<'a>(
        &mut self,
        groups: Vec<Group<'a>>,
        others: Vec<&'a mut dyn Job>,
        durable: bool,
    ) -> Result<(), Failure> {
        let connection = self.prepare(durable).await?;
        let mut rest = alike::begin(groups, connection).await?;
        rest.jobs.extend(others);
        if !rest.jobs.is_empty() {
            alike::execute(std::mem::take(&mut rest.statements), false, connection).await?;
            for job in rest.jobs {
                job.run(connection).await.map_err(Failure::Operation)?;
            }
        }
        let committed = alike::execute(rest.statements, true, connection).await;
        if let Err(Failure::Transaction(error)) = &committed {
            self.distrusted |= !matches!(kind(error.get()), Kind::Full | Kind::Busy);
        }
        committed
    }

    /// The connection, opened again if need be, that syncs its commits if `durable`.
    async fn prepare(&mut self, durable: bool) -> Result<&mut SqliteConnection, sqlx::Error> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                self.durable = None;
                self.options.connect().await?
            }
        };
        let connection = self.connection.insert(connection);
        if self.distrusted {
            rewrite_log(connection).await?;
            self.distrusted = false;
        }
        if self.durable != Some(durable) {
            // Not prepared and kept: this takes effect when it is parsed.
            let pragma = if durable { "PRAGMA synchronous = FULL" } else { "PRAGMA synchronous = NORMAL" };
            sqlx::raw_sql(pragma).execute(&mut *connection).await?;
            self.durable = Some(durable);
        }
        Ok(connection)
    }

    /// Lets the log start over in the space that it has; whether it does.
    async fn make_room(&mut self) -> bool {
        let Ok(connection) = self.prepare(true).await else { return false };
        checkpoint::run(checkpoint::Mode::Restart, connection).await.is_ok_and(|log| log.is_moved())
    }

    /// Leaves no transaction open, on pain of the connection.
    async fn roll_back(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        if execute(statements::ROLLBACK, connection).await.is_err() {
            self.disconnect().await;
        }
    }

    async fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            // What was committed is; the next operation connects anew.
            drop(connection.close().await);
        }
    }
}

async fn execute(statement: &'static str, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::query(statement).execute(connection).await.map(drop)
}

/// Goes to the end of the queue of a thread, from where any other may take it. One that has yielded
/// (`yield_now`) waits for its own thread, which may be held up.
async fn let_others_run() {
    let mut waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Moves all of the log into the database, so that nothing depends any more on pages whose sync
/// has failed once.
async fn rewrite_log(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    if checkpoint::run(checkpoint::Mode::Truncate, connection).await?.busy {
        return Err(io::Error::other("after a failed sync the log cannot be written anew while others read it").into());
    }
    Ok(())
}

fn closed() -> SessionStoreError {
    SessionStoreError::Unavailable("the session database is closed".into())
}
