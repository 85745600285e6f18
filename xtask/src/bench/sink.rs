//! The null peer: acknowledges every packet and drops its bytes. It shows what the load generator
//! and the loopback can do at most.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use clap::Args;

use crate::shell::Result;

#[derive(Args)]
pub(crate) struct Options {
    #[arg(long)]
    listen: SocketAddr,
}

/// Serves until it is killed.
pub(crate) fn run(options: &Options) -> Result<()> {
    accept(&TcpListener::bind(options.listen)?)
}

/// Serves what comes to `listener`, a thread per connection.
pub(crate) fn accept(listener: &TcpListener) -> Result<()> {
    for stream in listener.incoming() {
        let stream = stream?;
        stream.set_nodelay(true)?;
        thread::spawn(|| serve(stream));
    }
    Ok(())
}

// A connection that breaks ends its thread; nobody is left to be told.
fn serve(stream: TcpStream) -> Option<()> {
    let mut answers = stream.try_clone().ok()?;
    let mut requests = BufReader::with_capacity(256 << 10, stream);
    loop {
        let head = read_head(&mut requests)?;
        drop_body(&mut requests, head.length)?;
        let answer = format!(
            "HTTP/1.1 200 OK\r\nBITS-Packet-Type: Ack\r\nBITS-Session-Id: {{00000000-0000-0000-0000-000000000000}}\r\n\
             BITS-Received-Content-Range: {}\r\nContent-Length: 0\r\n\r\n",
            head.next
        );
        answers.write_all(answer.as_bytes()).ok()?;
    }
}

#[derive(Default)]
struct Head {
    length: u64,
    /// The offset after the fragment.
    next: u64,
}

fn read_head(requests: &mut impl BufRead) -> Option<Head> {
    let mut head = Head::default();
    let mut line = String::new();
    while requests.read_line(&mut line).ok()? > 0 {
        if line == "\r\n" {
            return Some(head);
        }
        head.read_field(&line)?;
        line.clear();
    }
    None
}

impl Head {
    fn read_field(&mut self, line: &str) -> Option<()> {
        let (name, value) = line.split_once(':').unwrap_or_default();
        match name {
            "Content-Length" => self.length = value.trim().parse().ok()?,
            "Content-Range" => self.next = end_of_range(value)?,
            _ => {}
        }
        Some(())
    }
}

fn drop_body(requests: &mut impl BufRead, length: u64) -> Option<()> {
    let mut left = length;
    while left > 0 {
        let read = (requests.fill_buf().ok()?.len() as u64).min(left);
        if read == 0 {
            return None;
        }
        requests.consume(read as usize);
        left -= read;
    }
    Some(())
}

/// The offset after ` bytes FIRST-LAST/TOTAL`.
fn end_of_range(value: &str) -> Option<u64> {
    let (_, last) = value.split_once('/')?.0.split_once('-')?;
    last.parse::<u64>().ok()?.checked_add(1)
}
