use expect_test::expect;
use proptest::prelude::*;

use super::*;

const NONCE: &str = "n1";

fn ledger(role: LedgerRole) -> Ledger {
    let mut ledger = Ledger::blank("orders-db".parse().unwrap(), "ord-1".parse().unwrap(), "m1".to_owned());
    if !matches!(role, LedgerRole::Blank | LedgerRole::Initialising { .. }) {
        ledger.system_id = Some(SystemId("7".to_owned()));
    }
    if role != LedgerRole::Blank {
        ledger.promised = Epoch(3);
    }
    ledger.role = role;
    ledger
}

fn complete() -> DataDir {
    DataDir::Complete { major: 15, system_id: SystemId("7".to_owned()), standby_signal: false, origin: None }
}

fn assignment(epoch: u64, task: Task) -> Assignment {
    Assignment {
        cluster: "orders-db".parse().unwrap(),
        node: "ord-1".parse().unwrap(),
        epoch: Epoch(epoch),
        task,
        peers: vec![],
        parameters: BTreeMap::new(),
    }
}

fn tasks() -> [Task; 3] {
    let system_id = SystemId("7".to_owned());
    [
        Task::Bootstrap { nonce: NONCE.to_owned() },
        Task::Lead { system_id: system_id.clone() },
        Task::Follow { primary: "ord-2".parse().unwrap(), system_id },
    ]
}

fn roles() -> [(LedgerRole, DataDir); 6] {
    let epoch = Epoch(3);
    let upstream: NodeName = "ord-2".parse().unwrap();
    [
        (LedgerRole::Blank, DataDir::Blank),
        (LedgerRole::Blank, complete()),
        (LedgerRole::Initialising { nonce: NONCE.to_owned(), epoch }, DataDir::Blank),
        (LedgerRole::Cloning { upstream: upstream.clone(), epoch }, DataDir::Unfinished(None)),
        (LedgerRole::Primary { epoch, nonce: NONCE.to_owned() }, complete()),
        (LedgerRole::Replica { upstream, epoch }, complete()),
    ]
}

