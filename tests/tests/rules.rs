//! Rules that take more than one exchange: configuration that changes, time that passes, files that
//! vanish, permissions.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use tests::{
    Form, Packet, Raw, Server, ServerOptions, assert_error, assert_invariants, assert_next, assert_ok,
    assert_staging_empty, list_files, wait_until,
};

const ACCESS_DENIED: u32 = 0x8007_0005;
const DISK_FULL: u32 = 0x8007_0070;
const SESSION_NOT_FOUND: u32 = 0x8020_001F;
const PATH: &str = "/upload/a";

/// Section 3.2.4.2: disabling uploads deletes the data of the directory's sessions, and no other's.
#[test]
fn disabling_a_directory_deletes_the_data_of_its_sessions() {
    let config = |enabled: bool| {
        ServerOptions::new().config(&format!(
            "[[directories]]\nurl_path = \"/upload\"\nupload_enabled = {enabled}\n[[directories]]\nurl_path = \"/other\"\n"
        ))
    };
    let mut server = Server::start(config(true));
    let mut raw = server.raw();
    let (session, published, other) = (raw.create(PATH), raw.create("/upload/done"), raw.create("/other/a"));
    assert_next(&raw.fragment(PATH, &session, 0, b"hello", 10), 5);
    assert_next(&raw.fragment("/upload/done", &published, 0, b"hello", 5), 5);
    assert_next(&raw.fragment("/other/a", &other, 0, b"hello", 10), 5);
    server.restart_with(config(false));
    assert_error(&server.raw().fragment(PATH, &session, 5, b"world", 10), 501, ACCESS_DENIED);
    wait_until("the data is gone", || list_files(&server.files().join("upload")) == ["done"]);
    assert_next(&server.raw().fragment("/other/a", &other, 5, b"world", 10), 10);
    server.restart_with(config(true));
    assert_error(&server.raw().fragment(PATH, &session, 5, b"world", 10), 500, SESSION_NOT_FOUND);
    assert_eq!(server.file("upload/done").as_deref(), Some(b"hello".as_slice()));
    assert_eq!(server.file("other/a").as_deref(), Some(b"helloworld".as_slice()));
}

/// Section 3.2.6.1: a session without progress for `session_timeout` is removed with its data.
#[test]
fn a_session_without_progress_expires() {
    let options = ServerOptions::directory("session_timeout = \"3s\"\ncleanup_interval = \"1s\"");
    let server = Server::start(options);
    let mut raw = server.raw();
    let (idle, busy) = (raw.create(PATH), raw.create("/upload/busy"));
    assert_next(&raw.fragment(PATH, &idle, 0, b"hello", 10), 5);
    for first in 0..8 {
        thread::sleep(Duration::from_millis(600));
        // Progress resets the clock.
        assert_next(&raw.fragment("/upload/busy", &busy, first, b"x", 8), first + 1);
    }
    wait_until("the idle session's data is gone", || list_files(&server.files()) == ["upload/busy"]);
    assert_error(&raw.fragment(PATH, &idle, 5, b"world", 10), 500, SESSION_NOT_FOUND);
    assert_error(&raw.close(PATH, &idle), 500, SESSION_NOT_FOUND);
}

/// Decision 12: an ended session is remembered for `session_timeout`, and no longer.
#[test]
fn an_ended_session_is_forgotten_after_the_session_timeout() {
    let server = Server::start(ServerOptions::directory("session_timeout = \"2s\"\ncleanup_interval = \"1s\""));
    let mut raw = server.raw();
    let session = raw.create(PATH);
    assert_next(&raw.fragment(PATH, &session, 0, b"hello", 5), 5);
    assert_ok(&raw.close(PATH, &session), 200);
    assert_ok(&raw.close(PATH, &session), 200);
    wait_until("it is forgotten", || raw.close(PATH, &session).status == 500);
    assert_error(&raw.close(PATH, &session), 500, SESSION_NOT_FOUND);
    assert_eq!(server.file("upload/a").as_deref(), Some(b"hello".as_slice()));
}

/// The error table, `session_limit_per_user`: anonymous callers have no limit.
#[test]
fn anonymous_callers_have_no_limit_of_sessions() {
    let server = Server::start(ServerOptions::directory("session_limit_per_user = 2"));
    let mut raw = server.raw();
    for number in 0..60 {
        raw.create(&format!("/upload/{number}"));
    }
}

