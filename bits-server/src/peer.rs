//! Who is at the other end of a connection, as a request sees it.

use std::{
    any::Any,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

/// Who sends a request, and over what. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// The client's address, as far as it can be believed: what a trusted proxy said, else the
    /// socket's.
    pub(crate) address: IpAddr,
    /// The other end of the socket, be it the client or a proxy.
    pub(crate) socket: SocketAddr,
    /// Whether nobody on the way can read or change what is sent: TLS here, or as a trusted proxy
    /// says by `X-Forwarded-Proto: https`.
    pub(crate) secure: bool,
    /// The client's certificate in DER and those that lead to a trusted one, the client's first.
    /// They were verified in the handshake. Empty where there is none.
    pub(crate) certificates: Arc<[Vec<u8>]>,
    /// Whether the headers of this request were written by a trusted proxy: `X-Forwarded-*` and
    /// the user header may be believed. Such a proxy may send requests of many clients over one
    /// connection, so that nothing is bound to the connection.
    pub(crate) trusted_proxy: bool,
    /// Whether the listener takes passwords that can be read on the way.
    pub(crate) plain_passwords: bool,
    /// What authentication remembers between the requests of one connection.
    #[allow(dead_code, reason = "only authentication that is bound to a connection uses it")]
    pub(crate) memory: ConnectionMemory,
}

impl Peer {
    /// A client on a plain connection, of which nothing is known but its address.
    pub(crate) fn plain(socket: SocketAddr) -> Self {
        Self {
            address: socket.ip().to_canonical(),
            socket,
            secure: false,
            certificates: Arc::default(),
            trusted_proxy: false,
            plain_passwords: false,
            memory: ConnectionMemory::default(),
        }
    }

    /// Whether a password in this request is safe on its way, or the operator takes the risk.
    pub(crate) fn may_send_passwords(&self) -> bool {
        let local = self.address.is_loopback() && self.socket.ip().to_canonical().is_loopback();
        self.secure || local || self.plain_passwords
    }
}

/// One value of any type for as long as a connection lasts. All clones are one.
#[derive(Clone, Default)]
pub(crate) struct ConnectionMemory(Arc<Mutex<Option<Box<dyn Any + Send>>>>);

#[allow(dead_code, reason = "authentication that is bound to a connection uses it")]
impl ConnectionMemory {
    /// Takes out what was put in; none where that is nothing or of another type, which stays.
    pub(crate) fn take<T: Any + Send>(&self) -> Option<T> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match slot.take()?.downcast() {
            Ok(value) => Some(*value),
            Err(other) => {
                *slot = Some(other);
                None
            }
        }
    }

    /// Puts a value in, in the place of what was there.
    pub(crate) fn put<T: Any + Send>(&self, value: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(value));
    }

    /// A copy of what was put in; none where that is nothing or of another type.
    pub(crate) fn get<T: Any + Clone>(&self) -> Option<T> {
        let slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.as_ref()?.downcast_ref().cloned()
    }
}

impl fmt::Debug for ConnectionMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionMemory").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_travel_safely_or_not_at_all() {
        let peer = |socket: &str, address: &str| Peer {
            address: address.parse().unwrap(),
            ..Peer::plain(socket.parse().unwrap())
        };
        assert!(peer("127.0.0.1:1", "127.0.0.1").may_send_passwords());
        assert!(peer("[::ffff:127.0.0.1]:1", "127.0.0.1").may_send_passwords());
        assert!(!peer("192.0.2.1:1", "192.0.2.1").may_send_passwords());
        assert!(!peer("127.0.0.1:1", "192.0.2.1").may_send_passwords(), "a proxy on this machine says who asks");
        assert!(!peer("192.0.2.1:1", "127.0.0.1").may_send_passwords());
        assert!(Peer { secure: true, ..peer("192.0.2.1:1", "192.0.2.1") }.may_send_passwords());
        assert!(Peer { plain_passwords: true, ..peer("192.0.2.1:1", "192.0.2.1") }.may_send_passwords());
    }

    #[test]
    fn a_connection_remembers_one_value() {
        let memory = ConnectionMemory::default();
        assert_eq!(memory.take::<u32>(), None);
        memory.clone().put(7_u32);
        assert_eq!((memory.take::<String>(), memory.get::<u32>()), (None, Some(7)));
        assert_eq!((memory.take::<u32>(), memory.get::<u32>()), (Some(7), None));
    }
}
