//! The one place where a URL becomes a backend. Cargo features choose which there are.

use std::{collections::BTreeMap, fs, io, path::Path, sync::Arc, time::Duration};

use bits_core::{Outbox, SessionStore, SessionStoreError, Subscriber, UploadStore};
use bits_store_fs::{DataLock, LocalStore, SyncAt};
use bits_store_sql::SqliteSessions;
use uuid::Uuid;

use crate::admin::History;
use crate::config::{Config, DirectoryConfig, ObjectUrl, PostgresUrl, StateUrl, StorageUrl, Sync, WebhookConfig};

/// The name by which sessions know the storage of `[storage]`; where that is may change.
pub const STORAGE: &str = "default";

/// A draining process lets go of its locks within this time besides its grace.
const LOCK_MARGIN: Duration = Duration::from_secs(10);

/// The open backends. Dropping them lets go of the data folder and the database.
pub struct Stores {
    sessions: Sessions,
    uploads: BTreeMap<String, Arc<dyn UploadStore>>,
    _locks: (DataLock, Option<DataLock>),
}

impl Stores {
    /// The session store.
    pub fn sessions(&self) -> Arc<dyn SessionStore> {
        self.sessions.store()
    }

    /// What webhooks are to be told.
    pub fn outbox(&self) -> Arc<dyn Outbox> {
        self.sessions.outbox()
    }

    /// Where the page's history is, if it is kept.
    pub fn history(&self, config: &Config) -> Option<History> {
        config.admin.remembers().then(|| History { outbox: self.outbox(), events: config.admin.history })
    }

    /// The upload stores by the names under which sessions know them.
    pub fn uploads(&self) -> impl Iterator<Item = (&str, Arc<dyn UploadStore>)> {
        self.uploads.iter().map(|(name, store)| (name.as_str(), store.clone()))
    }

    /// Closes the database cleanly.
    pub async fn close(self) {
        self.sessions.close().await;
    }
}

/// Makes the folders that the stores live in, for a process that may not do so when it opens them.
pub fn make_folders(config: &Config) -> Result<(), String> {
    create_folder(&config.data_dir)?;
    for (key, url) in storages(config).into_values() {
        if let StorageUrl::File(root) = url {
            LocalStore::make_root(root, &local_options(config)).map_err(|error| describe(key, &error))?;
        }
    }
    Ok(())
}

/// The name by which sessions know the storage of a directory: where one has its own, that is its
/// URL.
pub fn storage_of(directory: &DirectoryConfig) -> String {
    directory.storage_url.as_ref().map_or_else(|| STORAGE.to_owned(), storage_name)
}

/// What can be said of the stores without asking them: whether options and URLs fit.
pub fn check(config: &Config) -> Result<(), String> {
    for (key, url) in storages(config).into_values() {
        if let StorageUrl::Object(url) = url {
            object::backend(key, url, config)?;
        }
    }
    Ok(())
}

/// Locks the data folder and the database file, waiting for a process that is stopping, and opens
/// what the configuration names. The error says what is wrong, where, and what to do.
pub async fn open(config: &Config) -> Result<Stores, String> {
    create_folder(&config.data_dir)?;
    let wait = config.shutdown_grace + LOCK_MARGIN;
    let folder = DataLock::acquire(&config.data_dir, wait).await.map_err(|error| describe("data_dir", &error))?;
    let database = lock_database(&config.state.url, wait).await?;
    let sessions = open_sessions(config, config.state.migrate == Some(true)).await?;
    let identity = sessions.identity().await.map_err(|error| describe("state.url", &error))?;
    let mut uploads = BTreeMap::new();
    for (name, (key, url)) in storages(config) {
        uploads.insert(name, open_uploads(key, url, identity, config).await?);
    }
    Ok(Stores { sessions, uploads, _locks: (folder, database) })
}

/// Sessions in one SQLite file are one process's, also where each of several has a data folder of
/// its own.
async fn lock_database(url: &StateUrl, wait: Duration) -> Result<Option<DataLock>, String> {
    let StateUrl::Sqlite(path) = url else { return Ok(None) };
    // Whatever links lead there. A file that is not there yet is named alike by all who look.
    let path = path.canonicalize().unwrap_or_else(|_| path.clone());
    if !path.parent().is_some_and(Path::is_dir) {
        // Opening it says what is wrong.
        return Ok(None);
    }
    DataLock::acquire_file(&path, wait).await.map(Some).map_err(|error| describe("state.url", &error))
}

/// The storages that the configuration names, each with the key that names it.
fn storages(config: &Config) -> BTreeMap<String, (&'static str, &StorageUrl)> {
    let own = config.directories.iter().filter_map(|one| one.storage_url.as_ref());
    let own = own.map(|url| (storage_name(url), ("directories.storage_url", url)));
    own.chain([(STORAGE.to_owned(), ("storage.url", &config.storage.url))]).collect()
}

fn storage_name(url: &StorageUrl) -> String {
    match url {
        StorageUrl::File(path) => format!("file:{}", path.display()),
        StorageUrl::Object(url) => url.as_str().to_owned(),
    }
}

async fn open_uploads(
    key: &str,
    url: &StorageUrl,
    sessions: Uuid,
    config: &Config,
) -> Result<Arc<dyn UploadStore>, String> {
    match url {
        StorageUrl::File(root) => {
            let store = LocalStore::open(root, local_options(config)).map_err(|error| describe(key, &error))?;
            Ok(Arc::new(store))
        }
        StorageUrl::Object(url) => object::open(key, url, sessions, config).await,
    }
}

#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
mod object {
    use bits_store_object::{Backend, LARGEST_PART, ObjectUploads, Options};

    use super::*;

