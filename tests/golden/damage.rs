//! What happens to a cluster without anybody asking for it.

use expect_test::expect;
use flypg_core::decree::{Epoch, SystemId};
use flypg_core::observed::{Seen, Unknown};
use flypg_core::protocol::Phase;

use crate::scenario::{Edit, NOW, Scenario, check, check_holds};

#[test]
fn a_stopped_machine_is_started() {
    check(
        Scenario::running("ha").happens(|world| world.stop("ord-2")),
        expect![[r#"
            orders-db: ord-1 leads in epoch 1

              now
                ~ machine ord-2 is started  (it does not run)
                ~ ams-1, ord-1, ord-3: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ ord-2 follows ord-1  (after a clone, where its volume is blank)

              then
                ~ ams-1, ord-1, ord-2, ord-3: addresses and roles of the others  (so that they route and keep WAL)

            0 to create, 9 to change, 0 to destroy
            a commit is acknowledged once 1 of 2 standbys have it; no acknowledged commit is lost by the loss of any one node; writes go on while 1 standby is away

            plan again: quiet
        "#]],
    );
}

#[test]
fn a_destroyed_replica_comes_back_on_its_volume() {
    check(
        Scenario::running("ha").happens(|world| world.destroy_machine("ord-2")),
        expect![[r#"
            orders-db: ord-1 leads in epoch 1

              now
                + machine ord-2, shared-2x 4096 MB with flypg/postgres:15  (the file wants 3 here, there are 2)
                ~ ams-1, ord-1, ord-3: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ ord-2 follows ord-1  (after a clone, where its volume is blank)
                ~ ams-1, ord-1, ord-3: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ record: whole copies are ams-1, ord-1, ord-2, ord-3  (they have everything the primary has, or do not any more)
                ~ ams-1, ord-1, ord-2, ord-3: addresses and roles of the others  (so that they route and keep WAL)

            1 to create, 12 to change, 0 to destroy
            a commit is acknowledged once 1 of 2 standbys have it; no acknowledged commit is lost by the loss of any one node; writes go on while 1 standby is away

            plan again: quiet
        "#]],
    );
}

#[test]
fn a_destroyed_primary_comes_back_on_its_volume() {
    check(
        Scenario::running("ha").happens(|world| world.destroy_machine("ord-1")),
        expect![[r#"
            orders-db: who leads after ord-1 is being found out, in epoch 2

              now
                ~ record: an attempt to find who leads after ord-1, in epoch 2  (ord-1 has stopped: its machine is off)
                ~ ams-1 promises the new epoch and says where its data end  (as on record)
                ~ ord-2 promises the new epoch and says where its data end  (as on record)
                ~ ord-3 promises the new epoch and says where its data end  (as on record)
                + machine ord-1, shared-2x 4096 MB with flypg/postgres:15  (the file wants 3 here, there are 2)

              then
                ~ ams-1 promises the new epoch and says where its data end  (as on record)
                ~ ord-2 promises the new epoch and says where its data end  (as on record)
                ~ ord-3 promises the new epoch and says where its data end  (as on record)

              then
                ~ record: ord-2 is promoted to timeline 2, in epoch 2  (ord-2 has every acknowledged commit, and nobody else can acknowledge one)
                ~ ord-2 is promoted to timeline 2  (as on record)
                ~ ams-1, ord-3: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ record: ord-2 leads, in epoch 2; commits are acknowledged by the primary with ord-3  (ord-2 has confirmed that it leads)
                ~ ord-1 follows ord-2  (after a clone, where its volume is blank)
                ~ machine ams-1: flypg_epoch=2  (as on record)
                ~ machine ord-2: flypg_epoch=2, flypg_role=primary  (as on record)
                ~ machine ord-3: flypg_epoch=2  (as on record)
                ~ ams-1, ord-2, ord-3: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ record: ord-2 leads, in epoch 2, and is to acknowledge commits by the primary with any 1 of ord-1, ord-3  (as `durability` asks, with the standbys there are)
                ~ ams-1, ord-1, ord-2, ord-3: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ record: ord-2 leads, in epoch 2; commits are acknowledged by the primary with any 1 of ord-1, ord-3  (it is in effect, and covers everything before it)
                ~ ams-1, ord-1, ord-2, ord-3: addresses and roles of the others  (so that they route and keep WAL)

            1 to create, 29 to change, 0 to destroy
            a commit is acknowledged once 1 of 2 standbys have it; no acknowledged commit is lost by the loss of any one node; writes go on while 1 standby is away

            plan again: quiet
        "#]],
    );
}

#[test]
fn a_primary_whose_volume_is_gone_is_never_begun_anew() {
    let scenario = Scenario::running("ha").happens(|world| {
        world.destroy_machine("ord-1");
        world.lose_volume("ord-1");
    });
    check(
        scenario,
        expect![[r#"
            orders-db: who leads after ord-1 is being found out, in epoch 2

              now
                ~ record: an attempt to find who leads after ord-1, in epoch 2  (ord-1 has stopped: its machine is off)
                ~ ams-1 promises the new epoch and says where its data end  (as on record)
                ~ ord-2 promises the new epoch and says where its data end  (as on record)
                ~ ord-3 promises the new epoch and says where its data end  (as on record)

              then
                ~ ams-1 promises the new epoch and says where its data end  (as on record)
                ~ ord-2 promises the new epoch and says where its data end  (as on record)
                ~ ord-3 promises the new epoch and says where its data end  (as on record)

              then
                ~ record: ord-2 is promoted to timeline 2, in epoch 2  (ord-2 has every acknowledged commit, and nobody else can acknowledge one)
                ~ ord-2 is promoted to timeline 2  (as on record)
                + volume pg_ord_1, 40 GB in ord, daily snapshots kept 7 days  (the file wants 3 here, there are 2)
                ~ ams-1, ord-3: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ record: ord-2 leads, in epoch 2; commits are acknowledged by the primary with ord-3  (ord-2 has confirmed that it leads)
                + machine ord-1, shared-2x 4096 MB with flypg/postgres:15  (the file wants 3 here, there are 2)
                ~ machine ams-1: flypg_epoch=2  (as on record)
                ~ machine ord-2: flypg_epoch=2, flypg_role=primary  (as on record)
                ~ machine ord-3: flypg_epoch=2  (as on record)
                ~ ams-1, ord-2, ord-3: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ ord-1 follows ord-2  (after a clone, where its volume is blank)
                ~ ams-1, ord-2, ord-3: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ record: ord-2 leads, in epoch 2, and is to acknowledge commits by the primary with any 1 of ord-1, ord-3  (as `durability` asks, with the standbys there are)
                ~ ams-1, ord-1, ord-2, ord-3: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ record: ord-2 leads, in epoch 2; commits are acknowledged by the primary with any 1 of ord-1, ord-3  (it is in effect, and covers everything before it)
                ~ ams-1, ord-1, ord-2, ord-3: addresses and roles of the others  (so that they route and keep WAL)

              waiting now
                ! ord-1: until the primary ord-1 is back with its volume

            2 to create, 32 to change, 0 to destroy
            a commit is acknowledged once 1 of 2 standbys have it; no acknowledged commit is lost by the loss of any one node; writes go on while 1 standby is away

            plan again: quiet
        "#]],
    );
}

#[test]
fn a_deleted_app_is_never_begun_anew() {
    let scenario = Scenario::running("development").happens(|world| world.app = Seen::at(NOW, None));
    check(
        scenario,
        expect![[r#"
            notes-dev: ord-1 leads in epoch 1

              held
                ! everything: until the primary ord-1 is back with its volume

            plan again: held
        "#]],
    );
}

#[test]
fn a_lost_record_is_taken_from_the_nodes() {
    check(
        Scenario::running("ha").happens(|world| world.record = Seen::at(NOW, None)),
        expect![[r#"
            orders-db: ord-1 leads, by what all nodes say

              now
                ~ record: ord-1 goes on leading, in epoch 1001  (the record was lost, and all nodes agree)
                ~ ams-1 follows ord-1  (as on record)
                ~ ord-1 goes on leading in a new epoch  (as on record)
                ~ ord-2 follows ord-1  (as on record)
                ~ ord-3 follows ord-1  (as on record)

              then
                ~ record: ord-1 leads, in epoch 1001; commits are acknowledged by the primary alone  (ord-1 has confirmed that it leads)
                ~ machine ams-1: flypg_epoch=1001  (as on record)
                ~ machine ord-1: flypg_epoch=1001  (as on record)
                ~ machine ord-2: flypg_epoch=1001  (as on record)
                ~ machine ord-3: flypg_epoch=1001  (as on record)
                ~ ams-1, ord-1, ord-2, ord-3: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ record: ord-1 leads, in epoch 1001, and is to acknowledge commits by the primary with any 1 of ord-2, ord-3  (as `durability` asks, with the standbys there are)
                ~ ams-1, ord-1, ord-2, ord-3: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ record: ord-1 leads, in epoch 1001; commits are acknowledged by the primary with any 1 of ord-2, ord-3  (it is in effect, and covers everything before it)
                ~ ams-1, ord-1, ord-2, ord-3: addresses and roles of the others  (so that they route and keep WAL)

            0 to create, 24 to change, 0 to destroy
            a commit is acknowledged once 1 of 2 standbys have it; no acknowledged commit is lost by the loss of any one node; writes go on while 1 standby is away

            plan again: quiet
        "#]],
    );
}

#[test]
fn a_lost_record_is_not_guessed_while_a_node_is_silent() {
    let scenario = Scenario::running("ha").happens(|world| {
        world.record = Seen::at(NOW, None);
        world.silence("ord-1");
    });
    let now = scenario.turns().remove(0);
    assert!(now.steps.is_empty(), "{now:#?}");
    check_holds(
        &now,
        expect![[r#"
        ord-1: until ord-1 answers (connection timed out)
    "#]],
    );
}

#[test]
fn volumes_without_a_record_are_not_written_over() {
    let scenario = Scenario::running("two-node").happens(|world| {
        world.record = Seen::at(NOW, None);
        world.destroy_machine("ord-1");
        world.destroy_machine("ord-2");
        world.add_volume("vol_third", "pg_ord_3", "ord");
    });
    let now = scenario.turns().remove(0);
    assert!(!now.steps.iter().any(|s| matches!(s.action, flypg_core::plan::Action::Decide { .. })), "{now:#?}");
    check_holds(
        &now,
        expect![[r#"
        making the cluster's data: until it is known what the volumes of ord-3 hold: there is no record of this cluster, and data may be there
    "#]],
    );
}

#[test]
fn a_node_with_another_clusters_data_is_kept_out() {
    let scenario = Scenario::running("two-node").happens(|world| {
        let report = world.report("ord-2");
        report.postgres.as_mut().unwrap().system_id = SystemId("666".to_owned());
        report.assignment = None;
    });
    check(
        scenario,
        expect![[r#"
            billing-db: ord-1 leads in epoch 1

              held
                ! ord-2: until ord-2 is put in order: its data belong to another cluster (system identifier 666)

            plan again: held
        "#]],
    );
}

#[test]
fn a_quarantined_node_waits_for_a_person() {
    let scenario = Scenario::running("two-node").happens(|world| {
        let report = world.report("ord-2");
        report.phase = Phase::Quarantined { why: "both slots of the ledger are unreadable".to_owned() };
        report.assignment = None;
    });
    check(
        scenario,
        expect![[r#"
            billing-db: ord-1 leads in epoch 1

              now
                ~ ord-1: addresses and roles of the others  (so that they route and keep WAL)

              held
                ! waiting for standbys before commits are acknowledged: until 1 standbys are whole copies and stream (there are 0)
                ! ord-2: until ord-2 is put in order: both slots of the ledger are unreadable

            0 to create, 1 to change, 0 to destroy
            a commit is acknowledged once 1 of 1 standbys has it; no acknowledged commit is lost by the loss of any one node; writes go on while one node is left

            plan again: held
        "#]],
    );
}

#[test]
fn a_host_that_does_not_answer_is_not_a_missing_machine() {
    let scenario = Scenario::running("ha").happens(|world| {
        let machine = world.machine("ord-2");
        machine.host_ok = false;
        machine.config = None;
        world.silence("ord-2");
    });
    check(
        scenario,
        expect![[r#"
            orders-db: ord-1 leads in epoch 1

              now
                ~ ams-1, ord-1, ord-3: addresses and roles of the others  (so that they route and keep WAL)

              held
                ! ord-2: until the host of ord-2 answers again
                ! ord-2: until ord-2 answers (connection timed out)

            0 to create, 3 to change, 0 to destroy
            a commit is acknowledged once 1 of 2 standbys have it; no acknowledged commit is lost by the loss of any one node; writes go on while 1 standby is away

            plan again: held
        "#]],
    );
}

#[test]
fn a_volume_made_twice_is_used_once() {
    let scenario = Scenario::running("two-node").happens(|world| {
        world.destroy_machine("ord-2");
        world.add_volume("vol_a_twin", "pg_ord_2", "ord");
    });
    let plan = scenario.turns().remove(0);
    let used: Vec<_> = plan
        .steps
        .iter()
        .filter_map(|step| match &step.action {
            flypg_core::plan::Action::CreateMachine { machine, .. } => Some(machine.volume.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(used.len(), 1, "{plan:#?}");
}

/// As from another computer, with another master key: there is no record, and no agent lets us in.
#[test]
fn nothing_begins_where_our_key_is_not_accepted() {
    check(
        Scenario::running("development").happens(|world| {
            world.record = Seen::at(NOW, None);
            for report in world.reports.values_mut() {
                *report = Seen::Unknown { why: Unknown::Forbidden { error: "401".to_owned() } };
            }
        }),
        expect![[r#"
            notes-dev: unknown

              held
                ! ord-1: until ord-1 accepts our key: the cluster was made with another master key, so use its state directory (--state) or FLYPG_MASTER_KEY

            plan again: held
        "#]],
    );
}

/// As after a restore of the state directory, or beside a controller that has one of its own.
#[test]
fn nothing_is_done_by_a_record_that_was_overtaken() {
    check(
        Scenario::running("development").edit(|spec| spec.primary.nodes = 2).happens(|world| {
            world.report("ord-1").promised = Epoch(1001);
        }),
        expect![[r#"
            notes-dev: unknown

              held
                ! everything: until our record is that of the cluster again: it says epoch 1, and ord-1 obeys epoch 1001. Another controller has taken the cluster over, or the state directory is an old copy: use the newer one, or move this one's flypg.db away to learn from the nodes

            plan again: held
        "#]],
    );
}
