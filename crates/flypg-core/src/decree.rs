//! The record: who may lead a cluster, and under what terms.
//!
//! One compare-and-set cell per cluster. `None` means that nobody has ever been told to lead; from there a cluster is
//! bootstrapped once, and never again. What every node is told follows from the record, so that any controller can go
//! on where another one ended.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::failover::{Branch, Lineage, Permission, Rule};
use crate::names::NodeName;
use crate::protocol::Lsn;
use crate::spec::Profile;

/// One per attempt to decide who leads; only ever goes up, never used twice (FAILOVER P1, rule R1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// PostgreSQL's database system identifier: equal on every copy of one cluster. A decimal string on the wire, because
/// it does not fit a JSON number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SystemId(pub String);

/// What the record of a cluster says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decree {
    /// The highest epoch that was given out. Above [`Decree::reign`] while an attempt runs to find out who leads next:
    /// then nobody is granted a lease, and every node is recruited.
    pub epoch: Epoch,
    /// Goes up by one with every change of the record. Nodes refuse what follows from an earlier one.
    pub revision: u64,
    /// The only node that may accept writes.
    pub primary: NodeName,
    /// The epoch it leads in.
    pub reign: Epoch,
    /// How far its reign has come.
    pub stage: Stage,
    /// The identity of the cluster's data; absent only while they are made.
    pub system_id: Option<SystemId>,
    pub mode: CommitMode,
    /// The rule under which commits are acknowledged. With none ([`Rule::alone`]) in synchronous mode, only this
    /// primary may ever go on.
    pub rule: Rule,
    /// The rule that it is being changed to, or that a promotion under way acknowledges by: either may be in effect.
    pub joint: Option<Rule>,
    /// Rules that it was being changed to, before those whom they wait for were lost: they may be in effect somewhere
    /// still, until the one that is being changed to now is everywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub superseded: Vec<Rule>,
    /// Asynchronous mode: who may be promoted. Always part of what the primary has accepted as `pledgers`.
    pub candidates: BTreeSet<NodeName>,
    /// Asynchronous mode: whose pledges, all of them, hold the primary's lease up while no controller answers.
    pub pledgers: BTreeSet<NodeName>,
    /// Every node that was found to be a whole copy of this cluster, as it was then (rules R9, R17).
    pub members: BTreeMap<NodeName, Member>,
    pub lineage: Lineage,
    /// The highest timeline number that was ever authorised, used or not (rule R8).
    pub burnt: u32,
    /// The times that leases are given by.
    pub profile: Profile,
    /// The profile before it, while a lease of its length may still run.
    pub leaving: Option<Profile>,
    /// When automatic failovers were decided, newest last; what is older than an hour is dropped (rule R19).
    pub failovers: Vec<Timestamp>,
}

/// A node that counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Fly's id of its Machine: a volume that comes back in another one may be a restored snapshot.
    pub machine: String,
    /// Fly's id of its volume, where it was known: the same one in another Machine is no older than it was.
    #[serde(default)]
    pub volume: Option<String>,
    pub incarnation: u64,
    /// Its private address, where it was known: a list that lacks its Machine does not take it from its peers.
    #[serde(default)]
    pub address: Option<IpAddr>,
}

impl Member {
    /// Whether what runs in `machine`, on `volume`, is what was found to be a whole copy, and not an older state of it:
    /// in the same Machine, or on the same volume (rule R17).
    pub fn is_same(&self, machine: &str, volume: Option<&str>, incarnation: u64) -> bool {
        let same = self.machine == machine || volume.is_some() && volume == self.volume.as_deref();
        crate::mutant::off("R17") || same && incarnation >= self.incarnation
    }
}

/// Whether a commit waits for standbys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommitMode {
    /// By rule.
    Synchronous,
    /// Never.
    Asynchronous,
}

/// How far a reign has come. Each stage can be recognised from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Stage {
    /// `primary` may run `initdb`, once, on a blank volume, under this nonce (rule R15).
    Bootstrapping { nonce: String },
    /// `primary` was chosen, and has not confirmed its marker yet.
    Promoting { nonce: String, promotion: Promotion },
    /// `primary` led before, nobody else was promoted, and it is to go on under a new epoch. If it had been promoted and
    /// never confirmed that, by this: what that rests on still counts.
    Reaffirming { nonce: String, promotion: Option<Promotion> },
    /// `primary` leads.
    Established,
    /// `primary` leads, and is to give up in favour of `to` as soon as it is ready.
    HandingOver { to: NodeName },
}

