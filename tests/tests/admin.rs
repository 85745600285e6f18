//! The admin listener: its API as `openapi.json` describes it, its events, and who may use it.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::{Value, json};
use tests::{
    Authority, Postgres, Raw, Response, Server, ServerOptions, Upload, assert_clean_log, assert_staging_empty, request,
    wait_until,
};

/// The example of Apache's documentation; the password is `myPassword`.
const HASH: &str = "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC";
/// `jo:myPassword`.
const JO: (&str, &str) = ("Authorization", "Basic am86bXlQYXNzd29yZA==");
/// `al:myPassword`.
const AL: (&str, &str) = ("Authorization", "Basic YWw6bXlQYXNzd29yZA==");
const OWN: (&str, &str) = ("X-Bits-Request", "1");
const UNKNOWN: &str = "/api/sessions/00000000-0000-0000-0000-000000000000";

fn get(server: &Server, target: &str) -> Value {
    let response = server.admin("GET", target, &[]);
    assert_eq!(response.status, 200, "{target}: {response:?}");
    body(&response)
}

fn body(response: &Response) -> Value {
    serde_json::from_slice(&response.body).unwrap()
}

fn bare(session: &str) -> &str {
    session.trim_matches(['{', '}'])
}

/// An upload of which half has come, and one that is complete but not closed.
fn two_uploads(server: &Server) -> (Upload, Upload) {
    let mut half = Upload::new(server.address(), "/upload/half/way.bin", 1, 1000);
    half.create().unwrap();
    half.fragment(500).unwrap();
    let mut whole = Upload::new(server.address(), "/upload/whole.bin", 2, 1000);
    whole.create().unwrap();
    whole.fragments(1000).unwrap();
    (half, whole)
}

/// Holds answers against the description.
struct Description {
    document: Value,
    asked: BTreeSet<(String, String)>,
}

impl Description {
    fn of(server: &Server) -> Self {
        let document = get(server, "/api/openapi.json");
        let kept = include_str!("../../bits-server/src/admin/openapi.json");
        assert_eq!(document, serde_json::from_str::<Value>(kept).unwrap());
        Self { document, asked: BTreeSet::new() }
    }

    /// Every operation, by method and path.
    fn operations(&self) -> BTreeSet<(String, String)> {
        let methods = ["get", "put", "post", "delete", "patch", "options", "head"];
        let paths = self.document["paths"].as_object().unwrap().iter();
        let named = paths.flat_map(|(path, item)| item.as_object().unwrap().keys().map(move |key| (key, path)));
        let operations = named.filter(|(key, _)| methods.contains(&key.as_str()));
        operations.map(|(method, path)| (method.clone(), path.clone())).collect()
    }

    #[track_caller]
    fn check(&mut self, method: &str, path: &str, status: u16, response: &Response) -> Value {
        assert_eq!(response.status, status, "{method} {path}: {response:?}");
        let operation = &self.document["paths"][path][method];
        assert!(operation.is_object(), "{method} {path} is not described");
        let described = &operation["responses"][status.to_string()]["content"];
        let kind = response.header("Content-Type").unwrap();
        let schema = &described[kind]["schema"];
        assert!(schema.is_object(), "{method} {path}: {status} {kind} is not described");
        let value = body(response);
        self.check_schema(schema, &value);
        self.asked.insert((method.to_owned(), path.to_owned()));
        value
    }

    /// The schema of a parameter of GET.
    fn parameter(&self, path: &str, name: &str) -> &Value {
        let parameters = self.document["paths"][path]["get"]["parameters"].as_array().unwrap();
        &parameters.iter().find(|parameter| parameter["name"] == name).unwrap()["schema"]
    }

