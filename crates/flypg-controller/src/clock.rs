//! The clock by which a controller counts what it granted and whom it hears.

use std::time::Duration;

use flypg_core::failover::lease::Mono;
use nix::time::{ClockId, clock_gettime};

/// `CLOCK_BOOTTIME`: nobody can set it, and it goes on while the computer sleeps, so that a controller that wakes up
/// does not take old news for new.
pub fn mono() -> Mono {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had this clock since 2.6.39");
    Mono(Duration::from(now))
}
