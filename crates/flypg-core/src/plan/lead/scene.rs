//! What is known of everybody who matters to who leads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::Timestamp;
use crate::decree::{Decree, Member, Stage};
use crate::failover::lease::{Mono, Timing};
use crate::failover::{Branch, Lineage, Way};
use crate::names::NodeName;
use crate::observed::{Order, Pulse, Watch};
use crate::plan::World;
use crate::plan::census::{Census, Membership, Node};
use crate::protocol::{End, Leading, NodeReport, PgRole, Standing};
use crate::spec::ClusterSpec;

/// A disk that is used to so many percent keeps the next primary from working too.
const DISK_FULL_PERCENT: u64 = 95;
/// A standby that is no further behind than this counts (protocol §2.6).
const LAG_MAX: u64 = 16 << 20;

#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) spec: &'a ClusterSpec,
    pub(super) census: &'a Census<'a>,
    pub(super) membership: &'a Membership,
    pub(super) decree: &'a Decree,
    pub(super) watch: &'a Watch,
    pub(super) now: Timestamp,
}

impl<'a> Scene<'a> {
    /// What a sub-plan looks at, under this decree.
    pub(super) fn of(world: &World<'a>, decree: &'a Decree) -> Self {
        let World { spec, census, membership, watch, now, .. } = *world;
        Self { spec, census, membership, decree, watch, now }
    }

