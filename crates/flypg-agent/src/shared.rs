//! What the tasks of one agent know of each other: values that can be watched, and orders that can be given.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use flypg_core::failover::lease::Timing;
use flypg_core::ledger::Ledger;
use flypg_core::node::{DataDir, Tenure};
use flypg_core::protocol::{Assignment, NodeReport, PgRole};
use flypg_core::spec::Profile;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config::Config;
use crate::doors::DoorCount;
use crate::routes::{Here, Routes};
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
    pub doors: [Arc<DoorCount>; Door::ALL.len()],
    pub starts: AtomicU64,
    pub begun: Instant,
    tenure: Mutex<Tenure>,
}

impl Shared {
    pub fn new(
        config: Config,
        store: Result<Store, StoreError>,
        report: NodeReport,
        data: DataDir,
        tenure: Tenure,
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
            doors: Default::default(),
            starts: AtomicU64::new(0),
            begun: Instant::now(),
            tenure: Mutex::new(tenure),
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

    /// Accepts an assignment durably and lets everybody know. Blocks for the disk.
    pub fn accept(&self, assignment: &Assignment) -> Result<(), AcceptError> {
        let store = self.store.as_ref().map_err(|error| AcceptError::Quarantined(crate::words(error)))?;
        let data = self.data.lock().expect("no holder of this lock panics").clone();
        store.accept(assignment, &data)?;
        self.follow_ledger();
        self.wake.notify_one();
        Ok(())
    }

    /// Routes and promises that follow from the ledger, without waiting for the next look.
    pub fn follow_ledger(&self) {
        // Read while the value is held: two who do this at once leave behind what the later ledger says.
        self.routes.send_modify(|routes| *routes = routes.next(&self.ledger()));
        self.publish(|report| {
            let ledger = self.ledger();
            report.incarnation = ledger.incarnation;
            report.promised = ledger.promised;
            report.assignment = ledger.assignment.as_ref().map(Assignment::digest);
        });
    }

    /// Changes the report; its version goes up if that is news.
    pub fn publish(&self, change: impl FnOnce(&mut NodeReport)) {
        self.report.send_if_modified(|report| {
            let before = report.clone();
            change(report);
            let news = is_news(&before, report);
            if news {
                report.version += 1;
            }
            news || *report != before
        });
    }

    /// The report once its version is above `after`, or the newest when `wait` is over.
    pub async fn report_after(&self, after: Option<u64>, wait: Duration) -> NodeReport {
        let mut report = self.report.subscribe();
        if let Some(after) = after {
            let newer = report.wait_for(|report| report.version > after);
            // Time over is an answer too, and the sender lives as long as `self`.
            let _ = tokio::time::timeout(wait, newer).await;
        }
        self.report.borrow().clone()
    }

    /// Whether a Postgres that would accept writes may run now.
    pub fn may_lead(&self) -> bool {
        self.tenure().may_run_primary(&self.ledger(), clock::now())
    }

    /// Whether the lease has been over for longer than the grace.
    pub fn grace_over(&self) -> bool {
        let ledger = self.ledger();
        self.tenure().is_grace_over(&ledger, clock::now(), &timing(&ledger))
    }

    fn tenure(&self) -> MutexGuard<'_, Tenure> {
        self.tenure.lock().expect("no holder of this lock panics")
    }

    pub fn order_restart(&self) {
        self.restart_ordered.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }
}

/// The times that this node goes by: those of its assignment.
pub fn timing(ledger: &Ledger) -> Timing {
    Timing::of(ledger.assignment.as_ref().map_or(Profile::Balanced, |told| told.profile))
}

/// Whether somebody should be woken: everything but the numbers that always move.
fn is_news(before: &NodeReport, after: &NodeReport) -> bool {
    fn still(report: &NodeReport) -> NodeReport {
        let mut still = report.clone();
        still.disk = still.disk.map(|disk| flypg_core::protocol::Disk { total: disk.total, used: disk.used_percent() });
        if let flypg_core::protocol::Phase::Cloning { done, total } = &mut still.phase {
            // Every tenth is news enough.
            *done = done.saturating_mul(10).checked_div(total.unwrap_or(0)).unwrap_or(0);
        }
        if let Some(postgres) = &mut still.postgres {
            match &mut postgres.role {
                PgRole::Primary { lsn, replicas, slots, .. } => {
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
    use flypg_core::failover::lease::BootTime;
    use flypg_core::protocol::{Disk, Lsn, PgReport, Phase, Standing};

    use super::*;

    #[test]
    fn moving_numbers_are_no_news_and_everything_else_is() {
        let report = |lsn, phase, used, crashes| NodeReport {
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
        };
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
