//! The changes of sessions, one type for each.
//!
//! One that changes nothing says so by its output. One that fails may leave its first statements
//! behind: the transaction then is rolled back.

use async_trait::async_trait;
use bits_core::{
    After, Commit, Found, Illegal, NewSession, OutboxEvent, Piece, Quota, Reply, Session, SessionId, SessionStoreError,
    State, Tombstone, Transition,
};

use crate::{
    connection::{Connection, Lock, Operation, Statement},
    outbox::{Subscribers, tell},
    reads::Load,
    rows::{self, to_integer, to_millis},
};

/// A new session; [`SessionStoreError::Limit`] where its principal may have no more.
pub(crate) struct Create {
    pub(crate) new: NewSession,
    pub(crate) subscribers: Subscribers,
}

#[async_trait]
impl Operation for Create {
    type Output = Session;

    fn is_durable(&self) -> bool {
        true
    }

    fn is_single(&self) -> bool {
        self.new.limit.is_none() && self.subscribers.is_empty()
    }

    fn statement<C: Connection>(&self) -> Option<Statement> {
        self.new.limit.is_none().then(|| create::<C>(&self.new))
    }

    fn take<C: Connection>(&self, row: &C::Row) -> Result<(Session, Vec<Statement>), SessionStoreError> {
        let session = rows::session(row)?;
        let told = tell::<C>(&self.subscribers, &OutboxEvent::created(&session))?;
        Ok((session, told))
    }

    async fn run<C: Connection>(&self, connection: &mut C) -> Result<Session, SessionStoreError> {
        let Self { new, .. } = self;
        if new.limit.is_some() {
            connection.lock(Lock::SessionsOf(new.principal.as_str())).await?;
        }
        let row = connection.first(create::<C>(new)).await?.ok_or(SessionStoreError::Limit)?;
        let (session, rest) = self.take::<C>(&row)?;
        for statement in rest {
            connection.execute(statement).await?;
        }
        Ok(session)
    }

    async fn done_before<C: Connection>(&self, connection: &mut C) -> Result<Option<Session>, SessionStoreError> {
        match Load(self.new.id).run(connection).await? {
            Some(Found::Live(session)) if session == Session::create(&self.new, session.created_at) => {
                Ok(Some(session))
            }
            _ => Ok(None),
        }
    }
}

fn create<C: Connection>(new: &NewSession) -> Statement {
    Statement::new(C::SQL.create)
        .bind(new.id)
        .bind(new.principal.as_str())
        .bind(&new.address)
        .bind(&new.directory)
        .bind(new.destination.as_str())
        .bind(&new.storage)
        .bind(new.folder.as_str())
        .bind(new.key.as_str())
        .bind(to_millis(new.timeout))
        .bind(new.limit.map(i64::from))
        .bind(new.url.as_deref())
}

/// A transition, if the session still stands where it did.
pub(crate) struct Change {
    pub(crate) from: Session,
    pub(crate) transition: Transition,
    pub(crate) subscribers: Subscribers,
}

#[async_trait]
impl Operation for Change {
    type Output = Commit;

    fn is_durable(&self) -> bool {
        self.transition.is_durable()
    }

    fn is_single(&self) -> bool {
        match &self.transition {
            Transition::Advance { pieces, .. } => pieces.is_empty(),
            Transition::Begin { quota, .. } => !is_limited(*quota),
            Transition::Regress { .. } | Transition::End(_) => false,
            Transition::Published | Transition::Delivered { .. } | Transition::Undelivered { .. } => {
                self.subscribers.is_empty()
            }
            Transition::Name
            | Transition::Adopt { .. }
            | Transition::Notify { .. }
            | Transition::Intend { .. }
            | Transition::Withdraw
            | Transition::Postpone { .. } => true,
        }
    }

    fn statement<C: Connection>(&self) -> Option<Statement> {
        let is_alike = match &self.transition {
            Transition::Advance { .. } | Transition::Begin { .. } => self.is_single(),
            Transition::Intend { .. } | Transition::Published | Transition::End(_) => true,
            _ => false,
        };
        // What is wrong with it is found when it is run.
        is_alike.then(|| self.change::<C>().ok()).flatten()
    }

