//! Man pages and completions, from the definitions of the command lines.

use std::{fs, io, path::Path};

use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate_to};

/// Not a part of the client's library: the program's own file.
#[allow(dead_code, reason = "only the definition is of interest")]
#[path = "../../bits-client/src/bin/bits/args.rs"]
mod args;

const SHELLS: [(Shell, &str); 3] = [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")];

/// Writes both programs' pages and completions below `folder`, in the names that systems look for.
pub(crate) fn write(folder: &Path) -> io::Result<()> {
    let pages = folder.join("man");
    fs::create_dir_all(&pages)?;
    for command in programs() {
        clap_mangen::generate_to(command.clone(), &pages)?;
        for (shell, name) in SHELLS {
            complete(command.clone(), shell, &folder.join(name))?;
        }
    }
    Ok(())
}

fn programs() -> [Command; 2] {
    [bits_server::cli::Cli::command(), args::Args::command()]
}

fn complete(mut command: Command, shell: Shell, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let name = command.get_name().to_owned();
    let file = generate_to(shell, &mut command, &name, folder)?;
    // bash looks for a file of the program's name.
    if shell == Shell::Bash { fs::rename(file, folder.join(name)) } else { Ok(()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_every_shell_completions() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        for page in ["bits-server", "bits-server-check", "bits-server-sessions-list", "bits", "bits-upload-reply"] {
            let text = fs::read_to_string(folder.path().join(format!("man/{page}.1"))).unwrap();
            assert!(text.contains(".SH NAME"), "{page}");
        }
        for file in ["bash/bits", "bash/bits-server", "zsh/_bits", "zsh/_bits-server", "fish/bits.fish"] {
            let text = fs::read_to_string(folder.path().join(file)).unwrap();
            assert!(text.contains(if file.contains("server") { "sessions" } else { "upload-reply" }), "{file}");
        }
    }
}
