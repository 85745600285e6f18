//! The least that a small upload costs, without HTTP: a row, its file, a sync, a row, a rename, a
//! sync of the folder, a row; rows that wait are committed together.

use std::{
    fs::{self, File},
    io::{self, BufRead, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread,
    time::Instant,
};

use clap::Args;
use sqlx::{
    ConnectOptions, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use crate::Result;

#[derive(Args)]
pub(crate) struct Options {
    /// An empty folder
    #[arg(long)]
    folder: PathBuf,
    /// Uploads of one run
    #[arg(long)]
    uploads: usize,
    /// Of each upload
    #[arg(long)]
    bytes: usize,
    /// Uploads that are under way at once
    #[arg(long)]
    at_once: usize,
}

const TABLE: &str = "CREATE TABLE session (id INTEGER PRIMARY KEY, state TEXT, destination TEXT, received INTEGER)";

/// What becomes of the row of a session.
#[derive(Clone, Copy)]
enum Change {
    Create,
    Receive,
    Publish,
    End,
}

impl Change {
    fn statement(self) -> &'static str {
        match self {
            Self::Create => "INSERT INTO session VALUES (?1, 'receiving', '/upload/some/path/' || ?1, 0)",
            Self::Receive => "UPDATE session SET received = 8192 WHERE id = ?1 AND received = 0",
            Self::Publish => "UPDATE session SET state = 'publishing' WHERE id = ?1 AND state = 'receiving'",
            Self::End => "DELETE FROM session WHERE id = ?1 AND state = 'publishing'",
        }
    }
}

/// A change, and who is told of its commit.
struct Job {
    id: i64,
    change: Change,
    done: SyncSender<()>,
}

/// Says how many seconds each run took.
pub(crate) fn run(options: &Options) -> Result<()> {
    fs::create_dir_all(options.folder.join("staged"))?;
    fs::create_dir_all(options.folder.join("files"))?;
    let (jobs, queue) = channel();
    let database = options.folder.join("floor.db");
    let writer = thread::spawn(move || tokio::runtime::Runtime::new()?.block_on(write(&database, &queue)));
    for (line, run) in io::stdin().lock().lines().zip(0_usize..) {
        line?;
        let start = Instant::now();
        let next = Arc::new(AtomicUsize::new(0));
        thread::scope(|scope| {
            let uploading = (0..options.at_once).map(|_| {
                let (next, jobs) = (next.clone(), jobs.clone());
                scope.spawn(move || upload_all(options, run, &next, &jobs))
            });
            let threads: Vec<_> = uploading.collect();
            threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread panicked")?)
        })?;
        writeln!(io::stdout(), "{}", start.elapsed().as_secs_f64())?;
        io::stdout().flush()?;
    }
    drop(jobs);
    writer.join().map_err(|_| "the writer panicked")?
}

fn upload_all(options: &Options, run: usize, next: &AtomicUsize, jobs: &Sender<Job>) -> Result<()> {
    let bytes = vec![0x5A; options.bytes];
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= options.uploads {
            return Ok(());
        }
        upload(options, i64::try_from(run * options.uploads + number)?, &bytes, jobs)?;
    }
}

fn upload(options: &Options, id: i64, bytes: &[u8], jobs: &Sender<Job>) -> Result<()> {
    let commit = |change| {
        let (done, told) = sync_channel(1);
        jobs.send(Job { id, change, done })?;
        told.recv().map_err(|_| "a commit failed")?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    };
    let (staged, folder) = (options.folder.join("staged").join(id.to_string()), options.folder.join("files"));
    commit(Change::Create)?;
    let mut file = File::create(&staged)?;
    file.write_all(bytes)?;
    commit(Change::Receive)?;
    file.sync_data()?;
    commit(Change::Publish)?;
    fs::rename(&staged, folder.join(id.to_string()))?;
    File::open(folder)?.sync_all()?;
    commit(Change::End)
}

async fn write(database: &Path, queue: &Receiver<Job>) -> Result<()> {
    let settings = SqliteConnectOptions::new()
        .filename(database)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let mut connection = settings.connect().await?;
    sqlx::query(TABLE).execute(&mut connection).await?;
    while let Ok(first) = queue.recv() {
        let batch: Vec<_> = std::iter::once(first).chain(queue.try_iter()).collect();
        commit(&batch, &mut connection).await?;
        // Whoever does not wait any more has failed.
        batch.iter().for_each(|job| job.done.send(()).unwrap_or_default());
    }
    Ok(())
}

async fn commit(batch: &[Job], connection: &mut SqliteConnection) -> Result<()> {
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
    for job in batch {
        let changed = sqlx::query(job.change.statement()).bind(job.id).execute(&mut *connection).await?;
        if changed.rows_affected() != 1 {
            return Err("a row is not as it was left".into());
        }
    }
    sqlx::query("COMMIT").execute(connection).await?;
    Ok(())
}
