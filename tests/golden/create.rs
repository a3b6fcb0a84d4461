//! From an empty Fly, and growth.

use expect_test::expect;

use crate::scenario::{Edit, Scenario, check, example};
use flypg_core::observed::{App, Seen, Unknown};

#[test]
fn development() {
    check(
        Scenario::new(example("development")),
        expect![[r#"
            notes-dev: ord-1 will make the cluster's data

              now
                + app notes-dev in organization personal  (there is none)
                + secret FLYPG_CLUSTER_KEY with the cluster's key  (there is none)
                + private address notes-dev.flycast  (there is none)
                + volume pg_ord_1, 1 GB in ord, daily snapshots kept 7 days  (the file wants 1 here, there are 0)

              then
                + machine ord-1, shared-1x 1024 MB with flypg/postgres:15  (the file wants 1 here, there are 0)

              then
                ~ record: ord-1 makes the cluster's data, in epoch 1  (there is no data anywhere)
                ~ ord-1 makes the cluster's data  (initdb)

              then
                ~ record: ord-1 leads, in epoch 1; commits are acknowledged by the primary alone  (the data are made)
                ~ machine ord-1: flypg_role=primary  (as on record)
                ~ ord-1: addresses and roles of the others  (so that they route and keep WAL)

            5 to create, 5 to change, 0 to destroy
            one node: when it is lost, the cluster waits until it is back

            plan again: quiet
        "#]],
    );
}

#[test]
fn two_node() {
    check(
        Scenario::new(example("two-node")),
        expect![[r#"
            billing-db: ord-1 will make the cluster's data

              now
                + app billing-db in organization personal  (there is none)
                + secret FLYPG_CLUSTER_KEY with the cluster's key  (there is none)
                + private address billing-db.flycast  (there is none)
                + volume pg_ord_1, 40 GB in ord, daily snapshots kept 7 days  (the file wants 2 here, there are 0)
                + volume pg_ord_2, 40 GB in ord, daily snapshots kept 7 days  (the file wants 2 here, there are 0)

              then
                + machine ord-1, shared-2x 4096 MB with flypg/postgres:15  (the file wants 2 here, there are 0)
                + machine ord-2, shared-2x 4096 MB with flypg/postgres:15  (the file wants 2 here, there are 0)

              then
                ~ record: ord-1 makes the cluster's data, in epoch 1  (there is no data anywhere)
                ~ ord-1 makes the cluster's data  (initdb)

              then
                ~ record: ord-1 leads, in epoch 1; commits are acknowledged by the primary alone  (the data are made)
                ~ ord-2 follows ord-1  (after a clone, where its volume is blank)
                ~ machine ord-1: flypg_role=primary  (as on record)
                ~ ord-1: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ record: ord-1 leads, in epoch 1, and is to acknowledge commits by the primary with ord-2  (as `durability` asks, with the standbys there are)
                ~ ord-1, ord-2: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ record: ord-1 leads, in epoch 1; commits are acknowledged by the primary with ord-2  (it is in effect, and covers everything before it)
                ~ ord-1, ord-2: addresses and roles of the others  (so that they route and keep WAL)

            7 to create, 12 to change, 0 to destroy
            a commit is acknowledged once 1 of 1 standbys has it; no acknowledged commit is lost by the loss of any one node; writes go on while one node is left

            plan again: quiet
        "#]],
    );
}

#[test]
fn ha() {
    check(
        Scenario::new(example("ha")),
        expect![[r#"
            orders-db: ord-1 will make the cluster's data

              now
                + app orders-db in organization personal  (there is none)
                + secret FLYPG_CLUSTER_KEY with the cluster's key  (there is none)
                + private address orders-db.flycast  (there is none)
                + volume pg_ord_1, 40 GB in ord, daily snapshots kept 7 days  (the file wants 3 here, there are 0)
                + volume pg_ord_2, 40 GB in ord, daily snapshots kept 7 days  (the file wants 3 here, there are 0)
                + volume pg_ord_3, 40 GB in ord, daily snapshots kept 7 days  (the file wants 3 here, there are 0)
                + volume pg_ams_1, 40 GB in ams, daily snapshots kept 7 days  (the file wants 1 here, there are 0)

              then
                + machine ams-1, shared-2x 4096 MB with flypg/postgres:15  (the file wants 1 here, there are 0)
                + machine ord-1, shared-2x 4096 MB with flypg/postgres:15  (the file wants 3 here, there are 0)
                + machine ord-2, shared-2x 4096 MB with flypg/postgres:15  (the file wants 3 here, there are 0)
                + machine ord-3, shared-2x 4096 MB with flypg/postgres:15  (the file wants 3 here, there are 0)

              then
                ~ record: ord-1 makes the cluster's data, in epoch 1  (there is no data anywhere)
                ~ ord-1 makes the cluster's data  (initdb)

              then
                ~ record: ord-1 leads, in epoch 1; commits are acknowledged by the primary alone  (the data are made)
                ~ ams-1 follows ord-1  (after a clone, where its volume is blank)
                ~ ord-2 follows ord-1  (after a clone, where its volume is blank)
                ~ ord-3 follows ord-1  (after a clone, where its volume is blank)
                ~ machine ord-1: flypg_role=primary  (as on record)
                ~ ord-1: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ record: ord-1 leads, in epoch 1, and is to acknowledge commits by the primary with any 1 of ord-2, ord-3  (as `durability` asks, with the standbys there are)
                ~ ams-1, ord-1, ord-2, ord-3: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ record: ord-1 leads, in epoch 1; commits are acknowledged by the primary with any 1 of ord-2, ord-3  (it is in effect, and covers everything before it)
                ~ ams-1, ord-1, ord-2, ord-3: addresses and roles of the others  (so that they route and keep WAL)

            11 to create, 18 to change, 0 to destroy
            a commit is acknowledged once 1 of 2 standbys have it; no acknowledged commit is lost by the loss of any one node; writes go on while 1 standby is away

            plan again: quiet
        "#]],
    );
}

#[test]
fn multi_region() {
    check(
        Scenario::new(example("multi-region")),
        expect![[r#"
            catalog-db: iad-1 will make the cluster's data

              now
                + app catalog-db in organization personal  (there is none)
                + secret FLYPG_CLUSTER_KEY with the cluster's key  (there is none)
                + private address catalog-db.flycast  (there is none)
                + volume pg_iad_1, 100 GB in iad, daily snapshots kept 14 days  (the file wants 3 here, there are 0)
                + volume pg_iad_2, 100 GB in iad, daily snapshots kept 14 days  (the file wants 3 here, there are 0)
                + volume pg_iad_3, 100 GB in iad, daily snapshots kept 14 days  (the file wants 3 here, there are 0)
                + volume pg_fra_1, 100 GB in fra, daily snapshots kept 14 days  (the file wants 2 here, there are 0)
                + volume pg_fra_2, 100 GB in fra, daily snapshots kept 14 days  (the file wants 2 here, there are 0)
                + volume pg_nrt_1, 100 GB in nrt, daily snapshots kept 14 days  (the file wants 1 here, there are 0)
                + volume pg_syd_1, 100 GB in syd, daily snapshots kept 14 days  (the file wants 1 here, there are 0)

              then
                + machine fra-1, performance-2x 8192 MB with flypg/postgres:15  (the file wants 2 here, there are 0)
                + machine fra-2, performance-2x 8192 MB with flypg/postgres:15  (the file wants 2 here, there are 0)
                + machine iad-1, performance-2x 8192 MB with flypg/postgres:15  (the file wants 3 here, there are 0)
                + machine iad-2, performance-2x 8192 MB with flypg/postgres:15  (the file wants 3 here, there are 0)
                + machine iad-3, performance-2x 8192 MB with flypg/postgres:15  (the file wants 3 here, there are 0)
                + machine nrt-1, performance-2x 8192 MB with flypg/postgres:15  (the file wants 1 here, there are 0)
                + machine syd-1, performance-2x 8192 MB with flypg/postgres:15  (the file wants 1 here, there are 0)

              then
                ~ record: iad-1 makes the cluster's data, in epoch 1  (there is no data anywhere)
                ~ iad-1 makes the cluster's data  (initdb)

              then
                ~ record: iad-1 leads, in epoch 1; commits are acknowledged by the primary alone  (the data are made)
                ~ fra-1 follows iad-1  (after a clone, where its volume is blank)
                ~ fra-2 follows iad-1  (after a clone, where its volume is blank)
                ~ iad-2 follows iad-1  (after a clone, where its volume is blank)
                ~ iad-3 follows iad-1  (after a clone, where its volume is blank)
                ~ nrt-1 follows iad-1  (after a clone, where its volume is blank)
                ~ syd-1 follows iad-1  (after a clone, where its volume is blank)
                ~ machine iad-1: flypg_role=primary  (as on record)
                ~ iad-1: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ record: iad-1 leads, in epoch 1, and is to acknowledge commits by the primary with any 1 of iad-2, iad-3  (as `durability` asks, with the standbys there are)
                ~ fra-1, fra-2, iad-1, iad-2, iad-3, nrt-1, syd-1: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ record: iad-1 leads, in epoch 1; commits are acknowledged by the primary with any 1 of iad-2, iad-3  (it is in effect, and covers everything before it)
                ~ fra-1, fra-2, iad-1, iad-2, iad-3, nrt-1, syd-1: addresses and roles of the others  (so that they route and keep WAL)

            17 to create, 27 to change, 0 to destroy
            a commit is acknowledged once 1 of 2 standbys have it; no acknowledged commit is lost by the loss of any one node; writes go on while 1 standby is away

            plan again: quiet
        "#]],
    );
}

#[test]
fn what_is_as_the_file_says_is_left_alone() {
    for name in ["development", "two-node", "ha", "multi-region"] {
        let turns = Scenario::running(name).turns();
        assert!(turns.len() == 1 && turns[0].is_quiet(), "{name}: {turns:#?}");
    }
}

#[test]
fn from_one_node_to_three_by_changing_a_number() {
    let grown = Scenario::running("development").edit(|spec| spec.primary.nodes = 3);
    check(
        grown,
        expect![[r#"
            notes-dev: ord-1 leads in epoch 1

              now
                + volume pg_ord_2, 1 GB in ord, daily snapshots kept 7 days  (the file wants 3 here, there are 1)
                + volume pg_ord_3, 1 GB in ord, daily snapshots kept 7 days  (the file wants 3 here, there are 1)

              then
                + machine ord-2, shared-1x 1024 MB with flypg/postgres:15  (the file wants 3 here, there are 1)
                + machine ord-3, shared-1x 1024 MB with flypg/postgres:15  (the file wants 3 here, there are 1)

              then
                ~ ord-1: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ ord-2 follows ord-1  (after a clone, where its volume is blank)
                ~ ord-3 follows ord-1  (after a clone, where its volume is blank)

              then
                ~ record: whole copies are ord-1, ord-2, ord-3  (they have everything the primary has, or do not any more)
                ~ ord-1, ord-2, ord-3: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ record: whole copies are ord-1, ord-2, ord-3  (they have everything the primary has, or do not any more)
                ~ ord-1, ord-2, ord-3: addresses and roles of the others  (so that they route and keep WAL)

            4 to create, 11 to change, 0 to destroy
            async: a lost primary is replaced while a standby is left; up to 16 MB of what it acknowledged may be lost

            plan again: quiet
        "#]],
    );
}

#[test]
fn a_replica_region_is_added() {
    let syd = flypg_core::spec::RegionSpec { code: "syd".parse().unwrap(), nodes: 1 };
    check(
        Scenario::running("two-node").edit(|spec| spec.replicas.push(syd)),
        expect![[r#"
            billing-db: ord-1 leads in epoch 1

              now
                + volume pg_syd_1, 40 GB in syd, daily snapshots kept 7 days  (the file wants 1 here, there are 0)

              then
                + machine syd-1, shared-2x 4096 MB with flypg/postgres:15  (the file wants 1 here, there are 0)

              then
                ~ ord-1, ord-2: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ syd-1 follows ord-1  (after a clone, where its volume is blank)

              then
                ~ record: whole copies are ord-1, ord-2, syd-1  (they have everything the primary has, or do not any more)
                ~ ord-1, ord-2, syd-1: addresses and roles of the others  (so that they route and keep WAL)

            2 to create, 7 to change, 0 to destroy
            a commit is acknowledged once 1 of 1 standbys has it; no acknowledged commit is lost by the loss of any one node; writes go on while one node is left

            plan again: quiet
        "#]],
    );
}

#[test]
fn a_volume_whose_machine_was_never_made_is_used() {
    // The controller died between the two calls.
    let scenario = Scenario::running("development")
        .edit(|spec| spec.primary.nodes = 2)
        .happens(|world| world.add_volume("vol_made_before", "pg_ord_2", "ord"));
    check(
        scenario,
        expect![[r#"
            notes-dev: ord-1 leads in epoch 1

              now
                + machine ord-2, shared-1x 1024 MB with flypg/postgres:15  (the file wants 2 here, there are 1)

              then
                ~ volume pg_ord_2: daily snapshots kept 7 days  (the file says so)
                ~ ord-1: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ ord-2 follows ord-1  (after a clone, where its volume is blank)

              then
                ~ record: whole copies are ord-1, ord-2  (they have everything the primary has, or do not any more)
                ~ ord-1, ord-2: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ record: whole copies are ord-1, ord-2  (they have everything the primary has, or do not any more)
                ~ ord-1, ord-2: addresses and roles of the others  (so that they route and keep WAL)

            1 to create, 9 to change, 0 to destroy
            async: a lost primary is replaced while a standby is left; up to 16 MB of what it acknowledged may be lost

            plan again: quiet
        "#]],
    );
}

#[test]
fn a_name_that_is_taken_is_left_to_whoever_has_it() {
    let scenario = Scenario::running("development")
        .edit(|spec| spec.primary.nodes = 2)
        .happens(|world| world.add_foreign_machine("e784", "ord-2", "ord"));
    check(
        scenario,
        expect![[r#"
            notes-dev: ord-1 leads in epoch 1

              now
                + volume pg_ord_3, 1 GB in ord, daily snapshots kept 7 days  (the file wants 2 here, there are 1)

              then
                + machine ord-3, shared-1x 1024 MB with flypg/postgres:15  (the file wants 2 here, there are 1)

              then
                ~ ord-1: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ ord-3 follows ord-1  (after a clone, where its volume is blank)

              then
                ~ record: whole copies are ord-1, ord-3  (they have everything the primary has, or do not any more)
                ~ ord-1, ord-3: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ record: whole copies are ord-1, ord-3  (they have everything the primary has, or do not any more)
                ~ ord-1, ord-3: addresses and roles of the others  (so that they route and keep WAL)

            2 to create, 8 to change, 0 to destroy
            async: a lost primary is replaced while a standby is left; up to 16 MB of what it acknowledged may be lost

            plan again: quiet
        "#]],
    );
}

#[test]
fn an_app_with_other_peoples_machines_is_not_touched() {
    let scenario = Scenario::new(example("ha")).happens(|world| {
        let now = crate::scenario::NOW;
        world.app = Seen::at(now, Some(App { organization: None }));
        world.machines = Seen::at(now, Vec::new());
        world.volumes = Seen::at(now, Vec::new());
        world.secrets = Seen::at(now, Default::default());
        world.addresses = Seen::at(now, Vec::new());
        world.add_foreign_machine("e784", "web", "ord");
    });
    check(
        scenario,
        expect![[r#"
            orders-db: unknown

              held
                ! everything: until app orders-db is free: machines run in it that are not flypg's; choose another name

            plan again: held
        "#]],
    );
}

#[test]
fn an_app_whose_secrets_cannot_be_read_is_not_taken_for_ours() {
    let scenario = Scenario::new(example("development")).happens(|world| {
        let now = crate::scenario::NOW;
        world.app = Seen::at(now, Some(App { organization: None }));
        world.machines = Seen::at(now, Vec::new());
        world.volumes = Seen::at(now, Vec::new());
        world.addresses = Seen::at(now, Vec::new());
        world.secrets = Seen::Unknown { why: Unknown::NoAnswer { error: "500".to_owned() } };
        world.add_foreign_machine("e784", "web", "ord");
    });
    let now = scenario.turns().remove(0);
    assert!(now.steps.is_empty(), "{now:#?}");
}

#[test]
fn what_cannot_be_read_is_not_taken_for_absent() {
    let scenario = Scenario::running("two-node").edit(|spec| spec.primary.nodes = 3).happens(|world| {
        world.machines = Seen::Unknown { why: Unknown::NoAnswer { error: "502 Bad Gateway".to_owned() } };
    });
    check(
        scenario,
        expect![[r#"
            billing-db: unknown

              held
                ! everything: until the app's machines can be read (502 Bad Gateway)

            plan again: held
        "#]],
    );
}

#[test]
fn a_token_that_may_not_look_is_told_so() {
    let scenario = Scenario::new(example("development")).happens(|world| {
        world.app = Seen::Unknown { why: Unknown::Forbidden { error: "403 unauthorized".to_owned() } };
    });
    check(
        scenario,
        expect![[r#"
            notes-dev: unknown

              held
                ! everything: until the token may read the app (403 unauthorized)

            plan again: held
        "#]],
    );
}
