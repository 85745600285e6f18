//! `cargo xtask test`: everything that the tests need, then the tests.

use std::env;
use std::num::NonZero;
use std::thread;

use clap::Args;

use crate::azurite;
use crate::dist;
use crate::packages;
use crate::python;
use crate::shell::{self, Result, cargo};

#[derive(Args)]
pub(crate) struct Options {
    /// Install missing system packages with apt-get (also when CI=true)
    #[arg(long)]
    install: bool,
    /// Arguments for `cargo test`, such as the name of a test
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// One set of packages and features for every build: nothing is compiled twice. It includes the
/// server's fault points, which the end-to-end tests use.
pub(crate) const WORKSPACE: [&str; 2] = ["--workspace", "--all-features"];

pub(crate) fn run(options: &Options) -> Result<()> {
    let in_ci = env::var("CI").is_ok_and(|value| value == "true");
    packages::require(packages::TESTS, options.install || in_ci)?;
    packages::require(packages::STORES, options.install || in_ci)?;
    let python = python::require(options.install || in_ci)?;
    let azurite = azurite::require(options.install || in_ci)?;
    shell::run(cargo(["build", "--bins", "--tests", "--examples"]).args(WORKSPACE))?;
    let built = shell::target_dir().join("debug");
    // Quick to make: of what was built just now, and hardly compressed.
    let deb = dist::deb("dev", &["--no-strip", "--fast", "--compress-type", "gz", "--compress-system"])?;
    shell::run(
        cargo(["test", "--no-fail-fast"])
            .args(WORKSPACE)
            .args(&options.arguments)
            .env("RUST_TEST_THREADS", threads())
            .env("BITS_SERVER_BIN", built.join("bits-server"))
            .env("BITS_BIN", built.join("bits"))
            .env("BITS_SHA256_BIN", built.join("examples/sha256"))
            .env("BITS_EXAMPLES", built.join("examples"))
            .env("BITS_DEB", deb)
            .env("BITS_PYTHON", python)
            .env("BITS_AZURITE", azurite),
    )
}

/// Tests at once: what was asked for, or two for each processor, since most of them wait.
fn threads() -> String {
    let two = || (2 * thread::available_parallelism().map_or(1, NonZero::get)).to_string();
    env::var("RUST_TEST_THREADS").unwrap_or_else(|_| two())
}
