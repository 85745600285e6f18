//! What the store does when the object store loses things, forgets conditions, or does what it was
//! asked and loses the answer; and how many requests it takes.
#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

mod common;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bits_core::{
    BodyError, Piece, Precondition, PublishIntent, SessionId, Stopped, StorageKey, StoreErrorKind, Upload, UploadStore,
    Written,
};
use bits_store_object::{Backend, ObjectUploads, Options, Request, Traits};
use bytes::Bytes;
use common::{AT_DESTINATION, STAGED};
use futures_util::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartId, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    memory::InMemory,
    multipart::{MultipartStore, PartId},
    path::Path,
};

const PART: u64 = 1000;
const CAREFUL: Precondition =
    Precondition { overwrite: false, create_folders: true, file_mode: 0o640, folder_mode: 0o2750 };
const REPLACE: Precondition = Precondition { overwrite: true, ..CAREFUL };

/// An object store in memory with faults.
#[derive(Debug, Default)]
struct Faulty {
    inner: InMemory,
    faults: Mutex<Faults>,
}

#[derive(Debug, Default)]
struct Faults {
    /// Conditions are ignored without a word.
    ignores_conditions: bool,
    /// So many requests of this kind do what they should and then fail.
    lost_answers: BTreeMap<&'static str, u32>,
    /// So many requests of this kind fail before they do anything.
    failures: BTreeMap<&'static str, u32>,
    /// So many objects are deleted by somebody else as soon as they are written.
    swept: u32,
}

impl Faulty {
    fn take(&self, which: impl Fn(&mut Faults) -> &mut BTreeMap<&'static str, u32>, kind: &'static str) -> bool {
        let mut faults = self.faults.lock().unwrap();
        let left = which(&mut faults).entry(kind).or_default();
        let is_due = *left > 0;
        *left = left.saturating_sub(1);
        is_due
    }

    async fn with_faults<T>(&self, kind: &'static str, request: impl Future<Output = Result<T>>) -> Result<T> {
        let broken = || Error::Generic { store: "Faulty", source: "the connection broke".into() };
        if self.take(|faults| &mut faults.failures, kind) {
            return Err(broken());
        }
        let result = request.await;
        if self.take(|faults| &mut faults.lost_answers, kind) { Err(broken()) } else { result }
    }
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, path: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        if self.faults.lock().unwrap().ignores_conditions {
            options.mode = PutMode::Overwrite;
        }
        let result = self.with_faults("put", self.inner.put_opts(path, payload, options)).await;
        let is_swept = {
            let mut faults = self.faults.lock().unwrap();
            let is_swept = faults.swept > 0;
            faults.swept = faults.swept.saturating_sub(1);
            is_swept
        };
        if is_swept {
            self.inner.delete(path).await?;
        }
        result
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn object_store::MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.with_faults(if options.head { "head" } else { "get" }, self.inner.get_opts(path, options)).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, mut options: CopyOptions) -> Result<()> {
        if self.faults.lock().unwrap().ignores_conditions {
            options.mode = CopyMode::Overwrite;
        }
        self.with_faults("copy", self.inner.copy_opts(from, to, options)).await
    }
}

#[async_trait]
impl MultipartStore for Faulty {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        self.inner.create_multipart(path).await
    }

    async fn create_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<MultipartId> {
        self.with_faults("create", self.inner.create_multipart_opts(path, options)).await
    }

    async fn put_part(&self, path: &Path, id: &MultipartId, number: usize, payload: PutPayload) -> Result<PartId> {
        self.with_faults("part", self.inner.put_part(path, id, number, payload)).await
    }

    async fn complete_multipart(&self, path: &Path, id: &MultipartId, parts: Vec<PartId>) -> Result<PutResult> {
        self.with_faults("complete", self.inner.complete_multipart(path, id, parts)).await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        self.inner.abort_multipart(path, id).await
    }
}

/// A store on it, and the requests that it made.
struct Bench {
    faulty: Arc<Faulty>,
    store: ObjectUploads,
    requests: Arc<Mutex<BTreeMap<Request, u32>>>,
}

impl Bench {
    async fn new(traits: Traits) -> Self {
        Self::with(traits, Faults::default()).await
    }

