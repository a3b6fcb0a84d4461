//! Synchronous replication without clocks: may an acknowledged commit, or one that a reader saw, be missing on the
//! primary that leads now?
//!
//! Three nodes, two controllers with one compare-and-set record, crashes, acknowledgements in flight, walsenders that
//! read their configuration late, changes of the rule, promotions, rewinds.

mod controllers;
mod nodes;

use crate::search::Machine;

pub(crate) const NODES: usize = 3;
/// Entries of WAL per node.
pub(crate) const ENTRIES: usize = 6;

/// What is left out of the protocol (the numbers are those of its rules).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Nothing.
    None,
    /// Any member of the recorded set may be promoted (R6).
    AnyMember,
    /// A new rule is recorded first and configured then, with nothing joint between (R13).
    RecordThenConfigure,
    /// A new rule is configured first and recorded then (R13).
    ConfigureThenRecord,
    /// A promise is kept in memory only (R5).
    VolatilePromise,
    /// A node reports its position and stops its receiver afterwards (R5).
    ReportBeforeStop,
    /// A decision is not a compare-and-set on the record (R1).
    NoCompareAndSet,
    /// The rule switches with the decision, before its marker is flushed (R10).
    SwitchAtDecide,
    /// A primary that crashed opens again before its recovered WAL is on the quorum (R11).
    OpenAfterCrash,
    /// Positions are compared without their lineage (R9).
    NoLineage,
    /// A change of rule is final before the entries of the old rule are on the new quorum (R13).
    UncoveredChange,
    /// A rule counts as in effect once a fresh session shows it, whatever older walsenders use (R13).
    FreshSession,
    /// A standby acknowledges what it has written and not flushed (R14).
    AckOnWrite,
}

impl Mutant {
    /// Every rule that can be left out.
    pub const ALL: [Mutant; 12] = [
        Mutant::AnyMember,
        Mutant::RecordThenConfigure,
        Mutant::ConfigureThenRecord,
        Mutant::VolatilePromise,
        Mutant::ReportBeforeStop,
        Mutant::NoCompareAndSet,
        Mutant::SwitchAtDecide,
        Mutant::OpenAfterCrash,
        Mutant::NoLineage,
        Mutant::UncoveredChange,
        Mutant::FreshSession,
        Mutant::AckOnWrite,
    ];
}

/// The machine, with how much may happen in it.
#[derive(Debug, Clone, Copy)]
pub struct Wal {
    pub mutant: Mutant,
    /// The highest epoch that a controller may take.
    pub epochs: u8,
    pub crashes: u8,
    pub rule_changes: u8,
    /// Client writes per epoch.
    pub writes: u8,
}

/// A set of nodes, a bit each.
pub(crate) type Set = u8;

pub(crate) fn with(node: usize) -> Set {
    1 << node
}

pub(crate) fn size(set: Set) -> u8 {
    set.count_ones() as u8
}

/// Any `acks` of `members`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Rule {
    pub(crate) acks: u8,
    pub(crate) members: Set,
}

impl Rule {
    /// The WAL fence: no commit can be acknowledged under this rule once these have promised.
    pub(crate) fn is_revoked_by(self, recruits: Set, primary: usize) -> bool {
        recruits & with(primary) != 0 || self.acks > 0 && size(recruits & self.members) > size(self.members) - self.acks
    }
}

/// An entry of WAL: the epoch it was written in, and a number in it. 0 is the marker of the promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Entry(u8);

impl Entry {
    pub(crate) fn new(epoch: u8, number: u8) -> Self {
        Self(epoch * 8 + number)
    }

    pub(crate) fn epoch(self) -> u8 {
        self.0 / 8
    }

    pub(crate) fn is_marker(self) -> bool {
        self.0.is_multiple_of(8)
    }

    pub(crate) fn bit(self) -> u64 {
        1 << self.0
    }
}

/// The end of a node's WAL: the epoch of its last entry, and how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Position {
    pub(crate) epoch: u8,
    pub(crate) length: u8,
}

/// A flush acknowledgement under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ack {
    pub(crate) to: u8,
    /// The epoch of the stream it belongs to.
    pub(crate) epoch: u8,
    pub(crate) length: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub(crate) wal: [Entry; ENTRIES],
    pub(crate) length: u8,
    /// So many entries survive a crash.
    pub(crate) durable: u8,
    pub(crate) up: bool,
    /// The epoch it leads in.
    pub(crate) leads: Option<u8>,
    pub(crate) promised: u8,
    pub(crate) follows: Option<u8>,
    pub(crate) ack: Option<Ack>,
    /// How much each standby has flushed, as far as this primary knows.
    pub(crate) flushed: [u8; NODES],
    /// The rule that a fresh session shows, and the one in the file.
    pub(crate) rule: Rule,
    pub(crate) file: Rule,
    /// The rule of a walsender that has not read the file since it changed.
    pub(crate) old_walsender: Option<Rule>,
    /// So many entries are visible to readers.
    pub(crate) visible: u8,
}

