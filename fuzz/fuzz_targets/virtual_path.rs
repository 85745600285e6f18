//! Paths of destinations: none that is taken leads out of its folder or reads as another.
#![no_main]

use std::path::{Component, Path};

use bits_core::{Directory, StorageKey, VirtualPath};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(path) = VirtualPath::decode(text) else { return };
    assert!(path.as_str().starts_with('/'));
    assert_eq!(VirtualPath::from_decoded(path.as_str()).as_ref(), Ok(&path));
    let directory = Directory::new("/upload", "files", StorageKey::ROOT);
    let Some(key) = directory.below(&path) else { return };
    let names = Path::new(key.as_str()).components();
    assert!(names.clone().all(|name| matches!(name, Component::Normal(_))), "{key:?}");
    assert_eq!(names.count(), key.segments().count());
    assert!(!key.segments().any(|name| name.eq_ignore_ascii_case("BITS-Sessions")));
    assert!(!key.as_str().contains(['\\', ':', '\0']));
});
