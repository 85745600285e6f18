//! Connects to the database, checks what it finds there, and migrates it.

use std::{num::NonZeroU32, str::FromStr, time::Duration};

use sqlx::{
    ConnectOptions, Connection, PgConnection, Row,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use uuid::Uuid;

use super::{
    database::Database,
    error::{Kind, kind},
    statements,
};
use crate::migrations::{Fit, NEWEST, STEPS, fit};

/// How long the first connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a caller waits for a connection of the pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection is closed after this time without use: poolers and firewalls forget it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// The oldest version of PostgreSQL.
const OLDEST_SERVER: i64 = 130_000;

/// Why a database cannot be used. No message tells of a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresError {
    /// The URL makes no sense.
    #[error("is no URL of a PostgreSQL database ({0}); write \"postgres://USER:PASSWORD@HOST/DATABASE\"")]
    Url(String),
    /// Nobody answers there.
    #[error("PostgreSQL does not answer at {place}; check the host and the port, and that it runs")]
    Unreachable {
        /// User, host, port and database.
        place: String,
        /// What the system or the network said.
        source: sqlx::Error,
    },
    /// It does not let this user in.
    #[error("PostgreSQL refuses the login at {place}; check user and password, and pg_hba.conf there")]
    Login {
        /// User, host, port and database.
        place: String,
        /// What PostgreSQL said.
        source: sqlx::Error,
    },
    /// There is no such database.
    #[error("there is no such database at {place}; make it with `createdb --encoding=UTF8`, or check its name")]
    NoDatabase {
        /// User, host, port and database.
        place: String,
        /// What PostgreSQL said.
        source: sqlx::Error,
    },
    /// The user may not do what is needed.
    #[error("the user at {place} lacks rights: {missing}; grant them, or make that user the owner of the tables")]
    Rights {
        /// User, host, port and database.
        place: String,
        /// What is not allowed.
        missing: String,
    },
    /// The database is of no use for sessions.
    #[error("the database at {place} {reason}")]
    Unfit {
        /// User, host, port and database.
        place: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A newer program has migrated it.
    #[error(
        "the session database at {place} has schema version {found}, and this program knows none above {supported}: use a newer one"
    )]
    TooNew {
        /// User, host, port and database.
        place: String,
        /// Its version.
        found: i64,
        /// The newest version that this program knows.
        supported: i64,
    },
    /// It must be migrated first.
    #[error(
        "the session database at {place} has schema version {found}, and this program needs {needed}: run `bits-server migrate`, or set state.migrate = true"
    )]
    TooOld {
        /// User, host, port and database.
        place: String,
        /// Its version; 0 when it is empty.
        found: i64,
        /// The version that this program needs.
        needed: i64,
    },
    /// Anything else.
    #[error("the session database at {place} does not work")]
    Database {
        /// User, host, port and database.
        place: String,
        /// What PostgreSQL said.
        source: sqlx::Error,
    },
}

/// A database that may be there.
pub(super) struct Server {
    options: PgConnectOptions,
    place: String,
    /// Identifies this process to the server, and shows whether there is a pooler in between.
    name: String,
}

impl Server {
    pub(super) fn of(url: &str) -> Result<Self, PostgresError> {
        let options = PgConnectOptions::from_str(url).map_err(|error| PostgresError::Url(error.to_string()))?;
        let name = format!("bits-server {}", Uuid::new_v4());
        // PgBouncer takes no settings but the common ones, and each statement is logged by who runs it.
        let options = options.application_name(&name).extra_float_digits(None).disable_statement_logging();
        Ok(Self { place: place(&options), options, name })
    }

    pub(super) async fn open(&self, migrate: bool, connections: NonZeroU32) -> Result<Database, PostgresError> {
        let (mut connection, direct) = self.connect().await?;
        self.check_server(&mut connection).await?;
        let (found, oldest) = self.version(&mut connection).await?;
        match fit(found, oldest) {
            Fit::Fits => {}
            Fit::TooNew => return Err(self.too_new(found)),
            Fit::TooOld if migrate => self.apply(&mut connection).await?,
            Fit::TooOld => {
                return Err(PostgresError::TooOld { place: self.place.clone(), found, needed: NEWEST });
            }
        }
        self.check_rights(&mut connection).await?;
        // A failure to close loses nothing.
        let _ = connection.close().await;
        Ok(Database::new(self.pool(direct, connections), direct))
    }

    pub(super) async fn migrate(&self) -> Result<i64, PostgresError> {
        let (mut connection, _) = self.connect().await?;
        self.check_server(&mut connection).await?;
        let (found, oldest) = self.version(&mut connection).await?;
        match fit(found, oldest) {
            Fit::Fits => {}
            Fit::TooNew => return Err(self.too_new(found)),
            Fit::TooOld => self.apply(&mut connection).await?,
        }
        let _ = connection.close().await;
        Ok(found.max(NEWEST))
    }

    /// A connection, and whether it is one to the server itself: a pooler refuses or drops a setting
    /// that it does not know.
    async fn connect(&self) -> Result<(PgConnection, bool), PostgresError> {
        let mut connection = match self.connect_with(&self.direct_options()).await {
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("08P01") => {
                self.connect_with(&self.options).await
            }
            connection => connection,
        }
        .map_err(|error| self.error(error))?;
        let shown = setting(&mut connection).await.map_err(|error| self.error(error))?;
        let direct = shown.as_deref() == Some(self.token());
        if !direct {
            tracing::info!(place = self.place, "there is a pooler before PostgreSQL: statements are not prepared");
        }
        Ok((connection, direct))
    }

