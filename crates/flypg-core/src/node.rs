//! What one node does about its own Postgres.

mod primary;
mod rejoin;
mod standby;
mod step;
mod stranded;
mod tenure;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use step::next;
pub use stranded::{Position, PrimarySeen, REMAKE_WINDOW, Stranded};
pub use tenure::{PledgeAsked, Round, Tenure};

use crate::Timestamp;
use crate::decree::{Epoch, SystemId};
use crate::failover::{Astray, Rule};
use crate::mutant;
use crate::names::NodeName;
use crate::protocol::End;

/// What is seen on this machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Local {
    /// The PostgreSQL major version of the binaries here.
    pub major: u32,
    pub data: DataDir,
    pub postmaster: Postmaster,
    /// When Postgres ended without being asked, oldest first; older ones than [`CRASH_WINDOW`] do not matter.
    pub crashes: Vec<Timestamp>,
    /// When the last attempts at making the data directory failed, oldest first; forgotten once one succeeds.
    pub failed_makes: Vec<Timestamp>,
    pub settings: SettingsSeen,
    /// The roles were found right since this postmaster started.
    pub roles_ensured: bool,
    /// Physical replication slots of ours on this node and whether a walsender uses each; `None` while unknown.
    pub slots: Option<BTreeMap<String, SlotSeen>>,
    /// This standby does not stream, as its primary cannot give it the WAL it needs.
    pub stranded: Option<Stranded>,
    /// When attempts at another copy for a stranded standby were last begun, oldest first; older ones than
    /// [`REMAKE_WINDOW`] do not matter.
    pub remakes: Vec<Timestamp>,
    /// Somebody asked for a restart of Postgres.
    pub restart_ordered: bool,
    /// A Postgres that accepts writes may run: [`Tenure::may_run_primary`].
    pub may_lead: bool,
    /// The lease has been over for longer than the grace: it stops.
    pub grace_over: bool,
    /// A primary: how far its epoch has come. What a Postgres that ended had done does not count.
    pub reign: ReignSeen,
    /// A recruited standby, or a stopped primary: where its data end, once that is final and was read.
    pub end: Option<End>,
    /// Its data do not fit the lineage that it was told; `None` if they do, or nobody could tell yet.
    pub astray: Option<Astray>,
    /// After its last start, these data lacked WAL that had been flushed, and so had been told of: why nobody may rely on
    /// where they end (rule R11). `None` once they are a copy that streams.
    pub lost_wal: Option<String>,
    /// The last attempts at rewinding these data failed, for this reason, since they were last whole.
    pub rewind_failed: Option<String>,
    /// The agent is to end, and Postgres with it.
    pub stopping: bool,
    /// What [`Local::end`] was read from was shut down cleanly: there is nothing beyond that end.
    pub clean: bool,
    /// Another copy fits on the volume beside this one.
    pub room: bool,
    /// A rewind, or another copy in the place of these data, came to its end under this agent: they are whole, and
    /// `standby.signal` is there. Forgotten when Postgres starts, and when they are about to be touched again.
    pub remade: bool,
}

impl Local {
    /// A machine on which nothing runs and nothing was tried yet.
    pub fn fresh(major: u32, data: DataDir) -> Self {
        Self {
            major,
            data,
            postmaster: Postmaster::Down,
            crashes: Vec::new(),
            failed_makes: Vec::new(),
            settings: SettingsSeen::Stale,
            roles_ensured: false,
            slots: None,
            stranded: None,
            remakes: Vec::new(),
            restart_ordered: false,
            may_lead: false,
            grace_over: false,
            reign: ReignSeen::default(),
            end: None,
            astray: None,
            lost_wal: None,
            rewind_failed: None,
            stopping: false,
            clean: false,
            room: false,
            remade: false,
        }
    }
}

