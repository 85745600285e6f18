//! Kerberos by `Negotiate`, with a real KDC: curl uploads, and tokens of its are sent in every
//! wrong way.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use tests::{
    Form, Kdc, OTHER_REALM, PROTOCOL, Packet, REALM, Raw, Response, Server, ServerOptions, assert_ack,
    assert_clean_log, assert_confined, assert_error, assert_next, assert_ok, assert_staging_empty, pattern,
    server_binary,
};

const PATH: &str = "/upload/file.bin";
const SESSION_NOT_FOUND: u32 = 0x8020_001F;

struct Realm {
    kdc: Kdc,
    server: Server,
}

/// A KDC and a server with these lines in its directory, besides its keytab.
fn start(lines: &str) -> Realm {
    let kdc = Kdc::start();
    let keytab = kdc.keytab("http.keytab", "HTTP/localhost");
    let server = Server::start(options(&kdc, &keytab, lines));
    Realm { kdc, server }
}

fn options(kdc: &Kdc, keytab: &Path, lines: &str) -> ServerOptions {
    let keytab = keytab.display();
    ServerOptions::directory(&format!("authentication = [\"negotiate\"]\nnegotiate_keytab = \"{keytab}\"\n{lines}"))
        .env("KRB5_CONFIG", kdc.config().to_str().unwrap())
}

fn one(name: &str) -> String {
    format!("{name}@{REALM}")
}

fn other(name: &str) -> String {
    format!("{name}@{OTHER_REALM}")
}

/// A token of a user who has just logged in.
fn token(realm: &Realm, user: &str) -> String {
    realm.kdc.login(user);
    realm.kdc.authorization(user)
}

fn ping(raw: &mut Raw, authorization: &str) -> Response {
    raw.ask(&Packet::ping(Form::Native, PATH).with("Authorization", authorization))
}

#[track_caller]
fn assert_asked(response: &Response) {
    assert_ack(response, 401, None);
    assert_eq!(response.header("WWW-Authenticate"), Some("Negotiate"), "{response:#?}");
}

/// Sends a packet by curl and gives the heads of its answers.
fn curl(realm: &Realm, kind: &str, headers: &[String], body: &Path) -> String {
    curl_with(realm, &[], kind, headers, body)
}

fn curl_with(realm: &Realm, options: &[&str], kind: &str, headers: &[String], body: &Path) -> String {
    let mut curl = realm.kdc.curl(&one("jo"));
    curl.args(options);
    let url = format!("http://localhost:{}{PATH}", realm.server.address().port());
    curl.args(["--ipv4", "--include", "--request", "BITS_POST", "--header", &format!("BITS-Packet-Type: {kind}")]);
    for header in headers {
        curl.args(["--header", header]);
    }
    curl.arg("--data-binary").arg(format!("@{}", body.display())).arg(url);
    said(&curl.output().unwrap())
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap().to_lowercase()
}

#[test]
fn curl_uploads_a_file() {
    let realm = start("");
    realm.kdc.login(&one("jo"));
    let (empty, part) = (realm.server.folder().join("empty"), realm.server.folder().join("part"));
    let bytes = pattern(3, 400_000);
    fs::write(&empty, "").unwrap();

    let created = curl(&realm, "Create-Session", &[format!("BITS-Supported-Protocols: {PROTOCOL}")], &empty);
    assert!(created.contains("http/1.1 200") && created.contains("www-authenticate: negotiate "), "{created}");
    let session = created.lines().find_map(|line| line.strip_prefix("bits-session-id: ")).unwrap();
    let session = format!("BITS-Session-Id: {session}");
    for first in [0, 200_000] {
        fs::write(&part, &bytes[first..first + 200_000]).unwrap();
        let range = format!("Content-Range: bytes {first}-{}/400000", first + 199_999);
        let answer = curl(&realm, "Fragment", &[session.clone(), range], &part);
        assert!(answer.contains(&format!("bits-received-content-range: {}\r\n", first + 200_000)), "{answer}");
    }
    let closed = curl(&realm, "Close-Session", &[session], &empty);
    assert!(closed.contains("http/1.1 200"), "{closed}");

    assert!(realm.server.file("upload/file.bin") == Some(bytes), "the file is what was sent");
    assert_staging_empty(&realm.server.files());
    let log = realm.server.log();
    assert!(log.lines().any(|line| line.contains("audit") && line.contains("jo@one.test")), "{log}");
    assert_clean_log(&realm.server.log_bytes());
}

