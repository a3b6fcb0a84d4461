//! Clients that write all the time, and when each of their writes was acknowledged.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flypg_core::protocol::ports::READ_WRITE;
use flypg_tests::sql;
use tokio::task::JoinHandle;

/// So many clients, spread over the nodes' routers.
const CLIENTS: usize = 4;
/// A client gives a statement up after this long, and connects anew.
const PATIENCE: Duration = Duration::from_millis(1_000);

pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<(Instant, i64)>>>,
    clients: Vec<JoinHandle<()>>,
}

/// What was acknowledged, in order of time.
pub(crate) struct Acknowledged(pub(crate) Vec<(Instant, i64)>);

impl Load {
    pub(crate) async fn start(doors: &[String], password: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let next = Arc::new(AtomicI64::new(1));
        let clients = (0..CLIENTS)
            .map(|n| {
                let (door, password) = (doors[n % doors.len()].clone(), password.to_owned());
                tokio::spawn(client(door, password, Arc::clone(&stop), Arc::clone(&next), Arc::clone(&acknowledged)))
            })
            .collect();
        Self { stop, acknowledged, clients }
    }

    /// The last acknowledgement so far.
    pub(crate) fn last(&self) -> Option<Instant> {
        self.acknowledged.lock().expect("no client panics").last().map(|(at, _)| *at)
    }

    pub(crate) async fn stop(self) -> Acknowledged {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.await.expect("a client does not panic");
        }
        let mut all = std::mem::take(&mut *self.acknowledged.lock().expect("no client panics"));
        all.sort();
        Acknowledged(all)
    }
}

impl Acknowledged {
    /// The longest time without an acknowledgement that ended after `since`.
    pub(crate) fn longest_pause(&self, since: Instant) -> Duration {
        let pairs = self.0.windows(2).filter(|pair| pair[1].0 > since);
        pairs.map(|pair| pair[1].0 - pair[0].0).max().unwrap_or(Duration::MAX)
    }

    /// How many of them are not there.
    pub(crate) fn missing(&self, there: &BTreeSet<i64>) -> usize {
        self.0.iter().filter(|(_, id)| !there.contains(id)).count()
    }
}

async fn client(
    door: String,
    password: String,
    stop: Arc<AtomicBool>,
    next: Arc<AtomicI64>,
    acknowledged: Arc<Mutex<Vec<(Instant, i64)>>>,
) {
    while !stop.load(Ordering::SeqCst) {
        let Ok(client) = sql::connect(&door, READ_WRITE, &password).await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        while !stop.load(Ordering::SeqCst) {
            // An id whose fate is unknown is never used again.
            let id = next.fetch_add(1, Ordering::SeqCst);
            let params: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&id];
            let insert = client.execute("INSERT INTO written VALUES ($1)", &params);
            match tokio::time::timeout(PATIENCE, insert).await {
                Ok(Ok(1)) => acknowledged.lock().expect("no client panics").push((Instant::now(), id)),
                _ => break,
            }
        }
    }
}
