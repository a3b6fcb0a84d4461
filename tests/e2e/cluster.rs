//! A cluster of one test, and what is asked of it again and again.

use std::time::Duration;

use flypg_core::protocol::ports::{NODE, READ_WRITE};
use flypg_tests::fly::Fly;
pub(crate) use flypg_tests::fly::cluster_file as file;
use flypg_tests::patience::eventually;
use flypg_tests::sql;
use flypg_tests::writer::{Writer, Written};
use serde_json::Value;

/// Longer than anything takes on a busy computer; a test that needs it has failed for another reason.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

pub(crate) struct Cluster {
    pub(crate) fly: Fly,
    pub(crate) name: &'static str,
    pub(crate) path: String,
}

impl Cluster {
    /// Made by `flypg reconcile`, from a file with this text.
    pub(crate) async fn make(name: &'static str, text: &str) -> Self {
        let cluster = Self::begin(name, text);
        cluster.reconcile().await;
        cluster
    }

    /// Only the file.
    pub(crate) fn begin(name: &'static str, text: &str) -> Self {
        let fly = Fly::start();
        let path = fly.write("cluster.yaml", text);
        Self { fly, name, path }
    }

    /// Writes the file anew and carries it out.
    pub(crate) async fn change(&self, text: &str) {
        std::fs::write(&self.path, text).unwrap();
        self.reconcile().await;
    }

    pub(crate) async fn reconcile(&self) {
        self.fly.ok(&["reconcile", "-f", &self.path]).await;
    }

    /// Exit code of a dry run: 0 nothing to do, 2 changes pending. What is pending is printed, for a test that fails.
    #[expect(clippy::print_stderr, reason = "a test that fails says what it saw")]
    pub(crate) async fn pending(&self) -> i32 {
        let ran = self.fly.run(&["reconcile", "-f", &self.path, "--dry-run", "--exit-code"]).await;
        if ran.code != 0 {
            eprintln!("{}{}", ran.stdout, ran.stderr);
        }
        ran.code
    }

    pub(crate) async fn status(&self) -> Value {
        self.fly.status(self.name).await
    }

    /// Waits until a dry run has nothing to do. Nobody acts meanwhile: agents alone must get there.
    pub(crate) async fn settles(&self) {
        eventually("the cluster is as its file says", LIMIT, || async {
            let ran = self.fly.run(&["reconcile", "-f", &self.path, "--dry-run", "--exit-code"]).await;
            if ran.code == 0 { Ok(()) } else { Err(format!("{}: {}{}", ran.code, ran.stdout, ran.stderr)) }
        })
        .await;
    }

    /// Who leads, as the record says.
    pub(crate) async fn primary(&self) -> String {
        self.status().await["primary"].as_str().expect("somebody leads").to_owned()
    }

    /// Waits until everything is as the file says: so many nodes, all but one of which stream from the primary, and the
    /// loss of any of them does no harm (if there are others). Gives who leads.
    pub(crate) async fn healthy(&self, nodes: usize) -> String {
        eventually(&format!("{nodes} nodes work"), LIMIT, || async {
            let ran = self.fly.run(&["status", self.name, "-o", "json"]).await;
            let status: Value = serde_json::from_str(&ran.stdout).map_err(|error| format!("{error}: {ran:?}"))?;
            let is = |name: &str| {
                let mut conditions = status["conditions"].as_array().into_iter().flatten();
                conditions.any(|condition| condition["type"] == name && condition["status"] == true)
            };
            let streaming = status["nodes"].as_array().into_iter().flatten().filter(|n| n["state"] == "streaming");
            let whole = streaming.count() + 1 == nodes && (nodes == 1 || is("HighlyAvailable"));
            match status["primary"].as_str() {
                Some(primary) if whole && status["ready"] == true => Ok(primary.to_owned()),
                _ => Err(status.to_string()),
            }
        })
        .await
    }

    /// A read-write door on every node.
    pub(crate) async fn doors(&self) -> Vec<String> {
        let machines = self.fly.machines(self.name).await;
        machines.iter().map(|m| m["private_ip"].as_str().expect("it has an address").to_owned()).collect()
    }

    /// Writes one row after the other, through the doors of all nodes that there are now.
    pub(crate) async fn writer(&self) -> Writer {
        Writer::start(&self.doors().await, READ_WRITE, &self.password()).await
    }

    /// Every acknowledged row is there, at the primary and on every standby once it has replayed them.
    pub(crate) async fn has_every_row(&self, written: &Written) {
        let primary = self.primary().await;
        written.check(&self.address(&primary).await, NODE, &self.password()).await;
        let rows = self.ask(&primary, NODE, "SELECT count(*) FROM written").await.expect("it answers");
        for node in self.nodes().await {
            self.until(&node, NODE, "SELECT count(*) FROM written", &rows).await;
        }
    }

    /// Something happens to the emulated Fly.
    pub(crate) async fn befalls(&self, fault: Value) {
        let (status, answer) = self.fly.api("POST", "/_faults", Some(fault.clone())).await;
        assert!((200..300).contains(&status), "{fault}: {answer}");
    }

    pub(crate) async fn nodes(&self) -> Vec<String> {
        let status = self.status().await;
        let names = status["nodes"].as_array().unwrap().iter().map(|n| n["node"].as_str().unwrap().to_owned());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    pub(crate) async fn address(&self, node: &str) -> String {
        self.fly.address(self.name, node).await
    }

    pub(crate) fn password(&self) -> String {
        self.fly.password(self.name)
    }

    pub(crate) async fn ask(&self, node: &str, port: u16, query: &str) -> Result<String, String> {
        sql::ask(&self.address(node).await, port, &self.password(), query).await
    }

    /// Waits until a query on the door of whoever leads gives `wanted`.
    pub(crate) async fn until_primary(&self, query: &str, wanted: &str) {
        let primary = self.primary().await;
        self.until(&primary, NODE, query, wanted).await;
    }

    /// Waits until a query on a node's door gives `wanted`.
    pub(crate) async fn until(&self, node: &str, port: u16, query: &str, wanted: &str) {
        eventually(&format!("{query} on {node}:{port}"), LIMIT, || async {
            let seen = self.ask(node, port, query).await?;
            if seen == wanted { Ok(()) } else { Err(seen) }
        })
        .await;
    }
}

pub(crate) const STREAMING: &str = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
