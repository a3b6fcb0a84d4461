use std::time::Duration;

use flypg_controller::act::LiveActuator;
use flypg_controller::agent::AgentClient;
use flypg_controller::keeper::Keeper;
use flypg_controller::observe::LiveObserver;
use flypg_controller::store::{Home, Store};
use flypg_controller::turn::{Turn, Wanted};
use flypg_core::Timestamp;
use flypg_core::keys::Key;
use flypg_core::plan::Until;
use flypg_core::spec::{ClusterSpec, parse};
use flypg_emulator::{Config, Emulator, EmulatorHandle, Knobs};
use flypg_machines::{Client, ClientConfig, Limits};
use jiff::SignedDuration;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longer than the emulator's lists lag in any of these tests.
const SETTLE: SignedDuration = SignedDuration::from_millis(700);
const LIMIT: Duration = Duration::from_secs(60);

/// An emulator, and a controller's state directory.
pub(crate) struct Rig {
    pub(crate) emulator: EmulatorHandle,
    pub(crate) state: TempDir,
    http: reqwest::Client,
}

/// A cluster that may go entirely, in one region.
pub(crate) fn text(name: &str, nodes: u32) -> String {
    format!(
        "apiVersion: flypg/v1\nkind: PostgresCluster\nmetadata: {{ name: {name} }}\nspec:\n  \
         organization: personal\n  preset: production-small\n  postgres: {{ version: 15 }}\n  durability: async\n  \
         regions: {{ primary: {{ code: ord, nodes: {nodes} }} }}\n  access: {{ flycast: true }}\n  deletion: delete\n"
    )
}

pub(crate) fn spec(nodes: u32) -> ClusterSpec {
    parse("orders.yaml", text("orders-db", nodes).as_bytes()).expect("a good spec").remove(0).value
}

impl Rig {
    pub(crate) async fn start(knobs: Knobs) -> Self {
        let emulator = Emulator::start(Config { knobs, ..Config::default() }).await.expect("an emulator starts");
        Self { emulator, state: TempDir::new().unwrap(), http: reqwest::Client::new() }
    }

    /// The same Fly, and a controller that knows nothing of what was made in it.
    pub(crate) fn with_a_new_memory(self) -> Self {
        Self { state: TempDir::new().unwrap(), ..self }
    }

    pub(crate) fn client(&self, token: &str) -> Client {
        let mut config = ClientConfig::new(self.emulator.url()).with_token(token).with_limits(Limits::none());
        config.patience = Duration::from_secs(5);
        config.timeout = Duration::from_secs(2);
        Client::new(config).unwrap()
    }

    /// A controller's eyes and hands, as a process that was started now would have them.
    pub(crate) async fn controller(&self) -> (LiveObserver, LiveActuator) {
        let store = Store::open(self.state.path()).unwrap().lead(&Home::here(None), false).await.unwrap();
        let observer = LiveObserver {
            fly: self.client("controller"),
            agents: AgentClient::new().unwrap(),
            store: store.clone(),
            // Without it no agent is asked: there is none.
            master: None,
            patience: Duration::from_secs(5),
            settle: SETTLE,
            vigil: Default::default(),
        };
        let actuator = LiveActuator {
            fly: observer.fly.clone(),
            agents: observer.agents.clone(),
            store,
            master: Some(Key::from_bytes([1; 32])),
            clock: Timestamp::now,
            secrets_versions: Default::default(),
            vigil: observer.vigil.clone(),
        };
        (observer, actuator)
    }

    pub(crate) async fn keeper(&self, wanted: Wanted) -> Keeper<LiveObserver, LiveActuator, ()> {
        let (observer, actuator) = self.controller().await;
        Keeper::new(wanted, observer, actuator, (), Timestamp::now)
    }

    /// Turns until only agents are waited for.
    pub(crate) async fn until_agents_are_waited_for(&self, wanted: &Wanted) -> Turn {
        let mut keeper = self.keeper(wanted.clone()).await;
        let begun = std::time::Instant::now();
        loop {
            let turn = keeper.turn().await;
            let platform = |until: &Until| {
                matches!(
                    until,
                    Until::Readable { .. }
                        | Until::Confirmed { .. }
                        | Until::MachineSettled { .. }
                        | Until::Permitted { .. }
                )
            };
            if turn.plan.steps.is_empty() && !turn.plan.holds.iter().any(|hold| platform(&hold.until)) {
                return turn;
            }
            assert!(begun.elapsed() < LIMIT, "{:?}\n{:?}", turn.plan.steps, turn.plan.holds);
            keeper.rest().await;
        }
    }

    pub(crate) async fn fault(&self, rule: Value) -> String {
        let url = format!("{}/_faults", self.emulator.url());
        let answer = self.http.post(url).json(&rule).send().await.unwrap();
        assert!(answer.status().is_success(), "{rule}: {}", answer.status());
        let answer: Value = answer.json().await.unwrap();
        answer["id"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) async fn no_faults(&self) {
        self.http.delete(format!("{}/_faults", self.emulator.url())).send().await.unwrap();
    }

    /// How many requests below `/v1` a rule has seen.
    pub(crate) async fn seen(&self, rule: &str) -> u64 {
        let url = format!("{}/_faults", self.emulator.url());
        let rules: Value = self.http.get(url).send().await.unwrap().json().await.unwrap();
        let rules = rules.as_array().or_else(|| rules["rules"].as_array()).cloned().unwrap_or_default();
        rules.iter().find(|found| found["id"] == rule).and_then(|found| found["seen"].as_u64()).expect("a counter")
    }

    pub(crate) async fn count_calls(&self) -> String {
        self.fault(json!({ "effect": { "delay": { "ms": 0 } } })).await
    }

    pub(crate) async fn knobs(&self, change: Value) {
        let url = format!("{}/_knobs", self.emulator.url());
        let answer = self.http.patch(url).json(&change).send().await.unwrap();
        assert!(answer.status().is_success(), "{change}: {}", answer.status());
    }

    /// Names of the app's volumes and Machines, as they are and not as lists say that they were.
    pub(crate) async fn things(&self) -> (Vec<String>, Vec<String>, usize) {
        let names = |list: Vec<String>| {
            let mut list = list;
            list.sort();
            list
        };
        self.knobs(json!({ "list_lag_ms": 0, "read_lag_ms": 0 })).await;
        self.no_faults().await;
        let client = self.client("spectator");
        let volumes = client.send(flypg_machines::volumes::list("orders-db", &Default::default())).await.unwrap();
        let machines = client.send(flypg_machines::machines::list("orders-db", &Default::default())).await.unwrap();
        let addresses = client.send(flypg_machines::ips::list("orders-db")).await.unwrap();
        (
            names(volumes.items.into_iter().map(|volume| volume.name).collect()),
            names(machines.items.into_iter().map(|machine| machine.name).collect()),
            addresses.ips.len(),
        )
    }
}
