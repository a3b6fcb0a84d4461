//! A node that leads, and one that did.

use std::collections::BTreeSet;

use super::*;
use crate::failover::Rule;
use crate::ledger::Ledger;
use crate::names::NodeName;
use crate::protocol::{Assignment, Task};

/// What a primary does in its epoch. Nothing that waits for standbys comes before they have slots to stream from, and
/// nothing but the marker waits for them here.
pub(super) fn leads(told: &Assignment, epoch: Epoch, nonce: &str, local: &Local, now: Timestamp) -> NodeStep {
    let hands_over = matches!(told.task, Task::HandOver { .. });
    match local.postmaster {
        // As ordered; or it crashed on the way there, and the one that is to take over is sooner than it is.
        Postmaster::Down if hands_over => return NodeStep::RecordRelinquished,
        Postmaster::Down if !local.may_lead => return NodeStep::Nothing,
        // It may come back within its epoch, so that it gives nothing up.
        Postmaster::Up if !local.may_lead && local.grace_over => return NodeStep::StopFast,
        Postmaster::Down | Postmaster::Up | Postmaster::Starting | Postmaster::Leftover => {}
    }
    if let Some(step) = step::run(local, false, now).or_else(|| slots(told, local)) {
        return step;
    }
    let alone = Rule::alone();
    let rule = match &told.task {
        Task::Bootstrap { .. } => &alone,
        task => match task.terms() {
            Some(terms) => &terms.rule,
            // It was not told to lead.
            None => return NodeStep::Nothing,
        },
    };
    let reign = &local.reign;
    let in_effect = reign.rule.as_ref() == Some(rule);
    let streams = |name: &&NodeName| {
        local.slots.as_ref().and_then(|slots| slots.get(&name.slot())).is_some_and(|slot| slot.active)
    };
    let waits = !(reign.covered && reign.confirmed) && rule.members().iter().filter(streams).count() < rule.acks();
    match () {
        // Those that it waits for may have to be rewound to it before they can stream, and so need its checkpoint.
        () if in_effect && waits && !reign.checkpointed => NodeStep::Checkpoint,
        () if !in_effect || !reign.covered => NodeStep::EnsureRule { rule: rule.clone() },
        () if !reign.confirmed => NodeStep::Confirm { epoch, nonce: nonce.to_owned() },
        () if !local.roles_ensured => NodeStep::EnsureRoles,
        () if !reign.checkpointed => NodeStep::Checkpoint,
        () if hands_over && !reign.drained => NodeStep::Drain,
        () if hands_over => NodeStep::StopFast,
        // Without a lease it would not come up again.
        () if local.restart_ordered && local.may_lead => NodeStep::RestartPostgres,
        () => NodeStep::Nothing,
    }
}

/// Slots of the primary follow the peers of the assignment (rule R18). Slots that are not ours are left alone. `None`
/// if all is as it should be.
fn slots(told: &Assignment, local: &Local) -> Option<NodeStep> {
    let Some(have) = &local.slots else { return Some(NodeStep::Nothing) };
    let want: BTreeSet<String> =
        told.peers.iter().filter(|peer| peer.node != told.node).map(|peer| peer.node.slot()).collect();
    let create: BTreeSet<String> = want.iter().filter(|slot| !have.contains_key(*slot)).cloned().collect();
    // A lost slot is dropped here and made anew at the next look: only a new clone can use it.
    let useless =
        |(name, slot): &(&String, &SlotSeen)| NodeName::of_slot(name).is_some() && (slot.lost || !want.contains(*name));
    let drop: BTreeSet<String> = have.iter().filter(useless).map(|(name, _)| name.clone()).collect();
    (!create.is_empty() || !drop.is_empty()).then_some(NodeStep::EnsureSlots { create, drop })
}

/// A node that led, or was to, and waits for what it is to be next. Its Postgres does not run: whoever decides is told
/// where its data end.
pub(super) fn gave_up(ledger: &Ledger, local: &Local, standby_signal: bool) -> NodeStep {
    match step::stop_if_up(local) {
        Some(stop) => stop,
        None if standby_signal && ledger.unpromoted().is_some() => NodeStep::RecordUnpromoted,
        None if local.end.is_none() => NodeStep::InspectStopped,
        None => NodeStep::Nothing,
    }
}
