//! 200,000 requests that are wrong in every way that a generator finds, from many connections at
//! once: nothing panics, leaks or escapes, honest uploads go on, and no answer blames the server.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    env, fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::fs::symlink,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::net::sockopt::set_socket_linger;
use tempfile::TempDir;
use tests::{Mutator, Raw, Server, ServerOptions, Upload, assert_clean_log, list_files, wait_until};

const REQUESTS: u64 = 200_000;
const CONNECTIONS: u64 = 24;
/// The same requests each time, unless `BITS_FUZZ_SEED` says otherwise.
const SEED: u64 = 1;
/// How long is listened for an answer to a request that should have an end.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long is listened for an answer to what may have no end.
const GLANCE: Duration = Duration::from_millis(3);
/// What the server's memory may grow by between a twentieth of the requests and all of them.
const GROWTH: u64 = 48 << 20;

/// Sizes that nobody has room for would be refused as disk full, and rightly.
const DIRECTORY: &str = "allow_overwrites = true\nmaximum_upload_size = \"64MiB\"";
/// No request can make the server blame itself, its storage or its load.
const FAULTS: [&str; 3] = ["0x80004005", "0x80070070", "HTTP/1.1 503"];

#[test]
fn nothing_that_is_sent_breaks_the_server() {
    let seed = number("BITS_FUZZ_SEED").unwrap_or(SEED);
    let requests = number("BITS_FUZZ_REQUESTS").unwrap_or(REQUESTS);
    println!("again with BITS_FUZZ_SEED={seed} BITS_FUZZ_REQUESTS={requests}");

    let outside = TempDir::new().unwrap();
    let mut server = Server::start(ServerOptions::directory(DIRECTORY).env("RUST_LOG", "info"));
    fs::create_dir_all(server.files().join("upload")).unwrap();
    symlink(outside.path(), server.files().join("upload/link")).unwrap();
    let mut honest = Upload::new(server.address(), "/upload/honest.bin", 1, 3 << 20);
    honest.create().unwrap();
    honest.fragment(1 << 20).unwrap();
    honest.disconnect();

    attack(&server, seed, requests / 20);
    let before = rest(&server);
    attack(&server, seed + 1, requests - requests / 20);
    let after = rest(&server);

    assert!(server.is_running(), "{}", server.log());
    assert!(!server.log().contains("panicked"), "{}", server.log());
    assert_clean_log(&server.log_bytes());
    assert!(after.files.len() <= before.files.len(), "{before:#?}, then {after:#?}");
    assert!(after.memory <= before.memory + GROWTH, "{before:?}, then {after:?}");
    assert_eq!(list_files(outside.path()), [""; 0]);
    assert_within(&server);

    honest.run(1 << 20).unwrap();
    assert!(server.file("upload/honest.bin") == Some(honest.content.clone()));
    let mut late = Upload::new(server.address(), "/upload/late.bin", 2, 300_000);
    late.run(100_000).unwrap();
    assert!(server.file("upload/late.bin") == Some(late.content.clone()));
    assert_eq!(server.terminate().code(), Some(0));
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

/// Sends so many requests from all connections together, and cancels what sessions came of it.
fn attack(server: &Server, seed: u64, requests: u64) {
    let left = AtomicU64::new(requests);
    let created = Mutex::new(Vec::new());
    let start = Instant::now();
    thread::scope(|scope| {
        for number in 0..CONNECTIONS {
            let mut attacker = Attacker::new(server.address(), seed.wrapping_mul(1000) + number);
            let (left, created) = (&left, &created);
            scope.spawn(move || {
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                    attacker.strike();
                }
                created.lock().unwrap().append(&mut attacker.created);
            });
        }
    });
    let created = created.into_inner().unwrap();
    println!("{requests} requests and {} sessions in {:.1} s", created.len(), start.elapsed().as_secs_f64());
    let mut raw = server.raw();
    for (path, session) in created {
        let _ = raw.cancel(&path, &session);
    }
}

struct Attacker {
    address: SocketAddr,
    mutator: Mutator,
    stream: Option<TcpStream>,
    /// Sessions and their paths.
    created: Vec<(String, String)>,
}

