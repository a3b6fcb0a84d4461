//! One step after the other, as the ledger and the sight of the machine demand.

use flypg_core::decree::SystemId;
use flypg_core::node::{self, NodeStep, PrimarySeen};
use flypg_core::protocol::End;

use super::{AgentEvent, Job, Then};
use crate::disk::{Data, PgData};
use crate::postgres::{Backend, Result, WAL_KEPT};
use crate::time::{Time, ms, secs, unwall, wall};
use crate::wal::{What, lsn};
use crate::world::World;

impl World {
    /// Decides and acts until there is something to wait for.
    pub fn drive(&mut self, node: usize) {
        for _ in 0..32 {
            let Some(agent) = self.agent(node) else { return };
            if agent.job.is_some() || agent.writing.is_some() {
                return;
            }
            let Some(local) = self.look(node) else { return };
            let now = wall(self.now);
            let Some(agent) = self.agent(node) else { return };
            let step = node::next(&agent.ledger, &local, now);
            if !matches!(step, NodeStep::Quarantine { .. }) {
                agent.quarantined = None;
            }
            if !self.begin_step(node, step) {
                return;
            }
        }
        self.wake_after(node, ms(100));
    }

    fn wake_after(&mut self, node: usize, delay: Time) {
        let now = self.now;
        let Some(agent) = self.agent(node) else { return };
        let at = now + delay;
        // One alarm at a time, the earliest.
        if agent.wake_at <= now || at < agent.wake_at {
            agent.wake_at = at;
            self.to_agent(node, delay, AgentEvent::Wake);
        }
    }

    /// True if the next step may be decided at once.
    fn begin_step(&mut self, node: usize, step: NodeStep) -> bool {
        let slow = |world: &mut World, from: Time, to: Time| world.rng.tail(from..to);
        let delay = match &step {
            NodeStep::Nothing => return false,
            NodeStep::Wait { until } | NodeStep::Hold { until, .. } => {
                let delay = unwall(*until).saturating_sub(self.now).max(ms(1));
                self.wake_after(node, delay);
                return false;
            }
            NodeStep::Quarantine { why } => {
                let name = self.nodes[node].name.clone();
                let Some(agent) = self.agent(node) else { return false };
                if agent.quarantined.as_ref() != Some(why) {
                    agent.quarantined = Some(why.clone());
                    self.tell(|| format!("{name}: is quarantined: {why}"));
                    self.news(node);
                }
                return false;
            }
            NodeStep::Confirm { epoch, nonce } => return self.begin_confirm(node, *epoch, nonce),
            NodeStep::EnsureRule { rule } => return self.begin_rule(node, rule.clone()),
            NodeStep::Drain => return self.drain(node),
            NodeStep::StartPostgres { .. } => {
                let name = self.nodes[node].name.clone();
                self.tell(|| format!("{name}: starts Postgres"));
                if let Some(agent) = self.agent(node) {
                    agent.remade = false;
                }
                self.check_recovered(node);
                self.start_postgres(node);
                return false;
            }
            NodeStep::StopFast => {
                self.stop_postgres(node, Self::STOP_BUDGET);
                return false;
            }
            NodeStep::Clone { .. } | NodeStep::CloneBeside { .. } => slow(self, ms(200), ms(1_500)),
            NodeStep::Initdb { .. } => slow(self, ms(200), ms(900)),
            NodeStep::Rewind { .. } => slow(self, ms(150), ms(1_500)),
            NodeStep::FindEnd => ms(5),
            NodeStep::InspectStopped => slow(self, ms(5), ms(50)),
            NodeStep::Promote { .. } => slow(self, ms(40), ms(160)),
            NodeStep::Checkpoint => slow(self, ms(20), ms(400)),
            NodeStep::AskPrimary { .. } => slow(self, ms(5), ms(60)),
            _ => slow(self, ms(1), ms(20)),
        };
        self.before_job(node, &step);
        let number = self.number();
        let server = self.nodes[node].server.as_ref().map(|server| server.life);
        if let Some(agent) = self.agent(node) {
            agent.job = Some(Job { number, step, server });
        }
        self.to_agent(node, delay, AgentEvent::JobDone { number });
        false
    }

