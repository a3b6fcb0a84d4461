//! A cluster to which things happen: emulator, controller, nodes, and clients on every side.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use flypg_core::protocol::ports::{NODE, READ_WRITE};
use flypg_tests::fly::{Fly, Running, cluster_file, spawn};
use flypg_tests::sql;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::client::{self, CLIENTS};
use crate::history::{Op, Rows, read_log};
use crate::scenario::{Scenario, Who};

/// Longer than anything takes on a busy computer.
pub const LIMIT: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_millis(25);

/// The cluster's name; there is one in each emulator.
pub const CLUSTER: &str = "faults-db";

/// What clients outside all nodes are beside.
pub const OUTSIDE: &str = "outside";

/// Why a run did not come to its end.
pub type Broken = String;

/// One cluster of one run. Dropping it ends everything.
#[derive(Debug)]
pub struct Rig {
    /// Before what they talk to.
    clients: Vec<Running>,
    controller: Option<Running>,
    logs: Vec<(PathBuf, usize)>,
    ops: Vec<Op>,
    next_client: u32,
    namespaces: bool,
    roles: Roles,
    file: String,
    fly: Fly,
}

/// Who is who in a scenario.
#[derive(Clone, Debug, Default)]
struct Roles {
    primary: String,
    others: Vec<String>,
}

/// Whether nodes can have network namespaces here: this is root, and the programs for it are installed.
#[must_use]
pub fn can_have_namespaces() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |program: &str| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    nix::unistd::geteuid().is_root() && ["ip", "nft", "nsenter"].into_iter().all(there)
}

impl Rig {
    /// An empty Fly, and a controller that is to make a cluster in it.
    #[must_use]
    pub fn start(scenario: &Scenario, namespaces: bool) -> Self {
        let fly = Fly::apart(namespaces);
        let durability = format!("  durability: {}\n  deletion: delete\n", scenario.durability.word());
        let file = fly.write("cluster.yaml", &cluster_file(CLUSTER, scenario.nodes, &durability));
        let mut rig = Self {
            clients: Vec::new(),
            controller: None,
            logs: Vec::new(),
            ops: Vec::new(),
            next_client: 1,
            namespaces,
            roles: Roles::default(),
            file,
            fly,
        };
        rig.start_controller();
        rig
    }

    /// Waits for the cluster, and makes its table.
    ///
    /// # Errors
    /// It did not become as its file says in time.
    pub async fn make(&mut self, nodes: u32) -> Result<(), Broken> {
        self.until_ready(nodes).await?;
        self.learn_roles().await?;
        let address = self.fly.address(CLUSTER, &self.roles.primary).await;
        sql::ask(&address, READ_WRITE, &self.password(), client::TABLE).await?;
        Ok(())
    }

    /// Keeps the files, and says where they are.
    pub fn keep(&mut self) -> PathBuf {
        self.fly.keep();
        self.fly.path().to_owned()
    }

    fn password(&self) -> String {
        self.fly.password(CLUSTER)
    }

    /// A machine of the cluster as the emulator's faults name it.
    #[must_use]
    pub fn end(&self, who: Who) -> String {
        match self.node(who) {
            OUTSIDE => OUTSIDE.to_owned(),
            node => format!("{CLUSTER}/{node}"),
        }
    }

    /// The node's name; one that this cluster does not have is its last.
    #[must_use]
    pub fn node(&self, who: Who) -> &str {
        let other = |n: usize| self.roles.others.get(n).or(self.roles.others.last()).map_or("", String::as_str);
        match who {
            Who::Primary => &self.roles.primary,
            Who::First => other(0),
            Who::Second => other(1),
            Who::Outside => OUTSIDE,
        }
    }

    async fn learn_roles(&mut self) -> Result<(), Broken> {
        let status = self.fly.status(CLUSTER).await;
        let primary = status["primary"].as_str().ok_or("there is no primary")?.to_owned();
        let nodes = status["nodes"].as_array().into_iter().flatten();
        let mut others: Vec<String> = nodes.filter_map(|node| node["node"].as_str().map(str::to_owned)).collect();
        others.retain(|node| *node != primary);
        others.sort();
        self.roles = Roles { primary, others };
        Ok(())
    }

