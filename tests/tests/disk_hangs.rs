//! A disk that takes no writes for a while, and gives no errors: whoever does not write there is
//! served meanwhile, and whoever does goes on afterwards.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use tests::{ImageDisk, Server, ServerOptions, Upload, wait_until};

/// So short that all of it is there before any is written.
const FRAGMENT: u64 = 8 << 10;
const LENGTH: usize = 6 * FRAGMENT as usize;

/// A file system that holds every write up, until it is dropped.
struct Frozen(PathBuf);

impl Frozen {
    fn new(disk: &Path) -> Self {
        assert!(freeze("--freeze", disk), "fsfreeze of the package util-linux needs root");
        Self(disk.to_owned())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        assert!(freeze("--unfreeze", &self.0), "{} stays frozen", self.0.display());
    }
}

fn freeze(how: &str, disk: &Path) -> bool {
    Command::new("fsfreeze").arg(how).arg(disk).status().unwrap().success()
}

/// One leaves the server's other threads asleep: nobody but the one that writes was awake.
#[test]
fn others_are_served_while_one_upload_hangs() {
    hang(1);
}

/// As many as the server has threads for connections, on a test's machine.
#[test]
fn others_are_served_while_few_uploads_hang() {
    hang(2);
    hang(3);
}

#[test]
fn others_are_served_while_many_uploads_hang() {
    hang(24);
}

fn hang(hanging: u64) {
    let disk = ImageDisk::new(64);
    let storage =
        format!("[storage]\nurl = \"file:{}\"\nreserve_free = \"1MiB\"\n", disk.path().join("files").display());
    let server = Server::start(ServerOptions::directory("download_enabled = true").and_config(&storage));
    let mut published = Upload::new(server.address(), "/upload/published.bin", 0, LENGTH);
    published.run(FRAGMENT).unwrap();
    let started = |seed: u64| {
        let mut upload = Upload::new(server.address(), &format!("/upload/{seed}.bin"), seed, LENGTH);
        upload.create().unwrap();
        upload.fragment(FRAGMENT).unwrap();
        upload
    };
    let uploads: Vec<Upload> = (1..=hanging).map(started).collect();

    let frozen = Frozen::new(disk.path());
    let writing: Vec<_> = uploads
        .into_iter()
        .map(|mut upload| {
            thread::spawn(move || {
                upload.connection().unwrap().patience(Duration::from_secs(120));
                upload.fragments(FRAGMENT).unwrap();
                upload.close().unwrap();
                upload
            })
        })
        .collect();
    let received = || server.metric("bits_received_bytes_total");
    let all = (2 * hanging * FRAGMENT) as f64 + LENGTH as f64;
    wait_until("every upload's next fragment is there", || received() >= all);
    let start = Instant::now();
    for _ in 0..20 {
        assert_eq!(server.raw().ping("/upload/any.bin").status, 200);
        assert_eq!(server.admin_get("/healthz").unwrap(), 200);
        server.raw().create("/upload/later.bin");
        let mut raw = server.raw();
        raw.send(b"GET /upload/published.bin HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(raw.receive().body == published.content, "the download has other bytes");
    }
    assert!(start.elapsed() < Duration::from_secs(20), "others waited for the disk: {:?}", start.elapsed());
    assert!(writing.iter().all(|upload| !upload.is_finished()), "the disk took writes");

    drop(frozen);
    for upload in writing {
        let upload = upload.join().unwrap();
        let path = disk.path().join("files").join(upload.path.trim_start_matches('/'));
        assert!(fs::read(path).unwrap() == upload.content, "{} has other bytes", upload.path);
    }
}
