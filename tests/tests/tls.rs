//! TLS on listeners: versions, client certificates, revocation, and files that change.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    fs,
    io::{self, Write},
    net::TcpStream,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use tests::{
    Authority, Form, Identity, Packet, Raw, Response, Server, ServerOptions, TlsClient, assert_ack, assert_next,
    assert_ok, client_binary, pattern, server_binary, wait_until,
};

const LISTENER: &str = "[[listeners]]\naddress = \"$LISTENER\"\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n";
const FILE: &str = "/upload/file.bin";

fn listener(more: &str) -> ServerOptions {
    ServerOptions::new().config(&format!("{LISTENER}{more}"))
}

/// A server with a certificate of `authority`, and the files of `more`.
fn serve(authority: &Authority, options: ServerOptions, more: &[(&str, &str)]) -> Server {
    let mut server = Server::prepare(options);
    authority.issue(1, "server").write(server.folder());
    for (name, content) in more {
        fs::write(server.folder().join(name), content).unwrap();
    }
    server.launch();
    server
}

/// One Ping within TLS. Whether a certificate is taken shows, in TLS 1.3, after the handshake.
fn ping(server: &Server, client: &TlsClient<'_>) -> io::Result<Response> {
    let mut raw = server.raw_listener().tls(client)?;
    raw.try_send(&Packet::ping(Form::Native, FILE).encode())?;
    raw.try_receive()
}

#[test]
fn uploads_go_through_both_versions_and_no_other_protocol() {
    let authority = Authority::new("authority");
    let server = serve(&authority, listener(""), &[]);
    let data = pattern(7, 300_000);
    let both = [("/upload/two", &rustls::version::TLS12), ("/upload/three", &rustls::version::TLS13)];
    for (path, version) in both {
        let client = authority.client().versions(std::slice::from_ref(&version)).protocols(&["h2", "http/1.1"]);
        let mut raw = server.raw_listener().tls(&client).unwrap();
        assert_eq!(raw.negotiated().1.as_deref(), Some("http/1.1"));
        let session = raw.create(path);
        assert_next(&raw.fragment(path, &session, 0, &data[..100_000], 300_000), 100_000);
        // Long enough for the connection to be parked.
        thread::sleep(Duration::from_millis(400));
        assert_next(&raw.fragment(path, &session, 100_000, &data[100_000..], 300_000), 300_000);
        thread::sleep(Duration::from_millis(400));
        assert_ok(&raw.close(path, &session), 200);
        assert_eq!(server.file(&path[1..]).unwrap(), data);
    }
    let only_h2 = server.raw_listener().tls(&authority.client().protocols(&["h2"]));
    assert!(only_h2.is_err(), "HTTP/2 is not spoken");
}

/// A record may hold one request, or several packets' worth; none may be lost while parked.
#[test]
fn a_parked_connection_loses_no_byte() {
    let authority = Authority::new("authority");
    let server = serve(&authority, listener(""), &[]);
    let mut raw = server.raw_listener().tls(&authority.client()).unwrap();
    let ping = Packet::ping(Form::Native, FILE).encode();
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(300));
        raw.send(&[&ping[..], &ping[..]].concat());
        assert_ok(&raw.receive(), 200);
        assert_ok(&raw.receive(), 200);
        thread::sleep(Duration::from_millis(300));
        raw.send(&ping[..1]);
        thread::sleep(Duration::from_millis(300));
        raw.send(&ping[1..]);
        assert_ok(&raw.receive(), 200);
    }
}

#[test]
fn an_idle_connection_is_ended_properly() {
    let authority = Authority::new("authority");
    let options = ServerOptions::new().config(&format!("[limits]\nidle_timeout = \"1s\"\n{LISTENER}"));
    let server = serve(&authority, options, &[]);
    let mut raw = server.raw_listener().tls(&authority.client()).unwrap();
    assert_ok(&raw.ping(FILE), 200);
    // rustls tells an end without close_notify from a proper one, both by an error of this kind.
    let ended = raw.try_receive().unwrap_err();
    assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
    assert!(!ended.to_string().contains("close_notify"), "{ended}");
}

