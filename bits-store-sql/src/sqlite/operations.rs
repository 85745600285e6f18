//! What the writer does within its transactions, one type for each change.
//!
//! An operation that changes nothing says so by its output. One that fails may leave its first
//! statements behind: the writer then rolls the transaction back.

use async_trait::async_trait;
use bits_core::{
    After, Commit, Illegal, NewSession, OutboxEvent, Piece, Quota, Reply, Session, SessionId, SessionStoreError, State,
    Tombstone, Transition,
};
use sqlx::{
    Sqlite, SqliteConnection,
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};

use super::{
    columns::blob,
    error::to_store_error,
    outbox::{Subscribers, tell},
    statements,
    writer::Operation,
};
use crate::rows::{self, to_integer, to_millis};

pub(super) type Statement = Query<'static, Sqlite, SqliteArguments>;

/// A new session; [`SessionStoreError::Limit`] where its principal may have no more.
pub(super) struct Create {
    pub(super) new: NewSession,
    pub(super) subscribers: Subscribers,
}

#[async_trait]
impl Operation for Create {
    type Output = Session;

    fn is_durable(&self) -> bool {
        true
    }

    async fn run(&self, connection: &mut SqliteConnection) -> Result<Session, SessionStoreError> {
        let Self { new, subscribers } = self;
        let statement = sqlx::query(statements::CREATE)
            .bind(blob(new.id))
            .bind(new.principal.as_str().to_owned())
            .bind(new.address.clone())
            .bind(new.directory.clone())
            .bind(new.destination.as_str().to_owned())
            .bind(new.storage.clone())
            .bind(new.folder.as_str().to_owned())
            .bind(new.key.as_str().to_owned())
            .bind(to_millis(new.timeout))
            .bind(new.limit.map(i64::from))
            .bind(new.url.clone());
        let row = fetch(statement, connection).await?.ok_or(SessionStoreError::Limit)?;
        let session = rows::session(&row)?;
        tell(subscribers, &OutboxEvent::created(&session), connection).await?;
        Ok(session)
    }
}

/// A transition, if the session still stands where it did.
pub(super) struct Change {
    pub(super) from: Session,
    pub(super) transition: Transition,
    pub(super) subscribers: Subscribers,
}

#[async_trait]
impl Operation for Change {
    type Output = Commit;

    fn is_durable(&self) -> bool {
        self.transition.is_durable()
    }

    async fn run(&self, connection: &mut SqliteConnection) -> Result<Commit, SessionStoreError> {
        let row = fetch(self.statement()?, connection).await?;
        match (row, &self.transition) {
            (Some(row), Transition::End(_)) => self.bury(&row, connection).await.map(Commit::Ended),
            (Some(row), transition) => {
                self.move_pieces(transition, connection).await?;
                let after = After::Live(rows::changed(self.from.clone(), &row)?);
                self.tell(&self.from, &after, connection).await?;
                Ok(match after {
                    After::Live(session) => Commit::Live(session),
                    After::Ended(tombstone) => Commit::Ended(tombstone),
                })
            }
            (None, Transition::Intend(_)) => self.claimed(connection).await,
            (None, Transition::Begin { total, quota }) => self.exceeded(*total, *quota, connection).await,
            (None, _) => Ok(Commit::Moved),
        }
    }
}

impl Change {
    fn statement(&self) -> Result<Statement, SessionStoreError> {
        Ok(match &self.transition {
            Transition::Name => self.at(statements::NAME)?,
            Transition::Begin { total, quota } => self
                .at(statements::BEGIN_UPLOAD)?
                .bind(to_integer(*total)?)
                .bind(limit(quota.per_user))
                .bind(limit(quota.directory)),
            Transition::Advance { to, synced, incarnation, handle, .. } => self
                .at(statements::ADVANCE)?
                .bind(to_integer(*to)?)
                .bind(to_integer(*synced)?)
                .bind(incarnation.clone())
                .bind(handle.clone()),
            Transition::Regress { to } => {
                self.at(statements::REGRESS)?.bind(to_integer(*to)?).bind(self.from.state.as_str())
            }
            Transition::Intend(intent) => {
                self.at(statements::INTEND)?.bind(intent.0.clone()).bind(self.from.state.as_str())
            }
            Transition::Withdraw => self.at(statements::WITHDRAW)?.bind(self.from.state.as_str()),
            Transition::Notify { id } => self.at(statements::NOTIFY)?.bind(id.to_string()),
            Transition::Delivered { reply, copy } => {
                let (url, length) = match reply {
                    None => (None, None),
                    Some(Reply::Static(url)) => (Some(url.clone()), None),
                    Some(Reply::Kept { length }) => (None, Some(to_integer(*length)?)),
                };
                self.at(statements::NOTIFIED)?.bind(*copy).bind(url).bind(length)
            }
            Transition::Undelivered { refused, .. } => {
                self.at(statements::NOT_NOTIFIED)?.bind(refused.map(|code| i64::from(code.0)))
            }
            Transition::Postpone { until } if self.from.state == State::Notify => {
                self.at(statements::POSTPONE_NOTIFYING)?.bind(until.as_millis())
            }
            Transition::Postpone { until } => self.at(statements::POSTPONE)?.bind(until.as_millis()),
            Transition::Published => self.at(statements::PUBLISHED)?,
            Transition::End(ending) => self.at(statements::END)?.bind(self.from.state.as_str()).bind(ending.as_str()),
        })
    }

