//! Nodes under a record that only grows, of which any message may be lost, late or doubled.

use super::*;
use crate::decree::{CommitMode, Decree, Stage};

const NODES: [&str; 3] = ["ord-1", "ord-2", "ord-3"];

/// What may happen next; the numbers are taken modulo what there is to choose from.
#[derive(Debug, Clone, PartialEq)]
enum Event {
    /// The record changes: an attempt begins, somebody is chosen, goes on, is established, or is to hand over.
    Decide {
        what: u8,
        whom: u8,
    },
    /// An assignment of any time arrives, once more or for the first time.
    Deliver {
        node: u8,
        of: u16,
    },
    /// The newest one arrives.
    Catch {
        node: u8,
    },
    /// The node gets on with what it is, gives up by itself, or restarts.
    GoOn {
        node: u8,
    },
    GiveUp {
        node: u8,
    },
    Touch {
        node: u8,
    },
    Restart {
        node: u8,
    },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => any::<(u8, u8)>().prop_map(|(what, whom)| Event::Decide { what, whom }),
        6 => any::<(u8, u16)>().prop_map(|(node, of)| Event::Deliver { node, of }),
        6 => any::<u8>().prop_map(|node| Event::Catch { node }),
        4 => any::<u8>().prop_map(|node| Event::GoOn { node }),
        1 => any::<u8>().prop_map(|node| Event::GiveUp { node }),
        1 => any::<u8>().prop_map(|node| Event::Touch { node }),
        1 => any::<u8>().prop_map(|node| Event::Restart { node }),
    ]
}

/// A change that the record may go through from here.
fn changed(decree: &Decree, what: u8, whom: u8) -> Decree {
    let nonce = format!("n{}", decree.epoch.0);
    decree.amended(|next| {
        if decree.is_electing() && !what.is_multiple_of(4) {
            next.reign = next.epoch;
            next.lineage.authorise(next.epoch, nonce.clone());
            let chosen = name(NODES[usize::from(whom) % NODES.len()]);
            if chosen == decree.primary {
                next.stage = Stage::Reaffirming { nonce, promotion: None };
            } else {
                next.primary = chosen.clone();
                next.burnt += 1;
                let position = crate::failover::Position { rank: 0, lsn: Lsn(1) };
                let permission = crate::failover::Permission {
                    candidate: chosen,
                    position,
                    recruits: BTreeMap::new(),
                    fences: crate::failover::Fences::default(),
                };
                let promotion = crate::decree::Promotion { epoch: next.epoch, timeline: next.burnt, permission };
                next.stage = Stage::Promoting { nonce, promotion };
            }
        } else if decree.is_electing() || what % 4 == 1 {
            next.epoch = next.epoch.next();
        } else if what % 4 == 2 && decree.stage == Stage::Established {
            let to = NODES.iter().map(|node| name(node)).find(|node| *node != decree.primary);
            next.stage = Stage::HandingOver { to: to.expect("there are three") };
        } else {
            next.system_id = Some(system());
            next.stage = Stage::Established;
        }
    })
}

/// What every node is told under `decree`.
fn told(decree: &Decree, node: &NodeName) -> Option<Assignment> {
    let system_id = system();
    let nonce = decree.nonce().unwrap_or_default().to_owned();
    let terms = Terms { nonce, ..terms() };
    let task = if decree.is_electing() {
        Task::Recruit { primary: decree.primary.clone() }
    } else if *node != decree.primary {
        decree.system_id()?;
        let (primary, lineage) = (decree.primary.clone(), decree.lineage.clone());
        Task::Follow { primary, system_id, lineage, remake: true }
    } else {
        match &decree.stage {
            Stage::Bootstrapping { nonce } => Task::Bootstrap { nonce: nonce.clone() },
            Stage::Promoting { promotion, .. } => {
                Task::Promote { system_id, timeline: promotion.timeline, burnt: vec![], terms }
            }
            Stage::Reaffirming { .. } => Task::Reaffirm { system_id, terms },
            Stage::Established => Task::Lead { system_id, terms },
            Stage::HandingOver { to } => Task::HandOver { system_id, terms, to: to.clone() },
        }
    };
    let revision = decree.revision;
    Some(Assignment { node: node.clone(), revision, ..assignment(decree.epoch.0, task) })
}

struct Node {
    ledger: Ledger,
    data: DataDir,
    /// Epochs that it gave up by itself, or has followed another one in.
    over: BTreeSet<Epoch>,
}

impl Node {
    fn is_now(&mut self, next: Option<Ledger>) {
        if let Some(next) = next {
            self.ledger = next;
        }
        self.data = match self.ledger.role {
            LedgerRole::Blank | LedgerRole::Initialising { .. } | LedgerRole::Cloning { .. } => DataDir::Blank,
            _ => complete(),
        };
    }

