//! Every major version that is here: made, cloned, streamed from, restarted, measured.

#![allow(clippy::print_stderr)] // a skipped test says so

mod common;

use common::*;
use flypg_core::protocol::{PeerRole, ports};

async fn lives(major: u32) {
    let Some(bin) = flypg_agent::config::installed(major) else {
        assert_ne!(major, 15, "PostgreSQL 15 is needed for the tests (Debian package postgresql-15)");
        eprintln!("SKIPPED: PostgreSQL {major} is not here");
        return;
    };
    let (mut primary, mut standby) = (Node::new("ord-1"), Node::new("ord-2"));
    for node in [&mut primary, &mut standby] {
        node.major = major;
        node.bin = Some(bin.clone());
        node.start();
    }
    let system_id = primary.bootstrap(&[("work_mem", "17MB")]);
    let peers = [(&primary, PeerRole::Primary), (&standby, PeerRole::Joining)];
    assert_eq!(primary.assign_with(lead(&system_id), &peers, &[("work_mem", "18MB")]).status, 200);
    assert_eq!(standby.assign(follow(&primary, &system_id), &peers).status, 200);
    let report = standby.until("it streams", streams);
    let postgres = report.postgres.unwrap();
    assert!(postgres.version.starts_with(&format!("{major}.")), "{}", postgres.version);
    assert!(postgres.rejected.is_empty());
    standby.value(ports::READ_WRITE, "CREATE TABLE t AS SELECT 42 AS n").await;
    eventually("the row is on the standby", || async {
        let client = standby.connect(ports::NODE).await.unwrap();
        client.query_one("SELECT n FROM t WHERE pg_is_in_recovery()", &[]).await.is_ok()
    })
    .await;
    eventually("it reloads", || async { primary.value(ports::NODE, "SHOW work_mem").await == "18MB" }).await;
    let alter = primary.connect(ports::NODE).await.unwrap().batch_execute("ALTER SYSTEM SET work_mem = '9MB'").await;
    assert_eq!(alter.is_err(), major >= 17, "{alter:?}");
    let page = http((primary.address, ports::METRICS).into(), "GET", "/metrics", "", None).unwrap().body;
    assert!(page.contains("\npg_up 1\n") && page.contains("pg_stat_replication_pg_wal_lsn_diff{"), "{page}");
    strand(&primary, &mut standby, &system_id).await;
    comes_back(&primary, &mut standby, &system_id).await;
    assert_eq!(standby.stop(), 0);
    assert_eq!(primary.stop(), 0);
    assert_eq!(control_state(&primary), "shut down");
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_15() {
    lives(15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_16() {
    lives(16).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_17() {
    lives(17).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_18() {
    lives(18).await;
}
