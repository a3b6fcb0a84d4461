//! Who should lead a cluster, or what must happen before anyone may; and what may be destroyed.

pub mod lease;
mod lineage;
mod permission;
mod rule;

use serde::{Deserialize, Serialize};

pub use lineage::{Astray, Branch, History, Lineage, Position, Switch, Way};
pub use permission::{Ending, Fences, Missing, Mode, Permission, Reign, choose, permission};
pub use rule::{BadRule, Rule, Survives};

use crate::decree::{Decree, Epoch};
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
    /// The primary on record reported, in this look, that it runs and accepts writes.
    pub primary_runs: bool,
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
