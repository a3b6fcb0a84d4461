//! The scenarios.

use std::time::Duration;

use crate::chance::Chance;
use crate::drawn;
use crate::scenario::Durability::{Async, Quorum, QuorumAvailable};
use crate::scenario::Order::{Copy, Forget, Freeze, Kill, Rival, RollBack, Start, Thaw, ThawFormer};
use crate::scenario::Part::{Agent, Postgres, Postmaster};
use crate::scenario::Plot::{Drawn, Told};
use crate::scenario::Step::{
    Acknowledges, AsksForSwitchover, Controller, Cut, Dies, Edits, Freezes, Heals, HostBack, HostLost, Lasts,
    LastsUpTo, Loses, LosesVolume, Platform, Signal, Sql, Successor, Switchover, Thaws,
};
use crate::scenario::Who::{First, Outside, Primary, Second};
use crate::scenario::{Bound, Processes, Scenario, Step};

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Three nodes and `durability: quorum`.
const fn quorum(name: &'static str, bound: Bound, steps: &'static [Step]) -> Scenario {
    Scenario { name, durability: Quorum, nodes: 3, plot: Told(steps), bound }
}

/// Three nodes, `durability: quorum`, and what a seed draws.
const fn drawn(name: &'static str, draw: fn(&mut Chance) -> Vec<Step>) -> Scenario {
    Scenario { name, durability: Quorum, nodes: 3, plot: Drawn(draw), bound: Bound::WhileItLasts }
}

/// Longer than every lease.
const LONG: Duration = s(14);
const ALL: &[crate::scenario::Who] = &[First, Second, Outside];

