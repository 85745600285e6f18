//! A listener: takes connections while there is room, and opens them: PROXY header, TLS.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::task::TaskTracker;

use crate::{
    addresses::{Addresses, Entered},
    connection,
    forwarded::TrustedProxies,
    metrics::{self, Lasting, RefusedConnection},
    peer::Peer,
    proxy_header::{ProxyHeaderError, read_proxy_header},
    quiet::Quiet,
    serve::{Phase, Stopping},
    service::Service,
    socket::Transport,
    tls::Tls,
};

/// Connections that are told that there is no room; more are closed without a word.
const REFUSED_AT_ONCE: usize = 256;
/// After an accept that failed, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener that takes uploads.
#[derive(Debug)]
pub struct UploadListener {
    /// Where connections come from.
    pub socket: TcpListener,
    /// TLS; none is plain HTTP/1.1.
    pub tls: Option<Arc<Tls>>,
    /// Whether every connection starts with a PROXY header. Only trusted proxies are let in then.
    pub proxy_protocol: bool,
    /// Whether passwords are taken though anybody on the way can read them.
    pub plain_passwords: bool,
}

impl From<TcpListener> for UploadListener {
    /// Plain HTTP/1.1 from anybody.
    fn from(socket: TcpListener) -> Self {
        Self { socket, tls: None, proxy_protocol: false, plain_passwords: false }
    }
}

/// How a listener opens its connections. They outlive its socket, which must close with the
/// listener: nobody would answer who still connects to it.
#[derive(Debug)]
struct Manner {
    tls: Option<Arc<Tls>>,
    proxy_protocol: bool,
    plain_passwords: bool,
}

/// What all listeners share. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) service: Service,
    pub(crate) proxies: TrustedProxies,
    pub(crate) rooms: Rooms,
    pub(crate) stopping: Stopping,
    pub(crate) connections: TaskTracker,
}

/// Room for connections. Whoever is in stays, whatever limit comes later.
#[derive(Clone, Debug)]
pub(crate) struct Rooms {
    open: Arc<AtomicU32>,
    refused: Arc<Semaphore>,
    addresses: Addresses,
}

impl Default for Rooms {
    fn default() -> Self {
        Self {
            open: Arc::default(),
            refused: Arc::new(Semaphore::new(REFUSED_AT_ONCE)),
            addresses: Addresses::default(),
        }
    }
}

/// One of the connections that are open.
struct Open(Arc<AtomicU32>);