/// Section 3.2.5.2.7: what vanished before it was published at Close-Session is 404.
#[test]
fn staged_data_that_vanished_before_close_is_not_found() {
    for form in Form::ALL {
        let server = Server::start(ServerOptions::directory("publish = \"close-session\""));
        let mut raw = server.raw_in(form);
        let session = raw.create(PATH);
        assert_next(&raw.fragment(PATH, &session, 0, b"hello", 5), 5);
        remove_staged(&server);
        // However often it asks: the ack may have been lost.
        for _ in 0..3 {
            assert_error(&raw.close(PATH, &session), 404, 0x8007_0002);
        }
        assert!(server.file("upload/a").is_none());
        // Sent again, it is all there.
        assert_next(&raw.fragment(PATH, &session, 0, b"hello", 5), 5);
        assert_ok(&raw.close(PATH, &session), 200);
        assert_eq!(server.file("upload/a").as_deref(), Some(b"hello".as_slice()));
    }
}

/// The same of a client that gives up.
#[test]
fn a_client_gives_up_what_vanished_by_cancelling() {
    for form in Form::ALL {
        let server = Server::start(ServerOptions::directory("publish = \"close-session\""));
        let mut raw = server.raw_in(form);
        let session = raw.create(PATH);
        assert_next(&raw.fragment(PATH, &session, 0, b"hello", 5), 5);
        remove_staged(&server);
        assert_error(&raw.close(PATH, &session), 404, 0x8007_0002);
        assert_ok(&raw.cancel(PATH, &session), 200);
        assert_staging_empty(&server.files());
    }
}

/// The session never fails for bytes that are missing: the next ack sends the client back.
#[test]
fn staged_data_that_vanished_between_fragments_is_asked_for_again() {
    for restart in [false, true] {
        let mut server = Server::start(ServerOptions::new());
        let session = server.raw().create(PATH);
        assert_next(&server.raw().fragment(PATH, &session, 0, b"hello", 10), 5);
        remove_staged(&server);
        if restart {
            server.restart();
        }
        let mut raw = server.raw();
        let response = raw.fragment(PATH, &session, 5, b"world", 10);
        let next = response.next_offset();
        assert!(matches!(response.status, 200 | 416) && next == Some(0), "{response:#?}");
        assert_next(&raw.fragment(PATH, &session, 0, b"helloworld", 10), 10);
        assert_ok(&raw.close(PATH, &session), 200);
        assert_eq!(server.file("upload/a").as_deref(), Some(b"helloworld".as_slice()));
        assert_staging_empty(&server.files());
    }
}

/// Bytes that are missing at the end of the staged file are asked for again; the rest is kept.
#[test]
fn staged_data_that_was_cut_short_is_asked_for_again() {
    let mut server = Server::start(ServerOptions::new());
    let session = server.raw().create(PATH);
    assert_next(&server.raw().fragment(PATH, &session, 0, b"hello", 10), 5);
    server.kill();
    let staged = staged(&server);
    fs::File::options().write(true).open(&staged[0]).unwrap().set_len(3).unwrap();
    server.launch();
    let response = server.raw().fragment(PATH, &session, 5, b"world", 10);
    let next = response.next_offset().expect("the ack says where to go on");
    assert!(next <= 3, "{response:#?}");
    let rest = &b"helloworld"[usize::try_from(next).unwrap()..];
    assert_next(&server.raw().fragment(PATH, &session, next, rest, 10), 10);
    assert_eq!(server.file("upload/a").as_deref(), Some(b"helloworld".as_slice()));
}

/// `file_mode` and `folder_mode`, whatever the umask.
#[test]
fn published_files_and_folders_have_the_configured_permissions() {
    for (lines, file, folder) in [
        ("", 0o640, 0o2750),
        ("file_mode = \"0600\"\nfolder_mode = \"0700\"", 0o600, 0o700),
        ("file_mode = \"0664\"\nfolder_mode = \"2775\"", 0o664, 0o2775),
    ] {
        for umask in ["000", "077"] {
            let shell = format!("umask {umask}; exec \"$@\"");
            let server = Server::start(ServerOptions::directory(lines).wrapper(&["sh", "-c", &shell, "sh"]));
            let mut raw = server.raw();
            let session = raw.create("/upload/x/y/a");
            assert_next(&raw.fragment("/upload/x/y/a", &session, 0, b"hello", 5), 5);
            assert_eq!(mode(&server.files().join("upload/x/y/a")), file, "file, umask {umask}");
            assert_eq!(mode(&server.files().join("upload")), folder, "the directory's own, umask {umask}");
            assert_eq!(mode(&server.files().join("upload/x")), folder, "outer folder, umask {umask}");
            assert_eq!(mode(&server.files().join("upload/x/y")), folder, "inner folder, umask {umask}");
        }
    }
}

