//! What is read back is one content, whatever is done to the file meanwhile.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::{fs, os::unix::fs::FileExt};

use bits_core::{ObjectInfo, Opened, Source, StoreError, UploadStore};
use common::{Place, key, pattern, publish_new, put_all, upload};
use futures_util::StreamExt;

const SIZE: usize = 3 << 20;

async fn open(place: &Place, name: &str) -> Box<dyn Opened> {
    place.store.open(Source::Published(&key(name))).await.unwrap().unwrap()
}

async fn info(place: &Place, name: &str) -> ObjectInfo {
    open(place, name).await.info().clone()
}

async fn read_all(opened: &dyn Opened) -> Result<Vec<u8>, StoreError> {
    read_rest(Vec::new(), opened.read(0..u64::MAX)).await
}

async fn read_rest(mut whole: Vec<u8>, mut stream: bits_core::ByteStream) -> Result<Vec<u8>, StoreError> {
    while let Some(bytes) = stream.next().await {
        whole.extend_from_slice(&bytes?);
    }
    Ok(whole)
}

#[tokio::test]
async fn a_file_that_is_changed_in_place_is_not_given_whole() {
    let place = Place::new();
    publish_new(&place.store, "in/file", &pattern(1, SIZE)).await.unwrap();
    let opened = open(&place, "in/file").await;
    let mut stream = opened.read(0..SIZE as u64);
    let first = stream.next().await.unwrap().unwrap();
    let file = fs::OpenOptions::new().write(true).open(place.path("in/file")).unwrap();
    file.write_all_at(b"changed", SIZE as u64 - 7).unwrap();
    let error = read_rest(first.to_vec(), stream).await.unwrap_err();
    assert!(error.context.contains("was changed while it was read"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_cut_off_ends_in_an_error() {
    let place = Place::new();
    publish_new(&place.store, "in/file", &pattern(1, SIZE)).await.unwrap();
    let opened = open(&place, "in/file").await;
    let mut stream = opened.read(0..SIZE as u64);
    let first = stream.next().await.unwrap().unwrap();
    fs::OpenOptions::new().write(true).open(place.path("in/file")).unwrap().set_len(SIZE as u64 / 2).unwrap();
    assert!(read_rest(first.to_vec(), stream).await.is_err());
}

/// Who has the system send a file waits for no disk, nor for bytes that are not there.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_file_is_lent_as_far_as_it_is_in_memory() {
    let place = Place::new();
    publish_new(&place.store, "in/file", &pattern(1, SIZE)).await.unwrap();
    let opened = open(&place, "in/file").await;
    let size = SIZE as u64;
    let mut bytes = [0; 10];
    opened.file(5..size).unwrap().read_exact_at(&mut bytes, 5).unwrap();
    assert_eq!(bytes, pattern(1, 15)[5..]);
    for range in [0..size + 1, size..size + 1, size..size] {
        assert!(opened.file(range.clone()).is_none(), "{range:?}");
    }
    let file = fs::File::open(place.path("in/file")).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    assert!(opened.file(0..size).is_none(), "nothing of it is in memory");
    assert!(read_all(&*opened).await.unwrap() == pattern(1, SIZE));
    assert!(opened.file(0..size).is_some(), "it was read");
}

/// What does not touch the content does not fail a download under way.
#[tokio::test]
async fn a_file_that_is_renamed_or_unlinked_is_read_to_its_end() {
    let place = Place::new();
    let data = pattern(1, SIZE);
    publish_new(&place.store, "in/file", &data).await.unwrap();
    let opened = open(&place, "in/file").await;
    let mut stream = opened.read(0..SIZE as u64);
    let first = stream.next().await.unwrap().unwrap();
    fs::rename(place.path("in/file"), place.path("in/other")).unwrap();
    fs::remove_file(place.path("in/other")).unwrap();
    assert!(read_rest(first.to_vec(), stream).await.unwrap() == data);
    assert!(read_all(&*opened).await.unwrap() == data);
}

/// Whoever has a tag may rely on it, even where two changes follow each other within one tick of
/// the file system's clock, with the same size.
#[tokio::test]
async fn a_tag_changes_with_each_change_in_place() {
    let place = Place::new();
    publish_new(&place.store, "in/file", b"0").await.unwrap();
    let mut last = info(&place, "in/file").await;
    for round in b'1'..=b'9' {
        fs::OpenOptions::new().write(true).open(place.path("in/file")).unwrap().write_all_at(&[round], 0).unwrap();
        let now = info(&place, "in/file").await;
        assert_ne!(now.tag, last.tag);
        assert!(now.modified >= last.modified);
        last = now;
    }
}

#[tokio::test]
async fn an_upload_that_lost_bytes_is_not_read() {
    let place = Place::new();
    let mut upload = upload("in/file", 1000);
    put_all(&place.store, &mut upload, &pattern(1, 1000)).await;
    assert_eq!(
        read_all(&*place.store.open(Source::Staged(&upload)).await.unwrap().unwrap()).await.unwrap().len(),
        1000
    );
    let staged = fs::OpenOptions::new().write(true).open(place.staged(&upload)).unwrap();
    staged.set_len(600).unwrap();
    for good in [600, 0] {
        let Err(error) = place.store.open(Source::Staged(&upload)).await else { panic!("it was opened") };
        assert_eq!(error.kind, bits_core::StoreErrorKind::Doubtful { good });
        let _ = fs::remove_file(place.staged(&upload));
    }
}