    pub(super) fn backend(key: &str, url: &ObjectUrl, config: &Config) -> Result<Backend, String> {
        let options: Vec<_> =
            config.storage.options.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        bits_store_object::backend(url.as_str(), &options).map_err(|error| describe(key, &error))
    }

    pub(super) async fn open(
        key: &str,
        url: &ObjectUrl,
        sessions: Uuid,
        config: &Config,
    ) -> Result<Arc<dyn UploadStore>, String> {
        let memory = config.storage.memory.0;
        let options = Options {
            memory,
            largest_part: (memory / 4).max(LARGEST_PART),
            on_request: Arc::new(crate::metrics::object_store_request),
            ..Options::default()
        };
        let failed = |error| format!("{key}: {}: {}", url.as_str(), described(&error));
        let store = ObjectUploads::open(backend(key, url, config)?, options).await.map_err(failed)?;
        store.belong_to(sessions).await.map_err(failed)?;
        if !store.keeps_conditions() {
            tracing::warn!(
                storage = url.as_str(),
                "the object store overwrites what it was asked not to: each upload is published after a look at its \
                 destination, which does not protect from other programs that write there"
            );
        }
        Ok(Arc::new(store))
    }

    /// The error with its cause on one line: stores answer with documents.
    fn described(error: &bits_store_object::OpenError) -> String {
        let cause = std::error::Error::source(error).map(|cause| format!(" ({cause})")).unwrap_or_default();
        let text = format!("{error}{cause}");
        let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some((end, _)) = line.char_indices().nth(LONGEST_MESSAGE) {
            line.truncate(end);
            line.push('…');
        }
        line
    }

    /// Characters of a message that people read.
    const LONGEST_MESSAGE: usize = 600;
}

/// A server without object stores reads no URL of one.
#[cfg(not(any(feature = "s3", feature = "gcs", feature = "azure")))]
mod object {
    use super::*;

    pub(super) fn backend(key: &str, url: &ObjectUrl, _: &Config) -> Result<(), String> {
        Err(refused(key, url))
    }

    pub(super) async fn open(key: &str, url: &ObjectUrl, _: Uuid, _: &Config) -> Result<Arc<dyn UploadStore>, String> {
        Err(refused(key, url))
    }

    fn refused(key: &str, url: &ObjectUrl) -> String {
        format!("{key}: {} needs a server that was built for object stores", url.as_str())
    }
}

/// The open session database.
pub enum Sessions {
    /// In a SQLite file.
    Sqlite(Arc<SqliteSessions>),
    /// In PostgreSQL.
    #[cfg(feature = "postgres")]
    Postgres(Arc<bits_store_sql::PostgresSessions>),
}

impl Sessions {
    /// Sessions themselves.
    pub fn store(&self) -> Arc<dyn SessionStore> {
        match self {
            Self::Sqlite(sessions) => sessions.clone(),
            #[cfg(feature = "postgres")]
            Self::Postgres(sessions) => sessions.clone(),
        }
    }

    /// Which database it is.
    pub async fn identity(&self) -> Result<Uuid, SessionStoreError> {
        match self {
            Self::Sqlite(sessions) => sessions.identity().await,
            #[cfg(feature = "postgres")]
            Self::Postgres(sessions) => sessions.identity().await,
        }
    }

    /// What is kept for webhooks.
    pub fn outbox(&self) -> Arc<dyn Outbox> {
        match self {
            Self::Sqlite(sessions) => sessions.clone(),
            #[cfg(feature = "postgres")]
            Self::Postgres(sessions) => sessions.clone(),
        }
    }

    /// Closes the database cleanly.
    pub async fn close(&self) {
        match self {
            Self::Sqlite(sessions) => sessions.close().await,
            #[cfg(feature = "postgres")]
            Self::Postgres(sessions) => sessions.close().await,
        }
    }
}

/// Opens the session database alone, whether a server runs or not.
pub async fn open_sessions(config: &Config, migrate: bool) -> Result<Sessions, String> {
    let history = config.admin.remembers().then(History::subscriber);
    let subscribers = config.webhooks.iter().map(WebhookConfig::subscriber).chain(history).collect();
    match &config.state.url {
        StateUrl::Sqlite(path) => {
            let options = bits_store_sql::Options { migrate, subscribers, ..bits_store_sql::Options::default() };
            let sessions = SqliteSessions::open(path, options).await.map_err(|error| describe("state.url", &error))?;
            Ok(Sessions::Sqlite(Arc::new(sessions)))
        }
        StateUrl::Postgres(url) => open_postgres(url, migrate, subscribers).await,
    }
}

#[cfg(feature = "postgres")]
async fn open_postgres(url: &PostgresUrl, migrate: bool, subscribers: Vec<Subscriber>) -> Result<Sessions, String> {
    use bits_store_sql::{PostgresOptions, PostgresSessions};
    let options = PostgresOptions { migrate, subscribers, ..PostgresOptions::default() };
    let sessions = PostgresSessions::open(url.expose(), options).await;
    Ok(Sessions::Postgres(Arc::new(sessions.map_err(|error| describe("state.url", &error))?)))
}

/// The configuration takes no such URL then.
#[cfg(not(feature = "postgres"))]
async fn open_postgres(_: &PostgresUrl, _: bool, _: Vec<Subscriber>) -> Result<Sessions, String> {
    Err("state.url: this program was built without PostgreSQL".to_owned())
}

/// Brings the session database up to date; makes the data folder if the database lies in it.
pub async fn migrate(config: &Config) -> Result<(), String> {
    if let StateUrl::Sqlite(path) = &config.state.url
        && path.starts_with(&config.data_dir)
    {
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
        on_sync: crate::metrics::synced,
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
