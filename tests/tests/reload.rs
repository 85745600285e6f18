//! Another configuration at SIGHUP: it holds as a whole or not at all, and nothing is cut off.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{fs, time::Duration};

use tempfile::TempDir;
use tests::{
    Authority, Form, Packet, Server, ServerOptions, Upload, assert_ack, assert_next, assert_ok, assert_staging_empty,
    pattern, wait_until,
};

const RELOADED: &str = "the configuration was reloaded";
const REFUSED: &str = "the configuration was not reloaded, the one before holds: ";
/// The password is `myPassword`.
const HASH: &str = "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC";
const PASSWORD: &str = "myPassword";
const ACCESS_DENIED: u32 = 0x8007_0005;
const FILE: &str = "/upload/file.bin";

fn directory(url_path: &str, lines: &str) -> String {
    format!("[[directories]]\nurl_path = \"{url_path}\"\n{lines}\n")
}

fn with_users(url_path: &str, file: &str) -> String {
    directory(url_path, &format!("authentication = [\"basic\"]\nhtpasswd = \"{file}\""))
}

fn ping_as(server: &Server, user: &str, path: &str) -> u16 {
    server.raw().ask(&Packet::ping(Form::Native, path).from(user, PASSWORD)).status
}

/// A body that is half sent, a connection that is idle and a session between two fragments go on;
/// the new settings hold for what begins afterwards, also on connections that are open.
#[test]
fn nothing_under_way_is_cut_off() {
    let mut server = Server::start(ServerOptions::new());
    let mut sending = Upload::new(server.address(), FILE, 1, 400_000);
    sending.create().unwrap();
    sending.fragment(100_000).unwrap();
    sending.begin_fragment(300_000, 100_000).unwrap();
    let mut waiting = Upload::new(server.address(), "/upload/waiting.bin", 2, 200_000);
    waiting.create().unwrap();
    waiting.fragment(100_000).unwrap();
    let mut idle = server.raw();
    assert_ok(&idle.ping(FILE), 200);

    for round in 0..3 {
        let other = directory(&format!("/other{round}"), "");
        let said = server.reload(&format!("{}{other}", directory("/upload", "maximum_upload_size = \"1MiB\"")));
        assert!(said.contains(RELOADED) && !said.contains("WARN"), "{said}");
        assert_ok(&idle.ping(&format!("/other{round}/a")), 200);
        assert_ack(&idle.ping(&format!("/other{}/a", round + 1)), 404, Some(0x8007_0003));
    }
    let session = idle.create("/upload/large");
    assert_ack(&idle.fragment("/upload/large", &session, 0, b"x", 2 << 20), 500, Some(0x8020_0020));

    let rest = sending.content[200_000..].to_vec();
    let mut connection = sending.disconnect().unwrap();
    connection.send(&rest);
    assert_next(&connection.receive(), 400_000);
    assert_ok(&connection.close(FILE, sending.session()), 200);
    assert_eq!(server.file("upload/file.bin"), Some(sending.content.clone()));
    waiting.fragments(100_000).unwrap();
    waiting.close().unwrap();
    assert_eq!(server.file("upload/waiting.bin"), Some(waiting.content.clone()));
    assert_eq!(server.terminate().code(), Some(0));
}

#[test]
fn a_new_directory_is_served_and_a_removed_one_loses_its_sessions() {
    let mut server = Server::start(ServerOptions::new());
    let mut gone = Upload::new(server.address(), FILE, 1, 400_000);
    gone.create().unwrap();
    gone.fragment(100_000).unwrap();
    gone.begin_fragment(300_000, 100_000).unwrap();
    Upload::new(server.address(), "/upload/done.bin", 3, 1000).run(1000).unwrap();

    let said = server.reload(&directory("/other", ""));
    assert!(said.contains(RELOADED), "{said}");
    Upload::new(server.address(), "/other/file.bin", 2, 100_000).run(50_000).unwrap();
    assert!(server.file("other/file.bin").is_some());
    assert_ack(&server.raw().ping(FILE), 404, Some(0x8007_0003));
    assert!(gone.disconnect().unwrap().is_closed(), "its body was cut off");
    wait_until("its bytes are gone", || {
        !tests::list_files(&server.files()).iter().any(|file| file.contains("BITS-Sessions"))
    });
    assert_staging_empty(&server.files());
    assert!(server.file("upload/done.bin").is_some(), "published files stay");

    // It comes back without them.
    server.reload(&directory("/upload", ""));
    let again = Packet::fragment(Form::Native, FILE, gone.session(), 0, b"x", 400_000);
    assert_ack(&server.raw().ask(&again), 500, Some(0x8020_001F));
}

