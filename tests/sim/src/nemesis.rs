//! Faults, when they come and when they go.

use flypg_core::decree::SystemId;
use flypg_core::names::NodeName;
use flypg_core::observed::Order;
use flypg_core::spec::Durability;

use crate::agent::AgentEvent;
use crate::disk::{Data, Disk, PgData};
use crate::fly::FlyEvent;
use crate::setup::Fault;
use crate::time::{Time, ms, secs};
use crate::wal::What;
use crate::world::{Event, World};

#[derive(Debug, Clone)]
pub enum Blow {
    Begin(Fault),
    /// A partition, bad net or slow disk ends.
    Mend(Fault),
    /// Everything heals, and nothing new comes.
    HealAll,
    StartController(usize),
    /// A copy of a volume is kept, to be restored later.
    Snapshot {
        node: usize,
    },
}

impl World {
    pub fn plan_faults(&mut self) {
        let (calm, quiet) = (self.setup.calm, self.setup.quiet);
        for (fault, often) in self.setup.faults.clone() {
            if fault == Fault::Stranger {
                let system = SystemId("another".to_owned());
                let mut strange = PgData::initialised(system, "another");
                strange.standby_signal = self.rng.chance(3_000);
                let node = self.rng.index(self.setup.nodes);
                self.nodes[node].disk.data = Data::Complete(Box::new(strange));
            }
            for _ in 0..often {
                let at = self.rng.within(calm..quiet);
                self.at(at, Event::Nemesis(Blow::Begin(fault)));
            }
            if matches!(fault, Fault::VolumeRestored | Fault::DataRestored) {
                for node in 0..self.setup.nodes {
                    let at = self.rng.within(calm..calm + secs(8));
                    self.at(at, Event::Nemesis(Blow::Snapshot { node }));
                }
            }
        }
        if self.setup.heals {
            self.at(quiet, Event::Nemesis(Blow::HealAll));
        }
    }

    /// Whoever leads is hit more often than others.
    fn victim(&mut self) -> usize {
        let primary = self.store.record.as_ref().map(|record| record.primary.clone());
        match primary.and_then(|name| self.index_of(&name)) {
            Some(primary) if self.rng.chance(5_500) => primary,
            _ => self.rng.index(self.setup.nodes),
        }
    }

    fn long(&mut self) -> Time {
        *self.rng.pick(&[ms(5), ms(300), ms(1_500), ms(4_500), ms(7_000), ms(12_000), ms(20_000)])
    }

    pub fn strike(&mut self, blow: Blow) {
        match blow {
            Blow::Begin(fault) => self.begin_fault(fault),
            Blow::Mend(fault) => self.mend(fault),
            Blow::HealAll => self.heal_all(),
            Blow::StartController(id) => {
                if !self.controllers[id].up {
                    self.start_controller(id);
                }
            }
            Blow::Snapshot { node } => {
                let disk = self.nodes[node].disk.clone();
                self.snapshots.insert(node, (self.now, disk));
            }
        }
    }

