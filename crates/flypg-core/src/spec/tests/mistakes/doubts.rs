//! Warnings: good files that may not do what their author thinks.

use expect_test::expect;

use super::check;
use crate::spec::tests::{and, with};

#[test]
fn one_node_alone() {
    check(
        with("nodes: 3", "nodes: 1"),
        expect![[r#"
        warning: one node in the primary region: nothing to fail over to
          --> cluster.yaml:10:34
           |
        10 |     primary: { code: ord, nodes: 1 }
           |                                  ^ if this node is lost, the database is down until it is restored
           |
           = help: with 3 nodes a lost one costs seconds, and no commit
    "#]],
    );
}

#[test]
fn two_nodes_that_wait_for_each_other() {
    check(
        with("nodes: 3 }", "nodes: 2 }\n  durability: quorum"),
        expect![[r#"
        warning: with two nodes and `durability: quorum`, writes wait whenever either of them is away
          --> cluster.yaml:11:15
           |
        11 |   durability: quorum
           |               ^^^^^^ even a restart of the standby stops writes
           |
           = help: `quorum-available` goes on with one, after recording that only that one may lead
           = help: or set `regions.primary.nodes` to 3
    "#]],
    );
}

#[test]
fn settings_without_effect() {
    check(
        and("  failover: { maxLag: 32MB }\n"),
        expect![[r#"
        warning: `maxLag` has no effect here: only `durability: async` can lose commits
          --> cluster.yaml:14:23
           |
        14 |   failover: { maxLag: 32MB }
           |                       ^^^^ not used
           |
           = help: remove it
    "#]],
    );
}

#[test]
fn a_read_fence_without_effect() {
    check(
        and("  durability: async\n  failover: { readFence: off }\n"),
        expect![[r#"
        warning: `readFence: off` has no effect with `durability: async`
          --> cluster.yaml:15:26
           |
        15 |   failover: { readFence: off }
           |                          ^^^ without synchronous standbys a failover always waits for the old primary's lease
           |
           = help: remove it
    "#]],
    );
}

#[test]
fn growth_that_never_happens() {
    check(
        and("    grow: { max: 40GB }\n"),
        expect![[r#"
        warning: volumes never grow: they have their 40GB from the start
          --> cluster.yaml:14:18
           |
        14 |     grow: { max: 40GB }
           |                  ^^^^ expected more than `storage.size`
    "#]],
    );
}
