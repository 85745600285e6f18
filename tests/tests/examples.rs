//! The libraries' examples, as programs: another client, and another server.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
};

use tests::{Server, ServerOptions, Upload, assert_staging_empty, example, pattern, wait_until};

/// A process that ends with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_client_goes_on_after_it_was_killed() {
    let server = Server::start(ServerOptions::new());
    let folder = tempfile::tempdir().unwrap();
    let content = pattern(1, 64 << 20);
    fs::write(folder.path().join("file"), &content).unwrap();
    let url = server.url("/upload/file.bin");
    let start = || {
        let mut client = Command::new(example("bits-client", "upload"));
        Program(client.args(["file", &url]).current_dir(folder.path()).stdout(Stdio::null()).spawn().unwrap())
    };
    let first = start();
    wait_until("the job is kept", || {
        fs::read_to_string(folder.path().join("file.job")).is_ok_and(|job| job.contains("\"received\":"))
    });
    drop(first);
    assert!(start().0.wait().unwrap().success());
    assert!(server.file("upload/file.bin").unwrap() == content, "the file has other bytes");
    assert!(!folder.path().join("file.job").exists());
    assert_staging_empty(&server.files());
}

#[test]
fn another_program_takes_uploads() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Command::new(example("bits-engine", "axum"));
    let mut running = program.arg("127.0.0.1:0").current_dir(folder.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    // Kept open: it says what happens to uploads there.
    let mut output = BufReader::new(running.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    let _running = Program(running);
    let address = line.trim().rsplit(' ').next().unwrap().parse().unwrap();
    Upload::new(address, "/upload/file.bin", 2, 300_000).run(100_000).unwrap();
    assert!(fs::read(folder.path().join("axum-data/files/upload/file.bin")).unwrap() == pattern(2, 300_000));
}

#[test]
fn the_whole_server_runs_within_another_program() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Command::new(example("bits-server", "embedded"));
    program.env("BITS__LISTEN", "127.0.0.1:0").env("BITS__DATA_DIR", folder.path());
    let mut running = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (input, mut output) = (running.stdin.take(), BufReader::new(running.stdout.take().unwrap()));
    let mut running = Program(running);
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let address = line.trim().rsplit(' ').next().unwrap().parse().unwrap();
    Upload::new(address, "/upload/file.bin", 2, 300_000).run(100_000).unwrap();
    assert!(fs::read(folder.path().join("files/upload/file.bin")).unwrap() == pattern(2, 300_000));
    drop(input);
    assert!(running.0.wait().unwrap().success());
    let mut said = String::new();
    output.read_to_string(&mut said).unwrap();
    assert!(said.contains("/upload/file.bin: Published"), "{said}");
}

#[test]
fn a_server_that_does_nothing_decides_everything() {
    let requests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bits-core/examples/upload.txt");
    let mut program = Command::new(example("bits-core", "dry_run"));
    let output = program.stdin(File::open(requests).unwrap()).output().unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("BITS-Session-Id") || said.contains("bits-session-id"), "{said}");
}
