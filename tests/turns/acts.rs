use flypg_controller::act::{ActError, Actuator, LiveActuator, Trouble};
use flypg_controller::turn::Wanted;
use flypg_core::observed::{Observed, Power};
use flypg_core::plan::{Action, MachineSpec};
use flypg_emulator::Knobs;
use flypg_machines::leases;
use serde_json::json;

use crate::rig::{Rig, spec};

/// A cluster of one node whose agent never answers, and what its Machine would be made with again.
async fn made() -> (Rig, LiveActuator, Observed) {
    let rig = Rig::start(Knobs::default()).await;
    let turn = rig.until_agents_are_waited_for(&Wanted::Kept(spec(1))).await;
    let (_, actuator) = rig.controller().await;
    (rig, actuator, turn.observed)
}

fn stop(observed: &Observed) -> Action {
    let machine = &observed.machines.known().unwrap()[0];
    assert_eq!(machine.power, Power::Started);
    Action::StopMachine {
        app: "orders-db".parse().unwrap(),
        node: "ord-1".parse().unwrap(),
        machine: machine.id.clone(),
    }
}

fn metadata(observed: &Observed) -> Action {
    Action::SetMetadata {
        app: "orders-db".parse().unwrap(),
        node: "ord-1".parse().unwrap(),
        machine: observed.machines.known().unwrap()[0].id.clone(),
        metadata: [("flypg_role".to_owned(), "primary".to_owned())].into(),
    }
}

#[tokio::test]
async fn an_error_says_whether_it_may_have_happened() {
    let (rig, actuator, observed) = made().await;
    let outcome = async |effect: serde_json::Value| {
        rig.no_faults().await;
        rig.fault(json!({ "match": { "method": "PATCH" }, "effect": effect })).await;
        actuator.act(&metadata(&observed)).await.unwrap_err()
    };
    let lost = outcome(json!("lose_answer")).await;
    assert!(matches!(lost, ActError::MaybeDone(_)), "{lost:?}");
    let failed = outcome(json!({ "status": { "code": 502 } })).await;
    assert!(matches!(failed, ActError::MaybeDone(_)), "{failed:?}");
    let forbidden = outcome(json!({ "status": { "code": 403 } })).await;
    assert!(matches!(forbidden, ActError::NotDone(_)) && forbidden.suggestion().is_some(), "{forbidden:?}");
    let refused = outcome(json!({ "status": { "code": 400 } })).await;
    assert!(matches!(refused, ActError::Refused(_)) && !refused.is_passing(), "{refused:?}");
}

#[tokio::test]
async fn somebody_elses_lease_is_named_and_ours_is_taken_up_again() {
    let (rig, actuator, observed) = made().await;
    let id = observed.machines.known().unwrap()[0].id.clone();
    let person = rig.client("person");
    let lease = person.send(leases::acquire("orders-db", &id, 60, Some("deploying"))).await.unwrap();
    let error = actuator.act(&stop(&observed)).await.unwrap_err();
    let ActError::Refused(Trouble::Leased { owner: Some(owner), .. }) = &error else { panic!("{error:?}") };
    assert!(error.is_passing() && owner.contains('@'), "{error}");
    person.send(leases::release("orders-db", &id, &lease.nonce)).await.unwrap();

    // Whoever died between taking the lease and letting it go is not in its own way.
    rig.fault(json!({ "match": { "method": "POST", "path": "/v1/apps/*/machines/*/stop" },
                      "effect": { "status": { "code": 400 } }, "count": 1 }))
        .await;
    rig.fault(json!({ "match": { "method": "DELETE" }, "effect": { "status": { "code": 400 } } })).await;
    assert!(actuator.act(&stop(&observed)).await.is_err());
    let held = person.send(leases::get("orders-db", &id)).await.unwrap();
    assert!(held.description.unwrap_or_default().starts_with("flypg "));
    actuator.act(&stop(&observed)).await.unwrap();
}

#[tokio::test]
async fn what_is_so_already_is_done() {
    let (rig, actuator, observed) = made().await;
    let volume = observed.volumes.known().unwrap()[0].clone();
    let machine = observed.machines.known().unwrap()[0].clone();
    let config = machine.config.clone().unwrap();
    let again = Action::CreateMachine {
        app: "orders-db".parse().unwrap(),
        machine: Box::new(MachineSpec {
            node: "ord-1".parse().unwrap(),
            region: "ord".parse().unwrap(),
            image: config.image,
            guest: config.guest.unwrap(),
            env: config.env,
            metadata: config.metadata,
            volume: volume.id.clone(),
        }),
    };
    actuator.act(&again).await.unwrap();
    assert_eq!(rig.things().await.1, ["ord-1"], "a name that is taken is a Machine to look at");

    let destroy = Action::DestroyMachine {
        app: "orders-db".parse().unwrap(),
        node: "ord-1".parse().unwrap(),
        machine: machine.id.clone(),
    };
    let error = actuator.act(&destroy).await.unwrap_err();
    assert!(matches!(error, ActError::Refused(_)), "a running Machine is not destroyed: {error:?}");
    actuator.act(&stop(&observed)).await.unwrap();
    flypg_tests::patience::eventually("it is stopped", std::time::Duration::from_secs(20), || async {
        actuator.act(&destroy).await.map_err(|error| error.to_string())
    })
    .await;
    flypg_tests::patience::eventually("it is gone", std::time::Duration::from_secs(20), || async {
        actuator.act(&destroy).await.map_err(|error| error.to_string())
    })
    .await;
    let delete =
        Action::DeleteVolume { app: "orders-db".parse().unwrap(), node: "ord-1".parse().unwrap(), volume: volume.id };
    flypg_tests::patience::eventually("it is let go", std::time::Duration::from_secs(20), || async {
        actuator.act(&delete).await.map_err(|error| error.to_string())
    })
    .await;
    actuator.act(&delete).await.unwrap();
    let app = Action::DeleteApp { app: "orders-db".parse().unwrap() };
    actuator.act(&app).await.unwrap();
    actuator.act(&app).await.unwrap();
}
