//! What reaches the disk when: traces of a process of its own, and syncs that are made to fail.
//!
//! Needs `strace`. Each parent test runs its child, an ignored test of this program, under it.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use bits_core::{StoreErrorKind, UploadStore};
use bits_store_fs::{LocalStore, Options, SyncAt};
use common::{CAREFUL, options, pattern, publish, put_all, stopped_kind, upload, write};

const FOLDER: &str = "BITS_STORE_FS_TEST_FOLDER";
const CALLS: &str = "trace=openat2,openat,pwrite64,pwritev,pwritev2,fdatasync,fsync,renameat,renameat2,rename,mkdirat,\
                     unlinkat,fchmod,fadvise64,fallocate,ftruncate";

/// Runs the child test `name` under strace in a fresh folder. The answer is that folder, and the
/// calls with the names of files as they are below it.
fn trace(name: &str, strace: &[&str]) -> (tempfile::TempDir, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("trace");
    let output = Command::new("strace")
        .args(["-f", "-y", "-qq", "-s", "16", "-e", CALLS])
        .args(strace)
        .arg("-o")
        .arg(&out)
        .arg(env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        .env(FOLDER, folder.path())
        .output()
        .expect("this test needs strace (Debian and Ubuntu: apt install strace)");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    let root = format!("{}/", folder.path().display());
    let calls = whole_lines(&fs::read_to_string(out).unwrap());
    let calls = calls.into_iter().filter(|line| line.contains(&root)).map(|line| line.replace(&root, "/")).collect();
    (folder, calls)
}

/// The calls in the order in which they ended; strace cuts those that others interrupt in two.
fn whole_lines(trace: &str) -> Vec<String> {
    let mut begun = std::collections::HashMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let (thread, call) = line.split_once(' ').unwrap();
        if let Some(start) = call.strip_suffix(" <unfinished ...>") {
            begun.insert(thread, start.trim().to_owned());
        } else if let Some((_, rest)) = call.split_once(" resumed>") {
            calls.push(format!("{}{rest}", begun.remove(thread).unwrap()));
        } else {
            calls.push(call.trim().to_owned());
        }
    }
    calls
}

fn child_folder() -> PathBuf {
    PathBuf::from(env::var_os(FOLDER).expect("started by its parent test only"))
}

fn child_store(sync: SyncAt) -> LocalStore {
    LocalStore::open(&child_folder().join("files"), Options { sync, ..options() }).unwrap()
}

/// Where in the trace the first call with all `parts` is, from `start` on.
fn find(calls: &[String], start: usize, parts: &[&str]) -> usize {
    let found = calls[start..].iter().position(|call| parts.iter().all(|part| call.contains(part)));
    found.unwrap_or_else(|| panic!("no {parts:?} after {:?} in {calls:#?}", calls.get(start))) + start
}

fn staged(calls: &[String]) -> String {
    let made = &calls[find(calls, 0, &["O_CREAT", "BITS-Sessions"])];
    made.rsplit_once("= ").unwrap().1.split_once('<').unwrap().1.trim_end_matches('>').to_owned()
}

