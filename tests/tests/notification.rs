//! Server applications: what they are told, what comes of their answers, and what of their
//! failures (sections 2.2.12, 2.2.13 and 3.3).
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{fs, path::Path, thread, time::Duration};

use tests::{
    Application, Authority, Behaviour, Form, Packet, Raw, Response, Rest, Server, ServerOptions, assert_application,
    assert_next, assert_ok, assert_staging_empty, pattern, wait_until,
};

const FILE: &str = "/upload/a/file.bin";
const COPY: &str = "BITS-Copy-File-To-Destination";
const STATIC: &str = "BITS-Static-Response-URL";

fn start(application: &Application, kind: &str, more: &str) -> Server {
    Server::start(ServerOptions::directory(&application.lines(kind, more)))
}

/// Uploads all of `content` to [`FILE`] and gives the session with the last ack.
fn upload(raw: &mut Raw, content: &[u8]) -> (String, Response) {
    let session = raw.create(FILE);
    let response = send(raw, &session, content);
    (session, response)
}

fn send(raw: &mut Raw, session: &str, content: &[u8]) -> Response {
    raw.fragment(FILE, session, 0, content, content.len() as u64)
}

/// Fetches the reply that an ack names.
fn fetch(server: &Server, ack: &Response) -> Response {
    let url = ack.header("BITS-Reply-URL").expect("the ack has a reply URL").to_owned();
    let tail = url.strip_prefix("../").expect("one folder below the directory");
    get(server, &format!("/upload/{tail}"))
}

fn get(server: &Server, path: &str) -> Response {
    let mut raw = server.raw();
    raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
    raw.receive()
}

#[test]
fn an_upload_is_sent_by_value() {
    let application = Application::start(Behaviour::reply(b"the answer"));
    let server = start(&application, "by-value", "");
    let content = pattern(1, 100_000);
    let mut raw = server.raw();
    let session = raw.create(&format!("{FILE}?x=1&y=%20z"));
    assert_next(&raw.fragment(FILE, &session, 0, &content[..5000], 100_000), 5000);
    assert!(application.seen().is_empty());
    let last = raw.fragment(FILE, &session, 5000, &content[5000..], 100_000);
    assert_next(&last, 100_000);
    let url = format!("../BITS-Sessions/Replies/{session}/responsefile.bin");
    assert_eq!(last.header("BITS-Reply-URL"), Some(url.as_str()));

    let seen = application.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].line, "POST /app?own=1&x=1&y=%20z HTTP/1.1");
    assert!(seen[0].body == content, "the application got something else");
    for (name, expected) in [
        ("Content-Length", "100000".to_owned()),
        ("BITS-Original-Request-URL", format!("http://localhost{FILE}")),
        ("BITS-Remote-Address", "127.0.0.1".to_owned()),
    ] {
        assert_eq!(seen[0].header(name), Some(expected.as_str()));
    }
    assert!(seen[0].header("User-Agent").unwrap().starts_with("bits-server/"));
    assert_eq!(seen[0].header("BITS-Notification-Id").map(str::len), Some(38));
    for absent in ["BITS-Remote-User", "BITS-Request-DataFile-Name", "Transfer-Encoding"] {
        assert_eq!(seen[0].header(absent), None);
    }

    assert_eq!(fetch(&server, &last).body, b"the answer");
    let encoded = url.replace("../", "/upload/").replace('{', "%7B").replace('}', "%7D");
    assert_eq!(get(&server, &encoded).body, b"the answer");
    // The ack was lost.
    let again = raw.fragment(FILE, &session, 5000, &content[5000..], 100_000);
    assert_eq!(again.header("BITS-Reply-URL"), Some(url.as_str()));
    assert_eq!(application.seen().len(), 1, "it is told once");
    assert_ok(&raw.close(FILE, &session), 200);
    assert_eq!(get(&server, &encoded).status, 404);
    assert_next(&raw.fragment(FILE, &session, 5000, &content[5000..], 100_000), 100_000);
    assert_eq!(server.file("upload/a/file.bin"), None, "nobody asked for it to be published");
    assert_staging_empty(&server.files());
}