#[test]
fn a_wrong_configuration_is_refused_with_line_and_key() {
    let mut server = Server::start(ServerOptions::new().config(&directory("/upload", "")));
    for (toml, expected) in [
        (directory("/new", "maximum_upload_size = \"much\""), "bits.toml:3: directories.maximum_upload_size: "),
        (directory("/new", "htpaswd = \"x\""), "bits.toml:3: directories.htpaswd: "),
        (with_users("/new", "missing"), "/missing: "),
        ("listen = [".to_owned() + &directory("/new", ""), "bits.toml:"),
        (format!("log = \"loud\"\n{}", directory("/new", "")), "bits.toml:1: log: "),
    ] {
        let said = server.reload(&toml);
        assert!(said.contains(REFUSED) && said.contains(expected), "{toml}: {said}");
        assert!(!said.contains(RELOADED), "{said}");
        assert_ok(&server.raw().ping(FILE), 200);
        assert_ack(&server.raw().ping("/new/a"), 404, Some(0x8007_0003));
    }
    // All that is wrong is told, a line each.
    let said = server.reload(&directory("/new", "file_mode = \"0\"\nsession_timeout = \"never\""));
    assert_eq!(said.matches(REFUSED).count(), 2, "{said}");
    assert!(server.reload(&directory("/new", "")).contains(RELOADED));
    assert_ok(&server.raw().ping("/new/a"), 200);
}

/// The kernel would let it in no more.
#[test]
fn a_path_outside_of_those_at_the_start_is_refused() {
    let outside = TempDir::new().unwrap();
    fs::write(outside.path().join("users"), format!("jo:{HASH}\n")).unwrap();
    let users = outside.path().join("users").display().to_string();
    let reason =
        format!("{} lies outside the paths that the process was confined to when it started", outside.path().display());
    let mut server = Server::start(ServerOptions::new());
    let confined = server.log().contains("confined to its paths; it can run no programs");
    for toml in [with_users("/upload", &users), format!("[storage]\nurl = \"file:{}\"\n", outside.path().display())] {
        let said = server.reload(&toml);
        if confined {
            assert!(said.contains(REFUSED) && said.contains(&reason), "{said}");
            assert_ok(&server.raw().ping(FILE), 200);
        } else {
            assert!(said.contains(RELOADED), "{said}");
        }
    }
    // One that does not exist yet lies outside too.
    let missing = outside.path().join("missing");
    let said = server.reload(&format!("[storage]\nurl = \"file:{}\"\n", missing.display()));
    assert!(!confined || said.contains(REFUSED) && said.contains(missing.to_str().unwrap()), "{said}");

    let mut free = Server::start(ServerOptions::new().config("confine = false"));
    let said = free.reload(&format!("confine = false\n{}", with_users("/upload", &users)));
    assert!(said.contains(RELOADED), "{said}");
    assert_eq!((ping_as(&free, "jo", FILE), ping_as(&free, "ann", FILE)), (200, 401));
}

#[test]
fn who_may_upload_changes_and_failed_logins_stay_counted() {
    let mut server = Server::start(ServerOptions::new());
    let mut anonymous = Upload::new(server.address(), FILE, 1, 200_000);
    anonymous.create().unwrap();
    anonymous.fragment(100_000).unwrap();
    for (file, user) in [("one", "jo"), ("two", "ann")] {
        fs::write(server.folder().join(file), format!("{user}:{HASH}\n")).unwrap();
    }
    let limit = |number: u32, more: &str| format!("[limits]\nfailed_logins_per_minute = {number}\n{more}");

    server.reload(&limit(3, &with_users("/upload", "one")));
    assert_eq!((ping_as(&server, "jo", FILE), ping_as(&server, "ann", FILE)), (200, 401));
    // Nobody's session is nobody's any more.
    let fragment = anonymous.next_fragment(100_000);
    assert_ack(&server.raw().ask(&fragment), 401, None);
    assert_ack(&server.raw().ask(&fragment.from("jo", PASSWORD)), 500, Some(0x8020_001F));

    let hashed = |server: &Server| server.log().matches("a password is hashed").count();
    let before = hashed(&server);
    server.reload(&limit(3, &format!("{}{}", with_users("/upload", "one"), with_users("/other", "two"))));
    assert_eq!(ping_as(&server, "jo", FILE), 200);
    assert_eq!(hashed(&server), before, "a password that was right is remembered");
    assert_eq!((ping_as(&server, "jo", "/other/a"), ping_as(&server, "ann", "/other/a")), (401, 200));
    // Two have failed so far.
    assert_eq!((ping_as(&server, "eve", FILE), ping_as(&server, "jo", FILE)), (401, 429));

    // The file is reread after a reload too.
    server.reload(&limit(300, &with_users("/upload", "one")));
    fs::write(server.folder().join("one"), format!("zoe:{HASH}\n")).unwrap();
    wait_until("the file is reread", || server.log().contains("the file of users changed"));
}

#[test]
fn trusted_proxies_change_also_for_connections_that_are_open() {
    let proxied = directory("/upload", "authentication = [\"proxy\"]");
    let mut server =
        Server::start(ServerOptions::new().config(&format!("trusted_proxies = [\"127.0.0.1\"]\n{proxied}")));
    let mut proxy = server.raw();
    let by_proxy = Packet::ping(Form::Native, FILE).with("X-Remote-User", "jo");
    assert_ok(&proxy.ask(&by_proxy), 200);
    let said = server.reload(&format!("trusted_proxies = [\"192.0.2.1\"]\n{proxied}"));
    assert!(said.contains(RELOADED), "{said}");
    assert_ack(&proxy.ask(&by_proxy), 403, Some(ACCESS_DENIED));
}

