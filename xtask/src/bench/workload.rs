//! Many uploads and restarts: what is done to the servers, and what of it is reported.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use super::Setting;
use super::load::{Connection, Upload};
use super::measure::{self, Samples};
use super::peer::{self, Running};
use super::report::Table;
use crate::shell::Result;

pub(super) const MIB: f64 = (1 << 20) as f64;

/// Many uploads at once, in small fragments.
pub(crate) struct Acks {
    pub(crate) connections: usize,
    pub(crate) fragment: u64,
    /// Of each connection.
    pub(crate) fragments: u64,
}

impl Acks {
    pub(crate) fn run(&self, setting: &Setting, peers: &[&str]) -> Result<Table> {
        let fragments = (self.fragments / setting.divisor).max(2);
        let servers = start_all(setting, peers)?;
        let mut results: Vec<_> = servers.iter().map(|_| AcksResult::default()).collect();
        for run in 0..=setting.runs {
            for (server, result) in servers.iter().zip(&mut results) {
                self.upload(server, fragments, (run > 0).then_some(result))?;
            }
        }
        let rows = servers.iter().zip(&results).map(|(server, result)| result.row(server));
        Ok(Table {
            notes: format!(
                "{} connections, each with an upload of {fragments} fragments of {} KiB, {} interleaved runs after \
                 one to warm up: median (least-most). Times are from the first byte of a fragment to its ack, all \
                 runs together, and include the last ack of each upload, which waits for stable storage.",
                self.connections,
                self.fragment >> 10,
                setting.runs
            ),
            columns: vec!["server", "acks/s", "p50 ms", "p99 ms", "longest ms", "CPU µs/ack", "peak MiB"],
            rows: rows.collect::<Result<_>>()?,
        })
    }

    fn upload(&self, server: &Running, fragments: u64, result: Option<&mut AcksResult>) -> Result<()> {
        let uploads = create_all(server, self.connections, fragments * self.fragment)?;
        let cpu_before = measure::cpu(server.process())?;
        let start = Arc::new(Barrier::new(self.connections + 1));
        let threads: Vec<_> = uploads
            .into_iter()
            .map(|upload| {
                let (start, fragment) = (start.clone(), self.fragment);
                thread::spawn(move || {
                    start.wait();
                    timed(upload, fragment, fragments).map_err(|error| error.to_string())
                })
            })
            .collect();
        start.wait();
        let started = Instant::now();
        let times = threads.into_iter().map(join).collect::<Result<Vec<_>>>()?.concat();
        let elapsed = started.elapsed();
        let cpu = measure::cpu(server.process())? - cpu_before;
        if let Some(result) = result {
            result.acks_per_second.push(times.len() as f64 / elapsed.as_secs_f64());
            result.cpu.push(cpu.as_secs_f64() * 1e6 / times.len() as f64);
            result.milliseconds.extend(times);
        }
        (0..self.connections).try_for_each(|number| server.delete(&numbered(number)))
    }
}

/// Sends the whole upload; the milliseconds until each ack.
fn timed(mut upload: Upload, fragment: u64, fragments: u64) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for number in 0..fragments {
        let start = Instant::now();
        upload.fragment(number * fragment, fragment)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    upload.close()?;
    Ok(times)
}

#[derive(Default)]
struct AcksResult {
    acks_per_second: Samples,
    milliseconds: Samples,
    cpu: Samples,
}

impl AcksResult {
    fn row(&self, server: &Running) -> Result<Vec<String>> {
        let times = [50.0, 99.0, 100.0].map(|percent| format!("{:.1}", self.milliseconds.percentile(percent)));
        let peak = mebibytes(measure::peak_memory(server.process())?);
        let counts = [server.name().to_owned(), self.acks_per_second.show(0)];
        Ok(counts.into_iter().chain(times).chain([self.cpu.show(0), peak]).collect())
    }
}

/// Uploads that stop in the middle of a fragment.
pub(crate) struct Held {
    pub(crate) uploads: usize,
    pub(crate) fragment: u64,
    pub(crate) sent: u64,
}

impl Held {
    pub(crate) fn run(&self, setting: &Setting, peers: &[&str]) -> Result<Table> {
        let rows = peers.iter().map(|peer| self.measure(&peer::start(setting, peer)?)).collect::<Result<_>>()?;
        Ok(Table {
            notes: format!(
                "{} uploads at once, each {} KiB into a fragment of {} KiB, compared with none after one whole upload.",
                self.uploads,
                self.sent >> 10,
                self.fragment >> 10
            ),
            columns: vec!["server", "none: MiB", "all: MiB", "peak MiB", "KiB per upload"],
            rows,
        })
    }

    fn measure(&self, server: &Running) -> Result<Vec<String>> {
        let mut warm = server.connect()?.create(&server.url_path(NAME), self.fragment)?;
        warm.fragment(0, self.fragment)?;
        warm.close()?;
        let before = settled_memory(server)?;
        let mut uploads = create_all(server, self.uploads, self.fragment)?;
        uploads.iter_mut().try_for_each(|upload| upload.begin_fragment(0, self.fragment, self.sent))?;
        let after = settled_memory(server)?;
        Ok(vec![
            server.name().to_owned(),
            mebibytes(before),
            mebibytes(after),
            mebibytes(measure::peak_memory(server.process())?),
            format!("{:.0}", after.saturating_sub(before) as f64 / 1024.0 / self.uploads as f64),
        ])
    }
}

/// Connections that have sent a fragment each, and wait.
pub(crate) struct Idle {
    pub(crate) connections: usize,
    pub(crate) sent: u64,
}

