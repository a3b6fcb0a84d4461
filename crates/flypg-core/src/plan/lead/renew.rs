//! Leases.

use super::scene::Scene;
use crate::decree::Decree;
use crate::failover::lease::Grant;
use crate::plan::draft::Draft;
use crate::plan::{Action, Why, World};

/// Answers the primary's last report with a lease, if nobody is trying to replace it and the record was read, as one
/// that this controller may decide on, after that report had arrived (rule R2).
pub(in crate::plan) fn renew(draft: &mut Draft, world: &World<'_>, record: Option<&Decree>) {
    let watch = world.watch;
    // By the record, and by what this very plan makes of it.
    let Some(decree) = world.decree.filter(|decree| decree.may_be_granted()) else { return };
    if record.is_none_or(|record| !record.may_be_granted() || record.reign != decree.reign) {
        return;
    }
    let scene = Scene::of(world, decree);
    let (Some(report), Some(node)) = (scene.primary(), scene.node(&decree.primary)) else { return };
    let (Some(machine), Some(arrived)) = (node.machine, scene.pulse(&decree.primary).heard) else { return };
    let Some(address) = machine.address else { return };
    // What came back as an older state of it leads nothing (rule R17).
    let leads = scene.stranger().is_none() && scene.leading().is_some();
    let still_leads = watch.leads_since.is_some() && (arrived <= watch.record_read || crate::mutant::off("R2"));
    let answered = watch.granted.is_some_and(|granted| granted.epoch == decree.reign && granted.last >= arrived);
    if leads && still_leads && !answered {
        let grant =
            Grant { epoch: decree.reign, boot: report.boot.clone(), sent: report.sent, ttl: scene.timing().ttl };
        let action = Action::Renew {
            cluster: world.spec.name.clone(),
            node: decree.primary.clone(),
            machine: machine.id.clone(),
            address,
            grant,
            arrived,
        };
        draft.step(action, Why::LeaseRuns);
    }
}
