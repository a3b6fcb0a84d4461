//! The shell around the decisions of one node, as `flypg-agent` is: a ledger on disk, a tenure in memory, one step at
//! a time, and questions that are answered in order.

mod act;
mod gate;
mod high_water;
mod look;
mod make;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use flypg_core::Timestamp;
use flypg_core::decree::Epoch;
use flypg_core::failover::Rule;
use flypg_core::failover::lease::{BootTime, Grant, Timing};
use flypg_core::ledger::{Caller, HighWater, Ledger, LedgerRole};
use flypg_core::names::NodeName;
use flypg_core::node::{NodeStep, PledgeAsked, PrimarySeen, Round, Tenure};
use flypg_core::protocol::{Assignment, End, NodeReport};
use flypg_core::spec::Profile;

use crate::postgres::{Backend, Result};
use crate::time::{Clock, Time, ms};
use crate::world::{Asker, Event, World};

#[derive(Debug, Clone)]
pub enum AgentEvent {
    Wake,
    /// Something worth a report has changed.
    News,
    LedgerWritten,
    JobDone {
        number: u64,
    },
    Answered {
        backend: Backend,
        result: Result,
    },
    PostgresEnded {
        crashed: bool,
    },
    HoldOver {
        poll: u64,
    },
    LeaseTick,
    ProbeTick,
    PledgeAnswered {
        round: u64,
        from: NodeName,
    },
    RoundOver {
        round: u64,
    },
}

#[derive(Debug, Clone)]
pub enum Request {
    Report { after: u64, hold: Time },
    Assign { caller: Caller, assignment: Box<Assignment> },
    Lease { caller: Caller, grant: Grant },
    Pledge(PledgeAsked),
}

#[derive(Debug, Clone)]
pub enum Reply {
    Report(Box<NodeReport>),
    Done,
    Refused(String),
    /// Nobody listens there.
    Nobody,
}

#[derive(Debug)]
enum Then {
    Nothing,
    Answer(Asker),
}

#[derive(Debug)]
struct Writing {
    ledger: Ledger,
    then: Then,
}

#[derive(Debug)]
struct Job {
    number: u64,
    step: NodeStep,
    /// The life of Postgres that it was begun with.
    server: Option<u64>,
}

#[derive(Debug)]
struct Poll {
    number: u64,
    asker: Asker,
}

#[derive(Debug)]
pub struct Agent {
    pub life: u64,
    pub ledger: Ledger,
    sequence: u64,
    next_slot: usize,
    pub tenure: Tenure,
    digest: Option<String>,
    writing: Option<Writing>,
    inbox: VecDeque<(Asker, Request)>,
    job: Option<Job>,
    version: u64,
    polls: Vec<Poll>,
    round: Option<(u64, Round)>,
    /// A marker is on its way to the rule: for this epoch, in this life of Postgres.
    confirming: Option<(Epoch, u64)>,
    /// What was seen to be in effect, in this life of Postgres; and up to where WAL of before reaches.
    rule: Option<(Rule, usize)>,
    /// What was last told of whether all of before meets it.
    covered: Option<bool>,
    checkpointed: bool,
    /// Where the data end, and whether they were shut down cleanly there.
    end: Option<(bool, End)>,
    end_seen: Option<usize>,
    draining: Option<Time>,
    drained: bool,
    crashes: Vec<Timestamp>,
    crash_count: u32,
    failed_makes: Vec<Timestamp>,
    remakes: Vec<Timestamp>,
    asked: Option<(Timestamp, std::result::Result<PrimarySeen, String>)>,
    rewind_failed: Option<String>,
    /// A rewind of this life of the agent has begun, and writes.
    rewinds: bool,
    /// A rewind, or another copy in the place of the data, came to its end.
    remade: bool,
    quarantined: Option<String>,
    /// How far its data have come; on disk every few seconds.
    high_water: HighWater,
    marked: Time,
    /// What its data lack that they once had.
    lost: Option<String>,
    heard: Option<BootTime>,
    probe: Option<(Time, u64)>,
    wake_at: Time,
    /// Clients' queries that are with Postgres now.
    pub in_flight: BTreeSet<(usize, u64)>,
}

impl Agent {
    pub fn timing(&self) -> Timing {
        Timing::of(self.ledger.assignment.as_ref().map_or(Profile::Balanced, |told| told.profile))
    }

    /// The epoch that it leads in.
    pub fn leads(&self) -> Option<Epoch> {
        match &self.ledger.role {
            LedgerRole::Primary { epoch, .. } | LedgerRole::Promoting { epoch, .. } => Some(*epoch),
            _ => None,
        }
    }

    fn forget_reign(&mut self) {
        self.rule = None;
        self.covered = None;
        self.confirming = None;
        self.end = None;
        self.end_seen = None;
        self.draining = None;
        self.drained = false;
    }
}