    #[track_caller]
    fn check_schema(&self, schema: &Value, value: &Value) {
        let mut root = schema.clone();
        root["components"] = self.document["components"].clone();
        let validator = jsonschema::options().should_validate_formats(true).build(&root).unwrap();
        let errors: Vec<_> = validator.iter_errors(value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?} in {value:#}");
    }
}

#[test]
fn every_operation_answers_as_it_is_described() {
    let server = Server::start(ServerOptions::new());
    let (half, whole) = two_uploads(&server);
    let mut done = Upload::new(server.address(), "/upload/done.bin", 3, 10);
    done.run(10).unwrap();
    let mut api = Description::of(&server);
    let one = |upload: &Upload| format!("/api/sessions/{}", bare(upload.session()));
    let (list, detail, cancel) = ("/api/sessions", "/api/sessions/{session}", "/api/sessions/{session}/cancel");

    let sessions = api.check("get", list, 200, &server.admin("GET", "/api/sessions", &[]));
    assert_eq!(sessions["sessions"].as_array().unwrap().len(), 2);
    api.check("get", list, 400, &server.admin("GET", "/api/sessions?limit=many", &[]));
    api.check("get", list, 403, &server.admin("GET", "/api/sessions", &[("Host", "evil.example")]));
    let live = api.check("get", detail, 200, &server.admin("GET", &one(&half), &[]));
    assert_eq!((&live["state"], &live["received"], &live["total"]), (&json!("receiving"), &json!(500), &json!(1000)));
    let ended = api.check("get", detail, 200, &server.admin("GET", &one(&done), &[]));
    assert_eq!((&ended["state"], &ended["published_bytes"]), (&json!("closed"), &json!(10)));
    let told: Vec<_> = ended["history"].as_array().unwrap().iter().map(|event| &event["type"]).collect();
    assert_eq!(told, ["session.created", "upload.completed"]);
    api.check("get", detail, 404, &server.admin("GET", UNKNOWN, &[]));
    api.check("get", detail, 404, &server.admin("GET", "/api/sessions/what", &[]));
    api.check("delete", detail, 403, &server.admin("DELETE", &one(&half), &[]));
    api.check("delete", detail, 404, &server.admin("DELETE", UNKNOWN, &[OWN]));
    let cancelled = api.check("delete", detail, 200, &server.admin("DELETE", &one(&half), &[OWN]));
    assert_eq!((&cancelled["state"], &cancelled["published_bytes"]), (&json!("cancelled"), &json!(null)));
    api.check("delete", detail, 409, &server.admin("DELETE", &one(&half), &[OWN]));
    let stays = server.admin("POST", &format!("{}/cancel", one(&whole)), &[("Origin", "http://localhost")]);
    assert_eq!(api.check("post", cancel, 200, &stays)["published_bytes"], 1000);
    assert!(server.file("upload/whole.bin").is_some());
    api.check("post", cancel, 404, &server.admin("POST", &format!("{UNKNOWN}/cancel"), &[OWN]));
    api.check("get", "/api/openapi.json", 200, &server.admin("GET", "/api/openapi.json", &[]));
    // What is no JSON is looked at by another test.
    api.asked.insert(("get".to_owned(), "/api/events".to_owned()));
    assert_eq!(api.asked, api.operations());
    assert_staging_empty(&server.files());
    assert_clean_log(&server.log_bytes());
}

#[test]
fn sessions_are_listed_by_filter_and_in_pages() {
    let server = Server::start(ServerOptions::new());
    let (_half, _whole) = two_uploads(&server);
    for at in 0..5 {
        Upload::new(server.address(), &format!("/upload/more/{at}.bin"), at, 10).create().unwrap();
    }
    let listed = |query: &str| {
        let listed = get(&server, &format!("/api/sessions?{query}"));
        let sessions = listed["sessions"].as_array().unwrap().clone();
        sessions.into_iter().map(|it| it["destination"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed("").len(), 7);
    assert_eq!(listed("path=/upload/more/").len(), 5);
    assert_eq!(listed("path=%2Fupload%2Fhalf"), ["/upload/half/way.bin"]);
    assert_eq!(listed("state=complete"), ["/upload/whole.bin"]);
    assert_eq!(listed("user=").len(), 7);
    assert_eq!((listed("user=jo").len(), listed("idle=1h").len()), (0, 0));
    assert_eq!(listed("order=newest&limit=1"), ["/upload/more/4.bin"]);
    let api = Description::of(&server);
    for order in ["oldest", "newest"] {
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let page = get(&server, &format!("/api/sessions?limit=3&order={order}{after}"));
            seen.extend(
                page["sessions"].as_array().unwrap().iter().map(|it| it["session"].as_str().unwrap().to_owned()),
            );
            let Some(next) = page["next"].as_str() else { break };
            api.check_schema(api.parameter("/api/sessions", "after"), &page["next"]);
            after = format!("&after={next}");
        }
        assert_eq!((seen.len(), seen.iter().collect::<BTreeSet<_>>().len()), (7, 7), "{order}");
    }
}

/// The request under way is cut off, and nothing of the upload stays.
#[test]
fn an_upload_is_cancelled_while_it_comes() {
    let server = Server::start(ServerOptions::new());
    let mut upload = Upload::new(server.address(), "/upload/slow.bin", 1, 1_000_000);
    upload.create().unwrap();
    upload.begin_fragment(1_000_000, 300_000).unwrap();
    let target = format!("/api/sessions/{}", bare(upload.session()));
    wait_until("the fragment is taken", || get(&server, &target)["total"] == 1_000_000);
    let cancelled = server.admin("DELETE", &target, &[OWN]);
    assert_eq!((cancelled.status, &body(&cancelled)["state"]), (200, &json!("cancelled")));
    assert!(upload.disconnect().unwrap().is_closed(), "nobody is answered any more");
    assert_staging_empty(&server.files());
    let history = get(&server, &target)["history"].clone();
    assert_eq!(history[1]["type"], "session.cancelled");
    assert!(server.log().contains("cancelled on the admin listener"));
}

#[test]
fn nothing_is_cancelled_by_accident_or_by_pages_of_others() {
    let server = Server::start(ServerOptions::new());
    let (half, _whole) = two_uploads(&server);
    let one = format!("/api/sessions/{}", bare(half.session()));
    let cancel = format!("{one}/cancel");
    for method in ["GET", "HEAD", "PUT", "OPTIONS", "BITS_POST"] {
        let refused = server.admin(method, &cancel, &[OWN]);
        assert_eq!((refused.status, refused.header("Allow")), (405, Some("POST")), "{method}");
    }
    for headers in [
        &[][..],
        &[("Origin", "http://evil.example")],
        &[("Origin", "http://localhost.evil.example")],
        &[("Origin", "null")],
        &[("Sec-Fetch-Site", "cross-site"), ("Origin", "http://localhost")],
        &[("Host", "evil.example"), ("Origin", "http://evil.example"), OWN],
    ] {
        assert_eq!(server.admin("POST", &cancel, headers).status, 403, "{headers:?}");
        assert_eq!(server.admin("DELETE", &one, headers).status, 403, "{headers:?}");
    }
    let preflight = server.admin("OPTIONS", &one, &[("Origin", "http://evil.example")]);
    assert!(preflight.headers.iter().all(|(name, _)| !name.to_ascii_lowercase().starts_with("access-control")));
    assert_eq!(get(&server, &one)["state"], "receiving");
}

/// Reads server-sent events: name and data.
struct Events(BufReader<TcpStream>);

impl Events {
    fn listen(server: &Server) -> Self {
        let mut stream = TcpStream::connect(server.admin_address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(&request("GET", "/api/events", &[])).unwrap();
        let mut events = Self(BufReader::new(stream));
        let head = events.head();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.to_ascii_lowercase().contains("content-type: text/event-stream"), "{head}");
        events
    }

    fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(self.0.read_line(&mut head).unwrap() > 0, "{head}");
        }
        head
    }

