use flypg_core::decree::{CommitMode, Decree, Epoch};
use flypg_core::failover::Verdict;
use flypg_core::observed::Missed;
use flypg_core::plan::{Hold, Plan, Risk, Subject, Suspicion, Until, Work};
use flypg_core::spec::Profile;

use super::*;
use crate::act::Trouble;

fn cluster() -> ClusterName {
    "orders-db".parse().unwrap()
}

fn clock() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

fn turn(holds: Vec<Until>, part: Part) -> Turn {
    let holds = holds.into_iter().map(|until| Hold { what: Work::Everything, until }).collect();
    Turn {
        at: clock(),
        observed: Observed::default(),
        plan: Plan { cluster: cluster(), verdict: Verdict::Unknown, steps: Vec::new(), holds },
        results: Vec::new(),
        part,
    }
}

fn step(action: Action, why: Why) -> Step {
    Step { action, why, risk: Risk::None, pauses_writes_ms: None }
}

fn told(dir: &Path) -> Vec<String> {
    let events = read(dir, &cluster()).unwrap();
    events.into_iter().map(|event| format!("{}: {}", event.what.name(), event.message)).collect()
}

#[test]
fn what_is_held_is_told_when_it_begins_and_when_it_ends_and_figures_are_no_news() {
    let dir = tempfile::tempdir().unwrap();
    let chronicle = Chronicle::open(dir.path(), &cluster(), clock, ()).unwrap();
    let over = |left_ms| vec![Until::LeaseOver { node: "ord-1".parse().unwrap(), left_ms }];
    for holds in [over(2_000), over(1_000), vec![Until::Confirmed { what: Subject::Machines }], Vec::new()] {
        chronicle.planned(&turn(holds, Part::Rest));
    }
    // Whoever leads says nothing of what is not about leadership.
    chronicle.planned(&turn(over(2_000), Part::Leadership));
    let what: Vec<String> = told(dir.path()).iter().map(|line| line[..10].to_owned()).collect();
    assert_eq!(what, ["hold-began", "hold-began", "hold-ended", "hold-ended"]);
}

#[test]
fn decisions_are_told_with_their_reasons_and_failures_once() {
    let dir = tempfile::tempdir().unwrap();
    let chronicle = Chronicle::open(dir.path(), &cluster(), clock, ()).unwrap();
    let mut decree =
        Decree::first("ord-1".parse().unwrap(), "n".to_owned(), CommitMode::Synchronous, Profile::Balanced);
    decree.stage = Stage::Established;
    let electing = decree.amended(|next| next.epoch = Epoch(2));
    let suspected = Why::Suspected { node: "ord-1".parse().unwrap(), suspicion: Suspicion::Silent { missed: 3 } };
    let decide = Action::Decide { cluster: cluster(), instead_of: Some(Box::new(decree)), decree: electing };
    let decide = step(decide, suspected);
    for _ in 0..3 {
        chronicle.ended(&cluster(), &decide, &Err(ActError::Refused(Trouble::Overtaken)), Duration::ZERO);
    }
    chronicle.ended(&cluster(), &decide, &Ok(()), Duration::ZERO);
    let events = read(dir.path(), &cluster()).unwrap();
    let kinds: Vec<What> = events.iter().map(|event| event.what).collect();
    assert_eq!(kinds, [What::Failed, What::FailoverBegan]);
    assert_eq!(events[1].epoch, Some(2));
    assert!(events[1].message.contains("ord-1"), "{}", events[1].message);
}

#[test]
fn a_node_that_falls_silent_and_comes_back_is_told_of_twice() {
    let dir = tempfile::tempdir().unwrap();
    let chronicle = Chronicle::open(dir.path(), &cluster(), clock, ()).unwrap();
    let mut heard = turn(Vec::new(), Part::Leadership);
    let mut report = crate::lead::a_report();
    report.node = "ord-1".parse().unwrap();
    heard.observed.reports.insert("m1".to_owned(), Seen::at(clock(), report.clone()));
    heard.observed.watch.hear("m1", &report, flypg_core::observed::Heard::at(Default::default()));
    chronicle.planned(&heard);
    for missed in [Missed::Silent, Missed::Refused, Missed::Refused] {
        heard.observed.watch.miss("m1", missed);
        chronicle.planned(&heard);
    }
    heard.observed.watch.hear("m1", &report, flypg_core::observed::Heard::at(Default::default()));
    chronicle.planned(&heard);
    assert_eq!(
        told(dir.path()),
        ["node-up: ord-1 runs", "node-down: ord-1 does not answer", "node-up: ord-1 runs again"]
    );
}
