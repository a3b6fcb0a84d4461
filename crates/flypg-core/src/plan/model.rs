//! A model of the world, just good enough to foresee: every call succeeds, every node does what it is told, at once.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::Timestamp;
use crate::decree::SystemId;
use crate::failover::lease::Mono;
use crate::failover::{History, Rule, Switch};
use crate::names::NodeName;
use crate::observed::{Address, App, Machine, MachineConfig, Observed, Power, Seen, Unknown, Volume};
use crate::plan::Action;
use crate::protocol::{
    Assignment, End, Gate, Leading, Lsn, NodeReport, PgReport, PgRole, Phase, ReplicaReport, Standing, Task, env,
};
use crate::settings;

/// What a digest, id or time is called before it is known.
const LATER: &str = "(known after apply)";

/// Does to `world` what `action` would do to the real one.
pub fn apply(world: &mut Observed, action: &Action, now: Timestamp) {
    match action {
        Action::CreateApp { organization, .. } => {
            world.app = Seen::at(now, Some(App { organization: Some(organization.clone()) }));
            world.secrets = Seen::at(now, BTreeMap::new());
            world.addresses = Seen::at(now, Vec::new());
            world.machines = Seen::at(now, Vec::new());
            world.volumes = Seen::at(now, Vec::new());
        }
        Action::SetClusterKey { .. } => {
            if let Some(secrets) = world.secrets.known_mut() {
                secrets.insert(env::CLUSTER_KEY.to_owned(), LATER.to_owned());
            }
        }
        Action::AllocateFlycast { .. } => {
            if let Some(addresses) = world.addresses.known_mut() {
                addresses.push(Address { ip: LATER.to_owned(), flycast: true });
            }
        }
        Action::ReleaseFlycast { ip, .. } => {
            if let Some(addresses) = world.addresses.known_mut() {
                addresses.retain(|a| a.ip != *ip);
            }
        }
        Action::CreateVolume { name, region, size_gb, snapshots, .. } => {
            if let Some(volumes) = world.volumes.known_mut() {
                volumes.push(Volume {
                    id: format!("volume of {name}"),
                    name: name.clone(),
                    region: region.to_string(),
                    size_gb: *size_gb,
                    attached_to: None,
                    snapshots: *snapshots,
                    host_ok: true,
                    created_at: LATER.to_owned(),
                });
            }
        }
        Action::SetSnapshotPolicy { volume, snapshots, .. } => {
            edit(world.volumes.known_mut(), |v| v.id == *volume, |v| v.snapshots = *snapshots);
        }
        Action::CreateMachine { machine, .. } => create_machine(world, machine, now),
        Action::StartMachine { machine, node, app } => {
            edit(world.machines.known_mut(), |m| m.id == *machine, |m| m.power = Power::Started);
            let blank = blank(app, node, machine);
            world.reports.entry(machine.clone()).or_insert_with(|| Seen::at(now, blank));
        }
        Action::SetMetadata { machine, metadata, .. } => edit(
            world.machines.known_mut(),
            |m| m.id == *machine,
            |m| {
                if let Some(config) = &mut m.config {
                    config.metadata.extend(metadata.clone());
                }
            },
        ),
        Action::Decide { decree, .. } => world.record = Seen::at(now, Some(decree.clone())),
        Action::Assign { machine, assignment, .. } => assign(world, machine, assignment),
        Action::Renew { .. } | Action::ProveStopped { .. } => {}
        Action::RestartPostgres { machine, .. } => {
            if let Some(pg) = postgres(world, machine) {
                pg.pending_restart.clear();
            }
        }
        Action::StopMachine { machine, .. } => {
            edit(world.machines.known_mut(), |m| m.id == *machine, |m| m.power = Power::Stopped);
            world.reports.remove(machine);
        }
        Action::DestroyMachine { machine, .. } => {
            if let Some(machines) = world.machines.known_mut() {
                machines.retain(|m| m.id != *machine);
            }
            world.reports.remove(machine);
            edit(world.volumes.known_mut(), |v| v.attached_to.as_ref() == Some(machine), |v| v.attached_to = None);
        }
        Action::DeleteVolume { volume, .. } => {
            if let Some(volumes) = world.volumes.known_mut() {
                volumes.retain(|v| v.id != *volume);
            }
        }
        Action::DeleteApp { .. } => world.app = Seen::at(now, None),
        Action::Forget { .. } => world.record = Seen::at(now, None),
    }
    stream(world);
}

