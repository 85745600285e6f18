//! What differs between operating systems: reading at an offset, and what tells one file from another.

use std::{
    fs::{File, Metadata},
    io,
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
pub(crate) fn sync_folder(folder: Option<&std::path::Path>) -> io::Result<()> {
    File::open(folder.unwrap_or(std::path::Path::new(".")))?.sync_all()
}

/// Makes new names in a folder last; there is no such call here.
#[cfg(not(unix))]
pub(crate) fn sync_folder(_folder: Option<&std::path::Path>) -> io::Result<()> {
    Ok(())
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
