//! What keeps a primary's lease up while no controller answers, and what ends it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use flypg_core::failover::lease::BootTime;
use flypg_core::names::NodeName;
use flypg_core::node::PledgeAsked;
use flypg_core::protocol::ports;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::{MissedTickBehavior, sleep, timeout};

use crate::call;
use crate::clock;
use crate::shared::{Shared, timing};

/// The longest between two looks at the lease (failover-protocol §2.9: at most a quarter of the time in which nothing
/// new begins). Timers stand still while a Machine is suspended, and a lease does not.
const TICK: Duration = Duration::from_millis(50);

/// Resets the sessions of a lease that ended, and tells the node's loop when what it may run has changed. It is the
/// second to notice: a session through which anything flows is judged by its own pump, answer by answer.
pub async fn watch(shared: Arc<Shared>) {
    loop {
        shared.refresh();
        sleep(next_look(shared.gate.term().end(), clock::now())).await;
    }
}

/// How long to wait for a lease that ends at `end`, if there is one.
fn next_look(end: Option<BootTime>, now: BootTime) -> Duration {
    match end {
        Some(end) => end.0.saturating_sub(now.0).clamp(Duration::from_millis(1), TICK),
        None => TICK,
    }
}

/// Asks for pledges whenever it is time to.
pub async fn gather(shared: Arc<Shared>) {
    let mut upheld = None;
    loop {
        let report = timing(&shared.ledger()).report;
        let mut reports = tokio::time::interval(report);
        reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Until the assignment speaks of other times.
        while timing(&shared.ledger()).report == report {
            reports.tick().await;
            let now = ask_all(&shared, report / 2).await;
            match now {
                Some(true) if upheld != now => tracing::warn!("no controller answers; members hold the lease up"),
                Some(false) if upheld != now => tracing::warn!("no controller answers, and too few members pledge"),
                None if upheld.is_some() => tracing::info!("a controller answers again"),
                _ => {}
            }
            upheld = now;
        }
    }
}

/// One round: everybody is asked at once, and what is enough counts at once. True if it held the lease up; `None` if
/// it was not time for one.
async fn ask_all(shared: &Shared, patience: Duration) -> Option<bool> {
    let (mut round, questions) = shared.round()?;
    let ledger = shared.ledger();
    let address = |node: &NodeName| {
        let mut peers = ledger.assignment.iter().flat_map(|told| &told.peers);
        peers.find(|peer| peer.node == *node).map(|peer| peer.address)
    };
    let mut answers: FuturesUnordered<_> =
        questions.iter().map(|asked| ask(shared, asked, address(&asked.node), patience)).collect();
    let mut upheld = false;
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(giver) => {
                round.givers.insert(giver);
                upheld |= shared.pledges(&round);
            }
            Err(why) => tracing::debug!(why, "no pledge"),
        }
    }
    Some(upheld)
}

/// Asks one member; its name if it has pledged.
async fn ask(
    shared: &Shared,
    asked: &PledgeAsked,
    address: Option<IpAddr>,
    patience: Duration,
) -> Result<NodeName, String> {
    let address = address.ok_or_else(|| format!("{} has no address", asked.node))?;
    let body = serde_json::to_vec(asked).expect("a question has string keys only");
    let to = SocketAddr::new(address, ports::API);
    let answer = timeout(patience, call::call_at(to, &shared.config.key, "POST", "/v1/pledge", &body)).await;
    match answer {
        Ok(Ok((200, _))) => Ok(asked.node.clone()),
        Ok(Ok((status, words))) => Err(format!("{}: {status}: {}", asked.node, String::from_utf8_lossy(&words))),
        Ok(Err(error)) => Err(format!("{}: {}", asked.node, crate::words(&error))),
        Err(_) => Err(format!("{} did not answer within {patience:?}", asked.node)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_lease_is_met_to_the_millisecond() {
        let at = |millis| BootTime(Duration::from_millis(millis));
        assert_eq!(next_look(None, at(5)), TICK);
        assert_eq!(next_look(Some(at(90_000)), at(5)), TICK);
        assert_eq!(next_look(Some(at(25)), at(5)), Duration::from_millis(20));
        assert_eq!(next_look(Some(at(4)), at(5)), Duration::from_millis(1));
    }
}
