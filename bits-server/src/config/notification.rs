//! Keys about server applications, and about what clients see of the server.

use std::fmt;

use bits_core::{MAXIMUM_URL, NotificationMode};
use http::Uri;

use super::DirectoryConfig;
use super::error::Problems;
use super::layers::Table;
use super::setting::{Raw, Setting, quoted};

/// Scheme and host, such as `https://files.example`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl(String);

impl PublicUrl {
    /// Without a slash at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where a server application is, absolute or relative; empty where there is none. Its query may
/// hold a secret and is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct NotificationUrl(String);

impl NotificationUrl {
    /// All of it: for requests, never for a message.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for NotificationUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show())
    }
}

/// How server applications are told of uploads; none: not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotificationType(pub Option<NotificationMode>);

/// What `check` prints in place of a query.
const HIDDEN: &str = "<hidden>";
const TYPES: [(&str, Option<NotificationMode>); 3] = [
    ("none", None),
    ("by-reference", Some(NotificationMode::ByReference)),
    ("by-value", Some(NotificationMode::ByValue)),
];

impl Setting for PublicUrl {
    fn read(raw: &Raw) -> Result<Self, String> {
        let text = raw.text("a URL in quotes, such as \"https://files.example\"")?;
        let wrong = || format!("{text:?} is no scheme and host alone; write one such as \"https://files.example\"");
        let uri = web(text).ok_or_else(wrong)?;
        let is_bare = matches!(uri.path_and_query().map(|path| path.as_str()), None | Some("/"));
        if !is_bare || text.contains('#') {
            return Err(wrong());
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

impl Setting for NotificationUrl {
    const SECRET: bool = true;

    fn read(raw: &Raw) -> Result<Self, String> {
        let text = raw.text("a URL in quotes")?;
        if text.ends_with(HIDDEN) {
            return Err("holds what check prints in place of a query; write the query".to_owned());
        }
        Ok(Self(text.to_owned()))
    }

    fn show(&self) -> String {
        match self.0.split_once('?') {
            Some((before, query)) if !query.is_empty() => quoted(&format!("{before}?{HIDDEN}")),
            _ => quoted(&self.0),
        }
    }
}

impl Setting for NotificationType {
    fn read(raw: &Raw) -> Result<Self, String> {
        let text = raw.text("\"none\", \"by-reference\" or \"by-value\"")?;
        let found = TYPES.iter().find(|(name, _)| *name == text);
        let unknown = || format!("{text:?} is not known; write \"none\", \"by-reference\" or \"by-value\"");
        found.map(|(_, mode)| Self(*mode)).ok_or_else(unknown)
    }

    fn show(&self) -> String {
        quoted(TYPES.iter().find(|(_, mode)| *mode == self.0).map_or("none", |(name, _)| name))
    }
}

/// What holds between the keys of one directory.
pub(super) fn check(
    table: &Table,
    directory: &DirectoryConfig,
    public_url: Option<&PublicUrl>,
    problems: &mut Problems,
) {
    let url = directory.notification_url.as_str();
    let mut wrong =
        |message: String| problems.add(table.location("notification_url"), "directories.notification_url", message);
    if directory.notification_type.0.is_none() {
        return;
    }
    if url.is_empty() {
        wrong("is empty; write the URL of the server application, or notification_type = \"none\"".to_owned());
    } else if url.len() > MAXIMUM_URL {
        wrong(format!("is {} characters long; write at most {MAXIMUM_URL}", url.len()));
    } else if url.contains('#') || url.contains(char::is_whitespace) {
        wrong("holds a # or a space; write a URL without".to_owned());
    } else if url.contains("://") || url.starts_with("//") {
        if web(url).is_none() {
            wrong("is no http or https URL without a user; write one such as \"http://127.0.0.1:9000/\"".to_owned());
        }
    } else if public_url.is_none() {
        wrong("is relative, and the host in a request is whatever its sender writes; set public_url too".to_owned());
    }
}

/// The URL of a web server, without a user in it.
fn web(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"));
    let host = uri.authority().filter(|host| !host.host().is_empty() && !host.as_str().contains('@'));
    (scheme.is_some() && host.is_some()).then(|| uri.clone())
}
