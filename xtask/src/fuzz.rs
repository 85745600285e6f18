//! `cargo xtask fuzz`: inputs that a fuzzer finds, against the parsers and the state machine.
//!
//! The targets are laid out for cargo-fuzz, which works on them too; here they are built without
//! it, and without a nightly compiler. There is no `unsafe` for sanitizers to look at.

use std::fs;

use clap::Args;

use crate::shell::{self, Result, cargo};

/// What `cargo xtask ci` gives each target.
const SECONDS_IN_CI: u32 = 5;
/// The same inputs in each run of `cargo xtask ci`, as far as time allows.
const SEED_IN_CI: u32 = 1;
/// Coverage for libFuzzer.
const INSTRUMENTED: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

#[derive(Args)]
pub(crate) struct Options {
    /// Only this target; all of them without
    target: Option<String>,
    /// How long each target is fuzzed
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Tries the same inputs again, in the same order, from the repository's own alone; another each time without
    #[arg(long, value_name = "N")]
    seed: Option<u32>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let targets = targets()?;
    let chosen = match &options.target {
        None => targets,
        Some(name) if targets.contains(name) => vec![name.clone()],
        Some(name) => return Err(format!("there is no target {name}; there are {}", targets.join(", ")).into()),
    };
    let host = host()?;
    build(&host)?;
    chosen.iter().try_for_each(|target| fuzz(target, &host, options))
}

/// Every target for some seconds.
pub(crate) fn check() -> Result<()> {
    run(&Options { target: None, seconds: SECONDS_IN_CI, seed: Some(SEED_IN_CI) })
}

fn targets() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(shell::root().join("fuzz/fuzz_targets"))? {
        names.extend(entry?.path().file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

// A target that is named keeps the flags from build scripts.
fn build(host: &str) -> Result<()> {
    let mut build =
        cargo(["build", "--locked", "--manifest-path", "fuzz/Cargo.toml", "--target", host, "--target-dir"]);
    shell::run(build.arg(folder()).env("RUSTFLAGS", INSTRUMENTED).env_remove("CARGO_TARGET_DIR"))
}

/// Inputs of the repository are where it starts; what it finds besides stays in the target folder.
fn fuzz(target: &str, host: &str, options: &Options) -> Result<()> {
    let found = folder().join(if options.seed.is_some() { "seeded" } else { "corpus" }).join(target);
    if options.seed.is_some() && found.exists() {
        fs::remove_dir_all(&found)?;
    }
    let artifacts = folder().join("artifacts").join(target);
    fs::create_dir_all(&found)?;
    fs::create_dir_all(&artifacts)?;
    let mut fuzz = std::process::Command::new(folder().join(host).join("debug").join(target));
    fuzz.arg(found).arg(shell::root().join("fuzz/corpus").join(target));
    fuzz.arg(format!("-max_total_time={}", options.seconds)).arg(format!("-artifact_prefix={}/", artifacts.display()));
    // 0 is another one each time.
    fuzz.arg(format!("-seed={}", options.seed.unwrap_or_default()));
    shell::run(fuzz.args(["-print_final_stats=1", "-verbosity=0", "-timeout=10", "-rss_limit_mb=1024"]))
}

fn folder() -> std::path::PathBuf {
    shell::target_dir().join("fuzz")
}

fn host() -> Result<String> {
    let version = shell::output(std::process::Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.ok_or("rustc names no host")?.to_owned())
}
