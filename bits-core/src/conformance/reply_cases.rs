//! What every [`UploadStore`] must do with the replies of server applications.
#![allow(clippy::unwrap_used, reason = "these are tests, though not compiled as such")]

use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::{
    UploadProbe,
    rig::{CAREFUL, Rig, pattern},
};
use crate::{
    BodyError, Commit, Ending, Reply, SessionId, SessionStore, Source, Stopped, Transition, Upload, UploadStore,
};

type Frames = Vec<Result<Bytes, BodyError>>;

/// Replies of all sizes, in any pieces, are read as they came, whole and in ranges.
pub(super) async fn replies_are_kept_and_read(probe: impl UploadProbe) {
    let (rig, store, part) = (Rig::default(), probe.store(), probe.part_size());
    for total in [1, 2, part - 1, part, part + 1, 3 * part + 5] {
        let id = received(&rig, &probe, "in/file", 10).await;
        let data = pattern(30, total);
        let frames = data.chunks(4099).flat_map(|chunk| [Ok(Bytes::new()), Ok(Bytes::copy_from_slice(chunk))]);
        assert_eq!(write(&rig, store, id, frames.collect()).await.unwrap(), total);
        for (start, end) in [(0, total), (0, 1), (total / 3, total - total / 5), (total - 1, u64::MAX), (total, total)]
        {
            let expected = &data[start as usize..end.min(total) as usize];
            assert_eq!(read(&rig, store, id, start..end).await.as_deref(), Some(expected), "{start}..{end} of {total}");
        }
        discard(&rig, &probe, id).await;
    }
}

/// A reply without a byte is none, and takes an older one away.
pub(super) async fn an_empty_reply_is_none(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    let id = received(&rig, &probe, "in/file", 10).await;
    for empty in [vec![], vec![Ok(Bytes::new())]] {
        assert_eq!(write(&rig, store, id, empty.clone()).await.unwrap(), 0);
        assert_eq!(read_all(&rig, store, id).await, None);
        keep(&rig, store, id, b"older").await;
        assert_eq!(write(&rig, store, id, empty).await.unwrap(), 0);
        assert_eq!(read_all(&rig, store, id).await, None);
    }
}

/// The application was told again: its newest reply counts, whole.
pub(super) async fn a_newer_reply_replaces_the_older(probe: impl UploadProbe) {
    let (rig, store, part) = (Rig::default(), probe.store(), probe.part_size());
    let id = received(&rig, &probe, "in/file", 10).await;
    for (seed, total) in [(31, part * 2 + 3), (32, 7), (33, part), (34, 7)] {
        let data = pattern(seed, total);
        keep(&rig, store, id, &data).await;
        assert!(read_all(&rig, store, id).await.unwrap() == data, "not the reply of {total} bytes");
    }
}

/// A reply that breaks off, or that nobody waits for any more, is never half of one.
pub(super) async fn a_reply_that_breaks_off_is_none(probe: impl UploadProbe) {
    let (rig, store, part) = (Rig::default(), probe.store(), probe.part_size());
    let (older, newer) = (pattern(35, 2 * part + 1), Bytes::from(pattern(36, part + 9)));
    let errors = [BodyError::Disconnected, BodyError::Idle];
    for before in [None, Some(&older)] {
        let id = received(&rig, &probe, "in/file", 10).await;
        if let Some(older) = before {
            keep(&rig, store, id, older).await;
        }
        for error in errors {
            let stopped = write(&rig, store, id, vec![Ok(newer.clone()), Err(error)]).await;
            assert!(matches!(stopped, Err(Stopped::Body(seen)) if seen == error), "{stopped:?}");
            check_older_or_none(&rig, store, id, before).await;
        }
        let upload = rig.upload(store, id).await;
        let mut endless = stream::iter([Ok(newer.clone())]).chain(stream::pending());
        let dropped = store.write_reply(&upload, &mut endless);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(200), dropped).await.is_err());
        check_older_or_none(&rig, store, id, before).await;
        // The next try finds nothing in its way.
        keep(&rig, store, id, &newer).await;
        assert!(read_all(&rig, store, id).await.unwrap() == newer);
        discard(&rig, &probe, id).await;
    }
}

/// A reply takes nothing of its upload away: that is read, published and kept as ever, and the
/// reply outlives the publishing.
pub(super) async fn a_reply_leaves_its_upload_alone(probe: impl UploadProbe) {
    let (rig, store, part) = (Rig { reads_staged: true, ..Rig::default() }, probe.store(), probe.part_size());
    for total in [0, 5, part, 2 * part + 7] {
        let (name, data) = (format!("in/{total}"), pattern(0, total));
        let id = received(&rig, &probe, &name, total).await;
        keep(&rig, store, id, b"a reply").await;
        let delivered = Transition::Delivered { reply: Some(Reply::Kept { length: 7 }), copy: true };
        rig.commit(&rig.session(id).await, &delivered).await;
        let upload = rig.upload(store, id).await;
        assert_eq!(store.available(&upload).await.unwrap(), total);
        let staged = store.open(Source::Staged(&upload)).await.unwrap().expect("it is there");
        assert_eq!(staged.info().size, total);
        rig.publish(store, id, CAREFUL).await.unwrap();
        assert_eq!(probe.read(&rig.session(id).await.key).await, Some(data), "{total}");
        assert_eq!(read_all(&rig, store, id).await.as_deref(), Some(&b"a reply"[..]), "{total}");
        discard(&rig, &probe, id).await;
        assert!(probe.read(&rig.session(id).await.key).await.is_some(), "the upload went with the reply");
    }
}

