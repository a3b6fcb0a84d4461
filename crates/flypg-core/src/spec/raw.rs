//! The shape of `cluster.yaml`: the one description of it. The JSON Schema is generated from these types, their
//! comments are its descriptions, the shape is checked against it, and serde reads into them.
//!
//! What has a default is an `Option`, and null means not given.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::text::{Image, MemorySize, Name, OrganizationSlug, Percentage, RegionCode, VolumeSize, WalSize};

/// A PostgreSQL cluster on Fly Machines, kept as this file says by flypg.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PostgresCluster {
    /// The version of this format.
    #[schemars(extend("examples" = ["flypg/v1"]))]
    pub(crate) api_version: ApiVersion,
    /// What this document describes.
    #[schemars(extend("examples" = ["PostgresCluster"]))]
    pub(crate) kind: Kind,
    /// What the cluster is called.
    #[schemars(extend("examples" = [{ "name": "orders-db" }]))]
    pub(crate) metadata: Metadata,
    /// What the cluster is to be.
    pub(crate) spec: Spec,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[cfg_attr(test, derive(serde::Serialize))]
#[schemars(title = "a version of this format")]
pub(crate) enum ApiVersion {
    #[serde(rename = "flypg/v1")]
    V1,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[cfg_attr(test, derive(serde::Serialize))]
#[schemars(title = "a kind of document")]
pub(crate) enum Kind {
    PostgresCluster,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Metadata {
    /// Also the name of the Fly app. Another name is another cluster.
    pub(crate) name: Name,
    /// For people and their programs; flypg attaches no meaning to them.
    pub(crate) labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Spec {
    /// Slug of the Fly organization.
    pub(crate) organization: OrganizationSlug,
    /// Fills what is not given of `regions.primary.nodes`, `machine` and `storage.size`.
    pub(crate) preset: Option<Preset>,
    /// Which PostgreSQL, and its settings.
    #[schemars(extend("examples" = [{ "version": 15 }]))]
    pub(crate) postgres: Postgres,
    /// Where the nodes are, and how many.
    #[schemars(extend("examples" = [{ "primary": { "code": "ord", "nodes": 3 } }]))]
    pub(crate) regions: Regions,
    /// Size of every node's Machine. Required without a preset.
    pub(crate) machine: Option<Machine>,
    /// Every node's volume. Required without a preset.
    pub(crate) storage: Option<Storage>,
    /// What an acknowledged commit has survived. Default: `quorum` with three or more nodes in the primary region,
    /// `quorum-available` with two, `async` with one.
    pub(crate) durability: Option<Durability>,
    /// How soon a primary is replaced, and at what price.
    pub(crate) failover: Option<Failover>,
    /// How clients reach the cluster.
    pub(crate) access: Option<Access>,
    /// What may go when it has left the file. Default: `protect`.
    pub(crate) deletion: Option<Deletion>,
    /// How much the controller may do. Default: `active`.
    pub(crate) reconcile: Option<Reconcile>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "kebab-case")]
#[schemars(title = "a preset")]
pub(crate) enum Preset {
    /// 1 node, shared-1x with 1 GB, 1 GB of storage.
    Development,
    /// 3 nodes, shared-2x with 4 GB, 40 GB of storage.
    ProductionSmall,
    /// 3 nodes, shared-4x with 8 GB, 80 GB of storage.
    ProductionLarge,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Postgres {
    /// Major version of PostgreSQL. No preset fills it: a database's version changes when its file says so.
    #[schemars(range(min = 15, max = 18), extend("examples" = [15]))]
    pub(crate) version: u8,
    /// An image of your own instead of flypg's of that version. A digest is honoured as a pin.
    pub(crate) image: Option<Image>,
    /// PostgreSQL settings, as in postgresql.conf. What is not given follows the Machine's size; removing one resets
    /// it. Settings that replication and failover depend on are flypg's and refused.
    pub(crate) parameters: Option<BTreeMap<String, Parameter>>,
}

/// Text, a number or a boolean, as it would stand in postgresql.conf without quotes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(crate) struct Parameter(pub(crate) String);

impl JsonSchema for Parameter {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Parameter".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": ["string", "number", "boolean"],
            "title": "a value",
            "description": "Text, a number or a boolean, as it would stand in postgresql.conf without quotes.",
            "examples": ["16MB"],
        })
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Regions {
    /// Where the primary and its failover candidates live.
    #[schemars(extend("examples" = [{ "code": "ord", "nodes": 3 }]))]
    pub(crate) primary: PrimaryRegion,
    /// Regions with read-only nodes, which are never promoted by themselves.
    pub(crate) replicas: Option<Vec<ReplicaRegion>>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PrimaryRegion {
    /// One of Fly's regions.
    pub(crate) code: RegionCode,
    /// How many. With three, losing any one of them loses no commit. Required without a preset.
    #[schemars(range(min = 1, max = 7), extend("examples" = [3], "x-if-more" =
        "every candidate is asked before a failover and slows every commit; for reads, add nodes under `replicas`"))]
    pub(crate) nodes: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ReplicaRegion {
    /// One of Fly's regions; not the primary one, and none twice.
    pub(crate) code: RegionCode,
    /// How many. Default: 1.
    #[schemars(range(min = 1, max = 9), extend("examples" = [1],
        "x-if-less" = "to have none here, remove the region",
        "x-if-more" = "the primary sends its WAL to every one of them"))]
    pub(crate) nodes: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Machine {
    /// Default: the preset's, else `shared`.
    pub(crate) cpu_kind: Option<CpuKind>,
    /// 1, 2, 4, 6 or 8; performance CPUs also 10, 12, 14 or 16. Required without a preset.
    #[schemars(range(min = 1, max = 16), extend("examples" = [2]))]
    pub(crate) cpus: Option<u32>,
    /// Per CPU 256 MB to 2 GB (shared) or 2 to 8 GB (performance). Required without a preset.
    pub(crate) memory: Option<MemorySize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "camelCase")]
