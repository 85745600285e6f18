//! The server as a process of its own: its configuration, folders, life and death.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::{Form, Raw, Response, ports::Port, server_binary};

/// How long a server may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    config: String,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    data_dir: Option<PathBuf>,
    wrapper: Vec<String>,
}

impl ServerOptions {
    /// The documented defaults: one directory `/upload`.
    pub fn new() -> Self {
        Self::default()
    }

    /// One directory `/upload` with these lines of TOML in its table.
    pub fn directory(lines: &str) -> Self {
        Self::new().config(&format!("[[directories]]\nurl_path = \"/upload\"\n{lines}\n"))
    }

    /// The text of the configuration file. Addresses and the data folder come from elsewhere;
    /// without a `[[directories]]` of its own, `/upload` is added.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.config);
        self
    }

    /// More lines at the end of the configuration file.
    #[must_use]
    pub fn and_config(mut self, toml: &str) -> Self {
        self.config.push_str(toml);
        self
    }

    /// One more environment variable, such as `BITS_FAULT` or `RUST_LOG`.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// One more argument after `serve` and its addresses.
    #[must_use]
    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Another data folder than one in the server's own temporary folder.
    #[must_use]
    pub fn data_dir(mut self, folder: &Path) -> Self {
        self.data_dir = Some(folder.to_owned());
        self
    }

    /// A program that runs the server, such as `strace -f`.
    #[must_use]
    pub fn wrapper(mut self, program: &[&str]) -> Self {
        self.wrapper = program.iter().map(|&word| word.to_owned()).collect();
        self
    }

    fn file(&self) -> String {
        let more =
            if self.config.contains("[[directories]]") { "" } else { "[[directories]]\nurl_path = \"/upload\"\n" };
        format!("{}\n{more}", self.config)
    }
}

/// A server process, its folder and its ports. Dropping it kills the process and removes the rest.
#[derive(Debug)]
pub struct Server {
    /// How it is started the next time.
    pub options: ServerOptions,
    child: Option<Child>,
    folder: TempDir,
    port: Port,
    listener: Port,
    admin: Port,
}

impl Server {
    /// Starts a server and waits until it is ready.
    pub fn start(options: ServerOptions) -> Self {
        let mut server = Self::prepare(options);
        server.launch();
        server
    }

    /// Folder and ports, with nothing started.
    pub fn prepare(options: ServerOptions) -> Self {
        let folder = tempfile::Builder::new().prefix("bits-test-").tempdir().unwrap();
        Self { options, child: None, folder, port: Port::reserve(), listener: Port::reserve(), admin: Port::reserve() }
    }

    /// Starts the process with the options as they are now, and waits until it is ready.
    pub fn launch(&mut self) {
        self.spawn();
        self.wait_ready();
    }

