//! The decision, as one function.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::ledger::{Ledger, LedgerRole};
use crate::names::NodeName;
use crate::protocol::Assignment;

/// What this node does next about its own Postgres. Total and without memory: the same sight gives the same step.
pub fn next(ledger: &Ledger, local: &Local, now: Timestamp) -> NodeStep {
    if local.postmaster == Postmaster::Leftover {
        return NodeStep::EndLeftover;
    }
    if local.stopping {
        return match local.postmaster {
            Postmaster::Down | Postmaster::Leftover => NodeStep::Nothing,
            Postmaster::Starting | Postmaster::Up => NodeStep::StopFast,
        };
    }
    match &local.data {
        DataDir::Unusable { why } => quarantine(local, why.clone()),
        DataDir::Blank => match (&ledger.role, &ledger.assignment) {
            (
                LedgerRole::Primary { .. }
                | LedgerRole::Replica { .. }
                | LedgerRole::Recruited { .. }
                | LedgerRole::Promoting { .. }
                | LedgerRole::Relinquished { .. }
                | LedgerRole::Rejoining { .. },
                _,
            ) => quarantine(
                local,
                format!("the ledger says that this node is {}, but its data directory is gone", ledger.role),
            ),
            (_, None) | (LedgerRole::Blank, _) => NodeStep::Nothing,
            (LedgerRole::Initialising { nonce, .. }, Some(_)) => {
                unless_failing(local, now, NodeStep::Initdb { nonce: nonce.clone() })
            }
            (LedgerRole::Cloning { upstream, .. }, Some(_)) => {
                unless_failing(local, now, NodeStep::Clone { from: upstream.clone() })
            }
        },
        DataDir::Unfinished(origin) => unfinished(ledger, local, origin.as_ref()),
        DataDir::Complete { major, system_id, standby_signal, origin } => {
            if let Err(why) = fits(ledger, local, *major, system_id, *standby_signal, origin.as_ref()) {
                return quarantine(local, why);
            }
            match (&ledger.role, &ledger.assignment) {
                (LedgerRole::Initialising { .. } | LedgerRole::Cloning { .. }, _) => {
                    NodeStep::RecordMade { system_id: system_id.clone() }
                }
                (LedgerRole::Primary { .. }, Some(told)) => run(told, local, false, now),
                (LedgerRole::Replica { upstream, .. }, Some(told)) => match run(told, local, true, now) {
                    NodeStep::Nothing if local.postmaster == Postmaster::Up => match &local.stranded {
                        Some(found) => stranded::next(upstream, ledger.system_id.as_ref(), found, &local.remakes, now),
                        None => NodeStep::Nothing,
                    },
                    step => step,
                },
                // Nothing that this node was told on this Machine lets Postgres run.
                (_, None) | (LedgerRole::Blank, _) => stop_if_up(local),
                _ => NodeStep::Nothing,
            }
        }
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
        LedgerRole::Initialising { nonce, .. } => match origin {
            Some(Origin::Initdb { nonce: theirs }) if theirs == nonce => Ok(()),
            _ => Err("data lie where this node was to initialise a blank volume".to_owned()),
        },
        LedgerRole::Cloning { .. } => match origin {
            Some(Origin::Clone { .. }) if standby_signal => Ok(()),
            _ => Err("data lie where this node was to make a clone".to_owned()),
        },
        LedgerRole::Primary { .. } if standby_signal => {
            Err("this node leads, but somebody made its data directory a standby's".to_owned())
        }
        // A data directory without standby.signal would come up writable.
        LedgerRole::Replica { .. } if !standby_signal => {
            Err("this node follows, but standby.signal is gone: Postgres would accept writes".to_owned())
        }
        _ => Ok(()),
    }
}

fn unfinished(ledger: &Ledger, local: &Local, origin: Option<&Origin>) -> NodeStep {
    let ours = match (&ledger.role, origin) {
        // Made again from the start; the mark is written first, so without one nothing was made.
        (LedgerRole::Initialising { .. } | LedgerRole::Cloning { .. }, None) => true,
        (LedgerRole::Initialising { nonce, .. }, Some(Origin::Initdb { nonce: theirs })) => nonce == theirs,
        (LedgerRole::Cloning { .. }, Some(Origin::Clone { .. })) => true,
        _ => false,
    };
    if ours {
        NodeStep::RemoveUnfinished
    } else {
        quarantine(local, format!("the ledger says that this node is {}, but here is {}", ledger.role, local.data))
    }
}

/// Keeps complete data running: start, then settings, then what lives in the database.
fn run(told: &Assignment, local: &Local, standby: bool, now: Timestamp) -> NodeStep {
    match local.postmaster {
        Postmaster::Leftover => NodeStep::EndLeftover,
        Postmaster::Down => {
            let until = restart_at(&local.crashes, now);
            if until > now {
                NodeStep::Wait { until }
            } else if local.settings == SettingsSeen::Stale {
                NodeStep::WriteSettings
            } else {
                NodeStep::StartPostgres { standby }
            }
        }
        Postmaster::Starting => NodeStep::Nothing,
        Postmaster::Up => match local.settings {
            SettingsSeen::Stale => NodeStep::WriteSettings,
            SettingsSeen::Written => NodeStep::Reload,
            SettingsSeen::Loaded if local.restart_ordered => NodeStep::RestartPostgres,
            SettingsSeen::Loaded if standby => NodeStep::Nothing,
            SettingsSeen::Loaded if !local.roles_ensured => NodeStep::EnsureRoles,
            SettingsSeen::Loaded => ensure_slots(told, local),
        },
    }
}

/// Slots of the primary follow the peers of the assignment (rule R18). Slots that are not ours are left alone.
fn ensure_slots(told: &Assignment, local: &Local) -> NodeStep {
    let Some(have) = &local.slots else { return NodeStep::Nothing };
    let want: BTreeSet<String> =
        told.peers.iter().filter(|peer| peer.node != told.node).map(|peer| peer.node.slot()).collect();
    let create: BTreeSet<String> = want.iter().filter(|slot| !have.contains_key(*slot)).cloned().collect();
    // A lost slot is dropped here and made anew at the next look: only a new clone can use it.
    let useless =
        |(name, slot): &(&String, &SlotSeen)| NodeName::of_slot(name).is_some() && (slot.lost || !want.contains(*name));
    let drop: BTreeSet<String> = have.iter().filter(useless).map(|(name, _)| name.clone()).collect();
    if create.is_empty() && drop.is_empty() { NodeStep::Nothing } else { NodeStep::EnsureSlots { create, drop } }
}

fn quarantine(local: &Local, why: String) -> NodeStep {
    match stop_if_up(local) {
        NodeStep::Nothing => NodeStep::Quarantine { why },
        stop => stop,
    }
}

fn stop_if_up(local: &Local) -> NodeStep {
    match local.postmaster {
        Postmaster::Starting | Postmaster::Up => NodeStep::StopFast,
        Postmaster::Down | Postmaster::Leftover => NodeStep::Nothing,
    }
}

fn unless_failing(local: &Local, now: Timestamp, step: NodeStep) -> NodeStep {
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
