//! A disk that is full, and one that is read-only: small file systems of their own.
//!
//! Mounting them needs root, or the right to make user namespaces with `unshare --map-root-user
//! --mount` around the test; without it these tests fail.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bits_core::{StoreErrorKind, UploadStore};
use bits_store_fs::{LocalStore, Options};
use common::{CAREFUL, is_empty_or_gone, options, pattern, publish, publish_new, put_all, stopped_kind, upload, write};

const MIB: u64 = 1 << 20;
const FOLDER: &str = "BITS_STORE_FS_TEST_FOLDER";

/// A file system of 8 MiB.
///
/// One at a time: a command that another test starts would hold copies of this one's open files
/// for a moment, and with them space that was given back.
struct Small(tempfile::TempDir, #[expect(dead_code, reason = "it is held")] Option<MutexGuard<'static, ()>>);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

impl Small {
    fn mount() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let small = Self(folder, Some(ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)));
        small.run("mount", &["-t", "tmpfs", "-o", "size=8m", "small"]);
        small
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn run(&self, command: &str, arguments: &[&str]) {
        let output = Command::new(command).args(arguments).arg(self.path()).output().unwrap();
        assert!(
            output.status.success(),
            "`{command} {arguments:?}` failed; this test needs the right to mount, as root has it: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn store(&self, options: Options) -> LocalStore {
        LocalStore::open(&self.path().join("files"), options).unwrap()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

#[tokio::test]
async fn an_upload_that_does_not_fit_is_refused_at_once_and_leaves_nothing() {
    let small = Small::mount();
    let store = small.store(options());
    let first = upload("in/first", 5 * MIB);
    store.reserve(&first).await.unwrap();
    let second = upload("in/second", 5 * MIB);
    assert_eq!(store.reserve(&second).await.unwrap_err().kind, StoreErrorKind::Full);
    assert!(!small.path().join("files/in/BITS-Sessions").join(second.session.uuid().to_string()).exists());
    let third = upload("in/third", 2 * MIB);
    store.reserve(&third).await.unwrap();
    store.discard(&first).await.unwrap();
    store.reserve(&second).await.unwrap();
}

#[tokio::test]
async fn the_reserve_is_kept_free() {
    let small = Small::mount();
    let store = small.store(Options { reserve_free: 4 * MIB, ..options() });
    store.check().await.unwrap();
    assert_eq!(store.reserve(&upload("in/a", 5 * MIB)).await.unwrap_err().kind, StoreErrorKind::Full);
    store.reserve(&upload("in/b", 3 * MIB)).await.unwrap();
    fs::write(small.path().join("somebody's"), vec![1; MIB as usize]).unwrap();
    assert_eq!(store.check().await.unwrap_err().kind, StoreErrorKind::Full);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fits_of_a_write_is_kept_and_the_upload_goes_on_when_there_is_room() {
    let small = Small::mount();
    let store = small.store(options());
    let data = pattern(1, 6 * MIB as usize);
    let mut upload = upload("in/file", data.len() as u64);
    // Not reserved: somebody else takes the space in the meantime.
    fs::write(small.path().join("somebody's"), vec![1; 4 * MIB as usize]).unwrap();
    let written = write(&store, &mut upload, &data).await;
    assert_eq!(stopped_kind(&written), Some(StoreErrorKind::Full));
    assert!(written.reached > 3 * MIB && written.reached < 5 * MIB, "{written:?}");
    assert_eq!(store.available(&upload).await.unwrap(), written.reached);
    let written = write(&store, &mut upload, &data[written.reached as usize..]).await;
    assert_eq!(stopped_kind(&written), Some(StoreErrorKind::Full), "still full");
    store.sync(&upload).await.unwrap();
    fs::remove_file(small.path().join("somebody's")).unwrap();
    let from = upload.received as usize;
    assert!(write(&store, &mut upload, &data[from..]).await.stopped.is_none());
    publish(&store, &upload, CAREFUL).await.unwrap();
    assert!(fs::read(small.path().join("files/in/file")).unwrap() == data);
}

#[tokio::test]
async fn on_a_full_disk_uploads_can_still_be_discarded_and_published() {
    let small = Small::mount();
    let store = small.store(options());
    let (mut kept, mut dropped) = (upload("in/kept", MIB), upload("in/dropped", MIB));
    for upload in [&mut kept, &mut dropped] {
        put_all(&store, upload, &pattern(2, MIB as usize)).await;
    }
    fs::write(small.path().join("somebody's"), vec![1; 16 * MIB as usize]).unwrap_err();
    publish(&store, &kept, CAREFUL).await.unwrap();
    store.discard(&dropped).await.unwrap();
    assert!(is_empty_or_gone(&small.path().join("files/in/BITS-Sessions")));
    publish_new(&store, "in/more", &pattern(3, 1000)).await.unwrap();
}

#[tokio::test]
async fn a_read_only_disk_is_noticed_and_denies() {
    let small = Small::mount();
    let store = small.store(options());
    let mut under_way = upload("in/file", 10);
    put_all(&store, &mut under_way, b"12345").await;
    store.check().await.unwrap();
    drop(store);
    small.run("mount", &["-o", "remount,ro"]);
    let store = small.store(options());
    assert_eq!(store.check().await.unwrap_err().kind, StoreErrorKind::Denied);
    assert_eq!(store.reserve(&upload("in/new", 1)).await.unwrap_err().kind, StoreErrorKind::Denied);
    assert_eq!(stopped_kind(&write(&store, &mut under_way, b"6").await), Some(StoreErrorKind::Denied));
    assert_eq!(store.discard(&under_way).await.unwrap_err().kind, StoreErrorKind::Denied);
    let error = LocalStore::open(&small.path().join("new"), options()).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Denied);
}

#[tokio::test]
async fn a_destination_on_another_device_is_refused_before_the_upload() {
    let small = Small::mount();
    let folder = tempfile::tempdir_in(small.path()).unwrap();
    let store = LocalStore::open(folder.path(), options()).unwrap();
    fs::create_dir_all(folder.path().join("in/other")).unwrap();
    let other = Small(tempfile::TempDir::with_prefix_in("x", folder.path().join("in/other")).unwrap(), None);
    other.run("mount", &["-t", "tmpfs", "-o", "size=1m", "other"]);
    let name = format!("in/other/{}/new/file", other.path().file_name().unwrap().to_str().unwrap());
    let mut upload = upload(&name, 1);
    let error = store.reserve(&upload).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Denied);
    assert!(error.to_string().contains("another device"), "{error}");
    let _ = write(&store, &mut upload, b"1").await;
    assert_eq!(store.prepare(&upload, CAREFUL).await.unwrap_err().kind, StoreErrorKind::Denied);
}

/// The same for a folder that the server's user may not write to. Root may, so the child that
/// looks runs as somebody else.
#[test]
fn a_folder_without_rights_is_noticed() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let (files, program) = (folder.path().join("files"), folder.path().join("program"));
    fs::create_dir(&files).unwrap();
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    for (path, mode) in [(folder.path(), 0o755), (&program, 0o755), (&files, 0o555)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let arguments = ["--exact", "child_without_rights", "--ignored", "--nocapture"];
    let mut child = if rustix::process::geteuid().is_root() {
        let mut child = Command::new("setpriv");
        child.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
        child
    } else {
        Command::new(&program)
    };
    let output = child.args(arguments).current_dir("/").env(FOLDER, &files).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[tokio::test]
#[ignore = "a child of another test"]
async fn child_without_rights() {
    let folder = std::env::var_os(FOLDER).expect("started by its parent test only");
    let store = LocalStore::open(Path::new(&folder), options()).unwrap();
    assert_eq!(store.check().await.unwrap_err().kind, StoreErrorKind::Denied);
    assert_eq!(store.reserve(&upload("in/new", 1)).await.unwrap_err().kind, StoreErrorKind::Denied);
    let error = LocalStore::open(&Path::new(&folder).join("new"), options()).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Denied);
}
