//! What the gate and the router cost: pgbench through each of the ways to a Postgres, in turn.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use flypg_core::protocol::ports::{NODE, READ_WRITE};
use flypg_tests::fly::{Fly, cluster_file, spawn, tree};
use flypg_tests::patience::eventually;
use flypg_tests::programs::Room;
use flypg_tests::sql;

use crate::pgbench::{self, Door, Measured, Protocol, Script};
use crate::proc::cpu_seconds;
use crate::reference::Reference;
use crate::{median, number};

const NAME: &str = "bench-gate";
const CLIENTS: [u32; 3] = [1, 16, 64];
const SCALE: u32 = 20;
const GATE: &str = "gate";
/// Of the throughput of the direct way, with many clients.
const GOAL: f64 = 0.95;
const LIMIT: Duration = Duration::from_secs(120);

/// A way to a Postgres.
struct Way {
    name: &'static str,
    door: Option<Door>,
    /// What its bytes pass.
    between: Vec<i32>,
    /// PgBouncer 1.18 forgets prepared statements between transactions.
    prepares: bool,
}

impl Way {
    fn of(name: &'static str, found: Option<(Door, Vec<i32>)>) -> Self {
        let (door, between) = found.unzip();
        Self { name, door, between: between.unwrap_or_default(), prepares: true }
    }
}

/// `ROUNDS` (2) times each way for `SECONDS` (3), in turn; each figure is the median of its ratios to the direct way in
/// the same round. `ONLY`: words of a title, such as `select-only, simple protocol, 16`.
#[expect(clippy::print_stdout, reason = "a bench is there to print")]
pub(crate) async fn gate(tools: &Path) {
    let (rounds, seconds) = (number("ROUNDS", 2), number("SECONDS", 3));
    let only = std::env::var("ONLY").unwrap_or_default();
    // Two nodes and a controller, so that leases run; no commit waits for a standby, so that only the way is measured.
    let fly = Fly::apart(false);
    let file = cluster_file(NAME, 2, "  durability: async\n  deletion: delete\n");
    let file = fly.write("clusters/cluster.yaml", &file);
    fly.ok(&["reconcile", "-f", &file]).await;
    let mut command = fly.flypg();
    command.args(["controller", "--listen", "127.0.0.1:0", "-f", &file]);
    let _controller = spawn(command, &fly.path().join("controller.log"));
    let password = fly.password(NAME);
    let (one, two) = (fly.address(NAME, "ord-1").await, fly.address(NAME, "ord-2").await);
    eventually("the standby streams", LIMIT, || async {
        let query = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
        let n = sql::ask(&one, NODE, &password, query).await?;
        if n == "1" { Ok(()) } else { Err(n) }
    })
    .await;

    let reference = Reference::start(&settings(&one, &password).await, tools).await;
    let ours = |host: &str, port| Door { host: host.to_owned(), port, password: password.clone() };
    let mut agents = Vec::new();
    for machine in fly.machines(NAME).await {
        let (agent, _) =
            tree(machine["id"].as_str().expect("it has an id")).into_iter().next().expect("its agent runs");
        agents.push((machine["private_ip"].as_str() == Some(&one), agent));
    }
    let primary = agents.iter().filter(|(primary, _)| *primary).map(|(_, pid)| *pid).collect();
    let both = agents.iter().map(|(_, pid)| *pid).collect();
    let ways = [
        Way::of("direct TCP", Some((reference.direct.clone(), Vec::new()))),
        Way::of(GATE, Some((ours(&one, READ_WRITE), primary))),
        Way::of("router, gate", Some((ours(&two, READ_WRITE), both))),
        Way::of("HAProxy", reference.haproxy.clone()),
        Way::of("PgBouncer session", reference.sessions.clone()),
        Way { prepares: false, ..Way::of("… transaction", reference.transactions.clone()) },
    ];
    reference.direct.fill(SCALE).await;
    ways[1].door.as_ref().expect("it is ours").fill(SCALE).await;

    let logs = Room::make("flypg-bench-log-");
    for script in [Script::SelectOnly, Script::TpcB] {
        for protocol in [Protocol::Simple, Protocol::Prepared] {
            for clients in CLIENTS {
                let title = format!("{}, {} protocol, {clients} clients", script.words(), protocol.words());
                if !title.contains(&only) {
                    continue;
                }
                println!("\n{title}");
                println!(
                    "  {:<20} {:>9} {:>9} {:>9} {:>9} {:>14}",
                    "", "tps", "to direct", "p50, ms", "p99, ms", "CPU, µs/tx"
                );
                let mut all: Vec<Vec<(Measured, f64)>> = ways.iter().map(|_| Vec::new()).collect();
                for _ in 0..rounds {
                    for (way, measured) in ways.iter().zip(&mut all) {
                        let Some(door) = way.door.as_ref().filter(|_| way.prepares || protocol == Protocol::Simple)
                        else {
                            continue;
                        };
                        let before = cpu(&way.between);
                        match pgbench::run(door, logs.path(), (script, protocol, clients), seconds).await {
                            Ok(run) => measured.push((run, (cpu(&way.between) - before) / run.transactions * 1e6)),
                            Err(why) => println!("  {:<20} {why}", way.name),
                        }
                    }
                }
                let direct: Vec<f64> = all[0].iter().map(|(run, _)| run.tps).collect();
                for (way, measured) in ways.iter().zip(&all) {
                    print_way(way, measured, &direct, (way.name == GATE && clients > 1).then_some(GOAL));
                }
            }
        }
    }
    println!(
        "\ngoal: gate to direct ≥ 0.95 at 16 and 64 clients; CPU: of what stands between client and Postgres, ours with \
         the WAL that the standby gets through it"
    );
}

#[expect(clippy::print_stdout, reason = "a bench is there to print")]
fn print_way(way: &Way, measured: &[(Measured, f64)], direct: &[f64], goal: Option<f64>) {
    if measured.is_empty() {
        println!("  {:<20} {:>9}", way.name, "–");
        return;
    }
    let of = |value: fn(&Measured) -> f64| median(measured.iter().map(|(run, _)| value(run)).collect());
    let ratio = median(measured.iter().zip(direct).map(|((run, _), direct)| run.tps / direct).collect());
    let missed = if goal.is_some_and(|goal| ratio < goal) { "   missed" } else { "" };
    let cost = match way.between.is_empty() {
        true => String::new(),
        false => format!("{:.1}", median(measured.iter().map(|(_, cost)| *cost).collect())),
    };
    println!(
        "  {:<20} {:>9.0} {:>9.2} {:>9.2} {:>9.2} {cost:>14}{missed}",
        way.name,
        of(|run| run.tps),
        ratio,
        of(|run| run.p50),
        of(|run| run.p99),
    );
}

fn cpu(pids: &[i32]) -> f64 {
    pids.iter().map(|pid| cpu_seconds(*pid)).sum()
}

/// What the Postgres behind the gate was told.
async fn settings(host: &str, password: &str) -> BTreeMap<String, String> {
    let client = sql::connect(host, NODE, password).await.expect("a session");
    let query =
        "SELECT name, current_setting(name) FROM pg_settings WHERE source IN ('configuration file', 'command line')";
    let rows = client.query(query, &[]).await.expect("settings");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}