    fn begin_fault(&mut self, fault: Fault) {
        let node = self.victim();
        let long = self.long();
        let until = self.now + long;
        let name: NodeName = self.nodes[node].name.clone();
        let seconds = long as f64 / 1e9;
        match fault {
            Fault::VmCrash | Fault::VmLost => self.begin_machine_loss(fault, node),
            Fault::PostgresCrash => {
                let alone = self.rng.chance(5_000);
                self.tell(|| format!("FAULT the postmaster of {name} is killed{}", if alone { " alone" } else { "" }));
                if alone { self.kill_postmaster(node) } else { self.kill_postgres(node) }
            }
            Fault::AgentPause => {
                self.tell(|| format!("FAULT the agent of {name} stops for {seconds} s"));
                self.pause(node, Some(until), None);
            }
            Fault::PostgresPause => {
                self.tell(|| format!("FAULT Postgres of {name} stops for {seconds} s"));
                self.pause(node, None, Some(until));
            }
            Fault::VmPause | Fault::VmSnapshot => {
                self.tell(|| format!("FAULT {fault:?}: {name} stops for {seconds} s"));
                self.pause(node, Some(until), Some(until));
                if fault == Fault::VmSnapshot {
                    let now = self.now;
                    self.nodes[node].clock.stop(now);
                    self.at(until, Event::Thaw { node });
                }
            }
            Fault::Partition | Fault::OneWay => self.cut(fault, node, until),
            Fault::BadNet => {
                self.net.loss = self.rng.within(0..2_500);
                self.net.doubled = self.rng.within(0..2_000);
                self.net.slowest = ms(self.rng.within(2..1_500));
                self.tell(|| format!("FAULT the network is bad for {seconds} s"));
                self.at(until, Event::Nemesis(Blow::Mend(fault)));
            }
            Fault::ControllerCrash => {
                let id = self.rng.index(self.setup.controllers);
                self.tell(|| format!("FAULT controller {id} crashes"));
                self.stop_controller(id);
                self.after(long, Event::Nemesis(Blow::StartController(id)));
            }
            Fault::ControllerPause => {
                let id = self.rng.index(self.setup.controllers);
                self.tell(|| format!("FAULT controller {id} stops for {seconds} s"));
                self.controllers[id].paused = until;
            }
            Fault::StoreOutage => {
                self.tell(|| format!("FAULT the store answers nobody for {seconds} s"));
                self.store.outage = until;
            }
            Fault::StoreUnknown => {
                self.tell(|| format!("FAULT answers of the store get lost for {seconds} s"));
                self.store.loses = self.rng.within(500..6_000);
                self.at(until, Event::Nemesis(Blow::Mend(fault)));
            }
            Fault::HostUnreachable => {
                self.tell(|| format!("FAULT the host of {name} does not answer for {seconds} s"));
                self.fly.lose_host(node, until);
            }
            Fault::StaleList => {
                let mut list: Vec<Option<bool>> = self.nodes.iter().map(|node| Some(node.vm.is_some())).collect();
                if self.rng.chance(4_000) {
                    list[node] = None;
                    self.check.unlisted.insert(node);
                }
                self.tell(|| format!("FAULT the list of Machines is old for {seconds} s: {list:?}"));
                self.fly.grow_stale(until, list);
            }
            Fault::SlowDisk => {
                let slowest = ms(self.rng.within(20..3_000));
                self.tell(|| format!("FAULT the disk of {name} is slow for {seconds} s"));
                self.nodes[node].slowest_fsync = slowest;
                self.at(until, Event::Nemesis(Blow::Mend(fault)));
            }
            Fault::SenderPause => {
                let Some(server) = self.nodes[node].server.as_mut() else { return };
                let names: Vec<NodeName> = server.senders.keys().cloned().collect();
                if names.is_empty() {
                    return;
                }
                let standby = self.rng.pick(&names).clone();
                if let Some(sender) = self.nodes[node].server.as_mut().and_then(|s| s.senders.get_mut(&standby)) {
                    sender.paused = until;
                }
                self.tell(|| format!("FAULT the walsender of {name} to {standby} stops for {seconds} s"));
            }
            Fault::CancelWait => self.cancel(node),
            Fault::VolumeLost | Fault::VolumeRestored => self.lose_volume(fault, node),
            Fault::Switchover => {
                let to = self.rng.chance(5_000).then(|| name.clone());
                self.tell(|| format!("a person orders a switchover to {to:?}"));
                let now = self.now;
                for controller in &mut self.controllers {
                    controller.ordered = now;
                    controller.watch.order = Some(Order::Switchover { to: to.clone() });
                }
            }
            Fault::DataRestored => self.restore_data(node),
            Fault::PowerCut => self.cut_power(node),
            Fault::PromotedByHand => self.promote_by_hand(node),
            Fault::Stranger => {}
            Fault::Shrink => {
                if self.setup.spec.primary.nodes > 1 {
                    self.setup.spec.primary.nodes -= 1;
                    self.tell(|| "a person asks for one node less".to_owned());
                }
            }
            Fault::SpecChange => {
                if self.setup.nodes > 1 {
                    self.setup.spec.durability =
                        *self.rng.pick(&[Durability::Quorum, Durability::QuorumAvailable, Durability::Async]);
                    let durability = self.setup.spec.durability;
                    self.tell(|| format!("a person asks for {durability:?}"));
                }
            }
        }
    }

