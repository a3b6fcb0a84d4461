//! Planner transcripts: a cluster, what happens to it, and every turn that follows.

mod busy;
mod loss;
mod strays;

use std::time::Duration;

use expect_test::{Expect, expect};

use crate::Timestamp;
use crate::decree::{CommitMode, Decree, Stage};
use crate::failover::Rule;
use crate::failover::lease::{Granted, Mono};
use crate::names::NodeName;
use crate::observed::{Observed, Order, Pulse, Seen, Stopped};
use crate::plan::{self, Action, Plan};
use crate::protocol::{End, Gate, Leading, Lsn, NodeReport, PgRole, Phase, Standing, Task};
use crate::render;
use crate::spec::ClusterSpec;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn file(nodes: u32, durability: &str) -> ClusterSpec {
    let text = format!(
        "apiVersion: flypg/v1\nkind: PostgresCluster\nmetadata: {{ name: orders-db }}\nspec:\n  organization: acme\n  \
         postgres: {{ version: 15 }}\n  regions: {{ primary: {{ code: ord, nodes: {nodes} }} }}\n  machine: {{ \
         cpuKind: shared, cpus: 1, memory: 1GB }}\n  storage: {{ size: 1GB }}\n  durability: {durability}\n"
    );
    match crate::spec::parse("test", text.as_bytes()) {
        Ok(mut clusters) => clusters.remove(0).value,
        Err(diagnostics) => panic!("{diagnostics:?}"),
    }
}

/// A cluster as its controller sees it, some time after it began to lead.
struct Story {
    spec: ClusterSpec,
    world: Observed,
    told: String,
}

impl Story {
    /// It was made from the file and runs.
    fn of(nodes: u32, durability: &str) -> Self {
        let mut world = Observed { record: Seen::at(NOW, None), app: Seen::at(NOW, None), ..Observed::default() };
        world.watch.leads_since = Some(Mono(Duration::ZERO));
        world.watch.now = Mono(Duration::from_secs(100));
        let mut story = Self { spec: file(nodes, durability), world, told: String::new() };
        story.run();
        story.told.clear();
        story
    }

    /// Three nodes, the first of which is proven to be stopped: the second is chosen, and is not promoted yet.
    fn of_a_candidate() -> Self {
        let mut story = Self::of(3, "quorum");
        let (id, at) = (machine(&story.world, "ord-1"), story.world.watch.now);
        story.world.watch.stopped.insert(id, Stopped { at });
        silent(&mut story.world, "ord-1");
        while story.decree().promotion().is_none() {
            for step in &story.plan().steps {
                plan::apply(&mut story.world, &step.action, NOW);
            }
        }
        story
    }

    fn plan(&self) -> Plan {
        plan::plan(&self.spec, &self.world, NOW)
    }

    /// Turn after turn, each carried out, until nothing changes any more; then what is waited for.
    fn run(&mut self) {
        let mut turns = 0;
        loop {
            let plan = self.plan();
            for step in plan.changes() {
                self.told.push_str(&format!("  {}\n", render::step(step)));
            }
            let acted = plan.changes().next().is_some();
            for step in &plan.steps {
                plan::apply(&mut self.world, &step.action, NOW);
            }
            let settled = !acted && plan::settle(&mut self.world, NOW);
            if !acted && !settled {
                for hold in &plan.holds {
                    self.told.push_str(&format!("  ({})\n", render::hold(hold)));
                }
                break;
            }
            turns += 1;
            assert!(turns < 100, "it does not come to an end:\n{}", self.told);
        }
    }

    fn then(&mut self, what: &str, change: impl FnOnce(&mut Observed)) -> &mut Self {
        self.told.push_str(&format!("{what}\n"));
        change(&mut self.world);
        self.run();
        self
    }

    fn decree(&self) -> &Decree {
        self.world.record.known().and_then(Option::as_ref).expect("there is a record")
    }
}

fn node(name: &str) -> NodeName {
    name.parse().expect("a node's name")
}

fn machine(world: &Observed, name: &str) -> String {
    let machines = world.machines.known().expect("the machines are known");
    machines.iter().find(|m| m.name == name).expect("it has a machine").id.clone()
}

