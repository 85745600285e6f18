//! The servers that are measured, as data, and how to start and stop them.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Setting;
use super::load::Connection;
use crate::shell::{self, Result};

/// A server that can be measured.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Bits,
    /// WebDAV PUT, with a line of configuration.
    Nginx(&'static str),
    Sink,
}

/// All peers; new ones go here.
pub(crate) const PEERS: &[Peer] = &[
    Peer { name: "bits-server", kind: Kind::Bits },
    Peer { name: "nginx", kind: Kind::Nginx("") },
    Peer { name: "nginx-1m", kind: Kind::Nginx("client_body_buffer_size 1m;") },
    Peer { name: "nginx-sendfile", kind: Kind::Nginx("sendfile on;") },
    Peer { name: "sink", kind: Kind::Sink },
];

/// How a peer takes an upload.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Fragments; the last ack says that everything is on stable storage.
    Bits,
    /// One PUT; nothing is promised about stable storage.
    Put,
}

/// A running server; stopped when dropped.
pub(crate) struct Running {
    peer: &'static Peer,
    process: Child,
    address: SocketAddr,
    admin: SocketAddr,
    folder: PathBuf,
    /// From the start of the process until it answered.
    pub(crate) ready_after: Duration,
}

/// Starts the peer of that name with an empty folder.
pub(crate) fn start(setting: &Setting, name: &str) -> Result<Running> {
    let peer = PEERS.iter().find(|peer| peer.name == name).ok_or_else(|| format!("there is no peer {name}"))?;
    let folder = setting.folder.join(name);
    remove(&folder)?;
    fs::create_dir_all(folder.join("files"))?;
    Running::start(peer, &setting.server, folder)
}

impl Running {
    fn start(peer: &'static Peer, server: &Path, folder: PathBuf) -> Result<Self> {
        let (address, admin) = free_addresses()?;
        let mut command = match peer.kind {
            Kind::Bits => bits_server(server, &folder, address, admin)?,
            Kind::Nginx(setting) => nginx(&folder, address, setting)?,
            Kind::Sink => sink(address)?,
        };
        let log = File::create(folder.join("log"))?;
        let start = Instant::now();
        let process = command.stdout(log.try_clone()?).stderr(log).spawn();
        let process = process.map_err(|error| format!("cannot start {}: {error}", peer.name))?;
        let mut running = Self { peer, process, address, admin, folder, ready_after: Duration::ZERO };
        running.wait_until_ready(start)?;
        running.ready_after = start.elapsed();
        Ok(running)
    }

    /// Stops the server and starts it again on the same data.
    pub(crate) fn restart(self, setting: &Setting) -> Result<Self> {
        let (peer, folder) = (self.peer, self.folder.clone());
        drop(self);
        Self::start(peer, &setting.server, folder)
    }

    pub(crate) fn name(&self) -> &'static str {
        self.peer.name
    }

    pub(crate) fn process(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn protocol(&self) -> Protocol {
        if let Kind::Nginx(_) = self.peer.kind { Protocol::Put } else { Protocol::Bits }
    }

    pub(crate) fn connect(&self) -> Result<Connection> {
        Connection::open(self.address)
    }

    /// Where the upload `name` goes to.
    pub(crate) fn url_path(&self, name: &str) -> String {
        if self.peer.kind.is_ours() { format!("/upload/{name}") } else { format!("/{name}") }
    }

    /// The file that the upload `name` ends in, where the peer stores any.
    pub(crate) fn file(&self, name: &str) -> Option<PathBuf> {
        match self.peer.kind {
            Kind::Bits => Some(self.folder.join("files/upload").join(name)),
            Kind::Nginx(_) => Some(self.folder.join("files").join(name)),
            Kind::Sink => None,
        }
    }

    /// Deletes what the upload `name` left.
    pub(crate) fn delete(&self, name: &str) -> Result<()> {
        self.file(name).map_or(Ok(()), |file| remove(&file))
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
            Kind::Bits => Connection::open(self.admin).and_then(|mut admin| admin.is_ready("/readyz")).unwrap_or(false),
            Kind::Nginx(_) | Kind::Sink => Connection::open(self.address).is_ok(),
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
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

impl Kind {
    fn is_ours(self) -> bool {
        matches!(self, Kind::Bits)
    }
}

// Time-outs and limits out of the way of connections that are held idle on purpose.
fn bits_server(program: &Path, folder: &Path, address: SocketAddr, admin: SocketAddr) -> Result<Command> {
    let config = folder.join("bits.toml");
    let text = format!(
        "listen = [\"{address}\"]\ndata_dir = \".\"\nshutdown_grace = \"1s\"\n\n[admin]\nlisten = \"{admin}\"\n\n\
         [limits]\nconnections = 20000\nheader_timeout = \"10m\"\nidle_timeout = \"10m\"\n\n\
         [[directories]]\nurl_path = \"/upload\"\ndownload_enabled = true\n"
    );
    fs::write(&config, text)?;
    let mut command = Command::new(program);
    command.args(["serve", "--config"]).arg(config);
    Ok(command)
}

fn nginx(folder: &Path, address: SocketAddr, setting: &str) -> Result<Command> {
    let shown = folder.display();
    // Workers of a server started by root need to write to the same folder.
    let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
    let text = format!(
        "{user}daemon off;\nworker_processes 2;\npid {shown}/pid;\nerror_log stderr;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 1000000;\n\
         \x20 client_body_temp_path {shown}/temp;\n  client_max_body_size 0;\n  {setting}\n\
         \x20 server {{\n    listen {address};\n    root {shown}/files;\n\
         \x20   location / {{ dav_methods PUT; create_full_put_path on; }}\n  }}\n}}\n"
    );
    let config = folder.join("nginx.conf");
    fs::write(&config, text)?;
    let mut command = Command::new(shell::find("nginx").ok_or("there is no nginx")?);
    command.args(["-e", "stderr", "-p"]).arg(folder).arg("-c").arg(config);
    Ok(command)
}

fn sink(address: SocketAddr) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["sink", "--listen", &address.to_string()]);
    Ok(command)
}

fn free_addresses() -> Result<(SocketAddr, SocketAddr)> {
    let (one, other) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    Ok((one.local_addr()?, other.local_addr()?))
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(format!("cannot delete {}: {error}", path.display()).into())
        }
        _ => Ok(()),
    }
}
