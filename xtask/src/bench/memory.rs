//! Memory of uploads that stand still.

use std::thread;
use std::time::Duration;

use super::Setting;
use super::measure;
use super::peer::Running;
use super::report::Table;
use super::servers::{NAME, create_all, in_parallel, mebibytes, numbered, settings_of, start_all};
use crate::shell::Result;

/// Uploads that stop in the middle of a fragment.
pub(crate) struct Held {
    pub(crate) uploads: usize,
    pub(crate) fragment: u64,
    pub(crate) sent: u64,
}

impl Held {
    pub(crate) fn run(&self, setting: &Setting, peers: &[&str]) -> Result<Table> {
        let servers = start_all(setting, peers)?;
        let rows = servers.iter().map(|server| self.measure(server)).collect::<Result<_>>()?;
        Ok(Table {
            notes: format!(
                "{} uploads at once, each {} KiB into a fragment of {} KiB, compared with none after one whole upload.",
                self.uploads,
                self.sent >> 10,
                self.fragment >> 10
            ),
            columns: vec!["server", "none: MiB", "all: MiB", "peak MiB", "KiB per upload"],
            rows,
            plots: Vec::new(),
            settings: settings_of(&servers),
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
        let servers = start_all(setting, peers)?;
        let measured = servers.iter().map(|server| self.measure(server, connections));
        Ok(Table {
            notes: format!(
                "{connections} connections, each with an unfinished upload that {} KiB came of.",
                self.sent >> 10
            ),
            columns: vec!["server", "at start: MiB", "idle: MiB", "peak MiB", "KiB per connection"],
            rows: measured.collect::<Result<_>>()?,
            plots: Vec::new(),
            settings: settings_of(&servers),
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