/// A connection counts for its address before its handshake: silent ones cannot take everybody's room.
#[test]
fn a_handshake_under_way_takes_room_of_its_address() {
    let authority = Authority::new("authority");
    let options = ServerOptions::new().config(&format!("[limits]\nconnections_per_address = 1\n{LISTENER}"));
    let server = serve(&authority, options, &[]);
    let silent = server.raw_listener();
    wait_until("its handshake has begun", || server.metric("bits_tls_handshakes") == 1.0);
    let refused = ping(&server, &authority.client()).unwrap();
    assert_ack(&refused, 503, Some(0x8007_04D5));
    assert_eq!(server.metric("bits_connections_refused_total{reason=\"connections_per_address\"}"), 1.0);
    drop(silent);
    wait_until("there is room again", || ping(&server, &authority.client()).is_ok_and(|answer| answer.status == 200));
}

#[test]
fn older_versions_are_refused() {
    let authority = Authority::new("authority");
    let server = serve(&authority, listener(""), &[]);
    let connect = |version: &str| {
        let address = server.listener_address().to_string();
        // Level 0 makes OpenSSL willing to speak the old versions at all.
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &address, version, "-cipher", "DEFAULT@SECLEVEL=0"]);
        String::from_utf8_lossy(&command.stdin(Stdio::null()).output().unwrap().stdout).into_owned()
    };
    let taken = connect("-tls1_2");
    assert!(taken.contains("Cipher is ECDHE-"), "{taken}");
    for version in ["-tls1_1", "-tls1"] {
        let refused = connect(version);
        assert!(refused.contains("Cipher is (NONE)"), "{refused}");
    }
}

#[test]
fn plain_http_gets_no_answer_where_tls_is_spoken() {
    let authority = Authority::new("authority");
    let server = serve(&authority, listener(""), &[]);
    let mut raw = server.raw_listener();
    raw.send(&Packet::ping(Form::Native, FILE).encode());
    assert!(raw.try_receive_plain_fails());
    wait_until("it is counted", || server.metric("bits_connections_refused_total{reason=\"tls_handshake\"}") == 1.0);
    assert!(server.log().contains("a connection was refused"));
}

trait PlainFails {
    fn try_receive_plain_fails(&mut self) -> bool;
}

impl PlainFails for Raw {
    /// What comes is at most a TLS alert, which is no HTTP.
    fn try_receive_plain_fails(&mut self) -> bool {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.try_receive())).map_or(true, |read| read.is_err())
    }
}

#[test]
fn a_certificate_may_be_optional_or_required() {
    let (authority, stranger) = (Authority::new("authority"), Authority::new("stranger"));
    let (known, unknown) = (authority.issue(2, "known"), stranger.issue(3, "unknown"));
    for (kind, without) in [("optional", true), ("required", false)] {
        let options = listener(&format!("client_ca = \"ca.pem\"\nclient_certificate = \"{kind}\"\n"));
        let server = serve(&authority, options, &[("ca.pem", authority.pem())]);
        for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
            let client = || authority.client().versions(versions);
            assert_ok(&ping(&server, &client().identity(&known)).unwrap(), 200);
            assert_eq!(ping(&server, &client()).is_ok(), without, "{kind} without");
            assert!(ping(&server, &client().identity(&unknown)).is_err(), "{kind} of a stranger");
        }
    }
}

#[test]
fn a_revoked_certificate_is_refused_also_when_it_is_revoked_later() {
    let authority = Authority::new("authority");
    let (first, second): (Identity, Identity) = (authority.issue(2, "first"), authority.issue(3, "second"));
    let options = listener("client_ca = \"ca.pem\"\nclient_crl = \"crl.pem\"\nclient_certificate = \"required\"\n");
    let list = authority.revoke(&[&first]);
    let server = serve(&authority, options, &[("ca.pem", authority.pem()), ("crl.pem", &list)]);
    let taken = |identity| ping(&server, &authority.client().identity(identity)).is_ok();
    assert!(!taken(&first));
    assert!(taken(&second));
    // Nor does it come in by a session that began before.
    let clients = [&rustls::version::TLS12, &rustls::version::TLS13].map(|version| [version]);
    let clients = clients.each_ref().map(|versions| authority.client().identity(&second).versions(versions).resuming());
    for client in &clients {
        ping(&server, client).unwrap();
        let again = server.raw_listener().tls(client).unwrap();
        assert!(again.is_resumed(), "{client:?}");
    }
    fs::write(server.folder().join("crl.pem"), authority.revoke(&[&first, &second])).unwrap();
    for client in &clients {
        wait_until("the new list is read", || ping(&server, client).is_err());
    }
}

