//! `/metrics`, its table in `docs/metrics.md`, and the rules and the dashboard that use it.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;
use tests::{Application, Behaviour, Form, Packet, Server, ServerOptions, Upload, server_binary, wait_until};

/// Added by Prometheus itself.
const OWN: [&str; 4] = ["le", "instance", "job", "__name__"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The table: each metric with its kind and the words between backticks of its row.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let text = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `bits_"));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let words = cells[3].split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (cells[1].trim_matches('`').to_owned(), (cells[2].to_owned(), words))
    })
    .collect()
}

fn metrics(server: &Server) -> String {
    String::from_utf8(server.admin("GET", "/metrics", &[]).body).unwrap()
}

/// Every label of a series: `name="value"`.
fn labels(series: &str) -> Vec<(&str, &str)> {
    let Some((_, rest)) = series.split_once('{') else { return Vec::new() };
    let inner = rest.rsplit_once('}').unwrap().0;
    inner
        .split("\",")
        .map(|label| label.split_once("=\"").map(|(n, v)| (n, v.trim_end_matches('"'))).unwrap())
        .collect()
}

fn base(name: &str) -> &str {
    ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
}

/// A server that has done most of what is counted.
fn worked() -> (Server, Application) {
    let application = Application::start(Behaviour::status(200));
    let config = format!(
        "[[directories]]\nurl_path = \"/upload\"\n[[directories]]\nurl_path = \"/told\"\n{}",
        application.lines("by-reference", "")
    );
    let server = Server::start(ServerOptions::new().config(&config));
    Upload::new(server.address(), "/upload/a", 1, 10_000).run(4000).unwrap();
    Upload::new(server.address(), "/told/a", 1, 1000).run(1000).unwrap();
    let mut half = Upload::new(server.address(), "/upload/half", 2, 1000);
    half.create().unwrap();
    half.fragment(500).unwrap();
    assert_eq!(server.raw().ask(&Packet::create(Form::Native, "/nowhere")).status, 404);
    let mut gone = Upload::new(server.address(), "/upload/gone", 3, 1000);
    gone.create().unwrap();
    gone.cancel().unwrap();
    (server, application)
}

#[test]
fn what_is_counted_is_right() {
    let (server, _application) = worked();
    for (series, expected) in [
        ("bits_packets_total{packet=\"Create-Session\",outcome=\"done\"}", 4.0),
        ("bits_packets_total{packet=\"Create-Session\",outcome=\"refused\"}", 1.0),
        ("bits_packets_total{packet=\"Fragment\",outcome=\"done\"}", 5.0),
        ("bits_packets_refused_total{reason=\"path_not_found\"}", 1.0),
        ("bits_received_bytes_total", 11_500.0),
        ("bits_stored_bytes_total", 11_500.0),
        ("bits_acknowledged_bytes_total", 11_500.0),
        ("bits_packet_seconds_count{packet=\"Fragment\"}", 5.0),
        ("bits_ack_seconds_count{packet=\"Fragment\"}", 5.0),
        ("bits_sessions_created_total", 4.0),
        ("bits_sessions_ended_total{ending=\"closed\"}", 2.0),
        ("bits_sessions_ended_total{ending=\"cancelled\"}", 1.0),
        ("bits_uploads_published_total", 1.0),
        ("bits_uploads_delivered_total", 1.0),
        ("bits_notification_seconds_count{outcome=\"taken\"}", 1.0),
        ("bits_store_seconds_count{store=\"uploads\",operation=\"publish\"}", 1.0),
        ("bits_store_seconds_count{store=\"sessions\",operation=\"create\"}", 4.0),
        ("bits_sync_seconds_count{result=\"done\"}", 2.0),
        ("bits_sweep_seconds_count{result=\"done\"}", 1.0),
        ("bits_sessions{state=\"receiving\"}", 1.0),
        ("bits_sessions_idle{state=\"receiving\",over=\"1h\"}", 0.0),
    ] {
        assert_eq!(server.metric(series), expected, "{series}\n{}", metrics(&server));
    }
    assert!(metrics(&server).contains(&format!("bits_build_info{{version=\"{}\"", env!("CARGO_PKG_VERSION"))));
}

