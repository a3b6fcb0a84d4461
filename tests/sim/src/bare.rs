//! The model of PostgreSQL by itself, worked by hand: no agents, no controllers, no clients, and nobody who says what
//! must never happen. The conformance tests run the same scripts here and on the real one.

use std::collections::BTreeMap;

use flypg_core::decree::SystemId;
use flypg_core::failover::Rule;
use flypg_core::names::NodeName;

use crate::disk::{Data, PgData};
use crate::postgres::{Backend, Result};
use crate::setup::Setup;
use crate::time::{Time, ms, secs};
use crate::wal::What;
use crate::world::World;

/// Longer than anything here takes, but for what waits for something that does not come.
const SETTLED: Time = secs(2);
const MOST: Time = secs(60);

#[derive(Debug)]
pub struct Bare {
    world: World,
    /// The rows that were ever written, by the serial of their records.
    rows: BTreeMap<u64, String>,
    writes: BTreeMap<String, (u64, usize)>,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    Acknowledged,
    /// Success, with the warning that it may not be on any standby.
    Cancelled,
    /// It is in the log and waits for standbys.
    Waits,
    /// The session ended without an answer.
    Unanswered,
    Refused,
}

/// What `pg_rewind` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewound {
    Rewound,
    NothingToDo,
    Impossible,
}

impl Bare {
    /// A database system on the first of so many nodes, and nothing on the others.
    pub fn new(nodes: usize) -> Self {
        let mut world = World::new(Setup::bare(nodes), false);
        let system = PgData::initialised(SystemId("7".to_owned()), "n");
        world.nodes[0].disk.data = Data::Complete(Box::new(system));
        Self { world, rows: BTreeMap::new(), writes: BTreeMap::new() }
    }

    fn name(&self, node: usize) -> NodeName {
        self.world.nodes[node].name.clone()
    }

    fn pg(&mut self, node: usize) -> &mut PgData {
        self.world.nodes[node].disk.pg_mut().expect("it has data")
    }

    fn pass(&mut self, time: Time) {
        let until = self.world.now + time;
        self.world.run_until(until);
    }

    /// Time passes until `done`; false if that does not come.
    fn until(&mut self, most: Time, done: impl Fn(&mut Self) -> bool) -> bool {
        let end = self.world.now + most;
        while !done(self) {
            if self.world.now >= end {
                return false;
            }
            self.pass(ms(5));
        }
        true
    }

    pub fn start(&mut self, node: usize) {
        self.world.start_postgres(node);
        assert!(self.until(MOST, |s| s.world.nodes[node].server.as_ref().is_some_and(|server| server.is_up())));
    }

    pub fn begin_stop(&mut self, node: usize) {
        self.world.stop_postgres(node, MOST);
    }

    pub fn stops(&mut self, node: usize) -> bool {
        self.until(SETTLED, |s| s.world.nodes[node].server.is_none())
    }

    pub fn kill(&mut self, node: usize) {
        self.world.kill_postgres(node);
    }

    pub fn freeze(&mut self, node: usize) {
        self.world.nodes[node].postgres_paused = self.world.now + SETTLED * 2;
    }

    pub fn thaw(&mut self, node: usize) {
        let end = self.world.nodes[node].postgres_paused;
        self.world.run_until(end + ms(1));
    }

    pub fn copy(&mut self, from: usize, to: usize) {
        let upstream = self.name(from);
        let copy = PgData::cloned(self.pg(from), &upstream);
        self.world.nodes[to].disk.data = Data::Complete(Box::new(copy));
    }

    pub fn make_slot(&mut self, node: usize, standby: usize) {
        let (slot, flushed) = (self.name(standby).slot(), self.pg(node).flushed);
        self.pg(node).slots.insert(slot, Some(flushed));
    }

    pub fn drop_slot(&mut self, node: usize, standby: usize) {
        let slot = self.name(standby).slot();
        self.pg(node).slots.remove(&slot);
    }

    pub fn set_upstream(&mut self, node: usize, upstream: Option<usize>) {
        let upstream = upstream.map(|upstream| self.name(upstream));
        self.pg(node).conf.upstream = upstream;
        self.world.reload(node);
    }

