//! Calls that are so short that the runtime is not told of them.
//!
//! What may block a thread of the runtime tells it so (`block_in_place`), and it wakes another one for
//! the tasks and the sockets that wait there: this costs as much as a small write. Writing to the
//! system's memory and looking at a name are over before that, as a rule. Where the system holds them
//! up, for want of memory or since the disk hangs, they hold up a thread. So one that is awake is
//! always left out: it looks after the sockets and timers once it has nothing else to do. One that
//! sleeps would not: nobody wakes it for them.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::Handle;

/// Such calls under way in this process.
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// The right to such a call.
pub(crate) struct Brief(());

impl Brief {
    /// None where these calls could hold up all threads of the runtime that are awake.
    pub(crate) fn begin() -> Option<Self> {
        let runtime = Handle::current().metrics();
        let brief = Self(());
        let under_way = UNDER_WAY.fetch_add(1, Ordering::SeqCst) + 1;
        // Threads count how often they fall asleep and wake up.
        let awake =
            (0..runtime.num_workers()).filter(|thread| runtime.worker_park_unpark_count(*thread).is_multiple_of(2));
        (awake.take(under_way + 1).count() > under_way).then_some(brief)
    }
}

impl Drop for Brief {
    fn drop(&mut self) {
        UNDER_WAY.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn one_thread_is_left_out() {
        let together = Arc::new(Barrier::new(3));
        let begin = || {
            let together = together.clone();
            tokio::spawn(async move {
                let brief = Brief::begin();
                together.wait();
                brief.is_some()
            })
        };
        let mut begun = 0;
        for task in [begin(), begin(), begin()] {
            begun += u32::from(task.await.expect("no panic"));
        }
        assert!(begun < 3, "no thread is left");
        assert_eq!(UNDER_WAY.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn the_only_thread_is_left_out() {
        assert!(Brief::begin().is_none());
    }
}
