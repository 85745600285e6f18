//! Plays transcripts: requests and the answers that are due to them, as text.
//!
//! A transcript is played against a fresh server, once in each form, on one connection.
//!
//! | line | says |
//! |---|---|
//! | `# text` | nothing |
//! | `only native`, `only override` | play it in this form alone |
//! | `\| toml` | a line of the table of `/upload` in the configuration, or of the whole if it names `[[directories]]` |
//! | `> Fragment /upload/a` | a packet with all that it must have; `> METHOD /a HTTP/1.1` one with nothing but what follows |
//! | `> Name: value`, `> +Name: value`, `> -Name` | sets, adds or removes a header |
//! | `>` | what follows is the body |
//! | `< 200`, `< created`, `< 403 0x80070005`, `< 416 next 5`, `< not-packet 404`, `< hangup` | the answer that is due; `close` at its end: then the connection ends |
//! | `< Name: value`, `< -Name` | a header that it has, or has not |
//! | `= upload/a "text"`, `= upload/a absent`, `= staging empty` | what stands below the files' folder |
//! | `! write upload/a "text"`, `! folder upload/a`, `! remove upload/a`, `! restart`, `! reconnect` | something happens |
//!
//! `{session}` is the session that was created last; `{x}` in an expected header takes the value
//! the first time and is that value from then on. `{bytes 0..9}` are so many bytes of a pattern,
//! `{repeat a 99}` is a text so many times, `{lower x}` and `{guid x}` spell an id otherwise. `\r`, `\n`, `\t`, `\\`, `\"` and `\x1b` are escapes.

use std::{
    collections::{HashMap, VecDeque},
    fs,
};

use crate::{
    Form, PROTOCOL, Packet, Raw, Response, Server, ServerOptions,
    check::{assert_ack, assert_clean_log, assert_staging_empty, pattern},
};

/// Headers that stand in an ack only where a rule says so.
const OCCASIONAL: [&str; 6] = [
    "BITS-Received-Content-Range",
    "BITS-Reply-URL",
    "BITS-Protocol",
    "BITS-Host-Id",
    "BITS-Host-Id-Fallback-Timeout",
    "Accept-Encoding",
];

/// Plays the transcript `text` in each form that it is for; panics where an answer is another.
pub fn play(name: &str, text: &str) {
    let script = Script::parse(text);
    for form in Form::ALL.into_iter().filter(|form| script.only.is_none_or(|only| only == *form)) {
        Player::new(name, form, &script).play(&script.steps);
    }
}

#[derive(Debug, Default)]
struct Script {
    only: Option<Form>,
    config: String,
    /// Each with the number of its line.
    steps: Vec<(usize, Step)>,
}

#[derive(Debug)]
enum Step {
    /// The lines of a request, without `> `.
    Ask(Vec<String>),
    /// The lines of an answer, without `< `.
    Expect(Vec<String>),
    File(String),
    Act(String),
}

impl Script {
    fn parse(text: &str) -> Self {
        let mut script = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let (mark, rest) = line.split_at(line.len().min(1));
            let rest = rest.strip_prefix(' ').unwrap_or(rest);
            match (mark, script.steps.last_mut()) {
                ("#", _) => {}
                ("", _) => script.steps.push((number, Step::Ask(Vec::new()))),
                ("|", _) => script.config.push_str(&format!("{rest}\n")),
                (">", Some((_, Step::Ask(lines)))) | ("<", Some((_, Step::Expect(lines)))) => {
                    lines.push(rest.to_owned());
                }
                (">", _) => script.steps.push((number, Step::Ask(vec![rest.to_owned()]))),
                ("<", _) => script.steps.push((number, Step::Expect(vec![rest.to_owned()]))),
                ("=", _) => script.steps.push((number, Step::File(rest.to_owned()))),
                ("!", _) => script.steps.push((number, Step::Act(rest.to_owned()))),
                _ => match line {
                    "only native" => script.only = Some(Form::Native),
                    "only override" => script.only = Some(Form::Override),
                    _ => panic!("line {number} is not understood: {line}"),
                },
            }
        }
        script.steps.retain(|(_, step)| !matches!(step, Step::Ask(lines) if lines.is_empty()));
        let asks = script.steps.iter().filter(|(_, step)| matches!(step, Step::Ask(_))).count();
        let answers = script.steps.iter().filter(|(_, step)| matches!(step, Step::Expect(_))).count();
        assert!(asks > 0 && answers > 0, "a transcript asks and expects");
        script
    }

    fn options(&self) -> ServerOptions {
        if self.config.contains("[[directories]]") {
            ServerOptions::new().config(&self.config)
        } else {
            ServerOptions::directory(&self.config)
        }
    }
}

