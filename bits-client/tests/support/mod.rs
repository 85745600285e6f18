//! A server in the process that answers as a test tells it to, over real TCP, and remembers what it was asked.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "every test takes its part of this")]
#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

pub const ID: &str = "{7df0354d-249b-430f-820d-3d2a9bef4932}";
pub const OTHER_ID: &str = "{11111111-2222-3333-4444-555555555555}";

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    pub connection: usize,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub fn kind(&self) -> &str {
        self.header("bits-packet-type").unwrap_or("none")
    }

    /// `Fragment bytes 0-4/10`, or the packet type alone.
    pub fn brief(&self) -> String {
        match self.header("content-range") {
            Some(range) => format!("{} {range}", self.kind()),
            None => self.kind().to_owned(),
        }
    }

    pub fn length(&self) -> usize {
        self.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

/// What the server does with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A head, and nothing after it.
    Answer(String),
    /// These bytes, then the connection ends.
    Cut(String),
    /// The connection ends.
    Close,
    /// No answer, ever.
    Silence,
}

/// Decides on requests.
pub trait Handler: Send + 'static {
    /// How many bytes of the body to read before deciding.
    fn appetite(&mut self, _head: &Seen) -> usize {
        usize::MAX
    }

    /// What to do, once that much has been read.
    fn reply(&mut self, seen: &Seen) -> Reply;
}

impl<F: FnMut(&Seen) -> Reply + Send + 'static> Handler for F {
    fn reply(&mut self, seen: &Seen) -> Reply {
        self(seen)
    }
}

/// One reply after the other, each after the given part of the body.
pub struct Script(pub VecDeque<(usize, Reply)>);

impl Handler for Script {
    fn appetite(&mut self, _head: &Seen) -> usize {
        self.0.front().map_or(0, |(appetite, _)| *appetite)
    }

    fn reply(&mut self, seen: &Seen) -> Reply {
        match self.0.pop_front() {
            Some((_, reply)) => reply,
            None => Reply::Answer(head(418, &[("X-Unscripted", &seen.brief())])),
        }
    }
}

pub struct Server {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub async fn start(handler: impl Handler) -> Self {
        Self::start_at("127.0.0.1:0", handler).await
    }

    pub async fn start_at(address: &str, handler: impl Handler) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let handler = Arc::new(Mutex::new(handler));
        let log = seen.clone();
        tokio::spawn(async move {
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                tokio::spawn(serve(stream, connection, handler.clone(), log.clone()));
            }
        });
        Self { address, seen }
    }

    /// A server that gives these answers, in this order.
    pub async fn scripted(replies: impl IntoIterator<Item = Reply>) -> Self {
        Self::start(Script(replies.into_iter().map(|reply| (usize::MAX, reply)).collect())).await
    }

    pub fn url(&self, path: &str) -> url::Url {
        format!("http://{}{path}", self.address).parse().unwrap()
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn briefs(&self) -> Vec<String> {
        self.seen().iter().map(Seen::brief).collect()
    }
}

/// The head of an answer with `Content-Length: 0`.
pub fn head(status: u16, headers: &[(&str, &str)]) -> String {
    let mut text = format!("HTTP/1.1 {status} Scripted\r\nContent-Length: 0\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    text + "\r\n"
}

pub fn ack(status: u16, headers: &[(&str, &str)]) -> Reply {
    Reply::Answer(head(status, &[&[("BITS-Packet-Type", "Ack")], headers].concat()))
}

pub fn created() -> Reply {
    ack(200, &[("BITS-Protocol", bits_core::PROTOCOL), ("BITS-Session-Id", ID), ("Accept-Encoding", "identity")])
}

pub fn wants(offset: u64) -> Reply {
    ack(200, &[("BITS-Session-Id", ID), ("BITS-Received-Content-Range", &offset.to_string())])
}

pub fn gap(offset: u64) -> Reply {
    ack(416, &[("BITS-Received-Content-Range", &offset.to_string())])
}

pub fn lost() -> Reply {
    error(500, "0x8020001F")
}

pub fn error(status: u16, code: &str) -> Reply {
    ack(status, &[("BITS-Error-Code", code), ("BITS-Error", code), ("BITS-Error-Context", "0x5")])
}

pub fn ok() -> Reply {
    ack(200, &[])
}

/// An answer whose `Content-Length` is `length` and whose body may be shorter.
pub fn text(status: u16, length: usize, headers: &[(&str, &str)], body: &str) -> String {
    let mut text = format!("HTTP/1.1 {status} Scripted\r\nContent-Length: {length}\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    text + "\r\n" + body
}

pub const TAG: &[(&str, &str)] = &[("ETag", "\"one\""), ("Last-Modified", "Sat, 29 Oct 1994 19:43:31 GMT")];

/// An answer to HEAD.
pub fn there(length: usize, headers: &[(&str, &str)]) -> Reply {
    Reply::Answer(text(200, length, headers, ""))
}

/// An answer to GET.
pub fn whole(headers: &[(&str, &str)], body: &str) -> Reply {
    Reply::Answer(text(200, body.len(), headers, body))
}

async fn serve(
    stream: TcpStream,
    connection: usize,
    handler: Arc<Mutex<impl Handler>>,
    log: Arc<Mutex<Vec<Seen>>>,
) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut seen = read_head(&mut stream, connection).await?;
        let length = seen.length();
        let appetite = handler.lock().unwrap().appetite(&seen).min(length);
        while seen.body.len() < appetite {
            let mut buffer = vec![0; (appetite - seen.body.len()).min(64 * 1024)];
            match stream.read(&mut buffer).await {
                Ok(count) if count > 0 => seen.body.extend(&buffer[..count]),
                _ => break,
            }
        }
        let cut = seen.body.len() < appetite;
        let reply = handler.lock().unwrap().reply(&seen);
        log.lock().unwrap().push(seen);
        match reply {
            _ if cut => return None,
            Reply::Answer(text) => stream.write_all(text.as_bytes()).await.ok()?,
            Reply::Cut(text) => {
                let _ = stream.write_all(text.as_bytes()).await;
                return None;
            }
            Reply::Close => return None,
            Reply::Silence => tokio::time::sleep(Duration::from_secs(60)).await,
        }
        // As a careful server does: the rest is dropped, so that the client can read the answer.
        let rest = (length - appetite) as u64;
        let dropped = tokio::io::copy(&mut (&mut stream).take(rest), &mut tokio::io::sink()).await.ok()?;
        if dropped < rest {
            return None;
        }
    }
}

async fn read_head(stream: &mut BufReader<TcpStream>, connection: usize) -> Option<Seen> {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(stream.read_u8().await.ok()?);
    }
    let text = String::from_utf8(text).unwrap();
    let mut lines = text.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    assert_eq!(first.next(), Some("HTTP/1.1"));
    let mut headers = BTreeMap::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap();
        let twice = headers.insert(name.to_ascii_lowercase(), value.to_owned());
        assert!(twice.is_none(), "{name} stands twice");
    }
    Some(Seen { method, target, headers, body: Vec::new(), connection })
}
