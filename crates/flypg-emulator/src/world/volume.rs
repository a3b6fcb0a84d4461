//! Volumes: create, restore, fork, extend, claims, and the slow way out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::hosts::{self, Room};
use super::machine::MachineState;
use super::refusal::Refusal;
use super::shared::Shared;
use super::snapshot::{Snapshot, SnapshotStatus};
use super::time::Millis;
use super::{Due, Effect, Source, World};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    pub id: String,
    pub name: String,
    pub state: VolumeState,
    pub size_gb: u64,
    pub region: String,
    pub host: String,
    pub zone: String,
    pub encrypted: bool,
    pub fstype: String,
    pub created_at: Millis,
    pub updated_at: Millis,
    pub snapshot_retention: u64,
    pub auto_backup: bool,
    /// The machine that holds it.
    pub claim: Option<String>,
    /// Its last machine is gone, yet the claim is not given up before this.
    pub claim_lingers_until: Option<Millis>,
    /// Where content still has to come from.
    pub filling: Option<Source>,
    /// Bytes in use, as last measured.
    pub bytes_used: u64,
    /// Whether a machine has mounted it, so that block counters are known.
    pub mounted_once: bool,
    /// When `state` moves on by itself.
    pub state_until: Option<Millis>,
    pub next_auto_snapshot: Option<Millis>,
    pub snapshots: BTreeMap<String, Snapshot>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeState {
    Creating,
    Created,
    Restoring,
    EnablingRemoteExport,
    Hydrating,
    SchedulingDestroy,
    PendingDestroy,
    /// Gone; kept only while snapshots of it can be restored.
    Destroyed,
}

impl VolumeState {
    /// As `state` says it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Restoring => "restoring",
            Self::EnablingRemoteExport => "enabling_remote_export",
            Self::Hydrating => "hydrating",
            Self::SchedulingDestroy => "scheduling_destroy",
            Self::PendingDestroy => "pending_destroy",
            Self::Destroyed => "destroyed",
        }
    }

    /// Whether it has been deleted.
    #[must_use]
    pub const fn leaving(self) -> bool {
        matches!(self, Self::SchedulingDestroy | Self::PendingDestroy | Self::Destroyed)
    }
}

/// The body of `POST …/volumes`.
#[derive(Clone, Debug, Default)]
pub struct CreateVolume {
    pub name: String,
    pub region: Option<String>,
    pub size_gb: Option<u64>,
    pub encrypted: Option<bool>,
    pub fstype: Option<String>,
    pub require_unique_zone: Option<bool>,
    pub unique_zone_app_wide: Option<bool>,
    pub snapshot_retention: Option<u64>,
    pub auto_backup: Option<bool>,
    pub snapshot_id: Option<String>,
    pub source_volume_id: Option<String>,
    /// The guest that will use it: placed where that fits.
    pub compute: Room,
}

const DEFAULT_SIZE_GB: u64 = 3;
const MAX_SIZE_GB: u64 = 500;
const DEFAULT_RETENTION_DAYS: u64 = 5;
const GB: u64 = 1 << 30;

fn check_retention(days: u64) -> Result<u64, Refusal> {
    match days {
        1..=60 => Ok(days),
        _ => Err(Refusal::invalid("snapshot_retention must be inside range [1, 60]")),
    }
}

fn volume_name_ok(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=30).contains(&name.len()) && name.chars().all(allowed)
}

impl World {
    /// The volume as a client may see it; deleted ones stay visible until they are gone.
    ///
    /// # Errors
    /// 404.
    pub fn volume(&self, app: &str, id: &str) -> Result<&Shared<Volume>, Refusal> {
        let volume = self.app(app)?.volumes.get(id);
        volume.filter(|volume| volume.state != VolumeState::Destroyed).ok_or_else(Refusal::volume_not_found)
    }