    /// Everything is as the file says, and every other node streams from the primary.
    ///
    /// # Errors
    /// Not in time.
    pub async fn until_ready(&self, nodes: u32) -> Result<(), Broken> {
        until("the cluster is as its file says", LIMIT, || async {
            let ran = self.fly.run(&["status", CLUSTER, "-o", "json"]).await;
            let status: Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
            let streaming = |node: &&Value| node["state"] == "streaming";
            let streaming = status["nodes"].as_array().into_iter().flatten().filter(streaming).count();
            if status["ready"] != true || streaming + 1 != nodes as usize {
                return Err(format!("{}{}", ran.stdout, ran.stderr));
            }
            let ran = self.fly.run(&["reconcile", "-f", &self.file, "--dry-run", "--exit-code"]).await;
            if ran.code == 0 { Ok(()) } else { Err(format!("{}{}", ran.stdout, ran.stderr)) }
        })
        .await
    }

    /// Lets something happen to the emulated Fly.
    ///
    /// # Errors
    /// The emulator refuses.
    pub async fn fault(&self, fault: Value) -> Result<(), Broken> {
        let (status, answer) = self.fly.api("POST", "/_faults", Some(fault.clone())).await;
        if (200..300).contains(&status) { Ok(()) } else { Err(format!("{fault}: {status} {answer}")) }
    }

    /// Undoes every fault that can be undone. What does not apply any more is refused, which is as well.
    pub async fn mend(&mut self) {
        if self.namespaces {
            let _ = self.fault(json!({"fault": "heal"})).await;
        }
        for who in [Who::Primary, Who::First, Who::Second] {
            let machine = self.end(who);
            for fault in [
                json!({"fault": "host_back", "machine": machine}),
                json!({"fault": "slow_start", "machine": machine, "ms": 0}),
                json!({"fault": "thaw", "machine": machine}),
            ] {
                let _ = self.fault(fault).await;
            }
        }
        match &self.controller {
            Some(controller) => controller.signal(Signal::SIGCONT),
            None => self.start_controller(),
        }
    }

    pub fn start_controller(&mut self) {
        let mut command = self.fly.flypg();
        command.args(["controller", "--listen", "127.0.0.1:0", "-f", &self.file]);
        self.controller = Some(spawn(command, &self.fly.path().join("controller.log")));
    }

    pub fn kill_controller(&mut self) {
        // Dropping it kills it, and waits for its end.
        drop(self.controller.take());
    }

    pub fn signal_controller(&self, signal: Signal) {
        if let Some(controller) = &self.controller {
            controller.signal(signal);
        }
    }

    /// Removes what the controller keeps, but for the master key.
    ///
    /// # Errors
    /// The directory cannot be emptied.
    pub fn forget_record(&mut self) -> Result<(), Broken> {
        self.kill_controller();
        let state = self.fly.path().join("state");
        let entries = std::fs::read_dir(&state).map_err(|error| error.to_string())?;
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| !path.ends_with("master.key")) {
            let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }

    /// `flypg switchover`, to its end.
    ///
    /// # Errors
    /// It failed, or there is no such command.
    pub async fn switchover(&self) -> Result<(), Broken> {
        let ran = self.fly.run(&["switchover", CLUSTER]).await;
        if ran.code == 0 { Ok(()) } else { Err(format!("switchover: {} {}{}", ran.code, ran.stdout, ran.stderr)) }
    }

