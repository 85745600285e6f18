//! What the server asks of the operating system directly.

use std::{fs::File, io, os::fd::AsFd};

/// Raises the number of files that may be open to what the system allows: each connection and
/// each upload under way is one.
#[cfg(all(feature = "fs", feature = "sqlite"))]
pub(crate) fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};

    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

/// Sends up to `count` bytes of a file from `offset` on, without reading them here where the system
/// can do that.
pub(crate) fn send_file(socket: impl AsFd, file: &File, offset: u64, count: usize) -> io::Result<usize> {
    #[cfg(target_os = "linux")]
    match rustix::fs::sendfile(&socket, file, Some(&mut offset.clone()), count) {
        // Not from every file system.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {}
        Ok(0) => return Err(cut_off()),
        sent => return Ok(sent?),
    }
    copy(socket, file, offset, count)
}

fn copy(socket: impl AsFd, file: &File, offset: u64, count: usize) -> io::Result<usize> {
    let mut buffer = vec![0; count.min(64 * 1024)];
    match rustix::io::pread(file, &mut buffer[..], offset)? {
        0 => Err(cut_off()),
        read => Ok(rustix::io::write(socket, &buffer[..read])?),
    }
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter while it was sent")
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
    };

    use super::*;

    #[test]
    fn both_ways_send_the_same_and_notice_the_end() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"0123456789").expect("it is written");
        for copies in [false, true] {
            let (ours, mut theirs) = UnixStream::pair().expect("two sockets");
            let send = |offset| if copies { copy(&ours, &file, offset, 4) } else { send_file(&ours, &file, offset, 4) };
            assert_eq!(send(3).expect("sent"), 4);
            assert_eq!(send(8).expect("sent"), 2);
            assert_eq!(send(10).expect_err("the end").kind(), io::ErrorKind::UnexpectedEof);
            drop(ours);
            let mut came = String::new();
            theirs.read_to_string(&mut came).expect("read");
            assert_eq!(came, "345689");
        }
    }
}
