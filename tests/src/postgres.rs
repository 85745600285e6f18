//! A PostgreSQL server of the tests' own, and a PgBouncer before it. Nothing of the system's is
//! read or changed.

use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::ports::Port;

/// The user that owns the databases of tests.
const USER: &str = "bits";
/// The password of everyone.
const PASSWORD: &str = "correct horse";
const ENCODED_PASSWORD: &str = "correct%20horse";
const PATIENCE: Duration = Duration::from_secs(30);

/// A PostgreSQL server on a free port. It ends, and its files are removed, when this is dropped or
/// the test's process ends, however that ends.
#[derive(Debug)]
pub struct Postgres {
    folder: PathBuf,
    port: Port,
    /// Open for as long as the server is wanted.
    _wanted: Supervisor,
}

/// A shell that ends and removes what it is for as soon as its input is closed.
#[derive(Debug)]
struct Supervisor {
    shell: Child,
    input: Option<ChildStdin>,
}

impl Supervisor {
    fn new(script: &str, arguments: &[&str]) -> Self {
        let script = format!("trap '' INT TERM; read -r _; {script}");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, "sh"]).args(arguments).stdin(Stdio::piped());
        let mut shell = shell.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { input: shell.stdin.take(), shell }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.shell.wait();
    }
}

impl Postgres {
    /// One server for all tests of this process. Its data does not survive a power loss.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| Self::start("fsync = off"))
    }

    /// A server of its own, with these lines in its configuration.
    pub fn start(settings: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("bits-test-postgres-").tempdir().unwrap();
        let port = Port::reserve();
        let path = prepare(folder, port.number, settings);
        let stop = format!("{}\"$2\" -D \"$1/data\" -m immediate stop; rm -rf \"$1\"", as_postgres().join(" ") + " ");
        let wanted = Supervisor::new(&stop, &[path.to_str().unwrap(), program("pg_ctl").to_str().unwrap()]);
        let server = Self { folder: path, port, _wanted: wanted };
        server.up();
        server.execute("postgres", &format!("CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}' CREATEDB"));
        server
    }

    /// A new empty database, by its URL.
    pub fn database(&self) -> String {
        static COUNTER: AtomicU32 = AtomicU32::new(1);
        let name = format!("sessions_{}", COUNTER.fetch_add(1, Ordering::Relaxed));
        self.execute("postgres", &format!("CREATE DATABASE {name} OWNER {USER}"));
        self.url(&name)
    }

    /// The URL of a database, for the user that owns those of tests.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}:{ENCODED_PASSWORD}@{}/{database}", self.address())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port.number).into()
    }

    /// What a statement gives, as the superuser.
    pub fn execute(&self, database: &str, sql: &str) -> String {
        let url = format!("postgres://postgres:{ENCODED_PASSWORD}@{}/{database}", self.address());
        psql(&url, sql)
    }

    /// Starts it, and waits until it answers.
    pub fn up(&self) {
        self.control(&["-w", "-l", self.folder.join("log").to_str().unwrap(), "start"]);
    }

    /// Stops it: `fast` ends all connections in order, `immediate` is a crash.
    pub fn down(&self, mode: &str) {
        self.control(&["-w", "-m", mode, "stop"]);
    }

    /// Ends all connections but its own.
    pub fn terminate_connections(&self) {
        let others = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                      WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";
        self.execute("postgres", others);
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn control(&self, arguments: &[&str]) {
        let mut command = command("pg_ctl");
        command.arg("-D").arg(self.folder.join("data")).args(arguments);
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(status.success(), "pg_ctl {arguments:?} fails; its log ends:\n{}", self.log());
    }
}

