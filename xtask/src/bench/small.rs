//! Small uploads, whole sessions each: beside other servers, and beside the least that they cost.

use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use super::Setting;
use super::measure::{self, Cpu, CpuSamples, Requests, Samples};
use super::peer::{Protocol, Running};
use super::plot::Plot;
use super::report::Table;
use super::servers::{join_all, mebibytes, numbered, order, settings_of, start_all};
use super::transfer::sync;
use crate::shell::Result;

pub(crate) struct Small {
    pub(crate) uploads: usize,
    pub(crate) bytes: u64,
    pub(crate) at_once: usize,
}

impl Small {
    pub(crate) fn run(&self, setting: &Setting, peers: &[&str]) -> Result<Table> {
        let uploads = (self.uploads / usize::try_from(setting.divisor)?).max(self.at_once);
        let servers = start_all(setting, peers)?;
        let mut floor = Floor::start(setting, self, uploads)?;
        let mut results: Vec<_> = servers.iter().map(|_| SmallResult::default()).collect();
        let mut least = SmallResult::default();
        let mut names: Vec<Vec<String>> = vec![Vec::new(); servers.len()];
        for run in 0..=setting.runs {
            let first = uploads * usize::try_from(run)?;
            for next in order(run, servers.len()) {
                let numbers = first..first + uploads;
                names[next].extend(self.upload(&servers[next], numbers, (run > 0).then_some(&mut results[next]))?);
            }
            floor.run(uploads, (run > 0).then_some(&mut least))?;
        }
        let mut rows = Vec::new();
        for (server, result) in servers.iter().zip(&results) {
            rows.push(result.row(server.name(), server.lacks(), server.process(), (&results[0], &least))?);
        }
        rows.push(least.row("floor", "HTTP".to_owned(), floor.process.id(), (&results[0], &least))?);
        // Not before: ext4 looks at each of its inodes that was freed within minutes when it makes a file.
        servers.iter().zip(&names).try_for_each(|(server, names)| server.delete(names))?;
        drop(floor);
        super::peer::remove(&Floor::folder(setting))?;
        let named = || servers.iter().map(Running::name).zip(&results).chain([("floor", &least)]);
        Ok(Table {
            notes: self.notes(uploads, setting.runs),
            columns: vec![
                "server",
                "does not",
                "uploads/s",
                "p50 ms",
                "p99 ms",
                "longest ms",
                "CPU µs/upload",
                "user",
                "system",
                "peak MiB",
                "first's rate ÷ its",
                "its rate ÷ floor's",
                "requests to its store",
            ],
            rows,
            plots: vec![
                Plot::new("uploads/s", named().map(|(name, result)| (name, &result.rate))),
                Plot::new("CPU µs/upload", named().map(|(name, result)| (name, &result.cpu.total))),
            ],
            settings: settings_of(&servers),
        })
    }

    fn notes(&self, uploads: usize, runs: u32) -> String {
        format!(
            "{uploads} uploads of {} KiB over {} connections, each from its creation to the end of its session, {runs} \
             interleaved runs after one to warm up: median (least-most). Servers that do not sync have file and folder \
             synced after their answer by the load generator; the processor time of that counts as theirs. The floor is a \
             program without HTTP that does for each upload, as many at once, only: a row, the file, a row, its sync, \
             a row, a rename, a sync of the folder, a row; rows that wait are committed together.",
            self.bytes >> 10,
            self.at_once
        )
    }

    /// Makes the uploads of these numbers; gives the names of their files.
    fn upload(&self, server: &Running, numbers: Range<usize>, result: Option<&mut SmallResult>) -> Result<Vec<String>> {
        let uploads = numbers.len();
        let requests_before = server.store_requests()?;
        let cpu_before = measure::cpu(server.process())?;
        let start = Instant::now();
        let done = join_all(self.at_once, |thread| {
            self.upload_some(server, numbers.clone().skip(thread).step_by(self.at_once))
        })?;
        let elapsed = start.elapsed();
        let cpu = measure::cpu(server.process())? - cpu_before;
        if let Some(result) = result {
            let of_syncs = done.iter().flatten().fold(Cpu::default(), |sum, upload| sum + upload.cpu_of_sync);
            result.add(uploads, elapsed.as_secs_f64(), cpu + of_syncs);
            result.milliseconds.extend(done.iter().flatten().map(|upload| upload.milliseconds));
            result.requests.add(&requests_before, &server.store_requests()?);
        }
        Ok(done.into_iter().flatten().map(|upload| upload.name).collect())
    }

