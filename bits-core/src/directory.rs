//! Virtual directories: which paths take uploads, under which rules (section 3.2.1.1).

use std::time::Duration;

use http::StatusCode;

use crate::{Access, InvalidPath, Notification, Principal, Quota, SessionId, StorageKey, VirtualPath};

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
    /// Whether published files are given to whoever may upload.
    pub download_enabled: bool,
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
    /// How many bytes its unfinished uploads may have.
    pub quota: Quota,
    /// When an upload appears at its destination.
    pub publish: PublishAt,
    /// The answer where the destination exists: 403 or 409.
    pub conflict_status: StatusCode,
    /// The host that clients should go on with, and when they should stop trying it.
    pub host_id: Option<(String, Duration)>,
    /// Who may use it.
    pub access: Access,
    /// Whether each principal has a folder below `storage_path`, which holds its files alone.
    pub per_user_folder: bool,
    /// Who is told of uploads, instead of publishing them.
    pub notification: Option<Notification>,
    /// Scheme and host that clients see, such as `https://files.example`; none: as they ask.
    pub public_url: Option<String>,
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
            download_enabled: false,
            maximum_upload_size: u64::MAX,
            maximum_fragment_size: 64 << 20,
            allow_overwrites: false,
            create_directories: true,
            file_mode: 0o640,
            folder_mode: 0o2750,
            session_timeout: Duration::from_secs(14 * 24 * 60 * 60),
            session_limit_per_user: Some(50),
            quota: Quota::NONE,
            publish: PublishAt::LastFragment,
            conflict_status: StatusCode::FORBIDDEN,
            host_id: None,
            access: Access::Anyone,
            per_user_folder: false,
            notification: None,
            public_url: None,
        }
    }

    /// Whether principals have folders of their own here, so that nobody can be anonymous.
    pub fn is_personal(&self) -> bool {
        self.per_user_folder || self.store_as.is_personal()
    }

    /// Where an upload of `principal` to `below` is published; `date` is today's, `YYYY-MM-DD` in
    /// UTC. None for the anonymous principal where principals have folders of their own.
    pub fn key(
        &self,
        below: &StorageKey,
        principal: &Principal,
        date: &str,
        session: SessionId,
    ) -> Result<Option<StorageKey>, InvalidPath> {
        let user = principal.folder_name();
        if user.is_none() && self.is_personal() {
            return Ok(None);
        }
        let name = self.store_as.key(below, user.as_deref().unwrap_or_default(), date, session)?;
        self.folder_of(principal)?.join(&name).map(Some)
    }

    /// The folder that holds what `principal` publishes.
    pub fn folder_of(&self, principal: &Principal) -> Result<StorageKey, InvalidPath> {
        match principal.folder_name().filter(|_| self.per_user_folder) {
            Some(user) => self.storage_path.join(&StorageKey::parse(&user)?),
            None => Ok(self.storage_path.clone()),
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
    /// Checks a template of names and the placeholders `{path}`, `{user}`, `{date}` and
    /// `{session}`. `{user}` is a whole name, and stands before `{path}`: no path that a client
    /// chooses can then lead into what is another user's.
    pub fn parse(template: &str) -> Result<Self, InvalidStoreAs> {
        let filled = PLACEHOLDERS.iter().fold(template.to_owned(), |text, placeholder| text.replace(placeholder, "p"));
        let unique = template.contains("{path}") || template.contains("{session}");
        if !unique || filled.contains(['{', '}']) || StorageKey::parse(&filled).is_err() || !keeps_users_apart(template)
        {
            return Err(InvalidStoreAs);
        }
        Ok(Self(template.to_owned()))
    }

    /// The template itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it tells users apart.
    pub fn is_personal(&self) -> bool {
        self.0.contains("{user}")
    }

    /// The name of an upload to `below`, where `date` is today's, `YYYY-MM-DD` in UTC, and `user`
    /// the principal's [`Principal::folder_name`].
    pub fn key(
        &self,
        below: &StorageKey,
        user: &str,
        date: &str,
        session: SessionId,
    ) -> Result<StorageKey, InvalidPath> {
        let session = session.uuid().to_string();
        let values = [below.as_str(), user, date, &session];
        let mut key = String::new();
        let mut rest = self.0.as_str();
        // One pass, so that a placeholder's spelling within the path stays what it is.
        while let Some((before, (value, after))) = rest.find('{').and_then(|at| {
            let value = placeholder(&rest[at..], values)?;
            Some((&rest[..at], value))
        }) {
            key.push_str(before);
            key.push_str(value);
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

/// The template `store_as` has an unknown placeholder, gives all uploads one name, or does not keep
/// users apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must hold {{path}} or {{session}}, may hold {{date}} and, as a whole name before {{path}}, {{user}}, and be names joined by slashes"
)]
pub struct InvalidStoreAs;

const PLACEHOLDERS: [&str; 4] = ["{path}", "{user}", "{date}", "{session}"];

/// The value for the placeholder that `text` starts with, and what follows it.
fn placeholder<'a, 'b>(text: &'a str, values: [&'b str; 4]) -> Option<(&'b str, &'a str)> {
    PLACEHOLDERS.iter().zip(values).find_map(|(name, value)| Some((value, text.strip_prefix(name)?)))
}

fn keeps_users_apart(template: &str) -> bool {
    let mut names = template.split('/');
    match names.find(|name| name.contains("{user}") || name.contains("{path}")) {
        Some("{user}") => names.all(|name| name == "{user}" || !name.contains("{user}")),
        _ => !template.contains("{user}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(url_path: &str) -> Directory {
        Directory::new(url_path, "default", StorageKey::ROOT)
    }

    /// What lies below the directory, and the path that sessions keep for it.
    #[track_caller]
    fn check(url_path: &str, path: &str, expected: Option<(&str, &str)>) {
        let directory = directory(url_path);
        let below = directory.below(&VirtualPath::from_decoded(path).unwrap());
        assert_eq!(below.as_ref().map(StorageKey::as_str), expected.map(|(below, _)| below), "{path} in {url_path}");
        if let (Some(below), Some((_, kept))) = (below, expected) {
            let destination = directory.destination(&below);
            assert_eq!(destination.as_ref().map(VirtualPath::as_str), Ok(kept), "{path} in {url_path}");
        }
    }

    #[test]
    fn a_directory_holds_whole_segments_in_any_case() {
        for (url_path, path, expected) in [
            ("/upload", "/upload/file", Some(("file", "/upload/file"))),
            ("/upload", "/upload/a/b/File", Some(("a/b/File", "/upload/a/b/File"))),
            ("/upload", "/UPLOAD/File", Some(("File", "/upload/File"))),
            ("/Up/Load", "/uP/lOAD/Up/Load", Some(("Up/Load", "/up/load/Up/Load"))),
            ("/upload/", "/upload/file", Some(("file", "/upload/file"))),
            ("/", "/Upload/file", Some(("Upload/file", "/Upload/file"))),
            ("", "/file", Some(("file", "/file"))),
            ("/größe", "/größe/a", Some(("a", "/größe/a"))),
            ("/größe", "/GRÖSSE/a", None),
            ("/upload", "/uploads/file", None),
            ("/upload", "/up/load", None),
            ("/upload", "/other/upload/file", None),
            ("/a/b", "/a", None),
            ("/a/b", "/a/c/b", None),
        ] {
            check(url_path, path, expected);
        }
    }

    #[test]
    fn the_directory_itself_is_no_destination() {
        for path in ["/upload", "/UPLOAD"] {
            let below = directory("/upload").below(&VirtualPath::from_decoded(path).unwrap());
            assert_eq!(below, Some(StorageKey::ROOT));
        }
        assert_eq!(directory("/upload").destination(&StorageKey::ROOT), Err(InvalidPath::Empty));
    }

    #[test]
    fn documented_defaults() {
        let directory = directory("/upload");
        assert!(directory.upload_enabled && directory.create_directories && !directory.allow_overwrites);
        assert_eq!((directory.maximum_upload_size, directory.maximum_fragment_size), (u64::MAX, 64 * 1024 * 1024));
        assert_eq!((directory.file_mode, directory.folder_mode), (0o640, 0o2750));
        assert_eq!(directory.session_timeout, Duration::from_hours(14 * 24));
        assert_eq!((directory.session_limit_per_user, directory.quota), (Some(50), Quota::NONE));
        assert_eq!((directory.publish, directory.conflict_status.as_u16()), (PublishAt::LastFragment, 403));
        assert_eq!((directory.store_as.as_str(), directory.host_id), ("{path}", None));
    }

    #[test]
    fn templates() {
        for (template, valid) in [
            ("{path}", true),
            ("{session}", true),
            ("{date}/{path}", true),
            ("{date}/{session}.bin", true),
            ("in/{path}.{session}", true),
            ("{path}{session}", true),
            ("", false),
            ("{date}", false),
            ("file", false),
            ("{user}/{path}", true),
            ("in/{date}/{user}/{session}-{path}", true),
            ("{user}/{session}", true),
            ("{user}/{user}/{path}", true),
            ("{user}", false),
            ("{user}-{path}", false),
            ("{user}-{session}", false),
            ("{path}/{user}", false),
            ("{path}/{user}/{path}", false),
            ("{user}/{user}-{path}", false),
            ("{path", false),
            ("path}", false),
            ("{{path}}", false),
            ("/{path}", false),
            ("{path}/", false),
            ("a//{path}", false),
            ("../{path}", false),
            ("BITS-Sessions/{path}", false),
            ("a\\{path}", false),
        ] {
            let parsed = StoreAs::parse(template);
            assert_eq!(parsed.as_ref().map(StoreAs::as_str), valid.then_some(template).ok_or(&InvalidStoreAs));
        }
    }

    #[test]
    fn names_of_uploads() {
        let session = "{7DF0354D-249B-430F-820D-3D2A9BEF4931}".parse().unwrap();
        for (template, below, expected) in [
            ("{path}", "a/b", Ok("a/b")),
            ("{session}", "a/b", Ok("7df0354d-249b-430f-820d-3d2a9bef4931")),
            ("{date}/{path}", "a/b", Ok("2026-11-22/a/b")),
            ("in/{session}-{path}.bin", "a", Ok("in/7df0354d-249b-430f-820d-3d2a9bef4931-a.bin")),
            ("{path}/{path}", "a", Ok("a/a")),
            ("{user}/{date}/{path}", "a/b", Ok("jo@x/2026-11-22/a/b")),
            // What a client wrote stays as it is.
            ("{user}/{path}", "{user}", Ok("jo@x/{user}")),
            ("{date}/{path}", "{session}{date}{path}{", Ok("2026-11-22/{session}{date}{path}{")),
            // What is safe alone may not be so with the template's text.
            ("{path}.", "a", Err(InvalidPath::Trailing)),
            ("{path}n", "dir/co", Err(InvalidPath::Reserved)),
        ] {
            let key =
                StoreAs(template.to_owned()).key(&StorageKey::parse(below).unwrap(), "jo@x", "2026-11-22", session);
            assert_eq!(key.as_ref().map(StorageKey::as_str), expected.as_ref().map(|key| *key), "{template} {below}");
        }
    }

    /// What two principals publish, whatever the path, lies in folders that neither leaves.
    #[test]
    fn users_have_folders_of_their_own() {
        let session = "{7DF0354D-249B-430F-820D-3D2A9BEF4931}".parse().unwrap();
        let (jo, nobody) = (Principal::named("Jo@X"), Principal::ANONYMOUS);
        let mut directory = directory("/upload");
        directory.storage_path = StorageKey::parse("in").unwrap();
        for (per_user_folder, store_as, jos, nobodys) in [
            (false, "{path}", Some("in/a/b"), Some("in/a/b")),
            (true, "{path}", Some("in/jo@x/a/b"), None),
            (false, "{user}/{path}", Some("in/jo@x/a/b"), None),
            (true, "{date}/{user}/{path}", Some("in/jo@x/d/jo@x/a/b"), None),
        ] {
            directory.per_user_folder = per_user_folder;
            directory.store_as = StoreAs::parse(store_as).unwrap();
            for (principal, expected) in [(&jo, jos), (&nobody, nobodys)] {
                let key = directory.key(&StorageKey::parse("a/b").unwrap(), principal, "d", session).unwrap();
                assert_eq!(key.as_ref().map(StorageKey::as_str), expected, "{store_as} {principal}");
            }
        }
    }
}
