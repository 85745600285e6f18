//! A full or read-only disk: the errors say so, and work goes on once there is room.
//!
//! Needs the right to mount a small file system; says so where it has not.
#![cfg(all(feature = "sqlite", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod common;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use bits_core::{Commit, Ending, SessionStore, SessionStoreError, Transition};
use bits_store_sql::{OpenError, Options, SqliteSessions};
use common::{advance, begun, live, load_live, new_session, open};

/// A small file system of its own, for as long as it is kept.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(folder.path());
        let mounted = mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        mounted.then_some(Self(folder))
    }

    fn remount(&self, how: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(self.path()).status();
        assert!(status.is_ok_and(|status| status.success()), "not mounted {how}");
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "{} stays mounted", self.path().display());
    }
}

#[tokio::test]
async fn a_full_disk_is_told_and_survived() {
    let disk = SmallDisk::mount("4m").expect("mounting a small file system needs root");
    let store = open(&disk.path().join("state.db")).await;
    let first = begun(&store, &new_session()).await;
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![0; 3 << 20]).unwrap();

    let mut created = Vec::new();
    let error = loop {
        match store.create(&new_session()).await {
            Ok(session) => created.push(session),
            Err(error) => break error,
        }
        assert!(created.len() < 100_000, "the disk never filled");
    };
    assert!(matches!(error, SessionStoreError::Full(_)), "{error:?}");
    fs::write(disk.path().join("rest"), vec![0; 4 << 20]).expect_err("the disk is full");
    // Smaller changes use up what was too little for a new session.
    let mut first = first;
    while let Ok(commit) = store.commit(&first, &advance(first.received + 1, &[], false)).await {
        first = live(Ok(commit));
    }
    let to = first.received + 1;
    for transition in [advance(to, &[], false), advance(to, &[], true), Transition::End(Ending::Cancelled)] {
        let error = store.commit(&first, &transition).await.expect_err("the disk is full");
        assert!(matches!(error, SessionStoreError::Full(_)), "{error:?}");
    }
    assert_eq!(load_live(&store, first.id).await, first, "reading goes on, and nothing was half done");

    fs::remove_file(&ballast).unwrap();
    let moved = live(store.commit(&first, &advance(to, &[], true)).await);
    let another = begun(&store, &new_session()).await;
    store.close().await;

    let store = open(&disk.path().join("state.db")).await;
    for session in created.iter().chain([&moved, &another]) {
        assert_eq!(load_live(&store, session.id).await, *session);
    }
    assert_eq!(store.census(1_000_000, 1).await.unwrap().live, created.len() as u64 + 2);
    store.close().await;
}

/// What needs no more room than the log and the database have goes on without end.
#[tokio::test]
async fn changes_go_on_in_the_space_there_is() {
    let disk = SmallDisk::mount("4m").expect("mounting a small file system needs root");
    let path = disk.path().join("state.db");
    let store = open(&path).await;
    let mut sessions = Vec::new();
    for _ in 0..20 {
        sessions.push(begun(&store, &new_session()).await);
    }
    store.close().await;

    let store = open(&path).await;
    for session in &mut sessions {
        *session = live(store.commit(session, &advance(1, &[], false)).await);
    }
    fs::write(disk.path().join("ballast"), vec![0; 4 << 20]).expect_err("the disk is full");
    for to in 2..50 {
        for session in &mut sessions {
            *session = live(store.commit(session, &advance(to, &[], false)).await);
        }
    }
    for session in &sessions {
        let ended = store.commit(session, &Transition::End(Ending::Cancelled)).await.unwrap();
        assert!(matches!(ended, Commit::Ended(_)), "{ended:?}");
    }
    store.close().await;
}

#[tokio::test]
async fn a_read_only_disk_is_told_by_name() {
    let disk = SmallDisk::mount("4m").expect("mounting a small file system needs root");
    let path = disk.path().join("state.db");
    disk.remount("ro");
    let missing = SqliteSessions::open(&path, Options::default()).await.expect_err("it cannot be created");
    disk.remount("rw");
    open(&path).await.close().await;
    disk.remount("ro");
    let present = SqliteSessions::open(&path, Options::default()).await.expect_err("it cannot be written");
    for error in [missing, present] {
        assert!(matches!(error, OpenError::File { .. }), "{error:?}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}
