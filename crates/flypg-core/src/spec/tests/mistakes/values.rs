//! Values of the right type that cannot be.

use expect_test::expect;

use super::check;
use crate::spec::tests::{and, with};

#[test]
fn a_bad_cluster_name() {
    check(
        with("orders-db", "Orders_DB"),
        expect![[r#"
        error: `Orders_DB` is not a cluster name
         --> cluster.yaml:4:9
          |
        4 |   name: Orders_DB
          |         ^^^^^^^^^ expected a cluster name, such as `orders-db`
          |
          = help: did you mean `orders-db`?
          = help: 3 to 63 lower-case letters, digits and dashes, starting with a letter and not ending with a dash
    "#]],
    );
}

#[test]
fn a_cluster_name_that_is_too_short() {
    check(
        with("orders-db", "db"),
        expect![[r#"
        error: `db` is not a cluster name
         --> cluster.yaml:4:9
          |
        4 |   name: db
          |         ^^ expected a cluster name, such as `orders-db`
          |
          = help: 3 to 63 lower-case letters, digits and dashes, starting with a letter and not ending with a dash
    "#]],
    );
}

#[test]
fn a_bad_organization() {
    check(
        with("acme", "Acme Inc"),
        expect![[r#"
        error: `Acme Inc` is not the slug of a Fly organization
         --> cluster.yaml:6:17
          |
        6 |   organization: Acme Inc
          |                 ^^^^^^^^ expected the slug of a Fly organization, such as `personal`
          |
          = help: did you mean `acme-inc`?
          = help: `fly orgs list` shows the slugs of your organizations
    "#]],
    );
}

#[test]
fn a_bad_label() {
    check(
        with(
            "  name: orders-db",
            "  name: orders-db\n  labels: { \"te am\": x, flypg_role: y, ok: \"sp ace\", \"\": z }",
        ),
        expect![[r#"
            error: `te am` is not a label
             --> cluster.yaml:5:13
              |
            5 |   labels: { "te am": x, flypg_role: y, ok: "sp ace", "": z }
              |             ^^^^^^^ expected at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends

            error: the label `flypg_role` is not yours to set
             --> cluster.yaml:5:25
              |
            5 |   labels: { "te am": x, flypg_role: y, ok: "sp ace", "": z }
              |                         ^^^^^^^^^^ this prefix is reserved

            error: `sp ace` is not the value of a label
             --> cluster.yaml:5:44
              |
            5 |   labels: { "te am": x, flypg_role: y, ok: "sp ace", "": z }
              |                                            ^^^^^^^^ expected at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends

            error: `` is not a label
             --> cluster.yaml:5:54
              |
            5 |   labels: { "te am": x, flypg_role: y, ok: "sp ace", "": z }
              |                                                      ^^ expected at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends
        "#]],
    );
}

#[test]
fn an_unknown_region() {
    check(
        with("code: ord", "code: orf"),
        expect![[r#"
        error: `orf` is not a Fly region
          --> cluster.yaml:10:22
           |
        10 |     primary: { code: orf, nodes: 3 }
           |                      ^^^ expected a Fly region for `spec.regions.primary.code`
           |
           = help: did you mean `ord` (Chicago)?
           = help: there are ams arn bom cdg dfw ewr fra gru iad jnb lax lhr nrt ord sin sjc syd yyz
    "#]],
    );
}

#[test]
fn a_region_by_its_city() {
    check(
        with("code: ord", "code: Chicago"),
        expect![[r#"
        error: `Chicago` is not a Fly region
          --> cluster.yaml:10:22
           |
        10 |     primary: { code: Chicago, nodes: 3 }
           |                      ^^^^^^^ expected a Fly region for `spec.regions.primary.code`
           |
           = help: did you mean `ord` (Chicago)?
           = help: there are ams arn bom cdg dfw ewr fra gru iad jnb lax lhr nrt ord sin sjc syd yyz
    "#]],
    );
}

#[test]
fn too_many_candidates() {
    check(
        with("nodes: 3", "nodes: 9"),
        expect![[r#"
        error: `spec.regions.primary.nodes` cannot be 9
          --> cluster.yaml:10:34
           |
        10 |     primary: { code: ord, nodes: 9 }
           |                                  ^ expected a whole number from 1 to 7
           |
           = help: every candidate is asked before a failover and slows every commit; for reads, add nodes under `replicas`
    "#]],
    );
}

#[test]
fn no_candidates() {
    check(
        with("nodes: 3", "nodes: 0"),
        expect![[r#"
        error: `spec.regions.primary.nodes` cannot be 0
          --> cluster.yaml:10:34
           |
        10 |     primary: { code: ord, nodes: 0 }
           |                                  ^ expected a whole number from 1 to 7
    "#]],
    );
}

#[test]
fn a_replica_in_the_primary_region() {
    check(
        with("nodes: 3 }", "nodes: 3 }\n    replicas:\n      - { code: ord, nodes: 1 }"),
        expect![[r#"
        error: `ord` is the primary region and a replica region
          --> cluster.yaml:12:17
           |
        12 |       - { code: ord, nodes: 1 }
           |                 ^^^ not here too
           |
          ::: cluster.yaml:10:22
           |
        10 |     primary: { code: ord, nodes: 3 }
           |                      --- the primary region
           |
           = help: nodes in the primary region are replicas of the primary already; raise `primary.nodes`
    "#]],
    );
}

#[test]
fn a_replica_region_twice() {
    check(
        with(
            "nodes: 3 }",
            "nodes: 3 }\n    replicas:\n      - { code: ams, nodes: 1 }\n      - code: syd\n      - code: ams",
        ),
        expect![[r#"
            error: the replica region `ams` stands here twice
              --> cluster.yaml:14:15
               |
            14 |       - code: ams
               |               ^^^ the second
               |
              ::: cluster.yaml:12:17
               |
            12 |       - { code: ams, nodes: 1 }
               |                 --- the first
               |
               = help: add their `nodes` up in one of them
        "#]],
    );
}

#[test]
fn a_replica_region_without_nodes() {
    check(
        with("nodes: 3 }", "nodes: 3 }\n    replicas: [{ code: ams, nodes: 0 }]"),
        expect![[r#"
        error: `spec.regions.replicas[0].nodes` cannot be 0
          --> cluster.yaml:11:36
           |
        11 |     replicas: [{ code: ams, nodes: 0 }]
           |                                    ^ expected a whole number from 1 to 9
           |
           = help: to have none here, remove the region
    "#]],
    );
}

#[test]
fn a_size_without_a_unit() {
    check(
        with("40GB", "40"),
        expect![[r#"
        error: `40` is not a size in GB
          --> cluster.yaml:13:11
           |
        13 |     size: 40
           |           ^^ expected a size in GB, such as `40GB`
           |
           = help: did you mean `40GB`?
    "#]],
    );
}

#[test]
fn a_size_in_another_unit() {
    check(
        with("40GB", "40GiB"),
        expect![[r#"
        error: `40GiB` is not a size in GB
          --> cluster.yaml:13:11
           |
        13 |     size: 40GiB
           |           ^^^^^ expected a size in GB, such as `40GB`
           |
           = help: did you mean `40GB`?
    "#]],
    );
}

#[test]
fn a_size_in_terabytes() {
    check(
        with("40GB", "1TB"),
        expect![[r#"
        error: `1TB` is not a size in GB
          --> cluster.yaml:13:11
           |
        13 |     size: 1TB
           |           ^^^ expected a size in GB, such as `40GB`
           |
           = help: did you mean `1024GB`?
    "#]],
    );
}

#[test]
fn a_volume_that_is_too_large() {
    check(
        with("40GB", "501GB"),
        expect![[r#"
        error: 501GB is more than a volume can have
          --> cluster.yaml:13:11
           |
        13 |     size: 501GB
           |           ^^^^^ expected 1GB to 500GB
    "#]],
    );
}

#[test]
fn growth_out_of_bounds() {
    check(
        and("    grow: { at: 30%, by: 200%, max: 20GB }\n"),
        expect![[r#"
        error: volumes cannot grow at 30%
          --> cluster.yaml:14:17
           |
        14 |     grow: { at: 30%, by: 200%, max: 20GB }
           |                 ^^^ expected 50% to 95%
           |
           = help: below 50% every volume would grow long before it has to

        error: volumes cannot grow by 200%
          --> cluster.yaml:14:26
           |
        14 |     grow: { at: 30%, by: 200%, max: 20GB }
           |                          ^^^^ expected 1% to 100%
           |
           = help: a volume that has grown can never shrink again

        error: volumes cannot grow to 20GB: they are 40GB from the start
          --> cluster.yaml:14:37
           |
        14 |     grow: { at: 30%, by: 200%, max: 20GB }
           |                                     ^^^^ expected at least 40GB
    "#]],
    );
}

#[test]
fn a_percentage_without_its_sign() {
    check(
        and("    grow: { at: 80, max: 200GB }\n"),
        expect![[r#"
        error: `80` is not a percentage
          --> cluster.yaml:14:17
           |
        14 |     grow: { at: 80, max: 200GB }
           |                 ^^ expected a percentage, such as `80%`
           |
           = help: did you mean `80%`?
    "#]],
    );
}

#[test]
fn retention_out_of_bounds() {
    check(
        and("    snapshots: { retentionDays: 90 }\n"),
        expect![[r#"
        error: `spec.storage.snapshots.retentionDays` cannot be 90
          --> cluster.yaml:14:33
           |
        14 |     snapshots: { retentionDays: 90 }
           |                                 ^^ expected a whole number from 1 to 60
    "#]],
    );
}

#[test]
fn cpus_that_fly_does_not_have() {
    check(
        with("cpus: 2", "cpus: 3"),
        expect![[r#"
        error: a Machine cannot have 3 shared CPUs
          --> cluster.yaml:11:37
           |
        11 |   machine: { cpuKind: shared, cpus: 3, memory: 4GB }
           |                                     ^ expected one of 1, 2, 4, 6, 8
    "#]],
    );
}

#[test]
fn more_shared_cpus_than_fly_has() {
    check(
        with("cpus: 2", "cpus: 16"),
        expect![[r#"
        error: a Machine cannot have 16 shared CPUs
          --> cluster.yaml:11:37
           |
        11 |   machine: { cpuKind: shared, cpus: 16, memory: 4GB }
           |                                     ^^ expected one of 1, 2, 4, 6, 8
           |
           = help: `cpuKind: performance` comes with up to 16
    "#]],
    );
}

#[test]
fn too_much_memory() {
    check(
        with("memory: 4GB", "memory: 8GB"),
        expect![[r#"
        error: 8GB is too much memory for shared-2x
          --> cluster.yaml:11:48
           |
        11 |   machine: { cpuKind: shared, cpus: 2, memory: 8GB }
           |                                                ^^^ expected 512MB to 4GB
           |
           = help: Fly gives a shared CPU at most 2GB
           = help: `cpus: 4` would be enough
    "#]],
    );
}

#[test]
fn too_little_memory() {
    check(
        with("memory: 4GB", "memory: 256MB"),
        expect![[r#"
        error: 256MB is too little memory for shared-2x
          --> cluster.yaml:11:48
           |
        11 |   machine: { cpuKind: shared, cpus: 2, memory: 256MB }
           |                                                ^^^^^ expected 512MB to 4GB
           |
           = help: Fly gives a shared CPU at least 256MB
    "#]],
    );
}

#[test]
fn memory_between_two_steps() {
    check(
        with("memory: 4GB", "memory: 1000MB"),
        expect![[r#"
        error: memory for shared CPUs comes in steps of 256MB
          --> cluster.yaml:11:48
           |
        11 |   machine: { cpuKind: shared, cpus: 2, memory: 1000MB }
           |                                                ^^^^^^ expected 768MB or 1GB
    "#]],
    );
}

#[test]
fn memory_between_two_large_steps() {
    check(
        with("cpuKind: shared, cpus: 2, memory: 4GB", "cpuKind: performance, cpus: 2, memory: 5GB"),
        expect![[r#"
        error: memory for performance CPUs comes in steps of 2GB
          --> cluster.yaml:11:53
           |
        11 |   machine: { cpuKind: performance, cpus: 2, memory: 5GB }
           |                                                     ^^^ expected 4GB or 6GB
    "#]],
    );
}

#[test]
fn a_preset_that_does_not_suit() {
    check(
        with(
            "  machine: { cpuKind: shared, cpus: 2, memory: 4GB }",
            "  preset: production-small\n  machine: { cpus: 1 }",
        ),
        expect![[r#"
            error: the preset's 4GB is too much memory for shared-1x
              --> cluster.yaml:12:3
               |
            12 |   machine: { cpus: 1 }
               |   ^^^^^^^ expected 256MB to 2GB
               |
               = help: Fly gives a shared CPU at most 2GB
               = help: `cpus: 2` would be enough
        "#]],
    );
}

#[test]
fn a_quorum_of_one() {
    check(
        with("nodes: 3 }", "nodes: 1 }\n  durability: quorum"),
        expect![[r#"
        error: `durability: quorum` needs a second node in the primary region
          --> cluster.yaml:11:15
           |
        11 |   durability: quorum
           |               ^^^^^^ with one node no standby can confirm a commit: every write would wait for ever
           |
           = help: set `regions.primary.nodes` to 3
           = help: or `durability: async`
    "#]],
    );
}

#[test]
fn a_bad_max_lag() {
    check(
        and("  failover: { maxLag: 16mb, profile: quick }\n"),
        expect![[r#"
        error: `16mb` is not an amount of WAL in kB, MB or GB
          --> cluster.yaml:14:23
           |
        14 |   failover: { maxLag: 16mb, profile: quick }
           |                       ^^^^ expected an amount of WAL in kB, MB or GB, such as `16MB`
           |
           = help: did you mean `16MB`?

        error: `quick` is not a failover profile
          --> cluster.yaml:14:38
           |
        14 |   failover: { maxLag: 16mb, profile: quick }
           |                                      ^^^^^ expected `fast`, `balanced` or `patient`
    "#]],
    );
}
