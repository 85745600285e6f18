//! What PostgreSQL's error codes mean to a caller
//! (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).

use bits_core::SessionStoreError;

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing was done; the next try may succeed.
    Passing,
    /// The connection is of no use any more. What was asked last may be done or not.
    Lost,
    /// The disk is full.
    Full,
    /// A page or an index is broken.
    Corrupt,
    /// Nothing was done, and the next try would fail alike.
    Final,
}

pub(super) fn kind(error: &sqlx::Error) -> Kind {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => Kind::Lost,
        sqlx::Error::BeginFailed => Kind::Lost,
        sqlx::Error::PoolTimedOut => Kind::Passing,
        sqlx::Error::Database(error) => kind_of_code(&error.code().unwrap_or_default(), error.constraint()),
        _ => Kind::Final,
    }
}

fn kind_of_code(code: &str, constraint: Option<&str>) -> Kind {
    match code {
        // Serialization, deadlock, a lock or statement that took too long, too many connections or
        // too little memory.
        "40001" | "40P01" | "55P03" | "57014" | "53300" | "53200" | "53400" => Kind::Passing,
        // Somebody else published there at the same moment: who, the next try finds.
        "23505" if constraint == Some("session_claim") => Kind::Passing,
        // Shut down or starting, by name.
        "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "25P04" => Kind::Lost,
        // A server that was made a standby.
        "25006" => Kind::Lost,
        // A statement that was prepared before the schema changed, or elsewhere.
        "0A000" | "26000" | "42P05" => Kind::Lost,
        "53100" => Kind::Full,
        "XX001" | "XX002" => Kind::Corrupt,
        _ if code.starts_with("08") => Kind::Lost,
        _ => Kind::Final,
    }
}

pub(super) fn to_store_error(error: sqlx::Error) -> SessionStoreError {
    match (kind(&error), &error) {
        (Kind::Full, _) => SessionStoreError::Full(error.into()),
        (Kind::Corrupt, _) => SessionStoreError::Corrupt(error.to_string()),
        (Kind::Passing | Kind::Lost, _) | (_, sqlx::Error::PoolClosed) => SessionStoreError::Unavailable(error.into()),
        (Kind::Final, _) => SessionStoreError::Other(error.into()),
    }
}
