//! The clock that leases run on, and the name of the time that it counts.

use std::io;
use std::time::Duration;

use flypg_core::failover::lease::BootTime;
use nix::time::{ClockId, clock_gettime};

/// Drawn anew when Linux boots.
const KERNEL_BOOT: &str = "/proc/sys/kernel/random/boot_id";
/// A fresh UUID at each read.
const DRAW: &str = "/proc/sys/kernel/random/uuid";

/// `CLOCK_BOOTTIME`: it goes on while the Machine is suspended, and nobody can set it.
pub fn now() -> BootTime {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had this clock since 2.6.39");
    BootTime(Duration::from(now))
}

/// The name of this life of the agent: no other start of an agent has it, on this Machine or on another one. A lease
/// that was granted to one of them is worth nothing to the next (fence F4).
pub fn boot(incarnation: u64) -> io::Result<String> {
    let kernel = std::fs::read_to_string(KERNEL_BOOT)?;
    let drawn = std::fs::read_to_string(DRAW)?;
    // The incarnation alone would do, were it on disk each time: a full volume may keep it from getting there.
    let drawn = drawn.split('-').next().unwrap_or_default();
    Ok(format!("{}.{incarnation}.{drawn}", kernel.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_and_every_start_is_a_boot_of_its_own() {
        let first = now();
        assert!(now() >= first && first > BootTime::default());
        let (one, two) = (boot(7).unwrap(), boot(7).unwrap());
        assert_ne!(one, two);
        assert!(one.contains(".7."), "{one}");
    }
}
