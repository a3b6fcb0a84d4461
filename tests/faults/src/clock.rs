//! The clock that all parts of a run share: one kernel's `CLOCK_BOOTTIME`, which also leases are counted by.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds since the computer booted.
#[must_use]
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock");
    u64::try_from(Duration::from(time).as_nanos()).expect("500 years have not passed since the boot")
}

/// Milliseconds from nanoseconds.
#[must_use]
pub const fn millis(nanos: u64) -> u64 {
    nanos / 1_000_000
}
