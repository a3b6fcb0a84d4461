//! The data directory as it lies on the volume. What is in the making lies in a directory of its own and is moved
//! here in one step when it is whole, so that Postgres never starts on a part.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flypg_core::decree::SystemId;
use flypg_core::names::NodeName;
use flypg_core::node::{DataDir, Origin};
use flypg_core::protocol::Lsn;

use crate::account::{self, command, private_directory};
use crate::config::Config;
use crate::files;
use crate::processes::output;

const MARK: &str = "origin.json";
/// The same, inside a whole data directory.
const ORIGIN: &str = "flypg_origin.json";

/// What `pg_controldata` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ControlData {
    pub system_id: String,
    /// Such as `in production` or `shut down in recovery`.
    pub cluster_state: String,
    /// The settings a standby must not have less of.
    pub limits: BTreeMap<String, u64>,
    /// Where the last checkpoint's record begins, where recovery would begin, and on which timeline.
    pub checkpoint: Lsn,
    pub redo: Lsn,
    pub checkpoint_timeline: u32,
    /// The timeline of the minimum recovery end; 0 if there is none.
    pub recovery_timeline: u32,
    /// Bytes of a segment of WAL.
    pub segment: u64,
}

impl ControlData {
    /// The timeline that the data are on, as far as this file tells: a promotion that has made no checkpoint yet shows
    /// only in the end of recovery.
    pub fn timeline(&self) -> u32 {
        self.checkpoint_timeline.max(self.recovery_timeline)
    }

    /// It was a primary's, and it was shut down cleanly: its checkpoint is the last there is.
    pub fn is_shut_down(&self) -> bool {
        self.cluster_state == "shut down"
    }

    /// The same of a standby.
    pub fn is_shut_down_in_recovery(&self) -> bool {
        self.cluster_state == "shut down in recovery"
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("pg_controldata could not be run")]
    Run(#[source] io::Error),
    #[error("pg_controldata failed: {0}")]
    Failed(String),
}

/// Looks at the volume.
pub async fn look(config: &Config) -> io::Result<DataDir> {
    let paths = &config.paths;
    let version = match files::read_if_there(&paths.pgdata.join("PG_VERSION"))? {
        Some(bytes) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        None => return look_at_unfinished(config),
    };
    let Ok(major) = version.parse() else {
        return Ok(DataDir::Unusable { why: format!("PG_VERSION of the data directory says `{version}`") });
    };
    let system_id = if major == config.major {
        match control_data(config).await {
            Ok(control) => SystemId(control.system_id),
            Err(error) => return Ok(DataDir::Unusable { why: crate::words(&error) }),
        }
    } else {
        // pg_controldata reads its own major version only; the other version is reason enough not to run.
        SystemId(String::new())
    };
    Ok(DataDir::Complete {
        major,
        system_id,
        standby_signal: paths.pgdata.join("standby.signal").try_exists()?,
        origin: read_origin(&paths.pgdata.join(ORIGIN))?,
    })
}

fn look_at_unfinished(config: &Config) -> io::Result<DataDir> {
    let paths = &config.paths;
    let is_empty = |path: &Path| match std::fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    };
    if !is_empty(&paths.pgdata)? {
        let why = format!("{} holds files, but no PG_VERSION", paths.pgdata.display());
        return Ok(DataDir::Unusable { why });
    }
    if paths.making.try_exists()? {
        return Ok(DataDir::Unfinished(read_origin(&paths.making.join(MARK))?));
    }
    Ok(DataDir::Blank)
}

