//! Families of seeds: clusters, clients and faults among which a certain rule matters most. Where nothing is drawn for a
//! rule, the whole swarm will do.

use flypg_core::spec::Durability;

use crate::setup::{Fault, Setup};
use crate::time::{ms, secs};

/// The rules whose families seeds are drawn from, beside the swarm. One more here, and every seed tells another story.
pub const FAMILIES: [&str; 18] = [
    "R2", "R3", "R4", "R6", "R7", "R8", "R9", "R11", "R12", "R13", "R14", "R15", "R16", "R17", "R18", "R20", "F1", "F2",
];

/// Makes a run of the swarm one of the family of `rule`.
pub fn adapt(setup: &mut Setup, rule: &str) {
    use Fault::*;
    let sync = Durability::Quorum;
    match rule {
        // Controllers that stop, and go on as if they still led.
        "R2" => {
            cluster(setup, 3, Durability::Async);
            (setup.controllers, setup.proves) = (2, false);
            setup.faults = vec![(ControllerPause, 5), (AgentPause, 3), (Partition, 3), (BadNet, 2)];
        }
        // Answers that are on their way while the lease ends, to clients who still wait for them.
        "R3" => {
            cluster(setup, 2 + setup.seed as usize % 2, Durability::Async);
            (setup.clients, setup.patience, setup.think) = (8, [secs(1), secs(60)], ms(5)..ms(40));
            setup.proves = false;
            setup.faults = vec![(AgentPause, 4), (VmPause, 3), (PostgresPause, 1), (SlowDisk, 2)];
        }
        // What is left of a Postgres writes on beside the next one.
        "R4" => {
            cluster(setup, 3, sync);
            setup.faults = vec![(PostgresCrash, 5), (SenderPause, 1), (Switchover, 1)];
        }
        // Standbys that lag behind what the others have acknowledged, while the primary goes.
        "R6" => {
            cluster(setup, 3 + setup.seed as usize % 2, sync);
            setup.faults = vec![(SenderPause, 4), (VmLost, 2), (OneWay, 2), (SlowDisk, 2)];
        }
        // A standby that lags by more than may be lost, while the primary goes for long.
        "R7" => {
            cluster(setup, 2, Durability::Async);
            setup.spec.failover.max_lag_bytes = 2_560;
            setup.think = ms(5)..ms(60);
            setup.faults = vec![(SenderPause, 5), (VmLost, 3), (SlowDisk, 1)];
        }
        // Timelines of the same number that are not the same.
        "R8" => {
            cluster(setup, 3, sync);
            setup.faults = vec![(VmCrash, 4), (Partition, 2), (AgentPause, 2), (PostgresCrash, 2)];
        }
        "R9" => {
            cluster(setup, 4 + setup.seed as usize % 2, sync);
            setup.faults = vec![(PromotedByHand, 5), (VmCrash, 2)];
        }
        // Rows that nobody was told of come up after a crash, are read, and the next primary lacks them.
        "R11" => {
            cluster(setup, 2 + setup.seed as usize % 2, sync);
            (setup.clients, setup.think) = (6, ms(5)..ms(60));
            setup.faults = vec![(PostgresCrash, 5), (Partition, 4), (OneWay, 4), (VmLost, 2)];
        }
        "R12" => {
            cluster(setup, 2 + setup.seed as usize % 2, sync);
            setup.faults = vec![(CancelWait, 2), (SenderPause, 3), (VmLost, 2), (Partition, 1)];
        }
        // Rules that change while walsenders know the old one only, and standbys are behind.
        "R13" => {
            cluster(setup, 3 + setup.seed as usize % 3, Durability::Async);
            setup.faults = vec![(SpecChange, 5), (SenderPause, 5), (SlowDisk, 2), (VmLost, 2), (OneWay, 2)];
        }
        // Whoever acknowledged loses what was not on disk, together with the primary.
        "R14" => {
            cluster(setup, 2, sync);
            setup.think = ms(5)..ms(60);
            setup.faults = vec![(PowerCut, 3), (SlowDisk, 5)];
        }
        // Data on a volume when the cluster begins.
        "R15" => setup.faults = vec![(Stranger, 1)],
        // Former primaries whose data went another way, and that end while they are rewound.
        "R16" => {
            cluster(setup, 3, Durability::Async);
            setup.spec.failover.max_lag_bytes = 16 << 20;
            setup.faults = vec![(VmCrash, 4), (VmPause, 2), (Partition, 2), (PostgresCrash, 2), (PowerCut, 1)];
        }
        "R17" => {
            cluster(setup, 3, sync);
            setup.restores_primary = setup.seed.is_multiple_of(2);
            setup.faults = vec![(VolumeRestored, 1), (AgentPause, 2), (VmCrash, 1)];
            if setup.seed % 3 == 2 {
                setup.faults = vec![(DataRestored, 1), (VmLost, 2), (SenderPause, 1)];
            }
        }
        // Standbys that are away for longer than WAL is kept for nobody.
        "R18" => {
            cluster(setup, 3, sync);
            setup.think = ms(5)..ms(60);
            setup.faults = vec![(VmLost, 3), (Partition, 2)];
        }
        // One node less, while another one leads than usual.
        "R20" => {
            cluster(setup, 3, sync);
            setup.faults = vec![(Shrink, 3), (Switchover, 5), (VmLost, 2), (VmCrash, 2), (HostUnreachable, 1)];
        }
        // The primary goes together with whoever acknowledged last.
        "F1" => {
            cluster(setup, 3, sync);
            setup.spec.failover.read_fence = setup.seed.is_multiple_of(2);
            setup.faults = vec![(VmLost, 4), (SenderPause, 4), (PowerCut, 1), (SlowDisk, 1)];
        }
        // A primary that nobody hears, and that answers.
        "F2" => {
            cluster(setup, 3, Durability::Async);
            setup.faults = vec![(Partition, 4), (OneWay, 4), (ControllerPause, 1)];
        }
        _ => {}
    }
}

fn cluster(setup: &mut Setup, nodes: usize, durability: Durability) {
    setup.nodes = nodes;
    setup.spec.primary.nodes = u32::try_from(nodes).expect("five at most");
    setup.spec.durability = durability;
    setup.spec.failover.read_fence = true;
    setup.clients = (nodes + 1).min(4);
}
