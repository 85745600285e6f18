//! Proxies: the PROXY protocol and `X-Forwarded-*`, from those that are trusted and nobody else.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{thread, time::Duration};

use tests::{Authority, Form, Packet, Raw, Server, ServerOptions, assert_next, assert_ok, wait_until};

const FILE: &str = "/upload/file.bin";
const PROXY_LISTENER: &str = "[[listeners]]\naddress = \"$LISTENER\"\ncertificate = \"\"\nproxy_protocol = true\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn proxied(trusted: &str, limits: &str) -> Server {
    let config = format!("trusted_proxies = [\"{trusted}\"]\n[limits]\n{limits}\n{PROXY_LISTENER}");
    Server::start(ServerOptions::new().config(&config))
}

fn version_2(source: [u8; 4]) -> Vec<u8> {
    [SIGNATURE, &[0x21, 0x11, 0, 12], &source, &[10, 0, 0, 1, 1, 2, 3, 4]].concat()
}

fn ping_after(server: &Server, header: &[u8]) -> Raw {
    let mut raw = server.raw_listener();
    raw.send(&[header, &Packet::ping(Form::Native, FILE).encode()].concat());
    raw
}

/// The address that the log gives of a request.
fn logged(server: &Server, address: &str) -> bool {
    server.log().contains(&format!("address={address}}}"))
}

#[test]
fn the_client_is_whom_the_proxy_names() {
    let server = proxied("127.0.0.0/8", "");
    for (header, address) in [
        (b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 443\r\n".to_vec(), "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 5000 443\r\n".to_vec(), "2001:db8::7"),
        (version_2([192, 0, 2, 8]), "192.0.2.8"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
    ] {
        assert_ok(&ping_after(&server, &header).receive(), 200);
        assert!(logged(&server, address), "{address}");
    }
}

#[test]
fn a_header_may_come_in_pieces() {
    let server = proxied("127.0.0.1", "");
    for header in [b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 443\r\n".to_vec(), version_2([192, 0, 2, 7])] {
        let mut raw = server.raw_listener();
        for byte in header {
            raw.send(&[byte]);
            thread::sleep(Duration::from_millis(2));
        }
        assert_ok(&raw.ping(FILE), 200);
    }
}

#[test]
fn tls_begins_after_the_header() {
    let authority = Authority::new("authority");
    let config = "trusted_proxies = [\"127.0.0.1\"]\n[[listeners]]\naddress = \"$LISTENER\"\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\nproxy_protocol = true\n";
    let mut server = Server::prepare(ServerOptions::new().config(config));
    authority.issue(1, "server").write(server.folder());
    server.launch();
    let mut raw = server.raw_listener();
    raw.send(&version_2([192, 0, 2, 9]));
    let mut raw = raw.tls(&authority.client()).unwrap();
    assert_ok(&raw.ping(FILE), 200);
    assert!(logged(&server, "192.0.2.9"));
}

#[test]
fn without_a_proper_header_there_is_no_answer() {
    let server = proxied("127.0.0.1", "header_timeout = \"1s\"");
    let refused = || server.metric("bits_connections_refused_total{reason=\"proxy_header\"}");
    let headers: [&[u8]; 5] = [
        b"",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 5000\r\n",
        b"PROXY TCP4 192.0.2.777 10.0.0.1 5000 443\r\n",
        &[SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat(),
        &[SIGNATURE, &[0x31, 0x11, 0, 12], &[0; 12]].concat(),
    ];
    for (count, header) in headers.into_iter().enumerate() {
        assert!(ping_after(&server, header).is_closed(), "{}", header.escape_ascii());
        wait_until("it is counted", || refused() == (count + 1) as f64);
    }
    let mut slow = server.raw_listener();
    slow.send(b"PROXY TCP4 192.0.2.7 10.");
    assert!(slow.is_closed());
    wait_until("it is counted", || server.metric("bits_connections_refused_total{reason=\"opening_timeout\"}") == 1.0);
}

#[test]
fn others_than_trusted_proxies_are_sent_away() {
    let server = proxied("192.0.2.1", "");
    let mut raw = server.raw_listener();
    let _ = raw.try_send(b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 443\r\n");
    assert!(raw.is_closed());
    wait_until("it is counted", || server.metric("bits_connections_refused_total{reason=\"untrusted_proxy\"}") == 1.0);
    assert!(server.log().contains("takes connections of trusted_proxies only"));
}

/// Through the PROXY protocol comes what the client wrote: its own X-Forwarded-For too.
#[test]
fn a_client_behind_the_proxy_protocol_names_nobody() {
    let server = proxied("127.0.0.1", "");
    let mut raw = server.raw_listener();
    raw.send(b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 443\r\n");
    let packet = Packet::ping(Form::Native, FILE).with("X-Forwarded-For", "198.51.100.1");
    assert_ok(&raw.ask(&packet), 200);
    let mut raw = server.raw_listener();
    raw.send(b"PROXY UNKNOWN\r\n");
    assert_ok(&raw.ask(&packet), 200);
    assert!(logged(&server, "192.0.2.7") && !logged(&server, "198.51.100.1"));
}

#[test]
fn forwarded_for_counts_from_trusted_proxies_only() {
    let packet = Packet::ping(Form::Native, FILE).with("X-Forwarded-For", "203.0.113.1, 198.51.100.1, 127.9.9.9");
    for (trusted, expected) in [("127.0.0.0/8", "198.51.100.1"), ("192.0.2.1", "127.0.0.1")] {
        let config = format!("trusted_proxies = [\"{trusted}\"]");
        let server = Server::start(ServerOptions::new().config(&config));
        assert_ok(&server.raw().ask(&packet), 200);
        assert!(logged(&server, expected), "{expected}");
        assert!(!logged(&server, "203.0.113.1"));
    }
}

/// Laptops roam: an address never says whose a session is.
#[test]
fn a_session_goes_on_from_another_address() {
    let server = Server::start(ServerOptions::new().config("trusted_proxies = [\"127.0.0.1\"]"));
    let mut raw = server.raw();
    let created = raw.ask(&Packet::create(Form::Native, FILE).with("X-Forwarded-For", "192.0.2.1"));
    let session = created.header("BITS-Session-Id").unwrap().to_owned();
    for (first, bytes, address) in [(0, b"hello", "198.51.100.1"), (5, b"world", "2001:db8::1")] {
        let packet = Packet::fragment(Form::Native, FILE, &session, first, bytes, 10);
        assert_next(&raw.ask(&packet.with("X-Forwarded-For", address)), first + 5);
    }
    assert_eq!(server.file("upload/file.bin").as_deref(), Some(b"helloworld".as_slice()));
}

/// Some drop `Content-Length: 0` where they do not know the method.
#[test]
fn a_trusted_proxy_may_leave_out_that_a_packet_is_empty() {
    let packet = Packet::ping(Form::Native, FILE).without("Content-Length");
    for (trusted, status) in [("127.0.0.1", 200), ("192.0.2.1", 400)] {
        let server = Server::start(ServerOptions::new().config(&format!("trusted_proxies = [\"{trusted}\"]")));
        assert_eq!(server.raw().ask(&packet).status, status);
    }
}

/// The audit log holds the client's address, not the proxy's.
#[test]
fn the_audit_log_names_the_client() {
    let server = proxied("127.0.0.1", "");
    let mut raw = server.raw_listener();
    raw.send(&version_2([192, 0, 2, 44]));
    let session = raw.create(FILE);
    assert_ok(&raw.cancel(FILE, &session), 200);
    wait_until("it is written", || {
        server.log().lines().any(|line| line.contains("audit") && line.contains("192.0.2.44"))
    });
}
