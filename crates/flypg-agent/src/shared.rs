//! What the tasks of one agent know of each other: values that can be watched, and orders that can be given.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use flypg_core::decree::Epoch;
use flypg_core::failover::lease::{BootTime, Grant, Timing};
use flypg_core::ledger::{Caller, Ledger, LedgerRole, Refusal};
use flypg_core::names::NodeName;
use flypg_core::node::{DataDir, PledgeAsked, Round, Tenure};
use flypg_core::protocol::{self, Assignment, Leading, NodeReport, PgRole, Probe, Standing};
use flypg_core::spec::Profile;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config::Config;
use crate::doors::DoorCount;
use crate::gate::{Capacity, Gate, Leave};
use crate::passage::Heard;
use crate::routes::{Here, Routes};
use crate::seats::Seats;
use crate::server_log::ServerLog;
use crate::startup::Door;
use crate::store::{AcceptError, Store, StoreError};

#[derive(Debug)]
pub struct Shared {
    pub config: Config,
    /// Absent if the ledger cannot be read: the node then answers, and does nothing else.
    pub store: Result<Store, StoreError>,
    pub report: watch::Sender<NodeReport>,
    pub routes: watch::Sender<Routes>,
    pub here: watch::Sender<Here>,
    /// The data directory as last seen.
    pub data: Mutex<DataDir>,
    pub restart_ordered: AtomicBool,
    /// Something was ordered: look at once.
    pub wake: Notify,
    /// Cancelled when the agent is asked to end.
    pub ending: CancellationToken,
    /// Cancelled when Postgres is to end without a checkpoint.
    pub at_once: CancellationToken,
    /// Cancelled when Postgres has ended for good.
    pub ended: CancellationToken,
    pub gate: Gate,
    /// What this node's Postgres says.
    pub log: Arc<ServerLog>,
    pub seats: Arc<Seats>,
    /// When this node last got WAL, or a question for a pledge, from its primary.
    pub heard: Arc<Heard>,
    pub doors: [Arc<DoorCount>; Door::ALL.len()],
    pub starts: AtomicU64,
    pub begun: Instant,
    tenure: Mutex<Tenure>,
    /// As the node's loop was last told.
    lead: Mutex<Lead>,
}

/// Whether a Postgres that accepts writes may run here. A change of it wakes the node's loop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Lead {
    may: bool,
    grace_over: bool,
}

impl Lead {
    fn of(tenure: &Tenure, ledger: &Ledger, now: BootTime) -> Self {
        let grace_over = tenure.is_grace_over(ledger, now, &timing(ledger));
        Self { may: tenure.may_run_primary(ledger, now), grace_over }
    }
}

impl Shared {
    pub fn new(
        config: Config,
        store: Result<Store, StoreError>,
        report: NodeReport,
        data: DataDir,
        tenure: Tenure,
        log: ServerLog,
    ) -> Self {
        // Versions go up across restarts too, so that whoever waits for news of this agent's predecessor gets it.
        let incarnation = store.as_ref().map_or(0, |store| store.current().incarnation);
        let report = NodeReport { incarnation, version: (incarnation << 32) + 1, ..report };
        Self {
            config,
            store,
            report: watch::Sender::new(report),
            routes: watch::Sender::new(Routes::none()),
            here: watch::Sender::new(Here::default()),
            data: Mutex::new(data),
            restart_ordered: AtomicBool::new(false),
            wake: Notify::new(),
            ending: CancellationToken::new(),
            at_once: CancellationToken::new(),
            ended: CancellationToken::new(),
            gate: Gate::shut(),
            log: Arc::new(log),
            seats: Arc::default(),
            heard: Arc::default(),
            doors: Default::default(),
            starts: AtomicU64::new(0),
            begun: Instant::now(),
            tenure: Mutex::new(tenure),
            lead: Mutex::default(),
        }
    }

    /// The ledger in force; what a node that cannot read its own knows is nothing.
    pub fn ledger(&self) -> Ledger {
        match &self.store {
            Ok(store) => store.current(),
            Err(_) => Ledger {
                incarnation: 0,
                ..Ledger::blank(self.config.cluster.clone(), self.config.node.clone(), self.config.machine.clone())
            },
        }
    }

