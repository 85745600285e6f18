//! Calls that are so short that the runtime is not told of them.
//!
//! What may block a thread of the runtime tells it so (`block_in_place`), and it wakes another one for
//! the tasks that wait there: this costs as much as a small write. Writing to the system's memory and
//! looking at a name are over before that, as a rule. Where the system holds them up, for want of
//! memory or since the disk hangs, they hold up a thread, and so one thread is always left out.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::Handle;

/// Such calls under way in this process.
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// The right to such a call.
pub(crate) struct Brief(());

impl Brief {
    /// None where these calls could hold up all of the runtime's threads.
    pub(crate) fn begin() -> Option<Self> {
        let threads = Handle::current().metrics().num_workers();
        let brief = Self(());
        (UNDER_WAY.fetch_add(1, Ordering::Relaxed) + 1 < threads).then_some(brief)
    }
}

impl Drop for Brief {
    fn drop(&mut self) {
        UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn one_thread_is_left_out() {
        let (first, second) = (Brief::begin(), Brief::begin());
        assert!(first.is_some() && second.is_some());
        assert!(Brief::begin().is_none());
        drop(first);
        assert!(Brief::begin().is_some());
    }
}
