//! What a failure of the object store means for an upload.

use bits_core::{StoreError, StoreErrorKind};
use object_store::Error;

/// A request that failed: which one, and why. It proves nothing about what the store did.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) what: String,
    pub(crate) why: Why,
}

#[derive(Debug)]
pub(crate) enum Why {
    /// The store's answer, or that there was none.
    Store(Error),
    /// Nobody answered in time.
    Late,
}

impl Failed {
    /// Whether what was asked for is not there.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(&self.why, Why::Store(error @ Error::NotFound { .. }) if !says(error, "NoSuchBucket"))
    }

    /// Whether a condition was not met: something is there already, or is not what it was.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(&self.why, Why::Store(Error::AlreadyExists { .. } | Error::Precondition { .. }))
    }

    /// Whether the store refuses access.
    pub(crate) fn is_denied(&self) -> bool {
        matches!(&self.why, Why::Store(Error::PermissionDenied { .. }))
    }

    /// Whether the store knows the multipart upload or one of its parts no more.
    pub(crate) fn is_part_gone(&self) -> bool {
        let Why::Store(error) = &self.why else { return false };
        self.is_missing()
            || ["NoSuchUpload", "InvalidPart", "InvalidBlockList"].iter().any(|code| says(error, code))
            || matches!(error, Error::Generic { store: "InMemory", .. })
    }

    fn kind(&self) -> StoreErrorKind {
        match &self.why {
            Why::Store(error) if says(error, "QuotaExceeded") => StoreErrorKind::Full,
            Why::Store(Error::PermissionDenied { .. }) => StoreErrorKind::Denied,
            Why::Store(Error::NotSupported { .. } | Error::NotImplemented { .. } | Error::InvalidPath { .. }) => {
                StoreErrorKind::Other
            }
            Why::Store(_) | Why::Late => StoreErrorKind::Unavailable,
        }
    }

    /// The same with another meaning.
    pub(crate) fn meaning(self, kind: StoreErrorKind) -> StoreError {
        let what = format!("cannot {}", self.what);
        match self.why {
            Why::Store(error) => StoreError::with_source(kind, what, error),
            Why::Late => StoreError::new(kind, format!("{what}: the object store did not answer in time")),
        }
    }
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> Self {
        let kind = failed.kind();
        failed.meaning(kind)
    }
}

/// Bytes from `good` on must be sent again.
pub(crate) fn doubtful(good: u64, context: impl Into<String>) -> StoreError {
    StoreError::new(StoreErrorKind::Doubtful { good }, context)
}

/// Whether the store's answer holds this code of S3 or Azure.
fn says(error: &Error, code: &str) -> bool {
    error.to_string().contains(code)
}
