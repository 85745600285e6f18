//! What a process has used, as the kernel counts it; and what many measurements amount to.

use std::collections::BTreeMap;
use std::fs;
use std::ops::{Add, Sub};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::shell::Result;

/// Lets this process and its children open as many files as the system allows; an error if those
/// are fewer than `least`.
pub(crate) fn raise_open_files(least: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|maximum| maximum < least) {
        return Err(format!("{least} open files are needed: raise the hard limit with `ulimit -Hn {least}`").into());
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).map_err(|error| format!("cannot raise the limit of open files: {error}").into())
}

/// Processor time.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cpu {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
}

impl Cpu {
    pub(crate) fn total(self) -> Duration {
        self.user + self.system
    }
}

impl Add for Cpu {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { user: self.user + other.user, system: self.system + other.system }
    }
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { user: self.user.saturating_sub(other.user), system: self.system.saturating_sub(other.system) }
    }
}

/// Processor time of a process, its ended children, and its living ones.
pub(crate) fn cpu(process: u32) -> Result<Cpu> {
    let stat = read(process, "stat")?;
    // The second field is a name in parentheses; the times are fields 14 to 17 of all.
    let fields: Vec<_> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = fields.get(11..15).ok_or("unexpected format of /proc/PID/stat")?;
    let ticks = ticks.iter().map(|field| field.parse::<u64>()).collect::<std::result::Result<Vec<_>, _>>()?;
    let time = |ticks| {
        Ok::<_, std::num::TryFromIntError>(
            Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second())?,
        )
    };
    let own = Cpu { user: time(ticks[0] + ticks[2])?, system: time(ticks[1] + ticks[3])? };
    children(process)?.into_iter().try_fold(own, |sum, child| Ok(sum + cpu(child)?))
}

/// Processor time of the calling thread. What it is used for is the system's work alone.
pub(crate) fn own_cpu() -> Cpu {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let system = Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32);
    Cpu { user: Duration::ZERO, system }
}

/// Memory in use by a process and its children, in bytes.
pub(crate) fn memory(process: u32) -> Result<u64> {
    status_field(process, "VmRSS:")
}

/// The most memory that a process and its children ever used, in bytes.
pub(crate) fn peak_memory(process: u32) -> Result<u64> {
    status_field(process, "VmHWM:")
}

fn status_field(process: u32, name: &str) -> Result<u64> {
    let status = read(process, "status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such field in /proc/PID/status")?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    children(process)?.into_iter().try_fold(kibibytes << 10, |sum, child| Ok(sum + status_field(child, name)?))
}

fn children(process: u32) -> Result<Vec<u32>> {
    let listed = read(process, &format!("task/{process}/children"))?;
    Ok(listed.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>()?)
}

fn read(process: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{process}/{file}");
    fs::read_to_string(&path).map_err(|error| format!("cannot read {path}: {error}; did the server stop?").into())
}

/// Several measurements of one thing.
#[derive(Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn median(&self) -> f64 {
        self.percentile(50.0)
    }

    /// The smallest sample that `percent` of all samples do not exceed; 0 without samples.
    pub(crate) fn percentile(&self, percent: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    pub(crate) fn least(&self) -> f64 {
        self.percentile(0.0)
    }

    pub(crate) fn most(&self) -> f64 {
        self.percentile(100.0)
    }

    /// This median as a multiple of another; what was too short to be measured has none.
    pub(crate) fn ratio_to(&self, other: &Self) -> String {
        let ratio = self.median() / other.median();
        if ratio.is_finite() { format!("{ratio:.2}") } else { "–".to_owned() }
    }

    /// The median with the smallest and the largest.
    pub(crate) fn show(&self, decimals: usize) -> String {
        format!("{:.decimals$} ({:.decimals$}-{:.decimals$})", self.median(), self.least(), self.most())
    }
}

