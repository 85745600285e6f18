//! What is counted, and how Prometheus is told. Labels are words of this file, never of clients.

use std::{sync::OnceLock, time::Duration};

use bits_core::{Ack, BodyError, Refusal, SessionEvent, SessionEventKind, State, Tally};
use bits_engine::{Answer, Chore, NotifyError, Sweep};
use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Upper bounds of what takes time, in seconds: from a cached row to a large file on a slow line.
const BUCKETS: [f64; 9] = [0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 300.0];
/// Idleness of sessions that is counted.
pub(crate) const IDLE: [(Duration, &str); 3] = [
    (Duration::from_secs(60 * 60), "1h"),
    (Duration::from_secs(24 * 60 * 60), "1d"),
    (Duration::from_secs(3 * 24 * 60 * 60), "3d"),
];
/// Features that not all builds have, and whether this one has them.
const FEATURES: [(&str, bool); 6] = [
    ("azure", cfg!(feature = "azure")),
    ("gcs", cfg!(feature = "gcs")),
    ("negotiate", cfg!(feature = "negotiate")),
    ("otlp", cfg!(feature = "otlp")),
    ("postgres", cfg!(feature = "postgres")),
    ("s3", cfg!(feature = "s3")),
];

static EXPORTER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Counts from now on, for `/metrics` on the admin listener. Does nothing where the process has
/// another recorder of the `metrics` crate already, which then is told everything.
pub fn install() {
    let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS);
    // It fails without buckets only.
    let recorder = builder.unwrap_or_default().build_recorder();
    let exporter = recorder.handle();
    if metrics::set_global_recorder(recorder).is_ok() {
        describe();
        gauge!("bits_build_info", "version" => env!("CARGO_PKG_VERSION"), "features" => features()).set(1.0);
        let _ = EXPORTER.set(exporter);
    }
}

fn features() -> String {
    let built: Vec<_> = FEATURES.iter().filter(|(_, built)| *built).map(|(name, _)| *name).collect();
    built.join(",")
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

/// A sync of an upload's bytes on local disk.
pub(crate) fn synced(took: Duration, done: bool) {
    histogram!("bits_sync_seconds", "result" => if done { "done" } else { "failed" }).record(took);
}

pub(crate) fn connection_refused(reason: RefusedConnection) {
    counter!("bits_connections_refused_total", "reason" => reason.label()).increment(1);
}

/// A packet that was answered, how long it took, and how long after its last byte the answer came.
/// `kind` is one of the protocol's words, or `unknown`.
pub(crate) fn packet(kind: &'static str, ack: &Ack, took: Duration, after_last_byte: Duration) {
    let outcome = match &ack.refusal {
        None => "done",
        Some(refusal) if refusal.is_ours() => "failed",
        Some(_) => "refused",
    };
    counter!("bits_packets_total", "packet" => kind, "outcome" => outcome).increment(1);
    histogram!("bits_packet_seconds", "packet" => kind).record(took);
    histogram!("bits_ack_seconds", "packet" => kind).record(after_last_byte);
    if let Some(refusal) = &ack.refusal {
        counter!("bits_packets_refused_total", "reason" => refusal_label(refusal)).increment(1);
    }
}

/// Bytes of a fragment that its ack confirmed.
pub(crate) fn acknowledged(bytes: u64) {
    counter!("bits_acknowledged_bytes_total").increment(bytes);
}

/// Something that happened to a session.
pub(crate) fn event(event: &SessionEvent) {
    match &event.kind {
        SessionEventKind::Created => counter!("bits_sessions_created_total").increment(1),
        SessionEventKind::Advanced { from } => {
            counter!("bits_stored_bytes_total").increment(event.session.received.saturating_sub(*from));
        }
        SessionEventKind::Regressed { from } => {
            counter!("bits_regressions_total").increment(1);
            counter!("bits_lost_bytes_total").increment(from.saturating_sub(event.session.received));
        }
        SessionEventKind::Published => counter!("bits_uploads_published_total").increment(1),
        SessionEventKind::PublishFailed { .. } => counter!("bits_publish_failures_total").increment(1),
        SessionEventKind::Delivered => counter!("bits_uploads_delivered_total").increment(1),
        SessionEventKind::NotificationFailed { .. } => counter!("bits_notification_failures_total").increment(1),
        SessionEventKind::Ended(ending) => {
            counter!("bits_sessions_ended_total", "ending" => ending.as_str()).increment(1);
        }
        _ => {}
    }
}

/// A method of a store, by words of this program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    /// `sessions` or `uploads`.
    pub(crate) store: &'static str,
    /// The method, or what it is for.
    pub(crate) name: &'static str,
}

/// A store that was asked for something.
pub(crate) fn store(operation: Operation, took: Duration, failed: bool) {
    let Operation { store, name } = operation;
    histogram!("bits_store_seconds", "store" => store, "operation" => name).record(took);
    if failed {
        counter!("bits_store_errors_total", "store" => store, "operation" => name).increment(1);
    }
}

/// A server application that was told of an upload.
pub(crate) fn notified(took: Duration, answer: &Result<Answer, NotifyError>) {
    let outcome = match answer {
        Ok(answer) if answer.status.is_success() => "taken",
        Ok(_) => "refused",
        Err(NotifyError::Timeout(_)) => "timeout",
        Err(NotifyError::Unreachable(_)) => "unreachable",
    };
    histogram!("bits_notification_seconds", "outcome" => outcome).record(took);
}

