//! A connection's bytes, in the clear or within TLS.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
};

use rustls::{ClientConnection, HandshakeKind, StreamOwned, pki_types::CertificateDer};

use crate::TlsClient;

#[derive(Debug)]
pub(crate) enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Wire {
    /// Begins TLS and waits for the server's part of the handshake.
    pub(crate) fn begin_tls(mut socket: TcpStream, client: &TlsClient<'_>) -> io::Result<Self> {
        let name = "localhost".try_into().unwrap();
        let mut connection = ClientConnection::new(client.config(), name).unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(Self::Tls(Box::new(StreamOwned::new(connection, socket))))
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref(),
        }
    }

    /// The certificate that the server showed.
    pub(crate) fn certificate(&self) -> Option<CertificateDer<'static>> {
        let Self::Tls(stream) = self else { return None };
        stream.conn.peer_certificates()?.first().cloned()
    }

    /// Whether it went on with the session of an earlier connection.
    pub(crate) fn is_resumed(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.conn.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    /// The protocol that ALPN chose.
    pub(crate) fn protocol(&self) -> Option<String> {
        let Self::Tls(stream) = self else { return None };
        stream.conn.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned())
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}
