//! Requests to the object store: each is counted, bounded in time, and named in its error.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use bits_core::{SessionId, Timestamp};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use http::Method;
use object_store::{
    Attribute, Attributes, CopyMode, CopyOptions, GetOptions, GetResult, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, UpdateVersion,
    multipart::{MultipartStore, PartId},
    path::Path,
    signer::Signer,
};

use crate::error::{Failed, Why};

/// What a request may take besides its bytes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes per second at which a store is taken for dead.
const LEAST_RATE: u64 = 128 << 10;
/// Putting many parts together takes long.
const COMPLETION: Duration = Duration::from_secs(600);

/// An object store and what is known of it.
#[derive(Clone)]
pub struct Backend {
    /// Objects.
    pub objects: Arc<dyn ObjectStore>,
    /// Multipart uploads in the same store.
    pub multiparts: Arc<dyn MultipartStore>,
    /// Who signs URLs for server applications, if somebody can.
    pub signer: Option<Arc<dyn Signer>>,
    /// The folder that all objects lie in; may be empty.
    pub prefix: Path,
    /// How it behaves.
    pub traits: Traits,
}

/// What no request tells about a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// A multipart upload is known by an id of its own and takes metadata, so that it can be begun
    /// at the destination of an upload. Not so on Azure.
    pub multipart_at_destination: bool,
    /// The name of the metadata that says whose upload an object is.
    pub session_metadata: &'static str,
    /// Bytes that the name of an object may have, with the prefix.
    pub longest_key: usize,
    /// Bytes that one copy within the store can take.
    pub largest_copy: u64,
}

/// A kind of request, for whoever counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Request {
    /// Writes an object.
    Put,
    /// Reads one, or a part of it.
    Get,
    /// Looks at one.
    Head,
    /// Deletes objects.
    Delete,
    /// Lists names.
    List,
    /// Copies an object within the store.
    Copy,
    /// Begins a multipart upload.
    Create,
    /// Writes a part.
    Part,
    /// Makes an object of parts.
    Complete,
    /// Gives a multipart upload up.
    Abort,
}

impl Request {
    /// The name for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Head => "head",
            Self::Delete => "delete",
            Self::List => "list",
            Self::Copy => "copy",
            Self::Create => "create",
            Self::Part => "part",
            Self::Complete => "complete",
            Self::Abort => "abort",
        }
    }
}

/// Called with every request, before it is sent.
pub(crate) type Observer = Arc<dyn Fn(Request) + Send + Sync>;

/// What stands at a name.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) meta: ObjectMeta,
    session: Option<String>,
}

impl Found {
    /// Whether the object says that it is this session's upload.
    pub(crate) fn is_of(&self, session: SessionId) -> bool {
        self.session.as_deref() == Some(&session.uuid().to_string())
    }

    /// What a request names that is to replace this object and no other.
    pub(crate) fn version(&self) -> UpdateVersion {
        UpdateVersion { e_tag: self.meta.e_tag.clone(), version: self.meta.version.clone() }
    }

    /// Another one for any other content.
    pub(crate) fn tag(&self) -> String {
        let meta = &self.meta;
        meta.e_tag.clone().unwrap_or_else(|| format!("{}-{}", meta.size, meta.last_modified.timestamp_millis()))
    }
}

/// The way to the store; names are without the prefix.
#[derive(Clone)]
pub(crate) struct Requests {
    backend: Backend,
    observer: Observer,
}

impl Requests {
    pub(crate) fn new(backend: Backend, observer: Observer) -> Self {
        Self { backend, observer }
    }

    pub(crate) fn traits(&self) -> Traits {
        self.backend.traits
    }

    /// Whether the store can hold an object of this name.
    pub(crate) fn takes_name(&self, name: &str) -> bool {
        let prefix = self.backend.prefix.as_ref();
        let slash = usize::from(!prefix.is_empty());
        prefix.len() + slash + name.len() <= self.backend.traits.longest_key && self.path(name).is_ok()
    }

    pub(crate) async fn put(
        &self,
        name: &str,
        payload: PutPayload,
        mode: PutMode,
        session: Option<SessionId>,
    ) -> Result<(), Failed> {
        let size = payload.content_length() as u64;
        let options = PutOptions { mode, attributes: self.attributes(session), ..PutOptions::default() };
        let what = || format!("write {size} bytes to {name}");
        let path = self.path(name).map_err(|error| failed(what(), error))?;
        let sent = self.backend.objects.put_opts(&path, payload, options);
        self.bounded(Request::Put, for_bytes(size), what, sent).await.map(drop)
    }

