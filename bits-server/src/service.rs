//! One request: BITS packets go to the engine, everything else is told that it is in the wrong place.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bits_core::{Ack, BodyError, ContentRange, Form, PacketType, Refusal, header};
use bits_engine::{Body, Caller, Fate};
use bytes::Bytes;
use futures_util::{StreamExt, stream::poll_fn};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header as http_header, request::Parts};
use http_body_util::{BodyDataStream, Either, Full};
use hyper::body::{Body as _, Incoming};
use tracing::Instrument;

use crate::{
    admin::Watch,
    auth::{Bond, Denial, Proof},
    connection::ConnectionLimits,
    download::{self, AnswerBody},
    forwarded::TrustedProxies,
    metrics,
    peer::Peer,
    quiet::Quiet,
    serve::{Live, Settings},
    spans,
};

/// Bytes of a path that a line of the log has, before they are escaped.
const LONGEST_LOGGED: usize = 300;

/// What answers requests on upload listeners.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    live: Live,
    proxies: TrustedProxies,
    watch: Watch,
    numbers: Arc<AtomicU64>,
}

impl Service {
    pub(crate) fn new(live: Live, proxies: TrustedProxies, watch: Watch) -> Self {
        Self { live, proxies, watch, numbers: Arc::default() }
    }

    /// How connections are served now.
    pub(crate) fn limits(&self) -> ConnectionLimits {
        self.live.now().options.connections
    }

