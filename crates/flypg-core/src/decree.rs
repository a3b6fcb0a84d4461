//! The record: who may lead a cluster.
//!
//! One compare-and-set cell per cluster. `None` means that nobody has ever been told to lead; from there a cluster is
//! bootstrapped once, and never again.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::names::NodeName;

/// One per decision about who leads; only ever goes up, never used twice (FAILOVER P1, rule R1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// PostgreSQL's database system identifier: equal on every copy of one cluster. A decimal string on the wire, because
/// it does not fit a JSON number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SystemId(pub String);

/// What the record of a cluster says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decree {
    pub epoch: Epoch,
    /// The only node that may accept writes in this epoch.
    pub primary: NodeName,
    pub stage: Stage,
}

/// How far the decision of this epoch has come. Each stage can be recognised from outside, so any controller can
/// continue it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Stage {
    /// `primary` may run `initdb`, once, on a blank volume, under this nonce (rule R15).
    Bootstrapping { nonce: String },
    /// `primary` leads the cluster with this identity.
    Established { system_id: SystemId },
}

impl Decree {
    /// The identity of the cluster's data, once there is any.
    pub fn system_id(&self) -> Option<&SystemId> {
        match &self.stage {
            Stage::Bootstrapping { .. } => None,
            Stage::Established { system_id } => Some(system_id),
        }
    }
}
