//! Nodes that die.

use flypg_core::protocol::ports::{NODE, READ_WRITE};
use flypg_tests::patience::eventually;
use flypg_tests::writer::Writer;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::{Cluster, LIMIT, STREAMING, file};

#[tokio::test]
async fn a_killed_postmaster_is_back_at_once() {
    let cluster = Cluster::make("kill-db", &file("kill-db", 2, "")).await;
    let primary = cluster.address("ord-1").await;
    let writer = Writer::start(std::slice::from_ref(&primary), READ_WRITE, &cluster.password()).await;
    for round in 0..3 {
        eventually("the writer goes on", LIMIT, || async {
            if writer.last() > round * 10 { Ok(()) } else { Err(writer.last().to_string()) }
        })
        .await;
        let pid = cluster.ask("ord-1", NODE, "SELECT pg_read_file('postmaster.pid', 0, 9)").await.unwrap();
        let pid: i32 = pid.lines().next().unwrap().trim().parse().unwrap();
        let last = writer.last();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        eventually("writes go on after the kill", LIMIT, || async {
            if writer.last() > last + 5 { Ok(()) } else { Err(writer.last().to_string()) }
        })
        .await;
    }
    cluster.until("ord-1", NODE, STREAMING, "1").await;
    let written = writer.stop().await;
    written.check(&primary, READ_WRITE, &cluster.password()).await;
    assert!(written.longest_pause < LIMIT, "{:?}", written.longest_pause);
}

#[tokio::test]
async fn a_machine_that_dies_streams_again_by_itself() {
    let cluster = Cluster::make("die-db", &file("die-db", 2, "")).await;
    // No controller runs: the primary comes back to lead by what the other node pledges.
    for node in ["ord-2", "ord-1"] {
        let started = "SELECT pg_postmaster_start_time()";
        let before = cluster.ask(node, NODE, started).await.unwrap();
        cluster.befalls(serde_json::json!({ "fault": "machine_dies", "machine": format!("die-db/{node}") })).await;
        eventually("it has started again", LIMIT, || async {
            let now = cluster.ask(node, NODE, started).await?;
            if now == before { Err(now) } else { Ok(()) }
        })
        .await;
        cluster.until("ord-1", NODE, STREAMING, "1").await;
        cluster.ask("ord-2", READ_WRITE, "CREATE TABLE IF NOT EXISTS t (id int)").await.expect("a write");
    }
    // Only the record does not know yet that they were started again.
    let before = cluster.status().await;
    cluster.reconcile().await;
    cluster.settles().await;
    let after = cluster.status().await;
    assert_eq!((&after["primary"], &after["epoch"]), (&before["primary"], &before["epoch"]), "{after}");
    assert_eq!(after["primary"], "ord-1");
}

#[tokio::test]
async fn machines_that_people_stop_or_destroy_come_back_with_their_data() {
    let cluster = Cluster::make("people-db", &file("people-db", 2, "")).await;
    cluster.ask("ord-1", READ_WRITE, "CREATE TABLE kept AS SELECT 7 AS id").await.unwrap();
    let id = |machines: &[serde_json::Value], node: &str| {
        machines.iter().find(|m| m["name"] == node).unwrap()["id"].as_str().unwrap().to_owned()
    };
    let machines = cluster.fly.machines("people-db").await;

    let path = format!("/v1/apps/people-db/machines/{}/stop", id(&machines, "ord-1"));
    assert_eq!(cluster.fly.api("POST", &path, None).await.0, 200);
    let stopped = format!("/v1/apps/people-db/machines/{}/wait?state=stopped", id(&machines, "ord-1"));
    assert_eq!(cluster.fly.api("GET", &stopped, None).await.0, 200);
    assert_eq!(cluster.pending().await, 2);
    cluster.reconcile().await;
    cluster.until_primary(STREAMING, "1").await;

    for node in ["ord-2", "ord-1"] {
        let machine = id(&cluster.fly.machines("people-db").await, node);
        let path = format!("/v1/apps/people-db/machines/{machine}?force=true");
        assert_eq!(cluster.fly.api("DELETE", &path, None).await.0, 200);
        eventually("the machine is gone", LIMIT, || async {
            let left = cluster.fly.machines("people-db").await;
            if left.iter().all(|m| m["id"] != machine.as_str()) { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
        cluster.reconcile().await;
    }
    for node in ["ord-1", "ord-2"] {
        cluster.until(node, NODE, "SELECT id FROM kept", "7").await;
    }
    cluster.until_primary(STREAMING, "1").await;
    assert_eq!(cluster.fly.volumes("people-db").await.len(), 2);
}

#[tokio::test]
async fn a_stopped_cluster_shut_down_cleanly() {
    let cluster = Cluster::make("clean-db", &file("clean-db", 1, "")).await;
    cluster.ask("ord-1", READ_WRITE, "CREATE TABLE t AS SELECT generate_series(1, 50000) AS id").await.unwrap();
    let machine = cluster.fly.machines("clean-db").await.remove(0);
    let path = format!("/v1/apps/clean-db/machines/{}", machine["id"].as_str().unwrap());
    assert_eq!(cluster.fly.api("POST", &format!("{path}/stop"), None).await.0, 200);
    assert_eq!(cluster.fly.api("GET", &format!("{path}/wait?state=stopped&timeout=60"), None).await.0, 200);
    let (_, machine) = cluster.fly.api("GET", &path, None).await;
    let exit = machine["events"].as_array().unwrap().iter().find(|e| e["type"] == "exit").expect("an exit event");
    assert_eq!(exit["request"]["exit_event"]["exit_code"], 0, "{exit:#}");
}