/// The data folder holds what clients sent and the database: nobody else may read it.
#[test]
fn what_is_under_way_is_not_for_others() {
    let shell = "umask 000; exec \"$@\"";
    let server = Server::start(ServerOptions::new().wrapper(&["sh", "-c", shell, "sh"]));
    let mut raw = server.raw();
    let session = raw.create(PATH);
    assert_next(&raw.fragment(PATH, &session, 0, b"hello", 10), 5);
    for path in staged(&server).iter().chain([&server.data_dir().join("state.db")]) {
        assert_eq!(mode(path) & 0o007, 0, "others reach {}", path.display());
    }
}

/// `store_as` with a date, and `storage_path`.
#[test]
fn uploads_are_stored_where_the_directory_says() {
    let config = "[[directories]]\nurl_path = \"/upload\"\nstorage_path = \"in/box\"\nstore_as = \"{date}/{path}\"\n";
    let server = Server::start(ServerOptions::new().config(config));
    let mut raw = server.raw();
    let session = raw.create("/upload/x/a");
    assert_next(&raw.fragment("/upload/x/a", &session, 0, b"hello", 10), 5);
    let under_way = list_files(&server.files());
    assert!(under_way.iter().all(|file| file.starts_with("in/box/BITS-Sessions/")), "{under_way:?}");
    assert_next(&raw.fragment("/upload/x/a", &session, 5, b"world", 10), 10);
    let files = list_files(&server.files());
    let [file] = &files[..] else { panic!("one file: {files:?}") };
    let parts: Vec<&str> = file.split('/').collect();
    let [_, _, date, _, _] = parts[..] else { panic!("{file}") };
    assert_eq!(file, &format!("in/box/{date}/x/a"));
    let digits: Vec<usize> = date.split('-').map(str::len).collect();
    assert_eq!(digits, [4, 2, 2], "{date}");
}

/// Rows hold the resolved name: a configuration that changes does not move live sessions.
#[test]
fn a_changed_configuration_does_not_move_live_sessions() {
    let mut server = Server::start(ServerOptions::new());
    let session = server.raw().create(PATH);
    assert_next(&server.raw().fragment(PATH, &session, 0, b"hello", 10), 5);
    server.restart_with(ServerOptions::directory("storage_path = \"elsewhere\""));
    assert_next(&server.raw().fragment(PATH, &session, 5, b"world", 10), 10);
    assert_ok(&server.raw().close(PATH, &session), 200);
    assert_eq!(list_files(&server.files()), ["upload/a"]);
    let session = server.raw().create(PATH);
    assert_next(&server.raw().fragment(PATH, &session, 0, b"new", 3), 3);
    assert_eq!(list_files(&server.files()), ["elsewhere/a", "upload/a"]);
}

