//! The configurations of `packaging/proxies`, each with the proxy that Debian has: only addresses
//! and certificates are put in.
#![allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]

use std::{
    fs::{self, File},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
};

use tests::{
    Application, Authority, Behaviour, Form, Packet, Raw, Server, ServerOptions, assert_ok, assert_staging_empty,
    client_binary, pattern, wait_until,
};

/// How a proxy is started with its configuration.
struct Kind {
    file: &'static str,
    /// What stands in the file and is another thing here.
    listens: &'static [(&'static str, &'static str)],
    /// What is said around it; `$FOLDER` and `$FILE` are put in.
    main: &'static str,
    /// The program with its arguments; `$MAIN` is put in.
    words: &'static [&'static str],
}

const NGINX: Kind = Kind {
    file: "nginx.conf",
    listens: &[("listen 443 ssl", "listen 127.0.0.1:$PORT ssl")],
    main: "pid $FOLDER/pid; error_log $FOLDER/error.log; daemon off; events {}\n\
        http { access_log off; client_body_temp_path $FOLDER/body; proxy_temp_path $FOLDER/proxy; \
        fastcgi_temp_path $FOLDER/f; uwsgi_temp_path $FOLDER/u; scgi_temp_path $FOLDER/s; include $FILE; }",
    words: &["nginx", "-e", "$FOLDER/error.log", "-c", "$MAIN"],
};

const HAPROXY: Kind = Kind {
    file: "haproxy.cfg",
    listens: &[("bind :443", "bind 127.0.0.1:$PORT"), ("check port 8081", "check port $ADMIN")],
    main: "",
    words: &["haproxy", "-db", "-f", "$FILE"],
};

const CADDY: Kind = Kind {
    file: "Caddyfile",
    listens: &[("\nupload.example {", "\nhttps://localhost:$PORT {")],
    main: "{\n\tadmin off\n\tauto_https disable_redirects\n\tstorage file_system $FOLDER/storage\n}\nimport $FILE\n",
    words: &["caddy", "run", "--adapter", "caddyfile", "--config", "$MAIN"],
};

const APACHE: Kind = Kind {
    file: "apache.conf",
    listens: &[("Listen 443", "Listen 127.0.0.1:$PORT https"), ("*:443", "127.0.0.1:$PORT")],
    main: "ServerRoot $FOLDER\nPidFile $FOLDER/pid\nErrorLog $FOLDER/error.log\nUser www-data\nGroup www-data\n\
        ServerName localhost\nDefine M /usr/lib/apache2/modules\nLoadModule mpm_event_module ${M}/mod_mpm_event.so\n\
        LoadModule authz_core_module ${M}/mod_authz_core.so\nLoadModule ssl_module ${M}/mod_ssl.so\n\
        LoadModule proxy_module ${M}/mod_proxy.so\nLoadModule proxy_http_module ${M}/mod_proxy_http.so\n\
        LoadModule headers_module ${M}/mod_headers.so\nLoadModule reqtimeout_module ${M}/mod_reqtimeout.so\n\
        Include $FILE\n",
    words: &["apache2", "-f", "$MAIN", "-DFOREGROUND"],
};

/// A server with a proxy before it, both ended when dropped.
struct Proxied {
    proxy: Child,
    server: Server,
    application: Application,
    authority: Authority,
}

impl Proxied {
    fn start(kind: &Kind) -> Self {
        let application = Application::start(Behaviour::reply(b"the reply"));
        let config = format!(
            "trusted_proxies = [\"127.0.0.1\"]\npublic_url = \"https://localhost:$PORT\"\n\
             [[directories]]\nurl_path = \"/upload\"\n\
             [[directories]]\nurl_path = \"/reply\"\nnotification_type = \"by-value\"\nnotification_url = \"{}\"\n\
             [[directories]]\nurl_path = \"/users\"\nauthentication = [\"proxy\"]\n",
            application.url("/"),
        );
        let mut server = Server::prepare(ServerOptions::new());
        // A port of the test's own that the server does not use.
        let port = server.listener_address().port().to_string();
        server.options = ServerOptions::new().config(&config.replace("$PORT", &port));
        server.launch();
        let authority = Authority::new("authority");
        let proxy = start(kind, &server, &authority, &port);
        let proxied = Self { proxy, server, application, authority };
        wait_until("the proxy listens", || TcpStream::connect(proxied.server.listener_address()).is_ok());
        wait_until("the proxy finds the server", || proxied.raw().ping("/upload/file").status == 200);
        proxied
    }

    fn raw(&self) -> Raw {
        self.server.raw_listener().tls(&self.authority.client()).unwrap()
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.server.listener_address().port())
    }

    /// Runs the client in a folder where `source` is this content.
    #[track_caller]
    fn client(&self, content: &[u8], arguments: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("source"), content).unwrap();
        fs::write(folder.path().join("ca.pem"), self.authority.pem()).unwrap();
        let mut command = Command::new(client_binary());
        command.current_dir(folder.path()).env("BITS_JOBS_DIR", folder.path().join("jobs")).args(arguments);
        let output = command.args(["--ca-file", "ca.pem", "--retry-for", "0s"]).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        folder
    }
}

