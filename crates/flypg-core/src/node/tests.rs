mod properties;
mod roles;

use std::collections::BTreeSet;

use super::*;
use crate::failover::{Branch, History, Lineage};
use crate::ledger::{Ledger, LedgerRole};
use crate::protocol::{Assignment, Lsn, Peer, PeerRole, Task, Terms};
use crate::spec::Profile;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn name(node: &str) -> NodeName {
    node.parse().unwrap()
}

fn system() -> SystemId {
    SystemId("7".to_owned())
}

fn complete(standby_signal: bool, origin: Option<Origin>) -> DataDir {
    DataDir::Complete { major: 15, system_id: system(), standby_signal, origin }
}

fn by_initdb() -> Option<Origin> {
    Some(Origin::Initdb { nonce: "n1".to_owned() })
}

fn by_clone() -> Option<Origin> {
    Some(Origin::Clone { from: name("ord-1") })
}

/// What `node` is told in `epoch`.
fn told(node: &str, epoch: u64, task: Task) -> Assignment {
    let peers = ["ord-1", "ord-2", "ams-1"];
    Assignment {
        cluster: "orders-db".parse().unwrap(),
        node: name(node),
        epoch: Epoch(epoch),
        revision: epoch,
        task,
        peers: peers
            .map(|n| Peer { node: name(n), address: "127.0.0.1".parse().unwrap(), role: PeerRole::Joining })
            .into(),
        profile: Profile::Balanced,
        parameters: BTreeMap::new(),
    }
}

fn rule() -> Rule {
    Rule::any(1, [name("ord-1"), name("ams-1")].into()).unwrap()
}

fn terms() -> Terms {
    Terms { nonce: "n2".to_owned(), rule: rule(), pledges: vec![rule()] }
}

fn follow(primary: &str, remake: bool) -> Task {
    let first = Branch { epoch: Epoch(1), timeline: 1, start: Lsn(0), node: name("ord-1") };
    let lineage = Lineage::new(first, "n1".to_owned());
    Task::Follow { primary: name(primary), system_id: system(), lineage, remake }
}

fn promote() -> Task {
    Task::Promote { system_id: system(), timeline: 3, burnt: vec![2], terms: terms() }
}

fn hand_over() -> Task {
    Task::HandOver { system_id: system(), terms: terms(), to: name("ord-1") }
}

/// What a primary on record is told, too, when it is to be replaced.
fn recruit() -> Task {
    Task::Recruit { primary: name("ord-2") }
}

/// `ledger` once it has accepted `task` in `epoch`.
fn then(ledger: &Ledger, epoch: u64, task: Task) -> Ledger {
    ledger.accept(&told(&ledger.node.to_string(), epoch, task), &complete(false, None)).unwrap()
}

/// `ord-1`, told to make the cluster's data.
fn primary() -> Ledger {
    let ledger = Ledger::blank("orders-db".parse().unwrap(), name("ord-1"), "m1".to_owned());
    ledger.accept(&told("ord-1", 1, Task::Bootstrap { nonce: "n1".to_owned() }), &DataDir::Blank).unwrap()
}

/// `ord-2`, told to follow it.
fn replica() -> Ledger {
    let ledger = Ledger::blank("orders-db".parse().unwrap(), name("ord-2"), "m2".to_owned());
    ledger.accept(&told("ord-2", 1, follow("ord-1", true)), &DataDir::Blank).unwrap()
}

/// `ord-2`, recruited in epoch 2.
fn recruited() -> Ledger {
    then(&replica().made(&system()).unwrap(), 2, recruit())
}

/// `ord-2`, to be promoted in epoch 2.
fn promoting() -> Ledger {
    then(&recruited(), 2, promote())
}

/// `ord-2`, promoted in epoch 2.
fn promoted() -> Ledger {
    promoting().promoted().unwrap()
}

/// `ord-2`, which led in epoch 2 and follows in epoch 3.
fn rejoining(remake: bool) -> Ledger {
    then(&promoted(), 3, follow("ord-1", remake))
}

