//! Leases: how long a primary may answer, on its own clock, and when a controller may count it as silent, on its own.
//!
//! Two clocks that never meet. All that is assumed is that while a Machine runs, its `CLOCK_BOOTTIME` keeps within
//! [`DRIFT_PPM`] of true time (protocol §2.1).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decree::Epoch;
use crate::spec::Profile;

/// How far a running clock may be off, in millionths (protocol §2.9: ρ = 10⁻³).
pub const DRIFT_PPM: u32 = 1_000;

/// The times of one failover profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// A lease lasts this long from the sending of the report that earned it.
    pub ttl: Duration,
    /// Between two reports.
    pub report: Duration,
    /// So many reports may be missing before a primary is suspected.
    pub misses: u32,
    /// New statements are refused this long before the lease ends.
    pub refuse_before: Duration,
    /// What a controller waits beyond the lease.
    pub margin: Duration,
    /// A primary without a lease is stopped after this long.
    pub grace: Duration,
}

/// A relation between times that does not hold (protocol §2.9, "constraints").
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsound {
    #[error("a lease must outlast four reports and two round trips")]
    TooShort,
    #[error("a lease must last at least 4 s: shared processors stall for a second or two")]
    BelowFloor,
    #[error("statements are refused too early: more than a quarter of the lease")]
    RefusesEarly,
    #[error("the margin does not cover the drift of both clocks and 0.2 s of scheduling")]
    MarginTooSmall,
    #[error("a primary must not be stopped before two reports could have renewed its lease")]
    GraceTooShort,
}

impl Timing {
    /// FAILOVER.md §2.
    pub const fn of(profile: Profile) -> Self {
        let (ttl, report) = match profile {
            Profile::Fast => (4_000, 500),
            Profile::Balanced => (6_000, 1_000),
            Profile::Patient => (15_000, 2_000),
        };
        Self {
            ttl: Duration::from_millis(ttl),
            report: Duration::from_millis(report),
            misses: 3,
            refuse_before: Duration::from_millis(200),
            margin: Duration::from_millis(500),
            grace: Duration::from_secs(5),
        }
    }

    /// Whether the times fit each other, where a round trip takes at most `round_trip`.
    pub fn check(&self, round_trip: Duration) -> Result<(), Unsound> {
        let drift = drift(self.ttl) * 2;
        match () {
            () if self.ttl < Duration::from_secs(4) => Err(Unsound::BelowFloor),
            () if self.ttl < self.report * 4 + round_trip * 2 => Err(Unsound::TooShort),
            () if self.refuse_before * 4 >= self.ttl => Err(Unsound::RefusesEarly),
            () if self.margin < drift + Duration::from_millis(200) => Err(Unsound::MarginTooSmall),
            () if self.grace < self.report * 2 => Err(Unsound::GraceTooShort),
            () => Ok(()),
        }
    }

    /// How long after a grant, at the latest, no answer under it can leave: T(1 + 2ρ) + m.
    pub fn over_after(&self) -> Duration {
        self.ttl + drift(self.ttl) * 2 + self.margin
    }
}

fn drift(over: Duration) -> Duration {
    over * DRIFT_PPM / 1_000_000
}

/// A reading of a Machine's `CLOCK_BOOTTIME`: time since boot. Comparable within one boot only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootTime(pub Duration);

impl BootTime {
    pub const MAX: Self = Self(Duration::MAX);
}

/// The controller's answer to a report: the lease goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub epoch: Epoch,
    /// Echoed from the report: the boot it was sent in, and when.
    pub boot: String,
    pub sent: BootTime,
    pub ttl: Duration,
}

/// A primary's leave to answer. Never kept on disk: every boot begins without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    boot: String,
    epoch: Epoch,
    end: BootTime,
}

impl Lease {
    /// Fenced: nothing passes until a grant of this boot and epoch arrives.
    pub fn none(boot: &str, epoch: Epoch) -> Self {
        Self { boot: boot.to_owned(), epoch, end: BootTime::default() }
    }

    /// Takes a grant. A late, doubled or reordered one never makes the lease longer than its own report earned, and one
    /// of another boot or epoch does nothing. True if it counted.
    pub fn renew(&mut self, grant: &Grant) -> bool {
        let ours = grant.boot == self.boot && grant.epoch == self.epoch;
        if ours {
            self.end = self.end.max(BootTime(grant.sent.0.saturating_add(grant.ttl)));
        }
        ours
    }

    /// Gives it up at once.
    pub fn drop_now(&mut self) {
        self.end = BootTime::default();
    }

    /// May an answer that is read leave? To be asked after Postgres gave it and before it is forwarded (rule R3).
    pub fn passes(&self, now: BootTime) -> bool {
        now < self.end
    }

