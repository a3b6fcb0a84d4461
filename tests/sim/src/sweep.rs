//! Many seeds, on all processors.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::check::Violation;
use crate::world::Outcome;

/// What many runs came to.
#[derive(Debug, Default)]
pub struct Sweep {
    pub runs: u64,
    pub acknowledged: u64,
    pub reigns: u64,
    pub events: u64,
    /// Runs that ended with a person being needed, by reason.
    pub held: BTreeMap<String, Vec<u64>>,
    /// The failed run with the lowest seed.
    pub failed: Option<Outcome>,
    pub failures: Vec<(u64, String)>,
}

/// Runs all seeds from `first` on, `count` of them, with these rules taken away; ends early once one fails, if `until_failure`.
pub fn sweep(first: u64, count: u64, off: &[&str], until_failure: bool) -> Sweep {
    let next = AtomicU64::new(first);
    let total = Mutex::new(Sweep::default());
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                flypg_core::mutant::set(off);
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    let outcome = crate::run(seed);
                    let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    total.add(outcome);
                    if until_failure && total.failed.is_some() {
                        next.store(first + count, Ordering::Relaxed);
                    }
                }
                flypg_core::mutant::set(&[]);
            });
        }
    });
    total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Sweep {
    fn add(&mut self, outcome: Outcome) {
        self.runs += 1;
        self.acknowledged += outcome.acknowledged as u64;
        self.reigns += outcome.reigns as u64;
        self.events += outcome.events;
        if let Some(held) = &outcome.held {
            let kind: String = held.chars().take_while(|c| c.is_alphanumeric()).collect();
            self.held.entry(kind).or_default().push(outcome.seed);
        }
        if let Some(violation) = &outcome.violation {
            self.failures.push((outcome.seed, format!("{}: {}", violation.invariant, violation.words)));
            if self.failed.as_ref().is_none_or(|failed| failed.seed > outcome.seed) {
                self.failed = Some(outcome);
            }
        }
    }
}

/// How the lack of a rule was noticed.
#[derive(Debug, Clone)]
pub struct Kill {
    /// The seed, of the rule's family; it is clean while the rule is in force.
    pub seed: u64,
    pub violation: Violation,
}

/// What came of looking for a seed that misses a rule.
#[derive(Debug, Default)]
pub struct Hunt {
    /// The lowest of the seeds found.
    pub kill: Option<Kill>,
    /// Seeds that go wrong with the rule as well.
    pub broken: Vec<(u64, Violation)>,
}

/// The first of `count` seeds of its family that goes wrong without this rule, and only without it. A rule about safety
/// is missed only where something happens that must never happen; that a cluster does not get well counts for the others.
pub fn hunt(rule: &str, count: u64, safety: bool) -> Hunt {
    let next = AtomicU64::new(0);
    let hunt = Mutex::new(Hunt::default());
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count {
                        break;
                    }
                    flypg_core::mutant::set(&[rule]);
                    let outcome = crate::run_for(rule, seed);
                    flypg_core::mutant::set(&[]);
                    let Some(violation) = outcome.violation.filter(|v| !safety || v.is_dangerous()) else { continue };
                    let with = crate::run_for(rule, seed).violation;
                    let mut hunt = hunt.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    match with {
                        Some(violation) => hunt.broken.push((seed, violation)),
                        None => {
                            next.store(count, Ordering::Relaxed);
                            if hunt.kill.as_ref().is_none_or(|known| known.seed > seed) {
                                hunt.kill = Some(Kill { seed, violation });
                            }
                        }
                    }
                }
            });
        }
    });
    hunt.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}
