//! Where connections go, as far as this node was told.

use std::collections::BTreeSet;
use std::net::IpAddr;

use flypg_core::decree::Epoch;
use flypg_core::ledger::{Ledger, LedgerRole};
use flypg_core::names::NodeName;
use flypg_core::protocol::{PeerRole, Task, ports};
use tokio_util::sync::CancellationToken;

use crate::startup::Door;

/// What follows from the newest decree that this node knows.
#[derive(Debug, Clone)]
pub struct Routes {
    pub epoch: Epoch,
    pub primary: Option<Place>,
    /// Standbys that may be read from, nearest first.
    standbys: Vec<Place>,
    /// Whom this node's Postgres streams from.
    pub upstream: Option<(NodeName, IpAddr)>,
    /// Who may replicate from here.
    pub members: BTreeSet<IpAddr>,
    /// Cancelled when another node leads: connections to the one before are cut.
    pub primary_changes: CancellationToken,
    /// Cancelled when this node streams from elsewhere.
    pub upstream_changes: CancellationToken,
}

/// Where a session can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// This node's own Postgres.
    Here,
    /// The gate of another node.
    Gate(NodeName, IpAddr),
}

/// What this node's own Postgres can do now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Here {
    /// It answers, and has the roles that clients come with.
    pub open: bool,
    /// It is a standby that receives WAL.
    pub streams: bool,
}

impl Routes {
    /// No route at all: what a node has that was told nothing.
    pub fn none() -> Self {
        Self {
            epoch: Epoch::default(),
            primary: None,
            standbys: Vec::new(),
            upstream: None,
            members: BTreeSet::new(),
            primary_changes: CancellationToken::new(),
            upstream_changes: CancellationToken::new(),
        }
    }

    /// The routes after `ledger`; those before are told what has changed.
    pub fn next(&self, ledger: &Ledger) -> Self {
        let mut next = Self::from_ledger(ledger);
        if matches!(&ledger.assignment, Some(told) if matches!(told.task, Task::Recruit { .. })) {
            // Nobody else leads yet, and the gate of the one who did judges for itself whether it still may.
            next.primary = self.primary.clone().filter(|primary| *primary != Place::Here);
        }
        if next.primary == self.primary {
            next.primary_changes = self.primary_changes.clone();
        } else {
            self.primary_changes.cancel();
        }
        if next.upstream == self.upstream {
            next.upstream_changes = self.upstream_changes.clone();
        } else {
            self.upstream_changes.cancel();
        }
        next
    }

    fn from_ledger(ledger: &Ledger) -> Self {
        let Some(told) = &ledger.assignment else { return Self::none() };
        let me = &ledger.node;
        let at = |node: &NodeName| told.peers.iter().find(|peer| peer.node == *node).map(|peer| peer.address);
        let place = |node: &NodeName, address| match node == me {
            true => Place::Here,
            false => Place::Gate(node.clone(), address),
        };
        let primary = match &told.task {
            // The record names this node; what it says of peers is about others.
            Task::Bootstrap { .. }
            | Task::Promote { .. }
            | Task::Reaffirm { .. }
            | Task::Lead { .. }
            | Task::HandOver { .. } => Some(Place::Here),
            Task::Follow { primary, .. } => at(primary).map(|address| place(primary, address)),
            Task::Recruit { .. } => None,
        };
        let upstream = match &ledger.role {
            LedgerRole::Cloning { upstream, .. }
            | LedgerRole::Replica { upstream, .. }
            | LedgerRole::Rejoining { upstream, .. } => at(upstream).map(|address| (upstream.clone(), address)),
            // Whoever promised an epoch follows nobody below it (rule R5).
            LedgerRole::Recruited { .. }
            | LedgerRole::Promoting { .. }
            | LedgerRole::Primary { .. }
            | LedgerRole::Relinquished { .. }
            | LedgerRole::Initialising { .. }
            | LedgerRole::Blank => None,
        };
        let leads = matches!(
            ledger.role,
            LedgerRole::Primary { .. } | LedgerRole::Promoting { .. } | LedgerRole::Initialising { .. }
        );
        let standby = |peer: &&flypg_core::protocol::Peer| peer.role == PeerRole::Standby && peer.node != *me;
        Self {
            epoch: told.epoch,
            // A node that was told to lead and does not is not the way to a primary.
            primary: primary.filter(|primary| *primary != Place::Here || leads),
            standbys: told.peers.iter().filter(standby).map(|peer| place(&peer.node, peer.address)).collect(),
            upstream,
            members: told.peers.iter().map(|peer| peer.address).collect(),
            primary_changes: CancellationToken::new(),
            upstream_changes: CancellationToken::new(),
        }
    }

