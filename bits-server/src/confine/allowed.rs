//! Which paths a configuration lets the process touch.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::config::{Config, ListenerConfig, Source, StateUrl, StorageUrl};

/// Read whatever the configuration says: limits of processors, the boot and the machine that
/// data was synced on, certificate authorities, and whatever name lookups load or ask.
const SYSTEM: [&str; 13] = [
    "/proc",
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
    "/dev/random",
    "/dev/urandom",
    "/etc",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/share",
    "/run/systemd/resolve",
    "/run/NetworkManager",
];
/// Written whatever the configuration says.
const SINKS: [&str; 1] = ["/dev/null"];

/// What may be done with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading files and listing folders.
    Read,
    /// Reading, writing, making, moving and removing.
    Write,
}

/// The folders and files that the process may touch, each with everything below it.
///
/// A file that is read brings its folder: a new file takes its place when it changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    read: BTreeSet<PathBuf>,
    write: BTreeSet<PathBuf>,
}

impl Allowed {
    /// What a server of this configuration needs. Folders that are to be written must exist.
    pub fn by(config: &Config) -> Self {
        let mut allowed = Self::default();
        SYSTEM.iter().for_each(|path| allowed.read(Path::new(path)));
        SINKS.iter().for_each(|path| allowed.write(Path::new(path)));
        allowed.read_file(Path::new("/etc/resolv.conf"));
        allowed.authorities();
        allowed.keep(&config.data_dir);
        let storages = config.directories.iter().filter_map(|one| one.storage_url.as_ref());
        for storage in storages.chain([&config.storage.url]) {
            if let StorageUrl::File(root) = storage {
                allowed.keep(root);
            }
        }
        match &config.state.url {
            // SQLite keeps its log and its shared memory beside the database.
            StateUrl::Sqlite(database) => allowed.keep(folder_of(database)),
            StateUrl::Postgres(url) => url.files().iter().for_each(|file| allowed.read_file(file)),
        }
        if let Source::File(file) = &config.source {
            allowed.read_file(file);
        }
        config.secret_files.iter().for_each(|file| allowed.read_file(file));
        config.directories.iter().filter_map(|one| one.htpasswd.as_ref()).for_each(|file| allowed.read_file(file));
        let admin = config.admin.listener();
        let listeners = config.listeners.iter().chain(&admin);
        listeners.flat_map(ListenerConfig::files).for_each(|file| allowed.read_file(file));
        config.admin.htpasswd.iter().for_each(|file| allowed.read_file(file));
        allowed.kerberos(config);
        allowed
    }

    /// Whether the process may do this with `path`, links followed, whether it exists or not.
    pub fn covers(&self, path: &Path, access: Access) -> bool {
        let real = real(path);
        let within = |folders: &BTreeSet<PathBuf>| folders.iter().any(|folder| real.starts_with(folder));
        within(&self.write) || access == Access::Read && within(&self.read)
    }