fn report<'a>(world: &'a mut Observed, name: &str) -> &'a mut NodeReport {
    let id = machine(world, name);
    world.reports.get_mut(&id).and_then(Seen::known_mut).expect("it reported")
}

fn silent(world: &mut Observed, name: &str) {
    let id = machine(world, name);
    let heard = Some(Mono(world.watch.now.0.saturating_sub(Duration::from_secs(3))));
    world.watch.pulses.insert(id, Pulse { heard, streamed: heard, missed: 3, ..Pulse::default() });
}

fn back(world: &mut Observed, name: &str) {
    let id = machine(world, name);
    let heard = Some(world.watch.now);
    world.watch.pulses.insert(id, Pulse { heard, streamed: heard, ..Pulse::default() });
}

fn later(world: &mut Observed, seconds: u64) {
    world.watch.now = Mono(world.watch.now.0 + Duration::from_secs(seconds));
}

fn check(story: &Story, expected: Expect) {
    expected.assert_eq(&story.told);
}

#[test]
fn the_first_node_is_waited_for_until_the_record_can_say_that_it_leads() {
    let mut story =
        Story { world: Observed { record: Seen::at(NOW, None), ..Observed::default() }, ..Story::of(1, "async") };
    story.world.app = Seen::at(NOW, None);
    let leading = |world: &Observed| {
        let reports = world.reports.values().filter_map(Seen::known);
        reports.filter(|report| matches!(report.standing, Standing::Leading(_))).count() == 1
    };
    for _ in 0..100 {
        if leading(&story.world) {
            break;
        }
        for step in &story.plan().steps {
            plan::apply(&mut story.world, &step.action, NOW);
        }
        plan::settle(&mut story.world, NOW);
    }
    if let Standing::Leading(leading) = &mut report(&mut story.world, "ord-1").standing {
        leading.confirmed = false;
    }
    assert!(matches!(story.decree().stage, Stage::Bootstrapping { .. }), "{:?}", story.decree());
    let plan = story.plan();
    let told: Vec<String> = plan.changes().map(render::step).chain(plan.holds.iter().map(render::hold)).collect();
    assert_eq!(told, ["making the cluster's data: until ord-1 has confirmed that it leads"]);
}

#[test]
fn a_cluster_of_three_comes_to_wait_for_one_standby() {
    let story = Story::of(3, "quorum");
    let decree = story.decree();
    assert_eq!(decree.stage, Stage::Established);
    assert_eq!((decree.rule.acks(), decree.rule.members().len(), &decree.joint), (1, 2, &None));
    assert_eq!(decree.members.len(), 3);
    assert!(story.plan().is_quiet(), "{:?}", story.plan());
}

