//! Faults that a seed draws: what nobody thought of putting into the table.

use std::time::Duration;

use crate::chance::Chance;
use crate::scenario::Part::{Agent, Postgres, Postmaster};
use crate::scenario::Who::{First, Leader, Outside, Primary, Second};
use crate::scenario::{Order, Processes, Step, Who};

/// Within this after the first moment all of them begin.
const BEGIN: Duration = Duration::from_secs(20);
/// None of them lasts longer, which is more than twice the lease.
const LAST: Duration = Duration::from_secs(15);

const NODES: [Who; 3] = [Primary, First, Second];
/// Every node, and what is none: each alone, as links want to be told.
const ALONE: [&[Who]; 4] = [&[Primary], &[First], &[Second], &[Outside]];
/// Ways to fall into two parts.
const PARTS: [(&[Who], &[Who]); 7] = [
    (&[Primary], &[First, Second, Outside]),
    (&[First], &[Primary, Second, Outside]),
    (&[Second], &[Primary, First, Outside]),
    (&[Outside], &[Primary, First, Second]),
    (&[Primary, First], &[Second, Outside]),
    (&[Primary, Second], &[First, Outside]),
    (&[Primary, Outside], &[First, Second]),
];

/// Two to four faults of any kind, at any time, on any node. What is left of them in the end is mended.
#[must_use]
pub fn mix(chance: &mut Chance) -> Vec<Step> {
    let mut plan = Plan::default();
    for _ in 0..2 + chance.below(3) {
        let begin = chance.time(BEGIN);
        let end = begin + Duration::from_millis(100) + chance.time(LAST);
        any(chance, &mut plan, begin, end);
    }
    plan.steps()
}

/// Any set of one-way links is cut, at once and for longer than a lease.
#[must_use]
pub fn some_links(chance: &mut Chance) -> Vec<Step> {
    // Few, some or most of the twelve.
    let of_ten = chance.pick(&[2, 4, 6]);
    let pairs = ALONE.into_iter().flat_map(|from| ALONE.map(|to| (from, to)));
    let mut steps = Vec::new();
    for (from, to) in pairs.filter(|(from, to)| from != to) {
        if chance.below(10) < of_ten {
            steps.push(Step::Loses(from, to, 1.0));
        }
    }
    steps.extend([Step::Lasts(Duration::from_secs(14)), Step::Heals, Step::Acknowledges]);
    steps
}

/// All Machines die, and come back in any order.
#[must_use]
pub fn cold_start(chance: &mut Chance) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut left = NODES.to_vec();
    while !left.is_empty() {
        let who = left.swap_remove(chance.below(left.len()));
        steps.push(Step::Dies(who, Duration::from_secs(1) + chance.time(Duration::from_secs(20))));
        steps.push(Step::Lasts(chance.time(Duration::from_secs(2))));
    }
    steps.push(Step::Acknowledges);
    steps
}

/// The primary's Machine dies, and the controller again and again while it is replaced.
#[must_use]
pub fn restless_controller(chance: &mut Chance) -> Vec<Step> {
    let mut steps = vec![Step::Dies(Primary, Duration::from_secs(40))];
    for _ in 0..8 {
        steps.push(Step::Lasts(chance.time(Duration::from_millis(1500))));
        steps.push(Step::Controller(Order::Kill));
        steps.push(Step::Controller(Order::Start));
    }
    steps.push(Step::Acknowledges);
    steps
}

/// Steps and when they are due.
#[derive(Debug, Default)]
struct Plan(Vec<(Duration, Step)>);

impl Plan {
    fn at(&mut self, when: Duration, step: Step) {
        self.0.push((when, step));
    }

    /// In their order, with the time between them.
    fn steps(mut self) -> Vec<Step> {
        self.0.sort_by_key(|(when, _)| *when);
        let mut now = Duration::ZERO;
        let mut steps = Vec::new();
        for (when, step) in self.0 {
            if when > now {
                steps.push(Step::Lasts(when - now));
                now = when;
            }
            steps.push(step);
        }
        steps
    }
}

