//! Man pages and completions, from the definitions of the command lines.

use std::{fs, io, path::Path};

use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;

/// Not a part of the client's library: the program's own file.
#[allow(dead_code, reason = "only the definition is of interest")]
#[path = "../../bits-client/src/bin/bits/args.rs"]
mod args;

const SHELLS: [(Shell, &str); 3] = [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")];

/// Writes both programs' pages, of this day, and completions below `folder`, in the names that systems look for.
pub(crate) fn write(folder: &Path, date: &str) -> io::Result<()> {
    let pages = folder.join("man");
    fs::create_dir_all(&pages)?;
    for command in programs() {
        let mut whole = command.clone().disable_help_subcommand(true);
        whole.build();
        page(&whole, &pages, date)?;
        for (shell, name) in SHELLS {
            complete(command.clone(), shell, &folder.join(name))?;
        }
    }
    Ok(())
}

fn programs() -> [Command; 2] {
    [bits_server::cli::Cli::command(), args::Args::command()]
}

/// The page of a command and those of its own commands. Date, program and manual are all given: where
/// one is missing, what comes next is taken for it.
fn page(command: &Command, folder: &Path, date: &str) -> io::Result<()> {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        page(inner, folder, date)?;
    }
    let source = concat!("bits-server ", env!("CARGO_PKG_VERSION"));
    let page = Man::new(command.clone()).date(date).source(source).manual("User Commands");
    page.generate_to(folder).map(drop)
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
    use std::process::Command;

    use super::*;

    const DATE: &str = "2026-11-26";

    #[test]
    fn every_command_has_a_page_and_every_shell_completions() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), DATE).unwrap();
        for page in ["bits-server", "bits-server-check", "bits-server-sessions-list", "bits", "bits-upload-reply"] {
            let text = fs::read_to_string(folder.path().join(format!("man/{page}.1"))).unwrap();
            assert!(text.contains(".SH NAME"), "{page}");
        }
        for file in ["bash/bits", "bash/bits-server", "zsh/_bits", "zsh/_bits-server", "fish/bits.fish"] {
            let text = fs::read_to_string(folder.path().join(file)).unwrap();
            assert!(text.contains(if file.contains("server") { "sessions" } else { "upload-reply" }), "{file}");
        }
    }

    /// What reads them finds nothing to complain of.
    #[test]
    fn pages_and_completions_are_well_formed() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), DATE).unwrap();
        let readers: [(&str, &[&str]); 4] = [
            ("man", &["mandoc", "-T", "lint", "-W", "warning"]),
            ("bash", &["bash", "-n"]),
            ("zsh", &["zsh", "-n"]),
            ("fish", &["fish", "--no-execute"]),
        ];
        for (kind, reader) in readers {
            for file in fs::read_dir(folder.path().join(kind)).unwrap() {
                let read = Command::new(reader[0]).args(&reader[1..]).arg(file.unwrap().path()).output().unwrap();
                assert!(read.status.success() && read.stdout.is_empty() && read.stderr.is_empty(), "{read:?}");
            }
        }
    }
}
