//! Nodes come and go: volumes and Machines are made, started, stopped and destroyed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::failover::{Copies, Keep};
use crate::names::NodeName;
use crate::observed::{Machine, Observed, Power, metadata};
use crate::plan::draft::Draft;
use crate::plan::{Action, MachineSpec, Risk, Subject, Until, Why, Work, World, found};
use crate::protocol::{NodeReport, env};
use crate::spec::{ClusterSpec, Deletion};

/// A report of the primary that is older does not tell that its copy is good.
const SEEN_LATELY: Duration = Duration::from_secs(5);

/// Makes the nodes that are missing, and starts the ones that do not run.
pub(super) fn launch(draft: &mut Draft, world: &World<'_>, observed: &Observed) {
    for (name, &(have, wanted)) in &world.membership.joining {
        join(draft, world, observed, name, Why::Grow { have, wanted });
    }
    for name in &world.membership.staying {
        let machine = world.census.get(name).and_then(|n| n.machine);
        if let Some(machine) = machine {
            start(draft, world.spec, name, machine);
        }
    }
}

fn join(draft: &mut Draft, world: &World<'_>, observed: &Observed, name: &NodeName, why: Why) {
    let work = || Work::Join { node: name.clone() };
    let node = world.census.get(name);
    let leads = world.decree.is_some_and(|d| d.primary == *name && d.system_id().is_some());
    let Some(volume) = node.and_then(|n| n.free_volume()) else {
        if leads {
            // A blank volume cannot lead. Another node may, and that is a failover; never a new beginning.
            draft.hold(work(), Until::PrimaryExists { node: name.clone() });
        } else if node.is_some_and(|n| !n.volumes.is_empty()) {
            // Still claimed by a Machine that is gone from the list: the claim ends by itself.
            draft.hold(work(), Until::MachineSettled { node: name.clone() });
        } else {
            draft.step(found::volume(world.spec, name), why);
        }
        return;
    };
    if !volume.host_ok {
        draft.hold(work(), Until::HostReturns { node: name.clone() });
        return;
    }
    // A Machine made before its secret is there would boot without it.
    let Some(secrets) = draft.need(work(), Subject::Secrets, &observed.secrets) else { return };
    if secrets.contains_key(env::CLUSTER_KEY) {
        let epoch = world.decree.map_or(1, |d| d.epoch.0); // a cluster is bootstrapped in epoch 1
        let machine = Box::new(machine(world.spec, name, &volume.id, epoch));
        draft.step(Action::CreateMachine { app: world.spec.name.clone(), machine }, why);
    }
}

/// The Machine of a node, complete.
fn machine(spec: &ClusterSpec, node: &NodeName, volume: &str, epoch: u64) -> MachineSpec {
    MachineSpec {
        node: node.clone(),
        region: node.region.clone(),
        image: spec.postgres.image(),
        guest: spec.guest.clone(),
        env: environment(spec, node),
        metadata: BTreeMap::from([
            (metadata::CLUSTER.to_owned(), spec.name.to_string()),
            (metadata::NODE.to_owned(), node.to_string()),
            (metadata::ROLE.to_owned(), "replica".to_owned()),
            (metadata::EPOCH.to_owned(), epoch.to_string()),
        ]),
        volume: volume.to_owned(),
    }
}

fn environment(spec: &ClusterSpec, node: &NodeName) -> BTreeMap<String, String> {
    BTreeMap::from([
        (env::CLUSTER.to_owned(), spec.name.to_string()),
        (env::NODE.to_owned(), node.to_string()),
        (env::POSTGRES_MAJOR.to_owned(), spec.postgres.major.to_string()),
        // Fly's tools set it from fly.toml; some clients' libraries look for it.
        ("PRIMARY_REGION".to_owned(), spec.primary.code.to_string()),
    ])
}

fn start(draft: &mut Draft, spec: &ClusterSpec, name: &NodeName, machine: &Machine) {
    let settled = || Until::MachineSettled { node: name.clone() };
    let work = || Work::Join { node: name.clone() };
    if !machine.host_ok {
        draft.hold(work(), Until::HostReturns { node: name.clone() });
        return;
    }
    match machine.power {
        Power::Started => {}
        // `created` becomes `stopped` or `started` when it is prepared; a start before that is refused.
        Power::Created | Power::Changing | Power::Destroying => draft.hold(work(), settled()),
        Power::Stopped | Power::Suspended | Power::Failed => {
            let action =
                Action::StartMachine { app: spec.name.clone(), node: name.clone(), machine: machine.id.clone() };
            draft.step(action, Why::NotRunning);
        }
    }
}

