//! Replies of server applications, beside the uploads under way. Everything but the writing of a
//! body blocks.

use bits_core::{BodyStream, SharedFiles, Stopped, StoreError, StoreErrorKind};
use futures_util::StreamExt;
use rustix::{
    fd::OwnedFd,
    fs::{AtFlags, FileType, Mode, OFlags, fstat, openat, renameat, unlinkat},
    io::{Errno, Result as SysResult},
};
use tokio::task::spawn_blocking;

use crate::{
    batch::Batch,
    error::failed,
    root::file_type,
    staging::{Disk, Place, make_staging_file, size},
    store::stopping,
    sys::{set_modified, sync_all},
};

/// Names besides the upload's own.
const PARTIAL: &str = "reply.new";
const RESPONSE: &str = "response";

const READ: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// Where an application finds the upload, and may leave its reply; what it left before is deleted.
pub(crate) fn share(disk: &Disk, place: &Place) -> Result<SharedFiles, StoreError> {
    let response = place.beside(RESPONSE);
    let removed = disk.root.folder(&place.folder).and_then(|folder| remove(&folder, &response));
    removed.map_err(|errno| failed(format!("cannot delete {}", place.show_beside(&disk.root, RESPONSE)), errno))?;
    let folder = disk.root.path().join(&place.folder);
    let name = |file: &str| {
        folder.join(file).into_os_string().into_string().map_err(|path| {
            let context = format!("{} cannot be told to an application: it is not UTF-8", path.display());
            StoreError::new(StoreErrorKind::Other, context)
        })
    };
    Ok(SharedFiles { request: name(&place.name)?, response: name(&response)? })
}

/// Makes the reply of what an application left, if it left anything.
pub(crate) fn take(disk: &Disk, place: &Place) -> Result<u64, StoreError> {
    let response = place.beside(RESPONSE);
    let wrong =
        |errno| failed(format!("cannot take the reply {} over", place.show_beside(&disk.root, RESPONSE)), errno);
    let folder = disk.root.folder(&place.folder).map_err(wrong)?;
    let file = match openat(&folder, &response, READ, Mode::empty()) {
        Err(Errno::NOENT) => return none(&folder, place).map_err(wrong),
        other => other.map_err(wrong)?,
    };
    let stat = fstat(&file).map_err(wrong)?;
    if file_type(&stat) != FileType::RegularFile {
        let context = format!("{} is not a regular file", place.show_beside(&disk.root, RESPONSE));
        return Err(StoreError::new(StoreErrorKind::Denied, context));
    }
    if size(&stat) == 0 {
        return remove(&folder, &response).and_then(|()| none(&folder, place)).map_err(wrong);
    }
    name(disk, place, &folder, &file, &response).map_err(wrong)?;
    Ok(size(&stat))
}

/// Writes `body` to a file of its own, and makes that the reply when it is whole.
pub(crate) async fn write(writer: Writer, body: &mut BodyStream<'_>) -> Result<u64, Stopped> {
    let mut writer = spawn_blocking(move || writer.open()).await.unwrap_or_else(|error| Err(stopping(error)))?;
    let mut batch = Batch::default();
    while let Some(frame) = body.next().await {
        batch.push(frame?);
        if batch.is_full() {
            (writer, batch) = writer.flush_elsewhere(batch).await?;
        }
    }
    let (writer, _) = writer.flush_elsewhere(batch).await?;
    Ok(spawn_blocking(move || writer.finish()).await.unwrap_or_else(|error| Err(stopping(error)))?)
}

/// Deletes the reply, and whatever an application or a crash left of one.
pub(crate) fn discard(disk: &Disk, place: &Place) -> Result<(), StoreError> {
    let names = [PARTIAL, RESPONSE, Place::REPLY].map(|name| place.beside(name));
    let removed = match disk.root.folder(&place.folder) {
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
        Ok(folder) => names.iter().try_for_each(|name| remove(&folder, name)),
    };
    removed.map_err(|errno| failed(format!("cannot delete the reply of {}", place.show(&disk.root)), errno))
}

