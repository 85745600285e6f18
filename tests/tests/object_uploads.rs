//! Uploads into object stores with the real server: Ceph's gateway, a small S3 server, Azurite.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

mod bucket;

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use bucket::{multiparts, objects};
use tests::{
    Behaviour, Fault, FaultProxy, Form, ObjectStore, Packet, Postgres, Raw, Response, Server, ServerOptions,
    assert_error, assert_next, assert_ok, pattern, python, server_binary, wait_until,
};

const MIB: u64 = 1 << 20;
/// Where sessions are kept.
const SQLITE: &str = "";

/// Sessions in a PostgreSQL database of their own.
fn postgres() -> String {
    format!("[state]\nurl = \"{}\"\nmigrate = true", Postgres::shared().database())
}

fn options(store: &ObjectStore, state: &str, directory: &str) -> ServerOptions {
    let directory = format!("[[directories]]\nurl_path = \"/upload\"\ndownload_enabled = true\n{directory}\n");
    ServerOptions::new().config(&format!("{state}\n{}{directory}", store.lines()))
}

/// Sends all of `content` in fragments of `step` bytes from where the server stands, until it has
/// everything; gives the last ack. Errors that pass are tried again, as a client does.
fn send(server: &Server, path: &str, session: &str, content: &[u8], step: usize) -> Response {
    let (mut next, mut failures) = (0, 0);
    loop {
        let end = content.len().min(next + step);
        let mut raw = server.raw();
        raw.patience(Duration::from_secs(120));
        raw.send(
            &Packet::fragment(Form::Native, path, session, next as u64, &content[next..end], content.len() as u64)
                .encode(),
        );
        match raw.try_receive() {
            Ok(response) if matches!(response.status, 200 | 416) => {
                next = response.next_offset().unwrap() as usize;
                if next == content.len() && response.status == 200 {
                    return response;
                }
            }
            Ok(response) => {
                assert_eq!(response.status, 503, "{response:?}");
                failures += 1;
            }
            Err(_) => failures += 1,
        }
        assert!(failures < 200, "the upload does not get on");
    }
}

fn upload(server: &Server, path: &str, content: &[u8], step: usize) -> String {
    let session = server.raw().create(path);
    send(server, path, &session, content, step);
    session
}

fn get(server: &Server, path: &str) -> Response {
    let mut raw = server.raw();
    raw.patience(Duration::from_secs(60));
    raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
    raw.receive()
}

#[track_caller]
fn assert_stands(server: &Server, path: &str, content: &[u8]) {
    let response = get(server, path);
    assert_eq!(response.status, 200, "{path}");
    assert!(response.body == content, "{path} has other bytes than were sent: {}", response.body.len());
}

/// Uploads of all shapes; what a fragment costs; resuming after a crash; refusals; nothing left.
fn everything(store: &ObjectStore, state: &str) {
    let mut server = Server::start(options(store, state, ""));
    for (name, size, step) in [
        ("one-byte", 1, 1),
        ("one-fragment", 100_000, 100_000),
        ("some-fragments", 100_000, 30_000),
        ("parts", 20 * MIB + 7, 5 * MIB as usize),
        ("parts-in-one", 17 * MIB, 17 * MIB as usize),
    ] {
        let path = format!("/upload/{name}");
        let content = pattern(size, size as usize);
        let session = upload(&server, &path, &content, step);
        assert_stands(&server, &path, &content);
        assert_ok(&server.raw().close(&path, &session), 200);
    }

    let request = |server: &Server, kind: &str| {
        server.metric(&format!("bits_object_store_requests_total{{request=\"{kind}\"}}")) as u64
    };
    let session = server.raw().create("/upload/counted");
    let before = ["put", "head", "get", "list", "delete"].map(|kind| request(&server, kind));
    send(&server, "/upload/counted", &session, &pattern(2, 5000), 5000);
    let after = ["put", "head", "get", "list", "delete"].map(|kind| request(&server, kind));
    let expected = [1, 0, 0, 0, 0];
    assert_eq!(std::array::from_fn(|at| after[at] - before[at]), expected, "an upload of one fragment");

    // A server that dies in the middle.
    let content = pattern(3, 19 * MIB as usize);
    let session = server.raw().create("/upload/killed");
    let mut raw = server.raw();
    raw.patience(Duration::from_secs(60));
    let cut = 9 * MIB as usize + 11;
    assert_next(&raw.fragment("/upload/killed", &session, 0, &content[..cut], content.len() as u64), cut as u64);
    server.kill();
    server.restart();
    let ack = server.raw().fragment("/upload/killed", &session, 0, &content[..1], content.len() as u64);
    assert_next(&ack, cut as u64);
    send(&server, "/upload/killed", &session, &content, 6 * MIB as usize);
    assert_stands(&server, "/upload/killed", &content);

    let refused = server.raw().ask(&Packet::create(Form::Native, "/upload/killed"));
    assert_error(&refused, 403, 0x8007_0005);
    let session = server.raw().create("/upload/cancelled");
    let cancelled = pattern(4, 12 * MIB as usize);
    server.raw().fragment("/upload/cancelled", &session, 0, &cancelled[..10 * MIB as usize], 12 * MIB);
    assert_ok(&server.raw().cancel("/upload/cancelled", &session), 200);
    let left = || objects(store).iter().any(|name| name.contains("BITS-Sessions"));
    wait_until("nothing is left", || !left());
    assert_eq!(objects(store).len(), 7);
}

