//! The order in which a cluster is put right.
//!
//! Nothing is remembered between two plans: each stage of a long change is recognised from what is observed, so a
//! controller that died in the middle, or a file that changed in the middle, is not a special case.

mod action;
mod census;
mod draft;
mod found;
mod lead;
mod members;
mod model;
mod removal;
mod restart;
mod tune;

pub use action::*;
pub use model::{apply, settle};

use census::{Census, Membership};
use draft::Draft;

use crate::Timestamp;
use crate::decree::Decree;
use crate::failover::Verdict;
use crate::observed::{Observed, Watch};
use crate::spec::{ClusterSpec, ReconcileMode};

/// What to do next about a cluster that is wanted. Cannot fail: what it cannot do, it holds.
///
/// Repair, then grow, then change, then shrink; the leader last; one disruptive act at a time.
pub fn plan(spec: &ClusterSpec, observed: &Observed, now: Timestamp) -> Plan {
    let mut draft = Draft::new(&spec.name);
    if matches!(spec.reconcile, ReconcileMode::Stop | ReconcileMode::Observe) {
        draft.hold(Work::Everything, Until::Resumed { mode: spec.reconcile });
        return keep_leases(draft, spec, observed, now);
    }
    let Some(app) = draft.need(Work::Everything, Subject::App, &observed.app) else {
        return draft.finish(Verdict::Unknown);
    };
    let Some(app) = app else {
        return found::from_nothing(draft, spec, observed);
    };
    if let Some(actual) = app.organization.as_ref().filter(|o| **o != spec.organization) {
        let until =
            Until::Organization { app: spec.name.clone(), actual: actual.clone(), wanted: spec.organization.clone() };
        draft.hold(Work::Everything, until);
        return draft.finish(Verdict::Unknown);
    }
    let Some((machines, volumes)) = draft
        .need(Work::Everything, Subject::Machines, &observed.machines)
        .zip(draft.need(Work::Everything, Subject::Volumes, &observed.volumes))
    else {
        return draft.finish(Verdict::Unknown);
    };
    let census = Census::take(spec, machines, volumes, &observed.reports);
    let Some(record) = draft.need(Work::Everything, Subject::Record, &observed.record) else {
        return draft.finish(Verdict::Unknown);
    };
    if found::app_is_foreign(&mut draft, spec, &census, record.as_ref(), observed) {
        return draft.finish(Verdict::Unknown);
    }

    if let Some(until) = lead::overtaken(&census, record.as_ref()) {
        draft.hold(Work::Everything, until);
        return draft.finish(Verdict::Unknown);
    }
    let membership = Membership::of(spec, &census, record.as_ref());
    let (verdict, decree) = lead::decide(&mut draft, spec, &census, &membership, record.as_ref(), &observed.watch, now);
    let decided = decree.as_ref() != record.as_ref();
    let world = World {
        spec,
        census: &census,
        membership: &membership,
        decree: decree.as_ref(),
        decided,
        watch: &observed.watch,
        now,
    };
    lead::renew(&mut draft, &world, record.as_ref());
    let active = spec.reconcile == ReconcileMode::Active;
    if active {
        found::furnish(&mut draft, spec, observed);
        members::launch(&mut draft, &world, observed);
    } else {
        draft.hold(Work::Everything, Until::Resumed { mode: spec.reconcile });
    }
    lead::assign(&mut draft, &world);
    if active {
        tune::metadata(&mut draft, &world);
        tune::snapshots(&mut draft, &world);
        tune::unsupported(&mut draft, &world);
        // What disturbs or destroys rests on the decree that is on record, not on one that may yet lose its race.
        if !decided && decree.as_ref().is_none_or(|decree| !decree.is_electing()) {
            restart::one(&mut draft, &world);
            members::remove(&mut draft, &world);
        }
    }
    draft.finish(verdict)
}

/// Whoever changes nothing takes nothing away either: the primary keeps its lease.
fn keep_leases(mut draft: Draft, spec: &ClusterSpec, observed: &Observed, now: Timestamp) -> Plan {
    let known = observed.machines.known().zip(observed.volumes.known());
    if let (Some((machines, volumes)), Some(record)) = (known, observed.record.known()) {
        let census = Census::take(spec, machines, volumes, &observed.reports);
        let membership = Membership::of(spec, &census, record.as_ref());
        let decree = record.as_ref();
        let world = World {
            spec,
            census: &census,
            membership: &membership,
            decree,
            decided: false,
            watch: &observed.watch,
            now,
        };
        lead::renew(&mut draft, &world, decree);
    }
    draft.finish(Verdict::Unknown)
}

/// What of [`plan`] is about who leads: the record, what nodes are told, leases, proofs. Nothing in it waits for a fresh
/// look at the platform, so it can be made whenever an agent has said something.
pub fn leadership(spec: &ClusterSpec, observed: &Observed, now: Timestamp) -> Plan {
    let mut plan = plan(spec, observed, now);
    plan.steps.retain(|step| step.action.is_leadership());
    plan
}

/// Who should be primary, or what must happen before anyone may.
pub fn judge(spec: &ClusterSpec, observed: &Observed, now: Timestamp) -> Verdict {
    plan(spec, observed, now).verdict
}

/// What to do next about a cluster that left the files. `spec` is its last good one; its `deletion` decides.
pub fn plan_removal(spec: &ClusterSpec, observed: &Observed, _now: Timestamp) -> Plan {
    removal::plan(spec, observed)
}

/// What the sub-plans look at: one reading of the world, and the decree as it stands after this plan.
struct World<'a> {
    spec: &'a ClusterSpec,
    census: &'a Census<'a>,
    membership: &'a Membership,
    decree: Option<&'a Decree>,
    /// This very plan puts that decree on record.
    decided: bool,
    watch: &'a Watch,
    now: Timestamp,
}

/// Plan, apply to a model of the world, and again, until nothing is left to do: every later turn, as far as it can be
/// foreseen. The first plan is the one that would be carried out now; the last is quiet, or holds what only the world
/// or a person can release.
pub fn forecast(spec: &ClusterSpec, observed: &Observed, now: Timestamp) -> Vec<Plan> {
    foresee(observed, now, |observed, now| plan(spec, observed, now))
}

/// [`forecast`] of [`plan_removal`].
pub fn forecast_removal(spec: &ClusterSpec, observed: &Observed, now: Timestamp) -> Vec<Plan> {
    foresee(observed, now, |observed, now| plan_removal(spec, observed, now))
}

/// More turns than any operation takes on the largest cluster that a file may ask for. A forecast that is longer is a
/// bug in the planner; it is cut here and the tests fail on it.
pub const FORECAST_TURNS_MAX: usize = 400;

fn foresee(observed: &Observed, now: Timestamp, plan: impl Fn(&Observed, Timestamp) -> Plan) -> Vec<Plan> {
    let mut model = observed.clone();
    let mut turns = vec![plan(&model, now)];
    while turns.len() < FORECAST_TURNS_MAX {
        let last = turns.last().expect("one was put in above");
        if last.changes().next().is_none() {
            // A wait may end without us: let everything that was started come to its end, and look once more.
            if !settle(&mut model, now) {
                break;
            }
        } else {
            for step in &last.steps {
                apply(&mut model, &step.action, now);
            }
        }
        turns.push(plan(&model, now));
    }
    turns
}
