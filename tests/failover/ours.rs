//! A cluster of ours: three nodes, and a controller that keeps it.

use std::path::PathBuf;

use flypg_core::protocol::ports::{NODE, READ_WRITE};
use flypg_tests::fly::{Fly, Running, cluster_file, run, spawn, tree};
use flypg_tests::patience::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio_postgres::Config;

use crate::system::{Fault, LIMIT, System};

const NAME: &str = "failover";
const NODES: [&str; 3] = ["ord-1", "ord-2", "ord-3"];

pub(crate) struct Ours {
    // Ends before the Fly that it acts on.
    controller: Option<Running>,
    machines: Vec<Machine>,
    password: String,
    namespaces: bool,
    file: String,
    fly: Fly,
}

struct Machine {
    node: String,
    id: String,
    address: String,
}

impl Ours {
    /// `more`: lines under `spec:`.
    pub(crate) async fn start(more: &str, namespaces: bool) -> Self {
        let fly = Fly::apart(namespaces);
        let file = fly.write("clusters/cluster.yaml", &cluster_file(NAME, 3, &format!("{more}  deletion: delete\n")));
        fly.ok(&["reconcile", "-f", &file]).await;
        let password = fly.password(NAME);
        let text = |machine: &Value, key: &str| machine[key].as_str().expect("it has one").to_owned();
        let machine = |m: &Value| Machine { node: text(m, "name"), id: text(m, "id"), address: text(m, "private_ip") };
        let machines = fly.machines(NAME).await.iter().map(machine).collect();
        let mut ours = Self { controller: None, machines, password, namespaces, file, fly };
        ours.control();
        ours
    }

    fn control(&mut self) {
        let mut command = self.fly.flypg();
        command.args(["controller", "--listen", "127.0.0.1:0", "-f", &self.file]);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        self.controller = Some(spawn(command, &self.fly.path().join("controller.log")));
    }

    fn machine(&self, node: &str) -> &Machine {
        self.machines.iter().find(|machine| machine.node == node).expect("it has a machine")
    }

    fn door(&self, host: &str, port: u16) -> Config {
        let mut config = Config::new();
        config.host(host).port(port).user("postgres").dbname("postgres").password(&self.password);
        config
    }

    fn signal(&self, node: &str, signal: Signal) {
        for (pid, _) in tree(&self.machine(node).id) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    async fn fault(&self, fault: Value) {
        let (status, answer) = self.fly.api("POST", "/_faults", Some(fault.clone())).await;
        assert!((200..300).contains(&status), "{fault}: {status} {answer}");
    }
}

impl System for Ours {
    async fn settled(&mut self) -> String {
        let fly = &self.fly;
        eventually("three nodes work", LIMIT, || async {
            let ran = fly.run(&["status", NAME, "-o", "json"]).await;
            let status: Value = serde_json::from_str(&ran.stdout).map_err(|error| format!("{error}: {ran:?}"))?;
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

    /// Each client has the router of one node, as where it runs beside one.
    fn doors(&self) -> Vec<Config> {
        NODES.iter().map(|node| self.door(&self.machine(node).address, READ_WRITE)).collect()
    }

    fn own_door(&self, node: &str) -> (Config, Option<PathBuf>) {
        let machine = self.machine(node);
        // As the emulator names it: the tag is the second part of every address.
        let tag = machine.address.split(':').nth(1).unwrap_or_default();
        let space = self.namespaces.then(|| format!("/run/netns/flypg-{tag}-{}", machine.id).into());
        (self.door(&machine.address, NODE), space)
    }

    fn replica(&self, node: &str) -> String {
        format!("flypg_{}", node.replace('-', "_"))
    }

    async fn befall(&mut self, fault: Fault, node: &str) {
        let named = format!("{NAME}/{node}");
        match fault {
            Fault::Postmaster => {
                let all = tree(&self.machine(node).id);
                let (pid, _) = all.iter().find(|(_, line)| line.contains("postgres -D")).expect("a postmaster runs");
                kill(Pid::from_raw(*pid), Signal::SIGKILL).expect("it runs");
            }
            Fault::Node => self.signal(node, Signal::SIGKILL),
            Fault::Host => {
                self.fault(json!({"fault": "host_unreachable", "machine": named, "processes": false})).await;
            }
            Fault::Partition => {
                let mut others: Vec<String> = NODES.iter().map(|other| format!("{NAME}/{other}")).collect();
                others.retain(|other| *other != named);
                others.push("outside".to_owned());
                self.fault(json!({"fault": "partition", "machines": [[named], others]})).await;
            }
            Fault::Freeze => self.signal(node, Signal::SIGSTOP),
            Fault::Switchover => {
                let mut command = self.fly.flypg();
                command.args(["switchover", NAME]);
                let ran = run(command).await;
                assert_eq!(ran.code, 0, "switchover from {node}: {}", ran.stderr);
            }
            Fault::Controller => drop(self.controller.take()),
            Fault::MachinesApi => self.fly.signal_emulator(Signal::SIGSTOP),
        }
    }

    async fn mend(&mut self, fault: Fault, node: &str) -> bool {
        match fault {
            // The platform starts it again by itself.
            Fault::Postmaster | Fault::Node | Fault::Switchover => return false,
            Fault::Host => {
                self.fault(json!({"fault": "host_back", "machine": format!("{NAME}/{node}")})).await;
            }
            Fault::Partition => self.fault(json!({"fault": "heal"})).await,
            Fault::Freeze => self.signal(node, Signal::SIGCONT),
            Fault::Controller => self.control(),
            Fault::MachinesApi => self.fly.signal_emulator(Signal::SIGCONT),
        }
        true
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        // What stands still would not hear that it is to end.
        for machine in &self.machines {
            self.signal(&machine.node, Signal::SIGCONT);
        }
    }
}
