//! A Machines API that loses answers, refuses, forgets and restarts.

use flypg_core::protocol::ports::{NODE, READ_WRITE};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::cluster::{Cluster, STREAMING, file};

const THREE: &str = "    replicas:\n      - { code: ams, nodes: 1 }\n";

async fn with_faults(name: &'static str, rules: Vec<serde_json::Value>) {
    let cluster = Cluster::begin(name, &file(name, 2, &format!("{THREE}  deletion: delete\n")));
    for rule in rules {
        let (status, answer) = cluster.fly.api("POST", "/_faults", Some(rule)).await;
        assert!((200..300).contains(&status), "{answer}");
    }
    cluster.reconcile().await;
    let (_, faults) = cluster.fly.api("GET", "/_faults", None).await;
    assert_eq!(cluster.fly.api("DELETE", "/_faults", None).await.0 / 100, 2);
    let hits = faults.to_string();
    cluster.until("ord-1", NODE, STREAMING, "2").await;
    assert_eq!(cluster.fly.machines(name).await.len(), 3, "{hits}");
    assert_eq!(cluster.fly.volumes(name).await.len(), 3, "{hits}");

    cluster.change(&file(name, 1, "  deletion: delete\n")).await;
    assert_eq!(cluster.fly.machines(name).await.len(), 1);
    assert_eq!(cluster.fly.volumes(name).await.len(), 1);
}

#[tokio::test]
async fn answers_get_lost() {
    // Each kind of create once, performed and never answered.
    let rules = ["/v1/apps", "/v1/apps/*/volumes", "/v1/apps/*/machines", "/v1/apps/*/secrets"];
    let rules =
        rules.map(|path| json!({ "match": { "method": "POST", "path": path }, "effect": "lose_answer", "count": 1 }));
    with_faults("lost-answers", rules.to_vec()).await;
}

#[tokio::test]
async fn the_api_stumbles() {
    let status = |code: u16, performed: bool, p: f64| json!({ "match": { "path": "/v1/*" }, "effect": { "status": { "code": code, "performed": performed } }, "probability": p, "count": 12 });
    with_faults(
        "stumbles",
        vec![status(503, false, 0.1), status(502, true, 0.05), status(408, true, 0.05), status(429, false, 0.1)],
    )
    .await;
}

#[tokio::test]
async fn lists_are_late_or_empty() {
    let late = json!({ "match": { "method": "GET" }, "effect": { "stale": { "ms": 700 } }, "count": 40 });
    let empty =
        json!({ "match": { "path": "/v1/apps/*/machines" }, "effect": "empty_list", "probability": 0.3, "count": 6 });
    with_faults("stale-lists", vec![late, empty]).await;
}

#[tokio::test]
async fn the_emulator_restarts_and_the_cluster_is_still_there() {
    let mut cluster = Cluster::make("restart-db", &file("restart-db", 2, "")).await;
    cluster.ask("ord-1", READ_WRITE, "CREATE TABLE kept AS SELECT 7 AS id").await.unwrap();
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        cluster.fly.restart_emulator(signal);
        cluster.reconcile().await;
        for node in ["ord-1", "ord-2"] {
            cluster.until(node, NODE, "SELECT id FROM kept", "7").await;
        }
        cluster.until_primary(STREAMING, "1").await;
        cluster.settles().await;
    }
}
