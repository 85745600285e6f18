//! From what is staged to the destination. An error of the store proves nothing: after each the
//! destination is looked at.

use bits_core::{Piece, Precondition, PublishIntent, StoreError, StoreErrorKind, Upload};
use bytes::Bytes;
use object_store::{CopyMode, PutMode, PutPayload, UpdateVersion};

use crate::{
    error::{Failed, doubtful},
    names::{self, Before, Handle, Home, Place},
    probe::Conditions,
    reading,
    requests::Found,
    staged,
    store::{Shared, memory_for},
    writer::read_pieces,
};

/// Makes everything up to `received` durable. A whole upload that is not published at once becomes
/// one object, which shows that the store has all of it.
pub(crate) async fn sync(shared: &Shared, upload: &Upload) -> Result<(), StoreError> {
    put_pending(shared, upload).await?;
    let is_whole = upload.total > 0 && upload.received == upload.total;
    if is_whole && shared.layout(upload).has_parts() && !is_at_destination(upload) {
        complete_staged(shared, upload).await?;
    }
    Ok(())
}

/// Writes to the store what waits in memory.
pub(crate) async fn put_pending(shared: &Shared, upload: &Upload) -> Result<(), StoreError> {
    for piece in &upload.pieces {
        let Home::Tail(name) = Home::of(piece) else { continue };
        let object = format!("{}/{name}", names::session_folder(upload));
        match shared.pending.get(&name) {
            Some(payload) => {
                shared.requests.put(&object, payload, PutMode::Overwrite, Some(upload.session)).await?;
                shared.pending.remove(&name);
            }
            // It waited in memory, and may have been put into the store since.
            None if piece.end() > upload.synced && !is_there(shared, &object, piece.len).await? => {
                return Err(doubtful(piece.start, format!("{object} was never stored")));
            }
            None => {}
        }
    }
    Ok(())
}

pub(crate) async fn prepare(
    shared: &Shared,
    upload: &Upload,
    precondition: Precondition,
) -> Result<PublishIntent, StoreError> {
    if !upload.direct {
        sync(shared, upload).await?;
    }
    let before = if decides_by_itself(shared, upload, precondition) {
        Before::Unknown
    } else {
        match shared.requests.head(upload.key.as_str()).await? {
            Some(found) if !precondition.overwrite && !found.is_of(upload.session) => return Err(exists(upload)),
            Some(found) if shared.layout(upload).has_parts() => Before::Tag(found.tag(), None),
            Some(found) => Before::Tag(found.tag(), found.version().version),
            None => Before::Absent,
        }
    };
    Ok(PublishIntent(before.to_string()))
}

/// Whether one request publishes, and needs no look at the destination before it.
fn decides_by_itself(shared: &Shared, upload: &Upload, precondition: Precondition) -> bool {
    let Conditions { put, replace, .. } = shared.conditions;
    !shared.layout(upload).has_parts() && if precondition.overwrite { !replace } else { put }
}

pub(crate) async fn publish(
    shared: &Shared,
    upload: &Upload,
    precondition: Precondition,
    intent: &PublishIntent,
) -> Result<(), StoreError> {
    let before = Before::parse(&intent.0).ok_or_else(|| {
        StoreError::new(StoreErrorKind::Other, format!("not an intent of this store: {:?}", intent.0))
    })?;
    let job = Job { shared, upload, overwrite: precondition.overwrite, before };
    let published = if !shared.layout(upload).has_parts() {
        job.put().await
    } else if is_at_destination(upload) {
        job.complete().await
    } else {
        job.copy().await
    };
    match published {
        Ok(()) => staged::clean_up(shared, upload).await,
        Err(error) if matches!(error.kind, StoreErrorKind::Doubtful { .. }) => return Err(error),
        Err(error) => {
            // The row has them as durable from now on.
            put_pending(shared, upload).await?;
            return Err(error);
        }
    }
    Ok(())
}

/// The whole upload as one staged object; its name.
pub(crate) async fn complete_staged(shared: &Shared, upload: &Upload) -> Result<String, StoreError> {
    let Some(handle) = Handle::of(upload).filter(|handle| handle.place != Place::Destination) else {
        return Err(doubtful(0, "the upload's parts belong to its destination, and it is not to be there yet"));
    };
    let name = shared.place(upload, &handle);
    if !is_there(shared, &name, upload.total).await? {
        let contents = contents(upload)?;
        if let Err(failed) = shared.requests.complete(&name, &handle.id, contents).await
            && !is_there(shared, &name, upload.total).await?
        {
            return Err(lost_or_failed(failed));
        }
    }
    Ok(name)
}

