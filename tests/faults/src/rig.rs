//! A cluster to which things happen: emulator, controller, nodes, and clients on every side.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use flypg_core::protocol::ports::{NODE, READ_WRITE};
use flypg_tests::fly::{Fly, Ran, Running, cluster_file, spawn};
use flypg_tests::sql;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::client::{self, CLIENTS};
use crate::history::{Op, Rows, read_log};
use crate::scenario::{Scenario, Who};

/// Longer than anything takes on a busy computer.
pub const LIMIT: Duration = Duration::from_secs(300);
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
    /// The one before its rival came.
    former: Option<Running>,
    /// Somebody asked for a switchover.
    asking: Option<Running>,
    /// Where the controller that is asked keeps what it knows.
    state: PathBuf,
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
    /// Whoever acknowledged a write last.
    leader: String,
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
            former: None,
            asking: None,
            state: fly.path().join("state"),
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
        let password = self.password();
        until("there is a table", LIMIT, || async {
            sql::ask(&address, READ_WRITE, &password, client::TABLE).await.map(drop)
        })
        .await?;
        // On a busy computer another node may lead by now.
        self.until_ready(nodes).await?;
        self.learn_roles().await
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
            Who::Leader => &self.roles.leader,
            Who::Outside => OUTSIDE,
        }
    }

    async fn learn_roles(&mut self) -> Result<(), Broken> {
        let ran = self.ask(&["status", CLUSTER, "-o", "json"]).await;
        let status: Value = serde_json::from_str(&ran.stdout).map_err(|error| format!("{error}: {}", ran.stderr))?;
        let primary = status["primary"].as_str().ok_or("there is no primary")?.to_owned();
        let nodes = status["nodes"].as_array().into_iter().flatten();
        let mut others: Vec<String> = nodes.filter_map(|node| node["node"].as_str().map(str::to_owned)).collect();
        others.retain(|node| *node != primary);
        others.sort();
        self.roles = Roles { leader: primary.clone(), primary, others };
        Ok(())
    }

    /// Everything is as the file says, and every other node streams from the primary.
    ///
    /// # Errors
    /// Not in time.
    pub async fn until_ready(&self, nodes: u32) -> Result<(), Broken> {
        until("the cluster is as its file says", LIMIT, || async {
            let ran = self.ask(&["status", CLUSTER, "-o", "json"]).await;
            let status: Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
            let streaming = |node: &&Value| node["state"] == "streaming";
            let streaming = status["nodes"].as_array().into_iter().flatten().filter(streaming).count();
            if status["ready"] != true || streaming + 1 != nodes as usize {
                return Err(format!("{}{}", ran.stdout, ran.stderr));
            }
            let ran = self.ask(&["reconcile", "-f", &self.file, "--dry-run", "--exit-code"]).await;
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
        self.signal_platform(Signal::SIGCONT);
        if self.namespaces {
            let _ = self.fault(json!({"fault": "heal"})).await;
        }
        for who in [Who::Primary, Who::First, Who::Second] {
            let machine = self.end(who);
            let goes_on = |to: Value| json!({"fault": "signal", "machine": machine, "to": to, "signal": "SIGCONT"});
            for fault in [
                json!({"fault": "host_back", "machine": machine}),
                json!({"fault": "slow_start", "machine": machine, "ms": 0}),
                json!({"fault": "thaw", "machine": machine}),
                goes_on(json!("main")),
                goes_on(json!({"program": "postgres"})),
            ] {
                let _ = self.fault(fault).await;
            }
        }
        drop(self.former.take());
        match &self.controller {
            Some(controller) => controller.signal(Signal::SIGCONT),
            None => self.start_controller(),
        }
    }

    /// Starts the controller unless it runs. Somebody who asks a lone directory for a switchover keeps the clusters in it
    /// meanwhile, and makes way.
    pub fn start_controller(&mut self) {
        if self.controller.is_some() {
            return;
        }
        drop(self.asking.take());
        let mut command = self.flypg();
        command.args(["controller", "--listen", "127.0.0.1:0", "-f", &self.file]);
        self.controller = Some(spawn(command, &self.fly.path().join("controller.log")));
    }

    /// `flypg`, with what the controller knows.
    fn flypg(&self) -> Command {
        let mut command = self.fly.flypg();
        command.env("FLYPG_STATE", &self.state);
        command
    }

    /// Runs `flypg` with these arguments to its end.
    async fn ask(&self, arguments: &[&str]) -> Ran {
        let mut command = self.flypg();
        command.args(arguments);
        flypg_tests::fly::run(command).await
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
        let entries = std::fs::read_dir(&self.state).map_err(|error| error.to_string())?;
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| !path.ends_with("master.key")) {
            let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }

    /// Copies what the controller keeps, while it stands still.
    ///
    /// # Errors
    /// The files cannot be copied.
    pub async fn copy_record(&mut self) -> Result<(), Broken> {
        self.signal_controller(Signal::SIGSTOP);
        let copied = copy(&self.state, &self.copied()).await;
        self.signal_controller(Signal::SIGCONT);
        copied
    }

    /// Kills the controller and gives it the copied files.
    ///
    /// # Errors
    /// There are none, or they cannot be put there.
    pub async fn roll_record_back(&mut self) -> Result<(), Broken> {
        self.forget_record()?;
        copy(&self.copied(), &self.state).await
    }

    /// Starts another controller on the copied files. The one before goes on.
    pub fn start_rival(&mut self) {
        self.former = self.controller.take();
        self.state = self.copied();
        self.start_controller();
    }

    pub fn thaw_former(&self) {
        if let Some(former) = &self.former {
            former.signal(Signal::SIGCONT);
        }
    }

    fn copied(&self) -> PathBuf {
        self.fly.path().join("copied")
    }

    pub fn signal_platform(&self, signal: Signal) {
        self.fly.signal_emulator(signal);
    }

    /// Empties a node's volume and kills the Machine that it is in.
    ///
    /// # Errors
    /// There is none, or the emulator refuses.
    pub async fn lose_volume(&self, who: Who) -> Result<(), Broken> {
        let machines = self.fly.machines(CLUSTER).await;
        let machine = machines.iter().find(|machine| machine["name"] == self.node(who));
        let mount = machine.and_then(|machine| machine["config"]["mounts"][0]["volume"].as_str());
        let volume = mount.ok_or_else(|| format!("{} has no volume", self.node(who)))?;
        self.fault(json!({"fault": "volume_lost", "volume": volume})).await?;
        self.fault(json!({"fault": "machine_dies", "machine": self.end(who)})).await
    }

    /// Asks a node's own Postgres.
    ///
    /// # Errors
    /// It does not answer, or the query fails.
    pub async fn sql(&self, who: Who, query: &str) -> Result<(), Broken> {
        let address = self.fly.address(CLUSTER, self.node(who)).await;
        sql::ask(&address, NODE, &self.password(), query).await.map(drop)
    }

    /// Edits the cluster's file.
    ///
    /// # Errors
    /// It cannot be read or written, or does not say `this`.
    pub fn edit(&self, this: &str, that: &str) -> Result<(), Broken> {
        let text = std::fs::read_to_string(&self.file).map_err(|error| format!("{}: {error}", self.file))?;
        if !text.contains(this) {
            return Err(format!("{} does not say {this}", self.file));
        }
        std::fs::write(&self.file, text.replace(this, that)).map_err(|error| format!("{}: {error}", self.file))
    }

    /// Reads who acknowledged a write last.
    ///
    /// # Errors
    /// A log cannot be read.
    pub fn note_leader(&mut self) -> Result<(), Broken> {
        let last = self.ops()?.iter().filter_map(|op| op.answer.as_ref()).max_by_key(|answer| answer.at);
        if let Some(leader) = last.map(|answer| answer.node.clone()) {
            self.roles.leader = leader;
        }
        Ok(())
    }

    /// Starts `flypg switchover`, whatever comes of it.
    pub fn ask_for_switchover(&mut self) {
        let mut command = self.flypg();
        command.args(["switchover", CLUSTER]);
        self.asking = Some(spawn(command, &self.fly.path().join("switchover.log")));
    }

    /// `flypg switchover`, to its end.
    ///
    /// # Errors
    /// It failed, or there is no such command.
    pub async fn switchover(&self) -> Result<(), Broken> {
        let ran = self.ask(&["switchover", CLUSTER]).await;
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

    /// The rows of the primary, then those of each other node once it has replayed what the primary had. Nobody writes any
    /// more, so it does not matter if another node comes to lead meanwhile: then all of it is asked again.
    ///
    /// # Errors
    /// A node does not answer, or does not get there in time.
    pub async fn rows(&mut self) -> Result<(Rows, BTreeMap<String, Rows>), Broken> {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.rows_now().await {
                Ok(rows) => return Ok(rows),
                Err(last) if Instant::now() > deadline => {
                    return Err(format!("not within {LIMIT:?}: every node has told its rows; last seen: {last}"));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn rows_now(&mut self) -> Result<(Rows, BTreeMap<String, Rows>), Broken> {
        self.learn_roles().await?;
        let password = self.password();
        let primary = self.fly.address(CLUSTER, &self.roles.primary).await;
        let rows = select(&primary, &password).await?;
        let lsn = sql::ask(&primary, NODE, &password, "SELECT pg_current_wal_flush_lsn()").await?;
        let mut others = BTreeMap::new();
        for node in self.roles.others.clone() {
            let address = self.fly.address(CLUSTER, &node).await;
            let query = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
            match sql::ask(&address, NODE, &password, &query).await?.as_str() {
                "t" => others.insert(node, select(&address, &password).await?),
                _ => return Err(format!("{node} has not replayed {lsn}")),
            };
        }
        Ok((rows, others))
    }
}

/// Copies everything in a directory into another, which is made if it is not there.
async fn copy(from: &Path, to: &Path) -> Result<(), Broken> {
    let mut command = Command::new("cp");
    command.arg("-aT").arg(from).arg(to);
    let ran = flypg_tests::fly::run(command).await;
    if ran.code == 0 { Ok(()) } else { Err(format!("cp: {}", ran.stderr)) }
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