#[test]
fn an_upload_is_handed_over_by_reference() {
    let application = Application::start(Behaviour::Leave(b"from a file".to_vec(), Vec::new()));
    let server = start(&application, "by-reference", "");
    let mut raw = server.raw();
    let content = pattern(2, 70_000);
    let (session, last) = upload(&mut raw, &content);
    assert_next(&last, 70_000);
    let seen = &application.seen()[0];
    assert_eq!((seen.length, seen.header("Content-Length")), (0, Some("0")));
    assert!(fs::read(seen.header("BITS-Request-DataFile-Name").unwrap()).unwrap() == content);
    assert!(!Path::new(seen.header("BITS-Response-DataFile-Name").unwrap()).exists(), "the reply was not taken over");
    assert_eq!(fetch(&server, &last).body, b"from a file");
    assert_ok(&raw.cancel(FILE, &session), 200);
    assert_eq!(fetch(&server, &last).status, 404);
    assert_staging_empty(&server.files());
    // The body of its answer is no reply, nor is an empty file.
    for behaviour in [Behaviour::reply(b"ignored"), Behaviour::Leave(Vec::new(), Vec::new())] {
        application.set(behaviour);
        let (session, last) = upload(&mut raw, &content);
        assert_next(&last, 70_000);
        assert_eq!(last.header("BITS-Reply-URL"), None);
        assert_ok(&raw.close(FILE, &session), 200);
    }
    assert_staging_empty(&server.files());
}

