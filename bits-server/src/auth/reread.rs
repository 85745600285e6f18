//! A file of users that is read again when it changes, and the work of checking passwords by it.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use bits_core::Principal;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::htpasswd::{self, Hash};

/// How long a password that was right is not hashed again.
const REMEMBERED: Duration = Duration::from_secs(5 * 60);
/// A file that changed so lately may change again without its stamp showing it.
const SETTLED: Duration = Duration::from_secs(2);
/// The largest file, in bytes.
const MAXIMUM_SIZE: u64 = 16 << 20;

/// The users of a file, as it was read last.
pub(super) struct Users {
    path: PathBuf,
    table: RwLock<Arc<Table>>,
    /// Of the file as it was read; none where it must be read again.
    stamp: Mutex<Option<Stamp>>,
    /// What was wrong with the file when it was looked at last.
    complaint: Mutex<Option<String>>,
}

/// One reading of the file. Whatever is remembered goes with it when the file changes.
pub(super) struct Table {
    users: HashMap<Principal, User>,
    hashes: Vec<Arc<Hash>>,
    /// For what is remembered; of this process and this reading alone.
    key: [u8; 32],
    /// How many passwords were hashed.
    hashed: AtomicU64,
}

struct User {
    hash: Arc<Hash>,
    /// A keyed digest of the password that was right, and until when it is remembered.
    right: Mutex<Option<([u8; 32], Instant)>>,
}

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Users {
    /// Reads the file; the error names it, the line, and what is wrong.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let (table, stamp) = read(path)?;
        Ok(Self {
            path: path.to_owned(),
            table: RwLock::new(Arc::new(table)),
            stamp: Mutex::new(stamp),
            complaint: Mutex::default(),
        })
    }

    /// Where the file is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file again if it changed. One that is wrong changes nothing, and is logged once.
    pub(super) fn refresh(&self) {
        if let Err(complaint) = self.reread() {
            self.complain(complaint);
        }
    }

    /// The same; the error says what is wrong.
    pub(super) fn reread(&self) -> Result<(), String> {
        let mut stamp = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        let now = fs::metadata(&self.path).ok().map(|metadata| Stamp::of(&metadata));
        if stamp.is_some() && *stamp == now {
            return Ok(());
        }
        let (table, read) = read(&self.path)?;
        *stamp = read;
        self.replace(table);
        Ok(())
    }

    /// The users as they are now.
    pub(super) fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, table: Table) {
        *self.complaint.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let mut current = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if !current.says_the_same(&table) {
            tracing::info!(file = ?self.path, users = table.users.len(), "the file of users changed");
            *current = Arc::new(table);
        }
    }

    fn complain(&self, complaint: String) {
        let mut last = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_deref() != Some(complaint.as_str()) {
            tracing::error!(reason = ?complaint, "the changed file of users is not used; what it was before holds");
            *last = Some(complaint);
        }
    }
}

