//! Every checker is shown what it must find, and what is all right.

use flypg_core::decree::{Epoch, Promotion, Stage, SystemId};
use flypg_core::failover::{Fences, Permission, Position, Rule};
use flypg_core::protocol::Lsn;
use flypg_core::spec::Durability;

use crate::postgres::Result;
use crate::setup::Setup;
use crate::time::{secs, wall};
use crate::wal::{Record, What};
use crate::world::World;

/// A cluster of three that has served for a while.
fn served(durability: Durability) -> World {
    let mut setup = Setup::calm(7, 3, durability);
    setup.spec.failover.max_lag_bytes = 2_560;
    let mut world = World::new(setup, false);
    assert!(world.run_until(secs(25)), "{:?}", world.check.violation);
    world
}

fn primary(world: &World) -> usize {
    let record = world.store.record.as_ref().expect("it was begun");
    world.index_of(&record.primary).expect("it is one of them")
}

fn standby(world: &World) -> usize {
    (primary(world) + 1) % world.nodes.len()
}

fn epoch(world: &World) -> Epoch {
    world.store.record.as_ref().expect("it was begun").reign
}

/// Nothing is found in what is all right, and this invariant is found broken in what is planted.
fn finds(invariant: &str, clean: impl Fn(&mut World), planted: impl Fn(&mut World)) {
    finds_in(Durability::Quorum, invariant, clean, planted);
}

fn finds_in(durability: Durability, invariant: &str, clean: impl Fn(&mut World), planted: impl Fn(&mut World)) {
    let mut twin = served(durability);
    clean(&mut twin);
    assert!(twin.check.violation.is_none(), "{:?}", twin.check.violation);
    let mut world = served(durability);
    planted(&mut world);
    let found = world.check.violation.map(|violation| violation.invariant);
    assert_eq!(found, Some(invariant));
}

fn all_visible(world: &World, node: usize) -> Result {
    Result::Read { visible: world.nodes[node].disk.pg().expect("it has data").flushed, last: None }
}

/// The last commit that clients know of, as an answer.
fn last_commit(world: &World) -> (usize, Result) {
    let (at, serial) = world.check.floor().last.expect("there were commits");
    (at, Result::Committed { at, serial, cancelled: false })
}

#[test]
fn i1_an_answer_of_an_epoch_that_is_over() {
    let answers = |world: &mut World, over: bool| {
        let (node, reign) = (primary(world), epoch(world));
        let (result, later) = (all_visible(world, node), Epoch(reign.0 + u64::from(over)));
        world.check.answered = later;
        world.check_answer(node, 0, reign, result);
    };
    finds("I1", |world| answers(world, false), |world| answers(world, true));
}

#[test]
fn i1_a_reader_who_does_not_see_what_was_acknowledged() {
    let reads = |world: &mut World, less: usize| {
        let node = primary(world);
        world.clients[0].floor = world.check.floor();
        let (at, _) = last_commit(world);
        world.check_answer(node, 0, epoch(world), Result::Read { visible: at + 1 - less, last: None });
    };
    finds("I1", |world| reads(world, 0), |world| reads(world, 1));
}

#[test]
fn i1_two_gates_open_at_once() {
    let second = |world: &mut World, writes: bool| {
        let (first, second) = (primary(world), standby(world));
        let agent = world.nodes[first].agent.as_ref().expect("it runs");
        let (ledger, tenure, clock) = (agent.ledger.clone(), agent.tenure.clone(), world.nodes[first].clock.clone());
        world.nodes[second].clock = clock;
        let agent = world.nodes[second].agent.as_mut().expect("it runs");
        (agent.ledger, agent.tenure) = (ledger, tenure);
        world.nodes[second].server.as_mut().expect("it runs").recovery = !writes;
        world.check_gates(second);
    };
    finds("I1", |world| second(world, false), |world| second(world, true));
}

#[test]
fn i2_a_primary_without_an_acknowledged_commit() {
    let answers = |world: &mut World, lost: usize| {
        let node = primary(world);
        let (at, result) = last_commit(world);
        let pg = world.nodes[node].disk.pg_mut().expect("it has data");
        pg.log.truncate(at + 1 - lost);
        pg.flushed = pg.log.len();
        world.check_answer(node, 0, epoch(world), result);
    };
    finds("I2", |world| answers(world, 0), |world| answers(world, 1));
}

