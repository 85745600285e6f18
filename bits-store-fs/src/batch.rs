//! Frames of a body, gathered for one write.

use std::io::IoSlice;

use bytes::{Bytes, BytesMut};
use rustix::{
    fd::AsFd,
    io::{Errno, Result, pwritev, retry_on_intr},
};

/// Bytes that are gathered before they are written.
pub(crate) const LIMIT: usize = 256 * 1024;
/// Shorter frames are copied together, so that a trickle of them neither pins a buffer each nor
/// makes a long list.
const SMALL: usize = 16 * 1024;

/// Frames in order: long ones as they came, runs of short ones copied together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    parts: Vec<Bytes>,
    tail: BytesMut,
    held: usize,
}

impl Batch {
    /// Takes the next frame.
    pub(crate) fn push(&mut self, frame: Bytes) {
        self.held += frame.len();
        if frame.len() < SMALL && self.tail.len() + frame.len() <= LIMIT {
            self.tail.extend_from_slice(&frame);
        } else {
            self.seal();
            self.parts.push(frame);
        }
    }

    /// Whether it is time to write: at once after a long frame, so that whoever read it can use
    /// its buffer again.
    pub(crate) fn is_full(&self) -> bool {
        !self.parts.is_empty() || self.held >= LIMIT
    }

    /// Bytes that wait to be written.
    pub(crate) fn held(&self) -> u64 {
        self.held as u64
    }

    /// Writes everything at `offset`, and is empty then. Says how many bytes were written, also
    /// when not all were.
    pub(crate) fn write_to(&mut self, file: impl AsFd, offset: u64) -> (u64, Result<()>) {
        self.seal();
        let mut slices: Vec<IoSlice<'_>> = self.parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut written = 0;
        let outcome = write_all(file, &mut slices, offset, &mut written);
        self.parts.clear();
        self.held = 0;
        (written, outcome)
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.parts.push(self.tail.split().freeze());
        }
    }
}

fn write_all(file: impl AsFd, mut slices: &mut [IoSlice<'_>], offset: u64, written: &mut u64) -> Result<()> {
    while !slices.is_empty() {
        let at = offset.checked_add(*written).ok_or(Errno::FBIG)?;
        // Short frames are merged, so a batch never has as many parts as one call may take.
        match retry_on_intr(|| pwritev(&file, slices, at))? {
            0 => return Err(Errno::IO),
            count => {
                *written += count as u64;
                IoSlice::advance_slices(&mut slices, count);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::unix::fs::FileExt};

    use super::*;

    #[test]
    fn frames_of_any_size_arrive_in_order() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all_at(b"before", 0).unwrap();
        let mut batch = Batch::default();
        let mut expected = b"before".to_vec();
        for (fill, size) in [(1, 10), (2, SMALL), (3, 1), (4, SMALL - 1), (5, 100_000), (6, 7)] {
            batch.push(Bytes::from(vec![fill; size]));
            expected.extend(vec![fill; size]);
        }
        let (written, outcome) = batch.write_to(&file, 6);
        outcome.unwrap();
        let mut held = Vec::new();
        file.read_to_end(&mut held).unwrap();
        assert_eq!(written as usize, expected.len() - 6);
        assert!(held == expected);
        assert_eq!(batch.held(), 0);
    }

    #[test]
    fn a_trickle_is_copied_together_and_bounded() {
        let mut batch = Batch::default();
        let mut frames = 0;
        while !batch.is_full() {
            batch.push(Bytes::from_static(b"0123456"));
            frames += 1;
        }
        assert_eq!(frames, LIMIT.div_ceil(7));
        assert!(batch.parts.len() + 1 < 4, "{} parts", batch.parts.len());
        assert!(batch.tail.capacity() <= LIMIT, "{}", batch.tail.capacity());
    }

    #[test]
    fn an_offset_past_the_end_of_numbers_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        let mut batch = Batch::default();
        batch.push(Bytes::from_static(b"x"));
        let (written, outcome) = batch.write_to(&file, u64::MAX);
        assert_eq!(written, 0);
        outcome.unwrap_err();
    }
}
