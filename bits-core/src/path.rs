//! Destination paths as clients send them, and the storage keys they become.

use std::fmt;

use percent_encoding::percent_decode_str;

/// The longest segment, in bytes: what file systems take.
const MAXIMUM_SEGMENT: usize = 255;
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
    /// A name over 255 bytes, or a path over 3 KiB.
    #[error("a name is over 255 bytes, or the path over 3 KiB")]
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
        _ if name.eq_ignore_ascii_case(STAGING) => InvalidPath::Staging,
        _ if is_reserved(name) => InvalidPath::Reserved,
        _ => return Ok(()),
    };
    Err(wrong)
}

/// Windows reserves these with any extension, in any case, and with superscript digits too.
fn is_reserved(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name).trim_end().to_ascii_uppercase();
    if matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$") {
        return true;
    }
    let Some(port) = stem.strip_prefix("COM").or_else(|| stem.strip_prefix("LPT")) else { return false };
    matches!(port, "0" | "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "9" | "¹" | "²" | "³")
}