    /// What a step leaves behind if it is cut.
    fn before_job(&mut self, node: usize, step: &NodeStep) {
        let name = self.nodes[node].name.clone();
        if let NodeStep::Initdb { .. } | NodeStep::Clone { .. } | NodeStep::Rewind { .. } = step {
            self.forget_reached(node);
        }
        match step {
            NodeStep::Initdb { nonce } => {
                let begun = self.rng.chance(8_000);
                let origin = flypg_core::node::Origin::Initdb { nonce: nonce.clone() };
                self.nodes[node].disk.data = Data::Unfinished(begun.then_some(origin));
                self.tell(|| format!("{name}: makes the cluster's data"));
            }
            NodeStep::Clone { from } => {
                let begun = self.rng.chance(8_000);
                let origin = flypg_core::node::Origin::Clone { from: from.clone() };
                self.nodes[node].disk.data = Data::Unfinished(begun.then_some(origin));
                self.tell(|| format!("{name}: clones {from}"));
            }
            NodeStep::Rewind { from } => {
                self.tell(|| format!("{name}: rewinds to {from}"));
                self.check_destroys(node, "rewinds");
                // It looks at both histories first; then nothing is whole until it is done.
                let begins = matches!(self.rewound(node, from), Ok(Some(_)));
                if let Some(pg) = self.nodes[node].disk.pg_mut() {
                    pg.standby_signal = false;
                    pg.mixed |= begins;
                }
                if let Some(agent) = self.agent(node) {
                    agent.rewinds = begins;
                }
            }
            NodeStep::CloneBeside { from } => {
                let now = wall(self.now);
                if let Some(agent) = self.agent(node) {
                    agent.remakes.push(now);
                }
                self.tell(|| format!("{name}: makes another copy of {from}"));
            }
            _ => {}
        }
    }

    pub(super) fn job_done(&mut self, node: usize, number: u64) {
        let Some(agent) = self.agent(node) else { return };
        if agent.writing.is_some() {
            return self.to_agent(node, ms(1), AgentEvent::JobDone { number });
        }
        let Some(job) = agent.job.take_if(|job| job.number == number) else { return };
        let server = self.nodes[node].server.as_ref().map(|server| server.life);
        let same = job.server == server;
        self.finish_step(node, job.step, same);
        self.news(node);
        self.drive(node);
    }

