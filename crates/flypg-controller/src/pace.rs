//! When the next turn comes. Pure: what it remembers are counts, and chance is an argument.

use std::time::Duration;

use flypg_core::plan::{Hold, Step, Until};

use crate::turn::Turn;

/// Everything is looked at this often even if nothing is known to have changed.
const SWEEP: Duration = Duration::from_secs(10);
/// After a failure.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// While the platform cannot be read.
const BLIND: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// While something ends by itself.
const WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Waits in a row, about two minutes, after which something does not come soon.
const LONG_WAIT: u32 = 60;
/// While what was done does not show.
const REPEAT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Turns in a row that did the same, before somebody should look.
const STUCK_AFTER: u32 = 10;

/// How a cluster's last turns went.
#[derive(Debug, Default)]
pub struct Pace {
    /// Turns in a row in which a step failed.
    failures: u32,
    /// Turns in a row in which the platform could not be read.
    blind: u32,
    /// Turns in a row that waited and did nothing.
    waits: u32,
    /// Turns in a row that did what the one before had done already.
    repeats: u32,
    last: Vec<Step>,
}

/// What the next turn has to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    Everything,
    /// What is waited for, the agents will tell.
    Reports,
}

/// When the next turn comes at the latest, and what it looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    pub after: Duration,
    pub look: Look,
}

impl Pace {
    /// Takes note of a turn. `chance`: 0 to 1, so that many clusters do not march in step.
    pub fn after(&mut self, turn: &Turn, chance: f64) -> Next {
        let failed = turn.failures().next().is_some();
        let own: Vec<Step> = turn.own().cloned().collect();
        let acted = !own.is_empty();
        let repeated = acted && own == self.last;
        // Steps of leadership that are another task's are under way there.
        let elsewhere = turn.plan.changes().count() > own.len();
        let waits = elsewhere || turn.plan.holds.iter().any(|hold| hold.until.is_wait());
        let blind = turn.plan.holds.iter().any(|hold| matches!(hold.until, Until::Readable { .. }));
        count(&mut self.failures, failed);
        count(&mut self.repeats, repeated);
        count(&mut self.blind, blind && !acted);
        count(&mut self.waits, waits && !acted);
        self.last = own;

        let after = if failed {
            growing(BACK_OFF, self.failures)
        } else if repeated {
            growing(REPEAT, self.repeats)
        } else if acted {
            Duration::ZERO
        } else if blind {
            growing(BLIND, self.blind)
        } else if waits && self.waits <= LONG_WAIT {
            growing(WAIT, self.waits)
        } else {
            SWEEP
        };
        let look = if acted && turn.left_platform_alone() && !failed
            || !acted && agents_will_tell(&turn.plan.holds, elsewhere)
        {
            Look::Reports
        } else {
            Look::Everything
        };
        Next { after: after.mul_f64(0.9 + 0.2 * chance), look }
    }

    /// How many turns in a row have done the same without the world changing, once that is too many.
    pub fn stuck(&self) -> Option<u32> {
        let turns = self.repeats.max(self.failures);
        (turns >= STUCK_AFTER).then_some(turns)
    }
}

fn count(counter: &mut u32, again: bool) {
    *counter = if again { counter.saturating_add(1) } else { 0 };
}

/// Doubles from the first to the second.
fn growing((first, most): (Duration, Duration), times: u32) -> Duration {
    first.saturating_mul(1 << times.saturating_sub(1).min(16)).min(most)
}

/// Nothing that is waited for shows on the platform.
fn agents_will_tell(holds: &[Hold], elsewhere: bool) -> bool {
    let mut waits = holds.iter().filter(|hold| hold.until.is_wait()).peekable();
    (elsewhere || waits.peek().is_some()) && waits.all(|hold| !hold.until.shows_on_platform())
}

#[cfg(test)]
mod tests {
    use flypg_core::Timestamp;
    use flypg_core::failover::Verdict;
    use flypg_core::observed::Observed;
    use flypg_core::plan::{Action, Plan, Risk, Subject, Why, Work};

    use super::*;
    use crate::act::{ActError, Trouble};
    use crate::turn::{Part, StepResult};

