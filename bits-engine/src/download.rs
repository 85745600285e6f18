//! Published files, read back (section 3.5): which directory holds a path, and whether it gives.

use bits_core::{Opened, Refusal, Source};

use crate::engine::{Caller, Engine, chain};

impl Engine {
    /// Opens the published file that the path of a request names, as it stood on the wire. A path
    /// that names none, and a directory whose downloads are not enabled, are not found.
    pub async fn open_published(&self, raw_path: &str, caller: &Caller) -> Result<Box<dyn Opened>, Refusal> {
        let route = self.inner.directories.route(raw_path).map_err(|_| Refusal::PathNotFound)?;
        let directory = route.directory;
        if !directory.access.admits(&caller.principal) {
            return Err(Refusal::AccessDenied);
        }
        if !directory.download_enabled {
            return Err(Refusal::PathNotFound);
        }
        if directory.is_personal() && caller.principal.is_anonymous() {
            return Err(Refusal::AccessDenied);
        }
        let key = directory.folder_of(&caller.principal)?.join(&route.below)?;
        let opened = self.inner.storage(&directory.storage)?.open(Source::Published(&key)).await;
        match opened {
            Ok(Some(opened)) => Ok(opened),
            Ok(None) => Err(Refusal::PathNotFound),
            Err(error) => {
                let refusal = Refusal::from_store(error.kind, directory.conflict_status);
                if refusal.is_ours() {
                    tracing::error!(path = %raw_path.escape_default(), error = %chain(&error), "a file cannot be read");
                }
                Err(refusal)
            }
        }
    }
}
