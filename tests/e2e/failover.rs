//! Who leads changes, and no row that was acknowledged is lost.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flypg_core::protocol::ports::{NODE, READ_WRITE};
use flypg_tests::fly::{Running, read, spawn};
use flypg_tests::patience::eventually;
use flypg_tests::sql;
use flypg_tests::writer::Writer;
use futures::channel::mpsc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio_postgres::{AsyncMessage, Client, NoTls};

use crate::cluster::{Cluster, LIMIT, STREAMING, file};

/// Longer than three leases, one after the other.
const LEASES: Duration = Duration::from_secs(20);

/// A controller that keeps the cluster of this file. Dropping it kills it.
fn controller(cluster: &Cluster) -> Running {
    let mut command = cluster.fly.flypg();
    command.args(["controller", "--listen", "127.0.0.1:0", "-f", &cluster.path]);
    spawn(command, &cluster.fly.path().join("controller.log"))
}

/// Another one in each run; `E2E_SEED` brings one back.
#[expect(clippy::print_stderr, reason = "a test that fails says what it drew")]
fn seed() -> u64 {
    let given = std::env::var("E2E_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let drawn = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos().into());
    let seed = given.unwrap_or_else(drawn);
    eprintln!("E2E_SEED={seed}");
    seed
}

/// Waits until rows are acknowledged that were begun from now on.
async fn goes_on(writer: &Writer) {
    let last = writer.last();
    eventually("rows are acknowledged", LIMIT, || async {
        if writer.last() > last + 5 { Ok(()) } else { Err(writer.last().to_string()) }
    })
    .await;
}

/// Waits until somebody else leads.
async fn replaced(cluster: &Cluster, primary: &str) -> String {
    eventually("another node leads", LIMIT, || async {
        let ran = cluster.fly.run(&["status", cluster.name, "-o", "json"]).await;
        let status: Value = serde_json::from_str(&ran.stdout).map_err(|error| format!("{error}: {ran:?}"))?;
        match status["primary"].as_str() {
            Some(now) if now != primary => Ok(now.to_owned()),
            _ => Err(status.to_string()),
        }
    })
    .await
}

async fn postmaster(cluster: &Cluster, node: &str) -> Pid {
    let file = cluster.ask(node, NODE, "SELECT pg_read_file('postmaster.pid', 0, 9)").await.expect("it answers");
    Pid::from_raw(file.lines().next().and_then(|line| line.trim().parse().ok()).expect("a pid"))
}

fn machine(cluster: &Cluster, node: &str) -> String {
    format!("{}/{node}", cluster.name)
}

/// A session whose notifications are kept.
async fn listener(host: &str, password: &str) -> (Client, mpsc::UnboundedReceiver<AsyncMessage>) {
    let mut config = tokio_postgres::Config::new();
    config.host(host).port(READ_WRITE).user("postgres").dbname("postgres").password(password);
    let (client, mut connection) = config.connect(NoTls).await.expect("a session");
    let (sender, receiver) = mpsc::unbounded();
    tokio::spawn(async move {
        let mut messages = futures::stream::poll_fn(move |cx| connection.poll_message(cx));
        while let Some(Ok(message)) = futures::StreamExt::next(&mut messages).await {
            let _ = sender.unbounded_send(message);
        }
    });
    client.batch_execute("LISTEN news").await.expect("it listens");
    (client, receiver)
}

#[tokio::test]
async fn three_nodes_keep_every_row_whoever_leads() {
    let cluster = Cluster::make("three-db", &file("three-db", 3, "")).await;
    let _controller = controller(&cluster);
    let first = cluster.healthy(3).await;
    let writer = cluster.writer().await;

    // The host of the primary is lost, with what ran on it, and comes back later.
    goes_on(&writer).await;
    cluster
        .befalls(json!({ "fault": "host_unreachable", "machine": machine(&cluster, &first), "processes": false }))
        .await;
    replaced(&cluster, &first).await;
    goes_on(&writer).await;
    cluster.befalls(json!({ "fault": "host_back", "machine": machine(&cluster, &first) })).await;
    let second = cluster.healthy(3).await;
    assert_ne!(second, first);

    // Only its Postgres dies: it starts again where it is, or another one leads.
    kill(postmaster(&cluster, &second).await, Signal::SIGKILL).expect("it runs");
    goes_on(&writer).await;
    let third = cluster.healthy(3).await;

    // People ask for another one, while sessions are idle, in a transaction, and listen.
    let (door, password) = (cluster.address(&third).await, cluster.password());
    cluster.ask(&third, READ_WRITE, "CREATE TABLE moved (id int)").await.expect("a table");
    let idle = sql::connect(&door, READ_WRITE, &password).await.expect("a session");
    let busy = sql::connect(&door, READ_WRITE, &password).await.expect("a session");
    busy.batch_execute("BEGIN; INSERT INTO moved VALUES (1)").await.expect("it writes");
    let (listening, mut news) = listener(&door, &password).await;
    cluster.fly.ok(&["switchover", cluster.name]).await;
    let fourth = replaced(&cluster, &third).await;
    goes_on(&writer).await;
    assert_eq!(cluster.healthy(3).await, fourth);

    // Each has ended, or serves where the cluster is led now. What is said to be committed is.
    if let Ok(where_) = sql::one(&idle, "SELECT pg_is_in_recovery()").await {
        assert_eq!(where_, "f", "an idle session is at a node that does not lead");
    }
    let committed = busy.batch_execute("COMMIT").await.is_ok();
    let rows = cluster.ask(&fourth, NODE, "SELECT count(*) FROM moved").await.expect("it answers");
    assert!(!committed || rows == "1", "a commit was acknowledged, and there are {rows} rows");
    cluster.ask(&fourth, READ_WRITE, "NOTIFY news, 'read'").await.expect("it notifies");
    eventually("who listens hears, or knows that nobody speaks", LIMIT, || {
        let heard = match news.try_recv() {
            Ok(AsyncMessage::Notification(told)) => told.payload() == "read",
            Ok(_) => false,
            Err(_) => listening.is_closed(),
        };
        async move { if heard { Ok(()) } else { Err("nothing".to_owned()) } }
    })
    .await;

    let written = writer.stop().await;
    cluster.has_every_row(&written).await;
    cluster.settles().await;
}

#[tokio::test]
async fn of_two_nodes_one_goes_on_alone_and_counts_on_the_other_again() {
    let cluster = Cluster::make("two-db", &file("two-db", 2, "  durability: quorum-available\n")).await;
    let _controller = controller(&cluster);
    let first = cluster.healthy(2).await;
    let writer = cluster.writer().await;
    goes_on(&writer).await;

    cluster
        .befalls(json!({ "fault": "host_unreachable", "machine": machine(&cluster, &first), "processes": false }))
        .await;
    let second = replaced(&cluster, &first).await;
    goes_on(&writer).await;
    cluster.until(&second, NODE, "SHOW synchronous_standby_names", "").await;

    cluster.befalls(json!({ "fault": "host_back", "machine": machine(&cluster, &first) })).await;
    assert_eq!(cluster.healthy(2).await, second);
    let slot = first.replace('-', "_");
    cluster.until(&second, NODE, "SHOW synchronous_standby_names", &format!("ANY 1 (\"flypg_{slot}\")")).await;
    goes_on(&writer).await;
    let written = writer.stop().await;
    cluster.has_every_row(&written).await;
}

#[tokio::test]
async fn whoever_watches_may_die_at_any_time() {
    let cluster = Cluster::make("watch-db", &file("watch-db", 3, "")).await;
    let mut running = controller(&cluster);
    let mut primary = cluster.healthy(3).await;
    let writer = cluster.writer().await;

    // Killed while it makes another node lead, and started again.
    let seed = seed();
    let moments = [seed % 400, 400 + seed / 7 % 1_000, 1_000 + seed / 11 % 3_000];
    for after in moments.map(Duration::from_millis) {
        goes_on(&writer).await;
        cluster.befalls(json!({ "fault": "slow_start", "machine": machine(&cluster, &primary), "ms": 4_000 })).await;
        cluster.befalls(json!({ "fault": "machine_dies", "machine": machine(&cluster, &primary) })).await;
        let begun = Instant::now();
        eventually("the moment has come", LIMIT, || async {
            if begun.elapsed() >= after { Ok(()) } else { Err(String::new()) }
        })
        .await;
        drop(running);
        running = controller(&cluster);
        goes_on(&writer).await;
        cluster.befalls(json!({ "fault": "slow_start", "machine": machine(&cluster, &primary), "ms": 0 })).await;
        primary = cluster.healthy(3).await;
    }

    // Nobody watches, and nobody answers for the platform: its standbys let the primary go on.
    drop(running);
    cluster.fly.signal_emulator(Signal::SIGSTOP);
    let (begun, epoch) = (Instant::now(), "SELECT max(epoch) FROM flypg.epoch");
    while begun.elapsed() < LEASES {
        goes_on(&writer).await;
    }
    cluster.fly.signal_emulator(Signal::SIGCONT);
    let led = cluster.ask(&primary, NODE, epoch).await.expect("it still leads");
    let _controller = controller(&cluster);
    assert_eq!(cluster.healthy(3).await, primary);
    goes_on(&writer).await;
    assert_eq!(
        cluster.ask(&primary, NODE, epoch).await,
        Ok(led),
        "{}",
        read(&cluster.fly.path().join("controller.log"))
    );

    let written = writer.stop().await;
    cluster.has_every_row(&written).await;
}

/// Orders are carried out by whoever gives them, what was done can be read afterwards, and every decision made again.
#[tokio::test]
async fn a_person_moves_the_primary_where_no_controller_watches() {
    let cluster = Cluster::make("moved-db", &file("moved-db", 3, "")).await;
    let made = Instant::now();
    let first = cluster.healthy(3).await;
    let next = if first == "ord-2" { "ord-3" } else { "ord-2" };
    let writer = cluster.writer().await;
    goes_on(&writer).await;
    // The last lease is over: standbys vouch for the primary, and are bound by that for a while.
    eventually("it leads by pledges", LIMIT, || async {
        if made.elapsed() > LEASES / 2 { Ok(()) } else { Err(format!("{:?}", made.elapsed())) }
    })
    .await;
    goes_on(&writer).await;
    let ran = cluster.fly.run(&["switchover", "moved-db", "--to", next]).await;
    assert!(ran.code == 0 && ran.stdout.starts_with(&format!("moved-db is led by {next} (")), "{ran:?}");
    assert!(ran.stderr.contains("no controller watches moved-db now"), "{}", ran.stderr);
    goes_on(&writer).await;
    let written = writer.stop().await;
    cluster.has_every_row(&written).await;

    let told = cluster.fly.ok(&["events", "moved-db"]).await;
    for words in ["switchover-began", "leader-changed"] {
        assert!(told.contains(words), "{words} is not in:\n{told}");
    }
    let lines = cluster.fly.ok(&["events", "moved-db", "-o", "json"]).await;
    let events: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(events.len(), told.lines().count());
    assert!(events.is_sorted_by_key(|event| event["at"].as_str().map(str::to_owned)), "{told}");

    let journal = cluster.fly.path().join("state/journal/moved-db.jsonl");
    let again = cluster.fly.ok(&["replay", &journal.display().to_string()]).await;
    assert!(again.ends_with(" turns, 0 planned otherwise now\n"), "{again}");
}

#[tokio::test]
async fn one_node_needs_nobody_to_come_back() {
    let cluster = Cluster::make("one-db", &file("one-db", 1, "")).await;
    let writer = cluster.writer().await;
    goes_on(&writer).await;
    let started = "SELECT pg_postmaster_start_time()";
    let before = cluster.ask("ord-1", NODE, started).await.expect("it answers");
    cluster.befalls(json!({ "fault": "machine_dies", "machine": machine(&cluster, "ord-1") })).await;
    eventually("it has started again", LIMIT, || async {
        let now = cluster.ask("ord-1", NODE, started).await?;
        if now == before { Err(now) } else { Ok(()) }
    })
    .await;
    goes_on(&writer).await;
    let written = writer.stop().await;
    cluster.has_every_row(&written).await;
}

#[tokio::test]
async fn a_cluster_that_grew_and_changed_its_mind_under_load_loses_nothing() {
    let text = |nodes, more: &str| file("grown-db", nodes, more);
    let cluster = Cluster::make("grown-db", &text(1, "")).await;
    let _controller = controller(&cluster);
    let grown = cluster.healthy(1).await;
    let writer = cluster.writer().await;
    goes_on(&writer).await;

    std::fs::write(&cluster.path, text(3, "")).unwrap();
    assert_eq!(cluster.healthy(3).await, grown);
    let names = "SHOW synchronous_standby_names";
    let quorum = "ANY 1 (\"flypg_ord_2\", \"flypg_ord_3\")";
    cluster.until(&grown, NODE, names, quorum).await;

    // Nobody is waited for, and then somebody again.
    std::fs::write(&cluster.path, text(3, "  durability: async\n")).unwrap();
    cluster.until(&grown, NODE, names, "").await;
    goes_on(&writer).await;
    std::fs::write(&cluster.path, text(3, "  durability: quorum\n")).unwrap();
    cluster.until(&grown, NODE, names, quorum).await;
    assert_eq!(cluster.healthy(3).await, grown);
    let written = writer.stop().await;
    cluster.has_every_row(&written).await;

    // From now on no row may be lost by the loss of a node, through the doors of the new nodes as well.
    cluster.ask(&grown, READ_WRITE, "DROP TABLE written").await.expect("it is dropped");
    let writer = cluster.writer().await;
    goes_on(&writer).await;
    cluster
        .befalls(json!({ "fault": "host_unreachable", "machine": machine(&cluster, &grown), "processes": false }))
        .await;
    replaced(&cluster, &grown).await;
    goes_on(&writer).await;
    cluster.befalls(json!({ "fault": "host_back", "machine": machine(&cluster, &grown) })).await;
    cluster.healthy(3).await;
    cluster.until_primary(STREAMING, "2").await;
    let written = writer.stop().await;
    cluster.has_every_row(&written).await;
}