/// It asks by `Expect: 100-continue` whether to send so much, with a token from the start or once it
/// knows that it needs one.
#[test]
fn curl_uploads_large_fragments() {
    const PART: usize = 2 << 20;
    let realm = start("");
    realm.kdc.login(&one("jo"));
    let (empty, part) = (realm.server.folder().join("empty"), realm.server.folder().join("part"));
    let bytes = pattern(4, 2 * PART);
    fs::write(&empty, "").unwrap();
    let created = curl(&realm, "Create-Session", &[format!("BITS-Supported-Protocols: {PROTOCOL}")], &empty);
    let session = created.lines().find_map(|line| line.strip_prefix("bits-session-id: ")).unwrap();
    for (first, scheme) in [(0, "--negotiate"), (PART, "--anyauth")] {
        fs::write(&part, &bytes[first..first + PART]).unwrap();
        let range = format!("Content-Range: bytes {first}-{}/{}", first + PART - 1, 2 * PART);
        let session = format!("BITS-Session-Id: {session}");
        let answers = curl_with(&realm, &[scheme], "Fragment", &[session, range], &part);
        assert!(answers.contains("http/1.1 100 continue"), "{answers}");
        assert!(answers.contains(&format!("bits-received-content-range: {}\r\n", first + PART)), "{answers}");
        assert_eq!(answers.contains("http/1.1 401"), scheme == "--anyauth", "{answers}");
    }
    assert!(realm.server.file("upload/file.bin") == Some(bytes), "the file is what was sent");
}

/// A 401 that offers a login by this connection leaves the connection as it was, whether the client
/// waits to be asked for its body or not.
#[test]
fn a_client_that_waits_for_100_continue_keeps_its_connection() {
    let realm = start("");
    let id = "{7df0354d-249b-430f-820d-3d2a9bef4931}";
    let body = pattern(6, 300_000);
    let packet = Packet::fragment(Form::Native, PATH, id, 0, &body, 300_000).with("Expect", "100-continue");
    let mut raw = realm.server.raw();
    for authorization in ["", "Negotiate AAAA"] {
        let packet = packet.clone().with("Authorization", authorization);
        for waits in [true, false] {
            raw.send(&packet.head());
            if waits {
                assert_eq!(raw.receive().status, 100);
            }
            raw.send(&body);
            let mut asked = raw.receive();
            if asked.status == 100 {
                asked = raw.receive();
            }
            assert_asked(&asked);
        }
    }
    assert_ok(&ping(&mut raw, &token(&realm, &one("jo"))), 200);
    assert_eq!(raw.create(PATH).len(), id.len());
}

#[test]
fn a_proof_holds_for_its_connection_and_no_other() {
    let realm = start("");
    let authorization = token(&realm, &one("jo"));
    let mut raw = realm.server.raw();
    assert_ok(&ping(&mut raw, &authorization), 200);
    let session = raw.create(PATH);
    assert_next(&raw.fragment(PATH, &session, 0, b"hello ", 11), 6);

    let mut stranger = realm.server.raw();
    assert_asked(&stranger.ping(PATH));
    assert_asked(&stranger.fragment(PATH, &session, 6, b"w0rld", 11));
    assert_asked(&stranger.cancel(PATH, &session));

    assert_next(&raw.fragment(PATH, &session, 6, b"world", 11), 11);
    assert_ok(&raw.close(PATH, &session), 200);
    assert_eq!(realm.server.file("upload/file.bin").as_deref(), Some(b"hello world".as_slice()));
}

#[test]
fn only_realms_that_are_named_come_in() {
    let both = format!("negotiate_realms = [\"{REALM}\", \"{OTHER_REALM}\"]");
    let other_alone = format!("negotiate_realms = [\"{}\"]", OTHER_REALM.to_lowercase());
    let mut realm = start("");
    let keytab = realm.kdc.keytab("http.keytab", "HTTP/localhost");
    for (lines, takes_one, takes_other) in [("", true, false), (both.as_str(), true, true), (&other_alone, false, true)]
    {
        realm.server.restart_with(options(&realm.kdc, &keytab, lines));
        for (user, taken) in [(one("jo"), takes_one), (other("jo"), takes_other)] {
            let answer = ping(&mut realm.server.raw(), &token(&realm, &user));
            if taken {
                assert_ok(&answer, 200);
            } else {
                assert_asked(&answer);
            }
        }
    }
}

