//! The one table of errors: HTTP status, HRESULT and context (sections 2.2.1.2 and 3.2.5.2).

use std::{fmt, time::Duration};

use http::StatusCode;

use crate::{InvalidPath, StoreErrorKind, notification::status_for_client};

/// An error code as Windows writes it: `0x` and eight uppercase hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hresult(pub u32);

impl Hresult {
    /// The session is unknown; a client starts over.
    pub const BG_E_SESSION_NOT_FOUND: Self = Self(0x8020_001F);
    /// The upload is larger than the server takes; final.
    pub const BG_E_TOO_LARGE: Self = Self(0x8020_0020);
    /// The destination is not for this caller; final.
    pub const E_ACCESSDENIED: Self = Self(0x8007_0005);
    /// The packet is malformed; final.
    pub const E_INVALIDARG: Self = Self(0x8007_0057);
    /// The file is gone.
    pub const ERROR_FILE_NOT_FOUND: Self = Self(0x8007_0002);
    /// The folder does not exist.
    pub const ERROR_PATH_NOT_FOUND: Self = Self(0x8007_0003);
    /// The name cannot be used.
    pub const ERROR_INVALID_NAME: Self = Self(0x8007_007B);
    /// The storage is full.
    pub const ERROR_DISK_FULL: Self = Self(0x8007_0070);
    /// The operation may work later.
    pub const ERROR_RETRY: Self = Self(0x8007_04D5);
    /// The operation took too long.
    pub const ERROR_INTERNET_TIMEOUT: Self = Self(0x8007_2EE2);
    /// HTTP status 502 in the shape of an HRESULT.
    pub const BG_E_HTTP_ERROR_502: Self = Self(0x8019_01F6);
    /// HTTP status 503 in the shape of an HRESULT.
    pub const BG_E_HTTP_ERROR_503: Self = Self(0x8019_01F7);
    /// The server failed.
    pub const E_FAIL: Self = Self(0x8000_4005);
}

impl fmt::Display for Hresult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:08X}", self.0)
    }
}

