//! A server application: answers every upload with its SHA-256. The directory that uploads go to
//! says `notification_type = "by-value"` and `notification_url = "http://127.0.0.1:9000/"`. Another
//! address is its argument.

use std::{
    env,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};

use sha2::{Digest, Sha256};

fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9000".to_owned());
    let listener = TcpListener::bind(address)?;
    println!("listening on {}", listener.local_addr()?);
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || answer(stream));
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut request = BufReader::new(stream.try_clone()?);
    let mut left = content_length(&mut request)?;
    let (mut hash, mut chunk) = (Sha256::new(), vec![0; 64 * 1024]);
    while left > 0 {
        let wanted = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        request.read_exact(&mut chunk[..wanted])?;
        hash.update(&chunk[..wanted]);
        left -= wanted as u64;
    }
    let digits: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{digits}\n", digits.len() + 1)
}

fn content_length(request: &mut impl BufRead) -> io::Result<u64> {
    let mut length = 0;
    for line in request.lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("Content-Length")
        {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    Ok(length)
}
