//! The shell around the plan, as `flypg-controller` is: one long poll per node, a turn whenever there is something new,
//! a store that several controllers share.

mod store;
mod turn;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use flypg_core::decree::Decree;
use flypg_core::failover::lease::{Mono, Timing};
use flypg_core::ledger::Caller;
use flypg_core::observed::{Heard, Missed, Seen, Watch};
use flypg_core::plan::{Action, Plan};
use flypg_core::protocol::NodeReport;

pub use store::{Answer, NOTED_EVERY, Op, Store};

use crate::agent::{Reply, Request};
use crate::time::{Clock, Time, ms, span, wall};
use crate::world::{Asker, Event, World};

#[derive(Debug, Clone)]
pub enum ControllerEvent {
    Answered {
        call: u64,
        reply: Reply,
    },
    TimedOut {
        call: u64,
    },
    Ask {
        node: usize,
    },
    /// It is time to look again whether something is over.
    Tick,
    Campaign,
    Stored {
        turn: u64,
        answer: Answer,
    },
    /// The next action of the plan.
    Act {
        turn: u64,
    },
    Proven {
        machine: String,
        at: Mono,
    },
    ProofFailed {
        machine: String,
    },
}

/// A question to an agent that has no answer yet.
#[derive(Debug)]
struct Call {
    node: usize,
    machine: String,
    /// A report is asked for; else something was told.
    polls: bool,
    asked: Mono,
}

#[derive(Debug)]
pub struct Controller {
    pub id: usize,
    pub life: u64,
    pub up: bool,
    pub paused: Time,
    clock: Clock,
    /// The term of the leader key in which it leads, as far as it knows.
    term: u64,
    pub watch: Watch,
    reports: BTreeMap<String, Seen<NodeReport>>,
    versions: BTreeMap<usize, u64>,
    calls: BTreeMap<u64, Call>,
    turn: Option<u64>,
    again: bool,
    began: Mono,
    actions: VecDeque<Action>,
    cached: Option<Decree>,
    proving: BTreeMap<String, Time>,
    /// When a person last ordered something.
    pub ordered: Time,
    pub last_plan: Option<Plan>,
}

impl Controller {
    /// One that does not run, and knows nothing.
    fn down(id: usize) -> Self {
        Self {
            id,
            life: 0,
            up: false,
            paused: 0,
            clock: Clock::new(0, 0, 0),
            term: 0,
            watch: Watch::default(),
            reports: BTreeMap::new(),
            versions: BTreeMap::new(),
            calls: BTreeMap::new(),
            turn: None,
            again: false,
            began: Mono::default(),
            actions: VecDeque::new(),
            cached: None,
            proving: BTreeMap::new(),
            ordered: 0,
            last_plan: None,
        }
    }
}

impl World {
    pub fn begin_controllers(&mut self) {
        for id in 0..self.setup.controllers {
            self.controllers.push(Controller::down(id));
            self.start_controller(id);
        }
    }

    pub fn start_controller(&mut self, id: usize) {
        let life = self.number();
        let gain = self.rng.within(0..2_000_000) as i64 - 1_000_000;
        let clock = Clock::new(self.now, ms(1_000), gain);
        let last_plan = self.controllers[id].last_plan.take();
        self.controllers[id] = Controller {
            id,
            life,
            up: true,
            paused: 0,
            clock,
            watch: Watch { proof_by_platform: self.setup.proves, ..Watch::default() },
            last_plan,
            ..Controller::down(id)
        };
        self.tell(|| format!("controller {id} starts"));
        self.to_controller(id, ms(5), ControllerEvent::Campaign);
        for node in 0..self.setup.nodes {
            self.to_controller(id, ms(10), ControllerEvent::Ask { node });
        }
        self.to_controller(id, ms(50), ControllerEvent::Tick);
    }

    pub fn stop_controller(&mut self, id: usize) {
        self.controllers[id].up = false;
        self.tell(|| format!("controller {id} ends"));
    }

    pub(crate) fn mono(&self, id: usize) -> Mono {
        Mono(Duration::from_nanos(self.controllers[id].clock.nanos(self.now)))
    }

    fn interval(&self, id: usize) -> Duration {
        let profile = self.controllers[id].cached.as_ref().map_or(self.setup.spec.failover.profile, |d| d.profile);
        Timing::of(profile).report
    }

