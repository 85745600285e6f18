//! What is read, one type for each question.

use std::time::Duration;

use async_trait::async_trait;
use bits_core::{
    Census, Content, Delivery, Filter, Found, OutboxEvent, Piece, Session, SessionId, SessionStoreError, State, Tally,
    Timestamp, Tombstone,
};
use uuid::Uuid;

use crate::{
    connection::{Connection, Operation, Statement},
    rows::{self, Columns, to_integer, to_millis},
    statements::ListBy,
};

/// Makes questions of one statement each into operations.
macro_rules! questions {
    ($($name:ty => $output:ty: |$this:ident, $connection:ident| $answer:expr;)*) => {
        $(
            #[async_trait]
            impl Operation for $name {
                type Output = $output;

                fn is_single(&self) -> bool {
                    true
                }

                async fn run<C: Connection>(&self, $connection: &mut C) -> Result<$output, SessionStoreError> {
                    let $this = self;
                    $answer
                }
            }
        )*
    };
}

/// The session, live or ended.
pub(crate) struct Load(pub(crate) SessionId);

/// Before every row.
const START: (Timestamp, SessionId) = (Timestamp::from_millis(i64::MIN), SessionId::new(Uuid::nil()));

/// The pieces of a session that end after an offset.
pub(crate) struct Pieces {
    pub(crate) session: SessionId,
    pub(crate) from: u64,
}

pub(crate) struct ReplacedPieces(pub(crate) SessionId);

pub(crate) struct List(pub(crate) Filter);

pub(crate) struct Count {
    pub(crate) least: u64,
    pub(crate) per_expired: u32,
}

pub(crate) struct CountByState(pub(crate) [Duration; 3]);

/// At most as many sessions that have expired, claimed where several servers share the database.
pub(crate) struct Expired(pub(crate) u32);

/// At most as many sessions with a job that is due and that come after a place, claimed likewise.
pub(crate) struct Unpublished {
    pub(crate) after: Option<(Timestamp, SessionId)>,
    pub(crate) limit: u32,
}

/// At most as many tombstones with something to delete that come after a place, claimed likewise.
pub(crate) struct Unclean {
    pub(crate) after: Option<(Timestamp, SessionId)>,
    pub(crate) limit: u32,
}

pub(crate) struct NextDue(pub(crate) String);

pub(crate) struct Pending {
    pub(crate) subscriber: String,
    pub(crate) session: Option<SessionId>,
}

pub(crate) struct Recent {
    pub(crate) subscriber: String,
    pub(crate) session: Option<SessionId>,
    pub(crate) limit: u32,
}

/// Who has something pending.
pub(crate) struct WithPending;

pub(crate) struct Now;

pub(crate) struct Identity;

questions! {
    Load => Option<Found>: |this, connection| {
        connection.first(Statement::new(C::SQL.load).bind(this.0)).await?.as_ref().map(rows::found).transpose()
    };
    Pieces => Vec<Piece>: |this, connection| {
        // No piece ends after the largest offset that a row holds.
        let from = to_integer(this.from).unwrap_or(i64::MAX);
        all(Statement::new(C::SQL.pieces).bind(this.session).bind(from), connection, rows::piece).await
    };
    ReplacedPieces => Vec<Piece>: |this, connection| {
        all(Statement::new(C::SQL.replaced_pieces).bind(this.0), connection, rows::piece).await
    };
    List => Vec<Session>: |this, connection| all(list::<C>(&this.0), connection, rows::session).await;
    Count => Census: |this, connection| {
        let least = i64::try_from(this.least).unwrap_or(i64::MAX);
        let statement = Statement::new(C::SQL.census).bind(least).bind(this.per_expired);
        let row = connection.first(statement).await?.ok_or_else(no_row)?;
        Ok(Census { live: count(&row, "live")?, expired: count(&row, "expired")? })
    };
    CountByState => Vec<Tally>: |this, connection| {
        let [first, second, third] = this.0.map(to_millis);
        all(Statement::new(C::SQL.tally).bind(first).bind(second).bind(third), connection, rows::tally).await
    };
    Expired => Vec<Session>: |this, connection| {
        all(Statement::new(C::SQL.expired).bind(this.0), connection, rows::session).await
    };
    Unpublished => Vec<Session>: |this, connection| {
        let (due_at, id) = this.after.unwrap_or(START);
        let statement = Statement::new(C::SQL.unpublished).bind(this.limit).bind(due_at.as_millis()).bind(id);
        // Rows that an UPDATE returns are in no order.
        let mut due: Vec<Session> = all(statement, connection, rows::session).await?;
        due.sort_by_key(|session| (session.retry_at.unwrap_or(Timestamp::from_millis(0)), session.id));
        Ok(due)
    };
    Unclean => Vec<Tombstone>: |this, connection| {
        let (ended_at, id) = this.after.unwrap_or(START);
        let statement = Statement::new(C::SQL.unclean).bind(this.limit).bind(ended_at.as_millis()).bind(id);
        let mut unclean: Vec<Tombstone> = all(statement, connection, rows::tombstone).await?;
        unclean.sort_by_key(|tombstone| (tombstone.ended_at, tombstone.id));
        Ok(unclean)
    };
    NextDue => Option<Duration>: |this, connection| {
        let row = connection.first(Statement::new(C::SQL.next_due).bind(&this.0)).await?;
        let wait = row.as_ref().map(|row| number(row, "wait")).transpose()?;
        Ok(wait.map(|millis| Duration::from_millis(u64::try_from(millis).unwrap_or(0))))
    };
    Pending => u64: |this, connection| {
        let statement = match this.session {
            Some(id) => Statement::new(C::SQL.pending_of).bind(&this.subscriber).bind(id),
            None => Statement::new(C::SQL.pending).bind(&this.subscriber),
        };
        count(&connection.first(statement).await?.ok_or_else(no_row)?, "count")
    };
    Recent => Vec<OutboxEvent>: |this, connection| {
        let statement = match this.session {
            Some(id) => Statement::new(C::SQL.recent_of).bind(&this.subscriber).bind(id),
            None => Statement::new(C::SQL.recent).bind(&this.subscriber),
        };
        let event = |delivery: Delivery| match delivery.content {
            Content::Event(event) => Some(event),
            Content::Gap(_) => None,
        };
        Ok(all(statement.bind(this.limit), connection, rows::delivery).await?.into_iter().filter_map(event).collect())
    };
    WithPending => Vec<String>: |_this, connection| {
        let name = |row: &C::Row| row.text("subscriber").map(Option::unwrap_or_default);
        let rows = connection.fetch(Statement::new(C::SQL.subscribers)).await?;
        rows.iter().map(name).collect::<Result<_, _>>().map_err(SessionStoreError::Corrupt)
    };
    Identity => Uuid: |_this, connection| {
        let row = connection.first(Statement::new(C::SQL.identity)).await?.ok_or_else(no_row)?;
        rows::id(&row, "id").map(|id| id.uuid())
    };
    Now => Timestamp: |_this, connection| {
        let row = connection.first(Statement::new(C::SQL.now)).await?.ok_or_else(no_row)?;
        number(&row, "now").map(Timestamp::from_millis)
    };
}

