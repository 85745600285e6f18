//! `cargo xtask bench`: the server beside its peers, on this machine, over loopback.
//!
//! Peers and workloads are data: [`peer::PEERS`] and [`WORKLOADS`]. Absolute figures swing with
//! the state of a machine, so the runs of peers are interleaved and the ratios are what counts.

mod acks;
mod backing;
mod command;
mod load;
mod measure;
mod memory;
mod peer;
mod plot;
mod programs;
mod report;
mod servers;
mod sessions;
pub(crate) mod sink;
mod small;
mod transfer;

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use clap::Args;

use crate::shell::{self, Result};

use acks::Acks;
use backing::Backing;
use memory::{Held, Idle};
use programs::Programs;
use report::Table;
use sessions::{Crowd, Start};
use small::Small;
use transfer::{Download, Ingest};

#[derive(Args)]
pub(crate) struct Options {
    /// Only these workloads
    #[arg(value_parser = workload_names())]
    names: Vec<String>,
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
    /// Get what is missing: system packages with apt-get, other servers with cargo and npm
    #[arg(long)]
    install: bool,
}

/// The server with each kind of store. Loads are small: the S3 store keeps everything in memory,
/// deleted objects for a while too.
const STORES: &[&str] = &["bits-server", "bits-fragment", "postgres", "postgres-fragment", "postgres-s3"];

/// What can be measured; new workloads go here.
const WORKLOADS: &[Workload] = &[
    Workload {
        name: "ingest",
        about: "One upload over one connection, to stable storage",
        peers: &["bits-server", "nginx", "nginx-1m", "hyper-file", "rustus", "tus-node", "hyper-drop", "sink"],
        most_runs: 5,
        load: Load::Ingest(Ingest { bytes: 1 << 30, fragment: 8 << 20 }),
    },
    Workload {
        name: "ingest-4g",
        about: "The same, four times as large",
        peers: &["bits-server", "bits-fragment", "nginx-1m", "hyper-file"],
        most_runs: 3,
        load: Load::Ingest(Ingest { bytes: 4 << 30, fragment: 8 << 20 }),
    },
    Workload {
        name: "download",
        about: "One large file fetched over one connection",
        peers: &["bits-server", "nginx", "nginx-sendfile", "sink"],
        most_runs: 5,
        load: Load::Download(Download { bytes: 1 << 30, range: None }),
    },
    Workload {
        name: "ranges",
        about: "The same in small ranges",
        peers: &["bits-server", "nginx", "nginx-sendfile", "sink"],
        most_runs: 5,
        load: Load::Download(Download { bytes: 1 << 30, range: Some(64 << 10) }),
    },
    Workload {
        name: "acks",
        about: "Many connections that send small fragments",
        peers: &["bits-server", "bits-fragment", "sink"],
        most_runs: 5,
        load: Load::Acks(Acks { connections: 100, fragment: 64 << 10, fragments: 200, fixed_rate: true }),
    },
    Workload {
        name: "fleet",
        about: "Many uploads at once",
        peers: &["bits-server", "bits-fragment", "rustus", "tus-node", "sink"],
        most_runs: 3,
        load: Load::Acks(Acks { connections: 100, fragment: 1 << 20, fragments: 16, fixed_rate: false }),
    },
    Workload {
        name: "small",
        about: "Small uploads, whole sessions each, to stable storage",
        peers: &["bits-server", "bits-fragment", "rustus", "tus-node", "sink"],
        most_runs: 5,
        load: Load::Small(Small { uploads: 2000, bytes: 8 << 10, at_once: 64 }),
    },
    Workload {
        name: "ingest-stores",
        about: "One upload over one connection, to each kind of store",
        peers: STORES,
        most_runs: 3,
        load: Load::Ingest(Ingest { bytes: 256 << 20, fragment: 8 << 20 }),
    },
    Workload {
        name: "acks-stores",
        about: "Many connections that send small fragments, to each kind of store",
        peers: STORES,
        most_runs: 2,
        load: Load::Acks(Acks { connections: 100, fragment: 64 << 10, fragments: 20, fixed_rate: true }),
    },
    Workload {
        name: "fleet-stores",
        about: "Many uploads at once, to each kind of store",
        peers: STORES,
        most_runs: 2,
        load: Load::Acks(Acks { connections: 50, fragment: 1 << 20, fragments: 6, fixed_rate: false }),
    },
    Workload {
        name: "small-stores",
        about: "Small uploads, whole sessions each, to each kind of store",
        peers: STORES,
        most_runs: 3,
        load: Load::Small(Small { uploads: 1000, bytes: 8 << 10, at_once: 64 }),
    },
    Workload {
        name: "download-stores",
        about: "One large file fetched over one connection, from each kind of store",
        peers: &["bits-server", "postgres", "postgres-s3"],
        most_runs: 3,
        load: Load::Download(Download { bytes: 256 << 20, range: None }),
    },
    Workload {
        name: "ranges-stores",
        about: "The same in small ranges",
        peers: &["bits-server", "postgres", "postgres-s3"],
        most_runs: 3,
        load: Load::Download(Download { bytes: 64 << 20, range: Some(64 << 10) }),
    },
    Workload {
        name: "in-flight",
        about: "Memory of uploads held in the middle of a fragment",
        // An object store takes no more than `storage.memory` of them.
        peers: &["bits-server", "bits-fragment", "postgres"],
        most_runs: 1,
        load: Load::Held(Held { uploads: 200, fragment: 8 << 20, sent: 4 << 20 }),
    },
    Workload {
        name: "idle",
        about: "Memory of idle connections that have each sent a fragment before",
        peers: &["bits-server", "bits-fragment", "postgres"],
        most_runs: 1,
        load: Load::Idle(Idle { connections: 10_000, sent: 1 << 20 }),
    },
    Workload {
        name: "start",
        about: "From start to ready with many sessions in the database",
        peers: &["bits-server"],
        most_runs: 5,
        load: Load::Start(Start { sessions: 100_000, with_bytes: 1_000 }),
    },
    Workload {
        name: "crowd",
        about: "A fragment early and late in its upload, with few sessions in the database and with many",
        peers: &["bits-server"],
        most_runs: 3,
        load: Load::Crowd(Crowd { sessions: 5_000_000, fragment: 4 << 10, fragments: 10_000, window: 1_000 }),
    },
];