/// A reply goes with its session, however that ends, and no reply of another one with it.
pub(super) async fn a_reply_ends_with_its_session(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    let kept = received(&rig, &probe, "in/kept", 10).await;
    keep(&rig, store, kept, b"of another").await;
    for ending in [Ending::Closed, Ending::Cancelled, Ending::Expired] {
        let id = received(&rig, &probe, "in/file", 10).await;
        keep(&rig, store, id, &pattern(38, probe.part_size() + 1)).await;
        let delivered = Transition::Delivered { reply: Some(Reply::Kept { length: 1 }), copy: false };
        rig.commit(&rig.session(id).await, &delivered).await;
        end(&rig, &probe, id, ending).await;
    }
    assert_eq!(read_all(&rig, store, kept).await.as_deref(), Some(&b"of another"[..]));
    end(&rig, &probe, kept, Ending::Closed).await;
    assert!(probe.staged_is_empty().await, "something is left of the replies");
}

/// The server died between a reply and the row that names it: it goes with the session all the same.
pub(super) async fn a_reply_without_a_row_is_found(probe: impl UploadProbe) {
    let (rig, store) = (Rig::default(), probe.store());
    for (seed, total) in [(39, 5), (40, probe.part_size() * 2)] {
        let id = received(&rig, &probe, "in/file", 10).await;
        keep(&rig, store, id, &pattern(seed, total)).await;
        end(&rig, &probe, id, Ending::Expired).await;
        assert!(probe.staged_is_empty().await, "a reply of {total} bytes is left");
    }
}

/// A session that has come to Notify: its upload is whole and durable.
async fn received(rig: &Rig, probe: &impl UploadProbe, key: &str, total: u64) -> SessionId {
    let store = probe.store();
    let id = rig.begin(store, key, total).await;
    if total > 0 {
        let _ = rig.write(store, id, &pattern(0, total)).await;
    }
    store.sync(&rig.upload(store, id).await).await.unwrap();
    rig.commit(&rig.session(id).await, &Transition::Notify { id: uuid::Uuid::from_u128(1) }).await;
    id
}

async fn write(rig: &Rig, store: &impl UploadStore, id: SessionId, body: Frames) -> Result<u64, Stopped> {
    store.write_reply(&rig.upload(store, id).await, &mut stream::iter(body)).await
}

async fn keep(rig: &Rig, store: &impl UploadStore, id: SessionId, data: &[u8]) {
    let length = write(rig, store, id, vec![Ok(Bytes::copy_from_slice(data))]).await.unwrap();
    assert_eq!(length, data.len() as u64);
}

async fn read(rig: &Rig, store: &impl UploadStore, id: SessionId, range: std::ops::Range<u64>) -> Option<Vec<u8>> {
    let upload = rig.upload(store, id).await;
    let opened = store.open(Source::Reply(&upload)).await.unwrap()?;
    let mut stream = opened.read(range);
    let mut whole = Vec::new();
    while let Some(bytes) = stream.next().await {
        whole.extend_from_slice(&bytes.unwrap());
    }
    Some(whole)
}

async fn read_all(rig: &Rig, store: &impl UploadStore, id: SessionId) -> Option<Vec<u8>> {
    read(rig, store, id, 0..u64::MAX).await
}

async fn check_older_or_none(rig: &Rig, store: &impl UploadStore, id: SessionId, older: Option<&Vec<u8>>) {
    let found = read_all(rig, store, id).await;
    assert!(found.is_none() || found.as_ref() == older, "a part of a reply is taken for one");
}

/// Discards by the row, twice: done already is done well.
async fn discard(rig: &Rig, probe: &impl UploadProbe, id: SessionId) {
    for _ in 0..2 {
        probe.store().discard(&rig.upload(probe.store(), id).await).await.unwrap();
    }
    assert!(read_all(rig, probe.store(), id).await.is_none());
    assert!(probe.staged_is_empty().await, "something is left of a reply");
}

/// Ends the session, and discards by its tombstone what it says may be left.
async fn end(rig: &Rig, probe: &impl UploadProbe, id: SessionId, ending: Ending) {
    let before = rig.upload(probe.store(), id).await;
    let ended = rig.sessions.commit(&rig.session(id).await, &Transition::End(ending)).await;
    let Ok(Commit::Ended(tombstone)) = ended else { panic!("the session did not end: {ended:?}") };
    assert!(tombstone.unclean, "nobody would look for its reply");
    let pieces = rig.sessions.pieces(id, 0).await.unwrap();
    probe.store().discard(&Upload::of_ended(&tombstone, pieces)).await.unwrap();
    assert!(probe.store().open(Source::Reply(&before)).await.unwrap().is_none(), "the reply outlived its session");
}