/// What an application may do, and the ack that it makes by value and by reference.
fn misbehaviours() -> Vec<(Behaviour, [Ack; 2])> {
    let answer = |status, headers: &[(&'static str, &str)]| {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Behaviour::Answer(status, headers, b"not for the client".to_vec())
    };
    let code = |code| answer(500, &[("BITS-Error-Code", code)]);
    let (gateway, late) = (Ack::Error(502, 0x8019_01F6), Ack::Error(408, 0x8007_2EE2));
    let both = |behaviour, ack| (behaviour, [ack, ack]);
    let early = |then| Behaviour::Early(Rest::Closes, Box::new(then));
    let mut all = vec![
        both(Behaviour::CloseAtOnce, gateway),
        both(Behaviour::CloseUnanswered, gateway),
        both(Behaviour::Garbage, gateway),
        // Interim answers, and none after them.
        both(answer(100, &[]), gateway),
        both(answer(103, &[]), gateway),
        both(early(Behaviour::Garbage), gateway),
        both(early(Behaviour::status(503)), Ack::Error(503, 0x8019_01F7)),
        both(Behaviour::HangTaking, late),
        both(Behaviour::HangHead, late),
        // By reference the body of an answer is ignored.
        (Behaviour::BreakBody, [gateway, Ack::Taken]),
        (Behaviour::HangBody, [late, Ack::Taken]),
        both(answer(301, &[("Location", "/elsewhere")]), Ack::Error(301, 0x8019_012D)),
        both(answer(302, &[("Location", "/")]), Ack::Error(302, 0x8019_012E)),
        both(answer(307, &[("Location", "/")]), Ack::Error(307, 0x8019_0133)),
        both(answer(401, &[("WWW-Authenticate", "Basic realm=x")]), Ack::Error(400, 0x8019_0191)),
        both(code("0x80070005"), Ack::Error(500, 0x8007_0005)),
        both(code("0x8020001F"), Ack::Error(500, 0x8019_01F4)),
        both(code("0x80200020"), Ack::Error(500, 0x8019_01F4)),
        both(code("nonsense"), Ack::Error(500, 0x8019_01F4)),
        both(answer(200, &[(STATIC, "/relative")]), Ack::Error(400, 0x8007_0057)),
    ];
    for (status, expected) in [
        (101, 500),
        (201, 500),
        (202, 500),
        (204, 500),
        (206, 500),
        (300, 300),
        (304, 500),
        (400, 400),
        (404, 404),
        (407, 400),
        (413, 400),
        (416, 400),
        (500, 500),
        (501, 501),
        (503, 503),
        (599, 599),
        (600, 600),
        (999, 999),
    ] {
        all.push(both(answer(status, &[]), Ack::Error(expected, 0x8019_0000 + u32::from(status))));
    }
    all
}

#[derive(Clone, Copy, Debug)]
enum Ack {
    /// The application has taken the upload, and gave no reply.
    Taken,
    /// With this status and code.
    Error(u16, u32),
}

/// Each has its ack, and the session goes on with its bytes: no redirect is followed, nothing is
/// told twice unasked, and each time by the same id.
#[test]
fn whatever_an_application_does_has_its_ack_and_keeps_the_session() {
    thread::scope(|scope| {
        for (mode, kind) in ["by-value", "by-reference"].into_iter().enumerate() {
            scope.spawn(move || bear_with(mode, kind));
        }
    });
}

fn bear_with(mode: usize, kind: &str) {
    let application = Application::start(Behaviour::status(200));
    let server = start(&application, kind, "notification_timeout = \"1s\"");
    // More than sockets hold.
    let content = pattern(3, 12 << 20);
    let total = content.len() as u64;
    let mut raw = server.raw();
    let mut session = raw.create(FILE);
    let mut first = &content[..];
    let mut ids = Vec::new();
    for (behaviour, acks) in misbehaviours() {
        let told = application.seen().len();
        application.set(behaviour.clone());
        // Once all of it is there, a byte that the server has makes it tell the application again.
        let response = raw.fragment(FILE, &session, 0, first, total);
        first = &content[..1];
        assert_eq!(response.header("BITS-Reply-URL"), None, "{kind} {behaviour:?}");
        assert_eq!(response.header("Location").or(response.header("WWW-Authenticate")), None);
        match acks[mode] {
            Ack::Error(status, code) => assert_application(&response, status, code),
            Ack::Taken => {
                assert_next(&response, total);
                assert_ok(&raw.close(FILE, &session), 200);
                session = raw.create(FILE);
                first = &content[..];
            }
        }
        let heard = usize::from(!matches!(behaviour, Behaviour::CloseAtOnce));
        wait_until("the application says what it was told", || application.seen().len() >= told + heard);
        let seen = application.seen();
        assert_eq!(seen.len() - told, heard, "{kind} {behaviour:?}");
        let id = seen.last().and_then(|last| last.header("BITS-Notification-Id")).map(str::to_owned);
        ids.extend(id.map(|id| (session.clone(), id)));
        if matches!(acks[mode], Ack::Taken) {
            ids.clear();
        }
    }
    assert!(ids.len() > 10 && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let reply = b"at last".to_vec();
    application.set(if kind == "by-value" { Behaviour::reply(&reply) } else { Behaviour::Leave(reply, Vec::new()) });
    let last = raw.fragment(FILE, &session, 0, &content[..1], total);
    assert_next(&last, total);
    assert_eq!(fetch(&server, &last).body, b"at last");
    let seen = application.seen().pop().unwrap();
    assert!(kind == "by-reference" || (seen.length == total && seen.body[..] == content[..seen.body.len()]));
    assert_ok(&raw.close(FILE, &session), 200);
    assert_staging_empty(&server.files());
}

#[test]
fn an_application_that_cannot_be_reached_keeps_the_session() {
    let mut config = String::new();
    let mut paths = Vec::new();
    for kind in ["by-value", "by-reference"] {
        for (name, url) in [
            ("closed", "http://127.0.0.1:1/"),
            ("unresolved", "http://does-not-exist.invalid/"),
            ("secure", "https://127.0.0.1:1/"),
        ] {
            config += &format!("[[directories]]\nurl_path = \"/{kind}/{name}\"\n");
            config += &format!("notification_type = \"{kind}\"\nnotification_url = \"{url}\"\n");
            paths.push(format!("/{kind}/{name}/file.bin"));
        }
    }
    let server = Server::start(ServerOptions::new().config(&config));
    let mut raw = server.raw();
    for path in paths {
        let session = raw.create(&path);
        for content in [&b"content"[..], b"c"] {
            assert_application(&raw.fragment(&path, &session, 0, content, 7), 502, 0x8019_01F6);
        }
        assert_ok(&raw.cancel(&path, &session), 200);
    }
    assert_staging_empty(&server.files());
}

/// An upload by value goes through the server in pieces, however slowly it is taken.
#[test]
fn an_upload_by_value_is_not_held_in_memory() {
    const TOTAL: u64 = 256 << 20;
    const PIECE: usize = 32 << 20;
    let application = Application::start(Behaviour::Stall(Duration::from_secs(2), Box::new(Behaviour::status(200))));
    let server = start(&application, "by-value", "");
    let mut raw = server.raw();
    raw.patience(Duration::from_secs(120));
    let session = raw.create(FILE);
    let piece = pattern(9, PIECE);
    let last = TOTAL - PIECE as u64;
    for offset in (0..last).step_by(PIECE) {
        assert_next(&raw.fragment(FILE, &session, offset, &piece, TOTAL), offset + PIECE as u64);
    }
    // All but the last byte, so that what comes next is the telling alone.
    assert_next(&raw.fragment(FILE, &session, last, &piece[..PIECE - 1], TOTAL), TOTAL - 1);
    let before = memory(&server, "VmRSS:");
    // Makes the present use the peak.
    fs::write(format!("/proc/{}/clear_refs", server.pid()), "5").unwrap();
    assert_next(&raw.fragment(FILE, &session, TOTAL - 1, &piece[PIECE - 1..], TOTAL), TOTAL);
    let more = memory(&server, "VmHWM:").saturating_sub(before);
    assert_eq!(application.seen()[0].length, TOTAL);
    assert!(more < 16 << 10, "telling the application took {more} KiB more");
    assert_ok(&raw.close(FILE, &session), 200);
    assert_staging_empty(&server.files());
}

/// A figure of the server's memory, in KiB.
fn memory(server: &Server, figure: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let text = status.lines().find_map(|line| line.strip_prefix(figure)).unwrap();
    text.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Its answer is what counts, whatever becomes of the rest of the upload.
#[test]
fn an_application_may_answer_before_it_has_read_the_upload() {
    let application = Application::start(Behaviour::status(200));
    let server = start(&application, "by-value", "");
    // More than sockets hold.
    let content = pattern(4, 24 << 20);
    let mut raw = server.raw();
    for rest in [Rest::Closes, Rest::Reads, Rest::Leaves] {
        let early = |then: Behaviour| application.set(Behaviour::Early(rest, Box::new(then)));
        let session = raw.create(FILE);
        let told = application.seen().len();
        for (status, expected) in [(413, 400), (503, 503)] {
            early(Behaviour::status(status));
            let response = send(&mut raw, &session, &content);
            assert_application(&response, expected, 0x8019_0000 + u32::from(status));
        }
        early(Behaviour::reply(b"enough"));
        let last = send(&mut raw, &session, &content);
        assert_next(&last, content.len() as u64);
        assert_eq!(fetch(&server, &last).body, b"enough", "{rest:?}");
        assert_ok(&raw.close(FILE, &session), 200);
        early(Behaviour::status(403));
        let (session, response) = upload(&mut raw, &content);
        assert_application(&response, 403, 0x8019_0193);
        assert_ok(&raw.cancel(FILE, &session), 200);
        wait_until("the application is done", || application.seen().len() == told + 4);
        assert_staging_empty(&server.files());
    }
    wait_until("no upload that is over is sent any more", || {
        let open = fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().flatten();
        let names = open.flat_map(|file| fs::read_link(file.path()));
        !names.into_iter().any(|name| name.to_string_lossy().ends_with("(deleted)"))
    });
    for left in application.seen().iter().skip(8) {
        assert!(left.length < content.len() as u64, "the upload went on after its answer");
    }
}

#[test]
fn a_403_is_final() {
    let code = vec![("BITS-Error-Code", "0x80070522".to_owned())];
    let application = Application::start(Behaviour::Answer(403, code, Vec::new()));
    let mut server = start(&application, "by-value", "");
    let mut raw = server.raw();
    let (session, response) = upload(&mut raw, b"content");
    assert_application(&response, 403, 0x8007_0522);
    application.set(Behaviour::status(200));
    server.restart();
    let mut raw = server.raw();
    for _ in 0..2 {
        assert_application(&send(&mut raw, &session, b"content"), 403, 0x8007_0522);
        assert_application(&raw.close(FILE, &session), 403, 0x8007_0522);
    }
    assert_eq!(application.seen().len(), 1, "it was asked again after its 403");
    // An operator may know better.
    let binary = tests::server_binary();
    let config = server.folder().join("bits.toml");
    let data = server.data_dir();
    let retry = std::process::Command::new(binary)
        .args(["sessions", "retry", &session, "--config", config.to_str().unwrap()])
        .env("BITS__DATA_DIR", data)
        .output()
        .unwrap();
    assert!(retry.status.success(), "{}", String::from_utf8_lossy(&retry.stderr));
    wait_until("the application is told again", || application.seen().len() == 2);
    assert_next(&send(&mut raw, &session, b"content"), 7);
    assert_eq!(application.seen().len(), 2);
    assert_ok(&raw.close(FILE, &session), 200);
    assert_staging_empty(&server.files());
}

#[test]
fn a_newer_request_joins_the_notification() {
    let slow = Behaviour::Slow(Duration::from_secs(2), Box::new(Behaviour::reply(b"late")));
    let application = Application::start(slow);
    let server = start(&application, "by-value", "");
    let mut first = server.raw();
    let session = first.create(FILE);
    first.send(&Packet::fragment(Form::Native, FILE, &session, 0, b"content", 7).encode());
    wait_until("the application is told", || application.seen().len() == 1);
    let mut second = server.raw();
    let last = send(&mut second, &session, b"content");
    assert_next(&last, 7);
    assert_next(&first.receive(), 7);
    assert_eq!(application.seen().len(), 1, "it is told once");
    assert_eq!(fetch(&server, &last).body, b"late");
}

#[test]
fn a_cancel_waits_for_the_notification() {
    let slow = Behaviour::Slow(Duration::from_secs(1), Box::new(Behaviour::reply(b"late")));
    let application = Application::start(slow);
    let server = start(&application, "by-value", "");
    let mut first = server.raw();
    let session = first.create(FILE);
    first.send(&Packet::fragment(Form::Native, FILE, &session, 0, b"content", 7).encode());
    wait_until("the application is told", || application.seen().len() == 1);
    assert_ok(&server.raw().cancel(FILE, &session), 200);
    assert_staging_empty(&server.files());
}

/// Whatever the server was doing: after a restart the application is told again, by the same id.
#[test]
fn a_server_that_is_killed_tells_again() {
    let application = Application::start(Behaviour::HangHead);
    let mut server = start(&application, "by-value", "");
    let mut raw = server.raw();
    let session = raw.create(FILE);
    raw.send(&Packet::fragment(Form::Native, FILE, &session, 0, b"content", 7).encode());
    wait_until("the application is told", || application.seen().len() == 1);
    server.kill();
    application.set(Behaviour::reply(b"at last"));
    server.restart();
    wait_until("the application is told again", || application.seen().len() == 2);
    let last = send(&mut server.raw(), &session, b"content");
    assert_next(&last, 7);
    assert_eq!(fetch(&server, &last).body, b"at last");
    let seen = application.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].header("BITS-Notification-Id"), seen[1].header("BITS-Notification-Id"));
    assert!(seen[1].body == b"content");
}

/// A stopping server does not wait for a slow application.
#[test]
fn a_server_that_is_stopped_tells_again() {
    let application = Application::start(Behaviour::HangHead);
    let lines = application.lines("by-value", "");
    let config = format!("shutdown_grace = \"1s\"\n[[directories]]\nurl_path = \"/upload\"\n{lines}");
    let mut server = Server::start(ServerOptions::new().config(&config));
    let mut raw = server.raw();
    let session = raw.create(FILE);
    raw.send(&Packet::fragment(Form::Native, FILE, &session, 0, b"content", 7).encode());
    wait_until("the application is told", || application.seen().len() == 1);
    assert!(server.terminate().success());
    application.set(Behaviour::status(200));
    server.launch();
    assert_next(&send(&mut server.raw(), &session, b"content"), 7);
    assert_eq!(application.seen().len(), 2);
}

#[test]
fn a_static_reply_is_handed_on() {
    let application = Application::start(Behaviour::status(200));
    let server = start(&application, "by-value", "");
    let mut raw = server.raw();
    let url = |length: usize| format!("https://replies.example/{}", "r".repeat(length - 24));
    for good in ["http://replies.example/{x}?y".to_owned(), url(2200)] {
        application.set(Behaviour::Answer(200, vec![(STATIC, good.clone())], b"overridden".to_vec()));
        let (session, last) = upload(&mut raw, b"content");
        assert_eq!(last.header("BITS-Reply-URL"), Some(good.as_str()));
        assert_eq!(get(&server, &format!("/upload/BITS-Sessions/Replies/{session}/responsefile.bin")).status, 404);
        assert_ok(&raw.close(FILE, &session), 200);
    }
    for bad in ["/relative".to_owned(), "replies.example/x".to_owned(), url(2201)] {
        application.set(Behaviour::header(STATIC, &bad));
        let (session, last) = upload(&mut raw, b"content");
        assert_application(&last, 400, 0x8007_0057);
        assert_ok(&raw.cancel(FILE, &session), 200);
    }
    assert_staging_empty(&server.files());
}

#[test]
fn an_upload_is_published_when_the_application_asks() {
    for (kind, publish) in [("by-value", "last-fragment"), ("by-reference", "close-session")] {
        let application = Application::start(Behaviour::header(COPY, ""));
        let server = start(&application, kind, &format!("publish = \"{publish}\""));
        let mut raw = server.raw();
        let (session, last) = upload(&mut raw, b"content");
        assert_next(&last, 7);
        assert_eq!(server.file("upload/a/file.bin").is_some(), publish == "last-fragment");
        assert_next(&send(&mut raw, &session, b"content"), 7);
        assert_ok(&raw.close(FILE, &session), 200);
        assert_eq!(server.file("upload/a/file.bin").unwrap(), b"content");
        assert_eq!(application.seen().len(), 1);
        assert_staging_empty(&server.files());
    }
}

/// The recipe for scanning: what is refused never stands at its destination.
#[test]
fn uploads_are_scanned_before_they_are_published() {
    let application = Application::start(Behaviour::status(403));
    let server = start(&application, "by-reference", "");
    let mut raw = server.raw();
    let (session, refused) = upload(&mut raw, b"evil");
    assert_application(&refused, 403, 0x8019_0193);
    assert_ok(&raw.cancel(FILE, &session), 200);
    assert_eq!(server.file("upload/a/file.bin"), None);
    application.set(Behaviour::header(COPY, "yes"));
    let (session, last) = upload(&mut raw, b"good");
    assert_next(&last, 4);
    assert_eq!(server.file("upload/a/file.bin").unwrap(), b"good");
    assert_ok(&raw.close(FILE, &session), 200);
    assert_staging_empty(&server.files());
}

/// A scanner that puts what it refuses into quarantine is asked once, and the client is not sent back.
#[test]
fn what_is_refused_may_be_taken_away() {
    let application = Application::start(Behaviour::status(403));
    let server = start(&application, "by-reference", "");
    let quarantine = server.data_dir().join("quarantine");
    application.set(Behaviour::Take(quarantine.clone(), Box::new(Behaviour::status(403))));
    let mut raw = server.raw();
    let (session, refused) = upload(&mut raw, b"evil");
    assert_application(&refused, 403, 0x8019_0193);
    for _ in 0..2 {
        assert_application(&send(&mut raw, &session, b"evil"), 403, 0x8019_0193);
    }
    assert_eq!(application.seen().len(), 1);
    assert_eq!(fs::read(quarantine).unwrap(), b"evil");
    assert_ok(&raw.cancel(FILE, &session), 200);
    assert_staging_empty(&server.files());
}

/// An application that took the file and died before it could say so has its file for itself.
#[test]
fn an_upload_that_was_taken_away_comes_again() {
    let application = Application::start(Behaviour::status(200));
    let server = start(&application, "by-reference", "");
    let taken = server.data_dir().join("taken");
    application.set(Behaviour::Take(taken.clone(), Box::new(Behaviour::CloseUnanswered)));
    let mut raw = server.raw();
    let (session, last) = upload(&mut raw, b"content");
    assert_next(&last, 0);
    application.set(Behaviour::header(COPY, ""));
    assert_next(&send(&mut raw, &session, b"CONTENT"), 7);
    assert_eq!(server.file("upload/a/file.bin").unwrap(), b"CONTENT");
    assert_eq!(fs::read(taken).unwrap(), b"content", "the application's own file was written to");
    assert_ok(&raw.close(FILE, &session), 200);
    assert_staging_empty(&server.files());
}

#[test]
fn a_spoilt_upload_comes_again() {
    let copy = Behaviour::Leave(Vec::new(), vec![(COPY, String::new())]);
    let application = Application::start(Behaviour::Spoil(Box::new(copy.clone())));
    let server = start(&application, "by-reference", "");
    let mut raw = server.raw();
    let (session, last) = upload(&mut raw, b"content");
    assert_next(&last, 0);
    assert_eq!(server.file("upload/a/file.bin"), None);
    application.set(copy);
    assert_next(&send(&mut raw, &session, b"content"), 7);
    assert_eq!(server.file("upload/a/file.bin").unwrap(), b"content");
}

#[test]
fn an_empty_upload_is_told_of() {
    for kind in ["by-value", "by-reference"] {
        let application = Application::start(Behaviour::header(COPY, ""));
        let server = start(&application, kind, "");
        let mut raw = server.raw_in(Form::Override);
        let session = raw.create(FILE);
        assert_ok(&raw.close(FILE, &session), 200);
        let seen = application.seen();
        assert_eq!((seen.len(), seen[0].length), (1, 0));
        assert_eq!(server.file("upload/a/file.bin").unwrap(), b"");
        assert_staging_empty(&server.files());
    }
}

#[test]
fn replies_of_any_size() {
    const GIB: u64 = 1 << 30;
    let application = Application::start(Behaviour::Zeros(0));
    let server = start(&application, "by-value", "");
    for length in [0, 1, GIB] {
        application.set(Behaviour::Zeros(length));
        let mut raw = server.raw();
        raw.patience(Duration::from_secs(120));
        let (session, last) = upload(&mut raw, b"content");
        assert_next(&last, 7);
        if length == 0 {
            assert_eq!(last.header("BITS-Reply-URL"), None);
        } else {
            let path = last.header("BITS-Reply-URL").unwrap().replace("../", "/upload/");
            let mut raw = server.raw();
            raw.send(format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
            assert_eq!(raw.receive().header("Content-Length"), Some(length.to_string().as_str()));
            let range = format!("Range: bytes={}-\r\n", length - 1);
            raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{range}\r\n").as_bytes());
            let part = raw.receive();
            assert_eq!((part.status, part.body), (206, vec![0]));
        }
        assert_ok(&raw.close(FILE, &session), 200);
    }
    let peak = memory(&server, "VmHWM:");
    assert!(peak < 200 << 10, "the server took {peak} KiB");
    assert_staging_empty(&server.files());
}

/// A listener with TLS says so to the application, which may speak TLS too.
#[test]
fn an_application_behind_https_is_told() {
    let authority = Authority::new("authority");
    let application = Application::start_tls(Behaviour::reply(b"safely"), &authority.issue(2, "application"));
    let listener = "[[listeners]]\naddress = \"$LISTENER\"\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n";
    let directory = "url_path = \"/upload\"\nnotification_type = \"by-value\"\nnotification_url";
    let url = format!("https://{}/app", application.address());
    let options = ServerOptions::new().config(&format!("{listener}[[directories]]\n{directory} = \"{url}\"\n"));
    let mut server = Server::prepare(options.clone());
    authority.issue(1, "server").write(server.folder());
    let authorities = server.folder().join("authorities.pem");
    fs::write(&authorities, authority.pem()).unwrap();
    let trusting = options.clone().env("SSL_CERT_FILE", authorities.to_str().unwrap());
    for (options, expected) in [(options, 502), (trusting, 200)] {
        server.options = options;
        server.launch();
        let mut raw = server.raw_listener().tls(&authority.client()).unwrap();
        let (_, last) = upload(&mut raw, b"content");
        assert_eq!(last.status, expected, "{last:?}");
        server.kill();
    }
    let seen = application.seen();
    assert_eq!((seen.len(), seen[0].line.as_str()), (1, "POST /app HTTP/1.1"));
    let original = format!("https://localhost{FILE}");
    assert_eq!(seen[0].header("BITS-Original-Request-URL"), Some(original.as_str()));
}

/// The query of Create-Session makes the notification's URL; what would be too long is refused
/// before anything is uploaded.
#[test]
fn a_notification_url_has_at_most_2200_characters() {
    let application = Application::start(Behaviour::status(200));
    let server = start(&application, "by-value", "");
    let room = 2200 - application.url("/app?own=1").len() - 1;
    let mut raw = server.raw();
    let create = |length: usize| Packet::create(Form::Native, &format!("{FILE}?{}", "q".repeat(length)));
    assert_ok(&raw.ask(&create(room)), 200);
    tests::assert_error(&raw.ask(&create(room + 1)), 400, 0x8007_0057);
}

#[test]
fn a_relative_url_is_resolved_against_the_upload() {
    let application = Application::start(Behaviour::reply(b"r"));
    let public = application.url("");
    let directory = "url_path = \"/upload\"\nnotification_type = \"by-value\"\nnotification_url = \"../app\"";
    let config = format!("public_url = \"{public}\"\n[[directories]]\n{directory}");
    let server = Server::start(ServerOptions::new().config(&config));
    let (session, last) = upload(&mut server.raw(), b"content");
    let url = format!("{public}/upload/BITS-Sessions/Replies/{session}/responsefile.bin");
    assert_eq!(last.header("BITS-Reply-URL"), Some(url.as_str()), "{last:?}");
    let seen = application.seen();
    assert_eq!(seen[0].line, "POST /upload/app HTTP/1.1");
    assert_eq!(seen[0].header("BITS-Original-Request-URL"), Some(format!("{public}{FILE}").as_str()));
}
