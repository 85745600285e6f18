//! Who callers are, and what is theirs: Basic authentication, users' sessions, folders and limits.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    fs,
    io::Write,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
};

use tests::{
    Form, Packet, Raw, Response, Server, ServerOptions, assert_ack, assert_clean_log, assert_error, assert_next,
    assert_ok, list_files, pattern, server_binary, wait_until,
};

/// The example of Apache's documentation; the password is `myPassword`.
const HASH: &str = "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC";
const PASSWORD: &str = "myPassword";
const ACCESS_DENIED: u32 = 0x8007_0005;
const SESSION_NOT_FOUND: u32 = 0x8020_001F;
const DISK_FULL: u32 = 0x8007_0070;
const PATH: &str = "/upload/a";
const OFFER: &str = "Basic realm=\"BITS\", charset=\"UTF-8\"";

/// `/upload` for these users, who all have one password, with these lines in its table; `/open`
/// for everyone.
fn options(lines: &str) -> ServerOptions {
    with_limits("", lines)
}

fn with_limits(limits: &str, lines: &str) -> ServerOptions {
    ServerOptions::new().config(&format!(
        "[limits]\n{limits}\n[[directories]]\nurl_path = \"/upload\"\nauthentication = [\"basic\"]\n\
         htpasswd = \"users\"\n{lines}\n[[directories]]\nurl_path = \"/open\"\n"
    ))
}

fn start(options: ServerOptions, users: &[&str]) -> Server {
    let mut server = Server::prepare(options);
    write_users(&server, users);
    server.launch();
    server
}

fn write_users(server: &Server, users: &[&str]) {
    let lines: Vec<String> = users.iter().map(|user| format!("{user}:{HASH}\n")).collect();
    fs::write(server.folder().join("users"), lines.concat()).unwrap();
}

fn create(user: &str, path: &str) -> Packet {
    Packet::create(Form::Native, path).from(user, PASSWORD)
}

fn session_of(raw: &mut Raw, user: &str, path: &str) -> String {
    let response = raw.ask(&create(user, path));
    assert_ok(&response, 200);
    response.header("BITS-Session-Id").unwrap().to_owned()
}

fn fragment(user: &str, path: &str, session: &str, bytes: &[u8], total: u64) -> Packet {
    Packet::fragment(Form::Native, path, session, 0, bytes, total).from(user, PASSWORD)
}

/// How many passwords the server has hashed.
fn hashed(server: &Server) -> usize {
    server.log().matches("a password is hashed").count()
}

