//! What every [`UploadStore`] must do. The rows are kept in memory, the bytes in the store.
#![allow(clippy::unwrap_used, reason = "these are tests, though not compiled as such")]

use std::future::Future;

use bytes::Bytes;
use futures_util::{StreamExt, future::join_all, stream};

pub(super) use super::read_cases::{
    a_replaced_file_is_not_mixed_with_the_new_one, any_range_is_read, nothing_is_opened_where_no_file_stands,
    published_files_are_read, staged_uploads_are_read_then_published, tags_differ_with_the_content,
};
pub(super) use super::reply_cases::{
    a_newer_reply_replaces_the_older, a_reply_ends_with_its_session, a_reply_leaves_its_upload_alone,
    a_reply_that_breaks_off_is_none, a_reply_without_a_row_is_found, an_empty_reply_is_none, replies_are_kept_and_read,
};
use super::rig::{CAREFUL, Rig, advance, pattern, write_only};
use crate::{
    BodyError, Commit, Destination, Precondition, SessionStore, Stopped, StorageKey, StoreError, StoreErrorKind,
    Transition, Upload, UploadStore,
};

/// A store under test, and a look behind it.
pub trait UploadProbe: Send + Sync {
    /// The store's type.
    type Store: UploadStore;

    /// The store.
    fn store(&self) -> &Self::Store;

    /// What is published at `key`, read past the store.
    fn read(&self, key: &StorageKey) -> impl Future<Output = Option<Vec<u8>>> + Send;

    /// Whether nothing of any upload under way is left, read past the store.
    fn staged_is_empty(&self) -> impl Future<Output = bool> + Send;

    /// A size at which the store behaves differently, such as that of its parts; sizes around it
    /// are tried. At most some MiB.
    fn part_size(&self) -> u64 {
        64 * 1024
    }

    /// Bytes that the name of an object may have.
    fn longest_key(&self) -> usize {
        usize::MAX
    }

    /// Whether the store has folders, that can stand in the way or be missing.
    fn has_folders(&self) -> bool {
        false
    }
}

const REPLACE: Precondition = Precondition { overwrite: true, ..CAREFUL };

/// The store says that it works.
pub(super) async fn answers(probe: impl UploadProbe) {
    probe.store().check().await.unwrap();
    assert_eq!(probe.store().incarnation(), probe.store().incarnation());
}

/// One write, published, is the file, and nothing else is left.
pub(super) async fn one_write_is_published(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    let data = pattern(1, 1000);
    let id = rig.begin(store, "in/file", 1000).await;
    let written = rig.write(store, id, &data).await;
    assert_eq!((written.reached, written.stopped.is_none()), (1000, true));
    rig.publish(store, id, CAREFUL).await.unwrap();
    assert_published(&probe, "in/file", &data).await;
    assert!(probe.staged_is_empty().await, "something stayed staged after publishing");
}

/// Until it is published nothing stands at the destination.
pub(super) async fn nothing_shows_before_publishing(probe: impl UploadProbe) {
    let (rig, store) = (Rig { reads_staged: true, ..Rig::default() }, probe.store());
    let id = rig.begin(store, "in/file", 1000).await;
    let _ = rig.write(store, id, &pattern(1, 1000)).await;
    rig.intend(store, id, CAREFUL).await.unwrap();
    assert_eq!(probe.read(&key("in/file")).await, None);
    let destination = store.inspect(&key("in/file")).await.unwrap();
    assert!(matches!(destination, Destination::Absent | Destination::NoParent), "{destination:?}");
    assert!(!probe.staged_is_empty().await, "staged_is_empty does not see what is staged");
}

/// Writes of all sizes and at all offsets add up.
pub(super) async fn writes_at_any_offset_add_up(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    let part = probe.part_size();
    let data = pattern(2, part * 2 + part / 3);
    let id = rig.begin(store, "in/file", data.len() as u64).await;
    let mut steps = [1, 7, part / 5, 1, part, 3, part / 2 + 1, 512].into_iter().cycle();
    loop {
        let at = rig.session(id).await.received as usize;
        if at == data.len() {
            break;
        }
        let end = data.len().min(at + steps.next().unwrap() as usize);
        assert_eq!(rig.write(store, id, &data[at..end]).await.reached, end as u64);
    }
    rig.publish(store, id, CAREFUL).await.unwrap();
    assert_published(&probe, "in/file", &data).await;
    assert!(probe.staged_is_empty().await);
}

