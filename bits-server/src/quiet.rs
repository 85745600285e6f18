//! Log lines that an attacker can cause: one a second of each kind, with how many were left out.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

const APART: Duration = Duration::from_secs(1);

/// One kind of line.
#[derive(Debug)]
pub(crate) struct Quiet(Mutex<State>);

#[derive(Debug)]
struct State {
    last: Option<Instant>,
    left_out: u64,
}

impl Quiet {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(State { last: None, left_out: 0 }))
    }

    /// Whether the line may be written now; then with how many were not since the last one.
    pub(crate) fn pass(&self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    fn pass_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| now.saturating_duration_since(last) < APART) {
            state.left_out += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_line_a_second_with_its_count() {
        let quiet = Quiet::new();
        let start = Instant::now();
        assert_eq!(quiet.pass_at(start), Some(0));
        for _ in 0..1000 {
            assert_eq!(quiet.pass_at(start + APART / 2), None);
        }
        assert_eq!(quiet.pass_at(start + APART), Some(1000));
        assert_eq!(quiet.pass_at(start + APART * 3), Some(0));
    }
}
