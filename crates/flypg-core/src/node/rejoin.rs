//! A node whose data were a primary's, or went another way, on its way back to being a copy (rule R16).

use super::*;
use crate::ledger::{Ledger, LedgerRole};
use crate::protocol::{Assignment, Task};

/// Its data are whole still, as they were when it stopped leading.
pub(super) fn untouched(told: &Assignment, local: &Local, standby_signal: bool, now: Timestamp) -> NodeStep {
    if let Some(stop) = step::stop_if_up(local) {
        return stop;
    }
    let remake = match &told.task {
        Task::Follow { remake, .. } => *remake,
        // Who leads is open again, and this may be the best copy there is. Nothing is lost by running it as a standby
        // without an upstream, and so it can be said where it ends, and be chosen.
        Task::Recruit { .. } => return NodeStep::BecomeStandby,
        Task::Bootstrap { .. }
        | Task::Promote { .. }
        | Task::Reaffirm { .. }
        | Task::Lead { .. }
        | Task::HandOver { .. } => return NodeStep::Nothing,
    };
    // It was never promoted, or was made a standby already: then its Postgres itself says whether it fits.
    if standby_signal {
        return NodeStep::BecomeStandby;
    }
    if local.end.is_none() {
        return NodeStep::InspectStopped;
    }
    match &local.astray {
        Some(_) if remake => NodeStep::RecordRewinding,
        Some(astray) => step::hold(format!("{}; its data are left as they are for now", words(astray)), now),
        // After a crash nobody knows where its data end until they are replayed. As a standby it replays them, writes
        // nothing of its own, and says then whether they fit; the new primary's marker may be waiting for just this
        // node's acknowledgement, so that it cannot wait for that primary to be sure.
        None => NodeStep::BecomeStandby,
    }
}

/// Its data may be anything: they were about to be rewound. Postgres does not run on them, whatever they look like.
pub(super) fn touched(ledger: &Ledger, upstream: &NodeName, local: &Local, now: Timestamp) -> NodeStep {
    if let Some(stop) = step::stop_if_up(local) {
        return stop;
    }
    let complete = matches!(local.data, DataDir::Complete { .. });
    if local.remade && matches!(local.data, DataDir::Complete { standby_signal: true, .. }) {
        return NodeStep::BecomeStandby;
    }
    match ledger.assignment.as_ref().map(|told| &told.task) {
        Some(Task::Follow { remake: true, .. }) => {}
        Some(Task::Follow { remake: false, .. }) => {
            return step::hold("its data are not whole, and the primary is not ready to mend them".to_owned(), now);
        }
        _ => return NodeStep::Nothing,
    }
    if complete && local.rewind_failed.is_some() && mutant::off("R16") {
        return NodeStep::BecomeStandby;
    }
    let from = upstream.clone();
    if complete && local.rewind_failed.is_none() {
        return step::unless_failing(local, now, NodeStep::Rewind { from });
    }
    let again = stranded::remake_at(&local.remakes, now);
    match again > now {
        true => NodeStep::Wait { until: again },
        false if complete && local.room => NodeStep::CloneBeside { from },
        false => NodeStep::GiveUpCopy { from },
    }
}

/// The primary is ready to make this copy anew, and whoever decides lets it go.
pub(super) fn may_remake(ledger: &Ledger) -> bool {
    matches!(ledger.assignment.as_ref().map(|told| &told.task), Some(Task::Follow { remake: true, .. }))
}

/// A copy that somebody promoted by hand: its data are the cluster's up to there, and what they have beyond was
/// acknowledged by nobody.
pub(super) fn may_mend(ledger: &Ledger, local: &Local, major: u32, system_id: &SystemId) -> bool {
    let ours = major == local.major && ledger.system_id.as_ref() == Some(system_id);
    ours && matches!(ledger.role, LedgerRole::Replica { .. }) && may_remake(ledger)
}

/// Why data are not a copy's of this cluster, in words.
pub(super) fn words(astray: &Astray) -> String {
    match astray {
        Astray::Timeline { timeline } => {
            format!("its data are on timeline {timeline}, which the cluster never was on")
        }
        Astray::Switch { timeline } => format!("its data left timeline {timeline} elsewhere than the cluster did"),
        Astray::Beyond { .. } => "its data go on where the cluster went another way".to_owned(),
        Astray::Marker { epoch } => format!("its data have the marker of another promotion in epoch {epoch}"),
    }
}
