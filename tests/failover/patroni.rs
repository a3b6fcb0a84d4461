//! A peer: Patroni with etcd, three nodes on addresses of their own in 127.0.0.0/8.
//!
//! Settled so that like is compared with like, and otherwise in its favour: commits wait for one standby of two
//! (`synchronous_mode: quorum`), etcd is one healthy process that no fault touches, and clients know every node and look
//! for the one that takes writes (several hosts, `target_session_attrs=read-write`), without a proxy that polls.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flypg_tests::patience::eventually;
use flypg_tests::programs::{POSTGRES, Program, Room, free_port};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio_postgres::Config;
use tokio_postgres::config::TargetSessionAttrs;

use crate::system::{Fault, LIMIT, System, ask};

const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// How it is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tuning {
    Default,
    /// As low as Patroni lets each of them be.
    Tuned,
}

impl Tuning {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Tuning::Default => "ttl 30, loop_wait 10, retry_timeout 10",
            Tuning::Tuned => "ttl 20, loop_wait 1, retry_timeout 3, primary_start_timeout 0",
        }
    }

    fn yaml(self) -> String {
        self.words().split(", ").map(|pair| format!("    {}\n", pair.replace(' ', ": "))).collect()
    }
}

/// The programs.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    etcd: PathBuf,
    patroni: PathBuf,
}

impl Programs {
    /// As `scripts/install peers` leaves them.
    pub(crate) fn find(tools: &Path) -> Option<Self> {
        let found = Self { etcd: tools.join("etcd"), patroni: tools.join("patroni/bin/patroni") };
        (found.etcd.is_file() && found.patroni.is_file()).then_some(found)
    }

