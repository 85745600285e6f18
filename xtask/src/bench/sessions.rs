//! How much sessions in the database cost: at the start of the server, and at each fragment.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use super::Setting;
use super::load::{Connection, Upload};
use super::measure::{self, Samples};
use super::peer::{self, Running};
use super::report::Table;
use super::servers::{NAME, in_parallel, mebibytes, numbered};
use crate::shell::{self, Result};

/// One upload of many fragments, with few sessions in the database and with many.
pub(crate) struct Crowd {
    pub(crate) sessions: u32,
    pub(crate) fragment: u64,
    /// Of the upload.
    pub(crate) fragments: u64,
    /// As many fragments are one sample.
    pub(crate) window: u64,
}

/// Sessions in a database that has few.
const FEW: usize = 10;
/// The first fragment of the first sample.
const FIRST: u64 = 10;

impl Crowd {
    pub(crate) fn run(&self, setting: &Setting, peers: &[&str]) -> Result<Table> {
        let sessions = self.sessions / u32::try_from(setting.divisor)?;
        let fragments = (self.fragments / setting.divisor).max(4 * FIRST);
        let window = self.window.min(fragments / 4);
        let measure = |server| self.measure(setting, server, sessions, (fragments, window));
        let (rows, settings) = of_each(setting, peers, measure)?;
        Ok(Table {
            notes: format!(
                "One connection, one upload of {fragments} fragments of {} KiB at a time, {} runs after one to warm \
                 up: median (least-most). The figures are of {window} fragments from the {FIRST}th on, and of the last \
                 {window} before the {fragments}th; times are the median of these. Sessions are added to the database \
                 by SQL while the server is stopped.",
                self.fragment >> 10,
                setting.runs
            ),
            columns: vec![
                "server",
                "sessions",
                "first: CPU µs/ack",
                "last: CPU µs/ack",
                "first: ms",
                "last: ms",
                "database MiB",
            ],
            rows,
            plots: Vec::new(),
            settings,
        })
    }

    fn measure(&self, setting: &Setting, server: Running, sessions: u32, load: (u64, u64)) -> Result<Vec<Vec<String>>> {
        begin(server.connect()?, &server.url_path(&numbered(0)), 1, 0)?;
        let server = server.restart_after(setting, |folder| fill(setting, folder, FEW as u32 - 1))?;
        let few = self.row(setting, &server, FEW as u32, load)?;
        // Only one session is copied: the ten are one and its copies.
        let server = server.restart_after(setting, |folder| fill(setting, folder, sessions - FEW as u32))?;
        let many = self.row(setting, &server, sessions, load)?;
        Ok(vec![few, many])
    }

    fn row(
        &self,
        setting: &Setting,
        server: &Running,
        sessions: u32,
        (fragments, window): (u64, u64),
    ) -> Result<Vec<String>> {
        let (mut first, mut last) = (Window::default(), Window::default());
        for run in 0..=setting.runs {
            let mut upload = server.create(server.connect()?, NAME, (fragments + 1) * self.fragment)?;
            self.send(&mut upload, 0..FIRST)?;
            let early = self.sample(server, &mut upload, FIRST..FIRST + window)?;
            self.send(&mut upload, FIRST + window..fragments - window)?;
            let late = self.sample(server, &mut upload, fragments - window..fragments)?;
            self.send(&mut upload, fragments..fragments + 1)?;
            upload.close()?;
            server.delete(&[NAME.to_owned()])?;
            if run > 0 {
                first.add(&early);
                last.add(&late);
            }
        }
        let size = server.folder().join("state.db").metadata().map_or(0, |file| file.len());
        Ok(vec![
            server.name().to_owned(),
            sessions.to_string(),
            first.cpu.show(0),
            last.cpu.show(0),
            first.milliseconds.show(2),
            last.milliseconds.show(2),
            mebibytes(size),
        ])
    }

