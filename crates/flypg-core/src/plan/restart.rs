//! Parameters that Postgres takes up only when it starts: one node at a time, replicas before the primary.

use crate::plan::draft::Draft;
use crate::plan::{Action, Risk, Until, Why, Work, World};
use crate::protocol::PgReport;

/// How long clients of a primary that restarts in place cannot write, for the plan: shutdown checkpoint, start and the
/// first connection; a second or two on a quiet node (protocol §5.1 measured 0.6 to 1.8 s).
const PRIMARY_RESTART_MS: u64 = 2_000;

pub(super) fn one(draft: &mut Draft, world: &World<'_>) {
    let Some(decree) = world.decree.filter(|d| d.system_id().is_some()) else { return };
    let pending = |pg: &&PgReport| !pg.pending_restart.is_empty();
    let mut waiting: Vec<_> = world
        .membership
        .staying
        .iter()
        .filter_map(|name| {
            let node = world.census.get(name)?;
            Some((name, node.running().filter(pending)?, node.machine?.address?, node.report()?))
        })
        .collect();
    waiting.sort_by_key(|(name, ..)| **name == decree.primary);
    let mut waiting = waiting.into_iter();
    let Some((name, pg, address, report)) = waiting.next() else { return };

    let work = Work::Restart { node: name.clone() };
    for (later, ..) in waiting {
        let until = Until::After { work: Box::new(work.clone()) };
        draft.hold(Work::Restart { node: later.clone() }, until);
    }
    // Every other node must be where it belongs, so that never two are away at once; and know its own restarts, so that
    // a primary never gets more of something than a standby has.
    for other in world.membership.staying.iter().filter(|n| *n != name) {
        let node = world.census.get(other);
        if node.is_some_and(|n| n.running().is_some() && !n.has_read(&world.spec.postgres.parameters)) {
            draft.hold(work, Until::ParametersRead { node: other.clone() });
            return;
        }
        let leads = decree.primary == *other;
        let fine = node.is_some_and(|n| if leads { n.leads() } else { n.streams_from(&decree.primary) });
        if !fine {
            let node = other.clone();
            draft.hold(work, if leads { Until::PrimaryAnswers { node } } else { Until::Streams { node } });
            return;
        }
    }
    let pause = (decree.primary == *name).then_some(PRIMARY_RESTART_MS);
    let action = Action::RestartPostgres {
        cluster: world.spec.name.clone(),
        node: name.clone(),
        machine: report.machine.clone(),
        address,
        parameters: pg.pending_restart.clone(),
    };
    draft.risky(action, Why::PendingRestart, Risk::Restart, pause);
}