#[test]
fn a_new_certificate_is_taken_while_an_upload_goes_on() {
    let authority = Authority::new("authority");
    let server = serve(&authority, listener(""), &[]);
    let data = pattern(8, 200_000);
    let mut old = server.raw_listener().tls(&authority.client()).unwrap();
    let before = old.negotiated().0.unwrap();
    let session = old.create(FILE);
    let packet = Packet::fragment(Form::Native, FILE, &session, 0, &data, 200_000).encode();
    let (sent, rest) = packet.split_at(packet.len() - 100_000);
    old.send(sent);

    // The certificate comes before its key, as it does in practice.
    let renewed = authority.issue(9, "renewed");
    fs::write(server.folder().join("cert.pem"), &renewed.pem).unwrap();
    thread::sleep(Duration::from_secs(5));
    let shown = || server.raw_listener().tls(&authority.client()).unwrap().negotiated().0.unwrap();
    assert_eq!(shown(), before, "a certificate without its key changes nothing");
    assert!(server.log().contains("cannot be used; what was read before still serves"));
    assert!(server.log().contains("is not the key of the first certificate in "));
    fs::write(server.folder().join("key.pem"), &renewed.key_pem).unwrap();
    wait_until("the new certificate is shown", || shown() == renewed.certificate);

    old.send(rest);
    assert_next(&old.receive(), 200_000);
    assert_ok(&old.close(FILE, &session), 200);
    assert_eq!(server.file("upload/file.bin").unwrap(), data);
    assert_eq!(server.metric("bits_tls_reloads_total{result=\"failed\"}"), 1.0);
    assert_eq!(server.metric("bits_tls_reloads_total{result=\"done\"}"), 1.0);
}

#[test]
fn slow_handshakes_are_ended() {
    let authority = Authority::new("authority");
    let options = ServerOptions::new().config(&format!("[limits]\nheader_timeout = \"1s\"\n{LISTENER}"));
    let server = serve(&authority, options, &[]);
    let mut silent: Vec<_> = (0..20).map(|_| server.raw_listener()).collect();
    // The beginning of a ClientHello.
    silent[0].send(&[22, 3, 1, 2, 0, 1]);
    wait_until("they are under way", || server.metric("bits_tls_handshakes") == 20.0);
    for raw in &mut silent {
        assert!(raw.is_closed());
    }
    wait_until("they are over", || server.metric("bits_tls_handshakes") == 0.0);
    assert_eq!(server.metric("bits_connections_refused_total{reason=\"opening_timeout\"}"), 20.0);
    let lines = server.log().matches("took longer than limits.header_timeout").count();
    assert!((1..5).contains(&lines), "{lines} lines of a flood");
}

#[test]
fn curl_and_bits_upload_over_tls() {
    let authority = Authority::new("authority");
    let server = serve(&authority, listener(""), &[("ca.pem", authority.pem())]);
    let (folder, url) = (server.folder(), format!("https://{}/upload", server.listener_address()));
    let (ca, source) = (folder.join("ca.pem"), folder.join("source"));
    fs::write(&source, pattern(9, 100_000)).unwrap();

    let curl = Command::new("curl")
        .args(["--silent", "--show-error", "--include", "--request", "BITS_POST", "--header", "BITS-Packet-Type: Ping"])
        .args(["--header", "Content-Length: 0", "--cacert"])
        .arg(&ca)
        .arg(format!("{url}/curl"))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&curl.stdout).starts_with("HTTP/1.1 200 OK"), "{curl:?}");

    let bits = |name: &str, arguments: &[&str], variable: &str| -> Output {
        let mut command = Command::new(client_binary());
        command.args(["upload"]).args(arguments).arg(&source).arg(format!("{url}/{name}"));
        command.env("BITS_JOBS_DIR", folder.join("jobs")).env(variable, &ca).stdin(Stdio::null()).output().unwrap()
    };
    let by_flag = bits("flag", &["--ca-file", ca.to_str().unwrap()], "UNUSED");
    assert!(by_flag.status.success(), "{by_flag:?}");
    let by_variable = bits("variable", &[], "SSL_CERT_FILE");
    assert!(by_variable.status.success(), "{by_variable:?}");
    for name in ["flag", "variable"] {
        assert_eq!(server.file(&format!("upload/{name}")).unwrap(), pattern(9, 100_000));
    }
    let unknown = bits("unknown", &["--retry-for", "1s"], "UNUSED");
    assert!(!unknown.status.success(), "{unknown:?}");
}