fn password_command(file: &Path, user: &str, input: &str) -> Output {
    let mut command = Command::new(server_binary());
    command.args(["password", user, "--file"]).arg(file);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// Every packet of a caller who is not known is answered 401 by an ack that offers Basic; the body
/// in flight is read first, and the connection goes on.
#[test]
fn a_401_is_an_ack_and_the_connection_goes_on() {
    let server = start(options(""), &["jo"]);
    let body = pattern(1, 3 << 20);
    let id = "{7DF0354D-249B-430F-820D-3D2A9BEF4931}";
    for form in Form::ALL {
        let mut raw = server.raw_in(form);
        for packet in [
            Packet::ping(form, PATH),
            Packet::create(form, PATH),
            Packet::fragment(form, PATH, id, 0, &body, 4 << 20),
            Packet::close(form, PATH, id),
            Packet::cancel(form, PATH, id),
            Packet::new(form, "Nonsense", PATH),
        ] {
            let response = raw.ask(&packet);
            assert_ack(&response, 401, None);
            assert_eq!(response.all("WWW-Authenticate"), [OFFER]);
            assert_eq!(response.header("BITS-Session-Id"), None);
        }
        let response = raw.ask(&Packet::create(form, PATH).from("jo", PASSWORD));
        assert_ok(&response, form.created());
        let session = response.header("BITS-Session-Id").unwrap().to_owned();
        let part = Packet::fragment(form, PATH, &session, 0, &body, 4 << 20);
        assert_ack(&raw.ask(&part), 401, None);
        assert_next(&raw.ask(&part.from("jo", PASSWORD)), 3 << 20);
    }
}

#[test]
fn reading_takes_a_login_too() {
    let server = start(options(""), &["jo"]);
    let mut raw = server.raw();
    for method in ["GET", "HEAD", "PUT"] {
        for path in [PATH, "/UPLOAD/%61", "/upload", "/upload/", "/upload/BITS-Sessions/Replies/x/responsefile.bin"] {
            raw.send(format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").as_bytes());
            let response = raw.receive();
            assert_eq!((response.status, response.header("WWW-Authenticate")), (401, Some(OFFER)), "{method} {path}");
            assert_eq!(response.header("Cache-Control"), Some("no-store"));
        }
    }
    raw.send(b"GET /open/a HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(raw.receive().status, 404);
}

/// Whatever is wrong with a login, the answer is the one to no login at all, byte for byte.
#[test]
fn a_401_tells_nothing() {
    let server = start(options(""), &["jo"]);
    let mut raw = server.raw();
    let none = raw.ask(&Packet::ping(Form::Native, PATH));
    let ping = || Packet::ping(Form::Native, PATH);
    for packet in [
        ping().from("jo", "wrong"),
        ping().from("jo", ""),
        ping().from("nobody", PASSWORD),
        ping().from("", PASSWORD),
        ping().from("anonymous", PASSWORD),
        ping().from("jo@x", PASSWORD),
        ping().from("jo", &"x".repeat(2000)),
        ping().from("jo\n", PASSWORD),
        ping().with("Authorization", "Basic"),
        ping().with("Authorization", "Basic !!!"),
        ping().with("Authorization", "Digest username=\"jo\""),
        ping().with("Authorization", "Negotiate YII="),
        ping().from("jo", PASSWORD).and("Authorization", "Basic am86eA=="),
    ] {
        assert_eq!(raw.ask(&packet).timeless(), none.timeless(), "{packet:?}");
    }
    assert_ok(&raw.ask(&ping().from("JO", PASSWORD)), 200);
}

/// An unknown user costs as many hashes as a known one, and a right password one only.
#[test]
fn unknown_users_cost_the_same_and_fragments_nothing() {
    let server = start(with_limits("failed_logins_per_minute = \"unlimited\"", ""), &["jo", "ann"]);
    let mut raw = server.raw();
    for (number, user) in ["jo", "nobody", "ann", "anonymous"].into_iter().enumerate() {
        assert_eq!(raw.ask(&Packet::ping(Form::Native, PATH).from(user, "wrong")).status, 401);
        assert_eq!(hashed(&server), number + 1, "{user}");
    }
    let session = session_of(&mut raw, "jo", PATH);
    assert_eq!(hashed(&server), 5);
    for first in 0..20 {
        let packet = Packet::fragment(Form::Native, PATH, &session, first, b"x", 100).from("jo", PASSWORD);
        assert_next(&raw.ask(&packet), first + 1);
    }
    assert_eq!(hashed(&server), 5, "a fragment does not cost a hash");
}

/// Another user's session looks like none: the same bytes, and nothing happens to it.
#[test]
fn sessions_belong_to_their_user() {
    let server = start(options(""), &["jo", "ann"]);
    let mut raw = server.raw();
    let id = session_of(&mut raw, "jo", PATH);
    assert_next(&raw.ask(&fragment("jo", PATH, &id, b"hello", 10)), 5);
    let ended = session_of(&mut raw, "jo", "/upload/ended");
    assert_next(&raw.ask(&fragment("jo", "/upload/ended", &ended, b"hello", 5)), 5);
    assert_ok(&raw.ask(&Packet::close(Form::Native, "/upload/ended", &ended).from("jo", PASSWORD)), 200);
    let unknown = "{00000000-0000-4000-8000-000000000000}";
    for (path, id) in [(PATH, &id), ("/upload/ended", &ended)] {
        let packets = |id: &str| {
            [
                Packet::fragment(Form::Native, path, id, 5, b"world", 10),
                Packet::close(Form::Native, path, id),
                Packet::cancel(Form::Native, path, id),
            ]
        };
        for (theirs, none) in packets(id).into_iter().zip(packets(unknown)) {
            let none = raw.ask(&none.from("ann", PASSWORD));
            assert_error(&none, 500, SESSION_NOT_FOUND);
            assert_eq!(raw.ask(&theirs.from("ann", PASSWORD)).timeless(), none.timeless());
        }
    }
    let rest = Packet::fragment(Form::Native, PATH, &id, 5, b"world", 10).from("Jo", PASSWORD);
    assert_next(&raw.ask(&rest), 10);
    assert_eq!(server.file("upload/a").as_deref(), Some(b"helloworld".as_slice()));
}

/// `allow_users`: everyone else is told at Create-Session, and at Ping, that they may not.
#[test]
fn who_may_not_write_is_denied() {
    let server = start(options("allow_users = [\"jo\", \"*$@corp.example\"]"), &["jo", "ann", "PC-1$@corp.example"]);
    let mut raw = server.raw();
    for user in ["jo", "pc-1$@corp.example"] {
        session_of(&mut raw, user, &format!("/upload/{}", user.len()));
    }
    let id = session_of(&mut raw, "jo", PATH);
    for packet in [
        Packet::ping(Form::Native, PATH),
        Packet::create(Form::Native, PATH),
        Packet::fragment(Form::Native, PATH, &id, 0, b"hello", 5),
        Packet::cancel(Form::Native, PATH, &id),
    ] {
        let response = raw.ask(&packet.from("ann", PASSWORD));
        assert_error(&response, 403, ACCESS_DENIED);
        assert_eq!(response.header("WWW-Authenticate"), None, "another password would not help");
    }
    assert!(list_files(&server.files()).is_empty());
    let part = fragment("jo", PATH, &id, b"hello", 5);
    assert_next(&raw.ask(&part), 5);
}

/// `per_user_folder` and `{user}`: one name, a file for each user, and no name leads out.
#[test]
fn users_have_folders_of_their_own() {
    let users = ["jo", "ann@corp.example", "..", "a/b", "con", "BITS-Sessions", "jö rg", "=2e=2e"];
    let folders =
        ["=2e=2e", "=3d2e=3d2e", "=62its-sessions", "=63on", "a=2fb", "ann@corp.example", "j=c3=b6=20rg", "jo"];
    for (lines, name) in
        [("per_user_folder = true", "x"), ("store_as = \"{user}/in/{path}\"\ncreate_directories = true", "in/x")]
    {
        let server = start(options(lines), &users);
        let mut raw = server.raw();
        for user in users {
            let id = session_of(&mut raw, user, "/upload/x");
            assert_next(
                &raw.ask(&fragment(user, "/upload/x", &id, user.as_bytes(), user.len() as u64)),
                user.len() as u64,
            );
        }
        let expected: Vec<String> = folders.iter().map(|folder| format!("upload/{folder}/{name}")).collect();
        assert_eq!(list_files(&server.files()), expected);
        assert_eq!(server.file(&format!("upload/jo/{name}")).as_deref(), Some(b"jo".as_slice()));
        assert_eq!(server.file(&format!("upload/=2e=2e/{name}")).as_deref(), Some(b"..".as_slice()));
        // A path cannot name another's folder either.
        let id = session_of(&mut raw, "jo", "/upload/ann@corp.example/x");
        assert_next(&raw.ask(&fragment("jo", "/upload/ann@corp.example/x", &id, b"no", 2)), 2);
        let ann = server.file(&format!("upload/ann@corp.example/{name}"));
        assert_eq!(ann.as_deref(), Some(b"ann@corp.example".as_slice()));
    }
}

/// What a user published is for that user alone to fetch; everybody else's path leads elsewhere.
#[test]
fn users_fetch_what_is_theirs() {
    let lines = "per_user_folder = true\ndownload_enabled = true\nallow_users = [\"jo\", \"ann\"]";
    let server = start(options(lines), &["jo", "ann", "stranger"]);
    let mut raw = server.raw();
    let id = session_of(&mut raw, "jo", "/upload/x");
    assert_next(&raw.ask(&fragment("jo", "/upload/x", &id, b"hello", 5)), 5);
    let get = |raw: &mut Raw, user: Option<&str>, path: &str| {
        let mut packet = Packet::new(Form::Native, "x", path).without("BITS-Packet-Type");
        packet.method = "GET".to_owned();
        let response = raw.ask(&user.map_or(packet.clone(), |user| packet.from(user, PASSWORD)));
        if response.status == 200 {
            assert!(response.header("Cache-Control").is_some_and(|value| value.contains("private")), "{response:?}");
        }
        (response.status, response.body)
    };
    assert_eq!(get(&mut raw, Some("jo"), "/upload/x"), (200, b"hello".to_vec()));
    assert_eq!(get(&mut raw, None, "/upload/x").0, 401);
    assert_eq!(get(&mut raw, Some("stranger"), "/upload/x").0, 403);
    let theirs = get(&mut raw, Some("ann"), "/upload/x");
    assert_eq!((theirs.0, &theirs), (404, &get(&mut raw, Some("ann"), "/upload/none")));
    for path in ["/upload/jo/x", "/upload/../jo/x", "/upload/%2e%2e/jo/x", "/upload/..%2fjo/x"] {
        let (status, body) = get(&mut raw, Some("ann"), path);
        assert!(matches!(status, 400 | 404) && body != b"hello", "{path}: {status}");
    }
}

/// `session_limit_per_user` counts a user's own unfinished sessions.
#[test]
fn the_limit_of_sessions_is_each_users_own() {
    let server = start(options("session_limit_per_user = 2"), &["jo", "ann"]);
    let mut raw = server.raw();
    let first = session_of(&mut raw, "jo", "/upload/1");
    session_of(&mut raw, "jo", "/upload/2");
    assert_error(&raw.ask(&create("jo", "/upload/3")), 503, 0x8019_01F7);
    assert_error(&raw.ask(&create("JO", "/upload/3")), 503, 0x8019_01F7);
    assert_eq!(server.metric("bits_packets_refused_total{reason=\"session_limit\"}"), 2.0);
    assert!(server.log().contains("the caller's limit of unfinished sessions is reached"));
    session_of(&mut raw, "ann", "/upload/3");
    assert_ok(&raw.ask(&Packet::cancel(Form::Native, "/upload/1", &first).from("jo", PASSWORD)), 200);
    session_of(&mut raw, "jo", "/upload/4");
}

/// Each directory counts by itself: two of them may have files of other people who are named alike.
#[test]
fn sessions_are_counted_in_each_directory() {
    let other = "session_limit_per_user = 1\n[[directories]]\nurl_path = \"/other\"\nauthentication = [\"basic\"]\n\
                 htpasswd = \"users\"\nsession_limit_per_user = 2";
    let server = start(options(other), &["jo"]);
    let mut raw = server.raw();
    for path in ["/upload/1", "/other/1", "/OTHER/2"] {
        session_of(&mut raw, "jo", path);
    }
    for path in ["/UPLOAD/2", "/other/3"] {
        assert_error(&raw.ask(&create("jo", path)), 503, 0x8019_01F7);
    }
}

/// `failed_logins_per_minute`: then 429 for a minute, whatever the password; other directories are
/// not concerned.
#[test]
fn too_many_failed_logins_lock_an_address_out() {
    let server = start(with_limits("failed_logins_per_minute = 3", ""), &["jo"]);
    let mut raw = server.raw();
    let ping = || Packet::ping(Form::Native, PATH);
    assert_ok(&raw.ask(&ping().from("jo", PASSWORD)), 200);
    for _ in 0..10 {
        assert_eq!(raw.ask(&ping()).status, 401, "no login fails that is not tried");
    }
    for user in ["jo", "nobody", "jo"] {
        assert_eq!(raw.ask(&ping().from(user, "wrong")).status, 401);
    }
    let before = hashed(&server);
    for packet in [ping().from("jo", PASSWORD), ping().from("jo", "wrong"), create("jo", PATH)] {
        let response = raw.ask(&packet);
        assert_error(&response, 429, 0x8007_04D5);
        assert_eq!(response.header("Retry-After"), Some("60"));
    }
    let big = Packet::fragment(
        Form::Native,
        PATH,
        "{00000000-0000-4000-8000-000000000000}",
        0,
        &pattern(1, 1 << 20),
        9 << 20,
    );
    assert_eq!(raw.ask(&big.from("jo", PASSWORD)).status, 429);
    assert_eq!(hashed(&server), before, "nothing is hashed for a locked address");
    assert_eq!(server.metric("bits_failed_logins_total"), 3.0);
    assert_eq!(server.metric("bits_lockouts_total"), 1.0);
    assert_eq!(server.metric("bits_packets_refused_total{reason=\"failed_logins\"}"), 4.0);
    assert_ok(&raw.ping("/open/a"), 200);
    assert_eq!(server.log().matches("too many logins failed").count(), 1);
}

/// A burst of guesses at once gets no further than one at a time.
#[test]
fn guesses_at_once_are_counted_like_others() {
    let server = start(with_limits("failed_logins_per_minute = 4", ""), &["jo"]);
    let guesses = |number: usize| Packet::ping(Form::Native, PATH).from("jo", &number.to_string());
    let answers: Vec<Response> = thread::scope(|scope| {
        let server = &server;
        let asked: Vec<_> = (0..40).map(|number| scope.spawn(move || server.raw().ask(&guesses(number)))).collect();
        asked.into_iter().map(|answer| answer.join().unwrap()).collect()
    });
    let tried = answers.iter().filter(|answer| answer.status == 401).count();
    let most = 4 + thread::available_parallelism().unwrap().get();
    assert!((4..=most).contains(&tried) && hashed(&server) <= most, "{tried} guesses were looked at");
    assert!(answers.iter().all(|answer| matches!(answer.status, 401 | 429)));
}

/// A changed file counts within seconds, with what was remembered of it; a broken one does not.
#[test]
fn users_are_reread_when_the_file_changes() {
    let server = start(with_limits("failed_logins_per_minute = \"unlimited\"", ""), &["jo"]);
    let file = server.folder().join("users");
    let status =
        |user: &str, password: &str| server.raw().ask(&Packet::ping(Form::Native, PATH).from(user, password)).status;
    assert_eq!((status("jo", PASSWORD), status("ann", "nothing-else")), (200, 401));

    let output = password_command(&file, "Ann", "nothing-else\n");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("nothing-else"));
    wait_until("ann may log in", || status("ann", "nothing-else") == 200);
    assert!(password_command(&file, "jo", "another\r\n").status.success());
    wait_until("jo's old password is no more", || status("jo", PASSWORD) == 401);
    assert_eq!((status("jo", "another"), status("ann", "nothing-else")), (200, 200));
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().filter(|line| line.contains(":$argon2id$")).count(), 2, "{text}");

    fs::write(&file, "jo:another\n").unwrap();
    wait_until("it is told", || server.log().contains("the changed file of users is not used"));
    assert_eq!((status("jo", "another"), status("ann", "nothing-else")), (200, 200));
    assert_eq!(server.log().matches("users:1: the hash is neither argon2id").count(), 1);
    for secret in [PASSWORD, "nothing-else", "another\"", HASH, "$argon2id$"] {
        assert!(!server.log().replace("($argon2id$)", "").contains(secret), "{secret} is in the log");
    }
}

#[test]
fn a_new_file_of_users_is_private() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users");
    assert!(password_command(&file, "jo", "secret\n").status.success());
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    for (user, input) in [("a:b", "x\n"), ("jo", "\n"), ("jo", ""), ("anonymous", "x\n")] {
        let output = password_command(&file, user, input);
        assert_eq!(output.status.code(), Some(1), "{user} {input:?}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 1);
}

/// What is wrong with a file of users is told with its line, before anything is served.
#[test]
fn a_wrong_file_of_users_is_a_wrong_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("bits.toml");
    fs::write(&config, "[[directories]]\nauthentication = [\"basic\"]\nhtpasswd = \"users\"\n").unwrap();
    let run = |command: &str| {
        let output = Command::new(server_binary()).arg(command).arg("--config").arg(&config).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for command in ["check", "serve"] {
        let (code, message) = run(command);
        assert_eq!(code, Some(2), "{message}");
        assert!(message.contains("users: cannot be read: No such file"), "{message}");
    }
    fs::write(folder.path().join("users"), format!("jo:{HASH}\nann:plain\n")).unwrap();
    for command in ["check", "serve"] {
        let (code, message) = run(command);
        assert_eq!(code, Some(2), "{message}");
        assert!(message.contains("users:2: the hash is neither"), "{message}");
    }
}

/// The audit log names the principal, and no name forges a line.
#[test]
fn the_audit_log_names_the_user() {
    let user = "jo\" outcome=\"published\u{202e}\u{2028}x";
    let server = start(options(""), &[user, "ann"]);
    let mut raw = server.raw();
    for user in [user, "ann"] {
        let path = format!("/upload/{}", user.len());
        let id = session_of(&mut raw, user, &path);
        assert_next(&raw.ask(&fragment(user, &path, &id, b"hello", 5)), 5);
        assert_ok(&raw.ask(&Packet::close(Form::Native, &path, &id).from(user, PASSWORD)), 200);
        assert_eq!(raw.ask(&Packet::ping(Form::Native, PATH).from(user, "wrong")).status, 401);
    }
    wait_until("both lines are there", || server.log().matches(" audit: ").count() == 2);
    let log = server.log();
    assert_clean_log(log.as_bytes());
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(" audit: ")).collect();
    assert!(lines[0].contains(r#"principal="jo\" outcome=\"published\u{202e}\u{2028}x""#), "{}", lines[0]);
    assert!(lines[1].contains(r#"principal="ann""#), "{}", lines[1]);
    assert!(log.contains("a login failed") && !log.contains("wrong\""));
}

/// curl asks first, is told, and answers, as browsers and WinHTTP do.
#[test]
fn curl_logs_in() {
    let server = start(options(""), &["jo"]);
    let curl = |credentials: &str| {
        let output = Command::new("curl")
            .args(["--silent", "--anyauth", "--user", credentials, "--request", "BITS_POST"])
            .args(["--header", "BITS-Packet-Type: Ping", "--data", "", "--write-out", "%{http_code}"])
            .arg(server.url(PATH))
            .output()
            .expect("curl runs");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(curl(&format!("jo:{PASSWORD}")), "200");
    assert_eq!(curl("jo:wrong"), "401");
}

/// What each user has under way counts in full against a quota of their own; the log says whose
/// was reached, and a session that ends makes room.
#[test]
fn unfinished_bytes_are_counted_for_each_user() {
    let server = start(options("unfinished_bytes_per_user = \"1KiB\""), &["jo", "jim"]);
    let mut raw = server.raw();
    let first = session_of(&mut raw, "jo", PATH);
    assert_next(&raw.ask(&fragment("jo", PATH, &first, b"hello", 1020)), 5);
    let second = session_of(&mut raw, "jo", "/upload/b");
    let small = fragment("jo", "/upload/b", &second, b"hello", 5);
    assert_error(&raw.ask(&small), 500, DISK_FULL);
    assert_eq!(server.metric("bits_packets_refused_total{reason=\"over_quota\"}"), 1.0);
    let log = server.log();
    let refused = log.lines().find(|line| line.contains("unfinished_bytes_per_user")).expect("the log says it");
    for part in [" INFO ", "user=\"jo", "limit=1024", "used=1020", "upload=5", &second] {
        assert!(refused.contains(part), "{part} is not in {refused}");
    }
    let other = session_of(&mut raw, "jim", "/upload/c");
    assert_next(&raw.ask(&fragment("jim", "/upload/c", &other, b"hello", 1024)), 5);

    assert_ok(&raw.ask(&Packet::cancel(Form::Native, PATH, &first).from("jo", PASSWORD)), 200);
    assert_next(&raw.ask(&small), 5);
    assert!(server.file("upload/b").unwrap() == b"hello");
}