/// Very many small writes within one part.
pub(super) async fn many_small_writes_add_up(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    let data = pattern(3, 150);
    let id = rig.begin(store, "in/file", 150).await;
    for byte in &data {
        let _ = rig.write(store, id, &[*byte]).await;
    }
    rig.publish(store, id, CAREFUL).await.unwrap();
    assert_published(&probe, "in/file", &data).await;
}

/// Sizes at, below and above whole parts, in one write and in several.
pub(super) async fn sizes_around_the_part_size(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    let part = probe.part_size();
    let sizes = [1, part - 1, part, part + 1, 2 * part - 1, 2 * part, 2 * part + 1];
    for (at, total) in sizes.into_iter().enumerate() {
        for (cut, step) in [part / 2 + 1, part, total].into_iter().enumerate() {
            let name = format!("in/{at}-{cut}");
            let data = pattern(total, total);
            let id = rig.begin(store, &name, total).await;
            for chunk in data.chunks(step as usize) {
                let _ = rig.write(store, id, chunk).await;
            }
            rig.publish(store, id, CAREFUL).await.unwrap();
            assert_published(&probe, &name, &data).await;
        }
    }
    assert!(probe.staged_is_empty().await);
}

/// A body in many pieces, down to empty ones.
pub(super) async fn bodies_come_in_any_pieces(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    let data = pattern(4, probe.part_size() + 5000);
    let id = rig.begin(store, "in/file", data.len() as u64).await;
    let body = data.chunks(4099).flat_map(|chunk| [Ok(Bytes::new()), Ok(Bytes::copy_from_slice(chunk))]);
    let written = rig.write_body(store, id, body.collect()).await;
    assert_eq!(written.reached, data.len() as u64);
    rig.publish(store, id, CAREFUL).await.unwrap();
    assert_published(&probe, "in/file", &data).await;
}

/// A body that fails leaves what came before, and the upload goes on there.
pub(super) async fn a_broken_body_keeps_what_came(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    let errors = [BodyError::Disconnected, BodyError::Idle, BodyError::Cut, BodyError::Length];
    let part = probe.part_size();
    let data = pattern(5, part * 2);
    let id = rig.begin(store, "in/file", data.len() as u64).await;
    for (error, count) in errors.into_iter().zip([1, part / 3, part, part / 7 + 1]) {
        let at = rig.session(id).await.received as usize;
        let came = Bytes::copy_from_slice(&data[at..at + count as usize]);
        let written = rig.write_body(store, id, vec![Ok(came), Err(error), Ok(Bytes::from_static(b"never"))]).await;
        assert_eq!(written.reached, at as u64 + count, "after {error}");
        assert!(matches!(written.stopped, Some(Stopped::Body(seen)) if seen == error), "{:?}", written.stopped);
    }
    rig.complete(store, id, &data).await;
    assert_published(&probe, "in/file", &data).await;
}

/// A body without a byte changes nothing.
pub(super) async fn an_empty_body_writes_nothing(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    let id = rig.begin(store, "in/file", 10).await;
    for body in [vec![], vec![Ok(Bytes::new())], vec![Err(BodyError::Disconnected)]] {
        assert_eq!(rig.write_body(store, id, body).await.reached, 0);
    }
    let _ = rig.write(store, id, b"0123456789").await;
    rig.publish(store, id, CAREFUL).await.unwrap();
    assert_published(&probe, "in/file", b"0123456789").await;
}

/// An upload without a byte becomes an empty file.
pub(super) async fn an_empty_upload_is_published(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    let id = rig.begin(store, "in/empty", 0).await;
    rig.publish(store, id, CAREFUL).await.unwrap();
    assert_published(&probe, "in/empty", b"").await;
    assert!(probe.staged_is_empty().await);
}