    /// What its own steps would come to.
    fn go_on(&mut self) {
        let mine = &self.ledger;
        let next = match &mine.role {
            LedgerRole::Initialising { .. } | LedgerRole::Cloning { .. } => mine.made(&system()),
            LedgerRole::Promoting { .. } => mine.promoted(),
            LedgerRole::Relinquished { .. } => mine.unpromoted(),
            LedgerRole::Rejoining { .. } => mine.rejoined(),
            _ => None,
        };
        self.is_now(next);
    }
}

fn check(before: &Ledger, node: &mut Node, led: &mut BTreeMap<Epoch, NodeName>) -> Result<(), TestCaseError> {
    let now = &node.ledger;
    prop_assert!(
        (now.promised, now.revision) >= (before.promised, before.revision),
        "{}: {before:?} became {now:?}",
        now.node
    );
    prop_assert!(before.system_id.is_none() || now.system_id == before.system_id);
    match &now.role {
        LedgerRole::Primary { epoch, .. } | LedgerRole::Promoting { epoch, .. } => {
            prop_assert_eq!(*epoch, now.promised, "{} leads below its promise", now.node);
            prop_assert!(!node.over.contains(epoch), "{} leads in {epoch} again", now.node);
            let first = led.entry(*epoch).or_insert_with(|| now.node.clone());
            prop_assert_eq!(&*first, &now.node, "two lead in {}", epoch);
        }
        LedgerRole::Replica { epoch, .. } => {
            prop_assert_eq!(*epoch, now.promised, "{} follows below its promise", now.node);
            node.over.insert(*epoch);
        }
        LedgerRole::Recruited { epoch } | LedgerRole::Relinquished { epoch } => {
            prop_assert_eq!(*epoch, now.promised, "{}", now.node);
        }
        LedgerRole::Rejoining { epoch, .. } => _ = node.over.insert(*epoch),
        LedgerRole::Blank | LedgerRole::Initialising { .. } | LedgerRole::Cloning { .. } => {}
    }
    // Whoever has taken part once never begins from nothing but by giving its copy up.
    let began = |role: &LedgerRole| matches!(role, LedgerRole::Blank | LedgerRole::Initialising { .. });
    prop_assert!(began(&before.role) || !began(&now.role), "{} became {}", before.role, now.role);
    Ok(())
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    proptest::collection::vec(event(), 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// No node goes back on its word, no epoch has two primaries, and none is led in again once that is over.
    #[test]
    fn no_order_of_messages_makes_a_node_go_back(events in events()) {
        tell(events)?;
    }
}

#[cfg(feature = "mutants")]
#[test]
fn a_promise_that_is_forgotten_is_missed() {
    use proptest::test_runner::{TestError, TestRunner};

    crate::mutant::set(&["R5"]);
    let config =
        ProptestConfig { failure_persistence: None, max_shrink_iters: 0, ..ProptestConfig::with_cases(20_000) };
    let outcome = TestRunner::new(config).run(&events(), tell);
    crate::mutant::set(&[]);
    assert!(matches!(outcome, Err(TestError::Fail(..))), "{outcome:?}");
}

fn tell(events: Vec<Event>) -> Result<(), TestCaseError> {
    let cluster = "orders-db".parse::<ClusterName>().unwrap();
    let first = Decree::first(name(NODES[0]), "n0".to_owned(), CommitMode::Synchronous, Profile::Balanced);
    let mut decrees = vec![first];
    let mut nodes = NODES.map(|node| Node {
        ledger: Ledger::blank(cluster.clone(), name(node), format!("m-{node}")),
        data: DataDir::Blank,
        over: BTreeSet::new(),
    });
    let mut led = BTreeMap::new();
    for event in events {
        let newest = decrees.len() - 1;
        let (at, of) = match event {
            Event::Decide { what, whom } => {
                let next = changed(&decrees[newest], what, whom);
                decrees.push(next);
                continue;
            }
            Event::Deliver { node, of } => (node, Some(usize::from(of) % decrees.len())),
            Event::Catch { node } => (node, Some(newest)),
            Event::GoOn { node } | Event::GiveUp { node } | Event::Touch { node } | Event::Restart { node } => {
                (node, None)
            }
        };
        let node = &mut nodes[usize::from(at) % NODES.len()];
        let before = node.ledger.clone();
        match event {
            Event::GoOn { .. } => node.go_on(),
            Event::GiveUp { .. } => {
                if let LedgerRole::Primary { epoch, .. } | LedgerRole::Promoting { epoch, .. } = before.role {
                    node.over.insert(epoch);
                }
                node.is_now(before.relinquished());
            }
            Event::Touch { .. } => node.is_now(before.rewinding().or_else(|| before.given_up())),
            Event::Restart { .. } => node.is_now(Some(before.restarted(&before.machine))),
            Event::Decide { .. } | Event::Deliver { .. } | Event::Catch { .. } => {
                let told = of.and_then(|of| told(&decrees[of], &before.node));
                node.is_now(told.and_then(|told| before.accept(&told, &node.data).ok()));
            }
        }
        check(&before, node, &mut led)?;
    }
    Ok(())
}
