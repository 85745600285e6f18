//! The lock on a data folder.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{fs, os::unix::fs::symlink, time::Duration};

use bits_store_fs::{DataLock, LockError};

#[tokio::test]
async fn a_second_user_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("new/data");
    let lock = DataLock::acquire(&data, Duration::ZERO).await.unwrap();
    assert_eq!(lock.path(), data.join("lock"));
    let error = DataLock::acquire(&data, Duration::from_millis(120)).await.unwrap_err();
    assert!(matches!(&error, LockError::Held { used, pid } if *used == data && *pid == Some(std::process::id())));
    let text = error.to_string();
    assert!(text.contains(&data.display().to_string()), "{text}");
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    drop(lock);
    DataLock::acquire(&data, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_file_is_locked_by_one_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.db");
    let lock = DataLock::acquire_file(&file, Duration::ZERO).await.unwrap();
    assert_eq!(lock.path(), folder.path().join("state.db.lock"));
    let error = DataLock::acquire_file(&file, Duration::ZERO).await.unwrap_err();
    assert!(matches!(&error, LockError::Held { used, .. } if *used == file), "{error}");
    DataLock::acquire_file(&folder.path().join("other.db"), Duration::ZERO).await.unwrap();
    drop(lock);
    DataLock::acquire_file(&file, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_draining_user_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let lock = DataLock::acquire(folder.path(), Duration::ZERO).await.unwrap();
    let release = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(lock);
    };
    let (second, ()) = tokio::join!(DataLock::acquire(folder.path(), Duration::from_secs(20)), release);
    second.unwrap();
}

#[tokio::test]
async fn what_a_former_user_left_does_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("lock"), "999999999999 and more\n").unwrap();
    let _lock = DataLock::acquire(folder.path(), Duration::ZERO).await.unwrap();
    assert_eq!(fs::read_to_string(folder.path().join("lock")).unwrap(), format!("{}\n", std::process::id()));
}

#[tokio::test]
async fn a_lock_file_that_cannot_be_is_an_error_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    symlink("/nowhere/at/all", folder.path().join("lock")).unwrap();
    let error = DataLock::acquire(folder.path(), Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, LockError::Io { .. }), "{error}");
    assert!(error.to_string().contains("/lock"), "{error}");
}