struct Player {
    form: Form,
    server: Server,
    raw: Raw,
    variables: HashMap<String, String>,
    /// The sessions of the requests that are not answered yet; a Ping has none.
    asked: VecDeque<Option<String>>,
    /// Where the transcript is, for messages.
    place: String,
    name: String,
}

impl Player {
    fn new(name: &str, form: Form, script: &Script) -> Self {
        let server = Server::start(script.options());
        let raw = server.raw_in(form);
        let variables = HashMap::new();
        Self { form, server, raw, variables, asked: VecDeque::new(), place: String::new(), name: name.to_owned() }
    }

    fn play(mut self, steps: &[(usize, Step)]) {
        for (line, step) in steps {
            self.place = format!("{} line {line}, {:?} form", self.name, self.form);
            eprintln!("at {}", self.place);
            match step {
                Step::Ask(lines) => self.ask(lines),
                Step::Expect(lines) => self.expect(lines),
                Step::File(text) => self.check_file(text),
                Step::Act(text) => self.act(text),
            }
        }
        self.assert_sane();
    }

    /// After all of it the connection takes another request, and the log is clean.
    fn assert_sane(mut self) {
        self.raw.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(self.raw.receive().status, 404, "the connection goes on after {}", self.place);
        assert_clean_log(&self.server.log_bytes());
    }

    fn ask(&mut self, lines: &[String]) {
        let (first, rest) = lines.split_first().expect("a request has a line");
        let mut packet = self.start_packet(first);
        let mut rest = rest.iter();
        for line in rest.by_ref().take_while(|line| !line.is_empty()) {
            packet = self.change_header(packet, line);
        }
        let body: Vec<u8> = rest.flat_map(|line| self.bytes(line)).collect();
        let own_length = lines.iter().any(|line| line.contains("Content-Length")) || first.contains("HTTP/");
        packet = if body.is_empty() || own_length { packet.raw_body(&body) } else { packet.body(&body) };
        let ping = packet.header("BITS-Packet-Type").is_some_and(|kind| kind.eq_ignore_ascii_case(b"Ping"));
        let session = packet.header("BITS-Session-Id").filter(|_| !ping);
        self.asked.push_back(session.map(|id| String::from_utf8_lossy(id).to_uppercase()));
        self.raw.send(&packet.encode());
    }

    fn start_packet(&self, line: &str) -> Packet {
        let words: Vec<&str> = line.split(' ').collect();
        if let [method, target, version] = words[..] {
            let mut packet = Packet::new(self.form, "", "").target(&self.bytes(target)).version(version);
            packet.headers.clear();
            method.clone_into(&mut packet.method);
            return packet;
        }
        let [kind, target] = words[..] else { panic!("a packet has a type and a path: {line}") };
        let packet = Packet::new(self.form, kind, "").target(&self.bytes(target));
        match kind {
            "Create-Session" => packet.with("BITS-Supported-Protocols", PROTOCOL),
            "Fragment" | "Close-Session" | "Cancel-Session" => match self.variables.get("session") {
                Some(session) => packet.with("BITS-Session-Id", session),
                None => packet,
            },
            _ => packet,
        }
    }

