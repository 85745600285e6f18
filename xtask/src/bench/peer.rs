//! The servers that are measured, as data, and how to start and stop them.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Setting;
use super::backing::Home;
use super::command::{self, Place};
use super::load::{Connection, Upload};
use super::measure::Requests;
use crate::shell::Result;

/// A server that can be measured.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// What it does not do, of what is measured.
    lacks: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// With when it syncs.
    Bits(Stores, &'static str),
    /// WebDAV PUT, with a line of configuration.
    Nginx(&'static str),
    Rustus,
    /// @tus/server with files.
    Tus,
    /// A bare service of hyper that stores what is PUT, or drops it.
    Http {
        stores: bool,
    },
    Sink,
}

/// Where `bits-server` keeps sessions and bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stores {
    /// SQLite and the local disk.
    Local,
    /// PostgreSQL and the local disk.
    Postgres,
    /// PostgreSQL and an S3 store.
    PostgresS3,
}

const CHECKPOINT: &str = "checkpoint";
const FRAGMENT: &str = "fragment";

const NO_SYNC_STATE_RESUME: &str = "sync, state, resume";

/// All peers; new ones go here.
pub(crate) const PEERS: &[Peer] = &[
    Peer { name: "bits-server", lacks: "", kind: Kind::Bits(Stores::Local, CHECKPOINT) },
    Peer { name: "bits-fragment", lacks: "", kind: Kind::Bits(Stores::Local, FRAGMENT) },
    Peer { name: "postgres", lacks: "", kind: Kind::Bits(Stores::Postgres, CHECKPOINT) },
    Peer { name: "postgres-fragment", lacks: "", kind: Kind::Bits(Stores::Postgres, FRAGMENT) },
    // What it stores is as durable as the store makes it.
    Peer { name: "postgres-s3", lacks: "", kind: Kind::Bits(Stores::PostgresS3, CHECKPOINT) },
    Peer { name: "nginx", lacks: NO_SYNC_STATE_RESUME, kind: Kind::Nginx("") },
    Peer { name: "nginx-1m", lacks: NO_SYNC_STATE_RESUME, kind: Kind::Nginx("client_body_buffer_size 1m;") },
    Peer { name: "nginx-sendfile", lacks: NO_SYNC_STATE_RESUME, kind: Kind::Nginx("sendfile on;") },
    Peer { name: "rustus", lacks: "sync", kind: Kind::Rustus },
    Peer { name: "tus-node", lacks: "sync", kind: Kind::Tus },
    Peer { name: "hyper-file", lacks: NO_SYNC_STATE_RESUME, kind: Kind::Http { stores: true } },
    Peer { name: "hyper-drop", lacks: "file, sync, state, resume", kind: Kind::Http { stores: false } },
    Peer { name: "sink", lacks: "file, sync, state, resume", kind: Kind::Sink },
];

/// How a peer takes an upload.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Fragments; the last ack says that everything is on stable storage.
    Bits,
    /// Fragments; nothing is promised about stable storage.
    Tus,
    /// One PUT; nothing is promised about stable storage.
    Put,
}

/// A running server; stopped when dropped.
pub(crate) struct Running {
    peer: &'static Peer,
    process: Child,
    place: Place,
    settings: String,
    /// From the start of the process until it answered.
    pub(crate) ready_after: Duration,
}

/// Starts the peer of that name with an empty folder.
pub(crate) fn start(setting: &Setting, name: &str) -> Result<Running> {
    let peer = PEERS.iter().find(|peer| peer.name == name).ok_or_else(|| format!("there is no peer {name}"))?;
    let folder = setting.folder.join(name);
    remove(&folder)?;
    fs::create_dir_all(folder.join("files"))?;
    Running::start(peer, setting, folder, setting.backing.home(peer.stores())?)
}

/// Where those of these names keep what they keep.
pub(super) fn stores_of(names: &[&str]) -> Vec<Stores> {
    PEERS.iter().filter(|peer| names.contains(&peer.name)).map(Peer::stores).collect()
}

impl Peer {
    fn stores(&self) -> Stores {
        if let Kind::Bits(stores, _) = self.kind { stores } else { Stores::Local }
    }
}

impl Running {
    fn start(peer: &'static Peer, setting: &Setting, folder: PathBuf, home: Home) -> Result<Self> {
        let place = Place::new(folder, home)?;
        let command::Start { mut command, settings } = command::start(peer.kind, &setting.programs, &place)?;
        let log = File::create(place.folder.join("log"))?;
        let start = Instant::now();
        let process = command.stdout(log.try_clone()?).stderr(log).spawn();
        let process = process.map_err(|error| format!("cannot start {}: {error}", peer.name))?;
        let mut running = Self { peer, process, place, settings, ready_after: Duration::ZERO };
        running.wait_until_ready(start)?;
        running.ready_after = start.elapsed();
        Ok(running)
    }

