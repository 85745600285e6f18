//! One large file over one connection: up, and down.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Setting;
use super::load::Upload;
use super::measure::{self, Samples};
use super::peer::{Protocol, Running};
use super::report::Table;
use super::workload::{MIB, NAME, mebibytes, start_all};
use crate::shell::Result;

const COLUMNS: [&str; 6] = ["server", "MiB/s", "CPU s/GiB", "peak MiB", "first's rate ÷ its", "first's CPU ÷ its"];

/// One upload of `bytes` in fragments.
pub(crate) struct Ingest {
    pub(crate) bytes: u64,
    pub(crate) fragment: u64,
}

impl Ingest {
    pub(crate) fn run(&self, setting: &Setting, peers: &[&str]) -> Result<Table> {
        let bytes = (self.bytes / setting.divisor).max(self.fragment);
        let servers = start_all(setting, peers)?;
        Ok(Table {
            notes: format!(
                "{} MiB in fragments of {} KiB (one PUT for nginx), {} interleaved runs after one to warm up: median \
                 (least-most). Time ends when everything is on stable storage: with our last ack; for nginx after its \
                 answer and a sync of file and folder, whose processor time counts as its own. Ratios are of medians.",
                bytes >> 20,
                self.fragment >> 10,
                setting.runs
            ),
            columns: COLUMNS.to_vec(),
            rows: interleaved(setting, &servers, bytes, |server| self.upload(server, bytes))?,
        })
    }

    fn upload(&self, server: &Running, bytes: u64) -> Result<Used> {
        let cpu_before = measure::cpu(server.process())?;
        let start = Instant::now();
        let (elapsed, cpu_of_sync) = match server.protocol() {
            Protocol::Bits => {
                let upload = self.send(server.connect()?.create(&server.url_path(NAME), bytes)?, bytes)?;
                let elapsed = start.elapsed();
                upload.close()?;
                (elapsed, Duration::ZERO)
            }
            Protocol::Put => {
                server.connect()?.put(&server.url_path(NAME), bytes)?;
                let cpu_of_sync = sync(&server.file(NAME).ok_or("the peer stores no file")?)?;
                (start.elapsed(), cpu_of_sync)
            }
        };
        let cpu = measure::cpu(server.process())? - cpu_before + cpu_of_sync;
        server.delete(NAME)?;
        Ok(Used { elapsed, cpu })
    }

    fn send(&self, mut upload: Upload, bytes: u64) -> Result<Upload> {
        let mut first = 0;
        while first < bytes {
            let length = self.fragment.min(bytes - first);
            upload.fragment(first, length)?;
            first += length;
        }
        Ok(upload)
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
        let rows = interleaved(setting, &servers, bytes, |server| self.fetch(server, bytes))?;
        servers.iter().try_for_each(|server| server.delete(NAME))?;
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
        Ok(Used { elapsed: start.elapsed(), cpu: measure::cpu(server.process())? - cpu_before })
    }
}

/// What one run took.
struct Used {
    elapsed: Duration,
    cpu: Duration,
}

/// Moves `bytes` from or to each server in turn, often; a row for each server.
fn interleaved(
    setting: &Setting,
    servers: &[Running],
    bytes: u64,
    transfer: impl Fn(&Running) -> Result<Used>,
) -> Result<Vec<Vec<String>>> {
    let mut results: Vec<_> = servers.iter().map(|_| Transfers::default()).collect();
    for run in 0..=setting.runs {
        for (server, result) in servers.iter().zip(&mut results) {
            let used = transfer(server)?;
            if run > 0 {
                result.rate.push(bytes as f64 / MIB / used.elapsed.as_secs_f64());
                result.cpu.push(used.cpu.as_secs_f64() * f64::from(1 << 30) / bytes as f64);
            }
        }
    }
    servers.iter().zip(&results).map(|(server, result)| result.row(server, &results[0])).collect()
}

#[derive(Default)]
struct Transfers {
    rate: Samples,
    cpu: Samples,
}

impl Transfers {
    fn row(&self, server: &Running, first: &Transfers) -> Result<Vec<String>> {
        Ok(vec![
            server.name().to_owned(),
            self.rate.show(0),
            self.cpu.show(2),
            mebibytes(measure::peak_memory(server.process())?),
            format!("{:.2}", first.rate.median() / self.rate.median()),
            format!("{:.2}", first.cpu.median() / self.cpu.median()),
        ])
    }
}

/// Puts the file that is fetched where the server finds it.
fn store(server: &Running, bytes: u64) -> Result<()> {
    let (connection, path) = (server.connect()?, server.url_path(NAME));
    match server.protocol() {
        Protocol::Bits => {
            let ingest = Ingest { bytes, fragment: 8 << 20 };
            ingest.send(connection.create(&path, bytes)?, bytes)?.close()?;
            Ok(())
        }
        Protocol::Put => {
            let mut connection = connection;
            connection.put(&path, bytes)
        }
    }
}

/// Brings `file` and its folder to stable storage; the processor time that it took.
fn sync(file: &Path) -> Result<Duration> {
    let before = measure::own_cpu();
    File::open(file)?.sync_all()?;
    File::open(file.parent().ok_or("a file without a folder")?)?.sync_all()?;
    Ok(measure::own_cpu() - before)
}
