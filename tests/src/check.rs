//! What must hold of answers, folders and logs.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use crate::raw::Response;

/// The answer is an ack with this status, and with this HRESULT and the context `0x5`, or with
/// neither.
#[track_caller]
pub fn assert_ack(response: &Response, status: u16, hresult: Option<u32>) {
    assert_invariants(response);
    assert_eq!(response.status, status, "status of {response:#?}");
    assert_eq!(response.hresult(), hresult, "HRESULT of {response:#?}");
}

/// The answer is an ack of success with this status.
#[track_caller]
pub fn assert_ok(response: &Response, status: u16) {
    assert_ack(response, status, None);
}

/// The answer is an error ack with this status and HRESULT.
#[track_caller]
pub fn assert_error(response: &Response, status: u16, hresult: u32) {
    assert_ack(response, status, Some(hresult));
}

/// The answer is an ack whose error is the server application's (section 2.2.1.2).
#[track_caller]
pub fn assert_application(response: &Response, status: u16, hresult: u32) {
    assert_eq!((response.status, response.hresult()), (status, Some(hresult)), "{response:?}");
    assert_eq!(response.header("BITS-Error-Context"), Some("0x7"));
    assert_eq!(response.header("BITS-Error"), response.header("BITS-Error-Code"));
    assert_eq!(response.header("BITS-Packet-Type"), Some("Ack"));
}

/// The answer is the ack of a Fragment that asks for the byte `next`.
#[track_caller]
pub fn assert_next(response: &Response, next: u64) {
    assert_ok(response, 200);
    assert_eq!(response.next_offset(), Some(next), "{response:#?}");
}

/// What every ack has: its type, no body, not to be cached, and an error code that stands twice
/// with its context or not at all (sections 2.2.3 and 2.2.1.2).
#[track_caller]
pub fn assert_invariants(response: &Response) {
    assert_eq!(response.header("BITS-Packet-Type"), Some("Ack"), "{response:#?}");
    assert_eq!(response.header("Content-Length"), Some("0"), "{response:#?}");
    assert_eq!(response.header("Transfer-Encoding"), None, "{response:#?}");
    assert_eq!(response.header("Pragma"), Some("no-cache"), "{response:#?}");
    assert_eq!(response.header("Cache-Control"), Some("no-store"), "{response:#?}");
    assert!(response.body.is_empty(), "{response:#?}");
    let code = response.header("BITS-Error-Code");
    assert_eq!(response.header("BITS-Error"), code, "{response:#?}");
    assert_eq!(response.header("BITS-Error-Context"), code.map(|_| "0x5"), "{response:#?}");
    if let Some(code) = code {
        let shown = format!("0x{:08X}", response.hresult().unwrap_or_default());
        assert_eq!(code, shown, "0x and eight uppercase digits: {response:#?}");
    }
    let later = matches!(response.status, 429 | 503);
    assert_eq!(response.header("Retry-After").is_some(), later, "{response:#?}");
}

/// Nothing is under way below `folder`: every `BITS-Sessions` in it is gone or empty.
#[track_caller]
pub fn assert_staging_empty(folder: &Path) {
    let left = staged(folder);
    assert!(left.is_empty(), "still staged: {left:#?}");
}

/// The files below `folder` in sorted order, as paths relative to it, those under way included.
pub fn list_files(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    walk(folder, &mut |path| {
        let relative = path.strip_prefix(folder).unwrap_or(path);
        files.push(relative.to_string_lossy().into_owned());
    });
    files.sort();
    files
}

/// The log is text, one line an event: no control character but the line feed, and none that
/// breaks or reorders a line, so that nothing that came over the wire forges one or colours one.
#[track_caller]
pub fn assert_clean_log(log: &[u8]) {
    let text = std::str::from_utf8(log).expect("the log is UTF-8");
    let dirty = text.lines().find(|line| line.chars().any(forges));
    assert_eq!(dirty, None, "a control character is in the log");
}

/// The server has given up all files but its own, unless the kernel is too old for that.
#[track_caller]
pub fn assert_confined(log: &str) {
    let confined = log.contains("confined to its paths; it can run no programs");
    assert!(confined || log.contains("not confined to its paths: the kernel has no Landlock"), "{log}");
}

/// Waits until `condition` holds, 20 s at most.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// `length` bytes, no two neighbouring blocks of them alike, the same for the same `seed`.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn forges(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

fn staged(folder: &Path) -> Vec<String> {
    list_files(folder).into_iter().filter(|path| path.split('/').any(|name| name == "BITS-Sessions")).collect()
}

fn walk(folder: &Path, visit: &mut impl FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&entry.path(), visit),
            _ => visit(&entry.path()),
        }
    }
}
