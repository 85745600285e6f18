//! A Kerberos KDC of a test's own, with two realms that trust each other. Nothing of the system's
//! is read or changed.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::ports::Port;

/// The realm of the server under test, which is `localhost`.
pub const REALM: &str = "ONE.TEST";
/// Another realm. Its users can prove themselves to servers of [`REALM`].
pub const OTHER_REALM: &str = "TWO.TEST";

const PASSWORD: &str = "correct horse";
const PATIENCE: Duration = Duration::from_secs(20);

/// A running KDC. Dropping it ends the process and removes its files.
#[derive(Debug)]
pub struct Kdc {
    folder: TempDir,
    _port: Port,
    process: Child,
}

impl Kdc {
    /// Starts a KDC. It knows `HTTP/localhost` and `jo` of the one realm, and `jo` of the other.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("bits-test-kdc-").tempdir().unwrap();
        let port = Port::reserve();
        write_configuration(folder.path(), port.number);
        for realm in [REALM, OTHER_REALM] {
            run(command(folder.path(), "kdb5_util").args(["create", "-s", "-r", realm, "-P", "master"]), "");
            let users = format!("addprinc -pw \"{PASSWORD}\" jo\naddprinc -pw between krbtgt/{REALM}@{OTHER_REALM}\n");
            run(command(folder.path(), "kadmin.local").args(["-r", realm]), &users);
        }
        let log = File::create(folder.path().join("kdc.out")).unwrap();
        let mut kdc = command(folder.path(), "krb5kdc");
        kdc.args(["-n", "-r", REALM, "-r", OTHER_REALM]).stdout(log.try_clone().unwrap()).stderr(log);
        let process = kdc.spawn().expect("krb5kdc starts");
        wait_for(port.number);
        let kdc = Self { folder, _port: port, process };
        kdc.admin("addprinc -randkey HTTP/localhost");
        kdc
    }

    /// The configuration that the library reads where `KRB5_CONFIG` names it.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("krb5.conf")
    }

    /// Changes the keys of a service of [`REALM`] and writes them into a new file.
    pub fn keytab(&self, name: &str, service: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        let _ = fs::remove_file(&path);
        self.admin(&format!("ktadd -q -k {} {service}", path.display()));
        path
    }

    /// Runs a command of `kadmin` in [`REALM`].
    pub fn admin(&self, line: &str) {
        run(command(self.folder.path(), "kadmin.local").args(["-r", REALM]), line);
    }

    /// Logs in a user, `name@REALM`, whose tickets every [`Self::curl`] of the same name has.
    pub fn login(&self, user: &str) {
        let mut kinit = command(self.folder.path(), "kinit");
        kinit.arg("-c").arg(self.tickets(user)).arg(user);
        run(&mut kinit, &format!("{PASSWORD}\n"));
    }

    /// curl as that user, with Negotiate.
    pub fn curl(&self, user: &str) -> Command {
        let mut curl = command(self.folder.path(), "curl");
        curl.env("KRB5CCNAME", self.tickets(user));
        curl.args(["--silent", "--show-error", "--negotiate", "--user", ":", "--max-time", "20"]);
        curl
    }

    /// A fresh `Authorization` of that user for the server under test.
    pub fn authorization(&self, user: &str) -> String {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = format!("http://localhost:{}/", listener.local_addr().unwrap().port());
        let mut curl = self.curl(user).args(["--ipv4", &url]).stdout(Stdio::null()).spawn().unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        drop(stream);
        let _ = curl.wait();
        let head = String::from_utf8(head).unwrap();
        let value = head.lines().find_map(|line| line.strip_prefix("Authorization: "));
        value.expect("curl has a ticket").to_owned()
    }

    fn tickets(&self, user: &str) -> PathBuf {
        self.folder.path().join(format!("tickets-{user}"))
    }
}

impl Drop for Kdc {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn write_configuration(folder: &Path, port: u16) {
    let shown = folder.display();
    let client = format!(
        "[libdefaults]\n default_realm = {REALM}\n dns_lookup_kdc = false\n dns_lookup_realm = false\n \
         dns_canonicalize_hostname = false\n rdns = false\n udp_preference_limit = 1\n\
         [realms]\n {REALM} = {{\n kdc = 127.0.0.1:{port}\n }}\n {OTHER_REALM} = {{\n kdc = 127.0.0.1:{port}\n }}\n\
         [domain_realm]\n localhost = {REALM}\n"
    );
    fs::write(folder.join("krb5.conf"), client).unwrap();
    let realm = |realm: &str| {
        format!(
            " {realm} = {{\n database_name = {shown}/{realm}\n key_stash_file = {shown}/{realm}.stash\n \
             acl_file = {shown}/acl\n supported_enctypes = aes256-cts-hmac-sha1-96:normal\n }}\n"
        )
    };
    let server = format!(
        "[kdcdefaults]\n kdc_listen = \"\"\n kdc_tcp_listen = 127.0.0.1:{port}\n[realms]\n{}{}\
         [logging]\n kdc = FILE:{shown}/kdc.log\n",
        realm(REALM),
        realm(OTHER_REALM)
    );
    fs::write(folder.join("kdc.conf"), server).unwrap();
}

/// A program that knows these realms and nothing of the system's.
fn command(folder: &Path, program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("KRB5_CONFIG", folder.join("krb5.conf")).env("KRB5_KDC_PROFILE", folder.join("kdc.conf"));
    command.env_remove("KRB5_KTNAME").env_remove("KRB5CCNAME").env("LC_ALL", "C");
    command.stdin(Stdio::null());
    command
}

fn run(command: &mut Command, input: &str) -> Output {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn wait_for(port: u16) {
    let start = Instant::now();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        assert!(start.elapsed() < PATIENCE, "the KDC does not answer");
        thread::sleep(Duration::from_millis(10));
    }
}
