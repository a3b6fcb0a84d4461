//! The journal: what was seen, what was planned and what came of it, one JSON object per line, for every turn that did
//! or learned something. No secrets: an [`Observed`] holds digests, and a plan holds none.

use std::collections::BTreeMap;
use std::path::Path;

use flypg_core::Timestamp;
use flypg_core::names::ClusterName;
use flypg_core::observed::Observed;
use flypg_core::plan::{Action, Plan, Step};
use flypg_core::render;
use serde::{Deserialize, Serialize};

use crate::lines::{LineError, Lines};
use crate::turn::{Part, Turn, Wanted};
use crate::words::{chain, gist};

/// A file that reached this many bytes becomes the old one; the one before it goes.
const LONGEST: u64 = 8 << 20;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub at: Timestamp,
    /// What the file said: [`flypg_core::status::generation`].
    pub generation: String,
    /// The file itself, so that the turn can be planned again; absent in journals of earlier versions.
    #[serde(default)]
    pub wanted: Option<Wanted>,
    /// Which steps of the plan were this turn's.
    #[serde(default)]
    pub part: Part,
    pub observed: Observed,
    pub plan: Plan,
    pub outcome: Vec<Outcome>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub step: Step,
    /// `done`, `not done`, `maybe done` or `refused`.
    pub came_to: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub took_ms: u64,
}

/// The journal of one cluster: two files of at most 8 MiB each and a line.
#[derive(Debug)]
pub struct Journal {
    lines: Lines,
    /// The plans of the last turns, one for leadership and one for the rest: their steps, and the gist of their holds.
    last: BTreeMap<Part, (Vec<Step>, Vec<String>)>,
}

impl Journal {
    /// Opens `<dir>/<cluster>.jsonl` to append to it.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn open(dir: &Path, cluster: &ClusterName) -> Result<Self, LineError> {
        let lines = Lines::open(dir.join(format!("{cluster}.jsonl")), LONGEST)?;
        Ok(Self { lines, last: BTreeMap::new() })
    }

    /// Writes the turn down, unless it did nothing and planned and held what the one before did. That leases run on is
    /// nothing that was done.
    ///
    /// # Errors
    /// If the line cannot be written.
    pub fn write(&mut self, generation: String, wanted: &Wanted, turn: &Turn) -> Result<(), LineError> {
        let holds = turn.holds().map(|hold| gist(&render::hold(hold)));
        let plan = (turn.own().cloned().collect(), holds.collect());
        let did = turn.results.iter().any(|done| !matches!(done.step.action, Action::Renew { .. }));
        if !did && self.last.get(&turn.part) == Some(&plan) {
            return Ok(());
        }
        self.last.insert(turn.part, plan);
        let outcome = turn.results.iter().map(|done| Outcome {
            step: done.step.clone(),
            came_to: done.result.as_ref().map_or_else(|error| error.kind(), |()| "done").to_owned(),
            error: done.result.as_ref().err().map(|error| chain(error)),
            took_ms: u64::try_from(done.took.as_millis()).unwrap_or(u64::MAX),
        });
        let entry = Entry {
            at: turn.at,
            generation,
            wanted: Some(wanted.clone()),
            part: turn.part,
            observed: turn.observed.clone(),
            plan: turn.plan.clone(),
            outcome: outcome.collect(),
        };
        self.lines.append(serde_json::to_vec(&entry).expect("an entry has string keys only"))
    }
}

#[cfg(test)]
mod tests {
    use flypg_core::failover::Verdict;

    use super::*;

    #[test]
    fn only_what_is_new_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let cluster: ClusterName = "orders-db".parse().unwrap();
        let mut journal = Journal::open(dir.path(), &cluster).unwrap();
        let mut turn = Turn {
            at: Timestamp::UNIX_EPOCH,
            observed: Observed::default(),
            plan: Plan { cluster: cluster.clone(), verdict: Verdict::Unknown, steps: Vec::new(), holds: Vec::new() },
            results: Vec::new(),
            part: Part::All,
        };
        let wanted = Wanted::Kept(crate::tests::spec("orders-db"));
        for _ in 0..3 {
            journal.write("g1".to_owned(), &wanted, &turn).unwrap();
        }
        let path = dir.path().join("orders-db.jsonl");
        let lines = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert_eq!(lines(&path).lines().count(), 1);
        let entry: Entry = serde_json::from_str(lines(&path).trim()).unwrap();
        assert_eq!((entry.plan, entry.observed), (turn.plan.clone(), turn.observed.clone()));

        turn.plan.holds.push(flypg_core::plan::Hold {
            what: flypg_core::plan::Work::Everything,
            until: flypg_core::plan::Until::Confirmed { what: flypg_core::plan::Subject::App },
        });
        journal.write("g2".to_owned(), &wanted, &turn).unwrap();
        assert_eq!(lines(&path).lines().count(), 2, "it holds something else");
        turn.part = Part::Leadership;
        for _ in 0..3 {
            journal.write("g2".to_owned(), &wanted, &turn).unwrap();
        }
        assert_eq!(lines(&path).lines().count(), 3, "of each part once");
    }
}
