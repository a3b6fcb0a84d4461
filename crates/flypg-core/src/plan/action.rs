//! The nouns of a plan. An [`Action`] is complete: nothing is left to choose when it is carried out, so doing it
//! twice, or from two places, does no harm.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::decree::Decree;
use crate::failover::lease::{Grant, Mono};
use crate::failover::{Missing, Rule, Verdict};
use crate::names::{ClusterName, NodeName, Region};
use crate::protocol::Assignment;
use crate::spec::{Guest, ReconcileMode, SnapshotPolicy};

/// What to do next about one cluster, and what is waited for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[must_use = "an unread plan is not actionable"]
pub struct Plan {
    pub cluster: ClusterName,
    pub verdict: Verdict,
    /// In order. Steps of one [`Stage`] do not depend on each other; a stage begins when the one before it is done.
    pub steps: Vec<Step>,
    /// What else there is to do, and why not now.
    pub holds: Vec<Hold>,
}

impl Plan {
    /// Nothing to do but to renew leases, and nothing to wait for: the cluster is as the file says.
    pub fn is_quiet(&self) -> bool {
        self.changes().next().is_none() && self.holds.is_empty()
    }

    /// The steps that change something: all but the renewal of leases.
    pub fn changes(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| !matches!(step.action, Action::Renew { .. }))
    }
}

/// Which steps may run side by side, and in what order the groups go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Leases.
    Renew,
    /// Who leads.
    Lead,
    /// What nodes are told by whoever decided that.
    Assign,
    /// Proof that an old primary has ended.
    Prove,
    /// What everything else stands in: the app.
    Found,
    /// What Machines need before they are made: secrets, volumes, addresses.
    Furnish,
    /// Machines.
    Launch,
    /// Changes that do not disturb.
    Adjust,
    /// One disruptive act.
    Disturb,
    /// What is not wanted any more.
    Remove,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub action: Action,
    pub why: Why,
    pub risk: Risk,
    /// An estimate, in milliseconds, where clients cannot write for a while.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pauses_writes_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Risk {
    None,
    Restart,
    Failover,
    DataLoss,
}

/// One call, or a short fixed sequence of calls, to the Machines API, an agent or the record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "do")]
pub enum Action {
    CreateApp {
        app: ClusterName,
        organization: String,
    },
    /// Set the app secret that carries the cluster's key.
    SetClusterKey {
        app: ClusterName,
    },
    AllocateFlycast {
        app: ClusterName,
    },
    ReleaseFlycast {
        app: ClusterName,
        ip: String,
    },
    CreateVolume {
        app: ClusterName,
        node: NodeName,
        /// The volume's name.
        name: String,
        region: Region,
        size_gb: u32,
        snapshots: SnapshotPolicy,
        /// What will run on it, so that Fly picks a host with room.
        guest: Guest,
    },
    SetSnapshotPolicy {
        app: ClusterName,
        node: NodeName,
        volume: String,
        snapshots: SnapshotPolicy,
    },
    CreateMachine {
        app: ClusterName,
        machine: Box<MachineSpec>,
    },
    StartMachine {
        app: ClusterName,
        node: NodeName,
        machine: String,
    },
    SetMetadata {
        app: ClusterName,
        node: NodeName,
        machine: String,
        metadata: BTreeMap<String, String>,
    },
    /// Compare-and-set on the record: `decree` takes the place of exactly `instead_of`.
    Decide {
        cluster: ClusterName,
        instead_of: Option<Box<Decree>>,
        decree: Decree,
    },
    Assign {
        machine: String,
        address: IpAddr,
        assignment: Box<Assignment>,
    },
    /// Answer a report of the primary with a lease. Quiet: a plan of nothing else changes nothing.
    Renew {
        cluster: ClusterName,
        node: NodeName,
        machine: String,
        address: IpAddr,
        grant: Grant,
        /// When that report arrived, on this controller's clock: remembered before the grant leaves.
        arrived: Mono,
    },
    /// Stop the Machine and prove that whatever ran in it until then has ended (fence F3).
    ProveStopped {
        app: ClusterName,
        node: NodeName,
        machine: String,
    },
    /// Restart Postgres so that these parameters take effect; nothing happens if none is pending any more.
    RestartPostgres {
        cluster: ClusterName,
        node: NodeName,
        machine: String,
        address: IpAddr,
        parameters: Vec<String>,
    },
    /// Stop the Machine, with the time Postgres needs for a clean shutdown.
    StopMachine {
        app: ClusterName,
        node: NodeName,
        machine: String,
    },
    /// Destroy a stopped Machine. Its volume stays.
    DestroyMachine {
        app: ClusterName,
        node: NodeName,
        machine: String,
    },
    DeleteVolume {
        app: ClusterName,
        node: NodeName,
        volume: String,
    },
    /// Only ever an app with nothing left in it.
    DeleteApp {
        app: ClusterName,
    },
    /// Take the record of a deleted cluster away.
    Forget {
        cluster: ClusterName,
        decree: Decree,
    },
}

