//! A standby that needs WAL which its primary does not have: it was removed, or the two have diverged. It can never
//! stream again; only another copy can. Whether this copy may be given for another is decided here.

use super::*;
use crate::failover::History;
use crate::protocol::Lsn;

/// How far a history has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub timeline: u32,
    pub lsn: Lsn,
}

impl Position {
    /// Whether data with this history that end at `end` have been here.
    pub fn is_in(self, history: &History, end: Lsn) -> bool {
        let left = history.switches.iter().find(|switch| switch.timeline == self.timeline);
        let until = if history.timeline == self.timeline { Some(end) } else { left.map(|switch| switch.at) };
        until.is_some_and(|until| self.lsn <= until)
    }
}

/// What is known of a standby whose Postgres says that its primary does not have the WAL it needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Stranded {
    /// How far this copy has come.
    pub own: Position,
    /// Another copy fits on the volume beside this one.
    pub room: bool,
    /// When its primary was last asked, and what came of it.
    pub asked: Option<(Timestamp, Result<PrimarySeen, String>)>,
}

/// What a primary says of itself over a replication connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrimarySeen {
    pub system_id: SystemId,
    pub at: Position,
    /// Where each timeline before its own ended.
    pub ended: Vec<Position>,
    /// It keeps WAL for this node, from now on.
    pub keeps_wal: bool,
}

/// An answer of the primary counts for so long, and it is asked again after as long.
const ASKED_FOR: Duration = Duration::from_secs(10);
/// Attempts at another copy within this time make the next one wait.
pub const REMAKE_WINDOW: Duration = Duration::from_secs(3600);
/// The longest wait before the next attempt: a copy costs the primary as much as it costs this node.
const LONGEST_REMAKE_WAIT: Duration = Duration::from_secs(600);

const LACKS: &str = "the primary cannot give this standby the WAL it needs";

/// What a standby does that cannot go on: ask, then make another copy, or say why not. Its Postgres runs meanwhile.
pub(super) fn next(
    primary: &NodeName,
    known: Option<&SystemId>,
    stranded: &Stranded,
    may_remake: bool,
    remakes: &[Timestamp],
    now: Timestamp,
) -> NodeStep {
    let again = remake_at(remakes, now);
    if again > now {
        return NodeStep::Hold { why: format!("{LACKS}; another copy is made from {again:.0} on"), until: again };
    }
    let Some((at, answer)) = stranded.asked.as_ref().filter(|(at, _)| step::after(*at, ASKED_FOR) > now) else {
        return NodeStep::AskPrimary { primary: primary.clone() };
    };
    let hold = |why: String| NodeStep::Hold { why: format!("{LACKS}; {why}"), until: step::after(*at, ASKED_FOR) };
    let seen = match answer {
        Ok(seen) => seen,
        Err(words) => return hold(format!("it cannot be asked for another copy: {words}")),
    };
    if let Err(why) = may_replace(stranded.own, known, seen) {
        return hold(why);
    }
    let from = primary.clone();
    match (stranded.room, may_remake) {
        // This copy goes only once the other one is whole.
        (true, _) => NodeStep::CloneBeside { from },
        (false, true) => NodeStep::GiveUpCopy { from },
        (false, false) => hold("there is no room for two copies, and this one may not go yet".to_owned()),
    }
}

/// Whether everything in a copy at `own` is in the primary's history too, so that nothing is lost with it.
fn may_replace(own: Position, known: Option<&SystemId>, primary: &PrimarySeen) -> Result<(), String> {
    if known != Some(&primary.system_id) {
        return Err(format!("it is of another system, {}", primary.system_id.0));
    }
    let Position { timeline, lsn } = own;
    let until = match timeline == primary.at.timeline {
        true => Some(primary.at.lsn),
        false => primary.ended.iter().find(|end| end.timeline == timeline).map(|end| end.lsn),
    };
    match until {
        None => Err(format!("its history has no timeline {timeline}, which this copy is on: they have diverged")),
        Some(until) if lsn > until => Err(format!(
            "this copy has come to {lsn} on timeline {timeline}, which the primary's history leaves at {until}: they \
             have diverged"
        )),
        Some(_) if !primary.keeps_wal => Err("it has no replication slot for this node yet".to_owned()),
        Some(_) => Ok(()),
    }
}

