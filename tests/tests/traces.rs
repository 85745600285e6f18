//! Traces over OTLP: one for each upload, whichever servers its packets come to, and nothing that
//! a collector does stops a server.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use prost::Message;
use tests::{
    Application, Behaviour, Form, ObjectStore, Packet, Postgres, Receiver, Reply, Server, ServerOptions, Upload,
    assert_ok, request, server_binary, wait_until,
};

const FRAGMENT: u64 = 64 * 1024;
const CLIENTS_TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// A span, and the server that sent it.
#[derive(Clone, Debug)]
struct Sent {
    span: Span,
    resource: BTreeMap<String, String>,
}

impl Sent {
    fn trace(&self) -> String {
        hex(&self.span.trace_id)
    }

    fn attribute(&self, name: &str) -> Option<String> {
        attributes(&self.span.attributes).remove(name)
    }

    fn is_error(&self) -> bool {
        self.span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(list: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(yes) => yes.to_string(),
        other => panic!("no attribute is {other:?}"),
    };
    let value = |one: &KeyValue| one.value.as_ref().and_then(|value| value.value.as_ref()).map(text);
    list.iter().map(|one| (one.key.clone(), value(one).unwrap_or_default())).collect()
}

/// A server that sends its spans to `collector`, at once.
fn sending(options: ServerOptions, collector: &Receiver) -> ServerOptions {
    let endpoint = format!("http://{}", collector.address());
    options.env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint).env("OTEL_BSP_SCHEDULE_DELAY", "50")
}

/// Every span that has come.
fn spans(collector: &Receiver) -> Vec<Sent> {
    let mut all = Vec::new();
    for request in collector.taken() {
        assert_eq!(request.line, "POST /v1/traces");
        assert_eq!(request.header("Content-Type"), Some("application/x-protobuf"));
        let export = ExportTraceServiceRequest::decode(&request.body[..]).expect("it is OTLP");
        for of_resource in export.resource_spans {
            let resource = attributes(&of_resource.resource.unwrap_or_default().attributes);
            let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            all.extend(spans.map(|span| Sent { span, resource: resource.clone() }));
        }
    }
    all
}

/// The spans of a session, once those of its end have come.
#[track_caller]
fn trace_of(collector: &Receiver, session: &str) -> Vec<Sent> {
    let id = session.trim_matches(['{', '}']).replace('-', "").to_lowercase();
    let of_it = || spans(collector).into_iter().filter(|sent| sent.trace() == id).collect::<Vec<_>>();
    let has = |names: &[&str]| of_it().iter().any(|sent| names.contains(&sent.span.name.as_str()));
    wait_until("the upload's own span arrives", || has(&["upload"]));
    wait_until("that of its last packet arrives", || has(&["Close-Session", "Cancel-Session"]));
    of_it()
}

#[track_caller]
fn named<'a>(trace: &'a [Sent], name: &str) -> Vec<&'a Sent> {
    trace.iter().filter(|sent| sent.span.name == name).collect()
}

/// The spans directly within `outer`.
fn within<'a>(trace: &'a [Sent], outer: &Sent) -> BTreeSet<&'a str> {
    let inner = trace.iter().filter(|sent| sent.span.parent_span_id == outer.span.span_id);
    inner.map(|sent| sent.span.name.as_str()).collect()
}

