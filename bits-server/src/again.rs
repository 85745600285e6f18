//! A future that wakes itself is polled again at once, on the core where it is.
//!
//! hyper and the body that it hands out wake each other for every piece of a body. They are one
//! task, and tokio takes a task that wakes itself for one that gives way to others: it wakes a
//! second worker to look for work, which costs more than the piece's own system calls.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// So often in a row before others have their turn.
const IN_A_ROW: usize = 16;

/// Polls `future`, again while it wakes itself.
pub(crate) struct Again<F> {
    future: F,
    wakes: Arc<Wakes>,
    waker: Waker,
}

impl<F> Again<F> {
    pub(crate) fn new(future: F) -> Self {
        let wakes = Arc::new(Wakes::default());
        Self { future, waker: Waker::from(wakes.clone()), wakes }
    }

    pub(crate) fn into_inner(self) -> F {
        self.future
    }
}

impl<F: Unpin> Again<F> {
    pub(crate) fn get_pin(&mut self) -> Pin<&mut F> {
        Pin::new(&mut self.future)
    }
}

impl<F: Future + Unpin> Future for Again<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        this.wakes.task.register(context.waker());
        for _ in 0..IN_A_ROW {
            this.wakes.begin();
            let polled = Pin::new(&mut this.future).poll(&mut Context::from_waker(&this.waker));
            let woken = this.wakes.end();
            if polled.is_ready() || !woken {
                return polled;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Who is to be woken, and whether that is the one who is running.
#[derive(Default)]
struct Wakes {
    polling: AtomicBool,
    woken: AtomicBool,
    task: AtomicWaker,
}

impl Wakes {
    fn begin(&self) {
        // A swap, so that this poll sees what led to the wake that it takes back.
        self.woken.swap(false, Ordering::SeqCst);
        self.polling.store(true, Ordering::SeqCst);
    }

    /// Ends a poll; says whether it was woken meanwhile. Who wakes it from now on wakes the task.
    fn end(&self) -> bool {
        self.polling.store(false, Ordering::SeqCst);
        self.woken.swap(false, Ordering::SeqCst)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Noted before looking: a poll that ends in between sees the note, or this sees its end.
        self.woken.store(true, Ordering::SeqCst);
        if !self.polling.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Polls a future once that wakes itself `times`; the task's wakes, and the polls.
    fn poll_once(times: usize) -> (usize, usize, bool) {
        let task = Arc::new(Counted::default());
        let mut polls = 0;
        let selfish = std::future::poll_fn(|context| {
            polls += 1;
            if polls > times {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        });
        let mut again = Again::new(Box::pin(selfish));
        let ended = Pin::new(&mut again).poll(&mut Context::from_waker(&Waker::from(task.clone()))).is_ready();
        drop(again);
        (task.0.load(Ordering::SeqCst), polls, ended)
    }

    #[test]
    fn a_future_that_wakes_itself_needs_no_scheduler() {
        assert_eq!(poll_once(0), (0, 1, true));
        assert_eq!(poll_once(3), (0, 4, true));
    }

    #[test]
    fn others_have_their_turn() {
        assert_eq!(poll_once(1000), (1, IN_A_ROW, false));
    }

    /// Wakes from other threads, at any moment, are never lost.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn wakes_of_others_arrive() {
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<u32>(1);
        let sending =
            std::thread::spawn(move || (0..20_000).for_each(|n| sender.blocking_send(n).expect("it is read")));
        let receiving = Box::pin(async move {
            let mut sum = 0_u64;
            while let Some(n) = receiver.recv().await {
                sum += u64::from(n);
            }
            sum
        });
        assert_eq!(tokio::spawn(Again::new(receiving)).await.expect("no panic"), 19_999 * 10_000);
        sending.join().expect("no panic");
    }
}
