//! One side's clients, in a process of their own so that they can live in a node's network namespace.
//!
//! Beside a read-write door there are a writer and a reader, which connect again whenever they must, and a session that
//! was opened once, writes as long as it lasts, and never comes back: the one that a partition leaves behind.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use flypg_core::protocol::ports::READ_WRITE;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::clock;
use crate::history::{Answer, Op, What};

/// Where the clients are, and what they use.
#[derive(Clone, Debug, clap::Args)]
pub struct Side {
    /// A node's name, or `outside`.
    #[arg(long)]
    pub side: String,
    /// Addresses to try in turn.
    #[arg(long = "host", required = true)]
    pub hosts: Vec<String>,
    /// The number of the first client; there are three.
    #[arg(long)]
    pub first: u32,
    /// Where each operation is noted, one JSON object a line.
    #[arg(long)]
    pub log: PathBuf,
    #[arg(long, env = "PGPASSWORD", hide_env_values = true)]
    pub password: String,
}

/// The clients of a side have consecutive numbers.
pub const CLIENTS: u32 = 3;

/// Between two operations of one client. All clients together leave the computer mostly to what is tested.
const PACE: Duration = Duration::from_millis(15);
/// After this the writer gives a session up; a router holds a connection for 10 s while there is no primary.
const PATIENCE: Duration = Duration::from_secs(12);

/// The table, made before there are clients.
pub const TABLE: &str = "CREATE TABLE IF NOT EXISTS written (client int, n bigint, PRIMARY KEY (client, n))";

/// Which node and timeline answers. A standby cannot say, so it is never mistaken for a primary.
const WHO: &str = "split_part(current_setting('cluster_name'), '.', 1), \
                   ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int";

/// Runs until it is killed, or its standard input ends.
///
/// # Errors
/// The log cannot be opened.
pub async fn run(side: Side) -> io::Result<()> {
    // Whoever started this holds the other end; without a listener there is nothing to do it for.
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(0);
    });
    let log = Rc::new(std::fs::OpenOptions::new().create(true).append(true).open(&side.log)?);
    let here = |number: u32| Desk { side: side.clone(), number: side.first + number, log: Rc::clone(&log) };
    let all = tokio::task::LocalSet::new();
    all.run_until(async {
        futures::future::join3(here(0).write(true), here(1).read(), here(2).write(false)).await;
        // The log says all there is to say.
        futures::future::pending().await
    })
    .await
}

/// One client.
struct Desk {
    side: Side,
    number: u32,
    log: Rc<File>,
}

impl Desk {
    async fn write(&self, again: bool) {
        let mut n = 0;
        loop {
            let client = self.connect().await;
            loop {
                n += 1; // what became of it may stay unknown, so no number is tried twice
                let insert = format!("INSERT INTO written VALUES ({}, {n}) RETURNING {WHO}", self.number);
                let sent = clock::now();
                let told = self.patiently(again, client.simple_query(&insert)).await;
                let answer = told.and_then(|rows| rows.first().and_then(|row| answer(row.get(0)?, row.get(1)?)));
                let over = answer.is_none();
                self.note(sent, What::Write(n), answer);
                if over {
                    break;
                }
                tokio::time::sleep(PACE).await;
            }
            if !again {
                return;
            }
        }
    }

    async fn read(&self) {
        let select = format!("SELECT {WHO}, client, max(n) FROM written GROUP BY client");
        loop {
            let client = self.connect().await;
            loop {
                let sent = clock::now();
                let Some(rows) = self.patiently(true, client.simple_query(&select)).await else {
                    self.note(sent, What::Read(BTreeMap::new()), None);
                    break;
                };
                let seen = rows.iter().filter_map(|row| Some((row.get(2)?.parse().ok()?, row.get(3)?.parse().ok()?)));
                let seen = What::Read(seen.collect());
                // An empty table has nobody to tell who answered.
                if let Some(answer) = rows.first().and_then(|row| answer(row.get(0)?, row.get(1)?)) {
                    self.note(sent, seen, Some(answer));
                }
                tokio::time::sleep(PACE).await;
            }
        }
    }

    /// The rows of an answer. A session that stays is waited for without end: that is what it is for.
    async fn patiently(
        &self,
        bounded: bool,
        query: impl Future<Output = Result<Vec<SimpleQueryMessage>, tokio_postgres::Error>>,
    ) -> Option<Vec<tokio_postgres::SimpleQueryRow>> {
        let messages = match bounded {
            true => tokio::time::timeout(PATIENCE, query).await.ok()?,
            false => query.await,
        };
        let rows = messages.ok()?.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Some(rows.collect())
    }

    async fn connect(&self) -> Client {
        for host in self.side.hosts.iter().cycle() {
            let mut config = Config::new();
            config.host(host).port(READ_WRITE).user("postgres").dbname("postgres").password(&self.side.password);
            config.connect_timeout(PATIENCE).application_name("faults");
            if let Ok(Ok((client, connection))) = tokio::time::timeout(PATIENCE, config.connect(NoTls)).await {
                tokio::task::spawn_local(connection);
                return client;
            }
            tokio::time::sleep(PACE).await;
        }
        unreachable!("there is a host, so the cycle has no end")
    }

    fn note(&self, sent: u64, what: What, answer: Option<Answer>) {
        let op = Op { client: self.number, side: self.side.side.clone(), sent, what, answer };
        let mut line = serde_json::to_vec(&op).expect("numbers and names");
        line.push(b'\n');
        // In one piece, so that a kill leaves whole lines. Without a log there is nothing to go on for.
        (&*self.log).write_all(&line).expect("the log can be written");
    }
}

/// Taken at once when the answer is there.
fn answer(node: &str, timeline: &str) -> Option<Answer> {
    Some(Answer { at: clock::now(), node: node.to_owned(), timeline: timeline.parse().ok()? })
}
