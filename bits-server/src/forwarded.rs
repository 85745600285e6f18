//! Trusted proxies, and what they say of a request: `X-Forwarded-For` and `X-Forwarded-Proto`.

use std::{
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use crate::peer::Peer;

static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Proxies in a row that are believed; a longer row is taken for a flood.
const MOST_HOPS: usize = 32;

/// Whose word is taken for where a connection or request comes from. Cheap to clone; all clones are
/// one.
#[derive(Clone, Debug, Default)]
pub(crate) struct TrustedProxies(Arc<RwLock<Vec<IpNet>>>);

impl TrustedProxies {
    pub(crate) fn new(networks: &[IpNet]) -> Self {
        Self(Arc::new(RwLock::new(networks.to_vec())))
    }

    /// Believes these from now on, and no others.
    pub(crate) fn replace(&self, networks: &[IpNet]) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = networks.to_vec();
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let networks = self.0.read().unwrap_or_else(PoisonError::into_inner);
        networks.iter().any(|network| network.contains(&address))
    }

    /// The peer of one request: with what a trusted proxy says in its headers, and without what
    /// anybody else says.
    pub(crate) fn of_request(&self, mut peer: Peer, headers: &HeaderMap) -> Peer {
        // Those who are believed may have changed since the connection was made.
        peer.trusted_proxy &= self.contains(peer.address);
        if peer.trusted_proxy {
            peer.address = self.client(peer.address, headers);
            peer.secure = is_secure(headers).unwrap_or(peer.secure);
        }
        peer
    }

    /// The rightmost address that is not a trusted proxy's: each proxy adds on the right whom it
    /// heard, so that what stands further left may be anybody's invention.
    fn client(&self, proxy: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut nearest = proxy;
        for value in values(headers, &FORWARDED_FOR).take(MOST_HOPS) {
            let Some(address) = value.and_then(address) else { break };
            nearest = address;
            if !self.contains(address) {
                break;
            }
        }
        nearest
    }
}

/// Whether all hops that are told of were safe; none where none is told of.
fn is_secure(headers: &HeaderMap) -> Option<bool> {
    let mut told = values(headers, &FORWARDED_PROTO).peekable();
    told.peek()?;
    Some(told.all(|value| value.is_some_and(|value| value.eq_ignore_ascii_case("https"))))
}

/// The elements of a header's lists, from the right; none for one that is not text.
fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = Option<&'a str>> {
    let lines: Vec<&HeaderValue> = headers.get_all(name).iter().collect();
    let split = |line: &'a HeaderValue| line.as_bytes().rsplit(|byte| *byte == b',');
    lines.into_iter().rev().flat_map(split).map(|item| str::from_utf8(item).ok().map(str::trim))
}

