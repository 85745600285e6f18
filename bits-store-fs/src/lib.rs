//! Uploads on a local disk.
//!
//! An upload under way is one file, `<folder>/BITS-Sessions/<uuid>` below the root; publishing
//! moves it to its key. Bytes are written in place and never truncated. Every name is resolved
//! beneath the root without following a symbolic link, so nothing planted there leads out of it.
//!
//! One process per root: the store trusts that nobody else writes below `BITS-Sessions`.
//! [`DataLock`] is how a process makes sure of it.
//!
//! Runs on Unix; on Linux it uses `openat2`, `fallocate`, `renameat2` and early writeback, and
//! does without them where a kernel or file system lacks them.

mod batch;
mod brief;
mod error;
mod lock;
mod progress;
mod publish;
mod reading;
mod reply;
mod room;
mod root;
mod staging;
mod store;
mod sys;
mod table;
mod together;

pub use lock::{DataLock, LockError};
pub use store::{LocalStore, Options, SyncAt};

/// Its examples are tried.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
