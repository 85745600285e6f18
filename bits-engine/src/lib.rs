//! The upload path without HTTP: a request's head, its caller and its body become an ack.
//!
//! [`Engine::handle`] takes packets from any HTTP server; [`Engine::maintain`] finishes what a
//! crash interrupted and sweeps what expired. Order of the stores, turns of requests for one
//! session, publishing and sweeping live here; sockets, databases and configuration do not.
//!
//! Work on a session runs in tasks of its own: dropping the future of [`Engine::handle`], as a
//! server does when a connection breaks, loses nothing that was received.
//!
//! For traces there are spans of the crate `tracing` with the target `spans`: `prepare`, `notify`,
//! `publish`, `end` and `clean`, with the session as a number of 128 bits in `session`, and in
//! `error` why it went wrong. In the span that [`Engine::handle`] or [`Engine::open_reply`] is
//! called in, `session` is recorded once the session is found to be the caller's.

mod body;
mod cache;
mod directories;
mod download;
mod end;
mod engine;
mod faults;
mod fragment;
mod leftovers;
mod maintain;
mod notify;
mod publish;
mod queue;
mod rate;
mod reply;
mod rescue;
mod spans;
mod turns;

pub use body::{Body, Fate};
pub use directories::{Directories, DuplicateUrlPath};
pub use end::CancelError;
pub use engine::{Caller, Engine, EngineBuilder, Incomplete, Limits};
pub use maintain::{Chore, Sweep};
pub use notify::{Answer, Notice, Notifier, NotifyError};

/// Its examples are tried.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
