//! `cargo xtask dist`: what is given to people who do not build: a Debian package, a static program
//! with the layout of a container, and a list of what is in them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::{
    ci::tools,
    packages::{self, STATIC},
    shell::{self, Result, cargo},
};

/// What a static program is built for; Debian's `musl-tools` has a C compiler for it.
const STATIC_TARGET: &str = "x86_64-unknown-linux-musl";
/// The system's library, which no static program has.
const NEEDS_SYSTEM: &str = "negotiate";
/// Authorities that the container trusts.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

#[derive(Args)]
pub(crate) struct Options {
    /// Only these
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Install missing system packages with apt-get
    #[arg(long)]
    install: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// A Debian package with server, client, man pages and completions
    Deb,
    /// A static server, and beside it all that its Containerfile copies
    Static,
    /// A list of all dependencies, in CycloneDX
    Sbom,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let parts = if options.parts.is_empty() { Part::value_variants() } else { &options.parts };
    for part in parts {
        let made = match part {
            Part::Deb => release_deb()?,
            Part::Static => static_server(options.install)?,
            Part::Sbom => sbom()?,
        };
        eprintln!("made {}", made.display());
    }
    Ok(())
}

fn release_deb() -> Result<PathBuf> {
    let features = features(|_| true)?;
    let mut build = cargo(["build", "--release", "--locked", "--bins"]);
    build.args(["--package", "bits-server", "--package", "bits-client", "--package", "manual"]);
    shell::run(build.args(["--features", &features]))?;
    deb("release", &["--compress-system"])
}

/// A Debian package of the programs that were built in this profile.
pub(crate) fn deb(profile: &str, options: &[&str]) -> Result<PathBuf> {
    let built = shell::target_dir().join(if profile == "dev" { "debug" } else { profile });
    let pages = built.join("manual-pages");
    if pages.exists() {
        // Nothing of commands that are no more.
        fs::remove_dir_all(&pages)?;
    }
    // The same for everybody who builds this version.
    let date = shell::output(&mut shell::git(["log", "-1", "--format=%cs"]))?;
    shell::run(Command::new(built.join("manual")).arg("commands").arg(&pages).arg(date.trim()))?;
    compress(&pages.join("man"))?;
    let package = folder(if profile == "dev" { "dist-debug" } else { "dist" })?.join("bits-server.deb");
    let output = package.to_string_lossy();
    let fixed = ["--no-build", "--package", "bits-server", "--profile", profile, "--output", &output];
    tools::run(&tools::DEB, &[&fixed, options].concat())?;
    Ok(package)
}

/// As Debian has its man pages, all of the same bytes on each machine.
fn compress(folder: &Path) -> Result<()> {
    shell::run(Command::new("gzip").args(["--best", "--no-name", "--recursive"]).arg(folder))
}

fn static_server(install: bool) -> Result<PathBuf> {
    packages::require(STATIC, install)?;
    let features = features(|feature| feature != NEEDS_SYSTEM)?;
    let mut build = cargo(["build", "--release", "--locked", "--package", "bits-server", "--bin", "bits-server"]);
    build.args(["--target", STATIC_TARGET, "--features", &features]);
    // Rust brings the rest; `rustup target add` says how where it is missing.
    build.env("CC_x86_64_unknown_linux_musl", "musl-gcc").env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    shell::run(&mut build)?;
    let context = folder("dist/static")?;
    let program = shell::target_dir().join(STATIC_TARGET).join("release/bits-server");
    fs::copy(program, context.join("bits-server"))?;
    fs::copy(AUTHORITIES, context.join("ca-certificates.crt"))?;
    fs::copy(shell::root().join("packaging/container/Containerfile"), context.join("Containerfile"))?;
    fs::create_dir_all(context.join("data"))?;
    Ok(context)
}

fn sbom() -> Result<PathBuf> {
    let features = features(|_| true)?;
    let manifest = shell::root().join("bits-server/Cargo.toml");
    let manifest = manifest.to_string_lossy();
    let fixed = [
        "cyclonedx",
        "--manifest-path",
        &manifest,
        "--format",
        "json",
        "--spec-version",
        "1.5",
        "--override-filename",
        "sbom.cdx",
    ];
    tools::run(&tools::CYCLONEDX, &[&fixed[..], &["--features", &features]].concat())?;
    let made = folder("dist")?.join("bits-server.cdx.json");
    collect_sbom(&made)?;
    Ok(made)
}

/// The tool writes into each crate's folder.
fn collect_sbom(made: &Path) -> Result<()> {
    for member in members()? {
        let written = member.join("sbom.cdx.json");
        if member.ends_with("bits-server") {
            // Where it was built is nobody's business.
            let list = fs::read_to_string(&written)?;
            fs::write(made, list.replace(&*shell::root().to_string_lossy(), ""))?;
        }
        if written.exists() {
            fs::remove_file(written)?;
        }
    }
    Ok(())
}

fn folder(name: &str) -> Result<PathBuf> {
    let folder = shell::target_dir().join(name);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// The server's features that a release may have, of those that are `wanted`.
fn features(wanted: impl Fn(&str) -> bool) -> Result<String> {
    let metadata = metadata()?;
    let server = packages_of(&metadata)?.iter().find(|package| package["name"] == "bits-server");
    let features = server.and_then(|server| server["features"].as_object()).ok_or("bits-server has no features")?;
    let released = features.keys().filter(|name| *name != "faults" && wanted(name));
    Ok(released.map(|name| format!("bits-server/{name}")).collect::<Vec<_>>().join(","))
}

fn members() -> Result<Vec<PathBuf>> {
    let metadata = metadata()?;
    let manifests = packages_of(&metadata)?.iter().filter_map(|package| package["manifest_path"].as_str());
    Ok(manifests.filter_map(|manifest| Path::new(manifest).parent().map(Path::to_owned)).collect())
}

fn metadata() -> Result<Value> {
    Ok(serde_json::from_str(&shell::output(&mut cargo(["metadata", "--format-version", "1", "--no-deps"]))?)?)
}

fn packages_of(metadata: &Value) -> Result<&Vec<Value>> {
    Ok(metadata["packages"].as_array().ok_or("cargo metadata lists no packages")?)
}
