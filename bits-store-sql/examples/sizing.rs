//! Measures a session database, empty or filled with as many sessions and tombstones as wanted.
//!
//! `cargo run --release -p bits-store-sql --all-features --example sizing -- URL [SESSIONS]`, where
//! the URL is `postgres://...` or `sqlite:PATH`.
//!
//! Fills the database up to that number, which is best done to one made for it; then prints what
//! one operation at a time takes, also with many sessions that have expired or seem to have, and
//! how large tables and indexes are.

use std::{
    str::FromStr,
    time::{Duration, Instant},
};

use bits_core::{
    Commit, Ending, NewSession, Principal, PublishIntent, Quota, Session, SessionId, SessionStore, StorageKey,
    Transition, VirtualPath,
};
use bits_store_sql::{Options, PostgresOptions, PostgresSessions, SqliteSessions};
use sqlx::{
    AssertSqlSafe, ConnectOptions, PgConnection, Row, SqliteConnection, postgres::PgConnectOptions,
    sqlite::SqliteConnectOptions,
};
use uuid::Uuid;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How often each operation is measured.
const ROUNDS: usize = 500;
/// How many sessions expire at once, and how many others have to be told apart from them.
const EXPIRED: usize = 20_000;
/// How many sessions a sweep looks for in one go.
const BATCH: u32 = 256;

/// Sessions that began in the last 14 days, all with progress since; the next of their expiry times
/// passes as often as it does with a steady load.
const SESSIONS: &str = "INSERT INTO session (id, principal, address, directory, destination, storage, folder, key, state, \
    epoch, total, fragment_seen, received, synced, incarnation, copy, created_at, progressed_at, timeout, expires_at) \
  SELECT {id}, 'user' || i % 100000 || '@corp.example', '192.0.2.7:50000', '/upload', \
    '/upload/machines/' || i % 100000 || '/logs/' || i || '.zip', 'default', 'upload', \
    'upload/machines/' || i % 100000 || '/logs/' || i || '.zip', 'receiving', 0, 10485760, 1, 5242880, 0, \
    '7df0354d-249b-430f-820d-3d2a9bef4931', 0, now.ms - 1209600000 + i % 1209600000, now.ms, 1209600000, \
    now.ms + 1000 + i * 241 % 1209600000 \
  FROM {numbers}, (SELECT {now} AS ms) AS now";
/// Uploads that ended in the last 14 days.
const TOMBSTONES: &str = "INSERT INTO tombstone (id, principal, destination, ending, published, ended_at, keep_until, \
    storage, folder, key, unclean) \
  SELECT {id}, 'user' || i % 100000 || '@corp.example', '/upload/machines/' || i % 100000 || '/logs/' || i || '.zip', \
    'closed', 10485760, now.ms - 1209600000 + i * 241 % 1209600000, now.ms + 1000 + i * 241 % 1209600000, 'default', \
    'upload', 'upload/machines/' || i % 100000 || '/logs/' || i || '.zip', 0 \
  FROM {numbers}, (SELECT {now} AS ms) AS now";
/// Some sessions expire, and as many others only would have without their progress.
const EXPIRE: &str = "UPDATE session SET expires_at = {now} - 1, \
    progressed_at = CASE WHEN {id_is_even} THEN 0 ELSE progressed_at END \
  WHERE id IN (SELECT id FROM session WHERE state = 'receiving' LIMIT {many})";

const POSTGRES_SIZES: &str = "SELECT relname::text, relkind = 'i', pg_relation_size(oid) FROM pg_class \
  WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i') AND pg_relation_size(oid) > 1000000 \
  ORDER BY relkind DESC, pg_relation_size(oid) DESC";
const SQLITE_SIZES: &str =
    "SELECT 'pages of the file', 0, page_count * page_size FROM pragma_page_count, pragma_page_size";

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("which database? give its URL")?;
    let sessions = arguments.next().map_or(Ok(0), |text| text.parse())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(&url, sessions))
}

