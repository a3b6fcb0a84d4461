use super::*;
use crate::observed::Unknown;
use crate::plan;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

/// A cluster of three nodes as it is once it runs.
fn cluster() -> (ClusterSpec, Observed) {
    let text = "apiVersion: flypg/v1\nkind: PostgresCluster\nmetadata: { name: orders-db }\nspec:\n  organization: acme\n  \
                preset: production-small\n  postgres: { version: 15 }\n  regions: { primary: { code: ord, nodes: 3 } }\n";
    let spec = crate::spec::parse("test", text.as_bytes()).expect("a good file").remove(0).value;
    let mut world = Observed { record: Seen::at(NOW, None), app: Seen::at(NOW, None), ..Observed::default() };
    world.watch.leads_since = Some(Default::default());
    for _ in 0..100 {
        let plan = plan::plan(&spec, &world, NOW);
        if plan.changes().next().is_none() && !plan::settle(&mut world, NOW) {
            return (spec, world);
        }
        for step in &plan.steps {
            plan::apply(&mut world, &step.action, NOW);
        }
    }
    panic!("it does not come to an end");
}

#[test]
fn nodes_that_cannot_be_seen_are_not_taken_for_absent() {
    let (spec, mut last) = cluster();
    let told = |observed: &Observed| status(&spec, observed, &plan::plan(&spec, observed, NOW), NOW);
    let nodes = |status: &ClusterStatus| -> Vec<(String, String)> {
        status.nodes.iter().map(|node| (node.node.clone(), node.state.clone())).collect()
    };
    let before = told(&last);
    assert!(before.ready);
    // What can be seen is as it is now, whatever was seen last.
    assert_eq!(before.clone().with_last_seen(&spec, &last, &Observed::default()), before);

    let unseen = Seen::Unknown { why: Unknown::NoAnswer { error: "503".to_owned() } };
    let now = Observed { machines: unseen, reports: Default::default(), ..last.clone() };
    // The one agent that does not answer any more.
    let gone = last.machines.known().unwrap().iter().find(|machine| machine.name == "ord-3").unwrap().id.clone();
    last.reports.remove(&gone);
    let blind = told(&now);
    assert!(blind.nodes.is_empty());
    let status = blind.with_last_seen(&spec, &now, &last);
    let expected = [("ord-1", "running"), ("ord-2", "streaming"), ("ord-3", "unknown")];
    assert_eq!(nodes(&status), expected.map(|(node, state)| (node.to_owned(), state.to_owned())));
    assert!(!status.ready);
    let ready = status.conditions.iter().find(|condition| condition.kind == "Ready").unwrap();
    let words = "the cluster's machines cannot be seen; these were its nodes at 1970-01-01T00:00:00Z";
    assert_eq!((ready.reason.as_str(), ready.message.as_str()), ("Unknown", words));
}
