//! How far a node has come, beside its ledger and outside its data: so that it recognises by itself data, or a ledger,
//! that are an older state of what was on its volume (rule R17).

use serde::{Deserialize, Serialize};

use crate::decree::Epoch;
use crate::failover::{History, Lineage};
use crate::mutant;
use crate::node::Position;
use crate::protocol::Lsn;

/// What was on this volume at least. It may be behind, so that it need not be written with every commit; it is never
/// ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HighWater {
    /// On disk before the promise itself is.
    pub promised: Epoch,
    /// How far the data were flushed. Absent before there are any, and while they are made anew.
    pub reached: Option<Position>,
}

/// PostgreSQL's blocks of WAL have a multiple of so many bytes.
const LEAST_BLOCK: u64 = 1024;

impl HighWater {
    /// The same, once data were seen to be flushed up to `at`.
    ///
    /// WAL is written and sent by whole blocks, too, so that a position between two of them may be within a record: what
    /// comes after the last whole record is nobody's, and may be gone after a crash. Of such a one only the timeline
    /// counts.
    #[must_use]
    pub fn reaching(self, at: Position) -> Self {
        let reached = match self.reached {
            _ if !at.lsn.0.is_multiple_of(LEAST_BLOCK) => at,
            Some(before) if before.timeline == at.timeline => before,
            _ => Position { lsn: Lsn::default(), ..at },
        };
        Self { reached: Some(reached), ..self }
    }

    /// Whether data with this history that end at `end` have all that was here; `false` also if they have not read all
    /// of their WAL yet.
    pub fn is_in(&self, history: &History, end: Lsn) -> bool {
        // Whoever says too early where its data end is found out here, too.
        mutant::off("R17") || mutant::off("R5") || self.reached.is_none_or(|reached| reached.is_in(history, end))
    }

    /// Whether data with this history are on a later timeline of the cluster's: then they have all of this one that the
    /// cluster has kept, and what was beyond that is nobody's any more.
    pub fn is_left_behind(&self, lineage: &Lineage, history: &History, end: Lsn) -> bool {
        self.reached.is_some_and(|reached| reached.timeline < history.timeline && lineage.place(history, end).is_ok())
    }

    /// What to say of data that end here, if they lack something that was here; once they have read all of their WAL.
    pub fn lack_of(&self, history: &History, end: Lsn) -> Option<String> {
        let Position { timeline, lsn } = self.reached.filter(|_| !self.is_in(history, end))?;
        let here = history.timeline;
        Some(format!(
            "its data end at {end} on timeline {here}, and had come to {lsn} on timeline {timeline}: they are an older \
             state, or the disk lost what it had flushed"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::Switch;

    fn high_water(timeline: u32, lsn: u64) -> HighWater {
        HighWater::default().reaching(Position { timeline, lsn: Lsn(lsn) })
    }

    fn history(timeline: u32, switches: &[(u32, u64)]) -> History {
        let switches = switches.iter().map(|&(timeline, at)| Switch { timeline, at: Lsn(at) }).collect();
        History { timeline, switches, markers: Vec::new() }
    }

    #[test]
    fn an_older_state_of_the_data_is_recognised_and_what_grew_out_of_them_is_not_one() {
        for (timeline, switches, end, whole) in [
            (1, &[][..], 5_000, true),
            (1, &[], 4_999, false),
            (2, &[(1, 5_000)], 5_000, true),
            // It went another way before it had come that far.
            (2, &[(1, 4_999)], 9_000, false),
            (3, &[(1, 5_100), (2, 6_000)], 6_000, true),
            (3, &[(2, 6_000)], 6_000, false),
        ] {
            let (was, now) = (high_water(1, 5_000), history(timeline, switches));
            assert_eq!(was.is_in(&now, Lsn(end)), whole, "{now:?} {end}");
            assert_eq!(was.lack_of(&now, Lsn(end)).is_none(), whole, "{now:?} {end}");
        }
        // A promotion that is not in them any more.
        assert!(!high_water(2, 5_000).is_in(&history(1, &[]), Lsn(9_000)));
        assert!(HighWater::default().is_in(&history(1, &[]), Lsn(0)));
    }

    /// What it had flushed and nobody else had was left behind by whoever was promoted, and a lying disk lost it.
    #[test]
    fn what_the_cluster_left_behind_is_not_missing_in_a_copy_of_it() {
        let node: crate::names::NodeName = "ord-1".parse().unwrap();
        let branch = |epoch, timeline, start| crate::failover::Branch {
            epoch: Epoch(epoch),
            timeline,
            start: Lsn(start),
            node: node.clone(),
        };
        let mut lineage = Lineage::new(branch(1, 1, 0), "n1".to_owned());
        assert!(lineage.append(branch(2, 2, 4_000)));
        let was = high_water(1, 5_000);
        for (switch, end, whole) in [(4_000, 4_100, true), (3_900, 4_100, false)] {
            let now = history(2, &[(1, switch)]);
            assert!(!was.is_in(&now, Lsn(end)));
            assert_eq!(was.is_left_behind(&lineage, &now, Lsn(end)), whole, "{switch}");
        }
        assert!(!was.is_left_behind(&lineage, &history(1, &[]), Lsn(4_000)));
    }

    #[test]
    fn the_end_of_a_block_says_nothing_of_records() {
        let at = Position { timeline: 1, lsn: Lsn(16_000) };
        let later = Position { timeline: 1, lsn: Lsn(24_576) };
        let known = HighWater::default().reaching(at);
        assert_eq!(known.reaching(later).reached, Some(at));
        // That it was on another timeline it does say.
        let promoted = known.reaching(Position { timeline: 2, ..later });
        assert!(!promoted.is_in(&history(1, &[]), Lsn(30_000)));
        assert!(promoted.is_in(&history(2, &[(1, 24_576)]), Lsn(24_576)));
    }
}