/// A Machine to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSpec {
    /// Also the Machine's name.
    pub node: NodeName,
    pub region: Region,
    pub image: String,
    pub guest: Guest,
    pub env: BTreeMap<String, String>,
    pub metadata: BTreeMap<String, String>,
    /// Id of the volume to mount at `/data`.
    pub volume: String,
}

impl Action {
    pub fn stage(&self) -> Stage {
        match self {
            Action::Decide { .. } => Stage::Lead,
            Action::CreateApp { .. } => Stage::Found,
            Action::SetClusterKey { .. } | Action::AllocateFlycast { .. } | Action::CreateVolume { .. } => {
                Stage::Furnish
            }
            Action::CreateMachine { .. } | Action::StartMachine { .. } => Stage::Launch,
            Action::Assign { .. } => Stage::Assign,
            Action::Renew { .. } => Stage::Renew,
            Action::ProveStopped { .. } => Stage::Prove,
            Action::SetSnapshotPolicy { .. } | Action::SetMetadata { .. } | Action::ReleaseFlycast { .. } => {
                Stage::Adjust
            }
            Action::RestartPostgres { .. } => Stage::Disturb,
            Action::StopMachine { .. }
            | Action::DestroyMachine { .. }
            | Action::DeleteVolume { .. }
            | Action::DeleteApp { .. }
            | Action::Forget { .. } => Stage::Remove,
        }
    }

    /// The node it is about, if it is about one.
    pub fn node(&self) -> Option<&NodeName> {
        match self {
            Action::CreateVolume { node, .. }
            | Action::SetSnapshotPolicy { node, .. }
            | Action::StartMachine { node, .. }
            | Action::Renew { node, .. }
            | Action::ProveStopped { node, .. }
            | Action::SetMetadata { node, .. }
            | Action::RestartPostgres { node, .. }
            | Action::StopMachine { node, .. }
            | Action::DestroyMachine { node, .. }
            | Action::DeleteVolume { node, .. } => Some(node),
            Action::CreateMachine { machine, .. } => Some(&machine.node),
            Action::Assign { assignment, .. } => Some(&assignment.node),
            Action::Decide { decree, .. } => Some(&decree.primary),
            Action::CreateApp { .. }
            | Action::SetClusterKey { .. }
            | Action::AllocateFlycast { .. }
            | Action::ReleaseFlycast { .. }
            | Action::DeleteApp { .. }
            | Action::Forget { .. } => None,
        }
    }

    /// It is about who leads, and touches nothing but the record, agents, and an old primary's Machine.
    pub fn is_leadership(&self) -> bool {
        matches!(
            self,
            Action::Decide { .. } | Action::Assign { .. } | Action::Renew { .. } | Action::ProveStopped { .. }
        )
    }

    /// Takes something away that cannot be had back.
    pub fn destroys(&self) -> bool {
        matches!(
            self,
            Action::DestroyMachine { .. }
                | Action::DeleteVolume { .. }
                | Action::DeleteApp { .. }
                | Action::ReleaseFlycast { .. }
                | Action::Forget { .. }
        )
    }

    /// Makes something that was not there.
    pub fn creates(&self) -> bool {
        matches!(
            self,
            Action::CreateApp { .. }
                | Action::SetClusterKey { .. }
                | Action::AllocateFlycast { .. }
                | Action::CreateVolume { .. }
                | Action::CreateMachine { .. }
        )
    }
}

