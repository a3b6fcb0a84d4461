//! The loop: observe, plan, act, wait. All that is decided is decided by `flypg-core`; this crate looks and does.

pub mod act;
pub mod agent;
pub mod board;
pub mod clock;
pub mod controller;
pub mod events;
pub mod http;
pub mod journal;
pub mod keeper;
pub mod lead;
pub mod lines;
pub mod listen;
pub mod metrics;
pub mod observe;
pub mod orders;
pub mod pace;
pub mod source;
pub mod status;
pub mod store;
pub mod translate;
pub mod turn;
pub mod vigil;
pub mod words;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use flypg_core::spec::*;

    /// One node in ord, as small as it goes.
    pub(crate) fn spec(name: &str) -> ClusterSpec {
        ClusterSpec {
            name: name.parse().unwrap(),
            labels: BTreeMap::new(),
            organization: "personal".to_owned(),
            postgres: PostgresSpec { major: 15, image: None, parameters: BTreeMap::new() },
            primary: RegionSpec { code: "ord".parse().unwrap(), nodes: 1 },
            replicas: Vec::new(),
            guest: Guest { cpu_kind: CpuKind::Shared, cpus: 1, memory_mb: 1024 },
            storage: StorageSpec {
                size_gb: 1,
                grow: None,
                snapshots: SnapshotPolicy { daily: true, retention_days: 5 },
            },
            durability: Durability::Async,
            failover: FailoverSpec { profile: Profile::Balanced, read_fence: true, max_lag_bytes: 16 << 20 },
            flycast: false,
            deletion: Deletion::Protect,
            reconcile: ReconcileMode::Active,
        }
    }
}
