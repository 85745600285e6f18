//! One request: BITS packets go to the engine, everything else is told that it is in the wrong place.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bits_core::{Ack, BodyError, Form, PacketType, Refusal, header};
use bits_engine::{Body, Caller, Engine};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderValue, Method, Request, Response, StatusCode, header as http_header, request::Parts};
use http_body_util::{BodyDataStream, Full};
use hyper::body::Incoming;
use tracing::Instrument;

use crate::{
    auth::{Authentication, Denial, Proof},
    forwarded::TrustedProxies,
    peer::Peer,
};

/// What answers requests on upload listeners.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    engine: Engine,
    authentication: Authentication,
    proxies: TrustedProxies,
    numbers: Arc<AtomicU64>,
}

impl Service {
    pub(crate) fn new(engine: Engine, authentication: Authentication, proxies: TrustedProxies) -> Self {
        Self { engine, authentication, proxies, numbers: Arc::default() }
    }

    pub(crate) async fn answer(&self, request: Request<Incoming>, peer: Peer) -> Result<Response<Full<Bytes>>, Hangup> {
        let (head, body) = request.into_parts();
        let peer = self.proxies.of_request(peer, &head.headers);
        if Form::of(&head).is_none() {
            return Ok(no_packet(&head.method));
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let span = tracing::info_span!("request", id = number, address = %peer.address);
        self.packet(head, body, peer).instrument(span).await.ok_or(Hangup)
    }

    async fn packet(&self, head: Parts, body: Incoming, peer: Peer) -> Option<Response<Full<Bytes>>> {
        let body = stream(&head, body);
        let proof = match self.identify(&head, &peer).await {
            Ok(proof) => proof,
            Err(denial) => {
                let ack = self.engine.refuse(&head, denial.refusal.clone(), body).await;
                log(&head, &ack);
                let mut response = ack.into_response().map(|()| Full::default());
                denial.complete(&mut response);
                return Some(response);
            }
        };
        let caller = Caller { principal: proof.principal.clone(), address: Some(peer.address) };
        let ack = self.engine.handle(&head, caller, body).await?;
        log(&head, &ack);
        let mut response = ack.into_response().map(|()| Full::default());
        proof.complete(&mut response);
        Some(response)
    }

    /// Who sends a request, by the rules of the directory that answers for its path.
    async fn identify(&self, head: &Parts, peer: &Peer) -> Result<Proof, Denial> {
        match self.engine.directory(head.uri.path()) {
            Some(directory) => self.authentication.identify(directory, head, peer).await,
            None => Ok(Proof::anonymous()),
        }
    }
}

/// The body broke off or was cut off: the connection is closed without an answer.
#[derive(Debug)]
pub(crate) struct Hangup;

impl std::fmt::Display for Hangup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the body broke off or was cut off")
    }
}

impl std::error::Error for Hangup {}

/// The answer where too many connections are open already.
pub(crate) fn overloaded() -> Response<Full<Bytes>> {
    Ack::refused(Refusal::Unavailable, None).into_response().map(|()| Full::default())
}

/// Reads and drops what is in flight of a request that is not looked at, so that the client sees
/// the answer.
pub(crate) async fn drop_body(request: Request<Incoming>) {
    let (head, body) = request.into_parts();
    stream(&head, body).drop_unread().await;
}

fn stream(head: &Parts, body: Incoming) -> Body {
    let awaits = head
        .headers
        .get(http_header::EXPECT)
        .is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let chunks = BodyDataStream::new(body).map(|chunk| chunk.map_err(|_| BodyError::Disconnected));
    Body::new(chunks).awaiting_continue(awaits)
}

/// One line per packet; what the client sent is escaped, so that it cannot forge another.
fn log(head: &Parts, ack: &Ack) {
    let packet = packet_name(head);
    let path = head.uri.path().escape_default();
    let status = ack.status().as_u16();
    let session = ack.session.map(|id| id.to_string()).unwrap_or_default();
    match &ack.refusal {
        Some(refusal) if !matches!(refusal, Refusal::Gap { .. } | Refusal::Unauthenticated) => {
            tracing::info!(packet, %path, status, session, reason = %refusal, "packet refused");
        }
        _ => tracing::debug!(packet, %path, status, session, next = ack.next_offset(), "packet answered"),
    }
}

fn packet_name(head: &Parts) -> &'static str {
    let sent = head.headers.get(header::PACKET_TYPE).map_or(&[][..], HeaderValue::as_bytes);
    let kind = PacketType::ALL.into_iter().find(|kind| sent.eq_ignore_ascii_case(kind.as_str().as_bytes()));
    kind.map_or("unknown", PacketType::as_str)
}

fn no_packet(method: &Method) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(
        "This is a BITS upload server: it takes BITS_POST requests, such as those of `bits upload FILE URL`\n\
         or of PowerShell's `Start-BitsTransfer -TransferType Upload`.\n",
    ));
    *response.status_mut() = StatusCode::NOT_FOUND;
    let headers = response.headers_mut();
    headers.insert(http_header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(http_header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if method != Method::GET && method != Method::HEAD {
        headers.insert(http_header::ALLOW, HeaderValue::from_static("BITS_POST"));
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    }
    response
}
