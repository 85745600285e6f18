//! The Debian package on a machine: installed, upgraded while an upload is under way, removed.
//!
//! There is no systemd to run its units: what they say is read from the installed files and done,
//! with `systemd-socket-activate` and `setpriv` in its place.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::{Child, Stdio},
};

use tests::{Machine, debian_package, pattern, wait_until};

const SERVICE: &str = "usr/lib/systemd/system/bits-server.service";
const SOCKET: &str = "usr/lib/systemd/system/bits-server.socket";
const CONFIG: &str = "etc/bits-server/bits-server.toml";
const FILE: &str = "var/lib/bits-server/files/upload/big.bin";

/// A machine with the package in `/root`.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.put(&debian_package(), "root/bits-server.deb");
    machine
}

/// The value of a setting in an installed unit.
fn setting(machine: &Machine, unit: &str, name: &str) -> String {
    let text = fs::read_to_string(machine.path(unit)).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("{unit} has no {name}")).to_owned()
}

/// The service, as its unit starts it; ended when dropped.
struct Service<'a> {
    machine: &'a Machine,
    child: Child,
}

impl<'a> Service<'a> {
    fn start(machine: &'a Machine) -> Self {
        let (user, umask) = (setting(machine, SERVICE, "User"), setting(machine, SERVICE, "UMask"));
        let state = setting(machine, SERVICE, "StateDirectory");
        let line = format!(
            "install --directory --owner={user} --group={user} --mode=0750 /var/lib/{state}; umask {umask}; cd /; \
             exec setpriv --reuid={user} --regid={user} --clear-groups --no-new-privs systemd-socket-activate \
             --listen={} {}",
            setting(machine, SOCKET, "ListenStream"),
            setting(machine, SERVICE, "ExecStart"),
        );
        let child = machine.command(&["sh", "-c", &line]).stdout(Stdio::null()).spawn().unwrap();
        wait_until("it listens", || machine.shell("ss --listening --tcp --numeric | grep -q :8080").status.success());
        Self { machine, child }
    }
}

impl Drop for Service<'_> {
    fn drop(&mut self) {
        self.machine.shell("pkill --signal TERM --exact bits-server");
        let _ = self.child.kill();
        let _ = self.child.wait();
        wait_until("it has ended", || !self.machine.shell("pgrep --exact bits-server").status.success());
    }
}

/// The package as a later version, with another configuration file.
fn make_newer(machine: &Machine) {
    machine.run(
        "cd /root; dpkg-deb --raw-extract bits-server.deb newer; \
         sed -i 's/^Version: .*/Version: 99.0.0-1/' newer/DEBIAN/control; \
         echo '# A newer remark.' >> newer/etc/bits-server/bits-server.toml; \
         dpkg-deb -Znone --build newer newer.deb",
    );
}

#[test]
fn it_installs_a_service_of_a_user_of_its_own() {
    let machine = machine();
    machine.run("dpkg --force-unsafe-io --install /root/bits-server.deb");
    assert!(machine.run("getent passwd bits-server").contains("/nologin"));
    let folder = fs::metadata(machine.path("etc/bits-server")).unwrap();
    let group: u32 = machine.run("getent group bits-server | cut -d: -f3").trim().parse().unwrap();
    assert_eq!((folder.permissions().mode() & 0o7777, folder.uid(), folder.gid()), (0o750, 0, group));
    for link in ["multi-user.target.wants/bits-server.service", "sockets.target.wants/bits-server.socket"] {
        assert!(machine.path("etc/systemd/system").join(link).is_symlink(), "{link}");
    }
    machine.run("setpriv --reuid=bits-server --regid=bits-server --clear-groups bits-server check --config /etc/bits-server/bits-server.toml");
    let said = machine.run(&format!("systemd-analyze verify /{SERVICE} /{SOCKET}"));
    let about_them: Vec<&str> = said.lines().filter(|line| line.contains("bits-server.")).collect();
    assert!(about_them.is_empty(), "{about_them:#?}");
    for file in [
        "usr/share/man/man1/bits-server.1.gz",
        "usr/share/man/man1/bits-upload-reply.1.gz",
        "usr/share/bash-completion/completions/bits-server",
        "usr/share/zsh/vendor-completions/_bits",
        "usr/share/fish/vendor_completions.d/bits.fish",
        "usr/share/doc/bits-server/changelog.gz",
        "usr/share/doc/bits-server/proxies/nginx.conf",
        "usr/share/doc/bits-server/prometheus/bits-server.rules.yml",
        "usr/share/doc/bits-server/grafana/bits-server.json",
        "usr/share/doc/bits-server/copyright",
    ] {
        assert!(machine.path(file).exists(), "{file}");
    }
    assert_eq!(machine.run("dpkg --verify bits-server"), "");
}

