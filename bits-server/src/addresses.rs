//! How many connections each address has open.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

/// Counts connections by address. A network of 64 bits counts as one address of IPv6, since whoever
/// has one has them all. Cheap to clone; all clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses {
    open: Arc<Mutex<Counts>>,
}

type Counts = HashMap<IpAddr, u32>;

impl Addresses {
    /// Room for one more connection of this address until it is dropped; none at the limit.
    pub(crate) fn enter(&self, address: IpAddr, limit: Option<u32>) -> Option<Entered> {
        let address = network(address);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.get(&address).copied().unwrap_or_default();
        if limit.is_some_and(|limit| count >= limit) {
            return None;
        }
        open.insert(address, count + 1);
        Some(Entered { open: self.open.clone(), address })
    }
}

/// One connection's room.
#[derive(Debug)]
pub(crate) struct Entered {
    open: Arc<Mutex<Counts>>,
    address: IpAddr,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
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
        let addresses = Addresses::default();
        let enter = |text: &str| addresses.enter(address(text), Some(2));
        let first = enter("192.0.2.1").unwrap();
        let _second = enter("::ffff:192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none());
        assert!(enter("192.0.2.2").is_some());
        drop(first);
        assert!(enter("192.0.2.1").is_some());
        assert_eq!(addresses.open.lock().unwrap().len(), 1, "an address that is gone is forgotten");
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let addresses = Addresses::default();
        let enter = |text: &str| addresses.enter(address(text), Some(1));
        let _room = enter("2001:db8::1").unwrap();
        assert!(enter("2001:db8::ffff:1").is_none());
        assert!(enter("2001:db8:0:1::1").is_some());
    }

    #[test]
    fn a_limit_that_comes_later_counts_who_came_before() {
        let addresses = Addresses::default();
        let here = address("192.0.2.1");
        let rooms: Vec<_> = (0..100).map(|_| addresses.enter(here, None).unwrap()).collect();
        assert!(addresses.enter(here, Some(100)).is_none());
        drop(rooms);
        assert!(addresses.enter(here, Some(1)).is_some());
    }
}
