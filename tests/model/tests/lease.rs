use flypg_model::lease::{Lease, Mutant};
use flypg_model::search::{Found, search};

const LIMIT: usize = 60_000_000;

/// Long enough for every counterexample.
const HORIZON: u8 = 9;

fn lease(mutant: Mutant, horizon: u8) -> Found {
    search(&Lease { mutant, horizon, ttl: 3 }, LIMIT)
}

#[test]
fn no_answer_comes_late() {
    // With a relay there are so many states that CI visits those of a shorter run only.
    for (safe, horizon) in [(Mutant::None, HORIZON), (Mutant::RelayChained, HORIZON - 2)] {
        let found = lease(safe, horizon);
        assert!(matches!(found, Found::Nothing { .. }), "{safe:?}: {found}");
    }
}

#[test]
fn every_rule_is_needed() {
    for mutant in [
        Mutant::FromArrival,
        Mutant::ImpatientSuccessor,
        Mutant::DeposedGrants,
        Mutant::Watchdog,
        Mutant::StoppedClock,
        Mutant::RelayRemaining,
        Mutant::RelayFromArrival,
    ] {
        let found = lease(mutant, HORIZON);
        assert!(matches!(found, Found::Wrong { .. }), "{mutant:?}: {found}");
    }
}