    fn take<C: Connection>(&self, row: &C::Row) -> Result<(Commit, Vec<Statement>), SessionStoreError> {
        let Transition::End(_) = self.transition else {
            let session = rows::changed(self.from.clone(), row)?;
            let rest = match self.subscribers.is_empty() {
                true => Vec::new(),
                false => self.tell::<C>(&self.from, &After::Live(session.clone()))?,
            };
            return Ok((Commit::Live(session), rest));
        };
        let session = rows::session(row)?;
        let after = session.apply(&self.transition, rows::time(row, "now")?)?;
        let mut rest = self.tell::<C>(&session, &after)?;
        let After::Ended(tombstone) = after else { return Err(Illegal.into()) };
        rest.push(insert::<C>(&tombstone)?);
        if !tombstone.unclean && rows::flag(row, "pieces")? {
            rest.extend(forget_all_pieces::<C>(tombstone.id));
        }
        Ok((Commit::Ended(tombstone), rest))
    }

    async fn run<C: Connection>(&self, connection: &mut C) -> Result<Commit, SessionStoreError> {
        if let Transition::Begin { quota, .. } = &self.transition
            && is_limited(*quota)
        {
            connection.lock(Lock::BytesOf(&self.from.directory)).await?;
        }
        let row = connection.first(self.change::<C>()?).await?;
        match (row, &self.transition) {
            (Some(row), transition) => {
                let (commit, rest) = self.take::<C>(&row)?;
                for statement in rest {
                    connection.execute(statement).await?;
                }
                self.move_pieces(transition, connection).await?;
                Ok(commit)
            }
            (None, Transition::Intend { .. }) => self.claimed(connection).await,
            (None, Transition::Begin { total, quota }) => self.exceeded(*total, *quota, connection).await,
            (None, _) => Ok(Commit::Moved),
        }
    }

    fn is_done(&self, commit: &Commit) -> bool {
        matches!(commit, Commit::Live(_) | Commit::Ended(_))
    }

    /// What stands there is what this change makes of its session: nobody who goes on from there
    /// does so from anything else, whoever made it.
    async fn done_before<C: Connection>(&self, connection: &mut C) -> Result<Option<Commit>, SessionStoreError> {
        Ok(match (Load(self.from.id).run(connection).await?, &self.transition) {
            (Some(Found::Live(session)), transition) => {
                let expected = self.from.apply(transition, session.progressed_at)?;
                let stands = expected == After::Live(session.clone());
                (stands && self.has_pieces(connection).await?).then_some(Commit::Live(session))
            }
            (Some(Found::Ended(tombstone)), Transition::End(ending)) if tombstone.ending == *ending => {
                Some(Commit::Ended(tombstone))
            }
            _ => None,
        })
    }
}

impl Change {
    /// The statement that makes the change, if the session still stands where it did.
    fn change<C: Connection>(&self) -> Result<Statement, SessionStoreError> {
        let sql = C::SQL;
        Ok(match &self.transition {
            Transition::Name => self.at(sql.name)?,
            Transition::Begin { total, quota } => self
                .at(sql.begin_upload)?
                .bind(to_integer(*total)?)
                .bind(limit(quota.per_user))
                .bind(limit(quota.directory)),
            Transition::Adopt { handle } => self.at(sql.adopt)?.bind(handle).bind(self.from.handle.as_deref()),
            Transition::Advance { to, synced, incarnation, handle, .. } => self
                .at(sql.advance)?
                .bind(to_integer(*to)?)
                .bind(to_integer(*synced)?)
                .bind(incarnation)
                .bind(handle.as_deref()),
            Transition::Regress { to } => self.at(sql.regress)?.bind(to_integer(*to)?).bind(self.from.state.as_str()),
            Transition::Intend { intent, total } => {
                self.at(sql.intend)?.bind(&intent.0).bind(self.from.state.as_str()).bind(to_integer(*total)?)
            }
            Transition::Withdraw => self.at(sql.withdraw)?.bind(self.from.state.as_str()),
            Transition::Notify { id } => self.at(sql.notify)?.bind(&id.to_string()),
            Transition::Delivered { reply, copy } => {
                let (url, length) = match reply {
                    None => (None, None),
                    Some(Reply::Static(url)) => (Some(url.as_str()), None),
                    Some(Reply::Kept { length }) => (None, Some(to_integer(*length)?)),
                };
                self.at(sql.notified)?.bind(*copy).bind(url).bind(length)
            }
            Transition::Undelivered { refused, .. } => {
                self.at(sql.not_notified)?.bind(refused.map(|code| i64::from(code.0)))
            }
            Transition::Postpone { until } if self.from.state == State::Notify => {
                self.at(sql.postpone_notifying)?.bind(until.as_millis())
            }
            Transition::Postpone { until } => self.at(sql.postpone)?.bind(until.as_millis()),
            Transition::Published => self.at(sql.published)?,
            Transition::End(_) => self.at(sql.end)?.bind(self.from.state.as_str()),
        })
    }

