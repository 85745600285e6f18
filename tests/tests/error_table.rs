//! Rows of the table of errors, and decisions, that need more than one exchange with one server: a
//! caller with a name, a server application, a store that fails. Each in both forms.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{fs, path::Path, time::Duration};

use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tests::{
    Application, Behaviour, Form, Packet, Postgres, Raw, Response, Server, ServerOptions, SmallDisk,
    assert_application, assert_error, assert_next, assert_ok, list_files, wait_until,
};

const PATH: &str = "/upload/a/file";
const ACCESS_DENIED: u32 = 0x8007_0005;
const DISK_FULL: u32 = 0x8007_0070;
const SESSION_NOT_FOUND: u32 = 0x8020_001F;
/// Apache's example; the password is `myPassword`.
const HASH: &str = "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC";

/// `/upload` for the users jo, ann and jim, with these lines.
fn with_users(lines: &str) -> Server {
    let authentication = "authentication = [\"basic\"]\nhtpasswd = \"users\"";
    let mut server = Server::prepare(ServerOptions::directory(&format!("{authentication}\n{lines}")));
    let users = ["jo", "ann", "jim"].map(|user| format!("{user}:{HASH}\n"));
    fs::write(server.folder().join("users"), users.concat()).unwrap();
    server.launch();
    server
}

/// A user of one form.
struct User {
    name: &'static str,
    form: Form,
    raw: Raw,
}

impl User {
    fn of(server: &Server, form: Form, name: &'static str) -> Self {
        Self { name, form, raw: server.raw_in(form) }
    }

    fn ask(&mut self, packet: Packet) -> Response {
        self.raw.ask(&packet.from(self.name, "myPassword"))
    }

    fn create(&mut self, path: &str) -> String {
        let response = self.ask(Packet::create(self.form, path));
        assert_ok(&response, self.form.created());
        response.header("BITS-Session-Id").unwrap().to_owned()
    }

    fn fragment(&mut self, path: &str, session: &str, first: u64, bytes: &[u8], total: u64) -> Response {
        self.ask(Packet::fragment(self.form, path, session, first, bytes, total))
    }
}

/// Section 2.2.1.2: a session of another principal is none, whatever is asked of it.
#[test]
fn session_of_another_principal() {
    let server = with_users("");
    for form in Form::ALL {
        let (mut jo, mut ann) = (User::of(&server, form, "jo"), User::of(&server, form, "ann"));
        let path = format!("/upload/{form:?}");
        let session = jo.create(&path);
        for packet in [
            Packet::fragment(form, &path, &session, 0, b"hello", 5),
            Packet::close(form, &path, &session),
            Packet::cancel(form, &path, &session),
        ] {
            assert_error(&ann.ask(packet), 500, SESSION_NOT_FOUND);
        }
        assert_next(&jo.fragment(&path, &session, 0, b"hello", 5), 5);
        // Decision 12: an ended one is remembered for its own principal alone.
        assert_ok(&jo.ask(Packet::close(form, &path, &session)), 200);
        assert_error(&ann.ask(Packet::close(form, &path, &session)), 500, SESSION_NOT_FOUND);
        assert_error(&ann.fragment(&path, &session, 0, b"hello", 5), 500, SESSION_NOT_FOUND);
        assert_ok(&jo.ask(Packet::close(form, &path, &session)), 200);
        assert_next(&jo.fragment(&path, &session, 0, b"hello", 5), 5);
    }
}

/// Section 3.2.5.2.4: who may not write here is denied access at Create-Session.
#[test]
fn not_allowed() {
    let server = with_users("allow_users = [\"ann\"]");
    for form in Form::ALL {
        assert_error(&User::of(&server, form, "jo").ask(Packet::create(form, PATH)), 403, ACCESS_DENIED);
        User::of(&server, form, "ann").create(PATH);
    }
}

/// Section 2.2.1.2: the limit of sessions passes, so that the client comes again.
#[test]
fn session_limit() {
    let server = with_users("session_limit_per_user = 1");
    for (form, name) in Form::ALL.into_iter().zip(["jo", "ann"]) {
        let mut user = User::of(&server, form, name);
        let session = user.create(PATH);
        let refused = user.ask(Packet::create(form, "/upload/b"));
        assert_error(&refused, 503, 0x8019_01F7);
        assert!(refused.header("Retry-After").is_some());
        assert_ok(&user.ask(Packet::cancel(form, PATH, &session)), 200);
        user.create("/upload/b");
    }
}

