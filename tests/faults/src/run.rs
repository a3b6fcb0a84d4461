//! One run of one scenario.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::chance::Chance;
use crate::checker::{Anomaly, Flow, Promise, check, flow};
use crate::clock::{self, Stillness};
use crate::history::{History, Op};
use crate::rig::{Broken, Rig};
use crate::scenario::{Durability, Order, Part, Plot, Processes, Scenario, Step, Who};

/// Acknowledged writes that a run must have before the fault and again after it, and that `Acknowledges` waits for.
const ENOUGH: usize = 50;

/// A run during which even this program was not let run for so long says more about the computer than about a cluster.
const STILL: Duration = Duration::from_secs(5);

/// How a run went.
#[derive(Debug)]
pub struct Outcome {
    pub scenario: &'static str,
    pub seed: u64,
    pub flow: Flow,
    /// Longer than the scenario's bound.
    pub over: bool,
    pub anomalies: BTreeSet<Anomaly>,
    /// Why it did not come to its end, or proves nothing.
    pub broken: Option<Broken>,
    /// What was done, and when.
    pub story: Vec<String>,
    /// Where the files of a run that failed are.
    pub kept: Option<PathBuf>,
}

impl Outcome {
    /// Of a run that did not get anywhere, for this reason.
    #[must_use]
    pub fn unfinished(scenario: &'static str, seed: u64, why: Broken) -> Self {
        Self { broken: Some(why), ..Self::begun(scenario, seed) }
    }

    fn begun(scenario: &'static str, seed: u64) -> Self {
        Self {
            scenario,
            seed,
            flow: Flow::default(),
            over: false,
            anomalies: BTreeSet::new(),
            broken: None,
            story: Vec::new(),
            kept: None,
        }
    }

    #[must_use]
    pub fn good(&self) -> bool {
        self.anomalies.is_empty() && self.broken.is_none()
    }

    fn count(&self, which: fn(&Anomaly) -> bool) -> usize {
        self.anomalies.iter().filter(|anomaly| which(anomaly)).count()
    }
}

/// One line: what every run is compared by.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Flow { before, during, after, outage } = &self.flow;
        let lost = self.count(|a| matches!(a, Anomaly::Lost { .. } | Anomaly::Unread { .. }));
        let overlaps =
            self.count(|a| matches!(a, Anomaly::TwoPrimaries { .. } | Anomaly::Fork { .. } | Anomaly::Late { .. }));
        let reads = self.count(|a| matches!(a, Anomaly::Stale { .. } | Anomaly::Receded { .. }));
        let diverged = self.count(|a| matches!(a, Anomaly::Diverged { .. }));
        write!(
            f,
            "{:<4} {:<40} outage {:>6} ms{} acks {before}+{during}+{after} lost {lost} overlaps {overlaps} stale {reads} \
             diverged {diverged} seed {}",
            if self.good() { "ok" } else { "FAIL" },
            self.scenario,
            clock::millis(*outage),
            if self.over { "*" } else { " " },
            self.seed,
        )?;
        if let Some(broken) = &self.broken {
            write!(f, "\n     {}", broken.trim_end().replace('\n', "\n     "))?;
        }
        self.anomalies.iter().take(10).try_for_each(|anomaly| write!(f, "\n     {anomaly}"))?;
        if !self.good() {
            self.story.iter().try_for_each(|line| write!(f, "\n     {line}"))?;
        }
        self.kept.iter().try_for_each(|kept| write!(f, "\n     kept in {}", kept.display()))
    }
}

/// Lets a scenario happen to a cluster of its own, and looks at what is left.
///
/// The files of a run that failed stay, and with `keep` those of every run.
pub async fn run(scenario: &'static Scenario, seed: u64, namespaces: bool, keep: bool) -> Outcome {
    let mut outcome = Outcome::begun(scenario.name, seed);
    let stillness = Stillness::watch();
    let mut rig = Rig::start(scenario, namespaces);
    let told = tell(scenario, seed, &mut rig, &mut outcome).await;
    outcome.broken = told.err();
    // What was told to clients is judged all the same.
    let still = stillness.longest();
    if still > STILL {
        let why = outcome.broken.take().map(|why| format!("; {why}")).unwrap_or_default();
        outcome.broken = Some(format!("all of it was stopped for {still:?}, so this run proves nothing{why}"));
    }
    if keep || !outcome.good() {
        outcome.kept = Some(rig.keep());
    }
    outcome
}

