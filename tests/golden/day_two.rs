//! Edits of the file, on a running cluster.

use expect_test::expect;
use flypg_core::spec::ReconcileMode;

use crate::scenario::{Edit, Scenario, check, check_holds};

#[test]
fn a_parameter_that_takes_effect_at_once() {
    let edited = Scenario::running("ha").edit(|spec| {
        spec.postgres.parameters.insert("work_mem".to_owned(), "64MB".to_owned());
    });
    check(
        edited,
        expect![[r#"
            orders-db: ord-1 leads in epoch 1

              now
                ~ ams-1: work_mem = 64MB  (the file says so)
                ~ ord-1: work_mem = 64MB  (the file says so)
                ~ ord-2: work_mem = 64MB  (the file says so)
                ~ ord-3: work_mem = 64MB  (the file says so)

            0 to create, 4 to change, 0 to destroy
            a commit is acknowledged once 1 of 2 standbys have it; no acknowledged commit is lost by the loss of any one node; writes go on while 1 standby is away

            plan again: quiet
        "#]],
    );
}

#[test]
fn a_parameter_that_needs_a_restart() {
    let edited = Scenario::running("ha").edit(|spec| {
        spec.postgres.parameters.insert("max_connections".to_owned(), "500".to_owned());
    });
    check(
        edited,
        expect![[r#"
            orders-db: ord-1 leads in epoch 1

              now
                ~ ams-1: max_connections 200 → 500  (the file says so)
                ~ ord-1: max_connections 200 → 500  (the file says so)
                ~ ord-2: max_connections 200 → 500  (the file says so)
                ~ ord-3: max_connections 200 → 500  (the file says so)

              then
                ~ Postgres on ams-1 is restarted for max_connections  (it takes effect only at a start)  its connections are cut

              then
                ~ Postgres on ord-2 is restarted for max_connections  (it takes effect only at a start)  its connections are cut

              then
                ~ Postgres on ord-3 is restarted for max_connections  (it takes effect only at a start)  its connections are cut

              then
                ~ Postgres on ord-1 is restarted for max_connections  (it takes effect only at a start)  writes pause for about 2.0 s

            0 to create, 8 to change, 0 to destroy
            a commit is acknowledged once 1 of 2 standbys have it; no acknowledged commit is lost by the loss of any one node; writes go on while 1 standby is away

            plan again: quiet
        "#]],
    );
}

#[test]
fn a_restart_waits_for_a_replica_that_is_behind() {
    let scenario = Scenario::running("ha")
        .edit(|spec| {
            spec.postgres.parameters.insert("max_connections".to_owned(), "500".to_owned());
        })
        .carry_out()
        .happens(|world| {
            world.report("ord-1").postgres.as_mut().unwrap().pending_restart = vec!["max_connections".to_owned()];
            world.report("ord-3").phase = flypg_core::protocol::Phase::Cloning { done: 1 << 30, total: Some(4 << 30) };
        });
    let now = scenario.turns().remove(0);
    check_holds(
        &now,
        expect![[r#"
        restarting Postgres on ord-1: until ord-3 streams from the primary
    "#]],
    );
    let restarts = now.steps.iter().filter(|s| matches!(s.action, flypg_core::plan::Action::RestartPostgres { .. }));
    assert_eq!(restarts.count(), 0, "{now:#?}");
}

#[test]
fn a_primary_does_not_restart_before_every_standby_knows_what_it_needs() {
    let scenario = Scenario::running("two-node")
        .edit(|spec| {
            spec.postgres.parameters.insert("max_connections".to_owned(), "500".to_owned());
        })
        .carry_out()
        .happens(|world| {
            world.report("ord-1").postgres.as_mut().unwrap().pending_restart = vec!["max_connections".to_owned()];
            world.report("ord-2").postgres.as_mut().unwrap().settings = "those before".to_owned();
        });
    let now = scenario.turns().remove(0);
    assert!(now.steps.is_empty(), "{now:#?}");
    check_holds(
        &now,
        expect![[r#"
        parameters of ord-2: until ord-2 has read its parameters
        restarting Postgres on ord-1: until ord-2 has read its parameters
    "#]],
    );
}

#[test]
fn a_standby_that_keeps_more_than_asked_is_waited_for() {
    let scenario = Scenario::running("two-node").happens(|world| {
        world.report("ord-2").postgres.as_mut().unwrap().withheld = vec!["max_connections".to_owned()];
    });
    check_holds(
        &scenario.turns().remove(0),
        expect![[r#"
        parameters of ord-2: until ord-2 has read its parameters
    "#]],
    );
}

#[test]
fn parameters_that_postgres_refused_are_told() {
    let scenario = Scenario::running("development").happens(|world| {
        let rejected = &mut world.report("ord-1").postgres.as_mut().unwrap().rejected;
        rejected.insert("work_mem".to_owned(), "invalid value for parameter \"work_mem\": \"lots\"".to_owned());
    });
    check(
        scenario,
        expect![[r#"
            notes-dev: ord-1 leads in epoch 1

              held
                ! parameters of ord-1: until Postgres accepts them (work_mem: invalid value for parameter "work_mem": "lots")

            plan again: held
        "#]],
    );
}

#[test]
fn the_snapshot_policy_follows_the_file() {
    check(
        Scenario::running("two-node").edit(|spec| spec.storage.snapshots.retention_days = 30),
        expect![[r#"
            billing-db: ord-1 leads in epoch 1

              now
                ~ volume pg_ord_1: daily snapshots kept 30 days  (the file says so)
                ~ volume pg_ord_2: daily snapshots kept 30 days  (the file says so)

            0 to create, 2 to change, 0 to destroy
            a commit is acknowledged once 1 of 1 standbys has it; no acknowledged commit is lost by the loss of any one node; writes go on while one node is left

            plan again: quiet
        "#]],
    );
}

#[test]
fn flycast_is_switched_off() {
    check(
        Scenario::running("development").edit(|spec| spec.flycast = !spec.flycast),
        expect![[r#"
            notes-dev: ord-1 leads in epoch 1

              now
                - private address (known after apply)  (`access.flycast` is off)

            0 to create, 0 to change, 1 to destroy
            one node: when it is lost, the cluster waits until it is back

            plan again: quiet
        "#]],
    );
}

#[test]
fn what_this_version_cannot_change_is_said() {
    let edited = Scenario::running("two-node").edit(|spec| {
        spec.guest.memory_mb *= 2;
        spec.storage.size_gb += 10;
        spec.postgres.image = Some("registry.example/pg@sha256:1234".to_owned());
    });
    check(
        edited,
        expect![[r#"
            billing-db: ord-1 leads in epoch 1

              held
                ! image of ord-1: until flypg can change it on a running cluster (from flypg/postgres:15 to registry.example/pg@sha256:1234); this version cannot
                ! machine size of ord-1: until flypg can change it on a running cluster (from shared-2x 4096 MB to shared-2x 8192 MB); this version cannot
                ! storage size of ord-1: until flypg can change it on a running cluster (from 40GB to 50GB); this version cannot
                ! image of ord-2: until flypg can change it on a running cluster (from flypg/postgres:15 to registry.example/pg@sha256:1234); this version cannot
                ! machine size of ord-2: until flypg can change it on a running cluster (from shared-2x 4096 MB to shared-2x 8192 MB); this version cannot
                ! storage size of ord-2: until flypg can change it on a running cluster (from 40GB to 50GB); this version cannot

            plan again: held
        "#]],
    );
}

#[test]
fn a_cluster_that_is_paused_is_left_alone() {
    let edited = Scenario::running("two-node").edit(|spec| {
        spec.primary.nodes = 3;
        spec.reconcile = ReconcileMode::Observe;
    });
    check(
        edited,
        expect![[r#"
            billing-db: unknown

              held
                ! everything: until the file says `reconcile: active` (it says `observe`)

            plan again: held
        "#]],
    );
}
