use flypg_core::decree::CommitMode;
use flypg_core::failover::lease::BootTime;
use flypg_core::observed::Machine;
use flypg_core::protocol::{Phase, Standing};
use flypg_core::spec::Profile;

use super::*;

const MS: fn(u64) -> Mono = |ms| Mono(Duration::from_millis(ms));

fn report(node: &str, boot: &str, version: u64) -> NodeReport {
    NodeReport {
        cluster: "orders-db".parse().unwrap(),
        node: node.parse().unwrap(),
        machine: node.replace("ord-", "m"),
        incarnation: 1,
        boot: boot.to_owned(),
        sent: Default::default(),
        version,
        promised: Epoch(1),
        assignment: None,
        revision: 0,
        standing: Standing::Unbound,
        pledged_for: None,
        primary_heard: None,
        phase: Phase::Blank,
        postgres: None,
        disk: None,
        crashes: 0,
    }
}

fn machine(id: &str, power: Power) -> Machine {
    Machine {
        id: id.to_owned(),
        name: id.replace('m', "ord-"),
        region: "ord".to_owned(),
        power,
        host_ok: true,
        address: None,
        config: None,
    }
}

fn look(machines: &[(&str, Power)]) -> Observed {
    let machines = machines.iter().map(|(id, power)| machine(id, *power)).collect();
    Observed { machines: Seen::at(Timestamp::UNIX_EPOCH, machines), ..Observed::default() }
}

fn decree() -> Decree {
    Decree::first("ord-1".parse().unwrap(), "n".to_owned(), CommitMode::Synchronous, Profile::Balanced)
}

fn reading(record: Option<Decree>) -> Reading {
    Reading { record, leads: true }
}

/// What is known now, with this record.
fn scene(vigil: &Vigil, record: Option<Decree>, now: u64) -> Scene {
    let watch = vigil.watch(&reading(record.clone()), None, MS(now), MS(now));
    vigil.scene(Seen::at(Timestamp::UNIX_EPOCH, record), watch)
}

#[test]
fn of_two_reports_that_arrive_out_of_order_the_later_one_counts() {
    let vigil = Vigil::new(true);
    let hear = |boot: &str, sent, version| {
        let sent = BootTime(Duration::from_secs(sent));
        vigil.hear(
            "m1",
            NodeReport { sent, ..report("ord-1", boot, version) },
            Timestamp::UNIX_EPOCH,
            Heard::at(MS(10)),
        );
        vigil.reports()["m1"].known().unwrap().version
    };
    assert_eq!(hear("b", 5, 2), 2);
    assert_eq!(hear("b", 4, 1), 2, "it was sent before the other");
    assert_eq!(hear("b", 5, 3), 3);
    assert_eq!(hear("c", 1, 1), 1, "the clock of another boot");
}

/// The record is read first, and what is known beside it taken a moment later. A report that comes in between has its own
/// time of arrival: with that of the one before, its lease would be counted as over too early.
#[test]
fn a_report_is_known_by_its_own_arrival() {
    let vigil = Vigil::new(true);
    let hear = |version: u64, at| {
        let sent = BootTime(Duration::from_secs(version));
        let report = NodeReport { sent, ..report("ord-1", "b", version) };
        vigil.hear("m1", report, Timestamp::UNIX_EPOCH, Heard::at(MS(at)));
    };
    hear(1, 10);
    vigil.prove("m1").succeeded(MS(20));
    let watch = vigil.watch(&reading(Some(decree())), None, MS(30), MS(30));
    hear(2, 40);
    vigil.grant(Epoch(1), MS(40));
    let Scene { observed, .. } = vigil.scene(Seen::at(Timestamp::UNIX_EPOCH, Some(decree())), watch);
    let said = observed.reports["m1"].known().unwrap();
    assert_eq!(said.sent, BootTime(Duration::from_secs(2)));
    assert_eq!(observed.watch.pulses["m1"].heard, Some(MS(40)));
    assert_eq!(observed.watch.granted.map(|granted| granted.last), Some(MS(40)));
    assert!(observed.watch.stopped.is_empty(), "it was heard since");
    assert_eq!(observed.watch.record_read, MS(30), "so that this report is not answered by this plan");
}

async fn is_called(wait: impl Future<Output = ()>) -> bool {
    tokio::time::timeout(Duration::ZERO, wait).await.is_ok()
}

#[tokio::test]
async fn the_primary_calls_with_every_report_and_the_others_with_news() {
    let vigil = Vigil::default();
    scene(&vigil, Some(decree()), 1);
    let hear = |node: &str, version| {
        let report = report(node, "b", version);
        vigil.hear(&report.machine.clone(), report, Timestamp::UNIX_EPOCH, Heard::at(MS(version)));
    };
    for node in ["ord-1", "ord-2"] {
        hear(node, 1);
        assert!(is_called(vigil.called_to_lead()).await && is_called(vigil.heard()).await);
        hear(node, 1);
        assert_eq!(is_called(vigil.called_to_lead()).await, node == "ord-1");
        assert!(!is_called(vigil.heard()).await, "it said nothing new");
        hear(node, 2);
        assert!(is_called(vigil.called_to_lead()).await && is_called(vigil.heard()).await);
    }
    vigil.miss("m2", Missed::Silent, Unknown::NotLooked);
    assert!(is_called(vigil.called_to_lead()).await);
    hear("ord-2", 2);
    assert!(is_called(vigil.called_to_lead()).await, "it answers again");
}

