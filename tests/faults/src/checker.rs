//! Whether what clients were told agrees with what is there, and with what others were told.
//!
//! Each answer bounds a moment: the database did it between `sent` and `at`. The checker calls something wrong only if
//! no choice of such moments explains it, so a slow client is never taken for a fault of the database. [`Anomaly::Late`] is the
//! exception: it is about the moment at which an answer passed the gate, which only a client beside that gate can
//! tell, and it allows [`SLACK`] for that client's own slowness.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::history::{Answer, History, Op, Rows, What};

/// How much later than it left the gate a client beside it may read an answer, in nanoseconds: two cores are shared
/// by everything in a run.
pub const SLACK: u64 = 300_000_000;

/// What was promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// No acknowledged write is ever lost, nothing that was read is un-read.
    pub lossless: bool,
    /// A read sees every write acknowledged before it began.
    pub strict_reads: bool,
}

impl Promise {
    /// Of `durability: quorum` with `readFence: strict`.
    pub const QUORUM: Self = Self { lossless: true, strict_reads: true };
    /// Of `durability: async`: never two primaries.
    pub const ASYNC: Self = Self { lossless: false, strict_reads: false };
}

/// One node on one timeline: a reign, since a timeline is never used twice.
pub type Reign = (u32, String);

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anomaly {
    /// An acknowledged row is not there in the end.
    Lost { row: (u32, u64), by: Reign },
    /// A row that somebody saw is not there in the end.
    Unread { row: (u32, u64), by: Reign },
    /// A read does not see what an earlier read saw.
    Receded { row: (u32, u64), saw: Option<u64>, by: Reign },
    /// A read does not see a row acknowledged before it began.
    Stale { row: (u32, u64), saw: Option<u64>, by: Reign },
    /// Two reigns answered in turns.
    TwoPrimaries { one: Reign, other: Reign },
    /// Two nodes answered on one timeline.
    Fork { timeline: u32, nodes: BTreeSet<String> },
    /// A gate let an answer pass after a later reign had begun to answer, by so many nanoseconds.
    Late { by: Reign, after: Reign, nanos: u64 },
    /// A node does not have the primary's rows in the end, or has others.
    Diverged { node: String, missing: usize, surplus: usize },
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |reign: &Reign| format!("{} on timeline {}", reign.1, reign.0);
        match self {
            Self::Lost { row, by } => write!(f, "row {row:?}, acknowledged by {}, is lost", of(by)),
            Self::Unread { row, by } => write!(f, "row {row:?}, which {} showed, is lost", of(by)),
            Self::Receded { row, saw, by } => {
                write!(f, "{} showed {saw:?} where row {row:?} had been seen", of(by))
            }
            Self::Stale { row, saw, by } => {
                write!(f, "{} showed {saw:?} where row {row:?} had been acknowledged", of(by))
            }
            Self::TwoPrimaries { one, other } => write!(f, "{} and {} answered in turns", of(one), of(other)),
            Self::Fork { timeline, nodes } => write!(f, "timeline {timeline} was written by each of {nodes:?}"),
            Self::Late { by, after, nanos } => {
                write!(f, "{} answered {} ms after {} did", of(by), nanos / 1_000_000, of(after))
            }
            Self::Diverged { node, missing, surplus } => {
                write!(f, "{node} lacks {missing} rows of the primary and has {surplus} of its own")
            }
        }
    }
}

/// Everything that breaks the promise, without repetitions: of a kind that many rows show, each row counts.
#[must_use]
pub fn check(history: &History, promise: Promise) -> BTreeSet<Anomaly> {
    let mut found = BTreeSet::new();
    if promise.lossless {
        lost(history, &mut found);
    }
    if promise.strict_reads {
        recent(history, &mut found);
    }
    reigns(history, &mut found);
    late(history, &mut found);
    for (node, rows) in &history.others {
        let missing = history.primary.difference(rows).count();
        let surplus = rows.difference(&history.primary).count();
        if missing + surplus > 0 {
            found.insert(Anomaly::Diverged { node: node.clone(), missing, surplus });
        }
    }
    found
}

fn reign(answer: &Answer) -> Reign {
    (answer.timeline, answer.node.clone())
}

fn lost(history: &History, found: &mut BTreeSet<Anomaly>) {
    let gone = |row: &(u32, u64), rows: &Rows| !rows.contains(row);
    for (_, answer, row) in history.acks() {
        if gone(&row, &history.primary) {
            found.insert(Anomaly::Lost { row, by: reign(answer) });
        }
    }
    for (op, answer) in history.answered() {
        if let What::Read(seen) = &op.what {
            let rows = seen.iter().map(|(client, n)| (*client, *n));
            let gone = rows.filter(|row| gone(row, &history.primary));
            found.extend(gone.map(|row| Anomaly::Unread { row, by: reign(answer) }));
        }
    }
}

