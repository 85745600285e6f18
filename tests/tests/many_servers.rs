//! Three servers on one PostgreSQL and one object store, behind HAProxy, which sends each packet to
//! the next of them: servers die and freeze at any moment, the database restarts, the store fails,
//! clients race, others write. No acknowledged byte is lost, nothing wrong and nothing twice is
//! published, nothing is left behind, and every upload ends.
//!
//! The store is Ceph's gateway: what is tested here rests on conditions and multipart uploads as a
//! store in production keeps them.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

mod bucket;

use std::{
    fs,
    net::SocketAddr,
    process::{Command, Stdio},
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bucket::{end_multiparts_after_a_day, multiparts, object, objects, put};
use rustix::process::Signal;
use tests::{
    Balancer, Cluster, Fault, ObjectStore, Packet, Postgres, Raw, Response, Upload, assert_error, assert_invariants,
    assert_ok, client_binary, pattern, wait_until,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const ACCESS_DENIED: u32 = 0x8007_0005;
/// A client tries for so long before the test says that an upload does not end.
const PATIENCE: Duration = Duration::from_secs(120);

fn cluster() -> Cluster {
    Cluster::start(Postgres::shared(), ObjectStore::ceph(), "")
}

fn balancer(cluster: &Cluster) -> Balancer {
    let addresses: Vec<SocketAddr> = cluster.servers.iter().map(tests::Server::address).collect();
    Balancer::start(&addresses, 20)
}

/// Asks until there is an ack that is not of a failure that passes.
fn insist(upload: &mut Upload, packet: impl Fn(&Upload) -> Packet) -> Response {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let bytes = packet(upload).encode();
        let answered = upload.connection().and_then(|connection| {
            connection.patience(Duration::from_secs(60));
            connection.try_send(&bytes)?;
            connection.try_receive()
        });
        match answered {
            Ok(response) if response.header("BITS-Packet-Type").is_some() => {
                assert_invariants(&response);
                if response.status != 503 {
                    return response;
                }
            }
            // The balancer's own, or nothing at all.
            Ok(_) | Err(_) => drop(upload.disconnect()),
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("{}: no server answers", upload.path);
}

/// The whole upload, held against what was acknowledged at each step.
fn travel(upload: &mut Upload, step: u64) {
    begin(upload);
    go_on(upload, step);
}

fn begin(upload: &mut Upload) {
    let created = insist(upload, |upload| Packet::create(upload.form, &upload.path));
    assert_ok(&created, 200);
    upload.session = created.header("BITS-Session-Id").map(str::to_owned);
}

fn go_on(upload: &mut Upload, step: u64) {
    while !upload.is_whole() {
        next(upload, step);
    }
    let closed = insist(upload, |upload| Packet::close(upload.form, &upload.path, upload.session()));
    assert_ok(&closed, 200);
}

fn next(upload: &mut Upload, step: u64) {
    let answer = insist(upload, |upload| upload.next_fragment(step));
    assert!(matches!(answer.status, 200 | 416), "{}: {answer:?}", upload.path);
    let next = answer.next_offset().unwrap();
    assert!(next >= upload.acknowledged, "{}: {next} is wanted of {}", upload.path, upload.acknowledged);
    upload.acknowledged = next;
}

/// An upload by the command `bits`, which must end well.
fn upload_by_command(balancer: &Balancer, path: &str, content: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("source"), content).unwrap();
    let mut command = Command::new(client_binary());
    command.current_dir(folder.path()).env("BITS_JOBS_DIR", folder.path().join("jobs")).stdin(Stdio::null());
    command.args(["upload", "--fragment-size", "1MiB", "--retry-for", "2m", "source", &balancer.url(path)]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The name of the object that a path is published as.
fn key(path: &str) -> &str {
    path.trim_start_matches('/')
}

#[track_caller]
fn assert_stands(cluster: &Cluster, path: &str, content: &[u8]) {
    let found = object(&cluster.store, key(path)).unwrap_or_else(|| panic!("{path} is not there"));
    assert!(found == content, "{path} has other bytes than were sent, {} of {}", found.len(), content.len());
}

/// After a sweep there is what was published and nothing else.
#[track_caller]
fn assert_nothing_left(cluster: &mut Cluster, paths: &[String], unfinished: usize) {
    cluster.sweep(2);
    // What a server had tried the store with when it died belongs to no session: it stays for 30 days.
    let (mut found, mut probes) = (Vec::new(), Vec::new());
    wait_until("the sweep has deleted what was staged", || {
        (probes, found) = objects(&cluster.store).into_iter().partition(|name| name.contains("/0-probe-"));
        !found.iter().any(|name| name.contains("BITS-Sessions"))
    });
    assert!(probes.len() <= 2 * unfinished, "{probes:?}");
    let mut expected: Vec<_> = paths.iter().map(|path| key(path).to_owned()).collect();
    expected.sort();
    assert_eq!(found, expected);
    // The small server does not list them.
    let left = if cluster.store.name == "Ceph" { multiparts(&cluster.store) } else { Vec::new() };
    assert!(left.len() <= unfinished, "{} multipart uploads are left: {left:?}", left.len());
    assert_eq!(cluster.sql("SELECT count(*) FROM piece"), "0");
    assert_eq!(cluster.sql("SELECT count(*) FROM replaced_piece"), "0");
}

/// Shapes of uploads with the fragments that they are sent in.
const SHAPES: [(u64, u64); 5] =
    [(3000, 3000), (40_000, 7000), (300_000, 300_000), (9 * MIB + 5, MIB + 3), (18 * MIB, 5 * MIB)];

#[test]
fn every_packet_goes_to_another_server() {
    let mut cluster = cluster();
    let balancer = balancer(&cluster);
    let mut paths = Vec::new();
    for (at, (size, step)) in SHAPES.into_iter().enumerate() {
        let mut upload = Upload::new(balancer.address(), &format!("/upload/{at}"), at as u64, size as usize);
        upload.create().unwrap();
        upload.connection().unwrap().patience(Duration::from_secs(60));
        upload.fragments(step).unwrap();
        upload.close().unwrap();
        assert_stands(&cluster, &upload.path, &upload.content);
        let packets = 2 + size.div_ceil(step);
        let taken = |server: &tests::Server| {
            server.log().lines().filter(|line| line.contains("packet answered") && line.contains(&upload.path)).count()
                as u64
        };
        let shares: Vec<_> = cluster.servers.iter().map(taken).collect();
        assert_eq!(shares.iter().sum::<u64>(), packets, "{shares:?}");
        assert!(shares.iter().all(|share| share.abs_diff(packets / 3) <= 1), "{shares:?} of {packets} packets");
        paths.push(upload.path);
    }
    upload_by_command(&balancer, "/upload/by-command", &pattern(77, 9 << 20));
    assert_stands(&cluster, "/upload/by-command", &pattern(77, 9 << 20));
    paths.push("/upload/by-command".to_owned());
    assert_nothing_left(&mut cluster, &paths, 0);
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn seed() -> fastrand::Rng {
    let seed = number_from("BITS_SEED").unwrap_or_else(|| fastrand::u64(..));
    eprintln!("BITS_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// Clients that upload one file after another until they are told to stop.
struct Load<'a> {
    balancer: &'a Balancer,
    enough: AtomicBool,
    count: AtomicU64,
}

impl Load<'_> {
    fn next_path(&self) -> (u64, String) {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        (number, format!("/upload/{number}"))
    }

    fn clients(&self, mut random: fastrand::Rng) -> Vec<(String, Vec<u8>)> {
        let mut done = Vec::new();
        while !self.enough.load(Ordering::Relaxed) {
            let (number, path) = self.next_path();
            let (size, step) = SHAPES[random.usize(..SHAPES.len())];
            let mut upload = Upload::new(self.balancer.address(), &path, number, (size + random.u64(0..5000)) as usize);
            travel(&mut upload, step);
            done.push((path, upload.content));
        }
        done
    }

    fn commands(&self) -> Vec<(String, Vec<u8>)> {
        let mut done = Vec::new();
        while !self.enough.load(Ordering::Relaxed) {
            let (number, path) = self.next_path();
            let content = pattern(number, (number % 3 * 4 * MIB + 70_000) as usize);
            upload_by_command(self.balancer, &path, &content);
            done.push((path, content));
        }
        done
    }
}

/// Runs four clients and two commands `bits` while `disturb` does, and gives what they uploaded.
fn under_load(
    balancer: &Balancer,
    random: &mut fastrand::Rng,
    disturb: impl FnOnce(&mut fastrand::Rng),
) -> Vec<(String, Vec<u8>)> {
    let load = Load { balancer, enough: AtomicBool::new(false), count: AtomicU64::new(0) };
    thread::scope(|scope| {
        let load = &load;
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let random = random.fork();
                scope.spawn(move || load.clients(random))
            })
            .chain((0..2).map(|_| scope.spawn(|| load.commands())))
            .collect();
        // The clients end even where the disturbance fails.
        let disturbed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| disturb(random)));
        load.enough.store(true, Ordering::Relaxed);
        let done = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        disturbed.unwrap();
        done
    })
}

fn assert_all_stand(cluster: &mut Cluster, done: &[(String, Vec<u8>)], unfinished: usize) {
    for (path, content) in done {
        assert_stands(cluster, path, content);
    }
    let paths: Vec<String> = done.iter().map(|(path, _)| path.clone()).collect();
    assert_nothing_left(cluster, &paths, unfinished);
}

/// `BITS_KILLS` of them, 30 where nobody says; `BITS_SEED` repeats a run as far as time does.
#[test]
fn kills_at_any_moment_lose_nothing() {
    let kills = number_from("BITS_KILLS").unwrap_or(30);
    let mut random = seed();
    let mut cluster = cluster();
    let balancer = balancer(&cluster);
    let servers = &mut cluster.servers;
    let done = under_load(&balancer, &mut random, |random| {
        for _ in 0..kills {
            thread::sleep(Duration::from_millis(random.u64(0..700)));
            let server = &mut servers[random.usize(0..3)];
            assert!(server.is_running(), "a server ended by itself");
            server.kill();
            thread::sleep(Duration::from_millis(random.u64(0..150)));
            server.spawn();
        }
        servers.iter_mut().for_each(tests::Server::wait_ready);
    });
    eprintln!("{} uploads went through {kills} kills", done.len());
    // One that is begun and not yet in the row when its server dies is nobody's: what lifecycle
    // rules are for.
    assert_all_stand(&mut cluster, &done, kills as usize);
    end_multiparts_after_a_day(&cluster.store);
    wait_until("the rule has ended what was nobody's", || multiparts(&cluster.store).is_empty());
}

#[test]
fn a_database_that_restarts_loses_nothing() {
    let postgres = Postgres::start("");
    let mut cluster = Cluster::start(&postgres, ObjectStore::ceph(), "");
    let balancer = balancer(&cluster);
    let done = under_load(&balancer, &mut seed(), |random| {
        for mode in ["immediate", "fast", "immediate"] {
            thread::sleep(Duration::from_millis(random.u64(200..800)));
            postgres.down(mode);
            thread::sleep(Duration::from_millis(random.u64(0..600)));
            postgres.up();
            thread::sleep(Duration::from_millis(random.u64(0..300)));
            postgres.terminate_connections();
        }
    });
    assert_all_stand(&mut cluster, &done, 0);
}

#[test]
fn a_store_that_fails_loses_nothing() {
    let mut random = seed();
    let mut cluster = cluster();
    let balancer = balancer(&cluster);
    for proxy in &cluster.proxies {
        let mut random = random.fork();
        proxy.choose(move |_| match random.u32(0..15) {
            0 => Fault::Status(500),
            1 => Fault::Status(503),
            2 => Fault::CutBefore,
            3 => Fault::LoseAnswer,
            4 => Fault::CutAnswer,
            5 => Fault::Slow(Duration::from_millis(300)),
            _ => Fault::Pass,
        });
    }
    let done = under_load(&balancer, &mut random, |_| thread::sleep(Duration::from_secs(6)));
    cluster.proxies.iter().for_each(|proxy| proxy.choose(|_| Fault::Pass));
    let requests: u64 = cluster.proxies.iter().map(tests::FaultProxy::requests).sum();
    eprintln!("{} uploads took {requests} requests", done.len());
    // One whose beginning was done and not answered is nobody's.
    assert_all_stand(&mut cluster, &done, requests as usize / 10);
}

#[test]
fn of_two_that_race_for_a_name_one_gets_it() {
    let mut cluster = cluster();
    let mut paths = Vec::new();
    for (round, (size, step)) in SHAPES.into_iter().enumerate() {
        let path = format!("/upload/{round}");
        let mut racers: Vec<_> = (0..3)
            .map(|at| {
                let address = cluster.servers[at].address();
                let mut racer = Upload::new(address, &path, at as u64 + 1, size as usize);
                begin(&mut racer);
                while racer.acknowledged + step < racer.total() {
                    next(&mut racer, step);
                }
                racer
            })
            .collect();
        let barrier = Barrier::new(racers.len());
        // A server that runs another's job may send its client back.
        let last = |racer: &mut Upload| {
            barrier.wait();
            loop {
                let answer = insist(racer, |racer| racer.next_fragment(step));
                match answer.next_offset() {
                    Some(next) if next < size => racer.acknowledged = next,
                    _ => return answer,
                }
            }
        };
        let answers: Vec<Response> = thread::scope(|scope| {
            let last = &last;
            let racing: Vec<_> = racers.iter_mut().map(|racer| scope.spawn(|| last(racer))).collect();
            racing.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        let winners: Vec<_> = (0..racers.len()).filter(|at| answers[*at].status == 200).collect();
        assert_eq!(winners.len(), 1, "{answers:#?}");
        for (at, answer) in answers.iter().enumerate() {
            if at == winners[0] {
                assert_eq!(answer.next_offset(), Some(size));
            } else {
                assert_error(answer, 403, ACCESS_DENIED);
            }
        }
        assert_stands(&cluster, &path, &racers[winners[0]].content);
        paths.push(path);
    }
    assert_nothing_left(&mut cluster, &paths, 0);
}

#[test]
fn what_others_write_stays() {
    let mut cluster = cluster();
    let balancer = balancer(&cluster);
    let mut paths = Vec::new();
    for (at, (size, step)) in SHAPES.into_iter().enumerate() {
        let mut upload = Upload::new(balancer.address(), &format!("/upload/{at}"), at as u64, size as usize);
        begin(&mut upload);
        while upload.acknowledged + step < upload.total() {
            next(&mut upload, step);
        }
        put(&cluster.store, key(&upload.path), b"of another program");
        for _ in 0..3 {
            assert_error(&insist(&mut upload, |upload| upload.next_fragment(step)), 403, ACCESS_DENIED);
        }
        let refused = insist(&mut upload, |upload| Packet::create(upload.form, &upload.path));
        assert_error(&refused, 403, ACCESS_DENIED);
        assert_stands(&cluster, &upload.path, b"of another program");
        paths.push(upload.path);
    }
    assert_nothing_left(&mut cluster, &paths, 0);
}

/// A write that the store does not answer is waited for by its own client, not by a newer request.
#[test]
fn a_store_that_hangs_holds_up_its_own_request_only() {
    let mut cluster = cluster();
    let (path, size) = ("/upload/hangs", 18 * MIB);
    let mut upload = Upload::new(cluster.servers[0].address(), path, 1, size as usize);
    begin(&mut upload);
    cluster.proxies[0].choose(|line| if line.contains("partNumber=1&") { Fault::Hold } else { Fault::Pass });
    let mut first = Raw::connect(upload.address);
    first.send(&upload.next_fragment(9 * MIB).encode());
    wait_until("the part is held", || cluster.proxies[0].held() > 0);
    cluster.proxies[0].choose(|_| Fault::Pass);
    let start = Instant::now();
    next(&mut upload, 9 * MIB);
    let waited = start.elapsed();
    assert!((Duration::from_secs(5)..Duration::from_secs(15)).contains(&waited), "{waited:?}");
    go_on(&mut upload, 9 * MIB);
    cluster.proxies[0].release();
    drop(first.try_receive());
    assert_stands(&cluster, path, &upload.content);
    assert_nothing_left(&mut cluster, &[path.to_owned()], 0);
}

/// Who wants uploads to stick names a host; when that is dead, clients go back to where they began.
#[test]
fn a_host_that_is_named_and_dies_is_left() {
    let lines = "host_id = \"127.0.0.2\"\nhost_id_fallback_timeout = \"1s\"";
    let mut cluster = Cluster::start(Postgres::shared(), ObjectStore::small(), lines);
    let first = cluster.servers[0].address();
    // The named host is another server on the port that the client knows.
    let listener = format!("\n[[listeners]]\naddress = \"127.0.0.2:{}\"\ncertificate = \"\"\n", first.port());
    let options = cluster.servers[1].options.clone().and_config(&listener);
    cluster.servers[1].restart_with(options);

    let content = pattern(9, 12 << 20);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("source"), &content).unwrap();
    let mut command = Command::new(client_binary());
    command.current_dir(folder.path()).env("BITS_JOBS_DIR", folder.path().join("jobs")).stdin(Stdio::null());
    command.args(["upload", "--fragment-size", "16KiB", "source", &cluster.servers[0].url("/upload/sticks")]);
    let mut client = command.spawn().unwrap();
    let fragments = |server: &tests::Server| {
        server.log().lines().filter(|line| line.contains("packet answered packet=\"Fragment\"")).count()
    };
    wait_until("the upload is under way at the named host", || fragments(&cluster.servers[1]) > 20);
    assert_eq!(fragments(&cluster.servers[0]), 0, "the client sticks to the named host");
    cluster.servers[1].kill();
    assert!(client.wait().unwrap().success());
    assert!(fragments(&cluster.servers[0]) > 0, "the client comes back");
    let created = cluster.servers.iter().map(|server| server.log().matches("session created").count()).sum::<usize>();
    assert_eq!(created, 1, "with its session");
    assert_stands(&cluster, "/upload/sticks", &content);
}

/// In the middle of what a server freezes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Amid {
    /// Storing a fragment that fills no part.
    Fragment,
    /// Beginning a multipart upload.
    Begin,
    /// Storing a part.
    Part,
    /// Completing a multipart upload.
    Completion,
    /// Publishing an upload of one fragment.
    Put,
}

/// What happens to the session while the server is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meanwhile {
    GoesOn,
    Cancelled,
    Swept,
}

