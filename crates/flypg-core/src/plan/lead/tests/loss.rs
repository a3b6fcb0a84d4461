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
    let mut story = Story::of(3, "quorum");
    let (id, at) = (machine(&story.world, "ord-1"), story.world.watch.now);
    story.world.watch.stopped.insert(id, Stopped { at });
    silent(&mut story.world, "ord-1");
    while story.decree().promotion().is_none() {
        for step in &story.plan().steps {
            plan::apply(&mut story.world, &step.action, NOW);
        }
    }
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