/// Lets everything that is under way come to its end. False if nothing was.
pub fn settle(world: &mut Observed, now: Timestamp) -> bool {
    let before = world.clone();
    let mut silent = Vec::new();
    if let Some(machines) = world.machines.known_mut() {
        machines.retain(|m| m.power != Power::Destroying);
        for machine in machines.iter_mut().filter(|m| m.host_ok) {
            match machine.power {
                Power::Created | Power::Changing => machine.power = Power::Started,
                Power::Started | Power::Stopped | Power::Suspended | Power::Failed | Power::Destroying => {}
            }
            let unheard = match world.reports.get(&machine.id) {
                None => true,
                Some(Seen::Unknown { why: Unknown::Forbidden { .. } }) => false, // it will not let us in later either
                Some(report) => report.known().is_none(),
            };
            if machine.power == Power::Started && unheard {
                silent.push((machine.id.clone(), machine.config.clone()));
            }
        }
    }
    for (id, config) in silent {
        let Some(config) = config else { continue };
        let named = |key: &str| config.env.get(key).cloned();
        let Some((cluster, node)) = named(env::CLUSTER).zip(named(env::NODE)) else { continue };
        if let (Ok(cluster), Ok(node)) = (cluster.parse(), node.parse()) {
            world.reports.insert(id.clone(), Seen::at(now, blank(&cluster, &node, &id)));
        }
    }
    let assigned: Vec<String> = world.reports.keys().cloned().collect();
    for id in assigned {
        let Some(report) = world.reports.get_mut(&id).and_then(Seen::known_mut) else { continue };
        let busy = !matches!(report.phase, Phase::Running | Phase::Blank | Phase::Quarantined { .. });
        if busy && report.assignment.is_some() && report.postgres.is_some() {
            report.phase = Phase::Running;
        }
    }
    stream(world);
    pass_time(world);
    *world != before
}

/// Long enough for every lease that may be out there to be over, where that is waited for.
fn pass_time(world: &mut Observed) {
    const LONG: Duration = Duration::from_secs(60);
    let Some(Some(decree)) = world.record.known() else { return };
    if !decree.is_electing() && decree.leaving.is_none() {
        return;
    }
    let watch = &mut world.watch;
    let since = *watch.leads_since.get_or_insert(watch.now);
    let since = watch.granted.map_or(since, |granted| granted.last.max(since));
    watch.revision_since.get_or_insert((decree.revision, since));
    watch.now = watch.now.max(Mono(since.0 + LONG));
    if let Some((revision, at)) = &mut watch.revision_since
        && *revision != decree.revision
    {
        (*revision, *at) = (decree.revision, since);
    }
}

fn edit<T>(items: Option<&mut Vec<T>>, which: impl Fn(&T) -> bool, change: impl Fn(&mut T)) {
    items.into_iter().flatten().filter(|item| which(item)).for_each(change);
}

fn create_machine(world: &mut Observed, spec: &crate::plan::MachineSpec, now: Timestamp) {
    let id = format!("machine of {}", spec.node);
    let Some(machines) = world.machines.known_mut() else { return };
    // An address that nothing real can have (RFC 3849), one per Machine.
    let address = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, machines.len() as u16 + 1));
    machines.push(Machine {
        id: id.clone(),
        name: spec.node.to_string(),
        region: spec.region.to_string(),
        power: Power::Started,
        host_ok: true,
        address: Some(address),
        config: Some(MachineConfig {
            image: spec.image.clone(),
            guest: Some(spec.guest.clone()),
            env: spec.env.clone(),
            metadata: spec.metadata.clone(),
            volume: Some(spec.volume.clone()),
        }),
    });
    edit(world.volumes.known_mut(), |v| v.id == spec.volume, |v| v.attached_to = Some(id.clone()));
    if let Some(Ok(cluster)) = spec.env.get(env::CLUSTER).map(|c| c.parse()) {
        world.reports.insert(id.clone(), Seen::at(now, blank(&cluster, &spec.node, &id)));
    }
}

