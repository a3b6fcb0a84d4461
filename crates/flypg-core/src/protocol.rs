//! What the controller and an agent say to each other: [`Assignment`] down, [`NodeReport`] up.
//!
//! Both are whole values, never deltas: a lost, doubled or late message is put right by the next one.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decree::{Epoch, SystemId};
use crate::failover::lease::BootTime;
use crate::failover::{History, Lineage, Rule};
use crate::names::{ClusterName, NodeName};
use crate::spec::Profile;

/// The ports of a Machine's private address.
pub mod ports {
    /// Read-write router: to the gate of the current primary, wherever it is.
    pub const READ_WRITE: u16 = 5432;
    /// This node's own gate.
    pub const NODE: u16 = 5433;
    /// Read-only router: the nearest healthy standby, else the primary.
    pub const READ_ONLY: u16 = 5434;
    /// Replication gate: members of the cluster only.
    pub const REPLICATION: u16 = 5435;
    /// The agent's API.
    pub const API: u16 = 5500;
    /// Prometheus metrics.
    pub const METRICS: u16 = 9187;
}

/// The environment a node is started with, and what its secrets are called.
pub mod env {
    pub const CLUSTER: &str = "FLYPG_CLUSTER";
    pub const NODE: &str = "FLYPG_NODE";
    /// PostgreSQL major version, such as `15`.
    pub const POSTGRES_MAJOR: &str = "FLYPG_POSTGRES_MAJOR";
    /// App secret: the cluster's key, 64 hexadecimal digits. Everything else that is secret is derived from it.
    pub const CLUSTER_KEY: &str = "FLYPG_CLUSTER_KEY";
}

/// What a node is told to be. Sent with `PUT /v1/assignment`; obeyed only after it is on disk.
///
/// Its task follows from the record alone, so two controllers that read the same record tell a node the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    pub cluster: ClusterName,
    /// Refused by every other node: an address may have come to belong to someone else.
    pub node: NodeName,
    /// The epoch of the decree this follows from. A node refuses one below what it has promised.
    pub epoch: Epoch,
    /// The revision of that decree. A node refuses one below what it obeys in this epoch.
    pub revision: u64,
    pub task: Task,
    /// Every node of the cluster that has an address, itself included, nearest first (same region, then others).
    /// The routers and the replication gate know no others.
    pub peers: Vec<Peer>,
    /// The times that leases and pledges go by.
    pub profile: Profile,
    /// What the person wrote under `postgres.parameters`; derived and owned settings are the agent's to add.
    pub parameters: BTreeMap<String, String>,
}

/// What a node is to do with its data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Task {
    /// Run `initdb` if, and only if, the volume is blank or carries an unfinished one of this same nonce; then lead.
    Bootstrap { nonce: String },
    /// Promise this epoch: never serve, follow, acknowledge or pledge below it. A standby stops its receiver, replays
    /// what it has and says where that ends. A primary shuts its gate and stops (rules R5, F5), and, unless it is
    /// `primary`, the one on record, becomes a standby without an upstream, so that it can be chosen like any other.
    Recruit { primary: NodeName },
    /// Recruited in this very epoch: become the primary, on this timeline and no other. `burnt` were authorised and
    /// must never be used (rule R8).
    Promote { system_id: SystemId, timeline: u32, burnt: Vec<u32>, terms: Terms },
    /// It led before and nobody else was promoted: go on on the same timeline, in this epoch.
    Reaffirm { system_id: SystemId, terms: Terms },
    /// Go on leading in this epoch. Never creates, promotes or re-affirms anything.
    Lead { system_id: SystemId, terms: Terms },
    /// Lead until everything is ready for `to`, then hold new transactions, stop cleanly, and promise never to lead in
    /// this epoch again (fence F5).
    HandOver { system_id: SystemId, terms: Terms, to: NodeName },
    /// Stream from `primary`: clone from it first if the volume is blank. `lineage` says what a copy must be like; one
    /// that went another way may be rewound, or else made anew, only if `remake` (it destroys what only it has).
    Follow { primary: NodeName, system_id: SystemId, lineage: Lineage, remake: bool },
}

/// Under what a primary leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// What its marker row of this epoch carries (rule R10).
    pub nonce: String,
    /// Commits are acknowledged under this rule.
    pub rule: Rule,
    /// While no controller answers, its lease is held up by pledges that meet each of these. With none, nobody else
    /// can be promoted without its consent, and it needs no lease.
    pub pledges: Vec<Rule>,
}

