//! Figures, each beside its peer or its limit, from one run. Nothing here is asserted: `make bench` prints.

#![expect(clippy::print_stdout, reason = "a bench is there to print")]

mod by_hand;

use std::time::{Duration, Instant};

use flypg_core::protocol::ports::NODE;
use flypg_tests::fly::{Fly, cluster_file, spawn};
use flypg_tests::patience::eventually;
use flypg_tests::proxy::Proxy;
use flypg_tests::sql;

const RUNS: usize = 7;
const AT_REST: Duration = Duration::from_secs(30);

fn file(name: &str, nodes: u32) -> String {
    cluster_file(name, nodes, "  deletion: delete\n")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn row(figure: &str, value: String, beside: String) {
    println!("{figure:<44} {value:>14}   {beside}");
}

#[tokio::main]
async fn main() {
    println!("{:<44} {:>14}   beside", "figure", "measured");
    creation().await;
    dry_run_and_rest().await;
}

/// An empty machine to three ready nodes, beside the same by hand, in turn.
async fn creation() {
    let (mut ours, mut hand) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        let fly = Fly::start();
        let name = format!("bench-{run}");
        let path = fly.write("cluster.yaml", &file(&name, 3));
        let begun = Instant::now();
        fly.ok(&["reconcile", "-f", &path]).await;
        ours.push(begun.elapsed().as_secs_f64());
        drop(fly);
        hand.push(by_hand::three_nodes().await.as_secs_f64());
    }
    let ratios: Vec<f64> = ours.iter().zip(&hand).map(|(a, b)| a / b).collect();
    row("empty to 3 ready nodes, s", format!("{:.2}", median(ours)), format!("by hand {:.2}", median(hand)));
    row("  ratio", format!("{:.2}", median(ratios)), "goal ≤ 1.3".to_owned());
}

async fn dry_run_and_rest() {
    let fly = Fly::start();
    let path = fly.write("clusters/cluster.yaml", &file("bench-rest", 5));
    fly.ok(&["reconcile", "-f", &path]).await;

    let proxy = Proxy::start(fly.url()).await;
    let before = proxy.requests();
    let mut command = fly.flypg_at(&proxy.url);
    command.args(["reconcile", "-f", &path, "--dry-run", "--exit-code"]);
    assert_eq!(flypg_tests::fly::run(command).await.code, 0, "the cluster is as the file says");
    let calls = proxy.requests() - before;

    let mut times = Vec::new();
    for _ in 0..RUNS * 3 {
        let begun = Instant::now();
        fly.ok(&["reconcile", "-f", &path, "--dry-run"]).await;
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    row("dry run of a 5-node cluster, ms", format!("{:.1}", median(times)), "limit 50".to_owned());
    row("  Machines API calls", calls.to_string(), "limit 4".to_owned());

    let mut command = fly.flypg();
    command.args(["controller", "--listen", "127.0.0.1:0", "-f"]).arg(fly.path().join("clusters"));
    let controller = spawn(command, &fly.path().join("controller.log"));
    let (address, password) = (fly.address("bench-rest", "ord-1").await, fly.password("bench-rest"));
    eventually("all stream", Duration::from_secs(60), || async {
        let n = sql::ask(&address, NODE, &password, "SELECT count(*) FROM pg_stat_replication").await?;
        if n == "4" { Ok(()) } else { Err(n) }
    })
    .await;

    let agents = fly.pids("flypg-agent run");
    let cpu = |pids: &[i32]| -> f64 { pids.iter().map(|pid| cpu_seconds(*pid)).sum() };
    let (agents_before, controller_before, calls_before) = (cpu(&agents), cpu(&[controller.pid()]), Instant::now());
    tokio::time::sleep(AT_REST).await; // the figure is what happens in this time
    let seconds = calls_before.elapsed().as_secs_f64();
    let share = |before: f64, after: f64, n: usize| format!("{:.2}", (after - before) / seconds / n as f64 * 100.0);
    let rss = |pid: &i32| rss_mib(*pid);
    let worst = agents.iter().map(rss).fold(0.0, f64::max);
    row("agent at rest, RSS MiB (largest of 5)", format!("{worst:.1}"), "goal ≤ 12".to_owned());
    row("agent at rest, CPU %", share(agents_before, cpu(&agents), agents.len()), "goal ≤ 0.5".to_owned());
    row("controller at rest, RSS MiB", format!("{:.1}", rss_mib(controller.pid())), "1 cluster, 5 nodes".to_owned());
    let pid = [controller.pid()];
    row("controller at rest, CPU %", share(controller_before, cpu(&pid), 1), "1 cluster, 5 nodes".to_owned());
}

/// User and system time of a process so far.
fn cpu_seconds(pid: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // After the command's name, which may hold anything, in brackets: fields 14 and 15 of proc(5) are 11 and 12 here.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0 // USER_HZ is 100 on Linux
}

fn rss_mib(pid: i32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}
