//! Requests to server applications over HTTP (sections 3.3.5 and 3.3.6).

mod connection;

use std::{error::Error, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bits_core::{BodyError, ByteStream, Notification, StoreError};
use bits_engine::{Answer, Notice, Notifier, NotifyError};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyDataStream, Either, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use percent_encoding::percent_decode_str;
use rustls::ClientConfig;
use tokio::{sync::Notify, time::Instant};
use url::{Position, Url};

use connection::Alive;

const USER_AGENT: &str = concat!("bits-server/", env!("CARGO_PKG_VERSION"));
/// What the application's own spans can hang on.
#[cfg(feature = "otlp")]
const TRACEPARENT: http::HeaderName = http::HeaderName::from_static("traceparent");

/// Notifies over HTTP and HTTPS, one connection for each notification. Follows no redirect and
/// uses no proxy.
#[derive(Clone, Debug)]
pub(crate) struct HttpNotifier {
    tls: Arc<ClientConfig>,
}

impl HttpNotifier {
    /// Reads the machine's certificate authorities. The error says why they cannot be used.
    pub(crate) fn new() -> Result<Self, String> {
        let tls = connection::tls();
        let tls = tls.map_err(|error| format!("server applications cannot be notified: {}", chain(&error)))?;
        Ok(Self { tls })
    }

    /// The head of the answer, and what keeps its body coming.
    async fn exchange(&self, url: &Url, request: Request<Upload>) -> Result<(Response<Incoming>, Alive), NotifyError> {
        let (mut sender, alive) = connection::open(url, self.tls.clone()).await.map_err(|error| failed(&*error))?;
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        Ok((response, alive))
    }
}

/// The body of a request: nothing, or the upload.
type Upload = Either<Empty<Bytes>, StreamBody<stream::BoxStream<'static, Result<Frame<Bytes>, StoreError>>>>;

#[async_trait]
impl Notifier for HttpNotifier {
    fn target(&self, notification: &Notification, upload: &str) -> Result<String, String> {
        let upload = Url::parse(upload).map_err(|error| format!("the upload's URL is none: {error}"))?;
        let mut url = upload.join(&notification.url).map_err(|error| format!("notification_url is none: {error}"))?;
        if let Some(query) = upload.query() {
            let own = url.query().filter(|own| !own.is_empty());
            let query = own.map_or_else(|| query.to_owned(), |own| format!("{own}&{query}"));
            url.set_query(Some(&query));
        }
        Ok(url.into())
    }

    async fn send(&self, notice: Notice) -> Result<Answer, NotifyError> {
        let Notice { url, headers, body, timeout } = notice;
        let url = Url::parse(&url).map_err(|error| NotifyError::Unreachable(format!("its URL is none: {error}")))?;
        let mut request = Request::new(Either::Left(Empty::new()));
        *request.headers_mut() = headers;
        #[cfg(feature = "otlp")]
        request.headers_mut().extend(crate::otlp::traceparent().map(|value| (TRACEPARENT, value)));
        address(&mut request, &url, body.as_ref().map_or(0, |(length, _)| *length))?;
        let response = match body.filter(|(length, _)| *length > 0) {
            // Sending is over with the head, which fits into the socket.
            None => within(timeout, "the head of its answer", self.exchange(&url, request)).await?,
            Some((_, body)) => {
                let sent = Arc::new(Notify::new());
                let request = request.map(|_| upload(body, sent.clone()));
                let mut answer = std::pin::pin!(self.exchange(&url, request));
                let sending = async {
                    tokio::select! {
                        response = &mut answer => Some(response),
                        () = sent.notified() => None,
                    }
                };
                match within(timeout, "taking the upload", sending).await? {
                    Some(response) => response,
                    None => within(timeout, "the head of its answer", answer).await?,
                }
            }
        };
        response.map(|(response, alive)| answer(response, alive, timeout))
    }
}

/// Makes it a request to `url` with a body of `length` bytes.
fn address<B>(request: &mut Request<B>, url: &Url, length: u64) -> Result<(), NotifyError> {
    let unfit = |error: &dyn Error| NotifyError::Unreachable(format!("its URL cannot be asked for: {error}"));
    let text = |text: String| HeaderValue::try_from(text).map_err(|error| unfit(&error));
    *request.method_mut() = Method::POST;
    let target = url[Position::BeforePath..Position::AfterQuery].parse();
    *request.uri_mut() = target.map_err(|error: http::uri::InvalidUri| unfit(&error))?;
    let host = text(url[Position::BeforeHost..Position::AfterPort].to_owned())?;
    let login = login(url).map(text).transpose()?;
    let headers = request.headers_mut();
    headers.insert(header::HOST, host);
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    if let Some(login) = login {
        headers.insert(header::AUTHORIZATION, login);
    }
    Ok(())
}

/// Basic credentials, where the URL holds any.
fn login(url: &Url) -> Option<String> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let decode = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
    let (user, password) = (decode(url.username()), decode(url.password().unwrap_or_default()));
    Some(format!("Basic {}", BASE64_STANDARD.encode([&user[..], b":", &password].concat())))
}

