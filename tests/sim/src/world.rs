//! Everything there is, and what happens next in it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use flypg_core::names::NodeName;

use crate::agent::{Agent, AgentEvent, Request};
use crate::check::{Check, Violation};
use crate::clients::{Client, ClientEvent};
use crate::controller::{Controller, ControllerEvent, Op, Store};
use crate::disk::Disk;
use crate::fly::{Fly, FlyEvent};
use crate::nemesis::Blow;
use crate::net::{Net, Place};
use crate::postgres::{Leftover, Replication, Result, Server, ServerEvent, StreamEvent};
use crate::rng::Rng;
use crate::setup::Setup;
use crate::story::Story;
use crate::time::{Clock, Time, ms};
use crate::wal::{Markers, Record, What};

/// A node: a Machine with a volume, an agent, and a Postgres.
#[derive(Debug)]
pub struct Node {
    pub name: NodeName,
    /// Fly's id of its Machine.
    pub machine: String,
    /// The life of the Machine that runs; `None` while it is off.
    pub vm: Option<u64>,
    pub clock: Clock,
    pub disk: Disk,
    pub agent: Option<Agent>,
    pub server: Option<Server>,
    /// Processes of a Postgres whose postmaster is gone.
    pub leftover: Option<Leftover>,
    /// Until when their processes do not run.
    pub agent_paused: Time,
    pub postgres_paused: Time,
    /// When its Machine last ended.
    pub ended: Time,
    /// The file does not ask for it any more, and it is gone.
    pub removed: bool,
    /// Its volume was lost, or replaced by an older one.
    pub replaced: bool,
    /// How long a sync to disk takes at most.
    pub slowest_fsync: Time,
}

/// Who asked, and waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    Controller {
        id: usize,
        life: u64,
        call: u64,
    },
    /// A primary that asks for a pledge in its round of that number.
    Primary {
        node: usize,
        life: u64,
        round: u64,
    },
}

#[derive(Debug, Clone)]
pub enum Event {
    Boot {
        node: usize,
        vm: u64,
    },
    Agent {
        node: usize,
        life: u64,
        event: AgentEvent,
    },
    /// A request reaches a Machine, whoever lives there now.
    Arrive {
        node: usize,
        asker: Asker,
        request: Request,
    },
    Server {
        node: usize,
        life: u64,
        event: ServerEvent,
    },
    Stream {
        connection: u64,
        event: StreamEvent,
    },
    Controller {
        id: usize,
        life: u64,
        event: ControllerEvent,
    },
    Store {
        id: usize,
        life: u64,
        turn: u64,
        op: Op,
    },
    Client {
        id: usize,
        op: u64,
        event: ClientEvent,
    },
    Fly(FlyEvent),
    Nemesis(Blow),
    Thaw {
        node: usize,
    },
    /// Processes of a Postgres that was thought dead write on.
    Leftover {
        node: usize,
        number: u64,
    },
}

