//! Who leads, and what every node is told about it. Comes before everything else a plan may want.

mod assign;
mod begin;
mod elect;
mod renew;
mod scene;
mod suspect;
mod terms;

pub(super) use assign::assign;
pub(super) use renew::renew;

use elect::Course;
use scene::Scene;
use suspect::Opinion;

use crate::Timestamp;
use crate::decree::{Decree, Stage};
use crate::failover::{Branch, Verdict};
use crate::observed::{Order, Watch};
use crate::plan::census::{Census, Membership};
use crate::plan::draft::Draft;
use crate::plan::{Action, Suspicion, Until, Why, Work};
use crate::spec::ClusterSpec;

/// The verdict, and the decree as it stands once this plan is carried out.
pub(super) fn decide(
    draft: &mut Draft,
    spec: &ClusterSpec,
    census: &Census<'_>,
    membership: &Membership,
    record: Option<&Decree>,
    watch: &Watch,
    now: Timestamp,
) -> (Verdict, Option<Decree>) {
    let Some(decree) = record else { return begin::begin(draft, spec, census, membership, now) };
    let scene = Scene { spec, census, membership, decree, watch, now };
    let (course, holds) = course(&scene);
    for (work, until) in holds {
        draft.hold(work, until);
    }
    let next = match course {
        None => decree.clone(),
        Some(Course::Wait(until)) => {
            let work = match &decree.stage {
                Stage::HandingOver { to } if !decree.is_electing() => Work::Switchover { to: to.clone() },
                _ => Work::Failover { node: decree.primary.clone() },
            };
            draft.hold(work, until);
            decree.clone()
        }
        Some(Course::Decide(next, why)) => {
            let action = Action::Decide {
                cluster: spec.name.clone(),
                instead_of: Some(Box::new(decree.clone())),
                decree: (*next).clone(),
            };
            draft.step(action, why);
            *next
        }
    };
    prove(draft, &Scene { decree: &next, ..scene });
    (verdict(&next), Some(next))
}

fn verdict(decree: &Decree) -> Verdict {
    let (node, epoch) = (decree.primary.clone(), decree.epoch);
    match &decree.stage {
        _ if decree.is_electing() => Verdict::Electing { node, epoch },
        Stage::Bootstrapping { .. } => Verdict::Bootstrapping { node },
        Stage::Promoting { .. } | Stage::Reaffirming { .. } => Verdict::Promoting { node, epoch },
        Stage::HandingOver { to } => Verdict::HandingOver { node, to: to.clone() },
        Stage::Established => Verdict::Leads { node, epoch },
    }
}

/// The next change of the record, or what is waited for before there is one; and what else is waited for.
fn course(scene: &Scene<'_>) -> (Option<Course>, Vec<(Work, Until)>) {
    let decree = scene.decree;
    if decree.is_electing() {
        return (Some(elect::go_on(scene)), Vec::new());
    }
    if let Stage::Bootstrapping { .. } = &decree.stage {
        return (made(scene), Vec::new());
    }
    match suspect::opinion(scene) {
        Opinion::Suspect(suspicion) => {
            let course = match suspected(scene, suspicion) {
                // What nobody may do by itself is what such an order is for.
                Course::Wait(until) if matches!(scene.watch.order, Some(Order::Failover { .. })) => {
                    terms::order(scene).unwrap_or(Course::Wait(until))
                }
                course => course,
            };
            return (Some(course), Vec::new());
        }
        Opinion::Wait(until) => {
            // A person's order does not wait for a primary that does not answer.
            let order = scene.watch.order.as_ref().and_then(|_| terms::order(scene));
            return (Some(order.unwrap_or(Course::Wait(until))), Vec::new());
        }
        Opinion::Fine => {}
    }
    match &decree.stage {
        Stage::Promoting { .. } | Stage::Reaffirming { .. } => (Some(confirmed(scene)), Vec::new()),
        Stage::HandingOver { to } => {
            if terms::is_ready(scene, to) || !scene.leading().is_some_and(|leading| leading.confirmed) {
                return (Some(Course::Wait(Until::HandedOver { node: decree.primary.clone() })), Vec::new());
            }
            let next = decree.amended(|next| next.stage = Stage::Established);
            (Some(Course::Decide(Box::new(next), Why::SwitchoverAborted { to: to.clone() })), Vec::new())
        }
        Stage::Established => match terms::order(scene) {
            Some(course) => (Some(course), Vec::new()),
            None => terms::next(scene),
        },
        Stage::Bootstrapping { .. } => (None, Vec::new()),
    }
}

