//! Turns of leadership: hear, decide, tell, grant. They wait for nobody.
//!
//! A cluster that has a [`Heart`] is kept by two tasks. This one owns every step that bears on who leads: the record,
//! assignments, leases, and proof that an old primary has stopped. It plans by what was last known of the platform and
//! last heard of the agents, so that a platform that is slow or gone delays none of them. The other one, the
//! [`Keeper`](crate::keeper::Keeper), looks at the platform and owns every other step. Where the two could cross, in
//! what is stopped and destroyed, [`Vigil::go`] and [`Vigil::decide`] put them in order; beyond that the record's
//! compare-and-set makes every race safe.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flypg_core::Timestamp;
use flypg_core::keys::Key;
use flypg_core::plan::{Action, Step, Until};
use flypg_core::status::generation;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep};

use crate::act::{ActError, Actuator, LiveActuator, Trouble};
use crate::journal::Journal;
use crate::listen::Ears;
use crate::observe::{LiveObserver, Observer};
use crate::turn::{Part, StepResult, Turn, Wanted, Witness};
use crate::vigil::Vigil;
use crate::words::chain;

/// However quiet everybody is: leases end, and waits do, without a word from anybody.
const TICK: Duration = Duration::from_secs(1);
/// Between two turns, so that many reports that come at once are one reason.
const BREATH: Duration = Duration::from_millis(2);
/// Decisions in a row, with nothing heard in between, after which something is wrong with deciding.
const RUSH: u32 = 16;
/// Grants under way to one Machine: an agent that takes none needs no more of them.
const GRANTS: usize = 3;

/// Hears a cluster's agents and keeps its leadership, until it is dropped.
#[derive(Debug)]
pub struct Heart {
    pub(crate) ears: Ears,
    pub(crate) vigil: Arc<Vigil>,
    wish: watch::Sender<Wanted>,
    task: AbortHandle,
}

impl Heart {
    /// Begins to beat. `observer` and `actuator` are about the same `vigil`.
    pub fn start(
        wanted: Wanted,
        observer: LiveObserver,
        actuator: LiveActuator,
        master: &Key,
        witness: impl Witness + 'static,
        journal: Option<Arc<Mutex<Journal>>>,
    ) -> Self {
        let vigil = Arc::clone(&observer.vigil);
        let ears = Ears::new(observer.agents.clone(), master, wanted.name(), Arc::clone(&vigil));
        let (wish, wanted) = watch::channel(wanted);
        let lead = Lead::new(wanted, observer, actuator, witness, Arc::clone(&vigil), Timestamp::now, journal);
        let task = tokio::spawn(lead.run()).abort_handle();
        Self { ears, vigil, wish, task }
    }

