//! A server for Microsoft's BITS Upload Protocol [MC-BUP].
//!
//! [`run`] serves listeners with an engine until it is told to stop. The binary adds the
//! configuration ([`config`]), the backends that cargo features choose (`stores`) and the command
//! line (`cli`); these need a store of each kind, the rest of the library none.

mod addresses;
mod admin;
mod again;
#[cfg(all(feature = "fs", feature = "sqlite"))]
mod audit;
mod auth;
#[cfg(all(feature = "fs", feature = "sqlite"))]
mod check;
#[cfg(all(feature = "fs", feature = "sqlite"))]
pub mod cli;
pub mod config;
#[cfg(all(feature = "fs", feature = "sqlite"))]
pub mod confine;
mod connection;
mod download;
mod forwarded;
mod listener;
#[cfg(all(feature = "fs", feature = "sqlite"))]
mod log;
#[cfg(all(feature = "fs", feature = "sqlite"))]
mod measured;
#[cfg_attr(
    not(all(feature = "fs", feature = "sqlite")),
    allow(dead_code, reason = "the program that this library is without counts more")
)]
mod metrics;
#[cfg(all(feature = "fs", feature = "sqlite"))]
mod notifier;
#[cfg(all(feature = "otlp", feature = "fs", feature = "sqlite"))]
mod otlp;
mod peer;
#[cfg(all(feature = "faults", feature = "fs", feature = "sqlite"))]
mod probe;
mod proxy_header;
mod quiet;
#[cfg(all(feature = "fs", feature = "sqlite"))]
mod reload;
mod sendfile;
mod serve;
mod service;
#[cfg(all(feature = "fs", feature = "sqlite"))]
mod sessions;
mod socket;
#[cfg_attr(
    not(all(feature = "fs", feature = "sqlite")),
    allow(dead_code, reason = "the program that this library is without traces more")
)]
mod spans;
#[cfg(all(feature = "fs", feature = "sqlite"))]
mod start;
#[cfg(all(feature = "fs", feature = "sqlite"))]
pub mod stores;
mod sys;
#[cfg(all(feature = "fs", feature = "sqlite"))]
mod systemd;
mod tls;
mod tracked;
pub mod webhooks;

pub use admin::{AdminListener, Console, History, Watch};
pub use auth::Authentication;
pub use connection::ConnectionLimits;
pub use listener::UploadListener;
pub use metrics::install as install_metrics;
pub use proxy_header::{ProxyHeaderError, parse_proxy_header, read_proxy_header};
pub use serve::{Change, Listeners, ServeOptions, Settings, run, run_changing};
pub use tls::{ClientFiles, PreparedTls, Tls, TlsError, TlsFiles};

/// Its examples are tried.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