    /// The whole object, which is no larger than a part.
    pub(crate) async fn get(&self, name: &str, size: u64) -> Result<Bytes, Failed> {
        let what = || format!("read {name}");
        let path = self.path(name).map_err(|error| failed(what(), error))?;
        let read = async { self.backend.objects.get_opts(&path, GetOptions::default()).await?.bytes().await };
        self.bounded(Request::Get, for_bytes(size), what, read).await
    }

    /// The head of an answer whose body is read by and by.
    pub(crate) async fn get_opts(&self, name: &str, options: GetOptions) -> Result<GetResult, Failed> {
        let what = || format!("read {name}");
        let path = self.path(name).map_err(|error| failed(what(), error))?;
        self.bounded(Request::Get, PATIENCE, what, self.backend.objects.get_opts(&path, options)).await
    }

    /// What stands at `name`, if anything does.
    pub(crate) async fn head(&self, name: &str) -> Result<Option<Found>, Failed> {
        let what = || format!("look at {name}");
        let path = self.path(name).map_err(|error| failed(what(), error))?;
        let options = GetOptions { head: true, ..GetOptions::default() };
        let asked = self.backend.objects.get_opts(&path, options);
        match self.bounded(Request::Head, PATIENCE, what, asked).await {
            Ok(result) => {
                let session = result.attributes.get(&self.session_metadata());
                let session = session.map(|value| value.as_ref().to_owned());
                Ok(Some(Found { meta: result.meta, session }))
            }
            Err(failed) if failed.is_missing() => Ok(None),
            Err(failed) => Err(failed),
        }
    }

    /// Deletes objects; what is not there is deleted.
    pub(crate) async fn delete(&self, names: &[String]) -> Result<(), Failed> {
        let Some(first) = names.first() else { return Ok(()) };
        let what = || format!("delete {first}{}", if names.len() > 1 { " and others" } else { "" });
        let paths: Result<Vec<_>, _> = names.iter().map(|name| self.path(name)).collect();
        let paths = paths.map_err(|error| failed(what(), error))?;
        let deleted = async {
            let paths = futures_util::stream::iter(paths.into_iter().map(Ok)).boxed();
            let mut results = self.backend.objects.delete_stream(paths);
            let mut outcome = Ok(());
            while let Some(result) = results.next().await {
                match result {
                    Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => outcome = Err(error),
                }
            }
            outcome
        };
        self.bounded(Request::Delete, COMPLETION, what, deleted).await
    }

