//! What the changes and reads need of a database: statements with their values, and rows.

#![cfg_attr(not(feature = "postgres"), allow(dead_code, reason = "one writer locks nothing and loses no answer"))]

use async_trait::async_trait;
use bits_core::{SessionId, SessionStoreError};

use crate::{
    rows::Columns,
    statements::{ListBy, Statements},
};

/// A connection that runs statements, within a transaction or not.
#[async_trait]
pub(crate) trait Connection: Send {
    type Row: Columns + Send + Sync;

    const SQL: &'static Statements;

    /// The listing for the filters that are set. Its values are, in this order: created_at and id
    /// to start after, principal, directory, first path, end of paths, idle milliseconds, state, limit.
    fn list(by: ListBy) -> String;

    /// All rows that a statement gives.
    async fn fetch(&mut self, statement: Statement) -> Result<Vec<Self::Row>, SessionStoreError>;

    /// How many rows a statement changed.
    async fn execute(&mut self, statement: Statement) -> Result<u64, SessionStoreError>;

    /// Keeps out whoever else locks the same until the transaction ends. A database with one writer
    /// has no need of it.
    async fn lock(&mut self, lock: Lock<'_>) -> Result<(), SessionStoreError>;

    /// The only row that a statement gives, if any. It is run to its end, where it may be committed.
    async fn first(&mut self, statement: Statement) -> Result<Option<Self::Row>, SessionStoreError> {
        self.fetch(statement).await.map(|rows| rows.into_iter().next())
    }
}

/// What is counted before it grows.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lock<'a> {
    /// The unfinished sessions of a principal, in all directories.
    SessionsOf(&'a str),
    /// The unfinished bytes of a directory.
    BytesOf(&'a str),
}

/// A change or a read, as one transaction.
#[async_trait]
pub(crate) trait Operation: Send + Sync {
    type Output: Send + 'static;

    /// Whether a power loss after the commit may not take it back.
    #[cfg_attr(not(feature = "sqlite"), allow(dead_code, reason = "PostgreSQL makes every commit durable"))]
    fn is_durable(&self) -> bool {
        false
    }

    /// Whether it is one statement, or several that need not hold together.
    fn is_single(&self) -> bool {
        false
    }

    /// The statement that it begins with, where one for many sessions may stand for those of all: each
    /// row that this gives goes to [`take`](Self::take), and what gets none is [run](Self::run).
    #[cfg_attr(not(feature = "sqlite"), allow(dead_code, reason = "PostgreSQL has many connections"))]
    fn statement<C: Connection>(&self) -> Option<Statement> {
        None
    }

    /// What the row says that its statement gave, and what is to be executed besides.
    #[cfg_attr(not(feature = "sqlite"), allow(dead_code, reason = "PostgreSQL has many connections"))]
    fn take<C: Connection>(&self, _: &C::Row) -> Result<(Self::Output, Vec<Statement>), SessionStoreError> {
        Err(SessionStoreError::Other("its statement is not for many".into()))
    }

    /// Runs it within a transaction. May be called again after a rollback.
    async fn run<C: Connection>(&self, connection: &mut C) -> Result<Self::Output, SessionStoreError>;

    /// Whether an output says that something was done.
    fn is_done(&self, _: &Self::Output) -> bool {
        true
    }

    /// What it gave when it was run before, where the answer was lost and another run did not do it
    /// again.
    async fn done_before<C: Connection>(&self, _: &mut C) -> Result<Option<Self::Output>, SessionStoreError> {
        Ok(None)
    }
}

/// A statement and its values, in the order of their numbers.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    pub(crate) sql: Sql,
    pub(crate) values: Vec<Value>,
}

#[derive(Clone, Debug)]
pub(crate) enum Sql {
    Static(&'static str),
    /// Made of constants alone.
    Listing(String),
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Id(SessionId),
    Integer(Option<i64>),
    Text(Option<String>),
}

impl Statement {
    pub(crate) fn new(sql: &'static str) -> Self {
        Self { sql: Sql::Static(sql), values: Vec::new() }
    }

    pub(crate) fn listing(sql: String) -> Self {
        Self { sql: Sql::Listing(sql), values: Vec::new() }
    }

    pub(crate) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }
}

impl From<SessionId> for Value {
    fn from(id: SessionId) -> Self {
        Self::Id(id)
    }
}

impl From<i64> for Value {
    fn from(integer: i64) -> Self {
        Self::Integer(Some(integer))
    }
}

impl From<Option<i64>> for Value {
    fn from(integer: Option<i64>) -> Self {
        Self::Integer(integer)
    }
}

/// Both databases keep flags as 0 and 1.
impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Integer(Some(flag.into()))
    }
}

impl From<u32> for Value {
    fn from(count: u32) -> Self {
        Self::Integer(Some(count.into()))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(Some(text.to_owned()))
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Self::Text(Some(text.clone()))
    }
}

impl From<Option<&str>> for Value {
    fn from(text: Option<&str>) -> Self {
        Self::Text(text.map(str::to_owned))
    }
}
