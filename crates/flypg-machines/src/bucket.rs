//! Token buckets at Fly's published limits: per action and per identifier 1 request a second with bursts to 3, `Get
//! Machine` 5 with bursts to 10, 100 app deletions a minute (docs, "Working with the Machines API", rate limits).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Which bucket a request draws from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BucketKey {
    class: BucketClass,
    action: &'static str,
    subject: String,
}

/// Which of the limits a bucket is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BucketClass {
    General,
    GetMachine,
    AppDeletion,
}

impl BucketKey {
    /// `subject`: the Machine, volume or app that the call is about.
    pub(crate) fn new(action: &'static str, subject: &str) -> Self {
        Self { class: BucketClass::General, action, subject: subject.to_owned() }
    }

    pub(crate) fn get_machine(machine: &str) -> Self {
        let class = BucketClass::GetMachine;
        Self { class, action: "machines.get", subject: machine.to_owned() }
    }

    /// One for all apps.
    pub(crate) fn app_deletion() -> Self {
        Self { class: BucketClass::AppDeletion, action: "apps.delete", subject: String::new() }
    }

    pub fn class(&self) -> BucketClass {
        self.class
    }
}

impl fmt::Display for BucketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.subject.is_empty() { f.write_str(self.action) } else { write!(f, "{} {}", self.action, self.subject) }
    }
}

/// One token every `every`, and at most `burst` at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub every: Duration,
    pub burst: u32,
}

/// How fast requests may leave. `None`: as fast as they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub general: Option<Rate>,
    pub get_machine: Option<Rate>,
    pub app_deletion: Option<Rate>,
}

impl Limits {
    /// What Fly allows.
    pub const fn fly() -> Self {
        Self {
            general: Some(Rate { every: Duration::from_secs(1), burst: 3 }),
            get_machine: Some(Rate { every: Duration::from_millis(200), burst: 10 }),
            // 10 at once and 90 a minute: never more than 100 in any minute.
            app_deletion: Some(Rate { every: Duration::from_nanos(60_000_000_000 / 90), burst: 10 }),
        }
    }

    /// No limits: for an emulator on this computer.
    pub const fn none() -> Self {
        Self { general: None, get_machine: None, app_deletion: None }
    }

    /// `times` as fast, with the same bursts. Zero or less makes no sense and is taken for 1.
    pub fn faster(self, times: f64) -> Self {
        let times = if times > 0.0 && times.is_finite() { times } else { 1.0 };
        let scale = |rate: Option<Rate>| {
            rate.map(|Rate { every, burst }| {
                let every = Duration::try_from_secs_f64(every.as_secs_f64() / times);
                Rate { every: every.unwrap_or(Duration::MAX), burst }
            })
        };
        Self {
            general: scale(self.general),
            get_machine: scale(self.get_machine),
            app_deletion: scale(self.app_deletion),
        }
    }

    fn rate(&self, class: BucketClass) -> Option<Rate> {
        match class {
            BucketClass::General => self.general,
            BucketClass::GetMachine => self.get_machine,
            BucketClass::AppDeletion => self.app_deletion,
        }
    }
}

/// Every bucket that is not full. Pure: the time is an argument.
///
/// A bucket is one instant: when it will be full again (the "generic cell rate algorithm"). Once that has passed it
/// says nothing, so full buckets are forgotten.
#[derive(Clone, Debug)]
pub struct Buckets {
    limits: Limits,
    full_at: BTreeMap<BucketKey, Instant>,
    sweep_at_len: usize,
}

/// Below this many buckets nothing is swept.
const SWEEP_FLOOR: usize = 1024;

/// The bucket is empty for longer than the caller can wait. Nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shut {
    /// When there would be a token.
    pub wait: Duration,
}

impl Buckets {
    pub fn new(limits: Limits) -> Self {
        Self { limits, full_at: BTreeMap::new(), sweep_at_len: SWEEP_FLOOR }
    }

    /// Takes the next token and says how long to wait before it may be used.
    ///
    /// # Errors
    /// [`Shut`] when that is longer than `patience`; the token stays.
    pub fn take(&mut self, key: &BucketKey, now: Instant, patience: Duration) -> Result<Duration, Shut> {
        let Some(Rate { every, burst }) = self.limits.rate(key.class) else {
            return Ok(Duration::ZERO);
        };
        let full_at = self.full_at.get(key).copied().unwrap_or(now).max(now) + every;
        // Full again in `burst * every`: this was the last token. Later than that: it is not there yet.
        let wait = full_at.duration_since(now).saturating_sub(every.saturating_mul(burst.max(1)));
        if wait > patience {
            return Err(Shut { wait });
        }
        self.full_at.insert(key.clone(), full_at);
        self.sweep(now);
        Ok(wait)
    }

    /// Forgets full buckets, each time their number has doubled since the last sweep.
    fn sweep(&mut self, now: Instant) {
        if self.full_at.len() < self.sweep_at_len {
            return;
        }
        self.full_at.retain(|_, full_at| *full_at > now);
        self.sweep_at_len = SWEEP_FLOOR.max(self.full_at.len() * 2);
    }

