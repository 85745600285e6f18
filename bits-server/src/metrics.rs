//! What is counted, and how Prometheus is told. Labels are words of this file, never of clients.

use std::sync::OnceLock;

use bits_core::{Ack, BodyError, Refusal};
use metrics::{counter, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

static EXPORTER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Counts from now on, for `/metrics` on the admin listener. Does nothing where the process has
/// another recorder of the `metrics` crate already, which then is told everything.
pub fn install() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let exporter = recorder.handle();
    if metrics::set_global_recorder(recorder).is_ok() {
        describe();
        let _ = EXPORTER.set(exporter);
    }
}

/// Everything counted so far in Prometheus' text; none before [`install`].
pub(crate) fn render() -> Option<String> {
    let exporter = EXPORTER.get()?;
    exporter.run_upkeep();
    Some(exporter.render())
}

/// Why a connection was refused before a request was read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RefusedConnection {
    /// `limits.connections` were open.
    Connections,
    /// `limits.connections_per_address` were open of its address.
    ConnectionsPerAddress,
    /// It came to a listener for trusted proxies from elsewhere.
    UntrustedProxy,
    /// Its PROXY header was wrong.
    ProxyHeader,
    /// Its TLS handshake failed.
    Handshake,
    /// PROXY header and TLS handshake took longer than `limits.header_timeout`.
    OpeningTimeout,
}

impl RefusedConnection {
    fn label(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectionsPerAddress => "connections_per_address",
            Self::UntrustedProxy => "untrusted_proxy",
            Self::ProxyHeader => "proxy_header",
            Self::Handshake => "tls_handshake",
            Self::OpeningTimeout => "opening_timeout",
        }
    }
}

/// A request to an object store.
#[cfg(all(feature = "fs", feature = "sqlite", any(feature = "s3", feature = "gcs", feature = "azure")))]
pub(crate) fn object_store_request(request: bits_store_object::Request) {
    counter!("bits_object_store_requests_total", "request" => request.as_str()).increment(1);
}

pub(crate) fn connection_refused(reason: RefusedConnection) {
    counter!("bits_connections_refused_total", "reason" => reason.label()).increment(1);
}

/// A packet that was answered. `kind` is one of the protocol's words, or `unknown`.
pub(crate) fn packet(kind: &'static str, ack: &Ack) {
    counter!("bits_packets_total", "packet" => kind).increment(1);
    if let Some(refusal) = &ack.refusal {
        counter!("bits_packets_refused_total", "reason" => refusal_label(refusal)).increment(1);
    }
}

/// Bytes of a body that were read.
pub(crate) fn received(bytes: usize) {
    counter!("bits_received_bytes_total").increment(bytes as u64);
}

/// A body that ended early, so that nobody is answered.
pub(crate) fn body_ended(error: BodyError) {
    let reason = match error {
        BodyError::Disconnected => "disconnected",
        BodyError::Idle => "idle_timeout",
        BodyError::Slow => "minimum_rate",
        BodyError::Cut => "cut",
        BodyError::Length => "length",
        _ => "other",
    };
    counter!("bits_bodies_ended_early_total", "reason" => reason).increment(1);
}

fn refusal_label(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Unauthenticated => "unauthenticated",
        Refusal::TooManyLogins => "failed_logins",
        Refusal::SessionNotFound => "session_not_found",
        Refusal::AccessDenied => "access_denied",
        Refusal::DestinationExists { .. } => "destination_exists",
        Refusal::UploadsDisabled => "uploads_disabled",
        Refusal::PathNotFound => "path_not_found",
        Refusal::ParentMissing => "parent_missing",
        Refusal::Malformed(_) => "malformed",
        Refusal::DestinationIsFolder => "destination_is_folder",
        Refusal::InvalidName(_) => "invalid_name",
        Refusal::Gap { .. } => "gap",
        Refusal::TooLarge => "upload_too_large",
        Refusal::FragmentTooLarge => "fragment_too_large",
        Refusal::DiskFull => "disk_full",
        Refusal::OverQuota => "over_quota",
        Refusal::SessionLimit => "session_limit",
        Refusal::Unavailable => "unavailable",
        Refusal::StagedDataVanished => "staged_data_vanished",
        Refusal::Internal => "internal",
        refusal if refusal.is_application() => "application",
        _ => "other",
    }
}

pub(crate) fn tls_reload(done: bool) {
    counter!("bits_tls_reloads_total", "result" => if done { "done" } else { "failed" }).increment(1);
}

pub(crate) fn login_failed() {
    counter!("bits_failed_logins_total").increment(1);
}

pub(crate) fn address_locked_out() {
    counter!("bits_lockouts_total").increment(1);
}

/// Something that lasts, counted while it does.
#[derive(Debug)]
pub(crate) struct Lasting(&'static str);

impl Lasting {
    /// An open connection, served or being refused.
    pub(crate) fn connection() -> Self {
        counter!("bits_connections_total").increment(1);
        Self::begin("bits_connections")
    }

    /// A TLS handshake under way.
    pub(crate) fn handshake() -> Self {
        Self::begin("bits_tls_handshakes")
    }

    fn begin(name: &'static str) -> Self {
        gauge!(name).increment(1);
        Self(name)
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        gauge!(self.0).decrement(1);
    }
}

/// Every gauge and counter; `docs/metrics.md` has the labels.
const GAUGES: &[(&str, &str)] = &[
    ("bits_connections", "Connections open on upload listeners."),
    ("bits_tls_handshakes", "TLS handshakes under way."),
];
const COUNTERS: &[(&str, &str)] = &[
    ("bits_connections_total", "Connections accepted on upload listeners."),
    ("bits_connections_refused_total", "Connections refused before a request was read."),
    ("bits_failed_logins_total", "Logins that were tried and failed."),
    ("bits_lockouts_total", "Addresses refused for a minute after too many failed logins."),
    ("bits_packets_total", "BITS packets answered."),
    ("bits_packets_refused_total", "BITS packets answered with a refusal."),
    ("bits_received_bytes_total", "Bytes of bodies that were read, kept or not."),
    ("bits_bodies_ended_early_total", "Bodies that ended early; what came of them is kept."),
    ("bits_object_store_requests_total", "Requests to object stores."),
    ("bits_tls_reloads_total", "Changes of TLS files, taken or not usable."),
];

fn describe() {
    GAUGES.iter().for_each(|(name, about)| metrics::describe_gauge!(*name, *about));
    COUNTERS.iter().for_each(|(name, about)| metrics::describe_counter!(*name, *about));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_documented_with_what_it_is() {
        let documented = include_str!("../../docs/metrics.md");
        for (name, about) in GAUGES.iter().chain(COUNTERS) {
            let row = documented.lines().find(|line| line.starts_with(&format!("| `{name}`")));
            assert!(row.is_some_and(|row| row.contains(about.trim_end_matches('.'))), "{name}");
        }
    }

    #[test]
    fn every_counted_name_is_described() {
        let source = include_str!("metrics.rs");
        let counted = source.split("counter!(\"").chain(source.split("gauge!(\"")).skip(1);
        let names = counted.filter_map(|rest| rest.split('"').next()).filter(|name| name.starts_with("bits_"));
        for name in names {
            assert!(GAUGES.iter().chain(COUNTERS).any(|(described, _)| *described == name), "{name}");
        }
    }
}
