//! Notices that files changed, by looking now and then: it works on every file system, and through
//! the symbolic links by which certificates are often swapped.

use std::{fs, os::unix::fs::MetadataExt, path::Path, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{Tls, TlsFiles, files};
use crate::metrics;

/// Between two looks. Files must be the same twice, since a certificate and its key are two files
/// that cannot change at once.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What tells one state of the files from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamps(Vec<Option<Stamp>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamps {
    pub(super) fn of(files: &TlsFiles) -> Self {
        let clients = files.clients.iter().flat_map(|clients| std::iter::once(&clients.ca).chain(&clients.crl));
        Self([&files.certificate, &files.key].into_iter().chain(clients).map(|path| Stamp::of(path)).collect())
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

impl Tls {
    /// Rereads the files whenever they change, until `end`. Files that cannot be used change
    /// nothing; why is logged.
    pub(crate) async fn keep_fresh(self: Arc<Self>, end: CancellationToken) {
        let mut loaded = self.opened.clone();
        let mut seen = loaded.clone();
        while end.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let files = self.files.clone();
            let Ok(now) = tokio::task::spawn_blocking(move || Stamps::of(&files)).await else { continue };
            if now != loaded && now == seen {
                self.reload().await;
                loaded = now.clone();
            }
            seen = now;
        }
    }

    /// Takes the files as they are now, if they can be used.
    pub(super) async fn reload(&self) {
        let files = self.files.clone();
        let certificate = files.certificate.display().to_string();
        let Ok(loaded) = tokio::task::spawn_blocking(move || files::load(&files)).await else { return };
        metrics::tls_reload(loaded.is_ok());
        match loaded {
            Ok(loaded) => {
                self.current.send_replace(loaded.config);
                tracing::info!(certificate, "TLS files have changed and were reread");
                loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            }
            Err(error) => {
                tracing::error!(%error, "TLS files have changed but cannot be used; what was read before still serves")
            }
        }
    }
}
