//! Requests gone wrong: valid ones of every kind, mutated by a seeded generator.

use crate::{Form, PROTOCOL, Packet, pattern};

/// Names that lead out of a folder, or mean something else to somebody.
const NAMES: [&str; 20] = [
    "/upload/../escaped",
    "/upload/..%2fescaped",
    "/upload/%2e%2e/%2e%2e/escaped",
    "/upload/..\\..\\escaped",
    "/upload/..%5c..%5cescaped",
    "/upload/link/escaped",
    "/upload/link/../escaped",
    "/upload//escaped",
    "/upload/./escaped",
    "/upload/%00",
    "/upload/a%0d%0aX: y",
    "/upload/con",
    "/upload/a:b",
    "/upload/%c0%ae%c0%ae/escaped",
    "/upload/BITS-Sessions/a",
    "/upload/bits-sessions/%2e%2e/a",
    "http://other/upload/a",
    "//upload/a",
    "*",
    "/uploads/escaped",
];
const NUMBERS: [&str; 14] = [
    "0",
    "-1",
    "+1",
    "00000000000000000000001",
    "0x10",
    "1e9",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999999",
    " 1 , 1",
];
const BYTES: [&[u8]; 16] = [
    b"\0",
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\t",
    b" ",
    b":",
    b"\x7F",
    b"\xFF",
    b"\xC3\xA9",
    b"\x1B[31m",
    b"%",
    b"{",
    b",",
    b"\xE2\x80\xAE",
];
const HEADERS: [(&str, &str); 22] = [
    ("Transfer-Encoding", "chunked"),
    ("Transfer-Encoding", "gzip, chunked"),
    ("Transfer-Encoding", "identity"),
    ("Content-Length", "0"),
    ("Content-Length", "18446744073709551615"),
    ("Content-Encoding", "gzip"),
    ("Expect", "100-continue"),
    ("Upgrade", "h2c"),
    ("Connection", "close"),
    ("Connection", "Upgrade, HTTP2-Settings"),
    ("Range", "bytes=0-0,1-1,2-,-1,5-2"),
    ("Range", "bytes=18446744073709551615-18446744073709551616"),
    ("If-Range", "\"x"),
    ("Authorization", "Basic !!!"),
    ("Authorization", "Basic Og=="),
    ("Authorization", "Negotiate TlRMTVNTUAABAAAA"),
    ("X-HTTP-Method-Override", "BITS_POST"),
    ("X-Forwarded-For", "::1, 999.1.1.1"),
    ("BITS-Packet-Type", "Ping"),
    ("BITS-Session-Id", "{00000000-0000-0000-0000-000000000000}"),
    ("BITS-Supported-Protocols", "{,,,}"),
    ("Host", "a b"),
];
/// The longest fragment, in bytes.
const LONGEST: usize = 3000;
/// How many sessions are remembered.
const KNOWN: usize = 4;
/// What other protocols start with.
const GREETINGS: [&[u8]; 6] = [
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    b"\x16\x03\x01\x02\0\x01\0\x01\xFC\x03\x03",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C\x7F\0\0\x01\x7F\0\0\x01\0\x01\0\x02",
    b"GET /upload/a\r\n",
    b"SSH-2.0-x\r\n",
];

/// A generator of requests that are wrong in some way, the same ones for the same seed.
#[derive(Debug)]
pub struct Mutator {
    random: fastrand::Rng,
    /// Sessions of the server that requests name, with their paths.
    sessions: Vec<(String, String)>,
    /// What fragments carry.
    content: Vec<u8>,
}