#[test]
fn bits_shows_its_certificate() {
    let authority = Authority::new("authority");
    let options = listener("client_ca = \"ca.pem\"\nclient_certificate = \"required\"\n");
    let (own, stranger) = (authority.issue(2, "client"), Authority::new("another").issue(3, "stranger"));
    let both = format!("{}{}", own.pem, own.key_pem);
    let files = [
        ("ca.pem", authority.pem()),
        ("own.pem", &own.pem),
        ("own.key", &own.key_pem),
        ("both.pem", &both),
        ("stranger.pem", &stranger.pem),
        ("stranger.key", &stranger.key_pem),
    ];
    let server = serve(&authority, options, &files);
    fs::write(server.folder().join("source"), pattern(4, 100_000)).unwrap();
    let bits = |name: &str, arguments: &[&str]| {
        let mut command = Command::new(client_binary());
        command.args(["upload", "--ca-file", "ca.pem", "--retry-for", "1s"]).args(arguments).arg("source");
        command.arg(format!("https://{}/upload/{name}", server.listener_address())).stdin(Stdio::null());
        command.current_dir(server.folder()).env("BITS_JOBS_DIR", server.folder().join("jobs")).output().unwrap()
    };
    for (name, arguments) in
        [("apart", &["--cert", "own.pem", "--key", "own.key"][..]), ("together", &["--cert", "both.pem"])]
    {
        let output = bits(name, arguments);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(server.file(&format!("upload/{name}")).unwrap(), pattern(4, 100_000));
    }
    for (name, arguments) in [("none", &[][..]), ("stranger", &["--cert", "stranger.pem", "--key", "stranger.key"])] {
        let output = bits(name, arguments);
        assert!(!output.status.success(), "{output:?}");
        assert_eq!(server.file(&format!("upload/{name}")), None);
    }
    let mistaken = bits("mistaken", &["--cert", "own.pem", "--key", "stranger.key"]);
    assert!(!mistaken.status.success(), "{mistaken:?}");
    let said = String::from_utf8_lossy(&mistaken.stderr).into_owned();
    assert!(!said.contains("PRIVATE KEY"), "{said}");
}

fn run(server: &Server, config: &str, command: &str) -> Output {
    let path = server.folder().join("tried.toml");
    fs::write(&path, config).unwrap();
    Command::new(server_binary()).args([command, "--config"]).arg(path).output().unwrap()
}

#[test]
fn what_cannot_be_used_is_told_by_serve_and_check_alike() {
    let authority = Authority::new("authority");
    let server = Server::prepare(ServerOptions::new());
    let (one, other) = (authority.issue(1, "one"), authority.issue(2, "other"));
    fs::write(server.folder().join("cert.pem"), &one.pem).unwrap();
    let config = format!("listen = []\nadmin.listen = \"\"\n{}", LISTENER.replace("$LISTENER", "127.0.0.1:0"));
    for (key, expected) in [
        (None, "key.pem: cannot be read: No such file or directory"),
        (Some(&other.key_pem), "key.pem: is not the key of the first certificate"),
    ] {
        if let Some(key) = key {
            fs::write(server.folder().join("key.pem"), key).unwrap();
        }
        for command in ["serve", "check"] {
            let output = run(&server, &config, command);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert!(said.contains(expected), "{command}: {said}");
        }
    }
}

