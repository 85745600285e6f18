//! Destination paths as clients send them, and the storage keys they become.

use std::fmt;

use percent_encoding::percent_decode_str;

/// The longest segment, in bytes: what file systems take.
pub(crate) const MAXIMUM_SEGMENT: usize = 255;
/// The longest path or key, in bytes: under Linux's PATH_MAX with room for a root.
const MAXIMUM_PATH: usize = 3 * 1024;
/// The folder of uploads under way; no upload may have this name.
const STAGING: &str = "BITS-Sessions";

/// A decoded URL path: at least one segment, each of them a name that is safe everywhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualPath(String);

impl VirtualPath {
    /// Decodes and checks the path of a request, as it stood on the wire.
    pub fn decode(raw: &str) -> Result<Self, InvalidPath> {
        let segments = raw.strip_prefix('/').ok_or(InvalidPath::NotAbsolute)?;
        let decoded: Vec<String> = segments.split('/').map(decode_segment).collect::<Result<_, _>>()?;
        Self::from_decoded(&format!("/{}", decoded.join("/")))
    }

    /// Checks a path that is decoded already, such as one from a database or a configuration.
    pub fn from_decoded(path: &str) -> Result<Self, InvalidPath> {
        let segments = path.strip_prefix('/').ok_or(InvalidPath::NotAbsolute)?;
        check_segments(segments)?;
        Ok(Self(path.to_owned()))
    }

    /// The path, with its leading slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names between the slashes.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0[1..].split('/')
    }
}

impl fmt::Display for VirtualPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a storage keeps something, relative to its root: checked names joined by slashes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorageKey(String);

impl StorageKey {
    /// The folder of uploads under way, below a directory's folder.
    pub const STAGING: &'static str = STAGING;

    /// The root of a storage: no name at all.
    pub const ROOT: Self = Self(String::new());

    /// Checks `key`, names joined by slashes with none leading or trailing; empty is the root.
    pub fn parse(key: &str) -> Result<Self, InvalidPath> {
        if !key.is_empty() {
            check_segments(key)?;
        }
        Ok(Self(key.to_owned()))
    }

    /// The key of `rest` below this one.
    pub fn join(&self, rest: &Self) -> Result<Self, InvalidPath> {
        match (self.0.as_str(), rest.0.as_str()) {
            ("", _) => Ok(rest.clone()),
            (_, "") => Ok(self.clone()),
            (folder, rest) => Self::parse(&format!("{folder}/{rest}")),
        }
    }

    /// The key, without leading or trailing slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names between the slashes; none for the root.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|segment| !segment.is_empty())
    }

    /// The folder that holds this key, and the last name; none for the root.
    pub fn split_last(&self) -> Option<(&str, &str)> {
        match self.0.rsplit_once('/') {
            Some(split) => Some(split),
            None if self.0.is_empty() => None,
            None => Some(("", &self.0)),
        }
    }
}

impl fmt::Display for StorageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a path cannot name an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPath {
    /// No leading slash.
    #[error("the path must start with a slash")]
    NotAbsolute,
    /// Nothing between two slashes, or after the last.
    #[error("the path has an empty segment")]
    Empty,
    /// `.` or `..`, encoded or not.
    #[error("the path has a dot segment")]
    Dot,
    /// A slash, backslash or colon within a name.
    #[error("a name holds a slash, backslash or colon")]
    Separator,
    /// A control character within a name.
    #[error("a name holds a control character")]
    Control,
    /// A percent sign without two hexadecimal digits.
    #[error("the percent-encoding is broken")]
    Encoding,
    /// Bytes that are no UTF-8.
    #[error("the path is not UTF-8")]
    Utf8,
    /// A device name of Windows, such as `NUL` or `com1.txt`.
    #[error("a name is reserved by Windows")]
    Reserved,
    /// A dot or space at the end of a name, which Windows drops.
    #[error("a name ends in a dot or space")]
    Trailing,
    /// A name over 255 bytes, or a path over 3 KiB or what the storage takes.
    #[error("a name is over 255 bytes, or the path over 3 KiB or what the storage takes")]
    Long,
    /// `BITS-Sessions`, in any case.
    #[error("BITS-Sessions is the server's own name")]
    Staging,
}

fn decode_segment(raw: &str) -> Result<String, InvalidPath> {
    let bytes = raw.as_bytes();
    let broken = bytes.iter().enumerate().any(|(at, byte)| {
        *byte == b'%' && !bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    });
    if broken {
        return Err(InvalidPath::Encoding);
    }
    let decoded = percent_decode_str(raw).decode_utf8().map_err(|_| InvalidPath::Utf8)?;
    if decoded.contains('/') {
        return Err(InvalidPath::Separator);
    }
    Ok(decoded.into_owned())
}

fn check_segments(path: &str) -> Result<(), InvalidPath> {
    if path.len() > MAXIMUM_PATH {
        return Err(InvalidPath::Long);
    }
    path.split('/').try_for_each(check_segment)
}