impl Node {
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.wal[..self.length as usize]
    }

    pub(crate) fn position(&self) -> Position {
        let epoch = self.entries().last().map_or(0, |entry| entry.epoch());
        Position { epoch, length: self.length }
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        self.wal[self.length as usize] = entry;
        self.length += 1;
    }

    pub(crate) fn truncate(&mut self, length: u8) {
        self.wal[length as usize..].fill(Entry::default());
        self.length = length;
        self.durable = self.durable.min(length);
    }

    fn holds(&self) -> u64 {
        self.entries().iter().fold(0, |all, entry| all | entry.bit())
    }

    /// Everything that a node forgets when it stops leading or following.
    pub(crate) fn lay_down(&mut self) {
        self.leads = None;
        self.follows = None;
        self.visible = 0;
        self.old_walsender = None;
        self.flushed = [0; NODES];
    }
}

/// What a controller does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Controller {
    #[default]
    Idle,
    Recruiting {
        epoch: u8,
        reports: [Option<Report>; NODES],
    },
    Promoting {
        epoch: u8,
        candidate: u8,
        rule: Rule,
    },
}

/// What a recruit said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Report {
    pub(crate) position: Position,
    /// Its receiver has stopped.
    pub(crate) stopped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    pub(crate) nodes: [Node; NODES],
    pub(crate) controllers: [Controller; 2],
    // The record.
    pub(crate) epoch: u8,
    pub(crate) primary: u8,
    pub(crate) rule: Rule,
    pub(crate) joint: Option<Rule>,
    pub(crate) seal: Option<Position>,
    pub(crate) established: bool,
    // What the world knows.
    acknowledged: u64,
    shown: u64,
    crashes: u8,
    rule_changes: u8,
    highest_promoted: u8,
}

impl State {
    pub(crate) fn acknowledge(&mut self, entry: Entry) {
        if !entry.is_marker() {
            self.acknowledged |= entry.bit();
        }
        self.shown |= entry.bit();
    }
}

impl Machine for Wal {
    type State = State;

    /// Node 0 leads in epoch 1, with any one of the two others; all have its marker.
    fn start(&self) -> State {
        let marker = Entry::new(1, 0);
        let mut node = Node {
            wal: [Entry::default(); ENTRIES],
            length: 0,
            durable: 1,
            up: true,
            leads: None,
            promised: 1,
            follows: None,
            ack: None,
            flushed: [0; NODES],
            rule: Rule::default(),
            file: Rule::default(),
            old_walsender: None,
            visible: 0,
        };
        node.push(marker);
        let rule = Rule { acks: 1, members: with(1) | with(2) };
        let primary = Node { leads: Some(1), rule, file: rule, visible: 1, ..node };
        State {
            nodes: [primary, node, node],
            controllers: [Controller::Idle; 2],
            epoch: 1,
            primary: 0,
            rule,
            joint: None,
            seal: None,
            established: true,
            acknowledged: 0,
            shown: 0,
            crashes: 0,
            rule_changes: 0,
            highest_promoted: 1,
        }
    }

    fn next(&self, state: &State, step: &mut dyn FnMut(String, State)) {
        for i in 0..NODES {
            if state.nodes[i].up {
                if let Some(epoch) = state.nodes[i].leads {
                    self.primary_acts(state, i, epoch, step);
                }
                self.node_acts(state, i, step);
            } else {
                self.node_starts(state, i, step);
            }
        }
        for c in 0..2 {
            self.controller_acts(state, c, step);
        }
    }

    /// The primary of the highest epoch ever promoted must hold everything that was acknowledged or shown. One of an
    /// older epoch may run on and be read from: that is the lease's matter.
    fn wrong(&self, s: &State) -> Option<String> {
        let mut leaders: Vec<(u8, usize)> =
            s.nodes.iter().enumerate().filter_map(|(i, node)| Some((node.leads?, i))).collect();
        leaders.sort_unstable();
        if leaders.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Some("two primaries in one epoch".to_owned());
        }
        let (_, top) = *leaders.last().filter(|(epoch, _)| *epoch == s.highest_promoted)?;
        let holds = s.nodes[top].holds();
        if s.acknowledged & !holds != 0 {
            return Some(format!("an acknowledged commit is missing on n{top}, which leads"));
        }
        (s.shown & !holds != 0).then(|| format!("a commit that was read is missing on n{top}, which leads"))
    }
}
