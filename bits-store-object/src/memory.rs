//! The memory that uploads under way may hold together.
//!
//! Who holds some never waits for more: it first lets go of what it holds, by writing it to the
//! store. So nobody waits for somebody who waits.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Memory is counted in these.
const UNIT: u64 = 1 << 10;

/// What the whole process may hold.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    free: Arc<Semaphore>,
    units: u32,
}

/// Some of it; dropping it gives it back.
#[derive(Debug, Default)]
pub(crate) struct Lease(Option<OwnedSemaphorePermit>);

impl Memory {
    pub(crate) fn new(bytes: u64) -> Self {
        let units = units(bytes).min(u32::MAX >> 4);
        Self { free: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// Whether so much can be had at all.
    pub(crate) fn can_hold(&self, bytes: u64) -> bool {
        units(bytes) <= self.units
    }

    /// So much, if it is free now.
    pub(crate) fn try_take(&self, bytes: u64) -> Option<Lease> {
        let permit = self.free.clone().try_acquire_many_owned(units(bytes)).ok()?;
        Some(Lease(Some(permit)))
    }

    /// So much, in turn. Whoever calls holds nothing.
    pub(crate) async fn take(&self, bytes: u64) -> Lease {
        // More than there is would be waited for forever.
        let wanted = units(bytes).min(self.units);
        Lease(self.free.clone().acquire_many_owned(wanted).await.ok())
    }

    #[cfg(test)]
    pub(crate) fn is_free(&self) -> bool {
        self.free.available_permits() == self.units as usize
    }
}

impl Lease {
    /// Both together.
    pub(crate) fn add(&mut self, mut other: Self) {
        match (&mut self.0, other.0.take()) {
            (Some(mine), Some(other)) => mine.merge(other),
            (mine @ None, other) => *mine = other,
            (Some(_), None) => {}
        }
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_held_cannot_be_had_until_it_is_given_back() {
        let memory = Memory::new(10 * UNIT);
        let mut held = memory.try_take(4 * UNIT).expect("it is free");
        held.add(memory.try_take(1).expect("a byte takes a unit"));
        assert!(memory.try_take(6 * UNIT).is_none());
        assert!(memory.can_hold(10 * UNIT) && !memory.can_hold(10 * UNIT + 1));
        let waiting = tokio::spawn({
            let memory = memory.clone();
            async move { drop(memory.take(100 * UNIT).await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(held);
        waiting.await.expect("more than there is gives all of it");
        assert!(memory.is_free());
    }
}