fn read_origin(path: &Path) -> io::Result<Option<Origin>> {
    // A mark that cannot be read is one that was not finished, which is as good as none.
    Ok(files::read_if_there(path)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// Marks, durably, that a data directory is being made, and returns where.
pub fn begin(config: &Config, origin: &Origin) -> io::Result<PathBuf> {
    let paths = &config.paths;
    private_directory(&paths.making, config.account)?;
    files::replace(&paths.making.join(MARK), &mark(origin), None)?;
    files::flush_parent(&paths.making)?;
    Ok(paths.making.join("pgdata"))
}

/// Moves a finished data directory to its place. `initdb` and `pg_basebackup` have flushed it already.
pub fn finish(config: &Config, origin: &Origin) -> io::Result<()> {
    let made = complete(config, origin)?;
    // An empty directory of that name gives way.
    std::fs::rename(&made, &config.paths.pgdata)?;
    files::flush_parent(&config.paths.pgdata)?;
    remove_unfinished(config)
}

/// Puts a finished clone in the place of the data directory that is there, in one step, and removes that.
pub fn finish_instead(config: &Config, origin: &Origin) -> io::Result<()> {
    let made = complete(config, origin)?;
    exchange(&made, &config.paths.pgdata)?;
    files::flush_parent(&made)?;
    files::flush_parent(&config.paths.pgdata)?;
    remove_unfinished(config)
}

/// Moves the data directory to where unfinished ones are, under the mark of one.
pub fn set_aside(config: &Config, origin: &Origin) -> io::Result<()> {
    let aside = begin(config, origin)?;
    std::fs::rename(&config.paths.pgdata, &aside)?;
    files::flush_parent(&aside)?;
    files::flush_parent(&config.paths.pgdata)
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    Ok(renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE)?)
}

/// Elsewhere nix has no name for it; there is never room for two then.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Writes into what was made how it was made, and that it is a standby if it is a clone.
fn complete(config: &Config, origin: &Origin) -> io::Result<PathBuf> {
    let made = config.paths.making.join("pgdata");
    files::replace(&made.join(ORIGIN), &mark(origin), config.account)?;
    if matches!(origin, Origin::Clone { .. }) {
        files::replace(&made.join("standby.signal"), b"", config.account)?;
    }
    Ok(made)
}

/// Whether something lies where data are made. Beside a whole data directory it is of no use.
pub fn is_making(config: &Config) -> bool {
    config.paths.making.try_exists().unwrap_or(false)
}

/// How many bytes the data directory takes up on the volume.
pub fn size(config: &Config) -> u64 {
    fn below(directory: &Path) -> u64 {
        let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
        let of = |entry: std::fs::DirEntry| match entry.metadata() {
            Ok(found) if found.is_dir() => below(&entry.path()),
            Ok(found) => found.blocks() * 512,
            Err(_) => 0, // removed meanwhile
        };
        entries.flatten().map(of).sum()
    }
    below(&config.paths.pgdata)
}

pub fn remove_unfinished(config: &Config) -> io::Result<()> {
    files::remove_tree(&config.paths.making)?;
    files::flush_parent(&config.paths.making)
}

/// Removes the slots that a primary kept for others, and its logical ones: on a copy nobody moves them on, and they would
/// keep WAL for ever, stand where the new primary's are not, and be in the way of slots that are synchronised from there
/// (rule R18). Physical ones that are not ours stay. Only while Postgres is stopped.
pub fn remove_slots(config: &Config) -> io::Result<()> {
    let slots = config.paths.pgdata.join("pg_replslot");
    for entry in std::fs::read_dir(&slots)? {
        let entry = entry?;
        let name = entry.file_name();
        let ours = name.to_str().and_then(NodeName::of_slot).is_some();
        let logical = || is_logical(&entry.path());
        if ours || logical()? {
            if !ours {
                tracing::warn!(slot = ?name, "a logical slot does not outlive the reign of its primary; it is removed");
            }
            files::remove_tree(&entry.path())?;
        }
    }
    std::fs::File::open(&slots)?.sync_all()
}

/// Whether a slot is of a database, as its file says: PostgreSQL's `slot.c`, where the number of the database follows a
/// header of 16 bytes and the name's 64, in the machine's order of bytes. A file that is cut short is that of a slot
/// which PostgreSQL would not start with.
fn is_logical(slot: &Path) -> io::Result<bool> {
    const DATABASE: std::ops::Range<usize> = 80..84;
    let state = files::read_if_there(&slot.join("state"))?;
    let database = state.as_ref().and_then(|bytes| bytes.get(DATABASE));
    Ok(database.is_some_and(|oid| oid.iter().any(|byte| *byte != 0)))
}

/// Makes the data directory a standby's: Postgres comes up in recovery and stays there.
pub fn leave_standby_signal(config: &Config) -> io::Result<()> {
    files::replace(&config.paths.pgdata.join("standby.signal"), b"", config.account)
}

pub fn remove_standby_signal(config: &Config) -> io::Result<()> {
    remove_durably(&config.paths.pgdata.join("standby.signal"))
}

/// Writes into the data directory that it is a copy of `from`'s.
pub fn leave_origin(config: &Config, from: &NodeName) -> io::Result<()> {
    let origin = Origin::Clone { from: from.clone() };
    files::replace(&config.paths.pgdata.join(ORIGIN), &mark(&origin), config.account)
}

/// `pg_rewind` is about to change the data directory, or has been and was not seen to end.
pub fn mark_rewind(config: &Config) -> io::Result<()> {
    files::replace(&config.paths.rewinding, b"", None)
}

pub fn is_rewind_marked(config: &Config) -> bool {
    // What cannot be seen may be there.
    config.paths.rewinding.try_exists().unwrap_or(true)
}

pub fn unmark_rewind(config: &Config) -> io::Result<()> {
    remove_durably(&config.paths.rewinding)
}

fn remove_durably(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| files::flush_parent(path)),
    }
}