impl Amid {
    /// The size of an upload, what other servers take of it before, and the fragment that freezes.
    const fn shape(self) -> (u64, u64, u64) {
        match self {
            Self::Fragment => (50 * KIB, 20 * KIB, 20 * KIB),
            Self::Begin => (9 * MIB, 0, MIB),
            Self::Part => (18 * MIB, 9 * MIB, 8 * MIB),
            Self::Completion => (9 * MIB, 8 * MIB, MIB),
            Self::Put => (50 * KIB, 0, 50 * KIB),
        }
    }

    /// Whether this is the request to the store in the middle of which the server freezes.
    fn is(self, line: &str) -> bool {
        let is_staged = line.contains("BITS-Sessions");
        match self {
            Self::Fragment => line.starts_with("PUT ") && is_staged,
            Self::Begin => line.starts_with("POST ") && line.contains("?uploads"),
            Self::Part => line.contains("partNumber="),
            Self::Completion => line.starts_with("POST ") && line.contains("uploadId="),
            Self::Put => line.starts_with("PUT ") && !is_staged,
        }
    }
}

fn freezes(amid: Amid) {
    let mut cluster = cluster();
    let mut paths = Vec::new();
    for meanwhile in [Meanwhile::GoesOn, Meanwhile::Cancelled, Meanwhile::Swept] {
        // What the frozen one had sent reaches the store before it wakes, or afterwards.
        for is_done in [true, false] {
            let path = format!("/upload/{meanwhile:?}-{is_done}");
            eprintln!("{amid:?} {path}");
            freeze(&mut cluster, amid, meanwhile, is_done, &path);
            paths.push(path);
        }
    }
    assert_nothing_left(&mut cluster, &paths, 0);
}

