//! Requests to server applications over HTTP (sections 3.3.5 and 3.3.6).

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use bits_core::{BodyError, Notification};
use bits_engine::{Answer, Notice, Notifier, NotifyError};
use futures_util::{StreamExt, stream};
use http::{HeaderValue, header};
use reqwest::{Body, Client, Response, Url, redirect};
use tokio::{sync::Notify, time::Instant};

const USER_AGENT: &str = concat!("bits-server/", env!("CARGO_PKG_VERSION"));

/// Notifies over HTTP and HTTPS, one connection for each notification. Follows no redirect and
/// uses no proxy.
#[derive(Clone, Debug)]
pub(crate) struct HttpNotifier {
    http: Client,
}

impl HttpNotifier {
    /// Reads the machine's certificate authorities. The error says why they cannot be used.
    pub(crate) fn new() -> Result<Self, String> {
        // Another part of the process may have chosen the same one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .pool_max_idle_per_host(0)
            .user_agent(USER_AGENT)
            .build()
            .map_err(|error| format!("server applications cannot be notified: {}", chain(error)))?;
        Ok(Self { http })
    }
}

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
        let length = body.as_ref().map_or(0, |(length, _)| *length);
        let request = self.http.post(url).headers(headers).header(header::CONTENT_LENGTH, HeaderValue::from(length));
        let response = match body.filter(|(length, _)| *length > 0) {
            // Sending is over with the head, which fits into the socket.
            None => within(timeout, "the head of its answer", request.send()).await?,
            Some((_, body)) => {
                let sent = Arc::new(Notify::new());
                let last = stream::once(end(Ended(sent.clone()))).filter_map(std::future::ready);
                let request = request.body(Body::wrap_stream(body.chain(last)));
                let mut answer = std::pin::pin!(request.send());
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
        response.map(|response| answer(response, timeout)).map_err(failed)
    }
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

fn answer(response: Response, timeout: Duration) -> Answer {
    let (status, headers) = (response.status(), response.headers().clone());
    let deadline = Instant::now() + timeout;
    let body = stream::unfold(Some(response.bytes_stream()), move |body| async move {
        let mut body = body?;
        match tokio::time::timeout_at(deadline, body.next()).await {
            Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(body))),
            Ok(Some(Err(error))) => {
                tracing::debug!(reason = chain(error), "the answer of a server application broke off");
                Some((Err(BodyError::Disconnected), None))
            }
            Ok(None) => None,
            Err(_) => Some((Err(BodyError::Idle), None)),
        }
    });
    Answer { status, headers, body: Box::pin(body) }
}

fn failed(error: reqwest::Error) -> NotifyError {
    NotifyError::Unreachable(chain(error))
}

/// The error with its causes, without the URL: its query may be secret.
fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
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
            let notification =
                Notification { mode: NotificationMode::ByValue, url: url.to_owned(), timeout: Duration::from_secs(1) };
            assert_eq!(notifier.target(&notification, upload).as_deref(), Ok(expected), "{url} {upload}");
        }
    }
}