    /// Accepts an assignment of `caller` durably, puts it in force and lets everybody know. Blocks for the disk.
    pub fn accept(&self, caller: &Caller, assignment: &Assignment) -> Result<(), AcceptError> {
        let data = self.data.lock().expect("no holder of this lock panics").clone();
        self.decide(|ledger| {
            let heeded = ledger.heed(caller, assignment.epoch)?;
            // Asked while no pledge can be given: both are decided under the store's lock.
            self.tenure().may_promise(ledger, assignment.epoch, clock::now())?;
            heeded.as_ref().unwrap_or(ledger).accept(assignment, &data)
        })
    }

    /// Takes a controller's grant; true if it counted. Blocks for the disk where the controller is a new one.
    pub fn grant(&self, caller: &Caller, grant: &Grant) -> Result<bool, AcceptError> {
        self.decide(|ledger| Ok(ledger.heed(caller, grant.epoch)?.unwrap_or_else(|| ledger.clone())))?;
        let counted = self.change_tenure(|tenure, ledger| tenure.granted(ledger, grant, clock::now()));
        Ok(counted)
    }

    /// Gives a pledge, durably. Blocks for the disk.
    pub fn pledge(&self, asked: &PledgeAsked) -> Result<(), AcceptError> {
        self.decide(|ledger| self.tenure().pledge(ledger, asked, clock::now(), &timing(ledger)))?;
        self.heard.now();
        Ok(())
    }

