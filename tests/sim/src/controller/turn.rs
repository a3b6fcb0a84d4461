//! One turn: read the record, plan, act.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use flypg_core::decree::{Decree, Stage};
use flypg_core::mutant;
use flypg_core::observed::{App, Machine, MachineConfig, Observed, Order, Power, Seen, Unknown, Volume, metadata};
use flypg_core::plan::{self, Action};
use flypg_core::protocol::env;

use super::{Answer, Call, ControllerEvent, NOTED_EVERY, Op};
use crate::agent::Request;
use crate::setup::Fault;
use crate::time::{ms, secs, wall};
use crate::world::{Asker, World};

impl World {
    /// Begins a turn, or sees to it that another one follows.
    pub(super) fn take_turn(&mut self, id: usize) {
        let number = self.number();
        let began = self.mono(id);
        let controller = &mut self.controllers[id];
        if controller.watch.leads_since.is_none() {
            return;
        }
        if controller.turn.is_some() {
            controller.again = true;
            return;
        }
        controller.turn = Some(number);
        controller.again = false;
        controller.began = began;
        if mutant::off("R2") && controller.cached.is_some() {
            // What it knew last is believed, and that it still leads.
            let record = controller.cached.clone();
            return self.planned(id, number, record);
        }
        self.store(id, number, Op::Read);
    }

    fn end_turn(&mut self, id: usize) {
        let controller = &mut self.controllers[id];
        controller.turn = None;
        controller.actions.clear();
        if std::mem::take(&mut controller.again) {
            self.take_turn(id);
        }
    }

    pub(super) fn stored(&mut self, id: usize, turn: u64, answer: Answer) {
        let now = self.mono(id);
        let controller = &mut self.controllers[id];
        if turn == 0 {
            // The leader key.
            match answer {
                Answer::Leads { term, mine: true }
                    if (controller.term != term || controller.watch.leads_since.is_none()) =>
                {
                    controller.term = term;
                    controller.watch.leads_since = Some(now);
                    controller.watch.granted = None;
                    self.tell(|| format!("controller {id} leads, term {term}"));
                    self.take_turn(id);
                }
                Answer::Leads { mine: false, .. } if !mutant::off("R2") => controller.watch.leads_since = None,
                _ => {}
            }
            return;
        }
        if controller.turn != Some(turn) {
            return;
        }
        match answer {
            Answer::Record { record, term } => {
                if term != controller.term {
                    controller.watch.leads_since = None;
                    return self.end_turn(id);
                }
                let began = controller.began;
                controller.watch.record_read = began;
                self.planned(id, turn, record.map(|record| *record));
            }
            Answer::Decided(true) => self.to_controller(id, ms(1), ControllerEvent::Act { turn }),
            Answer::Decided(false) | Answer::Unknown => {
                controller.cached = None;
                controller.again |= matches!(answer, Answer::Decided(false));
                self.end_turn(id);
            }
            Answer::Leads { .. } => {}
        }
    }

    fn planned(&mut self, id: usize, turn: u64, record: Option<Decree>) {
        let observed = self.observe(id, record.as_ref());
        let now = wall(self.now);
        let mut plan = plan::leadership(&self.setup.spec, &observed, now);
        if self.setup.faults.iter().any(|(fault, _)| *fault == Fault::Shrink) {
            plan.steps.extend(self.removals(observed));
        }
        let controller = &mut self.controllers[id];
        controller.cached = record;
        controller.actions = plan.steps.iter().map(|step| step.action.clone()).collect();
        let same = controller.last_plan.as_ref().is_some_and(|last| last.holds == plan.holds);
        let holds = (!same).then(|| format!("{:?}", plan.holds));
        for step in plan.changes() {
            let (why, what) = (&step.why, &step.action);
            match what {
                Action::Decide { decree, .. } => {
                    let line = format!(
                        "controller {id}: decides because {why:?}: epoch {} reign {} {} {:?} rule {:?} joint {:?}",
                        decree.epoch, decree.reign, decree.primary, decree.stage, decree.rule, decree.joint
                    );
                    self.story.tell(self.now, || line);
                }
                Action::Assign { assignment, .. } => {
                    let line = format!(
                        "controller {id}: tells {} to {} in epoch {} ({why:?})",
                        assignment.node,
                        assignment.task.name(),
                        assignment.epoch
                    );
                    self.story.tell(self.now, || line);
                }
                other => {
                    let line = format!("controller {id}: {other:?}");
                    self.story.tell(self.now, || line);
                }
            }
        }
        if let Some(holds) = holds {
            self.story.tell(self.now, || format!("controller {id}: waits {holds}"));
        }
        self.controllers[id].last_plan = Some(plan);
        self.to_controller(id, ms(1), ControllerEvent::Act { turn });
    }