    pub fn controller_event(&mut self, id: usize, event: ControllerEvent) {
        match event {
            ControllerEvent::Ask { node } => self.poll(id, node),
            ControllerEvent::Answered { call, reply } => self.reply_arrived(id, call, reply),
            ControllerEvent::TimedOut { call } => {
                if let Some(call) = self.controllers[id].calls.remove(&call)
                    && call.polls
                {
                    self.missed(id, call.node, &call.machine, Missed::Silent);
                }
            }
            ControllerEvent::Tick => {
                let interval = span(self.interval(id)) / 2;
                self.to_controller(id, interval, ControllerEvent::Tick);
                self.take_turn(id);
            }
            ControllerEvent::Campaign => {
                self.to_controller(id, ms(1_000), ControllerEvent::Campaign);
                let holder = self.controllers[id].life;
                self.store(id, 0, Op::Lead { holder });
            }
            ControllerEvent::Stored { turn, answer } => self.stored(id, turn, answer),
            ControllerEvent::Act { turn } => self.act(id, turn),
            ControllerEvent::Proven { machine, at } => {
                self.tell(|| format!("controller {id}: {machine} is proven stopped"));
                let controller = &mut self.controllers[id];
                controller.proving.remove(&machine);
                controller.watch.stopped.insert(machine, flypg_core::observed::Stopped { at });
                self.take_turn(id);
            }
            ControllerEvent::ProofFailed { machine } => {
                self.controllers[id].proving.remove(&machine);
            }
        }
    }

    /// One long poll: an answer comes at least every interval, and at once when there is news.
    fn poll(&mut self, id: usize, node: usize) {
        let interval = self.interval(id);
        let machine = self.nodes[node].machine.clone();
        let (call, asked) = (self.number(), self.mono(id));
        let controller = &mut self.controllers[id];
        let (after, hold, patience) = match controller.watch.missed(&machine) {
            0 => (controller.versions.get(&node).copied().unwrap_or(0), interval, interval * 2),
            _ => (0, Duration::ZERO, interval),
        };
        controller.calls.insert(call, Call { node, machine, polls: true, asked });
        let life = controller.life;
        let place = self.place_of_controller(id);
        let asker = Asker::Controller { id, life, call };
        self.ask(place, node, asker, Request::Report { after, hold: span(hold) });
        self.to_controller(id, span(patience), ControllerEvent::TimedOut { call });
    }

    fn reply_arrived(&mut self, id: usize, call: u64, reply: Reply) {
        let arrived = self.mono(id);
        let now = wall(self.now);
        let controller = &mut self.controllers[id];
        let Some(Call { node, machine, polls, asked }) = controller.calls.remove(&call) else { return };
        match reply {
            Reply::Report(report) if polls => {
                controller.watch.hear(&machine, &report, Heard { asked, arrived });
                let before = controller.versions.insert(node, report.version);
                // A restarted agent counts anew.
                let news = before != Some(report.version);
                let leads = matches!(report.standing, flypg_core::protocol::Standing::Leading(_));
                controller.reports.insert(machine, Seen::at(now, *report));
                self.to_controller(id, 0, ControllerEvent::Ask { node });
                if news || leads {
                    self.take_turn(id);
                }
            }
            Reply::Nobody if polls => self.missed(id, node, &machine, Missed::Refused),
            Reply::Refused(_) | Reply::Done | Reply::Nobody | Reply::Report(_) => {}
        }
    }

    fn missed(&mut self, id: usize, node: usize, machine: &str, how: Missed) {
        self.controllers[id].watch.miss(machine, how);
        self.controllers[id].versions.remove(&node);
        let again = (self.interval(id) / 4).max(Duration::from_millis(50));
        self.to_controller(id, span(again), ControllerEvent::Ask { node });
        self.take_turn(id);
    }

    pub(crate) fn caller(&self, id: usize) -> Caller {
        let controller = &self.controllers[id];
        Caller { id: "store".to_owned(), generation: controller.term, boot: format!("{id}/{}", controller.life) }
    }

    pub(crate) fn store(&mut self, id: usize, turn: u64, op: Op) {
        let life = self.controllers[id].life;
        let delay = self.rng.tail(ms(1)..ms(10));
        self.after(delay, Event::Store { id, life, turn, op });
    }
}
