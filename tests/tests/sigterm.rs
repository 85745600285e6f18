//! SIGTERM under load: every answer is a proper ack, clients see at most cut bodies and closed
//! connections, and after a restart each upload ends right.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tests::{Raw, Server, ServerOptions, Upload, assert_next, assert_ok, assert_staging_empty, wait_until};

const CLIENTS: u64 = 8;
const FRAGMENT: u64 = 16 * 1024;
/// The longest that clients go on, also when the test has failed.
const LOAD: Duration = Duration::from_secs(40);
/// What the connection that hangs has sent of its fragment.
const CAME: u64 = 10_000;

fn options(grace: &str) -> ServerOptions {
    ServerOptions::new().config(&format!("shutdown_grace = \"{grace}\"\n"))
}

fn upload(server: &Server, number: u64, fragments: u64) -> Upload {
    let path = format!("/upload/{number}.bin");
    let mut upload = Upload::new(server.address(), &path, number, (fragments * FRAGMENT) as usize);
    upload.create().unwrap();
    upload
}

fn finish(server: &Server, upload: &mut Upload) {
    upload.disconnect();
    let acknowledged = upload.acknowledged;
    assert!(upload.ask_next().unwrap() >= acknowledged, "acknowledged bytes are lost");
    upload.fragments(64 * FRAGMENT).unwrap();
    upload.close().unwrap();
    assert!(server.file(&upload.path[1..]).unwrap() == upload.content, "{} has other bytes", upload.path);
}

#[test]
fn clients_under_load_see_nothing_but_acks_and_closed_connections() {
    let mut server = Server::start(options("4s"));
    let mut uploads: Vec<Upload> = (0..CLIENTS).map(|number| upload(&server, number, 1500)).collect();
    let mut hanging = upload(&server, CLIENTS, 2);
    hanging.begin_fragment(FRAGMENT, CAME as usize).unwrap();

    let stopped = AtomicBool::new(false);
    let (took, status) = thread::scope(|scope| {
        for upload in &mut uploads {
            let stopped = &stopped;
            // A failure of the connection is the network's as far as the client knows: it comes
            // back, until nobody is there. Any answer but a proper ack fails the test.
            scope.spawn(move || {
                let start = Instant::now();
                while !stopped.load(Ordering::Relaxed) && !upload.is_whole() && start.elapsed() < LOAD {
                    if upload.fragment(FRAGMENT).is_err() {
                        thread::sleep(Duration::from_millis(20));
                    }
                }
            });
        }
        thread::sleep(Duration::from_millis(500));
        server.signal(Signal::TERM);
        let asked = Instant::now();
        wait_until("readyz fails", || server.admin_get("/readyz").is_ok_and(|status| status == 503));
        assert_ok(&server.raw().ping("/upload/x"), 200);
        wait_until("nothing new is taken", || TcpStream::connect(server.address()).is_err());
        assert_eq!(server.admin_get("/healthz").unwrap(), 200, "the hanging body still has its grace");
        assert_eq!(server.admin_get("/readyz").unwrap(), 503);
        let status = server.wait();
        stopped.store(true, Ordering::Relaxed);
        (asked.elapsed(), status)
    });
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(9), "it took {took:?} with a grace of 4 s");

    server.launch();
    assert!(uploads.iter().all(|upload| upload.acknowledged > 0));
    assert!(uploads.iter().any(|upload| !upload.is_whole()), "the load did not last");
    for upload in &mut uploads {
        finish(&server, upload);
    }
    hanging.disconnect();
    assert_eq!(hanging.ask_next().unwrap(), CAME, "what came of the cut body is kept");
    finish(&server, &mut hanging);
    assert_staging_empty(&server.files());
}

#[test]
fn a_request_under_way_is_finished_and_answered() {
    let mut server = Server::start(options("20s"));
    let mut upload = upload(&server, 0, 2);
    upload.begin_fragment(FRAGMENT, CAME as usize).unwrap();
    let body = upload.next_fragment(FRAGMENT).body;
    server.signal(Signal::TERM);
    wait_until("nothing new is taken", || TcpStream::connect(server.address()).is_err());
    let mut raw = upload.disconnect().unwrap();
    raw.send(&body[CAME as usize..]);
    let answer = raw.receive();
    assert_next(&answer, FRAGMENT);
    assert_eq!(answer.header("Connection"), Some("close"));
    assert!(raw.is_closed());
    let start = Instant::now();
    assert_eq!(server.wait().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "nothing is left to wait for");
    upload.acknowledged = FRAGMENT;
    server.launch();
    finish(&server, &mut upload);
}

#[test]
fn idle_connections_do_not_hold_it_up() {
    let mut server = Server::start(options("20s"));
    let mut idle: Vec<Raw> = (0..5).map(|_| server.raw()).collect();
    for raw in &mut idle[1..] {
        assert_ok(&raw.ping("/upload/x"), 200);
    }
    // Some of them are idle for so long that the server sleeps on them.
    thread::sleep(Duration::from_millis(2500));
    assert_ok(&idle[1].ping("/upload/x"), 200);
    let start = Instant::now();
    assert_eq!(server.terminate().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(8), "it took {:?}", start.elapsed());
    assert!(idle.iter_mut().all(Raw::is_closed));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut server = Server::start(options("20s"));
    let mut upload = upload(&server, 0, 2);
    upload.fragment(FRAGMENT).unwrap();
    upload.begin_fragment(FRAGMENT, CAME as usize).unwrap();
    server.signal(Signal::TERM);
    wait_until("readyz fails", || server.admin_get("/readyz").is_ok_and(|status| status == 503));
    let start = Instant::now();
    assert_eq!(server.terminate().code(), Some(1));
    assert!(start.elapsed() < Duration::from_secs(5), "it took {:?}", start.elapsed());
    server.launch();
    finish(&server, &mut upload);
}
