//! What must never happen, looked at after everything that could make it happen (protocol §3).

use std::collections::{BTreeMap, BTreeSet};

use flypg_core::decree::{CommitMode, Decree, Epoch, Stage, SystemId};
use flypg_core::failover::lease::BootTime;
use flypg_core::ledger::{Ledger, LedgerRole};
use flypg_core::protocol::Gate;
use flypg_core::spec::Durability;

use crate::controller::NOTED_EVERY;
use crate::postgres::Result;
use crate::setup::{Fault, Setup};
use crate::time::{Time, secs};
use crate::wal::{RECORD, What};
use crate::world::World;

#[derive(Debug, Clone)]
pub struct Violation {
    /// The invariant, as the protocol numbers it.
    pub invariant: &'static str,
    pub words: String,
    pub at: Time,
}

impl Violation {
    /// It must never happen; otherwise a cluster did not get well by itself.
    pub fn is_dangerous(&self) -> bool {
        self.invariant != "I16"
    }
}

/// The furthest record that clients were told of, or shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct Floor {
    pub last: Option<(usize, u64)>,
    /// How often something was lost that may be: what was known before says nothing then.
    losses: usize,
}

/// A record that clients know of.
#[derive(Debug, Clone, Copy)]
struct Known {
    at: usize,
    serial: u64,
    when: Time,
    /// It was acknowledged by the primary alone: one disk has it.
    alone: bool,
}

#[derive(Debug)]
pub struct Check {
    pub violation: Option<Violation>,
    /// Why a cluster did not get well by itself, and a person is needed.
    pub held: Option<String>,
    pub settings_digest: String,
    /// Nodes that a list of Machines once lacked: see `a_list_that_lacks_a_machine_costs_nobody_a_copy` of the tests.
    pub unlisted: BTreeSet<usize>,
    strict: bool,
    known: Vec<Known>,
    /// The furthest of them.
    floor: Floor,
    acknowledged: usize,
    /// The highest epoch in which anybody was answered; and in which a commit was acknowledged.
    pub answered: Epoch,
    /// Who answered last, in which life: the first answer of another one is looked at closely.
    opened: Option<(usize, u64, Epoch)>,
    leaders: BTreeMap<Epoch, usize>,
    timelines: BTreeSet<u32>,
    /// By Machine: what its ledger had promised at most, and its incarnation.
    promises: BTreeMap<String, (Epoch, u64)>,
    systems: BTreeSet<String>,
    last_answer: Time,
}

impl Check {
    pub fn new(setup: &Setup) -> Self {
        // Asynchronous clusters are always fenced; one that becomes asynchronous may have been none before.
        let changes = setup.faults.iter().any(|(fault, _)| *fault == Fault::SpecChange);
        Self {
            violation: None,
            held: None,
            unlisted: BTreeSet::new(),
            settings_digest: flypg_core::settings::digest(&setup.spec.postgres.parameters),
            strict: setup.spec.failover.read_fence || (setup.spec.durability == Durability::Async && !changes),
            known: Vec::new(),
            floor: Floor::default(),
            acknowledged: 0,
            answered: Epoch::default(),
            opened: None,
            leaders: BTreeMap::new(),
            timelines: BTreeSet::new(),
            promises: BTreeMap::new(),
            systems: BTreeSet::new(),
            last_answer: 0,
        }
    }

    pub fn floor(&self) -> Floor {
        self.floor
    }

    pub fn acknowledged(&self) -> usize {
        self.acknowledged
    }

    pub fn reigns(&self) -> usize {
        self.leaders.len().saturating_sub(1)
    }

    fn learn(&mut self, at: usize, serial: u64, when: Time, alone: bool) {
        self.known.push(Known { at, serial, when, alone });
        if self.floor.last.is_none_or(|(last, _)| last < at) {
            self.floor.last = Some((at, serial));
        }
    }
}

impl World {
    pub fn violate(&mut self, invariant: &'static str, words: String) {
        if self.setup.bare {
            return;
        }
        let now = self.now;
        self.tell(|| format!("VIOLATION of {invariant}: {words}"));
        self.check.violation.get_or_insert(Violation { invariant, words, at: now });
    }