    async fn with(traits: Traits, faults: Faults) -> Self {
        let faulty = Arc::new(Faulty { inner: InMemory::new(), faults: Mutex::new(faults) });
        let requests = Arc::new(Mutex::new(BTreeMap::new()));
        let counted = requests.clone();
        let count = move |request| *counted.lock().unwrap().entry(request).or_default() += 1;
        let options = Options { smallest_part: PART, on_request: Arc::new(count), ..Options::default() };
        let backend = Backend {
            objects: faulty.clone(),
            multiparts: faulty.clone(),
            signer: None,
            prefix: Path::default(),
            traits,
        };
        let store = ObjectUploads::open(backend, options).await.unwrap();
        requests.lock().unwrap().clear();
        Self { faulty, store, requests }
    }

    fn upload(&self, total: u64) -> Upload {
        use std::sync::atomic::{AtomicU64, Ordering};
        static COUNTER: AtomicU64 = AtomicU64::new(1);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        Upload {
            session: SessionId::new(uuid::Uuid::from_u64_pair(1, number)),
            epoch: 0,
            folder: StorageKey::parse("in").unwrap(),
            key: StorageKey::parse(&format!("in/file-{number}")).unwrap(),
            total,
            received: 0,
            synced: 0,
            handle: None,
            pieces: Vec::new(),
            direct: true,
        }
    }

    async fn write(&self, upload: &Upload, data: &[u8]) -> Written {
        let body: Vec<Result<Bytes, BodyError>> =
            data.chunks(300).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        self.store.write(upload, &mut stream::iter(body)).await
    }

    async fn write_all(&self, upload: &Upload, data: &[u8], step: usize) -> Upload {
        let mut upload = upload.clone();
        for chunk in data.chunks(step) {
            let written = self.write(&upload, chunk).await;
            assert!(written.stopped.is_none(), "{written:?}");
            let after = committed(&upload, &written);
            let replaced: Vec<Piece> =
                upload.pieces.iter().filter(|old| !after.pieces.contains(old)).cloned().collect();
            self.store.discard_pieces(&after, &replaced).await.unwrap();
            upload = after;
        }
        upload
    }

    async fn publish(&self, upload: &Upload, precondition: Precondition) -> Result<(), bits_core::StoreError> {
        let intent = self.store.prepare(upload, precondition).await?;
        self.store.publish(&intended(upload), precondition, &intent).await
    }

    async fn read(&self, upload: &Upload) -> Option<Vec<u8>> {
        match self.faulty.inner.get(&Path::parse(upload.key.as_str()).unwrap()).await {
            Ok(result) => Some(result.bytes().await.unwrap().to_vec()),
            Err(_) => None,
        }
    }

    async fn staged(&self) -> Vec<String> {
        let listed: Vec<ObjectMeta> = self.faulty.inner.list(None).try_collect().await.unwrap();
        let names = listed.into_iter().map(|meta| meta.location.to_string());
        names.filter(|name| name.contains(StorageKey::STAGING)).collect()
    }

    fn lose_answers(&self, kind: &'static str, count: u32) {
        self.faulty.faults.lock().unwrap().lost_answers.insert(kind, count);
    }

    fn fail(&self, kind: &'static str, count: u32) {
        self.faulty.faults.lock().unwrap().failures.insert(kind, count);
    }

    fn requests(&self) -> Vec<(&'static str, u32)> {
        let taken = std::mem::take(&mut *self.requests.lock().unwrap());
        taken.into_iter().map(|(request, count)| (request.as_str(), count)).collect()
    }
}

/// The upload as its row says after a commit of `written`; all pieces are told.
fn committed(upload: &Upload, written: &Written) -> Upload {
    let mut pieces = upload.pieces.clone();
    for new in &written.pieces {
        pieces.retain(|old: &Piece| old.start < new.start || old.end() > new.end());
        pieces.push(new.clone());
    }
    let handle = written.handle.clone().or(upload.handle.clone());
    Upload { received: written.reached, synced: written.synced, pieces, handle, ..upload.clone() }
}