#[test]
fn into_ceph() {
    everything(&ObjectStore::ceph(), SQLITE);
}

#[test]
fn into_a_small_server() {
    everything(&ObjectStore::small(), SQLITE);
}

#[test]
fn into_azurite() {
    everything(&ObjectStore::azurite(), SQLITE);
}

#[test]
fn into_azurite_with_sessions_in_postgres() {
    everything(&ObjectStore::azurite(), &postgres());
}

/// A server that dies at each point between memory and store.
#[test]
fn no_crash_loses_what_was_acknowledged() {
    for (at, point) in [
        "handle-before-commit",
        "handle-after-commit",
        "fragment-before-commit",
        "fragment-after-commit",
        "intent-before-commit",
        "intent-after-commit",
        "publish-before-commit",
        "publish-after-commit",
    ]
    .into_iter()
    .enumerate()
    {
        for size in [5000, 9 * MIB] {
            if point.starts_with("handle") && size < 8 * MIB {
                continue;
            }
            let path = format!("/upload/{at}-{size}");
            let content = pattern(at as u64, size as usize);
            let store = ObjectStore::small();
            let mut server = Server::prepare(options(&store, SQLITE, "").env("BITS_FAULT", point));
            server.launch();
            let session = server.raw().create(&path);
            let mut raw = server.raw();
            // It may die with the body on its way.
            let sent = raw.try_send(&Packet::fragment(Form::Native, &path, &session, 0, &content, size).encode());
            assert!(sent.and_then(|()| raw.try_receive()).is_err(), "{point} was not passed");
            server.wait();
            server.restart_with(options(&store, SQLITE, ""));
            send(&server, &path, &session, &content, content.len());
            assert_stands(&server, &path, &content);
            assert_ok(&server.raw().close(&path, &session), 200);
        }
    }
}

/// What the parts of a fragment belong to is in the row before them: the session's end ends it.
#[test]
fn a_crash_leaves_no_parts_behind() {
    let store = ObjectStore::ceph();
    let content = pattern(1, 18 * MIB as usize);
    let mut server = Server::prepare(options(&store, SQLITE, "").env("BITS_FAULT", "fragment-before-commit"));
    server.launch();
    let session = server.raw().create("/upload/file");
    let mut raw = server.raw();
    raw.patience(Duration::from_secs(60));
    raw.send(&Packet::fragment(Form::Native, "/upload/file", &session, 0, &content[..9 << 20], 18 * MIB).encode());
    assert!(raw.try_receive().is_err(), "the server has not died");
    server.wait();
    assert_eq!(multiparts(&store).len(), 1);
    server.restart_with(options(&store, SQLITE, ""));
    assert_ok(&server.raw().cancel("/upload/file", &session), 200);
    wait_until("its parts are given up", || multiparts(&store).is_empty());
}

