//! Points at which a test ends the process, as a crash would. Compiled in with the feature
//! `faults` only, which no release has.

/// Ends the process without any clean-up when the environment's `BITS_FAULT` names this point:
/// `NAME` at its first passing, `NAME:3` at its third.
#[cfg(feature = "faults")]
pub(crate) fn fault(name: &str) {
    use std::sync::atomic::{AtomicU32, Ordering};

    static PASSED: AtomicU32 = AtomicU32::new(0);
    let Ok(wanted) = std::env::var("BITS_FAULT") else { return };
    let (point, count) = wanted.split_once(':').unwrap_or((wanted.as_str(), "1"));
    if point == name && PASSED.fetch_add(1, Ordering::Relaxed) + 1 >= count.parse().unwrap_or(1) {
        tracing::error!(point = name, "ending the process at a fault point");
        std::process::abort();
    }
}

#[cfg(not(feature = "faults"))]
pub(crate) const fn fault(_name: &str) {}
