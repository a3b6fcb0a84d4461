//! What befalls a cluster, step by step.

use std::time::Duration;

use crate::chance::Chance;

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// One word with dashes, by which it is chosen.
    pub name: &'static str,
    pub durability: Durability,
    /// In the primary region.
    pub nodes: u32,
    pub plot: Plot,
    pub bound: Bound,
}

/// Where the steps come from.
#[derive(Clone, Copy, Debug)]
pub enum Plot {
    /// The same in every run. A step that cannot be taken, or that is waited for in vain, ends it.
    Told(&'static [Step]),
    /// Others for every seed. Faults that are drawn get into each other's way; one that makes no sense any more when
    /// its time has come is left out.
    Drawn(fn(&mut Chance) -> Vec<Step>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    Quorum,
    QuorumAvailable,
    Async,
}

impl Durability {
    /// As `cluster.yaml` spells it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::QuorumAvailable => "quorum-available",
            Self::Async => "async",
        }
    }
}

/// A part of the cluster. The primary is the one at the beginning, whoever leads later; the others count by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Primary,
    First,
    Second,
    /// Whoever acknowledged a write last.
    Leader,
    /// Controller, Machines API, and clients that are beside no node.
    Outside,
}

/// Processes of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Agent,
    /// The postmaster without its backends.
    Postmaster,
    /// Postmaster and backends.
    Postgres,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Start,
    Kill,
    Freeze,
    Thaw,
    /// It is killed, and its record of the clusters is gone; the master key stays.
    Forget,
    /// Its files are copied as they are now.
    Copy,
    /// It is killed, and its files are again as they were when they were copied.
    RollBack,
    /// Another one starts on the copied files. It is the one that is asked from now on, and the one that stays.
    Rival,
    /// The one before its rival goes on.
    ThawFormer,
}

/// One step.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Signal(Who, Part, &'static str),
    /// Everything in the Machine dies at once; the platform starts it again so much later.
    Dies(Who, Duration),
    /// Everything in the Machine stands still.
    Freezes(Who),
    Thaws(Who),
    /// The platform loses sight of a host, whose processes go on or not.
    HostLost(Who, Processes),
    HostBack(Who),
    /// One way, this share of all packets.
    Loses(&'static [Who], &'static [Who], f64),
    /// Both ways, everything.
    Cut(&'static [Who], &'static [Who]),
    Heals,
    Controller(Order),
    /// `flypg switchover`, to its end.
    Switchover,
    /// The same is asked for, and nobody waits for it or needs it to succeed.
    AsksForSwitchover,
    /// The platform itself, whose Machines run on meanwhile.
    Platform(Order),
    /// The disk of a node is empty, and the Machine starts again on it.
    LosesVolume(Who),
    /// A person asks this at a node's own gate, as a superuser.
    Sql(Who, &'static str),
    /// In the cluster's file, this is replaced by that.
    Edits(&'static str, &'static str),
    /// What is now stays so.
    Lasts(Duration),
    /// The same for a time up to this one, drawn from the seed.
    LastsUpTo(Duration),
    /// Until some more writes are acknowledged, by whomever.
    Acknowledges,
    /// Until writes are acknowledged by another node than the primary.
    Successor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processes {
    GoOn,
    Die,
}

impl Step {
    /// Whether it waits for something that must come about, or else that it can be taken is a part of the story.
    #[must_use]
    pub const fn must_be_taken(&self) -> bool {
        matches!(self, Self::Acknowledges | Self::Successor | Self::Switchover | Self::Controller(_))
    }

    /// Whether it only undoes what an earlier one did, which the platform or the controller may have done before it.
    #[must_use]
    pub fn undoes(&self) -> bool {
        matches!(self, Self::Thaws(_) | Self::HostBack(_) | Self::Signal(_, _, "SIGCONT"))
    }

    /// Whether it takes a network that can be cut.
    #[must_use]
    pub const fn needs_namespaces(&self) -> bool {
        matches!(self, Self::Loses(..) | Self::Cut(..) | Self::Heals)
    }
}

impl Scenario {
    /// Whether it can only run where every node has a network namespace.
    #[must_use]
    pub fn needs_namespaces(&self) -> bool {
        match self.plot {
            Plot::Told(steps) => steps.iter().any(Step::needs_namespaces),
            Plot::Drawn(_) => true,
        }
    }
}

/// How long nobody may be able to write, by the kind of fault. Measured and told; a run does not fail by it, since the
/// computer may be busy with something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Writes go on.
    Unharmed,
    /// The agent tells at once.
    Crash,
    /// The platform can prove that the Machine is gone.
    MachineLost,
    /// A lease must end.
    Silent,
    Switchover,
    /// As long as the fault lasts, by the promise itself.
    WhileItLasts,
}

impl Bound {
    #[must_use]
    pub const fn limit(self) -> Option<Duration> {
        match self {
            Self::Unharmed => Some(Duration::from_secs(1)),
            Self::Crash => Some(Duration::from_secs(3)),
            Self::MachineLost => Some(Duration::from_secs(6)),
            Self::Silent => Some(Duration::from_secs(10)),
            Self::Switchover => Some(Duration::from_secs(2)),
            Self::WhileItLasts => None,
        }
    }
}