#[schemars(title = "a kind of CPU")]
pub(crate) enum CpuKind {
    Shared,
    Performance,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Storage {
    /// 1GB to 500GB; it can grow and never shrink. Required without a preset.
    pub(crate) size: Option<VolumeSize>,
    /// Absent: volumes keep their size.
    pub(crate) grow: Option<Grow>,
    /// Fly's own snapshots of the volumes, block by block.
    pub(crate) snapshots: Option<Snapshots>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Grow {
    /// How full a volume is when all of them are extended: 50% to 95%. Default: 80%.
    pub(crate) at: Option<Percentage>,
    /// By how much of their size: 1% to 100%. Default: 25%.
    pub(crate) by: Option<Percentage>,
    /// Where growing ends, at most 500GB.
    #[schemars(extend("examples" = ["200GB"]))]
    pub(crate) max: VolumeSize,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Snapshots {
    /// Whether Fly takes one of each volume every day. Default: true.
    pub(crate) daily: Option<bool>,
    /// How long Fly keeps each. Default: 7.
    #[schemars(range(min = 1, max = 60), extend("examples" = [7]))]
    pub(crate) retention_days: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "kebab-case")]
#[schemars(title = "a durability")]
pub(crate) enum Durability {
    /// The primary alone. A failover may lose up to `failover.maxLag`.
    Async,
    /// The primary and a standby, always. Without any standby, writes wait.
    Quorum,
    /// The primary and a standby while there is one; alone only after it is recorded that no other node may lead.
    QuorumAvailable,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Failover {
    /// Lease and suspicion times. Default: `balanced`.
    pub(crate) profile: Option<Profile>,
    /// Whether reads, too, are never answered by a primary that may have been replaced. Default: `strict`.
    pub(crate) read_fence: Option<ReadFence>,
    /// With `durability: async`, the most that a failover may lose. Default: 16MB.
    pub(crate) max_lag: Option<WalSize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "camelCase")]
#[schemars(title = "a failover profile")]
pub(crate) enum Profile {
    /// Lease of 4 s.
    Fast,
    /// Lease of 6 s.
    Balanced,
    /// Lease of 15 s.
    Patient,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "camelCase")]
#[schemars(title = "a read fence")]
pub(crate) enum ReadFence {
    /// A new primary starts once the old one can answer no one any more.
    Strict,
    /// A new primary starts once the old one can commit nothing any more; it may still answer reads for a moment.
    Off,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Access {
    /// A private address that goes through Fly's proxy. Default: true.
    pub(crate) flycast: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "kebab-case")]
#[schemars(title = "a deletion policy")]
pub(crate) enum Deletion {
    /// Nothing that holds data.
    Protect,
    /// Machines, not volumes.
    RetainVolumes,
    /// Machines and volumes.
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "kebab-case")]
#[schemars(title = "a way to reconcile")]
pub(crate) enum Reconcile {
    /// Everything the file asks for.
    Active,
    /// Keep a primary, change nothing else.
    FailoverOnly,
    /// Look and report.
    Observe,
    /// Not even look.
    Stop,
}