fn freeze(cluster: &mut Cluster, amid: Amid, meanwhile: Meanwhile, is_done: bool, path: &str) {
    let (size, before, fragment) = amid.shape();
    let mut upload = Upload::new(cluster.servers[1].address(), path, 1, size as usize);
    begin(&mut upload);
    while upload.acknowledged < before {
        next(&mut upload, before);
    }
    let packet = upload.next_fragment(fragment).encode();
    frozen(cluster, amid, is_done, &packet, |cluster| {
        let owner = match meanwhile {
            Meanwhile::GoesOn => {
                go_on(&mut upload, 4 * MIB);
                Some(upload.content.clone())
            }
            Meanwhile::Cancelled => {
                let cancelled = insist(&mut upload, |upload| Packet::cancel(upload.form, path, upload.session()));
                assert_ok(&cancelled, 200);
                object(&cluster.store, key(path))
            }
            Meanwhile::Swept => {
                cluster.sweep(2);
                object(&cluster.store, key(path))
            }
        };
        // One that was about to be published may have been.
        assert!(owner.as_ref().is_none_or(|found| meanwhile == Meanwhile::GoesOn || *found == upload.content));
        owner.unwrap_or_else(|| {
            let mut second = Upload::new(cluster.servers[2].address(), path, 2, size as usize);
            travel(&mut second, 5 * MIB);
            second.content
        })
    });
}

