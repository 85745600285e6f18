//! Starts that must fail: each says what is wrong, where, and what to do, and with which exit
//! status.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{FileExt, symlink},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use sqlx::Connection;
use tempfile::TempDir;
use tests::{ReadOnlyView, Server, ServerOptions, Upload, assert_ok, pattern};

const FRAGMENT: u64 = 64 * 1024;

/// Starts a server that must end with this status, and gives what it said to people.
#[track_caller]
fn fails(server: &mut Server, status: i32) -> String {
    server.spawn();
    let ended = server.wait();
    assert_eq!(ended.code(), Some(status), "{}", server.log());
    let log = server.log();
    let said: Vec<&str> = log.lines().filter_map(|line| line.strip_prefix("bits-server: ")).collect();
    assert!(!log.contains("panicked"), "{log}");
    assert!(!said.is_empty(), "it ended without a word: {log}");
    said.join("\n")
}

#[track_caller]
fn assert_says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "{word:?} is missing in {said:?}");
    }
}

/// A data folder with a finished upload and one under way, and nobody using it.
fn used_data_folder(disk: &Path) -> Upload {
    let mut server = Server::start(ServerOptions::new().config("shutdown_grace = \"1s\"").data_dir(disk));
    Upload::new(server.address(), "/upload/done.bin", 1, FRAGMENT as usize).run(FRAGMENT).unwrap();
    let mut upload = Upload::new(server.address(), "/upload/file.bin", 2, 3 * FRAGMENT as usize);
    upload.create().unwrap();
    upload.fragment(FRAGMENT).unwrap();
    upload.disconnect();
    assert_eq!(server.terminate().code(), Some(0));
    upload
}

fn on(folder: &Path) -> Server {
    Server::prepare(ServerOptions::new().config("shutdown_grace = \"1s\"").data_dir(folder))
}

#[test]
fn a_data_folder_that_cannot_be_made() {
    let folder = TempDir::new().unwrap();
    let view = ReadOnlyView::of(folder.path());
    let data = view.path().join("data");
    let said = fails(&mut on(&data), 1);
    assert_says(&said, &["data_dir", data.to_str().unwrap(), "Read-only file system", "check"]);
}

#[test]
fn a_data_folder_that_takes_no_writes() {
    let folder = TempDir::new().unwrap();
    used_data_folder(folder.path());
    let view = ReadOnlyView::of(folder.path());
    let said = fails(&mut on(view.path()), 1);
    assert_says(&said, &["data_dir", view.path().to_str().unwrap(), "Read-only file system"]);
}

#[test]
fn a_data_folder_that_is_a_file() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    fs::write(&data, "not a folder").unwrap();
    let said = fails(&mut on(&data), 1);
    assert_says(&said, &["data_dir", data.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(data).unwrap(), "not a folder");
}

#[test]
fn a_busy_port() {
    let mut server = Server::prepare(ServerOptions::new());
    let _busy = TcpListener::bind(server.address()).unwrap();
    let said = fails(&mut server, 1);
    assert_says(&said, &["listen", &server.address().to_string(), "another"]);
}

#[test]
fn a_busy_admin_port() {
    let mut server = Server::prepare(ServerOptions::new());
    let _busy = TcpListener::bind(server.admin_address()).unwrap();
    let said = fails(&mut server, 1);
    assert_says(&said, &["admin.listen", &server.admin_address().to_string(), "another"]);
}

#[test]
fn a_second_server_on_the_same_data_folder() {
    let folder = TempDir::new().unwrap();
    let first = Server::start(ServerOptions::new().data_dir(folder.path()));
    let mut upload = Upload::new(first.address(), "/upload/file.bin", 1, 2 * FRAGMENT as usize);
    upload.create().unwrap();
    let said = fails(&mut on(folder.path()), 1);
    let process = format!("process {}", first.pid());
    assert_says(&said, &["data_dir", folder.path().to_str().unwrap(), &process, "a path of its own"]);
    // The first one has noticed nothing.
    upload.fragments(FRAGMENT).unwrap();
    upload.close().unwrap();
    assert!(first.file("upload/file.bin").unwrap() == upload.content, "the file has other bytes");
}

/// Each has a data folder of its own, but the sessions are one's.
#[test]
fn a_second_server_on_the_same_database() {
    let (first, second) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let server = Server::start(ServerOptions::new().data_dir(first.path()));
    let database = first.path().join("state.db");
    symlink(first.path(), second.path().join("link")).unwrap();
    let config =
        format!("shutdown_grace = \"1s\"\n[state]\nurl = \"sqlite:{}\"", second.path().join("link/state.db").display());
    let mut other = Server::prepare(ServerOptions::new().config(&config).data_dir(second.path()));
    let said = fails(&mut other, 1);
    let process = format!("process {}", server.pid());
    assert_says(&said, &["state.url", database.to_str().unwrap(), &process, "a path of its own"]);
}