impl World {
    /// A Machine starts, and its agent in it.
    pub fn boot(&mut self, node: usize, vm: u64) {
        if self.nodes[node].vm.is_some() {
            return;
        }
        let life = self.number();
        let gain = self.rng.within(0..2_000_000) as i64 - 1_000_000;
        let reads = self.rng.within(ms(1_000)..ms(9_000));
        let (now, name) = (self.now, self.nodes[node].name.clone());
        let this = &mut self.nodes[node];
        this.vm = Some(vm);
        this.clock = Clock::new(now, reads, gain);
        this.agent_paused = 0;
        this.postgres_paused = 0;
        let found = match this.disk.recover() {
            Ok(found) => found,
            Err(unreadable) => {
                let words = format!("{name}: {unreadable}");
                return self.violate("ledger", words);
            }
        };
        let cluster = self.setup.spec.name.clone();
        let (sequence, next_slot, before) = match found {
            Some(found) => (found.sequence, found.next_slot, Some(found.kept)),
            None => (0, 0, None),
        };
        let this = &mut self.nodes[node];
        let ledger = match &before {
            Some(ledger) => ledger.restarted(&this.machine),
            None => Ledger::blank(cluster, name.clone(), this.machine.clone()),
        };
        let high_water = this.disk.high_water;
        let ledger = ledger.bound_by(high_water.promised);
        let boot = format!("{}/{life}", this.machine);
        let tenure = Tenure::begin(&boot, &ledger, this.clock.read(now));
        let agent = Agent {
            life,
            sequence,
            next_slot,
            tenure,
            digest: ledger.assignment.as_ref().map(Assignment::digest),
            writing: None,
            inbox: VecDeque::new(),
            job: None,
            version: 1,
            polls: Vec::new(),
            round: None,
            confirming: None,
            rule: None,
            covered: None,
            checkpointed: false,
            end: None,
            end_seen: None,
            draining: None,
            drained: false,
            crashes: Vec::new(),
            crash_count: 0,
            failed_makes: Vec::new(),
            remakes: Vec::new(),
            asked: None,
            rewind_failed: None,
            rewinds: false,
            remade: false,
            quarantined: None,
            high_water,
            marked: now,
            lost: None,
            heard: None,
            probe: None,
            wake_at: 0,
            in_flight: BTreeSet::new(),
            ledger: ledger.clone(),
        };
        self.nodes[node].agent = Some(agent);
        self.tell(|| format!("{name}: boots, {}", ledger.role));
        self.check_incarnation(node, before.as_ref(), &ledger);
        self.persist(node, ledger, Then::Nothing);
        let tick = ms(100) + self.rng.tail(0..ms(400));
        self.to_agent(node, tick, AgentEvent::LeaseTick);
        self.to_agent(node, tick, AgentEvent::ProbeTick);
    }

    /// A Machine ends without warning.
    pub fn end_machine(&mut self, node: usize) {
        self.end_postgres_with_machine(node);
        self.drop_streams_of(node);
        let now = self.now;
        let this = &mut self.nodes[node];
        (this.vm, this.ended) = (None, now);
        let Some(agent) = this.agent.take() else { return };
        if let Some(writing) = &agent.writing {
            this.disk.tear(agent.next_slot, agent.sequence + 1, &writing.ledger, &mut self.rng);
        }
        for poll in agent.polls {
            self.reply(node, poll.asker, Reply::Nobody);
        }
    }

    /// A ledger goes to disk, and is obeyed once it is there.
    fn persist(&mut self, node: usize, ledger: Ledger, then: Then) {
        let delay = self.fsync(node) + self.fsync(node);
        let (promised, role) = (ledger.promised, &ledger.role);
        if self.agent(node).is_some_and(|agent| promised > agent.high_water.promised || *role != agent.ledger.role) {
            self.note_high_water(node);
            self.keep_high_water(node, |high_water| high_water.promised = promised);
        }
        if let Some(agent) = self.agent(node) {
            agent.writing = Some(Writing { ledger, then });
        }
        self.to_agent(node, delay, AgentEvent::LedgerWritten);
    }

