//! A cluster of three, its controller, and what befalls it.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use flypg_core::protocol::ports::{NODE, READ_WRITE};
use flypg_tests::fly::{Fly, Running, cluster_file, spawn, tree};
use flypg_tests::patience::eventually;
use flypg_tests::sql;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::load::Load;

const NAME: &str = "failover";
/// Longer than any failover may take.
const LIMIT: Duration = Duration::from_secs(120);
/// A frozen Machine thaws after this long, so that it comes back.
const FROZEN: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Postmaster,
    /// Its processes are killed; its host answers.
    Machine,
    /// Every process of the Machine stops for a while.
    Freeze,
    Switchover,
    Controller,
}

pub(crate) struct Cluster {
    // Ends before the Fly that it acts on.
    controller: Mutex<Option<Running>>,
    fly: Fly,
    password: String,
    doors: Vec<String>,
}

/// What one run came to.
pub(crate) struct Run {
    pub(crate) outage: Duration,
    /// From the fault until the old primary streamed again.
    pub(crate) back: Option<Duration>,
    pub(crate) acknowledged: usize,
    pub(crate) lost: usize,
}

impl Cluster {
    pub(crate) async fn start(more: &str) -> Self {
        let fly = Fly::start();
        let file = fly.write("clusters/cluster.yaml", &cluster_file(NAME, 3, &format!("{more}  deletion: delete\n")));
        fly.ok(&["reconcile", "-f", &file]).await;
        let password = fly.password(NAME);
        let mut doors = Vec::new();
        for node in ["ord-1", "ord-2", "ord-3"] {
            doors.push(fly.address(NAME, node).await);
        }
        let cluster = Self { controller: Mutex::new(None), fly, password, doors };
        cluster.control();
        cluster.settled().await;
        cluster.ask("CREATE TABLE IF NOT EXISTS written (id bigint PRIMARY KEY)").await.expect("a table");
        cluster
    }

    fn control(&self) {
        let mut command = self.fly.flypg();
        command.args(["controller", "--listen", "127.0.0.1:0", "-f"]).arg(self.fly.path().join("clusters"));
        let running = spawn(command, &self.fly.path().join("controller.log"));
        *self.controller.lock().expect("nobody panics with it") = Some(running);
    }

    async fn ask(&self, query: &str) -> Result<String, String> {
        sql::ask(&self.doors[1], READ_WRITE, &self.password, query).await
    }

    /// The primary once everything is as the file says: two standbys that stream, and a rule that counts on them.
    async fn settled(&self) -> String {
        eventually("three nodes work", LIMIT, || async {
            let status = self.fly.status(NAME).await;
            let available = status["conditions"].as_array().is_some_and(|conditions| {
                conditions.iter().any(|c| c["type"] == "HighlyAvailable" && c["status"] == true)
            });
            match (status["ready"].as_bool(), available, status["primary"].as_str()) {
                (Some(true), true, Some(primary)) => Ok(primary.to_owned()),
                _ => Err(status.to_string()),
            }
        })
        .await
    }

    pub(crate) async fn run(&self, fault: Fault) -> Run {
        let primary = self.settled().await;
        let machines = self.fly.machines(NAME).await;
        let machine = machines.iter().find(|m| m["name"] == primary.as_str()).expect("it has a machine");
        let machine = machine["id"].as_str().expect("it has an id").to_owned();
        let load = Load::start(&self.doors, &self.password).await;
        eventually("writes are acknowledged", LIMIT, || async { load.last().map(|_| ()).ok_or_else(String::new) })
            .await;
        // A while of calm, so that a pause is one.
        let calm = Instant::now();
        eventually("a second of writes", LIMIT, || async {
            if calm.elapsed() > Duration::from_secs(1) { Ok(()) } else { Err(String::new()) }
        })
        .await;

        let begun = Instant::now();
        let thaw = self.befall(fault, &primary, &machine).await;
        let moves = !matches!(fault, Fault::Controller);
        if moves {
            // Whoever leads then: a Postgres that restarts in place sooner than another takes over is as good.
            eventually("writes go on", LIMIT, || async {
                match load.last() {
                    Some(at) if at > begun + Duration::from_millis(50) => Ok(()),
                    last => Err(format!("{last:?}")),
                }
            })
            .await;
        }
        let healed = Instant::now();
        eventually("a second of writes after it", LIMIT, || async {
            match load.last() {
                Some(at) if at > healed + Duration::from_secs(1) => Ok(()),
                last => Err(format!("{last:?}")),
            }
        })
        .await;
        let written = load.stop().await;
        if let Some(thaw) = thaw {
            thaw.await.expect("the thaw does not panic");
        }
        let thawed = if fault == Fault::Freeze { begun + FROZEN } else { begun };
        let back = match moves {
            true => Some(self.streams_again(&primary, thawed).await),
            false => {
                self.control();
                None
            }
        };
        self.settled().await;
        let there = self.ids().await;
        Run { outage: written.longest_pause(begun), back, acknowledged: written.0.len(), lost: written.missing(&there) }
    }

    /// What happens. The task, if any, ends what lasts.
    async fn befall(&self, fault: Fault, primary: &str, machine: &str) -> Option<tokio::task::JoinHandle<()>> {
        match fault {
            Fault::Postmaster => {
                let pid = tree(machine).into_iter().find(|(_, line)| line.contains("postgres -D"));
                let (pid, _) = pid.expect("a postmaster runs");
                kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
                None
            }
            Fault::Machine => {
                for (pid, _) in tree(machine) {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                None
            }
            Fault::Freeze => {
                let pids: Vec<i32> = tree(machine).into_iter().map(|(pid, _)| pid).collect();
                pids.iter().for_each(|pid| kill(Pid::from_raw(*pid), Signal::SIGSTOP).expect("it runs"));
                Some(tokio::spawn(async move {
                    tokio::time::sleep(FROZEN).await;
                    for pid in pids {
                        let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
                    }
                }))
            }
            Fault::Switchover => {
                let mut command = self.fly.flypg();
                command.args(["switchover", NAME]);
                let ran = flypg_tests::fly::run(command).await;
                assert_eq!(ran.code, 0, "switchover from {primary}: {}", ran.stderr);
                None
            }
            Fault::Controller => {
                let running = self.controller.lock().expect("nobody panics with it").take();
                drop(running.expect("a controller runs"));
                None
            }
        }
    }

    async fn primary(&self) -> Option<String> {
        let status = self.fly.run(&["status", NAME, "-o", "json"]).await;
        let status: serde_json::Value = serde_json::from_str(&status.stdout).ok()?;
        status["primary"].as_str().map(str::to_owned)
    }

    async fn streams_again(&self, node: &str, since: Instant) -> Duration {
        let slot = format!("flypg_{}", node.replace('-', "_"));
        let query = format!(
            "SELECT count(*) FROM pg_stat_replication WHERE application_name = '{slot}' AND state = 'streaming'"
        );
        eventually("the old primary streams again", LIMIT, || async {
            match self.ask(&query).await {
                Ok(n) if n == "1" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        since.elapsed()
    }

    /// Every row there is, by the primary's own gate.
    async fn ids(&self) -> BTreeSet<i64> {
        let primary = self.primary().await.expect("somebody leads");
        let address = self.fly.address(NAME, &primary).await;
        let client = sql::connect(&address, NODE, &self.password).await.expect("a session to check");
        let rows = client.query("SELECT id FROM written", &[]).await.expect("rows");
        rows.iter().map(|row| row.get(0)).collect()
    }
}
