//! Uploads in an object store: anything that the `object_store` crate reaches by its
//! [`MultipartStore`](object_store::multipart::MultipartStore).
//!
//! Whole parts go straight from the stream into a multipart upload. What fills no part yet is kept
//! as small objects that are never changed, `<folder>/BITS-Sessions/<uuid>/<epoch>-<start>-<attempt>`,
//! and read back when their part is full. Which of these count is said by the session's row alone:
//! the ids of its [`Piece`](bits_core::Piece)s. An upload that is whole with one fragment is kept in
//! memory until it is published, which is one PUT.
//!
//! An error of the store proves nothing: what was to be there is looked for before anything is said
//! of it. Nothing is listed and nothing looked at while fragments come.

mod error;
mod layout;
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
mod location;
mod memory;
mod names;
mod owner;
mod pending;
mod probe;
mod publish;
mod reading;
mod reply;
mod requests;
mod staged;
mod store;
mod writer;

pub use layout::{LARGEST_PART, SMALLEST_PART};
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
pub use location::{InvalidLocation, backend};
pub use probe::OpenError;
pub use requests::{Backend, Request, Traits};
pub use store::{ObjectUploads, Options};

/// Its examples are tried.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