    fn upload_some(&self, server: &Running, numbers: impl Iterator<Item = usize>) -> Result<Vec<Done>> {
        let mut done = Vec::new();
        let mut connection = server.connect()?;
        for number in numbers {
            let start = Instant::now();
            let mut upload = server.create(connection, &numbered(number), self.bytes)?;
            upload.fragment(0, self.bytes)?;
            let name = upload.name().to_owned();
            connection = upload.close()?;
            let cpu_of_sync = match (server.protocol(), server.file(&name)) {
                (Protocol::Tus, Some(file)) => sync(&file)?,
                _ => Cpu::default(),
            };
            done.push(Done { name, milliseconds: start.elapsed().as_secs_f64() * 1e3, cpu_of_sync });
        }
        Ok(done)
    }
}

/// One upload of a run.
struct Done {
    /// Of its file.
    name: String,
    milliseconds: f64,
    /// Where the load generator synced it.
    cpu_of_sync: Cpu,
}

/// The program that does the least.
struct Floor {
    process: Child,
    runs: ChildStdin,
    seconds: BufReader<ChildStdout>,
}

impl Floor {
    fn folder(setting: &Setting) -> PathBuf {
        setting.folder.join("floor")
    }

    fn start(setting: &Setting, load: &Small, uploads: usize) -> Result<Self> {
        let folder = Self::folder(setting);
        super::peer::remove(&folder)?;
        let mut command = Command::new(&setting.programs.floor);
        command.arg("floor").arg("--folder").arg(folder).args(["--uploads", &uploads.to_string()]);
        command.args(["--bytes", &load.bytes.to_string(), "--at-once", &load.at_once.to_string()]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (runs, seconds) = (process.stdin.take(), process.stdout.take());
        let (runs, seconds) = (runs.ok_or("it has no input")?, seconds.ok_or("it has no output")?);
        Ok(Self { process, runs, seconds: BufReader::new(seconds) })
    }

    fn run(&mut self, uploads: usize, result: Option<&mut SmallResult>) -> Result<()> {
        let cpu_before = measure::cpu(self.process.id())?;
        self.runs.write_all(b"\n")?;
        let mut seconds = String::new();
        self.seconds.read_line(&mut seconds)?;
        let seconds = seconds.trim().parse().map_err(|_| "the floor program has failed")?;
        let cpu = measure::cpu(self.process.id())? - cpu_before;
        if let Some(result) = result {
            result.add(uploads, seconds, cpu);
        }
        Ok(())
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // One that has ended by itself has failed its run already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[derive(Default)]
struct SmallResult {
    rate: Samples,
    cpu: CpuSamples,
    milliseconds: Samples,
    uploads: u64,
    requests: Requests,
}

impl SmallResult {
    fn add(&mut self, uploads: usize, seconds: f64, cpu: Cpu) {
        self.rate.push(uploads as f64 / seconds);
        self.cpu.push(cpu, 1e6 / uploads as f64);
        self.uploads += uploads as u64;
    }

    fn row(&self, name: &str, lacks: String, process: u32, (first, floor): (&Self, &Self)) -> Result<Vec<String>> {
        let mut row = vec![name.to_owned(), lacks, self.rate.show(0)];
        row.extend([50.0, 99.0, 100.0].map(|percent| format!("{:.1}", self.milliseconds.percentile(percent))));
        row.extend(self.cpu.show(0));
        row.push(mebibytes(measure::peak_memory(process)?));
        row.push(first.rate.ratio_to(&self.rate));
        row.push(self.rate.ratio_to(&floor.rate));
        row.push(self.requests.show(self.uploads));
        Ok(row)
    }
}
