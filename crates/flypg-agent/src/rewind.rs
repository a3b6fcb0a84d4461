//! Making a copy out of data that were a primary's, or that went another way (rule R16).
//!
//! The ledger says that the data are not whole before any of this begins, and Postgres does not start while it does.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use flypg_core::decree::Epoch;
use flypg_core::failover::{History, Lineage};
use flypg_core::names::NodeName;
use flypg_core::protocol::{End, Lsn};
use nix::sys::statvfs::statvfs;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::account::command;
use crate::conf::{Purpose, conninfo};
use crate::config::Config;
use crate::data_dir;
use crate::files;
use crate::primary::{self, AskError};
use crate::processes::{self, Awaited};
use crate::server_log::errors_in;
use crate::wal;

/// A rewind that says nothing for so long is over.
const STALLED: Duration = Duration::from_secs(600);
/// What is set aside leaves at least this much of the volume free: the rewind itself needs room.
const SPARE: u64 = 256 << 20;

#[derive(Debug, thiserror::Error)]
pub enum RewindError {
    /// The data are as they were: it may be tried again.
    #[error("the rewind cannot begin yet")]
    NotYet(#[source] NotYet),
    /// They may not be, or can never be rewound: WAL that it needs is gone. Only another copy helps.
    #[error("the data cannot be rewound: {0}")]
    Failed(String),
    #[error("{what} failed; the rewind is begun again")]
    Io { what: &'static str, source: std::io::Error },
}

#[derive(Debug, thiserror::Error)]
pub enum NotYet {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("{0} is not a primary that has made a checkpoint on its timeline")]
    NoCheckpoint(NodeName),
    #[error("{0}")]
    Words(String),
}

/// Whether `from` is a primary whose last checkpoint is on its timeline: until it is, `pg_rewind` up to 15 finds
/// nothing to do and leaves rows that only these data have.
const IS_READY: &str =
    "SELECT CASE WHEN pg_is_in_recovery() THEN false ELSE (SELECT timeline_id FROM pg_control_checkpoint())
    = ('x' || substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8))::bit(32)::int END";

/// Rewinds the stopped data directory to what `from` has, and leaves it a standby's. `astray`: it is known to hold what
/// `from` does not.
pub async fn rewind(config: &Config, from: &NodeName, astray: bool) -> Result<(), RewindError> {
    let io = |what| move |source| RewindError::Io { what, source };
    let not_yet = |why| RewindError::NotYet(why);
    let ready = primary::query(config, IS_READY).await.map_err(|error| not_yet(error.into()))?;
    if ready.trim() != "t" {
        return Err(not_yet(NotYet::NoCheckpoint(from.clone())));
    }
    processes::forget_stale_pid_file(&config.paths.pgdata);
    // Single-user mode, in which pg_rewind recovers data that were not shut down, knows no standby (E17b).
    data_dir::remove_standby_signal(config).map_err(io("removing standby.signal"))?;
    data_dir::mark_rewind(config).map_err(io("marking the rewind"))?;
    match run(config).await? {
        Outcome::Rewound => {}
        Outcome::NothingToDo if !astray => {}
        Outcome::NothingToDo => {
            return Err(RewindError::Failed("pg_rewind finds nothing to do, and the data went another way".to_owned()));
        }
        Outcome::Failed { words, touched } if touched || !says_unreachable(&words) => {
            return Err(RewindError::Failed(words));
        }
        Outcome::Failed { words, .. } => {
            data_dir::unmark_rewind(config).map_err(io("unmarking the rewind"))?;
            return Err(not_yet(NotYet::Words(words)));
        }
    }
    // The files of the source's configuration came with its data; ours are written before Postgres starts.
    data_dir::leave_origin(config, from).map_err(io("writing where the data are from"))?;
    data_dir::leave_standby_signal(config).map_err(io("leaving standby.signal"))?;
    data_dir::unmark_rewind(config).map_err(io("unmarking the rewind"))
}

#[derive(Debug)]
enum Outcome {
    Rewound,
    NothingToDo,
    Failed { words: String, touched: bool },
}

async fn run(config: &Config) -> Result<Outcome, RewindError> {
    let io = |what| move |source| RewindError::Io { what, source };
    let mut rewind = command(&config.program("pg_rewind"), config.account);
    rewind.arg("--target-pgdata").arg(&config.paths.pgdata).arg("--progress");
    rewind.arg("--source-server").arg(format!("{} dbname=postgres", conninfo(config, Purpose::Rewind)));
    // If this agent dies, the next one finds it by where it works.
    rewind.current_dir(&config.paths.pgdata);
    rewind.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut running = Awaited::disposable(&mut rewind).map_err(io("starting pg_rewind"))?;
    let stderr = running.child.stderr.take().expect("stderr was asked for as a pipe");
    let mut lines = BufReader::new(stderr).lines();
    let (mut said, mut touched) = (String::new(), false);
    loop {
        match tokio::time::timeout(STALLED, lines.next_line()).await {
            Err(_) => {
                return Ok(Outcome::Failed { words: format!("pg_rewind said nothing for {STALLED:?}"), touched: true });
            }
            Ok(Ok(Some(line))) if line.contains(" kB (") => touched = true,
            Ok(Ok(Some(line))) => {
                touched |= line.contains("need to copy");
                tracing::info!(target: "pg_rewind", "{line}");
                said.push_str(&line);
                said.push('\n');
            }
            Ok(Ok(None) | Err(_)) => break,
        }
    }
    let status = running.child.wait().await.map_err(io("waiting for pg_rewind"))?;
    Ok(match (status.success(), said.contains("no rewind required")) {
        (true, true) => Outcome::NothingToDo,
        (true, false) => Outcome::Rewound,
        (false, _) => {
            let words = errors_in(said.lines()).unwrap_or_else(|| said.trim().to_owned());
            // Recovery in single-user mode changes the data, and leaves them what they are.
            Outcome::Failed { words, touched }
        }
    })
}

