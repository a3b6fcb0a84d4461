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

/// The way of a cluster; only ever added to, but where a person accepts a loss.
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

/// How far a node's data follow the cluster's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The end of what they share with it, as far as that is proven.
    pub position: Position,
    /// Why they are no copy, if they go on elsewhere.
    pub astray: Option<Astray>,
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
        self.fits(history, end)?;
        let rank = self.rank(history.timeline).ok_or(Astray::Timeline { timeline: history.timeline })?;
        Ok(self.proven(history, Position { rank, lsn: end }))
    }

    /// What a node with this history and this end of WAL has of the cluster's way, if it has any of it and nothing says
    /// that it was on another's.
    pub fn way(&self, history: &History, end: Lsn) -> Option<Way> {
        let astray = self.fits(history, end).err();
        if let Some(Astray::Marker { .. }) = astray {
            return None;
        }
        let mut shared = None;
        let left = history.switches.iter().map(|switch| (switch.timeline, switch.at));
        for (timeline, lsn) in left.chain([(history.timeline, end)]) {
            let Some(rank) = self.rank(timeline) else { break };
            let next = self.branches.get(rank + 1).map(|next| next.start);
            shared = Some(Position { rank, lsn: next.map_or(lsn, |start| start.min(lsn)) });
            if next != Some(lsn) {
                break;
            }
        }
        Some(Way { position: self.proven(history, shared?), astray })
    }

    fn rank(&self, timeline: u32) -> Option<usize> {
        self.branches.iter().position(|branch| branch.timeline == timeline)
    }

    fn fits(&self, history: &History, end: Lsn) -> Result<(), Astray> {
        let rank = self.rank(history.timeline).ok_or(Astray::Timeline { timeline: history.timeline })?;
        for switch in &history.switches {
            let left = self.rank(switch.timeline).filter(|left| *left < rank);
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
        Ok(())
    }

    /// Two promotions from one point can have the same number and the same files (E13): that data are on a branch is
    /// proven by the marker of its epoch, or of a later one. Without it they have nothing of it that was acknowledged,
    /// since the marker comes first, and count as far as the branch before it went.
    fn proven(&self, history: &History, at: Position) -> Position {
        // Whoever could not read any says nothing about them: every copy of a cluster that has begun has one.
        let Some((newest, _)) = history.markers.last().filter(|_| !crate::mutant::off("R9")) else { return at };
        let is_marked = |rank: &usize| *rank == 0 || self.branches[*rank].epoch <= *newest;
        match (0..=at.rank).rev().find(is_marked) {
            Some(rank) if rank < at.rank => Position { rank, lsn: self.branches[rank + 1].start },
            _ => at,
        }
    }

    /// The way of a cluster that goes on from a node's data: as far as they share this one, and then theirs. Nothing is
    /// given up for that unless a person accepts it: whoever may be promoted has all of the way that counts.
    #[must_use]
    pub fn adopt(&self, node: &NodeName, history: &History, shared: Position) -> Self {
        let mut adopted = self.clone();
        adopted.branches.truncate(shared.rank + 1);
        let Some(last) = adopted.branches.last().cloned() else { return adopted };
        let timelines = history.switches.iter().map(|switch| switch.timeline).chain([history.timeline]);
        let starts = history.switches.iter().map(|switch| switch.at);
        let own = timelines.skip(1).zip(starts).skip_while(|(timeline, _)| *timeline <= last.timeline);
        // Nobody has a marker for it but those of what came before.
        adopted.branches.extend(own.map(|(timeline, start)| Branch {
            epoch: last.epoch,
            timeline,
            start,
            node: node.clone(),
        }));
        adopted
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

    /// Two promotions at one place, with one number and the same files: only one of them wrote the marker (E13). Until it
    /// is replayed, a copy has nothing of that branch that counts, and neither has what a person promoted by hand.
    #[test]
    fn whoever_lacks_the_marker_of_a_branch_counts_as_far_as_the_branch_before_it() {
        let place = |history: &History, end| lineage().place(history, Lsn(end)).unwrap();
        assert_eq!(place(&history(2, &[(1, 100)], &[1, 4]), 180), Position { rank: 1, lsn: Lsn(180) });
        assert_eq!(place(&history(2, &[(1, 100)], &[1]), 180), Position { rank: 0, lsn: Lsn(100) });
        assert_eq!(place(&history(3, &[(1, 100), (2, 250)], &[1]), 300), Position { rank: 0, lsn: Lsn(100) });
        // A primary that was re-affirmed has the marker of a later epoch on the same timeline.
        let mut reaffirmed = lineage();
        reaffirmed.authorise(Epoch(6), "n6".to_owned());
        let later = reaffirmed.place(&history(3, &[(1, 100), (2, 250)], &[1, 6]), Lsn(300)).unwrap();
        assert_eq!(later, Position { rank: 2, lsn: Lsn(300) });
        // Nothing is known of one whose markers could not be read.
        assert_eq!(place(&history(2, &[(1, 100)], &[]), 180), Position { rank: 1, lsn: Lsn(180) });
    }

    #[test]
    fn data_that_went_another_way_count_as_far_as_they_share_the_clusters() {
        let way = |history: &History, end| lineage().way(history, Lsn(end));
        let shared = |rank, lsn| Position { rank, lsn: Lsn(lsn) };
        let beyond = way(&history(1, &[], &[1]), 130).unwrap();
        assert_eq!((beyond.position, beyond.astray), (shared(0, 100), Some(Astray::Beyond { rank: 0 })));
        let unused = way(&history(7, &[(1, 60)], &[1]), 90).unwrap();
        assert_eq!((unused.position, unused.astray), (shared(0, 60), Some(Astray::Timeline { timeline: 7 })));
        let elsewhere = way(&history(3, &[(1, 100), (2, 200)], &[1, 4]), 400).unwrap();
        assert_eq!((elsewhere.position, elsewhere.astray), (shared(1, 200), Some(Astray::Switch { timeline: 2 })));
        let whole = way(&history(3, &[(1, 100), (2, 250)], &[1, 4, 5]), 400).unwrap();
        assert_eq!((whole.position, whole.astray), (shared(2, 400), None));
        assert_eq!(way(&history(9, &[], &[1]), 5), None, "nothing of it is known here");
        let mut another = history(2, &[(1, 100)], &[1]);
        another.markers.push((Epoch(4), "another".to_owned()));
        assert_eq!(way(&another, 120), None);
    }

    #[test]
    fn a_cluster_goes_on_from_the_data_of_whom_it_chose() {
        let ways = |lineage: &Lineage| -> Vec<(u32, u64)> {
            lineage.branches().iter().map(|branch| (branch.timeline, branch.start.0)).collect()
        };
        let node = NodeName::new("ord".parse().unwrap(), 9);
        let stray = history(7, &[(1, 100), (2, 170)], &[1, 4]);
        let way = lineage().way(&stray, Lsn(300)).unwrap();
        let adopted = lineage().adopt(&node, &stray, way.position);
        assert_eq!(ways(&adopted), [(1, 0), (2, 100), (7, 170)]);
        assert_eq!(adopted.place(&stray, Lsn(300)), Ok(Position { rank: 2, lsn: Lsn(300) }));
        let (own, whole) = (history(3, &[(1, 100), (2, 250)], &[1, 4, 5]), Position { rank: 2, lsn: Lsn(400) });
        assert_eq!(lineage().adopt(&node, &own, whole), lineage());
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
