//! What happened to a session, for whoever watches: audit log, metrics, live views.

use crate::{Session, SessionId, Timestamp};

/// One thing that happened, after it was committed.
#[derive(Clone, Debug)]
pub struct SessionEvent {
    /// When, by the session store's clock.
    pub at: Timestamp,
    /// The session as it stood just before it ended, or as it stands since.
    pub session: Session,
    /// What happened.
    pub kind: SessionEventKind,
}

/// What can happen to a session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEventKind {
    /// Create-Session was answered.
    Created,
    /// Bytes were taken up to the session's `received`.
    Advanced {
        /// The offset before.
        from: u64,
    },
    /// Bytes were lost or doubtful; the client is sent back to the session's `received`.
    Regressed {
        /// The offset before.
        from: u64,
    },
    /// The upload stands at its destination.
    Published,
    /// The upload could not be put at its destination; `reason` is for people.
    PublishFailed {
        /// What went wrong.
        reason: String,
    },
    /// The server application took the upload.
    Delivered,
    /// The server application could not be told of the upload, or refused it; `reason` is for people.
    NotificationFailed {
        /// What went wrong.
        reason: String,
    },
    /// The session is over.
    Ended(Ending),
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// By Close-Session.
    Closed,
    /// By Cancel-Session, an operator, or because its directory was disabled.
    Cancelled,
    /// By `session_timeout`.
    Expired,
}

impl Ending {
    /// The name that logs and databases keep.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }
}

impl SessionEvent {
    /// The id of the session.
    pub fn id(&self) -> SessionId {
        self.session.id
    }
}