    /// The first path of `other` that is not allowed here, such as one that a changed
    /// configuration names.
    pub fn first_outside<'a>(&self, other: &'a Self) -> Option<&'a Path> {
        let outside = |access| move |path: &&PathBuf| !self.covers(path, access);
        let written = other.write.iter().find(outside(Access::Write));
        written.or_else(|| other.read.iter().find(outside(Access::Read))).map(PathBuf::as_path)
    }

    /// What may be written.
    pub fn written(&self) -> &BTreeSet<PathBuf> {
        &self.write
    }

    /// What may be read and not written.
    pub fn only_read(&self) -> &BTreeSet<PathBuf> {
        &self.read
    }

    /// What the environment names instead of the system's certificate authorities.
    fn authorities(&mut self) {
        if let Some(file) = std::env::var_os("SSL_CERT_FILE") {
            self.read_file(Path::new(&file));
        }
        if let Some(folders) = std::env::var_os("SSL_CERT_DIR") {
            std::env::split_paths(&folders).for_each(|folder| self.read(&folder));
        }
    }

    /// What the library for Kerberos and NTLM reads: its configuration, which may include what SSSD
    /// writes, keys and users.
    fn kerberos(&mut self, config: &Config) {
        let directories = config.directories.iter();
        let files = directories.flat_map(|one| [&one.negotiate_keytab, &one.negotiate_ntlm_users]).flatten();
        let files: Vec<_> = files.collect();
        if files.is_empty() {
            return;
        }
        files.into_iter().for_each(|file| self.read_file(file));
        self.read(Path::new("/var/lib/sss/pubconf"));
        if let Some(named) = std::env::var_os("KRB5_CONFIG") {
            std::env::split_paths(&named).for_each(|file| self.read_file(&file));
        }
        // The administrator's own place for what keeps tokens from being taken twice.
        let cache = std::env::var("KRB5RCACHENAME").unwrap_or_default();
        if let Some(file) = cache.strip_prefix("file2:") {
            self.write(folder_of(Path::new(file)));
        }
    }

    fn read(&mut self, path: &Path) {
        self.read.extend(path.canonicalize());
    }

    /// A folder of data. One that is missing cannot be allowed, but it can be told of.
    fn keep(&mut self, path: &Path) {
        self.write.insert(real(path));
    }

    fn write(&mut self, path: &Path) {
        self.write.extend(path.canonicalize());
    }

    /// The folder in which the file is named, and the one in which it stands, if that is another.
    fn read_file(&mut self, path: &Path) {
        for path in [Some(path.to_owned()), path.canonicalize().ok()].into_iter().flatten() {
            // The root would be everything.
            let folder = folder_of(&path).canonicalize().ok().filter(|folder| folder.parent().is_some());
            self.read(&folder.unwrap_or(path));
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The path without links, as far as it exists; names that would climb above what exists stay
/// where they are.
fn real(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let exists = absolute.ancestors().find_map(|folder| Some((folder, folder.canonicalize().ok()?)));
    let Some((folder, real)) = exists else { return absolute };
    match absolute.strip_prefix(folder) {
        Ok(rest) => rest.components().fold(real, |path, name| match name {
            std::path::Component::ParentDir => path.parent().map(Path::to_owned).unwrap_or(path),
            name => path.join(name),
        }),
        Err(_) => absolute,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;
    use crate::config::Overrides;

    /// A folder with `data` and `etc/bits.toml`, and what a server with this file may touch.
    fn allowed(toml: &str) -> (TempDir, Allowed) {
        let folder = TempDir::new().unwrap();
        let allowed = allowed_in(folder.path(), toml);
        (folder, allowed)
    }

    fn allowed_in(folder: &Path, toml: &str) -> Allowed {
        for name in ["data/files", "etc", "state", "storage", "secrets", "tls"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        fs::write(folder.join("secrets/url"), "sqlite:../state/state.db").unwrap();
        fs::write(folder.join("etc/bits.toml"), format!("data_dir = \"../data\"\n{toml}")).unwrap();
        let config = Config::load(Some(&folder.join("etc/bits.toml")), std::iter::empty(), Overrides::default());
        Allowed::by(&config.unwrap())
    }

    #[test]
    fn data_is_written_the_configuration_read_and_nothing_else_touched() {
        let (folder, allowed) = allowed("");
        let covers = |path: &str, access| allowed.covers(&folder.path().join(path), access);
        for path in ["data", "data/files/a/b", "data/state.db-wal", "data/../data/lock"] {
            assert!(covers(path, Access::Write) && covers(path, Access::Read), "{path}");
        }
        for path in ["etc", "etc/bits.toml", "etc/later.pem"] {
            assert!(covers(path, Access::Read) && !covers(path, Access::Write), "{path}");
        }
        for path in ["", "datastore", "state/x", "data/../state/x", "data/new/../../state/x", "/", "/root/.ssh/id"] {
            assert!(!covers(path, Access::Read) && !covers(path, Access::Write), "{path}");
        }
    }

    #[test]
    fn the_files_of_listeners_are_read() {
        let listener = "[[listeners]]\ncertificate = \"../storage/c\"\nkey = \"../secrets/k\"\nclient_ca = \"../state/a\"\nclient_certificate = \"required\"\n";
        let (folder, allowed) = allowed(listener);
        for path in ["storage/new", "secrets/new", "state/new"] {
            let path = folder.path().join(path);
            assert!(allowed.covers(&path, Access::Read) && !allowed.covers(&path, Access::Write), "{path:?}");
        }
    }

    #[test]
    fn a_link_counts_where_it_leads() {
        let (folder, allowed) = allowed("");
        symlink(folder.path().join("state"), folder.path().join("data/link")).unwrap();
        symlink(folder.path().join("data"), folder.path().join("state/link")).unwrap();
        assert!(!allowed.covers(&folder.path().join("data/link/x"), Access::Read));
        assert!(allowed.covers(&folder.path().join("state/link/x"), Access::Write));
    }

    #[test]
    fn stores_elsewhere_are_written() {
        let (folder, allowed) =
            allowed("[state]\nurl_file = \"../secrets/url\"\n[storage]\nurl = \"file:../storage\"\n");
        for path in ["state/state.db", "state/state.db-wal", "storage/x"] {
            assert!(allowed.covers(&folder.path().join(path), Access::Write), "{path}");
        }
        let secret = folder.path().join("secrets/url");
        assert!(allowed.covers(&secret, Access::Read) && !allowed.covers(&secret, Access::Write));
    }

    #[test]
    fn password_files_are_read() {
        let (folder, allowed) =
            allowed("[[directories]]\nauthentication = [\"basic\"]\nhtpasswd = \"../secrets/users\"\n");
        let file = folder.path().join("secrets/users");
        assert!(allowed.covers(&file, Access::Read) && !allowed.covers(&file, Access::Write));
    }

    #[test]
    #[cfg(feature = "negotiate")]
    fn keytabs_and_users_of_ntlm_are_read() {
        let (folder, allowed) = allowed(
            "[[directories]]\nauthentication = [\"negotiate\"]\nnegotiate_keytab = \"../secrets/keytab\"\n\
             negotiate_ntlm_domains = [\"CORP=corp.example\"]\nnegotiate_ntlm_users = \"../tls/users\"\n",
        );
        for file in ["secrets/keytab", "secrets/renewed", "tls/users"] {
            let file = folder.path().join(file);
            assert!(allowed.covers(&file, Access::Read) && !allowed.covers(&file, Access::Write), "{file:?}");
        }
        // The note of what was taken.
        assert!(allowed.covers(&folder.path().join("data/krb5.rcache2"), Access::Write));
    }

    #[test]
    fn what_tls_needs_is_read() {
        let (folder, allowed) = allowed(
            "[[listeners]]\naddress = \"127.0.0.1:0\"\ncertificate = \"../secrets/cert\"\nkey = \"../tls/key\"\n",
        );
        for file in ["secrets/cert", "tls/key"] {
            let file = folder.path().join(file);
            assert!(allowed.covers(&file, Access::Read) && !allowed.covers(&file, Access::Write), "{file:?}");
        }
    }

    #[test]
    fn a_file_that_is_a_link_can_be_replaced_on_both_sides() {
        let folder = TempDir::new().unwrap();
        for name in ["live", "archive"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("archive/1.pem"), "").unwrap();
        symlink("../archive/1.pem", folder.path().join("live/cert.pem")).unwrap();
        let mut allowed = Allowed::default();
        allowed.read_file(&folder.path().join("live/cert.pem"));
        for path in ["live/cert.pem", "live/new.pem", "archive/2.pem"] {
            assert!(allowed.covers(&folder.path().join(path), Access::Read), "{path}");
        }
    }

    #[test]
    fn the_root_of_everything_is_never_allowed() {
        let mut allowed = Allowed::default();
        allowed.read_file(Path::new("/missing.toml"));
        assert_eq!(allowed, Allowed::default());
    }

    #[test]
    fn a_changed_configuration_is_told_what_lies_outside() {
        let (folder, before) = allowed("");
        assert_eq!(before.first_outside(&before), None);
        let elsewhere = allowed_in(folder.path(), "[storage]\nurl = \"file:../storage\"\n");
        assert_eq!(before.first_outside(&elsewhere), Some(&*folder.path().canonicalize().unwrap().join("storage")));
        assert_eq!(elsewhere.first_outside(&before), None, "its data folder holds both");
        let secret = allowed_in(folder.path(), "[state]\nurl_file = \"../secrets/url\"\n");
        assert!(before.first_outside(&secret).is_some());
    }
}
