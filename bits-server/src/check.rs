//! What `check` says besides the configuration: whether files can be used, and what is likely not
//! meant.

use crate::{
    auth::Authentication,
    cli::Failure,
    config::{AuthScheme, ClientCertificate, Config, ListenerConfig, StorageUrl},
    start, stores,
};

/// Reads the files that the configuration names, users' too. Returns what is odd but no reason not to serve.
pub(crate) fn run(config: &Config) -> Result<Vec<String>, Failure> {
    Authentication::open(config).map_err(Failure::Usage)?;
    stores::check(config).map_err(Failure::Usage)?;
    let mut warnings: Vec<String> = plain_listeners(config).collect();
    let admin = config.admin.listener();
    let tables = config.listeners.iter().map(|one| (one, "listeners")).chain(admin.iter().map(|one| (one, "admin")));
    for (listener, table) in tables {
        if let Some((_, odd)) = start::open_tls(listener, table)? {
            warnings.extend(odd);
        }
    }
    for listener in &config.listeners {
        warnings.extend(optional_certificates(listener));
    }
    warnings.extend(unfinished_multiparts(config));
    Ok(warnings)
}

/// Listeners on which nobody can log in by a password, since it could be read on the way.
pub(crate) fn plain_listeners(config: &Config) -> impl Iterator<Item = String> {
    let basic = config.directories.iter().any(|one| one.authentication.contains(&AuthScheme::Basic));
    let listed = config.listen.iter().copied();
    let listeners = config.listeners.iter().filter(|one| one.certificate.is_none() && !one.allow_plain_basic);
    let plain = listed.chain(listeners.map(|one| one.address));
    let open = plain.filter(move |address| basic && !address.ip().to_canonical().is_loopback());
    open.map(|address| {
        format!(
            "{address}: takes no passwords, since it is plain HTTP: \"basic\" is neither offered nor looked at there \
             unless one of trusted_proxies says that the client came by https; use [[listeners]] with a certificate, or \
             set allow_plain_basic there"
        )
    })
}

fn unfinished_multiparts(config: &Config) -> Option<String> {
    let own = config.directories.iter().filter_map(|one| one.storage_url.as_ref());
    let is_object = |url: &StorageUrl| matches!(url, StorageUrl::Object(_));
    let timeout = config.directories.iter().map(|one| one.session_timeout).max()?;
    own.chain([&config.storage.url]).any(is_object).then(|| {
        let days = timeout.as_secs().div_ceil(24 * 60 * 60) + 1;
        format!(
            "storage: it cannot be seen from here whether the bucket has a rule that deletes unfinished multipart uploads \
             after {days} days, one more than the longest session_timeout: without it, what a crash leaves stays forever"
        )
    })
}

fn optional_certificates(listener: &ListenerConfig) -> Option<String> {
    (listener.client_certificate == ClientCertificate::Optional).then(|| {
        format!(
            "listeners: {}: client_certificate = \"optional\": jobs of Windows that have no certificate fail \
             (0x80072F0C) instead of going on without one; give them a listener of their own",
            listener.address
        )
    })
}
