//! The PROXY protocol: a header of any bytes is read or refused.
#![no_main]
#![allow(dead_code, reason = "the server reads it from a stream")]

#[path = "../../bits-server/src/proxy_header.rs"]
mod proxy_header;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|header: &[u8]| {
    if let Err(error) = proxy_header::parse_proxy_header(header) {
        assert!(!error.to_string().is_empty());
    }
});