/// Processor time of several runs, for each unit of work.
#[derive(Default)]
pub(crate) struct CpuSamples {
    pub(crate) total: Samples,
    user: Samples,
    system: Samples,
}

impl CpuSamples {
    /// What a run used; times `scale`, its seconds are of the unit that is shown.
    pub(crate) fn push(&mut self, cpu: Cpu, scale: f64) {
        self.total.push(cpu.total().as_secs_f64() * scale);
        self.user.push(cpu.user.as_secs_f64() * scale);
        self.system.push(cpu.system.as_secs_f64() * scale);
    }

    /// The total with its range, and the medians of its parts.
    pub(crate) fn show(&self, decimals: usize) -> [String; 3] {
        let part = |samples: &Samples| format!("{:.decimals$}", samples.median());
        [self.total.show(decimals), part(&self.user), part(&self.system)]
    }
}

/// Requests to an object store, by their kind.
#[derive(Clone, Default)]
pub(crate) struct Requests(BTreeMap<String, u64>);

impl Requests {
    /// Those that the metrics of `bits-server` count.
    pub(crate) fn parse(metrics: &str) -> Self {
        const NAME: &str = "bits_object_store_requests_total{request=\"";
        let counts = metrics.lines().filter_map(|line| line.strip_prefix(NAME)?.split_once("\"} "));
        Self(counts.filter_map(|(kind, count)| Some((kind.to_owned(), count.parse().ok()?))).collect())
    }

    /// Adds what was counted from `before` to `after`.
    pub(crate) fn add(&mut self, before: &Self, after: &Self) {
        for (kind, count) in &after.0 {
            *self.0.entry(kind.clone()).or_default() += count - before.0.get(kind).unwrap_or(&0);
        }
    }

    /// How many each of so many uploads took.
    pub(crate) fn show(&self, uploads: u64) -> String {
        let made = self.0.iter().filter(|(_, count)| **count > 0);
        let shown: Vec<_> =
            made.map(|(kind, count)| format!("{:.2} {kind}", *count as f64 / uploads.max(1) as f64)).collect();
        if shown.is_empty() { "–".to_owned() } else { shown.join(", ") }
    }
}

impl Extend<f64> for Samples {
    fn extend<T: IntoIterator<Item = f64>>(&mut self, values: T) {
        self.0.extend(values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let mut samples = Samples::default();
        samples.extend([5.0, 1.0, 4.0, 2.0, 3.0]);
        let found = [0.0, 20.0, 21.0, 50.0, 99.0, 100.0].map(|percent| samples.percentile(percent));
        assert_eq!(found, [1.0, 1.0, 2.0, 3.0, 5.0, 5.0]);
        assert_eq!(samples.show(1), "3.0 (1.0-5.0)");
    }

    #[test]
    fn requests_are_counted_for_each_upload() {
        let before = Requests::parse("bits_object_store_requests_total{request=\"put\"} 2\nother{request=\"put\"} 9\n");
        let after = Requests::parse(
            "# TYPE x counter\nbits_object_store_requests_total{request=\"put\"} 5\n\
             bits_object_store_requests_total{request=\"head\"} 1\n",
        );
        let mut requests = Requests::default();
        requests.add(&before, &after);
        assert_eq!(requests.show(2), "0.50 head, 1.50 put");
        assert_eq!(Requests::default().show(0), "–");
    }

    #[test]
    fn the_kernel_is_understood() {
        let process = std::process::id();
        let before = own_cpu();
        let spun = (0..3_000_000_u64).fold(0, |sum: u64, n| std::hint::black_box(sum ^ n));
        assert!(own_cpu().system > before.system, "{spun}");
        assert!(cpu(process).unwrap().total() < Duration::from_secs(3600));
        let (now, peak) = (memory(process).unwrap(), peak_memory(process).unwrap());
        assert!(now > 1 << 20 && now <= peak + (1 << 20), "{now} {peak}");
    }
}
