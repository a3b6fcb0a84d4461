//! The checker finds what is planted, and nothing where nothing is wrong.

use std::collections::{BTreeMap, BTreeSet};

use flypg_faults::checker::{Anomaly, Promise, SLACK, check, flow};
use flypg_faults::history::{Answer, History, Op, Rows, What};

/// SplitMix64: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

const NODES: [&str; 3] = ["ord-1", "ord-2", "ord-3"];
const MS: u64 = 1_000_000;

/// A history that a right cluster can have: some reigns one after the other, each operation at one moment between its
/// request and its answer, requests that wait for the next reign, writes without answer that may or may not be there.
fn clean(dice: &mut Dice) -> History {
    let mut history = History::default();
    let mut rows = Rows::new();
    let mut next: BTreeMap<u32, u64> = BTreeMap::new();
    let mut now = MS;
    let mut node = dice.below(3);
    let mut timeline = 1;
    // Each client does one thing after another.
    let mut free: BTreeMap<u32, u64> = BTreeMap::new();
    for _ in 0..2 + dice.below(3) {
        for _ in 0..30 + dice.below(60) {
            now += 1 + dice.below(3 * MS);
            let client = u32::try_from(dice.below(6)).unwrap();
            let since = free.get(&client).copied().unwrap_or(0);
            if since >= now {
                continue;
            }
            // A request may have waited for this reign since long before.
            let longest = if dice.chance(5) { now } else { 4 * MS };
            let sent = now.saturating_sub(dice.below(longest)).max(since + 1);
            let at = now + dice.below(4 * MS);
            free.insert(client, at);
            let side = dice.pick(&["ord-1", "ord-2", "ord-3", "outside"]).to_owned();
            let answer = Answer { at, node: NODES[node as usize].to_owned(), timeline };
            let told = !dice.chance(8);
            let what = if client < 4 {
                let n = next.entry(client).or_insert(0);
                *n += 1;
                if told || dice.chance(50) {
                    rows.insert((client, *n));
                }
                What::Write(*n)
            } else {
                let mut seen = BTreeMap::new();
                seen.extend(rows.iter().copied());
                What::Read(if told { seen } else { BTreeMap::new() })
            };
            history.ops.push(Op { client, side, sent, what, answer: told.then_some(answer) });
        }
        // Answers that are still on the way arrive before anybody else reigns, give or take a slow client.
        now += 4 * MS + dice.below(2000 * MS);
        node = (node + 1 + dice.below(2)) % 3;
        timeline += 1 + u32::try_from(dice.below(2)).unwrap();
    }
    for name in NODES {
        history.others.insert(name.to_owned(), rows.clone());
    }
    history.primary = rows;
    history
}

#[test]
fn two_hundred_clean_histories_are_clean() {
    for seed in 0..200 {
        let history = clean(&mut Dice(seed));
        assert!(history.acks().count() > 20, "seed {seed} has hardly a write");
        let found = check(&history, Promise::QUORUM);
        assert!(found.is_empty(), "seed {seed}: {found:?}");
    }
}

/// Plants something, or gives `None` where this history has no place for it.
type Plant = fn(&mut History, &mut Dice) -> Option<fn(&Anomaly) -> bool>;

fn lose(history: &mut History, row: (u32, u64)) {
    history.primary.remove(&row);
    for rows in history.others.values_mut() {
        rows.remove(&row);
    }
}

fn lost_ack(history: &mut History, dice: &mut Dice) -> Option<fn(&Anomaly) -> bool> {
    let acks: Vec<_> = history.acks().map(|(_, _, row)| row).collect();
    lose(history, dice.pick(&acks));
    Some(|anomaly| matches!(anomaly, Anomaly::Lost { .. }))
}