    /// An answer has passed the gate of `node`.
    pub fn check_answer(&mut self, node: usize, client: usize, epoch: Epoch, result: Result) {
        let name = self.nodes[node].name.clone();
        self.check.last_answer = self.now;
        let writes = matches!(result, Result::Committed { .. });
        let asynchronous = self.is_asynchronous();
        let fenced = self.check.strict;
        if writes || fenced {
            if epoch < self.check.answered {
                let later = self.check.answered;
                return self.violate("I1", format!("{name} answers in epoch {epoch} after somebody did in {later}"));
            }
            self.check.answered = epoch;
        }
        let life = self.nodes[node].agent.as_ref().map_or(0, |agent| agent.life);
        let opening = (node, life, epoch);
        if (writes || fenced) && self.check.opened != Some(opening) {
            self.check.opened = Some(opening);
            self.check_has_all(node, asynchronous);
        }
        let floor = self.clients[client].floor;
        let Some(pg) = self.nodes[node].disk.pg() else { return };
        let marked = pg.log.markers(pg.flushed, &self.markers).iter().any(|(marked, _)| *marked == epoch);
        let promised = self.nodes[node].agent.as_ref().map(|agent| agent.ledger.promised);
        if !marked || promised != Some(epoch) {
            let words = format!("{name} answers in epoch {epoch}, has promised {promised:?}, marker {marked}");
            return self.violate("I5", words);
        }
        match result {
            Result::Committed { at, serial, .. } => {
                if let Some((last, known)) = self.check.floor.last
                    && !pg.log.has(last, known)
                {
                    let words = format!("{name} acknowledges in epoch {epoch} and lacks an acknowledged commit");
                    return self.violate("I2", words);
                }
                let alone = self.nodes[node].server.as_ref().is_none_or(|server| server.defined.acks() == 0);
                self.check.learn(at, serial, self.now, alone);
                self.check.acknowledged += 1;
            }
            Result::Read { visible, .. } if fenced => {
                let lacks = floor.last.is_some_and(|(last, serial)| last >= visible || !pg.log.has(last, serial));
                if lacks && floor.losses == self.check.floor.losses {
                    let words = format!("{name} shows in epoch {epoch} what was before a commit acknowledged earlier");
                    return self.violate("I1", words);
                }
                let from = visible.saturating_sub(64);
                let shown = pg.log.slice(from, visible).iter().enumerate().rev().find(|(_, r)| r.what == What::Write);
                let shown = shown.map(|(offset, record)| (from + offset, record.serial));
                if let Some((at, serial)) = shown
                    && self.check.floor.last.is_none_or(|(last, _)| last < at)
                {
                    let alone = self.nodes[node].server.as_ref().is_none_or(|server| server.defined.acks() == 0);
                    self.check.learn(at, serial, self.now, alone);
                }
            }
            Result::Read { .. } | Result::Failed => {}
        }
    }

    fn is_asynchronous(&self) -> bool {
        self.store.record.as_ref().is_some_and(|record| record.mode == CommitMode::Asynchronous)
            || self.setup.spec.durability == Durability::Async
    }

    /// Somebody begins to answer: everything that clients know of must be there (I2), or, where nothing was promised,
    /// not more may be missing than the bound says (I13).
    fn check_has_all(&mut self, node: usize, asynchronous: bool) {
        let Some(pg) = self.nodes[node].disk.pg() else { return };
        let missing: Vec<Known> = self.check.known.iter().filter(|k| !pg.log.has(k.at, k.serial)).copied().collect();
        if missing.is_empty() {
            return;
        }
        let name = self.nodes[node].name.clone();
        if !asynchronous {
            let words = format!("{name} opens its gate and lacks {} acknowledged commits", missing.len());
            return self.violate("I2", words);
        }
        // What was written after the primary's last word came to a controller is not in anybody's bound (§2.9): a lease's
        // worth, and a report's.
        let timing = flypg_core::failover::lease::Timing::of(self.setup.spec.failover.profile);
        let mut window = crate::time::span(timing.over_after() + timing.report * 2);
        if self.controllers.len() == 1 {
            // What a controller wrote down that then ended.
            window += NOTED_EVERY;
        }
        let last = missing.iter().map(|known| known.when).max().unwrap_or(0);
        let before: Vec<usize> = missing.iter().filter(|k| k.when + window < last).map(|k| k.at).collect();
        let bytes = match (before.iter().min(), before.iter().max()) {
            (Some(first), Some(last)) => (last + 1 - first) as u64 * RECORD,
            _ => 0,
        };
        self.tell(|| {
            format!("{name}: {} commits are lost, {bytes} bytes of them before the last lease", missing.len())
        });
        if bytes > self.setup.spec.failover.max_lag_bytes {
            return self.violate("I13", format!("{name} leads and lacks {bytes} bytes"));
        }
        let Some(pg) = self.nodes[node].disk.pg() else { return };
        let log = &pg.log;
        let check = &mut self.check;
        check.known.retain(|known| log.has(known.at, known.serial));
        check.floor.losses += 1;
        check.floor.last = check.known.iter().max_by_key(|k| k.at).map(|k| (k.at, k.serial));
    }

