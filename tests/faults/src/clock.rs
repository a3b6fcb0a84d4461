//! The clock that all parts of a run share: one kernel's `CLOCK_BOOTTIME`, which also leases are counted by.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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

/// Notices when this process, and with it everything that it started, was not let run: by a computer that was put to
/// sleep, or by somebody who stopped it. What is measured meanwhile is not about what is tested.
#[derive(Debug)]
pub struct Stillness {
    longest: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
}

impl Stillness {
    const TICK: Duration = Duration::from_millis(100);

    #[must_use]
    pub fn watch() -> Self {
        let still = Self { longest: Arc::default(), ended: Arc::default() };
        let (longest, ended) = (Arc::clone(&still.longest), Arc::clone(&still.ended));
        std::thread::spawn(move || {
            let mut last = now();
            while !ended.load(Ordering::Relaxed) {
                std::thread::sleep(Self::TICK);
                let at = now();
                longest.fetch_max(at - last, Ordering::Relaxed);
                last = at;
            }
        });
        still
    }

    /// The longest time between two ticks.
    #[must_use]
    pub fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest.load(Ordering::Relaxed))
    }
}

impl Drop for Stillness {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_counted_and_a_stop_shows() {
        let still = Stillness::watch();
        // Until it has ticked at all.
        let deadline = now() + 30_000_000_000;
        while still.longest().is_zero() && now() < deadline {
            std::thread::yield_now();
        }
        assert!(still.longest() >= Stillness::TICK);
    }
}