    fn finish_step(&mut self, node: usize, step: NodeStep, same: bool) {
        let (now, name) = (wall(self.now), self.nodes[node].name.clone());
        match step {
            NodeStep::EndLeftover => self.end_leftover(node),
            NodeStep::Initdb { nonce } => {
                let system_id = SystemId(format!("{}", 7_000_000 + self.number()));
                self.check_initdb(node, &system_id);
                self.nodes[node].disk.data = Data::Complete(Box::new(PgData::initialised(system_id, &nonce)));
            }
            NodeStep::Clone { from } => self.finish_clone(node, &from, false),
            NodeStep::CloneBeside { from } => {
                self.finish_clone(node, &from, true);
                if self.agent(node).is_some_and(|agent| agent.remade) {
                    self.forget_reached(node);
                }
            }
            NodeStep::GiveUpCopy { .. } => {
                self.check_destroys(node, "is given up");
                self.end_postgres_with_machine(node);
                let given_up = self.agent(node).and_then(|agent| agent.ledger.given_up());
                if let Some(ledger) = given_up {
                    self.nodes[node].disk.data = Data::Blank;
                    self.forget_reached(node);
                    self.persist(node, ledger, Then::Nothing);
                }
            }
            NodeStep::RemoveUnfinished => self.nodes[node].disk.data = Data::Blank,
            NodeStep::RecordMade { system_id } => self.note(node, |ledger| ledger.made(&system_id)),
            NodeStep::RecordPromoted => self.note(node, flypg_core::ledger::Ledger::promoted),
            NodeStep::RecordRelinquished => self.note(node, flypg_core::ledger::Ledger::relinquished),
            NodeStep::RecordUnpromoted => self.note(node, flypg_core::ledger::Ledger::unpromoted),
            NodeStep::RecordRewinding => self.note(node, flypg_core::ledger::Ledger::rewinding),
            NodeStep::BecomeStandby => {
                if let Some(pg) = self.nodes[node].disk.pg_mut() {
                    pg.standby_signal = true;
                }
                self.note(node, flypg_core::ledger::Ledger::rejoined);
            }
            NodeStep::WriteSettings => {
                let Some(agent) = self.nodes[node].agent.as_ref() else { return };
                let wanted = World::wanted(agent);
                if let Some(pg) = self.nodes[node].disk.pg_mut() {
                    pg.conf = wanted;
                }
            }
            NodeStep::Reload => self.reload(node),
            NodeStep::EnsureRoles => {
                if let Some(server) = self.nodes[node].server.as_mut() {
                    server.roles = true;
                }
            }
            NodeStep::EnsureSlots { create, drop } => {
                let keeps = !flypg_core::mutant::off("R18");
                if let Some(pg) = self.nodes[node].disk.pg_mut().filter(|_| same) {
                    // A new one reserves from the last checkpoint on; one that reserves nothing keeps nothing.
                    let at = keeps.then(|| pg.kept.max(pg.flushed.saturating_sub(WAL_KEPT)));
                    pg.slots.retain(|slot, _| !drop.contains(slot));
                    for slot in create {
                        pg.slots.entry(slot).or_insert(at);
                    }
                }
            }
            NodeStep::RestartPostgres => {}
            NodeStep::FindEnd => self.find_end(node, same),
            NodeStep::InspectStopped => {
                let stopped = self.nodes[node].server.is_none();
                let Some(pg) = self.nodes[node].disk.pg().filter(|_| stopped) else { return };
                let end = End { history: pg.history(pg.flushed, &self.markers), lsn: lsn(pg.flushed) };
                let clean = pg.clean;
                if let Some(agent) = self.agent(node) {
                    agent.end = Some((clean, end));
                }
            }
            NodeStep::Promote { timeline, burnt } if same => {
                let stubs = if flypg_core::mutant::off("R8") { Vec::new() } else { burnt };
                let took = self.promote(node, &stubs);
                self.tell(|| format!("{name}: promoted to timeline {took:?}, told to take {timeline}"));
            }
            NodeStep::Checkpoint if same => {
                if let Some(pg) = self.nodes[node].disk.pg_mut() {
                    pg.checkpoint = pg.timeline;
                }
                if let Some(agent) = self.agent(node) {
                    agent.checkpointed = true;
                }
            }
            NodeStep::AskPrimary { primary } => {
                let seen = self.ask_primary(node, &primary);
                if let Some(agent) = self.agent(node) {
                    agent.asked = Some((now, seen));
                }
            }
            NodeStep::Rewind { from } => self.finish_rewind(node, &from),
            _ => {}
        }
    }

    fn note(
        &mut self,
        node: usize,
        change: impl FnOnce(&flypg_core::ledger::Ledger) -> Option<flypg_core::ledger::Ledger>,
    ) {
        let Some(ledger) = self.nodes[node].agent.as_ref().and_then(|agent| change(&agent.ledger)) else { return };
        self.persist(node, ledger, Then::Nothing);
    }

    /// Cut off from its upstream, with all replayed, seen twice (rule R5).
    fn find_end(&mut self, node: usize, same: bool) {
        let Some(server) = self.nodes[node].server.as_ref().filter(|_| same) else { return };
        let Some(pg) = self.nodes[node].disk.pg() else { return };
        let early = flypg_core::mutant::off("R5");
        let still =
            (server.receiver.is_none() && server.replayed == pg.log.len() && pg.flushed == pg.log.len()) || early;
        let length = pg.flushed;
        let end = End { history: pg.history(length, &self.markers), lsn: lsn(length) };
        let flushing = !early && pg.flushed < pg.log.len();
        let Some(agent) = self.agent(node) else { return };
        match agent.end_seen == Some(length) && still {
            true => agent.end = Some((false, end)),
            false => agent.end_seen = still.then_some(length),
        }
        if flushing {
            self.flush_soon(node);
        } else if !still {
            self.to_server(node, 0, crate::postgres::ServerEvent::Replay);
        }
    }

    fn begin_confirm(&mut self, node: usize, epoch: flypg_core::decree::Epoch, nonce: &str) -> bool {
        let now = self.now;
        let paused = self.nodes[node].postgres_paused > now;
        let Some(life) = self.nodes[node].server.as_ref().filter(|s| s.writes()).map(|server| server.life) else {
            return false;
        };
        let Some(agent) = self.agent(node) else { return false };
        let tenure_life = agent.tenure.life();
        if paused || agent.confirming == Some((epoch, tenure_life)) {
            return false;
        }
        agent.confirming = Some((epoch, tenure_life));
        let _ = life;
        let number = self.markers.note(epoch, nonce);
        self.write(node, Backend::Marker, What::Marker(number));
        false
    }

