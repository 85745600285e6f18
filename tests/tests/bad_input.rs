//! What clients must not send: the status and the ack are right, the connection is in a sane state
//! (it takes another request, or it is closed), nothing is stored wrongly, and the log stays clean.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use tests::{
    Form, Packet, Raw, Response, Server, ServerOptions, assert_clean_log, assert_error, assert_invariants, assert_next,
    assert_ok, assert_staging_empty, list_files, wait_until,
};

const INVALID_ARGUMENT: u32 = 0x8007_0057;
const PATH: &str = "/upload/a";

/// A session of a fresh server that holds `hello` of 10 bytes.
fn half_uploaded(options: ServerOptions, form: Form) -> (Server, Raw, String) {
    let server = Server::start(options);
    let mut raw = server.raw_in(form);
    let session = raw.create(PATH);
    assert_next(&raw.fragment(PATH, &session, 0, b"hello", 10), 5);
    (server, raw, session)
}

/// The session goes on from `next` on a new connection and ends as `helloworld`.
#[track_caller]
fn assert_goes_on(server: &Server, session: &str, next: usize) {
    let mut raw = server.raw();
    let response = raw.fragment(PATH, session, next as u64, &b"helloworld"[next..], 10);
    assert_next(&response, 10);
    assert_ok(&raw.close(PATH, session), 200);
    assert!(server.file("upload/a").as_deref() == Some(b"helloworld"), "the file is what was sent");
    assert_staging_empty(&server.files());
    assert_clean_log(&server.log_bytes());
}

/// The answer of the HTTP layer to what cannot be framed: no ack, and the connection is closed.
#[track_caller]
fn assert_unframed(raw: &mut Raw, status: u16) {
    let response = raw.receive();
    assert_eq!(response.status, status, "{response:#?}");
    assert_eq!(response.header("BITS-Packet-Type"), None, "{response:#?}");
    assert!(response.body.is_empty(), "{response:#?}");
    assert!(raw.is_closed(), "the connection must end");
}

/// The connection takes another packet.
#[track_caller]
fn assert_usable(raw: &mut Raw) {
    assert_ok(&raw.ping(PATH), 200);
}

/// Where the session stands, asked with a fragment that leaves a gap.
fn next_offset(server: &Server, session: &str) -> Option<u64> {
    let response = server.raw().fragment(PATH, session, 9, b"d", 10);
    assert_invariants(&response);
    response.next_offset()
}

/// The size of what is under way.
fn staged_bytes(server: &Server) -> u64 {
    let files = list_files(&server.files());
    files.iter().filter_map(|file| server.files().join(file).metadata().ok()).map(|file| file.len()).sum()
}

#[test]
fn bytes_that_came_before_a_connection_broke_are_kept() {
    for form in Form::ALL {
        let (server, mut raw, session) = half_uploaded(ServerOptions::new(), form);
        let packet = Packet::fragment(form, PATH, &session, 5, b"world", 10);
        raw.send(&packet.head());
        raw.send(b"wo");
        raw.finish_sending();
        assert!(raw.is_closed(), "there is no answer to half a body");
        wait_until("what came is stored", || staged_bytes(&server) == 7);
        assert_eq!(next_offset(&server, &session), Some(7));
        assert_goes_on(&server, &session, 7);
    }
}

#[test]
fn bytes_that_came_before_a_client_vanished_are_kept() {
    let (server, mut raw, session) = half_uploaded(ServerOptions::new(), Form::Native);
    raw.send(&Packet::fragment(Form::Native, PATH, &session, 5, b"world", 10).head());
    raw.send(b"wor");
    drop(raw);
    // A packet that came earlier would cut the request off before it has read what came.
    wait_until("what came is stored", || staged_bytes(&server) == 8);
    assert_eq!(next_offset(&server, &session), Some(8));
    assert_goes_on(&server, &session, 8);
}

#[test]
fn chunks_that_break_off_or_cannot_be_read_are_no_end_of_a_body() {
    for (tail, next) in
        [("3\r\nwor", 8), ("3\r\nwor\r\n", 8), ("3\r\nwor\r\nzz\r\n", 8), ("-5\r\nworld\r\n0\r\n\r\n", 5)]
    {
        let (server, mut raw, session) = half_uploaded(ServerOptions::new(), Form::Override);
        let packet = Packet::fragment(Form::Override, PATH, &session, 5, b"world", 10)
            .without("Content-Length")
            .with("Transfer-Encoding", "chunked")
            .raw_body(tail.as_bytes());
        raw.send(&packet.encode());
        raw.finish_sending();
        assert!(raw.is_closed(), "there is no answer to {tail:?}");
        wait_until("what came is stored", || staged_bytes(&server) == next);
        assert_eq!(next_offset(&server, &session), Some(next));
        assert_goes_on(&server, &session, usize::try_from(next).unwrap());
    }
}

