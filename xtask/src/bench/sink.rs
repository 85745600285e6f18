//! The null peer: acknowledges every packet and drops its bytes, and gives as many back that it
//! never had. It shows what the load generator and the loopback can do at most.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
    let size = Arc::new(AtomicU64::new(0));
    for stream in listener.incoming() {
        let (stream, size) = (stream?, size.clone());
        stream.set_nodelay(true)?;
        thread::spawn(move || serve(stream, &size));
    }
    Ok(())
}

// A connection that breaks ends its thread; nobody is left to be told.
fn serve(stream: TcpStream, size: &AtomicU64) -> Option<()> {
    let mut answers = stream.try_clone().ok()?;
    let mut requests = BufReader::with_capacity(256 << 10, stream);
    loop {
        let head = read_head(&mut requests)?;
        if head.is_get {
            give(&head, size.load(Ordering::Relaxed), &mut answers)?;
            continue;
        }
        drop_body(&mut requests, head.length)?;
        size.fetch_max(head.next.max(head.length), Ordering::Relaxed);
        let answer = format!(
            "HTTP/1.1 200 OK\r\nBITS-Packet-Type: Ack\r\nBITS-Session-Id: {{00000000-0000-0000-0000-000000000000}}\r\n\
             BITS-Received-Content-Range: {}\r\nContent-Length: 0\r\n\r\n",
            head.next
        );
        answers.write_all(answer.as_bytes()).ok()?;
    }
}

/// Answers with the range that was asked for, or with everything.
fn give(head: &Head, size: u64, answers: &mut impl Write) -> Option<()> {
    static BYTES: [u8; 1 << 18] = [0x5A; 1 << 18];
    let (status, length) = head.range.map_or(("200 OK", size), |length| ("206 Partial Content", length));
    write!(answers, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n").ok()?;
    let mut left = length;
    while left > 0 {
        let part = left.min(BYTES.len() as u64);
        answers.write_all(&BYTES[..part as usize]).ok()?;
        left -= part;
    }
    Some(())
}

#[derive(Default)]
struct Head {
    is_get: bool,
    length: u64,
    /// The offset after the fragment.
    next: u64,
    /// The length of the range that is wanted.
    range: Option<u64>,
}

fn read_head(requests: &mut impl BufRead) -> Option<Head> {
    let mut head = Head::default();
    let mut line = String::new();
    while requests.read_line(&mut line).ok()? > 0 {
        if line == "\r\n" {
            return Some(head);
        }
        head.is_get |= line.starts_with("GET ");
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
            "Content-Range" => self.next = end_of_range(value.split_once('/')?.0)?,
            "Range" => self.range = Some(end_of_range(value)? - start_of_range(value)?),
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

/// The offset after what ends with `-LAST`.
fn end_of_range(value: &str) -> Option<u64> {
    value.trim().rsplit_once('-')?.1.parse::<u64>().ok()?.checked_add(1)
}

/// FIRST of ` bytes=FIRST-LAST`.
fn start_of_range(value: &str) -> Option<u64> {
    value.split_once('=')?.1.split_once('-')?.0.parse().ok()
}