#[test]
fn check_warns_of_optional_certificates_and_of_passwords_in_the_clear() {
    let authority = Authority::new("authority");
    let server = Server::prepare(ServerOptions::new());
    authority.issue(1, "server").write(server.folder());
    fs::write(server.folder().join("ca.pem"), authority.pem()).unwrap();
    let optional = format!("{LISTENER}client_ca = \"ca.pem\"\nclient_certificate = \"optional\"\n");
    let output = run(&server, &optional.replace("$LISTENER", "127.0.0.1:0"), "check");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("0x80072F0C"), "{said}");

    fs::write(server.folder().join("users"), "").unwrap();
    let basic = "[[directories]]\nauthentication = [\"basic\"]\nhtpasswd = \"users\"\n";
    let (refused, warned) = (Some("would show passwords"), Some("takes no passwords, since it is plain HTTP"));
    let tls = "[[listeners]]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n";
    for (rest, expected) in [
        ("listen = [\"0.0.0.0:80\"]\n", refused),
        ("listen = [\"127.0.0.1:80\"]\n", None),
        ("listen = [\"0.0.0.0:80\"]\ntrusted_proxies = [\"192.0.2.1\"]\n", warned),
        ("listen = []\n[[listeners]]\ncertificate = \"\"\n", refused),
        ("listen = []\n[[listeners]]\ncertificate = \"\"\nallow_plain_basic = true\n", None),
        (&format!("listen = []\n{tls}"), None),
        (&format!("listen = [\"0.0.0.0:80\"]\n{tls}"), warned),
    ] {
        let output = run(&server, &format!("{rest}{basic}"), "check");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), expected != refused, "{rest}: {said}");
        assert_eq!(said.contains("password"), expected.is_some(), "{rest}: {said}");
        assert!(said.contains(expected.unwrap_or_default()), "{rest}: {said}");
    }
}

/// As many as a small fleet, each idle between two fragments.
#[test]
fn many_idle_connections_answer_again() {
    let authority = Authority::new("authority");
    let server = serve(&authority, listener(""), &[]);
    let client = authority.client();
    let mut fleet: Vec<_> = (0..200).map(|_| server.raw_listener().tls(&client).unwrap()).collect();
    for raw in &mut fleet {
        assert_ok(&raw.ping(FILE), 200);
    }
    thread::sleep(Duration::from_millis(500));
    for raw in &mut fleet {
        assert_ok(&raw.ping(FILE), 200);
    }
}

#[test]
fn no_room_is_told_within_tls() {
    let authority = Authority::new("authority");
    let options = ServerOptions::new().config(&format!("[limits]\nconnections = 1\n{LISTENER}"));
    let server = serve(&authority, options, &[]);
    let mut first = server.raw_listener().tls(&authority.client()).unwrap();
    assert_ok(&first.ping(FILE), 200);
    let refused = ping(&server, &authority.client()).unwrap();
    assert_ack(&refused, 503, Some(0x8007_04D5));
    assert_eq!(server.metric("bits_connections_refused_total{reason=\"connections\"}"), 1.0);
}

/// An upload survives a client that breaks off without a word.
#[test]
fn a_broken_connection_keeps_what_came() {
    let authority = Authority::new("authority");
    let server = serve(&authority, listener(""), &[]);
    let data = pattern(10, 50_000);
    let mut raw = server.raw_listener().tls(&authority.client()).unwrap();
    let session = raw.create(FILE);
    let packet = Packet::fragment(Form::Native, FILE, &session, 0, &data, 50_000).encode();
    raw.send(&packet[..packet.len() - 10_000]);
    drop(raw);
    let mut raw = server.raw_listener().tls(&authority.client()).unwrap();
    wait_until("the server has noticed", || {
        server.metric("bits_bodies_ended_early_total{reason=\"disconnected\"}") == 1.0
    });
    assert_next(&raw.fragment(FILE, &session, 0, &data[..1], 50_000), 40_000);
    assert_next(&raw.fragment(FILE, &session, 40_000, &data[40_000..], 50_000), 50_000);
    assert_eq!(server.file("upload/file.bin").unwrap(), data);
}

/// Bytes that are no TLS end one connection and nothing else.
#[test]
fn garbage_ends_its_own_connection() {
    let authority = Authority::new("authority");
    let server = serve(&authority, listener(""), &[]);
    for seed in 0..50 {
        let mut stream = TcpStream::connect(server.listener_address()).unwrap();
        let _ = stream.write_all(&pattern(seed, 3000));
    }
    assert_ok(&ping(&server, &authority.client()).unwrap(), 200);
}
