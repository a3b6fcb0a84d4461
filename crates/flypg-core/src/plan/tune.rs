//! Changes that disturb nobody: metadata and snapshot policies. And what this version cannot change yet.

use std::collections::BTreeMap;

use crate::decree::{Decree, Stage};
use crate::observed::metadata;
use crate::plan::draft::Draft;
use crate::plan::{Action, Field, Until, Why, Work, World};
use crate::protocol::env;

/// Role and epoch as DNS and people see them.
pub(super) fn metadata(draft: &mut Draft, world: &World<'_>) {
    // Not while somebody takes over: that comes first, and this waits for the platform.
    let settled = |decree: &&Decree| matches!(decree.stage, Stage::Established) && !decree.is_electing();
    let Some(decree) = world.decree.filter(settled) else { return };
    for name in &world.membership.staying {
        let Some(machine) = world.census.get(name).and_then(|n| n.machine) else { continue };
        let Some(config) = &machine.config else { continue };
        let role = if decree.primary == *name { "primary" } else { "replica" };
        let wanted = [(metadata::ROLE, role.to_owned()), (metadata::EPOCH, decree.reign.to_string())];
        let changed: BTreeMap<String, String> = wanted
            .into_iter()
            .filter(|(key, value)| config.metadata.get(*key) != Some(value))
            .map(|(key, value)| (key.to_owned(), value))
            .collect();
        if !changed.is_empty() {
            let action = Action::SetMetadata {
                app: world.spec.name.clone(),
                node: name.clone(),
                machine: machine.id.clone(),
                metadata: changed,
            };
            draft.step(action, Why::RoleChanged);
        }
    }
}

pub(super) fn snapshots(draft: &mut Draft, world: &World<'_>) {
    for name in &world.membership.staying {
        let volumes = world.census.get(name).map_or(&[][..], |n| &n.volumes);
        for volume in volumes.iter().filter(|v| v.host_ok && v.snapshots != world.spec.storage.snapshots) {
            let action = Action::SetSnapshotPolicy {
                app: world.spec.name.clone(),
                node: name.clone(),
                volume: volume.id.clone(),
                snapshots: world.spec.storage.snapshots,
            };
            draft.step(action, Why::FileChanged);
        }
    }
}

/// A difference that is seen and cannot be put right on a running cluster by this version: told, never ignored.
pub(super) fn unsupported(draft: &mut Draft, world: &World<'_>) {
    let spec = world.spec;
    if let Some(decree) = world.decree.filter(|d| d.primary.region != spec.primary.code) {
        let (from, to) = (decree.primary.region.to_string(), spec.primary.code.to_string());
        let work = Work::Change { node: decree.primary.clone(), field: Field::PrimaryRegion };
        draft.hold(work, Until::Supported { from, to });
    }
    for name in &world.membership.staying {
        let Some(node) = world.census.get(name) else { continue };
        let mut differs = |field, from: String, to: String| {
            if from != to {
                draft.hold(Work::Change { node: name.clone(), field }, Until::Supported { from, to });
            }
        };
        if let Some(config) = node.machine.and_then(|m| m.config.as_ref()) {
            let major = config.env.get(env::POSTGRES_MAJOR).cloned().unwrap_or_default();
            let wanted = spec.postgres.major.to_string();
            if major != wanted {
                differs(Field::PostgresVersion, major, wanted);
            } else {
                differs(Field::Image, config.image.clone(), spec.postgres.image());
            }
            let guest = config.guest.as_ref().map_or_else(|| "unknown".to_owned(), |g| g.to_string());
            differs(Field::Machine, guest, spec.guest.to_string());
        }
        if let Some(volume) = node.volumes.first() {
            differs(Field::StorageSize, format!("{}GB", volume.size_gb), format!("{}GB", spec.storage.size_gb));
        }
    }
}