/// The upload once its intent is committed.
fn intended(upload: &Upload) -> Upload {
    Upload { epoch: upload.epoch + 1, synced: upload.received, ..upload.clone() }
}

fn data(len: u64) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
}

fn kind(result: Result<(), bits_core::StoreError>) -> StoreErrorKind {
    result.unwrap_err().kind
}

/// What the design promises of costs.
#[tokio::test]
async fn an_upload_of_one_fragment_is_one_put() {
    let bench = Bench::new(AT_DESTINATION).await;
    for total in [1, 5, PART] {
        let upload = bench.write_all(&bench.upload(total), &data(total), total as usize).await;
        assert_eq!(bench.store.available(&upload).await.unwrap(), total);
        bench.publish(&upload, CAREFUL).await.unwrap();
        assert_eq!(bench.requests(), [("put", 1)], "{total} bytes");
        assert_eq!(bench.read(&upload).await.unwrap(), data(total));
    }
    bench.publish(&bench.upload(0), CAREFUL).await.unwrap();
    assert_eq!(bench.requests(), [("put", 1)], "no bytes");
    let upload = bench.write_all(&bench.upload(10), &data(10), 10).await;
    bench.publish(&upload, REPLACE).await.unwrap();
    assert_eq!(bench.requests(), [("put", 1), ("head", 1)], "overwriting");
}

/// Whoever was frozen amid publishing, or whose request hung in the network, comes too late.
#[tokio::test]
async fn a_late_overwriting_replaces_nothing_newer() {
    for ignores_conditions in [false, true] {
        for stands in [false, true] {
            let faults = Faults { ignores_conditions, ..Faults::default() };
            let bench = Bench::with(AT_DESTINATION, faults).await;
            let upload = bench.write_all(&bench.upload(700), &data(700), 700).await;
            let path = Path::parse(upload.key.as_str()).unwrap();
            if stands {
                bench.faulty.inner.put(&path, "old".into()).await.unwrap();
            }
            let intent = bench.store.prepare(&upload, REPLACE).await.unwrap();
            bench.faulty.inner.put(&path, "newer".into()).await.unwrap();
            let late = bench.store.publish(&intended(&upload), REPLACE, &intent).await;
            if ignores_conditions {
                late.unwrap();
            } else {
                assert_eq!(kind(late), StoreErrorKind::Changed);
                assert_eq!(bench.read(&upload).await.unwrap(), b"newer");
                // What is published anew replaces it.
                bench.publish(&upload, REPLACE).await.unwrap();
            }
            assert_eq!(bench.read(&upload).await.unwrap(), data(700));
            assert_eq!(bench.staged().await, [""; 0]);
        }
    }
}

/// What it was to replace is gone: there is nothing that it would be too late for.
#[tokio::test]
async fn an_overwriting_of_what_is_gone_is_prepared_anew() {
    let bench = Bench::new(AT_DESTINATION).await;
    let upload = bench.write_all(&bench.upload(700), &data(700), 700).await;
    let path = Path::parse(upload.key.as_str()).unwrap();
    bench.faulty.inner.put(&path, "old".into()).await.unwrap();
    let intent = bench.store.prepare(&upload, REPLACE).await.unwrap();
    bench.faulty.inner.delete(&path).await.unwrap();
    assert_eq!(kind(bench.store.publish(&intended(&upload), REPLACE, &intent).await), StoreErrorKind::Changed);
    bench.publish(&upload, REPLACE).await.unwrap();
    assert_eq!(bench.read(&upload).await.unwrap(), data(700));
}

/// Of what is begun before its parts, as of what is begun for them, there is one.
#[tokio::test]
async fn a_multipart_upload_is_begun_once() {
    let bench = Bench::new(AT_DESTINATION).await;
    assert_eq!(bench.store.begin(&bench.upload(PART)).await.unwrap(), None, "it is one part");
    let fresh = bench.upload(3 * PART);
    let handle = bench.store.begin(&fresh).await.unwrap();
    assert!(handle.is_some());
    assert_eq!(bench.requests(), [("create", 1)]);
    let begun = Upload { handle, ..fresh };
    assert_eq!(bench.store.begin(&begun).await.unwrap(), None);
    let held = bench.write_all(&begun, &data(3 * PART)[..1600], 800).await;
    assert_eq!((held.handle.clone(), bench.store.begin(&held).await.unwrap()), (begun.handle.clone(), None));
    let requests = bench.requests();
    assert!(requests.iter().all(|(kind, _)| *kind != "create"), "{requests:?}");
    // Who was sent back may still be writing to the older one; so may who thought that nothing is
    // published at once.
    for changed in [Upload { epoch: 1, ..begun.clone() }, Upload { direct: false, ..begun }] {
        assert!(bench.store.begin(&changed).await.unwrap().is_some_and(|handle| Some(handle) != changed.handle));
    }
}

