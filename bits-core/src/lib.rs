//! The BITS Upload Protocol [MC-BUP] and nothing else: no sockets, no clock, no randomness, no I/O.
//!
//! A request head becomes a typed [`Packet`]; a [`Session`] and a packet become a decision; an
//! outcome becomes an [`Ack`]. The one table of HTTP status, HRESULT and context is [`Refusal`].
//! Times and ids come in as arguments. The traits [`SessionStore`], [`UploadStore`] and
//! [`Outbox`] say what a backend must do; the feature `conformance` holds the suite that checks it.

mod access;
mod ack;
#[cfg(feature = "conformance")]
pub mod conformance;
mod directory;
mod event;
mod folder_name;
mod id;
mod notification;
mod outbox;
mod packet;
mod path;
mod principal;
mod quota;
mod range;
mod reading;
mod refusal;
mod reply_url;
mod session;
mod session_store;
mod time;
mod upload_store;

pub use access::{Access, EmptyPattern, UserPattern};
pub use ack::Ack;
pub use directory::{Directory, InvalidStoreAs, PublishAt, StoreAs};
pub use event::{Ending, SessionEvent, SessionEventKind};
pub use id::{InvalidSessionId, SessionId};
pub use notification::{Accepted, MAXIMUM_URL, Notification, NotificationMode, Reply};
pub use outbox::{Content, Delivery, EventKind, Gap, Keep, Outbox, OutboxEvent, Subscriber};
pub use packet::{Form, FragmentHead, PROTOCOL, Packet, PacketType, header};
pub use path::{InvalidPath, StorageKey, VirtualPath};
pub use principal::{InvalidPrincipal, Principal};
pub use quota::{Excess, Quota, QuotaOf};
pub use range::{ContentRange, InvalidContentRange};
pub use reading::{ByteStream, ObjectInfo, Opened, Source};
pub use refusal::{Hresult, Refusal};
pub use session::{
    After, CloseDecision, FragmentDecision, Illegal, NewSession, PublishIntent, Session, State, Tombstone, Transition,
};
pub use session_store::{Census, Commit, Filter, Found, SessionStore, SessionStoreError, Tally};
pub use time::Timestamp;
pub use upload_store::{
    BodyError, BodyStream, Destination, Piece, Precondition, SharedFiles, StagedObject, StagedStream, Stopped,
    StoreError, StoreErrorKind, Upload, UploadStore, Written,
};

/// Its examples are tried.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
