//! A store whose process dies, or that fails, at a call.

use std::{
    future::pending,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bits_core::{
    BodyStream, Destination, Opened, Precondition, PublishIntent, Session, Source, Stopped, StorageKey, StoreError,
    StoreErrorKind, Upload, UploadStore, Written,
};
use bits_store_fs::LocalStore;
use tokio::sync::watch;

/// So many calls from now, counted before and after each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point(pub(crate) usize);

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// The process dies: no call ever ends any more.
    Dies,
    Fails(StoreErrorKind),
}

pub(crate) struct Mortal {
    inner: LocalStore,
    armed: Mutex<Option<(Point, Fate)>>,
    dead: watch::Sender<bool>,
}

impl Mortal {
    pub(crate) fn new(inner: LocalStore) -> Self {
        Self { inner, armed: Mutex::default(), dead: watch::Sender::new(false) }
    }

    pub(crate) fn arm(&self, point: Point, fate: Fate) {
        *self.armed() = Some((point, fate));
    }

    pub(crate) fn is_armed(&self) -> bool {
        self.armed().is_some()
    }

    pub(crate) fn disarm(&self) {
        *self.armed() = None;
    }

    pub(crate) fn die(&self) {
        self.dead.send_replace(true);
    }

    pub(crate) async fn died(&self) {
        let _ = self.dead.subscribe().wait_for(|dead| *dead).await;
    }

    /// One point in the life of the process.
    async fn pass(&self) -> Result<(), StoreError> {
        match self.fate() {
            Some(Fate::Dies) => self.die(),
            Some(Fate::Fails(kind)) => return Err(StoreError::new(kind, "the store was told to fail")),
            None => {}
        }
        if *self.dead.borrow() { pending().await } else { Ok(()) }
    }

    fn fate(&self) -> Option<Fate> {
        let mut armed = self.armed();
        match &mut *armed {
            Some((Point(0), fate)) => {
                let fate = *fate;
                *armed = None;
                Some(fate)
            }
            Some((Point(left), _)) => {
                *left -= 1;
                None
            }
            None => None,
        }
    }

    fn armed(&self) -> MutexGuard<'_, Option<(Point, Fate)>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn passing<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.pass().await?;
        let result = call.await;
        self.pass().await?;
        result
    }
}

#[async_trait]
impl UploadStore for Mortal {
    fn incarnation(&self) -> &str {
        self.inner.incarnation()
    }

    fn pieces_from(&self, session: &Session) -> Option<u64> {
        self.inner.pieces_from(session)
    }

    async fn inspect(&self, key: &StorageKey) -> Result<Destination, StoreError> {
        self.passing(self.inner.inspect(key)).await
    }

    async fn reserve(&self, upload: &Upload) -> Result<(), StoreError> {
        self.passing(self.inner.reserve(upload)).await
    }

    async fn available(&self, upload: &Upload) -> Result<u64, StoreError> {
        self.passing(self.inner.available(upload)).await
    }

    async fn write(&self, upload: &Upload, body: &mut BodyStream<'_>) -> Written {
        if let Err(error) = self.pass().await {
            let (reached, synced, stopped) = (upload.received, upload.synced, Some(Stopped::Store(error)));
            return Written { reached, synced, pieces: Vec::new(), handle: None, stopped };
        }
        let mut written = self.inner.write(upload, body).await;
        if let Err(error) = self.pass().await {
            written.stopped.get_or_insert(Stopped::Store(error));
        }
        written
    }

    async fn sync(&self, upload: &Upload) -> Result<(), StoreError> {
        self.passing(self.inner.sync(upload)).await
    }

    async fn prepare(&self, upload: &Upload, precondition: Precondition) -> Result<PublishIntent, StoreError> {
        self.passing(self.inner.prepare(upload, precondition)).await
    }

    async fn publish(
        &self,
        upload: &Upload,
        precondition: Precondition,
        intent: &PublishIntent,
    ) -> Result<(), StoreError> {
        self.passing(self.inner.publish(upload, precondition, intent)).await
    }

    async fn discard(&self, upload: &Upload) -> Result<(), StoreError> {
        self.passing(self.inner.discard(upload)).await
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
