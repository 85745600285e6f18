//! What a store keeps to, tried out before it is used; and what is wrong with one that is not fit.

use bits_core::{SessionId, StorageKey};
use object_store::{CopyMode, Error, PutMode};
use uuid::Uuid;

use crate::{
    error::{Failed, Why},
    requests::{Found, Requests},
};

/// Which conditions the store keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conditions {
    /// It writes no object where one stands, when asked to.
    pub(crate) put: bool,
    /// Nor copies one there.
    pub(crate) copy: bool,
    /// It replaces the very object that it is asked to replace, and no other.
    pub(crate) replace: bool,
}

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The bucket or container is not there.
    #[error("the bucket does not exist, or lies in another region: check its name, the region and the endpoint")]
    NoBucket(#[source] Error),
    /// The credentials are missing or wrong.
    #[error("the store does not accept the credentials: check them, and the region that they are signed for")]
    Credentials(#[source] Error),
    /// They are right, but do not allow what is needed.
    #[error("the credentials may not {what}: reading, writing, deleting and listing must be allowed")]
    Denied {
        /// What was tried.
        what: String,
        /// What the store said.
        source: Error,
    },
    /// There is no answer, or none of a store of this kind.
    #[error("the store does not answer as one of its kind: check the endpoint and that it can be reached")]
    NoAnswer(#[source] Option<Error>),
    /// It loses what is needed to tell whose object is whose.
    #[error("the store does not keep metadata with its objects, which uploads are known by")]
    NoMetadata,
    /// It is that of another database of sessions.
    #[error(
        "{object} says that another session database has this place (\"{found}\", not \"{own}\"): give this server a \
         bucket or prefix of its own; or, if no server uses the other database any more, delete that object"
    )]
    Taken {
        /// The object that says so, with the prefix.
        object: String,
        /// What it says.
        found: String,
        /// What it would say if the place were this database's.
        own: String,
    },
    /// What was written is not there.
    #[error("the store loses {0}, which was just written: let no other program delete it")]
    Lost(String),
}

/// How often it is tried: another program may delete what was written for it, as a sweep does.
const ATTEMPTS: usize = 3;

/// Writes, copies, reads and deletes small objects of its own. A condition that was kept once is
/// kept; one that was not may have found nothing that stood in its way.
pub(crate) async fn probe(requests: &Requests) -> Result<Conditions, OpenError> {
    let mut known: Option<Conditions> = None;
    for _ in 0..ATTEMPTS {
        let Some(seen) = probe_once(requests).await? else { continue };
        let before = known.unwrap_or(Conditions { put: false, copy: false, replace: false });
        let now = Conditions {
            put: before.put || seen.put,
            copy: before.copy || seen.copy,
            replace: before.replace || seen.replace,
        };
        if now.put && now.copy && now.replace {
            return Ok(now);
        }
        known = Some(now);
    }
    known.ok_or(OpenError::NoMetadata)
}

/// None where what was written is gone.
async fn probe_once(requests: &Requests) -> Result<Option<Conditions>, OpenError> {
    let session = SessionId::new(Uuid::new_v4());
    let folder = format!("{}/{}", StorageKey::STAGING, session.uuid());
    let (first, second) = (format!("{folder}/0-probe-1"), format!("{folder}/0-probe-2"));
    let outcome = try_out(requests, session, &first, &second).await;
    let deleted = requests.delete(&[first, second]).await;
    let conditions = outcome?;
    deleted.map_err(OpenError::of)?;
    Ok(conditions)
}

async fn try_out(
    requests: &Requests,
    session: SessionId,
    first: &str,
    second: &str,
) -> Result<Option<Conditions>, OpenError> {
    for name in [first, second] {
        requests.put(name, "probe".into(), PutMode::Overwrite, Some(session)).await.map_err(OpenError::of)?;
    }
    let found = requests.head(first).await.map_err(OpenError::of)?;
    let Some(found) = found else { return Ok(None) };
    if !found.is_of(session) {
        return Err(OpenError::NoMetadata);
    }
    // A store that says 403 for what is not there cannot be asked whether a destination is free.
    requests.head(&format!("{first}-absent")).await.map_err(OpenError::of)?;
    let put = requests.put(first, "probe".into(), PutMode::Create, Some(session)).await;
    let copy = requests.copy(first, second, 5, CopyMode::Create).await;
    let copy = copy.is_err_and(|failed| failed.is_conflict());
    if !copy {
        // Some stores know no copy with a condition; all must know one without.
        match requests.copy(first, second, 5, CopyMode::Overwrite).await {
            Err(failed) if failed.is_missing() => return Ok(None),
            other => other.map_err(OpenError::of)?,
        }
    }
    let replace = replaces_by_tag(requests, session, first, &found).await;
    Ok(Some(Conditions { put: is_kept(put)?, copy, replace }))
}

/// Nothing is required here: what fails is not used.
async fn replaces_by_tag(requests: &Requests, session: SessionId, name: &str, found: &Found) -> bool {
    let put = async |version| requests.put(name, "replaced".into(), PutMode::Update(version), Some(session)).await;
    if put(found.version()).await.is_err() {
        return false;
    }
    put(found.version()).await.is_err_and(|failed| failed.is_conflict())
}

/// Whether what must be refused was refused; an error where nobody can tell.
fn is_kept(tried: Result<(), Failed>) -> Result<bool, OpenError> {
    match tried {
        Ok(()) => Ok(false),
        Err(failed) if failed.is_conflict() => Ok(true),
        // It has no such condition.
        Err(Failed { why: Why::Store(Error::NotSupported { .. } | Error::NotImplemented { .. }), .. }) => Ok(false),
        Err(failed) => Err(OpenError::of(failed)),
    }
}

impl OpenError {
    pub(crate) fn of(failed: Failed) -> Self {
        let Failed { what, why } = failed;
        let error = match why {
            Why::Late => return Self::NoAnswer(None),
            Why::Store(error) => error,
        };
        let text = error.to_string();
        let says = |codes: &[&str]| codes.iter().any(|code| text.contains(code));
        if says(&[
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
            "AuthenticationFailed",
            "AuthorizationHeaderMalformed",
        ]) {
            return Self::Credentials(error);
        }
        match error {
            Error::NotFound { .. } => Self::NoBucket(error),
            Error::Unauthenticated { .. } => Self::Credentials(error),
            Error::PermissionDenied { .. } => Self::Denied { what, source: error },
            error
                if says(&[
                    "NoSuchBucket",
                    "PermanentRedirect",
                    "301 Moved Permanently",
                    "redirect without LOCATION",
                ]) =>
            {
                Self::NoBucket(error)
            }
            error => Self::NoAnswer(Some(error)),
        }
    }
}
