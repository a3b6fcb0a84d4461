//! A node for tests: the real binary, a directory as its machine, an address of its own.

#![allow(dead_code, unreachable_pub, clippy::print_stderr)] // each test file uses a part of it; a log is for people

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use flypg_core::decree::{Epoch, SystemId};
use flypg_core::failover::{Branch, Lineage, Rule};
use flypg_core::keys::{Key, Role};
use flypg_core::ledger::Caller;
use flypg_core::protocol::{Assignment, Lsn, NodeReport, Peer, PeerRole, PgRole, Phase, Task, Terms, env, ports};
use flypg_core::spec::Profile;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tempfile::TempDir;
use tokio_postgres::NoTls;

/// The controller that tests are.
pub fn caller() -> Caller {
    Caller { id: "store-1".to_owned(), generation: 1, boot: "life-1".to_owned() }
}

pub const CLUSTER: &str = "orders-db";

pub fn key() -> Key {
    Key::from_bytes([7; 32])
}

/// An address in 127.0.0.0/8 that nothing listens on, and that no other test of this machine is given.
fn address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        // Test binaries run at the same time; each has a /24 of its own.
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, 1 + high % 250, low, u8::try_from(1 + n % 250).unwrap());
        if TcpListener::bind((address, ports::API)).is_ok() && TcpListener::bind((address, ports::NODE)).is_ok() {
            return address;
        }
    }
}

/// One machine: what a volume and an address are on Fly.
pub struct Node {
    pub name: String,
    pub address: Ipv4Addr,
    pub root: TempDir,
    pub major: u32,
    pub bin: Option<PathBuf>,
    pub machine: String,
    pub memory_mb: u64,
    /// Open files that the agent may have; as many as this test may where it is absent.
    pub open_files: Option<u32>,
    agent: Option<Child>,
}

pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Node {
    pub fn new(name: &str) -> Self {
        let root = tempfile::Builder::new().prefix("flypg-").tempdir_in("/tmp").unwrap();
        // The user postgres must be able to reach its files.
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        Self {
            name: name.to_owned(),
            address: address(),
            root,
            major: 15,
            bin: None,
            machine: format!("machine-{name}"),
            memory_mb: 512,
            open_files: None,
            agent: None,
        }
    }

    /// A node that runs.
    pub fn started(name: &str) -> Self {
        let mut node = Self::new(name);
        node.start();
        node
    }

    pub fn start(&mut self) {
        assert!(self.agent.is_none());
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        let agent = self.command("run").stdout(Stdio::null()).stderr(log).stdin(Stdio::null()).spawn().unwrap();
        self.agent = Some(agent);
        self.until("the API answers", |_| true);
    }

    pub fn command(&self, subcommand: &str) -> Command {
        let agent = env!("CARGO_BIN_EXE_flypg-agent");
        let mut command = match self.open_files {
            None => Command::new(agent),
            Some(most) => {
                let mut prlimit = Command::new("prlimit");
                prlimit.arg(format!("--nofile={most}:{most}")).arg(agent);
                prlimit
            }
        };
        command.arg(subcommand);
        command.env("FLY_EMULATOR_ROOT", self.root.path()).env("FLY_PRIVATE_IP", self.address.to_string());
        command.env("FLY_MACHINE_ID", &self.machine).env("FLY_VM_MEMORY_MB", self.memory_mb.to_string());
        command.env(env::CLUSTER, CLUSTER).env(env::NODE, &self.name);
        command.env(env::POSTGRES_MAJOR, self.major.to_string()).env(env::CLUSTER_KEY, key().expose());
        if let Some(bin) = &self.bin {
            command.env("FLYPG_POSTGRES_BIN", bin);
        }
        command
    }

    pub fn log_path(&self) -> PathBuf {
        self.root.path().join("agent.log")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn pgdata(&self) -> PathBuf {
        self.root.path().join("data/pgdata")
    }

    pub fn agent_pid(&self) -> i32 {
        self.agent.as_ref().unwrap().id().try_into().unwrap()
    }

    pub fn postmaster_pid(&self) -> i32 {
        let file = std::fs::read_to_string(self.pgdata().join("postmaster.pid")).unwrap();
        file.lines().next().unwrap().trim().parse().unwrap()
    }

    pub fn signal_agent(&self, signal: Signal) {
        kill(Pid::from_raw(self.agent_pid()), signal).unwrap();
    }

    /// Kills the agent as a power cut would, but for Postgres.
    pub fn kill_agent(&mut self) {
        self.signal_agent(Signal::SIGKILL);
        self.agent.take().unwrap().wait().unwrap();
    }

    /// Stops cleanly; the exit code.
    pub fn stop(&mut self) -> i32 {
        self.signal_agent(Signal::SIGTERM);
        self.wait_for_end()
    }

    pub fn wait_for_end(&mut self) -> i32 {
        let mut agent = self.agent.take().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = agent.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            if Instant::now() > deadline {
                let _ = agent.kill();
                panic!("the agent did not end\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn http(&self, method: &str, path: &str, body: &str, bearer: Option<&str>) -> std::io::Result<Answer> {
        http((self.address, ports::API).into(), method, path, body, bearer)
    }

    pub fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        self.http(method, path, body, Some(&key().expose())).unwrap()
    }

    pub fn report(&self) -> NodeReport {
        serde_json::from_str(&self.call("GET", "/v1/report", "").body).unwrap()
    }

    /// Waits for a report in which `holds`, with long polls, as a controller does.
    pub fn until(&self, what: &str, holds: impl Fn(&NodeReport) -> bool) -> NodeReport {
        self.until_within(Duration::from_secs(60), what, holds)
    }

    pub fn until_within(&self, limit: Duration, what: &str, holds: impl Fn(&NodeReport) -> bool) -> NodeReport {
        let deadline = Instant::now() + limit;
        let mut last = None;
        while Instant::now() < deadline {
            let after =
                last.as_ref().map(|r: &NodeReport| format!("?after={}&wait=0.25", r.version)).unwrap_or_default();
            match self.http("GET", &format!("/v1/report{after}"), "", Some(&key().expose())) {
                Ok(answer) => {
                    let report: NodeReport = serde_json::from_str(&answer.body).unwrap();
                    if holds(&report) {
                        return report;
                    }
                    last = Some(report);
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        panic!("{}: not within {limit:?}: {what}; last report {last:#?}\n{}", self.name, self.log());
    }

    pub fn assign(&self, task: Task, peers: &[(&Node, PeerRole)]) -> Answer {
        self.assign_with(task, peers, &[])
    }

    pub fn assign_with(&self, task: Task, peers: &[(&Node, PeerRole)], parameters: &[(&str, &str)]) -> Answer {
        self.put(&self.assignment(task, peers, parameters))
    }

    pub fn put(&self, assignment: &Assignment) -> Answer {
        self.put_as(&caller(), assignment)
    }

    pub fn put_as(&self, caller: &Caller, assignment: &Assignment) -> Answer {
        let told = json!({ "caller": caller, "assignment": assignment });
        self.call("PUT", "/v1/assignment", &told.to_string())
    }

    pub fn assignment(&self, task: Task, peers: &[(&Node, PeerRole)], parameters: &[(&str, &str)]) -> Assignment {
        let peer = |(node, role): &(&Node, PeerRole)| Peer {
            node: node.name.parse().unwrap(),
            address: node.address.into(),
            role: *role,
        };
        Assignment {
            cluster: CLUSTER.parse().unwrap(),
            node: self.name.parse().unwrap(),
            epoch: Epoch(1),
            revision: 1,
            task,
            peers: peers.iter().map(peer).collect(),
            profile: Profile::Balanced,
            parameters: parameters.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        }
    }

    /// Initialises and leads, alone; its system id.
    pub fn bootstrap(&self, parameters: &[(&str, &str)]) -> SystemId {
        let task = Task::Bootstrap { nonce: "n1".to_owned() };
        let answer = self.assign_with(task, &[(self, PeerRole::Primary)], parameters);
        assert_eq!(answer.status, 200, "{}", answer.body);
        self.until("it runs as primary", is_primary).postgres.unwrap().system_id
    }

    /// A client of this node's door.
    pub async fn connect(&self, port: u16) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        self.connect_as(port, "postgres", &key().password(Role::Postgres)).await
    }

    pub async fn connect_as(
        &self,
        port: u16,
        user: &str,
        password: &str,
    ) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host(self.address.to_string()).port(port).user(user).password(password).dbname("postgres");
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// One value, through a door of this node.
    pub async fn value(&self, port: u16, statement: &str) -> String {
        self.value_as(port, &key().password(Role::Postgres), statement).await
    }

    pub async fn value_as(&self, port: u16, password: &str, statement: &str) -> String {
        let client = self
            .connect_as(port, "postgres", password)
            .await
            .unwrap_or_else(|error| panic!("{error:?}\n{}", self.log()));
        let rows = client.simple_query(statement).await.unwrap_or_else(|error| panic!("{error:?}"));
        let row = rows.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        row.unwrap_or_default()
    }

    /// Processes that run below this node's directory.
    pub fn processes(&self) -> Vec<String> {
        let root = self.root.path().canonicalize().unwrap();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let cwd = std::fs::read_link(entry.path().join("cwd"));
            if cwd.is_ok_and(|cwd| cwd.starts_with(&root)) {
                found.push(std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default());
            }
        }
        found
    }
}

/// A volume of its own size, mounted where `node` has its volume; unmounted when this goes.
pub struct SmallVolume(PathBuf);

impl SmallVolume {
    /// `None`, loudly, where nothing may be mounted. Before the node is started.
    pub fn below(node: &Node, mb: u32) -> Option<Self> {
        let data = node.root.path().join("data");
        std::fs::create_dir_all(&data).unwrap();
        let size = format!("size={mb}m,mode=0755");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&data).output();
        if !mount.is_ok_and(|mount| mount.status.success()) {
            eprintln!("SKIPPED: no file system can be mounted here (root can), so no small volume was tried");
            return None;
        }
        Some(Self(data))
    }

    /// Writes until nothing more goes on it.
    pub fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("filler")).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
    }

    pub fn empty(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }

    pub fn remount(&self, how: &str) {
        let done = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&self.0).status().unwrap();
        assert!(done.success());
    }
}

