//! Keys about object stores: their URL, and options whose values are secrets unless known not to be.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use bits_core::PublishAt;
use reqwest::Url;

use super::error::Problems;
use super::layers::Table;
use super::secret::{self, Secret};
use super::setting::{Raw, Setting, StorageUrl, quoted};
use super::{DirectoryConfig, Size};

/// One copy within Amazon's S3 takes no more: 5 GiB.
const LARGEST_S3_COPY: Size = Size(5 << 30);
/// Options that anybody may see.
const PLAIN: [&str; 14] = [
    "account_name",
    "allow_http",
    "allow_invalid_certificates",
    "base_url",
    "conditional_put",
    "container_name",
    "copy_if_not_exists",
    "default_region",
    "endpoint",
    "region",
    "s3_express",
    "skip_signature",
    "use_emulator",
    "virtual_hosted_style_request",
];
/// Options that name a file for the store's own code, which reads it again and again.
const FILES: [&str; 8] = [
    "application_credentials",
    "container_authorization_token_file",
    "federated_token_file",
    "google_application_credentials",
    "google_service_account",
    "service_account",
    "service_account_path",
    "web_identity_token_file",
];

/// The URL of a bucket or container, with a prefix or without: `s3://BUCKET/PREFIX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectUrl(String);

impl ObjectUrl {
    /// Reads it; the error says what is wrong without the URL, which may hold a password.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let scheme = text.split(':').next().unwrap_or_default();
        let (store, is_built) = match scheme {
            "s3" => ("s3", cfg!(feature = "s3")),
            "gs" => ("gcs", cfg!(feature = "gcs")),
            _ => ("azure", cfg!(feature = "azure")),
        };
        if !is_built {
            return Err(format!(
                "{scheme}: needs a server that was built with the feature {store:?}; write \"file:\" or \"file:PATH\""
            ));
        }
        let is_whole = |url: &Url| {
            url.host_str().is_some_and(|host| !host.is_empty())
                && url.username().is_empty()
                && url.password().is_none()
                && url.port().is_none()
                && url.query().is_none()
                && url.fragment().is_none()
        };
        let url = Url::parse(text).ok().filter(is_whole);
        let url = url.ok_or_else(|| format!("is no bucket with a prefix; write \"{scheme}://BUCKET\" or \"{scheme}://BUCKET/PREFIX\", and credentials as [storage.options]"))?;
        Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
    }

    /// The URL without a slash at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Options of the object stores by their names.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StorageOptions(BTreeMap<String, Secret>);

impl StorageOptions {
    /// Names and values, which may be secrets.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.expose()))
    }

    /// Reads the values that files hold, and makes relative paths start at `base`. Returns all
    /// files that are named.
    pub(super) fn resolve(&mut self, base: &Path, table: &Table, problems: &mut Problems) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for (name, value) in std::mem::take(&mut self.0) {
            let own = FILES.contains(&name.as_str());
            let path = base.join(value.expose());
            let read = match name.strip_suffix("_file") {
                Some(option) if !own => {
                    secret::from_file(&path).and_then(|raw| Ok((option.to_owned(), Secret::read(&raw)?)))
                }
                _ if own => Secret::read(&Raw::Text(path.display().to_string())).map(|path| (name.clone(), path)),
                _ => {
                    self.0.insert(name, value);
                    continue;
                }
            };
            files.push(path);
            match read {
                Ok((option, value)) => drop(self.0.insert(option, value)),
                Err(message) => problems.add(table.location("options"), format!("storage.options.{name}"), message),
            }
        }
        files
    }
}

impl fmt::Debug for StorageOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show())
    }
}

impl Setting for StorageOptions {
    fn read(raw: &Raw) -> Result<Self, String> {
        match raw {
            Raw::Table(entries) => {
                entries.iter().map(|(name, value)| option(name, value)).collect::<Result<_, _>>().map(Self)
            }
            Raw::Text(text) if text.is_empty() => Ok(Self::default()),
            _ => Err(raw.not("a table")),
        }
    }

    fn show(&self) -> String {
        let shown = self.0.iter().map(|(name, value)| match value.expose() {
            text if is_plain(name, text) => format!("{} = {}", key(name), quoted(text)),
            _ => format!("{} = {}", key(name), value.show()),
        });
        let shown: Vec<_> = shown.collect();
        if shown.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", shown.join(", ")) }
    }
}

/// Directories whose uploads are copied to their destination can take no more than one copy does.
pub(super) fn check(table: &Table, directory: &DirectoryConfig, storage: &StorageUrl, problems: &mut Problems) {
    let url = directory.storage_url.as_ref().unwrap_or(storage);
    let on_s3 = matches!(url, StorageUrl::Object(url) if url.as_str().starts_with("s3:"));
    let waits = directory.publish == PublishAt::CloseSession || directory.notification_type.0.is_some();
    if on_s3 && waits && directory.maximum_upload_size.is_none_or(|size| size > LARGEST_S3_COPY) {
        let message = "must be at most \"5GiB\" on s3: where publish is \"close-session\" or a server application is \
                       notified: such uploads are copied to their destination, and S3 copies no more at once";
        problems.add(table.location("maximum_upload_size"), "directories.maximum_upload_size", message);
    }
}

fn option(name: &str, value: &Raw) -> Result<(String, Secret), String> {
    let text = match value {
        Raw::Text(text) => text.clone(),
        Raw::Integer(number) => number.to_string(),
        Raw::Bool(value) => value.to_string(),
        _ => return Err(format!("{name} is {}", value.not("text, a number, true or false"))),
    };
    let value = Secret::read(&Raw::Text(text)).map_err(|message| format!("{name} {message}"))?;
    Ok((name.to_ascii_lowercase(), value))
}

fn is_plain(name: &str, value: &str) -> bool {
    let known = PLAIN.contains(&name) || FILES.contains(&name);
    // An address may hold a password or a signature.
    known && !value.contains(['@', '?'])
}

/// A key of TOML.
fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if bare { name.to_owned() } else { quoted(name) }
}