#[test]
fn everything_is_on_the_disk_before_an_upload_is_published() {
    let (_folder, calls) = trace("child_publishes", &[]);
    let staged = staged(&calls);
    assert!(staged.starts_with("/files/in/BITS-Sessions/"), "{staged}");
    let opened = find(&calls, 0, &["mkdirat", "\"BITS-Sessions\""]);
    let written = find(&calls, opened, &["pwritev", &staged, "= 200000"]);
    let moved = find(&calls, written, &["renameat2", "RENAME_NOREPLACE", "= 0"]);
    for folder in ["/files/in/BITS-Sessions>", "/files/in>", "/files>"] {
        let synced = find(&calls, written, &["fsync(", folder, "= 0"]);
        assert!(synced < moved, "{folder} only after the move");
    }
    // Bytes and permissions by one sync.
    let mode = find(&calls, written, &["fchmod(", &staged, "0640"]);
    let synced = find(&calls, mode, &["fsync(", &staged, "= 0"]);
    assert!(synced < moved, "permissions only after the move");
    let syncs = calls.iter().filter(|call| call.contains("sync(") && call.contains(&format!("{staged}>")));
    assert_eq!(syncs.count(), 1, "{calls:#?}");
    // The file's new name, its old one, and the folders that were made for it, each in its parent.
    for folder in ["/files/in/a/b>", "/files/in/BITS-Sessions>", "/files/in/a>", "/files/in>"] {
        find(&calls, moved, &["fsync(", folder, "= 0"]);
    }
    assert!(!calls.iter().any(|call| call.starts_with("ftruncate")), "{calls:#?}");
    let opens =
        calls.iter().filter(|call| call.starts_with("openat") && call.contains(staged.rsplit_once('/').unwrap().1));
    assert!(opens.count() <= 2, "opened more often than needed: {calls:#?}");
}

#[test]
#[ignore = "a child of another test"]
fn child_publishes() {
    on_one_thread(async {
        let store = child_store(SyncAt::Checkpoint);
        let mut upload = upload("in/a/b/file", 200_000);
        put_all(&store, &mut upload, &pattern(1, 200_000)).await;
        let intent = store.prepare(&upload, CAREFUL).await.unwrap();
        store.publish(&upload, CAREFUL, &intent).await.unwrap();
    });
}

/// After a crash a process cannot know what the former one made durable: all of it is synced.
#[test]
fn publishing_again_syncs_the_folders_again() {
    let (_folder, calls) = trace("child_publishes_again", &[]);
    for folder in ["/files/in/a>", "/files/in/BITS-Sessions>", "/files/in>", "/files>"] {
        find(&calls, 0, &["fsync(", folder, "= 0"]);
    }
    assert!(!calls.iter().any(|call| call.starts_with("rename")), "{calls:#?}");
}

#[test]
#[ignore = "a child of another test"]
fn child_publishes_again() {
    on_one_thread(async {
        for folder in ["files/in/a", "files/in/BITS-Sessions"] {
            fs::create_dir_all(child_folder().join(folder)).unwrap();
        }
        fs::write(child_folder().join("files/in/a/file"), "x").unwrap();
        let upload = bits_core::Upload { received: 1, synced: 1, ..upload("in/a/file", 1) };
        let intent = bits_core::PublishIntent("device=1 inode=1 size=1".to_owned());
        child_store(SyncAt::Checkpoint).publish(&upload, CAREFUL, &intent).await.unwrap();
    });
}

#[test]
fn with_sync_at_fragment_each_write_is_on_the_disk_before_it_returns() {
    let (_folder, calls) = trace("child_writes_fragments", &[]);
    let staged = staged(&calls);
    let mut at = 0;
    for fragment in 0..3 {
        at = find(&calls, at, &["pwritev", &staged]);
        at = find(&calls, at, &["fdatasync", &staged, "= 0"]);
        if fragment == 0 {
            for folder in ["/files/in/BITS-Sessions>", "/files/in>", "/files>"] {
                at = find(&calls, at, &["fsync(", folder, "= 0"]).min(at.max(1));
            }
        }
    }
    let folders = calls.iter().filter(|call| call.starts_with("fsync(") && call.contains("/files/in/BITS-Sessions>"));
    assert_eq!(folders.count(), 1, "the folder needs one sync only");
}

#[test]
#[ignore = "a child of another test"]
fn child_writes_fragments() {
    on_one_thread(async {
        let store = child_store(SyncAt::Fragment);
        let mut upload = upload("in/file", 100);
        for _ in 0..3 {
            let written = write(&store, &mut upload, &[5; 20]).await;
            assert_eq!(written.synced, written.reached);
        }
    });
}

