//! A store on a disk whose process may die, or that may fail, at each call.

use std::sync::Arc;

use async_trait::async_trait;
use bits_core::{
    BodyStream, Destination, Opened, Precondition, PublishIntent, Session, Source, Stopped, StorageKey, StoreError,
    StoreErrorKind, Upload, UploadStore, Written,
};
use bits_store_fs::LocalStore;

use super::fuse::Fuse;

pub(crate) struct Mortal {
    inner: LocalStore,
    fuse: Arc<Fuse>,
}

impl Mortal {
    pub(crate) fn new(inner: LocalStore, fuse: Arc<Fuse>) -> Self {
        Self { inner, fuse }
    }

    async fn call<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.fuse.around(call, told).await
    }
}

fn told(kind: StoreErrorKind) -> StoreError {
    StoreError::new(kind, "the store was told to fail")
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
        self.call(self.inner.inspect(key)).await
    }

    async fn reserve(&self, upload: &Upload) -> Result<(), StoreError> {
        self.call(self.inner.reserve(upload)).await
    }

    async fn available(&self, upload: &Upload) -> Result<u64, StoreError> {
        self.call(self.inner.available(upload)).await
    }

    async fn write(&self, upload: &Upload, body: &mut BodyStream<'_>) -> Written {
        if let Err(kind) = self.fuse.pass().await {
            let (reached, synced, stopped) = (upload.received, upload.synced, Some(Stopped::Store(told(kind))));
            return Written { reached, synced, pieces: Vec::new(), handle: None, stopped };
        }
        let mut written = self.inner.write(upload, body).await;
        if let Err(kind) = self.fuse.pass().await {
            written.stopped.get_or_insert(Stopped::Store(told(kind)));
        }
        written
    }

    async fn sync(&self, upload: &Upload) -> Result<(), StoreError> {
        self.call(self.inner.sync(upload)).await
    }

    async fn prepare(&self, upload: &Upload, precondition: Precondition) -> Result<PublishIntent, StoreError> {
        self.call(self.inner.prepare(upload, precondition)).await
    }

    async fn publish(
        &self,
        upload: &Upload,
        precondition: Precondition,
        intent: &PublishIntent,
    ) -> Result<(), StoreError> {
        self.call(self.inner.publish(upload, precondition, intent)).await
    }

    async fn discard(&self, upload: &Upload) -> Result<(), StoreError> {
        self.call(self.inner.discard(upload)).await
    }

    async fn write_reply(&self, upload: &Upload, body: &mut BodyStream<'_>) -> Result<u64, Stopped> {
        self.inner.write_reply(upload, body).await
    }

    async fn open(&self, source: Source<'_>) -> Result<Option<Box<dyn Opened>>, StoreError> {
        self.call(self.inner.open(source)).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.inner.check().await
    }
}
