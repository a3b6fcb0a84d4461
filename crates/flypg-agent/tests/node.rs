//! One node and two, with real Postgres: making, running, dying, coming back.

mod common;

use std::time::Duration;

use common::*;
use flypg_core::protocol::{PeerRole, Phase, Task, ports};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[tokio::test(flavor = "multi_thread")]
async fn a_blank_node_bootstraps_and_serves() {
    let node = Node::started("ord-1");
    node.until("it has looked", |report| report.phase == Phase::Blank);
    node.bootstrap(&[]);
    assert_eq!(node.value(ports::READ_WRITE, "SELECT current_user").await, "postgres");
    assert_eq!(node.value(ports::NODE, "SHOW listen_addresses").await, "");
    assert_eq!(node.value(ports::READ_ONLY, "SHOW data_checksums").await, "on");
    assert_eq!(
        node.value(ports::NODE, "SELECT datdba::regrole FROM pg_database WHERE datname = 'postgres'").await,
        "postgres"
    );
    // The nonce again is the answer that was lost.
    let task = Task::Bootstrap { nonce: "n1".to_owned() };
    assert_eq!(node.assign(task, &[(&node, PeerRole::Primary)]).status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_node_clones_streams_and_routes_writes() {
    let (primary, standby, _) = pair();
    standby.value(ports::READ_WRITE, "CREATE TABLE t AS SELECT 42 AS n").await;
    eventually("the row is on the standby", || async {
        let client = standby.connect(ports::NODE).await.unwrap();
        client.query_one("SELECT n FROM t WHERE pg_is_in_recovery()", &[]).await.is_ok()
    })
    .await;
    assert_eq!(standby.value(ports::READ_ONLY, "SELECT pg_is_in_recovery()").await, "t");
    let report = primary.until("its replica is seen", |report| {
        matches!(&report.postgres.as_ref().map(|p| &p.role),
            Some(flypg_core::protocol::PgRole::Primary { replicas, .. }) if replicas.iter().any(|r| r.state == "streaming"))
    });
    let flypg_core::protocol::PgRole::Primary { replicas, slots, .. } = report.postgres.unwrap().role else { panic!() };
    assert_eq!(replicas[0].node.to_string(), "ord-2");
    assert!(slots.contains_key("flypg_ord_2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_postmaster_is_back_at_once() {
    let node = Node::started("ord-1");
    node.bootstrap(&[]);
    let before = node.report();
    let (killed, start) = (node.postmaster_pid(), std::time::Instant::now());
    kill(Pid::from_raw(killed), Signal::SIGKILL).unwrap();
    let waiting = format!("/v1/report?after={}&wait=30", before.version);
    let woken: flypg_core::protocol::NodeReport = serde_json::from_str(&node.call("GET", &waiting, "").body).unwrap();
    assert!(woken.version > before.version);
    assert!(start.elapsed() < Duration::from_secs(5), "woken after {:?}", start.elapsed());
    let back = node.until("it runs again", |report| is_primary(report) && report.crashes == 1);
    assert_ne!(node.postmaster_pid(), killed);
    assert_eq!(back.incarnation, before.incarnation);
}

#[test]
fn a_postmaster_that_keeps_dying_is_reported_and_tried_again() {
    let node = Node::started("ord-1");
    node.bootstrap(&[]);
    for crash in 1..=3 {
        kill(Pid::from_raw(node.postmaster_pid()), Signal::SIGKILL).unwrap();
        node.until("the crash is counted", |report| report.crashes == crash);
        if crash < 3 {
            node.until("it runs again", is_primary);
        }
    }
    node.until(
        "it waits and says why",
        |report| matches!(&report.phase, Phase::Failing { why } if why.contains("signal: 9")),
    );
    node.until("it runs again", is_primary);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_agent_takes_over_from_a_killed_one() {
    let mut node = Node::started("ord-1");
    node.bootstrap(&[]);
    node.value(ports::NODE, "CREATE TABLE t AS SELECT 1 AS n").await;
    let left = node.postmaster_pid();
    node.kill_agent();
    node.start();
    let report = node.until("it runs again", is_primary);
    assert_eq!(report.incarnation, 2);
    // One that waits to be reaped has no working directory any more.
    let left_cwd = std::fs::read_link(format!("/proc/{left}/cwd"));
    assert!(left_cwd.is_err(), "the postmaster of the killed agent still runs");
    assert_eq!(node.value(ports::NODE, "SELECT n FROM t").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_is_clean() {
    let (mut primary, mut standby, _) = pair();
    let client = primary.connect(ports::READ_WRITE).await.unwrap();
    client.batch_execute("CREATE TABLE t AS SELECT 1 AS n").await.unwrap();
    assert_eq!(standby.stop(), 0);
    assert_eq!(control_state(&standby), "shut down in recovery");
    assert_eq!(primary.stop(), 0);
    assert_eq!(control_state(&primary), "shut down");
    for node in [&primary, &standby] {
        assert_eq!(node.processes(), Vec::<String>::new());
    }
    // With nobody to ask, a node goes on with what it was told.
    standby.start();
    primary.start();
    primary.until("it leads again", is_primary);
    standby.until("it streams again", streams);
}

/// A hundred clients: idle, in a transaction, copying, writing.
async fn crowd(node: &Node) -> Vec<tokio_postgres::Client> {
    let mut clients = Vec::new();
    for n in 0..100 {
        let client = node.connect(ports::READ_WRITE).await.unwrap();
        match n % 4 {
            0 => {}
            1 => client.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap(),
            2 => drop(client.copy_in::<_, &[u8]>("COPY t FROM STDIN").await.unwrap()),
            _ => client.batch_execute("INSERT INTO t SELECT 1; LISTEN x").await.unwrap(),
        }
        clients.push(client);
    }
    clients
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_clean_however_busy_the_node_is() {
    let (mut primary, standby, _) = pair();
    primary.value(ports::NODE, "CREATE TABLE t (n int)").await;
    let clients = crowd(&primary).await;
    let writer = primary.connect(ports::READ_WRITE).await.unwrap();
    let writing = tokio::spawn(async move { while writer.batch_execute("INSERT INTO t VALUES (2)").await.is_ok() {} });
    // Twice, as an impatient person does.
    primary.signal_agent(Signal::SIGTERM);
    primary.signal_agent(Signal::SIGTERM);
    let started = std::time::Instant::now();
    assert_eq!(primary.wait_for_end(), 0);
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    assert_eq!(control_state(&primary), "shut down");
    assert_eq!(primary.processes(), Vec::<String>::new());
    writing.await.unwrap();
    drop(clients);
    drop(standby);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigquit_ends_at_once_even_after_sigterm() {
    let mut node = Node::started("ord-1");
    node.bootstrap(&[]);
    node.value(ports::NODE, "CREATE TABLE t (n int)").await;
    let _clients = crowd(&node).await;
    node.signal_agent(Signal::SIGTERM);
    node.signal_agent(Signal::SIGQUIT);
    assert_eq!(node.wait_for_end(), 0);
    assert_eq!(node.processes(), Vec::<String>::new());
    node.start();
    assert_eq!(node.until("it runs", is_primary).crashes, 0);
    assert_ne!(node.value(ports::NODE, "SELECT count(*) FROM t").await, "0");
}