/// What a regress dropped is written anew, with other bytes.
pub(super) async fn regress_then_rewrite(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    let data = pattern(6, probe.part_size() * 2 + 100);
    let wrong = pattern(7, data.len() as u64);
    for back_to_zero in [true, false] {
        let name = format!("in/{back_to_zero}");
        let id = rig.begin(store, &name, data.len() as u64).await;
        let cut = probe.part_size() as usize + 50;
        let _ = rig.write(store, id, &data[..cut]).await;
        let good = if back_to_zero { 0 } else { cut as u64 };
        let source = if back_to_zero { &wrong } else { &data };
        let _ = rig.write(store, id, &source[cut..cut + 30]).await;
        let _ = rig.write(store, id, &wrong[cut + 30..]).await;
        rig.regress(store, id, good).await;
        rig.complete(store, id, &data).await;
        assert_published(&probe, &name, &data).await;
    }
    assert!(probe.staged_is_empty().await);
}

/// A write whose row was never committed, then the same bytes again in other cuts.
pub(super) async fn writes_without_a_row_do_no_harm(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    let data = pattern(8, probe.part_size() * 2 + 100);
    let id = rig.begin(store, "in/file", data.len() as u64).await;
    for part in [probe.part_size() / 2, probe.part_size() + 10] {
        let upload = rig.upload(store, id).await;
        let at = upload.received as usize;
        let lost = Bytes::copy_from_slice(&data[at..]);
        let _ = write_only(store, &upload, vec![Ok(lost)]).await;
        let _ = rig.write(store, id, &data[at..at + part as usize]).await;
    }
    rig.complete(store, id, &data).await;
    assert_published(&probe, "in/file", &data).await;
}

/// Two writers from one row, of which one commits: the upload still ends right.
pub(super) async fn a_stale_writer_does_no_harm(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    let data = pattern(9, probe.part_size() * 3);
    let id = rig.begin(store, "in/file", data.len() as u64).await;
    let mut at = 0;
    while at < data.len() {
        let session = rig.session(id).await;
        at = session.received as usize;
        let end = data.len().min(at + probe.part_size() as usize * 3 / 4);
        let upload = rig.upload(store, id).await;
        let bodies = [end, at + (end - at) / 2].map(|end| vec![Ok(Bytes::copy_from_slice(&data[at..end]))]);
        let written = join_all(bodies.map(|body| write_only(store, &upload, body))).await;
        let mut winners = 0;
        for written in written.iter().filter(|written| written.reached > session.received) {
            let commit = rig.sessions.commit(&session, &advance(store, written)).await.unwrap();
            winners += u32::from(commit != Commit::Moved);
        }
        assert!(winners <= 1, "two writers committed from one row");
    }
    rig.complete(store, id, &data).await;
    assert_published(&probe, "in/file", &data).await;
}

/// What was begun is begun once, and an upload ends well though it was given up.
pub(super) async fn what_was_begun_can_be_given_up(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    let data = pattern(9, probe.part_size() * 2 + 1);
    let id = rig.begin(store, "in/file", data.len() as u64).await;
    rig.open_handle(store, id).await;
    let upload = rig.upload(store, id).await;
    assert_eq!(store.begin(&upload).await.unwrap(), None, "{upload:?}");
    for _ in 0..2 {
        store.give_up(&upload).await.unwrap();
    }
    rig.complete(store, id, &data).await;
    assert_published(&probe, "in/file", &data).await;
    assert!(probe.staged_is_empty().await);
}

/// What was written is there, from the first byte on.
pub(super) async fn what_was_written_is_available(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    let data = pattern(10, probe.part_size() * 2);
    let id = rig.begin(store, "in/file", data.len() as u64).await;
    for chunk in data.chunks(probe.part_size() as usize / 3) {
        let available = store.available(&rig.upload(store, id).await).await.unwrap();
        assert_eq!(rig.session(id).await.doubt(store.incarnation(), available), None);
        let _ = rig.write(store, id, chunk).await;
    }
    let available = store.available(&rig.upload(store, id).await).await.unwrap();
    assert!(available >= data.len() as u64, "only {available} are available");
}

