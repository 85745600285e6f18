//! The project's chores: `cargo xtask --help` lists them.

mod azurite;
mod bench;
mod book;
mod ci;
mod dist;
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
    /// Makes what is given to people who do not build: a Debian package, a static server, a list of what is in them
    Dist(dist::Options),
    /// Brings the generated parts of the book up to date, and makes a site of it
    Book,
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
        Chore::Dist(options) => dist::run(&options),
        Chore::Book => book::run(),
        Chore::Bench(options) => bench::run(&options),
        Chore::Sink(options) => bench::sink::run(&options),
    }
}
