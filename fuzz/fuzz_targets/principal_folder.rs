//! Folders of principals: one safe name each, and no two alike.
#![no_main]

use bits_core::{Principal, StorageKey};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|names: (&str, &str)| {
    let principals = [names.0, names.1].map(Principal::parse);
    let folders = principals.clone().map(|principal| principal.ok()?.folder_name());
    for folder in folders.iter().flatten() {
        assert!(!folder.is_empty() && folder.len() <= 255 && folder.is_ascii(), "{folder}");
        assert_eq!(folder.to_ascii_lowercase(), *folder);
        assert_eq!(StorageKey::parse(folder).map(|key| key.segments().count()), Ok(1), "{folder}");
    }
    if let ([Ok(one), Ok(other)], [Some(first), Some(second)]) = (principals, folders) {
        assert_eq!(one == other, first == second, "{one:?} and {other:?}");
    }
});
