//! A way to a server by which a long answer takes long, until it is opened.

use std::{
    io::{self, Read},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

const SLICE: u64 = 256 << 10;
const PAUSE: Duration = Duration::from_millis(10);

/// The way; its threads end with the process.
pub struct Gate {
    address: SocketAddr,
    is_open: Arc<AtomicBool>,
}

impl Gate {
    /// A way to `server` by a port of its own, with 256 KiB for each connection every 10 ms.
    pub fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let gate = Self { address: listener.local_addr().unwrap(), is_open: Arc::default() };
        let is_open = gate.is_open.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let is_open = is_open.clone();
                thread::spawn(move || pass(&client, server, &is_open));
            }
        });
        gate
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything passes as it comes from now on.
    pub fn open(&self) {
        self.is_open.store(true, Ordering::Relaxed);
    }
}

fn pass(client: &TcpStream, server: SocketAddr, is_open: &AtomicBool) -> io::Result<()> {
    let server = TcpStream::connect(server)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        // What could not be sent is noticed by who waits for an answer.
        let _ = io::copy(&mut from_client, &mut to_server);
        to_server.shutdown(Shutdown::Write)
    });
    let mut to_client = client;
    while !is_open.load(Ordering::Relaxed) && io::copy(&mut (&server).take(SLICE), &mut to_client)? > 0 {
        thread::sleep(PAUSE);
    }
    io::copy(&mut &server, &mut to_client)?;
    client.shutdown(Shutdown::Write)
}
