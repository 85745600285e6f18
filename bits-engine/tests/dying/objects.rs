//! A process on an object store that may die at each of its requests, or find it to fail; what it sent last
//! may come late.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bits_core::StoreErrorKind;
use futures_util::{
    FutureExt, StreamExt, TryStreamExt,
    future::{BoxFuture, join_all},
    stream,
    stream::BoxStream,
};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartId, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    memory::InMemory,
    multipart::{MultipartStore, PartId},
    path::Path,
};

use super::fuse::Fuse;

/// Requests of dead processes that are on their way.
#[derive(Clone, Default)]
pub(crate) struct Late(Arc<Mutex<Vec<BoxFuture<'static, ()>>>>);

impl Late {
    /// They arrive.
    pub(crate) async fn arrive(&self) {
        let late = std::mem::take(&mut *self.0.lock().unwrap());
        join_all(late).await;
    }
}

#[derive(Debug)]
pub(crate) struct Mortal {
    inner: Arc<InMemory>,
    fuse: Arc<Fuse>,
    late: Late,
}

impl Mortal {
    pub(crate) fn new(inner: Arc<InMemory>, fuse: Arc<Fuse>, late: Late) -> Self {
        Self { inner, fuse, late }
    }

    async fn read<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        self.fuse.around(request, told).await
    }

    /// Changes something: this may come late.
    async fn change<T: 'static, R>(&self, request: impl FnOnce(Arc<InMemory>) -> R) -> Result<T>
    where
        R: Future<Output = Result<T>> + Send + 'static,
    {
        let request = request(self.inner.clone());
        if self.fuse.dies_late() {
            self.late.0.lock().unwrap().push(request.map(drop).boxed());
            self.fuse.die();
            let _ = self.fuse.pass().await;
            return Err(told(StoreErrorKind::Unavailable));
        }
        self.fuse.around(request, told).await
    }
}

fn told(_: StoreErrorKind) -> Error {
    Error::Generic { store: "Mortal", source: "the connection broke".into() }
}

impl std::fmt::Debug for Late {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Late")
    }
}

impl std::fmt::Display for Mortal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mortal")
    }
}

#[async_trait]
impl ObjectStore for Mortal {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let path = path.clone();
        self.change(|inner| async move { inner.put_opts(&path, payload, options).await }).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.read(self.inner.get_opts(path, options)).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (inner, fuse) = (self.inner.clone(), self.fuse.clone());
        let deleted = async move {
            let paths: Vec<Path> = paths.try_collect().await?;
            let delete = async {
                for path in &paths {
                    inner.delete(path).await?;
                }
                Ok(())
            };
            fuse.around(delete, told).await?;
            Ok::<_, Error>(stream::iter(paths).map(Ok))
        };
        stream::once(deleted).try_flatten().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.read(self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (from, to) = (from.clone(), to.clone());
        self.change(|inner| async move { inner.copy_opts(&from, &to, options).await }).await
    }
}

#[async_trait]
impl MultipartStore for Mortal {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        let path = path.clone();
        self.change(|inner| async move { inner.create_multipart(&path).await }).await
    }

    async fn create_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<MultipartId> {
        let path = path.clone();
        self.change(|inner| async move { inner.create_multipart_opts(&path, options).await }).await
    }

    async fn put_part(&self, path: &Path, id: &MultipartId, number: usize, payload: PutPayload) -> Result<PartId> {
        let (path, id) = (path.clone(), id.clone());
        self.change(|inner| async move { inner.put_part(&path, &id, number, payload).await }).await
    }

    async fn complete_multipart(&self, path: &Path, id: &MultipartId, parts: Vec<PartId>) -> Result<PutResult> {
        let (path, id) = (path.clone(), id.clone());
        self.change(|inner| async move { inner.complete_multipart(&path, &id, parts).await }).await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        let (path, id) = (path.clone(), id.clone());
        self.change(|inner| async move { inner.abort_multipart(&path, &id).await }).await
    }
}