/// The same name in two realms is two principals, and a new proof takes the place of the old one.
#[test]
fn other_credentials_on_a_connection_replace_what_it_remembers() {
    let realm = start(&format!("negotiate_realms = [\"{REALM}\", \"{OTHER_REALM}\"]"));
    let mut raw = realm.server.raw();
    assert_ok(&ping(&mut raw, &token(&realm, &one("jo"))), 200);
    let session = raw.create(PATH);
    assert_ok(&ping(&mut raw, &token(&realm, &other("jo"))), 200);
    assert_error(&raw.fragment(PATH, &session, 0, b"x", 1), 500, SESSION_NOT_FOUND);

    assert_asked(&ping(&mut raw, "Negotiate AAAA"));
    assert_asked(&raw.ping(PATH));
    assert_ok(&ping(&mut raw, &token(&realm, &one("jo"))), 200);
    assert_asked(&ping(&mut raw, "Basic am86am8="));
    assert_asked(&raw.ping(PATH));
    assert_ok(&ping(&mut raw, &token(&realm, &one("jo"))), 200);
    assert_next(&raw.fragment(PATH, &session, 0, b"x", 1), 1);
}

#[test]
fn wrong_tokens_are_refused_and_their_connection_goes_on() {
    let realm = start("");
    let good = token(&realm, &one("jo"));
    let bytes = good.strip_prefix("Negotiate ").unwrap();
    let (half, swapped) = (&bytes[..bytes.len() / 8 * 4], format!("{}AAAA{}", &bytes[..400], &bytes[404..]));
    let long = "A".repeat(60_000);
    let wrong = ["", "!", "====", "AAAA", "TlRMTVNTUAABAAAAB4IIogAAAAAAAAAAAAAAAAAAAAA=", half, &swapped, &long];
    let mut raw = realm.server.raw();
    for wrong in wrong {
        // With a body in flight, which must not become the next request.
        let fragment =
            Packet::fragment(Form::Native, PATH, "{7df0354d-249b-430f-820d-3d2a9bef4931}", 0, &[b'G'; 70_000], 70_000);
        assert_asked(&raw.ask(&fragment.with("Authorization", &format!("Negotiate {wrong}"))));
    }
    let twice = Packet::ping(Form::Native, PATH).with("Authorization", &good).and("Authorization", &good);
    assert_asked(&raw.ask(&twice));
    assert_ok(&ping(&mut raw, &good), 200);
    assert_clean_log(&realm.server.log_bytes());
}

#[test]
fn a_token_is_taken_once() {
    let mut realm = start("");
    let authorization = token(&realm, &one("jo"));
    assert_ok(&ping(&mut realm.server.raw(), &authorization), 200);
    assert_asked(&ping(&mut realm.server.raw(), &authorization));
    realm.server.restart();
    assert_asked(&ping(&mut realm.server.raw(), &authorization));
}

/// What the library reads and writes is its own even where each file has a folder of its own; the
/// process that serves is the one that was started, with what the library takes from the environment.
#[test]
fn a_confined_server_takes_tokens() {
    let kdc = Kdc::start();
    let keys = tempfile::tempdir().unwrap();
    let keytab = keys.path().join("http.keytab");
    fs::rename(kdc.keytab("made.keytab", "HTTP/localhost"), &keytab).unwrap();
    let server = Server::start(options(&kdc, &keytab, ""));
    let realm = Realm { kdc, server };
    assert_confined(&realm.server.log());
    let cache = realm.server.data_dir().join("krb5.rcache2");
    assert!(!cache.exists());
    let authorization = token(&realm, &one("jo"));
    assert_ok(&ping(&mut realm.server.raw(), &authorization), 200);
    assert_asked(&ping(&mut realm.server.raw(), &authorization));
    assert!(fs::metadata(&cache).unwrap().len() > 0, "what was taken is noted");
    let environment = fs::read(format!("/proc/{}/environ", realm.server.pid())).unwrap();
    let environment = String::from_utf8(environment).unwrap();
    for expected in
        [format!("KRB5RCACHENAME=file2:{}", cache.display()), format!("KRB5_KTNAME=FILE:{}", keytab.display())]
    {
        assert!(environment.split('\0').any(|variable| variable == expected), "{expected} is not in {environment}");
    }
    assert!(!realm.server.log().contains("Permission denied"), "{}", realm.server.log());
}

