//! Power loss: the disk keeps what was synced, and the machine comes back on another boot id.
//!
//! The server's data folder lies in a file system of its own; see `ImageDisk` for what makes the
//! loss honest. In every loss a file that was written and not synced goes along, and must not
//! come through: a disk that keeps everything would prove nothing.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    fs::{self, File},
    io::Write,
    num::NonZeroU64,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::{
    fs::{Advice, fadvise},
    process::Signal,
};
use tests::{
    Answer, ImageDisk, Packet, STRACE, Server, ServerOptions, Upload, answers, assert_error, assert_ok,
    assert_staging_empty, list_files,
};

const MIB: u64 = 64;
const FRAGMENT: u64 = 128 * 1024;
const FILE: &str = "upload/new/folder/file.bin";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sync {
    Checkpoint,
    Fragment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Publish {
    LastFragment,
    CloseSession,
}

const MODES: [(Sync, Publish); 4] = [
    (Sync::Checkpoint, Publish::LastFragment),
    (Sync::Checkpoint, Publish::CloseSession),
    (Sync::Fragment, Publish::LastFragment),
    (Sync::Fragment, Publish::CloseSession),
];

fn options(disk: &ImageDisk, sync: Sync, publish: Publish) -> ServerOptions {
    let sync = if sync == Sync::Fragment { "fragment" } else { "checkpoint" };
    let publish = if publish == Publish::CloseSession { "close-session" } else { "last-fragment" };
    let config = format!(
        "[storage]\nsync = \"{sync}\"\nreserve_free = \"1MiB\"\n\
         [[directories]]\nurl_path = \"/upload\"\npublish = \"{publish}\"\n"
    );
    ServerOptions::new().config(&config).data_dir(&disk.path().join("data"))
}

/// A machine: a server and its disk. The server ends before the disk is unmounted.
struct Machine {
    server: Server,
    disk: ImageDisk,
    modes: (Sync, Publish),
}

impl Machine {
    fn new(modes: (Sync, Publish)) -> Self {
        let disk = ImageDisk::new(MIB);
        Self { server: Server::start(options(&disk, modes.0, modes.1)), disk, modes }
    }

    fn upload(&self, fragments: u64) -> Upload {
        Upload::new(self.server.address(), &format!("/{FILE}"), 4, (fragments * FRAGMENT) as usize)
    }

    /// Cuts the power; the disk is looked at before a server starts on it.
    fn lose_power(mut self) -> DeadMachine {
        write_control(self.disk.path());
        // Nothing may be written while the disk is copied.
        self.server.signal(Signal::STOP);
        let disk = self.disk.lose_power();
        self.server.kill();
        assert_control_is_lost(disk.path());
        DeadMachine { disk, modes: self.modes }
    }
}

struct DeadMachine {
    disk: ImageDisk,
    modes: (Sync, Publish),
}

impl DeadMachine {
    fn file(&self) -> Option<Vec<u8>> {
        fs::read(self.disk.path().join("data/files").join(FILE)).ok()
    }

    /// The staged file has the length that was acknowledged, and holes where there were bytes.
    fn assert_hollow(&self, upload: &Upload) {
        let bytes = fs::read(staged(self.disk.path())).unwrap();
        assert!(bytes.len() as u64 >= upload.acknowledged, "the length does not survive; this proves nothing");
        assert!(bytes != upload.content[..bytes.len()], "the bytes survive; this proves nothing");
    }

    /// Boots: another boot id, a new page cache, the same disk.
    fn boot(self, upload: &mut Upload) -> Machine {
        let boot_id = self.disk.folder().join("boot_id");
        fs::write(&boot_id, "00000000-0000-4000-8000-000000000001\n").unwrap();
        let mount = format!("mount --bind {} /proc/sys/kernel/random/boot_id && exec \"$0\" \"$@\"", boot_id.display());
        let options = options(&self.disk, self.modes.0, self.modes.1);
        let server = Server::start(options.wrapper(&["unshare", "--mount", "sh", "-c", &mount]));
        upload.disconnect();
        upload.address = server.address();
        Machine { server, disk: self.disk, modes: self.modes }
    }
}

fn write_control(folder: &Path) {
    let mut synced = File::create(folder.join("synced")).unwrap();
    synced.write_all(&[1; 4096]).unwrap();
    synced.sync_all().unwrap();
    File::open(folder).unwrap().sync_all().unwrap();
    fs::write(folder.join("unsynced"), [1; 4096]).unwrap();
}

fn assert_control_is_lost(folder: &Path) {
    assert_eq!(fs::read(folder.join("synced")).unwrap(), [1; 4096], "what was synced survives");
    let unsynced = fs::read(folder.join("unsynced")).unwrap_or_default();
    assert!(!unsynced.contains(&1), "what was not synced survives too: this loss of power takes nothing");
}

/// Fragments up to a checkpoint, then some more that nothing syncs.
fn past_a_checkpoint(machine: &Machine) -> (Upload, u64) {
    let mut upload = machine.upload(16);
    upload.create().unwrap();
    upload.fragment(FRAGMENT).unwrap();
    let checkpoint = upload.acknowledged;
    // It is due after five seconds of progress, and comes somewhere in the next fragment.
    thread::sleep(Duration::from_millis(5200));
    for _ in 0..6 {
        upload.fragment(FRAGMENT).unwrap();
    }
    (upload, checkpoint)
}

fn regresses(machine: Machine, mut upload: Upload, checkpoint: u64) {
    let acknowledged = upload.acknowledged;
    let machine = machine.lose_power().boot(&mut upload);
    let next = upload.fragment_or_regress(FRAGMENT).unwrap();
    assert!(next >= checkpoint, "{next} is wanted, {checkpoint} was synced");
    assert!(next < acknowledged, "{next} is wanted, and everything was lost from {checkpoint} on");
    upload.fragments(FRAGMENT).unwrap();
    upload.close().unwrap();
    assert!(machine.server.file(FILE).unwrap() == upload.content, "the file has other bytes");
    assert_staging_empty(&machine.server.files());
}

#[test]
fn with_checkpoints_the_next_ack_goes_back_to_the_last_one() {
    let machine = Machine::new((Sync::Checkpoint, Publish::LastFragment));
    let (upload, checkpoint) = past_a_checkpoint(&machine);
    regresses(machine, upload, checkpoint);
}

/// The row survives and promises more than the disk holds.
#[test]
fn a_row_that_survives_its_bytes_is_not_believed() {
    let machine = Machine::new((Sync::Checkpoint, Publish::LastFragment));
    let (upload, checkpoint) = past_a_checkpoint(&machine);
    keep_rows(&machine.server);
    regresses(machine, upload, checkpoint);
}

/// The file's length survives too: the disk wrote the end of the file first. Only the boot tells
/// that what lies before is not there.
#[test]
fn a_length_that_survives_its_bytes_is_not_believed() {
    let machine = Machine::new((Sync::Checkpoint, Publish::LastFragment));
    let (mut upload, checkpoint) = past_a_checkpoint(&machine);
    let acknowledged = upload.acknowledged;
    write_out_the_end(&machine);
    let dead = machine.lose_power();
    dead.assert_hollow(&upload);
    let machine = dead.boot(&mut upload);
    let next = upload.fragment_or_regress(FRAGMENT).unwrap();
    assert!((checkpoint..acknowledged).contains(&next), "{next} is wanted, {checkpoint} was synced");
    upload.fragments(FRAGMENT).unwrap();
    upload.close().unwrap();
    assert!(machine.server.file(FILE).unwrap() == upload.content, "the file has other bytes");
}

#[test]
fn bytes_before_any_checkpoint_are_sent_again() {
    let machine = Machine::new((Sync::Checkpoint, Publish::LastFragment));
    let mut upload = machine.upload(8);
    upload.create().unwrap();
    for _ in 0..4 {
        upload.fragment(FRAGMENT).unwrap();
    }
    keep_rows(&machine.server);
    regresses(machine, upload, 0);
}

/// The server dies when it has the last byte and before it makes it durable, then the power fails: the
/// row says that all bytes are there. Neither a Close nor a Fragment publishes what is not.
#[test]
fn an_upload_that_is_whole_by_its_row_alone_is_not_published() {
    for with_close in [true, false] {
        let mut machine = Machine::new((Sync::Checkpoint, Publish::CloseSession));
        let sound = machine.server.options.clone();
        machine.server.restart_with(sound.clone().env("BITS_FAULT", "fragment-after-commit:4"));
        let mut upload = machine.upload(4);
        upload.create().unwrap();
        upload.fragments(FRAGMENT).unwrap_err();
        machine.server.wait();
        machine.server.restart_with(sound);
        write_out_the_end(&machine);
        let dead = machine.lose_power();
        dead.assert_hollow(&upload);
        let machine = dead.boot(&mut upload);
        if with_close {
            let close = Packet::close(upload.form, &upload.path, upload.session());
            assert_error(&upload.ask(&close).unwrap(), 404, 0x8007_0002);
        }
        assert_eq!(machine.server.file(FILE), None);
        while upload.fragment_or_regress(FRAGMENT).unwrap() < upload.total() {}
        upload.close().unwrap();
        assert!(machine.server.file(FILE).unwrap() == upload.content, "the file has other bytes");
        assert_staging_empty(&machine.server.files());
    }
}

/// A durable commit of another session syncs the database's log, with all rows that are in it.
fn keep_rows(server: &Server) {
    server.raw().create("/upload/other.bin");
}

/// Has the kernel write the end of the staged file and nothing before it, as it may at any time,
/// and keeps the rows and the file's new length.
fn write_out_the_end(machine: &Machine) {
    let staged = File::open(staged(machine.disk.path())).unwrap();
    let length = staged.metadata().unwrap().len();
    let end = length - FRAGMENT / 2;
    fadvise(&staged, end, NonZeroU64::new(length - end), Advice::DontNeed).unwrap();
    thread::sleep(Duration::from_millis(200));
    keep_rows(&machine.server);
}

/// The only file under way below the data folder.
fn staged(disk: &Path) -> PathBuf {
    let files = disk.join("data/files");
    let found = list_files(&files);
    let [staged] = &found[..] else { panic!("one upload is under way: {found:?}") };
    assert!(staged.contains("BITS-Sessions"), "{staged} is under way");
    files.join(staged)
}

#[test]
fn with_a_sync_for_each_fragment_nothing_acknowledged_is_lost() {
    for publish in [Publish::LastFragment, Publish::CloseSession] {
        let machine = Machine::new((Sync::Fragment, publish));
        let mut upload = machine.upload(8);
        upload.create().unwrap();
        for _ in 0..5 {
            upload.fragment(FRAGMENT).unwrap();
        }
        let acknowledged = upload.acknowledged;
        let machine = machine.lose_power().boot(&mut upload);
        assert!(upload.ask_next().unwrap() >= acknowledged, "acknowledged bytes are lost");
        upload.fragments(FRAGMENT).unwrap();
        upload.close().unwrap();
        assert!(machine.server.file(FILE).unwrap() == upload.content, "the file has other bytes");
    }
}

#[test]
fn after_the_last_ack_the_upload_survives() {
    for modes in MODES {
        let machine = Machine::new(modes);
        let mut upload = machine.upload(4);
        upload.create().unwrap();
        upload.fragments(FRAGMENT).unwrap();
        let dead = machine.lose_power();
        if modes.1 == Publish::LastFragment {
            assert!(dead.file().unwrap() == upload.content, "{modes:?}: the file was acknowledged and is not there");
        }
        let machine = dead.boot(&mut upload);
        assert_eq!(upload.ask_next().unwrap(), upload.total(), "{modes:?}");
        upload.close().unwrap();
        assert!(machine.server.file(FILE).unwrap() == upload.content, "{modes:?}: the file has other bytes");
        assert_eq!(list_files(&machine.server.files()), [FILE], "{modes:?}");
    }
}

#[test]
fn after_a_close_everything_survives_and_the_close_can_be_repeated() {
    for modes in MODES {
        let machine = Machine::new(modes);
        let mut upload = machine.upload(4);
        upload.run(FRAGMENT).unwrap();
        let dead = machine.lose_power();
        assert!(dead.file().unwrap() == upload.content, "{modes:?}: the file was acknowledged and is not there");
        let machine = dead.boot(&mut upload);
        upload.close().unwrap();
        assert!(machine.server.file(FILE).unwrap() == upload.content, "{modes:?}: the file has other bytes");
        assert_eq!(list_files(&machine.server.files()), [FILE], "{modes:?}");
    }
}

#[test]
fn a_cancelled_session_stays_cancelled() {
    let machine = Machine::new((Sync::Checkpoint, Publish::LastFragment));
    let mut upload = machine.upload(4);
    upload.create().unwrap();
    upload.fragment(FRAGMENT).unwrap();
    upload.cancel().unwrap();
    let machine = machine.lose_power().boot(&mut upload);
    upload.cancel().unwrap();
    let fragment = upload.next_fragment(FRAGMENT);
    assert_eq!(upload.ask(&fragment).unwrap().hresult(), Some(0x8020_001F));
    tests::wait_until("its bytes are deleted", || list_files(&machine.server.files()).is_empty());
}

/// The order of system calls: what a kinder file system than POSIX's least would hide.
#[test]
fn everything_is_synced_before_each_last_ack() {
    for modes in MODES {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let trace = root.join("trace");
        let wrapper = [&["strace"], &STRACE[..], &["-o", trace.to_str().unwrap()]].concat();
        let disk = root.join("disk");
        fs::create_dir(&disk).unwrap();
        let mut server = Server::start(traced_options(&disk, modes).wrapper(&wrapper));
        let mut upload = Upload::new(server.address(), &format!("/{FILE}"), 4, 4 * FRAGMENT as usize);
        upload.run(FRAGMENT).unwrap();
        assert_ok(&server.raw().ping("/upload/x"), 200);
        assert!(server.terminate().success());
        assert_synced(&fs::read_to_string(&trace).unwrap(), &disk, modes, &upload);
    }
}

fn traced_options(disk: &Path, (sync, publish): (Sync, Publish)) -> ServerOptions {
    let sync = if sync == Sync::Fragment { "fragment" } else { "checkpoint" };
    let publish = if publish == Publish::CloseSession { "close-session" } else { "last-fragment" };
    let config = format!(
        "shutdown_grace = \"1s\"\n[storage]\nsync = \"{sync}\"\n\
         [[directories]]\nurl_path = \"/upload\"\npublish = \"{publish}\"\n"
    );
    ServerOptions::new().config(&config).data_dir(&disk.join("data"))
}

fn assert_synced(trace: &str, disk: &Path, modes: (Sync, Publish), upload: &Upload) {
    let answers = answers(trace, disk);
    let acks: Vec<&Answer> = answers.iter().filter(|answer| answer.head.contains("bits-packet-type: ack")).collect();
    // Create, four fragments, close, ping.
    assert_eq!(acks.len(), 7, "{modes:?}: {acks:#?}");
    let (created, fragments, closed) = (acks[0], &acks[1..5], acks[5]);
    assert!(fragments[3].acknowledges(upload.total()), "{acks:#?}");
    for ack in [created, fragments[3], closed] {
        assert!(ack.unsynced.is_empty(), "{modes:?}: not synced before {}: {:#?}", ack.head, ack.unsynced);
    }
    for ack in &fragments[..3] {
        let staged = ack.unsynced.iter().any(|path| path.to_string_lossy().contains("BITS-Sessions/"));
        assert_eq!(staged, modes.0 == Sync::Checkpoint, "{modes:?}: {ack:#?}");
        if modes.0 == Sync::Fragment {
            assert!(ack.unsynced.is_empty(), "{modes:?}: not synced before {}: {:#?}", ack.head, ack.unsynced);
        }
    }
}
