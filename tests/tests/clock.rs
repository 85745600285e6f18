//! Expiry, and a wall clock that jumps: nothing is swept because of the jump.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    thread,
    time::{Duration, Instant},
};

use tests::{Clock, Server, ServerOptions, Upload, assert_error, assert_staging_empty, list_files, wait_until};

const FRAGMENT: u64 = 64 * 1024;
const SESSION_NOT_FOUND: u32 = 0x8020_001F;
const REFUSAL: &str = "no session was expired";

fn refusals(server: &Server) -> usize {
    server
        .log()
        .lines()
        .filter(|line| line.contains("ERROR") && line.contains(REFUSAL) && line.contains("clock"))
        .count()
}

#[test]
fn a_jump_over_the_session_timeout_sweeps_nothing() {
    jumps("+20d");
}

#[test]
fn a_jump_back_sweeps_nothing() {
    jumps("-20d");
}

fn jumps(offset: &str) {
    let clock = Clock::new();
    let server = Server::start(clock.rule(ServerOptions::directory("cleanup_interval = \"1s\"")));
    let mut upload = Upload::new(server.address(), "/upload/file.bin", 1, 4 * FRAGMENT as usize);
    upload.create().unwrap();
    upload.fragment(FRAGMENT).unwrap();
    let staged = list_files(&server.files());
    assert_eq!((staged.len(), refusals(&server)), (1, 0));

    clock.set(offset);
    wait_until("an error line says why nothing is swept", || refusals(&server) > 0);
    wait_until("it does so as long as the clock is off", || refusals(&server) > 1);
    assert_eq!(list_files(&server.files()), staged, "the upload's bytes are kept");
    upload.fragment(FRAGMENT).unwrap();

    clock.set("+0");
    let before = refusals(&server);
    thread::sleep(Duration::from_secs(7));
    let after = refusals(&server);
    assert!(after <= before + 1, "a clock that is right again is still mistrusted");
    upload.fragments(FRAGMENT).unwrap();
    upload.close().unwrap();
    assert!(server.file("upload/file.bin").unwrap() == upload.content, "the file has other bytes");
}

/// Without it, the test above could not tell caution from a fake clock that nobody looks at.
#[test]
fn the_faked_clock_is_the_one_that_sessions_expire_by() {
    let clock = Clock::new();
    let mut server = Server::start(clock.rule(ServerOptions::directory("cleanup_interval = \"1s\"")));
    let mut upload = Upload::new(server.address(), "/upload/file.bin", 1, 4 * FRAGMENT as usize);
    upload.create().unwrap();
    upload.fragment(FRAGMENT).unwrap();
    server.kill();
    upload.disconnect();
    // While the server was down the time really passed, as far as it can know.
    clock.set("+20d");
    server.launch();
    wait_until("the expired session is swept", || list_files(&server.files()).is_empty());
    let fragment = upload.next_fragment(FRAGMENT);
    assert_error(&upload.ask(&fragment).unwrap(), 500, SESSION_NOT_FOUND);
}

#[test]
fn a_session_without_progress_expires_with_its_data_and_one_with_progress_does_not() {
    let server = Server::start(ServerOptions::directory("session_timeout = \"3s\"\ncleanup_interval = \"1s\""));
    let upload = |name: &str, fragments: u64| {
        let mut upload = Upload::new(server.address(), &format!("/upload/{name}"), 1, (fragments * FRAGMENT) as usize);
        upload.create().unwrap();
        upload
    };
    let (mut idle, mut busy, mut unclosed) =
        (upload("idle.bin", 4), upload("busy.bin", 400), upload("unclosed.bin", 2));
    idle.fragment(FRAGMENT).unwrap();
    unclosed.fragments(FRAGMENT).unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(11) {
        busy.fragment(FRAGMENT).unwrap();
        thread::sleep(Duration::from_millis(200));
    }
    let answer = idle.ask(&idle.next_fragment(FRAGMENT)).unwrap();
    assert_error(&answer, 500, SESSION_NOT_FOUND);
    busy.fragments(FRAGMENT).unwrap();
    busy.close().unwrap();
    assert!(server.file("upload/busy.bin").unwrap() == busy.content, "the file has other bytes");
    assert!(server.file("upload/unclosed.bin").unwrap() == unclosed.content, "what is published stays");
    assert_staging_empty(&server.files());
    let log = server.log();
    let outcome = |name: &str, outcome: &str| {
        log.lines().any(|line| line.contains("audit") && line.contains(name) && line.contains(outcome))
    };
    assert!(outcome("idle.bin", "outcome=\"expired\""), "{log}");
    assert!(outcome("unclosed.bin", "outcome=\"expired after publishing\""), "{log}");
}