/// Sync holds at any offset, as often as it is asked.
pub(super) async fn sync_at_any_offset(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    let data = pattern(11, probe.part_size() * 2);
    let id = rig.begin(store, "in/deep/er/file", data.len() as u64).await;
    for chunk in data.chunks(probe.part_size() as usize / 3) {
        let _ = rig.write(store, id, chunk).await;
        for _ in 0..2 {
            store.sync(&rig.upload(store, id).await).await.unwrap();
        }
    }
    rig.publish(store, id, CAREFUL).await.unwrap();
    assert_published(&probe, "in/deep/er/file", &data).await;
}

/// A destination is absent, then a file.
pub(super) async fn inspect_says_what_stands_there(probe: impl UploadProbe) {
    let store = probe.store();
    let missing = if probe.has_folders() { Destination::NoParent } else { Destination::Absent };
    assert_eq!(store.inspect(&key("in/new/file")).await.unwrap(), missing);
    assert_eq!(store.inspect(&key("file-at-root")).await.unwrap(), Destination::Absent);
    put(&probe, "in/new/file", b"old").await;
    assert_eq!(store.inspect(&key("in/new/file")).await.unwrap(), Destination::File);
    assert_eq!(store.inspect(&key("in/new/other")).await.unwrap(), Destination::Absent);
    if probe.has_folders() {
        assert_eq!(store.inspect(&key("in/new")).await.unwrap(), Destination::Folder);
    }
}

/// An existing file is kept, and said so at last when the upload is published.
pub(super) async fn an_existing_file_is_kept(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    put(&probe, "in/file", b"old").await;
    let id = rig.begin(store, "in/file", 3).await;
    let _ = rig.write(store, id, b"new").await;
    let error = rig.publish(store, id, CAREFUL).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Exists);
    assert_published(&probe, "in/file", b"old").await;
    discard(&rig, &probe, id).await;
    assert_published(&probe, "in/file", b"old").await;
    assert!(probe.staged_is_empty().await);
}

/// A file that appears between intent and publishing is kept too.
pub(super) async fn a_file_that_appears_late_is_kept(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    for total in [3, probe.part_size() * 2] {
        let name = format!("in/{total}");
        let id = rig.begin(store, &name, total).await;
        let _ = rig.write(store, id, &pattern(12, total)).await;
        let intent = rig.intend(store, id, CAREFUL).await.unwrap();
        put(&probe, &name, b"first").await;
        for _ in 0..2 {
            let error = store.publish(&rig.upload(store, id).await, CAREFUL, &intent).await.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Exists);
        }
        rig.commit(&rig.session(id).await, &Transition::Withdraw).await;
        discard(&rig, &probe, id).await;
        assert_published(&probe, &name, b"first").await;
    }
    assert!(probe.staged_is_empty().await);
}

/// Where it is allowed, an existing file is replaced, however their sizes differ.
pub(super) async fn overwriting_replaces_the_file(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    for total in [0, 100, probe.part_size() + 1, 3] {
        let data = pattern(total + 13, total);
        let id = rig.begin(store, "in/file", total).await;
        if total > 0 {
            let _ = rig.write(store, id, &data).await;
        }
        rig.publish(store, id, REPLACE).await.unwrap();
        assert_published(&probe, "in/file", &data).await;
    }
    assert!(probe.staged_is_empty().await);
}

/// A crash between publishing and its commit: the same intent is carried out again.
pub(super) async fn publishing_again_changes_nothing(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    let totals = [0, 100, probe.part_size(), probe.part_size() * 2 + 1];
    for (precondition, total) in [CAREFUL, REPLACE].into_iter().flat_map(|it| totals.map(|total| (it, total))) {
        let name = format!("in/{total}-{}", precondition.overwrite);
        if precondition.overwrite {
            put(&probe, &name, b"old").await;
        }
        let data = pattern(14, total);
        let id = rig.begin(store, &name, total).await;
        if total > 0 {
            let _ = rig.write(store, id, &data).await;
        }
        let intent = rig.intend(store, id, precondition).await.unwrap();
        for _ in 0..3 {
            store.publish(&rig.upload(store, id).await, precondition, &intent).await.unwrap();
            assert_published(&probe, &name, &data).await;
        }
        rig.commit(&rig.session(id).await, &Transition::Published).await;
    }
    assert!(probe.staged_is_empty().await);
}

