//! Where a node stands in the history of a cluster, and whether its history is the cluster's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::decree::Epoch;
use crate::names::NodeName;
use crate::protocol::Lsn;

/// One timeline that was authorised: by which decision, from where, and whose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Branch {
    pub epoch: Epoch,
    /// Allocated by the decision, never used twice (rule R8).
    pub timeline: u32,
    /// Where it left the branch before it.
    pub start: Lsn,
    pub node: NodeName,
}

/// The way of a cluster; only ever added to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lineage {
    /// Its timelines, oldest first.
    branches: Vec<Branch>,
    /// The nonce of every marker row that was authorised, by epoch: so that two promotions can never be taken for one
    /// (rule R9). An epoch in which the old primary was re-affirmed has a marker and no timeline of its own.
    #[serde(with = "pairs")]
    markers: BTreeMap<Epoch, String>,
}

/// A map as a list of pairs. The keys of a JSON object are strings, and inside a tagged value, as an assignment's task
/// is, serde does not read numbers out of them.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::decree::Epoch;

    pub(super) fn serialize<S: Serializer>(map: &BTreeMap<Epoch, String>, to: S) -> Result<S::Ok, S::Error> {
        map.iter().collect::<Vec<_>>().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<Epoch, String>, D::Error> {
        Ok(Vec::<(Epoch, String)>::deserialize(from)?.into_iter().collect())
    }
}

/// A position that can be compared between nodes. A raw WAL position cannot: a node that went its own way may have a
/// higher one (protocol, counterexample M9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Which branch of the lineage the end of the node's WAL is on, from 0.
    pub rank: usize,
    /// End of the valid WAL on disk, after the receiver has stopped.
    pub lsn: Lsn,
}

/// One switch of timelines as PostgreSQL's history files tell it: the timeline that ended, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    pub timeline: u32,
    pub at: Lsn,
}

/// What a node's own files say about its past.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    pub timeline: u32,
    /// Oldest first.
    pub switches: Vec<Switch>,
    /// Nonces of the marker rows it has, by epoch, oldest first.
    pub markers: Vec<(Epoch, String)>,
}

/// Why a node does not count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Astray {
    /// It is on a timeline that nobody authorised.
    Timeline { timeline: u32 },
    /// It left a branch elsewhere than the cluster did.
    Switch { timeline: u32 },
    /// It went on past the point where the cluster left the branch that it is on.
    Beyond { rank: usize },
    /// It has the marker of another promotion under the same number.
    Marker { epoch: Epoch },
}

impl Lineage {
    pub fn new(first: Branch, nonce: String) -> Self {
        Self { markers: [(first.epoch, nonce)].into(), branches: vec![first] }
    }

    /// The lineage that a primary's own files tell of, where the record is lost: its word is the last there is.
    pub fn of_history(node: &NodeName, history: &History) -> Self {
        let starts = std::iter::once(Lsn(0)).chain(history.switches.iter().map(|switch| switch.at));
        let timelines = history.switches.iter().map(|switch| switch.timeline).chain([history.timeline]);
        let marked: BTreeMap<Epoch, String> = history.markers.iter().cloned().collect();
        let branches = timelines.zip(starts).zip(0..).map(|((timeline, start), epoch)| Branch {
            // Which epoch began it is not in the files; that they follow each other is.
            epoch: Epoch(epoch),
            timeline,
            start,
            node: node.clone(),
        });
        Self { branches: branches.collect(), markers: marked }
    }

    pub fn branches(&self) -> &[Branch] {
        &self.branches
    }

    /// The nonce of the marker of `epoch`, if one was authorised.
    pub fn marker(&self, epoch: Epoch) -> Option<&str> {
        self.markers.get(&epoch).map(String::as_str)
    }

    /// Authorises the marker of a new epoch, in the same change of the record that takes the decision.
    pub fn authorise(&mut self, epoch: Epoch, nonce: String) {
        self.markers.insert(epoch, nonce);
    }

    /// Appends the branch of a decision. `false`, and nothing is done, if it does not come after the last one.
    #[must_use]
    pub fn append(&mut self, branch: Branch) -> bool {
        let follows = self.branches.last().is_none_or(|last| {
            branch.epoch > last.epoch && branch.timeline > last.timeline && branch.start >= last.start
        });
        if follows {
            self.branches.push(branch);
        }
        follows
    }

