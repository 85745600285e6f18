//! kill -9 of the server in the middle of fragments: nothing acknowledged is asked for again, and
//! the file is right at the end.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{thread, time::Duration};

use tests::{Server, ServerOptions, Upload, assert_staging_empty, list_files};

const KILLS: usize = 20;
const FRAGMENT: u64 = 96 * 1024;

#[test]
fn twenty_kills_in_one_upload_lose_nothing_acknowledged() {
    survives_kills("publish = \"last-fragment\"");
}

#[test]
fn twenty_kills_in_one_upload_that_is_published_at_its_close_lose_nothing_acknowledged() {
    survives_kills("publish = \"close-session\"");
}

fn survives_kills(directory: &str) {
    let mut server = Server::start(ServerOptions::directory(directory));
    // Three fragments between two kills, and some after the last.
    let mut upload = Upload::new(server.address(), "/upload/new/file.bin", 1, FRAGMENT as usize * 3 * (KILLS + 1));
    upload.create().unwrap();
    for kill in 0..KILLS {
        upload.fragment(FRAGMENT).unwrap();
        upload.fragment(FRAGMENT).unwrap();
        // From nothing of the body to all of it, at once or when it has arrived.
        let part = FRAGMENT as usize * kill / (KILLS - 1);
        upload.begin_fragment(FRAGMENT, part).unwrap();
        thread::sleep(Duration::from_millis(kill as u64 % 4 * 3));
        server.kill();
        upload.disconnect();
        assert_eq!(server.file("upload/new/file.bin"), None, "it is not whole");
        server.launch();
        let acknowledged = upload.acknowledged;
        let next = upload.ask_next().unwrap();
        assert!(next >= acknowledged, "kill {kill}: {next} is wanted, {acknowledged} was acknowledged");
        assert!(next <= acknowledged + part as u64, "kill {kill}: {next} is more than was sent");
    }
    upload.fragments(FRAGMENT).unwrap();
    server.kill();
    upload.disconnect();
    server.launch();
    upload.close().unwrap();
    assert_eq!(list_files(&server.files()), ["upload/new/file.bin"]);
    assert!(server.file("upload/new/file.bin").unwrap() == upload.content, "the file has other bytes");
    assert_staging_empty(&server.files());
}
