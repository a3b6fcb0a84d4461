mod leases;

use super::*;
use crate::decree::SystemId;
use crate::failover::{Branch, Lineage};
use crate::node::DataDir;
use crate::protocol::{Assignment, Lsn};
use crate::spec::Profile;

fn name(node: &str) -> NodeName {
    node.parse().unwrap()
}

fn system() -> SystemId {
    SystemId("7".to_owned())
}

fn ms(millis: u64) -> BootTime {
    BootTime(Duration::from_millis(millis))
}

fn timing() -> Timing {
    Timing::of(Profile::Balanced)
}

fn quorum(acks: usize, members: &[&str]) -> Rule {
    Rule::any(acks, members.iter().map(|node| name(node)).collect()).unwrap()
}

fn lead(pledges: Vec<Rule>) -> Task {
    let rule = pledges.first().cloned().unwrap_or_else(Rule::alone);
    Task::Lead { system_id: system(), terms: Terms { nonce: "n2".to_owned(), rule, pledges } }
}

fn follow() -> Task {
    let first = Branch { epoch: Epoch(1), timeline: 1, start: Lsn(0), node: name("ord-1") };
    let lineage = Lineage::new(first, "n1".to_owned());
    Task::Follow { primary: name("ord-1"), system_id: system(), lineage, remake: false }
}

fn told(ledger: &Ledger, epoch: u64, revision: u64, task: Task, profile: Profile) -> Result<Ledger, Refusal> {
    let data = DataDir::Complete { major: 15, system_id: system(), standby_signal: false, origin: None };
    let assignment = Assignment {
        cluster: ledger.cluster.clone(),
        node: ledger.node.clone(),
        epoch: Epoch(epoch),
        revision,
        task,
        peers: vec![],
        profile,
        parameters: Default::default(),
    };
    ledger.accept(&assignment, &data)
}

fn blank(node: &str) -> Ledger {
    Ledger {
        system_id: Some(system()),
        promised: Epoch(2),
        ..Ledger::blank("orders-db".parse().unwrap(), name(node), "m".to_owned())
    }
}

fn recruit() -> Task {
    Task::Recruit { primary: name("ord-1") }
}

/// `ord-1`, which leads in epoch 2 and is held up by pledges that meet `pledges`.
fn primary(pledges: Vec<Rule>) -> Ledger {
    let role = LedgerRole::Primary { epoch: Epoch(2), nonce: "n2".to_owned() };
    told(&Ledger { role, ..blank("ord-1") }, 2, 1, lead(pledges), Profile::Balanced).unwrap()
}

/// A replica of `ord-1` in epoch 2.
fn replica(node: &str, profile: Profile) -> Ledger {
    let role = LedgerRole::Replica { upstream: name("ord-1"), epoch: Epoch(2) };
    told(&Ledger { role, ..blank(node) }, 2, 1, follow(), profile).unwrap()
}

fn grant(boot: &str, epoch: u64, sent: u64) -> Grant {
    Grant { epoch: Epoch(epoch), boot: boot.to_owned(), sent: ms(sent), ttl: timing().ttl }
}

/// A node that leads under `ledger` and has confirmed its marker.
fn confirmed(ledger: &Ledger, now: BootTime) -> Tenure {
    let mut tenure = Tenure::begin("b1", ledger, now);
    let life = tenure.life();
    assert!(tenure.confirm(ledger, Epoch(2), life));
    tenure
}