#[test]
fn limits_change_and_who_is_in_stays() {
    let limit = |number: &str| format!("[limits]\nconnections = {number}\n");
    let mut server = Server::start(ServerOptions::new().config(&limit("\"unlimited\"")));
    let mut open: Vec<_> = (0..3).map(|_| server.raw()).collect();
    for raw in &mut open {
        assert_ok(&raw.ping(FILE), 200);
    }
    server.reload(&limit("3"));
    assert_ack(&server.raw().ping(FILE), 503, Some(0x8007_04D5));
    for raw in &mut open {
        assert_ok(&raw.ping(FILE), 200);
    }
    server.reload(&limit("4"));
    assert_ok(&server.raw().ping(FILE), 200);
    server.reload("[limits]\nconnections_per_address = 1\n");
    assert_ack(&server.raw().ping(FILE), 503, Some(0x8007_04D5));
    drop(open);
    wait_until("there is room again", || server.raw().ping(FILE).status == 200);
    // Bodies too.
    server.reload("[limits]\nidle_timeout = \"1s\"\n");
    let mut slow = Upload::new(server.address(), FILE, 1, 200_000);
    slow.create().unwrap();
    slow.begin_fragment(200_000, 1000).unwrap();
    let mut connection = slow.disconnect().unwrap();
    connection.patience(Duration::from_secs(20));
    assert!(connection.is_closed());
}

#[test]
fn certificates_change_also_to_other_files() {
    let authority = Authority::new("authority");
    let listener = |folder: &str, more: &str| {
        format!(
            "[[listeners]]\naddress = \"$LISTENER\"\ncertificate = \"{folder}cert.pem\"\nkey = \"{folder}key.pem\"\n{more}"
        )
    };
    let mut server = Server::prepare(ServerOptions::new().config(&listener("", "")));
    let (first, second) = (authority.issue(1, "server"), authority.issue(2, "server"));
    first.write(server.folder());
    fs::create_dir(server.folder().join("new")).unwrap();
    second.write(&server.folder().join("new"));
    fs::write(server.folder().join("ca.pem"), authority.pem()).unwrap();
    server.launch();
    let shown = |server: &Server| {
        let raw = server.raw_listener().tls(&authority.client()).unwrap();
        raw.negotiated().0.unwrap()
    };
    let mut open = server.raw_listener().tls(&authority.client()).unwrap();
    assert_ok(&open.ping(FILE), 200);
    let before = shown(&server);
    let said = server.reload(&listener("new/", ""));
    assert!(said.contains(RELOADED) && !said.contains("WARN"), "{said}");
    assert_ne!(shown(&server), before);
    assert_ok(&open.ping(FILE), 200);

    let said = server.reload(&listener("none/", ""));
    assert!(said.contains(REFUSED) && said.contains("none/cert.pem: cannot be read"), "{said}");
    assert_ne!(shown(&server), before);

    server.reload(&listener("new/", "client_ca = \"ca.pem\"\nclient_certificate = \"required\"\n"));
    let ping = |client: &tests::TlsClient<'_>| {
        let mut raw = server.raw_listener().tls(client)?;
        raw.try_send(&Packet::ping(Form::Native, FILE).encode())?;
        raw.try_receive()
    };
    assert!(ping(&authority.client()).is_err());
    assert_ok(&ping(&authority.client().identity(&authority.issue(3, "client"))).unwrap(), 200);
}

#[test]
fn what_is_logged_changes() {
    let mut server = Server::start(ServerOptions::new().env("RUST_LOG", "").config("log = \"info\""));
    server.raw().ping(FILE);
    assert!(!server.log().contains("packet answered"));
    let said = server.reload("log = \"info,bits_server=debug\"");
    assert!(!said.contains("WARN"), "{said}");
    server.raw().ping(FILE);
    wait_until("it is logged", || server.log().contains("packet answered"));
    server.reload("log = \"warn\"\n[limits]\nconnections = 7");
}

#[test]
fn what_cannot_change_is_named_and_stays() {
    let mut server = Server::start(ServerOptions::new());
    let said = server.reload(
        "confine = false\nlog = \"warn\"\n[storage]\nsync = \"fragment\"\n\
         [[listeners]]\naddress = \"127.0.0.1:1\"\ncertificate = \"\"\nkey = \"\"\n[[webhooks]]\nurl = \"http://127.0.0.1:1/\"\n",
    );
    for key in ["confine", "storage.sync", "listeners.address", "[[webhooks]]"] {
        assert!(said.contains(&format!("{key}: cannot change while the server runs; restart it")), "{key}: {said}");
    }
    assert!(said.contains("log: RUST_LOG stands above it") && said.contains(RELOADED), "{said}");
    // They are the same the next time.
    let said = server.reload("");
    assert!(!said.contains("WARN"), "{said}");
    let mut upload = Upload::new(server.address(), FILE, 1, 100);
    upload.content = pattern(4, 100);
    upload.run(100).unwrap();
    assert_eq!(server.terminate().code(), Some(0));
}
