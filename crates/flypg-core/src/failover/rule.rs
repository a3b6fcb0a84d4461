//! When a commit may be acknowledged, and what it takes to be sure that none is any more.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::names::NodeName;

/// A commit is acknowledged only after `acks` of `members` have flushed it (protocol §2.3, "rule").
///
/// With `acks` of 0 the primary acknowledges alone; then there are no members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Given", into = "Given")]
pub struct Rule {
    acks: usize,
    members: BTreeSet<NodeName>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{acks} of {members} standbys cannot be waited for")]
pub struct BadRule {
    acks: usize,
    members: usize,
}

#[derive(Serialize, Deserialize)]
struct Given {
    acks: usize,
    members: BTreeSet<NodeName>,
}

impl Rule {
    /// The primary acknowledges alone.
    pub fn alone() -> Self {
        Self { acks: 0, members: BTreeSet::new() }
    }

    /// Any `acks` of `members`: at least one, and no more than there are.
    pub fn any(acks: usize, members: BTreeSet<NodeName>) -> Result<Self, BadRule> {
        if (1..=members.len()).contains(&acks) {
            Ok(Self { acks, members })
        } else {
            Err(BadRule { acks, members: members.len() })
        }
    }

    /// How many standbys must have a commit in a cluster of so many nodes in the primary's region: half of the others,
    /// so that every majority of all nodes has it.
    pub fn acks_of(nodes: u32) -> usize {
        (nodes / 2).max(1) as usize
    }

    pub fn acks(&self) -> usize {
        self.acks
    }

    pub fn members(&self) -> &BTreeSet<NodeName> {
        &self.members
    }

    /// True if a commit that exactly `flushed` have on disk, beside the primary, may be acknowledged.
    pub fn is_met_by(&self, flushed: &BTreeSet<NodeName>) -> bool {
        self.members.intersection(flushed).count() >= self.acks
    }

    /// How many members must be recruited, without the primary's help, before this rule can never be met again:
    /// n − k + 1. `None` where only the primary's own promise ends it.
    pub fn recruits_needed(&self) -> Option<usize> {
        (self.acks > 0).then(|| self.members.len() - self.acks + 1)
    }

    /// The WAL fence F1: once these have promised, `primary` gets no commit acknowledged under this rule, whatever its
    /// clock, its processes or its Machine do (protocol §2.3, "quorum-revoke").
    pub fn is_revoked_by(&self, recruits: &BTreeSet<NodeName>, primary: &NodeName) -> bool {
        let recruited = self.members.intersection(recruits).count();
        recruits.contains(primary) || self.recruits_needed().is_some_and(|needed| recruited >= needed)
    }

    /// The value of `synchronous_standby_names` on the primary. A standby's `application_name` is its slot's name.
    pub fn synchronous_standby_names(&self) -> String {
        if self.acks == 0 {
            return String::new();
        }
        let names: Vec<String> = self.members.iter().map(|node| format!("\"{}\"", node.slot())).collect();
        format!("ANY {} ({})", self.acks, names.join(", "))
    }
}

impl TryFrom<Given> for Rule {
    type Error = BadRule;

    fn try_from(given: Given) -> Result<Self, BadRule> {
        match (given.acks, given.members.len()) {
            (0, 0) => Ok(Rule::alone()),
            _ => Rule::any(given.acks, given.members),
        }
    }
}

impl From<Rule> for Given {
    fn from(rule: Rule) -> Self {
        Given { acks: rule.acks, members: rule.members }
    }
}

/// What a cluster survives under a rule, without a person and without losing an acknowledged commit (protocol §2.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survives {
    /// So many standbys may be lost together with the primary, and another node still takes over by itself.
    pub standbys_with_primary: usize,
    /// So many standbys may be lost while the primary lives, and writes go on.
    pub standbys_alone: usize,
}