async fn measure(url: &str, sessions: i64) -> Result<(), Failure> {
    let mut database = Database::open(url).await?;
    for (table, statement) in [("session", SESSIONS), ("tombstone", TOMBSTONES)] {
        let filled = database.fill(table, statement, sessions).await?;
        println!("{filled} rows in {table}");
    }
    let store = Database::store(url).await?;
    let mut times = Times::default();
    for _ in 0..ROUNDS {
        life(&*store, &mut times).await?;
    }
    times.take("census", store.census(101, 5)).await?;
    if sessions >= 10 * EXPIRED as i64 {
        expire(&mut database, &*store, &mut times).await?;
    }
    times.print();
    database.sizes().await
}

/// One upload of three fragments with all its commits, and a look of the sweep.
async fn life(store: &dyn SessionStore, times: &mut Times) -> Result<(), Failure> {
    let fresh = times.take("create", store.create(&new_session()?)).await?;
    let begin = Transition::Begin { total: 3 << 20, quota: Quota::NONE };
    let mut session = times.step("begin", store, &fresh, &begin).await?;
    for to in 1..=3 {
        let incarnation = "7df0354d-249b-430f-820d-3d2a9bef4931".to_owned();
        let (pieces, handle) = (Vec::new(), None);
        let advance = Transition::Advance { to: to << 20, synced: 0, incarnation, pieces, handle, durable: true };
        session = times.step("fragment", store, &session, &advance).await?;
    }
    times.take("load", store.load(session.id)).await?;
    let intent = PublishIntent("an inode and a size".to_owned());
    let intend = Transition::Intend { intent, total: session.received };
    let session = times.step("intend", store, &session, &intend).await?;
    let session = times.step("publish", store, &session, &Transition::Published).await?;
    end(store, &session, Ending::Closed, "close", times).await?;
    times.take("expiry scan", store.expired(BATCH)).await?;
    times.take("purge scan", store.purge(BATCH)).await?;
    Ok(())
}

/// A sweep of many sessions, among as many that have to be told apart from them first.
async fn expire(database: &mut Database, store: &dyn SessionStore, times: &mut Times) -> Result<(), Failure> {
    database.execute(EXPIRE).await?;
    times.take("census of many expired", store.census(101, 5)).await?;
    let mut swept = 0;
    loop {
        let expired = times.take("expiry scan of many", store.expired(BATCH)).await?;
        if expired.is_empty() {
            break;
        }
        swept += expired.len();
        for session in &expired {
            end(store, session, Ending::Expired, "expire", times).await?;
        }
    }
    println!("{swept} sessions expired");
    Ok(())
}

async fn end(
    store: &dyn SessionStore,
    session: &Session,
    ending: Ending,
    name: &'static str,
    times: &mut Times,
) -> Result<(), Failure> {
    match times.take(name, store.commit(session, &Transition::End(ending))).await? {
        Commit::Ended(_) => Ok(()),
        other => Err(format!("not ended: {other:?}").into()),
    }
}

/// A connection beside the store's, to fill the tables with and to ask for their sizes.
enum Database {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

/// Runs this on either kind of connection.
macro_rules! on {
    ($database:expr, $connection:ident => $then:expr) => {
        match $database {
            Database::Postgres($connection) => $then,
            Database::Sqlite($connection) => $then,
        }
    };
}

impl Database {
    async fn open(url: &str) -> Result<Self, Failure> {
        if let Some(path) = url.strip_prefix("sqlite:") {
            SqliteSessions::migrate(path).await?;
            let options = SqliteConnectOptions::new().filename(path).pragma("cache_size", "-1000000");
            return Ok(Self::Sqlite(options.disable_statement_logging().connect().await?));
        }
        PostgresSessions::migrate(url).await?;
        Ok(Self::Postgres(PgConnectOptions::from_str(url)?.disable_statement_logging().connect().await?))
    }

    async fn store(url: &str) -> Result<Box<dyn SessionStore>, Failure> {
        Ok(match url.strip_prefix("sqlite:") {
            Some(path) => Box::new(SqliteSessions::open(path, Options::default()).await?),
            None => Box::new(PostgresSessions::open(url, PostgresOptions::default()).await?),
        })
    }