    /// Starts the process and waits for nothing.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "the server runs already");
        let config = self.write_config();
        let binary = server_binary().to_str().unwrap().to_owned();
        let mut words = self.options.wrapper.iter().cloned().chain([binary]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).arg("serve");
        command.arg("--config").arg(config).arg("--listen").arg(self.address().to_string());
        command.arg("--data-dir").arg(self.data_dir()).args(&self.options.arguments);
        command.env("BITS__ADMIN__LISTEN", self.admin_address().to_string()).env("RUST_LOG", "debug");
        command.envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        let log = File::options().create(true).append(true).open(self.log_file()).unwrap();
        command.current_dir(self.folder.path()).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.process_group(0).spawn().expect("the server's binary runs"));
    }

    /// Writes another configuration, has the process read it by SIGHUP, and waits until it has said
    /// what came of it; returns what it logged meanwhile.
    #[track_caller]
    pub fn reload(&mut self, toml: &str) -> String {
        self.options = self.options.clone().config(toml);
        self.write_config();
        let before = self.log().len();
        self.signal(Signal::HUP);
        let start = Instant::now();
        loop {
            let said = self.log()[before..].to_owned();
            if said.contains("the configuration was") {
                return said;
            }
            assert!(start.elapsed() < PATIENCE, "the server does not reload");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn write_config(&self) -> PathBuf {
        let config = self.folder.path().join("bits.toml");
        let text = self.options.file().replace("$LISTENER", &self.listener_address().to_string());
        fs::write(&config, text).unwrap();
        config
    }

    /// Waits until `/readyz` says that all is well.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        let start = Instant::now();
        while !self.is_ready() {
            assert!(self.is_running(), "the server ended before it was ready");
            assert!(start.elapsed() < PATIENCE, "the server is not ready");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether `/readyz` answers 200 now.
    pub fn is_ready(&self) -> bool {
        self.admin_get("/readyz").is_ok_and(|status| status == 200)
    }

    /// The status of a path on the admin listener.
    pub fn admin_get(&self, path: &str) -> io::Result<u16> {
        TcpStream::connect(self.admin_address())?;
        let mut admin = Raw::connect(self.admin_address());
        admin.try_send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())?;
        Ok(admin.try_receive()?.status)
    }

    /// The answer to any request on the admin listener; `Host` is localhost unless `headers` say otherwise.
    pub fn admin(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
        let mut admin = Raw::connect(self.admin_address());
        admin.send(&request(method, target, headers));
        admin.receive()
    }

    /// Whether the process runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_none()))
    }

    /// The id of the process, or of its wrapper.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// Ends the process at once, as `kill -9` does.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// Asks the process to end and waits for it.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Sends a signal to the process and whatever it started.
    pub fn signal(&self, signal: Signal) {
        let group = Pid::from_raw(self.pid().cast_signed()).unwrap();
        kill_process_group(group, signal).expect("the server runs");
    }

    /// Waits for the process to end by itself.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        let mut child = self.child.take().expect("the server was started");
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if start.elapsed() > PATIENCE {
                self.child = Some(child);
                panic!("the server does not end");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills the process if it runs, and starts it again on the same folder and ports.
    pub fn restart(&mut self) {
        if self.is_running() {
            self.kill();
        }
        self.child = None;
        self.launch();
    }

    /// The same with other options.
    pub fn restart_with(&mut self, options: ServerOptions) {
        self.options = options;
        self.restart();
    }

    /// The database, name by name, as the stopped process left it.
    pub fn rows(&self) -> Vec<(OsString, Vec<u8>)> {
        let entries = fs::read_dir(self.data_dir()).unwrap().map(|entry| entry.unwrap());
        let rows = entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"state.db"));
        rows.map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap())).collect()
    }

    /// Puts an older state of the database in the place of that which the stopped process left, as
    /// a failover that loses rows does, or a backup.
    pub fn set_back(&self, rows: &[(OsString, Vec<u8>)]) {
        for (name, _) in self.rows() {
            fs::remove_file(self.data_dir().join(name)).unwrap();
        }
        for (name, content) in rows {
            fs::write(self.data_dir().join(name), content).unwrap();
        }
    }

    /// A new connection in the native form.
    pub fn raw(&self) -> Raw {
        Raw::connect(self.address())
    }

    /// A new connection in this form.
    pub fn raw_in(&self, form: Form) -> Raw {
        self.raw().speaking(form)
    }

    /// Where uploads go.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port.number).into()
    }

    /// Where a listener of its own is, which the configuration calls `$LISTENER`.
    pub fn listener_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.listener.number).into()
    }

    /// A new connection to that listener.
    pub fn raw_listener(&self) -> Raw {
        Raw::connect(self.listener_address())
    }

    /// What `/metrics` says of a series, such as `a_total{reason="b"}`; zero where it is not there.
    pub fn metric(&self, series: &str) -> f64 {
        let mut admin = Raw::connect(self.admin_address());
        admin.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let text = String::from_utf8(admin.receive().body).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().expect("a metric is a number"))
    }

    /// Where health is asked for.
    pub fn admin_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.admin.number).into()
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    /// The server's own folder, which holds its configuration and its log.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The data folder.
    pub fn data_dir(&self) -> PathBuf {
        self.options.data_dir.clone().unwrap_or_else(|| self.folder.path().join("data"))
    }

    /// Where published files of the default storage stand.
    pub fn files(&self) -> PathBuf {
        self.data_dir().join("files")
    }

    /// The content of a file below [`Self::files`]; none if there is no such file.
    pub fn file(&self, path: &str) -> Option<Vec<u8>> {
        fs::read(self.files().join(path)).ok()
    }

    /// What the process has written to its standard output and error, in all its lives.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.log_bytes()).into_owned()
    }

    /// The same, byte for byte.
    pub fn log_bytes(&self) -> Vec<u8> {
        fs::read(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }
}

/// A request without a body, after which the connection is closed.
pub fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let host = headers.iter().all(|(name, _)| *name != "Host").then_some(("Host", "localhost"));
    let lines: String = host.iter().chain(headers).map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{method} {target} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n").into_bytes()
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            if let Some(group) = Pid::from_raw(child.id().cast_signed()) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- end of the server's log\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }
}
