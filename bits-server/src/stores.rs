//! The one place where a URL becomes a backend. Cargo features choose which there are.

use std::{fs, io, path::Path, sync::Arc, time::Duration};

use bits_core::{Outbox, SessionStore, UploadStore};
use bits_store_fs::{DataLock, LocalStore, SyncAt};
use bits_store_sql::SqliteSessions;

use crate::config::{Config, StateUrl, StorageUrl, Sync, WebhookConfig};

/// The name by which sessions know the storage of `[storage]`; where that is may change.
pub const STORAGE: &str = "default";

/// A draining process lets go of the data folder within this time besides its grace.
const LOCK_MARGIN: Duration = Duration::from_secs(10);

/// The open backends. Dropping them lets go of the data folder.
pub struct Stores {
    sessions: Arc<SqliteSessions>,
    uploads: Arc<LocalStore>,
    _lock: DataLock,
}

impl Stores {
    /// The session store.
    pub fn sessions(&self) -> Arc<dyn SessionStore> {
        self.sessions.clone()
    }

    /// What webhooks are to be told.
    pub fn outbox(&self) -> Arc<dyn Outbox> {
        self.sessions.clone()
    }

    /// The upload store.
    pub fn uploads(&self) -> Arc<dyn UploadStore> {
        self.uploads.clone()
    }

    /// Closes the database cleanly.
    pub async fn close(self) {
        self.sessions.close().await;
    }
}

/// Makes the folders that the stores live in, for a process that may not do so when it opens them.
pub fn make_folders(config: &Config) -> Result<(), String> {
    create_folder(&config.data_dir)?;
    let StorageUrl::File(root) = &config.storage.url;
    LocalStore::make_root(root, &local_options(config)).map_err(|error| describe("storage.url", &error))
}

/// Locks the data folder, waiting for a process that is stopping, and opens what the
/// configuration names. The error says what is wrong, where, and what to do.
pub async fn open(config: &Config) -> Result<Stores, String> {
    create_folder(&config.data_dir)?;
    let lock = DataLock::acquire(&config.data_dir, config.shutdown_grace + LOCK_MARGIN)
        .await
        .map_err(|error| describe("data_dir", &error))?;
    let sessions = open_sessions(config, config.state.migrate).await?;
    let StorageUrl::File(root) = &config.storage.url;
    let uploads = LocalStore::open(root, local_options(config)).map_err(|error| describe("storage.url", &error))?;
    Ok(Stores { sessions: Arc::new(sessions), uploads: Arc::new(uploads), _lock: lock })
}

/// Opens the session database alone, whether a server runs or not.
pub async fn open_sessions(config: &Config, migrate: bool) -> Result<SqliteSessions, String> {
    let StateUrl::Sqlite(path) = &config.state.url;
    let subscribers = config.webhooks.iter().map(WebhookConfig::subscriber).collect();
    let options = bits_store_sql::Options { migrate, subscribers, ..bits_store_sql::Options::default() };
    SqliteSessions::open(path, options).await.map_err(|error| describe("state.url", &error))
}

/// Brings the session database up to date; makes the data folder if the database lies in it.
pub async fn migrate(config: &Config) -> Result<(), String> {
    let StateUrl::Sqlite(path) = &config.state.url;
    if path.starts_with(&config.data_dir) {
        create_folder(&config.data_dir)?;
    }
    let sessions = open_sessions(config, true).await?;
    sessions.close().await;
    tracing::info!("the session database is up to date");
    Ok(())
}

fn local_options(config: &Config) -> bits_store_fs::Options {
    bits_store_fs::Options {
        sync: match config.storage.sync {
            Sync::Checkpoint => SyncAt::Checkpoint,
            Sync::Fragment => SyncAt::Fragment,
        },
        reserve_free: config.storage.reserve_free.0,
        folder_modes: config.directories.iter().map(|one| (one.storage_path.clone(), one.folder_mode.0)).collect(),
        ..bits_store_fs::Options::default()
    }
}

fn create_folder(path: &Path) -> Result<(), String> {
    create_durably(path)
        .map_err(|error| format!("data_dir: {} cannot be made: {error}; check its permissions", path.display()))
}

/// Makes the folder and what is missing above it, so that a power loss takes no name on the way
/// to what is acknowledged later.
fn create_durably(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> =
        path.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    for folder in missing.into_iter().rev() {
        match fs::create_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
        fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    // Something else may stand there.
    fs::create_dir_all(path)
}

fn describe(key: &str, error: &dyn std::error::Error) -> String {
    let mut text = format!("{key}: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
