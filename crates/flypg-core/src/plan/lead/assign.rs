//! What every node is told: it follows from the record, and from where everybody is.

use std::time::Duration;

use super::scene::{Scene, millis};
use crate::decree::{CommitMode, Decree, Promotion, Stage, SystemId};
use crate::failover::Branch;
use crate::names::NodeName;
use crate::observed::Power;
use crate::plan::census::Node;
use crate::plan::draft::Draft;
use crate::plan::{Action, Field, Progress, Until, Why, Work, World, members};
use crate::protocol::{Assignment, NodeReport, Peer, PeerRole, PgRole, Phase, Task, Terms};

/// Tells every node that stays what it is now, where that differs from what it obeys; holds for those that are not
/// where they should be yet.
pub(in crate::plan) fn assign(draft: &mut Draft, world: &World<'_>) {
    if world.decree.is_none() && world.membership.joining.is_empty() {
        for name in &world.membership.staying {
            let node = world.census.get(name);
            if let Some(node) = node.filter(|n| n.machine.is_some() && n.report().is_none()) {
                answers(draft, name, node);
            }
        }
    }
    let Some(decree) = world.decree else { return };
    let leaving = world.membership.leaving.iter().map(|(name, ..)| name);
    // A node that is to go still counts until the rule has let it go.
    let counting = leaving.filter(|name| decree.members.contains_key(*name));
    for name in world.membership.staying.iter().chain(counting) {
        let Some(node) = world.census.get(name) else { continue };
        let heard = node.machine.is_some_and(|machine| world.watch.missed(&machine.id) == 0);
        let report = node.report().filter(|_| heard);
        let is_up = |machine: &&crate::observed::Machine| machine.power == Power::Started || report.is_some();
        let Some(address) = node.machine.filter(is_up).and_then(|m| m.address) else {
            continue; // being started, or held, by whoever launches Machines
        };
        let Some(report) = report else {
            answers(draft, name, node);
            continue;
        };
        if decree.epoch > report.promised
            && let Some(left) = pledged_for(world, node, report)
        {
            let left_ms = millis(left).max(1);
            let work = match decree.is_electing() {
                true => Work::Failover { node: decree.primary.clone() },
                false => Work::Join { node: name.clone() },
            };
            draft.hold(work, Until::PledgeOver { node: name.clone(), left_ms });
            continue;
        }
        let Some(task) = task(draft, world, decree, name, report) else { continue };
        let assignment = Assignment {
            cluster: world.spec.name.clone(),
            node: name.clone(),
            epoch: decree.epoch,
            revision: decree.revision,
            task,
            peers: peers(world, decree, name),
            profile: decree.profile,
            parameters: world.spec.postgres.parameters.clone(),
        };
        if report.assignment.as_deref() == Some(assignment.digest().as_str()) {
            // Whoever waits for recruits holds for all of them at once.
            if !decree.is_electing() {
                progress(draft, world, decree, name, node, report);
            }
        } else {
            let parameters = report.postgres.as_ref().map(|pg| &pg.parameters);
            let why = match () {
                () if report.assignment.is_none() => Why::NotTold,
                () if world.decided && matches!(decree.stage, Stage::Bootstrapping { .. }) => Why::Bootstrapped,
                () if report.promised != decree.epoch || moves(report, &assignment.task) => Why::RoleChanged,
                () if parameters.is_some_and(|p| *p != assignment.parameters) => Why::FileChanged,
                () => Why::OthersChanged,
            };
            let machine = report.machine.clone();
            draft.step(Action::Assign { machine, address, assignment: Box::new(assignment) }, why);
        }
    }
}

/// How long a node is still bound by the pledge that it last spoke of; `None` if that is over. It is asked then, not
/// before.
fn pledged_for(world: &World<'_>, node: &Node<'_>, report: &NodeReport) -> Option<Duration> {
    let heard = world.watch.pulses.get(&node.machine?.id)?.heard?;
    let left = report.pledged_for?.saturating_sub(world.watch.now.since(heard));
    (!left.is_zero()).then_some(left)
}

/// True if the task is another one than the node is seen at.
fn moves(report: &NodeReport, task: &Task) -> bool {
    let role = report.postgres.as_ref().map(|pg| &pg.role);
    match task {
        Task::Recruit { .. } | Task::Promote { .. } | Task::Reaffirm { .. } | Task::HandOver { .. } => true,
        Task::Bootstrap { .. } | Task::Lead { .. } => matches!(role, Some(PgRole::Standby { .. })),
        Task::Follow { primary, .. } => match role {
            Some(PgRole::Standby { streaming_from, .. }) => streaming_from.as_ref().is_some_and(|from| from != primary),
            Some(PgRole::Primary { .. }) => true,
            None => false,
        },
    }
}

