//! What happens to machines, as timelines.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use crate::runtime::Model;
use crate::world::app::CreateApp;
use crate::world::ips::AddressPlan;
use crate::world::knobs::Knobs;
use crate::world::machine::Exit;
use crate::world::report::Report;
use crate::world::time::Millis;
use crate::world::volume::CreateVolume;
use crate::world::{CreateMachine, Effect, UpdateMachine, World};

/// A world that writes down what it does. Times are milliseconds since its beginning.
struct Story {
    world: World,
    now: Millis,
    lines: Vec<String>,
}

const BEGIN: u64 = 1_700_000_000_000;

impl Story {
    fn new(knobs: Knobs) -> Self {
        let mut world = World::new(1, knobs, AddressPlan::SixPn);
        let app = CreateApp { name: "db".into(), org: "acme".into(), ..CreateApp::default() };
        world.create_app(Millis(BEGIN), app).unwrap();
        Self { world, now: Millis(BEGIN), lines: Vec::new() }
    }

    fn say(&mut self, line: String) {
        self.lines.push(format!("{:<6} {line}", self.now.since(Millis(BEGIN))));
    }

    fn create(&mut self, config: Value) -> String {
        let config = config.as_object().unwrap().clone();
        let create = CreateMachine { name: Some("a".into()), config, ..CreateMachine::default() };
        let id = self.world.create_machine(self.now, "db", create).unwrap().id.clone();
        self.say("create".into());
        id
    }

    fn act(&mut self, what: &str, act: impl FnOnce(&mut World, Millis)) {
        self.say(what.to_owned());
        act(&mut self.world, self.now);
        self.effects();
    }

    /// Performs effects as the model does, and notes them.
    fn effects(&mut self) {
        loop {
            let effects = self.world.take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                let name = format!("{effect:?}");
                let name = name.split([' ', '(', '{']).next().unwrap().to_owned();
                let detail = match &effect {
                    Effect::Halt { signal, timeout_ms, .. } => format!(" {signal} {timeout_ms} ms"),
                    _ => String::new(),
                };
                self.say(format!("  → {name}{detail}"));
                for report in Model::outcome(effect) {
                    self.world.report(self.now, report);
                }
            }
        }
    }

    /// Lets time pass, noting every change of state.
    fn pass(&mut self, ms: u64) {
        let until = self.now.after(ms);
        self.states();
        while let Some(due) = self.world.next_due().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.world.advance(self.now);
            self.effects();
            self.states();
        }
        self.now = until;
    }

    fn states(&mut self) {
        let app = &self.world.apps["db"];
        let machines = app.machines.values().map(|machine| machine.state.word());
        let volumes = app.volumes.values().map(|volume| volume.state.word());
        let state = machines.chain(volumes).collect::<Vec<_>>().join(" ");
        let line = format!("  = {state}");
        if self.lines.iter().rev().find(|old| old[7..].starts_with("  =")).is_none_or(|old| old[7..] != line) {
            self.say(line);
        }
    }

    fn exit(&mut self, id: &str, code: i32) {
        let run = self.world.apps["db"].machines[id].run.number;
        let exit = Exit { code, ..Exit::CLEAN };
        let report = Report::Exited { app: "db".into(), machine: id.to_owned(), run, exit };
        self.act(&format!("exits with {code}"), |world, now| world.report(now, report));
        self.states();
    }

    #[allow(clippy::needless_pass_by_value)]
    fn check(&self, expected: Expect) {
        expected.assert_eq(&(self.lines.join("\n") + "\n"));
    }
}

#[test]
fn the_windows_of_a_life() {
    let mut story = Story::new(Knobs::realistic());
    let config = json!({"image": "x", "stop_config": {"signal": "SIGTERM", "timeout": "1m"}});
    let id = story.create(config.clone());
    story.pass(20_000);
    let update = UpdateMachine { config: config.as_object().unwrap().clone(), ..UpdateMachine::default() };
    story.act("update", |world, now| drop(world.update_machine(now, "db", &id, None, update).unwrap()));
    story.pass(20_000);
    story.act("stop", |world, now| world.stop_machine(now, "db", &id, None, None, None).unwrap());
    story.pass(20_000);
    story.act("destroy", |world, now| world.destroy_machine(now, "db", &id, None, false).unwrap());
    story.pass(20_000);
    story.check(expect![[r#"
        0      create
        0        = created
        9000     = starting
        10000    → Boot
        10000    = started
        20000  update
        20000    → Halt SIGTERM 60000 ms
        20000    = replacing
        23500    = starting
        24500    → Boot
        24500    = started
        40000  stop
        40000    → Halt SIGTERM 60000 ms
        40000    = stopping
        40500    = stopped
        60000  destroy
        60000    = destroying
        62000    → Discard
        62000    = destroyed
    "#]]);
}

#[test]
fn on_failure_backs_off_and_gives_up() {
    let mut story = Story::new(Knobs { restart_backoff_ms: 100, ..Knobs::default() });
    let id = story.create(json!({"image": "x", "restart": {"policy": "on-failure", "max_retries": 3}}));
    story.pass(0);
    for _ in 0..4 {
        story.exit(&id, 1);
        story.pass(1000);
    }
    story.check(expect![[r#"
        0      create
        0        = created
        0        → Boot
        0        = started
        0      exits with 1
        0        = starting
        100      → Boot
        100      = started
        1000   exits with 1
        1000     = starting
        1200     → Boot
        1200     = started
        2000   exits with 1
        2000     = starting
        2400     → Boot
        2400     = started
        3000   exits with 1
        3000     = stopped
    "#]]);
}

#[test]
fn a_restored_volume_holds_up_the_boot() {
    let mut story =
        Story::new(Knobs { snapshot_wait_ms: 10, snapshot_run_ms: 10, restore_ms: 500, ..Knobs::default() });
    let create = |snapshot: Option<String>| CreateVolume {
        name: "data".into(),
        auto_backup: Some(false),
        snapshot_id: snapshot,
        ..CreateVolume::default()
    };
    let source = story.world.create_volume(story.now, "db", create(None)).unwrap().id.clone();
    story.effects();
    let snapshot = story.world.take_snapshot(story.now, "db", &source).unwrap().id;
    story.pass(100);
    let restored = story.world.create_volume(story.now, "db", create(Some(snapshot))).unwrap().id.clone();
    // The content is still on its way.
    let effects = story.world.take_effects();
    story.create(json!({"image": "x", "mounts": [{"volume": restored, "path": "/data"}]}));
    story.pass(100);
    story.say("filled".into());
    for report in effects.into_iter().flat_map(Model::outcome) {
        story.world.report(story.now, report);
    }
    story.effects();
    story.pass(1000);
    story.check(expect![[r#"
        0        → MakeVolume
        0        = created
        10       → TakeSnapshot
        100    create
        100      = created created restoring
        100      = starting created restoring
        200    filled
        200      → Boot
        200      = started created restoring
        600      = started created created
    "#]]);
}
