//! Three nodes with real Postgres, told what a controller would tell them: recruit, promote, follow, come back.

#![allow(clippy::print_stderr)] // a skipped test says so

mod common;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use common::*;
use flypg_core::decree::{Epoch, SystemId};
use flypg_core::failover::{Branch, Lineage, Rule};
use flypg_core::protocol::{
    Assignment, End, Gate, Leading, Lsn, NodeReport, PeerRole, PgRole, Phase, Standing, Task, Terms, ports,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What a controller would have on record.
struct Cluster {
    nodes: [Node; 3],
    system_id: SystemId,
    epoch: u64,
    revision: u64,
    lineage: Lineage,
    /// What each was told last: the revision, and the rule if it is to lead.
    told: [(u64, Option<Rule>); 3],
}

const ONE: usize = 0;
const TWO: usize = 1;
const THREE: usize = 2;

impl Cluster {
    /// The first node leads, alone, and the others stream from it.
    fn new() -> Self {
        Self::of(15)
    }

    fn of(major: u32) -> Self {
        let nodes = ["ord-1", "ord-2", "ord-3"].map(|name| {
            let mut node = Node::new(name);
            node.major = major;
            node.bin = flypg_agent::config::installed(major);
            node.start();
            node
        });
        let system_id = nodes[ONE].bootstrap(&[]);
        let lineage = lineage(&nodes[ONE]);
        let mut cluster = Self { nodes, system_id, epoch: 1, revision: 1, lineage, told: Default::default() };
        cluster.lead(ONE, Rule::alone());
        for standby in [TWO, THREE] {
            cluster.follow(standby, ONE, false);
        }
        for standby in [TWO, THREE] {
            cluster.nodes[standby].until("it streams", streams);
        }
        cluster
    }

    /// The same, and every commit waits for one of the two.
    fn synchronous() -> Self {
        Self::new().waiting()
    }

    fn waiting(self) -> Self {
        let mut cluster = self;
        cluster.lead(ONE, cluster.any(1, &[TWO, THREE]));
        cluster.opens(ONE);
        cluster
    }

    fn any(&self, acks: usize, members: &[usize]) -> Rule {
        Rule::any(acks, members.iter().map(|n| self.nodes[*n].name.parse().unwrap()).collect()).unwrap()
    }

    fn nonce(&self) -> String {
        format!("n{}", self.epoch)
    }

    fn terms(&self, rule: Rule) -> Terms {
        Terms { nonce: self.nonce(), rule, pledges: Vec::new() }
    }

    fn assignment(&mut self, node: usize, task: Task) -> Assignment {
        self.revision += 1;
        self.told[node] = (self.revision, task.terms().map(|terms| terms.rule.clone()));
        let peers: Vec<_> = self.nodes.iter().map(|node| (node, PeerRole::Joining)).collect();
        let base = self.nodes[node].assignment(task, &peers, &[]);
        Assignment { epoch: Epoch(self.epoch), revision: self.revision, ..base }
    }

    fn tell(&mut self, node: usize, task: Task) {
        let assignment = self.assignment(node, task);
        let answer = self.nodes[node].put(&assignment);
        assert_eq!(answer.status, 200, "{}: {}", self.nodes[node].name, answer.body);
    }

    fn lead(&mut self, node: usize, rule: Rule) {
        let task = Task::Lead { system_id: self.system_id.clone(), terms: self.terms(rule) };
        self.tell(node, task);
    }

    fn follow(&mut self, node: usize, primary: usize, remake: bool) {
        let primary = self.nodes[primary].name.parse().unwrap();
        let (system_id, lineage) = (self.system_id.clone(), self.lineage.clone());
        self.tell(node, Task::Follow { primary, system_id, lineage, remake });
    }

    /// As long as the first node is on record.
    fn recruit_task(&self) -> Task {
        Task::Recruit { primary: self.nodes[ONE].name.parse().unwrap() }
    }

    /// A new epoch, which these are recruited for; where their WAL ends.
    fn recruit(&mut self, nodes: &[usize]) -> Vec<End> {
        self.epoch += 1;
        for node in nodes {
            self.tell(*node, self.recruit_task());
        }
        nodes
            .iter()
            .map(|node| self.nodes[*node].until("it says where it ends", |r| end(r).is_some()))
            .collect::<Vec<_>>()
            .iter()
            .map(|report| end(report).unwrap())
            .collect()
    }

    /// Promotes a recruit in the epoch that runs, and puts its timeline on record once its gate is open.
    fn promote(&mut self, node: usize, timeline: u32, burnt: &[u32], rule: Rule, others: &[usize]) -> Leading {
        self.lineage.authorise(Epoch(self.epoch), self.nonce());
        let (system_id, terms) = (self.system_id.clone(), self.terms(rule));
        self.tell(node, Task::Promote { system_id, timeline, burnt: burnt.to_vec(), terms });
        for other in others {
            self.follow(*other, node, false);
        }
        let leading = self.opens(node);
        let start = leading.start.expect("an open primary knows where its timeline began");
        let branch = Branch { epoch: Epoch(self.epoch), timeline, start, node: self.nodes[node].name.parse().unwrap() };
        assert!(self.lineage.append(branch));
        leading
    }

    /// The gate is open, under the rule that was told.
    fn opens(&self, node: usize) -> Leading {
        let report = self.nodes[node].until("its gate is open under the rule it was told", |report| {
            let told = report.revision == self.told[node].0;
            let under = |leading: &Leading| leading.rule.as_ref() == self.told[node].1.as_ref() && leading.covered;
            told && leading(report).is_some_and(|l| l.gate == Gate::Open && l.checkpointed && under(&l))
        });
        leading(&report).unwrap()
    }

    /// Each node's past is the cluster's.
    fn fits(&self, nodes: &[usize]) {
        for node in nodes {
            let markers: Vec<_> = self.nodes[*node]
                .until("it has read all markers", |report| {
                    let history = report.postgres.as_ref().and_then(|pg| pg.history.clone());
                    history.is_some_and(|h| h.markers.last().is_some_and(|(epoch, _)| *epoch == Epoch(self.epoch)))
                })
                .postgres
                .and_then(|pg| pg.history)
                .into_iter()
                .collect();
            for history in markers {
                let placed = self.lineage.place(&history, Lsn(u64::MAX));
                assert!(placed.is_ok(), "{}: {history:?}: {placed:?}", self.nodes[*node].name);
            }
        }
    }

    async fn rows(&self, node: usize) -> String {
        self.nodes[node].value(ports::NODE, "SELECT string_agg(n::text, ' ' ORDER BY n) FROM t").await
    }

    async fn comes_to_have(&self, node: usize, rows: &str) {
        eventually("the rows are there", || async { self.rows(node).await == rows }).await;
    }
}

fn leading(report: &NodeReport) -> Option<Leading> {
    match &report.standing {
        Standing::Leading(leading) => Some(leading.clone()),
        _ => None,
    }
}

fn end(report: &NodeReport) -> Option<End> {
    match &report.standing {
        Standing::Recruited { end } | Standing::Relinquished { end, .. } => end.clone(),
        _ => None,
    }
}

fn streams_from(report: &NodeReport, node: &Node) -> bool {
    let role = report.postgres.as_ref().map(|pg| &pg.role);
    matches!(role, Some(PgRole::Standby { streaming_from: Some(from), .. }) if from.to_string() == node.name)
}

/// A commit of a superuser's that waits for nobody: what a primary has that no standby may have.
async fn write_alone(node: &Node, rows: &str) {
    let client = node.connect(ports::NODE).await.unwrap();
    let statement = format!("SET synchronous_commit = local; INSERT INTO t SELECT generate_series({rows})");
    client.batch_execute(&statement).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_was_replaced_comes_back_by_a_rewind() {
    comes_back_by_a_rewind(15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_with_every_newer_postgres() {
    for major in 16..=18 {
        match flypg_agent::config::installed(major) {
            Some(_) => comes_back_by_a_rewind(major).await,
            None => eprintln!("SKIPPED: PostgreSQL {major} is not here"),
        }
    }
}

async fn comes_back_by_a_rewind(major: u32) {
    let mut cluster = Cluster::of(major).waiting();
    cluster.nodes[ONE].value(ports::READ_WRITE, "CREATE TABLE t AS SELECT generate_series(1, 3) AS n").await;
    let ends = cluster.recruit(&[TWO, THREE]);
    write_alone(&cluster.nodes[ONE], "100, 200").await;
    let best = if ends[0].lsn >= ends[1].lsn { (TWO, THREE) } else { (THREE, TWO) };
    let rule = cluster.any(1, &[best.1]);
    let led = cluster.promote(best.0, 2, &[], rule, &[best.1]);
    assert_eq!(led.start, Some(ends.iter().map(|end| end.lsn).max().unwrap()));
    cluster.nodes[best.0].value(ports::READ_WRITE, "INSERT INTO t VALUES (4)").await;
    cluster.nodes[best.1].until("it follows the new primary", |r| streams_from(r, &cluster.nodes[best.0]));
    cluster.comes_to_have(best.1, "1 2 3 4").await;

    // Without leave nothing that only it has is touched.
    cluster.follow(ONE, best.0, false);
    cluster.nodes[ONE].until(
        "it says that its data went another way",
        |report| matches!(&report.phase, Phase::Failing { why } if why.contains("went another way")),
    );
    assert_eq!(control_state(&cluster.nodes[ONE]), "shut down");
    cluster.follow(ONE, best.0, true);
    cluster.nodes[ONE].until("it streams from the new primary", |r| streams_from(r, &cluster.nodes[best.0]));
    cluster.comes_to_have(ONE, "1 2 3 4").await;
    assert!(cluster.nodes[ONE].log().contains("rewound"), "{}", cluster.nodes[ONE].log());
    let aside = cluster.nodes[ONE].root.path().join("data/diverged-2");
    assert!(std::fs::read_dir(&aside).unwrap().count() > 0);
    cluster.fits(&[ONE, TWO, THREE]);
    assert_eq!(cluster.nodes[ONE].value(ports::NODE, "SELECT count(*) FROM pg_replication_slots").await, "0");
    // And it counts: a rule that needs both is met.
    cluster.lead(best.0, cluster.any(2, &[ONE, best.1]));
    cluster.nodes[best.0].until("both are waited for", |report| {
        leading(report).is_some_and(|l| l.covered && l.rule.is_some_and(|rule| rule.acks() == 2))
    });
    cluster.nodes[best.0].value(ports::READ_WRITE, "INSERT INTO t VALUES (5)").await;
    cluster.comes_to_have(ONE, "1 2 3 4 5").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn burnt_timelines_are_never_used_and_followers_pass_over_them() {
    let mut cluster = Cluster::synchronous();
    cluster.nodes[ONE].value(ports::READ_WRITE, "CREATE TABLE t AS SELECT 1 AS n").await;
    let ends = cluster.recruit(&[TWO, THREE]);
    let (best, other) = if ends[0].lsn >= ends[1].lsn { (TWO, THREE) } else { (THREE, TWO) };
    cluster.nodes[ONE].kill_agent();
    let rule = cluster.any(1, &[other]);
    cluster.promote(best, 4, &[2, 3], rule, &[other]);
    cluster.nodes[best].value(ports::READ_WRITE, "INSERT INTO t VALUES (2)").await;
    cluster.comes_to_have(other, "1 2").await;
    for node in [best, other] {
        // A follower that has the rows may have been looked at last before it came by them.
        let report = cluster.nodes[node].until("it is on the authorised timeline", |report| {
            report.postgres.as_ref().is_some_and(|pg| pg.timeline == 4 && pg.history.is_some())
        });
        let report = report.postgres.unwrap();
        let left: Vec<u32> = report.history.unwrap().switches.iter().map(|switch| switch.timeline).collect();
        assert_eq!(left, [1], "the burnt ones are in nobody's history");
    }
    // A follower that begins anew with the stubs in its way.
    assert_eq!(cluster.nodes[other].stop(), 0);
    cluster.nodes[other].start();
    cluster.nodes[other].until("it streams again", streams);
    cluster.fits(&[best, other]);

    // The one whose agent was killed, with its Postgres left running, was not shut down cleanly for anybody else.
    cluster.nodes[ONE].start();
    cluster.follow(ONE, best, true);
    cluster.nodes[ONE].until("it streams from the new primary", |r| streams_from(r, &cluster.nodes[best]));
    cluster.comes_to_have(ONE, "1 2").await;
    cluster.fits(&[ONE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_hands_over_with_nothing_to_rewind() {
    let mut cluster = Cluster::synchronous();
    cluster.nodes[ONE].value(ports::READ_WRITE, "CREATE TABLE t AS SELECT 1 AS n").await;
    let theirs = "SELECT pg_create_logical_replication_slot('theirs', 'pgoutput')";
    cluster.nodes[ONE].value(ports::READ_WRITE, theirs).await;
    cluster.nodes[ONE].value(ports::READ_WRITE, "SELECT pg_create_physical_replication_slot('kept')").await;
    let (system_id, terms) = (cluster.system_id.clone(), cluster.terms(cluster.any(1, &[TWO, THREE])));
    let to = cluster.nodes[TWO].name.parse().unwrap();
    cluster.tell(ONE, Task::HandOver { system_id, terms, to });
    let gave_up = cluster.nodes[ONE].until("it has given up", |report| end(report).is_some());
    let Standing::Relinquished { clean: true, end: Some(last) } = gave_up.standing else {
        panic!("{:?}", gave_up.standing)
    };
    assert_eq!(control_state(&cluster.nodes[ONE]), "shut down");
    let ends = cluster.recruit(&[TWO, THREE]);
    assert_eq!(ends[0].lsn, last.lsn, "the target has the record of the shutdown, and its end is that of the files");
    assert_eq!(ends[0].history.markers, [(Epoch(1), "n1".to_owned())]);
    let rule = cluster.any(1, &[THREE]);
    cluster.promote(TWO, 2, &[], rule, &[THREE]);
    cluster.follow(ONE, TWO, false);
    cluster.nodes[ONE].until("it streams from the new primary", |r| streams_from(r, &cluster.nodes[TWO]));
    cluster.nodes[TWO].value(ports::READ_WRITE, "INSERT INTO t VALUES (2)").await;
    cluster.comes_to_have(ONE, "1 2").await;
    assert!(!cluster.nodes[ONE].log().contains("rewinding"), "{}", cluster.nodes[ONE].log());
    // A logical one would keep WAL for ever, and stand where the new primary's does not (rule R18).
    let slots = "SELECT string_agg(slot_name, ' ') FROM pg_replication_slots";
    assert_eq!(cluster.nodes[ONE].value(ports::NODE, slots).await, "kept");
    cluster.fits(&[ONE, TWO, THREE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_told_at_once_and_the_gate_stays_shut_until_the_standbys_have_what_came_back() {
    let mut cluster = Cluster::synchronous();
    cluster.nodes[ONE].value(ports::READ_WRITE, "CREATE TABLE t AS SELECT 1 AS n").await;
    for standby in [TWO, THREE] {
        assert_eq!(cluster.nodes[standby].stop(), 0);
    }
    // Flushed here and by nobody else: its commit waits, and nobody is told of it.
    let client = cluster.nodes[ONE].connect(ports::READ_WRITE).await.unwrap();
    let waiting = tokio::spawn(async move { client.batch_execute("INSERT INTO t VALUES (2)").await });
    let primary = &cluster.nodes[ONE];
    eventually("the commit waits", || async {
        primary.value(ports::NODE, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'").await == "1"
    })
    .await;
    let before = primary.report();
    let polled = {
        let (to, mut known) = ((primary.address, ports::API).into(), before.version);
        std::thread::spawn(move || {
            loop {
                let path = format!("/v1/report?after={known}&wait=30");
                let answer = http(to, "GET", &path, "", Some(&key().expose())).unwrap();
                let report: NodeReport = serde_json::from_str(&answer.body).unwrap();
                // Other news may come first on a busy computer.
                if report.postgres.is_none() {
                    return (Instant::now(), report);
                }
                known = report.version;
            }
        })
    };
    std::thread::sleep(Duration::from_millis(100)); // not a wait: the question is most likely there by then
    let killed = Instant::now();
    kill(Pid::from_raw(primary.postmaster_pid()), Signal::SIGKILL).unwrap();
    let (told, report) = polled.join().unwrap();
    assert_eq!(report.postgres, None);
    assert_eq!(leading(&report).unwrap().gate, Gate::Down);
    assert!(told - killed < Duration::from_millis(500), "told after {:?}", told - killed);
    assert!(waiting.await.unwrap().is_err(), "nobody may be told that this was committed");

    primary.until("it is up again", |report| report.postgres.is_some());
    primary.until("its rule is in effect again", |report| leading(report).is_some_and(|l| l.rule.is_some()));
    let shut = leading(&primary.report()).unwrap();
    assert_eq!((shut.confirmed, shut.gate), (false, Gate::Unconfirmed));
    cluster.nodes[TWO].start();
    cluster.opens(ONE);
    assert_eq!(cluster.rows(ONE).await, "1 2");
    cluster.comes_to_have(TWO, "1 2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewind_that_is_cut_short_never_leads_to_a_postgres_on_half_of_it() {
    let mut cluster = Cluster::synchronous();
    cluster.nodes[ONE].value(ports::READ_WRITE, "CREATE TABLE t AS SELECT generate_series(1, 3) AS n").await;
    let ends = cluster.recruit(&[TWO, THREE]);
    write_alone(&cluster.nodes[ONE], "1000, 20000").await;
    let (best, other) = if ends[0].lsn >= ends[1].lsn { (TWO, THREE) } else { (THREE, TWO) };
    let rule = cluster.any(1, &[other]);
    cluster.promote(best, 2, &[], rule, &[other]);
    // Killed with all that it runs, as by a power cut: nothing of it was shut down.
    let postmaster = cluster.nodes[ONE].postmaster_pid();
    cluster.nodes[ONE].kill_agent();
    kill(Pid::from_raw(postmaster), Signal::SIGKILL).unwrap();
    cluster.nodes[ONE].start();
    cluster.follow(ONE, best, true);
    for pause in [0, 20, 60, 120, 250] {
        cluster.nodes[ONE].until("it is on its way", |report| {
            report.phase == Phase::Starting || matches!(report.phase, Phase::Cloning { .. }) || streams(report)
        });
        std::thread::sleep(Duration::from_millis(pause)); // not a wait: any moment is as good
        cluster.nodes[ONE].kill_agent();
        cluster.nodes[ONE].start();
    }
    cluster.nodes[ONE].until("it streams from the new primary", |r| streams_from(r, &cluster.nodes[best]));
    cluster.comes_to_have(ONE, "1 2 3").await;
    cluster.fits(&[ONE]);

    // One that was cut short at an unknown place is not tried again: another copy is made.
    write_alone(&cluster.nodes[best], "30000, 30001").await;
    cluster.comes_to_have(other, "1 2 3 30000 30001").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_does_not_stop_is_killed_whole_and_rewound_all_the_same() {
    let mut cluster = Cluster::synchronous();
    cluster.nodes[ONE].value(ports::READ_WRITE, "CREATE TABLE t AS SELECT generate_series(1, 3) AS n").await;
    let client = cluster.nodes[ONE].connect(ports::NODE).await.unwrap();
    let backend: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    kill(Pid::from_raw(backend), Signal::SIGSTOP).unwrap();
    cluster.recruit(&[TWO, THREE]);
    write_alone(&cluster.nodes[ONE], "100, 200").await;
    cluster.tell(ONE, cluster.recruit_task());
    let stopped = cluster.nodes[ONE].until("it is stopped", |report| end(report).is_some());
    assert!(matches!(stopped.standing, Standing::Relinquished { clean: false, .. }), "{:?}", stopped.standing);
    assert_eq!(cluster.nodes[ONE].processes(), Vec::<String>::new());
    let rule = cluster.any(1, &[THREE]);
    cluster.promote(TWO, 2, &[], rule, &[THREE]);
    cluster.follow(ONE, TWO, true);
    cluster.nodes[ONE].until("it streams from the new primary", |r| streams_from(r, &cluster.nodes[TWO]));
    cluster.comes_to_have(ONE, "1 2 3").await;
    cluster.fits(&[ONE, TWO, THREE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_is_in_effect_only_without_walsenders_of_before() {
    let mut cluster = Cluster::synchronous();
    let primary = &cluster.nodes[ONE];
    // The rule before was brought into effect by ending them, one after the other.
    primary.until("both stream", |report| {
        let role = report.postgres.as_ref().map(|pg| &pg.role);
        matches!(role, Some(PgRole::Primary { replicas, .. }) if replicas.iter().filter(|r| r.state == "streaming").count() == 2)
    });
    let pids = "SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM pg_stat_replication";
    let of = |text: String| text.split(' ').map(str::to_owned).collect::<BTreeSet<_>>();
    let before = of(primary.value(ports::NODE, pids).await);
    assert_eq!(before.len(), 2);
    // One that does not end keeps the rule from being reported.
    let frozen: i32 = before.first().unwrap().parse().unwrap();
    kill(Pid::from_raw(frozen), Signal::SIGSTOP).unwrap();
    cluster.lead(ONE, cluster.any(2, &[TWO, THREE]));
    let primary = &cluster.nodes[ONE];
    eventually("Postgres shows the rule", || async {
        primary.value(ports::NODE, "SHOW synchronous_standby_names").await.starts_with("ANY 2")
    })
    .await;
    let both = |report: &NodeReport| leading(report).is_some_and(|l| l.rule.is_some_and(|rule| rule.acks() == 2));
    primary.until("the change is under way", |report| leading(report).is_some_and(|l| l.rule.is_none()));
    std::thread::sleep(Duration::from_millis(1500)); // long enough for it to be wrong
    assert!(!both(&primary.report()), "a walsender of the rule before is still there");
    kill(Pid::from_raw(frozen), Signal::SIGCONT).unwrap();
    primary.until("the rule is in effect, and met", |report| both(report) && leading(report).unwrap().covered);
    let after = of(primary.value(ports::NODE, pids).await);
    assert!(before.is_disjoint(&after), "{before:?} {after:?}");

    // Somebody edits the file, and has it read.
    let conf = primary.pgdata().join("postgresql.conf");
    let text = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(&conf, format!("{text}\nsynchronous_standby_names = ''\n")).unwrap();
    kill(Pid::from_raw(primary.postmaster_pid()), Signal::SIGHUP).unwrap();
    eventually("it is put right", || async {
        let shown = primary.value(ports::NODE, "SHOW synchronous_standby_names").await;
        shown.starts_with("ANY 2") && std::fs::read_to_string(&conf).unwrap() == text
    })
    .await;
    primary.until("the rule is in effect again", |report| both(report) && leading(report).unwrap().covered);
    assert!(primary.log().contains("somebody else"), "{}", primary.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recruit_says_where_it_ends_only_once_its_receiver_is_gone() {
    let mut cluster = Cluster::synchronous();
    let standby = &cluster.nodes[TWO];
    let statement = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walreceiver'";
    let receiver: i32 = standby.value(ports::NODE, statement).await.parse().unwrap();
    kill(Pid::from_raw(receiver), Signal::SIGSTOP).unwrap();
    cluster.epoch += 1;
    cluster.tell(TWO, cluster.recruit_task());
    let standby = &cluster.nodes[TWO];
    standby.until("it has promised", |report| report.promised == Epoch(2));
    std::thread::sleep(Duration::from_millis(2500)); // long enough for it to be wrong
    let report = standby.report();
    assert_eq!(report.standing, Standing::Recruited { end: None }, "its receiver is still there");
    kill(Pid::from_raw(receiver), Signal::SIGCONT).unwrap();
    standby.until("it says where it ends", |report| end(report).is_some());

    // So does one that was restarted and never received anything since.
    assert_eq!(cluster.nodes[TWO].stop(), 0);
    cluster.nodes[TWO].start();
    let again = cluster.nodes[TWO].until("it says where it ends", |report| end(report).is_some());
    assert_eq!(end(&again).unwrap().history.timeline, 1);
    // And it goes back to its primary if that is affirmed.
    cluster.lineage.authorise(Epoch(2), "n2".to_owned());
    let (system_id, terms) = (cluster.system_id.clone(), cluster.terms(cluster.any(1, &[TWO, THREE])));
    cluster.tell(ONE, Task::Reaffirm { system_id, terms });
    cluster.follow(TWO, ONE, false);
    cluster.follow(THREE, ONE, false);
    cluster.opens(ONE);
    cluster.nodes[TWO].until("it streams again", streams);
    cluster.fits(&[ONE, TWO, THREE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_writes_once_a_second_and_says_how_long_that_takes() {
    let cluster = Cluster::new();
    let primary = &cluster.nodes[ONE];
    let probe = |report: &NodeReport| match report.postgres.as_ref().map(|pg| &pg.role) {
        Some(PgRole::Primary { probe, .. }) => *probe,
        _ => None,
    };
    primary.until("it was written", |report| probe(report).is_some_and(|probe| probe.hangs.is_none()));
    let at = primary.value(ports::NODE, "SELECT at FROM flypg.probe").await;
    eventually("it is written again", || async {
        primary.value(ports::NODE, "SELECT at FROM flypg.probe").await != at
    })
    .await;
    // A lock stands for whatever keeps a write from its end.
    let client = primary.connect(ports::NODE).await.unwrap();
    client.batch_execute("BEGIN; LOCK flypg.probe").await.unwrap();
    primary.until("it hangs", |report| {
        probe(report).is_some_and(|probe| probe.hangs.is_some_and(|hangs| hangs >= Duration::from_secs(1)))
    });
    client.batch_execute("ROLLBACK").await.unwrap();
    primary.until("it goes on", |report| probe(report).is_some_and(|probe| probe.hangs.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_a_superuser_may_end_a_wait_for_standbys() {
    let cluster = Cluster::new();
    let primary = &cluster.nodes[ONE];
    primary.value(ports::NODE, "CREATE ROLE tenant LOGIN PASSWORD 'x'").await;
    let client = primary.connect_as(ports::NODE, "tenant", "x").await.unwrap();
    for function in ["pg_cancel_backend", "pg_terminate_backend"] {
        let refused = client.simple_query(&format!("SELECT {function}(pg_backend_pid())")).await.unwrap_err();
        assert_eq!(refused.code(), Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE), "{refused:?}");
    }
}