    /// A pause within a longer one changes nothing.
    fn pause(&mut self, node: usize, agent: Option<Time>, postgres: Option<Time>) {
        let node = &mut self.nodes[node];
        node.agent_paused = node.agent_paused.max(agent.unwrap_or(0));
        node.postgres_paused = node.postgres_paused.max(postgres.unwrap_or(0));
    }

    fn cut(&mut self, fault: Fault, node: usize, until: Time) {
        let places = self.setup.nodes + self.setup.controllers;
        let seconds = (until - self.now) as f64 / 1e9;
        if fault == Fault::OneWay {
            let other = (node + 1 + self.rng.index(places - 1)) % places;
            let (from, to) = if self.rng.chance(5_000) { (node, other) } else { (other, node) };
            self.net.cut(from, to);
            self.tell(|| format!("FAULT nothing gets from place {from} to {to} for {seconds} s"));
        } else {
            // Two halves, or one place from some others.
            let side: Vec<bool> = match self.rng.chance(5_000) {
                true => (0..places).map(|place| place == node).collect(),
                false => (0..places).map(|_| self.rng.chance(5_000)).collect(),
            };
            let partial = self.rng.chance(3_000);
            for from in 0..places {
                for to in 0..places {
                    if side[from] != side[to] && !(partial && self.rng.chance(3_000)) {
                        self.net.cut(from, to);
                    }
                }
            }
            self.tell(|| format!("FAULT the network falls apart for {seconds} s: {side:?}"));
        }
        self.at(until, Event::Nemesis(Blow::Mend(fault)));
    }

    /// Somebody sends a CancelRequest for a commit that waits: the gate holds it back (rule R12).
    fn cancel(&mut self, node: usize) {
        if flypg_core::mutant::off("R12") && self.nodes[node].postgres_paused <= self.now && self.cancel_wait(node) {
            let name = self.nodes[node].name.clone();
            self.tell(|| format!("FAULT a wait for a standby is cancelled on {name}"));
        }
        // Again, until one hits.
        if self.now + ms(100) < self.setup.quiet {
            self.after(ms(97), Event::Nemesis(Blow::Begin(Fault::CancelWait)));
        }
    }

    /// Every Machine ends; `last` comes back after the others.
    fn cut_power(&mut self, last: usize) {
        self.tell(|| "FAULT all Machines end".to_owned());
        for node in 0..self.setup.nodes {
            let late = if node == last { self.long() } else { 0 };
            let back = self.rng.within(ms(300)..ms(4_000)) + late;
            if !self.nodes[node].removed {
                self.fly.off.push((node, self.now + back));
                self.end_machine(node);
                self.after(back, Event::Fly(FlyEvent::Restart { node }));
            }
        }
    }

    /// Somebody believes that the primary is gone, and often rightly: promotes a standby by hand, writes to it, and then
    /// makes it a standby again. Its timeline has a number that the record may give to another one (E13, E15).
    fn promote_by_hand(&mut self, node: usize) {
        let primary = self.store.record.as_ref().and_then(|record| self.index_of(&record.primary));
        let standby = |world: &World| world.nodes[node].server.as_ref().is_some_and(|s| s.is_up() && s.recovery);
        if primary == Some(node) || !standby(self) {
            return;
        }
        let name = self.nodes[node].name.clone();
        self.tell(|| format!("FAULT a person promotes {name}, and makes it a standby again"));
        if let Some(primary) = primary.filter(|_| self.rng.chance(6_000)) {
            self.begin_machine_loss(Fault::VmCrash, primary);
        }
        self.drop_streams_of(node);
        let count = self.rng.within(1..6);
        let Some(timeline) = self.nodes[node].disk.pg_mut().map(PgData::switch_timeline) else { return };
        for _ in 0..count {
            let record = self.record(timeline, What::Noise);
            if let Some(pg) = self.nodes[node].disk.pg_mut() {
                pg.log.push(record);
            }
        }
        if let Some(pg) = self.nodes[node].disk.pg_mut() {
            (pg.flushed, pg.checkpoint, pg.clean) = (pg.log.len(), timeline, true);
        }
        self.nodes[node].server = None;
        self.to_agent(node, ms(1), AgentEvent::PostgresEnded { crashed: false });
    }

