//! A process on an object store that may die at each of its requests, or find it to fail; what it sent last
//! may come late.

use std::sync::Arc;

use async_trait::async_trait;
use bits_core::StoreErrorKind;
use futures_util::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartId, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    memory::InMemory,
    multipart::{MultipartStore, PartId},
    path::Path,
};

use super::fuse::Fuse;

#[derive(Debug)]
pub(crate) struct Mortal {
    inner: Arc<InMemory>,
    fuse: Arc<Fuse>,
}

impl Mortal {
    pub(crate) fn new(inner: Arc<InMemory>, fuse: Arc<Fuse>) -> Self {
        Self { inner, fuse }
    }

    async fn request<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        self.fuse.around(request, told).await
    }
}

fn told(_: StoreErrorKind) -> Error {
    Error::Generic { store: "Mortal", source: "the connection broke".into() }
}

impl std::fmt::Display for Mortal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mortal")
    }
}

#[async_trait]
impl ObjectStore for Mortal {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.request(self.inner.put_opts(path, payload, options)).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.request(self.inner.get_opts(path, options)).await
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
        self.request(self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.request(self.inner.copy_opts(from, to, options)).await
    }
}

#[async_trait]
impl MultipartStore for Mortal {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        self.request(self.inner.create_multipart(path)).await
    }

    async fn create_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<MultipartId> {
        self.request(self.inner.create_multipart_opts(path, options)).await
    }

    async fn put_part(&self, path: &Path, id: &MultipartId, number: usize, payload: PutPayload) -> Result<PartId> {
        self.request(self.inner.put_part(path, id, number, payload)).await
    }

    async fn complete_multipart(&self, path: &Path, id: &MultipartId, parts: Vec<PartId>) -> Result<PutResult> {
        self.request(self.inner.complete_multipart(path, id, parts)).await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        self.request(self.inner.abort_multipart(path, id)).await
    }
}
