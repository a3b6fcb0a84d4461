//! Data directories: made once, whole or not at all, and never over other data.

mod common;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use common::*;
use flypg_core::protocol::{PeerRole, PgRole, Phase, Task, ports};

#[test]
fn an_unfinished_clone_is_made_again() {
    let primary = Node::started("ord-1");
    let system_id = primary.bootstrap(&[]);
    let mut standby = Node::started("ord-2");
    let peers = [(&primary, PeerRole::Primary), (&standby, PeerRole::Joining)];
    // The primary does not know the new node yet, so its slot and its address are missing and no clone succeeds.
    assert_eq!(standby.assign(follow(&primary, &system_id), &peers).status, 200);
    standby.until(
        "the clone fails",
        |report| matches!(&report.phase, Phase::Failing { why } if why.contains("pg_basebackup")),
    );
    standby.kill_agent();
    // As a clone that was cut short leaves it.
    let making = standby.root.path().join("data/making/pgdata");
    std::fs::create_dir_all(&making).unwrap();
    std::fs::write(making.join("PG_VERSION"), "15\n").unwrap();
    std::fs::write(making.join("../origin.json"), r#"{"by":"clone","from":"ord-1"}"#).unwrap();
    standby.start();
    let peers = [(&primary, PeerRole::Primary), (&standby, PeerRole::Joining)];
    assert_eq!(primary.assign(lead(&system_id), &peers).status, 200);
    standby.until("it streams", streams);
    assert!(!exists(&standby.root.path().join("data/making")));
    assert!(exists(&standby.pgdata().join("standby.signal")));
}

/// The processes that work in the directory where data are made.
fn makers(node: &Node) -> Vec<i32> {
    let Ok(making) = node.root.path().join("data/making").canonicalize() else { return Vec::new() };
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let here = pids.filter(|p| std::fs::read_link(p.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&making)));
    here.filter_map(|p| p.file_name().to_str()?.parse().ok()).collect()
}

#[test]
fn a_clone_that_outlives_its_agent_does_no_harm() {
    let primary = Node::started("ord-1");
    let system_id = primary.bootstrap(&[]);
    let mut standby = Node::started("ord-2");
    let peers = [(&primary, PeerRole::Primary), (&standby, PeerRole::Joining)];
    assert_eq!(primary.assign(lead(&system_id), &peers).status, 200);
    assert_eq!(standby.assign(follow(&primary, &system_id), &peers).status, 200);
    // Frozen in the middle, and its agent killed: it is still there when the next one begins.
    let stop = |pid: &i32| {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGSTOP);
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    let frozen = loop {
        assert!(Instant::now() < deadline, "nothing is being made");
        let found = makers(&standby);
        found.iter().for_each(stop);
        if !found.is_empty() {
            break found;
        }
    };
    standby.kill_agent();
    makers(&standby).iter().for_each(stop);
    standby.start();
    standby.until("it streams", streams);
    for pid in frozen {
        let working = std::fs::read_link(format!("/proc/{pid}/cwd"));
        assert!(working.is_err(), "{pid} still works in {working:?}");
    }
}

#[test]
fn an_unfinished_initdb_is_made_again_under_its_own_nonce_only() {
    let mut node = Node::started("ord-1");
    let making = node.root.path().join("data/making");
    let bootstrap = Task::Bootstrap { nonce: "n1".to_owned() };
    // Killed as soon as it has begun.
    assert_eq!(node.assign(bootstrap, &[(&node, PeerRole::Primary)]).status, 200);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !exists(&making) && !exists(&node.pgdata()) {
        assert!(Instant::now() < deadline, "nothing is being made");
        std::thread::yield_now();
    }
    node.kill_agent();
    node.start();
    node.until("it runs", is_primary);
    assert!(!exists(&making));

    // The mark of somebody else's initdb.
    let mut other = Node::new("ord-2");
    let making = other.root.path().join("data/making/pgdata");
    std::fs::create_dir_all(&making).unwrap();
    std::fs::write(making.join("../origin.json"), r#"{"by":"initdb","nonce":"theirs"}"#).unwrap();
    other.start();
    let answer = other.assign(Task::Bootstrap { nonce: "n1".to_owned() }, &[(&other, PeerRole::Primary)]);
    assert_eq!(answer.status, 409, "{}", answer.body);
    assert!(exists(&making));
}

#[test]
fn data_that_a_ledger_does_not_know_are_left_alone() {
    let mut first = Node::started("ord-1");
    let system_id = first.bootstrap(&[]);
    first.stop();
    std::fs::remove_dir_all(first.root.path().join("data/ledger")).unwrap();
    first.start();
    let report = first.until("it looks", |report| report.phase == Phase::Idle);
    assert!(report.assignment.is_none());
    for task in [Task::Bootstrap { nonce: "n2".to_owned() }, lead(&system_id)] {
        assert_eq!(first.assign(task, &[(&first, PeerRole::Primary)]).status, 409);
    }
    assert_eq!(first.processes(), Vec::<String>::new());
}

#[test]
fn a_standby_whose_signal_is_gone_is_quarantined() {
    let (_primary, mut standby, _) = pair();
    standby.stop();
    std::fs::remove_file(standby.pgdata().join("standby.signal")).unwrap();
    standby.start();
    standby.until(
        "it is quarantined",
        |report| matches!(&report.phase, Phase::Quarantined { why } if why.contains("standby.signal")),
    );
    assert_eq!(standby.processes(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_follow_the_peers() {
    let (primary, standby, system_id) = pair();
    primary.value(ports::NODE, "SELECT pg_create_physical_replication_slot('mine')").await;
    let third = Node::new("ams-1");
    let slots = |node: &Node| match node.report().postgres.map(|p| p.role) {
        Some(PgRole::Primary { slots, .. }) => slots.into_keys().collect::<BTreeSet<_>>(),
        _ => BTreeSet::new(),
    };
    let three = [(&primary, PeerRole::Primary), (&standby, PeerRole::Standby), (&third, PeerRole::Joining)];
    assert_eq!(primary.assign(lead(&system_id), &three).status, 200);
    eventually("both have slots", || async {
        slots(&primary) == ["flypg_ams_1", "flypg_ord_2"].map(str::to_owned).into()
    })
    .await;
    // The one that streams leaves too: its walsender is ended.
    assert_eq!(primary.assign(lead(&system_id), &[(&primary, PeerRole::Primary)]).status, 200);
    eventually("none of ours is left", || async { slots(&primary).is_empty() }).await;
    assert_eq!(primary.value(ports::NODE, "SELECT string_agg(slot_name, ',') FROM pg_replication_slots").await, "mine");
}

#[test]
fn a_frozen_postmaster_is_reported() {
    let node = Node::started("ord-1");
    node.bootstrap(&[]);
    // Postmaster and backends alike, as a host that stalls.
    let all = || -> Vec<i32> {
        let root = node.pgdata().canonicalize().unwrap();
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        let in_data = pids.filter(|p| std::fs::read_link(p.path().join("cwd")).is_ok_and(|cwd| cwd == root));
        in_data.filter_map(|p| p.file_name().to_str()?.parse().ok()).collect()
    };
    let signal = |signal| {
        for pid in all() {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
        }
    };
    signal(nix::sys::signal::Signal::SIGSTOP);
    node.until("it is noticed", |report| report.postgres.is_none() && matches!(report.phase, Phase::Failing { .. }));
    signal(nix::sys::signal::Signal::SIGCONT);
    node.until("it goes on", |report| is_primary(report) && report.crashes == 0);
}
