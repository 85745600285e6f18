//! The system packages that tests and benchmarks need, and how to get them.

use std::process::Command;

use crate::shell::{self, Result};

/// A program that does not come with Rust.
pub(crate) struct Package {
    /// What is looked for in PATH; a file of the package where it has no program.
    program: &'static str,
    /// The Debian package that has it.
    name: &'static str,
    reason: &'static str,
}

/// What the tests need besides Rust and a C compiler.
pub(crate) const TESTS: &[Package] = &[
    Package { program: "curl", name: "curl", reason: "a client that logs in by itself" },
    Package { program: "strace", name: "strace", reason: "shows that data is synced before it is acknowledged" },
    Package { program: "faketime", name: "faketime", reason: "lets the server's clock jump" },
    Package { program: "unshare", name: "util-linux", reason: "namespaces for small and read-only file systems" },
    Package { program: "setpriv", name: "util-linux", reason: "servers that may do less than root" },
    Package { program: "systemd-analyze", name: "systemd", reason: "says how exposed the service is" },
    Package { program: "openssl", name: "openssl", reason: "a client that still offers old versions of TLS" },
    Package { program: "curl", name: "curl", reason: "a client of TLS that is not ours" },
    Package { program: "mount", name: "mount", reason: "small and read-only file systems" },
    Package { program: "curl", name: "curl", reason: "downloads as others do" },
    Package { program: "wget", name: "wget", reason: "downloads as others do" },
    Package { program: "python3", name: "python3", reason: "verifies signatures with code that is not ours" },
    Package { program: "mkfs.ext4", name: "e2fsprogs", reason: "file systems that lose power" },
    Package { program: "krb5-config", name: "libkrb5-dev", reason: "the GSS library, for Kerberos and NTLM" },
    Package { program: "clang", name: "clang", reason: "reads the headers of the GSS library" },
    Package { program: "krb5kdc", name: "krb5-kdc", reason: "a KDC of the tests' own" },
    Package { program: "kadmin.local", name: "krb5-admin-server", reason: "fills the KDC" },
    Package { program: "kinit", name: "krb5-user", reason: "logs in at the KDC" },
    Package { program: "curl", name: "curl", reason: "a client with Kerberos" },
    Package { program: "/etc/gss/mech.d/mech.ntlmssp.conf", name: "gss-ntlmssp", reason: "NTLM for the GSS library" },
    Package { program: "chromium", name: "chromium", reason: "a browser that looks at the page" },
    Package { program: "chromedriver", name: "chromium-driver", reason: "drives the browser" },
    Package { program: "promtool", name: "prometheus", reason: "checks metrics and alert rules" },
    Package { program: "python3", name: "python3-venv", reason: "a client with NTLM" },
    Package { program: "mandoc", name: "mandoc", reason: "reads the man pages" },
    Package { program: "zsh", name: "zsh", reason: "reads its completions" },
    Package { program: "fish", name: "fish", reason: "reads its completions" },
    Package { program: "dpkg-shlibdeps", name: "dpkg-dev", reason: "says what a package depends on" },
    Package { program: "systemd-sysusers", name: "systemd", reason: "makes the package's user" },
    Package { program: "nginx", name: "nginx", reason: "a proxy" },
    Package { program: "haproxy", name: "haproxy", reason: "a proxy" },
    Package { program: "apache2", name: "apache2", reason: "a proxy" },
    Package { program: "caddy", name: "caddy", reason: "a proxy" },
    Package { program: "ip", name: "iproute2", reason: "a network for a machine of the tests' own" },
    Package { program: "pkill", name: "procps", reason: "ends the service of a machine of the tests' own" },
    Package { program: "sqlite3", name: "sqlite3", reason: "copies a database that is in use" },
    Package { program: "valgrind", name: "valgrind", reason: "counts what a fragment costs (`cargo xtask ci cost`)" },
    Package { program: "pgbouncer", name: "pgbouncer", reason: "a pooler before the database" },
    Package { program: "node", name: "nodejs", reason: "runs a store that speaks Azure's" },
    Package { program: "npm", name: "npm", reason: "gets that store" },
];

/// The database and the object store that tests and benchmarks run.
pub(crate) const STORES: &[Package] = &[
    Package {
        program: "/usr/share/postgresql-common/pg_wrapper",
        name: "postgresql",
        reason: "a database of the tests' own",
    },
    Package { program: "radosgw", name: "radosgw", reason: "an S3 store as in production" },
    Package { program: "ceph-mon", name: "ceph-mon", reason: "what that store keeps its state in" },
    Package { program: "ceph-osd", name: "ceph-osd", reason: "what that store keeps its objects in" },
    Package { program: "ceph", name: "ceph-common", reason: "sets that store up" },
    Package { program: "curl", name: "curl", reason: "talks to that store" },
    Package { program: "python3", name: "python3", reason: "finds free ports for that store" },
];

/// What a static server needs to be built.
pub(crate) const STATIC: &[Package] =
    &[Package { program: "musl-gcc", name: "musl-tools", reason: "a C compiler for static programs" }];

/// What the benchmarks need besides.
pub(crate) const BENCHMARKS: &[Package] = &[
    Package {
        program: "nginx",
        name: "nginx-extras",
        reason: "a peer that uploads and downloads are measured against",
    },
    Package { program: "node", name: "nodejs", reason: "runs @tus/server, a peer" },
    Package { program: "npm", name: "npm", reason: "gets @tus/server" },
];

/// Makes sure that `packages` are there: installs the missing ones if `install`, else an error
/// that names them.
pub(crate) fn require(packages: &[Package], install: bool) -> Result<()> {
    let missing: Vec<_> = packages.iter().filter(|package| !package.is_installed()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !install {
        return Err(advice(&missing).into());
    }
    apt_get(&["update", "--quiet"])?;
    let names = missing.iter().map(|package| package.name);
    apt_get(&["install", "--quiet", "--yes", "--no-install-recommends"].into_iter().chain(names).collect::<Vec<_>>())?;
    match missing.iter().find(|package| !package.is_installed()) {
        Some(package) => Err(format!("{} is installed, but has no program `{}`", package.name, package.program).into()),
        None => Ok(()),
    }
}

impl Package {
    fn is_installed(&self) -> bool {
        shell::find(self.program).is_some()
    }
}

fn advice(missing: &[&Package]) -> String {
    let lines = missing.iter().map(|p| format!("  {:<12} {}\n", p.program, p.reason));
    let names: Vec<_> = missing.iter().map(|package| package.name).collect();
    format!(
        "these programs are missing:\n{}get them with `apt-get install {}` (as root), or let the flag --install do it",
        lines.collect::<String>(),
        names.join(" ")
    )
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new("apt-get")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["--non-interactive", "--preserve-env=DEBIAN_FRONTEND", "apt-get"]);
        sudo
    };
    shell::run(command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHELL: Package = Package { program: "sh", name: "dash", reason: "runs scripts" };
    const ABSENT: Package = Package { program: "no-such-program", name: "no-such-package", reason: "shows the advice" };

    #[test]
    fn what_is_there_is_not_asked_for() {
        require(&[SHELL], false).unwrap();
    }

    #[test]
    fn what_is_missing_is_named_with_its_reason_and_package() {
        let advice = require(&[SHELL, ABSENT], false).unwrap_err().to_string();
        assert!(advice.contains("no-such-program shows the advice"), "{advice}");
        assert!(advice.contains("`apt-get install no-such-package`"), "{advice}");
        assert!(!advice.contains("dash"), "{advice}");
    }
}
