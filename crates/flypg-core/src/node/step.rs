//! The decision, as one function.

use std::time::Duration;

use super::*;
use crate::ledger::{Ledger, LedgerRole};
use crate::protocol::Task;

/// So long until a node that holds says so again.
const HELD_FOR: Duration = Duration::from_secs(10);

/// What this node does next about its own Postgres. Total and without memory: the same sight gives the same step.
pub fn next(ledger: &Ledger, local: &Local, now: Timestamp) -> NodeStep {
    if local.postmaster == Postmaster::Leftover {
        return NodeStep::EndLeftover;
    }
    if local.stopping {
        return stop_if_up(local).unwrap_or(NodeStep::Nothing);
    }
    if let LedgerRole::Rejoining { upstream, rewinding: true, .. } = &ledger.role {
        return rejoin::touched(ledger, upstream, local, now);
    }
    // As a copy of somebody who has it all it may come by the rest. Anything else would go on without that, or say that
    // this is where it ends.
    if let (Some(why), false) = (&local.lost_wal, follows(&ledger.role)) {
        return quarantine(local, why.clone());
    }
    match &local.data {
        DataDir::Unusable { why } => quarantine(local, why.clone()),
        DataDir::Blank => blank(ledger, local, now),
        DataDir::Unfinished(origin) => unfinished(ledger, local, origin.as_ref()),
        DataDir::Complete { major, system_id, standby_signal, origin } => {
            match fits(ledger, local, *major, system_id, *standby_signal, origin.as_ref()) {
                Err(_) if rejoin::may_mend(ledger, local, *major, system_id) => {
                    stop_if_up(local).unwrap_or(NodeStep::RecordRewinding)
                }
                Err(why) => quarantine(local, why),
                Ok(()) => whole(ledger, local, system_id, *standby_signal, now),
            }
        }
    }
}

fn follows(role: &LedgerRole) -> bool {
    matches!(role, LedgerRole::Replica { .. } | LedgerRole::Rejoining { .. } | LedgerRole::Cloning { .. })
}

/// On a volume without data.
fn blank(ledger: &Ledger, local: &Local, now: Timestamp) -> NodeStep {
    match &ledger.role {
        // Nothing is left that could be lost.
        LedgerRole::Replica { upstream, .. } if rejoin::may_remake(ledger) => {
            stop_if_up(local).unwrap_or(NodeStep::GiveUpCopy { from: upstream.clone() })
        }
        LedgerRole::Primary { .. }
        | LedgerRole::Replica { .. }
        | LedgerRole::Recruited { .. }
        | LedgerRole::Promoting { .. }
        | LedgerRole::Relinquished { .. }
        | LedgerRole::Rejoining { .. } => {
            let why = format!("the ledger says that this node is {}, but its data directory is gone", ledger.role);
            quarantine(local, why)
        }
        LedgerRole::Blank => NodeStep::Nothing,
        LedgerRole::Initialising { nonce, .. } => match ledger.assignment.as_ref().map(|told| &told.task) {
            Some(Task::Bootstrap { .. }) => unless_failing(local, now, NodeStep::Initdb { nonce: nonce.clone() }),
            _ => NodeStep::Nothing,
        },
        LedgerRole::Cloning { upstream, .. } => match &ledger.assignment {
            Some(_) => unless_failing(local, now, NodeStep::Clone { from: upstream.clone() }),
            None => NodeStep::Nothing,
        },
    }
}

/// With whole data that are what the ledger speaks of.
fn whole(ledger: &Ledger, local: &Local, system_id: &SystemId, standby_signal: bool, now: Timestamp) -> NodeStep {
    if let LedgerRole::Initialising { .. } | LedgerRole::Cloning { .. } = &ledger.role {
        return NodeStep::RecordMade { system_id: system_id.clone() };
    }
    // Nothing that this node was told on this Machine lets Postgres run.
    let Some(told) = &ledger.assignment else { return stop_if_up(local).unwrap_or(NodeStep::Nothing) };
    match &ledger.role {
        // The last one was looked at before.
        LedgerRole::Blank
        | LedgerRole::Initialising { .. }
        | LedgerRole::Cloning { .. }
        | LedgerRole::Rejoining { rewinding: true, .. } => stop_if_up(local).unwrap_or(NodeStep::Nothing),
        LedgerRole::Primary { epoch, nonce } => primary::leads(told, *epoch, nonce, local, now),
        LedgerRole::Relinquished { .. } => primary::gave_up(ledger, local, standby_signal),
        LedgerRole::Replica { upstream, .. } => standby::follows(ledger, told, upstream, local, now),
        LedgerRole::Recruited { .. } => standby::recruited(local, now),
        LedgerRole::Promoting { timeline, .. } => standby::promoted(told, *timeline, local, standby_signal, now),
        LedgerRole::Rejoining { rewinding: false, .. } => rejoin::untouched(told, local, standby_signal, now),
    }
}

