//! A process that dies between the steps of publishing: the next one carries the intent out.
//! The first steps are done by hand, then the store is called.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
};

use bits_core::{PublishIntent, StoreErrorKind, Upload, UploadStore};
use common::{CAREFUL, Place, REPLACE, publish_new, put_all, upload};

const DATA: &[u8] = b"the bytes that were sent";

/// A prepared upload, seen by the process after the one that prepared it.
async fn prepared(name: &str) -> (Place, Upload, PublishIntent) {
    let place = Place::new();
    let mut upload = upload(name, DATA.len() as u64);
    put_all(&place.store, &mut upload, DATA).await;
    place.store.sync(&upload).await.unwrap();
    let intent = place.store.prepare(&upload, REPLACE).await.unwrap();
    upload.synced = upload.received;
    (place.reopened(), upload, intent)
}

async fn assert_published(place: &Place, upload: &Upload, intent: &PublishIntent) {
    for precondition in [CAREFUL, REPLACE, CAREFUL] {
        place.store.publish(upload, precondition, intent).await.unwrap();
        assert_eq!(fs::read(place.path(upload.key.as_str())).unwrap(), DATA);
        assert!(place.is_nothing_staged());
    }
}

#[tokio::test]
async fn after_the_intent() {
    let (place, upload, intent) = prepared("in/a/b/file").await;
    assert_published(&place, &upload, &intent).await;
}

#[tokio::test]
async fn after_some_folders() {
    let (place, upload, intent) = prepared("in/a/b/file").await;
    fs::create_dir(place.path("in/a")).unwrap();
    assert_published(&place, &upload, &intent).await;
}

#[tokio::test]
async fn after_the_permissions() {
    let (place, upload, intent) = prepared("in/a/file").await;
    fs::set_permissions(place.staged(&upload), fs::Permissions::from_mode(0o640)).unwrap();
    assert_published(&place, &upload, &intent).await;
}

#[tokio::test]
async fn after_the_link_where_the_system_cannot_rename_without_replacing() {
    for precondition in [CAREFUL, REPLACE] {
        let (place, upload, intent) = prepared("in/file").await;
        fs::hard_link(place.staged(&upload), place.path("in/file")).unwrap();
        place.store.publish(&upload, precondition, &intent).await.unwrap();
        assert!(place.is_nothing_staged(), "renaming one name of a file to another would do nothing");
        assert_eq!(fs::metadata(place.path("in/file")).unwrap().nlink(), 1);
        assert_published(&place, &upload, &intent).await;
    }
}

#[tokio::test]
async fn after_the_move() {
    let (place, upload, intent) = prepared("in/file").await;
    fs::rename(place.staged(&upload), place.path("in/file")).unwrap();
    assert_published(&place, &upload, &intent).await;
}

/// The intent without the staged file means published, whatever stands there now.
#[tokio::test]
async fn after_the_move_and_what_others_did_since() {
    let (place, first, intent) = prepared("in/file").await;
    fs::rename(place.staged(&first), place.path("in/file")).unwrap();
    fs::write(place.path("in/file"), "somebody's").unwrap();
    place.store.publish(&first, CAREFUL, &intent).await.unwrap();
    assert_eq!(fs::read(place.path("in/file")).unwrap(), b"somebody's");
    fs::remove_file(place.path("in/file")).unwrap();
    place.store.publish(&first, CAREFUL, &intent).await.unwrap();
    fs::create_dir(place.path("in/file")).unwrap();
    place.store.publish(&first, CAREFUL, &intent).await.unwrap();
    fs::remove_dir_all(place.path("in")).unwrap();
    place.store.publish(&first, CAREFUL, &intent).await.unwrap();
    assert!(!place.path("in").exists(), "nothing is made for an upload that is published");
}

/// Another file under the staged name, as out of a backup, is not what was promised.
#[tokio::test]
async fn a_staged_file_that_is_not_the_noted_one_is_not_published() {
    let (place, mut upload, intent) = prepared("in/file").await;
    fs::copy(place.staged(&upload), place.path("copy")).unwrap();
    fs::rename(place.path("copy"), place.staged(&upload)).unwrap();
    let error = place.store.publish(&upload, CAREFUL, &intent).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Doubtful { good: 0 });
    assert!(!place.path("in/file").exists());
    (upload.received, upload.synced) = (0, 0);
    put_all(&place.store, &mut upload, DATA).await;
    common::publish(&place.store, &upload, CAREFUL).await.unwrap();

    let (place, upload, intent) = prepared("in/file").await;
    fs::OpenOptions::new().write(true).open(place.staged(&upload)).unwrap().set_len(3).unwrap();
    let error = place.store.publish(&upload, CAREFUL, &intent).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Doubtful { good: 3 });
}

#[tokio::test]
async fn a_file_that_came_first_is_kept_until_the_end() {
    let (place, upload, intent) = prepared("in/file").await;
    publish_new(&place.store, "in/file", b"first").await.unwrap();
    for _ in 0..2 {
        let error = place.store.publish(&upload, CAREFUL, &intent).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Exists);
    }
    assert_eq!(fs::read(place.path("in/file")).unwrap(), b"first");
    assert!(place.staged(&upload).exists(), "the upload waits for what its session decides");
    place.store.publish(&upload, REPLACE, &intent).await.unwrap();
    assert_eq!(fs::read(place.path("in/file")).unwrap(), DATA);
}

#[tokio::test]
async fn text_that_is_no_intent_is_refused() {
    let (place, upload, _) = prepared("in/file").await;
    let error = place.store.publish(&upload, CAREFUL, &PublishIntent("complete".to_owned())).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Other);
    assert!(place.staged(&upload).exists());
}
