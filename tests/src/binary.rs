//! Finds the programs under test, building them where nobody says where they are.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The binary under test: `BITS_SERVER_BIN`, or one built with all features, once per
/// test process and into the same target folder as the tests.
pub fn server_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    let build = || build("bits-server", &["--all-features"], "bits-server");
    BINARY.get_or_init(|| env::var_os("BITS_SERVER_BIN").map_or_else(build, PathBuf::from))
}

/// The command `bits`: `BITS_BIN`, or one built likewise.
pub fn client_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| env::var_os("BITS_BIN").map_or_else(|| build("bits-client", &[], "bits"), PathBuf::from))
}

/// The example application that answers uploads with their SHA-256: `BITS_SHA256_BIN`, or one
/// built likewise.
pub fn application_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    let build = || build("bits-server", &["--all-features", "--example", "sha256"], "examples/sha256");
    BINARY.get_or_init(|| env::var_os("BITS_SHA256_BIN").map_or_else(build, PathBuf::from))
}

/// An example of a library's crate: in the folder `BITS_EXAMPLES`, or built likewise.
pub fn example(package: &str, name: &str) -> PathBuf {
    let built = || build(package, &["--example", name], &format!("examples/{name}"));
    env::var_os("BITS_EXAMPLES").map_or_else(built, |folder| PathBuf::from(folder).join(name))
}

/// The Debian package of these programs, which `cargo xtask test` makes: `BITS_DEB`.
pub fn debian_package() -> PathBuf {
    env::var_os("BITS_DEB").map(PathBuf::from).expect("BITS_DEB names the package: run `cargo xtask test`")
}

/// Cargo's own lock makes other test processes wait for the same build.
fn build(package: &str, options: &[&str], program: &str) -> PathBuf {
    let profile = profile_folder();
    let target = profile.parent().expect("the profile's folder lies in the target folder");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", package]).args(options).arg("--target-dir").arg(target);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo starts");
    assert!(status.success(), "`cargo build --package {package}` failed");
    profile.join(program)
}

/// Test binaries stand in `<target>/<profile>/deps`.
pub(crate) fn profile_folder() -> PathBuf {
    let own = env::current_exe().expect("a running program has a path");
    let folder = own.ancestors().find(|folder| folder.join("deps").is_dir());
    folder.expect("the tests run from a target folder").to_owned()
}