impl Drop for SmallVolume {
    fn drop(&mut self) {
        // Whatever is still open there goes with its process.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let Some(mut agent) = self.agent.take() else { return };
        // Immediate shutdown: nothing here is to be kept.
        let _ = kill(Pid::from_raw(agent.id().try_into().unwrap()), Signal::SIGCONT);
        let _ = kill(Pid::from_raw(agent.id().try_into().unwrap()), Signal::SIGQUIT);
        let deadline = Instant::now() + Duration::from_secs(20);
        while agent.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                let _ = agent.kill();
                let _ = agent.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if std::thread::panicking() {
            eprintln!("---- log of {}\n{}", self.name, self.log());
        }
    }
}

pub fn http(to: SocketAddr, method: &str, path: &str, body: &str, bearer: Option<&str>) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(70)))?;
    let authorization = bearer.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: node\r\n{authorization}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or(std::io::ErrorKind::InvalidData)?;
    Ok(Answer { status, body: body.to_owned() })
}

pub fn is_primary(report: &NodeReport) -> bool {
    report.phase == Phase::Running
        && matches!(&report.postgres, Some(postgres) if matches!(postgres.role, PgRole::Primary { .. }))
}

pub fn streams(report: &NodeReport) -> bool {
    matches!(&report.postgres, Some(postgres)
        if matches!(&postgres.role, PgRole::Standby { streaming_from: Some(_), .. }))
}

pub fn lead(system_id: &SystemId) -> Task {
    Task::Lead { system_id: system_id.clone(), terms: alone() }
}

pub fn follow(primary: &Node, system_id: &SystemId) -> Task {
    Task::Follow {
        primary: primary.name.parse().unwrap(),
        system_id: system_id.clone(),
        lineage: lineage(primary),
        remake: false,
    }
}

/// The terms of a primary that waits for nobody and whom nobody may replace.
pub fn alone() -> Terms {
    Terms { nonce: "n1".to_owned(), rule: Rule::alone(), pledges: Vec::new() }
}