/// Section 2.2.1.2, decision 6: over the quota of a user's unfinished bytes the disk is full.
#[test]
fn unfinished_bytes_of_a_user() {
    let server = with_users("unfinished_bytes_per_user = \"1KiB\"");
    for (form, name) in Form::ALL.into_iter().zip(["jo", "ann"]) {
        let mut user = User::of(&server, form, name);
        let (one, two) = (user.create("/upload/1"), user.create("/upload/2"));
        assert_next(&user.fragment("/upload/1", &one, 0, b"hello", 1020), 5);
        assert_error(&user.fragment("/upload/2", &two, 0, b"hello", 5), 500, DISK_FULL);
        assert_ok(&user.ask(Packet::cancel(form, "/upload/1", &one)), 200);
        assert_ok(&user.ask(Packet::cancel(form, "/upload/2", &two)), 200);
    }
}

/// Section 3.2.4.2: a directory that takes no uploads any more loses its sessions and their data.
#[test]
fn uploads_disabled_with_sessions() {
    let config = |enabled: bool| ServerOptions::directory(&format!("upload_enabled = {enabled}"));
    let mut server = Server::start(config(true));
    let sessions = Form::ALL.map(|form| {
        let (mut raw, path) = (server.raw_in(form), format!("/upload/{form:?}"));
        let session = raw.create(&path);
        assert_next(&raw.fragment(&path, &session, 0, b"hello", 10), 5);
        (form, path, session)
    });
    server.restart_with(config(false));
    for (form, path, session) in &sessions {
        assert_error(&server.raw_in(*form).fragment(path, session, 5, b"world", 10), 501, ACCESS_DENIED);
    }
    wait_until("the data is gone", || list_files(&server.files()).is_empty());
    server.restart_with(config(true));
    for (form, path, session) in &sessions {
        assert_error(&server.raw_in(*form).fragment(path, session, 5, b"world", 10), 500, SESSION_NOT_FOUND);
    }
}

/// Section 3.2.6.1 and decision 12: a session that has expired is none, and one that has ended is
/// remembered for `session_timeout`.
#[test]
fn session_expired() {
    let server = Server::start(ServerOptions::directory("session_timeout = \"2s\"\ncleanup_interval = \"1s\""));
    let sessions = Form::ALL.map(|form| {
        let (mut raw, paths) = (server.raw_in(form), [format!("/upload/{form:?}-1"), format!("/upload/{form:?}-2")]);
        let (idle, ended) = (raw.create(&paths[0]), raw.create(&paths[1]));
        assert_next(&raw.fragment(&paths[0], &idle, 0, b"hello", 10), 5);
        for _ in 0..2 {
            assert_ok(&raw.cancel(&paths[1], &ended), 200);
        }
        (raw, paths, idle, ended)
    });
    wait_until("the data is gone", || list_files(&server.files()).is_empty());
    for (mut raw, paths, idle, ended) in sessions {
        assert_error(&raw.fragment(&paths[0], &idle, 5, b"world", 10), 500, SESSION_NOT_FOUND);
        wait_until("it is forgotten", || raw.cancel(&paths[1], &ended).status == 500);
        assert_error(&raw.cancel(&paths[1], &ended), 500, SESSION_NOT_FOUND);
    }
}

/// Section 2.2.1.2: what the storage denies.
#[test]
fn storage_permission_denied() {
    let data = tempfile::tempdir().unwrap();
    let files = data.path().join("files");
    fs::create_dir_all(files.join("upload")).unwrap();
    let link = files.join("upload/away");
    std::os::unix::fs::symlink("/tmp", &link).unwrap();
    let server = Server::start(ServerOptions::new().data_dir(data.path()));
    for form in Form::ALL {
        assert_error(&server.raw_in(form).ask(&Packet::create(form, "/upload/away/a")), 403, ACCESS_DENIED);
    }
    assert!(link.is_symlink());
}

