use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::decree::Epoch;
use crate::ledger::{Ledger, LedgerRole};
use crate::protocol::{Assignment, Peer, PeerRole, Task};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
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
    Some(Origin::Clone { from: "ord-1".parse().unwrap() })
}

fn told(node: &str, task: Task) -> Assignment {
    let peers = ["ord-1", "ord-2", "ams-1"];
    Assignment {
        cluster: "orders-db".parse().unwrap(),
        node: node.parse().unwrap(),
        epoch: Epoch(1),
        task,
        peers: peers
            .map(|n| Peer { node: n.parse().unwrap(), address: "127.0.0.1".parse().unwrap(), role: PeerRole::Joining })
            .into(),
        parameters: BTreeMap::new(),
    }
}

fn primary() -> Ledger {
    let ledger = Ledger::blank("orders-db".parse().unwrap(), "ord-1".parse().unwrap(), "m1".to_owned());
    let task = Task::Bootstrap { nonce: "n1".to_owned() };
    ledger.accept(&told("ord-1", task), &DataDir::Blank).unwrap()
}

fn replica() -> Ledger {
    let ledger = Ledger::blank("orders-db".parse().unwrap(), "ord-2".parse().unwrap(), "m2".to_owned());
    let task = Task::Follow { primary: "ord-1".parse().unwrap(), system_id: system() };
    ledger.accept(&told("ord-2", task), &DataDir::Blank).unwrap()
}

const PRIMARY_AT: u64 = u64::MAX / 2;

fn stranded_at(room: bool, lsn: u64) -> Stranded {
    let position = |lsn| Position { timeline: 1, lsn: crate::protocol::Lsn(lsn) };
    let seen = PrimarySeen { system_id: system(), at: position(PRIMARY_AT), ended: vec![], keeps_wal: true };
    Stranded { own: position(lsn), room, asked: Some((at(0), Ok(seen))) }
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

fn up(data: DataDir) -> Local {
    Local { postmaster: Postmaster::Up, settings: SettingsSeen::Loaded, ..Local::fresh(15, data) }
}

#[test]
fn from_blank_to_running_primary() {
    let ledger = primary();
    let mut local = Local::fresh(15, DataDir::Blank);
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
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::EnsureRoles);
    local.roles_ensured = true;
    local.slots = Some(BTreeMap::new());
    let create = ["flypg_ams_1", "flypg_ord_2"].map(str::to_owned).into();
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::EnsureSlots { create, drop: BTreeSet::new() });
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
    let ledger = primary().made(&system()).unwrap();
    let slots = ["flypg_ord_2", "flypg_ams_1", "flypg_syd_1", "debezium", "flypg_export"];
    let slots = slots.map(|name| (name.to_owned(), SlotSeen { active: false, lost: false })).into();
    let local = Local { roles_ensured: true, slots: Some(slots), ..up(complete(false, by_initdb())) };
    let drop = BTreeSet::from(["flypg_syd_1".to_owned()]);
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::EnsureSlots { create: BTreeSet::new(), drop });

    let mut lost = local.slots.clone().unwrap();
    lost.remove("flypg_syd_1");
    for name in ["flypg_ord_2", "debezium"] {
        lost.insert(name.to_owned(), SlotSeen { active: false, lost: true });
    }
    let drop = BTreeSet::from(["flypg_ord_2".to_owned()]);
    let local = Local { slots: Some(lost), ..local };
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::EnsureSlots { create: BTreeSet::new(), drop });
}

#[test]
fn crashes_are_answered_at_once_until_there_are_too_many() {
    let ledger = primary().made(&system()).unwrap();
    let mut local = Local { settings: SettingsSeen::Written, ..Local::fresh(15, complete(false, by_initdb())) };
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
    let leads = primary().made(&system()).unwrap();
    let follows = replica().made(&system()).unwrap();
    let other = DataDir::Complete { major: 15, system_id: SystemId("8".into()), standby_signal: true, origin: None };
    let newer = DataDir::Complete { major: 16, system_id: system(), standby_signal: true, origin: None };
    for (ledger, data) in [
        (&leads, complete(true, by_initdb())),
        (&follows, complete(false, by_clone())),
        (&follows, other),
        (&follows, newer),
        (&follows, DataDir::Blank),
        (&leads, DataDir::Unfinished(by_initdb())),
        (&primary(), complete(false, by_clone())),
        (&primary(), complete(false, None)),
        (&primary(), DataDir::Unfinished(by_clone())),
        (&replica(), complete(false, by_clone())),
        (&replica(), DataDir::Unusable { why: "?".to_owned() }),
    ] {
        let down = Local::fresh(15, data.clone());
        assert!(matches!(next(ledger, &down, at(0)), NodeStep::Quarantine { .. }), "{} with {data:?}", ledger.role);
        assert_eq!(next(ledger, &up(data), at(0)), NodeStep::StopFast);
    }
}