/// Why a packet was refused; the `Display` text is for logs, never for the wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The caller must say who they are, or what they said is not so; an HRESULT would end a job
    /// that can go on with other credentials.
    #[error("not logged in")]
    Unauthenticated,
    /// Too many logins failed from the caller's address.
    #[error("too many failed logins from this address")]
    TooManyLogins,
    /// The session is unknown, ended, of another path or of another principal.
    #[error("no such session for this caller and path")]
    SessionNotFound,
    /// The caller may not do this, or the storage denies access or is read-only.
    #[error("access denied")]
    AccessDenied,
    /// The destination exists and may not be overwritten; answered with `conflict_status`.
    #[error("the destination exists")]
    DestinationExists {
        /// The status that the directory is configured to answer, 403 or 409.
        status: StatusCode,
    },
    /// The directory takes no uploads.
    #[error("uploads are not enabled for this directory")]
    UploadsDisabled,
    /// The URL lies outside every virtual directory.
    #[error("no virtual directory holds this path")]
    PathNotFound,
    /// The parent folder is missing and may not be created.
    #[error("the destination's folder does not exist")]
    ParentMissing,
    /// The packet breaks a rule of section 2.2.
    #[error("malformed packet: {0}")]
    Malformed(&'static str),
    /// The destination is a folder.
    #[error("the destination is a folder")]
    DestinationIsFolder,
    /// The path cannot name an upload.
    #[error("unusable name: {0}")]
    InvalidName(#[from] InvalidPath),
    /// The fragment starts past the next wanted byte.
    #[error("the fragment leaves a gap; the next wanted byte is {next}")]
    Gap {
        /// The offset that the server wants next.
        next: u64,
    },
    /// The upload exceeds `maximum_upload_size`.
    #[error("the upload is larger than the directory takes")]
    TooLarge,
    /// The fragment exceeds `maximum_fragment_size`.
    #[error("the fragment is larger than the directory takes")]
    FragmentTooLarge,
    /// The storage is full.
    #[error("out of storage space")]
    DiskFull,
    /// The upload is larger than a quota of unfinished bytes leaves room for; answered as a full
    /// storage.
    #[error("larger than the quota of unfinished bytes leaves room for")]
    OverQuota,
    /// The caller has as many unfinished sessions as allowed.
    #[error("the caller's limit of unfinished sessions is reached")]
    SessionLimit,
    /// Something that we need does not answer, or we have too much to do.
    #[error("temporarily unavailable")]
    Unavailable,
    /// The staged data was gone when it was to be published.
    #[error("the staged data is gone")]
    StagedDataVanished,
    /// The server application answered with an error.
    #[error("the server application answered {status}, {code}")]
    Application {
        /// What it answered; the client may get another status.
        status: StatusCode,
        /// Its code, or its status as one.
        code: Hresult,
    },
    /// The server application cannot be reached, or does not speak HTTP.
    #[error("the server application cannot be reached, or its answer broke off")]
    ApplicationUnreachable,
    /// The server application took longer than `notification_timeout`.
    #[error("the server application gave no answer in time")]
    ApplicationTimeout,
    /// The server application's URL for the reply is no absolute URL of at most 2,200 characters.
    #[error("the server application's reply URL is not absolute, or over 2,200 characters")]
    ReplyUrl,
    /// Our own fault; the cause is logged where it was seen.
    #[error("internal error")]
    Internal,
}

impl Refusal {
    /// What a client that is told to come back later should wait.
    pub const RETRY_AFTER: Duration = Duration::from_secs(30);

    /// How long an address is refused after too many failed logins.
    pub const LOCKED_OUT: Duration = Duration::from_secs(60);

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.row().0
    }

    /// The HRESULT of the answer; none where one would end a job that can go on.
    pub fn hresult(&self) -> Option<Hresult> {
        self.row().1
    }

    /// `BITS-Error-Context`, on every answer that has an HRESULT: 0x5, the server, or 0x7, the
    /// server application.
    pub fn context(&self) -> Option<&'static str> {
        self.hresult().map(|_| if self.is_application() { "0x7" } else { "0x5" })
    }

    /// Whether the fault lies with the server application.
    pub fn is_application(&self) -> bool {
        matches!(
            self,
            Self::Application { .. } | Self::ApplicationUnreachable | Self::ApplicationTimeout | Self::ReplyUrl
        )
    }

    /// The next wanted byte, where the answer must say it.
    pub fn next_offset(&self) -> Option<u64> {
        match self {
            Self::Gap { next } => Some(*next),
            _ => None,
        }
    }

    /// How long the client should wait before it tries again, where the answer must say it.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.status() {
            StatusCode::SERVICE_UNAVAILABLE => Some(Self::RETRY_AFTER),
            StatusCode::TOO_MANY_REQUESTS => Some(Self::LOCKED_OUT),
            _ => None,
        }
    }

    /// Whether the fault lies with the server: logged with its cause, not at debug.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Internal | Self::Unavailable | Self::DiskFull | Self::StagedDataVanished)
    }

    /// The refusal for a failure of the upload store.
    pub fn from_store(kind: StoreErrorKind, conflict: StatusCode) -> Self {
        match kind {
            StoreErrorKind::Full => Self::DiskFull,
            StoreErrorKind::TooLarge => Self::TooLarge,
            StoreErrorKind::InvalidName => Self::InvalidName(InvalidPath::Long),
            StoreErrorKind::Denied => Self::AccessDenied,
            StoreErrorKind::NoParent => Self::ParentMissing,
            StoreErrorKind::Exists => Self::DestinationExists { status: conflict },
            StoreErrorKind::IsFolder => Self::DestinationIsFolder,
            StoreErrorKind::Missing => Self::StagedDataVanished,
            StoreErrorKind::Unavailable | StoreErrorKind::Changed | StoreErrorKind::Doubtful { .. } => {
                Self::Unavailable
            }
            StoreErrorKind::Other => Self::Internal,
        }
    }

    fn row(&self) -> (StatusCode, Option<Hresult>) {
        match self {
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, None),
            Self::TooManyLogins => (StatusCode::TOO_MANY_REQUESTS, Some(Hresult::ERROR_RETRY)),
            Self::SessionNotFound => (StatusCode::INTERNAL_SERVER_ERROR, Some(Hresult::BG_E_SESSION_NOT_FOUND)),
            Self::AccessDenied => (StatusCode::FORBIDDEN, Some(Hresult::E_ACCESSDENIED)),
            Self::DestinationExists { status } => (*status, Some(Hresult::E_ACCESSDENIED)),
            Self::UploadsDisabled => (StatusCode::NOT_IMPLEMENTED, Some(Hresult::E_ACCESSDENIED)),
            Self::PathNotFound | Self::ParentMissing => (StatusCode::NOT_FOUND, Some(Hresult::ERROR_PATH_NOT_FOUND)),
            Self::Malformed(_) | Self::DestinationIsFolder => (StatusCode::BAD_REQUEST, Some(Hresult::E_INVALIDARG)),
            Self::InvalidName(_) => (StatusCode::BAD_REQUEST, Some(Hresult::ERROR_INVALID_NAME)),
            Self::Gap { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, None),
            Self::TooLarge => (StatusCode::INTERNAL_SERVER_ERROR, Some(Hresult::BG_E_TOO_LARGE)),
            Self::FragmentTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, None),
            Self::DiskFull | Self::OverQuota => (StatusCode::INTERNAL_SERVER_ERROR, Some(Hresult::ERROR_DISK_FULL)),
            Self::SessionLimit => (StatusCode::SERVICE_UNAVAILABLE, Some(Hresult::BG_E_HTTP_ERROR_503)),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, Some(Hresult::ERROR_RETRY)),
            Self::StagedDataVanished => (StatusCode::NOT_FOUND, Some(Hresult::ERROR_FILE_NOT_FOUND)),
            Self::Application { status, code } => (status_for_client(*status), Some(*code)),
            Self::ApplicationUnreachable => (StatusCode::BAD_GATEWAY, Some(Hresult::BG_E_HTTP_ERROR_502)),
            Self::ApplicationTimeout => (StatusCode::REQUEST_TIMEOUT, Some(Hresult::ERROR_INTERNET_TIMEOUT)),
            Self::ReplyUrl => (StatusCode::BAD_REQUEST, Some(Hresult::E_INVALIDARG)),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, Some(Hresult::E_FAIL)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One row: status, HRESULT, whether the fault is ours.
    #[track_caller]
    fn check(refusal: &Refusal, status: u16, code: Option<u32>, ours: bool) {
        assert_eq!(refusal.status().as_u16(), status, "{refusal:?}");
        assert_eq!(refusal.hresult(), code.map(Hresult), "{refusal:?}");
        assert_eq!(refusal.context(), code.map(|_| "0x5"), "{refusal:?}");
        assert_eq!(refusal.retry_after().is_some(), matches!(status, 429 | 503), "{refusal:?}");
        assert_eq!(refusal.is_ours(), ours, "{refusal:?}");
        let offset = matches!(refusal, Refusal::Gap { .. }).then_some(5);
        assert_eq!(refusal.next_offset(), offset, "{refusal:?}");
    }

    /// Sections 2.2.1.2 and 3.2.5.2, row by row.
    #[test]
    fn the_table() {
        let exists = |status| Refusal::DestinationExists { status };
        for (refusal, status, code, ours) in [
            (Refusal::Unauthenticated, 401, None, false),
            (Refusal::TooManyLogins, 429, Some(0x8007_04D5), false),
            (Refusal::SessionNotFound, 500, Some(0x8020_001F), false),
            (Refusal::AccessDenied, 403, Some(0x8007_0005), false),
            (exists(StatusCode::FORBIDDEN), 403, Some(0x8007_0005), false),
            (exists(StatusCode::CONFLICT), 409, Some(0x8007_0005), false),
            (Refusal::UploadsDisabled, 501, Some(0x8007_0005), false),
            (Refusal::PathNotFound, 404, Some(0x8007_0003), false),
            (Refusal::ParentMissing, 404, Some(0x8007_0003), false),
            (Refusal::Malformed("any rule"), 400, Some(0x8007_0057), false),
            (Refusal::DestinationIsFolder, 400, Some(0x8007_0057), false),
            (Refusal::InvalidName(InvalidPath::Reserved), 400, Some(0x8007_007B), false),
            (Refusal::Gap { next: 5 }, 416, None, false),
            (Refusal::TooLarge, 500, Some(0x8020_0020), false),
            (Refusal::FragmentTooLarge, 413, None, false),
            (Refusal::DiskFull, 500, Some(0x8007_0070), true),
            (Refusal::OverQuota, 500, Some(0x8007_0070), false),
            (Refusal::SessionLimit, 503, Some(0x8019_01F7), false),
            (Refusal::Unavailable, 503, Some(0x8007_04D5), true),
            (Refusal::StagedDataVanished, 404, Some(0x8007_0002), true),
            (Refusal::Internal, 500, Some(0x8000_4005), true),
        ] {
            check(&refusal, status, code, ours);
        }
    }

    #[test]
    fn failures_of_the_store() {
        let conflict = StatusCode::CONFLICT;
        for (kind, expected) in [
            (StoreErrorKind::Full, Refusal::DiskFull),
            (StoreErrorKind::Denied, Refusal::AccessDenied),
            (StoreErrorKind::NoParent, Refusal::ParentMissing),
            (StoreErrorKind::Exists, Refusal::DestinationExists { status: conflict }),
            (StoreErrorKind::Changed, Refusal::Unavailable),
            (StoreErrorKind::IsFolder, Refusal::DestinationIsFolder),
            (StoreErrorKind::Missing, Refusal::StagedDataVanished),
            (StoreErrorKind::Doubtful { good: 7 }, Refusal::Unavailable),
            (StoreErrorKind::Unavailable, Refusal::Unavailable),
            (StoreErrorKind::TooLarge, Refusal::TooLarge),
            (StoreErrorKind::InvalidName, Refusal::InvalidName(InvalidPath::Long)),
            (StoreErrorKind::Other, Refusal::Internal),
        ] {
            assert_eq!(Refusal::from_store(kind, conflict), expected, "{kind:?}");
        }
    }

    #[test]
    fn failures_of_the_application() {
        let forbidden = Refusal::Application { status: StatusCode::FORBIDDEN, code: Hresult(0x8000_FFFF) };
        for (refusal, status, code) in [
            (forbidden, 403, 0x8000_FFFF),
            (Refusal::ApplicationUnreachable, 502, 0x8019_01F6),
            (Refusal::ApplicationTimeout, 408, 0x8007_2EE2),
            (Refusal::ReplyUrl, 400, 0x8007_0057),
        ] {
            assert_eq!((refusal.status().as_u16(), refusal.hresult()), (status, Some(Hresult(code))), "{refusal:?}");
            assert_eq!((refusal.context(), refusal.is_ours()), (Some("0x7"), false), "{refusal:?}");
        }
    }

    /// Clients compare the text.
    #[test]
    fn codes_are_eight_uppercase_digits() {
        assert_eq!(Hresult(0x8020_001F).to_string(), "0x8020001F");
        assert_eq!(Hresult(0xAB).to_string(), "0x000000AB");
    }
}
