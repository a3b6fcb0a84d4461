//! How long writes stop when something fails: each fault so many times, the median and the worst, beside the goals of
//! the design. Nothing here is asserted but that nothing was lost: `make bench-failover` prints.

#![expect(clippy::print_stdout, reason = "a bench is there to print")]

mod cluster;
mod load;

use std::time::Duration;

use cluster::{Cluster, Fault};

/// One row: a fault under one file, and what is wanted of it in seconds.
struct Cell {
    name: &'static str,
    fault: Fault,
    /// Lines under `spec:`.
    file: &'static str,
    goal: (f64, f64),
}

const CELLS: &[Cell] = &[
    Cell { name: "postmaster kill -9", fault: Fault::Postmaster, file: "", goal: (0.7, 1.5) },
    Cell { name: "node lost, platform proof", fault: Fault::Machine, file: "", goal: (2.0, 4.0) },
    Cell { name: "primary frozen, strict", fault: Fault::Freeze, file: "", goal: (6.5, 8.0) },
    Cell {
        name: "primary frozen, strict, fast",
        fault: Fault::Freeze,
        file: "  failover: { profile: fast }\n",
        goal: (4.8, 6.0),
    },
    Cell {
        name: "primary frozen, readFence off",
        fault: Fault::Freeze,
        file: "  failover: { readFence: off }\n",
        goal: (3.0, 4.0),
    },
    Cell { name: "planned switchover", fault: Fault::Switchover, file: "", goal: (0.5, 1.0) },
    Cell { name: "controller kill -9", fault: Fault::Controller, file: "", goal: (0.0, 0.0) },
];

#[tokio::main]
async fn main() {
    let runs: usize = std::env::var("RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(10);
    let only = std::env::var("ONLY").unwrap_or_default();
    println!(
        "{:<32} {:>5} {:>7} {:>7} {:>7} {:>12} {:>10} {:>6}   goal p50, p99",
        "write outage, s", "runs", "p50", "max", "min", "back, p50", "acks", "lost"
    );
    for cell in CELLS.iter().filter(|cell| cell.name.contains(&only)) {
        let (mut outages, mut returns, mut acks, mut lost) = (Vec::new(), Vec::new(), 0, 0);
        let mut cluster = None;
        for run in 0..runs {
            // More failovers by itself than these within a minute, and a cluster asks for a person (rule R19).
            let on = match cluster.take().filter(|_| run % 2 == 1) {
                Some(cluster) => cluster,
                None => Cluster::start(cell.file).await,
            };
            let run = on.run(cell.fault).await;
            cluster = Some(on);
            outages.push(run.outage);
            returns.extend(run.back);
            acks += run.acknowledged;
            lost += run.lost;
        }
        drop(cluster);
        outages.sort();
        returns.sort();
        let seconds = |d: Option<&Duration>| d.map_or_else(|| "–".to_owned(), |d| format!("{:.2}", d.as_secs_f64()));
        println!(
            "{:<32} {:>5} {:>7} {:>7} {:>7} {:>12} {:>10} {:>6}   {}, {}",
            cell.name,
            outages.len(),
            seconds(outages.get(outages.len() / 2)),
            seconds(outages.last()),
            seconds(outages.first()),
            seconds(returns.get(returns.len() / 2)),
            acks,
            lost,
            cell.goal.0,
            cell.goal.1,
        );
    }
}