    /// Creates an empty volume, restores a snapshot, or forks a volume.
    ///
    /// # Errors
    /// 400 for the body, 404 for app or source, 409 for capacity, 422 for a size below the source's or an unfinished
    /// snapshot.
    pub fn create_volume(&mut self, now: Millis, app: &str, create: CreateVolume) -> Result<Shared<Volume>, Refusal> {
        let record = self.app(app)?.clone();
        if !volume_name_ok(&create.name) {
            let text = "volume name must be 1 to 30 characters of letters, digits and underscores";
            return Err(Refusal::invalid(text));
        }
        let fstype = create.fstype.filter(|fstype| !fstype.is_empty()).unwrap_or_else(|| "ext4".to_owned());
        if !matches!(fstype.as_str(), "ext4" | "raw") {
            return Err(Refusal::invalid(&format!("unknown fstype '{fstype}'")));
        }
        let retention = check_retention(create.snapshot_retention.unwrap_or(DEFAULT_RETENTION_DAYS))?;
        let source = self.source_of(&create.snapshot_id, &create.source_volume_id, &record.org, app)?;
        let least = source.as_ref().map_or(1, |source| source.size_gb);
        let default = if source.is_some() { least } else { DEFAULT_SIZE_GB };
        let size_gb = create.size_gb.filter(|size| *size > 0).unwrap_or(default);
        if size_gb > MAX_SIZE_GB {
            return Err(Refusal::invalid(&format!("size_gb must be inside range [1, {MAX_SIZE_GB}]")));
        }
        if size_gb < least {
            return Err(Refusal::too_small(&size_gb.to_string(), &least.to_string()));
        }
        let expression = match (&create.region, &source) {
            (Some(region), _) if !region.is_empty() => region.clone(),
            (_, Some(source)) => source.region.clone(),
            _ => String::new(),
        };
        let app_wide = create.unique_zone_app_wide.unwrap_or(false);
        let unique = app_wide || create.require_unique_zone.unwrap_or(true);
        let mut taken: Vec<&str> = record
            .volumes
            .values()
            .filter(|volume| !volume.state.leaving() && unique && (app_wide || volume.name == create.name))
            .map(|volume| volume.host.as_str())
            .collect();
        let fork_host =
            source.as_ref().filter(|source| matches!(source.from, Source::Volume(_))).map(|s| s.host.clone());
        taken.extend(fork_host.as_deref());
        let need = Room { volume_gb: size_gb, ..create.compute };
        let (region, host) = self.place_volume(&expression, need, &taken)?;
        // Holding on to the record would make the edit below copy the whole app.
        drop(record);
        let room = Room { volume_gb: size_gb, ..Room::default() };
        self.hosts.take(&host, room);
        let state = match source.as_ref().map(|source| &source.from) {
            None => VolumeState::Created,
            Some(Source::Snapshot(_)) => VolumeState::Restoring,
            Some(Source::Volume(_)) => VolumeState::Hydrating,
        };
        let auto_backup = create.auto_backup.unwrap_or(true);
        let id = self.ids.volume();
        let filling = source.map(|source| source.from);
        let volume = Volume {
            id: id.clone(),
            name: create.name,
            state,
            size_gb,
            zone: self.hosts.get(&host).map_or_else(String::new, |host| host.zone.clone()),
            region,
            host,
            encrypted: create.encrypted.unwrap_or(true),
            fstype,
            created_at: now,
            updated_at: now,
            snapshot_retention: retention,
            auto_backup,
            claim: None,
            claim_lingers_until: None,
            filling: filling.clone(),
            bytes_used: 0,
            mounted_once: false,
            state_until: filling.is_some().then(|| now.after(self.knobs.restore_ms)),
            next_auto_snapshot: auto_backup.then(|| now.after(self.knobs.snapshot_every_ms)),
            snapshots: BTreeMap::new(),
        };
        let answer = Shared::new(volume);
        self.edit_app(app)?.volumes.insert(id.clone(), answer.clone());
        self.effects.push(Effect::MakeVolume { volume: id.clone() });
        if let Some(from) = filling {
            self.effects.push(Effect::FillVolume { app: app.to_owned(), volume: id.clone(), from });
        }
        self.remind_volume(app, &id);
        Ok(answer)
    }

    fn source_of(
        &self,
        snapshot: &Option<String>,
        volume: &Option<String>,
        org: &str,
        app: &str,
    ) -> Result<Option<VolumeSource>, Refusal> {
        if let Some(id) = snapshot.as_ref().filter(|id| !id.is_empty()) {
            // A snapshot may be restored into another app of the organisation, and after its volume was deleted.
            let apps = self.apps.values().filter(|record| record.org == org);
            let found = apps.flat_map(|record| record.volumes.values()).find_map(|v| Some((v, v.snapshots.get(id)?)));
            let (volume, snapshot) = found.ok_or_else(Refusal::snapshot_not_found)?;
            if snapshot.status != SnapshotStatus::Created {
                return Err(Refusal::snapshot_unfinished(id));
            }
            return Ok(Some(VolumeSource {
                from: Source::Snapshot(id.clone()),
                size_gb: snapshot.volume_gb,
                region: volume.region.clone(),
                host: String::new(),
            }));
        }
        let Some(id) = volume.as_ref().filter(|id| !id.is_empty()) else { return Ok(None) };
        let source = self.volume(app, id)?;
        if !self.hosts.reachable(&source.host) {
            return Err(Refusal::host_unreachable());
        }
        Ok(Some(VolumeSource {
            from: Source::Volume(id.clone()),
            size_gb: source.size_gb,
            region: source.region.clone(),
            host: source.host.clone(),
        }))
    }

