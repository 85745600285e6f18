//! Syncs of folders that several uploads wait for: one serves all that changed the folder before it
//! began.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use rustix::io::Result;

/// The syncs under way, by folder; with each, the one that begins after it, if anybody waits for it.
#[derive(Debug, Default)]
pub(crate) struct Together(Mutex<HashMap<String, Option<Arc<Next>>>>);

/// A sync that is to begin when another one has ended. Who waits for it wakes once: when it is to run
/// it, or when it is done.
#[derive(Debug, Default)]
struct Next {
    begins: OnceLock<()>,
    done: OnceLock<Result<()>>,
}

impl Together {
    /// Runs `sync` for the folder, or waits for somebody else's that begins after this call. Blocks.
    pub(crate) fn sync(&self, folder: &str, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut folders = self.lock();
        let Some(next) = folders.get_mut(folder) else {
            folders.insert(folder.to_owned(), None);
            drop(folders);
            let done = sync();
            self.ended(folder);
            return done;
        };
        if let Some(next) = next {
            let next = next.clone();
            drop(folders);
            return *next.done.wait();
        }
        let mine = Arc::<Next>::default();
        *next = Some(mine.clone());
        drop(folders);
        mine.begins.wait();
        let done = sync();
        self.ended(folder);
        *mine.done.get_or_init(|| done)
    }

    /// Lets the next one begin, if anybody waits for it.
    fn ended(&self, folder: &str) {
        let mut folders = self.lock();
        match folders.get_mut(folder).and_then(Option::take) {
            Some(next) => drop(next.begins.set(())),
            None => drop(folders.remove(folder)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Option<Arc<Next>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

    use rustix::io::Errno;

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
            // The map has one, each of the five another.
            while together.lock()["a"].as_ref().is_none_or(|next| Arc::strong_count(next) < 6) {
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
