//! Random specs against random worlds: planning comes to an end, never touches what is not ours, never lets the last
//! copy go, and says the same twice. proptest prints the seed of what fails and keeps it.

use std::collections::{BTreeMap, BTreeSet};

use flypg_core::decree::{CommitMode, Decree, Epoch, Member, Stage, SystemId};
use flypg_core::failover::{History, Rule};
use flypg_core::names::NodeName;
use flypg_core::observed::{App, Machine, MachineConfig, Observed, Power, Seen, Unknown, Volume, metadata};
use flypg_core::plan::{self, Action, Plan};
use flypg_core::protocol::{Leading, Lsn, NodeReport, PgReport, PgRole, Phase, Standing, env};
use flypg_core::spec::{ClusterSpec, Deletion, Durability, Profile, ReconcileMode, RegionSpec, SnapshotPolicy};
use proptest::prelude::*;

use crate::scenario::{NOW, Scenario, empty_fly, example};

fn specs() -> impl Strategy<Value = ClusterSpec> {
    let replicas = proptest::sample::subsequence(vec!["ams", "syd", "gru"], 0..=3);
    let deletion = prop_oneof![Just(Deletion::Protect), Just(Deletion::RetainVolumes), Just(Deletion::Delete)];
    let durability = prop_oneof![Just(Durability::Async), Just(Durability::Quorum), Just(Durability::QuorumAvailable)];
    let mode = prop_oneof![8 => Just(ReconcileMode::Active), 1 => Just(ReconcileMode::FailoverOnly), 1 => Just(ReconcileMode::Observe)];
    let parameters = proptest::collection::btree_map(
        prop_oneof![Just("work_mem".to_owned()), Just("max_connections".to_owned()), Just("wal_buffers".to_owned())],
        "[1-9][0-9]{1,2}",
        0..3,
    );
    (1..=5u32, replicas, 1..=2u32, deletion, mode, parameters, any::<bool>(), 1..=60u32, durability).prop_map(
        |(nodes, replicas, each, deletion, reconcile, parameters, flycast, retention_days, durability)| {
            let profile = if flycast { Profile::Fast } else { Profile::Patient };
            let mut spec = example("two-node");
            spec.primary.nodes = nodes;
            spec.durability = if nodes == 1 { Durability::Async } else { durability };
            spec.failover.profile = profile;
            spec.replicas =
                replicas.iter().map(|code| RegionSpec { code: code.parse().unwrap(), nodes: each }).collect();
            spec.deletion = deletion;
            spec.reconcile = reconcile;
            spec.postgres.parameters = parameters;
            spec.flycast = flycast;
            spec.storage.snapshots.retention_days = retention_days;
            spec
        },
    )
}

/// What may have become of one node.
#[derive(Debug, Clone)]
struct Fate {
    node: NodeName,
    ours: bool,
    machine: Option<Power>,
    host_ok: bool,
    volumes: u8,
    report: Option<Fit>,
}

#[derive(Debug, Clone, Copy)]
enum Fit {
    Blank,
    Leads,
    Follows,
    Starting,
    Foreign,
    Quarantined,
}

fn fates() -> impl Strategy<Value = BTreeMap<String, Fate>> {
    let power = prop_oneof![
        6 => Just(Power::Started),
        1 => Just(Power::Stopped),
        1 => Just(Power::Changing),
        1 => Just(Power::Destroying),
        1 => Just(Power::Failed),
    ];
    let fit = prop_oneof![
        1 => Just(Fit::Blank),
        1 => Just(Fit::Leads),
        3 => Just(Fit::Follows),
        1 => Just(Fit::Starting),
        1 => Just(Fit::Foreign),
        1 => Just(Fit::Quarantined),
    ];
    let fate = (
        prop_oneof![Just("ord"), Just("ams"), Just("lhr")],
        1..=4u32,
        proptest::bool::weighted(0.8),
        proptest::option::weighted(0.8, power),
        proptest::bool::weighted(0.9),
        0..=2u8,
        proptest::option::weighted(0.8, fit),
    )
        .prop_map(|(region, ordinal, ours, machine, host_ok, volumes, report)| Fate {
            node: NodeName::new(region.parse().unwrap(), ordinal),
            ours,
            machine,
            host_ok,
            volumes,
            report,
        });
    proptest::collection::vec(fate, 0..6)
        .prop_map(|fates| fates.into_iter().map(|fate| (fate.node.to_string(), fate)).collect())
}

