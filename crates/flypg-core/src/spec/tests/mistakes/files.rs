//! Files as a whole: encodings, several documents, several files, how it is shown.

use expect_test::expect;

use super::check;
use crate::spec::tests::{GOOD, and, diagnostics, with};
use crate::spec::{Style, check_all};

#[test]
fn nothing_is_wrong_with_the_good_file() {
    check(GOOD, expect![[""]]);
}

#[test]
fn files_in_other_encodings() {
    let utf16: Vec<u8> = GOOD.encode_utf16().flat_map(u16::to_le_bytes).collect();
    check(
        &utf16,
        expect![[r#"
        error: this file is UTF-16, not UTF-8
        --> cluster.yaml
         = help: save it as UTF-8; for example `iconv -f UTF-16 -t UTF-8 old.yaml > new.yaml`
    "#]],
    );
    check(
        [b"\xff\xfe".as_slice(), &utf16].concat(),
        expect![[r#"
        error: this file is UTF-16, not UTF-8
        --> cluster.yaml
         = help: save it as UTF-8; for example `iconv -f UTF-16 -t UTF-8 old.yaml > new.yaml`
    "#]],
    );
    let latin1 = with("acme", "acme # Z?rich").replace('?', "\u{1}").into_bytes();
    check(
        latin1.iter().map(|b| if *b == 1 { 0xfc } else { *b }).collect::<Vec<_>>(),
        expect![[r#"
        error: this file is not UTF-8
         --> cluster.yaml:6:25
          |
        6 |   organization: acme # Z�rich
          |                         ^ byte 0xfc does not belong here
          |
          = help: save it as UTF-8
    "#]],
    );
}

#[test]
fn a_file_that_is_too_large() {
    check(
        " ".repeat(300_000),
        expect![[r#"
        error: this file is too large: at most 262144 bytes are read
        --> cluster.yaml
         = help: a cluster takes about one kilobyte; split the clusters over several files
    "#]],
    );
}

#[test]
fn a_file_with_more_mistakes_than_anyone_reads() {
    let text = and(&(0..99).map(|n| format!("  field{n}: 1\n")).collect::<String>());
    let shown = diagnostics(text.as_bytes()).render(Style::Plain);
    expect![[r#"
        error: 49 more errors in this file are not shown
        --> cluster.yaml
    "#]]
    .assert_eq(shown.rsplit("\n\n").next().unwrap());
    assert_eq!(shown.matches("error: unknown field").count(), 50);
}

#[test]
fn every_mistake_of_a_file_is_told_at_once() {
    let text = "\
apiVersion: flypg/v1
kind: PostgresCluster
metadata: { name: orders-db }
spec:
  organisation: acme
  postgres: { version: 19, parameters: { port: 1 } }
  regions:
    primary: { code: ord, nodes: 1 }
    replicas: [{ code: ord }, { code: amsterdam }]
  machine: { cpus: 5, memory: 4GB }
  storage: { size: 900GB }
  durability: quorum
";
    check(
        text,
        expect![[r#"
        error: unknown field `organisation` in `spec`
         --> cluster.yaml:5:3
          |
        5 |   organisation: acme
          |   ^^^^^^^^^^^^ not a field
          |
          = help: did you mean `organization`?

        error: `spec.postgres.version` cannot be 19
         --> cluster.yaml:6:24
          |
        6 |   postgres: { version: 19, parameters: { port: 1 } }
          |                        ^^ expected a whole number from 15 to 18

        error: the parameter `port` is not yours to set
         --> cluster.yaml:6:42
          |
        6 |   postgres: { version: 19, parameters: { port: 1 } }
          |                                          ^^^^ flypg's gate is the only door to Postgres
          |
          = help: remove it

        error: `ord` is the primary region and a replica region
         --> cluster.yaml:9:24
          |
        9 |     replicas: [{ code: ord }, { code: amsterdam }]
          |                        ^^^ not here too
          |
         ::: cluster.yaml:8:22
          |
        8 |     primary: { code: ord, nodes: 1 }
          |                      --- the primary region
          |
          = help: nodes in the primary region are replicas of the primary already; raise `primary.nodes`

        error: `amsterdam` is not a Fly region
         --> cluster.yaml:9:39
          |
        9 |     replicas: [{ code: ord }, { code: amsterdam }]
          |                                       ^^^^^^^^^ expected a Fly region for `spec.regions.replicas[1].code`
          |
          = help: did you mean `ams` (Amsterdam)?
          = help: there are ams arn bom cdg dfw ewr fra gru iad jnb lax lhr nrt ord sin sjc syd yyz

        error: a Machine cannot have 5 shared CPUs
          --> cluster.yaml:10:20
           |
        10 |   machine: { cpus: 5, memory: 4GB }
           |                    ^ expected one of 1, 2, 4, 6, 8

        error: 900GB is more than a volume can have
          --> cluster.yaml:11:20
           |
        11 |   storage: { size: 900GB }
           |                    ^^^^^ expected 1GB to 500GB

        error: `durability: quorum` needs a second node in the primary region
          --> cluster.yaml:12:15
           |
        12 |   durability: quorum
           |               ^^^^^^ with one node no standby can confirm a commit: every write would wait for ever
           |
           = help: set `regions.primary.nodes` to 3
           = help: or `durability: async`
    "#]],
    );
}

#[test]
fn a_file_without_a_cluster() {
    check(
        "# nothing here yet\n",
        expect![[r#"
        warning: this file holds no cluster
        --> cluster.yaml
    "#]],
    );
}

#[test]
fn a_list_instead_of_a_document() {
    check(
        "- a\n- b\n",
        expect![[r#"
        error: the document is a list
         --> cluster.yaml:1:1
          |
        1 | - a
          | ^^^ expected a mapping
          |
          = help: its fields are `apiVersion`, `kind`, `metadata` and `spec`
    "#]],
    );
}

#[test]
fn a_word_instead_of_a_document() {
    check(
        "hello\n",
        expect![[r#"
        error: the document is a single value
         --> cluster.yaml:1:1
          |
        1 | hello
          | ^^^^^ expected a mapping
          |
          = help: its fields are `apiVersion`, `kind`, `metadata` and `spec`
    "#]],
    );
}

#[test]
fn another_program_s_file() {
    check(
        "services:\n  db:\n    image: postgres\n",
        expect![[r#"
        error: this document is not a PostgresCluster
         --> cluster.yaml:1:1
          |
        1 | services:
          | ^^^^^^^^ of another program?
          |
          = help: a cluster begins with `apiVersion: flypg/v1` and `kind: PostgresCluster`
    "#]],
    );
}

#[test]
fn a_manifest_for_kubernetes() {
    check(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: { name: x }\nspec: { replicas: 3 }\n",
        expect![[r#"
        error: this document is not a PostgresCluster
         --> cluster.yaml:1:13
          |
        1 | apiVersion: apps/v1
          |             ^^^^^^^ of another program?
          |
          = help: a cluster begins with `apiVersion: flypg/v1` and `kind: PostgresCluster`
    "#]],
    );
}

#[test]
fn a_mistake_in_the_second_document() {
    check(
        format!("{GOOD}---\n{}", with("orders-db", "other-db").replace("40GB", "40")),
        expect![[r#"
        error: `40` is not a size in GB
          --> cluster.yaml:27:11
           |
        27 |     size: 40
           |           ^^ expected a size in GB, such as `40GB`
           |
           = help: did you mean `40GB`?
    "#]],
    );
}

#[test]
fn a_name_twice_in_one_file() {
    check(
        format!("{GOOD}---\n{GOOD}"),
        expect![[r#"
        error: two clusters are called `orders-db`
          --> cluster.yaml:18:9
           |
        18 |   name: orders-db
           |         ^^^^^^^^^ the second
           |
          ::: cluster.yaml:4:9
           |
         4 |   name: orders-db
           |         --------- the first
           |
           = help: a name is a cluster's identity and that of its Fly app: rename one, or remove it
    "#]],
    );
}

#[test]
fn names_in_several_files() {
    let other = with("orders-db", "other-db");
    let checked = check_all(&[("a.yaml", GOOD), ("b.yaml", other.as_str()), ("c.yaml", GOOD)]);
    expect![[r#"
        error: two clusters are called `orders-db`
         --> c.yaml:4:9
          |
        4 |   name: orders-db
          |         ^^^^^^^^^ the second
          |
         ::: a.yaml:4:9
          |
        4 |   name: orders-db
          |         --------- the first
          |
          = help: a name is a cluster's identity and that of its Fly app: rename one, or remove it
    "#]]
    .assert_eq(&checked.diagnostics.render(Style::Plain));
    let names: Vec<_> = checked.clusters.iter().map(|c| (c.place.file.as_str(), c.value.name.as_str())).collect();
    assert_eq!(names, [("b.yaml", "other-db")], "which of two is meant cannot be known, so neither is taken");
    assert_eq!(checked.refused.iter().collect::<Vec<_>>(), ["a.yaml", "c.yaml"]);
}

#[test]
fn a_bad_file_holds_nothing_of_another_back() {
    let bad = with("size: 40GB", "size: 40");
    let checked = check_all(&[("bad.yaml", bad.as_str()), ("good.yaml", GOOD)]);
    assert_eq!(checked.clusters.len(), 1);
    assert_eq!(checked.refused.iter().collect::<Vec<_>>(), ["bad.yaml"]);
}

#[test]
fn a_control_character() {
    check(
        with("organization: acme", "organization: \"ac\\e[31mme\""),
        expect![[r#"
        error: `ac␛[31mme` is not the slug of a Fly organization
         --> cluster.yaml:6:17
          |
        6 |   organization: "ac\e[31mme"
          |                 ^^^^^^^^^^^^ expected the slug of a Fly organization, such as `personal`
          |
          = help: `fly orgs list` shows the slugs of your organizations
    "#]],
    );
}

#[test]
fn a_raw_escape_character() {
    check(
        with("organization: acme", "organization: ac\u{1b}[31mme"),
        expect![[r#"
        error: `ac␛[31mme` is not the slug of a Fly organization
         --> cluster.yaml:6:17
          |
        6 |   organization: ac␛[31mme
          |                 ^^^^^^^^^ expected the slug of a Fly organization, such as `personal`
          |
          = help: `fly orgs list` shows the slugs of your organizations
    "#]],
    );
}

#[test]
fn text_that_runs_backwards() {
    check(
        with("organization: acme", "organization: ac\u{202e}me"),
        expect![[r#"
        error: `ac�me` is not the slug of a Fly organization
         --> cluster.yaml:6:17
          |
        6 |   organization: ac�me
          |                 ^^^^^ expected the slug of a Fly organization, such as `personal`
          |
          = help: `fly orgs list` shows the slugs of your organizations
    "#]],
    );
}

#[test]
fn a_long_line() {
    check(
        with("organization: acme", &format!("organization: {}", "acme ".repeat(200))),
        expect![[r#"
        error: `acme acme acme acme acme acme acme acme acme acme acme acme …` is not the slug of a Fly organization
         --> cluster.yaml:6:17
          |
        6 | ...n: acme acme acme acme acme acme acme acme acme ... acme acme acme acme acme acme acme acme acme 
          |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^...^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ expected the slug of a Fly organization, such as `personal`
          |
          = help: `fly orgs list` shows the slugs of your organizations
    "#]],
    );
}

#[test]
fn a_mistake_far_to_the_right() {
    let far = " ".repeat(300);
    check(
        with("nodes: 3 }", &format!("nodes: 3,{far}note: 3 }}")),
        expect![[r#"
        error: unknown field `note` in `spec.regions.primary`
          --> cluster.yaml:10:336
           |
        10 | ...                                                        note: 3 }
           |                                                            ^^^^ not a field
           |
           = help: the fields here are `code` and `nodes`
    "#]],
    );
}

#[test]
fn programs_get_the_same_as_json() {
    let found = diagnostics(with("storage:", "storgae:").as_bytes());
    expect![[r#"
        [
          {
            "level": "error",
            "code": "unknown-field",
            "message": "unknown field `storgae` in `spec`",
            "file": "cluster.yaml",
            "place": {
              "file": "cluster.yaml",
              "line": 12,
              "column": 3,
              "length": 7,
              "label": "not a field",
              "source": "  storgae:"
            },
            "help": [
              "did you mean `storage`?"
            ]
          }
        ]"#]]
    .assert_eq(&serde_json::to_string_pretty(&found).unwrap());
}

#[test]
fn colours_only_where_they_are_asked_for() {
    let found = diagnostics(with("storage:", "storgae:").as_bytes());
    assert!(!found.render(Style::Plain).contains('\u{1b}'));
    assert!(found.render(Style::Coloured).contains("\u{1b}["));
}