#[test]
fn an_upload_is_one_trace_whichever_servers_its_packets_come_to() {
    let collector = Receiver::answering(|_, _| Reply::Status(200));
    let application = Application::start(Behaviour::header("BITS-Copy-File-To-Destination", "true"));
    let (store, url) = (ObjectStore::small(), Postgres::shared().database());
    let options = sending(
        ServerOptions::new().config(&format!(
            "[state]\nurl = \"{url}\"\nmigrate = true\n{}[[directories]]\nurl_path = \"/upload\"\n{}",
            store.lines(),
            application.lines("by-value", "maximum_upload_size = \"5GiB\""),
        )),
        &collector,
    );
    let mut servers = [Server::start(options.clone()), Server::start(options)];
    let mut upload = Upload::new(servers[0].address(), "/upload/file.bin", 1, FRAGMENT as usize * 4);
    let mut turn = servers.iter().cycle();
    let mut next_server = |upload: &mut Upload| {
        upload.disconnect();
        upload.address = turn.next().unwrap().address();
    };
    next_server(&mut upload);
    upload.create().unwrap();
    while !upload.is_whole() {
        next_server(&mut upload);
        upload.fragment(FRAGMENT).unwrap();
    }
    next_server(&mut upload);
    upload.close().unwrap();
    // Each sends what it has.
    assert!(servers.iter_mut().all(|server| server.terminate().success()));

    let trace = trace_of(&collector, upload.session());
    let instances: BTreeSet<_> = trace.iter().map(|sent| &sent.resource["service.instance.id"]).collect();
    assert_eq!(instances.len(), 2, "both servers sent spans of it");
    assert!(trace.iter().all(|sent| sent.resource["service.name"] == "bits-server"));
    let root = named(&trace, "upload")[0];
    assert!(root.span.parent_span_id.is_empty());
    assert_eq!(root.attribute("bits.size"), Some(upload.total().to_string()));
    assert_eq!(root.attribute("bits.ending").as_deref(), Some("closed"));

    assert_eq!(named(&trace, "Create-Session").len(), 1);
    assert_eq!(named(&trace, "Close-Session").len(), 1);
    let mut fragments = named(&trace, "Fragment");
    fragments.sort_by_key(|sent| sent.span.start_time_unix_nano);
    assert_eq!(fragments.len(), 4);
    for (number, fragment) in (1..).zip(fragments) {
        assert_eq!(fragment.span.parent_span_id, root.span.span_id);
        assert_eq!(fragment.span.kind(), SpanKind::Server);
        assert_eq!(fragment.attribute("http.response.status_code").as_deref(), Some("200"));
        assert_eq!(fragment.attribute("bits.bytes"), Some(FRAGMENT.to_string()));
        assert_eq!(fragment.attribute("bits.next"), Some((FRAGMENT * number).to_string()));
        assert_eq!(fragment.attribute("bits.session").as_deref(), Some(upload.session()));
        assert_eq!(fragment.attribute("url.path").as_deref(), Some("/upload/file.bin"));
        assert!(within(&trace, fragment).is_superset(&["uploads write", "sessions commit"].into()));
    }
    let (notify, publish) = (named(&trace, "notify")[0], named(&trace, "publish")[0]);
    assert_eq!(within(&trace, notify).into_iter().filter(|name| name.starts_with("app")).count(), 1);
    assert!(within(&trace, publish).contains("uploads publish"));
    let told = named(&trace, "application tell")[0];
    let traceparent = format!("00-{}-{}-01", root.trace(), hex(&told.span.span_id));
    assert_eq!(application.seen()[0].header("traceparent"), Some(&*traceparent), "the application can join");
    assert!(!trace.iter().any(Sent::is_error), "{trace:#?}");
    let known: BTreeSet<_> = trace.iter().map(|sent| &sent.span.span_id).collect();
    let orphans = trace.iter().filter(|sent| *sent != root && !known.contains(&sent.span.parent_span_id));
    assert_eq!(orphans.count(), 0);
}

impl PartialEq for Sent {
    fn eq(&self, other: &Self) -> bool {
        self.span.span_id == other.span.span_id
    }
}

