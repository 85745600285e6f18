//! What an error of the system means for an upload.

use bits_core::{StoreError, StoreErrorKind};
use rustix::io::Errno;

/// The failure of `context`, which says what was being done to what.
pub(crate) fn failed(context: impl Into<String>, errno: Errno) -> StoreError {
    StoreError::with_source(kind(errno), context, std::io::Error::from(errno))
}

/// Bytes from `good` on may be lost.
pub(crate) fn doubtful(good: u64, context: impl Into<String>) -> StoreError {
    StoreError::new(StoreErrorKind::Doubtful { good }, context)
}

fn kind(errno: Errno) -> StoreErrorKind {
    match errno {
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => StoreErrorKind::Full,
        // LOOP is a symbolic link in the way, XDEV a way out of the root or onto another device.
        Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::LOOP | Errno::XDEV | Errno::NAMETOOLONG => {
            StoreErrorKind::Denied
        }
        Errno::NOTDIR => StoreErrorKind::NoParent,
        Errno::IO | Errno::STALE | Errno::TIMEDOUT | Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN => {
            StoreErrorKind::Unavailable
        }
        _ => StoreErrorKind::Other,
    }
}