    /// Where a machine that mounts `id` has to live.
    ///
    /// # Errors
    /// 404, 400 for another region, 412 when it is claimed, leaving, or its host is full.
    pub(crate) fn claimable(
        &self,
        now: Millis,
        app: &str,
        id: &str,
        regions: &str,
        need: Room,
    ) -> Result<(String, String), Refusal> {
        let volume = self.volume(app, id)?;
        if let Some(holder) = &volume.claim {
            return Err(Refusal::volume_claimed(holder));
        }
        if volume.claim_lingers_until.is_some_and(|until| until > now) {
            return Err(Refusal::volume_claimed(&"\0".repeat(14)));
        }
        if volume.state.leaving() {
            return Err(Refusal::volume_going(id));
        }
        if !regions.is_empty() && !self.regions_of(regions)?.contains(&volume.region.as_str()) {
            return Err(Refusal::invalid(&format!("volume {id} is in region {}, not in {regions}", volume.region)));
        }
        let host = self.hosts.get(&volume.host).ok_or_else(Refusal::no_region_capacity)?;
        if hosts::fits(&self.knobs, host, need).is_err() {
            return Err(Refusal::no_volume_host_capacity(id));
        }
        Ok((volume.region.clone(), volume.host.clone()))
    }

    /// # Errors
    /// 400, 404.
    pub fn update_volume(
        &mut self,
        now: Millis,
        app: &str,
        id: &str,
        retention: Option<u64>,
        auto_backup: Option<bool>,
    ) -> Result<Shared<Volume>, Refusal> {
        self.volume(app, id)?;
        let retention = retention.map(check_retention).transpose()?;
        let every_ms = self.knobs.snapshot_every_ms;
        let volume = self.edit_volume(app, id)?;
        if let Some(days) = retention {
            volume.snapshot_retention = days;
        }
        if let Some(on) = auto_backup.filter(|on| *on != volume.auto_backup) {
            volume.auto_backup = on;
            volume.next_auto_snapshot = on.then(|| now.after(every_ms));
        }
        volume.updated_at = now;
        self.remind_volume(app, id);
        self.volume(app, id).cloned()
    }

    /// Grows a volume to `size_gb`; true if its machine has to restart to see it.
    ///
    /// # Errors
    /// 400, 404, 409 for capacity, 412 for a volume that is leaving, 422 for a shrink.
    pub fn extend_volume(
        &mut self,
        now: Millis,
        app: &str,
        id: &str,
        size_gb: u64,
    ) -> Result<(Shared<Volume>, bool), Refusal> {
        let volume = self.volume(app, id)?.clone();
        if volume.state.leaving() {
            return Err(Refusal::volume_going(id));
        }
        if size_gb > MAX_SIZE_GB {
            return Err(Refusal::invalid(&format!("size_gb must be inside range [1, {MAX_SIZE_GB}]")));
        }
        if size_gb < volume.size_gb {
            return Err(Refusal::too_small(&size_gb.to_string(), &volume.size_gb.to_string()));
        }
        let more = Room { volume_gb: size_gb - volume.size_gb, ..Room::default() };
        let host = self.hosts.get(&volume.host).filter(|_| more.volume_gb > 0);
        if host.is_some_and(|host| hosts::fits(&self.knobs, host, more).is_err()) {
            return Err(Refusal::no_volume_capacity());
        }
        self.hosts.take(&volume.host, more);
        let edit = self.edit_volume(app, id)?;
        edit.size_gb = size_gb;
        edit.updated_at = now;
        // File systems grow online here; Fly's sample answers the same.
        Ok((self.volume(app, id)?.clone(), false))
    }

    /// Deletes a volume softly.
    ///
    /// # Errors
    /// 404, 412 while a machine holds it.
    pub fn delete_volume(&mut self, now: Millis, app: &str, id: &str) -> Result<Shared<Volume>, Refusal> {
        let volume = self.volume(app, id)?.clone();
        if let Some(holder) = &volume.claim {
            return Err(Refusal::volume_bound(holder));
        }
        if !volume.state.leaving() {
            let until = now.after(self.knobs.volume_scheduling_ms);
            let edit = self.edit_volume(app, id)?;
            edit.state = VolumeState::SchedulingDestroy;
            edit.state_until = Some(until);
            edit.next_auto_snapshot = None;
            edit.updated_at = now;
            self.remind_volume(app, id);
        }
        self.volume(app, id).cloned()
    }