/// The first attempt is free; then 20 s, doubled with each one of the last hour, up to [`LONGEST_REMAKE_WAIT`].
pub(super) fn remake_at(remakes: &[Timestamp], now: Timestamp) -> Timestamp {
    let recent: Vec<_> = remakes.iter().filter(|at| step::after(**at, REMAKE_WINDOW) > now).collect();
    let Some(last) = recent.last() else { return now };
    let doublings = u32::try_from(recent.len()).unwrap_or(u32::MAX).min(8);
    step::after(**last, (Duration::from_secs(10) * 2u32.pow(doublings)).min(LONGEST_REMAKE_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn position(timeline: u32, lsn: u64) -> Position {
        Position { timeline, lsn: Lsn(lsn) }
    }

    fn seen(at: Position, ended: &[Position]) -> PrimarySeen {
        PrimarySeen { system_id: SystemId("7".to_owned()), at, ended: ended.to_vec(), keeps_wal: true }
    }

    fn decide(stranded: &Stranded, remakes: &[Timestamp], now: Timestamp) -> NodeStep {
        next(&"ord-1".parse().unwrap(), Some(&SystemId("7".to_owned())), stranded, true, remakes, now)
    }

    fn held(step: NodeStep, words: &str) {
        assert!(matches!(&step, NodeStep::Hold { why, .. } if why.contains(words)), "{words}: {step:?}");
    }

    #[test]
    fn nothing_is_given_away_before_the_primary_was_asked() {
        let from: NodeName = "ord-1".parse().unwrap();
        let mut stranded = Stranded { own: position(1, 50), room: true, asked: None };
        let ask = NodeStep::AskPrimary { primary: from.clone() };
        assert_eq!(decide(&stranded, &[], at(0)), ask);
        stranded.asked = Some((at(0), Err("connection refused".to_owned())));
        held(decide(&stranded, &[], at(5)), "connection refused");
        assert_eq!(decide(&stranded, &[], at(10)), ask);

        let good = seen(position(1, 90), &[]);
        stranded.asked = Some((at(10), Ok(good.clone())));
        assert_eq!(decide(&stranded, &[], at(11)), NodeStep::CloneBeside { from: from.clone() });
        stranded.room = false;
        assert_eq!(decide(&stranded, &[], at(11)), NodeStep::GiveUpCopy { from: from.clone() });
        // Whoever decides has not let it go.
        held(next(&from, Some(&SystemId("7".to_owned())), &stranded, false, &[], at(11)), "may not go yet");
        // An old answer is none.
        assert_eq!(decide(&stranded, &[], at(20)), ask);
        for (other, words) in [
            (PrimarySeen { system_id: SystemId("8".to_owned()), ..good.clone() }, "another system"),
            (PrimarySeen { keeps_wal: false, ..good }, "no replication slot"),
        ] {
            stranded.asked = Some((at(20), Ok(other)));
            held(decide(&stranded, &[], at(20)), words);
        }
    }

    #[test]
    fn only_a_copy_that_the_primary_has_all_of_is_given_away() {
        let known = SystemId("7".to_owned());
        for (own, primary, good) in [
            (position(1, 50), seen(position(1, 50), &[]), true),
            (position(1, 51), seen(position(1, 50), &[]), false),
            (position(1, 50), seen(position(2, 90), &[position(1, 50)]), true),
            (position(1, 51), seen(position(2, 90), &[position(1, 50)]), false),
            (position(2, 60), seen(position(3, 90), &[position(1, 50), position(2, 60)]), true),
            (position(2, 10), seen(position(1, 90), &[]), false),
            (position(2, 10), seen(position(3, 90), &[position(1, 50)]), false),
        ] {
            assert_eq!(may_replace(own, Some(&known), &primary).is_ok(), good, "{own:?} {primary:?}");
            assert!(may_replace(own, None, &primary).is_err());
        }
    }

    #[test]
    fn another_copy_is_not_made_over_and_over() {
        let stranded =
            Stranded { own: position(1, 50), room: true, asked: Some((at(0), Ok(seen(position(1, 90), &[])))) };
        let (mut remakes, mut waits) = (Vec::new(), Vec::new());
        for attempt in 0..7 {
            remakes.push(at(attempt));
            let NodeStep::Hold { why, until } = decide(&stranded, &remakes, at(attempt)) else { panic!() };
            assert!(why.contains("another copy is made from 1970-"), "{why}");
            waits.push(until.as_second() - at(attempt).as_second());
        }
        assert_eq!(waits, [20, 40, 80, 160, 320, 600, 600]);
        assert!(matches!(decide(&stranded, &remakes, at(3700)), NodeStep::AskPrimary { .. }));
    }
}
