use super::*;
use crate::protocol::Lsn;

fn node(ordinal: u32) -> NodeName {
    NodeName::new("ord".parse().unwrap(), ordinal)
}

fn at(rank: usize, lsn: u64) -> Position {
    Position { rank, lsn: Lsn(lsn) }
}

fn recruits(of: &[(u32, Position)]) -> BTreeMap<NodeName, Position> {
    of.iter().map(|&(ordinal, position)| (node(ordinal), position)).collect()
}

fn any(acks: usize, members: &[u32]) -> Rule {
    Rule::any(acks, members.iter().map(|&o| node(o)).collect()).unwrap()
}

const STOPPED: Fences = Fences { lease_over: false, machine_stopped: true, relinquished: false };
const NOTHING: Fences = Fences { lease_over: false, machine_stopped: false, relinquished: false };

fn reign<'a>(primary: &'a NodeName, rule: &'a Rule, joint: Option<&'a Rule>, read_fence: bool) -> Reign<'a> {
    Reign { primary, rule, joint, superseded: &[], ending: Ending::Established, mode: Mode::Synchronous { read_fence } }
}

#[test]
fn membership_of_the_set_is_not_enough() {
    // Mutant M1: any member of a 1-of-2 rule. The other one may hold what this one lacks.
    let (one, rule) = (node(1), any(1, &[2, 3]));
    let reign = reign(&one, &rule, None, false);
    let refused = permission(&reign, &recruits(&[(2, at(0, 9))]), &BTreeSet::new(), STOPPED);
    assert_eq!(refused, Err(Missing::Recruits { more: 1, of: [node(3)].into() }));
    let both = recruits(&[(2, at(0, 9)), (3, at(0, 10))]);
    assert_eq!(permission(&reign, &both, &BTreeSet::new(), NOTHING).unwrap().candidate, node(3));
    // The old primary's own promise stands for everybody's.
    let with_old = recruits(&[(1, at(0, 11)), (2, at(0, 9))]);
    assert_eq!(permission(&reign, &with_old, &BTreeSet::new(), NOTHING).unwrap().candidate, node(1));
}

#[test]
fn a_change_of_rule_must_be_revoked_on_both_sides() {
    // Mutants M2, M3, M7: the old rule may still acknowledge through a node that the new one does not have.
    let (one, old, new) = (node(1), any(1, &[2]), any(1, &[3]));
    let reign = reign(&one, &old, Some(&new), false);
    for alone in [2, 3] {
        assert!(permission(&reign, &recruits(&[(alone, at(0, 9))]), &BTreeSet::new(), STOPPED).is_err());
    }
    let both = recruits(&[(2, at(0, 9)), (3, at(0, 8))]);
    assert_eq!(permission(&reign, &both, &BTreeSet::new(), NOTHING).unwrap().candidate, node(2));
}

#[test]
fn a_promotion_that_was_never_established_is_judged_by_its_seal_and_its_rule() {
    let (two, old, new) = (node(2), any(1, &[2, 3]), any(1, &[3]));
    let seal = at(1, 50);
    let reign = Reign { ending: Ending::Promoting { seal: &seal }, ..reign(&two, &old, Some(&new), false) };
    let behind = permission(&reign, &recruits(&[(3, at(1, 49))]), &BTreeSet::new(), NOTHING);
    assert_eq!(behind, Err(Missing::Seal { seal }));
    assert!(permission(&reign, &recruits(&[(3, at(1, 50))]), &BTreeSet::new(), NOTHING).is_ok());
    // Somebody with the seal who leaves the joint rule alive does not do.
    assert!(permission(&reign, &recruits(&[(4, at(1, 60))]), &BTreeSet::new(), NOTHING).is_err());
}

#[test]
fn strict_reads_need_the_old_gate_closed() {
    let (one, rule) = (node(1), any(1, &[2]));
    let strict = reign(&one, &rule, None, true);
    let all = recruits(&[(2, at(0, 9))]);
    assert_eq!(permission(&strict, &all, &BTreeSet::new(), NOTHING), Err(Missing::GateClosed));
    for proof in [
        Fences { lease_over: true, ..NOTHING },
        Fences { machine_stopped: true, ..NOTHING },
        Fences { relinquished: true, ..NOTHING },
    ] {
        assert!(permission(&strict, &all, &BTreeSet::new(), proof).is_ok());
    }
}

#[test]
fn lineage_comes_before_the_raw_position() {
    // Mutant M9.
    let (one, rule) = (node(1), any(1, &[2, 3]));
    let all = recruits(&[(2, at(0, 9_000)), (3, at(1, 10))]);
    let granted = permission(&reign(&one, &rule, None, false), &all, &BTreeSet::new(), NOTHING).unwrap();
    assert_eq!(granted.candidate, node(3));
}

