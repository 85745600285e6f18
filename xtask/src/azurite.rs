//! Azurite, Microsoft's emulator of Azure's storage, in a folder of its own in the target folder.

use std::{fs, path::PathBuf, process::Command};

use crate::shell::{self, Result};

const PACKAGE: &str = "azurite@3.37.0";

/// The program, made ready if `install`; otherwise an error if it is not.
pub(crate) fn require(install: bool) -> Result<PathBuf> {
    let folder = shell::target_dir().join("azurite");
    let (program, list) = (folder.join("node_modules/.bin/azurite-blob"), folder.join("bits-packages"));
    if program.exists() && fs::read_to_string(&list).is_ok_and(|installed| installed == PACKAGE) {
        return Ok(program);
    }
    if !install {
        let advice = "the tests need Azurite: the flag --install gets it with npm";
        return Err(format!("{advice} ({PACKAGE})").into());
    }
    fs::create_dir_all(&folder)?;
    let npm = ["install", "--silent", "--no-audit", "--no-fund", "--no-save", "--omit=optional", "--ignore-scripts"];
    shell::run(Command::new("npm").args(npm).arg("--prefix").arg(&folder).arg(PACKAGE))?;
    fs::write(list, PACKAGE)?;
    Ok(program)
}
