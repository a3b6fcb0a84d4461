//! Keeps one cluster: turn after turn, with a rest between them that ends when there is a reason to look again.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flypg_core::Timestamp;
use flypg_core::failover::lease::Timing;
use flypg_core::observed::Observed;
use flypg_core::status::generation;
use tokio::time::{Instant, sleep_until};

use crate::act::Actuator;
use crate::journal::Journal;
use crate::lead::Heart;
use crate::observe::Observer;
use crate::pace::{Look, Next, Pace};
use crate::turn::{Hands, Part, Turn, Wanted, Witness, turn, turn_on_report};
use crate::vigil::Vigil;

/// What was seen of the platform is not planned on for longer than this, whatever the agents say.
const FRESH: Duration = Duration::from_secs(5);
/// Between two turns that agents' reports set off: a clone's progress is no reason to spin.
const BREATH: Duration = Duration::from_millis(50);

/// Keeps one cluster.
#[derive(Debug)]
pub struct Keeper<O, A, W> {
    pub wanted: Wanted,
    observer: O,
    actuator: A,
    witness: W,
    clock: fn() -> Timestamp,
    pace: Pace,
    vigil: Arc<Vigil>,
    heart: Option<Heart>,
    journal: Option<Arc<Mutex<Journal>>>,
    /// The last look at the platform, if nothing was asked of it since.
    seen: Option<(Instant, Observed)>,
    next: Next,
    rested_at: Instant,
}

/// Why a rest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// Its time had come.
    Due,
    /// An agent has something to say.
    Heard,
}

impl<O: Observer, A: Actuator, W: Witness> Keeper<O, A, W> {
    pub fn new(wanted: Wanted, observer: O, actuator: A, witness: W, clock: fn() -> Timestamp) -> Self {
        Self {
            wanted,
            observer,
            actuator,
            witness,
            clock,
            pace: Pace::default(),
            vigil: Arc::default(),
            heart: None,
            journal: None,
            seen: None,
            next: Next { after: Duration::ZERO, look: Look::Everything },
            rested_at: Instant::now(),
        }
    }

    /// Leadership is the heart's from now on, and what its ears hear ends a rest.
    pub fn with_heart(mut self, heart: Heart) -> Self {
        self.vigil = Arc::clone(&heart.vigil);
        self.heart = Some(heart);
        self
    }

    /// Turns are written down.
    pub fn with_journal(mut self, journal: Arc<Mutex<Journal>>) -> Self {
        self.journal = Some(journal);
        self
    }

    /// The file changed: nothing that was learned about the old wish counts, least of all how long to wait.
    pub fn want(&mut self, wanted: Wanted) {
        if let Some(heart) = &self.heart {
            heart.want(wanted.clone());
        }
        self.wanted = wanted;
        self.pace = Pace::default();
        self.next = Next { after: Duration::ZERO, look: Look::Everything };
    }

    /// Turns in a row that got nowhere, once there are too many.
    pub fn stuck(&self) -> Option<u32> {
        self.pace.stuck()
    }

    /// When the next turn comes at the latest.
    pub fn next(&self) -> Next {
        self.next
    }

    /// One turn.
    pub async fn turn(&mut self) -> Turn {
        // Taken before anything is asked for: a turn that touches the platform, or does not end, leaves it unknown.
        let seen = self.seen.take().filter(|(at, _)| self.next.look == Look::Reports && at.elapsed() < FRESH);
        let begun = Instant::now();
        let mut hands = Hands {
            observer: &mut self.observer,
            actuator: &self.actuator,
            vigil: &self.vigil,
            clock: self.clock,
            witness: &self.witness,
            part: if self.heart.is_some() { Part::Rest } else { Part::All },
        };
        let (seen_at, turn) = match seen {
            Some((at, seen)) => (at, turn_on_report(&mut hands, &self.wanted, seen).await),
            None => (begun, turn(&mut hands, &self.wanted).await),
        };
        if turn.left_platform_alone() {
            self.seen = Some((seen_at, turn.observed.clone()));
        }
        if let Some(heart) = &mut self.heart {
            let decree = turn.observed.record.known().and_then(Option::as_ref);
            let profile = decree.map_or(self.wanted.spec().failover.profile, |decree| decree.profile);
            heart.ears.attend(&turn.observed, &Timing::of(profile));
        }
        if let Some(journal) = &self.journal {
            let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = journal.write(generation(self.wanted.spec()), &self.wanted, &turn) {
                // The cluster matters more than its diary.
                tracing::warn!(cluster = %self.wanted.name(), error = crate::words::chain(&error), "not written down");
            }
        }
        self.next = self.pace.after(&turn, chance());
        self.rested_at = Instant::now();
        turn
    }

    /// Rests until the next turn is due, or an agent has something to say. May be dropped and called again.
    pub async fn rest(&mut self) -> Woken {
        let due = sleep_until(self.rested_at + self.next.after);
        if self.heart.is_none() {
            due.await;
            return Woken::Due;
        }
        tokio::select! {
            () = due => Woken::Due,
            () = self.vigil.heard() => {
                sleep_until(self.rested_at + BREATH).await;
                self.next.look = Look::Reports;
                Woken::Heard
            }
        }
    }
}

/// 0 to 1, different every time.
fn chance() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    (random >> 11) as f64 / (1_u64 << 53) as f64
}
