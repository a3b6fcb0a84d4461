//! What good files mean: defaults, presets, every field.

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::{EXAMPLES, and, diagnostics, one, with};
use crate::names::ClusterName;
use crate::spec::raw::{self, PostgresCluster};
use crate::spec::regions::REGIONS;
use crate::spec::text::{Image, MemorySize, Name, OrganizationSlug, Percentage, RegionCode, VolumeSize, WalSize};
use crate::spec::{
    ClusterSpec, CpuKind, Deletion, Durability, FailoverSpec, Grow, Guest, PostgresSpec, Profile, ReconcileMode,
    RegionSpec, SnapshotPolicy, StorageSpec,
};

fn check(text: &str, expected: Expect) {
    expected.assert_debug_eq(&one(text));
}

#[test]
fn examples_are_good_and_raise_no_doubts() {
    for (file, text) in EXAMPLES {
        one(text);
        assert!(diagnostics(text.as_bytes()).is_empty(), "{file}");
    }
    let names: std::collections::BTreeSet<_> = EXAMPLES.iter().map(|(_, text)| one(text).name).collect();
    assert_eq!(names.len(), EXAMPLES.len(), "the examples can be applied together");
}

#[test]
fn defaults() {
    check(
        super::GOOD,
        expect![[r#"
        ClusterSpec {
            name: orders-db,
            labels: {},
            organization: "acme",
            postgres: PostgresSpec {
                major: 15,
                image: None,
                parameters: {},
            },
            primary: RegionSpec {
                code: ord,
                nodes: 3,
            },
            replicas: [],
            guest: Guest {
                cpu_kind: Shared,
                cpus: 2,
                memory_mb: 4096,
            },
            storage: StorageSpec {
                size_gb: 40,
                grow: None,
                snapshots: SnapshotPolicy {
                    daily: true,
                    retention_days: 7,
                },
            },
            durability: Quorum,
            failover: FailoverSpec {
                profile: Balanced,
                read_fence: true,
                max_lag_bytes: 16777216,
            },
            flycast: true,
            deletion: Protect,
            reconcile: Active,
        }
    "#]],
    );
}

#[test]
fn the_development_example() {
    check(
        EXAMPLES[0].1,
        expect![[r#"
        ClusterSpec {
            name: notes-dev,
            labels: {},
            organization: "personal",
            postgres: PostgresSpec {
                major: 15,
                image: None,
                parameters: {},
            },
            primary: RegionSpec {
                code: ord,
                nodes: 1,
            },
            replicas: [],
            guest: Guest {
                cpu_kind: Shared,
                cpus: 1,
                memory_mb: 1024,
            },
            storage: StorageSpec {
                size_gb: 1,
                grow: None,
                snapshots: SnapshotPolicy {
                    daily: true,
                    retention_days: 7,
                },
            },
            durability: Async,
            failover: FailoverSpec {
                profile: Balanced,
                read_fence: true,
                max_lag_bytes: 16777216,
            },
            flycast: true,
            deletion: Delete,
            reconcile: Active,
        }
    "#]],
    );
}

#[test]
fn the_multi_region_example() {
    check(
        EXAMPLES[3].1,
        expect![[r#"
        ClusterSpec {
            name: catalog-db,
            labels: {
                "team": "catalog",
                "tier": "production",
            },
            organization: "personal",
            postgres: PostgresSpec {
                major: 15,
                image: None,
                parameters: {
                    "max_connections": "300",
                    "random_page_cost": "1.1",
                    "statement_timeout": "60s",
                },
            },
            primary: RegionSpec {
                code: iad,
                nodes: 3,
            },
            replicas: [
                RegionSpec {
                    code: fra,
                    nodes: 2,
                },
                RegionSpec {
                    code: nrt,
                    nodes: 1,
                },
                RegionSpec {
                    code: syd,
                    nodes: 1,
                },
            ],
            guest: Guest {
                cpu_kind: Performance,
                cpus: 2,
                memory_mb: 8192,
            },
            storage: StorageSpec {
                size_gb: 100,
                grow: Some(
                    Grow {
                        at_percent: 80,
                        by_percent: 25,
                        max_gb: 400,
                    },
                ),
                snapshots: SnapshotPolicy {
                    daily: true,
                    retention_days: 14,
                },
            },
            durability: Quorum,
            failover: FailoverSpec {
                profile: Balanced,
                read_fence: true,
                max_lag_bytes: 16777216,
            },
            flycast: true,
            deletion: Protect,
            reconcile: Active,
        }
    "#]],
    );
}

#[test]
fn durability_follows_the_number_of_candidates() {
    let durability = |nodes: u32| one(&with("nodes: 3", &format!("nodes: {nodes}"))).durability;
    assert_eq!(
        [1, 2, 3, 7].map(durability),
        [Durability::Async, Durability::QuorumAvailable, Durability::Quorum, Durability::Quorum]
    );
}

#[test]
fn what_is_given_wins_over_the_preset() {
    let preset = |name: &str, rest: &str| {
        let text = with(
            "  machine: { cpuKind: shared, cpus: 2, memory: 4GB }\n  storage:\n    size: 40GB\n",
            &format!("  preset: {name}\n{rest}"),
        );
        let spec = one(&text.replace(", nodes: 3", ""));
        (spec.primary.nodes, spec.guest.to_string(), spec.storage.size_gb)
    };
    let large = preset("production-large", "");
    assert_eq!(large, (3, "shared-4x 8192 MB".to_owned(), 80));
    assert_eq!(preset("production-small", ""), (3, "shared-2x 4096 MB".to_owned(), 40));
    assert_eq!(preset("development", ""), (1, "shared-1x 1024 MB".to_owned(), 1));
    let given = "  machine: { cpuKind: performance }\n  storage: { size: 90GB }\n";
    assert_eq!(preset("production-small", given), (3, "performance-2x 4096 MB".to_owned(), 90));
    assert_eq!(preset("production-small", "  storage: { snapshots: { daily: false } }\n").2, 40);
}

#[test]
fn null_is_not_given() {
    let nulls = and("    grow: null\n    snapshots: ~\n  durability:\n  failover: { maxLag: null }\n  access: {}\n");
    assert_eq!(one(&nulls), one(super::GOOD));
}

#[test]
fn parameters_keep_their_text_and_lose_their_case() {
    let text = with(
        "version: 15",
        "version: 15\n    parameters: { Random_Page_Cost: 1.10, jit: off, autovacuum: true, \
         log_line_prefix: '%m [%p] ', max_connections: 300, auto_explain.log_min_duration: '010', x: 18446744073709551616 }",
    );
    let parameters = one(&text).postgres.parameters;
    let parameters: Vec<_> = parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(
        parameters,
        [
            "auto_explain.log_min_duration=010",
            "autovacuum=true",
            "jit=off",
            "log_line_prefix=%m [%p] ",
            "max_connections=300",
            "random_page_cost=1.10",
            "x=18446744073709551616",
        ]
    );
}

/// The file that asks for `spec` and leaves nothing to defaults.
fn written_out(spec: &ClusterSpec) -> PostgresCluster {
    let parameters = spec.postgres.parameters.iter().map(|(n, v)| (n.clone(), raw::Parameter(v.clone())));
    let replica = |r: &RegionSpec| raw::ReplicaRegion { code: RegionCode(r.code.to_string()), nodes: Some(r.nodes) };
    PostgresCluster {
        api_version: raw::ApiVersion::V1,
        kind: raw::Kind::PostgresCluster,
        metadata: raw::Metadata { name: Name(spec.name.to_string()), labels: Some(spec.labels.clone()) },
        spec: raw::Spec {
            organization: OrganizationSlug(spec.organization.clone()),
            preset: None,
            postgres: raw::Postgres {
                version: spec.postgres.major,
                image: spec.postgres.image.clone().map(Image),
                parameters: Some(parameters.collect()),
            },
            regions: raw::Regions {
                primary: raw::PrimaryRegion {
                    code: RegionCode(spec.primary.code.to_string()),
                    nodes: Some(spec.primary.nodes),
                },
                replicas: Some(spec.replicas.iter().map(replica).collect()),
            },
            machine: Some(raw::Machine {
                cpu_kind: Some(match spec.guest.cpu_kind {
                    CpuKind::Shared => raw::CpuKind::Shared,
                    CpuKind::Performance => raw::CpuKind::Performance,
                }),
                cpus: Some(spec.guest.cpus),
                memory: Some(MemorySize(format!("{}MB", spec.guest.memory_mb))),
            }),
            storage: Some(raw::Storage {
                size: Some(VolumeSize(format!("{}GB", spec.storage.size_gb))),
                grow: spec.storage.grow.as_ref().map(|grow| raw::Grow {
                    at: Some(Percentage(format!("{}%", grow.at_percent))),
                    by: Some(Percentage(format!("{}%", grow.by_percent))),
                    max: VolumeSize(format!("{}GB", grow.max_gb)),
                }),
                snapshots: Some(raw::Snapshots {
                    daily: Some(spec.storage.snapshots.daily),
                    retention_days: Some(spec.storage.snapshots.retention_days),
                }),
            }),
            durability: Some(match spec.durability {
                Durability::Async => raw::Durability::Async,
                Durability::Quorum => raw::Durability::Quorum,
                Durability::QuorumAvailable => raw::Durability::QuorumAvailable,
            }),
            failover: Some(raw::Failover {
                profile: Some(match spec.failover.profile {
                    Profile::Fast => raw::Profile::Fast,
                    Profile::Balanced => raw::Profile::Balanced,
                    Profile::Patient => raw::Profile::Patient,
                }),
                read_fence: Some(if spec.failover.read_fence { raw::ReadFence::Strict } else { raw::ReadFence::Off }),
                max_lag: Some(WalSize(format!("{}kB", spec.failover.max_lag_bytes >> 10))),
            }),
            access: Some(raw::Access { flycast: Some(spec.flycast) }),
            deletion: Some(match spec.deletion {
                Deletion::Protect => raw::Deletion::Protect,
                Deletion::RetainVolumes => raw::Deletion::RetainVolumes,
                Deletion::Delete => raw::Deletion::Delete,
            }),
            reconcile: Some(match spec.reconcile {
                ReconcileMode::Active => raw::Reconcile::Active,
                ReconcileMode::FailoverOnly => raw::Reconcile::FailoverOnly,
                ReconcileMode::Observe => raw::Reconcile::Observe,
                ReconcileMode::Stop => raw::Reconcile::Stop,
            }),
        },
    }
}

fn round_trip(spec: &ClusterSpec) {
    let text = serde_yaml::to_string(&written_out(spec)).unwrap();
    assert_eq!(&one(&text), spec, "in\n{text}");
}

#[test]
fn examples_written_out_ask_for_the_same() {
    EXAMPLES.iter().for_each(|(_, text)| round_trip(&one(text)));
}

fn guests() -> impl Strategy<Value = Guest> {
    let shared = (prop::sample::select(vec![1u32, 2, 4, 6, 8]), 1u32..=8).prop_map(|(cpus, steps)| Guest {
        cpu_kind: CpuKind::Shared,
        cpus,
        memory_mb: 256 * cpus * steps,
    });
    let performance = (prop::sample::select(vec![1u32, 2, 4, 6, 8, 10, 12, 14, 16]), 1u32..=4)
        .prop_map(|(cpus, steps)| Guest { cpu_kind: CpuKind::Performance, cpus, memory_mb: 2048 * cpus * steps });
    prop_oneof![shared, performance]
}

fn storage() -> impl Strategy<Value = StorageSpec> {
    let grow = prop::option::of((50u32..=95, 1u32..=100, 0u32..=499));
    (1u32..=500, grow, any::<bool>(), 1u32..=60).prop_map(|(size_gb, grow, daily, retention_days)| StorageSpec {
        size_gb,
        grow: grow.map(|(at_percent, by_percent, more)| Grow {
            at_percent,
            by_percent,
            max_gb: (size_gb + more).min(500),
        }),
        snapshots: SnapshotPolicy { daily, retention_days },
    })
}

fn regions() -> impl Strategy<Value = (RegionSpec, Vec<RegionSpec>)> {
    let codes: Vec<&str> = REGIONS.iter().map(|(code, _)| *code).collect();
    (prop::sample::subsequence(codes, 1..6).prop_shuffle(), 1u32..=7, prop::collection::vec(1u32..=9, 6)).prop_map(
        |(codes, nodes, counts)| {
            let region = |(code, nodes): (&&str, &u32)| RegionSpec { code: code.parse().unwrap(), nodes: *nodes };
            (region((&codes[0], &nodes)), codes[1..].iter().zip(&counts).map(region).collect())
        },
    )
}

fn postgres() -> impl Strategy<Value = PostgresSpec> {
    let image = prop_oneof![
        Just(None),
        Just(Some("registry.fly.io/acme:latest".to_owned())),
        Just(Some(format!("acme/postgres@sha256:{}", "a1".repeat(32)))),
    ];
    // Names nobody owns, and any text a person may need: YAML has to bring it through unchanged.
    let parameters = prop::collection::btree_map("zz[a-z_]{1,8}(\\.[a-z]{1,5})?", "[ -~é€]{0,20}", 0..6);
    (15u8..=18, image, parameters).prop_map(|(major, image, mut parameters)| {
        parameters.retain(|name, value| !(name.contains('.') || value.starts_with(|c: char| c.is_ascii_digit())));
        PostgresSpec { major, image, parameters }
    })
}

fn specs() -> impl Strategy<Value = ClusterSpec> {
    let name = "[a-z][a-z0-9-]{1,61}[a-z0-9]".prop_map(|name| name.parse::<ClusterName>().unwrap());
    // `NO`, as the library writes it here, is a boolean to others, and refused: no value begins like one.
    let labels = prop::collection::btree_map("[a-eg-z]([a-z0-9._-]{0,20}[a-z0-9])?", "([a-d][A-Za-z0-9]{1,20})?", 0..4);
    let choices = (
        prop::sample::select(vec![Durability::Async, Durability::Quorum, Durability::QuorumAvailable]),
        prop::sample::select(vec![Profile::Fast, Profile::Balanced, Profile::Patient]),
        prop::sample::select(vec![Deletion::Protect, Deletion::RetainVolumes, Deletion::Delete]),
        prop::sample::select(vec![
            ReconcileMode::Active,
            ReconcileMode::FailoverOnly,
            ReconcileMode::Observe,
            ReconcileMode::Stop,
        ]),
        any::<bool>(),
        any::<bool>(),
        1u64..1_000_000,
    );
    // Short words may be numbers or booleans; how those are written is for the mistakes to show.
    let organization = "[a-z][a-z-]{2,20}[a-z]";
    (name, labels, organization, postgres(), regions(), guests(), storage(), choices).prop_map(
        |(name, labels, organization, postgres, (primary, replicas), guest, storage, choices)| {
            let (durability, profile, deletion, reconcile, read_fence, flycast, max_lag_kb) = choices;
            let alone = primary.nodes == 1 && durability == Durability::Quorum;
            ClusterSpec {
                name,
                labels,
                organization,
                postgres,
                primary,
                replicas,
                guest,
                storage,
                durability: if alone { Durability::Async } else { durability },
                failover: FailoverSpec { profile, read_fence, max_lag_bytes: max_lag_kb << 10 },
                flycast,
                deletion,
                reconcile,
            }
        },
    )
}

proptest! {
    #[test]
    fn whatever_is_wanted_can_be_asked_for(spec in specs()) {
        round_trip(&spec);
    }
}