    /// Clients beside every node and outside.
    ///
    /// # Errors
    /// There is no such program as this one.
    pub async fn start_clients(&mut self) -> Result<(), Broken> {
        let program = flypg_tests::fly::binary("flypg-faults");
        let mut hosts = BTreeMap::new();
        for machine in self.fly.machines(CLUSTER).await {
            let text = |key: &str| machine[key].as_str().unwrap_or_default().to_owned();
            hosts.insert(text("name"), (text("id"), text("private_ip")));
        }
        let all: Vec<String> = hosts.values().map(|(_, address)| address.clone()).collect();
        let mut sides: Vec<(String, Option<String>, Vec<String>)> = Vec::new();
        for (node, (machine, address)) in hosts {
            // As the emulator names it: the tag is the second part of every address.
            let tag = address.split(':').nth(1).unwrap_or_default();
            let space = self.namespaces.then(|| format!("/run/netns/flypg-{tag}-{machine}"));
            sides.push((node, space, vec![address]));
        }
        sides.push((OUTSIDE.to_owned(), None, all));
        for (side, space, hosts) in sides {
            let log = self.fly.path().join(format!("clients-{side}-{}.jsonl", self.next_client));
            let mut command = match space {
                Some(space) => {
                    let mut command = Command::new("nsenter");
                    command.arg(format!("--net={space}")).arg("--").arg(&program);
                    command
                }
                None => Command::new(&program),
            };
            command.args(["client", "--side", &side, "--first", &self.next_client.to_string(), "--log"]).arg(&log);
            command.args(hosts.iter().flat_map(|host| ["--host", host]));
            // Outside of what belongs to the machine, or it would be killed and frozen with it.
            command.current_dir("/").env("PGPASSWORD", self.password()).stdin(Stdio::piped());
            self.clients.push(spawn(command, &self.fly.path().join("clients.log")));
            self.logs.push((log, 0));
            self.next_client += CLIENTS;
        }
        Ok(())
    }

    pub fn stop_clients(&mut self) {
        self.clients.clear();
    }

    /// Everything the clients did so far.
    ///
    /// # Errors
    /// A log cannot be read.
    pub fn ops(&mut self) -> Result<&[Op], Broken> {
        for (log, from) in &mut self.logs {
            let (fresh, end) = read_log(log, *from).map_err(|error| format!("{}: {error}", log.display()))?;
            *from = end;
            self.ops.extend(fresh);
        }
        Ok(&self.ops)
    }

    /// Waits until the clients have done what `good` looks for.
    ///
    /// # Errors
    /// Not in time.
    pub async fn until_ops(&mut self, what: &str, good: impl Fn(&[Op]) -> bool) -> Result<(), Broken> {
        let deadline = Instant::now() + LIMIT;
        while !good(self.ops()?) {
            if Instant::now() > deadline {
                return Err(format!("not within {LIMIT:?}: {what}"));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// The rows of the primary, then those of each other node once it has replayed what the primary had.
    ///
    /// # Errors
    /// A node does not answer, or does not get there in time.
    pub async fn rows(&mut self) -> Result<(Rows, BTreeMap<String, Rows>), Broken> {
        self.learn_roles().await?;
        let password = self.password();
        let primary = self.fly.address(CLUSTER, &self.roles.primary).await;
        let rows = select(&primary, &password).await?;
        let lsn = sql::ask(&primary, NODE, &password, "SELECT pg_current_wal_flush_lsn()").await?;
        let mut others = BTreeMap::new();
        for node in self.roles.others.clone() {
            let address = self.fly.address(CLUSTER, &node).await;
            let query = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
            until(&format!("{node} has replayed {lsn}"), LIMIT, || async {
                match sql::ask(&address, NODE, &password, &query).await?.as_str() {
                    "t" => Ok(()),
                    other => Err(other.to_owned()),
                }
            })
            .await?;
            others.insert(node, select(&address, &password).await?);
        }
        Ok((rows, others))
    }
}

async fn select(host: &str, password: &str) -> Result<Rows, Broken> {
    let client = sql::connect(host, NODE, password).await?;
    let rows = client.query("SELECT client, n FROM written", &[]).await.map_err(|error| error.to_string())?;
    let pair = |row: &tokio_postgres::Row| {
        let (client, n): (i32, i64) = (row.get(0), row.get(1));
        (client.unsigned_abs(), n.unsigned_abs())
    };
    Ok(rows.iter().map(pair).collect())
}

/// Looks until it is so.
///
/// # Errors
/// What was last seen, if it is not so in time.
async fn until<F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> Result<(), Broken>
where
    F: Future<Output = Result<(), String>>,
{
    let deadline = Instant::now() + limit;
    loop {
        match look().await {
            Ok(()) => return Ok(()),
            Err(last) if Instant::now() > deadline => {
                return Err(format!("not within {limit:?}: {what}; last seen: {last}"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
