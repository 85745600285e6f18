//! The names of what is staged, and the texts that rows keep: ids of pieces, handles, intents.

use std::fmt;

use bits_core::{Piece, SessionId, StorageKey, Upload};
use uuid::Uuid;

/// The last segment of the object that holds a session's reply.
pub(crate) const REPLY: &str = "reply";
/// Ends the name of what tails were put together in, after the name of the last of them.
pub(crate) const WHOLE: &str = "-whole";
/// What an upload of no bytes is read from: named by no piece, it lasts through all epochs.
pub(crate) const EMPTY: &str = "18446744073709551615-empty";
/// Where a server application leaves one.
pub(crate) const RESPONSE: &str = "response";

/// Names the database of sessions that all of the prefix belongs to.
pub(crate) const OWNER: &str = "BITS-Sessions/database";

/// The folder of what is staged below `folder`, without a slash at its end.
pub(crate) fn staging_folder(folder: &StorageKey) -> String {
    let slash = if *folder == StorageKey::ROOT { "" } else { "/" };
    format!("{folder}{slash}{}", StorageKey::STAGING)
}

/// The folder of one session's staged objects, without a slash at its end.
pub(crate) fn session_folder(upload: &Upload) -> String {
    format!("{}/{}", staging_folder(&upload.folder), upload.session.uuid())
}

/// Names a new object that starts at `start`, which nobody else ever names.
pub(crate) fn fresh(epoch: u64, start: u64) -> String {
    format!("{epoch}-{start}-{}", Uuid::new_v4().simple())
}

/// Names the object that a multipart upload becomes.
pub(crate) fn fresh_whole(epoch: u64) -> String {
    format!("{epoch}-parts-{}", Uuid::new_v4().simple())
}

/// The session, the epoch and the id of a piece that a staged object's name tells:
/// `<uuid>/<epoch>-...`. Replies last through all epochs.
pub(crate) fn parse(below_staging: &str) -> Option<(SessionId, u64, &str)> {
    let (uuid, name) = below_staging.split_once('/')?;
    let session = SessionId::new(Uuid::try_parse(uuid).ok()?);
    if matches!(name, REPLY | RESPONSE) {
        return Some((session, u64::MAX, name));
    }
    let (epoch, rest) = name.split_once('-')?;
    let is_ours = !rest.is_empty() && !name.contains('/');
    let id = name.strip_suffix(WHOLE).unwrap_or(name);
    is_ours.then_some((session, epoch.parse().ok()?, id))
}

/// What [`Piece::id`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// A small object by its last segment.
    Tail(String),
    /// A part with what the store called its content.
    Part(String),
}

impl Home {
    pub(crate) fn of(piece: &Piece) -> Self {
        match piece.id.strip_prefix("part ") {
            Some(content) => Self::Part(content.to_owned()),
            None => Self::Tail(piece.id.clone()),
        }
    }
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tail(name) => f.write_str(name),
            Self::Part(content) => write!(f, "part {content}"),
        }
    }
}

/// What [`Upload::handle`] says: the multipart upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Handle {
    pub(crate) epoch: u64,
    pub(crate) part_size: u64,
    pub(crate) place: Place,
    /// The store's name for it, which may be empty.
    pub(crate) id: String,
}

/// Where a multipart upload is completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At the upload's destination.
    Destination,
    /// At a staged object with this last segment.
    Staged(String),
}

impl Handle {
    pub(crate) fn of(upload: &Upload) -> Option<Self> {
        Self::parse(upload.handle.as_deref()?)
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.splitn(4, ' ');
        let (epoch, part_size) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let place = match words.next()? {
            "destination" => Place::Destination,
            name => Place::Staged(name.to_owned()),
        };
        Some(Self { epoch, part_size, place, id: words.next()?.to_owned() })
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match &self.place {
            Place::Destination => "destination",
            Place::Staged(name) => name,
        };
        write!(f, "{} {} {place} {}", self.epoch, self.part_size, self.id)
    }
}

/// What [`bits_core::PublishIntent`] says: what stood at the destination when it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// Nobody looked.
    Unknown,
    /// Nothing.
    Absent,
    /// An object with this tag and, where that is to be replaced by one request, this version.
    Tag(String, Option<String>),
}

impl Before {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.split_once(' ') {
            None if text == "unknown" => Some(Self::Unknown),
            None if text == "absent" => Some(Self::Absent),
            Some(("tag", text)) => Some(match text.rsplit_once(" version ") {
                Some((tag, version)) => Self::Tag(tag.to_owned(), Some(version.to_owned())),
                None => Self::Tag(text.to_owned(), None),
            }),
            _ => None,
        }
    }
}

impl fmt::Display for Before {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("unknown"),
            Self::Absent => f.write_str("absent"),
            Self::Tag(tag, None) => write!(f, "tag {tag}"),
            Self::Tag(tag, Some(version)) => write!(f, "tag {tag} version {version}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_rows_are_read_back() {
        for place in [Place::Destination, Place::Staged(fresh_whole(7))] {
            for id in ["", "plain", "with spaces and / ~ 2"] {
                let handle = Handle { epoch: 7, part_size: 8 << 20, place: place.clone(), id: id.to_owned() };
                assert_eq!(Handle::parse(&handle.to_string()), Some(handle));
            }
        }
        for text in ["", "7", "x 1 destination id", "7 1 destination"] {
            assert_eq!(Handle::parse(text), None, "{text}");
        }
        let tag = "\"a b\"".to_owned();
        let tags = [Before::Tag(tag.clone(), None), Before::Tag(tag, Some("7".to_owned()))];
        for before in [Before::Unknown, Before::Absent].into_iter().chain(tags) {
            assert_eq!(Before::parse(&before.to_string()), Some(before));
        }
        assert_eq!(Before::parse("something else"), None);
        for home in [Home::Tail(fresh(1, 2)), Home::Part("<xml> \"a\"".to_owned()), Home::Part(String::new())] {
            assert_eq!(Home::of(&Piece { start: 0, len: 1, id: home.to_string() }), home);
        }
    }

    #[test]
    fn names_tell_session_and_epoch() {
        let id = Uuid::new_v4();
        let name = fresh(12, 5);
        let expected = Some((SessionId::new(id), 12, name.as_str()));
        assert_eq!(parse(&format!("{id}/{name}")), expected);
        for name in ["replies", "12", "12-", "x-1-2", "12-1/2"] {
            assert_eq!(parse(&format!("{id}/{name}")), None, "{name}");
        }
        assert_eq!(parse(&format!("{id}/{name}{WHOLE}")), expected);
        for name in [EMPTY, REPLY, RESPONSE] {
            assert_eq!(parse(&format!("{id}/{name}")), Some((SessionId::new(id), u64::MAX, name)));
        }
        assert_eq!(parse("no-uuid/1-2-3"), None);
    }
}
