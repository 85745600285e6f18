//! Plays the engine for the cases: rows in memory, bytes in the store under test.

use bytes::Bytes;
use futures_util::stream;
use uuid::Uuid;

use crate::{
    BodyError, Commit, Found, NewSession, Piece, Precondition, Principal, PublishIntent, Quota, Session, SessionId,
    SessionStore, State, StorageKey, StoreError, StoreErrorKind, Transition, Upload, UploadStore, VirtualPath, Written,
    conformance::MemorySessions,
};

/// Replace nothing, make folders.
pub(super) const CAREFUL: Precondition =
    Precondition { overwrite: false, create_folders: true, file_mode: 0o640, folder_mode: 0o2750 };

/// Rows for the uploads of one store.
#[derive(Default)]
pub(super) struct Rig {
    pub(super) sessions: MemorySessions,
    /// Whether uploads are read before they are published.
    pub(super) reads_staged: bool,
}

/// A new session to `key` whose uploads under way stay below `folder`.
pub(super) fn new_session(folder: &str, key: &str) -> NewSession {
    NewSession {
        id: fresh_id(),
        principal: Principal::ANONYMOUS,
        address: "192.0.2.7".to_owned(),
        directory: "/upload".to_owned(),
        destination: VirtualPath::from_decoded("/upload/file").expect("a plain path"),
        storage: "default".to_owned(),
        folder: StorageKey::parse(folder).expect("the case names a folder"),
        key: StorageKey::parse(key).expect("the case names a key"),
        timeout: std::time::Duration::from_secs(3600),
        url: None,
        limit: None,
    }
}

/// Ids that differ within one process; each case has an empty store.
pub(super) fn fresh_id() -> SessionId {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNTER: AtomicU64 = AtomicU64::new(1);
    SessionId::new(Uuid::from_u64_pair(0x1234_5678_9abc_4def, COUNTER.fetch_add(1, Ordering::Relaxed)))
}

/// Bytes that are the same in no two places nearby, different for each `seed`.
pub(super) fn pattern(seed: u64, len: u64) -> Vec<u8> {
    (0..len).map(|at| ((at ^ (at >> 8) ^ (at >> 16)).wrapping_add(seed.wrapping_mul(0x5b)) & 0xff) as u8).collect()
}

impl Rig {
    /// A session to `key` of `total` bytes that waits for the first of them.
    pub(super) async fn begin(&self, store: &impl UploadStore, key: &str, total: u64) -> SessionId {
        self.begin_in(store, "in", key, total).await
    }

    pub(super) async fn begin_in(&self, store: &impl UploadStore, folder: &str, key: &str, total: u64) -> SessionId {
        let session = self.sessions.create(&new_session(folder, key)).await.expect("memory has room");
        self.commit(&session, &Transition::Begin { total, quota: Quota::NONE }).await;
        store.reserve(&self.upload(store, session.id).await).await.expect("there is room for a test");
        session.id
    }

    pub(super) async fn session(&self, id: SessionId) -> Session {
        match self.sessions.load(id).await {
            Ok(Some(Found::Live(session))) => session,
            other => panic!("the session is not live: {other:?}"),
        }
    }

    /// What the store is told of the session now.
    pub(super) async fn upload(&self, store: &impl UploadStore, id: SessionId) -> Upload {
        let session = self.session(id).await;
        let pieces = match store.pieces_from(&session) {
            Some(from) => self.sessions.pieces(id, from).await.expect("memory answers"),
            None => Vec::new(),
        };
        Upload { direct: !self.reads_staged, ..Upload::of(&session, pieces) }
    }

    /// Writes `data` where the session stands, and commits what was written.
    pub(super) async fn write(&self, store: &impl UploadStore, id: SessionId, data: &[u8]) -> Written {
        self.write_body(store, id, vec![Ok(Bytes::copy_from_slice(data))]).await
    }

    pub(super) async fn write_body(
        &self,
        store: &impl UploadStore,
        id: SessionId,
        body: Vec<Result<Bytes, BodyError>>,
    ) -> Written {
        self.open_handle(store, id).await;
        let session = self.session(id).await;
        let upload = self.upload(store, id).await;
        let written = write_only(store, &upload, body).await;
        check_written(store, &session, &written);
        if written.reached > session.received {
            self.commit(&session, &advance(store, &written)).await;
            self.discard_replaced(store, id).await;
        }
        written
    }

    /// Commits the handle that the store wants for what comes next, if it wants one.
    pub(super) async fn open_handle(&self, store: &impl UploadStore, id: SessionId) {
        let upload = self.upload(store, id).await;
        if let Some(handle) = store.begin(&upload).await.expect("the store answers") {
            self.commit(&self.session(id).await, &Transition::Adopt { handle }).await;
        }
    }