    fn ledger_written(&mut self, node: usize) {
        let now = self.nodes[node].clock.read(self.now);
        let this = &mut self.nodes[node];
        let Some(agent) = this.agent.as_mut() else { return };
        let Some(Writing { ledger, then }) = agent.writing.take() else { return };
        agent.sequence += 1;
        this.disk.write(agent.next_slot, agent.sequence, &ledger);
        agent.next_slot = 1 - agent.next_slot;
        let before = std::mem::replace(&mut agent.ledger, ledger);
        agent.tenure.follow(&agent.ledger, now);
        let (role, was) = (agent.ledger.role.clone(), before.role.clone());
        if agent.ledger.assignment != before.assignment {
            agent.digest = agent.ledger.assignment.as_ref().map(Assignment::digest);
        }
        if role != was {
            agent.forget_reign();
            agent.checkpointed = false;
        }
        let told = agent.ledger.assignment.as_ref().map(|told| told.task.name());
        let drains = told == Some("hand-over");
        if !drains && agent.draining.take().is_some() {
            agent.drained = false;
            agent.tenure.hold(false);
        }
        let promised = (before.promised, agent.ledger.promised);
        self.check_promise(node, &before);
        if role != was || promised.0 != promised.1 {
            let name = self.nodes[node].name.clone();
            self.tell(|| format!("{name}: is {role}, has promised epoch {}", promised.1));
        }
        match then {
            Then::Nothing => {}
            Then::Answer(asker) => self.reply(node, asker, Reply::Done),
        }
        self.cut_what_may_not_pass(node);
        self.news(node);
        self.next_request(node);
        self.drive(node);
    }

    pub fn agent_event(&mut self, node: usize, event: AgentEvent) {
        match event {
            AgentEvent::Wake => self.drive(node),
            AgentEvent::News => {
                self.news(node);
                self.drive(node);
            }
            AgentEvent::LedgerWritten => self.ledger_written(node),
            AgentEvent::JobDone { number } => self.job_done(node, number),
            AgentEvent::Answered { backend, result } => self.answered(node, backend, result),
            AgentEvent::PostgresEnded { crashed } => self.postgres_ended(node, crashed),
            AgentEvent::HoldOver { poll } => self.hold_over(node, poll),
            AgentEvent::LeaseTick => {
                self.note_high_water(node);
                self.lease_tick(node);
            }
            AgentEvent::ProbeTick => self.probe_tick(node),
            AgentEvent::PledgeAnswered { round, from } => self.pledge_answered(node, round, from),
            AgentEvent::RoundOver { round } => self.round_over(node, round),
        }
    }

    /// A request has reached the Machine.
    pub fn arrive(&mut self, node: usize, asker: Asker, request: Request) {
        let paused = self.nodes[node].agent_paused;
        if self.nodes[node].agent.is_none() {
            // Nobody is there to refuse it while the Machine is off; a reset comes from one that has just ended.
            if self.rng.chance(5_000) {
                self.reply(node, asker, Reply::Nobody);
            }
            return;
        }
        if paused > self.now {
            return self.at(paused, Event::Arrive { node, asker, request });
        }
        if let Some(agent) = self.agent(node) {
            agent.inbox.push_back((asker, request));
        }
        self.next_request(node);
    }

    fn next_request(&mut self, node: usize) {
        loop {
            let Some(agent) = self.agent(node) else { return };
            if agent.writing.is_some() {
                return;
            }
            let Some((asker, request)) = agent.inbox.pop_front() else { return };
            self.take(node, asker, request);
        }
    }

    fn take(&mut self, node: usize, asker: Asker, request: Request) {
        let now = self.nodes[node].clock.read(self.now);
        match request {
            Request::Report { after, hold } => {
                let number = self.number();
                let Some(agent) = self.agent(node) else { return };
                if agent.version > after {
                    return self.report(node, asker);
                }
                agent.polls.push(Poll { number, asker });
                self.to_agent(node, hold, AgentEvent::HoldOver { poll: number });
            }
            Request::Assign { caller, assignment } => {
                let data = self.nodes[node].disk.seen();
                let Some(agent) = self.agent(node) else { return };
                let decided = heed(&agent.ledger, &caller, assignment.epoch).and_then(|ledger| {
                    agent.tenure.may_promise(&ledger, assignment.epoch, now)?;
                    ledger.accept(&assignment, &data)
                });
                match decided {
                    Ok(ledger) if ledger == agent.ledger => self.reply(node, asker, Reply::Done),
                    Ok(ledger) => self.persist(node, ledger, Then::Answer(asker)),
                    Err(refusal) => {
                        let name = self.nodes[node].name.clone();
                        let task = assignment.task.name();
                        self.tell(|| format!("{name}: refuses to {task} in epoch {}: {refusal}", assignment.epoch));
                        self.reply(node, asker, Reply::Refused(refusal.to_string()));
                    }
                }
            }
            Request::Lease { caller, grant } => {
                let Some(agent) = self.agent(node) else { return };
                match heed(&agent.ledger, &caller, grant.epoch) {
                    Ok(ledger) => {
                        let counted = agent.tenure.granted(&agent.ledger, &grant, now);
                        if ledger != agent.ledger {
                            return self.persist(node, ledger, Then::Answer(asker));
                        }
                        self.reply(node, asker, Reply::Done);
                        if counted {
                            self.gate_moved(node);
                        }
                    }
                    Err(refusal) => self.reply(node, asker, Reply::Refused(refusal.to_string())),
                }
            }
            Request::Pledge(asked) => {
                let Some(agent) = self.agent(node) else { return };
                let timing = agent.timing();
                match agent.tenure.pledge(&agent.ledger.clone(), &asked, now, &timing) {
                    Ok(ledger) => {
                        agent.heard = Some(now);
                        if ledger == agent.ledger {
                            self.reply(node, asker, Reply::Done);
                        } else {
                            self.persist(node, ledger, Then::Answer(asker));
                        }
                    }
                    Err(refusal) => self.reply(node, asker, Reply::Refused(refusal.to_string())),
                }
            }
        }
    }