pub(crate) async fn all<C: Connection, T>(
    statement: Statement,
    connection: &mut C,
    read: impl Fn(&C::Row) -> Result<T, SessionStoreError>,
) -> Result<Vec<T>, SessionStoreError> {
    connection.fetch(statement).await?.iter().map(read).collect()
}

fn list<C: Connection>(filter: &Filter) -> Statement {
    let first_path = filter.path_prefix.as_deref().filter(|prefix| !prefix.is_empty());
    let end_of_paths = first_path.and_then(successor);
    let by = ListBy {
        principal: filter.principal.is_some(),
        directory: filter.directory.is_some(),
        first_path: first_path.is_some(),
        end_of_paths: end_of_paths.is_some(),
        idle: filter.idle.is_some(),
        state: filter.state.is_some(),
        newest_first: filter.newest_first,
    };
    let start = if filter.newest_first { (Timestamp::from_millis(i64::MAX), START.1) } else { START };
    let (created_at, id) = filter.after.unwrap_or(start);
    Statement::listing(C::list(by))
        .bind(created_at.as_millis())
        .bind(id)
        .bind(filter.principal.as_ref().map(|principal| principal.as_str()))
        .bind(filter.directory.as_deref())
        .bind(first_path)
        .bind(end_of_paths.as_deref())
        .bind(filter.idle.map(to_millis))
        .bind(filter.state.map(State::as_str))
        .bind(filter.limit)
}

/// The first text, in the order of code points and so of UTF-8, after all that start with
/// `prefix`; none where there is no such text.
fn successor(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        // The step from U+D7FF skips the surrogates.
        if let Some(next) = (last..=char::MAX).nth(1) {
            text.push(next);
            return Some(text);
        }
    }
    None
}

fn count(row: &impl Columns, column: &'static str) -> Result<u64, SessionStoreError> {
    Ok(u64::try_from(number(row, column)?).unwrap_or(0))
}

fn number(row: &impl Columns, column: &'static str) -> Result<i64, SessionStoreError> {
    let number = row.integer(column).map_err(SessionStoreError::Corrupt)?;
    number.ok_or_else(|| SessionStoreError::Corrupt(format!("{column} is null")))
}

fn no_row() -> SessionStoreError {
    SessionStoreError::Corrupt("a count, a clock or an identity gave no row".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successors_bound_prefixes() {
        for (prefix, expected) in [
            ("/a", Some("/b")),
            ("/a/", Some("/a0")),
            ("/\u{D7FF}", Some("/\u{E000}")),
            ("/\u{10FFFF}", Some("0")),
            ("\u{10FFFF}\u{10FFFF}", None),
        ] {
            assert_eq!(successor(prefix).as_deref(), expected, "{prefix:?}");
        }
    }
}
