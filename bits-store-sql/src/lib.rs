//! Sessions in an SQL database: the [`SessionStore`](bits_core::SessionStore) of a server that
//! must not forget an acknowledged byte.
//!
//! The feature `sqlite` (default) gives `SqliteSessions`: one file beside the uploads, a single
//! writer that commits what many sessions want in one transaction, readers beside it. The feature
//! `postgres` gives `PostgresSessions`: a database that any number of servers share.
//!
//! # Copying a SQLite database
//!
//! While the server runs, recent commits stand in `state.db-wal`, so that a plain copy of
//! `state.db` is incomplete. `sqlite3 state.db ".backup copy.db"` or
//! `sqlite3 state.db "VACUUM INTO 'copy.db'"` copies all that is committed without stopping
//! anyone. The process that has the database open must not open the file in any other way: closing
//! it again would give up SQLite's locks. A copy that is put back, with no `-wal` and `-shm` file left beside it, may know less
//! than the disk holds: sessions then go on from the older offset.

#[macro_use]
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod statements;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod changes;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod connection;
#[cfg(all(test, any(feature = "postgres", feature = "sqlite")))]
#[allow(clippy::unwrap_used, reason = "a failure here is a failed test")]
mod frozen;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod migrations;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod outbox;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod reads;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod rows;
#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "postgres")]
pub use postgres::{PostgresError, PostgresOptions, PostgresSessions};
#[cfg(feature = "sqlite")]
pub use sqlite::{OpenError, Options, SqliteSessions};

/// Its examples are tried.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
