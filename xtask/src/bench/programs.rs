//! The programs that are measured: our own are built, others got from their registries.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::ci::tools;
use crate::packages;
use crate::shell::{self, Result, cargo};

const TUS: &str = include_str!("tus.mjs");
const TUS_PACKAGES: [&str; 2] = ["@tus/server@2.4.5", "@tus/file-store@2.1.1"];

/// Where they are.
pub(crate) struct Programs {
    pub(crate) server: PathBuf,
    /// What the server is measured against at the least (`bench`).
    pub(crate) floor: PathBuf,
    pub(crate) nginx: PathBuf,
    pub(crate) rustus: PathBuf,
    /// A script for node.
    pub(crate) tus: PathBuf,
}

impl Programs {
    /// Lines that name those of others.
    pub(crate) fn versions(&self) -> Result<Vec<String>> {
        // It says its version on its standard error.
        let nginx = Command::new(&self.nginx).arg("-v").output()?;
        let nginx = String::from_utf8_lossy(&nginx.stderr).trim().trim_start_matches("nginx version: ").to_owned();
        let rustus = shell::output(Command::new(&self.rustus).arg("--version"))?.trim().to_owned();
        let node = shell::output(Command::new("node").arg("--version"))?.trim().to_owned();
        let postgres = shell::output(Command::new("psql").arg("--version"))?.trim().to_owned();
        let ceph = shell::output(Command::new("radosgw").arg("--version"))?.trim().to_owned();
        Ok(vec![nginx, rustus, postgres, ceph, format!("{} on node {node}", TUS_PACKAGES.join(" with "))])
    }
}

/// All of them, ready to be started; `server` is measured in place of one that is built.
pub(crate) fn require(server: Option<PathBuf>, install: bool) -> Result<Programs> {
    packages::require(packages::BENCHMARKS, install)?;
    packages::require(packages::STORES, install)?;
    let built = shell::target_dir().join("release");
    shell::run(&mut cargo(["build", "--release", "--package", "bits-bench"]))?;
    if server.is_none() {
        // By itself: other packages must not add features to its dependencies.
        shell::run(&mut cargo(["build", "--release", "--package", "bits-server", "--features", "postgres,s3"]))?;
    }
    Ok(Programs {
        server: server.unwrap_or_else(|| built.join("bits-server")),
        floor: built.join("bits-bench"),
        nginx: shell::find("nginx").ok_or("there is no nginx")?,
        rustus: tools::RUSTUS.require(install)?,
        tus: require_tus(install)?,
    })
}

fn require_tus(install: bool) -> Result<PathBuf> {
    let folder = shell::target_dir().join("tools/tus");
    let (script, list) = (folder.join("tus.mjs"), folder.join("bits-packages"));
    let wanted = TUS_PACKAGES.join("\n");
    if !fs::read_to_string(&list).is_ok_and(|installed| installed == wanted) {
        if !install {
            return Err(format!("{} is missing: the flag --install gets it with npm", TUS_PACKAGES[0]).into());
        }
        fs::create_dir_all(&folder)?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--save-exact", "--prefix"]).arg(&folder).args(TUS_PACKAGES);
        shell::run(&mut npm)?;
        fs::write(list, wanted)?;
    }
    fs::write(&script, TUS)?;
    Ok(script)
}
