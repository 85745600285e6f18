//! A client that sends bytes and reads answers, and hides nothing of either.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use rustls::pki_types::CertificateDer;

use crate::{
    TlsClient,
    check::assert_ok,
    packet::{Form, Packet},
    wire::Wire,
};

/// How long an answer may take unless a test says otherwise.
const PATIENCE: Duration = Duration::from_secs(20);

/// One connection.
#[derive(Debug)]
pub struct Raw {
    /// The form in which packets are sent.
    pub form: Form,
    stream: Wire,
    /// Bytes read and not yet part of an answer.
    buffer: Vec<u8>,
    /// The next answer has no body, whatever its length says.
    asked_for_head: bool,
}

/// An answer as it came.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The header lines in their order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Raw {
    /// Connects; packets are sent in the native form.
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { form: Form::Native, stream: Wire::Plain(stream), buffer: Vec::new(), asked_for_head: false }
    }

    /// The same connection, on which TLS begins now; fails where the server ends it.
    pub fn tls(self, client: &TlsClient<'_>) -> io::Result<Self> {
        let Wire::Plain(stream) = self.stream else { panic!("TLS has begun") };
        Ok(Self { stream: Wire::begin_tls(stream, client)?, ..self })
    }

    /// The certificate that the server showed, and the protocol that ALPN chose.
    pub fn negotiated(&self) -> (Option<CertificateDer<'static>>, Option<String>) {
        (self.stream.certificate(), self.stream.protocol())
    }

    /// Whether TLS went on with the session of an earlier connection.
    pub fn is_resumed(&self) -> bool {
        self.stream.is_resumed()
    }

    /// The same connection, on which packets are sent in `form`.
    #[must_use]
    pub fn speaking(self, form: Form) -> Self {
        Self { form, ..self }
    }

    /// Sets how long an answer may take.
    pub fn patience(&mut self, patience: Duration) {
        self.stream.socket().set_read_timeout(Some(patience)).unwrap();
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the server reads");
    }

    /// Sends bytes, which fails when the server has closed the connection.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.asked_for_head = bytes.starts_with(b"HEAD ");
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Says that no more bytes will come, and keeps listening.
    pub fn finish_sending(&self) {
        self.stream.socket().shutdown(Shutdown::Write).unwrap();
    }

    /// Reads one answer, an interim one (1xx) too.
    pub fn receive(&mut self) -> Response {
        self.try_receive().expect("an answer comes")
    }

    /// Reads one answer; fails with [`ErrorKind::UnexpectedEof`] when the connection ends first.
    pub fn try_receive(&mut self) -> io::Result<Response> {
        let head = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break self.take(end + 4);
            }
            self.fill()?;
        };
        let head = String::from_utf8(head).expect("an answer's head is text");
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.")).expect("an answer starts with HTTP/1.");
        let status = status.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status has digits");
        let headers = lines
            .map(|line| {
                let (name, value) = line.split_once(':').expect("a header line has a colon");
                (name.to_owned(), value.trim().to_owned())
            })
            .collect();
        let mut response = Response { status, headers, body: Vec::new() };
        response.body = self.read_body(&response)?;
        Ok(response)
    }

    /// Sends a packet and reads its answer.
    pub fn ask(&mut self, packet: &Packet) -> Response {
        self.send(&packet.encode());
        self.receive()
    }

    /// Whether the server closes the connection, without another byte, before its patience ends.
    pub fn is_closed(&mut self) -> bool {
        match self.fill() {
            Ok(()) => false,
            Err(error) => matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset),
        }
    }

    /// Sends a Ping and reads its answer.
    pub fn ping(&mut self, path: &str) -> Response {
        self.ask(&Packet::ping(self.form, path))
    }

    /// Creates a session, which must succeed, and returns its id.
    pub fn create(&mut self, path: &str) -> String {
        let response = self.ask(&Packet::create(self.form, path));
        assert_ok(&response, self.form.created());
        response.header("BITS-Session-Id").expect("the ack names the session").to_owned()
    }

    /// Sends `bytes` as a Fragment from offset `first` of `total` and reads the answer.
    pub fn fragment(&mut self, path: &str, session: &str, first: u64, bytes: &[u8], total: u64) -> Response {
        self.ask(&Packet::fragment(self.form, path, session, first, bytes, total))
    }

    /// Sends a Close-Session and reads its answer.
    pub fn close(&mut self, path: &str, session: &str) -> Response {
        self.ask(&Packet::close(self.form, path, session))
    }

    /// Sends a Cancel-Session and reads its answer.
    pub fn cancel(&mut self, path: &str, session: &str) -> Response {
        self.ask(&Packet::cancel(self.form, path, session))
    }

    fn read_body(&mut self, response: &Response) -> io::Result<Vec<u8>> {
        if self.asked_for_head || response.status < 200 || matches!(response.status, 204 | 304) {
            return Ok(Vec::new());
        }
        if response.header("Transfer-Encoding").is_some() {
            return self.read_chunks();
        }
        if let Some(length) = response.header("Content-Length") {
            let length = length.parse().expect("Content-Length is a number");
            while self.buffer.len() < length {
                self.fill()?;
            }
            return Ok(self.take(length));
        }
        while !self.is_closed() {}
        Ok(std::mem::take(&mut self.buffer))
    }

    fn read_chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                if let Some(end) = find(&self.buffer, b"\r\n") {
                    break self.take(end + 2);
                }
                self.fill()?;
            };
            let size = std::str::from_utf8(&line).ok().and_then(|line| usize::from_str_radix(line.trim(), 16).ok());
            let size = size.expect("a chunk has a size");
            while self.buffer.len() < size + 2 {
                self.fill()?;
            }
            body.extend(&self.take(size + 2)[..size]);
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let rest = self.buffer.split_off(count);
        std::mem::replace(&mut self.buffer, rest)
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 * 1024];
        let count = self.stream.read(&mut chunk)?;
        self.buffer.extend(&chunk[..count]);
        if count == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

impl Response {
    /// The value of a header; it must not stand twice.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} stands twice in {self:?}");
        value
    }

    /// All values of a header, in their order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let same = self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        same.map(|(_, value)| value.as_str()).collect()
    }

    /// The answer without the time at which it was given: what two answers that must not be told
    /// apart have in common.
    pub fn timeless(&self) -> (u16, Vec<(String, String)>, Vec<u8>) {
        let headers = self.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("Date"));
        (self.status, headers.cloned().collect(), self.body.clone())
    }

    /// `BITS-Received-Content-Range` as a number.
    pub fn next_offset(&self) -> Option<u64> {
        self.header("BITS-Received-Content-Range").map(|text| text.parse().expect("the offset is a number"))
    }

    /// `BITS-Error-Code` as a number.
    pub fn hresult(&self) -> Option<u32> {
        let digits = self.header("BITS-Error-Code")?.strip_prefix("0x").expect("an HRESULT starts with 0x");
        Some(u32::from_str_radix(digits, 16).expect("an HRESULT is hexadecimal"))
    }
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}