/// What a statement gives to a user, by `psql`.
#[track_caller]
pub fn psql(url: &str, sql: &str) -> String {
    let output = Command::new("psql").args(["-XAtq", "-v", "ON_ERROR_STOP=1", url, "-c", sql]).output().unwrap();
    assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A PgBouncer before a server: few connections to it, and a transaction at a time on each.
#[derive(Debug)]
pub struct PgBouncer {
    port: Port,
    _wanted: Supervisor,
}

impl PgBouncer {
    /// Starts one with so many connections to the server.
    pub fn start(server: &Postgres, connections: u32) -> Self {
        let folder = tempfile::Builder::new().prefix("bits-test-pgbouncer-").tempdir().unwrap();
        let port = Port::reserve();
        let path = folder.keep();
        let lines = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\n\
             unix_socket_dir =\nauth_type = plain\nauth_file = {path}/users\npool_mode = transaction\n\
             default_pool_size = {connections}\nlogfile = {path}/log\npidfile = {path}/pid\n",
            server.port.number,
            port.number,
            path = path.display()
        );
        write(&path.join("ini"), &lines);
        write(&path.join("users"), &format!("\"{USER}\" \"{PASSWORD}\"\n"));
        give_to_postgres(&path);
        let run = as_postgres().into_iter().chain(["pgbouncer", "-q", "-d"]);
        let words: Vec<&str> = run.collect();
        let status = Command::new(words[0]).args(&words[1..]).arg(path.join("ini")).status().unwrap();
        assert!(status.success(), "pgbouncer does not start");
        let stop = "kill -KILL \"$(cat \"$1/pid\")\"; rm -rf \"$1\"";
        let wanted = Supervisor::new(stop, &[path.to_str().unwrap()]);
        wait_for((Ipv4Addr::LOCALHOST, port.number).into());
        Self { port, _wanted: wanted }
    }

    /// The URL by which a database is reached through it.
    pub fn url(&self, direct: &str) -> String {
        let database = direct.rsplit('/').next().unwrap();
        format!("postgres://{USER}:{ENCODED_PASSWORD}@127.0.0.1:{}/{database}", self.port.number)
    }
}

fn prepare(folder: TempDir, port: u16, settings: &str) -> PathBuf {
    let path = folder.keep();
    write(&path.join("password"), PASSWORD);
    give_to_postgres(&path);
    let mut initdb = command("initdb");
    initdb.arg("-D").arg(path.join("data")).arg("--pwfile").arg(path.join("password"));
    initdb.args(["-U", "postgres", "-A", "md5", "-E", "UTF8", "--locale=C", "--no-sync"]);
    let output = initdb.output().unwrap();
    assert!(output.status.success(), "initdb fails: {}", String::from_utf8_lossy(&output.stderr));
    let lines = format!(
        "\nport = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nmax_connections = 300\n\
         shared_buffers = 64MB\n{settings}\n",
        path.display()
    );
    let mut file = fs::File::options().append(true).open(path.join("data/postgresql.conf")).unwrap();
    file.write_all(lines.as_bytes()).unwrap();
    path
}

/// The words before a command that make `postgres` run it: the server refuses to run as root.
fn as_postgres() -> Vec<&'static str> {
    let root = rustix::process::geteuid().is_root();
    if root { vec!["runuser", "-u", "postgres", "--"] } else { Vec::new() }
}

fn give_to_postgres(folder: &Path) {
    if rustix::process::geteuid().is_root() {
        let status = Command::new("chown").args(["-R", "postgres"]).arg(folder).status().unwrap();
        assert!(status.success(), "there is no user postgres");
    }
}

fn command(name: &str) -> Command {
    let words = as_postgres().into_iter().map(PathBuf::from).chain([program(name)]);
    let words: Vec<PathBuf> = words.collect();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).current_dir("/");
    command
}

/// A program of the newest version that Debian's packages have put beside each other.
fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let programs = versions.map(|version| version.path().join("bin").join(name)).filter(|path| path.exists());
    programs.max().unwrap_or_else(|| PathBuf::from(name))
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn wait_for(address: SocketAddr) {
    let start = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(start.elapsed() < PATIENCE, "nothing listens at {address}");
        thread::sleep(Duration::from_millis(5));
    }
}
