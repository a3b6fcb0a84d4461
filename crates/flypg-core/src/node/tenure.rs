//! What a node knows in this boot only: its lease, whether its marker is confirmed, and until when it has pledged.
//!
//! Nothing here is ever on disk, so every boot begins fenced (fence F4). Times are readings of this Machine's
//! `CLOCK_BOOTTIME`; everything that an agent does about leases and pledges goes through here, and so does the
//! simulation.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decree::Epoch;
use crate::failover::lease::{BootTime, Grant, Lease, Timing};
use crate::ledger::{Ledger, LedgerRole, Refusal};
use crate::names::{ClusterName, NodeName};
use crate::protocol::{Gate, Task, Terms};

/// A primary asks a member to promise that nobody is promoted for as long as a lease lasts from when this was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PledgeAsked {
    pub cluster: ClusterName,
    /// Who is asked: an address may have come to belong to someone else.
    pub node: NodeName,
    pub primary: NodeName,
    pub epoch: Epoch,
}

/// One round of asking every member for a pledge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    pub epoch: Epoch,
    /// When the questions left.
    pub sent: BootTime,
    /// What the answers must meet: as the assignment said when they left.
    pub terms: Terms,
    pub givers: BTreeSet<NodeName>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenure {
    boot: String,
    lease: Lease,
    /// The epoch whose marker the running Postgres has flushed under the rule (rules R10, R11).
    confirmed: Option<Epoch>,
    /// New transactions wait, for a switchover.
    holding: bool,
    /// No promise of a higher epoch before this.
    pledged_until: BootTime,
    /// When a controller's grant last counted.
    granted: Option<BootTime>,
    /// When this node took up the epoch that it leads in, in this boot.
    since: BootTime,
}

impl Tenure {
    /// A boot begins: fenced, and bound by whatever pledge the boot before it may have given (rule R5, "pledged").
    pub fn begin(boot: &str, ledger: &Ledger, now: BootTime, timing: &Timing) -> Self {
        let pledged_until = if ledger.pledged { after(now, timing.over_after()) } else { BootTime::default() };
        Self {
            boot: boot.to_owned(),
            lease: Lease::none(boot, ledger.promised),
            confirmed: None,
            holding: false,
            pledged_until,
            granted: None,
            since: now,
        }
    }

    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// The ledger has changed: a lease of another epoch than it leads in is worth nothing.
    pub fn follow(&mut self, ledger: &Ledger, now: BootTime) {
        let epoch = leads(ledger);
        if epoch != Some(self.lease.epoch()) {
            self.lease = Lease::none(&self.boot, epoch.unwrap_or(ledger.promised));
            self.granted = None;
            self.holding = false;
            self.since = now;
        }
        if self.confirmed != epoch {
            self.confirmed = None;
        }
    }

    /// A controller's grant. True if it counted.
    pub fn granted(&mut self, ledger: &Ledger, grant: &Grant, now: BootTime) -> bool {
        let counts = leads(ledger) == Some(grant.epoch) && self.lease.renew(grant);
        if counts {
            self.granted = Some(now);
        }
        counts
    }

    /// The round of pledges to ask for now, if it is time for one: this node leads, needs a lease, and no controller
    /// has granted one for two reports (protocol §2.7).
    pub fn round(&self, ledger: &Ledger, now: BootTime, timing: &Timing) -> Option<Round> {
        let terms = terms(ledger).filter(|terms| !terms.pledges.is_empty())?;
        let quiet = self.granted.is_none_or(|at| now.0.saturating_sub(at.0) >= timing.report * 2);
        let epoch = leads(ledger).filter(|epoch| *epoch == ledger.promised && quiet)?;
        Some(Round { epoch, sent: now, terms: terms.clone(), givers: BTreeSet::new() })
    }

    /// The answers to a round. True if they held the lease up: they met every rule that they had to when they were
    /// asked for, and that they have to now.
    pub fn pledges(&mut self, ledger: &Ledger, round: &Round, timing: &Timing) -> bool {
        let Some(now) = terms(ledger) else { return false };
        let met = round.terms.pledges.iter().chain(&now.pledges).all(|rule| rule.is_met_by(&round.givers));
        let some = !round.terms.pledges.is_empty();
        let grant = Grant { epoch: round.epoch, boot: self.boot.clone(), sent: round.sent, ttl: timing.ttl };
        met && some && leads(ledger) == Some(round.epoch) && self.lease.renew(&grant)
    }

