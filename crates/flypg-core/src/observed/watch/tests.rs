use std::time::Duration;

use super::*;
use crate::decree::{CommitMode, SystemId};
use crate::protocol::{PgReport, Standing};
use crate::spec::Profile;

const MS: fn(u64) -> Mono = |ms| Mono(Duration::from_millis(ms));

fn report(node: &str, boot: &str, phase: Phase, role: Option<PgRole>) -> NodeReport {
    NodeReport {
        cluster: "orders-db".parse().unwrap(),
        node: node.parse().unwrap(),
        machine: format!("m-{node}"),
        incarnation: 3,
        boot: boot.to_owned(),
        sent: Default::default(),
        version: 1,
        promised: Epoch(1),
        assignment: None,
        revision: 0,
        standing: Standing::Unbound,
        pledged_for: None,
        primary_heard: None,
        phase,
        postgres: role.map(|role| PgReport {
            version: "15.20".to_owned(),
            system_id: SystemId("7".to_owned()),
            timeline: 1,
            history: None,
            started_at: 0,
            role,
            settings: String::new(),
            parameters: Default::default(),
            pending_restart: Vec::new(),
            withheld: Vec::new(),
            rejected: Default::default(),
        }),
        disk: None,
        crashes: 0,
    }
}

fn primary(lsn: u64) -> NodeReport {
    let role = PgRole::Primary { lsn: Lsn(lsn), replicas: Vec::new(), slots: Default::default(), probe: None };
    report("ord-1", "b1", Phase::Running, Some(role))
}

fn standby(received: u64, from: &str) -> NodeReport {
    let role = PgRole::Standby {
        received: Some(Lsn(received)),
        replayed: Lsn(received),
        streaming_from: Some(from.parse().unwrap()),
        replay_lag_seconds: None,
    };
    report("ord-2", "b1", Phase::Running, Some(role))
}

fn decree(reign: u64) -> Decree {
    let mut decree =
        Decree::first("ord-1".parse().unwrap(), "n".to_owned(), CommitMode::Asynchronous, Profile::Balanced);
    (decree.epoch, decree.reign, decree.stage) = (Epoch(reign), Epoch(reign), Stage::Established);
    decree
}

#[test]
fn misses_add_up_until_something_is_heard() {
    let mut watch = Watch::default();
    watch.miss("m1", Missed::Silent);
    watch.miss("m1", Missed::Refused);
    assert_eq!((watch.pulses["m1"].missed, watch.pulses["m1"].heard), (3, None));
    watch.hear("m1", &primary(1), Heard::at(MS(50)));
    let (heard, asked) = (Some(MS(50)), Some(MS(50)));
    let heard = Pulse { heard, asked, incarnation: Some(3), ran: Some((3, 0)), ..Pulse::default() };
    assert_eq!(watch.pulses["m1"], heard);
    watch.miss("m1", Missed::Silent);
    assert_eq!(watch.pulses["m1"], Pulse { missed: 1, ..heard });
}

#[test]
fn a_postgres_that_is_down_is_down_since_the_first_report_that_says_so() {
    let mut watch = Watch::default();
    let down = report("ord-1", "b1", Phase::Starting, None);
    watch.hear("m1", &down, Heard::at(MS(10)));
    watch.hear("m1", &down, Heard::at(MS(20)));
    watch.miss("m1", Missed::Silent);
    assert_eq!(watch.pulses["m1"].down_since, Some(MS(10)));
    watch.hear("m1", &primary(1), Heard::at(MS(30)));
    assert_eq!(watch.pulses["m1"].down_since, None);
}

#[test]
fn a_proof_holds_until_the_machine_is_heard_again() {
    let mut watch = Watch::default();
    watch.stopped.insert("m1".to_owned(), Stopped { at: MS(5) });
    watch.miss("m1", Missed::Refused);
    watch.hear("m2", &primary(1), Heard::at(MS(10)));
    assert!(watch.stopped.contains_key("m1"));
    watch.hear("m1", &report("ord-1", "b2", Phase::Starting, None), Heard::at(MS(20)));
    assert!(watch.stopped.is_empty());
}

#[test]
fn the_last_position_is_of_this_reign_and_only_goes_up() {
    let mut watch = Watch::default();
    watch.hear("m-ord-1", &primary(100), Heard::at(MS(1)));
    let known = |lsn| Some(LastKnown { reign: Epoch(1), lsn: Lsn(lsn), said: Some(MS(1)), recalled: false });
    let (one, two) = (primary(100), standby(120, "ord-1"));
    watch.see(Some(&decree(1)), [&one, &two].into_iter(), MS(1));
    assert_eq!(watch.last_known, known(120));
    assert_eq!(watch.epoch_since, Some((Epoch(1), MS(1))));
    let (less, stranger) = (primary(90), standby(900, "ord-3"));
    watch.see(Some(&decree(1)), [&less, &stranger].into_iter(), MS(2));
    assert_eq!(watch.last_known, known(120));
    assert_eq!(watch.epoch_since, Some((Epoch(1), MS(1))), "since it was first seen");
    // In the next reign, what nodes say that have not promised it does not count.
    watch.see(Some(&decree(2)), [&one, &two].into_iter(), MS(3));
    assert_eq!((watch.last_known, watch.epoch_since), (None, Some((Epoch(2), MS(3)))));
}

/// A controller that began to lead after the primary had gone knows of no bound to what a standby lacks.
#[test]
fn what_standbys_have_is_not_how_far_a_primary_came_that_was_never_heard() {
    let mut watch = Watch::default();
    watch.see(Some(&decree(1)), [&standby(120, "ord-1")].into_iter(), MS(1));
    assert_eq!(watch.last_known, None);
    watch.hear("m-ord-1", &primary(500), Heard { asked: MS(1), arrived: MS(2) });
    watch.see(Some(&decree(1)), [&primary(500), &standby(120, "ord-1")].into_iter(), MS(2));
    watch.see(Some(&decree(1)), [&standby(520, "ord-1")].into_iter(), MS(3));
    let known = LastKnown { reign: Epoch(1), lsn: Lsn(520), said: Some(MS(1)), recalled: false };
    assert_eq!(watch.last_known, Some(known));
}

/// What was written down is of one reign, and as good as what is heard until then.
#[test]
fn a_position_that_was_written_down_counts_in_its_own_reign() {
    let mut watch = Watch::default();
    watch.recall(Epoch(1), Lsn(300));
    watch.see(Some(&decree(1)), [&standby(120, "ord-1")].into_iter(), MS(1));
    assert_eq!(watch.last_known.map(|known| (known.lsn, known.recalled)), Some((Lsn(300), true)));
    watch.see(Some(&decree(2)), std::iter::empty(), MS(2));
    assert_eq!(watch.last_known, None);
}

#[test]
fn grants_are_remembered_for_the_newest_epoch_and_never_earlier_than_they_were() {
    let mut watch = Watch::default();
    watch.grant(Epoch(1), MS(10));
    watch.grant(Epoch(1), MS(5));
    assert_eq!(watch.granted, Some(Granted { epoch: Epoch(1), last: MS(10) }));
    watch.grant(Epoch(2), MS(7));
    watch.grant(Epoch(1), MS(99));
    assert_eq!(watch.granted, Some(Granted { epoch: Epoch(2), last: MS(10) }));
    // Whoever goes on in the next reign answers under this one until it has heard of that.
    watch.see(Some(&decree(3)), std::iter::empty(), MS(100));
    assert_eq!(watch.granted, Some(Granted { epoch: Epoch(2), last: MS(10) }));
}