    fn change_header(&self, packet: Packet, line: &str) -> Packet {
        if let Some(name) = line.strip_prefix('-') {
            return packet.without(name);
        }
        let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("a header has a colon: {line}"));
        let value = self.bytes(value.strip_prefix(' ').unwrap_or(value));
        match name.strip_prefix('+') {
            Some(name) => {
                let mut packet = packet;
                packet.headers.push((name.to_owned(), value));
                packet
            }
            None => packet.with_bytes(name, &value),
        }
    }

    fn expect(&mut self, lines: &[String]) {
        let (first, rest) = lines.split_first().expect("an answer has a line");
        let due = Due::parse(first, self.form);
        let asked = self.asked.pop_front().expect("an answer follows a request");
        if due.hangup {
            assert!(self.raw.is_closed(), "a closed connection was due at {}", self.place);
            self.raw = self.server.raw_in(self.form);
            return;
        }
        let response = self.raw.receive();
        if due.packet {
            assert_ack(&response, due.status, due.hresult);
            assert_eq!(response.next_offset(), due.next, "next offset at {}: {response:#?}", self.place);
            self.check_session(&response, due.created, asked);
            self.check_occasional(&response, rest, due.created);
        } else {
            assert_eq!(response.status, due.status, "at {}: {response:#?}", self.place);
            assert_eq!(response.header("BITS-Packet-Type"), None, "at {}: {response:#?}", self.place);
        }
        rest.iter().for_each(|line| self.check_header(&response, line));
        if due.close {
            assert!(self.raw.is_closed(), "the connection must end at {}", self.place);
            self.raw = self.server.raw_in(self.form);
        }
    }

    /// A session id is that of the request; acks of success have it (section 2.2.1.2), and so has
    /// the one that says where to go on.
    fn check_session(&mut self, response: &Response, created: bool, asked: Option<String>) {
        let session = response.header("BITS-Session-Id").map(str::to_uppercase);
        if created {
            let session = session.expect("the ack of Create-Session names the session");
            self.variables.insert("session".to_owned(), session);
        } else if session.is_some() || matches!(response.status, 200 | 416) {
            assert_eq!(session, asked, "session at {}: {response:#?}", self.place);
        }
    }

    fn check_occasional(&self, response: &Response, listed: &[String], created: bool) {
        let listed = |name: &str| listed.iter().any(|line| line.starts_with(&format!("{name}:")));
        for name in OCCASIONAL {
            match (name, created) {
                ("BITS-Received-Content-Range", _) => {}
                ("BITS-Protocol", true) => assert_eq!(response.header(name), Some(PROTOCOL)),
                ("Accept-Encoding", true) => assert_eq!(response.header(name), Some("identity")),
                _ if listed(name) => {}
                _ => assert_eq!(response.header(name), None, "at {}: {response:#?}", self.place),
            }
        }
    }

    fn check_header(&mut self, response: &Response, line: &str) {
        if let Some(name) = line.strip_prefix('-') {
            assert_eq!(response.header(name), None, "{name} at {}: {response:#?}", self.place);
            return;
        }
        let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("a header has a colon: {line}"));
        let found = response.header(name).map(str::to_owned);
        let variable = value.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        if let (Some(variable), Some(found)) = (variable, &found)
            && !self.variables.contains_key(variable)
        {
            self.variables.insert(variable.to_owned(), found.clone());
            return;
        }
        let wanted = String::from_utf8(self.bytes(value)).expect("expected values are text");
        assert_eq!(found, Some(wanted), "{name} at {}: {response:#?}", self.place);
    }

    fn check_file(&self, text: &str) {
        if text == "staging empty" {
            return assert_staging_empty(&self.server.files());
        }
        let (path, wanted) = match text.strip_suffix(" absent") {
            Some(path) => (path, None),
            None => {
                let (path, content) = self.path_and_content(text);
                (path, Some(content))
            }
        };
        let path = String::from_utf8(self.bytes(path)).expect("paths are text");
        let found = self.server.file(&path);
        assert!(found == wanted, "content of {path} at {}: {:?}", self.place, found.as_deref().map(shown));
        assert!(wanted.is_some() || !self.server.files().join(&path).exists(), "{path} exists at {}", self.place);
    }

    fn act(&mut self, text: &str) {
        let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
        let path = self.server.files().join(rest);
        match verb {
            "write" => {
                let (path, content) = self.path_and_content(rest);
                let path = self.server.files().join(path);
                fs::create_dir_all(path.parent().expect("a file has a folder")).unwrap();
                fs::write(path, content).unwrap();
            }
            "folder" => fs::create_dir_all(path).unwrap(),
            "remove" => fs::remove_file(path).unwrap(),
            "restart" => {
                self.server.restart();
                self.raw = self.server.raw_in(self.form);
            }
            "reconnect" => self.raw = self.server.raw_in(self.form),
            _ => panic!("unknown action {text}"),
        }
    }

    /// Splits `path "content"`.
    fn path_and_content<'a>(&self, text: &'a str) -> (&'a str, Vec<u8>) {
        let (path, content) = text.split_once(" \"").unwrap_or_else(|| panic!("no quoted content: {text}"));
        (path, self.bytes(content.strip_suffix('"').unwrap_or(content)))
    }

    /// The bytes that `text` stands for: variables filled in, escapes resolved.
    fn bytes(&self, text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            if let Some((filled, length)) = self.variable(rest) {
                bytes.extend(filled);
                rest = &rest[length..];
            } else if let Some(escape) = rest.strip_prefix('\\') {
                let (byte, length) = unescape(escape);
                bytes.push(byte);
                rest = &escape[length..];
            } else {
                bytes.extend(character.to_string().bytes());
                rest = &rest[character.len_utf8()..];
            }
        }
        bytes
    }

    /// What stands at the start of `text` in braces, and how long that is.
    fn variable(&self, text: &str) -> Option<(Vec<u8>, usize)> {
        let name = text.strip_prefix('{')?.split_once('}')?.0;
        let length = name.len() + 2;
        let words: Vec<&str> = name.split(' ').collect();
        let value = match words[..] {
            ["bytes", range] => {
                let (from, to) = range.split_once("..")?;
                pattern(1, to.parse().ok()?).split_off(from.parse().ok()?)
            }
            ["repeat", what, times] => what.repeat(times.parse().ok()?).into_bytes(),
            ["lower", name] => self.variables.get(name)?.to_lowercase().into_bytes(),
            ["guid", name] => self.variables.get(name)?.trim_matches(['{', '}']).to_lowercase().into_bytes(),
            _ => self.variables.get(name)?.clone().into_bytes(),
        };
        Some((value, length))
    }
}

