//! Many uploads at once in fragments: as fast as acks come back, and at a fixed rate.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use super::Setting;
use super::load::Upload;
use super::measure::{self, CpuSamples, Requests, Samples};
use super::peer::Running;
use super::plot::Plot;
use super::report::Table;
use super::servers::{MIB, create_all, join, mebibytes, order, settings_of, start_all};
use crate::shell::Result;

/// The share of the highest rate that the fixed rate is.
const SHARE: f64 = 0.7;

pub(crate) struct Acks {
    pub(crate) connections: usize,
    pub(crate) fragment: u64,
    /// Of each connection.
    pub(crate) fragments: u64,
    /// Measured at a fixed rate, too.
    pub(crate) fixed_rate: bool,
}

impl Acks {
    pub(crate) fn run(&self, setting: &Setting, peers: &[&str]) -> Result<Table> {
        let fragments = (self.fragments / setting.divisor).max(2);
        let servers = start_all(setting, peers)?;
        let mut results: Vec<_> = servers.iter().map(|_| AcksResult::default()).collect();
        for run in 0..=setting.runs {
            for next in order(run, servers.len()) {
                let result = (run > 0).then_some(&mut results[next].free);
                self.upload(&servers[next], fragments, None, result)?;
            }
        }
        for _ in 0..if self.fixed_rate { setting.runs } else { 0 } {
            for (server, result) in servers.iter().zip(&mut results) {
                let rate = result.free.rate.median() * SHARE;
                self.upload(server, fragments, Some(rate), Some(&mut result.paced))?;
            }
        }
        let rows = servers.iter().zip(&results).map(|(server, result)| self.row(server, result, &results[0]));
        let each = || servers.iter().zip(&results);
        let free = Plot::new("acks/s", each().map(|(server, result)| (server.name(), &result.free.rate)));
        let cpu = Plot::new("CPU µs/ack", each().map(|(server, result)| (server.name(), &result.free.cpu.total)));
        Ok(Table {
            notes: self.notes(fragments, setting.runs),
            columns: self.columns(),
            rows: rows.collect::<Result<_>>()?,
            plots: vec![free, cpu],
            settings: settings_of(&servers),
        })
    }

    fn notes(&self, fragments: u64, runs: u32) -> String {
        let mut notes = format!(
            "{} connections, each with an upload of {fragments} fragments of {} KiB, {runs} interleaved runs after \
             one to warm up: median (least-most). Times are from the first byte of a fragment to its ack, all runs \
             together, and include the last ack of each upload, for which bits-server waits for stable storage; the \
             others do not sync.",
            self.connections,
            self.fragment >> 10,
        );
        if self.fixed_rate {
            notes += &format!(
                " The columns \"at {:.0} %\" are of as many runs at that share of the server's own median rate, where \
                 each fragment has its time to start: a late one is counted from there, however late it could be sent.",
                SHARE * 100.0
            );
        }
        notes
    }

