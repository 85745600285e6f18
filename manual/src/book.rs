//! The generated parts of the book: what stands between two comments of a chapter.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{errors, keys};

/// A chapter with a generated part.
struct Part {
    chapter: &'static str,
    name: &'static str,
    text: fn() -> String,
}

const PARTS: &[Part] = &[
    Part { chapter: "configuration.md", name: "keys", text: keys::reference },
    Part { chapter: "errors.md", name: "errors", text: errors::table },
];

/// Brings every part up to date.
pub(crate) fn write() -> io::Result<()> {
    PARTS.iter().try_for_each(|part| fs::write(part.path(), part.renew()?))
}

impl Part {
    fn path(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(self.chapter)
    }

    /// The chapter as it should be.
    fn renew(&self) -> io::Result<String> {
        let chapter = fs::read_to_string(self.path())?;
        let missing = || io::Error::other(format!("{}: there is no part {}", self.chapter, self.name));
        replace(&chapter, self.name, &(self.text)()).ok_or_else(missing)
    }
}

/// `chapter` with `text` between the comments of this name; none where they are missing.
fn replace(chapter: &str, name: &str, text: &str) -> Option<String> {
    let (start, end) = (format!("<!-- generated: {name} -->\n"), format!("<!-- end: {name} -->\n"));
    let (before, rest) = chapter.split_once(&start)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{start}\n{}\n\n{end}{after}", text.trim()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]
mod tests {
    use super::*;

    #[test]
    fn the_book_is_up_to_date() {
        for part in PARTS {
            let now = fs::read_to_string(part.path()).unwrap();
            assert!(now == part.renew().unwrap(), "docs/{} is out of date: run `cargo xtask book`", part.chapter);
        }
    }

    #[test]
    fn what_stands_around_a_part_stays() {
        let chapter = "a\n<!-- generated: x -->\nold\n<!-- end: x -->\nb\n";
        let renewed = "a\n<!-- generated: x -->\n\nnew\n\n<!-- end: x -->\nb\n";
        assert_eq!(replace(chapter, "x", "new\n").unwrap(), renewed);
        assert_eq!(replace(renewed, "x", "new").unwrap(), renewed);
        assert_eq!(replace(chapter, "y", "new"), None);
    }
}
