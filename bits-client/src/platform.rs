//! What differs between operating systems: reading and writing at an offset, names of files, and what
//! tells one file from another.

use std::{
    fs::{File, Metadata},
    io,
    path::Path,
};

/// Reads at an offset; may read less than asked.
#[cfg(unix)]
pub(crate) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

/// Reads at an offset; may read less than asked.
#[cfg(windows)]
pub(crate) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}

/// Reads at an offset; may read less than asked. Only one reader at a time uses a file here.
#[cfg(not(any(unix, windows)))]
pub(crate) fn read_at(mut file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    use std::io::{Read, Seek};
    file.seek(io::SeekFrom::Start(offset))?;
    file.read(buffer)
}

/// Writes all of `bytes` at an offset.
#[cfg(unix)]
pub(crate) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

/// Writes all of `bytes` at an offset. Only one writer at a time uses a file here.
#[cfg(not(unix))]
pub(crate) fn write_at(mut file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    use std::io::{Seek, Write};
    file.seek(io::SeekFrom::Start(offset))?;
    file.write_all(bytes)
}

/// Makes new names in a folder last, the current one where none is named.
#[cfg(unix)]
pub(crate) fn sync_folder(folder: Option<&Path>) -> io::Result<()> {
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Makes new names in a folder last; there is no such call here.
#[cfg(not(unix))]
pub(crate) fn sync_folder(_folder: Option<&Path>) -> io::Result<()> {
    Ok(())
}

/// Gives a file another name, which must be free.
#[cfg(target_os = "linux")]
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // The file system, or the kernel, cannot promise that.
        Err(Errno::INVAL | Errno::NOSYS) => rename_unless_taken(from, to),
        renamed => Ok(renamed?),
    }
}

/// Gives a file another name, which must be free.
#[cfg(not(target_os = "linux"))]
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    rename_unless_taken(from, to)
}

/// Who takes the name at this very moment loses it.
fn rename_unless_taken(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(to) {
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::rename(from, to),
        Err(error) => Err(error),
    }
}

/// The inode. Not the device: its number changes between boots on some file systems.
#[cfg(unix)]
pub(crate) fn identity(metadata: &Metadata) -> Option<String> {
    Some(format!("inode {}", std::os::unix::fs::MetadataExt::ino(metadata)))
}

/// When the file was created, where the file system knows.
#[cfg(not(unix))]
pub(crate) fn identity(metadata: &Metadata) -> Option<String> {
    let created = metadata.created().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(format!("created {}", created.as_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_taken_is_not_given() {
        for rename in [rename_new, rename_unless_taken] {
            let folder = tempfile::tempdir().unwrap();
            let (from, to) = (folder.path().join("from"), folder.path().join("to"));
            std::fs::write(&from, "new").unwrap();
            std::fs::write(&to, "old").unwrap();
            assert_eq!(rename(&from, &to).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(std::fs::read(&to).unwrap(), b"old");
            std::fs::remove_file(&to).unwrap();
            rename(&from, &to).unwrap();
            assert_eq!(std::fs::read(&to).unwrap(), b"new");
        }
    }
}
