//! A wall clock of a server's own, by libfaketime.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::ServerOptions;

/// A wall clock that can be set while the server runs. The monotonic one goes on as ever.
#[derive(Debug)]
pub struct Clock(TempDir);

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// One that goes right.
    pub fn new() -> Self {
        let clock = Self(TempDir::new().unwrap());
        clock.set("+0");
        clock
    }

    /// Sets the clock off against the true time by so much, as faketime reads it: `+20d`.
    pub fn set(&self, offset: &str) {
        let (new, file) = (self.0.path().join("new"), self.file());
        fs::write(&new, format!("{offset}\n")).unwrap();
        fs::rename(new, file).unwrap();
    }

    /// A server that goes by it.
    pub fn rule(&self, options: ServerOptions) -> ServerOptions {
        options
            .env("LD_PRELOAD", library().to_str().unwrap())
            .env("FAKETIME_TIMESTAMP_FILE", self.file().to_str().unwrap())
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            // The library reads its file from within the server.
            .env("BITS__CONFINE", "false")
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("offset")
    }
}

/// The library of the package faketime, wherever the system keeps its libraries.
fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").unwrap().flatten().map(|entry| entry.path().join("faketime"));
    let found =
        folders.chain([Path::new("/usr/lib/faketime").to_owned()]).map(|folder| folder.join("libfaketimeMT.so.1"));
    found.into_iter().find(|library| library.exists()).expect("libfaketimeMT.so.1 of the package faketime is installed")
}