    /// What a whole turn would remove: it does not believe reports of agents that have fallen silent.
    fn removals(&self, mut observed: Observed) -> Vec<plan::Step> {
        for (machine, report) in &mut observed.reports {
            if observed.watch.missed(machine) >= 2 {
                *report = Seen::Unknown { why: Unknown::NoAnswer { error: "timed out".to_owned() } };
            }
        }
        let whole = plan::plan(&self.setup.spec, &observed, wall(self.now));
        let removes =
            |step: &plan::Step| matches!(step.action, Action::StopMachine { .. } | Action::DestroyMachine { .. });
        whole.steps.into_iter().filter(removes).collect()
    }

    pub(super) fn act(&mut self, id: usize, turn: u64) {
        if self.controllers[id].turn != Some(turn) {
            return;
        }
        let Some(action) = self.controllers[id].actions.pop_front() else { return self.end_turn(id) };
        match action {
            Action::Decide { instead_of, decree, .. } => {
                if self.stumbles(id) {
                    // It stops between having decided and saying so.
                    self.controllers[id].actions.push_front(Action::Decide {
                        cluster: self.setup.spec.name.clone(),
                        instead_of,
                        decree,
                    });
                    return self.to_controller(id, 0, ControllerEvent::Act { turn });
                }
                let term = self.controllers[id].term;
                let instead_of = instead_of.map(|decree| *decree);
                return self.store(id, turn, Op::Decide { term, instead_of, decree: Box::new(decree) });
            }
            Action::Renew { node, machine, grant, arrived, .. } => {
                // Remembered before it leaves.
                self.controllers[id].watch.grant(grant.epoch, arrived);
                let request = Request::Lease { caller: self.caller(id), grant };
                self.call(id, &node, machine, request);
            }
            Action::Assign { machine, assignment, .. } => {
                let node = assignment.node.clone();
                self.call(id, &node, machine, Request::Assign { caller: self.caller(id), assignment });
            }
            Action::ProveStopped { node, machine, .. } => self.prove_stopped(id, &node, machine),
            Action::StopMachine { node, machine, .. } | Action::DestroyMachine { node, machine, .. } => {
                self.remove(&node, &machine);
            }
            _ => {}
        }
        let delay = self.rng.within(ms(1) / 20..ms(1) / 2);
        self.to_controller(id, delay, ControllerEvent::Act { turn });
    }

    /// Where controllers pause, they pause at the worst of moments.
    fn stumbles(&mut self, id: usize) -> bool {
        let pauses = self.setup.faults.iter().any(|(fault, _)| *fault == Fault::ControllerPause);
        let now = self.now;
        if !pauses || now < self.setup.calm || now > self.setup.quiet || !self.rng.chance(2_000) {
            return false;
        }
        let long = *self.rng.pick(&[ms(200), ms(2_000), ms(5_000), ms(12_000)]);
        self.tell(|| format!("FAULT controller {id} stops for {} s before it decides", long as f64 / 1e9));
        self.controllers[id].paused = now + long;
        true
    }

    fn call(&mut self, id: usize, node: &flypg_core::names::NodeName, machine: String, request: Request) {
        let Some(index) = self.index_of(node) else { return };
        if self.nodes[index].machine != machine {
            return; // its address belongs to another Machine now
        }
        let (call, asked) = (self.number(), self.mono(id));
        let life = self.controllers[id].life;
        self.controllers[id].calls.insert(call, Call { node: index, machine, polls: false, asked });
        let place = self.place_of_controller(id);
        self.ask(place, index, Asker::Controller { id, life, call }, request);
        self.to_controller(id, ms(1_000), ControllerEvent::TimedOut { call });
    }

    /// A node that the file does not ask for any more goes, and its Machine with it.
    fn remove(&mut self, node: &flypg_core::names::NodeName, machine: &str) {
        let Some(index) = self.index_of(node).filter(|index| self.nodes[*index].machine == machine) else { return };
        self.check_removes(index);
        self.check_destroys(index, "is removed");
        if !self.nodes[index].removed {
            self.tell(|| format!("{node}: is removed"));
            self.nodes[index].removed = true;
            self.end_machine(index);
        }
    }

