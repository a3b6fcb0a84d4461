//! Who leads, and what every node is told.

use std::collections::BTreeSet;

use crate::Timestamp;
use crate::decree::{Decree, Epoch, Stage, SystemId};
use crate::failover::Verdict;
use crate::names::NodeName;
use crate::plan::census::{Census, Membership, Node};
use crate::plan::draft::Draft;
use crate::plan::{Action, Field, Progress, Until, Why, Work, World};
use crate::protocol::{Assignment, NodeReport, Peer, PeerRole, PgRole, Phase, Task};
use crate::spec::ClusterSpec;

/// A record that was lost is replaced by one with an epoch that none of the lost ones can have reached.
const EPOCHS_SKIPPED: u64 = 1000;

/// The verdict, and the decree as it stands once this plan is carried out.
pub(super) fn decide(
    draft: &mut Draft,
    spec: &ClusterSpec,
    census: &Census<'_>,
    membership: &Membership,
    record: Option<&Decree>,
    now: Timestamp,
) -> (Verdict, Option<Decree>) {
    let Some(decree) = record else { return begin(draft, spec, census, membership, now) };
    match &decree.stage {
        Stage::Established | Stage::Promoting { .. } | Stage::Reaffirming { .. } | Stage::HandingOver { .. } => {
            let verdict = Verdict::Leads { node: decree.primary.clone(), epoch: decree.epoch };
            (verdict, Some(decree.clone()))
        }
        Stage::Bootstrapping { .. } => {
            let first = census.get(&decree.primary).filter(|node| node.leads());
            let Some(system_id) = first.and_then(|node| node.running()).map(|pg| pg.system_id.clone()) else {
                return (Verdict::Bootstrapping { node: decree.primary.clone() }, Some(decree.clone()));
            };
            let established = decree.amended(|next| {
                next.stage = Stage::Established;
                next.system_id = Some(system_id);
            });
            draft.step(
                Action::Decide {
                    cluster: spec.name.clone(),
                    instead_of: Some(decree.clone()),
                    decree: established.clone(),
                },
                Why::Bootstrapped,
            );
            (Verdict::Leads { node: decree.primary.clone(), epoch: decree.epoch }, Some(established))
        }
    }
}

/// A node obeys a later record than this one: whoever wrote that decides, and no plan of ours may cross it.
pub(super) fn overtaken(census: &Census<'_>, record: Option<&Decree>) -> Option<Until> {
    let ours = record?.epoch;
    let later = census.nodes.iter().filter_map(|(name, node)| Some((name, node.report()?.promised)));
    let (node, promised) = later.max_by_key(|(_, promised)| *promised).filter(|(_, promised)| *promised > ours)?;
    Some(Until::RecordCurrent { node: node.clone(), ours, promised })
}

/// There is no record: either nothing was ever begun, or it was lost. Whatever may hold data must be accounted for
/// before either is believed.
fn begin(
    draft: &mut Draft,
    spec: &ClusterSpec,
    census: &Census<'_>,
    membership: &Membership,
    now: Timestamp,
) -> (Verdict, Option<Decree>) {
    let first = membership
        .staying
        .iter()
        .chain(membership.joining.keys())
        .find(|name| name.region == spec.primary.code)
        .cloned()
        .unwrap_or_else(|| spec.first_node());

    let reports: Vec<(&NodeName, &NodeReport)> =
        census.nodes.iter().filter_map(|(name, node)| Some((name, node.report()?))).collect();
    let silent: Vec<NodeName> = census
        .nodes
        .iter()
        .filter(|(name, node)| node.report().is_none() && !membership.wants(name))
        .map(|(name, _)| name.clone())
        .collect();
    if !silent.is_empty() {
        draft.hold(Work::Bootstrap, Until::Accounted { nodes: silent });
        return (Verdict::Unknown, None);
    }
    if census.nodes.values().any(Node::rejects_our_key) {
        return (Verdict::Unknown, None); // somebody else's cluster, or ours with the wrong key: nothing begins here
    }
    // Nodes that are wanted are being made or started by this very plan; until all have spoken there is time.
    let waited = |node: &Node<'_>| node.report().is_none();
    if census.nodes.is_empty() || census.nodes.values().any(waited) || !membership.joining.is_empty() {
        return (Verdict::Bootstrap { node: first }, None);
    }
    if reports.iter().all(|(_, report)| report.phase == Phase::Blank && report.assignment.is_none()) {
        let nonce = crate::digest::short(format!("{}/{first}/{now}", spec.name).as_bytes());
        let decree = Decree::first(first.clone(), nonce, spec.durability.commit_mode(), spec.failover.profile);
        draft.step(
            Action::Decide { cluster: spec.name.clone(), instead_of: None, decree: decree.clone() },
            Why::FirstNode,
        );
        return (Verdict::Bootstrapping { node: first }, Some(decree));
    }
    adopt(draft, spec, census, &reports)
}

