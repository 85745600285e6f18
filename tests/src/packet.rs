//! Requests in which everything can be changed.

use base64::{Engine, engine::general_purpose::STANDARD};

/// The protocol that every client names.
pub const PROTOCOL: &str = "{7df0354d-249b-430f-820d-3d2a9bef4931}";

/// How a request says that it is BITS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The method is `BITS_POST`.
    Native,
    /// `POST` with `X-HTTP-Method-Override: BITS_POST`.
    Override,
}

impl Form {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Native, Self::Override];

    /// What a Create-Session is answered.
    pub fn created(self) -> u16 {
        match self {
            Self::Native => 200,
            Self::Override => 201,
        }
    }
}

/// A request, well-formed until a test changes it.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The method of the request line.
    pub method: String,
    /// The target of the request line; any bytes.
    pub target: Vec<u8>,
    /// The version of the request line.
    pub version: String,
    /// The header lines in their order; any bytes.
    pub headers: Vec<(String, Vec<u8>)>,
    /// What follows the head.
    pub body: Vec<u8>,
}

impl Packet {
    /// A packet of any type without a body: Host, BITS-Packet-Type and `Content-Length: 0`.
    pub fn new(form: Form, kind: &str, path: &str) -> Self {
        let method = match form {
            Form::Native => "BITS_POST",
            Form::Override => "POST",
        };
        let packet = Self {
            method: method.to_owned(),
            target: path.into(),
            version: "HTTP/1.1".to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        };
        let packet = packet.with("Host", "localhost").with("BITS-Packet-Type", kind).with("Content-Length", "0");
        match form {
            Form::Native => packet,
            Form::Override => packet.with("X-HTTP-Method-Override", "BITS_POST"),
        }
    }

    /// A Ping (section 2.2.10).
    pub fn ping(form: Form, path: &str) -> Self {
        Self::new(form, "Ping", path)
    }

    /// A Create-Session (section 2.2.2).
    pub fn create(form: Form, path: &str) -> Self {
        Self::new(form, "Create-Session", path).with("BITS-Supported-Protocols", PROTOCOL)
    }

    /// A Fragment (section 2.2.6) that carries `bytes` from offset `first` of `total`.
    pub fn fragment(form: Form, path: &str, session: &str, first: u64, bytes: &[u8], total: u64) -> Self {
        let last = (first + bytes.len() as u64).saturating_sub(1);
        Self::new(form, "Fragment", path)
            .with("BITS-Session-Id", session)
            .with("Content-Range", &format!("bytes {first}-{last}/{total}"))
            .body(bytes)
    }

    /// A Close-Session (section 2.2.8).
    pub fn close(form: Form, path: &str, session: &str) -> Self {
        Self::new(form, "Close-Session", path).with("BITS-Session-Id", session)
    }

    /// A Cancel-Session (section 2.2.4).
    pub fn cancel(form: Form, path: &str, session: &str) -> Self {
        Self::new(form, "Cancel-Session", path).with("BITS-Session-Id", session)
    }

    /// The same with this header, in place of what it was.
    #[must_use]
    pub fn with(self, name: &str, value: &str) -> Self {
        self.with_bytes(name, value.as_bytes())
    }

    /// The same with this header in place of what it was; the value may be any bytes.
    #[must_use]
    pub fn with_bytes(mut self, name: &str, value: &[u8]) -> Self {
        match self.headers.iter_mut().find(|(other, _)| other.eq_ignore_ascii_case(name)) {
            Some((_, old)) => *old = value.to_owned(),
            None => self.headers.push((name.to_owned(), value.to_owned())),
        }
        self
    }

    /// The same with one more header, even if it stands there already.
    #[must_use]
    pub fn and(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The same with Basic credentials.
    #[must_use]
    pub fn from(self, user: &str, password: &str) -> Self {
        let token = STANDARD.encode(format!("{user}:{password}"));
        self.with("Authorization", &format!("Basic {token}"))
    }

    /// The same without this header.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self
    }

    /// The same with this body and its Content-Length.
    #[must_use]
    pub fn body(self, bytes: &[u8]) -> Self {
        let mut packet = self.with("Content-Length", &bytes.len().to_string());
        packet.body = bytes.to_owned();
        packet
    }

    /// The same with these bytes after the head, whatever its headers say.
    #[must_use]
    pub fn raw_body(mut self, bytes: &[u8]) -> Self {
        self.body = bytes.to_owned();
        self
    }

    /// The same with another request target.
    #[must_use]
    pub fn target(mut self, target: &[u8]) -> Self {
        self.target = target.to_owned();
        self
    }

    /// The same with another version in the request line.
    #[must_use]
    pub fn version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.version);
        self
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    }

    /// Request line and headers as they go over the wire, with the empty line.
    pub fn head(&self) -> Vec<u8> {
        let mut bytes = [self.method.as_bytes(), b" ", &self.target, b" ", self.version.as_bytes(), b"\r\n"].concat();
        for (name, value) in &self.headers {
            bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        bytes.extend(b"\r\n");
        bytes
    }

    /// All of it as it goes over the wire.
    pub fn encode(&self) -> Vec<u8> {
        [self.head(), self.body.clone()].concat()
    }
}