#[test]
fn fetching_the_reply_belongs_to_the_upload() {
    let collector = Receiver::answering(|_, _| Reply::Status(200));
    let application = Application::start(Behaviour::reply(&[7; 100_000]));
    let config = format!("[[directories]]\nurl_path = \"/upload\"\n{}", application.lines("by-value", ""));
    let server = Server::start(sending(ServerOptions::new().config(&config), &collector));
    let mut upload = Upload::new(server.address(), "/upload/file.bin", 1, 1000);
    upload.create().unwrap();
    upload.fragments(FRAGMENT).unwrap();
    assert_eq!(upload.reply().unwrap().len(), 100_000);
    let mut raw = server.raw();
    raw.send(&request("GET", "/upload/no-such-file", &[]));
    assert_eq!(raw.receive().status, 404);
    upload.close().unwrap();
    wait_until("both downloads have ended", || named(&spans(&collector), "Download").len() == 2);
    let trace = trace_of(&collector, upload.session());
    let (root, fetched) = (named(&trace, "upload")[0], named(&trace, "Download"));
    assert_eq!(fetched.len(), 1, "what is of no upload is a trace of its own");
    assert_eq!(fetched[0].span.parent_span_id, root.span.span_id);
    assert_eq!(fetched[0].span.kind(), SpanKind::Server);
    assert_eq!(fetched[0].attribute("http.response.status_code").as_deref(), Some("200"));
    assert_eq!(fetched[0].attribute("http.response.body.size").as_deref(), Some("100000"));
    assert!(within(&trace, fetched[0]).contains("uploads open"));
}

/// By the command, beside the server: that has no part in it but to delete what is left.
#[test]
fn a_session_that_an_operator_cancels_has_a_whole_trace() {
    let collector = Receiver::answering(|_, _| Reply::Status(200));
    let server = Server::start(sending(ServerOptions::new(), &collector));
    let mut upload = Upload::new(server.address(), "/upload/file.bin", 1, 1000);
    upload.create().unwrap();
    upload.fragment(500).unwrap();
    let mut cancel = Command::new(server_binary());
    cancel.args(["sessions", "cancel", upload.session(), "--config"]).arg(server.folder().join("bits.toml"));
    cancel.env("BITS__DATA_DIR", server.data_dir());
    cancel.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", collector.address()));
    assert!(cancel.output().unwrap().status.success());
    let root = || named(&spans(&collector), "upload").into_iter().next().cloned();
    assert_eq!(root().unwrap().attribute("bits.ending").as_deref(), Some("cancelled"));
    wait_until("what was staged is deleted", || !named(&spans(&collector), "clean").is_empty());
    let (root, all) = (root().unwrap(), spans(&collector));
    let clean = named(&all, "clean")[0];
    assert_eq!((clean.trace(), &clean.span.parent_span_id), (root.trace(), &root.span.span_id));
    assert!(within(&all, clean).contains("uploads discard"));
}

#[test]
fn what_a_client_says_of_traces_is_no_more_than_a_link() {
    let collector = Receiver::answering(|_, _| Reply::Status(200));
    let server = Server::start(sending(ServerOptions::new(), &collector));
    let said = format!("00-{CLIENTS_TRACE}-b7ad6b7169203331-01");
    let create = Packet::create(Form::Native, "/upload/file").with("traceparent", &said);
    let mut raw = server.raw();
    let created = raw.ask(&create);
    let session = created.header("BITS-Session-Id").unwrap().to_owned();
    // Whoever names somebody's session, and may not use it, leaves nothing in its trace.
    let other = raw.ask(&Packet::close(Form::Native, "/upload/other", &session));
    assert_eq!(other.status, 500);
    assert_ok(&raw.ask(&Packet::cancel(Form::Native, "/upload/file", &session)), 200);
    let trace = trace_of(&collector, &session);
    let link = &named(&trace, "Create-Session")[0].span.links[0];
    assert_eq!((hex(&link.trace_id), hex(&link.span_id)), (CLIENTS_TRACE.to_owned(), "b7ad6b7169203331".to_owned()));
    assert!(named(&trace, "Close-Session").is_empty());
    assert_eq!(named(&trace, "upload")[0].attribute("bits.ending").as_deref(), Some("cancelled"));
    wait_until("the refused packet's own trace arrives", || !named(&spans(&collector), "Close-Session").is_empty());
    let all = spans(&collector);
    let refused = named(&all, "Close-Session")[0];
    assert_eq!(refused.attribute("error.type").as_deref(), Some("session_not_found"));
    assert!(all.iter().all(|sent| sent.trace() != CLIENTS_TRACE));
}

