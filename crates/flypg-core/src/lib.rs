//! The pure half of flypg: what is wanted, what was seen, what to do about it. No clock, no environment, no IO.

pub mod decree;
pub mod digest;
pub mod failover;
pub mod keys;
pub mod ledger;
#[cfg(feature = "mutants")]
pub mod mutant;
#[cfg(not(feature = "mutants"))]
mod mutant;
pub mod names;
pub mod node;
pub mod observed;
pub mod plan;
pub mod protocol;
pub mod render;
pub mod settings;
pub mod spec;
pub mod status;

/// An instant, in UTC. Only ever an argument here: core knows no clock.
pub type Timestamp = jiff::Timestamp;
