//! A cluster as it is wanted: checked, defaults filled in, nothing left to interpret.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::decree::CommitMode;
use crate::names::{ClusterName, NodeName, Region};

/// One cluster, as its file asks for it. Only [`crate::spec::parse`] makes one from text, so whatever holds a
/// `ClusterSpec` may rely on what [`crate::spec`] checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSpec {
    /// Also the name of the Fly app.
    pub name: ClusterName,
    pub labels: BTreeMap<String, String>,
    /// Fly organisation slug.
    pub organization: String,
    pub postgres: PostgresSpec,
    /// Where failover candidates live.
    pub primary: RegionSpec,
    /// Read-only; never promoted by themselves. No region twice, and not the primary's.
    pub replicas: Vec<RegionSpec>,
    pub guest: Guest,
    pub storage: StorageSpec,
    pub durability: Durability,
    pub failover: FailoverSpec,
    /// A private address (`private_v6`) that goes through Fly's proxy.
    pub flycast: bool,
    pub deletion: Deletion,
    pub reconcile: ReconcileMode,
}

impl ClusterSpec {
    /// The region groups, the primary's first.
    pub fn regions(&self) -> impl Iterator<Item = &RegionSpec> {
        std::iter::once(&self.primary).chain(&self.replicas)
    }

    /// How many nodes are wanted in `region`; 0 where none are.
    pub fn nodes_in(&self, region: &Region) -> u32 {
        self.regions().find(|r| r.code == *region).map_or(0, |r| r.nodes)
    }

    pub fn total_nodes(&self) -> u32 {
        self.regions().map(|r| r.nodes).sum()
    }

    /// The node that a new cluster starts with.
    pub fn first_node(&self) -> NodeName {
        NodeName::new(self.primary.code.clone(), 1)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresSpec {
    /// 15 to 18.
    pub major: u8,
    /// An image of the person's own; a digest is a pin.
    pub image: Option<String>,
    /// In PostgreSQL's own spelling (lower case), values as they would stand in `postgresql.conf` without quotes.
    pub parameters: BTreeMap<String, String>,
}

impl PostgresSpec {
    /// The image every node runs: the person's, or ours of this major.
    pub fn image(&self) -> String {
        self.image.clone().unwrap_or_else(|| format!("flypg/postgres:{}", self.major))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionSpec {
    pub code: Region,
    pub nodes: u32,
}

/// A Machine's size, within Fly's rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    pub cpu_kind: CpuKind,
    pub cpus: u32,
    pub memory_mb: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpuKind {
    Shared,
    Performance,
}

impl CpuKind {
    /// As Fly spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            CpuKind::Shared => "shared",
            CpuKind::Performance => "performance",
        }
    }
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}x {} MB", self.cpu_kind.as_str(), self.cpus, self.memory_mb)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageSpec {
    /// GB as Fly counts them (GiB), 1 to 500.
    pub size_gb: u32,
    pub grow: Option<Grow>,
    pub snapshots: SnapshotPolicy,
}

/// Extend every volume by `by_percent` once one is `at_percent` full, up to `max_gb`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grow {
    pub at_percent: u32,
    pub by_percent: u32,
    pub max_gb: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPolicy {
    pub daily: bool,
    /// 1 to 60.
    pub retention_days: u32,
}

/// What an acknowledged commit has survived (FAILOVER.md §1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    Async,
    Quorum,
    QuorumAvailable,
}

impl Durability {
    /// Whether commits wait for standbys, once there are any.
    pub fn commit_mode(self) -> CommitMode {
        match self {
            Durability::Async => CommitMode::Asynchronous,
            Durability::Quorum | Durability::QuorumAvailable => CommitMode::Synchronous,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverSpec {
    pub profile: Profile,
    pub read_fence: bool,
    /// Bytes of WAL that an `async` failover may lose at most.
    pub max_lag_bytes: u64,
}

/// Lease and suspicion times, as a set whose relations hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    Fast,
    Balanced,
    Patient,
}

/// What may go when something left the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deletion {
    /// Nothing that holds data: neither a cluster nor a node's volume.
    Protect,
    /// Machines, not volumes.
    RetainVolumes,
    /// Machines and volumes.
    Delete,
}

/// How much a controller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReconcileMode {
    Active,
    FailoverOnly,
    Observe,
    Stop,
}
