//! One turn: observe, plan, act. Nothing is decided here, nothing is retried, and nothing sleeps.

use std::time::Duration;

use flypg_core::Timestamp;
use flypg_core::names::ClusterName;
use flypg_core::observed::Observed;
use flypg_core::plan::{self, Plan, Step};
use flypg_core::spec::ClusterSpec;
use futures::StreamExt;
use tokio::time::Instant;

use crate::act::{ActError, Actuator, touches};
use crate::observe::Observer;

/// Steps of one stage that are under way at the same time.
const SIDE_BY_SIDE: usize = 16;

/// What is to become of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
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
}

#[derive(Debug)]
pub struct StepResult {
    pub step: Step,
    pub result: Result<(), ActError>,
    pub took: Duration,
}

impl Turn {
    pub fn failures(&self) -> impl Iterator<Item = (&Step, &ActError)> {
        self.results.iter().filter_map(|done| Some((&done.step, done.result.as_ref().err()?)))
    }

    /// Nothing was asked of the platform, so that what was seen of it still counts.
    pub fn left_platform_alone(&self) -> bool {
        self.results.iter().all(|done| touches(&done.step.action).is_empty())
    }
}

/// Looks at everything, plans, and acts.
pub async fn turn(
    observer: &mut impl Observer,
    actuator: &impl Actuator,
    wanted: &Wanted,
    clock: fn() -> Timestamp,
    witness: &impl Witness,
) -> Turn {
    let at = clock();
    let observed = observer.observe(wanted.spec(), at).await;
    let plan = wanted.plan(&observed, at);
    act(actuator, at, observed, plan, witness).await
}

/// Looks at the agents only, plans, and acts if the plan does not touch the platform: what was seen of that is too
/// old to change it by, so such a plan is made again after a look at everything.
pub async fn turn_on_report(
    observer: &mut impl Observer,
    actuator: &impl Actuator,
    wanted: &Wanted,
    seen: Observed,
    clock: fn() -> Timestamp,
    witness: &impl Witness,
) -> Turn {
    let at = clock();
    let observed = observer.listen(wanted.spec(), seen, at).await;
    let plan = wanted.plan(&observed, at);
    if plan.steps.iter().any(|step| !touches(&step.action).is_empty()) {
        return turn(observer, actuator, wanted, clock, witness).await;
    }
    act(actuator, at, observed, plan, witness).await
}

async fn act(actuator: &impl Actuator, at: Timestamp, observed: Observed, plan: Plan, witness: &impl Witness) -> Turn {
    let mut turn = Turn { at, observed, plan, results: Vec::new() };
    witness.planned(&turn);
    let cluster = &turn.plan.cluster;
    for stage in turn.plan.steps.chunk_by(|a, b| a.action.stage() == b.action.stage()) {
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
        let results: Vec<_> = futures::stream::iter(stage.iter().map(carry_out)).buffered(SIDE_BY_SIDE).collect().await;
        let failed = results.iter().any(|done| done.result.is_err());
        turn.results.extend(results);
        if failed {
            break;
        }
    }
    turn
}

#[cfg(test)]
mod tests;
