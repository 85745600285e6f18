//! Fifty uploads at once, in small interleaved fragments.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{sync::Barrier, thread};

use tests::{Server, ServerOptions, Upload, assert_staging_empty, list_files};

const UPLOADS: usize = 50;

#[test]
fn fifty_uploads_at_once_all_arrive() {
    let server = Server::start(ServerOptions::new());
    let barrier = Barrier::new(UPLOADS);
    thread::scope(|scope| {
        for number in 0..UPLOADS {
            let (server, barrier) = (&server, &barrier);
            scope.spawn(move || {
                // From one MiB to four, in fragments of 24 KiB to 72 KiB, no two alike.
                let (length, fragment) = ((1 << 20) + number * 60_001, 24 * 1024 + number as u64 * 1000);
                let path = format!("/upload/{}/file-{number}.bin", number % 7);
                let mut upload = Upload::new(server.address(), &path, number as u64, length);
                upload.create().unwrap();
                barrier.wait();
                while !upload.is_whole() {
                    upload.fragment(fragment).unwrap();
                    // Everybody's turn: no upload runs through while the others wait.
                    thread::yield_now();
                }
                upload.close().unwrap();
                assert!(server.file(&path[1..]).unwrap() == upload.content, "{path} has other bytes");
            });
        }
    });
    assert_eq!(list_files(&server.files()).len(), UPLOADS);
    assert_staging_empty(&server.files());
}
