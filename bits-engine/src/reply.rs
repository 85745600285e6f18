//! Replies of server applications, fetched by the clients that they are for.

use bits_core::{Directory, Found, Opened, Refusal, Reply, SessionId, Source, Upload};

use crate::{
    engine::{Caller, Engine, Inner, chain, row_refusal},
    spans,
};

impl Engine {
    /// Opens the reply that the path of a request names, as it stood on the wire; none where the
    /// path is not that of a reply. A reply is there for the principal of its session alone, until
    /// the session ends.
    pub async fn open_reply(&self, raw_path: &str, caller: &Caller) -> Option<Result<Box<dyn Opened>, Refusal>> {
        let directory = self.directory(raw_path)?;
        let session = directory.reply_session(raw_path)?;
        Some(self.inner.open_reply(directory, session, caller).await)
    }
}

impl Inner {
    async fn open_reply(
        &self,
        directory: &Directory,
        id: SessionId,
        caller: &Caller,
    ) -> Result<Box<dyn Opened>, Refusal> {
        if !directory.access.admits(&caller.principal) {
            return Err(Refusal::AccessDenied);
        }
        let found = self.sessions.load(id).await.map_err(|error| row_refusal(&error))?;
        let Some(Found::Live(session)) = found else { return Err(Refusal::PathNotFound) };
        let is_here = session.directory.eq_ignore_ascii_case(&directory.url_path);
        let is_kept = matches!(session.reply, Some(Reply::Kept { .. }));
        if session.principal != caller.principal || !is_here || !is_kept {
            return Err(Refusal::PathNotFound);
        }
        spans::found(id);
        let upload = Upload::of(&session, Vec::new());
        match self.storage(&session.storage)?.open(Source::Reply(&upload)).await {
            Ok(Some(opened)) => Ok(opened),
            Ok(None) => {
                tracing::error!(session = %id, "the reply of a session is gone");
                Err(Refusal::PathNotFound)
            }
            Err(error) => {
                tracing::error!(session = %id, error = %chain(&error), "a reply cannot be read");
                Err(Refusal::from_store(error.kind, directory.conflict_status))
            }
        }
    }
}
