mod decrees;

use std::collections::BTreeSet;

use expect_test::expect;
use proptest::prelude::*;

use super::*;
use crate::failover::{Branch, Lineage, Rule};
use crate::node::Origin;
use crate::protocol::{Lsn, Terms};
use crate::spec::Profile;

const NONCE: &str = "n1";

fn name(node: &str) -> NodeName {
    node.parse().unwrap()
}

fn system() -> SystemId {
    SystemId("7".to_owned())
}

/// What its primary on record is told, too, when it is to be replaced.
fn recruit() -> Task {
    Task::Recruit { primary: name("ord-1") }
}

fn ledger(role: LedgerRole) -> Ledger {
    let mut ledger = Ledger::blank("orders-db".parse().unwrap(), name("ord-1"), "m1".to_owned());
    if !matches!(role, LedgerRole::Blank | LedgerRole::Initialising { .. }) {
        ledger.system_id = Some(system());
    }
    if role != LedgerRole::Blank {
        ledger.promised = Epoch(3);
        ledger.revision = 5;
    }
    ledger.role = role;
    ledger
}

fn complete() -> DataDir {
    DataDir::Complete { major: 15, system_id: system(), standby_signal: false, origin: None }
}

/// From the fifth revision of the record.
fn assignment(epoch: u64, task: Task) -> Assignment {
    Assignment {
        cluster: "orders-db".parse().unwrap(),
        node: name("ord-1"),
        epoch: Epoch(epoch),
        revision: 5,
        task,
        peers: vec![],
        profile: Profile::Balanced,
        parameters: BTreeMap::new(),
    }
}

fn terms() -> Terms {
    let rule = Rule::any(1, [name("ord-2"), name("ord-3")].into()).unwrap();
    Terms { nonce: NONCE.to_owned(), rule: rule.clone(), pledges: vec![rule] }
}

fn follow(primary: &str, system_id: SystemId) -> Task {
    let first = Branch { epoch: Epoch(1), timeline: 1, start: Lsn(0), node: name("ord-1") };
    Task::Follow { primary: name(primary), system_id, lineage: Lineage::new(first, NONCE.to_owned()), remake: false }
}

fn tasks() -> [Task; 7] {
    let (system_id, terms) = (system(), terms());
    [
        Task::Bootstrap { nonce: NONCE.to_owned() },
        recruit(),
        Task::Promote { system_id: system_id.clone(), timeline: 2, burnt: vec![], terms: terms.clone() },
        Task::Reaffirm { system_id: system_id.clone(), terms: terms.clone() },
        Task::Lead { system_id: system_id.clone(), terms: terms.clone() },
        Task::HandOver { system_id: system_id.clone(), terms, to: name("ord-2") },
        follow("ord-2", system_id),
    ]
}

fn roles() -> [(LedgerRole, DataDir); 12] {
    let epoch = Epoch(3);
    let (upstream, nonce) = (name("ord-2"), NONCE.to_owned());
    [
        (LedgerRole::Blank, DataDir::Blank),
        (LedgerRole::Blank, complete()),
        (LedgerRole::Initialising { nonce: nonce.clone(), epoch }, DataDir::Blank),
        (LedgerRole::Cloning { upstream: upstream.clone(), epoch }, DataDir::Unfinished(None)),
        (LedgerRole::Primary { epoch, nonce: nonce.clone() }, complete()),
        (LedgerRole::Primary { epoch, nonce: "another".to_owned() }, complete()),
        (LedgerRole::Replica { upstream: upstream.clone(), epoch }, complete()),
        (LedgerRole::Recruited { epoch }, complete()),
        (LedgerRole::Promoting { epoch, timeline: 2, nonce }, complete()),
        (LedgerRole::Relinquished { epoch }, complete()),
        (LedgerRole::Rejoining { upstream: upstream.clone(), epoch, rewinding: false }, complete()),
        (LedgerRole::Rejoining { upstream, epoch, rewinding: true }, complete()),
    ]
}

