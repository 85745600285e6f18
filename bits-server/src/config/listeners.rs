//! The rules that hold between the keys of `[[listeners]]`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use super::error::Problems;
use super::keys::Section;
use super::layers::{Layers, Table};
use super::{Admin, ClientCertificate, ListenerConfig, Root};

impl ListenerConfig {
    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let files = [&self.certificate, &self.key, &self.client_ca, &self.client_crl];
        files.into_iter().flatten().map(PathBuf::as_path)
    }

    /// Makes its paths start at `base`.
    pub(super) fn resolve(&mut self, base: &Path) {
        let paths = [&mut self.certificate, &mut self.key, &mut self.client_ca, &mut self.client_crl];
        for path in paths.into_iter().flatten() {
            *path = base.join(&*path);
        }
    }
}

/// Reads every `[[listeners]]`; paths start at `base`.
pub(super) fn read(
    layers: &Layers,
    base: &Path,
    root: &Root,
    admin: &Admin,
    problems: &mut Problems,
) -> Vec<ListenerConfig> {
    let tables = layers.repeated::<ListenerConfig>().unwrap_or_default();
    let listeners: Vec<_> = tables.iter().map(|table| listener(table, base, problems)).collect();
    for (at, (table, listener)) in tables.iter().zip(&listeners).enumerate() {
        let taken = address_taken(listener.address, &listeners[..at], root, admin);
        if let Some(by) = taken.filter(|_| listener.address.port() != 0) {
            let message = format!("{} is that of {by} too; give one of them another port", listener.address);
            problems.add(table.location("address"), "listeners.address", message);
        }
        if listener.proxy_protocol && root.trusted_proxies.is_empty() {
            let message = "takes nobody's connections without trusted_proxies; name the proxies there";
            problems.add(table.location("proxy_protocol"), "listeners.proxy_protocol", message);
        }
    }
    listeners
}

fn address_taken(address: SocketAddr, before: &[ListenerConfig], root: &Root, admin: &Admin) -> Option<&'static str> {
    if before.iter().any(|other| other.address == address) {
        return Some("another listener");
    }
    if root.listen.contains(&address) {
        return Some("listen");
    }
    (admin.listen == Some(address)).then_some("admin.listen")
}

fn listener(table: &Table, base: &Path, problems: &mut Problems) -> ListenerConfig {
    let mut listener = ListenerConfig::read(table, problems);
    if listener.certificate.is_none() {
        listener.key = None;
    }
    listener.resolve(base);
    for (name, message) in mistakes(&listener) {
        problems.add(table.location(name), format!("listeners.{name}"), message);
    }
    listener
}

/// The keys that do not go together, each with what to do.
pub(super) fn mistakes(listener: &ListenerConfig) -> Vec<(&'static str, &'static str)> {
    let mut mistakes = Vec::new();
    let tls = listener.certificate.is_some();
    let asked = listener.client_certificate != ClientCertificate::None;
    if tls && listener.key.is_none() {
        mistakes.push(("key", "is empty, but there is a certificate; name the file of its private key"));
    }
    if asked && !tls {
        mistakes.push(("client_certificate", "needs TLS; name a certificate and its key"));
    }
    if asked && listener.client_ca.is_none() {
        mistakes.push(("client_certificate", "needs client_ca, the authorities that clients' certificates come from"));
    }
    if !asked && listener.client_ca.is_some() {
        mistakes.push((
            "client_ca",
            "is not used while client_certificate is \"none\"; write \"optional\" or \"required\" there",
        ));
    }
    if listener.client_crl.is_some() && listener.client_ca.is_none() {
        mistakes.push(("client_crl", "is not used without client_ca; name the authorities there"));
    }
    if listener.allow_plain_basic && tls {
        mistakes.push(("allow_plain_basic", "makes no sense with TLS; remove it"));
    }
    mistakes
}