#[derive(Debug)]
struct Due {
    at: Time,
    order: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

#[derive(Debug)]
pub struct World {
    pub setup: Setup,
    pub now: Time,
    pub rng: Rng,
    pub net: Net,
    pub nodes: Vec<Node>,
    pub streams: BTreeMap<u64, Replication>,
    pub controllers: Vec<Controller>,
    pub store: Store,
    pub fly: Fly,
    pub clients: Vec<Client>,
    pub markers: Markers,
    /// Copies of volumes, by node, and when they were made.
    pub snapshots: BTreeMap<usize, (Time, Disk)>,
    pub check: Check,
    /// What Postgres answered whom, where there is no agent to read it.
    pub answers: BTreeMap<u64, Result>,
    pub story: Story,
    queue: BinaryHeap<Reverse<Due>>,
    order: u64,
    numbers: u64,
    events: u64,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub seed: u64,
    pub violation: Option<Violation>,
    /// Commits that clients were told of.
    pub acknowledged: usize,
    /// Epochs in which a primary was established after the first.
    pub reigns: usize,
    /// A cluster that was not well at its end, and why a person is needed.
    pub held: Option<String>,
    pub events: u64,
    pub story: String,
}

impl World {
    pub fn new(setup: Setup, told: bool) -> Self {
        let places = setup.nodes + setup.controllers;
        let mut world = Self {
            now: 0,
            rng: Rng::new(setup.seed.wrapping_add(0xF1F9)),
            net: Net::new(places),
            nodes: Vec::new(),
            streams: BTreeMap::new(),
            controllers: Vec::new(),
            store: Store::default(),
            fly: Fly::default(),
            clients: Vec::new(),
            markers: Markers::default(),
            snapshots: BTreeMap::new(),
            check: Check::new(&setup),
            answers: BTreeMap::new(),
            story: Story::new(told),
            queue: BinaryHeap::new(),
            order: 0,
            numbers: 0,
            events: 0,
            setup,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        let cluster = self.setup.spec.clone();
        self.story.tell(0, || format!("seed: {:?}", cluster.durability));
        let setup = &self.setup;
        let line = format!(
            "{} nodes, {} controllers, {:?}, {:?}, read fence {}, faults {:?}, heals {}",
            setup.nodes,
            setup.controllers,
            setup.spec.durability,
            setup.spec.failover.profile,
            setup.spec.failover.read_fence,
            setup.faults,
            setup.heals
        );
        self.story.tell(0, || line);
        for index in 0..self.setup.nodes {
            let name = NodeName::new(self.setup.spec.primary.code.clone(), index as u32 + 1);
            let gain = self.rng.within(0..2_000_000) as i64 - 1_000_000;
            let reads = self.rng.within(0..ms(100_000_000));
            let clock = Clock::new(0, reads, gain);
            self.nodes.push(Node {
                name,
                machine: format!("m{}", index + 1),
                vm: None,
                clock,
                disk: Disk::default(),
                agent: None,
                server: None,
                leftover: None,
                agent_paused: 0,
                postgres_paused: 0,
                ended: 0,
                removed: false,
                replaced: false,
                slowest_fsync: ms(3),
            });
            if !self.setup.bare {
                let vm = self.number();
                self.at(ms(self.now), Event::Boot { node: index, vm });
            }
        }
        if self.setup.bare {
            return;
        }
        self.begin_controllers();
        self.begin_clients();
        self.plan_faults();
    }

    /// A number that was never given out before.
    pub fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub fn record(&mut self, timeline: u32, what: What) -> Record {
        Record { serial: self.number(), timeline, what }
    }

    pub fn at(&mut self, at: Time, event: Event) {
        self.order += 1;
        self.queue.push(Reverse(Due { at: at.max(self.now), order: self.order, event }));
    }

    pub fn after(&mut self, delay: Time, event: Event) {
        self.at(self.now.saturating_add(delay), event);
    }

    pub fn tell(&mut self, line: impl FnOnce() -> String) {
        self.story.tell(self.now, line);
    }

    pub fn index_of(&self, name: &NodeName) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == *name)
    }

    pub fn place_of_controller(&self, id: usize) -> Place {
        self.setup.nodes + id
    }

    /// Runs to the end, or to the first thing that must never happen.
    pub fn run(mut self) -> Outcome {
        while let Some(Reverse(due)) = self.queue.pop() {
            if due.at > self.setup.end || self.check.violation.is_some() {
                break;
            }
            self.now = due.at;
            self.events += 1;
            self.handle(due.event);
        }
        self.finish()
    }

    /// Runs until `at`; false if something happened that must never happen.
    pub fn run_until(&mut self, at: Time) -> bool {
        while self.queue.peek().is_some_and(|Reverse(due)| due.at <= at) && self.check.violation.is_none() {
            let Some(Reverse(due)) = self.queue.pop() else { break };
            self.now = due.at;
            self.events += 1;
            self.handle(due.event);
        }
        self.now = self.now.max(at);
        self.check.violation.is_none()
    }