impl Task {
    /// In one word.
    pub const fn name(&self) -> &'static str {
        match self {
            Task::Bootstrap { .. } => "bootstrap",
            Task::Recruit { .. } => "recruit",
            Task::Promote { .. } => "promote",
            Task::Reaffirm { .. } => "reaffirm",
            Task::Lead { .. } => "lead",
            Task::HandOver { .. } => "hand-over",
            Task::Follow { .. } => "follow",
        }
    }

    /// What it leads under, if it is to lead.
    pub const fn terms(&self) -> Option<&Terms> {
        match self {
            Task::Promote { terms, .. }
            | Task::Reaffirm { terms, .. }
            | Task::Lead { terms, .. }
            | Task::HandOver { terms, .. } => Some(terms),
            Task::Bootstrap { .. } | Task::Recruit { .. } | Task::Follow { .. } => None,
        }
    }
}

/// A node as another node must know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub node: NodeName,
    /// The Machine's private address.
    pub address: IpAddr,
    pub role: PeerRole,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerRole {
    Primary,
    /// A replica that may be read from now: it streams.
    Standby,
    /// Known, but not to be read from: being made, catching up, or not heard from.
    Joining,
}

impl Assignment {
    /// A short digest of the whole assignment; a node reports the one it obeys.
    pub fn digest(&self) -> String {
        let bytes = serde_json::to_vec(self).expect("an assignment has string keys only");
        crate::digest::short(&bytes)
    }
}

/// What a node says about itself. Answer of `GET /v1/report`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    pub cluster: ClusterName,
    pub node: NodeName,
    /// Fly's id of the Machine this agent runs in.
    pub machine: String,
    /// Goes up by one at every start of the agent; on disk (rule R17).
    pub incarnation: u64,
    /// This boot, and when in it this report was sent: a grant echoes both (rule R2). Not news.
    pub boot: String,
    pub sent: BootTime,
    /// Goes up whenever something worth waking for changed; `GET /v1/report?after=N` waits until it is above `N`.
    pub version: u64,
    /// The highest epoch this node has promised to obey.
    pub promised: Epoch,
    /// [`Assignment::digest`] of the assignment on disk.
    pub assignment: Option<String>,
    /// The revision of the record that it follows from.
    pub revision: u64,
    /// Where this node stands towards its epoch.
    pub standing: Standing,
    /// A pledge to the primary runs for so long: until then this node cannot be recruited.
    pub pledged_for: Option<Duration>,
    /// How long ago this node last got WAL or a question for a pledge from its primary. Not news.
    pub primary_heard: Option<Duration>,
    pub phase: Phase,
    /// What runs on this node now; absent while Postgres does not answer.
    pub postgres: Option<PgReport>,
    /// The volume; absent if it could not be measured.
    pub disk: Option<Disk>,
    /// How often Postgres had to be started again without being asked since this agent started.
    pub crashes: u32,
}

impl NodeReport {
    /// How far it has come with leading, if it leads or is to.
    pub fn leading(&self) -> Option<&Leading> {
        match &self.standing {
            Standing::Leading(leading) => Some(leading),
            Standing::Unbound | Standing::Recruited { .. } | Standing::Relinquished { .. } => None,
        }
    }
}

/// What a node has promised, and how far it has come with that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Standing {
    /// It follows, or makes its data, or has none.
    Unbound,
    /// A standby that has promised the epoch. `end` only once its receiver is gone and all that it has is replayed.
    Recruited { end: Option<End> },
    /// It led, or was to; it has promised never to answer below, or again in, the epoch. `end` only once Postgres has
    /// stopped; `clean` if that was a clean shutdown, so that `end` is all there is.
    Relinquished { clean: bool, end: Option<End> },
    /// It leads, or is to.
    Leading(Leading),
}

/// Where a node's history and WAL end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub history: History,
    /// End of the valid WAL on disk.
    pub lsn: Lsn,
}

/// How far a primary has come.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Leading {
    /// Its marker of this epoch was flushed under the rule, by the Postgres that runs now: all that it has is as safe
    /// as the rule makes it (rules R10, R11).
    pub confirmed: bool,
    /// Where its timeline began.
    pub start: Option<Lsn>,
    /// The rule that is in effect in every one of its walsenders; absent while one is being brought into effect (R13).
    pub rule: Option<Rule>,
    /// All WAL from before that rule came into effect meets it.
    pub covered: bool,
    /// A checkpoint on its timeline is done: others can be rewound to it.
    pub checkpointed: bool,
    pub gate: Gate,
}

/// Whether a primary's gate lets answers pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    Open,
    /// New transactions wait, for a switchover.
    Holding,
    /// Its marker of this epoch is not confirmed yet.
    #[default]
    Unconfirmed,
    /// It has no lease.
    Leaseless,
    /// Postgres does not run.
    Down,
    /// This node does not lead.
    Fenced,
}

/// What a node is doing about its data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Phase {
    /// No data and no assignment.
    Blank,
    /// Data, but no assignment that lets it run.
    Idle,
    Initialising,
    /// `pg_basebackup` runs. `total` is what the source estimated, in bytes; absent until it has.
    Cloning {
        done: u64,
        total: Option<u64>,
    },
    /// Postgres is starting, or in crash recovery, or not yet consistent.
    Starting,
    Running,
    Stopping,
    /// Postgres cannot run and the agent tries again by itself.
    Failing {
        why: String,
    },
    /// The agent refuses to go on without a person or another assignment: the data is not what it should be.
    Quarantined {
        why: String,
    },
}