    /// No two gates are open at one instant (I1).
    pub fn check_gates(&mut self, node: usize) {
        let opens = |world: &World, node: usize| {
            let this = &world.nodes[node];
            let agent = this.agent.as_ref()?;
            let end = agent.tenure.passes_until(&agent.ledger)?;
            let open = end == BootTime::MAX || this.clock.read(world.now) < end;
            (open && this.server.as_ref().is_some_and(|server| server.writes())).then(|| agent.leads()).flatten()
        };
        if !self.check.strict {
            return;
        }
        let Some(epoch) = opens(self, node) else { return };
        for other in 0..self.nodes.len() {
            if other != node
                && let Some(theirs) = opens(self, other)
            {
                let (a, b) = (self.nodes[node].name.clone(), self.nodes[other].name.clone());
                return self
                    .violate("I1", format!("the gates of {a} (epoch {epoch}) and {b} (epoch {theirs}) are open"));
            }
        }
    }

    pub fn check_confirmed(&mut self, node: usize, epoch: Epoch) {
        let leader = *self.check.leaders.entry(epoch).or_insert(node);
        if leader != node {
            let (a, b) = (self.nodes[node].name.clone(), self.nodes[leader].name.clone());
            self.violate("I3", format!("{a} and {b} both lead in epoch {epoch}"));
        }
        if self.is_asynchronous() {
            self.check_has_all(node, true);
        }
        let strange = self.nodes[node].disk.pg().map(|pg| pg.system_id.0.clone());
        if let Some(system) = strange.filter(|system| !self.check.systems.contains(system)) {
            let name = self.nodes[node].name.clone();
            return self.violate("I11", format!("{name} leads with data of system {system}, which nobody made here"));
        }
        self.check_gates(node);
    }

    pub fn check_timeline(&mut self, node: usize, timeline: u32) {
        if !self.check.timelines.insert(timeline) {
            let name = self.nodes[node].name.clone();
            self.violate("I3", format!("{name} was promoted to timeline {timeline}, which was used before"));
        }
    }

    pub fn check_promise(&mut self, node: usize, before: &Ledger) {
        let Some(agent) = &self.nodes[node].agent else { return };
        let (promised, incarnation) = (agent.ledger.promised, agent.ledger.incarnation);
        let name = self.nodes[node].name.clone();
        if promised < before.promised {
            return self.violate("I3", format!("{name} forgets epoch {} for {promised}", before.promised));
        }
        let machine = self.nodes[node].machine.clone();
        let known = self.check.promises.entry(machine).or_default();
        let (highest, latest) = *known;
        *known = (highest.max(promised), latest.max(incarnation));
        if promised < highest || incarnation < latest {
            self.violate("I3", format!("{name} has promised epoch {highest} and now goes by {promised}"));
        }
    }

    pub fn check_incarnation(&mut self, node: usize, before: Option<&Ledger>, now: &Ledger) {
        let known = self.check.promises.get(&self.nodes[node].machine);
        let highest = known.map_or(Epoch::default(), |(promised, _)| *promised);
        let (name, promised) = (self.nodes[node].name.clone(), now.promised);
        if promised < highest {
            return self.violate("I3", format!("{name} has promised epoch {highest}, and boots with {promised}"));
        }
        if before.is_some_and(|before| now.incarnation <= before.incarnation) {
            self.violate("I3", format!("{name} boots in an incarnation that it had before"));
        }
    }

    /// An acknowledgement of `to` counts at `from`: it must be a copy (I6).
    pub fn check_counts(&mut self, from: usize, to: usize) {
        let name = self.nodes[to].name.clone();
        let Some(server) = self.nodes[from].server.as_ref() else { return };
        let Some(sender) = server.senders.get(&name).filter(|sender| sender.view.members().contains(&name)) else {
            return;
        };
        let (Some(source), Some(copy)) = (self.nodes[from].disk.pg(), self.nodes[to].disk.pg()) else { return };
        let last = sender.flushed.min(copy.log.len());
        let Some(record) = copy.log.slice(last.saturating_sub(1), last).first() else { return };
        if !source.log.has(last - 1, record.serial) {
            let upstream = self.nodes[from].name.clone();
            self.violate("I6", format!("{name} acknowledges for {upstream} and is no copy of it"));
        }
    }