    fn next(&mut self) -> (String, Value) {
        let mut name = String::new();
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream ended");
            if let Some(text) = line.strip_prefix("event: ") {
                name = text.trim().to_owned();
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return (name, serde_json::from_str(data).unwrap());
            }
        }
    }

    /// Up to and with the first event of this name.
    fn until(&mut self, last: &str) -> Vec<(String, Value)> {
        let mut events = Vec::new();
        while events.last().is_none_or(|(name, _): &(String, Value)| name != last) {
            events.push(self.next());
        }
        events
    }
}

#[test]
fn what_happens_is_told_as_it_happens() {
    let server = Server::start(ServerOptions::new());
    let api = Description::of(&server);
    let mut events = Events::listen(&server);
    let mut upload = Upload::new(server.address(), "/upload/%E2%80%AE%3Cb%3E.bin", 1, 1000);
    upload.run(500).unwrap();
    let told = events.until("session.ended");
    let names: Vec<_> = told.iter().map(|(name, _)| name.as_str()).filter(|name| *name != "session.advanced").collect();
    assert_eq!(names, ["session.created", "upload.published", "session.ended"]);
    assert!(told.iter().any(|(name, event)| name == "session.advanced" && event["from"] == 0), "{told:?}");
    for (name, event) in &told {
        assert_eq!(event["type"].as_str(), Some(name.as_str()));
        assert_eq!(event["session"]["session"], upload.session());
        api.check_schema(&json!({ "$ref": "#/components/schemas/Event" }), event);
    }
    assert_eq!(told.last().unwrap().1["ending"], "closed");
}