impl Open {
    /// None where as many are open.
    fn one_more(open: &Arc<AtomicU32>, limit: Option<u32>) -> Option<Self> {
        let limit = limit.unwrap_or(u32::MAX);
        let more = |open| (open < limit).then(|| open + 1);
        open.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Self(open.clone()))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Takes connections until the server no longer does.
pub(crate) async fn accept(listener: UploadListener, mut shared: Shared) {
    let UploadListener { socket: listening, tls, proxy_protocol, plain_passwords } = listener;
    let manner = Arc::new(Manner { tls, proxy_protocol, plain_passwords });
    loop {
        let accepted = tokio::select! {
            accepted = listening.accept() => accepted,
            () = shared.stopping.reached(Phase::Closing) => return,
        };
        match accepted {
            Ok((stream, socket)) => admit(stream, socket, &manner, &shared),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit(stream: TcpStream, socket: SocketAddr, manner: &Arc<Manner>, shared: &Shared) {
    let _ = stream.set_nodelay(true);
    if manner.proxy_protocol && !shared.proxies.contains(socket.ip()) {
        return Refused::UntrustedProxy.note(&Peer::plain(socket));
    }
    let limits = shared.service.limits();
    let room = Open::one_more(&shared.rooms.open, limits.connections);
    if room.is_none() {
        Refused::Full.note(&Peer::plain(socket));
    }
    let room = room.map(|open| Room::Served { open, _address: None });
    let Some(room) = room.or_else(|| shared.rooms.refusing()) else { return };
    let (manner, shared) = (manner.clone(), shared.clone());
    let connections = shared.connections.clone();
    connections.spawn(async move {
        let _counted = Lasting::connection();
        let mut peer = Peer { plain_passwords: manner.plain_passwords, ..Peer::plain(socket) };
        // On the heap: it is over long before the connection is.
        let opening = Box::pin(open(stream, &mut peer, room, &manner, &shared));
        let opened = tokio::time::timeout(limits.header_timeout, opening).await;
        match opened {
            Ok(Ok((transport, room))) => serve(transport, peer, room, shared).await,
            Ok(Err(refused)) => refused.note(&peer),
            Err(_) => Refused::Slow.note(&peer),
        }
    });
}

/// What a connection may take.
enum Room {
    /// It is served.
    Served { open: Open, _address: Option<Entered> },
    /// It is told that there is no room.
    Refused(#[expect(dead_code, reason = "it is held")] OwnedSemaphorePermit),
}

impl Rooms {
    fn refusing(&self) -> Option<Room> {
        self.refused.clone().try_acquire_owned().ok().map(Room::Refused)
    }

    /// The room of a connection once it is known whose it is, before a handshake: otherwise silent
    /// handshakes of one address could take the room of all.
    fn of_client(&self, room: Room, peer: &Peer, limit: Option<u32>) -> Result<Room, Refused> {
        // Behind a trusted proxy stand many.
        let open = match room {
            Room::Served { open, .. } if !peer.trusted_proxy => open,
            room => return Ok(room),
        };
        if let Some(entered) = self.addresses.enter(peer.address, limit) {
            return Ok(Room::Served { open, _address: Some(entered) });
        }
        drop(open);
        let refusing = self.refusing().ok_or(Refused::AddressFull)?;
        Refused::AddressFull.note(peer);
        Ok(refusing)
    }
}

async fn serve(transport: Transport, peer: Peer, room: Room, shared: Shared) {
    let address = peer.address;
    let Shared { service, stopping, .. } = shared;
    let ended = match &room {
        Room::Served { .. } => connection::serve(transport, peer, service, stopping).await,
        Room::Refused(_) => connection::refuse(transport, service.limits()).await,
    };
    drop(room);
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "a connection ended early");
    }
}

/// Reads what comes before HTTP.
async fn open(
    mut stream: TcpStream,
    peer: &mut Peer,
    room: Room,
    manner: &Manner,
    shared: &Shared,
) -> Result<(Transport, Room), Refused> {
    peer.trusted_proxy = shared.proxies.contains(peer.address);
    if manner.proxy_protocol {
        let client = read_proxy_header(&mut stream).await.map_err(Refused::ProxyHeader)?;
        // The proxy passes on what the client writes: headers are the client's, not the proxy's.
        peer.trusted_proxy = client.is_some_and(|client| shared.proxies.contains(client));
        peer.address = client.unwrap_or(peer.address);
    }
    let room = shared.rooms.of_client(room, peer, shared.service.limits().connections_per_address)?;
    let Some(tls) = &manner.tls else { return Ok((Transport::Plain(stream), room)) };
    let _counted = Lasting::handshake();
    let stream = tls.acceptor().accept(stream).await.map_err(Refused::Handshake)?;
    let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
    peer.certificates = shown.iter().map(|certificate| certificate.to_vec()).collect();
    peer.secure = true;
    Ok((Transport::Tls(Box::new(stream)), room))
}

/// Why a connection is not served.
#[derive(Debug)]
enum Refused {
    Full,
    AddressFull,
    UntrustedProxy,
    ProxyHeader(ProxyHeaderError),
    Handshake(io::Error),
    Slow,
}

impl Refused {
    /// Counts it, and logs it unless too many such lines were written.
    fn note(&self, peer: &Peer) {
        let (counted, quiet) = match self {
            Self::Full => (RefusedConnection::Connections, &FULL),
            Self::AddressFull => (RefusedConnection::ConnectionsPerAddress, &ADDRESS_FULL),
            Self::UntrustedProxy => (RefusedConnection::UntrustedProxy, &UNTRUSTED),
            Self::ProxyHeader(_) => (RefusedConnection::ProxyHeader, &PROXY_HEADER),
            Self::Handshake(_) => (RefusedConnection::Handshake, &HANDSHAKE),
            Self::Slow => (RefusedConnection::OpeningTimeout, &SLOW),
        };
        metrics::connection_refused(counted);
        if let Some(left_out) = quiet.pass() {
            let reason = self.reason();
            tracing::info!(address = %peer.address, socket = %peer.socket, %reason, left_out, "a connection was refused");
        }
    }

    fn reason(&self) -> String {
        match self {
            Self::Full => "limits.connections are open".to_owned(),
            Self::AddressFull => "limits.connections_per_address are open".to_owned(),
            Self::UntrustedProxy => "the listener takes connections of trusted_proxies only".to_owned(),
            Self::ProxyHeader(error) => error.to_string().escape_default().to_string(),
            Self::Handshake(error) => format!("TLS: {error}").escape_default().to_string(),
            Self::Slow => "it took longer than limits.header_timeout to open".to_owned(),
        }
    }
}

static FULL: Quiet = Quiet::new();
static ADDRESS_FULL: Quiet = Quiet::new();
static UNTRUSTED: Quiet = Quiet::new();
static PROXY_HEADER: Quiet = Quiet::new();
static HANDSHAKE: Quiet = Quiet::new();
static SLOW: Quiet = Quiet::new();
