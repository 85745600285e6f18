//! How many connections each address has open.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

/// Counts connections by address. A network of 64 bits counts as one address of IPv6, since whoever
/// has one has them all. Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    limit: Option<u32>,
    open: Arc<Mutex<Counts>>,
}

type Counts = HashMap<IpAddr, u32>;

impl Addresses {
    pub(crate) fn new(limit: Option<u32>) -> Self {
        Self { limit, open: Arc::default() }
    }

    /// Room for one more connection of this address until it is dropped; none at the limit.
    pub(crate) fn enter(&self, address: IpAddr) -> Option<Entered> {
        let Some(limit) = self.limit else { return Some(Entered(None)) };
        let address = network(address);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Entered(Some((self.open.clone(), address))))
    }
}

/// One connection's room.
#[derive(Debug)]
pub(crate) struct Entered(Option<(Arc<Mutex<Counts>>, IpAddr)>);

impl Drop for Entered {
    fn drop(&mut self) {
        let Some((open, address)) = self.0.take() else { return };
        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&address);
            }
        }
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_gets_its_room_back() {
        let addresses = Addresses::new(Some(2));
        let first = addresses.enter(address("192.0.2.1")).unwrap();
        let _second = addresses.enter(address("::ffff:192.0.2.1")).unwrap();
        assert!(addresses.enter(address("192.0.2.1")).is_none());
        assert!(addresses.enter(address("192.0.2.2")).is_some());
        drop(first);
        assert!(addresses.enter(address("192.0.2.1")).is_some());
        assert_eq!(addresses.open.lock().unwrap().len(), 1, "an address that is gone is forgotten");
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let addresses = Addresses::new(Some(1));
        let _room = addresses.enter(address("2001:db8::1")).unwrap();
        assert!(addresses.enter(address("2001:db8::ffff:1")).is_none());
        assert!(addresses.enter(address("2001:db8:0:1::1")).is_some());
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let addresses = Addresses::new(None);
        let _rooms: Vec<_> = (0..100).map(|_| addresses.enter(address("192.0.2.1")).unwrap()).collect();
        assert!(addresses.open.lock().unwrap().is_empty());
    }
}
