//! A connection to a server application, for one exchange.
//!
//! It is ours to end: an application that has answered is sent no more of an upload. And what an
//! application said before it closed the connection is read, though the upload could not be sent
//! to its end; HTTP clients give up at the first failed write.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use hyper::{
    body::Body,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

/// Any error on the way to an application.
pub(super) type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Trusts the machine's certificate authorities.
pub(super) fn tls() -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_platform_verifier()?.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Connects to where `url` points. The connection lasts as long as what is returned with it.
pub(super) async fn open<B>(url: &Url, tls: Arc<ClientConfig>) -> Result<(SendRequest<B>, Alive), AnyError>
where
    B: Body<Data: Send, Error: Into<AnyError>> + Send + 'static,
{
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let tcp = TcpStream::connect((host.as_str(), url.port_or_known_default().unwrap_or(80))).await?;
    tcp.set_nodelay(true)?;
    match url.scheme() {
        "https" => {
            let stream = TlsConnector::from(tls).connect(ServerName::try_from(host)?, tcp).await?;
            shake_hands(stream).await
        }
        _ => shake_hands(tcp).await,
    }
}

/// Keeps a connection going; dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Alive(#[expect(dead_code, reason = "it is there to be dropped")] AbortOnDropHandle<()>);

async fn shake_hands<B>(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<(SendRequest<B>, Alive), AnyError>
where
    B: Body<Data: Send, Error: Into<AnyError>> + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(Patient { stream, is_closed: false })).await?;
    // Who waits for the answer hears of a failure.
    let going = tokio::spawn(async move { drop(connection.await) });
    Ok((sender, Alive(AbortOnDropHandle::new(going))))
}

/// A stream that, once the other side takes no more, waits for what it has said and for its end.
struct Patient<S> {
    stream: S,
    is_closed: bool,
}

impl<S: Unpin> Patient<S> {
    fn write<T>(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.is_closed {
            return Poll::Pending;
        }
        match ready!(write(Pin::new(&mut self.stream), context)) {
            Err(error) if is_closing(error.kind()) => {
                self.is_closed = true;
                // There is something to be read now.
                context.waker().wake_by_ref();
                Poll::Pending
            }
            other => Poll::Ready(other),
        }
    }
}

fn is_closing(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};

    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset)
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.write(context, |stream, context| stream.poll_write(context, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(context, |stream, context| stream.poll_write_vectored(context, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(context, |stream, context| stream.poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
