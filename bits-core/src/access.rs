//! Who may use a directory.

use std::fmt;

use crate::Principal;

/// Who may use a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Everyone, without saying who they are.
    #[default]
    Anyone,
    /// Everyone who said who they are.
    Authenticated,
    /// Whoever one of these patterns fits; never the anonymous principal.
    Users(Vec<UserPattern>),
}

impl Access {
    /// Whether `principal` may.
    pub fn admits(&self, principal: &Principal) -> bool {
        match self {
            Self::Anyone => true,
            _ if principal.is_anonymous() => false,
            Self::Authenticated => true,
            Self::Users(patterns) => patterns.iter().any(|pattern| pattern.fits(principal)),
        }
    }
}

/// A pattern of principals in which `*` stands for any characters, also for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserPattern(String);

/// A pattern of no characters fits nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is empty; write a user, or a pattern such as \"*@corp.example\"")]
pub struct EmptyPattern;

impl UserPattern {
    /// The pattern that `text` writes, whatever its case.
    pub fn parse(text: &str) -> Result<Self, EmptyPattern> {
        if text.is_empty() { Err(EmptyPattern) } else { Ok(Self(text.to_lowercase())) }
    }

    /// The pattern in lowercase.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it fits the whole of `principal`.
    pub fn fits(&self, principal: &Principal) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = principal.as_str().strip_prefix(first) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        // The earliest place for each part leaves the most for those after it.
        for part in parts {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }
}

impl fmt::Display for UserPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fits(pattern: &str, name: &str) -> bool {
        UserPattern::parse(pattern).unwrap().fits(&Principal::named(name))
    }

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("jo@corp", "jo@corp", true),
            ("Jo@CORP", "jo@corp", true),
            ("jo@corp", "jo@corp.example", false),
            ("jo@corp", "ajo@corp", false),
            ("*", "jo", true),
            ("**", "jo", true),
            ("*@corp", "jo@corp", true),
            ("*@corp", "jo@corp.evil", false),
            ("*@corp", "jo@evilcorp", false),
            ("*$@corp.example", "pc-1$@corp.example", true),
            ("*$@corp.example", "jo@corp.example", false),
            ("jo*", "jo", true),
            ("jo*", "joanna@corp", true),
            ("jo*", "banjo", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "abbbc", true),
            ("a*b*c", "acb", false),
            ("*ab*ab", "ab", false),
            ("*ab*ab", "abab", true),
            ("j?", "jo", false),
            ("[j]o", "jo", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
        assert_eq!(UserPattern::parse(""), Err(EmptyPattern));
    }

    #[test]
    fn nobody_is_admitted_by_no_pattern() {
        let all = Access::Users(vec![UserPattern::parse("*").unwrap()]);
        let (jo, nobody) = (Principal::named("jo"), Principal::ANONYMOUS);
        assert!(Access::Anyone.admits(&jo) && Access::Anyone.admits(&nobody));
        assert!(Access::Authenticated.admits(&jo) && !Access::Authenticated.admits(&nobody));
        assert!(all.admits(&jo) && !all.admits(&nobody));
        assert!(!Access::Users(Vec::new()).admits(&jo));
    }

    /// The meaning of a pattern, by trying everything.
    fn by_hand(pattern: &[char], name: &[char]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some(('*', rest)) => (0..=name.len()).any(|at| by_hand(rest, &name[at..])),
            Some((one, rest)) => name.first() == Some(one) && by_hand(rest, &name[1..]),
        }
    }

    proptest! {
        #[test]
        fn a_pattern_fits_what_it_says(pattern in "[ab*]{1,7}", name in "[ab]{1,8}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(fits(&pattern, &name), by_hand(&chars(&pattern), &chars(&name)));
        }
    }
}