fn worlds() -> impl Strategy<Value = Observed> {
    let record = proptest::option::of((1..=3u32, 0..=6u8, 1..=9u64));
    (fates(), record, any::<bool>(), proptest::bool::weighted(0.1)).prop_map(|(fates, record, keyed, unreadable)| {
        let mut world = empty_fly();
        world.app = Seen::at(NOW, Some(App { organization: None }));
        let secrets = keyed.then(|| (env::CLUSTER_KEY.to_owned(), "digest".to_owned()));
        world.secrets = Seen::at(NOW, secrets.into_iter().collect());
        world.addresses = Seen::at(NOW, Vec::new());
        let (mut machines, mut volumes) = (Vec::new(), Vec::new());
        for fate in fates.values() {
            let id = format!("m-{}", fate.node);
            for twin in 0..fate.volumes {
                volumes.push(Volume {
                    id: format!("vol-{}-{twin}", fate.node),
                    name: if fate.ours { fate.node.volume() } else { format!("data_{}", fate.node.ordinal) },
                    region: fate.node.region.to_string(),
                    size_gb: 40,
                    attached_to: (twin == 0 && fate.machine.is_some()).then(|| id.clone()),
                    snapshots: SnapshotPolicy { daily: true, retention_days: 7 },
                    host_ok: fate.host_ok,
                    created_at: format!("2026-01-0{}T00:00:00Z", twin + 1),
                });
            }
            let Some(power) = fate.machine else { continue };
            machines.push(machine(fate, &id, power));
            if power == Power::Started && fate.ours {
                let report = match fate.report {
                    Some(fit) => Seen::at(NOW, report(fate, &id, fit)),
                    None => Seen::Unknown { why: Unknown::NoAnswer { error: "timed out".to_owned() } },
                };
                world.reports.insert(id, report);
            }
        }
        world.machines = Seen::at(NOW, machines);
        world.volumes = Seen::at(NOW, volumes);
        if unreadable {
            world.volumes = Seen::Unknown { why: Unknown::Changing };
        }
        let decree = record.map(|(ordinal, stage, epoch)| decree(ordinal, stage, epoch));
        world.record = Seen::at(NOW, decree);
        world
    })
}

/// A record in some stage of its life.
fn decree(ordinal: u32, stage: u8, epoch: u64) -> Decree {
    let node = |ordinal| NodeName::new("ord".parse().unwrap(), ordinal);
    let first = Decree::first(node(ordinal), "n".to_owned(), CommitMode::Synchronous, Profile::Balanced);
    if stage == 0 {
        return first;
    }
    let others: BTreeSet<NodeName> = (1..=3).filter(|other| *other != ordinal).map(node).collect();
    let rule = Rule::any(1, others.clone()).unwrap();
    first.amended(|next| {
        next.system_id = Some(SystemId("1".to_owned()));
        next.epoch = Epoch(epoch);
        next.reign = Epoch(epoch);
        next.lineage.authorise(Epoch(epoch), "n".to_owned());
        let member =
            |node: &NodeName| Member { machine: format!("m-{node}"), volume: None, incarnation: 1, address: None };
        next.members = (1..=3).map(node).map(|node| (node.clone(), member(&node))).collect();
        next.rule = rule.clone();
        next.stage = Stage::Established;
        match stage {
            1 => next.rule = Rule::alone(),
            2 => next.joint = Some(rule),
            3 => next.epoch = next.epoch.next(),
            4 => next.stage = Stage::Reaffirming { nonce: "n".to_owned(), promotion: None },
            5 => next.stage = Stage::HandingOver { to: others.into_iter().next().unwrap() },
            _ => {}
        }
    })
}

