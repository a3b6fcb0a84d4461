use std::collections::BTreeMap;

use flypg_core::decree::{CommitMode, Decree, Epoch, Member, Stage, SystemId};
use flypg_core::failover::{History, Rule};
use flypg_core::names::{ClusterName, NodeName};
use flypg_core::observed::{App, Machine, MachineConfig, Observed, Power, Seen, Volume, metadata};
use flypg_core::protocol::{
    Assignment, Gate, Leading, Lsn, NodeReport, PgReport, PgRole, Phase, ReplicaReport, Standing, Task,
};
use flypg_core::spec::{Durability, Profile, SnapshotPolicy};
use flypg_machines::{Client, ClientConfig};
use jiff::SignedDuration;

use flypg_core::failover::lease::{BootTime, Grant, Granted, Mono};
use flypg_core::plan::{Risk, Why};

use super::fakes::{Agent, Manner};
use super::*;
use crate::agent::AgentClient;
use crate::clock;
use crate::store::{Home, Records, Store};

const LIMIT: Duration = Duration::from_secs(20);
/// Nobody listens there: the platform is gone.
const NO_API: &str = "http://127.0.0.1:9";

fn cluster() -> ClusterName {
    "orders-db".parse().unwrap()
}

fn node(ordinal: u32) -> NodeName {
    NodeName::new("ord".parse().unwrap(), ordinal)
}

fn wanted() -> Wanted {
    let mut spec = crate::tests::spec("orders-db");
    spec.primary.nodes = 3;
    spec.durability = Durability::Quorum;
    spec.failover.profile = Profile::Fast;
    Wanted::Kept(spec)
}

/// Established under ord-1, with two standbys of which one acknowledges.
fn decree() -> Decree {
    let mut decree = Decree::first(node(1), "nonce".to_owned(), CommitMode::Synchronous, Profile::Fast);
    decree.stage = Stage::Established;
    decree.system_id = Some(SystemId("7".to_owned()));
    decree.rule = Rule::any(1, [node(2), node(3)].into()).unwrap();
    let member = |ordinal| {
        (node(ordinal), Member { machine: format!("m{ordinal}"), volume: None, incarnation: 1, address: None })
    };
    decree.members = (1..=3).map(member).collect();
    decree
}

pub(super) fn report(ordinal: u32) -> NodeReport {
    let leads = ordinal == 1;
    let replica = |ordinal| ReplicaReport {
        node: node(ordinal),
        state: "streaming".to_owned(),
        sent: Some(Lsn(100)),
        flushed: Some(Lsn(100)),
        replayed: Some(Lsn(100)),
    };
    let role = match leads {
        true => PgRole::Primary {
            lsn: Lsn(100),
            replicas: vec![replica(2), replica(3)],
            slots: [(node(2).slot(), 0), (node(3).slot(), 0)].into(),
            probe: None,
        },
        false => PgRole::Standby {
            received: Some(Lsn(100)),
            replayed: Lsn(100),
            streaming_from: Some(node(1)),
            replay_lag_seconds: Some(0.0),
        },
    };
    let leading = Leading {
        confirmed: true,
        start: Some(Lsn(0)),
        rule: Some(decree().rule),
        covered: true,
        checkpointed: true,
        gate: Gate::Open,
    };
    NodeReport {
        cluster: cluster(),
        node: node(ordinal),
        machine: format!("m{ordinal}"),
        incarnation: 1,
        boot: format!("boot-{ordinal}"),
        sent: Default::default(),
        version: 1,
        promised: Epoch(1),
        assignment: None,
        revision: 1,
        standing: if leads { Standing::Leading(leading) } else { Standing::Unbound },
        pledged_for: None,
        primary_heard: (!leads).then_some(Duration::from_secs(60)),
        phase: Phase::Running,
        postgres: Some(PgReport {
            version: "15.20".to_owned(),
            system_id: SystemId("7".to_owned()),
            timeline: 1,
            history: Some(History { timeline: 1, switches: Vec::new(), markers: vec![(Epoch(1), "nonce".to_owned())] }),
            started_at: 0,
            role,
            settings: flypg_core::settings::digest(&BTreeMap::new()),
            parameters: BTreeMap::new(),
            pending_restart: Vec::new(),
            withheld: Vec::new(),
            rejected: BTreeMap::new(),
        }),
        disk: None,
        crashes: 0,
    }
}

/// A cluster whose platform cannot be reached any more, and its heart.
struct Rig {
    agents: Vec<Agent>,
    store: Store,
    vigil: Arc<Vigil>,
    journal: std::path::PathBuf,
    _heart: Heart,
    _dir: tempfile::TempDir,
}

impl Rig {
    /// All agents answer promptly, but for `ord-2`'s.
    async fn start(second: Manner) -> Self {
        Self::begin(second, |_, _| {}).await
    }

