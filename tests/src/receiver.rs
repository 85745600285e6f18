//! A receiver of webhooks: a plain HTTP server that keeps what it gets, and answers as the test
//! says.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{check::wait_until, ports::Port};

/// A connection on which nothing comes for as long is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a receiver does with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Answers with this status and no body.
    Status(u16),
    /// Sends these bytes, and ends the connection.
    Bytes(Vec<u8>),
    /// Sends these bytes again and again until the connection breaks.
    Endless(Vec<u8>),
    /// Says nothing.
    Silence,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method and the target.
    pub line: String,
    /// The header lines in their order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// When it had come.
    pub at: Instant,
    /// Whether it was answered with 2xx.
    pub taken: bool,
}

impl Request {
    /// The header of this name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }

    /// A text of the event.
    pub fn text(&self, name: &str) -> String {
        self.json()[name].as_str().unwrap_or_else(|| panic!("no {name} in {}", self.json())).to_owned()
    }

    /// The event's type without its prefix.
    pub fn kind(&self) -> String {
        self.text("type").trim_start_matches("bits.").to_owned()
    }

    /// The session that the event is of.
    pub fn session(&self) -> String {
        self.json()["data"]["session"].as_str().expect("the event is of a session").to_owned()
    }
}

/// What answers a request, told which one of all it is.
type Answer = dyn Fn(usize, &Request) -> Reply + Send + Sync;
/// What wraps a connection, such as in TLS.
type Wrap = dyn Fn(TcpStream) -> io::Result<Box<dyn Connection>> + Send + Sync;

/// A connection of whatever kind.
pub trait Connection: Read + Write + Send {}

impl<T: Read + Write + Send> Connection for T {}

/// A receiver, or the port of one that does not listen yet. Ends when dropped.
pub struct Receiver {
    port: Port,
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    listening: Option<thread::JoinHandle<()>>,
}

impl Receiver {
    /// A receiver that takes everything.
    pub fn start() -> Self {
        Self::answering(|_, _| Reply::Status(204))
    }

    /// A receiver that answers so.
    pub fn answering(answer: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static) -> Self {
        let mut receiver = Self::absent();
        receiver.listen(answer);
        receiver
    }

    /// A port at which nobody listens.
    pub fn absent() -> Self {
        Self { port: Port::reserve(), requests: Arc::default(), stop: Arc::default(), listening: None }
    }

    /// Begins to listen.
    pub fn listen(&mut self, answer: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static) {
        self.listen_through(answer, |stream| Ok(Box::new(stream)));
    }

    /// Begins to listen, each connection wrapped.
    pub fn listen_through(
        &mut self,
        answer: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static,
        wrap: impl Fn(TcpStream) -> io::Result<Box<dyn Connection>> + Send + Sync + 'static,
    ) {
        assert!(self.listening.is_none(), "it listens already");
        let listener = TcpListener::bind(self.address()).expect("the port is reserved");
        let (answer, wrap): (Arc<Answer>, Arc<Wrap>) = (Arc::new(answer), Arc::new(wrap));
        let (requests, stop) = (self.requests.clone(), self.stop.clone());
        self.listening = Some(thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::Acquire) {
                    return;
                }
                let (answer, wrap, requests) = (answer.clone(), wrap.clone(), requests.clone());
                // A connection that breaks is the sender's concern.
                thread::spawn(move || {
                    let _ = stream.set_read_timeout(Some(PATIENCE));
                    let _ = wrap(stream).and_then(|connection| serve(connection, &*answer, &requests));
                });
            }
        }));
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port.number).into()
    }

    /// Its URL, over plain HTTP.
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address())
    }

    /// A table of the configuration that sends events here, with these further lines.
    pub fn webhook(&self, lines: &str) -> String {
        format!("[[webhooks]]\nurl = \"{}\"\n{lines}\n", self.url())
    }

    /// Everything that came so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// What was answered with 2xx so far.
    pub fn taken(&self) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.taken).collect()
    }

    /// The types of the events that were taken of this session, in their order.
    pub fn kinds_of(&self, session: &str) -> Vec<String> {
        self.taken().iter().filter(|request| request.session() == session).map(Request::kind).collect()
    }

    /// Waits until so many requests were taken, and gives them.
    #[track_caller]
    pub fn wait_taken(&self, count: usize) -> Vec<Request> {
        wait_until("events arrive", || self.taken().len() >= count);
        self.taken()
    }

    /// Waits until so many requests have come, and gives them.
    #[track_caller]
    pub fn wait_requests(&self, count: usize) -> Vec<Request> {
        wait_until("requests arrive", || self.requests().len() >= count);
        self.requests()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address());
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

fn serve(connection: Box<dyn Connection>, answer: &Answer, requests: &Mutex<Vec<Request>>) -> io::Result<()> {
    let mut reader = BufReader::new(connection);
    while let Some(mut request) = read(&mut reader)? {
        // In the order in which they are numbered.
        let reply = {
            let mut requests = requests.lock().unwrap();
            let reply = answer(requests.len(), &request);
            request.taken = matches!(reply, Reply::Status(200..=299));
            requests.push(request);
            reply
        };
        let out = reader.get_mut();
        match reply {
            Reply::Status(status) => {
                write!(out, "HTTP/1.1 {status} Status\r\nContent-Length: 0\r\n\r\n")?;
                out.flush()?;
            }
            Reply::Bytes(bytes) => {
                out.write_all(&bytes)?;
                return out.flush();
            }
            Reply::Endless(bytes) => loop {
                out.write_all(&bytes)?;
            },
            Reply::Silence => {
                io::copy(&mut reader, &mut io::sink())?;
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The next request; none at the end.
fn read(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        match header.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_owned(), value.to_owned())),
            None => break,
        }
    }
    let line = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    let mut request = Request { line, headers, body: Vec::new(), at: Instant::now(), taken: false };
    let length = request.header("Content-Length").and_then(|length| length.parse().ok()).unwrap_or(0);
    request.body = vec![0; length];
    reader.read_exact(&mut request.body)?;
    request.at = Instant::now();
    Ok(Some(request))
}
