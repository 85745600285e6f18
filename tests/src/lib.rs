//! The harness of the end-to-end tests: the real binary, a client that can send any bytes, and
//! checks of what every answer must have.
//!
//! Nothing here knows the server's code: what is tested is what stands on the wire and on disk.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

mod application;
mod authority;
mod balancer;
mod binary;
mod browser;
mod check;
mod clock;
mod cluster;
mod fault_proxy;
mod fetchers;
mod gate;
mod kerberos;
mod machine;
mod mutate;
mod object_store;
mod packet;
mod ports;
mod postgres;
mod python;
mod raw;
mod receiver;
mod scenario_client;
mod scenario_disk;
mod scenario_trace;
mod server;
mod transcript;
mod wire;

pub use application::{Application, Behaviour, Notification, Rest};
pub use authority::{Authority, Identity, TlsClient};
pub use balancer::Balancer;
pub use binary::{application_binary, client_binary, debian_package, example, server_binary};
pub use browser::Browser;
pub use check::{
    assert_ack, assert_application, assert_clean_log, assert_confined, assert_error, assert_invariants, assert_next,
    assert_ok, assert_staging_empty, list_files, pattern, wait_until,
};
pub use clock::Clock;
pub use cluster::Cluster;
pub use fault_proxy::{Fault, FaultProxy};
pub use fetchers::{fetch_resumed, run};
pub use gate::Gate;
pub use kerberos::{Kdc, OTHER_REALM, REALM};
pub use machine::Machine;
pub use mutate::Mutator;
pub use object_store::ObjectStore;
pub use packet::{Form, PROTOCOL, Packet};
pub use postgres::{PgBouncer, Postgres, psql};
pub use python::python;
pub use raw::{Raw, Response};
pub use receiver::{Connection, Receiver, Reply, Request};
pub use scenario_client::{Sent, Upload};
pub use scenario_disk::{ImageDisk, ReadOnlyView, SmallDisk, require_root};
pub use scenario_trace::{Answer, STRACE, answers};
pub use server::{Server, ServerOptions, request};
pub use transcript::play;
