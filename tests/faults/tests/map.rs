//! The map of scenarios is complete, and everything on it is there.

use std::collections::BTreeSet;
use std::path::Path;

use flypg_faults::map::{Entry, complaints, read};
use flypg_faults::table::SCENARIOS;

const MAP: &str = include_str!("../SCENARIOS.tsv");

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("tests/faults lies in the repository")
}

#[test]
fn everything_on_the_map_is_there() {
    let wrong: Vec<String> = read(MAP).unwrap().iter().flat_map(|entry| complaints(entry, repository())).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_map_is_whole() {
    let entries = read(MAP).unwrap();
    let ids: BTreeSet<&str> = entries.iter().map(|entry| entry.id).collect();
    assert_eq!(ids.len(), entries.len(), "an id stands there twice");
    // The families of the protocol's own plan, and how many each has.
    let families = [("PA", 48), ("ST", 25), ("AF", 34), ("CN", 31), ("FX", 5), ("PC", 11), ("MG", 12), ("OW", 26)];
    for (family, count) in families {
        let missing: Vec<String> =
            (1..=count).map(|n| format!("{family}{n}")).filter(|id| !ids.contains(id.as_str())).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
    assert!((1..=20).all(|n| ids.contains(format!("OP-3.8-{n}").as_str())));
}

#[test]
fn every_scenario_is_on_the_map() {
    let names: BTreeSet<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
    assert_eq!(names.len(), SCENARIOS.len(), "a name stands there twice");
    let entries = read(MAP).unwrap();
    let places: BTreeSet<&str> = entries.iter().flat_map(|entry| entry.places.split_whitespace()).collect();
    let unmapped: Vec<&&str> = names.iter().filter(|name| !places.contains(format!("fault:{name}").as_str())).collect();
    assert!(unmapped.is_empty(), "{unmapped:?}");
}

#[test]
fn what_is_not_there_is_noticed() {
    let entry = |places, missing| Entry { id: "X1", title: "something", places, missing };
    for (places, missing) in [
        ("", ""),
        ("", "later"),
        ("fault:no-such", ""),
        ("sim:NoSuch", ""),
        ("model:NoSuch", ""),
        ("tests/faults/tests/map.rs::no_such", ""),
        ("tests/faults/tests/map.rs::repository", ""),
        ("no/such/file.rs::the_map_is_whole", ""),
    ] {
        assert_eq!(complaints(&entry(places, missing), repository()).len(), 1, "{places} {missing}");
    }
    for (places, missing) in
        [("fault:cold-start tests/faults/tests/map.rs::the_map_is_whole", ""), ("", "never: it cannot happen")]
    {
        assert!(complaints(&entry(places, missing), repository()).is_empty());
    }
    assert!(read("PA1\ttitle\t-").is_err());
}