#[test]
fn every_boot_begins_fenced_and_a_grant_counts_from_the_report_it_answers() {
    let ledger = primary(vec![quorum(1, &["ord-2"])]);
    let mut tenure = Tenure::begin("b1", &ledger, ms(100));
    assert_eq!(tenure.gate(&ledger, true, ms(100)), Gate::Unconfirmed);
    assert!(tenure.granted(&ledger, &grant("b1", 2, 200), ms(3_000)));
    assert!(!tenure.granted(&ledger, &grant("b0", 2, 2_900), ms(3_000)), "another boot's");
    assert!(!tenure.granted(&ledger, &grant("b1", 3, 2_900), ms(3_000)), "another epoch's");
    assert!(!tenure.granted(&ledger, &grant("b1", 2, 3_001), ms(3_000)), "of a report that it has not sent yet");
    assert_eq!(tenure.passes_until(&ledger), None, "nothing passes before the marker is confirmed");
    assert!(tenure.may_run_primary(&ledger, ms(6_199)) && !tenure.may_run_primary(&ledger, ms(6_200)));
    assert!(tenure.confirm(&ledger, Epoch(2), 0));
    assert_eq!(tenure.passes_until(&ledger), Some(ms(6_200)));
    assert_eq!(tenure.gate(&ledger, true, ms(6_199)), Gate::Open);
    assert_eq!(tenure.gate(&ledger, true, ms(6_200)), Gate::Leaseless);
    assert_eq!(tenure.gate(&ledger, false, ms(6_199)), Gate::Down);
    let over = |now| tenure.is_grace_over(&ledger, ms(now), &timing());
    assert!(!over(11_199) && over(11_200));
}

#[test]
fn what_came_up_after_a_crash_is_confirmed_by_itself_only() {
    let ledger = primary(vec![]);
    let mut tenure = confirmed(&ledger, ms(0));
    assert_eq!(tenure.passes_until(&ledger), Some(BootTime::MAX));
    let before = tenure.life();
    tenure.postgres_ended();
    assert_eq!(tenure.passes_until(&ledger), None);
    assert!(!tenure.confirm(&ledger, Epoch(2), before), "the word of the one that crashed, told late");
    assert!(!tenure.confirm(&ledger, Epoch(1), tenure.life()), "of another epoch");
    assert!(tenure.confirm(&ledger, Epoch(2), tenure.life()) && tenure.is_confirmed(&ledger));
}

#[test]
fn another_epoch_begins_without_a_lease_and_without_a_marker() {
    let ledger = primary(vec![quorum(1, &["ord-2"])]);
    let mut tenure = confirmed(&ledger, ms(0));
    tenure.granted(&ledger, &grant("b1", 2, 0), ms(0));
    let recruited = told(&ledger, 3, 2, recruit(), Profile::Balanced).unwrap();
    // Even before it is told that the ledger has changed.
    assert_eq!(tenure.passes_until(&recruited), None);
    tenure.follow(&recruited, ms(10));
    assert_eq!(tenure.gate(&recruited, true, ms(10)), Gate::Fenced);
    assert!(!tenure.granted(&recruited, &grant("b1", 2, 0), ms(10)));

    let Task::Lead { system_id, terms } = lead(vec![quorum(1, &["ord-2"])]) else { unreachable!() };
    let again = told(&recruited, 3, 3, Task::Reaffirm { system_id, terms }, Profile::Balanced).unwrap();
    assert_eq!(tenure.passes_until(&again), None, "before it was told, too");
    tenure.follow(&again, ms(3_000));
    assert!(!tenure.granted(&again, &grant("b1", 2, 2_000), ms(3_000)), "the old epoch's, late");
    assert!(!tenure.is_confirmed(&again) && !tenure.may_run_primary(&again, ms(3_000)));
    assert!(!tenure.is_grace_over(&again, ms(7_999), &timing()), "it has only just taken this up");
    assert!(tenure.granted(&again, &grant("b1", 3, 3_000), ms(3_000)));
}

