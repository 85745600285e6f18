//! Python with the packages that tests need, in a folder of its own in the target folder.

use std::{fs, path::PathBuf, process::Command};

use crate::shell::{self, Result};

const PACKAGES: &[&str] = &["pyspnego==0.12.4"];

/// The interpreter, made ready if `install`; otherwise an error if it is not.
pub(crate) fn require(install: bool) -> Result<PathBuf> {
    let folder = shell::target_dir().join("python");
    let (program, list) = (folder.join("bin/python"), folder.join("bits-packages"));
    let wanted = PACKAGES.join("\n");
    if program.exists() && fs::read_to_string(&list).is_ok_and(|installed| installed == wanted) {
        return Ok(program);
    }
    if !install {
        let advice = "the tests need Python packages of their own: the flag --install gets them with pip";
        return Err(format!("{advice} ({})", PACKAGES.join(", ")).into());
    }
    shell::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    shell::run(Command::new(&program).args(pip).args(PACKAGES))?;
    fs::write(list, wanted)?;
    Ok(program)
}
