//! A primary that is busy is not a primary that is lost.

use super::*;

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
