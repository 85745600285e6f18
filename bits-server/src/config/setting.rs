//! The types that a key can have: how each is read from a file or the environment, and shown.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bits_core::{InvalidPath, PublishAt, StorageKey, StoreAs};
use http::StatusCode;
use ipnet::IpNet;
use reqwest::Url;

use super::object::ObjectUrl;
use super::secret::Secret;
use super::units::{Mode, Size, check_size, parse_duration, parse_mode, parse_size, show_mode, show_size, show_time};

/// The longest `BITS-Host-Id` that clients take.
const LONGEST_HOST: usize = 300;

/// A value as it was given, before its key says what it must be. The environment gives text only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Raw {
    Text(String),
    Integer(i128),
    Bool(bool),
    List(Vec<Raw>),
    /// A table with its keys.
    Table(Vec<(String, Raw)>),
    /// Something that no key takes, by its name.
    Other(&'static str),
}

impl Raw {
    pub(super) fn text(&self, expected: &str) -> Result<&str, String> {
        match self {
            Self::Text(text) => Ok(text),
            _ => Err(self.not(expected)),
        }
    }

    /// Says that another kind of value is wanted.
    pub(super) fn not(&self, expected: &str) -> String {
        let found = match self {
            Self::Text(_) => "text",
            Self::Integer(_) => "a number",
            Self::Bool(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(name) => name,
        };
        format!("found {found}; write {expected}")
    }
}

/// A type that a key can have.
pub(super) trait Setting: Sized + PartialEq {
    /// What is written where there is no value.
    const ABSENT: &'static str = "";

    /// Whether it may hold a secret.
    const SECRET: bool = false;

    /// Reads and checks a value; the error says what was wrong and what to do.
    fn read(raw: &Raw) -> Result<Self, String>;

    /// The value as TOML.
    fn show(&self) -> String;

    /// The value of a declared default.
    fn declared(default: &str) -> Self {
        Self::read(&Raw::Text(default.to_owned())).expect("declared defaults are well formed, which a test checks")
    }
}

/// Which database holds the sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateUrl {
    /// A SQLite database in this file.
    Sqlite(PathBuf),
    /// A PostgreSQL database.
    Postgres(PostgresUrl),
}

/// The URL of a PostgreSQL database, which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresUrl(Secret);

impl PostgresUrl {
    /// The URL with its password: for connecting, never for a message.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// The files that its parameters name: certificates and a key.
    pub fn files(&self) -> Vec<PathBuf> {
        let Ok(url) = Url::parse(self.expose()) else { return Vec::new() };
        let names = ["sslrootcert", "ssl-root-cert", "ssl-ca", "sslcert", "ssl-cert", "sslkey", "ssl-key"];
        let named = url.query_pairs().filter(|(name, _)| names.contains(&name.as_ref()));
        named.map(|(_, path)| PathBuf::from(path.into_owned())).collect()
    }

    fn read(raw: &Raw) -> Result<Self, String> {
        if !cfg!(feature = "postgres") {
            return Err(
                "this program was built without PostgreSQL (feature `postgres`); write \"sqlite:PATH\"".to_owned()
            );
        }
        let secret = Secret::read(raw)?;
        let url = Url::parse(secret.expose()).ok().filter(|url| url.has_host() || url.query().is_some());
        let advice =
            "is no URL; write \"postgres://USER:PASSWORD@HOST/DATABASE\", with %XX for what is special in them";
        url.map(|_| Self(secret)).ok_or_else(|| advice.to_owned())
    }

    /// The URL without its password and parameters, among which there may be another.
    fn shown(&self) -> String {
        let Ok(mut url) = Url::parse(self.expose()) else { return String::new() };
        if url.password().is_some() {
            // It has a host to have a password for.
            let _ = url.set_password(Some("hidden"));
        }
        if url.query().is_some() {
            url.set_query(Some("hidden"));
        }
        url.to_string()
    }
}

/// Which storage holds the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageUrl {
    /// A folder of the local disk.
    File(PathBuf),
    /// A bucket or container, with a prefix or without.
    Object(ObjectUrl),
}

/// When received bytes are forced to stable storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Now and then, and before the last ack of an upload.
    Checkpoint,
    /// Before the ack of every fragment.
    Fragment,
}

/// Whether clients are asked for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    /// They are not.
    None,
    /// They are asked, and may have none.
    Optional,
    /// Without one there is no connection.
    Required,
}

/// The path that a directory answers for: `/`, or names that each follow a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlPath {
    path: String,
    names: StorageKey,
}

impl UrlPath {
    /// The path, with its leading slash.
    pub fn as_str(&self) -> &str {
        &self.path
    }

    /// The path without its slashes, as a folder below a storage.
    pub fn storage_path(&self) -> &StorageKey {
        &self.names
    }
}

/// The name or address of a host, without port or brackets (section 2.2.3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName(String);

impl HostName {
    /// The host as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T: Setting> Setting for Option<T> {
    const SECRET: bool = T::SECRET;

