//! Files of users and passwords, as Apache's `htpasswd` writes them: a line for each user, the
//! name, a colon, a hash by argon2id or bcrypt.

use std::fmt;

use argon2::{
    Argon2, Params,
    password_hash::{PasswordVerifier, phc::PasswordHash},
};
use bits_core::Principal;

/// The most memory that one argon2 hash may take, in KiB.
const MAXIMUM_MEMORY: u32 = 1 << 20;
/// The most passes over it.
const MAXIMUM_PASSES: u32 = 64;
/// The highest cost of bcrypt: half a minute of work.
const MAXIMUM_COST: u32 = 18;
/// `$2y$10$` and 53 characters.
const BCRYPT_LENGTH: usize = 60;

/// One line: who, and how their password is checked.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) principal: Principal,
    pub(super) hash: Hash,
}

/// A hashed password. Two that are equal are of one password with one salt.
#[derive(PartialEq, Eq)]
pub(super) enum Hash {
    Argon2(Box<PasswordHash>),
    Bcrypt(String),
}

/// The users of a file, each of them once; else the number of the line that is wrong, and why.
pub(super) fn parse(text: &str) -> Result<Vec<Entry>, (usize, String)> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut lines = std::collections::HashMap::new();
    for (number, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line)) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let entry = entry(line).map_err(|reason| (number, reason))?;
        if let Some(first) = lines.insert(entry.principal.clone(), number) {
            return Err((number, format!("the user stands in line {first} already, and case makes no difference")));
        }
        entries.push(entry);
    }
    Ok(entries)
}

impl Hash {
    fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("$argon2id$") {
            let hash = PasswordHash::new(text).map_err(|error| format!("the argon2id hash is broken: {error}"))?;
            let params = Params::try_from(&hash).map_err(|error| format!("the argon2id hash is broken: {error}"))?;
            if hash.salt.is_none() || hash.hash.is_none() {
                return Err("the argon2id hash is cut off".to_owned());
            }
            if params.m_cost() > MAXIMUM_MEMORY || params.t_cost() > MAXIMUM_PASSES {
                return Err(format!("the argon2id hash takes over {MAXIMUM_MEMORY} KiB or {MAXIMUM_PASSES} passes"));
            }
            return Ok(Self::Argon2(Box::new(hash)));
        }
        if text.starts_with("$2y$") || text.starts_with("$2b$") {
            let parts: bcrypt::HashParts =
                text.parse().map_err(|error| format!("the bcrypt hash is broken: {error}"))?;
            if text.len() != BCRYPT_LENGTH || !(4..=MAXIMUM_COST).contains(&parts.get_cost()) {
                return Err(format!("the bcrypt hash is cut off, or its cost is not 4 to {MAXIMUM_COST}"));
            }
            return Ok(Self::Bcrypt(text.to_owned()));
        }
        Err("the hash is neither argon2id ($argon2id$) nor bcrypt ($2y$, $2b$); `bits-server password` makes one"
            .to_owned())
    }

    /// Whether it is the hash of `password`. Takes long, by design. Of a password over 72 bytes
    /// bcrypt knows the first 72 only.
    pub(super) fn verify(&self, password: &str) -> bool {
        match self {
            Self::Argon2(hash) => Argon2::default().verify_password(password.as_bytes(), &**hash).is_ok(),
            Self::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
        }
    }
}

impl Default for Hash {
    /// The hash of no password, which takes as long as others to find out.
    fn default() -> Self {
        const NOBODY: &str =
            "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        Self::parse(NOBODY).unwrap_or(Self::Bcrypt(String::new()))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hash(..)")
    }
}

fn entry(line: &str) -> Result<Entry, String> {
    let (name, hash) = line.split_once(':').ok_or("has no colon between user and hash")?;
    Ok(Entry { principal: check_name(name)?, hash: Hash::parse(hash)? })
}

/// Basic credentials cannot carry a colon in a name, nor more than a header takes.
pub(super) fn check_name(name: &str) -> Result<Principal, String> {
    if name.contains(':') || name.starts_with('#') || name.len() > 255 {
        return Err("the user's name holds a colon, starts with # or is over 255 bytes".to_owned());
    }
    Principal::parse(name).map_err(|error| format!("the user cannot be named so: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of Apache's documentation; the password is `myPassword`.
    const BCRYPT: &str = "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC";

    fn broken(text: &str) -> String {
        let (line, reason) = parse(text).unwrap_err();
        format!("{line}: {reason}")
    }

    #[test]
    fn bcrypt_of_apache_is_read() {
        let entries = parse(&format!("jo:{BCRYPT}\nann:{}", BCRYPT.replace("$2y$", "$2b$"))).unwrap();
        for entry in entries {
            assert!(entry.hash.verify("myPassword") && !entry.hash.verify("mypassword"), "{:?}", entry.principal);
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let neither =
            "the hash is neither argon2id ($argon2id$) nor bcrypt ($2y$, $2b$); `bits-server password` makes one";
        for (line, reason) in [
            ("jo", "has no colon between user and hash"),
            ("jo:secret", neither),
            ("jo:$apr1$x$y", neither),
            ("jo:{SHA}x", neither),
            ("jo:$2a$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC", neither),
            ("jo:$argon2i$v=19$m=1024,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA", neither),
            ("jo:$argon2id$v=19$m=1024,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA", "the argon2id hash is cut off"),
            (
                "jo:$argon2id$v=19$m=2000000,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
                "the argon2id hash takes over 1048576 KiB or 64 passes",
            ),
            (":$2y$05$x", "the user cannot be named so: the name is empty"),
            ("anonymous:$2y$05$x", "the user cannot be named so: \"anonymous\" is everyone who is not logged in"),
            (" jo:$2y$05$x", "the user cannot be named so: the name has space around it"),
        ] {
            assert_eq!(broken(&format!("ok:{BCRYPT}\n{line}")), format!("2: {reason}"));
        }
        for line in ["jo:$argon2id$", "jo:$2y$05$x", "jo:$2y$31$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC"]
        {
            assert!(broken(line).starts_with("1: the "), "{line}");
        }
        assert_eq!(
            broken(&format!("Jo:{BCRYPT}\njo:{BCRYPT}")),
            "2: the user stands in line 1 already, and case makes no difference"
        );
    }

    #[test]
    fn nobodys_hash_is_whole() {
        assert!(matches!(Hash::default(), Hash::Argon2(_)));
        assert!(!Hash::default().verify(""));
    }

    proptest::proptest! {
        #[test]
        fn any_file_is_read_or_refused(text in "(\\PC|[a:$#\n]|\\$2y\\$05\\$|\\$argon2id\\$v=19\\$m=8,t=1,p=1\\$){0,40}") {
            let _ = parse(&text);
        }
    }
}