/// They end with the server, and no more are open than there is room for.
#[test]
fn streams_of_events_are_bounded() {
    let server = Server::start(ServerOptions::new());
    let mut streams: Vec<_> = (0..32).map(|_| Events::listen(&server)).collect();
    assert_eq!(server.admin("GET", "/api/events", &[]).status, 503);
    streams.pop();
    wait_until("there is room again", || {
        let mut raw = Raw::connect(server.admin_address());
        raw.send(&request("HEAD", "/api/events", &[]));
        raw.receive().status == 200
    });
}

#[test]
fn beyond_loopback_health_and_metrics_alone_are_open() {
    let mut server = Server::prepare(ServerOptions::new());
    let port = server.admin_address().port();
    server.options = ServerOptions::new().env("BITS__ADMIN__LISTEN", &format!("0.0.0.0:{port}"));
    server.launch();
    for open in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(server.admin("GET", open, &[("Host", "any.example")]).status, 200, "{open}");
    }
    for closed in ["/api/sessions", "/api/events", "/api/openapi.json", UNKNOWN] {
        let refused = server.admin("GET", closed, &[]);
        assert_eq!(refused.status, 403, "{closed}");
        assert!(body(&refused)["detail"].as_str().unwrap().contains("admin.authentication"), "{refused:?}");
    }
}

#[test]
fn a_login_opens_the_admin_listener_to_those_who_may() {
    let config = "[admin]\nauthentication = [\"basic\"]\nhtpasswd = \"admins\"\nallow_users = [\"jo\"]\n";
    let mut server = Server::prepare(ServerOptions::new().config(config));
    fs::write(server.folder().join("admins"), format!("jo:{HASH}\nal:{HASH}\n")).unwrap();
    server.launch();
    let unknown = server.admin("GET", "/api/sessions", &[]);
    assert_eq!(unknown.status, 401);
    assert!(unknown.header("WWW-Authenticate").unwrap().starts_with("Basic "), "{unknown:?}");
    assert_eq!(server.admin("GET", "/api/sessions", &[("Authorization", "Basic am86d3Jvbmc=")]).status, 401);
    assert_eq!(server.admin("GET", "/api/sessions", &[AL]).status, 403);
    assert_eq!(server.admin("GET", "/api/sessions", &[JO]).status, 200);
    assert_eq!(server.admin("GET", "/api/sessions", &[JO, ("Host", "admin.example")]).status, 200);
    let (half, _whole) = two_uploads(&server);
    let one = format!("/api/sessions/{}", bare(half.session()));
    assert_eq!(server.admin("DELETE", &one, &[JO]).status, 403, "credentials alone may be a browser's");
    assert_eq!(server.admin("DELETE", &one, &[JO, OWN]).status, 200);
    assert!(server.log().contains("user=\"jo\""), "it is told who cancelled");
    for open in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(server.admin("GET", open, &[]).status, 200, "{open}");
    }
}

