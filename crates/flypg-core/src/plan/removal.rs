//! A cluster that left the files: taken down as its last known `deletion` says, the primary last.

use crate::failover::Verdict;
use crate::observed::{Observed, Power};
use crate::plan::census::Census;
use crate::plan::draft::Draft;
use crate::plan::{Action, Plan, Risk, Subject, Until, Why, Work, members};
use crate::spec::{ClusterSpec, Deletion, ReconcileMode};

pub(super) fn plan(spec: &ClusterSpec, observed: &Observed) -> Plan {
    let mut draft = Draft::new(&spec.name);
    let verdict = steps(&mut draft, spec, observed).unwrap_or(Verdict::Unknown);
    draft.finish(verdict)
}

fn steps(draft: &mut Draft, spec: &ClusterSpec, observed: &Observed) -> Option<Verdict> {
    let work = || Work::DeleteCluster;
    let record = draft.need(work(), Subject::Record, &observed.record)?;
    let app = draft.need(work(), Subject::App, &observed.app)?;
    let verdict = record.as_ref().map(|d| Verdict::Leads { node: d.primary.clone(), epoch: d.epoch });
    if app.is_none() {
        if let Some(decree) = record {
            let action = Action::Forget { cluster: spec.name.clone(), decree: decree.clone() };
            draft.step(action, Why::ClusterLeft);
        }
        return verdict;
    }
    if spec.deletion == Deletion::Protect {
        draft.hold(work(), Until::DeletionAllowed { deletion: spec.deletion });
        return verdict;
    }
    if spec.reconcile != ReconcileMode::Active {
        draft.hold(work(), Until::Resumed { mode: spec.reconcile });
        return verdict;
    }
    let machines = draft.need(work(), Subject::Machines, &observed.machines)?;
    let volumes = draft.need(work(), Subject::Volumes, &observed.volumes)?;
    let census = Census::take(spec, machines, volumes, &observed.reports);

    let leader = record.as_ref().map(|d| &d.primary);
    let (last, first): (Vec<_>, Vec<_>) = census.with_machine().partition(|(name, ..)| Some(*name) == leader);
    // The primary stops last, so that its replicas have everything by then.
    let going = if first.is_empty() { last } else { first };
    for (name, _, machine) in &going {
        members::take_down(draft, spec, name, machine, &work(), Why::ClusterLeft);
    }
    if spec.deletion != Deletion::Delete {
        return verdict;
    }
    for (name, node) in census.nodes.iter().filter(|(_, node)| node.machine.is_none()) {
        for volume in node.volumes.iter().filter(|v| v.attached_to.is_none()) {
            let action = Action::DeleteVolume { app: spec.name.clone(), node: name.clone(), volume: volume.id.clone() };
            draft.risky(action, Why::ClusterLeft, Risk::DataLoss, None);
        }
    }
    // An app that holds anything else is not ours to delete; nor is one whose last volume has not gone yet.
    let empty = volumes.is_empty() && machines.iter().all(|m| m.power == Power::Destroying);
    if empty && going.is_empty() {
        draft.step(Action::DeleteApp { app: spec.name.clone() }, Why::ClusterLeft);
    }
    verdict
}
