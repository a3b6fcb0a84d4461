//! Clients: one statement after the other, on a session that lasts until somebody resets it.

use flypg_core::decree::Epoch;
use flypg_core::protocol::PeerRole;

use crate::postgres::{Backend, Query};
use crate::time::{Time, ms};
use crate::world::{Event, World};

#[derive(Debug, Clone)]
pub enum ClientEvent {
    Next,
    AtGate { node: usize, query: Query },
    Done,
    Reset,
    TimedOut,
}

#[derive(Debug, Clone, Copy)]
pub struct Session {
    pub node: usize,
    /// The life of the agent that it was opened at, and the epoch that one led in.
    pub agent: u64,
    pub epoch: Epoch,
}

#[derive(Debug)]
pub struct Client {
    /// The node beside which it runs: partitions cut them off together.
    pub home: usize,
    pub session: Option<Session>,
    /// The statement that it waits for.
    pub op: u64,
    waits: bool,
    since: Time,
    /// What had been acknowledged when it began its statement.
    pub floor: crate::check::Floor,
}

impl World {
    pub fn begin_clients(&mut self) {
        for id in 0..self.setup.clients {
            let home = id % self.setup.nodes;
            let client =
                Client { home, session: None, op: 0, waits: false, since: 0, floor: crate::check::Floor::default() };
            self.clients.push(client);
            self.after(ms(500), Event::Client { id, op: 0, event: ClientEvent::Next });
        }
    }

    pub fn client_event(&mut self, id: usize, op: u64, event: ClientEvent) {
        if let ClientEvent::AtGate { node, query } = event {
            // Late statements still reach their gate.
            return self.statement(node, id, op, query);
        }
        if self.clients[id].op != op {
            return;
        }
        match event {
            ClientEvent::Next => self.next_statement(id),
            ClientEvent::Done => self.rest(id, self.setup.think.clone()),
            ClientEvent::Reset => {
                self.clients[id].session = None;
                self.rest(id, ms(50)..ms(400));
            }
            ClientEvent::TimedOut => {
                if self.clients[id].waits {
                    // Some go on with the session, some open another.
                    if self.rng.chance(6_000) {
                        self.clients[id].session = None;
                    }
                    self.rest(id, ms(10)..ms(200));
                }
            }
            ClientEvent::AtGate { .. } => {}
        }
    }

    fn rest(&mut self, id: usize, think: std::ops::Range<Time>) {
        let op = self.number();
        let delay = self.rng.within(think);
        let client = &mut self.clients[id];
        client.op = op;
        client.waits = false;
        self.after(delay, Event::Client { id, op, event: ClientEvent::Next });
    }

    fn next_statement(&mut self, id: usize) {
        if self.clients[id].session.is_none() {
            self.clients[id].session = self.route(id);
        }
        let Some(session) = self.clients[id].session else { return self.rest(id, ms(100)..ms(500)) };
        let op = self.number();
        let floor = self.check.floor();
        let client = &mut self.clients[id];
        (client.op, client.waits, client.since, client.floor) = (op, true, self.now, floor);
        let home = client.home;
        let backend = Backend::Client { id, op };
        let query = if self.rng.chance(6_500) { Query::Write(backend) } else { Query::Read(backend) };
        if let Some(delay) = self.net.carries(home, session.node, &mut self.rng) {
            let event = ClientEvent::AtGate { node: session.node, query };
            self.after(delay, Event::Client { id, op, event });
        }
        let patience = self.setup.patience[id / self.setup.nodes % 2];
        self.after(patience, Event::Client { id, op, event: ClientEvent::TimedOut });
    }

    /// The router of its own node says where the primary is; now and then a client goes to some node directly.
    fn route(&mut self, id: usize) -> Option<Session> {
        let home = self.clients[id].home;
        let direct = self.rng.chance(1_500);
        let node = match direct {
            true => self.rng.index(self.setup.nodes),
            false => {
                let told = self.nodes[home].agent.as_ref()?.ledger.assignment.as_ref()?;
                let primary = told.peers.iter().find(|peer| peer.role == PeerRole::Primary)?;
                self.index_of(&primary.node.clone())?
            }
        };
        if self.net.is_cut(home, node) || self.net.is_cut(node, home) {
            return None;
        }
        let agent = self.nodes[node].agent.as_ref()?;
        Some(Session { node, agent: agent.life, epoch: agent.leads()? })
    }
}
