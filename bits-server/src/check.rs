//! What `check` says besides the configuration: whether files can be used, and what is likely not
//! meant.

use crate::{
    cli::Failure,
    config::{ClientCertificate, Config, ListenerConfig},
    start,
};

/// Reads the files that the configuration names. Returns what is odd but no reason not to serve.
pub(crate) fn run(config: &Config) -> Result<Vec<String>, Failure> {
    let mut warnings = Vec::new();
    for listener in &config.listeners {
        if let Some((_, odd)) = start::open_tls(listener)? {
            warnings.extend(odd);
        }
        warnings.extend(optional_certificates(listener));
    }
    Ok(warnings)
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