/// Where an administrator chose another file for that, it is written too.
#[test]
fn the_note_of_tokens_can_stand_elsewhere() {
    let kdc = Kdc::start();
    let (keytab, notes) = (kdc.keytab("http.keytab", "HTTP/localhost"), tempfile::tempdir().unwrap());
    let cache = notes.path().join("cache");
    let chosen = options(&kdc, &keytab, "").env("KRB5RCACHENAME", &format!("file2:{}", cache.display()));
    let realm = Realm { kdc, server: Server::start(chosen) };
    assert_confined(&realm.server.log());
    let authorization = token(&realm, &one("jo"));
    assert_ok(&ping(&mut realm.server.raw(), &authorization), 200);
    assert_asked(&ping(&mut realm.server.raw(), &authorization));
    assert!(cache.exists() && !realm.server.data_dir().join("krb5.rcache2").exists());
}

#[test]
fn an_old_token_is_refused() {
    let mut realm = start("");
    let authorization = token(&realm, &one("jo"));
    let tomorrow = realm.server.options.clone().wrapper(&["faketime", "-f", "+1d"]);
    realm.server.restart_with(tomorrow);
    assert_asked(&ping(&mut realm.server.raw(), &authorization));
}

#[test]
fn the_keytab_is_reread() {
    let realm = start("");
    let path = realm.kdc.config().with_file_name("http.keytab");
    let renewed = realm.kdc.keytab("renewed.keytab", "HTTP/localhost");
    assert_asked(&ping(&mut realm.server.raw(), &token(&realm, &one("jo"))));
    fs::rename(renewed, path).unwrap();
    assert_ok(&ping(&mut realm.server.raw(), &token(&realm, &one("jo"))), 200);
}

/// Where a proxy stands between, one connection may carry many clients.
#[test]
fn nothing_is_bound_to_a_proxys_connection() {
    let realm = start("");
    for sign in ["Via", "Forwarded", "X-Forwarded-For"] {
        let by_proxy = Packet::ping(Form::Native, PATH).with(sign, "1.1 192.0.2.1");
        let mut raw = realm.server.raw();
        let proved = by_proxy.clone().with("Authorization", &token(&realm, &one("jo")));
        assert_ok(&raw.ask(&proved), 200);
        assert_asked(&raw.ping(PATH));
        assert_ok(&ping(&mut raw, &token(&realm, &one("jo"))), 200);
        assert_asked(&raw.ask(&by_proxy));
        assert_asked(&raw.ping(PATH));
    }
}

#[test]
fn nothing_is_bound_to_a_trusted_proxys_connection() {
    let mut realm = start("");
    let keytab = realm.kdc.keytab("http.keytab", "HTTP/localhost");
    let config = format!(
        "trusted_proxies = [\"127.0.0.1\"]\n[[directories]]\nurl_path = \"/upload\"\n\
         authentication = [\"negotiate\"]\nnegotiate_keytab = \"{}\"",
        keytab.display()
    );
    realm.server.restart_with(realm.server.options.clone().config(&config));
    let mut raw = realm.server.raw();
    assert_ok(&ping(&mut raw, &token(&realm, &one("jo"))), 200);
    assert_asked(&raw.ping(PATH));
}

#[test]
fn keytabs_that_are_of_no_use_are_told_of() {
    let kdc = Kdc::start();
    let missing = kdc.config().with_file_name("missing.keytab");
    let other_service = kdc.config().with_file_name("host.keytab");
    kdc.admin("addprinc -randkey host/localhost");
    kdc.admin(&format!("ktadd -k {} host/localhost", other_service.display()));
    for (keytab, words) in [
        (&missing, "cannot be read: No such file"),
        (&kdc.config(), "is no key table"),
        (&other_service, "has no key of HTTP/"),
    ] {
        let mut server = Server::prepare(options(&kdc, keytab, ""));
        server.spawn();
        assert_eq!(server.wait().code(), Some(2), "{}", server.log());
        assert!(server.log().contains(words), "{}", server.log());
        assert!(server.log().contains(keytab.to_str().unwrap()), "{}", server.log());

        let mut check = Command::new(server_binary());
        check.arg("check").arg("--config").arg(server.folder().join("bits.toml")).env("KRB5_CONFIG", kdc.config());
        let checked = check.output().unwrap();
        assert_eq!(checked.status.code(), Some(2));
        assert!(String::from_utf8(checked.stderr).unwrap().contains(words));
    }
}