    pub fn reply(&mut self, node: usize, asker: Asker, reply: Reply) {
        match asker {
            Asker::Controller { id, life, call } => {
                let place = self.place_of_controller(id);
                let Some(delay) = self.net.carries(node, place, &mut self.rng) else { return };
                let event = crate::controller::ControllerEvent::Answered { call, reply };
                self.after(delay, Event::Controller { id, life, event });
            }
            Asker::Primary { node: primary, life, round } => {
                let Some(delay) = self.net.carries(node, primary, &mut self.rng) else { return };
                if matches!(reply, Reply::Done) {
                    let event = AgentEvent::PledgeAnswered { round, from: self.nodes[node].name.clone() };
                    self.after(delay, Event::Agent { node: primary, life, event });
                }
            }
        }
    }

    fn hold_over(&mut self, node: usize, poll: u64) {
        let Some(agent) = self.agent(node) else { return };
        let Some(at) = agent.polls.iter().position(|held| held.number == poll) else { return };
        let asker = agent.polls.remove(at).asker;
        self.report(node, asker);
    }

    fn report(&mut self, node: usize, asker: Asker) {
        if let Some(report) = self.make_report(node) {
            self.reply(node, asker, Reply::Report(Box::new(report)));
        }
    }

    /// Something changed: whoever waits for that hears it.
    pub fn news(&mut self, node: usize) {
        let Some(agent) = self.agent(node) else { return };
        agent.version += 1;
        let polls = std::mem::take(&mut agent.polls);
        for poll in polls {
            self.report(node, poll.asker);
        }
    }

    fn postgres_ended(&mut self, node: usize, crashed: bool) {
        let (now, name) = (self.now, self.nodes[node].name.clone());
        let Some(agent) = self.agent(node) else { return };
        agent.tenure.postgres_ended();
        agent.forget_reign();
        agent.probe = None;
        let in_flight = std::mem::take(&mut agent.in_flight);
        if crashed {
            agent.crashes.push(crate::time::wall(now));
            agent.crash_count += 1;
        }
        if let Some(job) = &agent.job
            && !matches!(job.step, NodeStep::Clone { .. } | NodeStep::Rewind { .. } | NodeStep::Initdb { .. })
        {
            agent.job = None;
        }
        for (id, op) in in_flight {
            self.answer_client(node, id, op, crate::clients::ClientEvent::Reset);
        }
        self.tell(|| format!("{name}: Postgres {}", if crashed { "has crashed" } else { "has stopped" }));
        self.news(node);
        self.drive(node);
    }

    fn probe_tick(&mut self, node: usize) {
        self.to_agent(node, ms(1_000), AgentEvent::ProbeTick);
        let Some(server) = self.nodes[node].server.as_ref().filter(|server| server.writes()) else { return };
        let (probes, now) = (server.probes, self.now);
        let Some(agent) = self.agent(node) else { return };
        if agent.probe.is_none_or(|(_, done)| probes > done) {
            agent.probe = Some((now, probes));
            let query = crate::postgres::Query::Write(Backend::Probe);
            self.to_server(node, 0, crate::postgres::ServerEvent::Execute(query));
        }
    }

    pub fn heard_primary(&mut self, node: usize, from: usize) {
        let now = self.nodes[node].clock.read(self.now);
        let from = self.nodes[from].name.clone();
        let Some(agent) = self.agent(node) else { return };
        if matches!(&agent.ledger.role, LedgerRole::Replica { upstream, .. } if *upstream == from) {
            agent.heard = Some(now);
        }
    }
}

/// The ledger with this caller noted.
fn heed(ledger: &Ledger, caller: &Caller, epoch: Epoch) -> std::result::Result<Ledger, flypg_core::ledger::Refusal> {
    Ok(ledger.heed(caller, epoch)?.unwrap_or_else(|| ledger.clone()))
}

fn ago(now: BootTime, then: BootTime) -> Duration {
    now.0.saturating_sub(then.0)
}
