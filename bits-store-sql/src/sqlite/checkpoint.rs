//! Moves the write-ahead log into the database file, on a connection of its own: no commit waits.

use std::time::Duration;

use sqlx::{Connection, Row, SqliteConnection};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

/// How often the log's size is looked at while it grows.
const GLANCE: Duration = Duration::from_millis(250);
/// The longest that a commit stays in the log alone.
const AGE: Duration = Duration::from_secs(5);
/// Frames, of a page each, that are worth moving at once: 4 MiB.
const ENOUGH: i64 = 1024;
/// Frames from which on commits wait for once, so that the log starts over: 64 MiB. Writers
/// without a pause could keep it growing forever.
const TOO_MANY: i64 = 16 * ENOUGH;

/// Runs until `written` is closed and everything is in the database file; `stop` says that it will be.
pub(super) async fn keep_up(
    mut connection: SqliteConnection,
    mut written: watch::Receiver<()>,
    stop: CancellationToken,
) {
    // What an earlier process left.
    written.mark_changed();
    while written.changed().await.is_ok() {
        gather(&mut connection, &written, &stop).await;
        if let Err(error) = move_log(&mut connection).await {
            tracing::warn!(%error, "the log of the session database cannot be moved into it; trying again later");
        }
    }
    if let Err(error) = run(Mode::Truncate, &mut connection).await {
        tracing::info!(%error, "the log of the session database stays for the next start");
    }
    // A failure to close loses nothing.
    let _ = connection.close().await;
}

/// Waits until there is enough to move, or it has waited long enough. It looks at times: to be woken
/// by each commit would cost each of them.
async fn gather(connection: &mut SqliteConnection, written: &watch::Receiver<()>, stop: &CancellationToken) {
    let until = Instant::now() + AGE;
    while Instant::now() < until {
        let stopping = timeout(GLANCE, stop.cancelled()).await.is_ok() || written.has_changed().is_err();
        if stopping || run(Mode::Noop, connection).await.is_ok_and(|log| log.frames - log.moved >= ENOUGH) {
            return;
        }
    }
}

async fn move_log(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let log = run(Mode::Passive, connection).await?;
    if log.frames >= TOO_MANY && !log.is_moved() {
        run(Mode::Restart, connection).await?;
    }
    Ok(())
}

/// How far a checkpoint goes (<https://www.sqlite.org/pragma.html#pragma_wal_checkpoint>).
#[derive(Clone, Copy, Debug)]
pub(super) enum Mode {
    /// Only looks.
    Noop,
    /// As far as it comes without waiting for anyone.
    Passive,
    /// Holds writers up, and lets the next one start the log over.
    Restart,
    /// The same, and empties the log's file.
    Truncate,
}

/// What a checkpoint found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Log {
    /// Somebody else was in the way.
    pub(super) busy: bool,
    frames: i64,
    /// Frames that are in the database file.
    moved: i64,
}

impl Log {
    /// Whether there is something in the log, and nothing of it in the log alone.
    pub(super) fn is_moved(&self) -> bool {
        !self.busy && self.frames > 0 && self.moved == self.frames
    }
}

pub(super) async fn run(mode: Mode, connection: &mut SqliteConnection) -> Result<Log, sqlx::Error> {
    let statement = match mode {
        Mode::Noop => "PRAGMA wal_checkpoint(NOOP)",
        Mode::Passive => "PRAGMA wal_checkpoint(PASSIVE)",
        Mode::Restart => "PRAGMA wal_checkpoint(RESTART)",
        Mode::Truncate => "PRAGMA wal_checkpoint(TRUNCATE)",
    };
    let row = sqlx::query(statement).fetch_one(connection).await?;
    Ok(Log { busy: row.try_get::<i64, _>(0)? != 0, frames: row.try_get(1)?, moved: row.try_get(2)? })
}
