mod agreement;
mod mistakes;
mod schema;
mod specs;

use super::{ClusterSpec, Diagnostics, check_all, parse};

/// The files people copy.
const EXAMPLES: [(&str, &str); 4] = [
    ("development.yaml", include_str!("../../../../../examples/development.yaml")),
    ("two-node.yaml", include_str!("../../../../../examples/two-node.yaml")),
    ("ha.yaml", include_str!("../../../../../examples/ha.yaml")),
    ("multi-region.yaml", include_str!("../../../../../examples/multi-region.yaml")),
];

/// A good cluster with everything that has no default, to be changed by one mistake at a time.
const GOOD: &str = "\
apiVersion: flypg/v1
kind: PostgresCluster
metadata:
  name: orders-db
spec:
  organization: acme
  postgres:
    version: 15
  regions:
    primary: { code: ord, nodes: 3 }
  machine: { cpuKind: shared, cpus: 2, memory: 4GB }
  storage:
    size: 40GB
";

/// [`GOOD`] with `old` replaced by `new`; `old` must be there.
fn with(old: &str, new: &str) -> String {
    assert_eq!(GOOD.matches(old).count(), 1, "{old:?} stands once in the good file");
    GOOD.replace(old, new)
}

/// [`GOOD`] with lines added to its `spec`.
fn and(lines: &str) -> String {
    format!("{GOOD}{lines}")
}

fn one(text: &str) -> ClusterSpec {
    let mut clusters = parse("cluster.yaml", text.as_bytes()).unwrap_or_else(|found| panic!("{found}\nin\n{text}"));
    assert_eq!(clusters.len(), 1);
    clusters.remove(0).value
}

fn diagnostics(bytes: &[u8]) -> Diagnostics {
    check_all(&[("cluster.yaml", bytes)]).diagnostics
}
