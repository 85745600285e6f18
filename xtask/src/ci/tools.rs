//! Programs that cargo can install: into the target folder when missing.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use crate::shell::{self, Result, cargo};

/// A program that cargo can install.
pub(crate) struct Tool {
    name: &'static str,
    version: &'static str,
    /// What it is asked its version by.
    asked: &'static [&'static str],
    /// Unoptimised ones build in a fraction of the time.
    optimised: bool,
}

/// Finds dependencies that no code uses.
pub(crate) const MACHETE: Tool =
    Tool { name: "cargo-machete", version: "0.9.2", asked: &["--version"], optimised: false };
/// Checks licences, sources and unwanted crates by `deny.toml`.
pub(crate) const DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2", asked: &["--version"], optimised: false };

/// Runs the benchmark that counts instructions; it takes none of another version than its own.
pub(crate) const GUNGRAUN: Tool =
    Tool { name: "gungraun-runner", version: "0.20.0", asked: &["--version"], optimised: false };

/// Makes Debian packages.
pub(crate) const DEB: Tool = Tool { name: "cargo-deb", version: "3.8.0", asked: &["--version"], optimised: false };
/// Lists dependencies.
pub(crate) const CYCLONEDX: Tool =
    Tool { name: "cargo-cyclonedx", version: "0.5.9", asked: &["cyclonedx", "--version"], optimised: false };
/// Compares interfaces with those of an older version.
pub(crate) const SEMVER: Tool =
    Tool { name: "cargo-semver-checks", version: "0.51.0", asked: &["--version"], optimised: false };
/// Makes a site of the book.
pub(crate) const MDBOOK: Tool = Tool { name: "mdbook", version: "0.5.4", asked: &["--version"], optimised: false };
/// A peer of the benchmarks.
pub(crate) const RUSTUS: Tool = Tool { name: "rustus", version: "0.5.10", asked: &["--version"], optimised: true };

/// Runs `tool` on the workspace, installing it first if need be.
pub(crate) fn run(tool: &Tool, arguments: &[&str]) -> Result<()> {
    let program = tool.require(true)?;
    shell::run(Command::new(program).args(arguments).current_dir(shell::root()))
}

impl Tool {
    /// Where it is, installed if need be and `install`.
    pub(crate) fn require(&self, install: bool) -> Result<PathBuf> {
        match self.installed() {
            Some(program) => Ok(program),
            None if install => self.install(),
            None => Err(format!("there is no {} {}: the flag --install gets it", self.name, self.version).into()),
        }
    }

    fn installed(&self) -> Option<PathBuf> {
        let ours = self.path();
        let found = if ours.is_file() { Some(ours) } else { shell::find(self.name) };
        found.filter(|program| self.is_right_version(program))
    }

    fn is_right_version(&self, program: &PathBuf) -> bool {
        let version = shell::output(Command::new(program).args(self.asked));
        version.is_ok_and(|version| {
            version.split_whitespace().last().map(|last| last.trim_start_matches('v')) == Some(self.version)
        })
    }

    fn install(&self) -> Result<PathBuf> {
        let mut install = cargo(["install", "--quiet", "--locked", "--root"]);
        install.arg(self.root()).args(["--version", self.version, self.name]);
        install.args((!self.optimised).then_some("--debug"));
        // Its build products are of no use afterwards: cargo's own temporary folder, not ours.
        shell::run(install.env_remove("CARGO_TARGET_DIR"))?;
        Ok(self.path())
    }

    fn path(&self) -> PathBuf {
        self.root().join("bin").join(self.name).with_extension(env::consts::EXE_EXTENSION)
    }

    fn root(&self) -> PathBuf {
        shell::target_dir().join("tools")
    }
}
