//! What an agent sees of its own machine, and what it says about that.

use std::collections::BTreeMap;
use std::time::Duration;

use flypg_core::failover::Rule;
use flypg_core::ledger::LedgerRole;
use flypg_core::names::NodeName;
use flypg_core::node::{Local, Position, Postmaster, ReignSeen, SettingsSeen, SlotSeen, Stranded};
use flypg_core::protocol::{
    Disk, Gate, Leading, Lsn, NodeReport, PgReport, PgRole, Phase, Probe, ReplicaReport, Standing, Task,
};

use super::{Agent, ago};
use crate::disk::{Conf, Data, MAJOR, PgData};
use crate::postgres::{self, Server};
use crate::time::wall;
use crate::wal::lsn;
use crate::world::World;

impl World {
    /// The configuration that follows from the ledger.
    pub(super) fn wanted(agent: &Agent) -> Conf {
        let upstream = match &agent.ledger.role {
            LedgerRole::Replica { upstream, .. } => Some(upstream.clone()),
            _ => None,
        };
        let terms = agent.ledger.assignment.as_ref().and_then(|told| told.task.terms());
        let leads = agent.leads().is_some();
        let rule = terms.filter(|_| leads).map_or(Rule::alone(), |terms| terms.rule.clone());
        Conf { upstream, rule }
    }

    pub(super) fn look(&self, node: usize) -> Option<Local> {
        let this = &self.nodes[node];
        let agent = this.agent.as_ref()?;
        let now = this.clock.read(self.now);
        let mut local = Local::fresh(MAJOR, this.disk.seen());
        local.crashes = agent.crashes.clone();
        local.failed_makes = agent.failed_makes.clone();
        local.remakes = agent.remakes.clone();
        local.rewind_failed = agent.rewind_failed.clone();
        local.room = true;
        local.remade = agent.remade;
        local.may_lead = agent.tenure.may_run_primary(&agent.ledger, now);
        local.grace_over = agent.tenure.is_grace_over(&agent.ledger, now, &agent.timing());
        if let Some((clean, end)) = &agent.end {
            local.clean = *clean;
            local.end = Some(end.clone());
        }
        local.lost_wal = agent.lost.clone().or_else(|| agent.lack_at_the_end());
        if this.leftover.is_some() && this.server.is_none() && !flypg_core::mutant::off("R4") {
            local.postmaster = Postmaster::Leftover;
        }
        let Data::Complete(pg) = &this.disk.data else { return Some(local) };
        local.settings = settings(agent, pg, this.server.as_ref());
        if let Some(server) = &this.server {
            local.postmaster = if server.is_up() { Postmaster::Up } else { Postmaster::Starting };
            local.roles_ensured = server.roles;
            if server.writes() {
                let active = |slot: &String| NodeName::of_slot(slot).is_some_and(|n| server.senders.contains_key(&n));
                let seen = |slot: &String| SlotSeen { active: active(slot), lost: false };
                local.slots = Some(pg.slots.keys().map(|slot| (slot.clone(), seen(slot))).collect());
            }
            local.reign = self.reign(agent, pg, server);
            if server.stranded && server.receiver.is_none() {
                let own = Position { timeline: pg.timeline, lsn: lsn(pg.flushed) };
                local.stranded = Some(Stranded { own, room: true, asked: agent.asked.clone() });
            }
        }
        if let Some(Task::Follow { lineage, .. }) = agent.ledger.assignment.as_ref().map(|told| &told.task)
            && matches!(agent.ledger.role, LedgerRole::Replica { .. } | LedgerRole::Rejoining { .. })
            && !flypg_core::mutant::off("R9")
        {
            local.astray = lineage.place(&pg.history(pg.flushed, &self.markers), lsn(pg.flushed)).err();
        }
        Some(local)
    }

    fn reign(&self, agent: &Agent, pg: &PgData, server: &Server) -> ReignSeen {
        let rule = agent.rule.as_ref().filter(|(rule, _)| *rule == server.loaded);
        ReignSeen {
            in_recovery: server.recovery,
            timeline: server.is_up().then_some(pg.timeline),
            confirmed: agent.tenure.is_confirmed(&agent.ledger),
            rule: rule.map(|(rule, _)| rule.clone()),
            covered: rule.is_some_and(|(rule, at)| self.is_covered(server, rule, *at)),
            checkpointed: agent.checkpointed && pg.checkpoint == pg.timeline,
            drained: agent.drained,
        }
    }

    pub(super) fn is_covered(&self, server: &Server, rule: &Rule, at: usize) -> bool {
        flypg_core::mutant::off("R13") || server.covers(rule, at)
    }

    /// `GET /v1/report`.
    pub(super) fn make_report(&mut self, node: usize) -> Option<NodeReport> {
        let this = &self.nodes[node];
        let agent = this.agent.as_ref()?;
        let now = this.clock.read(self.now);
        Some(NodeReport {
            cluster: agent.ledger.cluster.clone(),
            node: this.name.clone(),
            machine: this.machine.clone(),
            incarnation: agent.ledger.incarnation,
            boot: agent.tenure.boot().to_owned(),
            sent: now,
            version: agent.version,
            promised: agent.ledger.promised,
            assignment: agent.digest.clone(),
            revision: agent.ledger.revision,
            standing: self.standing(node, agent),
            pledged_for: agent.tenure.pledged_for(now),
            primary_heard: agent.heard.map(|heard| ago(now, heard)),
            phase: self.phase(node, agent),
            postgres: self.pg_report(node, agent),
            disk: Some(Disk { total: 40 << 30, used: 1 << 30 }),
            crashes: agent.crash_count,
        })
    }