impl Table {
    fn new(entries: Vec<htpasswd::Entry>) -> Result<Self, String> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|error| format!("no random numbers: {error}"))?;
        let mut users = HashMap::new();
        let mut hashes = Vec::new();
        for htpasswd::Entry { principal, hash } in entries {
            let hash = Arc::new(hash);
            hashes.push(hash.clone());
            users.insert(principal, User { hash, right: Mutex::default() });
        }
        if hashes.is_empty() {
            hashes.push(Arc::default());
        }
        Ok(Self { users, hashes, key, hashed: AtomicU64::new(0) })
    }

    /// The user of this name, in any case.
    pub(super) fn user(&self, name: &str) -> Option<&Principal> {
        let principal = Principal::parse(name).ok()?;
        self.users.get_key_value(&principal).map(|(known, _)| known)
    }

    /// Whether this password of this user was right a short while ago; takes no time.
    pub(super) fn remembers(&self, user: Option<&Principal>, password: &str) -> bool {
        let mac = self.mac(b"password", password);
        let user = user.and_then(|user| self.users.get(user));
        let right = user.and_then(|user| *user.right.lock().unwrap_or_else(PoisonError::into_inner));
        right.is_some_and(|(digest, until)| mac.verify_slice(&digest).is_ok() && until > Instant::now())
    }

    /// Whether the password is right; takes long. For a name that is nobody's it takes the time
    /// that a user's would: it is held against the hash of one of the users, the same each time,
    /// and is wrong whatever comes of it.
    pub(super) fn verify(&self, name: &str, password: &str) -> bool {
        self.hashed.fetch_add(1, Ordering::Relaxed);
        tracing::debug!("a password is hashed");
        let Some(principal) = self.user(name) else {
            let _ = std::hint::black_box(self.stand_in(name).verify(password));
            return false;
        };
        let Some(user) = self.users.get(principal) else { return false };
        let right = user.hash.verify(password);
        if right {
            let digest = self.mac(b"password", password).finalize().into_bytes().into();
            let until = Instant::now() + REMEMBERED;
            *user.right.lock().unwrap_or_else(PoisonError::into_inner) = Some((digest, until));
        }
        right
    }

    fn stand_in(&self, name: &str) -> &Hash {
        let digest: [u8; 32] = self.mac(b"name", &name.to_lowercase()).finalize().into_bytes().into();
        let number = digest.iter().take(8).fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
        // A number below that of the hashes fits into a usize.
        &self.hashes[usize::try_from(number % self.hashes.len() as u64).unwrap_or_default()]
    }

    fn mac(&self, purpose: &[u8], text: &str) -> Hmac<Sha256> {
        // HMAC takes keys of any length.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes any key");
        mac.update(purpose);
        mac.update(&[0]);
        mac.update(text.as_bytes());
        mac
    }

    fn says_the_same(&self, other: &Self) -> bool {
        self.users.len() == other.users.len()
            && self.users.iter().all(|(name, user)| other.users.get(name).is_some_and(|other| user.hash == other.hash))
    }

    #[cfg(test)]
    pub(super) fn hashed(&self) -> u64 {
        self.hashed.load(Ordering::Relaxed)
    }
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The file's users, and its stamp if it is not likely to change unnoticed.
fn read(path: &Path) -> Result<(Table, Option<Stamp>), String> {
    let shown = path.display();
    let unreadable =
        |error: io::Error| format!("{shown}: cannot be read: {error}; check directories.htpasswd and its permissions");
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if metadata.len() > MAXIMUM_SIZE {
        return Err(format!("{shown}: is over {MAXIMUM_SIZE} bytes; no file of users is so large"));
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let entries = htpasswd::parse(&text).map_err(|(line, reason)| format!("{shown}:{line}: {reason}"))?;
    let settled = metadata.modified().is_ok_and(|at| is_past(at, SETTLED));
    Ok((Table::new(entries)?, settled.then(|| Stamp::of(&metadata))))
}

fn is_past(at: SystemTime, age: Duration) -> bool {
    SystemTime::now().duration_since(at).is_ok_and(|passed| passed >= age)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "jo:$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC\n";

    fn table(text: &str) -> Table {
        Table::new(htpasswd::parse(text).unwrap()).unwrap()
    }

    /// As much work for a name that is nobody's as for one that is.
    #[test]
    fn an_unknown_user_takes_the_same_work() {
        for text in [SECRET, ""] {
            let table = table(text);
            for (at, name) in ["jo", "nobody", "", "anonymous", "Jo"].into_iter().enumerate() {
                assert!(!table.verify(name, "wrong"), "{name}");
                assert_eq!(table.hashed(), at as u64 + 1, "{name}");
            }
            assert!(!table.verify("nobody", "myPassword"), "somebody else's password");
        }
    }

    #[test]
    fn stand_ins_are_of_the_kinds_that_users_have() {
        const ARGON2: &str = "$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA";
        let table = table(&format!("{SECRET}ann:{ARGON2}\n"));
        let kinds: Vec<bool> =
            (0..64).map(|number| matches!(table.stand_in(&format!("nobody{number}")), Hash::Bcrypt(_))).collect();
        assert!(kinds.contains(&true) && kinds.contains(&false));
        let again: Vec<bool> =
            (0..64).map(|number| matches!(table.stand_in(&format!("NOBODY{number}")), Hash::Bcrypt(_))).collect();
        assert_eq!(kinds, again, "a name has one stand-in");
    }

    #[test]
    fn a_right_password_is_remembered_and_no_other() {
        let table = table(SECRET);
        let jo = Principal::named("jo");
        assert!(!table.remembers(Some(&jo), "myPassword"));
        assert!(table.verify("JO", "myPassword"));
        assert!(table.remembers(Some(&jo), "myPassword") && !table.remembers(Some(&jo), "mypassword"));
        assert!(!table.verify("jo", "wrong") && table.remembers(Some(&jo), "myPassword"));
        assert_eq!(table.hashed(), 2);
        let user = &table.users[&jo];
        let (digest, _) = user.right.lock().unwrap().unwrap();
        *user.right.lock().unwrap() = Some((digest, Instant::now()));
        assert!(!table.remembers(Some(&jo), "myPassword"), "for a while only");
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        fs::write(&path, SECRET).unwrap();
        let users = Users::open(&path).unwrap();
        assert!(users.table().verify("jo", "myPassword"));
        users.refresh();
        assert!(users.table().remembers(Some(&Principal::named("jo")), "myPassword"), "nothing changed");

        fs::write(&path, "jo:broken\n").unwrap();
        users.refresh();
        assert!(users.table().verify("jo", "myPassword"), "what it was before holds");
        fs::remove_file(&path).unwrap();
        users.refresh();
        assert!(users.table().user("jo").is_some());

        fs::write(&path, SECRET.replace("jo:", "ann:")).unwrap();
        users.refresh();
        assert!(users.table().user("jo").is_none() && users.table().user("Ann").is_some());
        assert!(!users.table().remembers(Some(&Principal::named("ann")), "myPassword"));
    }

    #[test]
    fn what_is_wrong_is_named_with_file_and_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        fs::write(&path, format!("{SECRET}ann:x\n")).unwrap();
        let error = Users::open(&path).err().unwrap();
        assert!(error.starts_with(&format!("{}:2: the hash is neither", path.display())), "{error}");
        let error = Users::open(&folder.path().join("none")).err().unwrap();
        assert!(error.contains("none: cannot be read: No such file"), "{error}");
    }
}
