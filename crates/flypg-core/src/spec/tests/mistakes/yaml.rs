//! YAML that is none, or more than a cluster file has a use for.

use expect_test::expect;

use super::check;
use crate::spec::tests::{and, with};

#[test]
fn a_duplicate_key() {
    check(
        and("    size: 50GB\n"),
        expect![[r#"
        error: the key `size` stands here twice
          --> cluster.yaml:14:5
           |
        14 |     size: 50GB
           |     ^^^^ the second
           |
          ::: cluster.yaml:13:5
           |
        13 |     size: 40GB
           |     ---- the first
           |
           = help: keep one of them
    "#]],
    );
}

#[test]
fn a_duplicate_key_on_one_line() {
    check(
        with("code: ord,", "code: ord, code: ams,"),
        expect![[r#"
        error: the key `code` stands here twice
          --> cluster.yaml:10:27
           |
        10 |     primary: { code: ord, code: ams, nodes: 3 }
           |                ----       ^^^^ the second
           |                |
           |                the first
           |
           = help: keep one of them
    "#]],
    );
}

#[test]
fn anchors_and_aliases() {
    check(
        with("version: 15", "version: &v 15\n    parameters: { max_connections: *v }"),
        expect![[r#"
        error: anchors are not taken
         --> cluster.yaml:8:14
          |
        8 |     version: &v 15
          |              ^^^^^
          |
          = help: without aliases an anchor has no use; remove it

        error: aliases are not taken
         --> cluster.yaml:9:36
          |
        9 |     parameters: { max_connections: *v }
          |                                    ^^
          |
          = help: written out in full, a file shows what it asks for
    "#]],
    );
}

#[test]
fn a_tag() {
    check(
        with("version: 15", "version: !!int \"15\""),
        expect![[r#"
        error: tags are not taken
         --> cluster.yaml:8:14
          |
        8 |     version: !!int "15"
          |              ^^^^^^^^^^
          |
          = help: write the value alone; put text that looks like a number in quotes
    "#]],
    );
}

#[test]
fn a_merge_key() {
    check(
        with("  machine: {", "  machine: { <<: { cpus: 4 },"),
        expect![[r#"
        error: merge keys are not taken
          --> cluster.yaml:11:14
           |
        11 |   machine: { <<: { cpus: 4 }, cpuKind: shared, cpus: 2, memory: 4GB }
           |              ^^
           |
           = help: write the fields out where they belong
    "#]],
    );
}

#[test]
fn a_key_that_is_a_list() {
    check(
        and("  ? [a, b]\n  : c\n"),
        expect![[r#"
        error: a key must be plain text
          --> cluster.yaml:14:5
           |
        14 |   ? [a, b]
           |     ^
           |
           = help: write the key without brackets or braces
    "#]],
    );
}

#[test]
fn a_tab() {
    check(
        with("    size: 40GB", "\tsize: 40GB"),
        expect![[r#"
        error: this is not YAML
          --> cluster.yaml:13:1
           |
        13 |  size: 40GB
           | ^ a tab is not indentation
           |
           = help: indent with spaces
    "#]],
    );
}

/// The parser reads on over it and complains about the text that it seems to continue.
#[test]
fn a_tab_below_text() {
    check(
        with("  postgres:", "\tpostgres:"),
        expect![[r#"
        error: this is not YAML
         --> cluster.yaml:7:1
          |
        7 |  postgres:
          | ^ a tab is not indentation
          |
          = help: indent with spaces
    "#]],
    );
}

#[test]
fn a_second_colon() {
    check(
        with("organization: acme", "organization: acme: inc"),
        expect![[r#"
        error: this is not YAML
         --> cluster.yaml:6:21
          |
        6 |   organization: acme: inc
          |                     ^ a second `:` on one line
          |
          = help: put text that contains `: ` in quotes, or begin a new line
    "#]],
    );
}

#[test]
fn a_missing_colon() {
    check(
        with("organization: acme", "organization acme"),
        expect![[r#"
        error: this is not YAML
         --> cluster.yaml:7:3
          |
        7 |   postgres:
          |   ^^^^^^^^ a key cannot stand here
          |
          = help: fields of one mapping start in the same column, and each has a `:` after its name
    "#]],
    );
}

#[test]
fn a_bracket_that_stays_open() {
    check(
        with("nodes: 3 }", "nodes: 3"),
        expect![[r#"
        error: this is not YAML
          --> cluster.yaml:11:10
           |
        11 |   machine: { cpuKind: shared, cpus: 2, memory: 4GB }
           |          ^ expected `,` or `}`
           |
          ::: cluster.yaml:10:14
           |
        10 |     primary: { code: ord, nodes: 3
           |              - opened here
    "#]],
    );
}

#[test]
fn a_quote_that_stays_open() {
    check(
        with("organization: acme", "organization: \"acme"),
        expect![[r#"
        error: this is not YAML
         --> cluster.yaml:6:17
          |
        6 |   organization: "acme
          |                 ^ this text has no closing quote
          |
          = help: close it on the same line
    "#]],
    );
}

#[test]
fn a_key_out_of_line() {
    check(
        with("  postgres:", "   postgres:"),
        expect![[r#"
        error: this is not YAML
         --> cluster.yaml:7:4
          |
        7 |    postgres:
          |    ^^^^^^^^ a key cannot stand here
          |
          = help: fields of one mapping start in the same column, and each has a `:` after its name
    "#]],
    );
}

#[test]
fn a_number_with_a_leading_zero() {
    check(
        with("nodes: 3", "nodes: 03"),
        expect![[r#"
        error: `spec.regions.primary.nodes` is not a whole number
          --> cluster.yaml:10:34
           |
        10 |     primary: { code: ord, nodes: 03 }
           |                                  ^^ expected a whole number from 1 to 7
           |
           = help: a leading zero means octal to some YAML readers and text to others
    "#]],
    );
}

#[test]
fn a_number_that_is_not_decimal() {
    check(
        with("nodes: 3", "nodes: 0x3"),
        expect![[r#"
        error: `spec.regions.primary.nodes` is not a whole number
          --> cluster.yaml:10:34
           |
        10 |     primary: { code: ord, nodes: 0x3 }
           |                                  ^^^ expected a whole number from 1 to 7
           |
           = help: YAML readers disagree on numbers that are not decimal
    "#]],
    );
}

#[test]
fn yes() {
    check(
        and("  access: { flycast: yes }\n"),
        expect![[r#"
        error: `spec.access.flycast` is not a boolean
          --> cluster.yaml:14:22
           |
        14 |   access: { flycast: yes }
           |                      ^^^ expected `true` or `false`
           |
           = help: `yes` is text in YAML 1.2; write `true`
    "#]],
    );
}

#[test]
fn a_boolean_in_quotes() {
    check(
        and("  access: { flycast: \"true\" }\n"),
        expect![[r#"
        error: `spec.access.flycast` is not a boolean
          --> cluster.yaml:14:22
           |
        14 |   access: { flycast: "true" }
           |                      ^^^^^^^ expected `true` or `false`
           |
           = help: remove the quotes: `true`
    "#]],
    );
}

#[test]
fn a_name_that_is_a_number() {
    check(
        with("organization: acme", "organization: 007"),
        expect![[r#"
        error: `spec.organization` is not text
         --> cluster.yaml:6:17
          |
        6 |   organization: 007
          |                 ^^^ a leading zero means octal to some YAML readers and text to others
          |
          = help: put it in quotes: `"007"`
    "#]],
    );
}

#[test]
fn an_organization_that_is_a_boolean() {
    check(
        with("organization: acme", "organization: true"),
        expect![[r#"
        error: `spec.organization` is not text
         --> cluster.yaml:6:17
          |
        6 |   organization: true
          |                 ^^^^ this is a boolean, not text
          |
          = help: put it in quotes: `"true"`
    "#]],
    );
}

#[test]
fn a_version_in_quotes() {
    check(
        with("version: 15", "version: \"15\""),
        expect![[r#"
        error: `spec.postgres.version` is not a whole number
         --> cluster.yaml:8:14
          |
        8 |     version: "15"
          |              ^^^^ expected a whole number from 15 to 18
          |
          = help: remove the quotes: `15`
    "#]],
    );
}

#[test]
fn a_version_with_a_minor() {
    check(
        with("version: 15", "version: 15.4"),
        expect![[r#"
        error: `spec.postgres.version` is not a whole number
         --> cluster.yaml:8:14
          |
        8 |     version: 15.4
          |              ^^^^ expected a whole number from 15 to 18
    "#]],
    );
}