/// Every role against every task, in the same epoch and in the next.
#[test]
fn what_a_node_accepts() {
    let mut table = String::new();
    for (role, data) in roles() {
        for task in tasks() {
            for epoch in [3, 4] {
                let mine = ledger(role.clone());
                let answer = match mine.accept(&assignment(epoch, task.clone()), &data) {
                    Ok(next) => format!("ok: {}", next.role),
                    Err(refusal) => format!("{refusal:?}").split([' ', '{']).next().unwrap().to_owned(),
                };
                let task = format!("{task:?}").split(' ').next().unwrap().to_owned();
                table += &format!("{role}, {data} | {task} {epoch} | {answer}\n");
            }
        }
    }
    expect![[r#"
        blank, a blank volume | Bootstrap 3 | ok: being initialised
        blank, a blank volume | Bootstrap 4 | ok: being initialised
        blank, a blank volume | Lead 3 | NothingToLead
        blank, a blank volume | Lead 4 | NothingToLead
        blank, a blank volume | Follow 3 | ok: being cloned from ord-2
        blank, a blank volume | Follow 4 | ok: being cloned from ord-2
        blank, data of PostgreSQL 15, system 7 | Bootstrap 3 | BootstrapOverData
        blank, data of PostgreSQL 15, system 7 | Bootstrap 4 | BootstrapOverData
        blank, data of PostgreSQL 15, system 7 | Lead 3 | UnknownData
        blank, data of PostgreSQL 15, system 7 | Lead 4 | UnknownData
        blank, data of PostgreSQL 15, system 7 | Follow 3 | UnknownData
        blank, data of PostgreSQL 15, system 7 | Follow 4 | UnknownData
        being initialised, a blank volume | Bootstrap 3 | ok: being initialised
        being initialised, a blank volume | Bootstrap 4 | ok: being initialised
        being initialised, a blank volume | Lead 3 | NothingToLead
        being initialised, a blank volume | Lead 4 | NothingToLead
        being initialised, a blank volume | Follow 3 | Unfinished
        being initialised, a blank volume | Follow 4 | Unfinished
        being cloned from ord-2, an unfinished data directory | Bootstrap 3 | BootstrapOverData
        being cloned from ord-2, an unfinished data directory | Bootstrap 4 | BootstrapOverData
        being cloned from ord-2, an unfinished data directory | Lead 3 | NothingToLead
        being cloned from ord-2, an unfinished data directory | Lead 4 | NothingToLead
        being cloned from ord-2, an unfinished data directory | Follow 3 | ok: being cloned from ord-2
        being cloned from ord-2, an unfinished data directory | Follow 4 | ok: being cloned from ord-2
        the primary of epoch 3, data of PostgreSQL 15, system 7 | Bootstrap 3 | ok: the primary of epoch 3
        the primary of epoch 3, data of PostgreSQL 15, system 7 | Bootstrap 4 | BootstrapOverData
        the primary of epoch 3, data of PostgreSQL 15, system 7 | Lead 3 | ok: the primary of epoch 3
        the primary of epoch 3, data of PostgreSQL 15, system 7 | Lead 4 | ok: the primary of epoch 4
        the primary of epoch 3, data of PostgreSQL 15, system 7 | Follow 3 | NotDemoted
        the primary of epoch 3, data of PostgreSQL 15, system 7 | Follow 4 | NotDemoted
        a replica of ord-2, data of PostgreSQL 15, system 7 | Bootstrap 3 | BootstrapOverData
        a replica of ord-2, data of PostgreSQL 15, system 7 | Bootstrap 4 | BootstrapOverData
        a replica of ord-2, data of PostgreSQL 15, system 7 | Lead 3 | NotPromoted
        a replica of ord-2, data of PostgreSQL 15, system 7 | Lead 4 | NotPromoted
        a replica of ord-2, data of PostgreSQL 15, system 7 | Follow 3 | ok: a replica of ord-2
        a replica of ord-2, data of PostgreSQL 15, system 7 | Follow 4 | ok: a replica of ord-2
    "#]]
    .assert_eq(&table);
}

#[test]
fn other_clusters_nodes_epochs_and_systems_are_refused() {
    let mine = ledger(LedgerRole::Replica { upstream: "ord-2".parse().unwrap(), epoch: Epoch(3) });
    let good = assignment(3, tasks()[2].clone());
    assert!(mine.accept(&good, &complete()).is_ok());

    let mut other = good.clone();
    other.cluster = "users-db".parse().unwrap();
    assert!(matches!(mine.accept(&other, &complete()), Err(Refusal::OtherNode { .. })));
    let mut other = good.clone();
    other.node = "ord-3".parse().unwrap();
    assert!(matches!(mine.accept(&other, &complete()), Err(Refusal::OtherNode { .. })));
    let mut other = good.clone();
    other.epoch = Epoch(2);
    assert!(matches!(mine.accept(&other, &complete()), Err(Refusal::StaleEpoch { .. })));
    let mut other = good.clone();
    other.task = Task::Follow { primary: "ord-2".parse().unwrap(), system_id: SystemId("8".to_owned()) };
    assert!(matches!(mine.accept(&other, &complete()), Err(Refusal::OtherSystem { .. })));
    let mut other = good;
    other.task = Task::Follow { primary: "ord-1".parse().unwrap(), system_id: SystemId("7".to_owned()) };
    assert_eq!(mine.accept(&other, &complete()), Err(Refusal::FollowsItself));
}

#[test]
fn a_moved_volume_keeps_its_promise_and_forgets_its_task() {
    let mine = ledger(LedgerRole::Blank).accept(&assignment(3, tasks()[0].clone()), &DataDir::Blank).unwrap();
    let same = mine.restarted("m1");
    assert_eq!((same.incarnation, &same.assignment), (2, &mine.assignment));
    let moved = mine.restarted("m2");
    assert_eq!((moved.promised, moved.assignment), (Epoch(3), None));
}

#[test]
fn the_newer_slot_counts_and_the_next_write_spares_it() {
    let [old, new] = ["m-old", "m-new"].map(|m| Ledger { machine: m.to_owned(), ..ledger(LedgerRole::Blank) });
    let (first, second) = (encode(8, &new), encode(7, &old));
    let got = recover([Slot::Bytes(&first), Slot::Bytes(&second)]).unwrap().unwrap();
    assert_eq!(got, Recovered { ledger: new, sequence: 8, next_slot: 1, damaged: false });
    assert_eq!(recover([Slot::Absent, Slot::Absent]).unwrap(), None);
}

#[test]
fn what_cannot_be_read_is_never_taken_for_blank() {
    let whole = encode(1, &ledger(LedgerRole::Blank));
    let torn = &whole[..whole.len() - 1];
    assert!(recover([Slot::Bytes(torn), Slot::Absent]).is_err());
    assert!(recover([Slot::Bytes(torn), Slot::Bytes(b"")]).is_err());
    let got = recover([Slot::Bytes(torn), Slot::Bytes(&whole)]).unwrap().unwrap();
    assert_eq!((got.next_slot, got.damaged), (0, true));
    let newer = {
        let payload = br#"{"from":"a newer agent"}"#;
        let mut bytes = b"flypg/L1".to_vec();
        bytes.extend(9u64.to_be_bytes());
        bytes.extend((payload.len() as u64).to_be_bytes());
        let mut sum = <sha2::Sha256 as sha2::Digest>::new();
        sha2::Digest::update(&mut sum, &bytes[8..]);
        sha2::Digest::update(&mut sum, payload);
        bytes.extend(sha2::Digest::finalize(sum));
        bytes.extend(payload);
        bytes
    };
    let error = recover([Slot::Bytes(&newer), Slot::Bytes(&whole)]).unwrap_err();
    expect!["no slot of the ledger can be read (first: its checksum is right, but this version of flypg-agent cannot read it; second: readable)"]
        .assert_eq(&error.to_string());
}

proptest! {
    /// However a slot is torn or damaged, the answer is the other slot or an error, never something else.
    #[test]
    fn damage_never_goes_unnoticed(at in 0usize..400, flip in 1u8..=255, cut in any::<bool>()) {
        let older = ledger(LedgerRole::Blank);
        let newer = Ledger { incarnation: 9, ..older.clone() };
        let good = encode(1, &older);
        let mut bad = encode(2, &newer);
        let at = at % bad.len();
        if cut { bad.truncate(at) } else { bad[at] ^= flip }
        let got = recover([Slot::Bytes(&bad), Slot::Bytes(&good)]).unwrap().unwrap();
        prop_assert_eq!(got.ledger, older);
        prop_assert_eq!(got.next_slot, 0);
    }

    /// Whatever is accepted keeps the promise: epochs never go down, and data of one system never becomes another's.
    #[test]
    fn promises_only_go_up(choices in proptest::collection::vec((0usize..3, 1u64..6, any::<bool>()), 1..30)) {
        let mut mine = ledger(LedgerRole::Blank);
        let mut data = DataDir::Blank;
        for (task, epoch, made) in choices {
            let before = mine.clone();
            if let Ok(next) = mine.accept(&assignment(epoch, tasks()[task].clone()), &data) {
                prop_assert!(next.promised >= before.promised);
                prop_assert!(before.system_id.is_none() || next.system_id == before.system_id);
                if let (LedgerRole::Replica { .. }, role) = (&before.role, &next.role) {
                    prop_assert!(matches!(role, LedgerRole::Replica { .. }), "a replica became {}", role);
                }
                mine = next;
            }
            if made && let Some(next) = mine.made(&SystemId("7".to_owned())) {
                data = complete();
                mine = next;
            }
        }
    }
}
