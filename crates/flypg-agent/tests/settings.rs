//! Parameters: what reloads, what restarts, what is refused, and that none of them keeps Postgres down.

mod common;

use common::*;
use flypg_core::protocol::{NodeReport, PeerRole, PgReport, ports};
use flypg_core::settings;

fn postgres(report: &NodeReport) -> &PgReport {
    report.postgres.as_ref().unwrap()
}

fn obeys(report: &NodeReport, wanted: &[(&str, &str)]) -> bool {
    is_primary(report) && postgres(report).settings == settings::digest(&parameters(wanted))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_applies_at_once_and_a_restart_when_ordered() {
    let node = Node::started("ord-1");
    let system_id = node.bootstrap(&[]);
    let me = [(&node, PeerRole::Primary)];
    let started = postgres(&node.report()).started_at;

    let wanted = [("work_mem", "17MB"), ("search_path", "it's, \"$user\", public")];
    assert_eq!(node.assign_with(lead(&system_id), &me, &wanted).status, 200);
    let report = node.until("it reloads", |report| obeys(report, &wanted));
    assert_eq!(postgres(&report).parameters, parameters(&wanted));
    assert_eq!(postgres(&report).pending_restart, Vec::<String>::new());
    assert_eq!(node.value(ports::NODE, "SHOW work_mem").await, "17MB");
    assert_eq!(node.value(ports::NODE, "SHOW search_path").await, wanted[1].1);

    let wanted = [("max_connections", "150")];
    assert_eq!(node.assign_with(lead(&system_id), &me, &wanted).status, 200);
    let report = node.until("it waits for a restart", |report| obeys(report, &wanted));
    assert_eq!(postgres(&report).pending_restart, ["max_connections"]);
    assert_eq!(node.value(ports::NODE, "SHOW max_connections").await, "300");
    assert_ne!(node.value(ports::NODE, "SHOW work_mem").await, "17MB");
    assert_eq!(postgres(&report).started_at, started);

    assert_eq!(node.call("POST", "/v1/restart", "").body, r#"{"restarted":true}"#);
    let report = node.report();
    assert!(obeys(&report, &wanted) && postgres(&report).pending_restart.is_empty(), "{report:?}");
    assert_eq!(report.crashes, 0);
    assert_eq!(node.value(ports::NODE, "SHOW max_connections").await, "150");
    // Nothing waits, so nothing is restarted, unless it is forced.
    let pid = node.postmaster_pid();
    assert_eq!(node.call("POST", "/v1/restart", "{}").body, r#"{"restarted":false}"#);
    assert_eq!(node.postmaster_pid(), pid);
    assert_eq!(node.call("POST", "/v1/restart", r#"{"force":true}"#).body, r#"{"restarted":true}"#);
    assert_ne!(node.postmaster_pid(), pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_parameters_are_reported_and_never_keep_postgres_down() {
    let mut node = Node::new("ord-1");
    node.start();
    // From the very first start: a value, a name, one of ours, and a good one among them.
    let bad = [("work_mem", "lots"), ("nonsense", "1"), ("fsync", "off"), ("statement_timeout", "17s")];
    let system_id = node.bootstrap(&bad);
    let report = node.report();
    let rejected = &postgres(&report).rejected;
    assert_eq!(rejected.keys().map(String::as_str).collect::<Vec<_>>(), ["fsync", "nonsense", "work_mem"]);
    assert!(rejected["work_mem"].contains("invalid value"), "{rejected:?}");
    assert!(rejected["nonsense"].contains("unrecognized"), "{rejected:?}");
    assert_eq!(node.value(ports::NODE, "SHOW statement_timeout").await, "17s");
    assert_eq!(node.value(ports::NODE, "SHOW fsync").await, "on");

    // One that only the start can find out: Postgres falls back to what it last came up with.
    let me = [(&node, PeerRole::Primary)];
    let good = [("max_connections", "140")];
    assert_eq!(node.assign_with(lead(&system_id), &me, &good).status, 200);
    node.until("it waits", |r| obeys(r, &good) && !postgres(r).pending_restart.is_empty());
    node.call("POST", "/v1/restart", "");
    node.until("it runs with it", |r| obeys(r, &good) && postgres(r).pending_restart.is_empty());
    let fatal = [("max_connections", "140"), ("shared_preload_libraries", "/etc/passwd")];
    assert_eq!(node.assign_with(lead(&system_id), &me, &fatal).status, 200);
    node.until("it waits", |r| obeys(r, &fatal) && !postgres(r).pending_restart.is_empty());
    node.call("POST", "/v1/restart", "");
    let report = node.until("it runs without it", |r| is_primary(r) && !postgres(r).rejected.is_empty());
    assert!(postgres(&report).rejected["shared_preload_libraries"].contains("/etc/passwd"));
    assert_eq!(report.crashes, 0, "a refused parameter is no crash");
    assert_eq!(node.value(ports::NODE, "SHOW max_connections").await, "140");

    // And after a restart of the agent, which remembers nothing but its ledger.
    node.stop();
    node.start();
    node.until("it runs without it again", |r| is_primary(r) && !postgres(r).rejected.is_empty());
    assert_eq!(node.value(ports::NODE, "SHOW max_connections").await, "140");
}

#[tokio::test(flavor = "multi_thread")]
async fn alter_system_is_undone() {
    let node = Node::started("ord-1");
    node.bootstrap(&[]);
    let client = node.connect(ports::NODE).await.unwrap();
    client.batch_execute("ALTER SYSTEM SET work_mem = '99MB'").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    eventually("it is undone", || async { node.value(ports::NODE, "SHOW work_mem").await != "99MB" }).await;
    assert!(node.log().contains("undoing ALTER SYSTEM"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_starts_with_less_than_its_primary_had() {
    let (primary, standby, system_id) = pair();
    let peers = [(&primary, PeerRole::Primary), (&standby, PeerRole::Standby)];
    assert_eq!(primary.value(ports::NODE, "SHOW max_connections").await, "300");
    let less = [("max_connections", "50"), ("max_locks_per_transaction", "32")];
    assert_eq!(standby.assign_with(follow(&primary, &system_id), &peers, &less).status, 200);
    standby.until("it has read them", |r| streams(r) && postgres(r).settings == settings::digest(&parameters(&less)));
    let before = standby.postmaster_pid();
    standby.call("POST", "/v1/restart", r#"{"force":true}"#);
    standby.until("it streams after the restart", |report| streams(report) && report.crashes == 0);
    assert_ne!(standby.postmaster_pid(), before);
    assert_eq!(standby.value(ports::NODE, "SHOW max_connections").await, "300");
    assert_eq!(standby.value(ports::NODE, "SHOW max_locks_per_transaction").await, "64");
    let withheld = standby.until("it says so", |r| streams(r) && !postgres(r).withheld.is_empty());
    assert_eq!(postgres(&withheld).withheld, ["max_connections", "max_locks_per_transaction"]);

    // Once the primary has less, so may the standby.
    assert_eq!(primary.assign_with(lead(&system_id), &peers, &less).status, 200);
    primary.until("it waits", |r| obeys(r, &less) && !postgres(r).pending_restart.is_empty());
    assert_eq!(primary.call("POST", "/v1/restart", "").body, r#"{"restarted":true}"#);
    standby.until("it may have less", |r| {
        streams(r) && postgres(r).withheld.is_empty() && !postgres(r).pending_restart.is_empty()
    });
    assert_eq!(standby.call("POST", "/v1/restart", "").body, r#"{"restarted":true}"#);
    assert_eq!(standby.value(ports::NODE, "SHOW max_connections").await, "50");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_roles_passwords_are_those_of_the_key() {
    let mut node = Node::started("ord-1");
    node.bootstrap(&[]);
    node.value(ports::NODE, "ALTER ROLE postgres PASSWORD 'mine'").await;
    node.value_as(ports::NODE, "mine", "DROP OWNED BY flypg_replication; DROP ROLE flypg_replication").await;
    node.stop();
    node.start();
    node.until("it runs", is_primary);
    assert_eq!(
        node.value(ports::NODE, "SELECT rolreplication FROM pg_roles WHERE rolname = 'flypg_replication'").await,
        "t"
    );
    assert!(!node.log().contains(&key().password(flypg_core::keys::Role::Postgres)));
    // No secret in what the processes are started with.
    for pid in [node.agent_pid(), node.postmaster_pid()] {
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        assert!(!command.contains(&key().expose()));
    }
    let environment = std::fs::read_to_string(format!("/proc/{}/environ", node.postmaster_pid())).unwrap();
    assert!(!environment.contains("FLYPG"), "{environment}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_falls_back_too() {
    let (primary, standby, system_id) = pair();
    let peers = [(&primary, PeerRole::Primary), (&standby, PeerRole::Standby)];
    let fatal = [("shared_preload_libraries", "/etc/passwd")];
    assert_eq!(standby.assign_with(follow(&primary, &system_id), &peers, &fatal).status, 200);
    standby.until("it waits", |r| streams(r) && !postgres(r).pending_restart.is_empty());
    standby.call("POST", "/v1/restart", "");
    let report = standby.until("it runs without it", |r| streams(r) && !postgres(r).rejected.is_empty());
    assert!(postgres(&report).rejected["shared_preload_libraries"].contains("/etc/passwd"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_that_is_not_here_locks_nobody_out_and_heals() {
    let node = Node::started("ord-1");
    let system_id = node.bootstrap(&[]);
    let me = [(&node, PeerRole::Primary)];
    // Taken up by the next session; every session would end with it.
    let missing = [("session_preload_libraries", "auto_explain, nonsense"), ("work_mem", "19MB")];
    assert_eq!(node.assign_with(lead(&system_id), &me, &missing).status, 200);
    let report = node.until("it has read them", |report| obeys(report, &missing));
    assert!(postgres(&report).rejected["session_preload_libraries"].contains("\"nonsense\""), "{report:?}");
    assert_eq!(node.value(ports::NODE, "SHOW work_mem").await, "19MB");
    let good = [("session_preload_libraries", "auto_explain"), ("work_mem", "19MB")];
    assert_eq!(node.assign_with(lead(&system_id), &me, &good).status, 200);
    node.until("it has healed", |report| obeys(report, &good) && postgres(report).rejected.is_empty());
    assert_eq!(node.value(ports::NODE, "SHOW session_preload_libraries").await, "auto_explain");

    // Not tried at the cost of a restart.
    let shared = [("shared_preload_libraries", "no_such_library")];
    assert_eq!(node.assign_with(lead(&system_id), &me, &shared).status, 200);
    let report = node.until("it has read them", |report| obeys(report, &shared));
    assert!(postgres(&report).rejected["shared_preload_libraries"].contains("no_such_library"));
    assert_eq!(postgres(&report).pending_restart, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn more_memory_than_there_is_keeps_nothing_down() {
    let node = Node::started("ord-1");
    let system_id = node.bootstrap(&[]);
    let too_much = [("shared_buffers", "7000GB")];
    assert_eq!(node.assign_with(lead(&system_id), &[(&node, PeerRole::Primary)], &too_much).status, 200);
    node.until("it waits", |r| obeys(r, &too_much) && !postgres(r).pending_restart.is_empty());
    node.call("POST", "/v1/restart", "");
    let report = node.until("it runs without it", |r| is_primary(r) && !postgres(r).rejected.is_empty());
    assert!(postgres(&report).rejected["shared_buffers"].contains("shared memory"), "{report:?}");
}
