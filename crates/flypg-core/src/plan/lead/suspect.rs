//! Whether the primary must be replaced. Only a suspicion: what follows from it is safe if it is wrong.

use std::time::Duration;

use super::scene::{Scene, disk_full};
use crate::decree::{CommitMode, Stage};
use crate::names::NodeName;
use crate::observed::Power;
use crate::plan::{Suspicion, Until};
use crate::protocol::{PgRole, Phase, Standing};
use crate::spec::Durability;

/// A primary whose Postgres has ended may restart in place for so long, where no standby could take over without a loss,
/// or where it was asked to (protocol §2.6, "restart_budget").
const RESTART_BUDGET: Duration = Duration::from_secs(5);
/// The same for the clean stop that a switchover begins with (§2.6, "Pause" and "Demote": drain, then shut down).
const HANDOVER_BUDGET: Duration = Duration::from_secs(15);
/// The same where no standby has heard the primary since it booted itself: everything is starting (§2.8, "cold start").
const COLD_BUDGET: Duration = Duration::from_secs(60);
/// A write that takes so long is a fault of this node, if another one's disk is good (§2.6, "stall_limit").
const STALL_LIMIT: Duration = Duration::from_secs(10);
/// So long a candidate may take until it is promoted, from when it was chosen (§2.6, "promote_limit").
const PROMOTE_LIMIT: Duration = Duration::from_secs(5);
/// So long it then may wait for standbys that are not there: as long as an established primary waits for one before it
/// counts on others.
const CONFIRM_LIMIT: Duration = Duration::from_secs(30);

pub(super) enum Opinion {
    /// Nothing is known against it.
    Fine,
    Suspect(Suspicion),
    /// Something is, and nothing is to be done about it but to wait for this.
    Wait(Until),
}

pub(super) fn opinion(scene: &Scene<'_>) -> Opinion {
    match scene.primary() {
        Some(_) => of_who_answers(scene),
        None => of_who_is_silent(scene),
    }
}

fn of_who_answers(scene: &Scene<'_>) -> Opinion {
    let decree = scene.decree;
    let Some(report) = scene.primary() else { return Opinion::Fine };
    let settled = matches!(decree.stage, Stage::Established | Stage::HandingOver { .. });
    if let Phase::Quarantined { why } = &report.phase {
        return Opinion::Suspect(Suspicion::Failing { why: why.clone() });
    }
    if scene.stranger().is_some() {
        let why = "its volume is not the one that it led with, and may be an older state of it".to_owned();
        return Opinion::Suspect(Suspicion::Failing { why });
    }
    match &report.standing {
        Standing::Relinquished { .. } if settled && report.promised == decree.reign => {
            return Opinion::Suspect(Suspicion::GaveUp);
        }
        // It has lost its data, or what it had promised: nothing on it will lead by itself again.
        Standing::Unbound | Standing::Recruited { .. } if settled => {
            let why = if report.phase == Phase::Blank { "its data are gone" } else { "it does not know that it leads" };
            return Opinion::Suspect(Suspicion::Failing { why: why.to_owned() });
        }
        Standing::Leading(leading) if leading.start.is_none() && matches!(decree.stage, Stage::Promoting { .. }) => {
            let late = scene.decided_ago() > PROMOTE_LIMIT;
            return if late { Opinion::Suspect(Suspicion::Stalled) } else { Opinion::Fine };
        }
        Standing::Leading(leading) if !leading.confirmed && !settled && waits_in_vain(scene) => {
            return Opinion::Suspect(Suspicion::Unconfirmed);
        }
        _ => {}
    }
    let role = report.postgres.as_ref().map(|pg| &pg.role);
    // One that answers runs, whatever its agent is busy with.
    let runs = !matches!(report.phase, Phase::Failing { .. } | Phase::Stopping);
    if let (true, Some(role)) = (runs, role) {
        let hangs = match role {
            PgRole::Primary { probe, .. } => probe.and_then(|probe| probe.hangs),
            PgRole::Standby { .. } => None,
        };
        let elsewhere = scene.ready_to_follow_on().next().is_some();
        return match hangs {
            Some(for_) if for_ >= STALL_LIMIT && elsewhere => unless_shared(scene, Suspicion::Hangs),
            _ => Opinion::Fine,
        };
    }
    if !settled {
        // It is being told to lead, and may be on its way: only time says that it is not.
        return match scene.decided_ago() > COLD_BUDGET {
            true => unless_shared(scene, Suspicion::Stalled),
            false => Opinion::Fine,
        };
    }
    let down_for = scene.pulse(&decree.primary).down_since.map_or(Duration::ZERO, |since| scene.mono().since(since));
    let ready = scene.ready_to_follow_on().next().is_some();
    // A restart that its agent was asked for ends sooner than a failover would.
    let asked = scene.pulse(&decree.primary).ran == Some((report.incarnation, report.crashes));
    let budget = match (ready, decree.mode) {
        _ if asked && matches!(decree.stage, Stage::HandingOver { .. }) => HANDOVER_BUDGET,
        (true, CommitMode::Synchronous) if !asked => Duration::ZERO,
        (true, CommitMode::Synchronous) => RESTART_BUDGET,
        (true, CommitMode::Asynchronous) => RESTART_BUDGET,
        (false, _) => COLD_BUDGET,
    };
    let suspicion = match &report.phase {
        Phase::Failing { why } => Suspicion::Failing { why: why.clone() },
        _ => Suspicion::Crashed,
    };
    match down_for >= budget {
        true => unless_shared(scene, suspicion),
        false => Opinion::Wait(Until::PrimaryAnswers { node: decree.primary.clone() }),
    }
}

