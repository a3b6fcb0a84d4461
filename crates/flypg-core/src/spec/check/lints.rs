//! Good files that may not do what their author thinks.

use super::Checker;
use crate::spec::raw;
use crate::spec::types::{ClusterSpec, Durability};

impl Checker<'_> {
    pub(super) fn lint(&mut self, raw: &raw::PostgresCluster, spec: &ClusterSpec) {
        let failover = raw.spec.failover.as_ref();
        if spec.primary.nodes == 1 && raw.spec.preset != Some(raw::Preset::Development) {
            let message = "one node in the primary region: nothing to fail over to";
            let help = "with 3 nodes a lost one costs seconds, and no commit".to_owned();
            let label = "if this node is lost, the database is down until it is restored";
            self.warn("spec.regions.primary.nodes", message, label, &[help]);
        }
        if spec.primary.nodes == 2 && spec.durability == Durability::Quorum {
            let message = "with two nodes and `durability: quorum`, writes wait whenever either of them is away";
            let help = [
                "`quorum-available` goes on with one, after recording that only that one may lead".to_owned(),
                "or set `regions.primary.nodes` to 3".to_owned(),
            ];
            self.warn("spec.durability", message, "even a restart of the standby stops writes", &help);
        }
        if failover.is_some_and(|failover| failover.max_lag.is_some()) && spec.durability != Durability::Async {
            let message = "`maxLag` has no effect here: only `durability: async` can lose commits";
            self.warn("spec.failover.maxLag", message, "not used", &["remove it".to_owned()]);
        }
        if !spec.failover.read_fence && spec.durability == Durability::Async {
            let message = "`readFence: off` has no effect with `durability: async`";
            let label = "without synchronous standbys a failover always waits for the old primary's lease";
            self.warn("spec.failover.readFence", message, label, &["remove it".to_owned()]);
        }
        if let Some(grow) = spec.storage.grow.as_ref().filter(|grow| grow.max_gb == spec.storage.size_gb) {
            let message = format!("volumes never grow: they have their {}GB from the start", grow.max_gb);
            self.warn("spec.storage.grow.max", message, "expected more than `storage.size`", &[]);
        }
    }
}
