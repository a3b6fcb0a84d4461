//! What one node remembers and has promised, and the rules by which it answers an [`Assignment`].
//!
//! The agent writes the ledger to disk before it obeys it. Nothing here expires: a lease, when there is one, is never
//! part of a ledger.

mod slots;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use slots::{Recovered, Slot, SlotError, Unreadable, encode, recover};

use crate::decree::{Epoch, SystemId};
use crate::names::{ClusterName, NodeName};
use crate::node::DataDir;
use crate::protocol::{Assignment, Task};

/// One node's durable memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    pub cluster: ClusterName,
    pub node: NodeName,
    /// Fly's id of the Machine that wrote this. Another id means that the volume moved or was restored (rule R17).
    pub machine: String,
    /// Goes up by one at every start of the agent.
    pub incarnation: u64,
    /// The highest epoch this node has promised to obey.
    pub promised: Epoch,
    pub role: LedgerRole,
    /// The identity of the data on this volume, or of the data it was told to clone.
    pub system_id: Option<SystemId>,
    /// The last assignment that was accepted, whole.
    pub assignment: Option<Assignment>,
    /// The person's parameters with which Postgres last came up: what the agent falls back to when newer ones keep it
    /// from starting.
    pub proven: Option<BTreeMap<String, String>>,
}

/// What this node is, as far as it was told and has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum LedgerRole {
    /// Nothing was ever asked of it.
    Blank,
    /// May run `initdb` under this nonce, and has not finished.
    Initialising { nonce: String, epoch: Epoch },
    /// Is to become a copy, and is not one yet.
    Cloning { upstream: NodeName, epoch: Epoch },
    /// Leads in this epoch. `nonce` is that of its own `initdb`.
    Primary { epoch: Epoch, nonce: String },
    /// Holds a copy and streams.
    Replica { upstream: NodeName, epoch: Epoch },
}

/// Why a node does not obey an assignment. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("this is node {mine} of cluster {cluster}, not {given}: the address belongs to another node now")]
    OtherNode { mine: NodeName, cluster: ClusterName, given: String },
    #[error("epoch {given} is below {promised}, which this node has promised to obey")]
    StaleEpoch { given: Epoch, promised: Epoch },
    #[error("the data here belong to system {mine}, the assignment speaks of {given}")]
    OtherSystem { mine: String, given: String },
    #[error("the volume is not blank ({found}), so nothing is initialised on it")]
    BootstrapOverData { found: String },
    #[error("an initialisation under another nonce has begun here")]
    OtherNonce,
    #[error("there is nothing to lead with: {found}")]
    NothingToLead { found: String },
    #[error("this node is {role}; it leads in epoch {given} only after it was promoted, which an assignment cannot do")]
    NotPromoted { role: String, given: Epoch },
    #[error(
        "this node leads in epoch {leads}; it follows another only after it was demoted, which an assignment cannot do"
    )]
    NotDemoted { leads: Epoch },
    #[error("a node cannot follow itself")]
    FollowsItself,
    #[error("the volume holds data that this node's ledger does not know")]
    UnknownData,
    #[error("an unfinished initialisation is here; it goes on under its own nonce only")]
    Unfinished,
}

impl Ledger {
    /// The memory of a node that has none yet, in its first incarnation.
    pub fn blank(cluster: ClusterName, node: NodeName, machine: String) -> Self {
        Self {
            cluster,
            node,
            machine,
            incarnation: 1,
            promised: Epoch::default(),
            role: LedgerRole::Blank,
            system_id: None,
            assignment: None,
            proven: None,
        }
    }

    /// The memory with which the next start of the agent begins.
    ///
    /// On another Machine the assignment is forgotten: a volume that moved, or came back from a snapshot, does not run
    /// by itself (rule R17). What was promised stays promised.
    pub fn restarted(&self, machine: &str) -> Self {
        let mut next = self.clone();
        next.incarnation += 1;
        if next.machine != machine {
            next.machine = machine.to_owned();
            next.assignment = None;
        }
        next
    }

    /// The ledger after accepting `assignment`, given what lies on the volume; to be on disk before it is obeyed.
    pub fn accept(&self, assignment: &Assignment, data: &DataDir) -> Result<Ledger, Refusal> {
        if assignment.cluster != self.cluster || assignment.node != self.node {
            return Err(Refusal::OtherNode {
                mine: self.node.clone(),
                cluster: self.cluster.clone(),
                given: format!("node {} of cluster {}", assignment.node, assignment.cluster),
            });
        }
        if assignment.epoch < self.promised {
            return Err(Refusal::StaleEpoch { given: assignment.epoch, promised: self.promised });
        }
        let epoch = assignment.epoch;
        let (role, system_id) = match &assignment.task {
            Task::Bootstrap { nonce } => (self.bootstrap(nonce, epoch, data)?, self.system_id.clone()),
            Task::Lead { system_id } => {
                self.same_system(system_id)?;
                (self.lead(epoch, data)?, Some(system_id.clone()))
            }
            Task::Follow { primary, system_id } => {
                self.same_system(system_id)?;
                (self.follow(primary, epoch, data)?, Some(system_id.clone()))
            }
        };
        let mut next = self.clone();
        next.promised = epoch;
        next.role = role;
        next.system_id = system_id;
        next.assignment = Some(assignment.clone());
        Ok(next)
    }

