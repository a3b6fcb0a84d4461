use flypg_model::search::{Found, search};
use flypg_model::wal::{Mutant, Wal};

fn wal(mutant: Mutant) -> Wal {
    Wal { mutant, epochs: 3, crashes: 1, rule_changes: 1, writes: 1 }
}

/// As large as CI's time allows; `FLYPG_MODEL_STATES` asks for more.
fn limit() -> usize {
    std::env::var("FLYPG_MODEL_STATES").ok().and_then(|n| n.parse().ok()).unwrap_or(6_000_000)
}

#[test]
fn the_protocol_loses_nothing() {
    let whole = search(&Wal { epochs: 2, ..wal(Mutant::None) }, 20_000_000);
    assert!(matches!(whole, Found::Nothing { .. }), "{whole}");
    let large = search(&wal(Mutant::None), limit());
    assert!(!matches!(large, Found::Wrong { .. }), "{large}");
}

#[test]
fn every_rule_is_needed() {
    for mutant in Mutant::ALL {
        let small = match mutant {
            // It takes a node that wrote more, on a way that was left; and neither crashes nor changes of the rule.
            Mutant::NoLineage => Wal { crashes: 0, rule_changes: 0, writes: 2, ..wal(mutant) },
            _ => wal(mutant),
        };
        let found = search(&small, 20_000_000);
        let Found::Wrong { steps, .. } = &found else { panic!("{mutant:?}: {found}") };
        assert!((5..=25).contains(&steps.len()), "{mutant:?}: {found}");
    }
}
