//! Figures, each beside its peer or its limit, from one run. Nothing here is asserted: `make bench` prints.
//!
//! Without an argument: all of them. `creation`, `rest`, `gate`: only these.

#![expect(clippy::print_stdout, reason = "a bench is there to print")]

mod by_hand;
mod gate;
mod pgbench;
mod proc;
mod reference;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use flypg_tests::fly::{Fly, cluster_file, spawn, tree};
use flypg_tests::patience::eventually;
use flypg_tests::programs::told_to_end;
use flypg_tests::proxy::Proxy;
use proc::{cpu_seconds, rss_mib};

const RUNS: usize = 7;
const AT_REST: Duration = Duration::from_secs(30);

/// What can be asked for by name.
const PARTS: [&str; 3] = ["creation", "rest", "gate"];

fn file(name: &str, nodes: u32) -> String {
    cluster_file(name, nodes, "  deletion: delete\n")
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A number from the environment.
pub(crate) fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

fn row(figure: &str, value: String, beside: String) {
    println!("{figure:<44} {value:>14}   {beside}");
}

#[tokio::main]
async fn main() -> ExitCode {
    // cargo says --bench.
    let asked: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    if let Some(unknown) = asked.iter().find(|word| !PARTS.contains(&word.as_str())) {
        println!("there is no {unknown}: {}", PARTS.join(", "));
        return ExitCode::FAILURE;
    }
    let wanted = |part: &str| asked.is_empty() || asked.iter().any(|word| word == part);
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools");
    let all = async {
        if wanted("creation") || wanted("rest") {
            println!("{:<44} {:>14}   beside", "figure", "measured");
        }
        if wanted("creation") {
            creation().await;
            dry_run().await;
        }
        if wanted("rest") {
            rest().await;
        }
        if wanted("gate") {
            gate::gate(&tools).await;
        }
    };
    tokio::select! {
        () = all => ExitCode::SUCCESS,
        // What runs is dropped, and with it everything that it started.
        () = told_to_end() => ExitCode::FAILURE,
    }
}

/// An empty machine to three ready nodes, beside the same by hand, in turn.
async fn creation() {
    let (mut ours, mut hand) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        let fly = Fly::apart(false);
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

async fn dry_run() {
    let fly = Fly::apart(false);
    let path = fly.write("cluster.yaml", &file("bench-dry-run", 5));
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
}

/// Three nodes that commit by quorum: while a controller grants their primary its leases, and while none is there and
/// the standbys pledge them. No client.
async fn rest() {
    const NAME: &str = "bench-rest";
    let fly = Fly::apart(false);
    let path = fly.write("clusters/cluster.yaml", &file(NAME, 3));
    fly.ok(&["reconcile", "-f", &path]).await;
    let mut command = fly.flypg();
    command.args(["controller", "--listen", "127.0.0.1:0", "-f"]).arg(fly.path().join("clusters"));
    let controller = spawn(command, &fly.path().join("controller.log"));
    eventually("nothing is to do", Duration::from_secs(60), || async {
        let status = fly.status(NAME).await;
        if status["ready"] == true { Ok(()) } else { Err(status.to_string()) }
    })
    .await;

    let machines = fly.machines(NAME).await;
    let mut agents: Vec<(String, i32)> = Vec::new();
    for machine in &machines {
        let text = |key: &str| machine[key].as_str().expect("it has one").to_owned();
        let (agent, _) = tree(&text("id")).into_iter().next().expect("its agent runs");
        agents.push((text("name"), agent));
    }
    agents.sort();
    let mut pids: Vec<i32> = agents.into_iter().map(|(_, pid)| pid).collect();
    let nodes = pids.len();
    pids.push(controller.pid());
    let used = at_rest(&pids).await;
    agents_at_rest("leases granted", &used[..nodes]);
    let (rss, cpu) = used[nodes];
    row("controller at rest, RSS MiB", format!("{rss:.1}"), "1 cluster, 3 nodes".to_owned());
    row("  CPU %", format!("{cpu:.2}"), String::new());
    drop(controller);
    agents_at_rest("leases pledged", &at_rest(&pids[..nodes]).await);
}

/// MiB in use, and the share of one CPU in per cent, of each of these over a while.
async fn at_rest(pids: &[i32]) -> Vec<(f64, f64)> {
    let before: Vec<f64> = pids.iter().map(|pid| cpu_seconds(*pid)).collect();
    let begun = Instant::now();
    tokio::time::sleep(AT_REST).await; // the figure is what happens in this time
    let seconds = begun.elapsed().as_secs_f64();
    let used = |(pid, before): (&i32, f64)| (rss_mib(*pid), (cpu_seconds(*pid) - before) / seconds * 100.0);
    pids.iter().zip(before).map(used).collect()
}

/// The first is the primary: nothing has happened since the cluster was made.
fn agents_at_rest(how: &str, used: &[(f64, f64)]) {
    let worst = used.iter().map(|(rss, _)| *rss).fold(0.0, f64::max);
    row(&format!("agent at rest, {how}: RSS MiB"), format!("{worst:.1}"), "largest of 3; goal ≤ 12".to_owned());
    row("  CPU %, primary", format!("{:.2}", used[0].1), "goal ≤ 0.5".to_owned());
    let standbys = used[1..].iter().map(|(_, cpu)| *cpu).collect();
    row("  CPU %, standby", format!("{:.2}", median(standbys)), "goal ≤ 0.5".to_owned());
}
