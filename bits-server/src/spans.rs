//! What traces are made of: spans with the target `spans`, which only the feature `otlp` looks at.
//!
//! Their fields are attributes; `session`, `error` and `traceparent` are what the trace, the status
//! and the link of a span come from.

use bits_core::{Ack, Form};
use bits_engine::Fate;
use http::{Method, Response, request::Parts};
use hyper::body::Body;
use tracing::{Span, field};

use crate::{
    metrics::{self, Operation},
    peer::Peer,
    service,
};

/// Their target.
pub(crate) const SPANS: &str = "spans";
/// Of a packet, whose kind becomes the name, or a download.
pub(crate) const REQUEST: &str = "answer";
/// Asks a store, or an application.
pub(crate) const OPERATION: &str = "operation";

/// A packet from its head to its ack, or a download; none for other requests.
pub(crate) fn request(head: &Parts, peer: &Peer) -> Span {
    let name = match Form::of(head) {
        Some(_) => service::packet_name(head),
        None if matches!(head.method, Method::GET | Method::HEAD) => "Download",
        None => return Span::none(),
    };
    let traceparent = head.headers.get("traceparent").and_then(|value| value.to_str().ok());
    tracing::trace_span!(
        target: SPANS,
        REQUEST,
        name,
        traceparent,
        url.path = %service::logged_path(head),
        client.address = %peer.address,
        http.response.status_code = field::Empty,
        http.response.body.size = field::Empty,
        bits.bytes = field::Empty,
        bits.next = field::Empty,
        error.type = field::Empty,
        session = field::Empty,
        error = field::Empty,
    )
}

/// The current request gets this answer.
pub(crate) fn answered<B: Body>(response: &Response<B>) {
    let span = Span::current();
    span.record("http.response.status_code", response.status().as_u16());
    if let Some(size) = response.body().size_hint().exact().filter(|size| *size > 0) {
        span.record("http.response.body.size", size);
    }
}

/// The current packet gets this ack; `bytes` of its body were read.
pub(crate) fn acknowledged(ack: &Ack, bytes: u64) {
    let span = Span::current();
    span.record("bits.bytes", bytes);
    if let Some(next) = ack.next_offset() {
        span.record("bits.next", next);
    }
    if let Some(refusal) = &ack.refusal {
        span.record("error.type", metrics::refusal_label(refusal));
        if refusal.is_ours() {
            span.record("error", field::display(refusal));
        }
    }
}

/// The current packet gets no answer, since its body ended early.
pub(crate) fn cut(fate: &Fate, bytes: u64) {
    let span = Span::current();
    span.record("bits.bytes", bytes);
    if let Some(error) = fate.error() {
        span.record("error", field::display(error));
    }
}

/// An operation of a store or of the notifier, within whatever asks for it.
pub(crate) fn operation(operation: Operation) -> Span {
    let Operation { store, name } = operation;
    tracing::trace_span!(target: SPANS, OPERATION, name = %format_args!("{store} {name}"), error = field::Empty)
}
