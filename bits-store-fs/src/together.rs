//! Syncs of folders that several uploads wait for: one serves all that changed the folder before it
//! began.

use std::{
    collections::HashMap,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use rustix::io::{Errno, Result};

/// The syncs under way, by folder.
#[derive(Debug, Default)]
pub(crate) struct Together {
    folders: Mutex<HashMap<String, Folder>>,
    ended: Condvar,
}

#[derive(Debug)]
struct Folder {
    /// Who runs a sync or waits for one.
    users: usize,
    begun: u64,
    /// As many as have begun, or one is under way.
    ended: u64,
    /// The last one that failed, if any.
    failed: Option<(u64, Errno)>,
}

impl Together {
    /// Runs `sync` for the folder, or waits for somebody else's that begins after this call. Blocks.
    pub(crate) fn sync(&self, folder: &str, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut folders = self.lock();
        let new = || Folder { users: 0, begun: 0, ended: 0, failed: None };
        let mut state = folders.entry(folder.to_owned()).or_insert_with(new);
        state.users += 1;
        let needed = state.begun + 1;
        while state.ended < needed && state.begun > state.ended {
            folders = self.ended.wait(folders).unwrap_or_else(PoisonError::into_inner);
            state = folders.entry(folder.to_owned()).or_insert_with(new);
        }
        if state.ended < needed {
            state.begun += 1;
            drop(folders);
            let done = sync();
            folders = self.lock();
            state = folders.entry(folder.to_owned()).or_insert_with(new);
            state.ended = state.begun;
            if let Err(errno) = done {
                state.failed = Some((state.ended, errno));
            }
            self.ended.notify_all();
        }
        // What failed for one stays failed, though a later one went well before this thread woke.
        let done = state.failed.filter(|(number, _)| *number >= needed).map_or(Ok(()), |(_, errno)| Err(errno));
        state.users -= 1;
        if state.users == 0 {
            folders.remove(folder);
        }
        done
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Folder>> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
        thread,
    };

    use super::*;

    /// Five come while a sync is held up; how many more syncs there were, and what each was told.
    fn come_amid_a_sync(outcome: Result<()>) -> (usize, Vec<Result<()>>) {
        let (together, syncs) = (Together::default(), AtomicUsize::new(0));
        let (begin, begun) = mpsc::channel();
        let (go, gone) = mpsc::channel::<()>();
        let count = || {
            syncs.fetch_add(1, Ordering::Relaxed);
            outcome
        };
        let (together, count) = (&together, &count);
        let told = thread::scope(|scope| {
            let first = scope.spawn(move || {
                together.sync("a", || {
                    begin.send(()).unwrap();
                    gone.recv().map_err(|_| Errno::CANCELED)
                })
            });
            begun.recv().unwrap();
            let others: Vec<_> = (0..5).map(|_| scope.spawn(|| together.sync("a", count))).collect();
            while together.lock()["a"].users < 6 {
                thread::yield_now();
            }
            assert_eq!(together.sync("b", || Ok(())), Ok(()), "another folder does not wait");
            go.send(()).unwrap();
            assert_eq!(first.join().unwrap(), Ok(()));
            others.into_iter().map(|other| other.join().unwrap()).collect()
        });
        assert!(together.lock().is_empty());
        (syncs.into_inner(), told)
    }

    #[test]
    fn who_comes_amid_a_sync_is_served_by_one_that_begins_later() {
        assert_eq!(come_amid_a_sync(Ok(())), (1, vec![Ok(()); 5]));
    }

    #[test]
    fn all_that_a_failed_sync_was_for_are_told() {
        assert_eq!(come_amid_a_sync(Err(Errno::IO)), (1, vec![Err(Errno::IO); 5]));
    }
}
