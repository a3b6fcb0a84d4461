//! What a node knows in this boot only: its lease, whether its marker is confirmed, and until when it has pledged.
//!
//! Nothing here is ever on disk, so every boot begins fenced (fence F4). Times are readings of this Machine's
//! `CLOCK_BOOTTIME`; everything that an agent does about leases and pledges goes through here, and so does the
//! simulation.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decree::Epoch;
use crate::failover::Rule;
use crate::failover::lease::{BootTime, Grant, Lease, Timing};
use crate::ledger::{Ledger, LedgerRole, Refusal};
use crate::mutant;
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
    /// How long the lease lasts that the pledge is to hold up. Whoever is asked may go by other times.
    pub ttl: Duration,
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
    /// As the questions say.
    pub ttl: Duration,
}

impl Round {
    /// What is asked, and of whom.
    pub fn questions(&self, ledger: &Ledger) -> Vec<PledgeAsked> {
        let members: BTreeSet<&NodeName> = self.terms.pledges.iter().flat_map(Rule::members).collect();
        let ask = |node: &NodeName| PledgeAsked {
            cluster: ledger.cluster.clone(),
            node: node.clone(),
            primary: ledger.node.clone(),
            epoch: self.epoch,
            ttl: self.ttl,
        };
        members.into_iter().filter(|node| **node != ledger.node).map(ask).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenure {
    boot: String,
    /// The epoch that the node leads in, if it leads. All below it is about this epoch.
    leads: Option<Epoch>,
    /// When it took that up, or came to need another lease for it, in this boot.
    since: BootTime,
    /// What pledges had to meet when the ledger was last followed; with none it needs no lease.
    needs: Vec<Rule>,
    /// What controllers granted.
    lease: Lease,
    /// What members' pledges hold up.
    upheld: Option<Upheld>,
    /// When a controller's grant last made the lease longer.
    granted: Option<BootTime>,
    /// The marker of the epoch was flushed under the rule by the running Postgres (rules R10, R11).
    confirmed: bool,
    /// How often Postgres has ended in this boot.
    life: u64,
    /// It answers no more in this epoch, whatever comes.
    fenced: bool,
    /// New transactions wait, for a switchover.
    holding: bool,
    /// No promise of a higher epoch before this.
    pledged_until: BootTime,
}

/// A lease for as long as those who gave pledges meet what the assignment says now: it may say something else than when
/// they were asked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Upheld {
    givers: BTreeSet<NodeName>,
    end: BootTime,
}

impl Tenure {
    /// A boot begins: fenced, and bound by whatever pledge the boot before it may have given (rule R5, "pledged").
    pub fn begin(boot: &str, ledger: &Ledger, now: BootTime) -> Self {
        let leads = leads(ledger);
        Self {
            boot: boot.to_owned(),
            leads,
            since: now,
            needs: needs(ledger),
            lease: Lease::none(boot, leads.unwrap_or(ledger.promised)),
            upheld: None,
            granted: None,
            confirmed: false,
            life: 0,
            fenced: false,
            holding: false,
            pledged_until: ledger.pledged.map_or(BootTime::default(), |binds| after(now, binds)),
        }
    }

    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// The ledger has changed: a lease of another epoch than it leads in is worth nothing.
    pub fn follow(&mut self, ledger: &Ledger, now: BootTime) {
        let leads = leads(ledger);
        let needs = needs(ledger);
        if leads != self.leads || needs != self.needs {
            self.since = now;
        }
        self.needs = needs;
        if leads != self.leads {
            self.leads = leads;
            self.lease = Lease::none(&self.boot, leads.unwrap_or(ledger.promised));
            (self.upheld, self.granted) = (None, None);
            self.confirmed = leads.is_some() && mutant::off("R10");
            self.fenced = false;
        }
        // A switchover that was called off lets everybody go on.
        let hands_over = ledger.assignment.as_ref().is_some_and(|told| matches!(told.task, Task::HandOver { .. }));
        self.holding &= hands_over;
    }

    /// A controller's grant. True if it counted: it is for this epoch and this boot, which sent the report it answers.
    pub fn granted(&mut self, ledger: &Ledger, grant: &Grant, now: BootTime) -> bool {
        let arrival = Grant { sent: now, boot: self.boot.clone(), ..grant.clone() };
        let grant = if mutant::off("R2") { &arrival } else { grant };
        let before = self.lease.end();
        let counts = self.leading(ledger) == Some(grant.epoch) && grant.sent <= now && self.lease.renew(grant);
        // One that comes late, or twice, says nothing about how the controller is now.
        if counts && self.lease.end() > before {
            self.granted = Some(now);
        }
        counts
    }

    /// The round of pledges to ask for now, if it is time for one: this node leads, needs a lease, and no controller
    /// has granted one for two reports (protocol §2.7).
    pub fn round(&self, ledger: &Ledger, now: BootTime, timing: &Timing) -> Option<Round> {
        let terms = terms(ledger).filter(|terms| !terms.pledges.is_empty())?;
        let epoch = self.leading(ledger)?;
        // Also counted from when the reign, or this boot, began: whoever pledges cannot be recruited for a while, and a
        // controller that is there would rather recruit for a primary that comes back than wait for it.
        let heard = self.granted.unwrap_or(self.since).max(self.since);
        let quiet = now.0.saturating_sub(heard.0) >= timing.report * 2;
        quiet.then(|| Round { epoch, sent: now, terms, givers: BTreeSet::new(), ttl: timing.ttl })
    }

