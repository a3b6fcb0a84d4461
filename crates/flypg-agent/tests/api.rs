//! The API and the metrics of a node.

#![allow(clippy::print_stderr)] // a skipped test says so

mod common;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::*;
use flypg_core::decree::{Epoch, SystemId};
use flypg_core::ledger::Caller;
use flypg_core::protocol::{Assignment, NodeReport, PeerRole, Phase, Task, ports};
use serde_json::json;

#[test]
fn callers_need_the_key_and_strangers_learn_little() {
    let node = Node::started("ord-1");
    for bearer in [None, Some("0".repeat(64)), Some(String::new()), Some(format!("{}0", key().expose()))] {
        for (method, path) in [("GET", "/v1/report"), ("PUT", "/v1/assignment"), ("POST", "/v1/restart"), ("GET", "/x")]
        {
            let answer = node.http(method, path, "{}", bearer.as_deref()).unwrap();
            assert_eq!(answer.status, 401, "{method} {path} with {bearer:?}");
            assert!(answer.body.contains("error"), "{}", answer.body);
        }
    }
    node.until("it has looked", |report| report.phase == Phase::Blank);
    let health = node.http("GET", "/v1/health", "", None).unwrap();
    assert_eq!((health.status, health.body.as_str()), (200, r#"{"phase":"blank","role":null}"#));
    assert_eq!(node.http("GET", "/v1/health/ready", "", None).unwrap().status, 503);
    assert_eq!(node.call("GET", "/x", "").status, 404);
    assert_eq!(node.call("PUT", "/v1/assignment", "{}").status, 400);
    for (method, path, body, status) in [
        ("PUT", "/v1/assignment", " ".repeat(2 << 20), 413),
        ("GET", "/v1/report?after=soon", String::new(), 400),
        ("POST", "/v1/restart", r#"{"now":true}"#.to_owned(), 400),
    ] {
        let answer = node.call(method, path, &body);
        assert_eq!(answer.status, status, "{}", answer.body);
        assert!(answer.body.starts_with(r#"{"error":"#), "{}", answer.body);
    }
}

#[test]
fn what_is_meant_for_others_or_came_late_is_refused() {
    let mut node = Node::started("ord-1");
    let system_id = SystemId("7".to_owned());
    let refused = |answer: Answer, words: &str| {
        assert_eq!(answer.status, 409, "{}", answer.body);
        assert!(answer.body.contains(words), "{} says nothing of {words}", answer.body);
    };
    refused(node.assign(lead(&system_id), &[]), "only after it was promoted");
    let good = node.assignment(Task::Bootstrap { nonce: "n1".to_owned() }, &[(&node, PeerRole::Primary)], &[]);
    let mut other = good.clone();
    other.cluster = "users-db".parse().unwrap();
    refused(node.put(&other), "users-db");
    other = good.clone();
    other.node = "ord-2".parse().unwrap();
    refused(node.put(&other), "ord-2");
    node.until("it is blank still", |report| report.phase == Phase::Blank);

    let mut good = good;
    good.epoch = Epoch(5);
    let answer = node.put(&good);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let report: NodeReport = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((report.promised, report.assignment), (Epoch(5), Some(good.digest())));
    let mut late = good.clone();
    late.epoch = Epoch(4);
    refused(node.put(&late), "promised");

    // What was answered with 200 is on disk, whatever happens next.
    node.kill_agent();
    node.start();
    let report = node.until("it runs", is_primary);
    assert_eq!((report.promised, report.assignment, report.incarnation), (Epoch(5), Some(good.digest()), 2));
    refused(node.put(&late), "promised");
    let mut again = good.clone();
    again.task = Task::Bootstrap { nonce: "n2".to_owned() };
    refused(node.put(&again), "not blank");
    again.task = lead(&system_id);
    refused(node.put(&again), "the assignment speaks of 7");
    // A record that was lost and made again re-affirms the primary.
    again.task = Task::Reaffirm { system_id: report.postgres.unwrap().system_id, terms: alone() };
    again.epoch = Epoch(1005);
    assert_eq!(node.put(&again).status, 200);
    assert_eq!(node.report().promised, Epoch(1005));
    node.until("it goes on", is_primary);
}

#[test]
fn one_store_speaks_with_one_voice() {
    let node = Node::started("ord-1");
    let told = node.assignment(Task::Bootstrap { nonce: "n1".to_owned() }, &[(&node, PeerRole::Primary)], &[]);
    let second = Caller { generation: 2, boot: "life-2".to_owned(), ..caller() };
    assert_eq!(node.put(&told).status, 200);
    assert_eq!(node.put_as(&second, &told).status, 200);
    let copy = Caller { boot: "another".to_owned(), ..second.clone() };
    let other = Caller { id: "store-2".to_owned(), ..copy.clone() };
    for stranger in [caller(), copy, other.clone()] {
        let answer = node.put_as(&stranger, &told);
        assert_eq!(answer.status, 409, "{stranger:?}: {}", answer.body);
        assert!(answer.body.contains("another controller was obeyed here"), "{}", answer.body);
    }
    assert_eq!(node.put_as(&second, &told).status, 200);
    // A record that was rebuilt has an epoch beyond everything that was promised.
    let recruit = Task::Recruit { primary: told.node.clone() };
    let rebuilt = Assignment { epoch: Epoch(1001), task: recruit, ..told.clone() };
    assert_eq!(node.put_as(&other, &rebuilt).status, 200);
    assert_eq!(node.put_as(&second, &told).status, 409);
    assert_eq!(node.report().promised, Epoch(1001));
}

#[test]
fn a_damaged_ledger_quarantines_the_node() {
    let mut node = Node::started("ord-1");
    node.bootstrap(&[]);
    // Postgres is left running, and there is no ledger by which anybody could look after it.
    node.kill_agent();
    for slot in ["a", "b"] {
        let path = node.root.path().join("data/ledger").join(slot);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..120]).unwrap();
    }
    node.start();
    let report = node.until("it is quarantined", |report| matches!(report.phase, Phase::Quarantined { .. }));
    assert!(report.postgres.is_none());
    assert_eq!(control_state(&node), "shut down");
    assert_eq!(node.processes(), Vec::<String>::new());
    assert_eq!(node.assign(lead(&SystemId("7".to_owned())), &[]).status, 409);
}

#[test]
fn another_machines_volume_does_not_run_by_itself() {
    let mut node = Node::started("ord-1");
    let system_id = node.bootstrap(&[]);
    node.stop();
    node.machine = "another".to_owned();
    node.start();
    node.until("it waits", |report| report.phase == Phase::Idle && report.assignment.is_none());
    assert_eq!(node.assign(lead(&system_id), &[(&node, PeerRole::Primary)]).status, 200);
    node.until("it runs", is_primary);
}

#[test]
fn the_same_calls_work_from_inside_the_machine() {
    let node = Node::started("ord-1");
    let output = node.command("call").args(["GET", "/v1/report"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: NodeReport = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report.node.to_string(), "ord-1");

    let task = Task::Bootstrap { nonce: "n1".to_owned() };
    let assignment = node.assignment(task, &[(&node, PeerRole::Primary)], &[]);
    let mut call = node.command("call");
    call.args(["PUT", "/v1/assignment"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = call.spawn().unwrap();
    let told = json!({ "caller": caller(), "assignment": assignment });
    serde_json::to_writer(child.stdin.take().unwrap(), &told).unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
    node.until("it runs", is_primary);

    let output = node.command("call").args(["GET", "/nowhere"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(!String::from_utf8_lossy(&output.stderr).contains(&key().expose()));
}

#[test]
fn a_wrong_environment_is_one_clear_line() {
    let node = Node::new("ord-1");
    let output = node.command("run").env_remove("FLYPG_CLUSTER_KEY").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "flypg-agent: FLYPG_CLUSTER_KEY is not set\n");
}

fn promtool() -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let given = std::env::var("PROMTOOL").ok().map(PathBuf::from);
    given.into_iter().chain(path.split(':').map(|place| PathBuf::from(place).join("promtool"))).find(|p| p.is_file())
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_what_prometheus_expects() {
    let (primary, standby, _) = pair();
    primary.value(ports::NODE, "SELECT 1").await;
    for node in [&primary, &standby] {
        // It serves, so Postgres is among its metrics.
        node.value(ports::NODE, "SELECT 1").await;
        let page = http((node.address, ports::METRICS).into(), "GET", "/metrics", "", None).unwrap();
        assert_eq!(page.status, 200);
        for name in [
            "pg_up 1",
            "flypg_agent_phase{phase=\"running\"} 1",
            "pg_database_size_bytes{datname=\"postgres\"}",
            "pg_stat_activity_count{datname=",
            "pg_stat_database_xact_commit{datid=",
            "pg_stat_bgwriter_buffers_alloc_total",
            "pg_settings_max_connections 300",
            "flypg_agent_connections_total{door=\"node\"}",
            if node.name == "ord-1" { "pg_replication_is_replica 0" } else { "pg_replication_is_replica 1" },
        ] {
            assert!(page.body.lines().any(|line| line.starts_with(name)), "{name} is missing:\n{}", page.body);
        }
        if node.name == "ord-1" {
            assert!(
                page.body
                    .contains("pg_replication_slot_slot_is_active{slot_name=\"flypg_ord_2\",slot_type=\"physical\"} 1")
            );
            assert!(page.body.contains("pg_stat_replication_pg_wal_lsn_diff{application_name=\"flypg_ord_2\""));
        }
        let Some(promtool) = promtool() else {
            eprintln!("SKIPPED: promtool is not here (Debian package prometheus); the metrics were not checked by it");
            continue;
        };
        let mut check = Command::new(promtool)
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        check.stdin.take().unwrap().write_all(page.body.as_bytes()).unwrap();
        let output = check.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
}

#[test]
fn a_request_that_never_becomes_whole_is_cut() {
    use std::io::Read;
    let node = Node::started("ord-1");
    for port in [ports::API, ports::METRICS] {
        let mut stream = std::net::TcpStream::connect((node.address, port)).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
        stream.write_all(b"GET /v1/health HTTP/1.1\r\n").unwrap();
        let start = std::time::Instant::now();
        let cut = loop {
            assert!(start.elapsed().as_secs() < 40, "port {port} is patient without end");
            // A drop at a time, so that it is never silent.
            let sent = stream.write_all(b"x: y\r\n");
            match stream.read(&mut [0; 256]) {
                Ok(0) => break true,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) && sent.is_ok() => {}
                Err(_) => break true,
            }
        };
        assert!(cut);
    }
}