    fn read(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Text(text) if text == T::ABSENT => Ok(None),
            _ => T::read(raw).map(Some),
        }
    }

    fn show(&self) -> String {
        self.as_ref().map_or_else(|| quoted(T::ABSENT), T::show)
    }
}

impl<T: Setting> Setting for Vec<T> {
    const SECRET: bool = T::SECRET;

    fn read(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::List(items) => items.iter().map(T::read).collect(),
            Raw::Text(text) if text.trim().is_empty() => Ok(Vec::new()),
            Raw::Text(text) => text.split(',').map(|item| T::read(&Raw::Text(item.trim().to_owned()))).collect(),
            _ => Err(raw.not("a list in brackets")),
        }
    }

    fn show(&self) -> String {
        format!("[{}]", self.iter().map(T::show).collect::<Vec<_>>().join(", "))
    }
}

impl Setting for String {
    fn read(raw: &Raw) -> Result<Self, String> {
        raw.text("text in quotes").map(str::to_owned)
    }

    fn show(&self) -> String {
        quoted(self)
    }
}

impl Setting for bool {
    fn read(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Bool(value) => Ok(*value),
            Raw::Text(text) => {
                text.parse().map_err(|_| format!("{text:?} is neither true nor false; write one of them"))
            }
            _ => Err(raw.not("true or false")),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for u32 {
    const ABSENT: &'static str = "unlimited";

    fn read(raw: &Raw) -> Result<Self, String> {
        let (number, text) = match raw {
            Raw::Integer(number) => (Self::try_from(*number).ok(), number.to_string()),
            Raw::Text(text) => (text.parse().ok(), format!("{text:?}")),
            _ => return Err(raw.not("a number")),
        };
        let range = || format!("{text} is out of range; write a whole number from 1 to {}", Self::MAX);
        number.filter(|number| *number > 0).ok_or_else(range)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for Size {
    const ABSENT: &'static str = "unlimited";

    fn read(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Integer(number) if *number < 0 => Err("must be more than 0 bytes".to_owned()),
            Raw::Integer(number) => check_size(u64::try_from(*number).ok(), &number.to_string()),
            Raw::Text(text) => parse_size(text),
            _ => Err(raw.not("a size, such as \"64MiB\"")),
        }
    }

    fn show(&self) -> String {
        let text = show_size(*self);
        if text.bytes().all(|byte| byte.is_ascii_digit()) { text } else { quoted(&text) }
    }
}

impl Setting for Duration {
    fn read(raw: &Raw) -> Result<Self, String> {
        parse_duration(raw.text("a time with its unit, such as \"30s\"")?)
    }

    fn show(&self) -> String {
        quoted(&show_time(*self))
    }
}

impl Setting for Mode {
    fn read(raw: &Raw) -> Result<Self, String> {
        parse_mode(raw.text("octal digits in quotes, such as \"0640\"")?)
    }

    fn show(&self) -> String {
        quoted(&show_mode(*self))
    }
}

impl Setting for PathBuf {
    fn read(raw: &Raw) -> Result<Self, String> {
        match raw.text("a path in quotes")? {
            "" => Err("is empty; write a path".to_owned()),
            path => Ok(Self::from(path)),
        }
    }

    fn show(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

impl Setting for SocketAddr {
    fn read(raw: &Raw) -> Result<Self, String> {
        let text = raw.text("an address in quotes, such as \"127.0.0.1:8080\"")?;
        // A port alone is taken for this machine only, the narrower reading.
        let full = if text.starts_with(':') { format!("127.0.0.1{text}") } else { text.to_owned() };
        let bad = |_| {
            format!(
                "{text:?} is no address; write an IP address and a port, such as \"127.0.0.1:8080\" or \"[::1]:8080\""
            )
        };
        full.parse().map_err(bad)
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Setting for StateUrl {
    const SECRET: bool = true;

    fn read(raw: &Raw) -> Result<Self, String> {
        let text = raw.text("\"sqlite:PATH\" or \"postgres://…\"")?;
        match text.split_once(':') {
            Some(("sqlite", ":memory:")) => {
                Err("a database in memory would forget every upload; write \"sqlite:PATH\"".to_owned())
            }
            Some(("sqlite", path)) => url_path(path, "sqlite").map(Self::Sqlite),
            Some(("postgres" | "postgresql", _)) => PostgresUrl::read(raw).map(Self::Postgres),
            _ => Err("names no known database; write \"sqlite:PATH\" or \"postgres://…\"".to_owned()),
        }
    }

    fn show(&self) -> String {
        quoted(&match self {
            Self::Sqlite(path) => format!("sqlite:{}", path.display()),
            Self::Postgres(url) => url.shown(),
        })
    }
}

impl Setting for StorageUrl {
    fn read(raw: &Raw) -> Result<Self, String> {
        let text = raw.text("\"file:\" or \"file:PATH\"")?;
        match text.split_once(':') {
            Some(("file", path)) => url_path(path, "file").map(Self::File),
            Some(("s3" | "gs" | "az", _)) => ObjectUrl::parse(text).map(Self::Object),
            _ => Err("names no known storage; write \"file:\" or \"file:PATH\"".to_owned()),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::File(path) => quoted(&format!("file:{}", path.display())),
            Self::Object(url) => quoted(url.as_str()),
        }
    }
}

impl Setting for Sync {
    fn read(raw: &Raw) -> Result<Self, String> {
        one_of(raw, &[("checkpoint", Self::Checkpoint), ("fragment", Self::Fragment)])
    }

    fn show(&self) -> String {
        quoted(match self {
            Self::Checkpoint => "checkpoint",
            Self::Fragment => "fragment",
        })
    }
}

impl Setting for ClientCertificate {
    fn read(raw: &Raw) -> Result<Self, String> {
        one_of(raw, &[("none", Self::None), ("optional", Self::Optional), ("required", Self::Required)])
    }

    fn show(&self) -> String {
        quoted(match self {
            Self::None => "none",
            Self::Optional => "optional",
            Self::Required => "required",
        })
    }
}

impl Setting for IpNet {
    fn read(raw: &Raw) -> Result<Self, String> {
        let text = raw.text("an address in quotes, such as \"192.0.2.1\"")?;
        let address = text.parse::<IpAddr>().map(|address| Self::from(address.to_canonical()));
        address.or_else(|_| text.parse()).map_err(|_| {
            format!("{text:?} is no address; write one or a network, such as \"192.0.2.1\" or \"2001:db8::/32\"")
        })
    }

    fn show(&self) -> String {
        let single = self.prefix_len() == self.max_prefix_len();
        quoted(&if single { self.addr().to_string() } else { self.to_string() })
    }
}

impl Setting for PublishAt {
    fn read(raw: &Raw) -> Result<Self, String> {
        one_of(raw, &[("last-fragment", Self::LastFragment), ("close-session", Self::CloseSession)])
    }

    fn show(&self) -> String {
        quoted(match self {
            Self::LastFragment => "last-fragment",
            Self::CloseSession => "close-session",
        })
    }
}

impl Setting for StatusCode {
    fn read(raw: &Raw) -> Result<Self, String> {
        match u32::read(raw) {
            Ok(403) => Ok(Self::FORBIDDEN),
            Ok(409) => Ok(Self::CONFLICT),
            _ => Err("must be 403 or 409".to_owned()),
        }
    }

    fn show(&self) -> String {
        self.as_u16().to_string()
    }
}

impl Setting for UrlPath {
    fn read(raw: &Raw) -> Result<Self, String> {
        let text = raw.text("a path in quotes, such as \"/upload\"")?;
        let names = text.strip_prefix('/').ok_or(InvalidPath::NotAbsolute).and_then(StorageKey::parse);
        let names = names.map_err(|wrong| format!("{wrong}; write one such as \"/upload\""))?;
        Ok(Self { path: text.to_owned(), names })
    }

    fn show(&self) -> String {
        quoted(&self.path)
    }
}

impl Setting for StorageKey {
    fn read(raw: &Raw) -> Result<Self, String> {
        let text = raw.text("a folder in quotes, such as \"upload\"")?;
        Self::parse(text).map_err(|wrong| format!("{wrong}; write names joined by slashes, such as \"team/upload\""))
    }

    fn show(&self) -> String {
        quoted(self.as_str())
    }
}

impl Setting for StoreAs {
    fn read(raw: &Raw) -> Result<Self, String> {
        let text = raw.text("a template in quotes, such as \"{path}\"")?;
        Self::parse(text).map_err(|wrong| wrong.to_string())
    }

    fn show(&self) -> String {
        quoted(self.as_str())
    }
}

impl Setting for HostName {
    fn read(raw: &Raw) -> Result<Self, String> {
        let text = raw.text("a host in quotes")?;
        if text.len() > LONGEST_HOST {
            return Err(format!("is {} characters long; write at most {LONGEST_HOST}", text.len()));
        }
        if !is_host(text) {
            return Err(format!(
                "{text:?} is no host; write a name or an address, without port or brackets, such as \"node1.example\""
            ));
        }
        Ok(Self(text.to_owned()))
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

/// `text` as a TOML string.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

pub(super) fn one_of<T: Copy>(raw: &Raw, choices: &[(&str, T)]) -> Result<T, String> {
    let names = choices.iter().map(|(name, _)| format!("{name:?}")).collect::<Vec<_>>().join(" or ");
    let text = raw.text(&names)?;
    let found = choices.iter().find(|(name, _)| *name == text);
    found.map(|(_, choice)| *choice).ok_or_else(|| format!("{text:?} is not known; write {names}"))
}

/// The path of `sqlite:PATH` or `file:PATH`. Two slashes would begin the name of a host, which a
/// relative path must not be mistaken for; three are an absolute path.
fn url_path(path: &str, scheme: &str) -> Result<PathBuf, String> {
    match path.strip_prefix("//") {
        Some(absolute) if absolute.starts_with('/') => Ok(Path::new(absolute).to_owned()),
        Some(_) => Err(format!("names a host; write \"{scheme}:PATH\" without slashes before a relative path")),
        None => Ok(PathBuf::from(path)),
    }
}

fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    text.parse::<Ipv6Addr>().is_ok() || text.split('.').all(label)
}