#[test]
fn i2_a_gate_that_opens_over_a_gap() {
    let opens = |world: &mut World, foreign: bool| {
        let node = primary(world);
        let (at, _) = last_commit(world);
        if foreign {
            let record = Record { serial: u64::MAX, timeline: 1, what: What::Noise };
            world.nodes[node].disk.pg_mut().expect("it has data").log.put(at, record);
        }
        // The first answer of another life.
        world.nodes[node].agent.as_mut().expect("it runs").life += 1;
        let result = all_visible(world, node);
        world.check_answer(node, 0, epoch(world), result);
    };
    finds("I2", |world| opens(world, false), |world| opens(world, true));
}

#[test]
fn i3_two_primaries_of_one_epoch() {
    let confirms = |world: &mut World, other: bool| {
        let node = if other { standby(world) } else { primary(world) };
        world.check_confirmed(node, epoch(world));
    };
    finds("I3", |world| confirms(world, false), |world| confirms(world, true));
}

#[test]
fn i3_a_timeline_twice() {
    let promotes = |world: &mut World, timelines: [u32; 2]| {
        for timeline in timelines {
            world.check_timeline(0, timeline);
        }
    };
    finds("I3", |world| promotes(world, [5, 6]), |world| promotes(world, [5, 5]));
}

#[test]
fn i3_a_promise_that_is_forgotten() {
    let promises = |world: &mut World, from: u64, to: u64| {
        let mut before = world.nodes[0].agent.as_ref().expect("it runs").ledger.clone();
        before.promised = Epoch(from);
        world.nodes[0].agent.as_mut().expect("it runs").ledger.promised = Epoch(to);
        world.check_promise(0, &before);
    };
    finds("I3", |world| promises(world, 4, 5), |world| promises(world, 5, 4));
}

#[test]
fn i3_a_record_that_goes_back() {
    let decides = |world: &mut World, back: bool| {
        let mut before = world.store.record.clone().expect("it was begun");
        let after = before.amended(|_| ());
        if back {
            before.epoch = Epoch(before.epoch.0 + 1);
        }
        world.store.record = Some(after);
        world.check_record(Some(&before));
    };
    finds("I3", |world| decides(world, false), |world| decides(world, true));
}

#[test]
fn i4_a_promotion_of_somebody_else_than_was_permitted() {
    let decides = |world: &mut World, permitted: bool| {
        let before = world.store.record.clone().expect("it was begun");
        let chosen = world.nodes[standby(world)].name.clone();
        let candidate = if permitted { chosen.clone() } else { before.primary.clone() };
        let position = Position { rank: 0, lsn: Lsn(0) };
        let recruits = [(candidate.clone(), position)].into();
        let permission = Permission { candidate, position, recruits, fences: Fences::default() };
        let after = before.amended(|next| {
            next.epoch = next.epoch.next();
            (next.reign, next.primary) = (next.epoch, chosen);
            let promotion = Promotion { epoch: next.epoch, timeline: 2, permission };
            next.stage = Stage::Promoting { nonce: "n".to_owned(), promotion };
        });
        world.store.record = Some(after);
        world.check_record(Some(&before));
    };
    finds("I4", |world| decides(world, true), |world| decides(world, false));
}

#[test]
fn i5_an_answer_without_a_marker() {
    let answers = |world: &mut World, marked: bool| {
        let (node, mut reign) = (primary(world), epoch(world));
        if !marked {
            reign = reign.next();
            world.nodes[node].agent.as_mut().expect("it runs").ledger.promised = reign;
        }
        let result = all_visible(world, node);
        world.check_answer(node, 0, reign, result);
    };
    finds("I5", |world| answers(world, true), |world| answers(world, false));
}

#[test]
fn i6_an_acknowledgement_by_what_is_no_copy() {
    let acknowledges = |world: &mut World, foreign: bool| {
        let (from, to) = (primary(world), standby(world));
        let name = world.nodes[to].name.clone();
        let flushed = world.nodes[from].server.as_ref().expect("it runs").senders[&name].flushed;
        if foreign {
            let record = Record { serial: u64::MAX, timeline: 1, what: What::Noise };
            world.nodes[to].disk.pg_mut().expect("it has data").log.put(flushed - 1, record);
        }
        world.check_counts(from, to);
    };
    finds("I6", |world| acknowledges(world, false), |world| acknowledges(world, true));
}

