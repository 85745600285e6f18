//! Files of users: any text is read or refused by the number of its line.
#![no_main]
#![allow(dead_code, reason = "passwords are not checked here: that takes long by design")]

#[path = "../../bits-server/src/auth/htpasswd.rs"]
mod htpasswd;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match htpasswd::parse(text) {
        Ok(entries) => assert!(entries.len() <= text.lines().count()),
        Err((line, _)) => assert!((1..=text.lines().count()).contains(&line)),
    }
});