    fn prove_stopped(&mut self, id: usize, node: &flypg_core::names::NodeName, machine: String) {
        let at = self.mono(id);
        let Some(index) = self.index_of(node) else { return };
        let now = self.now;
        let controller = &mut self.controllers[id];
        if controller.proving.get(&machine).is_some_and(|until| *until > now) {
            return;
        }
        controller.proving.insert(machine.clone(), now + ms(8_000));
        self.begin_proof(id, index, machine, at);
    }

    /// What this controller knows now.
    fn observe(&mut self, id: usize, record: Option<&Decree>) -> Observed {
        let (now, mono) = (wall(self.now), self.mono(id));
        let mut machines = self.machines_seen();
        for machine in &mut machines {
            // A list is older than an answer of who runs in it.
            let pulse = self.controllers[id].watch.pulses.get(&machine.id);
            if pulse.is_some_and(|pulse| pulse.heard.is_some() && pulse.missed == 0) {
                machine.power = Power::Started;
            }
        }
        let ids = machines.iter().map(|machine| machine.id.clone()).collect();
        let spec = &self.setup.spec;
        let volumes = self.nodes.iter().map(|node| Volume {
            id: format!("vol_{}", node.machine),
            name: node.name.volume(),
            region: node.name.region.to_string(),
            size_gb: spec.storage.size_gb,
            attached_to: Some(node.machine.clone()),
            snapshots: spec.storage.snapshots,
            host_ok: true,
            created_at: "2026-01-01T00:00:00Z".to_owned(),
        });
        let volumes = Seen::at(now, volumes.collect());
        let controller = &mut self.controllers[id];
        if let (Some(record), Some(order)) = (record, &controller.watch.order) {
            // It is taken up, or too old.
            let to = match order {
                Order::Switchover { to } => to.as_ref(),
                Order::Failover { to, .. } => Some(to),
            };
            let taken = matches!(record.stage, Stage::HandingOver { .. }) || to == Some(&record.primary);
            if taken || self.now > controller.ordered + secs(30) {
                controller.watch.order = None;
            }
        }
        controller.watch.retain(&ids);
        let reports = controller.reports.values().filter_map(Seen::known);
        let only = self.setup.controllers == 1;
        if let Some((reign, lsn, _)) = self.store.noted.filter(|_| only) {
            controller.watch.recall(reign, lsn);
        }
        controller.watch.see(record, reports, mono);
        let due = self.store.noted.is_none_or(|(_, _, at)| self.now >= at + NOTED_EVERY);
        if let Some(known) = controller.watch.last_known.filter(|_| only && due) {
            self.store.noted = Some((known.reign, known.lsn, self.now));
        }
        let mut reports = controller.reports.clone();
        for machine in &machines {
            let why = Unknown::NoAnswer { error: "no answer yet".to_owned() };
            reports.entry(machine.id.clone()).or_insert(Seen::Unknown { why });
        }
        reports.retain(|machine, _| ids.contains(machine));
        Observed {
            record: Seen::at(now, record.cloned()),
            app: Seen::at(now, Some(App { organization: Some(spec.organization.clone()) })),
            secrets: Seen::at(now, BTreeMap::from([(env::CLUSTER_KEY.to_owned(), "d".to_owned())])),
            addresses: Seen::at(now, Vec::new()),
            machines: Seen::at(now, machines),
            volumes,
            reports,
            watch: controller.watch.clone(),
        }
    }

    /// The list of Machines, as Fly shows it.
    fn machines_seen(&self) -> Vec<Machine> {
        let spec = &self.setup.spec;
        let one = |(index, node): (usize, &crate::world::Node)| {
            if node.removed {
                return None;
            }
            let state = self.fly.shown(index, node.vm.is_some(), self.now)?;
            let config = MachineConfig {
                image: spec.postgres.image(),
                guest: Some(spec.guest.clone()),
                env: BTreeMap::from([(env::POSTGRES_MAJOR.to_owned(), spec.postgres.major.to_string())]),
                metadata: BTreeMap::from([
                    (metadata::CLUSTER.to_owned(), spec.name.to_string()),
                    (metadata::NODE.to_owned(), node.name.to_string()),
                ]),
                volume: Some(format!("vol_{}", node.machine)),
            };
            let host_ok = !self.fly.is_unreachable(index, self.now);
            Some(Machine {
                id: node.machine.clone(),
                name: node.name.to_string(),
                region: node.name.region.to_string(),
                power: if state { Power::Started } else { Power::Stopped },
                host_ok,
                address: Some(IpAddr::V6(Ipv6Addr::new(0xfdaa, 0, 0, 0, 0, 0, 0, index as u16 + 1))),
                config: host_ok.then_some(config),
            })
        };
        self.nodes.iter().enumerate().filter_map(one).collect()
    }
}
