use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{StoreError, make_dir};

/// Who acts on the clusters of a state directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub pid: u32,
    /// What was typed, such as `flypg controller`.
    pub command: String,
    /// Where it answers, if it does.
    pub listen: Option<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("{} is in use by `{}` (pid {})", .dir.display(), .holder.command, .holder.pid)]
    Held { dir: PathBuf, holder: Holder },
    /// The lock is taken, and its file does not say by whom.
    #[error("{} is in use by another process", .dir.display())]
    HeldBySomeone { dir: PathBuf },
    #[error("the state directory cannot be locked")]
    Store {
        #[source]
        source: StoreError,
    },
}

/// The right to act on the clusters of a state directory, held until it is dropped or the process ends: two
/// controllers with one memory would each take the other's unfinished work for their own.
#[derive(Debug)]
pub struct StateLock(File);

impl StateLock {
    /// # Errors
    /// If somebody else holds it.
    pub fn acquire(dir: &Path, holder: &Holder) -> Result<Self, LockError> {
        make_dir(dir).map_err(|source| LockError::Store { source })?;
        let mut file = open(dir)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(held(dir, &mut file)),
            Err(TryLockError::Error(source)) => return Err(failed(dir, "locked", source)),
        }
        let text = serde_json::to_string(holder).expect("a holder has string keys only");
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(text.as_bytes()))
            .map_err(|source| failed(dir, "written", source))?;
        Ok(Self(file))
    }
}

impl Drop for StateLock {
    fn drop(&mut self) {
        // Nobody is named as the holder of a lock that is free; if this fails, the lock itself still goes.
        let _ = self.0.set_len(0);
    }
}

/// Who holds the lock of `dir` now.
pub fn holder(dir: &Path) -> Option<Holder> {
    let mut file = File::open(dir.join("lock")).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => read(&mut file),
        _ => None,
    }
}

fn open(dir: &Path) -> Result<File, LockError> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(dir.join("lock"))
        .map_err(|source| failed(dir, "opened", source))
}

fn held(dir: &Path, file: &mut File) -> LockError {
    let dir = dir.to_owned();
    match read(file) {
        Some(holder) => LockError::Held { dir, holder },
        None => LockError::HeldBySomeone { dir },
    }
}

fn read(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn failed(dir: &Path, done: &'static str, source: std::io::Error) -> LockError {
    LockError::Store { source: StoreError::File { path: dir.join("lock"), done, source } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_the_other_is_told_who() {
        let dir = tempfile::tempdir().unwrap();
        let us = Holder {
            pid: 4242,
            command: "flypg controller".to_owned(),
            listen: Some("127.0.0.1:4281".parse().unwrap()),
        };
        let lock = StateLock::acquire(dir.path(), &us).unwrap();
        assert_eq!(holder(dir.path()), Some(us.clone()));
        let error = StateLock::acquire(dir.path(), &us).unwrap_err();
        assert!(error.to_string().ends_with("is in use by `flypg controller` (pid 4242)"), "{error}");
        drop(lock);
        assert_eq!(holder(dir.path()), None);
        StateLock::acquire(dir.path(), &us).unwrap();
    }
}