fn up(data: DataDir) -> Local {
    Local { postmaster: Postmaster::Up, settings: SettingsSeen::Loaded, ..Local::fresh(15, data) }
}

fn down(data: DataDir) -> Local {
    Local { settings: SettingsSeen::Written, ..Local::fresh(15, data) }
}

/// A primary that runs and that all is right with.
fn reigning() -> Local {
    let slots = ["flypg_ord_1", "flypg_ams_1"].map(|slot| (slot.to_owned(), SlotSeen { active: true, lost: false }));
    Local {
        roles_ensured: true,
        slots: Some(slots.into()),
        may_lead: true,
        reign: ReignSeen {
            in_recovery: false,
            timeline: Some(3),
            confirmed: true,
            rule: Some(rule()),
            covered: true,
            checkpointed: true,
            drained: false,
        },
        ..up(complete(false, by_clone()))
    }
}

fn end(timeline: u32) -> Option<End> {
    Some(End { history: History { timeline, switches: vec![], markers: vec![] }, lsn: Lsn(9) })
}

const PRIMARY_AT: u64 = u64::MAX / 2;

fn stranded_at(room: bool, lsn: u64) -> Stranded {
    let position = |lsn| Position { timeline: 1, lsn: Lsn(lsn) };
    let seen = PrimarySeen { system_id: system(), at: position(PRIMARY_AT), ended: vec![], keeps_wal: true };
    Stranded { own: position(lsn), room, asked: Some((at(0), Ok(seen))) }
}

#[track_caller]
fn held(step: NodeStep, words: &str) {
    assert!(matches!(&step, NodeStep::Hold { why, .. } if why.contains(words)), "{words}: {step:?}");
}

#[track_caller]
fn quarantined(step: NodeStep, words: &str) {
    assert!(matches!(&step, NodeStep::Quarantine { why } if why.contains(words)), "{words}: {step:?}");
}

#[test]
fn a_stranded_standby_is_copied_again_only_while_it_runs_and_follows() {
    let ledger = replica().made(&system()).unwrap();
    let from: NodeName = "ord-1".parse().unwrap();
    let mut local = Local { stranded: Some(stranded_at(true, 5)), ..up(complete(true, by_clone())) };
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::CloneBeside { from: from.clone() });
    local.stranded = Some(stranded_at(false, 5));
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::GiveUpCopy { from: from.clone() });
    // Given up, it is what a new node is; cut short before the data were set aside, nothing has happened.
    let given_up = ledger.given_up().unwrap();
    let down = |data| Local { settings: SettingsSeen::Written, ..Local::fresh(15, data) };
    assert_eq!(next(&given_up, &down(complete(true, by_clone())), at(0)), NodeStep::RecordMade { system_id: system() });
    assert_eq!(given_up.made(&system()).unwrap(), ledger);
    assert_eq!(next(&given_up, &down(DataDir::Unfinished(by_clone())), at(0)), NodeStep::RemoveUnfinished);
    assert_eq!(next(&given_up, &down(DataDir::Blank), at(0)), NodeStep::Clone { from });
    assert_eq!(primary().made(&system()).unwrap().given_up(), None);
}

#[test]
fn from_blank_to_running_primary() {
    let ledger = primary();
    let mut local = Local { may_lead: true, ..Local::fresh(15, DataDir::Blank) };
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::Initdb { nonce: "n1".to_owned() });
    local.data = DataDir::Unfinished(by_initdb());
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::RemoveUnfinished);
    local.data = complete(false, by_initdb());
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::RecordMade { system_id: system() });
    let ledger = ledger.made(&system()).unwrap();
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::WriteSettings);
    local.settings = SettingsSeen::Written;
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::StartPostgres { standby: false });
    local.postmaster = Postmaster::Starting;
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::Nothing);
    local.postmaster = Postmaster::Up;
    local.settings = SettingsSeen::Loaded;
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::Nothing, "which slots there are is not known yet");
    local.slots = Some(BTreeMap::new());
    let create = ["flypg_ams_1", "flypg_ord_2"].map(str::to_owned).into();
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::EnsureSlots { create, drop: BTreeSet::new() });
    let slots = ["flypg_ams_1", "flypg_ord_2"].map(|slot| (slot.to_owned(), SlotSeen { active: false, lost: false }));
    local.slots = Some(slots.into());
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::EnsureRule { rule: Rule::alone() });
    (local.reign.rule, local.reign.covered) = (Some(Rule::alone()), true);
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::Confirm { epoch: Epoch(1), nonce: "n1".to_owned() });
    local.reign.confirmed = true;
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::EnsureRoles);
    local.roles_ensured = true;
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::Checkpoint);
    local.reign.checkpointed = true;
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::Nothing);
}

