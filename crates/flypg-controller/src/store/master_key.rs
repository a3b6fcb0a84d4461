use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flypg_core::keys::{BadKey, Key};

use super::{StoreError, make_dir};

#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    #[error("the master key cannot be kept")]
    Store {
        #[source]
        source: StoreError,
    },
    #[error("{} does not hold a master key", .path.display())]
    Malformed {
        path: PathBuf,
        #[source]
        source: BadKey,
    },
}

/// The master key below `dir`; `None` if none was made yet.
///
/// # Errors
/// If it is there and cannot be read.
pub fn load_master_key(dir: &Path) -> Result<Option<Key>, MasterKeyError> {
    let path = dir.join("master.key");
    match std::fs::read_to_string(&path) {
        Ok(text) => text.parse().map(Some).map_err(|source| MasterKeyError::Malformed { path, source }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed(path, "read", source)),
    }
}

/// The master key below `dir`, made on first use: every cluster's key follows from it, so it is on disk before it is
/// used, readable by this user alone, and never overwritten.
///
/// # Errors
/// If it cannot be read or made.
pub fn load_or_create_master_key(dir: &Path) -> Result<Key, MasterKeyError> {
    if let Some(key) = load_master_key(dir)? {
        return Ok(key);
    }
    make_dir(dir).map_err(|source| MasterKeyError::Store { source })?;
    let mut bytes = [0; 32];
    let random = Path::new("/dev/urandom");
    File::open(random)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|source| failed(random.to_owned(), "read", source))?;
    let key = Key::from_bytes(bytes);

    let path = dir.join("master.key");
    let draft = dir.join(format!("master.key.{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
        file.write_all(format!("{}\n", key.expose()).as_bytes())?;
        file.sync_all()?;
        // Unlike a rename, a link never replaces the key that somebody else made meanwhile.
        let linked = std::fs::hard_link(&draft, &path);
        std::fs::remove_file(&draft)?;
        File::open(dir)?.sync_all()?;
        linked
    };
    match write() {
        Ok(()) => Ok(key),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            load_master_key(dir)?.ok_or_else(|| failed(path, "read", error))
        }
        Err(source) => Err(failed(path, "written", source)),
    }
}

fn failed(path: PathBuf, done: &'static str, source: std::io::Error) -> MasterKeyError {
    MasterKeyError::Store { source: StoreError::File { path, done, source } }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load_master_key(dir.path()).unwrap().is_none());
        let key = load_or_create_master_key(dir.path()).unwrap();
        assert_eq!(load_or_create_master_key(dir.path()).unwrap(), key);
        assert_eq!(load_master_key(dir.path()).unwrap(), Some(key));
        let path = dir.path().join("master.key");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no draft is left behind");

        std::fs::write(&path, "not a key").unwrap();
        assert!(load_or_create_master_key(dir.path()).is_err(), "a damaged key is not replaced by another");
    }
}