/// Takes one node away that the file does not want any more, and the volumes that may go.
pub(super) fn remove(draft: &mut Draft, world: &World<'_>) {
    let copies = copies(world);
    let mut before: Option<Work> = None;
    for (name, have, wanted) in &world.membership.leaving {
        let work = Work::Remove { node: name.clone() };
        if let Some(first) = before.clone() {
            draft.hold(work, Until::After { work: Box::new(first) });
            continue;
        }
        match copies.may_destroy(name) {
            Ok(()) => {
                let why = match wanted {
                    0 => Why::RegionLeft,
                    _ => Why::Shrink { have: *have, wanted: *wanted },
                };
                let machine = world.census.get(name).and_then(|n| n.machine);
                machine.into_iter().for_each(|machine| take_down(draft, world.spec, name, machine, &work, why.clone()));
            }
            Err(Keep::Leader) => draft.hold(work.clone(), Until::AnotherLeads { node: name.clone() }),
            Err(Keep::Counts) => draft.hold(work.clone(), Until::After { work: Box::new(Work::Rule) }),
            Err(Keep::NoOtherCopy) => {
                let primary = world.decree.map_or_else(|| world.spec.first_node(), |d| d.primary.clone());
                draft.hold(work.clone(), Until::PrimaryAnswers { node: primary });
            }
        }
        before = Some(work);
    }
    if world.spec.deletion == Deletion::Delete {
        volumes(draft, world, copies);
    }
}

/// What is known of the other copies of the data of whoever is to be removed, or made anew.
pub(super) fn copies<'a>(world: &World<'a>) -> Copies<'a> {
    let primary = world.decree.and_then(|d| world.census.get(&d.primary));
    // What a controller was told before it stood still for a while says nothing about now, even where it reads that only
    // now (protocol I8: seen < 5 s ago).
    let asked = |machine: &Machine| world.watch.pulses.get(&machine.id).and_then(|pulse| pulse.asked);
    let lately = primary
        .and_then(|node| node.machine)
        .and_then(asked)
        .is_none_or(|asked| world.watch.now.since(asked) < SEEN_LATELY);
    let leading = primary.and_then(|node| node.report()).and_then(NodeReport::leading);
    Copies {
        decree: world.decree,
        primary_runs: lately && primary.is_some_and(|n| n.is_sure()),
        primary_checkpointed: lately && leading.is_some_and(|leading| leading.checkpointed),
    }
}

/// The next act of a clean removal: stop, wait, destroy.
pub(super) fn take_down(
    draft: &mut Draft,
    spec: &ClusterSpec,
    name: &NodeName,
    machine: &Machine,
    work: &Work,
    why: Why,
) {
    let (app, node, id) = (spec.name.clone(), name.clone(), machine.id.clone());
    if machine.config.is_none() {
        // Its host hides the metadata: by its name alone it is nobody's to destroy.
        return draft.hold(work.clone(), Until::HostReturns { node });
    }
    match machine.power {
        Power::Started => draft.step(Action::StopMachine { app, node, machine: id }, why),
        Power::Stopped | Power::Suspended | Power::Failed | Power::Created => {
            draft.step(Action::DestroyMachine { app, node, machine: id }, why);
        }
        Power::Changing | Power::Destroying => draft.hold(work.clone(), Until::MachineSettled { node }),
    }
}

/// Volumes of nodes that are not wanted, detached, where the file lets data go.
fn volumes(draft: &mut Draft, world: &World<'_>, copies: Copies<'_>) {
    for (name, node) in &world.census.nodes {
        // A node with a Machine still uses, or may still be writing to, one of its volumes.
        if node.machine.is_some() || world.membership.wants(name) || copies.may_destroy(name).is_err() {
            continue;
        }
        for volume in node.volumes.iter().filter(|v| v.attached_to.is_none()) {
            let action =
                Action::DeleteVolume { app: world.spec.name.clone(), node: name.clone(), volume: volume.id.clone() };
            draft.risky(action, Why::NodeRemoved, Risk::DataLoss, None);
        }
    }
}
