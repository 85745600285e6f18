//! Secrets are in nothing that the server says: its log in full, its answers, its commands.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    fs,
    io::Write,
    process::{Command, Output, Stdio},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use tests::{
    Application, Behaviour, Form, Packet, Raw, Receiver, Server, ServerOptions, assert_ack, assert_ok, pattern,
    server_binary, wait_until,
};

const PASSWORD: &str = "planted-password";
const WRONG: &str = "planted-mistake";
const SIGNING: &str = "planted-signing-secret";
const HOOK_QUERY: &str = "planted-hook-token";
const APPLICATION_QUERY: &str = "planted-application-token";
/// In whatever spelling.
const PLANTED: [&str; 5] = [PASSWORD, WRONG, SIGNING, HOOK_QUERY, APPLICATION_QUERY];

/// The secrets as they are written and sent: plain, and as tokens and hashes.
struct Secrets(Vec<String>);

impl Secrets {
    fn of(htpasswd: &str) -> Self {
        let token = |password| STANDARD.encode(format!("jo:{password}"));
        let hash = htpasswd.trim().rsplit('$').next().unwrap();
        let mut all = PLANTED.map(str::to_owned).to_vec();
        all.extend([token(PASSWORD), token(WRONG), hash.to_owned()]);
        Self(all)
    }

    /// Those that stand in `text`.
    fn within(&self, text: &[u8]) -> Vec<&str> {
        let found = |secret: &&String| text.windows(secret.len()).any(|part| part == secret.as_bytes());
        self.0.iter().filter(found).map(String::as_str).collect()
    }
}

/// Everything that was said, with who said it.
#[derive(Default)]
struct Said(Vec<(String, Vec<u8>)>);

impl Said {
    fn by(&mut self, who: &str, text: impl Into<Vec<u8>>) {
        self.0.push((who.to_owned(), text.into()));
    }

    fn output(&mut self, who: &str, output: &Output) {
        self.by(who, [output.stdout.as_slice(), &output.stderr].concat());
    }

    #[track_caller]
    fn assert_holds_none(&self, secrets: &Secrets) {
        for (who, text) in &self.0 {
            assert!(!text.is_empty(), "{who} said nothing");
            assert_eq!(secrets.within(text), Vec::<&str>::new(), "{who}: {}", String::from_utf8_lossy(text));
        }
    }
}

fn command(server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new(server_binary());
    command.args(arguments).current_dir(server.folder()).env("RUST_LOG", "trace").stdin(Stdio::null());
    command.env("BITS__DATA_DIR", server.data_dir());
    command
}

