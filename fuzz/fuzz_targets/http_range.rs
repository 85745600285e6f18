//! `Range` of downloads: what is sent lies within the file and is never much more than it.
#![no_main]

#[path = "../../bits-server/src/download/range.rs"]
mod range;

use libfuzzer_sys::fuzz_target;
use range::Selection;

fuzz_target!(|input: (u64, &str)| {
    // No file is larger.
    let (size, header) = (input.0 >> 1, input.1);
    if let Selection::Ranges(ranges) = Selection::parse(header, size) {
        assert!(!ranges.is_empty());
        assert!(ranges.iter().all(|range| range.start < range.end && range.end <= size), "{ranges:?}");
        let sent: u128 = ranges.iter().map(|range| u128::from(range.end - range.start)).sum();
        assert!(sent <= 2 * u128::from(size), "{ranges:?}");
    }
});