    pub(super) fn node(&self, name: &NodeName) -> Option<&Node<'a>> {
        self.census.get(name)
    }

    pub(super) fn pulse(&self, name: &NodeName) -> Pulse {
        let machine = self.node(name).and_then(|node| node.machine);
        machine.and_then(|machine| self.watch.pulses.get(&machine.id)).copied().unwrap_or_default()
    }

    /// The last report, if its agent has not failed to answer since.
    pub(super) fn fresh(&self, name: &NodeName) -> Option<&'a NodeReport> {
        self.node(name)?.report().filter(|_| self.pulse(name).missed == 0)
    }

    pub(super) fn primary(&self) -> Option<&'a NodeReport> {
        self.fresh(&self.decree.primary)
    }

    /// How the primary says that it leads, in the reign on record.
    pub(super) fn leading(&self) -> Option<&'a Leading> {
        self.primary().filter(|report| report.promised == self.decree.reign)?.leading()
    }

    pub(super) fn timing(&self) -> Timing {
        Timing::of(self.decree.profile)
    }

    /// The times by which a lease that anybody may still hold was given: the longer ones, while they change.
    pub(super) fn longest(&self) -> Timing {
        let (now, before) = (self.timing(), self.decree.leaving.map(Timing::of));
        before.filter(|before| before.ttl > now.ttl).unwrap_or(now)
    }

    /// How long this controller has known the epoch on record.
    pub(super) fn epoch_age(&self) -> Duration {
        let since = self.watch.epoch_since.filter(|(epoch, _)| *epoch == self.decree.epoch);
        since.map_or(Duration::ZERO, |(_, since)| self.watch.now.since(since))
    }

    /// How long the record has been as it is.
    pub(super) fn decided_ago(&self) -> Duration {
        let since = self.watch.revision_since.filter(|(revision, _)| *revision == self.decree.revision);
        since.map_or(Duration::ZERO, |(_, since)| self.watch.now.since(since))
    }

    /// How long ago its last report arrived.
    pub(super) fn silent_for(&self, name: &NodeName) -> Option<Duration> {
        self.pulse(name).heard.map(|heard| self.watch.now.since(heard))
    }

    /// The lineage as nodes may have it now: with the timeline of a promotion that was decided and is not known to have
    /// come about, if somebody is on it.
    pub(super) fn lineage(&self) -> Lineage {
        let mut lineage = self.decree.lineage.clone();
        if let Some(branch) = self.branch_under_way() {
            let _ = lineage.append(branch);
        }
        lineage
    }

    fn branch_under_way(&self) -> Option<Branch> {
        let promotion = self.decree.promotion()?;
        let timeline = &promotion.timeline;
        // Only the candidate may ever have begun it, so everybody who has it has the same one.
        let histories = self.census.nodes.values().filter_map(|node| {
            let report = node.report()?;
            end(report).map(|end| &end.history).or_else(|| report.postgres.as_ref()?.history.as_ref())
        });
        let switch = histories.filter(|history| history.timeline == *timeline).find_map(|h| h.switches.last())?;
        Some(Branch {
            epoch: promotion.epoch,
            timeline: *timeline,
            start: switch.at,
            node: self.decree.primary.clone(),
        })
    }

    /// Whether a node is one that was found to be a whole copy, and not an older state of it (rule R17).
    pub(super) fn is_known(&self, name: &NodeName, report: &NodeReport) -> bool {
        self.decree
            .members
            .get(name)
            .is_some_and(|member| member.is_same(&report.machine, self.volume(name).as_deref(), report.incarnation))
    }

    fn volume(&self, name: &NodeName) -> Option<String> {
        self.node(name)?.machine?.config.as_ref()?.volume.clone()
    }

    /// A node as it is to be remembered.
    pub(super) fn member(&self, name: &NodeName, report: &NodeReport) -> Member {
        let known = self.decree.members.get(name).filter(|member| member.machine == report.machine);
        let volume = self.volume(name).or_else(|| known?.volume.clone());
        let listed = self.node(name).and_then(|node| node.machine?.address);
        let address = listed.or_else(|| known?.address);
        Member { machine: report.machine.clone(), volume, incarnation: report.incarnation, address }
    }

    /// Why the primary on record may not lead although it answers: its volume may have come back from a snapshot.
    pub(super) fn stranger(&self) -> Option<&'a NodeReport> {
        let begun = !matches!(self.decree.stage, Stage::Bootstrapping { .. });
        self.primary().filter(|report| begun && !self.is_known(&self.decree.primary, report))
    }

    /// Everybody who has promised the epoch on record and said where its data end, with what they have of the cluster's
    /// way. One whose data go on elsewhere counts, too: all that it ever acknowledged is in what they share.
    pub(super) fn recruits(&self) -> BTreeMap<NodeName, Recruit<'a>> {
        let lineage = self.lineage();
        let recruit = |name: &NodeName| {
            let end = self.end(name)?;
            Some(Recruit { end, way: lineage.way(&end.history, end.lsn)? })
        };
        let names = self.census.nodes.keys().filter(|name| self.matters(name));
        names.filter_map(|name| Some((name.clone(), recruit(name)?))).collect()
    }

    /// Where the data of a node end that has promised the epoch on record, once that is final.
    pub(super) fn end(&self, name: &NodeName) -> Option<&'a End> {
        let report = self.fresh(name).filter(|report| report.promised == self.decree.epoch)?;
        end(report).filter(|_| self.is_known(name, report))
    }

    /// The members beside the primary that answer, and could be recruited.
    pub(super) fn others_there(&self) -> BTreeSet<NodeName> {
        let there = |name: &&NodeName| self.fresh(name).is_some_and(|report| self.is_known(name, report));
        let others = self.decree.members.keys().filter(|name| **name != self.decree.primary && self.matters(name));
        others.filter(there).cloned().collect()
    }

    /// It is there, or will be: one that was removed, and left no more than a volume, says and acknowledges nothing again.
    pub(super) fn comes(&self, name: &NodeName) -> bool {
        self.membership.wants(name) || self.node(name).is_some_and(|node| node.machine.is_some())
    }

    /// What it had is gone: what answers in its name has other data, an older state of them, or none that it could ever
    /// tell the end of.
    pub(super) fn is_lost(&self, name: &NodeName) -> bool {
        let tells_nothing = |report: &NodeReport| {
            let promised = self.decree.is_electing() && report.promised >= self.decree.epoch;
            promised && report.standing == Standing::Unbound
        };
        self.fresh(name).is_some_and(|report| !self.is_known(name, report) || tells_nothing(report))
    }

    /// The timelines that any node is known to have been on, whoever authorised them.
    pub(super) fn timelines(&self) -> impl Iterator<Item = u32> {
        self.census.nodes.values().filter_map(Node::report).flat_map(timelines)
    }

    /// Whether it matters where the data of a node end: it may have what nobody else has of what was acknowledged, or
    /// it may lead. What a read replica elsewhere has beyond that was promised to nobody.
    pub(super) fn matters(&self, name: &NodeName) -> bool {
        let asked_for = match &self.watch.order {
            Some(Order::Failover { to, .. }) => to == name,
            Some(Order::Switchover { .. }) | None => false,
        };
        let counts = *name == self.decree.primary || self.decree.counts(name) || asked_for;
        counts || name.region == self.spec.primary.code
    }

    /// Every member that has promised the epoch on record, with or without data: they pledge to nobody below it.
    pub(super) fn promised(&self) -> BTreeSet<NodeName> {
        self.decree.members.keys().filter(|name| self.promise(name).is_some()).cloned().collect()
    }

    /// What a member said when it had promised the epoch on record. A promise is durable, so it need not be heard
    /// again; but another Machine of the same name has not given it.
    pub(super) fn promise(&self, name: &NodeName) -> Option<&'a NodeReport> {
        let member = self.decree.members.get(name)?;
        let report = self.node(name)?.report().filter(|report| report.promised >= self.decree.epoch)?;
        (crate::mutant::off("R17") || report.machine == member.machine).then_some(report)
    }

    /// A standby that has not streamed for so long is not waited for.
    pub(super) fn is_gone(&self, name: &NodeName, after: Duration) -> bool {
        let since = self.pulse(name).streamed.or(self.watch.leads_since);
        since.is_some_and(|since| self.watch.now.since(since) >= after)
    }

    /// Should lead, or be counted on, by what the file says: as [`Scene::is_able`], and not about to be removed.
    pub(super) fn is_eligible(&self, name: &NodeName) -> bool {
        self.is_able(name) && !self.membership.leaving.iter().any(|(leaving, ..)| leaving == name)
    }

    /// Could lead: in the primary region, and with room to write.
    pub(super) fn is_able(&self, name: &NodeName) -> bool {
        name.region == self.spec.primary.code && self.fresh(name).is_none_or(|report| disk_full(report).is_none())
    }

    /// A whole copy of the cluster as its primary leads it now: it streams from it, on its timeline, with its marker,
    /// and close behind (rule R9).
    pub(super) fn is_admitted(&self, name: &NodeName) -> bool {
        let Some(report) = self.fresh(name) else { return false };
        let Some(pg) = self.node(name).and_then(Node::running) else { return false };
        if *name == self.decree.primary {
            return self.stranger().is_none() && self.leading().is_some_and(|leading| leading.confirmed);
        }
        let streams = self.node(name).is_some_and(|node| node.streams_from(&self.decree.primary));
        let PgRole::Standby { received, replayed, .. } = &pg.role else { return false };
        let at = received.unwrap_or_default().max(*replayed);
        let fits = crate::mutant::off("R9")
            || pg.history.as_ref().is_some_and(|history| {
                let marked = history.markers.last().is_some_and(|(epoch, nonce)| {
                    *epoch == self.decree.reign && Some(nonce.as_str()) == self.decree.nonce()
                });
                marked && self.decree.lineage.place(history, at).is_ok()
            });
        let close = self.primary_lsn().is_none_or(|lsn| lsn.bytes_since(*replayed) < LAG_MAX);
        streams && fits && close && report.promised == self.decree.reign
    }

    pub(super) fn primary_lsn(&self) -> Option<crate::protocol::Lsn> {
        match &self.node(&self.decree.primary)?.running()?.role {
            PgRole::Primary { lsn, .. } => Some(*lsn),
            PgRole::Standby { .. } => None,
        }
    }

    /// The nodes that could lead next and are there: members that answer, run, and have heard the primary in this boot.
    pub(super) fn ready_to_follow_on(&self) -> impl Iterator<Item = &NodeName> {
        self.decree.members.keys().filter(|name| {
            let heard = self.fresh(name).is_some_and(|r| self.is_known(name, r) && r.primary_heard.is_some());
            let runs = self.node(name).and_then(Node::running).is_some();
            **name != self.decree.primary && self.is_eligible(name) && heard && runs
        })
    }

    pub(super) fn mono(&self) -> Mono {
        self.watch.now
    }
}