    /// The statement with what the session must stand at.
    fn at(&self, statement: &'static str) -> Result<Statement, SessionStoreError> {
        Ok(sqlx::query(statement)
            .bind(blob(self.from.id))
            .bind(to_integer(self.from.epoch)?)
            .bind(to_integer(self.from.received)?))
    }

    /// Makes the tombstone of the session that was taken out.
    async fn bury(&self, row: &SqliteRow, connection: &mut SqliteConnection) -> Result<Tombstone, SessionStoreError> {
        let session = rows::session(row)?;
        let after = session.apply(&self.transition, rows::time(row, "now")?)?;
        self.tell(&session, &after, connection).await?;
        let After::Ended(tombstone) = after else { return Err(Illegal.into()) };
        execute(insert(&tombstone)?, connection).await?;
        if !tombstone.unclean {
            forget_all_pieces(tombstone.id, connection).await?;
        }
        Ok(tombstone)
    }

    async fn tell(
        &self,
        before: &Session,
        after: &After,
        connection: &mut SqliteConnection,
    ) -> Result<(), SessionStoreError> {
        match OutboxEvent::of(before, &self.transition, after) {
            Some(event) => tell(&self.subscribers, &event, connection).await,
            None => Ok(()),
        }
    }

    async fn move_pieces(
        &self,
        transition: &Transition,
        connection: &mut SqliteConnection,
    ) -> Result<(), SessionStoreError> {
        match transition {
            Transition::Advance { pieces, .. } => {
                for piece in pieces {
                    self.add_piece(piece, connection).await?;
                }
            }
            Transition::Regress { to } => {
                for statement in [statements::KEEP_PIECES_AFTER, statements::DELETE_PIECES_AFTER] {
                    let statement = sqlx::query(statement).bind(blob(self.from.id)).bind(to_integer(*to)?);
                    execute(statement, connection).await?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A piece that is named again is not replaced, nor may its bytes be deleted any more.
    async fn add_piece(&self, piece: &Piece, connection: &mut SqliteConnection) -> Result<(), SessionStoreError> {
        let (start, stop) = bounds(piece)?;
        for statement in [statements::KEEP_REPLACED_PIECES, statements::DELETE_REPLACED_PIECES] {
            let within = sqlx::query(statement).bind(blob(self.from.id)).bind(start).bind(stop).bind(piece.id.clone());
            execute(within, connection).await?;
        }
        for statement in [statements::FORGET_PIECE, statements::ADD_PIECE] {
            execute(one_piece(statement, self.from.id, piece)?, connection).await?;
        }
        Ok(())
    }

    /// Why an intent was not committed.
    async fn claimed(&self, connection: &mut SqliteConnection) -> Result<Commit, SessionStoreError> {
        match fetch(self.at(statements::CLAIMANT)?.bind(self.from.state.as_str()), connection).await? {
            Some(row) => rows::id(&row, "id").map(Commit::Claimed),
            None => Ok(Commit::Moved),
        }
    }

    /// Why an upload did not begin.
    async fn exceeded(
        &self,
        total: u64,
        quota: Quota,
        connection: &mut SqliteConnection,
    ) -> Result<Commit, SessionStoreError> {
        let Some(row) = fetch(self.at(statements::UNFINISHED)?, connection).await? else { return Ok(Commit::Moved) };
        let (user, directory) = (rows::bytes(&row, "of_user")?, rows::bytes(&row, "of_directory")?);
        let counted = Quota { directory: u64::try_from(limit(quota.directory)).ok(), ..quota };
        Ok(counted.excess(total, user, directory).map_or(Commit::Moved, Commit::Exceeds))
    }
}

/// A quota as databases hold it; none is the most that they can count.
fn limit(quota: Option<u64>) -> i64 {
    quota.and_then(|bytes| i64::try_from(bytes).ok()).unwrap_or(i64::MAX)
}

/// Replaced pieces whose bytes are gone.
pub(super) struct ForgetPieces {
    pub(super) session: SessionId,
    pub(super) pieces: Vec<Piece>,
}

#[async_trait]
impl Operation for ForgetPieces {
    type Output = ();

    async fn run(&self, connection: &mut SqliteConnection) -> Result<(), SessionStoreError> {
        for piece in &self.pieces {
            execute(one_piece(statements::FORGET_PIECE, self.session, piece)?, connection).await?;
        }
        Ok(())
    }
}

/// An ended session without staged bytes.
pub(super) struct Cleaned(pub(super) SessionId);

#[async_trait]
impl Operation for Cleaned {
    type Output = ();

    async fn run(&self, connection: &mut SqliteConnection) -> Result<(), SessionStoreError> {
        if execute(sqlx::query(statements::CLEANED).bind(blob(self.0)), connection).await? > 0 {
            forget_all_pieces(self.0, connection).await?;
        }
        Ok(())
    }
}

/// Forgets clean tombstones past their time, at most as many; gives how many.
pub(super) struct Purge(pub(super) u32);

#[async_trait]
impl Operation for Purge {
    type Output = u64;

    async fn run(&self, connection: &mut SqliteConnection) -> Result<u64, SessionStoreError> {
        execute(sqlx::query(statements::PURGE).bind(i64::from(self.0)), connection).await
    }
}

/// Raises `expires_at` of sessions that are under way, at most as many; gives how many.
pub(super) struct RaiseExpiry(pub(super) u32);

#[async_trait]
impl Operation for RaiseExpiry {
    type Output = u64;

    async fn run(&self, connection: &mut SqliteConnection) -> Result<u64, SessionStoreError> {
        execute(sqlx::query(statements::RAISE_EXPIRY).bind(i64::from(self.0)), connection).await
    }
}

/// Nothing: whether the writer answers.
pub(super) struct Ping;

#[async_trait]
impl Operation for Ping {
    type Output = ();

    async fn run(&self, _: &mut SqliteConnection) -> Result<(), SessionStoreError> {
        Ok(())
    }
}

fn insert(tombstone: &Tombstone) -> Result<Statement, SessionStoreError> {
    Ok(sqlx::query(statements::BURY)
        .bind(blob(tombstone.id))
        .bind(tombstone.principal.as_str().to_owned())
        .bind(tombstone.destination.as_str().to_owned())
        .bind(tombstone.ending.as_str())
        .bind(tombstone.published.map(to_integer).transpose()?)
        .bind(tombstone.ended_at.as_millis())
        .bind(tombstone.keep_until.as_millis())
        .bind(tombstone.storage.clone())
        .bind(tombstone.folder.as_str().to_owned())
        .bind(tombstone.key.as_str().to_owned())
        .bind(tombstone.handle.clone())
        .bind(tombstone.unclean))
}

async fn forget_all_pieces(session: SessionId, connection: &mut SqliteConnection) -> Result<(), SessionStoreError> {
    for statement in [statements::DELETE_PIECES, statements::FORGET_PIECES] {
        execute(sqlx::query(statement).bind(blob(session)), connection).await?;
    }
    Ok(())
}

fn one_piece(statement: &'static str, session: SessionId, piece: &Piece) -> Result<Statement, SessionStoreError> {
    let (start, stop) = bounds(piece)?;
    Ok(sqlx::query(statement).bind(blob(session)).bind(stop).bind(start).bind(piece.id.clone()))
}

fn bounds(piece: &Piece) -> Result<(i64, i64), SessionStoreError> {
    let stop = piece.start.saturating_add(piece.len);
    Ok((to_integer(piece.start)?, to_integer(stop)?))
}

async fn fetch(
    statement: Statement,
    connection: &mut SqliteConnection,
) -> Result<Option<SqliteRow>, SessionStoreError> {
    statement.fetch_optional(connection).await.map_err(to_store_error)
}

pub(super) async fn execute(statement: Statement, connection: &mut SqliteConnection) -> Result<u64, SessionStoreError> {
    statement.execute(connection).await.map(|done| done.rows_affected()).map_err(to_store_error)
}