#[test]
fn the_admin_listener_speaks_tls_and_knows_certificates() {
    let authority = Authority::new("authority");
    let config = "[admin]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\nclient_ca = \"ca.pem\"\n\
         client_certificate = \"optional\"\nauthentication = [\"certificate\"]\n";
    let mut server = Server::prepare(ServerOptions::new().config(config));
    authority.issue(1, "server").write(server.folder());
    fs::write(server.folder().join("ca.pem"), authority.pem()).unwrap();
    server.spawn();
    wait_until("the server listens", || TcpStream::connect(server.admin_address()).is_ok());
    let ask = |client| {
        let mut raw = Raw::connect(server.admin_address()).tls(&client).unwrap();
        raw.send(&request("GET", "/api/sessions", &[]));
        raw.receive().status
    };
    assert_eq!(ask(authority.client()), 403, "there is no way to ask for a certificate once TLS has begun");
    let known = authority.issue(2, "jo");
    wait_until("it serves", || ask(authority.client().identity(&known)) == 200);
}

/// What happened is in the database: another process tells it too.
#[test]
fn the_history_outlives_the_process_and_keeps_to_its_bound() {
    let mut server = Server::start(ServerOptions::new().config("[admin]\nhistory = 4\n"));
    let mut first = Upload::new(server.address(), "/upload/1.bin", 1, 10);
    first.run(10).unwrap();
    let target = format!("/api/sessions/{}", bare(first.session()));
    server.kill();
    server.launch();
    assert_eq!(get(&server, &target)["history"].as_array().unwrap().len(), 2);
    for at in 2..5 {
        Upload::new(server.address(), &format!("/upload/{at}.bin"), at, 10).run(10).unwrap();
    }
    server.kill();
    server.launch();
    wait_until("old events are forgotten", || get(&server, &target)["history"] == json!([]));
}

/// What one server has, all others on its database show; an operator cancels wherever he looks.
#[test]
fn sessions_of_every_server_are_seen_and_cancelled_on_each() {
    let url = Postgres::shared().database();
    let options = ServerOptions::new().config(&format!("[state]\nurl = \"{url}\"\nmigrate = true\n"));
    let (here, there) = (Server::start(options.clone()), Server::start(options));
    let (half, whole) = two_uploads(&there);
    let page = || String::from_utf8(here.admin("GET", "/", &[]).body).unwrap();
    assert_eq!(get(&here, "/api/sessions")["sessions"].as_array().unwrap().len(), 2);
    assert!(page().contains("way.bin") && page().contains("whole.bin"), "{}", page());
    let one = format!("/api/sessions/{}", bare(half.session()));
    assert_eq!(get(&here, &one)["received"], 500);
    assert_eq!(get(&here, &one)["history"][0]["type"], "session.created", "another server's history too");
    assert_eq!(here.admin("DELETE", &one, &[OWN]).status, 200);
    assert_eq!(get(&there, &one)["state"], "cancelled");
    let told = get(&here, &format!("/api/sessions/{}", bare(whole.session())));
    assert_eq!(told["history"][1]["type"], "upload.completed");
    assert!(page().contains("The last hour") && page().contains("as this server alone has seen it"));
}
