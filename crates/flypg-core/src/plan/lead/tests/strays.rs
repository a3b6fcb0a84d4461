//! Nodes whose data went another way than the cluster, or that a list lacks: what still counts of them.

use super::*;
use crate::failover::{History, Missing, Switch};
use crate::observed::LastKnown;
use crate::plan::{Until, Why};

fn decided(plan: &Plan) -> Option<(&Decree, &Why)> {
    plan.steps.iter().find_map(|step| match &step.action {
        Action::Decide { decree, .. } => Some((decree, &step.why)),
        _ => None,
    })
}

fn waits(plan: &Plan) -> Vec<&Until> {
    plan.holds.iter().map(|hold| &hold.until).collect()
}

/// The record says that an attempt runs, and `name` is on a timeline that it took by itself where it stood.
fn recruited_astray(story: &mut Story, name: &str, timeline: u32) {
    let electing = story.decree().amended(|next| next.epoch = next.epoch.next());
    let (epoch, nonce) =
        (electing.epoch, electing.lineage.marker(electing.reign).expect("it was confirmed").to_owned());
    story.world.record = Seen::at(NOW, Some(electing));
    let recruit = report(&mut story.world, name);
    let switches = vec![Switch { timeline: 1, at: Lsn(700) }];
    let history = History { timeline, switches, markers: vec![(crate::decree::Epoch(1), nonce)] };
    recruit.promised = epoch;
    recruit.standing = Standing::Recruited { end: Some(End { history, lsn: Lsn(900) }) };
}

/// It has all that was acknowledged, and what it has beyond that nobody else wrote: it was told to begin that timeline.
#[test]
fn a_candidate_whose_promotion_came_to_nothing_leads_where_nobody_else_can() {
    let mut story = Story::of(2, "quorum");
    story.world.record = Seen::at(NOW, Some(story.decree().amended(|next| next.burnt = 2)));
    recruited_astray(&mut story, "ord-2", 2);
    silent(&mut story.world, "ord-1");
    later(&mut story.world, 60);
    let plan = story.plan();
    let (decree, _) = decided(&plan).unwrap_or_else(|| panic!("{plan:?}"));
    assert_eq!(decree.primary, node("ord-2"));
    let promotion = decree.promotion().expect("it is being promoted");
    assert_eq!((promotion.timeline, promotion.permission.position.lsn), (3, Lsn(700)));
    let way: Vec<(u32, Lsn)> = decree.lineage.branches().iter().map(|b| (b.timeline, b.start)).collect();
    assert_eq!(way, [(1, Lsn(0)), (2, Lsn(700))], "it goes on from there");
}

/// What a person did to a copy by hand is for a person to judge, who then is obeyed; and the number that was taken for it
/// is not given out again (rule R8).
#[test]
fn a_copy_that_was_promoted_by_hand_leads_only_by_order() {
    let mut story = Story::of(2, "quorum");
    recruited_astray(&mut story, "ord-2", 5);
    report(&mut story.world, "ord-1").machine = "another".to_owned();
    report(&mut story.world, "ord-1").incarnation = 0;
    let id = machine(&story.world, "ord-1");
    let machines = story.world.machines.known_mut().expect("known");
    for machine in machines.iter_mut().filter(|machine| machine.id == id) {
        machine.config.as_mut().expect("it shows").volume = Some("vol_another".to_owned());
    }
    later(&mut story.world, 60);
    let plan = story.plan();
    assert!(decided(&plan).is_none(), "{plan:?}");
    let held = Until::LossAccepted { missing: Missing::Candidate };
    assert!(waits(&plan).contains(&&held), "{:?}", plan.holds);
    story.world.watch.order = Some(Order::Failover { to: node("ord-2"), accept_data_loss: true });
    let plan = story.plan();
    let (decree, _) = decided(&plan).unwrap_or_else(|| panic!("{plan:?}"));
    assert_eq!((&decree.primary, decree.burnt), (&node("ord-2"), 6));
}

