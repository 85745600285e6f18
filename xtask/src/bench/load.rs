//! The load generator: blocking sockets that write from one fixed buffer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::shell::Result;

/// What uploads are made of: the same bytes for every peer.
static BYTES: [u8; 1 << 20] = [0x5A; 1 << 20];

/// The only chunked body that is taken: an empty one.
const NO_CHUNKS: &str = "0\r\n\r\n";

const PROTOCOL: &str = "{7df0354d-249b-430f-820d-3d2a9bef4931}";

/// One connection to a server.
pub(crate) struct Connection {
    stream: TcpStream,
    address: SocketAddr,
}

/// An upload that takes fragments, over a connection of its own.
pub(crate) struct Upload {
    connection: Connection,
    /// None for tus, where the path says it.
    session: Option<String>,
    path: String,
    total: u64,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).map_err(|error| format!("cannot connect to {address}: {error}"))?;
        stream.set_nodelay(true)?;
        // Longer than anything measured here: a server that hangs ends the run.
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        stream.set_write_timeout(Some(Duration::from_secs(120)))?;
        Ok(Self { stream, address })
    }

    /// Stores `total` bytes at `path` by one PUT.
    pub(crate) fn put(&mut self, path: &str, total: u64) -> Result<()> {
        self.send_head("PUT", path, &[("Content-Length", &total.to_string())])?;
        self.send_bytes(total)?;
        self.read_answer()?.expect_success()
    }

    /// Fetches `path`, which has `total` bytes.
    pub(crate) fn get(&mut self, path: &str, total: u64) -> Result<()> {
        self.send_head("GET", path, &[])?;
        self.read_answer()?.expect(200, total)
    }

    /// Fetches `length` bytes of `path`, from `first` on.
    pub(crate) fn get_range(&mut self, path: &str, first: u64, length: u64) -> Result<()> {
        self.send_head("GET", path, &[("Range", &format!("bytes={first}-{}", first + length - 1))])?;
        self.read_answer()?.expect(206, length)
    }

    /// Whether a GET of `path` is answered with success.
    pub(crate) fn is_ready(&mut self, path: &str) -> Result<bool> {
        self.send_head("GET", path, &[("Connection", "close")])?;
        Ok(self.read_answer()?.is_success())
    }

    /// The body of the answer to a GET of `path`.
    pub(crate) fn get_text(mut self, path: &str) -> Result<String> {
        self.send_head("GET", path, &[("Connection", "close")])?;
        let mut answer = String::new();
        self.stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("the server gave no whole answer")?;
        Answer::parse(head.as_bytes())?.expect_success()?;
        Ok(body.to_owned())
    }

    /// Creates a session for `path`.
    pub(crate) fn create(mut self, path: &str, total: u64) -> Result<Upload> {
        let headers =
            [("BITS-Packet-Type", "Create-Session"), ("BITS-Supported-Protocols", PROTOCOL), ("Content-Length", "0")];
        self.send_head("BITS_POST", path, &headers)?;
        let answer = self.read_answer()?;
        answer.expect_success()?;
        let session = answer.header("bits-session-id").ok_or("the ack of Create-Session names no session")?.to_owned();
        Ok(Upload { connection: self, path: path.to_owned(), session: Some(session), total })
    }

    /// Creates an upload below `path` by the protocol of tus.
    pub(crate) fn create_tus(mut self, path: &str, total: u64) -> Result<Upload> {
        let headers = [("Tus-Resumable", "1.0.0"), ("Upload-Length", &total.to_string()), ("Content-Length", "0")];
        self.send_head("POST", path, &headers)?;
        let answer = self.read_answer()?;
        answer.expect_success()?;
        let location = answer.header("location").ok_or("the answer to a creation has no Location")?;
        let path = location.split_once("://").map_or(location, |(_, rest)| rest);
        let path = path.find('/').map(|start| path[start..].to_owned()).ok_or("a Location without a path")?;
        Ok(Upload { connection: self, session: None, path, total })
    }

    fn send_head(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<()> {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", self.address);
        Ok(self.stream.write_all(head.as_bytes())?)
    }

    fn send_bytes(&mut self, count: u64) -> Result<()> {
        let mut left = count;
        while left > 0 {
            let part = left.min(BYTES.len() as u64);
            self.stream.write_all(&BYTES[..part as usize])?;
            left -= part;
        }
        Ok(())
    }

    fn read_answer(&mut self) -> Result<Answer> {
        let mut buffer = [0; 8192];
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut buffer[filled..])?;
            if read == 0 {
                return Err("the server closed the connection without an answer".into());
            }
            filled += read;
            if let Some(end) = buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n") {
                let answer = Answer::parse(&buffer[..end])?;
                let length = if answer.is_chunked() { NO_CHUNKS.len() } else { answer.content_length()? };
                self.drop_body(length, filled - end - 4)?;
                return Ok(answer);
            }
        }
    }

    fn drop_body(&mut self, length: usize, already_read: usize) -> Result<()> {
        const MOST: usize = 1 << 20;
        let mut left = length.checked_sub(already_read).ok_or("more bytes than the answer's length")?;
        let mut buffer = vec![0; left.min(MOST)];
        while left > 0 {
            let read = self.stream.read(&mut buffer[..left.min(MOST)])?;
            if read == 0 {
                return Err(format!("the server closed the connection {left} bytes before the end").into());
            }
            left -= read;
        }
        Ok(())
    }
}

