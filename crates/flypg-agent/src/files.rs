//! Writing files so that they are there, whole, after a power cut.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::account::{Account, give, is_given};

/// Replaces `path` by `bytes` in one step: a reader, or the next boot, finds the old file or the new one.
pub fn replace(path: &Path, bytes: &[u8], owner: Option<Account>) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    give(&fresh, owner)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    flush_parent(path)
}

/// The same, where it is not so already. On a full or read-only volume, what is right is left in peace.
pub fn bring(path: &Path, bytes: &[u8], owner: Option<Account>) -> io::Result<()> {
    match read_if_there(path)? {
        Some(found) if found == bytes && is_given(path, owner)? => Ok(()),
        _ => replace(path, bytes, owner),
    }
}

/// Overwrites the file where it is, so that no room on the volume is needed. Not atomic: a power cut may tear it.
/// False, and nothing done, if there is no file of exactly this length.
pub fn overwrite(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let mut file = match OpenOptions::new().write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    if file.metadata()?.len() != bytes.len() as u64 {
        return Ok(false);
    }
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(true)
}

/// Makes a change of names in `path`'s directory durable.
pub fn flush_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// The file's bytes, `None` if there is none.
pub fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a directory and all below it; that it is not there is as good.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
