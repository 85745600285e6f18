//! The body of a Fragment, read from the source piece by piece while it is sent.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bits_core::ContentRange;
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use tokio::sync::watch;

use crate::{Error, Fingerprint, Source};

const CHUNK: u64 = 256 * 1024;

/// What a body shares with who sends it.
#[derive(Debug)]
pub(crate) struct Gauge {
    sent: watch::Sender<u64>,
    stopped: AtomicBool,
    fault: Mutex<Option<Error>>,
}

impl Gauge {
    fn new() -> Self {
        Self { sent: watch::Sender::new(0), stopped: AtomicBool::new(false), fault: Mutex::new(None) }
    }

    /// Follows the count of bytes given to the connection.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.sent.subscribe()
    }

    /// Why the source could not go on, where that ended the body.
    pub(crate) fn take_fault(&self) -> Option<Error> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn fail(&self, error: Error) -> io::Error {
        let text = error.to_string();
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        io::Error::other(text)
    }
}

/// The bytes of one range of a source.
pub(crate) struct Body {
    pub(crate) gauge: Arc<Gauge>,
    source: Arc<dyn Source>,
    expected: Fingerprint,
    at: u64,
    end: u64,
}

impl Body {
    /// The bytes of `range`, as long as the source has the expected fingerprint.
    pub(crate) fn new(source: Arc<dyn Source>, expected: Fingerprint, range: ContentRange) -> Self {
        Self { gauge: Arc::new(Gauge::new()), source, expected, at: range.start(), end: range.end() }
    }

    pub(crate) fn length(&self) -> u64 {
        self.end - self.at
    }

    /// The bytes in order. Fails instead of yielding the last ones when the source has changed: the
    /// server never sees a complete fragment of mixed content.
    pub(crate) fn into_stream(self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        stream::try_unfold(self, |mut body| async move {
            let chunk = body.next().await?;
            Ok(chunk.map(|chunk| (chunk, body)))
        })
    }

    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.gauge.stopped.load(Ordering::Relaxed) {
            return Err(io::Error::other("no longer wanted"));
        }
        if self.at == self.end {
            return Ok(None);
        }
        let wanted = CHUNK.min(self.end - self.at);
        let chunk = self.read(wanted).await.map_err(|error| self.gauge.fail(error))?;
        self.at += wanted;
        self.gauge.sent.send_modify(|sent| *sent += wanted);
        Ok(Some(chunk))
    }

    async fn read(&self, wanted: u64) -> Result<Bytes, Error> {
        // At most CHUNK, which fits.
        let chunk = self.source.read_at(self.at, wanted as usize).await.map_err(Error::Source)?;
        if chunk.len() as u64 != wanted {
            let end = self.at + chunk.len() as u64;
            return Err(Error::SourceChanged(format!("it ends at byte {end} of {}", self.expected.size)));
        }
        if self.at + wanted == self.end {
            check(&*self.source, &self.expected).await?;
        }
        Ok(chunk)
    }
}

/// Stops a body when dropped: its connection is closed instead of sending what nobody needs.
pub(crate) struct StopOnDrop(pub(crate) Arc<Gauge>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::Relaxed);
    }
}

/// Fails when the source has another fingerprint than expected.
pub(crate) async fn check(source: &dyn Source, expected: &Fingerprint) -> Result<(), Error> {
    let now = source.fingerprint().await.map_err(Error::Source)?;
    match expected.difference(&now) {
        Some(difference) => Err(Error::SourceChanged(difference)),
        None => Ok(()),
    }
}
