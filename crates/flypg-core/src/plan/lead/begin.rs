//! A cluster without a record: it was never begun, or its record was lost.

use std::collections::BTreeSet;

use super::scene::timelines;
use crate::Timestamp;
use crate::decree::{Decree, Epoch, Member, Stage, SystemId};
use crate::failover::{Lineage, Verdict};
use crate::mutant;
use crate::names::NodeName;
use crate::plan::census::{Census, Membership, Node};
use crate::plan::draft::Draft;
use crate::plan::{Action, Progress, Until, Why, Work};
use crate::protocol::{NodeReport, Phase};
use crate::spec::ClusterSpec;

/// A record that was lost is replaced by one with an epoch that none of the lost ones can have reached.
const EPOCHS_SKIPPED: u64 = 1000;

/// There is no record: either nothing was ever begun, or it was lost. Whatever may hold data must be accounted for
/// before either is believed.
pub(super) fn begin(
    draft: &mut Draft,
    spec: &ClusterSpec,
    census: &Census<'_>,
    membership: &Membership,
    now: Timestamp,
) -> (Verdict, Option<Decree>) {
    let first = membership
        .staying
        .iter()
        .chain(membership.joining.keys())
        .find(|name| name.region == spec.primary.code)
        .cloned()
        .unwrap_or_else(|| spec.first_node());

    let reports: Vec<(&NodeName, &NodeReport)> =
        census.nodes.iter().filter_map(|(name, node)| Some((name, node.report()?))).collect();
    let silent: Vec<NodeName> = census
        .nodes
        .iter()
        .filter(|(name, node)| node.report().is_none() && !membership.wants(name))
        .map(|(name, _)| name.clone())
        .collect();
    if !silent.is_empty() {
        draft.hold(Work::Bootstrap, Until::Accounted { nodes: silent });
        return (Verdict::Unknown, None);
    }
    if census.nodes.values().any(Node::rejects_our_key) {
        return (Verdict::Unknown, None); // somebody else's cluster, or ours with the wrong key: nothing begins here
    }
    // Nodes that are wanted are being made or started by this very plan; until all have spoken there is time.
    let waited = |node: &Node<'_>| node.report().is_none();
    if census.nodes.is_empty() || census.nodes.values().any(waited) || !membership.joining.is_empty() {
        return (Verdict::Bootstrap { node: first }, None);
    }
    let blank = |report: &NodeReport| report.phase == Phase::Blank || mutant::off("R15");
    if reports.iter().all(|(_, report)| blank(report) && report.assignment.is_none()) {
        let nonce = crate::digest::short(format!("{}/{first}/{now}", spec.name).as_bytes());
        let decree = Decree::first(first.clone(), nonce, spec.durability.commit_mode(), spec.failover.profile);
        draft.step(
            Action::Decide { cluster: spec.name.clone(), instead_of: None, decree: decree.clone() },
            Why::FirstNode,
        );
        return (Verdict::Bootstrapping { node: first }, Some(decree));
    }
    adopt(draft, spec, census, &reports, now)
}

/// The nodes hold data and the record is gone. Exactly one that leads, and one identity, or nothing is done.
fn adopt(
    draft: &mut Draft,
    spec: &ClusterSpec,
    census: &Census<'_>,
    reports: &[(&NodeName, &NodeReport)],
    now: Timestamp,
) -> (Verdict, Option<Decree>) {
    let identities: BTreeSet<&SystemId> =
        reports.iter().filter_map(|(_, r)| Some(&r.postgres.as_ref()?.system_id)).collect();
    let leaders: Vec<&NodeName> =
        reports.iter().map(|(name, _)| *name).filter(|n| census.get(n).is_some_and(|n| n.leads())).collect();
    let starting = |report: &NodeReport| matches!(report.phase, Phase::Initialising | Phase::Starting);
    let (&[leader], 1) = (leaders.as_slice(), identities.len()) else {
        let coming = reports.iter().find(|(_, report)| starting(report)).filter(|_| leaders.is_empty());
        if let Some((node, _)) = coming {
            let node = (*node).clone();
            draft.hold(Work::Bootstrap, Until::Ready { node, progress: Progress::Starting });
        } else {
            let nodes = reports.iter().map(|(name, _)| (*name).clone()).collect();
            draft.hold(Work::Bootstrap, Until::OneLineage { nodes });
        }
        return (Verdict::Unknown, None);
    };
    let system_id = (*identities.first().expect("there is one")).clone();
    let promised = reports.iter().map(|(_, r)| r.promised).max().unwrap_or_default();
    let report = reports.iter().find(|(name, _)| *name == leader).map(|(_, report)| *report);
    let history = report.and_then(|r| r.postgres.as_ref()).and_then(|pg| pg.history.as_ref());
    let timeline = report.and_then(|r| r.postgres.as_ref()).map_or(1, |pg| pg.timeline);
    let Some(history) = history else {
        let node = leader.clone();
        draft.hold(Work::Bootstrap, Until::Ready { node, progress: Progress::Starting });
        return (Verdict::Unknown, None);
    };
    let epoch = Epoch(promised.0 + EPOCHS_SKIPPED);
    let nonce = crate::digest::short(format!("{}/{leader}/{epoch}/{now}", spec.name).as_bytes());
    let mut decree = Decree::first(leader.clone(), nonce.clone(), spec.durability.commit_mode(), spec.failover.profile);
    decree.epoch = epoch;
    decree.reign = epoch;
    // Only this primary may go on until it has taken up its reign: no rule is guessed.
    decree.stage = Stage::Reaffirming { nonce: nonce.clone(), promotion: None };
    decree.system_id = Some(system_id);
    // Whatever anybody has was authorised once (rule R8).
    let seen = reports.iter().flat_map(|(_, report)| timelines(report));
    decree.burnt = seen.chain([timeline]).max().unwrap_or(timeline);
    decree.lineage = Lineage::of_history(leader, history);
    decree.lineage.authorise(epoch, nonce);
    decree.members = reports
        .iter()
        .filter(|(_, report)| report.postgres.is_some())
        .map(|(name, report)| {
            let machine = census.get(name).and_then(|node| node.machine);
            let member = Member {
                machine: report.machine.clone(),
                volume: machine.and_then(|machine| machine.config.as_ref()?.volume.clone()),
                incarnation: report.incarnation,
                address: machine.and_then(|machine| machine.address),
            };
            ((*name).clone(), member)
        })
        .collect();
    draft
        .step(Action::Decide { cluster: spec.name.clone(), instead_of: None, decree: decree.clone() }, Why::RecordLost);
    (Verdict::Adopt { node: leader.clone() }, Some(decree))
}
