//! From layers to a checked [`Config`]: paths made to start at the file's folder, and the rules
//! that hold between keys.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bits_core::StoreAs;

use super::error::{Location, Problems};
use super::keys::Section;
use super::layers::{Layers, Table};
use super::{
    Admin, Config, ConfigError, DirectoryConfig, Limits, ListenerConfig, Root, Size, Source, StateConfig, StateUrl,
    StorageConfig, StorageUrl, listeners, notification, object,
};
use super::{access, webhooks};
use super::{admin, negotiate};

/// Clients send no smaller fragments (section 2.2.6, note 10), so that a lower limit would refuse them for good.
const SMALLEST_FRAGMENT: Size = Size(5 << 10);
/// What a connection holds of a body, some 400 KiB, passes within seconds.
const LEAST_BANDWIDTH: Size = Size(64 << 10);
/// The largest fragment by default, 64 MiB, ends within a day.
const LEAST_MINIMUM_RATE: Size = Size(1 << 10);

/// Flags of the command line that stand above everything else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--listen`, as often as it was given.
    pub listen: Vec<String>,
    /// `--data-dir`; a relative one starts at the current folder.
    pub data_dir: Option<PathBuf>,
}

impl Config {
    /// Reads the file if there is one, lays `env` and `overrides` over it, and checks the whole.
    ///
    /// Reports everything that is wrong at once. `env` may hold anything; only names that start
    /// with `BITS__` are looked at.
    pub fn load(
        path: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
        overrides: Overrides,
    ) -> Result<Self, ConfigError> {
        let mut problems = Problems::default();
        let mut layers = Layers::empty();
        if let Some(path) = path {
            match std::fs::read_to_string(path) {
                Ok(text) => layers.add_file(path, &text, &mut problems),
                Err(error) => problems.add_without_key(Location::File(path.to_owned()), unreadable(&error)),
            }
        }
        layers.add_environment(env, &mut problems);
        layers.add_flags(&overrides);
        if overrides.data_dir.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
            problems.add(&Location::Flag("--data-dir"), "data_dir", "is empty; write a path");
        }
        let config = resolve(&layers, path, overrides.data_dir, &mut problems);
        problems.finish(config)
    }
}

/// The environment of this process; what is not UTF-8 is kept readable for messages.
pub fn process_environment() -> impl Iterator<Item = (String, String)> {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (text(name), text(value)))
}

fn unreadable(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::InvalidData => "is not UTF-8; save it as UTF-8".to_owned(),
        _ => format!("cannot be read: {error}; check the path and its permissions"),
    }
}

fn resolve(layers: &Layers, path: Option<&Path>, data_dir: Option<PathBuf>, problems: &mut Problems) -> Config {
    let base = path.and_then(Path::parent).unwrap_or(Path::new(""));
    let root = Root::read(layers.table::<Root>(), problems);
    let admin = admin::read(layers.table::<Admin>(), base, &root, problems);
    check_listen(&root.listen, &admin, layers, problems);
    let listeners = listeners::read(layers, base, &root, &admin, problems);
    let data_dir = data_dir.unwrap_or_else(|| base.join(&root.data_dir));
    let mut storage = storage(StorageConfig::read(layers.table::<StorageConfig>(), problems), base, &data_dir);
    let mut secret_files = layers.secret_files();
    secret_files.extend(storage.options.resolve(base, layers.table::<StorageConfig>(), problems));
    let directories = directories(layers, base, &root, &listeners, &storage.url, problems);
    let state = state(StateConfig::read(layers.table::<StateConfig>(), problems), base, &data_dir);
    check_database(&state, root.confine, layers, problems);
    Config {
        listen: root.listen,
        state,
        storage,
        data_dir,
        shutdown_grace: root.shutdown_grace,
        log: root.log,
        confine: root.confine,
        trusted_proxies: root.trusted_proxies,
        public_url: root.public_url,
        listeners,
        admin,
        limits: limits(layers.table::<Limits>(), problems),
        webhooks: webhooks::read(layers, &directories, problems),
        directories,
        secret_files,
        source: path.map_or(Source::Defaults, |path| Source::File(path.to_owned())),
    }
}

fn state(mut state: StateConfig, base: &Path, data_dir: &Path) -> StateConfig {
    state.migrate.get_or_insert(matches!(state.url, StateUrl::Sqlite(_)));
    if let StateUrl::Sqlite(path) = &mut state.url {
        *path = if path.as_os_str().is_empty() { data_dir.join("state.db") } else { base.join(&*path) };
    }
    state
}

/// SQLite writes beside its database, so that the process may write to that folder.
fn check_database(state: &StateConfig, confine: bool, layers: &Layers, problems: &mut Problems) {
    let StateUrl::Sqlite(path) = &state.url else { return };
    if confine && path.parent().is_some_and(|folder| folder == Path::new("/")) {
        let message = "lies in the folder \"/\", to all of which the process would have to be let in; give it a folder of its own, or write confine = false";
        problems.add(layers.table::<StateConfig>().location("url"), "state.url", message);
    }
}

