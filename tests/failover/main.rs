//! How long writes stop when something fails: each fault so many times, ours and, with `PEERS=1`, Patroni in turn. Each
//! figure stands beside the goal of the design. Nothing is asserted: `make bench-failover` prints.

#![expect(clippy::print_stdout, reason = "a bench is there to print")]

mod load;
mod ours;
mod patroni;
mod system;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use flypg_tests::programs::told_to_end;
use ours::Ours;
use patroni::{Patroni, Programs, Tuning};
use system::{Fault, Run, measure};

/// One row: a fault under one file, and what is wanted of it.
struct Cell {
    name: &'static str,
    fault: Fault,
    /// Lines under `spec:`.
    file: &'static str,
    /// Seconds, of the median and of the worst.
    goal: (f64, f64),
}

impl Cell {
    const fn of(name: &'static str, fault: Fault, file: &'static str, goal: (f64, f64)) -> Self {
        Self { name, fault, file, goal }
    }

    /// Whether the peers can be measured the same way.
    fn is_for_peers(&self) -> bool {
        self.file.is_empty() && matches!(self.fault, Fault::Postmaster | Fault::Node | Fault::Switchover)
    }
}

const FAST: &str = "  failover: { profile: fast }\n";
const UNFENCED: &str = "  failover: { readFence: off }\n";

const CELLS: &[Cell] = &[
    Cell::of("postmaster kill -9", Fault::Postmaster, "", (0.7, 1.5)),
    Cell::of("node lost, platform proof", Fault::Node, "", (2.0, 4.0)),
    Cell::of("host lost, strict", Fault::Host, "", (6.5, 8.0)),
    Cell::of("primary partitioned, strict", Fault::Partition, "", (6.5, 8.0)),
    Cell::of("primary partitioned, strict, fast", Fault::Partition, FAST, (4.8, 6.0)),
    Cell::of("primary partitioned, readFence off", Fault::Partition, UNFENCED, (3.0, 4.0)),
    Cell::of("primary frozen, strict", Fault::Freeze, "", (6.5, 8.0)),
    Cell::of("planned switchover", Fault::Switchover, "", (0.5, 1.0)),
    Cell::of("controller and store away", Fault::Controller, "", (0.0, 0.0)),
    Cell::of("Machines API away", Fault::MachinesApi, "", (0.0, 0.0)),
];

/// A pause of this length is none: with four clients, on a computer that does something else at times.
const NO_OUTAGE: Duration = Duration::from_millis(250);
/// What is wanted of the old primary: the median and the worst (FAILOVER figures).
const BACK: (f64, f64) = (3.0, 5.0);

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

#[tokio::main]
async fn main() -> ExitCode {
    tokio::select! {
        done = all() => done,
        // What runs is dropped, and with it everything that it started.
        () = told_to_end() => ExitCode::FAILURE,
    }
}

