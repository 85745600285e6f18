//! The project's chores: `cargo xtask --help` lists them.

mod bench;
mod ci;
mod fuzz;
mod migrate;
mod packages;
mod python;
mod shell;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::shell::Result;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's chores", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Runs every test of the workspace, after checking for the system packages that they need
    Test(test::Options),
    /// Checks format, lints, docs, feature sets, boundaries between crates, dependencies, tidiness
    Ci(ci::Options),
    /// Looks for inputs that break parsers or the state machine
    Fuzz(fuzz::Options),
    /// Asks the advisory database, which needs the network, about every dependency
    Advisories,
    /// Brings a session database up to date
    Migrate(migrate::Options),
    /// Measures the server beside its peers and writes a report to docs/benchmarks
    Bench(bench::Options),
    #[command(hide = true)]
    Sink(bench::sink::Options),
}

fn main() -> ExitCode {
    match run(Cli::parse().chore) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(chore: Chore) -> Result<()> {
    match chore {
        Chore::Test(options) => test::run(&options),
        Chore::Ci(options) => ci::run(&options),
        Chore::Fuzz(options) => fuzz::run(&options),
        Chore::Advisories => ci::advisories(),
        Chore::Migrate(options) => migrate::run(&options),
        Chore::Bench(options) => bench::run(&options),
        Chore::Sink(options) => bench::sink::run(&options),
    }
}