fn upload(body: ByteStream, sent: Arc<Notify>) -> Upload {
    let last = stream::once(end(Ended(sent))).filter_map(std::future::ready);
    Either::Right(StreamBody::new(body.chain(last).map(|bytes| bytes.map(Frame::data)).boxed()))
}

/// An item that is none, behind a body: whether it is asked for or dropped, all before it was taken
/// or never will be. With a `Content-Length` nobody asks for it.
async fn end<T>(ended: Ended) -> Option<T> {
    drop(ended);
    None
}

struct Ended(Arc<Notify>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

async fn within<T>(timeout: Duration, what: &str, work: impl Future<Output = T>) -> Result<T, NotifyError> {
    let late = |_| NotifyError::Timeout(format!("{what} took over {timeout:?}"));
    tokio::time::timeout(timeout, work).await.map_err(late)
}

fn answer(response: Response<Incoming>, alive: Alive, timeout: Duration) -> Answer {
    let (head, body) = response.into_parts();
    let (status, headers) = (head.status, head.headers);
    let deadline = Instant::now() + timeout;
    let body = stream::unfold(Some((BodyDataStream::new(body), alive)), move |body| async move {
        let (mut body, alive) = body?;
        match tokio::time::timeout_at(deadline, body.next()).await {
            Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some((body, alive)))),
            Ok(Some(Err(error))) => {
                tracing::debug!(reason = chain(&error), "the answer of a server application broke off");
                Some((Err(BodyError::Disconnected), None))
            }
            Ok(None) => None,
            Err(_) => Some((Err(BodyError::Idle), None)),
        }
    });
    Answer { status, headers, body: Box::pin(body) }
}

fn failed(error: &(dyn Error + 'static)) -> NotifyError {
    NotifyError::Unreachable(chain(error))
}

/// The error with its causes.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use bits_core::NotificationMode;
    use bytes::Bytes;

    use super::*;

    /// An application that takes an upload slowly, and then its time to answer, keeps to the bound
    /// of each.
    #[tokio::test]
    async fn sending_and_waiting_are_bounded_each_by_itself() {
        let pause = Duration::from_secs(2);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let application = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut chunk = [0; 1024];
            while !request.ends_with(b"ab") {
                let count = stream.read(&mut chunk).unwrap();
                assert!(count > 0, "the request broke off");
                request.extend_from_slice(&chunk[..count]);
            }
            std::thread::sleep(pause);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        });
        let late = stream::once(async move {
            tokio::time::sleep(pause).await;
            Ok(Bytes::from_static(b"b"))
        });
        let body: bits_core::ByteStream = Box::pin(stream::iter([Ok(Bytes::from_static(b"a"))]).chain(late));
        let timeout = Duration::from_secs(3);
        let notice = Notice { url, headers: http::HeaderMap::new(), body: Some((2, body)), timeout };
        let answer = HttpNotifier::new().unwrap().send(notice).await;
        assert_eq!(answer.map(|answer| answer.status), Ok(http::StatusCode::OK));
        application.join().unwrap();
    }

    #[test]
    fn where_to_notify() {
        let notifier = HttpNotifier::new().unwrap();
        for (url, upload, expected) in [
            ("http://app/x", "https://h/upload/file", "http://app/x"),
            ("http://app/x", "https://h/upload/file?a=1&b=%20", "http://app/x?a=1&b=%20"),
            ("http://app/x?own=1", "https://h/upload/file?a=1", "http://app/x?own=1&a=1"),
            ("http://app/x?", "https://h/upload/file?a=1", "http://app/x?a=1"),
            ("app", "https://h:1/upload/a/file?q", "https://h:1/upload/a/app?q"),
            ("../app", "https://h/upload/a/file", "https://h/upload/app"),
            ("/app?x", "https://h/upload/a/file?q", "https://h/app?x&q"),
        ] {
            let (mode, timeout) = (NotificationMode::ByValue, Duration::from_secs(1));
            let notification = Notification { mode, url: url.to_owned(), timeout, limit: None };
            assert_eq!(notifier.target(&notification, upload).as_deref(), Ok(expected), "{url} {upload}");
        }
    }
}