/// Two sessions to one name, both prepared: the first to publish wins.
pub(super) async fn the_first_of_two_wins(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    for total in [100, probe.part_size() + 100] {
        let name = format!("in/{total}");
        let mut prepared = Vec::new();
        for seed in [15, 16] {
            let id = rig.begin(store, &name, total).await;
            let _ = rig.write(store, id, &pattern(seed, total)).await;
            let upload = rig.upload(store, id).await;
            store.sync(&upload).await.unwrap();
            prepared.push((id, store.prepare(&upload, CAREFUL).await.unwrap(), upload));
        }
        let [(_, first_intent, first), (loser, second_intent, second)] = &prepared[..] else { unreachable!() };
        store.publish(first, CAREFUL, first_intent).await.unwrap();
        let error = store.publish(second, CAREFUL, second_intent).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Exists);
        assert_published(&probe, &name, &pattern(15, total)).await;
        discard(&rig, &probe, *loser).await;
        assert_published(&probe, &name, &pattern(15, total)).await;
    }
    assert!(probe.staged_is_empty().await);
}

/// Eight sessions to one name at the same moment: one wins, whole.
pub(super) async fn one_of_many_at_once_wins(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    let mut prepared = Vec::new();
    for seed in 0..8 {
        let id = rig.begin(store, "in/file", 1000).await;
        let _ = rig.write(store, id, &pattern(seed, 1000)).await;
        let upload = rig.upload(store, id).await;
        store.sync(&upload).await.unwrap();
        prepared.push((id, store.prepare(&upload, CAREFUL).await.unwrap(), upload));
    }
    let publish = prepared.iter().map(|(_, intent, upload)| store.publish(upload, CAREFUL, intent));
    let results: Vec<Result<(), StoreError>> = join_all(publish).await;
    let winners: Vec<usize> = (0..results.len()).filter(|at| results[*at].is_ok()).collect();
    assert_eq!(winners.len(), 1, "{results:?}");
    let kinds = results.iter().filter_map(|result| result.as_ref().err()).map(|error| error.kind);
    assert!(kinds.into_iter().all(|kind| kind == StoreErrorKind::Exists), "{results:?}");
    assert_published(&probe, "in/file", &pattern(winners[0] as u64, 1000)).await;
    for (at, (id, ..)) in prepared.iter().enumerate() {
        if at != winners[0] {
            discard(&rig, &probe, *id).await;
        }
    }
    assert!(probe.staged_is_empty().await);
}

/// A folder at the destination is no file to replace.
pub(super) async fn a_folder_is_not_replaced(probe: impl UploadProbe) {
    if !probe.has_folders() {
        return eprintln!("skipped: the store has no folders");
    }
    let (rig, store) = (Rig::default(), probe.store());
    put(&probe, "in/folder/file", b"old").await;
    for precondition in [CAREFUL, REPLACE] {
        let id = rig.begin(store, "in/folder", 3).await;
        let _ = rig.write(store, id, b"new").await;
        let error = rig.intend(store, id, precondition).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::IsFolder);
        discard(&rig, &probe, id).await;
    }
    assert_published(&probe, "in/folder/file", b"old").await;
    assert!(probe.staged_is_empty().await);
}

/// A folder that appears between intent and publishing is not replaced either.
pub(super) async fn a_folder_that_appears_late_is_not_replaced(probe: impl UploadProbe) {
    if !probe.has_folders() {
        return eprintln!("skipped: the store has no folders");
    }
    let (rig, store) = (Rig::default(), probe.store());
    for precondition in [CAREFUL, REPLACE] {
        let name = format!("in/folder-{}", precondition.overwrite);
        let id = rig.begin(store, &name, 3).await;
        let _ = rig.write(store, id, b"new").await;
        let intent = rig.intend(store, id, precondition).await.unwrap();
        put(&probe, &format!("{name}/file"), b"old").await;
        let error = rig.finish(store, id, precondition, &intent).await.unwrap_err();
        assert!(matches!(error.kind, StoreErrorKind::IsFolder | StoreErrorKind::Exists), "{error:?}");
        assert_published(&probe, &format!("{name}/file"), b"old").await;
        discard(&rig, &probe, id).await;
    }
    assert!(probe.staged_is_empty().await);
}

