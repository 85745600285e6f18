//! What a fragment costs the server in instructions, which callgrind counts: a figure that hardly depends on
//! what else the machine does. `cargo xtask ci cost` runs it.
//!
//! The whole server is counted, on all its threads, from the bytes of a head to those of its ack, as the tests build
//! it. callgrind plays the same processor on every machine of an architecture.
#![allow(missing_docs, reason = "the macros of gungraun document nothing")]
#![allow(clippy::unwrap_used, reason = "a benchmark ends where something unforeseen happens")]

mod figure;

use std::{env, fs, net::TcpListener, path::Path, process};

use gungraun::{BinaryBenchmarkConfig, Callgrind, Command, EventKind, binary_benchmark, binary_benchmark_group, main};
use rustix::process::{Pid, Signal, kill_process};
use tests::{Upload, server_binary, wait_until};

use figure::{COUNTED, FIGURE};

/// Growth of more per cent fails.
const GROWTH: u64 = 10;
/// Fragments that fill caches and prepare statements.
const BEFORE: u64 = 50;
/// Bytes of a fragment.
const SIZE: u64 = 64 << 10;

/// The server's configuration and data.
const FOLDER: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/fragment");
/// What tells the server its address, and the client too.
const LISTEN: &str = "BITS__LISTEN";
/// What `vgdb` finds the server by. The rest of the environment is not passed on.
const NAMES: [&str; 5] = ["HOST", "HOSTNAME", "LOGNAME", "TMPDIR", "USER"];

main!(binary_benchmark_groups = cost);
binary_benchmark_group!(name = cost, benchmarks = server);

// The server, which ends when the client is done.
#[binary_benchmark(config = config(), setup = send())]
fn server() -> Command {
    // Not there the first time.
    let _ = fs::remove_dir_all(FOLDER);
    fs::create_dir_all(FOLDER).unwrap();
    let file = Path::new(FOLDER).join("bits.toml");
    fs::write(&file, "data_dir = \".\"\nshutdown_grace = \"1s\"\n\n[[directories]]\nurl_path = \"/upload\"\n").unwrap();
    Command::new(server_binary()).args(["serve", "--config"]).arg(file).build()
}

fn config() -> BinaryBenchmarkConfig {
    // Quicker without caches; one file for all threads; `vgdb` sets the count to zero.
    let mut callgrind = Callgrind::with_args(["--cache-sim=no", "--separate-threads=no", "--vgdb=yes"]);
    if cfg!(target_arch = "x86_64") {
        callgrind.hard_limits([(EventKind::Ir, FIGURE * COUNTED * (100 + GROWTH) / 100)]);
    }
    let [uploads, admin] = free_addresses();
    let mut config = BinaryBenchmarkConfig::default();
    config.env(LISTEN, uploads).env("BITS__ADMIN__LISTEN", admin).pass_through_envs(NAMES);
    config.setup_parallel(true).tool(callgrind);
    config
}

fn free_addresses() -> [String; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().to_string())
}

/// The client: gungraun runs it in a process of its own, beside the server.
fn send() {
    let address = env::var(LISTEN).unwrap().parse().unwrap();
    let mut upload = Upload::new(address, "/upload/a", 0, ((BEFORE + COUNTED + 1) * SIZE) as usize);
    wait_until("the server listens", || upload.create().is_ok());
    let server = Server::running();
    (0..BEFORE).for_each(|_| upload.fragment(SIZE).unwrap());
    server.count_from_here();
    (0..COUNTED).for_each(|_| upload.fragment(SIZE).unwrap());
}

/// The server's process. It ends when this is dropped, so that a client that fails does not leave it behind.
struct Server(Pid);

impl Server {
    /// The one that has signed its lock.
    fn running() -> Self {
        let signed = fs::read_to_string(Path::new(FOLDER).join("lock")).unwrap();
        Self(Pid::from_raw(signed.trim().parse().unwrap()).unwrap())
    }

    fn count_from_here(&self) {
        let pid = format!("--pid={}", self.0.as_raw_nonzero());
        let status = process::Command::new("vgdb").args([&pid, "zero"]).status().unwrap();
        assert!(status.success(), "callgrind does not set its count to zero");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        kill_process(self.0, Signal::TERM).expect("the server runs");
    }
}