    /// The rule in effect is one of those on record (I7).
    pub fn check_rule(&mut self, node: usize) {
        let this = &self.nodes[node];
        let (Some(record), Some(agent), Some(server)) = (&self.store.record, &this.agent, &this.server) else { return };
        if agent.leads() != Some(record.reign) || record.primary != this.name {
            return;
        }
        let recorded = server.loaded == record.rule || record.rules().any(|rule| *rule == server.loaded);
        let old = agent.ledger.revision < record.revision;
        if !recorded && !old {
            let words = format!("{} acknowledges by {:?}, which is not on record", this.name, server.loaded);
            self.violate("I7", words);
        }
    }

    /// WAL was removed: whoever streamed from this primary, counts, and comes back finds what it needs (I15).
    pub fn check_keeps(&mut self, node: usize, kept: usize) {
        let (Some(record), Some(server)) = (&self.store.record, &self.nodes[node].server) else { return };
        if record.primary != self.nodes[node].name || record.is_electing() {
            return;
        }
        let Some(source) = self.nodes[node].disk.pg() else { return };
        let misses = |other: &&crate::world::Node| {
            let follows = other.agent.as_ref().is_some_and(|agent| {
                matches!(&agent.ledger.role, LedgerRole::Replica { upstream, .. } if *upstream == record.primary)
            });
            let lacks = other.disk.pg().is_some_and(|pg| pg.flushed < kept);
            // One that has lost what it said that it has is told from that: its slot is past what it needs.
            let reserved = source.slots.get(&other.name.slot()).copied().flatten();
            follows
                && lacks
                && reserved.is_none_or(|at| at < kept)
                && record.members.contains_key(&other.name)
                && server.met.contains(&other.name)
        };
        if (self.setup.spec.primary.nodes as usize) < self.nodes.len() {
            return; // somebody is to go, and nothing is kept for it
        }
        let excused = |at: usize| !self.setup.blames_lists && self.check.unlisted.contains(&at);
        let found = self.nodes.iter().enumerate().find(|(at, other)| !excused(*at) && misses(other));
        if let Some(other) = found.map(|(_, other)| other.name.clone()) {
            let name = self.nodes[node].name.clone();
            self.violate("I15", format!("{name} removes WAL that {other} needs"));
        }
    }

    /// Something irreversible is about to happen to the data of `node` (I8).
    pub fn check_destroys(&mut self, node: usize, what: &str) {
        let Some(pg) = self.nodes[node].disk.pg() else { return };
        let flushed = pg.flushed;
        let held = |known: &&Known| known.at < flushed && pg.log.has(known.at, known.serial);
        let elsewhere = |known: &Known| {
            self.nodes.iter().enumerate().any(|(other, this)| {
                other != node
                    && this.disk.pg().is_some_and(|pg| known.at < pg.flushed && pg.log.has(known.at, known.serial))
            })
        };
        let only_here = self.check.known.iter().filter(held).filter(|known| !elsewhere(known)).count();
        if only_here > 0 {
            let name = self.nodes[node].name.clone();
            self.violate("I8", format!("{name} {what}, and is the only one that has {only_here} acknowledged commits"));
        }
    }

    /// A node is about to be stopped for good: another one leads, and has been running (I8).
    pub fn check_removes(&mut self, node: usize) {
        let name = self.nodes[node].name.clone();
        let primary = self.store.record.as_ref().and_then(|record| self.index_of(&record.primary));
        let Some(primary) = primary else { return };
        if primary == node {
            return self.violate("I8", format!("{name} is removed, and leads"));
        }
        let runs = self.nodes[primary].server.as_ref().is_some_and(|server| server.writes());
        // Reports are so old at most that they still count.
        let long = self.nodes[primary].vm.is_none() && self.nodes[primary].ended + secs(5) < self.now;
        if !runs && long {
            self.violate("I8", format!("{name} is removed while nobody leads"));
        }
    }

    pub fn check_initdb(&mut self, node: usize, system: &SystemId) {
        let first = self.check.systems.is_empty();
        self.check.systems.insert(system.0.clone());
        let began =
            self.store.record.as_ref().is_some_and(|record| !matches!(record.stage, Stage::Bootstrapping { .. }));
        if (!first || began) && self.check.acknowledged > 0 {
            let name = self.nodes[node].name.clone();
            self.violate("I11", format!("{name} makes data anew in a cluster that has some"));
        }
    }