    fn same_system(&self, given: &SystemId) -> Result<(), Refusal> {
        match &self.system_id {
            Some(mine) if mine != given => Err(Refusal::OtherSystem { mine: mine.0.clone(), given: given.0.clone() }),
            _ => Ok(()),
        }
    }

    fn bootstrap(&self, nonce: &str, epoch: Epoch, data: &DataDir) -> Result<LedgerRole, Refusal> {
        match &self.role {
            LedgerRole::Blank => match data {
                DataDir::Blank => Ok(LedgerRole::Initialising { nonce: nonce.to_owned(), epoch }),
                found => Err(Refusal::BootstrapOverData { found: found.to_string() }),
            },
            LedgerRole::Initialising { nonce: mine, .. } if mine == nonce => {
                Ok(LedgerRole::Initialising { nonce: nonce.to_owned(), epoch })
            }
            LedgerRole::Initialising { .. } => Err(Refusal::OtherNonce),
            // Done already: the controller has not heard of it yet.
            LedgerRole::Primary { nonce: mine, epoch: leads } if mine == nonce && *leads == epoch => {
                Ok(self.role.clone())
            }
            LedgerRole::Primary { .. } | LedgerRole::Replica { .. } | LedgerRole::Cloning { .. } => {
                Err(Refusal::BootstrapOverData { found: self.role.to_string() })
            }
        }
    }

    fn lead(&self, epoch: Epoch, data: &DataDir) -> Result<LedgerRole, Refusal> {
        match &self.role {
            // A higher epoch re-affirms it: the record was lost and made again, with no other primary in between. That
            // rests on nobody being promoted without this node's promise; a promotion must keep it so.
            LedgerRole::Primary { nonce, .. } => Ok(LedgerRole::Primary { epoch, nonce: nonce.clone() }),
            LedgerRole::Replica { .. } => Err(Refusal::NotPromoted { role: self.role.to_string(), given: epoch }),
            LedgerRole::Blank if !matches!(data, DataDir::Blank) => Err(Refusal::UnknownData),
            LedgerRole::Blank | LedgerRole::Initialising { .. } | LedgerRole::Cloning { .. } => {
                Err(Refusal::NothingToLead { found: data.to_string() })
            }
        }
    }

    fn follow(&self, upstream: &NodeName, epoch: Epoch, data: &DataDir) -> Result<LedgerRole, Refusal> {
        if *upstream == self.node {
            return Err(Refusal::FollowsItself);
        }
        let upstream = upstream.clone();
        match &self.role {
            LedgerRole::Blank => match data {
                DataDir::Blank => Ok(LedgerRole::Cloning { upstream, epoch }),
                _ => Err(Refusal::UnknownData),
            },
            LedgerRole::Cloning { .. } => Ok(LedgerRole::Cloning { upstream, epoch }),
            LedgerRole::Replica { .. } => Ok(LedgerRole::Replica { upstream, epoch }),
            LedgerRole::Initialising { .. } => Err(Refusal::Unfinished),
            LedgerRole::Primary { epoch, .. } => Err(Refusal::NotDemoted { leads: *epoch }),
        }
    }

    /// The ledger once the data directory is complete: `initdb` under the promised nonce, or the clone, is done.
    /// `None` if nothing was in the making.
    pub fn made(&self, system_id: &SystemId) -> Option<Ledger> {
        let role = match &self.role {
            LedgerRole::Initialising { nonce, epoch } => LedgerRole::Primary { epoch: *epoch, nonce: nonce.clone() },
            LedgerRole::Cloning { upstream, epoch } => {
                LedgerRole::Replica { upstream: upstream.clone(), epoch: *epoch }
            }
            LedgerRole::Blank | LedgerRole::Primary { .. } | LedgerRole::Replica { .. } => return None,
        };
        Some(Ledger { role, system_id: Some(system_id.clone()), ..self.clone() })
    }

    /// The ledger of a replica whose copy is of no use any more and is to be made anew. `None` for every other role.
    pub fn given_up(&self) -> Option<Ledger> {
        let LedgerRole::Replica { upstream, epoch } = &self.role else { return None };
        let role = LedgerRole::Cloning { upstream: upstream.clone(), epoch: *epoch };
        Some(Ledger { role, ..self.clone() })
    }
}

impl std::fmt::Display for LedgerRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LedgerRole::Blank => f.write_str("blank"),
            LedgerRole::Initialising { .. } => f.write_str("being initialised"),
            LedgerRole::Cloning { upstream, .. } => write!(f, "being cloned from {upstream}"),
            LedgerRole::Primary { epoch, .. } => write!(f, "the primary of epoch {epoch}"),
            LedgerRole::Replica { upstream, .. } => write!(f, "a replica of {upstream}"),
        }
    }
}

#[cfg(test)]
mod tests;
