//! Webhooks, with receivers that take what they get.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::json;
use tests::{
    Application, Behaviour, Clock, Receiver, Reply, Request, Server, ServerOptions, Upload, assert_clean_log,
    server_binary, wait_until,
};

const FRAGMENT: u64 = 64 * 1024;

fn server(config: &str) -> Server {
    Server::start(ServerOptions::new().config(config))
}

/// Uploads a file of one fragment and closes its session, which it returns.
fn upload(server: &Server, path: &str) -> String {
    let mut upload = Upload::new(server.address(), path, 1, 1000);
    upload.run(FRAGMENT).unwrap();
    upload.session().to_owned()
}

/// Runs a command of the server's program beside it.
fn command(server: &Server, arguments: &[&str]) -> String {
    let mut command = Command::new(server_binary());
    command.args(arguments).arg("--config").arg(server.folder().join("bits.toml"));
    let output = command.env("BITS__DATA_DIR", server.data_dir()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// An event is as CloudEvents 1.0 wants it, and the request carries it as its HTTP binding does.
#[track_caller]
fn assert_cloud_event(request: &Request) {
    assert_eq!(request.line, "POST /hook");
    assert_eq!(request.header("Content-Type"), Some("application/cloudevents+json; charset=UTF-8"));
    assert!(request.header("User-Agent").unwrap().starts_with("bits-server/"), "{request:?}");
    let event = request.json();
    assert_eq!(event["specversion"], "1.0");
    assert_eq!(event["datacontenttype"], "application/json");
    assert_eq!(request.header("webhook-id"), event["id"].as_str());
    for name in ["id", "source", "type", "time"] {
        assert!(event[name].as_str().is_some_and(|text| !text.is_empty()), "{name} of {event}");
    }
    let time = event["time"].as_str().unwrap();
    assert!(time.len() >= 20 && time.as_bytes()[10] == b'T' && time.ends_with('Z'), "{time}");
}

#[test]
fn the_life_of_an_upload_is_told() {
    let receiver = Receiver::start();
    let server = server(&receiver.webhook(""));
    let session = upload(&server, "/upload/a%20b/f%C3%BCr.bin");
    let requests = receiver.wait_taken(2);
    requests.iter().for_each(assert_cloud_event);
    let [created, completed] = [&requests[0], &requests[1]].map(Request::json);
    assert_eq!(receiver.kinds_of(&session), ["session.created", "upload.completed"]);
    let mut expected = json!({
        "session": session,
        "directory": "/upload",
        "destination": "/upload/a b/für.bin",
        "storage": "default",
        "key": "upload/a b/für.bin",
        "size": null,
        "received": 0,
        "complete": false,
        "principal": null,
        "address": "127.0.0.1",
        "reason": null,
    });
    assert_eq!(created["data"], expected);
    expected["size"] = 1000.into();
    expected["received"] = 1000.into();
    expected["complete"] = true.into();
    assert_eq!(completed["data"], expected);
    for event in [&created, &completed] {
        assert_eq!((&event["source"], &event["subject"]), (&json!("/upload"), &json!("upload/a b/für.bin")));
    }
    assert_ne!(created["id"], completed["id"]);
    assert!(requests[0].header("webhook-signature").is_none(), "there is no secret");
    // The close of a complete upload is no news; what follows it comes alone.
    let next = upload(&server, "/upload/next");
    receiver.wait_taken(4);
    assert_eq!(receiver.kinds_of(&next), ["session.created", "upload.completed"]);
    assert_eq!(receiver.requests().len(), 4);
}

#[test]
fn sessions_that_end_otherwise_are_told() {
    let receiver = Receiver::start();
    let directory = "[[directories]]\nurl_path = \"/upload\"\nsession_timeout = \"2s\"\ncleanup_interval = \"1s\"\n";
    let server = server(&format!("{directory}{}", receiver.webhook("")));
    let begun = |path: &str| {
        let mut upload = Upload::new(server.address(), path, 1, 2 * FRAGMENT as usize);
        upload.create().unwrap();
        upload.fragment(FRAGMENT).unwrap();
        upload
    };
    let [mut cancelled, mut closed, expired, removed] = ["/upload/1", "/upload/2", "/upload/3", "/upload/4"].map(begun);
    cancelled.cancel().unwrap();
    closed.close().unwrap();
    command(&server, &["sessions", "cancel", removed.session()]);
    receiver.wait_taken(8);
    for (upload, end) in [
        (&cancelled, "session.cancelled"),
        (&closed, "session.cancelled"),
        (&expired, "session.expired"),
        (&removed, "session.cancelled"),
    ] {
        assert_eq!(receiver.kinds_of(upload.session()), ["session.created", end]);
        let requests = receiver.taken();
        let last = requests.iter().rev().find(|request| request.session() == upload.session()).unwrap();
        assert_eq!(last.json()["data"]["received"], FRAGMENT);
        assert_eq!(last.json()["data"]["complete"], false);
    }
}

/// What a server application did not take, and what it took for itself.
#[test]
fn what_server_applications_do_is_told() {
    let (receiver, application) = (Receiver::start(), Application::start(Behaviour::status(500)));
    let directory = format!("[[directories]]\nurl_path = \"/upload\"\n{}\n", application.lines("by-value", ""));
    let server = server(&format!("{directory}{}", receiver.webhook("")));
    let mut raw = server.raw();
    let session = raw.create("/upload/file");
    assert_eq!(raw.fragment("/upload/file", &session, 0, b"content", 7).status, 500);
    let failed = receiver.wait_taken(2).pop().unwrap().json();
    assert_eq!((&failed["data"]["complete"], &failed["data"]["received"]), (&json!(false), &json!(7)));
    assert!(failed["data"]["reason"].as_str().is_some_and(|reason| reason.contains("500")), "{failed}");
    application.set(Behaviour::status(200));
    assert_eq!(raw.fragment("/upload/file", &session, 0, b"content", 7).status, 200);
    let completed = receiver.wait_taken(3).pop().unwrap().json();
    assert_eq!((&completed["data"]["complete"], &completed["data"]["size"]), (&json!(true), &json!(7)));
    assert_eq!(receiver.kinds_of(&session), ["session.created", "notification.failed", "upload.completed"]);
}

#[test]
fn webhooks_get_the_events_and_directories_that_they_name() {
    let [kinds, elsewhere] = [Receiver::start(), Receiver::start()];
    let config = format!(
        "[[directories]]\nurl_path = \"/upload\"\n[[directories]]\nurl_path = \"/Other\"\n{}{}",
        kinds.webhook("events = [\"upload.completed\", \"session.expired\"]"),
        elsewhere.webhook("directories = [\"/other\"]"),
    );
    let server = server(&config);
    let here = upload(&server, "/upload/x");
    let there = upload(&server, "/other/x");
    elsewhere.wait_taken(2);
    kinds.wait_taken(2);
    assert_eq!(elsewhere.kinds_of(&there), ["session.created", "upload.completed"]);
    assert_eq!(kinds.kinds_of(&here), ["upload.completed"]);
    assert_eq!(kinds.kinds_of(&there), ["upload.completed"]);
    let id = |receiver: &Receiver| receiver.taken().last().unwrap().text("id");
    assert_eq!(id(&kinds), id(&elsewhere), "an event has one id");
    assert_eq!((kinds.requests().len(), elsewhere.requests().len()), (2, 2));
}

/// Each event of one session fails twice: it waits, others do not, and pauses grow.
#[test]
fn failed_deliveries_are_tried_again_in_order() {
    let failing = std::sync::Mutex::new(std::collections::HashMap::new());
    let receiver = Receiver::answering(move |number, request| {
        let mut tries = failing.lock().unwrap();
        let tries: &mut u32 = tries.entry(request.text("id")).or_default();
        *tries += 1;
        let fails = request.text("subject") == "upload/0" && *tries <= 2;
        // Statuses that mean one thing each to clients, and the same to a sender of events.
        Reply::Status(if fails { [500, 404, 302, 429][number % 4] } else { 200 })
    });
    let server = server(&receiver.webhook(""));
    let sessions: Vec<String> = (0..3).map(|number| upload(&server, &format!("/upload/{number}"))).collect();
    receiver.wait_taken(6);
    for (number, session) in sessions.iter().enumerate() {
        assert_eq!(receiver.kinds_of(session), ["session.created", "upload.completed"]);
        if number > 0 {
            continue;
        }
        let all: Vec<Request> =
            receiver.requests().into_iter().filter(|request| request.session() == *session).collect();
        let kinds: Vec<String> = all.iter().map(Request::kind).collect();
        assert_eq!(kinds, [vec!["session.created"; 3], vec!["upload.completed"; 3]].concat(), "one after the other");
        let ids: Vec<String> = all.iter().map(|request| request.text("id")).collect();
        assert!(ids[0] == ids[2] && ids[3] == ids[5] && ids[0] != ids[3], "{ids:?}");
        for tries in all.chunks(3) {
            let pauses = [tries[1].at - tries[0].at, tries[2].at - tries[1].at];
            assert!(pauses[0] >= Duration::from_millis(490), "{pauses:?}");
            assert!(pauses[1] >= Duration::from_millis(990), "{pauses:?}");
        }
    }
    let last = receiver.taken().last().map(Request::session);
    assert_eq!(last.as_ref(), sessions.first(), "the others did not wait for it");
}

/// The events stand in the database with what they tell of: a server that dies before it could
/// tell anyone tells it in its next life.
#[test]
fn events_survive_a_server_that_is_killed_before_it_delivers_them() {
    let mut receiver = Receiver::absent();
    let mut server = server(&receiver.webhook("name = \"hook\""));
    let session = upload(&server, "/upload/x");
    server.kill();
    let pending = |server: &Server| -> serde_json::Value {
        let shown = command(server, &["sessions", "show", &session, "--json"]);
        serde_json::from_str::<serde_json::Value>(&shown).unwrap()["pending_events"].clone()
    };
    assert_eq!(pending(&server), json!({ "hook": 2 }));
    receiver.listen(|_, _| Reply::Status(200));
    server.launch();
    receiver.wait_taken(2);
    assert_eq!(receiver.kinds_of(&session), ["session.created", "upload.completed"]);
    wait_until("nothing is pending", || pending(&server) == json!({ "hook": 0 }));
}

#[test]
fn an_event_that_is_on_its_way_when_the_server_is_killed_comes_again() {
    let receiver = Receiver::answering(|number, _| if number == 0 { Reply::Silence } else { Reply::Status(200) });
    let mut server = server(&receiver.webhook("timeout = \"1s\""));
    let session = upload(&server, "/upload/x");
    receiver.wait_requests(1);
    server.kill();
    server.launch();
    let taken = receiver.wait_taken(2);
    assert_eq!(receiver.kinds_of(&session), ["session.created", "upload.completed"]);
    assert_eq!(receiver.requests()[0].text("id"), taken[0].text("id"));
}

/// Killed while events go out, again and again: each arrives at least once, in order.
#[test]
fn nothing_is_lost_by_kills_while_events_are_delivered() {
    let receiver = Receiver::start();
    let mut server = server(&receiver.webhook("timeout = \"1s\""));
    let mut sessions = Vec::new();
    for round in 0..6 {
        for number in 0..5 {
            sessions.push(upload(&server, &format!("/upload/{round}-{number}")));
        }
        thread::sleep(Duration::from_millis(round * 7));
        server.kill();
        server.launch();
    }
    for session in &sessions {
        wait_until("all events of a session arrive", || {
            receiver.kinds_of(session).last().is_some_and(|kind| kind == "upload.completed")
        });
        let mut kinds = receiver.kinds_of(session);
        kinds.dedup();
        assert_eq!(kinds, ["session.created", "upload.completed"]);
    }
}

#[test]
fn a_restart_in_the_middle_of_a_pause_loses_nothing() {
    let works = Arc::new(AtomicBool::new(false));
    let says = works.clone();
    let receiver = Receiver::answering(move |_, _| Reply::Status(if says.load(Ordering::Acquire) { 200 } else { 503 }));
    let mut server = server(&format!("shutdown_grace = \"1s\"\n{}", receiver.webhook("")));
    let session = upload(&server, "/upload/x");
    receiver.wait_requests(3);
    assert_eq!(server.terminate().code(), Some(0));
    works.store(true, Ordering::Release);
    server.launch();
    let taken = receiver.wait_taken(2);
    assert_eq!(receiver.kinds_of(&session), ["session.created", "upload.completed"]);
    let requests = receiver.requests();
    assert_eq!(taken[0].text("id"), requests[0].text("id"));
    let pause = taken[0].at - requests[requests.len() - 3].at;
    assert!(pause > Duration::from_millis(990), "the pause outlasts the restart: {pause:?}");
}

/// A stopping server waits some seconds for what is on its way, and gives it back.
#[test]
fn a_receiver_that_hangs_does_not_keep_a_server_from_stopping() {
    let receiver = Receiver::answering(|number, _| if number == 0 { Reply::Silence } else { Reply::Status(200) });
    let mut server = server(&format!("shutdown_grace = \"1s\"\n{}", receiver.webhook("timeout = \"10m\"")));
    let session = upload(&server, "/upload/x");
    receiver.wait_requests(1);
    let start = std::time::Instant::now();
    assert_eq!(server.terminate().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    server.launch();
    // Not after ten minutes, when the claim would lapse.
    receiver.wait_taken(2);
    assert_eq!(receiver.kinds_of(&session), ["session.created", "upload.completed"]);
}

/// One webhook is down while thousands of events pile up. The other gets all of them at once; the
/// first gets what is kept, and is told how many are not.
#[test]
fn a_webhook_that_is_down_holds_nobody_up_and_grows_to_its_bounds() {
    const SESSIONS: usize = 1200;
    const KEPT: usize = 300;
    let (mut down, up) = (Receiver::absent(), Receiver::start());
    let config = format!("{}{}", down.webhook(&format!("maximum_pending = {KEPT}")), up.webhook(""));
    let mut server = server(&config);
    thread::scope(|scope| {
        for part in 0..4 {
            let server = &server;
            scope.spawn(move || {
                let mut raw = server.raw();
                for number in 0..SESSIONS / 4 {
                    let path = format!("/upload/{part}/{number}");
                    let session = raw.create(&path);
                    assert_eq!(raw.cancel(&path, &session).status, 200);
                }
            });
        }
    });
    let all = 2 * SESSIONS;
    wait_until("the other webhook gets everything", || up.taken().len() >= all);
    wait_until("some are dropped", || server.log().contains("events were dropped"));

    down.listen(|_, _| Reply::Status(200));
    // Rather than wait for the next try, which may be minutes away.
    server.restart();
    let is_gap = |request: &Request| request.kind() == "events.dropped";
    let dropped = |requests: &[Request]| -> u64 {
        requests
            .iter()
            .filter(|request| is_gap(request))
            .map(|gap| gap.json()["data"]["dropped"].as_u64().unwrap())
            .sum()
    };
    let told = || {
        let taken = down.taken();
        taken.iter().filter(|request| !is_gap(request)).count() as u64 + dropped(&taken)
    };
    wait_until("every event was delivered or counted", || told() >= all as u64);
    assert_eq!(told(), all as u64);
    let kept = down.taken().iter().filter(|request| !is_gap(request)).count();
    assert!(kept <= KEPT + 20, "{kept} were kept");
    assert!(kept >= KEPT - 20, "only {kept} were kept");
    // The newest are kept.
    let newest = up.taken().last().unwrap().text("id");
    assert!(down.taken().iter().any(|request| request.text("id") == newest));
}

/// A receiver is down for days, through restarts of the server: it gets what is younger than a week,
/// as of when it happened, and a count of the rest.
#[test]
fn a_receiver_that_was_down_for_days_gets_what_is_kept() {
    let (clock, mut receiver) = (Clock::new(), Receiver::absent());
    let options = ServerOptions::new().config(&receiver.webhook(""));
    let mut server = Server::start(clock.rule(options));
    let first = upload(&server, "/upload/first");
    let mut later = |offset: &str, path: &str| {
        server.kill();
        clock.set(offset);
        server.launch();
        upload(&server, path)
    };
    let second = later("+3d", "/upload/second");
    let third = later("+8d", "/upload/third");
    wait_until("the oldest are dropped", || server.log().contains("events were dropped"));
    receiver.listen(|_, _| Reply::Status(200));
    // Rather than wait for the next try, which may be minutes away.
    server.restart();
    let taken = receiver.wait_taken(5);
    let (gaps, events): (Vec<_>, Vec<_>) = taken.iter().partition(|request| request.kind() == "events.dropped");
    assert_eq!(gaps.iter().map(|gap| gap.json()["data"]["dropped"].clone()).collect::<Vec<_>>(), [2]);
    let of = |session: &str| events.iter().filter(|event| event.session() == session).collect::<Vec<_>>();
    assert!(of(&first).is_empty());
    for session in [&second, &third] {
        let kinds: Vec<_> = of(session).iter().map(|event| event.kind()).collect();
        assert_eq!(kinds, ["session.created", "upload.completed"]);
    }
    let day = |session: &str| of(session)[0].text("time")[..10].to_owned();
    assert!(day(&second) < day(&third), "events are told as of when they are sent");
}

#[test]
fn https_takes_certificates_of_known_authorities_only() {
    let identity = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(identity.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = Arc::new(tls.with_no_client_auth().with_single_cert(vec![identity.cert.der().clone()], key).unwrap());
    let mut receiver = Receiver::absent();
    receiver.listen_through(
        |_, _| Reply::Status(200),
        move |stream| {
            let connection = rustls::ServerConnection::new(tls.clone()).unwrap();
            Ok(Box::new(rustls::StreamOwned::new(connection, stream)))
        },
    );
    let url = format!("https://localhost:{}/hook", receiver.address().port());
    let config = format!("[[webhooks]]\nurl = \"{url}\"\n");
    let mut server = Server::start(ServerOptions::new().config(&config));
    let session = upload(&server, "/upload/x");
    wait_until("the certificate is refused", || server.log().contains("UnknownIssuer"));
    assert_eq!(receiver.requests().len(), 0);

    // Not where the configuration stands, which the server may read anyway.
    let elsewhere = tempfile::tempdir().unwrap();
    let authorities = elsewhere.path().join("authorities.pem");
    fs::write(&authorities, identity.cert.pem()).unwrap();
    let options = ServerOptions::new().config(&config).env("SSL_CERT_FILE", authorities.to_str().unwrap());
    server.restart_with(options);
    receiver.wait_taken(2);
    assert_eq!(receiver.kinds_of(&session), ["session.created", "upload.completed"]);
}

#[test]
fn proxies_of_the_environment_are_heeded() {
    let proxy = Receiver::start();
    let config = "[[webhooks]]\nurl = \"http://hooks.invalid/hook\"\n";
    let proxy_url = format!("http://{}", proxy.address());
    let server = Server::start(ServerOptions::new().config(config).env("HTTP_PROXY", &proxy_url));
    upload(&server, "/upload/x");
    assert_eq!(proxy.wait_taken(2)[0].line, "POST http://hooks.invalid/hook");
}

#[test]
fn redirects_are_not_followed() {
    let elsewhere = Receiver::start();
    let target = elsewhere.url();
    let receiver = Receiver::answering(move |_, _| {
        let head = format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n");
        Reply::Bytes(head.into_bytes())
    });
    let server = server(&receiver.webhook(""));
    upload(&server, "/upload/x");
    receiver.wait_requests(3);
    assert_eq!(elsewhere.requests().len(), 0);
    assert!(server.log().contains("redirects are not followed"));
}

/// 410: nothing more is sent until the next start, and nothing is lost.
#[test]
fn a_webhook_that_is_gone_is_left_alone_until_the_next_start() {
    let receiver = Receiver::answering(|number, _| Reply::Status(if number == 0 { 410 } else { 200 }));
    let mut server = server(&receiver.webhook(""));
    let first = upload(&server, "/upload/1");
    receiver.wait_requests(1);
    let second = upload(&server, "/upload/2");
    thread::sleep(Duration::from_secs(6));
    assert_eq!(receiver.requests().len(), 1);
    assert!(server.log().contains("410 Gone"));
    server.restart();
    receiver.wait_taken(4);
    for session in [first, second] {
        assert_eq!(receiver.kinds_of(&session), ["session.created", "upload.completed"]);
    }
}

/// Whatever a receiver does, it costs the time that it is given and little memory.
#[test]
fn receivers_that_misbehave_are_given_up() {
    let receiver = Receiver::answering(|number, _| match number {
        0 => Reply::Silence,
        1 => Reply::Bytes(b"HTTP/1.1 200 O".to_vec()),
        2 => Reply::Bytes(b"no HTTP at all\r\n\r\n".to_vec()),
        3 => Reply::Endless(b"HTTP/1.1 200 OK\r\nX: y\r\n".to_vec()),
        // An answer is an answer, however long its body.
        4 => Reply::Bytes([&b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"[..], &[b'x'; 200_000]].concat()),
        _ => Reply::Status(200),
    });
    let server = server(&receiver.webhook("timeout = \"1s\"\nevents = [\"session.created\"]"));
    let session = upload(&server, "/upload/x");
    wait_until("the fifth try is taken", || receiver.requests().len() == 5);
    let next = upload(&server, "/upload/y");
    wait_until("the next event comes", || receiver.kinds_of(&next) == ["session.created"]);
    assert_eq!(receiver.requests().len(), 6, "the long answer was one: {:?}", receiver.kinds_of(&session));
    assert_clean_log(&server.log_bytes());
}

const VERIFY: &str = r#"
import base64, hashlib, hmac, sys
secret, id, timestamp, signature = sys.argv[1:]
body = sys.stdin.buffer.read()
key = base64.b64decode(secret[6:]) if secret.startswith("whsec_") else secret.encode()
expected = hmac.new(key, f"{id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
version, given = signature.split(",")
assert version == "v1"
sys.exit(0 if hmac.compare_digest(expected, base64.b64decode(given)) else 3)
"#;

/// Whether another implementation finds the signature right.
fn is_signed(request: &Request, secret: &str, body: &[u8]) -> bool {
    let [id, timestamp, signature] =
        ["webhook-id", "webhook-timestamp", "webhook-signature"].map(|name| request.header(name).unwrap());
    let mut python = Command::new("python3")
        .args(["-c", VERIFY, secret, id, timestamp, signature])
        .stdin(Stdio::piped())
        .spawn()
        .expect("python3 is installed");
    python.stdin.take().unwrap().write_all(body).unwrap();
    let code = python.wait().unwrap().code();
    assert!(matches!(code, Some(0 | 3)), "{code:?}");
    code == Some(0)
}

#[test]
fn signatures_are_verified_by_another_implementation() {
    let plain = "correct horse battery staple";
    let encoded = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let [first, second] = [Receiver::start(), Receiver::start()];
    let mut server = Server::prepare(ServerOptions::new().config(&format!(
        "{}{}",
        first.webhook(&format!("secret = \"{plain}\"")),
        second.webhook("secret_file = \"hook.secret\""),
    )));
    fs::write(server.folder().join("hook.secret"), format!("{encoded}\n")).unwrap();
    server.launch();
    upload(&server, "/upload/x");
    for (receiver, secret) in [(&first, plain), (&second, encoded)] {
        for request in receiver.wait_taken(2) {
            let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
            let timestamp: u64 = request.header("webhook-timestamp").unwrap().parse().unwrap();
            assert!(now.abs_diff(timestamp) < 60, "{timestamp} at {now}");
            assert!(is_signed(&request, secret, &request.body));
            assert!(!is_signed(&request, "another secret, as long", &request.body));
            assert!(!is_signed(&request, secret, &[&request.body[..], b" "].concat()));
        }
    }
}

#[test]
fn secrets_are_printed_nowhere() {
    let (good, bad) = (Receiver::start(), Receiver::answering(|_, _| Reply::Status(500)));
    let absent = Receiver::absent();
    let hook = |receiver: &Receiver, secret: &str| {
        format!("[[webhooks]]\nurl = \"{}?token=planted-in-query\"\n{secret}\n", receiver.url())
    };
    let config = [
        hook(&good, "secret = \"planted-in-the-open\""),
        hook(&bad, "secret_file = \"hook.secret\""),
        hook(&absent, "secret = \"whsec_cGxhbnRlZC1pbi1iYXNlNjQtd3JpdGluZw==\""),
    ]
    .concat();
    let options = ServerOptions::new().config(&config).env("RUST_LOG", "trace");
    let mut server = Server::prepare(options);
    fs::write(server.folder().join("hook.secret"), "planted-in-a-file\n").unwrap();
    server.launch();
    let session = upload(&server, "/upload/x");
    assert_eq!(good.wait_taken(2)[0].line, "POST /hook?token=planted-in-query", "it is sent");
    bad.wait_requests(3);
    let mut outputs = vec![command(&server, &["check"]), command(&server, &["sessions", "show", &session])];
    assert!(outputs[0].contains("<hidden>"), "{}", outputs[0]);
    assert_eq!(server.terminate().code(), Some(0));
    outputs.push(server.log());
    for name in ["state.db", "state.db-wal"] {
        let bytes = fs::read(server.data_dir().join(name)).unwrap_or_default();
        outputs.push(String::from_utf8_lossy(&bytes).into_owned());
    }
    for output in outputs {
        for secret in ["planted", "cGxhbnRlZC1pbi1iYXNlNjQtd3JpdGluZw"] {
            let at = output.find(secret);
            assert_eq!(at.map(|at| &output[at.saturating_sub(200)..at + 20]), None);
        }
    }
}

#[test]
fn a_webhook_that_is_not_configured_any_more_is_forgotten() {
    let (mut former, kept) = (Receiver::absent(), Receiver::start());
    let both = format!("{}{}", former.webhook(""), kept.webhook(""));
    let mut server = server(&both);
    upload(&server, "/upload/1");
    kept.wait_taken(2);
    server.restart_with(ServerOptions::new().config(&kept.webhook("")));
    wait_until("what was pending is dropped", || server.log().contains("not configured any more"));
    former.listen(|_, _| Reply::Status(200));
    server.restart_with(ServerOptions::new().config(&both));
    let next = upload(&server, "/upload/2");
    former.wait_taken(2);
    assert_eq!(former.kinds_of(&next).len(), 2);
    assert_eq!(former.requests().len(), 2, "what was forgotten does not come back");
}
