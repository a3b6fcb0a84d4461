//! What left the file.

use expect_test::expect;
use flypg_core::failover::Rule;
use flypg_core::plan::{Action, Step};
use flypg_core::spec::Deletion;

use crate::scenario::{Edit, Scenario, check, check_holds};

#[test]
fn from_three_nodes_to_one_keeps_the_volumes() {
    check(
        Scenario::running("ha").edit(|spec| spec.primary.nodes = 1),
        expect![[r#"
            orders-db: ord-1 leads in epoch 1

              now
                ~ record: ord-1 leads, in epoch 1, and is to acknowledge commits by the primary alone  (as `durability` asks, with the standbys there are)
                ~ ams-1, ord-1, ord-3, ord-2: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ record: ord-1 leads, in epoch 1; commits are acknowledged by the primary alone  (it is in effect, and covers everything before it)
                ~ ams-1, ord-1, ord-3, ord-2: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ machine ord-3 is stopped  (the file wants 1 here, there are 3)

              then
                - machine ord-3  (the file wants 1 here, there are 3)

              then
                ~ machine ord-2 is stopped  (the file wants 1 here, there are 2)

              then
                - machine ord-2  (the file wants 1 here, there are 2)

            0 to create, 12 to change, 2 to destroy
            one node: when it is lost, the cluster waits until it is back

            plan again: quiet
        "#]],
    );
}

#[test]
fn with_deletion_delete_the_volumes_go_too() {
    let edited = Scenario::running("ha").edit(|spec| {
        spec.primary.nodes = 2;
        spec.deletion = Deletion::Delete;
    });
    check(
        edited,
        expect![[r#"
            orders-db: ord-1 leads in epoch 1

              now
                ~ record: ord-1 leads, in epoch 1, and is to acknowledge commits by the primary with ord-2  (as `durability` asks, with the standbys there are)
                ~ ams-1, ord-1, ord-2, ord-3: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ record: ord-1 leads, in epoch 1; commits are acknowledged by the primary with ord-2  (it is in effect, and covers everything before it)
                ~ ams-1, ord-1, ord-2, ord-3: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ machine ord-3 is stopped  (the file wants 2 here, there are 3)

              then
                - machine ord-3  (the file wants 2 here, there are 3)

              then
                - volume pg_ord_3 (volume of pg_ord_3)  (its node is not wanted, and `deletion: delete` lets the data go)  its data are gone for good

              then
                ~ record: whole copies are ams-1, ord-1, ord-2  (they have everything the primary has, or do not any more)
                ~ ams-1, ord-1, ord-2: addresses and roles of the others  (so that they route and keep WAL)

            0 to create, 15 to change, 2 to destroy
            a commit is acknowledged once 1 of 1 standbys has it; no acknowledged commit is lost by the loss of any one node; writes wait while a standby is away

            plan again: quiet
        "#]],
    );
}

#[test]
fn a_replica_region_is_removed() {
    check(
        Scenario::running("ha").edit(|spec| spec.replicas.clear()),
        expect![[r#"
            orders-db: ord-1 leads in epoch 1

              now
                ~ machine ams-1 is stopped  (the region left the file)
                ~ ord-1, ord-2, ord-3, ams-1: addresses and roles of the others  (so that they route and keep WAL)

              then
                - machine ams-1  (the region left the file)

            0 to create, 5 to change, 1 to destroy
            a commit is acknowledged once 1 of 2 standbys have it; no acknowledged commit is lost by the loss of any one node; writes go on while 1 standby is away

            plan again: quiet
        "#]],
    );
}

#[test]
fn nothing_is_removed_while_the_primary_is_silent() {
    let scenario = Scenario::running("ha").edit(|spec| spec.primary.nodes = 1).happens(|world| world.silence("ord-1"));
    let now = scenario.turns().remove(0);
    assert!(now.steps.iter().all(|step| !step.action.destroys()), "{now:#?}");
    check_holds(
        &now,
        expect![[r#"
            taking over from ord-1: until the primary ord-1 answers
            ord-1: until ord-1 answers (connection timed out)
            removing ord-3: until waiting for standbys before commits are acknowledged is done
            removing ord-2: until removing ord-3 is done
        "#]],
    );
}

#[test]
fn a_machine_whose_host_hides_whose_it_is_stays() {
    let scenario = Scenario::running("ha").edit(|spec| spec.primary.nodes = 2).happens(|world| {
        let machine = world.machine("ord-3");
        machine.host_ok = false;
        machine.config = None;
    });
    let turns = scenario.turns();
    let about_it = |step: &&Step| step.action.node() == Some(&crate::scenario::node("ord-3"));
    for step in turns.iter().flat_map(|turn| &turn.steps).filter(about_it) {
        // Its agent, which has our key, is told where the others are.
        assert!(matches!(step.action, Action::Assign { .. }), "{step:#?}");
    }
    check_holds(
        turns.last().expect("there is one"),
        expect![[r#"
            ord-3: until ord-3 streams from the primary
            removing ord-3: until the host of ord-3 answers again
        "#]],
    );
}

#[test]
fn a_primary_that_is_not_the_first_stays() {
    // As after a failover: ord-2 leads, and the file wants one node.
    let scenario = Scenario::running("two-node").happens(|world| {
        let record = world.record.known_mut().unwrap().as_mut().unwrap();
        record.primary = crate::scenario::node("ord-2");
        record.rule = Rule::any(1, [crate::scenario::node("ord-1")].into()).expect("one of one");
        let roles = ["ord-1", "ord-2"].map(|n| world.report(n).postgres.as_ref().unwrap().role.clone());
        let standings = ["ord-1", "ord-2"].map(|n| world.report(n).standing.clone());
        world.report("ord-1").standing = standings[1].clone();
        world.report("ord-2").standing = standings[0].clone();
        world.report("ord-1").postgres.as_mut().unwrap().role = roles[1].clone();
        world.report("ord-2").postgres.as_mut().unwrap().role = roles[0].clone();
    });
    check(
        scenario.edit(|spec| spec.primary.nodes = 1),
        expect![[r#"
            billing-db: ord-2 leads in epoch 1

              now
                ~ record: ord-2 leads, in epoch 1, and is to acknowledge commits by the primary alone  (as `durability` asks, with the standbys there are)
                ~ ord-1 follows ord-2  (as on record)
                ~ machine ord-2: flypg_role=primary  (as on record)
                ~ ord-2: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ record: ord-2 leads, in epoch 1; commits are acknowledged by the primary alone  (it is in effect, and covers everything before it)
                ~ ord-2, ord-1: addresses and roles of the others  (so that they route and keep WAL)

              then
                ~ machine ord-1 is stopped  (the file wants 1 here, there are 2)

              then
                - machine ord-1  (the file wants 1 here, there are 2)

            0 to create, 8 to change, 1 to destroy
            one node: when it is lost, the cluster waits until it is back

            plan again: quiet
        "#]],
    );
}

#[test]
fn a_protected_cluster_that_left_the_files_stays() {
    check(
        Scenario::running("two-node").edit(|spec| spec.deletion = Deletion::Protect).leaves(),
        expect![[r#"
            billing-db: ord-1 leads in epoch 1

              held
                ! deleting the cluster: until the file that last named it says `deletion: delete` (it said `protect`)

            plan again: held
        "#]],
    );
}

#[test]
fn a_cluster_that_left_the_files_goes_and_its_volumes_stay() {
    let scenario = Scenario::running("ha").edit(|spec| spec.deletion = Deletion::RetainVolumes).leaves();
    check(
        scenario,
        expect![[r#"
            orders-db: ord-1 leads in epoch 1

              now
                ~ machine ams-1 is stopped  (the cluster left the files)
                ~ machine ord-2 is stopped  (the cluster left the files)
                ~ machine ord-3 is stopped  (the cluster left the files)

              then
                - machine ams-1  (the cluster left the files)
                - machine ord-2  (the cluster left the files)
                - machine ord-3  (the cluster left the files)

              then
                ~ machine ord-1 is stopped  (the cluster left the files)

              then
                - machine ord-1  (the cluster left the files)

            0 to create, 4 to change, 4 to destroy
            a commit is acknowledged once 1 of 2 standbys have it; no acknowledged commit is lost by the loss of any one node; writes go on while 1 standby is away

            plan again: quiet
        "#]],
    );
}

#[test]
fn a_cluster_that_left_the_files_goes_altogether() {
    let scenario = Scenario::running("ha").edit(|spec| spec.deletion = Deletion::Delete).leaves();
    check(
        scenario,
        expect![[r#"
            orders-db: ord-1 leads in epoch 1

              now
                ~ machine ams-1 is stopped  (the cluster left the files)
                ~ machine ord-2 is stopped  (the cluster left the files)
                ~ machine ord-3 is stopped  (the cluster left the files)

              then
                - machine ams-1  (the cluster left the files)
                - machine ord-2  (the cluster left the files)
                - machine ord-3  (the cluster left the files)

              then
                ~ machine ord-1 is stopped  (the cluster left the files)
                - volume pg_ams_1 (volume of pg_ams_1)  (the cluster left the files)  its data are gone for good
                - volume pg_ord_2 (volume of pg_ord_2)  (the cluster left the files)  its data are gone for good
                - volume pg_ord_3 (volume of pg_ord_3)  (the cluster left the files)  its data are gone for good

              then
                - machine ord-1  (the cluster left the files)

              then
                - volume pg_ord_1 (volume of pg_ord_1)  (the cluster left the files)  its data are gone for good

              then
                - app orders-db  (the cluster left the files)

              then
                - record of orders-db  (the cluster left the files)

            0 to create, 4 to change, 10 to destroy
            a commit is acknowledged once 1 of 2 standbys have it; no acknowledged commit is lost by the loss of any one node; writes go on while 1 standby is away

            plan again: quiet
        "#]],
    );
}

#[test]
fn an_app_with_something_else_in_it_is_not_deleted() {
    let scenario = Scenario::running("development")
        .edit(|spec| spec.deletion = Deletion::Delete)
        .happens(|world| world.add_foreign_machine("e784", "cron", "ord"))
        .leaves();
    check(
        scenario,
        expect![[r#"
            notes-dev: ord-1 leads in epoch 1

              now
                ~ machine ord-1 is stopped  (the cluster left the files)

              then
                - machine ord-1  (the cluster left the files)

              then
                - volume pg_ord_1 (volume of pg_ord_1)  (the cluster left the files)  its data are gone for good

            0 to create, 1 to change, 2 to destroy
            one node: when it is lost, the cluster waits until it is back

            plan again: quiet
        "#]],
    );
}