fn answers(draft: &mut Draft, name: &NodeName, node: &Node<'_>) {
    let until = match node.rejects_our_key() {
        true => Until::KeyAccepted { node: name.clone() },
        false => Until::AgentAnswers { node: name.clone(), error: node.silence() },
    };
    draft.hold(Work::Join { node: name.clone() }, until);
}

/// What `name` is to do, or a hold that says what it waits for.
fn task(draft: &mut Draft, world: &World<'_>, decree: &Decree, name: &NodeName, report: &NodeReport) -> Option<Task> {
    let work = || Work::Join { node: name.clone() };
    if decree.is_electing() {
        // Whoever was never told anything has nothing to promise with.
        let recruit = || Task::Recruit { primary: decree.primary.clone() };
        return report.assignment.is_some().then(recruit);
    }
    let leads = decree.primary == *name;
    if let Phase::Quarantined { why } = &report.phase {
        draft.hold(work(), Until::NodeInOrder { node: name.clone(), why: why.clone() });
        // Whom to follow, and that it may be made anew, may be what puts it right. One without a ledger obeys nothing.
        if leads || report.assignment.is_none() {
            return None;
        }
    }
    if let Stage::Bootstrapping { nonce } = &decree.stage {
        if leads {
            return Some(Task::Bootstrap { nonce: nonce.clone() });
        }
        draft.hold(work(), Until::Bootstrapped { node: decree.primary.clone() });
        return None;
    }
    let system_id = decree.system_id()?;
    if let Some(other) = report.postgres.as_ref().map(|pg| &pg.system_id).filter(|id| *id != system_id) {
        let why = format!("its data belong to another cluster (system identifier {})", other.0);
        draft.hold(work(), Until::NodeInOrder { node: name.clone(), why });
        return None;
    }
    if leads && is_an_older_state(world, decree, name, report) {
        let why = "its volume is not the one that it led with, and may be an older state of it".to_owned();
        draft.hold(work(), Until::NodeInOrder { node: name.clone(), why });
        return None;
    }
    if leads {
        return Some(lead(decree, system_id));
    }
    // A node that follows already is told of every change; one that does not is told once the primary keeps WAL for
    // it, so that its clone cannot begin with a gap.
    let primary = world.census.get(&decree.primary);
    let slot = primary
        .and_then(|n| n.running())
        .is_some_and(|pg| matches!(&pg.role, PgRole::Primary { slots, .. } if slots.contains_key(&name.slot())));
    if slot || report.assignment.is_some() {
        // Only a primary that is sure of its reign, and that others can be rewound to, is worth wiping a copy for. One
        // that was promoted and is not sure may be waiting for just this node; what was acknowledged it has. Nobody else
        // gives up a copy while that is the only other one that is known.
        let leading = primary.and_then(|n| n.report()).and_then(NodeReport::leading);
        let begun = leading.and_then(|leading| leading.start);
        let waits =
            decree.mode == CommitMode::Synchronous && decree.rule_told().members().contains(name) && begun.is_some();
        let remake = members::copies(world).may_remake(name, waits).is_ok();
        let mut lineage = decree.lineage.clone();
        if let (Some(promotion), Some(start)) = (decree.promotion(), begun) {
            let (epoch, node) = (promotion.epoch, decree.primary.clone());
            // Put on record once the promotion is established; whoever follows is on it before.
            let _ = lineage.append(Branch { epoch, timeline: promotion.timeline, start, node });
        }
        return Some(Task::Follow { primary: decree.primary.clone(), system_id: system_id.clone(), lineage, remake });
    }
    draft.hold(work(), Until::PrimaryAnswers { node: decree.primary.clone() });
    None
}

/// The primary may have come back from a snapshot, and there are others that may have what it lacks: its word alone makes
/// them promise to replace it by nobody, so it is told nothing (rule R17). One that is alone is all that there is.
fn is_an_older_state(world: &World<'_>, decree: &Decree, name: &NodeName, report: &NodeReport) -> bool {
    let others = decree.members.keys().any(|member| member != name);
    others && !Scene::of(world, decree).is_known(name, report)
}

/// What the primary on record is told.
fn lead(decree: &Decree, system_id: &SystemId) -> Task {
    let system_id = system_id.clone();
    let terms = Terms {
        nonce: decree.nonce().unwrap_or_default().to_owned(),
        rule: decree.rule_told().clone(),
        pledges: decree.pledges(),
    };
    match &decree.stage {
        Stage::Promoting { promotion: Promotion { timeline, .. }, .. } => {
            let used = decree.lineage.branches().last().map_or(0, |branch| branch.timeline);
            Task::Promote { system_id, timeline: *timeline, burnt: (used + 1..*timeline).collect(), terms }
        }
        Stage::Reaffirming { .. } => Task::Reaffirm { system_id, terms },
        Stage::HandingOver { to } => Task::HandOver { system_id, terms, to: to.clone() },
        Stage::Established | Stage::Bootstrapping { .. } => Task::Lead { system_id, terms },
    }
}

