//! A primary that is busy is not a primary that is lost.

use super::*;
use crate::protocol::Disk;

/// Ensuring roles after a promotion once looked like a crash, and cost another failover.
#[test]
fn a_primary_that_answers_is_not_suspected_of_what_its_agent_is_busy_with() {
    let mut story = Story::of(3, "quorum");
    for name in ["ord-2", "ord-3"] {
        report(&mut story.world, name).primary_heard = Some(Duration::ZERO);
    }
    story.then("ord-1 looks after its roles", |world| report(world, "ord-1").phase = Phase::Starting);
    assert!(!story.told.contains("attempt"), "{}", story.told);
}

#[test]
fn a_restart_that_was_asked_for_is_given_its_time() {
    let mut story = Story::of(3, "quorum");
    for name in ["ord-2", "ord-3"] {
        report(&mut story.world, name).primary_heard = Some(Duration::ZERO);
    }
    let restart = |seconds: u64| {
        move |world: &mut Observed| {
            let id = machine(world, "ord-1");
            let now = world.watch.now;
            let report = report(world, "ord-1");
            let ran = Some((report.incarnation, report.crashes));
            report.phase = Phase::Starting;
            report.postgres = None;
            let down_since = Some(Mono(now.0 - Duration::from_secs(seconds)));
            world.watch.pulses.insert(id, Pulse { heard: Some(now), ran, down_since, ..Pulse::default() });
        }
    };
    story.then("ord-1 restarts Postgres, as it was asked to", restart(1));
    assert!(!story.told.contains("attempt"), "{}", story.told);
    story.then("it does not come up", restart(6));
    assert!(story.told.contains("attempt"), "{}", story.told);
}

/// Recruits may take long, as long as a lease or a controller that stood still. The one that is chosen then has as much
/// time as any other.
#[test]
fn a_candidate_has_its_time_from_when_it_was_chosen() {
    let mut story = Story::of(3, "quorum");
    silent(&mut story.world, "ord-1");
    for _ in 0..20 {
        for step in &story.plan().steps {
            plan::apply(&mut story.world, &step.action, NOW);
        }
        plan::settle(&mut story.world, NOW);
        if matches!(story.decree().stage, Stage::Promoting { .. }) {
            break;
        }
    }
    let chosen = story.decree().clone();
    assert!(chosen.promotion().is_some(), "{chosen:?}");
    let leading = Leading {
        confirmed: false,
        start: None,
        rule: None,
        covered: false,
        checkpointed: false,
        gate: Gate::Unconfirmed,
    };
    let primary = chosen.primary.to_string();
    let now = story.world.watch.now;
    let age = |seconds| Mono(now.0.saturating_sub(Duration::from_secs(seconds)));
    let candidate = report(&mut story.world, &primary);
    candidate.standing = Standing::Leading(leading);
    candidate.promised = chosen.epoch;
    let mut attempts = |begun, decided| {
        story.world.watch.epoch_since = Some((chosen.epoch, age(begun)));
        story.world.watch.revision_since = Some((chosen.revision, age(decided)));
        let plan = story.plan();
        let decides = |step: &plan::Step| matches!(&step.action, Action::Decide { decree, .. } if decree.is_electing());
        plan.steps.iter().any(decides)
    };
    assert!(!attempts(30, 1), "it was chosen a second ago");
    assert!(attempts(30, 6), "it had all the time there is");
}

/// They stream and are whole, and still nobody waits for them: what is to be done about that is not to wait.
#[test]
fn a_standby_that_does_not_count_because_of_its_disk_is_named() {
    let mut story = Story::of(3, "quorum");
    let record = story.world.record.known_mut().and_then(Option::as_mut).expect("there is a record");
    record.rule = Rule::alone();
    for name in ["ord-2", "ord-3"] {
        report(&mut story.world, name).disk = Some(Disk { total: 100, used: 96 });
    }
    let told: Vec<String> = story.plan().holds.iter().map(render::hold).collect();
    for name in ["ord-2", "ord-3"] {
        let named = |hold: &String| hold.contains(name) && hold.contains("its disk is full (96 %)");
        assert!(told.iter().any(named), "{told:?}");
    }
}
