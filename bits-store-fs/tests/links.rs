//! Nothing planted below the root, before or during an operation, leads out of it.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use bits_core::{Destination, Source, StoreErrorKind, UploadStore};
use bits_store_fs::LocalStore;
use common::{CAREFUL, Place, REPLACE, key, options, publish, publish_new, put_all, stopped_kind, upload, write};

/// A folder outside the root, with a file that must stay as it is.
fn outside(place: &Place) -> std::path::PathBuf {
    let outside = place.folder.path().join("outside");
    fs::create_dir_all(outside.join("BITS-Sessions")).unwrap();
    fs::write(outside.join("precious"), "precious").unwrap();
    outside
}

fn assert_untouched(outside: &Path) {
    let mut names: Vec<_> = fs::read_dir(outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["BITS-Sessions", "precious"]);
    assert_eq!(fs::read_to_string(outside.join("precious")).unwrap(), "precious");
    assert_eq!(fs::read_dir(outside.join("BITS-Sessions")).unwrap().count(), 0);
}

#[tokio::test]
async fn the_root_itself_may_be_a_link_and_is_resolved_once() {
    let outer = tempfile::tempdir().unwrap();
    fs::create_dir(outer.path().join("real")).unwrap();
    fs::create_dir(outer.path().join("other")).unwrap();
    symlink("real", outer.path().join("files")).unwrap();
    let store = LocalStore::open(&outer.path().join("files"), options()).unwrap();
    fs::remove_file(outer.path().join("files")).unwrap();
    symlink("other", outer.path().join("files")).unwrap();
    publish_new(&store, "in/file", b"1").await.unwrap();
    assert_eq!(fs::read(outer.path().join("real/in/file")).unwrap(), b"1");
    assert_eq!(fs::read_dir(outer.path().join("other")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_link_as_the_directorys_folder_is_refused() {
    let place = Place::new();
    let outside = outside(&place);
    symlink(&outside, place.path("in")).unwrap();
    assert_everything_is_denied(&place).await;
    assert_untouched(&outside);
}

#[tokio::test]
async fn a_link_as_the_staging_folder_is_refused() {
    let place = Place::new();
    let outside = outside(&place);
    fs::create_dir(place.path("in")).unwrap();
    symlink(&outside, place.path("in/BITS-Sessions")).unwrap();
    assert_everything_is_denied(&place).await;
    assert_untouched(&outside);
}

/// Links inside the root are no better: one directory's uploads must not reach another's.
#[tokio::test]
async fn a_link_within_the_root_is_refused() {
    let place = Place::new();
    let outside = outside(&place);
    fs::rename(&outside, place.path("elsewhere")).unwrap();
    symlink("elsewhere", place.path("in")).unwrap();
    assert_everything_is_denied(&place).await;
    assert_untouched(&place.path("elsewhere"));
}

async fn assert_everything_is_denied(place: &Place) {
    let mut upload = upload("in/file", 10);
    assert_eq!(place.store.reserve(&upload).await.unwrap_err().kind, StoreErrorKind::Denied);
    assert_eq!(stopped_kind(&write(&place.store, &mut upload, b"12345").await), Some(StoreErrorKind::Denied));
    (upload.received, upload.total) = (5, 5);
    assert_eq!(place.store.available(&upload).await.unwrap_err().kind, StoreErrorKind::Denied);
    assert_eq!(place.store.sync(&upload).await.unwrap_err().kind, StoreErrorKind::Denied);
    assert_eq!(place.store.prepare(&upload, CAREFUL).await.unwrap_err().kind, StoreErrorKind::Denied);
    let intent = bits_core::PublishIntent("device=1 inode=1 size=5".to_owned());
    assert_eq!(place.store.publish(&upload, REPLACE, &intent).await.unwrap_err().kind, StoreErrorKind::Denied);
    assert_eq!(place.store.discard(&upload).await.unwrap_err().kind, StoreErrorKind::Denied);
}

#[tokio::test]
async fn a_link_as_the_staged_file_is_refused_and_can_be_discarded() {
    let place = Place::new();
    let outside = outside(&place);
    for target in [outside.join("precious"), outside.join("new")] {
        let mut upload = upload("in/file", 10);
        fs::create_dir_all(place.path("in/BITS-Sessions")).unwrap();
        symlink(&target, place.staged(&upload)).unwrap();
        assert_eq!(place.store.reserve(&upload).await.unwrap_err().kind, StoreErrorKind::Denied);
        assert_eq!(stopped_kind(&write(&place.store, &mut upload, b"12345").await), Some(StoreErrorKind::Denied));
        assert_eq!(place.store.available(&upload).await.unwrap(), 0);
        place.store.discard(&upload).await.unwrap();
        assert_untouched(&outside);
    }
}

/// The link takes the staged file's place while the store has the file open.
#[tokio::test]
async fn a_link_that_replaces_the_staged_file_is_not_followed() {
    let place = Place::new();
    let outside = outside(&place);
    let mut upload = upload("in/file", 8);
    put_all(&place.store, &mut upload, b"1234").await;
    fs::remove_file(place.staged(&upload)).unwrap();
    symlink(outside.join("precious"), place.staged(&upload)).unwrap();
    assert_eq!(stopped_kind(&write(&place.store, &mut upload, b"5678").await), Some(StoreErrorKind::Denied));
    assert_untouched(&outside);
}

#[tokio::test]
async fn neither_fifo_nor_folder_is_taken_for_a_staged_file() {
    let place = Place::new();
    let mut first = upload("in/file", 8);
    fs::create_dir_all(place.path("in/BITS-Sessions")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(place.staged(&first)).status().unwrap();
    assert!(made.success());
    let written = write(&place.store, &mut first, b"1234").await;
    assert!(written.stopped.is_some() && written.reached == 0, "{written:?}");
    let mut second = upload("in/file", 8);
    fs::create_dir(place.staged(&second)).unwrap();
    let written = write(&place.store, &mut second, b"1234").await;
    assert!(written.stopped.is_some() && written.reached == 0, "{written:?}");
}

#[tokio::test]
async fn a_link_on_the_way_to_the_destination_is_refused() {
    let place = Place::new();
    let outside = outside(&place);
    for (link, name) in [("in/a", "in/a/file"), ("in/b", "in/b/c/d/file"), ("in/e", "in/e/precious")] {
        let mut early = upload(name, 3);
        put_all(&place.store, &mut early, b"new").await;
        place.store.sync(&early).await.unwrap();
        let intent = place.store.prepare(&early, REPLACE).await.unwrap();
        symlink(&outside, place.path(link)).unwrap();
        assert_eq!(place.store.inspect(&key(name)).await.unwrap_err().kind, StoreErrorKind::Denied, "{name}");
        assert_eq!(place.store.prepare(&early, REPLACE).await.unwrap_err().kind, StoreErrorKind::Denied, "{name}");
        let error = place.store.publish(&early, REPLACE, &intent).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Denied, "{name}");
        assert_untouched(&outside);
        fs::remove_file(place.path(link)).unwrap();
        place.store.publish(&early, REPLACE, &intent).await.unwrap();
    }
}

#[tokio::test]
async fn a_link_at_the_destination_is_kept_or_replaced_but_never_followed() {
    let place = Place::new();
    let outside = outside(&place);
    fs::create_dir(place.path("in")).unwrap();
    for target in [outside.join("precious"), outside.join("none"), outside.clone()] {
        symlink(&target, place.path("in/file")).unwrap();
        assert_eq!(place.store.inspect(&key("in/file")).await.unwrap(), Destination::File);
        let mut upload = upload("in/file", 3);
        put_all(&place.store, &mut upload, b"new").await;
        assert_eq!(publish(&place.store, &upload, CAREFUL).await.unwrap_err().kind, StoreErrorKind::Exists);
        publish(&place.store, &upload, REPLACE).await.unwrap();
        assert!(fs::symlink_metadata(place.path("in/file")).unwrap().is_file());
        assert_untouched(&outside);
        fs::remove_file(place.path("in/file")).unwrap();
    }
}

#[tokio::test]
async fn nothing_is_read_through_a_link() {
    let place = Place::new();
    let outside = outside(&place);
    publish_new(&place.store, "in/file", b"published").await.unwrap();
    symlink(&outside, place.path("in/out")).unwrap();
    symlink(outside.join("precious"), place.path("in/link")).unwrap();
    symlink("file", place.path("in/within")).unwrap();
    symlink("in", place.path("folder")).unwrap();
    for name in ["in/out/precious", "in/link", "in/within", "folder/file"] {
        assert_denied(&place, Source::Published(&key(name))).await;
    }
    let upload = upload("in/file", 8);
    let reply = place.path("in/BITS-Sessions").join(format!("{}.reply", upload.session.uuid()));
    fs::create_dir_all(place.path("in/BITS-Sessions")).unwrap();
    for link in [place.staged(&upload), reply] {
        symlink(outside.join("precious"), link).unwrap();
    }
    assert_denied(&place, Source::Staged(&upload)).await;
    assert_denied(&place, Source::Reply(&upload)).await;
}

#[tokio::test]
async fn only_regular_files_are_read() {
    let place = Place::new();
    fs::create_dir(place.path("in")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(place.path("in/fifo")).status().unwrap();
    assert!(made.success());
    let _socket = std::os::unix::net::UnixListener::bind(place.path("in/socket")).unwrap();
    for name in ["in/fifo", "in/socket"] {
        let opened = place.store.open(Source::Published(&key(name))).await;
        assert!(opened.is_err(), "{name} was opened");
    }
    assert!(place.store.open(Source::Published(&key("in"))).await.unwrap().is_none());
}

async fn assert_denied(place: &Place, source: Source<'_>) {
    match place.store.open(source).await {
        Err(error) => assert_eq!(error.kind, StoreErrorKind::Denied, "{source:?}: {error:?}"),
        Ok(opened) => panic!("{source:?} was opened: {}", opened.is_some()),
    }
}

/// Somebody swaps folders for links and back while uploads run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_that_come_and_go_never_let_anything_out() {
    let place = Place::new();
    let outside = outside(&place);
    fs::create_dir_all(place.path("in/sub")).unwrap();
    let stop = AtomicBool::new(false);
    let swap = |name: &str| {
        let (real, kept) = (place.path(name), place.folder.path().join("kept"));
        for round in (0..).take_while(|_| !stop.load(Ordering::Relaxed)) {
            std::thread::sleep(std::time::Duration::from_micros(round * 37 % 900));
            if fs::rename(&real, &kept).is_ok() {
                let _ = symlink(&outside, &real);
                std::thread::yield_now();
                // The store may have made the folder anew by now, and again.
                while fs::rename(&kept, &real).is_err() {
                    let _ = fs::remove_file(&real);
                    let _ = fs::remove_dir_all(&real);
                }
            }
        }
    };
    let mut published = 0;
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            scope.spawn(|| swap("in/sub"));
            tokio::runtime::Handle::current().block_on(async {
                for round in 0..300 {
                    let result = publish_new_or_fail(&place.store, &format!("in/sub/{round}/file")).await;
                    published += usize::from(result);
                }
            });
            stop.store(true, Ordering::Relaxed);
        });
    });
    assert_untouched(&outside);
    assert!(published > 0, "not one upload went through, so nothing was tried");
}

async fn publish_new_or_fail(store: &LocalStore, name: &str) -> bool {
    let mut upload = upload(name, 3);
    if store.reserve(&upload).await.is_err() || write(store, &mut upload, b"123").await.stopped.is_some() {
        return false;
    }
    publish(store, &upload, CAREFUL).await.is_ok()
}
