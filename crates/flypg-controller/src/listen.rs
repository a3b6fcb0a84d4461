//! Ears: one long poll per running node, which wakes the loop as soon as a report changes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use flypg_core::keys::Key;
use flypg_core::names::ClusterName;
use flypg_core::observed::{Observed, Power};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::agent::{AgentClient, Seat};

/// How long an agent holds an answer back when it has nothing new to say.
const HOLD: Duration = Duration::from_secs(30);
/// While an agent does not answer: soon after its Machine started it will.
const DEAF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Listens to the agents of one cluster. Dropping it ends the polls.
#[derive(Debug)]
pub struct Ears {
    agents: AgentClient,
    key: Key,
    cluster: ClusterName,
    woken: Arc<Notify>,
    /// By Machine id.
    polls: BTreeMap<String, (IpAddr, AbortHandle)>,
}

impl Ears {
    pub fn new(agents: AgentClient, master: &Key, cluster: &ClusterName) -> Self {
        Self {
            agents,
            key: master.of_cluster(cluster),
            cluster: cluster.clone(),
            woken: Arc::new(Notify::new()),
            polls: BTreeMap::new(),
        }
    }

    /// Listens to every node that was seen running, from what it was heard to say, and to nobody else.
    pub fn attend(&mut self, observed: &Observed) {
        let Some(machines) = observed.machines.known() else { return };
        let running: BTreeMap<&String, IpAddr> = machines
            .iter()
            .filter(|machine| machine.power == Power::Started && machine.node_of(&self.cluster).is_some())
            .filter_map(|machine| Some((&machine.id, machine.address?)))
            .collect();
        self.polls.retain(|id, (address, poll)| {
            let stays = running.get(id) == Some(address) && !poll.is_finished();
            if !stays {
                poll.abort();
            }
            stays
        });
        for (id, address) in running {
            self.polls.entry(id.clone()).or_insert_with(|| {
                let heard = observed.reports.get(id).and_then(|seen| seen.known()).map(|report| report.version);
                let seat = Seat { app: self.cluster.clone(), machine: id.clone(), address };
                let poll = listen(self.agents.clone(), seat, self.key.clone(), heard, Arc::clone(&self.woken));
                (address, tokio::spawn(poll).abort_handle())
            });
        }
    }

    /// Returns once a node has said something new, or stopped or begun to answer, since this last returned.
    pub async fn heard(&self) {
        self.woken.notified().await;
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        for (_, poll) in self.polls.values() {
            poll.abort();
        }
    }
}

async fn listen(agents: AgentClient, seat: Seat, key: Key, mut heard: Option<u64>, woken: Arc<Notify>) {
    let mut pause = DEAF.0;
    loop {
        // A version is at least 1, so that whoever has heard nothing is answered at once.
        match agents.report_after(&seat, &key, heard.unwrap_or(0), HOLD).await {
            Ok(report) => {
                if heard != Some(report.version) {
                    woken.notify_one();
                }
                heard = Some(report.version);
                pause = DEAF.0;
            }
            Err(_) => {
                if heard.take().is_some() {
                    woken.notify_one();
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(DEAF.1);
            }
        }
    }
}
