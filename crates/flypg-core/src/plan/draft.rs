//! A plan being written. Sub-plans add to it and never look at what another one added.

use crate::failover::Verdict;
use crate::names::ClusterName;
use crate::observed::{Seen, Unknown};
use crate::plan::{Action, Hold, Plan, Risk, Step, Subject, Until, Why, Work};

pub(super) struct Draft {
    cluster: ClusterName,
    steps: Vec<Step>,
    holds: Vec<Hold>,
}

impl Draft {
    pub(super) fn new(cluster: &ClusterName) -> Self {
        Self { cluster: cluster.clone(), steps: Vec::new(), holds: Vec::new() }
    }

    /// A step that disturbs nobody.
    pub(super) fn step(&mut self, action: Action, why: Why) {
        self.steps.push(Step { action, why, risk: Risk::None, pauses_writes_ms: None });
    }

    pub(super) fn risky(&mut self, action: Action, why: Why, risk: Risk, pauses_writes_ms: Option<u64>) {
        self.steps.push(Step { action, why, risk, pauses_writes_ms });
    }

    pub(super) fn hold(&mut self, what: Work, until: Until) {
        let hold = Hold { what, until };
        if !self.holds.contains(&hold) {
            self.holds.push(hold);
        }
    }

    /// The value if it is known; otherwise `what` is held until it can be read.
    pub(super) fn need<'a, T>(&mut self, what: Work, subject: Subject, seen: &'a Seen<T>) -> Option<&'a T> {
        let until = match seen {
            Seen::At { value, .. } => return Some(value),
            Seen::Unknown { why: Unknown::NotLooked | Unknown::Changing } => Until::Confirmed { what: subject },
            Seen::Unknown { why: Unknown::NoAnswer { error } } => {
                Until::Readable { what: subject, error: error.clone() }
            }
            Seen::Unknown { why: Unknown::Forbidden { error } } => {
                Until::Permitted { what: subject, error: error.clone() }
            }
        };
        self.hold(what, until);
        None
    }

    pub(super) fn finish(mut self, verdict: Verdict) -> Plan {
        self.steps.sort_by_key(|step| step.action.stage()); // stable: the order of the sub-plans is kept within one
        Plan { cluster: self.cluster, verdict, steps: self.steps, holds: self.holds }
    }
}