    /// The next ledger, durably, and then in force.
    fn decide(&self, next: impl FnOnce(&Ledger) -> Result<Ledger, Refusal>) -> Result<(), AcceptError> {
        let store = self.store.as_ref().map_err(|error| AcceptError::Quarantined(crate::words(error)))?;
        let before = store.current();
        store.decide(next)?;
        if store.current() != before {
            self.follow_ledger();
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Puts in force what follows from the ledger, without waiting for the next look. To be called after every change
    /// of the ledger, and before anybody is told of it.
    pub fn follow_ledger(&self) {
        let (tenure, ledger, now) = (self.tenure(), self.ledger(), clock::now());
        self.put_in_force(tenure, &ledger, now);
        // Read while the value is held: two who do this at once leave behind what the later ledger says.
        self.routes.send_modify(|routes| {
            let next = routes.next(&self.ledger());
            if next.upstream != routes.upstream && next.upstream.is_some() {
                self.heard.forget();
            }
            *routes = next;
        });
        self.publish(|report| report.assignment = self.ledger().assignment.as_ref().map(Assignment::digest));
    }

    /// The one place where the gate is opened and shut: it does what ledger and tenure say now.
    pub fn refresh(&self) {
        let tenure = self.tenure();
        let (ledger, now) = (self.ledger(), clock::now());
        self.put_in_force(tenure, &ledger, now);
        self.publish(|_| ());
    }

    fn put_in_force(&self, mut tenure: MutexGuard<'_, Tenure>, ledger: &Ledger, now: BootTime) {
        tenure.follow(ledger, now);
        let timing = timing(ledger);
        let capacity = Capacity::of(&ledger.role);
        let until = match capacity {
            Capacity::Silent => None,
            Capacity::Standby => Some(BootTime::MAX),
            Capacity::Primary(_) => tenure.passes_until(ledger),
        };
        let holding = tenure.gate(ledger, true, now) == protocol::Gate::Holding;
        self.gate.put(Leave { capacity, until, refuse_before: timing.refuse_before, holding }, now);
        let members = ledger.assignment.iter().flat_map(|told| &told.peers).map(|peer| peer.address).collect();
        self.gate.feed(ledger, &members);
        let lead =
            Lead { may: tenure.may_run_primary(ledger, now), grace_over: tenure.is_grace_over(ledger, now, &timing) };
        let before = std::mem::replace(&mut *self.lead.lock().expect("no holder of this lock panics"), lead);
        if before != lead {
            self.wake.notify_one();
        }
    }

    /// Changes the tenure, and puts in force what follows from it.
    fn change_tenure<T>(&self, change: impl FnOnce(&mut Tenure, &Ledger) -> T) -> T {
        self.change_tenure_and(|_| (), change)
    }

    /// The same, and tells of something else with it.
    fn change_tenure_and<T>(
        &self,
        tell: impl FnOnce(&mut NodeReport),
        change: impl FnOnce(&mut Tenure, &Ledger) -> T,
    ) -> T {
        let mut tenure = self.tenure();
        let ledger = self.ledger();
        let result = change(&mut tenure, &ledger);
        self.put_in_force(tenure, &ledger, clock::now());
        self.publish(tell);
        result
    }

    /// Whether a Postgres that would accept writes may run now.
    pub fn may_lead(&self) -> bool {
        self.lead_now().may
    }

    /// Whether the lease has been over for longer than the grace.
    pub fn grace_over(&self) -> bool {
        self.lead_now().grace_over
    }

    fn lead_now(&self) -> Lead {
        let mut tenure = self.tenure();
        let (ledger, now) = (self.ledger(), clock::now());
        tenure.follow(&ledger, now);
        Lead::of(&tenure, &ledger, now)
    }

    /// Which Postgres runs, as [`Shared::confirm`] wants it: to be taken before the marker is written.
    pub fn life(&self) -> u64 {
        self.tenure().life()
    }

    /// The Postgres of this life wrote the marker of `epoch`, and the rule has it. True if that counted.
    pub fn confirm(&self, epoch: Epoch, life: u64) -> bool {
        self.change_tenure(|tenure, ledger| tenure.confirm(ledger, epoch, life))
    }

    pub fn is_confirmed(&self) -> bool {
        self.tenure().is_confirmed(&self.ledger())
    }

    /// Postgres ended: nothing passes before what comes up is confirmed.
    pub fn postgres_ended(&self) {
        self.here.send_replace(Here::default());
        self.change_tenure_and(|report| report.postgres = None, |tenure, _| tenure.postgres_ended());
    }

    /// New transactions wait at the gate from now on, or go on.
    pub fn hold(&self, holding: bool) {
        self.change_tenure(|tenure, _| tenure.hold(holding));
    }

    /// New transactions wait at the gate, and none runs any more in a session that came through it.
    pub fn drained(&self) -> bool {
        self.gate.is_drained()
    }

    /// This node answers no more in its epoch.
    pub fn fence(&self) {
        self.change_tenure(|tenure, _| tenure.fence());
    }

    /// The round of pledges to ask for now, with its questions, if it is time for one.
    pub fn round(&self) -> Option<(Round, Vec<PledgeAsked>)> {
        let ledger = self.ledger();
        let round = self.tenure().round(&ledger, clock::now(), &timing(&ledger))?;
        let questions = round.questions(&ledger);
        Some((round, questions))
    }

    /// The answers to a round so far. True if they hold the lease up.
    pub fn pledges(&self, round: &Round) -> bool {
        self.change_tenure(|tenure, ledger| tenure.pledges(ledger, round))
    }

    /// Cuts off the replication of everybody but `nodes`, or of nobody any more.
    pub fn feed_only(&self, nodes: Option<&BTreeSet<NodeName>>) {
        let ledger = self.ledger();
        let peers = || ledger.assignment.iter().flat_map(|told| &told.peers);
        let only = nodes.map(|nodes| {
            peers().filter(|peer| nodes.contains(&peer.node)).map(|peer| peer.address).collect::<BTreeSet<_>>()
        });
        self.gate.feed_only(only);
    }

    /// Where this node stands, found out while the ledger was `under`; worth nothing if it has changed since.
    pub fn publish_standing(&self, under: &Ledger, standing: Standing) {
        self.publish(|report| {
            let ledger = self.ledger();
            if (ledger.promised, &ledger.role) == (under.promised, &under.role) {
                report.standing = standing;
            }
        });
    }

    /// Changes the report; its version goes up if that is news.
    pub fn publish(&self, change: impl FnOnce(&mut NodeReport)) {
        self.report.send_if_modified(|report| {
            let before = report.clone();
            change(report);
            complete(report, &self.tenure(), &self.ledger(), clock::now());
            let news = is_news(&before, report);
            if news {
                report.version += 1;
            }
            news || *report != before
        });
    }

    /// The report as it is sent now: a grant that answers it counts from this moment (rule R2).
    ///
    /// What it says of a promise is so already: whoever decides may rely on it that the gate is shut (fence F5), and a
    /// promise is in the ledger a moment before whoever accepted it has put it in force.
    pub fn answer(&self) -> NodeReport {
        let mut report = self.report.borrow().clone();
        let (tenure, ledger, now) = (self.tenure(), self.ledger(), clock::now());
        complete(&mut report, &tenure, &ledger, now);
        report.boot = tenure.boot().to_owned();
        self.put_in_force(tenure, &ledger, now);
        report.sent = clock::now();
        report.primary_heard = self.heard.ago(report.sent);
        report
    }

    /// The report once its version is above `after`, or the newest when `wait` is over.
    pub async fn report_after(&self, after: Option<u64>, wait: Duration) -> NodeReport {
        let mut report = self.report.subscribe();
        if let Some(after) = after {
            let newer = report.wait_for(|report| report.version > after);
            // Time over is an answer too, and the sender lives as long as `self`.
            let _ = tokio::time::timeout(wait, newer).await;
        }
        self.answer()
    }

    fn tenure(&self) -> MutexGuard<'_, Tenure> {
        self.tenure.lock().expect("no holder of this lock panics")
    }

    pub fn order_restart(&self) {
        self.restart_ordered.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }
}

/// What follows from ledger and tenure, whatever else is in the report.
fn complete(report: &mut NodeReport, tenure: &Tenure, ledger: &Ledger, now: BootTime) {
    let standing = standing_of(&ledger.role);
    if ledger.promised != report.promised || !same_kind(&standing, &report.standing) {
        // What was found out under another promise says nothing under this one.
        report.standing = standing;
    }
    if let Standing::Leading(leading) = &mut report.standing {
        leading.confirmed = tenure.is_confirmed(ledger);
        leading.gate = tenure.gate(ledger, report.postgres.is_some(), now);
    }
    report.incarnation = ledger.incarnation;
    (report.promised, report.revision) = (ledger.promised, ledger.revision);
    report.pledged_for = tenure.pledged_for(now);
}

/// The times that this node goes by: those of its assignment.
pub fn timing(ledger: &Ledger) -> Timing {
    Timing::of(ledger.assignment.as_ref().map_or(Profile::Balanced, |told| told.profile))
}

/// Where a node stands that has just come to be `role`.
fn standing_of(role: &LedgerRole) -> Standing {
    match role {
        LedgerRole::Recruited { .. } => Standing::Recruited { end: None },
        LedgerRole::Relinquished { .. } => Standing::Relinquished { clean: false, end: None },
        LedgerRole::Primary { .. } | LedgerRole::Promoting { .. } => Standing::Leading(Leading::default()),
        LedgerRole::Blank
        | LedgerRole::Initialising { .. }
        | LedgerRole::Cloning { .. }
        | LedgerRole::Replica { .. }
        | LedgerRole::Rejoining { .. } => Standing::Unbound,
    }
}

fn same_kind(one: &Standing, other: &Standing) -> bool {
    std::mem::discriminant(one) == std::mem::discriminant(other)
}

/// A write that takes so long is news.
const LATE: Duration = Duration::from_secs(1);
/// All such writes are alike, as far as news goes.
const HANGS: Probe = Probe { took: Duration::ZERO, hangs: Some(LATE) };

/// Whether somebody should be woken: everything but the numbers that always move.
fn is_news(before: &NodeReport, after: &NodeReport) -> bool {
    fn still(report: &NodeReport) -> NodeReport {
        let mut still = report.clone();
        (still.sent, still.primary_heard) = (BootTime::default(), None);
        still.pledged_for = still.pledged_for.map(|_| Duration::ZERO);
        still.disk = still.disk.map(|disk| flypg_core::protocol::Disk { total: disk.total, used: disk.used_percent() });
        if let flypg_core::protocol::Phase::Cloning { done, total } = &mut still.phase {
            // Every tenth is news enough.
            *done = done.saturating_mul(10).checked_div(total.unwrap_or(0)).unwrap_or(0);
        }
        if let Some(postgres) = &mut still.postgres {
            match &mut postgres.role {
                PgRole::Primary { lsn, replicas, slots, probe } => {
                    *probe = probe.filter(|probe| probe.hangs.is_some_and(|late| late >= LATE)).map(|_| HANGS);
                    *lsn = Default::default();
                    for replica in replicas {
                        (replica.sent, replica.flushed, replica.replayed) = (None, None, None);
                    }
                    slots.values_mut().for_each(|kept| *kept = 0);
                }
                PgRole::Standby { received, replayed, replay_lag_seconds, .. } => {
                    *received = received.map(|_| Default::default());
                    *replayed = Default::default();
                    *replay_lag_seconds = None;
                }
            }
        }
        still
    }
    still(before) != still(after)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use flypg_core::decree::{Epoch, SystemId};
    use flypg_core::failover::Rule;
    use flypg_core::failover::lease::BootTime;
    use flypg_core::protocol::{Disk, Lsn, PgReport, Phase, Standing, Task, Terms};

    use super::*;

    fn report(lsn: u64, phase: Phase, used: u64, crashes: u32) -> NodeReport {
        NodeReport {
            cluster: "orders-db".parse().unwrap(),
            node: "ord-1".parse().unwrap(),
            machine: "m".to_owned(),
            incarnation: 1,
            version: 1,
            boot: "b".to_owned(),
            sent: BootTime::default(),
            promised: Epoch(1),
            assignment: None,
            revision: 1,
            standing: Standing::Unbound,
            pledged_for: None,
            primary_heard: None,
            phase,
            postgres: Some(PgReport {
                version: "15.20".to_owned(),
                system_id: SystemId("7".to_owned()),
                timeline: 1,
                history: None,
                started_at: 0,
                role: PgRole::Primary { lsn: Lsn(lsn), replicas: vec![], slots: BTreeMap::new(), probe: None },
                settings: String::new(),
                parameters: BTreeMap::new(),
                pending_restart: vec![],
                withheld: vec![],
                rejected: BTreeMap::new(),
            }),
            disk: Some(Disk { total: 10_000, used }),
            crashes,
        }
    }

    /// Nobody hears of a promise before it is kept, even from a report that is sent while whoever accepted the promise
    /// has it on disk and has come no further.
    #[test]
    fn a_report_that_tells_of_a_promise_comes_from_a_gate_that_is_shut() {
        let root = tempfile::tempdir().unwrap();
        let variables = BTreeMap::from([
            ("FLYPG_CLUSTER", "orders-db".to_owned()),
            ("FLYPG_NODE", "ord-1".to_owned()),
            ("FLYPG_POSTGRES_MAJOR", "15".to_owned()),
            ("FLYPG_CLUSTER_KEY", "ab".repeat(32)),
            ("FLY_PRIVATE_IP", "127.5.0.1".to_owned()),
            ("FLY_MACHINE_ID", "m".to_owned()),
            ("FLY_VM_MEMORY_MB", "1024".to_owned()),
            ("FLY_EMULATOR_ROOT", root.path().display().to_string()),
        ]);
        let config = Config::read(|name| variables.get(name).cloned()).unwrap();
        let store = Store::open(&config).unwrap();
        let terms = Terms { nonce: "n".to_owned(), rule: Rule::alone(), pledges: Vec::new() };
        let told = Assignment {
            cluster: config.cluster.clone(),
            node: config.node.clone(),
            epoch: Epoch(1),
            revision: 1,
            task: Task::Lead { system_id: SystemId("7".to_owned()), terms },
            peers: Vec::new(),
            profile: Profile::Balanced,
            parameters: BTreeMap::new(),
        };
        let role = LedgerRole::Primary { epoch: Epoch(1), nonce: "n".to_owned() };
        let leads = |ledger: &Ledger| {
            let (promised, assignment) = (Epoch(1), Some(told.clone()));
            Some(Ledger { role: role.clone(), promised, assignment, ..ledger.clone() })
        };
        store.update(leads).unwrap();
        let tenure = Tenure::begin("b", &store.current(), clock::now());
        let (report, log) = (report(1, Phase::Running, 0, 0), ServerLog::new().unwrap());
        let shared = Shared::new(config, Ok(store), report, DataDir::Blank, tenure, log);
        shared.follow_ledger();
        assert!(shared.confirm(Epoch(1), shared.life()));
        let term = shared.gate.term();
        assert!(term.passes());
        shared.store.as_ref().unwrap().update(Ledger::relinquished).unwrap();
        assert!(matches!(shared.answer().standing, Standing::Relinquished { .. }));
        assert!(!(term.passes() || shared.gate.term().passes()));
    }

    #[test]
    fn moving_numbers_are_no_news_and_everything_else_is() {
        let first = report(1, Phase::Running, 5000, 0);
        assert!(!is_news(&first, &report(2, Phase::Running, 5000, 0)));
        assert!(is_news(&first, &report(1, Phase::Stopping, 5000, 0)));
        assert!(is_news(&first, &report(1, Phase::Running, 5000, 1)));
        assert!(is_news(&first, &report(1, Phase::Running, 6000, 0)));
        let cloning = |done| report(1, Phase::Cloning { done, total: Some(1000) }, 0, 0);
        assert!(!is_news(&cloning(110), &cloning(190)));
        assert!(is_news(&cloning(190), &cloning(200)));
    }
}