    /// Names below the folder `name`, without the prefix, and when each was written.
    pub(crate) fn list(&self, name: &str) -> BoxStream<'static, Result<(String, Timestamp), Failed>> {
        let what = format!("list {name}");
        (self.observer)(Request::List);
        let path = match self.path(name) {
            Ok(path) => path,
            Err(error) => return futures_util::stream::once(async { Err(failed(what, error)) }).boxed(),
        };
        let prefix = self.backend.prefix.clone();
        let listed = self.backend.objects.list(Some(&path));
        let named = listed.map_err(move |error| failed(what.clone(), error)).try_filter_map(move |meta| {
            let key = meta.location.as_ref();
            let below = key.strip_prefix(prefix.as_ref()).map(|rest| rest.trim_start_matches('/').to_owned());
            let written_at = Timestamp::from_millis(meta.last_modified.timestamp_millis());
            std::future::ready(Ok(below.map(|name| (name, written_at))))
        });
        named.boxed()
    }

    pub(crate) async fn copy(&self, from: &str, to: &str, size: u64, mode: CopyMode) -> Result<(), Failed> {
        let what = || format!("copy {from} to {to}");
        let paths = self.path(from).and_then(|from| Ok((from, self.path(to)?)));
        let (from_path, to_path) = paths.map_err(|error| failed(what(), error))?;
        let options = CopyOptions { mode, ..CopyOptions::default() };
        let copied = self.backend.objects.copy_opts(&from_path, &to_path, options);
        self.bounded(Request::Copy, COMPLETION + for_bytes(size), what, copied).await
    }

    pub(crate) async fn create_multipart(&self, name: &str, session: SessionId) -> Result<String, Failed> {
        let what = || format!("begin a multipart upload to {name}");
        let path = self.path(name).map_err(|error| failed(what(), error))?;
        let with_metadata = self.backend.traits.multipart_at_destination.then_some(session);
        let options =
            PutMultipartOptions { attributes: self.attributes(with_metadata), ..PutMultipartOptions::default() };
        let created = self.backend.multiparts.create_multipart_opts(&path, options);
        self.bounded(Request::Create, PATIENCE, what, created).await
    }

    /// What the store calls the part's content.
    pub(crate) async fn put_part(
        &self,
        name: &str,
        id: &str,
        number: usize,
        payload: PutPayload,
    ) -> Result<String, Failed> {
        let size = payload.content_length() as u64;
        let what = || format!("write part {number} of {name}");
        let (path, id) = (self.path(name).map_err(|error| failed(what(), error))?, id.to_owned());
        let sent = self.backend.multiparts.put_part(&path, &id, number, payload);
        self.bounded(Request::Part, for_bytes(size), what, sent).await.map(|part| part.content_id)
    }

    pub(crate) async fn complete(&self, name: &str, id: &str, contents: Vec<String>) -> Result<(), Failed> {
        let what = || format!("put the parts of {name} together");
        let (path, id) = (self.path(name).map_err(|error| failed(what(), error))?, id.to_owned());
        let parts = contents.into_iter().map(|content_id| PartId { content_id }).collect();
        let completed = self.backend.multiparts.complete_multipart(&path, &id, parts);
        self.bounded(Request::Complete, COMPLETION, what, completed).await.map(drop)
    }

    /// Done already is done well.
    pub(crate) async fn abort(&self, name: &str, id: &str) -> Result<(), Failed> {
        let what = || format!("give up the multipart upload to {name}");
        let (path, id) = (self.path(name).map_err(|error| failed(what(), error))?, id.to_owned());
        let aborted = self.backend.multiparts.abort_multipart(&path, &id);
        match self.bounded(Request::Abort, PATIENCE, what, aborted).await {
            Err(failed) if failed.is_part_gone() => Ok(()),
            // Asking again changes nothing, and must not keep what can be deleted.
            Err(failed) if failed.is_denied() => {
                let error = bits_core::StoreError::from(failed);
                tracing::warn!(%error, "the object store refuses to give up a multipart upload: its parts stay until a lifecycle rule deletes them");
                Ok(())
            }
            other => other,
        }
    }

    /// A URL that allows one method on one object for so long; none where nobody can sign.
    pub(crate) async fn sign(&self, name: &str, method: Method, lifetime: Duration) -> Result<Option<String>, Failed> {
        let Some(signer) = &self.backend.signer else { return Ok(None) };
        let what = || format!("sign a URL of {name}");
        let path = self.path(name).map_err(|error| failed(what(), error))?;
        let signed = tokio::time::timeout(PATIENCE, signer.signed_url(method, &path, lifetime)).await;
        let signed = signed.map_err(|_| Failed { what: what(), why: Why::Late })?;
        signed.map(|url| Some(url.to_string())).map_err(|error| failed(what(), error))
    }

    /// The name as the store has it.
    pub(crate) fn full_name(&self, name: &str) -> String {
        self.path(name).map_or_else(|_| name.to_owned(), Into::into)
    }

    fn session_metadata(&self) -> Attribute {
        Attribute::Metadata(self.backend.traits.session_metadata.into())
    }

    fn attributes(&self, session: Option<SessionId>) -> Attributes {
        session.map(|id| (self.session_metadata(), id.uuid().to_string())).into_iter().collect()
    }

    fn path(&self, name: &str) -> Result<Path, object_store::Error> {
        let prefix = self.backend.prefix.as_ref();
        let path = if prefix.is_empty() { Path::parse(name) } else { Path::parse(format!("{prefix}/{name}")) };
        Ok(path?)
    }

    async fn bounded<T>(
        &self,
        kind: Request,
        limit: Duration,
        what: impl FnOnce() -> String,
        request: impl Future<Output = Result<T, object_store::Error>>,
    ) -> Result<T, Failed> {
        (self.observer)(kind);
        match tokio::time::timeout(limit, request).await {
            Ok(result) => result.map_err(|error| failed(what(), error)),
            Err(_) => Err(Failed { what: what(), why: Why::Late }),
        }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} below {:?}, {:?}", self.objects, self.prefix.as_ref(), self.traits)
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.backend.fmt(f)
    }
}

fn failed(what: String, error: object_store::Error) -> Failed {
    Failed { what, why: Why::Store(error) }
}

fn for_bytes(size: u64) -> Duration {
    PATIENCE + Duration::from_secs(size / LEAST_RATE)
}
