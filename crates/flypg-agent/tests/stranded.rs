//! Standbys whose primary has removed WAL that they need.

#![allow(clippy::print_stderr)] // a skipped test says so

mod common;

use std::process::Command;
use std::time::Duration;

use common::*;
use flypg_core::protocol::{PeerRole, Phase, ports};

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_whose_wal_is_gone_is_cloned_again() {
    let (primary, mut standby, system_id) = pair_with(&LITTLE);
    primary.value(ports::NODE, "CREATE TABLE t (n int)").await;
    strand(&primary, &mut standby, &system_id).await;
    comes_back(&primary, &mut standby, &system_id).await;
    assert!(standby.log().contains("cloning beside it"), "{}", standby.log());

    // Killed between any two moments of it, it is whole and streams in the end.
    strand(&primary, &mut standby, &system_id).await;
    let peers = [(&primary, PeerRole::Primary), (&standby, PeerRole::Joining)];
    assert_eq!(primary.assign_with(lead(&system_id), &peers, &LITTLE).status, 200);
    for pause in [0, 30, 100, 250] {
        standby.start();
        standby.until("another copy is being made", |report| {
            matches!(report.phase, Phase::Cloning { .. }) || streams(report)
        });
        std::thread::sleep(Duration::from_millis(pause)); // not a wait: any moment is as good
        standby.kill_agent();
        assert!(exists(&standby.pgdata().join("PG_VERSION")), "killed after {pause} ms, the node has no copy");
    }
    standby.start();
    standby.until("it streams", streams);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_room_for_two_the_old_copy_goes_first() {
    let (primary, mut standby) = (Node::started("ord-1"), Node::new("ord-2"));
    let Some(_volume) = SmallVolume::below(&standby, 128) else { return };
    let system_id = primary.bootstrap(&LITTLE);
    standby.start();
    let peers = [(&primary, PeerRole::Primary), (&standby, PeerRole::Joining)];
    assert_eq!(primary.assign_with(lead(&system_id), &peers, &LITTLE).status, 200);
    assert_eq!(standby.assign_with(follow(&primary, &system_id), &peers, &LITTLE).status, 200);
    standby.until("it streams", streams);
    primary.value(ports::NODE, "CREATE TABLE t (n int)").await;
    strand(&primary, &mut standby, &system_id).await;
    comes_back(&primary, &mut standby, &system_id).await;
    assert!(standby.log().contains("no room for another copy beside it"), "{}", standby.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_has_diverged_is_kept_and_told_of() {
    let (primary, mut standby, system_id) = pair_with(&LITTLE);
    primary.value(ports::NODE, "CREATE TABLE t (n int)").await;
    strand(&primary, &mut standby, &system_id).await;
    // Promoted by hand, it has written what nobody else has, and was made a standby again.
    let postgres = |program: &str, args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        command.arg(common::program(&standby, program)).arg("-D").arg(standby.pgdata()).args(args);
        assert!(command.current_dir("/").output().unwrap().status.success(), "{program} {args:?}");
    };
    let sockets = format!("-c unix_socket_directories={}", standby.root.path().join("run/flypg/pg").display());
    let wait = ["-w", "-l", "/dev/null", "-o", &sockets];
    postgres("pg_ctl", &[&["start"], &wait[..]].concat());
    postgres("pg_ctl", &["promote", "-w"]);
    postgres("pg_ctl", &["stop", "-w", "-m", "fast"]);
    std::fs::write(standby.pgdata().join("standby.signal"), "").unwrap();

    let peers = [(&primary, PeerRole::Primary), (&standby, PeerRole::Joining)];
    assert_eq!(primary.assign_with(lead(&system_id), &peers, &LITTLE).status, 200);
    standby.start();
    let report = standby.until(
        "it says why",
        |report| matches!(&report.phase, Phase::Failing { why } if why.contains("they have diverged")),
    );
    assert_eq!(report.postgres.unwrap().timeline, 2);
    assert!(!standby.log().contains("another copy"), "{}", standby.log());
}
