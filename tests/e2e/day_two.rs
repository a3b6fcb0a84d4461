//! Parameters, under a writer.

use flypg_core::protocol::ports::{NODE, READ_WRITE};
use flypg_tests::writer::Writer;

use crate::cluster::{Cluster, STREAMING, file};

fn with(name: &str, parameters: &str) -> String {
    file(name, 2, "").replace("    version: 15\n", &format!("    version: 15\n    parameters: {parameters}\n"))
}

#[tokio::test]
async fn parameters_follow_the_file_and_no_row_is_lost() {
    let cluster = Cluster::make("param-db", &file("param-db", 2, "")).await;
    let primary = cluster.address("ord-1").await;
    let writer = Writer::start(std::slice::from_ref(&primary), READ_WRITE, &cluster.password()).await;
    let started = "SELECT pg_postmaster_start_time()";
    let before = cluster.ask("ord-1", NODE, started).await.unwrap();

    // Taken up at once, on every node, without a restart.
    cluster.change(&with("param-db", "{ work_mem: 33MB }")).await;
    for node in ["ord-1", "ord-2"] {
        cluster.until(node, NODE, "SHOW work_mem", "33MB").await;
    }
    assert_eq!(cluster.ask("ord-1", NODE, started).await.unwrap(), before);

    // Raised beyond what the standby had: the standby goes first.
    cluster.change(&with("param-db", "{ work_mem: 33MB, max_connections: 412 }")).await;
    for node in ["ord-1", "ord-2"] {
        cluster.until(node, NODE, "SHOW max_connections", "412").await;
    }
    assert_ne!(cluster.ask("ord-1", NODE, started).await.unwrap(), before);
    cluster.until("ord-1", NODE, STREAMING, "1").await;

    // Lowered below what the standby's WAL was written with, and one removed.
    cluster.change(&with("param-db", "{ max_connections: 57 }")).await;
    for node in ["ord-1", "ord-2"] {
        cluster.until(node, NODE, "SHOW max_connections", "57").await;
    }
    assert_ne!(cluster.ask("ord-1", NODE, "SHOW work_mem").await.as_deref(), Ok("33MB"));
    cluster.until("ord-1", NODE, STREAMING, "1").await;
    assert_eq!(cluster.pending().await, 0);

    let written = writer.stop().await;
    written.check(&primary, READ_WRITE, &cluster.password()).await;
}

#[tokio::test]
async fn a_parameter_that_postgres_refuses_stops_nothing() {
    let cluster = Cluster::make("refuse-db", &file("refuse-db", 2, "")).await;
    std::fs::write(&cluster.path, with("refuse-db", "{ work_mem: 33MB, DateStyle: nonsense }")).unwrap();
    let ran = cluster.fly.run(&["reconcile", "-f", &cluster.path]).await;
    assert_eq!(ran.code, 3, "{}{}", ran.stdout, ran.stderr);
    assert!(format!("{}{}", ran.stdout, ran.stderr).to_lowercase().contains("datestyle"), "{ran:?}");
    for node in ["ord-1", "ord-2"] {
        cluster.until(node, NODE, "SELECT 1", "1").await;
    }
    cluster.until("ord-1", NODE, STREAMING, "1").await;
}
