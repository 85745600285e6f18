//! The server dies at every fault point, at every passing of it: after a restart the client goes
//! on as the protocol says, the file is right, published once, and nothing is left over.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    collections::BTreeSet,
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    sync::{LazyLock, Mutex},
    thread,
    time::Duration,
};

use rustix::process::Signal;
use tempfile::TempDir;
use tests::{
    Application, Behaviour, Form, Packet, Sent, Server, ServerOptions, Upload, assert_error, assert_staging_empty,
    list_files, wait_until,
};

const FRAGMENT: u64 = 64 * 1024;
const FILE: &str = "upload/new/folder/file.bin";
/// What another program puts in the place of a published file: the server must leave it alone.
const FOREIGN: &[u8] = b"changed by its owner";
/// What stands at the destination before an upload that overwrites.
const OLD: &[u8] = b"old";

/// A way through the protocol.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    name: &'static str,
    directory: &'static str,
    form: Form,
    fragments: usize,
    /// Whether the client cancels at the end instead of closing.
    cancels: bool,
    /// Whether it has sent every fragment by then.
    whole: bool,
    overwrites: bool,
    /// Whether a server application is told of the upload.
    told: Option<Told>,
}

/// What a server application is told, and what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// It gets the upload, gives a reply, and wants it published.
    Publish,
    /// It gets the upload and gives a reply.
    Reply,
    /// It gets the name of the upload, and leaves a reply at the other one.
    ByReference,
    /// It gets the upload and names a reply that is elsewhere.
    Elsewhere,
}

const UPLOAD: Scenario = Scenario {
    name: "upload",
    directory: "",
    form: Form::Native,
    fragments: 3,
    cancels: false,
    whole: true,
    overwrites: false,
    told: None,
};

const SCENARIOS: [Scenario; 11] = [
    UPLOAD,
    Scenario { name: "overwrite", directory: "allow_overwrites = true", overwrites: true, ..UPLOAD },
    Scenario { name: "publish at close", directory: "publish = \"close-session\"", ..UPLOAD },
    Scenario { name: "cancel", cancels: true, whole: false, ..UPLOAD },
    Scenario {
        name: "cancel before publishing",
        directory: "publish = \"close-session\"",
        cancels: true,
        fragments: 1,
        ..UPLOAD
    },
    Scenario { name: "close too early", whole: false, ..UPLOAD },
    Scenario { name: "notify", told: Some(Told::Publish), ..UPLOAD },
    Scenario { name: "reply", told: Some(Told::Reply), directory: "publish = \"close-session\"", ..UPLOAD },
    Scenario { name: "reply by reference", told: Some(Told::ByReference), ..UPLOAD },
    Scenario { name: "reply elsewhere", told: Some(Told::Elsewhere), ..UPLOAD },
    Scenario { name: "empty", form: Form::Override, fragments: 0, ..UPLOAD },
];

const REPLY: &[u8] = b"a reply";
const ELSEWHERE: &str = "http://replies.example/x";

/// What all servers tell.
static APPLICATIONS: LazyLock<[Application; 4]> = LazyLock::new(|| {
    let copy = vec![("BITS-Copy-File-To-Destination", String::new())];
    [
        Behaviour::Answer(200, copy, REPLY.to_vec()),
        Behaviour::reply(REPLY),
        Behaviour::Leave(REPLY.to_vec(), Vec::new()),
        Behaviour::header("BITS-Static-Response-URL", ELSEWHERE),
    ]
    .map(Application::start)
});

impl Told {
    fn lines(self, more: &str) -> String {
        let kind = if self == Self::ByReference { "by-reference" } else { "by-value" };
        APPLICATIONS[self as usize].lines(kind, more)
    }

    fn reply(self) -> &'static [u8] {
        if self == Self::Elsewhere { ELSEWHERE.as_bytes() } else { REPLY }
    }
}

