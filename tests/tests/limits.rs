//! Limits on connections and rates.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    thread,
    time::{Duration, Instant},
};

use tests::{Form, Packet, Raw, Server, ServerOptions, assert_ack, assert_next, assert_ok, pattern, wait_until};

const FILE: &str = "/upload/file.bin";

fn limited(limits: &str) -> Server {
    Server::start(ServerOptions::new().config(&format!("[limits]\n{limits}\n")))
}

#[test]
fn an_address_has_room_for_so_many_connections() {
    let server = limited("connections_per_address = 2");
    let mut open: Vec<_> = (0..2).map(|_| server.raw()).collect();
    for raw in &mut open {
        assert_ok(&raw.ping(FILE), 200);
    }
    let refused = server.raw().ping(FILE);
    assert_ack(&refused, 503, Some(0x8007_04D5));
    assert!(refused.header("Retry-After").is_some());
    assert_eq!(refused.header("Connection"), Some("close"));
    assert_eq!(server.metric("bits_connections_refused_total{reason=\"connections_per_address\"}"), 1.0);
    assert!(server.log().contains("limits.connections_per_address are open"));
    assert_ok(&open[0].ping(FILE), 200);
    drop(open);
    wait_until("there is room again", || server.raw().ping(FILE).status == 200);
}

#[test]
fn behind_the_proxy_protocol_each_client_has_its_own_room() {
    let config = "trusted_proxies = [\"127.0.0.1\"]\n[limits]\nconnections_per_address = 1\n\
        [[listeners]]\naddress = \"$LISTENER\"\ncertificate = \"\"\nproxy_protocol = true\n";
    let server = Server::start(ServerOptions::new().config(config));
    let from = |client: &str| {
        let mut raw = server.raw_listener();
        raw.send(format!("PROXY TCP4 {client} 10.0.0.1 1 2\r\n").as_bytes());
        raw
    };
    let mut first = from("192.0.2.1");
    assert_ok(&first.ping(FILE), 200);
    assert_ack(&from("192.0.2.1").ping(FILE), 503, Some(0x8007_04D5));
    assert_ok(&from("192.0.2.2").ping(FILE), 200);
    // A trusted proxy's own connections carry requests of many.
    let mut own: Vec<_> = (0..3).map(|_| server.raw()).collect();
    for raw in &mut own {
        assert_ok(&raw.ping(FILE), 200);
    }
}

#[test]
fn all_uploads_share_the_bandwidth_and_none_is_idle_meanwhile() {
    const SIZE: usize = 1 << 20;
    // A single fragment is held back for longer than the idle timeout.
    let server = limited("bandwidth = \"512KiB\"\nidle_timeout = \"1s\"");
    let start = Instant::now();
    let uploads: Vec<_> = (0..2)
        .map(|number| {
            let (mut raw, path) = (server.raw(), format!("/upload/{number}"));
            raw.patience(Duration::from_secs(60));
            thread::spawn(move || {
                let data = pattern(number, SIZE);
                let session = raw.create(&path);
                assert_next(&raw.fragment(&path, &session, 0, &data, SIZE as u64), SIZE as u64);
                (start.elapsed(), data)
            })
        })
        .collect();
    let ended: Vec<_> = uploads.into_iter().map(|upload| upload.join().unwrap()).collect();
    let first = ended.iter().map(|(time, _)| *time).min().unwrap();
    assert!(start.elapsed() >= Duration::from_millis(3500), "2 MiB at 512 KiB/s took {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(first > Duration::from_millis(2500), "the other starved: {first:?}");
    for (number, (_, data)) in ended.iter().enumerate() {
        assert_eq!(server.file(&format!("upload/{number}")).as_ref(), Some(data));
    }
    assert_eq!(server.metric("bits_received_bytes_total"), (2 * SIZE) as f64);
}

#[test]
fn a_trickle_is_cut_off_and_kept() {
    let server = limited("minimum_rate = \"1KiB\"");
    let mut raw = server.raw();
    let session = raw.create(FILE);
    let data = pattern(1, 10_000);
    let packet = Packet::fragment(Form::Native, FILE, &session, 0, &data, 10_000).encode();
    let start = Instant::now();
    let (head, body) = packet.split_at(packet.len() - 10_000);
    raw.send(head);
    let mut sent = 0;
    // 100 bytes a second; the idle timeout of two minutes never comes near.
    while start.elapsed() < Duration::from_secs(45) && raw.try_send(&body[sent..sent + 100]).is_ok() {
        sent += 100;
        thread::sleep(Duration::from_secs(1));
    }
    assert!(start.elapsed() < Duration::from_secs(40), "a trickle was let through");
    assert!(start.elapsed() > Duration::from_secs(29), "{:?}", start.elapsed());
    assert_eq!(server.metric("bits_bodies_ended_early_total{reason=\"minimum_rate\"}"), 1.0);
    assert!(server.log().contains("it came slower than limits.minimum_rate"));
    let mut raw = server.raw();
    let kept = raw.fragment(FILE, &session, 0, &data[..1], 10_000).next_offset().unwrap();
    assert!((2000..=sent as u64).contains(&kept), "{kept} of {sent}");
    assert_next(&raw.fragment(FILE, &session, kept, &data[kept as usize..], 10_000), 10_000);
}

#[test]
fn floods_of_headers_are_answered_and_end() {
    let server = Server::start(ServerOptions::new().config("trusted_proxies = [\"127.0.0.1\"]"));
    let ping = || Packet::ping(Form::Native, FILE);
    let long = vec!["192.0.2.1"; 5000].join(",");
    assert_ok(&server.raw().ask(&ping().with("X-Forwarded-For", &long)), 200);
    let mut many = ping();
    for _ in 0..90 {
        many = many.and("X-Forwarded-For", "192.0.2.1");
    }
    assert_ok(&server.raw().ask(&many), 200);
    for _ in 0..50 {
        many = many.and("X-Forwarded-For", "192.0.2.1");
    }
    assert_eq!(server.raw().ask(&many).status, 431);
    let longer = vec!["192.0.2.1"; 10_000].join(",");
    assert_eq!(server.raw().ask(&ping().with("X-Forwarded-For", &longer)).status, 431);
}

#[test]
fn refusals_are_counted_by_reason() {
    let server = Server::start(ServerOptions::directory("maximum_upload_size = \"100\""));
    let mut raw = server.raw();
    assert_ok(&raw.ping(FILE), 200);
    raw.ping("/elsewhere");
    let session = raw.create(FILE);
    raw.fragment(FILE, &session, 0, b"too large", 101);
    raw.fragment(FILE, &session, 50, b"a gap", 100);
    raw.ask(&Packet::new(Form::Native, "Nonsense", FILE));
    let refused = |reason: &str| server.metric(&format!("bits_packets_refused_total{{reason=\"{reason}\"}}"));
    for reason in ["path_not_found", "upload_too_large", "gap", "malformed"] {
        assert_eq!(refused(reason), 1.0, "{reason}");
    }
    let packets = |labels: &str| server.metric(&format!("bits_packets_total{{{labels}}}"));
    assert_eq!(packets("packet=\"Ping\",outcome=\"done\""), 1.0);
    assert_eq!(packets("packet=\"Ping\",outcome=\"refused\""), 1.0);
    assert_eq!(packets("packet=\"unknown\",outcome=\"refused\""), 1.0);
    assert_eq!(server.metric("bits_connections"), 1.0);
    assert!(upload_listener_has_no_metrics(server.raw()));
}

fn upload_listener_has_no_metrics(mut raw: Raw) -> bool {
    raw.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    raw.receive().status == 404
}
