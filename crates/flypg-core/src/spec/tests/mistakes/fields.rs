//! Fields that are unknown, missing, or of another type.

use expect_test::expect;

use super::check;
use crate::spec::tests::{and, with};

#[test]
fn a_misspelt_key() {
    check(
        with("storage:", "storgae:"),
        expect![[r#"
        error: unknown field `storgae` in `spec`
          --> cluster.yaml:12:3
           |
        12 |   storgae:
           |   ^^^^^^^ not a field
           |
           = help: did you mean `storage`?
    "#]],
    );
}

#[test]
fn a_misspelt_key_below() {
    check(
        with("size: 40GB", "sise: 40GB"),
        expect![[r#"
        error: unknown field `sise` in `spec.storage`
          --> cluster.yaml:13:5
           |
        13 |     sise: 40GB
           |     ^^^^ not a field
           |
           = help: did you mean `size`?
    "#]],
    );
}

#[test]
fn a_key_in_another_spelling() {
    check(
        with("cpuKind", "cpu_kind"),
        expect![[r#"
        error: unknown field `cpu_kind` in `spec.machine`
          --> cluster.yaml:11:14
           |
        11 |   machine: { cpu_kind: shared, cpus: 2, memory: 4GB }
           |              ^^^^^^^^ not a field
           |
           = help: did you mean `cpuKind`?
    "#]],
    );
}

#[test]
fn a_key_that_belongs_elsewhere() {
    check(
        and("  retentionDays: 3\n"),
        expect![[r#"
        error: unknown field `retentionDays` in `spec`
          --> cluster.yaml:14:3
           |
        14 |   retentionDays: 3
           |   ^^^^^^^^^^^^^ not a field
           |
           = help: `retentionDays` belongs in `spec.storage.snapshots`
    "#]],
    );
}

#[test]
fn a_key_nobody_knows() {
    check(
        with("  name: orders-db", "  name: orders-db\n  owner: me"),
        expect![[r#"
        error: unknown field `owner` in `metadata`
         --> cluster.yaml:5:3
          |
        5 |   owner: me
          |   ^^^^^ not a field
          |
          = help: the fields here are `labels` and `name`
    "#]],
    );
}

#[test]
fn a_missing_field() {
    check(
        with("  organization: acme\n", ""),
        expect![[r#"
        error: `organization` is missing from `spec`
         --> cluster.yaml:6:3
          |
        6 |   postgres:
          |   ^^^^^^^^ expected `organization` in here
          |
          = help: add `organization: personal`
    "#]],
    );
}

#[test]
fn a_missing_section() {
    check(
        with("  regions:\n    primary: { code: ord, nodes: 3 }\n", ""),
        expect![[r#"
        error: `regions` is missing from `spec`
         --> cluster.yaml:6:3
          |
        6 |   organization: acme
          |   ^^^^^^^^^^^^ expected `regions` in here
          |
          = help: add `regions: { primary: { code: ord, nodes: 3 } }`
    "#]],
    );
}

#[test]
fn missing_size_without_a_preset() {
    check(
        with("  machine: { cpuKind: shared, cpus: 2, memory: 4GB }\n  storage:\n    size: 40GB\n", ""),
        expect![[r#"
            error: `machine` is missing from `spec`, and there is no preset to fill it
             --> cluster.yaml:5:1
              |
            5 | spec:
              | ^^^^ expected `machine` in here
              |
              = help: add `machine: { cpuKind: shared, cpus: 2, memory: 4GB }`, or choose a `preset`: development, production-small or production-large

            error: `storage` is missing from `spec`, and there is no preset to fill it
             --> cluster.yaml:5:1
              |
            5 | spec:
              | ^^^^ expected `storage` in here
              |
              = help: add `storage: { size: 40GB }`, or choose a `preset`: development, production-small or production-large
        "#]],
    );
}

#[test]
fn parts_of_a_machine_without_a_preset() {
    check(
        with(", memory: 4GB", ""),
        expect![[r#"
        error: `memory` is missing from `spec.machine`, and there is no preset to fill it
          --> cluster.yaml:11:3
           |
        11 |   machine: { cpuKind: shared, cpus: 2 }
           |   ^^^^^^^ expected `memory` in here
           |
           = help: add `memory: 4GB`, or choose a `preset`: development, production-small or production-large
    "#]],
    );
}

#[test]
fn nodes_without_a_preset() {
    check(
        with(", nodes: 3", ""),
        expect![[r#"
        error: `nodes` is missing from `spec.regions.primary`, and there is no preset to fill it
          --> cluster.yaml:10:5
           |
        10 |     primary: { code: ord }
           |     ^^^^^^^ expected `nodes` in here
           |
           = help: add `nodes: 3`, or choose a `preset`: development, production-small or production-large
    "#]],
    );
}

#[test]
fn a_value_left_out() {
    check(
        with("organization: acme", "organization:"),
        expect![[r#"
        error: `spec.organization` has no value
         --> cluster.yaml:6:3
          |
        6 |   organization:
          |   ^^^^^^^^^^^^ expected the slug of a Fly organization
    "#]],
    );
}

#[test]
fn replicas_without_a_primary() {
    check(
        with("    primary: { code: ord, nodes: 3 }", "    replicas: [{ code: ams, nodes: 2 }]"),
        expect![[r#"
        error: `primary` is missing from `spec.regions`
          --> cluster.yaml:10:5
           |
        10 |     replicas: [{ code: ams, nodes: 2 }]
           |     ^^^^^^^^ expected `primary` in here
           |
           = help: add `primary: { code: ord, nodes: 3 }`
    "#]],
    );
}

#[test]
fn replicas_that_are_no_list() {
    check(
        with("nodes: 3 }", "nodes: 3 }\n    replicas: { code: ams, nodes: 1 }"),
        expect![[r#"
        error: `spec.regions.replicas` is a mapping
          --> cluster.yaml:11:17
           |
        11 |     replicas: { code: ams, nodes: 1 }
           |                 ^^^^ expected a list
           |
           = help: begin each item with `- `
    "#]],
    );
}

#[test]
fn growth_without_an_end() {
    check(
        and("    grow: { at: 80% }\n"),
        expect![[r#"
        error: `max` is missing from `spec.storage.grow`
          --> cluster.yaml:14:13
           |
        14 |     grow: { at: 80% }
           |             ^^ expected `max` in here
           |
           = help: add `max: 200GB`
    "#]],
    );
}

#[test]
fn a_mapping_that_is_one_word() {
    check(
        and("  failover: fast\n"),
        expect![[r#"
        error: `spec.failover` is a single value
          --> cluster.yaml:14:13
           |
        14 |   failover: fast
           |             ^^^^ expected a mapping
           |
           = help: its fields are `maxLag`, `profile` and `readFence`
    "#]],
    );
}

#[test]
fn a_word_that_is_a_list() {
    check(
        and("  deletion: [protect]\n"),
        expect![[r#"
        error: `spec.deletion` is a list
          --> cluster.yaml:14:13
           |
        14 |   deletion: [protect]
           |             ^^^^^^^^^ expected `protect`, `retain-volumes` or `delete`
    "#]],
    );
}

#[test]
fn a_word_that_is_a_mapping() {
    check(
        and("  deletion:\n    protect: true\n"),
        expect![[r#"
        error: `spec.deletion` is a mapping
          --> cluster.yaml:15:5
           |
        15 |     protect: true
           |     ^^^^^^^ expected `protect`, `retain-volumes` or `delete`
    "#]],
    );
}

#[test]
fn a_wrong_api_version() {
    check(
        with("flypg/v1", "flypg/v2"),
        expect![[r#"
        error: `flypg/v2` is not a version of this format
         --> cluster.yaml:1:13
          |
        1 | apiVersion: flypg/v2
          |             ^^^^^^^^ expected `flypg/v1`
          |
          = help: did you mean `flypg/v1`?
    "#]],
    );
}

#[test]
fn a_wrong_kind() {
    check(
        with("PostgresCluster", "Postgres"),
        expect![[r#"
        error: `Postgres` is not a kind of document
         --> cluster.yaml:2:7
          |
        2 | kind: Postgres
          |       ^^^^^^^^ expected `PostgresCluster`
    "#]],
    );
}

#[test]
fn an_unknown_preset() {
    check(
        and("  preset: production\n"),
        expect![[r#"
        error: `production` is not a preset
          --> cluster.yaml:14:11
           |
        14 |   preset: production
           |           ^^^^^^^^^^ expected `development`, `production-small` or `production-large`
    "#]],
    );
}

#[test]
fn a_bad_durability() {
    check(
        and("  durability: sync\n"),
        expect![[r#"
        error: `sync` is not a durability
          --> cluster.yaml:14:15
           |
        14 |   durability: sync
           |               ^^^^ expected `async`, `quorum` or `quorum-available`
    "#]],
    );
}

#[test]
fn words_that_other_programs_made_booleans() {
    check(
        and("  failover: { readFence: false }\n"),
        expect![[r#"
        error: `false` is not a read fence
          --> cluster.yaml:14:26
           |
        14 |   failover: { readFence: false }
           |                          ^^^^^ expected `strict` or `off`
           |
           = help: did you mean `off`?
    "#]],
    );
    let labels = with("  name: orders-db", "  name: orders-db\n  labels: { tier: 1, public: yes, country: no }");
    check(
        labels,
        expect![[r#"
        error: `metadata.labels.tier` is not text
         --> cluster.yaml:5:19
          |
        5 |   labels: { tier: 1, public: yes, country: no }
          |                   ^ this is a number, not text
          |
          = help: put it in quotes: `"1"`

        error: `metadata.labels.public` is not text
         --> cluster.yaml:5:30
          |
        5 |   labels: { tier: 1, public: yes, country: no }
          |                              ^^^ some YAML readers take this for a boolean
          |
          = help: put it in quotes: `"yes"`

        error: `metadata.labels.country` is not text
         --> cluster.yaml:5:44
          |
        5 |   labels: { tier: 1, public: yes, country: no }
          |                                            ^^ some YAML readers take this for a boolean
          |
          = help: put it in quotes: `"no"`
    "#]],
    );
}

#[test]
fn sections_of_other_types() {
    let text = with("version: 15", "version: 15\n    parameters: [work_mem]")
        .replace("storage:\n    size: 40GB", "storage: 40GB");
    check(
        text,
        expect![[r#"
        error: `spec.postgres.parameters` is a list
         --> cluster.yaml:9:17
          |
        9 |     parameters: [work_mem]
          |                 ^^^^^^^^^^ expected a mapping

        error: `spec.storage` is a single value
          --> cluster.yaml:13:12
           |
        13 |   storage: 40GB
           |            ^^^^ expected a mapping
           |
           = help: its fields are `grow`, `size` and `snapshots`
    "#]],
    );
}
