//! Turns over the planner's own model of the world, with failures put in between.

use std::sync::{Arc, Mutex};

use flypg_core::plan::{Action, Stage, Until};

use super::*;
use crate::act::Trouble;
use crate::keeper::Keeper;

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

fn wanted() -> Wanted {
    let mut spec = crate::tests::spec("orders-db");
    spec.primary.nodes = 3;
    Wanted::Kept(spec)
}

async fn until_idle(world: &World, wanted: &Wanted, turns: usize) -> Turn {
    let mut observer = world.clone();
    for _ in 0..turns {
        let turn = turn(&mut observer, world, wanted, clock, &()).await;
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
    let mut observer = world.clone();
    let turn = turn(&mut observer, &world, &wanted(), clock, &()).await;
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
    let mut observer = world.clone();
    let (looks, reports) = world.with(|inner| (inner.looks, inner.reports));

    let again = turn_on_report(&mut observer, &world, &wanted(), idle.observed.clone(), clock, &()).await;
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
    turn_on_report(&mut observer, &world, &wanted(), old, clock, &()).await;
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