#[test]
fn a_stopping_server_sends_what_it_has_left() {
    let collector = Receiver::answering(|_, _| Reply::Status(200));
    let options = sending(ServerOptions::new(), &collector).env("OTEL_BSP_SCHEDULE_DELAY", "600000");
    let mut server = Server::start(options);
    let mut upload = Upload::new(server.address(), "/upload/file.bin", 1, 1000);
    upload.run(FRAGMENT).unwrap();
    assert!(spans(&collector).is_empty());
    assert!(server.terminate().success());
    assert_eq!(named(&trace_of(&collector, upload.session()), "Fragment").len(), 1);
}

/// Nobody listens, somebody says nothing, somebody says no: uploads go on as fast, and the server
/// stops in time.
#[test]
fn a_collector_that_takes_nothing_stops_nothing() {
    let refusing: fn(usize, &tests::Request) -> Reply = |_, _| Reply::Status(401);
    let silent: fn(usize, &tests::Request) -> Reply = |_, _| Reply::Silence;
    for (answer, said) in [(None, "error sending request"), (Some(refusing), "401"), (Some(silent), "")] {
        let mut collector = Receiver::absent();
        if let Some(answer) = answer {
            collector.listen(answer);
        }
        let mut server = Server::start(sending(ServerOptions::new(), &collector));
        let start = Instant::now();
        for number in 0..20 {
            let mut upload = Upload::new(server.address(), &format!("/upload/{number}"), number, FRAGMENT as usize * 8);
            upload.run(FRAGMENT).unwrap();
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
        if !said.is_empty() {
            wait_until("the log tells of it", || server.log().contains("the collector takes no traces"));
            assert!(server.log().contains(said), "{}", server.log());
        }
        let stopping = Instant::now();
        assert!(server.terminate().success());
        assert!(stopping.elapsed() < Duration::from_secs(10), "{:?}", stopping.elapsed());
        assert!(server.log().matches("the collector takes no traces").count() <= 1, "it is said once");
    }
}

#[test]
fn a_share_of_the_sessions_is_sent_if_that_is_asked_for() {
    let collector = Receiver::answering(|_, _| Reply::Status(200));
    let options = sending(ServerOptions::new(), &collector);
    let options = options.env("OTEL_TRACES_SAMPLER", "traceidratio").env("OTEL_TRACES_SAMPLER_ARG", "0.5");
    let mut server = Server::start(options);
    for number in 0..40 {
        Upload::new(server.address(), &format!("/upload/{number}"), number, 10).run(FRAGMENT).unwrap();
    }
    assert!(server.terminate().success());
    let all = spans(&collector);
    let sent = named(&all, "upload").len();
    assert!((5..=35).contains(&sent), "{sent} of 40");
    assert_eq!((named(&all, "Create-Session").len(), named(&all, "Close-Session").len()), (sent, sent));
}

#[test]
fn a_wrong_variable_ends_the_start_with_its_name() {
    let collector = Receiver::absent();
    for (name, value) in [("OTEL_TRACES_SAMPLER", "coin"), ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")] {
        let mut server = Server::prepare(sending(ServerOptions::new(), &collector).env(name, value));
        server.spawn();
        assert_eq!(server.wait().code(), Some(2));
        assert!(server.log().contains(name), "{}", server.log());
    }
}

#[test]
fn without_an_endpoint_there_are_no_traces() {
    let collector = Receiver::answering(|_, _| Reply::Status(200));
    let off = sending(ServerOptions::new(), &collector).env("OTEL_SDK_DISABLED", "true");
    let mut server = Server::start(off);
    let mut upload = Upload::new(server.address(), "/upload/file.bin", 1, 1000);
    upload.run(FRAGMENT).unwrap();
    assert!(server.terminate().success());
    assert!(collector.requests().is_empty());
}