    async fn connect_with(&self, options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
        let connection = tokio::time::timeout(CONNECT_TIMEOUT, options.connect()).await;
        connection.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    fn direct_options(&self) -> PgConnectOptions {
        self.options.clone().options([("bits.direct", self.token())])
    }

    /// A text without spaces that nobody else has.
    fn token(&self) -> &str {
        self.name.rsplit(' ').next().unwrap_or_default()
    }

    fn pool(&self, direct: bool, connections: NonZeroU32) -> sqlx::PgPool {
        let options = PgPoolOptions::new()
            .max_connections(connections.get())
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(IDLE_TIMEOUT)
            .test_before_acquire(false);
        if !direct {
            return options.connect_lazy_with(self.options.clone().statement_cache_capacity(0));
        }
        let token = self.token().to_owned();
        let options = options.after_connect(move |connection, _| {
            let token = token.clone();
            Box::pin(async move {
                match setting(connection).await?.as_deref() == Some(&token) {
                    true => Ok(()),
                    false => Err(sqlx::Error::Protocol("a pooler came between this server and PostgreSQL".to_owned())),
                }
            })
        });
        options.connect_lazy_with(self.direct_options())
    }

    async fn check_server(&self, connection: &mut PgConnection) -> Result<(), PostgresError> {
        let settings = sqlx::query(statements::SETTINGS).persistent(false).fetch_one(connection).await;
        let settings = settings.map_err(|error| self.error(error))?;
        let text = |column| settings.try_get::<String, _>(column).map_err(|error| self.error(error));
        let version: i64 = settings.try_get(0).map_err(|error| self.error(error))?;
        let read_only: bool = settings.try_get(4).map_err(|error| self.error(error))?;
        let reason = if version < OLDEST_SERVER {
            format!("is of PostgreSQL {}; version 13 is the oldest that is supported", version / 10_000)
        } else if text(1)? != "UTF8" {
            format!("has the encoding {}; make one with `createdb --encoding=UTF8 --template=template0`", text(1)?)
        } else if read_only {
            "takes no writes: it is a standby, or read-only by its settings; name the primary".to_owned()
        } else if text(2)? == "off" {
            "has synchronous_commit = off, which loses what was acknowledged; set it to on for this user".to_owned()
        } else {
            if text(3)? == "off" {
                tracing::warn!("PostgreSQL runs with fsync = off: a power loss there takes sessions with it");
            }
            return Ok(());
        };
        Err(PostgresError::Unfit { place: self.place.clone(), reason })
    }

    /// The schema's version, 0 for an empty database, and the oldest version whose programs it takes.
    async fn version(&self, connection: &mut PgConnection) -> Result<(i64, i64), PostgresError> {
        let exists = sqlx::query_scalar(statements::HAS_SCHEMA).persistent(false).fetch_one(&mut *connection).await;
        if !exists.map_err(|error| self.error(error))? {
            return Ok((0, 0));
        }
        let version = sqlx::query_as(statements::VERSION).persistent(false).fetch_one(connection).await;
        version.map_err(|error| self.error(error))
    }

    async fn check_rights(&self, connection: &mut PgConnection) -> Result<(), PostgresError> {
        let missing = sqlx::query_scalar(statements::MISSING_RIGHTS).persistent(false).fetch_one(connection).await;
        match missing.map_err(|error| self.error(error))? {
            Some(missing) => Err(PostgresError::Rights { place: self.place.clone(), missing }),
            None => Ok(()),
        }
    }

    /// All steps in one transaction: another process sees none or all of them.
    async fn apply(&self, connection: &mut PgConnection) -> Result<(), PostgresError> {
        let wrong = |error| self.error(error);
        let mut transaction = connection.begin_with(statements::BEGIN).await.map_err(wrong)?;
        sqlx::query(statements::LOCK_SCHEMA).persistent(false).execute(&mut *transaction).await.map_err(wrong)?;
        sqlx::raw_sql(statements::CREATE_SCHEMA).execute(&mut *transaction).await.map_err(wrong)?;
        let (found, oldest) = self.version(&mut transaction).await?;
        if fit(found, oldest) == Fit::TooNew {
            return Err(self.too_new(found));
        }
        for step in STEPS.iter().filter(|step| step.version > found) {
            let Some(sql) = step.postgres else { continue };
            sqlx::raw_sql(sql).execute(&mut *transaction).await.map_err(wrong)?;
            let applied = sqlx::query(statements::APPLIED).bind(step.version).bind(step.name).bind(step.oldest);
            applied.persistent(false).execute(&mut *transaction).await.map_err(wrong)?;
        }
        transaction.commit().await.map_err(wrong)
    }

    fn too_new(&self, found: i64) -> PostgresError {
        PostgresError::TooNew { place: self.place.clone(), found, supported: NEWEST }
    }

    fn error(&self, source: sqlx::Error) -> PostgresError {
        let place = self.place.clone();
        let code = source.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
        match code.as_str() {
            "28P01" | "28000" => PostgresError::Login { place, source },
            "3D000" => PostgresError::NoDatabase { place, source },
            "42501" => PostgresError::Rights { place, missing: source.to_string() },
            _ if matches!(kind(&source), Kind::Lost | Kind::Passing) => PostgresError::Unreachable { place, source },
            _ => PostgresError::Database { place, source },
        }
    }
}

async fn setting(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar(statements::DIRECT).persistent(false).fetch_one(connection).await
}

/// The database as messages name it.
fn place(options: &PgConnectOptions) -> String {
    let (user, port) = (options.get_username(), options.get_port());
    let host = match options.get_socket() {
        Some(folder) => folder.display().to_string(),
        None => options.get_host().to_owned(),
    };
    format!("{user}@{host}:{port}/{}", options.get_database().unwrap_or(user))
}
