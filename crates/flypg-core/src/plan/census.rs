//! Everything that exists of a cluster, node by node, and which nodes are wanted.

use std::collections::{BTreeMap, BTreeSet};

use crate::decree::Decree;
use crate::names::{NodeName, Region};
use crate::observed::{Machine, Power, Seen, Unknown, Volume};
use crate::protocol::{NodeReport, PgReport, PgRole, Phase};
use crate::settings;
use crate::spec::{ClusterSpec, RegionSpec};

/// One node, as far as it exists.
#[derive(Debug, Default)]
pub(super) struct Node<'a> {
    pub(super) machine: Option<&'a Machine>,
    /// Volumes with this node's name: the mounted one first, then the oldest.
    pub(super) volumes: Vec<&'a Volume>,
    report: Option<&'a Seen<NodeReport>>,
}

impl<'a> Node<'a> {
    pub(super) fn report(&self) -> Option<&'a NodeReport> {
        self.report.and_then(Seen::known)
    }

    /// Why there is no report, in words of whoever tried.
    pub(super) fn silence(&self) -> Option<String> {
        match self.report?.why_unknown()? {
            Unknown::NoAnswer { error } | Unknown::Forbidden { error } => Some(error.clone()),
            Unknown::NotLooked | Unknown::Changing => None,
        }
    }

    /// Its agent answers, and not to us.
    pub(super) fn rejects_our_key(&self) -> bool {
        matches!(self.report, Some(Seen::Unknown { why: Unknown::Forbidden { .. } }))
    }

    /// Postgres, if it runs and has reached consistency.
    pub(super) fn running(&self) -> Option<&'a PgReport> {
        let report = self.report()?;
        matches!(report.phase, Phase::Running).then_some(report.postgres.as_ref()).flatten()
    }

    /// True if Postgres has read these parameters of a person's, whether or not some wait for a restart.
    pub(super) fn has_read(&self, parameters: &BTreeMap<String, String>) -> bool {
        self.running().is_some_and(|pg| pg.settings == settings::digest(parameters))
    }

    pub(super) fn leads(&self) -> bool {
        self.running().is_some_and(|pg| matches!(pg.role, PgRole::Primary { .. }))
    }

    /// It leads, and what it has is as safe as its rule makes it.
    pub(super) fn is_sure(&self) -> bool {
        self.leads() && self.report().and_then(NodeReport::leading).is_some_and(|leading| leading.confirmed)
    }

    /// True if it is a standby that streams from `primary` now.
    pub(super) fn streams_from(&self, primary: &NodeName) -> bool {
        self.running()
            .is_some_and(|pg| matches!(&pg.role, PgRole::Standby { streaming_from: Some(from), .. } if from == primary))
    }

    /// The volume that a Machine made for this node now would mount.
    pub(super) fn free_volume(&self) -> Option<&'a Volume> {
        self.volumes.iter().copied().find(|v| v.attached_to.is_none())
    }
}

/// All nodes, by name, and what is in the way.
#[derive(Debug)]
pub(super) struct Census<'a> {
    pub(super) nodes: BTreeMap<NodeName, Node<'a>>,
    /// Machines that have the form of a node's name but are not ours: name → Machine id.
    pub(super) name_taken: BTreeMap<NodeName, String>,
    /// Machines in the app that are not ours at all.
    pub(super) foreign: usize,
}

impl<'a> Census<'a> {
    pub(super) fn take(
        spec: &ClusterSpec,
        machines: &'a [Machine],
        volumes: &'a [Volume],
        reports: &'a BTreeMap<String, Seen<NodeReport>>,
    ) -> Self {
        let mut census = Census { nodes: BTreeMap::new(), name_taken: BTreeMap::new(), foreign: 0 };
        for machine in machines {
            match machine.node_of(&spec.name) {
                Some(name) => {
                    let node = census.nodes.entry(name.clone()).or_default();
                    if node.machine.is_some_and(|m| m.power != Power::Destroying) {
                        // Two Machines that both say they are this node: names are unique in an app, so one of them
                        // carries copied metadata. It is in the way, and neither ours to use nor to remove.
                        census.name_taken.insert(name, machine.id.clone());
                        continue;
                    }
                    node.machine = Some(machine);
                    node.report = reports.get(&machine.id);
                }
                None => {
                    census.foreign += 1;
                    if let Ok(name) = machine.name.parse() {
                        census.name_taken.insert(name, machine.id.clone());
                    }
                }
            }
        }
        for volume in volumes {
            if let Some(name) = volume.node() {
                census.nodes.entry(name).or_default().volumes.push(volume);
            }
        }
        for node in census.nodes.values_mut() {
            let mounted = node.machine.and_then(|m| m.config.as_ref()).and_then(|c| c.volume.as_deref());
            node.volumes.sort_by(|a, b| {
                let key = |v: &Volume| Some(v.id.as_str()) != mounted;
                key(a).cmp(&key(b)).then_with(|| (&a.created_at, &a.id).cmp(&(&b.created_at, &b.id)))
            });
        }
        census
    }

