//! One connection: hyper while there is something to do, nothing but the socket while there is not.
//!
//! hyper keeps a connection's buffers for as long as it serves it. Fleets keep thousands of
//! connections open between fragments, so an idle connection is taken from hyper and only its
//! socket is watched; the next byte brings hyper back.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;

use crate::{
    again::Again,
    download::AnswerBody,
    peer::Peer,
    serve::{Phase, Stopping},
    service::{self, Hangup, Service},
    socket::{Activity, Socket, Transport},
    tracked::{Answering, Tracked},
};

/// A connection that is idle for as long is taken from hyper.
const PARK_AFTER: Duration = Duration::from_millis(100);
/// Largest head of a request, in bytes; Kerberos tickets are long.
const MAXIMUM_HEAD: usize = 64 * 1024;
/// Most bytes that hyper holds of a connection, and so most that one write takes to the disk.
const READ_BUFFER: usize = 96 * 1024;
/// The same for a few connections: fewer and longer writes cost a fifth less, but memory too.
const LARGE_READ_BUFFER: usize = 512 * 1024;
/// Who may have a large one now.
static LARGE_READ_BUFFERS: Semaphore = Semaphore::const_new(4);

/// How connections are served.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Connections open at once; above, the answer is 503.
    pub connections: Option<u32>,
    /// Connections open at once from one address, or one IPv6 network of 64 bits; above, the
    /// answer is 503. Trusted proxies are not counted, but whom they name by the PROXY protocol is.
    pub connections_per_address: Option<u32>,
    /// How long a request's head may take, and before the first one PROXY header and TLS handshake.
    pub header_timeout: Duration,
    /// How long a connection may be silent between two requests, and how long it may take nothing
    /// of an answer.
    pub idle_timeout: Duration,
    /// Whether a few connections may read much at once. Where bodies share a bandwidth they take
    /// turns of one read each, which are fair only if they are alike.
    pub large_reads: bool,
}

/// Serves a connection until it ends, or until the server stops and its last request is answered.
pub(crate) async fn serve(
    stream: Transport,
    peer: Peer,
    service: Service,
    mut stopping: Stopping,
) -> Result<(), ConnectionError> {
    let mut stream = stream;
    let mut read_ahead = Bytes::new();
    loop {
        let limits = service.limits();
        // On the heap, so that idle connections do not keep the room.
        let busy = Box::pin(serve_busy(stream, read_ahead, &peer, &service, limits, &mut stopping));
        let served = busy.await?;
        let Some((idle, rest)) = served else { return Ok(()) };
        (stream, read_ahead) = (idle, rest);
        if !read_ahead.is_empty() {
            continue;
        }
        match wait_for_bytes(&mut stream, limits.idle_timeout, &mut stopping).await? {
            Some(came) => read_ahead = came,
            None => {
                stream.close().await;
                return Ok(());
            }
        }
    }
}

/// Answers one request that there is no room for, and closes.
pub(crate) async fn refuse(stream: Transport, limits: ConnectionLimits) -> Result<(), ConnectionError> {
    let refuse = service_fn(|request: Request<Incoming>| async {
        service::drop_body(request).await;
        let mut response = service::overloaded();
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        Ok::<_, std::convert::Infallible>(response)
    });
    let connection = builder(limits, READ_BUFFER).keep_alive(false).serve_connection(TokioIo::new(stream), refuse);
    Ok(tokio::time::timeout(limits.header_timeout, connection).await.unwrap_or(Ok(()))?)
}

/// Why a connection ended badly; of interest when debugging only.
#[derive(Debug)]
pub(crate) enum ConnectionError {
    Http(hyper::Error),
    Io(io::Error),
}

impl std::fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http(error) => write!(f, "{error}"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl From<hyper::Error> for ConnectionError {
    fn from(error: hyper::Error) -> Self {
        Self::Http(error)
    }
}

impl From<io::Error> for ConnectionError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Serves with hyper until the connection ends (none) or is idle (its socket and what was read).
async fn serve_busy(
    stream: Transport,
    read_ahead: Bytes,
    peer: &Peer,
    service: &Service,
    limits: ConnectionLimits,
    stopping: &mut Stopping,
) -> Result<Option<(Transport, Bytes)>, ConnectionError> {
    let activity = Arc::new(Activity::default());
    let socket = Socket::new(stream, read_ahead, activity.clone(), limits.idle_timeout);
    let sending = socket.sending();
    let answer = service_fn(|mut request| {
        let (activity, draining) = (activity.clone(), stopping.clone());
        sending.iter().for_each(|sending| drop(Request::extensions_mut(&mut request).insert(sending.clone())));
        async move {
            let answering = Answering::new(activity);
            let answered = service.answer(request, peer.clone()).await;
            let mut response = answered?.map(|body| Tracked::new(body, answering));
            if draining.phase() != Phase::Serving {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<Response<Tracked<AnswerBody>>, Hangup>(response)
        }
    });
    let large = limits.large_reads.then(|| LARGE_READ_BUFFERS.try_acquire().ok()).flatten();
    let read_buffer = if large.is_some() { LARGE_READ_BUFFER } else { READ_BUFFER };
    let mut connection = Again::new(builder(limits, read_buffer).serve_connection(TokioIo::new(socket), answer));
    let mut watched = stopping.clone();
    let mut told = false;
    let mut rest = std::pin::pin!(activity.rest(PARK_AFTER));
    loop {
        tokio::select! {
            ended = &mut connection => {
                ended?;
                return Ok(None);
            }
            () = watched.reached(Phase::Closing), if !told => {
                told = true;
                connection.get_pin().graceful_shutdown();
            }
            () = &mut rest, if !told => break,
        }
    }
    let parts = connection.into_inner().into_parts();
    // Even an empty slice keeps all of hyper's buffer.
    let rest = if parts.read_buf.is_empty() { Bytes::new() } else { parts.read_buf };
    Ok(Some((parts.io.into_inner().stream, rest)))
}

/// Waits for the next request's first byte, which may be read already; none when none comes.
async fn wait_for_bytes(stream: &mut Transport, idle: Duration, stopping: &mut Stopping) -> io::Result<Option<Bytes>> {
    tokio::select! {
        came = stream.wait() => came,
        () = tokio::time::sleep(idle) => Ok(None),
        () = stopping.reached(Phase::Closing) => Ok(None),
    }
}

fn builder(limits: ConnectionLimits, read_buffer: usize) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_header_size(MAXIMUM_HEAD)
        .max_buf_size(read_buffer);
    builder
}