impl Scenario {
    fn options(&self) -> ServerOptions {
        match self.told {
            Some(told) => ServerOptions::directory(&told.lines(self.directory)),
            None => ServerOptions::directory(self.directory),
        }
    }

    /// Whether the file must stand at its destination in the end.
    fn publishes(&self) -> bool {
        self.whole
            && !(self.cancels && self.directory.contains("close-session"))
            && self.told.is_none_or(|told| told == Told::Publish)
    }

    fn upload(&self, server: &Server) -> Upload {
        let length = self.fragments * FRAGMENT as usize;
        let mut upload = Upload::new(server.address(), &format!("/{FILE}"), 3, length);
        upload.form = self.form;
        upload
    }

    /// All of the client's steps that are not done yet. Those done once are not done again, nor is
    /// a reply fetched again that it has.
    fn go_on(&self, upload: &mut Upload, fetched: &mut bool) -> Sent<()> {
        upload.create()?;
        let wanted = if self.whole { upload.total() } else { upload.total() - FRAGMENT };
        while upload.acknowledged < wanted {
            upload.fragment(FRAGMENT)?;
        }
        if let Some(told) = self.told.filter(|_| !*fetched) {
            assert_eq!(upload.reply()?, told.reply());
            *fetched = true;
        }
        if self.cancels { upload.cancel() } else { upload.close() }
    }
}

/// System calls that change the disk, some of them on one path below the data folder only: the
/// server is killed before it makes them.
const CALLS: [(&str, &str); 13] = [
    ("fallocate", ""),
    ("?pwritev,?pwritev2", ""),
    ("fdatasync", ""),
    ("fsync", "files/upload/BITS-Sessions"),
    ("mkdirat", ""),
    ("fchmod", ""),
    ("utimensat", ""),
    ("?renameat,?renameat2", ""),
    ("fsync", "files/upload/new/folder"),
    ("fsync", "files/upload/new"),
    ("unlinkat", ""),
    ("pwrite64", "state.db-wal"),
    ("fsync,fdatasync", "state.db-wal"),
];

#[test]
fn the_server_may_die_at_every_point() {
    // Nothing is lost here; `a_staged_file_that_was_swapped_is_not_published` has it so. A local disk begins
    // no uploads of its own; `no_crash_loses_what_was_acknowledged` of object stores has it so.
    let elsewhere = |point: &String| point.starts_with("regress-") || point.starts_with("handle-");
    let points: Vec<String> = points().into_iter().filter(|point| !elsewhere(point)).collect();
    assert!(points.len() > 10, "the points stand in the source: {points:?}");
    let at_point = |scenario: Scenario, point: &String, nth| {
        let what = format!("{} dies at passing {nth} of {point}", scenario.name);
        let options = scenario.options().env("BITS_FAULT", &format!("{point}:{nth}"));
        dies(scenario, options, Signal::ABORT, &what)
    };
    let missed = dies_everywhere(&SCENARIOS, &points, u32::MAX, at_point);
    assert!(missed.is_empty(), "no scenario passes {missed:?}; add one that does");
}

#[test]
fn the_server_may_be_killed_before_every_change_on_disk() {
    let before_call = |scenario: Scenario, (calls, path): &(&str, &str), nth| {
        let what = format!("{} is killed before call {nth} of {calls} {path}", scenario.name);
        let folder = TempDir::new().unwrap();
        let data = folder.path().join("data");
        let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:signal=KILL:when={nth}"));
        let path = data.join(path);
        let mut wrapper = vec!["strace", "-f", "-o", "/dev/null", "-e", &trace, "-e", &inject];
        if path != data {
            wrapper.extend(["-P", path.to_str().unwrap()]);
        }
        let options = ServerOptions::directory(scenario.directory).data_dir(&data).wrapper(&wrapper);
        dies(scenario, options, Signal::KILL, &what)
    };
    // Each thread counts its own calls, so that a count leads to several places.
    let missed = dies_everywhere(&SCENARIOS[..4], &CALLS, 4, before_call);
    assert!(missed.is_empty(), "no scenario makes {missed:?}; say what it makes instead");
}

