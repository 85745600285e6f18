//! What the server gives up before it serves: files outside its paths, programs, privileges,
//! core dumps.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{fs, os::unix::fs::symlink, path::Path};

use tempfile::TempDir;
use tests::{Form, Packet, Server, ServerOptions, Upload, assert_staging_empty, wait_until};

const CONFINED: &str = "confined to its paths; it can run no programs";
const OLD_KERNEL: &str = "not confined to its paths: the kernel has no Landlock, or an older one than version 2";
const TURNED_OFF: &str = "not confined to its paths: confine = false";
const THREADS: [&str; 3] = ["main", "worker", "blocking"];

/// A server that tries to read, make files beside, and run each of `paths`.
fn probing(config: &str, paths: &[&Path]) -> ServerOptions {
    let paths: Vec<&str> = paths.iter().map(|path| path.to_str().unwrap()).collect();
    ServerOptions::new().config(config).env("BITS_PROBE", &paths.join(":"))
}

/// What came of one attempt on each kind of thread.
fn outcomes(server: &Server, path: &Path, what: &str) -> Vec<String> {
    let log = server.log();
    let outcome = |thread: &str| {
        let wanted = [format!("thread=\"{thread}\""), format!("path={path:?}"), format!("what=\"{what}\"")];
        let line = log.lines().find(|line| wanted.iter().all(|word| line.contains(word)));
        let line = line.unwrap_or_else(|| panic!("no probe of {wanted:?} in {log}"));
        line.split("outcome=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
    };
    THREADS.map(outcome).to_vec()
}

/// An upload that is moved between folders, and the server still stops cleanly.
fn assert_works(server: &mut Server) {
    let mut upload = Upload::new(server.address(), "/upload/a/b/file.bin", 1, 300_000);
    upload.run(100_000).unwrap();
    assert_eq!(server.file("upload/a/b/file.bin").map(|bytes| bytes.len()), Some(300_000));
    assert_staging_empty(&server.files());
    assert_eq!(server.terminate().code(), Some(0));
    assert!(!server.log().contains("Permission denied"), "{}", server.log());
}

/// A folder with a file, and with a program.
fn outside() -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("secret"), "planted").unwrap();
    fs::copy("/bin/true", folder.path().join("program")).unwrap();
    folder
}

#[test]
fn nothing_outside_is_read_made_or_run() {
    let outside = outside();
    let (secret, program) = (outside.path().join("secret"), outside.path().join("program"));
    let mut server = Server::prepare(probing("", &[]));
    let own = server.data_dir().join("program");
    fs::create_dir(server.data_dir()).unwrap();
    fs::copy("/bin/true", &own).unwrap();
    server.options = probing("", &[&secret, &program, &own]);
    server.launch();
    if server.log().contains(CONFINED) {
        for (path, what) in [(&secret, "read"), (&secret, "make"), (&program, "run"), (&own, "run")] {
            assert_eq!(outcomes(&server, path, what), ["permission denied"; 3], "{what} {path:?}");
        }
    } else {
        assert!(server.log().contains(OLD_KERNEL), "{}", server.log());
        assert_eq!(outcomes(&server, &secret, "read"), ["done"; 3]);
    }
    for what in ["read", "make"] {
        assert_eq!(outcomes(&server, &own, what), ["done"; 3], "{what}");
    }
    assert_works(&mut server);
}

/// The password is `secret`.
const HASH: &str = "$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";
const JO: &str = "Basic am86c2VjcmV0";
const ANN: &str = "Basic YW5uOnNlY3JldA==";

