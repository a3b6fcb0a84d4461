//! A node whose data are a copy's: it follows, was recruited, or is to be promoted.

use super::*;
use crate::ledger::Ledger;
use crate::protocol::{Assignment, Task};

/// A replica of `upstream`.
pub(super) fn follows(
    ledger: &Ledger,
    told: &Assignment,
    upstream: &NodeName,
    local: &Local,
    now: Timestamp,
) -> NodeStep {
    let remake = matches!(told.task, Task::Follow { remake: true, .. });
    if local.astray.is_some() && remake {
        return step::stop_if_up(local).unwrap_or(NodeStep::RecordRewinding);
    }
    // One whose data went another way may not come up at all: then its files tell.
    let ended = local.postmaster == Postmaster::Down && !local.crashes.is_empty();
    match &local.astray {
        None if ended && local.end.is_none() => return NodeStep::InspectStopped,
        Some(astray) if ended => {
            return step::hold(format!("{}; its data are left as they are for now", rejoin::words(astray)), now);
        }
        _ => {}
    }
    if let Some(step) = step::run(local, true, now) {
        return step;
    }
    match (&local.astray, &local.stranded) {
        (Some(astray), _) => {
            step::hold(format!("{}; its data are left as they are for now", rejoin::words(astray)), now)
        }
        (None, _) if local.restart_ordered => NodeStep::RestartPostgres,
        (None, Some(found)) => stranded::next(upstream, ledger.system_id.as_ref(), found, remake, &local.remakes, now),
        (None, None) => NodeStep::Nothing,
    }
}

/// A standby that follows nobody: that its configuration names no upstream follows from its role. A restart that was
/// ordered waits until it is known what this node will be.
pub(super) fn recruited(local: &Local, now: Timestamp) -> NodeStep {
    match step::run(local, true, now) {
        Some(step) => step,
        None if local.end.is_none() => NodeStep::FindEnd,
        None => NodeStep::Nothing,
    }
}

/// A standby that is to be promoted onto `timeline`, or was. PostgreSQL removes `standby.signal` before it writes
/// anything on a new timeline; one that is stopped without the signal, on the old timeline, would come up writable on
/// that one (E11), and is not started.
pub(super) fn promoted(
    told: &Assignment,
    timeline: u32,
    local: &Local,
    standby_signal: bool,
    now: Timestamp,
) -> NodeStep {
    let Task::Promote { burnt, .. } = &told.task else { return NodeStep::Nothing };
    let unchecked = mutant::off("R8");
    let burnt = if unchecked { Vec::new() } else { burnt.clone() };
    let arrived = |seen: u32| match seen == timeline || unchecked {
        true => NodeStep::RecordPromoted,
        false => step::quarantine(local, format!("it was promoted to timeline {seen}, and {timeline} was authorised")),
    };
    if local.postmaster == Postmaster::Down && !standby_signal {
        return match &local.end {
            None => NodeStep::InspectStopped,
            Some(end) => arrived(end.history.timeline),
        };
    }
    if let Some(step) = step::run(local, true, now) {
        return step;
    }
    match (local.reign.in_recovery, local.reign.timeline) {
        (true, _) => NodeStep::Promote { timeline, burnt },
        // The data were looked at before it was promoted.
        (false, _) if standby_signal => NodeStep::Nothing,
        (false, Some(seen)) => arrived(seen),
        // Not looked at since it came up.
        (false, None) => NodeStep::Nothing,
    }
}
