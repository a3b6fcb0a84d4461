//! Files: good, bad, absent.

use expect_test::expect;

use crate::{Shell, cluster};

#[test]
fn good_files() {
    let shell = Shell::new();
    shell.write("clusters/orders.yaml", &cluster("orders-db"));
    shell.write("clusters/team/users.yml", &cluster("users-db").replace("nodes: 1", "nodes: 2"));
    shell.write("clusters/notes.txt", "not a cluster");
    expect![[r#"
        $ flypg validate -f clusters
        orders-db is good: 1 node
        users-db is good: 2 nodes
    "#]]
    .assert_eq(&shell.transcript("validate -f clusters"));
    expect![[r#"
        $ flypg validate -f clusters -o json
        []
    "#]]
    .assert_eq(&shell.transcript("validate -f clusters -o json"));
}

#[test]
fn a_misspelt_key_is_shown_with_what_was_meant() {
    let shell = Shell::new();
    shell.write("orders.yaml", &cluster("orders-db").replace("regions", "regoins"));
    expect![[r#"
        $ flypg validate -f orders.yaml
        | error: unknown field `regoins` in `spec`
        |   --> orders.yaml:10:3
        |    |
        | 10 |   regoins:
        |    |   ^^^^^^^ not a field
        |    |
        |    = help: did you mean `regions`?
        |
        | error: 1 mistake; nothing was done
        exit 1
    "#]]
    .assert_eq(&shell.transcript("validate -f orders.yaml"));
    // Whatever is done with files begins with the same check, and goes no further.
    let shell = shell.with("FLY_API_TOKEN", "unused");
    expect![[r#"
        $ flypg reconcile -f orders.yaml
        | error: unknown field `regoins` in `spec`
        |   --> orders.yaml:10:3
        |    |
        | 10 |   regoins:
        |    |   ^^^^^^^ not a field
        |    |
        |    = help: did you mean `regions`?
        |
        | error: 1 mistake; nothing was done
        exit 1
    "#]]
    .assert_eq(&shell.transcript("reconcile -f orders.yaml"));
    assert!(!shell.dir.path().join(".local").exists(), "a bad file leaves no trace");
}

#[test]
fn the_same_cluster_twice() {
    let shell = Shell::new();
    shell.write("a.yaml", &cluster("orders-db"));
    shell.write("b.yaml", &cluster("orders-db"));
    expect![[r#"
        $ flypg validate -f a.yaml -f b.yaml
        | error: two clusters are called `orders-db`
        |  --> b.yaml:4:9
        |   |
        | 4 |   name: orders-db
        |   |         ^^^^^^^^^ the second
        |   |
        |  ::: a.yaml:4:9
        |   |
        | 4 |   name: orders-db
        |   |         --------- the first
        |   |
        |   = help: a name is a cluster's identity and that of its Fly app: rename one, or remove it
        |
        | error: 1 mistake; nothing was done
        exit 1
    "#]]
    .assert_eq(&shell.transcript("validate -f a.yaml -f b.yaml"));
}

#[test]
fn files_that_are_not_there() {
    let shell = Shell::new();
    std::fs::create_dir(shell.dir.path().join("empty")).unwrap();
    expect![[r#"
        $ flypg validate -f gone.yaml
        | error: gone.yaml does not exist
        |
        | hint: name a cluster file, or a directory of them, with -f
        exit 1
    "#]]
    .assert_eq(&shell.transcript("validate -f gone.yaml"));
    expect![[r#"
        $ flypg reconcile -f empty --dry-run
        | error: empty holds no *.yaml or *.yml file
        |
        | hint: name a cluster file, or a directory of them, with -f; if the clusters it held are to go, leave an empty .yaml file there
        exit 1
    "#]]
    .assert_eq(&shell.transcript("reconcile -f empty --dry-run"));
}

#[test]
fn what_is_no_file() {
    let shell = Shell::new();
    shell.write("clusters/orders.yaml", &cluster("orders-db"));
    std::os::unix::fs::symlink(shell.dir.path(), shell.dir.path().join("clusters/up")).unwrap();
    expect![[r#"
        $ flypg validate -f clusters
        | error: clusters/up is a link back to a directory that holds it
        |
        | hint: remove the link
        exit 1
    "#]]
    .assert_eq(&shell.transcript("validate -f clusters"));
    expect![[r#"
        $ flypg validate -f /dev/zero
        | error: /dev/zero is neither a file nor a directory
        |
        | hint: name a cluster file, or a directory of them, with -f
        exit 1
    "#]]
    .assert_eq(&shell.transcript("validate -f /dev/zero"));
    expect![[r#"
        $ flypg validate -f clusters/orders.yaml/x
        | error: clusters/orders.yaml/x cannot be read
        | caused by: Not a directory (os error 20)
        |
        | hint: check the path, and who may read it
        exit 1
    "#]]
    .assert_eq(&shell.transcript("validate -f clusters/orders.yaml/x"));
    shell.write("huge.yaml", &"a: ".repeat(1_000_000));
    expect![[r#"
        $ flypg validate -f huge.yaml
        | error: this file is too large: at most 262144 bytes are read
        | --> huge.yaml
        |  = help: a cluster takes about one kilobyte; split the clusters over several files
        |
        | error: 1 mistake; nothing was done
        exit 1
    "#]]
    .assert_eq(&shell.transcript("validate -f huge.yaml"));
}

#[test]
fn the_schema_is_the_one_that_is_installed() {
    let printed = String::from_utf8(Shell::new().output("schema").stdout).unwrap();
    let kept = include_str!("../../manifests/cluster.schema.json");
    assert_eq!(printed.trim(), kept.trim());
}
