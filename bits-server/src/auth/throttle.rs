//! Failed logins, counted for each address: too many, and it is refused for a minute.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use bits_core::Refusal;

/// Failures are counted for so long from the first.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are remembered at once: about a megabyte.
const MOST: usize = 16 * 1024;

/// Failed logins by address. An IPv6 host has a /64 to choose from, which counts as one address.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    limit: RwLock<Option<u32>>,
    addresses: Mutex<HashMap<IpAddr, Failures>>,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    since: Instant,
    count: u32,
    locked: Option<Instant>,
}

impl Throttle {
    /// Locks an address out after `limit` failures within a minute; never without a limit.
    pub(super) fn new(limit: Option<u32>) -> Self {
        Self { limit: RwLock::new(limit), addresses: Mutex::default() }
    }

    /// Another limit from now on; what was counted stays counted.
    pub(super) fn set_limit(&self, limit: Option<u32>) {
        *self.limit.write().unwrap_or_else(PoisonError::into_inner) = limit;
    }

    /// Whether the address is locked out.
    pub(super) fn is_locked(&self, address: IpAddr) -> bool {
        self.limit().is_some() && self.is_locked_at(address, Instant::now())
    }

    /// Counts a failure; true where it is the one that locks the address out.
    pub(super) fn failed(&self, address: IpAddr) -> bool {
        self.limit().is_some_and(|limit| self.failed_at(address, limit, Instant::now()))
    }

    fn limit(&self) -> Option<u32> {
        *self.limit.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_locked_at(&self, address: IpAddr, now: Instant) -> bool {
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        addresses.get(&network(address)).is_some_and(|failures| failures.is_locked(now))
    }

    fn failed_at(&self, address: IpAddr, limit: u32, now: Instant) -> bool {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let address = network(address);
        if addresses.len() >= MOST && !addresses.contains_key(&address) {
            make_room(&mut addresses, now);
        }
        let failures = addresses.entry(address).or_insert(Failures { since: now, count: 0, locked: None });
        if failures.is_over(now) {
            *failures = Failures { since: now, count: 0, locked: None };
        }
        failures.count += 1;
        let locks = failures.locked.is_none() && failures.count >= limit;
        if locks {
            failures.locked = Some(now + Refusal::LOCKED_OUT);
        }
        locks
    }
}

impl Failures {
    fn is_locked(&self, now: Instant) -> bool {
        self.locked.is_some_and(|until| until > now)
    }

    /// Whether it says nothing any more.
    fn is_over(&self, now: Instant) -> bool {
        match self.locked {
            Some(until) => until <= now,
            None => now.duration_since(self.since) >= WINDOW,
        }
    }
}

/// Forgets what is over, and else whoever is nearest to being forgotten; those who are locked out last.
fn make_room(addresses: &mut HashMap<IpAddr, Failures>, now: Instant) {
    addresses.retain(|_, failures| !failures.is_over(now));
    if addresses.len() >= MOST {
        let oldest = addresses.iter().min_by_key(|(_, failures)| (failures.locked, failures.since));
        if let Some(oldest) = oldest.map(|(address, _)| *address) {
            addresses.remove(&oldest);
        }
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_last_failure_of_a_minute_locks_an_address_out_for_another() {
        let throttle = Throttle::new(Some(3));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!throttle.failed_at(HERE, 3, at(0)) && !throttle.failed_at(HERE, 3, at(59)));
        assert!(!throttle.failed_at(HERE, 3, at(60)), "the minute is over");
        assert!(!throttle.failed_at(HERE, 3, at(61)) && !throttle.is_locked_at(HERE, at(61)));
        assert!(throttle.failed_at(HERE, 3, at(62)) && throttle.is_locked_at(HERE, at(62)));
        assert!(!throttle.failed_at(HERE, 3, at(63)), "it is told once");
        assert!(throttle.is_locked_at(HERE, at(121)) && !throttle.is_locked_at(HERE, at(122)));
        assert!(!throttle.failed_at(HERE, 3, at(122)) && !throttle.is_locked_at(HERE, at(122)));
        assert!(!throttle.is_locked_at(address("192.0.2.2"), at(62)));
    }

    #[test]
    fn no_limit_locks_nobody_out() {
        let throttle = Throttle::new(None);
        assert!((0..1000).all(|_| !throttle.failed(HERE)) && !throttle.is_locked(HERE));
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let throttle = Throttle::new(Some(1));
        assert!(throttle.failed(address("2001:db8::1")));
        assert!(throttle.is_locked(address("2001:db8::ffff:1")) && !throttle.is_locked(address("2001:db8:0:1::1")));
        assert!(throttle.failed(address("::ffff:192.0.2.1")) && throttle.is_locked(HERE));
    }

    #[test]
    fn the_table_is_bounded_and_keeps_who_is_locked_out() {
        let throttle = Throttle::new(Some(2));
        let now = Instant::now();
        assert!(!throttle.failed_at(HERE, 2, now) && throttle.failed_at(HERE, 2, now));
        for number in 0..MOST as u32 + 100 {
            throttle.failed_at(IpAddr::V4((0x0a00_0000 + number).into()), 2, now);
        }
        assert!(throttle.addresses.lock().unwrap().len() <= MOST && throttle.is_locked_at(HERE, now));
        throttle.failed_at(address("198.51.100.1"), 2, now + Duration::from_secs(61));
        assert_eq!(throttle.addresses.lock().unwrap().len(), 1, "the rest is over");
    }
}
