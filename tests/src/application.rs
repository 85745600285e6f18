//! A server application that does what a test tells it, over real sockets.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use rustls::{ServerConnection, StreamOwned};

use crate::Identity;

/// Longer than any test waits.
const HANG: Duration = Duration::from_secs(60);
/// Bodies up to this size are kept for the test.
const KEPT: usize = 1 << 20;

/// What the application does with a notification.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Answers with this status, these headers and this body.
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// Answers 200 with so many zeros.
    Zeros(u64),
    /// Leaves these bytes at the name that it was given, then answers 200 with these headers.
    Leave(Vec<u8>, Vec<(&'static str, String)>),
    /// Changes the first byte of the file that it was given, then goes on with the other.
    Spoil(Box<Behaviour>),
    /// Moves the file that it was given to this place, then goes on with the other.
    Take(PathBuf, Box<Behaviour>),
    /// Waits before it reads anything but the head, then goes on with the other.
    Stall(Duration, Box<Behaviour>),
    /// Waits before it goes on with the other.
    Slow(Duration, Box<Behaviour>),
    /// Does the other before it has read anything but the head, then goes on like this.
    Early(Rest, Box<Behaviour>),
    /// Closes the connection as soon as it is there.
    CloseAtOnce,
    /// Closes the connection instead of answering.
    CloseUnanswered,
    /// Answers with something that is no HTTP.
    Garbage,
    /// Says that 10 bytes come, and closes the connection after 3.
    BreakBody,
    /// Reads nothing but the head.
    HangTaking,
    /// Takes everything and does not answer.
    HangHead,
    /// Sends a head and 3 bytes of 10.
    HangBody,
}

/// What an application that answers early does with the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Closes the connection on it.
    Closes,
    /// Reads it to its end.
    Reads,
    /// Leaves it where it is for some seconds, then reads what comes; [`Notification::length`] tells.
    Leaves,
}

impl Behaviour {
    /// A plain answer.
    pub fn status(status: u16) -> Self {
        Self::Answer(status, Vec::new(), Vec::new())
    }

    /// 200 with this reply as its body.
    pub fn reply(body: &[u8]) -> Self {
        Self::Answer(200, Vec::new(), body.to_vec())
    }

    /// 200 with this header.
    pub fn header(name: &'static str, value: &str) -> Self {
        Self::Answer(200, vec![(name, value.to_owned())], Vec::new())
    }
}

/// A notification as it came.
#[derive(Clone, Debug)]
pub struct Notification {
    /// The request line.
    pub line: String,
    /// The header lines in their order.
    pub headers: Vec<(String, String)>,
    /// Bytes of the body.
    pub length: u64,
    /// The body, if it is short.
    pub body: Vec<u8>,
}

impl Notification {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// The application; its threads end with the process.
#[derive(Debug)]
pub struct Application {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    behaviour: Mutex<Behaviour>,
    seen: Mutex<Vec<Notification>>,
}

impl Application {
    /// Listens on a port of its own.
    pub fn start(behaviour: Behaviour) -> Self {
        Self::start_on(behaviour, |stream, shared| shared.serve(stream))
    }

    /// The same over TLS, as `identity`.
    pub fn start_tls(behaviour: Behaviour, identity: &Identity) -> Self {
        let tls = Arc::new(identity.server_config());
        Self::start_on(behaviour, move |stream, shared| {
            let connection = ServerConnection::new(tls.clone()).unwrap();
            shared.serve(StreamOwned::new(connection, stream));
        })
    }

    fn start_on(behaviour: Behaviour, serve: impl Fn(TcpStream, &Shared) + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { behaviour: Mutex::new(behaviour), seen: Mutex::default() });
        let serving = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // What waits for the ack of what was sent before is dropped where it closes on unread bytes.
                stream.set_nodelay(true).unwrap();
                let (shared, serve) = (serving.clone(), serve.clone());
                thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { address, shared }
    }

    /// What it does from now on.
    pub fn set(&self, behaviour: Behaviour) {
        *self.shared.behaviour.lock().unwrap() = behaviour;
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, where it speaks no TLS.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Every notification whose head it has read, the first one first.
    pub fn seen(&self) -> Vec<Notification> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The lines of a directory that notifies it.
    pub fn lines(&self, kind: &str, more: &str) -> String {
        let url = self.url("/app?own=1");
        format!("notification_type = \"{kind}\"\nnotification_url = \"{url}\"\n{more}")
    }
}

impl Shared {
    /// A server that closes early is what some tests are about.
    fn serve(&self, stream: impl Read + Write) {
        let _ = self.answer(stream);
    }