#[test]
fn the_disk_is_asked_to_start_writing_every_8_mib() {
    let (_folder, calls) = trace("child_writes_20_mib", &[]);
    let started = calls.iter().filter(|call| call.starts_with("fadvise64") && call.contains("POSIX_FADV_DONTNEED"));
    assert_eq!(started.count(), 2);
    let frames = calls.iter().filter(|call| call.starts_with("pwritev")).count();
    assert!(frames <= 20 * 4 + 1, "{frames} writes of 20 MiB");
}

#[test]
#[ignore = "a child of another test"]
fn child_writes_20_mib() {
    on_one_thread(async {
        let store = child_store(SyncAt::Checkpoint);
        let mut upload = upload("in/file", 20 << 20);
        store.reserve(&upload).await.unwrap();
        let frame = bytes::Bytes::from(pattern(1, 4 << 10));
        let _ = common::write_frames(&store, &mut upload, vec![Ok(frame); 20 * 256]).await;
    });
}

/// The second fdatasync fails once, as after an error of the disk; the next would succeed, since
/// the system reports such an error only once.
#[test]
fn a_failed_sync_is_not_taken_for_a_success_the_next_time() {
    let (folder, calls) = trace("child_meets_a_failed_sync", &["-e", "inject=fdatasync:error=EIO:when=2"]);
    let failed = find(&calls, 0, &["fdatasync", "(INJECTED)"]);
    let again = find(&calls, failed + 1, &["fdatasync"]);
    let rewritten = find(&calls, failed, &["pwritev"]);
    assert!(rewritten < again, "synced again without writing again");
    assert!(fs::read(folder.path().join("files/in/file")).unwrap() == pattern(1, 300));
}

#[test]
#[ignore = "a child of another test"]
fn child_meets_a_failed_sync() {
    on_one_thread(async {
        let store = child_store(SyncAt::Fragment);
        let data = pattern(1, 300);
        let mut upload = upload("in/file", 300);
        assert_eq!(write(&store, &mut upload, &data[..100]).await.synced, 100);
        let before = upload.clone();
        let written = write(&store, &mut upload, &[0xEE; 100]).await;
        assert_eq!(stopped_kind(&written), Some(StoreErrorKind::Doubtful { good: 100 }));
        assert_eq!((written.reached, written.synced), (100, 100));
        // Whoever asks without going back hears it again.
        upload.received = 200;
        for _ in 0..2 {
            assert_eq!(store.available(&upload).await.unwrap(), 100);
            let error = store.sync(&upload).await.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Doubtful { good: 100 });
            let written = store.write(&upload, &mut futures_util::stream::iter([Ok("x".into())])).await;
            assert_eq!(stopped_kind(&written), Some(StoreErrorKind::Doubtful { good: 100 }));
        }
        upload = before;
        assert_eq!(write(&store, &mut upload, &data[100..]).await.synced, 300);
        publish(&store, &upload, CAREFUL).await.unwrap();
    });
}

/// The first sync of all fails: neither bytes nor the folder's entry are certain, so the file is
/// made anew.
#[test]
fn after_a_failed_first_sync_the_upload_starts_with_a_new_file() {
    for fails in ["inject=fdatasync:error=EIO:when=1", "inject=fsync:error=EIO:when=1", "inject=fsync:error=EIO:when=2"]
    {
        let (folder, calls) = trace("child_meets_a_failed_first_sync", &["-e", fails]);
        find(&calls, 0, &["(INJECTED)"]);
        let made = calls.iter().filter(|call| call.contains("O_EXCL") && call.contains("BITS-Sessions")).count();
        assert_eq!(made, 2, "{calls:#?}");
        assert!(fs::read(folder.path().join("files/in/file")).unwrap() == pattern(1, 300));
    }
}

