//! One turn: observe, plan, act. Nothing is decided here, nothing is retried, and nothing sleeps.

use std::time::Duration;

use flypg_core::Timestamp;
use flypg_core::names::ClusterName;
use flypg_core::observed::Observed;
use flypg_core::plan::{self, Action, Hold, Plan, Stage, Step, Work};
use flypg_core::spec::{ClusterSpec, Deletion};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::act::{ActError, Actuator, touches};
use crate::observe::Observer;
use crate::vigil::Vigil;

/// Steps of one stage that are under way at the same time.
const SIDE_BY_SIDE: usize = 16;

/// What is to become of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// It stands in the files.
    Kept(ClusterSpec),
    /// It left the files; this is the last that they said.
    Removed(ClusterSpec),
}

impl Wanted {
    pub fn spec(&self) -> &ClusterSpec {
        match self {
            Self::Kept(spec) | Self::Removed(spec) => spec,
        }
    }

    pub fn name(&self) -> &ClusterName {
        &self.spec().name
    }

    pub fn plan(&self, observed: &Observed, now: Timestamp) -> Plan {
        match self {
            Self::Kept(spec) => plan::plan(spec, observed, now),
            Self::Removed(spec) => plan::plan_removal(spec, observed, now),
        }
    }

    /// The part of [`Wanted::plan`] that bears on who leads. A cluster that is being taken down needs no leader.
    pub fn lead(&self, observed: &Observed, now: Timestamp) -> Plan {
        match self {
            Self::Kept(spec) => plan::leadership(spec, observed, now),
            Self::Removed(spec) if spec.deletion == Deletion::Protect => plan::leadership(spec, observed, now),
            Self::Removed(spec) => {
                let mut plan = plan::plan_removal(spec, observed, now);
                plan.steps.retain(|step| step.action.is_leadership());
                plan
            }
        }
    }

    /// Every turn from here, as far as it can be foreseen.
    pub fn forecast(&self, observed: &Observed, now: Timestamp) -> Vec<Plan> {
        match self {
            Self::Kept(spec) => plan::forecast(spec, observed, now),
            Self::Removed(spec) => plan::forecast_removal(spec, observed, now),
        }
    }

    /// It was to go, and nothing of it is left: neither app nor record.
    pub fn is_gone(&self, observed: &Observed) -> bool {
        matches!(self, Self::Removed(_))
            && matches!(observed.app.known(), Some(None))
            && matches!(observed.record.known(), Some(None))
    }
}

/// Somebody who follows what is done, as it is done.
pub trait Witness: Send + Sync {
    fn began(&self, _cluster: &ClusterName, _step: &Step) {}
    fn ended(&self, _cluster: &ClusterName, _step: &Step, _result: &Result<(), ActError>, _took: Duration) {}
    fn planned(&self, _turn: &Turn) {}
}

/// Nobody.
impl Witness for () {}

impl<W: Witness + ?Sized> Witness for std::sync::Arc<W> {
    fn began(&self, cluster: &ClusterName, step: &Step) {
        (**self).began(cluster, step);
    }

    fn ended(&self, cluster: &ClusterName, step: &Step, result: &Result<(), ActError>, took: Duration) {
        (**self).ended(cluster, step, result, took);
    }

    fn planned(&self, turn: &Turn) {
        (**self).planned(turn);
    }
}

/// What one turn saw, wanted and did.
#[derive(Debug)]
pub struct Turn {
    pub at: Timestamp,
    /// What the plan was made on. Where the platform was touched since, nobody plans on it again.
    pub observed: Observed,
    pub plan: Plan,
    /// In the order of the plan. Fewer than its steps if one failed: the stages behind it were not begun.
    pub results: Vec<StepResult>,
    pub part: Part,
}

/// Which steps of a plan a turn carries out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    #[default]
    All,
    /// Who leads: [`crate::lead`].
    Leadership,
    /// All but who leads, which is another task's.
    Rest,
}

impl Part {
    /// Whether a turn with this part is the one to tell of what is held: of each hold one is.
    pub fn tells(self, work: &Work) -> bool {
        let of_leadership =
            matches!(work, Work::Bootstrap | Work::Failover { .. } | Work::Switchover { .. } | Work::Rule);
        match self {
            Part::All => true,
            Part::Leadership => of_leadership,
            Part::Rest => !of_leadership,
        }
    }

    pub fn has(self, action: &Action) -> bool {
        match self {
            Part::All => true,
            Part::Leadership => action.is_leadership(),
            Part::Rest => !action.is_leadership(),
        }
    }
}

#[derive(Debug)]
pub struct StepResult {
    pub step: Step,
    pub result: Result<(), ActError>,
    pub took: Duration,
}

impl Turn {
    /// The steps that were this turn's to carry out, and change something.
    pub fn own(&self) -> impl Iterator<Item = &Step> {
        self.plan.changes().filter(|step| self.part.has(&step.action))
    }

