//! What scenarios are made of.

use expect_test::Expect;
use flypg_core::Timestamp;
use flypg_core::names::NodeName;
use flypg_core::observed::{Machine, MachineConfig, Observed, Power, Seen, Unknown, Volume};
use flypg_core::plan::{self, Plan};
use flypg_core::protocol::NodeReport;
use flypg_core::render::{self, Paint, Preview};
use flypg_core::spec::{self, ClusterSpec, SnapshotPolicy};

pub(crate) const NOW: Timestamp = Timestamp::UNIX_EPOCH;

/// A file and a world. The world starts as an empty Fly.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) spec: ClusterSpec,
    pub(crate) world: Observed,
    removal: bool,
}

/// Nothing exists, and that is known.
pub(crate) fn empty_fly() -> Observed {
    Observed { record: Seen::at(NOW, None), app: Seen::at(NOW, None), ..Observed::default() }
}

pub(crate) fn example(name: &str) -> ClusterSpec {
    let path = format!("{}/../examples/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read(&path).expect("the example can be read");
    match spec::parse(name, &text) {
        Ok(mut clusters) => clusters.remove(0).value,
        Err(diagnostics) => panic!("{name} is an example and must be right: {diagnostics:?}"),
    }
}

pub(crate) fn node(name: &str) -> NodeName {
    name.parse().expect("a node's name")
}

impl Scenario {
    pub(crate) fn new(spec: ClusterSpec) -> Self {
        Self { spec, world: empty_fly(), removal: false }
    }

    /// A running cluster, as one that was made from the example.
    pub(crate) fn running(name: &str) -> Self {
        Self::new(example(name)).carry_out()
    }

    pub(crate) fn edit(mut self, change: impl FnOnce(&mut ClusterSpec)) -> Self {
        change(&mut self.spec);
        self
    }

    pub(crate) fn happens(mut self, change: impl FnOnce(&mut Observed)) -> Self {
        change(&mut self.world);
        self
    }

    /// The cluster leaves the files.
    pub(crate) fn leaves(mut self) -> Self {
        self.removal = true;
        self
    }

    pub(crate) fn turns(&self) -> Vec<Plan> {
        let forecast = if self.removal { plan::forecast_removal } else { plan::forecast };
        let turns = forecast(&self.spec, &self.world, NOW);
        assert!(turns.len() < plan::FORECAST_TURNS_MAX, "the plan does not come to an end:\n{}", self.text(&turns));
        turns
    }

    /// The world once everything foreseen has happened.
    pub(crate) fn carry_out(mut self) -> Self {
        for turn in self.turns() {
            for step in &turn.steps {
                plan::apply(&mut self.world, &step.action, NOW);
            }
            if turn.steps.is_empty() {
                plan::settle(&mut self.world, NOW);
            }
        }
        self
    }

    fn text(&self, turns: &[Plan]) -> String {
        render::text(&Preview { spec: &self.spec, observed: &self.world, turns }, Paint::Plain)
    }

    /// The dry run, and what planning says after it was carried out.
    pub(crate) fn story(&self) -> String {
        let mut story = self.text(&self.turns());
        let after = self.clone().carry_out();
        let again = after.turns().remove(0);
        assert!(again.steps.is_empty(), "carried out, there is still something to do:\n{}", after.text(&[again]));
        story.push_str("\nplan again: ");
        if again.is_quiet() {
            story.push_str("quiet\n");
        } else {
            story.push_str("held\n");
        }
        story
    }
}

#[track_caller]
pub(crate) fn check(scenario: Scenario, expected: Expect) {
    expected.assert_eq(&scenario.story());
}

/// The parts of a world, to be edited.
pub(crate) trait Edit {
    fn machine(&mut self, node: &str) -> &mut Machine;
    fn report(&mut self, node: &str) -> &mut NodeReport;
    fn silence(&mut self, node: &str);
    fn destroy_machine(&mut self, node: &str);
    fn lose_volume(&mut self, node: &str);
    fn stop(&mut self, node: &str);
    fn add_volume(&mut self, id: &str, name: &str, region: &str);
    fn add_foreign_machine(&mut self, id: &str, name: &str, region: &str);
}

impl Edit for Observed {
    fn machine(&mut self, node: &str) -> &mut Machine {
        let machines = self.machines.known_mut().expect("machines are known");
        machines.iter_mut().find(|m| m.name == node).unwrap_or_else(|| panic!("there is no machine {node}"))
    }

    fn report(&mut self, node: &str) -> &mut NodeReport {
        let id = self.machine(node).id.clone();
        self.reports.get_mut(&id).and_then(Seen::known_mut).expect("the node has reported")
    }

    fn silence(&mut self, node: &str) {
        let id = self.machine(node).id.clone();
        let why = Unknown::NoAnswer { error: "connection timed out".to_owned() };
        self.reports.insert(id, Seen::Unknown { why });
    }

    fn destroy_machine(&mut self, node: &str) {
        let id = self.machine(node).id.clone();
        self.machines.known_mut().unwrap().retain(|m| m.id != id);
        self.reports.remove(&id);
        for volume in self.volumes.known_mut().unwrap().iter_mut().filter(|v| v.attached_to.as_ref() == Some(&id)) {
            volume.attached_to = None;
        }
    }

    fn lose_volume(&mut self, name: &str) {
        let volume = node(name).volume();
        self.volumes.known_mut().unwrap().retain(|v| v.name != volume);
    }

    fn stop(&mut self, node: &str) {
        self.machine(node).power = Power::Stopped;
        let id = self.machine(node).id.clone();
        self.reports.remove(&id);
    }

    fn add_volume(&mut self, id: &str, name: &str, region: &str) {
        self.volumes.known_mut().unwrap().push(Volume {
            id: id.to_owned(),
            name: name.to_owned(),
            region: region.to_owned(),
            size_gb: 1,
            attached_to: None,
            snapshots: SnapshotPolicy { daily: true, retention_days: 5 },
            host_ok: true,
            created_at: "2026-01-01T00:00:00Z".to_owned(),
        });
    }

    fn add_foreign_machine(&mut self, id: &str, name: &str, region: &str) {
        self.machines.known_mut().unwrap().push(Machine {
            id: id.to_owned(),
            name: name.to_owned(),
            region: region.to_owned(),
            power: Power::Started,
            host_ok: true,
            address: None,
            config: Some(MachineConfig {
                image: "nginx".to_owned(),
                guest: None,
                env: Default::default(),
                metadata: Default::default(),
                volume: None,
            }),
        });
    }
}

/// The holds of a plan, one a line.
#[track_caller]
pub(crate) fn check_holds(plan: &Plan, expected: Expect) {
    let lines: Vec<_> = plan.holds.iter().map(|hold| render::hold(hold) + "\n").collect();
    expected.assert_eq(&lines.concat());
}
