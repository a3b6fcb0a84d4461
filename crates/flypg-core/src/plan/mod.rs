//! The order in which a cluster is put right.

mod action;

pub use action::*;

use crate::Timestamp;
use crate::failover::Verdict;
use crate::observed::Observed;
use crate::spec::ClusterSpec;

/// What to do next about a cluster that is wanted. Cannot fail: what it cannot do, it holds.
pub fn plan(spec: &ClusterSpec, _observed: &Observed, _now: Timestamp) -> Plan {
    Plan { cluster: spec.name.clone(), verdict: Verdict::Unknown, steps: Vec::new(), holds: Vec::new() }
}

/// What to do next about a cluster that left the files. `spec` is its last good one; its `deletion` decides.
pub fn plan_removal(spec: &ClusterSpec, _observed: &Observed, _now: Timestamp) -> Plan {
    Plan { cluster: spec.name.clone(), verdict: Verdict::Unknown, steps: Vec::new(), holds: Vec::new() }
}

/// Plan, apply to a model of the world, and again, until nothing is left to do: every later turn, as far as it can be
/// foreseen. The first plan is the one that would be carried out now.
pub fn forecast(spec: &ClusterSpec, observed: &Observed, now: Timestamp) -> Vec<Plan> {
    vec![plan(spec, observed, now)]
}
