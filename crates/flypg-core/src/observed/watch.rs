//! What only one life of one controller knows, and how it learns it. Pure: the clock is an argument.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::decree::{Decree, Epoch, Stage};
use crate::failover::lease::{Granted, Mono};
use crate::names::NodeName;
use crate::protocol::{Lsn, NodeReport, PgRole, Phase};

/// What only this life of this controller knows, on its own clock. None of it is needed to go on with what another
/// controller began; it is needed to be sure that something is over.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Watch {
    /// When this was put together.
    pub now: Mono,
    /// When this controller came to be the one that may decide and grant; absent while it is not.
    pub leads_since: Option<Mono>,
    /// When the read of the record began that is in [`Observed::record`](super::Observed::record) and showed that this
    /// controller still leads: what arrived before may be answered with a grant (rule R2).
    pub record_read: Mono,
    /// The leases that it gave to the primary on record.
    pub granted: Option<Granted>,
    /// When this controller first saw the epoch on record.
    pub epoch_since: Option<(Epoch, Mono)>,
    /// When this controller first saw the revision on record.
    #[serde(default)]
    pub revision_since: Option<(u64, Mono)>,
    /// By Machine id.
    pub pulses: BTreeMap<String, Pulse>,
    /// By Machine id: proof that what ran there has ended (fence F3), until its agent is heard again.
    pub stopped: BTreeMap<String, Stopped>,
    /// The last position of the primary of this reign that anybody who may tell it has seen. Absent until the primary
    /// itself was heard in it (rule R7).
    #[serde(default)]
    pub last_known: Option<LastKnown>,
    /// Whether the platform's word that a Machine has stopped is believed.
    pub proof_by_platform: bool,
    /// A person's order that no file can give.
    pub order: Option<Order>,
}

/// How far the primary of a reign is known to have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastKnown {
    pub reign: Epoch,
    pub lsn: Lsn,
    /// When the primary itself was last asked, of those questions that it answered to this life of this controller.
    pub said: Option<Mono>,
    /// It was written down by an earlier life of the only controller, not long before that ended.
    pub recalled: bool,
}

/// How an agent is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pulse {
    /// When its last report arrived; absent if none ever did.
    pub heard: Option<Mono>,
    /// When that was asked for: what it says may be as old as this, however late it was read.
    #[serde(default)]
    pub asked: Option<Mono>,
    /// Questions in a row that got no answer. A connection that was refused or reset counts twice.
    pub missed: u32,
    /// The incarnation of the agent that its last report came from.
    #[serde(default)]
    pub incarnation: Option<u64>,
    /// When a report last said that it streams from somebody; absent if none ever did.
    #[serde(default)]
    pub streamed: Option<Mono>,
    /// The incarnation of the agent, and how often Postgres had crashed in it, when Postgres last ran. If that is what is
    /// reported while it does not run, it was stopped on purpose.
    #[serde(default)]
    pub ran: Option<(u64, u32)>,
    /// Since when its reports say that Postgres does not run; absent while it runs, and before anything was heard.
    #[serde(default)]
    pub down_since: Option<Mono>,
}

/// How a question remained without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// Nothing came back in time.
    Silent,
    /// Something that is there refused the connection, or broke it: no agent listens.
    Refused,
}

/// When a report was asked for, and when it was there. What it says was so at some moment in between; a controller that
/// stood still may find one that waited for it for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    pub asked: Mono,
    pub arrived: Mono,
}

impl Heard {
    /// Asked for and answered at one instant.
    pub fn at(at: Mono) -> Self {
        Self { asked: at, arrived: at }
    }
}

/// A Machine that was proven stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// When the proof began: every boot that had begun before has ended.
    pub at: Mono,
}

/// What a person asked for on the command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Order {
    /// `to`: the best one, if absent.
    Switchover { to: Option<NodeName> },
    /// Promote `to` although it may lack acknowledged commits.
    Failover { to: NodeName, accept_data_loss: bool },
}

impl Watch {
    /// How many questions in a row this Machine's agent has left unanswered.
    pub fn missed(&self, machine: &str) -> u32 {
        self.pulses.get(machine).map_or(0, |pulse| pulse.missed)
    }

