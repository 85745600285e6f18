//! From the columns of any database to sessions, tombstones and pieces, and back.
//!
//! A value that makes no sense is [`SessionStoreError::Corrupt`] and names its row and column.

mod outbox;

use std::{fmt, time::Duration};

use bits_core::{
    Ending, Found, Hresult, NewSession, Piece, Principal, PublishIntent, Reply, Session, SessionId, SessionStoreError,
    State, StorageKey, Tally, Timestamp, Tombstone, VirtualPath,
};
use uuid::Uuid;

pub(crate) use self::outbox::{delivery, dropped, event_time};

/// The longest timeout that is kept: any time of now can be added to it.
const MAXIMUM_TIMEOUT: i64 = i64::MAX / 2;

/// The columns of one row. An error says what is wrong with the column.
pub(crate) trait Columns {
    fn blob(&self, column: &'static str) -> Result<Vec<u8>, String>;
    fn text(&self, column: &'static str) -> Result<Option<String>, String>;
    fn integer(&self, column: &'static str) -> Result<Option<i64>, String>;
}

/// The session or tombstone of a row that holds the columns of both; `ending` is null for a
/// live session.
pub(crate) fn found(columns: &impl Columns) -> Result<Found, SessionStoreError> {
    let ended = columns.text("ending").map_err(SessionStoreError::Corrupt)?.is_some();
    if ended { tombstone(columns).map(Found::Ended) } else { session(columns).map(Found::Live) }
}

pub(crate) fn session(columns: &impl Columns) -> Result<Session, SessionStoreError> {
    let row = Row::new("session", "id", columns)?;
    let created_at = row.time("created_at")?;
    let new = NewSession {
        id: row.id,
        principal: row.principal()?,
        address: row.text("address")?,
        directory: row.text("directory")?,
        destination: row.destination()?,
        storage: row.text("storage")?,
        folder: row.storage_key("folder")?,
        key: row.storage_key("key")?,
        timeout: Duration::from_millis(row.unsigned("timeout")?),
        url: row.optional_text("url")?,
        limit: None,
    };
    changed(Session::create(&new, created_at), columns)
}

/// The session with what may have changed since it was created; the row may lack the rest.
pub(crate) fn changed(session: Session, columns: &impl Columns) -> Result<Session, SessionStoreError> {
    let row = Row::new("session", "id", columns)?;
    Ok(Session {
        state: row.state()?,
        epoch: row.unsigned("epoch")?,
        total: row.optional_unsigned("total")?,
        fragment_seen: row.flag("fragment_seen")?,
        received: row.unsigned("received")?,
        synced: row.unsigned("synced")?,
        incarnation: row.text("incarnation")?,
        handle: row.optional_text("handle")?,
        intent: row.optional_text("intent")?.map(PublishIntent),
        retry_at: row.optional_integer("retry_at")?.map(Timestamp::from_millis),
        notification: row.optional_uuid("notification")?,
        copy: row.flag("copy")?,
        reply: row.reply()?,
        refused: row.refused()?,
        progressed_at: row.time("progressed_at")?,
        ..session
    })
}

pub(crate) fn tombstone(columns: &impl Columns) -> Result<Tombstone, SessionStoreError> {
    let row = Row::new("tombstone", "id", columns)?;
    Ok(Tombstone {
        id: row.id,
        principal: row.principal()?,
        destination: row.destination()?,
        ending: row.ending()?,
        published: row.optional_unsigned("published")?,
        ended_at: row.time("ended_at")?,
        keep_until: row.time("keep_until")?,
        storage: row.text("storage")?,
        folder: row.storage_key("folder")?,
        key: row.storage_key("key")?,
        handle: row.optional_text("handle")?,
        unclean: row.flag("unclean")?,
    })
}

pub(crate) fn piece(columns: &impl Columns) -> Result<Piece, SessionStoreError> {
    let row = Row::new("piece of session", "session", columns)?;
    let (start, stop) = (row.unsigned("start")?, row.unsigned("stop")?);
    let len = stop.checked_sub(start).ok_or_else(|| row.corrupt("stop", "lies before the start"))?;
    Ok(Piece { start, len, id: row.text("id")? })
}

pub(crate) fn tally(columns: &impl Columns) -> Result<Tally, SessionStoreError> {
    let corrupt = |column: &str| SessionStoreError::Corrupt(format!("the tally of sessions: {column} makes no sense"));
    let count = |column| {
        let count = columns.integer(column).ok().flatten().and_then(|count| u64::try_from(count).ok());
        count.ok_or_else(|| corrupt(column))
    };
    let name = columns.text("state").map_err(SessionStoreError::Corrupt)?;
    let state = State::ALL.into_iter().find(|state| name.as_deref() == Some(state.as_str()));
    Ok(Tally {
        state: state.ok_or_else(|| corrupt("state"))?,
        sessions: count("sessions")?,
        idle: [count("idle_1")?, count("idle_2")?, count("idle_3")?],
    })
}

/// The id in a column.
pub(crate) fn id(columns: &impl Columns, column: &'static str) -> Result<SessionId, SessionStoreError> {
    Row::new("session", column, columns).map(|row| row.id)
}

/// The time in a column of a session's row.
pub(crate) fn time(columns: &impl Columns, column: &'static str) -> Result<Timestamp, SessionStoreError> {
    Row::new("session", "id", columns)?.time(column)
}

/// The number of bytes in a column of a session's row.
pub(crate) fn bytes(columns: &impl Columns, column: &'static str) -> Result<u64, SessionStoreError> {
    Row::new("session", "id", columns)?.unsigned(column)
}

/// A flag that a statement gives besides a session's columns.
pub(crate) fn flag(columns: &impl Columns, column: &'static str) -> Result<bool, SessionStoreError> {
    Row::new("session", "id", columns)?.flag(column)
}

/// A size or offset as databases hold it.
pub(crate) fn to_integer(size: u64) -> Result<i64, SessionStoreError> {
    i64::try_from(size).map_err(|_| SessionStoreError::Other(format!("{size} bytes are more than a row holds").into()))
}

/// A timeout as databases hold it: in whole milliseconds, cut to some hundred million years.
pub(crate) fn to_millis(timeout: Duration) -> i64 {
    i64::try_from(timeout.as_millis()).unwrap_or(MAXIMUM_TIMEOUT).min(MAXIMUM_TIMEOUT)
}

/// One row, and how messages name it.
struct Row<'a, C> {
    table: &'static str,
    id: SessionId,
    columns: &'a C,
}

impl<'a, C: Columns> Row<'a, C> {
    fn new(table: &'static str, column: &'static str, columns: &'a C) -> Result<Self, SessionStoreError> {
        let bytes = columns.blob(column).map_err(SessionStoreError::Corrupt)?;
        let uuid = Uuid::from_slice(&bytes).map_err(|_| {
            SessionStoreError::Corrupt(format!("{table}: an id of {} bytes, {bytes:02x?}", bytes.len()))
        })?;
        Ok(Self { table, id: SessionId::new(uuid), columns })
    }

    fn optional_text(&self, column: &'static str) -> Result<Option<String>, SessionStoreError> {
        self.columns.text(column).map_err(|problem| self.corrupt(column, problem))
    }

    fn optional_uuid(&self, column: &'static str) -> Result<Option<Uuid>, SessionStoreError> {
        let parse = |text: String| Uuid::try_parse(&text).map_err(|_| self.corrupt(column, "is no UUID"));
        self.optional_text(column)?.map(parse).transpose()
    }

    fn text(&self, column: &'static str) -> Result<String, SessionStoreError> {
        self.optional_text(column)?.ok_or_else(|| self.corrupt(column, "is null"))
    }

    fn optional_integer(&self, column: &'static str) -> Result<Option<i64>, SessionStoreError> {
        self.columns.integer(column).map_err(|problem| self.corrupt(column, problem))
    }

    fn integer(&self, column: &'static str) -> Result<i64, SessionStoreError> {
        self.optional_integer(column)?.ok_or_else(|| self.corrupt(column, "is null"))
    }

    fn optional_unsigned(&self, column: &'static str) -> Result<Option<u64>, SessionStoreError> {
        let unsigned = |value| u64::try_from(value).map_err(|_| self.corrupt(column, format!("is negative: {value}")));
        self.optional_integer(column)?.map(unsigned).transpose()
    }

    fn unsigned(&self, column: &'static str) -> Result<u64, SessionStoreError> {
        self.optional_unsigned(column)?.ok_or_else(|| self.corrupt(column, "is null"))
    }

    fn flag(&self, column: &'static str) -> Result<bool, SessionStoreError> {
        match self.integer(column)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.corrupt(column, format!("is neither 0 nor 1: {other}"))),
        }
    }

