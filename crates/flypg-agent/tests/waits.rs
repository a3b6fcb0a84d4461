//! A primary that waits for its standbys: nobody is told of a commit whose wait was given up (rule R12).

mod common;

use std::time::Duration;

use common::*;
use flypg_core::failover::Rule;
use flypg_core::protocol::{Gate, PeerRole, Standing, Task, Terms, ports};
use futures::SinkExt;
use nix::sys::signal::Signal;
use tokio_postgres::{Client, Error};

/// A primary and the standby that each of its commits waits for.
fn waiting_pair() -> (Node, Node) {
    let (primary, standby, system_id) = pair_with(&[("max_prepared_transactions", "5")]);
    let peers = [(&primary, PeerRole::Primary), (&standby, PeerRole::Standby)];
    let rule = Rule::any(1, ["ord-2".parse().unwrap()].into()).unwrap();
    let task = Task::Lead { system_id, terms: Terms { rule: rule.clone(), ..alone() } };
    let mut told = primary.assignment(task, &peers, &[("max_prepared_transactions", "5")]);
    told.revision = 2;
    assert_eq!(primary.put(&told).status, 200);
    primary.until("the rule is in effect", |report| match &report.standing {
        Standing::Leading(leading) => leading.rule.as_ref() == Some(&rule) && leading.gate == Gate::Open,
        _ => false,
    });
    (primary, standby)
}

fn was_cut(error: &Error) -> bool {
    error.as_db_error().is_none()
}

/// How many commits wait that are called so.
async fn waiting(primary: &Node, name: &str) -> String {
    let waits = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name LIKE '{name}%'"
    );
    primary.value(ports::NODE, &waits).await
}

