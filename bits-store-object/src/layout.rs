//! Where the parts of an upload begin: arithmetic on its size alone.

const MIB: u64 = 1 << 20;

/// No part but the last is smaller: 8 MiB.
pub const SMALLEST_PART: u64 = 8 * MIB;
/// No part is larger unless it is asked for: 64 MiB.
pub const LARGEST_PART: u64 = 64 * MIB;
/// Stores take 10,000 parts.
const MOST_PARTS: u64 = 9_000;

/// The parts of one upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    total: u64,
    part_size: u64,
}

impl Layout {
    /// The parts of an upload of `total` bytes: as small as they may be, and at most 9,000.
    pub(crate) fn new(total: u64, smallest: u64) -> Self {
        let by_count = total.div_ceil(MOST_PARTS);
        let part_size = if by_count <= smallest { smallest } else { by_count.next_multiple_of(MIB) };
        Self { total, part_size }
    }

    /// The same with the part size that an upload was begun with.
    pub(crate) fn with_part_size(total: u64, part_size: u64) -> Self {
        Self { total, part_size: part_size.max(1) }
    }

    pub(crate) fn part_size(self) -> u64 {
        self.part_size
    }

    /// Whether the upload is put together from parts, rather than written in one go.
    pub(crate) fn has_parts(self) -> bool {
        self.total > self.part_size
    }

    /// The number of the part that holds `offset`, counted from zero.
    pub(crate) fn number(self, offset: u64) -> usize {
        usize::try_from(offset / self.part_size).unwrap_or(usize::MAX)
    }

    /// Where the part that holds `offset` begins.
    pub(crate) fn start(self, offset: u64) -> u64 {
        offset - offset % self.part_size
    }

    /// Where the part that holds `offset` ends.
    pub(crate) fn end(self, offset: u64) -> u64 {
        self.start(offset).saturating_add(self.part_size).min(self.total.max(offset))
    }

    /// From where on pieces must be told at `received`: all of them for publishing.
    pub(crate) fn told_from(self, received: u64) -> u64 {
        if received >= self.total { 0 } else { self.start(received) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;
    const TIB: u64 = 1 << 40;

    #[test]
    fn part_sizes_at_the_limits() {
        for (total, part_size, parts) in [
            (0, 8 * MIB, 0),
            (1, 8 * MIB, 1),
            (8 * MIB, 8 * MIB, 1),
            (8 * MIB + 1, 8 * MIB, 2),
            (9_000 * 8 * MIB, 8 * MIB, 9_000),
            (9_000 * 8 * MIB + 1, 9 * MIB, 8_001),
            (562 * GIB, 64 * MIB, 8_992),
            (9_000 * 64 * MIB, 64 * MIB, 9_000),
            (9_000 * 64 * MIB + 1, 65 * MIB, 8_862),
            (5 * TIB, 583 * MIB, 8_993),
        ] {
            let layout = Layout::new(total, SMALLEST_PART);
            assert_eq!((layout.part_size(), total.div_ceil(layout.part_size())), (part_size, parts), "{total}");
            assert_eq!(layout.has_parts(), parts > 1, "{total}");
        }
    }

    #[test]
    fn pieces_are_told_from_the_part_that_is_not_full() {
        let layout = Layout::with_part_size(40, 10);
        for (received, from) in [(0, 0), (9, 0), (10, 10), (39, 30), (40, 0)] {
            assert_eq!(layout.told_from(received), from, "{received}");
        }
    }

    proptest! {
        #[test]
        fn parts_follow_each_other_from_the_first_byte_to_the_last(total in 0..=5 * TIB, offset in 0..=5 * TIB) {
            let layout = Layout::new(total, SMALLEST_PART);
            prop_assert!(total.div_ceil(layout.part_size()) <= 9_000);
            prop_assert!(layout.part_size() >= SMALLEST_PART && layout.part_size() <= 600 * MIB);
            let offset = offset.min(total.saturating_sub(1));
            let (start, end) = (layout.start(offset), layout.end(offset));
            prop_assert!(start <= offset && (offset < end || total == 0) && end <= total.max(offset));
            prop_assert_eq!(layout.number(start), layout.number(offset));
            if end < total {
                prop_assert_eq!(end - start, layout.part_size());
                prop_assert_eq!(layout.number(end), layout.number(offset) + 1);
                prop_assert_eq!(layout.start(end), end);
            }
        }

        /// Fragments of 5 KiB and up fill the parts in order, and each byte lies in one.
        #[test]
        fn fragments_fill_parts(parts in 1..5_u64, rest in 0..SMALLEST_PART, fragment in 5_120..13_000_000_u64) {
            let total = parts * SMALLEST_PART + rest;
            let layout = Layout::new(total, SMALLEST_PART);
            let (mut at, mut number) = (0, 0);
            while at < total {
                let end = layout.end(at).min(at + fragment).min(total);
                prop_assert!(end > at);
                prop_assert_eq!(layout.number(at), layout.number(end - 1));
                prop_assert!(layout.number(at) - number <= 1);
                number = layout.number(at);
                at = end;
            }
        }
    }
}
