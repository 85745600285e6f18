//! Keys that say who may use a directory, and the rules between them.

use bits_core::{StorageKey, UserPattern};

use super::DirectoryConfig;
use super::error::Problems;
use super::layers::Table;
use super::setting::{Raw, Setting, one_of, quoted};

/// A way to prove who a caller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthScheme {
    /// A name and a password, by a file of users.
    Basic,
}

const SCHEMES: &[(&str, AuthScheme)] = &[("basic", AuthScheme::Basic)];

impl Setting for AuthScheme {
    fn read(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Text(text) if matches!(text.as_str(), "negotiate" | "certificate" | "proxy") => {
                Err(format!("{text:?} is not supported yet; write \"basic\""))
            }
            _ => one_of(raw, SCHEMES),
        }
    }

    fn show(&self) -> String {
        let found = SCHEMES.iter().find(|(_, scheme)| scheme == self);
        quoted(found.map_or("", |(name, _)| name))
    }
}

impl Setting for UserPattern {
    fn read(raw: &Raw) -> Result<Self, String> {
        let text = raw.text("a user or a pattern in quotes, such as \"*@corp.example\"")?;
        Self::parse(text).map_err(|wrong| wrong.to_string())
    }

    fn show(&self) -> String {
        quoted(self.as_str())
    }
}

/// What holds within one directory: nothing suggests protection that is not there.
pub(super) fn check(table: &Table, directory: &DirectoryConfig, problems: &mut Problems) {
    let mut wrong = |name: &str, message: &str| {
        problems.add(table.location(name), format!("directories.{name}"), message);
    };
    let schemes = &directory.authentication;
    if schemes.iter().enumerate().any(|(at, scheme)| schemes[..at].contains(scheme)) {
        wrong("authentication", "names a scheme twice; remove one");
    }
    match (schemes.contains(&AuthScheme::Basic), &directory.htpasswd) {
        (true, None) => wrong(
            "authentication",
            "\"basic\" needs htpasswd, a file of users; `bits-server password USER --file FILE` makes one",
        ),
        (false, Some(_)) => wrong("htpasswd", "has no effect; add \"basic\" to authentication, or remove it"),
        _ => {}
    }
    if schemes.is_empty() {
        let anonymous = "every caller is anonymous here; add a way to log in to authentication, or remove it";
        if !directory.allow_users.is_empty() {
            wrong("allow_users", anonymous);
        }
        if directory.per_user_folder {
            wrong("per_user_folder", anonymous);
        }
        if directory.store_as.is_personal() {
            wrong(
                "store_as",
                "{user} is nobody here: every caller is anonymous; add a way to log in to authentication",
            );
        }
    }
}

/// Where users have folders of their own, no other directory takes uploads into them.
pub(super) fn check_personal(tables: &[Table], directories: &[DirectoryConfig], problems: &mut Problems) {
    for (at, directory) in directories.iter().enumerate() {
        let intruder = directories.iter().enumerate().find(|(other_at, other)| {
            let same_folders = directory.storage_path == other.storage_path
                && directory.per_user_folder == other.per_user_folder
                && directory.store_as == other.store_as;
            at != *other_at
                && is_personal(directory)
                && other.upload_enabled
                && !same_folders
                && overlap(&directory.storage_path, &other.storage_path)
                // Two personal ones are told of once.
                && (at > *other_at || !is_personal(other))
        });
        if let Some((other_at, other)) = intruder {
            let key = if directory.per_user_folder { "per_user_folder" } else { "store_as" };
            let message = format!(
                "uploads to {:?} ({}) could lead into the folders of users here; give one of the two a storage_path apart from the other's",
                other.url_path.as_str(),
                tables[other_at].location("url_path"),
            );
            problems.add(tables[at].location(key), format!("directories.{key}"), message);
        }
    }
}

fn is_personal(directory: &DirectoryConfig) -> bool {
    directory.per_user_folder || directory.store_as.is_personal()
}

/// Whether one folder is the other or holds it. File systems may fold case.
fn overlap(one: &StorageKey, other: &StorageKey) -> bool {
    one.segments().zip(other.segments()).all(|(one, other)| one.to_lowercase() == other.to_lowercase())
}