    pub(super) fn get(&self, name: &NodeName) -> Option<&Node<'a>> {
        self.nodes.get(name)
    }

    /// Nodes that have a Machine, in order of name.
    pub(super) fn with_machine(&self) -> impl Iterator<Item = (&NodeName, &Node<'a>, &'a Machine)> {
        self.nodes.iter().filter_map(|(name, node)| Some((name, node, node.machine?)))
    }
}

/// Which nodes there shall be.
#[derive(Debug, Default)]
pub(super) struct Membership {
    /// Nodes that exist and stay.
    pub(super) staying: BTreeSet<NodeName>,
    /// Nodes to be made, each with how many its region has and wants.
    pub(super) joining: BTreeMap<NodeName, (u32, u32)>,
    /// Nodes to be removed, in the order in which they go; with how many their region has and wants.
    pub(super) leaving: Vec<(NodeName, u32, u32)>,
}

impl Membership {
    pub(super) fn of(spec: &ClusterSpec, census: &Census<'_>, record: Option<&Decree>) -> Self {
        let mut membership = Membership::default();
        for group in spec.regions() {
            membership.fill(group, census, record);
        }
        let wanted: BTreeSet<&Region> = spec.regions().map(|g| &g.code).collect();
        let mut strays: Vec<_> = census
            .with_machine()
            .filter(|(name, ..)| !wanted.contains(&name.region))
            .map(|(name, ..)| name.clone())
            .collect();
        strays.reverse();
        let have = |region: &Region| strays.iter().filter(|n| n.region == *region).count() as u32;
        membership.leaving.extend(strays.iter().map(|name| (name.clone(), have(&name.region), 0)));
        membership
    }

    /// The leader stays first, then low ordinals; what is missing takes the ordinals of members on record, the leader's
    /// own before any other, so that their volumes find them again, and then the lowest that are free.
    fn fill(&mut self, group: &RegionSpec, census: &Census<'_>, record: Option<&Decree>) {
        let leads = |name: &NodeName| record.is_some_and(|record| record.primary == *name);
        let mut existing: Vec<&NodeName> =
            census.with_machine().map(|(name, ..)| name).filter(|n| n.region == group.code).collect();
        existing.sort_by_key(|name| (!leads(name), name.ordinal));
        let have = existing.len() as u32;
        let keep = existing.len().min(group.nodes as usize);
        self.staying.extend(existing[..keep].iter().map(|n| (*n).clone()));
        self.leaving.extend(existing[keep..].iter().rev().map(|n| ((*n).clone(), have, group.nodes)));

        let recorded =
            record.into_iter().flat_map(|record| std::iter::once(&record.primary).chain(record.members.keys()));
        let mut own: Vec<u32> = recorded.filter(|name| name.region == group.code).map(|name| name.ordinal).collect();
        let mut seen = BTreeSet::new();
        own.retain(|ordinal| seen.insert(*ordinal));
        let ordinals = own.iter().copied().chain((1..).filter(|ordinal| !seen.contains(ordinal)));
        let free = ordinals
            .map(|ordinal| NodeName::new(group.code.clone(), ordinal))
            .filter(|name| !existing.contains(&name) && !census.name_taken.contains_key(name));
        self.joining.extend(free.take(group.nodes as usize - keep).map(|name| (name, (have, group.nodes))));
    }

    pub(super) fn wants(&self, name: &NodeName) -> bool {
        self.staying.contains(name) || self.joining.contains_key(name)
    }
}