    /// The same, with something that is otherwise when it begins.
    async fn begin(second: Manner, otherwise: impl FnOnce(&[Agent], &mut Observed)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap().lead(&Home::here(None), false).await.unwrap();
        store.swap(&cluster(), None, Some(&decree())).await.unwrap();
        let mut agents = Vec::new();
        for ordinal in 1..=3 {
            let manner = if ordinal == 2 { second } else { Manner::Promptly };
            agents.push(Agent::start(report(ordinal), manner).await);
        }
        let vigil = Arc::new(Vigil::new(false));
        let master = Key::from_bytes([1; 32]);
        let observer = LiveObserver {
            fly: Client::new(ClientConfig::new(NO_API).with_token("t")).unwrap(),
            agents: AgentClient::new().unwrap(),
            store: store.clone(),
            master: Some(master.clone()),
            patience: Duration::from_secs(1),
            settle: SignedDuration::ZERO,
            vigil: Arc::clone(&vigil),
        };
        let actuator = LiveActuator {
            fly: observer.fly.clone(),
            agents: observer.agents.clone(),
            store: store.clone(),
            master: Some(master.clone()),
            clock: Timestamp::now,
            secrets_versions: Default::default(),
            vigil: Arc::clone(&vigil),
        };
        let mut look = look(&agents);
        otherwise(&agents, &mut look);
        vigil.looked(&look);
        let journals = dir.path().join("journal");
        let journal = Arc::new(Mutex::new(Journal::open(&journals, &cluster()).unwrap()));
        let mut heart = Heart::start(wanted(), observer, actuator, &master, (), Some(journal));
        heart.ears.attend(&look, &flypg_core::failover::lease::Timing::of(Profile::Fast));
        let journal = journals.join("orders-db.jsonl");
        Self { agents, store, vigil, journal, _heart: heart, _dir: dir }
    }

    fn agent(&self, ordinal: u32) -> &Agent {
        &self.agents[ordinal as usize - 1]
    }

    async fn record(&self) -> Decree {
        self.store.read(&cluster()).await.unwrap().record.unwrap()
    }
}

/// What a look at the platform showed before it went away.
fn look(agents: &[Agent]) -> Observed {
    let now = Timestamp::UNIX_EPOCH;
    let machines = agents.iter().zip(1..).map(|(agent, ordinal)| Machine {
        id: format!("m{ordinal}"),
        name: node(ordinal).to_string(),
        region: "ord".to_owned(),
        power: Power::Started,
        host_ok: true,
        address: Some(agent.address),
        config: Some(MachineConfig {
            image: "flypg/postgres:15".to_owned(),
            guest: None,
            env: BTreeMap::new(),
            metadata: [
                (metadata::CLUSTER.to_owned(), "orders-db".to_owned()),
                (metadata::NODE.to_owned(), node(ordinal).to_string()),
            ]
            .into(),
            volume: Some(format!("vol_{ordinal}")),
        }),
    });
    let volumes = (1..=3).map(|ordinal| Volume {
        id: format!("vol_{ordinal}"),
        name: node(ordinal).volume(),
        region: "ord".to_owned(),
        size_gb: 1,
        attached_to: Some(format!("m{ordinal}")),
        snapshots: SnapshotPolicy { daily: true, retention_days: 5 },
        host_ok: true,
        created_at: String::new(),
    });
    Observed {
        app: Seen::at(now, Some(App { organization: None })),
        secrets: Seen::at(now, BTreeMap::new()),
        addresses: Seen::at(now, Vec::new()),
        machines: Seen::at(now, machines.collect()),
        volumes: Seen::at(now, volumes.collect()),
        ..Observed::default()
    }
}

/// Waits for `what`, which is told of at the end if it never comes.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < LIMIT, "{what} did not come in {LIMIT:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// A controller that starts while the primary's Machine is on its way up, down, or nowhere, has never heard it.
#[tokio::test]
async fn a_primary_is_listened_to_whatever_its_machine_is_said_to_do() {
    for power in [Power::Changing, Power::Stopped, Power::Failed, Power::Created] {
        let rig = Rig::begin(Manner::Promptly, |agents, look| {
            agents[0].kill();
            look.record = Seen::at(Timestamp::UNIX_EPOCH, Some(decree()));
            let Seen::At { value, .. } = &mut look.machines else { unreachable!("they were just seen") };
            value[0].power = power;
        })
        .await;
        let attempt = || async { Some(rig.record().await).filter(|record| record.epoch > record.reign) };
        let attempt = eventually(&format!("an attempt to replace a primary that is {power:?}"), attempt).await;
        assert_eq!(attempt.primary, node(1));
    }
}

#[tokio::test]
async fn every_report_of_the_primary_is_answered_without_a_platform() {
    let rig = Rig::start(Manner::Promptly).await;
    let grants = eventually("four leases", || async { Some(rig.agent(1).grants()).filter(|g| g.len() >= 4) }).await;
    for (one, next) in grants.iter().zip(&grants[1..]) {
        assert_eq!((next.epoch, next.boot.as_str()), (Epoch(1), "boot-1"));
        assert!(one.sent < next.sent, "each is for a report of its own");
    }
    assert!(rig.agent(2).grants().is_empty() && rig.agent(3).grants().is_empty());
    assert_eq!(rig.record().await.epoch, Epoch(1));
    // What was given out is known here (rule R2), and none of it is in the journal.
    let granted = rig.vigil.watch_blindly(clock::mono()).granted.expect("leases were given");
    assert!(granted.epoch == Epoch(1) && granted.last >= Mono(grants.last().unwrap().sent.0));
    let lines = std::fs::read_to_string(&rig.journal).unwrap_or_default().lines().count();
    assert!(lines <= 8, "{lines} entries");
}