/// Folders are made where that is allowed, and only there.
pub(super) async fn missing_folders_are_made_or_refused(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    let strict = Precondition { create_folders: false, ..CAREFUL };
    let id = rig.begin(store, "in/a/b/c/file", 3).await;
    let _ = rig.write(store, id, b"new").await;
    if probe.has_folders() {
        let error = rig.intend(store, id, strict).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::NoParent);
        assert_eq!(store.inspect(&key("in/a/b/c/file")).await.unwrap(), Destination::NoParent);
    }
    rig.publish(store, id, CAREFUL).await.unwrap();
    assert_published(&probe, "in/a/b/c/file", b"new").await;
    let id = rig.begin(store, "in/a/b/c/second", 3).await;
    let _ = rig.write(store, id, b"new").await;
    rig.publish(store, id, strict).await.unwrap();
    assert_published(&probe, "in/a/b/c/second", b"new").await;
}

/// A file where a folder is needed is a refusal that the client hears, not our fault.
pub(super) async fn a_file_as_a_folder_is_refused(probe: impl UploadProbe) {
    if !probe.has_folders() {
        return eprintln!("skipped: the store has no folders");
    }
    let (rig, store) = (Rig::default(), probe.store());
    put(&probe, "in/file", b"old").await;
    let id = rig.begin(store, "in/file/below", 3).await;
    let _ = rig.write(store, id, b"new").await;
    let error = rig.publish(store, id, CAREFUL).await.unwrap_err();
    let final_for_the_client =
        [StoreErrorKind::NoParent, StoreErrorKind::Exists, StoreErrorKind::Denied, StoreErrorKind::IsFolder];
    assert!(final_for_the_client.contains(&error.kind), "{error:?}");
    assert_published(&probe, "in/file", b"old").await;
    discard(&rig, &probe, id).await;
    assert!(probe.staged_is_empty().await);
}

/// Discarding leaves nothing, at whatever point, and may be done again.
pub(super) async fn discard_leaves_nothing(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    let total = probe.part_size() * 3;
    let data = pattern(17, total);
    for len in [0, 1, probe.part_size(), probe.part_size() * 2 + 7, total] {
        let id = rig.begin(store, &format!("in/{len}"), total).await;
        for chunk in data[..len as usize].chunks(probe.part_size() as usize / 2 + 3) {
            let _ = rig.write(store, id, chunk).await;
        }
        discard(&rig, &probe, id).await;
        assert!(probe.staged_is_empty().await, "something is left of {len} bytes");
        assert_eq!(probe.read(&key(&format!("in/{len}"))).await, None);
    }
}

/// Discarding what an ended session left needs no more than its tombstone.
pub(super) async fn discard_by_tombstone(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    let total = probe.part_size() * 3;
    let id = rig.begin(store, "in/file", total).await;
    for chunk in pattern(18, total - 5).chunks(probe.part_size() as usize / 2 + 3) {
        let _ = rig.write(store, id, chunk).await;
    }
    let end = Transition::End(crate::Ending::Cancelled);
    let Ok(Commit::Ended(tombstone)) = rig.sessions.commit(&rig.session(id).await, &end).await else {
        panic!("the session did not end");
    };
    let pieces = rig.sessions.pieces(id, 0).await.unwrap();
    for _ in 0..2 {
        store.discard(&Upload::of_ended(&tombstone, pieces.clone())).await.unwrap();
        assert!(probe.staged_is_empty().await);
    }
}

/// Discarding one session touches no other, and no published file.
pub(super) async fn discard_touches_nothing_else(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    let total = probe.part_size() * 2;
    let data = pattern(19, total);
    let kept = rig.begin(store, "in/kept", total).await;
    let published = rig.begin(store, "in/published", total).await;
    let dropped = rig.begin(store, "in/dropped", total).await;
    for id in [kept, published, dropped] {
        let _ = rig.write(store, id, &data[..total as usize - 10]).await;
    }
    rig.complete(store, published, &data).await;
    discard(&rig, &probe, published).await;
    discard(&rig, &probe, dropped).await;
    rig.complete(store, kept, &data).await;
    assert_published(&probe, "in/kept", &data).await;
    assert_published(&probe, "in/published", &data).await;
    assert!(probe.staged_is_empty().await);
}

