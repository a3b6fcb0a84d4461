//! Where a second primary, or the loss of a last copy, would be near.

use super::*;

/// The partner of a rule, or a set of pledgers, is on record before the primary has heard of it. Until it has, it may need
/// no lease at all, and then no time and no recruit ends it; nor does a Machine that has stopped, as it comes back.
#[test]
fn a_primary_that_may_need_no_lease_is_not_replaced_by_an_order_without_its_own_word() {
    for durability in ["quorum", "async"] {
        let mut story = Story::of(3, durability);
        let others = [node("ord-2"), node("ord-3")].into();
        let untold = story.decree().amended(|next| {
            next.rule = Rule::alone();
            next.candidates.clear();
            match next.mode {
                CommitMode::Synchronous => next.joint = Rule::any(1, others).ok(),
                CommitMode::Asynchronous => next.pledgers = others,
            }
        });
        story.then("nobody but ord-1 counted, and it is silent", |world| {
            world.record = Seen::at(NOW, Some(untold));
            silent(world, "ord-1");
        });
        story.then("a person orders ord-2 to take over, whatever that loses", |world| {
            later(world, 60);
            world.watch.order = Some(Order::Failover { to: node("ord-2"), accept_data_loss: true });
        });
        story.then("its Machine is proven stopped", |world| {
            let stopped = Stopped { at: world.watch.now };
            world.watch.stopped.insert(machine(world, "ord-1"), stopped);
        });
        assert_eq!(story.decree().primary, node("ord-1"), "{}", story.told);
        story.then("it is back, and promises", |world| back(world, "ord-1"));
        assert_eq!(story.decree().primary, node("ord-2"), "{}", story.told);
    }
}

/// Until the marker of a promotion is confirmed, the candidate's may be the only copy but for the old primary's.
#[test]
fn only_whom_an_unconfirmed_primary_waits_for_is_remade_for_it() {
    let mut story = Story::of_a_candidate();
    let (epoch, members) = (story.decree().epoch, story.decree().rule_told().members().clone());
    assert_eq!((&story.decree().primary, members), (&node("ord-2"), [node("ord-3")].into()));
    let candidate = report(&mut story.world, "ord-2");
    candidate.promised = epoch;
    candidate.standing =
        Standing::Leading(Leading { start: Some(Lsn(1 << 30)), checkpointed: true, ..Leading::default() });
    back(&mut story.world, "ord-1");
    let plan = story.plan();
    let remakes = |name: &str| {
        plan.steps.iter().find_map(|step| match &step.action {
            Action::Assign { assignment, .. } if assignment.node == node(name) => match &assignment.task {
                Task::Follow { remake, .. } => Some(*remake),
                _ => None,
            },
            _ => None,
        })
    };
    assert_eq!((remakes("ord-1"), remakes("ord-3")), (Some(false), Some(true)), "{plan:?}");
}

#[test]
fn a_record_that_is_made_anew_burns_every_timeline_that_anybody_was_on() {
    let mut story = Story::of(3, "quorum");
    story.world.record = Seen::at(NOW, None);
    let stray = report(&mut story.world, "ord-3");
    let history = crate::failover::History { timeline: 5, switches: vec![], markers: vec![] };
    stray.postgres = None;
    stray.standing = Standing::Relinquished { clean: true, end: Some(End { history, lsn: Lsn(7) }) };
    let plan = story.plan();
    let anew = plan.steps.iter().find_map(|step| match &step.action {
        Action::Decide { decree, instead_of: None, .. } => Some(decree),
        _ => None,
    });
    assert_eq!(anew.map(|decree| (&decree.primary, decree.burnt)), Some((&node("ord-1"), 5)), "{plan:?}");
}

