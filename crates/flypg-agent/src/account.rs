//! Whom PostgreSQL runs as. It refuses to run as root.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::unistd::{Gid, Uid, User, geteuid};
use tokio::process::Command;

/// The user `postgres`, to which a root agent drops.
#[derive(Debug, Clone, Copy)]
pub struct Account {
    uid: Uid,
    gid: Gid,
}

#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    #[error("the agent runs as root and there is no user `postgres` to run PostgreSQL as")]
    NoUser,
    #[error("the user `postgres` could not be looked up")]
    Lookup(#[source] nix::Error),
}

impl Account {
    /// `None` if the agent is not root: PostgreSQL then runs as the agent's user.
    pub fn for_postgres() -> Result<Option<Self>, AccountError> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        let user = User::from_name("postgres").map_err(AccountError::Lookup)?.ok_or(AccountError::NoUser)?;
        Ok(Some(Self { uid: user.uid, gid: user.gid }))
    }
}

/// A program that runs as `account`, with an environment of its own: no secret of the agent's is passed on.
pub fn command(program: &Path, account: Option<Account>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LC_ALL", "C").env("TZ", "UTC");
    // By this an emulated machine knows which processes are its own.
    if let Some(root) = std::env::var_os(crate::config::ROOT) {
        command.env(crate::config::ROOT, root);
    }
    // A signal for the agent's process group, such as Ctrl-C, is the agent's to pass on.
    command.process_group(0);
    if let Some(Account { uid, gid }) = account {
        // The standard library drops the supplementary groups as well.
        command.uid(uid.as_raw()).gid(gid.as_raw());
    }
    command
}

/// Makes `path` a directory that only `account` may enter.
pub fn private_directory(path: &Path, account: Option<Account>) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
    give(path, account)
}

/// Whether `path` belongs to `account`; to nobody in particular if there is no account to give things to.
pub fn is_given(path: &Path, account: Option<Account>) -> io::Result<bool> {
    let Some(Account { uid, gid }) = account else { return Ok(true) };
    let owner = std::fs::symlink_metadata(path)?;
    Ok((owner.uid(), owner.gid()) == (uid.as_raw(), gid.as_raw()))
}

/// Makes `account` the owner of all below `path` and at last of `path`, so that what is cut short is seen to be.
pub fn give_tree(path: &Path, account: Account) -> io::Result<()> {
    if std::fs::symlink_metadata(path)?.is_dir() {
        for entry in std::fs::read_dir(path)? {
            give_tree(&entry?.path(), account)?;
        }
    }
    std::os::unix::fs::lchown(path, Some(account.uid.as_raw()), Some(account.gid.as_raw()))
}

/// Makes `account` the owner of `path`.
pub fn give(path: &Path, account: Option<Account>) -> io::Result<()> {
    match account {
        Some(Account { uid, gid }) => std::os::unix::fs::chown(path, Some(uid.as_raw()), Some(gid.as_raw())),
        None => Ok(()),
    }
}