#[test]
fn a_primary_that_comes_to_need_a_lease_is_given_time_to_get_one() {
    let alone = primary(vec![]);
    let mut tenure = confirmed(&alone, ms(0));
    let leased = told(&alone, 2, 9, lead(vec![quorum(1, &["ord-2"])]), Profile::Balanced).unwrap();
    tenure.follow(&leased, ms(60_000));
    assert_eq!(tenure.gate(&leased, true, ms(60_000)), Gate::Leaseless);
    let over = |tenure: &Tenure, now| tenure.is_grace_over(&leased, ms(now), &timing());
    assert!(!over(&tenure, 64_999) && over(&tenure, 65_000));
    // The same again is nothing new; another rule is, by which pledges given before may not count.
    tenure.follow(&leased, ms(64_000));
    assert!(over(&tenure, 65_000));
    let other = told(&leased, 2, 10, lead(vec![quorum(1, &["ord-3"])]), Profile::Balanced).unwrap();
    tenure.follow(&other, ms(64_000));
    assert!(!tenure.is_grace_over(&other, ms(68_999), &timing()));
}

#[test]
fn a_node_that_fenced_itself_stays_so_in_its_epoch() {
    for pledges in [vec![], vec![quorum(1, &["ord-2"])]] {
        let ledger = primary(pledges);
        let mut tenure = confirmed(&ledger, ms(0));
        tenure.granted(&ledger, &grant("b1", 2, 0), ms(0));
        tenure.fence();
        assert!(!tenure.granted(&ledger, &grant("b1", 2, 5), ms(5)) && !tenure.confirm(&ledger, Epoch(2), 0));
        tenure.follow(&ledger, ms(6));
        assert_eq!((tenure.passes_until(&ledger), tenure.round(&ledger, ms(9_000), &timing())), (None, None));
        assert_eq!(tenure.gate(&ledger, true, ms(6)), Gate::Fenced);
    }
}

#[test]
fn pledges_are_asked_for_when_no_controller_grants_and_count_under_the_rules_of_then_and_now() {
    let rules = |members: &[&str]| vec![quorum(1, members)];
    let ledger = primary(rules(&["ord-2"]));
    let mut tenure = confirmed(&ledger, ms(0));
    tenure.granted(&ledger, &grant("b1", 2, 1_000), ms(1_000));
    assert_eq!(tenure.round(&ledger, ms(2_999), &timing()), None);
    // The same grant once more is no sign of life.
    tenure.granted(&ledger, &grant("b1", 2, 1_000), ms(2_900));
    let mut round = tenure.round(&ledger, ms(3_000), &timing()).unwrap();
    let asked: Vec<_> = round.questions(&ledger).into_iter().map(|asked| asked.node).collect();
    assert_eq!(asked, [name("ord-2")]);
    assert!(!tenure.pledges(&ledger, &round), "nobody gave one");
    round.givers.insert(name("ord-2"));

    // The rule changed while the answers were on their way.
    let joint =
        told(&ledger, 2, 2, lead(vec![quorum(1, &["ord-2"]), quorum(1, &["ord-3"])]), Profile::Balanced).unwrap();
    assert!(!tenure.clone().pledges(&joint, &round));
    // Or after they came: those who gave are no longer all that is needed.
    assert!(tenure.pledges(&ledger, &round));
    assert_eq!(tenure.passes_until(&ledger), Some(ms(9_000)));
    assert_eq!(tenure.passes_until(&joint), Some(ms(7_000)));
    // A round that was overtaken takes nothing away.
    let older = Round { sent: ms(2_500), ..round };
    assert!(tenure.pledges(&ledger, &older));
    assert_eq!(tenure.passes_until(&ledger), Some(ms(9_000)));
    assert_eq!(tenure.round(&primary(vec![]), ms(9_000), &timing()), None, "whoever needs no lease asks nobody");
}