    /// The places to try for a connection through this door, best first.
    pub fn places(&self, door: Door, here: Here) -> Vec<Place> {
        let can = |place: &Place| *place != Place::Here || here.open;
        let primary = self.primary.iter().cloned();
        match door {
            Door::Node => vec![Place::Here].into_iter().filter(can).collect(),
            // Replicas are let in before there are roles for clients: who leads waits for them.
            Door::Replication => vec![Place::Here],
            Door::ReadWrite => primary.filter(can).collect(),
            Door::ReadOnly => {
                let own = here.streams.then_some(Place::Here);
                own.into_iter().chain(self.standbys.iter().cloned()).chain(primary).filter(can).collect()
            }
        }
    }

    /// Everybody who may have the session that a cancel request means.
    pub fn cancel_places(&self, door: Door) -> Vec<Place> {
        match door {
            Door::Node | Door::Replication => vec![Place::Here],
            Door::ReadWrite => self.primary.iter().cloned().collect(),
            Door::ReadOnly => {
                [Place::Here].into_iter().chain(self.standbys.iter().cloned()).chain(self.primary.clone()).collect()
            }
        }
    }
}

impl Place {
    /// The gate's port, where there is one.
    pub fn address(&self) -> Option<(IpAddr, u16)> {
        match self {
            Place::Here => None,
            Place::Gate(_, address) => Some((*address, ports::NODE)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use flypg_core::decree::SystemId;
    use flypg_core::failover::Lineage;
    use flypg_core::node::DataDir;
    use flypg_core::protocol::{Assignment, Peer};
    use flypg_core::spec::Profile;

    use super::*;

    fn follower(primary: &str) -> Ledger {
        let me: NodeName = "ord-2".parse().unwrap();
        let roles = [
            ("ord-2", PeerRole::Standby),
            ("ord-1", PeerRole::Primary),
            ("ord-3", PeerRole::Joining),
            ("ams-1", PeerRole::Standby),
        ];
        let peers = roles.iter().enumerate().map(|(n, (node, role))| Peer {
            node: node.parse().unwrap(),
            address: format!("127.0.0.{}", n + 1).parse().unwrap(),
            role: *role,
        });
        let told = Assignment {
            cluster: "orders-db".parse().unwrap(),
            node: me.clone(),
            epoch: Epoch(1),
            revision: 1,
            task: Task::Follow {
                primary: primary.parse().unwrap(),
                system_id: SystemId("7".to_owned()),
                lineage: Lineage::default(),
                remake: false,
            },
            peers: peers.collect(),
            profile: Profile::Balanced,
            parameters: BTreeMap::new(),
        };
        Ledger::blank("orders-db".parse().unwrap(), me, "m".to_owned()).accept(&told, &DataDir::Blank).unwrap()
    }

    #[test]
    fn each_door_leads_where_it_should() {
        let routes = Routes::none().next(&follower("ord-1"));
        let gate = |node: &str, ip: &str| Place::Gate(node.parse().unwrap(), ip.parse().unwrap());
        let primary = gate("ord-1", "127.0.0.2");
        let ams = gate("ams-1", "127.0.0.4");
        let up = Here { open: true, streams: true };
        assert_eq!(routes.places(Door::ReadWrite, Here::default()), std::slice::from_ref(&primary));
        assert_eq!(routes.places(Door::ReadOnly, up), [Place::Here, ams.clone(), primary.clone()]);
        assert_eq!(routes.places(Door::ReadOnly, Here { open: true, streams: false }), [ams, primary]);
        assert_eq!(routes.places(Door::Node, up), [Place::Here]);
        assert_eq!(routes.places(Door::Node, Here::default()), []);
        assert_eq!(routes.members.len(), 4);
    }

    #[test]
    fn only_a_change_of_primary_cuts() {
        let first = Routes::none().next(&follower("ord-1"));
        let same = first.next(&follower("ord-1"));
        assert!(!first.primary_changes.is_cancelled() && !first.upstream_changes.is_cancelled());
        let other = same.next(&follower("ord-3"));
        assert!(first.primary_changes.is_cancelled() && first.upstream_changes.is_cancelled());
        assert!(!other.primary_changes.is_cancelled());
    }
}
