//! Where the replies of server applications are fetched (section 2.2.7.2).

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::{Directory, MAXIMUM_URL, SessionId, StorageKey, VirtualPath};

/// Below `BITS-Sessions`.
const REPLIES: &str = "Replies";
const RESPONSE: &str = "responsefile.bin";
/// What a path of a URL may not hold as it is.
const IN_PATHS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

impl Directory {
    /// Where the reply to an upload is fetched: relative to the destination, or absolute where the
    /// directory knows what clients see. At most [`MAXIMUM_URL`] characters.
    pub fn reply_url(&self, destination: &VirtualPath, session: SessionId) -> String {
        let tail = format!("{}/{REPLIES}/{session}/{RESPONSE}", StorageKey::STAGING);
        let own: Vec<&str> = self.url_path.split('/').filter(|name| !name.is_empty()).collect();
        let rooted = format!("{}/{tail}", encoded(own.iter().copied()));
        if let Some(public) = &self.public_url {
            return format!("{public}{rooted}");
        }
        let above = destination.segments().count().saturating_sub(own.len() + 1);
        let relative = "../".repeat(above) + &tail;
        if relative.len() <= MAXIMUM_URL { relative } else { rooted }
    }

    /// The URL of a destination, as far as the directory knows what clients see.
    pub fn url_of(&self, destination: &VirtualPath) -> String {
        format!("{}{}", self.public_url.as_deref().unwrap_or("http://localhost"), encoded(destination.segments()))
    }

    /// The session whose reply a path below this directory names, as it stood on the wire: with
    /// braces raw or encoded.
    pub fn reply_session(&self, raw_path: &str) -> Option<SessionId> {
        let path = percent_decode_str(raw_path).decode_utf8().ok()?;
        let mut rest = path.strip_prefix('/')?.split('/');
        for name in self.url_path.split('/').filter(|name| !name.is_empty()) {
            rest.next().filter(|found| found.eq_ignore_ascii_case(name))?;
        }
        let rest: Vec<&str> = rest.collect();
        let [staging, replies, session, response] = rest[..] else { return None };
        let fixed = [(staging, StorageKey::STAGING), (replies, REPLIES), (response, RESPONSE)];
        fixed.iter().all(|(found, name)| found.eq_ignore_ascii_case(name)).then(|| session.parse().ok())?
    }
}

fn encoded<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.flat_map(|name| ["/".to_owned(), utf8_percent_encode(name, IN_PATHS).to_string()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "{7DF0354D-249B-430F-820D-3D2A9BEF4931}";

    #[track_caller]
    fn check(url_path: &str, public_url: Option<&str>, destination: &str, expected: &str) {
        let plain = Directory::new(url_path, "default", StorageKey::ROOT);
        let directory = Directory { public_url: public_url.map(str::to_owned), ..plain };
        let destination = VirtualPath::from_decoded(destination).unwrap();
        let url = directory.reply_url(&destination, ID.parse().unwrap());
        assert_eq!(url, format!("{expected}BITS-Sessions/Replies/{ID}/responsefile.bin"));
    }

    /// Clients resolve it against the destination.
    #[test]
    fn reply_urls_lead_from_the_destination_to_the_directory() {
        let public = Some("https://files.example:8443");
        check("/upload", None, "/upload/file", "");
        check("/upload", None, "/upload/a/b/file", "../../");
        check("/up/load", None, "/up/load/a/file", "../");
        check("/", None, "/file", "");
        check("", None, "/a/file", "../");
        check("/upload", public, "/upload/a/file", "https://files.example:8443/upload/");
        check("/", public, "/a/file", "https://files.example:8443/");
        check("/größe/a b", public, "/größe/a b/file", "https://files.example:8443/gr%C3%B6%C3%9Fe/a%20b/");
    }

    #[test]
    fn reply_urls_are_never_too_long() {
        let deep = format!("/upload{}", "/a".repeat(1500));
        check("/upload", None, &deep, "/upload/");
    }

    #[test]
    fn paths_of_replies() {
        let found = |url_path: &str, path: &str| {
            Directory::new(url_path, "default", StorageKey::ROOT).reply_session(path).map(|id| id.to_string())
        };
        let encoded = ID.replace('{', "%7B").replace('}', "%7d");
        for path in [
            format!("/upload/BITS-Sessions/Replies/{ID}/responsefile.bin"),
            format!("/upload/BITS-Sessions/Replies/{encoded}/responsefile.bin"),
            format!("/UPLOAD/bits-sessions/replies/{}/ResponseFile.BIN", ID.to_lowercase()),
        ] {
            assert_eq!(found("/upload", &path).as_deref(), Some(ID), "{path}");
            assert_eq!(found("/upload/x", &path), None);
            assert_eq!(found("/", &path), None);
        }
        assert!(found("/", &format!("/BITS-Sessions/Replies/{ID}/responsefile.bin")).is_some());
        for path in [
            format!("/upload/BITS-Sessions/Replies/{ID}"),
            format!("/upload/BITS-Sessions/Replies/{ID}/"),
            format!("/upload/BITS-Sessions/Replies/{ID}/responsefile.bin/"),
            format!("/upload/a/BITS-Sessions/Replies/{ID}/responsefile.bin"),
            format!("/upload/BITS-Sessions/Requests/{ID}/responsefile.bin"),
            format!("/upload/BITS-Sessions/{ID}/responsefile.bin"),
            "/upload/BITS-Sessions/Replies/../responsefile.bin".to_owned(),
            "/upload".to_owned(),
            "*".to_owned(),
        ] {
            assert_eq!(found("/upload", &path), None, "{path}");
        }
    }
}
