//! Who created a session, however it was proved.

use std::fmt;

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
        f.write_str(if self.is_anonymous() { "anonymous" } else { &self.0 })
    }
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
    fn all_anonymous_callers_are_one() {
        assert_eq!(Principal::named(""), Principal::ANONYMOUS);
        assert_eq!(Principal::default(), Principal::ANONYMOUS);
        assert!(Principal::ANONYMOUS.is_anonymous() && !Principal::named("anonymous").is_anonymous());
        assert_eq!((Principal::ANONYMOUS.to_string(), Principal::ANONYMOUS.as_str()), ("anonymous".to_owned(), ""));
        assert_ne!(Principal::named("anonymous"), Principal::ANONYMOUS);
    }
}