/// One fault of any kind.
fn any(chance: &mut Chance, plan: &mut Plan, begin: Duration, end: Duration) {
    let who = chance.pick(&NODES);
    // Whoever leads by then bears the most; what is undone later needs a name that stays.
    let victim = chance.pick(&[Primary, First, Second, Leader, Leader, Leader]);
    let part = chance.pick(&[Agent, Postmaster, Postgres]);
    let back = Duration::from_millis(500) + chance.time(LAST);
    match chance.below(14) {
        0 | 1 => plan.at(begin, Step::Signal(victim, part, "SIGKILL")),
        2 | 3 => plan.at(begin, Step::Dies(victim, back)),
        4 => {
            plan.at(begin, Step::Signal(who, part, "SIGSTOP"));
            plan.at(end, Step::Signal(who, part, "SIGCONT"));
        }
        5 => {
            plan.at(begin, Step::Freezes(who));
            plan.at(end, Step::Thaws(who));
        }
        6 => {
            plan.at(begin, Step::HostLost(who, chance.pick(&[Processes::GoOn, Processes::Die])));
            plan.at(end, Step::HostBack(who));
        }
        7 | 8 => {
            let (these, those) = chance.pick(&PARTS);
            plan.at(begin, Step::Cut(these, those));
            plan.at(end, Step::Heals);
        }
        9 => {
            let (these, those) = chance.pick(&PARTS);
            let (from, to) = chance.pick(&[(these, those), (those, these)]);
            plan.at(begin, Step::Loses(from, to, 1.0));
            plan.at(end, Step::Heals);
        }
        10 => {
            let (one, other) = (chance.below(ALONE.len()), 1 + chance.below(ALONE.len() - 1));
            let (from, to) = (ALONE[one], ALONE[(one + other) % ALONE.len()]);
            plan.at(begin, Step::Loses(from, to, chance.pick(&[0.1, 0.3, 0.6, 1.0])));
            plan.at(end, Step::Heals);
        }
        11 => {
            plan.at(begin, Step::Controller(Order::Kill));
            plan.at(end, Step::Controller(Order::Start));
        }
        12 => {
            plan.at(begin, Step::Controller(Order::Freeze));
            plan.at(end, Step::Controller(Order::Thaw));
        }
        _ => plan.at(begin, Step::AsksForSwitchover),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What a step is, without what it is about.
    fn kind(step: &Step) -> String {
        let text = format!("{step:?}");
        text.split('(').next().unwrap_or_default().to_owned()
    }

    #[test]
    fn a_seed_tells_one_story_and_many_seeds_tell_all_of_them() {
        let (mut stories, mut kinds) = (BTreeSet::new(), BTreeSet::new());
        for seed in 0..500 {
            let steps = mix(&mut Chance::of(seed));
            assert_eq!(format!("{steps:?}"), format!("{:?}", mix(&mut Chance::of(seed))), "seed {seed}");
            let faults = steps.iter().filter(|step| !matches!(step, Step::Lasts(_))).count();
            assert!((2..=8).contains(&faults), "seed {seed}: {steps:?}");
            let whole: Duration =
                steps.iter().map(|s| if let Step::Lasts(time) = s { *time } else { Duration::ZERO }).sum();
            assert!(whole < BEGIN + LAST + Duration::from_millis(100), "seed {seed}: {steps:?}");
            kinds.extend(steps.iter().map(kind));
            stories.insert(format!("{steps:?}"));
        }
        assert_eq!(stories.len(), 500);
        for fault in ["Signal", "Dies", "Freezes", "Thaws", "HostLost", "HostBack", "Cut", "Heals", "Loses"] {
            assert!(kinds.contains(fault), "{fault} is never drawn");
        }
        assert!(kinds.contains("Controller") && kinds.contains("AsksForSwitchover"));
    }

    #[test]
    fn everybody_dies_in_a_cold_start_and_in_any_order() {
        let mut orders = BTreeSet::new();
        for seed in 0..100 {
            let steps = cold_start(&mut Chance::of(seed));
            let dead: Vec<String> = steps
                .iter()
                .filter_map(|s| if let Step::Dies(who, _) = s { Some(format!("{who:?}")) } else { None })
                .collect();
            assert_eq!(dead.iter().collect::<BTreeSet<_>>().len(), 3, "seed {seed}: {steps:?}");
            orders.insert(dead);
        }
        assert_eq!(orders.len(), 6);
    }

    #[test]
    fn links_are_cut_one_by_one_and_healed() {
        let mut cut = BTreeSet::new();
        for seed in 0..100 {
            let steps = some_links(&mut Chance::of(seed));
            let links = steps.iter().filter_map(|step| match step {
                Step::Loses(from, to, loss) if *loss == 1.0 => Some(format!("{from:?} {to:?}")),
                _ => None,
            });
            cut.extend(links);
            assert!(steps.iter().any(|step| matches!(step, Step::Heals)), "seed {seed}");
        }
        assert_eq!(cut.len(), ALONE.len() * (ALONE.len() - 1));
    }
}
