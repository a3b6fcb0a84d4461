//! Volumes that are full, read-only, or were another machine's.

mod common;

use std::process::Command;
use std::time::Duration;

use common::*;
use flypg_core::protocol::{PeerRole, Phase, Task, ports};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_volume_is_reported_and_promises_still_hold() {
    let mut node = Node::new("ord-1");
    let Some(volume) = SmallVolume::below(&node, 250) else { return };
    node.start();
    let system_id = node.bootstrap(&[("max_wal_size", "64MB")]);
    node.value(ports::NODE, "CREATE TABLE t AS SELECT 1 AS n").await;
    assert_eq!(node.stop(), 0);
    volume.fill();
    node.start();
    let says_why = |words: &'static str| move |report: &flypg_core::protocol::NodeReport| matches!(&report.phase, Phase::Failing { why } if why.contains(words));
    node.until("it says why", says_why("No space left on device"));
    // Nothing new fits, and it promises all the same, across a restart too.
    let again = Task::Reaffirm { system_id, terms: alone() };
    let mut told = node.assignment(again, &[(&node, PeerRole::Primary)], &[("work_mem", "17MB")]);
    told.epoch = flypg_core::decree::Epoch(7);
    let answer = node.put(&told);
    assert_eq!(answer.status, 200, "{}", answer.body);
    node.kill_agent();
    node.start();
    let report = node.until("it says why", says_why("No space left on device"));
    assert_eq!((report.promised.0, report.assignment), (7, Some(told.digest())));
    volume.empty();
    node.until("it runs", is_primary);
    assert_eq!(node.value(ports::NODE, "SELECT n FROM t").await, "1");
    assert_eq!(node.value(ports::NODE, "SHOW work_mem").await, "17MB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_fills_up_under_postgres_is_told_of_and_loses_nothing() {
    let mut node = Node::new("ord-1");
    let Some(volume) = SmallVolume::below(&node, 250) else { return };
    node.start();
    node.bootstrap(&[("min_wal_size", "32MB"), ("max_wal_size", "32MB")]);
    node.value(ports::NODE, "CREATE TABLE t AS SELECT 1 AS n").await;
    volume.fill();
    // No segment of WAL can be made any more, which Postgres does not survive.
    let client = node.connect(ports::NODE).await.unwrap();
    while client.batch_execute("INSERT INTO t SELECT 1; SELECT pg_switch_wal()").await.is_ok() {}
    node.until(
        "it says why",
        |report| matches!(&report.phase, Phase::Failing { why } if why.contains("No space left on device")),
    );
    volume.empty();
    node.until("it runs again", is_primary);
    assert_ne!(node.value(ports::NODE, "SELECT count(*) FROM t").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_volume_is_reported_and_waited_for() {
    let mut node = Node::new("ord-1");
    let Some(volume) = SmallVolume::below(&node, 250) else { return };
    node.start();
    node.bootstrap(&[]);
    assert_eq!(node.stop(), 0);
    volume.remount("ro");
    node.start();
    let report = node.until("it says why", |r| matches!(&r.phase, Phase::Failing { why } if why.contains("Read-only")));
    assert!(report.postgres.is_none());
    volume.remount("rw");
    let report = node.until("it runs", is_primary);
    assert_eq!(report.incarnation, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_of_another_account_is_taken_over() {
    if !nix::unistd::geteuid().is_root() {
        return; // nothing can belong to another account then
    }
    let mut node = Node::started("ord-1");
    node.bootstrap(&[]);
    assert_eq!(node.stop(), 0);
    assert!(Command::new("chown").args(["-R", "54321:54321"]).arg(node.pgdata()).status().unwrap().success());
    node.start();
    node.until_within(Duration::from_secs(30), "it runs", is_primary);
}