#[test]
fn bytes_after_the_length_are_the_next_request_and_no_part_of_the_file() {
    for form in Form::ALL {
        let (server, mut raw, session) = half_uploaded(ServerOptions::new(), form);
        let packet = Packet::fragment(form, PATH, &session, 5, b"world", 10);
        raw.send(&[&packet.encode(), b"!!! and more\r\n\r\n".as_slice()].concat());
        assert_next(&raw.receive(), 10);
        assert_unframed(&mut raw, 400);
        assert_goes_on(&server, &session, 5);
    }
}

#[test]
fn a_length_beyond_the_range_stores_nothing() {
    for form in Form::ALL {
        let (server, mut raw, session) = half_uploaded(ServerOptions::new(), form);
        let packet =
            Packet::fragment(form, PATH, &session, 5, b"world and more", 19).with("Content-Range", "bytes 5-9/10");
        assert_error(&raw.ask(&packet), 400, INVALID_ARGUMENT);
        assert_usable(&mut raw);
        assert_eq!(next_offset(&server, &session), Some(5));
        assert_goes_on(&server, &session, 5);
    }
}

#[test]
fn two_equal_lengths_are_one() {
    // RFC 9112 section 6.3 lets a server take or refuse them; it must not see two requests in them.
    for form in Form::ALL {
        let (server, mut raw, session) = half_uploaded(ServerOptions::new(), form);
        let packet = Packet::fragment(form, PATH, &session, 5, b"world", 10).and("Content-Length", "5");
        assert_next(&raw.ask(&packet), 10);
        assert_usable(&mut raw);
        assert_goes_on(&server, &session, 5);
    }
}

#[test]
fn different_or_broken_lengths_cannot_be_framed() {
    let (server, _, session) = half_uploaded(ServerOptions::new(), Form::Native);
    for form in Form::ALL {
        let packet = Packet::fragment(form, PATH, &session, 5, b"world", 10);
        let mut raw = server.raw();
        raw.send(&packet.clone().and("Content-Length", "6").encode());
        assert_unframed(&mut raw, 400);
        for length in ["+5", "-5", "5 5", "5, 6", "0x5", "", "five", "5.0", "99999999999999999999"] {
            println!("{length:?}");
            let mut raw = server.raw();
            raw.send(&packet.clone().with("Content-Length", length).encode());
            assert_unframed(&mut raw, 400);
        }
    }
    assert_eq!(next_offset(&server, &session), Some(5));
    assert_goes_on(&server, &session, 5);
}

#[test]
fn a_length_together_with_chunks_does_not_smuggle() {
    for form in Form::ALL {
        for chunked_first in [false, true] {
            let (server, mut raw, session) = half_uploaded(ServerOptions::new(), form);
            let smuggled = Packet::cancel(form, PATH, &session).encode();
            let mut packet = Packet::fragment(form, PATH, &session, 5, b"world", 10).with("Content-Length", "15");
            let at = if chunked_first { 0 } else { packet.headers.len() };
            packet.headers.insert(at, ("Transfer-Encoding".to_owned(), b"chunked".to_vec()));
            let body = [b"5\r\nworld\r\n0\r\n\r\n".as_slice(), &smuggled].concat();
            raw.send(&packet.raw_body(&body).encode());
            let response = raw.receive();
            assert_invariants(&response);
            // RFC 9112 section 6.1: whatever the answer is, the connection must not go on.
            assert!(raw.is_closed(), "the connection must end after {response:#?}");
            let taken = response.status == 200;
            assert!(taken || response.hresult() == Some(INVALID_ARGUMENT), "{response:#?}");
            assert!(!taken || form == Form::Override, "only the override form has chunks: {response:#?}");
            assert_goes_on(&server, &session, 5);
        }
    }
}