/// Of what S3 cannot copy in one request; nothing is copied here.
#[test]
fn more_than_five_gibibytes_are_taken() {
    let store = ObjectStore::small();
    let server = Server::start(options(&store, SQLITE, ""));
    let session = server.raw().create("/upload/large");
    assert_next(&server.raw().fragment("/upload/large", &session, 0, b"hello", 6 << 30), 5);
}

/// Such as one that an operator tries out, or that came up with the wrong `state.url`. It is told.
#[test]
fn a_server_with_other_sessions_deletes_nothing_in_the_same_place() {
    let store = ObjectStore::small();
    let server = Server::start(options(&store, SQLITE, ""));
    let content = pattern(1, 12 * MIB as usize);
    let session = server.raw().create("/upload/file");
    let cut = 9 * MIB as usize + 11;
    let mut raw = server.raw();
    assert_next(&raw.fragment("/upload/file", &session, 0, &content[..cut], content.len() as u64), cut as u64);
    let staged = objects(&store);
    assert!(staged.iter().any(|name| name.contains("BITS-Sessions")), "{staged:?}");
    let other = options(&store, SQLITE, "cleanup_interval = \"1s\"");
    assert_ends(&store, "BITS-Sessions/database says that another session database has this place", 1);
    // Whoever deletes the object is believed, and what is staged stays for a month all the same.
    bucket::delete(&store, bucket::OWNER);
    let other = Server::start(other);
    let sweeps = || other.metric("bits_sweep_seconds_count{result=\"done\"}");
    wait_until("its first sweep is over", || sweeps() >= 2.0);
    assert!(other.metric("bits_object_store_requests_total{request=\"list\"}") >= 1.0);
    assert_eq!(objects(&store), staged);
    send(&server, "/upload/file", &session, &content, content.len());
    assert_stands(&server, "/upload/file", &content);
}

/// A balancer gives up on the first server, and the client asks the next.
#[test]
fn one_server_at_a_time_tells_the_application() {
    let slow = Behaviour::Slow(Duration::from_secs(3), Box::new(Behaviour::reply(b"late")));
    let application = tests::Application::start(slow);
    let store = ObjectStore::small();
    let lines = application.lines("by-value", "maximum_upload_size = \"1GiB\"");
    let options = options(&store, &postgres(), &lines);
    let servers = [Server::start(options.clone()), Server::start(options)];
    let session = servers[0].raw().create("/upload/file");
    let mut first = servers[0].raw();
    first.send(&Packet::fragment(Form::Native, "/upload/file", &session, 0, b"hello", 5).encode());
    wait_until("the application is told", || application.seen().len() == 1);
    // Its first connection is gone.
    drop(first);
    let ack = servers[1].raw().fragment("/upload/file", &session, 0, b"hello", 5);
    assert_next(&ack, 5);
    let reply = ack.header("BITS-Reply-URL").unwrap();
    assert_eq!(get(&servers[1], &format!("/upload/{reply}")).body, b"late");
    assert_eq!(application.seen().len(), 1, "both told it");
}

#[test]
fn uploads_wait_for_close_session() {
    for store in [ObjectStore::small(), ObjectStore::azurite()] {
        let server =
            Server::start(options(&store, SQLITE, "publish = \"close-session\"\nmaximum_upload_size = \"5GiB\""));
        for (name, size, step) in [("small", 3000, 3000), ("some", 3000, 1000), ("parts", 12 * MIB, 12 * MIB as usize)]
        {
            let path = format!("/upload/{name}");
            let content = pattern(size, size as usize);
            let session = upload(&server, &path, &content, step);
            assert_eq!(get(&server, &path).status, 404, "{name} is there too early");
            let mut raw = server.raw();
            raw.patience(Duration::from_secs(60));
            assert_ok(&raw.close(&path, &session), 200);
            assert_stands(&server, &path, &content);
        }
        assert_eq!(objects(&store).len(), 3);
    }
}