/// Error table: what the storage denies is E_ACCESSDENIED, and the session goes on once it does not.
#[test]
fn a_folder_that_may_not_be_written_denies_access() {
    let data = tempfile::tempdir().unwrap();
    let locked = data.path().join("files/upload/locked");
    fs::create_dir_all(&locked).unwrap();
    let mut options = ServerOptions::new().data_dir(data.path());
    if rustix::process::getuid().is_root() {
        // Permissions do not bind root.
        options = options.wrapper(&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
        for folder in ["", "files", "files/upload", "files/upload/locked"] {
            chown(data.path().join(folder), Some(65534), Some(65534)).unwrap();
        }
    }
    let server = Server::start(options);
    let path = "/upload/locked/a";
    let mut raw = server.raw();
    let session = raw.create(path);
    assert_next(&raw.fragment(path, &session, 0, b"hello", 10), 5);
    fs::set_permissions(&locked, Permissions::from_mode(0o555)).unwrap();
    assert_error(&raw.fragment(path, &session, 5, b"world", 10), 403, ACCESS_DENIED);
    fs::set_permissions(&locked, Permissions::from_mode(0o000)).unwrap();
    assert_error(&raw.ask(&Packet::create(Form::Native, "/upload/locked/b")), 403, ACCESS_DENIED);
    assert_error(&raw.fragment(path, &session, 5, b"world", 10), 403, ACCESS_DENIED);
    fs::set_permissions(&locked, Permissions::from_mode(0o755)).unwrap();
    assert_next(&raw.fragment(path, &session, 5, b"world", 10), 10);
    assert_eq!(server.file("upload/locked/a").as_deref(), Some(b"helloworld".as_slice()));
    assert_ok(&raw.close(path, &session), 200);
    assert_staging_empty(&server.files());
}

/// Error table, decision 6, `reserve_free`: with less than that free, uploads are refused as disk
/// full; cancelling still works, and with room again the session goes on.
#[test]
fn below_the_reserve_the_disk_is_full() {
    let config = |reserve: &str| ServerOptions::new().config(&format!("[storage]\nreserve_free = \"{reserve}\"\n"));
    let mut server = Server::start(config("1MiB"));
    let mut raw = server.raw();
    let (kept, given_up) = (raw.create(PATH), raw.create("/upload/b"));
    assert_next(&raw.fragment("/upload/b", &given_up, 0, b"hello", 10), 5);
    server.kill();
    server.options = config("4096TiB");
    server.spawn();
    wait_until("the server answers", || server.admin_get("/healthz").is_ok_and(|status| status == 200));
    let mut raw = server.raw();
    assert_error(&raw.fragment(PATH, &kept, 0, b"hello", 10), 500, DISK_FULL);
    assert_ok(&raw.cancel("/upload/b", &given_up), 200);
    assert_staging_empty(&server.files());
    server.restart_with(config("1MiB"));
    assert_next(&server.raw().fragment(PATH, &kept, 0, b"helloworld", 10), 10);
    assert_eq!(list_files(&server.files()), ["upload/a"]);
}

/// One audit line for each ended session, with fixed fields.
#[test]
fn every_ended_session_has_one_audit_line() {
    let server = Server::start(ServerOptions::new().env("RUST_LOG", "info"));
    let mut raw = server.raw();
    let published = raw.create("/upload/one");
    assert_next(&raw.fragment("/upload/one", &published, 0, b"hello", 5), 5);
    assert_ok(&raw.close("/upload/one", &published), 200);
    assert_ok(&raw.close("/upload/one", &published), 200);
    let cancelled = raw.create("/upload/two");
    assert_next(&raw.fragment("/upload/two", &cancelled, 0, b"hel", 5), 3);
    assert_ok(&raw.cancel("/upload/two", &cancelled), 200);
    let closed = raw.create("/upload/three");
    assert_ok(&raw.close("/upload/three", &closed), 200);
    let log = server.log();
    for (session, name) in [(&published, "upload/one"), (&cancelled, "upload/two"), (&closed, "upload/three")] {
        let lines: Vec<&str> =
            log.lines().filter(|line| line.contains(" audit: ") && line.contains(session.as_str())).collect();
        let [line] = lines[..] else { panic!("one audit line for {name}: {lines:#?}") };
        for field in ["principal=", "address=127.0.0.1", "directory=\"/upload\"", "size=", "outcome=", "duration="] {
            assert!(line.contains(field), "{field} in {line}");
        }
        assert!(line.contains(&format!("name=\"{name}\"")), "{line}");
    }
}

/// No secrets in the log: neither queries, which hold tokens, nor headers.
#[test]
fn secrets_are_not_logged() {
    let server = Server::start(ServerOptions::new());
    let mut raw = server.raw();
    for path in ["/upload/a?access_token=S3CRET", "/other/a?access_token=S3CRET", "/upload/nul?access_token=S3CRET"] {
        let packet = Packet::create(Form::Native, path).with("Authorization", "Basic S3CRET").with("Cookie", "S3CRET");
        assert_invariants(&raw.ask(&packet));
        assert_invariants(&raw.ask(&packet.with("BITS-Packet-Type", "S3CRET")));
    }
    assert!(server.log().contains("/upload/a"), "packets are logged");
    assert!(!server.log().contains("S3CRET"), "a secret is in the log");
}

/// Health is asked for on the admin listener only, and packets are taken on the others only.
#[test]
fn health_and_packets_do_not_mix() {
    let server = Server::start(ServerOptions::new());
    for path in ["/healthz", "/readyz"] {
        assert_eq!(server.admin_get(path).unwrap(), 200);
        let mut raw = server.raw();
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        assert_eq!(raw.receive().status, 404);
    }
    let mut admin = Raw::connect(server.admin_address());
    let response = admin.ask(&Packet::create(Form::Native, PATH));
    assert!(response.status >= 400 && response.header("BITS-Packet-Type").is_none(), "{response:#?}");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
}

/// The files of uploads under way.
fn staged(server: &Server) -> Vec<PathBuf> {
    let files = list_files(&server.files());
    let staged = files.iter().filter(|file| file.contains("BITS-Sessions")).map(|file| server.files().join(file));
    let staged: Vec<PathBuf> = staged.collect();
    assert!(!staged.is_empty(), "something is under way");
    staged
}

fn remove_staged(server: &Server) {
    staged(server).iter().for_each(|file| fs::remove_file(file).expect("it was there"));
}

/// Lines of one request can be told from those of others.
#[test]
fn lines_of_refused_packets_carry_the_requests_id() {
    let server = Server::start(ServerOptions::new());
    assert_error(&server.raw().ask(&Packet::create(Form::Native, "/upload/nul")), 400, 0x8007_007B);
    wait_until("it is logged", || server.log().contains("packet refused"));
    let log = server.log();
    let line = log.lines().find(|line| line.contains("packet refused")).unwrap();
    assert!(line.contains("request{id="), "{line}");
}
