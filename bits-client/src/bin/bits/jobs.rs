//! Jobs on disk: one JSON file each, replaced atomically, and locked while a process works on it.

use std::{
    fs::{File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use bits_client::{DownloadJob, Job};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::args::Tls;

/// What a job file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The version of this format.
    version: u32,
    /// The name of the job, and of its file.
    pub(crate) id: String,
    /// The file that is uploaded, or made by a download; absolute.
    pub(crate) file: PathBuf,
    pub(crate) override_form: bool,
    pub(crate) fragment_size: Option<u64>,
    /// Files of TLS; absolute.
    #[serde(default)]
    pub(crate) tls: Tls,
    /// Why the job failed for good, where it did.
    pub(crate) failed: Option<String>,
    /// The file for the server's reply, where it is wanted; absolute.
    #[serde(default)]
    pub(crate) reply: Option<PathBuf>,
    pub(crate) job: Work,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[allow(clippy::large_enum_variant, reason = "there is one at a time")]
pub(crate) enum Work {
    Upload(Job),
    Download(DownloadJob),
}

impl Work {
    pub(crate) fn created(&self) -> u64 {
        match self {
            Self::Upload(job) => job.created,
            Self::Download(job) => job.created,
        }
    }

    /// The URL, with the user whom it names.
    pub(crate) fn url(&self) -> &Url {
        match self {
            Self::Upload(job) => &job.url,
            Self::Download(job) => &job.url,
        }
    }

    /// The URL, fit to be shown.
    pub(crate) fn shown_url(&self) -> Url {
        match self {
            Self::Upload(job) => job.shown_url(),
            Self::Download(job) => job.shown_url(),
        }
    }

    /// Bytes that are where they should be.
    pub(crate) fn done(&self) -> u64 {
        match self {
            Self::Upload(job) => job.next_offset(),
            Self::Download(job) => job.received,
        }
    }

    /// All bytes; none where that is not known yet.
    pub(crate) fn size(&self) -> Option<u64> {
        match self {
            Self::Upload(job) => Some(job.source.size),
            Self::Download(job) => job.size(),
        }
    }
}

const VERSION: u32 = 1;

/// The folder of job files.
#[derive(Clone, Debug)]
pub(crate) struct Jobs {
    folder: PathBuf,
}

/// A job that this process alone works on.
#[derive(Debug)]
pub(crate) struct Held {
    folder: PathBuf,
    pub(crate) entry: Entry,
    /// Held until the end.
    _lock: File,
}

/// Why a job cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobError {
    #[error("there is no home folder to keep jobs in; name one in the environment variable BITS_JOBS_DIR")]
    NoFolder,
    #[error("there is no job {0}; `bits jobs` lists them")]
    Unknown(String),
    #[error("{0} is the beginning of several jobs; give more of the name")]
    Ambiguous(String),
    #[error("another process works on job {0}; stop that one first, nothing is lost by it")]
    Busy(String),
    #[error("the job file {} cannot be understood: {cause}; remove it, or use the version of bits that wrote it", path.display())]
    Broken { path: PathBuf, cause: String },
    #[error("the job file {} cannot be {action}: {cause}", path.display())]
    File { action: &'static str, path: PathBuf, cause: io::Error },
}

impl Jobs {
    /// The folder that `BITS_JOBS_DIR` names, or the one of the user; created where it is missing.
    pub(crate) fn open() -> Result<Self, JobError> {
        let folder = match std::env::var_os("BITS_JOBS_DIR").filter(|folder| !folder.is_empty()) {
            Some(folder) => PathBuf::from(folder),
            None => users_folder().ok_or(JobError::NoFolder)?,
        };
        std::fs::create_dir_all(&folder).map_err(|cause| failed("created", &folder, cause))?;
        Ok(Self { folder })
    }

    /// A new job, locked and saved.
    pub(crate) fn create(
        &self,
        file: PathBuf,
        override_form: bool,
        fragment_size: Option<u64>,
        reply: Option<PathBuf>,
        job: Work,
    ) -> Result<Held, JobError> {
        loop {
            let id = format!("{:08x}", fastrand::u32(..));
            let path = self.folder.join(format!("{id}.lock"));
            let lock = match File::options().write(true).create_new(true).open(&path) {
                Ok(lock) => lock,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(failed("created", &path, error)),
            };
            lock.lock().map_err(|error| failed("locked", &path, error))?;
            let entry = Entry {
                version: VERSION,
                id,
                file,
                override_form,
                fragment_size,
                tls: Tls::default(),
                failed: None,
                reply,
                job,
            };
            let held = Held { folder: self.folder.clone(), entry, _lock: lock };
            held.save()?;
            return Ok(held);
        }
    }

    /// All jobs, oldest first; what cannot be read comes as an error.
    pub(crate) fn list(&self) -> Result<Vec<Result<Entry, JobError>>, JobError> {
        let mut entries: Vec<_> = self.ids()?.iter().filter_map(|id| read(&self.folder, id).transpose()).collect();
        entries.sort_by_key(|entry| entry.as_ref().map_or(0, |entry| entry.job.created()));
        Ok(entries)
    }

    /// The full name of the job whose name begins so.
    pub(crate) fn find(&self, beginning: &str) -> Result<String, JobError> {
        let ids = self.ids()?;
        let mut found = ids.iter().filter(|id| !beginning.is_empty() && id.starts_with(beginning));
        match (found.next(), found.next()) {
            (Some(id), None) => Ok(id.clone()),
            (None, _) => Err(JobError::Unknown(beginning.to_owned())),
            (Some(_), Some(_)) if ids.iter().any(|id| id == beginning) => Ok(beginning.to_owned()),
            (Some(_), Some(_)) => Err(JobError::Ambiguous(beginning.to_owned())),
        }
    }

    /// Locks a job and reads it.
    pub(crate) fn hold(&self, id: &str) -> Result<Held, JobError> {
        // Before the lock, whose file would be created.
        read(&self.folder, id)?.ok_or_else(|| JobError::Unknown(id.to_owned()))?;
        let lock = self.lock(id)?;
        let entry = read(&self.folder, id)?.ok_or_else(|| JobError::Unknown(id.to_owned()))?;
        Ok(Held { folder: self.folder.clone(), entry, _lock: lock })
    }

    /// Whether some process works on the job.
    pub(crate) fn is_busy(&self, id: &str) -> bool {
        matches!(self.lock(id), Err(JobError::Busy(_)))
    }

    fn lock(&self, id: &str) -> Result<File, JobError> {
        let path = self.folder.join(format!("{id}.lock"));
        let lock = File::options().write(true).create(true).truncate(false).open(&path);
        let lock = lock.map_err(|error| failed("opened", &path, error))?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => Err(JobError::Busy(id.to_owned())),
            Err(TryLockError::Error(error)) => Err(failed("locked", &path, error)),
        }
    }

    fn ids(&self) -> Result<Vec<String>, JobError> {
        let entries = std::fs::read_dir(&self.folder).map_err(|error| failed("listed", &self.folder, error))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect())
    }
}