/// The nodes hold data and the record is gone. Exactly one that leads, and one identity, or nothing is done.
fn adopt(
    draft: &mut Draft,
    spec: &ClusterSpec,
    census: &Census<'_>,
    reports: &[(&NodeName, &NodeReport)],
) -> (Verdict, Option<Decree>) {
    let identities: BTreeSet<&SystemId> =
        reports.iter().filter_map(|(_, r)| Some(&r.postgres.as_ref()?.system_id)).collect();
    let leaders: Vec<&NodeName> =
        reports.iter().map(|(name, _)| *name).filter(|n| census.get(n).is_some_and(|n| n.leads())).collect();
    let starting = |report: &NodeReport| matches!(report.phase, Phase::Initialising | Phase::Starting);
    let (&[leader], 1) = (leaders.as_slice(), identities.len()) else {
        let coming = reports.iter().find(|(_, report)| starting(report)).filter(|_| leaders.is_empty());
        if let Some((node, _)) = coming {
            let node = (*node).clone();
            draft.hold(Work::Bootstrap, Until::Ready { node, progress: Progress::Starting });
        } else {
            let nodes = reports.iter().map(|(name, _)| (*name).clone()).collect();
            draft.hold(Work::Bootstrap, Until::OneLineage { nodes });
        }
        return (Verdict::Unknown, None);
    };
    let system_id = (*identities.first().expect("there is one")).clone();
    let promised = reports.iter().map(|(_, r)| r.promised).max().unwrap_or_default();
    let mut decree = Decree::first(leader.clone(), String::new(), spec.durability.commit_mode(), spec.failover.profile);
    decree.epoch = Epoch(promised.0 + EPOCHS_SKIPPED);
    decree.reign = decree.epoch;
    decree.stage = Stage::Established;
    decree.system_id = Some(system_id);
    draft
        .step(Action::Decide { cluster: spec.name.clone(), instead_of: None, decree: decree.clone() }, Why::RecordLost);
    (Verdict::Adopt { node: leader.clone() }, Some(decree))
}

/// Tells every node that stays what it is now, where that differs from what it obeys; holds for those that are not
/// where they should be yet.
pub(super) fn assign(draft: &mut Draft, world: &World<'_>) {
    if world.decree.is_none() && world.membership.joining.is_empty() {
        for name in &world.membership.staying {
            let node = world.census.get(name);
            if let Some(node) = node.filter(|n| n.machine.is_some() && n.report().is_none()) {
                answers(draft, name, node);
            }
        }
    }
    let Some(decree) = world.decree else { return };
    for name in &world.membership.staying {
        let Some(node) = world.census.get(name) else { continue };
        let Some(address) = node.machine.filter(|m| m.power == crate::observed::Power::Started).and_then(|m| m.address)
        else {
            continue; // being started, or held, by whoever launches Machines
        };
        let Some(report) = node.report() else {
            answers(draft, name, node);
            continue;
        };
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
            progress(draft, world, decree, name, node, report);
        } else {
            let parameters = report.postgres.as_ref().map(|pg| &pg.parameters);
            let why = match () {
                () if report.assignment.is_none() => Why::NotTold,
                () if world.decided && *name == decree.primary => Why::Bootstrapped,
                () if report.promised != decree.epoch || moves(report, &assignment.task) => Why::RoleChanged,
                () if parameters.is_some_and(|p| *p != assignment.parameters) => Why::FileChanged,
                () => Why::OthersChanged,
            };
            let machine = report.machine.clone();
            draft.step(Action::Assign { machine, address, assignment: Box::new(assignment) }, why);
        }
    }
}

/// True if the task is another role than the node has now.
fn moves(report: &NodeReport, task: &Task) -> bool {
    let leads = report.postgres.as_ref().map(|pg| matches!(pg.role, PgRole::Primary { .. }));
    leads.is_some_and(|leads| leads == matches!(task, Task::Follow { .. }))
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
    if let Phase::Quarantined { why } = &report.phase {
        draft.hold(work(), Until::NodeInOrder { node: name.clone(), why: why.clone() });
        return None;
    }
    let leads = decree.primary == *name;
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
    if leads {
        let nonce = decree.nonce().unwrap_or_default().to_owned();
        let terms = crate::protocol::Terms { nonce, rule: decree.rule_told().clone(), pledges: decree.pledges() };
        return Some(Task::Lead { system_id: system_id.clone(), terms });
    }
    // A node that follows already is told of every change; one that does not is told once the primary keeps WAL for
    // it, so that its clone cannot begin with a gap.
    let primary = world.census.get(&decree.primary);
    let slot = primary
        .and_then(|n| n.running())
        .is_some_and(|pg| matches!(&pg.role, PgRole::Primary { slots, .. } if slots.contains_key(&name.slot())));
    if slot || report.assignment.is_some() {
        let lineage = decree.lineage.clone();
        return Some(Task::Follow {
            primary: decree.primary.clone(),
            system_id: system_id.clone(),
            lineage,
            remake: true,
        });
    }
    draft.hold(work(), Until::PrimaryAnswers { node: decree.primary.clone() });
    None
}

/// Every node that stays and has an address: this one's region first, then the primary's, then by name.
fn peers(world: &World<'_>, decree: &Decree, me: &NodeName) -> Vec<Peer> {
    let established = decree.system_id().is_some();
    let mut peers: Vec<Peer> = world
        .membership
        .staying
        .iter()
        .filter_map(|name| {
            let node = world.census.get(name)?;
            let role = match () {
                () if established && *name == decree.primary => PeerRole::Primary,
                () if node.streams_from(&decree.primary) => PeerRole::Standby,
                () => PeerRole::Joining,
            };
            Some(Peer { node: name.clone(), address: node.machine?.address?, role })
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
        Phase::Running if *name == decree.primary => {
            if node.leads() {
                return read(draft, world, name, node);
            }
            let why = "it is the primary on record and runs as a standby".to_owned();
            Until::NodeInOrder { node: name.clone(), why }
        }
        Phase::Running if node.streams_from(&decree.primary) => return read(draft, world, name, node),
        Phase::Running => Until::Streams { node: name.clone() },
        Phase::Initialising => wait(Progress::Initialising),
        Phase::Cloning { done, total } => wait(Progress::Cloning { done: *done, total: *total }),
        Phase::Blank | Phase::Idle | Phase::Starting | Phase::Stopping => wait(Progress::Starting),
        Phase::Failing { why } => wait(Progress::Failing { why: why.clone() }),
        Phase::Quarantined { why } => Until::NodeInOrder { node: name.clone(), why: why.clone() },
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
