//! `[admin]`: its listener and who may use it, by the rules of `[[listeners]]` and directories.

use std::net::SocketAddr;
use std::path::Path;

use bits_core::Access;

use super::error::Problems;
use super::keys::Section;
use super::layers::Table;
use super::{Admin, AuthScheme, ClientCertificate, ListenerConfig, Root, access, listeners};

impl Admin {
    /// The listener; none where it is off.
    pub fn listener(&self) -> Option<ListenerConfig> {
        self.listen.map(|address| self.listener_at(address))
    }

    /// Who may use what is more than health and metrics.
    pub fn access(&self) -> Access {
        access::admitted(&self.authentication, &self.allow_users)
    }

    /// Whether what happens to sessions is remembered.
    pub fn remembers(&self) -> bool {
        self.listen.is_some()
    }

    fn listener_at(&self, address: SocketAddr) -> ListenerConfig {
        ListenerConfig {
            address,
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            client_ca: self.client_ca.clone(),
            client_crl: self.client_crl.clone(),
            client_certificate: self.client_certificate,
            proxy_protocol: false,
            allow_plain_basic: false,
        }
    }
}

/// Reads the table; paths start at `base`.
pub(super) fn read(table: &Table, base: &Path, root: &Root, problems: &mut Problems) -> Admin {
    let mut admin = Admin::read(table, problems);
    if let Some(mut listener) = admin.listener() {
        listener.resolve(base);
        (admin.certificate, admin.key) = (listener.certificate.clone(), listener.key.clone());
        (admin.client_ca, admin.client_crl) = (listener.client_ca.clone(), listener.client_crl.clone());
        for (name, message) in listeners::mistakes(&listener) {
            problems.add(table.location(name), format!("admin.{name}"), message);
        }
    }
    admin.htpasswd = admin.htpasswd.map(|path| base.join(path));
    for (name, message) in mistakes(&admin, root) {
        problems.add(table.location(name), format!("admin.{name}"), message);
    }
    admin
}

/// The keys that do not go together, each with what to do.
fn mistakes(admin: &Admin, root: &Root) -> Vec<(&'static str, &'static str)> {
    let mut mistakes = Vec::new();
    let schemes = &admin.authentication;
    let has = |scheme| schemes.contains(&scheme);
    if schemes.iter().enumerate().any(|(at, scheme)| schemes[..at].contains(scheme)) {
        mistakes.push(("authentication", "names a scheme twice; remove one"));
    }
    match (has(AuthScheme::Basic), &admin.htpasswd) {
        (true, None) => mistakes.push((
            "authentication",
            "\"basic\" needs htpasswd, a file of users; `bits-server password USER --file FILE` makes one",
        )),
        (false, Some(_)) => {
            mistakes.push(("htpasswd", "has no effect; add \"basic\" to authentication, or remove it"));
        }
        _ => {}
    }
    let plain = admin.certificate.is_none() && root.trusted_proxies.is_empty();
    if has(AuthScheme::Basic) && plain && admin.listen.is_some_and(|address| !address.ip().to_canonical().is_loopback())
    {
        mistakes.push((
            "authentication",
            "\"basic\" takes no passwords over plain HTTP from other machines; name a certificate and its key",
        ));
    }
    if admin.key.is_some() && admin.certificate.is_none() {
        mistakes.push(("key", "is not used without a certificate; name the file of the certificate, or remove it"));
    }
    if has(AuthScheme::Negotiate) {
        mistakes.push(("authentication", "\"negotiate\" is not for the admin listener; remove it"));
    }
    if has(AuthScheme::Certificate) && admin.client_certificate == ClientCertificate::None {
        mistakes.push((
            "authentication",
            "\"certificate\" needs client_certificate = \"optional\" or \"required\", and client_ca",
        ));
    }
    if has(AuthScheme::Proxy) && root.trusted_proxies.is_empty() {
        mistakes.push(("authentication", "\"proxy\" believes nobody without trusted_proxies; name the proxies there"));
    }
    if schemes.is_empty() && !admin.allow_users.is_empty() {
        mistakes
            .push(("allow_users", "nobody is asked who they are; add a way to log in to authentication, or remove it"));
    }
    mistakes
}