    fn columns(&self) -> Vec<&'static str> {
        let mut columns = vec!["server", "does not", "acks/s", "MiB/s", "p50 ms", "p99 ms", "longest ms"];
        columns.extend(["CPU µs/ack", "user", "system"]);
        if self.fixed_rate {
            columns.extend(["at 70 %: acks/s", "p50 ms", "p99 ms", "longest ms"]);
        }
        columns.extend(["peak MiB", "first's rate ÷ its", "first's CPU ÷ its", "requests to its store, each upload"]);
        columns
    }

    fn row(&self, server: &Running, result: &AcksResult, first: &AcksResult) -> Result<Vec<String>> {
        let (free, first) = (&result.free, &first.free);
        let mut row = vec![server.name().to_owned(), server.lacks(), free.rate.show(0)];
        row.push(format!("{:.0}", free.rate.median() * self.fragment as f64 / MIB));
        row.extend(free.times());
        row.extend(free.cpu.show(0));
        if self.fixed_rate {
            row.push(format!("{:.0}", result.paced.rate.median()));
            row.extend(result.paced.times());
        }
        row.push(mebibytes(measure::peak_memory(server.process())?));
        row.push(first.rate.ratio_to(&free.rate));
        row.push(first.cpu.total.ratio_to(&free.cpu.total));
        row.push(free.requests.show(free.uploads));
        Ok(row)
    }

    /// Sends all uploads; `rate` is fragments per second of all together.
    fn upload(&self, server: &Running, fragments: u64, rate: Option<f64>, result: Option<&mut Run>) -> Result<()> {
        let uploads = create_all(server, self.connections, fragments * self.fragment)?;
        let names: Vec<_> = uploads.iter().map(|upload| upload.name().to_owned()).collect();
        let requests_before = server.store_requests()?;
        let cpu_before = measure::cpu(server.process())?;
        let ready = Arc::new(Barrier::new(self.connections + 1));
        let threads: Vec<_> = uploads
            .into_iter()
            .zip(0_u32..)
            .map(|(upload, number)| {
                let (ready, fragment, connections) = (ready.clone(), self.fragment, self.connections);
                thread::spawn(move || {
                    ready.wait();
                    let pace = rate.map(|rate| Pace::new(connections as f64 / rate, number, connections));
                    timed(upload, fragment, fragments, pace).map_err(|error| error.to_string())
                })
            })
            .collect();
        ready.wait();
        let started = Instant::now();
        let times = threads.into_iter().map(join).collect::<Result<Vec<_>>>()?.concat();
        let elapsed = started.elapsed();
        let cpu = measure::cpu(server.process())? - cpu_before;
        if let Some(result) = result {
            result.rate.push(times.len() as f64 / elapsed.as_secs_f64());
            result.cpu.push(cpu, 1e6 / times.len() as f64);
            result.milliseconds.extend(times);
            result.uploads += names.len() as u64;
            result.requests.add(&requests_before, &server.store_requests()?);
        }
        server.delete(&names)
    }
}

/// When each fragment of one connection is to be sent.
struct Pace {
    first: Instant,
    interval: Duration,
}

impl Pace {
    /// Connections begin one after the other, so that their fragments are spread evenly.
    fn new(interval: f64, number: u32, connections: usize) -> Self {
        let interval = Duration::from_secs_f64(interval);
        Self { first: Instant::now() + interval.mul_f64(f64::from(number) / connections as f64), interval }
    }

    /// Waits for the time of a fragment, if it is not past; that time.
    fn wait(&self, number: u64) -> Instant {
        let time = self.first + self.interval.mul_f64(number as f64);
        thread::sleep(time.saturating_duration_since(Instant::now()));
        time
    }
}

/// Sends the whole upload; the milliseconds until each ack.
fn timed(mut upload: Upload, fragment: u64, fragments: u64, pace: Option<Pace>) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for number in 0..fragments {
        let start = pace.as_ref().map_or_else(Instant::now, |pace| pace.wait(number));
        upload.fragment(number * fragment, fragment)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    upload.close()?;
    Ok(times)
}

#[derive(Default)]
struct AcksResult {
    free: Run,
    paced: Run,
}

#[derive(Default)]
struct Run {
    rate: Samples,
    milliseconds: Samples,
    cpu: CpuSamples,
    uploads: u64,
    requests: Requests,
}

impl Run {
    fn times(&self) -> [String; 3] {
        [50.0, 99.0, 100.0].map(|percent| format!("{:.1}", self.milliseconds.percentile(percent)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_fragment_is_counted_from_when_it_was_to_start() {
        let pace = Pace::new(0.004, 1, 2);
        let second = pace.wait(1);
        assert_eq!(second - pace.first, Duration::from_millis(4));
        assert!(Instant::now() >= second);
        thread::sleep(Duration::from_millis(20));
        assert_eq!(pace.wait(2) - pace.first, Duration::from_millis(8), "it is not put off");
    }
}