/// The file is read again when it changes, and what takes its place is not followed to anywhere else.
#[test]
fn a_password_file_swapped_for_a_link_to_outside_is_not_read() {
    let (inside, outside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let users = inside.path().join("users");
    fs::write(&users, format!("jo:{HASH}\n")).unwrap();
    fs::write(outside.path().join("users"), format!("ann:{HASH}\n")).unwrap();
    let login = format!(
        "authentication = [\"basic\"]\nhtpasswd = {users:?}\n[limits]\nfailed_logins_per_minute = \"unlimited\""
    );
    let server = Server::start(ServerOptions::directory(&login));
    let status =
        |user: &str| server.raw().ask(&Packet::ping(Form::Native, "/upload/a").with("Authorization", user)).status;
    assert_eq!((status(JO), status(ANN)), (200, 401));

    let replace = |make: &dyn Fn(&Path)| {
        let new = inside.path().join("new");
        make(&new);
        fs::rename(new, &users).unwrap();
    };
    replace(&|new| symlink(outside.path().join("users"), new).unwrap());
    if server.log().contains(CONFINED) {
        wait_until("the file is looked at again", || {
            assert_eq!(status(ANN), 401);
            server.log().contains("Permission denied")
        });
    } else {
        assert!(server.log().contains(OLD_KERNEL), "{}", server.log());
    }
    replace(&|new| fs::write(new, format!("ann:{HASH}\n")).unwrap());
    wait_until("the new file is read", || status(ANN) == 200);
}

#[test]
fn the_log_says_what_the_kernel_can() {
    let trace = TempDir::new().unwrap();
    let file = trace.path().join("trace");
    let calls = "trace=landlock_create_ruleset,landlock_restrict_self";
    let strace = ["strace", "-f", "-o", file.to_str().unwrap(), "-e", calls];
    let server = Server::start(ServerOptions::new().wrapper(&strace));
    let trace = fs::read_to_string(&file).unwrap();
    let asked = trace.lines().find(|line| line.contains("LANDLOCK_CREATE_RULESET_VERSION")).unwrap();
    let version = asked.rsplit_once("= ").unwrap().1.split(' ').next().unwrap().parse::<i32>().unwrap();
    let restricted = trace.lines().any(|line| line.contains("landlock_restrict_self") && line.ends_with("= 0"));
    let (said, unsaid) = if version >= 2 { (CONFINED, OLD_KERNEL) } else { (OLD_KERNEL, CONFINED) };
    assert_eq!(restricted, version >= 2, "{trace}");
    assert!(server.log().contains(said) && !server.log().contains(unsaid), "{}", server.log());
}

#[test]
fn a_kernel_that_cannot_confine_still_serves() {
    for answer in ["error=ENOSYS", "error=EOPNOTSUPP", "retval=1"] {
        let outside = outside();
        let secret = outside.path().join("secret");
        let trace = outside.path().join("trace");
        let inject = format!("inject=landlock_create_ruleset:{answer}");
        let strace = ["strace", "-f", "-o", trace.to_str().unwrap(), "-e", &inject];
        let mut server = Server::start(probing("", &[&secret]).wrapper(&strace));
        assert!(server.log().contains(OLD_KERNEL), "{answer}: {}", server.log());
        assert_eq!(outcomes(&server, &secret, "read"), ["done"; 3], "{answer}");
        assert_works(&mut server);
    }
}

#[test]
fn a_kernel_that_refuses_ends_the_start() {
    let folder = TempDir::new().unwrap();
    let trace = folder.path().join("trace");
    let inject = "inject=landlock_restrict_self:error=E2BIG";
    let strace = ["strace", "-f", "-o", trace.to_str().unwrap(), "-e", inject];
    let mut server = Server::prepare(ServerOptions::new().wrapper(&strace));
    server.spawn();
    assert_eq!(server.wait().code(), Some(1));
    let log = server.log();
    // Without Landlock nothing is refused.
    assert!(log.contains("confine = false to serve without") || log.contains(OLD_KERNEL), "{log}");
}

#[test]
fn confinement_can_be_turned_off() {
    let outside = outside();
    let secret = outside.path().join("secret");
    let mut server = Server::start(probing("confine = false", &[&secret]));
    assert!(server.log().contains(TURNED_OFF), "{}", server.log());
    assert_eq!(outcomes(&server, &secret, "read"), ["done"; 3]);
    assert_works(&mut server);
}

#[test]
fn core_dumps_and_new_privileges_are_given_up_on_every_thread() {
    for config in ["", "confine = false"] {
        let server = Server::start(ServerOptions::new().config(config));
        let process = format!("/proc/{}", server.pid());
        let limits = fs::read_to_string(format!("{process}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
        for task in fs::read_dir(format!("{process}/task")).unwrap() {
            let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default();
            assert!(status.is_empty() || status.contains("NoNewPrivs:\t1"), "{status}");
        }
    }
}
