//! Cargo's companions that check and package: installed into the target folder when missing.

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
}

/// Finds dependencies that no code uses.
pub(crate) const MACHETE: Tool = Tool { name: "cargo-machete", version: "0.9.2", asked: &["--version"] };
/// Checks licences, sources and unwanted crates by `deny.toml`.
pub(crate) const DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2", asked: &["--version"] };

/// Makes Debian packages.
pub(crate) const DEB: Tool = Tool { name: "cargo-deb", version: "3.8.0", asked: &["--version"] };
/// Lists dependencies.
pub(crate) const CYCLONEDX: Tool =
    Tool { name: "cargo-cyclonedx", version: "0.5.9", asked: &["cyclonedx", "--version"] };
/// Compares interfaces with those of an older version.
pub(crate) const SEMVER: Tool = Tool { name: "cargo-semver-checks", version: "0.51.0", asked: &["--version"] };
/// Makes a site of the book.
pub(crate) const MDBOOK: Tool = Tool { name: "mdbook", version: "0.5.4", asked: &["--version"] };

/// Runs `tool` on the workspace, installing it first if need be.
pub(crate) fn run(tool: &Tool, arguments: &[&str]) -> Result<()> {
    let program = match tool.installed() {
        Some(program) => program,
        None => tool.install()?,
    };
    shell::run(Command::new(program).args(arguments).current_dir(shell::root()))
}

impl Tool {
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

    // Unoptimised: it builds in a fraction of the time, and the workspace is small.
    fn install(&self) -> Result<PathBuf> {
        let mut install = cargo(["install", "--quiet", "--locked", "--debug", "--root"]);
        install.arg(self.root()).args(["--version", self.version, self.name]);
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