/// In every scenario, has the server die at the first passing of each point, then at the second,
/// and so on until it passes it no more, or for `most` times. Gives the points that no scenario
/// passes.
fn dies_everywhere<'a, T: Sync>(
    scenarios: &[Scenario],
    points: &'a [T],
    most: u32,
    dies_at: impl Fn(Scenario, &T, u32) -> bool + Sync,
) -> Vec<&'a T> {
    let work: Vec<(Scenario, usize)> =
        scenarios.iter().flat_map(|scenario| (0..points.len()).map(|point| (*scenario, point))).collect();
    let (queue, passed) = (Mutex::new(work.into_iter()), Mutex::new(BTreeSet::new()));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let Some((scenario, point)) = queue.lock().unwrap().next() else { return };
                    let deaths = (1..=most).take_while(|nth| dies_at(scenario, &points[point], *nth)).count();
                    if deaths > 0 {
                        passed.lock().unwrap().insert(point);
                    }
                }
            });
        }
    });
    let passed = passed.into_inner().unwrap();
    points.iter().enumerate().filter(|(point, _)| !passed.contains(point)).map(|(_, point)| point).collect()
}

/// The server dies when the application has taken an upload and nothing was published yet: the
/// next start publishes it, though no client comes back.
#[test]
fn what_an_application_took_is_published_without_the_client() {
    let scenario = SCENARIOS.into_iter().find(|scenario| scenario.told == Some(Told::Publish)).unwrap();
    let mut server = Server::start(scenario.options().env("BITS_FAULT", "notify-after-outcome"));
    let mut upload = scenario.upload(&server);
    let mut fetched = false;
    scenario.go_on(&mut upload, &mut fetched).unwrap_err();
    server.wait();
    assert_eq!(server.file(FILE), None);
    server.restart_with(scenario.options().data_dir(&server.data_dir()));
    wait_until("it is published", || server.file(FILE).is_some());
    assert!(server.file(FILE).unwrap() == upload.content);
    scenario.go_on(&mut upload, &mut fetched).unwrap();
    assert_staging_empty(&server.files());
}

/// Somebody else's file appears at the destination while the server is down in the middle of
/// publishing: it stays, and the client is refused.
#[test]
fn a_file_that_appears_after_the_intent_is_not_replaced() {
    for directory in ["publish = \"last-fragment\"", "publish = \"close-session\""] {
        let mut server = Server::start(ServerOptions::directory(directory).env("BITS_FAULT", "intent-after-commit"));
        let mut upload = UPLOAD.upload(&server);
        UPLOAD.go_on(&mut upload, &mut false).unwrap_err();
        server.wait();
        put(&server, FOREIGN);
        server.restart_with(ServerOptions::directory(directory));
        let packet = if upload.is_whole() {
            Packet::close(upload.form, &upload.path, upload.session())
        } else {
            upload.next_fragment(FRAGMENT)
        };
        for _ in 0..2 {
            assert_error(&upload.ask(&packet).unwrap(), 403, 0x8007_0005);
        }
        upload.cancel().unwrap();
        assert!(server.file(FILE).unwrap() == FOREIGN, "somebody else's file was replaced");
        wait_until("nothing is left over", || list_files(&server.files()) == [FILE]);
    }
}