#[test]
fn from_blank_to_running_replica() {
    let ledger = replica();
    let mut local = Local::fresh(15, DataDir::Blank);
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::Clone { from: "ord-1".parse().unwrap() });
    local.data = DataDir::Unfinished(by_clone());
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::RemoveUnfinished);
    local.data = complete(true, by_clone());
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::RecordMade { system_id: system() });
    let ledger = ledger.made(&system()).unwrap();
    local.settings = SettingsSeen::Written;
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::StartPostgres { standby: true });
    assert_eq!(next(&ledger, &up(complete(true, by_clone())), at(0)), NodeStep::Nothing);
}

#[test]
fn slots_follow_the_peers_and_spare_what_is_not_ours() {
    let slots = ["flypg_ord_1", "flypg_ams_1", "flypg_syd_1", "debezium", "flypg_export"];
    let slots = slots.map(|name| (name.to_owned(), SlotSeen { active: false, lost: false })).into();
    let local = Local { slots: Some(slots), ..reigning() };
    let drop = BTreeSet::from(["flypg_syd_1".to_owned()]);
    assert_eq!(next(&promoted(), &local, at(0)), NodeStep::EnsureSlots { create: BTreeSet::new(), drop });

    let mut lost = local.slots.clone().unwrap();
    lost.remove("flypg_syd_1");
    for name in ["flypg_ord_1", "debezium"] {
        lost.insert(name.to_owned(), SlotSeen { active: false, lost: true });
    }
    let drop = BTreeSet::from(["flypg_ord_1".to_owned()]);
    let local = Local { slots: Some(lost), ..local };
    assert_eq!(next(&promoted(), &local, at(0)), NodeStep::EnsureSlots { create: BTreeSet::new(), drop });
}