/// Section 2.2.1.2: storage that has turned read-only denies access; what was under way goes on
/// once it takes writes again, and nothing of it is lost.
#[test]
fn storage_read_only() {
    let disk = SmallDisk::new(16);
    let storage = format!("[storage]\nurl = \"file:{}\"\nreserve_free = \"1MiB\"\n", disk.path().display());
    let directory = "[[directories]]\nurl_path = \"/upload\"\npublish = \"close-session\"\ncleanup_interval = \"1s\"\n";
    let mut server = Server::start(ServerOptions::new().config(&(storage + directory)));
    let sessions = Form::ALL.map(|form| {
        let mut raw = server.raw_in(form);
        let paths = ["part", "whole", "dropped"].map(|name| format!("/upload/{form:?}-{name}"));
        let [part, whole, dropped] = [0, 1, 2].map(|index| raw.create(&paths[index]));
        assert_next(&raw.fragment(&paths[0], &part, 0, b"hello ", 11), 6);
        assert_next(&raw.fragment(&paths[1], &whole, 0, b"whole", 5), 5);
        assert_next(&raw.fragment(&paths[2], &dropped, 0, b"drop", 8), 4);
        (form, paths, [part, whole, dropped])
    });
    // A process that has just begun holds none of the files open.
    server.restart();
    disk.set_read_only(true);
    for (form, paths, [part, whole, dropped]) in &sessions {
        let mut raw = server.raw_in(*form);
        for _ in 0..2 {
            assert_error(&raw.fragment(&paths[0], part, 6, b"world", 11), 403, ACCESS_DENIED);
            assert_error(&raw.close(&paths[1], whole), 403, ACCESS_DENIED);
        }
        // What needs no write is answered as ever.
        assert_next(&raw.fragment(&paths[0], part, 0, b"hello ", 11), 6);
        assert_next(&raw.fragment(&paths[1], whole, 4, b"e", 5), 5);
        assert_ok(&raw.cancel(&paths[2], dropped), 200);
    }
    assert_eq!(server.admin_get("/healthz").unwrap(), 200);
    disk.set_read_only(false);
    for (form, paths, [part, whole, _]) in &sessions {
        let mut raw = server.raw_in(*form);
        assert_next(&raw.fragment(&paths[0], part, 6, b"world", 11), 11);
        assert_ok(&raw.close(&paths[0], part), 200);
        assert_ok(&raw.close(&paths[1], whole), 200);
        for (path, content) in [(&paths[0], &b"hello world"[..]), (&paths[1], b"whole")] {
            assert_eq!(fs::read(disk.path().join(&path[1..])).unwrap(), content);
        }
    }
    wait_until("nothing else is left", || list_files(disk.path()).len() == 4);
}

/// Section 2.2.1.2: a store that cannot be reached passes, so that the client comes again.
#[test]
fn store_unreachable() {
    let postgres = Postgres::start("fsync = off");
    let server = Server::start(ServerOptions::new().config(&format!(
        "[state]\nurl = \"{}\"\nmigrate = true\n[[directories]]\nurl_path = \"/upload\"\n",
        postgres.database()
    )));
    let requests = Form::ALL.map(|form| {
        let mut raw = server.raw_in(form);
        raw.patience(Duration::from_secs(60));
        let session = raw.create(PATH);
        (form, raw, session)
    });
    postgres.down("fast");
    let asked = requests.map(|(form, mut raw, session)| {
        raw.send(&Packet::fragment(form, PATH, &session, 0, b"hello", 10).encode());
        raw
    });
    for mut raw in asked {
        let refused = raw.receive();
        assert_error(&refused, 503, 0x8007_04D5);
        assert!(refused.header("Retry-After").is_some());
    }
}

/// Section 2.2.1.2: a session database that has lost its tables is the server's own fault.
#[tokio::test]
async fn own_fault() {
    let server = Server::start(ServerOptions::new());
    let sessions = Form::ALL.map(|form| server.raw_in(form).create(PATH));
    let options = SqliteConnectOptions::new().filename(server.data_dir().join("state.db"));
    let mut database = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("ALTER TABLE session RENAME TO lost").execute(&mut database).await.unwrap();
    database.close().await.unwrap();
    for (form, session) in Form::ALL.into_iter().zip(sessions) {
        assert_error(&server.raw_in(form).close(PATH, &session), 500, 0x8000_4005);
        assert_error(&server.raw_in(form).ask(&Packet::create(form, PATH)), 500, 0x8000_4005);
    }
}

fn notifying(application: &Application, kind: &str, more: &str) -> Server {
    Server::start(ServerOptions::directory(&application.lines(kind, more)))
}

/// All of a small upload in one fragment.
fn upload(raw: &mut Raw) -> (String, Response) {
    let session = raw.create(PATH);
    let last = raw.fragment(PATH, &session, 0, b"content", 7);
    (session, last)
}

