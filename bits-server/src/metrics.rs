//! What is counted, and how Prometheus is told. Labels are words of this file, never of clients.

use std::sync::OnceLock;

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

pub(crate) fn connection_refused(reason: RefusedConnection) {
    counter!("bits_connections_refused_total", "reason" => reason.label()).increment(1);
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

fn describe() {
    use metrics::{describe_counter, describe_gauge};

    describe_gauge!("bits_connections", "Connections open on upload listeners.");
    describe_gauge!("bits_tls_handshakes", "TLS handshakes under way.");
    describe_counter!("bits_connections_total", "Connections accepted on upload listeners.");
    describe_counter!("bits_connections_refused_total", "Connections refused before a request was read.");
    describe_counter!("bits_failed_logins_total", "Logins that were tried and failed.");
    describe_counter!("bits_lockouts_total", "Addresses refused for a minute after too many failed logins.");
    describe_counter!("bits_tls_reloads_total", "Changes of TLS files, taken or not usable.");
}