#[test]
fn a_primary_that_is_silent_is_replaced_once_its_lease_is_over() {
    let mut story = Story::of(3, "quorum");
    story.world.watch.granted = Some(Granted { epoch: story.decree().reign, last: Mono(Duration::from_secs(98)) });
    story.then("ord-1 is silent", |world| silent(world, "ord-1"));
    story.then("seven seconds later", |world| later(world, 7));
    check(
        &story,
        expect![[r#"
            ord-1 is silent
              ~ record: an attempt to find who leads after ord-1, in epoch 2: ord-1 left 3 questions unanswered
              ~ ord-2 promises the new epoch and says where its data end: as on record
              ~ ord-3 promises the new epoch and says where its data end: as on record
              ~ record: ord-2 is promoted to timeline 2, in epoch 2: ord-2 has every acknowledged commit, and nobody else can acknowledge one
              ~ ord-2 is promoted to timeline 2: as on record
              ~ ord-3 follows ord-2: as on record
              ~ record: ord-2 leads, in epoch 2; commits are acknowledged by the primary with ord-3: ord-2 has confirmed that it leads
              ~ ord-2 learns where the others are: so that it routes and keeps WAL
              ~ ord-3 learns where the others are: so that it routes and keeps WAL
              ~ machine ord-1: flypg_epoch=2, flypg_role=replica: as on record
              ~ machine ord-2: flypg_epoch=2, flypg_role=primary: as on record
              ~ machine ord-3: flypg_epoch=2: as on record
              (ord-1: until ord-1 answers)
            seven seconds later
              (ord-1: until ord-1 answers)
        "#]],
    );
}

#[test]
fn without_a_read_fence_nobody_waits_for_the_lease() {
    let mut story = Story::of(3, "quorum");
    story.spec.failover.read_fence = false;
    story.world.watch.granted = Some(Granted { epoch: story.decree().reign, last: Mono(Duration::from_secs(99)) });
    story.then("ord-1 is silent", |world| silent(world, "ord-1"));
    check(
        &story,
        expect![[r#"
            ord-1 is silent
              ~ record: an attempt to find who leads after ord-1, in epoch 2: ord-1 left 3 questions unanswered
              ~ ord-2 promises the new epoch and says where its data end: as on record
              ~ ord-3 promises the new epoch and says where its data end: as on record
              ~ record: ord-2 is promoted to timeline 2, in epoch 2: ord-2 has every acknowledged commit, and nobody else can acknowledge one
              ~ ord-2 is promoted to timeline 2: as on record
              ~ ord-3 follows ord-2: as on record
              ~ record: ord-2 leads, in epoch 2; commits are acknowledged by the primary with ord-3: ord-2 has confirmed that it leads
              ~ ord-2 learns where the others are: so that it routes and keeps WAL
              ~ ord-3 learns where the others are: so that it routes and keeps WAL
              ~ machine ord-1: flypg_epoch=2, flypg_role=replica: as on record
              ~ machine ord-2: flypg_epoch=2, flypg_role=primary: as on record
              ~ machine ord-3: flypg_epoch=2: as on record
              (ord-1: until ord-1 answers)
        "#]],
    );
}

#[test]
fn one_survivor_of_three_is_not_enough_and_is_not_disturbed() {
    let mut story = Story::of(3, "quorum");
    story.then("ord-1 and ord-3 are silent", |world| {
        silent(world, "ord-1");
        silent(world, "ord-3");
    });
    story.then("ord-3 is back", |world| back(world, "ord-3"));
    check(
        &story,
        expect![[r#"
            ord-1 and ord-3 are silent
              (taking over from ord-1: until 1 more of ord-3 answer)
              (ord-1: until ord-1 answers)
              (ord-3: until ord-3 answers)
            ord-3 is back
              ~ record: an attempt to find who leads after ord-1, in epoch 2: ord-1 left 3 questions unanswered
              ~ ord-2 promises the new epoch and says where its data end: as on record
              ~ ord-3 promises the new epoch and says where its data end: as on record
              ~ record: ord-2 is promoted to timeline 2, in epoch 2: ord-2 has every acknowledged commit, and nobody else can acknowledge one
              ~ ord-2 is promoted to timeline 2: as on record
              ~ ord-3 follows ord-2: as on record
              ~ record: ord-2 leads, in epoch 2; commits are acknowledged by the primary with ord-3: ord-2 has confirmed that it leads
              ~ ord-2 learns where the others are: so that it routes and keeps WAL
              ~ ord-3 learns where the others are: so that it routes and keeps WAL
              ~ machine ord-1: flypg_epoch=2, flypg_role=replica: as on record
              ~ machine ord-2: flypg_epoch=2, flypg_role=primary: as on record
              ~ machine ord-3: flypg_epoch=2: as on record
              (ord-1: until ord-1 answers)
        "#]],
    );
}

#[test]
fn a_crash_that_the_agent_tells_of_needs_no_timer() {
    let mut story = Story::of(3, "quorum");
    for name in ["ord-2", "ord-3"] {
        report(&mut story.world, name).primary_heard = Some(Duration::ZERO);
    }
    story.then("Postgres of ord-1 has ended", |world| {
        let report = report(world, "ord-1");
        report.phase = Phase::Starting;
        report.postgres = None;
        if let Standing::Leading(leading) = &mut report.standing {
            leading.confirmed = false;
            leading.gate = Gate::Down;
        }
    });
    check(
        &story,
        expect![[r#"
            Postgres of ord-1 has ended
              ~ record: an attempt to find who leads after ord-1, in epoch 2: ord-1 says that its Postgres has ended
              ~ ord-1 promises the new epoch and says where its data end: as on record
              ~ ord-2 promises the new epoch and says where its data end: as on record
              ~ ord-3 promises the new epoch and says where its data end: as on record
              ~ record: ord-2 is promoted to timeline 2, in epoch 2: ord-2 has every acknowledged commit, and nobody else can acknowledge one
              ~ ord-1 learns where the others are: so that it routes and keeps WAL
              ~ ord-2 is promoted to timeline 2: as on record
              ~ ord-3 learns where the others are: so that it routes and keeps WAL
              ~ record: ord-2 leads, in epoch 2; commits are acknowledged by the primary with ord-3: ord-2 has confirmed that it leads
              ~ ord-1 learns where the others are: so that it routes and keeps WAL
              ~ ord-2 learns where the others are: so that it routes and keeps WAL
              ~ ord-3 learns where the others are: so that it routes and keeps WAL
              ~ machine ord-1: flypg_epoch=2, flypg_role=replica: as on record
              ~ machine ord-2: flypg_epoch=2, flypg_role=primary: as on record
              ~ machine ord-3: flypg_epoch=2: as on record
              ~ record: ord-2 leads, in epoch 2, and is to acknowledge commits by the primary with any 1 of ord-1, ord-3: as `durability` asks, with the standbys there are
              ~ ord-1 learns where the others are: so that it routes and keeps WAL
              ~ ord-2 learns where the others are: so that it routes and keeps WAL
              ~ ord-3 learns where the others are: so that it routes and keeps WAL
              ~ record: ord-2 leads, in epoch 2; commits are acknowledged by the primary with any 1 of ord-1, ord-3: it is in effect, and covers everything before it
              ~ ord-1 learns where the others are: so that it routes and keeps WAL
              ~ ord-2 learns where the others are: so that it routes and keeps WAL
              ~ ord-3 learns where the others are: so that it routes and keeps WAL
        "#]],
    );
}

#[test]
fn a_standby_that_hears_the_primary_keeps_it_in_place() {
    let mut story = Story::of(3, "quorum");
    report(&mut story.world, "ord-2").primary_heard = Some(Duration::from_millis(500));
    let id = machine(&story.world, "ord-2");
    let heard = Some(story.world.watch.now);
    story.world.watch.pulses.insert(id, Pulse { heard, ..Pulse::default() });
    story.then("ord-1 is silent", |world| silent(world, "ord-1"));
    check(
        &story,
        expect![[r#"
        ord-1 is silent
          (taking over from ord-1: until ord-1 answers again: ord-2 still hears it, so only the controller is cut off)
          (ord-1: until ord-1 answers)
    "#]],
    );
}

#[test]
fn two_nodes_fail_over_with_the_survivor() {
    let mut story = Story::of(2, "quorum-available");
    story.world.watch.granted = Some(Granted { epoch: story.decree().reign, last: Mono(Duration::from_secs(98)) });
    story.then("ord-1 is silent", |world| silent(world, "ord-1"));
    story.then("its machine is proven stopped", |world| {
        let id = machine(world, "ord-1");
        let at = world.watch.now;
        world.watch.stopped.insert(id, Stopped { at });
    });
    check(
        &story,
        expect![[r#"
            ord-1 is silent
              ~ record: an attempt to find who leads after ord-1, in epoch 2: ord-1 left 3 questions unanswered
              ~ ord-2 promises the new epoch and says where its data end: as on record
              ~ record: ord-2 is promoted to timeline 2, in epoch 2: ord-2 has every acknowledged commit, and nobody else can acknowledge one
              ~ ord-2 is promoted to timeline 2: as on record
              ~ record: ord-2 leads, in epoch 2; commits are acknowledged by the primary alone: ord-2 has confirmed that it leads
              ~ ord-2 learns where the others are: so that it routes and keeps WAL
              ~ machine ord-1: flypg_epoch=2, flypg_role=replica: as on record
              ~ machine ord-2: flypg_epoch=2, flypg_role=primary: as on record
              (waiting for standbys before commits are acknowledged: until 1 standbys are whole copies and stream (there are 0))
              (ord-1: until ord-1 answers)
            its machine is proven stopped
              (waiting for standbys before commits are acknowledged: until 1 standbys are whole copies and stream (there are 0))
              (ord-1: until ord-1 answers)
        "#]],
    );
}

/// One that streams from its first moment on is counted on only later, and the rule changes then: a plan that said nothing
/// before would be taken for the last one.
#[test]
fn a_standby_that_streams_is_waited_for_until_it_can_be_counted_on() {
    let mut story = Story::of(3, "quorum");
    back(&mut story.world, "ord-3");
    let history = report(&mut story.world, "ord-3").postgres.as_mut().expect("it runs").history.take();
    let plan = story.plan();
    assert_eq!(plan.changes().count(), 0);
    let holds: Vec<String> = plan.holds.iter().map(render::hold).collect();
    assert_eq!(holds, ["ord-3: until ord-3 has caught up"]);
    assert!(plan.holds[0].until.is_wait());
    report(&mut story.world, "ord-3").postgres.as_mut().expect("it runs").history = history;
    assert!(story.plan().is_quiet());
}

/// As when `flypg switchover` is the first to watch the cluster for a while.
#[test]
fn a_primary_that_its_standbys_vouch_for_hands_over_once_they_do_not() {
    let mut story = Story::of(3, "quorum");
    story.then("ord-2 has vouched for ord-1, and ord-3 shall lead", |world| {
        report(world, "ord-2").pledged_for = Some(Duration::from_secs(4));
        back(world, "ord-2");
        world.watch.order = Some(Order::Switchover { to: Some(node("ord-3")) });
    });
    story.then("a second later", |world| later(world, 1));
    assert_eq!(story.decree().stage, Stage::Established);
    check(
        &story,
        expect![[r#"
            ord-2 has vouched for ord-1, and ord-3 shall lead
              (taking over from ord-1: until the pledge of ord-2 to the old primary is over, in 4.0 s)
            a second later
              (taking over from ord-1: until the pledge of ord-2 to the old primary is over, in 3.0 s)
        "#]],
    );
    later(&mut story.world, 3);
    assert!(story.plan().changes().next().is_some_and(|step| matches!(step.action, Action::Decide { .. })));
}

#[test]
fn a_switchover_goes_to_whom_it_was_asked_for() {
    let mut story = Story::of(3, "quorum");
    story.then("ord-3 shall lead", |world| {
        world.watch.order = Some(crate::observed::Order::Switchover { to: Some(node("ord-3")) });
    });
    check(
        &story,
        expect![[r#"
            ord-3 shall lead
              ~ record: ord-1 hands over to ord-3: a switchover to ord-3 was asked for
              ~ ord-1 leads until ord-3 is ready, and gives up: as on record
              ~ ord-2 learns where the others are: so that it routes and keeps WAL
              ~ ord-3 learns where the others are: so that it routes and keeps WAL
              ~ record: an attempt to find who leads after ord-1, in epoch 2: a switchover to ord-3 was asked for
              ~ ord-1 promises the new epoch and says where its data end: as on record
              ~ ord-2 promises the new epoch and says where its data end: as on record
              ~ ord-3 promises the new epoch and says where its data end: as on record
              ~ record: ord-3 is promoted to timeline 2, in epoch 2: ord-3 has every acknowledged commit, and nobody else can acknowledge one
              ~ ord-1 learns where the others are: so that it routes and keeps WAL
              ~ ord-2 learns where the others are: so that it routes and keeps WAL
              ~ ord-3 is promoted to timeline 2: as on record
              ~ record: ord-3 leads, in epoch 2; commits are acknowledged by the primary with ord-2: ord-3 has confirmed that it leads
              ~ ord-1 learns where the others are: so that it routes and keeps WAL
              ~ ord-2 learns where the others are: so that it routes and keeps WAL
              ~ ord-3 learns where the others are: so that it routes and keeps WAL
              ~ machine ord-1: flypg_epoch=2, flypg_role=replica: as on record
              ~ machine ord-2: flypg_epoch=2: as on record
              ~ machine ord-3: flypg_epoch=2, flypg_role=primary: as on record
              ~ record: ord-3 leads, in epoch 2, and is to acknowledge commits by the primary with any 1 of ord-1, ord-2: as `durability` asks, with the standbys there are
              ~ ord-1 learns where the others are: so that it routes and keeps WAL
              ~ ord-2 learns where the others are: so that it routes and keeps WAL
              ~ ord-3 learns where the others are: so that it routes and keeps WAL
              ~ record: ord-3 leads, in epoch 2; commits are acknowledged by the primary with any 1 of ord-1, ord-2: it is in effect, and covers everything before it
              ~ ord-1 learns where the others are: so that it routes and keeps WAL
              ~ ord-2 learns where the others are: so that it routes and keeps WAL
              ~ ord-3 learns where the others are: so that it routes and keeps WAL
        "#]],
    );
}

#[test]
fn leases_are_renewed_for_reports_that_came_before_the_record_was_read() {
    let mut story = Story::of(3, "quorum");
    let id = machine(&story.world, "ord-1");
    let heard = Mono(Duration::from_secs(100));
    story.world.watch.pulses.insert(id, Pulse { heard: Some(heard), ..Pulse::default() });
    let renewals =
        |story: &Story| story.plan().steps.iter().filter(|step| matches!(step.action, Action::Renew { .. })).count();
    story.world.watch.record_read = Mono(Duration::from_millis(99_999));
    assert_eq!(renewals(&story), 0, "the record may have changed since");
    story.world.watch.record_read = heard;
    assert_eq!(renewals(&story), 1);
    story.world.watch.granted = Some(Granted { epoch: story.decree().reign, last: heard });
    assert_eq!(renewals(&story), 0, "it was answered already");
    story.world.watch.granted = None;
    story.world.watch.leads_since = None;
    assert_eq!(renewals(&story), 0, "another controller leads");
}

#[test]
fn a_standby_that_stays_away_is_not_waited_for_any_more_and_comes_back() {
    let mut story = Story::of(3, "quorum");
    story.then("ord-3 is silent", |world| silent(world, "ord-3"));
    story.then("half a minute later", |world| {
        later(world, 31);
        back(world, "ord-2");
    });
    story.then("ord-3 is back", |world| back(world, "ord-3"));
    check(
        &story,
        expect![[r#"
        ord-3 is silent
          (ord-3: until ord-3 answers)
        half a minute later
          ~ record: ord-1 leads, in epoch 1, and is to acknowledge commits by the primary with ord-2: as `durability` asks, with the standbys there are
          ~ ord-1 learns where the others are: so that it routes and keeps WAL
          ~ ord-2 learns where the others are: so that it routes and keeps WAL
          ~ record: ord-1 leads, in epoch 1; commits are acknowledged by the primary with ord-2: it is in effect, and covers everything before it
          ~ ord-1 learns where the others are: so that it routes and keeps WAL
          ~ ord-2 learns where the others are: so that it routes and keeps WAL
          (ord-3: until ord-3 answers)
        ord-3 is back
          ~ record: ord-1 leads, in epoch 1, and is to acknowledge commits by the primary with any 1 of ord-2, ord-3: as `durability` asks, with the standbys there are
          ~ ord-1 learns where the others are: so that it routes and keeps WAL
          ~ ord-2 learns where the others are: so that it routes and keeps WAL
          ~ ord-3 learns where the others are: so that it routes and keeps WAL
          ~ record: ord-1 leads, in epoch 1; commits are acknowledged by the primary with any 1 of ord-2, ord-3: it is in effect, and covers everything before it
          ~ ord-1 learns where the others are: so that it routes and keeps WAL
          ~ ord-2 learns where the others are: so that it routes and keeps WAL
          ~ ord-3 learns where the others are: so that it routes and keeps WAL
    "#]],
    );
}

#[test]
fn an_asynchronous_cluster_knows_its_candidates() {
    let story = Story::of(3, "async");
    let decree = story.decree();
    assert_eq!(decree.candidates.len(), 2);
    assert_eq!(decree.candidates, decree.pledgers);
    assert!(matches!(
        story.world.reports.values().find_map(|r| match &r.known()?.postgres.as_ref()?.role {
            PgRole::Primary { .. } => Some(()),
            PgRole::Standby { .. } => None,
        }),
        Some(())
    ));
}

#[test]
fn a_recovery_that_nobody_can_shorten_is_let_be() {
    let mut story = Story::of(1, "async");
    story.then("ord-1 recovers for an hour", |world| {
        let now = world.watch.now;
        let id = machine(world, "ord-1");
        world.watch.pulses.insert(id, Pulse { heard: Some(now), down_since: Some(now), ..Pulse::default() });
        let report = report(world, "ord-1");
        report.phase = Phase::Starting;
        report.postgres = None;
        later(world, 3600);
    });
    check(
        &story,
        expect![[r#"
        ord-1 recovers for an hour
          (taking over from ord-1: until a node answers that may lead)
          (ord-1: until ord-1 is ready (starting))
    "#]],
    );
}

#[test]
fn a_primary_whose_machine_was_destroyed_is_replaced_and_comes_back_as_a_standby() {
    let mut story = Story::of(3, "quorum");
    story.then("somebody destroyed ord-1", |world| {
        let id = machine(world, "ord-1");
        world.machines.known_mut().expect("known").retain(|m| m.id != id);
        world.reports.remove(&id);
        for volume in world.volumes.known_mut().expect("known").iter_mut() {
            if volume.attached_to.as_deref() == Some(id.as_str()) {
                volume.attached_to = None;
            }
        }
    });
    check(
        &story,
        expect![[r#"
        somebody destroyed ord-1
          ~ record: an attempt to find who leads after ord-1, in epoch 2: ord-1 has stopped: its machine is off
          ~ ord-2 promises the new epoch and says where its data end: as on record
          ~ ord-3 promises the new epoch and says where its data end: as on record
          + machine ord-1, shared-1x 1024 MB with flypg/postgres:15: the file wants 3 here, there are 2
          ~ record: ord-2 is promoted to timeline 2, in epoch 2: ord-2 has every acknowledged commit, and nobody else can acknowledge one
          ~ ord-2 is promoted to timeline 2: as on record
          ~ ord-3 learns where the others are: so that it routes and keeps WAL
          ~ record: ord-2 leads, in epoch 2; commits are acknowledged by the primary with ord-3: ord-2 has confirmed that it leads
          ~ ord-1 follows ord-2: it has not been told anything yet
          ~ ord-2 learns where the others are: so that it routes and keeps WAL
          ~ ord-3 learns where the others are: so that it routes and keeps WAL
          ~ machine ord-2: flypg_epoch=2, flypg_role=primary: as on record
          ~ machine ord-3: flypg_epoch=2: as on record
          ~ record: ord-2 leads, in epoch 2, and is to acknowledge commits by the primary with any 1 of ord-1, ord-3: as `durability` asks, with the standbys there are
          ~ ord-1 learns where the others are: so that it routes and keeps WAL
          ~ ord-2 learns where the others are: so that it routes and keeps WAL
          ~ ord-3 learns where the others are: so that it routes and keeps WAL
          ~ record: ord-2 leads, in epoch 2; commits are acknowledged by the primary with any 1 of ord-1, ord-3: it is in effect, and covers everything before it
          ~ ord-1 learns where the others are: so that it routes and keeps WAL
          ~ ord-2 learns where the others are: so that it routes and keeps WAL
          ~ ord-3 learns where the others are: so that it routes and keeps WAL
    "#]],
    );
}

/// Told to lead, it would be upheld by the pledges of those that have what it lacks: they follow it in the same epoch.
#[test]
fn a_primary_on_an_older_volume_is_told_nothing_while_there_are_others() {
    for (nodes, durability, told) in [(3, "quorum", false), (1, "async", true)] {
        let mut story = Story::of(nodes, durability);
        let record = story.world.record.known_mut().and_then(Option::as_mut).expect("there is a record");
        // No attempt is left that would end it.
        record.failovers = vec![NOW, NOW];
        let member = record.members.get_mut(&node("ord-1")).expect("it counts");
        (member.machine, member.volume) = ("another".to_owned(), Some("another".to_owned()));
        report(&mut story.world, "ord-1").assignment = None;
        let plan = story.plan();
        let leads = plan
            .steps
            .iter()
            .any(|step| matches!(&step.action, Action::Assign { assignment, .. } if assignment.node == node("ord-1")));
        assert_eq!(leads, told, "{nodes} nodes: {plan:?}");
        assert!(!plan.steps.iter().any(|step| matches!(step.action, Action::Renew { .. })), "{plan:?}");
    }
}
