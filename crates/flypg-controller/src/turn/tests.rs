//! Turns over the planner's own model of the world, with failures put in between.

use std::sync::{Arc, Mutex};

use flypg_core::plan::{Action, Stage, Until};

use super::*;
use crate::act::Trouble;
use crate::keeper::Keeper;
use crate::vigil::Scene;

/// A world that does what it is told, until it is told not to.
#[derive(Clone)]
struct World(Arc<Mutex<Inner>>);

struct Inner {
    observed: Observed,
    /// Every action that was carried out, also those whose answer was lost.
    done: Vec<Action>,
    looks: usize,
    reports: usize,
    fault: Box<dyn FnMut(&Action) -> Fault + Send>,
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Nothing happens.
    NotDone,
    /// It happens, and nobody hears of it.
    AnswerLost,
}

impl World {
    fn empty() -> Self {
        let now = Timestamp::UNIX_EPOCH;
        let observed = Observed {
            record: flypg_core::observed::Seen::at(now, None),
            app: flypg_core::observed::Seen::at(now, None),
            ..Observed::default()
        };
        let inner = Inner { observed, done: Vec::new(), looks: 0, reports: 0, fault: Box::new(|_| Fault::None) };
        Self(Arc::new(Mutex::new(inner)))
    }

    fn fail(&self, fault: impl FnMut(&Action) -> Fault + Send + 'static) {
        self.0.lock().unwrap().fault = Box::new(fault);
    }

    fn with<T>(&self, look: impl FnOnce(&mut Inner) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }
}

impl Observer for World {
    async fn observe(&mut self, _: &ClusterSpec, _: Timestamp) -> Observed {
        self.with(|inner| {
            inner.looks += 1;
            inner.observed.clone()
        })
    }

    async fn listen(&mut self, _: &ClusterSpec, seen: Observed, _: Timestamp) -> Observed {
        self.with(|inner| {
            inner.reports += 1;
            Observed { reports: inner.observed.reports.clone(), record: inner.observed.record.clone(), ..seen }
        })
    }

    async fn lead(&mut self, _: &ClusterSpec, _: Timestamp) -> Scene {
        self.with(|inner| Scene { observed: inner.observed.clone(), goings: 0 })
    }

    async fn is_current(&mut self, _: &ClusterSpec, seen: &Observed) -> bool {
        self.with(|inner| seen.record == inner.observed.record)
    }
}

impl Actuator for World {
    async fn act(&self, action: &Action) -> Result<(), ActError> {
        self.with(|inner| {
            let fault = (inner.fault)(action);
            if fault != Fault::NotDone {
                plan::apply(&mut inner.observed, action, Timestamp::UNIX_EPOCH);
                inner.done.push(action.clone());
            }
            match fault {
                Fault::None => Ok(()),
                Fault::NotDone => Err(ActError::NotDone(Trouble::NoMasterKey)),
                Fault::AnswerLost => Err(ActError::MaybeDone(Trouble::NoMasterKey)),
            }
        })
    }
}

fn clock() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

/// One turn of everything, or of the part that is not about who leads.
async fn one(world: &World, wanted: &Wanted, part: Part, seen: Option<Observed>) -> Turn {
    let mut observer = world.clone();
    let vigil = Vigil::default();
    let mut hands = Hands { observer: &mut observer, actuator: world, vigil: &vigil, clock, witness: &(), part };
    match seen {
        Some(seen) => turn_on_report(&mut hands, wanted, seen).await,
        None => turn(&mut hands, wanted).await,
    }
}

fn wanted() -> Wanted {
    let mut spec = crate::tests::spec("orders-db");
    spec.primary.nodes = 3;
    Wanted::Kept(spec)
}

async fn until_idle(world: &World, wanted: &Wanted, turns: usize) -> Turn {
    for _ in 0..turns {
        let turn = one(world, wanted, Part::All, None).await;
        if turn.plan.steps.is_empty() {
            return turn;
        }
    }
    panic!("still at it after {turns} turns");
}

/// Volumes and Machines, of which there must be one per node whatever went wrong.
fn count(world: &World) -> (usize, usize) {
    world.with(|inner| {
        let volumes = inner.observed.volumes.known().map_or(0, Vec::len);
        (volumes, inner.observed.machines.known().map_or(0, Vec::len))
    })
}

#[tokio::test]
async fn a_failed_stage_is_the_last_of_its_turn() {
    let world = World::empty();
    world.fail(|action| match action {
        Action::CreateVolume { node, .. } if node.ordinal == 2 => Fault::NotDone,
        _ => Fault::None,
    });
    let turn = one(&world, &wanted(), Part::All, None).await;
    let failed: Vec<_> = turn.failures().map(|(step, _)| step.action.stage()).collect();
    assert_eq!(failed, [Stage::Furnish]);
    assert!(turn.results.iter().all(|done| done.step.action.stage() <= Stage::Furnish));
    assert_eq!(count(&world), (2, 0), "the others of its stage were carried out");

    world.fail(|_| Fault::None);
    until_idle(&world, &wanted(), 30).await;
    assert_eq!(count(&world), (3, 3));
}