    fn answer(&self, stream: impl Read + Write) -> io::Result<()> {
        let mut behaviour = self.behaviour.lock().unwrap().clone();
        if matches!(behaviour, Behaviour::CloseAtOnce) {
            return Ok(());
        }
        let mut reader = BufReader::new(stream);
        let mut seen = read_head(&mut reader)?;
        let length = seen.header("Content-Length").and_then(|text| text.parse().ok()).unwrap_or(0);
        if matches!(behaviour, Behaviour::HangTaking) {
            self.seen.lock().unwrap().push(seen);
            thread::sleep(HANG);
            return Ok(());
        }
        if let Behaviour::Early(rest, then) = &behaviour {
            respond(reader.get_mut(), then, &seen)?;
            reader.get_mut().flush()?;
            if *rest == Rest::Leaves {
                thread::sleep(Duration::from_secs(3));
            }
            let read = if *rest == Rest::Closes { Ok(()) } else { read_body(&mut reader, length, &mut seen) };
            self.seen.lock().unwrap().push(seen);
            return read;
        }
        if let Behaviour::Stall(pause, then) = behaviour {
            thread::sleep(pause);
            behaviour = *then;
        }
        read_body(&mut reader, length, &mut seen)?;
        self.seen.lock().unwrap().push(seen.clone());
        loop {
            match behaviour {
                Behaviour::Slow(pause, then) => {
                    thread::sleep(pause);
                    behaviour = *then;
                }
                Behaviour::Spoil(then) => {
                    let name = seen.header("BITS-Request-DataFile-Name").unwrap_or_default();
                    fs::OpenOptions::new().write(true).open(name)?.write_all(b"!")?;
                    behaviour = *then;
                }
                Behaviour::Take(place, then) => {
                    fs::rename(seen.header("BITS-Request-DataFile-Name").unwrap_or_default(), place)?;
                    behaviour = *then;
                }
                _ => break,
            }
        }
        respond(reader.get_mut(), &behaviour, &seen)?;
        reader.get_mut().flush()
    }
}

fn respond(stream: &mut impl Write, behaviour: &Behaviour, seen: &Notification) -> io::Result<()> {
    match behaviour {
        Behaviour::Answer(status, headers, body) => {
            head(stream, *status, headers, body.len() as u64)?;
            stream.write_all(body)
        }
        Behaviour::Leave(reply, headers) => {
            fs::write(seen.header("BITS-Response-DataFile-Name").unwrap_or_default(), reply)?;
            head(stream, 200, headers, 0)
        }
        Behaviour::Zeros(length) => {
            head(stream, 200, &[], *length)?;
            io::copy(&mut io::repeat(0).take(*length), stream).map(drop)
        }
        Behaviour::Garbage => stream.write_all(b"this is no HTTP\r\n\r\n"),
        Behaviour::BreakBody => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"),
        Behaviour::HangBody => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")?;
            thread::sleep(HANG);
            Ok(())
        }
        Behaviour::HangHead => {
            thread::sleep(HANG);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn head(stream: &mut impl Write, status: u16, headers: &[(&'static str, String)], length: u64) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {status} Whatever\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    // These have no body, whatever they say.
    if status >= 200 && status != 204 && status != 304 {
        head += &format!("Content-Length: {length}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes())
}

fn read_head(reader: &mut impl BufRead) -> io::Result<Notification> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut lines = lines.into_iter();
    let line = lines.next().unwrap_or_default();
    let split = |line: String| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    Ok(Notification { line, headers: lines.filter_map(split).collect(), length: 0, body: Vec::new() })
}

fn read_body(reader: &mut impl Read, length: u64, seen: &mut Notification) -> io::Result<()> {
    let mut chunk = vec![0; 64 * 1024];
    while seen.length < length {
        let wanted = chunk.len().min((length - seen.length) as usize);
        let count = reader.read(&mut chunk[..wanted])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        seen.length += count as u64;
        if seen.body.len() < KEPT {
            seen.body.extend(&chunk[..count]);
        }
    }
    Ok(())
}
