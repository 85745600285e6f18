//! One large file over one connection: up, and down.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Setting;
use super::load::Upload;
use super::measure::{self, Cpu, CpuSamples, Requests, Samples};
use super::peer::{Protocol, Running};
use super::plot::Plot;
use super::report::Table;
use super::servers::{MIB, NAME, mebibytes, order, settings_of, start_all};
use crate::shell::Result;

const COLUMNS: [&str; 11] = [
    "server",
    "does not",
    "MiB/s",
    "with `sync -f`",
    "CPU s/GiB",
    "user",
    "system",
    "peak MiB",
    "first's rate ÷ its",
    "first's CPU ÷ its",
    "requests to its store",
];

/// One upload of `bytes` in fragments.
pub(crate) struct Ingest {
    pub(crate) bytes: u64,
    pub(crate) fragment: u64,
}

impl Ingest {
    pub(crate) fn run(&self, setting: &Setting, peers: &[&str]) -> Result<Table> {
        let bytes = (self.bytes / setting.divisor).max(self.fragment);
        let servers = start_all(setting, peers)?;
        let (rows, plots) = interleaved(setting, &servers, bytes, |server| self.upload(server, bytes))?;
        Ok(Table {
            notes: format!(
                "{} MiB in fragments of {} KiB (one PUT for nginx and the bare services of hyper), {} interleaved runs \
                 after one to warm up: median (least-most). Time ends when everything is on stable storage: with the \
                 last ack of bits-server, session included; for others after their answer and a sync of file and \
                 folder, whose processor time counts as theirs. The rate \"with `sync -f`\" is until a sync of the \
                 whole file system, which follows. Ratios are of medians.",
                bytes >> 20,
                self.fragment >> 10,
                setting.runs
            ),
            columns: COLUMNS.to_vec(),
            rows,
            plots,
            settings: settings_of(&servers),
        })
    }

    fn upload(&self, server: &Running, bytes: u64) -> Result<Used> {
        let requests_before = server.store_requests()?;
        let cpu_before = measure::cpu(server.process())?;
        let start = Instant::now();
        let (name, session) = self.send(server, bytes)?;
        let cpu_of_sync = match (server.protocol(), server.file(&name)) {
            (Protocol::Put | Protocol::Tus, Some(file)) => sync(&file)?,
            _ => Cpu::default(),
        };
        let elapsed = start.elapsed();
        let cpu = measure::cpu(server.process())? - cpu_before + cpu_of_sync;
        if let Some(file) = server.file(&name) {
            rustix::fs::syncfs(File::open(file.parent().unwrap_or(&file))?)?;
        }
        let with_file_system = start.elapsed();
        session.map_or(Ok(()), |session| session.close().map(drop))?;
        let mut requests = Requests::default();
        requests.add(&requests_before, &server.store_requests()?);
        server.delete(&[name])?;
        Ok(Used { elapsed, with_file_system, cpu, requests })
    }

    /// The name of the file, and the session if there is any: it is not closed.
    fn send(&self, server: &Running, bytes: u64) -> Result<(String, Option<Upload>)> {
        let mut connection = server.connect()?;
        if server.protocol() == Protocol::Put {
            connection.put(&server.url_path(NAME), bytes)?;
            return Ok((NAME.to_owned(), None));
        }
        let mut upload = server.create(connection, NAME, bytes)?;
        upload.send(self.fragment)?;
        Ok((upload.name().to_owned(), Some(upload)))
    }
}

/// A file of `bytes`, fetched whole or in ranges.
pub(crate) struct Download {
    pub(crate) bytes: u64,
    /// The length of each range; the whole file by one plain GET without.
    pub(crate) range: Option<u64>,
}

impl Download {
    pub(crate) fn run(&self, setting: &Setting, peers: &[&str]) -> Result<Table> {
        let bytes = self.bytes / setting.divisor;
        let servers = start_all(setting, peers)?;
        servers.iter().try_for_each(|server| store(server, bytes))?;
        let (rows, plots) = interleaved(setting, &servers, bytes, |server| self.fetch(server, bytes))?;
        servers.iter().try_for_each(|server| server.delete(&[NAME.to_owned()]))?;
        let requests = self.range.map_or("by one GET".to_owned(), |range| {
            format!("in ranges of {} KiB, one request after the other", range >> 10)
        });
        Ok(Table {
            notes: format!(
                "{} MiB {requests}, {} interleaved runs after one to warm up: median (least-most). The file is in \
                 memory, as it was stored just before. nginx is as it comes, without sendfile; nginx-sendfile has it \
                 on. Ratios are of medians.",
                bytes >> 20,
                setting.runs
            ),
            columns: COLUMNS.to_vec(),
            rows,
            plots,
            settings: settings_of(&servers),
        })
    }