#[tokio::test]
async fn fragments_neither_look_nor_list() {
    let bench = Bench::new(AT_DESTINATION).await;
    let total = 3 * PART + 500;
    let upload = bench.write_all(&bench.upload(total), &data(total), 250).await;
    let expected = [("put", 10), ("get", 10), ("delete", 4), ("create", 1), ("part", 4)];
    assert_eq!(bench.requests(), expected, "three tails for each part, and one for the last");
    bench.publish(&upload, CAREFUL).await.unwrap();
    assert_eq!(bench.requests(), [("head", 2), ("complete", 1)]);
    let upload = bench.write_all(&bench.upload(total), &data(total), total as usize).await;
    bench.publish(&upload, CAREFUL).await.unwrap();
    assert_eq!(bench.requests(), [("head", 2), ("create", 1), ("part", 4), ("complete", 1)], "in one fragment");
}

#[tokio::test]
async fn a_store_without_conditions_is_looked_at_first() {
    for traits in [AT_DESTINATION, STAGED] {
        let faults = Faults { ignores_conditions: true, ..Faults::default() };
        let bench = Bench::with(traits, faults).await;
        assert!(!bench.store.keeps_conditions());
        for total in [0, 7, 3 * PART] {
            let upload = bench.write_all(&bench.upload(total), &data(total), 800).await;
            let late = bench.store.prepare(&upload, CAREFUL).await.unwrap();
            let path = Path::parse(upload.key.as_str()).unwrap();
            bench.faulty.inner.put(&path, "an outside writer's".into()).await.unwrap();
            assert_eq!(kind(bench.store.publish(&intended(&upload), CAREFUL, &late).await), StoreErrorKind::Exists);
            assert_eq!(bench.read(&upload).await.unwrap(), b"an outside writer's");
            assert_eq!(kind(bench.publish(&upload, CAREFUL).await), StoreErrorKind::Exists);
            bench.faulty.inner.delete(&path).await.unwrap();
            bench.publish(&upload, CAREFUL).await.unwrap();
            assert_eq!(bench.read(&upload).await.unwrap(), data(total), "{total}");
            assert_eq!(bench.staged().await, [""; 0]);
        }
    }
}

/// The probe's objects belong to no session: who cleans up may delete them.
#[tokio::test]
async fn a_sweep_amid_the_probe_is_no_judgement_of_the_store() {
    for swept in 1..=4 {
        let bench = Bench::with(AT_DESTINATION, Faults { swept, ..Faults::default() }).await;
        assert!(bench.store.keeps_conditions(), "{swept}");
        assert_eq!(bench.staged().await, Vec::<String>::new(), "{swept}");
    }
}

/// An error proves nothing: what was done is found.
#[tokio::test]
async fn success_whose_answer_is_lost_is_success() {
    for (traits, request) in
        [(AT_DESTINATION, "put"), (AT_DESTINATION, "complete"), (STAGED, "complete"), (STAGED, "copy")]
    {
        for precondition in [CAREFUL, REPLACE] {
            let bench = Bench::new(traits).await;
            let total = if request == "put" { 700 } else { 3 * PART };
            let upload = bench.write_all(&bench.upload(total), &data(total), total as usize).await;
            bench.lose_answers(request, 1);
            bench.publish(&upload, precondition).await.unwrap();
            assert_eq!(bench.read(&upload).await.unwrap(), data(total), "{request}");
            assert_eq!(bench.staged().await, [""; 0], "{request}");
        }
    }
}

