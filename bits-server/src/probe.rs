//! Tries what a confined server must not be able to do. Compiled in with the feature `faults`
//! only, which no release has.

use std::fs::{self, File};
use std::io::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Tries each path that the environment's `BITS_PROBE` names, on every kind of thread that the
/// server has, and logs what came of it.
pub(crate) async fn probe() {
    let Some(paths) = std::env::var_os("BITS_PROBE") else { return };
    let paths: Vec<PathBuf> = std::env::split_paths(&paths).collect();
    attempt("main", &paths);
    let (worker, blocking) = (paths.clone(), paths);
    let worker = tokio::spawn(async move { attempt("worker", &worker) });
    let blocking = tokio::task::spawn_blocking(move || attempt("blocking", &blocking));
    let _ = tokio::join!(worker, blocking);
}

fn attempt(thread: &str, paths: &[PathBuf]) {
    for path in paths {
        note(thread, path, "read", File::open(path).map(drop));
        note(thread, path, "make", make_beside(path, thread));
        note(thread, path, "run", Command::new(path).output().map(drop));
    }
}

fn make_beside(path: &Path, thread: &str) -> Result<()> {
    let made = path.with_extension(format!("probe-{thread}"));
    File::create_new(&made).and_then(|_| fs::remove_file(made))
}

fn note(thread: &str, path: &Path, what: &str, outcome: Result<()>) {
    let outcome = outcome.map_or_else(|error| error.kind().to_string(), |()| "done".to_owned());
    tracing::info!(thread, ?path, what, outcome, "probe");
}
