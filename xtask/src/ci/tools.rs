//! Cargo's companions that check and package: installed into the target folder when missing.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use crate::shell::{self, Result, cargo};

/// A program that cargo can install.
pub(crate) struct Tool {
    name: &'static str,
    version: &'static str,
}

/// Finds dependencies that no code uses.
pub(crate) const MACHETE: Tool = Tool { name: "cargo-machete", version: "0.9.2" };
/// Checks licences, sources and unwanted crates by `deny.toml`.
pub(crate) const DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2" };

/// Makes Debian packages.
pub(crate) const DEB: Tool = Tool { name: "cargo-deb", version: "3.8.0" };
/// Lists dependencies.
pub(crate) const CYCLONEDX: Tool = Tool { name: "cargo-cyclonedx", version: "0.5.9" };
/// Makes a site of the book.
pub(crate) const MDBOOK: Tool = Tool { name: "mdbook", version: "0.5.4" };

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
        let version = shell::output(Command::new(program).arg("--version"));
        version.is_ok_and(|version| version.split_whitespace().last() == Some(self.version))
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