#[test]
fn who_may_not_lead_is_recruited_and_not_chosen() {
    let (one, rule) = (node(1), any(1, &[2, 3]));
    let reign = reign(&one, &rule, None, false);
    let barred = BTreeSet::from([node(2)]);
    let ahead = recruits(&[(2, at(0, 10)), (3, at(0, 9))]);
    assert_eq!(permission(&reign, &ahead, &barred, NOTHING), Err(Missing::Candidate));
    let fetched = recruits(&[(2, at(0, 10)), (3, at(0, 10))]);
    assert_eq!(permission(&reign, &fetched, &barred, NOTHING).unwrap().candidate, node(3));
}

#[test]
fn an_asynchronous_failover_is_bounded_and_never_blind() {
    let (one, alone, candidates) = (node(1), Rule::alone(), BTreeSet::from([node(2)]));
    let reign = |last| Reign {
        primary: &one,
        rule: &alone,
        superseded: &[],
        joint: None,
        ending: Ending::Established,
        mode: Mode::Asynchronous { candidates: &candidates, last, max_lag: 100 },
    };
    let second = |lsn| recruits(&[(2, at(0, lsn))]);
    let ask = |last, lsn, fences| permission(&reign(last), &second(lsn), &BTreeSet::new(), fences);
    assert!(ask(Some(at(0, 1_000)), 900, STOPPED).is_ok());
    assert_eq!(ask(Some(at(0, 1_000)), 899, STOPPED), Err(Missing::Lag { bytes: Some(101) }));
    assert_eq!(ask(None, 1_000, STOPPED), Err(Missing::Lag { bytes: None }));
    assert_eq!(ask(Some(at(1, 10)), 1_000, STOPPED), Err(Missing::Lag { bytes: None }));
    assert_eq!(ask(Some(at(0, 1_000)), 1_000, NOTHING), Err(Missing::GateClosed));
    let stranger = permission(&reign(Some(at(0, 10))), &recruits(&[(3, at(0, 10))]), &BTreeSet::new(), STOPPED);
    assert_eq!(stranger, Err(Missing::Candidate));
}

/// All small worlds: a commit that was acknowledged under any rule in effect is held by whoever is chosen.
#[test]
fn whoever_is_chosen_has_every_acknowledged_commit() {
    let primary = node(1);
    let subsets = |of: u32| (0..(1u32 << of)).map(move |mask| (0..of).filter(move |b| mask & (1 << b) != 0));
    let set = |bits: &mut dyn Iterator<Item = u32>| bits.map(|b| node(b + 2)).collect::<BTreeSet<_>>();
    let mut granted = 0;
    for members in subsets(3).map(|mut bits| set(&mut bits)).filter(|m| !m.is_empty()) {
        for acks in 1..=members.len() {
            let rule = Rule::any(acks, members.clone()).unwrap();
            let reign = reign(&primary, &rule, None, false);
            // `lsns` says how far each of three standbys has flushed; a commit at 2 is acknowledged if the rule allows.
            for lsns in (0..27u32).map(|n| [n % 3, n / 3 % 3, n / 9]) {
                let flushed: BTreeSet<_> = (0..3).filter(|i| lsns[*i as usize] == 2).map(|i| node(i + 2)).collect();
                for recruited in subsets(3) {
                    let recruited: Vec<_> = recruited.map(|i| (i + 2, at(0, u64::from(lsns[i as usize])))).collect();
                    if let Ok(permission) = permission(&reign, &recruits(&recruited), &BTreeSet::new(), NOTHING) {
                        granted += 1;
                        assert!(!rule.is_met_by(&flushed) || permission.position.lsn == Lsn(2), "{rule:?} {lsns:?}");
                    }
                }
            }
        }
    }
    assert!(granted > 100, "only {granted} worlds allowed a promotion");
}

/// A change of the rule was turned to another rule: each that may be in effect has to be revoked.
#[test]
fn a_rule_that_a_change_was_turned_away_from_counts_until_the_change_is_done() {
    let one = node(1);
    let [old, lost, now] = [[2, 3], [4, 5], [3, 6]].map(|pair| any(1, &pair));
    let superseded = [lost];
    let reign = Reign { superseded: &superseded, ..reign(&one, &old, Some(&now), false) };
    let all = |nodes: &[u32]| recruits(&nodes.iter().map(|n| (*n, at(0, 10))).collect::<Vec<_>>());
    let enough = permission(&reign, &all(&[2, 3, 4, 5, 6]), &BTreeSet::new(), NOTHING);
    assert!(enough.is_ok(), "{enough:?}");
    let missing = permission(&reign, &all(&[2, 3, 4, 6]), &BTreeSet::new(), NOTHING);
    assert_eq!(missing, Err(Missing::Recruits { more: 1, of: [node(5)].into() }));
}