#[tokio::test]
async fn a_controller_that_dies_after_any_act_leaves_nothing_twice() {
    let total = {
        let world = World::empty();
        until_idle(&world, &wanted(), 30).await;
        world.with(|inner| inner.done.len())
    };
    assert!(total >= 10, "only {total} acts");
    for fault in [Fault::AnswerLost, Fault::NotDone] {
        for fatal in 0..total {
            let world = World::empty();
            let mut acts = 0;
            world.fail(move |_| {
                acts += 1;
                if acts == fatal + 1 { fault } else { Fault::None }
            });
            // Whoever comes after knows nothing but what can be seen.
            let last = until_idle(&world, &wanted(), 40).await;
            assert!(last.plan.holds.iter().all(|hold| hold.until.is_wait()), "act {fatal}: {:?}", last.plan.holds);
            assert_eq!(count(&world), (3, 3), "act {fatal}");
        }
    }
}

#[tokio::test]
async fn a_report_does_not_change_the_platform_by_an_old_look() {
    let world = World::empty();
    let idle = until_idle(&world, &wanted(), 30).await;
    let (looks, reports) = world.with(|inner| (inner.looks, inner.reports));

    let again = one(&world, &wanted(), Part::All, Some(idle.observed.clone())).await;
    assert_eq!(again.plan.steps, []);
    assert_eq!(world.with(|inner| (inner.looks - looks, inner.reports - reports)), (0, 1));

    // By the old look there is a node too few; by now there is not.
    let mut old = idle.observed;
    let lost = old.machines.known_mut().unwrap().pop().unwrap();
    old.reports.remove(&lost.id);
    for volume in old.volumes.known_mut().unwrap() {
        volume.attached_to.take_if(|machine| *machine == lost.id);
    }
    let done = world.with(|inner| inner.done.len());
    one(&world, &wanted(), Part::All, Some(old)).await;
    let made =
        world.with(|inner| inner.done[done..].iter().any(|action| matches!(action, Action::CreateMachine { .. })));
    assert!(!made, "a Machine was made on hearsay");
    assert_eq!(world.with(|inner| inner.looks - looks), 1, "it looked again first");
}

#[tokio::test]
async fn a_keeper_gets_there_and_then_rests() {
    let world = World::empty();
    let mut keeper = Keeper::new(wanted(), world.clone(), world.clone(), (), clock);
    let mut turns = 0;
    loop {
        let turn = keeper.turn().await;
        turns += 1;
        assert!(turns < 60, "{:?} {:?}", turn.plan.steps, turn.plan.holds);
        let waits = turn.plan.holds.iter().any(|hold| matches!(hold.until, Until::Readable { .. }));
        assert!(!waits, "{:?}", turn.plan.holds);
        if turn.plan.steps.is_empty() {
            break;
        }
        keeper.rest().await;
    }
    assert_eq!(count(&world), (3, 3));
    assert!(keeper.stuck().is_none());
}

#[tokio::test]
async fn who_leads_is_left_to_who_leads() {
    let world = World::empty();
    let mut leads = world.clone();
    for _ in 0..60 {
        let rest = one(&world, &wanted(), Part::Rest, None).await;
        assert!(rest.results.iter().all(|done| !done.step.action.is_leadership()));
        let scene = leads.lead(wanted().spec(), clock()).await;
        let plan = wanted().lead(&scene.observed, clock());
        assert!(plan.steps.iter().all(|step| step.action.is_leadership()));
        if rest.plan.changes().next().is_none() && plan.changes().next().is_none() {
            assert_eq!(count(&world), (3, 3));
            return;
        }
        for step in plan.steps {
            world.act(&step.action).await.unwrap();
        }
    }
    panic!("the two do not come to an end together");
}

#[tokio::test]
async fn nothing_is_removed_by_a_record_that_has_changed_since() {
    let world = World::empty();
    until_idle(&world, &wanted(), 30).await;
    let Wanted::Kept(mut spec) = wanted() else { unreachable!() };
    spec.primary.nodes = 2;
    spec.deletion = flypg_core::spec::Deletion::Delete;
    let fewer = Wanted::Kept(spec);

    // Who decides does so between the look and the removal.
    struct Deciding(World, usize);
    impl Observer for Deciding {
        async fn observe(&mut self, spec: &ClusterSpec, now: Timestamp) -> Observed {
            self.0.observe(spec, now).await
        }
        async fn listen(&mut self, spec: &ClusterSpec, seen: Observed, now: Timestamp) -> Observed {
            self.0.listen(spec, seen, now).await
        }
        async fn lead(&mut self, spec: &ClusterSpec, now: Timestamp) -> Scene {
            self.0.lead(spec, now).await
        }
        async fn is_current(&mut self, _: &ClusterSpec, _: &Observed) -> bool {
            self.1 += 1;
            false
        }
    }
    let mut observer = Deciding(world.clone(), 0);
    let vigil = Vigil::default();
    for _ in 0..8 {
        let mut hands =
            Hands { observer: &mut observer, actuator: &world, vigil: &vigil, clock, witness: &(), part: Part::Rest };
        let rest = turn(&mut hands, &fewer).await;
        assert!(rest.results.iter().all(|done| done.step.action.stage() < Stage::Disturb), "{:?}", rest.results);
        let plan = fewer.lead(&rest.observed, clock());
        for step in plan.steps {
            world.act(&step.action).await.unwrap();
        }
    }
    assert!(observer.1 > 0, "a removal was planned");
    assert_eq!(count(&world), (3, 3));
}