/// An address as proxies write it: alone, or with a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = |text: &str| text.parse::<IpAddr>().ok();
    let in_brackets = || bare(text.strip_prefix('[')?.strip_suffix(']')?);
    let with_port = || Some(text.parse::<std::net::SocketAddr>().ok()?.ip());
    bare(text).or_else(with_port).or_else(in_brackets).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PROXY: &str = "10.0.0.1:9";

    fn proxies() -> TrustedProxies {
        TrustedProxies::new(&["10.0.0.0/8".parse().unwrap(), "2001:db8::1/128".parse().unwrap()])
    }

    fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    fn peer(socket: &str) -> Peer {
        let mut peer = Peer::plain(socket.parse().unwrap());
        peer.trusted_proxy = proxies().contains(peer.address);
        peer
    }

    #[test]
    fn the_rightmost_address_that_is_not_trusted_is_the_clients() {
        for (lines, expected) in [
            (&["192.0.2.1"][..], "192.0.2.1"),
            (&["1.2.3.4, 192.0.2.1"], "192.0.2.1"),
            (&["1.2.3.4", "192.0.2.1"], "192.0.2.1"),
            (&["192.0.2.1, 10.9.9.9,10.8.8.8"], "192.0.2.1"),
            (&["192.0.2.1", "10.9.9.9", "2001:db8::1"], "192.0.2.1"),
            (&["10.9.9.9, 10.8.8.8"], "10.9.9.9"),
            (&["192.0.2.1:5000"], "192.0.2.1"),
            (&["[2001:db8::7]:5000"], "2001:db8::7"),
            (&["[2001:db8::7]"], "2001:db8::7"),
            (&["::ffff:192.0.2.1"], "192.0.2.1"),
            (&["192.0.2.1, unknown"], "10.0.0.1"),
            (&["192.0.2.1, unknown, 10.9.9.9"], "10.9.9.9"),
            (&["192.0.2.1,"], "10.0.0.1"),
            (&[""], "10.0.0.1"),
            (&["_hidden"], "10.0.0.1"),
            (&[], "10.0.0.1"),
        ] {
            let lines: Vec<_> = lines.iter().map(|value| (FORWARDED_FOR.clone(), *value)).collect();
            let seen = proxies().of_request(peer(PROXY), &headers(&lines));
            assert_eq!(seen.address, expected.parse::<IpAddr>().unwrap(), "{lines:?}");
        }
    }

    #[test]
    fn nobody_else_is_believed() {
        let lies = headers(&[(FORWARDED_FOR.clone(), "192.0.2.1"), (FORWARDED_PROTO.clone(), "https")]);
        let seen = proxies().of_request(peer("192.0.2.66:9"), &lies);
        assert_eq!((seen.address, seen.secure), ("192.0.2.66".parse().unwrap(), false));
        let seen = TrustedProxies::default().of_request(peer("192.0.2.66:9"), &lies);
        assert_eq!((seen.address, seen.secure), ("192.0.2.66".parse().unwrap(), false));
    }

    #[test]
    fn a_hop_in_the_clear_is_not_secure() {
        for (lines, over_tls, expected) in [
            (&["https"][..], false, true),
            (&["HTTPS"], false, true),
            (&["https, https"], false, true),
            (&["https", "http"], false, false),
            (&["http", "https"], true, false),
            (&["http"], true, false),
            (&["httpsx"], false, false),
            (&[""], true, false),
            (&[], false, false),
            (&[], true, true),
        ] {
            let lines: Vec<_> = lines.iter().map(|value| (FORWARDED_PROTO.clone(), *value)).collect();
            let seen = proxies().of_request(Peer { secure: over_tls, ..peer(PROXY) }, &headers(&lines));
            assert_eq!(seen.secure, expected, "{lines:?} {over_tls}");
        }
    }

    #[test]
    fn a_flood_of_trusted_hops_is_not_followed() {
        let mut hops = vec!["192.0.2.1"];
        hops.resize(MOST_HOPS, "10.9.9.9");
        let seen = proxies().of_request(peer(PROXY), &headers(&[(FORWARDED_FOR.clone(), &hops.join(","))]));
        assert_eq!(seen.address, "192.0.2.1".parse::<IpAddr>().unwrap());
        hops.push("10.9.9.9");
        let seen = proxies().of_request(peer(PROXY), &headers(&[(FORWARDED_FOR.clone(), &hops.join(","))]));
        assert_eq!(seen.address, "10.9.9.9".parse::<IpAddr>().unwrap());
    }

    proptest! {
        /// However a client fills the header, the address that the trusted proxy added wins.
        #[test]
        fn what_a_client_sends_never_counts(sent in "[ -~]{0,200}", real in any::<IpAddr>()) {
            prop_assume!(!proxies().contains(real));
            let value = format!("{sent},{real}");
            let seen = proxies().of_request(peer(PROXY), &headers(&[(FORWARDED_FOR.clone(), &value)]));
            prop_assert_eq!(seen.address, real.to_canonical());
            let seen = proxies().of_request(peer(PROXY), &headers(&[(FORWARDED_FOR.clone(), &sent), (FORWARDED_FOR.clone(), &real.to_string())]));
            prop_assert_eq!(seen.address, real.to_canonical());
        }

        #[test]
        fn any_bytes_are_read(value in prop::collection::vec(prop::sample::select((32..=255_u8).filter(|byte| *byte != 127).collect::<Vec<_>>()), 0..100)) {
            let value = HeaderValue::from_bytes(&value).unwrap();
            let headers = HeaderMap::from_iter([(FORWARDED_FOR.clone(), value.clone()), (FORWARDED_PROTO.clone(), value)]);
            proxies().of_request(peer(PROXY), &headers);
        }
    }
}
