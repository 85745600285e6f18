//! Reading back: one request for each range, of one content.

use std::ops::Range;

use bits_core::{ByteStream, ObjectInfo, Opened, Source, StoreError, StoreErrorKind, Timestamp, Upload};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::{GetOptions, PutMode, PutPayload};

use crate::{
    names::{self, Home},
    publish,
    requests::{Found, Requests},
    store::{Shared, memory_for},
};

/// No item of a stream is larger.
const ITEM: usize = 1 << 20;

pub(crate) async fn open(shared: &Shared, source: Source<'_>) -> Result<Option<Box<dyn Opened>>, StoreError> {
    let name = match source {
        Source::Published(key) if key.as_str().is_empty() => return Ok(None),
        Source::Published(key) => key.to_string(),
        Source::Staged(upload) => whole(shared, upload).await?,
        Source::Reply(upload) => format!("{}/{}", names::session_folder(upload), names::REPLY),
    };
    let found = if shared.requests.takes_name(&name) { shared.requests.head(&name).await? } else { None };
    match (found, source) {
        (Some(found), _) => Ok(Some(Box::new(Object::new(shared.requests.clone(), name, &found)))),
        (None, Source::Staged(_)) => Err(crate::error::doubtful(0, format!("{name} is gone"))),
        (None, _) => Ok(None),
    }
}

/// The name of an object that holds the whole upload, which is made if there is none.
pub(crate) async fn whole(shared: &Shared, upload: &Upload) -> Result<String, StoreError> {
    if shared.layout(upload).has_parts() {
        return publish::complete_staged(shared, upload).await;
    }
    publish::put_pending(shared, upload).await?;
    if let [only] = &upload.pieces[..]
        && let Home::Tail(name) = Home::of(only)
    {
        return Ok(format!("{}/{name}", names::session_folder(upload)));
    }
    let name = whole_of_tails(upload).unwrap_or_else(|| format!("{}/{}", names::session_folder(upload), names::EMPTY));
    if shared.requests.head(&name).await?.is_none() {
        let _lease = memory_for(shared, upload).await?;
        let payload: PutPayload = publish::assemble(shared, upload).await?;
        shared.requests.put(&name, payload, PutMode::Overwrite, Some(upload.session)).await?;
    }
    Ok(name)
}

/// The name of the object that several tails become where they are read as one. The last tail is
/// never the same for other bytes.
pub(crate) fn whole_of_tails(upload: &Upload) -> Option<String> {
    let name = match (upload.pieces.len(), upload.pieces.last().map(Home::of)) {
        (0, _) if !upload.direct && upload.total == 0 => names::EMPTY.to_owned(),
        (2.., Some(Home::Tail(last))) if !upload.direct => format!("{last}{}", names::WHOLE),
        _ => return None,
    };
    Some(format!("{}/{name}", names::session_folder(upload)))
}

/// Whether two objects of one size hold the same bytes.
pub(crate) async fn are_equal(requests: &Requests, one: &str, other: &str) -> Result<bool, StoreError> {
    let (mut one, mut other) = (Compared::open(requests, one).await?, Compared::open(requests, other).await?);
    loop {
        let length = one.fill().await?.min(other.fill().await?);
        if length == 0 {
            return Ok(one.buffer.is_empty() && other.buffer.is_empty());
        }
        if one.buffer.split_to(length) != other.buffer.split_to(length) {
            return Ok(false);
        }
    }
}

struct Compared {
    stream: ByteStream,
    buffer: Bytes,
}

impl Compared {
    async fn open(requests: &Requests, name: &str) -> Result<Self, StoreError> {
        let missing = || StoreError::new(StoreErrorKind::Unavailable, format!("{name} went away while it was read"));
        let found = requests.head(name).await?.ok_or_else(missing)?;
        let object = Object::new(requests.clone(), name.to_owned(), &found);
        Ok(Self { stream: object.read(0..u64::MAX), buffer: Bytes::new() })
    }

