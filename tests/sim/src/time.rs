//! True time, which nobody in the simulation can read, and the clocks that they read instead.

use std::time::Duration;

use flypg_core::Timestamp;
use flypg_core::failover::lease::BootTime;

/// Nanoseconds of true time since the run began.
pub type Time = u64;

pub const fn ms(milliseconds: u64) -> Time {
    milliseconds * 1_000_000
}

pub const fn secs(seconds: u64) -> Time {
    ms(seconds * 1_000)
}

pub fn span(duration: Duration) -> Time {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

/// Wall time, for what is shown to people only.
pub fn wall(now: Time) -> Timestamp {
    let start = Timestamp::from_second(1_800_000_000).expect("a date in 2027");
    start.checked_add(Duration::from_nanos(now)).expect("a run takes minutes")
}

/// When that wall time will be.
pub fn unwall(at: Timestamp) -> Time {
    let nanos = at.as_nanosecond() - wall(0).as_nanosecond();
    u64::try_from(nanos.max(0)).unwrap_or(u64::MAX / 4)
}

/// A `CLOCK_BOOTTIME`: its own beginning, a rate that is a little off, and stops while its Machine is a snapshot.
#[derive(Debug, Clone)]
pub struct Clock {
    since: Time,
    at_since: u64,
    /// Nanoseconds that it gains in a second of true time.
    gain: i64,
    stopped: bool,
}

impl Clock {
    pub fn new(now: Time, reads: u64, gain: i64) -> Self {
        Self { since: now, at_since: reads, gain, stopped: false }
    }

    pub fn nanos(&self, now: Time) -> u64 {
        if self.stopped {
            return self.at_since;
        }
        let passed = i128::from(now - self.since);
        let reads = passed + passed * i128::from(self.gain) / 1_000_000_000;
        self.at_since + u64::try_from(reads).unwrap_or(0)
    }

    pub fn read(&self, now: Time) -> BootTime {
        BootTime(Duration::from_nanos(self.nanos(now)))
    }

    /// The true time at which it reads `at`, if it goes on as it does; now, if it does already.
    pub fn when(&self, at: BootTime, now: Time) -> Time {
        let reads = self.nanos(now);
        let wanted = span(at.0);
        if self.stopped || wanted > u64::MAX / 8 {
            return u64::MAX / 4;
        }
        let left = i128::from(wanted.saturating_sub(reads));
        let left = left * 1_000_000_000 / (1_000_000_000 + i128::from(self.gain));
        now + u64::try_from(left).unwrap_or(0)
    }

    pub fn stop(&mut self, now: Time) {
        self.at_since = self.nanos(now);
        self.since = now;
        self.stopped = true;
    }

    pub fn go_on(&mut self, now: Time) {
        if self.stopped {
            self.since = now;
            self.stopped = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_off_by_its_rate_and_stands_while_it_is_stopped() {
        let mut clock = Clock::new(secs(10), secs(500), 1_000_000);
        assert_eq!(clock.nanos(secs(20)), secs(510) + ms(10));
        let then = clock.when(BootTime(Duration::from_secs(520)), secs(20));
        assert!(clock.nanos(then).abs_diff(secs(520)) < 10);
        clock.stop(secs(20));
        assert_eq!(clock.nanos(secs(30)), secs(510) + ms(10));
        clock.go_on(secs(30));
        assert_eq!(clock.nanos(secs(30)), secs(510) + ms(10));
        assert!(unwall(wall(secs(7))) == secs(7));
    }
}
