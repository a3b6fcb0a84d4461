//! Who should lead a cluster, or what must happen before anyone may; and what may be destroyed.

use serde::{Deserialize, Serialize};

use crate::decree::Epoch;
use crate::names::NodeName;

/// What [`crate::plan::plan`] found out about leadership.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Verdict {
    /// The record could not be read, or contradicts what is there.
    Unknown,
    /// There is no data anywhere: this node is to make it.
    Bootstrap { node: NodeName },
    /// This node makes the cluster's data now.
    Bootstrapping { node: NodeName },
    /// This node leads.
    Leads { node: NodeName, epoch: Epoch },
    /// The record is lost, and this node leads by what all nodes say.
    Adopt { node: NodeName },
}
