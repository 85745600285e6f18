//! `Content-Range`: what is taken lies within its total, and reads the same when it is written.
#![no_main]

use bits_core::ContentRange;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(range) = text.parse::<ContentRange>() else { return };
    assert!(range.start() <= range.end() && range.end() <= range.total());
    assert!(range.total() <= ContentRange::MAXIMUM_TOTAL);
    assert_eq!(range.length(), range.end() - range.start());
    assert_eq!(range.to_string().parse(), Ok(range));
});
