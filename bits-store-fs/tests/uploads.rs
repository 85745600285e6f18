//! Uploads from first byte to destination: what is kept, what is refused, what is left.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
};

use bits_core::{BodyError, Destination, Precondition, Stopped, StorageKey, StoreErrorKind, UploadStore};
use bits_store_fs::{LocalStore, Options, SyncAt};
use bytes::Bytes;
use common::{
    CAREFUL, Place, REPLACE, key, options, pattern, publish, publish_new, put_all, stopped_kind, upload, write,
    write_frames,
};
use futures_util::{StreamExt, future::join_all, stream};

const MIB: usize = 1 << 20;

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// On a current-thread runtime nothing may block it.
#[tokio::test]
async fn an_upload_in_fragments_is_published_on_one_thread() {
    an_upload_in_fragments().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_in_fragments_is_published_on_many_threads() {
    an_upload_in_fragments().await;
}

async fn an_upload_in_fragments() {
    let place = Place::new();
    let data = pattern(1, 3 * MIB + 17);
    let mut upload = upload("in/a/file", data.len() as u64);
    place.store.reserve(&upload).await.unwrap();
    for (frame, fragment) in [(1, 3), (1000, 5000), (70_000, MIB), (300_000, MIB), (usize::MAX, data.len())] {
        let at = upload.received as usize;
        let end = data.len().min(at + fragment);
        let frames = data[at..end].chunks(frame).map(|bytes| Ok(Bytes::copy_from_slice(bytes))).collect();
        assert_eq!(write_frames(&place.store, &mut upload, frames).await.reached, end as u64);
        assert_eq!(place.store.available(&upload).await.unwrap(), end as u64);
    }
    assert!(!place.path("in/a").exists());
    publish(&place.store, &upload, CAREFUL).await.unwrap();
    assert!(fs::read(place.path("in/a/file")).unwrap() == data);
    assert!(place.is_nothing_staged());
}

#[tokio::test]
async fn modes_hold_whatever_the_umask() {
    let place = Place::new();
    let mut upload = upload("in/x/y/file", 1);
    put_all(&place.store, &mut upload, b"1").await;
    assert_eq!(mode(&place.staged(&upload)) & 0o077, 0, "only the server reads what is under way");
    assert_eq!(mode(&place.path("in/BITS-Sessions")) & 0o077, 0);
    let open = Precondition { file_mode: 0o666, folder_mode: 0o3777, ..CAREFUL };
    publish(&place.store, &upload, open).await.unwrap();
    assert_eq!(mode(&place.path("in/x/y/file")), 0o666);
    assert_eq!(mode(&place.path("in/x")), 0o3777);
    assert_eq!(mode(&place.path("in/x/y")), 0o3777);
    assert_eq!(mode(&place.path("in")), 0o2750, "made before anything was published");
}

#[tokio::test]
async fn room_is_made_for_the_whole_upload_without_changing_its_length() {
    let place = Place::new();
    let upload = upload("in/file", 5 * MIB as u64);
    place.store.reserve(&upload).await.unwrap();
    let staged = fs::metadata(place.staged(&upload)).unwrap();
    assert_eq!(staged.len(), 0);
    assert!(staged.blocks() * 512 >= 5 * MIB as u64);
    assert_eq!(place.store.available(&upload).await.unwrap(), 0);
}

#[tokio::test]
async fn what_the_reserve_does_not_allow_is_refused_at_once() {
    let place = Place::with(Options { reserve_free: u64::MAX, ..Options::default() });
    let upload = upload("in/file", 1);
    let error = place.store.reserve(&upload).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Full);
    assert!(place.is_nothing_staged(), "a refused upload holds nothing");
    assert_eq!(place.store.check().await.unwrap_err().kind, StoreErrorKind::Full);
}