/// A row without acknowledgement that somebody saw, and that is gone.
fn unread(history: &mut History, dice: &mut Dice) -> Option<fn(&Anomaly) -> bool> {
    let seen: BTreeSet<(u32, u64)> = (history.ops.iter())
        .filter_map(|op| if let What::Read(seen) = &op.what { Some(seen) } else { None })
        .flat_map(|seen| seen.iter().map(|(client, n)| (*client, *n)))
        .collect();
    let seen: Vec<_> = seen.into_iter().collect();
    let row = (!seen.is_empty()).then(|| dice.pick(&seen))?;
    for op in &mut history.ops {
        if op.client == row.0 && op.what == What::Write(row.1) {
            op.answer = None;
        }
    }
    lose(history, row);
    Some(|anomaly| matches!(anomaly, Anomaly::Unread { .. }))
}

fn timelines(history: &History) -> Vec<u32> {
    let all: BTreeSet<u32> = history.answered().map(|(_, answer)| answer.timeline).collect();
    all.into_iter().collect()
}

/// An old primary acknowledges something while the next one already does.
fn overlap(history: &mut History, dice: &mut Dice) -> Option<fn(&Anomaly) -> bool> {
    let timelines = timelines(history);
    let first = timelines[..timelines.len() - 1].to_vec();
    let old = dice.pick(&first);
    let next = *timelines.iter().find(|timeline| **timeline > old)?;
    let of_next = |f: fn(u64, u64) -> u64| {
        let answers = history.answered().filter(|(_, answer)| answer.timeline == next);
        answers.map(|(_, answer)| answer.at).reduce(f)
    };
    let (begun, ended) = (of_next(u64::min)?, of_next(u64::max)?);
    // Somewhere strictly inside, with requests of the next one sent after it.
    let later = history.answered().filter(|(_, answer)| answer.timeline == next).map(|(op, _)| op.sent).max()?;
    if later <= begun + 2 || ended <= begun + 2 {
        return None;
    }
    let op = history.ops.iter_mut().rfind(|op| op.answer.as_ref().is_some_and(|answer| answer.timeline == old))?;
    op.sent = begun + 1;
    if let Some(answer) = &mut op.answer {
        answer.at = begun + 2;
    }
    Some(|anomaly| matches!(anomaly, Anomaly::TwoPrimaries { .. }))
}

fn fork(history: &mut History, dice: &mut Dice) -> Option<fn(&Anomaly) -> bool> {
    let timeline = { dice.pick(&timelines(history)) };
    let answers = history.ops.iter_mut().filter_map(|op| op.answer.as_mut());
    let mut answers: Vec<_> = answers.filter(|answer| answer.timeline == timeline).collect();
    let n = usize::try_from(dice.below(answers.len() as u64)).ok()?;
    if answers.len() < 2 {
        return None;
    }
    let other = NODES.iter().find(|name| **name != answers[n].node)?;
    answers[n].node = (*other).to_owned();
    Some(|anomaly| matches!(anomaly, Anomaly::Fork { .. }))
}

/// An answer that the old primary's own neighbour reads long after the next one began.
fn late(history: &mut History, dice: &mut Dice) -> Option<fn(&Anomaly) -> bool> {
    let timelines = timelines(history);
    let first = timelines[..timelines.len() - 1].to_vec();
    let old = dice.pick(&first);
    let next = *timelines.iter().find(|timeline| **timeline > old)?;
    let begun = history.answered().filter(|(_, answer)| answer.timeline == next).map(|(_, a)| a.at).min()?;
    let op = history.ops.iter_mut().find(|op| op.answer.as_ref().is_some_and(|answer| answer.timeline == old))?;
    let answer = op.answer.as_mut()?;
    op.side.clone_from(&answer.node);
    answer.at = begun + SLACK + 1 + dice.below(SLACK);
    Some(|anomaly| matches!(anomaly, Anomaly::Late { .. }))
}

