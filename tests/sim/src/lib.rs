//! A deterministic simulation of a cluster: the decisions of core, as they ship, inside shells, clocks, disks,
//! networks, a PostgreSQL and a Fly that are models.
//!
//! One seed is one story: which cluster, which faults, when, and every delay in between. While it runs, the invariants
//! of the protocol are looked at; where everything heals at the end, the cluster must get well. `SEED=… make sim` tells
//! the story of a seed in words.

// The rooms are private; what they share with each other is not part of any interface.
#![allow(unreachable_pub)]
// Events are moved once into a queue and once out of it.
#![allow(clippy::large_enum_variant)]

mod agent;
mod bare;
mod check;
mod clients;
mod controller;
mod disk;
mod family;
mod fly;
mod nemesis;
mod net;
#[cfg(test)]
mod planted;
mod postgres;
mod rng;
mod setup;
mod story;
mod sweep;
mod time;
mod wal;
mod world;

pub use bare::{Bare, Rewound, Written};
pub use check::Violation;
pub use family::FAMILIES;
pub use setup::{Fault, Setup};
pub use sweep::{Hunt, Kill, Sweep, hunt, sweep};
pub use time::{Time, ms, secs};
pub use world::{Outcome, World};

/// One run.
pub fn run(seed: u64) -> Outcome {
    World::new(Setup::draw(seed), false).run()
}

/// The same run, with its story.
pub fn tell(seed: u64) -> Outcome {
    World::new(Setup::draw(seed), true).run()
}

/// A run of the family of seeds that a rule is missed in most.
pub fn run_for(rule: &str, seed: u64) -> Outcome {
    World::new(Setup::hunting(rule, seed), false).run()
}

/// The same run, with its story.
pub fn tell_for(rule: &str, seed: u64) -> Outcome {
    World::new(Setup::hunting(rule, seed), true).run()
}