#[tokio::test]
async fn success_whose_answer_and_proof_are_lost_is_found_by_the_next_try() {
    for (traits, request) in
        [(AT_DESTINATION, "put"), (AT_DESTINATION, "complete"), (STAGED, "complete"), (STAGED, "copy")]
    {
        let bench = Bench::new(traits).await;
        let total = if request == "put" { 700 } else { 3 * PART };
        let upload = bench.write_all(&bench.upload(total), &data(total), total as usize).await;
        let intent = bench.store.prepare(&upload, CAREFUL).await.unwrap();
        bench.lose_answers(request, 1);
        // The looks before the request are answered.
        let looks = match (request, traits == STAGED) {
            ("put", _) => 0,
            ("copy", _) | ("complete", true) => 1,
            _ => 1,
        };
        let before = bench.requests();
        let mut tries = 0;
        loop {
            if tries == 0 {
                // Everything after the lost answer fails, until the next try.
                bench.fail("head", if looks == 0 { 1 } else { 0 });
            }
            match bench.store.publish(&intended(&upload), CAREFUL, &intent).await {
                Ok(()) => break,
                Err(error) => assert_eq!(error.kind, StoreErrorKind::Unavailable, "{request}: {error:?}"),
            }
            tries += 1;
            assert!(tries < 3, "{request} after {before:?}");
        }
        assert_eq!(bench.read(&upload).await.unwrap(), data(total), "{request}");
        assert_eq!(bench.staged().await, [""; 0], "{request}");
    }
}

/// A request that was never carried out keeps everything for the next try.
#[tokio::test]
async fn failures_keep_what_is_there() {
    for (traits, request) in
        [(AT_DESTINATION, "put"), (AT_DESTINATION, "complete"), (STAGED, "complete"), (STAGED, "copy")]
    {
        let bench = Bench::new(traits).await;
        let total = if request == "put" { 700 } else { 3 * PART };
        let upload = bench.write_all(&bench.upload(total), &data(total), total as usize).await;
        let intent = bench.store.prepare(&upload, CAREFUL).await.unwrap();
        bench.fail(request, 1);
        let error = bench.store.publish(&intended(&upload), CAREFUL, &intent).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Unavailable, "{request}");
        assert_eq!(bench.read(&upload).await, None);
        bench.store.publish(&intended(&upload), CAREFUL, &intent).await.unwrap();
        assert_eq!(bench.read(&upload).await.unwrap(), data(total));
    }
}

/// A fragment keeps what the store took, and says so.
#[tokio::test]
async fn a_write_that_fails_keeps_what_was_stored() {
    let bench = Bench::new(AT_DESTINATION).await;
    let total = 3 * PART;
    for request in ["create", "part", "put"] {
        let begun = bench.write_all(&bench.upload(total), &data(total)[..PART as usize + 10], 505).await;
        bench.fail(request, 1);
        let rest = &data(total)[begun.received as usize..];
        let written = bench.write(&begun, &rest[..PART as usize + 100]).await;
        let failed =
            matches!(&written.stopped, Some(Stopped::Store(error)) if error.kind == StoreErrorKind::Unavailable);
        assert_eq!(failed, request != "create", "{request}: {written:?}");
        let held = committed(&begun, &written);
        let whole = bench.write_all(&held, &data(total)[held.received as usize..], 333).await;
        bench.faulty.faults.lock().unwrap().failures.clear();
        bench.publish(&whole, CAREFUL).await.unwrap();
        assert_eq!(bench.read(&whole).await.unwrap(), data(total), "{request}");
    }
}

