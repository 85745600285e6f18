//! `cargo xtask bench`: the server beside its peers, on this machine, over loopback.
//!
//! Peers and workloads are data: [`peer::PEERS`] and [`WORKLOADS`]. Absolute figures swing with
//! the state of a machine, so the runs of peers are interleaved and the ratios are what counts.

mod load;
mod measure;
mod peer;
mod report;
pub(crate) mod sink;
mod transfer;
mod workload;

use std::path::PathBuf;

use clap::Args;

use crate::packages;
use crate::shell::{self, Result, cargo};

use report::Table;
use transfer::{Download, Ingest};
use workload::{Acks, Held, Idle, Start};

#[derive(Args)]
pub(crate) struct Options {
    /// Only this workload
    #[arg(value_parser = workload_names())]
    name: Option<String>,
    /// Runs of each peer; the first one more warms up and does not count
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..100))]
    runs: u32,
    /// Only this peer; can be given several times
    #[arg(long, value_parser = peer_names())]
    peer: Vec<String>,
    /// Measure this `bits-server` instead of building one
    #[arg(long)]
    server: Option<PathBuf>,
    /// A hundredth of the load: to see that the harness works
    #[arg(long)]
    quick: bool,
    /// Install missing system packages with apt-get
    #[arg(long)]
    install: bool,
}

/// What can be measured; new workloads go here.
const WORKLOADS: &[Workload] = &[
    Workload {
        name: "ingest",
        about: "One upload over one connection, to stable storage",
        peers: &["bits-server", "nginx", "nginx-1m", "sink"],
        load: Load::Ingest(Ingest { bytes: 1 << 30, fragment: 8 << 20 }),
    },
    Workload {
        name: "download",
        about: "One large file fetched over one connection",
        peers: &["bits-server", "nginx", "nginx-sendfile"],
        load: Load::Download(Download { bytes: 1 << 30, range: None }),
    },
    Workload {
        name: "ranges",
        about: "The same in small ranges",
        peers: &["bits-server", "nginx", "nginx-sendfile"],
        load: Load::Download(Download { bytes: 1 << 30, range: Some(64 << 10) }),
    },
    Workload {
        name: "acks",
        about: "Many connections that send small fragments as fast as acks come back",
        peers: &["bits-server", "sink"],
        load: Load::Acks(Acks { connections: 100, fragment: 64 << 10, fragments: 200 }),
    },
    Workload {
        name: "in-flight",
        about: "Memory of uploads held in the middle of a fragment",
        peers: &["bits-server"],
        load: Load::Held(Held { uploads: 200, fragment: 8 << 20, sent: 4 << 20 }),
    },
    Workload {
        name: "idle",
        about: "Memory of idle connections that have each sent a fragment before",
        peers: &["bits-server"],
        load: Load::Idle(Idle { connections: 10_000, sent: 1 << 20 }),
    },
    Workload {
        name: "start",
        about: "From start to ready with many sessions in the database",
        peers: &["bits-server"],
        load: Load::Start(Start { sessions: 100_000, with_bytes: 1_000 }),
    },
];

struct Workload {
    name: &'static str,
    about: &'static str,
    /// Names of [`peer::PEERS`]; the others are compared with the first.
    peers: &'static [&'static str],
    load: Load,
}

enum Load {
    Ingest(Ingest),
    Download(Download),
    Acks(Acks),
    Held(Held),
    Idle(Idle),
    Start(Start),
}

/// What every measurement is given.
struct Setting {
    server: PathBuf,
    /// Where peers keep their data: one file system for all.
    folder: PathBuf,
    runs: u32,
    /// Loads are divided by this.
    divisor: u64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    packages::require(packages::BENCHMARKS, options.install)?;
    let setting = Setting {
        server: options.server.clone().map_or_else(build_server, Ok)?,
        folder: shell::target_dir().join("bench"),
        runs: options.runs,
        divisor: if options.quick { 100 } else { 1 },
    };
    measure::raise_open_files(12_000)?;
    for workload in chosen(options.name.as_deref()) {
        eprintln!("{}: {}", workload.name, workload.about);
        let peers: Vec<_> = workload.peers.iter().filter(|name| options.measures(name)).copied().collect();
        let table = workload.run(&setting, &peers)?;
        let report = report::render(workload, &setting, &table)?;
        println!("{report}");
        if !options.quick && options.peer.is_empty() {
            report::save(workload.name, &report)?;
        }
    }
    Ok(())
}

impl Workload {
    fn run(&self, setting: &Setting, peers: &[&str]) -> Result<Table> {
        match &self.load {
            Load::Ingest(load) => load.run(setting, peers),
            Load::Download(load) => load.run(setting, peers),
            Load::Acks(load) => load.run(setting, peers),
            Load::Held(load) => load.run(setting, peers),
            Load::Idle(load) => load.run(setting, peers),
            Load::Start(load) => load.run(setting, peers),
        }
    }
}

impl Options {
    fn measures(&self, peer: &str) -> bool {
        self.peer.is_empty() || self.peer.iter().any(|name| name == peer)
    }
}

fn workload_names() -> Vec<&'static str> {
    WORKLOADS.iter().map(|workload| workload.name).collect()
}

fn peer_names() -> Vec<&'static str> {
    peer::PEERS.iter().map(|peer| peer.name).collect()
}

fn chosen(name: Option<&str>) -> impl Iterator<Item = &'static Workload> {
    WORKLOADS.iter().filter(move |workload| name.is_none_or(|name| name == workload.name))
}

fn build_server() -> Result<PathBuf> {
    shell::run(&mut cargo(["build", "--release", "--package", "bits-server"]))?;
    Ok(shell::target_dir().join("release/bits-server"))
}