#[tokio::test]
async fn missing_bytes_are_doubtful_not_made_up() {
    let place = Place::new();
    let mut upload = upload("in/file", 100);
    put_all(&place.store, &mut upload, &[7; 60]).await;
    fs::OpenOptions::new().write(true).open(place.staged(&upload)).unwrap().set_len(40).unwrap();
    assert_eq!(place.store.available(&upload).await.unwrap(), 40);
    let written = place.store.write(&upload, &mut stream::iter([Ok(Bytes::from_static(b"x"))])).await;
    assert_eq!(stopped_kind(&written), Some(StoreErrorKind::Doubtful { good: 0 }), "nothing was synced");
    upload.synced = 30;
    assert_eq!(place.store.sync(&upload).await.unwrap_err().kind, StoreErrorKind::Doubtful { good: 30 });
    fs::remove_file(place.staged(&upload)).unwrap();
    assert_eq!(place.store.available(&upload).await.unwrap(), 0);
    assert_eq!(place.store.sync(&upload).await.unwrap_err().kind, StoreErrorKind::Doubtful { good: 0 });
    let written = place.store.write(&upload, &mut stream::iter([Ok(Bytes::from_static(b"x"))])).await;
    assert_eq!(stopped_kind(&written), Some(StoreErrorKind::Doubtful { good: 0 }));
    upload.total = 60;
    assert_eq!(place.store.prepare(&upload, CAREFUL).await.unwrap_err().kind, StoreErrorKind::Doubtful { good: 0 });
    assert!(!place.staged(&upload).exists(), "nothing is made where bytes should be");
    (upload.received, upload.synced) = (0, 0);
    assert_eq!(write(&place.store, &mut upload, &[8; 60]).await.reached, 60);
    publish(&place.store, &upload, CAREFUL).await.unwrap();
    assert_eq!(fs::read(place.path("in/file")).unwrap(), [8; 60]);
}