struct Workload {
    name: &'static str,
    about: &'static str,
    /// Names of [`peer::PEERS`]; the others are compared with the first.
    peers: &'static [&'static str],
    /// More would take too long.
    most_runs: u32,
    load: Load,
}

enum Load {
    Ingest(Ingest),
    Download(Download),
    Acks(Acks),
    Small(Small),
    Held(Held),
    Idle(Idle),
    Start(Start),
    Crowd(Crowd),
}

/// What every measurement is given.
struct Setting {
    programs: Rc<Programs>,
    backing: Rc<Backing>,
    /// Where peers keep their data: one file system for all.
    folder: PathBuf,
    runs: u32,
    /// Loads are divided by this.
    divisor: u64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let programs = Rc::new(programs::require(options.server.clone(), options.install)?);
    measure::raise_open_files(12_000)?;
    let names: Vec<_> = chosen(&options.names).flat_map(|workload| options.peers_of(workload)).collect();
    let backing = Rc::new(Backing::start(&peer::stores_of(&names))?);
    for workload in chosen(&options.names) {
        eprintln!("{}: {}", workload.name, workload.about);
        let setting = Setting {
            programs: programs.clone(),
            backing: backing.clone(),
            folder: shell::target_dir().join("bench"),
            runs: options.runs.min(workload.most_runs),
            divisor: if options.quick { 100 } else { 1 },
        };
        let peers = options.peers_of(workload);
        if peers.is_empty() {
            continue;
        }
        let started = Instant::now();
        let table = workload.run(&setting, &peers)?;
        eprintln!("  ({:.0} s)", started.elapsed().as_secs_f64());
        let report = report::render(workload, &setting, &table)?;
        println!("{report}");
        if !options.quick && options.peer.is_empty() {
            report::save(workload.name, &report, &table)?;
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
            Load::Small(load) => load.run(setting, peers),
            Load::Held(load) => load.run(setting, peers),
            Load::Idle(load) => load.run(setting, peers),
            Load::Start(load) => load.run(setting, peers),
            Load::Crowd(load) => load.run(setting, peers),
        }
    }
}

impl Options {
    fn peers_of(&self, workload: &Workload) -> Vec<&'static str> {
        let measured = |peer: &&&str| self.peer.is_empty() || self.peer.iter().any(|name| name == **peer);
        workload.peers.iter().filter(measured).copied().collect()
    }
}

fn workload_names() -> Vec<&'static str> {
    WORKLOADS.iter().map(|workload| workload.name).collect()
}

fn peer_names() -> Vec<&'static str> {
    peer::PEERS.iter().map(|peer| peer.name).collect()
}

fn chosen(names: &[String]) -> impl Iterator<Item = &'static Workload> {
    WORKLOADS.iter().filter(|workload| names.is_empty() || names.iter().any(|name| name == workload.name))
}