fn blank(cluster: &crate::names::ClusterName, node: &NodeName, machine: &str) -> NodeReport {
    NodeReport {
        cluster: cluster.clone(),
        node: node.clone(),
        machine: machine.to_owned(),
        incarnation: 1,
        boot: LATER.to_owned(),
        sent: Default::default(),
        version: 1,
        promised: Default::default(),
        assignment: None,
        revision: 0,
        standing: Standing::Unbound,
        pledged_for: None,
        primary_heard: None,
        phase: Phase::Blank,
        postgres: None,
        disk: None,
        crashes: 0,
    }
}

fn leading(rule: Rule) -> Standing {
    Standing::Leading(Leading {
        confirmed: true,
        start: Some(Lsn::default()),
        rule: Some(rule),
        covered: true,
        checkpointed: true,
        gate: Gate::Open,
    })
}

/// Of a cluster that was never failed over.
fn first_history() -> History {
    History { timeline: 1, switches: Vec::new(), markers: Vec::new() }
}

fn postgres<'a>(world: &'a mut Observed, machine: &str) -> Option<&'a mut PgReport> {
    world.reports.get_mut(machine)?.known_mut()?.postgres.as_mut()
}

fn assign(world: &mut Observed, machine: &str, assignment: &Assignment) {
    let Some(report) = world.reports.get_mut(machine).and_then(Seen::known_mut) else { return };
    report.assignment = Some(assignment.digest());
    report.promised = assignment.epoch;
    report.revision = assignment.revision;
    let led = matches!(report.standing, Standing::Leading(_));
    let lsn = report.postgres.as_ref().map_or(Lsn::default(), |pg| match &pg.role {
        PgRole::Primary { lsn, .. } => *lsn,
        PgRole::Standby { received, replayed, .. } => received.unwrap_or_default().max(*replayed),
    });
    report.standing = match (&assignment.task, assignment.task.terms()) {
        (Task::Bootstrap { .. }, _) => leading(Rule::alone()),
        (Task::HandOver { .. }, _) => {
            report.phase = Phase::Idle;
            let history = report.postgres.take().and_then(|pg| pg.history).unwrap_or_else(first_history);
            Standing::Relinquished { clean: true, end: Some(End { history, lsn }) }
        }
        (_, Some(terms)) => leading(terms.rule.clone()),
        (Task::Recruit { .. }, _) => {
            let history = report.postgres.as_ref().and_then(|pg| pg.history.clone()).unwrap_or_else(first_history);
            let end = Some(End { history, lsn });
            match &report.standing {
                Standing::Relinquished { .. } => report.standing.clone(),
                _ if led => Standing::Relinquished { clean: true, end },
                _ => Standing::Recruited { end },
            }
        }
        (_, None) => Standing::Unbound,
    };
    if matches!(assignment.task, Task::HandOver { .. } | Task::Recruit { .. }) {
        return;
    }
    report.phase = Phase::Running;
    let role = match &assignment.task {
        Task::Recruit { .. } | Task::HandOver { .. } => return,
        Task::Bootstrap { .. } | Task::Promote { .. } | Task::Reaffirm { .. } | Task::Lead { .. } => PgRole::Primary {
            probe: None,
            lsn: Lsn::default(),
            replicas: Vec::new(),
            slots: assignment.peers.iter().filter(|p| p.node != assignment.node).map(|p| (p.node.slot(), 0)).collect(),
        },
        Task::Follow { .. } => {
            PgRole::Standby { received: None, replayed: Lsn::default(), streaming_from: None, replay_lag_seconds: None }
        }
    };
    let system_id = match &assignment.task {
        Task::Bootstrap { .. } | Task::Recruit { .. } => SystemId(LATER.to_owned()),
        Task::Promote { system_id, .. }
        | Task::Reaffirm { system_id, .. }
        | Task::Lead { system_id, .. }
        | Task::HandOver { system_id, .. }
        | Task::Follow { system_id, .. } => system_id.clone(),
    };
    let pg = report.postgres.get_or_insert_with(|| PgReport {
        version: LATER.to_owned(),
        system_id: system_id.clone(),
        timeline: 1,
        history: None,
        started_at: 0,
        role: role.clone(),
        settings: String::new(),
        parameters: assignment.parameters.clone(),
        pending_restart: Vec::new(),
        withheld: Vec::new(),
        rejected: BTreeMap::new(),
    });
    pg.role = role;
    let history = pg.history.get_or_insert_with(first_history);
    match &assignment.task {
        Task::Promote { timeline, terms, .. } => {
            history.switches.push(Switch { timeline: history.timeline, at: lsn });
            history.timeline = *timeline;
            pg.timeline = *timeline;
            history.markers.push((assignment.epoch, terms.nonce.clone()));
        }
        Task::Bootstrap { nonce } => history.markers = vec![(assignment.epoch, nonce.clone())],
        Task::Reaffirm { terms, .. } => history.markers.push((assignment.epoch, terms.nonce.clone())),
        Task::Recruit { .. } | Task::Lead { .. } | Task::HandOver { .. } | Task::Follow { .. } => {}
    }
    let changed = |name: &&String| pg.parameters.get(*name) != assignment.parameters.get(*name);
    let names = pg.parameters.keys().chain(assignment.parameters.keys());
    let mut pending: Vec<String> = names.filter(changed).filter(|n| settings::needs_restart(n)).cloned().collect();
    pending.append(&mut pg.pending_restart);
    pending.sort();
    pending.dedup();
    pg.pending_restart = pending;
    pg.parameters = assignment.parameters.clone();
    pg.settings = settings::digest(&assignment.parameters);
    pg.rejected.clear();
}

