//! PostgreSQL's connections and rows as the changes and reads see them.

use async_trait::async_trait;
use bits_core::SessionStoreError;
use sqlx::{
    AssertSqlSafe, Decode, PgConnection, Postgres, Row, Type, TypeInfo, ValueRef,
    postgres::{PgArguments, PgRow},
    query::Query,
};
use uuid::Uuid;

use super::{
    error::{Kind, kind, to_store_error},
    statements,
};
use crate::{
    connection::{Connection, Lock, Sql, Statement, Value},
    rows::Columns,
    statements::{ListBy, Statements},
};

/// A connection for one run of an operation.
pub(super) struct Link<'a> {
    connection: &'a mut PgConnection,
    /// Whether statements may be prepared for good: nobody else's statements come to this server
    /// process.
    prepares: bool,
    /// What the last statement failed of.
    pub(super) failure: Option<Kind>,
}

impl<'a> Link<'a> {
    pub(super) fn new(connection: &'a mut PgConnection, prepares: bool) -> Self {
        Self { connection, prepares, failure: None }
    }

    fn query(&self, statement: Statement) -> Query<'static, Postgres, PgArguments> {
        let query = match statement.sql {
            Sql::Static(sql) => sqlx::query(sql),
            Sql::Listing(sql) => sqlx::query(AssertSqlSafe(sql)),
        };
        let values = statement.values.into_iter();
        let query = values.fold(query, |query, value| match value {
            Value::Id(id) => query.bind(id.uuid()),
            Value::Integer(integer) => query.bind(integer),
            Value::Text(text) => query.bind(text),
        });
        query.persistent(self.prepares)
    }

    fn check<T>(&mut self, result: Result<T, sqlx::Error>) -> Result<T, SessionStoreError> {
        result.map_err(|error| {
            self.failure = Some(kind(&error));
            to_store_error(error)
        })
    }
}

#[async_trait]
impl Connection for Link<'_> {
    type Row = PgRow;

    const SQL: &'static Statements = &statements::SQL;

    fn list(by: ListBy) -> String {
        statements::list(by)
    }

    async fn fetch(&mut self, statement: Statement) -> Result<Vec<PgRow>, SessionStoreError> {
        let rows = self.query(statement).fetch_all(&mut *self.connection).await;
        self.check(rows)
    }

    async fn execute(&mut self, statement: Statement) -> Result<u64, SessionStoreError> {
        let done = self.query(statement).execute(&mut *self.connection).await;
        self.check(done).map(|done| done.rows_affected())
    }

    async fn lock(&mut self, lock: Lock<'_>) -> Result<(), SessionStoreError> {
        let statement = match lock {
            Lock::SessionsOf(principal) => Statement::new(statements::LOCK_SESSIONS).bind(principal),
            Lock::BytesOf(directory) => Statement::new(statements::LOCK_BYTES).bind(directory),
        };
        self.fetch(statement).await.map(drop)
    }
}

impl Columns for PgRow {
    fn blob(&self, column: &'static str) -> Result<Vec<u8>, String> {
        get::<Uuid>(self, column).map(|id| id.as_bytes().to_vec())
    }

    fn text(&self, column: &'static str) -> Result<Option<String>, String> {
        get(self, column)
    }

    fn integer(&self, column: &'static str) -> Result<Option<i64>, String> {
        let value = self.try_get_raw(column).map_err(|error| error.to_string())?;
        match value.type_info().name() {
            "INT2" => get::<Option<i16>>(self, column).map(|value| value.map(i64::from)),
            "INT4" => get::<Option<i32>>(self, column).map(|value| value.map(i64::from)),
            _ => get(self, column),
        }
    }
}

fn get<'row, T: Decode<'row, Postgres> + Type<Postgres>>(row: &'row PgRow, column: &str) -> Result<T, String> {
    row.try_get(column).map_err(|error| error.to_string())
}