/// A store that ignores conditions is found out, and nothing overwritten.
#[test]
fn a_store_that_ignores_conditions_is_looked_at_first() {
    let store = ObjectStore::open_to_all();
    let proxy = FaultProxy::start(store.address());
    proxy.choose(|_| Fault::DropConditions);
    let server = Server::start(options(&store.clone().through(proxy.address()), SQLITE, ""));
    assert!(server.log().contains("overwrites what it was asked not to"));
    for (name, size) in [("small", 4000), ("parts", 9 * MIB)] {
        let path = format!("/upload/{name}");
        let [first, second] = [1, 2].map(|seed| pattern(seed, size as usize));
        let sessions = [server.raw().create(&path), server.raw().create(&path)];
        send(&server, &path, &sessions[0], &first, first.len());
        let mut raw = server.raw();
        raw.patience(Duration::from_secs(60));
        assert_error(&raw.fragment(&path, &sessions[1], 0, &second, size), 403, 0x8007_0005);
        assert_stands(&server, &path, &first);
    }
}

#[test]
fn what_cannot_work_ends_the_start_with_one_line() {
    let good = ObjectStore::ceph();
    let with = |name, value: &str| {
        let mut store = good.clone();
        store.set(name, value);
        store
    };
    let mut missing = good.clone();
    missing.url = "s3://no-such-bucket".to_owned();
    for (store, message, status) in [
        (missing, "the bucket does not exist", 1),
        (with("secret_access_key", "wrong"), "does not accept the credentials", 1),
        (with("access_key_id", "wrong"), "does not accept the credentials", 1),
        (with("endpoint", "http://127.0.0.1:9"), "does not answer as one of its kind", 1),
        (with("acces_key_id", "x"), "no option \"acces_key_id\"", 2),
    ] {
        assert_ends(&store, message, status);
    }
    // A web server that is no object store.
    let web = Server::start(ServerOptions::new());
    assert_ends(&with("endpoint", &format!("http://{}", web.address())), "does not answer as one of its kind", 1);
}

/// The gateway takes any region; these are Amazon's answers to a bucket of another one.
#[test]
fn another_region_ends_the_start_with_one_line() {
    let store = ObjectStore::small();
    let proxy = FaultProxy::start(store.address());
    let store = store.through(proxy.address());
    let malformed = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>AuthorizationHeaderMalformed</Code>\
        <Message>The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-central-1'</Message>\
        <Region>eu-central-1</Region><RequestId>0</RequestId><HostId>0</HostId></Error>";
    let redirect = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>PermanentRedirect</Code><Message>The bucket \
        you are attempting to access must be addressed using the specified endpoint. Please send all future requests to \
        this endpoint.</Message><Endpoint>bucket.s3.eu-central-1.amazonaws.com</Endpoint><Bucket>bucket</Bucket></Error>";
    proxy.choose(move |_| Fault::Refuse(400, malformed));
    assert_ends(&store, "does not accept the credentials: check them, and the region", 1);
    proxy.choose(move |_| Fault::Refuse(301, redirect));
    assert_ends(&store, "lies in another region: check its name, the region", 1);
}

#[track_caller]
fn assert_ends(store: &ObjectStore, message: &str, status: i32) {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("bits.toml");
    std::fs::write(&config, format!("listen = [\"127.0.0.1:0\"]\n{}[admin]\nlisten = \"\"\n", store.lines())).unwrap();
    let mut command = Command::new(server_binary());
    command.args(["serve", "--config"]).arg(&config).current_dir(folder.path());
    let output = command.output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(status), "{text}");
    let last = text.trim_end().lines().last().unwrap_or_default();
    assert!(last.contains("storage.url") && last.contains(message), "{message}: {text}");
    for (name, value) in &store.options {
        assert!(!name.contains("secret") || !text.contains(value.as_str()), "a secret is shown: {text}");
    }
}