#[test]
#[ignore = "a child of another test"]
fn child_meets_a_failed_first_sync() {
    on_one_thread(async {
        let store = child_store(SyncAt::Checkpoint);
        let mut upload = upload("in/file", 300);
        put_all(&store, &mut upload, &pattern(1, 300)).await;
        for _ in 0..2 {
            let error = store.sync(&upload).await.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Doubtful { good: 0 });
        }
        upload.received = 0;
        put_all(&store, &mut upload, &pattern(1, 300)).await;
        publish(&store, &upload, CAREFUL).await.unwrap();
    });
}

/// Each sync of a publishing fails once: it is not said to be done, and the next try makes up for
/// whatever is missing, in this process as after a crash.
#[test]
fn a_publishing_whose_sync_failed_is_not_done_before_all_is_synced() {
    // Before these the upload itself is synced, by three.
    for (nth, synced) in [(4, "BITS-Sessions/"), (5, "/in/a/b>"), (6, "/BITS-Sessions>"), (7, "/in>"), (8, "/in/a>")] {
        let inject = format!("inject=fsync:error=EIO:when={nth}");
        let (folder, calls) = trace("child_meets_a_failed_sync_when_publishing", &["-e", &inject]);
        let failed = find(&calls, 0, &["fsync(", synced, "(INJECTED)"]);
        find(&calls, failed + 1, &["fsync(", synced, "= 0"]);
        assert!(fs::read(folder.path().join("files/in/a/b/file")).unwrap() == pattern(1, 300));
    }
}

#[test]
#[ignore = "a child of another test"]
fn child_meets_a_failed_sync_when_publishing() {
    on_one_thread(async {
        let store = child_store(SyncAt::Checkpoint);
        let mut upload = upload("in/a/b/file", 300);
        put_all(&store, &mut upload, &pattern(1, 300)).await;
        store.sync(&upload).await.unwrap();
        upload.synced = 300;
        let intent = store.prepare(&upload, CAREFUL).await.unwrap();
        let error = store.publish(&upload, CAREFUL, &intent).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Unavailable);
        store.publish(&upload, CAREFUL, &intent).await.unwrap();
    });
}

/// An error of the disk that comes after the last handle is closed could be lost.
#[test]
fn a_file_is_not_closed_before_its_bytes_are_on_the_disk() {
    let (_folder, calls) = trace("child_evicts_files", &["-e", "inject=fdatasync:error=EIO:when=1"]);
    find(&calls, 0, &["fdatasync", "(INJECTED)"]);
}

#[test]
#[ignore = "a child of another test"]
fn child_evicts_files() {
    on_one_thread(async {
        let folder = child_folder().join("files");
        let store = LocalStore::open(&folder, Options { open_files: 1, ..options() }).unwrap();
        let (mut first, mut second) = (upload("in/first", 20), upload("in/second", 20));
        for (upload, bytes) in [(&mut first, b"123"), (&mut second, b"abc")] {
            assert_eq!(write(&store, upload, bytes).await.synced, 0);
        }
        let written = write(&store, &mut first, b"456").await;
        assert_eq!(stopped_kind(&written), Some(StoreErrorKind::Doubtful { good: 0 }), "closed with a failed sync");
        let written = write(&store, &mut second, b"def").await;
        assert!(written.stopped.is_none());
        first.received = 0;
        assert!(write(&store, &mut first, b"123").await.stopped.is_none());
    });
}

/// All system calls on one thread, since strace counts those to make fail thread by thread.
fn on_one_thread(work: impl Future<Output = ()>) {
    // So that opening the store has nothing to sync on this thread.
    fs::create_dir_all(child_folder().join("files")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_all().build().unwrap();
    runtime.block_on(work);
}

#[test]
fn the_traces_are_read_right() {
    let trace =
        "1 fsync(3</a>) = 0\n2 fdatasync(4</b> <unfinished ...>\n1 fsync(5</c>) = 0\n2 <... fdatasync resumed>) = 0\n";
    assert_eq!(whole_lines(trace), ["fsync(3</a>) = 0", "fsync(5</c>) = 0", "fdatasync(4</b>) = 0"]);
    assert!(Path::new("/").is_dir());
}