/// Another file of the same size takes the place of the staged one in the middle of publishing,
/// as when a backup is put back; then the server dies around the commit that sends the client back.
#[test]
fn a_staged_file_that_was_swapped_is_not_published() {
    let points: Vec<String> = points().into_iter().filter(|point| point.starts_with("regress-")).collect();
    assert_eq!(points.len(), 2, "{points:?}");
    for point in points {
        let mut server = Server::start(ServerOptions::new().env("BITS_FAULT", "intent-after-commit"));
        let mut upload = UPLOAD.upload(&server);
        UPLOAD.go_on(&mut upload, &mut false).unwrap_err();
        server.wait();
        let staged = list_files(&server.files()).into_iter().find(|path| path.contains("BITS-Sessions")).unwrap();
        let (staged, other) = (server.files().join(staged), server.files().join("other"));
        fs::write(&other, vec![0; upload.content.len()]).unwrap();
        fs::rename(&other, &staged).unwrap();

        // It dies by itself: the first thing that it does is to go on publishing.
        server.options = ServerOptions::new().env("BITS_FAULT", &point).data_dir(&server.data_dir());
        server.spawn();
        assert_eq!(server.wait().signal(), Some(Signal::ABORT.as_raw()), "{point}");

        server.restart_with(ServerOptions::new().data_dir(&server.data_dir()));
        assert_eq!(upload.fragment_or_regress(FRAGMENT).unwrap(), 0, "{point}");
        UPLOAD.go_on(&mut upload, &mut false).unwrap_or_else(|error| panic!("{point}: {error}"));
        assert!(server.file(FILE).unwrap() == upload.content, "{point}: what was never sent was published");
        wait_until("nothing is left over", || list_files(&server.files()) == [FILE]);
    }
}

/// Runs the scenario on a server that dies on the way, and goes on with a sound one. False if it
/// does not die.
fn dies(scenario: Scenario, deadly: ServerOptions, signal: Signal, what: &str) -> bool {
    let mut server = Server::prepare(deadly);
    server.spawn();
    let mut upload = scenario.upload(&server);
    // It may die before it is ready.
    while server.is_running() && !server.is_ready() {
        thread::sleep(Duration::from_millis(5));
    }
    if scenario.overwrites {
        put(&server, OLD);
    }
    let mut fetched = false;
    if scenario.go_on(&mut upload, &mut fetched).is_ok() {
        return false;
    }
    assert_eq!(server.wait().signal(), Some(signal.as_raw()), "{what}");
    let published = look(&server, &upload, what);
    let expected = if published { FOREIGN.to_vec() } else { upload.content.clone() };
    if published {
        put(&server, FOREIGN);
    }

    let sound = scenario.options().data_dir(&server.data_dir());
    server.restart_with(sound);
    scenario.go_on(&mut upload, &mut fetched).unwrap_or_else(|error| panic!("{what}: {error}"));

    if scenario.publishes() {
        assert_eq!(list_published(&server), [FILE], "{what}");
        assert!(server.file(FILE).unwrap() == expected, "{what}: the file has other bytes");
    } else {
        assert_eq!(list_published(&server), [""; 0], "{what}");
    }
    wait_until("nothing is left over", || list_files(&server.files()) == list_published(&server));
    assert_staging_empty(&server.files());
    true
}

/// What stands at the destination is whole, and the return value says whether it is the upload.
fn look(server: &Server, upload: &Upload, what: &str) -> bool {
    match server.file(FILE) {
        None => false,
        Some(bytes) if bytes == OLD => false,
        Some(bytes) => {
            assert!(bytes == upload.content, "{what}: half an upload stands at its destination");
            true
        }
    }
}

fn put(server: &Server, bytes: &[u8]) {
    let file = server.files().join(FILE);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, bytes).unwrap();
}

fn list_published(server: &Server) -> Vec<String> {
    let mut files = list_files(&server.files());
    files.retain(|path| !path.contains("BITS-Sessions"));
    files
}

/// Every `fault("…")` in the sources, so that a new point is tested without anybody's doing.
fn points() -> BTreeSet<String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut points = BTreeSet::new();
    for member in fs::read_dir(workspace).unwrap().flatten() {
        let sources = member.path().join("src");
        for file in list_files(&sources).iter().filter(|file| file.ends_with(".rs")) {
            let text = fs::read_to_string(sources.join(file)).unwrap();
            let calls = text.split("fault(\"").skip(1).filter_map(|rest| rest.split_once("\")"));
            points.extend(calls.map(|(name, _)| name.to_owned()));
        }
    }
    points
}