/// The bytes of an upload of at most one part.
pub(crate) async fn assemble(shared: &Shared, upload: &Upload) -> Result<PutPayload, StoreError> {
    check_pieces(upload)?;
    let bytes: Vec<Bytes> = read_pieces(shared, upload, &upload.pieces).await?;
    Ok(bytes.into_iter().collect())
}

/// What the store called the parts, in order.
fn contents(upload: &Upload) -> Result<Vec<String>, StoreError> {
    check_pieces(upload)?;
    let content = |piece: &Piece| match Home::of(piece) {
        Home::Part(content) => Ok(content),
        Home::Tail(_) => Err(doubtful(piece.start, "a staged object stands where a part is wanted")),
    };
    upload.pieces.iter().map(content).collect()
}

/// The pieces follow each other from the first byte to the last.
fn check_pieces(upload: &Upload) -> Result<(), StoreError> {
    let mut reached = 0;
    for piece in &upload.pieces {
        if piece.start != reached {
            break;
        }
        reached = piece.end();
    }
    if reached == upload.total { Ok(()) } else { Err(doubtful(reached, "the upload has a gap")) }
}

struct Job<'a> {
    shared: &'a Shared,
    upload: &'a Upload,
    overwrite: bool,
    before: Before,
}

impl Job<'_> {
    /// At most one part: one PUT.
    async fn put(&self) -> Result<(), StoreError> {
        let _lease = memory_for(self.shared, self.upload).await?;
        let payload = match assemble(self.shared, self.upload).await {
            Ok(payload) => payload,
            // The staged objects may be gone because all was done before.
            Err(error) if matches!(error.kind, StoreErrorKind::Doubtful { .. }) => {
                return if self.stands().await? { Ok(()) } else { Err(error) };
            }
            Err(error) => return Err(error),
        };
        if !self.overwrite && !self.shared.conditions.put && self.stands_or_is_taken().await? {
            return Ok(());
        }
        let mode = self.put_mode();
        let is_late =
            |failed: &Failed| failed.is_conflict() || (matches!(mode, PutMode::Update(_)) && failed.is_missing());
        let session = Some(self.upload.session);
        match self.shared.requests.put(self.upload.key.as_str(), payload, mode.clone(), session).await {
            Ok(()) => Ok(()),
            Err(failed) if self.overwrite && is_late(&failed) => match self.stands().await? {
                true => Ok(()),
                false => Err(failed.meaning(StoreErrorKind::Changed)),
            },
            Err(failed) => self.after_error(failed).await,
        }
    }

    /// Replaces what stood there when the intent was made, and nothing newer: whoever was frozen since
    /// then comes too late.
    fn put_mode(&self) -> PutMode {
        let Conditions { put, replace, .. } = self.shared.conditions;
        match &self.before {
            Before::Tag(tag, version) if self.overwrite && replace => {
                PutMode::Update(UpdateVersion { e_tag: Some(tag.clone()), version: version.clone() })
            }
            Before::Absent if self.overwrite && replace => PutMode::Create,
            _ if !self.overwrite && put => PutMode::Create,
            _ => PutMode::Overwrite,
        }
    }

    /// Parts that belong to the destination.
    async fn complete(&self) -> Result<(), StoreError> {
        // Completion replaces whatever stands there.
        if !self.overwrite && self.stands_or_is_taken().await? {
            return Ok(());
        }
        let handle = Handle::of(self.upload).ok_or_else(|| doubtful(0, "the session names no multipart upload"))?;
        let contents = match contents(self.upload) {
            Ok(contents) => contents,
            Err(error) => return if self.stands().await? { Ok(()) } else { Err(error) },
        };
        match self.shared.requests.complete(self.upload.key.as_str(), &handle.id, contents).await {
            Ok(()) => Ok(()),
            Err(failed) => self.after_error(failed).await,
        }
    }

    /// Parts of a staged object, which is copied.
    async fn copy(&self) -> Result<(), StoreError> {
        let name = match complete_staged(self.shared, self.upload).await {
            Ok(name) => name,
            // It is deleted once it was copied.
            Err(error) if matches!(error.kind, StoreErrorKind::Doubtful { .. }) => {
                return if self.has_changed_to_ours().await? { Ok(()) } else { Err(error) };
            }
            Err(error) => return Err(error),
        };
        if !self.overwrite && !self.shared.conditions.copy && self.is_taken_by_other(&name).await? {
            return Err(exists(self.upload));
        }
        let mode = if self.overwrite || !self.shared.conditions.copy { CopyMode::Overwrite } else { CopyMode::Create };
        let copied = self.shared.requests.copy(&name, self.upload.key.as_str(), self.upload.total, mode).await;
        if let Err(failed) = copied
            && !self.is_copied(&name).await?
        {
            let taken = failed.is_conflict() && self.head().await?.is_some();
            return Err(if taken { exists(self.upload) } else { failed.into() });
        }
        self.wait_for_copy().await
    }

    /// A store may answer before it has copied everything.
    async fn wait_for_copy(&self) -> Result<(), StoreError> {
        for _ in 0..60 {
            if self.head().await?.is_some_and(|found| found.meta.size == self.upload.total) {
                return Ok(());
            }
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
        let context = format!("the copy to {} does not end", self.upload.key);
        Err(StoreError::new(StoreErrorKind::Unavailable, context))
    }

    /// What an error left: our own upload, another's, or nothing.
    async fn after_error(&self, failed: Failed) -> Result<(), StoreError> {
        match self.head().await? {
            Some(found) if self.is_ours(&found) => Ok(()),
            Some(_) if failed.is_conflict() => Err(exists(self.upload)),
            _ => Err(lost_or_failed(failed)),
        }
    }

    /// Whether the upload stands at its destination.
    async fn stands(&self) -> Result<bool, StoreError> {
        Ok(self.head().await?.is_some_and(|found| self.is_ours(&found)))
    }

    /// The same; an error where something else does.
    async fn stands_or_is_taken(&self) -> Result<bool, StoreError> {
        match self.head().await? {
            None => Ok(false),
            Some(found) if self.is_ours(&found) => Ok(true),
            Some(_) => Err(exists(self.upload)),
        }
    }

    /// Whether the destination holds what the staged object does: copies tell nothing of whose
    /// they are, so the bytes are compared.
    async fn is_copied(&self, staged: &str) -> Result<bool, StoreError> {
        match self.head().await? {
            Some(found) if found.meta.size == self.upload.total => {
                reading::are_equal(&self.shared.requests, staged, self.upload.key.as_str()).await
            }
            _ => Ok(false),
        }
    }

    async fn is_taken_by_other(&self, staged: &str) -> Result<bool, StoreError> {
        Ok(self.head().await?.is_some() && !self.is_copied(staged).await?)
    }

    /// Whether the destination holds an object of the upload's size that came after the intent:
    /// all that is left to go by once the staged object is gone.
    async fn has_changed_to_ours(&self) -> Result<bool, StoreError> {
        let is_new = |found: Found| match &self.before {
            Before::Tag(tag, _) => found.tag() != *tag,
            Before::Absent => true,
            Before::Unknown => false,
        };
        Ok(self.head().await?.is_some_and(|found| found.meta.size == self.upload.total && is_new(found)))
    }

    fn is_ours(&self, found: &Found) -> bool {
        found.is_of(self.upload.session) && found.meta.size == self.upload.total
    }

    async fn head(&self) -> Result<Option<Found>, StoreError> {
        Ok(self.shared.requests.head(self.upload.key.as_str()).await?)
    }
}

fn is_at_destination(upload: &Upload) -> bool {
    Handle::of(upload).is_some_and(|handle| handle.place == Place::Destination)
}

async fn is_there(shared: &Shared, name: &str, size: u64) -> Result<bool, StoreError> {
    Ok(shared.requests.head(name).await?.is_some_and(|found| found.meta.size == size))
}

/// Parts that the store forgot are sent again; anything else may pass.
fn lost_or_failed(failed: Failed) -> StoreError {
    if failed.is_part_gone() { failed.meaning(StoreErrorKind::Doubtful { good: 0 }) } else { failed.into() }
}

fn exists(upload: &Upload) -> StoreError {
    StoreError::new(StoreErrorKind::Exists, format!("{} exists", upload.key))
}