/// A promotion that was decided and is not confirmed. Nothing but the position of its permission says what was
/// acknowledged before it (the seal); what is acknowledged from now on is acknowledged under the joint rule (rules R6,
/// R8, R10).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// The one that it was decided in: its candidate's markers are of this epoch or, re-affirmed, of later ones.
    pub epoch: Epoch,
    pub timeline: u32,
    pub permission: Permission,
}

impl Decree {
    /// The first record of a cluster: `primary` is to make its data, which run on timeline 1.
    pub fn first(primary: NodeName, nonce: String, mode: CommitMode, profile: Profile) -> Self {
        let epoch = Epoch(1);
        let branch = Branch { epoch, timeline: 1, start: Lsn(0), node: primary.clone() };
        Self {
            epoch,
            revision: 1,
            reign: epoch,
            stage: Stage::Bootstrapping { nonce: nonce.clone() },
            system_id: None,
            mode,
            rule: Rule::alone(),
            joint: None,
            superseded: Vec::new(),
            candidates: BTreeSet::new(),
            pledgers: BTreeSet::new(),
            members: BTreeMap::new(),
            lineage: Lineage::new(branch, nonce),
            burnt: 1,
            profile,
            leaving: None,
            failovers: Vec::new(),
            primary,
        }
    }

    /// The identity of the cluster's data, once there is any.
    pub fn system_id(&self) -> Option<&SystemId> {
        self.system_id.as_ref()
    }

    /// The promotion that this reign rests on, while it is not confirmed.
    pub fn promotion(&self) -> Option<&Promotion> {
        match &self.stage {
            Stage::Promoting { promotion, .. } => Some(promotion),
            Stage::Reaffirming { promotion, .. } => promotion.as_ref(),
            Stage::Bootstrapping { .. } | Stage::Established | Stage::HandingOver { .. } => None,
        }
    }

    /// An attempt runs to find out who leads next.
    pub fn is_electing(&self) -> bool {
        self.epoch > self.reign
    }

    /// The primary may be granted a lease: nobody is trying to replace it, and it has something to lead with.
    pub fn may_be_granted(&self) -> bool {
        !self.is_electing() && !matches!(self.stage, Stage::Bootstrapping { .. })
    }

    /// The nonce of the marker that the primary of this reign writes, or wrote.
    pub fn nonce(&self) -> Option<&str> {
        self.lineage.marker(self.reign)
    }

    /// Every rule that commits may be acknowledged by now. The partner of a promotion under way replaces all others:
    /// what those acknowledged is in the seal.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        let before = (self.promotion().is_none()).then(|| std::iter::once(&self.rule).chain(&self.superseded));
        before.into_iter().flatten().chain(&self.joint)
    }

    /// The rule that the primary is told to acknowledge by.
    pub fn rule_told(&self) -> &Rule {
        self.joint.as_ref().unwrap_or(&self.rule)
    }

    /// What the pledges must meet that hold the primary's lease up while no controller answers: each of these. With
    /// none, nobody else can be promoted without its own consent, and it needs no lease (FAILOVER §2, protocol §2.8).
    pub fn pledges(&self) -> Vec<Rule> {
        match self.mode {
            CommitMode::Synchronous => self.rules().filter(|rule| rule.acks() > 0).cloned().collect(),
            CommitMode::Asynchronous => Rule::any(self.pledgers.len(), self.pledgers.clone()).into_iter().collect(),
        }
    }

    /// Commits may be acknowledged, or a lease held up, because this node has promised or flushed something.
    pub fn counts(&self, node: &NodeName) -> bool {
        let in_rule = |rule: &Rule| rule.members().contains(node);
        in_rule(&self.rule) || self.rules().any(in_rule) || self.pledgers.contains(node)
    }

    /// The same record, changed once more.
    #[must_use]
    pub fn amended(&self, change: impl FnOnce(&mut Decree)) -> Self {
        let mut next = self.clone();
        next.revision += 1;
        change(&mut next);
        next
    }
}