/// A read shows less than what was there before it.
fn shortened(history: &mut History, dice: &mut Dice, by_read: bool) -> bool {
    let begun = |op: &Op| op.sent;
    let mut known: Vec<(u64, u32, u64)> = Vec::new();
    for (op, answer) in history.answered() {
        match &op.what {
            What::Write(n) if !by_read => known.push((answer.at, op.client, *n)),
            What::Read(seen) if by_read => known.extend(seen.iter().map(|(client, n)| (answer.at, *client, *n))),
            _ => {}
        }
    }
    let mut places = Vec::new();
    for (place, op) in history.ops.iter().enumerate() {
        if op.answer.is_some() && matches!(op.what, What::Read(_)) {
            let before = known.iter().filter(|(at, ..)| *at < begun(op));
            places.extend(before.map(|(_, client, n)| (place, *client, *n)));
        }
    }
    if places.is_empty() {
        return false;
    }
    let (place, client, n) = dice.pick(&places);
    if let What::Read(seen) = &mut history.ops[place].what {
        match n {
            1 => seen.remove(&client),
            _ => seen.insert(client, n - 1),
        };
    }
    // What it shows now may not be there at all: a write whose fate nobody knows.
    if n > 1 {
        history.primary.insert((client, n - 1));
        for rows in history.others.values_mut() {
            rows.insert((client, n - 1));
        }
    }
    true
}

fn stale(history: &mut History, dice: &mut Dice) -> Option<fn(&Anomaly) -> bool> {
    shortened(history, dice, false).then_some(|anomaly| matches!(anomaly, Anomaly::Stale { .. }))
}

fn receded(history: &mut History, dice: &mut Dice) -> Option<fn(&Anomaly) -> bool> {
    shortened(history, dice, true).then_some(|anomaly| matches!(anomaly, Anomaly::Receded { .. }))
}

fn diverged(history: &mut History, dice: &mut Dice) -> Option<fn(&Anomaly) -> bool> {
    let rows = history.others.get_mut(dice.pick(&NODES))?;
    match dice.chance(50) {
        true => rows.pop_last().is_some(),
        false => rows.insert((99, 1)),
    };
    Some(|anomaly| matches!(anomaly, Anomaly::Diverged { .. }))
}

#[test]
fn two_hundred_planted_anomalies_are_found() {
    let plants: [(&str, Plant); 8] = [
        ("a lost acknowledgement", lost_ack),
        ("a row un-read", unread),
        ("two primaries in turns", overlap),
        ("a fork of one timeline", fork),
        ("an answer after the end", late),
        ("a stale read", stale),
        ("a read that recedes", receded),
        ("a node that diverged", diverged),
    ];
    for (what, plant) in plants {
        let (mut planted, mut seed) = (0, 0);
        while planted < 25 {
            assert!(seed < 1000, "{what}: {planted} of 25 planted");
            seed += 1;
            let mut dice = Dice(seed ^ 0xfeed_0000);
            let mut history = clean(&mut dice);
            let Some(is_it) = plant(&mut history, &mut dice) else { continue };
            planted += 1;
            let found = check(&history, Promise::QUORUM);
            assert!(found.iter().any(is_it), "{what}, seed {seed}: only {found:?}");
        }
    }
}

#[test]
fn without_the_promise_a_loss_is_none_but_two_primaries_are() {
    for (plant, allowed) in [(lost_ack as Plant, true), (unread, true), (stale, true), (fork, false), (diverged, false)]
    {
        let mut dice = Dice(7);
        let mut history = clean(&mut dice);
        plant(&mut history, &mut dice).expect("there is a place for it");
        assert_eq!(check(&history, Promise::ASYNC).is_empty(), allowed);
    }
}

#[test]
fn the_flow_of_writes() {
    let ack = |n: u64, at: u64| Op {
        client: 1,
        side: "outside".to_owned(),
        sent: at - 1,
        what: What::Write(n),
        answer: Some(Answer { at, node: "ord-1".to_owned(), timeline: 1 }),
    };
    let ops = [10, 20, 30, 90, 95, 130].iter().enumerate().map(|(n, at)| ack(n as u64 + 1, *at)).collect();
    let history = History { ops, ..History::default() };
    let seen = flow(&history, 25, 100, 140);
    assert_eq!((seen.before, seen.during, seen.after, seen.outage), (2, 3, 1, 60));
    // Silence until the end counts, too.
    assert_eq!(flow(&history, 96, 100, 1000).outage, 870);
    assert_eq!(flow(&History::default(), 5, 6, 50).outage, 45);
}
