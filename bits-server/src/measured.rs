//! Stores and the notifier with a stopwatch: how long they take, and how often they fail.

use std::{
    fmt::Display,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bits_core::{
    BodyError, BodyStream, Census, Commit, Destination, Filter, Found, NewSession, Notification, Opened, Piece,
    Precondition, PublishIntent, Session, SessionId, SessionStore, SessionStoreError, SharedFiles, Source,
    StagedObject, StagedStream, Stopped, StorageKey, StoreError, Tally, Timestamp, Tombstone, Transition, Upload,
    UploadStore, Written,
};
use bits_engine::{Answer, Notice, Notifier, NotifyError};
use bytes::Bytes;
use futures_util::Stream;
use tracing::{Instrument, field};

use crate::{
    metrics::{self, Operation},
    spans,
};

/// What it holds, measured.
pub(crate) struct Measured<T: ?Sized>(pub(crate) Arc<T>);

async fn timed<T, E: Display>(
    operation: Operation,
    is_failure: impl Fn(&E) -> bool,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let (start, span) = (Instant::now(), spans::operation(operation));
    let done = work.instrument(span.clone()).await;
    let failure = done.as_ref().err().filter(|error| is_failure(error));
    if let Some(error) = failure {
        span.record("error", field::display(error));
    }
    metrics::store(operation, start.elapsed(), failure.is_some());
    done
}

/// A user's limit is no failure of the store.
fn row_failed(error: &SessionStoreError) -> bool {
    !matches!(error, SessionStoreError::Limit)
}

async fn rows<T>(
    operation: &'static str,
    work: impl Future<Output = Result<T, SessionStoreError>>,
) -> Result<T, SessionStoreError> {
    timed(Operation { store: "sessions", name: operation }, row_failed, work).await
}

/// What the destination or the upload is the reason for is no failure of the store.
fn bytes_failed(error: &StoreError) -> bool {
    use bits_core::StoreErrorKind::{Exists, IsFolder, NoParent};

    !matches!(error.kind, Exists | IsFolder | NoParent)
}

async fn files<T>(operation: &'static str, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    timed(Operation { store: "uploads", name: operation }, bytes_failed, work).await
}

#[async_trait]
impl SessionStore for Measured<dyn SessionStore> {
    async fn create(&self, new: &NewSession) -> Result<Session, SessionStoreError> {
        rows("create", self.0.create(new)).await
    }

    async fn load(&self, id: SessionId) -> Result<Option<Found>, SessionStoreError> {
        rows("load", self.0.load(id)).await
    }

    async fn commit(&self, from: &Session, transition: &Transition) -> Result<Commit, SessionStoreError> {
        rows("commit", self.0.commit(from, transition)).await
    }

    async fn pieces(&self, id: SessionId, from: u64) -> Result<Vec<Piece>, SessionStoreError> {
        rows("pieces", self.0.pieces(id, from)).await
    }

    async fn replaced_pieces(&self, id: SessionId) -> Result<Vec<Piece>, SessionStoreError> {
        rows("pieces", self.0.replaced_pieces(id)).await
    }

    async fn forget_pieces(&self, id: SessionId, pieces: &[Piece]) -> Result<(), SessionStoreError> {
        rows("pieces", self.0.forget_pieces(id, pieces)).await
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Session>, SessionStoreError> {
        rows("list", self.0.list(filter)).await
    }

    async fn census(&self, least: u64, per_expired: u32) -> Result<Census, SessionStoreError> {
        rows("sweep", self.0.census(least, per_expired)).await
    }

    async fn tally(&self, idle: [Duration; 3]) -> Result<Vec<Tally>, SessionStoreError> {
        rows("list", self.0.tally(idle)).await
    }

    async fn expired(&self, limit: u32) -> Result<Vec<Session>, SessionStoreError> {
        rows("sweep", self.0.expired(limit)).await
    }

    async fn unpublished(
        &self,
        after: Option<(Timestamp, SessionId)>,
        limit: u32,
    ) -> Result<Vec<Session>, SessionStoreError> {
        rows("sweep", self.0.unpublished(after, limit)).await
    }

    async fn claim_job(&self, id: SessionId) -> Result<bool, SessionStoreError> {
        rows("sweep", self.0.claim_job(id)).await
    }

    async fn unclean(
        &self,
        after: Option<(Timestamp, SessionId)>,
        limit: u32,
    ) -> Result<Vec<Tombstone>, SessionStoreError> {
        rows("sweep", self.0.unclean(after, limit)).await
    }

    async fn cleaned(&self, id: SessionId) -> Result<(), SessionStoreError> {
        rows("sweep", self.0.cleaned(id)).await
    }

    async fn purge(&self, limit: u32) -> Result<u64, SessionStoreError> {
        rows("sweep", self.0.purge(limit)).await
    }

    async fn now(&self) -> Result<Timestamp, SessionStoreError> {
        self.0.now().await
    }

    async fn check(&self) -> Result<(), SessionStoreError> {
        rows("check", self.0.check()).await
    }
}

#[async_trait]
impl UploadStore for Measured<dyn UploadStore> {
    fn incarnation(&self) -> &str {
        self.0.incarnation()
    }

    fn pieces_from(&self, session: &Session) -> Option<u64> {
        self.0.pieces_from(session)
    }

    fn takes_writes_at_once(&self) -> bool {
        self.0.takes_writes_at_once()
    }

    async fn inspect(&self, key: &StorageKey) -> Result<Destination, StoreError> {
        files("inspect", self.0.inspect(key)).await
    }

    async fn reserve(&self, upload: &Upload) -> Result<(), StoreError> {
        files("reserve", self.0.reserve(upload)).await
    }

    async fn begin(&self, upload: &Upload) -> Result<Option<String>, StoreError> {
        // Asked before each write, and next to always nothing to do.
        self.0.begin(upload).await
    }

    async fn available(&self, upload: &Upload) -> Result<u64, StoreError> {
        files("available", self.0.available(upload)).await
    }

    async fn write(&self, upload: &Upload, body: &mut BodyStream<'_>) -> Written {
        let start = Instant::now();
        let mut body = Waited { body, waited: Duration::ZERO, since: None };
        let operation = Operation { store: "uploads", name: "write" };
        let span = spans::operation(operation);
        let written = self.0.write(upload, &mut body).instrument(span.clone()).await;
        let failed = matches!(&written.stopped, Some(Stopped::Store(error)) if bytes_failed(error));
        if let Some(stopped) = written.stopped.as_ref().filter(|_| failed) {
            span.record("error", field::display(stopped));
        }
        metrics::store(operation, start.elapsed().saturating_sub(body.waited), failed);
        written
    }

    async fn sync(&self, upload: &Upload) -> Result<(), StoreError> {
        files("sync", self.0.sync(upload)).await
    }

    async fn prepare(&self, upload: &Upload, precondition: Precondition) -> Result<PublishIntent, StoreError> {
        files("prepare", self.0.prepare(upload, precondition)).await
    }

    async fn publish(
        &self,
        upload: &Upload,
        precondition: Precondition,
        intent: &PublishIntent,
    ) -> Result<(), StoreError> {
        files("publish", self.0.publish(upload, precondition, intent)).await
    }

    async fn share(&self, upload: &Upload) -> Result<Option<SharedFiles>, StoreError> {
        files("share", self.0.share(upload)).await
    }

    async fn write_reply(&self, upload: &Upload, body: &mut BodyStream<'_>) -> Result<u64, Stopped> {
        self.0.write_reply(upload, body).await
    }

    async fn take_reply(&self, upload: &Upload) -> Result<u64, StoreError> {
        files("share", self.0.take_reply(upload)).await
    }

    async fn discard(&self, upload: &Upload) -> Result<(), StoreError> {
        files("discard", self.0.discard(upload)).await
    }

    fn staged(&self, folder: &StorageKey) -> StagedStream {
        self.0.staged(folder)
    }

    async fn give_up(&self, upload: &Upload) -> Result<(), StoreError> {
        files("discard", self.0.give_up(upload)).await
    }

    async fn discard_staged(&self, objects: &[StagedObject]) -> Result<(), StoreError> {
        files("discard", self.0.discard_staged(objects)).await
    }

    async fn discard_pieces(&self, upload: &Upload, pieces: &[Piece]) -> Result<(), StoreError> {
        files("discard", self.0.discard_pieces(upload, pieces)).await
    }

    async fn open(&self, source: Source<'_>) -> Result<Option<Box<dyn Opened>>, StoreError> {
        files("open", self.0.open(source)).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        files("check", self.0.check()).await
    }
}

#[async_trait]
impl Notifier for Measured<dyn Notifier> {
    fn target(&self, notification: &Notification, upload: &str) -> Result<String, String> {
        self.0.target(notification, upload)
    }

    async fn send(&self, notice: Notice) -> Result<Answer, NotifyError> {
        let start = Instant::now();
        let span = spans::operation(Operation { store: "application", name: "tell" });
        let answer = self.0.send(notice).instrument(span.clone()).await;
        if let Err(error) = &answer {
            span.record("error", field::display(error));
        }
        metrics::notified(start.elapsed(), &answer);
        answer
    }
}

/// A body, and how long it was waited for.
struct Waited<'a, 'b> {
    body: &'a mut BodyStream<'b>,
    waited: Duration,
    since: Option<Instant>,
}

impl Stream for Waited<'_, '_> {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = Pin::new(&mut *self.body).poll_next(context);
        match (&next, self.since) {
            (Poll::Pending, None) => self.since = Some(Instant::now()),
            (Poll::Ready(_), Some(since)) => {
                self.waited += since.elapsed();
                self.since = None;
            }
            _ => {}
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// A method with a body of the trait's own that is not passed on would be another store's.
    #[test]
    fn every_method_of_the_stores_is_passed_on() {
        let own = include_str!("measured.rs");
        let traits = [
            (include_str!("../../bits-core/src/upload_store.rs"), "pub trait UploadStore"),
            (include_str!("../../bits-core/src/session_store.rs"), "pub trait SessionStore"),
            (include_str!("../../bits-engine/src/notify.rs"), "pub trait Notifier"),
        ];
        for (source, name) in traits {
            let start = source.find(name).expect("the trait is there");
            let body = source[start..].split("\n}").next().expect("it ends");
            let methods: BTreeSet<_> = body.split("fn ").skip(1).filter_map(|rest| rest.split('(').next()).collect();
            assert!(methods.len() > 1, "{name}");
            for method in methods {
                assert!(own.contains(&format!("self.0.{method}(")), "{name}: {method}");
            }
        }
    }
}