    pub(crate) async fn answer(&self, request: Request<Incoming>, peer: Peer) -> Result<Response<AnswerBody>, Hangup> {
        let (mut head, body) = request.into_parts();
        let peer = self.proxies.of_request(peer, &head.headers);
        if peer.trusted_proxy && body.is_end_stream() {
            say_empty(&mut head.headers);
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let span = tracing::info_span!("request", id = number, address = %peer.address);
        let trace = spans::request(&head, &peer);
        let timing = Timing::start(self.watch.clone());
        let asking = Asking::of(&head, &body);
        let body = stream(body, Some(&timing), &asking);
        // One request goes by one configuration.
        let settings = self.live.now();
        let answering = async {
            let response = match settings.identify(&head, &peer).await {
                Ok(proof) => settings.answer_known(&head, body, &peer, proof, &timing).await,
                Err(denial) => Some(settings.deny(&head, body, &peer, denial, &timing).await.map(Either::Left)),
            };
            response.inspect(spans::answered)
        };
        let mut response = answering.instrument(trace).instrument(span).await.ok_or(Hangup)?;
        if asking.is_left_out() {
            // Whether the client sends the body now is anybody's guess.
            response.headers_mut().insert(http_header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }
}

impl Settings {
    async fn answer_known(
        &self,
        head: &Parts,
        body: Body,
        peer: &Peer,
        proof: Proof,
        timing: &Timing,
    ) -> Option<Response<AnswerBody>> {
        let caller = Caller { principal: proof.principal.clone(), address: Some(peer.address), secure: peer.secure };
        let mut response = match Form::of(head) {
            Some(_) => self.packet(head, caller, body, timing).await?.map(Either::Left),
            None if matches!(head.method, Method::GET | Method::HEAD) => self.download(head, &caller).await,
            None => no_packet(&head.method).map(Either::Left),
        };
        proof.complete(&mut response);
        Some(response)
    }

    async fn download(&self, head: &Parts, caller: &Caller) -> Response<AnswerBody> {
        let path = head.uri.path();
        let opened = match self.engine.open_reply(path, caller).await {
            Some(reply) => reply,
            None => self.engine.open_published(path, caller).await,
        };
        let response = match opened {
            Ok(opened) => download::serve(opened, head),
            Err(Refusal::PathNotFound) => no_packet(&head.method).map(Either::Left),
            Err(refusal) => download::refused(&refusal),
        };
        let (method, path, status) = (&head.method, head.uri.path().escape_default(), response.status().as_u16());
        tracing::debug!(%method, %path, status, "download answered");
        response
    }

    async fn packet(&self, head: &Parts, caller: Caller, body: Body, timing: &Timing) -> Option<Response<Full<Bytes>>> {
        let (fate, address) = (body.fate(), caller.address);
        let Some(ack) = self.engine.handle(head, caller, body).await else {
            spans::cut(&fate, timing.received());
            note_cut(&fate);
            return None;
        };
        note(head, &ack, address, timing);
        Some(ack.into_response().map(|()| Full::default()))
    }

    /// Refuses whoever is not known: a packet with an ack, anything else with a bare answer.
    async fn deny(
        &self,
        head: &Parts,
        body: Body,
        peer: &Peer,
        denial: Denial,
        timing: &Timing,
    ) -> Response<Full<Bytes>> {
        let (fate, refusal) = (body.fate(), denial.refusal.clone());
        let ack = match denial.bond {
            Bond::None => self.engine.refuse(head, refusal, body).await,
            // Without its body the connection could not go on.
            Bond::Offered => self.engine.refuse(head, refusal, body.awaiting_continue(false)).await,
            Bond::Needed => self.engine.refuse_and_go_on(head, refusal, body).await,
        };
        note_cut(&fate);
        let is_packet = Form::of(head).is_some();
        if is_packet {
            note(head, &ack, Some(peer.address), timing);
        }
        let mut response = ack.into_response().map(|()| Full::default());
        if !is_packet {
            let bits = |name: &&http::HeaderName| name.as_str().starts_with("bits-");
            let names: Vec<_> = response.headers().keys().filter(bits).cloned().collect();
            names.iter().for_each(|name| drop(response.headers_mut().remove(name)));
        }
        denial.complete(&mut response);
        response
    }

    /// Who sends a request, by the rules of the directory that answers for its path.
    async fn identify(&self, head: &Parts, peer: &Peer) -> Result<Proof, Denial> {
        match self.engine.directory(head.uri.path()) {
            Some(directory) => self.authentication.identify(directory, head, peer).await,
            None => Ok(Proof::anonymous()),
        }
    }
}

/// Whether a client holds its body back until it is asked for it (RFC 9110, 10.1.1), and whether it was.
#[derive(Clone, Debug)]
struct Asking {
    awaited: bool,
    done: Arc<AtomicBool>,
}

impl Asking {
    fn of(head: &Parts, body: &Incoming) -> Self {
        let expects = |expect: &HeaderValue| expect.as_bytes().eq_ignore_ascii_case(b"100-continue");
        let awaited = !body.is_end_stream() && head.headers.get(http_header::EXPECT).is_some_and(expects);
        Self { awaited, done: Arc::default() }
    }

    fn is_left_out(&self) -> bool {
        self.awaited && !self.done.load(Ordering::Relaxed)
    }
}

/// When a request began, and when the last byte of its body came.
#[derive(Clone, Debug)]
struct Timing {
    /// What sees refusals.
    watch: Watch,
    start: Instant,
    came: Arc<Came>,
}

/// What came of a body.
#[derive(Debug, Default)]
struct Came {
    bytes: AtomicU64,
    /// When the last one came, in microseconds after the start.
    last: AtomicU64,
}

impl Timing {
    fn start(watch: Watch) -> Self {
        Self { watch, start: Instant::now(), came: Arc::default() }
    }

    fn came(&self, bytes: usize) {
        let micros = self.start.elapsed().as_micros();
        self.came.last.store(u64::try_from(micros).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.came.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of the body that were read.
    fn received(&self) -> u64 {
        self.came.bytes.load(Ordering::Relaxed)
    }

    /// The whole time, and that since the last byte.
    fn end(&self) -> (Duration, Duration) {
        let took = self.start.elapsed();
        (took, took.saturating_sub(Duration::from_micros(self.came.last.load(Ordering::Relaxed))))
    }
}

/// Bytes of a fragment before `next`, which its ack says are held.
fn confirmed(head: &Parts, next: u64) -> u64 {
    let range = head.headers.get(http_header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let range = range.and_then(|text| text.parse::<ContentRange>().ok());
    range.map_or(0, |range| range.end().min(next).saturating_sub(range.start()))
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
    let asking = Asking::of(&head, &body);
    stream(body, None, &asking).drop_unread().await;
}

/// Proxies (Caddy, whatever is written in Go) drop `Content-Length: 0` of methods that they do not know. By HTTP's own
/// rules a request without a length has no body.
fn say_empty(headers: &mut HeaderMap) {
    if !headers.contains_key(http_header::TRANSFER_ENCODING) {
        headers.entry(http_header::CONTENT_LENGTH).or_insert(HeaderValue::from_static("0"));
    }
}

fn stream(body: Incoming, timing: Option<&Timing>, asking: &Asking) -> Body {
    let (timing, asked) = (timing.cloned(), asking.done.clone());
    let mut chunks = BodyDataStream::new(body).map(move |chunk| match chunk {
        Ok(chunk) => {
            timing.iter().for_each(|timing| timing.came(chunk.len()));
            metrics::received(chunk.len());
            Ok(chunk)
        }
        Err(_) => Err(BodyError::Disconnected),
    });
    let chunks = poll_fn(move |context| {
        asked.store(true, Ordering::Relaxed);
        chunks.poll_next_unpin(context)
    });
    Body::new(chunks).awaiting_continue(asking.awaited)
}

/// Counts a body that ended early; one that we ended is logged, unless too many were.
fn note_cut(fate: &Fate) {
    static CUT: Quiet = Quiet::new();
    let Some(error) = fate.error() else { return };
    metrics::body_ended(error);
    let reason = match error {
        BodyError::Idle => "no byte came for limits.idle_timeout",
        BodyError::Slow => "it came slower than limits.minimum_rate",
        _ => return,
    };
    if let Some(left_out) = CUT.pass() {
        tracing::info!(reason, left_out, "a body was cut off; what came of it is kept");
    }
}

/// Counts and logs a packet that was answered.
fn note(head: &Parts, ack: &Ack, address: Option<IpAddr>, timing: &Timing) {
    log(head, ack);
    let (took, after_last_byte) = timing.end();
    metrics::packet(packet_name(head), ack, took, after_last_byte);
    spans::acknowledged(ack, timing.received());
    if let (None, Some(next)) = (&ack.refusal, ack.next_offset()) {
        metrics::acknowledged(confirmed(head, next));
    }
    if let (Some(refusal), Some(address)) = (&ack.refusal, address) {
        timing.watch.refused(refusal, head.uri.path(), address);
    }
}

/// One line per packet; what the client sent is escaped and cut, so that it cannot forge another or
/// fill the disk.
fn log(head: &Parts, ack: &Ack) {
    let packet = packet_name(head);
    let path = logged_path(head);
    let status = ack.status().as_u16();
    let session = || ack.session.map(|id| id.to_string()).unwrap_or_default();
    match &ack.refusal {
        Some(refusal) if !matches!(refusal, Refusal::Gap { .. } | Refusal::Unauthenticated) => {
            tracing::info!(packet, %path, status, session = session(), reason = %refusal, "packet refused");
        }
        _ => tracing::debug!(packet, %path, status, session = session(), next = ack.next_offset(), "packet answered"),
    }
}

/// The path of a request for logs and traces: escaped and cut.
pub(crate) fn logged_path(head: &Parts) -> std::str::EscapeDefault<'_> {
    let sent = head.uri.path();
    sent[..sent.floor_char_boundary(LONGEST_LOGGED)].escape_default()
}

/// One of the protocol's words, or `unknown`.
pub(crate) fn packet_name(head: &Parts) -> &'static str {
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
