//! Virtual directories: which paths take uploads, under which rules (section 3.2.1.1).

use std::time::Duration;

use http::StatusCode;

use crate::{InvalidPath, SessionId, StorageKey, VirtualPath};

/// A part of the URL space that takes uploads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// The path that it answers for, `/` for all; compared without regard to ASCII case.
    pub url_path: String,
    /// Which storage holds its files.
    pub storage: String,
    /// The folder within the storage that holds its files and its uploads under way.
    pub storage_path: StorageKey,
    /// The name of a published upload below `storage_path`.
    pub store_as: StoreAs,
    /// Whether uploads are taken.
    pub upload_enabled: bool,
    /// The largest upload in bytes.
    pub maximum_upload_size: u64,
    /// The largest fragment in bytes.
    pub maximum_fragment_size: u64,
    /// Whether an upload may replace what stands at its destination.
    pub allow_overwrites: bool,
    /// Whether missing folders are made.
    pub create_directories: bool,
    /// Permissions of published files.
    pub file_mode: u32,
    /// Permissions of folders that are made.
    pub folder_mode: u32,
    /// How long a session without progress is kept, and how long an ended one is remembered.
    pub session_timeout: Duration,
    /// How many unfinished sessions an authenticated user may have.
    pub session_limit_per_user: Option<u32>,
    /// When an upload appears at its destination.
    pub publish: PublishAt,
    /// The answer where the destination exists: 403 or 409.
    pub conflict_status: StatusCode,
    /// The host that clients should go on with, and when they should stop trying it.
    pub host_id: Option<(String, Duration)>,
}

/// When an upload appears at its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishAt {
    /// Before the ack of the last fragment.
    LastFragment,
    /// Before the ack of Close-Session.
    CloseSession,
}

impl Directory {
    /// A directory with the documented defaults.
    pub fn new(url_path: &str, storage: &str, storage_path: StorageKey) -> Self {
        Self {
            url_path: url_path.to_owned(),
            storage: storage.to_owned(),
            storage_path,
            store_as: StoreAs::default(),
            upload_enabled: true,
            maximum_upload_size: u64::MAX,
            maximum_fragment_size: 64 << 20,
            allow_overwrites: false,
            create_directories: true,
            file_mode: 0o640,
            folder_mode: 0o2750,
            session_timeout: Duration::from_secs(14 * 24 * 60 * 60),
            session_limit_per_user: Some(50),
            publish: PublishAt::LastFragment,
            conflict_status: StatusCode::FORBIDDEN,
            host_id: None,
        }
    }

    /// The part of `path` below this directory: none when the path lies elsewhere, the root key
    /// when it names the directory itself.
    pub fn below(&self, path: &VirtualPath) -> Option<StorageKey> {
        let mut rest = path.segments();
        for name in self.url_path.split('/').filter(|name| !name.is_empty()) {
            if !rest.next()?.eq_ignore_ascii_case(name) {
                return None;
            }
        }
        let rest: Vec<&str> = rest.collect();
        StorageKey::parse(&rest.join("/")).ok()
    }

    /// The path below this directory in the spelling that sessions keep, so that the directory's
    /// part compares without regard to case and the rest as it was sent.
    pub fn destination(&self, below: &StorageKey) -> Result<VirtualPath, InvalidPath> {
        let own = self.url_path.trim_end_matches('/').to_ascii_lowercase();
        VirtualPath::from_decoded(&format!("{own}/{below}"))
    }
}

/// The template `store_as`: how published uploads are named below their directory's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreAs(String);

impl StoreAs {
    /// Checks a template of names and the placeholders `{path}`, `{date}` and `{session}`.
    pub fn parse(template: &str) -> Result<Self, InvalidStoreAs> {
        let filled = template.replace("{path}", "p").replace("{date}", "d").replace("{session}", "s");
        let unique = template.contains("{path}") || template.contains("{session}");
        if !unique || filled.contains(['{', '}']) || StorageKey::parse(&filled).is_err() {
            return Err(InvalidStoreAs);
        }
        Ok(Self(template.to_owned()))
    }

    /// The template itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of an upload to `below`, where `date` is today's, `YYYY-MM-DD` in UTC.
    pub fn key(&self, below: &StorageKey, date: &str, session: SessionId) -> Result<StorageKey, InvalidPath> {
        let mut key = String::new();
        let mut rest = self.0.as_str();
        // One pass, so that a placeholder's spelling within the path stays what it is.
        while let Some((before, (value, after))) = rest.find('{').and_then(|at| {
            let value = placeholder(&rest[at..], below, date, session)?;
            Some((&rest[..at], value))
        }) {
            key.push_str(before);
            key.push_str(&value);
            rest = after;
        }
        key.push_str(rest);
        StorageKey::parse(&key)
    }
}

impl Default for StoreAs {
    fn default() -> Self {
        Self("{path}".to_owned())
    }
}

/// The template `store_as` has an unknown placeholder, or gives all uploads one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must hold {{path}} or {{session}}, may hold {{date}}, and be names joined by slashes")]
pub struct InvalidStoreAs;

fn placeholder<'a>(text: &'a str, below: &StorageKey, date: &str, session: SessionId) -> Option<(String, &'a str)> {
    if let Some(after) = text.strip_prefix("{path}") {
        return Some((below.to_string(), after));
    }
    if let Some(after) = text.strip_prefix("{date}") {
        return Some((date.to_owned(), after));
    }
    text.strip_prefix("{session}").map(|after| (session.uuid().to_string(), after))
}
