//! What a traced server had on stable storage whenever it sent an answer.
//!
//! The trace is strace's, with the paths of descriptors. Folder by folder and file by file it is
//! kept what was written or named since the last sync, without believing that a file system does
//! more than it must: a sync of a file does not keep its name, and a sync of a folder keeps the
//! names in it and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};

/// What strace must be told besides where to write to and what to run.
pub const STRACE: [&str; 6] = ["-f", "-y", "-s", "1024", "-e", CALLS];

const CALLS: &str = "trace=?open,?creat,openat,?openat2,?mkdir,mkdirat,?rename,?renameat,renameat2,?link,linkat,\
    write,writev,pwrite64,pwritev,?pwritev2,ftruncate,sendto,sendmsg,fsync,fdatasync";

/// An answer that the server sent.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its head as strace shows it, in lower case.
    pub head: String,
    /// What was not on stable storage when the server began to send it: files with unsynced
    /// bytes, folders with unsynced names.
    pub unsynced: BTreeSet<PathBuf>,
}

impl Answer {
    /// Whether it is an acknowledgement of `offset` bytes.
    pub fn acknowledges(&self, offset: u64) -> bool {
        self.head.contains(&format!("bits-received-content-range: {offset}\\r\\n"))
    }
}

/// The answers in `trace`, with what was unsynced below `root` at each.
pub fn answers(trace: &str, root: &Path) -> Vec<Answer> {
    let mut calls = parse(trace);
    calls.sort_by_key(Call::takes_effect);
    let mut disk = Disk { root, known: BTreeSet::new(), unsynced: BTreeMap::new() };
    calls.iter().filter_map(|call| disk.apply(call)).collect()
}

/// A finished system call.
#[derive(Debug)]
struct Call {
    name: String,
    arguments: String,
    result: String,
    /// Lines at which it began and ended.
    began: usize,
    ended: usize,
}

impl Call {
    fn succeeded(&self) -> bool {
        self.result.starts_with(|first: char| first.is_ascii_digit())
    }

    fn is_answer(&self) -> bool {
        matches!(self.name.as_str(), "sendto" | "sendmsg" | "write" | "writev")
            && self.arguments.contains("\"HTTP/1.1 ")
    }

    /// Nothing sent can be taken back; nothing else is done before it has ended.
    fn takes_effect(&self) -> usize {
        if self.is_answer() { self.began } else { self.ended }
    }

    /// The path of the descriptor that is the first argument.
    fn descriptor(&self) -> Option<PathBuf> {
        path_of_descriptor(&self.arguments)
    }

    /// The path of the descriptor that it returned.
    fn opened(&self) -> Option<PathBuf> {
        path_of_descriptor(&self.result)
    }

    /// The paths that it names, each below the descriptor before it.
    fn named(&self) -> Vec<PathBuf> {
        let mut below = PathBuf::new();
        let mut paths = Vec::new();
        for argument in self.arguments.split(", ") {
            if let Some(name) = argument.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
                paths.push(below.join(name));
            } else if let Some(folder) = path_of_descriptor(argument) {
                below = folder;
            }
        }
        paths
    }
}

fn path_of_descriptor(text: &str) -> Option<PathBuf> {
    let path = text.split_once("</")?.1.split_once('>')?.0;
    Some(Path::new("/").join(path))
}

fn parse(trace: &str) -> Vec<Call> {
    let mut begun: HashMap<&str, (usize, String)> = HashMap::new();
    let mut calls = Vec::new();
    for (number, line) in trace.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(start) = rest.strip_suffix("<unfinished ...>") {
            begun.insert(thread, (number, start.trim_end().to_owned()));
            continue;
        }
        let (began, text) = match rest.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>")) {
            Some((_, end)) => match begun.remove(thread) {
                Some((began, start)) => (began, start + end),
                None => continue,
            },
            None => (number, rest.to_owned()),
        };
        let Some((name, rest)) = text.split_once('(') else { continue };
        let Some((arguments, result)) = rest.rsplit_once(" = ") else { continue };
        let arguments = arguments.trim_end().trim_end_matches(')');
        let (name, arguments, result) = (name.to_owned(), arguments.to_owned(), result.to_owned());
        calls.push(Call { name, arguments, result, began, ended: number });
    }
    calls
}

struct Disk<'a> {
    root: &'a Path,
    /// Files that were seen before.
    known: BTreeSet<PathBuf>,
    /// With the line of the last change.
    unsynced: BTreeMap<PathBuf, usize>,
}

