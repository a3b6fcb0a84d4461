//! Making a copy: clones and rewinds, with their ways to fail.

use flypg_core::names::NodeName;

use crate::disk::{Data, PgData};
use crate::time::wall;
use crate::world::World;

impl World {
    /// The data that `node` could copy from `from` now.
    fn source(&self, node: usize, from: &NodeName, writes: bool) -> std::result::Result<usize, String> {
        let index = self.index_of(from).ok_or("nobody of that name is known")?;
        if self.net.is_cut(node, index) || self.net.is_cut(index, node) {
            return Err("it cannot be reached".to_owned());
        }
        if !self.replication_passes(index, node) {
            return Err("its door is shut".to_owned());
        }
        let server = self.nodes[index].server.as_ref().filter(|server| server.is_up());
        let running = server.is_some_and(|server| !writes || server.writes());
        let stopped = self.nodes[index].postgres_paused.max(self.nodes[index].agent_paused) > self.now;
        if !running || stopped { Err("its Postgres does not answer".to_owned()) } else { Ok(index) }
    }

    pub(super) fn finish_clone(&mut self, node: usize, from: &NodeName, beside: bool) {
        let now = wall(self.now);
        let name = self.nodes[node].name.clone();
        let source = self.source(node, from, false);
        let copy = source.and_then(|index| {
            let pg = self.nodes[index].disk.pg().ok_or("it has no data")?;
            Ok(PgData::cloned(pg, from))
        });
        match copy {
            Ok(copy) => {
                if beside {
                    self.check_destroys(node, "is replaced by another copy");
                    self.end_postgres_with_machine(node);
                }
                self.nodes[node].disk.data = Data::Complete(Box::new(copy));
                if let Some(agent) = self.agent(node) {
                    agent.failed_makes.clear();
                    agent.rewind_failed = None;
                    agent.remade = beside;
                    agent.asked = None;
                    agent.end = None;
                }
            }
            Err(why) => {
                self.tell(|| format!("{name}: cannot clone {from}: {why}"));
                if let Some(agent) = self.agent(node) {
                    agent.failed_makes.push(now);
                }
            }
        }
    }

    /// `pg_rewind` up to 15 (E16, Patroni #2073): it compares the timelines of the last checkpoints only, and where
    /// they are equal it finds nothing to do.
    pub fn rewound(&self, node: usize, from: &NodeName) -> std::result::Result<Option<Box<PgData>>, String> {
        self.source(node, from, true).and_then(|index| {
            let (Some(source), Some(target)) = (self.nodes[index].disk.pg(), self.nodes[node].disk.pg()) else {
                return Err("there are no data".to_owned());
            };
            if target.mixed && self.nodes[node].agent.as_ref().is_some_and(|agent| !agent.rewinds) {
                return Err("the data are half of each".to_owned());
            }
            if source.checkpoint == target.timeline {
                return Ok(None);
            }
            // The last point that both histories share, by their files.
            let ways = |pg: &PgData| {
                let mut way: Vec<(u32, usize)> =
                    pg.switches().iter().map(|s| (s.timeline, (s.at.0 / crate::wal::RECORD) as usize)).collect();
                way.push((pg.timeline, usize::MAX));
                way
            };
            let (ours, theirs) = (ways(target), ways(source));
            let shared = ours.iter().zip(&theirs).take_while(|(a, b)| a.0 == b.0).last();
            if shared.is_none() {
                return Err("no common history".to_owned());
            }
            Ok(Some(Box::new(PgData::cloned(source, from))))
        })
    }

    pub(super) fn finish_rewind(&mut self, node: usize, from: &NodeName) {
        let name = self.nodes[node].name.clone();
        let mut result = self.rewound(node, from);
        if let Some(agent) = self.agent(node) {
            agent.rewinds = false;
        }
        if self.rng.chance(500) {
            result = Err("it was cut in the middle".to_owned());
        }
        if matches!(result, Ok(None)) && self.look(node).is_some_and(|local| local.astray.is_some()) {
            result = Err("it finds nothing to do, and the data went another way".to_owned());
        }
        match result {
            Ok(Some(copy)) => {
                let origin = self.nodes[node].disk.pg().and_then(|pg| pg.origin.clone());
                self.nodes[node].disk.data = Data::Complete(Box::new(PgData { origin, ..*copy }));
                if let Some(agent) = self.agent(node) {
                    (agent.rewind_failed, agent.remade, agent.end) = (None, true, None);
                }
            }
            Ok(None) => {
                self.tell(|| format!("{name}: pg_rewind finds nothing to do"));
                if let Some(pg) = self.nodes[node].disk.pg_mut() {
                    pg.standby_signal = true;
                }
                if let Some(agent) = self.agent(node) {
                    (agent.rewind_failed, agent.remade) = (None, true);
                }
            }
            Err(why) => {
                self.tell(|| format!("{name}: cannot rewind to {from}: {why}"));
                if let Some(agent) = self.agent(node) {
                    agent.rewind_failed = Some(why);
                }
            }
        }
    }
}