/// The lineage of a cluster whose data `first` made, in epoch 1.
pub fn lineage(first: &Node) -> Lineage {
    let branch = Branch { epoch: Epoch(1), timeline: 1, start: Lsn(0), node: first.name.parse().unwrap() };
    Lineage::new(branch, "n1".to_owned())
}

/// A primary and a standby that streams from it.
pub fn pair() -> (Node, Node, SystemId) {
    pair_with(&[])
}

pub fn pair_with(parameters: &[(&str, &str)]) -> (Node, Node, SystemId) {
    let (primary, standby) = (Node::started("ord-1"), Node::started("ord-2"));
    let system_id = primary.bootstrap(parameters);
    let peers = [(&primary, PeerRole::Primary), (&standby, PeerRole::Joining)];
    assert_eq!(primary.assign_with(lead(&system_id), &peers, parameters).status, 200);
    assert_eq!(standby.assign_with(follow(&primary, &system_id), &peers, parameters).status, 200);
    standby.until("it streams", streams);
    (primary, standby, system_id)
}

/// Waits until `holds`, or fails with `what`.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// As little WAL as Postgres can be told to keep.
pub const LITTLE: [(&str, &str); 3] = [("max_wal_size", "32MB"), ("min_wal_size", "32MB"), ("wal_keep_size", "0")];

/// Takes the standby's slot from it while it is away, and writes until the WAL that it needs next is gone.
pub async fn strand(primary: &Node, standby: &mut Node, system_id: &SystemId) {
    assert_eq!(standby.stop(), 0);
    assert_eq!(primary.assign_with(lead(system_id), &[(primary, PeerRole::Primary)], &LITTLE).status, 200);
    eventually("its slot is dropped", || async {
        primary.value(ports::NODE, "SELECT count(*) FROM pg_replication_slots").await == "0"
    })
    .await;
    let needed = primary.value(ports::NODE, "SELECT pg_walfile_name(pg_current_wal_lsn())").await;
    eventually("the WAL it needs is gone", || async {
        primary.value(ports::NODE, "INSERT INTO t VALUES (1); SELECT pg_switch_wal(); CHECKPOINT; SELECT 1").await;
        primary.value(ports::NODE, "SELECT min(name) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'").await > needed
    })
    .await;
}

fn peers_of<'a>(primary: &'a Node, standby: &'a Node) -> [(&'a Node, PeerRole); 2] {
    [(primary, PeerRole::Primary), (standby, PeerRole::Joining)]
}

/// A stranded standby's agent starts, makes another copy, and streams.
pub async fn comes_back(primary: &Node, standby: &mut Node, system_id: &SystemId) {
    assert_eq!(primary.assign_with(lead(system_id), &peers_of(primary, standby), &LITTLE).status, 200);
    standby.start();
    let mut task = follow(primary, system_id);
    if let Task::Follow { remake, .. } = &mut task {
        *remake = true;
    }
    assert_eq!(standby.assign_with(task, &peers_of(primary, standby), &LITTLE).status, 200);
    standby.until("another copy is being made", |report| matches!(report.phase, Phase::Cloning { .. }));
    standby.until("it streams", streams);
    let rows = primary.value(ports::NODE, "SELECT count(*) FROM t").await;
    eventually("the rows are on it", || async { standby.value(ports::NODE, "SELECT count(*) FROM t").await == rows })
        .await;
    assert!(!exists(&standby.root.path().join("data/making")));
}

pub fn program(node: &Node, name: &str) -> PathBuf {
    node.bin.clone().unwrap_or_else(|| PathBuf::from(format!("/usr/lib/postgresql/{}/bin", node.major))).join(name)
}

/// What `pg_controldata` says of a stopped node.
pub fn control_state(node: &Node) -> String {
    let output = Command::new(program(node, "pg_controldata")).env("LC_ALL", "C").arg(node.pgdata()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Database cluster state:"));
    line.unwrap_or_else(|| panic!("{text}")).trim().to_owned()
}

pub fn exists(path: &Path) -> bool {
    path.try_exists().unwrap()
}

pub fn parameters(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
}
