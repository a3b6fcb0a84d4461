//! A cluster of one test, and what is asked of it again and again.

use std::time::Duration;

use flypg_tests::fly::Fly;
pub(crate) use flypg_tests::fly::cluster_file as file;
use flypg_tests::patience::eventually;
use flypg_tests::sql;
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

    /// Exit code of a dry run: 0 nothing to do, 2 changes pending.
    pub(crate) async fn pending(&self) -> i32 {
        self.fly.run(&["reconcile", "-f", &self.path, "--dry-run", "--exit-code"]).await.code
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