    pub fn finish(mut self) -> Outcome {
        if self.check.violation.is_none() && self.setup.heals {
            self.check_liveness();
        }
        Outcome {
            seed: self.setup.seed,
            acknowledged: self.check.acknowledged(),
            reigns: self.check.reigns(),
            held: self.check.held.clone(),
            violation: self.check.violation.clone(),
            events: self.events,
            story: self.story.text(),
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Boot { node, vm } => self.boot(node, vm),
            Event::Agent { node, life, event } => {
                let paused = self.nodes[node].agent_paused;
                if self.nodes[node].agent.as_ref().is_none_or(|agent| agent.life != life) {
                    return;
                }
                if paused > self.now {
                    return self.at(paused, Event::Agent { node, life, event });
                }
                self.agent_event(node, event);
            }
            Event::Arrive { node, asker, request } => self.arrive(node, asker, request),
            Event::Server { node, life, event } => {
                let paused = self.nodes[node].postgres_paused;
                if self.nodes[node].server.as_ref().is_none_or(|server| server.life != life) {
                    return;
                }
                if paused > self.now {
                    return self.at(paused, Event::Server { node, life, event });
                }
                self.server_event(node, event);
            }
            Event::Stream { connection, event } => self.stream_event(connection, event),
            Event::Controller { id, life, event } => {
                let controller = &self.controllers[id];
                if controller.life != life || !controller.up {
                    return;
                }
                let paused = controller.paused;
                if paused > self.now {
                    return self.at(paused, Event::Controller { id, life, event });
                }
                self.controller_event(id, event);
            }
            Event::Store { id, life, turn, op } => self.store_event(id, life, turn, op),
            Event::Client { id, op, event } => self.client_event(id, op, event),
            Event::Fly(event) => self.fly_event(event),
            Event::Nemesis(blow) => self.strike(blow),
            Event::Leftover { node, number } => self.leftover_writes(node, number),
            Event::Thaw { node } => {
                let now = self.now;
                self.nodes[node].clock.go_on(now);
            }
        }
    }

    pub fn agent(&mut self, node: usize) -> Option<&mut Agent> {
        self.nodes[node].agent.as_mut()
    }

    /// Sends an event to the agent that runs on `node` now.
    pub fn to_agent(&mut self, node: usize, delay: Time, event: AgentEvent) {
        if let Some(life) = self.nodes[node].agent.as_ref().map(|agent| agent.life) {
            self.after(delay, Event::Agent { node, life, event });
        }
    }

    pub fn to_server(&mut self, node: usize, delay: Time, event: ServerEvent) {
        if let Some(life) = self.nodes[node].server.as_ref().map(|server| server.life) {
            self.after(delay, Event::Server { node, life, event });
        }
    }

    pub fn to_controller(&mut self, id: usize, delay: Time, event: ControllerEvent) {
        let life = self.controllers[id].life;
        self.after(delay, Event::Controller { id, life, event });
    }

    /// A request leaves `from` for `node`'s Machine. It may be lost, late, or come twice.
    pub fn ask(&mut self, from: Place, node: usize, asker: Asker, request: Request) {
        if self.rng.chance(self.net.doubled)
            && let Some(delay) = self.net.carries(from, node, &mut self.rng)
        {
            let late = self.rng.tail(0..ms(3_000));
            self.after(delay + late, Event::Arrive { node, asker, request: request.clone() });
        }
        if let Some(delay) = self.net.carries(from, node, &mut self.rng) {
            self.after(delay, Event::Arrive { node, asker, request });
        }
    }

    /// How long one sync to disk takes on `node` now.
    pub fn fsync(&mut self, node: usize) -> Time {
        let slowest = self.nodes[node].slowest_fsync;
        self.rng.tail(ms(1) / 4..slowest)
    }
}