fn mark(origin: &Origin) -> Vec<u8> {
    serde_json::to_vec(origin).expect("an origin is JSON")
}

/// Runs `pg_controldata` on the data directory.
pub async fn control_data(config: &Config) -> Result<ControlData, ControlError> {
    let mut pg_controldata = command(&config.program("pg_controldata"), config.account);
    let output = output(pg_controldata.arg("-D").arg(&config.paths.pgdata)).await.map_err(ControlError::Run)?;
    if !output.status.success() {
        return Err(ControlError::Failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    parse_control_data(&String::from_utf8_lossy(&output.stdout))
        .ok_or_else(|| ControlError::Failed("its answer is not understood".to_owned()))
}

fn parse_control_data(text: &str) -> Option<ControlData> {
    let mut control = ControlData::default();
    for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        match name.trim() {
            "Database system identifier" => control.system_id = value.to_owned(),
            "Database cluster state" => control.cluster_state = value.to_owned(),
            "Latest checkpoint location" => control.checkpoint = value.parse().ok()?,
            "Latest checkpoint's REDO location" => control.redo = value.parse().ok()?,
            "Latest checkpoint's TimeLineID" => control.checkpoint_timeline = value.parse().ok()?,
            "Min recovery ending loc's timeline" => control.recovery_timeline = value.parse().ok()?,
            "Bytes per WAL segment" => control.segment = value.parse().ok()?,
            name => {
                if let (Some(setting), Ok(value)) = (name.strip_suffix(" setting"), value.parse()) {
                    // pg_controldata abbreviates two of the names.
                    let setting = match setting {
                        "max_prepared_xacts" => "max_prepared_transactions",
                        "max_locks_per_xact" => "max_locks_per_transaction",
                        same => same,
                    };
                    control.limits.insert(setting.to_owned(), value);
                }
            }
        }
    }
    (!control.system_id.is_empty() && control.segment > 0).then_some(control)
}

/// Gives the data directory to PostgreSQL's account where it is another's: the image that wrote this volume may have
/// known the account by another number.
pub fn take_over(config: &Config) -> io::Result<()> {
    let (Some(account), pgdata) = (config.account, &config.paths.pgdata) else { return Ok(()) };
    match account::is_given(pgdata, Some(account)) {
        Ok(true) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    tracing::warn!("the data directory belongs to another account; it is given to PostgreSQL's");
    account::give_tree(pgdata, account)
}

/// Prepares the runtime directories. What is in them belongs to an earlier life.
pub fn prepare_runtime(config: &Config, password_line: &str) -> io::Result<()> {
    let paths = &config.paths;
    std::fs::create_dir_all(&paths.volume)?;
    for directory in [&paths.run, &paths.socket, &paths.upstream] {
        private_directory(directory, config.account)?;
    }
    files::replace(&paths.passfile, password_line.as_bytes(), config.account)?;
    account::give(&paths.passfile, config.account)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_data_as_postgres_15_prints_it() {
        let text = "pg_control version number:            1300\n\
                    Database system identifier:           7412345678901234567\n\
                    Database cluster state:               in archive recovery\n\
                    pg_control last modified:             Sun Nov 22 16:53:53 2026\n\
                    Latest checkpoint location:           0/3000060\n\
                    Latest checkpoint's REDO location:    0/3000028\n\
                    Latest checkpoint's TimeLineID:       1\n\
                    Latest checkpoint's PrevTimeLineID:   1\n\
                    Minimum recovery ending location:     0/30001D8\n\
                    Min recovery ending loc's timeline:   2\n\
                    Bytes per WAL segment:                16777216\n\
                    wal_level setting:                    logical\n\
                    max_connections setting:              300\n\
                    max_worker_processes setting:         10\n\
                    max_wal_senders setting:              32\n\
                    max_prepared_xacts setting:           0\n\
                    max_locks_per_xact setting:           64\n";
        let control = parse_control_data(text).unwrap();
        assert_eq!(control.system_id, "7412345678901234567");
        assert_eq!(control.cluster_state, "in archive recovery");
        assert_eq!(control.limits.len(), 5);
        assert_eq!((control.checkpoint, control.redo), (Lsn(0x300_0060), Lsn(0x300_0028)));
        assert_eq!((control.timeline(), control.segment), (2, 16 << 20));
        for (name, _) in flypg_core::settings::HOT_STANDBY_SENSITIVE {
            assert!(control.limits.contains_key(name), "{name}");
        }
        assert_eq!(parse_control_data("pg_controldata: error"), None);
    }
}
