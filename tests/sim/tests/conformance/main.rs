//! The model of PostgreSQL that the simulation stands on, pinned to PostgreSQL: each script is worked on both, and both
//! must tell the same story. What the protocol concludes from an experiment is a script here, with its number.
//!
//! Every major version that is installed is asked; 15 has to be.
#![allow(clippy::print_stderr)] // a version that is not here is told

mod real;

use std::fmt::{Debug, Write as _};
use std::path::Path;

use expect_test::{Expect, expect};
use flypg_sim::{Bare, Rewound, Written};

use real::Real;

macro_rules! both {
    ($($verb:ident($($argument:ident: $kind:ty),*) $(-> $result:ty)?;)*) => {
        /// What both can be asked to do. Nodes go by their number; the first has a database system from the start.
        trait Postgres {
            $(fn $verb(&mut self, $($argument: $kind),*) $(-> $result)?;)*
        }
        impl Postgres for Bare {
            $(fn $verb(&mut self, $($argument: $kind),*) $(-> $result)? { Bare::$verb(self, $($argument),*) })*
        }
        impl Postgres for Real {
            $(fn $verb(&mut self, $($argument: $kind),*) $(-> $result)? { Real::$verb(self, $($argument),*) })*
        }
    };
}

both! {
    start(node: usize);
    begin_stop(node: usize);
    stops(node: usize) -> bool;
    kill(node: usize);
    freeze(node: usize);
    thaw(node: usize);
    copy(from: usize, to: usize);
    make_slot(node: usize, standby: usize);
    drop_slot(node: usize, standby: usize);
    set_upstream(node: usize, upstream: Option<usize>);
    set_standby(node: usize, standby: bool);
    set_rule(node: usize, acks: usize, of: &[usize]);
    streams(node: usize) -> bool;
    knows_received(node: usize) -> bool;
    write(node: usize, row: &str);
    written(row: &str) -> Written;
    cancel_wait(node: usize);
    rows(node: usize) -> Vec<String>;
    promote(node: usize, stubs: &[u32]) -> u32;
    timeline(node: usize) -> u32;
    checkpoint(node: usize);
    rewind(node: usize, from: usize) -> Rewound;
    wear_out_wal(node: usize);
    writes_without_postmaster(node: usize) -> bool;
}

/// What was seen, a line each.
#[derive(Default)]
struct Story(String);

impl Story {
    fn tell(&mut self, what: &str, seen: impl Debug) {
        writeln!(self.0, "{what}: {seen:?}").expect("text");
    }
}

/// `node` has a copy of `from`, and a slot there, and streams.
fn join(pg: &mut dyn Postgres, node: usize, from: usize) {
    pg.copy(from, node);
    pg.make_slot(from, node);
    pg.set_upstream(node, Some(from));
    pg.start(node);
    assert!(pg.streams(node), "node {node} streams from {from}");
}

/// A primary and so many standbys, all streaming.
fn cluster(pg: &mut dyn Postgres, nodes: usize) {
    pg.start(0);
    for node in 1..nodes {
        join(pg, node, 0);
    }
}

/// `node` follows `upstream` from now on, as the standby that it is.
fn follow(pg: &mut dyn Postgres, node: usize, upstream: usize) {
    pg.make_slot(upstream, node);
    pg.set_upstream(node, Some(upstream));
}

fn store(pg: &mut dyn Postgres, node: usize, row: &str) {
    pg.write(node, row);
    assert_eq!(pg.written(row), Written::Acknowledged, "{row}");
}

fn stop(pg: &mut dyn Postgres, node: usize) {
    pg.begin_stop(node);
    assert!(pg.stops(node), "node {node} stops");
}

fn check(nodes: usize, script: impl Fn(&mut dyn Postgres, &mut Story), story: Expect) {
    let tell = |pg: &mut dyn Postgres| {
        let mut story = Story::default();
        script(pg, &mut story);
        story.0
    };
    let modelled = tell(&mut Bare::new(nodes));
    story.assert_eq(&modelled);
    for major in 15..=18 {
        let bin = Path::new("/usr/lib/postgresql").join(major.to_string()).join("bin");
        if bin.join("postgres").exists() {
            let real = tell(&mut Real::new(bin, nodes));
            assert_eq!(real, modelled, "PostgreSQL {major} (left) is not what the model (right) says");
        } else {
            assert_ne!(major, 15, "PostgreSQL 15 is needed for the tests (Debian package postgresql-15)");
            eprintln!("SKIPPED: PostgreSQL {major} is not here");
        }
    }
}