    /// A report of this Machine's agent has arrived.
    pub fn hear(&mut self, machine: &str, report: &NodeReport, heard: Heard) {
        let arrived = heard.arrived;
        let pulse = self.pulses.entry(machine.to_owned()).or_default();
        (pulse.heard, pulse.asked) = (Some(arrived), Some(heard.asked));
        pulse.missed = 0;
        pulse.incarnation = Some(report.incarnation);
        let role = report.postgres.as_ref().map(|postgres| &postgres.role);
        if matches!(role, Some(PgRole::Standby { streaming_from: Some(_), .. })) {
            pulse.streamed = Some(arrived);
        }
        // One that answers runs, whatever its agent is busy with.
        let runs = report.postgres.is_some() && !matches!(report.phase, Phase::Failing { .. } | Phase::Stopping);
        if runs {
            pulse.ran = Some((report.incarnation, report.crashes));
        }
        pulse.down_since = if runs { None } else { pulse.down_since.or(Some(arrived)) };
        // It runs again, or its last words were on their way; whichever it is, what was proven is not so now.
        self.stopped.remove(machine);
    }

    /// A question to this Machine's agent remained without an answer.
    pub fn miss(&mut self, machine: &str, how: Missed) {
        let weight = match how {
            Missed::Silent => 1,
            Missed::Refused => 2,
        };
        let pulse = self.pulses.entry(machine.to_owned()).or_default();
        pulse.missed = pulse.missed.saturating_add(weight);
    }

    /// Forgets the pulses and proofs of every Machine but these.
    pub fn retain(&mut self, machines: &BTreeSet<String>) {
        self.pulses.retain(|machine, _| machines.contains(machine));
        self.stopped.retain(|machine, _| machines.contains(machine));
    }

    /// Takes note of the record and of what nodes say at `now`: since when its epoch is known, how far its primary has
    /// come, and whether an order was taken up.
    pub fn see<'a>(&mut self, record: Option<&Decree>, reports: impl Iterator<Item = &'a NodeReport>, now: Mono) {
        self.now = now;
        let Some(decree) = record else {
            (self.epoch_since, self.revision_since, self.last_known) = (None, None, None);
            return;
        };
        if self.epoch_since.is_none_or(|(epoch, _)| epoch != decree.epoch) {
            self.epoch_since = Some((decree.epoch, now));
        }
        if self.revision_since.is_none_or(|(revision, _)| revision != decree.revision) {
            self.revision_since = Some((decree.revision, now));
        }
        let before = self.last_known.filter(|known| known.reign == decree.reign);
        let (mut furthest, mut said) = (before.map(|known| known.lsn), before.and_then(|known| known.said));
        for report in reports {
            let Some(lsn) = position(decree, report) else { continue };
            furthest = furthest.max(Some(lsn));
            if report.node == decree.primary {
                said = said.max(self.pulses.get(&report.machine).and_then(|pulse| pulse.asked));
            }
        }
        // What standbys have tells nothing of what they lack: before the primary itself was heard nobody knows that.
        let recalled = before.is_some_and(|known| known.recalled);
        self.last_known = furthest.filter(|_| recalled || said.is_some()).map(|lsn| LastKnown {
            reign: decree.reign,
            lsn,
            said,
            recalled,
        });
    }

    /// What an earlier life of the only controller wrote down of how far the primary of `reign` had come. Says nothing
    /// once the primary was heard again.
    pub fn recall(&mut self, reign: Epoch, lsn: Lsn) {
        if self.last_known.is_none() {
            self.last_known = Some(LastKnown { reign, lsn, said: None, recalled: true });
        }
    }

    /// A lease is about to be given for a report that arrived at `arrived`. Called before it leaves, so that what may
    /// be out there is never more than what is known here (rule R2).
    pub fn grant(&mut self, epoch: Epoch, arrived: Mono) {
        let last = match self.granted {
            Some(granted) if granted.epoch > epoch => return,
            Some(granted) => granted.last.max(arrived),
            None => arrived,
        };
        self.granted = Some(Granted { epoch, last });
    }
}

/// How far the primary of this reign has come by what `report` says: the primary's own word, or that of a standby that
/// received it from there.
fn position(decree: &Decree, report: &NodeReport) -> Option<Lsn> {
    // While its candidate is not established, the old primary's positions are in the seal.
    if matches!(decree.stage, Stage::Bootstrapping { .. })
        || decree.promotion().is_some()
        || report.promised < decree.reign
    {
        return None;
    }
    match &report.postgres.as_ref()?.role {
        PgRole::Primary { lsn, .. } if report.node == decree.primary => Some(*lsn),
        PgRole::Standby { received, streaming_from: Some(from), .. } if *from == decree.primary => *received,
        _ => None,
    }
}

#[cfg(test)]
mod tests;