/// Bytes in memory are gone with their process; the session is sent back, not lost.
#[tokio::test]
async fn what_waits_in_memory_dies_with_the_process() {
    let bench = Bench::new(AT_DESTINATION).await;
    let held = bench.write_all(&bench.upload(900), &data(900)[..300], 300).await;
    let whole = bench.write_all(&held, &data(900)[300..], 600).await;
    assert_eq!((whole.received, whole.synced), (900, 300), "the end is in memory only");
    let backend = Backend {
        objects: bench.faulty.clone(),
        multiparts: bench.faulty.clone(),
        signer: None,
        prefix: Path::default(),
        traits: AT_DESTINATION,
    };
    let options = Options { smallest_part: PART, ..Options::default() };
    let after = ObjectUploads::open(backend, options).await.unwrap();
    assert_ne!(after.incarnation(), bench.store.incarnation());
    assert_eq!(after.available(&whole).await.unwrap(), 300);
    assert_eq!(kind(after.sync(&whole).await), StoreErrorKind::Doubtful { good: 300 });
    // The intent was committed before the process died.
    let intent = PublishIntent("unknown".to_owned());
    let result = after.publish(&intended(&whole), CAREFUL, &intent).await;
    assert_eq!(kind(result), StoreErrorKind::Doubtful { good: 300 });
    // The process was only slow: its bytes still count.
    bench.store.sync(&whole).await.unwrap();
    after.publish(&intended(&whole), CAREFUL, &intent).await.unwrap();
    assert_eq!(bench.read(&whole).await.unwrap(), data(900));
}

/// An upload that its destination refused is in the store afterwards, as its row says.
#[tokio::test]
async fn a_refused_upload_is_durable() {
    let bench = Bench::new(AT_DESTINATION).await;
    let upload = bench.write_all(&bench.upload(600), &data(600), 600).await;
    let path = Path::parse(upload.key.as_str()).unwrap();
    bench.faulty.inner.put(&path, "first".into()).await.unwrap();
    assert_eq!(kind(bench.publish(&upload, CAREFUL).await), StoreErrorKind::Exists);
    assert_eq!(bench.staged().await.len(), 1);
    bench.store.discard(&upload).await.unwrap();
    assert_eq!(bench.staged().await, [""; 0]);
}

#[tokio::test]
async fn what_the_store_lost_is_sent_again() {
    let bench = Bench::new(AT_DESTINATION).await;
    // A tail.
    let held = bench.write_all(&bench.upload(3 * PART), &data(3 * PART)[..1600], 200).await;
    let lost = held.pieces.iter().find(|piece| piece.start == 1200).unwrap();
    let name = format!("in/{}/{}/{}", StorageKey::STAGING, held.session.uuid(), lost.id);
    bench.faulty.inner.delete(&Path::parse(name).unwrap()).await.unwrap();
    let written = bench.write(&held, &data(3 * PART)[1600..]).await;
    let doubts = |written: &Written, good| matches!(&written.stopped, Some(Stopped::Store(error)) if error.kind == StoreErrorKind::Doubtful { good });
    assert!(doubts(&written, 1200), "{written:?}");
    // The multipart upload.
    let held = bench.write_all(&bench.upload(3 * PART), &data(3 * PART)[..1600], 800).await;
    let id = held.handle.clone().unwrap().rsplit(' ').next().unwrap().to_owned();
    bench.faulty.inner.abort_multipart(&Path::default(), &id).await.unwrap();
    let written = bench.write(&held, &data(3 * PART)[1600..]).await;
    assert!(doubts(&written, 0), "{written:?}");
    let again = Upload { received: 0, synced: 0, pieces: Vec::new(), epoch: 1, ..held };
    let whole = bench.write_all(&again, &data(3 * PART), 700).await;
    bench.publish(&whole, CAREFUL).await.unwrap();
    assert_eq!(bench.read(&whole).await.unwrap(), data(3 * PART));
}

#[tokio::test]
async fn what_was_given_up_is_published_no_more() {
    let bench = Bench::new(AT_DESTINATION).await;
    let upload = bench.write_all(&bench.upload(3 * PART), &data(3 * PART), PART as usize).await;
    for _ in 0..2 {
        bench.store.give_up(&upload).await.unwrap();
    }
    assert_eq!(kind(bench.publish(&upload, CAREFUL).await), StoreErrorKind::Doubtful { good: 0 });
    assert_eq!(bench.read(&upload).await, None);
}