/// Sends a packet to the first server and freezes it amid what that has it ask of the store; thaws it
/// after `meanwhile`, which gives what stands at the destination from then on. What it had sent reaches
/// the store before it thaws (`is_done`), or afterwards.
fn frozen(
    cluster: &mut Cluster,
    amid: Amid,
    is_done: bool,
    packet: &[u8],
    meanwhile: impl FnOnce(&mut Cluster) -> Vec<u8>,
) {
    let path =
        packet.split(|byte| *byte == b' ').nth(1).map(|path| String::from_utf8_lossy(path).into_owned()).unwrap();
    cluster.proxies[0].choose(move |line| if amid.is(line) { Fault::Hold } else { Fault::Pass });
    let mut raw = Raw::connect(cluster.servers[0].address());
    raw.patience(Duration::from_secs(60));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let _ = raw.try_send(packet);
            drop(raw.try_receive());
        });
        wait_until("the request is held", || cluster.proxies[0].held() > 0);
        cluster.servers[0].signal(Signal::STOP);
        cluster.proxies[0].choose(|_| Fault::Pass);
        let content = meanwhile(cluster);
        if is_done {
            cluster.proxies[0].release();
            wait_until("the store has done it", || cluster.proxies[0].held() == 0);
            thread::sleep(Duration::from_millis(100));
        }
        cluster.servers[0].signal(Signal::CONT);
        cluster.proxies[0].release();
        waiting.join().unwrap();
        assert_stands(cluster, &path, &content);
    });
    cluster.servers[0].wait_ready();
}

