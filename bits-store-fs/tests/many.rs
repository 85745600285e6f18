//! Very many uploads: file handles, memory of them, and nothing left behind.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::{fs, path::Path};

use bits_core::{Upload, UploadStore};
use bits_store_fs::Options;
use common::{CAREFUL, Place, options, publish, upload, write};
use futures_util::{StreamExt, stream};

const SESSIONS: usize = 10_000;
const OPEN: usize = 64;

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_sessions_leak_no_file() {
    // In memory where possible: each file that is closed early is synced before.
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let place = Place::below(folder.unwrap(), Options { open_files: OPEN, ..options() });
    let before = open_files();
    let mut uploads: Vec<Upload> = (0..SESSIONS).map(|at| upload(&format!("in/{}/{at}", at % 10), 2)).collect();
    for upload in &mut uploads {
        assert_eq!(write(&place.store, upload, b"1").await.reached, 1);
    }
    let opened = open_files() - before;
    assert!((1..=OPEN + 16).contains(&opened), "{opened} files are open");
    let end = async |(at, mut upload): (usize, Upload)| match at % 20 {
        0 => {
            let _ = write(&place.store, &mut upload, b"2").await;
            publish(&place.store, &upload, CAREFUL).await.unwrap();
        }
        _ => place.store.discard(&upload).await.unwrap(),
    };
    stream::iter(uploads.into_iter().enumerate()).for_each_concurrent(16, end).await;
    assert!(place.is_nothing_staged());
    let left = open_files().saturating_sub(before);
    assert!(left <= 4, "{left} files are still open");
    let published: usize =
        (0..10).map(|at| fs::read_dir(place.path(&format!("in/{at}"))).map_or(0, Iterator::count)).sum();
    assert_eq!(published, SESSIONS / 20);
}
