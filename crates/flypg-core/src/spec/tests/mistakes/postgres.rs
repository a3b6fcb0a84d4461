//! What is wrong with PostgreSQL's version, image and parameters.

use expect_test::expect;

use super::check;
use crate::spec::tests::with;

#[test]
fn an_old_version() {
    check(
        with("version: 15", "version: 14"),
        expect![[r#"
        error: `spec.postgres.version` cannot be 14
         --> cluster.yaml:8:14
          |
        8 |     version: 14
          |              ^^ expected a whole number from 15 to 18
    "#]],
    );
}

#[test]
fn an_image_that_is_none() {
    check(
        with("version: 15", "version: 15\n    image: My/Image:Tag!"),
        expect![[r#"
        error: `My/Image:Tag!` is not an image
         --> cluster.yaml:9:12
          |
        9 |     image: My/Image:Tag!
          |            ^^^^^^^^^^^^^ expected an image, such as `registry.fly.io/acme-postgres:15`
          |
          = help: an image is written `registry/name:tag`, in lower case, and may end in `@sha256:` and a digest
    "#]],
    );
}

#[test]
fn an_image_of_another_major() {
    check(
        with("version: 15", "version: 15\n    image: registry.fly.io/flypg/postgres:16.2"),
        expect![[r#"
        error: the image is PostgreSQL 16, and `version` is 15
         --> cluster.yaml:9:12
          |
        9 |     image: registry.fly.io/flypg/postgres:16.2
          |            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ expected `registry.fly.io/flypg/postgres:15`
          |
          = help: a major version changes the format of the data: both have to say the same
    "#]],
    );
}

#[test]
fn parameters_that_are_ours() {
    check(
        with(
            "version: 15",
            "version: 15\n    parameters:\n      port: 5433\n      Wal_Level: logical\n      synchronous_commit: off",
        ),
        expect![[r#"
            error: the parameter `port` is not yours to set
              --> cluster.yaml:10:7
               |
            10 |       port: 5433
               |       ^^^^ flypg's gate is the only door to Postgres
               |
               = help: remove it

            error: the parameter `wal_level` is not yours to set
              --> cluster.yaml:11:7
               |
            11 |       Wal_Level: logical
               |       ^^^^^^^^^ flypg keeps the replication of the cluster
               |
               = help: remove it

            error: the parameter `synchronous_commit` is not yours to set
              --> cluster.yaml:12:7
               |
            12 |       synchronous_commit: off
               |       ^^^^^^^^^^^^^^^^^^ `durability` decides when a commit is acknowledged
               |
               = help: remove it
        "#]],
    );
}

#[test]
fn parameters_with_bad_names() {
    check(
        with("version: 15", "version: 15\n    parameters:\n      work-mem: 4MB\n      2nd: 1\n      \"x y\": 1"),
        expect![[r#"
            error: `work-mem` is not the name of a parameter
              --> cluster.yaml:10:7
               |
            10 |       work-mem: 4MB
               |       ^^^^^^^^ expected letters, digits and `_`, and one `.` after an extension's name

            error: `2nd` is not the name of a parameter
              --> cluster.yaml:11:7
               |
            11 |       2nd: 1
               |       ^^^ expected letters, digits and `_`, and one `.` after an extension's name

            error: `x y` is not the name of a parameter
              --> cluster.yaml:12:7
               |
            12 |       "x y": 1
               |       ^^^^^ expected letters, digits and `_`, and one `.` after an extension's name
        "#]],
    );
}

#[test]
fn a_parameter_twice() {
    check(
        with("version: 15", "version: 15\n    parameters:\n      work_mem: 4MB\n      Work_Mem: 8MB"),
        expect![[r#"
        error: the parameter `work_mem` stands here twice
          --> cluster.yaml:11:7
           |
        11 |       Work_Mem: 8MB
           |       ^^^^^^^^ the second
           |
          ::: cluster.yaml:10:7
           |
        10 |       work_mem: 4MB
           |       -------- the first
           |
           = help: PostgreSQL does not tell upper and lower case apart in a parameter's name
    "#]],
    );
}

#[test]
fn parameters_with_bad_values() {
    check(
        with(
            "version: 15",
            "version: 15\n    parameters:\n      work_mem: 16mb\n      shared_buffers: 1G\n      max_connections: many\n      search_path: \"a\\nb\"\n      statement_timeout:\n      effective_io_concurrency: 010\n      log_line_prefix: [1]\n      log_min_messages: Error",
        ),
        expect![[r#"
            error: `work_mem` cannot be `16mb`
              --> cluster.yaml:10:17
               |
            10 |       work_mem: 16mb
               |                 ^^^^ this is not a unit of PostgreSQL's
               |
               = help: did you mean `16MB`?
               = help: PostgreSQL tells upper and lower case apart in units: B, kB, MB, GB, TB, us, ms, s, min, h, d

            error: `shared_buffers` cannot be `1G`
              --> cluster.yaml:11:23
               |
            11 |       shared_buffers: 1G
               |                       ^^ this is not a unit of PostgreSQL's
               |
               = help: did you mean `1GB`?
               = help: PostgreSQL tells upper and lower case apart in units: B, kB, MB, GB, TB, us, ms, s, min, h, d

            error: `max_connections` cannot be `many`
              --> cluster.yaml:12:24
               |
            12 |       max_connections: many
               |                        ^^^^ expected a whole number from 1 to 262143

            error: `search_path` cannot be `a␊b`
              --> cluster.yaml:13:20
               |
            13 |       search_path: "a\nb"
               |                    ^^^^^^ expected one line without control characters

            error: `spec.postgres.parameters.statement_timeout` has no value
              --> cluster.yaml:14:7
               |
            14 |       statement_timeout:
               |       ^^^^^^^^^^^^^^^^^ expected a value

            error: `spec.postgres.parameters.effective_io_concurrency` is ambiguous
              --> cluster.yaml:15:33
               |
            15 |       effective_io_concurrency: 010
               |                                 ^^^ a leading zero means octal to some YAML readers and text to others
               |
               = help: put it in quotes if it is meant as it stands: `"010"`

            error: `spec.postgres.parameters.log_line_prefix` is a list
              --> cluster.yaml:16:24
               |
            16 |       log_line_prefix: [1]
               |                        ^^^ expected a value

            error: `log_min_messages` cannot be `Error`
              --> cluster.yaml:17:25
               |
            17 |       log_min_messages: Error
               |                         ^^^^^ flypg's gate goes by the warnings in Postgres' log: it has to be `warning` or more verbose
        "#]],
    );
}

#[test]
fn buffers_that_do_not_fit() {
    let parameters =
        |value: &str| with("version: 15", &format!("version: 15\n    parameters: {{ Shared_Buffers: {value} }}"));
    check(
        parameters("4GB"),
        expect![[r#"
        error: `shared_buffers` of `4GB` does not fit into a shared-2x 4096 MB
         --> cluster.yaml:9:35
          |
        9 |     parameters: { Shared_Buffers: 4GB }
          |                                   ^^^ expected less than 4096MB
          |
          = help: without it, it follows the memory of the machine
    "#]],
    );
    check(
        parameters("1024000"),
        expect![[r#"
        error: `shared_buffers` of `1024000` does not fit into a shared-2x 4096 MB
         --> cluster.yaml:9:35
          |
        9 |     parameters: { Shared_Buffers: 1024000 }
          |                                   ^^^^^^^ expected less than 4096MB
          |
          = help: without it, it follows the memory of the machine
    "#]],
    );
    check(parameters("3GB"), expect![[""]]);
}