impl Idle {
    pub(crate) fn run(&self, setting: &Setting, peers: &[&str]) -> Result<Table> {
        let connections = self.connections / usize::try_from(setting.divisor)?;
        let measured = peers.iter().map(|peer| self.measure(&peer::start(setting, peer)?, connections));
        Ok(Table {
            notes: format!(
                "{connections} connections, each with an unfinished upload that {} KiB came of.",
                self.sent >> 10
            ),
            columns: vec!["server", "at start: MiB", "idle: MiB", "peak MiB", "KiB per connection"],
            rows: measured.collect::<Result<_>>()?,
        })
    }

    fn measure(&self, server: &Running, connections: usize) -> Result<Vec<String>> {
        let before = settled_memory(server)?;
        // One byte more is announced than sent: the uploads are under way.
        let held = in_parallel(connections, |number| {
            let mut upload = server.connect()?.create(&server.url_path(&numbered(number)), self.sent + 1)?;
            upload.fragment(0, self.sent)?;
            Ok(upload.abandon())
        })?;
        let after = settled_memory(server)?;
        Ok(vec![
            server.name().to_owned(),
            mebibytes(before),
            mebibytes(after),
            mebibytes(measure::peak_memory(server.process())?),
            format!("{:.1}", after.saturating_sub(before) as f64 / 1024.0 / held.len() as f64),
        ])
    }
}

/// Starts with many unfinished sessions in the database.
pub(crate) struct Start {
    pub(crate) sessions: usize,
    /// How many of them have bytes on disk.
    pub(crate) with_bytes: usize,
}

impl Start {
    pub(crate) fn run(&self, setting: &Setting, peers: &[&str]) -> Result<Table> {
        let sessions = self.sessions / usize::try_from(setting.divisor)?;
        let measured = peers.iter().map(|peer| self.measure(setting, peer, sessions));
        Ok(Table {
            notes: format!(
                "{sessions} sessions in the database, up to {} of them with bytes on disk; {} starts until /readyz \
                 answers 200: median (least-most).",
                self.with_bytes, setting.runs
            ),
            columns: vec!["server", "empty: ms", "full: ms", "peak MiB"],
            rows: measured.collect::<Result<_>>()?,
        })
    }

    fn measure(&self, setting: &Setting, peer: &str, sessions: usize) -> Result<Vec<String>> {
        let server = peer::start(setting, peer)?;
        let (server, empty) = restarts(server, setting)?;
        self.fill(&server, sessions)?;
        let (server, full) = restarts(server, setting)?;
        let peak = mebibytes(measure::peak_memory(server.process())?);
        Ok(vec![server.name().to_owned(), empty.show(0), full.show(0), peak])
    }

    fn fill(&self, server: &Running, sessions: usize) -> Result<()> {
        const EACH: usize = 100;
        in_parallel(sessions.div_ceil(EACH), |batch| {
            let mut connection = server.connect()?;
            for number in batch * EACH..sessions.min((batch + 1) * EACH) {
                connection = self.begin(connection, &server.url_path(&numbered(number)), number)?;
            }
            Ok(())
        })?;
        Ok(())
    }

    fn begin(&self, connection: Connection, path: &str, number: usize) -> Result<Connection> {
        const SENT: u64 = 4096;
        let mut upload = connection.create(path, 2 * SENT)?;
        if number < self.with_bytes {
            upload.fragment(0, SENT)?;
        }
        Ok(upload.abandon())
    }
}

fn restarts(mut server: Running, setting: &Setting) -> Result<(Running, Samples)> {
    let mut milliseconds = Samples::default();
    for _ in 0..setting.runs {
        server = server.restart(setting)?;
        milliseconds.push(server.ready_after.as_secs_f64() * 1e3);
    }
    Ok((server, milliseconds))
}

/// The name of an upload that is alone.
pub(super) const NAME: &str = "upload.bin";

fn numbered(number: usize) -> String {
    format!("upload-{number}.bin")
}

pub(super) fn mebibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / MIB)
}

pub(super) fn start_all(setting: &Setting, peers: &[&str]) -> Result<Vec<Running>> {
    peers.iter().map(|name| peer::start(setting, name)).collect()
}

fn create_all(server: &Running, count: usize, total: u64) -> Result<Vec<Upload>> {
    (0..count).map(|number| server.connect()?.create(&server.url_path(&numbered(number)), total)).collect()
}

/// Memory once it has not changed much for three seconds, or after half a minute.
fn settled_memory(server: &Running) -> Result<u64> {
    let mut last = measure::memory(server.process())?;
    let mut calm = 0;
    for _ in 0..30 {
        thread::sleep(Duration::from_secs(1));
        let now = measure::memory(server.process())?;
        calm = if now.abs_diff(last) < 64 << 10 { calm + 1 } else { 0 };
        last = now;
        if calm == 3 {
            break;
        }
    }
    Ok(last)
}

/// Does `work` for each number below `count`, on as many threads as keep a server busy.
fn in_parallel<T: Send>(count: usize, work: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    const THREADS: usize = 32;
    let work = &work;
    thread::scope(|scope| {
        let share = |thread| (thread..count).step_by(THREADS).map(work).collect::<Result<Vec<_>>>();
        let threads: Vec<_> =
            (0..THREADS).map(|thread| scope.spawn(move || share(thread).map_err(|error| error.to_string()))).collect();
        threads.into_iter().map(|thread| flatten(thread.join())).collect::<Result<Vec<_>>>()
    })
    .map(|shares| shares.into_iter().flatten().collect())
}

fn join<T>(thread: thread::JoinHandle<std::result::Result<T, String>>) -> Result<T> {
    flatten(thread.join())
}

fn flatten<T>(ended: thread::Result<std::result::Result<T, String>>) -> Result<T> {
    Ok(ended.map_err(|_| "a thread of the load generator panicked")??)
}