/// A node that has promised the epoch on record.
#[derive(Debug)]
pub(super) struct Recruit<'a> {
    pub(super) end: &'a End,
    pub(super) way: Way,
}

impl Recruit<'_> {
    /// Every timeline that its data were on was given out once, so that nobody but a candidate of ours began it.
    pub(super) fn was_authorised(&self, burnt: u32) -> bool {
        self.end.history.timeline <= burnt && self.end.history.switches.iter().all(|switch| switch.timeline <= burnt)
    }
}

/// The timelines that a node says that its data are, or were, on.
pub(super) fn timelines(report: &NodeReport) -> impl Iterator<Item = u32> {
    let end = match &report.standing {
        Standing::Recruited { end } | Standing::Relinquished { end, .. } => end.as_ref(),
        Standing::Unbound | Standing::Leading(_) => None,
    };
    let runs = report.postgres.as_ref();
    let histories = end.map(|end| &end.history).into_iter().chain(runs.and_then(|pg| pg.history.as_ref()));
    let ever =
        histories.flat_map(|history| history.switches.iter().map(|switch| switch.timeline).chain([history.timeline]));
    ever.chain(runs.map(|pg| pg.timeline))
}

/// Where the data of a node end that has promised its epoch, once that is final.
pub(super) fn end(report: &NodeReport) -> Option<&End> {
    match &report.standing {
        Standing::Recruited { end } => end.as_ref(),
        // What a primary had written when it was not stopped cleanly nobody can tell from its files at once.
        Standing::Relinquished { clean: true, end } => end.as_ref(),
        Standing::Relinquished { .. } | Standing::Unbound | Standing::Leading(_) => None,
    }
}

/// As waits are told: whole milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Why a node could not write, if its disk is full.
pub(super) fn disk_full(report: &NodeReport) -> Option<String> {
    let disk = report.disk.filter(|disk| disk.used_percent() >= DISK_FULL_PERCENT)?;
    Some(format!("its disk is full ({} %)", disk.used_percent()))
}
