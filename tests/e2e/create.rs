//! From nothing, growth and shrinking, regions.

use flypg_core::protocol::ports::{NODE, READ_ONLY, READ_WRITE};

use crate::cluster::{Cluster, STREAMING, file};
use flypg_tests::fly::{Fly, Ran};

const AMS: &str = "    replicas:\n      - { code: ams, nodes: 1 }\n";

#[tokio::test]
async fn an_example_becomes_a_streaming_cluster() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/ha.yaml");
    let text = std::fs::read_to_string(example).unwrap();
    let cluster = Cluster::make("orders-db", &text).await;
    assert_eq!(cluster.nodes().await, ["ams-1", "ord-1", "ord-2", "ord-3"]);
    cluster.until("ord-1", NODE, "SELECT count(*) FROM pg_stat_replication", "3").await;

    // Written through the read-write door of any node, read on the other side of the ocean.
    for (index, node) in ["ord-2", "ams-1", "ord-1", "ord-3"].into_iter().enumerate() {
        let create = format!("CREATE TABLE from_{index} AS SELECT {index} AS id");
        cluster.ask(node, READ_WRITE, &create).await.expect("a write");
        cluster.until("ams-1", NODE, &format!("SELECT id FROM from_{index}"), &index.to_string()).await;
    }
    let read_only = cluster.ask("ams-1", READ_ONLY, "SELECT pg_is_in_recovery()").await;
    assert_eq!(read_only.as_deref(), Ok("t"));
    let refused = cluster.ask("ams-1", NODE, "CREATE TABLE not_here (id int)").await;
    assert!(refused.as_ref().is_err_and(|e| e.starts_with("25006")), "{refused:?}");

    // The URL that programs are given is one that psql takes.
    let url = cluster.fly.ok(&["connect", "orders-db", "--url"]).await;
    let mut psql = std::process::Command::new("psql");
    psql.args([url.trim(), "-Atc", "SELECT 40 + 2"]).stdin(std::process::Stdio::null());
    let ran = flypg_tests::fly::run(psql).await;
    assert_eq!((ran.code, ran.stdout.trim()), (0, "42"), "{}", ran.stderr);

    // What the file says is what is there.
    assert_eq!(cluster.pending().await, 0);
    let status = cluster.status().await;
    assert_eq!(status["ready"], true, "{status:#}");
    assert_eq!(status["primary"], "ord-1");
    assert_eq!(status["generation"], status["observed_generation"]);
    for volume in cluster.fly.volumes("orders-db").await {
        assert_eq!(
            (volume["snapshot_retention"].as_u64(), volume["auto_backup_enabled"].as_bool()),
            (Some(7), Some(true))
        );
    }
    let machines = cluster.fly.machines("orders-db").await;
    let roles: Vec<_> =
        machines.iter().map(|m| (m["name"].as_str(), m["config"]["metadata"]["flypg_role"].as_str())).collect();
    assert!(roles.contains(&(Some("ord-1"), Some("primary"))), "{roles:?}");
    assert_eq!(roles.iter().filter(|(_, role)| *role == Some("replica")).count(), 3, "{roles:?}");

    // An edit is seen, and only that.
    std::fs::write(&cluster.path, text.replace("nodes: 3", "nodes: 2")).unwrap();
    assert_eq!(cluster.pending().await, 2);
}

