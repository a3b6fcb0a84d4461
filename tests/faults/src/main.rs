//! `make faults`, and the clients that its runs start.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use clap::{Parser, Subcommand};
use flypg_faults::client::{self, Side};
use flypg_faults::rig::can_have_namespaces;
use flypg_faults::run::{Outcome, run};
use flypg_faults::scenario::Scenario;
use flypg_faults::table::{SCENARIOS, find};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

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
    /// How many runs go on beside each other; each has an emulator and a network of its own
    #[arg(long, env = "FAULTS_JOBS", default_value_t = 1)]
    jobs: usize,
    /// Keep the files of every run, not only of those that failed
    #[arg(long)]
    keep: bool,
    /// Nodes share one network even where they need not
    #[arg(long)]
    loopback: bool,
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match Arguments::parse().command {
        Order::List => {
            for scenario in SCENARIOS {
                say(&format!("{:<40} {:<16} {} nodes", scenario.name, scenario.durability.word(), scenario.nodes));
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
            runtime.block_on(all(&chosen, &runs))
        }
    }
}

async fn all(chosen: &[&'static Scenario], runs: &Runs) -> ExitCode {
    let namespaces = !runs.loopback && can_have_namespaces();
    if !namespaces {
        say("without network namespaces: nothing can be cut");
    }
    let (possible, left_out): (Vec<&Scenario>, Vec<&Scenario>) =
        chosen.iter().partition(|scenario| namespaces || !scenario.needs_namespaces());
    let seeds = runs.seed..runs.seed.saturating_add(runs.runs);
    let queue = possible.iter().flat_map(|scenario| seeds.clone().map(|seed| (*scenario, seed)));
    let queue: Arc<Mutex<VecDeque<_>>> = Arc::new(Mutex::new(queue.collect()));
    let (tell, mut told) = mpsc::unbounded_channel();
    let (end, ended) = watch::channel(false);
    let jobs: Vec<_> = (0..runs.jobs.max(1))
        .map(|_| {
            let (queue, tell, ended, keep) = (Arc::clone(&queue), tell.clone(), ended.clone(), runs.keep);
            std::thread::spawn(move || work(&queue, (namespaces, keep), &tell, ended))
        })
        .collect();
    drop(tell);
    let (mut good, mut failed) = (0, Vec::new());
    let mut outages: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    let whole = loop {
        let outcome: Outcome = tokio::select! {
            outcome = told.recv() => match outcome {
                Some(outcome) => outcome,
                None => break true,
            },
            // Runs under way are dropped, and with them everything that they started.
            () = told_to_end() => break false,
        };
        say(&outcome.to_string());
        outages.entry(outcome.scenario).or_default().push(outcome.flow.outage / 1_000_000);
        match outcome.good() {
            true => good += 1,
            false => failed.push(format!("{} (seed {})", outcome.scenario, outcome.seed)),
        }
    };
    // Nobody listens only where everybody has come to the end.
    let _ = end.send(true);
    let jobs_ended = jobs.into_iter().map(std::thread::JoinHandle::join).fold(true, |all, job| all & job.is_ok());
    if !whole {
        return ExitCode::FAILURE;
    }
    say("\nwrite outage, ms: median and worst");
    for scenario in &possible {
        let Some(measured) = outages.get_mut(scenario.name) else { continue };
        measured.sort_unstable();
        let middle = measured.get(measured.len() / 2).copied().unwrap_or_default();
        say(&format!("{:<40} {middle:>7} {:>7}", scenario.name, measured.last().copied().unwrap_or_default()));
    }
    say(&format!("\n{good} runs good, {} failed, {} scenarios left out", failed.len(), left_out.len()));
    failed.iter().for_each(|which| say(&format!("failed: {which}")));
    if jobs_ended && failed.is_empty() && good > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Takes runs from the queue until there are none, or it is told to end.
fn work(
    queue: &Mutex<VecDeque<(&'static Scenario, u64)>>,
    (namespaces, keep): (bool, bool),
    tell: &mpsc::UnboundedSender<Outcome>,
    mut ended: watch::Receiver<bool>,
) {
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    while let Some((scenario, seed)) = next() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let outcome = tokio::task::LocalSet::new().block_on(&runtime, async {
            // A bug of the harness is a failed run, not the end of all of them.
            let mut run = tokio::task::spawn_local(run(scenario, seed, namespaces, keep));
            tokio::select! {
                outcome = &mut run => Some(outcome
                    .unwrap_or_else(|panic| Outcome::unfinished(scenario.name, seed, panic.to_string()))),
                _ = ended.wait_for(|ended| *ended) => {
                    run.abort();
                    // It is dropped before this returns.
                    let _ = run.await;
                    None
                }
            }
        });
        if outcome.is_none_or(|outcome| tell.send(outcome).is_err()) {
            return;
        }
    }
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
