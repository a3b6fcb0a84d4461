//! How far a node's data have come, beside its ledger (rule R17).

use flypg_core::ledger::HighWater;
use flypg_core::node::Position;
use flypg_core::protocol::{End, Task};

use super::Agent;
use crate::time::{Time, secs};
use crate::wal::lsn;
use crate::world::World;

const EACH: Time = secs(5);

impl Agent {
    pub(super) fn lack_at_the_end(&self) -> Option<String> {
        let (_, end) = self.end.as_ref()?;
        self.high_water.lack_of(&end.history, end.lsn)
    }

    /// Where its data end, unless something is missing there.
    pub(super) fn whole_end(&self) -> Option<End> {
        let lacks = self.lost.is_some() || self.lack_at_the_end().is_some();
        self.end.as_ref().filter(|_| !lacks).map(|(_, end)| end.clone())
    }
}

impl World {
    pub(super) fn keep_high_water(&mut self, node: usize, change: impl FnOnce(&mut HighWater)) {
        let now = self.now;
        let Some(agent) = self.nodes[node].agent.as_mut() else { return };
        change(&mut agent.high_water);
        agent.marked = now;
        self.nodes[node].disk.high_water = agent.high_water;
    }

    pub(super) fn forget_reached(&mut self, node: usize) {
        self.keep_high_water(node, |high_water| high_water.reached = None);
        if let Some(agent) = self.agent(node) {
            agent.lost = None;
        }
    }

    /// A Postgres that would accept writes is about to start: what it recovers is what is there.
    pub(super) fn check_recovered(&mut self, node: usize) {
        let Some(pg) = self.nodes[node].disk.pg().filter(|pg| !pg.standby_signal) else { return };
        let (history, end) = (pg.history(pg.log.len(), &self.markers), lsn(pg.log.len()));
        let Some(agent) = self.nodes[node].agent.as_mut() else { return };
        if let Some(lack) = agent.high_water.lack_of(&history, end) {
            agent.lost = Some(lack);
            agent.tenure.fence();
        }
    }

    /// Takes note of how far the data are.
    pub(super) fn note_high_water(&mut self, node: usize) {
        let this = &self.nodes[node];
        let (Some(agent), Some(server), Some(pg)) = (&this.agent, &this.server, this.disk.pg()) else { return };
        if !server.is_up() || self.now < this.postgres_paused {
            return;
        }
        let (history, at) = (pg.history(pg.flushed, &self.markers), lsn(pg.flushed));
        let moved_on = match agent.ledger.assignment.as_ref().map(|told| &told.task) {
            Some(Task::Follow { lineage, .. }) => agent.high_water.is_left_behind(lineage, &history, at),
            _ => false,
        };
        let whole = match server.writes() {
            true => agent.lost.is_none(),
            false => moved_on || agent.high_water.is_in(&history, at),
        };
        if !whole {
            return;
        }
        let position = Position { timeline: pg.timeline, lsn: at };
        let due = self.now >= agent.marked + EACH || agent.high_water.reached.is_none();
        if let Some(agent) = self.agent(node) {
            agent.lost = None;
            agent.high_water = agent.high_water.reaching(position);
        }
        if due {
            self.keep_high_water(node, |_| ());
        }
    }
}