#[test]
fn transfer_codings_other_than_chunked_are_refused() {
    let (server, _, session) = half_uploaded(ServerOptions::new(), Form::Native);
    for form in Form::ALL {
        for coding in ["gzip", "identity", "chunked, gzip", "chunkedd", ""] {
            println!("{form:?} {coding:?}");
            let packet = Packet::fragment(form, PATH, &session, 5, b"world", 10)
                .without("Content-Length")
                .with("Transfer-Encoding", coding)
                .raw_body(b"5\r\nworld\r\n0\r\n\r\n");
            let mut raw = server.raw();
            raw.send(&packet.encode());
            assert_unframed(&mut raw, 400);
        }
    }
    assert_eq!(next_offset(&server, &session), Some(5));
    assert_goes_on(&server, &session, 5);
}

/// The server undoes chunks alone: what is coded besides is not what the file holds.
#[test]
fn codings_before_the_chunks_are_refused() {
    let (server, mut raw, session) = half_uploaded(ServerOptions::new(), Form::Override);
    for coding in ["gzip, chunked", "identity, chunked", "chunked, chunked", ",chunked"] {
        let packet = Packet::fragment(Form::Override, PATH, &session, 5, b"world", 10)
            .without("Content-Length")
            .with("Transfer-Encoding", coding)
            .raw_body(b"5\r\nworld\r\n0\r\n\r\n");
        assert_error(&raw.ask(&packet), 400, INVALID_ARGUMENT);
    }
    assert_goes_on(&server, &session, 5);
}

#[test]
fn absurdly_many_headers_are_refused() {
    let server = Server::start(ServerOptions::new());
    for count in [200, 5_000] {
        let mut packet = Packet::create(Form::Native, PATH);
        packet.headers.extend((0..count).map(|number| (format!("X-{number}"), b"1".to_vec())));
        let mut raw = server.raw();
        let _ = raw.try_send(&packet.encode());
        assert_unframed(&mut raw, 431);
    }
    assert_eq!(list_files(&server.files()), Vec::<String>::new());
}