    /// The holds that are this turn's to tell of.
    pub fn holds(&self) -> impl Iterator<Item = &Hold> {
        self.plan.holds.iter().filter(|hold| self.part.tells(&hold.what))
    }

    pub fn failures(&self) -> impl Iterator<Item = (&Step, &ActError)> {
        self.results.iter().filter_map(|done| Some((&done.step, done.result.as_ref().err()?)))
    }

    /// Nothing was asked of the platform, so that what was seen of it still counts.
    pub fn left_platform_alone(&self) -> bool {
        self.results.iter().all(|done| touches(&done.step.action).is_empty())
    }
}

/// The one who turns: eyes, hands, and what is known between two turns.
#[derive(Debug)]
pub struct Hands<'a, O, A, W> {
    pub observer: &'a mut O,
    pub actuator: &'a A,
    pub vigil: &'a Vigil,
    pub clock: fn() -> Timestamp,
    pub witness: &'a W,
    pub part: Part,
}

/// Looks at everything, plans, and acts.
pub async fn turn<O: Observer, A: Actuator, W: Witness>(hands: &mut Hands<'_, O, A, W>, wanted: &Wanted) -> Turn {
    let at = (hands.clock)();
    let observed = hands.observer.observe(wanted.spec(), at).await;
    let plan = wanted.plan(&observed, at);
    act(hands, wanted, at, observed, plan).await
}

/// Hears the agents only, plans, and acts if the plan does not touch the platform: what was seen of that is too old to
/// change it by, so such a plan is made again after a look at everything.
pub async fn turn_on_report<O: Observer, A: Actuator, W: Witness>(
    hands: &mut Hands<'_, O, A, W>,
    wanted: &Wanted,
    seen: Observed,
) -> Turn {
    let at = (hands.clock)();
    let observed = hands.observer.listen(wanted.spec(), seen, at).await;
    let plan = wanted.plan(&observed, at);
    if plan.steps.iter().any(|step| hands.part.has(&step.action) && !touches(&step.action).is_empty()) {
        return turn(hands, wanted).await;
    }
    act(hands, wanted, at, observed, plan).await
}

async fn act<O: Observer, A: Actuator, W: Witness>(
    hands: &mut Hands<'_, O, A, W>,
    wanted: &Wanted,
    at: Timestamp,
    observed: Observed,
    plan: Plan,
) -> Turn {
    let mut turn = Turn { at, observed, plan, results: Vec::new(), part: hands.part };
    hands.witness.planned(&turn);
    let (actuator, witness, part) = (hands.actuator, hands.witness, hands.part);
    for stage in turn.plan.steps.chunk_by(|a, b| a.action.stage() == b.action.stage()) {
        // A Machine that is being proven stopped is started when that is done.
        let is_ours = |step: &&Step| part.has(&step.action) && !is_being_proven(hands.vigil, &step.action);
        let steps: Vec<&Step> = stage.iter().filter(is_ours).collect();
        if steps.is_empty() {
            continue;
        }
        if part == Part::Rest && !may_disturb(hands, wanted, &turn.observed, &steps).await {
            break;
        }
        let cluster = &turn.plan.cluster;
        let carry_out = |step: &Step| {
            let step = step.clone();
            async move {
                witness.began(cluster, &step);
                let begun = Instant::now();
                let result = actuator.act(&step.action).await;
                let took = begun.elapsed();
                witness.ended(cluster, &step, &result, took);
                StepResult { step, result, took }
            }
        };
        let results: Vec<_> =
            futures::stream::iter(steps.into_iter().map(carry_out)).buffered(SIDE_BY_SIDE).collect().await;
        let failed = results.iter().any(|done| done.result.is_err());
        turn.results.extend(results);
        if failed {
            break;
        }
    }
    turn
}

fn is_being_proven(vigil: &Vigil, action: &Action) -> bool {
    matches!(action, Action::StartMachine { machine, .. } if vigil.is_proving(machine))
}

/// Whoever decides who leads does so beside this turn, and may have chosen since the look that it was planned on what is
/// about to be disturbed or removed. From here on it counts on none of that, or else this turn is over.
async fn may_disturb<O: Observer, A: Actuator, W: Witness>(
    hands: &mut Hands<'_, O, A, W>,
    wanted: &Wanted,
    seen: &Observed,
    steps: &[&Step],
) -> bool {
    if !steps.iter().any(|step| matches!(step.action.stage(), Stage::Disturb | Stage::Remove)) {
        return true;
    }
    let going: Vec<&str> = steps
        .iter()
        .filter_map(|step| match &step.action {
            Action::StopMachine { machine, .. } | Action::DestroyMachine { machine, .. } => Some(machine.as_str()),
            _ => None,
        })
        .collect();
    hands.vigil.go(&going, hands.observer.is_current(wanted.spec(), seen)).await
}

#[cfg(test)]
mod tests;
