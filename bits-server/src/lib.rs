//! A server for Microsoft's BITS Upload Protocol [MC-BUP].
//!
//! [`run`] serves listeners with an engine until it is told to stop. The binary adds the
//! configuration ([`config`]), the backends that cargo features choose ([`stores`]) and the
//! command line ([`cli`]).

mod admin;
mod audit;
pub mod cli;
pub mod config;
mod connection;
mod serve;
mod service;
mod sessions;
mod socket;
mod start;
pub mod stores;
mod sys;

pub use connection::ConnectionLimits;
pub use serve::{Listeners, ServeOptions, run};
