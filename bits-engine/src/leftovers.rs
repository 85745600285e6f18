//! Bytes that count no more: pieces that others replaced, and what no row ever named.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bits_core::{
    Found, Piece, Session, SessionId, SessionStoreError, StagedObject, State, StorageKey, Upload, UploadStore,
};
use futures_util::StreamExt;

use crate::{
    engine::{Inner, chain},
    maintain::Chore,
};

/// Who still reads what was just replaced gets it.
const GRACE: Duration = Duration::from_secs(30);
/// For so long what belongs to no known session is left alone: another database may know it, or a
/// backup of this one.
const UNKNOWN: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Objects that are looked at and deleted in one go.
const BATCH: usize = 1000;

impl Inner {
    /// Deletes the bytes of pieces that the row has replaced by now, after a grace. What a crash
    /// leaves goes with the session.
    pub(crate) fn forget_later(self: &Arc<Self>, session: &Session) {
        let (inner, session) = (self.clone(), session.clone());
        self.tasks.spawn(async move {
            let replaced = inner.replaced(&session).await;
            if inner.stop.run_until_cancelled(tokio::time::sleep(GRACE)).await.is_some() {
                inner.forget(&session, &replaced).await;
            }
        });
    }

    /// The same of an upload that was published, at once: nobody reads it piece by piece any more.
    pub(crate) async fn forget_published(self: &Arc<Self>, session: &Session) {
        if !self.storage(&session.storage).is_ok_and(|store| store.pieces_from(session).is_some()) {
            return;
        }
        // The list is gone with the session, which may end as soon as the client hears of it.
        let replaced = self.replaced(session).await;
        let (inner, session) = (self.clone(), session.clone());
        self.tasks.spawn(async move { inner.forget(&session, &replaced).await });
    }

    async fn replaced(&self, session: &Session) -> Vec<Piece> {
        self.sessions.replaced_pieces(session.id).await.unwrap_or_else(|error| {
            tracing::error!(error = %chain(&error), "the session store failed");
            Vec::new()
        })
    }

    async fn forget(&self, session: &Session, replaced: &[Piece]) {
        let Ok(store) = self.storage(&session.storage) else { return };
        if replaced.is_empty() {
            return;
        }
        if let Err(error) = store.discard_pieces(&Upload::of(session, Vec::new()), replaced).await {
            return tracing::warn!(session = %session.id, error = %chain(&error), "replaced bytes could not be deleted; a sweep will");
        }
        if let Err(error) = self.sessions.forget_pieces(session.id, replaced).await {
            tracing::error!(error = %chain(&error), "the session store failed");
        }
    }

    /// Deletes what is staged and can never count: of an ended session, written under an older epoch
    /// of a live one and not named by its row, or long ago and of no session. Returns how many
    /// objects.
    pub(crate) async fn delete_orphans(&self, is_over: impl Fn() -> bool) -> Result<u64, SessionStoreError> {
        let mut deleted = 0;
        let own = self.directories.iter().map(|it| (it.storage.clone(), it.storage_path.to_string()));
        // What a store tries out at its start lies at its root.
        let roots = self.storages.keys().map(|storage| (storage.clone(), String::new()));
        let folders: BTreeSet<(String, String)> = own.chain(roots).collect();
        for (storage, folder) in folders {
            let (Some(store), Ok(folder)) = (self.storages.get(&storage), StorageKey::parse(&folder)) else { continue };
            let mut listed = store.staged(&folder).chunks(BATCH);
            while let Some(chunk) = listed.next().await {
                if is_over() {
                    return Ok(deleted);
                }
                match chunk.into_iter().collect::<Result<Vec<_>, _>>() {
                    Ok(objects) => deleted += self.delete_orphans_among(store, objects).await?,
                    Err(error) => {
                        tracing::error!(storage, error = %chain(&error), "what is staged cannot be listed; the next sweep tries again");
                        break;
                    }
                }
            }
        }
        Ok(deleted)
    }

    async fn delete_orphans_among(
        &self,
        store: &Arc<dyn UploadStore>,
        objects: Vec<StagedObject>,
    ) -> Result<u64, SessionStoreError> {
        let mut by_session: BTreeMap<SessionId, Vec<StagedObject>> = BTreeMap::new();
        for object in objects {
            by_session.entry(object.session).or_default().push(object);
        }
        let now = self.sessions.now().await?;
        let mut orphans = Vec::new();
        for (id, mut objects) in by_session {
            // The row is read after the listing: what it does not name now it never will, since
            // nobody commits under an older epoch.
            match self.sessions.load(id).await? {
                Some(Found::Live(session)) => {
                    let named = self.named(&session).await?;
                    objects.retain(|object| object.epoch < session.epoch && !named.contains(&object.id));
                }
                Some(Found::Ended(tombstone)) if tombstone.unclean => continue,
                Some(Found::Ended(_)) => {}
                None => objects.retain(|object| now.since(object.written_at) >= UNKNOWN),
            }
            orphans.append(&mut objects);
        }
        if orphans.is_empty() {
            return Ok(0);
        }
        if let Err(error) = store.discard_staged(&orphans).await {
            tracing::error!(error = %chain(&error), "staged bytes could not be deleted; the next sweep tries again");
            return Ok(0);
        }
        let deleted = orphans.len() as u64;
        (self.chores)(Chore::Orphans(deleted));
        Ok(deleted)
    }

    /// What the row of a live session names.
    async fn named(&self, session: &Session) -> Result<BTreeSet<String>, SessionStoreError> {
        // Bytes that were published are of no use where no application may still read them.
        if session.state == State::WaitForClose && session.notification.is_none() {
            return Ok(BTreeSet::new());
        }
        let pieces = self.sessions.pieces(session.id, 0).await?;
        let handle = session.handle.iter().flat_map(|handle| handle.split(' ')).map(str::to_owned);
        Ok(pieces.into_iter().map(|piece| piece.id).chain(handle).collect())
    }
}
