//! What the controller and an agent say to each other: [`Assignment`] down, [`NodeReport`] up.
//!
//! Both are whole values, never deltas: a lost, doubled or late message is put right by the next one.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::decree::{Epoch, SystemId};
use crate::names::{ClusterName, NodeName};

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    pub cluster: ClusterName,
    /// Refused by every other node: an address may have come to belong to someone else.
    pub node: NodeName,
    /// The epoch of the decree this follows from. A node refuses one below what it has promised.
    pub epoch: Epoch,
    pub task: Task,
    /// Every node of the cluster that has an address, itself included, nearest first (same region, then others).
    /// The routers and the replication gate know no others.
    pub peers: Vec<Peer>,
    /// What the person wrote under `postgres.parameters`; derived and owned settings are the agent's to add.
    pub parameters: BTreeMap<String, String>,
}

/// What a node is to do with its data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Task {
    /// Run `initdb` if, and only if, the volume is blank or carries an unfinished one of this same nonce; then lead.
    Bootstrap { nonce: String },
    /// Lead the cluster with this identity. Never creates anything.
    Lead { system_id: SystemId },
    /// Stream from `primary`: clone from it first if the volume is blank.
    Follow { primary: NodeName, system_id: SystemId },
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
    /// Goes up whenever something worth waking for changed; `GET /v1/report?after=N` waits until it is above `N`.
    pub version: u64,
    /// The highest epoch this node has promised to obey.
    pub promised: Epoch,
    /// [`Assignment::digest`] of the assignment on disk.
    pub assignment: Option<String>,
    pub phase: Phase,
    /// What runs on this node now; absent while Postgres does not answer.
    pub postgres: Option<PgReport>,
    /// The volume; absent if it could not be measured.
    pub disk: Option<Disk>,
    /// How often Postgres had to be started again without being asked since this agent started.
    pub crashes: u32,
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