#[test]
fn i7_a_rule_that_is_not_on_record() {
    let loads = |world: &mut World, other: bool| {
        let node = primary(world);
        if other {
            world.nodes[node].server.as_mut().expect("it runs").loaded = Rule::alone();
        }
        world.check_rule(node);
    };
    finds("I7", |world| loads(world, false), |world| loads(world, true));
}

#[test]
fn i8_the_last_copy_is_destroyed() {
    let destroys = |world: &mut World, last: bool| {
        let node = primary(world);
        for other in (0..world.nodes.len()).filter(|other| last && *other != node) {
            let pg = world.nodes[other].disk.pg_mut().expect("it has data");
            pg.log.truncate(10);
            pg.flushed = 10;
        }
        world.check_destroys(node, "is wiped");
    };
    finds("I8", |world| destroys(world, false), |world| destroys(world, true));
}

#[test]
fn i8_the_primary_is_removed() {
    finds("I8", |world| world.check_removes(standby(world)), |world| world.check_removes(primary(world)));
}

#[test]
fn i11_data_are_made_anew() {
    let system = SystemId("anew".to_owned());
    let mut blank = World::new(Setup::calm(7, 3, Durability::Quorum), false);
    blank.check_initdb(0, &system);
    assert!(blank.check.violation.is_none());
    finds("I11", |_| (), |world| world.check_initdb(0, &system));
}

#[test]
fn i11_a_primary_with_data_that_nobody_made() {
    let leads = |world: &mut World, strange: bool| {
        let node = primary(world);
        if strange {
            world.nodes[node].disk.pg_mut().expect("it has data").system_id = SystemId("another".to_owned());
        }
        world.check_confirmed(node, epoch(world));
    };
    finds("I11", |world| leads(world, false), |world| leads(world, true));
}

#[test]
fn i12_postgres_on_half_rewound_data() {
    let starts = |world: &mut World, mixed: bool| {
        let node = standby(world);
        world.kill_postgres(node);
        world.nodes[node].disk.pg_mut().expect("it has data").mixed = mixed;
        world.start_postgres(node);
    };
    finds("I12", |world| starts(world, false), |world| starts(world, true));
}

#[test]
fn i13_more_is_lost_than_may_be() {
    let leads = |world: &mut World, kept: usize| {
        let node = standby(world);
        let pg = world.nodes[node].disk.pg_mut().expect("it has data");
        pg.log.truncate(kept);
        pg.flushed = pg.log.len();
        let next = epoch(world).next();
        world.check_confirmed(node, next);
    };
    finds_in(Durability::Async, "I13", |world| leads(world, usize::MAX), |world| leads(world, 20));
}

#[test]
fn i15_wal_is_removed_that_a_member_needs() {
    let removes = |world: &mut World, more: usize| {
        let (node, other) = (primary(world), standby(world));
        world.nodes[node].disk.pg_mut().expect("it has data").slots.clear();
        let kept = world.nodes[other].disk.pg().expect("it has data").flushed + more;
        world.check_keeps(node, kept);
    };
    // Of those that stream, none needs what the one that is furthest behind has.
    let least = |world: &mut World| {
        let kept = world.nodes.iter().filter_map(|node| node.disk.pg()).map(|pg| pg.flushed).min().unwrap_or(0);
        world.check_keeps(primary(world), kept);
    };
    finds("I15", least, |world| removes(world, 1));
}

#[test]
fn i16_nobody_is_answered_in_the_end() {
    finds("I16", World::check_liveness, |world| {
        let node = primary(world);
        world.end_machine(node);
        world.check_liveness();
    });
}

#[test]
fn i17_more_failovers_than_the_budget() {
    let fails_over = |world: &mut World, apart: u64| {
        let before = world.store.record.clone().expect("it was begun");
        let after = before.amended(|next| next.failovers = (0..3).map(|n| wall(secs(n * apart))).collect());
        world.store.record = Some(after);
        world.check_record(Some(&before));
    };
    finds("I17", |world| fails_over(world, 100), |world| fails_over(world, 10));
}