/// Every read sees what was known to be there before it began.
fn recent(history: &History, found: &mut BTreeSet<Anomaly>) {
    /// Known at a moment, from an acknowledgement or from a read.
    enum Known<'h> {
        Acknowledged(u32, u64),
        Seen(&'h BTreeMap<u32, u64>),
    }
    let mut known: Vec<(u64, Known<'_>)> = Vec::new();
    let mut reads: Vec<(&Op, &Answer, &BTreeMap<u32, u64>)> = Vec::new();
    for (op, answer) in history.answered() {
        match &op.what {
            What::Write(n) => known.push((answer.at, Known::Acknowledged(op.client, *n))),
            What::Read(seen) => {
                known.push((answer.at, Known::Seen(seen)));
                reads.push((op, answer, seen));
            }
        }
    }
    known.sort_by_key(|(at, _)| *at);
    reads.sort_by_key(|(op, ..)| op.sent);
    let mut known = known.into_iter().peekable();
    let (mut acknowledged, mut seen_before) = (BTreeMap::new(), BTreeMap::new());
    let raise = |floor: &mut BTreeMap<u32, u64>, client: u32, n: u64| {
        let highest = floor.entry(client).or_insert(n);
        *highest = n.max(*highest);
    };
    for (op, answer, seen) in reads {
        while let Some((_, fact)) = known.next_if(|(at, _)| *at < op.sent) {
            match fact {
                Known::Acknowledged(client, n) => raise(&mut acknowledged, client, n),
                Known::Seen(seen) => seen.iter().for_each(|(client, n)| raise(&mut seen_before, *client, *n)),
            }
        }
        let short = |floor: &BTreeMap<u32, u64>| {
            let below = floor.iter().filter(|(client, n)| seen.get(client) < Some(n));
            below.map(|(client, n)| ((*client, *n), seen.get(client).copied())).collect::<Vec<_>>()
        };
        let by = || reign(answer);
        found.extend(short(&seen_before).into_iter().map(|(row, saw)| Anomaly::Receded { row, saw, by: by() }));
        found.extend(short(&acknowledged).into_iter().map(|(row, saw)| Anomaly::Stale { row, saw, by: by() }));
    }
}

/// Between which moments a reign certainly answered.
struct Span {
    /// The first answer was there: it had begun by then.
    begun: u64,
    /// The last request that it answered was sent: it had not ended by then.
    lasted: u64,
}

fn spans(history: &History) -> BTreeMap<Reign, Span> {
    let mut spans = BTreeMap::new();
    for (op, answer) in history.answered() {
        let span = spans.entry(reign(answer)).or_insert(Span { begun: answer.at, lasted: op.sent });
        span.begun = span.begun.min(answer.at);
        span.lasted = span.lasted.max(op.sent);
    }
    spans
}

fn reigns(history: &History, found: &mut BTreeSet<Anomaly>) {
    let spans = spans(history);
    let mut nodes: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    for (n, (one, a)) in spans.iter().enumerate() {
        nodes.entry(one.0).or_default().insert(one.1.clone());
        for (other, b) in spans.iter().skip(n + 1) {
            // Each must have answered something before the other's last and after the other's first.
            if a.lasted >= b.begun && b.lasted >= a.begun {
                found.insert(Anomaly::TwoPrimaries { one: one.clone(), other: other.clone() });
            }
        }
    }
    let forks = nodes.into_iter().filter(|(_, nodes)| nodes.len() > 1);
    found.extend(forks.map(|(timeline, nodes)| Anomaly::Fork { timeline, nodes }));
}

/// Answers that a client beside the gate read too long after a later reign's first one.
fn late(history: &History, found: &mut BTreeSet<Anomaly>) {
    let mut last: BTreeMap<Reign, u64> = BTreeMap::new();
    for (op, answer) in history.answered().filter(|(op, answer)| op.side == answer.node) {
        let _ = op;
        let at = last.entry(reign(answer)).or_insert(answer.at);
        *at = answer.at.max(*at);
    }
    let spans = spans(history);
    for (by, at) in &last {
        let later = spans.iter().filter(|(after, _)| after.0 > by.0);
        for (after, span) in later.filter(|(_, span)| *at > span.begun + SLACK) {
            let nanos = at - span.begun;
            found.insert(Anomaly::Late { by: by.clone(), after: after.clone(), nanos });
        }
    }
}

/// When writes were acknowledged, and when not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    pub before: usize,
    pub during: usize,
    pub after: usize,
    /// The longest time without an acknowledgement from the fault on, in nanoseconds.
    pub outage: u64,
}

/// Counts acknowledgements before the fault, until it was mended, and until the end.
#[must_use]
pub fn flow(history: &History, fault: u64, mended: u64, end: u64) -> Flow {
    let mut times: Vec<u64> = history.acks().map(|(_, answer, _)| answer.at).collect();
    times.sort_unstable();
    let count = |from: u64, to: u64| times.iter().filter(|at| (from..to).contains(at)).count();
    let mut last = fault;
    let mut outage = 0;
    for at in times.iter().copied().filter(|at| (fault..end).contains(at)).chain([end.max(fault)]) {
        outage = outage.max(at - last);
        last = at;
    }
    Flow { before: count(0, fault), during: count(fault, mended), after: count(mended, end), outage }
}
