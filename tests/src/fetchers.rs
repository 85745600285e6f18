//! Download clients that know nothing of BITS: curl and wget.

use std::{
    fs,
    process::{Command, Output},
};

use crate::{Server, wait_until};

/// Fetches `data` from `url` by each of them, at once, and then again with the server dying in the
/// middle: each goes on where it stood.
pub fn fetch_resumed(server: &mut Server, url: &str, data: &[u8]) {
    let folder = server.folder().to_owned();
    for (name, program, arguments) in [
        ("curl", "curl", &["--silent", "--show-error", "--fail", "--output"][..]),
        ("wget", "wget", &["--no-verbose", "--output-document"]),
    ] {
        let target = folder.join(name);
        run(Command::new(program).args(arguments).arg(&target).arg(url));
        assert!(fs::read(&target).unwrap() == data, "{name}");
    }
    // Cut off by the server's death, each goes on where it stood.
    for (name, begin, resume) in [
        (
            "curl",
            &["curl", "--silent", "--limit-rate", "20M", "--output"][..],
            &["curl", "--silent", "--show-error", "--fail", "--continue-at", "-", "--output"][..],
        ),
        (
            "wget",
            &["wget", "--quiet", "--limit-rate", "20M", "--tries", "1", "--output-document"],
            &["wget", "--no-verbose", "--continue", "--output-document"],
        ),
    ] {
        let target = folder.join(format!("resumed-{name}"));
        let mut child = Command::new(begin[0]).args(&begin[1..]).arg(&target).arg(url).spawn().unwrap();
        wait_until("something came", || fs::metadata(&target).is_ok_and(|file| file.len() > 1 << 20));
        server.kill();
        assert!(!child.wait().unwrap().success());
        let came = fs::metadata(&target).unwrap().len() as usize;
        assert!(came < data.len());
        server.launch();
        run(Command::new(resume[0]).args(&resume[1..]).arg(&target).arg(url));
        assert!(fs::read(&target).unwrap() == data, "{name} has other bytes after resuming at {came}");
        let log = server.log();
        assert!(log.contains("status=206"), "{name} began anew");
    }
}

/// Runs a program to its end, which must be success.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    let output =
        command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; see cargo xtask test --install"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}
