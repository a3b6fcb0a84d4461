//! What happened to a cluster, in words a person reads at three in the morning: decisions with their reasons, what is
//! held and is not any more, nodes that fell silent and came back, steps that were taken. One JSON object per line,
//! bounded like the journal; no secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use flypg_core::Timestamp;
use flypg_core::decree::Stage;
use flypg_core::names::{ClusterName, NodeName};
use flypg_core::observed::{Observed, Seen};
use flypg_core::plan::{Action, Step, Why};
use flypg_core::protocol::Phase;
use flypg_core::render;
use serde::{Deserialize, Serialize};

use crate::act::ActError;
use crate::lines::{LineError, Lines};
use crate::turn::{Part, Turn, Witness};
use crate::words::{chain, gist};

/// Bytes after which the log begins anew; one older file is kept.
const LONGEST: u64 = 1 << 20;
/// Questions in a row without an answer, by weight, after which a node counts as down here.
const SILENT: u32 = 3;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub at: Timestamp,
    pub what: What,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// The highest epoch on record when it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// The record changed.
    Decided,
    /// An attempt to replace the primary began.
    FailoverBegan,
    /// A primary is to hand over.
    SwitchoverBegan,
    /// Another node leads than before.
    LeaderChanged,
    /// A step was taken.
    Done,
    /// A step failed; told once until it fails in another way.
    Failed,
    HoldBegan,
    HoldEnded,
    NodeDown,
    NodeUp,
}

impl What {
    /// In one word.
    pub const fn name(self) -> &'static str {
        match self {
            What::Decided => "decided",
            What::FailoverBegan => "failover-began",
            What::SwitchoverBegan => "switchover-began",
            What::LeaderChanged => "leader-changed",
            What::Done => "done",
            What::Failed => "failed",
            What::HoldBegan => "hold-began",
            What::HoldEnded => "hold-ended",
            What::NodeDown => "node-down",
            What::NodeUp => "node-up",
        }
    }
}

/// Every event that is kept of a cluster, oldest first. None if nothing was ever written.
///
/// # Errors
/// If a file is there and cannot be read. Lines that are not whole are left out.
pub fn read(dir: &Path, cluster: &ClusterName) -> Result<Vec<Event>, LineError> {
    let path = path(dir, cluster);
    let mut events = Vec::new();
    for path in [crate::lines::older(&path), path] {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(source) => return Err(LineError::read(path, source)),
        };
        for line in BufReader::new(file).lines() {
            let line = line.map_err(|source| LineError::read(path.clone(), source))?;
            events.extend(serde_json::from_str::<Event>(&line));
        }
    }
    // The tasks of a cluster each tell of a moment that began before what another one has written down meanwhile.
    events.sort_by_key(|event| event.at);
    Ok(events)
}

fn path(dir: &Path, cluster: &ClusterName) -> PathBuf {
    dir.join(format!("{cluster}.jsonl"))
}

/// Writes down what happens to one cluster, and passes it on.
#[derive(Debug)]
pub struct Chronicle<W> {
    next: W,
    clock: fn() -> Timestamp,
    told: Mutex<Told>,
}

#[derive(Debug)]
struct Told {
    lines: Lines,
    /// What was held at the last turn: its gist, and its words.
    held: BTreeMap<Part, BTreeMap<String, String>>,
    /// Nodes that are down, and nodes that were heard.
    down: BTreeSet<NodeName>,
    up: BTreeSet<NodeName>,
    /// How a step failed when it was last tried.
    failed: BTreeMap<String, String>,
    epoch: Option<u64>,
}

impl<W> Chronicle<W> {
    /// Appends to the log of `cluster` below `dir`.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(dir: &Path, cluster: &ClusterName, clock: fn() -> Timestamp, next: W) -> Result<Self, LineError> {
        let told = Told {
            lines: Lines::open(path(dir, cluster), LONGEST)?,
            held: BTreeMap::new(),
            down: BTreeSet::new(),
            up: BTreeSet::new(),
            failed: BTreeMap::new(),
            epoch: None,
        };
        Ok(Self { next, clock, told: Mutex::new(told) })
    }

    fn tell(&self, at: Timestamp, cluster: &ClusterName, happened: impl FnOnce(&mut Told) -> Vec<Event>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for event in happened(&mut told) {
            let event = Event { at, epoch: told.epoch, ..event };
            let line = serde_json::to_vec(&event).expect("an event has string keys only");
            if let Err(error) = told.lines.append(line) {
                // The cluster matters more than its chronicle.
                tracing::warn!(%cluster, error = chain(&error), "not written down");
            }
        }
    }
}

