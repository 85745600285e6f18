//! Places at server applications: each is told of so many uploads at once, and the others wait.
//!
//! One that is slow then holds back the uploads of its own directory, and nothing else of the server.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bits_core::Directory;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The queues of all directories, by their `url_path`.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    queues: Mutex<HashMap<String, Queue>>,
}

#[derive(Debug)]
struct Queue {
    limit: u32,
    places: Arc<Semaphore>,
}

/// A place at an application; dropping it lets the next one in.
#[derive(Debug)]
pub(crate) struct Place {
    /// Whether it had to be waited for.
    pub(crate) waited: bool,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Queues {
    /// Waits for a place at the application of a directory: they are given in the order of asking.
    pub(crate) async fn take(&self, directory: &Directory) -> Place {
        let Some(places) = self.places(directory) else { return Place { waited: false, _permit: None } };
        match places.clone().try_acquire_owned() {
            Ok(permit) => Place { waited: false, _permit: Some(permit) },
            // Nobody ever closes it.
            Err(_) => Place { waited: true, _permit: places.acquire_owned().await.ok() },
        }
    }

    fn places(&self, directory: &Directory) -> Option<Arc<Semaphore>> {
        let limit = directory.notification.as_ref()?.limit?;
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queues.entry(directory.url_path.clone()).or_insert_with(|| Queue::new(limit));
        if queue.limit != limit {
            *queue = Queue::new(limit);
        }
        Some(queue.places.clone())
    }
}

impl Queue {
    fn new(limit: u32) -> Self {
        let places = usize::try_from(limit).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { limit, places: Arc::new(Semaphore::new(places)) }
    }
}