#[test]
fn who_does_not_answer_is_unknown_to_the_turns_and_remembered_by_leadership() {
    let vigil = Vigil::default();
    vigil.looked(&look(&[("m1", Power::Started)]));
    vigil.hear("m1", report("ord-1", "b", 1), Timestamp::UNIX_EPOCH, Heard::at(MS(1)));
    vigil.miss("m1", Missed::Silent, Unknown::NoAnswer { error: "gone".to_owned() });
    assert!(vigil.reports()["m1"].known().is_some(), "once is nothing yet");
    vigil.miss("m1", Missed::Silent, Unknown::NoAnswer { error: "gone".to_owned() });
    assert!(vigil.reports()["m1"].why_unknown().is_some());
    let scene = scene(&vigil, None, 5);
    assert!(scene.observed.reports["m1"].known().is_some());
    assert_eq!(scene.observed.watch.pulses["m1"].missed, 2);
}

#[test]
fn the_last_that_was_known_of_the_platform_stays() {
    let vigil = Vigil::default();
    vigil.looked(&look(&[("m1", Power::Started), ("m2", Power::Stopped)]));
    let blind = Observed {
        machines: Seen::Unknown { why: Unknown::NoAnswer { error: "503".to_owned() } },
        ..Observed::default()
    };
    vigil.looked(&blind);
    assert_eq!(vigil.platform().machines.known().map(Vec::len), Some(2));
    // Whoever answers runs, whatever an older list says.
    vigil.hear("m2", report("ord-2", "b", 1), Timestamp::UNIX_EPOCH, Heard::at(MS(1)));
    let power = |scene: &Scene, id: &str| {
        scene.observed.machines.known().unwrap().iter().find(|machine| machine.id == id).unwrap().power
    };
    assert_eq!(power(&scene(&vigil, None, 2), "m2"), Power::Started);
    vigil.miss("m2", Missed::Refused, Unknown::NotLooked);
    assert_eq!(power(&scene(&vigil, None, 3), "m2"), Power::Stopped);
}

#[tokio::test]
async fn who_decides_and_who_removes_do_not_cross() {
    let vigil = Vigil::default();
    vigil.looked(&look(&[("m1", Power::Started), ("m2", Power::Started)]));
    vigil.hear("m2", report("ord-2", "b", 1), Timestamp::UNIX_EPOCH, Heard::at(MS(1)));
    let before = scene(&vigil, None, 2);

    // The record is not what the removal was planned for: nothing goes, and what was decided before is made again.
    assert!(!vigil.go(&["m2"], async { false }).await);
    assert!(scene(&vigil, None, 3).observed.reports.contains_key("m2"));
    // It is: from now on nobody counts on m2, and a decision that did is not taken.
    assert!(vigil.go(&["m2"], async { true }).await);
    assert_eq!(vigil.decide(before.goings, async { "promoted" }).await, None);
    let after = scene(&vigil, None, 4);
    assert!(!after.observed.reports.contains_key("m2"));
    assert_eq!(vigil.decide(after.goings, async { "promoted" }).await, Some("promoted"));
    // Seen again after that was done, it counts by what is seen.
    vigil.looked(&look(&[("m1", Power::Started), ("m2", Power::Started)]));
    assert!(scene(&vigil, None, 5).observed.reports.contains_key("m2"));
}

#[test]
fn an_order_stands_until_the_record_shows_it_or_nobody_expects_it_any_more() {
    let order = Order::Switchover { to: Some("ord-2".parse().unwrap()) };
    let given = |now| {
        let vigil = Vigil::default();
        vigil.order(order.clone(), Some(&decree()), MS(now));
        vigil
    };
    let stands = |vigil: &Vigil, record: Decree, now| scene(vigil, Some(record), now).observed.watch.order;
    let vigil = given(1_000);
    assert_eq!(stands(&vigil, decree(), 2_000), Some(order.clone()));
    let other = decree().amended(|next| next.rule = flypg_core::failover::Rule::alone());
    assert_eq!(stands(&vigil, other, 3_000), Some(order.clone()), "something else was decided");
    let taken_up = decree().amended(|next| next.stage = Stage::HandingOver { to: "ord-2".parse().unwrap() });
    assert_eq!(stands(&vigil, taken_up, 4_000), None);
    assert_eq!(stands(&vigil, decree(), 5_000), None, "once over, it does not come back");
    let vigil = given(1_000);
    assert_eq!(stands(&vigil, decree(), 60_999), Some(order.clone()));
    assert_eq!(stands(&vigil, decree(), 61_000), None);
}

#[test]
fn a_proof_of_a_machine_that_spoke_meanwhile_is_none() {
    for (heard, proven) in [(5, true), (10, false), (11, false)] {
        let vigil = Vigil::default();
        vigil.looked(&look(&[("m1", Power::Started)]));
        let proof = vigil.prove("m1");
        assert!(vigil.is_proving("m1"));
        vigil.hear("m1", report("ord-1", "b", 1), Timestamp::UNIX_EPOCH, Heard::at(MS(heard)));
        proof.succeeded(MS(10));
        assert!(!vigil.is_proving("m1"));
        assert_eq!(scene(&vigil, None, 20).observed.watch.stopped.contains_key("m1"), proven, "heard at {heard}");
    }
}