async fn tell(scenario: &'static Scenario, seed: u64, rig: &mut Rig, outcome: &mut Outcome) -> Result<(), Broken> {
    rig.make(scenario.nodes).await?;
    rig.start_clients().await?;
    rig.until_ops("writes are acknowledged before the fault", |ops| acks_since(ops, 0) >= ENOUGH).await?;
    let fault = clock::now();
    let mut chance = Chance::of(seed);
    let (steps, drawn) = match scenario.plot {
        Plot::Told(steps) => (steps.to_vec(), false),
        Plot::Drawn(draw) => (draw(&mut chance), true),
    };
    let mut told = Ok(());
    for step in &steps {
        let at = clock::millis(clock::now() - fault);
        let taken = match rig.note_leader() {
            Ok(()) => perform(rig, step, &mut chance).await,
            Err(broken) => Err(broken),
        };
        let refused = taken.as_ref().err().map(|why| format!(": {why}")).unwrap_or_default();
        outcome.story.push(format!("after {at:>6} ms: {step:?}{refused}"));
        if taken.is_err() && (step.must_be_taken() || !drawn && !step.undoes()) {
            told = taken;
            break;
        }
    }
    let mended = clock::now();
    // Also after a step that failed: what became of the writes is told in any case.
    rig.mend().await;
    let recovered = rig.until_ready(scenario.nodes).await;
    rig.start_clients().await?;
    let now = clock::now();
    let after = rig.until_ops("writes are acknowledged afterwards", |ops| acks_since(ops, now) >= ENOUGH).await;
    let end = clock::now();
    rig.stop_clients();
    let rows = match (&told, &recovered) {
        (Ok(()), Ok(())) => rig.rows().await,
        // A cluster that does not come to rest has no last word about anything.
        _ => Err("the cluster did not come to rest".to_owned()),
    };
    let mut history = History { ops: rig.ops()?.to_vec(), ..History::default() };
    outcome.flow = flow(&history, fault, mended, end);
    outcome.over = scenario.bound.limit().is_some_and(|limit| Duration::from_nanos(outcome.flow.outage) > limit);
    let mut promise = match scenario.durability {
        Durability::Quorum | Durability::QuorumAvailable => Promise::QUORUM,
        Durability::Async => Promise::ASYNC,
    };
    let ended = match rows {
        Ok((primary, others)) => {
            (history.primary, history.others) = (primary, others);
            Ok(())
        }
        Err(broken) => {
            // What was told while it lasted can be judged all the same.
            promise.lossless = false;
            Err(broken)
        }
    };
    outcome.anomalies = check(&history, promise);
    told.and(recovered).and(after).and(ended)
}

/// Acknowledged writes whose request was sent at this moment or later.
fn acks_since(ops: &[Op], since: u64) -> usize {
    let write = |op: &&Op| matches!(op.what, crate::history::What::Write(_));
    ops.iter().filter(write).filter(|op| op.sent >= since && op.answer.is_some()).count()
}

async fn perform(rig: &mut Rig, step: &Step, chance: &mut Chance) -> Result<(), Broken> {
    let millis = |time: &Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let ends = |rig: &Rig, all: &[Who]| {
        // In a small cluster several roles are one node.
        all.iter().map(|who| rig.end(*who)).collect::<BTreeSet<_>>()
    };
    match step {
        Step::Signal(who, part, signal) => {
            let to = match part {
                Part::Agent => json!("main"),
                Part::Postmaster => json!({"eldest": "postgres"}),
                Part::Postgres => json!({"program": "postgres"}),
            };
            rig.fault(json!({"fault": "signal", "machine": rig.end(*who), "to": to, "signal": signal})).await
        }
        Step::Dies(who, back) => {
            let machine = rig.end(*who);
            rig.fault(json!({"fault": "slow_start", "machine": machine, "ms": millis(back)})).await?;
            rig.fault(json!({"fault": "machine_dies", "machine": machine})).await
        }
        Step::Freezes(who) => rig.fault(json!({"fault": "freeze", "machine": rig.end(*who)})).await,
        Step::Thaws(who) => rig.fault(json!({"fault": "thaw", "machine": rig.end(*who)})).await,
        Step::HostLost(who, processes) => {
            let on = *processes == Processes::GoOn;
            rig.fault(json!({"fault": "host_unreachable", "machine": rig.end(*who), "processes": on})).await
        }
        Step::HostBack(who) => rig.fault(json!({"fault": "host_back", "machine": rig.end(*who)})).await,
        Step::Loses(from, to, loss) => {
            let (from, to) = (ends(rig, from), ends(rig, to));
            rig.fault(json!({"fault": "cut", "from": from, "to": to, "loss": loss})).await
        }
        Step::Cut(these, those) => {
            let groups = [ends(rig, these), ends(rig, those)];
            rig.fault(json!({"fault": "partition", "machines": groups})).await
        }
        Step::Heals => rig.fault(json!({"fault": "heal"})).await,
        Step::Controller(order) => {
            match order {
                Order::Start => rig.start_controller(),
                Order::Kill => rig.kill_controller(),
                Order::Freeze => rig.signal_controller(Signal::SIGSTOP),
                Order::Thaw => rig.signal_controller(Signal::SIGCONT),
                Order::Forget => rig.forget_record()?,
                Order::Copy => rig.copy_record().await?,
                Order::RollBack => rig.roll_record_back().await?,
                Order::Rival => rig.start_rival(),
                Order::ThawFormer => rig.thaw_former(),
            }
            Ok(())
        }
        Step::Platform(order) => match order {
            Order::Freeze => {
                rig.signal_platform(Signal::SIGSTOP);
                Ok(())
            }
            Order::Thaw => {
                rig.signal_platform(Signal::SIGCONT);
                Ok(())
            }
            _ => Err(format!("the platform cannot {order:?}")),
        },
        Step::LosesVolume(who) => rig.lose_volume(*who).await,
        Step::Sql(who, query) => rig.sql(*who, query).await,
        Step::Edits(this, that) => rig.edit(this, that),
        Step::Switchover => rig.switchover().await,
        Step::AsksForSwitchover => {
            rig.ask_for_switchover();
            Ok(())
        }
        Step::Lasts(time) => {
            tokio::time::sleep(*time).await;
            Ok(())
        }
        Step::LastsUpTo(time) => {
            tokio::time::sleep(chance.time(*time)).await;
            Ok(())
        }
        Step::Acknowledges => {
            let now = clock::now();
            rig.until_ops("writes are acknowledged", |ops| acks_since(ops, now) >= ENOUGH).await
        }
        Step::Successor => {
            let (now, old) = (clock::now(), rig.node(Who::Primary).to_owned());
            rig.until_ops("another node acknowledges writes", |ops| {
                let told = |op: &Op| op.sent >= now && op.answer.as_ref().is_some_and(|answer| answer.node != old);
                ops.iter().any(told)
            })
            .await
        }
    }
}
