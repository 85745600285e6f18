//! Who created a session, however it was proved.

use std::fmt;

use crate::folder_name;

/// The longest principal, in bytes.
const MAXIMUM_NAME: usize = 1024;

/// A caller: lowercase `name@realm`, or everyone who did not say who they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal(String);

impl Principal {
    /// All anonymous callers; they are one principal.
    pub const ANONYMOUS: Self = Self(String::new());

    /// The principal of this name, in lowercase; an empty name is the anonymous one.
    pub fn named(name: &str) -> Self {
        Self(name.to_lowercase())
    }

    /// The principal of a name that somebody proved to have, in lowercase.
    pub fn parse(name: &str) -> Result<Self, InvalidPrincipal> {
        match name {
            "" => Err(InvalidPrincipal::Empty),
            _ if name.len() > MAXIMUM_NAME => Err(InvalidPrincipal::Long),
            _ if name.contains(char::is_control) => Err(InvalidPrincipal::Control),
            _ if name.trim() != name => Err(InvalidPrincipal::Space),
            _ if name.contains(poses_as_ascii) => Err(InvalidPrincipal::Pose),
            _ if name.eq_ignore_ascii_case(ANONYMOUS) => Err(InvalidPrincipal::Anonymous),
            _ => Ok(Self::named(name)),
        }
    }

    /// The principal `name@realm`, of which neither part holds another `@`: no two pairs of a
    /// name and a realm are one principal.
    pub fn in_realm(name: &str, realm: &str) -> Result<Self, InvalidPrincipal> {
        if name.is_empty() || realm.is_empty() {
            return Err(InvalidPrincipal::Empty);
        }
        if name.contains('@') || realm.contains('@') {
            return Err(InvalidPrincipal::Realm);
        }
        Self::parse(&format!("{name}@{realm}"))
    }

    /// The name of this principal's folder; none for the anonymous one.
    ///
    /// No two principals have the same, also where a file system folds case or normalises
    /// Unicode; it is one name that is safe everywhere, of at most 255 bytes of lowercase ASCII.
    pub fn folder_name(&self) -> Option<String> {
        (!self.is_anonymous()).then(|| folder_name::encode(&self.0))
    }

    /// Whether this is the anonymous principal.
    pub fn is_anonymous(&self) -> bool {
        self.0.is_empty()
    }

    /// The name; empty for the anonymous principal.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_anonymous() { ANONYMOUS } else { &self.0 })
    }
}

/// Such as the Kelvin sign, which is a `k` in lowercase: no two names that somebody else keeps apart
/// may be one.
fn poses_as_ascii(character: char) -> bool {
    !character.is_ascii() && character.to_lowercase().any(|lower| lower.is_ascii())
}

/// How the anonymous principal is shown; nobody else can have this name.
const ANONYMOUS: &str = "anonymous";

/// Why a name can be nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPrincipal {
    /// No name, or no realm.
    #[error("the name is empty")]
    Empty,
    /// Over 1 KiB.
    #[error("the name is over 1 KiB")]
    Long,
    /// A control character.
    #[error("the name holds a control character")]
    Control,
    /// Space around it.
    #[error("the name has space around it")]
    Space,
    /// A character beyond ASCII that is ASCII in lowercase.
    #[error("the name holds a character that is another one, of ASCII, in lowercase")]
    Pose,
    /// `anonymous`, which is everyone who is not logged in.
    #[error("\"anonymous\" is everyone who is not logged in")]
    Anonymous,
    /// An `@` where the realm is apart.
    #[error("the name or its realm holds an @")]
    Realm,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_in_any_case() {
        for (one, other, same) in [
            ("Jo@Corp.Example", "jo@corp.example", true),
            ("JÖRG@X", "jörg@x", true),
            ("jo@x", "jo@y", false),
            ("jo", "jo@x", false),
            ("", "jo", false),
        ] {
            assert_eq!(Principal::named(one) == Principal::named(other), same, "{one} {other}");
        }
        assert_eq!(Principal::named("Jo@X").as_str(), "jo@x");
        assert_eq!(Principal::named("Jo@X").to_string(), "jo@x");
    }

    #[test]
    fn proved_names_are_checked() {
        let long = "x".repeat(1025);
        for (name, expected) in [
            ("Jo@Corp.Example", Ok("jo@corp.example")),
            ("jo", Ok("jo")),
            ("jo doe", Ok("jo doe")),
            ("anonymous@x", Ok("anonymous@x")),
            ("", Err(InvalidPrincipal::Empty)),
            (long.as_str(), Err(InvalidPrincipal::Long)),
            ("jo\n@x", Err(InvalidPrincipal::Control)),
            ("jo\0", Err(InvalidPrincipal::Control)),
            (" jo", Err(InvalidPrincipal::Space)),
            ("jo\u{a0}", Err(InvalidPrincipal::Space)),
            ("\u{212a}im@x", Err(InvalidPrincipal::Pose)),
            ("\u{130}da", Err(InvalidPrincipal::Pose)),
            ("Anonymous", Err(InvalidPrincipal::Anonymous)),
        ] {
            let parsed = Principal::parse(name);
            assert_eq!(parsed.as_ref().map(Principal::as_str), expected.as_ref().map(|name| *name), "{name:?}");
        }
    }

    #[test]
    fn a_realm_is_apart_from_the_name() {
        assert_eq!(Principal::in_realm("Jo", "CORP"), Ok(Principal::named("jo@corp")));
        for (name, realm) in [("jo@a", "b"), ("jo", "a@b")] {
            assert_eq!(Principal::in_realm(name, realm), Err(InvalidPrincipal::Realm));
        }
        for (name, realm) in [("", "b"), ("jo", "")] {
            assert_eq!(Principal::in_realm(name, realm), Err(InvalidPrincipal::Empty));
        }
    }

    #[test]
    fn all_anonymous_callers_are_one() {
        assert_eq!(Principal::named(""), Principal::ANONYMOUS);
        assert_eq!(Principal::default(), Principal::ANONYMOUS);
        assert!(Principal::ANONYMOUS.is_anonymous() && !Principal::named("anonymous").is_anonymous());
        assert_eq!((Principal::ANONYMOUS.to_string(), Principal::ANONYMOUS.as_str()), ("anonymous".to_owned(), ""));
        assert_ne!(Principal::named("anonymous"), Principal::ANONYMOUS);
    }
}