impl Rule {
    /// `None` where no failover is safe by itself: the primary acknowledges alone.
    pub fn survives(&self) -> Option<Survives> {
        let needed = self.recruits_needed()?;
        Some(Survives {
            standbys_with_primary: self.members.len() - needed,
            standbys_alone: self.members.len() - self.acks,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(ordinal: u32) -> NodeName {
        NodeName::new("ord".parse().unwrap(), ordinal)
    }

    fn nodes(mask: u32) -> BTreeSet<NodeName> {
        (1..=5).filter(|ordinal| mask & (1 << ordinal) != 0).map(node).collect()
    }

    /// Every rule over every subset of five standbys, and every set of recruits: while a commit can still gather its
    /// acks from members that did not promise, the rule is not revoked; when it is not revoked, some commit can.
    #[test]
    fn revoked_means_that_no_commit_can_be_acknowledged_and_nothing_else_does() {
        let primary = node(9);
        for members in (0..64).step_by(2).map(nodes) {
            for acks in 1..=members.len() {
                let rule = Rule::any(acks, members.clone()).unwrap();
                for recruits in (0..64).step_by(2).map(nodes) {
                    let free: BTreeSet<_> = members.difference(&recruits).cloned().collect();
                    assert_eq!(
                        rule.is_revoked_by(&recruits, &primary),
                        !rule.is_met_by(&free),
                        "{rule:?} {recruits:?}"
                    );
                }
            }
        }
    }

    /// Whoever is recruited when a rule is revoked, one of them has every acknowledged commit.
    #[test]
    fn the_recruits_that_revoke_a_rule_hold_every_acknowledged_commit() {
        let primary = node(9);
        for members in (0..64).step_by(2).map(nodes) {
            for acks in 1..=members.len() {
                let rule = Rule::any(acks, members.clone()).unwrap();
                for recruits in (0..64).step_by(2).map(nodes).filter(|r| rule.is_revoked_by(r, &primary)) {
                    for flushed in (0..64).step_by(2).map(nodes).filter(|f| rule.is_met_by(f)) {
                        assert!(!recruits.is_disjoint(&flushed), "{rule:?} {recruits:?} {flushed:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_primary_that_acknowledges_alone_is_revoked_by_its_own_promise_only() {
        assert!(!Rule::alone().is_revoked_by(&nodes(0b11_1110), &node(9)));
        assert!(Rule::alone().is_revoked_by(&[node(9)].into(), &node(9)));
        assert_eq!(Rule::alone().survives(), None);
    }

    /// The table of protocol §2.8: (standbys, acks) → recruits needed, standbys lost with the primary, lost alone.
    #[test]
    fn the_table_of_what_a_cluster_survives() {
        for (standbys, acks, needed, with, alone) in
            [(1, 1, 1, 0, 0), (2, 1, 2, 0, 1), (2, 2, 1, 1, 0), (3, 2, 2, 1, 1), (4, 2, 3, 1, 2)]
        {
            let rule = Rule::any(acks, (1..=standbys).map(node).collect()).unwrap();
            assert_eq!(rule.recruits_needed(), Some(needed));
            let survives = Survives { standbys_with_primary: with, standbys_alone: alone };
            assert_eq!(rule.survives(), Some(survives), "{standbys},{acks}");
        }
    }

    #[test]
    fn postgres_is_told_in_its_own_words() {
        let rule = Rule::any(1, nodes(0b110)).unwrap();
        assert_eq!(rule.synchronous_standby_names(), r#"ANY 1 ("flypg_ord_1", "flypg_ord_2")"#);
        assert_eq!(Rule::alone().synchronous_standby_names(), "");
        for (acks, members) in [(0, 2), (3, 2), (1, 0)] {
            assert!(Rule::any(acks, (1..=members).map(node).collect()).is_err());
        }
        assert!(serde_json::from_str::<Rule>(r#"{"acks":2,"members":["ord-1"]}"#).is_err());
    }
}