#[test]
fn without_an_assignment_nothing_runs() {
    let mut moved = primary().made(&system()).unwrap().restarted("another");
    let data = complete(false, by_initdb());
    assert_eq!(next(&moved, &Local::fresh(15, data.clone()), at(0)), NodeStep::Nothing);
    assert_eq!(next(&moved, &up(data.clone()), at(0)), NodeStep::StopFast);
    moved.role = LedgerRole::Blank;
    assert_eq!(next(&moved, &Local::fresh(15, data), at(0)), NodeStep::Nothing);
}

fn any_data() -> impl Strategy<Value = DataDir> {
    let origin = prop_oneof![Just(None), Just(by_initdb()), Just(by_clone())];
    prop_oneof![
        Just(DataDir::Blank),
        origin.clone().prop_map(DataDir::Unfinished),
        Just(DataDir::Unusable { why: "?".to_owned() }),
        (15u32..17, prop_oneof![Just("7"), Just("8")], any::<bool>(), origin).prop_map(
            |(major, id, signal, origin)| {
                DataDir::Complete { major, system_id: SystemId(id.to_owned()), standby_signal: signal, origin }
            }
        ),
    ]
}

proptest! {
    /// Whatever is seen: nothing starts on data that are not whole, nothing starts writable unless this node leads, and
    /// nothing is removed or made where data are.
    #[test]
    fn never_writable_by_accident(
        which in 0usize..5,
        data in any_data(),
        postmaster in prop_oneof![
            Just(Postmaster::Down), Just(Postmaster::Leftover), Just(Postmaster::Starting), Just(Postmaster::Up)
        ],
        settings in prop_oneof![Just(SettingsSeen::Stale), Just(SettingsSeen::Written), Just(SettingsSeen::Loaded)],
        flags in any::<(bool, bool, bool)>(),
        stranded in proptest::option::of(any::<(bool, u64)>()),
    ) {
        let blank = Ledger::blank("orders-db".parse().unwrap(), "ord-1".parse().unwrap(), "m1".to_owned());
        let ledger = match which {
            0 => blank,
            1 => primary(),
            2 => primary().made(&system()).unwrap(),
            3 => replica(),
            _ => replica().made(&system()).unwrap(),
        };
        let (roles_ensured, restart_ordered, stopping) = flags;
        let local = Local {
            postmaster, settings, roles_ensured, restart_ordered, stopping, slots: None,
            stranded: stranded.map(|(room, lsn)| stranded_at(room, lsn)),
            ..Local::fresh(15, data.clone())
        };
        let step = next(&ledger, &local, at(0));
        match (&step, &data) {
            (NodeStep::StartPostgres { standby }, DataDir::Complete { standby_signal, system_id, major, .. }) => {
                prop_assert_eq!(standby, standby_signal);
                let leads = matches!(ledger.role, LedgerRole::Primary { .. });
                prop_assert!(*standby || leads);
                prop_assert_eq!((system_id, *major), (&system(), 15));
                prop_assert_eq!(postmaster, Postmaster::Down);
            }
            (NodeStep::StartPostgres { .. }, other) => prop_assert!(false, "started on {other:?}"),
            (NodeStep::Initdb { .. } | NodeStep::Clone { .. }, data) => prop_assert_eq!(data, &DataDir::Blank),
            (NodeStep::CloneBeside { .. } | NodeStep::GiveUpCopy { .. }, DataDir::Complete { system_id, .. }) => {
                prop_assert!(matches!(ledger.role, LedgerRole::Replica { .. }), "{}", ledger.role);
                prop_assert_eq!((system_id, postmaster), (&system(), Postmaster::Up));
                prop_assert!(stranded.is_some_and(|(_, lsn)| lsn <= PRIMARY_AT));
            }
            (NodeStep::CloneBeside { .. } | NodeStep::GiveUpCopy { .. }, other) => {
                prop_assert!(false, "given away: {other:?}");
            }
            (NodeStep::RemoveUnfinished, data) => {
                let unfinished = matches!(data, DataDir::Unfinished(_));
                prop_assert!(unfinished);
            }
            _ => {}
        }
        if postmaster == Postmaster::Leftover {
            prop_assert_eq!(step, NodeStep::EndLeftover);
        }
    }
}