    fn begin_machine_loss(&mut self, fault: Fault, node: usize) {
        let name = self.nodes[node].name.clone();
        self.tell(|| format!("FAULT {fault:?}: {name}"));
        let back = match fault {
            Fault::VmLost => secs(15) + self.long(),
            _ => self.rng.within(ms(300)..ms(4_000)),
        };
        if fault == Fault::VmLost {
            self.fly.off.push((node, self.now + back));
        }
        self.end_machine(node);
        self.after(back, Event::Fly(FlyEvent::Restart { node }));
    }

    fn lose_volume(&mut self, fault: Fault, node: usize) {
        let primary = self.store.record.as_ref().and_then(|record| self.index_of(&record.primary));
        let node = match (fault, primary) {
            // That of a primary is a case by itself: `restored_primary` of the tests.
            (Fault::VolumeRestored, Some(primary)) if !self.setup.restores_primary && node == primary => {
                (node + 1) % self.setup.nodes
            }
            (Fault::VolumeRestored, Some(primary)) if self.setup.restores_primary => primary,
            _ => node,
        };
        if fault == Fault::VolumeRestored && !self.setup.restores_primary && Some(node) == primary {
            return;
        }
        let name = self.nodes[node].name.clone();
        self.end_machine(node);
        let disk = match fault {
            Fault::VolumeRestored => self.snapshots.remove(&node).map(|(_, disk)| disk).unwrap_or_default(),
            _ => Disk::default(),
        };
        self.nodes[node].disk = disk;
        self.nodes[node].replaced = true;
        let number = self.number();
        self.nodes[node].machine = format!("m{number}");
        self.tell(|| format!("FAULT {fault:?}: {name} comes back as m{number}"));
        self.forgive(node);
        let back = self.rng.within(ms(500)..ms(6_000));
        self.after(back, Event::Fly(FlyEvent::Restart { node }));
    }

    /// The ledger stays, and so does what it says of how far the data were: some seconds ago.
    fn restore_data(&mut self, node: usize) {
        const OLD: Time = secs(8);
        let Some((_, older)) = self.snapshots.get(&node).filter(|(at, _)| self.now >= at + OLD) else { return };
        let (data, name) = (older.data.clone(), self.nodes[node].name.clone());
        self.end_machine(node);
        self.nodes[node].disk.data = data;
        self.nodes[node].replaced = true;
        self.tell(|| format!("FAULT DataRestored: {name} comes back with older data"));
        self.forgive(node);
        let back = self.rng.within(ms(500)..ms(6_000));
        self.after(back, Event::Fly(FlyEvent::Restart { node }));
    }

    fn mend(&mut self, fault: Fault) {
        match fault {
            Fault::Partition | Fault::OneWay => {
                self.tell(|| "the network is whole again".to_owned());
                self.net.heal();
            }
            Fault::BadNet => {
                (self.net.loss, self.net.doubled, self.net.slowest) = (0, 0, ms(2));
                self.tell(|| "the network is good again".to_owned());
            }
            Fault::StoreUnknown => self.store.loses = 0,
            Fault::SlowDisk => {
                for node in &mut self.nodes {
                    node.slowest_fsync = ms(3);
                }
            }
            _ => {}
        }
    }

    fn heal_all(&mut self) {
        self.tell(|| "everything heals".to_owned());
        for fault in [Fault::Partition, Fault::BadNet, Fault::StoreUnknown, Fault::SlowDisk] {
            self.mend(fault);
        }
        self.store.outage = 0;
        self.fly.heal();
        let now = self.now;
        for node in 0..self.setup.nodes {
            let paused = self.nodes[node].agent_paused.max(self.nodes[node].postgres_paused);
            if paused > now {
                // What waits for the pause to end was put off until then: it ends as it would have.
                self.tell(|| "a pause goes on for a while".to_owned());
            }
            if self.nodes[node].vm.is_none() && !self.nodes[node].removed {
                self.after(ms(500), Event::Fly(FlyEvent::Restart { node }));
            }
        }
        for id in 0..self.setup.controllers {
            if !self.controllers[id].up {
                self.start_controller(id);
            }
        }
    }
}
