//! Fly: what runs, what it says about that, and what it can be asked to prove.

use flypg_core::failover::lease::Mono;

use crate::controller::ControllerEvent;
use crate::time::{Time, ms};
use crate::world::{Event, World};

#[derive(Debug, Default)]
pub struct Fly {
    /// Hosts that do not answer, by node, until when. What runs there goes on.
    unreachable: Vec<(usize, Time)>,
    /// Until when the list is old, and what it says meanwhile: a node is shown as running, as stopped, or not at all.
    stale: Option<(Time, Vec<Option<bool>>)>,
    /// Machines that nobody starts again before then.
    pub off: Vec<(usize, Time)>,
}

#[derive(Debug, Clone)]
pub enum FlyEvent {
    /// A Machine that ended is started again.
    Restart { node: usize },
    /// The proof of a stop goes on (fence F3).
    Proof(Proof),
}

#[derive(Debug, Clone)]
pub struct Proof {
    id: usize,
    life: u64,
    node: usize,
    machine: String,
    at: Mono,
    /// 0: the stop arrives; 1: first read; 2: second read.
    stage: u8,
}

impl Fly {
    pub fn is_unreachable(&self, node: usize, now: Time) -> bool {
        self.unreachable.iter().any(|(lost, until)| *lost == node && *until > now)
    }

    pub fn lose_host(&mut self, node: usize, until: Time) {
        self.unreachable.push((node, until));
    }

    pub fn grow_stale(&mut self, until: Time, list: Vec<Option<bool>>) {
        self.stale = Some((until, list));
    }

    pub fn heal(&mut self) {
        self.unreachable.clear();
        self.stale = None;
        self.off.clear();
    }

    /// Whether the list shows a node as running; `None`: not at all.
    pub fn shown(&self, node: usize, runs: bool, now: Time) -> Option<bool> {
        match &self.stale {
            Some((until, list)) if *until > now => list[node],
            _ => Some(runs),
        }
    }
}

impl World {
    pub fn fly_event(&mut self, event: FlyEvent) {
        match event {
            FlyEvent::Restart { node } => {
                let off = self.fly.off.iter().find(|(off, until)| *off == node && *until > self.now);
                if let Some((_, until)) = off {
                    let until = *until;
                    return self.at(until, Event::Fly(FlyEvent::Restart { node }));
                }
                if self.nodes[node].vm.is_none() && !self.nodes[node].removed {
                    let vm = self.number();
                    self.at(self.now, Event::Boot { node, vm });
                }
            }
            FlyEvent::Proof(proof) => self.prove(proof),
        }
    }

    pub fn begin_proof(&mut self, id: usize, node: usize, machine: String, at: Mono) {
        let life = self.controllers[id].life;
        let delay = self.rng.tail(ms(50)..ms(900));
        let proof = Proof { id, life, node, machine, at, stage: 0 };
        self.after(delay, Event::Fly(FlyEvent::Proof(proof)));
    }

    fn prove(&mut self, proof: Proof) {
        let Proof { id, life, node, ref machine, at, stage } = proof;
        let fails = self.fly.is_unreachable(node, self.now) || self.nodes[node].machine != *machine;
        let fails = fails || (stage > 0 && self.nodes[node].vm.is_some());
        if fails {
            let event = ControllerEvent::ProofFailed { machine: machine.clone() };
            return self.after(ms(500), Event::Controller { id, life, event });
        }
        if stage == 0 {
            let name = self.nodes[node].name.clone();
            if self.nodes[node].vm.is_some() {
                self.tell(|| format!("{name}: its Machine is stopped by the platform"));
                self.end_machine(node);
            }
            // Whoever keeps Machines running starts it again, later.
            let back = self.rng.within(ms(3_000)..ms(9_000));
            self.after(back, Event::Fly(FlyEvent::Restart { node }));
        }
        if stage == 2 {
            let event = ControllerEvent::Proven { machine: machine.clone(), at };
            return self.after(ms(20), Event::Controller { id, life, event });
        }
        let delay = if stage == 0 { self.rng.tail(ms(100)..ms(1_000)) } else { ms(1_050) };
        self.after(delay, Event::Fly(FlyEvent::Proof(Proof { stage: stage + 1, ..proof })));
    }
}
