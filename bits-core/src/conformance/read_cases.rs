//! What every [`UploadStore`] must do when it is read back.
#![allow(clippy::unwrap_used, reason = "these are tests, though not compiled as such")]

use futures_util::StreamExt;

use super::{
    UploadProbe,
    rig::{CAREFUL, Rig, pattern},
};
use crate::{Opened, Precondition, Source, StorageKey, StoreError, UploadStore};

/// Files of all sizes are read as they were written.
pub(super) async fn published_files_are_read(probe: impl UploadProbe) {
    let part = probe.part_size();
    for total in [0, 1, part - 1, part, part + 1, 3 * part + 5] {
        let (name, data) = (format!("in/{total}"), pattern(20, total));
        put(&probe, &name, &data, CAREFUL).await;
        let opened = open(&probe, &name).await;
        assert_eq!(opened.info().size, total);
        assert_eq!(read_all(&*opened).await.unwrap(), data, "{total} bytes");
        assert_eq!(read_all(&*opened).await.unwrap(), data, "{total} bytes for the second time");
    }
}

/// Every range gives its bytes; what lies past the end is left out. Reads at once do not mix.
pub(super) async fn any_range_is_read(probe: impl UploadProbe) {
    let total = probe.part_size() * 2 + 77;
    let data = pattern(21, total);
    put(&probe, "in/file", &data, CAREFUL).await;
    let opened = open(&probe, "in/file").await;
    for (start, end) in [
        (0, 0),
        (0, 1),
        (1, 2),
        (probe.part_size() - 1, probe.part_size() + 1),
        (5, total - 5),
        (total - 1, total),
        (total - 1, total + 100),
        (total, total + 1),
        (total, u64::MAX),
        (u64::MAX - 1, u64::MAX),
    ] {
        let expected = &data[start.min(total) as usize..end.min(total) as usize];
        assert_eq!(collect(opened.read(start..end)).await.unwrap(), expected, "{start}..{end}");
    }
    let (first, second) = (opened.read(0..total), opened.read(10..total));
    drop(opened);
    let mut pairs = first.zip(second);
    let (mut one, mut other) = (Vec::new(), Vec::new());
    while let Some((a, b)) = pairs.next().await {
        one.extend_from_slice(&a.unwrap());
        other.extend_from_slice(&b.unwrap());
    }
    assert!(data.starts_with(&one) && data[10..].starts_with(&other));
}

/// Where there is nothing, or a folder, nothing is opened.
pub(super) async fn nothing_is_opened_where_no_file_stands(probe: impl UploadProbe) {
    let store = probe.store();
    put(&probe, "in/folder/file", b"1", CAREFUL).await;
    for name in ["in/none", "in/none/none", "in/folder", "in/folder/file/x", "other/file", ""] {
        let opened = store.open(Source::Published(&key(name))).await.unwrap();
        assert!(opened.is_none(), "{name:?} was opened");
    }
    let rig = Rig::default();
    let id = rig.begin(store, "in/other", 10).await;
    assert!(store.open(Source::Reply(&rig.upload(store, id).await)).await.unwrap().is_none());
}

/// A file that is replaced while it is read gives its old content or an error.
pub(super) async fn a_replaced_file_is_not_mixed_with_the_new_one(probe: impl UploadProbe) {
    let total = probe.part_size() * 3;
    let (old, new) = (pattern(22, total), pattern(23, total));
    put(&probe, "in/file", &old, CAREFUL).await;
    let opened = open(&probe, "in/file").await;
    let mut stream = opened.read(0..total);
    let first = stream.next().await.unwrap().unwrap();
    assert!(first.len() <= 1 << 20, "{} bytes in one piece", first.len());
    put(&probe, "in/file", &new, REPLACE).await;
    let mut whole = first.to_vec();
    while let Some(item) = stream.next().await {
        match item {
            Ok(bytes) => whole.extend_from_slice(&bytes),
            Err(_) => {
                assert!(stream.next().await.is_none(), "something came after the error");
                assert!(old.starts_with(&whole) && whole.len() < old.len(), "two contents were mixed");
                break;
            }
        }
    }
    assert!(old.starts_with(&whole), "two contents were mixed");
    if let Ok(again) = read_all(&*opened).await {
        assert!(again == old, "what was opened became another file");
    }
    assert!(read_all(&*open(&probe, "in/file").await).await.unwrap() == new);
}

/// A tag stays with a content, goes with it, and is fit for an ETag.
pub(super) async fn tags_differ_with_the_content(probe: impl UploadProbe) {
    let mut seen = Vec::new();
    for round in 0..8 {
        put(&probe, "in/file", &pattern(round, 100), REPLACE).await;
        let info = open(&probe, "in/file").await.info().clone();
        assert_eq!(open(&probe, "in/file").await.info(), &info);
        assert!(!info.tag.is_empty() && info.tag.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"'));
        assert!(!seen.contains(&info.tag), "round {round} has the tag of another: {}", info.tag);
        seen.push(info.tag);
    }
}

/// What has come of an upload is read before it is published, and publishing goes on as ever.
pub(super) async fn staged_uploads_are_read_then_published(probe: impl UploadProbe) {
    let rig = Rig { reads_staged: true, ..Rig::default() };
    let (store, part) = (probe.store(), probe.part_size());
    for total in [0, 1, part, part + 1, 3 * part + 5] {
        let (name, data) = (format!("in/{total}"), pattern(24, total));
        let id = rig.begin(store, &name, total).await;
        for chunk in data.chunks(part as usize / 2 + 3) {
            let _ = rig.write(store, id, chunk).await;
        }
        for _ in 0..2 {
            let upload = rig.upload(store, id).await;
            store.sync(&upload).await.unwrap();
            let opened = store.open(Source::Staged(&upload)).await.unwrap().expect("it is there");
            assert_eq!((opened.info().size, read_all(&*opened).await.unwrap() == data), (total, true), "{total}");
            assert_eq!(store.available(&upload).await.unwrap(), total);
        }
        rig.publish(store, id, CAREFUL).await.unwrap();
        assert_eq!(probe.read(&key(&name)).await, Some(data));
        assert!(probe.staged_is_empty().await, "reading left something");
    }
}

const REPLACE: Precondition = Precondition { overwrite: true, ..CAREFUL };

fn key(name: &str) -> StorageKey {
    StorageKey::parse(name).unwrap()
}

async fn put(probe: &impl UploadProbe, name: &str, data: &[u8], precondition: Precondition) {
    let (rig, store) = (Rig::default(), probe.store());
    let id = rig.begin(store, name, data.len() as u64).await;
    if !data.is_empty() {
        let _ = rig.write(store, id, data).await;
    }
    rig.publish(store, id, precondition).await.unwrap();
}

async fn open(probe: &impl UploadProbe, name: &str) -> Box<dyn Opened> {
    let opened = probe.store().open(Source::Published(&key(name))).await.unwrap();
    opened.unwrap_or_else(|| panic!("nothing stands at {name}"))
}

async fn read_all(opened: &dyn Opened) -> Result<Vec<u8>, StoreError> {
    collect(opened.read(0..opened.info().size)).await
}

async fn collect(mut stream: crate::ByteStream) -> Result<Vec<u8>, StoreError> {
    let mut whole = Vec::new();
    while let Some(bytes) = stream.next().await {
        whole.extend_from_slice(&bytes?);
    }
    Ok(whole)
}
