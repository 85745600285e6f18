//! `bits upload-reply` against the real server and an application that is a process of its own.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tests::{
    Application, Behaviour, Form, Gate, Packet, Raw, Response, Server, ServerOptions, application_binary, assert_next,
    assert_ok, assert_staging_empty, client_binary, fetch_resumed, list_files, pattern, wait_until,
};

/// Apache's example; the password is `myPassword`.
const HASH: &str = "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC";
const PASSWORD: &str = "myPassword";
const FILE: &str = "/upload/file.bin";

/// The example application, killed when dropped.
struct Program {
    child: Child,
    address: String,
}

impl Program {
    fn start() -> Self {
        let mut child = Command::new(application_binary()).arg("127.0.0.1:0").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit(' ').next().unwrap().to_owned();
        Self { child, address }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A terminal: a folder with a file to upload, and jobs of its own.
struct Terminal {
    folder: TempDir,
}

impl Terminal {
    fn new(content: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("source"), content).unwrap();
        Self { folder }
    }

    fn reply(&self) -> PathBuf {
        self.folder.path().join("reply")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(client_binary());
        command.current_dir(self.folder.path()).args(arguments).env("BITS_JOBS_DIR", self.folder.path().join("jobs"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    fn upload_reply(&self, server: &Server) -> Command {
        self.upload_reply_to(server.address())
    }

    fn upload_reply_to(&self, address: SocketAddr) -> Command {
        self.command(&["upload-reply", "source", &format!("http://{address}{FILE}"), "-o", "reply"])
    }

    /// Whether a job says how far its reply has come.
    fn knows_of_a_part(&self) -> bool {
        let Ok(jobs) = fs::read_dir(self.folder.path().join("jobs")) else { return false };
        // One that is just being written does not count.
        let files = jobs.flatten().map(|job| job.path()).filter(|path| path.extension().is_some_and(|it| it == "json"));
        let texts = files.filter_map(|path| fs::read_to_string(path).ok());
        // The upload itself is told of by such a line too.
        let received = |line: &str| line.trim().strip_prefix("\"received\": ")?.trim_end_matches(',').parse().ok();
        texts.into_iter().any(|text| text.lines().filter_map(received).any(|count: u64| count > 1 << 20))
    }

    /// The name of the one job.
    fn job(&self) -> String {
        let entries = fs::read_dir(self.folder.path().join("jobs")).unwrap().flatten().map(|entry| entry.path());
        let mut jobs = entries.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        jobs.next().unwrap().file_stem().unwrap().to_str().unwrap().to_owned()
    }

    /// What has come of the reply, under whatever name.
    fn fetched(&self) -> u64 {
        let entries = fs::read_dir(self.folder.path()).unwrap().flatten();
        let files = entries.filter(|entry| entry.file_name() != "source").flat_map(|entry| entry.metadata());
        files.filter(|metadata| metadata.is_file()).map(|metadata| metadata.len()).sum()
    }
}

#[track_caller]
fn assert_done(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_reply_of_another_process_comes_back() {
    let program = Program::start();
    let lines = format!("notification_type = \"by-value\"\nnotification_url = \"http://{}/\"", program.address);
    let server = Server::start(ServerOptions::directory(&lines));
    let terminal = Terminal::new(&pattern(5, 3_000_000));
    assert_done(&terminal.upload_reply(&server).output().unwrap());
    let expected = Command::new("sha256sum").arg(terminal.folder.path().join("source")).output().unwrap().stdout;
    let expected = String::from_utf8(expected).unwrap();
    let reply = fs::read_to_string(terminal.reply()).unwrap();
    assert_eq!(reply.trim_end(), expected.split(' ').next().unwrap());
    assert_staging_empty(&server.files());
}

#[test]
fn short_replies_and_none() {
    let application = Application::start(Behaviour::Zeros(0));
    let server = Server::start(ServerOptions::directory(&application.lines("by-value", "")));
    for length in [0_usize, 1] {
        application.set(Behaviour::Zeros(length as u64));
        let terminal = Terminal::new(b"content");
        assert_done(&terminal.upload_reply(&server).output().unwrap());
        assert_eq!(fs::read(terminal.reply()).ok(), (length > 0).then(|| vec![0; length]));
        assert_eq!(terminal.fetched(), length as u64, "nothing else is left");
    }
    assert_staging_empty(&server.files());
}

#[test]
fn a_client_that_is_killed_goes_on_with_its_reply() {
    const LENGTH: u64 = 1 << 30;
    let application = Application::start(Behaviour::Zeros(LENGTH));
    let options = ServerOptions::directory(&application.lines("by-value", "")).env("RUST_LOG", "bits_server=debug");
    let server = Server::start(options);
    let terminal = Terminal::new(b"content");
    let gate = Gate::start(server.address());
    let mut client = terminal.upload_reply_to(gate.address()).spawn().unwrap();
    wait_until("the job knows of a part of the reply", || terminal.knows_of_a_part());
    client.kill().unwrap();
    client.wait().unwrap();
    assert!(!terminal.reply().exists(), "a part of a reply stands under its name");
    gate.open();
    assert_done(&terminal.command(&["resume"]).output().unwrap());
    let mut reply = File::open(terminal.reply()).unwrap();
    assert_eq!(reply.metadata().unwrap().len(), LENGTH);
    let mut chunk = vec![0; 1 << 20];
    loop {
        let count = reply.read(&mut chunk).unwrap();
        assert!(chunk[..count].iter().all(|byte| *byte == 0));
        if count == 0 {
            break;
        }
    }
    assert!(server.log().contains("status=206"), "it began anew");
    assert_eq!(application.seen().len(), 1);
    assert_staging_empty(&server.files());
}

/// A reply with its server, and where it is fetched.
fn replied(reply: &[u8], more: &str) -> (Application, Server, String, String) {
    let application = Application::start(Behaviour::reply(reply));
    let server = Server::start(ServerOptions::directory(&application.lines("by-value", more)));
    let mut raw = server.raw();
    let session = raw.create(FILE);
    let last = raw.fragment(FILE, &session, 0, b"content", 7);
    let path = format!("/upload/{}", last.header("BITS-Reply-URL").unwrap());
    (application, server, session, path)
}

#[test]
fn curl_and_wget_fetch_a_reply_and_resume_it() {
    let reply = pattern(6, 24 << 20);
    let (application, mut server, _, path) = replied(&reply, "");
    // Neither sends braces as they are without being told to.
    let url = server.url(&path.replace('{', "%7B").replace('}', "%7D"));
    fetch_resumed(&mut server, &url, &reply);
    assert_eq!(application.seen().len(), 1);
}

/// Like a published file, and as a real client asked for it.
#[test]
fn a_reply_is_served_in_ranges_and_under_conditions() {
    let reply = pattern(7, 9977);
    let (_application, server, session, path) = replied(&reply, "");
    let mut raw = server.raw();
    let mut ask = |method: &str, headers: &str| {
        let host = "Host: localhost\r\nAccept-Encoding: identity\r\n";
        raw.send(format!("{method} {path} HTTP/1.1\r\n{host}{headers}\r\n").as_bytes());
        raw.receive()
    };
    let whole = ask("GET", "Range: bytes=0-9976\r\n");
    assert_eq!((whole.status, whole.header("Content-Range")), (206, Some("bytes 0-9976/9977")));
    assert!(whole.body == reply);
    for (name, value) in [
        ("Content-Length", "9977"),
        ("Accept-Ranges", "bytes"),
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Disposition", "attachment"),
    ] {
        assert_eq!(whole.header(name), Some(value));
    }
    let (etag, modified) =
        (whole.header("ETag").unwrap().to_owned(), whole.header("Last-Modified").unwrap().to_owned());
    for (headers, status, length) in [
        (format!("If-Match: {etag}\r\nRange: bytes=100-199\r\n"), 206, 100),
        (format!("If-Unmodified-Since: {modified}\r\nRange: bytes=9976-\r\n"), 206, 1),
        (format!("If-Range: {etag}\r\nRange: bytes=-5\r\n"), 206, 5),
        ("If-Match: \"x\"\r\n".to_owned(), 412, 0),
        (format!("If-None-Match: {etag}\r\n"), 304, 0),
        ("Range: bytes=9977-\r\n".to_owned(), 416, 0),
    ] {
        let part = ask("GET", &headers);
        assert_eq!((part.status, part.body.len()), (status, length), "{headers}");
    }
    let several = ask("GET", "Range: bytes=5-9,0-1\r\n");
    assert!(several.header("Content-Type").unwrap().starts_with("multipart/byteranges"));
    let head = ask("HEAD", "");
    assert_eq!((head.status, head.header("Content-Length")), (200, Some("9977")));
    assert_ok(&server.raw().cancel(FILE, &session), 200);
    assert_eq!(ask("GET", "").status, 404);
    assert_staging_empty(&server.files());
}

/// A client that never comes back leaves nothing.
#[test]
fn a_reply_goes_when_its_session_expires() {
    let more = "session_timeout = \"3s\"\ncleanup_interval = \"1s\"";
    let (_application, server, _, path) = replied(b"for nobody", more);
    let mut raw = server.raw();
    assert_eq!(get(&mut raw, &path, None).status, 200);
    wait_until("the session expires", || get(&mut raw, &path, None).status == 404);
    // The row goes first.
    wait_until("nothing is left of it", || list_files(&server.files()).is_empty());
}

/// The client stays away for longer than its session lives, with everything uploaded and no reply yet.
#[test]
fn a_reply_that_expired_comes_with_the_next_session() {
    let application = Application::start(Behaviour::Slow(Duration::from_secs(1), Box::new(Behaviour::reply(b"first"))));
    let more = "session_timeout = \"3s\"\ncleanup_interval = \"1s\"";
    let server = Server::start(ServerOptions::directory(&application.lines("by-value", more)));
    let terminal = Terminal::new(b"content");
    let client = terminal.upload_reply(&server).spawn().unwrap();
    wait_until("the application is told", || !application.seen().is_empty());
    fs::write(terminal.reply(), "in the way").unwrap();
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    application.set(Behaviour::reply(b"second"));
    for entry in fs::read_dir(terminal.folder.path()).unwrap().flatten() {
        if entry.file_type().unwrap().is_file() && entry.file_name() != "source" {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    wait_until("the session expires", || {
        !list_files(&server.files()).iter().any(|path| path.contains("BITS-Sessions"))
    });
    assert_done(&terminal.command(&["resume", &terminal.job()]).output().unwrap());
    assert_eq!(fs::read(terminal.reply()).unwrap(), b"second");
    assert_eq!((application.seen().len(), terminal.fetched()), (2, 6));
    assert_staging_empty(&server.files());
}

/// The server dies as it ends the session, and comes back with rows from the middle of the upload.
#[test]
fn a_failover_that_lost_rows_brings_another_reply() {
    let application = Application::start(Behaviour::reply(b"first"));
    let options = ServerOptions::directory(&application.lines("by-value", "publish = \"close-session\""));
    let mut server = Server::start(options.clone());
    let terminal = Terminal::new(&pattern(8, 4 << 20));
    let mut client = terminal.upload_reply(&server).args(["--fragment-size", "16KiB"]).spawn().unwrap();
    wait_until("some of the upload is there", || {
        let staged = fs::read_dir(server.files().join("upload/BITS-Sessions")).into_iter().flatten().flatten();
        staged.flat_map(|file| file.metadata()).any(|metadata| metadata.len() > 0)
    });
    server.kill();
    let rows = server.rows();
    server.options = options.clone().env("BITS_FAULT", "end-before-commit");
    server.launch();
    server.wait();
    assert_eq!(fs::read(terminal.reply()).unwrap(), b"first");
    client.kill().unwrap();
    client.wait().unwrap();
    server.set_back(&rows);
    application.set(Behaviour::reply(b"second"));
    server.options = options;
    server.launch();
    assert_done(&terminal.command(&["resume", &terminal.job()]).output().unwrap());
    assert_eq!(fs::read(terminal.reply()).unwrap(), b"second");
    assert_eq!((application.seen().len(), terminal.fetched()), (2, 6));
    assert_staging_empty(&server.files());
}

/// Whoever else asks hears what is said of a reply that is not there.
#[test]
fn a_reply_is_for_who_uploaded_alone() {
    let application = Application::start(Behaviour::reply(b"for jo"));
    let basic = application.lines("by-value", "authentication = [\"basic\"]\nhtpasswd = \"users\"");
    let mut server = Server::prepare(ServerOptions::directory(&basic));
    fs::write(server.folder().join("users"), format!("jo:{HASH}\neve:{HASH}\n")).unwrap();
    server.launch();
    let mut raw = server.raw();
    let by_jo = |packet: Packet| packet.from("jo", PASSWORD);
    let created = raw.ask(&by_jo(Packet::create(Form::Native, FILE)));
    assert_ok(&created, 200);
    let session = created.header("BITS-Session-Id").unwrap().to_owned();
    let last = raw.ask(&by_jo(Packet::fragment(Form::Native, FILE, &session, 0, b"content", 7)));
    assert_next(&last, 7);
    assert_eq!(application.seen()[0].header("BITS-Remote-User"), Some("jo"));
    let path = format!("/upload/{}", last.header("BITS-Reply-URL").unwrap());
    let absent = path.replace(&session, "{7DF0354D-249B-430F-820D-3D2A9BEF4931}");
    assert_ne!(path, absent);
    let none = get(&mut raw, &absent, Some("eve"));
    assert_eq!(none.status, 404);
    assert_eq!(get(&mut raw, &path, Some("eve")).timeless(), none.timeless());
    assert_eq!(get(&mut raw, &path, None).status, 401);
    let whole = get(&mut raw, &path, Some("jo"));
    assert_eq!((whole.status, whole.body.as_slice()), (200, &b"for jo"[..]));
    assert_ok(&raw.ask(&by_jo(Packet::close(Form::Native, FILE, &session))), 200);
    assert_eq!(get(&mut raw, &path, Some("jo")).timeless(), none.timeless());
    assert_staging_empty(&server.files());
}

fn get(raw: &mut Raw, path: &str, user: Option<&str>) -> Response {
    let login = user.map(|user| Packet::ping(Form::Native, path).from(user, PASSWORD));
    let proof = login.map(|packet| String::from_utf8(packet.header("Authorization").unwrap().to_vec()).unwrap());
    let proof = proof.map(|proof| format!("Authorization: {proof}\r\n")).unwrap_or_default();
    raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{proof}\r\n").as_bytes());
    raw.receive()
}
