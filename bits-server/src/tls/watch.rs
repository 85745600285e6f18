//! Notices that files changed, by looking now and then: it works on every file system, and through
//! the symbolic links by which certificates are often swapped.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{Tls, TlsError, TlsFiles, files};
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

/// Files that are looked at, and what was seen of them.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    files: Arc<TlsFiles>,
    /// As they were when they were read and could be used.
    used: Stamps,
    /// As they were when they were looked at last.
    seen: Stamps,
    /// What was wrong when they were read last.
    complaint: Option<String>,
}

impl Watched {
    /// Files that are about to be read.
    pub(super) fn new(files: TlsFiles) -> Self {
        let stamps = Stamps::of(&files);
        Self { files: Arc::new(files), used: stamps.clone(), seen: stamps, complaint: None }
    }

    pub(super) fn files(&self) -> &TlsFiles {
        &self.files
    }

    /// Whether to read files that are like this now: they are not those that are used, and were the
    /// same at the last look. Files that could not be used are read again with each look: what was
    /// wrong may have been something that stamps do not show.
    fn is_due(&mut self, now: &Stamps) -> bool {
        let settled = *now == self.seen;
        self.seen = now.clone();
        settled && *now != self.used
    }

    /// Notes what came of reading them; whether that is worth a word.
    fn note(&mut self, was: &Stamps, failure: Option<&TlsError>) -> bool {
        let complaint = failure.map(ToString::to_string);
        if complaint.is_none() {
            self.used = was.clone();
        }
        let news = complaint.is_none() || complaint != self.complaint;
        self.complaint = complaint;
        news
    }
}

impl Tls {
    /// Rereads the files whenever they change, until `end`. Files that cannot be used change
    /// nothing; why is logged.
    pub(crate) async fn keep_fresh(self: Arc<Self>, end: CancellationToken) {
        while end.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let tls = self.clone();
            // It fails only where the runtime stops.
            let _ = tokio::task::spawn_blocking(move || tls.look()).await;
        }
    }

    /// Looks at the files once, and takes them if they have changed and can be used.
    pub(super) fn look(&self) {
        let files = self.watched().files.clone();
        let now = Stamps::of(&files);
        if !self.watched().is_due(&now) {
            return;
        }
        let loaded = files::load(&files);
        let mut watched = self.watched();
        // Others may have been named meanwhile.
        if !Arc::ptr_eq(&files, &watched.files) || !watched.note(&now, loaded.as_ref().err()) {
            return;
        }
        metrics::tls_reload(loaded.is_ok());
        match loaded {
            Ok(loaded) => {
                self.current.send_replace(loaded.config);
                tracing::info!(certificate = %files.certificate.display(), "TLS files have changed and were reread");
                loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            }
            Err(error) => tracing::error!(
                %error,
                "TLS files have changed but cannot be used; what was read before still serves, and they are read again"
            ),
        }
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamps(size: u64) -> Stamps {
        Stamps(vec![Some(Stamp { device: 1, inode: 1, size, modified: (0, 0), changed: (0, 0) })])
    }

    fn error(message: &str) -> TlsError {
        TlsError { path: "cert.pem".into(), message: message.to_owned() }
    }

    /// Such as one that was read while it was written, by its last state's stamps.
    #[test]
    fn a_change_that_could_not_be_used_is_read_again_and_told_once() {
        let files = TlsFiles { certificate: "cert.pem".into(), key: "key.pem".into(), clients: None };
        let (old, new) = (stamps(1), stamps(2));
        let mut watched = Watched { files: Arc::new(files), used: old.clone(), seen: old.clone(), complaint: None };
        assert!(!watched.is_due(&old) && !watched.is_due(&new), "it may change on");
        assert!(watched.is_due(&new) && watched.note(&new, Some(&error("half"))));
        assert!(watched.is_due(&new) && !watched.note(&new, Some(&error("half"))));
        assert!(watched.is_due(&new) && watched.note(&new, Some(&error("another"))));
        assert!(watched.is_due(&new) && watched.note(&new, None));
        assert!(!watched.is_due(&new));
    }
}
