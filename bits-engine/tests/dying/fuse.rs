//! When a process dies or freezes, or a call of it fails.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bits_core::StoreErrorKind;
use tokio::sync::watch;

/// So many points in the life of a process from now: one before and one after each call of its store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point(pub(crate) usize);

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// The process dies: no call ends any more, unless it was only frozen.
    Dies,
    /// The same, and what it was about to send is on its way.
    DiesLate,
    Fails(StoreErrorKind),
}

/// One process.
#[derive(Debug)]
pub(crate) struct Fuse {
    armed: Mutex<Option<(Point, Fate)>>,
    dead: watch::Sender<bool>,
    thawed: watch::Sender<bool>,
}

impl Default for Fuse {
    fn default() -> Self {
        Self { armed: Mutex::default(), dead: watch::Sender::new(false), thawed: watch::Sender::new(false) }
    }
}

impl Fuse {
    pub(crate) fn arm(&self, point: Point, fate: Fate) {
        *self.armed() = Some((point, fate));
    }

    pub(crate) fn is_armed(&self) -> bool {
        self.armed().is_some()
    }

    pub(crate) fn disarm(&self) {
        *self.armed() = None;
    }

    pub(crate) fn die(&self) {
        self.dead.send_replace(true);
    }

    pub(crate) fn is_dead(&self) -> bool {
        *self.dead.borrow()
    }

    pub(crate) async fn died(&self) {
        let _ = self.dead.subscribe().wait_for(|dead| *dead).await;
    }

    /// It was not dead, only frozen: it goes on where it was.
    pub(crate) fn thaw(&self) {
        self.thawed.send_replace(true);
    }

    /// One point in its life.
    pub(crate) async fn pass(&self) -> Result<(), StoreErrorKind> {
        match self.fate() {
            Some(Fate::Dies | Fate::DiesLate) => self.die(),
            Some(Fate::Fails(kind)) => return Err(kind),
            None => {}
        }
        if self.is_dead() {
            let _ = self.thawed.subscribe().wait_for(|thawed| *thawed).await;
        }
        Ok(())
    }

    /// A call, between two points.
    pub(crate) async fn around<T, E>(
        &self,
        call: impl Future<Output = Result<T, E>>,
        error: impl Fn(StoreErrorKind) -> E,
    ) -> Result<T, E> {
        self.pass().await.map_err(&error)?;
        let result = call.await;
        self.pass().await.map_err(error)?;
        result
    }

    /// Whether it dies now with something on its way.
    pub(crate) fn dies_late(&self) -> bool {
        let mut armed = self.armed();
        let is_due = matches!(*armed, Some((Point(0), Fate::DiesLate)));
        if is_due {
            *armed = None;
        }
        is_due
    }

    fn fate(&self) -> Option<Fate> {
        let mut armed = self.armed();
        let (point, fate) = armed.as_mut()?;
        if point.0 > 0 {
            point.0 -= 1;
            return None;
        }
        let fate = *fate;
        *armed = None;
        Some(fate)
    }

    fn armed(&self) -> MutexGuard<'_, Option<(Point, Fate)>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