/// Every role against every task, in the same epoch and in the next.
#[test]
fn what_a_node_accepts() {
    let mut table = String::new();
    for (role, data) in roles() {
        table += &format!("{role}, {data}\n");
        for task in tasks() {
            let answer = |epoch| match ledger(role.clone()).accept(&assignment(epoch, task.clone()), &data) {
                Ok(next) => format!("ok: {}", next.role),
                Err(refusal) => format!("{refusal:?}").split([' ', '{']).next().unwrap().to_owned(),
            };
            table += &format!("  {} | {} | {}\n", task.name(), answer(3), answer(4));
        }
    }
    expect![[r#"
        blank, a blank volume
          bootstrap | ok: being initialised | ok: being initialised
          recruit | ok: blank | ok: blank
          promote | NotRecruited | NotRecruited
          reaffirm | NothingToLead | NothingToLead
          lead | NotPromoted | NotPromoted
          hand-over | NotPromoted | NotPromoted
          follow | ok: being cloned from ord-2 | ok: being cloned from ord-2
        blank, data of PostgreSQL 15, system 7
          bootstrap | BootstrapOverData | BootstrapOverData
          recruit | ok: blank | ok: blank
          promote | NotRecruited | NotRecruited
          reaffirm | UnknownData | UnknownData
          lead | NotPromoted | NotPromoted
          hand-over | NotPromoted | NotPromoted
          follow | UnknownData | UnknownData
        being initialised, a blank volume
          bootstrap | ok: being initialised | ok: being initialised
          recruit | ok: being initialised | ok: being initialised
          promote | NotRecruited | NotRecruited
          reaffirm | NothingToLead | NothingToLead
          lead | NotPromoted | NotPromoted
          hand-over | NotPromoted | NotPromoted
          follow | Unfinished | Unfinished
        being cloned from ord-2, an unfinished data directory
          bootstrap | BootstrapOverData | BootstrapOverData
          recruit | Decided | ok: being cloned from ord-2
          promote | NotRecruited | NotRecruited
          reaffirm | NothingToLead | NothingToLead
          lead | NotPromoted | NotPromoted
          hand-over | NotPromoted | NotPromoted
          follow | ok: being cloned from ord-2 | ok: being cloned from ord-2
        the primary of epoch 3, data of PostgreSQL 15, system 7
          bootstrap | ok: the primary of epoch 3 | BootstrapOverData
          recruit | Decided | ok: a former primary that gave up epoch 4
          promote | ok: the primary of epoch 3 | NotRecruited
          reaffirm | ok: the primary of epoch 3 | ok: the primary of epoch 4
          lead | ok: the primary of epoch 3 | NotPromoted
          hand-over | ok: the primary of epoch 3 | NotPromoted
          follow | NotDemoted | ok: becoming a replica of ord-2 again
        the primary of epoch 3, data of PostgreSQL 15, system 7
          bootstrap | BootstrapOverData | BootstrapOverData
          recruit | Decided | ok: a former primary that gave up epoch 4
          promote | NotRecruited | NotRecruited
          reaffirm | NothingToLead | ok: the primary of epoch 4
          lead | NotPromoted | NotPromoted
          hand-over | NotPromoted | NotPromoted
          follow | NotDemoted | ok: becoming a replica of ord-2 again
        a replica of ord-2, data of PostgreSQL 15, system 7
          bootstrap | BootstrapOverData | BootstrapOverData
          recruit | Decided | ok: recruited for epoch 4
          promote | NotRecruited | NotRecruited
          reaffirm | NothingToLead | NothingToLead
          lead | NotPromoted | NotPromoted
          hand-over | NotPromoted | NotPromoted
          follow | ok: a replica of ord-2 | ok: a replica of ord-2
        recruited for epoch 3, data of PostgreSQL 15, system 7
          bootstrap | BootstrapOverData | BootstrapOverData
          recruit | ok: recruited for epoch 3 | ok: recruited for epoch 4
          promote | ok: being promoted in epoch 3 | NotRecruited
          reaffirm | NothingToLead | NothingToLead
          lead | NotPromoted | NotPromoted
          hand-over | NotPromoted | NotPromoted
          follow | ok: a replica of ord-2 | ok: a replica of ord-2
        being promoted in epoch 3, data of PostgreSQL 15, system 7
          bootstrap | BootstrapOverData | BootstrapOverData
          recruit | Decided | ok: a former primary that gave up epoch 4
          promote | ok: being promoted in epoch 3 | NotRecruited
          reaffirm | NothingToLead | ok: the primary of epoch 4
          lead | NotPromoted | NotPromoted
          hand-over | NotPromoted | NotPromoted
          follow | NotDemoted | ok: becoming a replica of ord-2 again
        a former primary that gave up epoch 3, data of PostgreSQL 15, system 7
          bootstrap | BootstrapOverData | BootstrapOverData
          recruit | Decided | ok: a former primary that gave up epoch 4
          promote | NotRecruited | NotRecruited
          reaffirm | GivenUp | ok: the primary of epoch 4
          lead | GivenUp | NotPromoted
          hand-over | GivenUp | NotPromoted
          follow | ok: becoming a replica of ord-2 again | ok: becoming a replica of ord-2 again
        becoming a replica of ord-2 again, data of PostgreSQL 15, system 7
          bootstrap | BootstrapOverData | BootstrapOverData
          recruit | Decided | ok: becoming a replica of ord-2 again
          promote | NotRecruited | NotRecruited
          reaffirm | NothingToLead | NothingToLead
          lead | NotPromoted | NotPromoted
          hand-over | NotPromoted | NotPromoted
          follow | ok: becoming a replica of ord-2 again | ok: becoming a replica of ord-2 again
        becoming a replica of ord-2 again, data of PostgreSQL 15, system 7
          bootstrap | BootstrapOverData | BootstrapOverData
          recruit | Decided | ok: becoming a replica of ord-2 again
          promote | NotRecruited | NotRecruited
          reaffirm | NothingToLead | NothingToLead
          lead | NotPromoted | NotPromoted
          hand-over | NotPromoted | NotPromoted
          follow | ok: becoming a replica of ord-2 again | ok: becoming a replica of ord-2 again
    "#]]
    .assert_eq(&table);
}

#[test]
fn other_clusters_nodes_epochs_and_systems_are_refused() {
    let mine = ledger(LedgerRole::Replica { upstream: name("ord-2"), epoch: Epoch(3) });
    let good = assignment(3, follow("ord-2", system()));
    assert!(mine.accept(&good, &complete()).is_ok());

    let mut other = good.clone();
    other.cluster = "users-db".parse().unwrap();
    assert!(matches!(mine.accept(&other, &complete()), Err(Refusal::OtherNode { .. })));
    let mut other = good.clone();
    other.node = name("ord-3");
    assert!(matches!(mine.accept(&other, &complete()), Err(Refusal::OtherNode { .. })));
    let mut other = good.clone();
    other.epoch = Epoch(2);
    assert!(matches!(mine.accept(&other, &complete()), Err(Refusal::StaleEpoch { .. })));
    let mut other = good.clone();
    other.revision = 4;
    assert!(matches!(mine.accept(&other, &complete()), Err(Refusal::StaleRevision { .. })));
    let mut other = good.clone();
    other.task = follow("ord-2", SystemId("8".to_owned()));
    assert!(matches!(mine.accept(&other, &complete()), Err(Refusal::OtherSystem { .. })));
    let mut other = good;
    other.task = follow("ord-1", system());
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

/// Rule R17: it was put back, under data and a high-water mark that were not.
#[test]
fn a_ledger_that_knows_less_than_was_promised_keeps_the_promise_and_forgets_its_task() {
    let mine = ledger(LedgerRole::Blank).accept(&assignment(3, tasks()[0].clone()), &DataDir::Blank).unwrap();
    assert_eq!(mine.clone().bound_by(Epoch(3)), mine);
    let older = mine.clone().bound_by(Epoch(5));
    assert_eq!((older.promised, &older.assignment), (Epoch(5), &None));
    assert_eq!(older.pledged, Some(Timing::of(Profile::Patient).over_after()));
    let stale = older.accept(&assignment(4, tasks()[0].clone()), &DataDir::Blank);
    assert_eq!(stale, Err(Refusal::StaleEpoch { given: Epoch(4), promised: Epoch(5) }));
}

#[test]
fn the_newer_slot_counts_and_the_next_write_spares_it() {
    let [old, new] = ["m-old", "m-new"].map(|m| Ledger { machine: m.to_owned(), ..ledger(LedgerRole::Blank) });
    let (first, second) = (encode(8, &new), encode(7, &old));
    let other = encode(9, &HighWater::default());
    assert!(recover::<Ledger>([Slot::Bytes(&other), Slot::Absent]).is_err());
    let got = recover([Slot::Bytes(&first), Slot::Bytes(&second)]).unwrap().unwrap();
    assert_eq!(got, Recovered { kept: new, sequence: 8, next_slot: 1, damaged: false });
    assert_eq!(recover::<Ledger>([Slot::Absent, Slot::Absent]).unwrap(), None);
}

#[test]
fn what_cannot_be_read_is_never_taken_for_blank() {
    let whole = encode(1, &ledger(LedgerRole::Blank));
    let torn = &whole[..whole.len() - 1];
    assert!(recover::<Ledger>([Slot::Bytes(torn), Slot::Absent]).is_err());
    assert!(recover::<Ledger>([Slot::Bytes(torn), Slot::Bytes(b"")]).is_err());
    let got = recover::<Ledger>([Slot::Bytes(torn), Slot::Bytes(&whole)]).unwrap().unwrap();
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
    let error = recover::<Ledger>([Slot::Bytes(&newer), Slot::Bytes(&whole)]).unwrap_err();
    expect!["neither slot can be read (first: its checksum is right, but this version of flypg-agent cannot read it; second: readable)"]
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
        let got = recover::<Ledger>([Slot::Bytes(&bad), Slot::Bytes(&good)]).unwrap().unwrap();
        prop_assert_eq!(got.kept, older);
        prop_assert_eq!(got.next_slot, 0);
    }
}

/// What a node was told before it stood as it does.
fn told(role: LedgerRole, epoch: u64, task: Task) -> Ledger {
    let mut mine = ledger(role);
    mine.promised = Epoch(epoch);
    mine.assignment = Some(assignment(epoch, task));
    mine
}

#[test]
fn what_was_given_up_by_itself_is_never_taken_up_again() {
    let [_, _, promote, reaffirm, ..] = tasks();
    let leads = told(LedgerRole::Primary { epoch: Epoch(3), nonce: NONCE.to_owned() }, 3, reaffirm.clone());
    let gave_up = leads.relinquished().unwrap();
    // The very assignment that it obeyed, once more.
    let again = gave_up.accept(&assignment(3, reaffirm.clone()), &complete());
    assert!(matches!(again, Err(Refusal::GivenUp { .. })), "{again:?}");
    assert!(gave_up.accept(&assignment(4, reaffirm.clone()), &complete()).is_ok());

    let chosen = LedgerRole::Promoting { epoch: Epoch(3), timeline: 2, nonce: NONCE.to_owned() };
    let gave_up = told(chosen.clone(), 3, promote.clone()).relinquished().unwrap();
    assert_eq!(gave_up.unpromoted(), None);
    assert!(gave_up.accept(&assignment(3, promote.clone()), &complete()).is_err());

    // One that a recruit took the task from is asked again in the recruit's epoch, and stands as it did.
    let recruited = told(chosen, 3, promote.clone()).accept(&assignment(4, recruit()), &complete()).unwrap();
    assert!(recruited.accept(&assignment(4, reaffirm), &complete()).is_ok());
    assert!(recruited.accept(&assignment(4, promote.clone()), &complete()).is_err());
    let unpromoted = recruited.unpromoted().unwrap();
    assert_eq!(unpromoted.role, LedgerRole::Recruited { epoch: Epoch(4) });
    let promoting = unpromoted.accept(&assignment(4, promote), &complete()).unwrap();
    assert!(matches!(promoting.role, LedgerRole::Promoting { epoch: Epoch(4), .. }), "{}", promoting.role);
}

#[test]
fn what_is_finished_after_a_recruit_is_recruited() {
    let epoch = Epoch(3);
    let recruit = |role| told(role, 3, follow("ord-2", system())).accept(&assignment(9, recruit()), &complete());
    let cloning = recruit(LedgerRole::Cloning { upstream: name("ord-2"), epoch }).unwrap();
    assert_eq!(cloning.made(&system()).unwrap().role, LedgerRole::Recruited { epoch: Epoch(9) });
    let rejoining = LedgerRole::Rejoining { upstream: name("ord-2"), epoch, rewinding: true };
    let rejoining = recruit(rejoining).unwrap();
    assert_eq!(rejoining.rejoined().unwrap().role, LedgerRole::Recruited { epoch: Epoch(9) });
    let making = recruit(LedgerRole::Initialising { nonce: NONCE.to_owned(), epoch }).unwrap();
    assert_eq!(making.made(&system()).unwrap().role, LedgerRole::Relinquished { epoch: Epoch(9) });
}

#[test]
fn only_a_replica_of_this_epoch_pledges_and_the_longest_pledge_counts() {
    let (asks, second) = (name("ord-2"), Duration::from_secs);
    let mine = told(LedgerRole::Replica { upstream: asks.clone(), epoch: Epoch(3) }, 3, follow("ord-2", system()));
    let pledged = mine.pledge(&asks, Epoch(3), second(6)).unwrap();
    assert_eq!(pledged.pledged, Some(second(6)));
    assert_eq!(pledged.pledge(&asks, Epoch(3), second(4)).unwrap().pledged, Some(second(6)));
    // It is on disk for the next boot, and over once a higher epoch may be promised at all.
    assert_eq!(pledged.restarted("m1").pledged, Some(second(6)));
    assert_eq!(pledged.accept(&assignment(4, recruit()), &complete()).unwrap().pledged, None);

    for (asks, epoch) in [(name("ord-3"), 3), (asks.clone(), 2), (asks.clone(), 4)] {
        assert!(mine.pledge(&asks, Epoch(epoch), second(6)).is_err(), "{asks} {epoch}");
    }
    assert!(mine.restarted("m2").pledge(&asks, Epoch(3), second(6)).is_err(), "a volume that moved counts nowhere");
    for (role, _) in roles().into_iter().filter(|(role, _)| !matches!(role, LedgerRole::Replica { .. })) {
        assert!(told(role, 3, follow("ord-2", system())).pledge(&asks, Epoch(3), second(6)).is_err());
    }
}

#[test]
fn one_store_is_obeyed_until_another_one_has_a_record_beyond_everything_promised() {
    let caller = |id: &str, generation, boot: &str| Caller { id: id.to_owned(), generation, boot: boot.to_owned() };
    let fresh = ledger(LedgerRole::Recruited { epoch: Epoch(3) });
    let mine = fresh.heed(&caller("a", 2, "x"), Epoch(3)).unwrap().unwrap();
    let heed =
        |id, generation, boot, epoch| mine.heed(&caller(id, generation, boot), Epoch(epoch)).map(|l| l.is_some());
    assert_eq!(heed("a", 2, "x", 3), Ok(false));
    assert_eq!(heed("a", 3, "y", 3), Ok(true));
    // An earlier life of it, and a copy that began the same one.
    assert!(heed("a", 1, "w", 9).is_err() && heed("a", 2, "y", 9).is_err());
    assert!(heed("b", 9, "z", 3).is_err());
    assert_eq!(heed("b", 1, "z", 4), Ok(true));
}

#[test]
fn a_bootstrap_goes_on_under_its_own_nonce_only() {
    let bootstrap = |data: DataDir| {
        ledger(LedgerRole::Blank).accept(&assignment(3, Task::Bootstrap { nonce: NONCE.to_owned() }), &data)
    };
    let initdb = |nonce: &str| Some(Origin::Initdb { nonce: nonce.to_owned() });
    for data in [DataDir::Blank, DataDir::Unfinished(None), DataDir::Unfinished(initdb(NONCE))] {
        assert!(bootstrap(data.clone()).is_ok(), "{data}");
    }
    for data in [
        complete(),
        DataDir::Unfinished(initdb("n2")),
        DataDir::Unfinished(Some(Origin::Clone { from: name("ord-2") })),
        DataDir::Unusable { why: "?".to_owned() },
    ] {
        assert!(matches!(bootstrap(data.clone()), Err(Refusal::BootstrapOverData { .. })), "{data}");
    }
}