/// The data directory. Data in the making lie elsewhere and move here when they are complete, so that what is here is
/// whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataDir {
    Blank,
    /// An `initdb` or a clone that was not finished; `None` if not even its mark was.
    Unfinished(Option<Origin>),
    Complete {
        major: u32,
        system_id: SystemId,
        /// `standby.signal` is there: Postgres would start in recovery and stay there.
        standby_signal: bool,
        /// How this node made it; absent if this node did not.
        origin: Option<Origin>,
    },
    /// Something is there that is not a whole data directory.
    Unusable {
        why: String,
    },
}

impl DataDir {
    /// `initdb` may run here, or go on, under `nonce`, or has run to its end (rule R15).
    pub(crate) fn may_be_initialised(&self, nonce: &str) -> bool {
        let ours =
            |origin: &Option<Origin>| matches!(origin, Some(Origin::Initdb { nonce: theirs }) if theirs == nonce);
        mutant::off("R15")
            || match self {
                DataDir::Blank | DataDir::Unfinished(None) => true,
                DataDir::Unfinished(origin) | DataDir::Complete { origin, .. } => ours(origin),
                DataDir::Unusable { .. } => false,
            }
    }
}

/// How a data directory came to be. Written into it, and beside it while it is in the making.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "by")]
pub enum Origin {
    Initdb { nonce: String },
    Clone { from: NodeName },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Postmaster {
    Down,
    /// Processes of an earlier agent, or of a postmaster that died, still run on this data directory.
    Leftover,
    /// Started, does not answer yet: starting, in crash recovery or not yet consistent.
    Starting,
    /// Answers.
    Up,
}

/// The configuration files, compared with what they should say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingsSeen {
    /// What is on disk differs.
    Stale,
    /// Right on disk, not yet read by the running Postgres.
    Written,
    /// Right, and read.
    Loaded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotSeen {
    pub active: bool,
    /// WAL that it should have kept is gone: it can never be used again.
    pub lost: bool,
}

/// What is seen of a primary's way to an open gate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReignSeen {
    /// It is in recovery: a standby that is to be promoted.
    pub in_recovery: bool,
    /// The timeline it is on; absent while that is not known.
    pub timeline: Option<u32>,
    /// The marker of its epoch was flushed under the rule by the Postgres that runs.
    pub confirmed: bool,
    /// The rule that is in effect in every walsender.
    pub rule: Option<Rule>,
    /// All WAL from before that rule came into effect meets it.
    pub covered: bool,
    /// A checkpoint was done on this timeline.
    pub checkpointed: bool,
    /// The gate holds new transactions back, and none runs any more (or time was up).
    pub drained: bool,
}