/// E1: whose wait is cancelled is told of success.
#[test]
fn a_cancelled_wait_is_told_as_a_success() {
    check(
        3,
        |pg, story| {
            cluster(pg, 3);
            pg.freeze(1);
            pg.freeze(2);
            pg.set_rule(0, 1, &[1, 2]);
            pg.write(0, "a");
            story.tell("with both standbys frozen, the write", pg.written("a"));
            story.tell("on the primary", pg.rows(0));
            pg.cancel_wait(0);
            story.tell("cancelled, it is", pg.written("a"));
            story.tell("on the primary", pg.rows(0));
        },
        expect![[r#"
            with both standbys frozen, the write: Waits
            on the primary: []
            cancelled, it is: Cancelled
            on the primary: ["a"]
        "#]],
    );
}

/// E3: without a rule whoever waits is released, with success and without a standby.
#[test]
fn no_rule_releases_whoever_waits() {
    check(
        2,
        |pg, story| {
            cluster(pg, 2);
            pg.set_rule(0, 1, &[1]);
            pg.freeze(1);
            pg.write(0, "a");
            story.tell("with the standby frozen, the write", pg.written("a"));
            pg.set_rule(0, 0, &[]);
            story.tell("without the rule it is", pg.written("a"));
        },
        expect![[r#"
            with the standby frozen, the write: Waits
            without the rule it is: Acknowledged
        "#]],
    );
}

/// E4: what was not acknowledged is there after a crash restart, and nowhere else.
#[test]
fn a_crash_restart_shows_what_was_never_acknowledged() {
    check(
        2,
        |pg, story| {
            cluster(pg, 2);
            pg.set_rule(0, 1, &[1]);
            store(pg, 0, "a");
            pg.freeze(1);
            pg.write(0, "b");
            story.tell("with the standby frozen, the second write", pg.written("b"));
            story.tell("on the primary", pg.rows(0));
            pg.kill(0);
            story.tell("after the kill it is", pg.written("b"));
            pg.start(0);
            story.tell("after the restart, on the primary", pg.rows(0));
        },
        expect![[r#"
            with the standby frozen, the second write: Waits
            on the primary: ["a"]
            after the kill it is: Unanswered
            after the restart, on the primary: ["a", "b"]
        "#]],
    );
}

/// E6: any member of the rule may be the one that acknowledged; any other may lack everything.
#[test]
fn one_member_acknowledges_and_the_other_lacks_it() {
    check(
        3,
        |pg, story| {
            cluster(pg, 3);
            pg.set_rule(0, 1, &[1, 2]);
            stop(pg, 2);
            store(pg, 0, "a");
            pg.kill(0);
            pg.start(2);
            story.tell("on the one", pg.rows(1));
            story.tell("on the other", pg.rows(2));
        },
        expect![[r#"
            on the one: ["a"]
            on the other: []
        "#]],
    );
}

/// E11: data without `standby.signal` come up writable, on the timeline that they were on.
#[test]
fn a_standby_without_its_signal_is_a_second_primary() {
    check(
        2,
        |pg, story| {
            cluster(pg, 2);
            store(pg, 0, "a");
            story.tell("on the standby", pg.rows(1));
            stop(pg, 1);
            pg.set_standby(1, false);
            pg.start(1);
            pg.write(1, "b");
            story.tell("a write there", pg.written("b"));
            story.tell("timelines", (pg.timeline(0), pg.timeline(1)));
        },
        expect![[r#"
            on the standby: ["a"]
            a write there: Acknowledged
            timelines: (1, 1)
        "#]],
    );
}

/// A standby takes no writes.
#[test]
fn a_standby_refuses_writes() {
    check(
        2,
        |pg, story| {
            cluster(pg, 2);
            pg.write(1, "a");
            story.tell("a write on the standby", pg.written("a"));
        },
        expect![[r#"
            a write on the standby: Refused
        "#]],
    );
}

/// E12: how much a standby has received is not known after its restart, until it streams again.
#[test]
fn a_restarted_standby_does_not_know_what_it_has_received() {
    check(
        2,
        |pg, story| {
            cluster(pg, 2);
            store(pg, 0, "a");
            story.tell("on the standby", pg.rows(1));
            story.tell("what it has received is known", pg.knows_received(1));
            pg.kill(0);
            pg.kill(1);
            pg.start(1);
            story.tell("on the restarted standby", pg.rows(1));
            story.tell("what it has received is known", pg.knows_received(1));
        },
        expect![[r#"
            on the standby: ["a"]
            what it has received is known: true
            on the restarted standby: ["a"]
            what it has received is known: false
        "#]],
    );
}

/// E13: two that are promoted from the same past take the same number, and `pg_rewind` sees no difference.
#[test]
fn two_promotions_take_the_same_timeline() {
    check(
        3,
        |pg, story| {
            cluster(pg, 3);
            store(pg, 0, "a");
            story.tell("on the standbys", (pg.rows(1), pg.rows(2)));
            pg.kill(0);
            story.tell("both are promoted to", (pg.promote(1, &[]), pg.promote(2, &[])));
            store(pg, 1, "b");
            store(pg, 2, "c");
            pg.checkpoint(1);
            pg.checkpoint(2);
            stop(pg, 2);
            story.tell("a rewind of the one to the other", pg.rewind(2, 1));
        },
        expect![[r#"
            on the standbys: (["a"], ["a"])
            both are promoted to: (2, 2)
            a rewind of the one to the other: NothingToDo
        "#]],
    );
}

/// E16, E17: a history file keeps its number from being taken, and those who follow find their way.
#[test]
fn a_stub_keeps_a_timeline_from_being_taken() {
    check(
        3,
        |pg, story| {
            cluster(pg, 3);
            store(pg, 0, "a");
            story.tell("on the standbys", (pg.rows(1), pg.rows(2)));
            pg.kill(0);
            story.tell("with stubs of 2 and 3 it is promoted to", pg.promote(1, &[2, 3]));
            follow(pg, 2, 1);
            story.tell("the other follows", pg.streams(2));
            store(pg, 1, "b");
            story.tell("and has", pg.rows(2));
            story.tell("on timeline", pg.timeline(2));
        },
        expect![[r#"
            on the standbys: (["a"], ["a"])
            with stubs of 2 and 3 it is promoted to: 4
            the other follows: true
            and has: ["a", "b"]
            on timeline: 4
        "#]],
    );
}

/// A standby that is behind the switch follows a promoted one; one that went on beyond it is refused.
#[test]
fn only_what_is_behind_the_switch_may_follow() {
    check(
        3,
        |pg, story| {
            cluster(pg, 3);
            stop(pg, 1);
            store(pg, 0, "a");
            story.tell("on the standby that runs", pg.rows(2));
            pg.kill(0);
            pg.start(1);
            story.tell("on the one that was away", pg.rows(1));
            story.tell("it is promoted to", pg.promote(1, &[]));
            store(pg, 1, "b");
            follow(pg, 2, 1);
            story.tell("the one that is ahead follows", pg.streams(2));
        },
        expect![[r#"
            on the standby that runs: ["a"]
            on the one that was away: []
            it is promoted to: 2
            the one that is ahead follows: false
        "#]],
    );
}

/// `pg_rewind` up to 15 compares checkpoints: before the promoted one has made one it finds nothing to do.
#[test]
fn a_rewind_takes_away_what_the_others_never_had() {
    check(
        2,
        |pg, story| {
            cluster(pg, 2);
            store(pg, 0, "a");
            story.tell("on the standby", pg.rows(1));
            stop(pg, 1);
            store(pg, 0, "lost");
            pg.kill(0);
            pg.start(1);
            story.tell("it is promoted to", pg.promote(1, &[]));
            pg.checkpoint(1);
            store(pg, 1, "b");
            story.tell("the old primary is", pg.rewind(0, 1));
            follow(pg, 0, 1);
            pg.start(0);
            story.tell("it follows", pg.streams(0));
            story.tell("and has", pg.rows(0));
        },
        expect![[r#"
            on the standby: ["a"]
            it is promoted to: 2
            the old primary is: Rewound
            it follows: true
            and has: ["a", "b"]
        "#]],
    );
}

/// E14: without its postmaster a backend goes on writing.
#[test]
fn backends_outlive_their_postmaster() {
    check(
        1,
        |pg, story| {
            pg.start(0);
            story.tell("it writes without its postmaster", pg.writes_without_postmaster(0));
        },
        expect![[r#"
            it writes without its postmaster: true
        "#]],
    );
}

/// E22: a fast shutdown waits for a standby that says nothing.
#[test]
fn a_fast_shutdown_waits_for_a_frozen_standby() {
    check(
        2,
        |pg, story| {
            cluster(pg, 2);
            pg.freeze(1);
            pg.begin_stop(0);
            story.tell("with a frozen standby it ends", pg.stops(0));
            pg.thaw(1);
            story.tell("when it runs again it ends", pg.stops(0));
        },
        expect![[r#"
            with a frozen standby it ends: false
            when it runs again it ends: true
        "#]],
    );
}

/// E20: after a clean stop the standby has all that there is, and the old primary follows without a rewind.
#[test]
fn a_clean_stop_leaves_nothing_behind() {
    check(
        2,
        |pg, story| {
            cluster(pg, 2);
            store(pg, 0, "a");
            stop(pg, 0);
            story.tell("it is promoted to", pg.promote(1, &[]));
            store(pg, 1, "b");
            follow(pg, 0, 1);
            pg.set_standby(0, true);
            pg.start(0);
            story.tell("the old primary follows", pg.streams(0));
            story.tell("and has", pg.rows(0));
        },
        expect![[r#"
            it is promoted to: 2
            the old primary follows: true
            and has: ["a", "b"]
        "#]],
    );
}

/// R18: what a slot keeps is there; what none keeps is removed, and who needs it cannot go on.
#[test]
fn without_its_slot_a_standby_loses_its_place() {
    check(
        2,
        |pg, story| {
            cluster(pg, 2);
            stop(pg, 1);
            pg.wear_out_wal(0);
            pg.start(1);
            story.tell("with its slot it streams", pg.streams(1));
            stop(pg, 1);
            pg.drop_slot(0, 1);
            pg.wear_out_wal(0);
            pg.make_slot(0, 1);
            pg.start(1);
            story.tell("without one it does", pg.streams(1));
        },
        expect![[r#"
            with its slot it streams: true
            without one it does: false
        "#]],
    );
}