    /// May a new statement be handed to Postgres?
    pub fn takes_new(&self, now: BootTime, timing: &Timing) -> bool {
        self.passes(BootTime(now.0.saturating_add(timing.refuse_before)))
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// When nothing passes any more, unless it is renewed.
    pub fn end(&self) -> BootTime {
        self.end
    }
}

/// A reading of a controller's own monotonic clock. Comparable within one life of one controller only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mono(pub Duration);

impl Mono {
    /// From `earlier` to this; zero if `earlier` is later.
    pub fn since(self, earlier: Mono) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// What a controller knows of the leases it gave to one primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    pub epoch: Epoch,
    /// When the last report arrived that was answered with a grant. Remembered before the grant leaves.
    pub last: Mono,
}

/// The time half of F2: no lease that any controller gave in `reign`, or before it, can be valid. One that this
/// controller did not give may have been given just before it began to lead, at `leads_since` (rule R2).
///
/// What was given before counts because a primary that is to go on in a new epoch answers in the old one until it hears
/// of that.
pub fn over(granted: Option<Granted>, reign: Epoch, leads_since: Mono, now: Mono, timing: &Timing) -> bool {
    now >= over_at(granted, reign, leads_since, timing)
}

/// When [`over`] will be true, if nothing is granted any more.
pub fn over_at(granted: Option<Granted>, reign: Epoch, leads_since: Mono, timing: &Timing) -> Mono {
    let last = granted.filter(|granted| granted.epoch <= reign).map_or(leads_since, |g| g.last.max(leads_since));
    Mono(last.0.saturating_add(timing.over_after()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn grant(epoch: u64, boot: &str, sent: u64) -> Grant {
        Grant { epoch: Epoch(epoch), boot: boot.to_owned(), sent: BootTime(MS(sent)), ttl: MS(6_000) }
    }

    #[test]
    fn every_profile_is_sound() {
        for profile in [Profile::Fast, Profile::Balanced, Profile::Patient] {
            assert_eq!(Timing::of(profile).check(MS(250)), Ok(()), "{profile:?}");
        }
        let good = Timing::of(Profile::Balanced);
        for (bad, why) in [
            (Timing { ttl: MS(3_999), report: MS(100), ..good }, Unsound::BelowFloor),
            (Timing { report: MS(1_500), ..good }, Unsound::TooShort),
            (Timing { refuse_before: MS(1_500), ..good }, Unsound::RefusesEarly),
            (Timing { margin: MS(211), ..good }, Unsound::MarginTooSmall),
            (Timing { grace: MS(1_999), ..good }, Unsound::GraceTooShort),
        ] {
            assert_eq!(bad.check(MS(100)), Err(why));
        }
    }

    #[test]
    fn a_lease_counts_from_the_sending_and_only_in_its_boot_and_epoch() {
        let mut lease = Lease::none("boot-1", Epoch(7));
        assert!(!lease.passes(BootTime::default()), "every boot begins fenced");
        assert!(lease.renew(&grant(7, "boot-1", 1_000)));
        assert!(lease.passes(BootTime(MS(6_999))) && !lease.passes(BootTime(MS(7_000))));
        // An older grant that comes later, the same again, another epoch's, another boot's.
        assert!(lease.renew(&grant(7, "boot-1", 500)) && lease.renew(&grant(7, "boot-1", 1_000)));
        assert!(!lease.renew(&grant(8, "boot-1", 9_000)) && !lease.renew(&grant(7, "boot-2", 9_000)));
        assert_eq!(lease.end(), BootTime(MS(7_000)));
        let timing = Timing::of(Profile::Balanced);
        assert!(lease.takes_new(BootTime(MS(6_799)), &timing) && !lease.takes_new(BootTime(MS(6_800)), &timing));
        lease.drop_now();
        assert!(!lease.passes(BootTime(MS(1))));
    }

    /// Whatever the delays, and with the primary's clock as slow as it may be: once a controller counts the lease as
    /// over, nothing passes the gate.
    #[test]
    fn what_the_controller_counts_as_over_is_over() {
        let timing = Timing::of(Profile::Balanced);
        let slow = |true_time: Duration| true_time - drift(true_time);
        for sent in (0..3_000).step_by(250) {
            for up in [0, 1, 700, 5_000] {
                for down in [0, 1, 5_999, 20_000] {
                    let (arrives, granted_at) = (MS(sent + up), MS(sent + up + down));
                    let granted = Some(Granted { epoch: Epoch(1), last: Mono(arrives) });
                    let mut lease = Lease::none("b", Epoch(1));
                    let report = BootTime(slow(MS(sent)));
                    lease.renew(&Grant { epoch: Epoch(1), boot: "b".to_owned(), sent: report, ttl: timing.ttl });
                    for now in (0..40_000).step_by(50).map(MS).filter(|now| *now >= granted_at) {
                        let passes = lease.passes(BootTime(slow(now)));
                        let over = over(granted, Epoch(1), Mono::default(), Mono(now), &timing);
                        assert!(!(passes && over), "sent {sent} up {up} down {down} at {now:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_new_controller_waits_for_leases_that_it_did_not_give() {
        let timing = Timing::of(Profile::Balanced);
        let over = |now| over(None, Epoch(1), Mono(MS(10_000)), Mono(MS(now)), &timing);
        assert!(!over(16_511) && over(16_512));
        // A primary that was re-affirmed and has not heard of it still answers under what it got in the reign before.
        let before = Some(Granted { epoch: Epoch(1), last: Mono(MS(12_000)) });
        let over = |now| super::over(before, Epoch(2), Mono(MS(10_000)), Mono(MS(now)), &timing);
        assert!(!over(18_511) && over(18_512));
    }
}
