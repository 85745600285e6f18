//! Keys that say who may use a directory, and the rules between them.

use std::path::Path;

use bits_core::{Access, StorageKey, UserPattern};
use http::HeaderName;

use super::error::Problems;
use super::layers::Table;
use super::setting::{Raw, Setting, one_of, quoted};
use super::{ClientCertificate, DirectoryConfig, ListenerConfig, Root};

/// A way to prove who a caller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthScheme {
    /// A name and a password, by a file of users.
    Basic,
    /// The client's certificate, which the listener has verified.
    Certificate,
    /// A header that a trusted proxy writes.
    Proxy,
    /// Kerberos, or NTLM.
    Negotiate,
}

const SCHEMES: &[(&str, AuthScheme)] = &[
    ("basic", AuthScheme::Basic),
    ("certificate", AuthScheme::Certificate),
    ("negotiate", AuthScheme::Negotiate),
    ("proxy", AuthScheme::Proxy),
];

/// What names the user of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificatePrincipal {
    /// Its alternative names: the first user principal name, else e-mail address, else DNS name.
    San,
    /// Its whole subject.
    Subject,
}

/// The name of a header that names a user, in the spelling of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserHeader {
    name: HeaderName,
    written: String,
}

impl UserHeader {
    /// The name.
    pub fn name(&self) -> &HeaderName {
        &self.name
    }
}

impl Setting for AuthScheme {
    fn read(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Text(text) if text == "negotiate" && !cfg!(feature = "negotiate") => {
                Err("this server was built without \"negotiate\"; build it with `--features negotiate`".to_owned())
            }
            _ => one_of(raw, SCHEMES),
        }
    }

    fn show(&self) -> String {
        let found = SCHEMES.iter().find(|(_, scheme)| scheme == self);
        quoted(found.map_or("", |(name, _)| name))
    }
}

impl Setting for CertificatePrincipal {
    fn read(raw: &Raw) -> Result<Self, String> {
        one_of(raw, &[("san", Self::San), ("subject", Self::Subject)])
    }

    fn show(&self) -> String {
        quoted(match self {
            Self::San => "san",
            Self::Subject => "subject",
        })
    }
}

impl Setting for UserHeader {
    fn read(raw: &Raw) -> Result<Self, String> {
        let text = raw.text("the name of a header in quotes, such as \"X-Remote-User\"")?;
        let bad = || format!("{text:?} cannot be the header of a user; write one such as \"X-Remote-User\"");
        let name: HeaderName = text.parse().map_err(|_| bad())?;
        // A client's own headers reach us through any proxy.
        let taken = ["authorization", "host", "cookie", "content-", "bits-", "x-forwarded-"];
        if taken.iter().any(|taken| name.as_str().starts_with(taken)) {
            return Err(bad());
        }
        Ok(Self { name, written: text.to_owned() })
    }

    fn show(&self) -> String {
        quoted(&self.written)
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

/// Who is let in where these are the ways to log in.
pub(super) fn admitted(authentication: &[AuthScheme], allow_users: &[UserPattern]) -> Access {
    match (authentication.is_empty(), allow_users.is_empty()) {
        (true, _) => Access::Anyone,
        (false, true) => Access::Authenticated,
        (false, false) => Access::Users(allow_users.to_vec()),
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

/// No way to log in that nobody can go.
pub(super) fn check_reachable(
    tables: &[Table],
    directories: &[DirectoryConfig],
    root: &Root,
    listeners: &[ListenerConfig],
    problems: &mut Problems,
) {
    let proxied = !root.trusted_proxies.is_empty();
    let passwords = proxied
        || root.listen.iter().any(|address| address.ip().to_canonical().is_loopback())
        || listeners.iter().any(takes_passwords);
    let certificates = listeners.iter().any(|listener| listener.client_certificate != ClientCertificate::None);
    for (table, directory) in tables.iter().zip(directories) {
        for scheme in &directory.authentication {
            let message = match scheme {
                AuthScheme::Basic if !passwords => {
                    "\"basic\" would show passwords to everyone on the way: nothing listens with TLS; give a listener a certificate, or write allow_plain_basic = true there"
                }
                AuthScheme::Certificate if !certificates => {
                    "\"certificate\" needs a listener that asks for one; set its client_certificate and client_ca"
                }
                AuthScheme::Proxy if !proxied => "\"proxy\" needs trusted_proxies; name the proxies there",
                _ => continue,
            };
            problems.add(table.location("authentication"), "directories.authentication", message);
        }
    }
}

/// Whether somebody could send a password to this listener.
fn takes_passwords(listener: &ListenerConfig) -> bool {
    let local = listener.address.ip().to_canonical().is_loopback();
    local || listener.certificate.is_some() || listener.allow_plain_basic
}

/// Where users have folders of their own, no other directory takes uploads into them, and one name
/// is one user.
pub(super) fn check_personal(tables: &[Table], directories: &[DirectoryConfig], problems: &mut Problems) {
    check_namesakes(tables, directories, problems);
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

/// Two files of users may name two people alike, who would share a folder.
fn check_namesakes(tables: &[Table], directories: &[DirectoryConfig], problems: &mut Problems) {
    for (at, directory) in directories.iter().enumerate() {
        let Some(users) = directory.htpasswd.as_deref().filter(|_| is_personal(directory)) else { continue };
        let other = directories[..at].iter().position(|other| {
            is_personal(other)
                && overlap(&directory.storage_path, &other.storage_path)
                && other.htpasswd.as_deref().is_some_and(|others| !is_same_file(users, others))
        });
        if let Some(other) = other {
            let message = format!(
                "users of {:?} ({}) have their folders in the same place, by another file: whoever is named alike in both would share one; name one file, or give one of the two a storage_path apart from the other's",
                directories[other].url_path.as_str(),
                tables[other].location("htpasswd"),
            );
            problems.add(tables[at].location("htpasswd"), "directories.htpasswd", message);
        }
    }
}

/// Links may lead to one file; one that is not there yet is told of later.
fn is_same_file(one: &Path, other: &Path) -> bool {
    one == other || one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

fn is_personal(directory: &DirectoryConfig) -> bool {
    directory.per_user_folder || directory.store_as.is_personal()
}

/// Whether one folder is the other or holds it. File systems may fold case.
fn overlap(one: &StorageKey, other: &StorageKey) -> bool {
    one.segments().zip(other.segments()).all(|(one, other)| one.to_lowercase() == other.to_lowercase())
}
