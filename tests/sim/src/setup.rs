//! What one seed draws: a cluster, and which faults it will meet. Swarm testing: a run in which everything may happen
//! at once finds less than many in which a few things happen often.

use std::ops::Range;

use flypg_core::spec::{self, ClusterSpec, Deletion, Durability, Profile};

use crate::family::{self, FAMILIES};
use crate::rng::Rng;
use crate::time::{Time, ms, secs};

/// One kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A Machine ends without warning, and Fly starts it again.
    VmCrash,
    /// A Machine ends, and stays off for long.
    VmLost,
    /// The postmaster is killed, with all that belongs to it or alone.
    PostgresCrash,
    /// The agent's process stops for a while.
    AgentPause,
    /// Postgres' processes stop for a while.
    PostgresPause,
    /// A whole Machine stops for a while, its clock goes on.
    VmPause,
    /// A whole Machine is snapshotted for a while: its clocks stop too.
    VmSnapshot,
    /// The places fall into two halves.
    Partition,
    /// One direction between two places is cut.
    OneWay,
    /// Messages get slow, lost, doubled.
    BadNet,
    ControllerCrash,
    ControllerPause,
    /// The store answers nobody.
    StoreOutage,
    /// Answers of the store get lost, with or without effect.
    StoreUnknown,
    /// Fly's host does not answer: what runs on it goes on.
    HostUnreachable,
    /// The list of Machines is old, or lacks some.
    StaleList,
    /// Syncing to disk takes long.
    SlowDisk,
    /// One walsender stops for a while.
    SenderPause,
    /// Somebody cancels a wait for a standby.
    CancelWait,
    /// A volume is gone with all that is on it.
    VolumeLost,
    /// A volume is replaced by an older copy of it, in another Machine.
    VolumeRestored,
    /// Somebody puts an older copy of the data directory in the place of what is there.
    DataRestored,
    /// All Machines end at the same instant, and come back one after the other.
    PowerCut,
    /// A person promotes a standby by hand, sees the mistake, and makes it a standby again.
    PromotedByHand,
    /// A person orders a switchover.
    Switchover,
    /// A person asks for another durability.
    SpecChange,
    /// A person asks for one node less.
    Shrink,
    /// A volume held data of another cluster when this one began.
    Stranger,
}

impl Fault {
    /// What is drawn from. [`Fault::Stranger`] comes by itself: little else happens where it does. What
    /// [`Fault::DataRestored`] takes away is more than is promised, unless little else happens.
    pub const ALL: [Fault; 26] = [
        Fault::VmCrash,
        Fault::VmLost,
        Fault::PostgresCrash,
        Fault::AgentPause,
        Fault::PostgresPause,
        Fault::VmPause,
        Fault::VmSnapshot,
        Fault::Partition,
        Fault::OneWay,
        Fault::BadNet,
        Fault::ControllerCrash,
        Fault::ControllerPause,
        Fault::StoreOutage,
        Fault::StoreUnknown,
        Fault::HostUnreachable,
        Fault::StaleList,
        Fault::SlowDisk,
        Fault::SenderPause,
        Fault::CancelWait,
        Fault::VolumeLost,
        Fault::VolumeRestored,
        Fault::PowerCut,
        Fault::PromotedByHand,
        Fault::Switchover,
        Fault::SpecChange,
        Fault::Shrink,
    ];
}

/// One run, before it begins.
#[derive(Debug, Clone)]
pub struct Setup {
    pub seed: u64,
    pub spec: ClusterSpec,
    pub nodes: usize,
    pub controllers: usize,
    /// [`Fault::VolumeRestored`] hits the primary, and nobody else.
    pub restores_primary: bool,
    /// A person promotes another copy by hand while somebody takes over: it takes the number that was just given out.
    pub meddles: bool,
    /// That WAL goes which a node needs that the list of Machines lacked is a violation, too.
    pub blames_lists: bool,
    /// Postgres by itself: no agents, and nothing is judged ([`crate::Bare`]).
    pub bare: bool,
    /// Fly proves that a Machine is stopped.
    pub proves: bool,
    pub clients: usize,
    /// How long clients wait for an answer before they give it up: those of every other round of nodes, and the rest.
    pub patience: [Time; 2],
    /// How long they think before they ask again.
    pub think: Range<Time>,
    /// Which faults, each so many times.
    pub faults: Vec<(Fault, usize)>,
    /// Faults begin once the cluster is made, at this time.
    pub calm: Time,
    /// No fault begins after this.
    pub quiet: Time,
    pub end: Time,
    /// Everything heals at `quiet`, and the cluster must get well until `end`.
    pub heals: bool,
}

impl Setup {
    /// What a seed stands for: one run in four is of the family of some rule.
    pub fn draw(seed: u64) -> Self {
        let rng = &mut Rng::new(seed ^ 0xFA_417);
        if rng.chance(2_500) {
            Self::of(FAMILIES[rng.index(FAMILIES.len())], seed)
        } else {
            Self::swarm(seed).made_possible()
        }
    }

