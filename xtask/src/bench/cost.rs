//! What a fragment costs the server in instructions, which callgrind counts: a figure that does not
//! depend on what else the machine does.
//!
//! The whole server is counted, from the bytes of a head to those of its ack, as the tests build it:
//! nothing is compiled for this, and code that grew shows there too. callgrind plays the same
//! processor on every machine of an architecture.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::backing::Home;
use super::command::{self, Place};
use super::peer::{self, Running};
use super::servers::NAME;
use crate::shell::{self, Result};

/// Instructions of one fragment on x86_64. Lower it when they have become fewer.
const FIGURE: u64 = 1_091_000;
/// Growth of so many per cent is too much.
const GROWTH: u64 = 10;
/// Fragments that fill caches and prepare statements.
const BEFORE: u64 = 50;
const COUNTED: u64 = 200;
const FRAGMENT: u64 = 64 << 10;

/// Counts for `server`; an error if it is over the figure.
pub(crate) fn check(server: &Path) -> Result<()> {
    let found = count(server)?;
    eprintln!("a fragment costs {found} instructions; the figure is {FIGURE}");
    if cfg!(target_arch = "x86_64") && is_too_much(found) {
        return Err(format!(
            "a fragment costs {found} instructions, over {GROWTH} % more than {FIGURE}: find out why with \
             `callgrind_annotate --inclusive=yes {}`; if it must be so, change the figure in {}",
            dump(&folder()).display(),
            file!()
        )
        .into());
    }
    Ok(())
}

fn is_too_much(found: u64) -> bool {
    found * 100 > FIGURE * (100 + GROWTH)
}

fn count(server: &Path) -> Result<u64> {
    let folder = folder();
    peer::remove(&folder)?;
    fs::create_dir_all(&folder)?;
    let running = start(server, &folder)?;
    let mut upload = running.create(running.connect()?, NAME, (BEFORE + COUNTED + 1) * FRAGMENT)?;
    let mut send = |numbers: std::ops::Range<u64>| {
        numbers.into_iter().try_for_each(|number| upload.fragment(number * FRAGMENT, FRAGMENT))
    };
    send(0..BEFORE)?;
    control(&running, "--zero")?;
    send(BEFORE..BEFORE + COUNTED)?;
    control(&running, "--dump")?;
    Ok(total(&fs::read_to_string(dump(&folder))?)? / COUNTED)
}

fn start(server: &Path, folder: &Path) -> Result<Running> {
    let place = Place::new(folder.to_owned(), Home::default())?;
    let plain = command::bits_server(server, &place, "checkpoint")?;
    let mut counted = Command::new("valgrind");
    counted.args(["--tool=callgrind", &format!("--callgrind-out-file={}", out_file(folder).display())]);
    counted.arg(server).args(plain.command.get_args());
    Running::run(&peer::PEERS[0], command::Start { command: counted, settings: plain.settings }, place)
}

fn control(running: &Running, what: &str) -> Result<()> {
    let mut control = Command::new("callgrind_control");
    control.args([what, &running.process().to_string()]);
    shell::run(control.stdout(Stdio::null()))
}

/// The sum of a profile.
fn total(profile: &str) -> Result<u64> {
    let sum = profile.lines().find_map(|line| line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: ")));
    Ok(sum.ok_or("callgrind has written no sum")?.trim().parse()?)
}

fn folder() -> std::path::PathBuf {
    shell::target_dir().join("cost")
}

fn out_file(folder: &Path) -> std::path::PathBuf {
    folder.join("callgrind")
}

/// Where the first dump goes.
fn dump(folder: &Path) -> std::path::PathBuf {
    folder.join("callgrind.1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_a_profile_is_found() {
        assert_eq!(total("events: Ir\nsummary: 218130466\n\nfn=(1)\n1 2\ntotals: 218130466\n").unwrap(), 218_130_466);
        assert!(total("events: Ir\n").is_err());
    }

    #[test]
    fn growth_of_a_tenth_is_allowed() {
        assert!(!is_too_much(FIGURE / 100 * 110));
        assert!(is_too_much(FIGURE / 100 * 111));
    }
}