fn storage(mut storage: StorageConfig, base: &Path, data_dir: &Path) -> StorageConfig {
    if let StorageUrl::File(path) = &mut storage.url {
        *path = if path.as_os_str().is_empty() { data_dir.join("files") } else { base.join(&*path) };
    }
    storage
}

fn limits(table: &Table, problems: &mut Problems) -> Limits {
    let limits = Limits::read(table, problems);
    if limits.bandwidth.is_some_and(|rate| rate < LEAST_BANDWIDTH) {
        let message = "is under 64KiB, with which uploads would stand still; write at least \"64KiB\"";
        problems.add(table.location("bandwidth"), "limits.bandwidth", message);
    }
    if limits.minimum_rate.is_some_and(|rate| rate < LEAST_MINIMUM_RATE) {
        let message = "is under 1KiB, with which a body could last for days; write at least \"1KiB\"";
        problems.add(table.location("minimum_rate"), "limits.minimum_rate", message);
    }
    limits
}

fn check_listen(listen: &[SocketAddr], admin: &Admin, layers: &Layers, problems: &mut Problems) {
    let location = layers.table::<Root>().location("listen");
    if listen.is_empty() && layers.repeated::<ListenerConfig>().is_none_or(<[_]>::is_empty) {
        problems.add(location, "listen", "is empty; write at least one address, such as \"127.0.0.1:8080\"");
    }
    // Port 0 is another port each time.
    let fixed = |address: &&SocketAddr| address.port() != 0;
    for (at, address) in listen.iter().enumerate().filter(|(_, address)| fixed(address)) {
        if listen[..at].contains(address) {
            problems.add(location, "listen", format!("names {address} twice; remove one"));
        }
        if admin.listen.as_ref() == Some(address) {
            let location = layers.table::<Admin>().location("listen").max(location);
            problems.add(
                location,
                "admin.listen",
                format!("{address} is in listen too; give one of them another port"),
            );
        }
    }
}

fn directories(
    layers: &Layers,
    base: &Path,
    root: &Root,
    listeners: &[ListenerConfig],
    storage: &StorageUrl,
    problems: &mut Problems,
) -> Vec<DirectoryConfig> {
    let default = [Table::new(DirectoryConfig::TABLE, Location::Default)];
    let tables = layers.repeated::<DirectoryConfig>().unwrap_or(&default);
    let directories: Vec<_> = tables.iter().map(|table| directory(table, base, problems)).collect();
    check_unique(tables, &directories, problems);
    access::check_reachable(tables, &directories, root, listeners, problems);
    negotiate::check_one(tables, &directories, problems);
    access::check_personal(tables, &directories, problems);
    for (table, directory) in tables.iter().zip(&directories) {
        notification::check(table, directory, root.public_url.as_ref(), problems);
        object::check(table, directory, storage, problems);
    }
    directories
}

fn directory(table: &Table, base: &Path, problems: &mut Problems) -> DirectoryConfig {
    let mut directory = DirectoryConfig::read(table, problems);
    if directory.storage_path.as_str().is_empty() {
        directory.storage_path = directory.url_path.storage_path().clone();
    }
    if directory.maximum_fragment_size.is_some_and(|size| size < SMALLEST_FRAGMENT) {
        let message = "is under 5KiB, the least that clients can go down to; write at least \"5KiB\"";
        problems.add(table.location("maximum_fragment_size"), "directories.maximum_fragment_size", message);
    }
    if directory.download_enabled && directory.store_as != StoreAs::default() {
        let message = "needs store_as = \"{path}\": files under other names than they were uploaded to cannot be found";
        problems.add(table.location("download_enabled"), "directories.download_enabled", message);
    }
    for (name, mode, needed) in
        [("file_mode", directory.file_mode, 0o600), ("folder_mode", directory.folder_mode, 0o700)]
    {
        if mode.0 & needed != needed {
            let message = format!("shuts the server itself out; add at least \"{needed:04o}\"");
            problems.add(table.location(name), format!("directories.{name}"), message);
        }
    }
    directory.htpasswd = directory.htpasswd.map(|path| base.join(path));
    if let Some(StorageUrl::File(path)) = &mut directory.storage_url {
        if path.as_os_str().is_empty() {
            let message = "names no folder; write \"file:PATH\", or remove it for that of [storage]";
            problems.add(table.location("storage_url"), "directories.storage_url", message);
        }
        *path = base.join(&*path);
    }
    negotiate::resolve(table, &mut directory, base, problems);
    access::check(table, &directory, problems);
    directory
}

fn check_unique(tables: &[Table], directories: &[DirectoryConfig], problems: &mut Problems) {
    let mut seen = HashMap::new();
    for (table, directory) in tables.iter().zip(directories) {
        let path = directory.url_path.as_str();
        let location = table.location("url_path");
        if let Some(first) = seen.insert(path.to_ascii_lowercase(), location) {
            let message =
                format!("{path:?} stands at {first} already, and case makes no difference; write another path");
            problems.add(location, "directories.url_path", message);
        }
    }
}