/// The primary gave way as it was told, or something is wrong with it.
fn suspected(scene: &Scene<'_>, suspicion: Suspicion) -> Course {
    match &scene.decree.stage {
        Stage::HandingOver { to } if suspicion == Suspicion::GaveUp => {
            elect::attempt(scene.decree, Why::Switchover { to: to.clone() })
        }
        _ => elect::begin(scene, suspicion),
    }
}

/// The first node has made the data, and has a marker in them.
fn made(scene: &Scene<'_>) -> Option<Course> {
    let decree = scene.decree;
    let leading = scene.leading().is_some_and(|leading| leading.confirmed);
    let report = scene.primary().filter(|_| leading)?;
    let system_id = scene.node(&decree.primary)?.running()?.system_id.clone();
    let next = decree.amended(|next| {
        next.stage = Stage::Established;
        next.system_id = Some(system_id);
        next.members.insert(next.primary.clone(), scene.member(&decree.primary, report));
    });
    Some(Course::Decide(Box::new(next), Why::Bootstrapped))
}

/// The primary of this reign has its marker flushed under its rule: nobody can take the reign from it any more without
/// taking everything that was acknowledged in it (rule R10).
fn confirmed(scene: &Scene<'_>) -> Course {
    let decree = scene.decree;
    let node = decree.primary.clone();
    let Some((leading, report)) = scene.leading().filter(|leading| leading.confirmed).zip(scene.primary()) else {
        return Course::Wait(Until::MarkerConfirmed { node });
    };
    let mut lineage = decree.lineage.clone();
    if let Some(promotion) = decree.promotion() {
        let (timeline, under_way) = (promotion.timeline, scene.lineage());
        let start = leading.start.or_else(|| {
            under_way.branches().last().filter(|branch| branch.timeline == timeline).map(|branch| branch.start)
        });
        let Some(start) = start else { return Course::Wait(Until::MarkerConfirmed { node }) };
        let branch = Branch { epoch: promotion.epoch, timeline, start, node: node.clone() };
        if !lineage.append(branch) {
            let why = format!("it says that timeline {timeline} began at {start}, before the one that it left");
            return Course::Wait(Until::NodeInOrder { node, why });
        }
    }
    let next = decree.amended(|next| {
        if next.promotion().is_some() {
            next.rule = next.joint.take().unwrap_or_else(crate::failover::Rule::alone);
        }
        next.lineage = lineage;
        next.stage = Stage::Established;
        next.members.insert(next.primary.clone(), scene.member(&decree.primary, report));
    });
    Course::Decide(Box::new(next), Why::Established { node })
}

/// While an attempt runs: proof that the old primary's Machine has stopped, where the platform's word counts (F3).
fn prove(draft: &mut Draft, scene: &Scene<'_>) {
    let decree = scene.decree;
    let silent = scene.primary().is_none();
    if !decree.is_electing() || !silent || !scene.watch.proof_by_platform {
        return;
    }
    let Some(machine) = scene.node(&decree.primary).and_then(|node| node.machine) else { return };
    if machine.host_ok && machine.config.is_some() && !scene.watch.stopped.contains_key(&machine.id) {
        let action = Action::ProveStopped {
            app: scene.spec.name.clone(),
            node: decree.primary.clone(),
            machine: machine.id.clone(),
        };
        draft.step(action, Why::NotHeard);
    }
}

/// A node obeys a later record than this one: whoever wrote that decides, and no plan of ours may cross it.
pub(super) fn overtaken(census: &Census<'_>, record: Option<&Decree>) -> Option<Until> {
    let ours = record?.epoch;
    let later = census.nodes.iter().filter_map(|(name, node)| Some((name, node.report()?.promised)));
    let (node, promised) = later.max_by_key(|(_, promised)| *promised).filter(|(_, promised)| *promised > ours)?;
    Some(Until::RecordCurrent { node: node.clone(), ours, promised })
}

#[cfg(test)]
mod tests;
