//! A few scenarios that need neither root nor a network that can be cut: one after the other, since each has a cluster of
//! its own and the computer may be small.

use flypg_faults::run::run;
use flypg_faults::table::find;

/// Lets it happen once. The seed may be given, to see a failure again.
async fn happens(name: &str) {
    let seed = std::env::var("FAULTS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let scenario = find(name).expect("it is in the table");
    let outcome = tokio::task::LocalSet::new().run_until(run(scenario, seed, false, false)).await;
    assert!(outcome.good(), "{outcome}");
    // Clocks do not judge here, but a run without a single write in it would prove nothing.
    assert!(outcome.flow.before > 0 && outcome.flow.after > 0, "{outcome}");
}

#[tokio::test]
async fn no_write_is_lost_whoever_dies_or_freezes() {
    for name in [
        "postmaster-killed",
        "machine-killed-back-soon",
        "agent-frozen",
        "controller-killed-during-failover",
        "async-postmaster-killed",
    ] {
        happens(name).await;
    }
}
