//! A connection's bytes, for hyper: with what was read ahead, and whether all answers are out.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    sync::Notify,
    time::Sleep,
};
use tokio_rustls::server::TlsStream;

use crate::sendfile::{self, Sending};

/// How long a client may take to hear that its connection ends.
const GOODBYE_TIME: Duration = Duration::from_secs(1);

/// What is going on on a connection.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// Requests read and not yet answered.
    answering: AtomicUsize,
    /// An answer was given that may not have left the process.
    unflushed: AtomicBool,
    /// Requests answered so far.
    answered: AtomicUsize,
    /// Told of each answer.
    ended: Notify,
}

impl Activity {
    pub(crate) fn begin(&self) {
        self.answering.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn end(&self) {
        self.unflushed.store(true, Ordering::Release);
        self.answered.fetch_add(1, Ordering::AcqRel);
        self.answering.fetch_sub(1, Ordering::AcqRel);
        self.ended.notify_one();
    }

    /// Returns when nothing was asked or answered for `pause` after an answer. No timer runs while
    /// a request is being answered: most connections of a busy server are in the middle of a body.
    pub(crate) async fn rest(&self, pause: Duration) {
        loop {
            self.ended.notified().await;
            let answered = self.answered();
            tokio::time::sleep(pause).await;
            if self.is_idle() && self.answered() == answered {
                return;
            }
        }
    }

    /// Whether no request is being answered, and every answer is out.
    fn is_idle(&self) -> bool {
        self.answering.load(Ordering::Acquire) == 0 && !self.unflushed.load(Ordering::Acquire)
    }

    /// Requests answered so far.
    fn answered(&self) -> usize {
        self.answered.load(Ordering::Acquire)
    }
}

/// The bytes of a connection, in the clear or within TLS.
#[derive(Debug)]
pub(crate) enum Transport {
    Plain(TcpStream),
    /// Boxed, since an idle connection is little else.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// Waits until something comes; returns what had to be read to know, or none at the end.
    pub(crate) async fn wait(&mut self) -> io::Result<Option<Bytes>> {
        match self {
            Self::Plain(stream) => stream.readable().await.map(|()| Some(Bytes::new())),
            // A record need not hold any of the client's bytes.
            Self::Tls(stream) => {
                let mut first = [0];
                let read = stream.read(&mut first).await?;
                Ok((read > 0).then(|| Bytes::copy_from_slice(&first)))
            }
        }
    }

    /// Ends an idle connection such that the client knows that nothing was cut off.
    pub(crate) async fn close(mut self) {
        if let Self::Tls(stream) = &mut self {
            let _ = tokio::time::timeout(GOODBYE_TIME, stream.shutdown()).await;
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }
}

/// A connection as hyper reads and writes it.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) stream: Transport,
    /// Bytes that were read before and not used.
    read_ahead: Bytes,
    activity: Arc<Activity>,
    /// What is sent from files; none where the bytes must be seen, as within TLS.
    sending: Option<Arc<Sending>>,
    idle_timeout: Duration,
    /// Runs while the client takes nothing.
    blocked: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    /// Writing fails when the client takes nothing for `idle_timeout`.
    pub(crate) fn new(stream: Transport, read_ahead: Bytes, activity: Arc<Activity>, idle_timeout: Duration) -> Self {
        let sending = match &stream {
            Transport::Plain(stream) if stream.is_write_vectored() => Some(Arc::default()),
            _ => None,
        };
        Self { stream, read_ahead, activity, sending, idle_timeout, blocked: None }
    }

    /// By what bodies have files sent on this connection.
    pub(crate) fn sending(&self) -> Option<Arc<Sending>> {
        self.sending.clone()
    }

    /// Writes what comes before a stand-in, or what the stand-in stands for.
    fn poll_write_slices(&mut self, context: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let (Some(sending), Transport::Plain(stream)) = (&self.sending, &self.stream) {
            let bytes = slices.iter().take_while(|slice| !sendfile::is_stand_in(slice)).count();
            match slices.first() {
                Some(stand_in) if bytes == 0 => return sending.poll_send(context, stream, stand_in.len()),
                _ => return Pin::new(&mut self.stream).poll_write_vectored(context, &slices[..bytes]),
            }
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn in_time<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.blocked = None;
            return written;
        }
        let idle_timeout = self.idle_timeout;
        let timer = self.blocked.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle_timeout)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client took nothing of the answer for too long")))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read_ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let length = self.read_ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.read_ahead.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.poll_write_slices(context, &[io::IoSlice::new(bytes)]);
        self.in_time(context, written)
    }

    /// hyper flushes its socket when nothing is left in its own buffer.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        ready!(self.in_time(context, flushed))?;
        self.activity.unflushed.store(false, Ordering::Release);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.poll_write_slices(context, slices);
        self.in_time(context, written)
    }
}