    /// The statement with what the session must stand at.
    fn at(&self, statement: &'static str) -> Result<Statement, SessionStoreError> {
        let Session { id, epoch, received, .. } = self.from;
        Ok(Statement::new(statement).bind(id).bind(to_integer(epoch)?).bind(to_integer(received)?))
    }

    fn tell<C: Connection>(&self, before: &Session, after: &After) -> Result<Vec<Statement>, SessionStoreError> {
        let event = OutboxEvent::of(before, &self.transition, after);
        event.map_or(Ok(Vec::new()), |event| tell::<C>(&self.subscribers, &event))
    }

    async fn move_pieces<C: Connection>(
        &self,
        transition: &Transition,
        connection: &mut C,
    ) -> Result<(), SessionStoreError> {
        match transition {
            Transition::Advance { pieces, .. } => {
                for piece in pieces {
                    self.add_piece(piece, connection).await?;
                }
            }
            Transition::Regress { to } => {
                for statement in [C::SQL.keep_pieces_after, C::SQL.delete_pieces_after] {
                    connection.execute(Statement::new(statement).bind(self.from.id).bind(to_integer(*to)?)).await?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A piece that is named again is not replaced, nor may its bytes be deleted any more.
    async fn add_piece<C: Connection>(&self, piece: &Piece, connection: &mut C) -> Result<(), SessionStoreError> {
        let (start, stop) = bounds(piece)?;
        for statement in [C::SQL.keep_replaced_pieces, C::SQL.delete_replaced_pieces] {
            let within = Statement::new(statement).bind(self.from.id).bind(start).bind(stop).bind(&piece.id);
            connection.execute(within).await?;
        }
        for statement in [C::SQL.forget_piece, C::SQL.add_piece] {
            connection.execute(one_piece(statement, self.from.id, piece)?).await?;
        }
        Ok(())
    }

    /// Whether the pieces that an advance names are the session's.
    async fn has_pieces<C: Connection>(&self, connection: &mut C) -> Result<bool, SessionStoreError> {
        let Transition::Advance { pieces, .. } = &self.transition else { return Ok(true) };
        if pieces.is_empty() {
            return Ok(true);
        }
        let from = pieces.iter().map(|piece| piece.start).min().unwrap_or(0);
        let known = crate::reads::Pieces { session: self.from.id, from }.run(connection).await?;
        Ok(pieces.iter().all(|piece| known.contains(piece)))
    }

    /// Why an intent was not committed.
    async fn claimed<C: Connection>(&self, connection: &mut C) -> Result<Commit, SessionStoreError> {
        match connection.first(self.at(C::SQL.claimant)?.bind(self.from.state.as_str())).await? {
            Some(row) => rows::id(&row, "id").map(Commit::Claimed),
            None => Ok(Commit::Moved),
        }
    }

    /// Why an upload did not begin.
    async fn exceeded<C: Connection>(
        &self,
        total: u64,
        quota: Quota,
        connection: &mut C,
    ) -> Result<Commit, SessionStoreError> {
        let Some(row) = connection.first(self.at(C::SQL.unfinished)?).await? else { return Ok(Commit::Moved) };
        let (user, directory) = (rows::bytes(&row, "of_user")?, rows::bytes(&row, "of_directory")?);
        let counted = Quota { directory: u64::try_from(limit(quota.directory)).ok(), ..quota };
        Ok(counted.excess(total, user, directory).map_or(Commit::Moved, Commit::Exceeds))
    }
}

/// A quota as databases hold it; none is the most that they can count.
fn limit(quota: Option<u64>) -> i64 {
    quota.and_then(|bytes| i64::try_from(bytes).ok()).unwrap_or(i64::MAX)
}

fn is_limited(quota: Quota) -> bool {
    quota.per_user.is_some() || quota.directory.is_some()
}

/// Replaced pieces whose bytes are gone.
pub(crate) struct ForgetPieces {
    pub(crate) session: SessionId,
    pub(crate) pieces: Vec<Piece>,
}

#[async_trait]
impl Operation for ForgetPieces {
    type Output = ();

    async fn run<C: Connection>(&self, connection: &mut C) -> Result<(), SessionStoreError> {
        for piece in &self.pieces {
            connection.execute(one_piece(C::SQL.forget_piece, self.session, piece)?).await?;
        }
        Ok(())
    }
}

/// An ended session without staged bytes.
pub(crate) struct Cleaned(pub(crate) SessionId);

#[async_trait]
impl Operation for Cleaned {
    type Output = ();

    async fn run<C: Connection>(&self, connection: &mut C) -> Result<(), SessionStoreError> {
        if connection.execute(Statement::new(C::SQL.cleaned).bind(self.0)).await? > 0 {
            for statement in forget_all_pieces::<C>(self.0) {
                connection.execute(statement).await?;
            }
        }
        Ok(())
    }
}

/// Forgets clean tombstones past their time, at most as many; gives how many.
pub(crate) struct Purge(pub(crate) u32);

#[async_trait]
impl Operation for Purge {
    type Output = u64;

    fn is_single(&self) -> bool {
        true
    }

    async fn run<C: Connection>(&self, connection: &mut C) -> Result<u64, SessionStoreError> {
        connection.execute(Statement::new(C::SQL.purge).bind(self.0)).await
    }
}

/// Raises `expires_at` of those that are under way among the first sessions that seem to have
/// expired, at most as many; gives how many.
pub(crate) struct RaiseExpiry(pub(crate) u32);

#[async_trait]
impl Operation for RaiseExpiry {
    type Output = u64;

    fn is_single(&self) -> bool {
        true
    }

    async fn run<C: Connection>(&self, connection: &mut C) -> Result<u64, SessionStoreError> {
        connection.execute(Statement::new(C::SQL.raise_expiry).bind(self.0)).await
    }
}

fn insert<C: Connection>(tombstone: &Tombstone) -> Result<Statement, SessionStoreError> {
    Ok(Statement::new(C::SQL.bury)
        .bind(tombstone.id)
        .bind(tombstone.principal.as_str())
        .bind(tombstone.destination.as_str())
        .bind(tombstone.ending.as_str())
        .bind(tombstone.published.map(to_integer).transpose()?)
        .bind(tombstone.ended_at.as_millis())
        .bind(tombstone.keep_until.as_millis())
        .bind(&tombstone.storage)
        .bind(tombstone.folder.as_str())
        .bind(tombstone.key.as_str())
        .bind(tombstone.handle.as_deref())
        .bind(tombstone.unclean))
}

fn forget_all_pieces<C: Connection>(session: SessionId) -> [Statement; 2] {
    [C::SQL.delete_pieces, C::SQL.forget_pieces].map(|statement| Statement::new(statement).bind(session))
}

fn one_piece(statement: &'static str, session: SessionId, piece: &Piece) -> Result<Statement, SessionStoreError> {
    let (start, stop) = bounds(piece)?;
    Ok(Statement::new(statement).bind(session).bind(stop).bind(start).bind(&piece.id))
}

fn bounds(piece: &Piece) -> Result<(i64, i64), SessionStoreError> {
    let stop = piece.start.saturating_add(piece.len);
    Ok((to_integer(piece.start)?, to_integer(stop)?))
}