/// A change of the rule must not wait for ever for standbys that were lost on the way, nor forget that they may have
/// acknowledged something.
#[test]
fn a_rule_whose_standbys_were_lost_before_it_was_in_effect_is_turned_to_one_that_can_be() {
    let mut story = Story::of(3, "quorum");
    let any = |names: &[&str]| Rule::any(1, names.iter().map(|name| node(name)).collect()).unwrap();
    let lost = any(&["ord-3"]);
    let changing = story.decree().amended(|next| next.joint = Some(lost.clone()));
    story.world.record = Seen::at(NOW, Some(changing));
    silent(&mut story.world, "ord-3");
    let leading = |world: &mut Observed, rule: Option<Rule>| {
        let revision = world.record.known().and_then(Option::as_ref).expect("there is a record").revision;
        let primary = report(world, "ord-1");
        primary.revision = revision;
        if let Standing::Leading(leading) = &mut primary.standing {
            (leading.covered, leading.rule) = (rule.is_some(), rule);
        }
    };
    leading(&mut story.world, None);
    let decided = |story: &Story| {
        story.plan().steps.iter().find_map(|step| match &step.action {
            Action::Decide { decree, .. } => Some(decree.clone()),
            _ => None,
        })
    };
    assert_eq!(decided(&story), None, "it may come back");
    let later_still = |world: &mut Observed| {
        later(world, 40);
        back(world, "ord-1");
        back(world, "ord-2");
    };
    later_still(&mut story.world);
    let turned = decided(&story).expect("it is turned");
    assert_eq!((turned.joint.as_ref(), &turned.superseded), (Some(&any(&["ord-2"])), &vec![lost.clone()]));
    // Whoever is to be promoted now has to be known to all three.
    assert_eq!(turned.rules().count(), 3);
    assert_eq!(turned.pledges().len(), 3);
    story.world.record = Seen::at(NOW, Some(turned));
    leading(&mut story.world, Some(any(&["ord-2"])));
    let done = decided(&story).expect("it is done");
    assert_eq!((&done.rule, &done.joint, &done.superseded), (&any(&["ord-2"]), &None, &vec![]));
}

/// Whom to follow, and that it may be made anew, is what puts a copy right that was promoted by hand.
#[test]
fn a_quarantined_copy_is_told_whom_to_follow() {
    let mut story = Story::of(3, "quorum");
    let strange = report(&mut story.world, "ord-3");
    strange.phase = Phase::Quarantined { why: "standby.signal is gone".to_owned() };
    strange.assignment = Some("an older one".to_owned());
    let told = |story: &Story| {
        let follows = |step: &plan::Step| {
            matches!(&step.action, Action::Assign { assignment, .. }
                if assignment.node == node("ord-3") && matches!(assignment.task, Task::Follow { remake: true, .. }))
        };
        story.plan().steps.iter().any(follows)
    };
    assert!(told(&story), "{:?}", story.plan());
    // One without a ledger obeys nothing.
    report(&mut story.world, "ord-3").assignment = None;
    assert!(!told(&story), "{:?}", story.plan());
}

/// A person accepts the loss of a whole branch: its number is never used again, and the way goes on from before it.
#[test]
fn an_order_may_go_back_before_a_promotion_and_uses_no_timeline_twice() {
    let mut story = Story::of(3, "quorum");
    let start = Lsn(1 << 20);
    let old = story.decree().amended(|next| {
        next.lineage.authorise(next.epoch, "n".to_owned());
        next.epoch = next.epoch.next();
        next.reign = next.epoch;
        next.burnt = 2;
        next.lineage.authorise(next.epoch, "m".to_owned());
        let branch = crate::failover::Branch { epoch: next.epoch, timeline: 2, start, node: next.primary.clone() };
        assert!(next.lineage.append(branch));
        next.epoch = next.epoch.next();
    });
    let epoch = old.epoch;
    story.world.record = Seen::at(NOW, Some(old));
    for name in ["ord-1", "ord-3"] {
        silent(&mut story.world, name);
    }
    let id = machine(&story.world, "ord-1");
    let at = story.world.watch.now;
    story.world.watch.stopped.insert(id, Stopped { at });
    let behind = report(&mut story.world, "ord-2");
    let history = crate::failover::History { timeline: 1, switches: vec![], markers: vec![] };
    behind.promised = epoch;
    behind.standing = Standing::Recruited { end: Some(End { history, lsn: Lsn(700) }) };
    let third = report(&mut story.world, "ord-3");
    third.promised = epoch;
    story.world.watch.order = Some(Order::Failover { to: node("ord-2"), accept_data_loss: true });
    let plan = story.plan();
    let decided = plan.steps.iter().find_map(|step| match &step.action {
        Action::Decide { decree, .. } => Some(decree.clone()),
        _ => None,
    });
    let decided = decided.unwrap_or_else(|| panic!("{plan:?}"));
    assert_eq!(decided.promotion().map(|promotion| promotion.timeline), Some(3));
    assert_eq!(decided.lineage.branches().len(), 1);
    assert_eq!(decided.joint, Some(Rule::alone()), "nobody else is here to wait for");
    plan::apply(
        &mut story.world,
        &Action::Decide { cluster: story.spec.name.clone(), instead_of: None, decree: decided },
        NOW,
    );
    let plan = story.plan();
    let burnt = plan.steps.iter().find_map(|step| match &step.action {
        Action::Assign { assignment, .. } => match &assignment.task {
            Task::Promote { burnt, .. } => Some(burnt.clone()),
            _ => None,
        },
        _ => None,
    });
    assert_eq!(burnt, Some(vec![2]), "{plan:?}");
}
