//! A PostgreSQL and an S3 store of the measurements' own, for servers that keep their state there.

use std::cell::Cell;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::peer::Stores;
use crate::shell::{self, Result};

const POSTGRES: &str = include_str!("postgres.sh");
/// The store of the tests: in memory, so that no disk is measured with it.
const CEPH: &str = include_str!("../../../tests/src/ceph.sh");

/// What the script of the store sets up.
const KEYS: &str = "ACCESSKEY:SECRETKEY";
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// What is running of them.
#[derive(Default)]
pub(super) struct Backing {
    postgres: Option<Service>,
    s3: Option<Service>,
    /// Databases and prefixes that were given out.
    given: Cell<u32>,
}

/// Where one server keeps its state, beyond its folder.
#[derive(Clone, Default)]
pub(super) struct Home {
    /// The URL of an own database.
    pub(super) database: Option<String>,
    pub(super) bucket: Option<Bucket>,
}

/// An own prefix of an S3 store.
#[derive(Clone)]
pub(super) struct Bucket {
    pub(super) endpoint: String,
    pub(super) prefix: String,
}

impl Backing {
    /// Starts what these need.
    pub(super) fn start(stores: &[Stores]) -> Result<Self> {
        let needs_postgres = stores.iter().any(|stores| *stores != Stores::Local);
        let needs_s3 = stores.contains(&Stores::PostgresS3);
        let postgres = needs_postgres.then(|| Service::start("postgres", POSTGRES)).transpose()?;
        Ok(Self { postgres, s3: needs_s3.then(|| Service::start("ceph", CEPH)).transpose()?, given: Cell::default() })
    }

    /// An empty place for a server.
    pub(super) fn home(&self, stores: Stores) -> Result<Home> {
        self.given.set(self.given.get() + 1);
        let (name, mut home) = (format!("server_{}", self.given.get()), Home::default());
        if stores != Stores::Local {
            let postgres = self.postgres.as_ref().ok_or("no PostgreSQL was started")?;
            let server = format!("postgres://bits@127.0.0.1:{}", postgres.port);
            let create = format!("CREATE DATABASE {name}");
            let mut psql = Command::new("psql");
            psql.args(["--no-psqlrc", "--quiet", "--command", &create, &format!("{server}/postgres")]);
            shell::output(&mut psql)?;
            home.database = Some(format!("{server}/{name}"));
        }
        if stores == Stores::PostgresS3 {
            let s3 = self.s3.as_ref().ok_or("no S3 store was started")?;
            home.bucket = Some(Bucket { endpoint: format!("http://127.0.0.1:{}", s3.port), prefix: name });
        }
        Ok(home)
    }
}

impl Bucket {
    /// The lines of a configuration that name it.
    pub(super) fn settings(&self) -> String {
        let (access_key, secret_key) = KEYS.split_once(':').unwrap_or_default();
        format!(
            "url = \"s3://bucket/{}\"\n\n[storage.options]\nendpoint = \"{}\"\nregion = \"us-east-1\"\nallow_http = true\n\
             access_key_id = \"{access_key}\"\nsecret_access_key = \"{secret_key}\"",
            self.prefix, self.endpoint
        )
    }

    /// Deletes objects by their keys below the prefix.
    pub(super) fn delete(&self, keys: impl Iterator<Item = String>) -> Result<()> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--request", "DELETE", "--aws-sigv4", "aws:amz:us-east-1:s3"]);
        curl.args(["--user", KEYS, "--header", &format!("x-amz-content-sha256: {EMPTY}")]);
        curl.args(keys.map(|key| format!("{}/bucket/{}/{key}", self.endpoint, self.prefix)));
        shell::output(&mut curl).map(drop)
    }
}

/// A server that ends when its input does, which is when this process ends, however that does.
struct Service {
    process: Child,
    port: u16,
}

impl Service {
    fn start(name: &str, script: &str) -> Result<Self> {
        let port = super::command::free_port()?;
        // Not in the target folder: a user of its own may not come there.
        let folder: PathBuf = std::env::temp_dir().join(format!("bits-bench-{name}-{port}"));
        let mut bash = Command::new("bash");
        bash.arg("-c").arg(script).arg(name).arg(folder).arg(port.to_string());
        let process = bash.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut service = Self { process, port };
        let mut line = String::new();
        let output = service.process.stdout.take().ok_or("it has no output")?;
        BufReader::new(output).read_line(&mut line)?;
        if line.trim() == "ready" { Ok(service) } else { Err(format!("{name} does not start").into()) }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        // It removes its files; nothing is lost if it cannot.
        let _ = self.process.wait();
    }
}
