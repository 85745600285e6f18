//! Commands of the book, run as they stand there: a block of shell that a comment `tried: NAME`
//! marks. Only addresses, folders and sizes are put in.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;
use tests::{
    Packet, Server, ServerOptions, Upload, assert_ok, assert_staging_empty, client_binary, pattern, server_binary,
    wait_until,
};

/// The block with this name, with each pair put in; every one must stand in it.
fn block(chapter: &str, name: &str, put_in: &[(&str, &str)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(chapter);
    let text = fs::read_to_string(path).unwrap();
    let mark = format!("<!-- tried: {name} -->\n```sh\n");
    let block = text.split_once(&mark).and_then(|(_, rest)| rest.split_once("```")).map(|(block, _)| block);
    let mut block = block.unwrap_or_else(|| panic!("{chapter} has no block {name}")).to_owned();
    for (from, to) in put_in {
        assert!(block.contains(from), "{chapter}, {name}: there is no {from}");
        block = block.replace(from, to);
    }
    block
}

/// A terminal in a folder of its own, with both programs in its path.
struct Terminal(TempDir);

impl Terminal {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn start(&self, script: &str) -> Child {
        let programs = [server_binary(), client_binary()].map(|program| program.parent().unwrap().to_owned());
        let old = std::env::var_os("PATH").unwrap();
        let path = std::env::join_paths(programs.into_iter().chain(std::env::split_paths(&old))).unwrap();
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", script]).current_dir(self.path()).env("PATH", path);
        bash.env("BITS_JOBS_DIR", self.path().join("jobs")).stdin(Stdio::null()).spawn().unwrap()
    }

    #[track_caller]
    fn run(&self, script: &str) {
        assert!(self.start(script).wait().unwrap().success(), "{script}");
    }
}

#[test]
fn five_minutes() {
    let mut server = Server::start(ServerOptions::new());
    let terminal = Terminal::new();
    let (address, pid) = (server.address().to_string(), server.pid().to_string());
    let script = block(
        "start-linux.md",
        "start",
        &[("127.0.0.1:8080", &address), ("$(pidof bits-server)", &pid), ("2G", "256M"), ("sleep 1", "sleep 0.2")],
    );
    let (make, upload) = script.split_once('\n').unwrap();
    terminal.run(make);
    let mut upload = terminal.start(upload);
    wait_until("the server is killed", || !server.is_running());
    server.restart();
    assert!(upload.wait().unwrap().success());
    let source = fs::read(terminal.path().join("big.bin")).unwrap();
    assert!(server.file("upload/big.bin").unwrap() == source, "the file has other bytes");
}

#[test]
fn a_client_in_ten_lines() {
    let server = Server::start(ServerOptions::new());
    let address = server.address().to_string();
    Terminal::new().run(&block("protocol.md", "curl", &[("127.0.0.1:8080", &address)]));
    assert_eq!(server.file("upload/curl.bin").unwrap(), b"hello, fragment");
    assert_staging_empty(&server.files());
}

#[test]
fn a_certificate_of_ones_own() {
    let terminal = Terminal::new();
    terminal.run(&block("install.md", "certificate", &[]));
    let folder = terminal.path().display();
    let listener = format!(
        "[[listeners]]\naddress = \"$LISTENER\"\ncertificate = \"{folder}/cert.pem\"\nkey = \"{folder}/key.pem\"\n"
    );
    let server = Server::start(ServerOptions::new().config(&listener));
    let url = format!("https://localhost:{}/upload/cert.pem", server.listener_address().port());
    terminal.run(&format!("bits upload cert.pem {url} --ca-file cert.pem --retry-for 0s"));
    assert!(server.file("upload/cert.pem").is_some());
}

/// The database may be older than the files, or both be old: clients are sent back, nothing is wrong.
#[test]
fn a_backup_is_put_back() {
    for files_too in [true, false] {
        let mut server = Server::start(ServerOptions::new());
        let terminal = Terminal::new();
        let data = server.data_dir().display().to_string();
        let mut upload = Upload::new(server.address(), "/upload/file.bin", 4, 900_000);
        upload.create().unwrap();
        upload.fragment(300_000).unwrap();
        Upload::new(server.address(), "/upload/whole.bin", 5, 100_000).run(50_000).unwrap();
        terminal.run(&block("backup.md", "backup", &[("bits-data", &data)]));

        upload.fragment(300_000).unwrap();
        let mut later = Upload::new(server.address(), "/upload/later.bin", 6, 200_000);
        later.create().unwrap();
        later.fragment(100_000).unwrap();
        server.kill();
        let restore = block("backup.md", "restore", &[("bits-data", &data)]);
        let lines = restore.lines().filter(|line| files_too || !line.contains("files"));
        terminal.run(&lines.collect::<Vec<_>>().join("\n"));
        server.launch();

        upload.disconnect();
        assert_eq!(upload.ask_next().unwrap(), 300_000, "the client is sent back to what the backup knows");
        upload.fragments(300_000).unwrap();
        upload.close().unwrap();
        assert!(server.file("upload/file.bin").unwrap() == upload.content, "the file has other bytes");
        assert!(server.file("upload/whole.bin").unwrap() == pattern(5, 100_000), "the file has other bytes");
        later.disconnect();
        let response = later.ask(&Packet::close(later.form, &later.path, later.session())).unwrap();
        assert_eq!(response.hresult(), Some(0x8020_001F), "it began after the backup");
        Upload::new(server.address(), "/upload/later.bin", 6, 200_000).run(100_000).unwrap();
        assert_ok(&server.raw().ping("/upload/file"), 200);
    }
}