/// Where files may be replaced, what a server was about to put there when it froze comes too late: a
/// newer file stays.
#[test]
fn a_server_that_freezes_amid_replacing_harms_nothing() {
    let mut cluster = Cluster::start(Postgres::shared(), ObjectStore::small(), "allow_overwrites = true");
    let mut paths = Vec::new();
    for (stands, is_done) in [(false, true), (false, false), (true, true), (true, false)] {
        let path = format!("/upload/{stands}-{is_done}");
        eprintln!("{path}");
        if stands {
            put(&cluster.store, key(&path), b"old");
        }
        let mut upload = Upload::new(cluster.servers[1].address(), &path, 1, 50 * KIB as usize);
        begin(&mut upload);
        frozen(&mut cluster, Amid::Put, is_done, &upload.next_fragment(50 * KIB).encode(), |cluster| {
            go_on(&mut upload, 50 * KIB);
            assert_stands(cluster, &path, &upload.content);
            let mut newer = Upload::new(cluster.servers[2].address(), &path, 2, 40 * KIB as usize);
            travel(&mut newer, 40 * KIB);
            newer.content
        });
        paths.push(path);
    }
    assert_nothing_left(&mut cluster, &paths, 0);
}

#[test]
fn a_server_that_freezes_amid_a_fragment_harms_nothing() {
    freezes(Amid::Fragment);
}

#[test]
fn a_server_that_freezes_as_it_begins_parts_harms_nothing() {
    freezes(Amid::Begin);
}

#[test]
fn a_server_that_freezes_amid_a_part_harms_nothing() {
    freezes(Amid::Part);
}

#[test]
fn a_server_that_freezes_amid_a_completion_harms_nothing() {
    freezes(Amid::Completion);
}

#[test]
fn a_server_that_freezes_amid_publishing_harms_nothing() {
    freezes(Amid::Put);
}
