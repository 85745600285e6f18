//! SQLite's connections and rows as the changes and reads see them.

use async_trait::async_trait;
use bits_core::SessionStoreError;
use sqlx::{
    AssertSqlSafe, Decode, Row, Sqlite, SqliteConnection, Type, query::Query, sqlite::SqliteArguments,
    sqlite::SqliteRow,
};

use super::{error::to_store_error, statements};
use crate::{
    connection::{Connection, Lock, Sql, Statement, Value},
    rows::Columns,
    statements::{ListBy, Statements},
};

#[async_trait]
impl Connection for SqliteConnection {
    type Row = SqliteRow;

    const SQL: &'static Statements = &statements::SQL;

    fn list(by: ListBy) -> String {
        statements::list(by)
    }

    async fn fetch(&mut self, statement: Statement) -> Result<Vec<SqliteRow>, SessionStoreError> {
        query(statement).fetch_all(self).await.map_err(to_store_error)
    }

    async fn execute(&mut self, statement: Statement) -> Result<u64, SessionStoreError> {
        query(statement).execute(self).await.map(|done| done.rows_affected()).map_err(to_store_error)
    }

    async fn lock(&mut self, _: Lock<'_>) -> Result<(), SessionStoreError> {
        Ok(())
    }
}

fn query(statement: Statement) -> Query<'static, Sqlite, SqliteArguments> {
    let query = match statement.sql {
        Sql::Static(sql) => sqlx::query(sql),
        Sql::Listing(sql) => sqlx::query(AssertSqlSafe(sql)),
    };
    statement.values.into_iter().fold(query, |query, value| match value {
        Value::Id(id) => query.bind(id.uuid().as_bytes().to_vec()),
        Value::Integer(integer) => query.bind(integer),
        Value::Text(text) => query.bind(text),
    })
}

impl Columns for SqliteRow {
    fn blob(&self, column: &'static str) -> Result<Vec<u8>, String> {
        get(self, column)
    }

    fn text(&self, column: &'static str) -> Result<Option<String>, String> {
        get(self, column)
    }

    fn integer(&self, column: &'static str) -> Result<Option<i64>, String> {
        get(self, column)
    }
}

fn get<'row, T: Decode<'row, Sqlite> + Type<Sqlite>>(row: &'row SqliteRow, column: &str) -> Result<T, String> {
    row.try_get(column).map_err(|error| error.to_string())
}
