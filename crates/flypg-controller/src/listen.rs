//! Ears: one long poll per node. Its answers are the heartbeat: each says how the node is now, a primary's is answered
//! with a lease, and those that do not come are counted.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flypg_core::Timestamp;
use flypg_core::failover::lease::Timing;
use flypg_core::keys::Key;
use flypg_core::names::{ClusterName, NodeName};
use flypg_core::observed::{Heard, Missed, Observed, Power, Unknown};
use tokio::task::AbortHandle;

use crate::agent::{AgentClient, AgentError, Seat};
use crate::clock;
use crate::vigil::Vigil;
use crate::words::chain;

/// Questions are not asked more often than this, however impatient a profile is.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Nor less often than this, however long nobody has answered.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Questions without an answer after which nobody is expected to answer the next one.
const QUICK: u32 = 8;

/// Listens to the agents of one cluster. Dropping it ends the polls.
#[derive(Debug)]
pub struct Ears {
    agents: AgentClient,
    key: Key,
    cluster: ClusterName,
    vigil: Arc<Vigil>,
    /// Milliseconds between two reports.
    interval: Arc<AtomicU64>,
    /// By Machine id.
    polls: BTreeMap<String, (IpAddr, AbortHandle)>,
}

impl Ears {
    pub fn new(agents: AgentClient, master: &Key, cluster: &ClusterName, vigil: Arc<Vigil>) -> Self {
        Self {
            agents,
            key: master.of_cluster(cluster),
            cluster: cluster.clone(),
            vigil,
            interval: Arc::new(AtomicU64::new(millis(Timing::of(flypg_core::spec::Profile::Balanced).report))),
            polls: BTreeMap::new(),
        }
    }

    /// Listens to every node that was seen running, and to every one that was listened to and is still there: what a list
    /// says of it may be old. To the primary on record in any case: that it does not answer must be noticed, whatever
    /// keeps its Machine from starting.
    pub fn attend(&mut self, observed: &Observed, timing: &Timing) {
        self.interval.store(millis(timing.report), Ordering::Relaxed);
        let Some(machines) = observed.machines.known() else { return };
        let primary = observed.record.known().and_then(Option::as_ref).map(|decree| &decree.primary);
        let ours: BTreeMap<&String, (NodeName, IpAddr, bool)> = machines
            .iter()
            .filter_map(|machine| {
                let node = machine.node_of(&self.cluster)?;
                let matters = machine.power == Power::Started || primary == Some(&node);
                Some((&machine.id, (node, machine.address?, matters)))
            })
            .collect();
        self.polls.retain(|id, (address, poll)| {
            let stays = ours.get(id).is_some_and(|(_, now, _)| now == address) && !poll.is_finished();
            if !stays {
                poll.abort();
            }
            stays
        });
        for (id, (node, address, _)) in ours.into_iter().filter(|(_, (.., matters))| *matters) {
            self.polls.entry(id.clone()).or_insert_with(|| {
                let poll = Poll {
                    agents: self.agents.clone(),
                    seat: Seat { app: self.cluster.clone(), machine: id.clone(), address },
                    node,
                    key: self.key.clone(),
                    vigil: Arc::clone(&self.vigil),
                    interval: Arc::clone(&self.interval),
                };
                (address, tokio::spawn(poll.run()).abort_handle())
            });
        }
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        for (_, poll) in self.polls.values() {
            poll.abort();
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// One node that is listened to.
struct Poll {
    agents: AgentClient,
    seat: Seat,
    node: NodeName,
    key: Key,
    vigil: Arc<Vigil>,
    interval: Arc<AtomicU64>,
}

impl Poll {
    async fn run(self) {
        let mut heard = None;
        let mut missed = 0_u32;
        loop {
            let interval = Duration::from_millis(self.interval.load(Ordering::Relaxed));
            // Who has not answered is not asked to hold its answer back. A version is at least 1, so that whoever has
            // heard nothing is answered at once.
            let hold = if missed == 0 { interval } else { Duration::ZERO };
            let after = heard.filter(|_| missed == 0).unwrap_or(0);
            let asked = clock::mono();
            let answer = self.agents.report_after(&self.seat, &self.key, after, hold, interval / 2).await;
            let when = Heard { asked, arrived: clock::mono() };
            match answer {
                Ok(report) if report.machine == self.seat.machine && report.node == self.node => {
                    (heard, missed) = (Some(report.version), 0);
                    self.vigil.hear(&self.seat.machine, report, Timestamp::now(), when);
                    continue;
                }
                Ok(stranger) => {
                    let error = format!(
                        "the agent at {} is that of {} on Machine {}: the address has changed hands",
                        self.seat.address, stranger.node, stranger.machine
                    );
                    self.vigil.miss(&self.seat.machine, Missed::Silent, Unknown::NoAnswer { error });
                }
                Err(error) => {
                    let why = match &error {
                        AgentError::WrongKey { .. } => Unknown::Forbidden { error: chain(&error) },
                        _ => Unknown::NoAnswer { error: chain(&error) },
                    };
                    self.vigil.miss(&self.seat.machine, error.missed(), why);
                }
            }
            missed = missed.saturating_add(1);
            tokio::time::sleep(pause(interval, heard.is_some(), missed)).await;
        }
    }
}

/// Before the next question, after so many in a row that were not answered: at once, while that may be a moment's
/// trouble, then more and more seldom. A node that was never heard is about to answer for the first time.
fn pause(interval: Duration, heard: bool, missed: u32) -> Duration {
    let quick = if heard { (interval / 4).max(PAUSE_MIN) } else { PAUSE_MIN };
    let seldom = 1 << missed.saturating_sub(QUICK).min(8);
    quick.saturating_mul(seldom).min(PAUSE_MAX).max(quick)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_questions_take_no_longer_than_three_reports() {
        for profile in
            [flypg_core::spec::Profile::Fast, flypg_core::spec::Profile::Balanced, flypg_core::spec::Profile::Patient]
        {
            let timing = Timing::of(profile);
            let patience = timing.report / 2;
            let (mut all, mut missed) = (timing.report + patience, 1);
            while missed < timing.misses {
                all += pause(timing.report, true, missed) + patience;
                missed += 1;
            }
            assert!(all <= timing.report * timing.misses, "{profile:?}: {all:?}");
        }
    }

    #[test]
    fn who_is_gone_is_asked_less_and_less_often() {
        let interval = Duration::from_secs(1);
        let pauses: Vec<u128> = (1..=14).map(|missed| pause(interval, true, missed).as_millis()).collect();
        assert_eq!(pauses[..9], [250, 250, 250, 250, 250, 250, 250, 250, 500]);
        assert_eq!(pauses[10..], [2000; 4]);
        assert_eq!(pause(Duration::from_millis(100), true, 1), PAUSE_MIN);
    }
}