    /// How many buckets are remembered.
    pub fn len(&self) -> usize {
        self.full_at.len()
    }

    pub fn is_empty(&self) -> bool {
        self.full_at.is_empty()
    }
}

/// [`Buckets`] that are shared, and waited at.
#[derive(Debug)]
pub(crate) struct Gate {
    buckets: Mutex<Buckets>,
}

impl Gate {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { buckets: Mutex::new(Buckets::new(limits)) }
    }

    /// Returns when a request may leave, in the order of arrival.
    ///
    /// # Errors
    /// [`Shut`], at once, if that would be after `patience`.
    pub(crate) async fn pass(&self, key: &BucketKey, patience: Duration) -> Result<(), Shut> {
        let wait = self.lock().take(key, Instant::now(), patience)?;
        if !wait.is_zero() {
            tracing::debug!(bucket = %key, ?wait, "waiting for a token");
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Buckets> {
        // A panic while it was held cannot have left it half changed: `take` inserts as its last step.
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LONG: Duration = Duration::from_secs(3600);

    /// When each of `n` requests that all come at once may leave.
    fn schedule(buckets: &mut Buckets, key: &BucketKey, now: Instant, n: usize) -> Vec<Duration> {
        (0..n).map(|_| buckets.take(key, now, LONG).unwrap()).collect()
    }

    #[test]
    fn three_at_once_then_one_a_second() {
        let mut buckets = Buckets::new(Limits::fly());
        let waits = schedule(&mut buckets, &BucketKey::new("machines.stop", "m1"), Instant::now(), 6);
        assert_eq!(waits, [0, 0, 0, 1, 2, 3].map(Duration::from_secs));
    }

    #[test]
    fn reading_one_machine_is_cheaper() {
        let mut buckets = Buckets::new(Limits::fly());
        let waits = schedule(&mut buckets, &BucketKey::get_machine("m1"), Instant::now(), 12);
        assert_eq!(waits[9], Duration::ZERO);
        assert_eq!(waits[11], Duration::from_millis(400));
    }

    #[test]
    fn never_more_than_a_hundred_app_deletions_in_any_minute() {
        let mut buckets = Buckets::new(Limits::fly());
        let waits = schedule(&mut buckets, &BucketKey::app_deletion(), Instant::now(), 400);
        for (first, after) in waits.iter().zip(waits.iter().skip(100)) {
            assert!(*after - *first >= Duration::from_secs(60), "{first:?} … {after:?}");
        }
    }

    #[test]
    fn actions_and_subjects_do_not_share() {
        let mut buckets = Buckets::new(Limits::fly());
        let now = Instant::now();
        for key in [
            BucketKey::new("machines.stop", "m1"),
            BucketKey::new("machines.stop", "m2"),
            BucketKey::new("machines.start", "m1"),
        ] {
            assert_eq!(schedule(&mut buckets, &key, now, 3), [Duration::ZERO; 3], "{key}");
        }
    }

    #[test]
    fn tokens_come_back_with_time() {
        let mut buckets = Buckets::new(Limits::fly());
        let (key, now) = (BucketKey::new("machines.stop", "m1"), Instant::now());
        schedule(&mut buckets, &key, now, 3);
        assert_eq!(buckets.take(&key, now + SECOND, LONG), Ok(Duration::ZERO));
        assert_eq!(buckets.take(&key, now + SECOND, LONG), Ok(SECOND));
        // A clock that seems to step back does no harm.
        assert_eq!(buckets.take(&key, now, LONG), Ok(3 * SECOND));
    }

    #[test]
    fn a_shut_bucket_takes_nothing() {
        let mut buckets = Buckets::new(Limits::fly());
        let (key, now) = (BucketKey::new("machines.stop", "m1"), Instant::now());
        schedule(&mut buckets, &key, now, 3);
        for _ in 0..5 {
            assert_eq!(buckets.take(&key, now, Duration::ZERO), Err(Shut { wait: SECOND }));
        }
        assert_eq!(buckets.take(&key, now, SECOND), Ok(SECOND));
    }

    #[test]
    fn full_buckets_are_forgotten() {
        let mut buckets = Buckets::new(Limits::fly());
        let start = Instant::now();
        for i in 0..100_000_u32 {
            let key = BucketKey::new("machines.stop", &format!("m{i}"));
            buckets.take(&key, start + i * Duration::from_millis(10), LONG).unwrap();
            assert!(buckets.len() <= SWEEP_FLOOR, "{} after {i}", buckets.len());
        }
    }

    #[test]
    fn no_limits_remember_nothing_and_faster_is_faster() {
        let key = BucketKey::new("machines.stop", "m1");
        let mut none = Buckets::new(Limits::none());
        assert_eq!(schedule(&mut none, &key, Instant::now(), 50), [Duration::ZERO; 50]);
        assert!(none.is_empty());
        let mut fast = Buckets::new(Limits::fly().faster(10.0));
        assert_eq!(schedule(&mut fast, &key, Instant::now(), 4)[3], SECOND / 10);
        assert_eq!(Limits::fly().faster(0.0), Limits::fly());
        assert_eq!(Limits::fly().faster(f64::NAN), Limits::fly());
    }
}