    /// Where a node with this history and this end of WAL stands, if it is on the cluster's way (rules R7, R9).
    ///
    /// Numbers may be missing: one that was authorised for a promotion that never came about is burnt, and stands in
    /// nobody's history.
    pub fn place(&self, history: &History, end: Lsn) -> Result<Position, Astray> {
        let rank = self
            .branches
            .iter()
            .position(|branch| branch.timeline == history.timeline)
            .ok_or(Astray::Timeline { timeline: history.timeline })?;
        for switch in &history.switches {
            let left = self.branches[..rank].iter().position(|branch| branch.timeline == switch.timeline);
            let Some(left) = left else { return Err(Astray::Timeline { timeline: switch.timeline }) };
            if self.branches[left + 1].start != switch.at {
                return Err(Astray::Switch { timeline: switch.timeline });
            }
        }
        if let Some(next) = self.branches.get(rank + 1)
            && end > next.start
        {
            return Err(Astray::Beyond { rank });
        }
        for (epoch, nonce) in &history.markers {
            if self.markers.get(epoch) != Some(nonce) {
                return Err(Astray::Marker { epoch: *epoch });
            }
        }
        Ok(Position { rank, lsn: end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn branch(epoch: u64, timeline: u32, start: u64) -> Branch {
        let node = NodeName::new("ord".parse().unwrap(), timeline);
        Branch { epoch: Epoch(epoch), timeline, start: Lsn(start), node }
    }

    fn lineage() -> Lineage {
        let mut lineage = Lineage::new(branch(1, 1, 0), "n1".to_owned());
        lineage.authorise(Epoch(4), "n4".to_owned());
        lineage.authorise(Epoch(5), "n5".to_owned());
        assert!(lineage.append(branch(4, 2, 100)));
        assert!(lineage.append(branch(5, 3, 250)));
        lineage
    }

    fn history(timeline: u32, switches: &[(u32, u64)], markers: &[u64]) -> History {
        History {
            timeline,
            switches: switches.iter().map(|&(timeline, at)| Switch { timeline, at: Lsn(at) }).collect(),
            markers: markers.iter().map(|&e| (Epoch(e), format!("n{e}"))).collect(),
        }
    }

    #[test]
    fn a_node_behind_on_the_way_stands_before_one_ahead_whatever_its_raw_position() {
        let old = lineage().place(&history(1, &[], &[1]), Lsn(100)).unwrap();
        let mid = lineage().place(&history(2, &[(1, 100)], &[1, 4]), Lsn(180)).unwrap();
        let new = lineage().place(&history(3, &[(1, 100), (2, 250)], &[1, 4, 5]), Lsn(251)).unwrap();
        assert!(old < mid && mid < new);
    }

    #[test]
    fn whoever_went_another_way_does_not_count() {
        let place = |history: History, end| lineage().place(&history, Lsn(end));
        assert_eq!(place(history(7, &[], &[]), 10), Err(Astray::Timeline { timeline: 7 }));
        // It left timeline 1 elsewhere: two promotions from one timeline, under the same number.
        assert_eq!(place(history(2, &[(1, 90)], &[]), 95), Err(Astray::Switch { timeline: 1 }));
        // It wrote on after the cluster had left timeline 1.
        assert_eq!(place(history(1, &[], &[]), 101), Err(Astray::Beyond { rank: 0 }));
        // Same number, same switch, another promotion: only the marker tells (E13).
        let mut twin = history(2, &[(1, 100)], &[1]);
        twin.markers.push((Epoch(4), "another".to_owned()));
        assert_eq!(place(twin, 120), Err(Astray::Marker { epoch: Epoch(4) }));
    }

    #[test]
    fn a_lineage_is_the_same_after_a_journey_inside_a_task() {
        let system_id = crate::decree::SystemId("7".to_owned());
        let primary = NodeName::new("ord".parse().unwrap(), 1);
        let task = crate::protocol::Task::Follow { primary, system_id, lineage: lineage(), remake: false };
        let text = serde_json::to_string(&task).unwrap();
        assert_eq!(serde_json::from_str::<crate::protocol::Task>(&text).unwrap(), task);
    }

    #[test]
    fn a_lineage_only_grows() {
        let mut lineage = lineage();
        for stale in [branch(5, 4, 300), branch(6, 3, 300), branch(6, 4, 200)] {
            assert!(!lineage.append(stale));
        }
        assert_eq!(lineage.branches().len(), 3);
    }
}