fn machine(fate: &Fate, id: &str, power: Power) -> Machine {
    let spec = example("two-node");
    let owner = if fate.ours { spec.name.to_string() } else { "somebody-else".to_owned() };
    Machine {
        id: id.to_owned(),
        name: fate.node.to_string(),
        region: fate.node.region.to_string(),
        power,
        host_ok: fate.host_ok,
        address: Some(format!("2001:db8::{}", fate.node.ordinal).parse().unwrap()),
        // A host that does not answer hides the configuration; a foreign Machine then looks like ours by its name.
        config: fate.host_ok.then(|| MachineConfig {
            image: spec.postgres.image(),
            guest: Some(spec.guest.clone()),
            env: BTreeMap::from([
                (env::CLUSTER.to_owned(), owner.clone()),
                (env::NODE.to_owned(), fate.node.to_string()),
                (env::POSTGRES_MAJOR.to_owned(), spec.postgres.major.to_string()),
            ]),
            metadata: BTreeMap::from([
                (metadata::CLUSTER.to_owned(), owner),
                (metadata::NODE.to_owned(), fate.node.to_string()),
            ]),
            volume: Some(format!("vol-{}-0", fate.node)),
        }),
    }
}

fn report(fate: &Fate, id: &str, fit: Fit) -> NodeReport {
    let primary: NodeName = "ord-1".parse().unwrap();
    let role = match fit {
        Fit::Leads => PgRole::Primary { lsn: Lsn(9), replicas: Vec::new(), slots: BTreeMap::new(), probe: None },
        _ => PgRole::Standby {
            received: None,
            replayed: Lsn(9),
            streaming_from: Some(primary),
            replay_lag_seconds: None,
        },
    };
    let phase = match fit {
        Fit::Blank => Phase::Blank,
        Fit::Starting => Phase::Starting,
        Fit::Quarantined => Phase::Quarantined { why: "drawn so".to_owned() },
        Fit::Leads | Fit::Follows | Fit::Foreign => Phase::Running,
    };
    let data = !matches!(fit, Fit::Blank | Fit::Starting | Fit::Quarantined);
    NodeReport {
        cluster: example("two-node").name,
        node: fate.node.clone(),
        machine: id.to_owned(),
        incarnation: 1,
        version: 1,
        boot: "a boot".to_owned(),
        sent: Default::default(),
        promised: Epoch(1),
        assignment: data.then(|| "an older one".to_owned()),
        revision: 1,
        standing: match fit {
            Fit::Leads => Standing::Leading(Leading { confirmed: true, start: Some(Lsn(0)), ..Leading::default() }),
            _ => Standing::Unbound,
        },
        pledged_for: None,
        primary_heard: None,
        phase,
        postgres: data.then(|| PgReport {
            version: "15.20".to_owned(),
            system_id: SystemId(if matches!(fit, Fit::Foreign) { "666" } else { "1" }.to_owned()),
            timeline: 1,
            history: Some(History { timeline: 1, switches: Vec::new(), markers: vec![(Epoch(1), "n".to_owned())] }),
            started_at: 0,
            role,
            settings: String::new(),
            parameters: BTreeMap::new(),
            pending_restart: Vec::new(),
            withheld: Vec::new(),
            rejected: BTreeMap::new(),
        }),
        disk: None,
        crashes: 0,
    }
}

/// Ids that no plan may name: Machines without our metadata, or whose host hides it, and volumes without a name of
/// ours. What their agents, which have our key, are told is another matter.
fn not_ours(spec: &ClusterSpec, world: &Observed) -> BTreeSet<String> {
    let hidden = |m: &&Machine| m.config.is_none();
    let machines = world.machines.known().into_iter().flatten();
    let volumes = world.volumes.known().into_iter().flatten();
    machines
        .filter(|m| m.node_of(&spec.name).is_none() || hidden(m))
        .map(|m| m.id.clone())
        .chain(volumes.filter(|v| v.node().is_none()).map(|v| v.id.clone()))
        .collect()
}

