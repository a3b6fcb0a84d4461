//! The failover protocol as two small machines whose every state can be visited.
//!
//! [`wal`] is synchronous replication without clocks: epochs, promises, rules and their changes, promotion, rewinding,
//! two controllers. [`lease`] is the time-bound half: leases, a clock that drifts or stops, a controller that was
//! deposed. Each has mutants that leave one rule of the protocol out; a rule whose absence nobody notices would be
//! useless or untested.

pub mod lease;
pub mod search;
pub mod wal;