impl Disk<'_> {
    fn apply(&mut self, call: &Call) -> Option<Answer> {
        if call.is_answer() {
            let unsynced = self.unsynced.keys().cloned().collect();
            return Some(Answer { head: call.arguments.to_ascii_lowercase(), unsynced });
        }
        if !call.succeeded() {
            return None;
        }
        match call.name.as_str() {
            "fsync" | "fdatasync" => self.sync(call),
            "write" | "writev" | "pwrite64" | "pwritev" | "pwritev2" | "ftruncate" => {
                if let Some(file) = call.descriptor() {
                    self.change(file, call.ended);
                }
            }
            "open" | "creat" | "openat" | "openat2" => self.open(call),
            "mkdir" | "mkdirat" => call.named().first().into_iter().for_each(|path| self.name(path, call.ended)),
            "link" | "linkat" => call.named().get(1).into_iter().for_each(|path| self.name(path, call.ended)),
            "rename" | "renameat" | "renameat2" => {
                if let [from, to] = &call.named()[..] {
                    self.rename(from, to, call.ended);
                }
            }
            _ => {}
        }
        None
    }

    /// Only what was changed before a sync began is certain when it has ended.
    fn sync(&mut self, call: &Call) {
        let Some(path) = call.descriptor() else { return };
        if self.unsynced.get(&path).is_some_and(|changed| *changed < call.began) {
            self.unsynced.remove(&path);
        }
    }

    fn open(&mut self, call: &Call) {
        let Some(path) = call.opened() else { return };
        let new = self.known.insert(path.clone());
        if new && (call.arguments.contains("O_CREAT") || call.name == "creat") {
            self.name(&path, call.ended);
        }
    }

    fn rename(&mut self, from: &Path, to: &Path, at: usize) {
        self.unsynced.remove(to);
        if let Some(changed) = self.unsynced.remove(from) {
            self.unsynced.insert(to.to_owned(), changed);
        }
        self.name(from, at);
        self.name(to, at);
    }

    /// The entry of `path` in its folder changed.
    fn name(&mut self, path: &Path, at: usize) {
        if let Some(folder) = path.parent().filter(|_| !is_passing(path)) {
            self.change(folder.to_owned(), at);
        }
    }

    fn change(&mut self, path: PathBuf, at: usize) {
        if path.starts_with(self.root) && !is_rebuilt(&path) {
            self.unsynced.insert(path, at);
        }
    }
}

/// Whether losing what the file holds loses nothing. What a checkpoint writes to the database
/// stays in the log until the database is synced.
fn is_rebuilt(path: &Path) -> bool {
    is_passing(path) || path.file_name().is_some_and(|name| name == "state.db")
}

/// Whether losing the file itself loses nothing: SQLite rebuilds its shared memory, and a lock
/// ends with its process.
fn is_passing(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "state.db-shm" || name == "lock" || name == "state.db.lock")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACK: &str =
        r#"9 sendto(5<socket:[1]>, "HTTP/1.1 200 OK\r\nBITS-Received-Content-Range: 10\r\n\r\n", 40, 0, NULL, 0) = 40"#;

    fn unsynced(lines: &[&str]) -> Vec<String> {
        let trace = lines.join("\n") + "\n" + ACK + "\n";
        let answers = answers(&trace, Path::new("/d"));
        let last = answers.last().unwrap();
        assert!(last.acknowledges(10) && !last.acknowledges(1));
        last.unsynced.iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn bytes_are_safe_after_a_sync_that_began_after_they_were_written() {
        let write = "1 pwrite64(7</d/a>, \"x\", 1, 0) = 1";
        let begin = "2 fdatasync(7</d/a> <unfinished ...>";
        let end = "2 <... fdatasync resumed>) = 0";
        assert_eq!(unsynced(&[write]), ["/d/a"]);
        assert_eq!(unsynced(&[write, begin]), ["/d/a"]);
        assert_eq!(unsynced(&[begin, write, end]), ["/d/a"]);
        assert_eq!(unsynced(&[write, begin, end]), [""; 0]);
        assert_eq!(unsynced(&[write, "2 fsync(7</d/a>) = -1 EIO (Input/output error)"]), ["/d/a"]);
        assert_eq!(unsynced(&["1 pwrite64(7</elsewhere>, \"x\", 1, 0) = 1"]), [""; 0]);
    }

    #[test]
    fn names_are_safe_after_a_sync_of_their_folder() {
        let make = "1 mkdirat(4</d>, \"a\", 0700) = 0";
        let create = "1 openat2(5</d/a>, \"f\", {flags=O_RDWR|O_CREAT, mode=0600}, 24) = 6</d/a/f>";
        let again = "1 openat(5</d/a>, \"f\", O_RDWR|O_CREAT, 0600) = 7</d/a/f>";
        let (sync_file, sync_a, sync_root) = ("1 fsync(6</d/a/f>) = 0", "1 fsync(5</d/a>) = 0", "1 fsync(4</d>) = 0");
        assert_eq!(unsynced(&[make, create, sync_file]), ["/d", "/d/a"]);
        assert_eq!(unsynced(&[make, create, sync_a]), ["/d"]);
        assert_eq!(unsynced(&[make, create, sync_a, sync_root, again]), [""; 0]);
    }

    #[test]
    fn a_rename_touches_both_folders_and_takes_unsynced_bytes_along() {
        let write = "1 pwritev(7</d/s/x>, [{iov_base=\"x\", iov_len=1}], 1, 0) = 1";
        let rename = "1 renameat2(4</d/s>, \"x\", 5</d/t>, \"y\", RENAME_NOREPLACE) = 0";
        assert_eq!(unsynced(&[write, rename]), ["/d/s", "/d/t", "/d/t/y"]);
        let all = ["1 fsync(7</d/t/y>) = 0", "1 fsync(4</d/s>) = 0", "1 fsync(4</d/t>) = 0"];
        assert_eq!(unsynced(&[&[write, rename][..], &all].concat()), [""; 0]);
    }
}