async fn all() -> ExitCode {
    let (runs, peer_runs) = (number("RUNS", 10), number("PEER_RUNS", 4));
    let only = std::env::var("ONLY").unwrap_or_default();
    let only: Vec<&str> = only.split(',').map(str::trim).collect();
    let namespaces = can_have_namespaces();
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools");
    let mut peers = Vec::new();
    if number("PEERS", 0) != 0 {
        let Some(programs) = Programs::find(&tools) else {
            println!("Patroni and etcd are not there: scripts/install peers");
            return ExitCode::FAILURE;
        };
        for tuning in [Tuning::Default, Tuning::Tuned] {
            let name =
                format!("{}, {}", programs.version(), if tuning == Tuning::Default { "default" } else { "tuned" });
            println!("{name}: {}", tuning.words());
            peers.push((name, Patroni::start(&programs, tuning).await));
        }
    }
    println!(
        "{:<34} {:>4} {:>7} {:>7} {:>7} {:>7} {:>7} {:>8} {:>5} {:>5}   goal p50, p99",
        "write outage, s", "runs", "p50", "p99", "min", "back", "worst", "acks", "lost", "dual"
    );
    for cell in CELLS.iter().filter(|cell| only.iter().any(|word| cell.name.contains(word))) {
        if cell.fault == Fault::Partition && !namespaces {
            println!("{:<34} left out: network namespaces need root, ip, nft and nsenter", cell.name);
            continue;
        }
        let mut mine = Vec::new();
        let mut theirs: Vec<Vec<Run>> = peers.iter().map(|_| Vec::new()).collect();
        let mut cluster: Option<(Ours, usize)> = None;
        for run in 0..runs.max(if cell.is_for_peers() { peer_runs } else { 0 }) {
            if run < runs {
                let (mut ours, used) = match cluster.take() {
                    Some((ours, used)) if used < cell.fault.budget() => (ours, used),
                    worn => {
                        drop(worn);
                        (Ours::start(cell.file, cell.fault == Fault::Partition).await, 0)
                    }
                };
                mine.push(measure(&mut ours, cell.fault).await);
                cluster = Some((ours, used + 1));
            }
            if run < peer_runs && cell.is_for_peers() {
                for ((_, patroni), runs) in peers.iter_mut().zip(&mut theirs) {
                    runs.push(measure(patroni, cell.fault).await);
                }
            }
        }
        drop(cluster);
        print_row(cell.name, &mine, Some(cell.goal));
        for ((name, _), runs) in peers.iter().zip(&theirs).filter(|(_, runs)| !runs.is_empty()) {
            print_row(&format!("  {name}"), runs, None);
        }
    }
    println!(
        "p99 of so few runs is the worst of them; back: the old primary streams again, median and worst (goal {}, {}); \
         dual: acknowledged by a primary after its successor had acknowledged; a pause below {} s is none",
        BACK.0,
        BACK.1,
        NO_OUTAGE.as_secs_f64(),
    );
    ExitCode::SUCCESS
}

fn print_row(name: &str, runs: &[Run], goal: Option<(f64, f64)>) {
    let sorted = |value: fn(&Run) -> Option<Duration>| {
        let mut all: Vec<f64> = runs.iter().filter_map(value).map(|value| value.as_secs_f64()).collect();
        all.sort_by(f64::total_cmp);
        all
    };
    let (outages, backs) = (sorted(|run| Some(run.outage)), sorted(|run| run.back));
    let middle = |all: &[f64]| all.get(all.len() / 2).copied();
    let seconds = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"));
    let sum = |value: fn(&Run) -> usize| runs.iter().map(value).sum::<usize>();
    let beside = goal.map_or_else(String::new, |(p50, p99)| {
        let limit = |goal: f64| goal.max(NO_OUTAGE.as_secs_f64());
        let above = |value: Option<f64>, goal: f64| value.is_none_or(|value| value > goal);
        let missed = [
            (above(middle(&outages), limit(p50)), "p50"),
            (above(outages.last().copied(), limit(p99)), "p99"),
            (!backs.is_empty() && above(middle(&backs), BACK.0), "back"),
            (!backs.is_empty() && above(backs.last().copied(), BACK.1), "worst back"),
        ];
        let missed: Vec<&str> = missed.iter().filter(|(missed, _)| *missed).map(|(_, what)| *what).collect();
        let missed = if missed.is_empty() { String::new() } else { format!("   missed: {}", missed.join(", ")) };
        format!("{p50}, {p99}{missed}")
    });
    println!(
        "{name:<34} {:>4} {:>7} {:>7} {:>7} {:>7} {:>7} {:>8} {:>5} {:>5}   {beside}",
        runs.len(),
        seconds(middle(&outages)),
        seconds(outages.last().copied()),
        seconds(outages.first().copied()),
        seconds(middle(&backs)),
        seconds(backs.last().copied()),
        sum(|run| run.acknowledged),
        sum(|run| run.lost),
        sum(|run| run.dual),
    );
}

/// Whether nodes can have network namespaces here: this is root, and the programs for it are installed.
fn can_have_namespaces() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |program: &str| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    nix::unistd::geteuid().is_root() && ["ip", "nft", "nsenter"].into_iter().all(there)
}
