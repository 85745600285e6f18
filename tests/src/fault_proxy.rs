//! A proxy between the server and its object store that breaks things as it is told.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    Pass,
    /// This status, with nothing done.
    Status(u16),
    /// It is done, later.
    Slow(Duration),
    /// The connection is cut before anything is done.
    CutBefore,
    /// It is done, and the connection cut instead of an answer.
    LoseAnswer,
    /// It is done, and the connection cut in the middle of the answer.
    CutAnswer,
    /// Its conditions are forgotten.
    DropConditions,
    /// This document with this status, with nothing done.
    Refuse(u16, &'static str),
    /// It is kept back until [`FaultProxy::release`], and done then.
    Hold,
}

/// The proxy; its threads end with the process.
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

type Choose = dyn FnMut(&str) -> Fault + Send;

struct Shared {
    store: SocketAddr,
    choose: Mutex<Box<Choose>>,
    requests: AtomicU64,
    held: Mutex<Held>,
    released: Condvar,
}

#[derive(Default)]
struct Held {
    requests: usize,
    /// How often those that were held were let go.
    releases: u64,
}

impl FaultProxy {
    /// Listens on a port of its own and passes everything on.
    pub fn start(store: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            store,
            choose: Mutex::new(Box::new(|_: &str| Fault::Pass)),
            requests: AtomicU64::new(0),
            held: Mutex::default(),
            released: Condvar::new(),
        });
        let serving = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = serving.clone();
                thread::spawn(move || drop(shared.serve(stream)));
            }
        });
        Self { address, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Asks `choose` with each request's first line from now on.
    pub fn choose(&self, choose: impl FnMut(&str) -> Fault + Send + 'static) {
        *self.shared.choose.lock().unwrap() = Box::new(choose);
    }

    /// How many requests came.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// How many requests are kept back now.
    pub fn held(&self) -> usize {
        self.shared.held.lock().unwrap().requests
    }

    /// Lets go of those that are kept back.
    pub fn release(&self) {
        self.shared.held.lock().unwrap().releases += 1;
        self.shared.released.notify_all();
    }
}

impl Shared {
    /// One request for each connection to the store, so that an answer ends where that does.
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let mut buffer = Vec::new();
        if let Some((head, body)) = read_request(&mut client, &mut buffer)? {
            self.requests.fetch_add(1, Ordering::Relaxed);
            let line = head.split("\r\n").next().unwrap_or_default().to_owned();
            let fault = (self.choose.lock().unwrap())(&line);
            match fault {
                Fault::CutBefore => return client.shutdown(Shutdown::Both),
                Fault::Status(status) => {
                    write!(client, "HTTP/1.1 {status} Broken\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
                    return client.shutdown(Shutdown::Both);
                }
                Fault::Refuse(status, document) => {
                    let length = document.len();
                    write!(client, "HTTP/1.1 {status} Refused\r\nContent-Type: application/xml\r\n")?;
                    write!(client, "Content-Length: {length}\r\nConnection: close\r\n\r\n{document}")?;
                    return client.shutdown(Shutdown::Both);
                }
                Fault::Slow(pause) => thread::sleep(pause),
                Fault::Hold => self.hold(),
                Fault::Pass | Fault::LoseAnswer | Fault::CutAnswer | Fault::DropConditions => {}
            }
            let answer = self.ask(&head, &body, fault == Fault::DropConditions)?;
            match fault {
                Fault::LoseAnswer => return client.shutdown(Shutdown::Both),
                Fault::CutAnswer => {
                    client.write_all(&answer[..answer.len() / 2])?;
                    return client.shutdown(Shutdown::Both);
                }
                _ => client.write_all(&answer)?,
            }
            return client.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    fn hold(&self) {
        let mut held = self.held.lock().unwrap();
        held.requests += 1;
        let before = held.releases;
        let mut held = self.released.wait_while(held, |held| held.releases == before).unwrap();
        held.requests -= 1;
    }

    fn ask(&self, head: &str, body: &[u8], drop_conditions: bool) -> io::Result<Vec<u8>> {
        let kept = |line: &&str| {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            name != "connection" && !(drop_conditions && matches!(name.as_str(), "if-match" | "if-none-match"))
        };
        let mut sent: String = head.split("\r\n").filter(kept).collect::<Vec<_>>().join("\r\n");
        sent.push_str("\r\nConnection: close\r\n\r\n");
        let mut store = TcpStream::connect(self.store)?;
        store.write_all(sent.as_bytes())?;
        store.write_all(body)?;
        let mut answer = Vec::new();
        store.read_to_end(&mut answer)?;
        Ok(answer)
    }
}

/// Head without its empty line, and body; none at the end.
fn read_request(client: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<(String, Vec<u8>)>> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if fill(client, buffer)? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end + 4);
    let length = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    };
    let length = head.split("\r\n").find_map(length).unwrap_or(0);
    while buffer.len() < length {
        if fill(client, buffer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Some((head, buffer.drain(..length).collect())))
}

fn fill(client: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let mut chunk = vec![0; 64 << 10];
    let count = client.read(&mut chunk)?;
    buffer.extend_from_slice(&chunk[..count]);
    Ok(count)
}