impl Held {
    /// Replaces the job file: whenever the machine stops, it is the old one or the new one.
    pub(crate) fn save(&self) -> Result<(), JobError> {
        let path = self.path();
        self.write(&path).map_err(|error| failed("written", &path, error))
    }

    /// Removes the job.
    pub(crate) fn remove(self) -> Result<(), JobError> {
        let path = self.path();
        std::fs::remove_file(&path).map_err(|error| failed("removed", &path, error))?;
        // Who has the lock file open finds no job file any more. One left over does no harm.
        let _ = std::fs::remove_file(path.with_extension("lock"));
        Ok(())
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        // Readable by the user alone: the URL can hold a password.
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        serde_json::to_writer_pretty(file.as_file_mut(), &self.entry)?;
        file.as_file_mut().write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        sync_folder(&self.folder)
    }

    fn path(&self) -> PathBuf {
        self.folder.join(format!("{}.json", self.entry.id))
    }
}

/// The entry of a job; none where there is no such job.
fn read(folder: &Path, id: &str) -> Result<Option<Entry>, JobError> {
    let path = folder.join(format!("{id}.json"));
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", &path, error)),
    };
    let broken = |cause: String| JobError::Broken { path: path.clone(), cause };
    let entry: Entry = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
    if entry.version != VERSION || entry.id != id {
        return Err(broken(format!("it is job {} of version {}", entry.id, entry.version)));
    }
    Ok(Some(entry))
}