#[test]
fn a_pledge_binds_across_boots_for_as_long_as_the_primary_counts_on_it() {
    let patient = Timing::of(Profile::Patient);
    let fast = Timing::of(Profile::Fast);
    let asked = Round {
        epoch: Epoch(2),
        sent: ms(0),
        terms: Terms { nonce: String::new(), rule: Rule::alone(), pledges: vec![quorum(1, &["ord-2"])] },
        givers: BTreeSet::new(),
        ttl: patient.ttl,
    }
    .questions(&primary(vec![]));
    let ledger = replica("ord-2", Profile::Fast);
    let mut tenure = Tenure::begin("b1", &ledger, ms(0));
    assert_eq!(tenure.may_promise(&ledger, Epoch(3), ms(0)), Ok(()));
    // The primary goes by longer times than this node.
    let pledged = tenure.pledge(&ledger, &asked[0], ms(1_000), &fast).unwrap();
    assert_eq!(tenure.pledged_for(ms(1_000)), Some(patient.over_after()));
    assert!(matches!(tenure.may_promise(&pledged, Epoch(3), ms(16_529)), Err(Refusal::Pledged { .. })));
    assert_eq!(tenure.may_promise(&pledged, Epoch(2), ms(1_000)), Ok(()), "what it has promised already");
    assert_eq!(tenure.may_promise(&pledged, Epoch(3), ms(16_530)), Ok(()));

    let reborn = Tenure::begin("b2", &pledged.restarted("m"), ms(50));
    assert_eq!(reborn.pledged_for(ms(50)), Some(patient.over_after()));

    let other = |change: fn(&mut PledgeAsked)| {
        let mut asked = asked[0].clone();
        change(&mut asked);
        let mut tenure = Tenure::begin("b1", &ledger, ms(0));
        let answer = tenure.pledge(&ledger, &asked, ms(0), &fast);
        assert_eq!(tenure.pledged_for(ms(0)), None, "what is refused does not bind");
        answer.unwrap_err()
    };
    assert!(matches!(other(|asked| asked.node = name("ord-3")), Refusal::OtherNode { .. }));
    assert!(matches!(other(|asked| asked.cluster = "users-db".parse().unwrap()), Refusal::OtherNode { .. }));
    assert!(matches!(other(|asked| asked.primary = name("ord-3")), Refusal::NoPledge { .. }));
    assert!(matches!(other(|asked| asked.epoch = Epoch(1)), Refusal::NoPledge { .. }));
}

#[test]
fn a_switchover_that_is_called_off_lets_everybody_go_on() {
    let ledger = primary(vec![]);
    let Task::Lead { system_id, terms } = lead(vec![]) else { unreachable!() };
    let hand_over = Task::HandOver { system_id, terms, to: name("ord-2") };
    let handing = told(&ledger, 2, 2, hand_over, Profile::Balanced).unwrap();
    let mut tenure = confirmed(&ledger, ms(0));
    tenure.follow(&handing, ms(1));
    tenure.hold(true);
    assert_eq!(tenure.gate(&handing, true, ms(2)), Gate::Holding);
    tenure.follow(&handing, ms(3));
    assert_eq!(tenure.gate(&handing, true, ms(3)), Gate::Holding);
    let back = told(&handing, 2, 3, lead(vec![]), Profile::Balanced).unwrap();
    tenure.follow(&back, ms(4));
    assert_eq!(tenure.gate(&back, true, ms(4)), Gate::Open);
}

#[cfg(feature = "mutants")]
#[test]
fn each_rule_is_missed() {
    let ledger = primary(vec![quorum(1, &["ord-2"])]);
    crate::mutant::set(&["R3"]);
    let mut tenure = Tenure::begin("b1", &ledger, ms(0));
    tenure.granted(&ledger, &grant("b1", 2, 0), ms(0));
    assert!(tenure.passes_until(&ledger).is_some(), "it opens before its marker is confirmed");
    crate::mutant::set(&["R10"]);
    let role = LedgerRole::Promoting { epoch: Epoch(2), timeline: 2, nonce: "n2".to_owned() };
    let mut tenure = Tenure::begin("b1", &replica("ord-2", Profile::Balanced), ms(0));
    tenure.follow(&Ledger { role, ..ledger.clone() }, ms(0));
    assert!(tenure.is_confirmed(&ledger));
    crate::mutant::set(&["R11"]);
    let mut tenure = confirmed(&ledger, ms(0));
    tenure.postgres_ended();
    assert!(tenure.is_confirmed(&ledger));
    crate::mutant::set(&[]);
}