    /// Puts the next thing due on a volume on the agenda.
    pub(crate) fn remind_volume(&mut self, app: &str, id: &str) {
        let Some(volume) = self.apps.get(app).and_then(|app| app.volumes.get(id)) else { return };
        let due = volume.state_until.into_iter().chain(volume.next_auto_snapshot).min();
        if let Some(at) = due {
            self.set_due(at, Due::Volume(app.to_owned(), id.to_owned()));
        }
    }

    pub(crate) fn resume_volume(&mut self, app: &str, volume: &Shared<Volume>) {
        if volume.state != VolumeState::Destroyed {
            self.hosts.take(&volume.host, Room { volume_gb: volume.size_gb, ..Room::default() });
            self.effects.push(Effect::MakeVolume { volume: volume.id.clone() });
        }
        if let Some(from) = &volume.filling {
            let (app, volume, from) = (app.to_owned(), volume.id.clone(), from.clone());
            self.effects.push(Effect::FillVolume { app, volume, from });
        }
        self.remind_volume(app, &volume.id);
        for snapshot in volume.snapshots.values() {
            self.resume_snapshot(app, &volume.id, snapshot);
        }
    }

    pub(crate) fn volume_due(&mut self, now: Millis, app: &str, id: &str) {
        let Some(volume) = self.apps.get(app).and_then(|app| app.volumes.get(id)).cloned() else { return };
        if volume.next_auto_snapshot.is_some_and(|at| at <= now) {
            let next = now.after(self.knobs.snapshot_every_ms);
            if let Ok(edit) = self.edit_volume(app, id) {
                edit.next_auto_snapshot = Some(next);
            }
            if let Err(refusal) = self.take_snapshot(now, app, id) {
                tracing::debug!(app, id, %refusal, "automatic snapshot left out");
            }
        }
        if volume.state_until.is_some_and(|at| at <= now) {
            self.volume_moves_on(now, app, id, &volume);
        }
        self.remind_volume(app, id);
    }

    fn volume_moves_on(&mut self, now: Millis, app: &str, id: &str, volume: &Volume) {
        let (pending_ms, reachable) = (self.knobs.volume_pending_ms, self.hosts.reachable(&volume.host));
        let Ok(edit) = self.edit_volume(app, id) else { return };
        edit.updated_at = now;
        match volume.state {
            VolumeState::SchedulingDestroy => {
                edit.state = VolumeState::PendingDestroy;
                edit.state_until = Some(now.after(pending_ms));
            }
            // On a dead host it stays until the host is back.
            VolumeState::PendingDestroy if !reachable => edit.state_until = Some(now.after(1000)),
            VolumeState::PendingDestroy => {
                edit.state = VolumeState::Destroyed;
                edit.state_until = None;
                self.drop_volume(volume);
                self.forget_empty_volume(app, id);
            }
            _ => {
                edit.state_until = None;
                if edit.filling.is_none() {
                    edit.state = VolumeState::Created;
                }
            }
        }
    }

    pub(crate) fn drop_volume(&mut self, volume: &Volume) {
        self.hosts.give_back(&volume.host, Room { volume_gb: volume.size_gb, ..Room::default() });
        self.effects.push(Effect::DropVolume { volume: volume.id.clone() });
    }

    /// Removes the record of a destroyed volume once none of its snapshots is left.
    pub(crate) fn forget_empty_volume(&mut self, app: &str, id: &str) {
        let Ok(app) = self.edit_app(app) else { return };
        let empty = |volume: &Shared<Volume>| volume.state == VolumeState::Destroyed && volume.snapshots.is_empty();
        if app.volumes.get(id).is_some_and(empty) {
            app.volumes.remove(id);
        }
    }

    pub(crate) fn on_volume_filled(&mut self, now: Millis, app: &str, id: &str) {
        let Ok(volume) = self.edit_volume(app, id) else { return };
        volume.filling = None;
        if volume.state_until.is_none() && !volume.state.leaving() {
            volume.state = VolumeState::Created;
        }
        let waiting = volume.claim.clone();
        if let Some(machine) =
            waiting.filter(|id| self.peek(app, id).is_some_and(|m| m.state == MachineState::Starting))
        {
            self.settle(now, app, &machine);
        }
    }

    /// Size in bytes.
    #[must_use]
    pub const fn volume_bytes(volume: &Volume) -> u64 {
        volume.size_gb * GB
    }
}

struct VolumeSource {
    from: Source,
    size_gb: u64,
    region: String,
    host: String,
}