impl Mutator {
    /// The generator with this seed, which knows no session yet.
    pub fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), sessions: Vec::new(), content: pattern(seed, LONGEST) }
    }

    /// Lets requests name this session of the server; an older one is forgotten for it.
    pub fn know(&mut self, path: &str, session: &str) {
        if self.sessions.len() >= KNOWN {
            let oldest = self.choice(KNOWN);
            self.sessions.swap_remove(oldest);
        }
        self.sessions.push((path.to_owned(), session.to_owned()));
    }

    /// A choice with so many outcomes, for whoever sends.
    pub fn choice(&mut self, outcomes: usize) -> usize {
        self.random.usize(..outcomes)
    }

    /// A request whose parts are wrong, while its framing says where it ends.
    pub fn framed(&mut self) -> Vec<u8> {
        let packet = self.wrong_packet();
        let length = packet.body.len().to_string();
        packet.without("Transfer-Encoding").without("Expect").with("Content-Length", &length).encode()
    }

    /// Bytes that may be no request at all, or end before it does.
    pub fn unframed(&mut self) -> Vec<u8> {
        let mut bytes = self.wrong_packet().encode();
        for _ in 0..1 + self.choice(4) {
            self.damage(&mut bytes);
        }
        bytes
    }

    fn wrong_packet(&mut self) -> Packet {
        let mut packet = self.packet();
        for _ in 0..1 + self.choice(3) {
            packet = self.spoil(packet);
        }
        packet
    }

    fn packet(&mut self) -> Packet {
        let form = *self.random.choice(Form::ALL.iter()).unwrap_or(&Form::Native);
        let (mut path, session) = self.session();
        if self.choice(4) == 0 {
            path = format!("/upload/{}", self.choice(50));
        }
        match self.choice(16) {
            0 | 1 => Packet::ping(form, &path),
            2 | 3 => Packet::create(form, &path),
            4 => Packet::close(form, &path, &session),
            5 => Packet::cancel(form, &path, &session),
            6 => Packet { method: "GET".to_owned(), ..Packet::new(form, "", &path) },
            7 => Packet { method: "HEAD".to_owned(), ..Packet::new(form, "", &path) },
            _ => {
                let length = self.choice(LONGEST);
                let first = if self.random.bool() { 0 } else { self.choice(4000) as u64 };
                let total = first + length as u64 + self.choice(2) as u64 * 5000;
                Packet::fragment(form, &path, &session, first, &self.content[..length], total)
            }
        }
    }

    fn session(&mut self) -> (String, String) {
        let known = self.random.choice(self.sessions.iter()).cloned();
        known.unwrap_or_else(|| ("/upload/0".to_owned(), PROTOCOL.to_owned()))
    }

    /// The same with one part changed.
    fn spoil(&mut self, mut packet: Packet) -> Packet {
        match self.choice(10) {
            0 => packet.target = NAMES[self.choice(NAMES.len())].into(),
            1 => self.damage(&mut packet.target),
            2 | 3 => {
                let (name, value) = HEADERS[self.choice(HEADERS.len())];
                packet = packet.and(name, value);
            }
            4 => {
                let at = self.choice(packet.headers.len());
                packet.headers.remove(at);
            }
            5 | 6 => {
                let at = self.choice(packet.headers.len());
                self.damage(&mut packet.headers[at].1);
            }
            7 => {
                let range = [(); 3].map(|()| NUMBERS[self.choice(NUMBERS.len())]);
                packet = packet.with("Content-Range", &format!("bytes {}-{}/{}", range[0], range[1], range[2]));
            }
            8 => {
                let length = [10, 4096, 4097, 70_000][self.choice(4)];
                packet = packet.and("BITS-Session-Id", &"x".repeat(length));
            }
            _ => {
                let words = ["GET", "PUT", "BITS_POST", "POST", "OPTIONS", "TRACE", "CONNECT", "bits_post"];
                words[self.choice(words.len())].clone_into(&mut packet.method);
            }
        }
        packet
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        let at = self.choice(bytes.len() + 1);
        let end = (at + self.choice(40)).min(bytes.len());
        match self.choice(9) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << self.choice(8),
            2 | 3 => drop(bytes.splice(at..at, BYTES[self.choice(BYTES.len())].iter().copied())),
            4 => drop(bytes.drain(at..end)),
            5 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            6 => self.number(bytes),
            7 => {
                let greeting = GREETINGS[self.choice(GREETINGS.len())];
                bytes.splice(0..0, greeting.iter().copied());
            }
            _ => {
                let length = self.choice(64);
                let noise: Vec<u8> = (0..length).map(|_| self.random.u8(..)).collect();
                bytes.splice(at..end, noise);
            }
        }
    }

    /// Puts an unlikely number in place of the first one after some point.
    fn number(&mut self, bytes: &mut Vec<u8>) {
        let from = self.choice(bytes.len() + 1);
        let Some(start) = bytes[from..].iter().position(u8::is_ascii_digit).map(|at| from + at) else { return };
        let length = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        bytes.splice(start..start + length, NUMBERS[self.choice(NUMBERS.len())].bytes());
    }
}
