//! From spans of the crate `tracing` to those that are sent.
//!
//! Which trace a packet belongs to is often known at its end only: the session that it creates, or
//! that it names and may use. Spans within it wait for it.

use std::{borrow::Cow, fmt, time::SystemTime};

use bits_core::SessionId;
use http::HeaderValue;
use opentelemetry::{
    KeyValue, SpanId, TraceFlags, TraceId, Value,
    trace::{SpanContext, SpanKind, TraceState},
};
use tracing::{
    Dispatch, Level, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    layer::Context,
    registry::{LookupSpan, SpanRef},
};
use uuid::Uuid;

use super::{Ended, send, trace};
use crate::spans::{OPERATION, REQUEST, SPANS};

/// Most spans that wait for the trace of the one around them.
const MOST_WAITING: usize = 256;

/// Collects spans and sends those that have ended.
#[derive(Debug)]
pub(crate) struct Collector;

impl Collector {
    /// Sees the spans that traces are made of, and nothing else.
    pub(crate) fn filter() -> Targets {
        Targets::new().with_target(SPANS, Level::TRACE)
    }
}

/// What is known of a span under way.
#[derive(Debug)]
struct Open {
    id: SpanId,
    start: SystemTime,
    session: Option<SessionId>,
    name: Option<String>,
    attributes: Vec<KeyValue>,
    error: Option<String>,
    link: Option<SpanContext>,
    /// Those within it that have ended.
    inner: Vec<Ended>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Collector {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut open = Open::now();
        attributes.record(&mut open);
        span.extensions_mut().insert(open);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(open) = span.extensions_mut().get_mut::<Open>() {
            values.record(open);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(open) = span.extensions_mut().remove::<Open>() else { return };
        let (session, kind) = (open.session, span.name());
        let parent = around(&span);
        let Some(parent) = parent else {
            // What a store is asked for by nobody's packet is of no trace.
            if kind != OPERATION {
                send(session, open.end(kind, None));
            }
            return;
        };
        if let Some(outer) = parent.extensions_mut().get_mut::<Open>() {
            let room = MOST_WAITING.saturating_sub(outer.inner.len());
            let ended = open.end(kind, Some(outer.id));
            outer.inner.extend(ended.into_iter().take(room));
        }
    }
}

/// The nearest span around this one that is collected too.
fn around<'a, S: LookupSpan<'a>>(span: &SpanRef<'a, S>) -> Option<SpanRef<'a, S>> {
    span.scope().skip(1).find(|outer| outer.extensions().get::<Open>().is_some())
}

/// `traceparent` for a request that is made within the current span; none where its trace is not
/// known or there are no traces.
pub(crate) fn traceparent() -> Option<HeaderValue> {
    let found = |(id, dispatch): (&Id, &Dispatch)| {
        let span = dispatch.downcast_ref::<Registry>()?.span(id)?;
        let inner = span.extensions().get::<Open>().map(|open| open.id)?;
        let session = span.scope().find_map(|span| span.extensions().get::<Open>()?.session)?;
        Some((trace(session), inner))
    };
    let (trace, span): (TraceId, SpanId) = tracing::Span::current().with_subscriber(found)??;
    let flags = u8::from(super::keeps(trace));
    HeaderValue::try_from(format!("00-{trace}-{span}-{flags:02x}")).ok()
}

impl Open {
    fn now() -> Self {
        Self {
            id: SpanId::from(fastrand::u64(1..)),
            start: SystemTime::now(),
            session: None,
            name: None,
            attributes: Vec::new(),
            error: None,
            link: None,
            inner: Vec::new(),
        }
    }

    /// It and what was within it.
    fn end(mut self, kind: &'static str, parent: Option<SpanId>) -> Vec<Ended> {
        if let Some(session) = self.session {
            self.attributes.push(KeyValue::new("bits.session", session.to_string()));
        }
        let mut all = self.inner;
        all.push(Ended {
            id: self.id,
            parent,
            name: self.name.map_or(Cow::Borrowed(kind), Cow::Owned),
            kind: match kind {
                REQUEST => SpanKind::Server,
                OPERATION => SpanKind::Client,
                _ => SpanKind::Internal,
            },
            start: self.start,
            end: SystemTime::now(),
            attributes: self.attributes,
            error: self.error,
            link: self.link,
        });
        all
    }

    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.attributes.push(KeyValue::new(field.name(), value));
    }
}

impl Visit for Open {
    fn record_u128(&mut self, field: &Field, value: u128) {
        if field.name() == "session" {
            self.session = Some(SessionId::new(Uuid::from_u128(value)));
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, super::number(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "traceparent" => self.link = link(value),
            "name" => self.name = Some(value.to_owned()),
            _ => self.add(field, value.to_owned()),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "error" => self.error = Some(format!("{value:?}")),
            "name" => self.name = Some(format!("{value:?}")),
            _ => self.add(field, format!("{value:?}")),
        }
    }
}

/// What a client says of its own trace. It is a link and no parent: whoever sends it may write
/// anything, and the trace is the session's.
fn link(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let well_formed = [version, trace, span, flags].map(str::len) == [2, 32, 16, 2] && version != "ff";
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()? & TraceFlags::SAMPLED.to_u8()),
        true,
        TraceState::NONE,
    );
    (well_formed && context.is_valid()).then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_say_of_their_trace_is_a_link_if_it_is_well_formed() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let read = link(good).unwrap();
        assert!(read.is_remote() && read.is_sampled());
        assert_eq!(read.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(read.span_id().to_string(), "b7ad6b7169203331");
        for bad in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319z-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x",
        ] {
            assert!(link(bad).is_none(), "{bad}");
        }
    }
}
