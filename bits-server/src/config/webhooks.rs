//! `[[webhooks]]`: its types, and the rules that hold between its keys.

use std::collections::HashMap;

use bits_core::{EventKind, Keep, Subscriber};
use reqwest::Url;
use sha2::{Digest, Sha256};

use super::error::Problems;
use super::keys::Section;
use super::layers::{Layers, Table};
use super::setting::{Raw, Setting, quoted};
use super::{DirectoryConfig, WebhookConfig};
use crate::webhooks::{Signer, Webhook};

/// What `check` prints in place of a query.
const HIDDEN: &str = "<hidden>";
/// The longest name.
const LONGEST_NAME: usize = 100;

/// Where a webhook's events are sent. Its query may hold a secret and is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookUrl(Url);

impl std::fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.show())
    }
}

impl Setting for WebhookUrl {
    const SECRET: bool = true;

    fn read(raw: &Raw) -> Result<Self, String> {
        const ADVICE: &str = "write one such as \"https://hooks.example/bits\"";
        let text = raw.text("a URL in quotes")?;
        let url = Url::parse(text).map_err(|error| format!("is no URL: {error}; {ADVICE}"))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(format!("is neither HTTP nor HTTPS; {ADVICE}"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("holds a user name or password; sign the events with secret instead".to_owned());
        }
        if url.fragment().is_some() {
            return Err("has a fragment, which is never sent; remove it with its #".to_owned());
        }
        if text.ends_with(HIDDEN) {
            return Err("holds what check prints in place of a query; write the query".to_owned());
        }
        Ok(Self(url))
    }

    fn show(&self) -> String {
        let Some(query) = self.0.query() else { return quoted(self.0.as_str()) };
        quoted(&format!("{}{HIDDEN}", self.0.as_str().strip_suffix(query).unwrap_or_default()))
    }
}

impl Setting for EventKind {
    fn read(raw: &Raw) -> Result<Self, String> {
        let names = || EventKind::ALL.map(|kind| format!("{:?}", kind.as_str())).join(", ");
        let text = raw.text("the names of events in quotes")?;
        let found = EventKind::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is no event; there are {}", names()))
    }

    fn show(&self) -> String {
        quoted(self.as_str())
    }
}

impl WebhookConfig {
    /// The webhook as the outbox sees it.
    pub fn subscriber(&self) -> Subscriber {
        Subscriber {
            name: self.name.clone(),
            kinds: self.events.clone(),
            directories: self.directories.iter().map(|path| path.as_str().to_owned()).collect(),
        }
    }

    /// The webhook as it is sent to; none without a URL, which is reported when it is read.
    pub fn webhook(&self) -> Option<Webhook> {
        Some(Webhook {
            name: self.name.clone(),
            url: self.url.as_ref()?.0.clone(),
            signer: self.secret.as_ref().and_then(|secret| Signer::new(secret.expose()).ok()),
            timeout: self.timeout,
            keep: Keep { age: self.maximum_age, count: u64::from(self.maximum_pending) },
        })
    }
}

/// Reads every `[[webhooks]]`.
pub(super) fn read(layers: &Layers, directories: &[DirectoryConfig], problems: &mut Problems) -> Vec<WebhookConfig> {
    let tables = layers.repeated::<WebhookConfig>().unwrap_or_default();
    let webhooks: Vec<_> = tables.iter().map(|table| webhook(table, directories, problems)).collect();
    check_unique(tables, &webhooks, problems);
    webhooks
}

fn webhook(table: &Table, directories: &[DirectoryConfig], problems: &mut Problems) -> WebhookConfig {
    let mut webhook = WebhookConfig::read(table, problems);
    let mut report = |name: &str, message: String| {
        problems.add(table.location(name), format!("webhooks.{name}"), message);
    };
    match &webhook.url {
        Some(url) if webhook.name.is_empty() => webhook.name = name_of(&url.0),
        Some(_) => {}
        None if table.has("url") => {}
        None => report("url", "is missing; write where events are to be sent".to_owned()),
    }
    if !is_name(&webhook.name) && webhook.url.is_some() {
        let message = format!(
            "{:?} is no name; write at most {LONGEST_NAME} letters, digits, dots, dashes and underscores",
            webhook.name
        );
        report("name", message);
    }
    if let Some(Err(message)) = webhook.secret.as_ref().map(|secret| Signer::new(secret.expose())) {
        report("secret", message);
    }
    for path in &webhook.directories {
        let known = |one: &DirectoryConfig| one.url_path.as_str().eq_ignore_ascii_case(path.as_str());
        if !directories.iter().any(known) {
            report("directories", format!("{:?} is no directory's url_path; write one that there is", path.as_str()));
        }
    }
    webhook
}

fn check_unique(tables: &[Table], webhooks: &[WebhookConfig], problems: &mut Problems) {
    let mut seen = HashMap::new();
    for (table, webhook) in tables.iter().zip(webhooks).filter(|(_, webhook)| webhook.url.is_some()) {
        let location = table.location(if table.has("name") { "name" } else { "url" });
        if let Some(first) = seen.insert(webhook.name.as_str(), location) {
            let message = format!("the webhook at {first} has this name too; give each a name of its own");
            problems.add(location, "webhooks.name", message);
        }
    }
}

/// A name that stays the same while the URL does, and does not tell its path and query.
fn name_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).replace(':', "-");
    let digest = Sha256::digest(url.as_str());
    let digits: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let host: String = host.chars().take(LONGEST_NAME - 1 - digits.len()).collect();
    format!("{host}-{digits}")
}

fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<WebhookUrl, String> {
        WebhookUrl::read(&Raw::Text(text.to_owned()))
    }

    #[test]
    fn a_query_is_not_shown() {
        let url = url("https://h.example:8443/a?token=planted").unwrap();
        assert_eq!(url.show(), "\"https://h.example:8443/a?<hidden>\"");
        assert_eq!(format!("{url:?}"), "\"https://h.example:8443/a?<hidden>\"");
    }

    #[test]
    fn urls_that_cannot_be_used_are_refused_without_showing_them() {
        for text in [
            "planted",
            "/planted",
            "ftp://h/planted",
            "mailto:planted@h",
            "http://planted@h/",
            "http://u:planted@h/",
            "http://h/#planted",
            "http://h/?<hidden>",
            "http://",
            "http://pla nted/",
        ] {
            let message = url(text).expect_err(text);
            assert!(!message.contains("planted"), "{message}");
        }
    }

    #[test]
    fn names_are_made_of_hosts() {
        let name = |text: &str| name_of(&url(text).unwrap().0);
        let names = ["http://h.example/a", "http://h.example/b", "https://h.example/a", "http://h.example/a?x=1"];
        let names: std::collections::BTreeSet<_> = names.map(name).into();
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(names.iter().all(|name| name.starts_with("h.example-") && is_name(name)), "{names:?}");
        for text in ["http://[2001:db8::1]:80/", &format!("http://{}/", vec!["a".repeat(50); 4].join("."))] {
            assert!(is_name(&name(text)), "{}", name(text));
        }
    }
}
