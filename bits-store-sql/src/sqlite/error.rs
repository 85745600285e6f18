//! What SQLite's result codes mean to a caller.

use std::{error::Error, fmt, sync::Arc};

use bits_core::SessionStoreError;

/// SQLite's result codes that are told apart (<https://www.sqlite.org/rescode.html>).
mod code {
    pub(super) const BUSY: i32 = 5;
    pub(super) const LOCKED: i32 = 6;
    pub(super) const NOMEM: i32 = 7;
    pub(super) const READONLY: i32 = 8;
    pub(super) const CORRUPT: i32 = 11;
    pub(super) const FULL: i32 = 13;
    pub(super) const CANTOPEN: i32 = 14;
    pub(super) const CONSTRAINT: i32 = 19;
    pub(super) const NOTADB: i32 = 26;
    /// The shared-memory file could not grow, for want of space.
    pub(super) const IOERR_SHMSIZE: i32 = 10 | (19 << 8);
}

/// One failure that many callers are told of.
#[derive(Clone, Debug)]
pub(super) struct Shared(Arc<sqlx::Error>);

impl Shared {
    pub(super) fn new(error: sqlx::Error) -> Self {
        Self(Arc::new(error))
    }

    pub(super) fn is_full(&self) -> bool {
        kind(&self.0) == Kind::Full
    }

    /// The failure itself.
    pub(super) fn get(&self) -> &sqlx::Error {
        &self.0
    }

    /// The failure as the store's caller sees it.
    pub(super) fn to_store_error(&self) -> SessionStoreError {
        let source = Box::new(self.clone());
        match kind(&self.0) {
            Kind::Full => SessionStoreError::Full(source),
            Kind::Busy | Kind::Unavailable | Kind::NotWritable => SessionStoreError::Unavailable(source),
            Kind::NotADatabase | Kind::Corrupt => SessionStoreError::Corrupt(self.to_string()),
            Kind::Other => SessionStoreError::Other(source),
        }
    }
}

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Shared {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// What a failure comes down to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Full,
    Busy,
    Unavailable,
    /// The file cannot be opened, or not for writing.
    NotWritable,
    NotADatabase,
    Corrupt,
    Other,
}

pub(super) fn kind(error: &sqlx::Error) -> Kind {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
            Kind::Unavailable
        }
        sqlx::Error::Database(error) => kind_of_code(code_of(&**error)),
        _ => Kind::Other,
    }
}

/// Whether a statement failed for what it found or was to write: no other one need fail for it.
pub(super) fn is_of_a_row(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    matches!(code_of(&**error) & 0xff, code::CONSTRAINT | code::CORRUPT)
}

fn code_of(error: &dyn sqlx::error::DatabaseError) -> i32 {
    error.code().and_then(|code| code.parse().ok()).unwrap_or(0)
}

fn kind_of_code(extended: i32) -> Kind {
    match (extended, extended & 0xff) {
        (code::IOERR_SHMSIZE, _) | (_, code::FULL) => Kind::Full,
        (_, code::BUSY | code::LOCKED) => Kind::Busy,
        (_, code::NOMEM) => Kind::Unavailable,
        (_, code::CANTOPEN | code::READONLY) => Kind::NotWritable,
        (_, code::NOTADB) => Kind::NotADatabase,
        (_, code::CORRUPT) => Kind::Corrupt,
        _ => Kind::Other,
    }
}

/// A failure that one caller is told of.
pub(super) fn to_store_error(error: sqlx::Error) -> SessionStoreError {
    Shared::new(error).to_store_error()
}
