//! The suite that every store backend must pass, with in-memory stores that pass it.
//!
//! A backend writes a probe and one line:
//!
//! ```
//! use bits_core::conformance::{MemorySessions, SessionProbe};
//!
//! struct Probe(MemorySessions);
//!
//! impl SessionProbe for Probe {
//!     type Store = MemorySessions;
//!
//!     fn store(&self) -> &MemorySessions {
//!         &self.0
//!     }
//! }
//!
//! bits_core::session_store_conformance!(async { Probe(MemorySessions::default()) });
//! # fn main() {}
//! ```
//!
//! The expression is evaluated for every case, and gives a future of a [`SessionProbe`], an
//! [`UploadProbe`] or an [`OutboxProbe`] on an empty store. Each case becomes one `#[test]` with a runtime of its own.

mod clock;
mod memory_outbox;
mod memory_sessions;
mod memory_uploads;
mod outbox_cases;
mod read_cases;
mod reply_cases;
mod rig;
mod session_cases;
mod suite;
mod upload_cases;

pub use clock::ManualClock;
pub use memory_sessions::{MemorySessions, Snapshot};
pub use memory_uploads::{MemoryUploads, PublishFault};
pub use outbox_cases::{OutboxProbe, outbox_subscribers};
pub use session_cases::SessionProbe;
pub use suite::{outbox_conformance, run, session_store_conformance, upload_store_conformance};
pub use upload_cases::UploadProbe;