/// Whether complete data are those that the ledger speaks of, or why not.
fn fits(
    ledger: &Ledger,
    local: &Local,
    major: u32,
    system_id: &SystemId,
    standby_signal: bool,
    origin: Option<&Origin>,
) -> Result<(), String> {
    if major != local.major {
        return Err(format!("the data are of PostgreSQL {major}, the image brings PostgreSQL {}", local.major));
    }
    if let Some(known) = &ledger.system_id
        && known != system_id
    {
        return Err(format!("the data are of system {}, the ledger knows system {}", system_id.0, known.0));
    }
    match &ledger.role {
        LedgerRole::Blank => Ok(()),
        LedgerRole::Initialising { nonce, .. } if local.data.may_be_initialised(nonce) => Ok(()),
        LedgerRole::Initialising { .. } => Err("data lie where this node was to initialise a blank volume".to_owned()),
        LedgerRole::Cloning { .. } => match origin {
            Some(Origin::Clone { .. }) if standby_signal => Ok(()),
            _ => Err("data lie where this node was to make a clone".to_owned()),
        },
        LedgerRole::Primary { .. } if standby_signal => {
            Err("this node leads, but somebody made its data directory a standby's".to_owned())
        }
        // A data directory without standby.signal would come up writable.
        LedgerRole::Replica { .. } | LedgerRole::Recruited { .. } if !standby_signal => {
            Err(format!("this node is {}, but standby.signal is gone: Postgres would accept writes", ledger.role))
        }
        LedgerRole::Primary { .. } | LedgerRole::Replica { .. } | LedgerRole::Recruited { .. } => Ok(()),
        // The signal is there until it is promoted, and where it gave up before that; and where a former primary was
        // made a standby and that is not on record yet.
        LedgerRole::Promoting { .. } | LedgerRole::Relinquished { .. } | LedgerRole::Rejoining { .. } => Ok(()),
    }
}

fn unfinished(ledger: &Ledger, local: &Local, origin: Option<&Origin>) -> NodeStep {
    let ours = match (&ledger.role, origin) {
        // Made again from the start; the mark is written first, so without one nothing was made.
        (LedgerRole::Cloning { .. }, None | Some(Origin::Clone { .. })) => true,
        (LedgerRole::Initialising { nonce, .. }, _) => local.data.may_be_initialised(nonce),
        _ => false,
    };
    if ours {
        NodeStep::RemoveUnfinished
    } else {
        quarantine(local, format!("the ledger says that this node is {}, but here is {}", ledger.role, local.data))
    }
}

/// Keeps Postgres running with the configuration it should have. `None` once it does.
pub(super) fn run(local: &Local, standby: bool, now: Timestamp) -> Option<NodeStep> {
    match (local.postmaster, local.settings) {
        (Postmaster::Leftover, _) => Some(NodeStep::EndLeftover),
        (Postmaster::Down, settings) => {
            let until = restart_at(&local.crashes, now);
            Some(match settings {
                _ if until > now => NodeStep::Wait { until },
                SettingsSeen::Stale => NodeStep::WriteSettings,
                SettingsSeen::Written | SettingsSeen::Loaded => NodeStep::StartPostgres { standby },
            })
        }
        (Postmaster::Starting, _) => Some(NodeStep::Nothing),
        (Postmaster::Up, SettingsSeen::Stale) => Some(NodeStep::WriteSettings),
        (Postmaster::Up, SettingsSeen::Written) => Some(NodeStep::Reload),
        (Postmaster::Up, SettingsSeen::Loaded) => None,
    }
}

pub(super) fn quarantine(local: &Local, why: String) -> NodeStep {
    stop_if_up(local).unwrap_or(NodeStep::Quarantine { why })
}

pub(super) fn stop_if_up(local: &Local) -> Option<NodeStep> {
    match local.postmaster {
        Postmaster::Starting | Postmaster::Up => Some(NodeStep::StopFast),
        Postmaster::Down | Postmaster::Leftover => None,
    }
}

/// Nothing but wait for another assignment, saying why.
pub(super) fn hold(why: String, now: Timestamp) -> NodeStep {
    NodeStep::Hold { why, until: after(now, HELD_FOR) }
}

pub(super) fn unless_failing(local: &Local, now: Timestamp, step: NodeStep) -> NodeStep {
    let Some(last) = local.failed_makes.last() else { return step };
    // 0.2 s, doubled each time: the slot of a new node appears on its primary within a second.
    let doubled = |times: usize| 2u32.pow(u32::try_from(times).unwrap_or(u32::MAX).min(16));
    let wait = match local.failed_makes.len().checked_sub(HOPEFUL_CLONES) {
        None => (Duration::from_millis(200) * doubled(local.failed_makes.len() - 1)).min(LONGEST_CLONE_WAIT),
        Some(more) => (LONGEST_CLONE_WAIT * doubled(more)).min(LONGEST_HOPELESS_WAIT),
    };
    let until = after(*last, wait);
    if until > now { NodeStep::Wait { until } } else { step }
}

/// When a Postgres that is down may be started again. The first crashes are answered at once; from then on the waits
/// grow: 1 s, 2 s, 4 s … [`LONGEST_RESTART_WAIT`].
pub(super) fn restart_at(crashes: &[Timestamp], now: Timestamp) -> Timestamp {
    let recent: Vec<_> = crashes.iter().filter(|at| after(**at, CRASH_WINDOW) > now).collect();
    let Some(last) = recent.last() else { return now };
    match recent.len().checked_sub(QUICK_RESTARTS) {
        None => now,
        Some(more) => {
            let doublings = u32::try_from(more).unwrap_or(u32::MAX).min(8);
            after(**last, (Duration::from_secs(1) * 2u32.pow(doublings)).min(LONGEST_RESTART_WAIT))
        }
    }
}

pub(super) fn after(at: Timestamp, wait: Duration) -> Timestamp {
    at.checked_add(wait).unwrap_or(Timestamp::MAX)
}