/// `bits-server sessions cancel` leaves the bytes to the server.
#[test]
fn what_is_deleted_later_is_counted() {
    let server = Server::start(ServerOptions::new());
    let mut half = Upload::new(server.address(), "/upload/half", 2, 1000);
    half.create().unwrap();
    half.fragment(500).unwrap();
    let mut cancel = Command::new(server_binary());
    cancel.args(["sessions", "cancel", half.session(), "--config"]).arg(server.folder().join("bits.toml"));
    assert!(cancel.env("BITS__DATA_DIR", server.data_dir()).output().unwrap().status.success());
    let deleted = "bits_leftovers_deleted_total{kind=\"session\"}";
    wait_until("its bytes are deleted", || server.metric(deleted) == 1.0);
}

#[test]
fn what_is_served_is_documented_with_its_kind_and_labels() {
    let (server, _application) = worked();
    let (text, documented) = (metrics(&server), documented());
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert_eq!(documented.get(name).map(|row| row.0.as_str()), Some(kind), "{name}");
    }
    for series in text.lines().filter(|line| line.starts_with("bits_")) {
        let name = base(series.split(['{', ' ']).next().unwrap());
        let known = &documented[name].1;
        for (label, _) in labels(series).iter().filter(|(label, _)| !OWN.contains(label)) {
            assert!(known.contains(*label), "{series}: {label} is not documented");
        }
    }
}

/// Every word between backticks of the table and of those that say what its labels mean.
fn words() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Names of metrics within any text, each with the labels that follow it in braces, and their values.
fn used(text: &str) -> Vec<(String, Vec<(String, String)>)> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let starts = text.match_indices("bits_").map(|(at, _)| at);
    let starts = starts.filter(|at| !text[..*at].ends_with(is_name));
    starts
        .map(|at| {
            let rest = &text[at..];
            let end = rest.find(|letter| !is_name(letter)).unwrap_or(rest.len());
            let selector = rest[end..].strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or_default();
            let matchers = selector.split(',').filter(|one| !one.is_empty());
            let labels = matchers.map(|one| {
                let (label, value) = one.split_once(['=', '!']).unwrap();
                (label.trim().to_owned(), value.trim_start_matches(['=', '~']).trim_matches('"').to_owned())
            });
            (rest[..end].to_owned(), labels.collect())
        })
        .collect()
}

#[track_caller]
fn assert_known(place: &str, expression: &str) {
    let (documented, words) = (documented(), words());
    let found = used(expression);
    assert!(!found.is_empty() || expression.contains("up{"), "{place}: {expression}");
    for (name, labels) in found {
        let known = documented.get(base(&name)).unwrap_or_else(|| panic!("{place}: there is no {name}"));
        for (label, value) in labels.iter().filter(|(label, _)| !OWN.contains(&label.as_str())) {
            assert!(known.1.contains(label), "{place}: {name} has no {label}");
            // Grafana's variables and the beginnings of words are left to it and to Prometheus.
            for one in value.split('|').filter(|one| !one.contains(['$', '.'])) {
                assert!(words.contains(one), "{place}: {label} is never {one:?}");
            }
        }
    }
}

#[test]
fn the_dashboard_uses_what_there_is() {
    let text = fs::read_to_string(root().join("packaging/grafana/bits-server.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() > 10);
    for panel in panels {
        for target in panel["targets"].as_array().unwrap() {
            assert_known(panel["title"].as_str().unwrap(), target["expr"].as_str().unwrap());
        }
    }
}

#[test]
fn the_alerts_use_what_there_is_and_prometheus_takes_them() {
    let rules = root().join("packaging/prometheus/bits-server.rules.yml");
    let text = fs::read_to_string(&rules).unwrap();
    for line in text.lines().filter_map(|line| line.trim().strip_prefix("expr: ")) {
        assert_known("rules", line);
    }
    let checked = Command::new("promtool").args(["check", "rules"]).arg(&rules).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn prometheus_takes_what_is_served() {
    let (server, _application) = worked();
    let mut promtool = Command::new("promtool");
    let promtool =
        promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(Stdio::piped());
    let mut promtool = promtool.spawn().unwrap();
    promtool.stdin.take().unwrap().write_all(metrics(&server).as_bytes()).unwrap();
    let checked = promtool.wait_with_output().unwrap();
    let said = String::from_utf8([checked.stdout, checked.stderr].concat()).unwrap();
    // The protocol's name is no unit.
    let complaints: Vec<_> =
        said.lines().filter(|line| !line.ends_with("use base unit \"bytes\" instead of \"bits\"")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
    assert!(matches!(checked.status.code(), Some(0 | 3)), "it was not read: {}", checked.status);
}
