//! A model of one PostgreSQL: what is written, flushed, visible, waited for. Each behaviour was seen on the real one;
//! the numbers in brackets are those of the experiments in the protocol.

mod commit;
mod life;
mod stream;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use flypg_core::failover::Rule;
use flypg_core::names::NodeName;

pub use commit::WAL_KEPT;
pub use stream::{Replication, StreamEvent};

use crate::time::Time;
use crate::wal::Record;

#[derive(Debug, Clone)]
pub enum ServerEvent {
    /// Recovery is over, or consistent: it answers.
    Up,
    /// So many records of the log are on disk now.
    Flushed {
        records: usize,
    },
    /// The checkpointer has read the configuration.
    Defined,
    /// The walsender of this standby has read the configuration.
    Viewed {
        standby: NodeName,
    },
    /// The receiver tries to connect.
    Connect,
    Replay,
    /// A shutdown looks whether it may end.
    Shutdown {
        deadline: Time,
    },
    Execute(Query),
}

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Client {
        id: usize,
        op: u64,
    },
    /// The agent's marker.
    Marker,
    /// Nobody: the agent's own probe.
    Probe,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query {
    Write(Backend),
    Read(Backend),
}

/// What a query came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Result {
    /// Committed, as this record at this place.
    Committed {
        at: usize,
        serial: u64,
        cancelled: bool,
    },
    /// So many records of the log were visible.
    Read {
        visible: usize,
        last: Option<(usize, u64)>,
    },
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Starting,
    Up,
    Stopping,
}

/// A commit that waits for standbys.
#[derive(Debug, Clone, Copy)]
pub struct Waiter {
    pub at: usize,
    pub serial: u64,
    pub backend: Backend,
}

#[derive(Debug)]
pub struct Server {
    pub life: u64,
    pub phase: Phase,
    pub recovery: bool,
    /// The upstream that the startup process was told of last.
    pub upstream: Option<NodeName>,
    /// The rule that the postmaster was told of last.
    pub loaded: Rule,
    /// The rule that the checkpointer goes by: with none, nobody waits.
    pub defined: Rule,
    pub receiver: Option<u64>,
    /// Received by this life's receiver.
    pub streamed: Option<usize>,
    pub replayed: usize,
    pub senders: BTreeMap<NodeName, Sender>,
    /// Whoever has streamed from it in this life.
    pub met: BTreeSet<NodeName>,
    /// Not on disk yet, in the order of the log.
    pub unflushed: VecDeque<Waiter>,
    pub waiters: VecDeque<Waiter>,
    /// Commits in so much of the log are visible.
    pub visible: usize,
    pub flushing: bool,
    pub replaying: bool,
    /// A connect attempt is on its way.
    pub connecting: bool,
    pub stranded: bool,
    pub roles: bool,
    /// Writes of the agent's own that came to their end.
    pub probes: u64,
}

/// A walsender, with its own view of the configuration (E25).
#[derive(Debug, Clone)]
pub struct Sender {
    pub connection: u64,
    pub view: Rule,
    pub flushed: usize,
    pub paused: Time,
}

impl Server {
    pub fn new(life: u64, recovery: bool, replayed: usize) -> Self {
        Self {
            life,
            phase: Phase::Starting,
            recovery,
            upstream: None,
            loaded: Rule::alone(),
            defined: Rule::alone(),
            receiver: None,
            streamed: None,
            replayed,
            senders: BTreeMap::new(),
            met: BTreeSet::new(),
            unflushed: VecDeque::new(),
            waiters: VecDeque::new(),
            visible: replayed,
            flushing: false,
            replaying: false,
            connecting: false,
            stranded: false,
            roles: false,
            probes: 0,
        }
    }

    pub fn is_up(&self) -> bool {
        self.phase == Phase::Up
    }

    pub fn writes(&self) -> bool {
        self.phase == Phase::Up && !self.recovery
    }

    /// The position up to which the rule of `by`'s walsender releases waiters, when that one gets an answer: every
    /// walsender says for itself whether its standby counts, and the one that releases says how many are needed (E25).
    pub fn released_by(&self, by: &NodeName) -> Option<usize> {
        let rule = &self.senders.get(by)?.view;
        if !rule.members().contains(by) {
            return None;
        }
        let counts = self.senders.iter().filter(|(name, sender)| sender.view.members().contains(*name));
        let mut flushed: Vec<usize> = counts.map(|(_, sender)| sender.flushed).collect();
        flushed.sort_unstable_by(|a, b| b.cmp(a));
        flushed.get(rule.acks().checked_sub(1)?).copied()
    }

    /// Whether everything up to `records` is on as many standbys as `rule` asks for.
    pub fn covers(&self, rule: &Rule, records: usize) -> bool {
        let have = self.senders.iter().filter(|(name, s)| rule.members().contains(*name) && s.flushed >= records);
        have.count() >= rule.acks()
    }
}

/// Backends that have lost their postmaster. They write on for a while, where they think that the log ends (E14).
#[derive(Debug, Clone, Copy)]
pub struct Leftover {
    pub number: u64,
    /// The place of their next record.
    pub at: usize,
    pub timeline: u32,
    pub until: Time,
}

/// A stretch of the log on its way.
#[derive(Debug, Clone)]
pub struct Stretch {
    pub from: usize,
    pub records: Vec<Record>,
}