/// Every standby that the primary keeps WAL for streams.
fn stream(world: &mut Observed) {
    let Some(Some(decree)) = world.record.known() else { return };
    let primary = decree.primary.clone();
    let slots: Vec<String> = world
        .reports
        .values()
        .filter_map(|r| Some(r.known()?).filter(|r| r.node == primary)?.postgres.as_ref())
        .flat_map(|pg| match &pg.role {
            PgRole::Primary { slots, .. } => slots.keys().cloned().collect(),
            PgRole::Standby { .. } => Vec::new(),
        })
        .collect();
    let mut reports = world.reports.values().filter_map(Seen::known);
    let history = reports.find(|r| r.node == primary).and_then(|r| r.postgres.as_ref()?.history.clone());
    let mut streaming = Vec::new();
    for report in world.reports.values_mut().filter_map(Seen::known_mut) {
        let Some(PgRole::Standby { streaming_from, .. }) = report.postgres.as_mut().map(|pg| &mut pg.role) else {
            continue;
        };
        let follows = report.phase == Phase::Running && slots.contains(&report.node.slot());
        *streaming_from = follows.then(|| primary.clone());
        if let (true, Some(pg)) = (follows, report.postgres.as_mut()) {
            pg.history.clone_from(&history);
            pg.timeline = history.as_ref().map_or(pg.timeline, |history| history.timeline);
        }
        if follows {
            streaming.push(ReplicaReport {
                node: report.node.clone(),
                state: "streaming".to_owned(),
                sent: None,
                flushed: None,
                replayed: None,
            });
        }
    }
    for report in world.reports.values_mut().filter_map(Seen::known_mut).filter(|r| r.node == primary) {
        if let Some(PgRole::Primary { replicas, .. }) = report.postgres.as_mut().map(|pg| &mut pg.role) {
            *replicas = streaming.clone();
        }
    }
}
