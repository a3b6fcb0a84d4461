//! Older states of what was on a volume, put back: the node itself knows them (rule R17).

mod common;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::*;
use flypg_core::decree::Epoch;
use flypg_core::ledger::{HighWater, Slot, recover};
use flypg_core::protocol::{Assignment, Lsn, NodeReport, PeerRole, Phase, Standing, Task, ports};

/// How far the data of this node are known to have come, on disk.
fn on_disk(node: &Node) -> HighWater {
    let slot = |name: &str| std::fs::read(node.root.path().join("data/ledger").join(name)).ok();
    let slots = [slot("high-water.a"), slot("high-water.b")];
    let [first, second] = slots.each_ref().map(|slot| slot.as_deref().map_or(Slot::Absent, Slot::Bytes));
    recover([first, second]).unwrap().map(|found| found.kept).unwrap_or_default()
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// Writes a row, and waits until this node is known, on disk, to have it.
async fn written_to(primary: &Node, node: &Node) {
    let at: Lsn = primary
        .value(ports::NODE, "INSERT INTO t VALUES (1); SELECT pg_current_wal_insert_lsn()")
        .await
        .parse()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while on_disk(node).reached.is_none_or(|reached| reached.lsn < at) {
        assert!(Instant::now() < deadline, "{} never remembers {at}: {:?}", node.name, on_disk(node));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn is_older(report: &NodeReport) -> bool {
    matches!(&report.phase, Phase::Quarantined { why } if why.contains("an older state"))
}

fn in_epoch(epoch: u64, node: &Node, task: Task, peers: &[(&Node, PeerRole)]) -> Assignment {
    Assignment { epoch: Epoch(epoch), ..node.assignment(task, peers, &[]) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_put_back_is_not_chosen_before_it_has_the_rest() {
    let (mut primary, mut standby, system_id) = pair();
    primary.value(ports::NODE, "CREATE TABLE t (n int)").await;
    let aside = standby.root.path().join("aside");
    standby.stop();
    copy(&standby.pgdata(), &aside);
    standby.start();
    standby.until("it streams", streams);
    written_to(&primary, &standby).await;
    standby.stop();
    // Nobody gives it the rest.
    primary.stop();
    copy(&aside, &standby.pgdata());
    standby.start();

    let recruit = || Task::Recruit { primary: primary.name.parse().unwrap() };
    let peers = [(&primary, PeerRole::Primary), (&standby, PeerRole::Joining)];
    assert_eq!(standby.put(&in_epoch(2, &standby, recruit(), &peers)).status, 200);
    let report = standby.until("it says that it was put back", is_older);
    assert_eq!(report.standing, Standing::Recruited { end: None });
    assert_eq!(standby.processes(), Vec::<String>::new());
    // It knows after a restart, too.
    standby.stop();
    standby.start();
    let report = standby.until("it says so again", is_older);
    assert_eq!(report.standing, Standing::Recruited { end: None });

    primary.start();
    let terms = flypg_core::protocol::Terms { nonce: "n2".to_owned(), ..alone() };
    let peers = [(&primary, PeerRole::Primary), (&standby, PeerRole::Joining)];
    let reaffirm = Task::Reaffirm { system_id: system_id.clone(), terms };
    assert_eq!(primary.put(&in_epoch(2, &primary, reaffirm, &peers)).status, 200);
    primary.until("it runs", is_primary);
    assert_eq!(standby.put(&in_epoch(2, &standby, follow(&primary, &system_id), &peers)).status, 200);
    standby.until("it streams", streams);
    written_to(&primary, &standby).await;
    let peers = [(&primary, PeerRole::Primary), (&standby, PeerRole::Joining)];
    let recruit = Task::Recruit { primary: primary.name.parse().unwrap() };
    assert_eq!(standby.put(&in_epoch(3, &standby, recruit, &peers)).status, 200);
    standby.until("it says where it ends", |r| matches!(r.standing, Standing::Recruited { end: Some(_) }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_whose_data_were_put_back_does_not_lead() {
    let mut node = Node::started("ord-1");
    node.bootstrap(&[]);
    node.value(ports::NODE, "CREATE TABLE t (n int)").await;
    let aside = node.root.path().join("aside");
    node.stop();
    copy(&node.pgdata(), &aside);
    node.start();
    node.until("it runs", is_primary);
    written_to(&node, &node).await;
    node.stop();
    copy(&aside, &node.pgdata());
    node.start();
    node.until("it says that it was put back", is_older);
    assert!(node.connect(ports::NODE).await.is_err());
    assert_eq!(node.processes(), Vec::<String>::new());
}

#[test]
fn a_ledger_that_was_put_back_takes_back_no_promise() {
    let mut node = Node::started("ord-1");
    node.bootstrap(&[]);
    let slots = ["a", "b"].map(|slot| node.root.path().join("data/ledger").join(slot));
    node.kill_agent();
    let before = slots.each_ref().map(|slot| std::fs::read(slot).unwrap());
    node.start();
    let recruit = Task::Recruit { primary: "ord-2".parse().unwrap() };
    assert_eq!(node.put(&in_epoch(2, &node, recruit, &[(&node, PeerRole::Primary)])).status, 200);
    node.stop();
    for (slot, bytes) in slots.iter().zip(before) {
        std::fs::write(slot, bytes).unwrap();
    }
    node.start();
    let report = node.report();
    assert_eq!((report.promised, report.assignment), (Epoch(2), None));
    let stale = node.assignment(Task::Bootstrap { nonce: "n1".to_owned() }, &[(&node, PeerRole::Primary)], &[]);
    assert_eq!(node.put(&stale).status, 409);
    assert_eq!(node.processes(), Vec::<String>::new());
}