impl Phase {
    /// Every [`Phase::name`].
    pub const NAMES: [&str; 9] =
        ["blank", "idle", "initialising", "cloning", "starting", "running", "stopping", "failing", "quarantined"];

    /// In one word.
    pub const fn name(&self) -> &'static str {
        let [blank, idle, initialising, cloning, starting, running, stopping, failing, quarantined] = Self::NAMES;
        match self {
            Phase::Blank => blank,
            Phase::Idle => idle,
            Phase::Initialising => initialising,
            Phase::Cloning { .. } => cloning,
            Phase::Starting => starting,
            Phase::Running => running,
            Phase::Stopping => stopping,
            Phase::Failing { .. } => failing,
            Phase::Quarantined { .. } => quarantined,
        }
    }
}

/// What Postgres itself says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PgReport {
    /// `server_version`, such as `15.20`.
    pub version: String,
    pub system_id: SystemId,
    pub timeline: u32,
    /// Absent until it was read.
    #[serde(default)]
    pub history: Option<History>,
    /// Unix seconds.
    pub started_at: i64,
    pub role: PgRole,
    /// [`crate::settings::digest`] of the [`Assignment::parameters`] that are in force or wait for a restart.
    pub settings: String,
    /// Those parameters themselves, so that a plan can show what it would change.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// Parameters that are on disk but need a restart of Postgres to take effect.
    pub pending_restart: Vec<String>,
    /// Parameters that a standby keeps higher than asked for, because its primary still has, or had, that much.
    #[serde(default)]
    pub withheld: Vec<String>,
    /// Parameters of the assignment that Postgres refused, with its words.
    pub rejected: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum PgRole {
    /// Accepts writes.
    Primary {
        /// Flush position.
        lsn: Lsn,
        /// One per connected walsender of ours.
        replicas: Vec<ReplicaReport>,
        /// Slots of ours, with the WAL each keeps back in bytes.
        slots: BTreeMap<String, u64>,
        /// The last write through a real backend, one per second; absent until there was one.
        #[serde(default)]
        probe: Option<Probe>,
    },
    /// In recovery.
    Standby {
        /// Received and flushed; absent until the receiver of this start has streamed.
        received: Option<Lsn>,
        replayed: Lsn,
        /// The receiver streams from this node now.
        streaming_from: Option<NodeName>,
        /// Seconds since the last replayed transaction committed on the primary; 0 when everything received is
        /// replayed, absent when unknown.
        replay_lag_seconds: Option<f64>,
    },
}

/// A write through a real backend, with its fsync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// How long the last one that came to its end took.
    pub took: Duration,
    /// How long the one under way has been running, if it is late. Not news below a second.
    pub hangs: Option<Duration>,
}

/// A walsender as the primary sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaReport {
    pub node: NodeName,
    /// `pg_stat_replication.state`: `startup`, `catchup`, `streaming`, `backup`, `stopping`.
    pub state: String,
    pub sent: Option<Lsn>,
    pub flushed: Option<Lsn>,
    pub replayed: Option<Lsn>,
}

/// Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    pub total: u64,
    pub used: u64,
}

impl Disk {
    /// 0 to 100, rounded up.
    pub fn used_percent(&self) -> u64 {
        if self.total == 0 { 100 } else { self.used.saturating_mul(100).div_ceil(self.total).min(100) }
    }
}

/// A position in the write-ahead log: bytes since its start, written `16/B374D848`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Bytes from `earlier` to this position; 0 if `earlier` is ahead.
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a WAL position such as 16/B374D848")]
pub struct BadLsn(String);

impl FromStr for Lsn {
    type Err = BadLsn;

    fn from_str(s: &str) -> Result<Self, BadLsn> {
        let half = |h: &str| {
            let plain = (1..=8).contains(&h.len()) && h.bytes().all(|b| b.is_ascii_hexdigit());
            plain.then(|| u64::from_str_radix(h, 16).ok()).flatten()
        };
        s.split_once('/')
            .and_then(|(high, low)| Some(Lsn(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| BadLsn(s.to_owned()))
    }
}

impl Serialize for Lsn {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wal_positions_read_as_postgres_writes_them() {
        for (text, value) in [("0/0", 0), ("16/B374D848", 0x16_B374_D848), ("FFFFFFFF/FFFFFFFF", u64::MAX)] {
            assert_eq!(text.parse::<Lsn>().unwrap(), Lsn(value));
            assert_eq!(Lsn(value).to_string(), text);
        }
        for bad in ["", "0", "/", "0/", "1/123456789", "x/0", "+1/0"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }
}
