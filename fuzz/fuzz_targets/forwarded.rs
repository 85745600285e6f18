//! Forwarded headers: whatever a client fills in, what the trusted proxy added is what counts.
#![no_main]
#![allow(dead_code, reason = "the server asks a peer for more")]

#[path = "../../bits-server/src/forwarded.rs"]
mod forwarded;
#[path = "../../bits-server/src/peer.rs"]
mod peer;

use std::net::IpAddr;

use forwarded::TrustedProxies;
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use peer::Peer;

const ADDRESS: HeaderName = HeaderName::from_static("x-forwarded-for");
const SCHEME: HeaderName = HeaderName::from_static("x-forwarded-proto");
const PROXY: &str = "10.0.0.1:9";
const STRANGER: &str = "192.0.2.66:9";

fuzz_target!(|input: (bool, &[u8])| {
    let (secure, headers) = (input.0, headers(input.1));
    let proxies = proxies();
    let seen = |socket: &str, headers: &HeaderMap| {
        let mut peer = Peer::plain(socket.parse().expect("it is an address"));
        (peer.secure, peer.trusted_proxy) = (secure, proxies.contains(peer.address));
        let peer = proxies.of_request(peer, headers);
        (peer.address, peer.secure)
    };

    let stranger: IpAddr = [192, 0, 2, 66].into();
    assert_eq!(seen(STRANGER, &headers), (stranger, secure), "a stranger was believed");

    let (address, is_secure) = seen(PROXY, &headers);
    assert_eq!(address, address.to_canonical());
    assert!(is_named(address, &headers) || address == IpAddr::from([10, 0, 0, 1]), "{address} comes from nowhere");
    let all_https =
        headers.get_all(SCHEME).iter().all(|line| line.as_bytes().split(|byte| *byte == b',').all(is_https));
    let told = headers.contains_key(SCHEME);
    assert_eq!(is_secure, if told { all_https } else { secure });

    // The proxy adds on the right whom it heard, and how.
    let mut added = headers.clone();
    added.append(ADDRESS, HeaderValue::from_static("198.51.100.7"));
    added.append(SCHEME, HeaderValue::from_static("http"));
    assert_eq!(seen(PROXY, &added), ([198, 51, 100, 7].into(), false), "a client chose its own address");
    // A proxy that is trusted hides nothing of what it was told.
    let mut by_another = added;
    by_another.append(ADDRESS, HeaderValue::from_static("10.0.0.2"));
    assert_eq!(seen(PROXY, &by_another).0, IpAddr::from([198, 51, 100, 7]));
});

fn proxies() -> TrustedProxies {
    TrustedProxies::new(&["10.0.0.0/8", "2001:db8::1/128"].map(|network| network.parse().expect("it is a network")))
}

/// A line of the input is one of the header, `=` before it makes it one of the scheme's.
fn headers(data: &[u8]) -> HeaderMap {
    let line = |line: &[u8]| match line.strip_prefix(b"=") {
        Some(scheme) => Some((SCHEME, HeaderValue::from_bytes(scheme).ok()?)),
        None => Some((ADDRESS, HeaderValue::from_bytes(line).ok()?)),
    };
    let mut headers = HeaderMap::new();
    data.split(|byte| *byte == b'\n').take(64).filter_map(line).for_each(|(name, value)| {
        headers.append(name, value);
    });
    headers
}

fn is_https(item: &[u8]) -> bool {
    str::from_utf8(item).is_ok_and(|item| item.trim().eq_ignore_ascii_case("https"))
}

/// Whether an element of the header reads as this address, by itself or with what may stand around it.
fn is_named(address: IpAddr, headers: &HeaderMap) -> bool {
    let lines = headers.get_all(ADDRESS).iter();
    let items = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    items.filter_map(|item| str::from_utf8(item).ok()).any(|item| {
        let item = item.trim();
        let without_port = item.rsplit_once(':').map_or(item, |(host, _)| host);
        let bare = |text: &str| text.trim_matches(['[', ']']).parse::<IpAddr>().ok().map(|found| found.to_canonical());
        let with_zone = item.parse::<std::net::SocketAddr>().ok().map(|found| found.ip().to_canonical());
        [bare(item), bare(without_port), with_zone].contains(&Some(address))
    })
}