    /// How many bytes can be compared; none at the end.
    async fn fill(&mut self) -> Result<usize, StoreError> {
        while self.buffer.is_empty() {
            match self.stream.next().await {
                Some(bytes) => self.buffer = bytes?,
                None => break,
            }
        }
        Ok(self.buffer.len())
    }
}

struct Object {
    requests: Requests,
    name: String,
    /// For the condition of each read, where the store gives tags.
    tag: Option<String>,
    info: ObjectInfo,
}

impl Object {
    fn new(requests: Requests, name: String, found: &Found) -> Self {
        let plain = |tag: &str| tag.chars().filter(|it| it.is_ascii_graphic() && *it != '"').collect::<String>();
        let info = ObjectInfo {
            size: found.meta.size,
            modified: Timestamp::from_millis(found.meta.last_modified.timestamp_millis()),
            // Two uploads may be published within one second.
            strong_date: false,
            tag: plain(found.tag().trim_start_matches("W/")),
        };
        Self { requests, name, tag: found.meta.e_tag.clone(), info }
    }
}

impl Opened for Object {
    fn info(&self) -> &ObjectInfo {
        &self.info
    }

    fn read(&self, range: Range<u64>) -> ByteStream {
        let range = range.start..range.end.min(self.info.size);
        if range.is_empty() {
            return Box::pin(stream::empty());
        }
        let (requests, name, tag) = (self.requests.clone(), self.name.clone(), self.tag.clone());
        let wanted = range.end - range.start;
        let opening = async move {
            let options = GetOptions { range: Some(range.into()), if_match: tag, ..GetOptions::default() };
            let shown = name.clone();
            let result = requests.get_opts(&name, options).await.map_err(|failed| {
                if failed.is_missing() || failed.is_conflict() {
                    failed.meaning(StoreErrorKind::Missing)
                } else {
                    failed.into()
                }
            })?;
            let broken =
                move |error| StoreError::with_source(StoreErrorKind::Unavailable, format!("{shown} broke off"), error);
            Ok::<_, StoreError>(whole_length(result.into_stream().map_err(broken), wanted))
        };
        Box::pin(stream::once(opening).try_flatten())
    }
}

/// The stream in items of a bounded size; an error unless it has exactly `wanted` bytes.
fn whole_length(
    source: impl futures_core::Stream<Item = Result<Bytes, StoreError>> + Send + 'static,
    wanted: u64,
) -> impl futures_core::Stream<Item = Result<Bytes, StoreError>> + Send {
    let cut = |bytes: Bytes| {
        let items: Vec<_> = (0..bytes.len().div_ceil(ITEM))
            .map(|at| Ok::<_, StoreError>(bytes.slice(at * ITEM..bytes.len().min((at + 1) * ITEM))))
            .collect();
        stream::iter(items)
    };
    let items = source.map_ok(cut).try_flatten().boxed();
    stream::try_unfold((items, wanted), |(mut items, left)| async move {
        let wrong = || StoreError::new(StoreErrorKind::Other, "the store sent more or less than was asked for");
        match items.next().await {
            None if left == 0 => Ok(None),
            None => Err(wrong()),
            Some(item) => {
                let bytes = item?;
                let left = left.checked_sub(bytes.len() as u64).ok_or_else(wrong)?;
                Ok(Some((bytes, (items, left))))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn streams_are_cut_and_measured() {
        let data = Bytes::from(vec![7; 2 * ITEM + 5]);
        for (wanted, items, is_whole) in [(data.len(), 3, true), (data.len() + 1, 3, false), (data.len() - 1, 2, false)]
        {
            let source = stream::iter([Ok(data.clone())]);
            let got: Vec<_> = whole_length(source, wanted as u64).collect().await;
            let good = got.iter().take_while(|item| item.is_ok()).count();
            assert_eq!((good, got.len() == good), (items, is_whole), "{wanted}");
        }
    }
}