impl<W: Witness> Witness for Chronicle<W> {
    fn began(&self, cluster: &ClusterName, step: &Step) {
        self.next.began(cluster, step);
    }

    fn ended(&self, cluster: &ClusterName, step: &Step, result: &Result<(), ActError>, took: Duration) {
        self.next.ended(cluster, step, result, took);
        self.tell((self.clock)(), cluster, |told| told.ended(step, result).into_iter().collect());
    }

    fn planned(&self, turn: &Turn) {
        self.next.planned(turn);
        self.tell(turn.at, &turn.plan.cluster, |told| told.planned(turn));
    }
}

impl Told {
    fn ended(&mut self, step: &Step, result: &Result<(), ActError>) -> Option<Event> {
        let text = render::step(step);
        let node = step.action.node().cloned();
        if let Err(error) = result {
            let why = chain(error);
            let is_news = self.failed.insert(text.clone(), gist(&why)).as_deref() != Some(&gist(&why));
            return is_news.then(|| event(What::Failed, node, format!("{text}: {}: {why}", error.kind())));
        }
        self.failed.remove(&text);
        match (&step.action, &step.why) {
            (Action::Renew { .. }, _) => None,
            (Action::Decide { decree, instead_of, .. }, why) => {
                let what = match (&decree.stage, why) {
                    (_, Why::Suspected { .. } | Why::LossAccepted { .. }) if decree.is_electing() => {
                        What::FailoverBegan
                    }
                    (Stage::HandingOver { .. }, Why::Switchover { .. }) => What::SwitchoverBegan,
                    (Stage::Established, Why::Established { .. })
                        if instead_of.as_ref().is_some_and(|old| matches!(old.stage, Stage::Promoting { .. })) =>
                    {
                        What::LeaderChanged
                    }
                    _ => What::Decided,
                };
                self.epoch = Some(decree.epoch.0);
                Some(event(what, node, text))
            }
            _ => Some(event(What::Done, node, text)),
        }
    }

    fn planned(&mut self, turn: &Turn) -> Vec<Event> {
        let mut events = Vec::new();
        if let Some(Some(decree)) = turn.observed.record.known() {
            self.epoch = Some(decree.epoch.0);
        }
        let now: BTreeMap<String, String> = turn.holds().map(render::hold).map(|words| (gist(&words), words)).collect();
        let before = self.held.insert(turn.part, now.clone()).unwrap_or_default();
        let began = now.iter().filter(|(gist, _)| !before.contains_key(*gist));
        let ended = before.iter().filter(|(gist, _)| !now.contains_key(*gist));
        events.extend(began.map(|(_, words)| event(What::HoldBegan, None, words.clone())));
        events.extend(ended.map(|(_, words)| event(What::HoldEnded, None, words.clone())));
        events.extend(self.nodes(&turn.observed));
        events
    }

    fn nodes(&mut self, observed: &Observed) -> Vec<Event> {
        let mut events = Vec::new();
        for (machine, seen) in &observed.reports {
            let Some(report) = Seen::known(seen) else { continue };
            let missed = observed.watch.pulses.get(machine).map_or(0, |pulse| pulse.missed);
            let why = match &report.phase {
                _ if missed >= SILENT => Some("does not answer".to_owned()),
                Phase::Failing { why } => Some(format!("does not stay up: {why}")),
                Phase::Quarantined { why } => Some(format!("refuses to run: {why}")),
                _ => None,
            };
            let runs = missed == 0 && report.phase == Phase::Running && report.postgres.is_some();
            let node = report.node.clone();
            match why {
                Some(why) if self.down.insert(node.clone()) => {
                    self.up.remove(&node);
                    events.push(event(What::NodeDown, Some(node.clone()), format!("{node} {why}")));
                }
                None if runs && self.up.insert(node.clone()) => {
                    let again = if self.down.remove(&node) { " again" } else { "" };
                    events.push(event(What::NodeUp, Some(node.clone()), format!("{node} runs{again}")));
                }
                _ => {}
            }
        }
        events
    }
}

fn event(what: What, node: Option<NodeName>, message: String) -> Event {
    Event { at: Timestamp::UNIX_EPOCH, what, node, epoch: None, message }
}

#[cfg(test)]
mod tests;
