//! The command `bits` against the real server, as from two terminals.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tests::{Server, ServerOptions, assert_staging_empty, client_binary, pattern, wait_until};

/// A terminal: a folder with a file to upload, and jobs of its own.
struct Terminal {
    folder: TempDir,
    content: Vec<u8>,
}

impl Terminal {
    fn new(size: usize) -> Self {
        let terminal = Self { folder: tempfile::tempdir().unwrap(), content: pattern(3, size) };
        fs::write(terminal.source(), &terminal.content).unwrap();
        terminal
    }

    fn source(&self) -> PathBuf {
        self.folder.path().join("a file.bin")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(client_binary());
        command.args(arguments).env("BITS_JOBS_DIR", self.folder.path().join("jobs"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Starts an upload in small fragments, so that it lasts.
    fn start_upload(&self, url: &str) -> Child {
        let source = self.source();
        self.command(&["upload", "--fragment-size", "16KiB", source.to_str().unwrap(), url]).spawn().unwrap()
    }
}

fn staged_bytes(server: &Server) -> u64 {
    let Ok(entries) = fs::read_dir(server.files().join("upload/BITS-Sessions")) else { return 0 };
    entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum()
}

fn wait_for_progress(server: &Server) {
    wait_until("some of the upload is there", || staged_bytes(server) > 100_000);
}

#[test]
fn an_upload_outlives_the_server() {
    let mut server = Server::start(ServerOptions::new());
    let terminal = Terminal::new(24 << 20);
    let mut upload = terminal.start_upload(&server.url("/upload/big.bin"));
    for _ in 0..2 {
        wait_for_progress(&server);
        server.kill();
        std::thread::sleep(Duration::from_millis(200));
        server.launch();
    }
    let status = upload.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(server.file("upload/big.bin").unwrap() == terminal.content, "the file has other bytes");
    assert_staging_empty(&server.files());
}

#[test]
fn an_upload_outlives_its_client() {
    let server = Server::start(ServerOptions::new());
    let terminal = Terminal::new(24 << 20);
    let mut upload = terminal.start_upload(&server.url("/upload/"));
    wait_for_progress(&server);
    upload.kill().unwrap();
    upload.wait().unwrap();
    let jobs = String::from_utf8(terminal.run(&["jobs"]).stdout).unwrap();
    assert!(jobs.contains("a file.bin"), "{jobs}");
    let resumed = terminal.run(&["resume"]);
    assert_eq!(resumed.status.code(), Some(0), "{}", String::from_utf8_lossy(&resumed.stderr));
    assert!(server.file("upload/a file.bin").unwrap() == terminal.content, "the file has other bytes");
    assert_staging_empty(&server.files());
}

/// What was acknowledged is gone when the session is to be closed: that is no success, and no failure.
#[test]
fn what_vanished_from_the_server_is_sent_again() {
    let server = Server::start(ServerOptions::directory("publish = \"close-session\""));
    let terminal = Terminal::new(24 << 20);
    let mut upload = terminal.start_upload(&server.url("/upload/big.bin"));
    wait_for_progress(&server);
    // What stands there has Close-Session refused.
    let taken = server.files().join("upload/big.bin");
    fs::write(&taken, "in the way").unwrap();
    assert_eq!(upload.wait().unwrap().code(), Some(1));
    fs::remove_file(&taken).unwrap();
    assert_eq!(staged_bytes(&server), 24 << 20);
    for entry in fs::read_dir(server.files().join("upload/BITS-Sessions")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let jobs = String::from_utf8(terminal.run(&["jobs", "--json"]).stdout).unwrap();
    let id = jobs.split("\"job\": \"").nth(1).unwrap().split('"').next().unwrap();
    let resumed = terminal.run(&["resume", id]);
    let said = String::from_utf8(resumed.stderr).unwrap();
    assert_eq!(resumed.status.code(), Some(0), "{said}");
    assert!(said.contains("has lost the uploaded data"), "{said}");
    assert!(server.file("upload/big.bin").unwrap() == terminal.content, "the file has other bytes");
    assert_staging_empty(&server.files());
}

/// The server dies as it ends the session, and comes back with rows from the middle of the upload.
#[test]
fn what_a_failover_lost_is_sent_again_before_the_session_is_closed() {
    let mut server = Server::start(ServerOptions::directory("publish = \"close-session\""));
    let terminal = Terminal::new(4 << 20);
    let mut upload = terminal.start_upload(&server.url("/upload/big.bin"));
    wait_for_progress(&server);
    server.kill();
    let rows = server.rows();
    server.options = server.options.clone().env("BITS_FAULT", "intent-before-commit");
    server.launch();
    server.wait();
    let jobs = || String::from_utf8(terminal.run(&["jobs", "--json"]).stdout).unwrap();
    wait_until("the job knows that all is there", || jobs().contains(&format!("\"acknowledged\": {}", 4 << 20)));
    upload.kill().unwrap();
    upload.wait().unwrap();
    server.set_back(&rows);
    server.options = ServerOptions::directory("publish = \"close-session\"");
    server.launch();
    let resumed = terminal.run(&["resume"]);
    assert_eq!(resumed.status.code(), Some(0), "{}", String::from_utf8_lossy(&resumed.stderr));
    assert!(server.file("upload/big.bin").is_some_and(|file| file == terminal.content), "the file is not there");
    assert_staging_empty(&server.files());
}

#[test]
fn a_refused_upload_says_why() {
    let server = Server::start(ServerOptions::new());
    let terminal = Terminal::new(10);
    let source = terminal.source();
    let arguments = ["upload", source.to_str().unwrap(), &server.url("/upload/taken.bin")];
    assert_eq!(terminal.run(&arguments).status.code(), Some(0));
    let refused = terminal.run(&arguments);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("0x80070005"), "{said}");
}