    /// Fills a table up to so many rows; gives how many it has.
    async fn fill(&mut self, table: &str, statement: &str, rows: i64) -> Result<i64, Failure> {
        let count = AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        let found: i64 = on!(self, connection => sqlx::query_scalar(count).fetch_one(connection).await?);
        for start in (found + 1..=rows).step_by(50_000) {
            let end = rows.min(start + 49_999);
            let numbers = match self {
                Self::Postgres(_) => format!("generate_series({start}, {end}) AS i"),
                Self::Sqlite(_) => format!(
                    "(WITH RECURSIVE n (i) AS (VALUES ({start}) UNION ALL SELECT i + 1 FROM n WHERE i < {end}) SELECT i FROM n)"
                ),
            };
            self.execute(&statement.replace("{numbers}", &numbers)).await?;
        }
        let vacuum = match self {
            Self::Postgres(_) => format!("VACUUM ANALYZE {table}"),
            Self::Sqlite(_) => "PRAGMA wal_checkpoint(TRUNCATE)".to_owned(),
        };
        self.execute(&vacuum).await?;
        Ok(found.max(rows))
    }

    async fn execute(&mut self, statement: &str) -> Result<(), Failure> {
        let (id, now, id_is_even) = match self {
            Self::Postgres(_) => (
                "gen_random_uuid()",
                "CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT)",
                "get_byte(uuid_send(id), 0) % 2 = 0",
            ),
            Self::Sqlite(_) => (
                "randomblob(16)",
                "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
                "instr('02468ACE', substr(hex(id), 2, 1)) > 0",
            ),
        };
        let sql = statement.replace("{id}", id).replace("{now}", now).replace("{id_is_even}", id_is_even);
        let sql = AssertSqlSafe(sql.replace("{many}", &(2 * EXPIRED).to_string()));
        on!(self, connection => sqlx::raw_sql(sql).execute(connection).await.map(drop)?);
        Ok(())
    }

    async fn sizes(&mut self) -> Result<(), Failure> {
        let line = |name: String, is_index: bool, bytes: i64| {
            let kind = if is_index { "index" } else { "table" };
            println!("{kind:7} {name:28} {:8.1} MiB", bytes as f64 / f64::from(1 << 20));
        };
        match self {
            Self::Postgres(connection) => {
                for row in sqlx::query(POSTGRES_SIZES).fetch_all(connection).await? {
                    line(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
                }
            }
            Self::Sqlite(connection) => {
                for row in sqlx::query(SQLITE_SIZES).fetch_all(connection).await? {
                    line(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
                }
            }
        }
        Ok(())
    }
}

fn new_session() -> Result<NewSession, Failure> {
    let id = Uuid::new_v4();
    let destination = VirtualPath::from_decoded(&format!("/upload/machines/new/logs/{id}.zip"))?;
    Ok(NewSession {
        id: SessionId::new(id),
        principal: Principal::ANONYMOUS,
        address: "192.0.2.7:50000".to_owned(),
        directory: "/upload".to_owned(),
        key: StorageKey::parse(&destination.as_str()[1..])?,
        destination,
        storage: "default".to_owned(),
        folder: StorageKey::parse("upload")?,
        timeout: Duration::from_secs(14 * 24 * 60 * 60),
        url: None,
        limit: None,
    })
}

/// What operations took, by their names.
#[derive(Default)]
struct Times(Vec<(&'static str, Vec<Duration>)>);

impl Times {
    async fn take<T, E>(&mut self, name: &'static str, operation: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let start = Instant::now();
        let output = operation.await?;
        let taken = start.elapsed();
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, times)) => times.push(taken),
            None => self.0.push((name, vec![taken])),
        }
        Ok(output)
    }

    async fn step(
        &mut self,
        name: &'static str,
        store: &dyn SessionStore,
        from: &Session,
        transition: &Transition,
    ) -> Result<Session, Failure> {
        match self.take(name, store.commit(from, transition)).await? {
            Commit::Live(session) => Ok(session),
            other => Err(format!("not committed: {other:?}").into()),
        }
    }

    fn print(mut self) {
        for (name, times) in &mut self.0 {
            times.sort_unstable();
            let at = |share: usize| times[(times.len() - 1) * share / 100].as_micros();
            println!("{name:22} median {:6} µs, 90 % {:6} µs, 99 % {:6} µs", at(50), at(90), at(99));
        }
    }
}