    pub fn set_standby(&mut self, node: usize, standby: bool) {
        self.pg(node).standby_signal = standby;
    }

    pub fn set_rule(&mut self, node: usize, acks: usize, of: &[usize]) {
        let members = of.iter().map(|member| self.name(*member)).collect();
        self.pg(node).conf.rule = if acks == 0 { Rule::alone() } else { Rule::any(acks, members).expect("a rule") };
        self.world.reload(node);
        self.pass(ms(200));
    }

    pub fn streams(&mut self, node: usize) -> bool {
        self.until(SETTLED, |s| s.world.nodes[node].server.as_ref().is_some_and(|server| server.receiver.is_some()))
    }

    /// What a receiver says that it has is all that is there.
    pub fn knows_received(&mut self, node: usize) -> bool {
        let have = self.pg(node).log.len();
        self.world.nodes[node].server.as_ref().is_some_and(|server| server.streamed == Some(have))
    }

    pub fn write(&mut self, node: usize, row: &str) {
        let op = self.writes.len() as u64;
        self.writes.insert(row.to_owned(), (op, node));
        if !self.world.nodes[node].server.as_ref().is_some_and(|server| server.writes()) {
            self.world.answers.insert(op, Result::Failed);
            return;
        }
        self.world.write(node, Backend::Client { id: 0, op }, What::Write);
        let serial = self.pg(node).log.slice(0, usize::MAX).last().expect("it was written").serial;
        self.rows.insert(serial, row.to_owned());
    }

    pub fn written(&mut self, row: &str) -> Written {
        let (op, node) = self.writes[row];
        self.until(SETTLED, |s| s.world.answers.contains_key(&op) || s.world.nodes[node].server.is_none());
        match self.world.answers.get(&op) {
            Some(Result::Committed { cancelled: true, .. }) => Written::Cancelled,
            Some(Result::Committed { .. }) => Written::Acknowledged,
            Some(_) => Written::Refused,
            None if self.world.nodes[node].server.is_some() => Written::Waits,
            None => Written::Unanswered,
        }
    }

    pub fn cancel_wait(&mut self, node: usize) {
        assert!(self.world.cancel_wait(node), "nobody waits");
    }

    pub fn rows(&mut self, node: usize) -> Vec<String> {
        self.pass(SETTLED / 4);
        let server = self.world.nodes[node].server.as_ref().expect("it runs");
        let visible = if server.recovery { server.replayed } else { server.visible };
        let records = self.world.nodes[node].disk.pg().expect("it has data").log.slice(0, visible);
        let mut rows: Vec<_> = records.iter().filter_map(|record| self.rows.get(&record.serial).cloned()).collect();
        rows.sort();
        rows
    }

    pub fn promote(&mut self, node: usize, stubs: &[u32]) -> u32 {
        let timeline = self.world.promote(node, stubs).expect("a standby that runs");
        self.pass(ms(100));
        timeline
    }

    pub fn timeline(&mut self, node: usize) -> u32 {
        self.pg(node).timeline
    }

    pub fn checkpoint(&mut self, node: usize) {
        let pg = self.pg(node);
        pg.checkpoint = pg.timeline;
    }

    /// `node` is stopped.
    pub fn rewind(&mut self, node: usize, from: usize) -> Rewound {
        let name = self.name(from);
        match self.world.rewound(node, &name) {
            Ok(Some(copy)) => {
                self.world.nodes[node].disk.data = Data::Complete(copy);
                Rewound::Rewound
            }
            Ok(None) => Rewound::NothingToDo,
            Err(_) => Rewound::Impossible,
        }
    }

    /// So much is written that what nobody asks for is not kept.
    pub fn wear_out_wal(&mut self, node: usize) {
        for _ in 0..crate::postgres::WAL_KEPT * 3 {
            self.world.write(node, Backend::Probe, What::Noise);
            self.pass(ms(10));
        }
    }

    /// The postmaster is killed, and nothing else: true if something is written after that.
    pub fn writes_without_postmaster(&mut self, node: usize) -> bool {
        let before = self.pg(node).log.len();
        self.world.kill_postmaster(node);
        let written = self.until(SETTLED, |s| s.pg(node).log.len() > before);
        self.world.end_leftover(node);
        written
    }
}
