//! Deliveries of the outbox.

use bits_core::{Content, Delivery, EventKind, Gap, OutboxEvent, SessionStoreError, Timestamp};

use super::{Columns, Row};

/// The kind of a row that is no event.
const GAP: &str = "gap";

pub(crate) fn delivery(columns: &impl Columns) -> Result<Delivery, SessionStoreError> {
    let number = unsigned(columns, "number")?;
    let attempt = u32::try_from(unsigned(columns, "attempt")?).unwrap_or(u32::MAX);
    let kind = columns.text("kind").map_err(SessionStoreError::Corrupt)?.unwrap_or_default();
    let content = if kind == GAP { Content::Gap(gap(columns)?) } else { Content::Event(event(&kind, columns)?) };
    Ok(Delivery { number, attempt, content })
}

/// A gap without the time at which it was made, which the row of a joined one has not.
pub(crate) fn dropped(columns: &impl Columns, at: Timestamp) -> Result<Gap, SessionStoreError> {
    Ok(Gap {
        dropped: unsigned(columns, "dropped")?,
        from: time(columns, "oldest_at")?,
        until: time(columns, "newest_at")?,
        at,
    })
}

/// When the event of a row happened.
pub(crate) fn event_time(columns: &impl Columns) -> Result<Timestamp, SessionStoreError> {
    time(columns, "at")
}

fn gap(columns: &impl Columns) -> Result<Gap, SessionStoreError> {
    dropped(columns, time(columns, "at")?)
}

fn event(kind: &str, columns: &impl Columns) -> Result<OutboxEvent, SessionStoreError> {
    let row = Row::new("event of session", "session", columns)?;
    let known = EventKind::ALL.into_iter().find(|known| known.as_str() == kind);
    Ok(OutboxEvent {
        kind: known.ok_or_else(|| row.corrupt("kind", format!("is unknown: {kind:?}")))?,
        at: row.time("at")?,
        session: row.id,
        principal: row.principal()?,
        address: row.text("address")?,
        directory: row.text("directory")?,
        destination: row.destination()?,
        storage: row.text("storage")?,
        key: row.storage_key("key")?,
        size: row.optional_unsigned("size")?,
        received: row.unsigned("received")?,
        complete: row.flag("complete")?,
        reason: row.optional_text("reason")?,
    })
}

fn unsigned(columns: &impl Columns, column: &'static str) -> Result<u64, SessionStoreError> {
    let value = integer(columns, column)?;
    u64::try_from(value).map_err(|_| corrupt(column, format!("is negative: {value}")))
}

fn time(columns: &impl Columns, column: &'static str) -> Result<Timestamp, SessionStoreError> {
    integer(columns, column).map(Timestamp::from_millis)
}

fn integer(columns: &impl Columns, column: &'static str) -> Result<i64, SessionStoreError> {
    columns.integer(column).map_err(|problem| corrupt(column, problem))?.ok_or_else(|| corrupt(column, "is null"))
}

fn corrupt(column: &str, problem: impl std::fmt::Display) -> SessionStoreError {
    SessionStoreError::Corrupt(format!("outbox: {column} {problem}"))
}