    fn standing(&self, node: usize, agent: &Agent) -> Standing {
        match &agent.ledger.role {
            LedgerRole::Recruited { .. } => Standing::Recruited { end: agent.whole_end() },
            LedgerRole::Relinquished { .. } => Standing::Relinquished {
                clean: agent.end.as_ref().is_some_and(|(clean, _)| *clean),
                end: agent.whole_end(),
            },
            LedgerRole::Primary { .. } | LedgerRole::Promoting { .. } => Standing::Leading(self.leading(node, agent)),
            _ => Standing::Unbound,
        }
    }

    fn leading(&self, node: usize, agent: &Agent) -> Leading {
        let this = &self.nodes[node];
        let gate = self.gate_of(node);
        let (Some(pg), Some(server)) = (this.disk.pg(), this.server.as_ref()) else {
            return Leading { gate: Gate::Down, ..Leading::default() };
        };
        let reign = self.reign(agent, pg, server);
        let promoted = matches!(agent.ledger.role, LedgerRole::Primary { .. });
        let start = pg.switches().last().map_or(Lsn(0), |switch| switch.at);
        Leading {
            confirmed: reign.confirmed,
            start: (promoted && server.is_up()).then_some(start),
            rule: reign.rule,
            covered: reign.covered,
            checkpointed: reign.checkpointed,
            gate,
        }
    }

    fn phase(&self, node: usize, agent: &Agent) -> Phase {
        use flypg_core::node::NodeStep;
        let this = &self.nodes[node];
        if let Some(why) = &agent.quarantined {
            return Phase::Quarantined { why: why.clone() };
        }
        match agent.job.as_ref().map(|job| &job.step) {
            Some(NodeStep::Initdb { .. }) => return Phase::Initialising,
            Some(NodeStep::Clone { .. } | NodeStep::CloneBeside { .. } | NodeStep::Rewind { .. }) => {
                return Phase::Cloning { done: 0, total: None };
            }
            _ => {}
        }
        match (&this.disk.data, this.server.as_ref().map(|server| server.phase)) {
            (_, Some(postgres::Phase::Up)) => Phase::Running,
            (_, Some(postgres::Phase::Starting)) => Phase::Starting,
            (_, Some(postgres::Phase::Stopping)) => Phase::Stopping,
            (Data::Blank, None) => match agent.ledger.role {
                LedgerRole::Initialising { .. } => Phase::Initialising,
                LedgerRole::Cloning { .. } => Phase::Cloning { done: 0, total: None },
                _ => Phase::Blank,
            },
            (_, None) => Phase::Idle,
        }
    }

    fn pg_report(&self, node: usize, agent: &Agent) -> Option<PgReport> {
        let this = &self.nodes[node];
        let server = this.server.as_ref().filter(|server| server.is_up())?;
        let pg = this.disk.pg()?;
        let role = if server.recovery {
            let from = server.receiver.and_then(|connection| self.streams.get(&connection));
            PgRole::Standby {
                received: server.streamed.map(lsn),
                replayed: lsn(server.replayed),
                streaming_from: from.map(|stream| self.nodes[stream.from].name.clone()),
                replay_lag_seconds: Some(0.0),
            }
        } else {
            let replica = |(name, sender): (&NodeName, &postgres::Sender)| ReplicaReport {
                node: name.clone(),
                state: "streaming".to_owned(),
                sent: Some(lsn(sender.flushed)),
                flushed: Some(lsn(sender.flushed)),
                replayed: Some(lsn(sender.flushed)),
            };
            let hangs = agent.probe.filter(|(_, done)| server.probes <= *done).map(|(at, _)| self.now - at);
            PgRole::Primary {
                lsn: lsn(pg.flushed),
                replicas: server.senders.iter().map(replica).collect(),
                slots: pg
                    .slots
                    .iter()
                    .map(|(slot, at)| (slot.clone(), lsn(pg.flushed).bytes_since(lsn(at.unwrap_or(pg.flushed)))))
                    .collect(),
                probe: Some(Probe { took: Duration::from_millis(2), hangs: hangs.map(Duration::from_nanos) }),
            }
        };
        Some(PgReport {
            version: "15.20".to_owned(),
            system_id: pg.system_id.clone(),
            timeline: pg.timeline,
            history: Some(pg.history(if server.recovery { server.replayed } else { pg.flushed }, &self.markers)),
            started_at: wall(self.now).as_second(),
            role,
            settings: self.check.settings_digest.clone(),
            parameters: BTreeMap::new(),
            pending_restart: Vec::new(),
            withheld: Vec::new(),
            rejected: BTreeMap::new(),
        })
    }
}

fn settings(agent: &Agent, pg: &PgData, server: Option<&Server>) -> SettingsSeen {
    let wanted = World::wanted(agent);
    match server {
        _ if pg.conf != wanted => SettingsSeen::Stale,
        None => SettingsSeen::Written,
        Some(server) if server.upstream != wanted.upstream || server.loaded != wanted.rule => SettingsSeen::Written,
        Some(_) => SettingsSeen::Loaded,
    }
}