    fn swarm(seed: u64) -> Self {
        let rng = &mut Rng::new(seed);
        let nodes = *rng.pick(&[1, 2, 2, 3, 3, 3, 3, 3, 4, 5]);
        let mut spec = file();
        spec.primary.nodes = u32::try_from(nodes).expect("five at most");
        spec.durability = match nodes {
            1 => Durability::Async,
            2 => *rng.pick(&[Durability::Async, Durability::QuorumAvailable, Durability::Quorum]),
            _ => *rng.pick(&[Durability::Quorum, Durability::Quorum, Durability::QuorumAvailable, Durability::Async]),
        };
        spec.failover.profile = *rng.pick(&[Profile::Fast, Profile::Fast, Profile::Balanced]);
        spec.failover.read_fence = !rng.chance(2_500);
        spec.failover.max_lag_bytes = *rng.pick(&[2_560, 16 << 20]);
        let mut faults = Vec::new();
        for _ in 0..rng.within(1..6) {
            let fault = *rng.pick(&Fault::ALL);
            if !faults.iter().any(|(known, _)| *known == fault) {
                let often =
                    if matches!(fault, Fault::VolumeLost | Fault::VolumeRestored) { 1 } else { rng.within(1..5) };
                faults.push((fault, often as usize));
            }
        }
        if rng.chance(150) {
            faults = vec![(Fault::Stranger, 1)];
        }
        let calm = secs(6);
        let quiet = calm + secs(rng.within(20..50));
        let heals = rng.chance(5_000);
        Self {
            seed,
            spec,
            nodes,
            controllers: *rng.pick(&[1, 1, 2]),
            restores_primary: rng.chance(5_000),
            meddles: false,
            blames_lists: false,
            bare: false,
            proves: rng.chance(8_000),
            clients: (nodes + 1).min(4),
            patience: [secs(4); 2],
            think: ms(30)..ms(300),
            faults,
            calm,
            quiet,
            end: if heals { quiet + secs(60) } else { quiet + secs(8) },
            heals,
        }
    }

    /// Without what nobody promises to stand.
    fn made_possible(mut self) -> Self {
        let meets = |faults: &[(Fault, usize)], wanted: Fault| faults.iter().any(|(fault, _)| *fault == wanted);
        // One disk may be lost, not two.
        if meets(&self.faults, Fault::VolumeLost) {
            self.faults.retain(|(fault, _)| *fault != Fault::VolumeRestored);
        }
        // A snapshot stops the clocks that leases are read on: only what needs no clock is promised then.
        if meets(&self.faults, Fault::VmSnapshot) {
            self.faults.retain(|(fault, _)| *fault != Fault::SpecChange);
            if self.spec.durability == Durability::Async {
                self.faults.retain(|(fault, _)| *fault != Fault::VmSnapshot);
            } else {
                self.spec.failover.read_fence = false;
            }
        }
        if meets(&self.faults, Fault::Shrink) {
            self.spec.deletion = Deletion::Delete;
        }
        self
    }

    /// A run of that family in which the rule is missed sooner still: what seeds stand for is drawn without this.
    pub fn hunting(rule: &str, seed: u64) -> Self {
        let mut setup = Self::of(rule, seed);
        if rule == "R9" {
            setup.meddles = true;
            setup.faults = vec![(Fault::Switchover, 5), (Fault::VmCrash, 2)];
        }
        setup
    }

    /// A run of the family of seeds that a rule is missed in most.
    pub fn of(rule: &str, seed: u64) -> Self {
        let mut setup = Self::swarm(seed);
        family::adapt(&mut setup, rule);
        setup.made_possible()
    }

    /// Nodes that are worked by hand.
    pub fn bare(nodes: usize) -> Self {
        let calm = Self::calm(1, nodes, Durability::Quorum);
        Self { bare: true, controllers: 0, clients: 0, end: Time::MAX, ..calm }
    }

    /// A cluster that meets no fault.
    pub fn calm(seed: u64, nodes: usize, durability: Durability) -> Self {
        let mut setup = Self::draw(seed);
        setup.nodes = nodes;
        setup.spec.primary.nodes = u32::try_from(nodes).expect("a few");
        setup.spec.durability = durability;
        setup.spec.failover.profile = Profile::Balanced;
        setup.spec.failover.read_fence = true;
        setup.spec.failover.max_lag_bytes = 16 << 20;
        setup.controllers = 1;
        setup.faults.clear();
        setup.heals = true;
        setup.quiet = setup.calm + secs(20);
        setup.end = setup.quiet + secs(20);
        setup
    }
}

fn file() -> ClusterSpec {
    let text = "apiVersion: flypg/v1\nkind: PostgresCluster\nmetadata: { name: orders-db }\nspec:\n  organization: \
                personal\n  postgres: { version: 15 }\n  regions: { primary: { code: ord, nodes: 3 } }\n  machine: { \
                cpuKind: shared, cpus: 2, memory: 4GB }\n  storage: { size: 40GB }\n  durability: quorum\n";
    let mut clusters = spec::parse("simulated.yaml", text.as_bytes()).expect("the file is right");
    clusters.remove(0).value
}
