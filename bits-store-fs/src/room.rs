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

/// Hands out the free space, none of it twice.
#[derive(Debug)]
pub(crate) struct Room {
    /// Bytes that are never handed out.
    reserve_free: u64,
    promises: Mutex<HashMap<SessionId, Promise>>,
    /// Held from looking at the free space until it is taken.
    taking: Mutex<()>,
}

/// Space that an upload will need and that is not allocated.
#[derive(Clone, Copy, Debug)]
struct Promise {
    total: u64,
    written: u64,
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
        if missing > 0 && !preallocate(&file, total).map_err(wrong)? {
            self.promises().insert(session, Promise { total, written: 0 });
        }
        Ok(())
    }

    /// Counts on the rest of an upload that a former process made room for.
    pub(crate) fn resume(&self, session: SessionId, stat: &Stat, total: u64, written: u64) {
        if allocated(stat) < total {
            self.promises().entry(session).or_insert(Promise { total, written });
        }
    }

    /// Notes that an upload is written up to `written`.
    pub(crate) fn wrote(&self, session: SessionId, written: u64) {
        if let Some(promise) = self.promises().get_mut(&session) {
            promise.written = written;
        }
    }

    /// The upload needs no more room.
    pub(crate) fn forget(&self, session: SessionId) {
        self.promises().remove(&session);
    }

    /// Whether anything is left to hand out where `file` lies.
    pub(crate) fn is_left(&self, file: impl AsFd) -> Result<bool> {
        let stat = fstatvfs(file)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize) > self.reserve_free)
    }

    /// Bytes that `session` may have where `file` lies.
    fn free(&self, file: impl AsFd, session: SessionId) -> Result<u64> {
        let stat = fstatvfs(file)?;
        let promises = self.promises();
        let others = promises.iter().filter(|(other, _)| **other != session);
        let promised = others.map(|(_, promise)| promise.total.saturating_sub(promise.written));
        let promised = promised.fold(0, u64::saturating_add);
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        Ok(free.saturating_sub(self.reserve_free).saturating_sub(promised))
    }

    fn promises(&self) -> MutexGuard<'_, HashMap<SessionId, Promise>> {
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
        assert!(room.promises().is_empty());
        let full = Room::new(u64::MAX);
        full.reserve(id(1), &file, 1 << 20, "a file").unwrap();
        let error = full.reserve(id(1), &file, 2 << 20, "a file").unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Full);
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
