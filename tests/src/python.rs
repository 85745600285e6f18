//! Python with the packages that clients of tests need.

use std::{env, path::PathBuf, process::Command};

use crate::binary::profile_folder;

/// Python running this script of the folder `python`: `BITS_PYTHON`, or the one that
/// `cargo xtask test --install` has put beside the tests.
pub fn python(script: &str) -> Command {
    let beside = || profile_folder().with_file_name("python").join("bin/python");
    let program = env::var_os("BITS_PYTHON").map_or_else(beside, PathBuf::from);
    assert!(program.exists(), "{} is missing: `cargo xtask test --install` makes it", program.display());
    let mut command = Command::new(program);
    command.arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("python").join(script));
    command
}
