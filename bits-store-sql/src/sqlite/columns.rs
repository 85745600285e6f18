//! SQLite's rows as [`Columns`], and ids as SQLite holds them.

use bits_core::SessionId;
use sqlx::{Decode, Row, Sqlite, Type, sqlite::SqliteRow};

use crate::rows::Columns;

/// An id as its 16 bytes.
pub(super) fn blob(id: SessionId) -> Vec<u8> {
    id.uuid().as_bytes().to_vec()
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