/// Why a step is in the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Why {
    /// There is none yet, and the file wants one.
    Missing,
    /// The file wants `wanted` nodes in this region; there are `have`.
    Grow { have: u32, wanted: u32 },
    /// The file wants `wanted` nodes in this region; there are `have`.
    Shrink { have: u32, wanted: u32 },
    /// The region left the file.
    RegionLeft,
    /// Nobody leads the cluster and there is no data anywhere.
    FirstNode,
    /// The first node has made the cluster's data.
    Bootstrapped,
    /// The record was lost; the nodes say who leads.
    RecordLost,
    /// The primary does not answer, or says that it cannot go on.
    Suspected { node: NodeName, suspicion: Suspicion },
    /// Another attempt: the one before did not come to its end.
    AttemptFailed { node: NodeName },
    /// The old primary can get no more commits acknowledged, and this node has every one of them.
    Chosen { node: NodeName },
    /// Nobody else was promoted, and the old primary is well.
    Abandoned { node: NodeName },
    /// The marker was flushed under the rule.
    Established { node: NodeName },
    /// Nodes are found to be whole copies, or are not any more.
    MembersChanged,
    /// The rule that the file asks for, or that the members allow.
    RuleChange,
    /// The new rule is in effect everywhere, and covers everything.
    RuleChanged,
    /// Other times for leases.
    ProfileChange,
    /// A person asked for it, or the leader must make way.
    Switchover { to: NodeName },
    /// A person accepted the loss.
    LossAccepted { to: NodeName },
    /// The switchover cannot go on.
    SwitchoverAborted { to: NodeName },
    /// Its report asks for it.
    LeaseRuns,
    /// To be sure that it answers nobody.
    NotHeard,
    /// Its Machine should run and does not.
    NotRunning,
    /// The node has not been told anything yet.
    NotTold,
    /// Nodes came or went, or their addresses or roles changed.
    OthersChanged,
    /// The role or epoch in the metadata is not the one on record.
    RoleChanged,
    /// The file says so.
    FileChanged,
    /// Already on disk; Postgres takes it up only when it starts.
    PendingRestart,
    /// The node it belonged to is not wanted any more, and `deletion: delete` lets its data go.
    NodeRemoved,
    /// The cluster left the files.
    ClusterLeft,
    /// Flycast was switched off.
    AccessRemoved,
}

/// Why a primary is suspected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Suspicion {
    /// So many reports in a row are missing.
    Silent { missed: u32 },
    /// Its agent says that Postgres has ended.
    Crashed,
    /// Its agent says that Postgres does not come up.
    Failing { why: String },
    /// A write through a real backend has not come to its end.
    Hangs,
    /// Its Machine was proven stopped.
    Stopped,
    /// It gave up by itself.
    GaveUp,
    /// It does not take up its reign.
    Stalled,
    /// It was promoted, and those do not answer whose acknowledgement its marker waits for.
    Unconfirmed,
}

/// Something there is to do, but not now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub what: Work,
    pub until: Until,
}

/// What is held.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Work {
    Everything,
    Bootstrap,
    /// Putting another node in the place of this primary.
    Failover {
        node: NodeName,
    },
    /// Handing over to this node.
    Switchover {
        to: NodeName,
    },
    /// Waiting for standbys before commits are acknowledged, as `durability` asks.
    Rule,
    /// The addresses clients come by.
    Access,
    /// Bringing this node into the cluster.
    Join {
        node: NodeName,
    },
    Remove {
        node: NodeName,
    },
    Restart {
        node: NodeName,
    },
    Change {
        node: NodeName,
        field: Field,
    },
    DeleteCluster,
}

/// A field of `cluster.yaml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    Image,
    Machine,
    StorageSize,
    PrimaryRegion,
    PostgresVersion,
    Parameters,
}

