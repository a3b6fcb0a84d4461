//! A rule whose removal nobody notices is useless or untested (protocol §4.4): each is taken away in turn, and some
//! seed must go wrong that is clean with it.
#![allow(clippy::print_stdout)]

use flypg_sim::hunt;

/// What a rule is about: what must never happen, or that a cluster gets well by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum About {
    Safety,
    Liveness,
}
use About::{Liveness, Safety};

/// The rules and fences, and how many seeds it may take by default to miss each.
const RULES: [(&str, About, u64); 22] = [
    ("R1", Safety, 500),
    ("R2", Safety, 2_000),
    ("R3", Safety, 2_000),
    ("R4", Safety, 2_000),
    ("R5", Safety, 500),
    ("R6", Safety, 2_000),
    ("R7", Safety, 2_000),
    ("R8", Safety, 2_000),
    ("R9", Safety, 2_000),
    ("R10", Safety, 2_000),
    ("R11", Safety, 2_000),
    ("R12", Safety, 2_000),
    ("R13", Safety, 2_000),
    ("R14", Safety, 2_000),
    ("R15", Safety, 2_000),
    ("R16", Safety, 2_000),
    ("R17", Safety, 2_000),
    ("R18", Liveness, 2_000),
    ("R19", Safety, 2_000),
    ("R20", Safety, 2_000),
    ("F1", Safety, 2_000),
    ("F2", Safety, 2_000),
];

/// `RULE=R7 SEEDS=10000 make sim-mutants`, or all of them.
#[test]
fn every_rule_is_missed() {
    let only = std::env::var("RULE").unwrap_or_default();
    let most: Option<u64> = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    let mut survivors = Vec::new();
    let mut broken = Vec::new();
    for (rule, about, count) in RULES {
        if !only.is_empty() && !only.split(',').any(|wanted| wanted == rule) {
            continue;
        }
        let count = most.unwrap_or(count);
        let began = std::time::Instant::now();
        let hunt = hunt(rule, count, about == Safety);
        let seconds = began.elapsed().as_secs_f64();
        match hunt.kill {
            Some(kill) => {
                let violation = kill.violation;
                println!(
                    "{rule}: missed by seed {} after {seconds:.1} s, {}: {}",
                    kill.seed, violation.invariant, violation.words
                );
            }
            None => {
                println!("{rule}: nobody misses it in {count} seeds ({seconds:.1} s)");
                survivors.push(rule);
            }
        }
        for (seed, violation) in hunt.broken {
            println!(
                "{rule}: FOR={rule} SEED={seed} is broken with it, too: {}: {}",
                violation.invariant, violation.words
            );
            if violation.is_dangerous() {
                broken.push((rule, seed));
            }
        }
    }
    assert!(survivors.is_empty() && broken.is_empty(), "survivors {survivors:?}, broken {broken:?}");
}