/// Many uploads at once do not mix.
pub(super) async fn many_uploads_at_once(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    let step = probe.part_size() as usize * 2 / 3;
    let one = async |seed: u64| {
        let data = pattern(seed, probe.part_size() * 2 + seed);
        let name = format!("in/{}/{seed}", seed % 3);
        let folder = if seed.is_multiple_of(2) { "in" } else { "in/0" };
        let id = rig.begin_in(store, folder, &name, data.len() as u64).await;
        for chunk in data.chunks(step) {
            let _ = rig.write(store, id, chunk).await;
        }
        rig.publish(store, id, CAREFUL).await.unwrap();
        assert_published(&probe, &name, &data).await;
    };
    stream::iter(0..16).for_each_concurrent(16, one).await;
    assert!(probe.staged_is_empty().await);
}

/// Names of every length and script that paths allow.
pub(super) async fn names_at_the_limits(probe: impl UploadProbe) {
    let names = [
        "file-at-root".to_owned(),
        "in/with space, 'quote' and \"quotes\"; $HOME `id` & 100%".to_owned(),
        "in/%2e%2e%2fescape".to_owned(),
        "in/.hidden/..double/-rf".to_owned(),
        "in/Größe/数据/файл/🦀/e\u{301}".to_owned(),
        "in/a#b?c=d*e|f<g>h~".to_owned(),
        format!("in/{}", "n".repeat(255)),
        format!("in/{}", "ü".repeat(127)),
        format!("in/{}", vec!["d"; 100].join("/")),
        format!("in/{}/end", vec!["m".repeat(200); 12].join("/")),
    ];
    for (seed, name) in names.iter().enumerate() {
        if name.len() > probe.longest_key() {
            let error = probe.store().inspect(&key(name)).await.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::InvalidName, "{} bytes", name.len());
            continue;
        }
        let data = pattern(seed as u64, 500);
        put(&probe, name, &data).await;
        assert_published(&probe, name, &data).await;
    }
    assert!(probe.staged_is_empty().await);
}

/// Names that differ in case only, or in the form of their accents, are different or refused,
/// and never one file with another's bytes.
pub(super) async fn similar_names_never_mix(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    put(&probe, "in/Name-é", b"first").await;
    for name in ["in/name-é", "in/Name-e\u{301}"] {
        let id = rig.begin(store, name, 6).await;
        let _ = rig.write(store, id, b"second").await;
        if let Err(error) = rig.publish(store, id, CAREFUL).await {
            assert_eq!(error.kind, StoreErrorKind::Exists);
            discard(&rig, &probe, id).await;
        }
        assert_published(&probe, "in/Name-é", b"first").await;
    }
}

fn key(name: &str) -> StorageKey {
    StorageKey::parse(name).unwrap()
}

/// Puts a file there by a session of its own.
async fn put(probe: &impl UploadProbe, name: &str, data: &[u8]) {
    let (rig, store) = (Rig::default(), probe.store());
    let id = rig.begin(store, name, data.len() as u64).await;
    if !data.is_empty() {
        let _ = rig.write(store, id, data).await;
    }
    rig.publish(store, id, CAREFUL).await.unwrap();
}

async fn discard(rig: &Rig, probe: &impl UploadProbe, id: crate::SessionId) {
    for _ in 0..2 {
        probe.store().discard(&rig.upload(probe.store(), id).await).await.unwrap();
    }
}

async fn assert_published(probe: &impl UploadProbe, name: &str, data: &[u8]) {
    let found = probe.read(&key(name)).await;
    let found = found.unwrap_or_else(|| panic!("nothing stands at {name}"));
    let differs = found.iter().zip(data).position(|(one, other)| one != other);
    assert_eq!((found.len(), differs), (data.len(), None), "{name} has other bytes than were sent");
}
