//! Measures how many fragments a session database commits.
//!
//! `cargo run --release -p bits-store-sql --example advances -- [FOLDER] [COMMITTERS] [SECONDS]`

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bits_core::{
    Commit, NewSession, Principal, Quota, Session, SessionId, SessionStore, StorageKey, Transition, VirtualPath,
};
use bits_store_sql::{Options, SqliteSessions};
use uuid::Uuid;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let committers = arguments.next().map_or(Ok(100), |text| text.parse())?;
    let seconds = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let folder = tempfile::tempdir_in(folder)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = Arc::new(SqliteSessions::open(folder.path().join("state.db"), Options::default()).await?);
        for durable in [false, true] {
            for committers in [1, committers] {
                measure(&store, committers, durable, Duration::from_secs(seconds)).await?;
            }
        }
        store.close().await;
        Ok(())
    })
}

async fn measure(store: &Arc<SqliteSessions>, committers: usize, durable: bool, time: Duration) -> Result<(), Failure> {
    let mut sessions = Vec::new();
    for number in 0..committers {
        sessions.push(begin(store, number).await?);
    }
    let until = Instant::now() + time;
    let tasks = sessions.into_iter().map(|session| {
        let store = Arc::clone(store);
        tokio::spawn(async move { advance_until(&store, session, durable, until).await })
    });
    let mut times = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        times.extend(task.await??);
    }
    times.sort_unstable();
    let (rate, half, most) = (times.len() as f64 / time.as_secs_f64(), times.len() / 2, times.len() * 99 / 100);
    println!(
        "{committers:4} committers, durable {durable:5}: {rate:8.0} advances/s, median {:?}, 99 % {:?}",
        times[half], times[most]
    );
    Ok(())
}

async fn begin(store: &SqliteSessions, number: usize) -> Result<Session, Failure> {
    let destination = VirtualPath::from_decoded(&format!("/upload/{number}/{}.bin", Uuid::new_v4()))?;
    let key = StorageKey::parse(&destination.as_str()[1..])?;
    let new = NewSession {
        id: SessionId::new(Uuid::new_v4()),
        principal: Principal::ANONYMOUS,
        address: "127.0.0.1:50000".to_owned(),
        directory: "/upload".to_owned(),
        destination,
        storage: "file:".to_owned(),
        folder: StorageKey::parse("upload")?,
        key,
        timeout: Duration::from_secs(14 * 24 * 60 * 60),
        url: None,
        limit: None,
    };
    let session = store.create(&new).await?;
    step(store, &session, &Transition::Begin { total: 1 << 50, quota: Quota::NONE }).await
}

async fn advance_until(
    store: &SqliteSessions,
    mut session: Session,
    durable: bool,
    until: Instant,
) -> Result<Vec<Duration>, Failure> {
    let mut times = Vec::new();
    while Instant::now() < until {
        let start = Instant::now();
        let to = session.received + 65536;
        let synced = if durable { to } else { 0 };
        let incarnation = "7df0354d-249b-430f-820d-3d2a9bef4931".to_owned();
        let advance = Transition::Advance { to, synced, incarnation, pieces: Vec::new(), handle: None, durable };
        session = step(store, &session, &advance).await?;
        times.push(start.elapsed());
    }
    Ok(times)
}

async fn step(store: &SqliteSessions, from: &Session, transition: &Transition) -> Result<Session, Failure> {
    match store.commit(from, transition).await? {
        Commit::Live(session) => Ok(session),
        other => Err(format!("not committed: {other:?}").into()),
    }
}
