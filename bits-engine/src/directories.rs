//! Which virtual directory answers for a path: the longest `url_path` wins.

use std::sync::Arc;

use bits_core::{Directory, Refusal, StorageKey, VirtualPath};
use percent_encoding::percent_decode_str;

/// The virtual directories of a server.
#[derive(Clone, Debug, Default)]
pub struct Directories {
    /// The most segments first.
    by_depth: Vec<Arc<Directory>>,
}

/// Two directories answer for one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuplicateUrlPath(pub String);

impl std::fmt::Display for DuplicateUrlPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "two directories have the url_path {:?}", self.0)
    }
}

impl std::error::Error for DuplicateUrlPath {}

/// A path that a directory answers for.
#[derive(Clone, Debug)]
pub(crate) struct Route<'a> {
    pub(crate) directory: &'a Arc<Directory>,
    /// The path below the directory; the root when the path names the directory itself.
    pub(crate) below: StorageKey,
    /// The path as sessions keep it.
    pub(crate) destination: VirtualPath,
}

impl Directories {
    /// These directories; no two may have the same `url_path`, whatever its case.
    pub fn new(mut directories: Vec<Directory>) -> Result<Self, DuplicateUrlPath> {
        for (at, one) in directories.iter().enumerate() {
            if directories[..at].iter().any(|other| same_path(&one.url_path, &other.url_path)) {
                return Err(DuplicateUrlPath(one.url_path.clone()));
            }
        }
        directories.sort_by_key(|directory| std::cmp::Reverse(segments(&directory.url_path).count()));
        Ok(Self { by_depth: directories.into_iter().map(Arc::new).collect() })
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Directory> {
        self.by_depth.iter().map(Arc::as_ref)
    }

    /// The directory with this `url_path`, as sessions keep it.
    pub(crate) fn named(&self, url_path: &str) -> Option<&Directory> {
        self.iter().find(|directory| same_path(&directory.url_path, url_path))
    }

    /// The directory whose `url_path` the path of a request starts with, as it stood on the wire;
    /// also where the rest of the path names nothing that could be uploaded.
    pub(crate) fn find(&self, raw_path: &str) -> Option<&Arc<Directory>> {
        let names: Vec<_> =
            raw_path.strip_prefix('/')?.split('/').map(|name| percent_decode_str(name).decode_utf8_lossy()).collect();
        self.by_depth.iter().find(|directory| {
            let mut rest = names.iter();
            segments(&directory.url_path).all(|own| rest.next().is_some_and(|name| name.eq_ignore_ascii_case(own)))
        })
    }

    /// The directory that answers for the path of a request, as it stood on the wire.
    pub(crate) fn route(&self, raw_path: &str) -> Result<Route<'_>, Refusal> {
        let path = match VirtualPath::decode(raw_path) {
            Ok(path) => path,
            Err(_) if self.is_directory(raw_path) => return Err(Refusal::DestinationIsFolder),
            Err(invalid) => return Err(invalid.into()),
        };
        let found = self.by_depth.iter().find_map(|directory| Some((directory, directory.below(&path)?)));
        let (directory, below) = found.ok_or(Refusal::PathNotFound)?;
        if below == StorageKey::ROOT {
            return Err(Refusal::DestinationIsFolder);
        }
        let destination = directory.destination(&below)?;
        Ok(Route { directory, below, destination })
    }

    /// Whether the path is that of a directory with a slash at its end, or just the slash.
    fn is_directory(&self, raw_path: &str) -> bool {
        raw_path.ends_with('/') && self.by_depth.iter().any(|directory| same_path(&directory.url_path, raw_path))
    }
}

fn same_path(one: &str, other: &str) -> bool {
    segments(one).map(str::to_ascii_lowercase).eq(segments(other).map(str::to_ascii_lowercase))
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directories(paths: &[&str]) -> Directories {
        Directories::new(paths.iter().map(|path| Directory::new(path, "s", StorageKey::ROOT)).collect()).unwrap()
    }

    /// Whoever is asked to log in for a directory is asked for the one that answers.
    #[test]
    fn the_directory_that_is_found_is_the_one_that_answers() {
        let all = directories(&["/", "/up", "/up/jo", "/größe"]);
        for (path, expected) in [
            ("/a", "/"),
            ("/up", "/up"),
            ("/up/", "/up"),
            ("/UP/a", "/up"),
            ("/%75%70/a", "/up"),
            ("/up/jo/a", "/up/jo"),
            ("/up/j%6F/a", "/up/jo"),
            ("/up/joe/a", "/up"),
            ("/up//jo/a", "/up"),
            ("/up%2Fjo/a", "/"),
            ("/up/../jo", "/up"),
            ("/up/BITS-Sessions/Replies/x", "/up"),
            ("/up/%zz", "/up"),
            ("/up/%ff", "/up"),
            ("/upper/a", "/"),
            ("/gr%C3%B6%C3%9Fe/a", "/größe"),
        ] {
            let found = all.find(path).map(|directory| directory.url_path.as_str());
            assert_eq!(found, Some(expected), "{path}");
            if let Ok(route) = all.route(path) {
                assert_eq!(route.directory.url_path, expected, "{path}");
            }
        }
        assert!(all.find("*").is_none() && all.find("").is_none());
        assert!(directories(&["/up"]).find("/other/a").is_none());
    }
}