fn password(server: &Server, said: &mut Said) -> String {
    let mut command = command(server, &["password", "jo", "--file", "users"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{PASSWORD}\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    said.output("password", &output);
    fs::read_to_string(server.folder().join("users")).unwrap()
}

/// The answer to a request of this user, which is noted.
fn ask(server: &Server, said: &mut Said, packet: &Packet) -> tests::Response {
    let response = server.raw().ask(packet);
    said.by("an answer", format!("{response:?}"));
    response
}

fn admin(server: &Server, path: &str) -> Vec<u8> {
    let mut raw = Raw::connect(server.admin_address());
    raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes());
    raw.receive().body
}

/// `/upload` tells an application that answers, `/broken` one that does not; of two webhooks one
/// is down.
fn config(application: &Application, hook: &Receiver, down: &Receiver) -> String {
    let directory = |path: &str, url: &str| {
        format!(
            "[[directories]]\nurl_path = \"{path}\"\nauthentication = [\"basic\"]\nhtpasswd = \"users\"\n\
             notification_type = \"by-value\"\nnotification_url = \"{url}?token={APPLICATION_QUERY}\"\n"
        )
    };
    let webhook = |url: &str| format!("[[webhooks]]\nurl = \"{url}?token={HOOK_QUERY}\"\nsecret = \"{SIGNING}\"\n");
    [
        directory("/upload", &application.url("/app")),
        directory("/broken", &format!("{}app", down.url())),
        webhook(&hook.url()),
        webhook(&down.url()),
    ]
    .concat()
}

/// Uploads a file of one fragment by a user; the session.
fn upload(server: &Server, said: &mut Said, path: &str) -> String {
    let created = ask(server, said, &Packet::create(Form::Native, path).from("jo", PASSWORD));
    assert_ok(&created, 200);
    let session = created.header("BITS-Session-Id").unwrap().to_owned();
    let fragment = Packet::fragment(Form::Native, path, &session, 0, &pattern(1, 1000), 1000);
    ask(server, said, &fragment.from("jo", PASSWORD));
    session
}

#[test]
fn no_secret_is_in_anything_that_is_said() {
    let (application, hook, down) = (Application::start(Behaviour::status(200)), Receiver::start(), Receiver::absent());
    let config = config(&application, &hook, &down);
    let mut server = Server::prepare(ServerOptions::new().config(&config).env("RUST_LOG", "trace"));
    let mut said = Said::default();
    let users = password(&server, &mut said);
    let secrets = Secrets::of(&users);
    server.launch();

    for user in ["jo", "nobody"] {
        let packet = Packet::ping(Form::Native, "/upload/a").from(user, WRONG);
        assert_ack(&ask(&server, &mut said, &packet), 401, None);
    }
    let whole = upload(&server, &mut said, "/upload/a");
    let close = Packet::close(Form::Native, "/upload/a", &whole).from("jo", PASSWORD);
    assert_ok(&ask(&server, &mut said, &close), 200);
    let stuck = upload(&server, &mut said, "/broken/b");
    hook.wait_taken(3);
    wait_until("a webhook is told to be down", || server.log().contains("Connection refused"));

    let file = server.folder().join("bits.toml").to_str().unwrap().to_owned();
    for arguments in [
        &["check"][..],
        &["sessions", "list"],
        &["sessions", "list", "--json"],
        &["sessions", "show", &stuck],
        &["sessions", "show", &stuck, "--json"],
    ] {
        let output = command(&server, &[arguments, &["--config", &file]].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        said.output(&arguments.join(" "), &output);
    }
    for path in ["/metrics", "/healthz", "/readyz"] {
        said.by(path, admin(&server, path));
    }
    server.terminate();
    said.by("the log", server.log_bytes());
    said.assert_holds_none(&secrets);

    // The search finds what is there: in the configuration, in the file of users, and on the wire.
    let sent = Packet::ping(Form::Native, "/").from("jo", PASSWORD).encode();
    let mistaken = Packet::ping(Form::Native, "/").from("jo", WRONG).encode();
    let planted = [config.as_bytes(), users.as_bytes(), &sent, &mistaken, PASSWORD.as_bytes(), WRONG.as_bytes()];
    assert_eq!(secrets.within(&planted.concat()).len(), secrets.0.len());
    let seen = format!("{:?}{:?}", application.seen(), hook.requests());
    assert_eq!(secrets.within(seen.as_bytes()), [HOOK_QUERY, APPLICATION_QUERY], "they were used");
    // And the log is all of it.
    let log = server.log();
    for part in [" TRACE ", "a password is hashed", &stuck, &whole] {
        assert!(log.contains(part), "{part} is not in the log");
    }
}

/// What is wrong is told by its place and its key, not by its value.
#[test]
fn no_secret_is_in_a_complaint() {
    const SECRET: &str = "planted-secret";
    let server = Server::prepare(ServerOptions::new());
    let application = |url: &str| {
        format!("[[directories]]\nurl_path = \"/x\"\nnotification_type = \"by-value\"\nnotification_url = \"{url}\"\n")
    };
    let mut tried = vec![];
    for url in [format!("http://u:{SECRET}@h/"), format!("ftp://h/?{SECRET}"), format!("http://h/?{SECRET} x")] {
        tried.push((application(&url), vec![], "directories.notification_url"));
    }
    tried.push((format!("[[webhooks]]\nurl = \"http://u:{SECRET}@h/\""), vec![], "webhooks.url"));
    tried.push((format!("[[webhooks]]\nurl = \"http://h/\"\nsecret = [\"{SECRET}\"]"), vec![], "webhooks.secret"));
    tried.push((format!("[state]\nurl = \"postgres://u:{SECRET}@h/db"), vec![], "no valid TOML"));
    for (name, value, key) in [
        ("BITS__STATE__URL", format!("postgres://u:{SECRET}?@h/db"), "state.url"),
        ("BITS__STATE__URL", format!("postgers://u:{SECRET}@h/db"), "state.url"),
        ("BITS__STATE__ULR", format!("postgres://u:{SECRET}@h/db"), "BITS__STATE__ULR"),
        ("BITS__STORAGE__URL", format!("s3://u:{SECRET}@h/bucket"), "storage.url"),
        ("BITS__WEBHOOKS__SECRET", SECRET.to_owned(), "webhooks.secret"),
    ] {
        tried.push((String::new(), vec![(name, value)], key));
    }
    let file = server.folder().join("tried.toml");
    for (config, environment, key) in tried {
        fs::write(&file, &config).unwrap();
        assert!(config.contains(SECRET) || environment[0].1.contains(SECRET));
        for words in [&["check"][..], &["serve"], &["migrate"], &["sessions", "list", "--json"]] {
            let mut command = command(&server, words);
            command.arg("--config").arg(&file).envs(environment.iter().map(|(name, value)| (name, value)));
            let output = command.output().unwrap();
            let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert_eq!(output.status.code(), Some(2), "{words:?} {key}: {text}");
            assert!(text.contains(key) && !text.contains(SECRET), "{words:?} {key}: {text}");
        }
    }
    for (name, value) in [
        ("BITS__STATE__URL", format!("postgres://u:{SECRET}@h/db")),
        ("BITS__STORAGE__OPTIONS__SECRET_ACCESS_KEY", SECRET.to_owned()),
    ] {
        let output = command(&server, &["check"]).env(name, value).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success() && text.contains("hidden") && !text.contains(SECRET), "{name}: {text}");
    }
}
