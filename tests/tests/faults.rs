//! The server dies at every fault point, at every passing of it: after a restart the client goes
//! on as the protocol says, the file is right, published once, and nothing is left over.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    sync::Mutex,
    thread,
};

use rustix::process::Signal;
use tests::{
    Form, Packet, Sent, Server, ServerOptions, Upload, assert_error, assert_staging_empty, list_files, wait_until,
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
}

const UPLOAD: Scenario = Scenario {
    name: "upload",
    directory: "",
    form: Form::Native,
    fragments: 3,
    cancels: false,
    whole: true,
    overwrites: false,
};

const SCENARIOS: [Scenario; 7] = [
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
    Scenario { name: "empty", form: Form::Override, fragments: 0, ..UPLOAD },
];

impl Scenario {
    /// Whether the file must stand at its destination in the end.
    fn publishes(&self) -> bool {
        self.whole && !(self.cancels && self.directory.contains("close-session"))
    }

    fn upload(&self, server: &Server) -> Upload {
        let length = self.fragments * FRAGMENT as usize;
        let mut upload = Upload::new(server.address(), &format!("/{FILE}"), 3, length);
        upload.form = self.form;
        upload
    }

    /// All of the client's steps that are not done yet. Those done once are not done again.
    fn go_on(&self, upload: &mut Upload) -> Sent<()> {
        upload.create()?;
        let wanted = if self.whole { upload.total() } else { upload.total() - FRAGMENT };
        while upload.acknowledged < wanted {
            upload.fragment(FRAGMENT)?;
        }
        if self.cancels { upload.cancel() } else { upload.close() }
    }
}

#[test]
fn the_server_may_die_at_every_point() {
    let points = points();
    assert!(points.len() > 10, "the points stand in the source: {points:?}");
    let work: Vec<(Scenario, &str)> =
        SCENARIOS.iter().flat_map(|scenario| points.iter().map(|point| (*scenario, point.as_str()))).collect();
    let (queue, passed) = (Mutex::new(work.into_iter()), Mutex::new(BTreeMap::<&str, u32>::new()));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let Some((scenario, point)) = queue.lock().unwrap().next() else { return };
                    let deaths = dies_at(scenario, point);
                    *passed.lock().unwrap().entry(point).or_default() += deaths;
                }
            });
        }
    });
    let passed = passed.into_inner().unwrap();
    let missed: Vec<_> =
        points.iter().filter(|point| passed.get(point.as_str()).is_none_or(|deaths| *deaths == 0)).collect();
    assert!(missed.is_empty(), "no scenario passes {missed:?}; add one that does");
}

/// Somebody else's file appears at the destination while the server is down in the middle of
/// publishing: it stays, and the client is refused.
#[test]
fn a_file_that_appears_after_the_intent_is_not_replaced() {
    for directory in ["publish = \"last-fragment\"", "publish = \"close-session\""] {
        let mut server = Server::start(ServerOptions::directory(directory).env("BITS_FAULT", "intent-after-commit"));
        let mut upload = UPLOAD.upload(&server);
        UPLOAD.go_on(&mut upload).unwrap_err();
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

/// Kills the server at the first passing of `point`, then at the second, and so on until it is not
/// passed any more. Gives how often it was.
fn dies_at(scenario: Scenario, point: &str) -> u32 {
    (1..).find(|nth| !dies_at_passing(scenario, point, *nth)).map_or(0, |nth| nth - 1)
}

fn dies_at_passing(scenario: Scenario, point: &str, nth: u32) -> bool {
    let options = ServerOptions::directory(scenario.directory).env("BITS_FAULT", &format!("{point}:{nth}"));
    let mut server = Server::start(options);
    if scenario.overwrites {
        put(&server, OLD);
    }
    let mut upload = scenario.upload(&server);
    if scenario.go_on(&mut upload).is_ok() {
        return false;
    }
    let what = format!("{} dies at passing {nth} of {point}", scenario.name);
    assert_eq!(server.wait().signal(), Some(Signal::ABORT.as_raw()), "{what}");
    let published = look(&server, &upload, &what);
    let expected = if published { FOREIGN.to_vec() } else { upload.content.clone() };
    if published {
        put(&server, FOREIGN);
    }

    server.restart_with(ServerOptions::directory(scenario.directory));
    scenario.go_on(&mut upload).unwrap_or_else(|error| panic!("{what}: {error}"));

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
