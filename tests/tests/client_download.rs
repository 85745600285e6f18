//! `bits download` against the real server: clients and servers that die, files that change.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tests::{Server, ServerOptions, client_binary, pattern, wait_until};

/// So much that a download can be interrupted; most of it takes no space.
const SIZE: u64 = 192 << 20;

fn server() -> Server {
    let server = Server::start(ServerOptions::directory("download_enabled = true"));
    fs::create_dir_all(server.files().join("upload")).unwrap();
    let file = File::create(server.files().join("upload/file")).unwrap();
    file.set_len(SIZE).unwrap();
    for (seed, at) in [0, SIZE / 4, SIZE / 2, SIZE - (1 << 20)].into_iter().enumerate() {
        file.write_all_at(&pattern(seed as u64, 1 << 20), at).unwrap();
    }
    server
}

/// A terminal, with jobs of its own.
struct Terminal(TempDir);

impl Terminal {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("down loaded")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(client_binary());
        command.args(arguments).env("BITS_JOBS_DIR", self.0.path().join("jobs"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn download(&self, url: &str) -> Child {
        self.command(&["download", url, self.file().to_str().unwrap()]).spawn().unwrap()
    }

    /// A small download whose system calls strace changes.
    fn traced_download(&self, injections: &[&str], url: &str) -> Command {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o"]).arg(self.0.path().join("trace"));
        command.args(injections.iter().map(|what| format!("--inject={what}"))).arg(client_binary());
        command.args(["download", url]).arg(self.file()).env("BITS_JOBS_DIR", self.0.path().join("jobs"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn jobs(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path().join("jobs")).unwrap().map(|entry| entry.unwrap().path());
        let jobs = entries.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        jobs.map(|path| fs::read_to_string(path).unwrap_or_default()).collect()
    }

    /// The bytes of a download under way.
    fn part(&self) -> Option<u64> {
        let entries = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap());
        let mut parts = entries.filter(|entry| entry.file_name().to_str().unwrap().ends_with(".part"));
        parts.next().map(|entry| entry.metadata().unwrap().len())
    }

    fn wait_for_progress(&self, bytes: u64) {
        wait_until("some of the download is there", || self.part().is_some_and(|length| length > bytes));
    }
}

#[track_caller]
fn assert_exit(output: &Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

fn is_same(server: &Server, terminal: &Terminal) -> bool {
    server.file("upload/file") == fs::read(terminal.file()).ok()
}

#[test]
fn a_download_outlives_its_client() {
    let server = server();
    let terminal = Terminal::new();
    let mut download = terminal.download(&server.url("/upload/file"));
    terminal.wait_for_progress(4 << 20);
    download.kill().unwrap();
    download.wait().unwrap();
    assert!(!terminal.file().exists(), "it is not whole");
    let jobs = String::from_utf8(terminal.run(&["jobs"]).stdout).unwrap();
    assert!(jobs.contains("down loaded <- ") && jobs.contains("unfinished"), "{jobs}");
    assert_exit(&terminal.run(&["resume"]), 0);
    assert!(is_same(&server, &terminal));
    assert_eq!(terminal.part(), None);
    assert!(!String::from_utf8(terminal.run(&["jobs"]).stdout).unwrap().contains("down loaded"));
}

#[test]
fn a_download_outlives_the_server() {
    let mut server = server();
    let terminal = Terminal::new();
    let download = terminal.download(&server.url("/upload/file"));
    terminal.wait_for_progress(4 << 20);
    server.kill();
    std::thread::sleep(Duration::from_millis(300));
    server.launch();
    assert_exit(&download.wait_with_output().unwrap(), 0);
    assert!(is_same(&server, &terminal));
    assert!(server.log().contains("status=206"), "it began anew");
}

#[test]
fn a_file_that_changed_in_between_is_refused() {
    let mut server = server();
    let terminal = Terminal::new();
    let url = server.url("/upload/file");
    let mut download = terminal.command(&["download", "--retry-for", "0s", &url, terminal.file().to_str().unwrap()]);
    let download = download.spawn().unwrap();
    terminal.wait_for_progress(4 << 20);
    server.kill();
    assert_exit(&download.wait_with_output().unwrap(), 3);
    let file = File::options().write(true).open(server.files().join("upload/file")).unwrap();
    file.write_all_at(b"changed", SIZE - 7).unwrap();
    server.launch();
    let said = assert_exit(&terminal.run(&["resume"]), 1);
    assert!(said.contains("has changed since the download began") && said.contains("bits cancel"), "{said}");
    assert!(!terminal.file().exists());
    let jobs = String::from_utf8(terminal.run(&["jobs", "--json"]).stdout).unwrap();
    let id = jobs.split("\"job\": \"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    assert_exit(&terminal.run(&["cancel", &id]), 0);
    assert_eq!(terminal.part(), None, "cancelling leaves something");
    assert_exit(&terminal.run(&["download", &url, terminal.file().to_str().unwrap()]), 0);
    assert!(is_same(&server, &terminal));
}

fn small() -> Server {
    let server = Server::start(ServerOptions::directory("download_enabled = true"));
    fs::create_dir_all(server.files().join("upload")).unwrap();
    fs::write(server.files().join("upload/file"), pattern(9, 300_000)).unwrap();
    server
}

#[track_caller]
fn assert_resumed(server: &Server, terminal: &Terminal) {
    assert_exit(&terminal.run(&["resume"]), 0);
    assert!(is_same(server, terminal));
    assert_eq!((terminal.part(), terminal.jobs().len()), (None, 0));
}

/// Killed before each of the system calls that put the file in its place and tidy up.
#[test]
fn a_client_that_dies_in_its_last_steps_has_done_them_or_does_them() {
    let server = small();
    let mut killed = 0;
    for call in ["linkat:signal=KILL", "?unlink,unlinkat:signal=KILL:when=1", "?unlink,unlinkat:signal=KILL:when=2"] {
        let terminal = Terminal::new();
        let status = terminal.traced_download(&[call], &server.url("/upload/file")).output().unwrap().status;
        killed += usize::from(!status.success());
        assert_resumed(&server, &terminal);
    }
    assert_eq!(killed, 3);
}

/// File systems such as FAT have no links, and some cannot promise to replace nothing.
#[test]
fn a_file_system_without_links() {
    let server = small();
    let url = server.url("/upload/file");
    let no_links = "linkat:error=EPERM";
    for injections in [&[no_links][..], &[no_links, "renameat2:error=EINVAL"]] {
        let terminal = Terminal::new();
        assert_exit(&terminal.traced_download(injections, &url).output().unwrap(), 0);
        assert!(is_same(&server, &terminal));
        assert_eq!((terminal.part(), terminal.jobs().len()), (None, 0));
    }
    let terminal = Terminal::new();
    let killed = terminal.traced_download(&[no_links, "renameat2:signal=KILL"], &url).output().unwrap();
    assert!(!killed.status.success() && !terminal.file().exists());
    assert_resumed(&server, &terminal);
}

/// What puts the file in its place goes on while the command ends.
#[test]
fn an_interrupt_in_the_last_step_keeps_a_job_that_ends() {
    let server = small();
    let terminal = Terminal::new();
    let slow = "linkat:delay_enter=3000000";
    let traced = terminal.traced_download(&[slow], &server.url("/upload/file")).spawn().unwrap();
    wait_until("the file is about to be put in its place", || {
        terminal.0.path().join("jobs").exists() && terminal.jobs().iter().any(|job| job.contains("\"sealed\": {"))
    });
    let strace = traced.id();
    let client = fs::read_to_string(format!("/proc/{strace}/task/{strace}/children")).unwrap();
    assert!(Command::new("kill").args(["-INT", client.trim()]).status().unwrap().success());
    let said = assert_exit(&traced.wait_with_output().unwrap(), 3);
    assert!(said.contains("interrupted"), "{said}");
    assert!(terminal.file().exists() && terminal.jobs().len() == 1, "it was not interrupted where it should be");
    assert_resumed(&server, &terminal);
}

#[test]
fn what_cannot_be_downloaded() {
    let server = server();
    let terminal = Terminal::new();
    let file = terminal.file();
    let said = assert_exit(&terminal.run(&["download", &server.url("/upload/none"), file.to_str().unwrap()]), 1);
    assert!(said.contains("there is nothing at this URL"), "{said}");
    assert_eq!((file.exists(), terminal.part()), (false, None));
    fs::write(&file, "precious").unwrap();
    let said = assert_exit(&terminal.run(&["download", &server.url("/upload/file"), file.to_str().unwrap()]), 1);
    assert!(said.contains("exists"), "{said}");
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    assert_exit(&terminal.run(&["download", "ftp://host/file", "x"]), 2);
}
