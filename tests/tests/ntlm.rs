//! NTLM, within `Negotiate` and plain, by a client of another make.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{fs, thread, time::Duration};

use tests::{
    Form, Packet, Server, ServerOptions, assert_ack, assert_clean_log, assert_confined, assert_staging_empty, pattern,
    python,
};

const PASSWORD: &str = "correct horse";

/// The first message of a client, which asks for nothing but Unicode and a target.
const FIRST: &str = "TlRMTVNTUAABAAAAB4IIogAAAAAAAAAAAAAAAAAAAAAKALpHAAAADw==";

/// A server that knows one user of the domain `CORP`, which is the realm `corp.example`.
fn start(lines: &str) -> Server {
    let mut server = Server::prepare(ServerOptions::directory(&format!(
        "authentication = [\"negotiate\"]\nnegotiate_ntlm_domains = [\"CORP=corp.example\"]\n\
         negotiate_ntlm_users = \"users\"\n{lines}"
    )));
    fs::write(server.folder().join("users"), format!("CORP:jo:{PASSWORD}\n")).unwrap();
    server.launch();
    server
}

/// What the client is answered, a line each.
fn upload(server: &Server, scheme: &str, protocol: &str, user: &str, password: &str) -> String {
    upload_with(server, &[scheme, protocol, user, password], &[])
}

fn upload_with(server: &Server, login: &[&str; 4], more: &[&str]) -> String {
    let file = server.folder().join("file");
    fs::write(&file, pattern(5, 200_000)).unwrap();
    let mut client = python("ntlm.py");
    client.arg(server.address().port().to_string()).args(login).arg(&file).args(more);
    let output = client.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn an_upload_by_ntlm() {
    for (scheme, protocol) in [("NTLM", "ntlm"), ("Negotiate", "ntlm"), ("Negotiate", "negotiate")] {
        let server = start("allow_users = [\"jo@corp.example\"]");
        let answers = upload(&server, scheme, protocol, "CORP\\jo", PASSWORD);
        let expected = format!(
            "Create-Session 401 {scheme}+\nCreate-Session 200\nFragment 200\n\
             Fragment 401 {scheme}+\nFragment 200\nClose-Session 200\n"
        );
        // The last answer within SPNEGO carries its end.
        let answers = answers.replace(&format!(" 200 {scheme}+"), " 200");
        assert_eq!(answers, expected, "{scheme} {protocol}");
        assert!(server.file("upload/ntlm.bin") == Some(pattern(5, 200_000)), "the file is what was sent");
        assert_staging_empty(&server.files());
        assert_clean_log(&server.log_bytes());
        let log = server.log();
        assert_confined(&log);
        assert!(log.lines().any(|line| line.contains("audit") && line.contains("jo@corp.example")), "{log}");
    }
}

/// Whether the client waits to be asked for its body or not, each round leaves the connection as it was.
#[test]
fn rounds_with_100_continue_keep_their_connection() {
    for (scheme, protocol) in [("NTLM", "ntlm"), ("Negotiate", "negotiate")] {
        for manner in ["wait", "impatient"] {
            let server = start("");
            let answers = upload_with(&server, &[scheme, protocol, "CORP\\jo", PASSWORD], &[manner]);
            let rounds = format!("Fragment 401 NTLM Negotiate\nFragment 401 {scheme}+\nFragment 200");
            assert!(answers.contains(&rounds), "{scheme} {manner}: {answers}");
            assert!(server.file("upload/ntlm.bin") == Some(pattern(5, 200_000)), "the file is what was sent");
        }
    }
}

/// A line on which a body takes longer than others that are refused are read.
#[test]
fn a_round_waits_for_a_slow_body() {
    let server = start("");
    let mut raw = server.raw();
    let body = pattern(1, 26);
    let id = "{7df0354d-249b-430f-820d-3d2a9bef4931}";
    let packet = Packet::fragment(Form::Native, "/upload/x", id, 0, &body, 26);
    raw.send(&packet.with("Authorization", &format!("NTLM {FIRST}")).head());
    for byte in body {
        raw.send(&[byte]);
        thread::sleep(Duration::from_millis(450));
    }
    let second = raw.receive();
    assert!(second.header("WWW-Authenticate").is_some_and(|value| value.starts_with("NTLM TlRM")), "{second:#?}");
    assert_ack(&raw.ping("/upload/x"), 401, None);
}

#[test]
fn who_is_not_of_a_domain_that_is_named_stays_out() {
    let server = start("[limits]\nfailed_logins_per_minute = \"unlimited\"");
    fs::write(server.folder().join("users"), format!("CORP:jo:{PASSWORD}\nOTHER:jo:{PASSWORD}\nOTHER:al:{PASSWORD}\n"))
        .unwrap();
    let refused = [
        ("CORP\\jo", "wrong"),
        ("CORP\\jo", ""),
        ("CORP\\nobody", PASSWORD),
        ("OTHER\\jo", PASSWORD),
        ("CORP\\al", PASSWORD),
        ("jo", PASSWORD),
        ("jo@corp.example", PASSWORD),
    ];
    let ways = [("NTLM", "ntlm"), ("Negotiate", "negotiate")];
    for ((user, password), (scheme, protocol)) in refused.into_iter().zip(ways.into_iter().cycle()) {
        let answers = upload(&server, scheme, protocol, user, password);
        assert!(!answers.contains(" 200"), "{user} {scheme}: {answers}");
        assert!(answers.contains("Create-Session 401 NTLM Negotiate\n"), "{user} {scheme}: {answers}");
    }
    assert!(upload(&server, "NTLM", "ntlm", "CORP\\JO", PASSWORD).ends_with("Close-Session 200\n"));
}

/// It takes several requests, which a proxy may spread or mix.
#[test]
fn by_a_proxy_there_is_no_ntlm() {
    let server = start("");
    let mut raw = server.raw();
    let by_proxy = Packet::ping(Form::Native, "/upload/x").with("Via", "1.1 proxy");
    let asked = raw.ask(&by_proxy);
    assert_ack(&asked, 401, None);
    assert_eq!(asked.header("WWW-Authenticate"), Some("Negotiate"));
    let first = raw.ask(&by_proxy.with("Authorization", &format!("NTLM {FIRST}")));
    assert_ack(&first, 401, None);
    assert_eq!(first.header("WWW-Authenticate"), Some("Negotiate"), "there is no second message");
    assert_eq!(server.metric("bits_failed_logins_total"), 0.0, "nobody has tried a password");

    let direct = Packet::ping(Form::Native, "/upload/x").with("Authorization", &format!("NTLM {FIRST}"));
    let second = raw.ask(&direct);
    assert!(second.header("WWW-Authenticate").is_some_and(|value| value.starts_with("NTLM TlRM")), "{second:#?}");
}