fn users_folder() -> Option<PathBuf> {
    let folders = directories::ProjectDirs::from("", "", "bits")?;
    Some(folders.state_dir().unwrap_or(folders.data_local_dir()).join("jobs"))
}

fn failed(action: &'static str, path: &Path, cause: io::Error) -> JobError {
    JobError::File { action, path: path.to_owned(), cause }
}

/// Makes the new name last; other systems than Unix have no such call.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use bits_client::Fingerprint;

    use super::*;

    fn jobs() -> (tempfile::TempDir, Jobs) {
        let folder = tempfile::tempdir().unwrap();
        let jobs = Jobs { folder: folder.path().to_owned() };
        (folder, jobs)
    }

    fn create(jobs: &Jobs) -> Held {
        let source = Fingerprint { size: 3, modified: Some(-1), identity: None };
        let job = Job::new("http://me:pw@server/up".parse().unwrap(), source);
        jobs.create("/some/file".into(), false, Some(9000), None, Work::Upload(job)).unwrap()
    }

    #[test]
    fn a_job_is_found_by_the_beginning_of_its_name_and_held_once() {
        let (_folder, jobs) = jobs();
        let held = create(&jobs);
        let id = held.entry.id.clone();
        assert_eq!(jobs.find(&id[..4]).unwrap(), id);
        assert!(jobs.is_busy(&id));
        assert!(matches!(jobs.hold(&id), Err(JobError::Busy(_))));
        let entry = held.entry.clone();
        drop(held);
        assert!(!jobs.is_busy(&id));
        let held = jobs.hold(&id).unwrap();
        assert_eq!(held.entry, entry);
        held.remove().unwrap();
        assert!(matches!(jobs.hold(&id), Err(JobError::Unknown(_))));
        assert!(jobs.list().unwrap().is_empty());
    }

    #[test]
    fn unknown_and_ambiguous_names_are_told_apart() {
        let (folder, jobs) = jobs();
        for name in ["aa01.json", "aa02.json", "aa01.lock", "aa.txt"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert!(matches!(jobs.find("aa"), Err(JobError::Ambiguous(_))));
        assert!(matches!(jobs.find("b"), Err(JobError::Unknown(_))));
        assert!(matches!(jobs.find(""), Err(JobError::Unknown(_))));
        assert_eq!(jobs.find("aa01").unwrap(), "aa01");
    }

    #[test]
    fn a_broken_or_newer_file_is_refused_and_named() {
        let (folder, jobs) = jobs();
        let held = create(&jobs);
        let newer = Entry { version: 2, id: "bb".into(), ..held.entry.clone() };
        std::fs::write(folder.path().join("bb.json"), serde_json::to_string(&newer).unwrap()).unwrap();
        std::fs::write(folder.path().join("cc.json"), "{").unwrap();
        for id in ["bb", "cc"] {
            let error = jobs.hold(id).unwrap_err();
            assert!(error.to_string().contains(&format!("{id}.json")), "{error}");
        }
        assert_eq!(jobs.list().unwrap().iter().filter(|entry| entry.is_err()).count(), 2);
    }

    #[cfg(unix)]
    #[test]
    fn job_files_are_for_the_user_alone() {
        use std::os::unix::fs::PermissionsExt;
        let (folder, jobs) = jobs();
        let held = create(&jobs);
        let path = folder.path().join(format!("{}.json", held.entry.id));
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
