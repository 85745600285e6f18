//! A store in memory to whose calls things can be made to happen.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use bits_core::{
    BodyStream, Destination, Ending, Found, Opened, Piece, Precondition, PublishIntent, Session, SessionStore, Source,
    Stopped, StorageKey, StoreError, StoreErrorKind, Transition, Upload, UploadStore, Written,
    conformance::MemorySessions,
};

pub(crate) struct Hooked {
    inner: Arc<dyn UploadStore>,
    sessions: Arc<MemorySessions>,
    /// Publishing is denied.
    pub(crate) deny_publish: AtomicBool,
    /// What is prepared is found to be lost.
    pub(crate) doubt_prepare: AtomicBool,
    /// Whether what was received is there cannot be said.
    pub(crate) fail_available: AtomicBool,
    /// There is no room for anything.
    pub(crate) fail_reserve: AtomicBool,
    /// When room is made for an upload, its session has just been ended and cleaned up.
    pub(crate) end_at_reserve: AtomicBool,
    /// Whether room is made for an upload that is published without a pause.
    pub(crate) reserved_direct: AtomicBool,
    /// When something was begun for an upload, its session has just been ended and cleaned up.
    pub(crate) end_at_begin: AtomicBool,
    /// How often something was discarded.
    pub(crate) discards: AtomicUsize,
}

impl Hooked {
    pub(crate) fn new(inner: Arc<dyn UploadStore>, sessions: Arc<MemorySessions>) -> Self {
        Self {
            inner,
            sessions,
            deny_publish: AtomicBool::new(false),
            doubt_prepare: AtomicBool::new(false),
            fail_available: AtomicBool::new(false),
            fail_reserve: AtomicBool::new(false),
            end_at_reserve: AtomicBool::new(false),
            reserved_direct: AtomicBool::new(false),
            end_at_begin: AtomicBool::new(false),
            discards: AtomicUsize::new(0),
        }
    }
}

#[async_trait]
impl UploadStore for Hooked {
    fn incarnation(&self) -> &str {
        self.inner.incarnation()
    }

    fn pieces_from(&self, session: &Session) -> Option<u64> {
        self.inner.pieces_from(session)
    }

    async fn inspect(&self, key: &StorageKey) -> Result<Destination, StoreError> {
        self.inner.inspect(key).await
    }

    async fn reserve(&self, upload: &Upload) -> Result<(), StoreError> {
        self.reserved_direct.store(upload.direct, Ordering::SeqCst);
        if self.fail_reserve.load(Ordering::SeqCst) {
            return Err(StoreError::new(StoreErrorKind::Full, "there is no room"));
        }
        if self.end_at_reserve.load(Ordering::SeqCst)
            && let Ok(Some(Found::Live(session))) = self.sessions.load(upload.session).await
        {
            let _ = self.sessions.commit(&session, &Transition::End(Ending::Cancelled)).await;
            let _ = self.sessions.cleaned(upload.session).await;
        }
        self.inner.reserve(upload).await
    }

    async fn begin(&self, upload: &Upload) -> Result<Option<String>, StoreError> {
        let begun = self.inner.begin(upload).await?;
        if begun.is_some()
            && self.end_at_begin.load(Ordering::SeqCst)
            && let Ok(Some(Found::Live(session))) = self.sessions.load(upload.session).await
        {
            let _ = self.sessions.commit(&session, &Transition::End(Ending::Cancelled)).await;
            let _ = self.sessions.cleaned(upload.session).await;
        }
        Ok(begun)
    }

    async fn available(&self, upload: &Upload) -> Result<u64, StoreError> {
        if self.fail_available.load(Ordering::SeqCst) {
            return Err(StoreError::new(StoreErrorKind::Unavailable, "the store was told to fail"));
        }
        self.inner.available(upload).await
    }

    async fn write(&self, upload: &Upload, body: &mut BodyStream<'_>) -> Written {
        self.inner.write(upload, body).await
    }

    async fn sync(&self, upload: &Upload) -> Result<(), StoreError> {
        self.inner.sync(upload).await
    }

    async fn prepare(&self, upload: &Upload, precondition: Precondition) -> Result<PublishIntent, StoreError> {
        if self.doubt_prepare.load(Ordering::SeqCst) {
            return Err(StoreError::new(StoreErrorKind::Doubtful { good: 0 }, "the disk has lost them"));
        }
        self.inner.prepare(upload, precondition).await
    }

    async fn publish(
        &self,
        upload: &Upload,
        precondition: Precondition,
        intent: &PublishIntent,
    ) -> Result<(), StoreError> {
        if self.deny_publish.load(Ordering::SeqCst) {
            return Err(StoreError::new(StoreErrorKind::Denied, "publishing is denied"));
        }
        self.inner.publish(upload, precondition, intent).await
    }

    async fn discard(&self, upload: &Upload) -> Result<(), StoreError> {
        self.discards.fetch_add(1, Ordering::SeqCst);
        self.inner.discard(upload).await
    }

    async fn give_up(&self, upload: &Upload) -> Result<(), StoreError> {
        self.inner.give_up(upload).await
    }

    async fn discard_pieces(&self, upload: &Upload, pieces: &[Piece]) -> Result<(), StoreError> {
        self.inner.discard_pieces(upload, pieces).await
    }

    async fn write_reply(&self, upload: &Upload, body: &mut BodyStream<'_>) -> Result<u64, Stopped> {
        self.inner.write_reply(upload, body).await
    }

    async fn open(&self, source: Source<'_>) -> Result<Option<Box<dyn Opened>>, StoreError> {
        self.inner.open(source).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.inner.check().await
    }
}