    fn time(&self, column: &'static str) -> Result<Timestamp, SessionStoreError> {
        self.integer(column).map(Timestamp::from_millis)
    }

    fn principal(&self) -> Result<Principal, SessionStoreError> {
        self.text("principal").map(|name| Principal::named(&name))
    }

    fn destination(&self) -> Result<VirtualPath, SessionStoreError> {
        let path = self.text("destination")?;
        VirtualPath::from_decoded(&path)
            .map_err(|invalid| self.corrupt("destination", format!("is {path:?}: {invalid}")))
    }

    fn storage_key(&self, column: &'static str) -> Result<StorageKey, SessionStoreError> {
        let key = self.text(column)?;
        StorageKey::parse(&key).map_err(|invalid| self.corrupt(column, format!("is {key:?}: {invalid}")))
    }

    fn state(&self) -> Result<State, SessionStoreError> {
        let name = self.text("state")?;
        State::ALL
            .into_iter()
            .find(|state| state.as_str() == name)
            .ok_or_else(|| self.corrupt("state", format!("is unknown: {name:?}")))
    }

    fn reply(&self) -> Result<Option<Reply>, SessionStoreError> {
        match (self.optional_text("reply_url")?, self.optional_unsigned("reply_length")?) {
            (None, length) => Ok(length.map(|length| Reply::Kept { length })),
            (Some(url), None) => Ok(Some(Reply::Static(url))),
            (Some(_), Some(_)) => Err(self.corrupt("reply_length", "stands beside a reply_url")),
        }
    }

    fn refused(&self) -> Result<Option<Hresult>, SessionStoreError> {
        let code = |code| u32::try_from(code).map(Hresult).map_err(|_| self.corrupt("refused", "is no HRESULT"));
        self.optional_integer("refused")?.map(code).transpose()
    }

    fn ending(&self) -> Result<Ending, SessionStoreError> {
        let name = self.text("ending")?;
        [Ending::Closed, Ending::Cancelled, Ending::Expired]
            .into_iter()
            .find(|ending| ending.as_str() == name)
            .ok_or_else(|| self.corrupt("ending", format!("is unknown: {name:?}")))
    }

    fn corrupt(&self, column: &str, problem: impl fmt::Display) -> SessionStoreError {
        SessionStoreError::Corrupt(format!("{} {}: {column} {problem}", self.table, self.id))
    }
}