    fn turn(steps: Vec<Step>, holds: Vec<Until>, fails: bool) -> Turn {
        let results = steps.iter().map(|step| StepResult {
            step: step.clone(),
            result: if fails { Err(ActError::Refused(Trouble::NoMasterKey)) } else { Ok(()) },
            took: Duration::ZERO,
        });
        let results = results.collect();
        let holds = holds.into_iter().map(|until| Hold { what: Work::Everything, until }).collect();
        Turn {
            at: Timestamp::UNIX_EPOCH,
            observed: Observed::default(),
            plan: Plan { cluster: "orders-db".parse().unwrap(), verdict: Verdict::Unknown, steps, holds },
            results,
            part: Part::All,
        }
    }

    fn delete_app(name: &str) -> Step {
        let action = Action::DeleteApp { app: name.parse().unwrap() };
        Step { action, why: Why::ClusterLeft, risk: Risk::None, pauses_writes_ms: None }
    }

    fn millis(pace: &mut Pace, turn: &Turn) -> u128 {
        pace.after(turn, 0.5).after.as_millis()
    }

    #[test]
    fn progress_goes_on_at_once_and_quiet_is_swept() {
        let mut pace = Pace::default();
        assert_eq!(millis(&mut pace, &turn(vec![delete_app("one")], vec![], false)), 0);
        assert_eq!(millis(&mut pace, &turn(vec![delete_app("two")], vec![], false)), 0);
        assert_eq!(millis(&mut pace, &turn(vec![], vec![], false)), 10_000);
        let early = pace.after(&turn(vec![], vec![], false), 0.0).after;
        let late = pace.after(&turn(vec![], vec![], false), 1.0).after;
        assert_eq!((early.as_secs(), late.as_secs()), (9, 11));
    }

    #[test]
    fn what_does_not_show_is_not_hammered_and_gets_stuck() {
        let mut pace = Pace::default();
        let same = turn(vec![delete_app("one")], vec![], false);
        let delays: Vec<_> = (0..12).map(|_| millis(&mut pace, &same)).collect();
        assert_eq!(delays, [0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000, 10_000]);
        assert_eq!(pace.stuck(), Some(11));
        let other = turn(vec![delete_app("two")], vec![], false);
        assert_eq!(millis(&mut pace, &other), 0);
        assert_eq!(pace.stuck(), None);
    }

    #[test]
    fn failures_back_off_and_success_forgets_them() {
        let mut pace = Pace::default();
        let failing = turn(vec![delete_app("one")], vec![], true);
        let delays: Vec<_> = (0..9).map(|_| millis(&mut pace, &failing)).collect();
        assert_eq!(delays, [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        millis(&mut pace, &turn(vec![], vec![], false));
        assert_eq!(millis(&mut pace, &failing), 250);
        let blind = Until::Readable { what: Subject::Machines, error: "503".to_owned() };
        let blind = turn(vec![], vec![blind], false);
        let delays: Vec<_> = (0..7).map(|_| millis(&mut pace, &blind)).collect();
        assert_eq!(delays, [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
    }

    #[test]
    fn a_wait_is_watched_closely_for_a_while() {
        let mut pace = Pace::default();
        let wait = || turn(vec![], vec![Until::Bootstrapped { node: "ord-1".parse().unwrap() }], false);
        let delays: Vec<_> = (0..LONG_WAIT + 2).map(|_| millis(&mut pace, &wait())).collect();
        assert_eq!(delays[..6], [100, 200, 400, 800, 1600, 2000]);
        assert_eq!(delays[delays.len() - 3..], [2000, 10_000, 10_000]);
        millis(&mut pace, &turn(vec![delete_app("one")], vec![], false));
        assert_eq!(millis(&mut pace, &wait()), 100);
    }

    #[test]
    fn who_waits_for_an_agent_does_not_ask_the_platform() {
        let node = || "ord-1".parse().unwrap();
        let mut pace = Pace::default();
        let mut look = |holds| pace.after(&turn(vec![], holds, false), 0.5).look;
        assert_eq!(look(vec![Until::Bootstrapped { node: node() }]), Look::Reports);
        assert_eq!(
            look(vec![Until::Bootstrapped { node: node() }, Until::MachineSettled { node: node() }]),
            Look::Everything
        );
        assert_eq!(look(vec![]), Look::Everything, "a sweep is a look at everything");
    }
}