#[tokio::test]
async fn an_unfinished_upload_is_not_published() {
    let place = Place::new();
    let mut upload = upload("in/file", 100);
    put_all(&place.store, &mut upload, &[7; 60]).await;
    assert_eq!(place.store.prepare(&upload, CAREFUL).await.unwrap_err().kind, StoreErrorKind::Other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_comes_after_64_mib_also_within_one_body() {
    let place = Place::new();
    let total = 140 * MIB;
    let mut upload = upload("in/file", total as u64);
    place.store.reserve(&upload).await.unwrap();
    let frame = Bytes::from(pattern(3, MIB));
    let written = write_frames(&place.store, &mut upload, vec![Ok(frame.clone()); 63]).await;
    assert_eq!((written.reached, written.synced), (63 * MIB as u64, 0));
    let written = write_frames(&place.store, &mut upload, vec![Ok(frame.clone()); 75]).await;
    assert_eq!(written.synced, 128 * MIB as u64);
    let written = write_frames(&place.store, &mut upload, vec![Ok(frame); 2]).await;
    assert_eq!(written.synced, 128 * MIB as u64, "known across fragments");
    place.store.discard(&upload).await.unwrap();
}

#[tokio::test]
async fn a_checkpoint_comes_after_5_seconds() {
    let place = Place::new();
    let mut upload = upload("in/file", 10);
    assert_eq!(write(&place.store, &mut upload, b"1").await.synced, 0);
    tokio::time::sleep(std::time::Duration::from_millis(5100)).await;
    assert_eq!(write(&place.store, &mut upload, b"2").await.synced, 2);
    assert_eq!(write(&place.store, &mut upload, b"3").await.synced, 2);
}

#[tokio::test]
async fn sync_at_fragment_holds_for_broken_bodies_too() {
    let place = Place::with(Options { sync: SyncAt::Fragment, ..options() });
    let mut upload = upload("in/file", 10);
    assert_eq!(write(&place.store, &mut upload, b"12").await.synced, 2);
    let frames = vec![Ok(Bytes::from_static(b"3")), Err(BodyError::Cut)];
    let written = write_frames(&place.store, &mut upload, frames).await;
    assert_eq!((written.reached, written.synced), (3, 3));
    assert!(matches!(written.stopped, Some(Stopped::Body(BodyError::Cut))));
}

#[tokio::test]
async fn overwriting_replaces_a_file_and_never_a_folder() {
    let place = Place::new();
    publish_new(&place.store, "in/file", b"old").await.unwrap();
    fs::create_dir_all(place.path("in/folder")).unwrap();
    let mut next = upload("in/file", 3);
    put_all(&place.store, &mut next, b"new").await;
    assert_eq!(publish(&place.store, &next, CAREFUL).await.unwrap_err().kind, StoreErrorKind::Exists);
    publish(&place.store, &next, REPLACE).await.unwrap();
    assert_eq!(fs::read(place.path("in/file")).unwrap(), b"new");
    for precondition in [CAREFUL, REPLACE] {
        let mut next = upload("in/folder", 3);
        put_all(&place.store, &mut next, b"new").await;
        assert_eq!(publish(&place.store, &next, precondition).await.unwrap_err().kind, StoreErrorKind::IsFolder);
        let mut late = upload("in/late", 3);
        put_all(&place.store, &mut late, b"new").await;
        place.store.sync(&late).await.unwrap();
        let intent = place.store.prepare(&late, precondition).await.unwrap();
        fs::create_dir(place.path("in/late")).unwrap();
        let error = place.store.publish(&late, precondition, &intent).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::IsFolder, "{error:?}");
        fs::remove_dir(place.path("in/late")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_publish_at_once_one_wins() {
    let place = Place::new();
    for round in 0..20 {
        let name = format!("in/{round}/deep/file");
        let one = async |seed: u64| publish_new(&place.store, &name, &pattern(seed, 1000)).await;
        let results = join_all((0..8).map(one)).await;
        let winners: Vec<usize> = (0..8).filter(|at| results[*at].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        let lost = results.iter().filter_map(|result| result.as_ref().err());
        assert!(lost.into_iter().all(|error| error.kind == StoreErrorKind::Exists), "{results:?}");
        assert!(fs::read(place.path(&name)).unwrap() == pattern(winners[0] as u64, 1000));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discarding_and_starting_at_once_do_not_fail_each_other() {
    let place = Place::new();
    let one = async |_: u32| {
        for _ in 0..50 {
            let mut upload = upload("in/file", 10);
            put_all(&place.store, &mut upload, b"12345").await;
            place.store.discard(&upload).await.unwrap();
            place.store.discard(&upload).await.unwrap();
        }
    };
    stream::iter(0..8).for_each_concurrent(8, one).await;
    assert!(!place.path("in/BITS-Sessions").exists(), "the empty folder is gone");
}

#[tokio::test]
async fn what_stands_in_the_way_is_seen_before_the_upload() {
    let place = Place::new();
    publish_new(&place.store, "in/file", b"1").await.unwrap();
    for (name, expected) in [
        ("in/file", Destination::File),
        ("in", Destination::Folder),
        ("", Destination::Folder),
        ("in/other", Destination::Absent),
        ("other", Destination::Absent),
        ("in/none/other", Destination::NoParent),
        ("none/in/other", Destination::NoParent),
    ] {
        assert_eq!(place.store.inspect(&key(name)).await.unwrap(), expected, "{name}");
    }
    for name in ["in/file/other", "in/file/none/other"] {
        assert_eq!(place.store.inspect(&key(name)).await.unwrap_err().kind, StoreErrorKind::NoParent, "{name}");
    }
}

#[tokio::test]
async fn missing_folders_are_made_only_where_that_is_allowed() {
    let place = Place::new();
    let strict = Precondition { create_folders: false, ..CAREFUL };
    let mut upload = upload("in/none/file", 1);
    put_all(&place.store, &mut upload, b"1").await;
    assert_eq!(publish(&place.store, &upload, strict).await.unwrap_err().kind, StoreErrorKind::NoParent);
    let intent = place.store.prepare(&upload, CAREFUL).await.unwrap();
    let error = place.store.publish(&upload, strict, &intent).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::NoParent);
    assert!(!place.path("in/none").exists());
    fs::create_dir(place.path("in/none")).unwrap();
    place.store.publish(&upload, strict, &intent).await.unwrap();
}

#[tokio::test]
async fn a_folder_at_the_root_works_too() {
    let place = Place::new();
    let mut upload = upload("file", 3);
    upload.folder = StorageKey::ROOT;
    put_all(&place.store, &mut upload, b"abc").await;
    assert!(place.path("BITS-Sessions").exists());
    publish(&place.store, &upload, CAREFUL).await.unwrap();
    assert_eq!(fs::read(place.path("file")).unwrap(), b"abc");
    place.store.discard(&upload).await.unwrap();
    assert!(!place.path("BITS-Sessions").exists());
    assert!(place.path("file").exists(), "discarding touches no published file");
}

#[tokio::test]
async fn an_empty_upload_becomes_an_empty_file() {
    let place = Place::new();
    let upload = upload("in/empty", 0);
    place.store.reserve(&upload).await.unwrap();
    publish(&place.store, &upload, CAREFUL).await.unwrap();
    assert_eq!(fs::read(place.path("in/empty")).unwrap(), b"");
    assert_eq!(mode(&place.path("in/empty")), 0o640);
}

#[tokio::test]
async fn bytes_are_never_cut_off_and_are_replaced_in_place() {
    let place = Place::new();
    let mut upload = upload("in/file", 9);
    put_all(&place.store, &mut upload, b"123456789").await;
    let before = fs::metadata(place.staged(&upload)).unwrap().ino();
    (upload.received, upload.synced) = (3, 0);
    assert_eq!(write(&place.store, &mut upload, b"ab").await.reached, 5);
    assert_eq!(fs::read(place.staged(&upload)).unwrap(), b"123ab6789");
    (upload.received, upload.synced) = (0, 0);
    write(&place.store, &mut upload, b"xyz").await.stopped.ok_or(()).unwrap_err();
    assert_eq!(fs::read(place.staged(&upload)).unwrap(), b"xyzab6789");
    assert_eq!(fs::metadata(place.staged(&upload)).unwrap().ino(), before);
}

/// What others have added to it could never be cut off again: the upload comes to a new file.
#[tokio::test]
async fn an_upload_that_somebody_has_made_longer_comes_again() {
    let place = Place::new();
    for bytes in [b"12345".as_slice(), b""] {
        let mut upload = upload("in/file", bytes.len() as u64);
        put_all(&place.store, &mut upload, bytes).await;
        place.store.sync(&upload).await.unwrap();
        fs::create_dir_all(place.path("in/BITS-Sessions")).unwrap();
        let mut file = fs::OpenOptions::new().append(true).create(true).open(place.staged(&upload)).unwrap();
        std::io::Write::write_all(&mut file, b"more").unwrap();
        if !bytes.is_empty() {
            let error = publish(&place.store, &upload, REPLACE).await.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Doubtful { good: 0 });
            (upload.received, upload.synced) = (0, 0);
            assert!(write(&place.store, &mut upload, bytes).await.stopped.is_none());
        }
        publish(&place.store, &upload, REPLACE).await.unwrap();
        assert_eq!(fs::read(place.path("in/file")).unwrap(), bytes);
    }
}

#[tokio::test]
async fn no_byte_beyond_the_upload_is_written() {
    let place = Place::new();
    let mut upload = upload("in/file", 5);
    let frames = vec![Ok(Bytes::from_static(b"123")), Ok(Bytes::from_static(b"456"))];
    let written = write_frames(&place.store, &mut upload, frames).await;
    assert!(matches!(written.stopped, Some(Stopped::Body(BodyError::Length))));
    assert_eq!((written.reached, fs::read(place.staged(&upload)).unwrap()), (3, b"123".to_vec()));
}

/// A dropped request leaves its system call under way; the next one waits for it.
#[tokio::test]
async fn a_dropped_write_does_not_disturb_the_next() {
    let place = Place::new();
    let data = pattern(5, 4 * MIB);
    let mut upload = upload("in/file", data.len() as u64);
    place.store.reserve(&upload).await.unwrap();
    for _ in 0..10 {
        let wrong = Bytes::from(vec![0xEE; MIB / 2]);
        let mut body = stream::iter([Ok(wrong.clone()), Ok(wrong)]).chain(stream::pending());
        tokio::select! {
            biased;
            _ = place.store.write(&upload, &mut body) => unreachable!("the body never ends"),
            () = async { for _ in 0..6 { tokio::task::yield_now().await } } => {}
        }
        let cut = upload.received as usize + data.len() / 20;
        let from = upload.received as usize;
        write(&place.store, &mut upload, &data[from..cut]).await.stopped.ok_or(()).unwrap_err();
    }
    let from = upload.received as usize;
    let _ = write(&place.store, &mut upload, &data[from..]).await;
    publish(&place.store, &upload, CAREFUL).await.unwrap();
    assert!(fs::read(place.path("in/file")).unwrap() == data);
}

#[tokio::test]
async fn a_file_with_a_second_name_is_not_written_to() {
    let place = Place::new();
    let mut upload = upload("in/file", 10);
    put_all(&place.store, &mut upload, b"123").await;
    fs::hard_link(place.staged(&upload), place.path("in/second")).unwrap();
    let written = write(&place.store, &mut upload, b"456").await;
    assert_eq!(stopped_kind(&written), Some(StoreErrorKind::Denied));
    assert_eq!(fs::read(place.path("in/second")).unwrap(), b"123");
}

#[tokio::test]
async fn the_incarnation_is_the_machines_boot_unless_told() {
    let place = Place::new();
    let other = LocalStore::open(&place.path(""), options()).unwrap();
    assert_eq!(place.store.incarnation(), other.incarnation());
    let told = Options { incarnation: Some("boot 2".to_owned()), ..options() };
    assert_eq!(LocalStore::open(&place.path(""), told).unwrap().incarnation(), "boot 2");
}

#[tokio::test]
async fn check_notices_a_folder_that_is_gone() {
    let place = Place::new();
    place.store.check().await.unwrap();
    fs::remove_dir_all(place.path("")).unwrap();
    assert_eq!(place.store.check().await.unwrap_err().kind, StoreErrorKind::Unavailable);
}

#[test]
fn a_root_that_cannot_be_is_refused_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = LocalStore::open(&file.join("files"), options()).unwrap_err();
    assert!(error.to_string().contains("file/files"), "{error}");
}

/// An upload that took long is as old as its publishing, not as its bytes: whoever compares dates
/// would else take it for what it replaced.
#[tokio::test]
async fn a_file_is_as_old_as_its_publishing() {
    let place = Place::new();
    let mut slow = upload("in/file", 3);
    put_all(&place.store, &mut slow, b"new").await;
    fs::File::open(place.staged(&slow)).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let before = std::time::SystemTime::now() - std::time::Duration::from_secs(1);
    publish_new(&place.store, "in/file", b"old").await.unwrap();
    publish(&place.store, &slow, REPLACE).await.unwrap();
    let modified = fs::metadata(place.path("in/file")).unwrap().modified().unwrap();
    assert!(modified > before, "{modified:?}");
}

/// Dates of HTTP tell whole seconds apart, however fast one file replaces another.
#[tokio::test]
async fn a_file_that_replaces_another_is_of_a_later_second() {
    let place = Place::new();
    let mut last = 0;
    for round in 0..5 {
        let mut upload = upload("in/file", 3);
        put_all(&place.store, &mut upload, b"new").await;
        publish(&place.store, &upload, REPLACE).await.unwrap();
        let second = fs::metadata(place.path("in/file")).unwrap().mtime();
        assert!(second > last, "round {round}");
        last = second;
    }
    // A file from a wrong clock's future is not followed there.
    let future = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    fs::File::open(place.path("in/file")).unwrap().set_modified(future).unwrap();
    let mut upload = upload("in/file", 3);
    put_all(&place.store, &mut upload, b"new").await;
    publish(&place.store, &upload, REPLACE).await.unwrap();
    assert!(fs::metadata(place.path("in/file")).unwrap().modified().unwrap() < future);
}
