//! The PROXY protocol, versions 1 and 2: what a proxy says of a connection before its first byte.

use std::{io, net::IpAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Of version 1: `PROXY UNKNOWN\r\n`.
const SHORTEST: usize = 15;
/// Of version 1, with its end of line.
const LONGEST_LINE: usize = 107;
/// Of version 2, before what its length counts.
const FIXED: usize = 16;
/// Most bytes that a header of version 2 may say follow; additions of known proxies are far shorter.
const MOST_ADDED: usize = 4096;

/// Why a connection's header cannot be used.
#[derive(Debug)]
pub enum ProxyHeaderError {
    /// The connection ended or broke within it.
    Io(io::Error),
    /// It is none, or a wrong one.
    Malformed(String),
}

impl std::fmt::Display for ProxyHeaderError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the connection ended within the PROXY header: {error}"),
            Self::Malformed(reason) => write!(f, "no PROXY header: {reason}"),
        }
    }
}

impl std::error::Error for ProxyHeaderError {}

impl From<io::Error> for ProxyHeaderError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads the header, and no byte beyond it; returns the client's address, or none where the proxy
/// speaks for itself or knows no address. Waits for as long as the bytes take.
pub async fn read_proxy_header(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<IpAddr>, ProxyHeaderError> {
    let mut header = vec![0; SHORTEST];
    stream.read_exact(&mut header).await?;
    if header.starts_with(ppp::v2::PROTOCOL_PREFIX) {
        read_rest_of_binary(stream, &mut header).await?;
    } else if header.starts_with(b"PROXY ") {
        read_rest_of_line(stream, &mut header).await?;
    }
    parse_proxy_header(&header)
}

/// The client's address in a whole header, or none where the proxy speaks for itself or knows no
/// address.
pub fn parse_proxy_header(header: &[u8]) -> Result<Option<IpAddr>, ProxyHeaderError> {
    let address = if header.starts_with(ppp::v2::PROTOCOL_PREFIX) { binary(header)? } else { line(header)? };
    Ok(address.map(|address| address.to_canonical()))
}

async fn read_rest_of_binary(
    stream: &mut (impl AsyncRead + Unpin),
    header: &mut Vec<u8>,
) -> Result<(), ProxyHeaderError> {
    header.push(stream.read_u8().await?);
    let added = usize::from(u16::from_be_bytes([header[FIXED - 2], header[FIXED - 1]]));
    if added > MOST_ADDED {
        return Err(malformed(format!("it says that it is {added} bytes long")));
    }
    header.resize(FIXED + added, 0);
    stream.read_exact(&mut header[FIXED..]).await?;
    Ok(())
}

// Byte by byte, since what follows belongs to TLS or HTTP.
async fn read_rest_of_line(
    stream: &mut (impl AsyncRead + Unpin),
    header: &mut Vec<u8>,
) -> Result<(), ProxyHeaderError> {
    while !header.ends_with(b"\r\n") {
        if header.len() == LONGEST_LINE {
            return Err(malformed("its line has no end"));
        }
        header.push(stream.read_u8().await?);
    }
    Ok(())
}

fn binary(header: &[u8]) -> Result<Option<IpAddr>, ProxyHeaderError> {
    use ppp::v2::{Addresses, Command, Header, Protocol};

    let header = Header::try_from(header).map_err(malformed)?;
    match (header.command, header.protocol, header.addresses) {
        (Command::Local, ..) => Ok(None),
        (_, Protocol::Datagram, _) => Err(malformed("it tells of datagrams")),
        (_, _, Addresses::IPv4(of)) => Ok(Some(of.source_address.into())),
        (_, _, Addresses::IPv6(of)) => Ok(Some(of.source_address.into())),
        (_, _, Addresses::Unspecified | Addresses::Unix(_)) => Ok(None),
    }
}

fn line(header: &[u8]) -> Result<Option<IpAddr>, ProxyHeaderError> {
    use ppp::v1::{Addresses, Header};

    match Header::try_from(header).map_err(malformed)?.addresses {
        Addresses::Tcp4(of) => Ok(Some(of.source_address.into())),
        Addresses::Tcp6(of) => Ok(Some(of.source_address.into())),
        Addresses::Unknown => Ok(None),
    }
}

fn malformed(reason: impl ToString) -> ProxyHeaderError {
    ProxyHeaderError::Malformed(reason.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// A header of version 2 with this command, family and addresses.
    fn version_2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = u16::try_from(addresses.len()).unwrap();
        let head = [0x20 | command, family];
        [ppp::v2::PROTOCOL_PREFIX, &head[..], &length.to_be_bytes()[..], addresses].concat()
    }

    fn v4(source: [u8; 4]) -> Vec<u8> {
        [&source[..], &[10, 0, 0, 1], &[1, 2, 3, 4]].concat()
    }

    /// Reads from a connection on which `bytes` come, `at_once` at a time; also what was left.
    fn read(bytes: &[u8], at_once: usize) -> (Result<Option<IpAddr>, ProxyHeaderError>, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (mut near, mut far) = tokio::io::duplex(at_once);
            let bytes = bytes.to_vec();
            let sending = tokio::spawn(async move {
                let _ = near.write_all(&bytes).await;
            });
            let read = tokio::time::timeout(Duration::from_secs(5), read_proxy_header(&mut far)).await.unwrap();
            let mut rest = Vec::new();
            if read.is_ok() {
                far.read_to_end(&mut rest).await.unwrap();
            }
            drop(far);
            sending.await.unwrap();
            (read, rest)
        })
    }

    #[test]
    fn headers_tell_the_client_and_what_follows_is_left() {
        let v6: Vec<u8> = [&std::net::Ipv6Addr::LOCALHOST.octets()[..], &[0; 16], &[0; 4]].concat();
        let mapped: Vec<u8> =
            [&"::ffff:192.0.2.7".parse::<std::net::Ipv6Addr>().unwrap().octets()[..], &[0; 16], &[0; 4]].concat();
        let with_tlv = [&v4([192, 0, 2, 7])[..], &[0x04, 0, 2, 9, 9]].concat();
        let cases: [(Vec<u8>, Option<&str>); 11] = [
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 443\r\n".to_vec(), Some("192.0.2.7")),
            (b"PROXY TCP6 2001:db8::7 ::1 5000 443\r\n".to_vec(), Some("2001:db8::7")),
            (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 5000 443\r\n".to_vec(), Some("192.0.2.7")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (version_2(1, 0x11, &v4([192, 0, 2, 7])), Some("192.0.2.7")),
            (version_2(1, 0x11, &with_tlv), Some("192.0.2.7")),
            (version_2(1, 0x21, &v6), Some("::1")),
            (version_2(1, 0x21, &mapped), Some("192.0.2.7")),
            (version_2(0, 0x11, &v4([192, 0, 2, 7])), None),
            (version_2(1, 0x00, b""), None),
        ];
        for (header, expected) in cases {
            for at_once in [1, 7, 4096] {
                let (address, rest) = read(&[&header[..], b"\r\nGET"].concat(), at_once);
                let expected = expected.map(|address| address.parse().unwrap());
                assert_eq!(address.unwrap(), expected, "{}", header.escape_ascii());
                assert_eq!(rest, b"\r\nGET", "{}", header.escape_ascii());
            }
        }
    }

    #[test]
    fn whatever_else_comes_first_is_refused() {
        let long = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200], b"\r\n".to_vec()].concat();
        let huge = [ppp::v2::PROTOCOL_PREFIX, &[0x21, 0x11, 0xff, 0xff], &[0; 70_000][..]].concat();
        for bytes in [
            &b"BITS_POST /upload/f HTTP/1.1\r\n"[..],
            b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 443 \r\n",
            b"PROXY TCP4 192.0.2.300 10.0.0.1 5000 443\r\n",
            b"PROXY TCP4 ::1 ::1 5000 443\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 70000\r\n",
            b"PROXY TCP4\r\n   ",
            b"proxy UNKNOWN\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaa",
            b"PROXY UNKNOWN",
            b"PROXY TCP4 192.0.2.7 10",
            b"",
            &long,
            &huge,
            &version_2(1, 0x11, b"short"),
            &version_2(2, 0x11, &v4([1, 2, 3, 4])),
            &version_2(1, 0x12, &v4([1, 2, 3, 4])),
            &version_2(1, 0x41, &v4([1, 2, 3, 4])),
            &version_2(1, 0x11, &v4([1, 2, 3, 4]))[..20],
        ] {
            assert!(read(bytes, 4096).0.is_err(), "{}", bytes.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(
            prefix in prop::sample::select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 ", ppp::v2::PROTOCOL_PREFIX]),
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let header = [prefix, &bytes[..]].concat();
            let _ = parse_proxy_header(&header);
            let _ = read(&header, 64);
        }

        #[test]
        fn any_address_survives(source in any::<IpAddr>(), port in any::<u16>()) {
            let (family, destination) = if source.is_ipv4() { ("TCP4", "10.0.0.1") } else { ("TCP6", "::1") };
            let text = format!("PROXY {family} {source} {destination} {port} 443\r\n");
            prop_assert_eq!(parse_proxy_header(text.as_bytes()).unwrap(), Some(source.to_canonical()));
            let (family, addresses) = match source {
                IpAddr::V4(source) => (0x11, v4(source.octets())),
                IpAddr::V6(source) => (0x21, [&source.octets()[..], &[0; 20]].concat()),
            };
            prop_assert_eq!(parse_proxy_header(&version_2(1, family, &addresses)).unwrap(), Some(source.to_canonical()));
        }
    }
}
