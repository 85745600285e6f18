//! How each kind of server is started: its settings, which go into the report, and its command.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::backing::{Bucket, Home};
use super::peer::Kind;
use super::programs::Programs;
use crate::shell::Result;

/// What a server has to itself.
pub(super) struct Place {
    pub(super) folder: PathBuf,
    pub(super) address: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) home: Home,
}

/// A server that can be started.
pub(super) struct Start {
    pub(super) command: Command,
    /// Its configuration, or its arguments where it has none.
    pub(super) settings: String,
}

impl Place {
    pub(super) fn new(folder: PathBuf, home: Home) -> Result<Self> {
        let (one, other) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
        Ok(Self { folder, address: one.local_addr()?, admin: other.local_addr()?, home })
    }

    fn files(&self) -> PathBuf {
        self.folder.join("files")
    }

    /// The same text on every machine and in every run.
    fn anonymous(&self, text: &str) -> String {
        let mut names = vec![
            (self.folder.display().to_string(), "FOLDER"),
            (self.address.to_string(), "ADDRESS"),
            (self.admin.to_string(), "ADMIN"),
        ];
        names.extend(self.home.database.clone().map(|database| (database, "postgres://DATABASE")));
        if let Some(bucket) = &self.home.bucket {
            names.extend([(bucket.endpoint.clone(), "ENDPOINT"), (bucket.prefix.clone(), "PREFIX")]);
        }
        names.iter().fold(text.to_owned(), |text, (own, name)| text.replace(own, name))
    }
}

/// A port that was free just now.
pub(super) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

pub(super) fn start(kind: Kind, programs: &Programs, place: &Place) -> Result<Start> {
    match kind {
        Kind::Bits(_, sync) => bits_server(&programs.server, place, sync),
        Kind::Nginx(setting) => nginx(&programs.nginx, place, setting),
        Kind::Rustus => Ok(rustus(&programs.rustus, place)),
        Kind::Tus => Ok(tus(&programs.tus, place)),
        Kind::Http { stores } => Ok(http(&programs.floor, place, stores)),
        Kind::Sink => sink(place),
    }
}

/// As the server's systemd unit has it.
const ENVIRONMENT: (&str, &str) = ("MALLOC_ARENA_MAX", "2");

/// The server, with time-outs and limits out of the way of connections that are held idle on purpose.
fn bits_server(program: &Path, place: &Place, sync: &str) -> Result<Start> {
    let (address, admin) = (place.address, place.admin);
    let state = place.home.database.as_ref();
    let state = state.map_or_else(String::new, |url| format!("[state]\nurl = \"{url}\"\nmigrate = true\n\n"));
    let storage = place.home.bucket.as_ref().map_or_else(|| format!("sync = \"{sync}\""), Bucket::settings);
    let text = format!(
        "listen = [\"{address}\"]\ndata_dir = \".\"\nshutdown_grace = \"1s\"\n\n[admin]\nlisten = \"{admin}\"\n\n\
         [limits]\nconnections = 20000\nheader_timeout = \"10m\"\nidle_timeout = \"10m\"\n\n\
         {state}[storage]\n{storage}\n\n\
         [[directories]]\nurl_path = \"/upload\"\ndownload_enabled = true\n"
    );
    let config = place.folder.join("bits.toml");
    fs::write(&config, &text)?;
    let mut command = Command::new(program);
    let (name, value) = ENVIRONMENT;
    command.args(["serve", "--config"]).arg(config).env(name, value);
    Ok(Start { command, settings: format!("# environment: {name}={value}\n{}", place.anonymous(&text)) })
}

fn nginx(program: &Path, place: &Place, setting: &str) -> Result<Start> {
    let (shown, address) = (place.folder.display(), place.address);
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
    let config = place.folder.join("nginx.conf");
    fs::write(&config, &text)?;
    let mut command = Command::new(program);
    command.args(["-e", "stderr", "-p"]).arg(&place.folder).arg("-c").arg(config);
    Ok(Start { command, settings: place.anonymous(&text) })
}

fn rustus(program: &Path, place: &Place) -> Start {
    let mut command = Command::new(program);
    command.args(["--host", &place.address.ip().to_string(), "--port", &place.address.port().to_string()]);
    command.args(["--url", "/files", "--max-body-size", "2147483648", "--log-level", "ERROR", "--data-dir"]);
    command.arg(place.files()).arg("--info-dir").arg(place.folder.join("info"));
    of_arguments(command, place)
}

fn tus(script: &Path, place: &Place) -> Start {
    let mut command = Command::new("node");
    command.arg(script).args([place.address.ip().to_string(), place.address.port().to_string()]).arg(place.files());
    command.env("NODE_ENV", "production");
    of_arguments(command, place)
}

fn http(program: &Path, place: &Place, stores: bool) -> Start {
    let mut command = Command::new(program);
    command.args(["http", "--listen", &place.address.to_string()]);
    if stores {
        command.arg("--folder").arg(place.files());
    }
    of_arguments(command, place)
}

fn sink(place: &Place) -> Result<Start> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["sink", "--listen", &place.address.to_string()]);
    Ok(of_arguments(command, place))
}

fn of_arguments(command: Command, place: &Place) -> Start {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let arguments = command.get_args().map(|argument| {
        let path = Path::new(argument);
        // Programs and scripts by their names alone.
        let own = path.starts_with(&place.folder) || !path.is_absolute();
        if own { argument.to_string_lossy() } else { path.file_name().unwrap_or_default().to_string_lossy() }
    });
    let shown: Vec<_> = std::iter::once(program.into()).chain(arguments).collect();
    let settings = place.anonymous(&shown.join(" ")).replace(&place.address.port().to_string(), "PORT") + "\n";
    Start { command, settings }
}