    /// The file changed.
    pub(crate) fn want(&self, wanted: Wanted) {
        self.wish.send_replace(wanted);
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Keeps the leadership of one cluster.
#[derive(Debug)]
pub struct Lead<O, A, W> {
    wanted: watch::Receiver<Wanted>,
    observer: O,
    actuator: Arc<A>,
    witness: Arc<W>,
    vigil: Arc<Vigil>,
    clock: fn() -> Timestamp,
    journal: Option<Arc<Mutex<Journal>>>,
    calls: JoinSet<Step>,
    /// What is under way; a step is not begun again while the same is.
    under_way: Vec<Step>,
    /// Decisions since this last waited for anything.
    rush: u32,
}

/// What a turn came to.
struct Beat {
    /// The record changed, or may have: there is more to see at once.
    again: bool,
    /// When the next turn is due at the latest.
    next: Duration,
}

impl<O: Observer, A: Actuator + 'static, W: Witness + 'static> Lead<O, A, W> {
    pub fn new(
        wanted: watch::Receiver<Wanted>,
        observer: O,
        actuator: A,
        witness: W,
        vigil: Arc<Vigil>,
        clock: fn() -> Timestamp,
        journal: Option<Arc<Mutex<Journal>>>,
    ) -> Self {
        Self {
            wanted,
            observer,
            actuator: Arc::new(actuator),
            witness: Arc::new(witness),
            vigil,
            clock,
            journal,
            calls: JoinSet::new(),
            under_way: Vec::new(),
            rush: 0,
        }
    }

    /// Until nobody wants the cluster any more, or it is dropped; so do the calls that are under way then.
    pub async fn run(mut self) {
        loop {
            let beat = self.beat().await;
            if beat.again && self.rush < RUSH {
                self.rush += 1;
                continue;
            }
            if self.rush >= RUSH {
                tracing::warn!(cluster = %self.wanted.borrow().name(), "one decision follows the other; pausing");
                sleep(TICK).await;
            }
            self.rush = 0;
            let begun = Instant::now();
            let due = sleep(beat.next);
            tokio::pin!(due);
            loop {
                let vigil = Arc::clone(&self.vigil);
                tokio::select! {
                    () = vigil.called_to_lead() => break,
                    () = &mut due => break,
                    changed = self.wanted.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    Some(ended) = self.calls.join_next(), if !self.calls.is_empty() => self.ended(ended),
                }
            }
            sleep(BREATH.saturating_sub(begun.elapsed())).await;
        }
    }

    fn ended(&mut self, ended: Result<Step, tokio::task::JoinError>) {
        match ended {
            Ok(step) => {
                if let Some(at) = self.under_way.iter().position(|other| *other == step) {
                    self.under_way.swap_remove(at);
                }
            }
            Err(error) => {
                // Which one it was is not known; each may be begun again.
                tracing::error!(%error, "a call broke");
                self.under_way.clear();
            }
        }
    }

    async fn beat(&mut self) -> Beat {
        while let Some(ended) = self.calls.try_join_next() {
            self.ended(ended);
        }
        let wanted = self.wanted.borrow_and_update().clone();
        let at = (self.clock)();
        let scene = self.observer.lead(wanted.spec(), at).await;
        let plan = wanted.lead(&scene.observed, at);
        let next = due(plan.holds.iter().map(|hold| &hold.until));
        let mut turn = Turn { at, observed: scene.observed, plan, results: Vec::new(), part: Part::Leadership };
        self.witness.planned(&turn);
        let mut again = false;
        for step in turn.plan.steps.clone() {
            if !matches!(step.action, Action::Decide { .. }) {
                self.begin(&wanted, step);
                continue;
            }
            let done = self.decide(&wanted, step, scene.goings).await;
            let failed = done.result.is_err();
            again |= !failed || matches!(&done.result, Err(ActError::MaybeDone(_)));
            turn.results.push(done);
            if failed {
                break;
            }
        }
        if again {
            self.vigil.tell();
        }
        self.write_down(&wanted, &turn);
        Beat { again, next }
    }

    /// Changes the record, at once and before anything else: what follows from it is told by the same plan.
    async fn decide(&self, wanted: &Wanted, step: Step, goings: u64) -> StepResult {
        let begun = Instant::now();
        let swapped = self.vigil.decide(goings, self.actuator.act(&step.action)).await;
        let result = swapped.unwrap_or(Err(ActError::Refused(Trouble::Overtaken)));
        let took = begun.elapsed();
        self.witness.ended(wanted.name(), &step, &result, took);
        StepResult { step, result, took }
    }

    /// Sends a call on its way, unless the same is under way: an agent that hangs delays nobody.
    fn begin(&mut self, wanted: &Wanted, step: Step) {
        let about = |other: &&Step| match (&other.action, &step.action) {
            (Action::Renew { machine: other, .. }, Action::Renew { machine, .. }) => other == machine,
            (Action::ProveStopped { machine: other, .. }, Action::ProveStopped { machine, .. }) => other == machine,
            (other, this) => other == this,
        };
        let most = if matches!(step.action, Action::Renew { .. }) { GRANTS } else { 1 };
        if self.under_way.iter().filter(about).count() >= most {
            return;
        }
        if let Action::Renew { grant, arrived, .. } = &step.action {
            // Before anything else is decided: from now on this call may leave at any time (rule R2).
            self.vigil.grant(grant.epoch, *arrived);
        }
        self.under_way.push(step.clone());
        let (actuator, witness, cluster) =
            (Arc::clone(&self.actuator), Arc::clone(&self.witness), wanted.name().clone());
        self.calls.spawn(async move {
            witness.began(&cluster, &step);
            let begun = Instant::now();
            let result = actuator.act(&step.action).await;
            witness.ended(&cluster, &step, &result, begun.elapsed());
            step
        });
    }

    fn write_down(&self, wanted: &Wanted, turn: &Turn) {
        let Some(journal) = &self.journal else { return };
        let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = journal.write(generation(wanted.spec()), wanted, turn) {
            // The cluster matters more than its diary.
            tracing::warn!(cluster = %wanted.name(), error = chain(&error), "not written down");
        }
    }
}

/// When the first of these waits ends by the clock alone, and no later than a tick.
fn due<'a>(waits: impl Iterator<Item = &'a Until>) -> Duration {
    let ends = waits.filter_map(|until| match until {
        Until::LeaseOver { left_ms, .. } | Until::PledgeOver { left_ms, .. } | Until::LongLeaseOver { left_ms } => {
            Some(Duration::from_millis(*left_ms))
        }
        _ => None,
    });
    ends.min().map_or(TICK, |left| left.min(TICK)).max(BREATH)
}

#[cfg(test)]
mod fakes;
#[cfg(test)]
mod tests;

/// A report of a primary that is well.
#[cfg(test)]
pub(crate) fn a_report() -> flypg_core::protocol::NodeReport {
    tests::report(1)
}