/// All of them. Names are for good: figures of different days are compared by them.
pub const SCENARIOS: &[Scenario] = &[
    // Processes.
    quorum("postmaster-killed", Bound::Crash, &[Signal(Primary, Postmaster, "SIGKILL"), Acknowledges, Lasts(s(2))]),
    quorum("postgres-killed", Bound::Crash, &[Signal(Primary, Postgres, "SIGKILL"), Acknowledges, Lasts(s(2))]),
    quorum(
        "postmaster-frozen",
        Bound::Silent,
        &[Signal(Primary, Postmaster, "SIGSTOP"), Lasts(s(20)), Signal(Primary, Postmaster, "SIGCONT"), Acknowledges],
    ),
    quorum(
        "postgres-frozen",
        Bound::Silent,
        &[
            Signal(Primary, Postgres, "SIGSTOP"),
            Successor,
            Lasts(s(3)),
            Signal(Primary, Postgres, "SIGCONT"),
            Acknowledges,
        ],
    ),
    quorum(
        "agent-frozen",
        Bound::Silent,
        &[Signal(Primary, Agent, "SIGSTOP"), Successor, Lasts(s(3)), Signal(Primary, Agent, "SIGCONT"), Acknowledges],
    ),
    quorum(
        "agent-frozen-around-the-lease",
        Bound::Silent,
        &[Signal(Primary, Agent, "SIGSTOP"), LastsUpTo(s(9)), Signal(Primary, Agent, "SIGCONT"), Acknowledges],
    ),
    quorum("agent-killed", Bound::MachineLost, &[Signal(Primary, Agent, "SIGKILL"), Acknowledges, Lasts(s(3))]),
    quorum("standby-agent-killed", Bound::Unharmed, &[Signal(First, Agent, "SIGKILL"), Acknowledges, Lasts(s(3))]),
    // Machines.
    quorum("machine-killed-back-soon", Bound::MachineLost, &[Dies(Primary, s(3)), Acknowledges, Lasts(s(5))]),
    quorum(
        "machine-killed-back-late",
        Bound::MachineLost,
        &[Dies(Primary, s(60)), Successor, Lasts(s(60)), Acknowledges],
    ),
    quorum("machine-frozen", Bound::Silent, &[Freezes(Primary), Successor, Lasts(s(3)), Thaws(Primary), Acknowledges]),
    quorum(
        "machine-frozen-around-the-lease",
        Bound::Silent,
        &[Freezes(Primary), LastsUpTo(s(9)), Thaws(Primary), Acknowledges],
    ),
    quorum(
        "host-lost",
        Bound::Silent,
        &[HostLost(Primary, Processes::Die), Successor, Lasts(s(3)), HostBack(Primary), Acknowledges],
    ),
    quorum(
        "host-out-of-sight",
        Bound::Unharmed,
        &[HostLost(Primary, Processes::GoOn), Lasts(LONG), Acknowledges, HostBack(Primary)],
    ),
    quorum("standby-lost", Bound::Unharmed, &[Dies(First, s(10)), Lasts(s(5)), Acknowledges]),
    quorum(
        "cold-start",
        Bound::WhileItLasts,
        &[Dies(Primary, s(3)), Dies(First, s(5)), Dies(Second, s(1)), Acknowledges],
    ),
    // Networks.
    quorum("primary-cut-off", Bound::Silent, &[Cut(&[Primary], ALL), Successor, Lasts(s(5)), Heals, Acknowledges]),
    quorum(
        "host-out-of-sight-and-cut-off",
        Bound::Silent,
        &[
            HostLost(Primary, Processes::GoOn),
            Cut(&[Primary], ALL),
            Successor,
            Lasts(s(5)),
            Heals,
            HostBack(Primary),
            Acknowledges,
        ],
    ),
    quorum(
        "primary-cut-from-controller",
        Bound::Unharmed,
        &[Cut(&[Primary], &[Outside]), Lasts(LONG), Heals, Acknowledges],
    ),
    quorum(
        "primary-cut-from-standbys",
        Bound::WhileItLasts,
        &[Cut(&[Primary], &[First, Second]), Lasts(LONG), Heals, Acknowledges],
    ),
    quorum(
        "primary-cut-from-one-standby",
        Bound::Unharmed,
        &[Cut(&[Primary], &[First]), Lasts(LONG), Heals, Acknowledges],
    ),
    quorum(
        "primary-with-one-standby",
        Bound::Unharmed,
        &[Cut(&[Primary, First], &[Second, Outside]), Lasts(LONG), Heals, Acknowledges],
    ),
    quorum(
        "standby-cut-off",
        Bound::Unharmed,
        &[Cut(&[First], &[Primary, Second, Outside]), Lasts(LONG), Heals, Acknowledges],
    ),
    quorum(
        "controller-cut-off",
        Bound::Unharmed,
        &[Cut(&[Outside], &[Primary, First, Second]), Lasts(LONG), Heals, Acknowledges],
    ),
    quorum(
        "everybody-alone",
        Bound::WhileItLasts,
        &[
            Cut(&[Primary], ALL),
            Cut(&[First], &[Second, Outside]),
            Cut(&[Second], &[Outside]),
            Lasts(s(20)),
            Heals,
            Acknowledges,
        ],
    ),
    quorum("primary-mute", Bound::Silent, &[Loses(&[Primary], ALL, 1.0), Lasts(LONG), Heals, Acknowledges]),
    quorum("primary-deaf", Bound::Silent, &[Loses(ALL, &[Primary], 1.0), Lasts(LONG), Heals, Acknowledges]),
    quorum(
        "primary-mute-to-controller",
        Bound::Unharmed,
        &[Loses(&[Primary], &[Outside], 1.0), Lasts(LONG), Heals, Acknowledges],
    ),
    quorum(
        "primary-deaf-to-controller",
        Bound::Unharmed,
        &[Loses(&[Outside], &[Primary], 1.0), Lasts(LONG), Heals, Acknowledges],
    ),
    quorum(
        "primary-mute-to-standbys",
        Bound::WhileItLasts,
        &[Loses(&[Primary], &[First, Second], 1.0), Lasts(LONG), Heals, Acknowledges],
    ),
    quorum(
        "primary-deaf-to-standbys",
        Bound::WhileItLasts,
        &[Loses(&[First, Second], &[Primary], 1.0), Lasts(LONG), Heals, Acknowledges],
    ),
    quorum(
        "lossy-network",
        Bound::Silent,
        &[Loses(&[Primary], ALL, 0.3), Loses(ALL, &[Primary], 0.3), Lasts(LONG), Heals, Acknowledges],
    ),
    quorum(
        "flapping-link",
        Bound::Silent,
        &[
            Cut(&[Primary], ALL),
            LastsUpTo(s(4)),
            Heals,
            LastsUpTo(s(2)),
            Cut(&[Primary], ALL),
            LastsUpTo(s(4)),
            Heals,
            LastsUpTo(s(2)),
            Cut(&[Primary], ALL),
            LastsUpTo(s(4)),
            Heals,
            LastsUpTo(s(2)),
            Cut(&[Primary], ALL),
            LastsUpTo(s(9)),
            Heals,
            Acknowledges,
        ],
    ),
    quorum(
        "everything-stalls",
        Bound::WhileItLasts,
        &[
            Cut(&[Primary], ALL),
            Cut(&[First], &[Second, Outside]),
            Cut(&[Second], &[Outside]),
            Lasts(s(45)),
            Heals,
            Acknowledges,
        ],
    ),
    // Failovers with something on top.
    quorum(
        "candidate-dies",
        Bound::WhileItLasts,
        &[Dies(Primary, s(15)), LastsUpTo(s(3)), Dies(First, s(10)), Lasts(s(3)), Acknowledges],
    ),
    quorum(
        "candidates-die",
        Bound::WhileItLasts,
        &[Dies(Primary, s(10)), LastsUpTo(s(3)), Dies(First, s(5)), LastsUpTo(s(4)), Dies(Second, s(5)), Acknowledges],
    ),
    quorum(
        "laggard",
        Bound::MachineLost,
        &[Cut(&[Primary], &[First]), Lasts(s(3)), Dies(Primary, s(15)), Heals, Successor, Acknowledges],
    ),
    quorum(
        "primary-dies-twice",
        Bound::WhileItLasts,
        &[Dies(Primary, s(5)), Successor, Dies(First, s(5)), Dies(Second, s(8)), Acknowledges],
    ),
    // The controller.
    quorum("controller-killed", Bound::Unharmed, &[Controller(Kill), Lasts(s(20)), Acknowledges, Controller(Start)]),
    quorum("controller-frozen", Bound::Unharmed, &[Controller(Freeze), Lasts(s(20)), Acknowledges, Controller(Thaw)]),
    quorum(
        "controller-killed-during-failover",
        Bound::WhileItLasts,
        &[
            Signal(Primary, Agent, "SIGKILL"),
            LastsUpTo(s(3)),
            Controller(Kill),
            Lasts(s(2)),
            Controller(Start),
            Acknowledges,
        ],
    ),
    quorum(
        "controller-frozen-during-failover",
        Bound::WhileItLasts,
        &[
            Freezes(Primary),
            LastsUpTo(s(9)),
            Controller(Freeze),
            Lasts(s(8)),
            Thaws(Primary),
            LastsUpTo(s(2)),
            Controller(Thaw),
            Acknowledges,
        ],
    ),
    quorum(
        "controller-killed-primary-dies",
        Bound::WhileItLasts,
        &[Controller(Kill), Dies(Primary, s(30)), Lasts(s(5)), Controller(Start), Successor],
    ),
    quorum(
        "record-lost",
        Bound::Unharmed,
        &[Controller(Forget), Lasts(s(3)), Controller(Start), Lasts(LONG), Acknowledges],
    ),
    quorum(
        "record-lost-primary-dead",
        Bound::WhileItLasts,
        &[Controller(Forget), Dies(Primary, s(10)), Controller(Start), Acknowledges],
    ),
    drawn("controller-killed-over-and-over", drawn::restless_controller),
    quorum(
        "record-rolled-back",
        Bound::WhileItLasts,
        &[
            Controller(Copy),
            Dies(Primary, s(5)),
            Successor,
            Lasts(s(5)),
            Controller(RollBack),
            Controller(Start),
            // It holds, and says what to do; nobody is in need of it meanwhile.
            Lasts(LONG),
            Acknowledges,
            Controller(Forget),
            Controller(Start),
            Acknowledges,
        ],
    ),
    quorum(
        "two-controllers",
        Bound::Unharmed,
        &[Controller(Copy), Controller(Rival), Lasts(LONG), Acknowledges, Dies(Primary, s(20)), Successor],
    ),
    quorum(
        "old-controller-thaws",
        Bound::WhileItLasts,
        &[
            Controller(Copy),
            Controller(Freeze),
            Controller(Rival),
            Dies(Primary, s(20)),
            LastsUpTo(s(9)),
            Controller(ThawFormer),
            Successor,
            Lasts(s(5)),
            Acknowledges,
        ],
    ),
    quorum("platform-frozen", Bound::Unharmed, &[Platform(Freeze), Lasts(s(30)), Acknowledges, Platform(Thaw)]),
    quorum(
        "controller-and-platform-away-ten-minutes",
        Bound::Unharmed,
        &[Controller(Kill), Platform(Freeze), Lasts(s(600)), Acknowledges, Platform(Thaw), Controller(Start)],
    ),
    // On purpose.
    quorum("switchover", Bound::Switchover, &[Switchover, Successor]),
    quorum("switchover-and-back", Bound::Switchover, &[Switchover, Successor, Switchover, Acknowledges]),
    quorum(
        "primary-dies-during-switchover",
        Bound::WhileItLasts,
        &[AsksForSwitchover, LastsUpTo(s(2)), Dies(Primary, s(10)), Acknowledges],
    ),
    quorum(
        "standby-dies-during-switchover",
        Bound::WhileItLasts,
        &[AsksForSwitchover, LastsUpTo(s(2)), Dies(First, s(10)), Acknowledges],
    ),
    quorum(
        "controller-killed-during-switchover",
        Bound::WhileItLasts,
        &[AsksForSwitchover, LastsUpTo(s(2)), Controller(Kill), Lasts(s(3)), Controller(Start), Acknowledges],
    ),
    quorum(
        "switchover-with-a-frozen-standby",
        Bound::Switchover,
        &[Freezes(First), Lasts(s(1)), AsksForSwitchover, Lasts(LONG), Thaws(First), Acknowledges],
    ),
    quorum(
        "primary-dies-during-a-roll",
        Bound::MachineLost,
        &[
            Edits("version: 15", "version: 15\n    parameters: { max_connections: 130 }"),
            LastsUpTo(s(9)),
            Dies(Primary, s(10)),
            Acknowledges,
        ],
    ),
    quorum(
        "primary-dies-during-a-clone",
        Bound::WhileItLasts,
        &[LosesVolume(First), LastsUpTo(s(9)), Dies(Primary, s(10)), Acknowledges],
    ),
    // By hand.
    quorum(
        "promoted-by-hand",
        Bound::Unharmed,
        // Nobody but a person knows what was done there; it is made anew once its data are gone.
        &[Sql(First, "SELECT pg_promote(false)"), Lasts(s(10)), Acknowledges, LosesVolume(First), Acknowledges],
    ),
    quorum(
        "names-edited-by-hand",
        Bound::Unharmed,
        &[
            Sql(Primary, "ALTER SYSTEM SET synchronous_standby_names = ''"),
            Sql(Primary, "SELECT pg_reload_conf()"),
            Lasts(s(10)),
            Acknowledges,
        ],
    ),
    // Drawn.
    drawn("mix", drawn::mix),
    drawn("some-links", drawn::some_links),
    drawn("cold-start-in-any-order", drawn::cold_start),
    Scenario {
        name: "two-nodes-mix",
        durability: QuorumAvailable,
        nodes: 2,
        bound: Bound::WhileItLasts,
        plot: Drawn(drawn::mix),
    },
    Scenario { name: "async-mix", durability: Async, nodes: 3, bound: Bound::WhileItLasts, plot: Drawn(drawn::mix) },
    // Two nodes.
    Scenario {
        name: "two-nodes-failover",
        durability: QuorumAvailable,
        nodes: 2,
        bound: Bound::Silent,
        plot: Told(&[HostLost(Primary, Processes::Die), Successor, Lasts(s(3)), HostBack(Primary), Acknowledges]),
    },
    Scenario {
        name: "two-nodes-older-returns-first",
        durability: QuorumAvailable,
        nodes: 2,
        bound: Bound::WhileItLasts,
        plot: Told(&[
            HostLost(First, Processes::Die),
            Acknowledges,
            Lasts(s(2)),
            HostLost(Primary, Processes::Die),
            Lasts(s(3)),
            HostBack(First),
            Lasts(LONG),
            HostBack(Primary),
            Acknowledges,
        ]),
    },
    Scenario {
        name: "two-nodes-cut",
        durability: QuorumAvailable,
        nodes: 2,
        bound: Bound::Silent,
        plot: Told(&[Cut(&[Primary], &[First]), Lasts(LONG), Heals, Acknowledges]),
    },
    // Asynchronous: never two primaries.
    Scenario {
        name: "async-machine-killed",
        durability: Async,
        nodes: 3,
        bound: Bound::MachineLost,
        plot: Told(&[Dies(Primary, s(20)), Acknowledges, Lasts(s(3))]),
    },
    Scenario {
        name: "async-primary-cut-off",
        durability: Async,
        nodes: 3,
        bound: Bound::Silent,
        plot: Told(&[Cut(&[Primary], ALL), Successor, Lasts(s(5)), Heals, Acknowledges]),
    },
    Scenario {
        name: "async-agent-frozen",
        durability: Async,
        nodes: 3,
        bound: Bound::Silent,
        plot: Told(&[
            Signal(Primary, Agent, "SIGSTOP"),
            Successor,
            Lasts(s(3)),
            Signal(Primary, Agent, "SIGCONT"),
            Acknowledges,
        ]),
    },
    // What holds without any failover, too.
    Scenario {
        name: "async-postmaster-killed",
        durability: Async,
        nodes: 3,
        bound: Bound::Crash,
        plot: Told(&[Signal(Primary, Postmaster, "SIGKILL"), Acknowledges, Lasts(s(2))]),
    },
    Scenario {
        name: "async-standby-cut-off",
        durability: Async,
        nodes: 3,
        bound: Bound::Unharmed,
        plot: Told(&[Cut(&[First], &[Primary, Second, Outside]), Lasts(s(5)), Heals, Acknowledges]),
    },
];

/// The scenario of a name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name)
}
