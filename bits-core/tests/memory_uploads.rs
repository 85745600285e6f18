//! The in-memory object store passes the suite, whether its writes are durable at once or not.
#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

use bits_core::{
    StorageKey,
    conformance::{MemoryUploads, UploadProbe},
};

const PART: u64 = 1000;

struct Probe(MemoryUploads);

impl UploadProbe for Probe {
    type Store = MemoryUploads;

    fn store(&self) -> &MemoryUploads {
        &self.0
    }

    async fn read(&self, key: &StorageKey) -> Option<Vec<u8>> {
        self.0.read(key).map(Into::into)
    }

    async fn staged_is_empty(&self) -> bool {
        self.0.staged().is_empty()
    }

    fn part_size(&self) -> u64 {
        PART
    }
}

mod durable {
    use super::*;

    bits_core::upload_store_conformance!(async { Probe(MemoryUploads::new(PART)) });
}

mod volatile {
    use super::*;

    bits_core::upload_store_conformance!(async { Probe(MemoryUploads::volatile(PART)) });
}

mod tiny_parts {
    use super::*;

    bits_core::upload_store_conformance!(async { Probe(MemoryUploads::new(7)) });
}

/// What only this store does: it loses things when told to, and the contract says how that shows.
mod losses {
    use bits_core::{
        BodyError, NewSession, Precondition, Principal, PublishIntent, Session, SessionId, Stopped, StoreErrorKind,
        Timestamp, Upload, UploadStore, VirtualPath, Written, conformance::PublishFault,
    };
    use bytes::Bytes;
    use futures_util::{FutureExt, stream};

    use super::*;

    const CAREFUL: Precondition =
        Precondition { overwrite: false, create_folders: true, file_mode: 0o640, folder_mode: 0o2750 };

    fn ready<T>(future: impl Future<Output = T>) -> T {
        future.now_or_never().expect("the store never waits")
    }

    fn row() -> Session {
        let new = NewSession {
            id: SessionId::new(uuid::Uuid::from_u128(7)),
            principal: Principal::ANONYMOUS,
            address: String::new(),
            directory: "/".to_owned(),
            destination: VirtualPath::from_decoded("/file").unwrap(),
            storage: "default".to_owned(),
            folder: StorageKey::ROOT,
            key: StorageKey::parse("file").unwrap(),
            timeout: std::time::Duration::from_secs(1),
            url: None,
            limit: None,
        };
        Session::create(&new, Timestamp::from_millis(0))
    }

    /// An upload of `total` bytes of which nothing has come.
    fn upload(total: u64) -> Upload {
        Upload { total, ..Upload::of(&row(), Vec::new()) }
    }

    fn write(store: &MemoryUploads, upload: &Upload, body: &[u8]) -> Written {
        let body: Vec<Result<Bytes, BodyError>> =
            body.chunks(100).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        ready(store.write(upload, &mut stream::iter(body)))
    }

    /// The upload as its row says after a commit of `written`; all pieces are told.
    fn committed(upload: &Upload, written: &Written) -> Upload {
        let mut pieces = upload.pieces.clone();
        for new in &written.pieces {
            pieces.retain(|old| old.start < new.start || old.end() > new.end());
            pieces.push(new.clone());
        }
        let handle = written.handle.clone().or(upload.handle.clone());
        Upload { received: written.reached, synced: written.synced, pieces, handle, ..upload.clone() }
    }

    /// Writes all of `data`, each chunk committed.
    fn write_all(store: &MemoryUploads, upload: &Upload, data: &[u8], step: usize) -> Upload {
        data.chunks(step).fold(upload.clone(), |upload, chunk| committed(&upload, &write(store, &upload, chunk)))
    }

    #[track_caller]
    fn assert_doubtful<T: std::fmt::Debug>(result: Result<T, bits_core::StoreError>, good: u64) {
        assert_eq!(result.unwrap_err().kind, StoreErrorKind::Doubtful { good });
    }

    #[test]
    fn a_part_that_was_written_again_is_doubted() {
        let store = MemoryUploads::new(10);
        let begun = write_all(&store, &upload(30), b"0123456789", 10);
        let whole = write_all(&store, &begun, b"abcdefghijABCDEFGHIJ", 10);
        // A writer that still goes by the row of then, with other bytes.
        let _ = write(&store, &begun, b"xxxxxxxxxx");
        assert_eq!(ready(store.available(&whole)).unwrap(), 10);
        assert_doubtful(ready(store.sync(&whole)), 10);
        assert_doubtful(ready(store.prepare(&whole, CAREFUL)), 10);
        let intent = PublishIntent("complete".to_owned());
        assert_doubtful(ready(store.publish(&whole, CAREFUL, &intent)), 10);
        assert_eq!(store.read(&whole.key), None);
    }

    #[test]
    fn a_lost_piece_is_doubted_from_its_start() {
        for (lost, good) in [(0, 0), (1, 10), (2, 20), (3, 25)] {
            let store = MemoryUploads::new(10);
            let held = write_all(&store, &upload(40), &[7; 28], 5);
            assert_eq!(held.pieces.len(), 4, "two parts and two tails: {:?}", held.pieces);
            assert!(store.lose(&held, &held.pieces[lost]) && !store.lose(&held, &held.pieces[lost]));
            // A row that is not complete tells of the last part only.
            let told = Upload { pieces: held.pieces[2..].to_vec(), ..held.clone() };
            assert_eq!(ready(store.available(&told)).unwrap(), if lost < 2 { 28 } else { good });
            let rest = write_all(&store, &Upload { total: 28, ..held }, &[], 1);
            assert_doubtful(ready(store.sync(&rest)), good);
        }
    }

