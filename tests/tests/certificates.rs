//! Who callers are by what comes with their connection: certificates, and trusted proxies' word.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::Command,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use tests::{Form, Packet, Server, ServerOptions, assert_ack, assert_error, assert_ok, list_files};

const ACCESS_DENIED: u32 = 0x8007_0005;
const PATH: &str = "/upload/a";
/// The example of Apache's documentation.
const USERS: &str = "jo:$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC\n";
const PASSWORD: &str = "myPassword";

/// An authority that signs certificates into a folder.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Writes `NAME.pem` and `NAME.key`.
    fn sign(&self, folder: &Path, name: &str, names: Vec<SanType>) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

fn mail(text: &str) -> SanType {
    SanType::Rfc822Name(text.try_into().unwrap())
}

fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// Sends a packet without a body over TLS by curl; the status, and the session if there is one.
fn curl(folder: &Path, address: SocketAddr, certificate: Option<&str>, kind: &str, path: &str) -> (String, String) {
    let mut command = Command::new("curl");
    command.args(["--silent", "--insecure", "--request", "BITS_POST", "--data", "", "--output", "/dev/null"]);
    command.args(["--header", &format!("BITS-Packet-Type: {kind}")]);
    command.args(["--header", "BITS-Supported-Protocols: {7df0354d-249b-430f-820d-3d2a9bef4931}"]);
    command.args(["--write-out", "%{http_code} %header{bits-session-id}"]);
    if let Some(name) = certificate {
        command.arg("--cert").arg(folder.join(format!("{name}.pem")));
        command.arg("--key").arg(folder.join(format!("{name}.key")));
    }
    let output = command.arg(format!("https://{address}{path}")).output().expect("curl runs");
    let text = String::from_utf8(output.stdout).unwrap();
    let (status, session) = text.split_once(' ').unwrap();
    (status.to_owned(), session.to_owned())
}

/// The owner of a certificate is the same after it was renewed; without one there is no way in.
#[test]
fn a_certificate_says_who_it_is() {
    let address = free_address();
    let mut server = Server::prepare(ServerOptions::new().config(&format!(
        "[[listeners]]\naddress = \"{address}\"\ncertificate = \"server.pem\"\nkey = \"server.key\"\n\
         client_ca = \"ca.pem\"\nclient_certificate = \"optional\"\n\
         [[directories]]\nurl_path = \"/upload\"\nauthentication = [\"certificate\"]\nper_user_folder = true\n\
         allow_users = [\"*@corp.example\"]\nsession_limit_per_user = 2\n"
    )));
    let folder = server.folder().to_owned();
    let authority = Authority::new();
    fs::write(folder.join("ca.pem"), &authority.pem).unwrap();
    authority.sign(&folder, "server", vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())]);
    authority.sign(&folder, "jo", vec![mail("Jo@Corp.Example")]);
    authority.sign(&folder, "stranger", vec![mail("jo@other.example")]);
    authority.sign(&folder, "nameless", vec![]);
    Authority::new().sign(&folder, "forged", vec![mail("jo@corp.example")]);
    server.launch();

    let ask = |certificate, kind, path| curl(&folder, address, certificate, kind, path);
    assert_eq!(ask(None, "Ping", PATH).0, "403");
    assert_eq!(ask(Some("nameless"), "Ping", PATH).0, "403");
    assert_eq!(ask(Some("stranger"), "Create-Session", PATH).0, "403");
    assert_eq!(ask(Some("forged"), "Ping", PATH).0, "000", "the handshake fails");
    let (status, session) = ask(Some("jo"), "Create-Session", "/upload/1");
    assert!(status == "200" && !session.is_empty());
    // A renewed certificate counts to the same user's sessions.
    authority.sign(&folder, "renewed", vec![mail("jo@corp.example")]);
    assert_eq!(ask(Some("renewed"), "Create-Session", "/upload/2").0, "200");
    assert_eq!(ask(Some("jo"), "Create-Session", "/upload/3").0, "503");
    // Plain HTTP brings no certificate, and no header stands in for it.
    let plain = Packet::ping(Form::Native, PATH).with("X-Remote-User", "jo@corp.example");
    assert_error(&server.raw().ask(&plain), 403, ACCESS_DENIED);
}