    pub(super) fn marker_written(&mut self, node: usize, result: Result) {
        let name = self.nodes[node].name.clone();
        let Some(agent) = self.agent(node) else { return };
        let Some((epoch, life)) = agent.confirming.take() else { return };
        if !matches!(result, Result::Committed { cancelled: false, .. }) {
            return self.wake_after(node, ms(50));
        }
        if agent.tenure.confirm(&agent.ledger, epoch, life) {
            self.tell(|| format!("{name}: its marker of epoch {epoch} is flushed under the rule"));
            self.check_confirmed(node, epoch);
        }
        self.news(node);
        self.gate_moved(node);
    }

    /// Ends every walsender that is older than the reload, one after the other, and waits until it is gone (rule R13).
    fn begin_rule(&mut self, node: usize, rule: flypg_core::failover::Rule) -> bool {
        let paused = self.nodes[node].postgres_paused > self.now;
        let Some(server) = self.nodes[node].server.as_ref().filter(|server| server.writes()) else { return false };
        let older = |sender: &&crate::postgres::Sender| sender.view != rule;
        let fresh_only = flypg_core::mutant::off("R13");
        let old = server.senders.values().find(older).map(|sender| (sender.connection, sender.paused));
        if let Some((connection, stopped)) = old.filter(|_| !fresh_only) {
            if !paused && stopped <= self.now {
                self.drop_stream(connection);
            }
            self.wake_after(node, ms(20));
            return false;
        }
        if !fresh_only && server.defined != rule {
            self.wake_after(node, ms(10));
            return false;
        }
        let at = self.nodes[node].disk.pg().map_or(0, |pg| pg.flushed);
        let name = self.nodes[node].name.clone();
        let Some(agent) = self.agent(node) else { return false };
        let known = agent.rule.as_ref().is_some_and(|(known, _)| *known == rule);
        if !known {
            self.tell(|| format!("{name}: acknowledges by {rule:?} in every walsender"));
            if let Some(agent) = self.agent(node) {
                agent.rule = Some((rule, at));
            }
            self.check_rule(node);
            self.news(node);
            return true;
        }
        // It is in effect, and does not cover everything yet: acknowledgements will tell.
        false
    }

    pub fn rule_progress(&mut self, node: usize) {
        let this = &self.nodes[node];
        let (Some(agent), Some(server)) = (&this.agent, &this.server) else { return };
        let Some((rule, at)) = &agent.rule else { return };
        let covered = server.covers(rule, *at);
        let waits = agent.covered != Some(covered);
        if waits {
            if let Some(agent) = self.agent(node) {
                agent.covered = Some(covered);
            }
            self.to_agent(node, 0, AgentEvent::News);
        }
    }

    fn drain(&mut self, node: usize) -> bool {
        let now = self.now;
        let Some(agent) = self.agent(node) else { return false };
        let since = *agent.draining.get_or_insert(now);
        agent.tenure.hold(true);
        if agent.in_flight.is_empty() || now >= since + secs(2) {
            agent.drained = true;
            self.news(node);
            return true;
        }
        self.wake_after(node, ms(20));
        false
    }

    fn ask_primary(
        &self,
        node: usize,
        primary: &flypg_core::names::NodeName,
    ) -> std::result::Result<PrimarySeen, String> {
        let from = self.index_of(primary).ok_or("it is not known")?;
        if self.net.is_cut(node, from) || self.net.is_cut(from, node) || !self.replication_passes(from, node) {
            return Err("it does not answer".to_owned());
        }
        let source = self.nodes[from].server.as_ref().filter(|server| server.writes()).ok_or("it does not run")?;
        let _ = source;
        let pg = self.nodes[from].disk.pg().ok_or("it has no data")?;
        let ended = pg.switches().iter().map(|s| node::Position { timeline: s.timeline, lsn: s.at }).collect();
        Ok(PrimarySeen {
            system_id: pg.system_id.clone(),
            at: node::Position { timeline: pg.timeline, lsn: lsn(pg.flushed) },
            ended,
            keeps_wal: pg.slots.contains_key(&self.nodes[node].name.slot()),
        })
    }
}