    /// Deletes what newer pieces replaced, twice: done already is done well.
    pub(super) async fn discard_replaced(&self, store: &impl UploadStore, id: SessionId) {
        let replaced = self.sessions.replaced_pieces(id).await.expect("memory answers");
        if replaced.is_empty() {
            return;
        }
        let upload = self.upload(store, id).await;
        for _ in 0..2 {
            store.discard_pieces(&upload, &replaced).await.expect("replaced pieces can be deleted");
        }
        self.sessions.forget_pieces(id, &replaced).await.expect("memory answers");
    }

    /// Prepares; the session then is in state Publish.
    pub(super) async fn intend(
        &self,
        store: &impl UploadStore,
        id: SessionId,
        precondition: Precondition,
    ) -> Result<PublishIntent, StoreError> {
        let upload = self.upload(store, id).await;
        let intent = store.prepare(&upload, precondition).await?;
        let intend = Transition::Intend { intent: intent.clone(), total: upload.total };
        self.commit(&self.session(id).await, &intend).await;
        Ok(intent)
    }

    /// Publishes what was intended, and commits what came of it.
    pub(super) async fn finish(
        &self,
        store: &impl UploadStore,
        id: SessionId,
        precondition: Precondition,
        intent: &PublishIntent,
    ) -> Result<(), StoreError> {
        let result = store.publish(&self.upload(store, id).await, precondition, intent).await;
        let after = if result.is_ok() { Transition::Published } else { Transition::Withdraw };
        self.commit(&self.session(id).await, &after).await;
        result
    }

    pub(super) async fn publish(
        &self,
        store: &impl UploadStore,
        id: SessionId,
        precondition: Precondition,
    ) -> Result<(), StoreError> {
        let intent = self.intend(store, id, precondition).await?;
        self.finish(store, id, precondition, &intent).await
    }

    /// Goes on until `data` is published, as a client and an engine do that lose heart never.
    pub(super) async fn complete(&self, store: &impl UploadStore, id: SessionId, data: &[u8]) {
        for _ in 0..20 {
            let session = self.session(id).await;
            let available = store.available(&self.upload(store, id).await).await.expect("the store answers");
            if let Some(good) = session.doubt(store.incarnation(), available) {
                self.regress(store, id, good).await;
            } else if !session.is_received() {
                let _ = self.write(store, id, &data[session.received as usize..]).await;
            } else {
                match self.publish(store, id, CAREFUL).await {
                    Ok(()) => return,
                    Err(error) => self.go_back(store, id, error).await,
                }
            }
        }
        panic!("no end after 20 tries");
    }

    pub(super) async fn regress(&self, store: &impl UploadStore, id: SessionId, to: u64) {
        self.commit(&self.session(id).await, &Transition::Regress { to }).await;
        self.discard_replaced(store, id).await;
    }

    pub(super) async fn commit(&self, from: &Session, transition: &Transition) {
        match self.sessions.commit(from, transition).await {
            Ok(Commit::Live(_) | Commit::Ended(_)) => {}
            other => panic!("{transition:?} from {from:?} gave {other:?}"),
        }
    }

    async fn go_back(&self, store: &impl UploadStore, id: SessionId, error: StoreError) {
        let StoreErrorKind::Doubtful { good } = error.kind else { panic!("publishing failed: {error:?}") };
        assert_eq!(self.session(id).await.state, State::ReceiveFragments);
        self.regress(store, id, good).await;
    }
}

/// A write of which no row ever hears.
pub(super) async fn write_only(
    store: &impl UploadStore,
    upload: &Upload,
    body: Vec<Result<Bytes, BodyError>>,
) -> Written {
    store.write(upload, &mut stream::iter(body)).await
}

pub(super) fn advance(store: &impl UploadStore, written: &Written) -> Transition {
    Transition::Advance {
        to: written.reached,
        synced: written.synced,
        incarnation: store.incarnation().to_owned(),
        pieces: written.pieces.clone(),
        handle: written.handle.clone(),
        durable: true,
    }
}

/// What every write promises.
fn check_written(store: &impl UploadStore, session: &Session, written: &Written) {
    assert!(written.reached >= session.received, "a write went back: {written:?}");
    assert!(written.synced <= written.reached, "more is synced than written: {written:?}");
    if store.pieces_from(session).is_none() {
        return assert!(written.pieces.is_empty(), "pieces without pieces_from: {written:?}");
    }
    let mut covered = session.received;
    for Piece { start, len, .. } in &written.pieces {
        assert!(*start <= covered, "the pieces leave a gap: {written:?}");
        covered = covered.max(start + len);
    }
    assert_eq!(covered, written.reached, "the pieces end elsewhere: {written:?}");
}