/// What would let it go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Until {
    // Waits: they end by themselves.
    /// The platform could not be read.
    Readable { what: Subject, error: String },
    /// A call that may have changed it is not yet confirmed by a read.
    Confirmed { what: Subject },
    /// The Machine is in a state that it leaves by itself.
    MachineSettled { node: NodeName },
    /// Its agent has not answered yet.
    AgentAnswers { node: NodeName, error: Option<String> },
    /// It is made, cloned, started: percent done, where known.
    Ready { node: NodeName, progress: Progress },
    /// The first node has made the cluster's data.
    Bootstrapped { node: NodeName },
    /// Postgres has read the parameters that the node was told.
    ParametersRead { node: NodeName },
    /// The node streams from the primary.
    Streams { node: NodeName },
    /// The primary answers.
    PrimaryAnswers { node: NodeName },
    /// Nodes promise the epoch and say where their data end.
    Recruited { nodes: Vec<NodeName> },
    /// What a promotion still lacks.
    Promotable { missing: Missing },
    /// The last lease that the old primary may hold is over.
    LeaseOver { node: NodeName, left_ms: u64 },
    /// The pledge that this node gave to the old primary is over: until then it promises nothing beyond.
    PledgeOver { node: NodeName, left_ms: u64 },
    /// Only this controller does not hear the primary: a standby does.
    PrimaryHeard { node: NodeName, by: NodeName },
    /// The new primary confirms its marker.
    MarkerConfirmed { node: NodeName },
    /// The primary acknowledges by the new rule, everywhere and for everything.
    RuleInEffect { rule: Rule },
    /// Enough nodes are whole copies and stream.
    MembersReady { wanted: u32, have: u32 },
    /// The target of a switchover has caught up.
    CaughtUp { node: NodeName },
    /// The old primary has stopped cleanly and given up.
    HandedOver { node: NodeName },
    /// Lease times grew apart: the longer one has run out.
    LongLeaseOver { left_ms: u64 },
    /// Something goes first.
    After { work: Box<Work> },

    // Protections: a person decides.
    /// Too many automatic failovers in an hour, or too soon after the last (rule R19).
    FailoverBudget { recent: u32 },
    /// No choice is safe: a person must accept the loss.
    LossAccepted { missing: Missing },
    /// What keeps the primary from working would keep the next one from it too.
    CauseMended { node: NodeName, why: String },
    /// `deletion: protect` (or `retain-volumes`) keeps it.
    DeletionAllowed { deletion: crate::spec::Deletion },
    /// `reconcile:` says so.
    Resumed { mode: ReconcileMode },
    /// The app exists, and what is in it is not ours.
    AppIsOurs { app: ClusterName },
    /// Its agent has another key than ours: the cluster was made with another master key.
    KeyAccepted { node: NodeName },
    /// A node has promised to obey a later record than ours: another controller took the cluster over, or ours is an
    /// old copy.
    RecordCurrent { node: NodeName, ours: crate::decree::Epoch, promised: crate::decree::Epoch },
    /// The token may not see it, or it belongs to another organisation.
    Permitted { what: Subject, error: String },
    /// The app belongs to another organisation than the file says.
    Organization { app: ClusterName, actual: String, wanted: String },
    /// Fly's host is gone or does not answer.
    HostReturns { node: NodeName },
    /// The record is lost and these nodes do not say what they hold.
    Accounted { nodes: Vec<NodeName> },
    /// More than one node says that it leads, or their data differ.
    OneLineage { nodes: Vec<NodeName> },
    /// A node holds data that is not this cluster's, or refuses to run.
    NodeInOrder { node: NodeName, why: String },
    /// The node on record as primary is not there.
    PrimaryExists { node: NodeName },
    /// It leads; another node must lead before it may go.
    AnotherLeads { node: NodeName },
    /// This version of flypg cannot change that on a running cluster.
    Supported { from: String, to: String },
    /// Postgres refused these parameters.
    ParametersAccepted { rejected: BTreeMap<String, String> },
}

impl Until {
    /// True if it can end without anybody doing anything about it.
    pub fn is_wait(&self) -> bool {
        matches!(
            self,
            Until::Readable { .. }
                | Until::Confirmed { .. }
                | Until::MachineSettled { .. }
                | Until::AgentAnswers { .. }
                | Until::Ready { .. }
                | Until::Bootstrapped { .. }
                | Until::ParametersRead { .. }
                | Until::Streams { .. }
                | Until::PrimaryAnswers { .. }
                | Until::Recruited { .. }
                | Until::Promotable { .. }
                | Until::LeaseOver { .. }
                | Until::PledgeOver { .. }
                | Until::PrimaryHeard { .. }
                | Until::MarkerConfirmed { .. }
                | Until::RuleInEffect { .. }
                | Until::MembersReady { .. }
                | Until::CaughtUp { .. }
                | Until::HandedOver { .. }
                | Until::LongLeaseOver { .. }
                | Until::After { .. }
        )
    }
}

impl Until {
    /// A wait that a look at the platform ends; what else is waited for, the agents tell.
    pub fn shows_on_platform(&self) -> bool {
        matches!(self, Until::Readable { .. } | Until::Confirmed { .. } | Until::MachineSettled { .. })
    }
}

/// What is read from the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    Record,
    App,
    Secrets,
    Addresses,
    Machines,
    Volumes,
}

/// How far a node has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Progress {
    Initialising,
    Cloning {
        done: u64,
        total: Option<u64>,
    },
    Starting,
    /// Postgres does not stay up; the agent tries again.
    Failing {
        why: String,
    },
}
