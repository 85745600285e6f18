//! The BITS session id: a GUID in braces (section 2.2.3.2).

use std::{fmt, str::FromStr};

use uuid::Uuid;

/// Identifies one upload; of no use to anyone but the principal that created it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(Uuid);

impl SessionId {
    /// The id that shows as `{uuid}`.
    pub const fn new(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The GUID itself, as databases and file names want it.
    pub const fn uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{:X}}}", self.0.hyphenated())
    }
}

impl FromStr for SessionId {
    type Err = InvalidSessionId;

    /// Reads the braced form, in either case.
    fn from_str(text: &str) -> Result<Self, InvalidSessionId> {
        let inner = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).ok_or(InvalidSessionId)?;
        if inner.len() != uuid::fmt::Hyphenated::LENGTH {
            return Err(InvalidSessionId);
        }
        Uuid::try_parse(inner).map(Self).map_err(|_| InvalidSessionId)
    }
}

/// The text is not a GUID in braces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a session id is a GUID in braces, such as {{7DF0354D-249B-430F-820D-3D2A9BEF4931}}")]
pub struct InvalidSessionId;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_either_case_and_shows_uppercase_in_braces() {
        let id: SessionId = "{7df0354d-249b-430F-820d-3d2a9bef4931}".parse().unwrap();
        assert_eq!(id.to_string(), "{7DF0354D-249B-430F-820D-3D2A9BEF4931}");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn refuses_every_other_spelling() {
        for text in [
            "",
            "{}",
            "7df0354d-249b-430f-820d-3d2a9bef4931",
            "{7df0354d249b430f820d3d2a9bef4931}",
            "{7df0354d-249b-430f-820d-3d2a9bef493}",
            "{7df0354d-249b-430f-820d-3d2a9bef49311}",
            "{7df0354d-249b-430f-820d-3d2a9bef493g}",
            "{{7df0354d-249b-430f-820d-3d2a9bef4931}}",
            "{urn:uuid:7df0354d-249b-430f-820d-3d2a9b}",
            " {7df0354d-249b-430f-820d-3d2a9bef4931}",
        ] {
            assert_eq!(text.parse::<SessionId>(), Err(InvalidSessionId), "{text:?}");
        }
    }
}