/// A reply on its way to its file.
pub(crate) struct Writer {
    shared: std::sync::Arc<crate::store::Shared>,
    place: Place,
    file: Option<OwnedFd>,
    written: u64,
}

impl Writer {
    pub(crate) fn new(shared: std::sync::Arc<crate::store::Shared>, place: Place) -> Self {
        Self { shared, place, file: None, written: 0 }
    }

    fn open(mut self) -> Result<Self, StoreError> {
        let partial = self.place.beside(PARTIAL);
        let disk = self.shared.disk();
        let shown = self.place.show_beside(&disk.root, PARTIAL);
        let wrong = |errno| failed(format!("cannot make {shown}"), errno);
        match disk.root.folder(&self.place.folder).and_then(|folder| remove(&folder, &partial)) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(wrong(errno)),
        }
        self.file = Some(make_staging_file(disk, &self.place.folder, &partial).map_err(wrong)?);
        Ok(self)
    }

    async fn flush_elsewhere(mut self, mut batch: Batch) -> Result<(Self, Batch), StoreError> {
        let work = move || {
            self.flush(&mut batch)?;
            Ok((self, batch))
        };
        spawn_blocking(work).await.unwrap_or_else(|error| Err(stopping(error)))
    }

    fn flush(&mut self, batch: &mut Batch) -> Result<(), StoreError> {
        let disk = self.shared.disk();
        let shown = || self.place.show_beside(&disk.root, PARTIAL);
        let Some(file) = &self.file else { return Ok(()) };
        let wrong = |errno| failed(format!("cannot write to {}", shown()), errno);
        if !disk.room.is_left(file).map_err(wrong)? {
            let context = format!("no more space than is kept in reserve for {}", shown());
            return Err(StoreError::new(StoreErrorKind::Full, context));
        }
        let (count, outcome) = batch.write_to(file, self.written);
        self.written += count;
        outcome.map_err(wrong)
    }

    fn finish(self) -> Result<u64, StoreError> {
        let (disk, partial) = (self.shared.disk(), self.place.beside(PARTIAL));
        let shown = self.place.show_beside(&disk.root, PARTIAL);
        let wrong = |errno| failed(format!("cannot keep {shown}"), errno);
        let folder = disk.root.folder(&self.place.folder).map_err(wrong)?;
        match &self.file {
            Some(file) if self.written > 0 => name(disk, &self.place, &folder, file, &partial).map_err(wrong)?,
            _ => drop(remove(&folder, &partial).and_then(|()| none(&folder, &self.place)).map_err(wrong)?),
        }
        Ok(self.written)
    }
}

impl Drop for Writer {
    /// What is not whole is given back at once.
    fn drop(&mut self) {
        let disk = self.shared.disk();
        if let Ok(folder) = disk.root.folder(&self.place.folder) {
            let _ = unlinkat(folder, self.place.beside(PARTIAL), AtFlags::empty());
        }
    }
}

/// Makes the file that stands at `from` the reply, with its bytes durable before its name is. It
/// is as old as that, unless an application left a file that is not ours to touch.
fn name(disk: &Disk, place: &Place, folder: &OwnedFd, file: &OwnedFd, from: &str) -> SysResult<()> {
    match set_modified(file, None) {
        Ok(()) | Err(Errno::PERM | Errno::ACCESS) => {}
        Err(errno) => return Err(errno),
    }
    sync_all(file)?;
    renameat(folder, from, folder, place.beside(Place::REPLY))?;
    sync_all(folder)?;
    disk.root.sync_way_to(&place.folder)
}

/// There is no reply, nor an older one.
fn none(folder: &OwnedFd, place: &Place) -> SysResult<u64> {
    remove(folder, &place.beside(Place::REPLY)).map(|()| 0)
}

fn remove(folder: &OwnedFd, name: &str) -> SysResult<()> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}
