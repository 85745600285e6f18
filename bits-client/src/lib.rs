//! A client of the BITS Upload Protocol [MC-BUP], section 3.1.
//!
//! A [`Client`] uploads a [`Source`] for a [`Job`]: it creates a session, sends fragments one at a
//! time, goes on wherever the server says, waits and tries again where that can help, and closes
//! the session. All that is needed to go on later stands in the `Job`, which serializes with serde;
//! dropping the future of an upload at any point leaves a job that can go on. A download is a
//! [`DownloadJob`] into a [`Target`], likewise. Nothing here writes to a terminal, and nothing but
//! a [`FileTarget`] to disk.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use bits_client::{Client, FileSource, Job, Source};
//!
//! let source = Arc::new(FileSource::open("video.mkv").await?);
//! let mut job = Job::new("https://server/upload/video.mkv".parse()?, source.fingerprint().await?);
//! Client::builder().build()?.upload(&mut job, source, |_job, event| println!("{event:?}")).await?;
//! # Ok(())
//! # }
//! ```

mod answer;
mod body;
mod client;
mod download;
mod error;
mod hresult;
mod job;
mod link;
mod pace;
mod patience;
mod platform;
mod run;
mod source;
mod target;

pub use bits_core::{Form, Hresult, PacketType};
pub use client::{BuildError, Client, ClientBuilder, FragmentSize, RetryPolicy};
pub use download::{DownloadEvent, DownloadJob, Found};
pub use error::{Error, Failure, Refused};
pub use hresult::Meaning;
pub use job::{Host, Job, JobSession};
pub use run::{Event, Uploaded};
pub use source::{BytesSource, FileSource, Fingerprint, Source};
pub use target::{FileTarget, Target};

/// Its examples are tried.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