    /// Processor time in µs for each ack, and milliseconds of all.
    fn sample(&self, server: &Running, upload: &mut Upload, numbers: std::ops::Range<u64>) -> Result<(f64, Samples)> {
        let count = (numbers.end - numbers.start) as f64;
        let before = measure::cpu(server.process())?;
        let times = self.send(upload, numbers)?;
        let cpu = measure::cpu(server.process())? - before;
        Ok((cpu.total().as_secs_f64() * 1e6 / count, times))
    }

    fn send(&self, upload: &mut Upload, numbers: std::ops::Range<u64>) -> Result<Samples> {
        let mut times = Samples::default();
        for number in numbers {
            let start = Instant::now();
            upload.fragment(number * self.fragment, self.fragment)?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        Ok(times)
    }
}

#[derive(Default)]
struct Window {
    cpu: Samples,
    milliseconds: Samples,
}

impl Window {
    fn add(&mut self, (cpu, milliseconds): &(f64, Samples)) {
        self.cpu.push(*cpu);
        self.milliseconds.push(milliseconds.median());
    }
}

fn fill(setting: &Setting, folder: &Path, sessions: u32) -> Result<()> {
    let mut fill = Command::new(&setting.programs.floor);
    fill.arg("fill").arg("--database").arg(folder.join("state.db")).args(["--sessions", &sessions.to_string()]);
    shell::run(&mut fill)
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
        let (rows, settings) = of_each(setting, peers, |server| self.measure(setting, server, sessions))?;
        Ok(Table {
            notes: format!(
                "{sessions} sessions in the database, up to {} of them with bytes on disk; {} starts until /readyz \
                 answers 200: median (least-most).",
                self.with_bytes, setting.runs
            ),
            columns: vec!["server", "empty: ms", "full: ms", "peak MiB"],
            rows,
            plots: Vec::new(),
            settings,
        })
    }

    fn measure(&self, setting: &Setting, server: Running, sessions: usize) -> Result<Vec<Vec<String>>> {
        let (server, empty) = restarts(server, setting)?;
        self.fill(&server, sessions)?;
        let (server, full) = restarts(server, setting)?;
        let peak = mebibytes(measure::peak_memory(server.process())?);
        Ok(vec![vec![server.name().to_owned(), empty.show(0), full.show(0), peak]])
    }

    fn fill(&self, server: &Running, sessions: usize) -> Result<()> {
        const EACH: usize = 100;
        const SENT: u64 = 4096;
        in_parallel(sessions.div_ceil(EACH), |batch| {
            let mut connection = server.connect()?;
            for number in batch * EACH..sessions.min((batch + 1) * EACH) {
                let sent = if number < self.with_bytes { SENT } else { 0 };
                connection = begin(connection, &server.url_path(&numbered(number)), 2 * SENT, sent)?;
            }
            Ok(())
        })?;
        Ok(())
    }
}

fn restarts(mut server: Running, setting: &Setting) -> Result<(Running, Samples)> {
    let mut milliseconds = Samples::default();
    for _ in 0..setting.runs {
        server = server.restart_after(setting, |_| Ok(()))?;
        milliseconds.push(server.ready_after.as_secs_f64() * 1e3);
    }
    Ok((server, milliseconds))
}

/// Rows of each server, and what each was told.
#[expect(clippy::type_complexity, reason = "the two halves of a table")]
fn of_each(
    setting: &Setting,
    peers: &[&str],
    measure: impl Fn(Running) -> Result<Vec<Vec<String>>>,
) -> Result<(Vec<Vec<String>>, Vec<(&'static str, String)>)> {
    let (mut rows, mut settings) = (Vec::new(), Vec::new());
    for peer in peers {
        let server = peer::start(setting, peer)?;
        settings.push((server.name(), server.settings().to_owned()));
        rows.extend(measure(server)?);
    }
    Ok((rows, settings))
}

/// Begins an upload and leaves it with as many bytes sent.
fn begin(connection: Connection, path: &str, total: u64, sent: u64) -> Result<Connection> {
    let mut upload = connection.create(path, total)?;
    if sent > 0 {
        upload.fragment(0, sent)?;
    }
    Ok(upload.abandon())
}
