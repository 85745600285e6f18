//! Finds, creates, checks and migrates the database file.

use std::{
    error::Error,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, SqlSafeStr, SqliteConnection,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::{
    error::{Kind, kind},
    statements,
};
use crate::migrations::{Fit, NEWEST, OLDEST, STEPS, Step, fit};

/// In the file's header: `BITS`.
const APPLICATION_ID: i64 = 0x4249_5453;
/// How long a statement waits for another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The log's file is cut to this size when it starts over, which a commit waits for. Under load it
/// grows to somewhat less.
const LOG_SIZE_LIMIT: &str = "100663296";

/// Held while a file is created.
static CREATING: Mutex<()> = Mutex::new(());

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No such file, and it was not to be created.
    #[error("there is no session database at {}; it is created when the server starts, or by `bits-server migrate`", .path.display())]
    Missing {
        /// The database file.
        path: PathBuf,
    },
    /// The file cannot be opened for reading and writing, or not be created.
    #[error("the session database {} cannot be opened for reading and writing", .path.display())]
    File {
        /// The database file.
        path: PathBuf,
        /// What the system or SQLite said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The file is something else.
    #[error("{} is not a session database: move it away, or set state.url to another path", .path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// The file is damaged.
    #[error("the session database {} is damaged: put a backup in its place, or move it away to start anew", .path.display())]
    Corrupt {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        source: sqlx::Error,
    },
    /// A newer program has migrated it.
    #[error("the session database {} has schema version {found}, and this program knows none above {supported}: use a newer one", .path.display())]
    TooNew {
        /// The database file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version that this program knows.
        supported: i64,
    },
    /// It must be migrated first.
    #[error("the session database {} has schema version {found}, and this program needs {needed}: run `bits-server migrate`", .path.display())]
    TooOld {
        /// The database file.
        path: PathBuf,
        /// Its version; 0 when it is empty.
        found: i64,
        /// The version that this program needs.
        needed: i64,
    },
    /// A migration failed; the database is as it was.
    #[error("the session database {} cannot be migrated", .path.display())]
    Migration {
        /// The database file.
        path: PathBuf,
        /// What went wrong.
        source: MigrateError,
    },
    /// Anything else.
    #[error("the session database {} does not work", .path.display())]
    Database {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        source: sqlx::Error,
    },
}

/// A database file that may be there, by its absolute path.
pub(super) struct File {
    path: PathBuf,
}

impl File {
    pub(super) fn at(path: &Path) -> Result<Self, OpenError> {
        // A relative name could read as a URI, and a change of folder would move it.
        match std::path::absolute(path) {
            Ok(path) => Ok(Self { path }),
            Err(source) => Err(OpenError::File { path: path.to_owned(), source: source.into() }),
        }
    }

    /// Connects to the database in its present version, which `migrate` brings it to.
    pub(super) async fn open(&self, migrate: bool) -> Result<SqliteConnection, OpenError> {
        self.find(migrate)?;
        let mut connection = self.connect().await?;
        self.check_writable(&mut connection).await?;
        let (found, oldest) = self.version(&mut connection).await?;
        let path = || self.path.clone();
        match fit(found, oldest) {
            Fit::Fits => {}
            Fit::TooNew => return Err(OpenError::TooNew { path: path(), found, supported: NEWEST }),
            Fit::TooOld if migrate => self.migrate(&mut connection).await?,
            Fit::TooOld => return Err(OpenError::TooOld { path: path(), found, needed: NEWEST }),
        }
        Ok(connection)
    }

    /// How every connection is made.
    pub(super) fn options(&self) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .filename(&self.path)
            .busy_timeout(BUSY_TIMEOUT)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("wal_autocheckpoint", "0")
            // A confined process cannot write to the system's folders for temporary files.
            .pragma("temp_store", "memory")
            .pragma("journal_size_limit", LOG_SIZE_LIMIT)
            .thread_name(|number| format!("sessions-{number}"))
            .disable_statement_logging()
    }

    /// Makes sure that the file is there. A new one is for its owner alone; SQLite gives the
    /// files beside it the same permissions.
    fn find(&self, create: bool) -> Result<(), OpenError> {
        // Closing a file gives up the locks that this process has on it by any other handle. So
        // one that exists is never opened but by SQLite, and nobody connects to a new one before
        // it is closed here.
        let _creating = CREATING.lock().unwrap_or_else(PoisonError::into_inner);
        match self.path.try_exists() {
            Ok(true) => Ok(()),
            Ok(false) if create => self.create().map_err(|error| self.unusable(error)),
            Ok(false) => Err(OpenError::Missing { path: self.path.clone() }),
            Err(error) => Err(self.unusable(error)),
        }
    }

    fn create(&self) -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        match options.open(&self.path) {
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            created => created.and_then(|_| sync_folder(&self.path)),
        }
    }

    async fn connect(&self) -> Result<SqliteConnection, OpenError> {
        let options = self.options();
        let until = tokio::time::Instant::now() + BUSY_TIMEOUT;
        loop {
            match options.connect().await {
                // The switch to a log, in a new database, does not wait for others by itself.
                Err(error) if kind(&error) == Kind::Busy && tokio::time::Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                result => return result.map_err(|error| self.error(error)),
            }
        }
    }

    /// SQLite opens what it may not write without a word.
    async fn check_writable(&self, connection: &mut SqliteConnection) -> Result<(), OpenError> {
        let transaction = connection.begin_with(statements::BEGIN).await.map_err(|error| self.error(error))?;
        transaction.rollback().await.map_err(|error| self.error(error))
    }

    /// The schema's version, 0 for an empty database, and the oldest version whose programs it takes.
    async fn version(&self, connection: &mut SqliteConnection) -> Result<(i64, i64), OpenError> {
        let fact = async |connection: &mut SqliteConnection, statement: &'static str| -> Result<i64, OpenError> {
            sqlx::query_scalar(statement).fetch_one(connection).await.map_err(|error| self.error(error))
        };
        if fact(connection, statements::TABLES).await? == 0 {
            return Ok((0, 0));
        }
        if fact(connection, statements::APPLICATION_ID).await? != APPLICATION_ID {
            return Err(OpenError::NotADatabase { path: self.path.clone() });
        }
        Ok((fact(connection, statements::VERSION).await?, fact(connection, statements::OLDEST).await?))
    }

    /// All migrations in one transaction: another process sees none or all of them.
    async fn migrate(&self, connection: &mut SqliteConnection) -> Result<(), OpenError> {
        let failed = |source| OpenError::Migration { path: self.path.clone(), source };
        let mut transaction = connection.begin_with(statements::BEGIN).await.map_err(|error| self.error(error))?;
        migrator().run(&mut *transaction).await.map_err(failed)?;
        let oldest = AssertSqlSafe(format!("PRAGMA user_version = {OLDEST}"));
        sqlx::raw_sql(oldest).execute(&mut *transaction).await.map_err(|error| self.error(error))?;
        transaction.commit().await.map_err(|error| self.error(error))
    }

    fn unusable(&self, source: impl Into<Box<dyn Error + Send + Sync>>) -> OpenError {
        OpenError::File { path: self.path.clone(), source: source.into() }
    }

    pub(super) fn error(&self, source: sqlx::Error) -> OpenError {
        let path = self.path.clone();
        match kind(&source) {
            Kind::NotADatabase => OpenError::NotADatabase { path },
            Kind::Corrupt => OpenError::Corrupt { path, source },
            Kind::NotWritable => self.unusable(source),
            _ => OpenError::Database { path, source },
        }
    }
}

fn migrator() -> Migrator {
    let migration = |step: &'static Step| {
        let sql = step.sqlite?.into_sql_str();
        Some(Migration::new(step.version, step.name.into(), MigrationType::Simple, sql, false))
    };
    Migrator::with_migrations(STEPS.iter().filter_map(migration).collect())
}

/// A power loss must not take a new file's name.
#[cfg(unix)]
fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}