/// As when another server has gone on, and this one's row is older than the pieces that it read.
#[tokio::test]
async fn pieces_that_are_newer_than_the_row_are_not_put_together() {
    let bench = Bench::new(AT_DESTINATION).await;
    let fresh = bench.upload(3 * PART);
    let older = bench.write_all(&fresh, &data(400), 400).await;
    let newer = bench.write_all(&fresh, &data(700), 700).await;
    let mixed = Upload { pieces: newer.pieces, ..older };
    let written = bench.write(&mixed, &data(PART)[400..]).await;
    let Some(Stopped::Store(error)) = written.stopped else { panic!("it was written") };
    assert_eq!((error.kind, written.reached), (StoreErrorKind::Doubtful { good: 0 }, 400));
}

#[tokio::test]
async fn tails_are_merged_when_they_are_many() {
    let bench = Bench::new(AT_DESTINATION).await;
    let mut held = bench.upload(PART);
    for at in 0..PART - 1 {
        held = committed(&held, &bench.write(&held, &data(PART)[at as usize..=at as usize]).await);
        assert!(held.pieces.len() <= 75, "{} tails after {at} fragments", held.pieces.len());
    }
    let gets = bench.requests().into_iter().find(|(kind, _)| *kind == "get").unwrap().1;
    assert!(gets < 4 * PART as u32, "{gets} tails were read back");
    let whole = bench.write_all(&held, &data(PART)[PART as usize - 1..], 1).await;
    bench.publish(&whole, CAREFUL).await.unwrap();
    assert_eq!(bench.read(&whole).await.unwrap(), data(PART));
}

#[tokio::test]
async fn what_is_staged_is_listed_with_its_epoch() {
    let bench = Bench::new(AT_DESTINATION).await;
    let upload = Upload { epoch: 5, ..bench.upload(3 * PART) };
    let held = bench.write_all(&upload, &data(PART - 1), 250).await;
    let listed: Vec<_> = bench.store.staged(&held.folder).try_collect().await.unwrap();
    assert_eq!(listed.len(), 4);
    for object in &listed {
        assert_eq!((object.session, object.epoch), (held.session, 5));
        assert!(held.pieces.iter().any(|piece| piece.id == object.id), "{object:?}");
    }
    bench.store.discard_staged(&listed).await.unwrap();
    bench.store.discard_staged(&listed).await.unwrap();
    assert_eq!(bench.store.staged(&held.folder).count().await, 0);
    assert_eq!(bench.store.staged(&StorageKey::parse("elsewhere").unwrap()).count().await, 0);
}

/// One may come after its session is over, from a server that was frozen or an application that took its
/// time. It belongs to no epoch: while its session lives, it stays.
#[tokio::test]
async fn replies_are_listed_too() {
    let bench = Bench::new(AT_DESTINATION).await;
    let upload = bench.upload(PART);
    let folder = format!("in/BITS-Sessions/{}", upload.session.uuid());
    for name in ["reply", "response"] {
        bench.faulty.inner.put(&Path::from(format!("{folder}/{name}")), "a reply".into()).await.unwrap();
        let listed: Vec<_> = bench.store.staged(&upload.folder).try_collect().await.unwrap();
        assert_eq!((listed.len(), listed[0].session, listed[0].epoch), (1, upload.session, u64::MAX), "{name}");
        bench.store.discard_staged(&listed).await.unwrap();
        assert_eq!(bench.staged().await, [""; 0], "{name}");
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused_at_once() {
    for (traits, direct, total, fits) in [
        (AT_DESTINATION, true, 9_000 * (64 << 20), true),
        (AT_DESTINATION, true, 9_000 * (64 << 20) + 1, false),
        (Traits { largest_copy: 5 << 30, ..AT_DESTINATION }, true, (5 << 30) + 1, true),
        (Traits { largest_copy: 5 << 30, ..AT_DESTINATION }, false, (5 << 30) + 1, false),
        (Traits { largest_copy: 5 << 30, ..STAGED }, true, 5 << 30, true),
        (Traits { largest_copy: 5 << 30, ..STAGED }, true, (5 << 30) + 1, false),
    ] {
        let bench = Bench::new(traits).await;
        let upload = Upload { direct, ..bench.upload(total) };
        let reserved = bench.store.reserve(&upload).await.map_err(|error| error.kind);
        assert_eq!(reserved, if fits { Ok(()) } else { Err(StoreErrorKind::TooLarge) }, "{total} {traits:?}");
    }
}
