//! A client that vanishes and comes back on a new connection: the old one, which still hangs in
//! the middle of a body, does not hold the new one up, and the bytes that came on it are kept.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    thread,
    time::{Duration, Instant},
};

use tests::{Raw, Server, ServerOptions, Upload, assert_error, assert_staging_empty, list_files, wait_until};

/// Far below the two minutes after which the server itself gives a silent body up.
const BOUND: Duration = Duration::from_secs(10);
const FRAGMENT: u64 = 1 << 20;
/// What the hanging connection has sent of its fragment.
const CAME: usize = 300_000;

struct Scene {
    server: Server,
    upload: Upload,
    hanging: Raw,
}

/// One fragment is acknowledged, the next one hangs in the middle of its body.
fn scene() -> Scene {
    let server = Server::start(ServerOptions::new());
    let mut upload = Upload::new(server.address(), "/upload/file.bin", 2, 3 * FRAGMENT as usize);
    upload.create().unwrap();
    upload.fragment(FRAGMENT).unwrap();
    let hanging = hang(&mut upload);
    Scene { server, upload, hanging }
}

fn hang(upload: &mut Upload) -> Raw {
    upload.begin_fragment(FRAGMENT, CAME).unwrap();
    // On loopback the server has read all of it by then.
    thread::sleep(Duration::from_millis(300));
    upload.disconnect().unwrap()
}

fn in_time<T>(step: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = step();
    assert!(start.elapsed() < BOUND, "it took {:?}", start.elapsed());
    done
}

/// Nobody reads an answer on the old connection; if one comes it acknowledges nothing.
fn assert_cut(mut hanging: Raw) {
    hanging.patience(BOUND);
    if let Ok(answer) = hanging.try_receive() {
        assert_ne!(answer.status, 200, "{answer:#?}");
    } else {
        assert!(hanging.is_closed(), "the connection still hangs");
    }
}

#[test]
fn a_fragment_goes_on_where_the_hanging_one_was_cut() {
    let Scene { server, mut upload, hanging } = scene();
    let next = in_time(|| upload.ask_next().unwrap());
    assert_eq!(next, FRAGMENT + CAME as u64, "the bytes that came are kept");
    assert_cut(hanging);
    upload.fragments(FRAGMENT).unwrap();
    upload.close().unwrap();
    assert!(server.file("upload/file.bin").unwrap() == upload.content, "the file has other bytes");
}

#[test]
fn the_same_fragment_sent_again_is_taken_in_time() {
    let Scene { server, mut upload, hanging } = scene();
    in_time(|| upload.fragment(FRAGMENT).unwrap());
    assert_eq!(upload.acknowledged, 2 * FRAGMENT);
    upload.fragments(FRAGMENT).unwrap();
    upload.close().unwrap();
    assert_cut(hanging);
    assert!(server.file("upload/file.bin").unwrap() == upload.content, "the file has other bytes");
}

#[test]
fn many_hanging_connections_are_cut_one_after_the_other() {
    let Scene { server, mut upload, hanging } = scene();
    let mut hangings = vec![hanging];
    in_time(|| {
        for _ in 0..5 {
            upload.ask_next().unwrap();
            hangings.push(hang(&mut upload));
        }
    });
    upload.ask_next().unwrap();
    assert_eq!(upload.acknowledged, FRAGMENT + 6 * CAME as u64);
    upload.fragments(FRAGMENT).unwrap();
    hangings.into_iter().for_each(assert_cut);
    assert!(server.file("upload/file.bin").unwrap() == upload.content, "the file has other bytes");
}

#[test]
fn a_close_ends_the_session_in_time() {
    let Scene { server, mut upload, hanging } = scene();
    in_time(|| upload.close().unwrap());
    assert_over(&server, &mut upload, hanging);
}

#[test]
fn a_cancel_ends_the_session_in_time() {
    let Scene { server, mut upload, hanging } = scene();
    in_time(|| upload.cancel().unwrap());
    assert_over(&server, &mut upload, hanging);
}

/// The upload was not complete: nothing is left of it.
fn assert_over(server: &Server, upload: &mut Upload, hanging: Raw) {
    assert_cut(hanging);
    let answer = upload.ask(&upload.next_fragment(FRAGMENT)).unwrap();
    assert_error(&answer, 500, 0x8020_001F);
    wait_until("the partial data is deleted", || list_files(&server.files()).is_empty());
    assert_staging_empty(&server.files());
}

#[test]
fn a_lost_connection_that_says_so_keeps_its_bytes_too() {
    let Scene { server, mut upload, hanging } = scene();
    drop(hanging);
    let next = in_time(|| upload.ask_next().unwrap());
    assert_eq!(next, FRAGMENT + CAME as u64);
    upload.fragments(FRAGMENT).unwrap();
    assert!(server.file("upload/file.bin").unwrap() == upload.content, "the file has other bytes");
}
