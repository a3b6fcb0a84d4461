//! Commits: written, flushed, waited for, visible.

use super::{Backend, Phase, Query, Result, ServerEvent, Waiter};
use crate::agent::AgentEvent;
use crate::time::ms;
use crate::wal::What;
use crate::world::World;

/// `wal_keep_size`, in records: some seconds of writes.
pub const WAL_KEPT: usize = 60;

impl World {
    pub fn server_event(&mut self, node: usize, event: ServerEvent) {
        match event {
            ServerEvent::Up => self.server_up(node),
            ServerEvent::Flushed { records } => self.flushed(node, records),
            ServerEvent::Defined => self.defined(node),
            ServerEvent::Viewed { standby } => {
                if let Some(server) = self.nodes[node].server.as_mut() {
                    let loaded = server.loaded.clone();
                    if let Some(sender) = server.senders.get_mut(&standby) {
                        sender.view = loaded;
                    }
                }
            }
            ServerEvent::Connect => self.connect(node),
            ServerEvent::Replay => self.replay(node),
            ServerEvent::Shutdown { deadline } => self.shut_down(node, deadline),
            ServerEvent::Execute(query) => self.execute(node, query),
        }
    }

    fn execute(&mut self, node: usize, query: Query) {
        let Some(server) = self.nodes[node].server.as_ref() else { return };
        let (phase, recovery, visible, replayed) = (server.phase, server.recovery, server.visible, server.replayed);
        match query {
            Query::Read(backend) => {
                if phase != Phase::Up {
                    return self.answer(node, backend, Result::Failed);
                }
                let visible = if recovery { replayed } else { visible };
                let last = self.nodes[node].disk.pg().and_then(|pg| {
                    let record = pg.log.slice(visible.saturating_sub(1), visible).first()?;
                    Some((visible - 1, record.serial))
                });
                self.answer(node, backend, Result::Read { visible, last });
            }
            Query::Write(backend) => {
                if phase != Phase::Up || recovery {
                    return self.answer(node, backend, Result::Failed);
                }
                self.write(node, backend, What::Write);
            }
        }
    }

    /// Appends a record, and waits for it to be on disk.
    pub fn write(&mut self, node: usize, backend: Backend, what: What) {
        let Some(timeline) = self.nodes[node].disk.pg().map(|pg| pg.timeline) else { return };
        let what = if backend == Backend::Probe { What::Noise } else { what };
        let record = self.record(timeline, what);
        let Some(pg) = self.nodes[node].disk.pg_mut() else { return };
        let at = pg.log.len();
        pg.log.push(record);
        if let Some(server) = self.nodes[node].server.as_mut() {
            server.unflushed.push_back(Waiter { at, serial: record.serial, backend });
        }
        self.flush_soon(node);
    }

    pub fn flush_soon(&mut self, node: usize) {
        let Some(records) = self.nodes[node].disk.pg().map(|pg| pg.log.len()) else { return };
        let Some(server) = self.nodes[node].server.as_mut() else { return };
        if !server.flushing {
            server.flushing = true;
            let delay = self.fsync(node);
            self.to_server(node, delay, ServerEvent::Flushed { records });
        }
    }

    fn flushed(&mut self, node: usize, records: usize) {
        let Some(pg) = self.nodes[node].disk.pg_mut() else { return };
        let records = records.min(pg.log.len());
        pg.flushed = pg.flushed.max(records);
        let more = pg.log.len() > pg.flushed;
        let Some(server) = self.nodes[node].server.as_mut() else { return };
        server.flushing = false;
        if server.recovery {
            self.standby_flushed(node);
        } else {
            let alone = server.defined.acks() == 0;
            let mut done = Vec::new();
            while server.unflushed.front().is_some_and(|waiter| waiter.at < records) {
                let Some(waiter) = server.unflushed.pop_front() else { break };
                if alone || waiter.backend == Backend::Probe {
                    done.push(waiter);
                } else {
                    server.waiters.push_back(waiter);
                }
            }
            if server.waiters.is_empty() && server.unflushed.is_empty() {
                server.visible = server.visible.max(records);
            }
            self.committed(node, done, false);
            self.remove_wal(node);
            self.send_all(node);
        }
        if more {
            self.flush_soon(node);
        }
    }

    /// What no slot asks for goes, but for `wal_keep_size`.
    fn remove_wal(&mut self, node: usize) {
        let Some(pg) = self.nodes[node].disk.pg_mut() else { return };
        let slots = pg.slots.values().copied().flatten().min().unwrap_or(usize::MAX);
        let kept = slots.min(pg.flushed.saturating_sub(WAL_KEPT));
        if kept > pg.kept {
            pg.kept = kept;
            self.check_keeps(node, kept);
        }
    }

    /// The checkpointer wakes everybody who waits, if nobody has to wait any more (E3).
    fn defined(&mut self, node: usize) {
        let Some(server) = self.nodes[node].server.as_mut() else { return };
        server.defined = server.loaded.clone();
        if server.defined.acks() == 0 {
            let done = server.waiters.drain(..).collect();
            self.committed(node, done, false);
        }
    }

    /// The walsender of `standby` has an answer: whoever waits for no more than the rule it knows is released.
    pub fn release(&mut self, node: usize, standby: &flypg_core::names::NodeName) {
        let Some(server) = self.nodes[node].server.as_mut() else { return };
        let Some(upto) = server.released_by(standby) else { return };
        let mut done = Vec::new();
        while server.waiters.front().is_some_and(|waiter| waiter.at < upto) {
            done.extend(server.waiters.pop_front());
        }
        self.committed(node, done, false);
    }

    /// Somebody cancels one wait: success is told, with a warning, and the row is visible (E1).
    pub fn cancel_wait(&mut self, node: usize) -> bool {
        let Some(server) = self.nodes[node].server.as_mut() else { return false };
        let client = server.waiters.iter().position(|waiter| matches!(waiter.backend, Backend::Client { .. }));
        let Some(waiter) = client.and_then(|at| server.waiters.remove(at)) else { return false };
        self.committed(node, vec![waiter], true);
        true
    }

    fn committed(&mut self, node: usize, done: Vec<Waiter>, cancelled: bool) {
        for waiter in done {
            // A probe waits for nobody: it shows nothing of those that do.
            if let Some(server) = self.nodes[node].server.as_mut().filter(|_| waiter.backend != Backend::Probe) {
                server.visible = server.visible.max(waiter.at + 1);
            }
            let result = Result::Committed { at: waiter.at, serial: waiter.serial, cancelled };
            self.answer(node, waiter.backend, result);
        }
    }

    /// The agent reads what Postgres answers, as soon as it runs.
    fn answer(&mut self, node: usize, backend: Backend, result: Result) {
        if backend == Backend::Probe {
            if let Some(server) = self.nodes[node].server.as_mut() {
                server.probes += 1;
            }
            return;
        }
        if let Backend::Client { op, .. } = backend
            && self.setup.bare
        {
            self.answers.insert(op, result);
            return;
        }
        let delay = self.rng.tail(0..ms(1));
        self.to_agent(node, delay, AgentEvent::Answered { backend, result });
    }
}