#[test]
fn readiness_names_the_store_that_does_not_answer() {
    let store = ObjectStore::small();
    let proxy = FaultProxy::start(store.address());
    let server = Server::start(options(&store.through(proxy.address()), SQLITE, ""));
    assert!(server.is_ready());
    proxy.choose(|_| Fault::Status(403));
    let mut admin = Raw::connect(server.admin_address());
    admin.send(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let answer = admin.receive();
    let text = String::from_utf8(answer.body).unwrap();
    assert!(answer.status == 503 && text.contains("default"), "{} {text}", answer.status);
    proxy.choose(|_| Fault::Pass);
    wait_until("the store answers again", || server.is_ready());
}

/// Everything that can go wrong between server and store, by a seed that is printed.
#[test]
fn faults_lose_nothing_and_publish_nothing_twice() {
    let seed = std::env::var("BITS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    eprintln!("BITS_SEED={seed}");
    let store = ObjectStore::ceph();
    let proxy = FaultProxy::start(store.address());
    let server = Server::start(options(&store.clone().through(proxy.address()), SQLITE, ""));
    let mut random = fastrand::Rng::with_seed(seed);
    proxy.choose(move |_| match random.u32(0..12) {
        0 => Fault::Status(500),
        1 => Fault::Status(503),
        2 => Fault::CutBefore,
        3 => Fault::LoseAnswer,
        4 => Fault::CutAnswer,
        5 => Fault::Slow(Duration::from_millis(300)),
        _ => Fault::Pass,
    });
    let sizes =
        [(5000, 5000), (5000, 1000), (100_000, 100_000), (13 * MIB, 3 * MIB as usize), (9 * MIB, 9 * MIB as usize)];
    let mut sent = Vec::new();
    for (at, (size, step)) in sizes.iter().cycle().take(15).enumerate() {
        let path = format!("/upload/{at}");
        let content = pattern(at as u64, *size as usize);
        let session = created(&server, &path);
        send(&server, &path, &session, &content, *step);
        sent.push((path, session, content));
    }
    proxy.choose(|_| Fault::Pass);
    for (path, session, content) in &sent {
        assert_stands(&server, path, content);
        assert_ok(&server.raw().close(path, session), 200);
    }
    eprintln!("{} requests went through the proxy", proxy.requests());
    // What faults left is found by the sweep of the next start.
    let mut server = server;
    server.restart();
    let staged = || objects(&store).into_iter().filter(|name| name.contains("BITS-Sessions")).count();
    wait_until("the sweep has deleted what was left", || staged() == 0);
    assert_eq!(objects(&store).len(), sent.len());
}

fn created(server: &Server, path: &str) -> String {
    for _ in 0..50 {
        let mut raw = server.raw();
        raw.patience(Duration::from_secs(60));
        let response = raw.ask(&Packet::create(Form::Native, path));
        if response.status == 200 {
            return response.header("BITS-Session-Id").unwrap().to_owned();
        }
        assert_eq!(response.status, 503, "{response:?}");
    }
    panic!("no session is created");
}

/// A program of its own, which gets URLs.
struct Application {
    process: Child,
    port: u16,
}

impl Application {
    fn start() -> Self {
        let mut process = python("reference_application.py").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { process, port: line.trim().parse().expect("it says its port") }
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn applications_get_urls() {
    let application = Application::start();
    for store in [ObjectStore::ceph(), ObjectStore::azurite()] {
        let lines = format!(
            "notification_type = \"by-reference\"\nnotification_url = \"http://127.0.0.1:{}/\"\nmaximum_upload_size = \"5GiB\"",
            application.port
        );
        let server = Server::start(options(&store, SQLITE, &lines));
        for (name, size, step) in [("one", 2000, 2000), ("some", 2000, 700), ("parts", 10 * MIB, 10 * MIB as usize)] {
            let path = format!("/upload/{name}");
            let content = pattern(size, size as usize);
            let session = server.raw().create(&path);
            let ack = send(&server, &path, &session, &content, step);
            let url =
                ack.header("BITS-Reply-URL").unwrap_or_else(|| panic!("{} {name}: {ack:?}", store.name)).to_owned();
            let reply = String::from_utf8(get(&server, &format!("/upload/{url}")).body).unwrap();
            let (digest, length) = reply.split_once(' ').expect("a digest and a size");
            assert_eq!((digest.len(), length), (64, size.to_string().as_str()), "{reply}");
            assert_stands(&server, &path, &content);
            assert_ok(&server.raw().close(&path, &session), 200);
        }
        let log = server.log();
        assert!(!log.contains("Signature=") && !log.contains("sig="), "a signed URL is in the log");
        assert_eq!(objects(&store).len(), 3, "{:?}", objects(&store));
    }
}
