//! `cargo xtask ci`: every check but the tests, the quick ones first.

mod boundaries;
mod cost;
mod features;
mod tidy;
pub(crate) mod tools;

use clap::{Args, ValueEnum};

use crate::shell::{self, Result, cargo};

#[derive(Args)]
pub(crate) struct Options {
    /// Only these checks
    #[arg(value_enum)]
    checks: Vec<Check>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Check {
    /// The code is formatted
    Format,
    /// Modules say what they are for, nothing is left undone, links lead somewhere
    Tidy,
    /// What a crate must not know about is not among its dependencies
    Boundaries,
    /// Every dependency is used
    Unused,
    /// Dependencies are of allowed licences, sources and kinds
    Deny,
    /// Clippy, for all targets with all features
    Lints,
    /// The documentation builds, and its links resolve
    Docs,
    /// Each crate builds alone with each of its features
    Features,
    /// Nothing public has changed since the last tagged version but what the version says
    Semver,
    /// A fuzzer finds nothing in some seconds for each target
    Fuzz,
    /// A fragment costs the server no more instructions than it did
    Cost,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let checks = if options.checks.is_empty() { Check::value_variants() } else { &options.checks };
    checks.iter().try_for_each(|check| check.run())?;
    eprintln!("all checks passed");
    Ok(())
}

impl Check {
    fn run(self) -> Result<()> {
        match self {
            Check::Format => shell::run(&mut cargo(["fmt", "--all", "--check"])),
            Check::Tidy => tidy::check(&shell::root()),
            Check::Boundaries => boundaries::check(),
            Check::Unused => tools::run(&tools::MACHETE, &["--skip-target-dir", "."]),
            Check::Deny => tools::run(&tools::DENY, &["--all-features", "check", "bans", "licenses", "sources"]),
            Check::Lints => lints(),
            Check::Docs => docs(),
            Check::Features => features::check(),
            Check::Semver => semver(),
            Check::Fuzz => crate::fuzz::check(),
            Check::Cost => cost::check(),
        }
    }
}

/// No check: its database cannot be reached from every machine.
pub(crate) fn advisories() -> Result<()> {
    tools::run(&tools::DENY, &["--all-features", "check", "advisories"])
}

fn lints() -> Result<()> {
    shell::run(&mut cargo(["clippy", "--workspace", "--all-targets", "--all-features", "--", "--deny", "warnings"]))
}

fn semver() -> Result<()> {
    let tags = shell::output(&mut shell::git(["tag", "--list", "v*", "--merged=HEAD", "--sort=-version:refname"]))?;
    let Some(last) = tags.lines().next() else {
        eprintln!("no version is tagged: there is no interface to compare with");
        return Ok(());
    };
    tools::run(&tools::SEMVER, &["semver-checks", "--workspace", "--all-features", "--baseline-rev", last])
}

fn docs() -> Result<()> {
    let mut doc = cargo(["doc", "--workspace", "--all-features", "--no-deps"]);
    shell::run(doc.env("RUSTDOCFLAGS", "--deny warnings"))
}