/// It leads, and waits for acknowledgements of its marker that cannot come, while others are there who could give them.
///
/// Another attempt is as safe as any: the candidate gives up before anybody is chosen, it or whoever else has the seal of
/// its promotion, and only then the rule is another one.
fn waits_in_vain(scene: &Scene<'_>) -> bool {
    let decree = scene.decree;
    let rule = decree.rule_told();
    if decree.mode != CommitMode::Synchronous || rule.acks() == 0 || scene.decided_ago() < CONFIRM_LIMIT {
        return false;
    }
    // One whose data are gone, or went another way, is made anew from this very primary, and acknowledges then.
    let answers = rule.members().iter().filter(|name| scene.fresh(name).is_some()).count();
    let available = scene.spec.durability == Durability::QuorumAvailable;
    answers < rule.acks() && (available || !scene.others_there().is_empty())
}

/// A disk that is full on one node is about to be on the next (rule R19).
fn unless_shared(scene: &Scene<'_>, suspicion: Suspicion) -> Opinion {
    match scene.primary().and_then(disk_full) {
        Some(why) if !crate::mutant::off("R19") => {
            Opinion::Wait(Until::CauseMended { node: scene.decree.primary.clone(), why })
        }
        _ => Opinion::Suspect(suspicion),
    }
}

fn of_who_is_silent(scene: &Scene<'_>) -> Opinion {
    let primary = &scene.decree.primary;
    let machine = scene.node(primary).and_then(|node| node.machine);
    let wait = || Opinion::Wait(Until::PrimaryAnswers { node: primary.clone() });
    let missed = scene.pulse(primary).missed;
    // The platform's word is no proof, and good enough for a suspicion.
    let Some(machine) = machine else { return Opinion::Suspect(Suspicion::Stopped) };
    let off = matches!(machine.power, Power::Stopped | Power::Failed | Power::Destroying);
    if missed > 0 && (off || scene.watch.stopped.contains_key(&machine.id)) {
        return Opinion::Suspect(Suspicion::Stopped);
    }
    if missed < scene.timing().misses {
        return wait();
    }
    // A primary that a standby hears lives, and only this controller is cut off: a recruit would be refused anyway.
    match heard_by(scene) {
        Some(by) => Opinion::Wait(Until::PrimaryHeard { node: primary.clone(), by }),
        None => Opinion::Suspect(Suspicion::Silent { missed }),
    }
}

fn heard_by(scene: &Scene<'_>) -> Option<NodeName> {
    let lately = scene.timing().report * 2;
    let hears = |name: &&NodeName| {
        let heard = scene.fresh(name).and_then(|report| report.primary_heard);
        // The report itself is as old as it is.
        heard.is_some_and(|ago| ago + scene.silent_for(name).unwrap_or_default() < lately)
    };
    scene.decree.members.keys().filter(|name| **name != scene.decree.primary).find(hears).cloned()
}