impl Attacker {
    fn new(address: SocketAddr, seed: u64) -> Self {
        let mut attacker = Self { address, mutator: Mutator::new(seed), stream: None, created: Vec::new() };
        for path in ["/upload/1", "/upload/2", "/upload/sub/3"] {
            let session = Raw::connect(address).create(path);
            attacker.mutator.know(path, &session);
            attacker.created.push((path.to_owned(), session));
        }
        attacker
    }

    fn strike(&mut self) {
        let framed = self.mutator.choice(2) == 0;
        let bytes = if framed { self.mutator.framed() } else { self.mutator.unframed() };
        let stream = self.stream.take().unwrap_or_else(|| connect(self.address));
        let answer = exchange(&stream, &bytes, if framed { PATIENCE } else { GLANCE });
        self.judge(&bytes, &answer);
        let complete = framed && answer.ends_with(b"\r\n\r\n");
        if complete && self.mutator.choice(50) > 0 {
            self.stream = Some(stream);
        } else if self.mutator.choice(2) == 0 {
            // Else the connection breaks off.
            let _ = set_socket_linger(&stream, None);
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    /// What comes back is HTTP, and never says that the server is at fault.
    fn judge(&mut self, request: &[u8], answer: &[u8]) {
        let text = std::str::from_utf8(answer).unwrap_or("no text");
        let is_fault = FAULTS.iter().any(|fault| text.contains(fault));
        let is_http = text.is_empty() || text.starts_with("HTTP/1.");
        assert!(is_http && !is_fault, "{text:?} answers {:?}", String::from_utf8_lossy(request));
        if text.contains("\r\nbits-protocol: ") {
            let path = request.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
            let path = String::from_utf8_lossy(path).into_owned();
            let created = text.split("\r\n").find_map(session).expect("the ack names the session");
            self.mutator.know(&path, &created);
            self.created.push((path, created));
        }
    }
}

fn session(line: &str) -> Option<String> {
    let (name, value) = line.split_once(": ")?;
    name.eq_ignore_ascii_case("BITS-Session-Id").then(|| value.to_owned())
}

/// A connection that leaves nothing behind when it is dropped: ports are few.
fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server listens");
    stream.set_nodelay(true).unwrap();
    set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    stream
}

/// Sends, and reads what comes until a head is whole, the connection ends, or patience does.
fn exchange(mut stream: &TcpStream, bytes: &[u8], patience: Duration) -> Vec<u8> {
    stream.set_read_timeout(Some(patience)).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !answer.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => answer.extend(&buffer[..count]),
            _ => break,
        }
    }
    answer
}

#[derive(Debug)]
struct Footprint {
    /// What every open file is.
    files: Vec<String>,
    memory: u64,
}

/// What the server holds once the connections are gone.
fn rest(server: &Server) -> Footprint {
    let mut least = (open_files(server), Instant::now());
    wait_until("open files grow no fewer", || {
        let files = open_files(server);
        if files.len() < least.0.len() {
            least = (files, Instant::now());
        }
        least.1.elapsed() > Duration::from_secs(3)
    });
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    Footprint { files: least.0, memory: line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10 }
}

fn open_files(server: &Server) -> Vec<String> {
    let folder = fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
    let file = |entry: fs::DirEntry| Some(fs::read_link(entry.path()).ok()?.display().to_string());
    let mut files: Vec<_> = folder.flatten().filter_map(file).collect();
    files.sort();
    files
}

/// Nothing stands in the server's folder but what belongs there.
fn assert_within(server: &Server) {
    let files = list_files(server.folder());
    let belongs = |path: &String| {
        ["data/files/upload/", "data/state.db"].iter().any(|start| path.starts_with(start))
            || ["data/lock", "bits.toml", "server.log"].contains(&path.as_str())
    };
    // A mutated name may be a good one, wherever it came from; a bad one must not be stored.
    let bad = |path: &String| {
        path.contains(['\\', ':'])
            || path.contains(char::is_control)
            || path.split('/').any(|name| name.ends_with(['.', ' ']))
    };
    let strange: Vec<_> = files.iter().filter(|path| !belongs(path) || bad(path)).collect();
    assert!(strange.is_empty(), "{strange:?}");
}