    /// The record has changed (I3, I4, I17).
    pub fn check_record(&mut self, before: Option<&Decree>) {
        let Some(after) = self.store.record.clone() else { return };
        let Some(before) = before else { return };
        if after.epoch < before.epoch || after.revision <= before.revision || after.reign < before.reign {
            let (was, is) = ((before.epoch, before.revision), (after.epoch, after.revision));
            return self.violate("I3", format!("the record goes from {was:?} to {is:?}"));
        }
        if after.reign == before.reign && after.primary != before.primary {
            return self.violate("I3", format!("epoch {} gets a second primary", after.reign));
        }
        if after.burnt < before.burnt {
            return self.violate("I3", "a burnt timeline may be used again".to_owned());
        }
        if after.primary != before.primary
            && let Stage::Promoting { promotion, .. } = &after.stage
            && promotion.permission.candidate != after.primary
        {
            return self.violate("I4", format!("{} is promoted without permission", after.primary));
        }
        let within = |span: i64| {
            let last = after.failovers.last().map_or(0, |at| at.as_second());
            after.failovers.iter().filter(|at| last - at.as_second() < span).count()
        };
        if after.failovers.len() > before.failovers.len() && (within(60) > 2 || within(3_600) > 3) {
            self.violate("I17", format!("{} automatic failovers in a minute", within(60)));
        }
    }

    /// A disk is gone. What only it had was promised to nobody only if its primary acknowledged alone.
    pub fn forgive(&mut self, _node: usize) {
        let disks: Vec<_> = self.nodes.iter().filter(|n| !n.removed).filter_map(|node| node.disk.pg()).collect();
        let exists = |known: &Known| disks.iter().any(|pg| known.at < pg.flushed && pg.log.has(known.at, known.serial));
        let alone = self.store.record.as_ref().is_none_or(|record| record.rule.acks() == 0);
        let promised_by_nobody = self.is_asynchronous() || alone;
        let lost = self.check.known.iter().filter(|k| (k.alone || promised_by_nobody) && !exists(k));
        let lost: Vec<u64> = lost.map(|known| known.serial).collect();
        let check = &mut self.check;
        if !lost.is_empty() {
            check.known.retain(|known| !lost.contains(&known.serial));
            check.floor.losses += 1;
            check.floor.last = check.known.iter().max_by_key(|k| k.at).map(|k| (k.at, k.serial));
        }
    }

    /// Nobody has a copy with everything that clients were told: only a person can say that it goes on without.
    fn needs_what_is_lost(&self) -> bool {
        let record = self.store.record.as_ref();
        let alone = record.is_none_or(|record| record.rule.acks() == 0);
        let has_all =
            |pg: &crate::disk::PgData| self.check.known.iter().all(|known| pg.log.has(known.at, known.serial));
        let primary = record.and_then(|record| self.index_of(&record.primary));
        let primary_lost = primary.is_some_and(|primary| self.nodes[primary].replaced);
        primary_lost && (alone || !self.nodes.iter().filter_map(|node| node.disk.pg()).any(has_all))
    }

    /// Everything has healed a while ago: a gate is open, and clients are answered, or a person is needed and is told
    /// why (I16).
    pub fn check_liveness(&mut self) {
        let open = (0..self.nodes.len()).any(|node| self.gate_of(node) == Gate::Open);
        let answered = self.check.last_answer + secs(5) >= self.now;
        if open && answered {
            return;
        }
        let leading = self.controllers.iter().find(|controller| controller.watch.leads_since.is_some());
        let holds: Vec<_> = leading
            .and_then(|controller| controller.last_plan.as_ref())
            .map(|plan| plan.holds.clone())
            .unwrap_or_default();
        if let Some(hold) = holds.iter().find(|hold| !hold.until.is_wait()) {
            self.check.held = Some(format!("{:?}", hold.until));
            return;
        }
        let gates: Vec<_> = (0..self.nodes.len()).map(|node| self.gate_of(node)).collect();
        let lost =
            self.setup.faults.iter().any(|(fault, _)| matches!(fault, Fault::VolumeLost | Fault::VolumeRestored));
        if lost && self.needs_what_is_lost() {
            self.check.held = Some("Lost: what was acknowledged was on a volume that is gone".to_owned());
            return;
        }
        self.violate("I16", format!("healed, and nobody is answered: gates {gates:?}, the plan waits {holds:?}"));
    }
}