    /// This node is asked for a pledge: the ledger to have on disk before it is given, or why not. A pledge that is
    /// given binds this node from `now` on, whether or not its answer arrives.
    pub fn pledge(
        &mut self,
        ledger: &Ledger,
        asked: &PledgeAsked,
        now: BootTime,
        timing: &Timing,
    ) -> Result<Ledger, Refusal> {
        if asked.cluster != ledger.cluster || asked.node != ledger.node {
            return Err(Refusal::OtherNode {
                mine: ledger.node.clone(),
                cluster: ledger.cluster.clone(),
                given: format!("node {} of cluster {}", asked.node, asked.cluster),
            });
        }
        let next = ledger.pledge(&asked.primary, asked.epoch)?;
        self.pledged_until = self.pledged_until.max(after(now, timing.over_after()));
        Ok(next)
    }

    /// How long this node is still bound by a pledge.
    pub fn pledged_for(&self, now: BootTime) -> Option<Duration> {
        let left = self.pledged_until.0.saturating_sub(now.0);
        (!left.is_zero()).then_some(left)
    }

    /// Whether a pledge lets this node promise a higher epoch now.
    pub fn may_promise(&self, ledger: &Ledger, epoch: Epoch, now: BootTime) -> Result<(), Refusal> {
        match self.pledged_for(now) {
            Some(left) if epoch > ledger.promised => Err(Refusal::Pledged { left }),
            _ => Ok(()),
        }
    }

    /// Postgres wrote the marker of `epoch`, and the rule has it.
    pub fn confirm(&mut self, epoch: Epoch) {
        self.confirmed = Some(epoch);
    }

    pub fn is_confirmed(&self, ledger: &Ledger) -> bool {
        leads(ledger).is_some_and(|epoch| self.confirmed == Some(epoch))
    }

    /// Postgres ended: what it recovers to has to be confirmed again (rule R11).
    pub fn postgres_ended(&mut self) {
        self.confirmed = None;
    }

    /// New transactions wait from now on, or go on.
    pub fn hold(&mut self, holding: bool) {
        self.holding = holding;
    }

    /// This node answers no more in its epoch: it gave up, or something is wrong that time does not mend.
    pub fn fence(&mut self) {
        self.lease.drop_now();
        self.confirmed = None;
        self.granted = None;
    }

    /// Until when answers of a primary may pass. `None`: not at all. [`BootTime::MAX`]: it needs no lease.
    ///
    /// To be compared with the clock after an answer is read and before it is forwarded (rule R3).
    pub fn passes_until(&self, ledger: &Ledger) -> Option<BootTime> {
        let epoch = leads(ledger).filter(|epoch| *epoch == ledger.promised && self.confirmed == Some(*epoch))?;
        let needs_none = terms(ledger).is_some_and(|terms| terms.pledges.is_empty());
        if needs_none { Some(BootTime::MAX) } else { Some(self.lease.end()).filter(|_| self.lease.epoch() == epoch) }
    }

    /// Whether a Postgres that would accept writes may run: its lease is valid, or it needs none. A primary that comes
    /// back does not write a byte before it knows that it still leads.
    pub fn may_run_primary(&self, ledger: &Ledger, now: BootTime) -> bool {
        let Some(epoch) = leads(ledger).filter(|epoch| *epoch == ledger.promised) else { return false };
        let Some(terms) = terms(ledger) else { return false };
        terms.pledges.is_empty() || self.lease.epoch() == epoch && self.lease.passes(now)
    }

    /// Whether a primary has been without a lease for longer than the grace: then its Postgres stops.
    pub fn is_grace_over(&self, ledger: &Ledger, now: BootTime, timing: &Timing) -> bool {
        let since = self.lease.end().max(self.since);
        !self.may_run_primary(ledger, now) && now.0.saturating_sub(since.0) >= timing.grace
    }

    /// The gate, as it is reported. `up`: Postgres answers.
    pub fn gate(&self, ledger: &Ledger, up: bool, now: BootTime) -> Gate {
        match self.passes_until(ledger) {
            _ if leads(ledger).is_none_or(|epoch| epoch != ledger.promised) => Gate::Fenced,
            _ if !up => Gate::Down,
            None => Gate::Unconfirmed,
            Some(end) if now >= end => Gate::Leaseless,
            Some(_) if self.holding => Gate::Holding,
            Some(_) => Gate::Open,
        }
    }
}

/// The epoch that this node leads in, if it leads.
fn leads(ledger: &Ledger) -> Option<Epoch> {
    match &ledger.role {
        LedgerRole::Primary { epoch, .. } | LedgerRole::Promoting { epoch, .. } => Some(*epoch),
        _ => None,
    }
}

/// What it leads under. A node that has just made the cluster's data needs nobody: there is no other copy.
fn terms(ledger: &Ledger) -> Option<Terms> {
    match &ledger.assignment.as_ref()?.task {
        Task::Bootstrap { nonce } => {
            Some(Terms { nonce: nonce.clone(), rule: crate::failover::Rule::alone(), pledges: Vec::new() })
        }
        task => task.terms().cloned(),
    }
}

fn after(at: BootTime, wait: Duration) -> BootTime {
    BootTime(at.0.saturating_add(wait))
}