/// Whose calls are begun and never get anywhere.
struct Stalled;

impl Actuator for Stalled {
    async fn act(&self, _: &Action) -> Result<(), ActError> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_lease_is_known_here_before_its_call_has_begun() {
    let dir = tempfile::tempdir().unwrap();
    let vigil = Arc::new(Vigil::new(false));
    let observer = LiveObserver {
        fly: Client::new(ClientConfig::new(NO_API).with_token("t")).unwrap(),
        agents: AgentClient::new().unwrap(),
        store: Store::open(dir.path()).unwrap(),
        master: None,
        patience: Duration::from_secs(1),
        settle: SignedDuration::ZERO,
        vigil: Arc::clone(&vigil),
    };
    let (_wish, wish) = watch::channel(wanted());
    let mut lead = Lead::new(wish, observer, Stalled, (), Arc::clone(&vigil), Timestamp::now, None);
    let arrived = Mono(Duration::from_secs(7));
    let action = Action::Renew {
        cluster: cluster(),
        node: node(1),
        machine: "m1".to_owned(),
        address: "127.0.0.1".parse().unwrap(),
        grant: Grant {
            epoch: Epoch(1),
            boot: "boot-1".to_owned(),
            sent: BootTime(Duration::from_secs(1)),
            ttl: Duration::from_secs(4),
        },
        arrived,
    };
    lead.begin(&wanted(), Step { action, why: Why::LeaseRuns, risk: Risk::None, pauses_writes_ms: None });
    // Nobody was given a chance to run since.
    let granted = vigil.watch_blindly(clock::mono()).granted;
    assert_eq!(granted, Some(Granted { epoch: Epoch(1), last: arrived }));
}

#[tokio::test]
async fn an_agent_that_hangs_delays_nobody() {
    let rig = Rig::start(Manner::Hanging).await;
    eventually("everybody was told", || async {
        (1..=3).all(|ordinal| !rig.agent(ordinal).assignments().is_empty()).then_some(())
    })
    .await;
    // It has a second to answer, and is asked again after that; in each of them leases run on.
    let told = eventually("the one that hangs is told again", || async {
        (rig.agent(2).assignments().len() >= 3).then(|| rig.agent(1).grants().len())
    })
    .await;
    assert!(told >= 3, "only {told} leases in two seconds");
}

#[tokio::test]
async fn what_a_node_has_taken_it_is_not_told_again() {
    let rig = Rig::start(Manner::Late).await;
    eventually("ord-2 is told, and leases run on", || async {
        (!rig.agent(2).assignments().is_empty() && rig.agent(1).grants().len() >= 6).then_some(())
    })
    .await;
    let told: Vec<String> = rig.agent(2).assignments().iter().map(Assignment::digest).collect();
    assert!(told.windows(2).all(|pair| pair[0] != pair[1]), "{told:?}");
}

#[tokio::test]
async fn a_primary_that_is_gone_is_replaced_without_a_platform() {
    let rig = Rig::start(Manner::Promptly).await;
    eventually("a lease", || async { (!rig.agent(1).grants().is_empty()).then_some(()) }).await;
    rig.agent(1).kill();
    let record = eventually("an attempt", || async { Some(rig.record().await).filter(Decree::is_electing) }).await;
    assert_eq!((record.epoch, record.reign), (Epoch(2), Epoch(1)));
    for ordinal in [2, 3] {
        eventually("both are recruited", || async {
            let told = rig.agent(ordinal).assignments();
            told.iter().any(|told| told.epoch == Epoch(2) && matches!(told.task, Task::Recruit { .. })).then_some(())
        })
        .await;
    }
    assert!(rig.journal.exists());
}

#[tokio::test]
async fn a_deposed_controller_grants_nothing() {
    let rig = Rig::start(Manner::Promptly).await;
    eventually("a lease", || async { (!rig.agent(1).grants().is_empty()).then_some(()) }).await;
    let _other = rig.store.lead(&Home::here(None), false).await.unwrap();
    let last = clock::mono();
    // What had arrived before the other took over may still be answered, and nothing later.
    eventually("reports that nobody answers", || async {
        let heard = rig.vigil.watch_blindly(clock::mono()).pulses["m1"].heard?;
        (heard.since(last) >= Duration::from_secs(2)).then_some(())
    })
    .await;
    let granted = rig.agent(1).grants();
    assert!(granted.iter().all(|grant| Mono(grant.sent.0) <= last), "{granted:?} after {last:?}");
    let swapped = rig.store.swap(&cluster(), Some(&decree()), None).await.unwrap();
    assert_eq!(swapped, crate::store::Swap::Deposed);
}