    /// Stops the server and starts it again on the same data, after `work` was done on them.
    pub(crate) fn restart_after(self, setting: &Setting, work: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        let (peer, folder, home) = (self.peer, self.place.folder.clone(), self.place.home.clone());
        drop(self);
        work(&folder)?;
        Self::start(peer, setting, folder, home)
    }

    pub(crate) fn name(&self) -> &'static str {
        self.peer.name
    }

    /// What it does not do, for a table.
    pub(crate) fn lacks(&self) -> String {
        if self.peer.lacks.is_empty() { "–".to_owned() } else { self.peer.lacks.to_owned() }
    }

    /// What it was told, for the report.
    pub(crate) fn settings(&self) -> &str {
        &self.settings
    }

    /// Where all that it keeps is.
    pub(crate) fn folder(&self) -> &Path {
        &self.place.folder
    }

    pub(crate) fn process(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn protocol(&self) -> Protocol {
        match self.peer.kind {
            Kind::Bits(..) | Kind::Sink => Protocol::Bits,
            Kind::Rustus | Kind::Tus => Protocol::Tus,
            Kind::Nginx(_) | Kind::Http { .. } => Protocol::Put,
        }
    }

    pub(crate) fn connect(&self) -> Result<Connection> {
        Connection::open(self.place.address)
    }

    /// Begins an upload of `total` bytes over `connection`.
    pub(crate) fn create(&self, connection: Connection, name: &str, total: u64) -> Result<Upload> {
        match self.protocol() {
            Protocol::Bits => connection.create(&self.url_path(name), total),
            Protocol::Tus => connection.create_tus("/files/", total),
            Protocol::Put => Err(format!("{} takes no fragments", self.peer.name).into()),
        }
    }

    /// Where the upload `name` goes to.
    pub(crate) fn url_path(&self, name: &str) -> String {
        if let Kind::Bits(..) = self.peer.kind { format!("/upload/{name}") } else { format!("/{name}") }
    }

    /// Requests that it has made to its object store; none where it has no such store.
    pub(crate) fn store_requests(&self) -> Result<Requests> {
        if self.place.home.bucket.is_none() {
            return Ok(Requests::default());
        }
        Ok(Requests::parse(&Connection::open(self.place.admin)?.get_text("/metrics")?))
    }

    /// The file that the upload `name` ends in, where the peer stores any.
    pub(crate) fn file(&self, name: &str) -> Option<PathBuf> {
        let files = self.place.folder.join("files");
        match self.peer.kind {
            Kind::Bits(Stores::PostgresS3, _) => None,
            Kind::Bits(..) => Some(files.join("upload").join(name)),
            Kind::Nginx(_) | Kind::Rustus | Kind::Tus | Kind::Http { stores: true } => Some(files.join(name)),
            Kind::Http { stores: false } | Kind::Sink => None,
        }
    }

    /// Deletes what the uploads of these names left.
    pub(crate) fn delete(&self, names: &[String]) -> Result<()> {
        match &self.place.home.bucket {
            Some(bucket) => bucket.delete(names.iter().map(|name| format!("upload/{name}"))),
            None => names.iter().try_for_each(|name| self.delete_file(name)),
        }
    }

    fn delete_file(&self, name: &str) -> Result<()> {
        let Some(file) = self.file(name) else { return Ok(()) };
        remove(&file)?;
        match self.peer.kind {
            Kind::Tus => remove(&file.with_extension("json")),
            Kind::Rustus => remove(&self.place.folder.join("info").join(name).with_extension("info")),
            _ => Ok(()),
        }
    }

    fn wait_until_ready(&mut self, start: Instant) -> Result<()> {
        while !self.is_ready() {
            if let Some(status) = self.process.try_wait()? {
                return Err(format!("{} stopped at once ({status}): {}", self.peer.name, self.log()).into());
            }
            if start.elapsed() > Duration::from_secs(60) {
                return Err(format!("{} is not ready after a minute: {}", self.peer.name, self.log()).into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn is_ready(&self) -> bool {
        match self.peer.kind {
            Kind::Bits(..) => {
                Connection::open(self.place.admin).and_then(|mut admin| admin.is_ready("/readyz")).unwrap_or(false)
            }
            _ => Connection::open(self.place.address).is_ok(),
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.place.folder.join("log")).unwrap_or_default()
    }

    fn stop(&mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.process), Signal::TERM)?;
        let asked = Instant::now();
        while self.process.try_wait()?.is_none() {
            if asked.elapsed() > Duration::from_secs(30) {
                self.process.kill()?;
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A server that has stopped already cannot be stopped; its run has failed by itself.
        let _ = self.stop();
    }
}

/// Deletes what is there.
pub(super) fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(format!("cannot delete {}: {error}", path.display()).into())
        }
        _ => Ok(()),
    }
}
