//! What lies below `BITS-Sessions`: found by listing, deleted by name.

use bits_core::{Piece, StagedObject, StagedStream, StorageKey, StoreError, Upload};
use futures_util::{StreamExt, TryStreamExt};

use crate::{
    names::{self, Handle, Home, Place},
    reading,
    requests::Requests,
    store::Shared,
};

/// Objects that are deleted in one go.
const BATCH: usize = 500;

/// What is staged below `folder`, replies among it.
pub(crate) fn list(requests: &Requests, folder: &StorageKey) -> StagedStream {
    let staging = format!("{}/", names::staging_folder(folder));
    let listed = requests.list(staging.trim_end_matches('/')).map_err(StoreError::from);
    let parsed = listed.try_filter_map(move |(name, written_at)| {
        let object = name.strip_prefix(&staging).and_then(names::parse).map(|(session, epoch, id)| StagedObject {
            session,
            epoch,
            id: id.to_owned(),
            name: name.clone(),
            written_at,
        });
        std::future::ready(Ok(object))
    });
    Box::pin(parsed)
}

/// Deletes all that is staged for the session, and gives its multipart upload up.
pub(crate) async fn discard(shared: &Shared, upload: &Upload) -> Result<(), StoreError> {
    forget_pending(shared, &upload.pieces);
    give_up(shared, upload).await?;
    let mut listed = shared.requests.list(&names::session_folder(upload)).chunks(BATCH);
    while let Some(chunk) = listed.next().await {
        let names: Vec<String> =
            chunk.into_iter().map(|listed| listed.map(|(name, _)| name)).collect::<Result<_, _>>()?;
        shared.requests.delete(&names).await?;
    }
    Ok(())
}

/// Gives the multipart upload up, with its parts.
pub(crate) async fn give_up(shared: &Shared, upload: &Upload) -> Result<(), StoreError> {
    match Handle::of(upload) {
        Some(handle) => Ok(shared.requests.abort(&shared.place(upload, &handle), &handle.id).await?),
        None => Ok(()),
    }
}

/// Deletes staged objects that newer ones replaced. A part goes with its multipart upload, or when
/// its number is written again.
pub(crate) async fn discard_pieces(shared: &Shared, upload: &Upload, pieces: &[Piece]) -> Result<(), StoreError> {
    forget_pending(shared, pieces);
    Ok(shared.requests.delete(&tails(upload, pieces)).await?)
}

/// Deletes what a published upload's row names. What is not deleted is found by the next sweep.
pub(crate) async fn clean_up(shared: &Shared, upload: &Upload) {
    let waiting = |piece: &Piece| match Home::of(piece) {
        Home::Tail(name) => shared.pending.holds(&name),
        Home::Part(_) => false,
    };
    let stored: Vec<Piece> = upload.pieces.iter().filter(|piece| !waiting(piece)).cloned().collect();
    forget_pending(shared, &upload.pieces);
    let mut names = tails(upload, &stored);
    names.extend(reading::whole_of_tails(upload));
    if let Some(handle) = Handle::of(upload).filter(|handle| handle.place != Place::Destination) {
        names.push(shared.place(upload, &handle));
    }
    if let Err(failed) = shared.requests.delete(&names).await {
        let error = StoreError::from(failed);
        tracing::warn!(session = %upload.session, %error, "staged objects could not be deleted; a sweep will");
    }
}

fn forget_pending(shared: &Shared, pieces: &[Piece]) {
    for piece in pieces {
        if let Home::Tail(name) = Home::of(piece) {
            shared.pending.remove(&name);
        }
    }
}

fn tails(upload: &Upload, pieces: &[Piece]) -> Vec<String> {
    let folder = names::session_folder(upload);
    let name = |piece: &Piece| match Home::of(piece) {
        Home::Tail(name) => Some(format!("{folder}/{name}")),
        Home::Part(_) => None,
    };
    pieces.iter().filter_map(name).collect()
}