fn touched(action: &Action) -> Option<&str> {
    match action {
        Action::SetSnapshotPolicy { volume, .. } | Action::DeleteVolume { volume, .. } => Some(volume),
        Action::StartMachine { machine, .. }
        | Action::SetMetadata { machine, .. }
        | Action::StopMachine { machine, .. }
        | Action::DestroyMachine { machine, .. } => Some(machine),
        Action::CreateMachine { machine, .. } => Some(&machine.volume),
        _ => None,
    }
}

/// Walks a forecast with the world as it was before each plan.
fn walk(world: &Observed, turns: &[Plan], mut see: impl FnMut(&Observed, &Plan)) -> Observed {
    let mut world = world.clone();
    for turn in turns {
        see(&world, turn);
        for step in &turn.steps {
            plan::apply(&mut world, &step.action, NOW);
        }
        if turn.steps.is_empty() {
            plan::settle(&mut world, NOW);
        }
    }
    world
}

fn check_forecast(spec: &ClusterSpec, world: &Observed, turns: &[Plan], leaves: bool) {
    assert!(turns.len() < plan::FORECAST_TURNS_MAX, "it does not come to an end: {:#?}", turns.last());
    let foreign = not_ours(spec, world);
    let last = walk(world, turns, |world, turn| {
        let stages: Vec<_> = turn.steps.iter().map(|s| s.action.stage()).collect();
        assert!(stages.is_sorted(), "{stages:?}");
        let disruptive = turn.steps.iter().filter(|s| matches!(s.action, Action::RestartPostgres { .. }));
        assert!(disruptive.count() <= 1, "{turn:#?}");
        let record = world.record.known().and_then(Option::as_ref);
        for step in &turn.steps {
            if let Some(id) = touched(&step.action) {
                assert!(!foreign.contains(id), "not ours: {step:?}");
            }
            if let Action::Decide { instead_of, .. } = &step.action {
                assert_eq!(instead_of.as_deref(), record, "a decree must follow the one on record");
            }
            let gone = match &step.action {
                Action::StopMachine { node, .. } | Action::DestroyMachine { node, .. } => Some(node),
                Action::DeleteVolume { node, .. } => {
                    assert_eq!(spec.deletion, Deletion::Delete, "{step:?}");
                    Some(node)
                }
                Action::DeleteApp { .. } | Action::Forget { .. } => {
                    assert!(leaves, "{step:?}");
                    None
                }
                _ => None,
            };
            if let Some(node) = gone {
                assert!(leaves || record.is_some_and(|d| d.primary != *node), "the primary goes: {step:?}");
                assert!(spec.deletion != Deletion::Protect || !leaves, "protected: {step:?}");
            }
        }
    });
    let again = if leaves { plan::plan_removal(spec, &last, NOW) } else { plan::plan(spec, &last, NOW) };
    assert!(again.steps.is_empty(), "still something to do: {again:#?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn from_nothing_every_spec_becomes_quiet(spec in specs()) {
        let turns = Scenario::new(spec.clone()).turns();
        check_forecast(&spec, &empty_fly(), &turns, false);
        let last = turns.last().unwrap();
        prop_assert!(last.is_quiet() || spec.reconcile != ReconcileMode::Active, "{last:#?}");
    }

    #[test]
    fn every_edit_becomes_quiet(before in specs(), mut after in specs()) {
        after.reconcile = ReconcileMode::Active;
        let mut before = before;
        before.reconcile = ReconcileMode::Active;
        let built = Scenario::new(before).carry_out();
        let turns = plan::forecast(&after, &built.world, NOW);
        check_forecast(&after, &built.world, &turns, false);
        prop_assert!(turns.last().unwrap().is_quiet(), "{:#?}", turns.last());
    }

    #[test]
    fn in_any_world_nothing_foreign_is_touched_and_the_last_copy_stays(spec in specs(), world in worlds()) {
        check_forecast(&spec, &world, &plan::forecast(&spec, &world, NOW), false);
        check_forecast(&spec, &world, &plan::forecast_removal(&spec, &world, NOW), true);
    }

    #[test]
    fn the_same_world_gives_the_same_plan(spec in specs(), world in worlds()) {
        prop_assert_eq!(plan::plan(&spec, &world, NOW), plan::plan(&spec, &world, NOW));
    }
}
