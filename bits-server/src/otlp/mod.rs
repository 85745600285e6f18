//! Traces over OTLP (feature `otlp`): one for each upload, whichever servers its packets come to.
//!
//! A session's id is the id of its trace, and the first half of it that of the span that the others
//! hang on, so that servers need not tell each other anything. Where spans go is said by the
//! standard environment variables of OpenTelemetry; without an endpoint there are none.

mod collect;
mod export;
mod sampling;

use std::{
    borrow::Cow,
    env,
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use bits_core::{SessionEvent, SessionEventKind, SessionId, Timestamp};
use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{Link, SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor},
};

pub(crate) use collect::{Collector, traceparent};
use export::{Http, exporter};
use sampling::Ratio;

/// How long a stopping server waits for the collector.
const LAST_WORDS: Duration = Duration::from_secs(3);
const NAME: &str = "bits-server";
const VERSION: &str = env!("CARGO_PKG_VERSION");

static TRACES: OnceLock<Traces> = OnceLock::new();

/// Where spans go.
#[derive(Debug)]
struct Traces {
    processor: BatchSpanProcessor,
    ratio: Ratio,
    scope: InstrumentationScope,
}

/// A span that has ended, of a trace that may not be known yet.
#[derive(Debug)]
struct Ended {
    id: SpanId,
    /// None: it hangs on the trace's own span.
    parent: Option<SpanId>,
    name: Cow<'static, str>,
    kind: SpanKind,
    start: SystemTime,
    end: SystemTime,
    attributes: Vec<KeyValue>,
    error: Option<String>,
    link: Option<SpanContext>,
}

/// Whether the environment asks for traces.
pub(crate) fn is_wanted() -> bool {
    let set = |name: &str| env::var(name).is_ok_and(|value| !value.is_empty());
    let says = |name: &str, word: &str| env::var(name).is_ok_and(|value| value.eq_ignore_ascii_case(word));
    (set("OTEL_EXPORTER_OTLP_ENDPOINT") || set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))
        && !says("OTEL_SDK_DISABLED", "true")
        && !says("OTEL_TRACES_EXPORTER", "none")
}

/// Sends spans from now on, if the environment asks for it. To be called within the runtime. The
/// error says which variable is wrong.
pub(crate) fn start() -> Result<(), String> {
    if !is_wanted() {
        return Ok(());
    }
    let ratio = Ratio::from_environment()?;
    let exporter = exporter(Http::new()?)?;
    let mut processor = BatchSpanProcessor::builder(exporter).build();
    processor.set_resource(&resource());
    let scope = InstrumentationScope::builder(NAME).with_version(VERSION).build();
    let _ = TRACES.set(Traces { processor, ratio, scope });
    Ok(())
}

/// Sends what there is, and waits a little for it. Blocks.
pub(crate) fn stop() {
    let Some(traces) = TRACES.get() else { return };
    if let Err(error) = traces.processor.shutdown_with_timeout(LAST_WORDS) {
        tracing::warn!(%error, "the collector does not take the last spans");
    }
}

/// The span that a session's others hang on, once the session is over.
pub(crate) fn event(event: &SessionEvent) {
    let (SessionEventKind::Ended(ending), Some(traces)) = (&event.kind, TRACES.get()) else { return };
    let session = &event.session;
    let attributes = vec![
        KeyValue::new("bits.session", session.id.to_string()),
        KeyValue::new("bits.directory", session.directory.clone()),
        KeyValue::new("bits.size", number(session.total.unwrap_or(session.received))),
        KeyValue::new("bits.received", number(session.received)),
        KeyValue::new("bits.state", session.state.as_str()),
        KeyValue::new("bits.ending", ending.as_str()),
    ];
    let span = Ended {
        id: root(session.id),
        parent: None,
        name: "upload".into(),
        kind: SpanKind::Internal,
        start: time(session.created_at),
        end: time(event.at),
        attributes,
        error: None,
        link: None,
    };
    let trace = trace(session.id);
    if traces.ratio.keeps(trace) {
        traces.send(trace, None, span);
    }
}

/// Sends `spans`, which are of one session, or of a packet that was of none.
fn send(session: Option<SessionId>, spans: Vec<Ended>) {
    let Some(traces) = TRACES.get() else { return };
    let trace = session.map_or_else(|| TraceId::from(fastrand::u128(1..)), trace);
    if traces.ratio.keeps(trace) {
        spans.into_iter().for_each(|span| traces.send(trace, session.map(root), span));
    }
}

/// Whether spans of this trace are sent.
fn keeps(trace: TraceId) -> bool {
    TRACES.get().is_some_and(|traces| traces.ratio.keeps(trace))
}

impl Traces {
    fn send(&self, trace: TraceId, root: Option<SpanId>, span: Ended) {
        let mut links = SpanLinks::default();
        links.links.extend(span.link.map(|context| Link::new(context, Vec::new(), 0)));
        self.processor.on_end(SpanData {
            span_context: SpanContext::new(trace, span.id, TraceFlags::SAMPLED, false, TraceState::NONE),
            parent_span_id: span.parent.or(root).unwrap_or(SpanId::INVALID),
            parent_span_is_remote: false,
            span_kind: span.kind,
            name: span.name,
            start_time: span.start,
            end_time: span.end,
            attributes: span.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links,
            status: span.error.map_or(Status::Unset, Status::error),
            instrumentation_scope: self.scope.clone(),
        });
    }
}

/// Who sends the spans: what the environment says, and else this process.
fn resource() -> Resource {
    let named = env::var("OTEL_SERVICE_NAME").is_ok_and(|name| !name.is_empty())
        || env::var("OTEL_RESOURCE_ATTRIBUTES").is_ok_and(|all| all.contains("service.name="));
    let host = rustix::system::uname();
    let mut attributes = vec![
        KeyValue::new("service.version", VERSION),
        KeyValue::new("service.instance.id", uuid::Uuid::new_v4().to_string()),
        KeyValue::new("host.name", host.nodename().to_string_lossy().into_owned()),
    ];
    if !named {
        attributes.push(KeyValue::new("service.name", NAME));
    }
    Resource::builder().with_attributes(attributes).build()
}

/// The trace of a session.
fn trace(session: SessionId) -> TraceId {
    TraceId::from_bytes(*session.uuid().as_bytes())
}

/// The span on which those of a session hang.
fn root(session: SessionId) -> SpanId {
    let [a, b, c, d, e, f, g, h, ..] = *session.uuid().as_bytes();
    SpanId::from_bytes([a, b, c, d, e, f, g, h])
}

/// Attributes are signed; no upload is that long.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn time(at: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + at.since(Timestamp::from_millis(0))
}