/// A session that wants errors only.
async fn deaf(primary: &Node, name: &str) -> Client {
    let client = primary.connect(ports::NODE).await.unwrap();
    client.batch_execute(&format!("SET client_min_messages = error; SET application_name = '{name}'")).await.unwrap();
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_no_standby_has_is_not_reported_whoever_cancels_the_wait() {
    let (primary, standby) = waiting_pair();
    primary.value(ports::NODE, "CREATE TABLE t (n int); SELECT 1").await;
    standby.signal_agent(Signal::SIGSTOP);
    let client = primary.connect(ports::NODE).await.unwrap();
    client.batch_execute("SET application_name = 'warned'").await.unwrap();
    let token = client.cancel_token();
    let insert = tokio::spawn(async move { client.batch_execute("INSERT INTO t VALUES (1)").await });
    eventually("it waits", || async { waiting(&primary, "warned").await == "1" }).await;
    // Its own client may not cancel that: the request goes nowhere.
    token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    eventually("it is held back", || async { primary.log().contains("a cancel request is not passed on") }).await;
    assert_eq!(waiting(&primary, "warned").await, "1");
    assert!(!insert.is_finished());
    // A superuser can; but nobody is told that it is safe.
    let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    assert_eq!(primary.value(ports::NODE, cancel).await, "t");
    let error = insert.await.unwrap().expect_err("no standby has it");
    assert!(was_cut(&error), "{error:?}");
    standby.signal_agent(Signal::SIGCONT);
    standby.until("it streams", streams);
    eventually("it arrives after all", || async { standby.value(ports::NODE, "SELECT count(*) FROM t").await == "1" })
        .await;
}

/// A procedure that commits is not spared by `statement_timeout`, and the warning that its wait was given up goes to the
/// server's log alone where the session wants errors only.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_no_standby_has_is_not_reported_to_who_wants_no_warnings() {
    let (primary, standby) = waiting_pair();
    let setup = "CREATE TABLE t (n int);
        CREATE PROCEDURE p() LANGUAGE plpgsql AS 'BEGIN INSERT INTO t VALUES (1); COMMIT; END'";
    let client = deaf(&primary, "deaf").await;
    client.batch_execute(setup).await.unwrap();
    client.batch_execute("SET statement_timeout = '1s'").await.unwrap();
    standby.signal_agent(Signal::SIGSTOP);
    let called = client.batch_execute("CALL p()").await;
    standby.signal_agent(Signal::SIGCONT);
    let error = called.expect_err("no standby has it");
    assert!(was_cut(&error), "{error:?}");
    // What Postgres logs looks as if nobody had marked it.
    let warns = |log: &str| log.contains("canceling wait for synchronous");
    eventually("it is in the log", || async { warns(&primary.log()) }).await;
    let log = primary.log();
    let line = log.lines().find(|line| warns(line)).unwrap();
    assert!(line.contains("] postgres@postgres WARNING:  canceling wait") && !line.contains('<'), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_way_to_commit_is_reported_to_who_wants_no_warnings() {
    let (primary, standby) = waiting_pair();
    let client = primary.connect(ports::NODE).await.unwrap();
    let setup = "CREATE TABLE t (n int, way text);
        CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t VALUES (1, 'call'); COMMIT; END $$";
    client.batch_execute(setup).await.unwrap();
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1, 'prepared'); PREPARE TRANSACTION 'before'").await.unwrap();
    let ways = [
        "INSERT INTO t VALUES (1, 'alone')",
        "INSERT INTO t VALUES (1, 'first'); INSERT INTO t VALUES (1, 'second')",
        "BEGIN; INSERT INTO t VALUES (1, 'block'); COMMIT; SELECT repeat('x', 100000)",
        "SET log_error_verbosity = verbose; BEGIN; INSERT INTO t VALUES (1, 'verbose'); COMMIT AND CHAIN",
        "CALL p()",
        "DO 'BEGIN INSERT INTO t VALUES (1, ''do''); COMMIT; END'",
        "BEGIN; INSERT INTO t VALUES (1, 'later'); PREPARE TRANSACTION 'after'",
        "COMMIT PREPARED 'before'",
    ];
    let mut running = Vec::new();
    for (n, way) in ways.into_iter().enumerate() {
        let client = deaf(&primary, &format!("cancelled {n}")).await;
        running.push(move || tokio::spawn(async move { client.batch_execute(way).await }));
    }
    let pipelined = deaf(&primary, "cancelled in a pipeline").await;
    let insert = pipelined.prepare("INSERT INTO t VALUES ($1, 'pipelined')").await.unwrap();
    let copying = deaf(&primary, "cancelled copy").await;
    let ended = deaf(&primary, "ended").await;
    let patient = deaf(&primary, "patient").await;
    standby.signal_agent(Signal::SIGSTOP);

    let running: Vec<_> = running.into_iter().map(|begin| begin()).collect();
    let pipelined = tokio::spawn(async move {
        let (first, second) = tokio::join!(pipelined.execute(&insert, &[&1]), pipelined.execute(&insert, &[&2]));
        [first.map(drop), second.map(drop)]
    });
    let copying = tokio::spawn(async move {
        let mut sink = Box::pin(copying.copy_in("COPY t FROM STDIN").await?);
        sink.send(&b"1\tcopied\n"[..]).await?;
        sink.as_mut().finish().await.map(drop)
    });
    let ended = tokio::spawn(async move { ended.batch_execute("INSERT INTO t VALUES (1, 'ended')").await });
    let patient = tokio::spawn(async move { patient.batch_execute("INSERT INTO t VALUES (1, 'patient')").await });
    let all = (ways.len() + 2).to_string();
    eventually("they wait", || async { waiting(&primary, "cancelled").await == all }).await;
    eventually("it waits", || async { waiting(&primary, "ended").await == "1" }).await;
    eventually("it waits", || async { waiting(&primary, "patient").await == "1" }).await;

    let signal = "SELECT count(CASE WHEN application_name = 'ended' THEN pg_terminate_backend(pid)
        ELSE pg_cancel_backend(pid) END) FROM pg_stat_activity WHERE application_name ~ '^(cancelled|ended)'";
    primary.value(ports::NODE, signal).await;
    let limit = Duration::from_secs(30);
    for (running, way) in running.into_iter().zip(ways) {
        let result = tokio::time::timeout(limit, running).await.unwrap_or_else(|_| panic!("it goes on: {way}"));
        let error = result.unwrap().expect_err(way);
        assert!(was_cut(&error), "{way}: {error:?}");
    }
    for result in tokio::time::timeout(limit, pipelined).await.expect("the pipeline goes on").unwrap() {
        assert!(was_cut(&result.expect_err("in a pipeline")));
    }
    for other in [copying, ended] {
        let error = tokio::time::timeout(limit, other).await.expect("it goes on").unwrap().unwrap_err();
        assert!(was_cut(&error), "{error:?}");
    }

    // Whoever was not cancelled goes on, and so does replication.
    assert!(!patient.is_finished());
    client.batch_execute("SELECT 1").await.unwrap();
    standby.signal_agent(Signal::SIGCONT);
    patient.await.unwrap().expect("a standby has it");
    standby.until("it streams", streams);
    let ways = "SELECT string_agg(DISTINCT way, ' ' ORDER BY way) FROM t";
    let arrived = "alone block call copied do ended first patient pipelined prepared second verbose";
    eventually("they arrive after all", || async { standby.value(ports::NODE, ways).await == arrived }).await;
}
