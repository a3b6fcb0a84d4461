//! A client that writes one row after another and remembers what was acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::sql;

/// Writes until it is stopped, connecting again whenever it must, each time through the next of its doors.
#[derive(Debug)]
pub struct Writer {
    stop: Arc<AtomicBool>,
    last: Arc<AtomicI64>,
    task: JoinHandle<Written>,
}

/// What became of the writes.
#[derive(Debug)]
pub struct Written {
    /// Ids whose insert was acknowledged, in order.
    pub acknowledged: Vec<i64>,
    /// The longest time between two acknowledgements.
    pub longest_pause: Duration,
}

impl Writer {
    /// Makes the table and begins. `hosts` have a read-write door each, at `port`.
    pub async fn start(hosts: &[String], port: u16, password: &str) -> Self {
        let host = hosts.first().expect("a door at least");
        let client = sql::connect(host, port, password).await.expect("a first session");
        client.batch_execute("CREATE TABLE IF NOT EXISTS written (id bigint PRIMARY KEY)").await.expect("a table");
        let (stop, last) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
        let (hosts, password) = (hosts.to_vec(), password.to_owned());
        let task = tokio::spawn(write(hosts, port, password, Arc::clone(&stop), Arc::clone(&last)));
        Self { stop, last, task }
    }

    /// The highest id acknowledged so far.
    pub fn last(&self) -> i64 {
        self.last.load(Ordering::SeqCst)
    }

    pub async fn stop(self) -> Written {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.expect("the writer does not panic")
    }
}

async fn write(
    hosts: Vec<String>,
    port: u16,
    password: String,
    stop: Arc<AtomicBool>,
    last: Arc<AtomicI64>,
) -> Written {
    let mut written = Written { acknowledged: Vec::new(), longest_pause: Duration::ZERO };
    let mut since = Instant::now();
    let mut id = 0;
    for host in hosts.iter().cycle().take_while(|_| !stop.load(Ordering::SeqCst)) {
        let Ok(client) = sql::connect(host, port, &password).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        while !stop.load(Ordering::SeqCst) {
            id += 1; // an id whose fate is unknown is never tried again
            let params: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&id];
            let insert = client.execute("INSERT INTO written VALUES ($1)", &params);
            match tokio::time::timeout(Duration::from_secs(10), insert).await {
                Ok(Ok(1)) => {
                    written.longest_pause = written.longest_pause.max(since.elapsed());
                    since = Instant::now();
                    written.acknowledged.push(id);
                    last.store(id, Ordering::SeqCst);
                }
                _ => break,
            }
        }
    }
    written.longest_pause = written.longest_pause.max(since.elapsed());
    written
}

impl Written {
    /// Every acknowledged row is there; panics with those that are not, and if nothing was ever written.
    pub async fn check(&self, host: &str, port: u16, password: &str) {
        assert!(!self.acknowledged.is_empty(), "nothing was written at all");
        let client = sql::connect(host, port, password).await.expect("a session to check");
        let rows = client.query("SELECT id FROM written ORDER BY id", &[]).await.expect("rows");
        let there: std::collections::BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
        let lost: Vec<_> = self.acknowledged.iter().filter(|id| !there.contains(id)).collect();
        assert!(lost.is_empty(), "{} acknowledged rows are lost: {lost:?}", lost.len());
    }
}
