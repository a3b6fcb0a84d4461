//! The gate, the lease and the pledges: what of a node's answers leaves it.

use flypg_core::ledger::LedgerRole;
use flypg_core::mutant;
use flypg_core::names::NodeName;
use flypg_core::protocol::Gate;

use super::{AgentEvent, Request};
use crate::clients::ClientEvent;
use crate::postgres::{Backend, Query, Result, ServerEvent};
use crate::time::{ms, span};
use crate::world::{Asker, Event, World};

impl World {
    /// Every report interval: has the lease to be held up by pledges?
    pub(super) fn lease_tick(&mut self, node: usize) {
        let now = self.nodes[node].clock.read(self.now);
        let number = self.number();
        let Some(agent) = self.agent(node) else { return };
        let (timing, life) = (agent.timing(), agent.life);
        self.to_agent(node, span(timing.report), AgentEvent::LeaseTick);
        self.gate_moved(node);
        let Some(agent) = self.agent(node) else { return };
        let Some(round) = agent.tenure.round(&agent.ledger, now, &timing) else { return };
        let questions = round.questions(&agent.ledger);
        agent.round = Some((number, round));
        self.to_agent(node, span(timing.report) / 2, AgentEvent::RoundOver { round: number });
        for asked in questions {
            let Some(to) = self.index_of(&asked.node) else { continue };
            self.ask(node, to, Asker::Primary { node, life, round: number }, Request::Pledge(asked));
        }
    }

    pub(super) fn pledge_answered(&mut self, node: usize, number: u64, from: NodeName) {
        let Some(agent) = self.agent(node) else { return };
        let Some((known, round)) = agent.round.as_mut() else { return };
        if *known != number {
            return;
        }
        round.givers.insert(from);
        let round = round.clone();
        if agent.tenure.pledges(&agent.ledger, &round) {
            self.gate_moved(node);
        }
    }

    pub(super) fn round_over(&mut self, node: usize, number: u64) {
        let Some(agent) = self.agent(node) else { return };
        if agent.round.as_ref().is_some_and(|(known, _)| *known == number) {
            agent.round = None;
        }
    }

    /// The lease, or what else the gate goes by, may have changed.
    pub(super) fn gate_moved(&mut self, node: usize) {
        self.check_gates(node);
        self.drive(node);
    }

    pub fn gate_of(&self, node: usize) -> Gate {
        let this = &self.nodes[node];
        let Some(agent) = &this.agent else { return Gate::Down };
        let up = this.server.as_ref().is_some_and(|server| server.writes());
        agent.tenure.gate(&agent.ledger, up, this.clock.read(self.now))
    }

    /// Whether an answer may leave `node` now, on its own clock.
    fn passes(&self, node: usize) -> bool {
        let this = &self.nodes[node];
        let Some(agent) = &this.agent else { return false };
        agent.tenure.passes_until(&agent.ledger).is_some_and(|end| this.clock.read(self.now) < end)
    }

    /// A client's statement has reached the agent of `node`.
    pub fn statement(&mut self, node: usize, id: usize, op: u64, query: Query) {
        let paused = self.nodes[node].agent_paused;
        if paused > self.now {
            let event = ClientEvent::AtGate { node, query };
            return self.at(paused, Event::Client { id, op, event });
        }
        let now = self.nodes[node].clock.read(self.now);
        let session = self.clients[id].session;
        let Some(agent) = self.agent(node) else { return self.answer_client(node, id, op, ClientEvent::Reset) };
        let leads = agent.leads();
        let same = session.is_some_and(|session| session.agent == agent.life && Some(session.epoch) == leads);
        let timing = agent.timing();
        let open = agent.tenure.passes_until(&agent.ledger).is_some_and(|end| now.0 + timing.refuse_before < end.0);
        if !same || !open {
            return self.answer_client(node, id, op, ClientEvent::Reset);
        }
        if agent.tenure.gate(&agent.ledger, true, now) == Gate::Holding {
            // It waits between two transactions, for ten seconds at most.
            let event = ClientEvent::AtGate { node, query };
            return self.after(ms(50), Event::Client { id, op, event });
        }
        agent.in_flight.insert((id, op));
        let delay = self.rng.tail(ms(1) / 10..ms(3));
        self.to_server(node, delay, ServerEvent::Execute(query));
    }

    /// Postgres has answered: read it, then read the clock, then forward (rule R3).
    pub(super) fn answered(&mut self, node: usize, backend: Backend, result: Result) {
        match backend {
            Backend::Marker => self.marker_written(node, result),
            Backend::Probe => {}
            Backend::Client { id, op } => {
                let Some(agent) = self.agent(node) else { return };
                agent.in_flight.remove(&(id, op));
                let (life, leads) = (agent.life, agent.leads());
                if self.clients[id].op != op {
                    return;
                }
                let session = self.clients[id].session;
                let same = session.is_some_and(|s| s.node == node && s.agent == life && Some(s.epoch) == leads);
                let passes = same && (self.passes(node) || mutant::off("R3"));
                let cancelled = matches!(result, Result::Committed { cancelled: true, .. }) && !mutant::off("R12");
                if !passes || cancelled || result == Result::Failed {
                    return self.answer_client(node, id, op, ClientEvent::Reset);
                }
                let epoch = session.map(|session| session.epoch).unwrap_or_default();
                self.check_answer(node, id, epoch, result);
                self.answer_client(node, id, op, ClientEvent::Done);
            }
        }
    }

    /// May a replica stream from `from` through its agent's door?
    pub fn replication_passes(&self, from: usize, to: usize) -> bool {
        if self.setup.bare {
            return true;
        }
        let (Some(source), Some(target)) = (&self.nodes[from].agent, &self.nodes[to].agent) else { return false };
        let gives = matches!(
            source.ledger.role,
            LedgerRole::Primary { .. } | LedgerRole::Promoting { .. } | LedgerRole::Replica { .. }
        );
        let known = source
            .ledger
            .assignment
            .as_ref()
            .is_some_and(|told| told.peers.iter().any(|peer| peer.node == self.nodes[to].name));
        let wants = matches!(&target.ledger.role, LedgerRole::Replica { upstream, .. }
            | LedgerRole::Cloning { upstream, .. } | LedgerRole::Rejoining { upstream, .. }
            if *upstream == self.nodes[from].name);
        gives && known && (wants || mutant::off("R5"))
    }

    /// The role has changed: connections that it let pass end.
    pub(super) fn cut_what_may_not_pass(&mut self, node: usize) {
        let ended: Vec<u64> = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.from == node && !self.replication_passes(stream.from, stream.to))
            .map(|(connection, _)| *connection)
            .collect();
        for connection in ended {
            self.drop_stream(connection);
        }
        self.check_gates(node);
    }

    pub(super) fn answer_client(&mut self, node: usize, id: usize, op: u64, event: ClientEvent) {
        let home = self.clients[id].home;
        if let Some(delay) = self.net.carries(node, home, &mut self.rng) {
            self.after(delay, Event::Client { id, op, event });
        }
    }
}