#[test]
fn an_upload_outlives_the_upgrade_and_the_configuration_stays() {
    let machine = machine();
    machine.run("dpkg --force-unsafe-io --install /root/bits-server.deb");
    fs::write(machine.path("root/big.bin"), pattern(7, 8 << 20)).unwrap();
    let service = Service::start(&machine);
    let url = "http://127.0.0.1:8080/upload/big.bin";
    let arguments = ["bits", "upload", "--fragment-size", "16KiB", "--retry-for", "2m", "/root/big.bin", url];
    let mut client =
        machine.command(&arguments).env("BITS_JOBS_DIR", "/root/jobs").stderr(Stdio::null()).spawn().unwrap();
    wait_until("some of the upload is there", || {
        machine.run("du -sk /var/lib/bits-server").len() > 3 && {
            machine
                .shell("bits-server sessions list --config /etc/bits-server/bits-server.toml | grep -q big.bin")
                .status
                .success()
        }
    });
    drop(service);

    let ours = format!("{}\n# Ours.\n", fs::read_to_string(machine.path(CONFIG)).unwrap());
    fs::write(machine.path(CONFIG), &ours).unwrap();
    make_newer(&machine);
    machine.run("dpkg --force-unsafe-io --force-confold --install /root/newer.deb");
    assert_eq!(fs::read_to_string(machine.path(CONFIG)).unwrap(), ours);
    let theirs = fs::read_to_string(machine.path(&format!("{CONFIG}.dpkg-dist"))).unwrap();
    assert!(theirs.ends_with("# A newer remark.\n"), "{theirs}");
    assert!(machine.run("dpkg-query --show bits-server").contains("99.0.0-1"));

    let _service = Service::start(&machine);
    assert_eq!(client.wait().unwrap().code(), Some(0));
    assert!(fs::read(machine.path(FILE)).unwrap() == pattern(7, 8 << 20), "the file has other bytes");
}

#[test]
fn removal_leaves_the_configuration_and_purging_leaves_uploads() {
    let machine = machine();
    machine.run("dpkg --force-unsafe-io --install /root/bits-server.deb");
    fs::write(machine.path("root/big.bin"), pattern(1, 100_000)).unwrap();
    {
        let _service = Service::start(&machine);
        machine.run("BITS_JOBS_DIR=/root/jobs bits upload /root/big.bin http://127.0.0.1:8080/upload/big.bin");
    }
    machine.run("dpkg --remove bits-server");
    assert!(!machine.path("usr/bin/bits-server").exists() && machine.path(CONFIG).exists());
    let said = machine.run("dpkg --purge bits-server");
    assert!(said.contains("uploads are kept in /var/lib/bits-server"), "{said}");
    assert!(!machine.path("etc/bits-server").exists());
    assert!(machine.path(FILE).exists());
    let links = machine.run("find /etc/systemd /var/lib/systemd -name '*bits-server*'");
    assert_eq!(links, "", "nothing is enabled any more");
    // Whose uploads would they be otherwise?
    machine.run("getent passwd bits-server");
    machine.run("dpkg --force-unsafe-io --install /root/bits-server.deb && test -f /etc/bits-server/bits-server.toml");
}
