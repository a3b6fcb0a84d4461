use flypg_controller::observe::Observer;
use flypg_controller::turn::Wanted;
use flypg_core::Timestamp;
use flypg_core::observed::{Power, Seen, Unknown};
use flypg_core::plan::Action;
use flypg_emulator::Knobs;
use serde_json::json;

use crate::rig::{Rig, spec};

fn wanted(nodes: u32) -> Wanted {
    Wanted::Kept(spec(nodes))
}

fn nodes(nodes: u32) -> (Vec<String>, Vec<String>, usize) {
    let all = 1..=nodes;
    (all.clone().map(|n| format!("pg_ord_{n}")).collect(), all.map(|n| format!("ord-{n}")).collect(), 1)
}

#[tokio::test]
async fn a_look_is_four_calls_however_many_nodes_there_are() {
    let rig = Rig::start(Knobs::default()).await;
    for size in [1, 5] {
        rig.until_agents_are_waited_for(&wanted(size)).await;
        assert_eq!(rig.things().await, nodes(size));
        let calls = rig.count_calls().await;
        rig.controller().await.0.observe(&spec(size), Timestamp::now()).await;
        assert_eq!(rig.seen(&calls).await, 4, "{size} nodes");
        rig.no_faults().await;
    }
}

#[tokio::test]
async fn an_app_that_is_not_there_is_asked_for_twice() {
    let rig = Rig::start(Knobs::default()).await;
    let calls = rig.count_calls().await;
    let observed = rig.controller().await.0.observe(&spec(1), Timestamp::now()).await;
    assert!(matches!(observed.app, Seen::At { value: None, .. }), "{:?}", observed.app);
    assert_eq!(observed.machines.known(), Some(&Vec::new()));
    assert_eq!(rig.seen(&calls).await, 4);
}

#[tokio::test]
async fn lists_that_lag_and_reads_that_lag_make_nothing_twice() {
    let knobs = Knobs { list_lag_ms: 500, read_lag_ms: 200, ..Knobs::default() };
    let rig = Rig::start(knobs).await;
    rig.until_agents_are_waited_for(&wanted(3)).await;
    assert_eq!(rig.things().await, nodes(3));
}

#[tokio::test]
async fn every_way_to_lose_a_create_makes_it_once() {
    for effect in [json!("lose_answer"), json!("lose_request"), json!({ "status": { "code": 503, "performed": true } })]
    {
        let rig = Rig::start(Knobs { list_lag_ms: 300, ..Knobs::default() }).await;
        for path in ["/v1/apps", "/v1/apps/*/volumes", "/v1/apps/*/machines", "/v1/apps/*/ip_assignments"] {
            rig.fault(json!({ "match": { "method": "POST", "path": path }, "effect": effect, "count": 2 })).await;
        }
        rig.until_agents_are_waited_for(&wanted(3)).await;
        assert_eq!(rig.things().await, nodes(3), "{effect}");
    }
}

#[tokio::test]
async fn a_controller_that_dies_during_any_create_leaves_nothing_twice() {
    let rig = Rig::start(Knobs { list_lag_ms: 300, ..Knobs::default() }).await;
    // Everything that is created is, and its answer comes too late for whoever asked.
    let late = json!({ "match": { "method": "POST" }, "effect": { "delay": { "ms": 150 } } });
    for deaths in 0..12 {
        rig.fault(late.clone()).await;
        let mut keeper = rig.keeper(wanted(3)).await;
        let died = async {
            loop {
                keeper.turn().await;
                keeper.rest().await;
            }
        };
        // Each lives a little longer than the one before.
        let _ = tokio::time::timeout(std::time::Duration::from_millis(60 * deaths), died).await;
    }
    rig.no_faults().await;
    rig.until_agents_are_waited_for(&wanted(3)).await;
    assert_eq!(rig.things().await, nodes(3));
}

#[tokio::test]
async fn an_empty_list_is_not_an_empty_app() {
    let rig = Rig::start(Knobs::default()).await;
    rig.until_agents_are_waited_for(&wanted(3)).await;
    rig.fault(json!({ "match": { "method": "GET", "path": "/v1/apps/*/machines" }, "effect": "empty_list" })).await;
    rig.fault(json!({ "match": { "method": "GET", "path": "/v1/apps/*/volumes" }, "effect": "empty_list" })).await;
    let (mut observer, _) = rig.controller().await;
    let observed = observer.observe(&spec(3), Timestamp::now()).await;
    assert_eq!(observed.machines.known().map(Vec::len), Some(3), "each was asked for by itself");
    assert_eq!(observed.volumes.known().map(Vec::len), Some(3));

    // What really went is seen to be gone, list or no list.
    let client = rig.client("somebody");
    let machine = observed.machines.known().unwrap()[0].clone();
    client.send(flypg_machines::machines::destroy("orders-db", &machine.id, true)).await.unwrap();
    // It was made a moment ago, so that its absence is not believed yet; but nobody takes it for running either.
    let observed = observer.observe(&spec(3), Timestamp::now()).await;
    let still = observed.machines.known().is_some_and(|machines| machines.iter().any(|other| other.id == machine.id));
    assert!(!still || observed.machines.known().unwrap().iter().any(|other| other.power != Power::Started));
}

#[tokio::test]
async fn what_the_token_may_not_see_is_forbidden_and_what_fails_is_unknown() {
    let rig = Rig::start(Knobs::default()).await;
    rig.until_agents_are_waited_for(&wanted(1)).await;
    let fresh = rig.with_a_new_memory();
    fresh.fault(json!({ "effect": { "status": { "code": 403 } } })).await;
    let observed = fresh.controller().await.0.observe(&spec(1), Timestamp::now()).await;
    assert!(matches!(observed.app.why_unknown(), Some(Unknown::Forbidden { .. })), "{:?}", observed.app);
    fresh.no_faults().await;
    fresh.fault(json!({ "effect": { "status": { "code": 500 } } })).await;
    let observed = fresh.controller().await.0.observe(&spec(1), Timestamp::now()).await;
    assert!(matches!(observed.app.why_unknown(), Some(Unknown::NoAnswer { .. })), "{:?}", observed.app);
    let plan = wanted(1).plan(&observed, Timestamp::now());
    assert!(!plan.steps.iter().any(|step| matches!(step.action, Action::CreateApp { .. })));
}