/// A piece of maintenance.
pub(crate) fn chore(chore: Chore) {
    let deleted = |kind, count| counter!("bits_leftovers_deleted_total", "kind" => kind).increment(count);
    match chore {
        Chore::Swept { outcome, took } => {
            let result = match outcome {
                Some(Sweep::Removed(_)) => "done",
                Some(Sweep::ClockJumped) => "clock_jumped",
                Some(Sweep::TooMany { .. }) => "too_many",
                None => "failed",
            };
            histogram!("bits_sweep_seconds", "result" => result).record(took);
        }
        Chore::Cleaned => deleted("session", 1),
        Chore::Orphans(objects) => deleted("object", objects),
        Chore::Forgotten(tombstones) => deleted("tombstone", tombstones),
        _ => {}
    }
}

/// How many sessions there are, by their state and by how long they made no progress.
pub(crate) fn sessions(tallies: &[Tally]) {
    for state in State::ALL {
        let of_state = || tallies.iter().filter(move |tally| tally.state == state);
        let all: u64 = of_state().map(|tally| tally.sessions).sum();
        gauge!("bits_sessions", "state" => state.as_str()).set(all as f64);
        for (at, (_, over)) in IDLE.iter().enumerate() {
            let idle: u64 = of_state().map(|tally| tally.idle[at]).sum();
            gauge!("bits_sessions_idle", "state" => state.as_str(), "over" => *over).set(idle as f64);
        }
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
        // One of another length than was said is answered.
        _ => "other",
    };
    counter!("bits_bodies_ended_early_total", "reason" => reason).increment(1);
}

/// A refusal in one word.
pub(crate) fn refusal_label(refusal: &Refusal) -> &'static str {
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
    ("bits_build_info", "What this server is; always 1."),
    ("bits_sessions", "Live sessions in the session database."),
    ("bits_sessions_idle", "Live sessions without progress for over some time."),
];
const COUNTERS: &[(&str, &str)] = &[
    ("bits_connections_total", "Connections accepted on upload listeners."),
    ("bits_connections_refused_total", "Connections refused before a request was read."),
    ("bits_failed_logins_total", "Logins that were tried and failed."),
    ("bits_lockouts_total", "Addresses refused for a minute after too many failed logins."),
    ("bits_acknowledged_bytes_total", "Bytes of fragments that acks confirmed, those that came again included."),
    ("bits_stored_bytes_total", "Bytes that uploads grew by."),
    ("bits_lost_bytes_total", "Bytes that were missing or doubtful, and are asked for again."),
    ("bits_regressions_total", "Uploads whose client was sent back."),
    ("bits_sessions_created_total", "Sessions created."),
    ("bits_sessions_ended_total", "Sessions ended."),
    ("bits_uploads_published_total", "Uploads put at their destination."),
    ("bits_uploads_delivered_total", "Uploads taken by their server application."),
    ("bits_publish_failures_total", "Uploads that could not be put at their destination, by try."),
    ("bits_notification_failures_total", "Uploads that their server application did not take, by try."),
    ("bits_store_errors_total", "Failures of a store."),
    ("bits_packets_total", "BITS packets answered."),
    ("bits_packets_refused_total", "BITS packets answered with a refusal."),
    ("bits_received_bytes_total", "Bytes of bodies that were read, kept or not."),
    ("bits_bodies_ended_early_total", "Bodies that ended early; what came of them is kept."),
    ("bits_object_store_requests_total", "Requests to object stores."),
    ("bits_leftovers_deleted_total", "What maintenance deleted since nobody needs it any more."),
    ("bits_tls_reloads_total", "Changes of TLS files, taken or not usable."),
];
/// What takes time, in seconds.
const HISTOGRAMS: &[(&str, &str)] = &[
    ("bits_packet_seconds", "From a packet's head to its ack, the body included."),
    ("bits_ack_seconds", "From a packet's last byte to its ack."),
    ("bits_store_seconds", "What a store took for an operation, without waiting for clients."),
    ("bits_sync_seconds", "Making bytes of an upload durable on local disk, at checkpoints and at its end."),
    ("bits_notification_seconds", "From telling a server application to the head of its answer."),
    ("bits_sweep_seconds", "Sweeps of expired sessions."),
];

fn describe() {
    HISTOGRAMS.iter().for_each(|(name, about)| {
        metrics::describe_histogram!(*name, metrics::Unit::Seconds, *about);
    });
    GAUGES.iter().for_each(|(name, about)| metrics::describe_gauge!(*name, *about));
    COUNTERS.iter().for_each(|(name, about)| metrics::describe_counter!(*name, *about));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_documented_with_what_it_is() {
        let documented = include_str!("../../docs/metrics.md");
        for (name, about) in GAUGES.iter().chain(COUNTERS).chain(HISTOGRAMS) {
            let row = documented.lines().find(|line| line.starts_with(&format!("| `{name}`")));
            assert!(row.is_some_and(|row| row.contains(about.trim_end_matches('.'))), "{name}");
        }
    }

    #[test]
    fn every_counted_name_is_described() {
        let source = include_str!("metrics.rs");
        let counted = ["counter", "gauge", "histogram"].into_iter().flat_map(|kind| source.split(kind));
        let names = counted.filter_map(|rest| rest.strip_prefix("!(\"")?.split('"').next());
        for name in names {
            assert!(GAUGES.iter().chain(COUNTERS).chain(HISTOGRAMS).any(|(described, _)| *described == name), "{name}");
        }
    }
}
