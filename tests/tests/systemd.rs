//! What systemd does with a service: sockets that it opens itself, readiness, the watchdog. Its own
//! `systemd-socket-activate` hands the sockets over; its messages are read as it reads them.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    os::unix::net::UnixDatagram,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use tests::{Server, ServerOptions, Upload, wait_until};

/// A server whose sockets on these addresses are opened before it starts.
fn activated(server: &mut Server, addresses: &[String]) {
    let listen = addresses.iter().flat_map(|address| ["-l", address.as_str()]);
    let passed = ["-E", "BITS__ADMIN__LISTEN", "-E", "RUST_LOG"];
    let words: Vec<&str> = ["systemd-socket-activate"].into_iter().chain(passed).chain(listen).collect();
    server.options = ServerOptions::new().wrapper(&words);
}

#[test]
fn sockets_that_were_handed_over_are_served() {
    let mut server = Server::prepare(ServerOptions::new());
    let addresses = [server.address().to_string(), server.admin_address().to_string()];
    activated(&mut server, &addresses);
    server.launch();
    assert!(server.log().contains("Listening on"), "systemd-socket-activate opened them: {}", server.log());
    Upload::new(server.address(), "/upload/file.bin", 1, 300_000).run(100_000).unwrap();
    assert!(!server.log().contains("was handed over"), "{}", server.log());
    assert_eq!(server.terminate().code(), Some(0));
}

#[test]
fn a_socket_that_no_key_names_is_warned_of() {
    let mut server = Server::prepare(ServerOptions::new());
    let foreign = server.listener_address().to_string();
    let addresses = [foreign.clone(), server.admin_address().to_string()];
    activated(&mut server, &addresses);
    server.launch();
    assert!(server.log().contains(&format!("a socket on {foreign} was handed over")), "{}", server.log());
    Upload::new(server.address(), "/upload/file.bin", 1, 300_000).run(100_000).unwrap();
}

/// The service manager's end of the socket.
struct Manager(UnixDatagram);

impl Manager {
    fn new(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Self(socket)
    }

    /// What is said next, within 100 ms.
    fn next(&self) -> Option<String> {
        let mut buffer = [0; 1024];
        let length = self.0.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    }

    fn wait_for(&self, word: &str) {
        wait_until(word, || self.next().is_some_and(|said| said.lines().any(|line| line == word)));
    }
}

#[test]
fn the_service_manager_hears_when_the_server_serves_lives_and_stops() {
    let mut server = Server::prepare(ServerOptions::new());
    let path = server.folder().join("notify");
    let manager = Manager::new(&path);
    server.options = ServerOptions::new().env("NOTIFY_SOCKET", path.to_str().unwrap()).env("WATCHDOG_USEC", "400000");
    server.spawn();
    manager.wait_for("READY=1");
    server.wait_ready();
    let start = Instant::now();
    for _ in 0..5 {
        manager.wait_for("WATCHDOG=1");
    }
    // The first comes at once, the others each half of the limit; under load somewhat later.
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());

    // A process that stands still says nothing.
    server.signal(rustix::process::Signal::STOP);
    while manager.next().is_some() {}
    thread::sleep(Duration::from_millis(500));
    assert_eq!(manager.next(), None);
    server.signal(rustix::process::Signal::CONT);
    manager.wait_for("WATCHDOG=1");

    let stopping = thread::spawn(move || server.terminate().code());
    manager.wait_for("STOPPING=1");
    assert_eq!(stopping.join().unwrap(), Some(0));
}

#[test]
fn without_a_service_manager_nothing_is_told() {
    let mut server = Server::start(ServerOptions::new().env("WATCHDOG_USEC", "100000"));
    assert_eq!(server.terminate().code(), Some(0));
    assert!(!server.log().contains("service manager"), "{}", server.log());
}