    #[test]
    fn a_forgotten_multipart_is_doubted_whole() {
        let store = MemoryUploads::new(10);
        let held = write_all(&store, &upload(40), &[7; 23], 5);
        store.forget_multiparts(|_| true);
        assert_eq!(ready(store.available(&held)).unwrap(), 23);
        store.forget_multiparts(|_| false);
        assert_eq!(ready(store.available(&held)).unwrap(), 0);
        let written = write(&store, &held, &[7; 9]);
        assert!(matches!(
            written.stopped,
            Some(Stopped::Store(error)) if error.kind == StoreErrorKind::Doubtful { good: 0 }
        ));
        assert_eq!(written.reached, 23);
    }

    #[test]
    fn tails_are_merged_before_they_are_many() {
        let store = MemoryUploads::new(100);
        let mut held = upload(100);
        for at in 0..60 {
            held = committed(&held, &write(&store, &held, &[at]));
            assert!(held.pieces.len() <= 5, "{} tails", held.pieces.len());
        }
        assert_eq!(ready(store.available(&Upload { total: 60, ..held })).unwrap(), 60);
    }

    #[test]
    fn a_write_fails_when_told_and_keeps_what_it_took() {
        let kinds = [
            StoreErrorKind::Full,
            StoreErrorKind::Denied,
            StoreErrorKind::Unavailable,
            StoreErrorKind::Other,
            StoreErrorKind::Missing,
        ];
        for (kind, after) in kinds.into_iter().zip([0, 1, 10, 14, 25]) {
            let store = MemoryUploads::new(10);
            store.fail_next_write(after, kind);
            let written = write(&store, &upload(40), &[7; 30]);
            assert_eq!(written.reached, after);
            assert!(matches!(&written.stopped, Some(Stopped::Store(error)) if error.kind == kind), "{written:?}");
            let held = committed(&upload(40), &written);
            assert_eq!(write(&store, &held, &[7; 5]).reached, after + 5, "only the next write fails");
        }
    }

    #[test]
    fn publishing_fails_before_or_after_it_is_done() {
        let kind = StoreErrorKind::Unavailable;
        for (fault, stands) in [(PublishFault::Before(kind), false), (PublishFault::After(kind), true)] {
            for total in [5, 25] {
                let store = MemoryUploads::new(10);
                let whole = write_all(&store, &upload(total), &vec![7; total as usize], 5);
                let intent = ready(store.prepare(&whole, CAREFUL)).unwrap();
                store.fail_next_publish(fault);
                assert_eq!(ready(store.publish(&whole, CAREFUL, &intent)).unwrap_err().kind, kind);
                assert_eq!(store.read(&whole.key).is_some(), stands);
                ready(store.publish(&whole, CAREFUL, &intent)).unwrap();
                assert_eq!(store.read(&whole.key).unwrap().len() as u64, total);
                assert_eq!(store.staged(), Vec::<String>::new());
            }
        }
    }

    #[test]
    fn a_restart_keeps_what_is_durable() {
        let data: Vec<u8> = (1..=28).collect();
        for (volatile, sync, kept) in [(false, false, 28), (true, false, 20), (true, true, 28)] {
            let before = if volatile { MemoryUploads::volatile(10) } else { MemoryUploads::new(10) };
            let held = write_all(&before, &upload(40), &data, 4);
            assert_eq!(held.synced, if volatile { 20 } else { 28 });
            if sync {
                ready(before.sync(&held)).unwrap();
            }
            let after = before.restart();
            assert_eq!(before.incarnation() == after.incarnation(), !volatile);
            assert_eq!(ready(before.check()).unwrap_err().kind, StoreErrorKind::Unavailable);
            assert_eq!(write(&before, &held, b"late").reached, 28, "the old process writes no more");
            let pieces = held.pieces.iter().filter(|piece| piece.end() <= kept).cloned().collect();
            let back = write_all(&after, &Upload { received: kept, pieces, ..held }, &data[kept as usize..], 3);
            let whole = Upload { total: 28, ..back };
            let intent = ready(after.prepare(&whole, CAREFUL)).unwrap();
            ready(after.publish(&whole, CAREFUL, &intent)).unwrap();
            assert_eq!(after.read(&whole.key).unwrap(), data, "{volatile} {sync}");
        }
    }

    /// A power loss leaves sizes without content, so that only the incarnation tells.
    #[test]
    fn a_restart_may_leave_zeros() {
        let before = MemoryUploads::volatile(10);
        let held = write_all(&before, &upload(40), &[7; 4], 2);
        let after = before.restart();
        let there = held.pieces.iter().filter(|piece| after.lose(&held, piece)).count();
        assert_eq!((held.pieces.len(), there), (2, 1));
    }

    #[test]
    fn pieces_are_told_from_the_part_that_is_not_full() {
        let store = MemoryUploads::new(10);
        for (received, total, expected) in
            [(0, None, 0), (9, Some(40), 0), (10, Some(40), 10), (39, Some(40), 30), (40, Some(40), 0)]
        {
            let row = Session { received, total, ..row() };
            assert_eq!(store.pieces_from(&row), Some(expected), "{received} of {total:?}");
        }
    }
}