/// The next thing to do. Each is safe to do twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeStep {
    /// Nothing until something changes.
    Nothing,
    /// Nothing until `until`.
    Wait {
        until: Timestamp,
    },
    /// Nothing until `until`; Postgres is left as it is, and cannot do what it should.
    Hold {
        why: String,
        until: Timestamp,
    },
    /// Do not touch the data, and say so.
    Quarantine {
        why: String,
    },
    /// `initdb` under this nonce, on a blank volume.
    Initdb {
        nonce: String,
    },
    /// Copy the data directory of `from`.
    Clone {
        from: NodeName,
    },
    /// Ask the primary of a stranded standby where it stands.
    AskPrimary {
        primary: NodeName,
    },
    /// Stop Postgres, copy the data directory of `from` beside this one, and put it in its place when it is whole; then
    /// [`Local::remade`].
    CloneBeside {
        from: NodeName,
    },
    /// Stop Postgres and set this copy aside to be removed, as there is no room for two; then clone `from`. That it is
    /// given up is remembered before it is set aside; but where these data are not whole, after it, so that they are
    /// never taken for the clone that is awaited. They may be gone already.
    GiveUpCopy {
        from: NodeName,
    },
    /// Remove data that were in the making and were not finished.
    RemoveUnfinished,
    /// The data directory is what the ledger waits for: remember that it is.
    RecordMade {
        system_id: SystemId,
    },
    /// End what still runs on the data directory from an earlier life.
    EndLeftover,
    WriteSettings,
    /// As a standby if, and only if, `standby`.
    StartPostgres {
        standby: bool,
    },
    Reload,
    /// Roles with the passwords that follow from the cluster's key.
    EnsureRoles,
    EnsureSlots {
        create: BTreeSet<String>,
        drop: BTreeSet<String>,
    },
    RestartPostgres,
    /// End all sessions and stop cleanly.
    StopFast,
    /// Cut the upstream off, wait until the receiver is gone and all that is here is replayed, and read where it ends
    /// (rule R5).
    FindEnd,
    /// Read from the files of a stopped Postgres where its data end, and whether it was shut down cleanly. Its timeline
    /// is the higher one of those of the last checkpoint and of the minimum recovery end: a promotion that was cut
    /// short after its first record shows only in the latter.
    InspectStopped,
    /// Leave stubs for the burnt timelines, and promote (rule R8). [`Local::data`] and [`Local::reign`] are to be looked
    /// at anew after it.
    Promote {
        timeline: u32,
        burnt: Vec<u32>,
    },
    /// Postgres is a primary on the authorised timeline: remember that it is.
    RecordPromoted,
    /// Bring the rule into effect in every walsender (rule R13). [`NodeStep::WriteSettings`] has written it.
    EnsureRule {
        rule: Rule,
    },
    /// Write the marker of this epoch and wait until the rule has it (rules R10, R11).
    Confirm {
        epoch: Epoch,
        nonce: String,
    },
    /// So that others can be rewound to this timeline.
    Checkpoint,
    /// Hold new transactions back, and let those that run come to their end for a while.
    Drain,
    /// The durable promise never to lead in this epoch again (fence F5).
    RecordRelinquished,
    /// Postgres of a primary is stopped, and nothing says that its data do not fit the lineage: leave `standby.signal`,
    /// and remember that they are a copy's.
    BecomeStandby,
    /// Remember that the data are about to be touched (rule R16).
    RecordRewinding,
    /// `pg_rewind` from the primary, configuration and `standby.signal` after it; then [`Local::remade`].
    Rewind {
        from: NodeName,
    },
    /// Postgres of a node that was to be promoted is stopped, and never was: remember that its data are still a copy's.
    RecordUnpromoted,
}

/// Crashes within this time count against a quick restart (failover-protocol §2.7: 3 in 10 minutes).
pub const CRASH_WINDOW: Duration = Duration::from_secs(600);
/// So many crashes within [`CRASH_WINDOW`] are answered at once; from then on, waits grow.
pub const QUICK_RESTARTS: usize = 3;
/// The longest wait before Postgres is started again.
pub const LONGEST_RESTART_WAIT: Duration = Duration::from_secs(30);
/// The longest wait before a clone is tried again, at first.
pub const LONGEST_CLONE_WAIT: Duration = Duration::from_secs(10);
/// So many clones in a row that failed are about something that lasts, such as a volume that is too small.
pub const HOPEFUL_CLONES: usize = 12;
/// The longest wait after that: each attempt may copy nearly everything, at the primary's cost.
pub const LONGEST_HOPELESS_WAIT: Duration = Duration::from_secs(300);

impl fmt::Display for DataDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DataDir::Blank => f.write_str("a blank volume"),
            DataDir::Unfinished(Some(Origin::Initdb { .. })) => f.write_str("an unfinished initdb"),
            DataDir::Unfinished(Some(Origin::Clone { from })) => write!(f, "an unfinished clone of {from}"),
            DataDir::Unfinished(None) => f.write_str("an unfinished data directory"),
            DataDir::Complete { major, system_id, .. } => {
                write!(f, "data of PostgreSQL {major}, system {}", system_id.0)
            }
            DataDir::Unusable { why } => f.write_str(why),
        }
    }
}

#[cfg(test)]
mod tests;