impl Upload {
    /// Sends the bytes from `first` on, `length` of them, and waits for the ack.
    pub(crate) fn fragment(&mut self, first: u64, length: u64) -> Result<()> {
        self.begin_fragment(first, length, length)?;
        let answer = self.connection.read_answer()?;
        answer.expect_success()?;
        let next = answer.header(if self.session.is_some() { "bits-received-content-range" } else { "upload-offset" });
        if next == Some(&(first + length).to_string()) {
            return Ok(());
        }
        Err(format!("the server wants to go on at {next:?} after {} bytes", first + length).into())
    }

    /// Sends everything in fragments of `length`.
    pub(crate) fn send(&mut self, length: u64) -> Result<()> {
        let mut first = 0;
        while first < self.total {
            let length = length.min(self.total - first);
            self.fragment(first, length)?;
            first += length;
        }
        Ok(())
    }

    /// Sends the head of a fragment and only the first `sent` bytes of its body.
    pub(crate) fn begin_fragment(&mut self, first: u64, length: u64, sent: u64) -> Result<()> {
        match &self.session {
            Some(session) => {
                let range = format!("bytes {first}-{}/{}", first + length - 1, self.total);
                let headers = [
                    ("BITS-Packet-Type", "Fragment"),
                    ("BITS-Session-Id", session),
                    ("Content-Range", &range),
                    ("Content-Length", &length.to_string()),
                ];
                self.connection.send_head("BITS_POST", &self.path, &headers)?;
            }
            None => {
                let headers = [
                    ("Tus-Resumable", "1.0.0"),
                    ("Content-Type", "application/offset+octet-stream"),
                    ("Upload-Offset", &first.to_string()),
                    ("Content-Length", &length.to_string()),
                ];
                self.connection.send_head("PATCH", &self.path, &headers)?;
            }
        }
        self.connection.send_bytes(sent)
    }

    /// The last part of its URL.
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Ends the session; tus has none to end.
    pub(crate) fn close(mut self) -> Result<Connection> {
        let Some(session) = &self.session else { return Ok(self.connection) };
        let headers = [("BITS-Packet-Type", "Close-Session"), ("BITS-Session-Id", session), ("Content-Length", "0")];
        self.connection.send_head("BITS_POST", &self.path, &headers)?;
        self.connection.read_answer()?.expect_success()?;
        Ok(self.connection)
    }

    /// Leaves the session as it is.
    pub(crate) fn abandon(self) -> Connection {
        self.connection
    }
}

/// The head of an answer.
struct Answer {
    status: u16,
    head: String,
}

impl Answer {
    fn parse(head: &[u8]) -> Result<Self> {
        let head = String::from_utf8_lossy(head).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok(Self { status: status.ok_or_else(|| format!("no HTTP answer: {head:?}"))?, head })
    }

    fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    fn expect_success(&self) -> Result<()> {
        if self.is_success() { Ok(()) } else { Err(format!("the server refused:\n{}", self.head).into()) }
    }

