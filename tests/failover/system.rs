//! What is measured: a system that keeps a cluster of three, and one run of it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use flypg_tests::patience::eventually;
use tokio::time::{sleep, timeout};
use tokio_postgres::{Config, NoTls};

use crate::load::{Load, TABLE};

/// Longer than any failover may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);
/// What stops nobody lasts so long: longer than the leases of every profile that is measured.
const AWAY: Duration = Duration::from_secs(10);
/// How long a look at who streams may take, and how long it is until the next.
const LOOK: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);
/// A while of calm, so that a pause is one.
const CALM: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Postmaster,
    /// The node's processes are killed; its host answers.
    Node,
    /// The node's processes are killed, and nobody knows, until the host is back.
    Host,
    /// Everything of the node is cut off from everything else, its clients excepted.
    Partition,
    /// Every process of the node stands still.
    Freeze,
    Switchover,
    /// With what it keeps.
    Controller,
    MachinesApi,
}

impl Fault {
    /// Whether another node must lead afterwards, the same one may, or nothing is to change.
    fn moves(self) -> Option<bool> {
        match self {
            Fault::Postmaster => Some(false),
            Fault::Node | Fault::Host | Fault::Partition | Fault::Freeze | Fault::Switchover => Some(true),
            Fault::Controller | Fault::MachinesApi => None,
        }
    }

    /// How many of them one cluster takes: more failovers by itself within a minute, and it asks for a person (rule
    /// R19).
    pub(crate) fn budget(self) -> usize {
        match self {
            Fault::Switchover | Fault::Controller | Fault::MachinesApi => usize::MAX,
            _ => 2,
        }
    }
}

/// What one run came to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) outage: Duration,
    /// From when the old primary could run again until it streamed.
    pub(crate) back: Option<Duration>,
    pub(crate) acknowledged: usize,
    pub(crate) lost: usize,
    pub(crate) dual: usize,
}

pub(crate) trait System {
    /// The primary once all is well: two standbys that stream, and commits that wait for one of them.
    async fn settled(&mut self) -> String;
    /// The ways to the primary, as clients know them.
    fn doors(&self) -> Vec<Config>;
    /// The node's own door, and the network namespace in which its clients stay with it.
    fn own_door(&self, node: &str) -> (Config, Option<PathBuf>);
    /// As the node is called in its primary's `pg_stat_replication`.
    fn replica(&self, node: &str) -> String;
    async fn befall(&mut self, fault: Fault, node: &str);
    /// Ends what lasts. False if nothing did.
    async fn mend(&mut self, fault: Fault, node: &str) -> bool;
}

/// Lets one fault happen to a system under load.
pub(crate) async fn measure(system: &mut impl System, fault: Fault) -> Run {
    let primary = system.settled().await;
    let doors = system.doors();
    ask(&doors[0], TABLE).await.expect("a table");
    let mut load = Load::start(&doors);
    let (own, namespace) = system.own_door(&primary);
    load.stay(own, namespace);
    let before = goes_on(&load, Instant::now() + CALM, None).await;

    let begun = Instant::now();
    let back = fault.moves().map(|_| streams_again(doors.clone(), system.replica(&primary)));
    let back = back.map(|back| AbortOnDrop(tokio::spawn(back)));
    system.befall(fault, &primary).await;
    let moved = match fault.moves() {
        Some(must) => {
            let after = goes_on(&load, begun + Duration::from_millis(50), must.then_some(before)).await;
            goes_on(&load, Instant::now() + CALM, None).await;
            after > before
        }
        None => {
            sleep(AWAY).await; // the figure is what happens in this time
            false
        }
    };
    let mended = Instant::now();
    let since = if system.mend(fault, &primary).await { mended } else { begun };
    let back = match back.filter(|_| moved) {
        Some(mut back) => {
            let at = timeout(LIMIT, &mut back.0).await.expect("the old primary streams again in time");
            Some(at.expect("looking does not panic").saturating_duration_since(since))
        }
        None => None,
    };
    goes_on(&load, Instant::now() + CALM, None).await;
    let written = load.stop().await;
    system.settled().await;
    let there = ids(&doors[0]).await;
    Run {
        outage: written.longest_pause(begun),
        back,
        acknowledged: written.0.len(),
        lost: written.missing(&there),
        dual: written.dual(),
    }
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Waits for a write that is acknowledged after this moment, by a successor of `timeline` if one is given. The
/// timeline that it is on.
async fn goes_on(load: &Load, moment: Instant, timeline: Option<i32>) -> i32 {
    eventually("writes go on", LIMIT, || async {
        match load.last() {
            Some(ack) if ack.at > moment && timeline.is_none_or(|old| ack.timeline > old) => Ok(ack.timeline),
            last => Err(format!("{last:?}")),
        }
    })
    .await
}

/// When the node is first seen to stream from a primary that takes writes, which it was not itself before.
async fn streams_again(doors: Vec<Config>, replica: String) -> Instant {
    let query = format!(
        "SELECT count(*) FROM pg_stat_replication WHERE application_name = '{replica}' AND state = 'streaming'"
    );
    // A door that is cut off says nothing at all.
    for door in doors.iter().cycle() {
        let Ok(Ok((client, connection))) = timeout(LOOK, door.connect(NoTls)).await else {
            sleep(PAUSE).await;
            continue;
        };
        let _connection = AbortOnDrop(tokio::spawn(connection));
        while let Ok(Ok(row)) = timeout(LOOK, client.query_one(&query, &[])).await {
            if row.get::<_, i64>(0) == 1 {
                return Instant::now();
            }
            sleep(PAUSE).await;
        }
    }
    unreachable!("there is a door, so the cycle has no end")
}

/// The first column of the first row, as text.
pub(crate) async fn ask(door: &Config, query: &str) -> Result<String, String> {
    let (client, connection) = door.connect(NoTls).await.map_err(|error| error.to_string())?;
    let _connection = AbortOnDrop(tokio::spawn(connection));
    flypg_tests::sql::one(&client, query).await
}

/// Every row there is.
async fn ids(door: &Config) -> BTreeSet<i64> {
    eventually("the rows can be read", LIMIT, || async {
        let (client, connection) = door.connect(NoTls).await.map_err(|error| error.to_string())?;
        let _connection = AbortOnDrop(tokio::spawn(connection));
        let rows = client.query("SELECT id FROM written", &[]).await.map_err(|error| error.to_string())?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    })
    .await
}