#[tokio::test]
async fn from_one_to_three_and_back_keeps_every_row() {
    let cluster = Cluster::make("grow-db", &file("grow-db", 1, "")).await;
    cluster.ask("ord-1", READ_WRITE, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS id").await.unwrap();

    cluster.change(&file("grow-db", 3, "")).await;
    assert_eq!(cluster.nodes().await, ["ord-1", "ord-2", "ord-3"]);
    cluster.until("ord-1", NODE, STREAMING, "2").await;
    cluster.until("ord-3", NODE, "SELECT count(*) FROM kept", "1000").await;
    assert_eq!(cluster.pending().await, 0);

    cluster.change(&file("grow-db", 1, "")).await;
    assert_eq!(cluster.nodes().await, ["ord-1"]);
    assert_eq!(cluster.ask("ord-1", READ_WRITE, "SELECT count(*) FROM kept").await.as_deref(), Ok("1000"));
    // Slots of nodes that left keep no WAL.
    cluster.until("ord-1", NODE, "SELECT count(*) FROM pg_replication_slots", "0").await;
    assert_eq!(cluster.pending().await, 0);
    // `development` does not say what becomes of data, and the default keeps it.
    assert_eq!(cluster.fly.volumes("grow-db").await.len(), 3);

    // The nodes come back on the volumes they left, and catch up with what they missed.
    cluster.ask("ord-1", READ_WRITE, "INSERT INTO kept SELECT generate_series(1001, 2000)").await.unwrap();
    cluster.change(&file("grow-db", 2, "")).await;
    cluster.until("ord-2", NODE, "SELECT count(*) FROM kept", "2000").await;
    assert_eq!(cluster.fly.volumes("grow-db").await.len(), 3);
}

#[tokio::test]
async fn a_region_comes_and_goes_with_its_data() {
    let with = |regions: &str| file("region-db", 1, &format!("{regions}  deletion: delete\n"));
    let cluster = Cluster::make("region-db", &with("")).await;
    cluster.change(&with(AMS)).await;
    assert_eq!(cluster.nodes().await, ["ams-1", "ord-1"]);
    cluster.until("ord-1", NODE, STREAMING, "1").await;

    cluster.change(&with("")).await;
    assert_eq!(cluster.nodes().await, ["ord-1"]);
    let names: Vec<_> = cluster.fly.volumes("region-db").await.iter().map(|v| v["name"].clone()).collect();
    assert_eq!(names, ["pg_ord_1"]);
    assert_eq!(cluster.pending().await, 0);
}

#[tokio::test]
async fn other_peoples_machines_and_volumes_are_left_alone() {
    let cluster = Cluster::begin("shared-db", &file("shared-db", 1, "  deletion: delete\n"));
    let fly = &cluster.fly;
    let app = serde_json::json!({ "name": "shared-db", "org_slug": "personal" });
    assert_eq!(fly.api("POST", "/v1/apps", Some(app)).await.0, 201);
    let volume = serde_json::json!({ "name": "data", "region": "ord", "size_gb": 1 });
    assert_eq!(fly.api("POST", "/v1/apps/shared-db/volumes", Some(volume)).await.0, 200);
    cluster.reconcile().await;
    cluster.change(&file("shared-db", 2, "  deletion: delete\n")).await;
    cluster.change(&file("shared-db", 1, "  deletion: delete\n")).await;
    let mut names: Vec<_> = fly.volumes("shared-db").await.iter().map(|v| v["name"].to_string()).collect();
    names.sort();
    assert_eq!(names, ["\"data\"", "\"pg_ord_1\""]);
}

#[tokio::test]
async fn a_mistake_in_the_file_changes_nothing() {
    let cluster = Cluster::begin("wrong-db", &file("wrong-db", 1, "  storrage: { size: 1GB }\n"));
    let Ran { code, stdout, stderr } = cluster.fly.run(&["reconcile", "-f", &cluster.path]).await;
    assert_eq!(code, 1, "{stdout}{stderr}");
    for words in ["storrage", "cluster.yaml:12:3", "did you mean `storage`?", "^^^^^^^^"] {
        assert!(stderr.contains(words), "{words} is not in:\n{stderr}");
    }
    assert_eq!(cluster.fly.api("GET", "/v1/apps/wrong-db", None).await.0, 404);
}

#[tokio::test]
async fn an_absent_machines_api_is_said_plainly() {
    let mut fly = Fly::model();
    let path = fly.write("cluster.yaml", &file("any-db", 1, ""));
    fly.stop_emulator();
    let ran = fly.run(&["reconcile", "-f", &path, "--dry-run"]).await;
    assert_ne!(ran.code, 0, "{ran:?}");
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(said.contains("127.0.0.1"), "it does not name the address it tried: {said}");
}
