//! Secrets: values that nothing shows, and the files that hold them.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use super::setting::{Raw, Setting, quoted};

/// What is shown in place of a secret.
const HIDDEN: &str = "<hidden>";
/// The largest file that is read as a secret, in bytes.
const LARGEST: u64 = 64 << 10;

/// A password, key or token: never empty, hidden from `Debug` and `check`, and wiped from memory
/// when it is dropped.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// The secret itself: for its one use, never for a message.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl PartialEq for Secret {
    /// For comparing configurations; takes a time that tells where they differ.
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Secret {}

impl Setting for Secret {
    const SECRET: bool = true;

    fn read(raw: &Raw) -> Result<Self, String> {
        match raw.text("the secret in quotes")? {
            "" => Err("is empty; write the secret".to_owned()),
            HIDDEN => Err("is only what check prints in its place; write the secret".to_owned()),
            text => Ok(Self(text.into())),
        }
    }

    fn show(&self) -> String {
        quoted(HIDDEN)
    }
}

/// The file that a key ending in `_file` names.
pub(super) fn path(base: &Path, raw: &Raw) -> Result<PathBuf, String> {
    raw.text("the path of a file in quotes").map(|path| base.join(path))
}

/// The secret that a file holds, without the line break at its end.
pub(super) fn from_file(path: &Path) -> Result<Raw, String> {
    let unreadable = |error| format!("{} cannot be read: {error}; check the path and its permissions", path.display());
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(LARGEST + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > LARGEST {
        return Err(format!("{} is over 64 KiB, which no secret is; name another file", path.display()));
    }
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    match secret.strip_suffix('\r').unwrap_or(secret) {
        "" => Err(format!("{} is empty; write the secret into it", path.display())),
        secret => Ok(Raw::Text(secret.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> (tempfile::TempDir, Result<Raw, String>) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), content).unwrap();
        let read = from_file(&folder.path().join("secret"));
        (folder, read)
    }

    #[test]
    fn nothing_shows_a_secret() {
        let secret = Secret::read(&Raw::Text("planted".to_owned())).unwrap();
        assert_eq!(secret.expose(), "planted");
        assert_eq!(format!("{secret:?}"), HIDDEN);
        assert_eq!(secret.show(), "\"<hidden>\"");
        assert_eq!(format!("{:?}", Some(secret)), "Some(<hidden>)");
    }

    #[test]
    fn what_check_prints_is_no_secret() {
        for text in ["", HIDDEN] {
            assert!(Secret::read(&Raw::Text(text.to_owned())).is_err(), "{text}");
        }
    }

    #[test]
    fn a_file_loses_the_line_break_at_its_end_and_nothing_else() {
        for (content, secret) in [("a b ", "a b "), ("x\n", "x"), ("x\r\n", "x"), ("x\n\n", "x\n"), (" \n", " ")] {
            assert_eq!(file(content.as_bytes()).1, Ok(Raw::Text(secret.to_owned())), "{content:?}");
        }
    }

    #[test]
    fn a_file_that_holds_no_secret_is_named_without_its_content() {
        let long = vec![b'x'; LARGEST as usize + 1];
        for (content, words) in [(&b""[..], "is empty"), (b"\n", "is empty"), (&long, "64 KiB"), (b"ab\xFF", "UTF-8")] {
            let (folder, read) = file(content);
            let message = read.unwrap_err();
            assert!(message.contains(words), "{message}");
            assert!(message.starts_with(folder.path().to_str().unwrap()), "{message}");
            assert!(!message.contains("ab") || content != b"ab\xFF", "{message}");
        }
        let missing = from_file(Path::new("/nowhere/secret")).unwrap_err();
        assert!(missing.starts_with("/nowhere/secret cannot be read"), "{missing}");
    }
}