/// Every node that has an address and stays, or is counted on until the rule has let it go: this one's region first, then
/// the primary's, then by name. One that the list of Machines lacks is not gone (invariant I10): while the file wants it,
/// it keeps the address at which it was last found to be a whole copy, and with it its slot and its stream.
fn peers(world: &World<'_>, decree: &Decree, me: &NodeName) -> Vec<Peer> {
    // While nobody is known to lead, routers let clients wait.
    let leads = decree.system_id().is_some() && !decree.is_electing();
    let leaving = world.membership.leaving.iter().map(|(name, ..)| name);
    let counting = leaving.filter(|name| decree.counts(name) || **name == decree.primary);
    let staying = world.membership.staying.iter();
    let has_machine = |name: &NodeName| world.census.get(name).is_some_and(|node| node.machine.is_some());
    let unlisted =
        decree.members.keys().filter(|name| world.membership.joining.contains_key(*name) && !has_machine(name));
    let mut peers: Vec<Peer> = staying
        .chain(counting)
        .chain(unlisted)
        .filter_map(|name| {
            let node = world.census.get(name);
            let role = match () {
                () if leads && *name == decree.primary => PeerRole::Primary,
                () if node.is_some_and(|node| node.streams_from(&decree.primary)) => PeerRole::Standby,
                () => PeerRole::Joining,
            };
            let address = match node.and_then(|node| node.machine) {
                Some(machine) => machine.address?,
                None => decree.members.get(name)?.address?,
            };
            Some(Peer { node: name.clone(), address, role })
        })
        .collect();
    let distance = |p: &Peer| (p.node.region != me.region, p.node.region != decree.primary.region, p.node.clone());
    peers.sort_by_key(distance);
    peers
}

/// A node that obeys its assignment: what is still missing until it is where the assignment wants it.
fn progress(
    draft: &mut Draft,
    world: &World<'_>,
    decree: &Decree,
    name: &NodeName,
    node: &Node<'_>,
    report: &NodeReport,
) {
    let wait = |progress| Until::Ready { node: name.clone(), progress };
    let until = match &report.phase {
        // The record says that it leads only once its marker is safe: until then nothing is done yet.
        Phase::Running if node.leads() && matches!(decree.stage, Stage::Bootstrapping { .. }) => {
            Until::MarkerConfirmed { node: name.clone() }
        }
        Phase::Running if *name == decree.primary => {
            if node.leads() {
                return read(draft, world, name, node);
            }
            if let Stage::Promoting { .. } = decree.stage {
                return; // whoever waits for its marker holds for it
            }
            let why = "it is the primary on record and runs as a standby".to_owned();
            Until::NodeInOrder { node: name.clone(), why }
        }
        // It is counted on only once it is sure to be a whole copy: the rule changes then, and is not what it will be.
        Phase::Running if node.streams_from(&decree.primary) && !Scene::of(world, decree).is_admitted(name) => {
            Until::CaughtUp { node: name.clone() }
        }
        Phase::Running if node.streams_from(&decree.primary) => return read(draft, world, name, node),
        Phase::Running => Until::Streams { node: name.clone() },
        Phase::Initialising => wait(Progress::Initialising),
        Phase::Cloning { done, total } => wait(Progress::Cloning { done: *done, total: *total }),
        Phase::Blank | Phase::Idle | Phase::Starting | Phase::Stopping => wait(Progress::Starting),
        Phase::Failing { why } => wait(Progress::Failing { why: why.clone() }),
        Phase::Quarantined { .. } => return, // held for by whoever told it what to do
    };
    let work = if decree.system_id().is_none() { Work::Bootstrap } else { Work::Join { node: name.clone() } };
    draft.hold(work, until);
}

/// Parameters that Postgres has not read yet, or would not take: it runs on without those, and a person must hear of it.
fn read(draft: &mut Draft, world: &World<'_>, name: &NodeName, node: &Node<'_>) {
    let Some(pg) = node.running() else { return };
    let work = Work::Change { node: name.clone(), field: Field::Parameters };
    if !node.has_read(&world.spec.postgres.parameters) || !pg.withheld.is_empty() {
        draft.hold(work, Until::ParametersRead { node: name.clone() });
    } else if !pg.rejected.is_empty() {
        draft.hold(work, Until::ParametersAccepted { rejected: pg.rejected.clone() });
    }
}
