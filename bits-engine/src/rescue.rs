//! Work that nobody can abandon: when its caller goes away it goes on as a task of its own.
//!
//! It runs within the caller's task as long as there is a caller. A body then reaches its file on
//! the core that received it, and no frame wakes a second task.

use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

/// The work panicked.
#[derive(Debug)]
pub(crate) struct Panicked;

type Work<T> = Pin<Box<dyn Future<Output = Result<T, Panicked>> + Send>>;

/// Work under way. `tasks` counts it until it has ended, wherever it runs.
#[must_use]
pub(crate) struct Rescued<T: Send + 'static> {
    work: Option<Work<T>>,
    tasks: TaskTracker,
    _counted: TaskTrackerToken,
}

impl<T: Send + 'static> Rescued<T> {
    pub(crate) fn new(tasks: &TaskTracker, work: impl Future<Output = T> + Send + 'static) -> Self {
        // What a panic leaves behind is locked by nothing that is not told of it.
        let work = AssertUnwindSafe(work).catch_unwind().map(|ended| ended.map_err(|_| Panicked));
        Self { work: Some(Box::pin(work)), tasks: tasks.clone(), _counted: tasks.token() }
    }
}

impl<T: Send + 'static> Future for Rescued<T> {
    type Output = Result<T, Panicked>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(work) = &mut self.work else { return Poll::Ready(Err(Panicked)) };
        let ended = ready!(work.as_mut().poll(context));
        self.work = None;
        Poll::Ready(ended)
    }
}

impl<T: Send + 'static> Drop for Rescued<T> {
    fn drop(&mut self) {
        // Without a runtime the process is ending, which nothing acknowledged depends on.
        if let (Some(work), Ok(runtime)) = (self.work.take(), Handle::try_current()) {
            self.tasks.spawn_on(work, &runtime);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_its_caller_abandons_goes_on_and_is_waited_for() {
        let tasks = TaskTracker::new();
        let (go, gone) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        let mut work = Rescued::new(&tasks, async move {
            gone.await.expect("it is told to go on");
            tell.send(()).expect("it is waited for");
        });
        assert!(futures_util::poll!(&mut work).is_pending());
        drop(work);
        tasks.close();
        assert!(tokio::time::timeout(Duration::from_millis(20), tasks.wait()).await.is_err(), "it is not counted");
        go.send(()).expect("it waits");
        tasks.wait().await;
        told.await.expect("it went on to its end");
    }

    #[tokio::test]
    async fn it_is_counted_while_its_caller_has_it() {
        let tasks = TaskTracker::new();
        let work = Rescued::new(&tasks, async { 7 });
        assert_eq!(tasks.len(), 1);
        assert_eq!(work.await.expect("no panic"), 7);
        assert_eq!(tasks.len(), 0);
    }

    #[tokio::test]
    async fn a_panic_ends_the_work_and_nothing_else() {
        let tasks = TaskTracker::new();
        let work = Rescued::new(&tasks, async {
            tokio::task::yield_now().await;
            panic!("on purpose");
        });
        assert!(work.await.is_err());
        assert_eq!(tasks.len(), 0);
    }
}