    /// The answers to a round. True if they held the lease up: they met every rule that they had to when they were
    /// asked for, and that they have to now.
    pub fn pledges(&mut self, ledger: &Ledger, round: &Round) -> bool {
        let asked = &round.terms.pledges;
        let met = !asked.is_empty() && asked.iter().all(|rule| rule.is_met_by(&round.givers));
        let upheld = Upheld { givers: round.givers.clone(), end: after(round.sent, round.ttl) };
        let counts = met && self.leading(ledger) == Some(round.epoch) && upheld.meets(ledger);
        // An earlier round that comes later does not take anything away.
        if counts && self.upheld.as_ref().is_none_or(|now| !now.meets(ledger) || now.end < upheld.end) {
            self.upheld = Some(upheld);
        }
        counts
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
        let binds = Timing { ttl: asked.ttl.max(timing.ttl), ..*timing }.over_after();
        let next = ledger.pledge(&asked.primary, asked.epoch, binds)?;
        self.pledged_until = self.pledged_until.max(after(now, binds));
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

    /// Which Postgres runs, as [`Tenure::confirm`] wants it: to be taken before the marker is written.
    pub fn life(&self) -> u64 {
        self.life
    }

    /// The Postgres of this life wrote the marker of `epoch`, and the rule has it. True if that counted: a word of one
    /// that has ended since says nothing about what came up after it (rule R11).
    pub fn confirm(&mut self, ledger: &Ledger, epoch: Epoch, life: u64) -> bool {
        let counts = self.leading(ledger) == Some(epoch) && life == self.life;
        self.confirmed |= counts;
        counts
    }

    pub fn is_confirmed(&self, ledger: &Ledger) -> bool {
        self.confirmed && self.leading(ledger).is_some()
    }

    /// Postgres ended: what it recovers to has to be confirmed again (rule R11).
    pub fn postgres_ended(&mut self) {
        self.life += 1;
        if !mutant::off("R11") {
            self.confirmed = false;
        }
    }

    /// New transactions wait from now on, or go on.
    pub fn hold(&mut self, holding: bool) {
        self.holding = holding;
    }

    /// This node answers no more in its epoch: it gave up, or something is wrong that time does not mend. No grant and
    /// no pledge changes that; another epoch does.
    pub fn fence(&mut self) {
        self.fenced = true;
        self.confirmed = false;
        self.lease.drop_now();
        (self.upheld, self.granted) = (None, None);
    }

    /// Until when answers of a primary may pass. `None`: not at all. [`BootTime::MAX`]: it needs no lease.
    ///
    /// To be compared with the clock after an answer is read and before it is forwarded (rule R3).
    pub fn passes_until(&self, ledger: &Ledger) -> Option<BootTime> {
        let confirmed = self.confirmed || mutant::off("R3");
        self.leading(ledger).filter(|_| confirmed).and_then(|_| self.lease_end(ledger))
    }

    /// Whether a Postgres that would accept writes may run: its lease is valid, or it needs none. A primary that comes
    /// back does not write a byte before it knows that it still leads.
    pub fn may_run_primary(&self, ledger: &Ledger, now: BootTime) -> bool {
        self.lease_end(ledger).is_some_and(|end| now < end)
    }

    /// Whether a primary has been without a lease for longer than the grace: then its Postgres stops.
    pub fn is_grace_over(&self, ledger: &Ledger, now: BootTime, timing: &Timing) -> bool {
        let since = self.lease_end(ledger).unwrap_or_default().max(self.since);
        !self.may_run_primary(ledger, now) && now.0.saturating_sub(since.0) >= timing.grace
    }

    /// When the lease ends that this node leads by; for ever if it needs none. `None` if it does not lead.
    fn lease_end(&self, ledger: &Ledger) -> Option<BootTime> {
        self.leading(ledger)?;
        if terms(ledger)?.pledges.is_empty() {
            return Some(BootTime::MAX);
        }
        let upheld = self.upheld.as_ref().filter(|upheld| upheld.meets(ledger)).map(|upheld| upheld.end);
        Some(self.lease.end().max(upheld.unwrap_or_default()))
    }

    /// The epoch that this node leads in, and has promised, and has not given up.
    fn leading(&self, ledger: &Ledger) -> Option<Epoch> {
        let followed = |epoch: &Epoch| self.leads == Some(*epoch) && *epoch == ledger.promised;
        leads(ledger).filter(|epoch| followed(epoch) && !self.fenced)
    }

    /// The gate, as it is reported. `up`: Postgres answers.
    pub fn gate(&self, ledger: &Ledger, up: bool, now: BootTime) -> Gate {
        match self.passes_until(ledger) {
            _ if self.leading(ledger).is_none() => Gate::Fenced,
            _ if !up => Gate::Down,
            None => Gate::Unconfirmed,
            Some(end) if now >= end => Gate::Leaseless,
            Some(_) if self.holding => Gate::Holding,
            Some(_) => Gate::Open,
        }
    }
}

impl Upheld {
    /// Those who gave pledges meet all that the assignment asks for now.
    fn meets(&self, ledger: &Ledger) -> bool {
        terms(ledger).is_some_and(|terms| terms.pledges.iter().all(|rule| rule.is_met_by(&self.givers)))
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
        Task::Bootstrap { nonce } => Some(Terms { nonce: nonce.clone(), rule: Rule::alone(), pledges: Vec::new() }),
        task => task.terms().cloned(),
    }
}

/// Without which of these somebody else could be promoted: none if nobody can be without its consent.
fn needs(ledger: &Ledger) -> Vec<Rule> {
    terms(ledger).map(|terms| terms.pledges).unwrap_or_default()
}

fn after(at: BootTime, wait: Duration) -> BootTime {
    BootTime(at.0.saturating_add(wait))
}

#[cfg(test)]
mod tests;