    fn fetch(&self, server: &Running, bytes: u64) -> Result<Used> {
        let mut connection = server.connect()?;
        let path = server.url_path(NAME);
        let cpu_before = measure::cpu(server.process())?;
        let start = Instant::now();
        match self.range {
            None => connection.get(&path, bytes)?,
            Some(length) => {
                for first in (0..bytes).step_by(usize::try_from(length)?) {
                    connection.get_range(&path, first, length.min(bytes - first))?;
                }
            }
        }
        let elapsed = start.elapsed();
        let cpu = measure::cpu(server.process())? - cpu_before;
        Ok(Used { elapsed, with_file_system: elapsed, cpu, requests: Requests::default() })
    }
}

/// What one run took.
struct Used {
    elapsed: Duration,
    /// Until the whole file system was synced.
    with_file_system: Duration,
    cpu: Cpu,
    /// To its object store.
    requests: Requests,
}

/// Moves `bytes` from or to each server in turn, often; a row for each server, and its bars.
fn interleaved(
    setting: &Setting,
    servers: &[Running],
    bytes: u64,
    transfer: impl Fn(&Running) -> Result<Used>,
) -> Result<(Vec<Vec<String>>, Vec<Plot>)> {
    let mut results: Vec<_> = servers.iter().map(|_| Transfers::default()).collect();
    for run in 0..=setting.runs {
        for next in order(run, servers.len()) {
            let used = transfer(&servers[next])?;
            if run > 0 {
                results[next].add(&used, bytes);
            }
        }
    }
    let rows = servers.iter().zip(&results).map(|(server, result)| result.row(server, &results[0]));
    let plot = |title, samples: fn(&Transfers) -> &Samples| {
        Plot::new(title, servers.iter().zip(&results).map(|(server, result)| (server.name(), samples(result))))
    };
    let plots = vec![plot("MiB/s", |result| &result.rate), plot("CPU s/GiB", |result| &result.cpu.total)];
    Ok((rows.collect::<Result<_>>()?, plots))
}

#[derive(Default)]
struct Transfers {
    rate: Samples,
    with_file_system: Samples,
    cpu: CpuSamples,
    runs: u64,
    requests: Requests,
}

impl Transfers {
    fn add(&mut self, used: &Used, bytes: u64) {
        let rate = |time: Duration| bytes as f64 / MIB / time.as_secs_f64();
        self.rate.push(rate(used.elapsed));
        self.with_file_system.push(rate(used.with_file_system));
        self.cpu.push(used.cpu, f64::from(1 << 30) / bytes as f64);
        self.runs += 1;
        self.requests.add(&Requests::default(), &used.requests);
    }

    fn row(&self, server: &Running, first: &Transfers) -> Result<Vec<String>> {
        let mut row = vec![server.name().to_owned(), server.lacks(), self.rate.show(0)];
        row.push(format!("{:.0}", self.with_file_system.median()));
        row.extend(self.cpu.show(2));
        row.push(mebibytes(measure::peak_memory(server.process())?));
        row.push(first.rate.ratio_to(&self.rate));
        row.push(first.cpu.total.ratio_to(&self.cpu.total));
        row.push(self.requests.show(self.runs));
        Ok(row)
    }
}

/// Puts the file that is fetched where the server finds it.
fn store(server: &Running, bytes: u64) -> Result<()> {
    let (_, session) = Ingest { bytes, fragment: 8 << 20 }.send(server, bytes)?;
    session.map_or(Ok(()), |session| session.close().map(drop))
}

/// Brings `file` and its folder to stable storage; the processor time that it took.
pub(super) fn sync(file: &Path) -> Result<Cpu> {
    let before = measure::own_cpu();
    File::open(file)?.sync_all()?;
    File::open(file.parent().ok_or("a file without a folder")?)?.sync_all()?;
    Ok(measure::own_cpu() - before)
}
