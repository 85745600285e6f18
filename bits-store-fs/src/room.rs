//! Space for uploads under way: allocated where the file system can, else counted.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bits_core::{SessionId, StoreError, StoreErrorKind};
use rustix::{
    fd::AsFd,
    fs::{Stat, fstat, fstatvfs},
    io::Result,
};

use crate::{error::failed, sys::preallocate};

/// So many bytes are only counted: to allocate them takes as long as to write them, and the others wait.
const LITTLE: u64 = 64 << 10;

/// Hands out the free space, none of it twice.
#[derive(Debug)]
pub(crate) struct Room {
    /// Bytes that are never handed out.
    reserve_free: u64,
    promises: Mutex<Promises>,
    /// Held from looking at the free space until it is taken.
    taking: Mutex<()>,
}

#[derive(Debug, Default)]
struct Promises {
    of_sessions: HashMap<SessionId, Promise>,
    /// What all of them still need.
    sum: u128,
}

/// Space that an upload will need and that is not allocated.
#[derive(Clone, Copy, Debug)]
struct Promise {
    total: u64,
    written: u64,
}

impl Promise {
    fn rest(self) -> u128 {
        self.total.saturating_sub(self.written).into()
    }
}

impl Promises {
    /// What all but this one still need.
    fn of_others(&self, session: SessionId) -> u64 {
        let own = self.of_sessions.get(&session).map_or(0, |promise| promise.rest());
        u64::try_from(self.sum - own).unwrap_or(u64::MAX)
    }

    fn set(&mut self, session: SessionId, promise: Option<Promise>) {
        let old = match promise {
            Some(promise) => self.of_sessions.insert(session, promise),
            None => self.of_sessions.remove(&session),
        };
        let rest = |promise: Option<Promise>| promise.map_or(0, Promise::rest);
        self.sum = self.sum - rest(old) + rest(promise);
    }
}

impl Room {
    pub(crate) fn new(reserve_free: u64) -> Self {
        Self { reserve_free, promises: Mutex::default(), taking: Mutex::default() }
    }

    /// Makes room for a file of `total` bytes. [`StoreErrorKind::Full`] when it cannot fit.
    pub(crate) fn reserve(
        &self,
        session: SessionId,
        file: impl AsFd,
        total: u64,
        shown: &str,
    ) -> std::result::Result<(), StoreError> {
        let _taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let wrong = |errno| failed(format!("cannot make room for {total} bytes in {shown}"), errno);
        let missing = total.saturating_sub(allocated(&fstat(&file).map_err(wrong)?));
        let free = self.free(&file, session).map_err(wrong)?;
        if missing > free {
            let context = format!(
                "no room for {missing} more bytes in {shown}: {free} bytes are free beyond the {} kept in reserve and \
                 what other uploads were promised",
                self.reserve_free
            );
            return Err(StoreError::new(StoreErrorKind::Full, context));
        }
        if missing > 0 && (total <= LITTLE || !preallocate(&file, total).map_err(wrong)?) {
            self.promises().set(session, Some(Promise { total, written: 0 }));
        }
        Ok(())
    }

    /// Counts on the rest of an upload that a former process made room for.
    pub(crate) fn resume(&self, session: SessionId, stat: &Stat, total: u64, written: u64) {
        let mut promises = self.promises();
        if allocated(stat) < total && !promises.of_sessions.contains_key(&session) {
            promises.set(session, Some(Promise { total, written }));
        }
    }

    /// Notes that an upload is written up to `written`.
    pub(crate) fn wrote(&self, session: SessionId, written: u64) {
        let mut promises = self.promises();
        if let Some(promise) = promises.of_sessions.get(&session).copied() {
            promises.set(session, Some(Promise { written, ..promise }));
        }
    }

    /// The upload needs no more room.
    pub(crate) fn forget(&self, session: SessionId) {
        self.promises().set(session, None);
    }

    /// Whether anything is left to hand out where `file` lies.
    pub(crate) fn is_left(&self, file: impl AsFd) -> Result<bool> {
        let stat = fstatvfs(file)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize) > self.reserve_free)
    }

    /// Bytes that `session` may have where `file` lies.
    fn free(&self, file: impl AsFd, session: SessionId) -> Result<u64> {
        let stat = fstatvfs(file)?;
        let promised = self.promises().of_others(session);
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        Ok(free.saturating_sub(self.reserve_free).saturating_sub(promised))
    }

    fn promises(&self) -> MutexGuard<'_, Promises> {
        self.promises.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn allocated(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> SessionId {
        SessionId::new(uuid::Uuid::from_u64_pair(0, number))
    }

    #[test]
    fn allocated_bytes_count_once() {
        let file = tempfile::tempfile().unwrap();
        let room = Room::new(0);
        room.reserve(id(1), &file, 1 << 20, "a file").unwrap();
        let stat = fstat(&file).unwrap();
        assert!(allocated(&stat) >= 1 << 20);
        assert_eq!(stat.st_size, 0, "the length is untouched");
        assert!(room.promises().of_sessions.is_empty());
        let full = Room::new(u64::MAX);
        full.reserve(id(1), &file, 1 << 20, "a file").unwrap();
        let error = full.reserve(id(1), &file, 2 << 20, "a file").unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Full);
    }

    #[test]
    fn little_is_counted() {
        let (one, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let room = Room::new(0);
        room.reserve(id(1), &one, LITTLE, "a file").unwrap();
        assert_eq!(allocated(&fstat(&one).unwrap()), 0);
        let of_others = |session| room.promises().of_others(id(session));
        assert_eq!((of_others(2), of_others(1)), (LITTLE, 0));
        room.reserve(id(2), &other, 10, "a file").unwrap();
        assert_eq!((of_others(3), of_others(1)), (LITTLE + 10, 10));
        room.wrote(id(1), 1000);
        assert_eq!(of_others(2), LITTLE - 1000);
        room.wrote(id(1), LITTLE + 1);
        room.reserve(id(2), &other, 20, "a file").unwrap();
        assert_eq!((of_others(2), of_others(1)), (0, 20));
        room.forget(id(1));
        room.forget(id(2));
        assert_eq!((of_others(3), room.promises().sum), (0, 0));
        // Sizes that clients only claim.
        (1..4).for_each(|session| room.resume(id(session), &fstat(&one).unwrap(), u64::MAX, 0));
        assert_eq!(of_others(1), u64::MAX);
    }

    #[test]
    fn promised_bytes_are_not_promised_again() {
        let (one, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let room = Room::new(0);
        let free = room.free(&one, id(1)).unwrap();
        // As after a reservation on a file system that cannot allocate.
        room.resume(id(1), &fstat(&one).unwrap(), free, 0);
        let error = room.reserve(id(2), &other, 256 << 20, "a file").unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Full);
        assert!(room.free(&one, id(1)).unwrap() > 256 << 20, "its own promise does not count against it");
        room.wrote(id(1), free);
        room.reserve(id(2), &other, 1 << 20, "a file").unwrap();
        room.resume(id(3), &fstat(&one).unwrap(), free, 0);
        room.forget(id(3));
        room.reserve(id(2), &other, 2 << 20, "a file").unwrap();
    }
}
