//! One packet over HTTP: the request, its timeouts, the head of its answer.

use std::{fmt, sync::Arc, time::Duration};

use bits_core::{ContentRange, Form, PROTOCOL, PacketType, header};
use http::{HeaderMap, HeaderValue, Method, header as http_header};
use percent_encoding::percent_decode_str;
use reqwest::Body as HttpBody;
use tokio::time::timeout;
use url::Url;

use crate::{
    Error, Failure,
    answer::Answer,
    body::{Body, Gauge, StopOnDrop},
};

/// How much of an answer's body is read so that its connection can be used again.
const MOST_DRAINED: usize = 64 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// Sends packets.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) http: reqwest::Client,
    pub(crate) form: Form,
    pub(crate) headers: HeaderMap,
    pub(crate) password: Option<Password>,
    pub(crate) send_timeout: Duration,
    pub(crate) response_timeout: Duration,
}

/// A password, which nothing shows.
#[derive(Clone)]
pub(crate) struct Password(pub(crate) String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// One packet, ready to be sent.
pub(crate) struct Outgoing<'a> {
    pub(crate) kind: PacketType,
    pub(crate) url: Url,
    pub(crate) session: Option<&'a str>,
    /// The destination, whose credentials are sent along.
    pub(crate) credentials: Option<&'a Url>,
    /// Of a Fragment only.
    pub(crate) content: Option<(ContentRange, Body)>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// The source failed; there is no use in trying again.
    Source(Error),
    /// The network failed.
    Network(Failure),
}

impl Link {
    /// Sends a packet and waits for the head of its answer. `progress` is told how many bytes of
    /// the body have been given to the connection.
    pub(crate) async fn send(&self, packet: Outgoing<'_>, mut progress: impl FnMut(u64)) -> Result<Answer, Unanswered> {
        let host = shown_host(&packet.url);
        let (gauge, length) = match &packet.content {
            Some((_, body)) => (Some(body.gauge.clone()), body.length()),
            None => (None, 0),
        };
        let _stop = gauge.clone().map(StopOnDrop);
        let response = self.request(packet).send();
        let response = match &gauge {
            Some(gauge) if length > 0 => self.watch(response, gauge, length, &host, &mut progress).await,
            _ => self.answered(response, &host).await,
        };
        match response {
            Ok(response) => Ok(read(response).await),
            Err(failure) => Err(match gauge.and_then(|gauge| gauge.take_fault()) {
                Some(error) => Unanswered::Source(error),
                None => Unanswered::Network(failure),
            }),
        }
    }

    fn request(&self, packet: Outgoing<'_>) -> reqwest::RequestBuilder {
        let method = match self.form {
            Form::Native => Method::from_bytes(b"BITS_POST").unwrap_or(Method::POST),
            Form::Override => Method::POST,
        };
        let mut request = self.http.request(method, packet.url).headers(self.headers.clone());
        if self.form == Form::Override {
            request = request.header(header::METHOD_OVERRIDE, "BITS_POST");
        }
        request = request.header(header::PACKET_TYPE, packet.kind.as_str());
        if packet.kind == PacketType::CreateSession {
            request = request.header(header::SUPPORTED_PROTOCOLS, PROTOCOL);
        }
        if let Some(id) = packet.session {
            request = request.header(header::SESSION_ID, id);
        }
        if let Some(destination) = packet.credentials {
            request = self.authorize(request, destination);
        }
        let Some((range, body)) = packet.content else {
            return request.header(http_header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        };
        let length = body.length();
        request = request.header(http_header::CONTENT_RANGE, range.to_string());
        request = request.header(http_header::CONTENT_LENGTH, length);
        if length == 0 { request } else { request.body(HttpBody::wrap_stream(body.into_stream())) }
    }

    /// Basic credentials: the user name and password of a URL, or else the client's password.
    pub(crate) fn authorize(&self, request: reqwest::RequestBuilder, destination: &Url) -> reqwest::RequestBuilder {
        if !has_credentials(destination) {
            return request;
        }
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let own = || self.password.as_ref().map(|password| password.0.clone());
        request.basic_auth(decode(destination.username()), destination.password().map(decode).or_else(own))
    }

    /// Waits for the answer while the body goes out; without a step forward for the send timeout,
    /// or no answer for the response timeout after the last step, it is given up.
    async fn watch(
        &self,
        response: impl Future<Output = reqwest::Result<reqwest::Response>>,
        gauge: &Arc<Gauge>,
        length: u64,
        host: &str,
        progress: &mut impl FnMut(u64),
    ) -> Result<reqwest::Response, Failure> {
        let mut sent = gauge.watch();
        tokio::pin!(response);
        loop {
            let so_far = *sent.borrow_and_update();
            progress(so_far);
            if so_far >= length {
                return self.answered(response, host).await;
            }
            tokio::select! {
                answer = &mut response => return answer.map_err(|error| connection(host, error)),
                moved = timeout(self.send_timeout, sent.changed()) => if moved.is_err() {
                    return Err(Failure::SendTimeout { host: host.to_owned(), after: self.send_timeout });
                },
            }
        }
    }

    pub(crate) async fn answered(
        &self,
        response: impl Future<Output = reqwest::Result<reqwest::Response>>,
        host: &str,
    ) -> Result<reqwest::Response, Failure> {
        match timeout(self.response_timeout, response).await {
            Ok(answer) => answer.map_err(|error| connection(host, error)),
            Err(_) => Err(Failure::ResponseTimeout { host: host.to_owned(), after: self.response_timeout }),
        }
    }
}

pub(crate) fn has_credentials(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

/// Takes the head, and as much of a body as is cheap, so that the connection can be used again.
async fn read(mut response: reqwest::Response) -> Answer {
    let answer = Answer { status: response.status(), headers: response.headers().clone() };
    let drain = async {
        let mut read = 0;
        while let Ok(Some(chunk)) = response.chunk().await {
            read += chunk.len();
            if read > MOST_DRAINED {
                return;
            }
        }
    };
    // An answer is no worse for a body that does not end.
    let _ = timeout(DRAIN_TIME, drain).await;
    answer
}

pub(crate) fn connection(host: &str, error: reqwest::Error) -> Failure {
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    Failure::Connection { host: host.to_owned(), cause: cause.to_string() }
}

pub(crate) fn shown_host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}
