//! Measures a PostgreSQL session database, empty or filled with as many sessions as wanted.
//!
//! `cargo run --release -p bits-store-sql --features postgres --example sizing -- URL [SESSIONS]`
//!
//! Fills the database up to that number, which is best done to one made for it; then prints what
//! one operation at a time takes, and how large tables and indexes are.

use std::{
    str::FromStr,
    time::{Duration, Instant},
};

use bits_core::{
    Commit, Ending, NewSession, Principal, PublishIntent, Quota, Session, SessionId, SessionStore, StorageKey,
    Transition, VirtualPath,
};
use bits_store_sql::{PostgresOptions, PostgresSessions};
use sqlx::{ConnectOptions, PgConnection, Row, postgres::PgConnectOptions};
use uuid::Uuid;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How often each operation is measured.
const ROUNDS: usize = 500;

/// Sessions that began in the last 14 days, all with progress since; the next of their expiry times
/// passes as often as it does with a steady load.
const FILL: &str = "INSERT INTO session (id, principal, address, directory, destination, storage, folder, key, state, \
    epoch, total, fragment_seen, received, synced, incarnation, copy, created_at, progressed_at, timeout, expires_at) \
  SELECT gen_random_uuid(), 'user' || i % 100000 || '@corp.example', '192.0.2.7:50000', '/upload', \
    '/upload/machines/' || i % 100000 || '/logs/' || i || '.zip', 'default', 'upload', \
    'upload/machines/' || i % 100000 || '/logs/' || i || '.zip', 'receiving', 0, 10485760, 1, 5242880, 0, \
    '7df0354d-249b-430f-820d-3d2a9bef4931', 0, now.ms - 1209600000 + i % 1209600000, now.ms, 1209600000, \
    now.ms + 1000 + i * 241 % 1209600000 \
  FROM generate_series($1, $2) AS i, \
    (SELECT CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT) AS ms) AS now";
const SIZES: &str = "SELECT relname, relkind = 'i', pg_relation_size(oid) FROM pg_class \
  WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i') AND pg_relation_size(oid) > 1000000 \
  ORDER BY relkind DESC, pg_relation_size(oid) DESC";

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("which database? give its URL")?;
    let sessions = arguments.next().map_or(Ok(0), |text| text.parse())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(&url, sessions))
}

async fn measure(url: &str, sessions: i64) -> Result<(), Failure> {
    PostgresSessions::migrate(url).await?;
    let mut connection = PgConnectOptions::from_str(url)?.disable_statement_logging().connect().await?;
    let live = fill(&mut connection, sessions).await?;
    println!("{live} live sessions");
    let store = PostgresSessions::open(url, PostgresOptions::default()).await?;
    let mut times = Times::default();
    for _ in 0..ROUNDS {
        life(&store, &mut times).await?;
    }
    times.print();
    sizes(&mut connection).await?;
    store.close().await;
    Ok(())
}

/// One upload of three fragments with all its commits, and a look of the sweep.
async fn life(store: &PostgresSessions, times: &mut Times) -> Result<(), Failure> {
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
    let intend = Transition::Intend(PublishIntent("an inode and a size".to_owned()));
    let session = times.step("intend", store, &session, &intend).await?;
    let session = times.step("publish", store, &session, &Transition::Published).await?;
    match times.take("close", store.commit(&session, &Transition::End(Ending::Closed))).await? {
        Commit::Ended(_) => {}
        other => return Err(format!("not ended: {other:?}").into()),
    }
    times.take("expiry scan", store.expired(256)).await?;
    times.take("purge scan", store.purge(256)).await?;
    Ok(())
}

async fn fill(connection: &mut PgConnection, sessions: i64) -> Result<i64, Failure> {
    let live: i64 = sqlx::query_scalar("SELECT count(*) FROM session").fetch_one(&mut *connection).await?;
    for start in (live + 1..=sessions).step_by(50_000) {
        let end = sessions.min(start + 49_999);
        sqlx::query(FILL).bind(start).bind(end).execute(&mut *connection).await?;
    }
    sqlx::raw_sql("VACUUM ANALYZE session").execute(&mut *connection).await?;
    sqlx::raw_sql("VACUUM ANALYZE tombstone").execute(&mut *connection).await?;
    Ok(live.max(sessions))
}

async fn sizes(connection: &mut PgConnection) -> Result<(), Failure> {
    for row in sqlx::query(SIZES).fetch_all(connection).await? {
        let (name, index, bytes): (String, bool, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        println!("{:7} {name:28} {:8.1} MiB", if index { "index" } else { "table" }, bytes as f64 / f64::from(1 << 20));
    }
    Ok(())
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
        store: &PostgresSessions,
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
            println!("{name:12} median {:6} µs, 90 % {:6} µs, 99 % {:6} µs", at(50), at(90), at(99));
        }
    }
}
