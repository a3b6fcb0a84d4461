//! The gate of a primary: what passes while it has a lease, and that nothing does when it has none.

mod common;

use std::time::Duration;

use common::*;
use flypg_core::decree::{Epoch, SystemId};
use flypg_core::failover::Rule;
use flypg_core::failover::lease::{BootTime, Timing};
use flypg_core::protocol::{Assignment, Gate, NodeReport, PeerRole, Standing, Task, Terms, ports};
use flypg_core::spec::Profile;
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use serde_json::json;
use tokio::task::JoinHandle;

/// A primary that waits for no standby, and that may be replaced: it leads by a lease.
fn leased(pledgers: &[&str]) -> Terms {
    let members = pledgers.iter().map(|node| node.parse().unwrap()).collect();
    Terms { pledges: vec![Rule::any(1, members).unwrap()], ..alone() }
}

fn lead_by(terms: Terms, system_id: &SystemId) -> Task {
    Task::Lead { system_id: system_id.clone(), terms }
}

/// A primary by lease whom nobody gives a pledge: nobody has the address of `ord-9`.
fn alone_by_lease() -> (Node, SystemId) {
    let node = Node::started("ord-1");
    let system_id = node.bootstrap(&[]);
    let task = lead_by(leased(&["ord-9"]), &system_id);
    assert_eq!(node.assign(task, &[(&node, PeerRole::Primary)]).status, 200);
    (node, system_id)
}

fn gate(report: &NodeReport) -> Option<Gate> {
    match &report.standing {
        Standing::Leading(leading) => Some(leading.gate),
        _ => None,
    }
}

fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap().into()
}

/// Answers `report` with a grant; whether it counted.
fn grant(node: &Node, report: &NodeReport, ttl: Duration) -> bool {
    grant_in(node, report, report.promised, ttl)
}

fn grant_in(node: &Node, report: &NodeReport, epoch: Epoch, ttl: Duration) -> bool {
    let grant = json!({ "epoch": epoch, "boot": report.boot, "sent": report.sent, "ttl": ttl });
    let answer = node.call("PUT", "/v1/lease", &json!({ "caller": caller(), "grant": grant }).to_string());
    assert_eq!(answer.status, 200, "{}", answer.body);
    serde_json::from_str::<serde_json::Value>(&answer.body).unwrap()["counted"].as_bool().unwrap()
}

/// A lease for `ttl` from now; when it ends.
fn lease(node: &Node, ttl: Duration) -> BootTime {
    let report = node.report();
    assert!(grant(node, &report, ttl));
    BootTime(report.sent.0 + ttl)
}

const LONG: Duration = Duration::from_secs(60);

/// A session that began by leases of this length: on a busy computer one may be over before the gate has opened.
async fn let_in(node: &Node, ttl: Duration) -> tokio_postgres::Client {
    let deadline = now() + LONG;
    loop {
        lease(node, ttl);
        match node.connect(ports::NODE).await {
            Ok(client) => break client,
            Err(error) => assert!(now() < deadline, "the gate never opened: {error}"),
        }
    }
}

/// Runs a statement in a session of its own, through a gate; the session is there when this returns.
async fn running(node: &Node, statement: &'static str) -> JoinHandle<Result<(), tokio_postgres::Error>> {
    let client = node.connect(ports::NODE).await.unwrap();
    tokio::spawn(async move { client.batch_execute(statement).await })
}

/// Whether one of the node's backends calls itself that.
fn has_backend(node: &Node, title: &str) -> bool {
    node.processes().iter().any(|process| process.contains(": postgres postgres ") && process.contains(title))
}