fn check_segment(name: &str) -> Result<(), InvalidPath> {
    let wrong = match name {
        "" => InvalidPath::Empty,
        "." | ".." => InvalidPath::Dot,
        _ if name.len() > MAXIMUM_SEGMENT => InvalidPath::Long,
        _ if name.contains(['/', '\\', ':']) => InvalidPath::Separator,
        _ if name.contains(char::is_control) => InvalidPath::Control,
        _ if name.ends_with(['.', ' ']) => InvalidPath::Trailing,
        _ if is_staging(name) => InvalidPath::Staging,
        _ if is_reserved(name) => InvalidPath::Reserved,
        _ => return Ok(()),
    };
    Err(wrong)
}

pub(crate) fn is_staging(name: &str) -> bool {
    name.eq_ignore_ascii_case(STAGING)
}

/// Windows reserves these with any extension, in any case, and with superscript digits too.
pub(crate) fn is_reserved(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name).trim_end().to_ascii_uppercase();
    if matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$") {
        return true;
    }
    let Some(port) = stem.strip_prefix("COM").or_else(|| stem.strip_prefix("LPT")) else { return false };
    matches!(port, "0" | "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "9" | "¹" | "²" | "³")
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;

    /// Decodes a raw path; a refused one gives the reason.
    #[track_caller]
    fn check(raw: &str, expected: Result<&str, InvalidPath>) {
        let decoded = VirtualPath::decode(raw);
        assert_eq!(decoded.as_ref().map(VirtualPath::as_str), expected.as_ref().map(|path| *path), "{raw:?}");
    }

    #[test]
    fn usable_paths() {
        for (raw, decoded) in [
            ("/a", "/a"),
            ("/upload/Some%20File.txt", "/upload/Some File.txt"),
            ("/a%2Bb+c", "/a+b+c"),
            ("/%e6%95%b0%E6%8D%AE", "/数据"),
            ("/größe", "/größe"),
            ("/e%CC%81", "/e\u{301}"),
            ("/%F0%9F%A6%80", "/🦀"),
            ("/100%25", "/100%"),
            ("/%252e%252e", "/%2e%2e"),
            ("/.hidden/..a/a..b/...c", "/.hidden/..a/a..b/...c"),
            ("/%20leading", "/ leading"),
            ("/a;b=c&d,e@f!$'()*~_-", "/a;b=c&d,e@f!$'()*~_-"),
            ("/a%3Fb%23c%22d%3Ce%3E%7C", "/a?b#c\"d<e>|"),
            ("/bits-session/bits-sessionss", "/bits-session/bits-sessionss"),
            ("/console/null/com10/lpt/com/xcon/con1", "/console/null/com10/lpt/com/xcon/con1"),
        ] {
            check(raw, Ok(decoded));
        }
    }

    #[test]
    fn every_reason() {
        for (raw, reason) in [
            ("", InvalidPath::NotAbsolute),
            ("a", InvalidPath::NotAbsolute),
            ("*", InvalidPath::NotAbsolute),
            ("http://host/a", InvalidPath::NotAbsolute),
            ("/", InvalidPath::Empty),
            ("//a", InvalidPath::Empty),
            ("/a//b", InvalidPath::Empty),
            ("/a/", InvalidPath::Empty),
            ("/.", InvalidPath::Dot),
            ("/..", InvalidPath::Dot),
            ("/a/../b", InvalidPath::Dot),
            ("/%2e", InvalidPath::Dot),
            ("/a/%2E%2e/b", InvalidPath::Dot),
            ("/a/.%2e", InvalidPath::Dot),
            ("/a%2Fb", InvalidPath::Separator),
            ("/..%2fa", InvalidPath::Separator),
            ("/a\\b", InvalidPath::Separator),
            ("/a%5Cb", InvalidPath::Separator),
            ("/%5c", InvalidPath::Separator),
            ("/c:", InvalidPath::Separator),
            ("/file%3Astream", InvalidPath::Separator),
            ("/a%00b", InvalidPath::Control),
            ("/a%0D%0Ab", InvalidPath::Control),
            ("/%1f", InvalidPath::Control),
            ("/%7F", InvalidPath::Control),
            ("/%C2%85", InvalidPath::Control),
            ("/%", InvalidPath::Encoding),
            ("/a%4", InvalidPath::Encoding),
            ("/%zz", InvalidPath::Encoding),
            ("/%+1", InvalidPath::Encoding),
            ("/%%41", InvalidPath::Encoding),
            ("/%u0041", InvalidPath::Encoding),
            ("/%FF", InvalidPath::Utf8),
            ("/%C3%28", InvalidPath::Utf8),
            ("/%C0%AE%C0%AE", InvalidPath::Utf8),
            ("/%C0%AF", InvalidPath::Utf8),
            ("/%ED%A0%80", InvalidPath::Utf8),
            ("/%F4%90%80%80", InvalidPath::Utf8),
            ("/a.", InvalidPath::Trailing),
            ("/a%20", InvalidPath::Trailing),
            ("/...", InvalidPath::Trailing),
            ("/a%2E/b", InvalidPath::Trailing),
            ("/bits-sessions", InvalidPath::Staging),
            ("/a/BITS-Sessions/b", InvalidPath::Staging),
            ("/%42ITS-SESSIONS", InvalidPath::Staging),
        ] {
            check(raw, Err(reason));
        }
    }

    #[test]
    fn every_reserved_name() {
        let ports =
            ["COM", "LPT"].into_iter().flat_map(|port| "0123456789¹²³".chars().map(move |at| format!("{port}{at}")));
        let names = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"].into_iter().map(str::to_owned);
        for name in names.chain(ports) {
            for spelled in [
                name.clone(),
                name.to_lowercase(),
                format!("{name}.txt"),
                format!("{name}.tar.gz"),
                format!("{name} .txt"),
                format!("{name}..txt"),
            ] {
                check(&format!("/a/{spelled}"), Err(InvalidPath::Reserved));
                check(&format!("/{spelled}/b"), Err(InvalidPath::Reserved));
            }
            assert!(VirtualPath::decode(&format!("/x{name}")).is_ok());
            assert!(VirtualPath::decode(&format!("/a.{name}")).is_ok());
        }
    }

    #[test]
    fn lengths() {
        let long = "ü".repeat(127);
        check(&format!("/{long}n"), Ok(&format!("/{long}n")));
        check(&format!("/{long}nn"), Err(InvalidPath::Long));
        let path = format!("/{}", vec!["0123456"; 384].join("/"));
        assert_eq!(path.len(), 3072);
        check(&format!("{path}8"), Ok(&format!("{path}8")));
        check(&format!("{path}89"), Err(InvalidPath::Long));
        let encoded = "%C3%BC".repeat(127);
        check(&format!("/{encoded}"), Ok(&format!("/{long}")));
    }

    #[test]
    fn keys_are_relative_and_join() {
        let key = |text| StorageKey::parse(text).unwrap();
        for (folder, rest, joined) in [("", "", ""), ("a", "", "a"), ("", "b", "b"), ("a/b", "c/d", "a/b/c/d")] {
            assert_eq!(key(folder).join(&key(rest)), Ok(key(joined)));
        }
        for (text, split) in [("", None), ("a", Some(("", "a"))), ("a/b/c", Some(("a/b", "c")))] {
            assert_eq!(key(text).split_last(), split);
            assert_eq!(key(text).segments().collect::<Vec<_>>().join("/"), text);
        }
        let deep = key(&vec!["0123456"; 300].join("/"));
        assert_eq!(deep.join(&deep), Err(InvalidPath::Long));
        for (text, reason) in [
            ("/a", InvalidPath::Empty),
            ("a/", InvalidPath::Empty),
            ("a/../b", InvalidPath::Dot),
            ("a\\b", InvalidPath::Separator),
            ("BITS-Sessions", InvalidPath::Staging),
        ] {
            assert_eq!(StorageKey::parse(text), Err(reason), "{text:?}");
        }
    }

    /// Names from the characters that are most likely to be told apart wrongly.
    fn tricky() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            Just("..".to_owned()),
            Just("%2f".to_owned()),
            Just("%5C".to_owned()),
            Just("%2e".to_owned()),
            Just("%00".to_owned()),
            Just("con".to_owned()),
            Just("BITS-Sessions".to_owned()),
            "[/\\\\:. %a-c\u{0}-\u{20}\u{7f}-\u{9f}\u{2215}\u{ff0f}]",
            ".",
        ];
        prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
    }

    fn assert_safe(path: &str) {
        assert!(path.len() <= MAXIMUM_PATH + 1);
        for name in path.split('/').skip(1) {
            assert!(!name.is_empty() && name != "." && name != ".." && name.len() <= 255, "{path:?}");
            assert!(!name.contains(['\\', ':']) && !name.contains(char::is_control), "{path:?}");
            assert!(!name.ends_with(['.', ' ']) && !name.eq_ignore_ascii_case("bits-sessions"), "{path:?}");
            let stem = name.split('.').next().unwrap_or_default().trim().to_ascii_lowercase();
            assert!(!["con", "nul", "com1"].contains(&stem.as_str()) || name.starts_with(' '), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn accepted_paths_are_safe(raw in tricky()) {
            if let Ok(path) = VirtualPath::decode(&format!("/{raw}")) {
                assert_safe(path.as_str());
                prop_assert_eq!(VirtualPath::from_decoded(path.as_str()), Ok(path.clone()));
                let key = StorageKey::parse(&path.as_str()[1..]);
                prop_assert!(key.is_ok_and(|key| key.segments().eq(path.segments())));
            }
        }

        #[test]
        fn encoding_comes_back(names in prop::collection::vec(tricky(), 1..4)) {
            let names: Vec<String> = names.iter().map(|name| name.replace('/', "-")).collect();
            let encode = |name: &String| utf8_percent_encode(name, NON_ALPHANUMERIC).to_string();
            let raw = format!("/{}", names.iter().map(encode).collect::<Vec<_>>().join("/"));
            let decoded = format!("/{}", names.join("/"));
            prop_assert_eq!(VirtualPath::decode(&raw), VirtualPath::from_decoded(&decoded));
        }
    }
}