/// The first line of an expected answer.
#[derive(Debug, Default)]
struct Due {
    status: u16,
    hresult: Option<u32>,
    next: Option<u64>,
    created: bool,
    packet: bool,
    close: bool,
    hangup: bool,
}

impl Due {
    fn parse(line: &str, form: Form) -> Self {
        let mut due = Self { packet: true, ..Self::default() };
        let mut words = line.split(' ');
        while let Some(word) = words.next() {
            match word {
                "created" => (due.created, due.status) = (true, form.created()),
                "next" => due.next = words.next().and_then(|next| next.parse().ok()),
                "not-packet" => due.packet = false,
                "close" => due.close = true,
                "hangup" => due.hangup = true,
                _ => match word.strip_prefix("0x") {
                    Some(digits) => due.hresult = Some(u32::from_str_radix(digits, 16).expect("an HRESULT")),
                    None => due.status = word.parse().unwrap_or_else(|_| panic!("what is {word} in {line}")),
                },
            }
        }
        due
    }
}

/// The byte that an escape stands for, and how much of `text` it takes.
fn unescape(text: &str) -> (u8, usize) {
    match text.as_bytes().first() {
        Some(b'r') => (b'\r', 1),
        Some(b'n') => (b'\n', 1),
        Some(b't') => (b'\t', 1),
        Some(b'x') => (u8::from_str_radix(&text[1..3], 16).expect("two hexadecimal digits"), 3),
        Some(other) => (*other, 1),
        None => panic!("a backslash ends the text"),
    }
}

fn shown(bytes: &[u8]) -> String {
    let start = bytes[..bytes.len().min(40)].escape_ascii();
    format!("{} bytes, {start}", bytes.len())
}
