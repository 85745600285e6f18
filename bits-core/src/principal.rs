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