/// Section 3.3.5: an error of the application is the client's, with its own code if it sent one.
#[test]
fn application_answers_with_an_error() {
    let application = Application::start(Behaviour::status(500));
    let server = notifying(&application, "by-value", "");
    for form in Form::ALL {
        let mut raw = server.raw_in(form);
        let session = raw.create(PATH);
        for (behaviour, status, code) in [
            (Behaviour::status(404), 404, 0x8019_0194),
            (Behaviour::status(401), 400, 0x8019_0191),
            (Behaviour::status(204), 500, 0x8019_00CC),
            (Behaviour::Answer(500, vec![("BITS-Error-Code", "0x80070005".to_owned())], Vec::new()), 500, 0x8007_0005),
        ] {
            application.set(behaviour);
            assert_application(&raw.fragment(PATH, &session, 0, b"content", 7), status, code);
        }
        application.set(Behaviour::status(200));
        assert_next(&raw.fragment(PATH, &session, 0, b"content", 7), 7);
        assert_ok(&raw.close(PATH, &session), 200);
    }
}

/// Section 3.3.5: an application that cannot be reached, or breaks off, is a bad gateway.
#[test]
fn application_unreachable() {
    let application = Application::start(Behaviour::CloseAtOnce);
    let server = notifying(&application, "by-value", "");
    for form in Form::ALL {
        for behaviour in [Behaviour::CloseAtOnce, Behaviour::Garbage, Behaviour::CloseUnanswered] {
            application.set(behaviour);
            assert_application(&upload(&mut server.raw_in(form)).1, 502, 0x8019_01F6);
        }
    }
}

/// Section 3.3.6 and decision 6: no answer in time is 0x80072EE2, not what the text prints.
#[test]
fn application_too_slow() {
    let application = Application::start(Behaviour::HangHead);
    let server = notifying(&application, "by-value", "notification_timeout = \"1s\"");
    for form in Form::ALL {
        assert_application(&upload(&mut server.raw_in(form)).1, 408, 0x8007_2EE2);
    }
}

/// Section 2.2.13: a reply URL is absolute and has at most 2,200 characters.
#[test]
fn reply_url_unusable() {
    let application = Application::start(Behaviour::status(200));
    let server = notifying(&application, "by-value", "");
    for form in Form::ALL {
        for url in ["/relative".to_owned(), format!("http://reply/{}", "r".repeat(2188))] {
            application.set(Behaviour::header("BITS-Static-Response-URL", &url));
            assert_application(&upload(&mut server.raw_in(form)).1, 400, 0x8007_0057);
        }
    }
}

/// Decision 5: by reference, the names on the wire are those with `DataFile`.
#[test]
fn decision_5_by_reference_headers() {
    let application = Application::start(Behaviour::Leave(b"reply".to_vec(), Vec::new()));
    let server = notifying(&application, "by-reference", "");
    for form in Form::ALL {
        assert_next(&upload(&mut server.raw_in(form)).1, 7);
        let seen = application.seen().pop().unwrap();
        assert_eq!(fs::read(seen.header("BITS-Request-DataFile-Name").unwrap()).unwrap(), b"content");
        assert!(Path::new(seen.header("BITS-Response-DataFile-Name").unwrap()).is_absolute());
        assert!(seen.headers.iter().all(|(name, _)| !name.contains("DataEntity")));
    }
}

/// Decision 7: the reply's URL is relative to the destination, or absolute where `public_url` is
/// set; it is fetched with braces as they are, or encoded.
#[test]
fn decision_7_reply_url() {
    let application = Application::start(Behaviour::reply(b"reply"));
    let lines = application.lines("by-value", "");
    let directory = format!("[[directories]]\nurl_path = \"/upload\"\n{lines}\n");
    for form in Form::ALL {
        for (public, base) in
            [("", "../"), ("public_url = \"https://uploads.example\"\n", "https://uploads.example/upload/")]
        {
            let server = Server::start(ServerOptions::new().config(&format!("{public}{directory}")));
            let (session, last) = upload(&mut server.raw_in(form));
            let tail = format!("BITS-Sessions/Replies/{session}/responsefile.bin");
            assert_eq!(last.header("BITS-Reply-URL"), Some(format!("{base}{tail}").as_str()));
            for tail in [tail.clone(), tail.replace('{', "%7B").replace('}', "%7D")] {
                let mut raw = server.raw();
                raw.send(format!("GET /upload/{tail} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
                assert_eq!(raw.receive().body, b"reply");
            }
        }
    }
}
