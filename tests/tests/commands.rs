//! The operator's commands, beside a running server and without one.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Output, Stdio},
};

use tests::{
    Server, ServerOptions, assert_error, assert_next, assert_staging_empty, client_binary, server_binary, wait_until,
};

const PATH: &str = "/upload/a%20b/file.bin";

fn run(server: &Server, arguments: &[&str]) -> Output {
    let mut command = Command::new(server_binary());
    command.args(arguments).arg("--config").arg(server.folder().join("bits.toml"));
    command.env("BITS__DATA_DIR", server.data_dir()).output().unwrap()
}

fn said(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A server without a configuration says what to type, and that works.
#[test]
fn a_newcomer_learns_what_to_type() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(server_binary());
    command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir", "data"]).current_dir(folder.path());
    command.env("BITS__ADMIN__LISTEN", "127.0.0.1:0").stdout(Stdio::piped()).stderr(Stdio::null());
    let mut server = command.spawn().unwrap();
    let lines = BufReader::new(server.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut typed: Vec<String> = Vec::new();
    for line in lines {
        typed.extend(line.strip_prefix("    ").map(str::to_owned));
        if typed.len() == 2 {
            break;
        }
    }
    let url = typed[0].strip_prefix("bits upload FILE ").unwrap();
    assert_eq!(typed[1], format!("Start-BitsTransfer -TransferType Upload -Source FILE -Destination {url}"));
    fs::write(folder.path().join("FILE"), "hello").unwrap();
    let mut client = Command::new(client_binary());
    client.args(["upload", "FILE", url]).current_dir(folder.path()).env("BITS_JOBS_DIR", folder.path().join("jobs"));
    said(&client.output().unwrap());
    assert_eq!(fs::read(folder.path().join("data/files/upload/FILE")).unwrap(), b"hello");
    server.kill().unwrap();
    server.wait().unwrap();
}

#[test]
fn sessions_are_listed_shown_and_cancelled() {
    for running in [true, false] {
        let mut server = Server::start(ServerOptions::new());
        let mut raw = server.raw();
        let session = raw.create(PATH);
        assert_next(&raw.fragment(PATH, &session, 0, b"hello", 11), 5);
        if !running {
            server.terminate();
        }
        let listed = said(&run(&server, &["sessions", "list"]));
        assert!(listed.contains(&session) && listed.contains("5/11"), "{listed}");
        assert!(listed.trim_end().ends_with("\n1 live session"), "{listed}");
        let shown = said(&run(&server, &["sessions", "show", &session]));
        for line in ["user            anonymous", "destination     /upload/a b/file.bin", "retry_at        -"] {
            assert!(shown.lines().any(|it| it == line), "{line} is not in {shown}");
        }
        assert!(!said(&run(&server, &["sessions", "list", "--idle", "1d"])).contains(&session));
        assert!(!said(&run(&server, &["sessions", "list", "--user", "somebody@else"])).contains(&session));
        for (path, is_there) in [("/upload/a", true), ("/UpLoad/a", true), ("/UPLOAD", true), ("/upload/A", false)] {
            let listed = said(&run(&server, &["sessions", "list", "--path", path]));
            assert_eq!(listed.contains(&session), is_there, "{path}: {listed}");
        }
        assert!(said(&run(&server, &["sessions", "show", &session, "--json"])).contains("\"received\": 5"));
        assert_eq!(run(&server, &["sessions", "retry", &session]).status.code(), Some(1), "it is not stuck");

        let cancelled = run(&server, &["sessions", "cancel", session.trim_matches(['{', '}'])]);
        assert!(said(&cancelled).contains("cancelled"));
        let audit = String::from_utf8(cancelled.stderr).unwrap();
        assert!(audit.contains("audit") && audit.contains(&session), "{audit}");
        assert_eq!(run(&server, &["sessions", "cancel", &session]).status.code(), Some(1), "it is over");
        if !running {
            server.launch();
        }
        wait_until("its data is gone", || {
            std::fs::read_dir(server.files().join("upload/BITS-Sessions")).map_or(0, Iterator::count) == 0
        });
        assert_staging_empty(&server.files());
        assert_error(&server.raw().fragment(PATH, &session, 5, b"world", 11), 500, 0x8020_001F);
    }
}

#[test]
fn an_unknown_session_and_a_wrong_id_are_told_apart() {
    let server = Server::start(ServerOptions::new());
    let unknown = run(&server, &["sessions", "show", "{7df0354d-249b-430f-820d-3d2a9bef4931}"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there is no session"));
    assert_eq!(run(&server, &["sessions", "show", "nonsense"]).status.code(), Some(2));
}

#[test]
fn a_configuration_is_checked_and_a_database_migrated() {
    let server = Server::prepare(ServerOptions::new());
    std::fs::write(server.folder().join("bits.toml"), "[[directories]]\nurl_path = \"/in\"\n").unwrap();
    let missing = run(&server, &["sessions", "list"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("migrate"), "it says how to get one");
    assert!(said(&run(&server, &["check"])).contains("url_path = \"/in\""));
    said(&run(&server, &["migrate"]));
    assert!(said(&run(&server, &["sessions", "list"])).contains("0 live sessions"));
    let elsewhere = "data_dir = \"unused\"\n[state]\nurl = \"sqlite:elsewhere.db\"\n";
    std::fs::write(server.folder().join("bits.toml"), elsewhere).unwrap();
    let mut migrate = Command::new(server_binary());
    said(&migrate.args(["migrate", "--config"]).arg(server.folder().join("bits.toml")).output().unwrap());
    assert!(server.folder().join("elsewhere.db").exists());
    assert!(!server.folder().join("unused").exists(), "a folder was made that nothing was put in");
    std::fs::write(server.folder().join("bits.toml"), "shutdown_grease = \"1s\"\n").unwrap();
    let wrong = run(&server, &["check"]);
    assert_eq!(wrong.status.code(), Some(2));
    let complaint = String::from_utf8(wrong.stderr).unwrap();
    assert!(complaint.contains("bits.toml:1") && complaint.contains("shutdown_grace"), "{complaint}");
}