    fn expect(&self, status: u16, length: u64) -> Result<()> {
        let given = (self.status, self.content_length()? as u64);
        if given == (status, length) { Ok(()) } else { Err(format!("not {length} bytes:\n{}", self.head).into()) }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding") == Some("chunked")
    }

    fn content_length(&self) -> Result<usize> {
        Ok(self.header("content-length").map_or(Ok(0), str::parse)?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::result::Result;
    use std::thread;

    use super::*;
    use crate::bench::sink;

    fn sink() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || sink::accept(&listener).map_err(|error| error.to_string()));
        address
    }

    /// A server that gives one answer to the first request.
    fn answering(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let head = BufReader::new(stream.try_clone().unwrap()).lines();
            assert!(head.map(Result::unwrap).take_while(|line| !line.is_empty()).count() > 0);
            stream.write_all(answer.as_bytes()).unwrap();
        });
        address
    }

    #[test]
    fn an_upload_goes_through_its_packets() {
        let mut upload = Connection::open(sink()).unwrap().create("/upload/a", 3 << 20).unwrap();
        upload.fragment(0, 2 << 20).unwrap();
        upload.fragment(2 << 20, 1 << 20).unwrap();
        upload.close().unwrap().put("/a", 5).unwrap();
    }

    #[test]
    fn the_sink_gives_as_many_bytes_as_it_was_sent() {
        let mut connection = Connection::open(sink()).unwrap();
        connection.put("/a", 3 << 20).unwrap();
        connection.get("/a", 3 << 20).unwrap();
        connection.get_range("/a", 1 << 20, 5).unwrap();
        assert!(connection.get("/a", 4 << 20).is_err());
    }

    #[test]
    fn a_refusal_is_an_error_that_shows_the_answer() {
        let server = answering("HTTP/1.1 403 Forbidden\r\nBITS-Error-Code: 0x80070005\r\nContent-Length: 0\r\n\r\n");
        let refused = Connection::open(server).unwrap().create("/upload/a", 1).map(|_| ()).unwrap_err();
        assert!(refused.to_string().contains("0x80070005"), "{refused}");
    }

    #[test]
    fn an_ack_with_another_offset_is_an_error() {
        let server = answering("HTTP/1.1 200 OK\r\nBITS-Received-Content-Range: 4\r\nContent-Length: 0\r\n\r\n");
        let connection = Connection::open(server).unwrap();
        let mut upload = Upload { connection, path: "/upload/a".to_owned(), session: Some("{}".to_owned()), total: 9 };
        assert!(upload.fragment(0, 9).is_err());
    }

    #[test]
    fn an_upload_by_tus_is_where_the_answer_says() {
        let location =
            "HTTP/1.1 201 \r\nLocation: http://localhost:1/files/abc\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        let connection = Connection::open(answering(location)).unwrap();
        let upload = connection.create_tus("/files", 9).unwrap();
        assert_eq!((upload.path.as_str(), upload.name()), ("/files/abc", "abc"));
        let next = answering("HTTP/1.1 204 No Content\r\nUpload-Offset: 4\r\n\r\n");
        let mut upload = Upload { connection: Connection::open(next).unwrap(), ..upload };
        upload.fragment(0, 4).unwrap();
        assert_eq!(upload.close().map(drop).map_err(|error| error.to_string()), Ok(()));
    }

    #[test]
    fn a_download_that_breaks_off_or_is_of_another_length_is_an_error() {
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        let connection = || Connection::open(answering(whole)).unwrap();
        connection().get("/a", 3).unwrap();
        assert!(connection().get("/a", 4).is_err());
        assert!(connection().get_range("/a", 0, 3).is_err(), "a range was asked for");
        let broken = answering("HTTP/1.1 206 Partial Content\r\nContent-Length: 4\r\n\r\nabc");
        assert!(Connection::open(broken).unwrap().get_range("/a", 0, 4).is_err());
    }

    #[test]
    fn answers_may_have_bodies() {
        let whole = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n";
        assert!(Connection::open(answering(whole)).unwrap().is_ready("/readyz").unwrap());
        assert_eq!(Connection::open(answering(whole)).unwrap().get_text("/metrics").unwrap(), "ready\n");
    }
}