fn behind(proxies: &str, schemes: &str) -> Server {
    let htpasswd = if schemes.contains("basic") { "htpasswd = \"users\"" } else { "" };
    let mut server = Server::prepare(ServerOptions::new().config(&format!(
        "trusted_proxies = [{proxies}]\n[limits]\nfailed_logins_per_minute = 2\n[[directories]]\n\
         url_path = \"/upload\"\nauthentication = [{schemes}]\nper_user_folder = true\n{htpasswd}\n"
    )));
    fs::write(server.folder().join("users"), USERS).unwrap();
    server.launch();
    server
}

/// The user header is believed of a trusted proxy alone, and once.
#[test]
fn a_trusted_proxy_names_the_user() {
    let server = behind("\"127.0.0.1\"", "\"proxy\"");
    let mut raw = server.raw();
    let create = || Packet::create(Form::Native, PATH);
    let response = raw.ask(&create().with("X-Remote-User", "Jo@Corp"));
    assert_ok(&response, 200);
    let session = response.header("BITS-Session-Id").unwrap().to_owned();
    let whole = |user: &str| Packet::fragment(Form::Native, PATH, &session, 0, b"hello", 5).with("X-Remote-User", user);
    assert_error(&raw.ask(&whole("ann@corp")), 500, 0x8020_001F);
    assert_ok(&raw.ask(&whole("jo@corp")), 200);
    assert_eq!(list_files(&server.files()), ["upload/jo@corp/a"]);
    for packet in [
        create(),
        create().with("X-Remote-User", ""),
        create().with("X-Remote-User", "anonymous"),
        create().with("X-Remote-User", "jo@corp").and("x-remote-user", "ann@corp"),
    ] {
        let response = raw.ask(&packet);
        assert_error(&response, 403, ACCESS_DENIED);
        assert_eq!(response.header("WWW-Authenticate"), None);
    }
}

#[test]
fn nobody_else_names_the_user() {
    let server = behind("\"192.0.2.1\"", "\"proxy\"");
    let ping = Packet::ping(Form::Native, PATH).with("X-Remote-User", "jo").with("X-Forwarded-For", "192.0.2.1");
    assert_error(&server.raw().ask(&ping), 403, ACCESS_DENIED);
}

/// Several ways at once: the first that finds something decides, and 401 offers what can be asked for.
#[test]
fn schemes_stand_side_by_side() {
    let server = behind("\"127.0.0.1\"", "\"proxy\", \"basic\"");
    let mut raw = server.raw();
    let ping = || Packet::ping(Form::Native, PATH);
    let response = raw.ask(&ping());
    assert_ack(&response, 401, None);
    assert_eq!(response.all("WWW-Authenticate").len(), 1);
    assert_ok(&raw.ask(&ping().from("jo", PASSWORD)), 200);
    assert_ok(&raw.ask(&ping().with("X-Remote-User", "ann")), 200);
}

/// Beyond this machine no password is asked for or looked at in plain HTTP; through a trusted proxy
/// with https it is, and failures count for the client's address, not the proxy's.
#[test]
fn passwords_take_a_safe_way() {
    let server = behind("\"127.0.0.1\"", "\"basic\"");
    let mut raw = server.raw();
    let from = |client: &str, way: &str| {
        Packet::ping(Form::Native, PATH).with("X-Forwarded-For", client).with("X-Forwarded-Proto", way)
    };
    for packet in [from("192.0.2.7", "http"), from("192.0.2.7", "http").from("jo", PASSWORD)] {
        let response = raw.ask(&packet);
        assert_error(&response, 403, ACCESS_DENIED);
        assert_eq!(response.header("WWW-Authenticate"), None);
    }
    assert!(!server.log().contains("a password is hashed"));
    assert_ok(&raw.ask(&from("192.0.2.7", "https").from("jo", PASSWORD)), 200);
    for _ in 0..2 {
        assert_ack(&raw.ask(&from("192.0.2.7", "https").from("jo", "wrong")), 401, None);
    }
    assert_eq!(raw.ask(&from("192.0.2.7", "https").from("jo", PASSWORD)).status, 429);
    assert_ok(&raw.ask(&from("192.0.2.8", "https").from("jo", PASSWORD)), 200);
}
