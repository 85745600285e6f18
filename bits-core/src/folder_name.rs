//! Principals as names of folders, one to one.
//!
//! Lowercase ASCII letters, digits and `@ . - _ +` stand for themselves; any other byte is `=` and
//! two hexadecimal digits, so that the name can be read back. Where the plain spelling would be a
//! name with a meaning of its own (a dot in front, a device of Windows, `BITS-Sessions`), its first
//! byte is written so too, and likewise a dot at the end.
//!
//! What would be over 255 bytes is cut, and ends in `==` and the SHA-256 of the principal. `==`
//! stands in no other name, so a cut one is never a whole one; two cut ones are the same only if
//! somebody finds a collision of SHA-256.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::path::{MAXIMUM_SEGMENT, is_reserved, is_staging};

/// `==` and 32 bytes in hexadecimal.
const MARK: usize = 2 + 64;

/// The folder of this principal, which is not empty.
pub(crate) fn encode(principal: &str) -> String {
    let special = is_reserved(principal) || is_staging(principal) || principal.starts_with(['.', '-']);
    let last = principal.len().saturating_sub(1);
    let mut name = String::with_capacity(principal.len());
    for (at, byte) in principal.bytes().enumerate() {
        let plain = matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'@' | b'.' | b'-' | b'_' | b'+');
        if !plain || (special && at == 0) || (byte == b'.' && at == last) {
            name.push('=');
            push_hex(&mut name, byte);
        } else {
            name.push(char::from(byte));
        }
    }
    if name.len() > MAXIMUM_SEGMENT { cut(name, principal) } else { name }
}

fn cut(mut name: String, principal: &str) -> String {
    name.truncate(MAXIMUM_SEGMENT - MARK);
    // An escape that was cut in two must not make the mark begin earlier.
    name.truncate(name.trim_end_matches('=').len());
    name.push_str("==");
    for byte in Sha256::digest(principal.as_bytes()) {
        push_hex(&mut name, byte);
    }
    name
}

fn push_hex(name: &mut String, byte: u8) {
    // Writing to a string cannot fail.
    let _ = write!(name, "{byte:02x}");
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{Principal, StorageKey};

    #[test]
    fn names_that_people_see() {
        for (principal, folder) in [
            ("jo", "jo"),
            ("jo@corp.example", "jo@corp.example"),
            ("pc-1$@corp", "pc-1=24@corp"),
            ("jörg@x", "j=c3=b6rg@x"),
            ("a/b", "a=2fb"),
            ("a\\b", "a=5cb"),
            ("a b", "a=20b"),
            ("a=b", "a=3db"),
            ("a~1", "a=7e1"),
            ("..", "=2e=2e"),
            (".", "=2e"),
            (".ssh", "=2essh"),
            ("-rf", "=2drf"),
            ("a.", "a=2e"),
            ("con", "=63on"),
            ("nul.x@corp", "=6eul.x@corp"),
            ("com1", "=63om1"),
            ("con@x", "con@x"),
            ("bits-sessions", "=62its-sessions"),
            ("cn=jo,o=corp@subject", "cn=3djo=2co=3dcorp@subject"),
        ] {
            assert_eq!(encode(principal), folder);
        }
        assert_eq!(Principal::ANONYMOUS.folder_name(), None);
        assert_eq!(Principal::named("Jo").folder_name().as_deref(), Some("jo"));
    }

    #[test]
    fn long_names_end_in_their_digest() {
        let fits = "x".repeat(255);
        assert_eq!(encode(&fits), fits);
        let long = encode(&"x".repeat(256));
        assert_eq!((long.len(), long.find("==")), (255, Some(255 - 2 - 64)));
        for cut in 0..4 {
            let name = encode(&format!("{}{}", "x".repeat(186 + cut), "ö".repeat(80)));
            assert!(name.len() <= 255 && name.matches("==").count() == 1 && !name.contains("==="), "{name}");
        }
    }

    /// Reads a name back that was not cut.
    fn decode(name: &str) -> Option<String> {
        let mut bytes = Vec::new();
        let mut rest = name.as_bytes();
        while let [first, after @ ..] = rest {
            rest = after;
            if *first == b'=' {
                let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = &rest[2..];
            } else {
                bytes.push(*first);
            }
        }
        String::from_utf8(bytes).ok()
    }

    /// Principals made of what is most likely to go wrong.
    fn tricky() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            Just("con".to_owned()),
            Just("com1".to_owned()),
            Just("bits-sessions".to_owned()),
            Just("..".to_owned()),
            Just("=2e".to_owned()),
            Just("==".to_owned()),
            Just("/".to_owned()),
            Just("x".repeat(120)),
            "[a-c@. =/\\\\:%~$+_-]",
            ".",
        ];
        let named = |parts: Vec<String>| Principal::named(&parts.concat()).as_str().to_owned();
        prop::collection::vec(part, 1..6).prop_map(named).prop_filter("nobody", |name| !name.is_empty())
    }

    fn assert_safe(name: &str) {
        assert!(name.len() <= 255, "{name}");
        assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()), "{name}");
        assert!(!name.contains(['/', '\\', ':', '%', '~', '*', '?', '"', '<', '>', '|']), "{name}");
        assert!(!name.starts_with(['.', '-']) && !name.ends_with('.'), "{name}");
        assert_eq!(StorageKey::parse(name).map(|key| key.segments().count()), Ok(1), "{name}");
    }

    proptest! {
        #[test]
        fn a_folder_is_safe_and_can_be_read_back(principal in tricky()) {
            let name = encode(&principal);
            assert_safe(&name);
            match name.split_once("==") {
                None => prop_assert_eq!(decode(&name), Some(principal)),
                Some((_, digest)) => prop_assert_eq!(digest.len(), 64),
            }
        }

        #[test]
        fn no_two_principals_share_a_folder(principals in prop::collection::vec(tricky(), 2..40)) {
            let mut owners = HashMap::new();
            for principal in principals {
                let owner = owners.entry(encode(&principal)).or_insert_with(|| principal.clone());
                prop_assert_eq!(&*owner, &principal);
            }
        }

        /// Names are kept in lowercase, and stay what they are when they are read again.
        #[test]
        fn a_principal_read_again_is_the_same(name in "\\PC{1,20}") {
            let once = Principal::named(&name);
            prop_assert_eq!(Principal::named(once.as_str()), once);
        }
    }
}