/// Whether `pg_rewind` failed for want of the source, in libpq's words.
fn says_unreachable(words: &str) -> bool {
    ["could not connect", "connection to server", "server closed the connection"].iter().any(|say| words.contains(say))
}

/// Copies the WAL that only these data have to a directory of its own beside them, as far as it fits: somebody may want
/// to look for rows in it. That of an earlier time is removed.
pub fn set_aside(config: &Config, history: &History, from: Lsn, epoch: Epoch, segment: u64) -> std::io::Result<()> {
    let paths = &config.paths;
    let aside = |name: &str| paths.volume.join(name);
    let name = format!("diverged-{epoch}");
    for entry in std::fs::read_dir(&paths.volume)? {
        let entry = entry?;
        let file_name = entry.file_name();
        if file_name.to_str().is_some_and(|other| other.starts_with("diverged-") && other != name) {
            files::remove_tree(&entry.path())?;
        }
    }
    let volume = statvfs(&paths.volume)?;
    let mut room = volume.blocks_available().saturating_mul(volume.fragment_size()).saturating_sub(SPARE);
    let segments: Vec<PathBuf> = wal::segments_from(&paths.pgdata, history.timeline, from, segment)?;
    std::fs::create_dir_all(aside(&name))?;
    for path in segments {
        let Some(left) = room.checked_sub(segment) else {
            tracing::warn!(directory = name, "there is no room for all of the WAL that only this node has");
            break;
        };
        if let Some(file) = path.file_name() {
            std::fs::copy(&path, aside(&name).join(file))?;
        }
        room = left;
    }
    tracing::warn!(directory = name, %from, "WAL that only this node has was set aside");
    files::flush_parent(&aside(&name).join("."))
}

/// Where data with this end left the way of the cluster: what they have beyond it is theirs alone. `None` if that
/// cannot be told.
pub fn left_at(lineage: &Lineage, end: &End) -> Option<Lsn> {
    let branches = lineage.branches();
    let starts = std::iter::once(Lsn(0)).chain(end.history.switches.iter().map(|switch| switch.at));
    let timelines = end.history.switches.iter().map(|switch| switch.timeline).chain([end.history.timeline]);
    let own: Vec<(u32, Lsn)> = timelines.zip(starts).collect();
    let common = own.iter().zip(branches).take_while(|((timeline, start), branch)| {
        *timeline == branch.timeline && (*start == branch.start || branch.start == Lsn(0))
    });
    let common = common.count();
    let theirs = branches.get(common).map(|branch| branch.start);
    let ours = own.get(common).map(|(_, start)| *start);
    match (common, theirs, ours) {
        (0, ..) => None,
        (_, theirs, ours) => Some(theirs.unwrap_or(end.lsn).min(ours.unwrap_or(end.lsn)).min(end.lsn)),
    }
}

#[cfg(test)]
mod tests {
    use flypg_core::failover::{Branch, Switch};

    use super::*;

    #[test]
    fn data_left_the_way_where_either_branched_off() {
        let node: NodeName = "ord-1".parse().unwrap();
        let branch =
            |epoch, timeline, start| Branch { epoch: Epoch(epoch), timeline, start: Lsn(start), node: node.clone() };
        let mut lineage = Lineage::new(branch(1, 1, 0), "n1".to_owned());
        assert!(lineage.append(branch(2, 3, 100)));
        let end = |timeline, switches: &[(u32, u64)], lsn| End {
            history: History {
                timeline,
                switches: switches.iter().map(|&(timeline, at)| Switch { timeline, at: Lsn(at) }).collect(),
                markers: Vec::new(),
            },
            lsn: Lsn(lsn),
        };
        // It wrote on after the cluster had left timeline 1.
        assert_eq!(left_at(&lineage, &end(1, &[], 150)), Some(Lsn(100)));
        assert_eq!(left_at(&lineage, &end(1, &[], 80)), Some(Lsn(80)));
        // It was promoted to a timeline that is burnt, before or after.
        assert_eq!(left_at(&lineage, &end(2, &[(1, 90)], 150)), Some(Lsn(90)));
        assert_eq!(left_at(&lineage, &end(2, &[(1, 120)], 150)), Some(Lsn(100)));
        // A twin: where it differs is in no file.
        assert_eq!(left_at(&lineage, &end(3, &[(1, 100)], 150)), Some(Lsn(150)));
        assert_eq!(left_at(&lineage, &end(9, &[(8, 10)], 150)), None);
    }
}
