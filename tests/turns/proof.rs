//! Fence F3: what the platform must show before an old primary's Machine counts as stopped, and what is not enough.

use std::time::Duration;

use flypg_controller::act::{ActError, Actuator, LiveActuator, Trouble};
use flypg_controller::clock::mono;
use flypg_controller::turn::Wanted;
use flypg_core::Timestamp;
use flypg_core::decree::Epoch;
use flypg_core::observed::{Heard, Stopped};
use flypg_core::plan::Action;
use flypg_core::protocol::{NodeReport, Phase, Standing};
use flypg_emulator::Knobs;
use flypg_machines::types::MachineState;
use flypg_machines::{leases, lifecycle, machines};
use flypg_tests::patience::eventually;
use jiff::SignedDuration;
use serde_json::json;

use crate::rig::{Rig, spec};

const LIMIT: Duration = Duration::from_secs(30);

/// A cluster of one node that is to be proven stopped.
struct Suspect {
    rig: Rig,
    actuator: LiveActuator,
    machine: String,
}

impl Suspect {
    async fn start(knobs: Knobs) -> Self {
        let rig = Rig::start(knobs).await;
        let turn = rig.until_agents_are_waited_for(&Wanted::Kept(spec(1))).await;
        let machine = turn.observed.machines.known().unwrap()[0].id.clone();
        let (_, actuator) = rig.controller().await;
        Self { rig, actuator, machine }
    }

    async fn prove(&self) -> Result<(), ActError> {
        let action = Action::ProveStopped {
            app: "orders-db".parse().unwrap(),
            node: "ord-1".parse().unwrap(),
            machine: self.machine.clone(),
        };
        self.actuator.act(&action).await
    }

    /// What is known to be proven.
    fn proof(&self) -> Option<Stopped> {
        self.actuator.vigil.watch_blindly(mono()).stopped.get(&self.machine).copied()
    }

    async fn is_unproven(&self, what: &str) -> String {
        let error = self.prove().await.expect_err(what);
        assert!(self.proof().is_none(), "{what}");
        match error.trouble() {
            Trouble::Unproven { lacks, .. } => (*lacks).to_owned(),
            other => other.to_string(),
        }
    }

    /// Its agent was heard so long ago, for the first time in the boot that it was last heard in.
    fn heard(&self, ago: SignedDuration) {
        let at = Timestamp::now() - ago;
        let report = NodeReport {
            cluster: "orders-db".parse().unwrap(),
            node: "ord-1".parse().unwrap(),
            machine: self.machine.clone(),
            incarnation: 1,
            boot: "boot".to_owned(),
            sent: Default::default(),
            version: 1,
            promised: Epoch(1),
            assignment: None,
            revision: 0,
            standing: Standing::Unbound,
            pledged_for: None,
            primary_heard: None,
            phase: Phase::Idle,
            postgres: None,
            disk: None,
            crashes: 0,
        };
        self.actuator.vigil.hear(&self.machine, report, at, Heard::at(mono()));
    }

    async fn state(&self) -> MachineState {
        self.rig.client("spectator").send(machines::get("orders-db", &self.machine)).await.unwrap().state
    }

    /// Somebody else stops it.
    async fn stop(&self) {
        let person = self.rig.client("person");
        person.send(lifecycle::stop("orders-db", &self.machine, &Default::default())).await.unwrap();
        eventually("it has stopped", LIMIT, || async {
            match self.state().await {
                MachineState::Stopped => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_machine_that_runs_is_stopped_and_proven_so() {
    let suspect = Suspect::start(Knobs::default()).await;
    let before = mono();
    suspect.prove().await.unwrap();
    let proof = suspect.proof().expect("a proof");
    assert!(before <= proof.at && proof.at < mono(), "what was granted later is of a later boot");
    assert_eq!(suspect.state().await, MachineState::Stopped);
}

#[tokio::test]
async fn a_host_that_does_not_answer_proves_nothing_whatever_it_did() {
    for processes in [true, false] {
        let suspect = Suspect::start(Knobs::default()).await;
        suspect.heard(SignedDuration::from_secs(60));
        suspect
            .rig
            .fault(json!({ "fault": "host_unreachable", "machine": suspect.machine, "processes": processes }))
            .await;
        suspect.is_unproven("an unreachable host").await;
    }
}

#[tokio::test]
async fn a_stop_without_effect_proves_nothing() {
    let suspect = Suspect::start(Knobs::default()).await;
    suspect.rig.fault(json!({ "fault": "stuck", "machine": suspect.machine })).await;
    assert_eq!(suspect.is_unproven("a Machine that hangs while it stops").await, "it does not stop");

    // An order that was accepted and never arrived.
    let suspect = Suspect::start(Knobs::default()).await;
    suspect
        .rig
        .fault(json!({ "match": { "method": "POST", "path": "/v1/apps/*/machines/*/stop" },
                       "effect": { "status": { "code": 200 } } }))
        .await;
    suspect.is_unproven("a stop that was not carried out").await;
    assert_eq!(suspect.state().await, MachineState::Started);
}

#[tokio::test]
async fn reads_that_lag_prove_nothing_until_they_have_caught_up() {
    let suspect = Suspect::start(Knobs { read_lag_ms: 1_500, ..Knobs::default() }).await;
    suspect.heard(SignedDuration::from_secs(60));
    suspect.is_unproven("a read from before the stop").await;
    eventually("it is proven", LIMIT, || async { suspect.prove().await.map_err(|error| error.to_string()) }).await;
    assert!(suspect.proof().is_some());
}

#[tokio::test]
async fn a_machine_that_was_found_stopped_may_have_been_so_before_its_last_boot() {
    let suspect = Suspect::start(Knobs::default()).await;
    suspect.stop().await;
    assert_eq!(suspect.is_unproven("nobody knows when it last ran").await, "it was never heard");
    // It was heard only after that, by what clocks say: that was a later boot, of which the platform has not told yet.
    suspect.heard(SignedDuration::ZERO);
    suspect.is_unproven("it ended before it was heard").await;

    let suspect = Suspect::start(Knobs::default()).await;
    suspect.heard(SignedDuration::from_secs(60));
    suspect.stop().await;
    suspect.prove().await.unwrap();
    assert!(suspect.proof().is_some());
}

#[tokio::test]
async fn a_machine_that_is_gone_or_in_somebody_elses_hands_is_not_proven_stopped() {
    let suspect = Suspect::start(Knobs::default()).await;
    suspect.heard(SignedDuration::from_secs(60));
    let person = suspect.rig.client("person");
    let lease = person.send(leases::acquire("orders-db", &suspect.machine, 60, Some("deploying"))).await.unwrap();
    suspect.is_unproven("somebody else holds it").await;
    person.send(leases::release("orders-db", &suspect.machine, &lease.nonce)).await.unwrap();
    person.send(machines::destroy("orders-db", &suspect.machine, true)).await.unwrap();
    suspect.is_unproven("a destroy that was accepted").await;
}
