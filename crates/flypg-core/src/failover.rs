//! Who should lead a cluster, or what must happen before anyone may; and what may be destroyed.

pub mod lease;
mod lineage;
mod permission;
mod rule;

use serde::{Deserialize, Serialize};

pub use lineage::{Astray, Branch, History, Lineage, Position, Switch, Way};
pub use permission::{Ending, Fences, Missing, Mode, Permission, Reign, choose, permission};
pub use rule::{BadRule, Rule, Survives};

use crate::decree::{Decree, Epoch, Stage};
use crate::names::NodeName;

/// What [`crate::plan::plan`] found out about leadership.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Verdict {
    /// Could not be judged: something that matters is not known, or contradicts itself.
    Unknown,
    /// There is no data anywhere: this node is to make it.
    Bootstrap { node: NodeName },
    /// This node makes the cluster's data now.
    Bootstrapping { node: NodeName },
    /// This node leads.
    Leads { node: NodeName, epoch: Epoch },
    /// An attempt runs to find out who leads after this node.
    Electing { node: NodeName, epoch: Epoch },
    /// This node was chosen, or is to go on, and has not confirmed it yet.
    Promoting { node: NodeName, epoch: Epoch },
    /// This node leads, and makes way.
    HandingOver { node: NodeName, to: NodeName },
    /// The record is lost, and this node leads by what all nodes say.
    Adopt { node: NodeName },
}

/// What is known about the copies of a cluster's data.
#[derive(Debug, Clone, Copy)]
pub struct Copies<'a> {
    pub decree: Option<&'a Decree>,
    /// The primary on record said within the last seconds that it runs and accepts writes.
    pub primary_runs: bool,
    /// It was heard within the last seconds, and others can be rewound to it.
    pub primary_checkpointed: bool,
}

/// Why a node's data must stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// It is the primary on record.
    Leader,
    /// No other copy is known to be good now.
    NoOtherCopy,
    /// Commits may be acknowledged because it has them.
    Counts,
}

impl Copies<'_> {
    /// Whether the copy that `node` holds may be made anew from the primary on record, although it may have what nobody
    /// else has: only while another node leads that others can be rewound to, and is sure of its reign, or waits for just
    /// this node to be. What this node has beyond that was then promised to nobody, or is in the primary's data.
    pub fn may_remake(&self, node: &NodeName, primary_waits: bool) -> Result<(), Keep> {
        match self.decree {
            Some(decree) if decree.primary == *node => Err(Keep::Leader),
            Some(decree) if decree.system_id().is_some() && !decree.is_electing() && self.primary_checkpointed => {
                let settled = matches!(decree.stage, Stage::Established | Stage::HandingOver { .. });
                (settled && self.primary_runs || primary_waits).then_some(()).ok_or(Keep::NoOtherCopy)
            }
            _ => Err(Keep::NoOtherCopy),
        }
    }

    /// Whether what `node` holds may be stopped, wiped or destroyed: only while the primary on record is another node,
    /// is known to run, and does not count on this one. Every destructive step passes here (FAILOVER P3, protocol I8).
    pub fn may_destroy(&self, node: &NodeName) -> Result<(), Keep> {
        if crate::mutant::off("R20") {
            return Ok(());
        }
        match self.decree {
            Some(decree) if decree.primary == *node => Err(Keep::Leader),
            Some(decree) if decree.counts(node) => Err(Keep::Counts),
            Some(decree) if decree.system_id().is_some() && !decree.is_electing() && self.primary_runs => Ok(()),
            _ => Err(Keep::NoOtherCopy),
        }
    }
}