#[test]
fn crashes_are_answered_at_once_until_there_are_too_many() {
    let mut local = Local { may_lead: true, ..down(complete(false, by_initdb())) };
    let ledger = primary().made(&system()).unwrap();
    let mut waits = Vec::new();
    for crash in 0..10 {
        local.crashes.push(at(crash));
        waits.push(match next(&ledger, &local, at(crash)) {
            NodeStep::StartPostgres { standby: false } => 0,
            NodeStep::Wait { until } => until.as_second() - at(crash).as_second(),
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(waits, [0, 0, 1, 2, 4, 8, 16, 30, 30, 30]);
    // Ten quiet minutes later they are forgotten.
    assert_eq!(next(&ledger, &local, at(700)), NodeStep::StartPostgres { standby: false });
}

#[test]
fn a_failed_clone_is_tried_again_with_growing_waits() {
    let ledger = replica();
    let mut local = Local::fresh(15, DataDir::Blank);
    local.failed_makes = vec![at(0)];
    let until = at(0).checked_add(Duration::from_millis(200)).unwrap();
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::Wait { until });
    assert!(matches!(next(&ledger, &local, at(1)), NodeStep::Clone { .. }));
    for (failed, wait) in [(11, 10), (12, 10), (13, 20), (16, 160), (40, 300)] {
        local.failed_makes = vec![at(0); failed];
        assert_eq!(next(&ledger, &local, at(0)), NodeStep::Wait { until: at(wait) }, "{failed}");
    }
}

#[test]
fn data_that_are_not_what_they_should_be_are_not_touched() {
    let (leads, copy) = (primary().made(&system()).unwrap(), replica().made(&system()).unwrap());
    let follows = then(&copy, 1, follow("ord-1", false));
    let other = DataDir::Complete { major: 15, system_id: SystemId("8".into()), standby_signal: true, origin: None };
    let newer = DataDir::Complete { major: 16, system_id: system(), standby_signal: true, origin: None };
    for (ledger, data) in [
        (&leads, complete(true, by_initdb())),
        (&follows, complete(false, by_clone())),
        (&recruited(), complete(false, by_clone())),
        (&follows, other.clone()),
        (&recruited(), other.clone()),
        (&promoting(), other.clone()),
        (&rejoining(true), other),
        (&follows, newer),
        (&follows, DataDir::Blank),
        (&recruited(), DataDir::Blank),
        (&promoting(), DataDir::Blank),
        (&rejoining(true), DataDir::Blank),
        (&leads, DataDir::Unfinished(by_initdb())),
        (&primary(), complete(false, by_clone())),
        (&primary(), complete(false, None)),
        (&primary(), DataDir::Unfinished(by_clone())),
        (&replica(), complete(false, by_clone())),
        (&replica(), DataDir::Unusable { why: "?".to_owned() }),
    ] {
        let fresh = Local::fresh(15, data.clone());
        assert!(matches!(next(ledger, &fresh, at(0)), NodeStep::Quarantine { .. }), "{} with {data:?}", ledger.role);
        assert_eq!(next(ledger, &up(data), at(0)), NodeStep::StopFast);
    }
}

/// It was promoted by hand, or somebody removed its data: put right by who leads, and not before.
#[test]
fn a_copy_that_is_none_any_more_is_made_anew_once_it_may_go() {
    let copy = replica().made(&system()).unwrap();
    for (data, step) in [
        (complete(false, by_clone()), NodeStep::RecordRewinding),
        (DataDir::Blank, NodeStep::GiveUpCopy { from: name("ord-1") }),
    ] {
        assert_eq!(next(&copy, &down(data.clone()), at(0)), step);
        assert_eq!(next(&copy, &up(data.clone()), at(0)), NodeStep::StopFast);
        let may_not = then(&copy, 1, follow("ord-1", false));
        assert!(matches!(next(&may_not, &down(data), at(0)), NodeStep::Quarantine { .. }));
    }
}

#[test]
fn without_an_assignment_nothing_runs() {
    let all = [primary().made(&system()).unwrap(), promoted(), recruited(), promoting(), rejoining(true)];
    for ledger in all.iter().chain([&rejoining(true).rewinding().unwrap()]) {
        let moved = ledger.restarted("another");
        let data = complete(matches!(moved.role, LedgerRole::Recruited { .. }), by_initdb());
        let ready = Local { may_lead: true, ..down(data.clone()) };
        assert_eq!(next(&moved, &ready, at(0)), NodeStep::Nothing, "{}", moved.role);
        assert_eq!(next(&moved, &up(data.clone()), at(0)), NodeStep::StopFast, "{}", moved.role);
    }
    let blank = Ledger { role: LedgerRole::Blank, ..primary() };
    assert_eq!(next(&blank, &down(complete(false, by_initdb())), at(0)), NodeStep::Nothing);
}

#[test]
fn an_agent_that_ends_takes_postgres_with_it() {
    for ledger in [primary(), recruited(), promoting(), promoted(), rejoining(true).rewinding().unwrap()] {
        let mut local = Local { stopping: true, ..up(complete(true, None)) };
        assert_eq!(next(&ledger, &local, at(0)), NodeStep::StopFast);
        local.postmaster = Postmaster::Down;
        assert_eq!(next(&ledger, &local, at(0)), NodeStep::Nothing);
        local.postmaster = Postmaster::Leftover;
        assert_eq!(next(&ledger, &local, at(0)), NodeStep::EndLeftover);
    }
}