/// Its marker waits for a standby that is gone, and another one is there: it gives up, and is to wait for that one. What
/// it may have acknowledged until then only it has, so whoever comes next must have all of that (rule R10).
#[test]
fn a_candidate_that_waits_for_who_is_gone_is_recruited_and_waits_for_who_is_there() {
    let mut story = Story::of_a_candidate();
    let (epoch, reign) = (story.decree().epoch, story.decree().reign);
    assert_eq!(story.decree().joint, Rule::any(1, [node("ord-3")].into()).ok());
    let candidate = report(&mut story.world, "ord-2");
    candidate.promised = epoch;
    candidate.standing = Standing::Leading(Leading { start: Some(Lsn(0)), ..Leading::default() });
    back(&mut story.world, "ord-1");
    silent(&mut story.world, "ord-3");
    story.world.watch.revision_since = Some((story.decree().revision, story.world.watch.now));
    let suspects = |plan: &Plan| decided(plan).is_some_and(|(decree, _)| decree.epoch > epoch);
    assert!(!suspects(&story.plan()), "it has only begun");
    later(&mut story.world, 31);
    let mut patient = Story { spec: story.spec.clone(), world: story.world.clone(), told: String::new() };
    back(&mut patient.world, "ord-3");
    assert!(!suspects(&patient.plan()), "who it waits for is there");
    let plan = story.plan();
    let why = Why::AttemptFailed { node: node("ord-2") };
    assert_eq!(decided(&plan).map(|(decree, why)| (decree.reign, why)), Some((reign, &why)), "{plan:?}");

    // The attempt: it has stopped cleanly where it stood.
    let electing = decided(&plan).expect("it was asserted").0.clone();
    let (epoch, timeline) = (electing.epoch, electing.promotion().expect("unconfirmed").timeline);
    story.world.record = Seen::at(NOW, Some(electing));
    for (name, lsn) in [("ord-2", 800), ("ord-1", 0)] {
        let recruit = report(&mut story.world, name);
        let switches = if name == "ord-2" { vec![Switch { timeline: 1, at: Lsn(0) }] } else { Vec::new() };
        let timeline = if name == "ord-2" { timeline } else { 1 };
        let end = Some(End { history: History { timeline, switches, markers: vec![] }, lsn: Lsn(lsn) });
        recruit.promised = epoch;
        recruit.standing = match name {
            "ord-2" => Standing::Relinquished { clean: true, end },
            _ => Standing::Recruited { end },
        };
    }
    story.world.watch.epoch_since = None;
    later(&mut story.world, 60);
    let plan = story.plan();
    let (decree, _) = decided(&plan).unwrap_or_else(|| panic!("{plan:?}"));
    assert_eq!((&decree.primary, decree.joint.clone()), (&node("ord-2"), Rule::any(1, [node("ord-1")].into()).ok()));
    assert!(matches!(decree.stage, Stage::Reaffirming { .. }), "{decree:?}");
    let promotion = decree.promotion().expect("it is not confirmed yet");
    assert_eq!((promotion.timeline, promotion.permission.position.lsn), (timeline, Lsn(800)), "the seal has risen");
}

/// A list that lacks a Machine is no proof that it is gone (invariant I10): the primary keeps its WAL, lets it stream, and
/// asks it for pledges, at the address that it last had.
#[test]
fn a_member_that_the_list_lacks_stays_a_peer() {
    let mut story = Story::of(3, "quorum");
    let id = machine(&story.world, "ord-3");
    let machines = story.world.machines.known_mut().expect("known");
    let address = machines.iter().find(|machine| machine.id == id).and_then(|machine| machine.address);
    machines.retain(|machine| machine.id != id);
    story.world.reports.remove(&id);
    let plan = story.plan();
    let told = plan.steps.iter().filter_map(|step| match &step.action {
        Action::Assign { assignment, .. } => Some(&assignment.peers),
        _ => None,
    });
    let known: Vec<_> =
        told.map(|peers| peers.iter().find(|peer| peer.node == node("ord-3")).map(|peer| peer.address)).collect();
    assert!(!known.is_empty() && known.iter().all(|known| *known == address), "{known:?}, {address:?}");
}

/// Whoever begins to lead does not know how far a primary came by the leases of the controller before it (rule R7).
#[test]
fn a_position_from_before_this_controller_led_bounds_no_loss() {
    for (said, recalled, bounded) in [(99, false, true), (50, false, false), (50, true, true)] {
        let mut story = Story::of(2, "async");
        story.world.watch.leads_since = Some(Mono(Duration::from_secs(90)));
        let said = Some(Mono(Duration::from_secs(said)));
        let known = LastKnown { reign: story.decree().reign, lsn: Lsn(0), said, recalled };
        story.world.watch.last_known = Some(known);
        story.then("ord-1 is silent", |world| silent(world, "ord-1"));
        let plan = story.plan();
        let unknown = Until::LossAccepted { missing: Missing::Lag { bytes: None } };
        assert_eq!(story.decree().primary == node("ord-2"), bounded, "{}", story.told);
        assert_eq!(waits(&plan).contains(&&unknown), !bounded, "{:?}", plan.holds);
    }
}

/// It went down before it was promoted, and came back: nobody else has what it has.
#[test]
fn a_candidate_that_never_was_promoted_can_be_chosen_again() {
    let mut story = Story::of(2, "quorum-available");
    let id = machine(&story.world, "ord-1");
    let at = story.world.watch.now;
    story.world.watch.stopped.insert(id, Stopped { at });
    silent(&mut story.world, "ord-1");
    for _ in 0..20 {
        for step in &story.plan().steps {
            plan::apply(&mut story.world, &step.action, NOW);
        }
        if matches!(story.decree().stage, Stage::Promoting { .. }) {
            break;
        }
    }
    let promotion = story.decree().promotion().cloned().unwrap_or_else(|| panic!("{:?}", story.decree()));
    let permission = promotion.permission;
    assert_eq!(promotion.timeline, 2);
    assert_eq!(permission.candidate, node("ord-2"));
    // Another attempt began; what it says is what it said when it was chosen.
    let again = story.decree().amended(|next| next.epoch = next.epoch.next());
    let (epoch, history) = (again.epoch, again.lineage.branches()[0].timeline);
    story.world.record = Seen::at(NOW, Some(again));
    let report = report(&mut story.world, "ord-2");
    let history = History { timeline: history, switches: vec![], markers: vec![] };
    report.promised = epoch;
    report.standing = Standing::Recruited { end: Some(End { history, lsn: permission.position.lsn }) };
    let plan = story.plan();
    let chosen = plan.steps.iter().find_map(|step| match &step.action {
        Action::Decide { decree, .. } => Some(decree),
        _ => None,
    });
    let chosen = chosen.unwrap_or_else(|| panic!("{plan:?}"));
    assert_eq!(chosen.promotion().map(|promotion| promotion.timeline), Some(3));
    assert_eq!((&chosen.primary, chosen.reign), (&node("ord-2"), epoch));
}
