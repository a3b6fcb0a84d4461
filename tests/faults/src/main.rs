//! `make faults`, and the clients that its runs start.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use flypg_faults::client::{self, Side};
use flypg_faults::rig::can_have_namespaces;
use flypg_faults::run::{Outcome, run};
use flypg_faults::scenario::Scenario;
use flypg_faults::table::{SCENARIOS, find};
use tokio::signal::unix::{SignalKind, signal};

/// Real clusters, real faults, and an account of every write
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Let scenarios happen, one after another
    Run(Runs),
    /// List the scenarios
    List,
    /// Be the clients beside one node
    Client(Side),
}

#[derive(Debug, clap::Args)]
struct Runs {
    /// How often each scenario happens
    #[arg(long, env = "FAULTS_RUNS", default_value_t = 3)]
    runs: u64,
    /// Only these, separated by commas
    #[arg(long, env = "FAULTS_ONLY", value_delimiter = ',')]
    only: Vec<String>,
    /// The seed of the first run; each further one has the next
    #[arg(long, env = "FAULTS_SEED", default_value_t = 1)]
    seed: u64,
    /// Nodes share one network even where they need not
    #[arg(long)]
    loopback: bool,
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match Arguments::parse().command {
        Order::List => {
            for scenario in SCENARIOS {
                say(&format!("{:<36} {:<16} {} nodes", scenario.name, scenario.durability.word(), scenario.nodes));
            }
            ExitCode::SUCCESS
        }
        Order::Client(side) => match runtime.block_on(client::run(side)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say(&error.to_string());
                ExitCode::FAILURE
            }
        },
        Order::Run(runs) => {
            let mut chosen: Vec<&'static Scenario> = Vec::new();
            for name in runs.only.iter().filter(|name| !name.is_empty()) {
                match find(name) {
                    Some(scenario) => chosen.push(scenario),
                    None => {
                        say(&format!("there is no scenario {name}"));
                        return ExitCode::FAILURE;
                    }
                }
            }
            if chosen.is_empty() {
                chosen.extend(SCENARIOS);
            }
            runtime.block_on(async {
                tokio::select! {
                    code = all(&chosen, &runs) => code,
                    // The run under way is dropped, and with it everything that it started.
                    () = told_to_end() => ExitCode::FAILURE,
                }
            })
        }
    }
}

async fn all(chosen: &[&'static Scenario], runs: &Runs) -> ExitCode {
    let namespaces = !runs.loopback && can_have_namespaces();
    if !namespaces {
        say("without network namespaces: nothing can be cut");
    }
    let (mut good, mut failed, mut left_out) = (0, Vec::new(), 0);
    let mut outages: Vec<(&str, Vec<u64>)> = Vec::new();
    for scenario in chosen {
        if scenario.needs_namespaces() && !namespaces {
            left_out += 1;
            continue;
        }
        let mut measured = Vec::new();
        for seed in runs.seed..runs.seed.saturating_add(runs.runs) {
            // A bug of the harness is a failed run, not the end of all of them.
            let outcome = tokio::task::LocalSet::new()
                .run_until(async { tokio::task::spawn_local(run(scenario, seed, namespaces)).await })
                .await
                .unwrap_or_else(|panic| Outcome::unfinished(scenario.name, seed, panic.to_string()));
            say(&outcome.to_string());
            measured.push(outcome.flow.outage / 1_000_000);
            match outcome.good() {
                true => good += 1,
                false => failed.push(format!("{} (seed {seed})", scenario.name)),
            }
        }
        measured.sort_unstable();
        outages.push((scenario.name, measured));
    }
    say("\nwrite outage, ms: median and worst");
    for (name, measured) in &outages {
        let middle = measured.get(measured.len() / 2).copied().unwrap_or_default();
        say(&format!("{name:<36} {middle:>7} {:>7}", measured.last().copied().unwrap_or_default()));
    }
    say(&format!("\n{good} runs good, {} failed, {left_out} scenarios left out", failed.len()));
    failed.iter().for_each(|which| say(&format!("failed: {which}")));
    if failed.is_empty() && good > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Ctrl-C, or SIGTERM.
async fn told_to_end() {
    let mut end = signal(SignalKind::terminate()).expect("signals can be listened to");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = end.recv() => {}
    }
}

/// A reader that left wants to hear nothing more.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