    pub(crate) fn version(&self) -> String {
        let output = std::process::Command::new(&self.patroni).arg("--version").output().expect("it can be started");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

pub(crate) struct Patroni {
    programs: Programs,
    http: reqwest::Client,
    // Ends before etcd: a Patroni that has none would wait for it.
    nodes: Vec<Node>,
    _etcd: Program,
    room: Room,
}

struct Node {
    name: &'static str,
    address: IpAddr,
    postgres: u16,
    api: u16,
    patroni: Option<Program>,
}

impl Patroni {
    pub(crate) async fn start(programs: &Programs, tuning: Tuning) -> Self {
        let room = Room::make("flypg-patroni-");
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let (clients, peers) = (free_port(here), free_port(here));
        let url = |port: u16| format!("http://{here}:{port}");
        let mut command = room.command(&programs.etcd);
        command.args(["--name", "etcd", "--data-dir", "etcd", "--log-level", "warn"]);
        command.args(["--listen-client-urls", &url(clients), "--advertise-client-urls", &url(clients)]);
        command.args(["--listen-peer-urls", &url(peers), "--initial-advertise-peer-urls", &url(peers)]);
        command.args(["--initial-cluster", &format!("etcd={}", url(peers))]);
        let etcd = room.start("etcd", command, Signal::SIGTERM);
        let mut nodes = Vec::new();
        for (n, name) in (1..).zip(NODES) {
            let address = IpAddr::V4(Ipv4Addr::new(127, 94, tuning as u8, n));
            let (postgres, api) = (free_port(address), free_port(address));
            let node = Node { name, address, postgres, api, patroni: None };
            room.write(&format!("{name}.yaml"), &node.file(&room, tuning, &format!("{here}:{clients}")));
            nodes.push(node);
        }
        let http = reqwest::Client::builder().tls_certs_only([]).build().expect("a client for plain HTTP");
        let mut patroni = Self { programs: programs.clone(), http, nodes, _etcd: etcd, room };
        eventually("etcd answers", LIMIT, || async {
            let answer = patroni.http.get(format!("{}/version", url(clients))).send().await;
            answer.map(drop).map_err(|error| error.to_string())
        })
        .await;
        // The first makes the data; the others copy it.
        patroni.run("n1");
        eventually("the first node leads", LIMIT, || async {
            match patroni.members().await?.first() {
                Some(first) if first["role"] == "leader" && first["state"] == "running" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        patroni.run("n2");
        patroni.run("n3");
        patroni
    }

    fn run(&mut self, node: &str) {
        let mut command = self.room.command(&self.programs.patroni);
        command.arg(format!("{node}.yaml"));
        let patroni = self.room.start(node, command, Signal::SIGTERM);
        let node = self.nodes.iter_mut().find(|n| n.name == node).expect("it is one of three");
        node.patroni = Some(patroni);
    }

    fn node(&self, node: &str) -> &Node {
        self.nodes.iter().find(|n| n.name == node).expect("it is one of three")
    }

    /// As any of them sees it.
    async fn members(&self) -> Result<Vec<Value>, String> {
        let mut last = "nobody was asked".to_owned();
        for node in &self.nodes {
            let url = format!("http://{}:{}/cluster", node.address, node.api);
            let answer =
                async { self.http.get(url).timeout(Duration::from_secs(5)).send().await?.json::<Value>().await };
            match answer.await {
                Ok(cluster) => return Ok(cluster["members"].as_array().cloned().unwrap_or_default()),
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    }

    fn postmaster(&self, node: &str) -> Option<Pid> {
        let file = self.room.path().join(node).join("postmaster.pid");
        let text = std::fs::read_to_string(file).ok()?;
        text.lines().next()?.parse().ok().map(Pid::from_raw)
    }

    /// The postmaster and its children.
    fn postgres(&self, node: &str) -> Vec<Pid> {
        let Some(postmaster) = self.postmaster(node) else { return Vec::new() };
        let is_child = |pid: &i32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
            parent == Some(postmaster.as_raw())
        };
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let all = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        std::iter::once(postmaster).chain(all.filter(is_child).map(Pid::from_raw)).collect()
    }
}

impl Node {
    fn file(&self, room: &Room, tuning: Tuning, etcd: &str) -> String {
        let Self { name, address, postgres, api, .. } = self;
        let dir = room.path().display();
        format!(
            "scope: bench
name: {name}
restapi: {{ listen: '{address}:{api}', connect_address: '{address}:{api}' }}
etcd3: {{ hosts: '{etcd}' }}
bootstrap:
  dcs:
{}    synchronous_mode: quorum
    postgresql:
      use_pg_rewind: true
      use_slots: true
  initdb: [ {{ encoding: UTF8 }}, {{ locale: C.UTF-8 }}, data-checksums ]
postgresql:
  listen: '{address}:{postgres}'
  connect_address: '{address}:{postgres}'
  data_dir: {dir}/{name}
  bin_dir: {POSTGRES}
  pgpass: {dir}/{name}.pgpass
  authentication:
    superuser: {{ username: postgres, password: none }}
    replication: {{ username: replicator, password: none }}
    rewind: {{ username: rewinder, password: none }}
  pg_hba: [ 'local all all trust', 'host all all 127.0.0.0/8 trust', 'host replication all 127.0.0.0/8 trust' ]
  parameters: {{ unix_socket_directories: {dir} }}
  basebackup: [ {{ checkpoint: fast }} ]
",
            tuning.yaml()
        )
    }
}

impl System for Patroni {
    async fn settled(&mut self) -> String {
        let leader = eventually("two standbys are counted on", LIMIT, || async {
            let members = self.members().await?;
            let is = |role: &str, state: &str| {
                members.iter().filter(move |m| m["role"] == role && m["state"] == state).collect::<Vec<_>>()
            };
            match (is("leader", "running").as_slice(), is("quorum_standby", "streaming").len()) {
                ([leader], 2) => Ok(leader["name"].as_str().unwrap_or_default().to_owned()),
                _ => Err(format!("{members:?}")),
            }
        })
        .await;
        let door = &self.doors()[0];
        let query = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'quorum'";
        eventually("both stream", LIMIT, || async {
            let n = ask(door, query).await?;
            if n == "2" { Ok(()) } else { Err(n) }
        })
        .await;
        leader
    }

    fn doors(&self) -> Vec<Config> {
        let mut config = Config::new();
        for node in &self.nodes {
            config.host(node.address.to_string()).port(node.postgres);
        }
        config.user("postgres").dbname("postgres").target_session_attrs(TargetSessionAttrs::ReadWrite);
        vec![config]
    }

    fn own_door(&self, node: &str) -> (Config, Option<PathBuf>) {
        let node = self.node(node);
        let mut config = Config::new();
        config.host(node.address.to_string()).port(node.postgres).user("postgres").dbname("postgres");
        (config, None)
    }

    fn replica(&self, node: &str) -> String {
        node.to_owned()
    }

    async fn befall(&mut self, fault: Fault, node: &str) {
        match fault {
            Fault::Postmaster => {
                kill(self.postmaster(node).expect("it has a postmaster"), Signal::SIGKILL).expect("it runs");
            }
            Fault::Node => {
                let postgres = self.postgres(node);
                let patroni = self.nodes.iter_mut().find(|n| n.name == node).and_then(|n| n.patroni.as_mut());
                patroni.expect("it runs").kill();
                kill_all(&postgres);
            }
            Fault::Switchover => {
                let Node { address, api, .. } = self.node(node);
                let request = self.http.post(format!("http://{address}:{api}/switchover"));
                let answer = request.json(&json!({"leader": node})).send().await.expect("its API answers");
                let status = answer.status();
                assert!(status.is_success(), "switchover: {status} {}", answer.text().await.unwrap_or_default());
            }
            other => unreachable!("{other:?} is not tried here"),
        }
    }

    async fn mend(&mut self, fault: Fault, node: &str) -> bool {
        let lost = fault == Fault::Node;
        if lost {
            self.run(node);
        }
        lost
    }
}

/// Those that have ended meanwhile are as good as killed.
fn kill_all(pids: &[Pid]) {
    for pid in pids {
        let _ = kill(*pid, Signal::SIGKILL);
    }
}

impl Drop for Patroni {
    fn drop(&mut self) {
        // Side by side; what is left of a Postgres whose Patroni was killed ends with it.
        self.nodes.iter().filter_map(|node| node.patroni.as_ref()).for_each(Program::ask_to_end);
        self.nodes.iter_mut().for_each(|node| drop(node.patroni.take()));
        for node in NODES {
            kill_all(&self.postgres(node));
        }
    }
}