impl Drop for Proxied {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_raw(self.proxy.id().cast_signed()).unwrap();
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.proxy.wait();
        if std::thread::panicking() {
            eprintln!(
                "--- the proxy\n{}",
                fs::read_to_string(self.server.folder().join("error.log")).unwrap_or_default()
            );
        }
    }
}

fn start(kind: &Kind, server: &Server, authority: &Authority, port: &str) -> Child {
    let folder = server.folder();
    let identity = authority.issue(1, "localhost");
    identity.write(folder);
    fs::write(folder.join("cert-and-key.pem"), format!("{}{}", identity.pem, identity.key_pem)).unwrap();
    let packaged = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/proxies").join(kind.file);
    let mut text = fs::read_to_string(packaged).unwrap();
    let address = server.address().to_string();
    let certificates = ("/etc/ssl/upload.example", folder.to_str().unwrap());
    for (from, to) in [("127.0.0.1:8080", address.as_str()), certificates].iter().chain(kind.listens) {
        assert!(text.contains(from), "{} has no {from}", kind.file);
        text = text.replace(from, to);
    }
    let file = folder.join(kind.file);
    let admin = server.admin_address().port().to_string();
    fs::write(&file, text.replace("$PORT", port).replace("$ADMIN", &admin)).unwrap();
    let main = folder.join("main.conf");
    let put_in = |text: &str| {
        let text = text.replace("$FOLDER", folder.to_str().unwrap()).replace("$MAIN", main.to_str().unwrap());
        text.replace("$FILE", file.to_str().unwrap())
    };
    fs::write(&main, put_in(kind.main)).unwrap();
    let log = File::options().create(true).append(true).open(folder.join("error.log")).unwrap();
    let mut command = Command::new(program(kind.words[0]));
    command.args(kind.words[1..].iter().map(|word| put_in(word))).env("HOME", folder).current_dir(folder);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    std::os::unix::process::CommandExt::process_group(&mut command, 0).spawn().expect("the proxy is installed")
}

/// Servers stand where ordinary users do not look.
fn program(name: &str) -> String {
    let of_root = format!("/usr/sbin/{name}");
    if Path::new(&of_root).exists() { of_root } else { name.to_owned() }
}

fn check(kind: &Kind) {
    let proxied = Proxied::start(kind);
    uploads_come_whole(&proxied);
    replies_come_back(&proxied);
    bodies_are_not_held(&proxied);
    clients_name_nobody(&proxied);
}

fn uploads_come_whole(proxied: &Proxied) {
    let content = pattern(1, 40 << 20);
    let url = proxied.url("/upload/a%20b%C3%A4%2B.bin");
    proxied.client(&content, &["upload", "source", &url, "--fragment-size", "32MiB"]);
    assert!(proxied.server.file("upload/a bä+.bin").unwrap() == content, "the file has other bytes");
    assert_staging_empty(&proxied.server.files());
}

fn replies_come_back(proxied: &Proxied) {
    let url = proxied.url("/reply/file.bin");
    let folder = proxied.client(&pattern(2, 3 << 20), &["upload-reply", "source", &url, "-o", "reply"]);
    assert_eq!(fs::read(folder.path().join("reply")).unwrap(), b"the reply");
    assert_eq!(proxied.application.seen().last().unwrap().length, 3 << 20);
}

/// What came before the line broke is kept: a proxy that waits for whole bodies would lose it.
fn bodies_are_not_held(proxied: &Proxied) {
    let (path, content) = ("/upload/broken.bin", pattern(3, 1 << 20));
    let mut raw = proxied.raw();
    let session = raw.create(path);
    let packet = Packet::fragment(Form::Native, path, &session, 0, &content, content.len() as u64);
    raw.send(&packet.head());
    raw.send(&content[..600_000]);
    std::thread::sleep(std::time::Duration::from_millis(500));
    drop(raw);
    let first = Packet::fragment(Form::Native, path, &session, 0, &content[..1], content.len() as u64);
    wait_until("over 500,000 bytes are kept", || {
        proxied.raw().ask(&first).next_offset().is_some_and(|next| (500_000..=600_000).contains(&next))
    });
    assert_ok(&proxied.raw().cancel(path, &session), 200);
}

/// Neither an address nor a user.
fn clients_name_nobody(proxied: &Proxied) {
    let forged = |path| Packet::ping(Form::Native, path).with("X-Forwarded-For", "203.0.113.1");
    assert_ok(&proxied.raw().ask(&forged("/upload/file")), 200);
    let refused = proxied.raw().ask(&forged("/users/file").with("X-Remote-User", "mallory"));
    assert_eq!(refused.status, 403, "{refused:#?}");
    assert!(!proxied.server.log().contains("203.0.113.1"));
}

#[test]
fn nginx() {
    check(&NGINX);
}

#[test]
fn haproxy() {
    check(&HAPROXY);
}

#[test]
fn caddy() {
    check(&CADDY);
}

#[test]
fn apache() {
    check(&APACHE);
}
