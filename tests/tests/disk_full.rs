//! A full disk: uploads are refused as such, sessions can be ended and swept, and the server goes
//! on when there is space again.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use tests::{
    ImageDisk, Packet, Server, ServerOptions, SmallDisk, Upload, assert_error, assert_next, assert_staging_empty,
    list_files, wait_until,
};

const DISK_FULL: u32 = 0x8007_0070;
const MIB: u64 = 1 << 20;
const FRAGMENT: u64 = MIB;

fn options(disk: &Path, lines: &str) -> ServerOptions {
    let config = format!("[storage]\nreserve_free = \"4MiB\"\n[[directories]]\nurl_path = \"/upload\"\n{lines}\n");
    ServerOptions::new().config(&config).data_dir(&disk.join("data"))
}

/// Takes the disk's space from outside, until it is dropped.
struct Filler(PathBuf);

impl Filler {
    /// Leaves so many bytes, in round numbers of the file system's.
    fn leaving(disk: &Path, left: u64) -> Self {
        let path = disk.join("filler");
        let mut file = File::create(&path).unwrap();
        let zeros = vec![0; 64 * 1024];
        while free(disk) > left && file.write_all(&zeros).is_ok() {}
        file.sync_all().unwrap();
        Self(path)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn free(disk: &Path) -> u64 {
    let stat = rustix::fs::statvfs(disk).unwrap();
    stat.f_bavail * stat.f_frsize
}

#[test]
fn a_total_that_cannot_fit_is_refused_at_the_first_fragment() {
    let disk = SmallDisk::new(48);
    let server = Server::start(options(disk.path(), ""));
    let mut raw = server.raw();
    let session = raw.create("/upload/big.bin");
    let answer = raw.fragment("/upload/big.bin", &session, 0, &[7; 1000], 1 << 30);
    assert_error(&answer, 500, DISK_FULL);
    assert_error(&raw.fragment("/upload/big.bin", &session, 0, &[7; 1000], 46 * MIB), 500, DISK_FULL);

    // What is promised to one is not promised to another; the reserve is nobody's.
    let mut first = Upload::new(server.address(), "/upload/first.bin", 1, 30 * MIB as usize);
    first.create().unwrap();
    first.fragment(FRAGMENT).unwrap();
    let mut second = Upload::new(server.address(), "/upload/second.bin", 2, 30 * MIB as usize);
    second.create().unwrap();
    assert_error(&second.ask(&second.next_fragment(FRAGMENT)).unwrap(), 500, DISK_FULL);
    second.cancel().unwrap();
    first.fragments(FRAGMENT).unwrap();
    first.close().unwrap();
    assert!(server.file("upload/first.bin").unwrap() == first.content, "the file has other bytes");
    wait_until("the refused ones left nothing", || list_files(&server.files()) == ["upload/first.bin"]);
    assert_staging_empty(&server.files());
}

/// On a file system that cannot allocate ahead, space can run out in the middle.
#[test]
fn space_that_runs_out_in_the_middle_refuses_the_fragment_and_keeps_what_fitted() {
    let disk = ImageDisk::without_extents(48);
    let server = Server::start(options(disk.path(), ""));
    let mut upload = Upload::new(server.address(), "/upload/file.bin", 3, 16 * MIB as usize);
    upload.create().unwrap();
    for _ in 0..4 {
        upload.fragment(FRAGMENT).unwrap();
    }
    let filler = Filler::leaving(disk.path(), 2 * MIB);
    let refused = loop {
        let answer = upload.ask(&upload.next_fragment(FRAGMENT)).unwrap();
        if answer.status != 200 {
            break answer;
        }
        upload.acknowledged = answer.next_offset().unwrap();
        assert!(!upload.is_whole(), "more was taken than fits");
    };
    assert_error(&refused, 500, DISK_FULL);
    assert_eq!(server.admin_get("/healthz").unwrap(), 200, "the server runs");
    assert_eq!(server.admin_get("/readyz").unwrap(), 200, "cancels and what fits are still taken");

    drop(filler);
    let acknowledged = upload.acknowledged;
    assert!(upload.ask_next().unwrap() >= acknowledged);
    upload.fragments(FRAGMENT).unwrap();
    upload.close().unwrap();
    assert!(server.file("upload/file.bin").unwrap() == upload.content, "the file has other bytes");
    assert_eq!(server.admin_get("/readyz").unwrap(), 200);
}

/// The reserve is for the database: on a disk that uploads have filled, sessions can be created,
/// cancelled and swept.
#[test]
fn on_a_disk_that_uploads_have_filled_sessions_can_be_ended_and_swept() {
    let disk = SmallDisk::new(32);
    let timeouts = "session_timeout = \"6s\"\ncleanup_interval = \"1s\"";
    let server = Server::start(options(disk.path(), timeouts));
    let mut cancelled = fill(&server, "/upload/cancelled.bin", 8 * MIB);
    let expiring = fill(&server, "/upload/expiring.bin", free(disk.path()) - 5 * MIB);
    assert!(free(disk.path()) < 6 * MIB, "the disk is full but for the reserve");
    let mut refused = Upload::new(server.address(), "/upload/refused.bin", 5, 4 * MIB as usize);
    refused.create().unwrap();
    assert_error(&refused.ask(&refused.next_fragment(FRAGMENT)).unwrap(), 500, DISK_FULL);

    let before = free(disk.path());
    cancelled.cancel().unwrap();
    wait_until("the cancelled one's space is free", || free(disk.path()) > before + 7 * MIB);
    wait_until("the expired one's space is free", || free(disk.path()) > 24 * MIB);
    assert!(expiring.acknowledged > 0);
    let answer = server.raw().ask(&Packet::close(expiring.form, &expiring.path, expiring.session()));
    assert_error(&answer, 500, 0x8020_001F);
    assert_staging_empty(&server.files());
    let mut after = Upload::new(server.address(), "/upload/after.bin", 6, 16 * MIB as usize);
    after.run(FRAGMENT).unwrap();
    assert!(server.file("upload/after.bin").unwrap() == after.content, "the file has other bytes");
}

/// An upload of `size` bytes that has sent its first fragment.
fn fill(server: &Server, path: &str, size: u64) -> Upload {
    let mut upload = Upload::new(server.address(), path, 4, size as usize);
    upload.create().unwrap();
    upload.fragment(FRAGMENT).unwrap();
    upload
}

/// Not a byte is left, the reserve included, because somebody else took it: whatever the server
/// then acknowledges holds, and it goes on as soon as there is space.
#[test]
fn on_a_disk_without_a_single_byte_the_server_lives_and_tells_no_lies() {
    let disk = SmallDisk::new(32);
    let mut server = Server::start(options(disk.path(), ""));
    let mut upload = Upload::new(server.address(), "/upload/file.bin", 7, 12 * MIB as usize);
    upload.create().unwrap();
    upload.fragment(FRAGMENT).unwrap();
    let filler = Filler::leaving(disk.path(), 0);
    assert_eq!(free(disk.path()), 0);
    for _ in 0..4 {
        let answer = upload.ask(&upload.next_fragment(FRAGMENT)).unwrap();
        match answer.status {
            200 => upload.acknowledged = answer.next_offset().unwrap(),
            _ => assert_error(&answer, 500, DISK_FULL),
        }
    }
    let answer = upload.ask(&Packet::create(upload.form, "/upload/other.bin")).unwrap();
    assert!(answer.status == 200 || answer.hresult() == Some(DISK_FULL), "{answer:#?}");
    assert_eq!(server.admin_get("/healthz").unwrap(), 200, "the server runs");
    assert!(server.is_running());

    drop(filler);
    let acknowledged = upload.acknowledged;
    assert!(upload.ask_next().unwrap() >= acknowledged, "acknowledged bytes are lost");
    assert_next(&upload.ask(&upload.next_fragment(FRAGMENT)).unwrap(), upload.acknowledged + FRAGMENT);
    upload.acknowledged += FRAGMENT;
    upload.fragments(FRAGMENT).unwrap();
    upload.close().unwrap();
    assert!(server.file("upload/file.bin").unwrap() == upload.content, "the file has other bytes");
    assert_staging_empty(&server.files());
}
