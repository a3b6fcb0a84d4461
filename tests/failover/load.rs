//! Clients that write all the time, when each of their writes was acknowledged, and on which timeline.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls, Statement};
use tokio_util::sync::CancellationToken;

/// So many clients, spread over the doors.
const CLIENTS: usize = 4;
/// A client gives a statement up after this long, and connects anew.
const PATIENCE: Duration = Duration::from_millis(1_000);
/// Longer than anything here lasts.
const FOREVER: Duration = Duration::from_secs(3600);
/// Longer than a router holds a connection while there is no primary.
const CONNECT: Duration = Duration::from_secs(15);
/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(10);

pub(crate) const TABLE: &str = "CREATE TABLE IF NOT EXISTS written (id bigint PRIMARY KEY)";
/// A standby has no WAL of its own, so it is never mistaken for a primary.
const WRITE: &str = "INSERT INTO written VALUES ($1) \
                     RETURNING ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int";

/// No id is used twice, in whichever cluster: what became of one may be unknown.
static NEXT: AtomicI64 = AtomicI64::new(1);

/// One acknowledged write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ack {
    pub(crate) at: Instant,
    pub(crate) id: i64,
    pub(crate) timeline: i32,
}

pub(crate) struct Load {
    stop: CancellationToken,
    acks: Arc<Mutex<Vec<Ack>>>,
    clients: Vec<JoinHandle<()>>,
    loyal: Option<std::thread::JoinHandle<()>>,
}

impl Load {
    /// Clients that connect again whenever they must.
    pub(crate) fn start(doors: &[Config]) -> Self {
        let (stop, acks) = (CancellationToken::new(), Arc::default());
        let client = |n: usize| {
            let desk = Desk { stop: stop.clone(), acks: Arc::clone(&acks) };
            tokio::spawn(desk.wander(doors[n % doors.len()].clone()))
        };
        let clients = (0..CLIENTS).map(client).collect();
        Self { stop, acks, clients, loyal: None }
    }

    /// One more that connects to this node once and writes for as long as that lasts, giving nothing up: the one that a
    /// partition leaves behind. It is in this network namespace.
    pub(crate) fn stay(&mut self, door: Config, namespace: Option<PathBuf>) {
        let desk = Desk { stop: self.stop.clone(), acks: Arc::clone(&self.acks) };
        self.loyal = Some(std::thread::spawn(move || {
            if let Some(namespace) = namespace {
                let namespace = File::open(&namespace).expect("the node's namespace is there");
                // Of this thread only, and it ends with it.
                setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may enter it");
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(desk.stay(door));
        }));
    }

    /// The last acknowledgement so far.
    pub(crate) fn last(&self) -> Option<Ack> {
        self.acks.lock().expect("no client panics").last().copied()
    }

    pub(crate) async fn stop(mut self) -> Acknowledged {
        self.stop.cancel();
        for client in std::mem::take(&mut self.clients) {
            client.await.expect("a client does not panic");
        }
        if let Some(loyal) = self.loyal.take() {
            let joined = tokio::task::spawn_blocking(|| loyal.join()).await;
            joined.expect("joining does not panic").expect("a client does not panic");
        }
        let mut all = std::mem::take(&mut *self.acks.lock().expect("no client panics"));
        all.sort();
        Acknowledged(all)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What was acknowledged, in order of time.
pub(crate) struct Acknowledged(pub(crate) Vec<Ack>);

impl Acknowledged {
    /// The longest time without an acknowledgement that ended after `since`.
    pub(crate) fn longest_pause(&self, since: Instant) -> Duration {
        let pairs = self.0.windows(2).filter(|pair| pair[1].at > since);
        pairs.map(|pair| pair[1].at - pair[0].at).max().unwrap_or(Duration::MAX)
    }

    /// How many of them are not there.
    pub(crate) fn missing(&self, there: &BTreeSet<i64>) -> usize {
        self.0.iter().filter(|ack| !there.contains(&ack.id)).count()
    }

    /// How many came from a primary after its successor had acknowledged something.
    pub(crate) fn dual(&self) -> usize {
        let mut first: BTreeMap<i32, Instant> = BTreeMap::new();
        for ack in &self.0 {
            first.entry(ack.timeline).or_insert(ack.at);
        }
        let late = |ack: &&Ack| first.range(ack.timeline + 1..).any(|(_, begun)| *begun < ack.at);
        self.0.iter().filter(late).count()
    }
}

/// Of one client.
struct Desk {
    stop: CancellationToken,
    acks: Arc<Mutex<Vec<Ack>>>,
}

impl Desk {
    async fn wander(self, door: Config) {
        let writes = async {
            loop {
                match connect(&door).await {
                    Some((client, write)) => while self.write(&client, &write, PATIENCE).await {},
                    None => tokio::time::sleep(PAUSE).await,
                }
            }
        };
        tokio::select! {
            () = writes => {}
            () = self.stop.cancelled() => {}
        }
    }

    async fn stay(self, door: Config) {
        let writes = async {
            let Some((client, write)) = connect(&door).await else { return };
            while self.write(&client, &write, FOREVER).await {}
        };
        tokio::select! {
            () = writes => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// Whether it was acknowledged.
    async fn write(&self, client: &Client, write: &Statement, patience: Duration) -> bool {
        let id = NEXT.fetch_add(1, Ordering::SeqCst);
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&id];
        let Ok(Ok(row)) = tokio::time::timeout(patience, client.query_one(write, &params)).await else {
            return false;
        };
        let ack = Ack { at: Instant::now(), id, timeline: row.get(0) };
        self.acks.lock().expect("no client panics").push(ack);
        true
    }
}

async fn connect(door: &Config) -> Option<(Client, Statement)> {
    let session = async {
        let (client, connection) = door.connect(NoTls).await.ok()?;
        tokio::spawn(connection);
        let write = client.prepare(WRITE).await.ok()?;
        Some((client, write))
    };
    tokio::time::timeout(CONNECT, session).await.ok().flatten()
}