fn was_cut(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_none()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_agent_passes_nothing_after_the_end_of_its_lease() {
    let (node, _) = alone_by_lease();
    lease(&node, Duration::from_secs(3));
    node.value(ports::NODE, "CREATE TABLE t (n int); SELECT 1").await;
    lease(&node, Duration::from_secs(3));
    let insert = running(&node, "INSERT INTO t SELECT 1 FROM pg_sleep(3)").await;
    eventually("it is being executed", || async { has_backend(&node, "INSERT") }).await;
    let end = lease(&node, Duration::from_secs(4));
    node.signal_agent(Signal::SIGSTOP);
    assert!(has_backend(&node, "INSERT"), "this machine is too slow for this test");
    eventually("it has been executed, and the lease is over", || async {
        has_backend(&node, "idle") && now() > end.0 + Duration::from_millis(100)
    })
    .await;
    node.signal_agent(Signal::SIGCONT);
    let error = insert.await.unwrap().expect_err("the answer was there, and the lease was over");
    assert!(was_cut(&error), "{error:?}");
    node.until("it has no lease", |report| gate(report) == Some(Gate::Leaseless));
    // Nothing was lost of it: it was only not said.
    lease(&node, LONG);
    assert_eq!(node.value(ports::NODE, "SELECT count(*) FROM t").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_renewed_goes_on_and_one_that_is_not_ends_every_session() {
    let (node, _) = alone_by_lease();
    let client = let_in(&node, Duration::from_secs(2)).await;
    let opened = now();
    while now() < opened + Duration::from_secs(4) {
        lease(&node, Duration::from_secs(2));
        client.batch_execute("SELECT pg_sleep(0.1)").await.expect("the lease was renewed");
    }
    let started = node.report().postgres.unwrap().started_at;
    // One session is idle, one waits for its answer.
    let sleep = running(&node, "SELECT pg_sleep(30)").await;
    let end = lease(&node, Duration::from_secs(1));
    assert!(was_cut(&sleep.await.unwrap().unwrap_err()));
    assert!(now() < end.0 + Duration::from_secs(1), "it was not cut soon");
    eventually("the idle one is cut", || async { client.is_closed() }).await;
    node.until("it has no lease", |report| gate(report) == Some(Gate::Leaseless));
    // Within the grace it goes on as if nothing had been, but for the sessions.
    lease(&node, LONG);
    node.value(ports::NODE, "SELECT 1").await;
    assert_eq!(node.report().postgres.unwrap().started_at, started);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_lease_postgres_stops_after_the_grace_and_comes_back_with_one() {
    let (node, _) = alone_by_lease();
    lease(&node, Duration::from_millis(500));
    node.until("its Postgres has stopped", |report| gate(report) == Some(Gate::Down) && report.postgres.is_none());
    assert_eq!(control_state(&node), "shut down");
    assert_eq!(node.report().crashes, 0);
    lease(&node, LONG);
    node.until("it leads again", |report| gate(report) == Some(Gate::Open));
    node.value(ports::NODE, "SELECT 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_begins_shortly_before_the_end() {
    let (node, _) = alone_by_lease();
    let ttl = Duration::from_secs(2);
    eventually("there is a table", || async {
        let client = let_in(&node, ttl).await;
        lease(&node, ttl);
        client.batch_execute("CREATE TABLE IF NOT EXISTS t (n int)").await.is_ok()
    })
    .await;
    for _ in 0..3 {
        let client = let_in(&node, ttl).await;
        let end = lease(&node, Duration::from_secs(2));
        eventually("it is over in 120 ms", || async { now() + Duration::from_millis(120) > end.0 }).await;
        let result = client.batch_execute("INSERT INTO t VALUES (1)").await;
        assert!(was_cut(&result.expect_err("it was not to begin")));
    }
    lease(&node, LONG);
    assert_eq!(node.value(ports::NODE, "SELECT count(*) FROM t").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_counts_for_its_boot_and_epoch_only_and_from_when_its_report_left() {
    let (mut node, _) = alone_by_lease();
    let old = node.report();
    assert!(!grant_in(&node, &old, Epoch(2), LONG), "another epoch's");
    node.kill_agent();
    node.start();
    let new = node.report();
    assert_ne!(new.boot, old.boot);
    assert!(new.sent > old.sent);
    assert!(!grant(&node, &old, LONG), "another boot's");
    node.until("it is fenced", |report| gate(report).is_some_and(|gate| gate != Gate::Open));
    // It is not started before it may lead.
    assert!(node.report().postgres.is_none());
    // A report that was sent long ago earns a lease that has ended by now.
    eventually("time has gone by", || async { now() > new.sent.0 + Duration::from_millis(500) }).await;
    assert!(grant(&node, &new, Duration::from_millis(400)));
    assert!(gate(&node.report()) != Some(Gate::Open));
    lease(&node, LONG);
    node.until("it leads", |report| gate(report) == Some(Gate::Open));
    assert!(grant(&node, &new, Duration::from_millis(400)), "a late one takes nothing away");
    assert_eq!(gate(&node.report()), Some(Gate::Open));
    // Somebody else's controller.
    let stranger = json!({ "id": "store-2", "generation": 1, "boot": "x" });
    let grant = json!({ "epoch": 1, "boot": new.boot, "sent": new.sent, "ttl": LONG });
    let answer = node.call("PUT", "/v1/lease", &json!({ "caller": stranger, "grant": grant }).to_string());
    assert_eq!(answer.status, 409, "{}", answer.body);
    assert!(answer.body.contains("store-2"), "{}", answer.body);
}

/// A primary by lease, its standby that pledges to it, and short times.
fn pledged_pair() -> (Node, Node, SystemId) {
    let (primary, standby, system_id) = pair();
    for (node, task) in [(&standby, follow(&primary, &system_id)), (&primary, lead_by(leased(&["ord-2"]), &system_id))]
    {
        let peers = [(&primary, PeerRole::Primary), (&standby, PeerRole::Standby)];
        let told = Assignment { profile: Profile::Fast, revision: 2, ..node.assignment(task, &peers, &[]) };
        let answer = node.put(&told);
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    primary.until("its gate is open", |report| gate(report) == Some(Gate::Open));
    (primary, standby, system_id)
}

/// The first word that a node hears of epoch 2.
fn recruit(node: &Node, peers: &[(&Node, PeerRole)]) -> Answer {
    let primary = peers[0].0.name.parse().unwrap();
    let task = Task::Recruit { primary };
    node.put(&Assignment { epoch: Epoch(2), revision: 3, ..node.assignment(task, peers, &[]) })
}

#[tokio::test(flavor = "multi_thread")]
async fn members_hold_up_a_lease_that_nobody_grants_until_one_of_them_is_recruited() {
    let (primary, standby, _) = pledged_pair();
    let peers = [(&primary, PeerRole::Primary), (&standby, PeerRole::Standby)];
    let client = primary.connect(ports::NODE).await.unwrap();
    let ttl = Timing::of(Profile::Fast).ttl;
    let opened = now();
    while now() < opened + ttl + Duration::from_secs(1) {
        client.batch_execute("SELECT pg_sleep(0.1)").await.expect("its lease is held up");
    }
    let report = standby.report();
    assert!(report.pledged_for.is_some_and(|left| left > Duration::from_secs(2)), "{report:?}");
    assert!(report.primary_heard.is_some_and(|ago| ago < Duration::from_secs(2)), "{report:?}");
    let answer = recruit(&standby, &peers);
    assert_eq!(answer.status, 423, "{}", answer.body);
    assert!(answer.body.contains("a pledge to the primary runs"), "{}", answer.body);
    assert_eq!(standby.report().promised, Epoch(1));

    // It is not forgotten by whoever is started again.
    let mut standby = standby;
    standby.kill_agent();
    standby.start();
    assert_eq!(recruit(&standby, &[(&primary, PeerRole::Primary), (&standby, PeerRole::Standby)]).status, 423);

    let sleep = tokio::spawn(async move { client.batch_execute("SELECT pg_sleep(3)").await });
    eventually("it sleeps", || async { has_backend(&primary, "SELECT") }).await;
    primary.signal_agent(Signal::SIGSTOP);
    assert!(has_backend(&primary, "SELECT"), "this machine is too slow for this test");
    let peers = [(&primary, PeerRole::Primary), (&standby, PeerRole::Standby)];
    eventually("the pledge is over", || async { recruit(&standby, &peers).status == 200 }).await;
    eventually("the answer is there", || async { has_backend(&primary, "idle") }).await;
    primary.signal_agent(Signal::SIGCONT);
    let error = sleep.await.unwrap().expect_err("somebody else may lead by now");
    assert!(was_cut(&error), "{error:?}");
    primary.until("nobody pledges", |report| gate(report) == Some(Gate::Leaseless));
}

#[tokio::test(flavor = "multi_thread")]
async fn routers_wait_for_the_next_primary_and_then_go_there() {
    let (primary, standby, system_id) = pledged_pair();
    let peers = [(&primary, PeerRole::Primary), (&standby, PeerRole::Standby)];
    let routed = standby.connect(ports::READ_WRITE).await.unwrap();
    routed.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    // The end of the first primary: it promises, so its gate shuts and its Postgres stops.
    assert_eq!(recruit(&primary, &peers).status, 200);
    assert!(was_cut(&routed.batch_execute("INSERT INTO t VALUES (1)").await.unwrap_err()));
    eventually("the pledge is over", || async { recruit(&standby, &peers).status == 200 }).await;
    let recruited = standby
        .until("it says where it ends", |report| matches!(&report.standing, Standing::Recruited { end: Some(_) }));
    assert_eq!(recruited.promised, Epoch(2));
    // Who reads from a copy goes on reading from it until it is one no more.
    let reader = standby.connect(ports::NODE).await.unwrap();
    reader.batch_execute("SELECT 1").await.unwrap();
    let waiting = async { standby.connect(ports::READ_WRITE).await.map(drop) };
    let promoted = async {
        let terms = Terms { nonce: "n2".to_owned(), ..alone() };
        let task = Task::Promote { system_id: system_id.clone(), timeline: 2, burnt: vec![], terms };
        let told = Assignment { epoch: Epoch(2), revision: 4, ..standby.assignment(task, &peers, &[]) };
        standby.put(&told).status
    };
    let (connected, status) = tokio::join!(waiting, promoted);
    assert_eq!(status, 200);
    connected.unwrap_or_else(|error| panic!("it waited for the next primary: {error:?}; {:#?}", standby.report()));
    assert!(was_cut(&reader.batch_execute("SELECT 1").await.unwrap_err()));
    // Who still takes the old one for the primary is sent on, as soon as its own node knows better.
    let waiting = async { primary.connect(ports::READ_WRITE).await };
    let told = async {
        let task = follow(&standby, &system_id);
        primary.put(&Assignment { epoch: Epoch(2), revision: 5, ..primary.assignment(task, &peers, &[]) }).status
    };
    let (connected, status) = tokio::join!(waiting, told);
    assert_eq!(status, 200);
    let client = connected.expect("it was sent on");
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    assert_eq!(standby.value(ports::NODE, "SELECT n FROM t").await, "2");
}

/// A client decides how long a line of PostgreSQL's log is; the primary must not lose its lease over it.
#[tokio::test(flavor = "multi_thread")]
async fn a_huge_line_in_the_log_keeps_the_agent_from_nothing() {
    let (node, _) = alone_by_lease();
    lease(&node, LONG);
    let raise = running(&node, "DO $$ BEGIN RAISE LOG '%', repeat('x', 30000000); END $$").await;
    let mut longest = Duration::ZERO;
    while !raise.is_finished() {
        let asked = now();
        lease(&node, LONG);
        longest = longest.max(now() - asked);
    }
    raise.await.unwrap().expect("the gate stays open");
    eventually("it is in the log", || async { node.log().contains("of 300000") }).await;
    assert!(node.log().lines().all(|line| line.len() < 20_000));
    let memory = std::fs::read_to_string(format!("/proc/{}/status", node.agent_pid())).unwrap();
    let peak = memory.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its greatest size");
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 60_000, "{peak} kB, and an answer took {longest:?}");
}

/// Clients come as superusers, too, whom Postgres lets take what is reserved.
#[tokio::test(flavor = "multi_thread")]
async fn clients_leave_room_for_the_node_itself() {
    let node = Node::started("ord-1");
    let parameters = [("max_connections", "40")];
    node.bootstrap(&parameters);
    let mut clients = Vec::new();
    let refused = loop {
        match node.connect(ports::NODE).await {
            Ok(client) => clients.push(client),
            Err(error) => break error,
        }
    };
    let refused = refused.as_db_error().expect("it is told why");
    assert_eq!((refused.code().code(), refused.message()), ("53300", "sorry, too many clients already"));
    assert!(refused.detail().is_some_and(|detail| detail.contains("max_connections")), "{refused:?}");
    assert_eq!(clients.len(), 32);

    // What there is goes on, and can be cancelled.
    let cancel = clients[0].cancel_token();
    let asleep = clients[0].batch_execute("SELECT pg_sleep(60)");
    let cancelled = async {
        eventually("it sleeps", || async { has_backend(&node, "SELECT") }).await;
        cancel.cancel_query(tokio_postgres::NoTls).await.unwrap();
    };
    let (asleep, ()) = tokio::join!(asleep, cancelled);
    assert_eq!(asleep.unwrap_err().code().map(|code| code.code()), Some("57014"));

    // One who leaves makes room.
    clients.pop();
    eventually("there is room", || async { node.connect(ports::NODE).await.is_ok() }).await;
}
