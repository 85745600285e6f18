//! The systemd unit: how exposed it leaves the service, and that the server serves within it.
//!
//! There is no systemd to run it here (`systemd.rs` plays its part), so that its parts are tested one by one: user, privileges
//! and folders are set up without it, and the system calls that the server makes are held
//! against the unit's filter.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;
use tests::{Server, ServerOptions, Upload, assert_staging_empty, require_root, server_binary};

const UNIT: &str = "bits-server.service";
/// No other user of the system.
const USER: u32 = 65534;

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd")
}

fn unit() -> String {
    fs::read_to_string(packaging().join(UNIT)).unwrap()
}

/// The values of a setting in their order.
fn values(name: &str) -> Vec<String> {
    let unit = unit();
    let value = |line: &str| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_owned());
    unit.lines().filter_map(value).collect()
}

fn systemd_analyze(arguments: &[&str]) -> String {
    let output = Command::new("systemd-analyze").args(arguments).output().expect("systemd-analyze is installed");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {text}");
    text
}

#[test]
fn the_unit_is_exposed_to_2_at_most() {
    let unit = packaging().join(UNIT);
    let report = systemd_analyze(&["security", "--offline=true", "--no-pager", unit.to_str().unwrap()]);
    let overall = report.lines().find(|line| line.contains("Overall exposure level")).unwrap();
    let score: f64 = overall.split(": ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(score <= 2.0, "{report}");
    assert_eq!(values("LimitCORE"), ["0"]);
}

#[test]
fn the_units_have_no_mistakes() {
    let folder = TempDir::new().unwrap();
    for name in [UNIT, "bits-server.socket"] {
        // The program is not installed here, nor its pages; the user is not made.
        let text = fs::read_to_string(packaging().join(name)).unwrap();
        let text = text.replace("/usr/bin/bits-server", server_binary().to_str().unwrap());
        let text = text.replace("=bits-server\n", "=root\n").replace("man:bits-server(1)", "");
        fs::write(folder.path().join(name), text).unwrap();
    }
    let (service, socket) = (folder.path().join(UNIT), folder.path().join("bits-server.socket"));
    let said = systemd_analyze(&["verify", service.to_str().unwrap(), socket.to_str().unwrap()]);
    let about_them: Vec<&str> = said.lines().filter(|line| line.contains("bits-server.")).collect();
    assert!(about_them.is_empty(), "{about_them:#?}");
}

/// An ordinary user without any privilege, a file system that can be written nowhere but in the
/// data folder, and the unit's umask.
#[test]
fn an_ordinary_user_serves_where_only_the_data_folder_can_be_written() {
    require_root();
    let mut server = Server::prepare(ServerOptions::new());
    let program = server.folder().join("bits-server");
    fs::copy(server_binary(), &program).unwrap();
    fs::create_dir(server.data_dir()).unwrap();
    chown(server.data_dir(), Some(USER), Some(USER)).unwrap();
    fs::set_permissions(server.folder(), Permissions::from_mode(0o755)).unwrap();
    let script = format!(
        "set -e; shift; mount --bind {data} {data}; mount -o remount,bind,ro /; umask {umask}; cd /; \
         exec setpriv --reuid={USER} --regid={USER} --clear-groups --no-new-privs --bounding-set=-all \
         --inh-caps=-all --ambient-caps=-all {program} \"$@\"",
        data = server.data_dir().display(),
        umask = values("UMask")[0],
        program = program.display(),
    );
    server.options = ServerOptions::new().wrapper(&["unshare", "--mount", "--ipc", "sh", "-c", &script, "sh"]);
    server.launch();
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    assert!(status.contains(&format!("Uid:\t{USER}\t")) && status.contains("CapBnd:\t0000000000000000"), "{status}");
    Upload::new(server.address(), "/upload/a/b/file.bin", 1, 300_000).run(100_000).unwrap();
    let folder = fs::metadata(server.files().join("upload/a")).unwrap();
    let file = fs::metadata(server.files().join("upload/a/b/file.bin")).unwrap();
    assert_eq!((folder.permissions().mode() & 0o7777, file.permissions().mode() & 0o7777), (0o2750, 0o640));
    assert_staging_empty(&server.files());
    assert_eq!(server.terminate().code(), Some(0));
}

#[test]
fn the_server_makes_no_system_call_that_the_unit_forbids() {
    let trace = TempDir::new().unwrap();
    let file = trace.path().join("trace");
    let mut server =
        Server::start(ServerOptions::new().wrapper(&["strace", "-f", "-qq", "-o", file.to_str().unwrap()]));
    Upload::new(server.address(), "/upload/a/file.bin", 1, 300_000).run(100_000).unwrap();
    let mut unfinished = Upload::new(server.address(), "/upload/b/file.bin", 2, 300_000);
    unfinished.create().unwrap();
    unfinished.fragment(100_000).unwrap();
    unfinished.disconnect();
    assert_eq!(server.terminate().code(), Some(0));

    let trace = fs::read_to_string(&file).unwrap();
    let made = calls(&trace);
    assert!(made.contains("renameat2") && made.contains("landlock_restrict_self"), "{made:?}");
    let allowed = allowed_calls();
    assert!(!allowed.contains("ptrace") && !allowed.contains("mount"), "{allowed:?}");
    // SQLite changes owners when it runs as root, as it does here.
    let forbidden: Vec<_> = made.difference(&allowed).filter(|call| *call != "fchown").collect();
    assert!(forbidden.is_empty(), "{forbidden:?}");

    let executable = trace.lines().find(|line| line.contains("PROT_WRITE|PROT_EXEC"));
    assert_eq!(executable, None, "MemoryDenyWriteExecute");
    let families = values("RestrictAddressFamilies").join(" ");
    for socket in trace.lines().filter_map(|line| line.split("socket(").nth(1)) {
        let family = socket.split(',').next().unwrap();
        assert!(families.split(' ').any(|allowed| allowed == family), "{socket}");
    }
}

/// The names of the system calls in what strace wrote.
fn calls(trace: &str) -> BTreeSet<String> {
    let call = |line: &str| {
        let name = line.split_once(' ')?.1.trim_start().split_once('(')?.0;
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_').then(|| name.to_owned())
    };
    trace.lines().filter_map(call).collect()
}

/// What `SystemCallFilter=` comes to: sets are named by `@`, a line with `~` takes away.
fn allowed_calls() -> BTreeSet<String> {
    let sets = call_sets();
    let mut allowed = expand(&sets, "@default");
    for line in values("SystemCallFilter") {
        let (taken, names) = line.strip_prefix('~').map_or((false, line.as_str()), |names| (true, names));
        for call in names.split(' ').flat_map(|name| expand(&sets, name)) {
            if taken {
                allowed.remove(&call)
            } else {
                allowed.insert(call)
            };
        }
    }
    allowed
}

fn call_sets() -> BTreeMap<String, Vec<String>> {
    let mut sets = BTreeMap::<String, Vec<String>>::new();
    let mut current = String::new();
    for line in systemd_analyze(&["--no-pager", "syscall-filter"]).lines() {
        match line.strip_prefix("    ") {
            Some(name) if !name.starts_with('#') => sets.entry(current.clone()).or_default().push(name.to_owned()),
            Some(_) => {}
            None => line.trim().clone_into(&mut current),
        }
    }
    sets
}

fn expand(sets: &BTreeMap<String, Vec<String>>, name: &str) -> BTreeSet<String> {
    if !name.starts_with('@') {
        return [name.to_owned()].into();
    }
    let names = sets.get(name).unwrap_or_else(|| panic!("systemd knows no {name}"));
    names.iter().flat_map(|name| expand(sets, name)).collect()
}