/// As when a service manager replaces one process by the next.
#[test]
fn a_server_that_waits_for_the_data_folder_can_be_stopped() {
    let disk = TempDir::new().unwrap();
    let _first = Server::start(ServerOptions::new().data_dir(disk.path()));
    let mut second = Server::prepare(ServerOptions::new().config("shutdown_grace = \"60s\"").data_dir(disk.path()));
    second.spawn();
    thread::sleep(Duration::from_secs(1));
    let start = Instant::now();
    assert_eq!(second.terminate().code(), Some(0), "{}", second.log());
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_second_server_waits_for_one_that_is_stopping() {
    let folder = TempDir::new().unwrap();
    let options = ServerOptions::new().config("shutdown_grace = \"10s\"").data_dir(folder.path());
    let mut first = Server::start(options.clone());
    let mut second = Server::prepare(options);
    second.spawn();
    thread::sleep(Duration::from_millis(500));
    assert!(second.is_running());
    assert_ok(&first.raw().ping("/upload/x"), 200);
    first.signal(Signal::TERM);
    let start = Instant::now();
    assert_eq!(first.wait().code(), Some(0));
    second.wait_ready();
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_ok(&second.raw().ping("/upload/x"), 200);
}

#[test]
fn a_state_file_that_is_something_else() {
    let folder = TempDir::new().unwrap();
    used_data_folder(folder.path());
    let state = folder.path().join("state.db");
    let garbage = pattern(3, 20_000);
    fs::write(&state, &garbage).unwrap();
    let said = fails(&mut on(folder.path()), 1);
    assert_says(&said, &["state.url", state.to_str().unwrap(), "not a session database", "move it away"]);
    assert!(fs::read(&state).unwrap() == garbage, "it must be left alone");
}

#[test]
fn a_state_file_that_is_damaged() {
    let folder = TempDir::new().unwrap();
    let mut upload = used_data_folder(folder.path());
    let state = folder.path().join("state.db");
    let sound = fs::read(&state).unwrap();
    // The schema, behind the file's header.
    fs::File::options().write(true).open(&state).unwrap().write_all_at(&pattern(4, 3000), 100).unwrap();
    let said = fails(&mut on(folder.path()), 1);
    assert_says(&said, &["state.url", state.to_str().unwrap(), "damaged", "backup"]);

    // A backup in its place is all that it takes.
    fs::write(&state, sound).unwrap();
    let mut server = on(folder.path());
    server.launch();
    upload.address = server.address();
    assert_eq!(upload.ask_next().unwrap(), FRAGMENT);
    upload.fragments(FRAGMENT).unwrap();
    upload.close().unwrap();
    assert!(server.file("upload/file.bin").unwrap() == upload.content, "the file has other bytes");
}

#[test]
fn a_state_file_of_a_newer_version() {
    let folder = TempDir::new().unwrap();
    used_data_folder(folder.path());
    let state = folder.path().join("state.db");
    let insert = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                  VALUES (99, 'of the future', 1, x'00', 0)";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut connection = sqlx::SqliteConnection::connect(&format!("sqlite:{}", state.display())).await.unwrap();
        sqlx::query(insert).execute(&mut connection).await.unwrap();
        sqlx::query("PRAGMA user_version = 99").execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    });
    let said = fails(&mut on(folder.path()), 1);
    assert_says(&said, &["state.url", state.to_str().unwrap(), "version 99", "newer"]);
}

#[test]
fn an_unknown_key() {
    let config = "[limits]\nconections = 5\n";
    let said = fails(&mut Server::prepare(ServerOptions::new().config(config)), 2);
    assert_says(&said, &["bits.toml:2", "limits.conections", "limits.connections"]);
    let mut server = Server::prepare(ServerOptions::new().env("BITS__STORAGE__SINC", "fragment"));
    assert_says(&fails(&mut server, 2), &["BITS__STORAGE__SINC", "BITS__STORAGE__SYNC"]);
}

#[test]
fn a_value_that_is_wrong_and_a_file_that_is_missing() {
    let mut server = Server::prepare(ServerOptions::new().config("shutdown_grace = \"soon\"\n"));
    assert_says(&fails(&mut server, 2), &["bits.toml:1", "shutdown_grace", "soon"]);
    let mut server = Server::prepare(ServerOptions::new().config("not toml at all\n"));
    assert_says(&fails(&mut server, 2), &["bits.toml:1"]);
}

/// A container may have no certificate authorities; who notifies nobody needs none.
#[test]
fn a_machine_without_authorities_takes_uploads() {
    let server = Server::start(ServerOptions::new().env("SSL_CERT_FILE", "/dev/null"));
    Upload::new(server.address(), "/upload/file.bin", 1, FRAGMENT as usize).run(FRAGMENT).unwrap();
}