#[test]
fn absurdly_long_headers_are_refused() {
    let server = Server::start(ServerOptions::new());
    let long = "x".repeat(1 << 20);
    for packet in [
        Packet::create(Form::Native, PATH).with("X-Long", &long),
        Packet::create(Form::Native, PATH).with(&long, "x"),
        Packet::create(Form::Native, PATH).with("BITS-Supported-Protocols", &long),
    ] {
        let mut raw = server.raw();
        let _ = raw.try_send(&packet.encode());
        match raw.try_receive() {
            Ok(response) => assert_eq!(response.status, 431, "{response:#?}"),
            // The answer can be lost when the server closes on what is still in flight.
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
    assert_usable(&mut server.raw());
    assert_eq!(list_files(&server.files()), Vec::<String>::new());
}

#[test]
fn an_absurdly_long_target_is_refused() {
    let server = Server::start(ServerOptions::new());
    let mut raw = server.raw();
    let _ = raw.try_send(&Packet::create(Form::Native, &format!("/upload/{}", "x".repeat(1 << 20))).encode());
    match raw.try_receive() {
        Ok(response) => assert!(matches!(response.status, 414 | 431), "{response:#?}"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    assert_usable(&mut server.raw());
}

#[test]
fn what_is_no_http_is_refused() {
    let server = Server::start(ServerOptions::new());
    let good = String::from_utf8(Packet::create(Form::Native, PATH).encode()).unwrap();
    for bytes in [
        "garbage\r\n\r\n".as_bytes(),
        b"BITS_POST\r\n\r\n",
        b"BITS_POST /upload/a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        good.replace("HTTP/1.1", "HTTP/1.2").as_bytes(),
        good.replace("HTTP/1.1", "HTTP/3").as_bytes(),
        good.replace("HTTP/1.1", "http/1.1").as_bytes(),
        good.replace("/upload/a", "/upload/a b").as_bytes(),
        good.replace("/upload/a", "upload/a\x01").as_bytes(),
        good.replace("BITS_POST", "BITS(POST").as_bytes(),
        good.replace("BITS-Packet-Type:", "BITS-Packet-Type :").as_bytes(),
        good.replace("BITS-Packet-Type:", "BITS Packet Type:").as_bytes(),
        good.replace("Create-Session\r\n", "Create-Session\r\n folded\r\n").as_bytes(),
        good.replace("Create-Session", "Create\0Session").as_bytes(),
        good.replace("Create-Session", "Create\rSession").as_bytes(),
        good.replace("BITS-Packet-Type: ", "BITS-Packet-Type").as_bytes(),
    ] {
        println!("{}", bytes.escape_ascii());
        let mut raw = server.raw();
        raw.send(bytes);
        match raw.try_receive() {
            Ok(response) => {
                assert!(matches!(response.status, 400 | 505), "{response:#?}");
                assert_eq!(response.header("BITS-Session-Id"), None);
                assert!(raw.is_closed(), "the connection must end after {}", bytes.escape_ascii());
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{}", bytes.escape_ascii()),
        }
    }
    assert_usable(&mut server.raw());
    assert_eq!(list_files(&server.files()), Vec::<String>::new());
    assert_clean_log(&server.log_bytes());
}

#[test]
fn targets_in_other_forms_name_the_same_path_or_none() {
    let server = Server::start(ServerOptions::new());
    let mut raw = server.raw();
    let create = Packet::create(Form::Native, PATH);
    for target in [
        "http://elsewhere.example/upload/a",
        "http://user:pass@elsewhere.example:99/upload/a?x=/b",
        "HTTPS://[::1]/upload/a",
    ] {
        assert_ok(&raw.ask(&create.clone().target(target.as_bytes())), 200);
    }
    for target in ["*", "http://elsewhere.example", "http://elsewhere.example/", "/", "elsewhere.example:80"] {
        println!("{target}");
        let response = raw.ask(&create.clone().target(target.as_bytes()));
        assert_invariants(&response);
        assert!(matches!(response.status, 400 | 404), "{response:#?}");
    }
    for target in [b"/upload/\xff\xfe".as_slice(), b"/upload/\xc3\x28"] {
        let mut raw = server.raw();
        raw.send(&create.clone().target(target).encode());
        assert_unframed(&mut raw, 400);
    }
    assert_usable(&mut raw);
}

#[test]
fn host_is_looked_at_by_nobody() {
    let server = Server::start(ServerOptions::new());
    let mut raw = server.raw();
    let create = Packet::create(Form::Native, PATH);
    assert_ok(&raw.ask(&create.clone().with("Host", "elsewhere.example:1234")), 200);
    assert_ok(&raw.ask(&create.clone().without("Host")), 200);
    assert_ok(&raw.ask(&create.and("Host", "two")), 200);
}

#[test]
fn a_client_that_waits_for_100_continue_gets_it() {
    for form in Form::ALL {
        let (server, mut raw, session) = half_uploaded(ServerOptions::new(), form);
        let packet = Packet::fragment(form, PATH, &session, 5, b"world", 10).with("Expect", "100-continue");
        raw.send(&packet.head());
        assert_eq!(raw.receive().status, 100);
        raw.send(b"world");
        assert_next(&raw.receive(), 10);
        assert_usable(&mut raw);
        assert_goes_on(&server, &session, 5);
    }
}

#[test]
fn a_client_that_does_not_wait_for_100_continue_is_served_too() {
    let (server, mut raw, session) = half_uploaded(ServerOptions::new(), Form::Native);
    let packet = Packet::fragment(Form::Native, PATH, &session, 5, b"world", 10).with("Expect", "100-Continue");
    raw.send(&packet.encode());
    let mut response = raw.receive();
    if response.status == 100 {
        response = raw.receive();
    }
    assert_next(&response, 10);
    assert_usable(&mut raw);
    assert_goes_on(&server, &session, 5);
}

#[test]
fn a_refused_packet_that_waits_for_100_continue_is_not_asked_for_its_body() {
    for form in Form::ALL {
        let (server, mut raw, session) = half_uploaded(ServerOptions::new(), form);
        let packet = Packet::fragment(form, PATH, &session, 7, b"rld", 10).with("Expect", "100-continue");
        let start = Instant::now();
        raw.send(&packet.head());
        let response = raw.receive();
        assert_eq!((response.status, response.next_offset()), (416, Some(5)), "{response:#?}");
        assert_invariants(&response);
        assert_eq!(response.header("Connection"), Some("close"));
        assert!(start.elapsed() < Duration::from_secs(5), "nothing is in flight that could be waited for");
        // The client may send the body all the same: it must not be read as a request.
        assert!(raw.is_closed(), "the connection cannot go on");
        assert_goes_on(&server, &session, 5);
    }
}

#[test]
fn a_slow_head_is_not_waited_for() {
    let server = Server::start(ServerOptions::new().config("[limits]\nheader_timeout = \"1s\"\n"));
    let head = Packet::create(Form::Native, PATH).head();
    for sent in [1, head.len() / 2, head.len() - 1] {
        let mut raw = server.raw();
        raw.send(&head[..sent]);
        assert_closed_within(&mut raw, Duration::from_millis(800), Duration::from_secs(6));
    }
    // The second request on a connection has no longer.
    let mut raw = server.raw();
    assert_usable(&mut raw);
    raw.send(&head[..20]);
    assert_closed_within(&mut raw, Duration::from_millis(800), Duration::from_secs(6));
    // A byte now and then does not help.
    let mut raw = server.raw();
    let start = Instant::now();
    let ended = head.chunks(1).take(60).any(|byte| {
        std::thread::sleep(Duration::from_millis(100));
        raw.try_send(byte).is_err()
    });
    assert!(ended || raw.is_closed(), "the head took too long");
    assert!(start.elapsed() < Duration::from_secs(8));
    assert_eq!(list_files(&server.files()), Vec::<String>::new());
}

#[test]
fn a_silent_connection_is_closed_after_the_idle_timeout() {
    let server = Server::start(ServerOptions::new().config("[limits]\nidle_timeout = \"2s\"\n"));
    let mut raw = server.raw();
    assert_usable(&mut raw);
    std::thread::sleep(Duration::from_millis(1500));
    assert_usable(&mut raw);
    assert_closed_within(&mut raw, Duration::from_millis(1500), Duration::from_secs(8));
}

#[test]
fn a_silent_body_is_cut_off_and_what_came_is_kept() {
    for form in Form::ALL {
        let options = ServerOptions::new().config("[limits]\nidle_timeout = \"1s\"\n");
        let (server, mut raw, session) = half_uploaded(options, form);
        raw.send(&Packet::fragment(form, PATH, &session, 5, b"world", 10).head());
        raw.send(b"wor");
        assert_closed_within(&mut raw, Duration::from_millis(800), Duration::from_secs(6));
        assert_eq!(next_offset(&server, &session), Some(8));
        assert_goes_on(&server, &session, 8);
    }
}

#[test]
fn an_endless_body_is_dropped_within_bounds() {
    let options = ServerOptions::directory("maximum_fragment_size = \"8KiB\"");
    let server = Server::start(options);
    let mut raw = server.raw();
    let session = raw.create(PATH);
    let packet = Packet::fragment(Form::Native, PATH, &session, 0, b"", 1 << 40)
        .with("Content-Length", &(1_u64 << 40).to_string())
        .with("Content-Range", &format!("bytes 0-{}/{}", (1_u64 << 40) - 1, 1_u64 << 40));
    raw.send(&packet.head());
    let start = Instant::now();
    let mut sent = 0;
    while sent < 256 << 20 && raw.try_send(&[0; 1 << 16]).is_ok() {
        sent += 1 << 16;
    }
    assert!(sent < 256 << 20, "the server read {sent} bytes that nobody wanted");
    assert!(start.elapsed() < Duration::from_secs(15));
    assert_staging_empty(&server.files());
    assert_ok(&server.raw().cancel(PATH, &session), 200);
}

#[test]
fn a_large_refused_body_is_dropped_before_the_ack() {
    let server = Server::start(ServerOptions::new());
    let bytes = vec![7; 32 << 20];
    for form in Form::ALL {
        let mut raw = server.raw_in(form);
        let session = raw.create(PATH);
        for (path, status) in [("/upload/other", 500), ("/elsewhere", 404), ("/upload/nul", 400)] {
            let response = raw.fragment(path, &session, 0, &bytes, 64 << 20);
            assert_invariants(&response);
            assert_eq!(response.status, status);
        }
        let gap = raw.fragment(PATH, &session, 1, &bytes, 64 << 20);
        assert_eq!((gap.status, gap.next_offset()), (416, Some(0)));
        assert_usable(&mut raw);
    }
    assert_staging_empty(&server.files());
}

#[test]
fn a_refused_body_that_never_comes_is_not_waited_for_long() {
    let server = Server::start(ServerOptions::new());
    let mut raw = server.raw();
    let packet = Packet::fragment(Form::Native, PATH, "{00000000-1111-2222-3333-444444444444}", 0, b"hello", 10);
    let start = Instant::now();
    raw.send(&packet.head());
    assert_error(&raw.receive(), 500, 0x8020_001F);
    assert!(start.elapsed() < Duration::from_secs(15));
    assert!(raw.is_closed(), "the connection cannot go on: the body may still come");
}

#[test]
fn a_client_that_closes_gets_its_last_answer() {
    let server = Server::start(ServerOptions::new());
    let mut raw = server.raw();
    let response = raw.ask(&Packet::ping(Form::Native, PATH).with("Connection", "close"));
    assert_ok(&response, 200);
    assert!(raw.is_closed());
}

#[test]
fn too_many_connections_are_told_to_come_later() {
    let server = Server::start(ServerOptions::new().config("[limits]\nconnections = 2\n"));
    let (mut first, mut second) = (server.raw(), server.raw());
    assert_usable(&mut first);
    assert_usable(&mut second);
    for form in Form::ALL {
        let mut third = server.raw_in(form);
        assert_error(&third.ask(&Packet::create(form, PATH)), 503, 0x8007_04D5);
        assert!(third.is_closed());
    }
    assert_eq!(server.metric("bits_connections_refused_total{reason=\"connections\"}"), 2.0);
    assert!(server.log().contains("limits.connections are open"));
    drop(first);
    wait_until("there is room again", || try_ping(&server).is_some_and(|response| response.status == 200));
    assert_usable(&mut second);
}

fn try_ping(server: &Server) -> Option<Response> {
    let mut raw = server.raw();
    raw.try_send(&Packet::ping(Form::Native, PATH).encode()).ok()?;
    raw.try_receive().ok()
}

#[test]
fn nothing_in_the_log_can_be_forged() {
    let server = Server::start(ServerOptions::new().env("RUST_LOG", "trace"));
    let mut raw = server.raw();
    let forged = "2030-01-01T00:00:00Z  INFO audit: session ended";
    let encoded = forged.replace(' ', "%20");
    for packet in [
        Packet::create(Form::Native, &format!("/upload/a%0a{encoded}")),
        Packet::create(Form::Native, &format!("/upload/a%0d%0a{encoded}")),
        Packet::create(Form::Native, "/upload/%1b%5b2J%1b%5b31m"),
        Packet::create(Form::Native, "/upload/%c2%9b31m"),
        Packet::create(Form::Native, "/upload/%E2%80%A8x%E2%80%AEy"),
        Packet::create(Form::Native, "/upload/\u{2028}x\u{202e}y\u{9b}31m"),
        Packet::create(Form::Native, PATH).with_bytes("BITS-Packet-Type", b"Ping\x9b31m"),
        Packet::create(Form::Native, PATH).with("BITS-Packet-Type", "Ping\u{2028}INFO forged"),
        Packet::create(Form::Native, PATH).with("Content-Name", "a\u{202e}b"),
        Packet::create(Form::Native, PATH).with("User-Agent", "x\tINFO audit: forged\u{2029}"),
        Packet::create(Form::Native, PATH).with("Host", "x\u{85}y"),
        Packet::close(Form::Native, PATH, "{\u{2028}}"),
        Packet::fragment(Form::Native, PATH, "{}", 0, b"hello", 5).with("Content-Range", "bytes \u{2028}"),
    ] {
        println!("{packet:?}");
        assert_invariants(&raw.ask(&packet));
    }
    for bytes in [b"\x1b[31mGET / HTTP/1.1\r\n\r\n".as_slice(), b"GET /\x1b[31m HTTP/1.1\r\n\r\n"] {
        let mut raw = server.raw();
        raw.send(bytes);
        assert_unframed(&mut raw, 400);
    }
    let name = "/upload/x%E2%80%A8%E2%80%AE%22name%22=";
    let session = raw.create(name);
    assert_next(&raw.fragment(name, &session, 0, b"hello", 5), 5);
    assert_ok(&raw.close(name, &session), 200);
    let log = server.log_bytes();
    assert_clean_log(&log);
    let lines = String::from_utf8(log).unwrap();
    assert!(!lines.lines().any(|line| line.starts_with("2030")), "a line was forged");
    assert!(lines.contains("session ended"), "the audit line is there");
}

#[test]
fn a_line_of_the_log_is_short() {
    let server = Server::start(ServerOptions::new());
    let mut raw = server.raw();
    for path in [format!("/upload/{}", "x".repeat(9000)), format!("/upload/{}", "%0a".repeat(3000))] {
        assert_invariants(&raw.ask(&Packet::create(Form::Native, &path)));
    }
    let log = server.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("packet refused")).collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(lines.iter().all(|line| line.len() < 1000), "{log}");
}

#[track_caller]
fn assert_closed_within(raw: &mut Raw, least: Duration, most: Duration) {
    let start = Instant::now();
    // A server may say why before it closes; it may not say that all is well.
    if let Ok(response) = raw.try_receive() {
        assert_eq!(response.status, 408, "{response:#?}");
        assert!(raw.is_closed());
    }
    let took = start.elapsed();
    assert!(took >= least && took <= most, "closed after {took:?}");
}
