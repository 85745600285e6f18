//! What workloads share: servers, uploads, threads.

use std::thread;

use super::Setting;
use super::load::Upload;
use super::peer::{self, Running};
use crate::shell::Result;

pub(super) const MIB: f64 = (1 << 20) as f64;

/// The name of an upload that is alone.
pub(super) const NAME: &str = "upload.bin";

pub(super) fn numbered(number: usize) -> String {
    format!("upload-{number}.bin")
}

pub(super) fn mebibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / MIB)
}

pub(super) fn start_all(setting: &Setting, peers: &[&str]) -> Result<Vec<Running>> {
    peers.iter().map(|name| peer::start(setting, name)).collect()
}

/// Which server is next in a run, of so many. What one leaves to the next, such as a busy disk or full
/// memory, is not always the same one's to bear.
pub(super) fn order(run: u32, servers: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..servers).collect();
    order.rotate_left(run as usize % servers);
    if run % 2 == 1 {
        order.reverse();
    }
    order
}

/// What the servers were told, for the report.
pub(super) fn settings_of(servers: &[Running]) -> Vec<(&'static str, String)> {
    servers.iter().map(|server| (server.name(), server.settings().to_owned())).collect()
}

/// Begins uploads of `total` bytes each, over as many connections.
pub(super) fn create_all(server: &Running, count: usize, total: u64) -> Result<Vec<Upload>> {
    (0..count).map(|number| server.create(server.connect()?, &numbered(number), total)).collect()
}

/// Does `work` for each number below `count`, on as many threads as keep a server busy.
pub(super) fn in_parallel<T: Send>(count: usize, work: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    const THREADS: usize = 32;
    let share = |thread| (thread..count).step_by(THREADS).map(&work).collect::<Result<Vec<_>>>();
    Ok(join_all(THREADS, share)?.into_iter().flatten().collect())
}

/// Does `work` for each number below `threads`, all at once.
pub(super) fn join_all<T: Send>(threads: usize, work: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    let work = &work;
    thread::scope(|scope| {
        let start = |number| scope.spawn(move || work(number).map_err(|error| error.to_string()));
        let threads: Vec<_> = (0..threads).map(start).collect();
        threads.into_iter().map(|thread| flatten(thread.join())).collect()
    })
}

/// What a thread ended with.
pub(super) fn join<T>(thread: thread::JoinHandle<std::result::Result<T, String>>) -> Result<T> {
    flatten(thread.join())
}

fn flatten<T>(ended: thread::Result<std::result::Result<T, String>>) -> Result<T> {
    Ok(ended.map_err(|_| "a thread of the load generator panicked")??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_has_several_before_it() {
        let before = |server, run| {
            let order = order(run, 4);
            assert!((0..4).all(|server| order.contains(&server)), "{order:?}");
            order.iter().position(|next| *next == server).unwrap().checked_sub(1).map(|place| order[place])
        };
        for server in 0..4 {
            let before: std::collections::HashSet<_> = (0..4).map(|run| before(server, run)).collect();
            assert!(before.len() > 1, "{server}: {before:?}");
        }
        assert_eq!(order(3, 1), [0]);
    }
}
