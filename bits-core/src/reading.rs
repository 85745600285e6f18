//! Reading back what an [`UploadStore`](crate::UploadStore) holds: as downloads, and for server applications.

use std::{fs::File, ops::Range, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_core::Stream;

use crate::{StorageKey, StoreError, Timestamp, Upload};

/// What can be read back from a store.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// The file that is published at a key. No key leads below `BITS-Sessions`.
    Published(&'a StorageKey),
    /// An upload whose bytes have all come, and all of whose pieces are told.
    Staged(&'a Upload),
    /// The reply that a server application gave to an upload; its pieces need not be told.
    Reply(&'a Upload),
}

/// What is known of an opened object; it stays true of the bytes that are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its size in bytes.
    pub size: u64,
    /// When its content last changed: of a published upload, when it was published rather than
    /// when its bytes came, so that what replaces it is newer.
    pub modified: Timestamp,
    /// Whether any other content at the same place has another second of `modified`, as a strong
    /// date must (RFC 9110, section 8.8.2.2).
    pub strong_date: bool,
    /// Another one for any other content at the same place, as a strong entity tag must be:
    /// visible ASCII without quotes.
    pub tag: String,
}

/// An object that was opened for reading: one content, whatever happens at its place meanwhile.
pub trait Opened: Send + Sync {
    /// What is known of it.
    fn info(&self) -> &ObjectInfo;

    /// The bytes of `range`, in pieces of at most 1 MiB; the part of it past the end is left out.
    ///
    /// Each item is read when it is asked for. After an error nothing more comes. Where the
    /// content cannot be had any more, because it was replaced or changed in place, the stream
    /// fails before its last byte rather than to mix two contents.
    fn read(&self, range: Range<u64>) -> ByteStream;

    /// The file that holds the object at the same offsets, for whoever has the system send these
    /// bytes of it: none if there is no such file, or if a disk would have to be waited for.
    ///
    /// What comes so is not looked at: whoever sends it has [`Self::read`] give the bytes that
    /// follow, which fail if the content is not what it was.
    fn file(&self, range: Range<u64>) -> Option<Arc<File>> {
        let _ = range;
        None
    }
}

/// Bytes of an opened object, in order.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, StoreError>> + Send>>;
